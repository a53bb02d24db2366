"""The feed: news told at once and together, batches made once, what a follower checks, and a chain in which nothing can be changed."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from origin import feed
from origin.api import wire
from origin.catalog import Catalog, Line
from origin.catalog.memory import MemoryCatalog
from origin.catalog.sqlite import SqliteCatalog
from origin.errors import Unavailable
from origin.feed import BehindFloor, EpochChanged, Forked, Ledger, Report, RolledBack, checked, verify_ledger
from origin.model import Change, Page
from tests.contracts.catalogs import bound, digest_of, stored, wheel

OWNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = OWNER.public_key().public_bytes_raw()


def now() -> float:
    return 1_700_000_000.25


async def opened(catalog: Catalog, **options: int) -> Ledger:
    return await Ledger.open(catalog, OWNER.sign, now, **options)


async def write(catalog: Catalog, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        await catalog.bind(bound(wheel(number), str(number)))


async def read(ledger: Ledger, cursor: str, limit: int = feed.LINES) -> tuple[wire.Batch, list[bytes]]:
    return wire.read_lines(await ledger.batch(cursor, limit))


class Slow(MemoryCatalog):
    """A catalogue that counts how often lines are read, takes a second for it, and fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.fails = False

    async def lines(self, after: int, limit: int = 1000) -> Sequence[Line]:
        self.reads += 1
        await trio.sleep(1)
        return await super().lines(after, limit)

    async def head(self) -> tuple[int, bytes]:
        if self.fails:
            raise Unavailable("injected")
        return await super().head()


# ---- news


