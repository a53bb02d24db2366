"""What policy may take back while it is under way: flights that run, and bytes that are being sent."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from .errors import Refused
from .flights import Flight
from .model import Allow, Digest, Entry, File, Validity, Verdict
from .pipeline.stages import Stored


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
        """While the block lasts, the flight may be ended by policy."""
        self._flying[flight] = file, entry
        try:
            yield
        finally:
            del self._flying[flight]

    def review(self) -> None:
        """Policy has changed: end the flights that it forbids, and let nothing more out of what is being sent. Done when it returns."""
        for flight, (file, entry) in list(self._flying.items()):
            verdict = self._judge(file, (*entry.digests, *flight.digests))
            if not isinstance(verdict, Allow):
                flight.stop(Refused(verdict))
        for leave in list(self._given):
            leave.valid = leave.valid and isinstance(self._judge(leave.file, leave.digests), Allow)
