"""One fetch, many readers, while it runs.

A *flight* is the one running fetch of a key. It is started by a request but owned by the nursery of ``Flights``: there is no
leader among the clients, so a client that hangs up can never cancel what others wait for. The job writes to a spool and moves two
marks; followers read below the second one, each through a descriptor of its own, from any offset and at its own pace. A follower
costs one small object and one descriptor, whatever the size of the body.

A flight that fails leaves a memo for a few seconds: requests that come within it share its error instead of trying
again one by one. Nobody takes a failed flight over.

Two misses may pass one after the other: the second one's job must look again whether what it fetches is here by now.
"""

from __future__ import annotations

import logging
import math
import os
import random
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

import trio

from .errors import Corrupt, NotFound, Refused, Unavailable
from .metrics import Metrics
from .model import Digest

log = logging.getLogger(__name__)

WAKE_BYTES = 64 * 1024
"""Followers are woken when this much became releasable since the last time …"""

WAKE_AFTER_S = 0.010
"""… or this long after the last time, or at the end: 500 followers must not be scheduled for every packet."""

GRACE_S = 2.0
"""How long a flight that nobody follows, and that is not worth finishing, waits for somebody to join."""

WORTH_BYTES = 16 * 1024 * 1024
"""A flight with no more than this left is finished even if nobody follows it. Source: Squid's ``quick_abort_max`` in shape."""

WORTH_S = 10.0
"""The same by time: a flight estimated to land within this is finished."""


