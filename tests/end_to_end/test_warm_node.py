"""``edge warm`` and ``edge ready`` for the lock files of npm's clients: right before and after, by the real ones with the registry dead."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests import node, npm_stage, proxy_stage
from tests.fakes import Authority, FakeNpm, FakePyPI
from tests.harness import Edge, Rule
from tests.node import BUN, NPM, PNPM, YARN1, YARN4, Client, Project
from tests.npm_stage import start_mirror
from tests.proxy_stage import ALIAS, LockedNode, start_proxy, straight_to
from tests.tarballs import Tarballs
from tests.warm_stage import HOURS_S, half, lose, ready, warm

pytestmark = pytest.mark.slow

authority, pypi, packed = proxy_stage.authority, proxy_stage.pypi, npm_stage.packed

HERE = ("--platform", "linux_x86_64")

PNPM7, PNPM8, PNPM11 = (
    node.Client(name, node.program(name), "pnpm-lock.yaml", PNPM.configure) for name in ("pnpm-7", "pnpm-8", "pnpm-11")
)

TREE = {"orchard@2.1.0", "pear@1.2.7", "soil@3.1.0", "@farm/rain-water@0.2.0", "native-linux@1.0.0"}
FILES = ["native-linux-1.0.0.tgz", "orchard-2.1.0.tgz", "pear-1.2.7.tgz", "rain-water-0.2.0.tgz", "soil-3.1.0.tgz"]
NAMES = ["@farm/rain-water", "native-linux", "orchard", "pear", "soil"]


def publish(npm: FakeNpm, packed: Tarballs) -> None:
    """A small world under ``orchard``, with packages for some platforms alone."""
    npm.publish(
        packed.pack("wrappy", "1.0.2"),
        packed.pack("pnpm", "99.0.0"),
        packed.pack("soil", "3.1.0"),
        packed.pack("native-linux", "1.0.0", os=["linux"], cpu=["x64"]),
        packed.pack("native-mac", "1.0.0", os=["darwin"], cpu=["arm64"]),
        packed.pack("@farm/rain-water", "0.2.0", dependencies={"soil": "^3.0.0"}),
        packed.pack(
            "pear",
            "1.2.7",
            dependencies={"soil": "^3.0.0", "@farm/rain-water": "0.2.0"},
            optional_dependencies={"native-linux": "1.0.0", "native-mac": "1.0.0"},
            size=300_000,
        ),
        packed.pack("orchard", "2.1.0", dependencies={"pear": "~1.2.0"}),
    )


@pytest.fixture(scope="module")
def registry(authority: Authority, packed: Tarballs) -> Iterator[FakeNpm]:
    """``https://npm.test``, for the proxy face."""
    with FakeNpm.start(authority, also=[ALIAS]) as fake:
        publish(fake, packed)
        yield fake


@dataclass(frozen=True)
class Case:
    """A client and its lock: the format's version, which packages' pages are wanted, and whether it fetches what is for other platforms.

    With ``options`` the client writes that version; ``then`` it is run once more.
    """

    client: Client
    version: str
    pages: Sequence[str] = ()
    all_platforms: bool = False
    edited: Callable[[bytes], bytes] = lambda lock: lock
    options: Sequence[str] = ()
    then: Sequence[str] = ()

    @property
    def name(self) -> str:
        return f"{self.client.name} {self.client.lock_name} {self.version}"

    @property
    def missing(self) -> list[str]:
        files = [*FILES, *(["native-mac-1.0.0.tgz"] if self.all_platforms else [])]
        return sorted([*files, *(f"the page of {name}" for name in self.pages)])


def version_of(lock: str) -> str:
    """Which version of its format a lock says that it is."""
    found = re.search(r"(?:lockfileVersion|yarn lockfile v|__metadata:\s+version)\W*([\d.]+)", lock)
    return found[1] if found is not None else ""


def aliased(lock: bytes) -> bytes:
    """What yarn 1 writes with the settings it comes with."""
    return lock.replace(b"//npm.test:", f"//{ALIAS}:".encode())


EACH = [*NAMES, "native-mac"]
OF_PNPM = [*EACH, "pnpm"]
"""pnpm 11 asks for the page of whatever is locked, and for its own; whether an older one or it will install, no lock tells."""

SHRINKWRAP = replace(NPM, lock_name="npm-shrinkwrap.json")

