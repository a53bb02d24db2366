"""The edges of an origin, as it hears of them: who they are, how far each has followed, what each has put in force.

Kept in memory, where each request of an edge is noted, and written down every few seconds by ``run``. An edge is *live* if it was heard of
within its lease.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import trio

from .api.wire import Acknowledgement, EdgeState
from .catalog import Catalog, Member
from .errors import Unavailable
from .identity import new_fleet_key
from .metrics import Metrics
from .model import Clock
from .tokens import EDGE_NAME, Keyring, digest_of, new_invitation, new_secret

log = logging.getLogger("leeward.fleet")

WRITTEN_S = 2.0
"""How often it is written down how the edges stand."""


type Membership = tuple[str, str]
"""Being one of the fleet from enrolment to dismissal, or to the next enrolment: an edge's name and the SHA-256 of its secret."""


class Fleet:
    """All edges. ``open`` comes first; ``run`` writes down what changes, until cancelled.

    ``head`` tells the ledger's last serial; ``revision``, which others set, is that of the verdicts in force. ``key`` is that by which
    siblings know each other; ``keep_key`` writes down, in a thread, which it is from the next start on, and raises ``Unavailable``.
    """

    def __init__(
        self,
        catalog: Catalog,
        clock: Clock,
        metrics: Metrics,
        lease_s: float,
        head: Callable[[], int] = lambda: 0,
        *,
        key: bytes = b"",
        keep_key: Callable[[bytes], None] | None = None,
    ) -> None:
        self.lease_s = lease_s
        self.key = key
        self._keep_key = keep_key
        self.revision = 0
        self._head = head
        self._catalog = catalog
        self._clock = clock
        self._metrics = metrics
        self._members: dict[str, Member] = {}
        self._unwritten: set[str] = set()
        self._keyring = Keyring()
        self._acknowledged = trio.Event()
        self._on_ended: list[Callable[[], None]] = []
        self._heard_at: dict[str, float] = {}
        """When each was last heard of by the machine's own clock: the calendar may be set while they are waited for."""
        # Rows are written and read again one after the other: a list read before an edge was dismissed would let it in again, and what
        # is known of one that enrols anew would be written down as the new one's.
        self._changing = trio.Lock()

    def __repr__(self) -> str:
        return f"<Fleet of {len(self._members)} edges>"

    async def open(self) -> None:
        """Read who the edges are. Raises ``Unavailable``."""
        async with self._changing:
            await self._open()

    async def _open(self) -> None:
        self._take({member.name: member for member in await self._catalog.edges()})

    def _take(self, found: dict[str, Member]) -> None:
        """These are the edges, as they are written."""
        for name, member in found.items():
            known = self._members.get(name)
            # What is known of an edge here is newer than what is written; of one that enrolled anew nothing holds any more.
            if known is not None and (known.secret, known.enrolled_at) == (member.secret, member.enrolled_at):
                found[name] = known
        has_ended = any(name not in found or found[name].secret != member.secret for name, member in self._members.items())
        self._members = found
        self._unwritten &= found.keys()
        self._heard_at = {name: at for name, at in self._heard_at.items() if name in found and found[name].seen_at}
        self._keyring.learn(found.values())
        self.count()
        self._look_again()
        if has_ended:
            for tell in self._on_ended:
                tell()

    # ---- who they are

    def edge(self, authorization: str | None) -> str | None:
        """The edge that sent this ``Authorization`` value; None if it is none of ours."""
        return self._keyring.edge(authorization)

    def membership(self, name: str) -> Membership | None:
        """The membership of an edge; None if it is none of ours."""
        known = self._members.get(name)
        return None if known is None else (name, known.secret)

    def is_current(self, membership: Membership) -> bool:
        """Whether it has not ended."""
        return self.membership(membership[0]) == membership

    def on_ended(self, tell: Callable[[], None]) -> None:
        """Have ``tell`` called whenever memberships have ended: whatever was begun for such an edge ends too."""
        self._on_ended.append(tell)

    async def invite(self, name: str, valid_s: float) -> bytes:
        """A one-time secret for whoever is to be the edge ``name``. Raises ``ValueError`` for a name that is none, ``Unavailable``."""
        if not EDGE_NAME.fullmatch(name):
            raise ValueError(f"an edge's name has lower-case letters, digits, '-', '_' and '.' only, 63 at most: {name[:80]!r}")
        secret = new_invitation()
        await self._catalog.invite(name, digest_of(secret), self._clock() + valid_s)
        return secret

    async def enrol(self, invitation: bytes) -> tuple[str, str] | None:
        """Use an invitation up: the edge's name and what it authenticates with from now on; None if the invitation is no good.

        Who had that name is none of ours any more, as if it were dismissed. Raises ``Unavailable``.
        """
        secret = new_secret()
        async with self._changing:
            # Once it is used up, what follows from that is done, whether or not somebody waits for the answer still.
            with trio.CancelScope(shield=True):
                name = await self._catalog.enrol(digest_of(invitation), digest_of(secret), self._clock())
            if name is None:
                return None
            with trio.CancelScope(shield=True):
                is_another = name in self._members
                await self._open()
                if is_another:
                    self.key = await self._another_key()
        log.info("an edge enrolled", extra={"edge": name})
        return name, secret

    async def dismiss(self, name: str) -> bool:
        """The edge is none of ours from now on, and the fleet's key another one. False if there was neither an edge of that name nor an
        invitation. Raises ``Unavailable``.
        """
        async with self._changing:
            # Before it is gone: a command that is cut short here is given again, and finds the edge still there to dismiss.
            key = await self._another_key() if name in self._members else self.key
            with trio.CancelScope(shield=True):
                known = await self._catalog.dismiss(name)
                # With no look at the rows: whoever is in them no more must not stay because that was cut short, or failed.
                self._take({each: member for each, member in self._members.items() if each != name})
                # Those who are left hear of it when they next tell how they stand.
                self.key = key
            return known

    async def _another_key(self) -> bytes:
        """A key for the fleet, written down for the next start."""
        key = new_fleet_key()
        if self._keep_key is not None:
            await trio.to_thread.run_sync(self._keep_key, key)
        return key

    # ---- how they stand

    def heard(self, name: str, *, address: str = "", serial: int | None = None) -> None:
        """An edge asked for something, and has followed as far as ``serial`` if that was told."""
        known = self._members.get(name)
        if known is not None:
            self._note(
                replace(
                    known,
                    seen_at=self._clock(),
                    address=address or known.address,
                    serial=known.serial if serial is None else serial,
                )
            )

    def acknowledge(self, name: str, told: Acknowledgement, serial: int) -> None:
        """An edge has put in force what it says, and followed as far as ``serial``."""
        known = self._members.get(name)
        if known is not None:
            self._note(
                replace(
                    known,
                    seen_at=self._clock(),
                    serial=serial,
                    verdicts=_storable(told.verdicts),
                    unresolved=_storable(told.unresolved),
                    held_bytes=_storable(told.held_bytes),
                    release=told.release[:64] or known.release,
                )
            )
            self._look_again()

    def _look_again(self) -> None:
        self._acknowledged.set()
        self._acknowledged = trio.Event()

    def _note(self, member: Member) -> None:
        self._members[member.name] = member
        self._heard_at[member.name] = trio.current_time()
        self._unwritten.add(member.name)

    def is_live(self, member: Member) -> bool:
        """Whether it was heard of within its lease, by either clock."""
        passed_s = trio.current_time() - self._heard_at.get(member.name, -math.inf)
        return member.seen_at > 0 and min(passed_s, self._clock() - member.seen_at) <= self.lease_s

    def states(self) -> Sequence[EdgeState]:
        """How every edge stands, by name."""
        head = self._head()
        return tuple(
            EdgeState(
                name=each.name,
                enrolled_at=each.enrolled_at,
                seen_at=each.seen_at,
                live=self.is_live(each),
                serial=each.serial,
                verdicts=each.verdicts,
                behind=max(0, head - each.serial),
                unresolved=each.unresolved,
                held_bytes=each.held_bytes,
                address=each.address,
                release=each.release,
            )
            for _, each in sorted(self._members.items())
        )

    async def wait_acknowledged(
        self, revision: int, timeout_s: float, progress: Callable[[int, int], Awaitable[None]]
    ) -> tuple[Sequence[str], Sequence[str]]:
        """Wait until every edge that is live has put ``revision`` in force, but no longer than ``timeout_s``.

        One that comes, or comes back, meanwhile is waited for too. Returns those that have and those that have not, by name.
        ``progress`` is told how many of how many have.
        """
        asked: set[str] = set()

        def look() -> set[str]:
            """Who has it; ``asked`` is brought up to date."""
            nonlocal asked
            # One that is dismissed meanwhile serves in nobody's name; one that falls silent may serve on.
            asked = {name for name, member in self._members.items() if name in asked or self.is_live(member)}
            return {name for name in asked if self._members[name].verdicts >= revision}

        told = (-1, -1)
        with trio.move_on_after(timeout_s):
            while True:
                acknowledged = self._acknowledged
                have = look()
                if (len(have), len(asked)) != told:
                    told = (len(have), len(asked))
                    await progress(*told)
                if have == asked:
                    break
                await acknowledged.wait()
        have = look()
        return sorted(have), sorted(asked - have)

    # ---- in the background

    async def run(self) -> None:
        """Write down how the edges stand, until cancelled; then once more (bounded: 5 s)."""
        try:
            while True:
                await trio.sleep(WRITTEN_S)
                await self._write_down()
        finally:
            # Shielded so that a stop does not make live edges look silent; bounded by 5 s.
            with trio.move_on_after(5, shield=True):
                await self._write_down()

    async def _write_down(self) -> None:
        self.count()
        async with self._changing:
            await self._write()

    async def _write(self) -> None:
        names, self._unwritten = self._unwritten, set()
        members = [self._members[name] for name in names if name in self._members]
        if members:
            try:
                await self._catalog.seen(members)
            except Unavailable as error:
                self._unwritten |= names
                log.warning("how the edges stand was not written down yet: %s", error)

    def count(self) -> None:
        """Bring the metrics up to date."""
        live = [member for member in self._members.values() if self.is_live(member)]
        self._metrics.fleet_edges.labels("live").set(len(live))
        self._metrics.fleet_edges.labels("gone").set(len(self._members) - len(live))
        head = self._head()
        self._metrics.feed_serial.set(head)
        self._metrics.fleet_behind.set(max((head - member.serial for member in live), default=0))
        self._metrics.fleet_unacknowledged.set(sum(member.verdicts < self.revision for member in live))


def _storable(number: int) -> int:
    """A number that an edge told, within what a row takes: how all edges stand is written down together."""
    return max(0, min(number, (1 << 63) - 1))
