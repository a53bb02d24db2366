"""The blob stores: the contract over each, then what is the disk's alone."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import trio
import trio.testing

from origin.blobs import disk
from origin.blobs.disk import STEP_BYTES, DiskBlobs, Room
from origin.blobs.memory import MemoryBlobs
from origin.datadir import sync_directory
from origin.errors import Unavailable, Unusable
from origin.metrics import Metrics
from origin.model import Digest
from tests.contracts.blobs import Arena, BlobContract, digest_of, put


class Clock:
    """Seconds that pass when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class TestDisk(BlobContract):
    @pytest.fixture
    def arena(self, tmp_path: Path) -> Arena:
        blobs = DiskBlobs(tmp_path / "blobs")

        def damage(digest: Digest) -> None:
            path = blob_path(blobs, digest)
            path.chmod(0o600)
            with path.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"\xff")

        def limited(limit_bytes: int) -> DiskBlobs:
            return DiskBlobs(tmp_path / "limited", limit_bytes=limit_bytes, memory_bytes=limit_bytes)

        return Arena(blobs, damage, limited)


class TestMemory(BlobContract):
    @pytest.fixture
    def arena(self) -> Iterator[Arena]:
        made = [MemoryBlobs()]

        def damage(digest: Digest) -> None:
            os.pwrite(made[0]._files[digest], b"\xff", 0)

        def limited(limit_bytes: int) -> MemoryBlobs:
            made.append(MemoryBlobs(limit_bytes))
            return made[-1]

        yield Arena(made[0], damage, limited)
        for each in made:
            each.close()


def blob_path(blobs: DiskBlobs, digest: Digest) -> Path:
    return blobs.root / "sha256" / digest.value[:2] / digest.value[2:4] / digest.value


def temporaries(blobs: DiskBlobs) -> list[str]:
    return names(blobs.root / "tmp")


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


@pytest.fixture
def blobs(tmp_path: Path) -> DiskBlobs:
    return DiskBlobs(tmp_path / "blobs")


async def test_a_blob_is_a_read_only_file_under_its_digest(blobs: DiskBlobs) -> None:
    digest = await put(blobs, b"plain", 4096)
    path = blob_path(blobs, digest)
    assert path.read_bytes() == b"plain"
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert temporaries(blobs) == []


async def test_a_discarded_spool_leaves_nothing_behind(blobs: DiskBlobs) -> None:
    spool = await blobs.spool()
    await spool.write(b"x" * 100)
    assert len(temporaries(blobs)) == 1
    await spool.discard()
    assert temporaries(blobs) == []
    assert set(blobs.statistics().values()) == {0}


async def test_a_spool_that_was_forgotten_says_so_and_leaves_nothing(blobs: DiskBlobs) -> None:
    spool = await blobs.spool(size=10)
    with pytest.warns(ResourceWarning, match="neither adopted nor discarded"):
        del spool
    assert temporaries(blobs) == []
    assert set(blobs.statistics().values()) == {0}


async def test_only_a_digest_names_a_file(blobs: DiskBlobs) -> None:
    for digest in (Digest("sha256", "../../etc/passwd"), Digest("sha1", "0" * 40), Digest("sha256", "../" * 21 + "x")):
        with pytest.raises(ValueError, match="no blob is named"):
            blobs.open_nowait(digest)


async def test_sweeping_removes_temporaries_and_moves_strangers_aside(tmp_path: Path) -> None:
    before = DiskBlobs(tmp_path)
    held = await put(before, b"held")
    (tmp_path / "tmp" / "123-0-abcd").write_bytes(b"left by a crash")
    home = blob_path(before, held).parent
    (home / "notes.txt").write_text("mine")
    (home / ("f" * 64)).write_text("a digest's name in the wrong directory")
    (tmp_path / "sha256" / "README").write_text("mine")
    (tmp_path / "sha256" / "00" / "README").write_text("mine too")

    blobs = DiskBlobs(tmp_path)
    assert await blobs.sweep() == 5
    assert await blobs.sweep() == 0
    assert temporaries(blobs) == []
    assert names(tmp_path / "lost+found") == ["README", "README.1", "f" * 64, "notes.txt"]
    assert [each async for each in blobs.digests()] == [held]
    assert blobs.statistics()["held_bytes"] == 4 and blobs.statistics()["held_blobs"] == 1


