"""Files as a node delivers them: held blobs at once, everything else through one flight each.

A request names a path; what it means depends on a listing. So a file is first *resolved* to the project and version it belongs
to, then judged, then looked for: binding, blob, flight. Nothing is opened before the verdict.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec
import trio

from .blobs import BlobStore
from .catalog import Binding, Catalog
from .errors import Corrupt, NotFound, Refused, Unavailable
from .flights import Flight, Flights
from .held import HeldPage, Resolved
from .leaves import Leaves
from .model import Allow, Arriving, Clock, Digest, Entry, File, Listing, Refuse, Span, Verdict
from .notes import LIMIT_BYTES, Notes
from .pages import Pages
from .pipeline.stages import Stored
from .pipeline.synchronize import Workbench, sidecar_of, synchronize
from .policy.recalls import judge_digests
from .registries import Registry
from .sources import Source

log = logging.getLogger("leeward.files")

REMEMBERED = 20_000
"""How many bindings stay in memory."""

READINGS = 4
"""How many readings of an ambiguous file name are tried: each may cost a page of a project that has nothing to do with it."""

LEAST_HOLD_S = 1.0
"""What is left for the file itself after its listing took its time."""

PROBED_S = 60.0
"""How long it is remembered whether upstream has bytes that no listing names."""

UNLISTED = "unlisted"
"""Instead of a rule's name: no page lists the file, though upstream has its bytes."""

