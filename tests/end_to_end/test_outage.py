"""The registry goes away, in three ways: what is held still installs, at the usual speed, and what is not fails soon and clearly."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes import FakePyPI
from tests.harness import CLIENTS, PIP, UV, Client, Edge, Reply, Workspace, wait_until
from tests.stage import OUTAGES, StartEdge, outage
from tests.wheels import KB, Shelf

LEAVES = 19
"""With the root and a source distribution, the tree is of twenty wheels and one sdist."""

HOURS_S = 3600.0


@dataclass(frozen=True)
class Orchard:
    """An edge that holds a whole tree, and what it installs."""

    edge: Edge
    expected: dict[str, str]


@pytest.fixture(scope="module")
def orchard(fake: FakePyPI, shelf: Shelf, scratch: Path) -> Iterator[Orchard]:
    leaves = [shelf.wheel(f"leaf-{n}", f"1.{n}", size=n * 20 * KB) for n in range(LEAVES)]
    sdist = shelf.sdist("root-stock", "1.0")
    root = shelf.wheel("big-tree", "1.0", requires=["root-stock", *(leaf.project for leaf in leaves)])
    fake.publish(root, sdist, *leaves)
    expected = {one.project: one.version for one in (root, sdist, *leaves)}
    with Edge(Path(tempfile.mkdtemp(dir=scratch)), fake.index_url) as edge:
        result = PIP.install(Workspace(Path(tempfile.mkdtemp(dir=scratch))), edge.index_url, ["big-tree"])
        assert result.installed == expected, result.output
        yield Orchard(edge, expected)


@pytest.fixture(autouse=True)
def recovered(fake: FakePyPI) -> Iterator[None]:
    yield
    fake.behave()
    fake.listen_again()
    fake.mode(ahead_s=0)


@pytest.mark.parametrize("client", [PIP, UV], ids=lambda client: client.name)
def test_a_second_installation_asks_upstream_for_no_file(
    fake: FakePyPI, orchard: Orchard, workspace: Workspace, client: Client
) -> None:
    before = orchard.edge.upstream_requests("file")
    seen = fake.count(kind="file") + fake.count(kind="metadata")
    result = client.install(workspace, orchard.edge.index_url, ["big-tree"])
    assert result.installed == orchard.expected, result.output
    assert orchard.edge.upstream_requests("file") == before
    assert fake.count(kind="file") + fake.count(kind="metadata") == seen


@pytest.mark.alone
@pytest.mark.parametrize(
    ("client", "kind"),
    [(client, kind) for client in CLIENTS for kind in OUTAGES if client in {PIP, UV} or kind == "silent"],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_everything_held_installs_at_the_usual_speed_when_the_registry_is_gone(
    fake: FakePyPI, orchard: Orchard, workspace: Workspace, client: Client, kind: str
) -> None:
    edge = orchard.edge

    def install_s() -> float:
        workspace.empty_cache()
        result = client.install(workspace, edge.index_url, ["big-tree"])
        assert result.succeeded, result.output
        assert result.installed == orchard.expected
        return result.seconds

    healthy_s = outage_s = 0.0
    # Several pairs, because a busy machine slows one or the other; what waits for a registry does so each time.
    for attempt in range(3):
        edge.age(0)
        edge.restart()
        healthy_s = install_s()
        edge.stop()
        edge.age((6 + attempt) * HOURS_S)
        with outage(fake, kind):
            edge.start()
            outage_s = install_s()
        print(
            f"{client.name}, upstream {kind}: {outage_s:.2f} s, healthy and warm {healthy_s:.2f} s ({outage_s / healthy_s:.2f})"
        )
        if outage_s < 1.2 * healthy_s:
            break
    edge.age(0)
    assert outage_s < 1.5 * healthy_s + 1


@pytest.mark.parametrize("kind", OUTAGES)
def test_a_held_page_is_served_stale_and_marked(fake: FakePyPI, orchard: Orchard, kind: str) -> None:
    edge = orchard.edge
    edge.stop()
    edge.age(6 * HOURS_S)
    with outage(fake, kind):
        edge.start()
        reply = edge.page("big-tree")
        assert reply.status == 200
        assert reply.seconds < 1.5
        wait_until(lambda: "detail=upstream-down" in edge.page("big-tree").headers["cache-status"], 15)
    edge.age(0)


@pytest.mark.parametrize(("kind", "first_s", "later_s"), [("refusing", 2, 2), ("swallowing", 2.5, 2), ("silent", 10.5, 2)])
def test_a_cold_miss_fails_soon_and_asks_to_come_back(
    fake: FakePyPI, start_edge: StartEdge, project: str, kind: str, first_s: float, later_s: float
) -> None:
    with outage(fake, kind):
        edge = start_edge()
        for attempt, limit_s in enumerate((first_s, *[later_s] * 3)):
            reply = edge.page(f"{project}-{attempt}")
            print(f"upstream {kind}, cold miss {attempt}: {reply.status} after {reply.seconds:.2f} s")
            assert reply.status == 503, reply.reason
            assert int(reply.headers["retry-after"]) >= 1
            assert reply.seconds < limit_s
            if kind == "silent" and attempt == 0:
                # Three consecutive failures open the breaker; the rest of them at once.
                threads = [threading.Thread(target=edge.page, args=(f"{project}-more-{n}",)) for n in range(3)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()


@pytest.mark.parametrize("kind", OUTAGES)
def test_a_cold_file_of_a_held_page_is_503_never_404(
    fake: FakePyPI, start_edge: StartEdge, shelf: Shelf, project: str, kind: str
) -> None:
    edge = start_edge()
    wheel = shelf.wheel(project, "1.0")
    fake.publish(wheel)
    assert edge.page(project).status == 200
    with outage(fake, kind):
        reply = edge.file(wheel)
        assert reply.status == 503, reply.reason
        assert "retry-after" in reply.headers
        assert reply.seconds < 11
    wait_until(lambda: edge.file(wheel).status == 200, 40)


def test_pages_are_fresh_again_after_the_outage(fake: FakePyPI, start_edge: StartEdge, shelf: Shelf, project: str) -> None:
    edge = start_edge()
    fake.publish(shelf.wheel(project, "1.0"))
    assert edge.page(project).status == 200
    edge.age(HOURS_S)
    with outage(fake, "refusing"):
        for _ in range(5):
            assert edge.page(project).json()["versions"] == ["1.0"]
    fake.publish(shelf.wheel(project, "2.0"))
    seconds = wait_until(lambda: edge.page(project).json()["versions"] == ["1.0", "2.0"], 40)
    print(f"back in step {seconds:.1f} s after the outage")


def test_a_held_404_stays_a_404_and_an_outage_makes_none(fake: FakePyPI, start_edge: StartEdge, project: str) -> None:
    edge = start_edge()
    assert edge.page(project).status == 404
    edge.age(HOURS_S)
    with outage(fake, "refusing"):
        assert edge.page(project).status == 404
        assert edge.page(f"{project}-other").status == 503


def test_a_slow_registry_costs_a_second_and_no_more(fake: FakePyPI, start_edge: StartEdge, shelf: Shelf, project: str) -> None:
    edge = start_edge()
    fake.publish(shelf.wheel(project, "1.0"))
    assert edge.page(project).status == 200
    fake.publish(shelf.wheel(project, "2.0"))
    edge.age(HOURS_S)
    fake.misbehave(f"/simple/{project}/", delay_s=4)
    reply = edge.page(project)
    assert reply.json()["versions"] == ["1.0"]
    assert reply.seconds < 1.5
    assert "detail=upstream-slow" in reply.headers["cache-status"]
    wait_until(lambda: edge.page(project).json()["versions"] == ["1.0", "2.0"], 10)


@pytest.mark.parametrize("status", [403, 429, 500, 502, 503])
def test_an_upstream_error_is_hidden_where_something_is_held(
    fake: FakePyPI, edge: Edge, shelf: Shelf, project: str, status: int
) -> None:
    fake.publish(shelf.wheel(project, "1.0"))
    assert edge.page(project).status == 200
    number = fake.misbehave(f"*{project}*", status=status)
    edge.age(HOURS_S)
    reply = edge.page(project)
    assert (reply.status, reply.json()["versions"]) == (200, ["1.0"])
    cold = edge.page(f"{project}-cold")
    assert cold.status == 503
    assert "retry-after" in cold.headers
    fake.behave(number)
    edge.age(0)


def test_retry_after_is_honoured_towards_upstream(fake: FakePyPI, start_edge: StartEdge, shelf: Shelf, project: str) -> None:
    edge = start_edge()
    fake.publish(shelf.wheel(project, "1.0"))
    fake.misbehave(f"/simple/{project}/", status=429, retry_after="30")
    began = time.monotonic()
    replies: list[Reply] = [edge.page(project) for _ in range(10)]
    assert {reply.status for reply in replies} == {503}
    assert time.monotonic() - began < 15
    assert fake.count(path=f"/simple/{project}/") <= 3
