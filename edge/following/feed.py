"""The feed, followed: each batch checked, what it changes put in force, the cursor moved, all in one transaction, then acknowledged."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec
import trio

from origin.api import wire
from origin.catalog import Catalog, Event, Wanted
from origin.errors import Unavailable
from origin.feed import Forked, RolledBack, checked
from origin.metrics import Metrics
from origin.model import Change, Clock, Page

from . import Keeper
from .central import Central, Outdated
from .facts import Facts, Place
from .policy import Policy, WentBack
from .snapshot import Snapshots
from .standing import Lease, Standing, jittered
from .wanting import Wanting, stale_of

log = logging.getLogger("leeward.follow")

WAIT_S = 25.0
"""How long the origin may keep a question for news."""

LINES = 1000
"""The most lines asked for at a time."""

GATHER_S = 0.05
"""The pause after a batch that was not full, in which the next lines come together: each batch is a transaction."""

RETRY_S = (0.5, 4.0)
"""The first pause after a failure, and the longest: each is twice the last one, less a random part."""

BACK = 5
"""A ledger that ends before what was followed is asked so often whether it does."""

OUTDATED = 2
"""A place that was just given, and is outdated, is asked for anew so often without a pause."""

DIVERGED_S = 60.0
"""How often an origin is asked again whose ledger is not the one that was followed."""


@dataclass(frozen=True, slots=True)
class Applied:
    """A batch that is in force, or a snapshot that is taken in. ``fresh`` is what it made us want."""

    cursor: str
    fresh: Sequence[Wanted] = ()
    is_snapshot: bool = False


class Feed:
    """Follows from where it was, for ever. ``applied`` is told of each batch once everything in it is in force.

    A ledger that is not the one it was (rolled back, forked, signed by somebody else) is followed no further: what is here is served on,
    operators are told, and it is asked again once in a while.
    """

    def __init__(
        self,
        central: Central,
        policy: Policy,
        catalog: Catalog,
        keeper: Keeper,
        facts: Facts,
        wanting: Wanting,
        standing: Standing,
        lease: Lease,
        metrics: Metrics,
        clock: Clock,
        key: bytes,
        applied: Callable[[Applied], None],
        *,
        wait_s: float = WAIT_S,
    ) -> None:
        self._central = central
        self._policy = policy
        self._catalog = catalog
        self._keeper = keeper
        self._facts = facts
        self._wanting = wanting
        self._standing = standing
        self._lease = lease
        self._metrics = metrics
        self._clock = clock
        self._key = key
        self._applied = applied
        self._wait_s = wait_s
        self._snapshots = Snapshots(central, catalog, keeper, facts, wanting, standing, clock)
        self._place: Place | None = None
        self._is_in_step = False
        self._back = 0
        self._outdated = 0
        self._odd: int | None = None

    async def run(self) -> None:
        """Follow until cancelled. Never ends by itself."""
        pause_s = RETRY_S[0]
        while True:
            try:
                await self._turn()
            except Unavailable as error:
                self._standing.lost(str(error))
            except (Forked, RolledBack, WentBack) as error:
                # A snapshot may have told of lines that are there and not announced yet, for the fraction of a second.
                self._back = self._back + 1 if isinstance(error, RolledBack) else 0
                if 0 < self._back < BACK:
                    await trio.sleep(RETRY_S[0])
                    continue
                await self._diverged(str(error))
                await trio.sleep(jittered(DIVERGED_S, random.random))
                continue
            except ValueError as error:
                self._standing.lost(f"what it sent cannot be read: {error}")
            except Exception as error:
                log.exception("following failed, and is tried again")
                self._standing.lost(f"following failed ({type(error).__name__})")
            else:
                pause_s, self._back = RETRY_S[0], 0
                continue
            await trio.sleep(jittered(pause_s, random.random))
            pause_s = min(RETRY_S[1], 2 * pause_s)

    async def _turn(self) -> None:
        """One question, or one snapshot."""
        if self._place is None:
            self._place = await self._snapshots.place()
        if self._place is None:
            self._place = await self._snapshots.take()
            self._applied(Applied(self._place.cursor, is_snapshot=True))
        place = self._place
        asked_at = trio.current_time()
        # Whoever was away asks first what there is: the answer says that we are in contact, and how far.
        wait_s = self._wait_s if self._is_in_step and self._standing.connected else 0.0
        try:
            batch, records = await self._central.changes(place.cursor, self._policy.revision, wait_s, LINES)
        except Outdated:
            log.warning("the feed cannot be followed from here: its epoch changed, or we were away for too long")
            self._place, self._is_in_step = None, False
            await self._snapshots.begin(place)
            self._outdated += 1
            if self._outdated > OUTDATED:
                raise Unavailable("the origin does not know the place in its ledger that it gave") from None
            return
        await self._apply(place, batch, records)
        self._is_in_step, self._outdated = True, 0
        self._lease.contact(asked_at)
        self._agreed()
        # Once that is news which came meanwhile. If it is said again, what the origin says of its verdicts does not fit together: it would
        # answer at once for ever.
        odd = batch.verdicts if not records and batch.verdicts != self._policy.revision else None
        if odd is not None and odd == self._odd:
            await trio.sleep(jittered(RETRY_S[1], random.random))
        elif len(records) < LINES:
            await trio.sleep(GATHER_S)
        self._odd = odd

    async def _apply(self, place: Place, batch: wire.Batch, records: Sequence[bytes]) -> None:
        """Put a batch in force. Raises ``Forked`` or ``RolledBack``, ``WentBack``, ``Unavailable``, ``ValueError``."""
        epoch, before = wire.read_cursor(place.cursor)
        chain = checked(batch, records, place.chain, self._key, before)
        reached, serial = wire.read_cursor(batch.cursor)
        if reached != epoch:
            raise Forked(f"the lines beyond {place.cursor} are of another epoch, {reached}")
        self._standing.heard()
        # What is refused comes first: a line may be what a recall is about.
        await self._policy.ensure(batch.verdicts, epoch)
        if records:
            changes = [change for record in records if (change := self._read(record)) is not None]
            stale = [pair for pair in stale_of(changes) if self._wanting.knows(pair[0])]
            wanted = self._wanting.wanted(changes, await self._held(stale), self._clock())
            place = Place(batch.cursor, chain.hex())
            fresh = await self._catalog.follow(self._facts.pair("place", place), stale, wanted)
            self._keeper.doubted(stale)
            self._place = place
            self._standing.reached(serial, batch.head)
            self._applied(Applied(place.cursor, fresh))
        else:
            self._standing.reached(serial, batch.head)
            if not self._is_in_step:
                # An origin that lets us in anew knows nothing of what was acknowledged before.
                self._applied(Applied(place.cursor))

    def _read(self, record: bytes) -> Change | None:
        """A line; None for one that only a later Leeward understands."""
        try:
            return _changes.decode(record)
        except (msgspec.DecodeError, ValueError) as error:
            log.warning("a line of the feed says nothing to us: %s", error)
            return None

    async def _held(self, pairs: Iterable[tuple[str, str]]) -> frozenset[Page]:
        """The pages of these projects that are here."""
        if self._wanting.mode in ("none", "all"):
            return frozenset()
        return frozenset([page for pair in pairs for page in await self._catalog.views(*pair)])

    async def _diverged(self, reason: str) -> None:
        self._standing.lost(reason)
        if self._standing.diverged == reason:
            return
        self._standing.diverged = reason
        self._metrics.feed_diverged.set(1)
        self._metrics.events.labels("feed-diverged").inc()
        log.error("the origin's ledger is not the one that was followed: %s", reason)
        try:
            await self._catalog.record_event(Event(self._clock(), "feed-diverged", "origin", reason))
        except Unavailable as error:
            log.warning("the event could not be recorded: %s", error)

    def _agreed(self) -> None:
        if self._standing.diverged:
            log.info("the origin's ledger is again the one that was followed")
            self._standing.diverged = ""
        self._metrics.feed_diverged.set(0)


_changes = msgspec.json.Decoder(Change)
