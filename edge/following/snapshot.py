"""Where following begins: with a snapshot of what the origin holds, taken in part by part, and gone on with after a restart.

It begins so for an edge that is new, one that was away for longer than the origin keeps lines, one whose origin was restored from a
backup, and one whose settings want something else than before. What is here stays here; its pages are in doubt, and are asked for again.
"""

from __future__ import annotations

import logging

import msgspec
import trio

from origin.api import wire
from origin.catalog import Catalog, Wanted
from origin.model import Clock

from . import Keeper
from .central import Central
from .facts import Facts, Place, Resync
from .standing import Progress, Standing
from .wanting import Wanting

log = logging.getLogger("leeward.follow")

PART = 1000
"""How many pages and files are asked for at a time."""

TOLD_S = 5.0
"""How often the log says how far it is."""


class Snapshots:
    """Takes snapshots in. Everything it does may be done twice."""

    def __init__(
        self, central: Central, catalog: Catalog, keeper: Keeper, facts: Facts, wanting: Wanting, standing: Standing, clock: Clock
    ) -> None:
        self._central = central
        self._catalog = catalog
        self._keeper = keeper
        self._facts = facts
        self._wanting = wanting
        self._standing = standing
        self._clock = clock
        self._state: Resync | None = None
        self._is_cut = False

    async def place(self) -> Place | None:
        """Where to follow from, None if that takes a snapshot first. Raises ``Unavailable``."""
        place, wanted = await self._facts.get("place", Place), await self._facts.get("wanted", str)
        if place is None or wanted == self._wanting.name:
            return place
        if self._wanting.mode == "none":
            await self._facts.keep("wanted", self._wanting.name)
            return place
        log.info("what is wanted here is not what it was: all that the origin holds is looked at again")
        await self._catalog.follow(self._facts.pair("place", None))
        return None

    async def begin(self, outdated: Place) -> None:
        """Forget the place that cannot be followed from: only a snapshot leads on. Raises ``Unavailable``."""
        # Whoever would read from the first line and may not has to do without the beginning.
        self._is_cut = wire.read_cursor(outdated.cursor)[1] == 0
        self._state = None
        facts = self._facts
        # It may have lost what it once told of, and what we offered it.
        await self._catalog.follow(facts.pair("place", None) | facts.pair("resync", None) | facts.pair("lost", True))

    async def take(self) -> Place:
        """Take a snapshot in, or the rest of one, and say where to follow from. Raises ``Unavailable`` and ``ValueError``."""
        told_at = trio.current_time()
        state = self._state or await self._facts.get("resync", Resync)
        if state is None or state.wanted != self._wanting.name:
            state = await self._first()
        while state.after is not None:
            self._state = state
            self._standing.progress = Progress(state.done, state.total)
            if trio.current_time() - told_at >= TOLD_S:
                told_at = trio.current_time()
                log.info("taking in what the origin holds", extra={"done": state.done, "of": state.total})
            part = await self._central.snapshot(state.after, PART)
            if wire.read_cursor(part.cursor)[0] != wire.read_cursor(state.place.cursor)[0]:
                # The origin was restored meanwhile: this is the snapshot of another one.
                self._state = None
                await self._facts.keep("resync", None)
                raise ValueError("the snapshot changed its epoch between two parts")
            self._standing.heard()
            state = await self._take_in(state, part)
        facts = self._facts
        await self._catalog.follow(
            facts.pair("place", state.place) | facts.pair("wanted", self._wanting.name) | facts.pair("resync", None)
        )
        log.info("following the origin", extra={"from": state.place.cursor, "taken_in": state.done})
        self._state = None
        self._standing.progress = None
        return state.place

    async def _first(self) -> Resync:
        """The first part, and what was here before put in doubt."""
        all_of_it, name = self._wanting.match is not None, self._wanting.name
        part = await self._central.snapshot("", PART if all_of_it else 1)
        self._standing.heard()
        await self._doubt_all()
        if all_of_it:
            return await self._take_in(Resync(place=Place(part.cursor, part.hash), wanted=name, total=part.total), part)
        if self._wanting.mode == "popular" and not self._is_cut:
            # What is popular is said in lines of the ledger, from the first on.
            epoch, _ = wire.read_cursor(part.cursor)
            return Resync(place=Place(wire.cursor_text(epoch, 0), wire.GENESIS.hex()), wanted=name, after=None)
        return Resync(place=Place(part.cursor, part.hash), wanted=name, after=None)

    async def _take_in(self, state: Resync, part: wire.Snapshot) -> Resync:
        """Want what a part names and is not here, and remember that this was seen to."""
        now = self._clock()
        wanted = [Wanted(page.key, page, now, now) for page in part.pages if self._wanting.wants_page(page)]
        files = {held.file.key: held.file for held in part.files if self._wanting.wants_file(held.file)}
        bound = await self._catalog.bound(list(files))
        for key, file in files.items():
            if key not in bound or await self._catalog.held(bound[key]) is None:
                wanted.append(Wanted(key, file, now, now))
        done = state.done + len(part.pages) + len(part.files)
        state = msgspec.structs.replace(state, after=part.after or None, done=done, total=max(state.total, done))
        await self._catalog.follow(self._facts.pair("resync", state), (), wanted)
        return state

    async def _doubt_all(self) -> None:
        """Every page that is here may be out of date; unless nothing is replicated, it is asked for again before somebody wants it."""
        after, now = "", self._clock()
        while pages := await self._catalog.pages_after(after, PART):
            ours = [page for page in pages if self._wanting.knows(page.registry)]
            pairs = list(dict.fromkeys((page.registry, page.project) for page in ours))
            wanted = [Wanted(page.key, page, now, now) for page in ours] if self._wanting.mode != "none" else []
            await self._catalog.follow({}, pairs, wanted)
            self._keeper.doubted(pairs)
            after = pages[-1].key
