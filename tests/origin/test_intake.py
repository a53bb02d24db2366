"""What edges send in: deliveries, which make files popular, and offers, which are synchronized here."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
import trio
import trio.testing

from origin.api.wire import EdgeAccess, HeldFile
from origin.catalog import Binding
from origin.catalog.memory import MemoryCatalog
from origin.errors import NotFound, Refused, Unavailable
from origin.holdings import held_file
from origin.intake import DEATH, Intake, Popularity
from origin.metrics import Metrics
from origin.model import Digest, File, Page, Refuse
from origin.registries import Registry
from origin.registries.maven import Maven
from origin.registries.npm import NPM
from tests.scripted import now

REGISTRIES: Mapping[str, Registry] = {"npm": NPM("npm", "http://npm.test/"), "maven": Maven("maven", "http://maven.test/")}


def binding(number: int, content: str = "") -> Binding:
    name = f"left-{number}.0.0.tgz"
    digest = Digest("sha256", hashlib.sha256((content or name).encode()).hexdigest())
    return Binding(File("npm", "left", f"{number}.0.0", name, f"left/-/{name}"), digest, 10, 0.0)


def access(number: int, file: File, complete: bool = True) -> EdgeAccess:
    return EdgeAccess(
        number=number, at=1.0, file=file.key, digest="ab" * 32, client="10.0.0.1", token="", sent=10, complete=complete
    )


@dataclass
class Stand:
    intake: Intake
    popularity: Popularity
    catalog: MemoryCatalog
    metrics: Metrics
    outcomes: dict[str, list[Exception]] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)

    async def keep(self, resource: Page | File) -> None:
        """Bring a file, unless it is said to fail."""
        self.kept.append(resource.key)
        if some := self.outcomes.get(resource.key):
            raise some.pop(0)
        assert isinstance(resource, File)
        await self.catalog.bind(binding(int(resource.version[0])))

    async def popular(self) -> list[str]:
        return [change.resource for change in await self.catalog.changes(0) if change.kind == "popular"]


@asynccontextmanager
async def stand(edges: int = 2, catalog: MemoryCatalog | None = None) -> AsyncIterator[Stand]:
    catalog = catalog or MemoryCatalog(keeps_ledger=True)
    metrics = Metrics()
    popularity = Popularity(catalog, REGISTRIES, now, edges, limit=2)

    async def keep(resource: Page | File) -> None:
        await made.keep(resource)

    made = Stand(Intake(catalog, REGISTRIES, keep, popularity, metrics, now), popularity, catalog, metrics)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(popularity.run)
        nursery.start_soon(made.intake.run)
        yield made
        nursery.cancel_scope.cancel()


# ---- deliveries


async def test_a_file_that_enough_edges_delivered_is_popular_once(autojump_clock: trio.testing.MockClock) -> None:
    async with stand() as s:
        one = binding(1)
        await s.catalog.bind(one)
        for number, edge in enumerate(("tokyo", "tokyo", "berlin", "lima", "berlin"), 1):
            assert await s.popular() == ([one.file.key] if number > 3 else [])
            await s.intake.accesses(edge, [access(number, one.file)])
            await trio.testing.wait_all_tasks_blocked()
        (line,) = [change for change in await s.catalog.changes(0) if change.kind == "popular"]
        assert (line.digest, line.size, line.path) == (one.digest, 10, one.file.path)
        assert (line.registry, line.project, line.version, line.filename) == ("npm", "left", "1.0.0", one.file.filename)
        assert (line.purl, line.at) == ("pkg:npm/left@1.0.0", now())


async def test_what_is_popular_is_remembered_over_a_restart_and_so_is_who_delivered_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stand() as s:
        for number in (1, 2):
            await s.catalog.bind(binding(number))
        await s.intake.accesses("tokyo", [access(1, binding(1).file), access(2, binding(2).file)])
        await s.intake.accesses("berlin", [access(1, binding(1).file)])
        await trio.testing.wait_all_tasks_blocked()
    async with stand(catalog=s.catalog) as again:
        await again.intake.accesses("lima", [access(1, binding(1).file), access(2, binding(2).file)])
        await trio.testing.wait_all_tasks_blocked()
        assert await again.popular() == [binding(1).file.key, binding(2).file.key]


async def test_a_file_that_was_not_delivered_whole_or_is_not_here_is_not_popular(autojump_clock: trio.testing.MockClock) -> None:
    async with stand(edges=1) as s:
        await s.catalog.bind(binding(1))
        await s.intake.accesses("tokyo", [access(1, binding(1).file, complete=False), access(2, binding(2).file)])
        await trio.testing.wait_all_tasks_blocked()
        assert await s.popular() == []
        await s.catalog.bind(binding(2))
        await s.intake.accesses("tokyo", [access(3, binding(2).file)])
        await trio.testing.wait_all_tasks_blocked()
        assert await s.popular() == [binding(2).file.key]


async def test_what_an_edge_sends_again_is_kept_once() -> None:
    async with stand() as s:
        for _ in range(2):
            await s.intake.accesses("tokyo", [access(1, binding(1).file), access(2, binding(2).file)])
        assert [(each.edge, each.number) for each in await s.catalog.accesses()] == [("tokyo", 2), ("tokyo", 1)]


# ---- offers


async def test_an_offered_file_is_brought_here_by_ourselves(autojump_clock: trio.testing.MockClock) -> None:
    async with stand() as s:
        await s.intake.offers("tokyo", [held_file(binding(1)), held_file(binding(2))])
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(s.kept) == [binding(1).file.key, binding(2).file.key]
        assert await s.catalog.unresolved() == (0, 0, None)
        await s.intake.offers("berlin", [held_file(binding(1))])
        await trio.sleep(60)
        assert len(s.kept) == 2


async def test_an_offered_jar_is_what_its_path_says(autojump_clock: trio.testing.MockClock) -> None:
    async with stand() as s:
        jar = REGISTRIES["maven"].resource("GET", "org/example/lib/1.0/lib-1.0.jar")
        assert isinstance(jar, File)
        await s.intake.offers("tokyo", [held_file(replace(binding(1), file=jar))])
        await trio.testing.wait_all_tasks_blocked()
        assert s.kept == [jar.key]


async def test_an_offer_that_fails_is_tried_again_rarer_and_rarer(autojump_clock: trio.testing.MockClock) -> None:
    async with stand() as s:
        key = binding(1).file.key
        s.outcomes[key] = [Unavailable("upstream is down") for _ in range(DEATH)]
        await s.intake.offers("tokyo", [held_file(binding(1))])
        await trio.sleep(3600)
        assert 8 <= len(s.kept) <= DEATH
        await trio.sleep(3600)
        assert len(s.kept) == DEATH + 1
        assert await s.catalog.binding(binding(1).file) is not None
        assert await s.catalog.unresolved() == (0, 0, None)


async def test_one_that_never_comes_keeps_no_other_waiting_for_long(autojump_clock: trio.testing.MockClock) -> None:
    async with stand() as s:
        keep = s.intake._keep

        async def dripping(resource: Page | File) -> None:
            if resource.key == binding(1).file.key:
                await trio.sleep_forever()
            await keep(resource)

        s.intake._keep = dripping
        await s.intake.offers("tokyo", [held_file(binding(1))])
        await trio.testing.wait_all_tasks_blocked()
        await s.intake.offers("tokyo", [held_file(binding(2))])
        await trio.sleep(600)
        assert s.kept == [binding(2).file.key]
        assert (await s.catalog.unresolved())[0] == 1


@pytest.mark.parametrize("error", [NotFound("taken down"), Refused(Refuse("evil", "no-evil"))])
async def test_an_offer_that_can_never_be_taken_is_forgotten(autojump_clock: trio.testing.MockClock, error: Exception) -> None:
    async with stand() as s:
        s.outcomes[binding(1).file.key] = [error]
        await s.intake.offers("tokyo", [held_file(binding(1))])
        await trio.sleep(60)
        assert len(s.kept) == 1
        assert await s.catalog.unresolved() == (0, 0, None)


async def test_an_offer_that_waits_outlives_a_restart(autojump_clock: trio.testing.MockClock) -> None:
    async with stand() as s:
        s.outcomes[binding(1).file.key] = [Unavailable("upstream is down")]
        await s.intake.offers("tokyo", [held_file(binding(1))])
        await trio.testing.wait_all_tasks_blocked()
    async with stand(catalog=s.catalog) as again:
        await trio.sleep(60)
        assert again.kept == [binding(1).file.key]


async def test_other_bytes_under_the_same_name_are_an_alarm(autojump_clock: trio.testing.MockClock) -> None:
    async with stand() as s:
        await s.catalog.bind(binding(1))
        await s.intake.offers("tokyo", [held_file(binding(1, "other")), held_file(binding(2, "other"))])
        await trio.sleep(60)
        assert s.kept == [binding(2).file.key]
        events = await s.catalog.events()
        assert {event.subject for event in events} == {binding(1).file.key, binding(2).file.key}
        assert {event.kind for event in events} == {"offer-differs"}
        assert all("tokyo has sha256-" in event.detail for event in events)


@pytest.mark.parametrize(
    "held",
    [
        HeldFile(
            registry="other", project="left", version="1", filename="left-1.tgz", path="left/-/left-1.tgz", digest="", size=1
        ),
        HeldFile(registry="npm", project="left", version="1", filename="left-1.tgz", path="../left-1.tgz", digest="", size=1),
        HeldFile(
            registry="npm", project="left", version="1", filename="right-1.tgz", path="left/-/left-1.tgz", digest="", size=1
        ),
        HeldFile(
            registry="npm", project="LEFT !", version="1", filename="left-1.tgz", path="left/-/left-1.tgz", digest="", size=1
        ),
        HeldFile(registry="npm", project="left", version="1", filename="left", path="left", digest="", size=1),
        # Another's bytes, to be bound as the library's.
        HeldFile(
            registry="maven",
            project="org.example/lib",
            version="1.0",
            filename="lib-1.0.jar",
            path="org/evil/lib/1.0/lib-1.0.jar",
            digest="",
            size=1,
        ),
        HeldFile(
            registry="maven",
            project="org.example/lib",
            version="2.0",
            filename="lib-1.0.jar",
            path="org/example/lib/1.0/lib-1.0.jar",
            digest="",
            size=1,
        ),
    ],
)
async def test_what_is_no_file_of_ours_is_passed_over(autojump_clock: trio.testing.MockClock, held: HeldFile) -> None:
    async with stand() as s:
        await s.intake.offers("tokyo", [held, held_file(binding(1))])
        await trio.sleep(60)
        assert s.kept == [binding(1).file.key]
        assert 'leeward_offers_total{outcome="malformed"} 1.0' in s.metrics.text().decode()
