"""How often and when to ask again. Pure: every call is told the time."""

from __future__ import annotations

import email.utils
import math
import random

ATTEMPTS = 3
"""A request is sent at most this often, redirects apart."""

LONGEST_RETRY_AFTER_S = 3600.0
"""No upstream can send us away for longer."""


class RetryBudget:
    """A tenth of the requests sent to an upstream may be retries, so that retrying cannot become its next outage.

    A bucket: each first attempt puts a share of a token in, each retry takes one out. Starts with a few.
    """

    def __init__(self, share: float = 0.1, capacity: float = 10) -> None:
        self._share = share
        self._capacity = capacity
        self._tokens = capacity

    def earn(self) -> None:
        """A request was sent for the first time."""
        self._tokens = min(self._capacity, self._tokens + self._share)

    def spend(self) -> bool:
        """Take leave for one retry; False if the budget is used up."""
        # In floating point ten tenths are a little less than one.
        if self._tokens < 1 - 1e-9:
            return False
        self._tokens -= 1
        return True


class Rate:
    """How often an upstream may be asked: ``per_s`` requests a second in the long run, ``burst`` at once; 0 for any number.

    A bucket that may be overdrawn: a request is told when its turn is, and what must go out at once (a redirect, a probe) makes the others
    wait for it.
    """

    def __init__(self, per_s: float, burst: float) -> None:
        assert per_s >= 0
        self._per_s = per_s
        self._burst = max(1.0, burst)
        self._tokens = self._burst
        self._at = -math.inf

    def take(self, now: float) -> float:
        """Take a turn; returns the seconds until it comes."""
        if not self._per_s:
            return 0.0
        if self._at < now:
            self._tokens = (
                min(self._burst, self._tokens + (now - self._at) * self._per_s) if self._at > -math.inf else self._burst
            )
            self._at = now
        self._tokens -= 1
        # In floating point ten tenths are a little less than one.
        return max(0.0, -self._tokens / self._per_s) if self._tokens < -1e-9 else 0.0

    def give_back(self) -> None:
        """A turn that was taken is not wanted any more."""
        if self._per_s:
            self._tokens = min(self._burst, self._tokens + 1)


def retry_after_s(value: str | None, now: float) -> float | None:
    """Read a ``Retry-After`` field: seconds from ``now`` (UTC seconds), from 1 to an hour; None if there is none worth obeying.

    Source: RFC 9110 §10.2.3.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        # Some more digits than an hour needs are still a number; thousands of them are an attack on int().
        seconds = float(value) if len(value) < 12 else LONGEST_RETRY_AFTER_S
    else:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return min(LONGEST_RETRY_AFTER_S, max(1.0, seconds))


def pause_s(attempt: int, rng: random.Random) -> float:
    """Seconds to wait before attempt number ``attempt`` (2 is the first retry): 0.05 to 0.1 s, then twice that."""
    return 0.1 * 2.0 ** (attempt - 2) * rng.uniform(0.5, 1)
