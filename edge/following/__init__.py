"""An edge that follows an origin: what it hears from there, what it does about it, and what it tells.

Nothing here is in the way of a request. Requests go to the sources in their order (``origin/sources/``), whether this edge follows
well, badly or not at all; an origin that is away costs news, never service.

Reading order:

1. ``central.py`` — what is asked of the origin, one method a message; ``standing.py`` — how we stand with it: in contact, where in the
   feed, since when, and the lease that a silence may use up.
2. ``policy.py`` — the origin's verdicts, in force before anything else is looked at, and before the door opens after a restart.
3. ``feed.py`` — the feed: a batch is checked against the ledger's chain, applied in one transaction with the cursor, then acknowledged.
   A follower that is new, too late, or whose origin was restored starts from a snapshot (``snapshot.py``).
4. ``wanting.py`` — which pages and files that makes us want; ``bringing.py`` — bringing them, a few at a time. What fails is tried
   again, rarer and rarer, and never holds anything up.
5. ``comparing.py`` — once in a while all that is here against all that is there, and the repair; ``reporting.py`` — what we tell:
   acknowledgements, who fetched what, and what was taken from a registry directly.

``edge/follow.py`` joins them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from origin.api import wire
from origin.catalog import Binding
from origin.model import File, Page


class Keys(Protocol):
    """What is asked of ``edge.fleet_keys.FleetKeys``."""

    @property
    def name(self) -> str: ...

    async def learn(self, key: bytes) -> None: ...


class Keeper(Protocol):
    """What is asked of ``origin.service.Service``."""

    def set_central(self, verdicts: wire.Verdicts) -> None: ...

    def doubted(self, pairs: Iterable[tuple[str, str]]) -> None: ...

    async def keep(self, resource: Page | File) -> None: ...

    async def holds(self, file: File) -> Binding | None: ...

    async def make_room(self, need_bytes: int) -> int: ...

    def lapse(self, reason: str) -> None: ...
