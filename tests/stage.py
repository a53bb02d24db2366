"""What the tests with real processes share: a shelf of wheels, a fake registry for each module, an edge before it."""

from __future__ import annotations

import contextlib
import hashlib
import resource
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import Fake, FakePyPI
from tests.fleet import Fleet
from tests.harness import Edge, Workspace, swallowing
from tests.wheels import Shelf

# Some tests hold a thousand connections; the edges they start inherit the limit.
_, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (_hard, _hard))


OUTAGES = ["refusing", "swallowing", "silent"]


@contextlib.contextmanager
def outage(fake: Fake, kind: str) -> Iterator[None]:
    """The registry refuses connections, swallows packets, or accepts and never answers; within the block."""
    with contextlib.ExitStack() as stack:
        if kind == "silent":
            fake.silence()
            stack.callback(fake.behave)
        else:
            fake.refuse()
            stack.callback(fake.listen_again)
            if kind == "swallowing":
                for host in fake.hosts:
                    stack.enter_context(swallowing(fake.hosts[host], fake.ports[host]))
        yield


class StartEdge:
    """Starts edges of a test's own before the fake; arguments as ``Edge`` takes them. They end with the test."""

    def __init__(self, upstream: str, scratch: Path, stack: contextlib.ExitStack) -> None:
        self.edges: list[Edge] = []
        self._upstream = upstream
        self._scratch = scratch
        self._stack = stack

    def __call__(self, **arguments: Any) -> Edge:
        directory = Path(tempfile.mkdtemp(dir=self._scratch))
        self._stack.callback(shutil.rmtree, directory, ignore_errors=True)
        edge = self._stack.enter_context(Edge(directory, arguments.pop("upstream", self._upstream), **arguments))
        self.edges.append(edge)
        return edge


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory of the session that is gone afterwards: it can hold gigabytes, too much for pytest's kept ones."""
    directory = Path(tempfile.mkdtemp(prefix="leeward-tests-"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def shelf(scratch: Path) -> Shelf:
    return Shelf(scratch / "shelf")


@pytest.fixture(scope="module")
def fake() -> Iterator[FakePyPI]:
    """The module's fake registry. Misbehaviours and modes end with each test; what is published stays."""
    with FakePyPI.start() as fake:
        yield fake


@pytest.fixture
def well_behaved(fake: FakePyPI) -> Iterator[None]:
    """Ask for this to have the fake back in order after the test."""
    yield
    fake.behave()
    fake.listen_again()
    fake.mode(plain=False, html_only=False, validators=True, layout="hashed", ahead_s=0)


@pytest.fixture(scope="module")
def edge(fake: FakePyPI, scratch: Path) -> Iterator[Edge]:
    """The module's edge before the fake."""
    directory = Path(tempfile.mkdtemp(dir=scratch))
    with Edge(directory, fake.index_url) as edge:
        edge.wait_learnt()
        yield edge
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def start_edge(fake: FakePyPI, scratch: Path) -> Iterator[StartEdge]:
    with contextlib.ExitStack() as stack:
        yield StartEdge(fake.index_url, scratch, stack)


@pytest.fixture
def workspace() -> Iterator[Workspace]:
    with tempfile.TemporaryDirectory(prefix="client-") as directory:
        yield Workspace(Path(directory))


@pytest.fixture
def project(request: pytest.FixtureRequest) -> str:
    """A project name that no other test uses."""
    return "p-" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:10]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the log of the edges that a failed test used."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            edges = value.edges if isinstance(value, StartEdge) else [value] if isinstance(value, Edge) else []
            report.sections += [(f"log of the edge in {edge.directory.name}", edge.log_tail()) for edge in edges]
            if isinstance(value, Fleet):
                report.sections.append(("logs of the fleet", value.logs()))
    return report
