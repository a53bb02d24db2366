"""The registries themselves, asked over HTTP/1.1. One ``RegistrySource`` per node, over all its instances.

Every request is written here from a short list of fields; nothing of a client's request reaches an upstream, and no cookie comes
back to it. (That is why this speaks httpcore, the transport beneath httpx, rather than ``httpx.AsyncClient``: nothing is added that is not
written below, and the connections are ours to check.) Credentials go to their own upstream's scheme, host and port and nowhere else.

Time: 2 s to connect in all, 10 s to the first byte of the body and 2 s once the upstream is in doubt; these bound a whole request with
its retries, redirects, and the wait for one of our own places. A page must then come within 30 s and without a pause of that length; a
file may take its time, but may not stall.

Read ``failures.py`` first (what can go wrong and what becomes of it), then ``breaker.py``, ``lines.py``, ``connect.py``, ``answers.py``,
and from ``_exchange`` on.
"""

from __future__ import annotations

import base64
import logging
import math
import random
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Literal

import httpcore
import httpx
import trio
from prometheus_client import Gauge

from .. import freshness
from ..errors import NotFound, Unavailable
from ..metrics import Metrics
from ..model import Clock, Entry, File, Headers, Page, Relay, Stamp
from ..registries import Registry
from . import Absent, FileHead, FileStream, Known, NotModified, Received, Relayed
from . import Answer as PageAnswer
from .addresses import literal, network_of
from .answers import Answer, Trial, file_head, number, read_page, told_digests
from .connect import open_pool, trust
from .failures import Failed, Label, translate
from .lines import Line, Lines
from .retries import ATTEMPTS, Rate, RetryBudget, pause_s, retry_after_s

log = logging.getLogger(__name__)

type Kind = Literal["page", "file", "relay"]
type Gate = Literal["page", "file", "sidecar", "relay"]

KINDS: tuple[Kind, ...] = ("page", "file", "relay")

PAGE_REDIRECTS = 5
FILE_REDIRECTS = 3

SENT = frozenset(
    {"accept", "accept-encoding", "authorization", "cdn-loop", "content-length", "content-type", "host"}
    | {"if-modified-since", "if-none-match"}
    | {"if-range", "range", "user-agent", "via"}
)
"""The only fields that ever leave for an upstream."""

SERIALS: Mapping[str, str] = {"pypi": "x-pypi-last-serial"}
"""The response field that tells a page's serial, by kind of registry."""

RELAYED = frozenset({400, 404, 405, 410, 413, 422})
"""What upstream may say of a relayed request that is about the request and not about upstream."""

RELAY_LIMIT_BYTES = 10_000_000
"""The longest answer to a search or an audit that is read."""

OLDER_PAGE_S = 30.0
"""How long what is held counts as fresh after upstream showed an older page than that: its caches disagree after a publish."""

UNSENT: frozenset[Label] = frozenset({"connect", "dns"})
"""The failures after which upstream cannot have seen anything of the request."""

SHORT_S = 0.05
"""With less time than this left to connect it is not tried again."""

MEAGRE_PER_S = 5.0
MEAGRE_BURST = 30.0
MEAGRE_AT_ONCE = 8
MEAGRE_CONNECT_S = 0.9
MEAGRE_FIRST_BYTE_S = 3.8
MEAGRE_DOUBTFUL_S = 1.4
"""What an edge may ask a registry itself while its origin does not answer: requests a second, at first, at the same time; and seconds."""

