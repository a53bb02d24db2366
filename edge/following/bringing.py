"""Bringing what is wanted here before anybody asks: a few at a time, the newest first, what fails rarer and rarer.

What is wanted stands in the catalogue, so that it survives a restart. What the feed has just told of is begun from memory at once; the
rest comes in the catalogue's order. A page comes before the files of its project, since it says what they are.
"""

from __future__ import annotations

import logging
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import trio

from origin.catalog import Catalog, Wanted
from origin.errors import Corrupt, NotFound, Refused, Unavailable
from origin.metrics import Metrics
from origin.model import Clock, File, Page

from . import Keeper
from .standing import Standing, jittered

log = logging.getLogger("leeward.follow")

FRESH = 5000
"""How many of what the feed has just told of are kept in memory; all are in the catalogue."""

BACKLOG = 500
"""How many of the rest are read at a time."""

LOOK_S = 5.0
"""How often the catalogue is asked for what has become due."""

SETTLE_S = 0.2
"""How long what came is gathered before it is written down together."""

DEATH = 8
"""A thing that failed this often is dead: still tried, rarely, and no part of what is awaited."""

DEAD_S = 3600.0
FIRST_S = 2.0
"""The pauses of the dead, and after a first failure, which doubles."""

LONGEST_S = 3600.0
"""How long one thing may take; sources give up much sooner when nothing arrives."""

ROOM_BYTES = 64 << 20
"""How much room is made beyond what is missing, so that it need not be made for each file."""

