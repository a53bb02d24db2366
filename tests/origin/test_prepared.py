"""Pages and files from a node of ours: believed as they are, with what its policy took off; and which source is asked when."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from origin.api.wire import Recall, Verdicts
from origin.catalog.memory import MemoryCatalog
from origin.errors import Corrupt, NotFound, Refused, Unavailable
from origin.model import Digest, File, Page, Refuse, Relay
from origin.policy.rules import parse_rule
from origin.registries.npm import NPM
from origin.registries.pypi import PyPI
from origin.sources import Answer, Known, Received, Relayed
from tests.origin.test_files import read, wheel
from tests.scripted import FRESH_S, ScriptedSource, Sent, Upload, Web
from tests.tarballs import Tarball, Tarballs
from tests.tiers import NodeSource, Tier, tier
from tests.wheels import MB, Shelf

PAGE = Page("pypi", "six")
PYPI = PyPI("pypi", "http://pypi.test/simple/")
NPM_ROOT = "https://npm.test/"
TARBALL_PAGE = Page("npm", "left-pad")
WORM = "recalled: a worm"


@pytest.fixture
def clock() -> MockClock:
    # Worker threads count as blocked tasks: the threshold keeps the clock from jumping while one works.
    return MockClock(autojump_threshold=0.5)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


@dataclass
class Tiers:
    """A registry, an origin over it, and an edge that asks the origin first and the registry after it."""

    registry: ScriptedSource
    origin: NodeSource
    direct: ScriptedSource
    upper: Tier
    lower: Tier

    def recall(self, *targets: str, undo: bool = False, revision: int = 1, both: bool = True) -> None:
        purls = tuple(target for target in targets if target.startswith("pkg:"))
        digests = tuple(target for target in targets if not target.startswith("pkg:"))
        made = Recall(id="7", target=targets[0], reason="a worm", at=0.0, purls=purls, digests=digests)
        verdicts = Verdicts(revision=revision, recalls=() if undo else (made,))
        for each in (self.upper, self.lower) if both else (self.upper,):
            each.service.set_central(verdicts)


@asynccontextmanager
async def tiers(path: Path, uploads: list[Upload], catalog: MemoryCatalog | None = None) -> AsyncIterator[Tiers]:
    registry, direct = ScriptedSource({"six": uploads}), ScriptedSource({"six": uploads}, worth_waiting=False, down=True)
    async with AsyncExitStack() as stack:
        upper = await stack.enter_async_context(tier(path / "upper", {"pypi": PYPI}, [registry]))
        origin = NodeSource(upper.service)
        lower = await stack.enter_async_context(tier(path / "lower", {"pypi": PYPI}, [origin, direct], catalog))
        yield Tiers(registry, origin, direct, upper, lower)


def file(upload: Upload, suffix: str = "") -> File:
    found = PYPI.resource("GET", upload.path + suffix)
    assert isinstance(found, File)
    return found


def sha256(body: bytes) -> str:
    return f"sha256-{hashlib.sha256(body).hexdigest()}"


def files_of(document: bytes) -> dict[str, Any]:
    return {each["filename"]: each["yanked"] for each in json.loads(document)["files"]}


# ---- pages


async def test_a_page_is_the_origins_and_says_so(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    async with tiers(tmp_path, [wheel(shelf)]) as t:
        first = await t.lower.service.page(PAGE)
        above = await t.upper.service.page(PAGE)
        assert first.listing.entries == above.listing.entries
        assert first.listing.document == above.listing.document
        assert (first.stamp.fresh_until, first.received_at) == (above.stamp.fresh_until, above.received_at)
        assert first.trail == "leeward-origin; fwd=uri-miss; stored"
        assert (await t.lower.service.page(PAGE)).trail == "", "nobody was asked"
        clock.jump(FRESH_S + 1)
        again = await t.lower.service.page(PAGE)
        assert (again.cache_status, again.trail) == ("fwd=stale; fwd-status=304", "leeward-origin; fwd=stale; fwd-status=304")
        assert t.direct.asked == []


async def test_what_the_origins_policy_took_off_is_off_here_and_why_outlives_a_restart(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    bad, good = wheel(shelf, version="1.0"), wheel(shelf, version="1.1")
    catalog = MemoryCatalog()
    async with tiers(tmp_path, [bad, good], catalog) as t:
        t.recall("pkg:pypi/six@1.0")
        view = await t.lower.service.page(PAGE)
        above = await t.upper.service.page(PAGE)
        assert view.listing.restrictions == above.listing.restrictions == {"1.0": Refuse(WORM, "recall-7")}
        assert view.listing.document == above.listing.document
        assert view.listing.restricted_at == above.listing.restricted_at > 0
    async with tiers(tmp_path, [bad, good], catalog) as t:
        t.origin.down = True
        t.recall("pkg:pypi/six@1.0")
        again = await t.lower.service.page(PAGE)
        assert again.listing.restrictions == view.listing.restrictions
        assert again.listing.restricted_at == view.listing.restricted_at
        assert again.listing.document == view.listing.document


async def test_a_page_whose_reasons_were_lost_is_asked_for_whole(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    catalog = MemoryCatalog()
    async with tiers(tmp_path, [wheel(shelf)], catalog) as t:
        t.recall("pkg:pypi/six@1.0")
        await t.lower.service.page(PAGE)
    for lost in ("{", '{"document": "another"}'):
        await catalog.remember(f"taken {PAGE.key}", lost)
        async with tiers(tmp_path, [wheel(shelf)], catalog) as t:
            t.recall("pkg:pypi/six@1.0")
            view = await t.lower.service.page(PAGE)
            assert (view.outcome, view.listing.restrictions) == ("revalidated", {"1.0": Refuse(WORM, "recall-7")})
            assert [known and known.etag for known in t.origin.known] == [None]


async def test_what_left_the_origins_page_has_left_it_here_without_a_second_look(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    old, new = wheel(shelf, version="1.0"), wheel(shelf, version="1.1")
    async with tiers(tmp_path, [old, new]) as t:
        await t.lower.service.page(PAGE)
        t.registry.projects["six"] = [new]
        for _ in range(2):
            clock.jump(61)
            await t.upper.service.page(PAGE, insist=True)
        clock.jump(FRESH_S)
        assert list((await t.lower.service.page(PAGE)).listing.entries) == [new.filename]
        del t.registry.projects["six"]
        clock.jump(FRESH_S + 1)
        await t.upper.service.page(PAGE)
        clock.jump(61)
        for each in (t.upper, t.lower):
            with pytest.raises(NotFound):
                await each.service.page(PAGE)
        assert "upstream-gone" not in await t.lower.events()


async def test_an_older_serial_from_another_source_is_no_alarm(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    upload = wheel(shelf)
    async with tiers(tmp_path, [upload]) as t:
        t.registry.serials["six"] = 9
        await t.lower.service.page(PAGE)
        clock.jump(FRESH_S + 1)
        t.origin.down, t.direct.down, t.direct.worth_waiting = True, False, True
        t.direct.serials["six"] = 5
        assert (await t.lower.service.page(PAGE)).serial == 5
        clock.jump(FRESH_S + 1)
        t.origin.down = False
        t.registry.serials["six"] = 3
        assert (await t.lower.service.page(PAGE)).serial == 9, "the origin goes on with what it holds"
        assert await t.lower.events() == []


async def test_a_page_that_cannot_be_read_is_none(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    async with tiers(tmp_path, [wheel(shelf)]) as t:

        async def nonsense(page: Page, known: Known | None) -> Answer:
            view = await t.upper.service.page(page)
            return Received(b"<html>", "application/json", "", view.stamp, prepared=True)

        t.origin.page = nonsense  # type: ignore[method-assign]
        with pytest.raises(Corrupt, match="six"):
            await t.lower.service.page(PAGE)
        assert await t.lower.events() == ["unparsable-page"]


async def test_who_wants_the_registry_asked_is_heard_by_the_origin(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    old, new = wheel(shelf, version="1.0"), wheel(shelf, version="1.1")
    async with tiers(tmp_path, [old]) as t:
        await t.lower.service.page(PAGE)
        clock.jump(30)
        t.registry.projects["six"] = [old, new]
        assert len((await t.lower.service.page(PAGE, insist=True)).listing.entries) == 2
        # A file that was just published, asked for by its address.
        newest = wheel(shelf, version="1.2")
        t.registry.projects["six"] = [old, new, newest]
        clock.jump(30)
        assert await t.lower.fetch(file(newest)) == newest.content


async def test_a_name_that_is_bound_here_stays_bound_whatever_the_origin_lists(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    upload = wheel(shelf)
    changed = Upload(upload.filename, upload.content + b"!", hashed=False)
    upload.hashed = False
    async with tiers(tmp_path, [upload]) as t:
        named = PYPI.resource("GET", f"packages/-/six/{upload.filename}")
        assert isinstance(named, File)
        t.origin.down, t.direct.down = True, False
        assert await t.lower.fetch(named) == upload.content
        t.origin.down = False
        t.registry.projects["six"] = [changed]
        clock.jump(FRESH_S + 1)
        entry = (await t.lower.service.page(PAGE)).listing.entries[upload.filename]
        assert str(entry.digests[0]) == sha256(upload.content)
        assert "rebound" in await t.lower.events()
        assert await t.lower.fetch(named) == upload.content


# ---- policy above and below


async def test_an_edges_own_rules_add_to_what_the_origin_took_off(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    uploads = [wheel(shelf, version=version) for version in ("1.0", "1.1", "1.2")]
    async with tiers(tmp_path, uploads) as t:
        t.recall("pkg:pypi/six@1.0")
        before = await t.lower.service.page(PAGE)
        rule = {"name": "own", "match": "pkg:pypi/six@1.1", "action": "refuse", "reason": "not here"}
        t.lower.service.set_rules([parse_rule(rule)])
        view = await t.lower.service.page(PAGE)
        assert list(files_of(view.listing.document).values()) == [WORM, "not here", False]
        assert view.listing.restrictions == {"1.0": Refuse(WORM, "recall-7"), "1.1": Refuse("not here", "own")}
        assert view.listing.restricted_at > before.listing.restricted_at
        t.lower.service.set_rules([])
        assert list(files_of((await t.lower.service.page(PAGE)).listing.document).values()) == [WORM, False, False]


async def test_what_is_given_back_is_asked_for_again_and_not_before(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    bad = wheel(shelf)
    catalog = MemoryCatalog()
    async with tiers(tmp_path, [bad], catalog) as t:
        t.recall("pkg:pypi/six@1.0")
        await t.lower.service.page(PAGE)
        t.recall("pkg:pypi/other", revision=2, both=False)
        assert (await t.lower.service.page(PAGE)).outcome == "hit", "nothing was given back here so far"
        t.recall("pkg:pypi/other", revision=2)
        view = await t.lower.service.page(PAGE)
        assert (view.outcome, view.listing.restrictions) == ("revalidated", {})
        assert files_of(view.listing.document) == {bad.filename: False}
        assert await t.lower.fetch(file(bad)) == bad.content
        t.recall("pkg:pypi/six@1.0", revision=3)
        await t.lower.service.doubt("pypi", "six")
        assert (await t.lower.service.page(PAGE)).outcome == "revalidated"
    async with tiers(tmp_path, [bad], catalog) as t:
        # Given back while the edge was not running.
        assert files_of((await t.lower.service.page(PAGE)).listing.document) == {bad.filename: False}


async def test_a_page_that_the_origin_refuses_is_refused_and_nobody_else_is_asked(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    upload = wheel(shelf)
    provenance = Page("pypi", "six", f"provenance/1.0/{upload.filename}")
    async with tiers(tmp_path, [upload]) as t:
        t.direct.down, t.direct.worth_waiting = False, True
        t.registry.raw["six"] = t.direct.raw["six"] = b'{"version": 1, "attestation_bundles": []}'
        await t.lower.service.page(provenance)
        t.recall("pkg:pypi/six@1.0", both=False)
        clock.jump(FRESH_S + 1)
        with pytest.raises(Refused, match=WORM):
            await t.lower.service.page(provenance)
        t.recall("pkg:pypi/six@1.0", undo=True, revision=2, both=False)
        assert (await t.lower.service.page(provenance)).outcome == "revalidated"
        assert t.direct.asked == []


# ---- files


async def test_a_file_comes_through_the_origin_once_for_both(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    upload = wheel(shelf, 2 * MB)
    async with tiers(tmp_path, [upload]) as t:
        delivery = await t.lower.service.deliver(file(upload), hold_s=8)
        assert delivery.trail == "leeward-x"
        assert not isinstance(delivery.body, bytes)
        delivery.body.close()
        await t.lower.landed()
        await t.upper.landed()
        held = await t.lower.service.deliver(file(upload), hold_s=8)
        assert held.trail == ""
        assert await read(held) == upload.content
        assert await t.lower.fetch(file(upload, ".metadata")) == await t.upper.fetch(file(upload, ".metadata"))
        assert t.registry.asked == ["page six", f"file {upload.filename} from 0"]
        assert t.direct.asked == []


async def test_a_transfer_that_breaks_off_for_good_goes_on_from_the_next_source(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    upload = wheel(shelf, 2 * MB)
    async with tiers(tmp_path, [upload]) as t:
        t.direct.down = False
        t.origin.break_at = [500_000, 600_000, 700_000]
        assert await t.lower.fetch(file(upload)) == upload.content
        assert len(t.direct.asked) == 1
        assert t.direct.asked[0] != f"file {upload.filename} from 0"


async def test_a_file_without_a_digest_goes_on_only_where_it_began(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    upload = wheel(shelf, 2 * MB)
    upload.digests = upload.hashed = False
    named = PYPI.resource("GET", f"packages/-/six/{upload.filename}")
    assert isinstance(named, File)
    async with tiers(tmp_path, [upload]) as t:
        t.direct.down = False
        t.origin.break_at = [500_000, 600_000, 700_000]
        with pytest.raises(Unavailable):
            await t.lower.fetch(named)
        assert t.direct.asked == []


async def test_a_file_that_is_refused_or_wrong_above_is_asked_for_nowhere_else(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    bad, wrong = (wheel(shelf, version=version) for version in ("1.0", "1.2"))
    wrong = Upload(wrong.filename, wrong.content[:-1] + b"?", wrong.content)
    async with tiers(tmp_path, [bad, wrong]) as t:
        t.direct.down = False
        await t.lower.service.page(PAGE)
        t.recall(sha256(bad.content), both=False)
        with pytest.raises(Refused, match=WORM):
            await t.lower.fetch(file(bad))
        with pytest.raises(Corrupt):
            await t.lower.fetch(file(wrong))
        assert t.direct.asked == []


async def test_only_what_cannot_answer_leads_to_the_next_source(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    upload = wheel(shelf)
    async with tiers(tmp_path, [upload]) as t:
        t.direct.down, t.direct.worth_waiting = False, True
        assert not await t.lower.service.exists(file(wheel(shelf, version="9.9")))
        assert t.direct.asked == []
        t.origin.down = True
        clock.jump(FRESH_S + 1)
        assert (await t.lower.service.page(PAGE)).outcome == "revalidated"
        assert await t.lower.fetch(file(upload)) == upload.content
        assert t.direct.asked == ["page six", f"file {upload.filename} from 0"]
        t.direct.relayed["-/search"] = Relayed(200, b"{}")
        with pytest.raises((NotFound, Unavailable, Corrupt)):
            await t.lower.service.relay(Relay("pypi", "GET", "-/nonesuch"))


@pytest.mark.parametrize("fault", [NotFound("gone"), Corrupt("wrong"), Refused(Refuse("no", "r"))])
async def test_a_final_word_on_a_file_ends_the_search(fault: Exception, tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    upload = wheel(shelf)
    async with tiers(tmp_path, [upload]) as t:
        t.direct.down = False
        await t.lower.service.page(PAGE)

        async def say(_: File) -> Any:
            raise fault

        t.origin._delivery = say  # type: ignore[method-assign, assignment]
        with pytest.raises((Unavailable, Corrupt, Refused)):
            await t.lower.fetch(file(upload))
        assert t.direct.asked == []


async def test_a_sibling_gives_what_it_holds_and_leads_on_for_the_rest(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    held, other = wheel(shelf), wheel(shelf, version="1.1")
    async with tiers(tmp_path, [held, other]) as t:
        await t.upper.fetch(file(held))
        t.origin.kept = True
        t.direct.down = False
        assert await t.lower.fetch(file(held)) == held.content
        assert t.direct.asked == []
        assert await t.lower.fetch(file(other)) == other.content
        assert t.direct.asked == [f"file {other.filename} from 0"]


# ---- packuments


@asynccontextmanager
async def packuments(tmp_path: Path, tarballs: list[Tarball]) -> AsyncIterator[tuple[Web, NodeSource, Tier, Tier]]:
    npm = NPM("npm", NPM_ROOT)
    packument = {
        "name": "left-pad",
        "dist-tags": {"latest": tarballs[-1].version},
        "time": {"modified": "2024-01-01T00:00:00.000Z"},
        "versions": {
            each.version: {
                "name": "left-pad",
                "version": each.version,
                "dist": {"tarball": NPM_ROOT + each.target, "integrity": each.integrity, "shasum": each.shasum},
            }
            for each in tarballs
        },
    }
    web = Web({"npm": npm})
    web.sent = {NPM_ROOT + each.target: Sent(each.content) for each in tarballs}
    web.sent[NPM_ROOT + "left-pad"] = Sent(json.dumps(packument).encode(), media_type="application/json")
    async with AsyncExitStack() as stack:
        upper = await stack.enter_async_context(tier(tmp_path / "upper", {"npm": npm}, [web]))
        origin = NodeSource(upper.service)
        lower = await stack.enter_async_context(tier(tmp_path / "lower", {"npm": npm}, [origin]))
        yield web, origin, upper, lower


def tarball(each: Tarball) -> File:
    found = NPM("npm", NPM_ROOT).resource("GET", each.target)
    assert isinstance(found, File)
    return found


async def test_a_packument_is_repaired_once_and_its_missing_version_is_refused_with_the_reason(
    tmp_path: Path, clock: MockClock
) -> None:
    shelf = Tarballs(tmp_path / "shelf")
    old, bad = shelf.pack("left-pad", "1.0.0"), shelf.pack("left-pad", "1.0.1")
    async with packuments(tmp_path, [old, bad]) as (_, _, upper, lower):
        assert await lower.fetch(tarball(bad)) == bad.content
        made = Recall(id="7", target="", reason="a worm", at=0.0, digests=(f"sha256-{bad.sha256}",))
        upper.service.set_central(Verdicts(revision=1, recalls=(made,)))
        # The edge has not heard of it but by the page: neither rule nor digest tells.
        lower.service.doubted([("npm", "left-pad")])
        view = await lower.service.page(TARBALL_PAGE)
        page = json.loads(view.listing.document)
        assert (list(page["versions"]), page["dist-tags"]) == (["1.0.0"], {"latest": "1.0.0"})
        assert page["policyRestrictions"]["message"].count(WORM) == 1
        assert view.listing.restrictions == {"1.0.1": Refuse(WORM, "recall-7")}
        for ask in (lower.service.held_file, lower.fetch, lower.service.keep):
            with pytest.raises(Refused, match=WORM):
                await ask(tarball(bad))
        lower.service.set_central(Verdicts(revision=1, recalls=(made,)))
        again = await lower.service.page(TARBALL_PAGE)
        assert (again.outcome, again.listing.document) == ("hit", view.listing.document)
        assert again.listing.restricted_at == view.listing.restricted_at
        with pytest.raises(Refused, match=WORM):
            await lower.service.blob(Digest("sha256", bad.sha256))


async def test_a_project_that_is_refused_whole_is_refused_below_too(tmp_path: Path, clock: MockClock) -> None:
    shelf = Tarballs(tmp_path / "shelf")
    async with packuments(tmp_path, [shelf.pack("left-pad", "1.0.0")]) as (_, origin, upper, lower):
        made = Recall(id="7", target="", reason="a worm", at=0.0, purls=("pkg:npm/left-pad",))
        upper.service.set_central(Verdicts(revision=1, recalls=(made,)))
        calls: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: lower.service.page(TARBALL_PAGE),
            lambda: lower.service.keep(TARBALL_PAGE),
        )
        for call in calls:
            with pytest.raises(Refused, match=WORM):
                await call()
        assert await lower.catalog.answer(TARBALL_PAGE) is None
        upper.service.set_central(Verdicts(revision=2))
        assert (await lower.service.page(TARBALL_PAGE)).outcome == "miss"
        assert len(origin.asked) == 3


async def test_a_file_that_was_given_back_is_served_to_the_first_who_asks(tmp_path: Path, clock: MockClock) -> None:
    shelf = Tarballs(tmp_path / "shelf")
    bad, good = shelf.pack("left-pad", "1.0.0"), shelf.pack("left-pad", "2.0.0")
    async with packuments(tmp_path, [bad, good]) as (web, _, upper, lower):
        assert await lower.fetch(tarball(bad)) == bad.content
        recall = Recall(id="7", target="", reason="a worm", at=0.0, purls=("pkg:npm/left-pad@1.0.0",))
        for node in (upper, lower):
            node.service.set_central(Verdicts(revision=1, recalls=(recall,)))
        await lower.service.doubt("npm", "left-pad")
        assert (await lower.service.page(TARBALL_PAGE)).listing.entries.keys() == {good.filename}
        for node in (upper, lower):
            node.service.set_central(Verdicts(revision=2))
        # By its name alone, as `npm ci` asks.
        assert await lower.fetch(tarball(bad)) == bad.content
        assert web.asked.count(NPM_ROOT + bad.target) == 1
