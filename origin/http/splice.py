"""Two connections joined: bytes pass both ways, unread, until both sides have finished or nothing has moved for too long."""

from __future__ import annotations

from . import Splice
from .conversation import House, Peer


async def splice(house: House, peer: Peer, onward: Splice) -> None:
    """Join ``peer`` with ``onward.stream`` until both have finished. Closes the stream; the peer's wire is the caller's to close.

    ``peer.unread`` goes first, behind ``onward.preface``. Raises ``OSError`` when either side breaks.
    """
    raise NotImplementedError
