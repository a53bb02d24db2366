"""An origin, asked for pages and files as its policy leaves them. Its refusals, absences and wrong bytes are final; nothing is judged anew.

A node of ours is asked with more patience than a registry, since it may be at work for us: it waits for the registry itself, within the
registry's bounds. But a node that hangs must not cost that patience. So when an answer is a second late, somebody *knocks*: a ``ping`` on
a connection of its own. Who answers within a second is at work, and is waited for; who does not hangs: the breaker opens, and all
who wait go on to the next source, two seconds after they asked. The knocking is done by ``run``, for all who wait at once. Who is late, or
does not answer the knock, has those knocked on too that would be asked next (``introduce``): where several hang, all are known to after the
same two seconds.

Read ``link.py`` first; ``failures.py``, ``breaker.py`` and ``answers.py`` are shared with the registries.
"""

from __future__ import annotations

import hashlib
import logging
import math
import random
import re
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import ClassVar, Literal, Self
from urllib.parse import quote

import msgspec
import trio

from ..api import wire
from ..errors import Corrupt, NotFound, Refused, Unavailable
from ..model import Clock, Entry, File, Hold, Page, Refuse, Relay, Stamp
from . import Absent, FileHead, FileStream, Known, NotModified, Received, RefusedPage, Relayed
from . import Answer as PageAnswer
from .answers import Answer, Trial, file_head, read_page, told_digests
from .breaker import Breaker
from .failures import Failed
from .link import STALL_S, Link
from .retries import retry_after_s

log = logging.getLogger(__name__)

type Kind = Literal["page", "file"]
KINDS: tuple[Kind, ...] = ("page", "file")

PATIENCE_S = 30.0
"""How long a node that is at work is waited for, unless told otherwise."""

DIRECT_PATIENCE_S = 4.0
"""The same where the registries are asked afterwards: all sources together keep within ten seconds."""

LATE_S = 1.0
"""An answer that has not come by then makes somebody knock …"""

KNOCK_S = 0.9
"""… and this is how long that may take: connection, handshake and answer."""

KNOCK_AGAIN_S = 5.0
"""How often it is repeated while somebody waits."""

PROBE_PATIENCE_S = 1.0
"""How long after a breaker may be probed that is left to a real request."""

QUEUE_S = 5.0
"""How long one of our own places is waited for."""

PAGE_S = 30.0
PAGE_LIMIT_BYTES = 120 * 1000 * 1000
RELAY_LIMIT_BYTES = 16 * 1000 * 1000
PROBLEM_LIMIT_BYTES = 256 * 1024
FILE_LIMIT_BYTES = 16 * 1000 * 1000 * 1000

LARGE_BYTES = 256 * 1024
"""Pages beyond this are taken apart in a worker thread."""

_CACHE = re.compile(r"(?<![\w-])leeward(?=\s*(?:;|,|$))")


class _Problem(msgspec.Struct):
    """What an error's document tells of it."""

    detail: str = ""
    rule: str = ""
    reason: str = ""
    until: float | None = None


_PROBLEM = msgspec.json.Decoder(_Problem)
_EXISTENCE = msgspec.json.Decoder(wire.Existence)


class _Watch:
    """Somebody waits while the block lasts, until ``until`` at most (trio's clock); among ``all``, in case that it is in vain.

    ``since`` is when anything last came for him. Leaves the block early if nothing will come; then ``is_over`` is set.
    """

    __slots__ = ("_all", "is_over", "is_vain", "scope", "since")

    def __init__(self, all: dict[_Watch, None], until: float) -> None:  # noqa: A002 -- it is what they are
        self._all = all
        self.scope = trio.CancelScope(deadline=until)
        self.since = trio.current_time()
        self.is_vain = self.is_over = False

    def __enter__(self) -> Self:
        self._all[self] = None
        self.scope.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        del self._all[self]
        swallowed = self.scope.__exit__(kind, error, trace) or False
        self.is_over = self.scope.cancelled_caught
        return swallowed

    def end(self) -> None:
        """Nothing will come."""
        self.is_vain = True
        self.scope.cancel()


