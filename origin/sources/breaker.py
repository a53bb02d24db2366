"""Whether it is worth asking an upstream now. A state machine without I/O and without a clock: every call is told the time.

One breaker per upstream for pages, and one per host for files. *Closed*, requests pass; three failures in a row to connect or to get an
answer (of a page all of it, of a file its first byte) open it. *Open*, requests are refused at once, for 5 s at first, up to 30 s,
±20 %. Then it is *half-open*: the next wanted request passes as the probe while others are still refused; its success closes the
breaker, its failure opens it for twice as long.

Beside that it knows *suspicion*: an upstream that swallows requests would cost each page of an install a second before what is
held is served. So while a request has been unanswered for a second, and until an answer comes, ``is_trusted`` says no.

Times are seconds of any monotonic clock. Source: M. Nygard, Release It!, "Circuit Breaker".
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

type State = Literal["closed", "open", "half-open"]

FAILURES = 3
"""So many failures in a row open it."""

OPEN_S = 5.0
"""How long it stays open the first time; doubled by each failed probe …"""

LONGEST_S = 30.0
"""… up to this."""

JITTER = 0.2
"""How far an opening may be shorter or longer, so that a fleet of edges does not probe in step."""

SUSPECT_AFTER_S = 1.0
"""A request unanswered for this long makes the upstream suspect."""


@dataclass(frozen=True, slots=True, eq=False)
class Permit:
    """Leave to send one request. Its holder reports how it ended, by exactly one of the breaker's three verbs.

    ``generation`` fences late results: what was sent before the breaker last changed its state says nothing about now. ``number`` orders
    permits given at the same time ``at``.
    """

    generation: int
    is_probe: bool
    at: float
    number: int


class Breaker:
    """The state of one upstream for one kind of request. ``changed(is_open)`` is called when it opens and when it closes."""

    def __init__(self, rng: random.Random, changed: Callable[[bool], None] = lambda is_open: None) -> None:
        self._random = rng
        self._changed = changed
        self._state: State = "closed"
        self._generation = 0
        self._failures = 0
        self._openings = 0
        self._retry_at = 0.0
        self._probe: Permit | None = None
        self._unanswered: dict[Permit, None] = {}
        self._issued = 0
        self._answered = 0  # no permit up to this number is evidence of silence: an answer came after it was given
        self._is_suspect = False

    def __repr__(self) -> str:
        return f"<Breaker {self._state} generation={self._generation} failures={self._failures} suspect={self._is_suspect}>"

    @property
    def state(self) -> State:
        return self._state

    def is_trusted(self, now: float) -> bool:
        """Whether waiting for an answer is worth while: closed, and not suspect."""
        return self._state == "closed" and not self._is_suspect and not self._keeps_waiting(now)

    def retry_in_s(self, now: float) -> float:
        """Seconds until the next probe may pass; 0 if a request may pass now, or a probe is under way."""
        return max(0.0, self._retry_at - now) if self._state == "open" else 0.0

    def admit(self, now: float) -> Permit | None:
        """Leave to send a request now, None to refuse it at once."""
        if self._state == "open" and now >= self._retry_at:
            self._state = "half-open"
        if self._state == "closed":
            permit = Permit(self._generation, False, now, self._issued + 1)
        elif self._state == "half-open" and self._probe is None:
            permit = self._probe = Permit(self._generation, True, now, self._issued + 1)
        else:
            return None
        self._issued += 1
        self._unanswered[permit] = None
        return permit

    def succeed(self, permit: Permit) -> None:
        """An answer came, whatever it says: of a page its end, of a file its first byte, else its head."""
        self._unanswered.pop(permit, None)
        # Even an answer from before the last change shows that somebody is there.
        self._answered = self._issued
        self._is_suspect = False
        if permit.generation != self._generation:
            return
        self._failures = 0
        if self._state != "closed":
            self._close()

    def fail(self, permit: Permit, now: float) -> None:
        """No connection, or no such answer within its time."""
        self._forget(permit, now)
        if permit.generation != self._generation:
            return
        if permit.is_probe:
            self.open(now)
        else:
            self._failures += 1
            if self._failures >= FAILURES:
                self.open(now)

    def withdraw(self, permit: Permit, now: float) -> None:
        """The request was cancelled, or failed for a reason of our own: nothing was learnt."""
        self._forget(permit, now)
        if permit is self._probe:
            self._probe = None  # still half-open: the next request is the probe

    def hear(self) -> None:
        """Somebody is there, though nothing says that those who wait will get their answers."""
        self._answered = self._issued
        self._is_suspect = False

    def hasten(self, now: float) -> None:
        """Let the next request be the probe, however long it was to stay open."""
        self._retry_at = min(self._retry_at, now)

    def open(self, now: float) -> None:
        """Open it, or open it again for longer."""
        was_closed = self._state == "closed"
        self._generation += 1
        self._failures = 0
        self._probe = None
        self._state = "open"
        length_s = min(LONGEST_S, OPEN_S * 2**self._openings)
        self._openings = min(self._openings + 1, 8)
        self._retry_at = now + length_s * self._random.uniform(1 - JITTER, 1 + JITTER)
        if was_closed:
            self._changed(True)

    def _close(self) -> None:
        self._generation += 1
        self._state = "closed"
        self._openings = 0
        self._probe = None
        self._changed(False)

    def _forget(self, permit: Permit, now: float) -> None:
        self._unanswered.pop(permit, None)
        if permit.number > self._answered and now - permit.at > SUSPECT_AFTER_S:
            # It ended unanswered after having waited so long: the suspicion outlives it, until an answer comes.
            self._is_suspect = True

    def _keeps_waiting(self, now: float) -> bool:
        for permit in self._unanswered:  # oldest first
            if now - permit.at <= SUSPECT_AFTER_S:
                return False
            if permit.number > self._answered:
                return True
        return False
