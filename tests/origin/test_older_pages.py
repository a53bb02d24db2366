"""Pages never go back: what a node of ours has from before what is held is not taken, whoever it is and whatever else is away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from trio.testing import MockClock

from origin.api.wire import Recall, Verdicts
from origin.errors import Refused
from origin.model import Listing, Page, Refuse, Stamp
from origin.prepared import is_older, precedes
from origin.registries.pypi import PyPI
from origin.sources import Absent, NotModified, Received, RefusedPage
from tests.origin.test_files import wheel
from tests.origin.test_prepared import TARBALL_PAGE, packuments
from tests.scripted import FRESH_S, ScriptedSource, Upload, document
from tests.tarballs import Tarballs
from tests.tiers import NodeSource, Tier, tier
from tests.wheels import Shelf

PAGE = Page("pypi", "six")
PYPI = PyPI("pypi", "http://pypi.test/simple/")
EVER = Stamp(1e12, 1e12)


@pytest.fixture
def clock() -> MockClock:
    # Worker threads count as blocked tasks: the threshold keeps the clock from jumping while one works.
    return MockClock(autojump_threshold=0.5)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


@dataclass
class Region:
    """A registry, an origin over it, and an edge that asks the origin, then its sibling, then a registry of its own."""

    uploads: list[Upload]
    registry: ScriptedSource
    direct: ScriptedSource
    origin: NodeSource
    sibling: NodeSource
    edge: Tier

    async def versions(self) -> list[str]:
        """What the edge's page offers."""
        view = await self.edge.service.page(PAGE)
        return sorted({entry.file.version for entry in view.listing.entries.values()})


@asynccontextmanager
async def region(path: Path, *uploads: Upload) -> AsyncIterator[Region]:
    """All that is published so far is in ``uploads``. The edge's own registry is away at first."""
    listed = list(uploads)
    registry, direct = ScriptedSource({"six": listed}), ScriptedSource({"six": listed}, down=True)
    async with AsyncExitStack() as stack:
        upper = await stack.enter_async_context(tier(path / "origin", {"pypi": PYPI}, [registry]))
        origin, to_sibling = NodeSource(upper.service), NodeSource(upper.service)
        other = await stack.enter_async_context(tier(path / "sibling", {"pypi": PYPI}, [to_sibling]))
        sibling = NodeSource(other.service, "sibling", kept=True)
        edge = await stack.enter_async_context(tier(path / "edge", {"pypi": PYPI}, [origin, sibling, direct]))
        yield Region(listed, registry, direct, origin, sibling, edge)


