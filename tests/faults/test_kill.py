"""SIGKILL in the middle of two hundred first fetches: what is there afterwards is whole, what is not is fetched again."""

from __future__ import annotations

import hashlib

import pytest
import trio

from tests.downloads import Download
from tests.fakes import FakePyPI
from tests.harness import PIP, Workspace
from tests.stage import StartEdge
from tests.wheels import KB, Shelf

FETCHES = 200


# Alone: with the cores taken, two hundred connections are not made within the two seconds that a client of an upstream allows.
@pytest.mark.alone
@pytest.mark.parametrize("finished", [1, 60, 150])
async def test_killed_among_two_hundred_first_fetches(
    fake: FakePyPI, start_edge: StartEdge, shelf: Shelf, workspace: Workspace, finished: int
) -> None:
    edge = start_edge()
    wheels = [shelf.wheel(f"killed-{n}", "1.0", size=200 * KB) for n in range(FETCHES)]
    fake.publish(*wheels)
    # Slow enough that many are under way whenever the kill comes.
    slow = fake.misbehave("*/killed_*", bytes_per_s=1000 * KB)
    downloads = [Download(edge.port, edge.file_path(wheel)) for wheel in wheels]
    done = 0
    enough = trio.Event()

    async def fetch(download: Download) -> None:
        nonlocal done
        await download.run()
        done += 1
        if done == finished:
            enough.set()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for download in downloads:
                nursery.start_soon(fetch, download)
            await enough.wait()
            edge.kill()
    await trio.to_thread.run_sync(fake.behave, slow)
    for wheel, download in zip(wheels, downloads, strict=True):
        assert not download.complete or download.status != 200 or download.sha256 == wheel.sha256

    await trio.to_thread.run_sync(edge.start)
    held = edge.blobs()
    print(f"killed after {finished} deliveries: {len(held)} blobs held, {edge.stray_files()} stray")
    for blob in held:
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    assert edge.stray_files() == []
    verified = await trio.to_thread.run_sync(edge.command, "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr

    again = [Download(edge.port, edge.file_path(wheel)) for wheel in wheels]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for download in again:
                nursery.start_soon(download.run)
    # As pip and uv do: two hundred connections at once may take longer to make than a client of an upstream waits for one.
    for _ in range(3):
        late = [number for number, download in enumerate(again) if download.status == 503]
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in late:
                    again[number] = Download(edge.port, edge.file_path(wheels[number]))
                    nursery.start_soon(again[number].run)
    assert [download.status for download in again] == [200] * FETCHES
    assert [download.sha256 for download in again] == [wheel.sha256 for wheel in wheels]
    result = await trio.to_thread.run_sync(PIP.install, workspace, edge.index_url, [wheel.pin for wheel in wheels[:10]])
    assert result.succeeded, result.output


def test_stopped_politely_a_long_download_still_ends(fake: FakePyPI, start_edge: StartEdge, shelf: Shelf, project: str) -> None:
    edge = start_edge()
    wheel = shelf.wheel(project, "1.0", size=2000 * KB)
    fake.publish(wheel)
    fake.misbehave(f"*/{wheel.filename}", bytes_per_s=1000 * KB)

    async def download() -> Download:
        one = Download(edge.port, edge.file_path(wheel))
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.run)
                await one.wait_received(1)
                assert await trio.to_thread.run_sync(edge.stop) == 0
        return one

    one = trio.run(download)
    fake.behave()
    assert one.complete
    assert one.sha256 == wheel.sha256
