"""How long the event loop went without looking at its sockets: the longest stretch since somebody last asked."""

from __future__ import annotations

import time

import trio.abc

from .metrics import Metrics


class LoopWatch(trio.abc.Instrument):
    """Measures the time between two waits for I/O. A stretch spent waiting for the interpreter's lock counts, as it should."""

    def __init__(self, metrics: Metrics) -> None:
        self._awake_since = time.perf_counter()
        self._worst_s = 0.0
        metrics.loop_stall.set_function(self.take)

    def after_io_wait(self, timeout: float) -> None:
        """The loop is awake again."""
        self._awake_since = time.perf_counter()

    def before_io_wait(self, timeout: float) -> None:
        """The loop is about to look at its sockets again."""
        awake_s = time.perf_counter() - self._awake_since
        self._worst_s = max(self._worst_s, awake_s)

    def take(self) -> float:
        """The worst stretch since the last call, in seconds."""
        worst_s, self._worst_s = self._worst_s, 0.0
        return worst_s
