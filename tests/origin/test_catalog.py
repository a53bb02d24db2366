"""The catalogues: the contract over each, then what is SQLite's alone."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from origin.catalog import Access, Catalog, Event, Member, sqlite_transactions
from origin.catalog.memory import MemoryCatalog
from origin.catalog.packing import packed
from origin.catalog.sqlite import SqliteCatalog
from origin.catalog.sqlite_transactions import migrations
from origin.errors import Unavailable, Unusable
from origin.model import Change, Page, Stamp
from tests.contracts.catalogs import SIX, WHEEL, CatalogContract, bound, stored, wheel
from tests.contracts.fleets import FleetContract, want
from tests.contracts.ledgers import LedgerContract


class TestSqlite(CatalogContract, LedgerContract, FleetContract):
    @pytest.fixture
    async def catalog(self, tmp_path: Path) -> AsyncIterator[SqliteCatalog]:
        catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
        yield catalog
        await catalog.close()


class TestMemory(CatalogContract, LedgerContract, FleetContract):
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
        for number in range(sqlite_transactions.BATCH * 2 + 10):
            nursery.start_soon(catalog.remember, str(number), "x")
    for number in (0, sqlite_transactions.BATCH, sqlite_transactions.BATCH * 2 + 9):
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
    monkeypatch.setattr(sqlite_transactions, "TRIM_ROWS", 10)
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
    monkeypatch.setattr(sqlite_transactions, "BUSY_TIMEOUT_S", 0.01)
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


# ---- what was damaged while it lay there


@pytest.mark.parametrize("damaged", [b"\0", bytes.fromhex("28b52ffd"), "text", packed(b"some document" * 100)[:-9]])
async def test_a_page_whose_document_is_damaged_is_not_held_until_it_is_published_again(
    tmp_path: Path, damaged: bytes | str, caplog: pytest.LogCaptureFixture
) -> None:
    catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
    await catalog.publish(stored(document=b"some document" * 100))
    catalog._writer.execute("UPDATE answers SET document = ?", (damaged,))
    assert await catalog.answer(SIX) is None
    assert "pypi:six: is damaged" in caplog.text
    assert await catalog.publish(stored(document=b"again")) == 2
    answer = await catalog.answer(SIX)
    assert answer is not None and answer.document == b"again"
    await catalog.close()


async def test_one_wrong_bit_in_a_document_is_noticed(tmp_path: Path) -> None:
    catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
    await catalog.publish(stored(document=os.urandom(1000)))
    (document,) = catalog._writer.execute("SELECT document FROM answers").fetchone()
    rotten = bytearray(document)
    rotten[500] ^= 1
    catalog._writer.execute("UPDATE answers SET document = ?", (bytes(rotten),))
    assert await catalog.answer(SIX) is None
    await catalog.close()


async def test_trimming_the_feed_and_absences_goes_on_until_all_that_is_old_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_transactions, "TRIM_ROWS", 10)
    catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
    for number in range(45):
        await catalog.publish(stored(Page("pypi", str(number)), status=404, document=b"", received_at=float(number)))
    assert await catalog.trim_changes(3) == 42
    assert await catalog.trim_absences(5.0, 4) == 41
    plan = catalog._writer.execute(
        "EXPLAIN QUERY PLAN SELECT received_at, key FROM answers WHERE status IN (404, 410) ORDER BY received_at DESC, key DESC"
    ).fetchall()
    assert "answers_absent" in plan[0][3]
    await catalog.close()


async def test_a_catalogue_of_the_first_version_is_brought_up_and_keeps_what_it_had(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    old = sqlite3.connect(path, isolation_level=None)
    old.executescript(f"{migrations()[0]} PRAGMA application_id = {sqlite_transactions.APPLICATION_ID}; PRAGMA user_version = 1;")
    old.execute("INSERT INTO changes (resource) VALUES ('pypi:six:')")
    old.close()
    catalog = await SqliteCatalog.open(path)
    assert await catalog.publish(stored()) == 1
    assert [change.serial for change in await catalog.changes(0)] == [1, 2]
    await catalog.close()


# ---- a database that fails


CALLS: dict[str, Callable[[Catalog], Awaitable[object]]] = {
    "answer": lambda catalog: catalog.answer(SIX),
    "publish": lambda catalog: catalog.publish(stored()),
    "renew": lambda catalog: catalog.renew(SIX, Stamp(1.0, 2.0), 3.0),
    "expire": lambda catalog: catalog.expire("pypi", "six"),
    "views": lambda catalog: catalog.views("pypi", "six"),
    "trim_absences": lambda catalog: catalog.trim_absences(1.0, 0),
    "projects": lambda catalog: catalog.projects("pypi"),
    "record_owners": lambda catalog: catalog.record_owners("pypi", {"a": ("b", "c")}),
    "owner": lambda catalog: catalog.owner("pypi", "a"),
    "bind": lambda catalog: catalog.bind(bound()),
    "binding": lambda catalog: catalog.binding(WHEEL),
    "bindings": lambda catalog: catalog.bindings("pypi", "six"),
    "held": lambda catalog: catalog.held(bound().digest),
    "touch": lambda catalog: catalog.touch({bound().digest: 1.0}),
    "pin": lambda catalog: catalog.pin(bound().digest),
    "victims": lambda catalog: catalog.victims(1),
    "drop": lambda catalog: catalog.drop(bound().digest),
    "holdings": lambda catalog: catalog.holdings(),
    "held_bytes": lambda catalog: catalog.held_bytes(),
    "changes": lambda catalog: catalog.changes(0),
    "oldest_change": lambda catalog: catalog.oldest_change(),
    "trim_changes": lambda catalog: catalog.trim_changes(1),
    "record_event": lambda catalog: catalog.record_event(Event(1.0, "kind", "subject", "detail")),
    "events": lambda catalog: catalog.events(),
    "record_accesses": lambda catalog: catalog.record_accesses([Access(1.0, "f", "d", "c", "t", 1, True)]),
    "accesses": lambda catalog: catalog.accesses(),
    "trim_accesses": lambda catalog: catalog.trim_accesses(1.0, 0),
    "accesses_after": lambda catalog: catalog.accesses_after(0),
    "deliveries": lambda catalog: catalog.deliveries(["f"], ["d"]),
    "lines": lambda catalog: catalog.lines(0),
    "head": lambda catalog: catalog.head(),
    "append": lambda catalog: catalog.append(Change(0, "verdicts", kind="verdicts"), {"key": "value"}),
    "pages_after": lambda catalog: catalog.pages_after(""),
    "bindings_after": lambda catalog: catalog.bindings_after(""),
    "named": lambda catalog: catalog.named(bound().digest),
    "bound": lambda catalog: catalog.bound([WHEEL.key]),
    "counts": lambda catalog: catalog.counts(),
    "follow": lambda catalog: catalog.follow({"key": "value"}, [("pypi", "six")], [want(SIX)]),
    "wanted": lambda catalog: catalog.wanted(1.0),
    "settle": lambda catalog: catalog.settle([SIX.key], [want(SIX)]),
    "unresolved": lambda catalog: catalog.unresolved(),
    "invite": lambda catalog: catalog.invite("name", "secret", 2.0),
    "enrol": lambda catalog: catalog.enrol("secret", "other", 1.0),
    "edges": lambda catalog: catalog.edges(),
    "seen": lambda catalog: catalog.seen([Member("name", "", 1.0)]),
    "dismiss": lambda catalog: catalog.dismiss("name"),
    "remember": lambda catalog: catalog.remember("key", "value"),
    "recall": lambda catalog: catalog.recall("key"),
}


def test_the_table_of_calls_has_every_method() -> None:
    assert set(CALLS) == {name for name in vars(Catalog) if not name.startswith("_")} - {"close", "backup"}


class Failing:
    """A connection that fails at every statement beginning with one of ``words``, as SQLite would."""

    def __init__(self, connection: sqlite3.Connection, code: int, words: tuple[str, ...]) -> None:
        self.connection = connection
        self.code = code
        self.words = words

    def __getattr__(self, name: str) -> object:
        return getattr(self.connection, name)

    def execute(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        self.fail(statement)
        return self.connection.execute(statement, values)

    def executemany(self, statement: str, rows: Iterable[Sequence[object]]) -> sqlite3.Cursor:
        self.fail(statement)
        return self.connection.executemany(statement, rows)

    def fail(self, statement: str) -> None:
        if statement.startswith(self.words):
            error = sqlite3.OperationalError("injected")
            error.sqlite_errorcode = self.code
            raise error


ROWS = ("SELECT", "INSERT", "UPDATE", "DELETE")
CODES = (
    sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_BUSY_SNAPSHOT, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISUSE, sqlite3.SQLITE_ERROR, 0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("code", "words"),
    [
        *((code, ROWS) for code in CODES),
        *((sqlite3.SQLITE_IOERR_FSYNC, (word,)) for word in ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE")),
        (sqlite3.SQLITE_INTERRUPT, ("COMMIT", "ROLLBACK")),
    ],
)
async def test_whatever_fails_the_catalogue_is_unavailable_and_then_goes_on(
    tmp_path: Path, code: int, words: tuple[str, ...]
) -> None:
    catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
    for call in CALLS.values():
        await call(catalog)
    writer = catalog._writer
    readers = [catalog._readers.get() for _ in range(sqlite_transactions.READERS)]
    catalog._writer = Failing(writer, code, words)  # type: ignore[assignment]  # stands in for it
    for reader in readers:
        catalog._readers.put(Failing(reader, code, words))  # type: ignore[arg-type]  # stands in for it
    failed = set()
    for name, call in CALLS.items():
        try:
            await call(catalog)
        except Unavailable:
            failed.add(name)
    assert failed == set(CALLS) or words is not ROWS
    assert {"publish", "bind", "record_accesses", "remember", "trim_changes"} <= failed
    catalog._writer = writer
    for reader in readers:
        catalog._readers.get()
        catalog._readers.put(reader)
    for call in CALLS.values():
        await call(catalog)
    await catalog.close()


async def test_what_sqlite_cannot_hold_or_decode_ends_nobody_either(tmp_path: Path) -> None:
    catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
    with pytest.raises(Unavailable):
        await catalog.publish(stored(serial=1 << 70))
    with pytest.raises(Unavailable):
        await catalog.remember("key", "\ud800")
    await catalog.bind(bound())
    catalog._writer.execute("UPDATE changes SET record = x'7b'")
    with pytest.raises(Unavailable):
        await catalog.changes(0)
    await catalog.close()


async def test_a_reader_that_was_on_its_way_when_the_catalogue_closed_is_let_go(tmp_path: Path) -> None:
    catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
    await catalog.close()
    # As a thread sees it that looked a moment before.
    catalog._closed = False
    for _ in range(2):
        with pytest.raises(Unavailable), trio.fail_after(5):
            await trio.to_thread.run_sync(catalog._read_in_thread, lambda _: 1, abandon_on_cancel=True)
