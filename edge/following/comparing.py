"""Once in a while, all that is here against all that the origin has: one digest, then those of its shards, then the names of a shard.

The feed should have told everything; what it told and was lost, here or there, is found so. What we want and have not is wanted again;
what we have and the origin has not (it was restored from a backup, say) is offered; a name that means other bytes there is an alarm.

Where the budget is spent, what is missing was passed over or given up for want of room: it is wanted again only as far as there is some.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import batched

import trio

from origin.api import wire
from origin.catalog import Binding, Catalog, Event, Wanted
from origin.errors import Unavailable
from origin.holdings import held_file
from origin.metrics import Metrics
from origin.model import Clock

from . import Keeper
from .central import Central
from .facts import Facts
from .reporting import Shipping
from .standing import Standing, jittered
from .wanting import Wanting

log = logging.getLogger("leeward.follow")

PART = 1000

SHARDS_AT_ONCE = 16
"""How many shards' names are held in memory at a time: at a million bindings about 60,000."""

RETRY_S = 60.0
"""The pause after a comparison that the origin did not answer."""

SOON_S = 2.0
"""The longest pause before one."""

LOOKED_AT = 20_000
LOOKS = 24
"""Whether the blobs of what is bound are still here is looked at each time for up to so many; of more, for one in so many parts."""


class _Room:
    """What there is room for, in bytes, used up by what is wanted."""

    def __init__(self, room_bytes: float) -> None:
        self.left_out = 0
        self._bytes = room_bytes

    @property
    def is_left(self) -> bool:
        return self._bytes > 0

    def takes(self, size: int) -> bool:
        """Whether there is room for one more; if so it is used up. The last may be larger than what is left, as when it is brought."""
        if not self.is_left:
            self.left_out += 1
            return False
        self._bytes -= size
        return True