RELISTING_S = 10.0
"""A file missing from a listing confirmed longer ago than this is looked for in a new one: it may have just been published."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A file on its way. ``size`` is in bytes. Whoever gets it closes ``body`` or hands it to the server.

    ``digests`` are those known by now, one by the registry's ``identity`` always among them. ``last_modified`` is upstream's field,
    ``trail`` the ``Cache-Status`` of the node of ours that it comes from.
    """

    file: File
    digests: tuple[Digest, ...]
    size: int
    body: Span | Arriving | bytes
    outcome: str
    cache_status: str
    last_modified: str | None = None
    trail: str = ""

    @property
    def digest(self) -> Digest:
        """The SHA-256 if it is known by now, else the first that is."""
        return next((digest for digest in self.digests if digest.algorithm == "sha256"), self.digests[0])


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
        notes: Notes,
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
        # Requests whose flight is in the air, by what they asked for.
        self._aloft: dict[File, tuple[Resolved, Flight[Stored]]] = {}
        self._leaves = Leaves(self.judge)
        self._used: dict[Digest, float] = {}
        self._probed: OrderedDict[str, tuple[float, bool]] = OrderedDict()
        self._notes = notes
        # Checksum sidecars that upstream was seen to have: what they say, we know.
        self._offered: OrderedDict[File, None] = OrderedDict()
        self._bench = Workbench(
            sources, blobs, catalog, self.judge, event, make_room, self._evidence, self._signature, clock, threads
        )

    def judge(self, file: File, digests: Sequence[Digest] = ()) -> Verdict:
        """What the policy now in force says of a resolved file whose bytes have these digests."""
        return self._pages.policy.judge(self._registries[file.registry], file.project, file.version, digests)

    def review(self) -> None:
        """See ``Leaves.review``."""
        self._leaves.review()

    async def _require_allowed(self, file: File, digests: Sequence[Digest]) -> None:
        """Raise ``Refused`` for what policy forbids, and for a sidecar of bytes that were recalled."""
        _require_allowed(self.judge(file, digests))
        registry = self._registries[file.registry]
        subject = registry.subject(file)
        if subject == file or not self._pages.policy.refused:
            return
        binding = await self._binding(subject)
        if binding is not None:
            _require_allowed(self.judge(subject, _digests(binding)))
        elif (page := registry.listing_page(subject)) is not None:
            listed = await self._pages.held(page)
            entry = listed.entry(registry, subject) if listed is not None else None
            _require_allowed(self.judge(subject, entry.digests if entry is not None else ()))

    async def deliver(self, file: File, *, hold_s: float) -> Delivery:
        """Give a file, held or arriving.

        Waits at most ``hold_s`` seconds for its first byte to be releasable, then raises ``Unavailable`` with the flight's own estimate
        while the flight goes on. Raises ``NotFound``, ``Refused``, ``Unavailable`` or ``Corrupt``.
        """
        self._pages.require_leave()
        # What it takes to learn what the path means counts too, but leaves a second: pip gives up after 15 s without a byte.
        asked = trio.current_time()
        algorithm = self._registries[file.registry].checksum(file)
        if algorithm:
            return await self._checksum(file, algorithm, hold_s)
        try:
            return await self._deliver(file, asked, hold_s)
        except Corrupt:
            if not self._may_change(file) or trio.current_time() >= asked + hold_s:
                raise
            # It may have been published anew since its page was read. If that is so, its page names other bytes by now.
            return await self._deliver(file, asked, hold_s)

    async def _deliver(self, file: File, asked: float, hold_s: float) -> Delivery:
        aloft = self._aloft.get(file)
        if aloft is not None:
            # Being fetched at this moment: what its path means is known, and a hundred clients need not each look it up.
            resolved, _ = aloft
            assert resolved.entry is not None
            await self._require_allowed(resolved.file, resolved.entry.digests)
            return await self._arriving(resolved.file, resolved.entry, resolved.binding, asked + hold_s)
        try:
            resolved = await self.resolve(file)
        except NotFound:
            # A refused version has no sidecars on its page: that is a refusal too, not an absence.
            _require_allowed(self.judge(file))
            raise
        await self._require_allowed(resolved.file, resolved.digests)
        until = max(asked + hold_s, trio.current_time() + LEAST_HOLD_S)
        if resolved.binding is not None:
            delivery = await self._held(resolved.binding) or await self._made_again(resolved.binding, until)
            if delivery is not None:
                return delivery
        await self._require_not_absent(resolved.file)
        entry = resolved.entry or await self._listed(resolved.file)
        _require_allowed(self.judge(resolved.file, entry.digests))
        # Look again: its flight may have landed while this request looked the name up. From here to the join nothing yields.
        landed = self._bound.get(resolved.file)
        if landed is not None and landed is not resolved.binding:
            delivery = await self._held(landed)
            if delivery is not None:
                return delivery
        return await self._arriving(resolved.file, entry, resolved.binding, until, file)

    def _may_change(self, file: File) -> bool:
        """Whether other bytes may stand there tomorrow: then a page of its own says which do."""
        page = self._registries[file.registry].listing_page(file)
        return page is not None and page.view != ""

    async def is_bound(self, file: File) -> bool:
        """Whether the file, or the file that it is a checksum of, has been delivered before under this instance's name."""
        return await self._binding(self._registries[file.registry].subject(file)) is not None

    # ---- for other nodes, and for who brings things here beforehand

    async def keep(self, file: File) -> None:
        """Bring a file here and wait until it is stored; nothing if it is. Checksum sidecars are made, not stored.

        Raises like ``deliver``, and ``Unavailable`` if there is no room for it.
        """
        registry = self._registries[file.registry]
        if registry.checksum(file):
            return
        try:
            resolved = await self.resolve(file)
        except (NotFound, Refused) as error:
            page = registry.listing_page(file)
            if page is None or (isinstance(error, Refused) and error.verdict.rule != UNLISTED):
                raise
            # Whoever wants it here has seen it listed: the page that is held is an older one, however lately it was confirmed.
            await self._pages.refresh(page)
            resolved = await self.resolve(file)
        await self._require_allowed(resolved.file, resolved.digests)
        if resolved.binding is not None:
            if await self._blobs.size(resolved.binding.digest) is not None:
                return
            made = await self._made_again(resolved.binding, math.inf)
            if made is not None:
                if isinstance(made.body, Span):
                    made.body.close()
                return
        entry = resolved.entry or await self._listed(resolved.file)
        flight, _ = self._fetch(resolved.file, entry, resolved.binding, file)
        stored = await flight.wait_outcome()
        if not stored.kept:
            raise Unavailable(f"there is no room for {file.name}", 60)

    async def holds(self, file: File) -> Binding | None:
        """What a file is bound to, if its blob is here; None else. Asks nobody."""
        binding = await self._bound_as(await self._readings(file))
        return binding if binding is not None and await self._blobs.size(binding.digest) is not None else None

    async def held(self, file: File) -> Delivery | None:
        """A file by name, as it is held; None if it is not. Asks nobody. Raises ``Refused``, ``Unavailable`` after a lapse."""
        self._pages.require_leave()
        registry = self._registries[file.registry]
        algorithm = registry.checksum(file)
        subject = registry.subject(file) if algorithm else file
        binding = await self._bound_as(await self._readings(subject))
        if binding is None:
            _require_allowed(self.judge(subject))
            return None
        await self._require_allowed(binding.file, _digests(binding))
        page = registry.listing_page(binding.file)
        listed = await self._pages.held(page) if page is not None else None
        if listed is not None:
            self._require_listed(registry, listed, binding.file)
        if not algorithm:
            return await self._held(binding)
        mine = next((digest.value for digest in _digests(binding) if digest.algorithm == algorithm), None)
        if mine is None or not self._is_offered(registry, file, algorithm):
            return None
        return _written(registry, file, mine, "hit", "hit; detail=generated", binding.last_modified)

    async def blob(self, digest: Digest) -> Delivery | None:
        """The bytes with a SHA-256, None if they are not held.

        Raises ``Refused`` if they were recalled, or if all names they are bound to are refused; ``Unavailable`` after a lapse.
        """
        self._pages.require_leave()
        refused: Refused | None = None
        for binding in await self._catalog.named(digest):
            try:
                await self._require_allowed(binding.file, _digests(binding))
            except Refused as error:
                refused = error
                continue
            return await self._held(binding)
        if refused is not None:
            raise refused
        _require_allowed(judge_digests(self._pages.policy.refused, (digest,)))
        return None

    async def exists(self, file: File) -> bool:
        """Whether upstream has a file's bytes, listed or not. Raises ``Unavailable`` or ``Corrupt``."""
        registry = self._registries[file.registry]
        found = await self._look_up(file)
        if isinstance(found, Listing):
            return await self._exists(registry, file, found)
        return found is not None and (registry.listing_page(file) is not None or await self._probe(file, found.url))

    # ---- what a path means

    async def resolve(self, file: File) -> Resolved:
        """Say what a requested file is. Raises ``NotFound`` if no listing has it, ``Refused`` if it was withdrawn."""
        registry = self._registries[file.registry]
        remembered = self._bound.get(file)
        if remembered is not None:
            await self._require_still_listed(registry, file)
            return Resolved(file, None, remembered)
        if registry.listing_page(file) is None:
            return Resolved(file, registry.expected(file, None), await self._binding(file))
        candidates = await self._readings(file)
        binding = await self._bound_as(candidates)
        if binding is not None:
            await self._require_still_listed(registry, binding.file)
            return Resolved(binding.file, None, binding)
        listings: list[tuple[File, Listing]] = []
        unknown: Unavailable | None = None
        for candidate in candidates:
            try:
                found = await self._look_up(candidate)
            except Unavailable as error:
                unknown = error
                continue
            if isinstance(found, Entry):
                # A listing may read the version where the path alone could not; the binding is made under its reading.
                return Resolved(found.file, found, await self._binding(found.file))
            if found is not None:
                listings.append((candidate, found))
        if unknown is not None:
            raise unknown
        # No reading of the name is listed anywhere. Only now is it worth asking whether the bytes exist all the same.
        for candidate, listing in listings:
            if await self._exists(registry, candidate, listing):
                raise Refused(Refuse(f"{file.name} is not listed by its project", UNLISTED))
        raise NotFound(f"{file.name} is not listed by its project")

    async def _readings(self, file: File) -> Sequence[File]:
        """What a path may mean, most likely first: one file, if a listing has told its owner."""
        owner = await self._catalog.owner(file.registry, file.path) if file.path else None
        if owner is not None:
            return [File(file.registry, owner[0], owner[1], file.filename, file.path)]
        return [c for c in (file, *self._registries[file.registry].guesses(file)) if c.project][:READINGS]

    async def _bound_as(self, candidates: Sequence[File]) -> Binding | None:
        for candidate in candidates:
            binding = await self._binding(candidate)
            if binding is not None and candidate.path in ("", binding.file.path):
                return binding
        return None

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
        page = registry.listing_page(file)
        held = await self._pages.held(page) if page is not None else None
        if page is None or held is None:
            return
        if held.lists(registry, file):
            self._pages.refresh_soon(held)
            return
        # It may have been given back since, which is worth the moment for which a page waits for news.
        with suppress(NotFound, Refused, Unavailable, Corrupt):
            await self._pages.page(page)
        self._require_listed(registry, await self._pages.held(page) or held, file)

    def _require_listed(self, registry: Registry, held: HeldPage, file: File) -> None:
        if not held.lists(registry, file):
            held.require_not_taken(file)
            if file.registry not in self._serve_removed:
                raise Refused(Refuse(f"{file.name} was removed upstream", "removed-upstream"))

    async def _listed(self, file: File) -> Entry:
        """The entry that publishes ``file``. Raises ``NotFound`` if its listing lacks it."""
        found = await self._look_up(file)
        if isinstance(found, Entry):
            return found
        raise NotFound(f"{file.name} is not listed by its project")

    async def _look_up(self, file: File) -> Entry | Listing | None:
        """The entry that publishes ``file``; else the listing that lacks it, or None if there is no such project.

        Asks upstream for a newer listing once if the held one lacks it. Raises ``Unavailable`` if that cannot be had: that something was
        not published yet is nothing that an outage may turn into its absence.
        """
        registry = self._registries[file.registry]
        page = registry.listing_page(file)
        if page is None:
            return registry.expected(file, None)
        try:
            view = await self._pages.page(page)
            held = await self._pages.held(page)
            entry = held.entry(registry, file) if held is not None else None
            if entry is None and (view.outcome == "stale" or self._clock() - view.received_at > RELISTING_S):
                if view.outcome != "stale":
                    view = await self._pages.page(page, insist=True)
                if view.outcome == "stale":
                    raise Unavailable(f"whether {file.name} is listed by now cannot be asked", 5)
                held = await self._pages.held(page)
                entry = held.entry(registry, file) if held is not None else None
        except NotFound:
            return None
        if entry is not None:
            return entry
        if held is not None:
            held.require_not_taken(file)
        return held.listing if held is not None else None

    async def _exists(self, registry: Registry, file: File, listing: Listing) -> bool:
        """Whether upstream has the bytes of a file that ``listing`` lacks; asked once for all, and remembered for a while."""
        url = registry.probe_location(file, listing)
        return url is not None and await self._probe(file, url)

    async def _probe(self, file: File, url: str) -> bool:
        now = self._clock()
        known = self._probed.get(url)
        if known is not None and now < known[0]:
            return known[1]

        async def probe(_: Flight[bool]) -> bool:
            failure = Unavailable("no source is configured")
            for source in self._sources:
                try:
                    return await source.exists(file, url)
                except Unavailable as error:
                    failure = error
            raise failure

        flight, _ = self._flights.join(f"probe {url}", probe)
        exists = await flight.wait_outcome()
        self._probed[url] = (now + PROBED_S, exists)
        if len(self._probed) > REMEMBERED:
            self._probed.popitem(last=False)
        return exists

    # ---- where no page lists files

    async def _require_not_absent(self, file: File) -> None:
        """Raise ``NotFound`` for a file that upstream lately said it has not, or once said and cannot be asked now."""
        if self._registries[file.registry].listing_page(file) is not None:
            return
        known = await self._pages.absence(file)
        answers = any(source.available(file.registry, "page") for source in self._sources)
        if known == "fresh" or (known == "stale" and not answers):
            raise NotFound(f"upstream has no {file.name}")

    async def _checksum(self, file: File, algorithm: str, hold_s: float) -> Delivery:
        """A checksum sidecar: made of its file's digest where that is known, so that both always agree; else upstream's is passed on."""
        registry = self._registries[file.registry]
        subject = registry.subject(file)
        _require_allowed(self.judge(subject))
        value: str | None = None
        outcome, status = "miss", "fwd=uri-miss"
        with trio.move_on_after(hold_s):
            resolved = await self.resolve(subject)
            known = resolved.digests
            _require_allowed(self.judge(resolved.file, known))
            if not known and (aloft := self._aloft.get(subject)) is not None:
                # Its last bytes may leave a moment before it is bound, and the client's next question is this one.
                known = aloft[1].digests
            mine = next((digest.value for digest in known if digest.algorithm == algorithm), None)
            if mine is not None and self._is_offered(registry, file, algorithm):
                value, outcome, status = mine, "hit", "hit; detail=generated"
            else:
                value = await self._passed_on(registry, file, subject, algorithm, mine)
            last_modified = resolved.binding.last_modified if resolved.binding else None
            return _written(registry, file, value, outcome, status, last_modified)
        raise Unavailable(f"{file.name} has not come yet", 5)

    def _is_offered(self, registry: Registry, file: File, algorithm: str) -> bool:
        """Whether upstream is known to have a checksum sidecar. An MD5 is only known because upstream told it."""
        return algorithm in (registry.identity, "md5") or file in self._offered

    async def _passed_on(self, registry: Registry, file: File, subject: File, algorithm: str, mine: str | None) -> str:
        """The value upstream publishes; ours (``mine``), if we have one and upstream has any or cannot be asked."""
        await self._require_not_absent(file)
        try:
            content = await self._notes.read(file)
        except Unavailable:
            if await self._pages.absence(file) is not None:
                raise NotFound(f"upstream had no {file.name} when it last answered") from None
            if mine is not None:
                return mine
            raise
        if content is None:
            await self._pages.record_absence(file)
            raise NotFound(f"upstream has no {file.name}")
        await self._pages.forget_absence(file)
        if mine is not None:
            self._offered[file] = None
            if len(self._offered) > REMEMBERED:
                self._offered.popitem(last=False)
            return mine
        try:
            digests = registry.vouched(subject, {file.filename: content})
        except ValueError as error:
            raise Corrupt(f"{file.name} is no checksum: {error}") from None
        found = next((digest.value for digest in digests if digest.algorithm == algorithm), None)
        if found is None:
            raise Corrupt(f"{file.name} is no {algorithm} checksum")
        return found

    async def _evidence(self, files: Sequence[File]) -> Mapping[str, bytes]:
        """Small files that vouch for another, by name: checksums from upstream, descriptors only if they are held."""
        held: dict[str, bytes] = {}
        wanted: list[File] = []
        for file in files:
            if self._registries[file.registry].checksum(file):
                wanted.append(file)
            elif (content := await self._content(file)) is not None:
                held[file.filename] = content
        return held | await self._notes.read_all(wanted)

    async def _signature(self, file: File) -> bytes | None:
        held = await self._content(file)
        return held if held is not None else await self._notes.read(file)

    async def _content(self, file: File) -> bytes | None:
        """The bytes of a small file that is held."""
        binding = await self._binding(file)
        span = self._blobs.open_nowait(binding.digest) if binding is not None else None
        if span is None:
            return None
        try:
            return os.pread(span.fd, len(span), span.start) if len(span) <= LIMIT_BYTES else None
        finally:
            span.close()

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
        try:
            span.validity = self._leaves.give(binding.file, _digests(binding))
        except Refused:
            span.close()
            raise
        self._used[binding.digest] = self._clock()
        return Delivery(binding.file, _digests(binding), binding.size, span, "hit", "hit", binding.last_modified)

    async def flush_uses(self) -> None:
        """Tell the catalogue which blobs were used since the last call."""
        used, self._used = self._used, {}
        if used:
            await self._catalog.touch(used)

    # ---- arriving

    async def _arriving(
        self, file: File, entry: Entry, binding: Binding | None, until: float, asked_as: File | None = None
    ) -> Delivery:
        identity = self._registries[file.registry].identity
        flight, joined = self._fetch(file, entry, binding, asked_as)
        with trio.move_on_at(until):
            pause_s = self._flights.pause_s(flight)
            if pause_s and trio.current_time() + pause_s < until:
                # A second's patience here spares the client ten of its own.
                await trio.sleep(pause_s)
                flight, joined = self._fetch(file, entry, binding, asked_as)
            await flight.wait_head()
            follower = flight.follow()
            try:
                await follower.wait_beyond(0)
                if not any(digest.algorithm == identity for digest in flight.digests):
                    await flight.wait_outcome()
                digests = flight.digests
                size = flight.size if flight.size is not None else flight.written
                leave = self._leaves.give(file, entry.digests, flight)
            except BaseException:
                follower.close()
                raise
            outcome = "collapsed" if joined else "miss"
            status = "fwd=uri-miss; stored" + ("; collapsed" if joined else "")
            body = Arriving(follower, 0, size, until, leave)
            return Delivery(file, digests, size, body, outcome, status, flight.last_modified, flight.trail)
        raise Unavailable(f"{file.name} is still being fetched and checked", flight.estimate_s() or 5)

    def _fetch(
        self, file: File, entry: Entry, binding: Binding | None, asked_as: File | None = None
    ) -> tuple[Flight[Stored], bool]:
        """The flight for ``entry``'s bytes; another path or other digests are another one. Raises ``Refused`` as the last did."""
        if binding is not None and binding.digest not in entry.digests:
            # A name once bound is only ever filled with the same bytes, whatever is published now.
            entry = msgspec.structs.replace(entry, digests=(*entry.digests, binding.digest))
        self._leaves.require(file, entry)
        registry = self._registries[file.registry]

        async def job(flight: Flight[Stored]) -> Stored:
            if asked_as is not None:
                self._aloft[asked_as] = Resolved(file, entry, binding), flight
            try:
                with self._leaves.flying(flight, file, entry):
                    stored = await synchronize(flight, self._bench, registry, file, entry)
            except NotFound:
                if registry.listing_page(file) is None:
                    await self._pages.record_absence(file)
                    raise NotFound(f"upstream has no {file.name}") from None
                # Listed but missing is upstream's inconsistency (a fresh upload on another CDN node), not an absence.
                raise Unavailable(f"upstream lists {file.name} but does not have it", 5) from None
            except Corrupt:
                page = registry.listing_page(file)
                if page is not None and self._may_change(file):
                    await self._pages.doubt(page)
                raise
            except Unavailable:
                if registry.listing_page(file) is None and not flight.is_there and await self._pages.absence(file) is not None:
                    # A held clean absence stands in for an upstream that does not answer, as a held page would.
                    raise NotFound(f"upstream had no {file.name} when it last answered") from None
                raise
            finally:
                if flight.is_there and registry.listing_page(file) is None:
                    await self._pages.forget_absence(file)
                if asked_as is not None:
                    self._aloft.pop(asked_as, None)
            self._remember_stored(registry, stored)
            return stored

        key = f"file {file.key} {file.path} {' '.join(map(str, entry.digests))}"
        if registry.listing_page(file) is None and isinstance(self._flights.memo(key), NotFound):
            # Its absence is recorded, and whoever comes here has found that record in doubt.
            self._flights.forget(key)
        return self._flights.join(key, job, keep_without_followers=False)

    async def _made_again(self, binding: Binding, until: float) -> Delivery | None:
        """A metadata sidecar that was made here and whose blob has gone, made again from its wheel; None if it was not made here.

        The page advertises it, and for pip a missing advertised sidecar is fatal.
        """
        registry = self._registries[binding.file.registry]
        subject = registry.subject(binding.file)
        if subject == binding.file:
            return None
        entry = await self._listed(subject)
        if entry.sidecar is not None:
            return None
        wheel = await self._binding(entry.file)
        delivery = await self._held(wheel) if wheel is not None else None
        with trio.move_on_at(until):
            if wheel is not None and delivery is not None and isinstance(delivery.body, Span):
                span = delivery.body

                async def job(_: Flight[Binding | None]) -> Binding | None:
                    return await sidecar_of(self._bench, wheel, span)

                try:
                    flight, _ = self._flights.join(f"sidecar {binding.file.key}", job)
                    made = await flight.wait_outcome()
                finally:
                    span.close()
            else:
                fetching, _ = self._fetch(entry.file, entry, wheel)
                made = (await fetching.wait_outcome()).sidecar
            if made is not None:
                self._remember(made)
                return await self._held(made)
            raise Unavailable(f"{binding.file.filename} could not be made again", 5)
        raise Unavailable(f"{subject.filename}, which it is read from, is still being fetched", 5)

    def _remember_stored(self, registry: Registry, stored: Stored) -> None:
        if not stored.kept:
            return
        self._remember(stored.binding)
        if stored.sidecar is not None:
            self._remember(stored.sidecar)
            file = stored.binding.file
            page = registry.listing_page(file)
            if page is not None:
                self._pages.sidecar_made(page, file.filename, stored.sidecar.digest)


def _written(registry: Registry, file: File, value: str, outcome: str, status: str, last_modified: str | None) -> Delivery:
    """A checksum sidecar that says ``value``."""
    body = value.encode()
    digests = [Digest("sha256", hashlib.sha256(body).hexdigest())]
    if registry.identity != "sha256":
        digests.insert(0, Digest(registry.identity, hashlib.new(registry.identity, body).hexdigest()))
    return Delivery(file, tuple(digests), len(body), body, outcome, status, last_modified)


def _require_allowed(verdict: Verdict) -> None:
    if not isinstance(verdict, Allow):
        raise Refused(verdict)


def _digests(binding: Binding) -> tuple[Digest, ...]:
    return (binding.digest, *binding.aliases)
