"""How long clients wait when the sources of an edge fail, one after the other: the times of one registry bound all of them together."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import trio
from trio.testing import MockClock

from origin.api import wire
from origin.catalog.memory import MemoryCatalog
from origin.errors import Unavailable
from origin.metrics import Metrics
from origin.model import Page
from origin.registries.pypi import PyPI
from origin.sources.link import Link, connect_share_s
from origin.sources.registry import RegistrySource, Upstream
from origin.sources.remote import DIRECT_PATIENCE_S, PATIENCE_S, RemoteSource, introduce
from origin.sources.sibling import SIBLING_PATIENCE_S, SiblingSource
from tests.answering import Answering, Asked, Reply, answering
from tests.registry_bench import Names
from tests.scripted import FRESH_S, Upload, document, now
from tests.tiers import Tier, tier

type Fault = Literal["refusing", "swallowing", "silent"]

FAULTS: tuple[Fault, ...] = ("refusing", "swallowing", "silent")
HELD, COLD = Page("pypi", "six"), Page("pypi", "seven")
BODY = document("six", [Upload("six-1.0.tar.gz", b"x")])
SLACK_S = 0.0
SIBLINGS = tuple(f"sibling-{number}" for number in range(1, 6))


@pytest.fixture
def clock() -> MockClock:
    # What goes over the loopback must have come before the clock jumps.
    return MockClock(autojump_threshold=0.2)


class Swallowing(Names):
    """A name service that swallows questions about some names, as a black hole swallows packets: they cannot be connected."""

    def __init__(self) -> None:
        super().__init__({f"{name}.test": ["127.0.0.1"] for name in ("origin", "registry", *SIBLINGS)})
        self.swallowed: set[str] = set()

    async def getaddrinfo(self, host: bytes | None, *arguments: Any, **named: Any) -> list[tuple[Any, ...]]:
        if (host or b"").decode() in self.swallowed:
            await trio.sleep_forever()
        return await super().getaddrinfo(host, *arguments, **named)


class Silence(dict[str, Any]):
    """Answers for a server that never says anything."""

    def get(self, key: str, default: Any = None) -> Reply:
        return Reply(silent=True)


@dataclass
class Server:
    """One server, by name, and how to make it fail."""

    name: str
    at: Answering
    life: trio.CancelScope
    names: Swallowing

    @property
    def url(self) -> str:
        return f"http://{self.name}:{self.at.port}/"

    async def fail(self, fault: Fault) -> None:
        match fault:
            case "refusing":
                self.life.cancel()
                await trio.testing.wait_all_tasks_blocked(0.05)
            case "swallowing":
                # What goes to an old connection is swallowed too.
                self.names.swallowed.add(self.name)
                self.at.answers = Silence()
            case "silent":
                self.at.answers = Silence()


@dataclass
class Chain:
    """An edge with an origin, siblings, and the registry itself if ``direct``."""

    edge: Tier
    origin: Server
    siblings: Sequence[Server]
    registry: Server
    clock: MockClock

    async def wait(self, page: Page) -> float:
        """How long a client waits for a page that is not to be had."""
        started = trio.current_time()
        with pytest.raises(Unavailable) as caught:
            await self.edge.service.page(page)
        assert caught.value.retry_after_s >= 1
        return trio.current_time() - started

    async def held(self) -> float:
        """How long a client waits for the page that is held."""
        started = trio.current_time()
        view = await self.edge.service.page(HELD)
        assert (view.outcome, len(view.listing.entries)) == ("stale", 1)
        return trio.current_time() - started


def framed(_: Asked) -> Reply:
    facts = wire.PageFacts(media_type="application/json")
    fields = {"ETag": wire.page_etag(facts, BODY), wire.STAMP: wire.stamp_text(FRESH_S, 86400), "Content-Type": wire.PAGE_TYPE}
    return Reply(200, wire.frame_page(facts, BODY), fields)


@asynccontextmanager
async def server(name: str, names: Swallowing) -> AsyncIterator[Server]:
    life = trio.CancelScope()

    async def serve(task_status: trio.TaskStatus[Answering]) -> None:
        with life:
            async with answering() as at:
                task_status.started(at)
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        at: Answering = await nursery.start(serve)
        at.answers = {"/v1/ping": Reply(204), wire.page_path(HELD): framed}
        yield Server(name, at, life, names)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def chain(
    path: Path, clock: MockClock, *, direct: bool, fault: tuple[Fault, Fault] | None = None, many: int = 0
) -> AsyncIterator[Chain]:
    """An edge at work that holds one page, stale by now. With ``fault`` it was started again after its sources had begun to fail. It has so
    ``many`` siblings.
    """
    names = Swallowing()
    trio.socket.set_custom_hostname_resolver(names)
    catalog = MemoryCatalog()
    async with AsyncExitStack() as stack:
        origin, registry, *siblings = [
            await stack.enter_async_context(server(f"{each}.test", names)) for each in ("origin", "registry", *SIBLINGS[:many])
        ]
        pypi = PyPI("pypi", registry.url + "simple/")

        @asynccontextmanager
        async def edge() -> AsyncIterator[Tier]:
            metrics = Metrics()

            def link(at: Server) -> Link:
                return Link(
                    at.url,
                    None,
                    str,
                    clock=now,
                    metrics=metrics,
                    user_agent="leeward/1",
                    deployment_id="edge",
                    connect_s=connect_share_s(1 + many, direct=direct),
                )

            patience_s = DIRECT_PATIENCE_S if direct else PATIENCE_S
            sources: list[RemoteSource | RegistrySource] = [
                RemoteSource(link(origin), ["pypi"], clock=now, patience_s=patience_s, rng=random.Random(1)),
                *(
                    SiblingSource(link(each), ["pypi"], prove=str, clock=now, patience_s=SIBLING_PATIENCE_S, rng=random.Random(1))
                    for each in siblings
                ),
            ]
            introduce(sources)
            if direct:
                upstream = Upstream(registry=pypi).meagre()
                sources.append(
                    RegistrySource(
                        {"pypi": upstream},
                        clock=now,
                        metrics=metrics,
                        user_agent="leeward/1",
                        deployment_id="edge",
                        rng=random.Random(1),
                    )
                )
            async with trio.open_nursery() as nursery, tier(path, {"pypi": pypi}, sources, catalog) as made:
                for source in sources:
                    await nursery.start(source.run)
                yield made
                nursery.cancel_scope.cancel()

        async with edge() as made:
            await made.service.page(HELD)
            if fault is None:
                await trio.testing.wait_all_tasks_blocked(0.05)
                clock.jump(FRESH_S + 1)
                yield Chain(made, origin, siblings, registry, clock)
        if fault is not None:
            clock.jump(FRESH_S + 1)
            await origin.fail(fault[0])
            await registry.fail(fault[1])
            async with edge() as made:
                yield Chain(made, origin, siblings, registry, clock)


COMBINATIONS = [
    *((origin, "refusing", False) for origin in FAULTS),
    *((origin, registry, True) for origin, registry in itertools.product(FAULTS, FAULTS)),
]


@pytest.mark.parametrize(("origin", "registry", "direct"), COMBINATIONS)
async def test_an_edge_that_starts_in_an_outage_serves_what_it_holds_at_once_and_knows_soon_about_the_rest(
    origin: Fault, registry: Fault, direct: bool, tmp_path: Path, clock: MockClock
) -> None:
    async with chain(tmp_path, clock, direct=direct, fault=(origin, registry)) as c:
        assert await c.held() == 0
        silent = origin == "silent" or (direct and registry == "silent")
        assert await c.wait(COLD) <= (10 if silent else 2) + SLACK_S
        assert await c.held() == 0
        clock.jump(3)
        assert await c.wait(Page("pypi", "eight")) <= 2 + SLACK_S


@pytest.mark.parametrize(("origin", "registry", "direct"), COMBINATIONS)
async def test_an_outage_that_begins_costs_no_client_more_than_one_registry_would(
    origin: Fault, registry: Fault, direct: bool, tmp_path: Path, clock: MockClock
) -> None:
    async with chain(tmp_path, clock, direct=direct) as c:
        await c.origin.fail(origin)
        await c.registry.fail(registry)
        # An old connection that is swallowed looks like a server that is silent.
        unreachable = origin == "refusing" and (not direct or registry == "refusing")
        assert await c.wait(COLD) <= (2 if unreachable else 10) + SLACK_S
        assert await c.held() <= 1 + SLACK_S
        for number in range(3):
            clock.jump(2)
            await c.wait(Page("pypi", f"more-{number}"))
        assert await c.held() == 0
        assert await c.wait(Page("pypi", "last")) <= 2 + SLACK_S


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("origin", ["refusing", "silent"])
async def test_siblings_that_hang_all_at_once_cost_no_client_more_than_one_does(
    origin: Fault, direct: bool, tmp_path: Path, clock: MockClock
) -> None:
    async with chain(tmp_path, clock, direct=direct, many=5) as c:
        await c.origin.fail(origin)
        for each in (*c.siblings, c.registry):
            await each.fail("silent")
        assert await c.wait(COLD) <= (10 if direct else 2) + SLACK_S
        assert await c.held() <= 1 + SLACK_S


async def test_siblings_are_left_alone_while_the_origin_answers(tmp_path: Path, clock: MockClock) -> None:
    async with chain(tmp_path, clock, direct=False, many=2) as c:
        for _ in range(3):
            clock.jump(FRESH_S + 1)
            await c.edge.service.page(HELD)
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert c.origin.at.paths().count(wire.page_path(HELD)) == 4
        assert [each.at.paths() for each in c.siblings] == [[f"{wire.ROOT}ping"]] * 2, "at the start"


async def test_a_sibling_that_is_there_is_asked_after_others_that_hang(tmp_path: Path, clock: MockClock) -> None:
    async with chain(tmp_path, clock, direct=False, many=3) as c:
        *silent, last = c.siblings
        last.at.answers[wire.page_path(COLD)] = Reply(404)
        for each in (c.origin, *silent):
            await each.fail("silent")
        assert await c.wait(COLD) <= 2 + SLACK_S
        assert [path for path in last.at.paths() if path != f"{wire.ROOT}ping"] == [wire.page_path(COLD)]


@pytest.mark.parametrize("direct", [False, True])
async def test_an_origin_that_waits_for_a_silent_registry_is_given_the_time_that_one_has(
    direct: bool, tmp_path: Path, clock: MockClock
) -> None:
    async with chain(tmp_path, clock, direct=direct) as c:
        told = Reply(503, b'{"detail": "the registry does not answer"}', {"Retry-After": "5"})

        def tardy(_: Asked) -> Reply:
            return told

        c.origin.at.answers[wire.page_path(COLD)] = tardy
        c.origin.at.delays[wire.page_path(COLD)] = 10.0
        await c.registry.fail("silent")
        assert await c.wait(COLD) <= 10 + SLACK_S


async def test_an_edge_without_its_origin_takes_from_the_registry_what_it_holds_not(tmp_path: Path, clock: MockClock) -> None:
    async with chain(tmp_path, clock, direct=True) as c:
        c.registry.at.answers["/simple/seven/"] = Reply(
            200, document("seven", []), {"Content-Type": "application/vnd.pypi.simple.v1+json"}
        )
        await c.origin.fail("silent")
        started = trio.current_time()
        assert (await c.edge.service.page(COLD)).outcome == "miss"
        assert trio.current_time() - started <= 2 + SLACK_S
