"""The face that nodes of ours are shown: pages and files as this node's policy leaves them, by ``wire``'s addresses.

An origin shows all of it, with ``following.py`` for what is no package. A sibling shows what it holds and asks nobody: what is not here
is not known, and 503 sends the asker on. Whoever asks says who it is; nothing is told to anybody else, but how to enrol.
"""

from __future__ import annotations

import base64
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Protocol
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec
import trio

from .. import freshness, targets
from ..catalog import ABSENT, Access, Catalog
from ..errors import NotFound, Refused, Unavailable
from ..files import Delivery
from ..http import Request, Response
from ..http.coding import encode, negotiate_coding
from ..http.problems import outcome_of, problem, respond
from ..http.ranges import matches_weakly
from ..metrics import Metrics
from ..model import Digest, File, Headers, Hold, Local, Page, Relay
from ..model import Face as Faces
from ..registries import Registry
from ..service import Service
from .wire import (
    NONCE,
    PAGE_TYPE,
    PROOF,
    ROOT,
    STAMP,
    VERDICTS,
    Existence,
    PageFacts,
    Relaying,
    frame_page,
    page_etag,
    proven_text,
    stamp_text,
)

log = logging.getLogger("leeward.replication")

CODINGS = ("zstd", "gzip")

HOLD_S = 8.0
"""How long a file's first byte is waited for, unless the asker says (``Prefer: wait=``): it gives a silent node ten seconds."""

LONGEST_HOLD_S = 60.0

SOONER_S = 1.0
"""How much sooner than the asker's patience ends it is told that there is nothing yet, so that it hears of it."""

LARGE_BYTES = 64 * 1024
"""Pages beyond this are framed and coded in a worker thread."""

MEMORY_BYTES = 32 << 20
"""How much of framed pages is kept."""

UNKNOWN_REGISTRY_S = 60
"""When to ask again about a registry that this node does not have: that is a matter of settings."""

type Query = Mapping[str, str]


@dataclass(slots=True)
class About:
    """What a request turned out to concern: who asks, and labels for metrics."""

    node: str = ""
    registry: str = ""
    kind: str = "other"
    outcome: str = ""


class Rest(Protocol):
    """What an origin answers besides packages; ``following.Following`` is it."""

    @property
    def revision(self) -> int:
        """The revision of the verdicts in force."""
        ...

    def heard(self, node: str, request: Request) -> None:
        """An edge asked for something."""
        ...

    async def enrol(self, request: Request) -> Response:
        """Answer the one request that nobody has to be known for."""
        ...

    async def answer(self, node: str, request: Request, segments: Sequence[str], query: Query) -> Response | None:
        """Answer whatever else there is; None for what there is not."""
        ...