class Flight[T]:
    """A fetch under way. ``size`` is in bytes, None until ``began()`` told it, and if upstream does not say.

    ``written`` bytes are in the spool; the first ``releasable`` of them may be sent to clients. ``is_there`` says that upstream was seen to
    have it, whatever becomes of it. ``trail`` is the ``Cache-Status`` of the node of ours that sends it.
    """

    __slots__ = (
        "__weakref__",
        "_began_at",
        "_done",
        "_error",
        "_fd",
        "_followers",
        "_head",
        "_keep",
        "_landed",
        "_nursery",
        "_parked",
        "_release_fd",
        "_result",
        "_scope",
        "_stopped",
        "_wake_due",
        "_woken_at",
        "_woken_to",
        "digests",
        "is_there",
        "key",
        "last_modified",
        "releasable",
        "size",
        "trail",
        "written",
    )

    def __init__(self, key: str, nursery: trio.Nursery, keep: bool) -> None:
        self.key = key
        self.size: int | None = None
        self.digests: tuple[Digest, ...] = ()
        self.last_modified: str | None = None
        self.is_there = False
        self.trail = ""
        self.written = 0
        self.releasable = 0
        self._nursery = nursery
        self._keep = keep
        self._scope = trio.CancelScope()
        self._stopped: Exception | None = None
        self._followers = 0
        self._fd = -1
        self._release_fd: Callable[[], object] | None = None
        self._began_at = math.nan
        self._head = trio.Event()
        self._done = trio.Event()
        self._parked = trio.lowlevel.ParkingLot()
        self._woken_at = -math.inf
        self._woken_to = 0
        self._wake_due = False
        self._landed = False
        self._result: T | None = None
        self._error: Exception | None = None

    def __repr__(self) -> str:
        state = "failed" if self._error else "landed" if self._landed else "running"
        return f"<Flight {self.key!r} {state} {self.releasable}/{self.written}/{self.size} followers={self._followers}>"

    # -- for the job

    def began(self, fd: int, size: int | None, digests: Sequence[Digest] = (), last_modified: str | None = None) -> None:
        """The spool exists and upstream's head is known. The descriptor is duplicated; ``size`` is the whole body's, in bytes.

        ``digests`` are those the body must turn out to have, ``last_modified`` is upstream's field.
        """
        assert self._fd < 0, "a flight begins once"
        self.digests = tuple(digests)
        self.last_modified = last_modified
        self._fd = os.dup(fd)
        # Closed when nobody holds the flight any more, not when it lands: whoever joined in time may still come to follow it,
        # even after the job has closed its spool. Errors are kept without traceback so that no cycle keeps the flight alive.
        self._release_fd = weakref.finalize(self, os.close, self._fd)
        self.size = size
        self._began_at = trio.current_time()
        self._head.set()
        self._reconsider()

    def resized(self, size: int) -> None:
        """The total is known only now."""
        self.size = size
        self._reconsider()

    def identified(self, digests: Sequence[Digest]) -> None:
        """These digests of the body are known now. Called before anything is released, or refused, because of that."""
        self.digests = tuple(digests)

    def advance(self, written: int, releasable: int) -> None:
        """Move both marks; they never go back. Wakes followers in batches."""
        assert self.written <= written, "marks never go back"
        assert self.releasable <= releasable <= written, "marks never go back"
        self.written = written
        self.releasable = releasable
        self._reconsider()
        if releasable == self._woken_to:
            return
        now = trio.current_time()
        if releasable - self._woken_to >= WAKE_BYTES or now - self._woken_at >= WAKE_AFTER_S or releasable == self.size:
            self._wake(now)
        elif not self._wake_due:
            # Too little, too soon. If nothing more comes, those few bytes must not wait for it.
            self._wake_due = True
            self._nursery.start_soon(self._wake_at, self._woken_at + WAKE_AFTER_S, name=f"wake {self.key}")

    def _wake(self, now: float) -> None:
        self._woken_at = now
        self._woken_to = self.releasable
        self._parked.unpark_all()

    async def _wake_at(self, due: float) -> None:
        await trio.sleep_until(due)
        self._wake_due = False
        if self.releasable > self._woken_to:
            self._wake(trio.current_time())

    # -- for everybody

    @property
    def is_done(self) -> bool:
        """It landed or failed."""
        return self._done.is_set()

    @property
    def has_begun(self) -> bool:
        """The spool can be followed."""
        return self._fd >= 0

    @property
    def followers(self) -> int:
        """How many follow it or wait for it now."""
        return self._followers

    def estimate_s(self) -> float | None:
        """Seconds until everything is written, by the flight's own measured rate; None while that is unknown."""
        if self.size is None or not self.written:
            return None
        elapsed_s = trio.current_time() - self._began_at
        return max(0, self.size - self.written) * elapsed_s / self.written

    async def wait_head(self) -> None:
        """Wait until the job began to receive or the flight is done. Raises the job's error if it failed. Counts as following."""
        with _Waiting(self):
            await self._head.wait()
        self._raise_if_failed()

    async def wait_outcome(self) -> T:
        """Wait for the job's result, or raise its error. Callers bound the wait by a scope of their own. Counts as following."""
        with _Waiting(self):
            await self._done.wait()
        self._raise_if_failed()
        return cast("T", self._result)

    def stop(self, error: Exception) -> None:
        """End the flight with ``error``: whoever waits hears it at once, and nothing more is released. A no-op once it is done."""
        if self.is_done or self._stopped is not None:
            return
        self._stopped = error
        self._scope.cancel()
        self._finish(None, error)

    def outcome_nowait(self) -> T | None:
        """The job's result, None while it runs. Raises its error if it failed."""
        self._raise_if_failed()
        return self._result

    def follow(self) -> Follower:
        """Follow the body. Whoever gets the ``Follower`` closes it.

        Raises the job's error if it failed, ``Unavailable`` if the process has no descriptor left.
        """
        self._raise_if_failed()
        assert self._fd >= 0, "wait_head() comes before follow()"
        try:
            fd = os.dup(self._fd)
        except OSError as error:
            raise Unavailable(f"no descriptor left to read {self.key}", 2) from error
        return Follower(self, fd)

    def _raise_if_failed(self) -> None:
        if self._error is not None:
            # A copy for each: one instance raised in 500 tasks would grow a traceback of all of them.
            raise _bare(self._error)

    # -- with or without followers

    def _enter(self) -> None:
        self._followers += 1
        self._scope.deadline = math.inf

    def _leave(self) -> None:
        self._followers -= 1
        if not self._followers:
            self._give_grace()

    def _give_grace(self) -> None:
        """Nobody follows. Unless it is worth finishing, the job is cancelled when the grace is over and nobody came."""
        if not (self._keep or self.is_done or self._is_worth_finishing()):
            self._scope.deadline = trio.current_time() + GRACE_S

    def _reconsider(self) -> None:
        # What was not worth finishing when its last follower left may have become so.
        if self._scope.deadline != math.inf and not self._scope.cancel_called and self._is_worth_finishing():
            self._scope.deadline = math.inf

    def _is_worth_finishing(self) -> bool:
        if self.size is None:
            return False
        left = self.size - self.written
        if left <= WORTH_BYTES or self.written * 2 >= self.size:
            return True
        estimate_s = self.estimate_s()
        return estimate_s is not None and estimate_s <= WORTH_S

    # -- for Flights

    @property
    def _is_joinable(self) -> bool:
        """False once its abandonment began: its job may still be cleaning up, but will never land."""
        return not (self.is_done or self._scope.cancel_called)

    def _finish(self, result: T | None, error: Exception | None) -> None:
        if self.is_done:
            return  # it was stopped; what its job still came to is of no interest
        if error is None:
            self._landed = True
            self._result = result
            self.releasable = self.written
        else:
            self._error = error
            if self._release_fd is not None:
                self._release_fd()
        self._done.set()
        self._head.set()
        self._parked.unpark_all()