@dataclass(slots=True)
class _Line:
    """Requests of one kind: the breaker, our own places, and until when we were told to wait."""

    breaker: Breaker
    places: trio.Semaphore
    paused_until: float = -1.0


class RemoteSource:
    """A ``Source`` over one node. Run ``run`` in a nursery: until its first knock was heard nothing is ``available``.

    ``registries`` are the instances that are asked about there. ``patience_s`` bounds the wait for the head of an answer.
    """

    NAME: ClassVar[str] = "origin"
    UNKNOWN: ClassVar[str] = "does not know this edge any more: `origin invite` it there, and `edge enrol` it here again"

    def __init__(
        self,
        link: Link,
        registries: Collection[str],
        *,
        clock: Clock,
        patience_s: float = PATIENCE_S,
        pages_at_once: int = 64,
        files_at_once: int = 64,
        rng: random.Random | None = None,
    ) -> None:
        self._link = link
        self._registries = frozenset(registries)
        self._clock = clock
        self._metrics = link.metrics
        self._patience_s = patience_s
        rng = rng or random.Random()  # noqa: S311 -- jitter
        places: dict[Kind, int] = {"page": pages_at_once, "file": files_at_once}
        self._lines = {kind: _Line(Breaker(rng, partial(self._changed, kind)), trio.Semaphore(places[kind])) for kind in KINDS}
        for kind in KINDS:
            self._metrics.breaker_open.labels(self.name, kind).set(0)
        self._watches: dict[_Watch, None] = {}
        self._watched = trio.Event()
        self._opened = trio.Event()
        self._hastened = trio.Event()
        self._doubted = trio.Event()
        self._knocked_at = -KNOCK_AGAIN_S
        self._was_tried = False
        self._is_doubted = False
        self._next: Sequence[RemoteSource] = ()
        link.on_heard = self.heard

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._link.host}>"

    @property
    def name(self) -> str:
        return self.NAME

    @property
    def link(self) -> Link:
        return self._link

    # -- the seam

    async def page(self, page: Page, known: Known | None) -> PageAnswer:
        """Fetch or revalidate a page. Raises ``Unavailable``, ``Corrupt``, or ``Refused``."""
        fields = [("Accept", wire.PAGE_TYPE), ("Accept-Encoding", "gzip")]
        etag = known.etag if known is not None and wire.is_page_etag(known.etag) else None
        if etag is not None:
            fields.append(("If-None-Match", etag))
        if known is not None and known.max_age_s is not None:
            fields.append(("Cache-Control", f"max-age={known.max_age_s:.0f}"))
        # From before it was asked for: what is told in seconds must not grow by the way.
        asked_at = self._clock()
        async with self._exchange("page", "page", page.registry, "GET", wire.page_path(page), fields) as answer:
            match answer.status:
                case 200:
                    return await self._page(answer, asked_at)
                case 304 if etag is not None:
                    stamp, received_at = _stamp(answer, asked_at)
                    return NotModified(stamp, self._trail(answer), received_at)
                case 404 | 410 if answer.field(wire.STAMP) is not None:
                    return self._absent(answer, asked_at)
                case 403 if answer.field(wire.STAMP) is not None:
                    (_, received_at), unsure_s = _stamp(answer, asked_at), self._clock() - asked_at
                    refusal = await self._refusal("page", answer)
                    raise RefusedPage(refusal.verdict, received_at, unsure_s) if isinstance(refusal, Refused) else refusal
                case _:
                    raise await self._refusal("page", answer)

    def _absent(self, answer: Answer, asked_at: float) -> Absent:
        stamp, received_at = _stamp(answer, asked_at)
        unsure_s = self._clock() - asked_at
        return Absent(answer.status, stamp, True, self._trail(answer), received_at, unsure_s)

    async def _page(self, answer: Answer, asked_at: float) -> Received:
        stamp, received_at = _stamp(answer, asked_at)
        unsure_s = self._clock() - asked_at
        sha256 = hashlib.sha256()
        with self._watching() as watch:

            def came(part: bytes) -> None:
                watch.since = trio.current_time()
                sha256.update(part)

            body = await read_page(answer, PAGE_LIMIT_BYTES, max(PAGE_S, self._patience_s), came)
        self._require_came(watch)
        self._require_told(answer, sha256.hexdigest())

        def taken_apart() -> tuple[wire.PageFacts, bytes]:
            return wire.read_page(body)

        try:
            large = len(body) > LARGE_BYTES
            facts, document = await trio.to_thread.run_sync(taken_apart) if large else taken_apart()
        except ValueError as error:
            raise Failed("parse", f"{self._link.host} sent something else than a page: {error}") from None
        return Received(
            document,
            facts.media_type,
            facts.url,
            stamp,
            answer.field("etag"),
            facts.last_modified,
            facts.serial,
            answer.headers,
            prepared=True,
            restrictions=facts.restrictions,
            restricted_at=facts.restricted_at,
            received_at=received_at,
            unsure_s=unsure_s,
            trail=self._trail(answer),
        )

    def file(
        self, file: File, entry: Entry, start: int = 0, validator: str | None = None
    ) -> AbstractAsyncContextManager[FileStream]:
        """Open a transfer. On entering raises ``NotFound`` for a clean 404 or 410, ``Refused``, ``Unavailable``, ``Corrupt``."""
        return self._file(file, start, validator)

    @asynccontextmanager
    async def _file(self, file: File, start: int, validator: str | None) -> AsyncIterator[FileStream]:
        fields = [("Accept", "*/*"), ("Accept-Encoding", "identity"), ("Prefer", f"wait={int(self._patience_s)}")]
        if start:
            fields.append(("Range", f"bytes={start}-"))
            if validator is not None:
                fields.append(("If-Range", validator))
        async with self._exchange("file", "file", file.registry, "GET", wire.file_path(file), fields) as answer:
            if answer.status not in {200, 206}:
                raise await self._refusal("file", answer)
            head = file_head(answer, start)
            if head.size is not None and head.size > FILE_LIMIT_BYTES:
                raise Failed("oversized", f"{file.filename} has {head.size} bytes; at most {FILE_LIMIT_BYTES} are accepted")
            told = FileHead(
                head.size, head.start, head.media_type, head.validator, head.digests, head.last_modified, self._trail(answer)
            )
            yield FileStream(told, _Chunks(self, answer, told, file))

    async def relay(self, relay: Relay) -> Relayed:
        """Forward a search or an audit. Raises ``Unavailable``, ``Corrupt``, or ``Refused``."""
        body = msgspec.json.encode(wire.Relaying(relay.method, relay.request, relay.body))
        fields = [("Content-Type", "application/json"), ("Accept-Encoding", "gzip")]
        path = f"{wire.ROOT}relays/{quote(relay.registry, safe='')}"
        async with self._exchange("page", "relay", relay.registry, "POST", path, fields, body) as answer:
            match answer.status:
                case 200:
                    return Relayed(200, await self._read(answer, RELAY_LIMIT_BYTES))
                case 400 | 404:
                    return Relayed(answer.status, await self._read(answer, PROBLEM_LIMIT_BYTES))
                case _:
                    raise await self._refusal("page", answer)

    async def exists(self, file: File, url: str) -> bool:
        """Whether the registry still has a file's bytes. Raises ``Unavailable``, ``Corrupt``, or ``Refused``."""
        path = wire.file_path(file, "existence")
        async with self._exchange("file", "file", file.registry, "GET", path, [("Accept-Encoding", "gzip")]) as answer:
            if answer.status in {404, 410}:
                return False
            if answer.status != 200:
                raise await self._refusal("file", answer)
            try:
                return _EXISTENCE.decode(await self._read(answer, PROBLEM_LIMIT_BYTES)).exists
            except ValueError as error:
                raise Failed("parse", f"{self._link.host} sent something else than an existence: {error}") from None

    def available(self, registry: str, kind: str) -> bool:
        """Whether it is worth waiting for an answer, decided without I/O; see ``Source``."""
        if registry not in self._registries or kind not in KINDS or not self._was_tried:
            return False
        now = trio.current_time()
        line = self._lines["file" if kind == "file" else "page"]
        return now >= line.paused_until and line.breaker.is_trusted(now)

    # -- life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Knock once, then whenever somebody waits too long, and while a breaker is open. Closes the connections when cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._begin, nursery)
                task_status.started()
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close the idle connections. Transfers still running break."""
        await self._link.aclose()

    def statistics(self) -> dict[str, str]:
        """The breakers' states, by kind."""
        return {kind: line.breaker.state for kind, line in self._lines.items()}

    async def _begin(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._probe)
        nursery.start_soon(self._mind)
        if not await self._knock():
            self._give_up()
        self._was_tried = True

    def _give_up(self) -> None:
        """Nobody is there: whoever waits need not."""
        now = trio.current_time()
        for line in self._lines.values():
            if line.breaker.state == "closed":
                line.breaker.open(now)
        for watch in self._watches:
            watch.end()

    async def _knock(self) -> bool:
        """Whether anybody answers."""
        self._knocked_at = trio.current_time()
        with trio.move_on_after(KNOCK_S):
            return await self._link.knock()
        return False

    def doubt(self) -> None:
        """Another node is late, and this one will be asked next: see whether somebody is there, unless that is known."""
        is_open = all(line.breaker.state != "closed" for line in self._lines.values())
        if not is_open and trio.current_time() >= max(self._knocked_at, self._link.heard_at) + LATE_S:
            self._is_doubted = True
            self._watched.set()
            self._doubted.set()

    async def _mind(self) -> None:
        """Knock for those who wait, and send them on if nobody answers."""
        while True:
            await self._watched.wait()
            if not self._watches and not self._is_doubted:
                self._watched = trio.Event()
                continue
            due = self._knocked_at + KNOCK_AGAIN_S
            since = min((watch.since for watch in self._watches if watch.since > self._knocked_at), default=None)
            if since is not None:
                # Whatever came lately, be it another's answer, shows that somebody is there.
                due = min(due, max(since, self._link.heard_at) + LATE_S)
            if trio.current_time() < due and not self._is_doubted:
                self._doubted = trio.Event()
                with trio.move_on_at(due):
                    await self._doubted.wait()
                continue
            self._is_doubted = False
            if any(trio.current_time() >= watch.since + LATE_S for watch in self._watches):
                self._doubt_next()
            if await self._knock():
                for line in self._lines.values():
                    line.breaker.hear()
                continue
            if self._watches:
                self._doubt_next()
            self._give_up()

    def _doubt_next(self) -> None:
        for other in self._next:
            other.doubt()

    async def _probe(self) -> None:
        """Knock while a breaker is open: when it may be probed and nobody asks for something, and when somebody was heard elsewhere."""
        while True:
            await self._opened.wait()
            now = trio.current_time()
            open_lines = [line for line in self._lines.values() if line.breaker.state != "closed"]
            if not open_lines:
                self._opened = trio.Event()
                continue
            self._hastened = trio.Event()
            with trio.move_on_after(min(line.breaker.retry_in_s(now) for line in open_lines) + PROBE_PATIENCE_S):
                await self._hastened.wait()
                for line in open_lines:
                    line.breaker.hasten(trio.current_time())
            now = trio.current_time()
            permits = [(line, line.breaker.admit(now)) for line in open_lines if line.breaker.state != "closed"]
            if not any(permit is not None for _, permit in permits):
                continue
            try:
                is_there = await self._knock()
            except BaseException:
                for line, permit in permits:
                    if permit is not None:
                        line.breaker.withdraw(permit, trio.current_time())
                raise
            for line, permit in permits:
                if permit is not None and is_there:
                    line.breaker.succeed(permit)
                elif permit is not None:
                    line.breaker.fail(permit, trio.current_time())

    def heard(self) -> None:
        """Anything came from there, over this link or another: it is worth asking again."""
        if self._opened.is_set():
            self._hastened.set()

    def _changed(self, kind: Kind, is_open: bool) -> None:
        self._metrics.breaker_open.labels(self.name, kind).set(is_open)
        if is_open:
            self._opened.set()
        news = "a node of ours does not answer" if is_open else "a node of ours answers again"
        log.warning(news, extra={"node": self._link.host, "kind": kind})

    # -- one request

    @asynccontextmanager
    async def _exchange(
        self,
        kind: Kind,
        label: str,
        registry: str,
        method: str,
        path: str,
        fields: list[tuple[str, str]],
        body: bytes = b"",
    ) -> AsyncIterator[Answer]:
        """Ask, and give the answer while its body lasts. ``Failed`` out of the block becomes ``Unavailable`` or ``Corrupt``."""
        line = self._lines[kind]
        try:
            self._require_passable(line)
            with trio.move_on_after(QUEUE_S) as waiting:
                await line.places.acquire()
            if waiting.cancelled_caught:
                raise Failed("busy", f"too many requests to {self._link.host} are under way")
            try:
                self._require_passable(line)
                async with await self._ask(line, label, registry, method, path, fields, body) as answer:
                    yield answer
            finally:
                line.places.release()
        except Failed as failed:
            self._metrics.upstream_failures.labels(registry, label, failed.failure.label).inc()
            log.info("a node failed", extra={"node": self._link.host, "failure": failed.failure.label, "reason": failed.message})
            raise self._error(failed) from failed.__cause__

    def _error(self, failed: Failed) -> Unavailable | Corrupt:
        return failed.error()

    def _challenge(self) -> str:
        """What the answer is to be proven with; ``""`` where the connection vouches for it."""
        return ""

    def _believe(self, answer: Answer, target: str, challenge: str) -> None:
        """Raise ``Failed`` for an answer that is not proven."""

    async def _ask(
        self, line: _Line, label: str, registry: str, method: str, path: str, fields: list[tuple[str, str]], body: bytes
    ) -> Answer:
        now = trio.current_time()
        challenge = self._challenge()
        if challenge:
            fields = [*fields, (wire.NONCE, challenge)]
        permit = line.breaker.admit(now)
        if permit is None:
            raise self._silent(line)
        trial = Trial(line.breaker, permit)
        self._metrics.upstream_requests.labels(registry, label, self.name).inc()
        answer: Answer | None = None
        try:
            with self._watching(now + self._patience_s) as watch:
                answer = await self._link.ask(method, path, fields, body, trial, patience_s=STALL_S, stall_s=STALL_S)
            if answer is None:
                why = "does not answer" if watch.is_vain else f"has not answered in {self._patience_s:.0f} s"
                raise Failed("slow-first-byte", f"{self._link.host} {why}")
            trial.is_answered = True
            self._believe(answer, path, challenge)
            trial.end(None)
        except Failed as failed:
            if answer is not None:
                await answer.aclose()
            trial.end(failed)
            raise
        except BaseException:  # cancelled from outside
            trial.withdraw()
            raise
        self._was_tried = True
        return answer

    def _watching(self, until: float = math.inf) -> _Watch:
        """For the time in which somebody waits, until ``until`` at most; afterwards ask ``_require_came``."""
        self._watched.set()
        return _Watch(self._watches, until)

    def _require_came(self, watch: _Watch) -> None:
        """Raises ``Failed`` if somebody waited in vain."""
        if watch.is_over:
            raise Failed("slow-first-byte", f"{self._link.host} does not answer")

    def _require_passable(self, line: _Line) -> None:
        """Raise ``Unavailable`` if a request would be refused now, by what was asked of us or by the breaker."""
        now = trio.current_time()
        if now < line.paused_until:
            raise Unavailable(f"{self._link.host} asked us to wait", line.paused_until - now)
        if line.breaker.retry_in_s(now) > 0:
            raise self._silent(line)

    def _silent(self, line: _Line) -> Unavailable:
        return Unavailable(f"{self._link.host} does not answer", max(1.0, line.breaker.retry_in_s(trio.current_time())))

    async def _read(self, answer: Answer, limit: int) -> bytes:
        sha256 = hashlib.sha256()
        with self._watching() as watch:

            def came(part: bytes) -> None:
                watch.since = trio.current_time()
                sha256.update(part)

            body = await read_page(answer, limit, PAGE_S, came)
        self._require_came(watch)
        self._require_told(answer, sha256.hexdigest())
        return body

    def _require_told(self, answer: Answer, sha256: str) -> None:
        """Raises ``Failed`` if an answer's bytes are not those that its fields tell of."""
        for digest in told_digests(answer):
            if digest.algorithm == "sha256" and digest.value != sha256:
                raise Failed("digest", f"{self._link.host} sent something with another digest than it told")

    # -- what is said instead of what was asked for

    async def _refusal(self, kind: Kind, answer: Answer) -> Exception:
        """An answer that is none of those wanted, as what it means here."""
        status, host = answer.status, self._link.host
        wait_s = retry_after_s(answer.field("retry-after"), self._clock())
        problem = await self._problem(answer)
        told = f": {problem.detail}" if problem.detail else ""
        match status:
            case 401:
                return Unavailable(f"{host} {self.UNKNOWN}", wait_s or 60)
            case 403:
                # Whatever kept its reason from us: what was refused there is looked for nowhere else.
                return Refused(_verdict(problem, host))
            case 404 | 410 if kind == "file":
                return NotFound(problem.detail or "there is no such file")
            case 502:
                return Corrupt(problem.detail or f"{host} was sent something wrong")
            case 429:
                self._lines[kind].paused_until = trio.current_time() + (wait_s or 5)
                return Unavailable(f"{host} limits how often we may ask (429)", wait_s or 5)
            case 503:
                return Unavailable(problem.detail or f"{host} cannot answer now", wait_s or 5)
            case _:
                return Unavailable(f"{host} answers {status}{told}", wait_s or 5)

    async def _problem(self, answer: Answer) -> _Problem:
        try:
            return _PROBLEM.decode(await self._read(answer, PROBLEM_LIMIT_BYTES))
        except (ValueError, Failed):
            return _Problem()

    def _trail(self, answer: Answer) -> str:
        """What that node's caches did, under names that are not ours."""
        return _CACHE.sub(f"leeward-{self.name}", answer.field("cache-status") or "")