class Face:
    """Answers requests of other nodes. ``who`` tells from an ``Authorization`` value which node asks, None if it is none of ours.

    ``rest`` is what an origin answers besides packages. ``held_only`` makes it a sibling's: nobody is asked for what is not held.
    ``deployment`` is our id in ``CDN-Loop``. ``prove`` signs what is answered to somebody who wants that proven.
    """

    def __init__(
        self,
        service: Service,
        catalog: Catalog,
        registries: Mapping[str, Registry],
        metrics: Metrics,
        deployment: str,
        who: Callable[[str | None], str | None],
        *,
        rest: Rest | None = None,
        held_only: bool = False,
        prove: Callable[[str], str] | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        assert rest is None or not held_only
        self._service = service
        self._catalog = catalog
        self._registries = registries
        self._metrics = metrics
        self._deployment = deployment
        self._who = who
        self._rest = rest
        self._held_only = held_only
        self._prove = prove
        self._face: Faces = "sibling" if held_only else "replication"
        self._framed = _Framed(memory_bytes)

    async def handle(self, request: Request) -> Response:
        """Answer a request. Never raises: what goes wrong is a response with a reason."""
        about = About()
        try:
            response = await self._route(request, about)
        except Refused as error:
            about.outcome = "refused"
            response = _refused(error, request)
        except Exception as error:  # noqa: BLE001 -- the border: every failure is an answer; respond() logs what is our fault
            about.outcome = outcome_of(error)
            response = respond(error, request)
        if about.node and self._rest is not None:
            response.headers.append((VERDICTS, str(self._rest.revision)))
        if about.node and self._prove is not None and (nonce := request.header(NONCE)):
            if isinstance(response.body, bytes) and response.header("repr-digest") is None:
                response.headers += digest_fields([Digest("sha256", sha256(response.body).hexdigest())])
            response.headers.append((PROOF, self._prove(proven_text(nonce, request.target, response.status, response.header))))
        if response.delivered is None:
            outcome = about.outcome or ("local" if response.status < 400 else "error")
            response.delivered = self._metrics.tally(self._face, about.registry, about.kind, outcome).delivered
        return response

    async def _route(self, request: Request, about: About) -> Response:
        raw = request.target
        if f"id={self._deployment}" in (request.header("cdn-loop") or ""):
            return problem(508, "Loop detected", "this request has already passed through this node", instance=raw)
        if not raw.startswith(ROOT):
            return problem(404, "Not found", f"nodes are answered beneath {ROOT}", instance=raw)
        path, _, rest = raw[len(ROOT) :].partition("?")
        if path.startswith("/"):
            raise ValueError("empty segment in the request target")
        if path == "enrol" and self._rest is not None:
            return await self._rest.enrol(request) if request.method == "POST" else _wrong_method(request, "POST")
        node = self._who(request.header("authorization"))
        if node is None:
            about.outcome = "unknown"
            return unknown(raw)
        about.node = node
        if self._rest is not None:
            self._rest.heard(node, request)
        query = _query(rest)
        segments = targets.parse(path, encoded_slash=True).segments
        match segments:
            case ("ping",):
                return _reading(request) or Response(204, [("Cache-Control", "no-store")])
            case ("pages", registry, *project) if len(project) <= 1:
                return _reading(request) or await self._page(request, about, registry, "".join(project), query.get("view", ""))
            case ("files", registry, _, *_):
                about.kind = "file"
                return _reading(request) or await self._file(request, about, registry, _beneath(path))
            case ("existence", registry, _, *_):
                return _reading(request) or await self._existence(about, registry, _beneath(path))
            case ("relays", registry):
                about.kind = "relay"
                return _posting(request) or await self._relay(request, about, registry)
            case ("blobs", "sha256", value):
                about.kind = "file"
                return _reading(request) or await self._blob(request, about, Digest.parse("sha256", value))
            case _:
                found = await self._rest.answer(node, request, segments, query) if self._rest is not None else None
                return found or problem(404, "Not found", "there is no such thing here", instance=raw)

    def _registry(self, about: About, name: str) -> Registry:
        registry = self._registries.get(name)
        if registry is None:
            # Nobody can say here whether there is such a thing: it must not pass for an absence.
            raise Unavailable(f"this node has no registry named {name[:64]}", UNKNOWN_REGISTRY_S)
        about.registry = name
        return registry

    # ---- pages

    async def _page(self, request: Request, about: About, name: str, project: str, view: str) -> Response:
        about.kind = "page"
        registry = self._registry(about, name)
        page = page_of(registry, project, view)
        try:
            if self._held_only:
                found = await self._service.held_page(page)
                if found is None:
                    raise Unavailable("this page is not held here", 5)
            else:
                found = await self._service.page(page, max_age_s=_max_age_s(request))
        except NotFound as error:
            about.outcome = "absent"
            return await self._absence(request, page, error)
        except Refused as error:
            about.outcome = "refused"
            return await self._refusal(request, page, error)
        about.outcome = found.outcome
        now = self._service.clock()
        listing = found.listing
        facts = PageFacts(
            media_type=registry.variants(page)[0],
            url=registry.locate(page, None),
            serial=found.serial,
            last_modified=found.last_modified,
            restrictions=dict(listing.restrictions),
            restricted_at=listing.restricted_at,
        )
        told = (
            (STAMP, stamp_text(found.stamp.fresh_until - now, found.stamp.stale_until - now, max(0.0, now - found.received_at))),
            ("Cache-Control", "no-store"),
            ("Vary", "Accept-Encoding"),
            ("Cache-Status", f"leeward; {found.cache_status}"),
        )
        framed = await self._framed.page(page, facts, listing.document)
        fields = [("ETag", framed.etag), *told]
        if matches_weakly(request.header("if-none-match") or "", framed.etag):
            return Response(304, fields)
        coding = negotiate_coding(request.header("accept-encoding"), CODINGS)
        body, digest = await framed.coded(coding)
        fields += [("Content-Type", PAGE_TYPE), ("Repr-Digest", digest)]
        if coding != "identity":
            fields.append(("Content-Encoding", coding))
        return Response(200, fields, body)

    async def _absence(self, request: Request, page: Page, error: NotFound) -> Response:
        """A clean absence, with how long it may be believed."""
        answer = await self._catalog.answer(page)
        now = self._service.clock()
        response = respond(error, request)
        # One that could not be written down is believed for this once.
        fresh_s, stale_s, ago_s = 0.0, freshness.STALE_S, 0.0
        if answer is not None and answer.status in ABSENT:
            response.status = answer.status
            fresh_s, stale_s = answer.stamp.fresh_until - now, answer.stamp.stale_until - now
            ago_s = max(0.0, now - answer.received_at)
        response.headers.append((STAMP, stamp_text(fresh_s, stale_s, ago_s)))
        return response

    async def _refusal(self, request: Request, page: Page, error: Refused) -> Response:
        """A page of which nothing may be served, with how old what is known of it is."""
        response, answer = _refused(error, request), await self._catalog.answer(page)
        if answer is not None and answer.status == 200:
            response.headers.append((STAMP, stamp_text(0.0, 0.0, max(0.0, self._service.clock() - answer.received_at))))
        return response

    # ---- files

    async def _file(self, request: Request, about: About, name: str, target: str) -> Response:
        registry = self._registry(about, name)
        file = await self._canonical(registry, file_of(registry, target))
        if self._held_only:
            delivery = await self._service.held_file(file)
            if delivery is None:
                raise Unavailable("this file is not held here", 5)
        else:
            delivery = await self._service.deliver(file, hold_s=_hold_s(request))
        fields = registry.file_headers(delivery.file, delivery.digests, delivery.last_modified)
        return self._delivered(request, about, delivery, fields)

    async def _canonical(self, registry: Registry, file: File) -> File:
        if file.path or self._held_only:
            return file
        return file_of(registry, await self._service.canonical_path(file))

    async def _blob(self, request: Request, about: About, digest: Digest) -> Response:
        delivery = await self._service.blob(digest)
        if delivery is None and self._held_only:
            raise Unavailable("these bytes are not held here", 5)
        if delivery is None:
            raise NotFound("these bytes are not held here")
        about.registry = delivery.file.registry
        return self._delivered(request, about, delivery, (("Content-Type", "application/octet-stream"), ("ETag", f'"{digest}"')))

    def _delivered(self, request: Request, about: About, delivery: Delivery, headers: Headers) -> Response:
        """A file's answer. ``headers`` are those that say what it is."""
        fields = [(name, value) for name, value in headers if not name.lower().startswith(("x-checksum-", "cache-control"))]
        if delivery.last_modified and all(name.lower() != "last-modified" for name, _ in fields):
            fields.append(("Last-Modified", delivery.last_modified))
        fields += digest_fields(delivery.digests)
        fields += [
            ("Accept-Ranges", "bytes"),
            ("Cache-Control", "no-store"),
            ("Cache-Status", f"leeward; {delivery.cache_status}"),
        ]
        tally = self._metrics.tally(self._face, about.registry, "file", delivery.outcome)
        service, client, node = self._service, request.client, about.node

        def delivered(sent: int, complete: bool) -> None:
            tally.delivered(sent, complete)
            if sent:
                service.accesses.note(
                    Access(service.clock(), delivery.file.key, delivery.digest.value, client, node, sent, complete)
                )

        return Response(200, fields, delivery.body, delivered=delivered)

    async def _existence(self, about: About, name: str, target: str) -> Response:
        registry = self._registry(about, name)
        file = file_of(registry, target)
        if self._held_only:
            if await self._service.holds(file) is None:
                raise Unavailable("this file is not held here", 5)
            return message(Existence(True))
        return message(Existence(await self._service.exists(file)))

    # ---- relays

    async def _relay(self, request: Request, about: About, name: str) -> Response:
        registry = self._registry(about, name)
        if self._held_only:
            raise Unavailable("a sibling relays nothing", 5)
        asked = read(request.body, Relaying)
        relay = Relay(name, asked.method, asked.request, asked.body)
        meant = registry.resource(asked.method, asked.request)
        if isinstance(meant, Local) and meant.status == 404:
            raise NotFound(meant.message)
        if meant != Relay(name, asked.method, asked.request):
            raise ValueError(f"not a request that is relayed: {asked.request[:100]!r}")
        answer = await self._service.relay(relay)
        about.outcome = "miss"
        return Response(200, [("Content-Type", "application/json"), ("Cache-Control", "no-store")], answer)


# ---- what may be asked for ------------------------------------------------------------------------------------------


def page_of(registry: Registry, project: str, view: str) -> Page:
    """The page that another node names, if it is one that this registry has, and holds as such. Raises ``ValueError``.

    Names come over the network, and become part of an upstream's URL: what is asked there must mean that page again.
    """
    page = Page(registry.name, project, view)
    try:
        if not project or registry.normalise(project) == project:
            if view.startswith(_CHANGING):
                file = registry.resource("GET", quote(view.removeprefix(_CHANGING), safe="/@!,+~=:"))
                found: object = registry.listing_page(file) if isinstance(file, File) else None
            else:
                address = urlsplit(registry.locate(page, None))
                target = registry.meaning(address.path + (f"?{address.query}" if address.query else ""), files=False)
                found = registry.resource("GET", target) if target is not None else None
            if found == page and registry.basis(page) == page:
                return page
    except (ValueError, LookupError):
        pass  # no such name, or no such view
    raise ValueError(f"{registry.name} has no page {project[:100]!r} {view[:100]!r}".replace(" ''", ""))


_CHANGING = "file/"
"""Before the path of a file that may change: its page is its checksum (Maven)."""


def file_of(registry: Registry, target: str) -> File:
    """The file that a raw target means in a registry. Raises ``NotFound`` if it is none, ``ValueError`` for a malformed one."""
    found = registry.resource("GET", target)
    if not isinstance(found, File):
        raise NotFound(f"{target[:200]} is no file")
    return found


def _beneath(path: str) -> str:
    """What of ``files/<registry>/<path>`` is the registry's."""
    return path.split("/", 2)[2]


def _hold_s(request: Request) -> float:
    """How long the asker wants a file's first byte waited for. Source: RFC 7240 §4.3."""
    for preference in (request.header("prefer") or "").split(","):
        name, _, value = preference.partition("=")
        if name.strip().lower() == "wait" and value.strip().isdecimal():
            return max(SOONER_S, min(LONGEST_HOLD_S, float(value)) - SOONER_S)
    return HOLD_S


def _max_age_s(request: Request) -> float | None:
    """How long ago the registry itself may have been asked; None if the asker does not say. Source: RFC 9111 §5.2.1.1."""
    value = freshness.directives((("cache-control", request.header("cache-control") or ""),)).get("max-age")
    return float(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 10 else None


def _query(text: str) -> Query:
    """A query by name. Raises ``ValueError``."""
    try:
        return dict(parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), max_num_fields=8, errors="strict"))
    except ValueError:
        raise ValueError(f"malformed query: {text[:100]!r}") from None


