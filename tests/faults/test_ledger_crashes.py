"""A node killed at random while it stores, publishes, recalls and follows: the ledger verifies, and nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from origin.blobs.disk import DiskBlobs
from origin.catalog.sqlite import SqliteCatalog
from origin.datadir import DataDirectory
from origin.feed import verify_ledger
from origin.model import Digest, Page
from tests.faults.ledger_child import OWNER, WANTED_PER_BATCH
from tests.faults.store_child import wheel

ROOT = Path(__file__).resolve().parent.parent.parent
CHILD = Path(__file__).with_name("ledger_child.py")
KEY = OWNER.public_key().public_bytes_raw()
ROUNDS = 12


@dataclass
class Acknowledged:
    """What the killed ones said was durable."""

    kept: dict[int, str] = field(default_factory=dict)
    published: dict[str, int] = field(default_factory=dict)
    appended: dict[int, int] = field(default_factory=dict)
    followed: int = 0

    def hear(self, line: str) -> None:
        match line.split():
            case ["kept", number, value]:
                self.kept[int(number)] = value
            case ["published", project, revision]:
                self.published[project] = max(int(revision), self.published.get(project, 0))
            case ["appended", serial, revision]:
                self.appended[int(serial)] = int(revision)
            case ["followed", number]:
                self.followed = max(self.followed, int(number))
            case _:
                pytest.fail(f"the child said {line!r}")


def run_and_kill(directory: Path, number: int, after: int, pause_s: float, heard: Acknowledged) -> None:
    """Start a node, let it acknowledge ``after`` things and go on for a moment, kill it."""
    process = subprocess.Popen(
        [sys.executable, str(CHILD), str(directory), str(number)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    lines = [line for line in (process.stdout.readline() for _ in range(after)) if line.endswith("\n")]
    time.sleep(pause_s)
    process.kill()
    # What it said in that moment counts as well; a line that was cut off does not.
    lines += [line for line in process.stdout if line.endswith("\n")]
    errors = process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    assert process.wait(30) == -9, errors
    assert len(lines) >= after
    for line in lines:
        heard.hear(line)


async def check(directory: DataDirectory, heard: Acknowledged) -> int:
    """All that must hold; returns the ledger's last serial."""
    blobs = DiskBlobs(directory.blobs)
    await blobs.sweep()
    here = {digest async for digest in blobs.digests()}
    for digest in here:
        assert await blobs.verify(digest), f"{digest} is torn"
    catalog = await SqliteCatalog.open(directory.catalog, keeps_ledger=True)
    report = await verify_ledger(catalog, KEY)
    assert report.problems == ()
    changes = await catalog.changes(0, 1_000_000)
    assert [change.serial for change in changes] == list(range(1, report.serial + 1))

    # No row names a missing blob: neither what is held, nor what is bound, nor what the ledger tells of.
    assert {digest for digest, _ in await catalog.holdings()} <= here
    bindings = await catalog.bindings_after("", 1_000_000)
    assert {each.digest for each in bindings} <= here
    assert {change.digest for change in changes if change.kind == "file"} <= here

    # Nothing acknowledged is lost.
    bound = {each.file.key: each.digest for each in bindings}
    for number, value in heard.kept.items():
        assert bound[wheel(number).key] == Digest("sha256", value)
    for project, revision in heard.published.items():
        answer = await catalog.answer(Page("pypi", project))
        assert answer is not None and answer.stamp.revision >= revision
        assert sum(change.resource == answer.page.key for change in changes) == answer.stamp.revision
    for serial, revision in heard.appended.items():
        assert (changes[serial - 1].kind, changes[serial - 1].revision) == ("verdicts", revision)

    # A fact and what goes with it are there together.
    policies = [change.revision for change in changes if change.kind == "verdicts"]
    assert policies == list(range(1, int(await catalog.recall("verdicts") or 0) + 1))
    followed = int(await catalog.recall("cursor") or 0)
    assert followed >= heard.followed
    assert (await catalog.unresolved())[0] == followed * WANTED_PER_BATCH
    await catalog.close()
    return report.serial


@pytest.mark.slow
def test_killed_at_random_the_ledger_verifies_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    seed = int(os.environ.get("LEEWARD_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
    print(f"LEEWARD_SEED={seed}")
    chance = random.Random(seed)
    heard, last = Acknowledged(), 0
    for number in range(ROUNDS):
        run_and_kill(tmp_path, number, chance.choice([0, 1, 30, 200]), chance.uniform(0, 0.6), heard)
        with DataDirectory.open(tmp_path) as directory:
            serial = trio.run(check, directory, heard)
        assert serial >= last
        last = serial
    print(f"{last} lines, {len(heard.kept)} files kept, {len(heard.appended)} policies, {heard.followed} batches")
    assert len(heard.kept) > ROUNDS and heard.published and heard.appended and heard.followed