async def test_a_quarantined_blob_keeps_its_bytes_aside(blobs: DiskBlobs) -> None:
    digest = digest_of(b"rotten")
    for _ in range(2):
        await put(blobs, b"rotten")
        await blobs.quarantine(digest)
    assert names(blobs.root / "quarantine") == [digest.value, digest.value + ".1"]
    assert blobs.statistics()["held_bytes"] == 0


async def test_adopting_heals_a_rotten_blob_of_the_same_name(blobs: DiskBlobs) -> None:
    digest = await put(blobs, b"healthy")
    blob_path(blobs, digest).chmod(0o600)
    blob_path(blobs, digest).write_bytes(b"torn")
    await put(blobs, b"healthy")
    assert await blobs.verify(digest)
    assert await blobs.sweep() == 0
    assert blobs.statistics()["held_bytes"] == 7


async def test_the_ledger_counts_reserved_held_and_lingering_bytes(tmp_path: Path) -> None:
    metrics = Metrics()
    blobs = DiskBlobs(tmp_path, metrics=metrics)
    spool = await blobs.spool(size=5000)
    assert blobs.statistics()["reserved_bytes"] == 5000
    await spool.write(b"abc")
    await blobs.adopt(spool, digest_of(b"abc"))
    await spool.discard()
    assert blobs.statistics() == {
        "held_bytes": 3, "held_blobs": 1, "reserved_bytes": 0, "lingering_bytes": 0, "memory_bytes": 0,
    }  # fmt: skip
    first, second = blobs.open_nowait(digest_of(b"abc")), await blobs.open(digest_of(b"abc"))
    assert first is not None and second is not None
    await blobs.delete(digest_of(b"abc"))
    assert blobs.statistics()["held_bytes"] == 0
    assert blobs.statistics()["lingering_bytes"] == 3
    first.close()
    assert blobs.statistics()["lingering_bytes"] == 3
    second.close()
    second.close()
    assert blobs.statistics()["lingering_bytes"] == 0
    assert b'leeward_store_state{state="normal"} 1.0' in metrics.text()


async def test_beyond_the_limit_files_pass_through_memory(tmp_path: Path) -> None:
    blobs = DiskBlobs(tmp_path, limit_bytes=10_000, memory_bytes=50_000)
    await put(blobs, b"a" * 9_000, 9_000)
    data = b"b" * 20_000
    spool = await blobs.spool(size=len(data))
    assert not spool.durable
    assert blobs.statistics()["memory_bytes"] == 20_000
    await spool.write(data)
    assert os.pread(spool.fileno(), len(data), 0) == data
    with pytest.raises(Unavailable, match="not stored"):
        await blobs.adopt(spool, digest_of(data))
    assert os.pread(spool.fileno(), len(data), 0) == data
    with pytest.raises(Unavailable, match="memory"):
        await blobs.spool(size=40_000)
    unknown = await blobs.spool()
    await unknown.write(b"c" * 30_000)
    with pytest.raises(Unavailable, match="memory"):
        await unknown.write(b"d")
    await unknown.discard()
    await spool.discard()
    assert blobs.statistics()["memory_bytes"] == 0
    assert temporaries(blobs) == []


async def test_what_a_refused_spool_lacked_is_asked_of_eviction(tmp_path: Path) -> None:
    blobs = DiskBlobs(tmp_path, limit_bytes=100_000, memory_bytes=100_000)
    digests = [await put(blobs, bytes([number]) * 20_000, 20_000) for number in range(4)]
    assert (blobs.state(), blobs.pressure_bytes()) == ("normal", 0)
    spool = await blobs.spool(size=30_000)
    assert not spool.durable
    await spool.discard()
    assert (blobs.state(), blobs.pressure_bytes()) == ("pressure", 10_000)
    await blobs.delete(digests[0])
    assert (blobs.state(), blobs.pressure_bytes()) == ("normal", 0)
    spool = await blobs.spool(size=30_000)
    assert spool.durable
    await spool.discard()


