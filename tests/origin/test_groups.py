"""Several repositories at one path: who is asked for what, what is made of their answers, and what is never asked elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from origin import groups
from origin.errors import NotFound, Refused, Unavailable
from origin.groups import JointValidity, members_for
from origin.held import PageView
from origin.model import File, Page, Validity
from origin.registries import Options, Registry
from origin.registries.maven import XML, Maven
from tests.origin.test_evidence import LAST_MODIFIED, archive, metadata, sha1
from tests.origin.test_files import read
from tests.scripted import Sent, Stall, stall

OURS, PUBLIC = "https://ours.test/releases/", "https://maven.test/maven2/"
JAR = "org/example/lib/1.0/lib-1.0.jar"
METADATA = "org/example/lib/maven-metadata.xml"


@pytest.fixture
def clock() -> MockClock:
    # Worker threads count as blocked tasks: the threshold keeps the clock from jumping while one works.
    return MockClock(autojump_threshold=0.5)


def instance(name: str, *groups: str) -> Maven:
    return Maven(name, f"https://{name}.test/", Options(groups=groups))


# ---- who answers for what


@pytest.mark.parametrize(
    ("pattern", "project", "covered"),
    [
        ("com.company", "com.company/lib", True),
        ("com.company", "com.company.team/lib", True),
        ("com.company", "com.company", True),
        # The group's own metadata reads like an artifact's.
        ("com.company", "com/company", True),
        ("com.company.*", "com/company", True),
        ("com.company.*", "com.company/lib", True),
        ("com.company.*", "com.company.team/lib", True),
        ("com.company/lib", "com.company/lib", True),
        ("com.company/lib", "com.company/library", False),
        ("com.company*", "com.companyevil/lib", True),
        ("*.company", "com.company/lib", True),
        ("com.company", "com.companyevil/lib", False),
        ("com.company.*", "com.companyevil/lib", False),
        ("com.company", "com/companyevil", False),
        ("com.company", "org.com.company/lib", False),
        ("com.company", "com/other", False),
        ("com.company", "COM.company/lib", False),
        ("com.company.team", "com.company/lib", False),
        ("com.company.team", "com/company", False),
        ("*", "com.company/lib", True),
    ],
)
def test_a_pattern_covers_a_name_and_all_beneath_it(pattern: str, project: str, covered: bool) -> None:
    pinned, other = instance("pinned", pattern), instance("other")
    assert list(members_for([pinned, other], project)) == ([pinned] if covered else [other])


@pytest.mark.parametrize(
    "target",
    [
        "company/maven-metadata.xml",
        "company/maven-metadata.xml.sha1",
        "company/team/maven-metadata.xml",
        "company/lib/1/lib-1.jar",
    ],
)
def test_what_is_in_a_pinned_group_is_asked_of_its_own_repository_alone(target: str) -> None:
    pinned, other = instance("pinned", "company"), instance("other")
    asked = other.resource("GET", target)
    assert isinstance(asked, Page | File)
    assert list(members_for([pinned, other], other.claimed(asked))) == [pinned]


def test_what_is_about_a_whole_repository_is_nobodys_claim() -> None:
    registry = instance("other")
    for target in ("archetype-catalog.xml", ".meta/prefixes.txt.sha1"):
        asked = registry.resource("GET", target)
        assert isinstance(asked, Page)
        assert registry.claimed(asked) == ""


def test_members_answer_in_their_order_and_those_that_claim_something_for_nothing_else() -> None:
    a, b, c, d = instance("a"), instance("b", "com.company"), instance("c", "com.company", "org.ours"), instance("d")
    members = [a, b, c, d]
    assert list(members_for(members, "com.company/lib")) == [b, c]
    assert list(members_for(members[::-1], "com.company/lib")) == [c, b]
    assert list(members_for(members, "org.ours.deep/lib")) == [c]
    assert list(members_for(members, "org.example/lib")) == [a, d]
    assert list(members_for([b, c], "org.example/lib")) == []


def test_a_joint_validity_holds_as_long_as_all_of_its_parts() -> None:
    one, two = Validity(10.0), Validity(20.0)
    joint = JointValidity([one, two])
    assert (joint.valid, joint.fresh_until) == (True, 10.0)
    assert joint.holds(9.9)
    assert not joint.holds(10.0)
    one.fresh_until = 30.0
    assert joint.holds(19.9)
    assert not joint.holds(20.0)
    two.valid = False
    assert not joint.holds(0.0)
    assert joint.is_of([one, two])
    assert not joint.is_of([two, one])
    assert not joint.is_of([one])
    assert not joint.is_of([one, Validity(20.0)])


# ---- pages and files


class Group:
    """Our own releases before the public repository."""

    def __init__(self, s: Stall, members: Sequence[Registry]) -> None:
        self.s = s
        self.members = members

    def put(self, root: str, path: str, body: bytes, **fields: str) -> None:
        self.s.web.sent[root + path] = Sent(body, **fields)  # type: ignore[arg-type]  # the fields' own types
        self.s.web.sent[f"{root}{path}.sha1"] = Sent(sha1(body).encode())

    def withdraw(self, root: str, path: str) -> None:
        del self.s.web.sent[root + path], self.s.web.sent[f"{root}{path}.sha1"]

    def asked(self, path: str) -> list[str]:
        """The hosts that were asked for a path, in order."""
        return [url.split("/")[2] for url in self.s.web.asked if url in (OURS + path, PUBLIC + path)]

    async def page(self, project: str = "org.example/lib", *, insist: bool = False) -> PageView:
        members = members_for(self.members, project)
        return await self.s.service.page_of([(m, Page(m.name, project)) for m in members], insist=insist)

    async def fetch(self, path: str) -> bytes:
        files = [found for m in self.members if isinstance(found := m.resource("GET", path), File)]
        claimed = members_for(self.members, files[0].project)
        files = [file for file in files if any(m.name == file.registry for m in claimed)]
        delivery = await self.s.service.deliver_of(files, hold_s=20)
        body = delivery.body if isinstance(delivery.body, bytes) else await read(delivery)
        while self.s.flights.statistics()["running"]:
            # Spinning, so that the clock does not jump meanwhile.
            await trio.lowlevel.checkpoint()
        return body


@asynccontextmanager
async def group(tmp_path: Path, *groups: str) -> AsyncIterator[Group]:
    members = [Maven("ours", OURS, Options(groups=groups)), Maven("maven", PUBLIC)]
    async with stall(tmp_path, members) as s:
        yield Group(s, members)


BODY, OTHER = archive(50_000), archive(60_000)


async def test_a_name_that_is_pinned_is_never_asked_for_elsewhere(tmp_path: Path, clock: MockClock) -> None:
    lib, evil = "com/company/lib/1.0/lib-1.0.jar", "com/company/lib/9.9/lib-9.9.jar"
    document = metadata("9.9").replace(b"org.example", b"com.company")
    async with group(tmp_path, "com.company.*") as g:
        g.put(OURS, lib, BODY)
        g.put(PUBLIC, lib, OTHER)
        g.put(PUBLIC, evil, OTHER)
        g.put(PUBLIC, "com/company/lib/maven-metadata.xml", document)
        g.put(PUBLIC, "com/company/maven-metadata.xml", b"<metadata><plugins/></metadata>")
        assert await g.fetch(lib) == BODY
        for path in (evil, evil + ".sha1", evil + ".asc"):
            with pytest.raises(NotFound):
                await g.fetch(path)
        for project in ("com.company/lib", "com.company/other", "com/company"):
            with pytest.raises(NotFound):
                await g.page(project)
        g.s.web.down = {"ours"}
        await trio.sleep(700)
        for path in ("com/company/lib/2.0/lib-2.0.jar", "com/company/lib/2.0/lib-2.0.jar.sha1"):
            with pytest.raises(Unavailable):
                await g.fetch(path)
        assert [url for url in g.s.web.asked if url.startswith(PUBLIC)] == []
        assert await g.fetch(lib) == BODY


async def test_a_refresh_tells_nobody_else_of_a_pinned_name(tmp_path: Path, clock: MockClock) -> None:
    async def progress(_: dict[str, object]) -> None:
        return None

    async with group(tmp_path, "com.company") as g:
        refresh = g.s.service.commands()["refresh"]
        found = await refresh({"purl": "pkg:maven/com.company/secret"}, progress)
        assert found == {
            "purl": "pkg:maven/com.company/secret",
            "pages": [{"page": "ours:com.company/secret:", "outcome": "404"}],
        }
        await refresh({"purl": "pkg:maven/org.example/lib"}, progress)
        assert g.s.web.asked == [OURS + "com/company/secret/maven-metadata.xml", PUBLIC + METADATA]


async def test_the_pinned_repository_is_asked_for_nothing_else(tmp_path: Path, clock: MockClock) -> None:
    async with group(tmp_path, "com.company") as g:
        g.put(PUBLIC, JAR, BODY)
        g.put(PUBLIC, METADATA, metadata("1.0"))
        assert await g.fetch(JAR) == BODY
        await g.page()
        assert [url for url in g.s.web.asked if url.startswith(OURS)] == []


async def test_the_first_that_has_a_file_gives_it_and_goes_on_giving_it(tmp_path: Path, clock: MockClock) -> None:
    async with group(tmp_path) as g:
        g.put(PUBLIC, JAR, BODY)
        assert await g.fetch(JAR) == BODY
        assert g.asked(JAR) == ["ours.test", "maven.test"]
        # Whoever publishes other bytes under the same name later, even in front, changes nothing.
        g.put(OURS, JAR, OTHER)
        await trio.sleep(400)
        assert await g.fetch(JAR) == BODY
        assert await g.fetch(JAR + ".sha1") == sha1(BODY).encode()
        assert g.asked(JAR) == ["ours.test", "maven.test"]
    async with group(tmp_path / "other") as g:
        g.put(PUBLIC, JAR, BODY)
        g.put(OURS, JAR, OTHER)
        assert await g.fetch(JAR) == OTHER
        assert g.asked(JAR) == ["ours.test"]


async def test_a_file_is_missing_only_where_all_miss_it(tmp_path: Path, clock: MockClock) -> None:
    async with group(tmp_path) as g:
        for _ in range(5):
            with pytest.raises(NotFound):
                await g.fetch(JAR)
        assert g.asked(JAR) == ["ours.test", "maven.test"]


async def test_an_outage_of_one_leads_to_no_other_but_what_was_delivered_stays(tmp_path: Path, clock: MockClock) -> None:
    other = JAR.replace("1.0", "2.0")
    async with group(tmp_path) as g:
        g.put(PUBLIC, JAR, BODY)
        g.put(PUBLIC, other, OTHER)
        assert await g.fetch(JAR) == BODY
        g.s.web.down = {"ours"}
        with pytest.raises(Unavailable):
            await g.fetch(other)
        assert g.asked(other) == ["ours.test"]
        assert await g.fetch(JAR) == BODY
        g.s.web.down = {"maven"}
        await trio.sleep(10)
        with pytest.raises(Unavailable):
            await g.fetch(other)


async def test_an_absence_that_is_known_leads_on_even_in_an_outage(tmp_path: Path, clock: MockClock) -> None:
    async with group(tmp_path) as g:
        with pytest.raises(NotFound):
            await g.fetch(JAR)
        await trio.sleep(400)
        g.put(PUBLIC, JAR, BODY)
        g.s.web.down = {"ours"}
        assert await g.fetch(JAR) == BODY


async def test_metadata_is_made_one(tmp_path: Path, clock: MockClock) -> None:
    async with group(tmp_path) as g:
        g.put(OURS, METADATA, metadata("1.0", "1.1"), last_modified="Tue, 02 Jan 2024 03:04:05 GMT")
        g.put(PUBLIC, METADATA, metadata("1.0", "2.0"), last_modified="Wed, 03 Jan 2024 03:04:05 GMT")
        view = await g.page()
        assert set(view.listing.entries) == {"1.0", "1.1", "2.0"}
        assert view.last_modified == "Wed, 03 Jan 2024 03:04:05 GMT"
        document = g.members[0].write(view.listing, XML, None)
        assert all(document.count(f"<version>{version}</version>".encode()) == 1 for version in ("1.0", "1.1", "2.0"))
        assert b"<release>2.0</release>" in document
        again = await g.page()
        assert again.listing is view.listing
        assert again.validity is view.validity
        assert (view.outcome, again.outcome) == ("miss", "hit")


async def test_a_crowd_has_it_made_once(tmp_path: Path, clock: MockClock) -> None:
    async with group(tmp_path) as g:
        g.put(OURS, METADATA, metadata(*(f"1.{n}" for n in range(1000))))
        g.put(PUBLIC, METADATA, metadata(*(f"2.{n}" for n in range(1000))))
        views: list[PageView] = []

        async def ask() -> None:
            views.append(await g.page())

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
        assert len(views) == 20
        assert len({id(view.listing) for view in views}) == 1
        assert len(views[0].listing.entries) == 2000


async def test_no_more_is_remembered_than_there_is_room_for(
    tmp_path: Path, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "REMEMBERED_BYTES", 1500)
    async with group(tmp_path) as g:
        before: dict[str, PageView] = {}
        for name in ("a", "b", "c", "d", "d"):
            for root in (OURS, PUBLIC):
                document = metadata(*(f"{len(root)}.{n}" for n in range(10))).replace(b">lib<", f">{name}<".encode())
                g.put(root, f"org/example/{name}/maven-metadata.xml", document)
            before[name] = await g.page(f"org.example/{name}")
        assert (await g.page("org.example/d")).listing is before["d"].listing
        assert (await g.page("org.example/a")).listing is not before["a"].listing


async def test_whatever_changes_at_one_voids_what_was_made_of_all(tmp_path: Path, clock: MockClock) -> None:
    async with group(tmp_path) as g:
        g.put(OURS, METADATA, metadata("1.0"))
        g.put(PUBLIC, METADATA, metadata("2.0"))
        first = await g.page()
        clock.jump(601)
        assert not first.validity.holds(g.s.service.clock())
        confirmed = await g.page()
        assert confirmed.validity is first.validity
        assert first.validity.holds(g.s.service.clock())
        after = first
        for root, versions in ((PUBLIC, {"1.0", "2.0", "2.1"}), (OURS, {"1.0", "1.1", "2.0", "2.1"})):
            clock.jump(601)
            before = await g.page()
            g.put(root, METADATA, metadata(*sorted(v for v in versions if (v < "2") == (root == OURS))))
            clock.jump(601)
            after = await g.page()
            assert set(after.listing.entries) == versions
            assert not before.validity.valid
            assert after.validity.valid
        g.s.rule("pkg:maven/org.example/lib@2.0")
        assert not after.validity.valid
        assert "2.0" not in (await g.page()).listing.entries


async def test_what_is_absent_at_one_limits_how_long_the_whole_is_fresh(tmp_path: Path, clock: MockClock) -> None:
    async with group(tmp_path) as g:
        g.put(PUBLIC, METADATA, metadata("2.0"))
        view = await g.page()
        assert set(view.listing.entries) == {"2.0"}
        now = g.s.service.clock()
        assert view.validity.holds(now)
        assert view.validity.fresh_until <= now + 30
        g.put(OURS, METADATA, metadata("1.0"))
        clock.jump(31)
        assert set((await g.page()).listing.entries) == {"1.0", "2.0"}
        assert not view.validity.valid


async def test_what_is_absent_at_one_does_not_void_the_whole_once_rules_changed(tmp_path: Path, clock: MockClock) -> None:
    async with group(tmp_path) as g:
        g.put(PUBLIC, METADATA, metadata("1.0", "2.0"))
        before = await g.page()
        g.s.rule("pkg:maven/org.example/lib@2.0")
        assert not before.validity.valid
        after = await g.page()
        assert set(after.listing.entries) == {"1.0"}
        assert after.validity.valid


@pytest.mark.parametrize(
    "odd", ["yesterday", "Thu, 1 Jan 99999999999999999 00:00:00 GMT", "Fri, 31 Dec 0001 00:00:00 -0000", ","]
)
async def test_a_date_that_is_none_counts_for_nothing(tmp_path: Path, clock: MockClock, odd: str) -> None:
    async with group(tmp_path) as g:
        g.put(OURS, METADATA, metadata("1.0"), last_modified=odd)
        g.put(PUBLIC, METADATA, metadata("2.0"), last_modified=LAST_MODIFIED)
        view = await g.page()
        assert set(view.listing.entries) == {"1.0", "2.0"}
        assert view.last_modified == LAST_MODIFIED


async def test_a_page_is_missing_only_where_all_miss_it_and_unavailable_if_one_cannot_say(
    tmp_path: Path, clock: MockClock
) -> None:
    async with group(tmp_path) as g:
        with pytest.raises(NotFound):
            await g.page()
        clock.jump(60)
        g.put(OURS, METADATA, metadata("1.0"))
        g.s.web.down = {"maven"}
        # The absence that is held stands in, as a page would.
        assert set((await g.page()).listing.entries) == {"1.0"}
        g.s.web.down = set()
        with pytest.raises(NotFound):
            await g.page("org.example/other")
    async with group(tmp_path / "other") as g:
        g.put(OURS, METADATA, metadata("1.0"))
        g.s.web.down = {"maven"}
        with pytest.raises(Unavailable):
            await g.page()


async def test_in_an_outage_the_whole_is_as_stale_as_its_worst_part(tmp_path: Path, clock: MockClock) -> None:
    async with group(tmp_path) as g:
        g.put(OURS, METADATA, metadata("1.0"))
        g.put(PUBLIC, METADATA, metadata("2.0"))
        await g.page()
        clock.jump(601)
        g.s.web.down = {"maven"}
        view = await g.page()
        assert (view.outcome, view.cache_status) == ("stale", "hit; detail=upstream-down")
        assert not view.fresh
        assert set(view.listing.entries) == {"1.0", "2.0"}


async def test_a_member_of_which_nothing_is_left_takes_nothing_from_the_others(tmp_path: Path, clock: MockClock) -> None:
    async with group(tmp_path) as g:
        g.put(OURS, METADATA, metadata("1.0"))
        g.put(PUBLIC, METADATA, metadata("2.0"))
        g.s.rule("pkg:maven/org.example/lib@1.0", "too old")
        view = await g.page()
        assert set(view.listing.entries) == {"2.0"}
        g.s.service.set_rules([])
        assert not view.validity.valid
        assert set((await g.page()).listing.entries) == {"1.0", "2.0"}
        g.s.rule("pkg:maven/org.example/lib@<3", "too old")
        with pytest.raises(Refused, match="too old"):
            await g.page()
        g.s.rule("pkg:maven/org.example/lib", "not at all")
        with pytest.raises(Refused, match="not at all"):
            await g.page()


async def test_a_refused_file_is_refused_wherever_it_stands(tmp_path: Path, clock: MockClock) -> None:
    async with group(tmp_path) as g:
        g.put(PUBLIC, JAR, BODY)
        g.s.rule("pkg:maven/org.example/lib@1.0")
        with pytest.raises(Refused):
            await g.fetch(JAR)
        assert g.s.web.asked == []
