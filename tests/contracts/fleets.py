"""What every ``Catalog`` keeps of following and of a fleet: what is wanted, who was invited, who is in, who fetched what."""

from __future__ import annotations

from dataclasses import replace

from origin.catalog import Access, Catalog, Member, Wanted
from origin.model import File, Page
from tests.contracts.catalogs import SIX, WHEEL, stored, wheel


def want(resource: Page | File, since: float = 1.0, **changes: object) -> Wanted:
    """Something that was never tried."""
    return replace(Wanted(resource.key, resource, since), **changes)  # type: ignore[arg-type]  # the fields' own types


def access(number: int = 0, edge: str = "", **changes: object) -> Access:
    """One delivery of six."""
    one = Access(float(number), WHEEL.key, "ab" * 32, "127.0.0.1", "", 10, True, edge, number)
    return replace(one, **changes)  # type: ignore[arg-type]  # the fields' own types


class FleetContract:
    """The suite. Each test gets a new, empty catalogue."""

    # -- following

    async def test_a_batch_of_the_feed_is_applied_whole(self, catalog: Catalog) -> None:
        other = Page("pypi", "other")
        for page in (SIX, Page("pypi", "six", "json"), other):
            await catalog.publish(stored(page))
        await catalog.follow(
            {"cursor": "epoch.7", "hash": "ab"}, [("pypi", "six"), ("pypi", "unknown")], [want(SIX), want(WHEEL)]
        )
        assert await catalog.recall("cursor") == "epoch.7"
        assert await catalog.recall("hash") == "ab"
        for page, fresh in ((SIX, False), (Page("pypi", "six", "json"), False), (other, True)):
            answer = await catalog.answer(page)
            assert answer is not None
            assert (answer.stamp.fresh_until > 0) is fresh
        assert list(await catalog.wanted(1.0)) == [want(SIX), want(WHEEL)]
        assert await catalog.head() == (3, (await catalog.lines(0))[-1].hash)

    async def test_what_is_due_comes_pages_first_then_the_longest_wanted_and_the_dead_last(self, catalog: Catalog) -> None:
        every = [
            want(SIX, 5.0), want(Page("pypi", "seven"), 6.0), want(WHEEL, 1.0), want(wheel(1), 2.0), want(wheel(2), 2.0),
            want(Page("pypi", "gone"), 0.0, dead=True, attempts=9, error="no such page"),
        ]  # fmt: skip
        late = want(wheel(3), 0.0, due=50.0)
        await catalog.follow({}, wanted=[late, *reversed(every)])
        assert list(await catalog.wanted(49.0)) == every
        assert list(await catalog.wanted(49.0, limit=2)) == every[:2]
        assert list(await catalog.wanted(50.0)) == [*every[:2], late, *every[2:]]
        assert await catalog.unresolved() == (7, 1, 0.0)

    async def test_what_failed_is_due_later_and_what_came_is_forgotten(self, catalog: Catalog) -> None:
        await catalog.follow({}, wanted=[want(SIX), want(WHEEL), want(wheel(1))])
        failed = want(WHEEL, due=30.0, attempts=1, error="unreachable")
        await catalog.settle([want(SIX), wheel(1).key, "never wanted"], [failed, want(wheel(9), attempts=1)])
        assert list(await catalog.wanted(29.0)) == []
        assert list(await catalog.wanted(30.0)) == [failed]
        assert await catalog.unresolved() == (1, 0, 1.0)
        await catalog.settle([failed])
        assert await catalog.unresolved() == (0, 0, None)

    async def test_what_is_wanted_again_is_due_again_and_keeps_its_history(self, catalog: Catalog) -> None:
        await catalog.follow({}, wanted=[want(WHEEL)])
        await catalog.settle([], [want(WHEEL, due=1000.0, attempts=5, error="unreachable", dead=True)])
        await catalog.follow({}, wanted=[want(WHEEL, since=70.0)])
        assert list(await catalog.wanted(0.0)) == [want(WHEEL, attempts=5, error="unreachable", dead=True, asked=2)]

    async def test_what_is_wanted_again_while_it_is_fetched_is_fetched_again(self, catalog: Catalog) -> None:
        assert list(await catalog.follow({}, wanted=[want(SIX), want(WHEEL)])) == [want(SIX), want(WHEEL)]
        page, file = await catalog.wanted(1.0)
        again = await catalog.follow({}, wanted=[want(SIX, since=2.0), want(WHEEL)])
        assert list(again) == [want(SIX, since=2.0, asked=2), want(WHEEL, asked=2)]
        await catalog.settle([page], [replace(file, due=90.0, attempts=1, error="late")])
        left = await catalog.wanted(1.0)
        assert list(left) == [want(SIX, asked=2), want(WHEEL, asked=2, attempts=1, error="late")]
        await catalog.settle([left[0], WHEEL.key])
        assert await catalog.unresolved() == (0, 0, None)

    # -- the fleet

    async def test_an_invitation_is_used_once_and_in_time(self, catalog: Catalog) -> None:
        await catalog.invite("lisbon", "aa", until=100.0)
        await catalog.invite("porto", "bb", until=100.0)
        assert await catalog.enrol("cc", "s1", now=50.0) is None
        assert await catalog.enrol("aa", "s1", now=50.0) == "lisbon"
        assert await catalog.enrol("aa", "s2", now=50.0) is None
        assert await catalog.enrol("bb", "s2", now=100.0) is None
        assert list(await catalog.edges()) == [Member("lisbon", "s1", 50.0)]

    async def test_a_later_invitation_voids_the_one_before(self, catalog: Catalog) -> None:
        await catalog.invite("lisbon", "aa", until=100.0)
        await catalog.invite("lisbon", "bb", until=200.0)
        assert await catalog.enrol("aa", "s1", now=1.0) is None
        assert await catalog.enrol("bb", "s1", now=150.0) == "lisbon"

    async def test_how_edges_stand_is_noted_and_who_is_none_of_ours_is_passed_over(self, catalog: Catalog) -> None:
        for name in ("porto", "lisbon"):
            await catalog.invite(name, name, until=100.0)
            await catalog.enrol(name, f"secret of {name}", now=1.0)
        lisbon = Member("lisbon", "secret of lisbon", 1.0, 70.0, 12, 3, 4, 5000, "192.0.2.7", "0.5")
        await catalog.seen([replace(lisbon, secret="forged", enrolled_at=9.0), Member("evora", "x", 1.0)])
        assert list(await catalog.edges()) == [lisbon, Member("porto", "secret of porto", 1.0)]

    async def test_an_edge_that_enrols_again_begins_anew(self, catalog: Catalog) -> None:
        await catalog.invite("lisbon", "aa", until=100.0)
        await catalog.enrol("aa", "s1", now=1.0)
        await catalog.seen([Member("lisbon", "", 0.0, 70.0, 12, 3)])
        await catalog.record_accesses([access(1, "lisbon")])
        await catalog.invite("lisbon", "bb", until=100.0)
        assert await catalog.enrol("bb", "s2", now=80.0) == "lisbon"
        assert list(await catalog.edges()) == [Member("lisbon", "s2", 80.0)]
        # It may have lost its directory, and number its accesses from the beginning: they are not those of before.
        await catalog.record_accesses([access(1, "lisbon", at=90.0)])
        assert [each.at for each in await catalog.deliveries([WHEEL.key], [])] == [90.0, 1.0]

    async def test_who_is_dismissed_is_none_of_ours_and_not_invited(self, catalog: Catalog) -> None:
        await catalog.invite("lisbon", "aa", until=100.0)
        await catalog.enrol("aa", "s1", now=1.0)
        await catalog.invite("lisbon", "bb", until=100.0)
        assert await catalog.dismiss("lisbon") is True
        assert await catalog.dismiss("lisbon") is False
        assert list(await catalog.edges()) == []
        assert await catalog.enrol("bb", "s2", now=2.0) is None
        await catalog.invite("porto", "cc", until=100.0)
        assert await catalog.dismiss("porto") is True

    # -- deliveries

    async def test_what_an_edge_sends_twice_is_kept_once(self, catalog: Catalog) -> None:
        await catalog.record_accesses([access(1, "lisbon"), access(2, "lisbon"), access(1, "porto")])
        await catalog.record_accesses([access(2, "lisbon", client="again"), access(3, "lisbon"), access(3, "lisbon")])
        found = [(each.edge, each.number, each.client) for each in await catalog.accesses()]
        assert found == [
            (edge, number, "127.0.0.1") for edge, number in (("lisbon", 3), ("porto", 1), ("lisbon", 2), ("lisbon", 1))
        ]
        assert await catalog.trim_accesses(0.0, 4) == 0
        assert await catalog.trim_accesses(0.0, 2) == 2
        assert [(each.edge, each.number) for each in await catalog.accesses()] == [("lisbon", 3), ("porto", 1)]

    async def test_our_own_accesses_are_numbered_and_no_number_is_given_twice(self, catalog: Catalog) -> None:
        own = [access(at=float(number)) for number in range(4)]
        await catalog.record_accesses([own[0], access(7, "lisbon"), *own[1:]])
        found = await catalog.accesses_after(0)
        numbers = [number for number, _ in found]
        assert [each for _, each in found] == own
        assert numbers == sorted(set(numbers)) and numbers[0] > 0
        assert list(await catalog.accesses_after(numbers[1], limit=1)) == [(numbers[2], own[2])]
        assert await catalog.trim_accesses(1e12, 0) == 5
        await catalog.record_accesses([own[0]])
        ((number, _),) = await catalog.accesses_after(0)
        assert number > numbers[-1]

    async def test_deliveries_are_found_by_file_and_by_bytes_wherever_they_were(self, catalog: Catalog) -> None:
        by_name = access(1, "lisbon", at=1.0, digest="other")
        by_bytes = access(2, "lisbon", at=3.0, file="pypi:renamed:1:renamed.whl")
        ours = access(at=2.0)
        both = access(1, "porto", at=4.0)
        elsewhere = access(3, "porto", at=5.0, file="pypi:else:1:else.whl", digest="cd" * 32)
        await catalog.record_accesses([both, by_name, by_bytes, elsewhere, ours])
        assert list(await catalog.deliveries([WHEEL.key], ["ab" * 32])) == [both, by_bytes, ours, by_name]
        assert list(await catalog.deliveries([WHEEL.key], ["ab" * 32], limit=1)) == [both]
        assert list(await catalog.deliveries([], ["ab" * 32])) == [both, by_bytes, ours]
        assert list(await catalog.deliveries([], [])) == []