class Comparing:
    """Compares every ``every_s`` seconds, and when told that the origin may have lost something.

    An edge that wants certain releases compares those. One that wants none of them, or only what is popular, cannot say what should be
    here: it compares only when the origin may have lost something, and offers. ``room_bytes`` tells how much there is room for.
    """

    def __init__(
        self,
        central: Central,
        catalog: Catalog,
        keeper: Keeper,
        facts: Facts,
        wanting: Wanting,
        shipping: Shipping,
        standing: Standing,
        metrics: Metrics,
        clock: Clock,
        every_s: float,
        room_bytes: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self.last = "not yet"
        self._central = central
        self._catalog = catalog
        self._keeper = keeper
        self._facts = facts
        self._wanting = wanting
        self._shipping = shipping
        self._standing = standing
        self._metrics = metrics
        self._clock = clock
        self._every_s = every_s
        self._room_bytes = room_bytes
        self._soon = trio.Event()
        self._anyway = False
        self._look = 0
        self._known: tuple[str, str] | None = None
        self._is_short = False
        """Whether the last comparison left out what there was no room for."""

    def soon(self, *, anyway: bool = True) -> None:
        """Compare before the time: ``anyway``, or only if a snapshot had to be taken in after we had followed already. Then the origin may
        have lost what it once told of.
        """
        self._anyway = self._anyway or anyway
        self._soon.set()

    async def run(self) -> None:
        """Compare until cancelled."""
        at = trio.current_time() + jittered(self._every_s, random.random)
        while True:
            with trio.move_on_at(at) as waiting:
                await self._soon.wait()
            self._soon = trio.Event()
            await self._standing.wait_connected()
            at = trio.current_time() + jittered(self._every_s, random.random)
            try:
                has_lost = await self._facts.get("lost", bool) or False
                is_due, self._anyway = waiting.cancelled_caught or self._anyway, False
                if not has_lost and (self._wanting.match is None or not is_due):
                    continue
                # Not all edges at once after a restore.
                await trio.sleep(jittered(SOON_S, random.random))
                self.last = await self.compare()
                if has_lost:
                    await self._facts.keep("lost", None)
            except (Unavailable, ValueError) as error:
                log.info("the comparison is put off: %s", error)
                at = trio.current_time() + jittered(min(RETRY_S, self._every_s), random.random)
            except Exception:
                log.exception("the comparison failed")

    async def compare(self) -> str:
        """Compare once and repair; a sentence about it. Raises ``Unavailable`` and ``ValueError``."""
        match = self._wanting.match or ()
        room = _Room(self._room_bytes())
        theirs = await self._central.compare(wire.Comparison(match=match))
        ours, lost = await self._shards(match, room)
        await self._catalog.follow({}, (), lost)
        totals = (wire.total_digest(ours), theirs.total)
        if totals[0] == totals[1] or (totals == self._known and not (self._is_short and room.is_left)):
            return f"nothing new differs; {len(lost)} are to be brought again"
        differing = [shard for shard, (one, other) in enumerate(zip(ours, theirs.shards, strict=True)) if one != other]
        missing = lacking = other_bytes = 0
        for some in batched(differing, SHARDS_AT_ONCE, strict=False):
            here = await self._names(match, some)
            for shard in some:
                there = (await self._central.compare(wire.Comparison(match=match, shard=shard))).files
                found = await self._repair(here[shard], there, room)
                missing, lacking, other_bytes = missing + found[0], lacking + found[1], other_bytes + found[2]
        told = f"{missing} were missing here, {lacking} there, {other_bytes} are other bytes there"
        if room.left_out:
            told += f"; {room.left_out} were left out for want of room"
        log.info("compared with the origin: %s", told)
        self._is_short = room.left_out > 0
        # Instances that only one of us has differ for ever.
        self._known = totals if missing + lacking + other_bytes == 0 else None
        return told

    async def _repair(self, ours: Mapping[str, Binding], theirs: Sequence[wire.HeldFile], room: _Room) -> tuple[int, int, int]:
        """See to what differs in a shard: how many are missing here and are wanted, are lacking there, and are other bytes there."""
        now = self._clock()
        there = {held.file.key: held for held in theirs}
        missing = [
            held.file
            for key, held in there.items()
            if key not in ours and self._wanting.wants_file(held.file) and room.takes(held.size)
        ]
        await self._catalog.follow({}, (), [Wanted(file.key, file, now, now) for file in missing])
        lacking = [binding for key, binding in ours.items() if key not in there and await self._keeper.holds(binding.file)]
        await self._shipping.offer_files([held_file(binding) for binding in lacking])
        other = [(ours[key], held) for key, held in there.items() if key in ours and str(ours[key].digest) != held.digest]
        for binding, held in other:
            await self._alarm(binding.file.key, f"bound here to {binding.digest}, at the origin to {held.digest}")
        for what, count in (("wanted", len(missing)), ("offered", len(lacking)), ("differing", len(other))):
            self._metrics.replication_repairs.labels(what).inc(count)
        return len(missing), len(lacking), len(other)

    async def _alarm(self, subject: str, detail: str) -> None:
        log.error("differs from the origin: %s", detail, extra={"subject": subject})
        self._metrics.events.labels("differs").inc()
        await self._catalog.record_event(Event(self._clock(), "differs", subject, detail))

    # ---- what is here

    async def _shards(self, match: Sequence[str], room: _Room) -> tuple[tuple[str, ...], list[Wanted]]:
        """One digest for each shard of what is bound here, and what of it is wanted and has lost its blob, as far as there is room."""
        _, names = await self._catalog.counts()
        share = 1 if names <= LOOKED_AT else LOOKS
        self._look += 1
        sums = [0] * wire.SHARDS
        lost: list[Wanted] = []
        async for some in self._parts(match):
            pairs = ((binding.file.key, str(binding.digest)) for binding in some)
            # Digests of shards are sums, so that those of parts add up.
            sums = [(sum_ + int(more, 16)) % (1 << 256) for sum_, more in zip(sums, wire.shard_digests(pairs), strict=True)]
            for binding in some:
                file, now = binding.file, self._clock()
                is_looked_at = wire.shard_of(file.key) % share == self._look % share and self._wanting.wants_file(file)
                if is_looked_at and await self._catalog.held(binding.digest) is None and room.takes(binding.size):
                    lost.append(Wanted(file.key, file, now, now))
        return tuple(f"{sum_:064x}" for sum_ in sums), lost

    async def _names(self, match: Sequence[str], shards: Sequence[int]) -> dict[int, dict[str, Binding]]:
        """What is bound here in these shards, by name."""
        found: dict[int, dict[str, Binding]] = {shard: {} for shard in shards}
        async for some in self._parts(match):
            for binding in some:
                if (shard := wire.shard_of(binding.file.key)) in found:
                    found[shard][binding.file.key] = binding
        return found

    async def _parts(self, match: Sequence[str]) -> AsyncIterator[list[Binding]]:
        """What is bound here and matches, a part at a time."""
        after, is_wanted = "", wire.wanted_by(match)
        while some := await self._catalog.bindings_after(after, PART):
            after = some[-1].file.key
            yield [
                binding
                for binding in some
                if self._wanting.knows(binding.file.registry) and is_wanted(self._wanting.purl(binding.file))
            ]
