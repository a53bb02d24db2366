"""The catalogues: the contract over each, then what is SQLite's alone."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from origin.catalog import Access
from origin.catalog import sqlite as sqlite_module
from origin.catalog.memory import MemoryCatalog
from origin.catalog.sqlite import SqliteCatalog, migrations
from origin.errors import Unavailable, Unusable
from tests.contracts.catalogs import SIX, WHEEL, CatalogContract, bound, stored, wheel


class TestSqlite(CatalogContract):
    @pytest.fixture
    async def catalog(self, tmp_path: Path) -> AsyncIterator[SqliteCatalog]:
        catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
        yield catalog
        await catalog.close()


class TestMemory(CatalogContract):
    @pytest.fixture
    async def catalog(self) -> MemoryCatalog:
        return MemoryCatalog()


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


async def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    catalog = await SqliteCatalog.open(path)
    await catalog.publish(stored(document=b"first"))
    await catalog.bind(bound())
    await catalog.remember("key", "value")
    await catalog.close()
    assert names(tmp_path) == ["catalog.sqlite"]

    catalog = await SqliteCatalog.open(path)
    assert await catalog.publish(stored(document=b"second")) == 2
    assert await catalog.binding(WHEEL) == bound()
    assert await catalog.recall("key") == "value"
    assert [change.serial for change in await catalog.changes(0)] == [1, 2, 3]
    await catalog.close()


async def test_documents_are_compressed_at_rest(tmp_path: Path) -> None:
    catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
    await catalog.publish(stored(document=b'{"filename": "six-1.0.whl"}' * 100_000))
    await catalog.close()
    assert (tmp_path / "catalog.sqlite").stat().st_size < 300_000


async def test_writes_that_wait_together_are_committed_together(tmp_path: Path) -> None:
    catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
    commits = []
    catalog._writer.set_trace_callback(lambda statement: commits.append(statement) if statement == "COMMIT" else None)
    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(catalog.bind, bound(wheel(number), str(number)))
    assert len(await catalog.holdings()) == 200
    assert len(commits) < 20
    await catalog.close()


async def test_a_batch_larger_than_one_transaction_is_finished(tmp_path: Path) -> None:
    catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
    async with trio.open_nursery() as nursery:
        for number in range(sqlite_module.BATCH * 2 + 10):
            nursery.start_soon(catalog.remember, str(number), "x")
    for number in (0, sqlite_module.BATCH, sqlite_module.BATCH * 2 + 9):
        assert await catalog.recall(str(number)) == "x"
    await catalog.close()


async def test_closing_waits_for_what_is_being_written(tmp_path: Path) -> None:
    catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
    outcomes: list[str] = []

    async def write(number: int) -> None:
        try:
            await catalog.bind(bound(wheel(number), str(number)))
            outcomes.append(str(number))
        except Unavailable:
            outcomes.append("refused")

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(write, number)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(catalog.close)
    assert len(outcomes) == 50
    catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
    assert len(await catalog.holdings()) == len([each for each in outcomes if each != "refused"])
    await catalog.close()


async def test_trimming_goes_on_until_all_that_is_old_has_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_module, "TRIM_ROWS", 10)
    catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
    await catalog.record_accesses(Access(float(number), "f", "d", "c", "t", 1, True) for number in range(100))
    assert await catalog.trim_accesses(0.0, 5) == 95
    await catalog.close()


async def test_a_page_of_twenty_thousand_files_does_not_stall_the_loop(tmp_path: Path) -> None:
    catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
    document = b"".join(
        b'{"filename": "big-%d.whl", "sha256": "%064x", "url": "%0400x"},' % (n, n * 7919, n) for n in range(20_000)
    )
    gaps = []

    async def watch() -> None:
        last = trio.current_time()
        while True:
            await trio.sleep(0.001)
            gaps.append(trio.current_time() - last)
            last = trio.current_time()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await catalog.publish(stored(document=document))
        answer = await catalog.answer(SIX)
        nursery.cancel_scope.cancel()
    assert answer is not None and answer.document == document
    # The most a stall could be is the whole of it, over 50 ms on any machine; the median is what a loop that runs shows.
    assert len(gaps) > 5 and sorted(gaps)[len(gaps) // 2] < 0.02
    await catalog.close()


# ---- files that cannot be used


def make(path: Path) -> None:
    async def main() -> None:
        catalog = await SqliteCatalog.open(path)
        for number in range(50):
            await catalog.publish(stored(document=os.urandom(2000)))
            await catalog.bind(bound(wheel(number), str(number)))
        await catalog.close()

    trio.run(main)


def refusal(path: Path) -> str:
    """Why ``path`` cannot be opened; it is left as it was."""
    before = path.read_bytes()
    with pytest.raises(Unusable) as caught:
        trio.run(SqliteCatalog.open, path)
    assert path.read_bytes() == before
    return str(caught.value)


def test_a_catalogue_by_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    make(path)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {len(migrations()) + 1}")
    connection.close()
    assert "newer Leeward" in refusal(path)


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(b"my precious notes\n" * 1000)
    assert "damaged" in refusal(path)


def test_somebody_elses_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE notes (text)")
    connection.close()
    assert "no catalogue" in refusal(path)


def test_a_damaged_catalogue_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    make(path)
    with path.open("r+b") as file:
        for page in range(2, path.stat().st_size // 4096, 3):
            file.seek(page * 4096)
            file.write(b"\xa5" * 4096)
    message = refusal(path)
    assert "damaged" in message and "restore it from a backup" in message


def test_a_truncated_catalogue_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    make(path)
    os.truncate(path, path.stat().st_size // 2)
    assert "damaged" in refusal(path)


def test_a_directory_that_is_missing_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="cannot be opened for writing"):
        trio.run(SqliteCatalog.open, tmp_path / "missing" / "catalog.sqlite")


def test_migrations_that_were_made_are_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    make(path)
    make_again = sqlite3.connect(path)
    (version,) = make_again.execute("PRAGMA user_version").fetchone()
    make_again.close()
    assert version == len(migrations())
    trio.run(reopen, path)


async def reopen(path: Path) -> None:
    catalog = await SqliteCatalog.open(path)
    assert await catalog.answer(SIX) is not None
    await catalog.close()


async def test_a_database_that_somebody_else_holds_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "BUSY_TIMEOUT_S", 0.01)
    catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
    intruder = sqlite3.connect(tmp_path / "catalog.sqlite", isolation_level=None)
    intruder.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="another process"):
        await catalog.bind(bound())
    assert await catalog.binding(WHEEL) is None
    intruder.execute("ROLLBACK")
    intruder.close()
    await catalog.bind(bound())
    assert await catalog.binding(WHEEL) == bound()
    await catalog.close()


async def test_a_full_disk_is_unavailable_and_undoes_all_of_it(tmp_path: Path) -> None:
    catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
    await catalog.bind(bound())
    # SQLite's own limit on the number of pages answers as a full disk does: SQLITE_FULL.
    (pages,) = catalog._writer.execute("PRAGMA page_count").fetchone()
    catalog._writer.execute(f"PRAGMA max_page_count = {pages}").fetchone()
    with pytest.raises(Unavailable, match="no room"):
        await catalog.publish(stored(document=os.urandom(100_000)))
    assert await catalog.answer(SIX) is None
    assert len(await catalog.changes(0)) == 1
    catalog._writer.execute("PRAGMA max_page_count = 1000000").fetchone()
    assert await catalog.publish(stored(document=os.urandom(100_000))) == 1
    assert [change.serial for change in await catalog.changes(0)] == [1, 2]
    await catalog.close()