async def test_eviction_is_never_asked_for_more_than_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, offset: int, count: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    blobs = DiskBlobs(tmp_path / "limited", limit_bytes=100_000, memory_bytes=1_000_000)
    await put(blobs, b"x" * 50_000, 50_000)
    spool = await blobs.spool(size=200_000)
    await spool.discard()
    assert (blobs.pressure_bytes(), blobs.pressure_bytes(200_000)) == (0, 0)
    assert blobs.pressure_bytes(60_000) == 20_000

    # Refused twice by a disk of unknown size: the second is not even tried, and nothing says how much it lacked.
    blobs = DiskBlobs(tmp_path / "unlimited")
    data = b"y" * (STEP_BYTES + 1_000_000)
    await put(blobs, data, len(data))
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", refuse)
        for _ in range(2):
            await (await blobs.spool(size=10)).discard()
    assert blobs.pressure_bytes() == STEP_BYTES


async def test_spools_that_begin_together_cannot_both_take_the_last_room(tmp_path: Path) -> None:
    blobs = DiskBlobs(tmp_path, limit_bytes=10_000)
    durable = []

    async def begin() -> None:
        spool = await blobs.spool(size=8_000)
        durable.append(spool.durable)
        await trio.testing.wait_all_tasks_blocked()
        await spool.discard()

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(begin)
    assert sorted(durable) == [False, False, True]
    assert set(blobs.statistics().values()) == {0}


async def test_the_state_follows_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A stand-in for statvfs: no disk fills on demand. tests/faults has a real small one.
    room = Room(free_bytes=10_000, total_bytes=100_000, free_inodes=5_000, inodes=100_000)
    monkeypatch.setattr(DiskBlobs, "_measure", lambda _: room)
    blobs = DiskBlobs(tmp_path, reserve_bytes=1_000)
    digest = await put(blobs, b"x" * 900, 900)
    assert (blobs.state(), blobs.pressure_bytes()) == ("normal", 0)

    room = Room(1_400, 100_000, 5_000, 100_000)
    await (await blobs.spool(size=1)).discard()
    assert (blobs.state(), blobs.pressure_bytes()) == ("pressure", 600)

    room = Room(900, 100_000, 5_000, 100_000)
    spool = await blobs.spool(size=1)
    assert not spool.durable
    await spool.discard()
    assert (blobs.state(), blobs.pressure_bytes()) == ("no-admit", 900)

    room = Room(10_000, 100_000, 999, 100_000)
    spool = await blobs.spool(size=1)
    assert not spool.durable
    await spool.discard()
    assert blobs.state() == "no-admit"

    room = Room(10_000, 100_000, 5_000, 100_000)
    await blobs.delete(digest)
    assert blobs.state() == "normal"


@pytest.mark.parametrize(("code", "state", "believed_s"), [(errno.ENOSPC, "no-admit", 5), (errno.EIO, "read-only", 30)])
async def test_a_disk_that_refuses_is_left_alone_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, state: str, believed_s: float
) -> None:
    clock = Clock()
    blobs = DiskBlobs(tmp_path, clock=clock)

    def refuse(fd: int, offset: int, count: int) -> None:
        raise OSError(code, os.strerror(code))

    # A stand-in for a disk that breaks on demand; tests/faults makes the kernel answer so.
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", refuse)
        spool = await blobs.spool(size=10)
    assert not spool.durable
    assert blobs.state() == state
    assert temporaries(blobs) == []
    await spool.discard()
    spool = await blobs.spool(size=10)
    assert not spool.durable
    await spool.discard()
    clock.now += believed_s
    assert blobs.state() == "normal"
    spool = await blobs.spool(size=10)
    assert spool.durable
    await spool.discard()


