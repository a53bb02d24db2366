"""The mirror face: request -> registry -> page or file -> response.

What a request is about is answered alike whichever face was asked: an ``Offer`` holds all that differs. ``forward.py`` makes those of
the proxy face.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote

import msgspec
import trio

from origin import targets
from origin.catalog import Access
from origin.errors import NotFound, Unavailable, Unusable
from origin.files import Delivery
from origin.groups import members_for
from origin.held import PageView
from origin.http import Request, Response
from origin.http.coding import decoded, negotiate_coding
from origin.http.hot import HotPages
from origin.http.problems import outcome_of, problem, respond
from origin.logs import access, tell_access
from origin.metrics import Metrics
from origin.model import Face, File, Headers, Listing, Local, Page, Relay, Resource
from origin.registries import Registry
from origin.service import Service

from .render import Rendered, Renderings, Wish

log = logging.getLogger("leeward.mirror")

CODINGS = ("zstd", "gzip")
"""Codings offered for pages, preferred first. Files are never coded: pip does not decode them and fails the hash."""

FILE_CACHE_CONTROL = "max-age=365000000, immutable, public"
PAGE_CACHE_CONTROL = "no-cache"
"""pip (from 26.2) and uv obey ``max-age`` past a recall; a 304 costs less than the doubt."""

BODY_LIMIT_BYTES = 10_000_000
"""The most a relayed request may hold, decoded."""

RELISTING_S = 10.0
"""A view of something that a page confirmed longer ago than this lacks is looked for in a new one: it may have just been published."""

OUTAGE_NOTE = "the registry does not answer; this is what was held of it"


@dataclass(frozen=True, slots=True)
class Instance:
    """One registry where the mirror face offers it, or several of a kind, in the order they are asked in.

    ``path`` begins and ends with a slash.
    """

    members: tuple[Registry, ...]
    path: str

    @property
    def registry(self) -> Registry:
        """The first: all read requests alike."""
        return self.members[0]


@dataclass(frozen=True, slots=True)
class Offer:
    """What a face offers at the place that was asked: ``members`` in the order they are asked in.

    ``base`` is the URL that links are written beneath, None for links as published. ``location`` says where this client finds a target
    of theirs. ``user`` is who asks, where the face wants to know.
    """

    face: Face
    members: tuple[Registry, ...]
    base: str | None
    location: Callable[[str], str]
    user: str = ""

    @property
    def registry(self) -> Registry:
        """The first: all read requests alike."""
        return self.members[0]


@dataclass(slots=True)
class About:
    """What a request turned out to concern, for its metrics."""

    registry: str = ""
    kind: str = "other"
    outcome: str = ""


class Mirror:
    """Answers requests in origin form. ``ready`` is told by the node itself; ``deployment`` is our id in ``CDN-Loop``.

    ``root_pem`` gives the certificate that clients of the proxy face trust, None where there is no such face. ``shown`` hears of every
    listing that is shown as published, with its instance's name.
    """

    def __init__(
        self,
        instances: Iterable[Instance],
        service: Service,
        renderings: Renderings,
        hot: HotPages,
        metrics: Metrics,
        deployment: str,
        *,
        root_pem: Callable[[], bytes] | None = None,
        shown: Callable[[str, Listing], None] | None = None,
    ) -> None:
        # The longest path first, so that an instance beneath another's path is found.
        self._instances = sorted(instances, key=lambda i: -len(i.path))
        self._service = service
        self._renderings = renderings
        self._hot = hot
        self._metrics = metrics
        self._deployment = deployment
        self._root_pem = root_pem
        self._shown = shown

    async def handle(self, request: Request) -> Response:
        """Answer a request to the mirror face. Never raises: what goes wrong is a response with a reason."""
        return await self.answered(request, "mirror", self._route)

    async def answered(self, request: Request, face: Face, route: Callable[[Request, About], Awaitable[Response]]) -> Response:
        """What ``route`` answers, counted and timed; what it raises is an answer too."""
        started = trio.current_time()
        about = About()
        try:
            response = await route(request, about)
        except Exception as error:  # noqa: BLE001 -- the border: every failure is an answer; respond() logs what is our fault
            response = respond(error, request)
            about.outcome = outcome_of(error)
        if response.delivered is None:
            outcome = about.outcome or ("local" if response.status < 400 else "error")
            response.delivered = self._metrics.tally(face, about.registry, about.kind, outcome).delivered
        elapsed_s = trio.current_time() - started
        self._metrics.seconds.labels(about.kind).observe(elapsed_s)
        if access.isEnabledFor(logging.DEBUG):
            _tell(request, response, elapsed_s)
        return response

    async def _route(self, request: Request, about: About) -> Response:
        raw = request.target
        if (loop := self.loop(request)) is not None:
            return loop
        if not raw.startswith("/"):
            return problem(
                403, "Not a proxy", "this edge answers as a mirror only; use its address as the index URL", instance=raw
            )
        if raw.startswith("/-/"):
            about.kind = "local"
            return await self._local(request)
        for instance in self._instances:
            if raw.startswith(instance.path):
                meant = instance.registry.stray(raw, instance.path)
                target = raw[len(instance.path) :] if meant is None else meant
                return await self.offered(request, _offer(request, instance), target, about)
            if raw.partition("?")[0] == instance.path[:-1]:
                return _redirect(301, instance.path)
        for instance in self._instances:
            meant = instance.registry.stray(raw, instance.path)
            if meant is not None:
                return await self.offered(request, _offer(request, instance), meant, about)
        targets.parse(raw)
        paths = " ".join(instance.path for instance in self._instances)
        return problem(404, "Not found", f"no registry is offered at this path; there are {paths}", instance=raw)

    async def offered(self, request: Request, offer: Offer, target: str, about: About) -> Response:
        """Answer a request for ``target``, which is relative to the instance, as ``Registry.resource`` has it. May raise anything."""
        about.registry = offer.registry.name
        asked = offer.registry.resource(request.method, target)
        match asked:
            case Page() | File():
                about.kind = "page" if isinstance(asked, Page) else "file"
                claimed = offer.registry.claimed(asked)
                if offer.face == "mirror":
                    members = members_for(offer.members, claimed) if claimed else offer.members
                else:
                    # A host names one instance. It may be asked for what nobody claims, but not for what another one beside it does.
                    claiming = (
                        [each for each in members_for(self._beside(offer.registry), claimed) if each.groups] if claimed else ()
                    )
                    members = () if claiming and offer.registry not in claiming else offer.members
                if not members:
                    raise NotFound(f"no upstream here answers for {claimed}")
                about.registry = members[0].name
                if isinstance(asked, Page):
                    return await self._page(request, offer, members, target)
                return await self._file(request, offer, members, target)
            case Local():
                about.kind = "local"
                return self._answer(request, offer, asked)
            case Relay():
                about.kind = "relay"
                return await self._relay(request, asked)
            case None:
                about.outcome = "absent"
                return problem(404, "Not found", "there is no such thing in this registry", instance=request.target)

    def _beside(self, registry: Registry) -> Sequence[Registry]:
        """The instances that are offered at one path with ``registry``, itself among them."""
        return next((instance.members for instance in self._instances if registry in instance.members), (registry,))

    def loop(self, request: Request) -> Response | None:
        """The answer to a request that has been here before. Source: RFC 8586."""
        if f"id={self._deployment}" not in (request.header("cdn-loop") or ""):
            return None
        return problem(508, "Loop detected", "this request has already passed through this edge", instance=request.target)

    # ---- pages

    async def _page(self, request: Request, offer: Offer, members: Sequence[Registry], target: str) -> Response:
        registry = members[0]
        asked = [(member, _same(Page, member.resource(request.method, target))) for member in members]
        bases = [(member, member.basis(page)) for member, page in asked]
        page = asked[0][1]
        view = await self._service.page_of(bases, insist=registry.insists(request.header("cache-control") or "", target))
        media_type = registry.negotiate(page, request.header("accept"), target)
        coding = negotiate_coding(request.header("accept-encoding"), CODINGS)
        if media_type == "text/plain":
            coding = "identity"
        wish = Wish(page, media_type, coding, offer.base)
        # Links as published are the same for everyone, under whatever name we were asked.
        keep = request.listed or offer.base is None
        try:
            rendered = await self._renderings.render(registry, view, wish, keep=keep)
        except NotFound:
            if view.outcome != "stale":
                if self._service.clock() - view.received_at <= RELISTING_S:
                    raise
                view = await self._service.page_of(bases, insist=True)
            if view.outcome == "stale":
                # That something was not published yet is nothing that an outage may turn into its absence.
                raise Unavailable("whether there is such a thing by now cannot be asked", 5) from None
            rendered = await self._renderings.render(registry, view, wish, keep=keep)
        down = "upstream-down" in view.cache_status or "upstream-down" in view.trail
        fields = _noted(registry, view, rendered.fields) if down else rendered.fields
        response = Response(200, _page_headers(rendered, view.cache_status, fields, view.trail), rendered.body)
        if offer.base is None and self._shown is not None:
            self._shown(registry.name, view.listing)
        response.delivered = self._metrics.tally(offer.face, registry.name, "page", view.outcome).delivered
        if view.fresh and not down:
            kept = Response(200, _page_headers(rendered, "hit", rendered.fields), rendered.body)
            self._hot.keep(request, kept, view.validity, self._metrics.tally(offer.face, registry.name, "page", "hit"))
        return response

    # ---- files

    async def _file(self, request: Request, offer: Offer, members: Sequence[Registry], target: str) -> Response:
        registry = members[0]
        files = [_same(File, member.resource(request.method, target)) for member in members]
        if not files[0].path:
            path = await self._service.canonical_path(files[0])
            if offer.base is None:
                # Where it is published may be another host: nobody is sent there for what is at hand.
                return await self._file(request, offer, members, path)
            return _redirect(302, offer.location(path))
        delivery = await self._service.deliver_of(files, hold_s=registry.hold_s)
        headers = list(registry.file_headers(files[0], delivery.digests, delivery.last_modified))
        if all(name.lower() != "cache-control" for name, _ in headers):
            headers.append(("Cache-Control", FILE_CACHE_CONTROL))
        headers += [("Accept-Ranges", "bytes"), ("Cache-Status", _cache_status(delivery.cache_status, delivery.trail))]
        response = Response(200, headers, delivery.body)
        response.delivered = self._ledger(request, offer, delivery)
        return response

    # ---- relays

    async def _relay(self, request: Request, relay: Relay) -> Response:
        coding = request.header("content-encoding") or ""
        # A few kilobytes can be ten megabytes.
        reading = partial(decoded, request.body, coding, BODY_LIMIT_BYTES)
        body = await trio.to_thread.run_sync(reading) if coding else reading()
        answer = await self._service.relay(msgspec.structs.replace(relay, body=body))
        return Response(
            200,
            [("Content-Type", "application/json"), ("Cache-Control", "no-store"), ("Cache-Status", "leeward; fwd=miss")],
            answer,
        )

    def _ledger(self, request: Request, offer: Offer, delivery: Delivery) -> Callable[[int, bool], None]:
        tally = self._metrics.tally(offer.face, delivery.file.registry, "file", delivery.outcome)
        service = self._service
        client, user = request.client, offer.user

        def delivered(sent: int, complete: bool) -> None:
            tally.delivered(sent, complete)
            if sent:
                service.accesses.note(
                    Access(service.clock(), delivery.file.key, delivery.digest.value, client, user, sent, complete)
                )

        return delivered

    # ---- the rest

    def _answer(self, request: Request, offer: Offer, local: Local) -> Response:
        if local.location:
            return _redirect(local.status, offer.location(local.location))
        if local.status >= 400:
            response = problem(local.status, _TITLES.get(local.status, "Refused"), local.message, instance=request.target)
            if local.status == 405:
                response.headers.append(("Allow", "GET, HEAD"))
            return response
        headers = [("Content-Type", local.media_type or "text/plain"), ("Cache-Status", "leeward; detail=local")]
        return Response(local.status, headers, local.body)

    async def _local(self, request: Request) -> Response:
        target = targets.parse(request.target.partition("?")[0], encoded_slash=True)
        if request.method not in ("GET", "HEAD"):
            response = problem(405, "Method not allowed", "only GET and HEAD here", instance=request.target)
            response.headers.append(("Allow", "GET, HEAD"))
            return response
        match target.segments[1:]:
            case ("live",):
                return _text("live\n")
            case ("ready",):
                return _text("ready\n")
            case ("metrics",):
                return Response(
                    200,
                    [("Content-Type", "text/plain; version=0.0.4; charset=utf-8"), ("Cache-Control", "no-store")],
                    self._metrics.text(),
                )
            case ("ca.pem",) if self._root_pem is not None:
                try:
                    root = self._root_pem()
                except Unusable as error:
                    raise Unavailable(str(error)) from error
                return Response(200, [("Content-Type", "application/x-pem-file"), ("Cache-Control", "no-store")], root)
            case ("why", *purl) if purl:
                found = await self._service.why(unquote("/".join(purl)))
                body = msgspec.json.format(msgspec.json.encode(found), indent=2)
                return Response(200, [("Content-Type", "application/json"), ("Cache-Control", "no-store")], body + b"\n")
            case _:
                known = "/-/live /-/ready /-/metrics /-/why/<purl>" + (" /-/ca.pem" if self._root_pem is not None else "")
                return problem(404, "Not found", f"known here: {known}", instance=request.target)


_TITLES = {403: "Forbidden", 404: "Not found", 405: "Method not allowed", 501: "Not implemented"}


def _offer(request: Request, instance: Instance) -> Offer:
    return Offer("mirror", instance.members, request.base + instance.path, lambda target: instance.path + target)


def _same[T: Page | File](kind: type[T], resource: Resource | None) -> T:
    """Another member's reading of a request: they are of one kind and read alike."""
    assert isinstance(resource, kind), "members of one kind read a request alike"
    return resource


