"""What edges send to their origin: who fetched what, which makes files popular; and files that they took while it could not be asked.

An offered file is not taken from the edge: the origin synchronizes it itself, from the registry, so that it passes every check that any
other does. What is still to be done about offers stands in the catalogue, as what an edge wants does.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from urllib.parse import quote

import trio

from .api.wire import EdgeAccess, HeldFile
from .catalog import Access, Binding, Catalog, Event, Wanted
from .errors import Corrupt, NotFound, Refused, Unavailable
from .metrics import Metrics
from .model import Change, Clock, File, Page
from .policy.purls import purl_of
from .registries import Registry

log = logging.getLogger("leeward.intake")

AT_ONCE = 4
"""How many offered files are fetched at a time: nobody waits for them."""

LOOK_S = 10.0
"""How often it is looked whether something is due again."""

FETCH_S = 300.0
"""How long one file is waited for while others wait for it: its flight goes on, and is joined when it is tried again."""

FIRST_S = 5.0
LONGEST_S = 3600.0
"""The pause after a first failure, which doubles, and the longest."""

DEATH = 10
"""A file that failed this often is dead: still tried, rarely."""

REMEMBERED = 100_000
"""Of how many files it is remembered in memory which edges delivered them, or that they are popular."""

WAITING = 50_000
"""How many deliveries may wait to be counted. What finds no room is counted when it is delivered again."""

LOOKED_AT = 1000
"""How many earlier deliveries of a file are looked at to find which edges delivered it."""


class Popularity:
    """Counts which edges delivered a file, and says once in the ledger that so many did. ``run`` does the counting."""

    def __init__(
        self, catalog: Catalog, registries: Mapping[str, Registry], clock: Clock, edges: int, limit: int = REMEMBERED
    ) -> None:
        self._catalog = catalog
        self._registries = registries
        self._clock = clock
        self._edges = edges
        self._limit = limit
        self._seen: OrderedDict[str, set[str] | None] = OrderedDict()
        """The edges by file; None for a file that is popular."""
        self._waiting: deque[tuple[str, str]] = deque(maxlen=WAITING)
        self._more = trio.Event()

    def delivered(self, edge: str, files: Sequence[str]) -> None:
        """An edge delivered these files, by their keys. Never waits."""
        self._waiting.extend((edge, file) for file in dict.fromkeys(files))
        self._more.set()

    async def run(self) -> None:
        """Count until cancelled."""
        while True:
            await self._more.wait()
            self._more = trio.Event()
            while self._waiting:
                edge, file = self._waiting.popleft()
                try:
                    await self.count(edge, file)
                except Unavailable as error:
                    # Counted with the next delivery.
                    self._seen.pop(file, None)
                    log.warning("who delivered a file was not counted: %s", error)
                except Exception:
                    log.exception("who delivered a file was not counted", extra={"file": file[:200]})

    async def count(self, edge: str, file: str) -> bool:
        """Count one delivery; whether it made the file popular. Raises ``Unavailable``."""
        if file in self._seen:
            edges = self._seen[file]
        else:
            edges = await self._earlier(file)
            self._seen[file] = edges
            if len(self._seen) > self._limit:
                self._seen.popitem(last=False)
        self._seen.move_to_end(file)
        if edges is None:
            return False
        edges.add(edge)
        binding = await self._binding(file) if len(edges) >= self._edges else None
        if binding is None:
            return False
        await self._catalog.append(self._change(binding), {_popular(file): "1"})
        self._seen[file] = None
        log.info("popular: %s", file)
        return True

    async def _earlier(self, file: str) -> set[str] | None:
        if await self._catalog.recall(_popular(file)) is not None:
            return None
        return {each.edge for each in await self._catalog.deliveries([file], [], LOOKED_AT) if each.edge and each.complete}

    async def _binding(self, file: str) -> Binding | None:
        registry, _, rest = file.partition(":")
        project, _, rest = rest.partition(":")
        version, _, filename = rest.partition(":")
        return await self._catalog.binding(File(registry, project, version, filename, ""))

    def _change(self, binding: Binding) -> Change:
        file = binding.file
        registry = self._registries.get(file.registry)
        return Change(
            0,
            file.key,
            binding.digest,
            kind="popular",
            at=self._clock(),
            registry=file.registry,
            project=file.project,
            version=file.version,
            filename=file.filename,
            path=file.path,
            size=binding.size,
            purl=purl_of(registry.kind, file.project, file.version) if registry is not None else "",
        )


class Intake:
    """Takes in what edges send. ``run`` fetches what was offered. ``keep`` brings a file here, as ``Service.keep`` does."""

    def __init__(
        self,
        catalog: Catalog,
        registries: Mapping[str, Registry],
        keep: Callable[[Page | File], Awaitable[None]],
        popularity: Popularity,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._catalog = catalog
        self._registries = registries
        self._keep = keep
        self._popularity = popularity
        self._metrics = metrics
        self._clock = clock
        self._offered = trio.Event()
        # What edges said the bytes are, until they are here: not kept over a restart, since the comparison of holdings tells as well.
        self._said: OrderedDict[str, tuple[str, str]] = OrderedDict()

    # ---- who fetched what

    async def accesses(self, edge: str, sent: Sequence[EdgeAccess]) -> None:
        """Keep an edge's access records; what it sends again is passed over. Raises ``Unavailable``."""
        await self._catalog.record_accesses(
            [
                Access(each.at, each.file, each.digest, each.client, each.token, each.sent, each.complete, edge, each.number)
                for each in sent
            ]
        )
        self._popularity.delivered(edge, [each.file for each in sent if each.complete])

    # ---- what edges took by themselves

    async def offers(self, edge: str, files: Sequence[HeldFile]) -> None:
        """Want what is not here, and tell operators of what is here as other bytes. Raises ``Unavailable``."""
        now = self._clock()
        wanted: list[Wanted] = []
        for held in files:
            file = held.file
            if not self._is_meant(file):
                self._count("malformed")
                log.warning("an edge offered what is no file of ours", extra={"edge": edge, "offered": file.key[:200]})
                continue
            bound = await self._catalog.binding(file)
            if bound is not None and str(bound.digest) != held.digest:
                await self._differs(file.key, edge, held.digest, str(bound.digest))
            elif bound is not None and await self._catalog.held(bound.digest) is not None:
                self._count("held")
            else:
                wanted.append(Wanted(file.key, file, now, now))
                self._said[file.key] = edge, held.digest
                if len(self._said) > REMEMBERED:
                    self._said.popitem(last=False)
        if wanted:
            await self._catalog.follow({}, (), wanted)
            self._offered.set()

    def _is_meant(self, file: File) -> bool:
        """Whether a path that came over the network means this very file here."""
        registry = self._registries.get(file.registry)
        if registry is None:
            return False
        try:
            found = registry.resource("GET", quote(file.path, safe="/@!,+~=:"))
            if not isinstance(found, File) or (found.path, found.filename) != (file.path, file.filename):
                return False
            page = registry.listing_page(found)
            if page is None or page.view:
                # No listing of the project says what it has: under the name of one, another's bytes would be bound for ever.
                return found == file
            return registry.normalise(file.project) == file.project
        except ValueError:
            return False

    async def run(self) -> None:
        """Fetch what was offered, until cancelled."""
        while True:
            due: Sequence[Wanted] = ()
            try:
                due = await self._catalog.wanted(self._clock(), 10 * AT_ONCE)
                await self._fetch_all(due)
            except Unavailable as error:
                log.warning("offers have to wait: %s", error)
                due = ()
            if not due:
                with trio.move_on_after(LOOK_S):
                    await self._offered.wait()
                self._offered = trio.Event()

    async def _fetch_all(self, due: Sequence[Wanted]) -> None:
        limiter = trio.CapacityLimiter(AT_ONCE)
        done: list[Wanted] = []
        failed: list[Wanted] = []

        async def fetch(wanted: Wanted) -> None:
            async with limiter:
                again = await self._fetch(wanted)
                if again is None:
                    done.append(wanted)
                else:
                    failed.append(again)

        async with trio.open_nursery() as nursery:
            for each in due:
                nursery.start_soon(fetch, each)
        if due:
            await self._catalog.settle(done, failed)

    async def _fetch(self, wanted: Wanted) -> Wanted | None:
        """Fetch one; None if it is done with, else how it stands."""
        try:
            with trio.fail_after(FETCH_S):
                await self._keep(wanted.resource)
        except (NotFound, Refused) as error:
            self._count("refused" if isinstance(error, Refused) else "absent")
            log.info("an offered file is not taken: %s", error, extra={"file": wanted.key})
        except ValueError as error:
            self._count("malformed")
            log.warning("an offered file cannot be taken: %s", error, extra={"file": wanted.key})
        except Exception as error:
            if not isinstance(error, Unavailable | Corrupt | trio.TooSlowError):
                log.exception("an offered file could not be taken, and is tried again", extra={"file": wanted.key})
            pause_s = min(LONGEST_S, FIRST_S * 2 ** min(wanted.attempts, 20))
            attempts = wanted.attempts + 1
            return replace(wanted, due=self._clock() + pause_s, attempts=attempts, error=str(error)[:500], dead=attempts >= DEATH)
        else:
            self._count("taken")
            await self._compare(wanted)
        self._said.pop(wanted.key, None)
        return None

    async def _compare(self, wanted: Wanted) -> None:
        said = self._said.get(wanted.key)
        if said is None or isinstance(wanted.resource, Page):
            return
        bound = await self._catalog.binding(wanted.resource)
        if bound is not None and str(bound.digest) != said[1]:
            await self._differs(wanted.key, said[0], said[1], str(bound.digest))

    async def _differs(self, key: str, edge: str, offered: str, bound: str) -> None:
        self._count("differs")
        self._metrics.events.labels("offer-differs").inc()
        detail = f"{edge} has {offered}, bound here to {bound}"
        log.warning("an offered file is other bytes here: %s", detail, extra={"subject": key})
        await self._catalog.record_event(Event(self._clock(), "offer-differs", key, detail))

    def _count(self, outcome: str) -> None:
        self._metrics.offers.labels(outcome).inc()


def _popular(file: str) -> str:
    return f"popular {file}"
