"""What an edge wants before anybody asks is brought a few at a time; nothing that fails holds anything up, and no budget is overrun."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import pytest
import trio
from trio.testing import MockClock

from edge.following.wanting import Wanting, stale_of
from edge.settings import ReplicateSettings
from origin.api import wire
from origin.catalog import Access, Wanted
from origin.errors import Corrupt, NotFound, Refused, Unavailable
from origin.model import ALLOW, Change, File, Hold, Page, Refuse, Verdict
from origin.pages import ABSENT
from tests.following import ALL, KINDS, NONE, POPULAR, Edge, Keeper, binding, file, following, once, soon
from tests.scripted import now


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def matching(*globs: str) -> ReplicateSettings:
    return ReplicateSettings(mode="matching", match=globs)


# ---- what is wanted


def line(
    what: File | Page, kind: Literal["page", "file", "popular"] = "file", status: int = 200, verdict: Verdict = ALLOW
) -> Change:
    if isinstance(what, Page):
        return Change(1, what.key, kind=kind, registry=what.registry, project=what.project, view=what.view, status=status)
    return Change(
        1,
        what.key,
        verdict=verdict,
        kind=kind,
        registry=what.registry,
        project=what.project,
        version=what.version,
        filename=what.filename,
        path=what.path,
    )


SIX, SCOPED = file("six", "1.16.0"), File("npm", "@company/tool", "1.0.0", "tool-1.0.0.tgz", "@company/tool/-/tool-1.0.0.tgz")


@pytest.mark.parametrize(
    ("asked", "change", "wanted"),
    [
        (ALL, line(SIX), [SIX.key]),
        (ALL, line(Page("pypi", "six"), "page"), ["pypi:six:"]),
        (ALL, line(Page("pypi", "six"), "page", status=404), []),
        (ALL, line(SIX, verdict=Refuse("bad", "rule")), []),
        (ALL, line(SIX, verdict=Hold(9.0, "new", "rule")), []),
        (ALL, line(File("company", "x", "1", "x-1.jar", "x-1.jar")), []),
        (NONE, line(SIX), []),
        (NONE, line(SIX, "popular"), []),
        (POPULAR, line(SIX), []),
        (POPULAR, line(SIX, "popular"), ["pypi:six:", SIX.key]),
        (ALL, line(SIX, "popular"), []),
        (matching("pkg:npm/@company/*"), line(SCOPED), [SCOPED.key]),
        (matching("pkg:npm/@company/*"), line(Page("npm", "@company/tool"), "page"), ["npm:@company/tool:"]),
        (matching("pkg:npm/@company/*"), line(SIX), []),
        (matching("pkg:pypi/six@1.16.*"), line(SIX), [SIX.key]),
        (matching("pkg:pypi/six@1.15.*"), line(SIX), []),
        (matching("pkg:pypi/six@1.15.*"), line(Page("pypi", "six"), "page"), ["pypi:six:"]),
        (matching("*"), line(SIX), [SIX.key]),
    ],
)
def test_what_a_line_makes_an_edge_want(asked: ReplicateSettings, change: Change, wanted: list[str]) -> None:
    assert [each.key for each in Wanting(asked, KINDS).wanted([change], frozenset(), 5.0)] == wanted


def test_what_several_lines_tell_of_is_wanted_once_and_its_pages_are_stale_once() -> None:
    page = Page("pypi", "six")
    lines = [line(page, "page"), line(SIX), line(page, "page")]
    assert [each.key for each in Wanting(ALL, KINDS).wanted(lines, frozenset(), 5.0)] == [page.key, SIX.key]
    assert stale_of(lines) == [("pypi", "six")]


def test_that_a_file_does_not_exist_makes_no_page_stale() -> None:
    absence = Page("maven", "org.example/lib", f"{ABSENT}org/example/lib/1.0/lib-1.0-sources.jar")
    assert stale_of([line(absence, "page", status=404)]) == []


# ---- where it begins


async def test_a_new_edge_takes_in_what_the_origin_holds_part_by_part(clock: MockClock) -> None:
    async with following() as origin:
        origin.part = 2
        files = [file(f"p{n}") for n in range(7)]
        pages = [await origin.page(f"p{n}") for n in range(3)]
        await origin.bind(*files)
        edge = Edge(origin)
        async with edge.run() as follower:
            await soon(lambda: len(edge.keeper.kept) == 10)
            assert set(edge.keeper.kept) == {each.key for each in files} | {each.key for each in pages}
            assert "taking_in" not in await follower.status()
            await origin.bind(file("later"))
            await soon(lambda: file("later").key in edge.keeper.kept)


async def test_an_edge_that_is_stopped_while_it_takes_in_a_snapshot_goes_on_after_it(clock: MockClock) -> None:
    async with following() as origin:
        origin.part = 2
        files = [file(f"p{n}") for n in range(8)]
        await origin.bind(*files)
        edge = Edge(origin)
        parts = 0

        def fails_in_the_middle(what: str) -> None:
            nonlocal parts
            parts += what == "snapshot"
            if what == "snapshot" and parts > 3:
                raise Unavailable("the way there is cut")

        origin.trouble = fails_in_the_middle
        async with edge.run() as follower:
            await soon(lambda: parts > 3)
            assert (await follower.status())["taking_in"] == {"done": 4, "of": 8}
        origin.trouble = lambda _: None
        origin.asked.clear()
        async with edge.run():
            await soon(lambda: origin.acknowledged)
            assert origin.asked.count("snapshot") == 3, "two with files, and the one that has none"
            await soon(lambda: not edge.catalog._wanted)
            assert len(edge.catalog._bindings) == 8


async def test_an_origin_that_is_restored_while_its_snapshot_is_taken_in_is_begun_with_again(clock: MockClock) -> None:
    async with following() as origin:
        origin.part = 2
        await origin.bind(*[file(f"p{n}") for n in range(8)])
        edge = Edge(origin)

        def none_after_two(what: str) -> None:
            if what == "snapshot" and origin.asked.count("snapshot") == 3:
                raise Unavailable("down for a restore")

        origin.trouble = none_after_two
        async with edge.run():
            await soon(lambda: origin.asked.count("snapshot") == 3)
            await origin.restore()
            await soon(lambda: origin.acknowledged and origin.acknowledged[-1].cursor == origin.ledger.cursor)
            await soon(lambda: len(edge.catalog._bindings) == 8)


async def test_an_edge_that_wants_what_is_popular_reads_the_ledger_from_its_beginning(clock: MockClock) -> None:
    async with following() as origin:
        await origin.page("six")
        await origin.bind(file("six"), file("seven"))
        await origin.popular(file("six"))
        edge = Edge(origin, POPULAR)
        async with edge.run():
            await soon(lambda: file("six").key in edge.keeper.kept)
            assert edge.keeper.kept == ["pypi:six:", file("six").key]


async def test_an_edge_that_wants_what_is_popular_does_without_a_beginning_that_is_not_kept(clock: MockClock) -> None:
    async with following() as origin:
        await origin.bind(file("six"), file("seven"))
        origin.catalog._lines = origin.catalog._lines[1:]
        await origin.open()
        edge = Edge(origin, POPULAR)
        async with edge.run():
            await soon(lambda: origin.acknowledged and origin.acknowledged[-1].cursor == origin.ledger.cursor)
            await origin.popular(file("seven"))
            await soon(lambda: file("seven").key in edge.keeper.kept)


async def test_an_edge_that_wants_more_than_before_looks_at_all_that_there_is(clock: MockClock) -> None:
    async with following() as origin:
        page = await origin.page("six")
        await origin.bind(file("six"))
        edge = Edge(origin, NONE)
        async with edge.run():
            await soon(lambda: origin.acknowledged)
        edge.asked = ALL
        async with edge.run():
            await soon(lambda: len(edge.keeper.kept) == 2 and not edge.catalog._wanted)
            assert edge.keeper.kept == [page.key, file("six").key]
        asked = origin.asked.count("snapshot")
        for less in (ALL, NONE):
            edge.asked = less
            async with edge.run():
                await origin.page("seven")
                await soon(lambda: edge.count("feed_serial") == origin.ledger.head)
        assert origin.asked.count("snapshot") == asked, "who wants no more than before goes on where it was"
        edge.asked = POPULAR
        await origin.popular(file("six"))
        async with edge.run():
            await soon(lambda: edge.count("feed_serial") == origin.ledger.head and not edge.catalog._wanted)
            assert file("six").key in edge.keeper.kept


async def test_a_snapshot_that_is_half_taken_in_is_begun_anew_for_who_wants_something_else(clock: MockClock) -> None:
    async with following() as origin:
        origin.part = 1
        for name in ("five", "six", "seven"):
            await origin.page(name)
        give = origin._snapshot

        async def slow(after: str, limit: int) -> wire.Snapshot:
            if origin.asked.count("snapshot") == 3:
                await trio.sleep_forever()
            return await give(after, limit)

        origin._snapshot = slow  # type: ignore[method-assign]
        edge = Edge(origin, matching("pkg:pypi/seven"))
        async with edge.run():
            await soon(lambda: origin.asked.count("snapshot") == 3)
        edge.asked = ALL
        async with edge.run():
            await soon(lambda: origin.acknowledged and origin.acknowledged[-1].cursor == origin.ledger.cursor)
            await soon(lambda: not edge.catalog._wanted)
            # The one that both snapshots want may be under way when the second does: then it comes twice.
            assert set(edge.keeper.kept) == {"pypi:five:", "pypi:seven:", "pypi:six:"}


async def test_an_origin_that_does_not_know_its_own_ledger_is_not_asked_without_end(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        async with edge.run():
            await soon(lambda: origin.acknowledged)
            origin.is_strange = True
            await origin.bind(file("six"))
            await trio.sleep(60)
            assert origin.asked.count("snapshot") < 60
            origin.is_strange = False
            await soon(lambda: file("six").key in edge.keeper.kept)


async def test_an_edge_that_was_alone_doubts_what_it_holds_when_it_begins_to_follow(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin, NONE)
        held = await edge.hold("six")
        async with edge.run():
            await soon(lambda: origin.acknowledged)
            assert not await edge.is_fresh(held)


# ---- bringing


async def test_so_many_come_at_once_and_no_more(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin, ReplicateSettings(mode="all", at_once=3))
        files = [file(f"p{n}") for n in range(20)]
        gate = trio.Event()
        keeper = Keeper(edge.catalog, ends={each.key: gate for each in files})
        async with edge.run(keeper=keeper):
            await origin.bind(*files)
            await soon(lambda: len(keeper.under_way) == 3)
            await trio.sleep(60)
            assert keeper.most == 3
            gate.set()
            await soon(lambda: len(keeper.kept) == 20)


async def test_one_that_fails_is_tried_again_rarer_and_rarer_and_holds_up_nobody(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        bad = file("bad")
        keeper = Keeper(edge.catalog, ends={bad.key: Corrupt("other bytes than published")})
        async with edge.run(keeper=keeper) as follower:
            await soon(lambda: origin.acknowledged)
            await origin.bind(bad, file("good"))
            assert await soon(lambda: file("good").key in keeper.kept) < 2
            await trio.sleep(20)
            [wanted] = edge.catalog._wanted.values()
            assert 2 <= wanted.attempts <= 6
            assert "other bytes" in wanted.error
            await trio.sleep(600)
            [dead] = edge.catalog._wanted.values()
            assert dead.dead and dead.attempts == 8
            assert edge.count("replication_dead") == 1
            assert edge.count("replication_oldest") > 600
            status = await follower.status()
            assert (status["wanted"], status["dead_letters"]) == (0, 1)
            assert origin.acknowledged[-1].unresolved == 1
            keeper.ends.clear()
            await trio.sleep(3700)
            assert bad.key in keeper.kept
            await soon(lambda: edge.count("replication_dead") == 0)
            assert edge.count("replication_oldest") == 0


@pytest.mark.parametrize(
    ("resource", "error", "left"),
    [
        (file("six"), Refused(Refuse("an edge's own rule", "mine")), 0),
        (Page("pypi", "six"), NotFound("gone since"), 0),
        (file("six"), NotFound("the origin has no bytes of what it told"), 1),
        (file("six"), RuntimeError("a fault of ours"), 1),
    ],
)
async def test_what_becomes_of_what_does_not_come(
    clock: MockClock, resource: File | Page, error: Exception, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with following() as origin:
        edge = Edge(origin)
        keeper = Keeper(edge.catalog, ends={resource.key: error})
        async with edge.run(keeper=keeper):
            await soon(lambda: origin.acknowledged)
            if isinstance(resource, File):
                await origin.bind(resource)
            else:
                await origin.page(resource.project)
            await soon(lambda: edge.metrics.replication_brought.labels("failed" if left else "refused")._value.get() or not left)
            await trio.sleep(1)
            assert len(edge.catalog._wanted) == left


async def test_while_the_origin_is_away_nothing_is_blamed_for_that(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        files = [file(f"p{n}") for n in range(30)]
        keeper = Keeper(edge.catalog, ends={each.key: Unavailable("the origin does not answer") for each in files})
        async with edge.run(keeper=keeper):
            await soon(lambda: origin.acknowledged)
            await origin.bind(*files)

            def away(_: str) -> None:
                raise Unavailable("refused")

            await soon(lambda: edge.catalog._wanted)
            origin.trouble = away
            await trio.sleep(7200)
            assert max(wanted.attempts for wanted in edge.catalog._wanted.values()) <= 2
            keeper.ends.clear()
            origin.trouble = lambda _: None
            assert await soon(lambda: len(keeper.kept) == 30, timeout_s=30) < 20


async def test_a_page_that_changes_while_it_is_brought_is_brought_once_more(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        gate = trio.Event()
        keeper = Keeper(edge.catalog, ends={"pypi:six:": gate})
        async with edge.run(keeper=keeper):
            await soon(lambda: origin.acknowledged)
            await origin.page("six")
            await soon(lambda: keeper.under_way)
            await origin.page("six", b"news")
            await soon(lambda: keeper.told.count(("pypi", "six")) == 2)
            gate.set()
            await soon(lambda: keeper.kept == ["pypi:six:", "pypi:six:"])
            await soon(lambda: not edge.catalog._wanted)


async def test_what_is_told_again_while_it_is_written_down_as_brought_is_wanted_still(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        page = await origin.page("six")
        settle, again = edge.catalog.settle, [Wanted(page.key, page, now(), now())]

        async def meanwhile(done: Iterable[str | Wanted], failed: Iterable[Wanted] = ()) -> None:
            """A line of the feed is applied just before, and what it wants is not known to those who bring."""
            if again and done:
                await edge.catalog.follow({}, (), [again.pop()])
            await settle(done, failed)

        edge.catalog.settle = meanwhile  # type: ignore[method-assign]
        async with edge.run():
            await soon(lambda: len(edge.keeper.kept) == 2)
            await soon(lambda: not edge.catalog._wanted)
            assert edge.keeper.kept == [page.key, page.key]


async def test_what_is_told_of_twice_before_it_is_begun_is_brought_once(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin, ReplicateSettings(mode="all", at_once=1))
        gate = trio.Event()
        keeper = Keeper(edge.catalog, ends={"pypi:first:": gate})
        async with edge.run(keeper=keeper):
            await soon(lambda: origin.acknowledged)
            await origin.page("first")
            await soon(lambda: keeper.under_way)
            for n in range(3):
                await origin.page("six", str(n).encode())
                await trio.sleep(1)
            assert keeper.told.count(("pypi", "six")) == 3
            gate.set()
            await soon(lambda: not edge.catalog._wanted)
            assert keeper.kept == ["pypi:first:", "pypi:six:"]


async def test_beyond_its_budget_only_news_is_taken_and_what_was_used_least_recently_goes_for_it(clock: MockClock) -> None:
    async with following() as origin:
        old = [file(f"old{n}") for n in range(5)]
        await origin.bind(*old)
        edge = Edge(origin, ReplicateSettings(mode="all", limit_bytes=1000), held_bytes=1000)
        keeper = Keeper(edge.catalog)

        async def make_room(need_bytes: int) -> int:
            keeper.room.append(need_bytes)
            edge.held_bytes -= need_bytes
            return need_bytes

        keeper.make_room = make_room  # type: ignore[method-assign]
        async with edge.run(keeper=keeper) as follower:
            await soon(lambda: origin.acknowledged and not edge.catalog._wanted)
            assert keeper.kept == []
            assert (await follower.status())["passed_over"] == 5
            page = await origin.page("new")
            await origin.bind(file("new"))
            await soon(lambda: file("new").key in keeper.kept)
            assert keeper.kept == [page.key, file("new").key]
            assert keeper.room == [50]


# ---- the lease


async def test_an_edge_that_hears_nothing_for_longer_than_its_lease_refuses_until_it_does(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin, ReplicateSettings(mode="none", lease_s=100, lapsed="refuse"))
        async with edge.run() as follower:
            await soon(lambda: origin.acknowledged)
            await trio.sleep(1000)
            assert edge.keeper.lapsed == ""
            origin.silent = True
            await trio.sleep(60)
            assert edge.keeper.lapsed == ""
            await trio.sleep(60)
            assert "longer than its lease" in edge.keeper.lapsed
            assert edge.count("lease_lapsed") == 1
            assert (await follower.status())["lease"] == "over"
            origin.silent = False
            await soon(lambda: not edge.keeper.lapsed)
            assert edge.count("lease_lapsed") == 0


async def test_a_lease_that_is_over_when_an_edge_starts_is_over_before_anything_is_served(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin, ReplicateSettings(mode="none", lease_s=100, lapsed="refuse"))
        async with edge.run():
            await soon(lambda: origin.acknowledged)
            await trio.sleep(50)
        origin.silent = True
        async with edge.run():
            assert edge.keeper.lapsed == ""
        await trio.sleep(150)
        async with edge.run():
            assert edge.keeper.lapsed


async def test_an_edge_that_serves_on_after_its_lease_only_says_so(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin, ReplicateSettings(mode="none", lease_s=100))
        async with edge.run():
            await soon(lambda: origin.acknowledged)
            origin.silent = True
            await trio.sleep(300)
            assert edge.count("lease_lapsed") == 1
            assert edge.keeper.lapsed == ""


async def test_a_ledger_that_diverged_renews_no_lease(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin, ReplicateSettings(mode="none", lease_s=100, lapsed="refuse"))
        await origin.bind(file("six"), file("seven"))
        async with edge.run():
            await soon(lambda: edge.count("feed_serial") == 2)
            origin.catalog._lines = origin.catalog._lines[:1]
            await origin.open()
            origin.trouble = once(Unavailable("it was restarted"))
            await trio.sleep(400)
            assert edge.count("feed_diverged") == 1
            assert edge.keeper.lapsed


# ---- what is told


async def test_who_fetched_what_is_told_once_more_rather_than_never(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin, NONE)
        await edge.catalog.record_accesses([Access(now(), f"k{n}", "d" * 64, "10.0.0.1", "", 5, True) for n in range(1500)])
        await edge.catalog.record_accesses([Access(now(), "theirs", "d" * 64, "10.0.0.1", "", 5, True, "other", 1)])
        lost = [Unavailable("the answer was lost")]

        def loses_an_answer(what: str) -> None:
            if what == "accesses" and len(origin.accesses) == 1000 and lost:
                raise lost.pop()

        origin.trouble = loses_an_answer
        async with edge.run():
            await soon(lambda: len(origin.accesses) == 1500)
        assert [each.file for each in origin.accesses] == [f"k{n}" for n in range(1500)]
        assert [each.number for each in origin.accesses] == list(range(1, 1501))
        async with edge.run():
            await edge.catalog.record_accesses([Access(now(), "last", "d" * 64, "10.0.0.1", "", 5, True)])
            await soon(lambda: origin.accesses[-1].file == "last")
            assert len(origin.accesses) == 1501


async def test_what_was_taken_from_a_registry_is_offered_and_what_came_from_the_origin_is_not(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin, NONE)
        origin.silent = True
        async with edge.run():
            await edge.catalog.bind(binding(file("direct")))
            await edge.catalog.bind(binding(file("theirs"), source="origin"))
            await edge.catalog.bind(binding(File("company", "own", "1", "own-1.jar", "own-1.jar")))
            gone = binding(file("gone"))
            await edge.catalog.bind(gone)
            await edge.catalog.drop(gone.digest)
        origin.silent = False
        async with edge.run():
            await soon(lambda: origin.offered)
            await trio.sleep(30)
            assert [offer.file for offer in origin.offered] == [file("direct")]
            assert origin.offered[0].digest == str(binding(file("direct")).digest)


# ---- comparing


async def test_what_was_lost_on_either_side_is_found_by_comparing_and_repaired(clock: MockClock) -> None:
    async with following() as origin:
        await origin.bind(*[file(f"p{n}") for n in range(50)])
        edge = Edge(origin, ReplicateSettings(mode="all", compare_s=60))
        async with edge.run() as follower:
            await soon(lambda: len(edge.catalog._bindings) == 50 and not edge.catalog._wanted)
            await soon(lambda: "nothing new" in str(follower._comparing.last), timeout_s=100)

            del edge.catalog._bindings[file("p1").key]
            held = await edge.catalog.binding(file("p2"))
            assert held is not None
            await edge.catalog.drop(held.digest)
            await edge.catalog.bind(binding(file("ours"), source="sibling"))
            other = binding(file("p3"), b"other bytes")
            edge.catalog._bindings[file("p3").key] = other
            edge.keeper.kept.clear()
            await soon(lambda: {file("p1").key, file("p2").key} <= set(edge.keeper.kept), timeout_s=100)
            await soon(lambda: origin.offered)
            assert [offer.file for offer in origin.offered] == [file("ours")]
            assert set(edge.keeper.kept) == {file("p1").key, file("p2").key}
            events = [event for event in await edge.catalog.events() if event.kind == "differs"]
            assert [event.subject for event in events] == [file("p3").key]
            assert (await follower.status())["compared"] == "1 were missing here, 1 there, 1 are other bytes there"


async def test_what_found_no_room_is_wanted_again_only_when_there_is_some(clock: MockClock) -> None:
    async with following() as origin:
        await origin.bind(*[file(f"p{n}") for n in range(5)])
        edge = Edge(origin, ReplicateSettings(mode="all", limit_bytes=1000, compare_s=60), held_bytes=1000)
        async with edge.run() as follower:
            await soon(lambda: follower._comparing.last.startswith("0 were missing here"), timeout_s=100)
            assert "5 were left out for want of room" in follower._comparing.last
            await soon(lambda: follower._comparing.last.startswith("nothing new differs"), timeout_s=100)
            shards = origin.asked.count("holdings")
            await trio.sleep(300)
            assert edge.keeper.kept == [] and (await follower.status())["passed_over"] == 5, "as the snapshot told of them"
            assert origin.asked.count("holdings") - shards <= 10, "one question each time"

            size = binding(file("p0")).size
            edge.held_bytes = 1000 - size - 1
            await soon(lambda: len(edge.keeper.kept) == 2, timeout_s=100)
            await trio.sleep(10)
            assert len(edge.keeper.kept) == 2, "no more than there was room for"


async def test_what_was_given_up_for_want_of_room_is_not_wanted_until_there_is_some(clock: MockClock) -> None:
    async with following() as origin:
        await origin.bind(file("p0"))
        edge = Edge(origin, ReplicateSettings(mode="all", limit_bytes=1000, compare_s=60))
        async with edge.run() as follower:
            await soon(lambda: edge.keeper.kept)
            edge.held_bytes = 1000
            await edge.catalog.drop(binding(file("p0")).digest)
            await trio.sleep(300)
            assert edge.keeper.kept == [file("p0").key] and (await follower.status())["passed_over"] == 0
            edge.held_bytes = 0
            await soon(lambda: len(edge.keeper.kept) == 2, timeout_s=100)


async def test_an_edge_compares_only_what_it_wants(clock: MockClock) -> None:
    async with following() as origin:
        await origin.bind(file("six"), file("seven"))
        edge = Edge(origin, ReplicateSettings(mode="matching", match=("pkg:pypi/six",), compare_s=60))
        async with edge.run() as follower:
            await soon(lambda: file("six").key in edge.keeper.kept)
            await soon(lambda: "nothing new" in str(follower._comparing.last), timeout_s=100)
            assert edge.keeper.kept == [file("six").key]


async def test_what_was_refused_while_it_was_recalled_comes_once_that_is_undone(clock: MockClock) -> None:
    async with following() as origin:
        await origin.recall("pkg:pypi/six")
        await origin.bind(file("six"))
        edge = Edge(origin)
        keeper = Keeper(edge.catalog, ends={file("six").key: Refused(Refuse("recalled", "recall-1"))})
        async with edge.run(keeper=keeper):
            await soon(lambda: keeper.central.revision == 1 and origin.acknowledged and not edge.catalog._wanted)
            keeper.ends.clear()
            origin.set_policy(wire.Verdicts(revision=2))
            await soon(lambda: file("six").key in keeper.kept, timeout_s=10)
