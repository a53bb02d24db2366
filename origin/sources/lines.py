"""Whom an upstream's requests reach, one by one: its pages are one line, each of its file hosts is another.

A dead file host among others that live must stop its own files only. Towards the outside (metrics, ``available``) all lines of one
kind are one: open while any of them is open, worth waiting for while any of them is.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Callable

import httpx
import trio

from ..model import Headers
from .breaker import Breaker, State

LINES = 64
"""So many hosts are remembered. Listings name them, so their number is not ours."""

UNWANTED_S = 900.0
"""A host that nobody asked for in this time is no longer probed but forgotten, if there are others."""

_WORST: tuple[State, ...] = ("closed", "half-open", "open")


class Line:
    """One host: its breaker, until when it asked us to wait, and what a client last asked it for."""

    __slots__ = ("breaker", "paused_until", "sample", "wanted_at")

    def __init__(self, breaker: Breaker, now: float) -> None:
        self.breaker = breaker
        self.paused_until = -math.inf
        self.sample: tuple[httpx.URL, Headers] | None = None
        self.wanted_at = now

    def is_trusted(self, now: float) -> bool:
        """Whether waiting for its answer is worth while."""
        return now >= self.paused_until and self.breaker.is_trusted(now)


class Lines:
    """An upstream's lines of one kind. ``changed(is_open)`` is called when the first opens and when the last closes."""

    def __init__(self, rng: random.Random, changed: Callable[[bool], None]) -> None:
        self._random = rng
        self._changed = changed
        self._lines: OrderedDict[str, Line] = OrderedDict()  # least recently used first
        self._opened = trio.Event()

    def to(self, host: str) -> Line:
        """The line to a host, made if it is new."""
        line = self._lines.get(host)
        if line is None:
            line = self._lines[host] = Line(Breaker(self._random, self._review), trio.current_time())
            if len(self._lines) > LINES:
                self._lines.popitem(last=False)
                self._review()
        self._lines.move_to_end(host)
        return line

    @property
    def state(self) -> State:
        """The worst of their states."""
        return max((line.breaker.state for line in self._lines.values()), key=_WORST.index, default="closed")

    def is_trusted(self, now: float) -> bool:
        """Whether any of them is worth waiting for, or none is known."""
        return not self._lines or any(line.is_trusted(now) for line in self._lines.values())

    async def wait_open(self) -> float:
        """Wait until any is open, and return the seconds until the first of them may be probed."""
        await self._opened.wait()
        now = trio.current_time()
        return min((line.breaker.retry_in_s(now) for line in self._lines.values() if line.breaker.state != "closed"), default=0.0)

    def due(self) -> list[Line]:
        """Those to be probed now. Forgets those nobody wants any more."""
        now = trio.current_time()
        troubled = [(host, line) for host, line in self._lines.items() if line.breaker.state != "closed"]
        for host, line in troubled:
            if now - line.wanted_at > UNWANTED_S and len(self._lines) > 1:
                del self._lines[host]
        self._review()
        return [line for host, line in troubled if host in self._lines and not line.breaker.retry_in_s(now)]

    def _review(self, _: bool = False) -> None:
        is_open = self.state != "closed"
        if is_open and not self._opened.is_set():
            self._opened.set()
            self._changed(True)
        elif not is_open and self._opened.is_set():
            self._opened = trio.Event()
            self._changed(False)