PATIENCE_S = 1.0
"""How long after a breaker may be probed its prober leaves that to a real request."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. First byte means the body's, of a page and of a file; ``doubtful_first_byte_s`` is in force while a breaker is not closed.
    The defaults leave whoever asked a little time of the 2 and 10 s within which an answer is due.

    ``page_s`` bounds a whole page, unless it keeps coming at ``answers.PAGE_RATE``. ``queue_s`` bounds the wait for one of our own places
    when all are taken by transfers that run; it is part of ``first_byte_s``, of which it leaves upstream the doubtful one at least.
    """

    connect_s: float = 1.9
    first_byte_s: float = 9.8
    doubtful_first_byte_s: float = 1.9
    stall_s: float = 15.0
    page_s: float = 30.0
    queue_s: float = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """One instance's upstream, as configured. ``aliases`` are further host names that mean it; ``fresh_s`` caps the life it gives pages.

    ``token`` is sent as Bearer, ``username`` and ``password`` as Basic. Limits are in bytes after decompression. Sidecars (``.metadata``,
    ``.asc``) and probes have places of their own, since they are small and a resolver waits for them. At most ``rate_per_s`` requests go
    there in a second, ``burst`` at once after a pause (as many as in two seconds, unless told); 0 for no limit.
    """

    registry: Registry
    aliases: frozenset[str] = frozenset()
    fresh_s: float = 600.0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)
    ca: Path | None = None
    timeouts: Timeouts = Timeouts()
    page_limit_bytes: int = 100 * 1000 * 1000
    file_limit_bytes: int = 8 * 1000 * 1000 * 1000
    sidecar_limit_bytes: int = 10 * 1000 * 1000
    pages_at_once: int = 64
    files_at_once: int = 64
    sidecars_at_once: int = 32
    relays_at_once: int = 16
    rate_per_s: float = 0.0
    burst: float = 0.0

    def meagre(self) -> Upstream:
        """This upstream as an edge may ask it that is cut off from its origin: a small fixed share, and within what time is left.

        The origin and perhaps a sibling were asked before, and all of them together have the time that one would have had.
        """
        timeouts = replace(
            self.timeouts,
            connect_s=min(self.timeouts.connect_s, MEAGRE_CONNECT_S),
            first_byte_s=min(self.timeouts.first_byte_s, MEAGRE_FIRST_BYTE_S),
            doubtful_first_byte_s=min(self.timeouts.doubtful_first_byte_s, MEAGRE_DOUBTFUL_S),
            queue_s=min(self.timeouts.queue_s, MEAGRE_FIRST_BYTE_S - MEAGRE_DOUBTFUL_S),
        )
        return replace(
            self,
            timeouts=timeouts,
            pages_at_once=min(self.pages_at_once, MEAGRE_AT_ONCE),
            files_at_once=min(self.files_at_once, MEAGRE_AT_ONCE),
            sidecars_at_once=min(self.sidecars_at_once, MEAGRE_AT_ONCE),
            relays_at_once=min(self.relays_at_once, 2),
            rate_per_s=min(self.rate_per_s or MEAGRE_PER_S, MEAGRE_PER_S),
            burst=MEAGRE_BURST,
        )


