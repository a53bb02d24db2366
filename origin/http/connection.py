"""One connection as the door knows it, and the wheel of deadlines that it is filed in."""

from __future__ import annotations

from .conversation import Peer
from .hosts import Standings
from .hot import Facts, Recogniser
from .wire import PlainWire, Wire

_SLOTS = 80


class Connection(Peer):
    """One client connection, idle or in a conversation. ``block`` is the last raw header block, ``facts`` what it means.

    If an ``If-None-Match`` line was cut out of it, ``before`` and ``after`` are what stood around the line's value. ``empty_lines`` were
    skipped since the last request.

    ``stamp`` is the tick of the last activity, ``since`` the tick at which an unfinished head began (-1: none), ``slot`` the wheel's slot.
    """

    __slots__ = (
        "after",
        "before",
        "block",
        "busy",
        "empty_lines",
        "facts",
        "fd",
        "is_secure",
        "recogniser",
        "recv",
        "send",
        "send_parts",
        "since",
        "slot",
        "stamp",
    )

    def __init__(self, wire: Wire, address: str, trusted: bool, hosts: Standings, recogniser: Recogniser, tick: int) -> None:
        super().__init__(wire, address, trusted, hosts)
        self.fd = wire.fileno()
        self.begin(wire, hosts, recogniser)
        self.busy = False
        self.stamp = tick
        self.since = -1
        self.slot = -1

    def begin(self, wire: Wire, hosts: Standings, recogniser: Recogniser) -> None:
        """Speak over ``wire`` from here on, on the same socket. Nothing of what went before counts any more."""
        self.wire = wire
        self.hosts = hosts
        self.is_secure = not isinstance(wire, PlainWire)
        self.recv = wire.recv_nowait
        self.send = wire.send_nowait
        self.send_parts = wire.send_parts_nowait
        self.recogniser = recogniser
        self.block = b""
        self.facts: Facts | None = None
        self.before = self.after = b""
        self.empty_lines = 0


class Wheel:
    """Deadlines by whole seconds: a connection moves only when its slot comes up, so activity costs one stamp."""

    def __init__(self, idle_s: float, head_s: float) -> None:
        self._idle = max(1, round(idle_s))
        self._head = max(1, round(head_s))
        self._slots: list[set[Connection]] = [set() for _ in range(max(_SLOTS, self._idle + 2, self._head + 2))]
        self.tick = 0

    def put(self, connection: Connection) -> None:
        """File the connection under the second its present deadline falls in."""
        self.remove(connection)
        connection.slot = self._due(connection) % len(self._slots)
        self._slots[connection.slot].add(connection)

    def remove(self, connection: Connection) -> None:
        if connection.slot >= 0:
            self._slots[connection.slot].discard(connection)
            connection.slot = -1

    def advance(self) -> list[Connection]:
        """One second later: the connections whose time is up, removed from the wheel."""
        self.tick += 1
        slot = self._slots[self.tick % len(self._slots)]
        due = [connection for connection in slot if self._due(connection) <= self.tick]
        for connection in list(slot):
            if self._due(connection) <= self.tick:
                self.remove(connection)
            else:
                self.put(connection)
        return due

    def _due(self, connection: Connection) -> int:
        return connection.since + self._head if connection.since >= 0 else connection.stamp + self._idle
