"""Many edges that follow an origin with the edge's own code, and a store in memory: fifty of them in one process.

They enrol over TLS, poll, verify, put in force and acknowledge as ``edge serve`` does (``edge/follow.py``); only what they bring is not
fetched. ``in_force`` tells when each had a revision of the verdicts in force.
"""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import trio

from edge.enrolment import Identity
from edge.follow import Follower
from edge.following.bringing import Budget
from edge.settings import ReplicateSettings
from origin.api import wire
from origin.catalog.memory import MemoryCatalog
from origin.metrics import Metrics
from origin.sources.link import Link
from tests.following import Keeper

KINDS = {"pypi": "pypi", "npm": "npm", "maven": "maven"}

ENROLLING = 8
"""How many enrol at a time."""


@dataclass
class TimedKeeper(Keeper):
    """Remembers when it was told of verdicts: the monotonic clock's time by their revision."""

    at: dict[int, float] = field(default_factory=dict)

    def set_central(self, verdicts: wire.Verdicts) -> None:
        super().set_central(verdicts)
        self.at[verdicts.revision] = time.monotonic()


class ManyFollowers:
    """Edges of the origin at ``url``, one for each invitation. ``run`` starts once all are enrolled, and follows until cancelled."""

    def __init__(self, url: str, invitations: Sequence[str]) -> None:
        self._url = url
        self._invitations = invitations
        self._keepers: list[TimedKeeper] = []

    def in_force(self, revision: int) -> list[float]:
        """When each edge had this revision, or the first later one, in force; of those that have."""
        found = [min((at for known, at in keeper.at.items() if known >= revision), default=math.inf) for keeper in self._keepers]
        return [at for at in found if at < math.inf]

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        limiter = trio.CapacityLimiter(ENROLLING)
        identities: list[Identity] = []

        async def enrol(invitation: str) -> None:
            async with limiter:
                identities.append(await self._enrol(invitation))

        async with trio.open_nursery() as nursery:
            for invitation in self._invitations:
                nursery.start_soon(enrol, invitation)
        async with trio.open_nursery() as nursery:
            for identity in identities:
                await nursery.start(self._follow, identity)
            task_status.started()

    def _link(self, pin: bytes, secret: str) -> Link:
        return Link(
            self._url,
            pin,
            lambda: f"Bearer {secret}" if secret else "",
            clock=time.time,
            metrics=Metrics(),
            user_agent="leeward-test",
            deployment_id="many",
        )

    async def _enrol(self, invitation: str) -> Identity:
        pin, secret = wire.read_token(invitation)
        link = self._link(pin, "")
        try:
            body = msgspec.json.encode(wire.Enrolment(secret=base64.b64encode(secret).decode()))
            reply = await link.request("POST", f"{wire.ROOT}enrol", body, timeout_s=20, limit_bytes=1 << 20)
        finally:
            await link.aclose()
        assert reply.status == 200, reply
        told = msgspec.json.decode(reply.body, type=wire.Enrolled)
        return Identity(
            url=self._url,
            pin=pin.hex(),
            edge=told.edge,
            secret=told.secret,
            deployment=told.deployment,
            key=told.key,
            fleet=told.fleet,
        )

    async def _follow(self, identity: Identity, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        catalog = MemoryCatalog()
        keeper = TimedKeeper(catalog)
        self._keepers.append(keeper)
        link = self._link(identity.pinned, identity.secret)
        budget = Budget(None, lambda: 0, lambda: True)
        metrics = Metrics()
        follower = Follower(identity, link, ReplicateSettings(mode="none"), keeper, KINDS, catalog, budget, metrics, time.time)
        link.on_verdicts = follower.noticed
        try:
            await follower.begin()
            task_status.started()
            await follower.run()
        finally:
            await link.aclose()
