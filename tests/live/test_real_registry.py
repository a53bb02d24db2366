"""Against the real registry: a tree of at least twenty wheels and one source distribution, each time from empty client caches.

First from the registry, then from the edge alone, then with every page's life run out and the registry replaced by something dead. Left
out unless ``LEEWARD_LIVE=1``: it needs the network and the registry's good health.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from origin.settings import default_registries
from tests.harness import CLIENTS, Client, Edge, Result, Workspace, free_port, swallowing

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.environ.get("LEEWARD_LIVE") != "1", reason="talks to the real registry; set LEEWARD_LIVE=1 to run it"),
]

REQUIREMENTS = ["sphinx==8.1.3", "requests==2.32.3", "trio==0.27.0", "docopt==0.6.2"]
"""Some twenty-five wheels, and docopt, of which there is only a source distribution."""

WHEELS = 20

HOURS_S = 6 * 3600.0

DEAD = ["refusing", "swallowing", "silent"]

ROUNDS = 3
"""Times are compared by the best of so many pairs: what waits for a registry does so in each of them."""


@contextlib.contextmanager
def dead_upstream(kind: str) -> Iterator[str]:
    """An upstream that refuses connections, swallows packets, or accepts and never answers; its root URL."""
    with contextlib.ExitStack() as stack:
        port = free_port()
        if kind == "silent":
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", port))
            listener.listen(1000)
        elif kind == "swallowing":
            stack.enter_context(swallowing("127.0.0.1", port))
        yield f"http://127.0.0.1:{port}/simple/"


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
    real = live_edge.upstream
    install(live_edge, scratch, client)
    ratios = []
    try:
        for attempt in range(ROUNDS):
            healthy = install(live_edge, scratch, client)
            live_edge.stop()
            live_edge.age((attempt + 1) * HOURS_S)
            with dead_upstream(kind) as upstream:
                live_edge.upstream = upstream
                live_edge.set_rules()
                live_edge.start()
                outage = install(live_edge, scratch, client)
                live_edge.stop()
            live_edge.age(0)
            live_edge.upstream = real
            live_edge.set_rules()
            live_edge.start()
            ratios.append(outage.seconds / healthy.seconds)
            print(f"{client.name}, {kind}: {outage.seconds:.1f} s, healthy and warm {healthy.seconds:.1f} s")
            if ratios[-1] < 1.2:
                break
    finally:
        live_edge.stop()
        live_edge.age(0)
        live_edge.upstream = real
        live_edge.set_rules()
        live_edge.start()
    assert min(ratios) < 1.2
