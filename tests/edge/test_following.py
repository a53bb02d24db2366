"""An edge follows its origin: what it hears is checked, in force before it is acknowledged, and survives whatever happens to either."""

from __future__ import annotations

import time

import msgspec
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from trio.testing import MockClock, wait_all_tasks_blocked

from edge.following.reporting import AT_LEAST_S, NOWHERE
from origin.api import wire
from origin.errors import Unavailable
from origin.model import Change
from tests.following import NONE, POPULAR, Edge, Keeper, file, following, once, soon


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


# ---- the feed


async def test_what_the_origin_takes_in_is_here_moments_later(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        async with edge.run():
            await soon(lambda: origin.acknowledged)
            six = file("six")
            page = await origin.page("six")
            await origin.bind(six)
            assert await soon(lambda: six.key in edge.keeper.kept) < 1
            assert edge.keeper.kept == [page.key, six.key], "the page, which says what the file is, comes first"
            await soon(lambda: origin.acknowledged[-1].cursor == origin.ledger.cursor)


async def test_a_changed_page_is_stale_in_memory_and_on_disk_before_it_is_acknowledged(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin, NONE)
        await origin.page("six")
        async with edge.run():
            await soon(lambda: origin.acknowledged)
            held, other = await edge.hold("six"), await edge.hold("other")
            await origin.page("six", b"news")
            await soon(lambda: ("pypi", "six") in edge.keeper.told)
            assert not await edge.is_fresh(held)
            assert await edge.is_fresh(other)
            assert edge.keeper.kept == [], "nothing is brought where nothing was asked for"


async def test_a_page_that_is_held_is_brought_anew_when_it_changes_so_that_an_outage_finds_the_last_of_it(
    clock: MockClock,
) -> None:
    async with following() as origin:
        edge = Edge(origin, POPULAR)
        async with edge.run():
            await soon(lambda: origin.acknowledged)
            held = await edge.hold("six")
            await origin.page("six")
            await origin.page("other")
            await origin.bind(file("six"))
            await soon(lambda: held.key in edge.keeper.kept)
            await wait_all_tasks_blocked()
            assert edge.keeper.kept == [held.key]


async def test_a_restarted_edge_goes_on_where_it_was(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        await origin.bind(file("six"))
        async with edge.run():
            await soon(lambda: file("six").key in edge.keeper.kept and not edge.catalog._wanted)
        await origin.bind(file("seven"))
        origin.asked.clear()
        async with edge.run():
            await soon(lambda: file("seven").key in edge.keeper.kept)
            assert edge.keeper.kept == [file("seven").key]
            assert "snapshot" not in origin.asked


async def test_what_was_wanted_and_not_brought_before_a_restart_is_brought_after_it(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        keeper = Keeper(edge.catalog, ends={file("six").key: trio.Event()})
        async with edge.run(keeper=keeper):
            await soon(lambda: origin.acknowledged)
            await origin.bind(file("six"))
            await soon(lambda: keeper.under_way)
        async with edge.run():
            await soon(lambda: file("six").key in edge.keeper.kept)


async def test_a_line_that_cannot_be_read_does_not_stop_the_feed(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        async with edge.run():
            await soon(lambda: origin.acknowledged)
            await origin.catalog.append(Change(0, "x", kind="sbom"))  # type: ignore[arg-type]  # of a later version
            await origin.bind(file("six"))
            await soon(lambda: file("six").key in edge.keeper.kept)


async def test_what_the_disk_does_not_take_now_is_applied_when_it_does(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        async with edge.run() as follower:
            await soon(lambda: origin.acknowledged)
            follow, failures = edge.catalog.follow, [Unavailable("the disk is full")] * 3

            async def failing(*arguments: object) -> None:
                if failures:
                    raise failures.pop()
                await follow(*arguments)  # type: ignore[arg-type]

            edge.catalog.follow = failing  # type: ignore[assignment, method-assign]
            await origin.bind(file("six"))
            await soon(lambda: file("six").key in edge.keeper.kept)
            assert not failures
            assert (await follower.status())["serial"] == 1


async def test_an_origin_that_is_away_is_asked_again_soon_and_costs_nothing_but_news(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        async with edge.run() as follower:
            await soon(lambda: origin.acknowledged)
            assert edge.count("feed_lag") == 0

            def away(_: str) -> None:
                raise Unavailable("refused")

            origin.trouble = away
            await origin.bind(file("six"))
            await trio.sleep(60)
            assert len(origin.asked) < 60
            assert (await follower.status())["connected"] is False
            assert edge.count("feed_lag") > 50
            assert edge.count("origin_connected") == 0
            origin.trouble = lambda _: None
            assert await soon(lambda: file("six").key in edge.keeper.kept) < 6
            assert edge.count("feed_lag") == 0


async def test_an_origin_that_falls_silent_is_given_up_and_found_again(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        async with edge.run() as follower:
            await soon(lambda: origin.acknowledged)
            origin.silent = True
            await origin.bind(file("six"))
            await trio.sleep(120)
            assert (await follower.status())["connected"] is False
            origin.silent = False
            assert await soon(lambda: file("six").key in edge.keeper.kept) < 45


# ---- verdicts


async def test_a_recall_is_in_force_before_the_lines_that_come_with_it_and_then_acknowledged(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        async with edge.run():
            await soon(lambda: origin.acknowledged)
            edge.keeper.told.clear()
            await origin.page("evil")
            await origin.recall("pkg:pypi/evil@1.0")
            assert await soon(lambda: origin.acknowledged[-1].verdicts == 1) < 1
            await soon(lambda: ("pypi", "evil") in edge.keeper.told)
            assert edge.keeper.told.index(1) < edge.keeper.told.index(("pypi", "evil"))
            assert edge.keeper.central.recalls[0].purls == ("pkg:pypi/evil@1.0",)
            assert edge.count("verdicts_revision") == 1


async def test_a_recall_that_only_an_answers_header_tells_of_is_fetched_atonce(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        async with edge.run() as follower:
            await soon(lambda: origin.acknowledged)

            def stuck(what: str) -> None:
                if what == "changes":
                    raise Unavailable("this one thing does not work")

            origin.trouble = stuck
            await origin.recall("pkg:pypi/evil")
            follower.noticed(1)
            assert await soon(lambda: edge.keeper.central.revision == 1) < 0.1


async def test_what_was_recalled_before_a_restart_is_refused_before_anything_else_happens(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        async with edge.run():
            await origin.recall("pkg:pypi/evil")
            await soon(lambda: origin.acknowledged and origin.acknowledged[-1].verdicts == 1)
        origin.silent = True
        async with edge.run():
            assert edge.keeper.told == [1]
            assert edge.keeper.central.recalls[0].target == "pkg:pypi/evil"


async def test_what_was_recalled_while_an_edge_was_down_is_refused_before_it_serves_anything(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        async with edge.run():
            await soon(lambda: origin.acknowledged)
        await origin.recall("pkg:pypi/evil")
        async with edge.run():
            assert edge.keeper.central.revision == 1


async def test_an_origin_that_hangs_keeps_no_edge_from_starting(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        origin.silent = True
        began = trio.current_time()
        async with edge.run():
            assert trio.current_time() - began <= 2


async def test_a_recall_that_could_not_be_written_down_is_in_force_and_not_acknowledged_until_it_is(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        async with edge.run():
            await soon(lambda: origin.acknowledged)
            remember, full = edge.catalog.remember, True

            async def failing(key: str, value: str) -> None:
                if full:
                    raise Unavailable("the disk is full")
                await remember(key, value)

            edge.catalog.remember = failing  # type: ignore[method-assign]
            await origin.recall("pkg:pypi/evil")
            await soon(lambda: edge.keeper.central.revision == 1)
            await trio.sleep(10)
            assert origin.acknowledged[-1].verdicts == 0
            full = False
            await soon(lambda: origin.acknowledged[-1].verdicts == 1)


async def test_verdicts_that_cannot_all_be_read_are_in_force_as_far_as_they_can_and_not_acknowledged(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        async with edge.run() as follower:
            await soon(lambda: origin.acknowledged)
            edge.keeper.unread = "rule x: an action that is not known here"
            await origin.recall("pkg:pypi/evil")
            await origin.bind(file("six"))
            await soon(lambda: file("six").key in edge.keeper.kept)
            await trio.sleep(30)
            assert edge.keeper.told.count(1) == 1, "asking again changes nothing"
            assert origin.acknowledged[-1].verdicts == 0
            assert "rule x" in str((await follower.status())["unread_verdicts"])


async def test_verdicts_do_not_go_back_within_an_epoch(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        async with edge.run() as follower:
            await origin.recall("pkg:pypi/evil")
            await soon(lambda: edge.count("feed_serial"))
            origin.set_policy(wire.Verdicts())
            await soon(lambda: edge.count("feed_diverged"))
            assert edge.keeper.central.revision == 1
            assert "went back" in str((await follower.status())["diverged"])


async def test_a_recall_is_acknowledged_by_an_edge_that_is_still_taking_in_what_there_is(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        origin.part = 1
        for name in ("six", "seven"):
            await origin.page(name)
        give, more = origin._snapshot, trio.Event()

        async def slow(after: str, limit: int) -> wire.Snapshot:
            if after:
                await more.wait()
            return await give(after, limit)

        origin._snapshot = slow  # type: ignore[method-assign]
        async with edge.run() as follower:
            await soon(lambda: origin.asked.count("snapshot") == 2)
            await origin.recall("pkg:pypi/evil")
            follower.noticed(1)
            assert await soon(lambda: origin.acknowledged) < 2
            assert origin.acknowledged[-1].verdicts == edge.keeper.central.revision == 1
            assert wire.read_cursor(origin.acknowledged[-1].cursor)[0] != origin.ledger.epoch, "it follows from nowhere yet"
            more.set()
            await soon(lambda: origin.acknowledged[-1].cursor == origin.ledger.cursor)


@pytest.mark.parametrize("recalled", [0, 1])
async def test_an_edge_that_is_still_taking_in_what_there_is_says_so_often_enough_to_hear_of_a_new_key(
    clock: MockClock, recalled: int
) -> None:
    async with following() as origin:
        edge = Edge(origin)
        await origin.page("six")
        for _ in range(recalled):
            await origin.recall("pkg:pypi/evil")

        give = origin._snapshot

        async def endless(after: str, limit: int) -> wire.Snapshot:
            await trio.sleep(2)
            return msgspec.structs.replace(await give("", limit), after="page ")

        origin._snapshot = endless  # type: ignore[method-assign]
        async with edge.run():
            await trio.sleep(5 * AT_LEAST_S)
            assert len(origin.acknowledged) >= 3
            assert {told.cursor for told in origin.acknowledged} == {NOWHERE}
            assert origin.acknowledged[-1].verdicts == recalled


async def test_an_edge_that_starts_says_what_it_has_in_force_though_there_is_no_news(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        await origin.recall("pkg:pypi/evil")
        async with edge.run():
            await soon(lambda: origin.acknowledged and origin.acknowledged[-1].verdicts == 1)
        origin.acknowledged.clear()
        async with edge.run():
            assert await soon(lambda: origin.acknowledged) < 2
            assert (origin.acknowledged[0].verdicts, origin.acknowledged[0].cursor) == (1, origin.ledger.cursor)


async def test_policy_that_changes_while_it_is_fetched_keeps_no_edge_from_hearing_the_next_change(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        async with edge.run():
            await soon(lambda: origin.acknowledged)
            await trio.sleep(1)
            first = wire.Verdicts(revision=1)

            def another(what: str) -> None:
                if what == "verdicts":
                    origin.trouble = lambda _: None
                    origin.policy = wire.Verdicts(revision=2)
                    origin.ledger.verdicts = 2

            origin.trouble = another
            origin.set_policy(first)
            await soon(lambda: edge.keeper.central.revision == 2)
            await trio.sleep(0.2)
            origin.noticed = lambda _: None
            origin.set_policy(wire.Verdicts(revision=3))
            assert await soon(lambda: edge.keeper.central.revision == 3) < 0.2


async def test_policy_that_could_not_be_written_down_is_written_down_as_soon_as_it_can_be(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        async with edge.run() as follower:
            await soon(lambda: origin.acknowledged)
            await trio.sleep(1)
            remember, left = edge.catalog.remember, [Unavailable("the disk is full")]

            async def failing(key: str, value: str) -> None:
                if left:
                    raise left.pop()
                await remember(key, value)

            edge.catalog.remember = failing  # type: ignore[method-assign]
            # Heard of by the way, while the question for news is kept.
            origin.policy = wire.Verdicts(revision=1)
            origin.ledger.verdicts = 1
            follower.noticed(1)
            assert await soon(lambda: origin.acknowledged[-1].verdicts == 1) < 4


async def test_a_hundred_thousand_rules_are_taken_over(clock: MockClock) -> None:
    rule = {"name": "malware", "match": f"pkg:npm/{'x' * 60}", "action": "refuse", "reason": "listed as malware: " + "y" * 120}
    async with following() as origin:
        edge = Edge(origin)
        ask, limits = origin.request, dict[str, int]()

        async def request(*args: object, limit_bytes: int, **more: object) -> object:
            limits[str(args[1])] = limit_bytes
            return await ask(*args, limit_bytes=limit_bytes, **more)  # type: ignore[arg-type]  # passed on as they came

        origin.request = request  # type: ignore[assignment]
        async with edge.run():
            await soon(lambda: origin.acknowledged)
        assert limits["/v1/verdicts"] > 100_000 * len(msgspec.json.encode(rule))


async def test_one_rule_more_among_a_hundred_thousand_is_in_force_as_soon(clock: MockClock) -> None:
    def rule(number: int) -> dict[str, object]:
        return {"name": f"malware-{number}", "match": f"pkg:npm/bad-{number}", "action": "refuse", "reason": "malware"}

    async with following() as origin:
        edge = Edge(origin)
        many = tuple(rule(number) for number in range(100_000))
        origin.set_policy(wire.Verdicts(revision=1, rules=many))
        async with edge.run():
            await soon(lambda: origin.acknowledged and origin.acknowledged[-1].verdicts == 1)
            began = time.monotonic()
            origin.set_policy(wire.Verdicts(revision=2, rules=(rule(100_000), *many)))
            await soon(lambda: origin.acknowledged[-1].verdicts == 2)
            assert time.monotonic() - began < 10


# ---- a ledger that is not the one it was


async def test_a_ledger_that_was_rolled_back_is_not_followed_and_told_of_once(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        await origin.recall("pkg:pypi/evil")
        await origin.bind(file("six"), file("seven"))
        async with edge.run() as follower:
            await soon(lambda: len(edge.keeper.kept) == 2)
            lines = origin.catalog._lines
            origin.catalog._lines = lines[:1]
            epoch = origin.ledger.epoch
            await origin.open()
            assert origin.ledger.epoch == epoch
            origin.trouble = once(Unavailable("it was restarted"))
            await soon(lambda: edge.count("feed_diverged"))
            await trio.sleep(600)
            events = [event for event in await edge.catalog.events() if event.kind == "feed-diverged"]
            assert len(events) == 1
            assert "followed up to" in str((await follower.status())["diverged"])
            assert edge.keeper.central.revision == 1, "what is refused stays refused"
            asked = len(origin.asked)
            await trio.sleep(600)
            assert len(origin.asked) - asked < 30

            origin.catalog._lines = lines
            await origin.open()
            await soon(lambda: not edge.count("feed_diverged"), timeout_s=120)
            assert "diverged" not in await follower.status()


async def test_a_ledger_signed_by_somebody_else_is_not_followed(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        async with edge.run():
            await soon(lambda: origin.acknowledged)
            origin.ledger._signer = Ed25519PrivateKey.generate().sign
            await origin.bind(file("six"))
            await soon(lambda: edge.count("feed_diverged"))
            assert edge.keeper.kept == []


async def test_after_a_restore_what_is_here_stays_and_what_the_origin_lost_is_offered(clock: MockClock) -> None:
    async with following() as origin:
        edge = Edge(origin)
        await origin.page("six")
        await origin.recall("pkg:pypi/evil")
        await origin.recall("pkg:pypi/worse")
        await origin.bind(file("six"))
        async with edge.run() as follower:
            await soon(lambda: file("six").key in edge.keeper.kept)
            held = await edge.hold("six")
            backup = dict(origin.catalog._bindings), list(origin.catalog._lines), origin.policy
            await origin.bind(file("seven"))
            await origin.recall("pkg:pypi/later")
            await soon(lambda: file("seven").key in edge.keeper.kept and edge.keeper.central.revision == 3)
            edge.keeper.kept.clear()

            origin.catalog._bindings, origin.catalog._lines, origin.policy = backup
            await origin.restore()
            origin.trouble = once(Unavailable("it was restarted"))
            await origin.bind(file("eight"))
            await soon(lambda: file("eight").key in edge.keeper.kept)
            await soon(lambda: origin.offered)
            assert [offer.file for offer in origin.offered] == [file("seven")]
            assert held.key in edge.keeper.kept, "what is held is looked at again"
            assert file("six").key not in edge.keeper.kept, "what is here need not come again"
            assert edge.keeper.central.revision == 2, "a restored origin's word counts, even if it is less"
            await soon(lambda: origin.acknowledged[-1].cursor == origin.ledger.cursor)
            assert "diverged" not in await follower.status()