def introduce(sources: Sequence[object]) -> None:
    """Have each node of ours among these, which are asked in this order, know those that are asked after it."""
    nodes = [source for source in sources if isinstance(source, RemoteSource)]
    for place, node in enumerate(nodes, 1):
        node._next = nodes[place:]


class _Chunks:
    """A file's bytes. Ends by an error unless all came that were announced."""

    def __init__(self, source: RemoteSource, answer: Answer, head: FileHead, file: File) -> None:
        self._source = source
        self._answer = answer
        self._head = head
        self._file = file
        self._at = head.start

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        source, size = self._source, self._head.size
        try:
            part: bytes | None = None
            with source._watching() as watch:
                part = await self._answer.part()
            source._require_came(watch)
            if part is None:
                if size is not None and self._at != size:
                    raise Failed("short-body", f"{self._file.filename} ended after {self._at} of {size} bytes")
                raise StopAsyncIteration
            self._at += len(part)
            if self._at > (FILE_LIMIT_BYTES if size is None else size):
                raise Failed("oversized", f"{self._file.filename} is longer than it may be")
            return part
        except Failed as failed:
            source._metrics.upstream_failures.labels(self._file.registry, "file", failed.failure.label).inc()
            raise source._error(failed) from failed.__cause__


def _verdict(problem: _Problem, host: str) -> Refuse | Hold:
    reason, rule = problem.reason or problem.detail or f"{host} refuses it", problem.rule or "origin"
    return Refuse(reason, rule) if problem.until is None else Hold(problem.until, reason, rule)


def _stamp(answer: Answer, asked_at: float) -> tuple[Stamp, float]:
    """How long a page may be used, as it was told, and since when it is known, if the answer took no time. Raises ``Failed``."""
    try:
        fresh_s, stale_s, ago_s = wire.read_stamp(answer.field(wire.STAMP) or "")
    except ValueError:
        raise Failed("parse", f"{answer.url.host} does not say how long its page may be used") from None
    return Stamp(asked_at + fresh_s, asked_at + stale_s), asked_at - ago_s
