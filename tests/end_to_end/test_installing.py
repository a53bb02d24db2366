"""Real clients install through an edge, whatever kind of index stands behind it, and lock what they would lock without it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes import FakePyPI
from tests.harness import CLIENTS, PIP, UV, Client, Edge, Workspace
from tests.wheels import KB, Distribution, Shelf

MODES: dict[str, dict[str, bool | str]] = {
    "json": {},
    "html only": {"html_only": True},
    "without validators and metadata": {"plain": True},
    "relative links": {"plain": True, "html_only": True, "layout": "relative"},
}

TREE = {"orchard": "2.0", "apple-tree": "1.5", "pear-tree": "1.0", "soil": "3.1", "rain-water": "0.2"}


# Poetry and pdm take seconds: what differs between kinds of index is seen with two kinds as well.
CASES = [(mode, client) for mode in MODES for client in CLIENTS if mode in {"json", "html only"} or client in {PIP, UV}]

each_client_and_index = pytest.mark.parametrize(
    ("scene", "client"), CASES, indirect=["scene"], ids=[f"{client.name}, {mode}" for mode, client in CASES]
)


@dataclass(frozen=True)
class Scene:
    fake: FakePyPI
    edge: Edge
    published: tuple[Distribution, ...]


def publish_orchard(fake: FakePyPI, shelf: Shelf) -> tuple[Distribution, ...]:
    """A tree of wheels over two source distributions; what ``TREE`` says is what it resolves to."""
    published = (
        shelf.wheel("orchard", "1.0"),
        shelf.wheel("orchard", "2.0", requires=["apple-tree>=1,<2", "pear-tree"], requires_python=">=3.8"),
        shelf.wheel("apple-tree", "1.5", requires=["soil>=3"], size=300 * KB),
        shelf.wheel("apple-tree", "2.0", requires=["soil>=3"]),
        shelf.sdist("pear-tree", "1.0", requires=["soil", "rain-water"]),
        shelf.wheel("soil", "3.1"),
        shelf.wheel("soil", "4.0", requires_python=">=3.99"),
        shelf.wheel("soil", "3.0"),
        shelf.sdist("soil", "3.1"),
        shelf.wheel("rain-water", "0.2"),
    )
    fake.publish(*published)
    return published


@pytest.fixture(scope="module")
def scene(request: pytest.FixtureRequest, shelf: Shelf, scratch: Path) -> Iterator[Scene]:
    with FakePyPI.start() as fake:
        fake.mode(**MODES[request.param])
        published = publish_orchard(fake, shelf)
        with Edge(Path(tempfile.mkdtemp(dir=scratch)), fake.index_url) as edge:
            yield Scene(fake, edge, published)


@each_client_and_index
def test_a_tree_installs_and_no_file_is_fetched_twice(scene: Scene, workspace: Workspace, client: Client) -> None:
    result = client.install(workspace, scene.edge.index_url, ["orchard"])
    assert result.succeeded, result.output
    assert result.installed == TREE
    fetched = [seen.path for seen in scene.fake.seen() if seen.kind in {"file", "metadata"} and seen.method == "GET"]
    assert sorted(fetched) == sorted(set(fetched))


@each_client_and_index
def test_locked_hashes_are_those_upstream_gives(scene: Scene, workspace: Workspace, scratch: Path, client: Client) -> None:
    direct = Workspace(Path(tempfile.mkdtemp(dir=scratch)))
    assert client.lock(direct, scene.fake.index_url, ["orchard"]).succeeded
    result = client.lock(workspace, scene.edge.index_url, ["orchard"])
    assert result.succeeded, result.output
    assert locked_hashes(workspace) == locked_hashes(direct) != set()


@pytest.mark.parametrize(
    ("scene", "client"), [("json", PIP), ("json", UV), ("html only", PIP), ("html only", UV)], indirect=["scene"]
)
def test_pinned_hashes_install(scene: Scene, workspace: Workspace, client: Client) -> None:
    chosen = [one for one in scene.published if TREE[one.project] == one.version]
    result = client.install(workspace, scene.edge.index_url, [], hashes=chosen)
    assert result.succeeded, result.output
    assert result.installed == TREE


def locked_hashes(workspace: Workspace) -> set[tuple[str, ...]]:
    """Every file's digest in the lock file; not the digest of the project's own settings, which name the index."""
    (lock,) = [path for path in workspace.project.iterdir() if path.name.endswith((".lock", "lock.toml"))]
    lines = [line for line in lock.read_text().splitlines() if not re.match(r"content.hash", line)]
    return set(re.findall(r"sha256\W{1,5}([0-9a-f]{64})", "\n".join(lines)))


def test_lazy_wheel_metadata_by_ranges_works_cold_and_warm(
    fake: FakePyPI, edge: Edge, shelf: Shelf, workspace: Workspace, project: str
) -> None:
    big = shelf.wheel(project, "1.0", size=2000 * KB, requires=[f"{project}-leaf"])
    fake.publish(big, shelf.wheel(f"{project}-leaf", "1.0"), core_metadata=False)
    for _ in ("cold", "warm"):
        workspace.empty_cache()
        result = PIP.install(workspace, edge.index_url, [project], options=["--use-feature=fast-deps"])
        assert result.succeeded, result.output
        assert result.installed == {project: "1.0", f"{project}-leaf": "1.0"}
        assert "does not support range" not in result.output
    assert fake.count(kind="file", path=f"*/{big.filename}") == 1


def test_uv_reads_metadata_by_ranges_where_none_is_advertised(
    fake: FakePyPI, edge: Edge, shelf: Shelf, workspace: Workspace, project: str
) -> None:
    big = shelf.wheel(project, "1.0", size=2000 * KB, requires=[f"{project}-leaf"])
    fake.publish(big, shelf.wheel(f"{project}-leaf", "1.0"), core_metadata=False)
    for _ in ("cold", "warm"):
        workspace.empty_cache()
        result = UV.install(workspace, edge.index_url, [project])
        assert result.succeeded, result.output
        assert result.installed == {project: "1.0", f"{project}-leaf": "1.0"}
        assert "range" not in result.output.lower()
    assert fake.count(kind="file", path=f"*/{big.filename}") == 1


def test_pip_waits_for_a_file_that_is_still_arriving(
    fake: FakePyPI, edge: Edge, shelf: Shelf, workspace: Workspace, project: str
) -> None:
    sdist = shelf.sdist(project, "1.0", size=100 * KB)
    fake.publish(sdist)
    # Longer than the edge holds a request (8 s): the client is told to come back, and does.
    fake.misbehave(f"*/{sdist.filename}", bytes_per_s=sdist.size / 10)
    result = PIP.install(workspace, edge.index_url, [project])
    fake.behave()
    assert result.succeeded, result.output
    assert result.seconds > 8
    assert fake.count(kind="file", path=f"*/{sdist.filename}") == 1
