"""A recall with fifty edges following: all of them acknowledge it, and a warm edge refuses it on every path at once."""

from __future__ import annotations

import hashlib
import http.client
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from edge.enrolment import read_identity
from origin import control
from origin.tokens import sibling_token
from tests.fakes import FakeMaven, FakeNpm, FakePyPI
from tests.faults.history import History
from tests.faults.many_followers import ManyFollowers
from tests.faults.releases import KINDS, Item, Registries, Release, Shelves
from tests.faults.workers import FILE_HEADERS, PAGE_HEADERS, file_tag
from tests.fleet import Fleet, FleetEdge, fleet
from tests.harness import Reply, ask, wait_until

FOLLOWERS = 50
RECALLS = 5


@dataclass
class Warm:
    """A fleet of two edges, and releases of all kinds, two of each project, that both edges hold."""

    fleet: Fleet
    registries: Registries
    shelves: Shelves

    @property
    def edge(self) -> FleetEdge:
        return self.fleet["a"]

    def release(self, kind: str, number: int) -> tuple[Release, Release]:
        """The first two releases of a project, asked for at ``a`` and held at both edges."""
        made = [self.shelves.release(kind, number, of, "recall") for of in (0, 1)]
        self.registries.publish(*made)
        for release in made:
            # Where pages list files, one is asked for after its page.
            assert self.get(release, release.page).status == 200
            for item in release.items:
                assert self.get(release, item.path).status == 200
        for edge in self.fleet.edges.values():
            edge.wait_level()
        return made[0], made[1]

    def get(self, release: Release, path: str, method: str = "GET", edge: str = "a", **fields: str) -> Reply:
        headers = PAGE_HEADERS[release.kind][0] if path == release.page else FILE_HEADERS[release.kind]
        more = {name.replace("_", "-"): value for name, value in fields.items()}
        return ask(self.fleet[edge].url + path, {**headers, **more}, method)

    def blob(self, item: Item, method: str = "GET", **fields: str) -> Reply:
        """What a sibling gets that asks by digest."""
        identity = read_identity(self.edge.data)
        assert identity is not None
        token = sibling_token(identity.fleet_key, "b", time.time())
        headers = {"Authorization": f"Bearer {token}", **{name.replace("_", "-"): value for name, value in fields.items()}}
        return ask(f"{self.edge.url}/v1/blobs/sha256/{item.sha256}", headers, method)


@pytest.fixture(scope="module")
def warm(scratch: Path) -> Iterator[Warm]:
    with FakePyPI.start() as pypi, FakeNpm.start() as npm, FakeMaven.start() as maven:
        registries = Registries({"pypi": pypi, "npm": npm, "maven": maven}, History())
        upstreams = {"pypi": pypi.index_url, "npm": npm.registry_url, "maven": maven.url}
        with fleet(scratch, upstreams) as made:
            made.edge("a")
            made.edge("b")
            yield Warm(made, registries, Shelves(scratch / "recall-shelves"))


def refused(reply: Reply) -> bool:
    """403, and for the reason that the operator gave; a HEAD has no body to say more than the status line."""
    return reply.status == 403 and "a worm" in reply.reason


