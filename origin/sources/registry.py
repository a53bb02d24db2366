"""The registries themselves, asked over HTTP/1.1. One ``RegistrySource`` per node, over all its instances.

Every request is written here from a short list of fields; nothing of a client's request reaches an upstream, and no cookie comes
back to it. (That is why this speaks httpcore, the transport beneath httpx, rather than ``httpx.AsyncClient``: nothing is added that is not
written below, and the connections are ours to check.) Credentials go to their own upstream's scheme, host and port and nowhere else.

Time: 2 s to connect in all, 10 s to the first byte and 2 s once the upstream is in doubt; these bound a whole request with its retries
and redirects. The body may then take its time, but may not stall.

Read ``failures.py`` first (what can go wrong and what becomes of it), then ``breaker.py``, ``connect.py``, and from ``_exchange`` on.
"""

from __future__ import annotations

import base64
import logging
import math
import random
import re
import ssl
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Literal, cast

import httpcore
import httpx
import trio
from prometheus_client import Gauge

from .. import freshness
from ..errors import NotFound, Unavailable
from ..metrics import Metrics
from ..model import Clock, Digest, Entry, File, Headers, Page, Stamp
from ..registries import Registry
from . import Absent, Answer, FileHead, FileStream, Known, NotModified, Received
from .breaker import Breaker
from .connect import open_pool, trust
from .failures import Failed, translate
from .retries import ATTEMPTS, RetryBudget, pause_s, retry_after_s

log = logging.getLogger(__name__)

type Kind = Literal["page", "file"]

KINDS: tuple[Kind, ...] = ("page", "file")

PAGE_REDIRECTS = 5
FILE_REDIRECTS = 3

SENT = frozenset(
    {"accept", "accept-encoding", "authorization", "cdn-loop", "host", "if-modified-since", "if-none-match"}
    | {"if-range", "range", "user-agent", "via"}
)
"""The only fields that ever leave for an upstream."""

SERIALS: Mapping[str, str] = {"pypi": "x-pypi-last-serial"}
"""The response field that tells a page's serial, by kind of registry."""

OLDER_PAGE_S = 30.0
"""How long what is held counts as fresh after upstream showed an older page than that: its caches disagree after a publish."""

DRAINED_BYTES = 64 * 1024
"""A body nobody wants is read up to this, to keep its connection; beyond, the connection is closed."""

SLICE_BYTES = 1024 * 1024
"""Decompressed at a time, so that a bomb neither stalls the loop nor outgrows its limit."""

SHORT_S = 0.05
"""With less time than this left to connect it is not tried again."""

