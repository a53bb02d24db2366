"""What an origin's verdicts do at a node: on every path, to what is held, cold, arriving, and on its way out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from origin.api.wire import Recall, Verdicts
from origin.errors import NotFound, Refused, Unavailable
from origin.files import Delivery
from origin.metrics import Metrics
from origin.model import Arriving, Digest, File, Page, Relay, Span
from origin.registries.maven import Maven
from origin.registries.npm import NPM
from origin.service import Service
from tests.origin.test_files import landed, read, wheel
from tests.scripted import Bench, Sent, Stall, Upload, bench, stall
from tests.tarballs import Tarballs
from tests.wheels import KB, MB, Shelf

PAGE = Page("pypi", "six")
NPM_ROOT = "https://npm.test/"
MAVEN_ROOT = "https://maven.test/maven2/"
JAR = "org/example/lib/1.0/lib-1.0.jar"
METADATA = "org/example/lib/maven-metadata.xml"
WORM = "recalled: a worm"


@pytest.fixture
def clock() -> MockClock:
    # Worker threads count as blocked tasks: the threshold keeps the clock from jumping while one works.
    return MockClock(autojump_threshold=0.5)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


def recall(service: Service, *targets: str, revision: int = 1) -> None:
    """Put a recall of purls and digests in force."""
    purls = tuple(target for target in targets if target.startswith("pkg:"))
    digests = tuple(target for target in targets if not target.startswith("pkg:"))
    made = Recall(id="7", target=targets[0], reason="a worm", at=0.0, purls=purls, digests=digests)
    service.set_central(Verdicts(revision=revision, recalls=(made,)))


def sha256(body: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(body).hexdigest())


def yanked(page: bytes, version: str) -> list[object]:
    return [file["yanked"] for file in json.loads(page)["files"] if f"-{version}-" in file["filename"]]


def plain(b: Bench, upload: Upload) -> File:
    """What is asked for of an upload whose address tells no digest."""
    found = b.registry.resource("GET", f"packages/-/six/{upload.filename}")
    assert isinstance(found, File)
    return found


async def refused(b: Bench | Stall, files: Sequence[File]) -> None:
    """Every one of them is refused for the recall's reason, by every way of asking for it by name."""
    for file in files:
        with pytest.raises(Refused, match=WORM):
            await b.service.deliver(file, hold_s=8)
        with pytest.raises(Refused, match=WORM):
            await b.service.held_file(file)


# ---- wheels