class _Waiting[T]:
    """Counts a waiting task among the flight's followers."""

    __slots__ = ("_flight",)

    def __init__(self, flight: Flight[T]) -> None:
        self._flight = flight

    def __enter__(self) -> None:
        self._flight._enter()

    def __exit__(self, *_: object) -> None:
        self._flight._leave()


class Follower:
    """One reader of a flight: an ``Arrival`` of the model. Keeps its descriptor after the flight landed, until closed."""

    __slots__ = ("_fd", "_flight")

    def __init__[T](self, flight: Flight[T], fd: int) -> None:
        self._flight = cast("Flight[object]", flight)
        self._fd = fd
        flight._enter()

    @property
    def releasable(self) -> int:
        """How many bytes, from offset 0, may be sent to clients now."""
        return self._flight.releasable

    def fileno(self) -> int:
        """A descriptor of the follower's own, for ``pread`` and ``sendfile`` below ``releasable``; -1 once closed."""
        return self._fd

    async def wait_beyond(self, offset: int) -> int:
        """Wait until ``releasable > offset``, or until all has landed and nothing more is to come, and return ``releasable``.

        So it returns 0 for a body without bytes. Raises the flight's error if it failed, ``Corrupt`` if it landed short of its size.
        """
        flight = self._flight
        if flight._error is None and (flight.releasable > offset or flight.is_done):
            await trio.lowlevel.checkpoint()
        while flight._error is None and flight.releasable <= offset and not flight.is_done:
            await flight._parked.park()
        flight._raise_if_failed()
        if flight.releasable <= offset and flight.size is not None and flight.releasable < flight.size:
            raise Corrupt(f"{flight.key} ended before its announced length", flight.size, flight.releasable)
        return flight.releasable

    def estimate_s(self) -> float | None:
        """Seconds until the flight ends at its present rate; None if nothing tells."""
        return self._flight.estimate_s()

    def close(self) -> None:
        """Leave the flight. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            self._flight._leave()


class Flights:
    """The flights in the air, by key. Get one from ``open_flights``; for the event loop's thread alone."""

    def __init__(self, nursery: trio.Nursery, metrics: Metrics, rng: random.Random | None = None) -> None:
        self._nursery = nursery
        self._metrics = metrics
        self._random = rng or random.Random()  # noqa: S311 -- jitter
        self._running: dict[str, Flight[object]] = {}
        self._failed: dict[str, tuple[Flight[object], float]] = {}

    def join[T](
        self, key: str, job: Callable[[Flight[T]], Awaitable[T]], *, keep_without_followers: bool = True
    ) -> tuple[Flight[T], bool]:
        """Return the flight of ``key``, starting ``job`` if there is none, and whether it was there before (*collapsed*).

        Within a failed flight's memo that flight is returned. ``keep_without_followers=False`` lets a job end early that nobody
        follows and that is not worth finishing; one caller that asked to keep it is enough to keep it. The same key must always
        mean the same type of result.
        """
        flight = self._running.get(key)
        if flight is not None and flight._is_joinable:
            self._metrics.flights.labels("collapsed").inc()
            flight._keep = flight._keep or keep_without_followers
            if flight._keep:
                flight._scope.deadline = math.inf
            elif not flight.followers:
                flight._give_grace()
            return cast("Flight[T]", flight), True
        failed = self._remembered(key)
        if failed is not None:
            self._metrics.flights.labels("remembered").inc()
            return cast("Flight[T]", failed), True
        started = Flight[T](key, self._nursery, keep_without_followers)
        started._give_grace()
        self._running[key] = cast("Flight[object]", started)
        self._metrics.flights_running.inc()
        self._nursery.start_soon(self._run, started, job, name=f"flight {key}")
        return started, False

    def running(self, key: str) -> Flight[object] | None:
        """The flight of ``key`` in the air, if it can still be joined."""
        flight = self._running.get(key)
        return flight if flight is not None and flight._is_joinable else None

    def memo(self, key: str) -> Exception | None:
        """The error of a flight of ``key`` that failed within the last seconds, as a copy of the caller's own."""
        failed = self._remembered(key)
        return _bare(failed._error) if failed is not None and failed._error is not None else None

    def pause_s[T](self, flight: Flight[T]) -> float:
        """Seconds until a transfer that broke off after it had begun is tried again; 0 for any flight but such a remembered one."""
        found = self._failed.get(flight.key)
        if found is None or found[0] is not cast("Flight[object]", flight) or not flight.has_begun:
            return 0.0
        return max(0.0, found[1] - trio.current_time()) if isinstance(flight._error, Unavailable) else 0.0

    def forget(self, key: str) -> None:
        """Drop the memo of ``key``: somebody who knows better asked to try again."""
        self._failed.pop(key, None)

    async def wait_landed(self) -> None:
        """Wait for the flights whose bytes are all here already: what is left of them is storing. Callers bound the wait."""
        while landing := [f for f in self._running.values() if f.size is not None and f.written >= f.size and not f.is_done]:
            await landing[0]._done.wait()

    def statistics(self) -> dict[str, int]:
        """How many flights are in the air, how many tasks and readers follow them, how many failures are remembered."""
        return {
            "running": len(self._running),
            "followers": sum(flight.followers for flight in self._running.values()),
            "remembered": len(self._failed),
        }

    async def _run[T](self, flight: Flight[T], job: Callable[[Flight[T]], Awaitable[T]]) -> None:
        error: Exception | None = None
        result: T | None = None
        outcome = "abandoned"
        # Seen by waiters only if the job neither returns nor raises: it was cancelled.
        abandoned: Exception | None = Unavailable(f"the fetch of {flight.key} was given up", 1)
        try:
            with flight._scope:
                result = await job(flight)
                outcome, abandoned = "landed", None
        except Exception as raised:  # noqa: BLE001 -- the border: whatever a job raises ends this flight only, and is logged
            error, abandoned = _bare(self._translate(flight.key, raised)), None
            outcome = _outcome(error)
        finally:
            if flight._stopped is not None:
                error, outcome = None, _outcome(flight._stopped)
            flight._finish(result, error or abandoned)
            # An abandoned flight's key may already belong to its successor.
            if self._running.get(flight.key) is flight:
                del self._running[flight.key]
            if error is not None:
                self._remember(flight, error)
            self._metrics.flights_running.dec()
            self._metrics.flights.labels(outcome).inc()

    def _translate(self, key: str, raised: Exception) -> Exception:
        """One error of our own out of whatever a job raised. Programming errors are logged and end nobody but this flight."""
        leaves = _leaves(raised)
        if all(isinstance(leaf, NotFound | Refused | Unavailable | Corrupt) for leaf in leaves):
            return leaves[0]
        log.error("fetching %s failed unexpectedly", key, exc_info=raised)
        return _Crashed(f"fetching {key} failed unexpectedly", 5)

    def _remember[T](self, flight: Flight[T], error: Exception) -> None:
        now = trio.current_time()
        for key in [key for key, (_, until) in self._failed.items() if until <= now]:
            del self._failed[key]
        match error:
            case Corrupt() | NotFound():
                memo_s = self._random.uniform(4, 5)  # a file that its listing has and upstream has not is upstream out of step
            case Unavailable():
                memo_s = min(self._random.uniform(1, 2), error.retry_after_s)
            case Refused():
                return  # a verdict is no failure, and taking a rule away must be felt at once
            case _:
                memo_s = self._random.uniform(1, 2)
        self._failed[flight.key] = (cast("Flight[object]", flight), now + memo_s)

    def _remembered(self, key: str) -> Flight[object] | None:
        found = self._failed.get(key)
        if found is None:
            return None
        flight, until = found
        if until <= trio.current_time():
            del self._failed[key]
            return None
        return flight


@asynccontextmanager
async def open_flights(metrics: Metrics, rng: random.Random | None = None) -> AsyncIterator[Flights]:
    """Open the nursery that owns the flights. Leaving cancels those still in the air; their jobs clean up after themselves."""
    async with trio.open_nursery() as nursery:
        try:
            yield Flights(nursery, metrics, rng)
        finally:
            nursery.cancel_scope.cancel()


class _Crashed(Unavailable):
    """A job's programming error, as its waiters see it."""


def _outcome(error: Exception) -> str:
    match error:
        case _Crashed():
            return "crashed"
        case Corrupt():
            return "corrupt"
        case Refused():
            return "refused"
        case NotFound():
            return "absent"
        case _:
            return "unavailable"


def _leaves(raised: Exception) -> list[Exception]:
    """The exceptions in a nursery's group, or just the one."""
    if isinstance(raised, ExceptionGroup):
        return [leaf for part in raised.exceptions for leaf in _leaves(part)]
    return [raised]


def _bare[E: Exception](error: E) -> E:
    """A copy without traceback, cause or context. (``copy.copy`` would call the constructor with nothing but the message.)"""
    fresh = type(error).__new__(type(error))
    fresh.args = error.args
    fresh.__dict__.update(error.__dict__)
    return fresh