PATIENCE_S = 1.0
"""How long after a breaker may be probed its prober leaves that to a real request."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. ``doubtful_first_byte_s`` is in force at start and while a breaker is not closed; ``page_s`` bounds a page's whole body.

    ``queue_s`` bounds the wait for one of our own places when all are taken by transfers that run; the times above begin after it.
    """

    connect_s: float = 2.0
    first_byte_s: float = 10.0
    doubtful_first_byte_s: float = 2.0
    stall_s: float = 15.0
    page_s: float = 120.0
    queue_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """One instance's upstream, as configured. ``aliases`` are further host names that mean it; ``fresh_s`` caps the life it gives pages.

    ``token`` is sent as Bearer, ``username`` and ``password`` as Basic. Limits are in bytes after decompression.
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
    files_at_once: int = 16


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

    async def page(self, page: Page, known: Known | None) -> Answer:
        """Fetch or revalidate a page. Raises ``Unavailable`` or ``Corrupt``."""
        link = self._links[page.registry]
        rules = link.upstream.registry
        try:
            url = rules.locate(page, None)
        except NotFound:
            return Absent(404, freshness.negative_stamp(self._clock(), self._random.uniform(0.67, 1.33)))
        fields = (*rules.ask(page), ("Accept-Encoding", "gzip"))
        wanted = _Wanted("page", "GET", url, fields, {200, 404, 410}, PAGE_REDIRECTS)
        async with self._exchange(link, wanted, _conditions(known)) as answer:
            now = self._clock()
            if answer.status in {404, 410}:
                return Absent(answer.status, freshness.negative_stamp(now, self._random.uniform(0.67, 1.33)))
            stamp = self._stamp(answer, now, link)
            if answer.status == 304:
                return NotModified(stamp)
            serial = _number(answer.field(SERIALS.get(rules.kind, "")))
            if known is not None and known.serial is not None and serial is not None and serial < known.serial:
                self._count_failure(link, "page", Failed("serial", "an older page than the one held"))
                return NotModified(Stamp(now + OLDER_PAGE_S, stamp.stale_until))
            body = await _read_page(answer, link.upstream)
            return Received(
                body,
                answer.media_type,
                str(answer.url),
                stamp,
                answer.field("etag"),
                answer.field("last-modified"),
                serial,
                answer.headers,
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
        wanted = _Wanted("file", "GET", entry.url, tuple(fields), statuses, FILE_REDIRECTS)
        async with self._exchange(link, wanted) as answer:
            if answer.status in {404, 410}:
                raise NotFound(f"upstream no longer has {file.filename}")
            head = _file_head(answer, start)
            limit = link.upstream.sidecar_limit_bytes if file.filename.endswith(".metadata") else link.upstream.file_limit_bytes
            if head.size is not None and head.size > limit:
                raise Failed("oversized", f"{file.filename} has {head.size} bytes; at most {limit} are accepted")
            yield FileStream(head, _Chunks(self, link, answer, head, limit, file.filename))

    async def exists(self, file: File, url: str) -> bool:
        """Whether upstream still has bytes at ``url``. Raises ``Unavailable`` (or ``Corrupt``, if it answers nonsense)."""
        link = self._links[file.registry]
        fields: Headers = (("Accept", "*/*"), ("Accept-Encoding", "identity"))
        statuses = {200, 204, 206, 404, 405, 410, 416, 501}
        async with self._exchange(link, _Wanted("file", "HEAD", url, fields, statuses, FILE_REDIRECTS)) as answer:
            status = answer.status
        if status in {405, 501}:
            fields = (*fields, ("Range", "bytes=0-0"))
            async with self._exchange(link, _Wanted("file", "GET", url, fields, statuses - {501}, FILE_REDIRECTS)) as answer:
                status = answer.status
        return status not in {404, 405, 410}

    def available(self, registry: str, kind: str) -> bool:
        """Whether it is worth waiting for an answer, decided without I/O; see ``Source``."""
        link = self._links.get(registry)
        if link is None or kind not in KINDS or not link.was_tried:
            return False
        now = trio.current_time()
        return now >= link.paused_until[kind] and link.breakers[kind].is_trusted(now)

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
        """The breakers' states, by registry and kind."""
        return {name: {kind: link.breakers[kind].state for kind in KINDS} for name, link in self._links.items()}

    async def _tend(self, link: _Link) -> None:
        if not await self._knock(link, "page"):
            now = trio.current_time()
            for kind in KINDS:
                if link.breakers[kind].state == "closed":
                    link.breakers[kind].open(now)
        link.was_tried = True
        async with trio.open_nursery() as nursery:
            for kind in KINDS:
                nursery.start_soon(self._probe_while_open, link, kind)

    async def _probe_while_open(self, link: _Link, kind: Kind) -> None:
        breaker = link.breakers[kind]
        while True:
            await link.opened[kind].wait()
            await trio.sleep(breaker.retry_in_s(trio.current_time()) + PATIENCE_S)
            if breaker.state != "closed" and not breaker.retry_in_s(trio.current_time()):
                await self._knock(link, kind)

    async def _knock(self, link: _Link, kind: Kind) -> bool:
        """Send one cheap request and say whether anybody answered, whatever the answer. False too if the breaker refuses it."""
        timeouts = link.upstream.timeouts
        url = link.wanted_url[kind] or link.home
        pace = _Pace(trio.current_time() + timeouts.doubtful_first_byte_s, timeouts.connect_s)
        wanted = _Wanted(kind, "HEAD", str(url), (("Accept", "*/*"), ("Accept-Encoding", "identity")), set(), 0)
        try:
            answer = await self._send(link, wanted, url, wanted.fields, pace, timeouts.doubtful_first_byte_s, decides=True)
        except Failed as failed:
            self._count_failure(link, kind, failed)
            return not failed.failure.is_dead
        except Unavailable:
            return False
        await answer.discard()
        return True

    # -- one request, with its retries and redirects

    @asynccontextmanager
    async def _exchange(self, link: _Link, wanted: _Wanted, conditions: Headers = ()) -> AsyncIterator[_Answer]:
        """Ask, and give the answer while its body lasts. Raises ``Unavailable`` or ``Corrupt``, also for ``Failed`` out of the block."""
        kind, timeouts = wanted.kind, link.upstream.timeouts
        try:
            with trio.move_on_after(timeouts.queue_s) as scope:
                await link.gates[kind].acquire()
            if scope.cancelled_caught:
                raise Failed("busy", f"too many requests to {link.home.host} are under way")
            try:
                now = trio.current_time()
                if now < link.paused_until[kind]:
                    raise Unavailable(f"{link.home.host} asked us to wait", link.paused_until[kind] - now)
                pace = _Pace(now + timeouts.first_byte_s, timeouts.connect_s)
                answer = await self._ask(link, wanted, conditions, pace)
                try:
                    yield answer
                finally:
                    await answer.leave()
            finally:
                link.gates[kind].release()
        except Failed as failed:
            self._count_failure(link, kind, failed)
            raise failed.error() from failed.__cause__

    async def _ask(self, link: _Link, wanted: _Wanted, conditions: Headers, pace: _Pace) -> _Answer:
        """Attempts until one brings a usable answer. Only the first carries the conditions.

        In July 2016 npm's conditional requests hung while plain ones were answered: a failed conditional request is repeated plainly.
        """
        link.budget.earn()
        for attempt in count(1):
            try:
                return await self._walk(link, wanted, conditions, pace)
            except Failed as failed:
                wait_s = pause_s(attempt + 1, self._random)
                again_plainly = bool(conditions) and failed.failure.label in {"slow-first-byte", "reset", "http-5xx", "status"}
                may_retry = (
                    (again_plainly or failed.failure.is_retried)
                    and failed.retry_after_s is None
                    and attempt < ATTEMPTS
                    and (pace.connect_left_s > SHORT_S or failed.failure.label not in {"connect", "dns"})
                    and link.breakers[wanted.kind].state != "open"
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

    async def _walk(self, link: _Link, wanted: _Wanted, conditions: Headers, pace: _Pace) -> _Answer:
        """One attempt: the request, and those that redirects ask for. Raises ``Failed`` for anything but the wanted statuses."""
        url = _parse(wanted.url)
        hosts = link.hosts | {url.host.lower()}
        seen = {url}
        first_byte_s = link.first_byte_s(wanted.kind)
        if conditions:
            first_byte_s /= 2  # the other half is for asking again without them
        while True:
            answer = await self._send(
                link, wanted, url, (*wanted.fields, *conditions), pace, first_byte_s, decides=not conditions
            )
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
        first_byte_s: float,
        *,
        decides: bool,
    ) -> _Answer:
        """Send one request and wait for the answer's head. Raises ``Failed``; ``Unavailable`` if the breaker refuses.

        ``decides`` is False for a conditional request: if it is met with silence, the plain one after it tells whether upstream is dead.
        """
        breaker, kind = link.breakers[wanted.kind], wanted.kind
        started = trio.current_time()
        permit = breaker.admit(started)
        if permit is None:
            raise Unavailable(f"{link.home.host} does not answer", max(1, math.ceil(breaker.retry_in_s(started))))
        if permit.is_probe:
            first_byte_s = min(first_byte_s, link.upstream.timeouts.doubtful_first_byte_s / (1 if decides else 2))
        link.wanted_url[kind] = url
        self._metrics.upstream_requests.labels(link.name, kind, self.name).inc()
        headers = [("Host", url.netloc.decode("ascii")), *self._identity, *fields]
        if link.authorization is not None and _origin(url) == _origin(link.home):
            headers.append(("Authorization", link.authorization))
        assert all(name.lower() in SENT for name, _ in headers)
        settled = is_connected = False
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
                    scope.deadline = min(pace.head_by, now + first_byte_s)

        request = httpcore.Request(
            wanted.method,
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=headers,
            extensions={"trace": follow},
        )
        try:
            with scope:
                response = await link.pool.handle_async_request(request)
                breaker.succeed(permit)
                settled = link.was_tried = True
                return _Answer(response, url, link, self._metrics, is_head=wanted.method == "HEAD")
            if is_connected:
                raise Failed("slow-first-byte", f"{url.host} has not answered")
            raise Failed("connect", f"no connection to {url.host} in time")
        except Exception as raised:  # noqa: BLE001 -- the border: whatever the transport raises becomes a Failed
            failed = raised if isinstance(raised, Failed) else translate(raised, url.host, answered=False)
            now = trio.current_time()
            if not is_connected:
                pace.connect_left_s -= now - started
            if failed.failure.is_dead and (decides or failed.failure.label != "slow-first-byte"):
                breaker.fail(permit, now)
            elif failed.failure.label == "status":
                breaker.succeed(permit)  # nonsense, but somebody is there
                link.was_tried = True
            else:
                breaker.withdraw(permit, now)
            settled = True
            raise failed from (None if failed is raised else raised)
        finally:
            if not settled:  # cancelled from outside
                breaker.withdraw(permit, trio.current_time())

    def _refusal(self, link: _Link, kind: Kind, answer: _Answer) -> Failed:
        """An answer that is none of those wanted, as a failure."""
        status, host = answer.status, answer.url.host
        wait_s = retry_after_s(answer.field("retry-after"), self._clock())
        match status:
            case 429:
                if wait_s is not None:
                    link.paused_until[kind] = trio.current_time() + wait_s
                return Failed("http-429", f"{host} limits how often we may ask (429)", wait_s or 30)
            case 403:
                return Failed("http-403", f"{host} refuses to answer us (403)", wait_s)
            case _ if 400 <= status < 500:
                return Failed("http-4xx", f"{host} answers {status}", wait_s)
            case _ if status >= 500:
                return Failed("http-5xx", f"{host} fails ({status})", wait_s)
            case _:
                return Failed("status", f"{host} answers {status}, which makes no sense here")

    def _stamp(self, answer: _Answer, now: float, link: _Link) -> Stamp:
        return freshness.stamp(answer.headers, now, cap_s=link.upstream.fresh_s, jitter=self._random.uniform(0.85, 1.15))

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
        self.pool = open_pool(root.host.lower(), self.hosts, context, upstream.proxy)
        self.gates = {
            "page": trio.Semaphore(upstream.pages_at_once),
            "file": trio.Semaphore(upstream.files_at_once),
        }
        self.budget = RetryBudget()
        self.paused_until: dict[str, float] = dict.fromkeys(KINDS, -math.inf)
        self.wanted_url: dict[str, httpx.URL | None] = dict.fromkeys(KINDS)
        self.was_tried = False
        self.opened: dict[str, trio.Event] = {kind: trio.Event() for kind in KINDS}
        self.breakers: dict[str, Breaker] = {}
        for kind in KINDS:
            gauge = metrics.breaker_open.labels(name, kind)
            gauge.set(0)
            self.breakers[kind] = Breaker(rng, partial(self._changed, kind, gauge))

    def first_byte_s(self, kind: Kind) -> float:
        timeouts = self.upstream.timeouts
        is_doubtful = self.breakers[kind].state != "closed"
        return timeouts.doubtful_first_byte_s if is_doubtful else timeouts.first_byte_s

    def _changed(self, kind: Kind, gauge: Gauge, is_open: bool) -> None:
        gauge.set(is_open)
        if is_open:
            self.opened[kind].set()
            log.warning("upstream does not answer", extra={"registry": self.name, "kind": kind})
        else:
            self.opened[kind] = trio.Event()
            log.warning("upstream answers again", extra={"registry": self.name, "kind": kind})


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One request as it is meant. Any status but ``statuses`` (and 304 for a conditional request) is a failure."""

    kind: Kind
    method: str
    url: str
    fields: Headers
    statuses: AbstractSet[int]
    redirects: int


@dataclass(slots=True)
class _Pace:
    """What is left of a request's time: when its head must be there (trio's clock), and the seconds to spend on connecting."""

    head_by: float
    connect_left_s: float


class _Answer:
    """A response whose head came: its fields, and its body as it comes, counted, each wait bounded by the stall limit."""

    def __init__(self, response: httpcore.Response, url: httpx.URL, link: _Link, metrics: Metrics, *, is_head: bool) -> None:
        self.status = response.status
        self.url = url
        self.headers: Headers = tuple(
            (name.decode("ascii", "replace").lower(), value.decode("latin-1").strip())
            for name, value in response.headers
            if name.lower() not in {b"set-cookie", b"set-cookie2"}
        )
        self._response = response
        self._parts = aiter(cast("AsyncIterator[bytes]", response.stream))
        self._stall_s = link.upstream.timeouts.stall_s
        self._received = metrics.received_bytes
        self._is_head = is_head
        self._is_begun = self._is_ended = False

    def field(self, name: str) -> str | None:
        """The first value of a field, by lower-case name."""
        return next((value for known, value in self.headers if known == name), None)

    @property
    def media_type(self) -> str:
        """The media type alone, lower-case, ``""`` if none is told."""
        return (self.field("content-type") or "").partition(";")[0].strip().lower()

    @property
    def coding(self) -> str:
        """The content coding, ``identity`` if none is told."""
        return (self.field("content-encoding") or "identity").strip().lower()

    @property
    def length(self) -> int | None:
        return _number(self.field("content-length"))

    async def part(self) -> bytes | None:
        """The next bytes of the body, None at its end. Raises ``Failed``."""
        self._is_begun = True
        try:
            with trio.fail_after(self._stall_s):
                part = await anext(self._parts)
        except StopAsyncIteration:
            self._is_ended = True
            return None
        except trio.TooSlowError:
            self._is_ended = True
            raise Failed("slow-body", f"{self.url.host} stopped in the middle of its answer") from None
        except Exception as raised:
            self._is_ended = True
            raise translate(raised, self.url.host, answered=True) from raised
        self._received.inc(len(part))
        return part

    async def leave(self) -> None:
        """Be done with it: close a transfer that may be long, read the short rest of anything else."""
        if self.status in {200, 206} and not self._is_head:
            await self.aclose()
        else:
            await self.discard()

    async def discard(self) -> None:
        """Read a short rest, to keep the connection; then close."""
        left = DRAINED_BYTES
        try:
            with suppress(Failed), trio.move_on_after(1):
                while left > 0 and (part := await self.part()) is not None:
                    left -= len(part)
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close the response; its connection too, unless the body was read to its end. Waits for nobody."""
        # Not bounded by a number but by what it does: closing a socket, which takes no time, and TLS without waiting for a reply.
        with trio.CancelScope(shield=True):
            await self._response.aclose()
            # httpcore's iterators are generators inside generators. Trio warns of those that are dropped half way, so they are run
            # to their end: what was buffered, then the error of reading from a closed socket.
            with suppress(Exception):
                while self._is_begun and not self._is_ended:
                    await anext(self._parts)


