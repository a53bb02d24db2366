"""What an edge tells its origin: how far it is, who fetched what, and what it took from a registry while it could not ask.

All of it at least once: what was told is remembered after it was taken, so that a crash in between tells it again.
"""

from __future__ import annotations

import base64
import logging
import random
from collections.abc import Awaitable, Callable, Sequence

import trio

from origin.api import wire
from origin.catalog import Catalog
from origin.errors import Unavailable
from origin.holdings import held_file
from origin.metrics import Metrics, total
from origin.model import Change, Clock

from . import Keeper, Keys
from .central import Central
from .facts import Facts
from .policy import Policy
from .standing import Standing, jittered
from .wanting import Wanting, file_of

log = logging.getLogger("leeward.follow")

AT_MOST_S = 10.0
"""How often it is told how we stand, at most. New verdicts are acknowledged at once, and each question for changes tells our place."""

AGAIN_S = 1.0
"""The pause after what could not be told."""

AT_LEAST_S = 30.0
"""How often, at least, while in contact."""

LOOK_S = 2.0
"""How often it is looked whether there is something to tell."""

BATCH = 1000

NOWHERE = wire.cursor_text("-", 0)
"""The cursor of an edge that has nowhere to follow from yet: what it has in force is told all the same."""


class Acknowledging:
    """Tells what is in force here. ``due`` says that there is something new of that. ``keys`` hear of a new key of the fleet."""

    def __init__(
        self,
        central: Central,
        policy: Policy,
        catalog: Catalog,
        standing: Standing,
        metrics: Metrics,
        clock: Clock,
        release: str,
        keys: Keys | None = None,
    ) -> None:
        self._central = central
        self._policy = policy
        self._catalog = catalog
        self._standing = standing
        self._metrics = metrics
        self._clock = clock
        self._release = release
        self._keys = keys
        self._cursor = ""
        self._due = trio.Event()
        self._told = -1

    def due(self, cursor: str) -> None:
        """Everything up to ``cursor`` is in force."""
        self._cursor = cursor
        self._due.set()

    async def run(self) -> None:
        """Acknowledge until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._verdicts)
            while True:
                await self._standing.wait_connected()
                with trio.move_on_after(jittered(AT_LEAST_S, random.random)) as waiting:
                    await self._due.wait()
                    if self._told == self._policy.vouched:
                        with trio.move_on_after(AT_MOST_S):
                            await self._policy.wait_applied()
                self._due = trio.Event()
                if not self._cursor and not self._policy.vouched and not waiting.cancelled_caught:
                    # There is nothing to say. Once in a while it is said all the same: by the answer a new key of the fleet is heard of.
                    continue
                try:
                    await self._acknowledge()
                except (Unavailable, ValueError) as error:
                    log.info("not acknowledged: %s", error)
                    self._due.set()
                    await trio.sleep(jittered(AGAIN_S, random.random))

    async def _verdicts(self) -> None:
        while True:
            await self._policy.wait_applied()
            self._due.set()

    async def _acknowledge(self) -> None:
        verdicts = self._policy.vouched
        wanted, _, oldest = await self._catalog.unresolved()
        answer = await self._central.acknowledge(
            wire.Acknowledgement(
                cursor=self._cursor or NOWHERE,
                verdicts=verdicts,
                unresolved=wanted,
                oldest_unresolved_s=max(0.0, self._clock() - oldest) if oldest is not None else 0.0,
                held_bytes=int(total(self._metrics.held_bytes)),
                release=self._release,
                fleet=self._keys.name if self._keys is not None else "",
            )
        )
        self._told = verdicts
        if answer is not None and self._keys is not None:
            await self._keys.learn(base64.b64decode(answer.fleet, validate=True))


class Shipping:
    """Sends what the origin should know: batch after batch, from where it was, whenever there is contact."""

    def __init__(
        self, central: Central, catalog: Catalog, keeper: Keeper, facts: Facts, wanting: Wanting, standing: Standing
    ) -> None:
        self._central = central
        self._catalog = catalog
        self._keeper = keeper
        self._facts = facts
        self._wanting = wanting
        self._standing = standing
        self._instances: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Send until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._repeat, "who fetched what", self.ship)
            nursery.start_soon(self._repeat, "what was taken directly", self.offer)

    async def _repeat(self, what: str, step: Callable[[], Awaitable[bool]]) -> None:
        pause_s = LOOK_S
        while True:
            await self._standing.wait_connected()
            more = False
            try:
                more = await step()
            except (Unavailable, ValueError) as error:
                log.info("%s was not told: %s", what, error)
                pause_s = min(60.0, 2 * pause_s)
            except Exception:
                log.exception("%s was not told", what)
                pause_s = 60.0
            else:
                pause_s = LOOK_S
            if not more:
                await trio.sleep(jittered(pause_s, random.random))

    async def ship(self) -> bool:
        """Send some accesses; whether there may be more."""
        after = await self._facts.get("shipped", int) or 0
        found = await self._catalog.accesses_after(after, BATCH)
        if not found:
            return False
        told = tuple(
            wire.EdgeAccess(
                number=number,
                at=access.at,
                file=access.file,
                digest=access.digest,
                client=access.client,
                token=access.token,
                sent=access.sent,
                complete=access.complete,
            )
            for number, access in found
        )
        await self._central.ship(wire.Accesses(told))
        await self._facts.keep("shipped", found[-1][0])
        return len(found) == BATCH

    async def offer(self) -> bool:
        """Offer some of what came from a registry; whether there may be more. What the origin does not mirror is kept to ourselves."""
        after = await self._facts.get("offered", int) or 0
        changes = await self._catalog.changes(after, BATCH)
        if not changes:
            return False
        direct = [change for change in changes if change.kind == "file" and change.source == "registry"]
        await self.offer_all(direct)
        await self._facts.keep("offered", changes[-1].serial)
        return len(changes) == BATCH

    async def offer_all(self, changes: Sequence[Change]) -> None:
        """Offer the files of these lines that are here. Raises ``Unavailable``."""
        offered = []
        for change in changes:
            file = file_of(change)
            held = await self._keeper.holds(file) if self._wanting.knows(file.registry) else None
            if held is not None:
                offered.append(held_file(held))
        await self.offer_files(offered)

    async def offer_files(self, files: Sequence[wire.HeldFile]) -> None:
        """Offer files, but for those of instances that the origin does not have. Raises ``Unavailable``."""
        if not files:
            return
        theirs = (await self._central.instances()).kinds
        shared = tuple(file for file in files if self._wanting.kind(file.registry) == theirs.get(file.registry))
        for start in range(0, len(shared), BATCH):
            await self._central.offer(wire.Offers(shared[start : start + BATCH]))
            log.info("offered the origin what it may not have", extra={"files": len(shared[start : start + BATCH])})