async def test_a_sibling_that_was_away_for_longer_has_nothing_for_us(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    async with region(tmp_path, wheel(shelf, version="1.0")) as r:
        await r.sibling.service.page(PAGE)
        clock.jump(FRESH_S + 1)
        r.uploads.append(wheel(shelf, version="2.0"))
        assert await r.versions() == ["1.0", "2.0"]
        r.origin.down = True
        clock.jump(FRESH_S + 1)
        assert await r.versions() == ["1.0", "2.0"]
        assert r.sibling.asked == [f"page {PAGE.key}"]
        assert (await r.edge.service.page(PAGE)).outcome == "stale"


async def test_an_edge_that_holds_nothing_takes_what_its_sibling_has(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    async with region(tmp_path, wheel(shelf, version="1.0")) as r:
        await r.sibling.service.page(PAGE)
        r.uploads.append(wheel(shelf, version="2.0"))
        r.origin.down = True
        assert await r.versions() == ["1.0"]


async def test_a_sibling_that_knows_more_is_heard(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    async with region(tmp_path, wheel(shelf, version="1.0")) as r:
        assert await r.versions() == ["1.0"]
        clock.jump(FRESH_S + 1)
        r.uploads.append(wheel(shelf, version="2.0"))
        await r.sibling.service.page(PAGE)
        r.origin.down = True
        assert await r.versions() == ["1.0", "2.0"]


async def test_what_was_taken_from_a_registry_stays_until_the_origin_has_heard_of_it_too(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    async with region(tmp_path, wheel(shelf, version="1.0")) as r:
        assert await r.versions() == ["1.0"]
        r.origin.down, r.direct.down = True, False
        clock.jump(FRESH_S + 1)
        r.uploads.append(wheel(shelf, version="2.0"))
        assert await r.versions() == ["1.0", "2.0"]
        # The origin is back, its registry is not, nor is ours.
        r.origin.down, r.direct.down, r.registry.down = False, True, True
        clock.jump(FRESH_S + 1)
        assert await r.versions() == ["1.0", "2.0"]
        r.registry.down = False
        clock.jump(FRESH_S + 60)
        r.uploads.append(wheel(shelf, version="3.0"))
        assert await r.versions() == ["1.0", "2.0", "3.0"]
        assert (await r.edge.service.page(PAGE)).outcome == "hit"


async def test_an_absence_that_the_origin_heard_of_earlier_takes_no_page_away(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    async with region(tmp_path, wheel(shelf, version="1.0")) as r:
        del r.registry.projects["six"]
        assert isinstance(await r.origin.page(PAGE, None), Absent)
        r.origin.down, r.direct.down = True, False
        clock.jump(1)
        assert await r.versions() == ["1.0"]
        r.origin.down, r.direct.down, r.registry.down = False, True, True
        clock.jump(FRESH_S + 1)
        assert await r.versions() == ["1.0"]


async def test_a_page_that_was_confirmed_is_as_old_as_the_confirmation(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    async with region(tmp_path, wheel(shelf, version="1.0")) as r:
        first = await r.edge.service.page(PAGE)
        r.registry.down = True
        clock.jump(FRESH_S + 1)
        again = await r.edge.service.page(PAGE)
        assert again.received_at == first.received_at, "the origin has not heard anything since either"
        r.registry.down = False
        clock.jump(60)
        assert (await r.edge.service.page(PAGE)).received_at > first.received_at


async def test_who_refuses_all_that_it_knows_of_takes_nothing_from_who_knows_more(tmp_path: Path, clock: MockClock) -> None:
    shelf = Tarballs(tmp_path / "shelf")
    old, new = shelf.pack("left-pad", "1.0.0"), shelf.pack("left-pad", "2.0.0")
    async with packuments(tmp_path, [old]) as (web, origin, upper, lower):
        await upper.service.page(TARBALL_PAGE)
        clock.jump(FRESH_S + 1)
        async with packuments(tmp_path / "more", [old, new]) as (_, _, other, _):
            to_other = NodeSource(other.service, "sibling", kept=True)
            await other.service.page(TARBALL_PAGE)
            lower.service._pages._sources = [origin, to_other]
            origin.down = True
            assert (await lower.service.page(TARBALL_PAGE)).listing.entries.keys() == {old.filename, new.filename}
            origin.down, to_other.down, web.down = False, True, {"npm"}
            recall = Recall(id="7", target="", reason="a worm", at=0.0, purls=("pkg:npm/left-pad@1.0.0",))
            for node in (upper, lower):
                node.service.set_central(Verdicts(revision=1, recalls=(recall,)))
            clock.jump(FRESH_S + 1)
            with pytest.raises(Refused):
                await upper.service.page(TARBALL_PAGE)
            assert (await lower.service.page(TARBALL_PAGE)).listing.entries.keys() == {new.filename}
            web.down = set()


# ---- the rule itself


def listing(shelf: Shelf, *versions: str) -> Listing:
    made = document("six", [wheel(shelf, version=version) for version in versions])
    return PYPI.reread(
        PAGE, PYPI.read(PAGE, made, "application/vnd.pypi.simple.v1+json", "http://pypi.test/simple/six/").document
    )


def sent(body: Listing, received_at: float, unsure_s: float = 0.0, **restrictions: Refuse) -> Received:
    given = {version.lstrip("v").replace("_", "."): verdict for version, verdict in restrictions.items()}
    return Received(body.document, "", "", EVER, prepared=True, restrictions=given, received_at=received_at, unsure_s=unsure_s)


async def judged(answer: Received | Absent | NotModified, held: Listing, received_at: float = 100.0, now: float = 1000.0) -> bool:
    async def reread(body: bytes) -> Listing:
        return PYPI.reread(PAGE, body)

    return await is_older(answer, held, received_at, now, reread)


async def test_of_two_pages_the_one_that_was_confirmed_earlier_is_older(shelf: Shelf) -> None:
    one, two = listing(shelf, "1.0"), listing(shelf, "1.0", "2.0")
    assert await judged(sent(one, 99), two)
    assert await judged(sent(two, 99), one), "whatever it has"
    assert not await judged(sent(one, 100), two), "something was removed since"
    assert not await judged(sent(two, 50), listing(shelf, "1.0", "2.0")), "the same"


async def test_where_the_way_took_longer_than_the_difference_the_one_that_lacks_something_is_older(shelf: Shelf) -> None:
    one, two = listing(shelf, "1.0"), listing(shelf, "1.0", "2.0")
    assert await judged(sent(one, 99, 3), two)
    assert not await judged(sent(two, 99, 3), one)
    assert not await judged(sent(one, 99, 3, v2_0=Refuse("bad", "recall-1")), two), "policy took it off"


async def test_what_is_no_page_of_another_node_or_from_before_a_clock_was_set_back_is_not_older(shelf: Shelf) -> None:
    one, two = listing(shelf, "1.0"), listing(shelf, "1.0", "2.0")
    assert not await judged(NotModified(EVER, received_at=1), two)
    assert not await judged(Received(one.document, "", "", EVER), two)
    assert not await judged(sent(one, 99), two, now=99.5)
    assert await judged(Absent(404, EVER, prepared=True, received_at=99), two)
    assert not await judged(Absent(404, EVER, prepared=True, received_at=101), two)
    broken = Received(b"no page", "", "", EVER, prepared=True, received_at=99)
    assert not await judged(broken, two)


def test_a_refusal_counts_unless_it_is_certainly_from_before() -> None:
    bad = Refuse("bad", "recall-1")
    assert precedes(RefusedPage(bad, 90, 5), 100, 1000)
    assert not precedes(RefusedPage(bad, 99, 5), 100, 1000)
    assert not precedes(RefusedPage(bad, 90, 5), 100, 99), "a clock was set back"