CASES = [
    # Version 1 does not say what is for which platform, and npm asks for what it lacks.
    Case(NPM, "1", pages=EACH, all_platforms=True, options=["--lockfile-version=1"]),
    Case(NPM, "2", options=["--lockfile-version=2"]),
    Case(NPM, "3"),
    Case(SHRINKWRAP, "3", then=["shrinkwrap"]),
    Case(PNPM7, "5.4", pages=OF_PNPM),
    Case(PNPM8, "6.0", pages=OF_PNPM),
    Case(PNPM, "9.0", pages=OF_PNPM),
    Case(PNPM11, "9.0", pages=OF_PNPM),
    Case(YARN1, "1", all_platforms=True, edited=aliased),
    Case(YARN4, "10"),
    Case(BUN, "2"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_lock_that_was_warmed_installs_with_everything_upstream_gone(
    authority: Authority, pypi: FakePyPI, registry: FakeNpm, scratch: Path, case: Case
) -> None:
    project = LockedNode(case.client, Path(tempfile.mkdtemp(dir=scratch)), registry.registry_url)
    with straight_to(authority, scratch, registry) as straight:
        project.through = straight.through
        made = project.project.install({"orchard": "^2.0.0"}, *case.options)
        assert made.succeeded, made.output
        if case.then:
            made = project.project.run(*case.then)
            assert made.succeeded, made.output
        assert version_of(made.lock) == case.version
        project.lock = case.edited(project.lock)
    lock = project.project.lock_path
    with start_proxy(authority, scratch, registry, pypi) as edge:
        edge.wait_learnt()
        before = ready(edge, lock, *HERE, here=False)
        assert not before.ready
        assert before.missing == case.missing

        done = warm(edge, lock, *HERE, here=False)
        assert done.status == 0, done.output
        project.through = edge.running
        # A name that a lock gives the registry is taken up, and certified, by who comes through the edge.
        project.project.run("--version")
        try:
            registry.refuse()
            edge.age(HOURS_S)
            after = ready(edge, lock, *HERE, here=False)
            assert after.ready, after.output
            project.project.empty_cache()
            installed = project.project.ci()
            assert installed.succeeded, installed.output
            assert installed.installed >= TREE

            lost = half(name for name in case.missing if name.endswith(".tgz"))
            lose(edge, lost)
            assert ready(edge, lock, *HERE, here=False).missing == lost
        finally:
            edge.age(0)
            registry.listen_again()


# ---- with the mirror ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def npm(packed: Tarballs) -> Iterator[FakeNpm]:
    with FakeNpm.start() as fake:
        publish(fake, packed)
        yield fake


@pytest.fixture
def mirror(npm: FakeNpm, scratch: Path) -> Iterator[Edge]:
    """An edge of the test's own."""
    with start_mirror(npm, scratch) as edge:
        yield edge
    npm.listen_again()


@pytest.fixture
def project(mirror: Edge, npm: FakeNpm, tmp_path: Path) -> Project:
    """A project of npm's at the mirror, whose lock was made at the registry."""
    made = NPM.project(tmp_path / "made", npm.registry_url)
    assert made.install({"orchard": "^2.0.0"}).succeeded
    project = NPM.project(tmp_path / "client", mirror.index_url)
    project.write_manifest({"orchard": "^2.0.0"})
    project.lock_path.write_text(made.lock)
    return project


def test_each_platform_has_its_own_answer(mirror: Edge, npm: FakeNpm, project: Project) -> None:
    lock = project.lock_path
    text = project.lock.replace(npm.registry_url, mirror.index_url)
    lock.write_text(text)
    assert warm(mirror, lock, *HERE, here=False).ready
    said = ready(mirror, lock, here=False)
    assert {each["platform"]: each["ready"] for each in said.lock["platforms"]} == {
        "linux_x86_64": True,
        "linux_aarch64": True,
        "macosx_arm64": False,
        "macosx_x86_64": True,
        "win_amd64": True,
    }
    assert said.missing == ["native-mac-1.0.0.tgz"]
    assert "missing  native-mac-1.0.0.tgz: not here (for macosx_arm64)" in mirror.command("ready", str(lock)).stdout


def test_what_is_at_another_registry_is_told(mirror: Edge, project: Project) -> None:
    document = json.loads(project.lock)
    document["packages"]["node_modules/soil"]["resolved"] = "https://npm.company.example.com:8443/soil-3.1.0.tgz"
    project.lock_path.write_text(json.dumps(document).replace("http://127.0.0.1", "http://127.0.0.1"))
    said = ready(mirror, project.lock_path, *HERE, here=False)
    assert said.elsewhere["soil 3.1.0"].startswith("npm.company.example.com:8443")
    assert not said.ready


def test_a_version_that_is_refused_is_told_with_its_rule(mirror: Edge, npm: FakeNpm, project: Project) -> None:
    lock = project.lock_path
    lock.write_text(project.lock.replace(npm.registry_url, mirror.index_url))
    assert warm(mirror, lock, *HERE, here=False).ready
    mirror.set_rules(Rule("pkg:npm/soil@3.1.0", "it is barren", "no-soil"))
    said = ready(mirror, lock, *HERE, here=False)
    while said.ready:
        said = ready(mirror, lock, *HERE, here=False)
    assert said.refused == {"soil-3.1.0.tgz": "no-soil"}


def test_a_file_with_another_digest_than_the_lock_says_is_not_ready(mirror: Edge, npm: FakeNpm, project: Project) -> None:
    document = json.loads(project.lock.replace(npm.registry_url, mirror.index_url))
    lock = project.lock_path
    lock.write_text(json.dumps(document))
    assert warm(mirror, lock, *HERE, here=False).ready
    document["packages"]["node_modules/soil"]["integrity"] = document["packages"]["node_modules/pear"]["integrity"]
    lock.write_text(json.dumps(document))
    said = ready(mirror, lock, *HERE, here=False)
    assert said.missing == ["soil-3.1.0.tgz"]
    assert said.lock["missing"][0]["reason"] == "what is here has another digest than the lock says"


def test_a_digest_that_nobody_computed_is_computed_from_what_is_here(
    mirror: Edge, npm: FakeNpm, project: Project, packed: Tarballs
) -> None:
    """A lock from long ago may name a SHA-1 where the page has a SHA-512, or some other."""
    import base64
    import hashlib

    document = json.loads(project.lock.replace(npm.registry_url, mirror.index_url))
    soil = packed.pack("soil", "3.1.0")
    encoded = base64.b64encode(hashlib.sha384(soil.content).digest()).decode()
    document["packages"]["node_modules/soil"]["integrity"] = f"sha384-{encoded}"
    lock = project.lock_path
    lock.write_text(json.dumps(document))
    assert warm(mirror, lock, *HERE, here=False).ready
    assert ready(mirror, lock, *HERE, here=False).ready
