"""Many clients and changing packages: one fetch for all of them, small or of 50 MB, and what leaves the registry leaves the edge."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import npm_stage
from tests.fakes import FakeNpm
from tests.harness import Edge, Reply, wait_until
from tests.node import NPM
from tests.npm_stage import FULL, SHORT, holds, page, start_mirror, tarball
from tests.tarballs import Tarballs
from tests.wheels import MB

npm, mirror, packed = npm_stage.npm, npm_stage.mirror, npm_stage.packed

CLIENTS = 100

CONFIRM_S = 60.0
"""After how long a second look at a removal counts."""


@pytest.fixture(autouse=True)
def well_behaved_again(npm: FakeNpm, mirror: Edge) -> Iterator[None]:
    yield
    npm.behave()
    npm.mode(ahead_s=0)
    mirror.age(0)


def at_once(asks: Sequence[Callable[[], Reply]], meanwhile: Callable[[], None] = lambda: None) -> list[Reply]:
    """All of these requests on connections of their own, begun together."""
    together = threading.Barrier(len(asks) + 1)

    def begin(ask: Callable[[], Reply]) -> Reply:
        together.wait(30)
        return ask()

    with ThreadPoolExecutor(len(asks)) as threads:
        running = [threads.submit(begin, ask) for ask in asks]
        together.wait(30)
        meanwhile()
        return [one.result(120) for one in running]


def test_many_clients_of_a_packument_cost_one_fetch(mirror: Edge, npm: FakeNpm, packed: Tarballs, project: str) -> None:
    """In both forms, and by its views: all are one page."""
    npm.publish(packed.pack(project, "1.0.0"))
    npm.forget()
    gate = npm.misbehave(f"/{project}", gate=0)
    asks = [
        lambda: page(mirror, project, FULL),
        lambda: page(mirror, project, SHORT),
        lambda: mirror.ask(f"/npm/{project}/latest"),
        lambda: mirror.ask(f"/npm/-/package/{project}/dist-tags"),
    ] * (CLIENTS // 4)

    def open_the_gate() -> None:
        npm.wait_at_gate(gate)
        npm.behave(gate)

    replies = at_once(asks, open_the_gate)
    assert {reply.status for reply in replies} == {200}
    assert len({reply.body for reply in replies}) == 4
    assert npm.count(kind="packument") == 1


def test_many_clients_of_a_tarball_never_seen_cost_one_page_and_one_fetch(
    mirror: Edge, npm: FakeNpm, packed: Tarballs, project: str
) -> None:
    one = packed.pack(project, "1.0.0", size=2 * MB)
    npm.publish(one)
    npm.forget()
    gate = npm.misbehave(f"*/{one.filename}", gate=1 * MB)

    def open_the_gate() -> None:
        npm.wait_at_gate(gate)
        npm.behave(gate)

    replies = at_once([lambda: tarball(mirror, one)] * CLIENTS, open_the_gate)
    assert all(reply.body == one.content for reply in replies)
    assert [npm.count(kind=kind) for kind in ("packument", "tarball")] == [1, 1]


@pytest.mark.alone
@pytest.mark.slow
def test_a_packument_of_50_mb_for_a_hundred_clients_is_fetched_once_and_stays_bounded_in_memory(
    npm: FakeNpm, packed: Tarballs, scratch: Path, project: str
) -> None:
    small = packed.pack(f"{project}-small", "1.0.0")
    npm.publish(small)
    npm.publish_many(project, 10_000, 5_000)
    with start_mirror(npm, scratch) as edge:
        assert page(edge, small.name).status == 200
        before = edge.rss_bytes()
        npm.forget()
        peak, others = 0, list[float]()
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.05):
                peak = max(peak, edge.rss_bytes())
                others.append(page(edge, small.name).seconds)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            replies = at_once([lambda: edge.ask(f"/npm/{project}", SHORT | {"Accept-Encoding": "gzip"}, timeout_s=110)] * CLIENTS)
        finally:
            done.set()
            watcher.join()
        assert {(reply.status, reply.headers["etag"]) for reply in replies} == {(200, replies[0].headers["etag"])}
        assert len(replies[0].json()["versions"]) == 10_000
        assert npm.count(kind="packument", path=f"/{project}") == 1
        slow = sorted(others)
        print(
            f"memory rose by {(peak - before) / MB:.0f} MB at most; another page meanwhile: "
            f"median {slow[len(slow) // 2]:.3f} s, slowest {slow[-1]:.3f} s; the page after {max(r.seconds for r in replies):.1f} s"
        )
        assert peak - before < 600 * MB
        assert slow[len(slow) // 2] < 0.25
        assert slow[-1] < 3


# ---- what changes upstream -------------------------------------------------------------------------------------------


def refresh(edge: Edge, name: str) -> None:
    done = edge.command("refresh", f"pkg:npm/{name}")
    assert done.returncode == 0, done.stdout + done.stderr


def versions(edge: Edge, name: str) -> list[str]:
    return list(page(edge, name).json()["versions"])


@pytest.mark.parametrize("removed", ["refuse", "serve"])
def test_an_unpublished_version_leaves_after_a_second_look(
    npm: FakeNpm, packed: Tarballs, scratch: Path, project: str, removed: str
) -> None:
    kept, gone = packed.pack(project, "1.0.0"), packed.pack(project, "2.0.0")
    npm.publish(kept, gone)
    with start_mirror(npm, scratch, registry={"removed": removed}) as edge:
        assert tarball(edge, gone).status == 200
        npm.unpublish(project, "2.0.0")
        refresh(edge, project)
        assert versions(edge, project) == ["1.0.0", "2.0.0"], "one look could have hit a stale node of upstream's"
        assert page(edge, project).json()["dist-tags"]["latest"] in {"1.0.0", "2.0.0"}
        assert tarball(edge, gone).status == 200
        edge.age(CONFIRM_S + 5)
        npm.mode(ahead_s=CONFIRM_S + 5)
        refresh(edge, project)
        assert versions(edge, project) == ["1.0.0"]
        assert page(edge, project).json()["dist-tags"] == {"latest": "1.0.0"}
        assert "2.0.0" not in page(edge, project, FULL).json()["versions"]
        assert edge.ask(f"/npm/{project}/2.0.0").status in {403, 404}
        assert tarball(edge, gone).status == (403 if removed == "refuse" else 200)
        wait_until(lambda: holds(edge, gone))
        assert tarball(edge, kept).status == 200
        assert edge.metric("leeward_events_total") >= 1


def test_an_unpublished_package_is_404_after_a_second_look(npm: FakeNpm, packed: Tarballs, scratch: Path, project: str) -> None:
    one = packed.pack(project, "1.0.0")
    npm.publish(one)
    with start_mirror(npm, scratch) as edge:
        assert tarball(edge, one).status == 200
        npm.unpublish(project)
        refresh(edge, project)
        assert versions(edge, project) == ["1.0.0"]
        edge.age(CONFIRM_S + 5)
        npm.mode(ahead_s=CONFIRM_S + 5)
        refresh(edge, project)
        assert page(edge, project).status == 404
        assert tarball(edge, one).status == 403
        installed = NPM.project(scratch / project, edge.index_url).install({project: "1"})
        assert not installed.succeeded
        assert "404" in installed.output


def test_a_version_that_comes_back_in_between_was_never_gone(npm: FakeNpm, packed: Tarballs, scratch: Path, project: str) -> None:
    one = packed.pack(project, "2.0.0")
    npm.publish(packed.pack(project, "1.0.0"), one)
    with start_mirror(npm, scratch) as edge:
        assert tarball(edge, one).status == 200
        npm.unpublish(project, "2.0.0")
        refresh(edge, project)
        npm.publish(one)
        edge.age(CONFIRM_S + 5)
        npm.mode(ahead_s=CONFIRM_S + 5)
        refresh(edge, project)
        assert sorted(versions(edge, project)) == ["1.0.0", "2.0.0"]
        assert tarball(edge, one).status == 200
