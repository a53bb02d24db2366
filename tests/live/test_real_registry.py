"""Against the real registry: a tree of at least twenty wheels and one source distribution, twice, each time from empty client caches.

Left out unless ``LEEWARD_LIVE=1``: it needs the network and the registry's good health.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from origin.settings import default_registries
from tests.harness import CLIENTS, Client, Edge, Workspace

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


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_real_tree_installs_and_the_second_time_without_the_registry(live_edge: Edge, scratch: Path, client: Client) -> None:
    seconds = []
    before = 0.0
    for attempt in ("first", "second"):
        workspace = Workspace(Path(tempfile.mkdtemp(dir=scratch)))
        before = live_edge.upstream_requests("file")
        result = client.install(workspace, live_edge.index_url, REQUIREMENTS, timeout_s=300)
        assert result.succeeded, result.output
        assert len(result.installed) > WHEELS
        assert result.installed["docopt"] == "0.6.2"
        seconds.append(result.seconds)
        print(f"{client.name}, {attempt} time: {len(result.installed)} projects in {result.seconds:.1f} s")
    assert live_edge.upstream_requests("file") == before