class RegistrySource:
    """A ``Source`` over registries. Run ``run`` in a nursery; until its first try of an upstream ended, that is not ``available``.

    Raises ``ValueError`` for a configuration that cannot work: an unreadable ``ca``, a proxy or upstream URL of another scheme.
    """

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        *,
        clock: Clock,
        metrics: Metrics,
        user_agent: str,
        deployment_id: str,
        rng: random.Random | None = None,
    ) -> None:
        self.deployment_id = deployment_id
        self._clock = clock
        self._metrics = metrics
        self._random = rng or random.Random()  # noqa: S311 -- jitter
        self._identity: Headers = (
            ("User-Agent", user_agent),
            ("Via", "1.1 leeward"),
            ("CDN-Loop", f"leeward; id={deployment_id}"),
        )
        trusts = {ca: trust(ca) for ca in {upstream.ca for upstream in upstreams.values()}}
        self._links = {
            name: _Link(name, upstream, trusts[upstream.ca], metrics, self._random) for name, upstream in upstreams.items()
        }

    @property
    def name(self) -> str:
        return "registry"

    # -- the seam

    async def page(self, page: Page, known: Known | None) -> PageAnswer:
        """Fetch or revalidate a page. Raises ``Unavailable`` or ``Corrupt``."""
        link = self._links[page.registry]
        rules = link.upstream.registry
        try:
            url = rules.locate(page, None)
        except NotFound:
            return Absent(404, freshness.negative_stamp(self._clock(), self._random.uniform(0.67, 1.33)))
        fields = (*rules.ask(page), ("Accept-Encoding", "gzip"))
        wanted = _Wanted("page", "page", "GET", url, fields, {200, 404, 410}, PAGE_REDIRECTS)
        async with self._exchange(link, wanted, _conditions(known)) as answer:
            now = self._clock()
            if answer.status in {404, 410}:
                return Absent(answer.status, freshness.negative_stamp(now, self._random.uniform(0.67, 1.33)))
            stamp = self._stamp(answer, now, link, page)
            if answer.status == 304:
                return NotModified(stamp)
            serial = number(answer.field(SERIALS.get(rules.kind, "")))
            if known is not None and known.serial is not None and serial is not None and serial < known.serial:
                self._count_failure(link, "page", Failed("serial", "an older page than the one held"))
                return NotModified(Stamp(now + OLDER_PAGE_S, stamp.stale_until))
            body = await read_page(answer, link.upstream.page_limit_bytes, link.upstream.timeouts.page_s)
            return Received(
                body,
                answer.media_type,
                str(answer.url),
                stamp,
                answer.field("etag"),
                answer.field("last-modified"),
                serial,
                answer.headers,
                told_digests(answer),
            )

    def file(
        self, file: File, entry: Entry, start: int = 0, validator: str | None = None
    ) -> AbstractAsyncContextManager[FileStream]:
        """Open a transfer. On entering raises ``NotFound`` for a clean 404 or 410, ``Unavailable``, ``Corrupt``."""
        return self._file(file, entry, start, validator)

    @asynccontextmanager
    async def _file(self, file: File, entry: Entry, start: int, validator: str | None) -> AsyncIterator[FileStream]:
        link = self._links[file.registry]
        fields: list[tuple[str, str]] = [("Accept", "*/*"), ("Accept-Encoding", "identity")]
        statuses = {200, 404, 410}
        if start:
            fields.append(("Range", f"bytes={start}-"))
            statuses |= {206}
            if validator is not None:
                fields.append(("If-Range", validator))
        is_sidecar = link.upstream.registry.subject(file) != file
        gate: Gate = "sidecar" if is_sidecar else "file"
        wanted = _Wanted("file", gate, "GET", entry.url, tuple(fields), statuses, FILE_REDIRECTS)
        async with self._exchange(link, wanted) as answer:
            if answer.status in {404, 410}:
                raise NotFound(f"upstream no longer has {file.filename}")
            head = file_head(answer, start)
            limit = link.upstream.sidecar_limit_bytes if is_sidecar else link.upstream.file_limit_bytes
            if head.size is not None and head.size > limit:
                raise Failed("oversized", f"{file.filename} has {head.size} bytes; at most {limit} are accepted")
            yield FileStream(head, _Chunks(self, link, answer, head, limit, file.filename))

    async def relay(self, relay: Relay) -> Relayed:
        """Forward a search or an audit. Raises ``Unavailable`` or ``Corrupt``."""
        link = self._links[relay.registry]
        # A body may hold megabytes.
        reading = partial(link.upstream.registry.forward, relay)
        own = await trio.to_thread.run_sync(reading) if relay.body else reading()
        fields = (*(own or ()), ("Accept-Encoding", "gzip"))
        url = link.upstream.registry.upstream + relay.request
        wanted = _Wanted("relay", "relay", relay.method, url, fields, {200, *RELAYED}, 0, relay.body)
        async with self._exchange(link, wanted) as answer:
            body = await read_page(answer, RELAY_LIMIT_BYTES, link.upstream.timeouts.page_s)
            return Relayed(answer.status, body)

    async def exists(self, file: File, url: str) -> bool:
        """Whether upstream still has bytes at ``url``. Raises ``Unavailable`` (or ``Corrupt``, if it answers nonsense)."""
        link = self._links[file.registry]
        fields: Headers = (("Accept", "*/*"), ("Accept-Encoding", "identity"))
        statuses = {200, 204, 206, 404, 405, 410, 416, 501}
        async with self._exchange(link, _Wanted("file", "sidecar", "HEAD", url, fields, statuses, FILE_REDIRECTS)) as answer:
            status = answer.status
        if status in {405, 501}:
            fields = (*fields, ("Range", "bytes=0-0"))
            ranged = _Wanted("file", "sidecar", "GET", url, fields, statuses - {501}, FILE_REDIRECTS)
            async with self._exchange(link, ranged) as answer:
                status = answer.status
        return status not in {404, 405, 410}

    def available(self, registry: str, kind: str) -> bool:
        """Whether it is worth waiting for an answer, decided without I/O; see ``Source``."""
        link = self._links.get(registry)
        if link is None or kind not in KINDS or not link.was_tried:
            return False
        now = trio.current_time()
        return now >= link.paused_until and link.lines[kind].is_trusted(now)

    # -- life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Try each upstream once, then probe those whose breaker is open while nobody asks. Closes the connections when cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                for link in self._links.values():
                    nursery.start_soon(self._tend, link)
                task_status.started()
                await trio.sleep_forever()
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close the idle connections. Transfers still running break."""
        # Bounded by 2 s; closing a socket does not wait for the other side.
        with trio.move_on_after(2, shield=True):
            for link in self._links.values():
                await link.pool.aclose()

    def statistics(self) -> dict[str, dict[str, str]]:
        """The breakers' states, by registry and kind: the worst where there are several."""
        return {name: {kind: link.lines[kind].state for kind in KINDS} for name, link in self._links.items()}

    async def _tend(self, link: _Link) -> None:
        line = link.line("page", link.home)
        if not await self._knock(link, "page", line):
            now = trio.current_time()
            for one in (line, link.line("file", link.home)):
                if one.breaker.state == "closed":
                    one.breaker.open(now)
        link.was_tried = True
        async with trio.open_nursery() as nursery:
            for kind in KINDS:
                nursery.start_soon(self._probe_while_open, link, kind)

    async def _probe_while_open(self, link: _Link, kind: Kind) -> None:
        while True:
            await trio.sleep(await link.lines[kind].wait_open() + PATIENCE_S)
            async with trio.open_nursery() as nursery:
                for line in link.lines[kind].due():
                    nursery.start_soon(self._knock, link, kind, line)

    async def _knock(self, link: _Link, kind: Kind, line: Line) -> bool:
        """Send one cheap request and say whether anybody answered, whatever the answer. False too if the breaker refuses it.

        A page that was wanted is asked for whole and a file for its first byte: some upstreams send heads, and nothing after them.
        """
        timeouts = link.upstream.timeouts
        pace = _Pace(trio.current_time() + timeouts.doubtful_first_byte_s, timeouts.connect_s)
        url: httpx.URL
        fields: Headers
        if line.sample is None:
            url, method, fields = link.home, "HEAD", (("Accept", "*/*"), ("Accept-Encoding", "identity"))
        else:
            url, fields = line.sample
            method = "GET"
            if kind == "file":
                fields = (("Accept", "*/*"), ("Accept-Encoding", "identity"), ("Range", "bytes=0-0"))
        try:
            async with await self._send(
                link, _Wanted(kind, kind, method, str(url), fields, set(), 0), url, fields, pace
            ) as answer:
                if kind == "page" and method == "GET" and answer.status == 200:
                    await read_page(answer, link.upstream.page_limit_bytes, timeouts.page_s)
        except Failed as failed:
            self._count_failure(link, kind, failed)
            return not failed.failure.is_dead
        except Unavailable:
            return False
        return True

    # -- one request, with its retries and redirects

    @asynccontextmanager
    async def _exchange(self, link: _Link, wanted: _Wanted, conditions: Headers = ()) -> AsyncIterator[Answer]:
        """Ask, and give the answer while its body lasts. Raises ``Unavailable`` or ``Corrupt``, also for ``Failed`` out of the block."""
        timeouts, gate = link.upstream.timeouts, link.gates[wanted.gate]
        try:
            url = _parse(wanted.url)
            line = link.line(wanted.kind, url)
            started = trio.current_time()
            # Rather than after having queued behind others that will be refused.
            link.require_passable(line, url, started)
            with trio.move_on_after(timeouts.queue_s) as scope:
                await gate.acquire()
            if scope.cancelled_caught:
                raise Failed("busy", f"too many requests to {link.home.host} are under way")
            try:
                await link.wait_turn(started + timeouts.queue_s)
                now = trio.current_time()
                link.require_passable(line, url, now)
                head_by = max(started + timeouts.first_byte_s, now + timeouts.doubtful_first_byte_s)
                pace = _Pace(head_by, timeouts.connect_s, is_fair=head_by - now >= timeouts.first_byte_s / 2, is_paid=True)
                async with await self._ask(link, wanted, conditions, pace) as answer:
                    yield answer
            finally:
                gate.release()
        except Failed as failed:
            self._count_failure(link, wanted.kind, failed)
            raise failed.error() from failed.__cause__

    async def _ask(self, link: _Link, wanted: _Wanted, conditions: Headers, pace: _Pace) -> Answer:
        """Attempts until one brings a usable answer. Only the first carries the conditions.

        In July 2016 npm's conditional requests hung while plain ones were answered: a failed conditional request is repeated plainly.
        What is posted is sent again only if it cannot have arrived.
        """
        link.budget.earn()
        line = link.line(wanted.kind, _parse(wanted.url))
        for attempt in count(1):
            try:
                return await self._walk(link, wanted, conditions, pace)
            except Failed as failed:
                wait_s = pause_s(attempt + 1, self._random)
                # Broken before the body began: nobody holds a beginning to resume from. (A resumption's own failure counts as one.)
                is_unbegun = failed.failure.label == "short-body" and all(name != "Range" for name, _ in wanted.fields)
                again_plainly = bool(conditions) and failed.failure.label in {"slow-first-byte", "reset", "http-5xx", "status"}
                may_retry = (
                    (again_plainly or is_unbegun or failed.failure.is_retried)
                    and failed.retry_after_s is None
                    and attempt < ATTEMPTS
                    and (pace.connect_left_s > SHORT_S or failed.failure.label not in UNSENT)
                    and (wanted.method != "POST" or failed.failure.label in UNSENT)
                    and line.breaker.state != "open"
                    and trio.current_time() + wait_s < pace.head_by
                    # A hang costs upstream nothing but a connection, and would otherwise never heal: free of the budget.
                    and ((again_plainly and failed.failure.label == "slow-first-byte") or link.budget.spend())
                )
                if not may_retry:
                    raise
                self._count_failure(link, wanted.kind, failed)
            conditions = ()
            await trio.sleep(wait_s)
        raise AssertionError("unreachable")

    async def _walk(self, link: _Link, wanted: _Wanted, conditions: Headers, pace: _Pace) -> Answer:
        """One attempt: the request, and those that redirects ask for. Raises ``Failed`` for anything but the wanted statuses."""
        url = _parse(wanted.url)
        hosts = link.hosts | {url.host.lower()}
        seen = {url}
        while True:
            link.require_outside(url)
            line = link.line(wanted.kind, url)
            line.wanted_at = trio.current_time()
            if wanted.method == "GET":
                line.sample = url, wanted.fields
            answer = await self._send(link, wanted, url, (*wanted.fields, *conditions), pace, decides=not conditions)
            location = answer.field("location")
            if answer.status not in {301, 302, 303, 307, 308} or location is None:
                break
            await answer.discard()
            url = _redirected(url, location, hosts)
            if url in seen or len(seen) > wanted.redirects:
                raise Failed("redirect-loop", f"{link.home.host} redirects in a circle or more than {wanted.redirects} times")
            seen.add(url)
        if answer.status in wanted.statuses or (answer.status == 304 and conditions):
            return answer
        await answer.discard()
        raise self._refusal(link, wanted.kind, answer)

    async def _send(
        self,
        link: _Link,
        wanted: _Wanted,
        url: httpx.URL,
        fields: Iterable[tuple[str, str]],
        pace: _Pace,
        *,
        decides: bool = True,
    ) -> Answer:
        """Send one request and wait for the answer's head and, of a page or a file, for the first bytes of its body.

        Raises ``Failed``; ``Unavailable`` if the breaker refuses. ``decides`` is False for a conditional request: if it is met with
        silence, the plain one after it tells whether upstream is dead.
        """
        kind, timeouts = wanted.kind, link.upstream.timeouts
        line = link.line(kind, url)
        started = trio.current_time()
        permit = line.breaker.admit(started)
        if permit is None:
            raise _silent(line, url, started)
        if pace.is_paid:
            pace.is_paid = False
        else:
            link.rate.take(started)  # those who come after it wait for this one
        trial = Trial(line.breaker, permit)
        is_doubtful = permit.is_probe or link.is_doubtful(kind, line)
        patience_s = timeouts.doubtful_first_byte_s if is_doubtful else timeouts.first_byte_s
        self._metrics.upstream_requests.labels(link.name, kind, self.name).inc()
        is_connected = False
        scope = trio.CancelScope(deadline=min(pace.head_by, started + pace.connect_left_s))

        async def follow(event: str, info: Mapping[str, object]) -> None:
            """Change from the time to connect to the time to answer, once the request itself (not a proxy's CONNECT) goes out."""
            nonlocal is_connected
            if event == "http11.send_request_headers.started":
                request = info.get("request")
                if isinstance(request, httpcore.Request) and request.method != b"CONNECT":
                    is_connected = True
                    now = trio.current_time()
                    pace.connect_left_s -= now - started
                    # Of a conditional request's time the other half is for asking again without the conditions.
                    scope.deadline = min(pace.head_by, now + patience_s / (1 if decides else 2))

        try:
            with scope:
                response = await link.pool.handle_async_request(_request(link, wanted, url, (*self._identity, *fields), follow))
                trial.is_answered = link.was_tried = True
                answer = Answer(
                    response,
                    url,
                    trial,
                    self._metrics.received_bytes,
                    is_head=wanted.method == "HEAD",
                    stall_s=timeouts.stall_s,
                    patience_s=patience_s,
                    sent_at=started,
                )
                if wanted.method == "GET" and answer.status in {200, 206}:
                    try:
                        await answer.begin()
                    except BaseException:
                        await answer.aclose()
                        raise
                if kind == "file" or wanted.method == "HEAD" or answer.status != 200:
                    trial.end(None)
                return answer
            if is_connected:
                raise Failed("slow-first-byte", f"{url.host} has not answered")
            raise Failed("connect", f"no connection to {url.host} in time")
        except Exception as raised:  # noqa: BLE001 -- the border: whatever the transport raises becomes a Failed
            failed = raised if isinstance(raised, Failed) else translate(raised, url.host, answered=trial.is_answered)
            if not is_connected:
                pace.connect_left_s -= trio.current_time() - started
            if failed.failure.label == "slow-first-byte" and not (decides and pace.is_fair):
                trial.withdraw()
            elif failed.failure.label == "status":
                link.was_tried = True
            trial.end(failed)
            raise failed from (None if failed is raised else raised)
        except BaseException:  # cancelled from outside
            trial.withdraw()
            raise

    def _refusal(self, link: _Link, kind: Kind, answer: Answer) -> Failed:
        """An answer that is none of those wanted, as a failure."""
        status, host = answer.status, answer.url.host
        wait_s = retry_after_s(answer.field("retry-after"), self._clock())
        match status:
            case 429:
                link.pause(kind, answer.url, wait_s)
                return Failed("http-429", f"{host} limits how often we may ask (429)", wait_s or 30)
            case 403:
                # With a time it is a limit too: those who filter by rate answer so.
                link.pause(kind, answer.url, wait_s)
                return Failed("http-403", f"{host} refuses to answer us (403)", wait_s)
            case _ if 400 <= status < 500:
                return Failed("http-4xx", f"{host} answers {status}", wait_s)
            case _ if status >= 500:
                return Failed("http-5xx", f"{host} fails ({status})", wait_s)
            case _:
                return Failed("status", f"{host} answers {status}, which makes no sense here")

    def _stamp(self, answer: Answer, now: float, link: _Link, page: Page) -> Stamp:
        cap_s = link.upstream.registry.life_s(page, link.upstream.fresh_s)
        return freshness.stamp(answer.headers, now, cap_s=cap_s, jitter=self._random.uniform(0.85, 1.15))

    def _count_failure(self, link: _Link, kind: Kind, failed: Failed) -> None:
        self._metrics.upstream_failures.labels(link.name, kind, failed.failure.label).inc()
        log.info("upstream failed", extra={"registry": link.name, "failure": failed.failure.label, "reason": failed.message})


