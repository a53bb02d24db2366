"""What the tests of three regions share: registries with a small tree each, the command that runs the four nodes, clients that install.

A module takes the fixtures over by name: ``registries, regions = regions_stage.registries, regions_stage.regions``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest

from tests.fakes import FakeMaven, FakeNpm, FakePyPI
from tests.harness import PIP, ROOT, Workspace, clean_environment, free_port, wait_until
from tests.jars import Jars, pom_xml
from tests.jvm import MAVEN_39, PROBE, JvmWorkspace
from tests.maven_stage import publish_tools
from tests.node import NPM
from tests.tarballs import Tarballs
from tests.wheels import Shelf

START_S = 60.0
STOP_S = 60.0

PYTHON_TREE = {"orchard": "1.0", "orchard-leaf": "2.0"}
NODE_TREE = frozenset({"orchard@1.0.0", "@orchard/leaf@2.0.0"})
JAVA_TREE = ["org.example.orchard:core:1.0", "org.example.orchard:lib:1.0"]


@dataclass
class Registries:
    """Three fakes with a small tree each; ``digests`` are of the files that installing it takes, in SHA-256."""

    pypi: FakePyPI
    npm: FakeNpm
    maven: FakeMaven
    digests: set[str] = field(default_factory=set)

    def refuse(self) -> None:
        for fake in (self.pypi, self.npm, self.maven):
            fake.refuse()

    def listen_again(self) -> None:
        for fake in (self.pypi, self.npm, self.maven):
            fake.listen_again()


@pytest.fixture(scope="module")
def registries(scratch: Path, shelf: Shelf, jars: Jars) -> Iterator[Registries]:
    with FakePyPI.start() as pypi, FakeNpm.start() as npm, FakeMaven.start() as maven:
        packed = Tarballs(scratch / "regions")
        wheels = [shelf.wheel("orchard", "1.0", requires=["orchard-leaf"], size=200_000), shelf.wheel("orchard-leaf", "2.0")]
        tarballs = [
            packed.pack("orchard", "1.0.0", dependencies={"@orchard/leaf": "^2.0.0"}, size=100_000),
            packed.pack("@orchard/leaf", "2.0.0"),
        ]
        components = [
            jars.component("org.example.orchard:core:1.0"),
            jars.component("org.example.orchard:lib:1.0", requires=["org.example.orchard:core:1.0"], size=300_000),
        ]
        pypi.publish(*wheels)
        npm.publish(*tarballs)
        publish_tools(maven, jars)
        maven.publish(*components)
        digests = {wheel.sha256 for wheel in wheels} | {tarball.sha256 for tarball in tarballs}
        digests |= {file.sha256 for component in components for file in component.files if file.path.endswith((".jar", ".pom"))}
        yield Registries(pypi, npm, maven, digests)


class Regions:
    """The command as somebody at a terminal runs it, in a session of its own. What is printed is in ``log``."""

    def __init__(self, directory: Path, registries: Registries, ports: Sequence[int] | None = None) -> None:
        self.directory = directory
        self.ports = list(ports) if ports is not None else [free_port() for _ in range(4)]
        self.log = directory.with_name(directory.name + ".log")
        self._registries = registries
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True) -> Self:
        upstreams = {
            "pypi": self._registries.pypi.index_url,
            "npm": self._registries.npm.registry_url,
            "maven": self._registries.maven.url,
        }
        words = [sys.executable, "deploy/three_regions.py", str(self.directory), "--ports", *(str(port) for port in self.ports)]
        for instance, url in upstreams.items():
            words += ["--upstream", f"{instance}={url}"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                words,
                cwd=ROOT,
                env=clean_environment(self.directory.with_name("home")),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            wait_until(self._is_up, START_S, 0.1)
        return self

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.told
        return "Ctrl-C ends all of them" in self.told

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """As a terminal does on Ctrl-C, to the whole group."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def wait(self) -> int:
        """The exit status, once it ends."""
        assert self._process is not None
        return self._process.wait(STOP_S)

    @property
    def told(self) -> str:
        return self.log.read_text(errors="replace")

    def url(self, region: str) -> str:
        return f"http://127.0.0.1:{self.ports[1 + 'abc'.index(region)]}"

    def blobs(self, region: str) -> set[str]:
        """What an edge holds, by SHA-256."""
        store = self.directory / f"edge-{region}" / "blobs" / "sha256"
        return {path.name for path in store.rglob("*") if path.is_file()}

    def processes(self) -> dict[str, int]:
        """The nodes that run on this directory: name to process."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().decode(errors="replace").split("\0")
                for name in ("origin", "edge-a", "edge-b", "edge-c"):
                    if "serve" in words and str(self.directory / name) in words:
                        found[name] = int(path.parent.name)
        return found

    def listening(self) -> list[int]:
        """The ports that somebody still listens on."""
        found = []
        for port in self.ports:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    found.append(port)
        return found


@pytest.fixture
def regions(registries: Registries, scratch: Path) -> Iterator[Regions]:
    with (
        tempfile.TemporaryDirectory(prefix="regions-", dir=scratch) as directory,
        Regions(Path(directory) / "data", registries) as found,
    ):
        try:
            yield found
        finally:
            registries.listen_again()


def install(url: str, directory: Path) -> None:
    """``pip install``, ``npm ci`` and ``mvn verify`` at one edge, each as a client that has never installed anything."""
    workspace = Workspace(directory / "pip")
    installed = PIP.install(workspace, f"{url}/pypi/simple/", ["orchard"])
    assert installed.installed == PYTHON_TREE, installed.output

    # Without the addresses of whoever locked it: they would lead `npm ci` there.
    project = NPM.project(directory / "npm", f"{url}/npm/", retries=0, settings={"omit-lockfile-registry-resolved": True})
    locked = project.install({"orchard": "^1.0.0"})
    assert locked.installed == NODE_TREE, locked.output
    project.empty_cache()
    clean = project.ci()
    assert clean.installed == NODE_TREE, clean.output

    jvm = JvmWorkspace(directory / "mvn")
    group, artifact, version = PROBE.split(":")
    plugin = (
        f"<plugin><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>"
        "<executions><execution><phase>verify</phase><goals><goal>resolve</goal></goals></execution></executions></plugin>"
    )
    pom = pom_xml("org.example.project:app:1", packaging="pom", requires=["org.example.orchard:lib:1.0"])
    (jvm.project / "pom.xml").write_text(pom.replace("</project>", f"<build><plugins>{plugin}</plugins></build></project>"))
    verified = MAVEN_39.run(jvm, f"{url}/maven/", ["verify"])
    assert verified.resolved == JAVA_TREE, verified.told