async def test_who_waits_is_told_of_a_line_at_once(autojump_clock: trio.testing.MockClock) -> None:
    catalog = MemoryCatalog()
    ledger = await opened(catalog)
    heard: list[float] = []

    async def follow() -> None:
        await ledger.wait_beyond(ledger.cursor, 0, 25)
        heard.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        for _ in range(100):
            nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        assert ledger.waiting == 100
        await trio.sleep(7)
        at = trio.current_time()
        await write(catalog, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert heard == [at] * 100
        assert (ledger.head, ledger.waiting) == (1, 0)
        nursery.cancel_scope.cancel()


async def test_what_comes_right_after_is_announced_together(autojump_clock: trio.testing.MockClock) -> None:
    catalog = MemoryCatalog()
    ledger = await opened(catalog)
    heads: list[int] = []

    async def follow() -> None:
        while True:
            await ledger.wait_beyond(wire.cursor_text(ledger.epoch, heads[-1] if heads else 0), 0, 25)
            heads.append(ledger.head)

    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        nursery.start_soon(follow)
        for number in range(50):
            await write(catalog, 1, number)
            await trio.sleep(0.001)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert heads[0] == 1
    assert heads[-1] == 50
    assert len(heads) < 6


async def test_other_verdicts_wake_who_waits_without_a_line(autojump_clock: trio.testing.MockClock) -> None:
    ledger = await opened(MemoryCatalog(), verdicts=3)
    woken: list[float] = []

    async def follow(verdicts: int) -> None:
        await ledger.wait_beyond(ledger.cursor, verdicts, 25)
        woken.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        begin = trio.current_time()
        nursery.start_soon(follow, 2)
        nursery.start_soon(follow, 3)
        await trio.sleep(5)
        assert woken == [begin]
        ledger.set_verdicts(3)
        await trio.sleep(5)
        ledger.set_verdicts(4)
    assert woken == [begin, begin + 10]
    batch, records = await read(ledger, ledger.cursor)
    assert (batch.verdicts, records) == (4, [])


async def test_a_wait_without_news_ends_in_time(autojump_clock: trio.testing.MockClock) -> None:
    ledger = await opened(MemoryCatalog())
    begin = trio.current_time()
    await ledger.wait_beyond(ledger.cursor, 0, 25)
    assert trio.current_time() == begin + 25
    await ledger.wait_beyond(ledger.cursor, 0, -1)
    await write(MemoryCatalog(), 1)
    assert trio.current_time() == begin + 25


async def test_lines_are_announced_once_the_catalogue_answers_again(autojump_clock: trio.testing.MockClock) -> None:
    catalog = Slow()
    ledger = await opened(catalog)
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        catalog.fails = True
        await write(catalog, 1)
        await trio.sleep(10)
        assert ledger.head == 0
        catalog.fails = False
        await ledger.wait_beyond(ledger.cursor, 0, 5)
        assert ledger.head == 1
        nursery.cancel_scope.cancel()


async def test_the_ledger_tells_of_itself_after_reopening(tmp_path: Path) -> None:
    catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
    ledger = await opened(catalog)
    await write(catalog, 3)
    await ledger.announce()
    before = ledger.cursor, ledger.hash
    await catalog.close()
    catalog = await SqliteCatalog.open(tmp_path / "catalog.sqlite")
    ledger = await opened(catalog)
    assert (ledger.cursor, ledger.hash) == before
    await catalog.remember("epoch", feed.new_epoch())
    with pytest.raises(EpochChanged):
        await (await opened(catalog)).wait_beyond(before[0], 0, 0)
    await catalog.close()


# ---- batches


async def test_a_batch_is_read_and_signed_once_for_all_who_ask_for_the_same(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, signed = Slow(), []

    def sign(text: bytes) -> bytes:
        signed.append(text)
        return OWNER.sign(text)

    ledger = await Ledger.open(catalog, sign, now)
    cursor = ledger.cursor
    await write(catalog, 5)
    await ledger.announce()
    catalog.reads = 0
    got: list[bytes] = []

    async def ask() -> None:
        got.append(await ledger.batch(cursor))

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.5):
            # The first goes away while it is made: the others do without it.
            await ask()
        for _ in range(100):
            nursery.start_soon(ask)
    assert len(got) == 100
    assert len({id(each) for each in got}) == 1
    assert (catalog.reads, len(signed)) == (2, 1)
    await ledger.batch(cursor, 3)
    assert (catalog.reads, len(signed)) == (3, 2)
    await ledger.batch(cursor)
    assert (catalog.reads, len(signed)) == (3, 2)


async def test_what_is_made_while_there_is_news_is_not_kept(autojump_clock: trio.testing.MockClock) -> None:
    catalog = Slow()
    ledger = await opened(catalog)
    cursor = ledger.cursor
    await write(catalog, 2)
    await ledger.announce()
    heads: list[int] = []

    async def ask() -> None:
        batch, records = await read(ledger, cursor)
        assert len(records) == batch.head
        heads.append(batch.head)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(ask)
        await trio.sleep(0.5)
        await write(catalog, 1, 2)
        await ledger.announce()
    assert heads == [2, 3]


async def test_no_more_is_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = MemoryCatalog()
    ledger = await opened(catalog)
    cursor = ledger.cursor
    await write(catalog, 40)
    await ledger.announce()
    monkeypatch.setattr(feed, "CACHE_BYTES", 10_000)
    for limit in range(1, 41):
        assert len((await read(ledger, cursor, limit))[1]) == limit
        assert sum(map(len, ledger._made.values())) == ledger._made_bytes < 30_000


async def test_the_lines_of_a_ledger_come_in_batches_that_a_follower_can_check() -> None:
    catalog = MemoryCatalog()
    ledger = await opened(catalog)
    cursor, last, serials = ledger.cursor, wire.GENESIS, []
    await write(catalog, 25)
    await ledger.announce()
    await write(catalog, 5, 25)
    while True:
        batch, records = await read(ledger, cursor, 10)
        _, after = wire.read_cursor(cursor)
        last = checked(batch, records, last, KEY, after)
        serials += [msgspec.json.decode(record, type=Change).serial for record in records]
        cursor = batch.cursor
        assert batch.head == 25
        if not records:
            break
    assert serials == list(range(1, 26))
    assert (cursor, last) == (ledger.cursor, ledger.hash)


async def test_a_cursor_that_cannot_be_followed_is_gone() -> None:
    catalog = MemoryCatalog()
    await write(catalog, 10)
    await catalog.trim_changes(4)
    ledger = await opened(catalog)
    for ask in (ledger.batch, lambda cursor: ledger.wait_beyond(cursor, 0, 0)):
        with pytest.raises(EpochChanged):
            await ask("another.5")
        with pytest.raises(BehindFloor):
            await ask(wire.cursor_text(ledger.epoch, 5))
        with pytest.raises(ValueError, match="not a cursor"):
            await ask("5")
        await ask(wire.cursor_text(ledger.epoch, 6))
    await catalog.trim_changes(2)
    with pytest.raises(BehindFloor):
        await ledger.batch(wire.cursor_text(ledger.epoch, 6), 1)


async def test_who_begins_with_an_unchained_ledger_begins_at_its_end() -> None:
    class Old(MemoryCatalog):
        async def lines(self, after: int, limit: int = 1000) -> Sequence[Line]:
            return await super().lines(max(after, 7), limit)

        async def head(self) -> tuple[int, bytes]:
            serial, last = await super().head()
            return (7, wire.GENESIS) if serial == 7 else (serial, last)

    catalog = Old()
    await write(catalog, 7)
    ledger = await opened(catalog)
    assert (ledger.head, ledger.hash) == (7, wire.GENESIS)
    with pytest.raises(BehindFloor):
        await ledger.batch(wire.cursor_text(ledger.epoch, 6))
    batch, records = await read(ledger, ledger.cursor)
    assert checked(batch, records, wire.GENESIS, KEY, 7) == wire.GENESIS


# ---- the follower's side


async def sent(catalog: Catalog, after: int = 0, limit: int = 1000) -> tuple[wire.Batch, list[bytes]]:
    ledger = await opened(catalog)
    return await read(ledger, wire.cursor_text(ledger.epoch, after), limit)


async def test_a_ledger_that_ends_before_what_was_followed_is_rolled_back() -> None:
    catalog = MemoryCatalog()
    await write(catalog, 3)
    batch, records = await sent(catalog, 7)
    assert records == []
    with pytest.raises(RolledBack):
        checked(batch, records, digest_bytes("whatever"), KEY, 7)
    with pytest.raises(Forked):
        checked(batch, records, digest_bytes("whatever"), KEY)


def digest_bytes(text: str) -> bytes:
    return bytes.fromhex(digest_of(text).value)


async def test_who_read_the_catalogue_before_its_lines_were_announced_follows_from_there() -> None:
    catalog = MemoryCatalog()
    ledger = await opened(catalog)
    await write(catalog, 3)
    serial, chain = await catalog.head()
    assert ledger.head == 0
    batch, records = await read(ledger, wire.cursor_text(ledger.epoch, serial))
    assert checked(batch, records, chain, KEY, serial) == chain
    assert (records, batch.head, ledger.head) == ([], 3, 3)


async def test_a_ledger_that_goes_on_from_something_else_is_forked() -> None:
    ours, theirs = MemoryCatalog(), MemoryCatalog()
    await write(ours, 3)
    await write(theirs, 4, first=50)
    _, last = await ours.head()
    batch, records = await sent(theirs, 3)
    with pytest.raises(Forked, match="do not continue"):
        checked(batch, records, last, KEY, 3)
    batch, records = await sent(theirs, 4)
    with pytest.raises(Forked):
        checked(batch, records, last, KEY, 4)


async def test_what_is_signed_by_somebody_else_is_not_believed() -> None:
    catalog = MemoryCatalog()
    await write(catalog, 3)
    batch, records = await sent(catalog)
    stranger = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(Forked, match="not signed"):
        checked(batch, records, wire.GENESIS, stranger, 0)
    for changes in (
        {"signature": ""},
        {"signature": "no base64"},
        {"at": 1.0},
        {"serial": 2},
        {"epoch": "other"},
        {"hash": "00" * 32},
    ):
        forged = msgspec.structs.replace(batch.checkpoint, **changes)
        with pytest.raises(Forked, match="not signed"):
            checked(msgspec.structs.replace(batch, checkpoint=forged), records, wire.GENESIS, KEY, 0)
    with pytest.raises(ValueError, match="cursor"):
        checked(msgspec.structs.replace(batch, cursor="other.3"), records, wire.GENESIS, KEY, 0)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_batch_in_which_anything_was_changed_is_not_believed(data: st.DataObject) -> None:
    batch, records = trio.run(twenty)
    damaged = mutated(data, records)
    if damaged == records:
        return
    with pytest.raises(ValueError):
        checked(batch, damaged, wire.GENESIS, KEY, 0)
    assert checked(batch, records, wire.GENESIS, KEY, 0) == bytes.fromhex(batch.checkpoint.hash)


async def twenty() -> tuple[wire.Batch, list[bytes]]:
    catalog = MemoryCatalog()
    await write(catalog, 10)
    for number in range(10):
        await catalog.publish(stored(Page("pypi", str(number))))
    return await sent(catalog)


def mutated(data: st.DataObject, records: Sequence[bytes]) -> list[bytes]:
    """Records of which one was flipped, dropped, sent twice, put elsewhere or made up."""
    changed = list(records)
    where = data.draw(st.integers(0, len(records) - 1))
    match data.draw(st.sampled_from(["flip", "drop", "repeat", "move", "insert"])):
        case "flip":
            at, bit = data.draw(st.integers(0, len(changed[where]) - 1)), data.draw(st.integers(0, 7))
            flipped = bytearray(changed[where])
            flipped[at] ^= 1 << bit
            changed[where] = bytes(flipped)
        case "drop":
            del changed[where]
        case "repeat":
            changed.insert(where, changed[where])
        case "move":
            changed.insert(data.draw(st.integers(0, len(records) - 1)), changed.pop(where))
        case "insert":
            changed.insert(where, msgspec.json.encode(Change(where + 1, "pypi:evil:", kind="page")))
    return changed


def test_a_line_of_a_later_version_is_checked_like_any_other() -> None:
    record = b'{"serial":1,"resource":"x","kind":"unheard-of","more":[1,2]}'
    plain = wire.Checkpoint("e", 1, wire.chained(wire.GENESIS, [record]).hex(), 1.0)
    ledger_hash = bytes.fromhex(plain.hash)
    batch = wire.Batch(cursor="e.1", verdicts=0, head=1, checkpoint=vouched(plain))
    assert checked(batch, [record], wire.GENESIS, KEY, 0) == ledger_hash


def vouched(plain: wire.Checkpoint) -> wire.Checkpoint:
    return msgspec.structs.replace(plain, signature=base64.b64encode(OWNER.sign(wire.signed_text(plain))).decode())


# ---- the whole of it


async def filled(path: Path) -> SqliteCatalog:
    """A ledger of twenty lines, vouched for up to its end."""
    catalog = await SqliteCatalog.open(path)
    ledger = await opened(catalog)
    await write(catalog, 10)
    for number in range(10):
        await catalog.publish(stored(Page("pypi", str(number))))
    await ledger.announce()
    await ledger.vouch()
    return catalog


async def walked(catalog: Catalog, **options: bool) -> Report:
    return await verify_ledger(catalog, KEY, piece=7, **options)


async def test_a_ledger_as_it_was_written_is_sound(tmp_path: Path) -> None:
    catalog = await filled(tmp_path / "catalog.sqlite")
    serial, last = await catalog.head()
    assert await walked(catalog) == Report(1, 20, last, 20, ())
    await catalog.drop(digest_of("3"))
    await write(catalog, 5, 10)
    assert (await walked(catalog)).problems == ()
    await catalog.close()
    assert serial == 20


async def test_an_empty_ledger_is_sound(tmp_path: Path) -> None:
    catalog = MemoryCatalog()
    assert await walked(catalog) == Report(0, 0, wire.GENESIS, 0, ())
    ledger = await opened(catalog)
    await ledger.vouch()
    assert (await walked(catalog)).problems == ()


async def test_a_trimmed_ledger_is_sound_only_to_who_knows_that_it_is_trimmed(tmp_path: Path) -> None:
    catalog = await filled(tmp_path / "catalog.sqlite")
    await catalog.trim_changes(5)
    assert (await walked(catalog, trimmed=True)).problems == ()
    assert any("line 16 is not the one" in problem for problem in (await walked(catalog)).problems)
    await catalog.close()


TAMPERED = {
    "a record was changed": "UPDATE changes SET record = replace(CAST(record AS TEXT), 'many', 'evil') WHERE serial = 5",
    "a record and its hash were changed": "UPDATE changes SET record = x'7b7d', hash = zeroblob(32) WHERE serial = 5",
    "a line was dropped": "DELETE FROM changes WHERE serial = 5",
    "the first line was dropped": "DELETE FROM changes WHERE serial = 1",
    "the last line was dropped": "DELETE FROM changes WHERE serial = 20",
    "all lines were dropped": "DELETE FROM changes",
    "two lines were exchanged": "UPDATE changes SET serial = serial + 100 WHERE serial = 4; UPDATE changes SET serial = 4 WHERE serial = 5;"
    "UPDATE changes SET serial = 5 WHERE serial = 104",
    "a name was bound to something else": "UPDATE bindings SET digest = 'sha256-00' WHERE version = '3'",
    "a binding was dropped": "DELETE FROM bindings WHERE version = '3'",
    "a name was bound without a line": "INSERT INTO bindings SELECT 'pypi:evil:1:evil', registry, project, version, filename, path, digest,"
    " size, bound_at, media_type, aliases, last_modified FROM bindings WHERE version = '3'",
    "the checkpoint was changed": "UPDATE memory SET value = replace(value, '\"serial\":20', '\"serial\":19') WHERE key = 'checkpoint'",
    "the checkpoint is unreadable": "UPDATE memory SET value = '{' WHERE key = 'checkpoint'",
}


@pytest.mark.parametrize("what", TAMPERED)
async def test_whatever_was_changed_in_the_database_is_found(tmp_path: Path, what: str) -> None:
    path = tmp_path / "catalog.sqlite"
    await (await filled(path)).close()
    other = sqlite3.connect(path)
    other.executescript(TAMPERED[what])
    other.close()
    catalog = await SqliteCatalog.open(path)
    assert (await walked(catalog)).problems, what
    await catalog.close()


async def test_a_chain_made_anew_without_the_key_is_found(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    await (await filled(path)).close()
    other = sqlite3.connect(path)
    last = wire.GENESIS
    for serial, record in other.execute("SELECT serial, record FROM changes ORDER BY serial").fetchall():
        made = record.replace(b'"status":200', b'"status":404')
        last = wire.chained(last, [made])
        other.execute("UPDATE changes SET record = ?, hash = ? WHERE serial = ?", (made, last, serial))
    other.commit()
    other.close()
    catalog = await SqliteCatalog.open(path)
    assert (await walked(catalog)).problems == ("line 20 is not the one that the checkpoint vouches for",)
    await catalog.close()


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_whichever_line_was_changed_dropped_moved_or_made_up_is_found(data: st.DataObject) -> None:
    async def main() -> tuple[Report, bool]:
        catalog = MemoryCatalog()
        ledger = await opened(catalog)
        await write(catalog, 8)
        await ledger.announce()
        await ledger.vouch()
        before = list(catalog._lines)
        records = mutated(data, [line.record for line in before])
        hashes = [line.hash for line in before] + [before[-1].hash]
        # Each line keeps its place's serial and hash, as far as there are any.
        after = [
            replace(before[0], serial=number + 1, record=record, hash=hashes[number]) for number, record in enumerate(records)
        ]
        catalog._lines[:] = after
        return await walked(catalog), after != before

    report, is_changed = trio.run(main)
    assert bool(report.problems) is is_changed


async def test_a_report_names_no_end_of_problems(tmp_path: Path) -> None:
    catalog = MemoryCatalog()
    await write(catalog, 300)
    catalog._bindings.clear()
    assert len((await walked(catalog)).problems) == feed.PROBLEMS
