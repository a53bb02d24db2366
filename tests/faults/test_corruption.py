"""One flipped bit: nobody completes, nothing is stored, and the held tail is not to be had afterwards either."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial

import pytest

from tests.fakes import FakePyPI
from tests.harness import PIP, UV, Client, Edge, Reply, Workspace, wait_until
from tests.wheels import KB, MB, Distribution, Shelf

HELD_WHOLE = 256 * 1024
"""Of a wheel up to this size no byte leaves before its digest matches."""


@dataclass(frozen=True)
class Kind:
    """What is spoilt: a file of some size, or a wheel's sidecar."""

    name: str
    size: int
    sdist: bool = False
    suffix: str = ""

    def build(self, shelf: Shelf, project: str) -> Distribution:
        return shelf.sdist(project, "1.0", size=self.size) if self.sdist else shelf.wheel(project, "1.0", size=self.size)

    @property
    def strict(self) -> bool:
        return self.sdist or bool(self.suffix) or self.size <= HELD_WHOLE


KINDS = [
    Kind("a wheel of 100 KB", 100 * KB),
    Kind("a wheel of 40 MB", 40 * MB),
    Kind("an sdist of 100 KB", 100 * KB, sdist=True),
    Kind("an sdist of 3 MB", 3 * MB, sdist=True),
    Kind("the metadata of a wheel", 100 * KB, suffix=".metadata"),
]


@pytest.fixture(autouse=True)
def well_behaved_again(well_behaved: None) -> None:
    """After each test."""


@pytest.fixture(scope="module")
def recovering() -> list[tuple[Distribution, str]]:
    """What the tests of this module spoilt. Errors are remembered for some seconds: one wait for all of it, at the end."""
    return []


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_flipped_bit_reaches_nobody_and_is_not_stored(
    fake: FakePyPI, edge: Edge, shelf: Shelf, project: str, kind: Kind, where: str, recovering: list[tuple[Distribution, str]]
) -> None:
    one = kind.build(shelf, project)
    fake.publish(one)
    size = len(one.metadata) if kind.suffix else one.size
    at = {"first": 0, "middle": size // 2, "last": size - 1}[where]
    assert edge.page(project).status == 200
    held, stray = edge.blobs(), edge.stray_files()
    number = fake.misbehave(f"*/{one.filename}{kind.suffix}", flip=at)

    reply = edge.file(one, kind.suffix)
    if kind.strict:
        assert reply.status == 502, reply.reason
        assert reply.headers["content-type"] == "application/problem+json"
    else:
        assert (reply.status, reply.short) == (200, True)
        assert len(reply.body) <= one.size - HELD_WHOLE
    for headers in tails(one, len(reply.body)):
        again = edge.ask(edge.file_path(one) + kind.suffix, headers)
        assert again.status in {502, 503} or incomplete(again), (headers, again.status, again.reason)
    assert edge.blobs() == held
    assert edge.stray_files() == stray
    assert edge.metric("leeward_events_total") > 0, "somebody is told"

    fake.behave(number)
    recovering.append((one, kind.suffix))


def tails(one: Distribution, received: int) -> list[dict[str, str]]:
    """How a client could ask for what was held back: resuming with the validator it was given, without one, or for the end alone."""
    tag = f'"sha256-{one.sha256}"'
    return [
        {"Range": f"bytes={received}-", "If-Range": tag},
        {"Range": f"bytes={received}-"},
        {"Range": "bytes=-1000"},
        {"Range": "bytes=-1000", "If-Range": tag},
    ]


def incomplete(reply: Reply) -> bool:
    return reply.short and reply.status in {200, 206}


@pytest.mark.parametrize("size", [100 * KB, 5 * MB])
@pytest.mark.parametrize("client", [PIP, UV], ids=lambda client: client.name)
def test_no_client_completes(
    fake: FakePyPI, edge: Edge, shelf: Shelf, project: str, workspace: Workspace, client: Client, size: int
) -> None:
    wheel = shelf.wheel(project, "1.0", size=size)
    fake.publish(wheel)
    fake.misbehave(f"*/{wheel.filename}", flip=wheel.size // 2)
    options = ["--retries", "1", "--resume-retries", "2"] if client is PIP else []
    result = client.install(workspace, edge.index_url, [project], options=options)
    assert not result.succeeded
    assert result.installed == {}
    assert not edge.holds(wheel)
    fake.behave()
    wait_until(lambda: edge.file(wheel).status == 200, 15)
    workspace.empty_cache()
    assert client.install(workspace, edge.index_url, [project]).installed == {project: "1.0"}


def test_a_page_whose_digest_is_wrong_lets_nothing_through(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str) -> None:
    """Page and path disagree about the bytes: the path's digest is right, the page's is another file's."""
    wheel, other = shelf.wheel(project, "1.0"), shelf.wheel(project, "1.0", seed="other")
    fake.publish(wheel)
    page = fake.page_json(project)
    page["files"][0]["hashes"]["sha256"] = other.sha256
    fake.misbehave(f"/simple/{project}/", replace=json.dumps(page))
    assert edge.file(wheel).status == 502
    assert not edge.holds(wheel)


def test_every_spoilt_file_is_right_once_upstream_is(edge: Edge, recovering: list[tuple[Distribution, str]]) -> None:
    for one, suffix in recovering:
        wait_until(partial(answers, edge, one, suffix), 15)
        assert edge.file(one, suffix).body == (one.metadata if suffix else one.content)


def answers(edge: Edge, one: Distribution, suffix: str) -> bool:
    return edge.file(one, suffix).status == 200
