"""HTTP/2: one connection in a task of its own, every stream answered by the handler that HTTP/1.1 has."""

from __future__ import annotations

from .conversation import House, Peer
from .hot import HotPages


async def serve_h2(house: House, peer: Peer, hot: HotPages) -> None:
    """Serve the connection that ``peer.unread`` begins, from the client's preface on, until it ends.

    Returns when it has ended in order; raises ``OSError``, ``Gone`` or ``Stalled`` when it broke. The wire is the caller's to close.
    """
    raise NotImplementedError
