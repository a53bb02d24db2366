"""The fleet's keys as an edge has them: by which one it is known to its siblings, and by which ones it knows them.

When an edge is dismissed, or another enrols in its place, its origin makes a new key, and tells each of those who are left in answer to
their next acknowledgement, half a minute later at most. Until all can have heard of it an edge shows the old one; and for a while longer it
takes both, since one that was out of contact just then still shows the old one. After that the edge that was dismissed is a stranger to
all. Several may be dismissed one after the other: each has left the key that it was dismissed with, and those who stay take all of them for
that while.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec
import trio

from origin.errors import Unusable
from origin.model import Clock
from origin.tokens import key_name, proof, sibling, sibling_token

from .enrolment import FormerKey, Identity, read_identity, write_identity

log = logging.getLogger("leeward.follow")

SHOWN_S = 60.0
"""How long after a change the key before is still shown: by then all who are in contact with the origin have heard of the new one."""

TAKEN_S = 600.0
"""How long it is still taken: what an edge that was dismissed has left, and one that is out of contact too."""

LEAST_BYTES = 16


class FleetKeys:
    """The keys of one edge. ``learn`` is called with the fleet's key whenever the origin tells it."""

    def __init__(self, data: Path, identity: Identity, clock: Clock) -> None:
        self._data = data
        self._identity = identity
        self._clock = clock

    def __repr__(self) -> str:
        return f"<FleetKeys of {self._identity.edge}, the newest {self.name}>"

    @property
    def name(self) -> str:
        """The newest key's, as ``tokens.key_name`` has it."""
        return key_name(self._identity.fleet_key)

    async def learn(self, key: bytes) -> None:
        """This is the fleet's key from now on. In force, and kept unless the disk refuses; then the origin will tell it again."""
        if key == self._identity.fleet_key:
            return
        if len(key) < LEAST_BYTES:
            raise ValueError("the fleet's key that the origin told is too short to be one")
        before, text = self._identity, base64.b64encode(key).decode()
        former = (*self._former(TAKEN_S), FormerKey(before.fleet, self._clock()))
        self._identity = msgspec.structs.replace(
            before, fleet=text, fleet_former=tuple(each for each in former if each.key != text)
        )
        log.info("the fleet has a new key")
        try:
            await trio.to_thread.run_sync(self._keep, self._identity)
        except (OSError, Unusable) as error:
            log.warning("the fleet's new key was not written down: %s", error)

    def _keep(self, identity: Identity) -> None:
        kept = read_identity(self._data)
        # Who was enrolled anew meanwhile is to begin with that at the next start.
        if kept is not None and kept.secret == identity.secret:
            write_identity(self._data, identity)

    # ---- to siblings

    def token(self) -> str:
        """What a sibling is shown now."""
        return sibling_token(self._shown(), self._identity.edge, self._clock())

    def proof_of(self, text: str) -> str:
        """The proof of ``text`` that is expected of a sibling now."""
        return proof(self._shown(), text)

    def _shown(self) -> bytes:
        # Who has heard of two keys one shortly after the other shows neither yet: others have heard of the second alone.
        shown, given_up_at = self._identity.fleet, self._clock()
        for former in reversed(self._former(TAKEN_S - SHOWN_S)):
            if given_up_at - former.until >= SHOWN_S:
                break
            shown, given_up_at = former.key, former.until
        return base64.b64decode(shown)

    # ---- from siblings

    def who(self, authorization: str | None) -> str | None:
        """The edge that made the token in this ``Authorization`` value; None if it is none of the fleet."""
        found = (sibling(key, authorization, self._clock()) for key in self._taken())
        return next((edge for edge in found if edge is not None), None)

    def proofs_of(self, text: str) -> str:
        """The proof of ``text`` by each key that a sibling may expect it by."""
        return " ".join(proof(key, text) for key in self._taken())

    def _taken(self) -> Sequence[bytes]:
        """The newest key, and those before that were given up lately."""
        return (self._identity.fleet_key, *(base64.b64decode(former.key) for former in reversed(self._former(TAKEN_S))))

    def _former(self, within_s: float) -> Sequence[FormerKey]:
        """The keys that were given up within so many seconds, the newest last."""
        now = self._clock()
        return [former for former in self._identity.fleet_former if 0 <= now - former.until < within_s]
