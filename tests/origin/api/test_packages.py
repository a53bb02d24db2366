"""Pages, files and blobs as other nodes get them from an origin, or from a sibling that asks nobody."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing
import zstandard

from origin.api import wire
from origin.api.server import page_of
from origin.errors import Refused
from origin.http import Response
from origin.model import File, Page, Refuse
from origin.registries import Registry
from origin.registries.maven import Maven
from origin.registries.npm import NPM
from origin.registries.pypi import PyPI
from tests.origin.api.stand import DEPLOYMENT, NODE, Asked, asked, content, document, values
from tests.scripted import FRESH_S, STALE_S, Upload, stamp

SIX = Upload("six-1.0-py3-none-any.whl", b"six " * 1000)
SIX_2 = Upload("six-2.0.tar.gz", b"the other six")
PROJECTS = {"six": [SIX, SIX_2]}
PAGE = "/v1/pages/pypi/six"


def file_target(upload: Upload) -> str:
    return f"/v1/files/pypi/{upload.path}"


def blob_target(upload: Upload) -> str:
    return f"/v1/blobs/sha256/{hashlib.sha256(upload.content).hexdigest()}"


def stamp_of(response: Response) -> list[float]:
    """Seconds of freshness and of staleness left."""
    return list(wire.read_stamp(response.header(wire.STAMP) or ""))[:2]


def age_of(response: Response) -> float:
    """How many seconds ago the registry confirmed it."""
    return wire.read_stamp(response.header(wire.STAMP) or "")[2]


async def fetched(a: Asked, upload: Upload) -> None:
    """Have a file here."""
    response = await a.ask(file_target(upload))
    assert response.status == 200
    await content(response)
    await a.bench.service.keep(a.bench.file(upload))


# ---- pages


async def test_a_page_is_what_policy_left_of_it_with_all_that_a_node_needs(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        a.bench.rule("pkg:pypi/six@2.0", "not for us")
        response = await a.ask(PAGE)
        assert response.status == 200
        assert response.header("content-type") == wire.PAGE_TYPE
        body = await content(response)
        facts, listing = wire.read_page(body)
        assert facts.restrictions == {"2.0": Refuse("not for us", "test")}
        assert facts.url == "http://pypi.test/simple/six/"
        assert facts.restricted_at > 0
        read = a.bench.registry.reread(Page("pypi", "six"), listing)
        assert {entry.file.version for entry in read.entries.values() if entry.yanked is None} == {"1.0"}
        assert response.header("etag") == wire.page_etag(facts, listing)
        assert values(response, "repr-digest") == [f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"]
        assert "fwd=uri-miss" in (response.header("cache-status") or "")


async def test_a_stamp_is_what_is_left_and_never_more(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        assert stamp_of(await a.ask(PAGE)) == pytest.approx([FRESH_S, STALE_S], abs=1)
        await trio.sleep(100)
        assert stamp_of(await a.ask(PAGE)) == pytest.approx([FRESH_S - 100, STALE_S - 100], abs=1)
        a.bench.source.down = True
        await trio.sleep(FRESH_S)
        stale = await a.ask(PAGE)
        assert stale.status == 200 and "upstream-down" in (stale.header("cache-status") or "")
        assert stamp_of(stale) == pytest.approx([-100, STALE_S - FRESH_S - 100], abs=1)


async def test_a_page_that_is_known_is_not_sent_again(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        etag = (await a.ask(PAGE)).header("etag")
        assert etag is not None
        await trio.sleep(50)
        again = await a.ask(PAGE, {"if-none-match": etag})
        assert (again.status, again.body) == (304, b"")
        assert again.header("etag") == etag
        assert stamp_of(again)[0] == pytest.approx(FRESH_S - 50, abs=1)
        a.bench.rule("pkg:pypi/six@2.0")
        assert (await a.ask(PAGE, {"if-none-match": etag})).status == 200


@pytest.mark.parametrize(
    ("accepted", "coding"), [("gzip", "gzip"), ("zstd, gzip", "zstd"), ("br", "identity"), (None, "identity")]
)
async def test_a_page_is_coded_as_the_asker_reads_it(tmp_path: Path, accepted: str | None, coding: str) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        response = await a.ask(PAGE, {"accept-encoding": accepted} if accepted else {})
        body = await content(response)
        assert (response.header("content-encoding") or "identity") == coding
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        assert response.header("repr-digest") == f"sha-256=:{digest}:"
        plain = gzip.decompress(body) if coding == "gzip" else zstandard.decompress(body) if coding == "zstd" else body
        facts, listing = wire.read_page(plain)
        assert response.header("etag") == wire.page_etag(facts, listing)


async def test_a_page_says_how_old_it_is(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        first = await a.ask(PAGE)
        assert age_of(first) == pytest.approx(0, abs=0.5)
        await trio.sleep(30)
        assert age_of(await a.ask(PAGE)) == pytest.approx(30, abs=0.5)
        known = await a.ask(PAGE, {"if-none-match": first.header("etag") or ""})
        assert known.status == 304
        assert age_of(known) == pytest.approx(30, abs=0.5)


async def test_an_absence_says_how_old_it_is(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        for age_s in (0, 20):
            await trio.sleep(age_s)
            response = await a.ask("/v1/pages/pypi/nothing")
            assert response.status == 404
            assert age_of(response) == pytest.approx(age_s, abs=0.5)


async def test_a_large_page_is_framed_once_for_all_who_ask_at_once(tmp_path: Path) -> None:
    many = [Upload(f"six-{number}.0.tar.gz", b"%d" % number) for number in range(600)]
    async with asked(tmp_path, {"six": many}) as a:
        await a.ask(PAGE)
        bodies: list[bytes] = []

        async def one() -> None:
            response = await a.ask(PAGE, {"accept-encoding": "zstd"})
            assert isinstance(response.body, bytes)
            bodies.append(response.body)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one)
        assert len(bodies) == 20 and all(body is bodies[0] for body in bodies)


async def test_a_clean_absence_says_how_long_it_may_be_believed(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        response = await a.ask("/v1/pages/pypi/nothing")
        assert response.status == 404
        assert response.header("content-type") == "application/problem+json"
        assert stamp_of(response)[0] == pytest.approx(30, abs=1)


async def test_a_refusal_says_by_which_rule_and_why(tmp_path: Path) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        await a.ask(PAGE)
        a.bench.rule("pkg:pypi/six", "it is evil")
        for target in (file_target(SIX), file_target(SIX) + ".metadata"):
            response = await a.ask(target)
            assert response.status == 403
            told = document(response)
            assert (told["rule"], told["reason"], told["title"]) == ("test", "it is evil", "Blocked by policy")
            assert "until" not in told


async def test_a_page_of_which_nothing_is_left_says_how_old_it_is(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        await a.ask(PAGE)
        await trio.sleep(30)

        async def nothing_left(*_: object, **__: object) -> None:
            raise Refused(Refuse("it is evil", "test"))

        # As pages of other kinds are: PyPI's keep what is refused, yanked.
        monkeypatch.setattr(a.bench.service, "page", nothing_left)
        response = await a.ask(PAGE)
        assert response.status == 403
        assert age_of(response) == pytest.approx(30, abs=0.5)
        never = await a.ask("/v1/pages/pypi/nothing")
        assert (never.status, never.header(wire.STAMP)) == (403, None)


async def test_an_outage_is_no_absence(tmp_path: Path) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        a.bench.source.down = True
        for target in (PAGE, file_target(SIX)):
            response = await a.ask(target)
            assert response.status == 503
            assert response.header("retry-after") is not None
            assert response.header(wire.STAMP) is None


async def test_a_registry_that_is_not_here_is_no_absence_either(tmp_path: Path) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        for target in ("/v1/pages/npm/six", "/v1/files/npm/six/-/six-1.0.0.tgz", "/v1/existence/npm/x", "/v1/relays/npm"):
            response = await a.ask(target, method="POST" if "relays" in target else "GET")
            assert response.status == 503, target
            assert "no registry named npm" in str(document(response)["detail"])


async def test_a_node_may_have_upstream_asked_for_a_fresh_page(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        await a.ask(PAGE)
        await trio.sleep(30)
        await a.ask(PAGE)
        assert len(a.bench.source.asked) == 1
        await a.ask(PAGE, {"cache-control": "max-age=10"})
        assert len(a.bench.source.asked) == 2


PYPI = PyPI("pypi", "http://pypi.test/simple/")
BARE = PyPI("pypi", "http://pypi.test/root/")
NODE_REGISTRY = NPM("npm", "http://npm.test/registry/")
MAVEN = Maven("maven", "http://maven.test/repo/")


@pytest.mark.parametrize(
    ("registry", "project", "view"),
    [
        (PYPI, "six", ""),
        (PYPI, "", "index"),
        (PYPI, "six", "json"),
        (PYPI, "six", "json/1.0+local"),
        (PYPI, "six", "provenance/1.0/six-1.0-py3-none-any.whl"),
        (BARE, "six", ""),
        (BARE, "six", "json"),
        (NODE_REGISTRY, "six", ""),
        (NODE_REGISTRY, "@scope/six", ""),
        (NODE_REGISTRY, "", "keys"),
        (NODE_REGISTRY, "@scope/six", "attestations/1.0.0"),
        (MAVEN, "org.test/lib", ""),
        (MAVEN, "org.test/lib", "snapshot/1.0-SNAPSHOT"),
        (MAVEN, "", "catalog"),
        (MAVEN, "", "group/org"),
        (MAVEN, "org.test/lib", "file/org/test/lib/1.0-SNAPSHOT/lib-1.0-SNAPSHOT.jar"),
    ],
)
def test_every_page_that_a_node_holds_can_be_named(registry: Registry, project: str, view: str) -> None:
    assert page_of(registry, project, view) == Page(registry.name, project, view)


@pytest.mark.parametrize(
    ("registry", "project", "view"),
    [
        (PYPI, "Six", ""),
        (PYPI, "../six", ""),
        (PYPI, "", ""),
        (PYPI, "six", "nothing"),
        (PYPI, "six", "json/../../x"),
        (PYPI, "six", "absent/packages/x"),
        (PYPI, "six", "provenance/1.0/../x"),
        (NODE_REGISTRY, "six", "manifest/1.0.0"),
        (NODE_REGISTRY, "six", "dist-tags"),
        (NODE_REGISTRY, "six/../../x", ""),
        (NODE_REGISTRY, "six", "attestations/../x"),
        (MAVEN, "org.test/lib", "checksum/sha1"),
        (MAVEN, "org.test/lib", "file/org/test/lib/1.0/lib-1.0.jar"),
        (MAVEN, "org.test/lib", "file/../../x-SNAPSHOT.jar"),
        (MAVEN, "org.test/other", "file/org/test/lib/1.0-SNAPSHOT/lib-1.0-SNAPSHOT.jar"),
        (MAVEN, "org.test/lib", "absent/org/test/lib/1.0/lib-1.0.jar"),
    ],
)
def test_what_no_node_holds_as_a_page_cannot_be_named(registry: Registry, project: str, view: str) -> None:
    with pytest.raises(ValueError, match="has no page"):
        page_of(registry, project, view)


async def test_the_address_of_a_page_means_that_page(tmp_path: Path) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        assert (await a.ask(wire.page_path(Page("pypi", "six")))).status == 200
        for page in (Page("pypi", "six", "nothing"), Page("pypi", "a/b")):
            assert (await a.ask(wire.page_path(page))).status == 400


# ---- files


async def test_a_file_comes_with_every_digest_that_is_known(tmp_path: Path) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        for _ in ("cold", "held"):
            response = await a.ask(file_target(SIX))
            assert response.status == 200
            digest = hashlib.sha256(SIX.content)
            assert response.header("x-checksum-sha256") == digest.hexdigest()
            assert response.header("repr-digest") == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
            assert response.header("etag") == f'"sha256-{digest.hexdigest()}"'
            assert response.header("accept-ranges") == "bytes"
            assert len(response.body) == len(SIX.content)
            assert await content(response) == SIX.content
            await a.bench.service.keep(a.bench.file(SIX))


async def test_the_address_of_a_file_means_that_file(tmp_path: Path) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        file = File("pypi", "six", "1.0", SIX.filename, SIX.path)
        assert await content(await a.ask(wire.file_path(file))) == SIX.content
        by_name = f"/v1/files/pypi/packages/-/-/{SIX.filename}"
        assert await content(await a.ask(by_name)) == SIX.content


async def test_a_part_of_a_file_is_given_while_it_is_the_same(tmp_path: Path) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        await fetched(a, SIX)
        etag = f'"sha256-{SIX.sha256}"'
        part = await a.ask(file_target(SIX), {"range": "bytes=100-199", "if-range": etag})
        assert part.status == 206
        assert part.header("content-range") == f"bytes 100-199/{len(SIX.content)}"
        assert part.header("repr-digest") is not None
        assert await content(part) == SIX.content[100:200]
        whole = await a.ask(file_target(SIX), {"range": "bytes=100-199", "if-range": '"other"'})
        assert whole.status == 200
        await content(whole)
        head = await a.ask(file_target(SIX), method="HEAD")
        assert (head.status, len(head.body), head.header("etag")) == (200, len(SIX.content), etag)
        await content(head)


async def test_a_file_that_is_slow_to_come_is_told_of_within_the_askers_patience(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        await a.ask(PAGE)
        a.bench.source.file_gate = trio.Event()
        for preference, held_s in (({}, 8.0), ({"prefer": "respond-async, wait=3"}, 2.0), ({"prefer": "wait=1000"}, 59.0)):
            began = trio.current_time()
            response = await a.ask(file_target(SIX), preference)
            assert response.status == 503
            assert trio.current_time() - began == pytest.approx(held_s, abs=0.5)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/v1/files/pypi/packages/nothing", 404),
        ("/v1/files/pypi/simple/six/", 404),
        ("/v1/files/pypi/packages/../x", 400),
        ("/v1/files/pypi/packages/%00", 400),
        ("/v1/files/pypi", 404),
        ("/v1//files/pypi/x", 400),
        ("/v1/blobs/sha256/xyz", 400),
        ("/v1/blobs/md5/d41d8cd98f00b204e9800998ecf8427e", 404),
        ("/v1/pages/pypi/six?view=%ff", 400),
        ("/v1/pages/pypi/six?view", 400),
        ("/v1/nothing", 404),
        ("/v1/", 404),
        ("/pypi/simple/six/", 404),
        ("/v1/changes?after=x.1", 404),
        ("/v1/enrol", 404),
    ],
)
async def test_what_is_not_there_is_not_there(tmp_path: Path, target: str, status: int) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        assert (await a.ask(target)).status == status


@pytest.mark.parametrize(
    ("target", "method"), [("/v1/ping", "POST"), (PAGE, "PUT"), ("/v1/relays/pypi", "GET"), ("/v1/files/pypi/a/b", "DELETE")]
)
async def test_a_method_that_means_nothing_there_is_refused(tmp_path: Path, target: str, method: str) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        response = await a.ask(target, method=method)
        assert response.status == 405
        assert response.header("allow") is not None


async def test_whether_upstream_still_has_a_file_can_be_asked(tmp_path: Path) -> None:
    gone = Upload("six-0.9.tar.gz", b"taken down")
    async with asked(tmp_path, PROJECTS) as a:
        target = f"/v1/existence/pypi/{gone.path}"
        assert json.loads(await content(await a.ask(target))) == {"exists": False}
        a.bench.source.still_there.add(gone.filename)
        other = Upload("six-0.8.tar.gz", b"another")
        a.bench.source.still_there.add(other.filename)
        assert json.loads(await content(await a.ask(f"/v1/existence/pypi/{other.path}"))) == {"exists": True}


# ---- blobs


async def test_bytes_are_given_by_their_digest_alone(tmp_path: Path) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        assert (await a.ask(blob_target(SIX))).status == 404
        await fetched(a, SIX)
        response = await a.ask(blob_target(SIX))
        assert response.status == 200
        assert response.header("etag") == f'"sha256-{SIX.sha256}"'
        assert await content(response) == SIX.content
        part = await a.ask(blob_target(SIX), {"range": "bytes=-4"})
        assert (part.status, await content(part)) == (206, SIX.content[-4:])


async def test_a_recalled_file_is_refused_on_every_path(tmp_path: Path) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        await fetched(a, SIX)
        recall = wire.Recall(id="1", target="x", reason="it steals", at=0.0, digests=(f"sha256-{SIX.sha256}",))
        a.bench.service.set_central(wire.Verdicts(revision=1, recalls=(recall,)))
        for target in (file_target(SIX), blob_target(SIX)):
            for headers, method in (
                ({}, "GET"),
                ({"range": "bytes=0-3"}, "GET"),
                ({}, "HEAD"),
                ({"if-none-match": f'"sha256-{SIX.sha256}"'}, "GET"),
            ):
                response = await a.ask(target, headers, method)
                assert response.status == 403, (target, headers, method)
        assert document(await a.ask(blob_target(SIX)))["reason"] == "recalled: it steals"
        facts, _ = wire.read_page(await content(await a.ask(PAGE)))
        assert "1.0" in facts.restrictions


# ---- who asks


@pytest.mark.parametrize("target", [PAGE, "/v1/ping", "/v1/changes", "/v1/anything", file_target(SIX), blob_target(SIX)])
async def test_nothing_is_told_to_whoever_is_not_known(tmp_path: Path, target: str) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        for headers in ({}, {"authorization": "Bearer unknown"}, {"authorization": "Basic known"}):
            response = await a.ask(target, headers, known=False)
            assert response.status == 401
            assert response.header("www-authenticate") == 'Bearer realm="leeward"'
        assert a.bench.source.asked == []


async def test_somebody_is_there(tmp_path: Path) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        response = await a.ask("/v1/ping")
        assert (response.status, response.body) == (204, b"")


async def test_a_request_that_was_here_before_is_sent_back(tmp_path: Path) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        response = await a.ask(PAGE, {"cdn-loop": f"leeward; id=other, leeward; id={DEPLOYMENT}"})
        assert response.status == 508


async def test_what_a_node_got_is_in_the_ledger_of_accesses_under_its_name(tmp_path: Path) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        await fetched(a, SIX)
        await content(await a.ask(blob_target(SIX)))
        await a.bench.service.accesses.flush()
        found = await a.bench.catalog.accesses()
        assert [(each.token, each.client, each.digest, each.complete, each.edge) for each in found] == [
            (NODE, "192.0.2.7", SIX.sha256, True, "")
        ] * 2
        assert 'leeward_requests_total{face="replication",kind="file",outcome="miss",registry="pypi"} 1.0' in (
            a.bench.metrics.text().decode()
        )


# ---- a sibling


async def test_a_sibling_gives_what_it_holds_and_asks_nobody(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with asked(tmp_path, PROJECTS, held_only=True) as a:
        for target in (PAGE, file_target(SIX), blob_target(SIX), f"/v1/existence/pypi/{SIX.path}"):
            assert (await a.ask(target)).status == 503, target
        assert a.bench.source.asked == []
        await a.bench.service.keep(a.bench.file(SIX))
        await a.bench.service.page(Page("pypi", "six"))
        asked_before = list(a.bench.source.asked)
        await trio.sleep(FRESH_S + 1)
        page = await a.ask(PAGE)
        assert page.status == 200 and stamp_of(page)[0] < 0
        assert await content(await a.ask(file_target(SIX))) == SIX.content
        assert await content(await a.ask(blob_target(SIX))) == SIX.content
        assert document(await a.ask(f"/v1/existence/pypi/{SIX.path}")) == {"exists": True}
        assert (await a.ask(file_target(SIX_2))).status == 503
        assert (await a.ask("/v1/ping")).status == 204
        assert a.bench.source.asked == asked_before


async def test_a_sibling_tells_of_an_absence_that_it_knows_of(tmp_path: Path) -> None:
    async with asked(tmp_path, PROJECTS, held_only=True) as a:
        with pytest.raises(LookupError):
            await a.bench.service.page(Page("pypi", "nothing"))
        response = await a.ask("/v1/pages/pypi/nothing")
        assert response.status == 404
        assert stamp_of(response)[0] == pytest.approx(30, abs=1)


async def test_a_sibling_refuses_what_its_policy_refuses(tmp_path: Path) -> None:
    async with asked(tmp_path, PROJECTS, held_only=True) as a:
        await a.bench.service.keep(a.bench.file(SIX))
        a.bench.rule("pkg:pypi/six@1.0", "it is evil")
        for target in (file_target(SIX), blob_target(SIX)):
            response = await a.ask(target)
            assert (response.status, document(response)["rule"]) == (403, "test")


@pytest.mark.parametrize("what", ["changes", "snapshot", "verdicts", "edges", "instances", "enrol", "offers"])
async def test_a_sibling_is_no_origin(tmp_path: Path, what: str) -> None:
    async with asked(tmp_path, PROJECTS, held_only=True) as a:
        for method in ("GET", "POST"):
            assert (await a.ask(f"/v1/{what}", method=method)).status == 404
        assert (await a.ask("/v1/relays/pypi", method="POST")).status == 503


async def test_a_message_that_is_none_is_refused(tmp_path: Path) -> None:
    async with asked(tmp_path, PROJECTS) as a:
        assert (await a.ask("/v1/relays/pypi", method="POST", body=b"{")).status == 400
        relaying = msgspec.json.encode(wire.Relaying("GET", "anything"))
        assert (await a.ask("/v1/relays/pypi", method="POST", body=relaying)).status == 400
        assert stamp().revision == 0