async def test_a_failed_sync_condemns_the_spool_which_stays_readable(blobs: DiskBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    spool = await blobs.spool(size=5)
    await spool.write(b"bytes")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(Unavailable, match="could not be stored"):
            await blobs.adopt(spool, digest_of(b"bytes"))
    assert temporaries(blobs) == []
    assert os.pread(spool.fileno(), 5, 0) == b"bytes"
    # The sync would succeed by now, falsely: it is not tried again.
    with pytest.raises(Unavailable, match="cannot be stored"):
        await blobs.adopt(spool, digest_of(b"bytes"))
    with pytest.raises(Unavailable):
        await spool.write(b"more")
    await spool.discard()
    assert blobs.open_nowait(digest_of(b"bytes")) is None
    assert set(blobs.statistics().values()) == {0}


async def test_a_name_whose_directory_cannot_be_synced_is_taken_back(blobs: DiskBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    await put(blobs, b"bytes")  # so that the directory exists and only its own sync is left
    await blobs.delete(digest_of(b"bytes"))
    spool = await blobs.spool(size=5)
    await spool.write(b"bytes")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(Unavailable):
            await blobs.adopt(spool, digest_of(b"bytes"))
    await spool.discard()
    assert [each async for each in blobs.digests()] == []
    assert set(blobs.statistics().values()) == {0}


async def test_a_file_larger_than_all_the_memory_is_told_which_setting_would_let_it_pass(tmp_path: Path) -> None:
    blobs = DiskBlobs(tmp_path, limit_bytes=10, memory_bytes=3 << 20)
    with pytest.raises(Unavailable, match=r"a file of 4 MiB or more exceeds the 3 MiB of memory .*store\.spool_memory"):
        await blobs.spool(size=4 << 20)
    first = await blobs.spool(size=2 << 20)
    with pytest.raises(Unavailable, match=r"the 3 MiB of memory .*store\.spool_memory\) are taken"):
        await blobs.spool(size=2 << 20)
    await first.write(b"x" * (3 << 20))
    assert blobs.statistics()["memory_bytes"] == 3 << 20
    with pytest.raises(Unavailable, match="exceeds"):
        await first.write(b"y")
    assert blobs.statistics()["memory_bytes"] == 3 << 20
    await first.discard()
    assert set(blobs.statistics().values()) == {0}


# ---- one name, several tasks


def hold_back_directory_syncs(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Adoptions wait, renamed but not yet durable, until the event is set."""
    going_on = threading.Event()

    def wait(path: str) -> None:
        assert going_on.wait(30)

    monkeypatch.setattr(disk, "sync_directory", wait)
    return going_on


@pytest.mark.parametrize("held_before", [False, True])
async def test_a_blob_adopted_at_the_moment_of_its_deletion_stays(
    blobs: DiskBlobs, monkeypatch: pytest.MonkeyPatch, held_before: bool
) -> None:
    digest = await put(blobs, b"wanted again")  # its directory exists: only the name's own sync is left
    if not held_before:
        await blobs.delete(digest)
    going_on = hold_back_directory_syncs(monkeypatch)
    deleted = []

    async def delete() -> None:
        deleted.append(await blobs.delete(digest))
        await blobs.quarantine(digest_of(b"another"))

    async def quarantine() -> None:
        await blobs.quarantine(digest)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(put, blobs, b"wanted again")
        await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.start_soon(delete)
        nursery.start_soon(quarantine)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert deleted == []
        going_on.set()
    assert deleted == [False]
    assert await blobs.verify(digest)
    assert blobs.statistics() == {
        "held_bytes": 12, "held_blobs": 1, "reserved_bytes": 0, "lingering_bytes": 0, "memory_bytes": 0,
    }  # fmt: skip
    assert await blobs.delete(digest)
    assert blobs._turns == {}


async def test_an_adoption_that_fails_takes_nobody_elses_blob_with_it(blobs: DiskBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = await put(blobs, b"shared")
    await blobs.delete(digest)
    going_on = threading.Event()
    real, failures = sync_directory, iter([True])

    def fail_once(path: str) -> None:
        if next(failures, False):
            assert going_on.wait(30)
            raise OSError(errno.EIO, "Input/output error")
        real(path)

    monkeypatch.setattr(disk, "sync_directory", fail_once)

    async def fail() -> None:
        spool = await blobs.spool(size=6)
        await spool.write(b"shared")
        with pytest.raises(Unavailable):
            await blobs.adopt(spool, digest)
        await spool.discard()

    second = await blobs.spool(size=6)
    await second.write(b"shared")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.start_soon(blobs.adopt, second, digest)
        await trio.testing.wait_all_tasks_blocked(0.05)
        going_on.set()
    await second.discard()
    assert await blobs.verify(digest)
    assert blobs.statistics()["held_bytes"] == 6


# ---- a disk that fails


class FailingOs:
    """The ``os`` module as ``disk`` sees it, one function of which fails. ``close`` closes all the same, as Linux's does."""

    def __init__(self, name: str, code: int) -> None:
        self.name = name
        self.code = code

    def __getattr__(self, name: str) -> object:
        return self.fail if name == self.name else getattr(os, name)

    def fail(self, *arguments: object, **_: object) -> NoReturn:
        if self.name == "close":
            os.close(arguments[0])  # type: ignore[arg-type]  # the descriptor
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EMFILE, errno.EROFS])
@pytest.mark.parametrize(
    "name",
    [
        "open", "close", "fstat", "lstat", "statvfs", "unlink", "rename", "mkdir", "scandir", "fsync", "fdatasync", "fchmod",
        "ftruncate", "pwrite", "posix_fallocate", "memfd_create",
    ],
)  # fmt: skip
async def test_whatever_fails_nothing_but_what_was_promised_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    blobs = DiskBlobs(tmp_path / "blobs")
    full = DiskBlobs(tmp_path / "full", limit_bytes=0)
    held = [await put(blobs, bytes([number])) for number in range(5)]
    ready = await blobs.spool(size=100)
    await ready.write(b"ready")
    monkeypatch.setattr(disk, "os", FailingOs(name, code))
    failed = set()

    async def attempt(what: str, call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except Unavailable:
            failed.add(what)

    async def begin() -> None:
        spool = await blobs.spool(size=10)
        try:
            await spool.write(b"bytes")
        finally:
            await spool.discard()

    async def open_now() -> None:
        span = blobs.open_nowait(held[0])
        assert span is not None
        span.close()

    async def open_later() -> None:
        span = await blobs.open(held[0])
        assert span is not None
        span.close()

    async def listed() -> None:
        assert [each async for each in blobs.digests()]

    await attempt("adopt", lambda: blobs.adopt(ready, digest_of(b"ready")))
    await attempt("discard", ready.discard)
    await attempt("write", begin)
    await attempt("spool in memory", lambda: put_through(full))
    await attempt("open_nowait", open_now)
    await attempt("open", open_later)
    await attempt("size", lambda: blobs.size(held[0]))
    await attempt("verify", lambda: blobs.verify(held[1]))
    await attempt("digests", listed)
    await attempt("delete", lambda: blobs.delete(held[2]))
    await attempt("quarantine", lambda: blobs.quarantine(held[3]))
    await attempt("sweep", blobs.sweep)
    assert blobs.state() and blobs.pressure_bytes() >= 0
    assert "discard" not in failed and "sweep" not in failed
    assert failed >= EXPECTED.get(name, set())

    monkeypatch.undo()
    # What was held is as it was: nothing was lost to a failure.
    assert await blobs.verify(held[4])
    await blobs.sweep()
    assert blobs.statistics()["held_blobs"] == len([each async for each in blobs.digests()])
    assert [blobs.statistics()[each] for each in ("reserved_bytes", "lingering_bytes", "memory_bytes")] == [0, 0, 0]


EXPECTED = {
    "open": {"open_nowait", "open"},
    "fstat": {"adopt", "open_nowait", "open"},
    "lstat": {"adopt", "size", "delete", "quarantine"},
    "unlink": {"delete"},
    "rename": {"adopt", "quarantine"},
    "mkdir": {"adopt", "quarantine"},
    "scandir": {"digests"},
    "memfd_create": {"spool in memory"},
}


async def put_through(blobs: DiskBlobs) -> None:
    spool = await blobs.spool(size=3)
    try:
        await spool.write(b"abc")
    finally:
        await spool.discard()


async def test_a_blob_that_cannot_be_read_is_damaged_but_without_descriptors_nothing_is_known(
    blobs: DiskBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = await put(blobs, b"bytes")
    for code, outcome in ((errno.EIO, False), (errno.EMFILE, None)):

        def refuse(*_: object, code: int = code, **__: object) -> NoReturn:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(disk, "open", refuse, raising=False)
        if outcome is None:
            with pytest.raises(Unavailable):
                await blobs.verify(digest)
        else:
            assert await blobs.verify(digest) is outcome


async def test_a_disk_that_fails_from_the_start_is_unusable(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file where the directory should be")
    with pytest.raises(Unusable, match="cannot be used"):
        DiskBlobs(tmp_path / "blobs")
