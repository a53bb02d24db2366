"""An edge that follows its origin: the parts in ``following/``, joined. ``app.py`` makes one, has it ``begin`` before the door opens, and
runs it beside everything else.
"""

from __future__ import annotations

import base64
import logging
import math
from collections.abc import Awaitable, Callable, Mapping

import trio

from origin.api import wire
from origin.app import release
from origin.catalog import Catalog
from origin.errors import Unavailable
from origin.metrics import Metrics
from origin.model import Clock

from .enrolment import Identity
from .following import Keeper, Keys
from .following.bringing import Bringing, Budget
from .following.central import Central, Channel
from .following.comparing import Comparing
from .following.facts import Facts, InForce
from .following.feed import WAIT_S, Applied, Feed
from .following.policy import Policy
from .following.reporting import Acknowledging, Shipping
from .following.standing import Lease, Standing
from .following.wanting import Wanting
from .settings import ReplicateSettings

log = logging.getLogger("leeward.follow")

AGAIN_S = 5.0
"""The pause before something begins again that should not have ended."""


async def last_verdicts(catalog: Catalog, identity: Identity) -> wire.Verdicts:
    """The origin's verdicts as they were at the last contact. Raises ``Unavailable``."""
    known = await Facts(catalog, identity.key).get("verdicts", InForce)
    return known.verdicts if known is not None else wire.Verdicts()


class Follower:
    """Follows one origin: what was heard at the last contact holds from ``begin`` on, everything newer while ``run`` runs.

    ``kinds`` are this edge's instances, name to kind. ``noticed`` is to be called with every revision of verdicts that an answer of the
    origin names, whoever asked. ``keys`` hear of a new key of the fleet.
    """

    def __init__(
        self,
        identity: Identity,
        channel: Channel,
        asked: ReplicateSettings,
        keeper: Keeper,
        kinds: Mapping[str, str],
        catalog: Catalog,
        budget: Budget,
        metrics: Metrics,
        clock: Clock,
        keys: Keys | None = None,
    ) -> None:
        self._identity = identity
        self._catalog = catalog
        self._clock = clock
        central = Central(channel)
        facts = Facts(catalog, identity.key)
        wanting = Wanting(asked, kinds)
        self._standing = Standing(metrics)
        self._lease = Lease(asked.lease_s, asked.lapsed == "refuse", keeper, facts, metrics, clock)
        self._policy = Policy(central, keeper, facts, self._lease, metrics, self._lifted)
        self._bringing = Bringing(keeper, catalog, self._standing, budget, metrics, clock, asked.at_once)
        self._acknowledging = Acknowledging(central, self._policy, catalog, self._standing, metrics, clock, release(), keys)
        self._shipping = Shipping(central, catalog, keeper, facts, wanting, self._standing)
        self._comparing = Comparing(
            central,
            catalog,
            keeper,
            facts,
            wanting,
            self._shipping,
            self._standing,
            metrics,
            clock,
            asked.compare_s,
            budget.room_bytes,
        )
        self._feed = Feed(
            central,
            self._policy,
            catalog,
            keeper,
            facts,
            wanting,
            self._standing,
            self._lease,
            metrics,
            clock,
            base64.b64decode(identity.key),
            self._applied,
            # A lease is renewed by answers, so several must come in it.
            wait_s=min(WAIT_S, math.floor(asked.lease_s / 4)),
        )

    def noticed(self, revision: int) -> None:
        """See ``Policy.noticed``."""
        self._policy.noticed(revision)

    async def begin(self) -> None:
        """Put in force what was known at the last contact, and what the origin says now if it answers at once; see whether the lease is
        over. Raises ``Unavailable``.
        """
        await self._lease.begin()
        await self._policy.begin()

    async def run(self) -> None:
        """Follow until cancelled."""
        async with trio.open_nursery() as nursery:
            for part in (
                self._policy.run,
                self._lease.run,
                self._feed.run,
                self._acknowledging.run,
                self._bringing.run,
                self._shipping.run,
                self._comparing.run,
            ):
                nursery.start_soon(_kept_going, part)

    def _applied(self, applied: Applied) -> None:
        self._bringing.told(applied.fresh)
        self._acknowledging.due(applied.cursor)
        if applied.is_snapshot:
            self._comparing.soon(anyway=False)

    def _lifted(self) -> None:
        # What was refused to us while it was forbidden is missing here.
        self._comparing.soon()

    async def status(self) -> dict[str, object]:
        """How we stand with the origin, for an operator."""
        standing = self._standing
        try:
            wanted, dead, oldest = await self._catalog.unresolved()
        except Unavailable:
            wanted, dead, oldest = 0, 0, None
        told: dict[str, object] = {
            "url": self._identity.url,
            "edge": self._identity.edge,
            "connected": standing.connected,
            "lag_s": round(standing.lag_s(), 1),
            "serial": standing.serial,
            "verdicts": self._policy.revision,
            "recalls": len(self._policy.in_force.recalls),
            "wanted": wanted - dead,
            "dead_letters": dead,
            "oldest_unresolved_s": round(max(0.0, self._clock() - oldest), 1) if oldest is not None else 0,
            "passed_over": self._bringing.passed_over,
            "compared": self._comparing.last,
        }
        if not standing.connected:
            told |= {"why": standing.why, "silent_s": round(self._lease.silent_s(), 1)}
        if standing.progress is not None:
            told["taking_in"] = {"done": standing.progress.done, "of": standing.progress.total}
        if standing.diverged:
            told["diverged"] = standing.diverged
        if self._policy.trouble:
            told["unread_verdicts"] = self._policy.trouble
        if self._lease.lapsed:
            told["lease"] = "over"
        return told


async def _kept_going(part: Callable[[], Awaitable[None]]) -> None:
    """Run a part for ever: a fault of ours in one is no reason to stop the others, let alone the edge."""
    while True:
        try:
            await part()
        except Exception:
            log.exception("a part of following failed, and begins again")
        await trio.sleep(AGAIN_S)
