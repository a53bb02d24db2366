"""The origin's verdicts at an edge: in force at once, durable before they are acknowledged, and there before the door opens."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import msgspec
import trio

from origin.api import wire
from origin.errors import Unavailable
from origin.metrics import Metrics

from . import Keeper
from .central import Central
from .facts import Facts, InForce
from .standing import Lease, jittered

log = logging.getLogger("leeward.follow")

START_S = 2.0
"""How long a start may wait for the origin."""

RETRY_S = 2.0
"""The pause before the verdicts are asked for again, or written down again."""


class WentBack(ValueError):
    """The origin's verdicts are older than those that are in force here, in one and the same epoch of its ledger."""


class Policy:
    """The origin's rules and recalls as they are in force here.

    ``noticed`` may be called with every revision that any answer names: a new one is fetched by ``run``, without waiting for the feed.
    Verdicts of the same ledger's epoch never go back: an origin that has fewer is a copy of an older one, and is not obeyed. A restored
    origin has a new epoch, and what it then says holds, even if that is less. ``lifted`` is called when something is forbidden no more.
    """

    def __init__(
        self,
        central: Central,
        keeper: Keeper,
        facts: Facts,
        lease: Lease,
        metrics: Metrics,
        lifted: Callable[[], None] = lambda: None,
    ) -> None:
        self.in_force = wire.Verdicts()
        self.vouched = 0
        self.trouble = ""
        self._central = central
        self._keeper = keeper
        self._facts = facts
        self._lease = lease
        self._lifted = lifted
        self._metrics = metrics
        self._epoch = ""
        self._durable: InForce | None = None
        self._ignored = -1
        self._named = 0
        self._heard = trio.Event()
        self._fetching = trio.Lock()
        self._applied = trio.Event()

    @property
    def revision(self) -> int:
        """The last that was put in force. ``vouched`` is the last of which everything is in force, and after a restart too."""
        return self.in_force.revision

    async def begin(self) -> None:
        """Put in force what was known at the last contact, and what the origin says now if it answers at once. Raises ``Unavailable``."""
        known = await self._facts.get("verdicts", InForce)
        if known is not None:
            self._epoch = known.epoch
            self._durable = known
            self._put(known.verdicts)
            self._vouch()
        # An origin that answers is heard before anything is served; one that does not keeps nobody waiting for long.
        with trio.move_on_after(START_S):
            try:
                async with self._fetching:
                    await self._fetch(self._epoch)
            except (Unavailable, ValueError) as error:
                log.info("starting with the verdicts of the last contact: %s", error)

    def noticed(self, revision: int) -> None:
        """An answer of the origin named this revision."""
        self._named = revision
        if self._is_news:
            self._heard.set()

    @property
    def _is_news(self) -> bool:
        return self._named not in (self.revision, self._ignored)

    async def ensure(self, revision: int, epoch: str) -> None:
        """Return once what the origin's revision ``revision`` says is in force, or something newer. ``epoch`` is the ledger's.

        Raises ``Unavailable``, ``WentBack``, and ``ValueError`` for what cannot be read.
        """
        async with self._fetching:
            if epoch != self._epoch or revision != self.revision or self._durable is None:
                await self._fetch(epoch)

    async def wait_applied(self) -> None:
        """Return when the verdicts were put in force next."""
        await self._applied.wait()

    async def run(self) -> None:
        """Fetch what ``noticed`` hears of, until cancelled."""
        while True:
            await self._heard.wait()
            self._heard = trio.Event()
            try:
                async with self._fetching:
                    if self._is_news or (self._durable is None and self._epoch):
                        await self._fetch(self._epoch)
            except WentBack as error:
                log.error("%s", error)  # noqa: TRY400 -- a sentence for the operator, no fault of the program
            except (Unavailable, ValueError) as error:
                log.warning("the verdicts could not be taken over: %s", error)
                self._heard.set()
                await trio.sleep(jittered(RETRY_S, random.random))

    async def _fetch(self, epoch: str) -> None:
        """Ask for the verdicts and put them in force, while the lock is held."""
        asked_at = trio.current_time()
        found = await self._central.verdicts()
        if epoch == self._epoch and epoch and found.revision < self.revision:
            self._ignored = found.revision
            raise WentBack(
                f"the origin's verdicts went back from revision {self.revision} to {found.revision}; those in force here stay"
            )
        self._ignored = -1
        before = self.in_force
        # In force first: what is refused must not wait for a disk.
        self._put(found)
        self._epoch = epoch
        if (known := InForce(found, epoch)) != self._durable:
            self._durable = None
            await self._facts.keep("verdicts", known)
            self._durable = known
        self._vouch()
        self._lease.contact(asked_at)
        if found != before:
            log.info("verdicts in force: %d", found.revision, extra={"rules": len(found.rules), "recalls": len(found.recalls)})
        self._applied.set()
        self._applied = trio.Event()
        if found != before and not _parts(before) <= _parts(found):
            self._lifted()

    def _put(self, verdicts: wire.Verdicts) -> None:
        self.in_force = verdicts
        self._metrics.verdicts_revision.set(verdicts.revision)
        try:
            self._keeper.set_central(verdicts)
        except ValueError as error:
            # What can be read is in force. The rest is for a later Leeward: nobody is told that it is.
            self.trouble = str(error)
            log.error("not all of the origin's verdicts can be read here: %s", error)  # noqa: TRY400
        else:
            self.trouble = ""

    def _vouch(self) -> None:
        if not self.trouble:
            self.vouched = self.revision


def _parts(verdicts: wire.Verdicts) -> frozenset[bytes]:
    """Each rule and each recall, in a form that can be looked up: there may be a hundred thousand."""
    return frozenset(map(msgspec.json.encode, (*verdicts.rules, *verdicts.recalls)))