def unknown(target: str) -> Response:
    """What is said to a node that is none of ours."""
    return problem(
        401,
        "Not known",
        "this is for nodes that enrolled here: `origin invite` at the origin, then `edge enrol` at the edge",
        headers=[("WWW-Authenticate", 'Bearer realm="leeward"')],
        instance=target,
    )


def _reading(request: Request) -> Response | None:
    return None if request.method in ("GET", "HEAD") else _wrong_method(request, "GET, HEAD")


def _posting(request: Request) -> Response | None:
    return None if request.method == "POST" else _wrong_method(request, "POST")


def _wrong_method(request: Request, allowed: str) -> Response:
    return problem(405, "Method not allowed", f"{allowed} only", headers=[("Allow", allowed)], instance=request.target)


def read[T](body: bytes, kind: type[T]) -> T:
    """A message. Raises ``ValueError``."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise ValueError(f"not the message that is expected here: {error}") from None


# ---- what is answered -----------------------------------------------------------------------------------------------


def message(told: msgspec.Struct) -> Response:
    """A message of ``wire``'s as an answer."""
    return Response(200, [("Content-Type", "application/json"), ("Cache-Control", "no-store")], msgspec.json.encode(told))


def _refused(error: Refused, request: Request) -> Response:
    """A refusal by policy, with what the asking node needs to pass it on as it is."""
    response = respond(error, request)
    assert isinstance(response.body, bytes)
    document = msgspec.json.decode(response.body, type=dict[str, object])
    document |= {"rule": error.verdict.rule, "reason": error.verdict.reason}
    if isinstance(error.verdict, Hold):
        document["until"] = error.verdict.until
    response.body = msgspec.json.encode(document)
    return response


