"""The proxy face when the registries are gone: what is held installs, also after a restart, and what is not is told so at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import proxy_stage
from tests.fakes import Authority, FakeMaven, FakeNpm, FakePyPI
from tests.harness import PIP, UV, Edge, Workspace, wait_until
from tests.jvm import MAVEN_39, JvmWorkspace
from tests.node import NPM, YARN4, Client
from tests.proxy_stage import JAVA_TREE, NODE_TREE, PYTHON_TREE, start_proxy, straight_to, through
from tests.stage import OUTAGES, outage
from tests.wheels import Shelf

pytestmark = pytest.mark.slow

authority, packed = proxy_stage.authority, proxy_stage.packed
pypi, npm, maven = proxy_stage.pypi, proxy_stage.npm, proxy_stage.maven

HOURS_S = 6 * 3600.0

COLD_S = {"refusing": 2.0, "swallowing": 2.0, "silent": 10.0}
"""How long a client may wait to hear that nobody has what it asks for."""


@pytest.fixture
def proxy(authority: Authority, pypi: FakePyPI, npm: FakeNpm, maven: FakeMaven, scratch: Path) -> Iterator[Edge]:
    """An edge of each test's own: an outage leaves breakers open."""
    with start_proxy(authority, scratch, pypi, npm, maven) as edge:
        yield edge


@pytest.mark.parametrize("kind", OUTAGES)
def test_pip_and_uv_install_from_an_edge_that_was_restarted_into_an_outage(
    proxy: Edge, pypi: FakePyPI, workspace: Workspace, kind: str
) -> None:
    """Which hosts have the files is remembered: nothing can be learnt now."""
    workspace.through = proxy.running
    for client in (PIP, UV):
        assert client.install(workspace, pypi.index_url, ["orchard"]).installed == PYTHON_TREE
    with outage(pypi, kind):
        proxy.stop()
        proxy.age(HOURS_S)
        proxy.start()
        for client in (PIP, UV):
            workspace.empty_cache()
            result = client.install(workspace, pypi.index_url, ["orchard"])
            assert result.installed == PYTHON_TREE, result.output
        assert proxy.metric("leeward_tunnels_total") == 0


@pytest.mark.parametrize("client", [NPM, YARN4], ids=lambda client: client.name)
@pytest.mark.parametrize("kind", OUTAGES)
def test_npm_s_clients_resolve_anew_in_an_outage(proxy: Edge, npm: FakeNpm, tmp_path: Path, client: Client, kind: str) -> None:
    project = client.project(tmp_path / "project", npm.registry_url, through=proxy.running)
    assert project.install({"orchard": "^2.0.0"}).installed == NODE_TREE
    with outage(npm, kind):
        proxy.age(HOURS_S)
        project.empty_cache()
        result = project.install({"orchard": "^2.0.0"})
        assert result.installed == NODE_TREE, result.output


@pytest.mark.parametrize("kind", OUTAGES)
def test_maven_resolves_in_an_outage(proxy: Edge, maven: FakeMaven, tmp_path: Path, kind: str) -> None:
    workspace = JvmWorkspace(tmp_path / "jvm", proxy.running)
    requires = ["org.example.orchard:app:1.0"]
    assert MAVEN_39.resolve(workspace, maven.url, requires).resolved == JAVA_TREE
    with outage(maven, kind):
        proxy.age(HOURS_S)
        workspace.empty_cache()
        result = MAVEN_39.resolve(workspace, maven.url, requires, options=["-C"])
        assert result.resolved == JAVA_TREE, result.told


@pytest.mark.parametrize("kind", OUTAGES)
def test_what_is_not_held_is_told_within_the_tunnel_and_soon(
    proxy: Edge, pypi: FakePyPI, npm: FakeNpm, maven: FakeMaven, shelf: Shelf, project: str, kind: str
) -> None:
    """No client is left without an answer, or with a 404 that it would remember."""
    wheel = shelf.wheel(project, "1.0")
    pypi.publish(wheel)
    through(proxy, f"{pypi.index_url}orchard/")
    for fake, url in (
        (pypi, pypi.files_root + pypi.path_of(wheel)),
        (pypi, f"{pypi.index_url}{project}/"),
        (npm, f"{npm.registry_url}{project}"),
        (maven, f"{maven.url}org/example/nowhere/lib/1.0/lib-1.0.pom"),
    ):
        with outage(fake, kind):
            reply = through(proxy, url)
        assert reply.status == 503, url
        assert int(reply.headers["retry-after"]) > 0
        assert reply.seconds < COLD_S[kind] + 1, url


def test_an_edge_that_never_saw_a_registry_lets_nothing_past_it(
    authority: Authority, pypi: FakePyPI, npm: FakeNpm, workspace: Workspace, scratch: Path
) -> None:
    """Its file hosts cannot be learnt, so clients that ask the registry's own host are told of the outage."""
    with outage(pypi, "refusing"), start_proxy(authority, scratch, pypi, npm) as edge:
        workspace.through = edge.running
        result = UV.install(workspace, pypi.index_url, ["orchard"])
        assert not result.succeeded
        assert "503" in result.output
        assert edge.metric("leeward_tunnels_total") == 0
        with pytest.raises(OSError, match="403"):
            through(edge, f"{pypi.files_root}/packages/orchard-2.0-py3-none-any.whl")


def test_a_registry_that_comes_back_is_asked_again(
    authority: Authority, pypi: FakePyPI, npm: FakeNpm, workspace: Workspace, scratch: Path, shelf: Shelf, project: str
) -> None:
    """A new edge that starts in an outage learns where files are when it is over, and stands in for that host from then on."""
    wheel = shelf.wheel(project, "1.0")
    pypi.publish(wheel)
    with straight_to(authority, scratch, pypi) as straight:
        workspace.through = straight.through
        assert UV.lock(workspace, pypi.index_url, [project]).succeeded
    edge = proxy_stage.new_edge(authority, scratch, pypi, npm)
    with outage(pypi, "refusing"):
        edge.start()
    try:
        workspace.through = edge.running
        pypi.forget()
        wait_until(lambda: answered(edge, pypi.files_root + pypi.path_of(wheel)) == 200, 20)
        result = PIP.install(workspace, pypi.index_url, [project])
        assert result.installed == {project: "1.0"}, result.output
        assert UV.sync(workspace, "--frozen").installed == {project: "1.0"}
        assert {(seen.header("user-agent") or "").partition("/")[0] for seen in pypi.seen()} == {"leeward"}
    finally:
        edge.stop()


def answered(edge: Edge, url: str) -> int:
    """The status that a client gets, 0 if it is not even let in."""
    try:
        return through(edge, url).status
    except OSError:
        return 0
