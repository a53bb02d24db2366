"""What happened in a run of the fleet under faults, as records: what clients were told, what the nemesis did, how the nodes stood.

A ``History`` only grows, from many threads; ``checker.py`` judges it afterwards and needs nothing else. Written to a file it is one
record a line, so that a run in which something was found can be judged again. Times are seconds of one monotonic clock, the recorder's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True, tag=str.lower):
    """Anything that is written down."""


class Published(Record, frozen=True, kw_only=True):
    """A registry offers this file from ``at`` on. ``key`` is ``<registry>/<path>``, ``project`` ``<registry>/<name>``.

    ``number`` counts the releases of a project, from 0: a page that lists a later one is newer. ``sha256`` is in hex.
    """

    at: float
    key: str
    project: str
    version: str
    number: int
    sha256: str
    size: int


class Call(Record, frozen=True, kw_only=True):
    """One request of a client's, with its answer. ``status`` is 0 if none came.

    ``key`` is that of ``Published`` for a file, and ``project`` is empty; for a page it is the other way round. ``start`` and ``stop`` are
    the range that was asked for (``stop`` is None for all). ``clean`` says that the answer ended as its framing promised; ``length`` is
    its ``Content-Length``. ``body`` is the SHA-256 of the bytes that came, and ``expected`` that of the same range of what was published.

    Of a page: ``listed`` are the files it offers, by key, with the SHA-256 it tells (empty where it tells none); ``releases`` the versions
    it offers; ``serial`` is upstream's. ``readable`` says that the document could be read. ``held`` says that the answer came from what the
    edge held.
    """

    worker: str
    edge: str
    life: int
    method: str
    invoked: float
    completed: float
    key: str = ""
    project: str = ""
    status: int = 0
    start: int = 0
    stop: int | None = None
    conditional: bool = False
    clean: bool = False
    length: int | None = None
    size: int = 0
    body: str = ""
    expected: str = ""
    serial: int | None = None
    listed: dict[str, str] = {}
    releases: tuple[str, ...] = ()
    readable: bool = True
    held: bool = False
    retry_after: str | None = None
    error: str = ""


class Recalled(Record, frozen=True, kw_only=True):
    """An operator recalled ``target``, or with ``undo`` took that back. ``keys`` are its files, ``releases`` are (project, version).

    ``also`` are files that may be refused along with them. ``acknowledged`` are the edges that had put it in force when the command
    returned; ``succeeded`` says that it is known to have done it.
    """

    invoked: float
    completed: float
    target: str
    undo: bool = False
    keys: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    releases: tuple[tuple[str, str], ...] = ()
    acknowledged: tuple[str, ...] = ()
    succeeded: bool = True


class InForce(Record, frozen=True, kw_only=True):
    """An edge had these recalls in force, durably, at ``at`` or before."""

    at: float
    edge: str
    revision: int
    targets: tuple[str, ...] = ()


class Line(Record, frozen=True, kw_only=True):
    """A line of the origin's ledger, as first seen at ``at``. ``hash`` is the chain's, in hex; ``digest`` is empty but for a file."""

    at: float
    serial: int
    hash: str
    kind: str
    resource: str
    digest: str = ""


class Place(Record, frozen=True, kw_only=True):
    """How far an edge has applied the feed, durably, at ``at``."""

    at: float
    edge: str
    epoch: str
    serial: int
    hash: str


class Holding(Record, frozen=True, kw_only=True):
    """A node held these blobs (SHA-256 in hex) at ``at``: those that it did not hold when it was last looked at, and those gone since."""

    at: float
    node: str
    new: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


class Life(Record, frozen=True, kw_only=True):
    """A process of a node. ``ended`` is None for one that runs; ``how`` is ``killed`` or ``stopped``."""

    node: str
    number: int
    began: float
    ended: float | None = None
    how: str = ""


class Fault(Record, frozen=True, kw_only=True):
    """The nemesis did this from ``began`` to ``ended``. ``whom`` are the nodes and registries that it touched."""

    kind: str
    began: float
    ended: float
    whom: tuple[str, ...]


class Asked(Record, frozen=True, kw_only=True):
    """A registry was asked for a file. ``by`` is the node that asked. ``complete`` says that all bytes were handed to the socket."""

    at: float
    by: str
    key: str
    status: int
    complete: bool


class Healed(Record, frozen=True, kw_only=True):
    """All faults are over, and the fleet has had the time it needs: from ``at`` on every edge is expected to equal the origin."""

    at: float


class Bound(Record, frozen=True, kw_only=True):
    """All that a node had under names at the end: ``File.key`` to SHA-256, and which of these blobs it held, whole."""

    at: float
    node: str
    names: dict[str, str]
    whole: tuple[str, ...] = ()


class Verified(Record, frozen=True, kw_only=True):
    """What a node's own ``verify`` said at the end."""

    at: float
    node: str
    succeeded: bool
    told: str = ""


type Written = Published | Call | Recalled | InForce | Line | Place | Holding | Life | Fault | Asked | Healed | Bound | Verified

_decoder: msgspec.json.Decoder[Written] = msgspec.json.Decoder(Written.__value__)


class History:
    """Records in the order in which they were written down. Safe from any thread."""

    def __init__(self, records: Iterable[Written] = ()) -> None:
        self._lock = threading.Lock()
        self._records = list(records)

    def add(self, *records: Written) -> None:
        with self._lock:
            self._records += records

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Written]:
        with self._lock:
            return iter(list(self._records))

    def of[R: Record](self, kind: type[R]) -> list[R]:
        """The records of one kind."""
        return [record for record in self if isinstance(record, kind)]

    def write(self, path: Path) -> None:
        path.write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in self))

    @classmethod
    def read(cls, path: Path) -> History:
        """Raises ``ValueError`` for a file that is none."""
        return cls(_decoder.decode(line) for line in path.read_bytes().splitlines())


def now() -> float:
    """The clock of all records: the machine's monotonic one, the same in each of its processes."""
    return time.monotonic()
