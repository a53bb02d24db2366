"""Files as a node delivers them: held blobs at once, everything else through one flight each.

A request names a path; what it means depends on a listing. So a file is first *resolved* to the project and version it belongs
to, then judged, then looked for: binding, blob, flight. Nothing is opened before the verdict.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import trio

from .blobs import BlobStore
from .catalog import Binding, Catalog
from .errors import NotFound, Refused, Unavailable
from .flights import Flight, Flights
from .model import Allow, Arriving, Clock, Digest, Entry, File, Listing, Refuse, Span, Verdict
from .pages import HeldPage, Pages
from .pipeline.stages import Stored
from .pipeline.synchronize import Workbench, synchronize
from .policy.rules import judge
from .registries import Registry
from .sources import Source

log = logging.getLogger("leeward.files")

REMEMBERED = 20_000
"""How many bindings stay in memory."""

RELISTING_S = 10.0
"""A file missing from a listing confirmed longer ago than this is looked for in a new one: it may have just been published."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A file on its way. ``size`` is in bytes; ``digest`` is the SHA-256. Whoever gets it closes ``body`` or hands it to the server."""

    file: File
    digest: Digest
    size: int
    body: Span | Arriving
    outcome: str
    cache_status: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a requested path means: the file with its true project and version, what its listing says, what it is bound to."""

    file: File
    entry: Entry | None
    binding: Binding | None


class Files:
    """All files of a node. ``serve_removed`` names the instances whose held files outlive their listing."""

    def __init__(
        self,
        registries: Mapping[str, Registry],
        pages: Pages,
        sources: Sequence[Source],
        blobs: BlobStore,
        catalog: Catalog,
        flights: Flights,
        clock: Clock,
        threads: trio.CapacityLimiter,
        event: Callable[[str, str, str], Awaitable[None]],
        make_room: Callable[[int], Awaitable[object]],
        *,
        serve_removed: frozenset[str] = frozenset(),
    ) -> None:
        self._registries = registries
        self._pages = pages
        self._sources = sources
        self._blobs = blobs
        self._catalog = catalog
        self._flights = flights
        self._clock = clock
        self._event = event
        self._serve_removed = serve_removed
        self._bound: OrderedDict[File, Binding] = OrderedDict()
        self._used: dict[Digest, float] = {}
        self._bench = Workbench(sources, blobs, catalog, self.judge, event, make_room, clock, threads)

    def judge(self, file: File) -> Verdict:
        """What the rules now in force say of a resolved file."""
        return judge(self._pages.rules, self._registries[file.registry], file.project, file.version)

    async def deliver(self, file: File, *, hold_s: float) -> Delivery:
        """Give a file, held or arriving.

        Waits at most ``hold_s`` seconds for its first byte to be releasable, then raises ``Unavailable`` with the flight's own estimate
        while the flight goes on. Raises ``NotFound``, ``Refused``, ``Unavailable`` or ``Corrupt``.
        """
        try:
            resolved = await self.resolve(file)
        except NotFound:
            # A refused version has no sidecars on its page: that is a refusal too, not an absence.
            _require_allowed(self.judge(file))
            raise
        _require_allowed(self.judge(resolved.file))
        if resolved.binding is not None:
            delivery = await self._held(resolved.binding)
            if delivery is not None:
                return delivery
        entry = resolved.entry or await self._listed(resolved.file)
        return await self._arriving(resolved.file, entry, resolved.binding, hold_s)

    # ---- what a path means

    async def resolve(self, file: File) -> Resolved:
        """Say what a requested file is. Raises ``NotFound`` if no listing has it, ``Refused`` if it was withdrawn."""
        registry = self._registries[file.registry]
        remembered = self._bound.get(file)
        if remembered is not None:
            await self._require_still_listed(registry, file)
            return Resolved(file, None, remembered)
        owner = await self._catalog.owner(file.registry, file.path) if file.path else None
        if owner is not None:
            file = File(file.registry, owner[0], owner[1], file.filename, file.path)
        candidates = [file] if owner is not None else [file, *registry.guesses(file)]
        # A name that gives no project away, of a file that no listing seen so far has.
        candidates = [candidate for candidate in candidates if candidate.project]
        for candidate in candidates:
            binding = await self._binding(candidate)
            if binding is not None and candidate.path in ("", binding.file.path):
                await self._require_still_listed(registry, binding.file)
                return Resolved(binding.file, None, binding)
        missing: NotFound | None = None
        for candidate in candidates:
            try:
                entry = await self._listed(candidate)
            except NotFound as error:
                missing = missing or error
                continue
            # A listing may read the version where the path alone could not; the binding is made under the listing's reading.
            return Resolved(entry.file, entry, await self._binding(entry.file))
        raise missing or NotFound(f"{file.filename} is in no listing")

    async def _binding(self, file: File) -> Binding | None:
        found = self._bound.get(file)
        if found is None:
            found = await self._catalog.binding(file)
            if found is not None and found.file == file:
                self._remember(found)
        else:
            self._bound.move_to_end(file)
        return found

    def _remember(self, binding: Binding) -> None:
        self._bound[binding.file] = binding
        if len(self._bound) > REMEMBERED:
            self._bound.popitem(last=False)

    async def _require_still_listed(self, registry: Registry, file: File) -> None:
        """Close held files that left their listing (taken down upstream), unless settings say to serve them."""
        held = await self._pages.held(registry.listing_page(file))
        if held is None:
            return
        self._pages.refresh_soon(held)
        if file.registry not in self._serve_removed and not _lists(registry, held, file):
            raise Refused(Refuse(f"{file.filename} was removed upstream", "removed-upstream"))

    async def _listed(self, file: File) -> Entry:
        """The entry that publishes ``file``. Asks upstream for a newer listing once if the held one lacks it."""
        registry = self._registries[file.registry]
        page = registry.listing_page(file)
        view = await self._pages.page(page)
        held = await self._pages.held(page)
        entry = _entry(registry, held, file)
        if entry is None and self._clock() - view.received_at > RELISTING_S:
            try:
                await self._pages.page(page, insist=True)
            except Unavailable:
                log.info("no newer listing to be had", extra={"page": page.key})
            held = await self._pages.held(page)
            entry = _entry(registry, held, file)
        if entry is not None:
            return entry
        if held is not None and held.listing is not None and await self._exists(registry, file, held.listing):
            raise Refused(Refuse(f"{file.filename} is not listed by its project", "unlisted"))
        raise NotFound(f"{file.filename} is not listed by its project")

    async def _exists(self, registry: Registry, file: File, listing: Listing) -> bool:
        url = registry.probe_location(file, listing)
        if url is None:
            return False
        for source in self._sources:
            try:
                if await source.exists(file, url):
                    return True
            except Unavailable:
                continue
        return False

    # ---- held

    async def _held(self, binding: Binding) -> Delivery | None:
        span = self._blobs.open_nowait(binding.digest)
        if span is None:
            return None
        if len(span) != binding.size:
            span.close()
            await self._event("blob-damaged", binding.file.key, f"{len(span)} bytes on disk, {binding.size} bound")
            await self._blobs.quarantine(binding.digest)
            await self._catalog.drop(binding.digest)
            return None
        self._used[binding.digest] = self._clock()
        return Delivery(binding.file, binding.digest, binding.size, span, "hit", "hit")

    async def flush_uses(self) -> None:
        """Tell the catalogue which blobs were used since the last call."""
        used, self._used = self._used, {}
        if used:
            await self._catalog.touch(used)

    # ---- arriving

    async def _arriving(self, file: File, entry: Entry, binding: Binding | None, hold_s: float) -> Delivery:
        if binding is not None and binding.digest not in entry.digests:
            # A name once bound is only ever filled with the same bytes, whatever is published now.
            entry = Entry(
                entry.file, entry.url, (*entry.digests, binding.digest), entry.size, entry.published, entry.yanked, entry.sidecar
            )
        registry = self._registries[file.registry]

        async def job(flight: Flight[Stored]) -> Stored:
            try:
                stored = await synchronize(flight, self._bench, registry, file, entry)
            except NotFound:
                # Listed but missing is upstream's inconsistency (a fresh upload on another CDN node), not an absence.
                raise Unavailable(f"upstream lists {file.filename} but does not have it", 5) from None
            self._remember_stored(registry, stored)
            return stored

        flight, joined = self._flights.join(f"file {file.key}", job, keep_without_followers=False)
        with trio.move_on_after(hold_s):
            await flight.wait_head()
            follower = flight.follow()
            try:
                await follower.wait_beyond(0)
                digest = _sha256_of(entry) or (await flight.wait_outcome()).binding.digest
                size = flight.size if flight.size is not None else flight.written
            except BaseException:
                follower.close()
                raise
            outcome = "collapsed" if joined else "miss"
            status = "fwd=uri-miss; stored" + ("; collapsed" if joined else "")
            return Delivery(file, digest, size, Arriving(follower, 0, size), outcome, status)
        raise Unavailable(f"{file.filename} is still being fetched and checked", flight.estimate_s() or 5)

    def _remember_stored(self, registry: Registry, stored: Stored) -> None:
        if not stored.kept:
            return
        self._remember(stored.binding)
        if stored.sidecar is not None:
            self._remember(stored.sidecar)
            file = stored.binding.file
            self._pages.sidecar_made(registry.listing_page(file), file.filename, stored.sidecar.digest)


def _require_allowed(verdict: Verdict) -> None:
    if not isinstance(verdict, Allow):
        raise Refused(verdict)


def _entry(registry: Registry, held: HeldPage | None, file: File) -> Entry | None:
    return registry.expected(file, held.listing) if held is not None and held.listing is not None else None


def _lists(registry: Registry, held: HeldPage, file: File) -> bool:
    return _entry(registry, held, registry.subject(file)) is not None


def _sha256_of(entry: Entry) -> Digest | None:
    return next((d for d in entry.digests if d.algorithm == "sha256"), None)
