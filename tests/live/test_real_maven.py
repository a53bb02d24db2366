"""Against the real Maven repository: a small project with plugins and tests, verified each time from an empty local repository.

First from the repository, then from the edge alone, then with every page's life run out and the repository replaced by something dead.
Left out unless ``LEEWARD_LIVE=1``: it needs the network and the repository's good health.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from origin.settings import default_registries
from tests.harness import Edge
from tests.jvm import COURSIER, GRADLE, MAVEN_4, MAVEN_39, JvmClient, JvmWorkspace, Maven
from tests.live.dying import DEAD, MOST, Tether, cut_ratio

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.environ.get("LEEWARD_LIVE") != "1", reason="talks to the real registry; set LEEWARD_LIVE=1 to run it"),
]

POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>org.example.live</groupId><artifactId>app</artifactId><version>1</version>
<properties><maven.compiler.release>17</maven.compiler.release>
<project.build.sourceEncoding>UTF-8</project.build.sourceEncoding></properties>
<dependencies>
<dependency><groupId>com.google.guava</groupId><artifactId>guava</artifactId><version>33.3.1-jre</version></dependency>
<dependency><groupId>junit</groupId><artifactId>junit</artifactId><version>4.13.2</version><scope>test</scope></dependency>
</dependencies></project>
"""

MAIN = "package app; public class Main { public static int one() { return 1; } }\n"
TEST = """\
package app;
import org.junit.*;
public class MainTest { @Test public void adds() { Assert.assertEquals(1, Main.one()); } }
"""

MAVENS = [MAVEN_39, MAVEN_4]

REQUIRES = ["com.google.guava:guava:33.3.1-jre", "junit:junit:4.13.2"]

PURL = "pkg:maven/junit/junit"

RESOLVERS: list[JvmClient] = [GRADLE, COURSIER]


@pytest.fixture(scope="module")
def tether() -> Iterator[Tether]:
    with Tether() as tether:
        yield tether


@pytest.fixture(scope="module")
def live_edge(scratch: Path, tether: Tether) -> Iterator[Edge]:
    upstream = default_registries()["maven"].upstream
    top = f'[upstream]\nproxy = "http://127.0.0.1:{tether.port}"\n'
    with Edge(Path(tempfile.mkdtemp(dir=scratch)), upstream, kind="maven", top=top) as edge:
        yield edge


def verify(edge: Edge, scratch: Path, maven: Maven) -> float:
    """``mvn -B verify`` in a new place; its seconds."""
    workspace = JvmWorkspace(Path(tempfile.mkdtemp(dir=scratch)))
    for name, text in (("pom.xml", POM), ("src/main/java/app/Main.java", MAIN), ("src/test/java/app/MainTest.java", TEST)):
        path = workspace.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    done = maven.run(workspace, edge.index_url, ["verify"], timeout_s=600)
    assert done.succeeded, done.output
    assert (workspace.project / "target" / "app-1.jar").exists()
    return done.seconds


def resolve(edge: Edge, scratch: Path, client: JvmClient) -> float:
    done = client.resolve(JvmWorkspace(Path(tempfile.mkdtemp(dir=scratch))), edge.index_url, REQUIRES, timeout_s=600)
    assert done.succeeded, done.output
    assert "com.google.guava:guava:33.3.1-jre" in done.resolved
    assert "org.hamcrest:hamcrest-core:1.3" in done.resolved
    return done.seconds


@pytest.mark.parametrize("maven", MAVENS, ids=lambda maven: maven.name)
def test_a_real_project_is_verified_and_the_second_time_without_the_repository(
    live_edge: Edge, scratch: Path, maven: Maven
) -> None:
    first = verify(live_edge, scratch, maven)
    before = live_edge.upstream_requests("file")
    second = verify(live_edge, scratch, maven)
    assert live_edge.upstream_requests("file") == before
    print(f"{maven.name}: {first:.1f} s, then {second:.1f} s")


@pytest.mark.parametrize("client", RESOLVERS, ids=lambda client: client.name)
def test_other_resolvers_need_no_repository_the_second_time(live_edge: Edge, scratch: Path, client: JvmClient) -> None:
    first = resolve(live_edge, scratch, client)
    before = live_edge.upstream_requests("file")
    second = resolve(live_edge, scratch, client)
    assert live_edge.upstream_requests("file") == before
    print(f"{client.name}: {first:.1f} s, then {second:.1f} s")


@pytest.mark.parametrize("kind", DEAD)
@pytest.mark.parametrize("maven", MAVENS, ids=lambda maven: maven.name)
def test_the_same_project_is_verified_as_quickly_when_the_repository_is_dead(
    live_edge: Edge, tether: Tether, scratch: Path, maven: Maven, kind: str
) -> None:
    assert cut_ratio(live_edge, tether, kind, lambda: verify(live_edge, scratch, maven), maven.name, PURL) < MOST


@pytest.mark.parametrize("kind", DEAD)
@pytest.mark.parametrize("client", RESOLVERS, ids=lambda client: client.name)
def test_other_resolvers_are_as_quick_when_the_repository_is_dead(
    live_edge: Edge, tether: Tether, scratch: Path, client: JvmClient, kind: str
) -> None:
    assert cut_ratio(live_edge, tether, kind, lambda: resolve(live_edge, scratch, client), client.name, PURL) < MOST
