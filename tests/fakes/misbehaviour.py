"""How the fake can go wrong: one value per way, matched to requests by glob, and they add up."""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Misbehaviour:
    """What is wrong with the answers to requests that match. Offsets count from the start of the whole file; negative, from its end.

    Which requests: ``match`` (glob over the path with its query), ``host``, ``method``, ``when_header`` (only if the request carries
    that field), ``times`` (only the first so many).

    What goes wrong before the head: ``silent`` (no answer), ``reset`` (the connection is torn down), ``delay_s``.
    Another answer: ``status`` (with ``retry_after`` and ``body``), ``html`` (a captive portal, 200), ``redirect`` (to a URL),
    ``loop`` (to itself), ``replace`` (200 with that text as ``media_type``).
    The right answer spoilt: ``flip`` (one bit of the byte there), ``truncate`` (the connection closes there), ``length_off_by``
    (a wrong ``Content-Length``), ``grow`` (so many bytes more than listed), ``endless`` (chunked, for ever), ``bytes_per_s``,
    ``gzip``, ``gate`` (waits at that offset until released), ``old_serial`` (the page as it first was), ``media_type``.
    """

    number: int
    match: str = "*"
    host: str | None = None
    method: str | None = None
    when_header: str | None = None
    times: int | None = None
    silent: bool = False
    reset: bool = False
    delay_s: float = 0
    status: int | None = None
    retry_after: str | None = None
    body: str = ""
    html: bool = False
    redirect: str | None = None
    loop: bool = False
    replace: str | None = None
    media_type: str | None = None
    flip: int | None = None
    truncate: int | None = None
    length_off_by: int = 0
    grow: int = 0
    endless: bool = False
    bytes_per_s: float = 0
    gzip: bool = False
    gate: int | None = None
    old_serial: bool = False
    ended: threading.Event = field(default_factory=threading.Event)
    arrivals: int = 0

    def fits(self, host: str, method: str, path: str, headers: Mapping[str, str]) -> bool:
        return (
            not self.ended.is_set()
            and (self.times is None or self.times > 0)
            and (self.host is None or self.host == host)
            and (self.method is None or self.method == method)
            and (self.when_header is None or self.when_header in headers)
            and fnmatch.fnmatchcase(path, self.match)
        )


class Misbehaviours:
    """Those in force. All methods are safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._all: list[Misbehaviour] = []
        self._next = 1

    def add(self, **how: object) -> int:
        with self._lock:
            one = Misbehaviour(number=self._next, **how)  # type: ignore[arg-type]  # from the test, by name; wrong names raise
            self._next += 1
            self._all.append(one)
            return one.number

    def end(self, number: int | None) -> None:
        with self._lock:
            for one in self._all:
                if number is None or one.number == number:
                    one.ended.set()
            self._all = [one for one in self._all if not one.ended.is_set()]
            self._lock.notify_all()

    def of(self, host: str, method: str, path: str, headers: Mapping[str, str]) -> list[Misbehaviour]:
        """Those that spoil this request, in the order they were asked for."""
        with self._lock:
            fitting = [one for one in self._all if one.fits(host, method, path, headers)]
            for one in fitting:
                if one.times is not None:
                    one.times -= 1
            return fitting

    def arrive(self, one: Misbehaviour) -> None:
        """Stand at the gate ``one`` until it is opened."""
        with self._lock:
            one.arrivals += 1
            self._lock.notify_all()
        one.ended.wait()

    def wait_arrivals(self, number: int, arrivals: int, timeout_s: float = 30) -> bool:
        with self._lock:
            return self._lock.wait_for(
                lambda: any(one.number == number and one.arrivals >= arrivals for one in self._all), timeout_s
            )
