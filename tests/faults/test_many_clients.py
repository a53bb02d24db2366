"""One file, many clients: one fetch upstream, whoever comes, leaves, lags or joins, and whatever becomes of the upstream."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

import pytest
import trio

from tests.downloads import Download
from tests.fakes import FakePyPI
from tests.harness import Edge, wait_until
from tests.wheels import MB, Distribution, Shelf

SIZE = 50 * MB

TAIL = 1 * MB
"""More than the edge ever holds back of a wheel of this size."""


@pytest.fixture(autouse=True)
def well_behaved_again(well_behaved: None) -> None:
    """After each test."""


@pytest.fixture
def wheel(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str) -> Iterator[Distribution]:
    """A wheel of 50 MB whose page the edge knows and whose bytes it does not."""
    wheel = shelf.wheel(project, "1.0", size=SIZE)
    fake.publish(wheel)
    assert edge.page(project).status == 200
    yield wheel
    wheel.path.unlink()


def fetches(fake: FakePyPI, wheel: Distribution) -> int:
    return fake.count(kind="file", path=f"*/{wheel.filename}")


@pytest.mark.alone
async def test_a_hundred_clients_cost_one_fetch_and_none_waits_for_its_first_byte(
    fake: FakePyPI, edge: Edge, wheel: Distribution
) -> None:
    fake.misbehave(f"*/{wheel.filename}", bytes_per_s=25 * MB)
    downloads = [Download(edge.port, edge.file_path(wheel)) for _ in range(100)]
    with trio.fail_after(90):
        async with trio.open_nursery() as nursery:
            for download in downloads[:50]:
                nursery.start_soon(download.run)
            await downloads[0].wait_received(20 * MB)  # most of a second later
            for download in downloads[50:]:
                nursery.start_soon(download.run)
    assert all(download.complete for download in downloads)
    assert {download.sha256 for download in downloads} == {wheel.sha256}
    firsts = sorted(download.first_byte_s for download in downloads)
    print(
        f"first byte after: median {statistics.median(firsts):.3f} s, slowest {firsts[-1]:.3f} s; "
        f"all 100 done in {max(download.seconds for download in downloads):.1f} s"
    )
    assert firsts[-1] < 2
    assert fetches(fake, wheel) == 1


@pytest.mark.parametrize("percent", [1, 50, 99])
async def test_the_first_client_leaves_and_the_second_does_not_notice(
    fake: FakePyPI, edge: Edge, wheel: Distribution, percent: int
) -> None:
    at = wheel.size * percent // 100
    gate = fake.misbehave(f"*/{wheel.filename}", gate=at)
    first, second = Download(edge.port, edge.file_path(wheel)), Download(edge.port, edge.file_path(wheel))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as leaving:
                leaving.start_soon(lambda: first.run(leave_at=at // 2))
                await first.wait_received(1)
                nursery.start_soon(second.run)
                await trio.to_thread.run_sync(fake.wait_at_gate, gate)
            await second.wait_received(at // 2)
            await trio.to_thread.run_sync(fake.behave, gate)
    assert first.received == at // 2
    assert second.complete
    assert second.sha256 == wheel.sha256
    assert fetches(fake, wheel) == 1


@pytest.mark.parametrize("percent", [1, 50, 99])
async def test_the_only_client_leaves_and_the_next_gets_it_right(
    fake: FakePyPI, edge: Edge, wheel: Distribution, percent: int
) -> None:
    at = wheel.size * percent // 100
    gate = fake.misbehave(f"*/{wheel.filename}", gate=at)
    first, second = Download(edge.port, edge.file_path(wheel)), Download(edge.port, edge.file_path(wheel))
    with trio.fail_after(60):
        await first.run(leave_at=at // 2)
        await trio.to_thread.run_sync(fake.behave, gate)
        await second.run()
    assert second.complete
    assert second.sha256 == wheel.sha256
    assert fetches(fake, wheel) <= 2


@pytest.mark.alone
async def test_a_slow_reader_slows_nobody_else(fake: FakePyPI, edge: Edge, wheel: Distribution) -> None:
    slow = Download(edge.port, edge.file_path(wheel))
    quick = [Download(edge.port, edge.file_path(wheel)) for _ in range(5)]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: slow.run(bytes_per_s=8192))
            await slow.wait_received(1)
            async with trio.open_nursery() as others:
                for download in quick:
                    others.start_soon(download.run)
            assert 0 < slow.received < 1 * MB
            nursery.cancel_scope.cancel()
    assert {download.sha256 for download in quick} == {wheel.sha256}
    print(f"beside a reader of 8 KiB/s: {max(download.seconds for download in quick):.2f} s for 50 MB")
    assert max(download.seconds for download in quick) < 10
    assert fetches(fake, wheel) == 1


async def test_a_joiner_at_ninety_percent_gets_what_is_there_at_once(fake: FakePyPI, edge: Edge, wheel: Distribution) -> None:
    at = wheel.size * 9 // 10
    gate = fake.misbehave(f"*/{wheel.filename}", gate=at)
    first, joiner = Download(edge.port, edge.file_path(wheel)), Download(edge.port, edge.file_path(wheel))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.run)
            await trio.to_thread.run_sync(fake.wait_at_gate, gate)
            nursery.start_soon(joiner.run)
            await joiner.wait_received(at - TAIL)
            assert not joiner.complete
            await trio.to_thread.run_sync(fake.behave, gate)
    assert first.sha256 == joiner.sha256 == wheel.sha256
    print(f"joiner's first byte after {joiner.first_byte_s:.3f} s")
    assert joiner.first_byte_s < 2
    assert fetches(fake, wheel) == 1


async def test_a_range_of_what_arrived_is_answered_while_the_rest_arrives(
    fake: FakePyPI, edge: Edge, wheel: Distribution
) -> None:
    at = wheel.size // 2
    gate = fake.misbehave(f"*/{wheel.filename}", gate=at)
    first = Download(edge.port, edge.file_path(wheel))
    middle = Download(edge.port, edge.file_path(wheel), {"Range": f"bytes={at - 3 * MB}-{at - 2 * MB - 1}"})
    end = Download(edge.port, edge.file_path(wheel), {"Range": "bytes=-1000"})
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.run)
            await trio.to_thread.run_sync(fake.wait_at_gate, gate)
            await middle.run()
            assert (middle.status, middle.received, middle.complete) == (206, MB, True)
            nursery.start_soon(end.run)
            await trio.to_thread.run_sync(fake.behave, gate)
    assert first.sha256 == wheel.sha256
    assert (end.status, end.received) == (206, 1000)
    assert fetches(fake, wheel) == 1


@pytest.mark.parametrize("percent", [0, 1, 50, 99])
async def test_an_upstream_that_dies_once_is_resumed_and_nobody_notices(
    fake: FakePyPI, edge: Edge, wheel: Distribution, percent: int
) -> None:
    at = wheel.size * percent // 100
    fake.misbehave(f"*/{wheel.filename}", truncate=at, times=1)
    downloads = [Download(edge.port, edge.file_path(wheel)) for _ in range(10)]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for download in downloads:
                nursery.start_soon(download.run)
    assert {download.sha256 for download in downloads} == {wheel.sha256}
    seen = fake.seen(kind="file", path=f"*/{wheel.filename}")
    assert len(seen) == 2
    if percent:
        assert (seen[1].status, seen[1].header("if-range") is not None) == (206, True)
        # What arrived before the break may lie in buffers that died with the connection.
        resumed_at = int((seen[1].header("range") or "bytes=0-")[6:].partition("-")[0])
        assert math.isclose(resumed_at, at, abs_tol=8 * MB)


@pytest.mark.parametrize("percent", [1, 50, 99])
async def test_an_upstream_that_keeps_dying_fails_everyone_alike_and_is_not_hammered(
    fake: FakePyPI, edge: Edge, wheel: Distribution, percent: int
) -> None:
    at = wheel.size * percent // 100
    fake.misbehave(f"*/{wheel.filename}", truncate=at)
    downloads = [Download(edge.port, edge.file_path(wheel)) for _ in range(10)]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for download in downloads:
                nursery.start_soon(download.run)
    for download in downloads:
        assert download.status in {502, 503} or (download.status == 200 and not download.complete), download.head
        assert download.status != 200 or download.received <= at
    assert fetches(fake, wheel) <= 3, "the first try and two resumptions"
    assert not edge.holds(wheel)
    fake.behave()
    await trio.to_thread.run_sync(wait_until, lambda: edge.file(wheel).status == 200, 15)
    wait_until(lambda: edge.holds(wheel), 3)


async def test_many_cold_files_at_once_are_each_fetched_once(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str) -> None:
    wheels = [shelf.wheel(f"{project}-{n}", "1.0", size=200_000) for n in range(60)]
    fake.publish(*wheels)
    downloads = [Download(edge.port, edge.file_path(wheel)) for wheel in wheels for _ in range(3)]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for download in downloads:
                nursery.start_soon(download.run)
    assert [download.status for download in downloads] == [200] * len(downloads)
    assert [download.sha256 for download in downloads] == [wheel.sha256 for wheel in wheels for _ in range(3)]
    assert [fetches(fake, wheel) for wheel in wheels] == [1] * len(wheels)
    assert [fake.count(kind="page", path=f"/simple/{wheel.project}/") for wheel in wheels] == [1] * len(wheels)
