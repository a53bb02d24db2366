"""npm's registry goes away, in three ways: what is held still installs from empty caches, the rest fails soon and says why."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import npm_stage
from tests.fakes import FakeNpm
from tests.harness import Edge, ask, wait_until
from tests.node import NPM, PNPM, YARN1, Client
from tests.npm_stage import FULL, SHORT, each_client, page, start_mirror, tarball
from tests.stage import OUTAGES, outage
from tests.tarballs import Tarballs

npm, packed = npm_stage.npm, npm_stage.packed

HOURS_S = 3600.0

WANTED = {"big-tree": "^1.0.0", "@farm/leaf": "1"}
LEAVES = 8
TREE = {"big-tree@1.0.0", "@farm/leaf@1.0.0", *(f"leaf-{n}@1.{n}.0" for n in range(LEAVES))}

KEYS = "/npm/-/npm/v1/keys"
SEARCH = "/npm/-/v1/search?text=leaf"
ATTESTATIONS = "/npm/-/npm/v1/attestations/@farm%2fleaf@1.0.0"
BULK = "/npm/-/npm/v1/security/advisories/bulk"


@pytest.fixture(scope="module")
def warm(npm: FakeNpm, packed: Tarballs, scratch: Path) -> Iterator[Edge]:
    """An edge that holds a whole tree, in both forms of its pages, and has been asked once for all else."""
    leaves = [packed.pack(f"leaf-{n}", f"1.{n}.0", size=n * 20_000) for n in range(LEAVES)]
    tree = packed.pack("big-tree", "1.0.0", dependencies={leaf.name: f"^{leaf.version}" for leaf in leaves})
    npm.publish(packed.pack("@farm/leaf", "1.0.0"), provenance=True)
    npm.publish(tree, *leaves)
    with start_mirror(npm, scratch) as edge, tempfile.TemporaryDirectory(dir=scratch) as directory:
        installed = NPM.project(Path(directory), edge.index_url).install(WANTED)
        assert installed.installed == TREE, installed.output
        for path in (KEYS, SEARCH, ATTESTATIONS):
            assert edge.ask(path).status == 200, path
        assert edge.ask("/npm/no-such-thing").status == 404
        yield edge


@pytest.fixture(scope="module", params=OUTAGES)
def gone(npm: FakeNpm, warm: Edge, request: pytest.FixtureRequest) -> Iterator[Edge]:
    """The edge restarted with every page's life over, the registry gone in one of the ways."""
    ages = {kind: (6 + number) * HOURS_S for number, kind in enumerate(OUTAGES)}
    warm.stop()
    warm.age(ages[request.param])
    with outage(npm, request.param):
        warm.start()
        # Until its first try has ended a registry that is silent is given the time of one that is slow.
        wait_until(lambda: warm.metric("leeward_breaker_open", registry=warm.kind, kind="page") == 1, 10)
        yield warm
    warm.age(0)
    warm.restart()


@each_client
def test_everything_held_installs_from_empty_caches(gone: Edge, client: Client, scratch: Path) -> None:
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        project = client.project(Path(directory), gone.index_url)
        fresh = project.install(WANTED, timeout_s=60)
        assert fresh.installed == TREE, fresh.output
        project.empty_cache()
        locked = project.ci(timeout_s=60)
        assert locked.installed == TREE, locked.output


def test_npm_audits_what_it_installs_without_waiting(gone: Edge, scratch: Path) -> None:
    """As it is by default: an audit that fails is passed over."""
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        project = NPM.project(Path(directory), gone.index_url, settings={"audit": True})
        installed = project.install(WANTED, timeout_s=60)
        assert installed.installed == TREE, installed.output
        assert installed.seconds < 20
    audited = ask(gone.url + BULK, {"Content-Type": "application/json"}, "POST", body=b'{"leaf-1": ["1.1.0"]}')
    assert (audited.status, audited.headers["content-type"]) == (503, "application/problem+json")
    assert isinstance(audited.json()["error"], str)
    assert audited.seconds < 2.5


def test_pages_keys_and_attestations_are_stale_and_say_so(gone: Edge) -> None:
    for headers in (FULL, SHORT):
        reply = page(gone, "big-tree", headers)
        assert reply.status == 200
        assert reply.headers["cache-status"] == "leeward; hit; detail=upstream-down"
        assert "does not answer" in reply.headers["npm-notice"]
        assert reply.seconds < 2.5
    for path in (KEYS, ATTESTATIONS, "/npm/big-tree/1.0.0", "/npm/big-tree/latest", "/npm/-/package/big-tree/dist-tags"):
        reply = gone.ask(path)
        assert (reply.status, "upstream-down" in reply.headers["cache-status"]) == (200, True), path
        assert reply.seconds < 2.5, path
    assert gone.ask("/npm/-/ping").status == 200


def test_what_did_not_exist_still_does_not(gone: Edge) -> None:
    reply = gone.ask("/npm/no-such-thing", SHORT)
    assert reply.status == 404
    assert reply.seconds < 2.5


def test_what_is_not_held_fails_soon_in_json(gone: Edge) -> None:
    for path in ("/npm/never-asked", "/npm/@farm%2fnever", "/npm/never-asked/-/never-asked-1.0.0.tgz", "/npm/never-asked/latest"):
        reply = gone.ask(path, SHORT)
        assert reply.status == 503, path
        assert int(reply.headers["retry-after"]) > 0
        assert reply.headers["content-type"] == "application/problem+json"
        assert isinstance(reply.json()["error"], str)
        assert reply.json()["message"]
        assert reply.seconds < 2.5, path


def test_a_tarball_held_is_served_whole_and_in_part(gone: Edge, packed: Tarballs) -> None:
    one = packed.pack("leaf-7", "1.7.0", size=7 * 20_000)
    assert tarball(gone, one).body == one.content
    assert tarball(gone, one, Range="bytes=0-9").body == one.content[:10]
    assert json.loads(page(gone, "leaf-7").content)["versions"]["1.7.0"]["dist"]["integrity"] == one.integrity


# ---- an edge that goes on running, before a registry of its own ------------------------------------------------------


@pytest.mark.slow
def test_a_search_made_before_is_answered_again_and_clients_say_why_a_cold_installation_fails(
    packed: Tarballs, scratch: Path
) -> None:
    """npm and pnpm show what the edge says. yarn 1 asks five times, then shows the status alone: it does not read what comes with a 5xx."""
    with FakeNpm.start() as other, start_mirror(other, scratch) as edge:
        other.publish(packed.pack("leaf-0", "1.0.0"))
        found = edge.ask(SEARCH).json()
        assert [one["package"]["name"] for one in found["objects"]] == ["leaf-0"]
        with outage(other, "refusing"):
            edge.age(1 * HOURS_S)
            stale = edge.ask(SEARCH)
            assert (stale.status, stale.json()) == (200, found)
            assert stale.seconds < 2.5
            assert edge.ask("/npm/-/v1/search?text=never-asked").status == 503
            said = {}
            for client in (NPM, PNPM, YARN1):
                with tempfile.TemporaryDirectory(dir=scratch) as directory:
                    failed = client.project(Path(directory), edge.index_url, retries=0).install({"never-asked": "1"})
                    assert not failed.succeeded
                    said[client.name] = failed.flat
            assert "503" in said["npm"]
            assert "Not available now" in said["npm"]
            assert "no connection" in said["pnpm"] or "does not answer" in said["pnpm"]
            assert "503 Service Unavailable" in said["yarn1"]