class _Link:
    """What is known of one upstream while the node runs."""

    def __init__(self, name: str, upstream: Upstream, context: ssl.SSLContext, metrics: Metrics, rng: random.Random) -> None:
        root = httpx.URL(upstream.registry.upstream)
        if root.scheme not in {"http", "https"} or not root.host:
            raise ValueError(f"registries.{name}.upstream: not an http:// or https:// URL with a host")
        self.name = name
        self.upstream = upstream
        self.home = root.copy_with(username=None, password=None, fragment=None)
        self.hosts = frozenset({root.host.lower(), *(alias.lower().partition(":")[0] for alias in upstream.aliases)})
        self.authorization = _authorization(upstream, root)
        self.is_proxied = upstream.proxy is not None
        at_once: dict[Gate, int] = {
            "page": upstream.pages_at_once,
            "file": upstream.files_at_once,
            "sidecar": upstream.sidecars_at_once,
            "relay": upstream.relays_at_once,
        }
        self.gates = {gate: trio.Semaphore(places) for gate, places in at_once.items()}
        self.pool = open_pool(
            root.host.lower(), _own_places(self.home, upstream.aliases), context, upstream.proxy, sum(at_once.values())
        )
        self.budget = RetryBudget()
        self.rate = Rate(upstream.rate_per_s, upstream.burst or 2 * upstream.rate_per_s)
        self.paused_until = -math.inf
        self.was_tried = False
        self.lines: dict[str, Lines] = {}
        for kind in KINDS:
            gauge = metrics.breaker_open.labels(name, kind)
            gauge.set(0)
            self.lines[kind] = Lines(rng, partial(self._changed, kind, gauge))

    def line(self, kind: Kind, url: httpx.URL) -> Line:
        """Whom a request goes to: pages are one line wherever redirects lead, files have one for each host and port."""
        return self.lines[kind].to(url.netloc.decode("ascii").lower() if kind == "file" else "")

    def is_doubtful(self, kind: Kind, line: Line) -> bool:
        """Whether to wait for it only briefly. When a registry's pages cannot be had, its file hosts may well be out of reach too."""
        return line.breaker.state != "closed" or (kind != "page" and self.lines["page"].state != "closed")

    def pause(self, kind: Kind, url: httpx.URL, wait_s: float | None) -> None:
        """Ask nothing for so long: of anybody, if the upstream itself says so, else of that host."""
        if wait_s is None:
            return
        until = trio.current_time() + wait_s
        if url.host.lower() in self.hosts:
            self.paused_until = max(self.paused_until, until)
        else:
            self.line(kind, url).paused_until = until

    def require_passable(self, line: Line, url: httpx.URL, now: float) -> None:
        """Raise ``Unavailable`` if a request would be refused now, by what upstream asked for or by the breaker."""
        until = max(line.paused_until, self.paused_until)
        if now < until:
            raise Unavailable(f"{url.host} asked us to wait", until - now)
        if line.breaker.retry_in_s(now) > 0:
            raise _silent(line, url, now)

    async def wait_turn(self, by: float) -> None:
        """Wait until the rate allows one request more. Raises ``Failed`` at once if that is not before ``by`` (trio's clock)."""
        now = trio.current_time()
        wait_s = self.rate.take(now)
        if now + wait_s > by:
            self.rate.give_back()
            raise Failed("busy", f"{self.home.host} is asked as often as it may be", max(1.0, wait_s))
        try:
            await trio.sleep(wait_s)
        except BaseException:  # cancelled
            self.rate.give_back()
            raise

    def require_outside(self, url: httpx.URL) -> None:
        """Behind a proxy nobody here sees what a name resolves to, but an address is one: it must be public or configured.

        Raises ``Failed``.
        """
        if not self.is_proxied or url.host.lower() in self.hosts:
            return
        address = literal(url.raw_host.decode("ascii"))
        if address is not None and network_of(address) != "public":
            raise Failed("address", f"{url.host} is a {network_of(address)} address, where its registry may not send us")

    def _changed(self, kind: Kind, gauge: Gauge, is_open: bool) -> None:
        gauge.set(is_open)
        news = "upstream does not answer" if is_open else "upstream answers again"
        log.warning(news, extra={"registry": self.name, "kind": kind})


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One request as it is meant. Any status but ``statuses`` (and 304 for a conditional request) is a failure."""

    kind: Kind
    gate: Gate
    method: str
    url: str
    fields: Headers
    statuses: AbstractSet[int]
    redirects: int
    content: bytes = b""


@dataclass(slots=True)
class _Pace:
    """What is left of a request's time: when its first byte must be there (trio's clock), and the seconds to spend on connecting.

    ``is_fair`` is False if our own queue took most of it: then silence is no evidence. ``is_paid`` says that a turn was waited for, for the
    next request that is sent.
    """

    head_by: float
    connect_left_s: float
    is_fair: bool = True
    is_paid: bool = False


class _Chunks:
    """A file's bytes. Ends by ``Unavailable`` or ``Corrupt`` unless all came that were announced."""

    def __init__(self, source: RegistrySource, link: _Link, answer: Answer, head: FileHead, limit: int, filename: str) -> None:
        self._source = source
        self._link = link
        self._answer = answer
        self._size = head.size
        self._at = head.start
        self._limit = limit
        self._filename = filename

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        try:
            part = await self._answer.part()
            if part is None:
                if self._size is not None and self._at != self._size:
                    raise Failed("short-body", f"{self._filename} ended after {self._at} of {self._size} bytes")
                raise StopAsyncIteration
            self._at += len(part)
            if self._at > (self._limit if self._size is None else self._size):
                raise Failed("oversized", f"{self._filename} is longer than it may be")
            return part
        except Failed as failed:
            self._source._count_failure(self._link, "file", failed)
            raise failed.error() from failed.__cause__


