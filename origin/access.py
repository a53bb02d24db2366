"""Who fetched what: one record per delivered file, kept in a bounded buffer and written to the access ledger in batches."""

from __future__ import annotations

from collections import deque

from .catalog import Access, Catalog
from .errors import Unavailable
from .metrics import Metrics


class AccessLog:
    """A bounded buffer before the ledger. ``note`` never waits; what finds no room is lost and counted."""

    def __init__(self, catalog: Catalog, metrics: Metrics, limit: int = 10_000) -> None:
        self._catalog = catalog
        self._metrics = metrics
        self._limit = limit
        self._buffer: deque[Access] = deque()

    def note(self, access: Access) -> None:
        if len(self._buffer) >= self._limit:
            self._metrics.access_lost.inc()
            return
        self._buffer.append(access)

    async def flush(self) -> None:
        """Write what has come together. A ledger that cannot be written loses the batch, counted: serving goes on."""
        batch = list(self._buffer)
        self._buffer.clear()
        if not batch:
            return
        try:
            await self._catalog.record_accesses(batch)
        except Unavailable:
            self._metrics.access_lost.inc(len(batch))
