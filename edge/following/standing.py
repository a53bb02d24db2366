"""How an edge stands with its origin: whether they are in contact, how far it is, and the lease that a silence may use up."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import trio

from origin.errors import Unavailable
from origin.metrics import Metrics
from origin.model import Clock

from . import Keeper
from .facts import Facts

log = logging.getLogger("leeward.follow")

NOTED_S = 60.0
"""How often the last contact is written down, at most; for a short lease, ten times in it."""


@dataclass(slots=True)
class Progress:
    """How much of a snapshot is in."""

    done: int = 0
    total: int = 0


class Standing:
    """What everybody here knows of the origin. Changed by ``heard`` and ``lost``, which whoever talks to it calls."""

    def __init__(self, metrics: Metrics) -> None:
        self.connected = False
        self.why = "not asked yet"
        self.serial = 0
        self.head = 0
        self.diverged = ""
        self.progress: Progress | None = None
        self._level_since = trio.current_time()
        self._contact = trio.Event()
        self._metrics = metrics
        metrics.feed_lag.set_function(self.lag_s)

    def heard(self) -> None:
        """It answered."""
        if not self.connected:
            log.info("in contact with the origin")
            self.connected = True
            self.why = ""
            self._contact.set()
        self._metrics.origin_connected.set(1)

    def lost(self, why: str) -> None:
        """It did not, or not usefully."""
        if self.connected or (why != self.why):
            log.warning("out of contact with the origin: %s", why)
        if self.connected:
            # What was level until now begins to fall behind.
            if self.level:
                self._level_since = trio.current_time()
            self.connected = False
            self._contact = trio.Event()
        self.why = why
        self._metrics.origin_connected.set(0)

    def reached(self, serial: int, head: int) -> None:
        """The feed is applied up to ``serial``, and goes on to ``head``."""
        self.serial, self.head = serial, head
        self._metrics.feed_serial.set(serial)
        if self.level:
            self._level_since = trio.current_time()

    @property
    def level(self) -> bool:
        """Whether all that the origin had told of at the last word is applied."""
        return self.serial >= self.head and self.progress is None

    def lag_s(self) -> float:
        """For how long there may have been something at the origin that is not applied here, in seconds."""
        if self.connected and self.level:
            return 0.0
        return trio.current_time() - self._level_since

    async def wait_connected(self) -> None:
        await self._contact.wait()


class Lease:
    """How long an edge out of contact goes on as if nothing had been recalled since.

    Time passes by the calendar and by the machine's own clock, whichever is faster: the one stands still while a machine sleeps, the
    other can be set back.
    """

    def __init__(self, lease_s: float, refuses: bool, keeper: Keeper, facts: Facts, metrics: Metrics, clock: Clock) -> None:
        self.lapsed = False
        self._lease_s = lease_s
        self._refuses = refuses
        self._keeper = keeper
        self._facts = facts
        self._metrics = metrics
        self._clock = clock
        self._at = clock()
        self._at_monotonic = trio.current_time()
        self._noted = -math.inf

    async def begin(self) -> None:
        """Go on from the last contact that is remembered; an edge that never had one has its lease from now on. Raises ``Unavailable``."""
        at = await self._facts.get("contact", float)
        if at is None:
            await self._note()
        else:
            passed_s = max(0.0, self._clock() - at)
            self._at, self._at_monotonic = self._at - passed_s, self._at_monotonic - passed_s
        self.look()

    def contact(self, asked_at: float) -> None:
        """The origin has told which verdicts are in force, in answer to what was asked at ``asked_at`` (trio's clock)."""
        ago_s = trio.current_time() - asked_at
        self._at, self._at_monotonic = self._clock() - ago_s, asked_at
        self.look()

    def silent_s(self) -> float:
        """Seconds since the last contact."""
        return max(self._clock() - self._at, trio.current_time() - self._at_monotonic)

    def look(self) -> None:
        """See whether the lease is over, and put what follows in force."""
        lapsed = self.silent_s() > self._lease_s
        if lapsed == self.lapsed:
            return
        self.lapsed = lapsed
        self._metrics.lease_lapsed.set(lapsed)
        if lapsed:
            log.warning("the origin has been silent for longer than the lease", extra={"refusing": self._refuses})
        else:
            log.info("the lease is renewed")
        if self._refuses:
            self._keeper.lapse("this edge has not heard from its origin for longer than its lease" if lapsed else "")

    async def run(self) -> None:
        """Look again and again, and write the last contact down, until cancelled."""
        every_s = min(1.0, self._lease_s / 10)
        while True:
            await trio.sleep(every_s)
            self.look()
            if self._at_monotonic - self._noted >= min(NOTED_S, self._lease_s / 10):
                try:
                    await self._note()
                except Unavailable as error:
                    log.warning("the last contact was not written down: %s", error)

    async def _note(self) -> None:
        noted = self._at_monotonic
        await self._facts.keep("contact", self._at)
        self._noted = noted


def jittered(seconds: float, draw: Callable[[], float]) -> float:
    """From half of ``seconds`` to all of it. ``draw`` gives a number from 0 to 1."""
    return seconds * (0.5 + draw() / 2)