def _conditions(known: Known | None) -> Headers:
    fields: list[tuple[str, str]] = []
    if known is not None and known.etag:
        fields.append(("If-None-Match", known.etag))
    if known is not None and known.last_modified:
        fields.append(("If-Modified-Since", known.last_modified))
    return tuple(fields)


def _silent(line: Line, url: httpx.URL, now: float) -> Unavailable:
    return Unavailable(f"{url.host} does not answer", max(1, math.ceil(line.breaker.retry_in_s(now))))


def _request(link: _Link, wanted: _Wanted, url: httpx.URL, fields: Headers, trace: object) -> httpcore.Request:
    """A request with exactly these fields, ``Host``, and the credentials if it goes to their own place."""
    headers = [("Host", url.netloc.decode("ascii")), *fields]
    if link.authorization is not None and _origin(url) == _origin(link.home):
        headers.append(("Authorization", link.authorization))
    if wanted.method == "POST":
        headers.append(("Content-Length", str(len(wanted.content))))
    assert all(name.lower() in SENT for name, _ in headers)
    return httpcore.Request(
        wanted.method,
        httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        # Validators come back in the octets they came in.
        headers=[(name.encode("ascii"), value.encode("latin-1")) for name, value in headers],
        content=wanted.content or None,
        extensions={"trace": trace},
    )


