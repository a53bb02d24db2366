"""The edges of an origin: let in once, known by their secret, heard of, waited for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from origin.api.wire import Acknowledgement
from origin.catalog import Member
from origin.catalog.memory import MemoryCatalog
from origin.catalog.sqlite import SqliteCatalog
from origin.fleet import WRITTEN_S, Fleet
from origin.metrics import Metrics
from tests.scripted import now

LEASE_S = 60.0


async def opened(catalog: MemoryCatalog | None = None, head: int = 0) -> Fleet:
    fleet = Fleet(catalog or MemoryCatalog(), now, Metrics(), LEASE_S, lambda: head)
    await fleet.open()
    return fleet


async def enrolled(fleet: Fleet, name: str) -> str:
    """An edge let in; what it authenticates with."""
    found = await fleet.enrol(await fleet.invite(name, 3600))
    assert found is not None and found[0] == name
    return found[1]


def applied(verdicts: int) -> Acknowledgement:
    return Acknowledgement(cursor="e.1", verdicts=verdicts, release="1.0")


async def silent(_: int, __: int) -> None:
    """Progress that nobody reads."""


async def test_an_invitation_lets_one_edge_in_once(autojump_clock: trio.testing.MockClock) -> None:
    fleet = await opened()
    secret = await fleet.invite("berlin", 3600)
    found = await fleet.enrol(secret)
    assert found is not None
    assert fleet.edge(f"Bearer {found[1]}") == "berlin"
    assert await fleet.enrol(secret) is None
    assert fleet.edge(f"Bearer {secret.hex()}") is None


async def test_an_invitation_ends(autojump_clock: trio.testing.MockClock) -> None:
    fleet = await opened()
    secret = await fleet.invite("berlin", 3600)
    await trio.sleep(3601)
    assert await fleet.enrol(secret) is None


@pytest.mark.parametrize("name", ["", "Berlin", "a b", "../x", "x" * 64])
async def test_an_edge_has_a_plain_name(name: str) -> None:
    fleet = await opened()
    with pytest.raises(ValueError, match="an edge's name has lower-case letters"):
        await fleet.invite(name, 3600)


async def test_an_edge_that_enrols_again_is_known_by_its_new_secret_alone(autojump_clock: trio.testing.MockClock) -> None:
    fleet = await opened()
    before = await enrolled(fleet, "berlin")
    fleet.heard("berlin")
    fleet.acknowledge("berlin", applied(7), 9)
    await trio.sleep(1)
    after = await enrolled(fleet, "berlin")
    assert fleet.edge(f"Bearer {before}") is None
    assert fleet.edge(f"Bearer {after}") == "berlin"
    # It may have begun with an empty directory: nothing that it said before holds.
    assert [(each.serial, each.verdicts, each.live) for each in fleet.states()] == [(0, 0, False)]


async def test_an_edge_that_is_dismissed_is_let_in_no_more(autojump_clock: trio.testing.MockClock) -> None:
    fleet = await opened()
    secret = await enrolled(fleet, "berlin")
    invited = await fleet.invite("berlin", 3600)
    assert await fleet.dismiss("berlin")
    assert not await fleet.dismiss("berlin")
    assert fleet.edge(f"Bearer {secret}") is None
    assert await fleet.enrol(invited) is None
    fleet.heard("berlin")
    assert fleet.states() == ()


async def test_who_is_dismissed_while_others_enrol_is_let_in_no_more(autojump_clock: trio.testing.MockClock) -> None:
    catalog = MemoryCatalog()
    fleet = await opened(catalog)
    secret = await enrolled(fleet, "berlin")
    read = catalog.edges

    async def slow() -> Sequence[Member]:
        """The first to ask hears of it last."""
        catalog.edges = read  # type: ignore[method-assign]
        found = await read()
        await trio.sleep(1)
        return found

    async with trio.open_nursery() as nursery:
        catalog.edges = slow  # type: ignore[method-assign]
        nursery.start_soon(enrolled, fleet, "tokyo")
        await wait_all_tasks_blocked()
        await fleet.dismiss("berlin")
    assert fleet.edge(f"Bearer {secret}") is None
    assert [state.name for state in fleet.states()] == ["tokyo"]


async def test_what_an_edge_had_in_force_is_not_written_down_of_who_enrols_in_its_place(
    autojump_clock: trio.testing.MockClock,
) -> None:
    catalog = MemoryCatalog()
    fleet = await opened(catalog)
    await enrolled(fleet, "berlin")
    write = catalog.seen

    async def slow(edges: Iterable[Member]) -> None:
        await trio.sleep(1)
        await write(edges)

    catalog.seen = slow  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.run)
        fleet.acknowledge("berlin", applied(7), 9)
        await trio.sleep(WRITTEN_S + 0.5)
        await enrolled(fleet, "berlin")
        await trio.sleep(2)
        assert [(each.serial, each.verdicts) for each in await catalog.edges()] == [(0, 0)]
        assert [(each.serial, each.verdicts) for each in fleet.states()] == [(0, 0)]
        nursery.cancel_scope.cancel()


async def test_how_edges_stand_outlives_a_restart(autojump_clock: trio.testing.MockClock) -> None:
    catalog = MemoryCatalog()
    fleet = await opened(catalog)
    await enrolled(fleet, "berlin")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.run)
        fleet.heard("berlin", address="192.0.2.7", serial=3)
        fleet.acknowledge("berlin", applied(2), 4)
        await trio.sleep(5)
        fleet.heard("berlin", serial=5)
        nursery.cancel_scope.cancel()
    again = await opened(catalog, 9)
    (state,) = again.states()
    assert (state.name, state.serial, state.verdicts, state.behind, state.address, state.release) == (
        "berlin",
        5,
        2,
        4,
        "192.0.2.7",
        "1.0",
    )
    assert state.live
    await trio.sleep(LEASE_S + 1)
    assert not again.states()[0].live


async def test_no_number_that_an_edge_tells_keeps_the_others_from_being_written_down(tmp_path: Path) -> None:
    catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
    fleet = Fleet(catalog, time.time, Metrics(), LEASE_S)
    await fleet.open()
    for name in ("berlin", "tokyo"):
        await enrolled(fleet, name)
        fleet.heard(name)
    odd = Acknowledgement(cursor="e.1", verdicts=-(1 << 70), unresolved=1 << 70, held_bytes=1 << 70)
    fleet.acknowledge("berlin", odd, 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.run)
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert all(each.seen_at for each in await catalog.edges())
    await catalog.close()


async def test_a_revision_is_waited_for_until_all_live_edges_have_it(autojump_clock: trio.testing.MockClock) -> None:
    fleet = await opened()
    for name in ("berlin", "tokyo", "silent"):
        await enrolled(fleet, name)
    fleet.heard("silent")
    await trio.sleep(LEASE_S + 1)
    fleet.heard("berlin")
    fleet.heard("tokyo")
    fleet.acknowledge("tokyo", applied(3), 1)
    told: list[tuple[int, int]] = []

    async def progress(done: int, of: int) -> None:
        told.append((done, of))

    async def acknowledge() -> None:
        await trio.sleep(2)
        fleet.acknowledge("berlin", applied(2), 1)
        await trio.sleep(2)
        fleet.acknowledge("berlin", applied(3), 1)

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(acknowledge)
        assert await fleet.wait_acknowledged(3, 30, progress) == (["berlin", "tokyo"], [])
    assert trio.current_time() - began == pytest.approx(4)
    assert told == [(1, 2), (2, 2)]


async def test_who_does_not_acknowledge_in_time_is_named(autojump_clock: trio.testing.MockClock) -> None:
    fleet = await opened()
    for name in ("berlin", "leaving", "tokyo"):
        await enrolled(fleet, name)
        fleet.heard(name)
    fleet.acknowledge("tokyo", applied(3), 1)

    async def dismiss() -> None:
        await trio.sleep(1)
        await fleet.dismiss("leaving")

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dismiss)
        assert await fleet.wait_acknowledged(3, 30, silent) == (["tokyo"], ["berlin"])
    assert trio.current_time() - began == pytest.approx(30)


async def test_who_comes_or_comes_back_while_others_are_waited_for_is_waited_for_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fleet = await opened()
    for name in ("berlin", "tokyo", "silent"):
        await enrolled(fleet, name)
    fleet.heard("tokyo")
    await trio.sleep(LEASE_S + 1)
    fleet.heard("berlin")

    async def come() -> None:
        await trio.sleep(1)
        fleet.heard("tokyo")
        await enrolled(fleet, "lisbon")
        fleet.heard("lisbon")
        await trio.sleep(1)
        fleet.acknowledge("berlin", applied(3), 1)
        await trio.sleep(1)
        fleet.acknowledge("lisbon", applied(3), 1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come)
        assert await fleet.wait_acknowledged(3, 30, silent) == (["berlin", "lisbon"], ["tokyo"])


async def test_nobody_is_waited_for_who_was_dismissed(autojump_clock: trio.testing.MockClock) -> None:
    fleet = await opened()
    await enrolled(fleet, "leaving")
    fleet.heard("leaving")

    async def dismiss() -> None:
        await trio.sleep(1)
        await fleet.dismiss("leaving")

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dismiss)
        assert await fleet.wait_acknowledged(3, 30, silent) == ([], [])
    assert trio.current_time() - began == pytest.approx(1)


async def test_an_edge_is_live_though_the_calendar_was_set(autojump_clock: trio.testing.MockClock) -> None:
    ahead_s = 0.0
    fleet = Fleet(MemoryCatalog(), lambda: now() + ahead_s, Metrics(), LEASE_S)
    await fleet.open()
    await enrolled(fleet, "berlin")
    fleet.heard("berlin")
    ahead_s = 86400.0
    assert await fleet.wait_acknowledged(1, 30, silent) == ([], ["berlin"])
    await trio.sleep(LEASE_S)
    assert not fleet.states()[0].live


async def test_without_edges_nobody_is_waited_for() -> None:
    fleet = await opened()
    assert await fleet.wait_acknowledged(1, 30, silent) == ([], [])


async def test_the_metrics_tell_who_is_gone_and_who_is_behind(autojump_clock: trio.testing.MockClock) -> None:
    metrics = Metrics()
    fleet = Fleet(MemoryCatalog(), now, metrics, LEASE_S, lambda: 5)
    await fleet.open()
    for name in ("berlin", "tokyo"):
        await enrolled(fleet, name)
    fleet.heard("berlin", serial=3)
    fleet.revision = 1
    fleet.count()
    text = metrics.text().decode()
    for sample in (
        'leeward_fleet_edges{state="live"} 1.0',
        'leeward_fleet_edges{state="gone"} 1.0',
        "leeward_fleet_behind_lines_max 2.0",
        "leeward_fleet_unacknowledged_edges 1.0",
    ):
        assert sample in text
