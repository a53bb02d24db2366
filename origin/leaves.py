"""What policy may take back while it is under way: flights that run, and bytes that are being sent."""

from __future__ import annotations

import math
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from .errors import Refused
from .flights import Flight
from .model import Allow, Digest, Entry, File, Validity, Verdict
from .pipeline.stages import Stored

REMEMBERED = 20_000
"""Of how many files it is remembered what their bytes turned out to be that were refused."""

REMEMBERED_S = 3600.0
"""For how long: where no digest is published, other bytes may stand there tomorrow, and nothing tells."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of ``entry``, and was refused: its digests, to be judged by until then (trio's clock)."""

    entry: Entry
    digests: Sequence[Digest]
    until: float


class Leave(Validity):
    """Leave to send a file's bytes, as long as policy does not take it back: with all that it is judged by.

    Of what arrives by a flight all digests are known only when all of it came.
    """

    __slots__ = ("__weakref__", "_digests", "_flight", "file")

    def __init__(self, file: File, digests: Sequence[Digest], flight: Flight[Stored] | None = None) -> None:
        super().__init__(math.inf)
        self.file = file
        self._digests = digests
        self._flight = flight

    @property
    def digests(self) -> Sequence[Digest]:
        """Those that are known by now."""
        return self._digests if self._flight is None else (*self._digests, *self._flight.digests)


class Leaves:
    """All leaves of a node, and the flights that policy may end. ``judge`` says what is in force of a file and its digests."""

    def __init__(self, judge: Callable[[File, Sequence[Digest]], Verdict]) -> None:
        self._judge = judge
        self._flying: dict[Flight[Stored], tuple[File, Entry]] = {}
        self._given: weakref.WeakSet[Leave] = weakref.WeakSet()
        self._seen: OrderedDict[File, Seen] = OrderedDict()

    def require(self, file: File, entry: Entry) -> None:
        """Raise ``Refused`` if ``entry`` was fetched already, and its bytes turned out to be what policy still forbids.

        Its page may tell no digest, or not the one that was recalled: then it would be fetched whole for each that asks, and given to
        nobody.
        """
        seen = self._seen.get(file)
        if seen is not None and seen.entry == entry and trio.current_time() < seen.until:
            verdict = self._judge(file, seen.digests)
            if not isinstance(verdict, Allow):
                raise Refused(verdict)

    def give(self, file: File, digests: Sequence[Digest], flight: Flight[Stored] | None = None) -> Leave:
        """Leave to send what is held, or comes by ``flight``. Raises ``Refused``."""
        leave = Leave(file, digests, flight)
        verdict = self._judge(file, leave.digests)
        if not isinstance(verdict, Allow):
            raise Refused(verdict)
        self._given.add(leave)
        return leave

    @contextmanager
    def flying(self, flight: Flight[Stored], file: File, entry: Entry) -> Iterator[None]:
        """While the block lasts, the flight may be ended by policy. What its bytes turned out to be is remembered if they are refused."""
        self._flying[flight] = file, entry
        try:
            yield
        except Refused:
            self._remember(file, entry, flight)
            raise
        finally:
            del self._flying[flight]

    def _remember(self, file: File, entry: Entry, flight: Flight[Stored]) -> None:
        self._seen[file] = Seen(entry, flight.digests, trio.current_time() + REMEMBERED_S)
        self._seen.move_to_end(file)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)

    def review(self) -> None:
        """Policy has changed: end the flights that it forbids, and let nothing more out of what is being sent. Done when it returns."""
        for flight, (file, entry) in list(self._flying.items()):
            verdict = self._judge(file, (*entry.digests, *flight.digests))
            if not isinstance(verdict, Allow):
                flight.stop(Refused(verdict))
        for leave in list(self._given):
            leave.valid = leave.valid and isinstance(self._judge(leave.file, leave.digests), Allow)