class _Chunks:
    """A file's bytes. Ends by ``Unavailable`` or ``Corrupt`` unless all came that were announced."""

    def __init__(self, source: RegistrySource, link: _Link, answer: _Answer, head: FileHead, limit: int, filename: str) -> None:
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


async def _read_page(answer: _Answer, upstream: Upstream) -> bytes:
    """A page's body, decompressed. Raises ``Failed`` if it is too large, never ends, stops early or is not what its coding says."""
    limit = upstream.page_limit_bytes
    if answer.coding not in {"identity", "gzip", "x-gzip"}:
        raise Failed("content-encoding", f"{answer.url.host} sent a page as {answer.coding[:32]!r}, which was not asked for")
    decoder = None if answer.coding == "identity" else zlib.decompressobj(wbits=31)
    parts: list[bytes] = []
    size = 0
    with trio.move_on_after(upstream.timeouts.page_s) as scope:
        while (part := await answer.part()) is not None:
            for piece in (part,) if decoder is None else _inflate(decoder, part):
                size += len(piece)
                if size > limit:
                    raise Failed("oversized", f"{answer.url.host} sent a page of more than {limit} bytes")
                parts.append(piece)
                if len(piece) == SLICE_BYTES:
                    await trio.lowlevel.checkpoint()
    if scope.cancelled_caught:
        raise Failed("oversized", f"{answer.url.host} sent a page that did not end within {upstream.timeouts.page_s:.0f} s")
    if decoder is not None and not decoder.eof:
        raise Failed("parse", f"{answer.url.host} sent a page whose compressed form is cut off")
    return b"".join(parts)


