"""What the tests of npm behind an edge share: a fake registry and an edge for each module, and how both are asked.

A module takes the fixtures over by name: ``npm, mirror, packed = npm_stage.npm, npm_stage.mirror, npm_stage.packed``.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import FakeNpm
from tests.harness import Edge, Reply
from tests.node import CLIENTS, Client, Project
from tests.tarballs import Tarball, Tarballs

FULL = {"Accept": "application/json"}
SHORT = {"Accept": "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8, */*"}
VENDOR = "application/vnd.npm.install-v1+json"

each_client = pytest.mark.parametrize("client", CLIENTS, ids=[client.name for client in CLIENTS])


@pytest.fixture(scope="module")
def packed(scratch: Path) -> Tarballs:
    """The module's shelf of tarballs."""
    return Tarballs(scratch / "tarballs")


@pytest.fixture(scope="module")
def npm() -> Iterator[FakeNpm]:
    """The module's fake registry. What is published stays."""
    with FakeNpm.start() as fake:
        yield fake


@pytest.fixture
def well_behaved_npm(npm: FakeNpm) -> Iterator[None]:
    """Ask for this to have the fake back in order after the test."""
    yield
    npm.behave()
    npm.listen_again()


@contextlib.contextmanager
def start_mirror(npm: FakeNpm, scratch: Path, **arguments: Any) -> Iterator[Edge]:
    """An edge before the fake; arguments as ``Edge`` takes them."""
    directory = Path(tempfile.mkdtemp(dir=scratch))
    with Edge(directory, arguments.pop("upstream", npm.registry_url), kind="npm", **arguments) as edge:
        yield edge
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def mirror(npm: FakeNpm, scratch: Path) -> Iterator[Edge]:
    """The module's edge before the fake. It has asked by then what it asks by itself, so what is counted are the tests' own requests."""
    with start_mirror(npm, scratch) as edge:
        edge.wait_learnt()
        yield edge


@pytest.fixture
def client_project(client: Client, mirror: Edge, scratch: Path) -> Iterator[Project]:
    """A project of the client under test, at the module's edge."""
    with tempfile.TemporaryDirectory(prefix="client-", dir=scratch) as directory:
        yield client.project(Path(directory), mirror.index_url)


def page(edge: Edge, name: str, headers: Mapping[str, str] = SHORT, **more: str) -> Reply:
    """A packument; further header names are spelt with underscores."""
    return edge.ask(f"/npm/{escaped(name)}", {**headers, **{field.replace("_", "-"): value for field, value in more.items()}})


def tarball(edge: Edge, one: Tarball, **headers: str) -> Reply:
    """A tarball's GET; header names are spelt with underscores."""
    return edge.ask(f"/npm/{one.target}", {field.replace("_", "-"): value for field, value in headers.items()})


def escaped(name: str) -> str:
    """A name as clients spell it in a packument's address."""
    return name.replace("/", "%2f")


def holds(edge: Edge, one: Tarball) -> bool:
    return any(path.name == one.sha256 for path in edge.blobs())
