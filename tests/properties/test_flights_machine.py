"""Flights under any order of events: whoever joins, follows, waits and leaves, the same few things stay true."""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from origin.errors import Corrupt, Unavailable
from origin.flights import Flight, Flights, open_flights
from origin.metrics import Metrics

CHUNK = 16 * 1024


@dataclass
class Fetch:
    """One fetch as it happened: what it was to send, and how it ended."""

    body: bytes
    breaks_at: int | None
    began: float
    ended: str = ""
    ended_at: float = 0


@dataclass
class Plan:
    """What the next fetch of a key will be: so many chunks, so many milliseconds apart, broken after so many or not at all."""

    chunks: int
    pause_ms: int
    breaks_after: int | None
    big: bool


@dataclass
class Client:
    """One request: when it comes, whether it keeps the flight, and after how many bytes or seconds it leaves."""

    at_ms: int
    key: str
    keeps: bool
    start: int
    leaves_after: int | None
    patience_ms: int
    piece: int


@dataclass
class World:
    """What was seen."""

    plans: dict[str, list[Plan]]
    fetches: dict[str, list[Fetch]] = field(default_factory=dict)
    overlaps: int = 0

    def job(self, key: str) -> Callable[[Flight[bytes]], Awaitable[bytes]]:
        async def fetch(flight: Flight[bytes]) -> bytes:
            done = self.fetches.setdefault(key, [])
            self.overlaps += any(not each.ended for each in done)
            plan = self.plans[key][len(done) % len(self.plans[key])]
            body = random.Random(len(done)).randbytes(plan.chunks * CHUNK)
            this = Fetch(body, plan.breaks_after, trio.current_time())
            done.append(this)
            fd = os.memfd_create("spool")
            this.ended = ""
            try:
                await trio.sleep(plan.pause_ms / 1000)
                # A big one claims more than a file that is always worth finishing.
                flight.began(fd, len(body) if not plan.big else len(body) + 10**9)
                for number in range(plan.chunks):
                    if number == plan.breaks_after:
                        raise Unavailable("it broke")
                    os.pwrite(fd, body[number * CHUNK : (number + 1) * CHUNK], number * CHUNK)
                    flight.advance((number + 1) * CHUNK, (number + 1) * CHUNK)
                    await trio.sleep(plan.pause_ms / 1000)
                flight.resized(len(body))
                this.ended = "landed"
                return body
            except Unavailable:
                this.ended = "failed"
                raise
            finally:
                this.ended = this.ended or "abandoned"
                this.ended_at = trio.current_time()
                os.close(fd)

        return fetch


plans = st.builds(
    Plan,
    chunks=st.integers(1, 12),
    pause_ms=st.sampled_from([0, 1, 7, 30, 400]),
    breaks_after=st.none() | st.integers(0, 12),
    big=st.booleans(),
)
clients = st.builds(
    Client,
    at_ms=st.integers(0, 6000),
    key=st.sampled_from("ab"),
    keeps=st.booleans(),
    start=st.integers(0, 3 * CHUNK),
    leaves_after=st.none() | st.integers(0, 12 * CHUNK),
    patience_ms=st.sampled_from([0, 5, 300, 60_000]),
    piece=st.sampled_from([1000, CHUNK, 10**6]),
)


async def behave(client: Client, flights: Flights, world: World) -> None:
    """Be one client, and check what it sees."""
    await trio.sleep(client.at_ms / 1000)
    flight, _ = flights.join(client.key, world.job(client.key), keep_without_followers=client.keeps)
    with trio.move_on_after(client.patience_ms / 1000):
        try:
            await flight.wait_head()
            follower = flight.follow()
        except Unavailable:
            return
        # The job of this very flight is the last that began: a flight's bytes never mix with another's.
        body = world.fetches[client.key][-1].body
        at, got = client.start, b""
        try:
            while at < len(body) and (client.leaves_after is None or len(got) < client.leaves_after):
                upto = await follower.wait_beyond(at)
                assert at < upto <= flight.written
                part = os.pread(follower.fileno(), min(client.piece, upto - at), at)
                assert part == body[at : at + len(part)]
                assert part
                got += part
                at += len(part)
        except (Unavailable, Corrupt):
            assert flight.is_done
        finally:
            follower.close()


@given(
    st.dictionaries(st.sampled_from("ab"), st.lists(plans, min_size=1, max_size=3), min_size=2),
    st.lists(clients, max_size=12),
    st.integers(0, 100),
)
def test_whoever_comes_and_goes(by_key: dict[str, list[Plan]], requests: list[Client], seed: int) -> None:
    """One fetch of a key at a time, no wrong byte, no follower and no descriptor left, every fetch ended, nobody hangs."""
    world, metrics = World(by_key), Metrics()

    async def main() -> None:
        with trio.fail_after(600):
            async with open_flights(metrics, random.Random(seed)) as flights:
                async with trio.open_nursery() as nursery:
                    for client in requests:
                        nursery.start_soon(behave, client, flights, world)
                await trio.sleep(60)
                assert flights.statistics()["running"] == 0
                assert flights.statistics()["followers"] == 0

    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- only counted
    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208
    assert world.overlaps == 0
    for fetches in world.fetches.values():
        assert all(fetch.ended for fetch in fetches)
        for one, next_ in pairwise(fetches):
            if one.ended == "failed":
                assert next_.began - one.ended_at >= 1  # the memo
