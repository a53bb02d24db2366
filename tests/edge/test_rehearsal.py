"""A rehearsal: answered by whom it should be, watched, and over when it is over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio

from edge.mirror import Mirror
from edge.rehearsal import LASTS_S, LIMIT_REHEARSALS, PREFIX, Answered, Rehearsals
from origin.http import Request, Response
from origin.http.problems import problem
from origin.service import Service


class Face:
    """A mirror face that has ``/maven/a`` and nothing else."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[str] = []

    async def handle(self, request: Request) -> Response:
        self.asked.append(request.target)
        if request.target == "/maven/a":
            return Response(200, [], self.name.encode())
        return problem(503, "Not available now", "not here", retry_after_s=5)


class Node:
    """What is asked of a service: its twin."""

    def __init__(self) -> None:
        self.twins = 0

    def alone(self, flights: object, metrics: object) -> Node:
        self.twins += 1
        return Node()


@asynccontextmanager
async def running(node: Node, live: Face, twin: Face) -> AsyncIterator[Rehearsals]:
    made = Rehearsals(cast("Service", node), live.handle, cast("Callable[[Service], Mirror]", lambda _: twin))
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        yield made
        nursery.cancel_scope.cancel()


def ask(target: str) -> Request:
    return Request("GET", target, ())


async def test_what_is_asked_in_a_rehearsal_is_answered_there_and_written_down() -> None:
    live, twin = Face("live"), Face("twin")
    async with running(Node(), live, twin) as rehearsals:
        handle = rehearsals.before(live.handle)
        place = await rehearsals.begin(held=False)
        assert (await handle(ask(f"{place}/maven/a"))).body == b"live"
        assert (await handle(ask(f"{place}/maven/b"))).status == 503
        assert (await handle(ask("/maven/a"))).body == b"live"
        assert rehearsals.end(place) == {"/maven/a": Answered(200), "/maven/b": Answered(503, "not here")}
        assert live.asked == ["/maven/a", "/maven/b", "/maven/a"]
        assert twin.asked == []


async def test_an_outage_is_rehearsed_by_a_twin_and_nobody_is_told_to_try_again() -> None:
    node, live, twin = Node(), Face("live"), Face("twin")
    async with running(node, live, twin) as rehearsals:
        handle = rehearsals.before(live.handle)
        place = await rehearsals.begin(held=True)
        assert (await handle(ask(f"{place}/maven/a"))).body == b"twin"
        missing = await handle(ask(f"{place}/maven/b"))
        assert (missing.status, missing.header("retry-after")) == (500, None)
        assert node.twins == 1
        assert rehearsals.end(place)["/maven/b"] == Answered(503, "not here")
        assert live.asked == []


async def test_a_rehearsal_that_is_over_or_was_never_begun_is_no_place() -> None:
    live = Face("live")
    async with running(Node(), live, live) as rehearsals:
        handle = rehearsals.before(live.handle)
        place = await rehearsals.begin(held=False)
        rehearsals.end(place)
        for target in (f"{place}/maven/a", f"{PREFIX}guessed/maven/a", PREFIX):
            assert (await handle(ask(target))).status == 404
        with pytest.raises(ValueError, match="no such rehearsal"):
            rehearsals.end(place)
        assert live.asked == []


async def test_rehearsals_are_few_and_forgotten_ones_end(autojump_clock: trio.testing.MockClock) -> None:
    live = Face("live")
    async with running(Node(), live, live) as rehearsals:
        places = [await rehearsals.begin(held=False) for _ in range(LIMIT_REHEARSALS)]
        with pytest.raises(ValueError, match="go on already"):
            await rehearsals.begin(held=False)
        rehearsals.end(places[0])
        await rehearsals.begin(held=True)
        await trio.sleep(LASTS_S + 1)
        assert (await rehearsals.before(live.handle)(ask(f"{places[1]}/maven/a"))).status == 404
        await rehearsals.begin(held=False)
