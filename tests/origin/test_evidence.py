"""Digests read beside what they are of: files whose checksum stands next to them, and pages likewise."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from origin.errors import Corrupt, NotFound, Refused, Unavailable
from origin.files import Delivery
from origin.http.h1 import http_date
from origin.model import Arriving, Digest, File, Page
from origin.registries.maven import Maven
from origin.registries.npm import NPM
from tests.origin.test_files import read
from tests.scripted import Sent, Stall, stall

ROOT = "https://maven.test/maven2/"
DIRECTORY = "org/example/lib/1.0/"
JAR = DIRECTORY + "lib-1.0.jar"
POM = DIRECTORY + "lib-1.0.pom"
MODULE = DIRECTORY + "lib-1.0.module"
METADATA = "org/example/lib/maven-metadata.xml"
LAST_MODIFIED = "Tue, 02 Jan 2024 03:04:05 GMT"
SMALL = b"<project/>" + b" " * 1000
TAR = DIRECTORY + "lib-1.0-bin.tar.gz"


@pytest.fixture
def clock() -> MockClock:
    # Worker threads count as blocked tasks: the threshold keeps the clock from jumping while one works.
    return MockClock(autojump_threshold=0.5)


def sha1(body: bytes) -> str:
    return hashlib.sha1(body, usedforsecurity=False).hexdigest()


def archive(size: int) -> bytes:
    """A jar of about ``size`` bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr(zipfile.ZipInfo("a"), bytes(range(256)) * (size // 256))
    return buffer.getvalue()


BIG = archive(3_000_000)


def maven(name: str = "maven") -> Maven:
    return Maven(name, ROOT)


@asynccontextmanager
async def repository(tmp_path: Path) -> AsyncIterator[Stall]:
    """A service over one Maven repository that is empty so far."""
    async with stall(tmp_path, [maven()]) as s:
        yield s


def put(s: Stall, path: str, body: bytes, *, checksum: bytes | None = None, **fields: object) -> None:
    """Publish a file, with its ``.sha1`` unless ``checksum`` says otherwise (``b""``: none at all)."""
    s.web.sent[ROOT + path] = Sent(body, last_modified=LAST_MODIFIED, **fields)  # type: ignore[arg-type]  # the fields' own types
    if checksum != b"":
        s.web.sent[f"{ROOT}{path}.sha1"] = Sent(sha1(body).encode() if checksum is None else checksum)


def file(path: str) -> File:
    found = maven().resource("GET", path)
    assert isinstance(found, File)
    return found


async def deliver(s: Stall, path: str) -> Delivery:
    return await s.service.deliver(file(path), hold_s=20)


async def fetch(s: Stall, path: str) -> bytes:
    """Deliver, read all of it, and wait until it is stored."""
    delivery = await deliver(s, path)
    body = delivery.body if isinstance(delivery.body, bytes) else await read(delivery)
    await landed(s)
    return body


def times(s: Stall, path: str) -> int:
    """How often upstream was asked for a path."""
    return s.web.asked.count(ROOT + path)


async def landed(s: Stall) -> None:
    while s.flights.statistics()["running"]:
        # Spinning, so that the clock does not jump meanwhile.
        await trio.lowlevel.checkpoint()


# ---- files


async def test_a_large_jar_flows_before_its_end_and_is_known_by_its_sha1_at_its_head(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:
        put(s, JAR, BIG)
        s.web.body_gate, s.web.gate_after = trio.Event(), 2_800_000
        delivery = await deliver(s, JAR)
        assert isinstance(delivery.body, Arriving)
        assert Digest("sha1", sha1(BIG)) in delivery.digests
        assert delivery.last_modified == LAST_MODIFIED
        follower, at = delivery.body.flight, 0
        with trio.move_on_after(5):
            while True:
                at = await follower.wait_beyond(at)
        assert 0 < at <= len(BIG) - 256 * 1024
        s.web.body_gate.set()
        assert await read(delivery) == BIG


async def test_the_same_is_said_of_a_file_cold_and_warm(tmp_path: Path, clock: MockClock) -> None:
    rules = maven()
    async with repository(tmp_path) as s:
        for path, body, checksum in ((JAR, BIG, None), (POM, SMALL, b""), (TAR, b"tar" * 500, None)):
            put(s, path, body, checksum=checksum)
            cold = await deliver(s, path)
            assert await read(cold) == body
            await landed(s)
            warm = await deliver(s, path)
            assert await read(warm) == body
            assert (cold.cache_status, warm.cache_status) == ("fwd=uri-miss; stored", "hit")
            first, second = (rules.file_headers(d.file, d.digests, d.last_modified) for d in (cold, warm))
            assert first == second
            assert dict(first)["ETag"] == f'"sha1-{sha1(body)}"'
            assert dict(first)["Last-Modified"] == LAST_MODIFIED
            assert cold.size == warm.size == len(body)
            binding = await s.catalog.binding(file(path))
            assert binding is not None
            assert binding.last_modified == LAST_MODIFIED


async def test_a_checksum_is_read_once_for_the_file_and_a_client_that_asks_meanwhile(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:
        put(s, JAR, BIG)
        gate = s.web.gates[f"{ROOT}{JAR}.sha1"] = trio.Event()
        got: list[bytes] = []

        async def ask(path: str) -> None:
            got.append(await fetch(s, path))

        async with trio.open_nursery() as nursery:
            for path in (JAR, JAR + ".sha1", JAR, JAR + ".sha1"):
                nursery.start_soon(ask, path)
            await wait_all_tasks_blocked(0.1)
            assert times(s, JAR) == 1, "the bytes are asked for at the same time as their checksum"
            gate.set()
        assert sorted(got, key=len) == [sha1(BIG).encode()] * 2 + [BIG] * 2
        assert (times(s, JAR), times(s, JAR + ".sha1")) == (1, 1)


async def test_without_a_checksum_nothing_leaves_before_all_is_there_and_then_the_sha1_is_known(
    tmp_path: Path, clock: MockClock
) -> None:
    async with repository(tmp_path) as s:
        put(s, JAR, BIG, checksum=b"")
        s.web.body_gate, s.web.gate_after = trio.Event(), 2_800_000
        waiting: list[Delivery] = []

        async def ask() -> None:
            waiting.append(await deliver(s, JAR))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await wait_all_tasks_blocked(1)
            assert waiting == []
            s.web.body_gate.set()
        assert Digest("sha1", sha1(BIG)) in waiting[0].digests
        assert await read(waiting[0]) == BIG


@pytest.mark.parametrize(
    ("checksum", "event"),
    [(b"0" * 40, "digest-mismatch"), (b"<html>please log in</html>", "bad-evidence"), (b"soon", "bad-evidence")],
    ids=["wrong", "html", "no digest"],
)
@pytest.mark.parametrize("path", [JAR, POM])
async def test_a_wrong_or_unreadable_checksum_binds_nothing_and_the_next_attempt_asks_anew(
    tmp_path: Path, clock: MockClock, path: str, checksum: bytes, event: str
) -> None:
    body = BIG if path == JAR else SMALL
    async with repository(tmp_path) as s:
        put(s, path, body, checksum=checksum)
        with pytest.raises(Corrupt):
            await fetch(s, path)
        assert await s.catalog.binding(file(path)) is None
        assert [d async for d in s.blobs.digests()] == []
        assert await s.events() == [event]
        put(s, path, body)
        await trio.sleep(10)
        assert await fetch(s, path) == body
        assert times(s, path + ".sha1") == 2


async def test_a_checksum_that_cannot_be_had_now_holds_its_file_back(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:
        put(s, JAR, BIG)
        s.web.sent[f"{ROOT}{JAR}.sha1"] = Sent(status=503)
        with pytest.raises(Unavailable):
            await fetch(s, JAR)
        assert await s.catalog.binding(file(JAR)) is None
        assert [d async for d in s.blobs.digests()] == []
        put(s, JAR, BIG)
        await trio.sleep(10)
        assert await fetch(s, JAR) == BIG


def module(body: bytes) -> bytes:
    described = {"name": "lib-1.0.jar", "url": "lib-1.0.jar", "size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    return json.dumps({"formatVersion": "1.1", "variants": [{"name": "api", "files": [described]}]}).encode()


async def test_a_descriptor_that_is_held_is_heeded_and_one_that_is_not_is_not_asked_for(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:
        put(s, JAR, BIG)
        put(s, MODULE, module(b"another jar"))
        assert await fetch(s, MODULE) == module(b"another jar")
        with pytest.raises(Corrupt):
            await fetch(s, JAR)
        assert await s.catalog.binding(file(JAR)) is None
        assert "digest-mismatch" in await s.events()
    async with repository(tmp_path / "other") as s:
        put(s, JAR, BIG)
        put(s, MODULE, module(b"another jar"))
        assert await fetch(s, JAR) == BIG
        assert times(s, MODULE) == 0


async def test_a_descriptor_that_is_held_vouches_where_there_is_no_checksum(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:
        put(s, JAR, BIG, checksum=b"")
        put(s, MODULE, module(BIG))
        await fetch(s, MODULE)
        delivery = await deliver(s, JAR)
        assert await read(delivery) == BIG
        assert Digest("sha1", sha1(BIG)) in delivery.digests, "the ETag is made of it, whatever else is known sooner"


@pytest.mark.parametrize("checksum", [None, b""])
async def test_a_digest_in_the_fields_must_agree_too(tmp_path: Path, clock: MockClock, checksum: bytes | None) -> None:
    async with repository(tmp_path) as s:
        put(s, JAR, BIG, checksum=checksum, digests=(Digest("sha1", "0" * 40),))
        with pytest.raises(Corrupt):
            await fetch(s, JAR)
        assert await s.catalog.binding(file(JAR)) is None
        assert await s.events() == ["digest-mismatch"]


# ---- files that may change

SNAPSHOT = "org/example/lib/1.0-SNAPSHOT/lib-1.0-SNAPSHOT.jar"


async def test_a_snapshot_that_was_published_anew_after_its_checksum_was_read_is_had_at_once(
    tmp_path: Path, clock: MockClock
) -> None:
    old, new = archive(50_000), archive(60_000)
    async with repository(tmp_path) as s:
        put(s, SNAPSHOT, old)
        assert await fetch(s, SNAPSHOT + ".sha1") == sha1(old).encode()
        put(s, SNAPSHOT, new)
        assert await fetch(s, SNAPSHOT) == new
        assert await fetch(s, SNAPSHOT + ".sha1") == sha1(new).encode()


async def test_of_a_large_snapshot_that_was_published_anew_nobody_gets_a_mixture(tmp_path: Path, clock: MockClock) -> None:
    new = archive(3_100_000)
    async with repository(tmp_path) as s:
        put(s, SNAPSHOT, BIG)
        await fetch(s, SNAPSHOT + ".sha1")
        put(s, SNAPSHOT, new)
        with pytest.raises(Corrupt):
            await fetch(s, SNAPSHOT)
        await landed(s)
        assert await fetch(s, SNAPSHOT) == new, "whoever asks again is helped at once"


async def test_a_snapshot_that_never_matches_its_checksum_is_not_served(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:
        put(s, SNAPSHOT, SMALL, checksum=b"0" * 40)
        for _ in range(5):
            with pytest.raises(Corrupt):
                await fetch(s, SNAPSHOT)
        assert times(s, SNAPSHOT) == 1, "the failure is remembered for all"
        assert times(s, SNAPSHOT + ".sha1") <= 7
        assert [d async for d in s.blobs.digests()] == []


# ---- checksums for clients


@pytest.mark.parametrize(
    "written", ["{} ", "{}\n", "SHA1(lib-1.0.jar)= {}", "{}  lib-1.0.jar\n", "lib-1.0.jar: {}", "{} *target/lib-1.0.jar"]
)
async def test_a_historic_checksum_comes_out_bare_as_the_one_made_here_does(
    tmp_path: Path, clock: MockClock, written: str
) -> None:
    async with repository(tmp_path) as s:
        put(s, JAR, BIG, checksum=written.format(sha1(BIG)).encode())
        cold = await deliver(s, JAR + ".sha1")
        assert cold.body == sha1(BIG).encode()
        assert await s.catalog.binding(file(JAR + ".sha1")) is None, "what a checksum says is never kept by itself"
        assert await fetch(s, JAR) == BIG
        asked = len(s.web.asked)
        warm = await deliver(s, JAR + ".sha1")
        assert (warm.body, warm.cache_status) == (cold.body, "hit; detail=generated")
        assert warm.digests == cold.digests
        assert len(s.web.asked) == asked


async def test_a_checksum_that_upstream_has_not_is_not_there_even_if_it_could_be_made(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:
        put(s, JAR, BIG)
        await fetch(s, JAR)
        for _ in range(20):
            with pytest.raises(NotFound):
                await deliver(s, JAR + ".sha512")
        assert times(s, JAR + ".sha512") == 1


async def test_a_strong_checksum_that_upstream_has_is_made_of_the_held_file(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:
        put(s, JAR, BIG)
        # What upstream has there may lag behind: the file that is held and its checksums agree always.
        s.web.sent[f"{ROOT}{JAR}.sha256"] = Sent(b"f" * 64)
        await fetch(s, JAR)
        for _ in range(3):
            assert await fetch(s, JAR + ".sha256") == hashlib.sha256(BIG).hexdigest().encode()
        assert times(s, JAR + ".sha256") == 1


async def test_a_checksum_is_made_of_the_held_file_when_upstream_is_dead(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:
        put(s, JAR, BIG)
        await fetch(s, JAR)
        s.web.down = {"maven"}
        assert await fetch(s, JAR + ".sha256") == hashlib.sha256(BIG).hexdigest().encode()
        assert await fetch(s, JAR + ".sha1") == sha1(BIG).encode()
        with pytest.raises(Unavailable):
            await deliver(s, POM + ".sha1")


async def test_a_checksum_that_upstream_was_known_to_lack_stays_away_in_an_outage(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:
        put(s, JAR, BIG)
        await fetch(s, JAR)
        with pytest.raises(NotFound):
            await deliver(s, JAR + ".sha256")
        await trio.sleep(400)
        s.web.down = {"maven"}
        for doubted in (set[str](), {"maven"}):
            s.web.doubted = doubted
            with pytest.raises(NotFound):
                await deliver(s, JAR + ".sha256")


async def test_a_checksum_that_is_none_is_never_passed_on(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:
        put(s, JAR, BIG, checksum=b"<html>please log in</html>")
        with pytest.raises(Corrupt):
            await deliver(s, JAR + ".sha1")
        s.web.sent[f"{ROOT}{JAR}.md5"] = Sent(b"<html>please log in</html>")
        with pytest.raises(Corrupt):
            await deliver(s, JAR + ".md5")


@pytest.mark.parametrize("algorithm", ["md5", "sha256", "sha512"])
async def test_any_checksum_of_a_file_that_is_not_held_is_passed_on(tmp_path: Path, clock: MockClock, algorithm: str) -> None:
    value = hashlib.new(algorithm, BIG).hexdigest()
    async with repository(tmp_path) as s:
        s.web.sent[f"{ROOT}{JAR}.{algorithm}"] = Sent(f"{value.upper()}  lib-1.0.jar\n".encode())
        assert await fetch(s, f"{JAR}.{algorithm}") == value.encode()
        assert times(s, JAR) == 0


async def test_a_refused_version_has_no_checksums(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:
        put(s, JAR, BIG)
        await fetch(s, JAR)
        asked = len(s.web.asked)
        s.rule("pkg:maven/org.example/lib@1.0", "stolen")
        for ending in ("", ".sha1", ".md5", ".sha512"):
            with pytest.raises(Refused, match="stolen"):
                await deliver(s, JAR + ending)
        assert len(s.web.asked) == asked


# ---- pages


def metadata(*versions: str, updated: str = "20260102030405") -> bytes:
    listed = "".join(f"<version>{version}</version>" for version in versions)
    return (
        "<metadata><groupId>org.example</groupId><artifactId>lib</artifactId><versioning>"
        f"<latest>{versions[-1]}</latest><release>{versions[-1]}</release><versions>{listed}</versions>"
        f"<lastUpdated>{updated}</lastUpdated></versioning></metadata>"
    ).encode()


PAGE = Page("maven", "org.example/lib")


async def test_metadata_that_does_not_match_its_checksum_once_is_asked_for_again(tmp_path: Path, clock: MockClock) -> None:
    old, new = metadata("1.0"), metadata("1.0", "2.0")
    async with repository(tmp_path) as s:
        # Replaced between our request for it and our request for its checksum.
        s.web.sent[ROOT + METADATA] = [Sent(old), Sent(new)]
        s.web.sent[f"{ROOT}{METADATA}.sha1"] = Sent(sha1(new).encode())
        view = await s.service.page(PAGE)
        assert set(view.listing.entries) == {"1.0", "2.0"}
        assert await s.events() == []


async def test_metadata_that_never_matches_its_checksum_is_not_served(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:
        put(s, METADATA, metadata("1.0", "evil"), checksum=sha1(metadata("1.0")).encode())
        with pytest.raises(Corrupt):
            await s.service.page(PAGE)
        assert times(s, METADATA) == 2
        assert await s.events() == ["digest-mismatch"]
        assert await s.catalog.answer(PAGE) is None


@pytest.mark.parametrize("checksum", [b"0" * 40, b"<html>please log in</html>", None], ids=["wrong", "html", "unavailable"])
async def test_held_metadata_stands_in_for_what_cannot_be_proven(
    tmp_path: Path, clock: MockClock, checksum: bytes | None
) -> None:
    async with repository(tmp_path) as s:
        put(s, METADATA, metadata("1.0"))
        await s.service.page(PAGE)
        clock.jump(700)
        put(s, METADATA, metadata("1.0", "2.0"), checksum=checksum or b"")
        if checksum is None:
            s.web.sent[f"{ROOT}{METADATA}.sha1"] = Sent(status=503)
        view = await s.service.page(PAGE)
        assert (view.outcome, set(view.listing.entries)) == ("stale", {"1.0"})


async def test_metadata_without_a_checksum_or_with_one_in_its_fields_is_taken(tmp_path: Path, clock: MockClock) -> None:
    body = metadata("1.0")
    async with repository(tmp_path) as s:
        put(s, METADATA, body, checksum=b"")
        assert set((await s.service.page(PAGE)).listing.entries) == {"1.0"}
    async with repository(tmp_path / "other") as s:
        put(s, METADATA, body, checksum=b"", digests=(Digest("sha1", sha1(body)),))
        await s.service.page(PAGE)
        assert times(s, METADATA + ".sha1") == 0
    async with repository(tmp_path / "third") as s:
        put(s, METADATA, body, checksum=b"", digests=(Digest("sha1", "0" * 40),))
        with pytest.raises(Corrupt):
            await s.service.page(PAGE)


# ---- what policy does to a page, and when


async def test_the_date_of_a_restriction_moves_when_what_is_left_changes_and_outlives_a_restart(
    tmp_path: Path, clock: MockClock
) -> None:
    async with repository(tmp_path) as s:
        put(s, METADATA, metadata("1.0", "2.0"))

        async def restricted_at() -> float:
            return (await s.service.page(PAGE)).listing.restricted_at

        assert await restricted_at() == 0
        s.rule("pkg:maven/org.example/other")
        assert await restricted_at() == 0, "nothing of this was taken off"
        clock.jump(10)
        s.rule("pkg:maven/org.example/lib@2.0")
        taken = await restricted_at()
        assert taken >= s.service.clock()
        assert taken == int(taken)
        clock.jump(10)
        s.rule("pkg:maven/org.example/lib@>=2")
        assert await restricted_at() == taken, "the same is left"
        async with stall(tmp_path, [maven()], s.web, s.catalog) as again:
            again.rule("pkg:maven/org.example/lib@2.0")
            clock.jump(10)
            assert (await again.service.page(PAGE)).listing.restricted_at == taken
        s.service.set_rules([])
        given = await restricted_at()
        assert given > taken, "giving back is a change as well"
        clock.jump(700)
        assert await restricted_at() == given


async def test_no_two_changes_of_a_page_that_policy_touched_share_a_date(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:
        put(s, METADATA, metadata("1.0", "2.0"))
        dates: list[float] = []

        async def note() -> None:
            dates.append((await s.service.page(PAGE)).listing.restricted_at)

        s.rule("pkg:maven/org.example/lib@2.0")
        await note()
        s.service.set_rules([])
        await note()
        s.rule("pkg:maven/org.example/lib@2.0")
        await note()
        clock.jump(700)
        await note()
        assert dates[3] == dates[2], "nothing changed"
        # Published before the rule was made, seen after it.
        put(s, METADATA, metadata("1.0", "1.1", "2.0"))
        clock.jump(700)
        await note()
        assert dates[0] < dates[1] < dates[2] < dates[4]


async def test_a_page_of_which_nothing_is_left_is_refused(tmp_path: Path, clock: MockClock) -> None:
    async with repository(tmp_path) as s:
        put(s, METADATA, metadata("1.0", "1.1"))
        s.rule("pkg:maven/org.example/lib@<2", "too old")
        with pytest.raises(Refused, match="too old"):
            await s.service.page(PAGE)
        s.service.set_rules([])
        assert set((await s.service.page(PAGE)).listing.entries) == {"1.0", "1.1"}


async def test_a_rule_on_a_whole_project_asks_nobody(tmp_path: Path, clock: MockClock) -> None:
    async with stall(tmp_path, [maven(), NPM("npm", "https://npm.test/")]) as s:
        s.rule("pkg:maven/org.example/*", "ours alone")
        for path in (JAR, JAR + ".sha1", DIRECTORY + "lib-1.0.pom.asc"):
            with pytest.raises(Refused, match="ours alone"):
                await deliver(s, path)
        with pytest.raises(Refused, match="ours alone"):
            await s.service.page(PAGE)
        s.rule("pkg:npm/%40evil/*", "ours alone")
        with pytest.raises(Refused, match="ours alone"):
            await s.service.page(Page("npm", "@evil/thing"))
        assert s.web.asked == []


async def test_the_date_is_that_of_the_fields(tmp_path: Path, clock: MockClock) -> None:
    rules = maven()
    async with repository(tmp_path) as s:
        put(s, METADATA, metadata("1.0", "2.0"))
        view = await s.service.page(PAGE)
        assert dict(rules.headers(view.listing, b"x", view.last_modified))["last-modified"] == LAST_MODIFIED
        s.rule("pkg:maven/org.example/lib@2.0")
        view = await s.service.page(PAGE)
        told = dict(rules.headers(view.listing, b"x", view.last_modified))["last-modified"]
        assert told == http_date(max(view.listing.restricted_at, 1704164645))