def _noted(registry: Registry, view: PageView, fields: Headers) -> Headers:
    """``fields`` with what a word about the outage adds or changes. Rendered pages are without it: an outage writes none anew."""
    plain = dict(registry.headers(view.listing, b"", view.last_modified))
    noted = registry.headers(view.listing, b"", view.last_modified, OUTAGE_NOTE)
    changed = {name: value for name, value in noted if plain.get(name) != value}
    return (*((name, changed.pop(name, value)) for name, value in fields), *changed.items())


def _cache_status(parameters: str, trail: str = "") -> str:
    """What each cache did, that nearest to the registry first. Source: RFC 9211."""
    return f"{trail}, leeward; {parameters}" if trail else f"leeward; {parameters}"


def _page_headers(rendered: Rendered, cache_status: str, fields: Headers, trail: str = "") -> list[tuple[str, str]]:
    headers = [
        ("Content-Type", rendered.media_type),
        ("ETag", rendered.etag),
        ("Cache-Control", PAGE_CACHE_CONTROL),
        ("Vary", "Accept, Accept-Encoding"),
        ("Cache-Status", _cache_status(cache_status, trail)),
    ]
    if rendered.coding != "identity":
        headers.append(("Content-Encoding", rendered.coding))
    headers.extend(fields)
    return headers


def _redirect(status: int, location: str) -> Response:
    # RFC 9110 allows a body; none is needed. pip keeps a 301 for good, which suits names and slashes.
    return Response(status, [("Location", location), ("Cache-Status", "leeward; detail=redirect")], b"")


def _text(text: str) -> Response:
    return Response(200, [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")], text.encode())


def _tell(request: Request, response: Response, elapsed_s: float) -> None:
    """Log the answer once it is delivered, if anybody reads at that level. Hits of the hot path are counted, not told."""
    counted = response.delivered

    def delivered(sent: int, complete: bool) -> None:
        if counted is not None:
            counted(sent, complete)
        tell_access(request.client, request.method, request.target, response.status, sent, elapsed_s)

    response.delivered = delivered
