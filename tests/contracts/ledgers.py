"""What every ``Catalog`` does as a ledger: what its lines say, how they are chained, and what is read beside them to tell others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio

from origin.api.wire import GENESIS, chained
from origin.catalog import Binding, Catalog
from origin.errors import Rebound, Unavailable
from origin.model import ALLOW, Change, File, Page
from tests.contracts.catalogs import SIX, WHEEL, bound, digest_of, stored, wheel


def told() -> Binding:
    """A binding with all that only the ledger keeps."""
    return replace(bound(), purl="pkg:pypi/six@1.0", published=5.5, source="registry")


async def check_chain(catalog: Catalog, previous: bytes = GENESIS, after: int = 0) -> bytes:
    """Every line beyond ``after`` has the next serial, the JSON of its change and a hash over both it and the one before; the last one."""
    for number, line in enumerate(await catalog.lines(after), after + 1):
        change = msgspec.json.decode(line.record, type=Change)
        assert change.serial == line.serial == number
        assert b"\n" not in line.record
        previous = chained(previous, [line.record])
        assert line.hash == previous
    return previous


class LedgerContract:
    """The suite. Each test gets a new, empty catalogue."""

    async def test_a_line_of_a_file_says_all_that_is_known_of_it(self, catalog: Catalog) -> None:
        await catalog.bind(told())
        assert list(await catalog.changes(0)) == [
            Change(
                1, WHEEL.key, digest_of("six"), ALLOW, kind="file", at=10.0, registry="pypi", project="six", version="1.0",
                filename=WHEEL.filename, path=WHEEL.path, size=100, purl="pkg:pypi/six@1.0", published=5.5, source="registry",
            )
        ]  # fmt: skip

    async def test_a_line_of_a_page_says_what_it_is_now(self, catalog: Catalog) -> None:
        await catalog.publish(stored(Page("pypi", "six", "json"), document=b"some document"))
        await catalog.publish(stored(status=404, document=b"", received_at=600.0))
        held = Change(
            1, "pypi:six:json", digest_of("some document"), kind="page", at=500.0, registry="pypi", project="six", view="json",
            status=200,
        )  # fmt: skip
        gone = Change(2, SIX.key, kind="page", at=600.0, registry="pypi", project="six", status=404)
        assert list(await catalog.changes(0)) == [held, gone]

    async def test_what_only_the_ledger_keeps_does_not_come_back_with_a_binding(self, catalog: Catalog) -> None:
        await catalog.bind(told())
        for found in (await catalog.binding(WHEEL), *await catalog.bindings_after(""), *await catalog.named(digest_of("six"))):
            assert found is not None
            assert (found, found.purl, found.published, found.source) == (bound(), "", None, "")

    async def test_every_line_is_chained_to_the_one_before(self, catalog: Catalog) -> None:
        assert await catalog.head() == (0, GENESIS)
        assert list(await catalog.lines(0)) == []
        await catalog.publish(stored())
        await catalog.bind(told())
        assert await catalog.append(Change(0, "verdicts", kind="verdicts", revision=3, at=1.0)) == 3
        lines = await catalog.lines(0)
        assert [line.serial for line in lines] == [1, 2, 3]
        assert await check_chain(catalog) == lines[-1].hash
        assert await catalog.head() == (3, lines[-1].hash)
        assert [msgspec.json.decode(line.record, type=Change) for line in lines] == list(await catalog.changes(0))

    async def test_lines_are_read_from_any_serial(self, catalog: Catalog) -> None:
        for number in range(5):
            await catalog.publish(stored(Page("pypi", str(number))))
        every = list(await catalog.lines(0))
        assert list(await catalog.lines(2)) == every[2:]
        assert list(await catalog.lines(2, limit=2)) == every[2:4]
        assert list(await catalog.lines(5)) == []

    async def test_a_trimmed_ledger_keeps_its_hashes_and_goes_on(self, catalog: Catalog) -> None:
        for number in range(10):
            await catalog.publish(stored(Page("pypi", str(number))))
        every = list(await catalog.lines(0))
        assert await catalog.trim_changes(3) == 7
        assert await catalog.oldest_change() == 8
        assert list(await catalog.lines(0)) == every[7:]
        assert await catalog.head() == (10, every[-1].hash)
        await catalog.bind(told())
        await check_chain(catalog, every[6].hash, 7)

    async def test_a_write_that_failed_leaves_the_chain_whole(self, catalog: Catalog) -> None:
        async def rebind(number: int) -> None:
            with pytest.raises(Rebound):
                await catalog.bind(bound(wheel(number), "other"))

        for number in range(10):
            await catalog.bind(bound(wheel(number), "one"))
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(rebind, number)
                nursery.start_soon(catalog.bind, bound(wheel(100 + number), "two"))
                nursery.start_soon(catalog.publish, stored(Page("pypi", str(number))))
                nursery.start_soon(catalog.append, Change(0, WHEEL.key, kind="popular"))
        assert [line.serial for line in await catalog.lines(0)] == list(range(1, 41))
        assert (await catalog.head())[1] == await check_chain(catalog)

    async def test_a_line_of_its_own_and_what_is_remembered_with_it_are_there_together(self, catalog: Catalog) -> None:
        await catalog.remember("verdicts", "old")
        await catalog.append(Change(99, "verdicts", kind="verdicts", revision=1), {"verdicts": "new", "other": "fact"})
        assert await catalog.recall("verdicts") == "new"
        assert await catalog.recall("other") == "fact"
        assert list(await catalog.changes(0)) == [Change(1, "verdicts", kind="verdicts", revision=1)]

    async def test_who_waits_for_lines_is_told_of_them(self, catalog: Catalog) -> None:
        heads: list[int] = []

        def note() -> None:
            heads.append(len(heads))

        catalog.on_change = note
        await catalog.remember("nothing", "new")
        await catalog.touch({})
        assert heads == []
        await catalog.publish(stored())
        assert len(heads) == 1
        await catalog.bind(bound())
        assert len(heads) == 2
        await catalog.append(Change(0, "verdicts", kind="verdicts"))
        assert len(heads) == 3
        with pytest.raises(Rebound):
            await catalog.bind(bound(content="evil"))
        assert len(heads) == 3

    async def test_all_that_is_held_is_walked_by_key(self, catalog: Catalog) -> None:
        pages = [Page("a", "x"), Page("a", "y"), Page("a", "y", "json"), Page("b", "x")]
        for page in reversed(pages):
            await catalog.publish(stored(page))
        await catalog.publish(stored(Page("a", "gone"), status=404, document=b""))
        files = [File("a", "p", "1", f"f-{number}", f"f-{number}") for number in range(3)]
        for file in reversed(files):
            await catalog.bind(bound(file, file.filename))
        await catalog.drop(digest_of("f-1"))
        assert list(await catalog.pages_after("")) == pages
        assert list(await catalog.pages_after(pages[0].key, limit=2)) == pages[1:3]
        assert list(await catalog.pages_after(pages[-1].key)) == []
        assert [each.file for each in await catalog.bindings_after("")] == files
        assert [each.file for each in await catalog.bindings_after(files[0].key, limit=1)] == files[1:2]
        assert list(await catalog.bindings_after(files[-1].key)) == []
        assert await catalog.counts() == (4, 3)

    async def test_a_digest_tells_every_name_it_has(self, catalog: Catalog) -> None:
        for number in (2, 1):
            await catalog.bind(bound(wheel(number), "same"))
        await catalog.bind(bound())
        assert [each.file for each in await catalog.named(digest_of("same"))] == [wheel(1), wheel(2)]
        assert list(await catalog.named(digest_of("absent"))) == []
        names = [wheel(1).key, WHEEL.key, "pypi:no:such:file"]
        assert dict(await catalog.bound(names)) == {wheel(1).key: digest_of("same"), WHEEL.key: digest_of("six")}

    async def test_a_copy_is_written_once_and_never_over_anything(self, catalog: Catalog, tmp_path: Path) -> None:
        await catalog.bind(bound())
        await catalog.backup(str(tmp_path / "copy"))
        written = (tmp_path / "copy").read_bytes()
        with pytest.raises(Unavailable):
            await catalog.backup(str(tmp_path / "copy"))
        assert (tmp_path / "copy").read_bytes() == written
        with pytest.raises(Unavailable):
            await catalog.backup(str(tmp_path / "missing" / "copy"))
        assert written
