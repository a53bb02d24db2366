"""SQLite's ledger: what an older one had, what is kept, what is copied, and that nothing is searched for."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from origin.api.wire import GENESIS
from origin.catalog import Access, Catalog, Member
from origin.catalog.sqlite import SqliteCatalog
from origin.catalog.sqlite_transactions import APPLICATION_ID, migrations
from origin.errors import Unavailable
from origin.feed import verify_ledger
from origin.model import ALLOW, Change, Page
from tests.contracts.catalogs import SIX, WHEEL, bound, digest_of, stored, wheel
from tests.contracts.fleets import want
from tests.contracts.ledgers import check_chain


@pytest.fixture
async def catalog(tmp_path: Path) -> AsyncIterator[SqliteCatalog]:
    catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
    yield catalog
    await catalog.close()


async def test_lines_by_a_leeward_without_a_chain_are_changes_but_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    old = sqlite3.connect(path, isolation_level=None)
    old.executescript(f"{''.join(migrations()[:3])} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 3;")
    rows = [(SIX.key, None, None), (WHEEL.key, str(digest_of("six")), None), ("x", None, msgspec.json.encode(ALLOW))]
    old.executemany("INSERT INTO changes (resource, digest, verdict) VALUES (?, ?, ?)", rows)
    old.execute(
        "INSERT INTO bindings (name, registry, project, version, filename, path, digest, size, bound_at, media_type, aliases)"
        " VALUES (?, 'pypi', 'six', '1.0', ?, ?, ?, 100, 10.0, 'application/zip', '')",
        (WHEEL.key, WHEEL.filename, WHEEL.path, str(digest_of("six"))),
    )
    old.execute("INSERT INTO accesses (at, file, digest, client, token, sent, complete) VALUES (1.0, 'f', 'd', 'c', 't', 9, 1)")
    old.close()
    catalog = await SqliteCatalog.open(path)
    before = [Change(1, SIX.key), Change(2, WHEEL.key, digest_of("six")), Change(3, "x", verdict=ALLOW)]
    assert list(await catalog.changes(0)) == before
    assert list(await catalog.lines(0)) == []
    assert await catalog.head() == (3, GENESIS)
    assert list(await catalog.accesses_after(0)) == [(1, Access(1.0, "f", "d", "c", "t", 9, True))]
    assert list(await catalog.bindings_after("")) == [replace(bound(), aliases=())]
    await catalog.publish(stored())
    await catalog.bind(bound())
    await catalog.bind(bound(wheel(1)))
    assert [each.serial for each in await catalog.changes(0)] == [1, 2, 3, 4, 5]
    assert [line.serial for line in await catalog.lines(0)] == [4, 5]
    await check_chain(catalog, GENESIS, 3)
    assert (await verify_ledger(catalog, bytes(32))).problems == ()
    await catalog.close()


async def test_the_chain_goes_on_after_reopening(tmp_path: Path) -> None:
    for number in range(3):
        catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
        await catalog.bind(bound(wheel(number), str(number)))
        assert (await catalog.head())[0] == number + 1
        await check_chain(catalog)
        await catalog.close()


async def test_a_ledger_that_is_kept_loses_no_line_whoever_asks(tmp_path: Path) -> None:
    catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite", keeps_ledger=True)
    for number in range(5):
        await catalog.publish(stored(Page("pypi", str(number))))
    assert await catalog.trim_changes(1) == 0
    assert len(await catalog.lines(0)) == 5
    await catalog.close()


async def test_a_copy_made_while_the_node_writes_is_a_whole_catalogue(catalog: SqliteCatalog, tmp_path: Path) -> None:
    async def write(number: int) -> None:
        await catalog.bind(bound(wheel(number), str(number)))

    for number in range(20):
        await write(number)
    async with trio.open_nursery() as nursery:
        for number in range(20, 60):
            nursery.start_soon(write, number)
        nursery.start_soon(catalog.backup, str(tmp_path / "copy.sqlite"))
    assert (tmp_path / "copy.sqlite").stat().st_mode & 0o777 == 0o600
    copy = await SqliteCatalog.open(tmp_path / "copy.sqlite")
    serial, _ = await copy.head()
    assert 20 <= serial <= 60
    assert list(await copy.lines(0)) == list(await catalog.lines(0, serial))
    assert len(await copy.bindings_after("")) == serial
    await copy.close()


async def test_a_copy_that_finds_no_room_leaves_nothing(
    catalog: SqliteCatalog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("origin.catalog.sqlite._sync", full)
    with pytest.raises(Unavailable, match="No space left"):
        await catalog.backup(str(tmp_path / "copy.sqlite"))
    assert not (tmp_path / "copy.sqlite").exists()


async def test_one_commit_of_many_writes_is_told_once(catalog: SqliteCatalog) -> None:
    told: list[bool] = []
    catalog.on_change = lambda: told.append(trio.lowlevel.in_trio_task())
    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(catalog.bind, bound(wheel(number), str(number)))
    assert 1 <= len(told) < 20
    assert all(told)


async def test_who_is_cancelled_while_it_commits_for_others_still_tells(catalog: SqliteCatalog) -> None:
    told: list[bool] = []
    catalog.on_change = lambda: told.append(True)

    async def bind(number: int) -> None:
        await catalog.bind(bound(wheel(number), str(number)))

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(bind, number)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert bool(told) is ((await catalog.head())[0] > 0)


# ---- indexes

CALLS: dict[str, Callable[[Catalog], Awaitable[object]]] = {
    "changes": lambda catalog: catalog.changes(5),
    "oldest_change": lambda catalog: catalog.oldest_change(),
    "lines": lambda catalog: catalog.lines(5),
    "head": lambda catalog: catalog.head(),
    "append": lambda catalog: catalog.append(Change(0, "verdicts", kind="verdicts"), {"key": "value"}),
    "publish": lambda catalog: catalog.publish(stored()),
    "bind": lambda catalog: catalog.bind(bound()),
    "answer": lambda catalog: catalog.answer(SIX),
    "binding": lambda catalog: catalog.binding(WHEEL),
    "bindings": lambda catalog: catalog.bindings("pypi", "six"),
    "pages_after": lambda catalog: catalog.pages_after("a"),
    "bindings_after": lambda catalog: catalog.bindings_after("a"),
    "named": lambda catalog: catalog.named(digest_of("six")),
    "bound": lambda catalog: catalog.bound([WHEEL.key]),
    "follow": lambda catalog: catalog.follow({"key": "value"}, [("pypi", "six")], [want(SIX)]),
    "settle": lambda catalog: catalog.settle([SIX.key, want(WHEEL)], [want(SIX)]),
    "record_accesses": lambda catalog: catalog.record_accesses([Access(1.0, "f", "d", "c", "t", 1, True, "e", 1)]),
    "accesses": lambda catalog: catalog.accesses("f"),
    "accesses_after": lambda catalog: catalog.accesses_after(5),
    "deliveries": lambda catalog: catalog.deliveries(["f"], ["d"]),
    "invite": lambda catalog: catalog.invite("name", "secret", 2.0),
    "enrol": lambda catalog: catalog.enrol("secret", "other", 1.0),
    "seen": lambda catalog: catalog.seen([Member("name", "", 1.0)]),
    "dismiss": lambda catalog: catalog.dismiss("name"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_nothing_is_found_by_reading_a_whole_table(catalog: SqliteCatalog, name: str) -> None:
    await catalog.invite("name", "secret", 2.0)
    statements: list[str] = []
    for connection in (catalog._writer, *(readers := [catalog._readers.get() for _ in range(4)])):
        assert connection is not None
        connection.set_trace_callback(statements.append)
    for reader in readers:
        catalog._readers.put(reader)
    await CALLS[name](catalog)
    catalog._writer.set_trace_callback(None)
    asked = [each for each in statements if each.startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))]
    assert asked
    for statement in asked:
        for *_, step in catalog._writer.execute(f"EXPLAIN QUERY PLAN {statement}"):
            # A walk along the primary key in the order asked for ends with the limit; a table of one row is read whole. What one
            # recall is about is sorted.
            walked = "SCAN changes" in step and "LIMIT 1" in statement
            assert not step.startswith("SCAN") or walked or step in ONE_ROW, (statement, step)
            assert "TEMP B-TREE" not in step or name == "deliveries", (statement, step)


ONE_ROW = ("SCAN chained", "SCAN trimmed", "SCAN json_each VIRTUAL TABLE INDEX 1:")


async def test_what_is_due_is_read_in_its_order(catalog: SqliteCatalog) -> None:
    plan = catalog._writer.execute(
        "EXPLAIN QUERY PLAN SELECT key, is_file, resource, since, due, attempts, error, dead, asked FROM wanted WHERE due <= 1"
        " ORDER BY dead, is_file, since, key LIMIT 100"
    ).fetchall()
    assert [step for *_, step in plan] == ["SCAN wanted USING INDEX wanted_in_order"]
