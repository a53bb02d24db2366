"""What upstream is known to lack: remembered, doubted when something changes, and believed in an outage."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from origin.catalog.sqlite import SqliteCatalog
from origin.errors import NotFound, Unavailable
from origin.model import Page, Stamp
from origin.pages import ABSENT_S
from tests.origin.test_evidence import (
    DIRECTORY,
    JAR,
    METADATA,
    PAGE,
    ROOT,
    SMALL,
    deliver,
    fetch,
    maven,
    metadata,
    put,
    repository,
    times,
)
from tests.scripted import Sent, Stall, stall

SOURCES = DIRECTORY + "lib-1.0-sources.jar"
GONE = "org/example/gone/1.0/gone-1.0.pom"


@pytest.fixture
def clock() -> MockClock:
    # Worker threads count as blocked tasks: the threshold keeps the clock from jumping while one works.
    return MockClock(autojump_threshold=0.5)


async def probe(s: Stall, path: str, times_: int = 1) -> None:
    """Ask for what is not there."""
    for _ in range(times_):
        with pytest.raises(NotFound):
            await deliver(s, path)


async def test_many_probes_for_what_is_not_there_cause_one_request(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:

        async def ask() -> None:
            await probe(s, SOURCES)

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ask)
        await trio.sleep(ABSENT_S - 1)
        await probe(s, SOURCES, 50)
        assert times(s, SOURCES) == 1


@pytest.mark.parametrize("path", [SOURCES, JAR + ".sha512"])
async def test_an_absence_is_asked_about_again_after_its_time(tmp_path: Path, clock: MockClock, path: str) -> None:
    async with repository(tmp_path) as s:
        await probe(s, path, 2)
        await trio.sleep(ABSENT_S + 1)
        await probe(s, path, 2)
        assert times(s, path) == 2
        await trio.sleep(ABSENT_S + 1)
        put(s, path, (b"a" * 128) if path.endswith(".sha512") else SMALL)
        assert await fetch(s, path)


@pytest.mark.parametrize("path", [SOURCES, JAR + ".sha512"])
async def test_in_an_outage_a_known_absence_stays_one_and_nothing_else_becomes_one(
    tmp_path: Path, clock: MockClock, path: str
) -> None:
    async with repository(tmp_path) as s:
        await probe(s, path)
        await trio.sleep(ABSENT_S + 1)
        s.web.down = {"maven"}
        for doubted in (set[str](), {"maven"}):
            s.web.doubted = doubted
            await probe(s, path, 3)
            with pytest.raises(Unavailable):
                await deliver(s, GONE)
            with pytest.raises(Unavailable):
                await deliver(s, GONE + ".sha1")
        assert await s.events() == []


async def test_an_absence_outlives_a_restart(tmp_path: Path, clock: MockClock) -> None:
    catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
    async with stall(tmp_path, [maven()], None, catalog) as s:
        await probe(s, SOURCES)
        await probe(s, JAR + ".sha512")
        web = s.web
    await catalog.close()
    catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
    async with stall(tmp_path, [maven()], web, catalog) as s:
        asked = len(web.asked)
        await probe(s, SOURCES)
        await probe(s, JAR + ".sha512")
        assert len(web.asked) == asked
        await trio.sleep(ABSENT_S + 1)
        web.down = {"maven"}
        await probe(s, SOURCES)
        await probe(s, JAR + ".sha512")
    await catalog.close()


async def test_what_was_missing_is_looked_for_again_when_the_metadata_changes(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:
        put(s, METADATA, metadata("1.0"))
        await s.service.page(PAGE)
        await probe(s, SOURCES)
        await probe(s, GONE)
        clock.jump(601)
        await s.service.page(PAGE)
        await probe(s, SOURCES)
        before = times(s, SOURCES)
        put(s, METADATA, metadata("1.0", "1.1"))
        put(s, SOURCES, SMALL)
        await s.service._pages.refresh(PAGE)
        assert await fetch(s, SOURCES) == SMALL
        assert times(s, SOURCES) == before + 1


async def test_what_was_missing_is_looked_for_again_when_metadata_is_read_for_the_first_time(
    tmp_path: Path, clock: MockClock
) -> None:
    async with repository(tmp_path) as s:
        await probe(s, SOURCES)
        put(s, METADATA, metadata("1.0"))
        put(s, SOURCES, SMALL)
        await s.service.page(PAGE)
        assert await fetch(s, SOURCES) == SMALL


async def test_a_page_does_not_wait_for_each_thing_that_was_missing(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:
        put(s, METADATA, metadata("1.0"))
        await s.service.page(PAGE)
        missing = [f"org/example/lib/1.{n}/lib-1.{n}.module" for n in range(20)]
        for path in missing:
            await probe(s, path)
        renewed: list[Page] = []
        renew = s.catalog.renew

        async def counting(page: Page, stamp: Stamp, received_at: float) -> None:
            renewed.append(page)
            await renew(page, stamp, received_at)

        s.catalog.renew = counting  # type: ignore[method-assign]
        put(s, METADATA, metadata("1.0", "1.1"))
        await s.service._pages.refresh(PAGE)
        assert renewed == []
        for path in missing:
            await probe(s, path)
            assert times(s, path) == 2


async def test_what_was_missing_is_not_looked_for_again_when_nothing_changed(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:
        put(s, METADATA, metadata("1.0"))
        await s.service.page(PAGE)
        await probe(s, SOURCES)
        await s.service._pages.refresh(PAGE)
        await probe(s, SOURCES)
        assert times(s, SOURCES) == 1


async def test_a_refresh_doubts_absences_but_an_outage_after_it_does_not_undo_them(tmp_path: Path, clock: MockClock) -> None:
    async def progress(_: dict[str, object]) -> None:
        return None

    async with repository(tmp_path) as s:
        put(s, METADATA, metadata("1.0"))
        await probe(s, SOURCES)
        await probe(s, JAR + ".sha512")
        await probe(s, GONE)
        found = await s.service.commands()["refresh"]({"purl": "pkg:maven/org.example/lib"}, progress)
        assert found == {"purl": "pkg:maven/org.example/lib", "pages": [{"page": PAGE.key, "outcome": "200"}]}
        await probe(s, SOURCES)
        await probe(s, JAR + ".sha512")
        await probe(s, GONE)
        assert (times(s, SOURCES), times(s, JAR + ".sha512"), times(s, GONE)) == (2, 2, 1)
        await s.service.commands()["refresh"]({"purl": "pkg:maven/org.example/lib"}, progress)
        s.web.down = {"maven"}
        await probe(s, SOURCES)
        s.web.down = set()
        put(s, SOURCES, SMALL)
        await trio.sleep(10)
        assert await fetch(s, SOURCES) == SMALL


async def test_absences_are_neither_pages_nor_projects_that_are_held(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:
        await probe(s, GONE)
        assert list(await s.service.projects("maven")) == []
        why = await s.service.why("pkg:maven/org.example/gone@1.0")
        assert (why["held"], why["page"]) == (False, None)


async def test_what_came_is_no_longer_absent_in_an_outage(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:
        await probe(s, JAR)
        await trio.sleep(ABSENT_S + 1)
        put(s, JAR, SMALL)
        assert await fetch(s, JAR) == SMALL
        (holding,) = await s.catalog.holdings()
        await s.blobs.delete(holding[0])
        s.web.down = {"maven"}
        for doubted in (set[str](), {"maven"}):
            s.web.doubted = doubted
            with pytest.raises(Unavailable):
                await deliver(s, JAR)
            await trio.sleep(10)


async def test_what_upstream_has_is_not_absent_because_its_checksum_cannot_be_read(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:
        await probe(s, JAR)
        await trio.sleep(ABSENT_S + 1)
        put(s, JAR, SMALL)
        s.web.sent[f"{ROOT}{JAR}.sha1"] = Sent(status=503)
        with pytest.raises(Unavailable):
            await deliver(s, JAR)


async def test_a_checksum_that_was_passed_on_is_no_longer_absent_in_an_outage(tmp_path: Path, clock: MockClock) -> None:
    sidecar = JAR + ".sha512"
    async with repository(tmp_path) as s:
        await probe(s, sidecar)
        await trio.sleep(ABSENT_S + 1)
        put(s, sidecar, b"a" * 128, checksum=b"")
        assert await fetch(s, sidecar)
        s.web.down = {"maven"}
        with pytest.raises(Unavailable):
            await deliver(s, sidecar)


async def test_a_file_that_was_bound_is_served_whatever_upstream_lacks_now(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:
        put(s, SOURCES, SMALL, checksum=b"")
        # Not what its name says, but nothing here looks into it: its digest is proven.
        put(s, JAR, SMALL)
        assert await fetch(s, JAR) == SMALL
        s.web.sent.clear()
        assert await fetch(s, JAR) == SMALL
        (holding,) = await s.catalog.holdings()
        await s.blobs.delete(holding[0])
        with pytest.raises(NotFound):
            await deliver(s, JAR)
        assert Page("maven", "org.example/lib", "absent/" + JAR) in await s.catalog.views("maven", "org.example/lib")
