"""The errors of our own, each telling someone what to do. ``http/problems.py`` turns them into statuses, in one table.

Text from outside that breaks its specification is a ``ValueError`` with the offending piece; foreign exceptions are translated
where the foreign library is called, nowhere else.
"""

from __future__ import annotations

from .model import Digest, Hold, Refuse


class NotFound(LookupError):
    """It truly does not exist: upstream said so cleanly, or no registry knows such a thing. Answered 404."""


class Refused(Exception):
    """Policy forbids it. Answered 403 with the verdict's reason; never 404, which would send clients elsewhere."""

    def __init__(self, verdict: Refuse | Hold) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


class Unavailable(Exception):
    """Not now: upstream is unreachable, silent, limiting us or failing, or synchronization still runs. Answered 503.

    ``retry_after_s`` is a whole number of seconds, at least 1.
    """

    def __init__(self, message: str, retry_after_s: float = 5) -> None:
        super().__init__(message)
        self.retry_after_s = max(1, round(retry_after_s))


class Corrupt(Exception):
    """Upstream sent wrong, unparsable, truncated or oversized bytes; nothing was stored. Answered 502, with an event.

    ``expected`` and ``actual`` are for people: digests, sizes, media types.
    """

    def __init__(self, message: str, expected: object = None, actual: object = None) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class Rebound(Corrupt):
    """A name that is bound to one digest was published with another. The old bytes stay; the new are quarantined."""

    def __init__(self, name: str, bound: Digest, seen: Digest) -> None:
        super().__init__(f"{name} is bound to {bound} and was now seen as {seen}", bound, seen)
        self.bound = bound
        self.seen = seen


class Unusable(Exception):
    """What is kept on this machine cannot be used as it is: locked, damaged, or written by a newer Leeward.

    Stops a start. The message is one sentence for the operator, naming the path and what to do.
    """
