"""Pages as a node holds them: freshness, outages, take-downs, alarms, rules."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from origin.errors import Corrupt, NotFound, Refused, Unavailable
from origin.model import Listing, Page, Verdict
from origin.policy.rules import Rule, Versions, parse_rule, verdicts
from tests.origin.test_files import landed, read
from tests.scripted import EPOCH, Bench, Upload, bench
from tests.wheels import KB

PAGE = Page("pypi", "six")


@pytest.fixture
def clock() -> MockClock:
    # Worker threads count as blocked tasks: the threshold keeps the clock from jumping while one works.
    return MockClock(autojump_threshold=0.5)


def wheel(version: str = "1.0", content: bytes = b"x" * KB) -> Upload:
    return Upload(f"six-{version}-py3-none-any.whl", content)


async def test_a_hundred_first_askers_cause_one_upstream_request(tmp_path: Path, clock: MockClock) -> None:
    outcomes: list[str] = []
    async with bench(tmp_path, {"six": [wheel()]}) as b:

        async def ask() -> None:
            outcomes.append((await b.service.page(PAGE)).outcome)

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(ask)
        assert b.source.asked == ["page six"]
    assert sorted(outcomes) == ["collapsed"] * 99 + ["miss"]


async def test_a_fresh_page_is_answered_without_asking(tmp_path: Path, clock: MockClock) -> None:
    async with bench(tmp_path, {"six": [wheel()]}) as b:
        await b.service.page(PAGE)
        clock.jump(599)
        view = await b.service.page(PAGE)
        assert (view.outcome, view.cache_status) == ("hit", "hit")
        assert b.source.asked == ["page six"]


async def test_a_304_renews_the_page_and_keeps_its_renderings(tmp_path: Path, clock: MockClock) -> None:
    async with bench(tmp_path, {"six": [wheel()]}) as b:
        first = await b.service.page(PAGE)
        clock.jump(601)
        again = await b.service.page(PAGE)
        assert again.cache_status == "fwd=stale; fwd-status=304"
        assert again.listing is first.listing
        assert again.validity is first.validity
        assert again.validity.valid
        clock.jump(599)
        assert (await b.service.page(PAGE)).outcome == "hit"
        assert len(b.source.asked) == 2


async def test_the_same_document_without_validators_counts_as_a_304(tmp_path: Path, clock: MockClock) -> None:
    async with bench(tmp_path, {"six": [wheel()]}) as b:
        b.source.conditional = False
        first = await b.service.page(PAGE)
        clock.jump(601)
        again = await b.service.page(PAGE)
        assert again.cache_status == "fwd=stale; fwd-status=304"
        assert again.stamp.revision == first.stamp.revision


async def test_new_content_voids_what_was_rendered_before(tmp_path: Path, clock: MockClock) -> None:
    async with bench(tmp_path, {"six": [wheel()]}) as b:
        first = await b.service.page(PAGE)
        b.source.projects["six"] = [wheel(), wheel("2.0", b"new")]
        clock.jump(601)
        again = await b.service.page(PAGE)
        assert again.cache_status == "fwd=stale; fwd-status=200"
        assert "six-2.0-py3-none-any.whl" in again.listing.entries
        assert again.stamp.revision == first.stamp.revision + 1
        assert not first.validity.valid
        assert again.validity.valid


async def test_a_slow_upstream_delays_a_held_page_by_one_second_and_is_still_heard(tmp_path: Path, clock: MockClock) -> None:
    async with bench(tmp_path, {"six": [wheel()]}) as b:
        await b.service.page(PAGE)
        b.source.projects["six"].append(wheel("2.0"))
        clock.jump(601)
        b.source.open_gate = trio.Event()
        began = trio.current_time()
        view = await b.service.page(PAGE)
        assert view.cache_status == "hit; detail=upstream-slow"
        assert trio.current_time() - began == pytest.approx(1.0, abs=0.01)
        b.source.open_gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert len((await b.service.page(PAGE)).listing.entries) == 2


async def test_nobody_waits_for_a_source_that_is_not_worth_it(tmp_path: Path, clock: MockClock) -> None:
    async with bench(tmp_path, {"six": [wheel()]}) as b:
        await b.service.page(PAGE)
        clock.jump(601)
        b.source.worth_waiting = False
        b.source.open_gate = trio.Event()
        began = trio.current_time()
        view = await b.service.page(PAGE)
        assert view.cache_status == "hit; detail=upstream-down"
        assert trio.current_time() == began


async def test_in_an_outage_a_crowd_of_stale_pages_costs_one_look_a_second(tmp_path: Path, clock: MockClock) -> None:
    pages = [Page("pypi", f"six-{number}") for number in range(12)]
    async with bench(tmp_path, {page.project: [wheel()] for page in pages}) as b:
        for page in pages:
            await b.service.page(page)
        clock.jump(601)
        b.source.worth_waiting = False
        b.source.down = True
        before = len(b.source.asked)
        for first in range(2):
            # Another comes first each time: of the last one's failure there is a memo.
            for page in (*pages[first:], *pages[:first]):
                assert (await b.service.page(page)).cache_status == "hit; detail=upstream-down"
            await trio.testing.wait_all_tasks_blocked()
            clock.jump(1.5)
        assert len(b.source.asked) - before == 2
        # Somebody has to look, or what is in doubt would stay in doubt.
        b.source.down = False
        b.source.worth_waiting = True
        assert (await b.service.page(pages[-1])).cache_status == "fwd=stale; fwd-status=304"


async def test_a_stale_page_is_served_when_upstream_fails_and_forgotten_after_thirty_days(
    tmp_path: Path, clock: MockClock
) -> None:
    async with bench(tmp_path, {"six": [wheel()]}) as b:
        await b.service.page(PAGE)
        b.source.down = True
        clock.jump(29 * 86400)
        assert (await b.service.page(PAGE)).cache_status == "hit; detail=upstream-down"
        clock.jump(2 * 86400)
        with pytest.raises(Unavailable) as caught:
            await b.service.page(PAGE)
        assert caught.value.retry_after_s == 7


async def test_a_cold_page_of_a_dead_upstream_is_unavailable_not_absent(tmp_path: Path, clock: MockClock) -> None:
    async with bench(tmp_path, {}) as b:
        b.source.down = True
        with pytest.raises(Unavailable):
            await b.service.page(PAGE)


async def test_a_clean_absence_is_held_briefly_and_served_in_an_outage(tmp_path: Path, clock: MockClock) -> None:
    async with bench(tmp_path, {}) as b:
        for _ in range(3):
            with pytest.raises(NotFound):
                await b.service.page(PAGE)
        assert b.source.asked == ["page six"]
        clock.jump(61)
        b.source.down = True
        with pytest.raises(NotFound):
            await b.service.page(PAGE)
        b.source.down = False
        b.source.projects["six"] = [wheel()]
        clock.jump(61)
        assert (await b.service.page(PAGE)).outcome == "revalidated"


async def test_what_is_removed_upstream_leaves_only_after_a_second_look(tmp_path: Path, clock: MockClock) -> None:
    old = wheel("1.0", b"one" * KB)
    async with bench(tmp_path, {"six": [old, wheel("2.0")]}) as b:
        await b.service.page(PAGE)
        await collect(b, old)
        b.source.projects["six"] = [wheel("2.0")]
        clock.jump(601)
        assert old.filename in (await b.service.page(PAGE)).listing.entries
        clock.jump(59)
        assert old.filename in (await b.service.page(PAGE)).listing.entries
        clock.jump(2)
        assert old.filename not in (await b.service.page(PAGE)).listing.entries
        with pytest.raises(Refused, match="removed upstream"):
            await collect(b, old)
        assert "upstream-gone" in await b.events()


async def test_a_removal_that_upstream_takes_back_is_forgotten(tmp_path: Path, clock: MockClock) -> None:
    async with bench(tmp_path, {"six": [wheel(), wheel("2.0")]}) as b:
        await b.service.page(PAGE)
        uploads = b.source.projects["six"]
        b.source.projects["six"] = uploads[:1]
        clock.jump(601)
        await b.service.page(PAGE)
        b.source.projects["six"] = uploads
        clock.jump(61)
        assert len((await b.service.page(PAGE)).listing.entries) == 2
        b.source.projects["six"] = uploads[:1]
        clock.jump(601)
        assert len((await b.service.page(PAGE)).listing.entries) == 2, "a new disappearance needs a second look of its own"


async def test_a_project_that_vanishes_upstream_is_absent_after_a_second_look(tmp_path: Path, clock: MockClock) -> None:
    async with bench(tmp_path, {"six": [wheel()]}) as b:
        await b.service.page(PAGE)
        del b.source.projects["six"]
        clock.jump(601)
        assert (await b.service.page(PAGE)).listing.entries
        clock.jump(61)
        with pytest.raises(NotFound):
            await b.service.page(PAGE)


async def test_removed_files_are_served_where_settings_say_so(tmp_path: Path, clock: MockClock) -> None:
    old = wheel()
    async with bench(tmp_path, {"six": [old, wheel("2.0")]}, serve_removed=True) as b:
        await b.service.page(PAGE)
        await collect(b, old)
        b.source.projects["six"] = [wheel("2.0")]
        for pause in (601, 61):
            clock.jump(pause)
            await b.service.page(PAGE)
        assert await collect(b, old) == old.content


async def test_an_older_serial_never_replaces_a_newer_document(tmp_path: Path, clock: MockClock) -> None:
    async with bench(tmp_path, {"six": [wheel(), wheel("2.0")]}) as b:
        b.source.serials["six"] = 20
        await b.service.page(PAGE)
        b.source.serials["six"] = 19
        b.source.projects["six"] = [wheel()]
        clock.jump(601)
        view = await b.service.page(PAGE)
        assert len(view.listing.entries) == 2
        assert view.serial == 20
        assert "serial-regression" in await b.events()


async def test_serials_of_another_upstream_mean_nothing_to_this_one(tmp_path: Path, clock: MockClock) -> None:
    async with bench(tmp_path, {"six": [wheel()]}, upstream_since=EPOCH + 300) as b:
        b.source.serials["six"] = 20
        await b.service.page(PAGE)
        b.source.serials["six"] = 3
        b.source.projects["six"] = [wheel(), wheel("2.0")]
        clock.jump(601)
        view = await b.service.page(PAGE)
        assert (len(view.listing.entries), view.serial) == (2, 3)
        b.source.serials["six"] = 2
        clock.jump(601)
        assert (await b.service.page(PAGE)).serial == 3


async def test_a_changed_digest_under_a_bound_name_is_an_alarm_and_changes_nothing(tmp_path: Path, clock: MockClock) -> None:
    good = wheel("1.0", b"good" * KB)
    async with bench(tmp_path, {"six": [good]}) as b:
        await b.service.page(PAGE)
        await collect(b, good)
        evil = Upload(good.filename, b"evil" * KB)
        b.source.projects["six"] = [evil]
        clock.jump(601)
        view = await b.service.page(PAGE)
        assert str(view.listing.entries[good.filename].digests[0].value) == good.sha256
        assert good.sha256.encode() in view.listing.document
        assert evil.sha256.encode() not in view.listing.document
        assert await collect(b, good) == good.content
        assert "rebound" in await b.events()
        with pytest.raises((NotFound, Refused)):
            await collect(b, evil)


async def test_a_page_that_cannot_be_parsed_is_never_served_and_costs_nothing_held(tmp_path: Path, clock: MockClock) -> None:
    async with bench(tmp_path, {"six": [wheel()]}) as b:
        b.source.raw["six"] = b"<html>please log in</html>"
        with pytest.raises(Corrupt):
            await b.service.page(PAGE)
        del b.source.raw["six"]
        clock.jump(10)
        await b.service.page(PAGE)
        b.source.raw["six"] = b"<html>please log in</html>"
        clock.jump(601)
        assert (await b.service.page(PAGE)).cache_status == "hit; detail=upstream-down"
        assert (await b.events()).count("unparsable-page") == 2


async def test_a_rule_is_in_force_at_once_and_its_removal_too(tmp_path: Path, clock: MockClock) -> None:
    async with bench(tmp_path, {"six": [wheel(), wheel("2.0")]}) as b:
        before = await b.service.page(PAGE)
        b.rule("pkg:pypi/six@<2", "stolen credentials")
        assert not before.validity.valid
        during = await b.service.page(PAGE)
        assert during.listing.entries["six-1.0-py3-none-any.whl"].yanked == "stolen credentials"
        assert during.listing.entries["six-2.0-py3-none-any.whl"].yanked is None
        b.service.set_rules([])
        assert not during.validity.valid
        after = await b.service.page(PAGE)
        assert after.listing.entries["six-1.0-py3-none-any.whl"].yanked is None
        assert b.source.asked == ["page six"], "policy is ours: no upstream request"


async def test_many_rules_judge_many_versions_where_nobody_waits(
    tmp_path: Path, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_in: list[int] = []

    def noted(rules: Sequence[Rule], registry: Versions, listing: Listing) -> dict[str, Verdict]:
        judged_in.append(threading.get_ident())
        return verdicts(rules, registry, listing)

    monkeypatch.setattr("origin.policy.force.verdicts", noted)
    table = {"name": "r", "action": "refuse", "reason": "no"}
    rules = [parse_rule({**table, "match": f"pkg:pypi/six@{number}.5"}) for number in range(100)]
    async with bench(tmp_path, {"six": [wheel(f"{number}.0") for number in range(30)]}) as b:
        b.service.set_rules(rules[:1])
        await b.service.page(PAGE)
        b.service.set_rules(rules)
        await b.service.page(PAGE)
    few, many = judged_in
    assert few == threading.get_ident() != many


async def test_the_provenance_of_a_refused_version_is_refused(tmp_path: Path, clock: MockClock) -> None:
    async with bench(tmp_path, {"six": [wheel()]}) as b:
        b.rule("pkg:pypi/six@1.0")
        with pytest.raises(Refused, match="not for us"):
            await b.service.page(Page("pypi", "six", "provenance/1.0/six-1.0-py3-none-any.whl"))
        assert b.source.asked == []


async def test_insisting_asks_upstream_unless_it_was_asked_just_now(tmp_path: Path, clock: MockClock) -> None:
    async with bench(tmp_path, {"six": [wheel()]}) as b:
        await b.service.page(PAGE)
        clock.jump(9)
        assert (await b.service.page(PAGE, insist=True)).outcome == "hit"
        clock.jump(2)
        assert (await b.service.page(PAGE, insist=True)).cache_status == "fwd=request; fwd-status=304"


async def collect(b: Bench, upload: Upload) -> bytes:
    """All bytes of a file, as a client would get them; it is stored when this returns."""
    content = await read(await b.service.deliver(b.file(upload), hold_s=8))
    await landed(b)
    return content


async def test_a_large_listing_that_was_replaced_is_freed_later_and_not_at_once(tmp_path: Path, clock: MockClock) -> None:
    many = [wheel(f"{n}.0", str(n).encode()) for n in range(1500)]
    async with bench(tmp_path, {"six": many}) as b:
        first = (await b.service.page(PAGE)).listing.entries["six-7.0-py3-none-any.whl"]
        idle = sys.getrefcount(first)
        b.source.projects["six"] = [*many, wheel("9999.0")]
        clock.jump(601)
        await b.service.page(PAGE)
        assert sys.getrefcount(first) == idle, "the listing is gone, a second reference keeps its entries"
        clock.jump(11)
        await b.service.keep_house()
        assert sys.getrefcount(first) == idle - 1
