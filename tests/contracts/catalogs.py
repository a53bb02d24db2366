"""What every ``Catalog`` does. A test module inherits ``CatalogContract`` once per implementation and gives it a ``catalog``."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import trio

from origin.catalog import Access, Binding, Catalog, Event, StoredAnswer
from origin.errors import Rebound, Unavailable
from origin.model import Digest, File, Page, Stamp

SIX = Page("pypi", "six")
WHEEL = File("pypi", "six", "1.0", "six-1.0-py3-none-any.whl", "packages/ab/six-1.0-py3-none-any.whl")


def digest_of(text: str) -> Digest:
    """Some SHA-256."""
    return Digest("sha256", hashlib.sha256(text.encode()).hexdigest())


def stored(page: Page = SIX, document: bytes = b'{"files": []}', **changes: object) -> StoredAnswer:
    """An answer as a source would have brought it."""
    answer = StoredAnswer(page, 200, document, "application/json", Stamp(1000.0, 2000.0), 500.0)
    return replace(answer, **changes)  # type: ignore[arg-type]  # the fields' own types, chosen by the caller


def bound(file: File = WHEEL, content: str = "six", size: int = 100, at: float = 10.0) -> Binding:
    """A binding of ``file`` to the digest of ``content``."""
    aliases = (Digest("blake2b-256", "ab" * 32), Digest("md5", "cd" * 16))
    return Binding(file, digest_of(content), size, at, aliases, "application/zip")


def wheel(number: int) -> File:
    """One of many files."""
    return File("pypi", "many", str(number), f"many-{number}.whl", f"packages/many-{number}.whl")


class CatalogContract:
    """The suite. Each test gets a new, empty catalogue."""

    # -- pages

    async def test_an_answer_comes_back_as_published(self, catalog: Catalog) -> None:
        answer = stored(etag='"x"', last_modified="Thu, 01 Jan 1970 00:00:00 GMT", serial=7, vanishing_since=3.5)
        assert await catalog.answer(SIX) is None
        assert await catalog.publish(answer) == 1
        assert await catalog.answer(SIX) == replace(answer, stamp=Stamp(1000.0, 2000.0, 1))
        assert await catalog.answer(Page("pypi", "six", "json")) is None

    async def test_the_revision_grows_and_outlives_what_it_numbered(self, catalog: Catalog) -> None:
        assert await catalog.publish(stored(document=b"one")) == 1
        assert await catalog.publish(stored(status=404, document=b"", stamp=Stamp(1.0, 2.0, 99))) == 2
        assert await catalog.publish(stored(document=b"three")) == 3
        assert await catalog.publish(stored(Page("pypi", "other"))) == 1
        answer = await catalog.answer(SIX)
        assert answer is not None
        assert (answer.status, answer.document, answer.stamp.revision) == (200, b"three", 3)

    async def test_renewing_moves_the_times_and_nothing_else(self, catalog: Catalog) -> None:
        await catalog.renew(SIX, Stamp(1.0, 2.0), 3.0)
        assert await catalog.answer(SIX) is None
        await catalog.publish(stored(etag='"x"'))
        before = await catalog.changes(0)
        await catalog.renew(SIX, Stamp(5000.0, 6000.0, 42), 4500.0)
        assert await catalog.answer(SIX) == stored(etag='"x"', stamp=Stamp(5000.0, 6000.0, 1), received_at=4500.0)
        assert await catalog.changes(0) == before

    async def test_expiring_makes_every_page_of_a_project_stale(self, catalog: Catalog) -> None:
        for page in (SIX, Page("pypi", "six", "json"), Page("pypi", "seven"), Page("other", "six")):
            await catalog.publish(stored(page))
        assert await catalog.expire("pypi", "six") == 2
        assert await catalog.expire("pypi", "absent") == 0
        assert await catalog.expire("pypi", "six", "no such view") == 0
        assert await catalog.expire("pypi", "six", "js") == 1
        for page, fresh in (
            (SIX, False),
            (Page("pypi", "six", "json"), False),
            (Page("pypi", "seven"), True),
            (Page("other", "six"), True),
        ):
            answer = await catalog.answer(page)
            assert answer is not None
            assert (answer.stamp.fresh_until > 0) is fresh
            assert (answer.stamp.stale_until, answer.stamp.revision) == (2000.0, 1)

    async def test_projects_are_those_whose_listing_is_held(self, catalog: Catalog) -> None:
        await catalog.publish(stored(Page("pypi", "zope")))
        await catalog.publish(stored(Page("pypi", "attrs")))
        await catalog.publish(stored(Page("pypi", "gone"), status=404, document=b""))
        await catalog.publish(stored(Page("pypi", "only-json", "json")))
        await catalog.publish(stored(Page("other", "elsewhere")))
        assert list(await catalog.projects("pypi")) == ["attrs", "zope"]
        assert list(await catalog.projects("nobody")) == []

    async def test_a_large_document_comes_back_whole(self, catalog: Catalog) -> None:
        document = b"".join(
            b'{"filename": "big-%d.whl", "sha256": "%064x"},' % (number, number * 7919) for number in range(20_000)
        )
        await catalog.publish(stored(document=document))
        answer = await catalog.answer(SIX)
        assert answer is not None
        assert answer.document == document

    async def test_an_absence_that_is_known_is_no_news(self, catalog: Catalog) -> None:
        assert await catalog.publish(stored(status=404, document=b"", received_at=1.0)) == 1
        assert await catalog.publish(stored(status=404, document=b"", received_at=2.0, stamp=Stamp(7.0, 8.0))) == 1
        assert [change.serial for change in await catalog.changes(0)] == [1]
        answer = await catalog.answer(SIX)
        assert answer is not None
        assert (answer.received_at, answer.stamp) == (2.0, Stamp(7.0, 8.0, 1))
        assert await catalog.publish(stored(status=410, document=b"")) == 2
        assert await catalog.publish(stored()) == 3
        assert await catalog.publish(stored()) == 4
        assert [change.serial for change in await catalog.changes(0)] == [1, 2, 3, 4]

    async def test_every_page_of_a_project_is_a_view_of_it(self, catalog: Catalog) -> None:
        pages = [SIX, Page("pypi", "six", "json"), Page("pypi", "six", "provenance")]
        for page in (*pages[::-1], Page("pypi", "seven"), Page("other", "six"), Page("pypi", "six-extra")):
            await catalog.publish(stored(page))
        await catalog.publish(stored(pages[1], status=404, document=b""))
        assert list(await catalog.views("pypi", "six")) == pages
        assert list(await catalog.views("pypi", "absent")) == []

    async def test_absences_are_trimmed_by_age_and_number(self, catalog: Catalog) -> None:
        for number in range(10):
            status = (404, 410)[number % 2]
            await catalog.publish(stored(Page("pypi", f"gone-{number}"), status=status, document=b"", received_at=float(number)))
        await catalog.publish(stored(received_at=0.0))
        assert await catalog.trim_absences(0.0, 10) == 0
        assert await catalog.trim_absences(3.0, 100) == 3
        assert await catalog.trim_absences(0.0, 4) == 3
        assert await catalog.trim_absences(8.0, 3) == 2
        left = [number for number in range(10) if await catalog.answer(Page("pypi", f"gone-{number}")) is not None]
        assert left == [8, 9]
        assert await catalog.trim_absences(0.0, 0) == 2
        assert await catalog.trim_absences(1e12, 0) == 0
        assert await catalog.answer(SIX) is not None

    async def test_a_page_whose_absence_was_trimmed_is_never_numbered_as_before(self, catalog: Catalog) -> None:
        last = 0
        for status in (404, 200, 404):
            last = await catalog.publish(stored(status=status, document=b"x" if status == 200 else b""))
        assert await catalog.trim_absences(1e12, 10) == 1
        assert await catalog.answer(SIX) is None
        assert await catalog.publish(stored()) > last
        assert await catalog.publish(stored(Page("pypi", "other"))) > last

    # -- owners

    async def test_owners_are_recorded_and_corrected(self, catalog: Catalog) -> None:
        await catalog.record_owners("pypi", {"packages/a.whl": ("a", "1"), "packages/b.whl": ("b", "2")})
        await catalog.record_owners("pypi", {"packages/b.whl": ("b", "2.0"), "packages/c.whl": ("c", "3")})
        await catalog.record_owners("pypi", {})
        assert await catalog.owner("pypi", "packages/a.whl") == ("a", "1")
        assert await catalog.owner("pypi", "packages/b.whl") == ("b", "2.0")
        assert await catalog.owner("other", "packages/a.whl") is None

    # -- bindings and holdings

    async def test_a_bound_name_is_bound_held_and_in_the_feed(self, catalog: Catalog) -> None:
        assert await catalog.binding(WHEEL) is None
        await catalog.bind(bound())
        assert await catalog.binding(WHEEL) == bound()
        assert await catalog.held(digest_of("six")) == 100
        assert list(await catalog.holdings()) == [(digest_of("six"), 100)]
        (change,) = await catalog.changes(0)
        assert (change.serial, change.resource, change.digest) == (1, WHEEL.key, digest_of("six"))

    async def test_binding_again_changes_nothing_but_holds_the_blob_anew(self, catalog: Catalog) -> None:
        await catalog.bind(bound())
        await catalog.drop(digest_of("six"))
        assert await catalog.held(digest_of("six")) is None
        assert await catalog.binding(WHEEL) == bound()
        await catalog.bind(bound(at=99.0))
        assert await catalog.held(digest_of("six")) == 100
        assert await catalog.binding(WHEEL) == bound()
        assert len(await catalog.changes(0)) == 1

    async def test_the_date_that_came_with_the_bytes_stays_with_the_name(self, catalog: Catalog) -> None:
        dated = replace(bound(), last_modified="Tue, 02 Jan 2024 03:04:05 GMT")
        await catalog.bind(dated)
        await catalog.bind(bound(wheel(1), "undated"))
        assert await catalog.binding(WHEEL) == dated
        assert list(await catalog.bindings("pypi", "six")) == [dated]
        undated = await catalog.binding(wheel(1))
        assert undated is not None
        assert undated.last_modified is None
        await catalog.bind(replace(bound(at=99.0), last_modified="Wed, 03 Jan 2024 03:04:05 GMT"))
        assert await catalog.binding(WHEEL) == dated

    async def test_another_digest_under_a_bound_name_is_an_alarm_and_writes_nothing(self, catalog: Catalog) -> None:
        await catalog.bind(bound())
        with pytest.raises(Rebound) as caught:
            await catalog.bind(bound(content="evil", size=666))
        assert (caught.value.bound, caught.value.seen) == (digest_of("six"), digest_of("evil"))
        assert await catalog.binding(WHEEL) == bound()
        assert await catalog.held(digest_of("evil")) is None
        assert len(await catalog.changes(0)) == 1
        await catalog.bind(bound(wheel(1), "more"))
        assert [change.serial for change in await catalog.changes(0)] == [1, 2]

    async def test_a_project_lists_its_bindings_by_name(self, catalog: Catalog) -> None:
        for number in (2, 1):
            await catalog.bind(bound(wheel(number), str(number)))
        await catalog.bind(bound())
        assert [each.file for each in await catalog.bindings("pypi", "many")] == [wheel(1), wheel(2)]
        assert list(await catalog.bindings("other", "many")) == []

    async def test_two_names_may_share_a_blob(self, catalog: Catalog) -> None:
        await catalog.bind(bound(wheel(1), "same"))
        await catalog.bind(bound(wheel(2), "same"))
        assert await catalog.held_bytes() == 100
        assert len(await catalog.holdings()) == 1

    async def test_victims_are_the_least_recently_used_pins_apart(self, catalog: Catalog) -> None:
        for number in range(5):
            await catalog.bind(bound(wheel(number), str(number), size=10 * (number + 1), at=float(number)))
        assert await catalog.held_bytes() == 150
        assert list(await catalog.victims(0)) == []
        assert list(await catalog.victims(1)) == [(digest_of("0"), 10)]
        await catalog.touch({digest_of("0"): 50.0, digest_of("1"): 40.0, digest_of("absent"): 1.0})
        await catalog.touch({digest_of("1"): 0.0, digest_of("2"): 0.5})
        await catalog.touch({})
        await catalog.pin(digest_of("2"))
        await catalog.pin(digest_of("absent"))
        assert list(await catalog.victims(60)) == [(digest_of("3"), 40), (digest_of("4"), 50)]
        assert [size for _, size in await catalog.victims(10_000)] == [40, 50, 20, 10]
        await catalog.pin(digest_of("2"), pinned=False)
        assert list(await catalog.victims(1)) == [(digest_of("2"), 30)]

    async def test_what_is_dropped_is_no_victim(self, catalog: Catalog) -> None:
        await catalog.bind(bound())
        await catalog.drop(digest_of("six"))
        await catalog.drop(digest_of("six"))
        assert list(await catalog.victims(1)) == []
        assert await catalog.held_bytes() == 0

    # -- feed

    async def test_serials_have_no_gaps_whatever_fails_beside_them(self, catalog: Catalog) -> None:
        async def bind(number: int) -> None:
            await catalog.bind(bound(wheel(number % 40), "x" if number < 40 else "y"))

        async def rebind(number: int) -> None:
            with pytest.raises(Rebound):
                await bind(number)

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(bind, number)
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(rebind, 40 + number)
                nursery.start_soon(catalog.publish, stored(Page("pypi", str(number))))
        changes = await catalog.changes(0)
        assert [change.serial for change in changes] == list(range(1, 81))
        assert {change.resource for change in changes[40:]} == {Page("pypi", str(number)).key for number in range(40)}

    async def test_the_feed_is_read_from_any_serial(self, catalog: Catalog) -> None:
        for number in range(5):
            await catalog.publish(stored(Page("pypi", str(number))))
        assert [change.serial for change in await catalog.changes(2)] == [3, 4, 5]
        assert [change.serial for change in await catalog.changes(2, limit=1)] == [3]
        assert list(await catalog.changes(5)) == []

    async def test_a_trimmed_feed_goes_on_and_says_where_it_begins(self, catalog: Catalog) -> None:
        assert await catalog.oldest_change() == 1
        assert await catalog.trim_changes(5) == 0
        for number in range(10):
            await catalog.publish(stored(Page("pypi", str(number))))
        assert await catalog.oldest_change() == 1
        assert await catalog.trim_changes(10) == 0
        assert await catalog.trim_changes(4) == 6
        assert await catalog.oldest_change() == 7
        assert [change.serial for change in await catalog.changes(0)] == [7, 8, 9, 10]
        assert [change.serial for change in await catalog.changes(8, limit=1)] == [9]
        await catalog.bind(bound())
        assert [change.serial for change in await catalog.changes(6)] == [7, 8, 9, 10, 11]
        # The last line stays even so: the next serial is one more.
        assert await catalog.trim_changes(0) == 4
        await catalog.publish(stored())
        assert [change.serial for change in await catalog.changes(0)] == [11, 12]
        assert await catalog.oldest_change() == 11

    # -- events, accesses, memory

    async def test_events_are_newest_first(self, catalog: Catalog) -> None:
        events = [Event(float(number), "digest-mismatch", f"file-{number % 2}", "why") for number in range(4)]
        for event in events:
            await catalog.record_event(event)
        assert list(await catalog.events()) == events[::-1]
        assert list(await catalog.events(limit=1)) == [events[3]]
        assert list(await catalog.events(subject="file-0")) == [events[2], events[0]]

    async def test_accesses_are_newest_first_and_trimmed_by_age_and_number(self, catalog: Catalog) -> None:
        accesses = [Access(float(number), f"file-{number % 2}", "ab", "127.0.0.1", "", 10, number != 3) for number in range(6)]
        await catalog.record_accesses(accesses[:4])
        await catalog.record_accesses(iter(accesses[4:]))
        await catalog.record_accesses([])
        assert list(await catalog.accesses()) == accesses[::-1]
        assert list(await catalog.accesses("file-1", 2)) == [accesses[5], accesses[3]]
        assert await catalog.trim_accesses(2.0, 100) == 2
        assert await catalog.trim_accesses(0.0, 3) == 1
        assert list(await catalog.accesses()) == accesses[:2:-1]
        assert await catalog.trim_accesses(0.0, 3) == 0
        assert await catalog.trim_accesses(100.0, 3) == 3
        assert list(await catalog.accesses()) == []
        assert await catalog.trim_accesses(100.0, 3) == 0

    async def test_small_facts_are_remembered(self, catalog: Catalog) -> None:
        assert await catalog.recall("hosts") is None
        await catalog.remember("hosts", "a")
        await catalog.remember("hosts", "b\n☃")
        assert await catalog.recall("hosts") == "b\n☃"

    # -- many tasks, and the end

    async def test_a_cancelled_write_harms_nobody_elses(self, catalog: Catalog) -> None:
        async def give_up(number: int) -> None:
            with trio.CancelScope() as scope:
                scope.cancel()
                await catalog.bind(bound(wheel(number), "never"))

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(give_up, 100 + number)
                nursery.start_soon(catalog.bind, bound(wheel(number), str(number)))
        assert await catalog.held_bytes() == 2000
        assert [change.serial for change in await catalog.changes(0)] == list(range(1, 21))

    async def test_after_closing_nothing_is_answered(self, catalog: Catalog) -> None:
        await catalog.bind(bound())
        await catalog.close()
        await catalog.close()
        with pytest.raises(Unavailable):
            await catalog.binding(WHEEL)
        with pytest.raises(Unavailable):
            await catalog.bind(bound())
