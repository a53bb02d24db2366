"""Against the real registries, by ``edge run`` and with nothing configured: projects as anybody clones them, with the locks they come with.

Each lock is made by the client itself, straight from the registry. Then the project is installed through an edge three times, each from
empty client caches: with the registries, without a file from them, and with every page's life run out and the registries gone. Left out
unless ``LEEWARD_LIVE=1``: it needs the network and the registries' good health.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from origin.settings import default_registries
from tests import node
from tests.harness import TOOLS, Edge, Through, clean_environment
from tests.jvm import MAVEN_4, MAVEN_38, MAVEN_39, QUICK, Maven
from tests.live.dying import HOURS_S, Tether
from tests.proxy_stage import digests

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        os.environ.get("LEEWARD_LIVE") != "1", reason="talks to the real registries; set LEEWARD_LIVE=1 to run it"
    ),
]

PYTHON = ["requests==2.32.3", "docopt==0.6.2"]
"""Five wheels, and docopt, of which there is only a source distribution: what builds it comes from the registry too."""

NODE = {"express": "4.21.1", "@types/node": "22.9.0"}

PYPROJECT = f"""\
[project]
name = "cloned"
version = "1"
requires-python = ">=3.12,<4"
dependencies = {json.dumps(PYTHON)}
[tool.poetry]
package-mode = false
"""

SOURCE = f"""\
[[tool.poetry.source]]
name = "index"
url = "{default_registries()["pypi"].upstream}"
priority = "primary"
"""
"""The same registry by its simple pages: for itself poetry reads JSON documents that not every network lets through."""

PACKAGE = json.dumps({"name": "cloned", "version": "1.0.0", "private": True, "dependencies": NODE})

POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>org.example.live</groupId><artifactId>app</artifactId><version>1</version>
<properties><maven.compiler.source>17</maven.compiler.source><maven.compiler.target>17</maven.compiler.target>
<project.build.sourceEncoding>UTF-8</project.build.sourceEncoding></properties>
<dependencies>
<dependency><groupId>junit</groupId><artifactId>junit</artifactId><version>4.13.2</version><scope>test</scope></dependency>
</dependencies></project>
"""
MAIN = "package app; public class Main { public static int one() { return 1; } }\n"
TEST = """\
package app;
import org.junit.*;
public class MainTest { @Test public void adds() { Assert.assertEquals(1, Main.one()); } }
"""


TRUSTED = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS")

DIRECT = Through(variables={name: os.environ[name] for name in TRUSTED if name in os.environ})
"""How this machine gets to the registries: the one thing of its own that clients are told is whom it trusts."""


@dataclass(frozen=True)
class Tool:
    """A client and a project of its kind: the words that make its lock, and those that install what the lock says.

    ``made`` is what an installation leaves in the project: it is gone before each. ``present`` are files of it that have to be there.
    """

    name: str
    files: Mapping[str, str]
    install: Sequence[str | Path]
    made: str
    present: Sequence[str]
    lock: str = ""
    locking: Sequence[str | Path] = ()
    variables: Callable[[Path], Mapping[str, str]] = field(default=lambda _home: {})


def of_python(home: Path) -> dict[str, str]:
    return {
        "UV_PYTHON": str(TOOLS / "bin" / "python"),
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_PROGRESS": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "POETRY_VIRTUALENVS_IN_PROJECT": "true",
        "POETRY_VIRTUALENVS_USE_POETRY_PYTHON": "true",
        "POETRY_KEYRING_ENABLED": "false",
        "POETRY_NO_INTERACTION": "1",
        "NO_COLOR": "1",
    }


def of_maven(home: Path) -> dict[str, str]:
    return {"MAVEN_OPTS": f"{QUICK} -Duser.home={home}", "MAVEN_SKIP_RC": "1"}


def uv(*words: str) -> list[str | Path]:
    return [TOOLS / "bin" / "uv", *words]


def poetry(*words: str) -> list[str | Path]:
    return [TOOLS / "bin" / "poetry", *words]


