"""The fleet's keys as an edge has them: by which one it is known to its siblings, and by which ones it knows them.

When an edge is dismissed its origin makes a new key, and tells each of those who are left in answer to their next acknowledgement, half a
minute later at most. Until all can have heard of it an edge shows the old one; and for a while longer it takes both, since one that was out
of contact just then still shows the old one. After that the edge that was dismissed is a stranger to all.
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

from .enrolment import Identity, read_identity, write_identity

log = logging.getLogger("leeward.follow")

SHOWN_S = 60.0
"""How long the key before is still shown: in that time all who are in contact with the origin have heard of the new one."""

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
        before = self._identity
        self._identity = msgspec.structs.replace(
            before, fleet=base64.b64encode(key).decode(), fleet_before=before.fleet, fleet_since=self._clock()
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
        return self._taken(SHOWN_S)[-1]

    # ---- from siblings

    def who(self, authorization: str | None) -> str | None:
        """The edge that made the token in this ``Authorization`` value; None if it is none of the fleet."""
        found = (sibling(key, authorization, self._clock()) for key in self._taken(TAKEN_S))
        return next((edge for edge in found if edge is not None), None)

    def proofs_of(self, text: str) -> str:
        """The proof of ``text`` by each key that a sibling may expect it by."""
        return " ".join(proof(key, text) for key in self._taken(TAKEN_S))

    def _taken(self, within_s: float) -> Sequence[bytes]:
        """The newest key, and the one before if that was given up within so many seconds."""
        identity = self._identity
        is_lately = 0 <= self._clock() - identity.fleet_since < within_s
        return (identity.fleet_key, identity.key_before) if identity.fleet_before and is_lately else (identity.fleet_key,)
