"""One fetch, many readers: joining, following, failing, leaving."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from origin.errors import Corrupt, NotFound, Rebound, Refused, Unavailable
from origin.flights import GRACE_S, Flight, Flights, Follower, open_flights
from origin.metrics import Metrics
from origin.model import Digest, Refuse

KIB = 1024
MIB = 1024 * 1024


class Upstream:
    """A job that writes ``body`` to a memory file in ``chunk``-sized steps, ``pause_s`` apart, and counts what happened to it."""

    def __init__(
        self,
        body: bytes = b"",
        *,
        size: int | None = None,
        chunk: int = 64 * KIB,
        pause_s: float = 0.1,
        breaks_at: int | None = None,
        error: Exception | None = None,
    ) -> None:
        self.body = body
        self.size = len(body) if size is None else size
        self.chunk = chunk
        self.pause_s = pause_s
        self.breaks_at = breaks_at
        self.error = error
        self.started = self.finished = self.cleaned = 0

    async def __call__(self, flight: Flight[str]) -> str:
        self.started += 1
        fd = os.memfd_create("spool")
        try:
            flight.began(fd, self.size)
            for start in range(0, len(self.body), self.chunk):
                await trio.sleep(self.pause_s)
                piece = self.body[start : start + self.chunk]
                os.pwrite(fd, piece, start)
                flight.advance(start + len(piece), start + len(piece))
                if self.breaks_at is not None and start + len(piece) >= self.breaks_at:
                    raise self.error or Unavailable("the transfer broke", 3)
            self.finished += 1
            return f"{len(self.body)} bytes"
        finally:
            os.close(fd)
            self.cleaned += 1


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def flights(metrics: Metrics) -> AsyncIterator[Flights]:
    async with open_flights(metrics, random.Random(1)) as flights:
        yield flights


def count(metrics: Metrics, outcome: str) -> float:
    return metrics.registry.get_sample_value("leeward_flights_total", {"outcome": outcome}) or 0


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def body_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


async def read(follower: Follower, stop: int, start: int = 0, pause_s: float = 0, piece: int = MIB) -> bytes:
    parts, at = [], start
    try:
        while at < stop:
            upto = await follower.wait_beyond(at)
            part = os.pread(follower.fileno(), min(upto - at, stop - at, piece), at)
            parts.append(part)
            at += len(part)
            if pause_s:
                await trio.sleep(pause_s)
    finally:
        follower.close()
    return b"".join(parts)


async def test_five_hundred_readers_cost_one_fetch(flights: Flights, metrics: Metrics, autojump_clock: MockClock) -> None:
    upstream = Upstream(body_of(256 * KIB))
    got: list[bytes] = []

    async def client() -> None:
        flight, _ = flights.join("wheel", upstream, keep_without_followers=False)
        await flight.wait_head()
        got.append(await read(flight.follow(), 256 * KIB))

    async with trio.open_nursery() as nursery:
        for _ in range(500):
            nursery.start_soon(client)
    assert upstream.started == 1
    assert len(got) == 500
    assert set(got) == {upstream.body}
    assert count(metrics, "collapsed") == 499
    assert count(metrics, "landed") == 1


async def test_only_the_first_request_is_not_collapsed(flights: Flights, autojump_clock: MockClock) -> None:
    upstream = Upstream(b"x")
    assert [flights.join("page", upstream)[1] for _ in range(3)] == [False, True, True]
    assert flights.running("page") is not None
    assert flights.running("other") is None


async def test_keys_fly_apart(flights: Flights, autojump_clock: MockClock) -> None:
    first, second = Upstream(b"a"), Upstream(b"bb")
    a, _ = flights.join("a", first)
    b, _ = flights.join("b", second)
    assert [await a.wait_outcome(), await b.wait_outcome()] == ["1 bytes", "2 bytes"]


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
async def test_the_first_client_going_away_harms_nobody(share: float, flights: Flights, autojump_clock: MockClock) -> None:
    upstream = Upstream(body_of(100 * 64 * KIB))
    size = len(upstream.body)
    scope = trio.CancelScope()
    got = b""

    async def first() -> None:
        flight, _ = flights.join("wheel", upstream, keep_without_followers=False)
        with scope:
            await flight.wait_head()
            await read(flight.follow(), size)

    async def second() -> None:
        nonlocal got
        flight, collapsed = flights.join("wheel", upstream, keep_without_followers=False)
        assert collapsed
        await flight.wait_head()
        follower = flight.follow()
        await follower.wait_beyond(int(size * share) - 1)
        scope.cancel()
        got = await read(follower, size)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await wait_all_tasks_blocked()
        nursery.start_soon(second)
    assert scope.cancelled_caught
    assert got == upstream.body
    assert upstream.started == 1


async def test_a_client_that_joins_late_reads_from_the_beginning(flights: Flights, autojump_clock: MockClock) -> None:
    upstream = Upstream(body_of(20 * 64 * KIB))
    flight, _ = flights.join("wheel", upstream)
    await flight.wait_head()
    early = flight.follow()
    await early.wait_beyond(18 * 64 * KIB - 1)
    late, collapsed = flights.join("wheel", upstream)
    assert collapsed
    assert await read(late.follow(), len(upstream.body)) == upstream.body
    early.close()


async def test_a_range_waits_until_its_start_has_come(flights: Flights, autojump_clock: MockClock) -> None:
    upstream = Upstream(body_of(20 * 64 * KIB))
    flight, _ = flights.join("wheel", upstream)
    await flight.wait_head()
    start = 15 * 64 * KIB + 7
    assert await read(flight.follow(), start + 1000, start) == upstream.body[start : start + 1000]
    assert not flight.is_done


async def test_a_slow_reader_neither_slows_the_fetch_nor_loses_bytes(flights: Flights, autojump_clock: MockClock) -> None:
    upstream = Upstream(body_of(2 * MIB), pause_s=0.01)
    flight, _ = flights.join("wheel", upstream)
    await flight.wait_head()
    slow = flight.follow()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def read_slowly() -> None:
            assert await read(slow, 2 * MIB, pause_s=1, piece=8 * KIB) == upstream.body

        nursery.start_soon(read_slowly)
        await flight.wait_outcome()
        assert trio.current_time() - began < 1
    assert trio.current_time() - began > 200


async def test_a_reader_goes_on_after_the_flight_landed_and_its_spool_was_closed(
    flights: Flights, autojump_clock: MockClock
) -> None:
    upstream = Upstream(body_of(100))
    flight, _ = flights.join("wheel", upstream)
    await flight.wait_outcome()
    assert upstream.cleaned == 1
    assert await read(flight.follow(), 100) == upstream.body


async def test_no_descriptor_outlives_readers_and_flight(flights: Flights, autojump_clock: MockClock) -> None:
    before = descriptors()
    for error in (None, Corrupt("wrong bytes")):
        flight, _ = flights.join(f"wheel {error}", Upstream(b"abc", breaks_at=None if error is None else 1, error=error))
        await flight.wait_head()
        follower = flight.follow()
        with trio.move_on_after(10):
            with contextlib.suppress(Corrupt):
                await flight.wait_outcome()
        follower.close()
        follower.close()
        assert follower.fileno() == -1
        del flight, follower
    await trio.sleep(10)
    flights.memo("wheel wrong bytes")
    gc.collect()
    assert descriptors() <= before


async def test_nothing_is_read_beyond_what_may_be_released(flights: Flights, autojump_clock: MockClock) -> None:
    verified = trio.Event()

    async def job(flight: Flight[str]) -> str:
        fd = os.memfd_create("spool")
        flight.began(fd, 300)
        os.write(fd, b"x" * 300)
        flight.advance(300, 200)
        await verified.wait()
        flight.advance(300, 300)
        os.close(fd)
        return "verified"

    flight, _ = flights.join("wheel", job)
    await flight.wait_head()
    follower = flight.follow()
    assert await follower.wait_beyond(0) == 200 == follower.releasable
    with trio.move_on_after(60) as scope:
        await follower.wait_beyond(200)
    assert scope.cancelled_caught
    verified.set()
    assert await follower.wait_beyond(200) == 300
    follower.close()


async def test_readers_are_woken_in_batches_but_the_last_small_piece_does_not_wait(
    flights: Flights, autojump_clock: MockClock
) -> None:
    seen: list[tuple[float, int]] = []
    over = trio.Event()

    async def job(flight: Flight[str]) -> str:
        fd = os.memfd_create("spool")
        os.truncate(fd, MIB)
        flight.began(fd, MIB)
        await trio.sleep(1)
        for written in range(1000, 51_000, 1000):
            flight.advance(written, written)
            await trio.sleep(0.0001)
        await over.wait()
        os.close(fd)
        return "done"

    async def client(follower: Follower) -> None:
        at = 0
        while at < 50_000:
            at = await follower.wait_beyond(at)
            seen.append((round(trio.current_time() - began, 3), at))
        follower.close()

    began = trio.current_time()
    flight, _ = flights.join("wheel", job)
    await flight.wait_head()
    await client(flight.follow())
    assert seen == [(1.0, 1000), (1.01, 50_000)]
    over.set()


async def test_a_failure_at_some_byte_reaches_every_reader_once_and_is_shared_for_a_while(
    flights: Flights, metrics: Metrics, autojump_clock: MockClock
) -> None:
    upstream = Upstream(body_of(MIB), breaks_at=MIB // 2)
    failures: list[Unavailable] = []

    async def client() -> None:
        flight, _ = flights.join("wheel", upstream, keep_without_followers=False)
        await flight.wait_head()
        with pytest.raises(Unavailable) as caught:
            await read(flight.follow(), MIB)
        failures.append(caught.value)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(client)
    assert len(failures) == 20 == len({id(failure) for failure in failures})
    assert {(str(failure), failure.retry_after_s) for failure in failures} == {("the transfer broke", 3)}
    later, collapsed = flights.join("wheel", upstream)
    assert collapsed
    assert upstream.started == 1
    for ask in (later.wait_head, later.wait_outcome):
        with pytest.raises(Unavailable):
            await ask()
    with pytest.raises(Unavailable):
        later.follow()
    with pytest.raises(Unavailable):
        later.outcome_nowait()
    assert isinstance(flights.memo("wheel"), Unavailable)
    assert count(metrics, "unavailable") == 1
    assert count(metrics, "remembered") == 1


@pytest.mark.parametrize(
    ("error", "shortest_s", "longest_s"),
    [
        (Corrupt("not JSON"), 4, 5),
        (Unavailable("silent", 30), 1, 2),
        (Unavailable("busy", 1), 1, 1),
        (NotFound("no such file"), 4, 5),
        (Refused(Refuse("we do not like it", "rule")), 0, 0),
        (KeyError("a bug"), 1, 2),
    ],
)
async def test_a_memo_lasts_as_long_as_its_kind_says(
    error: Exception, shortest_s: float, longest_s: float, metrics: Metrics, autojump_clock: MockClock
) -> None:
    lasted = []
    for seed in range(10):
        async with open_flights(metrics, random.Random(seed)) as flights:
            flight, _ = flights.join("page", Upstream(b"x", breaks_at=1, error=error))
            with pytest.raises((Corrupt, Unavailable, NotFound, Refused)):
                await flight.wait_outcome()
            steps = 0
            while flights.memo("page") is not None:
                steps += 1
                autojump_clock.jump(0.01)
            lasted.append(steps / 100)
            assert flights.statistics()["remembered"] == 0
    assert shortest_s - 0.02 <= min(lasted) <= max(lasted) <= longest_s + 0.02
    assert shortest_s == longest_s or len(set(lasted)) > 1


async def test_after_the_memo_somebody_tries_again(flights: Flights, autojump_clock: MockClock) -> None:
    broken, mended = Upstream(b"x", breaks_at=1), Upstream(b"xyz")
    with pytest.raises(Unavailable):
        await flights.join("page", broken)[0].wait_outcome()
    await trio.sleep(2)
    assert await flights.join("page", mended)[0].wait_outcome() == "3 bytes"


async def test_a_memo_can_be_forgotten(flights: Flights, autojump_clock: MockClock) -> None:
    with pytest.raises(Unavailable):
        await flights.join("page", Upstream(b"x", breaks_at=1))[0].wait_outcome()
    flights.forget("page")
    assert await flights.join("page", Upstream(b"xyz"))[0].wait_outcome() == "3 bytes"


async def test_a_landed_flight_leaves_no_memo_and_the_next_request_asks_anew(flights: Flights, autojump_clock: MockClock) -> None:
    upstream = Upstream(b"x")
    await flights.join("page", upstream)[0].wait_outcome()
    flight, collapsed = flights.join("page", upstream)
    assert not collapsed
    assert await flight.wait_outcome() == "1 bytes"
    assert flight.outcome_nowait() == "1 bytes"
    assert upstream.started == 2


async def test_a_bug_in_a_job_harms_nobody_else(
    flights: Flights, metrics: Metrics, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    other, _ = flights.join("other", Upstream(b"abc", pause_s=5))
    with pytest.raises(Unavailable, match="failed unexpectedly"):
        await flights.join("page", Upstream(b"x", breaks_at=1, error=ZeroDivisionError("oops")))[0].wait_outcome()
    assert "oops" in caplog.text
    assert await other.wait_outcome() == "3 bytes"
    assert count(metrics, "crashed") == 1


async def test_our_own_error_out_of_a_jobs_nursery_stays_itself(flights: Flights, autojump_clock: MockClock) -> None:
    digest = Digest("md5", "0" * 32)

    async def job(flight: Flight[str]) -> str:
        async def part() -> None:
            raise Rebound("six", digest, digest)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(part)
        return "never"

    with pytest.raises(Rebound) as caught:
        await flights.join("wheel", job)[0].wait_outcome()
    assert caught.value.bound == digest
    assert caught.value.__context__ is None


async def test_a_page_flight_runs_to_its_end_without_followers(flights: Flights, autojump_clock: MockClock) -> None:
    upstream = Upstream(body_of(100), size=10**9, chunk=1, pause_s=1)
    flight, _ = flights.join("page", upstream)
    with trio.move_on_after(0.5):
        await flight.wait_outcome()
    await trio.sleep(99)
    assert not flight.is_done
    await trio.sleep(2)
    assert flight.outcome_nowait() == "100 bytes"


def huge(written: int, size: int, *, per_s: int) -> Callable[[Flight[str]], Awaitable[str]]:
    """A job with ``written`` of ``size`` bytes after a second, then ``per_s`` more each second. The bytes are only claimed."""

    async def job(flight: Flight[str]) -> str:
        fd = os.memfd_create("spool")
        try:
            flight.began(fd, size)
            await trio.sleep(1)
            at = written
            flight.advance(at, at)
            while at < size:
                await trio.sleep(1)
                at = min(size, at + per_s)
                flight.advance(at, at)
            return "landed"
        finally:
            os.close(fd)

    return job


@pytest.mark.parametrize(
    ("written", "size", "goes_on"),
    [
        (499 * MIB, 1000 * MIB, True),  # slow, but its own estimate says a second
        (1 * MIB, 1000 * MIB, False),
        (10 * MIB, 10 * MIB + 16 * MIB, True),
        (1 * MIB, 17 * MIB, True),
        (1 * MIB, 18 * MIB, False),
        (30 * MIB, 59 * MIB, True),
    ],
)
async def test_without_followers_a_file_goes_on_only_if_worth_it(
    written: int, size: int, goes_on: bool, flights: Flights, metrics: Metrics, autojump_clock: MockClock
) -> None:
    flight, _ = flights.join("wheel", huge(written, size, per_s=1000), keep_without_followers=False)
    await flight.wait_head()
    follower = flight.follow()
    await follower.wait_beyond(0)
    follower.close()
    await trio.sleep(GRACE_S + 0.5)
    assert flight.is_done is not goes_on
    assert count(metrics, "abandoned") == (0 if goes_on else 1)


async def test_without_followers_the_rate_decides_too(flights: Flights, autojump_clock: MockClock) -> None:
    quick, _ = flights.join("quick", huge(20 * MIB, 200 * MIB, per_s=20 * MIB), keep_without_followers=False)
    slow, _ = flights.join("slow", huge(20 * MIB, 500 * MIB, per_s=20 * MIB), keep_without_followers=False)
    for flight in (quick, slow):
        await flight.wait_head()
        follower = flight.follow()
        await follower.wait_beyond(0)
        assert flight.estimate_s() == (9 if flight is quick else 24)
        follower.close()
    assert await quick.wait_outcome() == "landed"
    assert slow.is_done
    with pytest.raises(Unavailable):
        slow.outcome_nowait()


async def test_somebody_who_joins_within_the_grace_saves_the_flight(flights: Flights, autojump_clock: MockClock) -> None:
    job = huge(MIB, 1000 * MIB, per_s=100 * MIB)
    flight, _ = flights.join("wheel", job, keep_without_followers=False)
    await flight.wait_head()
    flight.follow().close()
    await trio.sleep(GRACE_S - 0.1)
    again, collapsed = flights.join("wheel", job, keep_without_followers=False)
    assert collapsed
    assert again is flight
    assert await again.wait_outcome() == "landed"


async def test_an_abandoned_flight_cleans_up_leaves_no_memo_and_is_not_joined(
    flights: Flights, metrics: Metrics, autojump_clock: MockClock
) -> None:
    cleaned = trio.Event()

    async def dying(flight: Flight[str]) -> str:
        try:
            await trio.sleep(math.inf)
            return "never"
        finally:
            with trio.CancelScope(shield=True):  # cleaning takes five seconds: nobody may join meanwhile
                await trio.sleep(5)
            cleaned.set()

    first, _ = flights.join("wheel", dying, keep_without_followers=False)
    with trio.move_on_after(1):
        await first.wait_head()
    await trio.sleep(GRACE_S + 1)
    assert not first.is_done
    assert flights.running("wheel") is None
    second, collapsed = flights.join("wheel", Upstream(b"xyz", pause_s=10), keep_without_followers=False)
    assert not collapsed
    assert second is not first
    assert flights.running("wheel") is second
    assert await second.wait_outcome() == "3 bytes"
    assert cleaned.is_set()
    assert flights.memo("wheel") is None
    with pytest.raises(Unavailable):
        await first.wait_outcome()
    assert count(metrics, "abandoned") == 1


async def test_a_request_that_dies_before_following_does_not_leave_a_file_flight_behind(
    flights: Flights, autojump_clock: MockClock
) -> None:
    upstream = Upstream(body_of(100), size=10**9, chunk=1, pause_s=1)
    flight, _ = flights.join("wheel", upstream, keep_without_followers=False)
    await trio.sleep(GRACE_S + 0.1)
    assert flight.is_done
    assert upstream.cleaned == 1
    assert upstream.finished == 0


async def test_one_request_that_wants_the_file_kept_is_enough(flights: Flights, autojump_clock: MockClock) -> None:
    upstream = Upstream(body_of(50), size=10**9, chunk=1, pause_s=1)
    flight, _ = flights.join("wheel", upstream, keep_without_followers=False)
    flights.join("wheel", upstream, keep_without_followers=True)
    flights.join("wheel", upstream, keep_without_followers=False)
    await trio.sleep(60)
    assert flight.outcome_nowait() == "50 bytes"


async def test_waiting_is_following(flights: Flights, autojump_clock: MockClock) -> None:
    upstream = Upstream(body_of(50), size=10**9, chunk=1, pause_s=1)
    flight, _ = flights.join("wheel", upstream, keep_without_followers=False)
    assert await flight.wait_outcome() == "50 bytes"
    assert flight.followers == 0


async def test_a_wait_bounded_by_its_caller_leaves_the_flight_running(flights: Flights, autojump_clock: MockClock) -> None:
    flight, _ = flights.join("page", Upstream(b"x", pause_s=8))
    with trio.move_on_after(1) as scope:
        await flight.wait_outcome()
    assert scope.cancelled_caught
    assert not flight.is_done
    assert await flight.wait_outcome() == "1 bytes"


async def test_a_size_learnt_late_is_used(flights: Flights, autojump_clock: MockClock) -> None:
    async def job(flight: Flight[str]) -> str:
        fd = os.memfd_create("spool")
        flight.began(fd, None)
        assert flight.estimate_s() is None
        await trio.sleep(1)
        flight.advance(100, 0)
        assert flight.estimate_s() is None
        flight.resized(400)
        assert flight.estimate_s() == 3
        os.close(fd)
        return "done"

    assert await flights.join("page", job)[0].wait_outcome() == "done"


async def test_a_flight_that_lands_short_never_ends_a_body_cleanly(flights: Flights, autojump_clock: MockClock) -> None:
    flight, _ = flights.join("wheel", Upstream(b"abc", size=5))
    await flight.wait_head()
    with pytest.raises(Corrupt):
        await read(flight.follow(), 5)


@pytest.mark.parametrize("size", [0, None])
async def test_a_body_without_bytes_arrives(size: int | None, flights: Flights, autojump_clock: MockClock) -> None:
    async def job(flight: Flight[str]) -> str:
        fd = os.memfd_create("spool")
        flight.began(fd, size)
        await trio.sleep(1)
        os.close(fd)
        return "empty"

    flight, _ = flights.join("sidecar", job)
    await flight.wait_head()
    follower = flight.follow()
    began = trio.current_time()
    assert await follower.wait_beyond(0) == 0
    assert trio.current_time() - began == 1  # not before it was verified
    follower.close()


async def test_a_flight_can_be_stopped_with_a_reason_that_everybody_hears_at_once(
    flights: Flights, autojump_clock: MockClock
) -> None:
    job = Upstream(body_of(300 * KIB))
    flight, _ = flights.join("wheel", job)
    await flight.wait_head()
    follower = flight.follow()
    at = await follower.wait_beyond(0)
    flight.stop(Refused(Refuse("a worm", "r")))
    flight.stop(Unavailable("too late"))
    with pytest.raises(Refused, match="a worm"):
        await follower.wait_beyond(at - 1)
    with pytest.raises(Refused, match="a worm"):
        await flight.wait_outcome()
    again, joined = flights.join("wheel", job)
    assert (again is flight, joined, flights.memo("wheel")) == (False, False, None)
    follower.close()
    flight.stop(Unavailable("it is over"))
    await again.wait_outcome()


async def test_closing_down_cancels_what_is_in_the_air(metrics: Metrics, autojump_clock: MockClock) -> None:
    upstream = Upstream(b"x", pause_s=math.inf)
    async with open_flights(metrics) as flights:
        flight, _ = flights.join("page", upstream)
        await wait_all_tasks_blocked()
    assert upstream.cleaned == 1
    with pytest.raises(Unavailable):
        flight.outcome_nowait()
    assert metrics.registry.get_sample_value("leeward_flights_running") == 0


async def test_a_reader_costs_little_memory(flights: Flights, autojump_clock: MockClock) -> None:
    flight, _ = flights.join("wheel", Upstream(b"x", pause_s=100))
    await flight.wait_head()
    follower = flight.follow()
    assert sys.getsizeof(follower) < 100
    assert not hasattr(follower, "__dict__")
    follower.close()
    assert "followers=0" in repr(flight)


async def test_a_stopping_node_waits_for_what_has_arrived_whole_and_for_nothing_else(
    flights: Flights, autojump_clock: MockClock
) -> None:
    stored: list[str] = []

    async def storing(flight: Flight[str]) -> str:
        fd = os.memfd_create("spool")
        flight.began(fd, 3)
        os.pwrite(fd, b"abc", 0)
        flight.advance(3, 3)
        await trio.sleep(2)
        os.close(fd)
        stored.append(flight.key)
        return "stored"

    flights.join("whole", storing)
    flights.join("half", Upstream(body_of(1 * MIB), pause_s=100))
    await wait_all_tasks_blocked()
    began = trio.current_time()
    await flights.wait_landed()
    assert stored == ["whole"]
    assert trio.current_time() - began == pytest.approx(2)
