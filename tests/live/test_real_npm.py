"""Against the real npm registry: a tree of several hundred packages, scoped names among them, each time from empty client caches.

First from the registry, then from the edge alone, then with every page's life run out and the registry replaced by something dead. Left
out unless ``LEEWARD_LIVE=1``: it needs the network and the registry's good health.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from origin.settings import default_registries
from tests.harness import Edge
from tests.live.dying import DEAD, MOST, Tether, cut_ratio
from tests.node import CLIENTS, NPM, Client, Project, Result

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.environ.get("LEEWARD_LIVE") != "1", reason="talks to the real registry; set LEEWARD_LIVE=1 to run it"),
]

DEPENDENCIES = {"express": "4.21.1", "@babel/core": "7.26.0", "webpack": "5.96.1", "eslint": "9.15.0", "@types/node": "22.9.0"}

PACKAGES = 150


@pytest.fixture(scope="module")
def tether() -> Iterator[Tether]:
    with Tether() as tether:
        yield tether


@pytest.fixture(scope="module")
def live_edge(scratch: Path, tether: Tether) -> Iterator[Edge]:
    upstream = default_registries()["npm"].upstream
    top = f'[upstream]\nproxy = "http://127.0.0.1:{tether.port}"\n'
    with Edge(Path(tempfile.mkdtemp(dir=scratch)), upstream, kind="npm", top=top) as edge:
        yield edge


def project_of(edge: Edge, scratch: Path, client: Client) -> Project:
    return client.project(Path(tempfile.mkdtemp(dir=scratch)), edge.index_url)


def checked(result: Result) -> Result:
    assert result.returncode == 0, result.output
    assert len(result.installed) >= PACKAGES
    assert any(name.startswith("@types/node@22.9.0") for name in result.installed)
    return result


def install(edge: Edge, scratch: Path, client: Client) -> Result:
    project = project_of(edge, scratch, client)
    try:
        return checked(project.install(DEPENDENCIES, timeout_s=300))
    finally:
        # Tens of thousands of files each: to delete them all at the end would take minutes.
        shutil.rmtree(project.directory)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_real_tree_installs_and_the_second_time_without_the_registry(live_edge: Edge, scratch: Path, client: Client) -> None:
    first = install(live_edge, scratch, client)
    before = live_edge.upstream_requests("file")
    second = install(live_edge, scratch, client)
    assert live_edge.upstream_requests("file") == before
    print(f"{client.name}: {len(first.installed)} packages in {first.seconds:.1f} s, then in {second.seconds:.1f} s")


def test_a_lock_is_replayed_from_empty_caches(live_edge: Edge, scratch: Path) -> None:
    project = project_of(live_edge, scratch, NPM)
    checked(project.install(DEPENDENCIES, timeout_s=300))
    project.empty_cache()
    before = live_edge.upstream_requests("file")
    replayed = checked(project.ci(timeout_s=300))
    assert live_edge.upstream_requests("file") == before
    print(f"npm ci: {replayed.seconds:.1f} s")


@pytest.mark.parametrize("kind", DEAD)
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_the_same_tree_installs_as_quickly_when_the_registry_is_dead(
    live_edge: Edge, tether: Tether, scratch: Path, client: Client, kind: str
) -> None:
    ratio = cut_ratio(
        live_edge, tether, kind, lambda: install(live_edge, scratch, client).seconds, client.name, "pkg:npm/express"
    )
    assert ratio < MOST
