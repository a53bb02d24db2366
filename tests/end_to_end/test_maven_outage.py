"""The repository goes away, in three ways: what is held still builds, from nothing; what is not fails soon and clearly."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.maven import FakeMaven
from tests.gradle_like import GRADLE_LIKE, GradleLike
from tests.harness import Edge, wait_until
from tests.jars import Component, Jars
from tests.jvm import COURSIER, MAVEN_39, JvmClient, JvmWorkspace
from tests.maven_stage import HOUR_S, get, metadata_path, publish_tools, sidecars_of, tree
from tests.stage import OUTAGES, outage

GROUP = "org.example.outage"

CLIENTS: list[JvmClient] = [
    MAVEN_39,
    COURSIER,
    GRADLE_LIKE,
    GradleLike("gradle-like, verifying", module_first=True, signatures=True),
]

PROMPT_S = 3.0
SILENT_S = 13.0
"""How long the first unknown path may take while an upstream accepts and says nothing: it has 10 s."""


@dataclass(frozen=True)
class World:
    """An edge that has delivered all that builds want, and what there is."""

    edge: Edge
    components: list[Component]

    def one(self, artifact: str) -> Component:
        return next(one for one in self.components if one.artifact == artifact)

    @property
    def expected(self) -> list[str]:
        return [f"{GROUP}:app:1.0", f"{GROUP}:core:1.5", f"{GROUP}:lib:1.0"]

    @property
    def absent(self) -> list[str]:
        lib = self.one("lib").jar.path
        return [
            f"{lib}.asc",
            f"{lib}.sha512",
            lib.replace(".jar", "-javadoc.jar"),
            self.one("core").pom.path.replace(".pom", ".module"),
            metadata_path(f"{GROUP}:nowhere"),
        ]


@pytest.fixture(scope="module")
def world(repository: FakeMaven, jars: Jars, scratch: Path) -> Iterator[World]:
    components = tree(jars, GROUP)
    repository.publish(*components)
    with Edge(Path(tempfile.mkdtemp(dir=scratch)), repository.url, kind="maven") as edge:
        world = World(edge, components)
        tools = jars.plugin(MAVEN_39.home / "lib")
        paths = [file.path for one in (*components, tools) if one.version != "2.0" for file in one.files]
        for path in (*paths, metadata_path(f"{GROUP}:core")):
            assert get(edge, path).status == 200
        for client in CLIENTS:
            if isinstance(client, GradleLike):
                result = client.resolve(JvmWorkspace(Path(tempfile.mkdtemp(dir=scratch))), edge.index_url, [f"{GROUP}:app:1.0"])
                assert result.resolved == world.expected, result.told
        assert {get(edge, path).status for path in world.absent} == {404}
        yield world


@pytest.fixture
def another(jars: Jars) -> Iterator[FakeMaven]:
    """One that is there for as long as a test wants: the module's goes away under tests' feet."""
    with FakeMaven.start() as fake:
        publish_tools(fake, jars)
        yield fake


@pytest.fixture(scope="module", params=OUTAGES)
def hours_later(world: World, repository: FakeMaven, request: pytest.FixtureRequest) -> Iterator[str]:
    """The repository has been away for hours when the edge starts again."""
    world.edge.stop()
    with outage(repository, request.param):
        world.edge.age((6 + OUTAGES.index(request.param)) * HOUR_S)
        world.edge.start()
        yield request.param


@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_clean_client_builds_from_what_is_held(world: World, hours_later: str, jvm: JvmWorkspace, client: JvmClient) -> None:
    options = ["-C"] if client is MAVEN_39 else []
    result = client.resolve(jvm, world.edge.index_url, [f"{GROUP}:app:1.0"], options=options)
    assert result.resolved == world.expected, result.told
    for coordinate, file in result.files.items():
        assert file.read_bytes() == world.one(coordinate.split(":")[1]).jar.content or ":core:" in coordinate
    assert result.seconds < 30


@pytest.mark.slow
def test_what_was_absent_stays_absent_and_what_is_unknown_is_not_called_so(world: World, hours_later: str) -> None:
    for path in world.absent:
        reply = get(world.edge, path)
        assert (path, reply.status, reply.seconds < PROMPT_S) == (path, 404, True)
    unknown = [
        f"{GROUP.replace('.', '/')}/core/2.0/core-2.0.pom",
        f"{GROUP.replace('.', '/')}/core/2.0/core-2.0.jar.sha1",
        metadata_path(f"{GROUP}:other"),
        world.one("lib").pom.path + ".asc.md5",
    ]
    for n, path in enumerate(unknown):
        reply = get(world.edge, path)
        assert (path, reply.status) == (path, 503), reply.reason
        assert int(reply.headers["retry-after"]) >= 1
        assert reply.seconds < (SILENT_S if hours_later == "silent" and n < 3 else PROMPT_S)
    metadata = metadata_path(f"{GROUP}:core")
    reply = get(world.edge, metadata)
    assert "upstream-down" in reply.headers["cache-status"]
    assert sidecars_of(world.edge, metadata)["sha1"] == reply.headers["x-checksum-sha1"]


@pytest.mark.slow
def test_maven_says_that_the_repository_is_away_and_remembers_nothing(
    another: FakeMaven, jars: Jars, jvm: JvmWorkspace, group: str, start_mirror: Callable[..., Edge]
) -> None:
    """Once it is back the same build works, without a word more."""
    one = jars.component(f"{group}:unseen:1.0")
    another.publish(one)
    edge = start_mirror(upstream=another.url)
    assert MAVEN_39.resolve(jvm, edge.index_url, []).succeeded
    with outage(another, "refusing"):
        options = ["-Daether.connector.http.retryHandler.serviceUnavailable=429"]  # else it waits half a minute
        failed = MAVEN_39.resolve(jvm, edge.index_url, [one.coordinate], options=options)
        assert not failed.succeeded
        assert "status=503" in failed.output, failed.told
    # The edge tries again after 5 s, and again after 10.
    wait_until(lambda: get(edge, one.jar.path).status == 200, 30)
    again = MAVEN_39.resolve(jvm, edge.index_url, [one.coordinate])
    assert again.resolved == [one.coordinate], again.told
