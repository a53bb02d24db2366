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

from origin.http.coding import encode
from origin.model import Validity
from origin.pages import PageView
from origin.registries import Registry

SMALL_BYTES = 32 * 1024
"""Documents up to this size are written and coded in the event loop; larger ones in a worker thread."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A finished body. ``coding`` is ``identity``, ``gzip`` or ``zstd``; ``etag`` is strong, of these very bytes, quoted."""

    validity: Validity
    body: bytes
    media_type: str
    coding: str
    etag: str


type Key = tuple[str, str, str, str, str]


class Renderings:
    """Renders and remembers, within ``limit_bytes`` of bodies; the least recently used go first."""

    def __init__(self, limit_bytes: int, threads: trio.CapacityLimiter) -> None:
        self._limit_bytes = limit_bytes
        self._threads = threads
        self._kept: OrderedDict[Key, Rendered] = OrderedDict()
        self._bytes = 0
        self._rendering: dict[Key, trio.Lock] = {}

    async def render(
        self, registry: Registry, view: PageView, media_type: str, coding: str, base: str | None, *, keep: bool = True
    ) -> Rendered:
        """The page's bytes for a client. ``base`` as for ``Registry.write``; ``keep=False`` for bases off the closed list."""
        key = (view.listing.page.key, media_type, coding, base or "", "")
        found = self._kept.get(key)
        # Identity: a page whose content or policy changed has another one. (To keep the listing itself would keep it alive.)
        if found is not None and found.validity is view.validity:
            self._kept.move_to_end(key)
            return found
        if len(view.listing.document) <= SMALL_BYTES:
            rendered = _render(registry, view, media_type, coding, base)
            if keep:
                self._keep(key, rendered)
            return rendered
        # One at a time: a hundred clients of a large page must not have it written a hundred times.
        lock = self._rendering.setdefault(key, trio.Lock())
        try:
            async with lock:
                found = self._kept.get(key)
                if found is not None and found.validity is view.validity:
                    return found
                rendered = await trio.to_thread.run_sync(_render, registry, view, media_type, coding, base, limiter=self._threads)
                if keep:
                    self._keep(key, rendered)
                return rendered
        finally:
            if not lock.statistics().tasks_waiting:
                self._rendering.pop(key, None)

    def _keep(self, key: Key, rendered: Rendered) -> None:
        before = self._kept.pop(key, None)
        if before is not None:
            self._bytes -= len(before.body)
        if len(rendered.body) > self._limit_bytes // 4 or not rendered.validity.valid:
            return
        self._kept[key] = rendered
        self._bytes += len(rendered.body)
        while self._bytes > self._limit_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= len(dropped.body)


def _render(registry: Registry, view: PageView, media_type: str, coding: str, base: str | None) -> Rendered:
    body = encode(registry.write(view.listing, media_type, base), coding)
    # Of the final bytes and what they are: it differs wherever an answer differs, by form, coding, policy, base or content,
    # and is the same on every edge and after every restart.
    etag = f'"{hashlib.sha256(media_type.encode() + b"\n" + body).hexdigest()[:40]}"'
    return Rendered(view.validity, body, media_type, coding, etag)
