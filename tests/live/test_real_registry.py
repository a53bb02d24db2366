"""Against the real registry: a tree of at least twenty wheels and one source distribution, each time from empty client caches.

First from the registry, then from the edge alone, then with every page's life run out and the registry replaced by something dead. Left
out unless ``LEEWARD_LIVE=1``: it needs the network and the registry's good health.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from origin.settings import default_registries
from tests.harness import CLIENTS, Client, Edge, Result, Workspace
from tests.live.dying import DEAD, MOST, outage_ratio

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.environ.get("LEEWARD_LIVE") != "1", reason="talks to the real registry; set LEEWARD_LIVE=1 to run it"),
]

REQUIREMENTS = ["sphinx==8.1.3", "requests==2.32.3", "trio==0.27.0", "docopt==0.6.2"]
"""Some twenty-five wheels, and docopt, of which there is only a source distribution."""

WHEELS = 20


@pytest.fixture(scope="module")
def live_edge(scratch: Path) -> Iterator[Edge]:
    upstream = default_registries()["pypi"].upstream
    with Edge(Path(tempfile.mkdtemp(dir=scratch)), upstream) as edge:
        yield edge


def install(edge: Edge, scratch: Path, client: Client) -> Result:
    workspace = Workspace(Path(tempfile.mkdtemp(dir=scratch)))
    result = client.install(workspace, edge.index_url, REQUIREMENTS, timeout_s=300)
    assert result.succeeded, result.output
    assert len(result.installed) > WHEELS
    assert result.installed["docopt"] == "0.6.2"
    return result


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_real_tree_installs_and_the_second_time_without_the_registry(live_edge: Edge, scratch: Path, client: Client) -> None:
    first = install(live_edge, scratch, client)
    before = live_edge.upstream_requests("file")
    second = install(live_edge, scratch, client)
    assert live_edge.upstream_requests("file") == before
    print(f"{client.name}: {len(first.installed)} projects in {first.seconds:.1f} s, then in {second.seconds:.1f} s")


@pytest.mark.parametrize("kind", DEAD)
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_the_same_tree_installs_as_quickly_when_the_registry_is_dead(
    live_edge: Edge, scratch: Path, client: Client, kind: str
) -> None:
    ratio = outage_ratio(live_edge, kind, lambda: install(live_edge, scratch, client).seconds, client.name)
    assert ratio < MOST