def of_poetry(name: str, pyproject: str) -> Tool:
    return Tool(
        name, {"pyproject.toml": pyproject}, poetry("install"), ".venv", INSTALLED, "poetry.lock", poetry("lock"), of_python
    )


def of_node(name: str, lock: str, locking: Sequence[str], install: Sequence[str], files: Mapping[str, str] | None = None) -> Tool:
    program = node.program({"yarn1": "yarn", "yarn4": "yarn-berry"}.get(name, name))
    present = ["node_modules/express/package.json", "node_modules/@types/node/package.json"]
    return Tool(
        name,
        {"package.json": PACKAGE, **(files or {})},
        [*program, *install],
        "node_modules",
        present,
        lock,
        [*program, *locking],
        node.environment,
    )


def of_jvm(maven: Maven) -> Tool:
    files = {"pom.xml": POM, "src/main/java/app/Main.java": MAIN, "src/test/java/app/MainTest.java": TEST}
    words = [str(maven.home / "bin" / "mvn"), "-B", "-e", "verify"]
    return Tool(maven.name, files, words, "target", ["target/app-1.jar"], variables=of_maven)


PACKAGES = ".venv/lib/python3.13/site-packages"
INSTALLED = [f"{PACKAGES}/requests/__init__.py", f"{PACKAGES}/docopt.py"]
PIP = [str(TOOLS / "bin" / "python"), "-I", "-m", "pip", "--python", ".venv", "install", "-r", "requirements.txt"]

TOOLS_AND_PROJECTS = [
    Tool("pip", {"requirements.txt": "\n".join([*PYTHON, ""])}, PIP, ".venv", INSTALLED, variables=of_python),
    Tool("uv", {"pyproject.toml": PYPROJECT}, uv("sync", "--frozen"), ".venv", INSTALLED, "uv.lock", uv("lock"), of_python),
    Tool(
        "uv-locked", {"pyproject.toml": PYPROJECT}, uv("sync", "--locked"), ".venv", INSTALLED, "uv.lock", uv("lock"), of_python
    ),
    of_poetry("poetry", PYPROJECT),
    of_poetry("poetry-source", PYPROJECT + SOURCE),
    of_node("npm", "package-lock.json", ["install", "--package-lock-only"], ["ci"]),
    of_node("pnpm", "pnpm-lock.yaml", ["install", "--lockfile-only"], ["install", "--frozen-lockfile"]),
    of_node("yarn1", "yarn.lock", ["install"], ["install", "--frozen-lockfile"]),
    of_node(
        "yarn4",
        "yarn.lock",
        ["install", "--mode=update-lockfile"],
        ["install", "--immutable"],
        {".yarnrc.yml": "nodeLinker: node-modules\nenableTelemetry: false\n", "yarn.lock": ""},
    ),
    of_node("bun", "bun.lock", ["install", "--lockfile-only"], ["install", "--frozen-lockfile"]),
    of_jvm(MAVEN_38),
    of_jvm(MAVEN_39),
    of_jvm(MAVEN_4),
]


