"""The mirror face: request -> registry -> page or file -> response."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

import msgspec
import trio

from origin import targets
from origin.catalog import Access
from origin.errors import Corrupt, NotFound, Refused, Unavailable
from origin.files import Delivery
from origin.http import Request, Response
from origin.http.coding import negotiate_coding
from origin.http.hot import HotPages
from origin.http.problems import problem, respond
from origin.logs import access, tell_access
from origin.metrics import Metrics, Tally
from origin.model import File, Local, Page, Relay
from origin.pages import PageView
from origin.registries import Registry
from origin.service import Service

from .render import Renderings

log = logging.getLogger("leeward.mirror")

CODINGS = ("zstd", "gzip")
"""Codings offered for pages, preferred first. Files are never coded: pip does not decode them and fails the hash."""

FILE_CACHE_CONTROL = "max-age=365000000, immutable, public"
PAGE_CACHE_CONTROL = "no-cache"
"""pip (from 26.2) and uv obey ``max-age`` past a recall; a 304 costs less than the doubt."""

HOLD_S: Mapping[str, float] = {"pypi": 8.0}
"""How long a client of each kind is left waiting for the first byte of a file before it is told to come back."""

DEFAULT_HOLD_S = 20.0


@dataclass(frozen=True, slots=True)
class Instance:
    """One registry where the mirror face offers it. ``path`` begins and ends with a slash."""

    registry: Registry
    path: str


@dataclass(slots=True)
class _About:
    """What a request turned out to concern, for its metrics."""

    registry: str = ""
    kind: str = "other"
    outcome: str = ""


class Mirror:
    """Answers requests in origin form. ``ready`` is told by the node itself; ``deployment`` is our id in ``CDN-Loop``."""

    def __init__(
        self,
        instances: Iterable[Instance],
        service: Service,
        renderings: Renderings,
        hot: HotPages,
        metrics: Metrics,
        deployment: str,
    ) -> None:
        # The longest path first, so that an instance beneath another's path is found.
        self._instances = sorted(instances, key=lambda i: -len(i.path))
        self._service = service
        self._renderings = renderings
        self._hot = hot
        self._metrics = metrics
        self._deployment = deployment

    async def handle(self, request: Request) -> Response:
        """Answer any request. Never raises: what goes wrong is a response with a reason."""
        started = trio.current_time()
        about = _About()
        try:
            response = await self._route(request, about)
        except Exception as error:  # noqa: BLE001 -- the border: every failure is an answer; respond() logs what is our fault
            response = respond(error, request)
            about.outcome = _outcome(error)
        if response.delivered is None:
            outcome = about.outcome or ("local" if response.status < 400 else "error")
            response.delivered = _counting(self._metrics.tally("mirror", about.registry, about.kind, outcome))
        elapsed_s = trio.current_time() - started
        self._metrics.seconds.labels(about.kind).observe(elapsed_s)
        if access.isEnabledFor(logging.DEBUG):
            _tell(request, response, elapsed_s)
        return response

    async def _route(self, request: Request, about: _About) -> Response:
        raw = request.target
        if self._loops(request):
            return problem(508, "Loop detected", "this request has already passed through this edge", instance=raw)
        if not raw.startswith("/"):
            return problem(
                403, "Not a proxy", "this edge answers as a mirror only; use its address as the index URL", instance=raw
            )
        if raw.startswith("/-/"):
            about.kind = "local"
            return await self._local(request)
        for instance in self._instances:
            if raw.startswith(instance.path):
                about.registry = instance.registry.name
                return await self._resource(request, instance, about)
            if raw.partition("?")[0] == instance.path[:-1]:
                return _redirect(301, instance.path)
        targets.parse(raw)
        paths = " ".join(instance.path for instance in self._instances)
        return problem(404, "Not found", f"no registry is offered at this path; there are {paths}", instance=raw)

    async def _resource(self, request: Request, instance: Instance, about: _About) -> Response:
        resource = instance.registry.resource(request.method, request.target[len(instance.path) :])
        match resource:
            case Page():
                about.kind = "page"
                return await self._page(request, instance, resource)
            case File():
                about.kind = "file"
                return await self._file(request, instance, resource)
            case Local():
                about.kind = "local"
                return self._answer(request, instance, resource)
            case Relay() | None:
                about.outcome = "absent"
                return problem(404, "Not found", "there is no such thing in this registry", instance=request.target)

    def _loops(self, request: Request) -> bool:
        return f"id={self._deployment}" in (request.header("cdn-loop") or "")

    # ---- pages

    async def _page(self, request: Request, instance: Instance, page: Page) -> Response:
        registry = instance.registry
        view = await self._service.page(page, insist=_insists(request))
        media_type = registry.negotiate(page, request.header("accept"), request.target)
        coding = negotiate_coding(request.header("accept-encoding"), CODINGS)
        base = request.base + instance.path
        rendered = await self._renderings.render(registry, view, media_type, coding, base, keep=request.listed)
        response = Response(
            200, _page_headers(registry, view, rendered.media_type, rendered.coding, rendered.etag), rendered.body
        )
        tally = self._metrics.tally("mirror", registry.name, "page", view.outcome)
        response.delivered = _counting(tally)
        if view.fresh:
            kept = Response(200, _page_headers(registry, view, media_type, coding, rendered.etag, "hit"), rendered.body)
            self._hot.keep(request, kept, view.validity, self._metrics.tally("mirror", registry.name, "page", "hit"))
        return response

    # ---- files

    async def _file(self, request: Request, instance: Instance, file: File) -> Response:
        registry = instance.registry
        if not file.path:
            return _redirect(302, instance.path + await self._service.canonical_path(file))
        delivery = await self._service.deliver(file, hold_s=HOLD_S.get(registry.kind, DEFAULT_HOLD_S))
        response = Response(
            200,
            [
                ("Content-Type", "application/octet-stream"),
                ("ETag", f'"sha256-{delivery.digest.value}"'),
                ("Cache-Control", FILE_CACHE_CONTROL),
                ("Accept-Ranges", "bytes"),
                ("Cache-Status", f"leeward; {delivery.cache_status}"),
            ],
            delivery.body,
        )
        response.delivered = self._ledger(request, delivery)
        return response

    def _ledger(self, request: Request, delivery: Delivery) -> Callable[[int, bool], None]:
        tally = self._metrics.tally("mirror", delivery.file.registry, "file", delivery.outcome)
        service = self._service
        client = request.client

        def delivered(sent: int, complete: bool) -> None:
            tally.count += 1
            tally.sent += sent
            if sent:
                service.accesses.note(
                    Access(service.clock(), delivery.file.key, delivery.digest.value, client, "", sent, complete)
                )

        return delivered

    # ---- the rest

    def _answer(self, request: Request, instance: Instance, local: Local) -> Response:
        if local.location:
            return _redirect(local.status, instance.path + local.location)
        if local.status >= 400:
            response = problem(local.status, _TITLES.get(local.status, "Refused"), local.message, instance=request.target)
            if local.status == 405:
                response.headers.append(("Allow", "GET, HEAD"))
            return response
        return Response(local.status, [("Content-Type", local.media_type or "text/plain")], local.body)

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
            case ("why", *purl) if purl:
                found = await self._service.why(unquote("/".join(purl)))
                body = msgspec.json.format(msgspec.json.encode(found), indent=2)
                return Response(200, [("Content-Type", "application/json"), ("Cache-Control", "no-store")], body + b"\n")
            case _:
                return problem(404, "Not found", "known here: /-/live /-/ready /-/metrics /-/why/<purl>", instance=request.target)


_TITLES = {403: "Forbidden", 404: "Not found", 405: "Method not allowed", 501: "Not implemented"}


def _insists(request: Request) -> bool:
    """Whether the client wants upstream asked: what ``--refresh`` sends. ``max-age=0`` is what old pips always send: no."""
    return "no-cache" in (request.header("cache-control") or "")


def _page_headers(
    registry: Registry, view: PageView, media_type: str, coding: str, etag: str, cache_status: str | None = None
) -> list[tuple[str, str]]:
    headers = [
        ("Content-Type", media_type),
        ("ETag", etag),
        ("Cache-Control", PAGE_CACHE_CONTROL),
        ("Vary", "Accept, Accept-Encoding"),
        ("Cache-Status", f"leeward; {cache_status or view.cache_status}"),
    ]
    if coding != "identity":
        headers.append(("Content-Encoding", coding))
    headers.extend(registry.headers(view.listing))
    return headers


def _redirect(status: int, location: str) -> Response:
    # RFC 9110 allows a body; none is needed. pip keeps a 301 for good, which suits names and slashes.
    return Response(status, [("Location", location), ("Cache-Status", "leeward; detail=redirect")], b"")


def _text(text: str) -> Response:
    return Response(200, [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")], text.encode())


def _counting(tally: Tally) -> Callable[[int, bool], None]:
    def delivered(sent: int, complete: bool) -> None:
        tally.count += 1
        tally.sent += sent

    return delivered


def _tell(request: Request, response: Response, elapsed_s: float) -> None:
    """Log the answer once it is delivered, if anybody reads at that level. Hits of the hot path are counted, not told."""
    counted = response.delivered

    def delivered(sent: int, complete: bool) -> None:
        if counted is not None:
            counted(sent, complete)
        tell_access(request.client, request.method, request.target, response.status, sent, elapsed_s)

    response.delivered = delivered


def _outcome(error: BaseException) -> str:
    match error:
        case Refused():
            return "refused"
        case NotFound():
            return "absent"
        case Unavailable():
            return "unavailable"
        case Corrupt():
            return "corrupt"
        case ValueError():
            return "malformed"
        case _:
            return "error"