@pytest.mark.parametrize("by", ["purl", "digest"])
async def test_a_held_file_is_refused_by_every_name_and_by_digest_and_its_page_says_so(
    by: str, tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    bad, good = wheel(shelf, version="1.0"), wheel(shelf, version="1.1")
    async with bench(tmp_path, {"six": [bad, good]}) as b:
        for upload in (bad, good):
            await read(await b.service.deliver(b.file(upload), hold_s=8))
        await landed(b)
        metadata = await read(await b.service.deliver(b.file(bad, ".metadata"), hold_s=8))
        shown = await b.service.page(PAGE)
        asked = len(b.source.asked)

        recall(b.service, "pkg:pypi/six@1.0" if by == "purl" else str(sha256(bad.content)))
        assert not shown.validity.valid, "what was rendered must not be sent any more"
        await refused(b, [b.file(bad), b.file(bad, ".metadata")])
        with pytest.raises(Refused, match=WORM):
            await b.service.blob(sha256(bad.content))
        with pytest.raises(Refused, match=WORM):
            await b.service.blob(sha256(metadata))
        page = await b.service.page(PAGE)
        assert yanked(page.listing.document, "1.0") == [WORM]
        assert yanked(page.listing.document, "1.1") == [False]
        assert await read(await b.service.deliver(b.file(good), hold_s=8)) == good.content
        assert len(b.source.asked) == asked, "nobody is asked"

        b.service.set_central(Verdicts(revision=2))
        assert not page.validity.valid
        assert await read(await b.service.deliver(b.file(bad), hold_s=8)) == bad.content
        assert yanked((await b.service.page(PAGE)).listing.document, "1.0") == [False]


async def test_a_recalled_file_that_was_never_here_is_not_fetched(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    bad = wheel(shelf)
    async with bench(tmp_path, {"six": [bad]}) as b:
        recall(b.service, str(sha256(bad.content)))
        with pytest.raises(Refused, match=WORM):
            await b.service.deliver(b.file(bad), hold_s=8)
        assert b.source.asked == ["page six"]
        with pytest.raises(Refused, match=WORM):
            await b.service.keep(b.file(bad))
        with pytest.raises(Refused, match=WORM):
            await b.service.blob(sha256(bad.content))


async def test_recalled_bytes_under_a_name_that_tells_no_digest_are_not_given_and_not_kept(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    bad = wheel(shelf)
    bad.digests, bad.hashed = False, False
    async with bench(tmp_path, {"six": [bad]}) as b:
        recall(b.service, str(sha256(bad.content)))
        with pytest.raises(Refused, match=WORM):
            await b.service.deliver(plain(b, bad), hold_s=8)
        assert await b.catalog.held(sha256(bad.content)) is None
        assert await b.service.holds(plain(b, bad)) is None


async def test_what_recalled_bytes_are_called_is_remembered_and_they_are_not_fetched_again(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    bad = wheel(shelf)
    bad.digests, bad.hashed = False, False

    async def ask_again(b: Bench) -> None:
        await trio.sleep(60)  # longer than any failure is shared
        with pytest.raises(Refused, match=WORM):
            await b.service.deliver(plain(b, bad), hold_s=8)
        with pytest.raises(Refused, match=WORM):
            await b.service.keep(plain(b, bad))

    async with bench(tmp_path, {"six": [bad]}) as b:
        fetched = [f"file {bad.filename} from 0"]
        recall(b.service, str(sha256(bad.content)))
        with pytest.raises(Refused, match=WORM):
            await b.service.deliver(plain(b, bad), hold_s=8)
        await ask_again(b)
        assert [asked for asked in b.source.asked if asked.startswith("file")] == fetched

        bad.yanked = "leaks"
        b.source.serials["six"] = 2
        await b.service.page(PAGE, insist=True)
        await ask_again(b)
        assert [asked for asked in b.source.asked if asked.startswith("file")] == 2 * fetched, "its page says something new of it"

        b.service.set_central(Verdicts(revision=2))
        assert await read(await b.service.deliver(plain(b, bad), hold_s=8)) == bad.content


async def test_a_bound_file_takes_its_version_off_a_page_that_tells_no_digest(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    bad = wheel(shelf)
    bad.digests, bad.hashed = False, False
    async with bench(tmp_path, {"six": [bad]}) as b:
        await read(await b.service.deliver(plain(b, bad), hold_s=8))
        await landed(b)
        recall(b.service, str(sha256(bad.content)))
        assert yanked((await b.service.page(PAGE)).listing.document, "1.0") == [WORM]


@pytest.mark.parametrize("by", ["purl", "digest"])
async def test_of_a_file_that_is_arriving_not_a_byte_more_is_released(
    by: str, tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    bad = wheel(shelf, 3 * MB)
    async with bench(tmp_path, {"six": [bad]}) as b:
        b.source.file_gate, b.source.gate_after = trio.Event(), 1 * MB
        delivery = await b.service.deliver(b.file(bad), hold_s=8)
        body = delivery.body
        assert isinstance(body, Arriving)
        at = await body.flight.wait_beyond(0)
        heard: list[Exception] = []

        async def follow() -> None:
            try:
                await body.flight.wait_beyond(3 * MB - 1)
            except Refused as error:
                heard.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await wait_all_tasks_blocked()
            recall(b.service, "pkg:pypi/six@1.0" if by == "purl" else str(sha256(bad.content)))
            assert body.validity is not None
            assert not body.validity.valid
        assert [str(error) for error in heard] == [WORM]
        with pytest.raises(Refused, match=WORM):
            await body.flight.wait_beyond(at - 1)
        body.close()
        b.source.file_gate.set()
        await landed(b)
        assert await b.catalog.held(sha256(bad.content)) is None
        with pytest.raises(Refused, match=WORM):
            await b.service.deliver(b.file(bad), hold_s=8)


async def test_what_is_being_sent_of_a_held_file_or_a_landed_one_ends_there(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    bad, good = wheel(shelf), wheel(shelf, version="1.1")
    async with bench(tmp_path, {"six": [bad, good]}) as b:
        arriving = [await b.service.deliver(b.file(upload), hold_s=8) for upload in (bad, good)]
        await landed(b)
        held = [await b.service.deliver(b.file(upload), hold_s=8) for upload in (bad, good)]

        def valid(deliveries: Sequence[Delivery]) -> list[bool]:
            found = []
            for delivery in deliveries:
                assert isinstance(delivery.body, Span | Arriving)
                assert delivery.body.validity is not None
                found.append(delivery.body.validity.valid)
            return found

        assert valid(arriving) == valid(held) == [True, True]
        recall(b.service, str(sha256(bad.content)))
        assert valid(arriving) == valid(held) == [False, True]
        for delivery in (*arriving, *held):
            assert not isinstance(delivery.body, bytes)
            delivery.body.close()


async def test_a_nodes_own_rules_only_add_and_the_recall_gives_the_reason(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    bad, worse = wheel(shelf, version="1.0"), wheel(shelf, version="2.0")
    async with bench(tmp_path, {"six": [bad, worse]}) as b:
        b.rule("pkg:pypi/six", "not here")
        recall(b.service, "pkg:pypi/six@1.0")
        assert [rule.name for rule in b.service.rules] == ["recall-7", "test"]
        with pytest.raises(Refused, match=WORM):
            await b.service.deliver(b.file(bad), hold_s=8)
        with pytest.raises(Refused, match="not here"):
            await b.service.deliver(b.file(worse), hold_s=8)
        b.service.set_rules([])
        with pytest.raises(Refused, match=WORM):
            await b.service.deliver(b.file(bad), hold_s=8)
        await read(await b.service.deliver(b.file(worse), hold_s=8))


async def test_the_same_verdicts_once_more_change_nothing(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    async with bench(tmp_path, {"six": [wheel(shelf)]}) as b:
        recall(b.service, "pkg:pypi/other")
        shown = await b.service.page(PAGE)
        recall(b.service, "pkg:pypi/other")
        assert shown.validity.valid
        assert b.service.central.revision == 1


async def test_verdicts_that_cannot_all_be_read_count_as_far_as_they_can_and_are_not_taken_for_applied(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    future: dict[str, object] = {"name": "new", "match": "pkg:pypi/x", "action": "quarantine"}
    made = Recall(id="7", target="", reason="a worm", at=0.0, purls=("pkg:pypi/six@1.0",))
    bad = wheel(shelf)
    async with bench(tmp_path, {"six": [bad]}) as b:
        with pytest.raises(ValueError, match="quarantine"):
            b.service.set_central(Verdicts(revision=5, rules=(future,), recalls=(made,)))
        assert b.service.central.revision == 0
        with pytest.raises(Refused, match=WORM):
            await b.service.deliver(b.file(bad), hold_s=8)


async def test_the_provenance_of_a_recalled_file_is_refused_where_only_its_digest_was_told(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    bad = wheel(shelf)
    async with bench(tmp_path, {"six": [bad]}) as b:
        await read(await b.service.deliver(b.file(bad), hold_s=8))
        await landed(b)
        provenance = Page("pypi", "six", f"provenance/1.0/{bad.filename}")
        b.source.raw["six"] = b'{"version": 1, "attestation_bundles": []}'
        await b.service.page(provenance)
        recall(b.service, str(sha256(bad.content)))
        with pytest.raises(Refused, match=WORM):
            await b.service.page(provenance)


# ---- tarballs


async def test_a_recalled_tarball_leaves_its_packument_and_its_tags_are_repaired(tmp_path: Path, clock: MockClock) -> None:
    shelf = Tarballs(tmp_path / "shelf")
    old, bad = shelf.pack("left-pad", "1.0.0"), shelf.pack("left-pad", "1.0.1")
    npm = NPM("npm", NPM_ROOT)
    packument = {
        "name": "left-pad",
        "dist-tags": {"latest": "1.0.1"},
        "versions": {
            each.version: {
                "name": "left-pad",
                "version": each.version,
                "dist": {"tarball": NPM_ROOT + each.target, "integrity": each.integrity, "shasum": each.shasum},
            }
            for each in (old, bad)
        },
    }
    async with stall(tmp_path, [npm]) as s:
        s.web.sent[NPM_ROOT + "left-pad"] = Sent(json.dumps(packument).encode(), media_type="application/json")
        for each in (old, bad):
            s.web.sent[NPM_ROOT + each.target] = Sent(each.content)
        file = npm.resource("GET", bad.target)
        assert isinstance(file, File)
        assert await read(await s.service.deliver(file, hold_s=20)) == bad.content
        await landed_at(s)
        # The packument tells no SHA-256: only the binding does.
        recall(s.service, f"sha256-{bad.sha256}")
        await refused(s, [file])
        with pytest.raises(Refused, match=WORM):
            await s.service.blob(Digest("sha256", bad.sha256))
        page = json.loads((await s.service.page(Page("npm", "left-pad"))).listing.document)
        assert list(page["versions"]) == ["1.0.0"]
        assert page["dist-tags"] == {"latest": "1.0.0"}
        assert WORM in page["policyRestrictions"]["message"]

        recall(s.service, f"sha512-{bad.sha512}", revision=2)
        assert list(json.loads((await s.service.page(Page("npm", "left-pad"))).listing.document)["versions"]) == ["1.0.0"]
        recall(s.service, "pkg:npm/left-pad", revision=3)
        with pytest.raises(Refused, match=WORM):
            await s.service.page(Page("npm", "left-pad"))
        with pytest.raises(Refused, match=WORM):
            await s.service.held_page(Page("npm", "left-pad"))


async def landed_at(s: Stall) -> None:
    while s.flights.statistics()["running"]:
        # Spinning, so that the clock does not jump meanwhile.
        await trio.lowlevel.checkpoint()


# ---- jars


@pytest.mark.parametrize("by", ["purl", "sha256", "sha1"])
async def test_a_recalled_jar_is_refused_with_its_checksums_and_leaves_its_metadata(
    by: str, tmp_path: Path, clock: MockClock
) -> None:
    maven = Maven("maven", MAVEN_ROOT)
    jar = b"PK\x05\x06" + bytes(18)
    sha1 = hashlib.sha1(jar, usedforsecurity=False).hexdigest()
    metadata = (
        b"<metadata><groupId>org.example</groupId><artifactId>lib</artifactId><versioning><latest>1.0</latest><release>1.0</release>"
        b"<versions><version>0.9</version><version>1.0</version></versions></versioning></metadata>"
    )
    async with stall(tmp_path, [maven]) as s:
        s.web.sent |= {
            MAVEN_ROOT + JAR: Sent(jar),
            f"{MAVEN_ROOT}{JAR}.sha1": Sent(sha1.encode()),
            MAVEN_ROOT + METADATA: Sent(metadata, media_type="text/xml"),
            f"{MAVEN_ROOT}{METADATA}.sha1": Sent(hashlib.sha1(metadata, usedforsecurity=False).hexdigest().encode()),
        }
        files = [maven.resource("GET", JAR + ending) for ending in ("", ".sha1", ".md5", ".sha256")]
        named = [file for file in files if isinstance(file, File)]
        assert len(named) == 4
        assert await read(await s.service.deliver(named[0], hold_s=20)) == jar
        await landed_at(s)
        assert (await s.service.deliver(named[1], hold_s=20)).body == sha1.encode()
        held = await s.service.held_file(named[1])
        assert held is not None
        assert held.body == sha1.encode()
        assert await s.service.held_file(named[3]) is None, "whether upstream has one is not known"
        target = {"purl": "pkg:maven/org.example/lib@1.0", "sha256": str(sha256(jar)), "sha1": f"sha1-{sha1}"}[by]
        recall(s.service, target)
        await refused(s, named)
        with pytest.raises(Refused, match=WORM):
            await s.service.blob(sha256(jar))
        page = await s.service.page(Page("maven", "org.example/lib"))
        assert b"<version>0.9</version></versions>" in page.listing.document
        assert b"<release>0.9</release>" in page.listing.document


async def test_a_jar_whose_checksum_alone_is_recalled_is_not_fetched_to_its_end(tmp_path: Path, clock: MockClock) -> None:
    maven = Maven("maven", MAVEN_ROOT)
    jar = b"PK\x05\x06" + bytes(18)
    sha1 = hashlib.sha1(jar, usedforsecurity=False).hexdigest()
    async with stall(tmp_path, [maven]) as s:
        s.web.sent |= {MAVEN_ROOT + JAR: Sent(jar), f"{MAVEN_ROOT}{JAR}.sha1": Sent(sha1.encode())}
        recall(s.service, f"sha1-{sha1}")
        file = maven.resource("GET", JAR)
        assert isinstance(file, File)
        with pytest.raises(Refused, match=WORM):
            await s.service.deliver(file, hold_s=20)
        assert await s.catalog.held(sha256(jar)) is None

        asked = len(s.web.asked)
        await trio.sleep(60)
        with pytest.raises(Refused, match=WORM):
            await s.service.deliver(file, hold_s=20)
        assert len(s.web.asked) == asked, "nor begun again"


async def test_a_jar_that_is_being_sent_ends_there_when_the_digest_is_recalled_that_was_known_last(
    tmp_path: Path, clock: MockClock
) -> None:
    maven = Maven("maven", MAVEN_ROOT)
    jar = b"PK\x03\x04" + bytes(1 << 20)
    sha1 = hashlib.sha1(jar, usedforsecurity=False).hexdigest()
    async with stall(tmp_path, [maven]) as s:
        s.web.sent |= {MAVEN_ROOT + JAR: Sent(jar), f"{MAVEN_ROOT}{JAR}.sha1": Sent(sha1.encode())}
        s.web.body_gate, s.web.gate_after = trio.Event(), 900_000
        file = maven.resource("GET", JAR)
        assert isinstance(file, File)
        delivery = await s.service.deliver(file, hold_s=20)
        assert isinstance(delivery.body, Arriving)
        assert delivery.body.validity is not None
        s.web.body_gate.set()
        while s.flights.statistics()["running"]:
            await wait_all_tasks_blocked(0.05)
        assert await s.catalog.held(sha256(jar)) is not None
        recall(s.service, str(sha256(jar)))
        assert not delivery.body.validity.valid
        delivery.body.close()


# ---- a lapse


async def test_after_a_lapse_nothing_is_answered_until_it_ends(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    upload = wheel(shelf)
    async with bench(tmp_path, {"six": [upload]}) as b:
        await read(await b.service.deliver(b.file(upload), hold_s=8))
        await landed(b)
        shown = await b.service.page(PAGE)
        b.service.lapse("out of touch with the origin")
        assert not shown.validity.valid
        asked = len(b.source.asked)
        calls = (
            lambda: b.service.page(PAGE),
            lambda: b.service.deliver(b.file(upload), hold_s=8),
            lambda: b.service.held_page(PAGE),
            lambda: b.service.held_file(b.file(upload)),
            lambda: b.service.blob(sha256(upload.content)),
            lambda: b.service.page_of([(b.registry, PAGE)]),
            lambda: b.service.deliver_of([b.file(upload)], hold_s=8),
            lambda: b.service.relay(Relay("pypi", "GET", "-/search")),
        )
        for call in calls:
            with pytest.raises(Unavailable, match="out of touch"):
                await call()
        assert len(b.source.asked) == asked
        b.service.lapse("")
        again = await b.service.page(PAGE)
        assert (again.outcome, again.validity.valid) == ("hit", True)
        assert await read(await b.service.deliver(b.file(upload), hold_s=8)) == upload.content


async def test_what_was_asked_for_before_a_lapse_and_comes_after_it_is_not_given(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    async with bench(tmp_path, {"six": [wheel(shelf)]}) as b, trio.open_nursery() as nursery:
        b.source.open_gate = trio.Event()

        async def ask() -> None:
            with pytest.raises(Unavailable, match="out of touch"):
                await b.service.page(PAGE)

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        b.service.lapse("out of touch with the origin")
        b.source.open_gate.set()


@pytest.mark.parametrize("by", ["purl", "digest"])
async def test_a_twin_is_under_the_policy_that_its_node_has_by_now(
    tmp_path: Path, shelf: Shelf, clock: MockClock, by: str
) -> None:
    upload = wheel(shelf)
    async with bench(tmp_path, {"six": [upload]}) as b:
        await read(await b.service.deliver(b.file(upload), hold_s=8))
        await landed(b)
        twin = b.service.alone(b.flights, Metrics())
        shown, sent = await twin.page(PAGE), await twin.deliver(b.file(upload), hold_s=8)
        assert isinstance(sent.body, Span)
        assert sent.body.validity is not None
        recall(b.service, "pkg:pypi/six@1.0" if by == "purl" else str(sha256(upload.content)))
        assert (shown.validity.valid, sent.body.validity.valid) == (False, False)
        sent.body.close()
        with pytest.raises(Refused, match=WORM):
            await twin.deliver(b.file(upload), hold_s=8)
        b.service.set_central(Verdicts(revision=2))
        assert await read(await twin.deliver(b.file(upload), hold_s=8)) == upload.content
        b.service.lapse("out of touch with the origin")
        with pytest.raises(Unavailable, match="out of touch"):
            await twin.deliver(b.file(upload), hold_s=8)


# ---- what is brought here, and what is held


async def test_what_is_kept_is_here_when_that_returns_and_is_not_fetched_twice(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    upload = wheel(shelf)
    async with bench(tmp_path, {"six": [upload]}) as b:
        assert await b.service.held_page(PAGE) is None
        assert await b.service.held_file(b.file(upload)) is None
        await b.service.keep(PAGE)
        assert await b.service.holds(b.file(upload)) is None
        await b.service.keep(b.file(upload))
        binding = await b.service.holds(b.file(upload))
        assert binding is not None
        assert binding.digest == sha256(upload.content)
        asked = len(b.source.asked)
        await b.service.keep(PAGE)
        await b.service.keep(b.file(upload))
        await b.service.keep(b.file(upload, ".metadata"))
        assert len(b.source.asked) == asked
        for delivery in (await b.service.held_file(b.file(upload)), await b.service.blob(binding.digest)):
            assert delivery is not None
            assert await read(delivery) == upload.content
        view = await b.service.held_page(PAGE)
        assert view is not None
        assert (view.outcome, len(b.source.asked)) == ("hit", asked)


async def test_a_blob_that_went_is_fetched_again_by_who_keeps_it(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    upload = wheel(shelf)
    async with bench(tmp_path, {"six": [upload]}) as b:
        await b.service.keep(b.file(upload))
        await b.service.keep(b.file(upload, ".metadata"))
        metadata = await b.service.holds(b.file(upload, ".metadata"))
        assert metadata is not None
        for digest in (sha256(upload.content), metadata.digest):
            await b.catalog.drop(digest)
            await b.blobs.delete(digest)
            assert await b.service.blob(digest) is None
        await b.service.keep(b.file(upload, ".metadata"))
        await b.service.keep(b.file(upload))
        assert await b.service.holds(b.file(upload)) is not None
        assert await b.service.holds(b.file(upload, ".metadata")) is not None


async def test_what_cannot_be_kept_says_why(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    upload = wheel(shelf)
    async with bench(tmp_path, {"six": [upload]}) as b:
        with pytest.raises(NotFound):
            await b.service.keep(Page("pypi", "nonesuch"))
        with pytest.raises(NotFound):
            await b.service.held_page(Page("pypi", "nonesuch"))
        b.source.down = True
        with pytest.raises(Unavailable):
            await b.service.keep(PAGE)
    async with bench(tmp_path / "small", {"six": [upload]}, limit_bytes=10 * KB) as b:
        with pytest.raises(Unavailable, match="no room"):
            await b.service.keep(b.file(upload))


async def test_a_page_is_held_for_others_without_this_nodes_own_rules(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    async with bench(tmp_path, {"six": [wheel(shelf, version=version) for version in ("1.0", "1.1", "1.2")]}) as b:
        recall(b.service, "pkg:pypi/six@1.0")
        b.rule("pkg:pypi/six@1.1", "not here")
        view = await b.service.page(PAGE)
        held = await b.service.held_page(PAGE)
        assert held is not None
        assert [yanked(each.listing.document, "1.1") for each in (view, held)] == [["not here"], [False]]
        assert [yanked(each.listing.document, "1.0") for each in (view, held)] == [[WORM], [WORM]]
        assert list(held.listing.restrictions) == ["1.0"]


async def test_a_stale_page_is_held_and_a_dead_one_is_not(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    async with bench(tmp_path, {"six": [wheel(shelf)]}) as b:
        await b.service.keep(PAGE)
        clock.jump(601)
        view = await b.service.held_page(PAGE)
        assert view is not None
        assert view.outcome == "stale"
        clock.jump(31 * 86400)
        assert await b.service.held_page(PAGE) is None
        assert b.source.asked == ["page six"]


async def test_what_was_removed_upstream_is_not_given_as_held(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    upload, other = wheel(shelf), wheel(shelf, version="1.1")
    async with bench(tmp_path, {"six": [upload, other]}) as b:
        await b.service.keep(b.file(upload))
        b.source.projects["six"] = [other]
        for _ in range(2):
            clock.jump(601)
            await b.service.keep(PAGE)
        with pytest.raises(Refused, match="removed"):
            await b.service.held_file(b.file(upload))


async def test_a_doubt_makes_pages_stale_in_memory_and_on_disk(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    async with bench(tmp_path, {"six": [wheel(shelf)], "other": [Upload("other-1.0.tar.gz", b"x")]}) as b:
        shown = await b.service.page(PAGE)
        await b.service.page(Page("pypi", "other"))
        await b.service.doubt("pypi", "six")
        assert not shown.validity.holds(b.service.clock())
        stored = await b.catalog.answer(PAGE)
        assert stored is not None
        assert stored.stamp.fresh_until <= b.service.clock() < stored.stamp.stale_until
        assert (await b.service.page(PAGE)).outcome == "revalidated"
        assert (await b.service.page(Page("pypi", "other"))).outcome == "hit"
        b.service.doubted([("pypi", "other"), ("pypi", "unknown")])
        assert (await b.service.page(Page("pypi", "other"))).outcome == "revalidated"


async def test_a_doubt_counts_for_what_was_asked_for_before_it(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    old, new = wheel(shelf), wheel(shelf, version="1.1")
    async with bench(tmp_path, {"six": [old]}) as b:
        b.source.open_gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(b.service.keep, PAGE)
            await wait_all_tasks_blocked()
            # The answer that is on its way was made before this; what is kept now must be from after it.
            b.service.doubted([("pypi", "six")])
            nursery.start_soon(b.service.keep, PAGE)
            await wait_all_tasks_blocked()
            b.source.open_gate.set()
        assert b.source.asked == ["page six"] * 2
        b.source.projects["six"] = [old, new]
        assert (await b.service.page(PAGE)).outcome == "hit"


async def test_existence_is_asked_of_upstream_for_what_no_page_lists(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    listed, gone, never = wheel(shelf), wheel(shelf, version="1.1"), wheel(shelf, version="1.2")
    async with bench(tmp_path, {"six": [listed]}) as b:
        b.source.still_there = {gone.filename}
        assert [await b.service.exists(b.file(each)) for each in (listed, gone, never)] == [True, True, False]
        assert not await b.service.exists(
            File("pypi", "nonesuch", "1", "nonesuch-1.tar.gz", "packages/-/nonesuch/nonesuch-1.tar.gz")
        )
        b.source.down = True
        with pytest.raises(Unavailable):
            await b.service.exists(b.file(wheel(shelf, version="1.3")))


async def test_existence_where_no_page_lists_files_is_upstreams_word(tmp_path: Path, clock: MockClock) -> None:
    maven = Maven("maven", MAVEN_ROOT)
    async with stall(tmp_path, [maven]) as s:
        s.web.sent[MAVEN_ROOT + JAR] = Sent(b"PK")
        files = [maven.resource("GET", path) for path in (JAR, JAR.replace("1.0", "2.0"))]
        assert [await s.service.exists(file) for file in files if isinstance(file, File)] == [True, False]


async def test_a_blob_with_several_names_is_given_while_one_of_them_may_be(tmp_path: Path, clock: MockClock) -> None:
    same = b"the same bytes"
    first, second = Upload("six-1.0.tar.gz", same), Upload("other-1.0.tar.gz", same)
    async with bench(tmp_path, {"six": [first], "other": [second]}) as b:
        for upload in (first, second):
            await b.service.keep(b.file(upload))
        b.rule("pkg:pypi/six")
        delivery = await b.service.blob(sha256(same))
        assert delivery is not None
        assert delivery.file.project == "other"
        assert await read(delivery) == same
        b.rule("pkg:pypi/*", "none of them")
        with pytest.raises(Refused, match="none of them"):
            await b.service.blob(sha256(same))
        assert await b.service.blob(sha256(b"unknown")) is None


async def test_who_keeps_a_file_knows_of_it_from_elsewhere_so_the_page_is_asked_for_again(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    old, new = wheel(shelf), wheel(shelf, version="1.1")
    async with bench(tmp_path, {"six": [old]}) as b:
        await b.service.keep(PAGE)
        b.source.projects["six"] = [old, new]
        await b.service.keep(b.file(new))
        assert await b.service.holds(b.file(new)) is not None
        with pytest.raises(NotFound):
            await b.service.keep(b.file(wheel(shelf, version="9.9")))
        b.rule("pkg:pypi/six@1.0")
        asked = len(b.source.asked)
        with pytest.raises(Refused, match="not for us"):
            await b.service.keep(b.file(old))
        assert len(b.source.asked) == asked