@pytest.mark.slow
@pytest.mark.parametrize("by_digest", [False, True], ids=["by-purl", "by-digest"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_edge_refuses_what_was_recalled_on_every_path(warm: Warm, kind: str, by_digest: bool) -> None:
    bad, good = warm.release(kind, int(by_digest))
    tags = {item.path: file_tag(bad, item) for item in bad.items}
    page_tag = warm.get(bad, bad.page).headers["etag"]
    assert warm.get(bad, bad.page, If_None_Match=page_tag).status == 304
    assert all(warm.get(bad, path, If_None_Match=tag).status == 304 for path, tag in tags.items())
    assert warm.blob(bad.artifact).body == bad.artifact.content
    target = f"sha256:{bad.artifact.sha256}" if by_digest else bad.purl

    # On a connection of its own, on which the page was answered from memory a moment ago.
    with closing(http.client.HTTPConnection("127.0.0.1", warm.edge.port, timeout=20)) as connection:
        for _ in range(3):
            assert bad.version in offered(bad, hot(connection, bad))
        done = warm.fleet.origin.recall(target, "a worm")
        assert done.returncode == 0, done.stdout + done.stderr
        assert bad.version not in offered(bad, hot(connection, bad))
        assert good.version in offered(bad, hot(connection, bad))

    again = warm.get(bad, bad.page, If_None_Match=page_tag)
    assert again.status == 200, "not the page that the client has"
    for edge in ("a", "b"):
        for item in bad.items:
            assert refused(warm.get(bad, item.path, edge=edge)), item.path
            assert refused(warm.get(bad, item.path, "HEAD", edge=edge)), item.path
            assert refused(warm.get(bad, item.path, edge=edge, Range="bytes=0-9")), item.path
            assert refused(warm.get(bad, item.path, edge=edge, If_None_Match=tags[item.path])), item.path
    if kind != "npm":
        assert any(item.sidecar for item in bad.items)
    assert refused(warm.blob(bad.artifact))
    assert refused(warm.blob(bad.artifact, "HEAD"))
    assert refused(warm.blob(bad.artifact, Range="bytes=0-9"))
    for item in good.items:
        assert warm.get(good, item.path).body == item.content, "the other release is none of its business"

    # Nor after a restart with the origin gone.
    warm.fleet.origin.pause()
    warm.edge.kill()
    warm.edge.start()
    assert refused(warm.get(bad, bad.artifact.path))
    assert bad.version not in offered(bad, warm.get(bad, bad.page))
    warm.fleet.origin.resume()

    undone = warm.fleet.origin.command("recall", target, "--undo")
    assert undone.returncode == 0, undone.stdout + undone.stderr
    wait_until(lambda: bad.version in offered(bad, warm.get(bad, bad.page)), 15)
    for item in bad.items:
        assert warm.get(bad, item.path).body == item.content


def hot(connection: http.client.HTTPConnection, release: Release) -> Reply:
    """The page, on a connection that stays open."""
    connection.request("GET", release.page, headers=dict(PAGE_HEADERS[release.kind][0]))
    response = connection.getresponse()
    return Reply(response.status, response.reason, {n.lower(): v for n, v in response.getheaders()}, response.read())


def offered(release: Release, reply: Reply) -> Sequence[str]:
    """The versions on a page; of PyPI's those that are not yanked."""
    assert reply.status == 200, reply.reason
    match release.kind:
        case "pypi":
            return [file["filename"].split("-")[1] for file in reply.json()["files"] if file["yanked"] is False]
        case "npm":
            versions: dict[str, object] = reply.json()["versions"]
            assert reply.json()["dist-tags"]["latest"] in versions
            return list(versions)
        case _:
            text = reply.content.decode()
            sha1 = hashlib.sha1(reply.content, usedforsecurity=False).hexdigest()
            assert reply.headers["x-checksum-sha1"] == sha1
            return re.findall(r"<version>([^<]+)</version>", text.partition("<versions>")[2])


@pytest.mark.slow
def test_fifty_edges_that_follow_acknowledge_every_recall_and_its_end(scratch: Path) -> None:
    names = [f"edge-{number:02d}" for number in range(FOLLOWERS)]

    async def run() -> None:
        socket = made.origin.data / "origin.sock"

        async def told(command: str, **arguments: object) -> dict[str, object]:
            found = await control.call(socket, command, arguments)
            assert isinstance(found, dict)
            return found

        invitations = [str((await told("invite", name=name, valid_s=3600.0))["token"]) for name in names]
        followers = ManyFollowers(made.origin.url, invitations)
        async with trio.open_nursery() as nursery:
            await nursery.start(followers.run)
            for number in range(RECALLS):
                target = f"pkg:pypi/evil-{number}@1.0"
                for undo in (False, True):
                    began = time.monotonic()
                    done = await told("recall", target=target, reason="a worm", undo=undo, wait_s=60.0)
                    assert (done["acknowledged"], done["missing"]) == (names, []), done
                    revision = done["verdicts"]
                    assert isinstance(revision, int)
                    times = followers.in_force(revision)
                    assert len(times) == FOLLOWERS
                    print(f"{target} {undo=}: in force everywhere after {max(times) - began:.2f} s")
            nursery.cancel_scope.cancel()

    with fleet(scratch, {}) as made:
        trio.run(run)
