"""The store killed at every step, lied to by the disk, and on a disk that is full.

strace makes the kernel's answers: it kills a real process before its N-th call of one kind, or fails that call. What must hold
afterwards is always the same, in ``check``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from origin.blobs.disk import DiskBlobs
from origin.catalog.sqlite import SqliteCatalog
from origin.datadir import DataDirectory
from origin.model import Digest
from tests.faults.store_child import store, wheel

ROOT = Path(__file__).resolve().parent.parent.parent
CHILD = Path(__file__).with_name("store_child.py")


@dataclass(frozen=True)
class Ended:
    """How a child ended, and what it said before: the digests it acknowledged, the sentences it refused with."""

    killed: bool
    kept: list[str]
    refused: list[str]


class Strace:
    """Runs the child under strace with one fault injected. Not with ``--seccomp-bpf``, under which strace 6.1 ignores ``when``."""

    def __init__(self, program: str) -> None:
        self.program = program

    def run(self, directory: Path, fault: str) -> Ended:
        """``fault`` is strace's own: ``fsync:error=EIO:when=2``. Calls of threads are counted for each thread by itself."""
        trace = f"trace={fault.partition(':')[0]}"
        command = [self.program, "-f", "-qq", "-o", os.devnull, "-e", trace, "-e", f"inject={fault}"]
        done = run_child(command, "store", directory)
        assert done.returncode in (0, -signal.SIGKILL, 128 + signal.SIGKILL), done.stderr
        lines = done.stdout.splitlines()
        return Ended(
            done.returncode != 0,
            [line.removeprefix("kept ") for line in lines if line.startswith("kept ")],
            [line.removeprefix("refused ") for line in lines if line.startswith("refused ")],
        )


@pytest.fixture
def strace() -> Strace:
    program = shutil.which("strace")
    if program is None:
        pytest.fail("strace is not installed: these tests kill a process at each step of the store with it (apt install strace)")
    return Strace(program)


def run_child(before: list[str], task: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, str(CHILD), task, str(directory)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def check(directory: DataDirectory, kept: list[str]) -> None:
    """What holds whatever happened: whole blobs, no temporaries, a catalogue that opens and promises nothing that is not there."""
    blobs = DiskBlobs(directory.blobs)
    await blobs.sweep()
    assert not any((directory.blobs / "tmp").iterdir())
    here = {digest async for digest in blobs.digests()}
    for digest in here:
        assert await blobs.verify(digest), f"{digest} is torn"
    catalog = await SqliteCatalog.open(directory.catalog)
    bindings = await catalog.bindings("pypi", "six")
    assert {digest for digest, _ in await catalog.holdings()} <= here
    assert {each.digest for each in bindings} <= here
    assert {Digest("sha256", value) for value in kept} <= {each.digest for each in bindings}
    assert [each.serial for each in await catalog.changes(0)] == list(range(1, len(bindings) + 1))
    # And life goes on: what was cut off is stored now.
    digest = await store(blobs, catalog, len(bindings))
    binding = await catalog.binding(wheel(len(bindings)))
    assert binding is not None and binding.digest == digest
    await catalog.close()


def check_after(directory: Path, kept: list[str]) -> None:
    with DataDirectory.open(directory) as data:
        trio.run(check, data, kept)


# What the store calls, in order, each with the stride at which its calls are tried: SQLite writes often.
STEPS = {
    "/^fallocate$": 1,
    "/^pwrite64$": 5,
    "/^ftruncate$": 1,
    "/^fdatasync$": 1,
    "/^fchmod$": 1,
    "/^mkdir(at)?$": 1,
    "/^rename(at2?)?$": 1,
    "/^fsync$": 1,
    "/^unlink(at)?$": 1,
}


@pytest.mark.slow
@pytest.mark.parametrize("call", STEPS)
def test_killed_before_any_call_the_store_is_whole_and_keeps_what_it_acknowledged(
    strace: Strace, tmp_path: Path, call: str
) -> None:
    assert run_child([], "store", tmp_path).stdout.count("kept") == 3
    kept: list[str] = []
    kills = 0
    for when in range(1, 200, STEPS[call]):
        ended = strace.run(tmp_path, f"{call}:signal=SIGKILL:when={when}")
        kept += ended.kept
        check_after(tmp_path, kept)
        if not ended.killed:
            break
        kills += 1
    else:
        pytest.fail("the child never came to its end")
    assert kills > 0, f"{call} is not called: the table of steps is out of date"


@pytest.mark.slow
@pytest.mark.parametrize("call", ["/^(rename(at2?)?|fsync|mkdir(at)?)$", "/^pwrite64$", "/^fdatasync$"])
def test_killed_at_its_very_first_start_it_starts_again(strace: Strace, tmp_path: Path, call: str) -> None:
    kills = 0
    for when in (1, 2, 3, 5, 8, 13, 21, 34):
        directory = tmp_path / str(when)
        ended = strace.run(directory, f"{call}:signal=SIGKILL:when={when}")
        check_after(directory, ended.kept)
        kills += ended.killed
    assert kills > 0


@pytest.mark.slow
@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_a_failed_sync_condemns_the_blob_and_says_so(strace: Strace, tmp_path: Path, call: str) -> None:
    assert run_child([], "store", tmp_path).stdout.count("kept") == 3
    refusals: list[str] = []
    for when in range(1, 6):
        ended = strace.run(tmp_path, f"{call}:error=EIO:when={when}")
        assert not ended.killed
        assert len(ended.kept) + len(ended.refused) == 3 or "cannot be used" in ended.refused[0]
        refusals += ended.refused
        check_after(tmp_path, ended.kept)
    assert any("could not be stored: Input/output error" in each for each in refusals)


@pytest.mark.slow
def test_a_disk_that_fills_between_two_writes_refuses_and_stays_whole(strace: Strace, tmp_path: Path) -> None:
    assert run_child([], "store", tmp_path).stdout.count("kept") == 3
    for when in (1, 2, 3, 4, 6, 9):
        ended = strace.run(tmp_path, f"pwrite64:error=ENOSPC:when={when}+")
        assert not ended.killed
        assert ended.refused
        check_after(tmp_path, ended.kept)


def test_a_small_disk_fills_up_and_recovers_without_failing_anybody(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system of its own needs root")
    mount = 'mount -t tmpfs -o size=16m tmpfs "$0" && exec "$@"'
    done = run_child(["unshare", "--mount", "sh", "-c", mount, str(tmp_path)], "fill", tmp_path)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    kept = seen.pop("kept")
    assert kept > 10
    assert 0 < seen.pop("pressure_bytes") <= kept << 20
    assert "no room" in seen.pop("catalogue_when_full")
    assert seen.pop("greedy_refused") == "The disk is full"
    assert seen == {
        "states": ["normal", "pressure"],
        "memory_spool_reads_back": True,
        "junk_ended": "No space left on device",
        "all_verify_when_full": True,
        "bindings_when_full": kept,
        "durable_when_full": False,
        "state_when_full": "no-admit",
        "state_after_eviction": "normal",
        "revision_after_eviction": 1,
        "greedy_is_durable": True,
        "greedy_reads_back": True,
        "state_after_greed": "no-admit",
        "durable_after_greed": False,
    }
