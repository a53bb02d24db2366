"""Small files read whole: once for all who ask together, bounded, and never kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from origin.errors import Corrupt, Unavailable
from origin.flights import open_flights
from origin.metrics import Metrics
from origin.model import File
from origin.notes import LIMIT_BYTES, LIMIT_S, Notes
from origin.registries.maven import Maven
from origin.sources import Source
from tests.scripted import Sent, Web

ROOT = "https://maven.test/"
RULES = {"maven": Maven("maven", ROOT)}


def note(name: str) -> File:
    found = RULES["maven"].resource("GET", f"org/example/lib/1.0/lib-1.0.{name}")
    assert isinstance(found, File)
    return found


A, B, C = note("jar.sha1"), note("jar.asc"), note("module")


@asynccontextmanager
async def notes(*sources: Source) -> AsyncIterator[Notes]:
    async with open_flights(Metrics()) as flights:
        yield Notes(RULES, sources, flights)


def web(**sent: Sent) -> Web:
    files = {"a": A, "b": B, "c": C}
    return Web(RULES, {ROOT + files[name].path: answer for name, answer in sent.items()})


async def test_a_note_is_read_once_for_all_who_ask_together_and_anew_for_who_asks_later(autojump_clock: MockClock) -> None:
    upstream = web(a=Sent(b"a" * 200_000))
    gate = upstream.gates[ROOT + A.path] = trio.Event()
    got: list[bytes | None] = []
    async with notes(upstream) as n:

        async def read() -> None:
            got.append(await n.read(A))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(read)
            await wait_all_tasks_blocked()
            gate.set()
        assert got == [b"a" * 200_000] * 20
        assert len(upstream.asked) == 1
        await n.read(A)
        assert len(upstream.asked) == 2


async def test_who_leaves_takes_nothing_away_from_the_others(autojump_clock: MockClock) -> None:
    upstream = web(a=Sent(b"a"))
    gate = upstream.gates[ROOT + A.path] = trio.Event()
    async with notes(upstream) as n:
        with trio.move_on_after(1) as left:
            await n.read(A)
        assert left.cancelled_caught
        gate.set()
        assert await n.read(A) == b"a"


async def test_what_there_is_comes_by_name_and_the_rest_is_left_out(autojump_clock: MockClock) -> None:
    async with notes(web(a=Sent(b"a"), c=Sent(b""))) as n:
        assert await n.read_all([A, B, C]) == {A.filename: b"a", C.filename: b""}
        assert await n.read_all([]) == {}
        assert await n.read(B) is None


async def test_several_are_read_at_the_same_time(autojump_clock: MockClock) -> None:
    upstream = web(a=Sent(b"a"), b=Sent(b"b"))
    gate = upstream.gates[ROOT + A.path] = upstream.gates[ROOT + B.path] = trio.Event()
    async with notes(upstream) as n, trio.open_nursery() as nursery:
        nursery.start_soon(n.read_all, [A, B])
        await wait_all_tasks_blocked()
        assert len(upstream.asked) == 2
        gate.set()


async def test_one_that_cannot_be_had_spoils_them_all(autojump_clock: MockClock) -> None:
    async with notes(web(a=Sent(b"a"), b=Sent(status=503))) as n:
        with pytest.raises(Unavailable):
            await n.read_all([A, B])


async def test_a_note_without_end_is_wrong(autojump_clock: MockClock) -> None:
    async with notes(web(a=Sent(b"a" * LIMIT_BYTES), b=Sent(b"b" * (LIMIT_BYTES + 1)))) as n:
        assert await n.read(A) == b"a" * LIMIT_BYTES
        with pytest.raises(Corrupt):
            await n.read(B)


async def test_the_next_source_is_asked_when_one_does_not_answer_and_not_when_it_says_no(autojump_clock: MockClock) -> None:
    first, second = web(a=Sent(status=503)), web(a=Sent(b"a"), b=Sent(b"b"))
    async with notes(first, second) as n:
        assert await n.read(A) == b"a"
        assert await n.read(B) is None
    async with notes() as n:
        with pytest.raises(Unavailable):
            await n.read(A)


async def test_a_note_that_drips_is_given_up(autojump_clock: MockClock) -> None:
    upstream = web(a=Sent(b"a" * 40))
    upstream.body_gate = trio.Event()
    async with notes(upstream) as n:
        with pytest.raises(Unavailable, match="too slowly"):
            await n.read(A)
        assert trio.current_time() == LIMIT_S