AWAY_S = 5.0
"""When to come back to what failed because the origin does not answer: that is not its fault, and does not count."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much the store may hold for more to be brought unasked, None for as much as it takes.

    ``held_bytes`` tells how much it does, ``admits`` whether it stores anything new at all.
    """

    limit_bytes: int | None
    held_bytes: Callable[[], float]
    admits: Callable[[], bool]

    @property
    def is_spent(self) -> bool:
        return self.limit_bytes is not None and self.held_bytes() >= self.limit_bytes

    def room_bytes(self) -> float:
        """How much there is room for yet."""
        return math.inf if self.limit_bytes is None else max(0.0, self.limit_bytes - self.held_bytes())

    def excess(self) -> int:
        """How many bytes to give up so that there is some room again."""
        if self.limit_bytes is None:
            return 0
        return max(0, math.ceil(self.held_bytes() - self.limit_bytes) + min(ROOM_BYTES, self.limit_bytes // 20))


class Bringing:
    """Brings what is wanted.

    Where the budget is spent, a file that the feed has just told of still comes, and what was used least recently goes for it: the newest
    win. What is only caught up with (a snapshot, a comparison) is passed over instead, or all that the origin ever had would pass through
    here in turn.
    """

    def __init__(
        self,
        keeper: Keeper,
        catalog: Catalog,
        standing: Standing,
        budget: Budget,
        metrics: Metrics,
        clock: Clock,
        at_once: int,
    ) -> None:
        self.passed_over = 0
        self._keeper = keeper
        self._catalog = catalog
        self._standing = standing
        self._budget = budget
        self._metrics = metrics
        self._clock = clock
        self._at_once = at_once
        self._fresh: dict[str, Wanted] = {}
        self._running: dict[str, Wanted] = {}
        self._active = 0
        self._backlog: deque[Wanted] = deque()
        self._refill_at = 0.0
        self._making_room = trio.Lock()
        self._pages: Counter[tuple[str, str]] = Counter()
        self._done: list[Wanted] = []
        self._failed: list[Wanted] = []
        self._look = trio.Event()
        self._settling = trio.Event()

    def told(self, fresh: Iterable[Wanted]) -> None:
        """The feed made us want these; they are in the catalogue."""
        for wanted in fresh:
            # What is under way was perhaps asked for before there was news: it is begun once more.
            if wanted.key in self._fresh:
                self._fresh[wanted.key] = wanted
            elif len(self._fresh) < FRESH or wanted.key in self._running:
                self._fresh[wanted.key] = wanted
                self._count(wanted, 1)
                self._metrics.replication_wanted.inc()
        self._refill_at = 0.0
        self._look.set()

    async def run(self) -> None:
        """Bring things until cancelled."""
        self._running.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._settle)
            while True:
                await self._standing.wait_connected()
                self._look = trio.Event()
                try:
                    due = await self._due()
                except Unavailable as error:
                    log.warning("what is wanted cannot be read: %s", error)
                    due = []
                for wanted in due:
                    is_fresh = self._fresh.pop(wanted.key, None) is not None
                    if not is_fresh:
                        self._count(wanted, 1)
                    self._running[wanted.key] = wanted
                    self._active += 1
                    nursery.start_soon(self._bring, wanted, is_fresh)
                with trio.move_on_after(LOOK_S):
                    await self._look.wait()

    async def _due(self) -> list[Wanted]:
        """What to begin now: as many as there is room for."""
        room = self._at_once - self._active
        found: list[Wanted] = []
        for wanted in self._fresh.values():
            if len(found) >= room:
                break
            if self._may_begin(wanted):
                found.append(wanted)
        if len(found) < room and not self._backlog and trio.current_time() >= self._refill_at:
            # What runs, or waits to be written down, still stands there; or it did when this was read.
            known = frozenset((*self._running, *self._fresh))
            rows = await self._catalog.wanted(self._clock(), limit=BACKLOG + len(known))
            self._backlog.extend(each for each in rows if each.key not in known)
            if not self._backlog:
                self._refill_at = trio.current_time() + jittered(LOOK_S, random.random)
        while self._backlog and len(found) < room:
            wanted = self._backlog.popleft()
            if wanted.key not in self._fresh and self._may_begin(wanted):
                found.append(wanted)
        return found

    def _may_begin(self, wanted: Wanted) -> bool:
        """Whether it is not under way, and no page that tells what it is."""
        if wanted.key in self._running:
            return False
        resource = wanted.resource
        return isinstance(resource, Page) or not self._pages[resource.registry, resource.project]

    def _count(self, wanted: Wanted, more: int) -> None:
        """Count the pages that are to come, by project."""
        if isinstance(wanted.resource, Page):
            project = (wanted.resource.registry, wanted.resource.project)
            self._pages[project] += more
            if not self._pages[project]:
                del self._pages[project]

    # ---- one of them

    async def _bring(self, wanted: Wanted, is_fresh: bool) -> None:
        try:
            outcome, failed = await self._tried(wanted, is_fresh)
        finally:
            self._active -= 1
            self._count(wanted, -1)
            self._look.set()
        self._metrics.replication_brought.labels(outcome).inc()
        if failed is None:
            self._done.append(wanted)
        else:
            log.debug("not brought: %s", failed.error, extra={"key": wanted.key, "attempts": failed.attempts})
            if failed.dead and not wanted.dead:
                log.warning("given up for now: %s", failed.error, extra={"key": wanted.key, "attempts": failed.attempts})
            self._failed.append(failed)
        self._settling.set()

    async def _tried(self, wanted: Wanted, is_fresh: bool) -> tuple[str, Wanted | None]:
        """How bringing it ended, and what is to be written down of it if that was not well."""
        resource = wanted.resource
        if isinstance(resource, File) and not self._budget.admits():
            return "away", self._later(wanted, "the store takes nothing new")
        try:
            if isinstance(resource, File) and not await self._has_room(is_fresh):
                self.passed_over += 1
                return "passed-over", None
            with trio.move_on_after(LONGEST_S):
                await self._keeper.keep(resource)
                return "kept", None
            return "failed", self._failing(wanted, f"it did not come within {LONGEST_S:.0f} s")
        except Refused:
            return "refused", None
        except NotFound as error:
            # A page that was there and is not is no news that can be kept; a file that the ledger tells of should be there.
            return ("absent", None) if isinstance(resource, Page) else ("failed", self._failing(wanted, str(error)))
        except Unavailable as error:
            if not self._standing.connected:
                return "away", self._later(wanted, str(error))
            return "failed", self._failing(wanted, str(error), error.retry_after_s)
        except Corrupt as error:
            return "failed", self._failing(wanted, str(error))
        except Exception as error:
            log.exception("bringing failed", extra={"key": wanted.key})
            return "failed", self._failing(wanted, type(error).__name__)

    def _later(self, wanted: Wanted, error: str) -> Wanted:
        """It is no fault of the thing itself."""
        return replace(wanted, due=self._clock() + jittered(AWAY_S, random.random), error=error[:500])

    def _failing(self, wanted: Wanted, error: str, least_s: float = 0.0) -> Wanted:
        attempts = wanted.attempts + 1
        pause_s = DEAD_S if attempts >= DEATH else max(least_s, FIRST_S * 2.0 ** (attempts - 1))
        due = self._clock() + jittered(pause_s, random.random)
        return replace(wanted, attempts=attempts, due=due, error=error[:500], dead=attempts >= DEATH)

    async def _has_room(self, is_fresh: bool) -> bool:
        if not self._budget.is_spent:
            return True
        if not is_fresh:
            return False
        async with self._making_room:
            if self._budget.is_spent:
                await self._keeper.make_room(self._budget.excess())
        return not self._budget.is_spent

    # ---- what became of them

    async def _settle(self) -> None:
        told_at = -math.inf
        while True:
            with trio.move_on_after(LOOK_S):
                await self._settling.wait()
                await trio.sleep(SETTLE_S)
            self._settling = trio.Event()
            done, self._done = self._done, []
            failed, self._failed = self._failed, []
            try:
                if done or failed:
                    # As it was read: what the feed told of again meanwhile, even while this is written down, is wanted still.
                    await self._catalog.settle(done, failed)
            except Unavailable as error:
                # They will be tried again, which does no harm.
                log.warning("what was brought could not be written down: %s", error)
            for each in (*done, *failed):
                self._running.pop(each.key, None)
            self._look.set()
            if trio.current_time() >= told_at + LOOK_S or not self._running:
                told_at = trio.current_time()
                try:
                    await self._tell()
                except Unavailable as error:
                    log.warning("what is wanted cannot be counted: %s", error)

    async def _tell(self) -> None:
        wanted, dead, oldest = await self._catalog.unresolved()
        self._metrics.replication_wanted.set(wanted)
        self._metrics.replication_dead.set(dead)
        self._metrics.replication_oldest.set(max(0.0, self._clock() - oldest) if oldest is not None else 0)