class Clone:
    """A tool's project in a directory of its own, and a home that is empty before each installation."""

    def __init__(self, tool: Tool, directory: Path) -> None:
        self.tool = tool
        self.project = directory / "project"
        self.home = directory / "home"
        for name, text in tool.files.items():
            path = self.project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if tool.locking:
            self._run(tool.locking, DIRECT)

    @property
    def lock(self) -> bytes:
        return (self.project / self.tool.lock).read_bytes() if self.tool.lock else b""

    def install(self, through: Through) -> tuple[float, dict[str, str]]:
        """Install from nothing; gives the seconds, and what is there afterwards."""
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.rmtree(self.project / self.tool.made, ignore_errors=True)
        if self.tool.name == "pip":
            self._run(uv("venv", "--quiet", "--offline", ".venv"), DIRECT)
        seconds = self._run(self.tool.install, through)
        missing = [name for name in self.tool.present if not (self.project / name).exists()]
        assert missing == []
        # Those are built here, with the time in them.
        return seconds, {} if self.tool.made == "target" else digests(self.project / self.tool.present[0].partition("/")[0])

    def _run(self, words: Sequence[str | Path], through: Through) -> float:
        began = time.monotonic()
        done = subprocess.run(
            [*through.words, *map(str, words)],
            cwd=self.project,
            env=clean_environment(self.home) | dict(self.tool.variables(self.home)) | dict(through.variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        if self.tool.name == "poetry" and through is DIRECT and "not found" in done.stdout:
            pytest.skip("straight from here poetry finds nothing: the registry's JSON API is not to be had")
        assert done.returncode == 0, done.stdout[-6000:]
        return time.monotonic() - began


@pytest.fixture(scope="module")
def tether() -> Iterator[Tether]:
    with Tether() as tether:
        yield tether


@pytest.fixture(scope="module")
def live_edge(scratch: Path, tether: Tether) -> Iterator[Edge]:
    upstreams = {name: {"upstream": registry.upstream} for name, registry in default_registries().items()}
    first = upstreams.pop("pypi")["upstream"]
    top = f'[upstream]\nproxy = "http://127.0.0.1:{tether.port}"\n'
    with Edge(Path(tempfile.mkdtemp(dir=scratch)), first, others=upstreams, top=top) as edge:
        yield edge


@pytest.mark.parametrize("tool", TOOLS_AND_PROJECTS, ids=lambda tool: tool.name)
def test_a_clone_installs_then_without_a_file_fetched_then_without_the_registries(
    live_edge: Edge, tether: Tether, scratch: Path, tool: Tool
) -> None:
    clone = Clone(tool, Path(tempfile.mkdtemp(dir=scratch)))
    lock = clone.lock
    through = live_edge.running
    first, files = clone.install(through)
    assert clone.lock == lock

    before = files_of(live_edge)
    second, again = clone.install(through)
    assert files_of(live_edge) == before
    assert (clone.lock, again) == (lock, files)
    assert live_edge.metric("leeward_tunnels_total") == 0, "something went past the edge"

    try:
        tether.cut("refusing")
        live_edge.age(HOURS_S)
        third, dead = clone.install(through)
    finally:
        tether.mend()
        live_edge.age(0)
        # Rather than wait for the breakers' next look.
        live_edge.restart()
    assert (clone.lock, dead) == (lock, files)
    print(f"{tool.name}: {first:.1f} s, then {second:.1f} s, without the registries {third:.1f} s")
    shutil.rmtree(clone.project.parent)


@pytest.mark.parametrize(
    "tool", [tool for tool in TOOLS_AND_PROJECTS if tool.name in {"uv", "npm", "yarn4"}], ids=lambda tool: tool.name
)
def test_trying_it_needs_no_settings_and_no_edge_that_runs(scratch: Path, tool: Tool) -> None:
    clone = Clone(tool, Path(tempfile.mkdtemp(dir=scratch)))
    lock = clone.lock
    data = Path(tempfile.mkdtemp(dir=scratch))
    words = (sys.executable, "-m", "edge", "run", "--data", str(data), "--")
    _, first = clone.install(Through(words))
    blobs = {path for path in (data / "blobs" / "sha256").rglob("*") if path.is_file()}
    assert len(blobs) >= len(tool.present)
    _, second = clone.install(Through(words))
    assert (clone.lock, second) == (lock, first)
    assert {path for path in (data / "blobs" / "sha256").rglob("*") if path.is_file()} == blobs
    assert not (data / "edge.sock").exists()
    shutil.rmtree(clone.project.parent)


def test_the_lock_of_yarn_1_names_a_host_that_no_setting_has(live_edge: Edge, scratch: Path) -> None:
    """Else the one above shows nothing about aliases."""
    (tool,) = [tool for tool in TOOLS_AND_PROJECTS if tool.name == "yarn1"]
    clone = Clone(tool, Path(tempfile.mkdtemp(dir=scratch)))
    hosts = set(re.findall(rb"https://([^/]+)/", clone.lock))
    assert len(hosts) == 1
    assert hosts.isdisjoint(re.findall(rb"https://([^/]+)/", live_edge.config.read_bytes()))


def files_of(edge: Edge) -> float:
    return edge.metric("leeward_upstream_requests_total", kind="file")
