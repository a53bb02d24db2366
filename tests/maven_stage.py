"""What the tests of Maven through an edge share: a shelf of components, a fake repository for each module, an edge before it."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.maven import FakeMaven
from tests.harness import Edge, Reply
from tests.jars import Component, Jars, Stored
from tests.jvm import IMPLIED, MAVEN_39, JvmWorkspace

HOUR_S = 3600.0

LISTENING = '[log]\nlevel = "debug"\n'
"""Settings with which an edge logs each request: see ``asked_of``."""


@pytest.fixture(scope="session")
def jars(scratch: Path) -> Jars:
    return Jars(scratch / "jars")


@pytest.fixture(scope="module")
def repository(jars: Jars) -> Iterator[FakeMaven]:
    """The module's fake, with what every Maven needs. What a test publishes stays, so it is under a group of its own."""
    with FakeMaven.start() as fake:
        publish_tools(fake, jars)
        yield fake


@pytest.fixture(scope="module")
def mirror(repository: FakeMaven, scratch: Path) -> Iterator[Edge]:
    """The module's edge before the fake."""
    directory = Path(tempfile.mkdtemp(dir=scratch))
    with Edge(directory, repository.url, kind="maven", top=LISTENING) as edge:
        edge.wait_learnt()
        yield edge
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def start_mirror(repository: FakeMaven, scratch: Path) -> Iterator[Callable[..., Edge]]:
    """Starts edges of a test's own before the module's fake; arguments as ``Edge`` takes them. They end with the test."""
    with contextlib.ExitStack() as stack:

        def start(**arguments: Any) -> Edge:
            directory = Path(tempfile.mkdtemp(dir=scratch))
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            upstream = arguments.pop("upstream", repository.url)
            return stack.enter_context(Edge(directory, upstream, kind="maven", **arguments))

        yield start


@pytest.fixture
def group(request: pytest.FixtureRequest) -> str:
    """A group that no other test uses. Its prefix is that of all: prefixes are believed for a day."""
    return "org.example.g" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:10]


@pytest.fixture
def restored(repository: FakeMaven) -> Iterator[None]:
    """Ask for this to have the fake back in order after the test."""
    yield
    restore(repository)


@pytest.fixture
def jvm(tmp_path: Path) -> JvmWorkspace:
    return JvmWorkspace(tmp_path / "jvm")


def publish_tools(fake: FakeMaven, jars: Jars) -> None:
    """Publish the plugin that resolves, and what Maven 3.8 wants with it."""
    fake.publish(jars.plugin(MAVEN_39.home / "lib"), jars.component(IMPLIED))


def restore(fake: FakeMaven) -> None:
    """End all misbehaviours and modes; what is published stays."""
    fake.behave()
    fake.listen_again()
    fake.mode(
        checksum_headers=True,
        sidecars="md5 sha1",
        style="bare",
        validators=True,
        prefixes="listed",
        churn="",
        throttle=0,
        retry_after="30",
        ahead_s=0,
    )


def tree(jars: Jars, group: str) -> list[Component]:
    """A small world: ``app`` wants ``lib``, that wants ``core`` in a range; ``lib`` has Gradle's metadata, ``parent`` manages ``core``."""
    return [
        *(jars.component(f"{group}:core:{version}") for version in ("1.0", "1.5", "2.0")),
        jars.component(f"{group}:lib:1.0", requires=[f"{group}:core:[1.0,2.0)"], module=True, size=300_000),
        jars.component(f"{group}:parent:4", packaging="pom", managed=[f"{group}:lib:1.0"]),
        jars.component(f"{group}:app:1.0", parent=f"{group}:parent:4", requires=[f"{group}:lib:1.0"]),
    ]


def get(edge: Edge, path: str, method: str = "GET", **headers: str) -> Reply:
    """Ask for a path below the mirror's; header names are spelt with underscores."""
    return edge.ask(f"/maven/{path}", {name.replace("_", "-"): value for name, value in headers.items()}, method)


def metadata_path(coordinate: str) -> str:
    """Where the metadata of ``group:artifact`` or of ``group:artifact:X-SNAPSHOT`` is."""
    group, *rest = coordinate.split(":")
    return "/".join([*group.split("."), *rest, "maven-metadata.xml"])


def asked_of(edge: Edge, since: int = 0) -> list[str]:
    """The targets that clients asked for, by the log, which has every request but those that pages held in memory answer at once."""
    told = edge.log.read_text(errors="replace")[since:]
    return re.findall(r"^\S+ debug +access +(?:GET|HEAD) (\S+) client=", told, re.MULTILINE)


def holds(edge: Edge, file: Stored) -> bool:
    return any(path.name == file.sha256 for path in edge.blobs())


def sidecars_of(edge: Edge, path: str) -> Mapping[str, str]:
    """The four checksums that the edge has of a path; "" for one it has not."""
    replies = {name: get(edge, f"{path}.{name}") for name in ("md5", "sha1", "sha256", "sha512")}
    assert {reply.status for reply in replies.values()} <= {200, 404}
    return {name: reply.body.decode() if reply.status == 200 else "" for name, reply in replies.items()}
