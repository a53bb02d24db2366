"""Lock files that name the registries, in projects that know of no edge: installed through its proxy face, and left as they are."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import proxy_stage
from tests.fakes import Authority, Fake, FakeNpm, FakePyPI
from tests.harness import PDM, POETRY, UV, Edge, Pdm, Poetry, Uv
from tests.node import BUN, NPM, PNPM, YARN1, YARN4, Client
from tests.proxy_stage import ALIAS, Locked, LockedNode, LockedPython, new_edge, start_proxy, straight_to

pytestmark = pytest.mark.slow

authority, packed, pypi, npm = proxy_stage.authority, proxy_stage.packed, proxy_stage.pypi, proxy_stage.npm

HOURS_S = 6 * 3600.0


@dataclass(frozen=True)
class Case:
    """A client, and how its lock is made to be what users have."""

    name: str
    kind: str
    project: Callable[[Path, Fake], Locked]
    edited: Callable[[bytes, Fake], bytes] = lambda lock, _: lock


def python(client: Uv | Poetry | Pdm) -> Case:
    def project(directory: Path, fake: Fake) -> Locked:
        assert isinstance(fake, FakePyPI)
        return LockedPython(client, directory, fake.index_url)

    return Case(client.name, "pypi", project)


def node(client: Client, edited: Callable[[bytes, Fake], bytes] = lambda lock, _: lock) -> Case:
    def project(directory: Path, fake: Fake) -> Locked:
        assert isinstance(fake, FakeNpm)
        return LockedNode(client, directory, fake.registry_url)

    return Case(client.name, "npm", project, edited)


def aliased(lock: bytes, fake: Fake) -> bytes:
    """What yarn 1 writes with the settings it comes with: a name of the registry that no table of ours has."""
    changed = lock.replace(b"//npm.test:", f"//{ALIAS}:".encode())
    assert changed.count(ALIAS.encode()) == 4, lock
    return changed


CASES = [python(UV), python(POETRY), python(PDM), node(NPM), node(PNPM), node(YARN1, aliased), node(YARN4), node(BUN)]


@pytest.fixture(scope="module")
def proxy(authority: Authority, pypi: FakePyPI, npm: FakeNpm, scratch: Path) -> Iterator[Edge]:
    """The module's edge."""
    with start_proxy(authority, scratch, pypi, npm) as edge:
        yield edge


def made(case: Case, fake: Fake, authority: Authority, scratch: Path) -> tuple[Locked, dict[str, str]]:
    """A project with its lock, made without any edge, and what it installs without one."""
    project = case.project(Path(tempfile.mkdtemp(dir=scratch)), fake)
    with straight_to(authority, scratch, fake) as straight:
        project.through = straight.through
        project.make()
        project.lock = case.edited(project.lock, fake)
        lock = project.lock
        replayed = project.replay()
        assert replayed.succeeded, replayed.output
        assert project.lock == lock
    return project, dict(replayed.files)


def asked_by(fake: Fake) -> set[str]:
    """Who asked the registry, by its name for itself, without the version."""
    return {(seen.header("user-agent") or "").partition("/")[0] for seen in fake.seen()}


def files_of(edge: Edge, registry: str) -> float:
    """Requests for files that were sent to one upstream. (Others that refuse are knocked at, which counts.)"""
    return edge.metric("leeward_upstream_requests_total", kind="file", registry=registry)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_lock_is_replayed_as_it_is_then_without_a_file_fetched_then_without_the_registry(
    proxy: Edge, authority: Authority, pypi: FakePyPI, npm: FakeNpm, scratch: Path, case: Case
) -> None:
    fake: Fake = pypi if case.kind == "pypi" else npm
    project, files = made(case, fake, authority, scratch)
    lock = project.lock
    fake.forget()
    project.through = proxy.running
    tunnelled = proxy.metric("leeward_tunnels_total")
    first = project.replay()
    assert first.succeeded, first.output
    assert asked_by(fake) <= {"leeward"}

    before = files_of(proxy, case.kind)
    fake.forget()
    second = project.replay()
    assert second.succeeded, second.output
    assert files_of(proxy, case.kind) == before
    assert {seen.kind for seen in fake.seen()} <= {"page", "packument"}

    fake.refuse()
    proxy.age(HOURS_S)
    try:
        third = project.replay()
    finally:
        proxy.age(0)
        fake.listen_again()
    assert third.succeeded, third.output

    assert first.files == second.files == third.files == files
    assert project.lock == lock
    assert proxy.metric("leeward_tunnels_total") == tunnelled


def test_the_very_first_request_to_a_new_edge_is_intercepted(
    authority: Authority, pypi: FakePyPI, npm: FakeNpm, scratch: Path
) -> None:
    """``uv sync --frozen`` asks for files and nothing else, at a host that no setting names."""
    project, files = made(python(UV), pypi, authority, scratch)
    lock = project.lock
    pypi.forget()
    with new_edge(authority, scratch, pypi, npm) as edge:
        project.through = edge.running
        replayed = project.replay()
        assert replayed.succeeded, replayed.output
        assert replayed.files == files
        assert project.lock == lock
        assert asked_by(pypi) == {"leeward"}
        assert edge.metric("leeward_requests_total", face="proxy", registry="pypi", kind="file") >= len(proxy_stage.PYTHON_TREE)
        assert edge.metric("leeward_tunnels_total") == 0
