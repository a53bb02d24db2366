"""A node's service as another node's source, in memory: what the replication face carries, without the face.

A ``NodeSource`` is an origin in the tests' hands: set ``down`` and it does not answer, ``kept`` and it gives only what it holds, as a
sibling does.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from origin.api.wire import PageFacts, page_etag
from origin.blobs.disk import DiskBlobs
from origin.catalog import Catalog
from origin.catalog.memory import MemoryCatalog
from origin.errors import NotFound, Refused, Unavailable
from origin.files import Delivery
from origin.flights import Flights, open_flights
from origin.metrics import Metrics
from origin.model import Entry, File, Page, Relay, Span, Stamp
from origin.registries import Registry
from origin.service import Service
from origin.sources import Absent, Answer, FileHead, FileStream, Known, NotModified, Received, RefusedPage, Relayed, Source
from tests.origin.test_files import read_body
from tests.scripted import now

PIECE_BYTES = 64 * 1024


@dataclass
class NodeSource:
    """``service`` as a source. ``break_at`` breaks transfers off, each once, at an offset; ``asked`` lists what was asked for."""

    service: Service
    name: str = "origin"
    kept: bool = False
    down: bool = False
    asked: list[str] = field(default_factory=list)
    known: list[Known | None] = field(default_factory=list)
    break_at: list[int] = field(default_factory=list)

    def available(self, registry: str, kind: str) -> bool:
        return not self.down

    async def _reach(self, what: str) -> None:
        self.asked.append(what)
        await trio.lowlevel.checkpoint()
        if self.down:
            raise Unavailable(f"the {self.name} does not answer", 7)

    async def page(self, page: Page, known: Known | None) -> Answer:
        await self._reach(f"page {page.key}")
        self.known.append(known)
        try:
            if self.kept:
                held = await self.service.held_page(page)
                if held is None:
                    raise Unavailable("not held")
                view = held
            else:
                view = await self.service.page(page, max_age_s=known.max_age_s if known is not None else None)
        except Refused as error:
            refused = await self.service._catalog.answer(page)
            raise RefusedPage(error.verdict, refused.received_at, 0.0) if refused is not None else error from None
        except NotFound:
            absence = await self.service._catalog.answer(page)
            since = absence.received_at if absence is not None else None
            return Absent(404, Stamp(now() + 30, now() + 3600), prepared=True, received_at=since)
        listing = view.listing
        facts = PageFacts(
            media_type="application/json",
            serial=view.serial,
            restrictions=dict(listing.restrictions),
            restricted_at=listing.restricted_at,
        )
        etag, trail = page_etag(facts, listing.document), f"leeward-{self.name}; {view.cache_status}"
        if known is not None and known.etag == etag:
            return NotModified(view.stamp, trail, view.received_at)
        return Received(
            listing.document,
            "application/json",
            "",
            Stamp(view.stamp.fresh_until, view.stamp.stale_until),
            etag,
            view.last_modified,
            view.serial,
            prepared=True,
            restrictions=listing.restrictions,
            restricted_at=listing.restricted_at,
            received_at=view.received_at,
            trail=trail,
        )

    async def _delivery(self, file: File) -> Delivery:
        if not self.kept:
            return await self.service.deliver(file, hold_s=20)
        found = await self.service.held_file(file)
        if found is None:
            raise Unavailable("not held")
        return found

    @asynccontextmanager
    async def file(self, file: File, entry: Entry, start: int = 0, validator: str | None = None) -> AsyncIterator[FileStream]:
        await self._reach(f"file {file.filename} from {start}")
        delivery = await self._delivery(file)
        content = delivery.body if isinstance(delivery.body, bytes) else await read_body(delivery.body)
        head = FileHead(delivery.size, start, "", f'"{delivery.digest}"', delivery.digests, delivery.last_modified, "leeward-x")
        async with aclosing(self._chunks(content, start)) as chunks:
            yield FileStream(head, chunks)

    async def _chunks(self, content: bytes, start: int) -> AsyncGenerator[bytes]:
        end = self.break_at.pop(0) if self.break_at else None
        for at in range(start, len(content), PIECE_BYTES):
            if end is not None and at >= end:
                raise Unavailable("the connection broke", 1)
            await trio.lowlevel.checkpoint()
            yield content[at : at + PIECE_BYTES]

    async def relay(self, relay: Relay) -> Relayed:
        await self._reach(f"relay {relay.request}")
        return Relayed(200, await self.service.relay(relay))

    async def exists(self, file: File, url: str) -> bool:
        await self._reach(f"exists {file.filename}")
        return await self.service.exists(file)


@dataclass
class Tier:
    """A node's service, and what it stands on."""

    service: Service
    catalog: Catalog
    blobs: DiskBlobs
    flights: Flights

    async def events(self) -> list[str]:
        return [event.kind for event in await self.catalog.events()]

    async def landed(self) -> None:
        while self.flights.statistics()["running"]:
            # Spinning, so that the clock does not jump meanwhile.
            await trio.lowlevel.checkpoint()

    async def fetch(self, file: File) -> bytes:
        """A file's bytes, once they are stored too."""
        delivery = await self.service.deliver(file, hold_s=20)
        body = delivery.body if isinstance(delivery.body, bytes) else await read_body(delivery.body)
        await self.landed()
        return body

    async def span(self, file: File) -> Span:
        delivery = await self.service.deliver(file, hold_s=20)
        assert isinstance(delivery.body, Span)
        return delivery.body


@asynccontextmanager
async def tier(
    path: Path, registries: Mapping[str, Registry], sources: Sequence[Source], catalog: Catalog | None = None
) -> AsyncIterator[Tier]:
    """A node over ``sources``. With the path and catalogue of another one it is that one, started again."""
    metrics = Metrics()
    blobs = DiskBlobs(path / "blobs", limit_bytes=None)
    await blobs.sweep()
    catalog = catalog or MemoryCatalog()
    async with open_flights(metrics) as flights:
        yield Tier(Service(registries, sources, blobs, catalog, flights, metrics, now), catalog, blobs, flights)