def _inflate(decoder: zlib._Decompress, part: bytes) -> Iterator[bytes]:
    """Decompress in slices. Raises ``Failed`` for broken data, and for more after the end of the stream."""
    try:
        while True:
            piece = decoder.decompress(part, SLICE_BYTES)
            if piece:
                yield piece
            part = decoder.unconsumed_tail
            if not part and len(piece) < SLICE_BYTES:
                break
    except zlib.error as error:
        raise Failed("parse", f"a compressed page cannot be read: {error}") from error
    if decoder.unused_data:
        raise Failed("parse", "a compressed page goes on after its end")


def _file_head(answer: _Answer, start: int) -> FileHead:
    """What was said before a file's bytes. Raises ``Failed`` for a coding, and for a range other than the one asked for."""
    if answer.coding != "identity":
        raise Failed(
            "content-encoding", f"{answer.url.host} sent a file as {answer.coding[:32]!r} although identity was asked for"
        )
    etag, modified = answer.field("etag"), answer.field("last-modified")
    # If-Range needs a strong validator: "An origin server MUST use the strong comparison function" (RFC 9110 §13.1.5, in short).
    strong = etag if etag and not etag.startswith("W/") else None if etag else modified
    if answer.status == 200:
        return FileHead(answer.length, 0, answer.media_type, strong, _digests(answer))
    told = answer.field("content-range") or ""
    found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", told, re.ASCII)
    first, last, size = (int(number) for number in found.groups()) if found else (0, 0, 0)
    if not found or first != start or last != size - 1 or answer.length not in {None, last - first + 1}:
        raise Failed("range", f"{answer.url.host} sent {told[:64] or 'no Content-Range'!r} when asked for bytes from {start} on")
    return FileHead(size, start, answer.media_type, strong, _digests(answer))


def _digests(answer: _Answer) -> tuple[Digest, ...]:
    """The digests of the whole file told in fields: ``Repr-Digest`` (RFC 9530), ``X-Checksum-…`` (Maven repositories)."""
    found: list[Digest] = []
    for name, value in answer.headers:
        with suppress(ValueError):
            if name.startswith("x-checksum-"):
                found.append(Digest.parse(name.removeprefix("x-checksum-"), value))
            elif name == "repr-digest":
                for algorithm, text in re.findall(r"(sha-256|sha-512)=:([A-Za-z0-9+/=]+):", value):
                    octets = base64.b64decode(text, validate=True)
                    found.append(Digest.parse(algorithm.replace("-", ""), octets.hex()))
    return tuple(found)


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


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else None