def _redirected(url: httpx.URL, location: str, hosts: AbstractSet[str]) -> httpx.URL:
    """Where a redirect leads. Raises ``Failed`` if that is no place the listing or the settings name, or is less secure."""
    try:
        target = url.join(location).copy_with(username=None, password=None, fragment=None)
    except (httpx.InvalidURL, ValueError) as error:
        raise Failed("redirect-host", f"{url.host} redirects to something that is no URL") from error
    if target.scheme not in {"http", "https"} or target.host.lower() not in hosts:
        raise Failed("redirect-host", f"{url.host} redirects to {target.host or target.scheme}, which nothing here names")
    if url.scheme == "https" and target.scheme == "http":
        raise Failed("redirect-host", f"{url.host} redirects from https to http")
    return target


def _parse(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text).copy_with(username=None, password=None, fragment=None)
    except (httpx.InvalidURL, ValueError) as error:
        raise Failed("redirect-host", "upstream's listing names something that is no URL") from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise Failed("redirect-host", f"upstream's listing names a {url.scheme or 'relative'} URL")
    return url


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host.lower(), url.port


def _own_places(home: httpx.URL, aliases: Iterable[str]) -> frozenset[tuple[str, int]]:
    """The hosts and ports that the operator named: an alias without a port means the upstream's own and the web's."""
    own = home.port or (443 if home.scheme == "https" else 80)
    places = {(home.host.lower(), own)}
    for alias in aliases:
        host, _, port = alias.lower().partition(":")
        places |= {(host, int(port))} if port.isdigit() else {(host, port) for port in (own, 80, 443)}
    return frozenset(places)


def _authorization(upstream: Upstream, root: httpx.URL) -> str | None:
    """The credentials of an upstream: as configured, else those in its URL."""
    if upstream.token is not None:
        return f"Bearer {upstream.token}"
    username, password = upstream.username, upstream.password
    if username is None and root.username:
        username, password = root.username, root.password
    if username is None:
        return None
    return "Basic " + base64.b64encode(f"{username}:{password or ''}".encode()).decode("ascii")
