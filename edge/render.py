"""Rendered pages, held in memory by key and budget.

Rendering is writing a listing in a media type for a base URL, and coding it. The result is kept as long as the view it was made of is
the current one, whatever its freshness: a stale page served in an outage is rendered once, too. What may be sent
without asking anybody is the business of ``origin.http.hot``, which is given the finished response.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import trio

from origin.held import PageView
from origin.http.coding import encode
from origin.model import Headers, Page, Validity
from origin.registries import Registry

SMALL_BYTES = 32 * 1024
"""Documents up to this size are written and coded in the event loop; larger ones in a worker thread."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A finished body. ``coding`` is ``identity``, ``gzip`` or ``zstd``; ``etag`` is strong, of these very bytes, quoted.

    ``fields`` are the registry's own header fields that go with it.
    """

    validity: Validity
    body: bytes
    media_type: str
    coding: str
    etag: str
    fields: Headers


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be written: ``page`` is the one asked for, of which the listing at hand may be the basis.

    ``base`` is as for ``Registry.write``.
    """

    page: Page
    media_type: str
    coding: str
    base: str | None = None


class Renderings:
    """Renders and remembers, within ``limit_bytes`` of bodies; the least recently used go first."""

    def __init__(self, limit_bytes: int, threads: trio.CapacityLimiter) -> None:
        self._limit_bytes = limit_bytes
        self._threads = threads
        self._kept: OrderedDict[Wish, Rendered] = OrderedDict()
        self._bytes = 0
        self._rendering: dict[Wish, trio.Lock] = {}

    async def render(self, registry: Registry, view: PageView, wish: Wish, *, keep: bool = True) -> Rendered:
        """The page's bytes for a client; ``keep=False`` for bases off the closed list. Raises like ``Registry.write``."""
        found = self._kept.get(wish)
        # Identity: a page whose content or policy changed has another one. (To keep the listing itself would keep it alive.)
        if found is not None and found.validity is view.validity:
            self._kept.move_to_end(wish)
            return found
        if len(view.listing.document) <= SMALL_BYTES:
            rendered = _render(registry, view, wish)
            if keep:
                self._keep(wish, rendered)
            return rendered
        # One at a time: a hundred clients of a large page must not have it written a hundred times.
        lock = self._rendering.setdefault(wish, trio.Lock())
        try:
            async with lock:
                found = self._kept.get(wish)
                if found is not None and found.validity is view.validity:
                    return found
                rendered = await trio.to_thread.run_sync(_render, registry, view, wish, limiter=self._threads)
                if keep:
                    self._keep(wish, rendered)
                return rendered
        finally:
            if not lock.statistics().tasks_waiting:
                self._rendering.pop(wish, None)

    def _keep(self, wish: Wish, rendered: Rendered) -> None:
        before = self._kept.pop(wish, None)
        if before is not None:
            self._bytes -= len(before.body)
        if len(rendered.body) > self._limit_bytes // 4 or not rendered.validity.valid:
            return
        self._kept[wish] = rendered
        self._bytes += len(rendered.body)
        while self._bytes > self._limit_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= len(dropped.body)


def _render(registry: Registry, view: PageView, wish: Wish) -> Rendered:
    asked = wish.page.view if wish.page.view != view.listing.page.view else None
    document = registry.write(view.listing, wish.media_type, wish.base, asked)
    fields = registry.headers(view.listing, document, view.last_modified)
    body = encode(document, wish.coding)
    # Of the final bytes and what they are: it differs wherever an answer differs, by form, coding, policy, base or content,
    # and is the same on every edge and after every restart.
    etag = f'"{hashlib.sha256(wish.media_type.encode() + b"\n" + body).hexdigest()[:40]}"'
    return Rendered(view.validity, body, wish.media_type, wish.coding, etag, fields)