def digest_fields(digests: Sequence[Digest]) -> list[tuple[str, str]]:
    """``Repr-Digest`` with those algorithms that it has (RFC 9530 §5), ``X-Checksum-…`` with all."""
    fields = [
        (f"X-Checksum-{digest.algorithm.upper()}", digest.value)
        for digest in {digest.algorithm: digest for digest in digests}.values()
    ]
    strong = [digest for digest in digests if digest.algorithm in ("sha256", "sha512")]
    if strong:
        fields.append(
            ("Repr-Digest", ", ".join(_field_member(digest.algorithm, bytes.fromhex(digest.value)) for digest in strong))
        )
    return fields


def _field_member(algorithm: str, digest: bytes) -> str:
    return f"{algorithm[:3]}-{algorithm[3:]}=:{base64.b64encode(digest).decode()}:"


# ---- pages, framed --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _FramedPage:
    """One state of a page: its ETag, and its body by coding, with its ``Repr-Digest``."""

    facts: PageFacts
    document: bytes
    etag: str
    threads: trio.CapacityLimiter
    made: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    making: trio.Lock = field(default_factory=trio.Lock)

    @property
    def size(self) -> int:
        return len(self.document) + sum(len(body) for body, _ in self.made.values())

    async def coded(self, coding: str) -> tuple[bytes, str]:
        """The body and its ``Repr-Digest``, made once for all."""
        async with self.making:
            made = self.made.get(coding)
            if made is None:

                def make() -> tuple[bytes, str]:
                    body = encode(frame_page(self.facts, self.document), coding)
                    return body, _field_member("sha256", sha256(body).digest())

                made = self.made[coding] = await _work(len(self.document), make, self.threads)
            return made


class _Framed:
    """The pages that were asked for last, in a budget of bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._pages: OrderedDict[Page, _FramedPage] = OrderedDict()
        self._threads = trio.CapacityLimiter(2)

    async def page(self, page: Page, facts: PageFacts, document: bytes) -> _FramedPage:
        known = self._pages.get(page)
        if known is not None and known.document is document and known.facts == facts:
            self._pages.move_to_end(page)
            return known
        etag = await _work(len(document), partial(page_etag, facts, document), self._threads)
        made = self._pages[page] = _FramedPage(facts, document, etag, self._threads)
        self._pages.move_to_end(page)
        total = sum(each.size for each in self._pages.values())
        while total > self._limit_bytes and len(self._pages) > 1:
            total -= self._pages.popitem(last=False)[1].size
        return made


async def _work[T](size_bytes: int, work: Callable[[], T], threads: trio.CapacityLimiter) -> T:
    if size_bytes <= LARGE_BYTES:
        return work()
    return await trio.to_thread.run_sync(work, limiter=threads)
