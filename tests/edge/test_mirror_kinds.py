"""The mirror face with npm and Maven behind it: strays, views, headers, notes, groups."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from edge.mirror import FILE_CACHE_CONTROL, OUTAGE_NOTE, Instance, Mirror
from edge.render import Renderings
from origin.http import Request, Response
from origin.http.hot import HotPages
from origin.metrics import Tally
from origin.model import Arriving, Digest, File, Headers, Span, Validity
from origin.registries import Options, Registry
from origin.registries.maven import Maven
from origin.registries.npm import ABBREVIATED, FULL, NPM
from tests.origin.test_evidence import archive, metadata, sha1
from tests.origin.test_files import read_body
from tests.scripted import Sent, Stall, stall

NPM_ROOT, MAVEN_ROOT, OURS = "https://npm.test/", "https://maven.test/maven2/", "https://ours.test/"
METADATA = "org/example/lib/maven-metadata.xml"
JAR = "org/example/lib/1.0/lib-1.0.jar"
BODY = archive(50_000)
TARBALL = b"a tarball, near enough" * 100


@pytest.fixture
def clock() -> MockClock:
    # Worker threads count as blocked tasks: the threshold keeps the clock from jumping while one works.
    return MockClock(autojump_threshold=0.5)


class Kept(HotPages):
    """Hot pages that tell what they were given."""

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self.given: list[tuple[str, Validity]] = []

    def keep(self, request: Request, response: Response, validity: Validity, tally: Tally) -> None:
        self.given.append((request.target, validity))
        super().keep(request, response, validity, tally)


class Front:
    """A mirror, asked as the server would ask it."""

    def __init__(self, s: Stall, instances: Sequence[Instance]) -> None:
        self.s = s
        self.web = s.web
        self.hot = Kept()
        renderings = Renderings(1 << 20, trio.CapacityLimiter(1))
        self.mirror = Mirror(instances, s.service, renderings, self.hot, s.metrics, "0123456789abcdef")

    async def ask(self, target: str, method: str = "GET", **headers: str) -> Response:
        fields = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        return await self.mirror.handle(Request(method, target, fields, base="http://edge.test:8080"))

    async def read(self, target: str, **headers: str) -> bytes:
        """The whole of what is answered with 200, when nothing is in the air any more."""
        response = await self.ask(target, **headers)
        assert response.status == 200, (target, response.status, response.reason)
        body = response.body if isinstance(response.body, bytes) else await read_body(response.body)
        await self.landed()
        return body

    async def landed(self) -> None:
        while self.s.flights.statistics()["running"]:
            # Spinning, so that the clock does not jump meanwhile.
            await trio.lowlevel.checkpoint()

    def put(self, root: str, path: str, body: bytes, **fields: Any) -> None:
        """Publish something with its checksum."""
        self.web.sent[root + path] = Sent(body, **fields)
        self.web.sent[f"{root}{path}.sha1"] = Sent(sha1(body).encode())


def packument(*versions: str, name: str = "six", **tags: str) -> bytes:
    described = {
        version: {
            "name": name,
            "version": version,
            "dist": {
                "tarball": f"{NPM_ROOT}{name}/-/{name.rpartition('/')[2]}-{version}.tgz",
                "shasum": sha1(TARBALL),
            },
        }
        for version in versions
    }
    times = {"created": "2024-01-01T00:00:00.000Z", "modified": "2024-01-02T00:00:00.000Z"}
    return json.dumps(
        {
            "_id": name,
            "name": name,
            "dist-tags": {"latest": versions[-1], **tags},
            "versions": described,
            "time": times | dict.fromkeys(versions, "2024-01-01T00:00:00.000Z"),
        }
    ).encode()


@asynccontextmanager
async def npm(tmp_path: Path, path: str = "/npm/") -> AsyncIterator[Front]:
    registry = NPM("npm", NPM_ROOT)
    async with stall(tmp_path, [registry]) as s:
        f = Front(s, [Instance((registry,), path)])
        f.web.sent[NPM_ROOT + "six"] = Sent(packument("1.0.0", "2.0.0", next="1.0.0"), media_type="application/json")
        f.web.sent[NPM_ROOT + "six/-/six-1.0.0.tgz"] = Sent(TARBALL)
        yield f


@asynccontextmanager
async def maven(tmp_path: Path, *members: Registry) -> AsyncIterator[Front]:
    registries = members or (Maven("maven", MAVEN_ROOT),)
    async with stall(tmp_path, registries) as s:
        f = Front(s, [Instance(tuple(registries), "/maven/")])
        f.put(MAVEN_ROOT, METADATA, metadata("1.0", "2.0"), last_modified="Tue, 02 Jan 2024 03:04:05 GMT")
        f.put(MAVEN_ROOT, JAR, BODY, last_modified="Tue, 02 Jan 2024 03:04:05 GMT")
        yield f


# ---- strays


@pytest.mark.parametrize("target", ["/npm/six/-/six-1.0.0.tgz", "/six/-/six-1.0.0.tgz", "/npm/npm/six/-/six-1.0.0.tgz"])
async def test_a_tarball_is_found_whose_path_lost_the_prefix_or_has_it_twice(
    tmp_path: Path, clock: MockClock, target: str
) -> None:
    async with npm(tmp_path) as f:
        # A tarball that is none: refused by its scan only if nothing proves it, and its shasum does.
        assert await f.read(target) == TARBALL


@pytest.mark.parametrize("target", ["/six", "/npm/npm/six", "/-/six", "/elsewhere/six/-/", "/six/-/"])
async def test_nothing_else_strays(tmp_path: Path, clock: MockClock, target: str) -> None:
    async with npm(tmp_path) as f:
        assert (await f.ask(target)).status in (404, 405)
        assert all(url == NPM_ROOT + "npm" for url in f.web.asked)


async def test_a_stray_goes_to_no_instance_of_another_kind(tmp_path: Path, clock: MockClock) -> None:
    rules: list[Registry] = [Maven("maven", MAVEN_ROOT), NPM("npm", NPM_ROOT)]
    async with stall(tmp_path, rules) as s:
        f = Front(s, [Instance((rules[0],), "/maven/"), Instance((rules[1],), "/npm/")])
        f.web.sent[NPM_ROOT + "six"] = Sent(packument("1.0.0"), media_type="application/json")
        f.web.sent[NPM_ROOT + "six/-/six-1.0.0.tgz"] = Sent(TARBALL)
        f.put(MAVEN_ROOT, JAR, BODY)
        assert await f.read("/six/-/six-1.0.0.tgz") == TARBALL
        assert (await f.ask("/" + JAR)).status == 404
        assert await f.read("/maven/" + JAR) == BODY


# ---- views of one page


async def test_views_of_a_packument_cost_one_request(tmp_path: Path, clock: MockClock) -> None:
    async with npm(tmp_path) as f:
        assert json.loads(await f.read("/npm/six/1.0.0"))["version"] == "1.0.0"
        assert json.loads(await f.read("/npm/six/latest"))["version"] == "2.0.0"
        assert json.loads(await f.read("/npm/six/next"))["version"] == "1.0.0"
        assert json.loads(await f.read("/npm/-/package/six/dist-tags")) == {"latest": "2.0.0", "next": "1.0.0"}
        assert set(json.loads(await f.read("/npm/six"))["versions"]) == {"1.0.0", "2.0.0"}
        assert f.web.asked == [NPM_ROOT + "six"]


async def test_a_view_that_is_missing_is_looked_for_once_in_a_new_page(tmp_path: Path, clock: MockClock) -> None:
    async with npm(tmp_path) as f:
        await f.read("/npm/six")
        assert (await f.ask("/npm/six/3.0.0")).status == 404
        assert len(f.web.asked) == 1, "confirmed a moment ago"
        clock.jump(11)
        assert (await f.ask("/npm/six/3.0.0")).status == 404
        assert len(f.web.asked) == 2
        f.web.sent[NPM_ROOT + "six"] = Sent(packument("1.0.0", "2.0.0", "3.0.0"), media_type="application/json")
        assert (await f.ask("/npm/six/3.0.0")).status == 404
        assert len(f.web.asked) == 2
        clock.jump(11)
        assert json.loads(await f.read("/npm/six/3.0.0"))["version"] == "3.0.0"
        assert len(f.web.asked) == 3


@pytest.mark.parametrize("held_s", [11, 700], ids=["fresh", "stale"])
async def test_an_outage_makes_no_absence_of_a_view_that_is_missing(tmp_path: Path, clock: MockClock, held_s: int) -> None:
    async with npm(tmp_path) as f:
        await f.read("/npm/six")
        f.web.down, f.web.doubted = {"npm"}, {"npm"}
        assert (await f.ask("/npm/six/3.0.0")).status == 404, "confirmed a moment ago"
        clock.jump(held_s)
        assert json.loads(await f.read("/npm/six/1.0.0"))["version"] == "1.0.0"
        response = await f.ask("/npm/six/3.0.0")
        assert (response.status, response.header("retry-after")) == (503, "5")


async def test_a_page_that_is_missing_is_called_by_its_name(tmp_path: Path, clock: MockClock) -> None:
    async with npm(tmp_path) as f:
        for target, name in (
            ("-/npm/v1/keys", "keys"),
            ("-/npm/v1/attestations/six@1.0.0", "attestations/1.0.0 of six"),
            ("seven", "seven"),
        ):
            response = await f.ask(f"/npm/{target}")
            assert (response.status, response.reason) == (404, f"{name} does not exist upstream")


async def test_a_view_of_what_was_refused_says_why(tmp_path: Path, clock: MockClock) -> None:
    async with npm(tmp_path) as f:
        f.s.rule("pkg:npm/six@2.0.0", "stolen")
        response = await f.ask("/npm/six/2.0.0")
        assert (response.status, response.reason) == (403, "Blocked by policy: stolen")
        assert json.loads(await f.read("/npm/six/latest"))["version"] == "1.0.0"


async def test_metadata_and_its_checksums_are_one(tmp_path: Path, clock: MockClock) -> None:
    async with maven(tmp_path) as f:
        for rule in (None, "pkg:maven/org.example/lib@2.0"):
            if rule:
                f.s.rule(rule)
            body = await f.read(f"/maven/{METADATA}")
            for algorithm in ("md5", "sha1", "sha256", "sha512"):
                assert await f.read(f"/maven/{METADATA}.{algorithm}") == hashlib.new(algorithm, body).hexdigest().encode()
        assert f.web.asked == [MAVEN_ROOT + METADATA, f"{MAVEN_ROOT}{METADATA}.sha1"]


# ---- header fields


async def test_every_form_and_coding_of_a_packument_has_its_type_and_tag(tmp_path: Path, clock: MockClock) -> None:
    async with npm(tmp_path) as f:
        tags = set()
        for accept, media_type in (
            (FULL, FULL),
            (ABBREVIATED, ABBREVIATED),
            ("*/*", FULL),
            (f"{ABBREVIATED}; q=1.0, {FULL}; q=0.8", ABBREVIATED),
        ):
            for coding in ("identity", "gzip", "zstd"):
                response = await f.ask("/npm/six", accept=accept, accept_encoding=coding)
                assert response.header("content-type") == media_type
                assert response.header("vary") == "Accept, Accept-Encoding"
                assert response.header("cache-control") == "no-cache"
                assert response.header("content-encoding") == (None if coding == "identity" else coding)
                tags.add((media_type, coding, response.header("etag")))
        assert len(tags) == 6
        assert len({tag for *_, tag in tags}) == 6


@pytest.mark.parametrize(
    "target", ["/npm/six", "/npm/six/latest", "/npm/-/package/six/dist-tags", "/npm/-/ping", "/npm/six/-/six-1.0.0.tgz"]
)
async def test_npm_heads_are_those_of_its_bodies(tmp_path: Path, clock: MockClock, target: str) -> None:
    async with npm(tmp_path) as f:
        await require_same_heads(f, target)


@pytest.mark.parametrize(
    "path",
    [METADATA, METADATA + ".sha1", METADATA + ".sha512", JAR, JAR + ".sha1", JAR + ".md5", "org/example/lib/1.0/lib-1.0.pom"],
)
async def test_maven_heads_are_those_of_its_bodies(tmp_path: Path, clock: MockClock, path: str) -> None:
    async with maven(tmp_path) as f:
        f.web.sent[f"{MAVEN_ROOT}{JAR}.md5"] = Sent(hashlib.md5(BODY, usedforsecurity=False).hexdigest().encode())
        await require_same_heads(f, f"/maven/{path}")


async def require_same_heads(f: Front, target: str) -> None:
    """HEAD and GET, before anything is held and afterwards, say the same of ``target``."""

    async def told(method: str) -> dict[str, str]:
        response = await f.ask(target, method)
        length = len(response.body)
        if isinstance(response.body, Span | Arriving):
            response.body.close()
        await f.landed()
        fields = {name.lower(): value for name, value in response.headers}
        fields.pop("cache-status")
        return fields | {"status": str(response.status), "length": str(length)}

    cold = await told("HEAD")
    assert [await told(method) for method in ("GET", "HEAD", "GET")] == [cold] * 3
    if cold["status"] == "200" and "ping" not in target:
        assert cold["etag"]


async def test_a_file_tells_one_digest_and_its_date(tmp_path: Path, clock: MockClock) -> None:
    async with maven(tmp_path) as f:
        response = await f.ask("/maven/" + JAR)
        assert isinstance(response.body, Arriving | Span)
        response.body.close()
        fields = {name.lower(): value for name, value in response.headers}
        assert fields["etag"] == f'"sha1-{sha1(BODY)}"'
        assert fields["x-checksum-sha1"] == sha1(BODY)
        assert fields["last-modified"] == "Tue, 02 Jan 2024 03:04:05 GMT"
        assert fields["cache-control"] == FILE_CACHE_CONTROL
        assert fields["accept-ranges"] == "bytes"
        assert not {name for name in fields if name.startswith("x-checksum-")} - {"x-checksum-sha1"}


class Moody(Maven):
    """A repository whose files may change."""

    def file_headers(self, file: File, digests: Sequence[Digest], last_modified: str | None) -> Headers:
        return (*super().file_headers(file, digests, last_modified), ("cache-control", "no-cache"))


async def test_how_long_a_file_may_be_kept_is_for_its_registry_to_say(tmp_path: Path, clock: MockClock) -> None:
    async with maven(tmp_path, Moody("maven", MAVEN_ROOT)) as f:
        response = await f.ask("/maven/" + JAR)
        assert isinstance(response.body, Arriving | Span)
        response.body.close()
        assert [value for name, value in response.headers if name.lower() == "cache-control"] == ["no-cache"]


async def test_a_file_that_may_change_is_followed_and_never_called_immutable(tmp_path: Path, clock: MockClock) -> None:
    path = "org/example/lib/1.0-SNAPSHOT/lib-1.0-SNAPSHOT.jar"
    other = archive(70_000)
    async with maven(tmp_path) as f:
        for body in (BODY, other, BODY):
            f.put(MAVEN_ROOT, path, body)
            assert await f.read("/maven/" + path) == body
            assert await f.read(f"/maven/{path}.sha1") == sha1(body).encode()
            for target in (path, path + ".sha1"):
                response = await f.ask("/maven/" + target)
                if not isinstance(response.body, bytes):
                    response.body.close()
                assert response.header("cache-control") == "no-cache"
            clock.jump(301)
            await trio.sleep(5)
        assert await f.s.events() == []
        f.web.down = {"maven"}
        assert await f.read("/maven/" + path) == BODY
        assert f.web.asked.count(MAVEN_ROOT + path) == 2


# ---- in an outage


async def test_people_are_told_of_an_outage_and_only_then(tmp_path: Path, clock: MockClock) -> None:
    async with npm(tmp_path) as f:
        assert (await f.ask("/npm/six")).header("npm-notice") is None
        clock.jump(700)
        f.web.down = {"npm"}
        given = len(f.hot.given)
        for doubted in (set[str](), {"npm"}):
            f.web.doubted = doubted
            for target in ("/npm/six", "/npm/six/1.0.0"):
                response = await f.ask(target)
                assert (response.status, response.header("npm-notice")) == (200, OUTAGE_NOTE)
                assert response.header("cache-status") == "leeward; hit; detail=upstream-down"
        assert len(f.hot.given) == given, "what says so is not kept to be said again"
        f.web.down, f.web.doubted = set(), set()
        await trio.sleep(10)
        response = await f.ask("/npm/six")
        assert (response.status, response.header("npm-notice")) == (200, None)
        assert len(f.hot.given) == given + 1


async def test_the_same_bytes_have_the_same_tag_in_and_out_of_an_outage(tmp_path: Path, clock: MockClock) -> None:
    async with npm(tmp_path) as f:
        before = await f.ask("/npm/six")
        clock.jump(700)
        f.web.down = {"npm"}
        during = await f.ask("/npm/six")
        assert (during.header("etag"), during.body) == (before.header("etag"), before.body)


# ---- groups


async def test_a_group_is_rendered_once_and_void_when_a_member_changes(tmp_path: Path, clock: MockClock) -> None:
    members = Maven("ours", OURS), Maven("maven", MAVEN_ROOT)
    async with maven(tmp_path, *members) as f:
        f.put(OURS, METADATA, metadata("0.9"))
        body = await f.read(f"/maven/{METADATA}")
        assert all(f"<version>{version}</version>".encode() in body for version in ("0.9", "1.0", "2.0"))
        (_, validity), *_ = f.hot.given
        assert validity.holds(f.s.service.clock())
        assert await f.read(f"/maven/{METADATA}.sha1") == sha1(body).encode()
        f.s.rule("pkg:maven/org.example/lib@2.0")
        assert not validity.valid
        assert b"<version>2.0</version>" not in await f.read(f"/maven/{METADATA}")
        f.s.service.set_rules([])
        _, validity = f.hot.given[-1]
        again = await f.read(f"/maven/{METADATA}")
        assert b"<version>2.0</version>" in again
        f.put(OURS, METADATA, metadata("0.9", "0.9.1"))
        clock.jump(601)
        assert b"<version>0.9.1</version>" in await f.read(f"/maven/{METADATA}")
        assert not validity.valid


async def test_a_pinned_name_is_never_asked_of_the_others_by_any_path(tmp_path: Path, clock: MockClock) -> None:
    members = Maven("ours", OURS, Options(groups=("com.company",))), Maven("maven", MAVEN_ROOT)
    lib = "com/company/lib/1.0/lib-1.0.jar"
    async with maven(tmp_path, *members) as f:
        f.put(MAVEN_ROOT, lib, BODY)
        f.put(MAVEN_ROOT, "com/company/lib/maven-metadata.xml", metadata("9").replace(b"org.example", b"com.company"))
        f.put(MAVEN_ROOT, "com/company/lib/1-SNAPSHOT/lib-1-SNAPSHOT.jar", BODY)
        for path in (
            lib,
            lib + ".sha1",
            lib + ".asc",
            "com/company/lib/maven-metadata.xml",
            "com/company/lib/maven-metadata.xml.sha1",
            "com/company/lib/1-SNAPSHOT/maven-metadata.xml",
            "com/company/lib/1-SNAPSHOT/lib-1-SNAPSHOT.jar",
            "com/company/maven-metadata.xml",
        ):
            assert (await f.ask("/maven/" + path)).status == 404
        assert f.web.asked
        assert all(url.startswith(OURS) for url in f.web.asked)
        assert await f.read("/maven/" + JAR) == BODY


async def test_a_name_that_nobody_answers_for_is_not_found(tmp_path: Path, clock: MockClock) -> None:
    async with maven(tmp_path, Maven("ours", OURS, Options(groups=("com.company",)))) as f:
        response = await f.ask("/maven/" + JAR)
        assert response.status == 404
        assert f.web.asked == []
