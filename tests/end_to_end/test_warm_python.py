"""``edge warm`` and ``edge ready`` for Python's lock files: right before and after, by the real clients with everything upstream dead."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from edge.readiness import MORE
from edge.readiness.python import UNREAD
from tests import proxy_stage
from tests.fakes import Authority, FakeNpm, FakePyPI
from tests.harness import PDM, PIP, POETRY, TOOLS, UV, Edge, Pdm, Poetry, Result, Rule, Uv, Workspace
from tests.proxy_stage import PYTHON_TREE, LockedPython, start_proxy, straight_to
from tests.stage import StartEdge
from tests.warm_stage import HOURS_S, half, held, lose, ready, warm
from tests.wheels import BACKEND, KB, Distribution, Shelf

pytestmark = pytest.mark.slow

authority, packed, pypi, npm = proxy_stage.authority, proxy_stage.packed, proxy_stage.pypi, proxy_stage.npm

FILES = ["apple_tree-1.5-py3-none-any.whl", "orchard-2.0-py3-none-any.whl", "pear_tree-1.0.tar.gz", "soil-3.1-py3-none-any.whl"]
PAGES = [f"the page of {name}" for name in PYTHON_TREE]


# ---- locks that name the registry, through the proxy face ---------------------------------------------------------------


@pytest.mark.parametrize("client", [UV, POETRY, PDM], ids=lambda client: client.name)
def test_a_lock_that_was_warmed_installs_with_everything_upstream_gone(
    authority: Authority, pypi: FakePyPI, npm: FakeNpm, scratch: Path, client: Uv | Poetry | Pdm
) -> None:
    project = LockedPython(client, Path(tempfile.mkdtemp(dir=scratch)), pypi.index_url)
    with straight_to(authority, scratch, pypi) as straight:
        project.through = straight.through
        project.make()
    lock = project.workspace.project / f"{client.name}.lock"
    with start_proxy(authority, scratch, pypi, npm) as edge:
        edge.wait_learnt()
        before = ready(edge, lock)
        assert not before.ready
        # uv goes where its lock says, and asks for no page.
        assert before.missing == sorted(FILES if client is UV else PAGES + FILES)

        assert warm(edge, lock).status == 0
        project.through = edge.running
        try:
            pypi.refuse()
            edge.age(HOURS_S)
            assert ready(edge, lock).ready
            done = project.replay()
            assert done.succeeded, done.output

            lost = half(FILES)
            lose(edge, lost)
            after = ready(edge, lock)
            assert not after.ready
            assert after.missing == lost
            # The others would try for a minute.
            assert client is not UV or not project.replay().succeeded
        finally:
            edge.age(0)
            pypi.listen_again()
        assert warm(edge, lock).ready
        assert ready(edge, lock).ready


# ---- locks made with the mirror -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def garden(shelf: Shelf, fake: FakePyPI) -> list[Distribution]:
    """A small world, of which ``numeric`` has wheels for several platforms; without ``apple-tree`` 2.0, which nobody wants."""
    made = [
        shelf.wheel("orchard", "2.0", requires=["apple-tree>=1,<2", "pear-tree", "numeric"]),
        shelf.wheel("apple-tree", "1.5", requires=["soil>=3"], size=300 * KB),
        shelf.sdist("pear-tree", "1.0", requires=["soil"]),
        shelf.wheel("soil", "3.1"),
        shelf.sdist("soil", "3.1"),
        *(
            shelf.wheel("numeric", "1.0", python_tag="cp313", rest=f"cp313-{platform}")
            for platform in ("manylinux_2_17_x86_64", "macosx_11_0_arm64", "win_amd64")
        ),
    ]
    fake.publish(*made, shelf.wheel("apple-tree", "2.0"))
    return made


TREE = {**PYTHON_TREE, "numeric": "1.0"}
NATIVE = "numeric-1.0-cp313-cp313-manylinux_2_17_x86_64.whl"


@dataclass(frozen=True)
class Case:
    """A lock file made with the mirror at ``index_url``, and how it is installed from there."""

    name: str
    lock: str
    make: Callable[[Workspace, str, list[Distribution]], None]
    install: Callable[[Workspace, str], Result]
    asks: frozenset[str] = frozenset({"page"})


def _pinned(workspace: Workspace, index_url: str, garden: list[Distribution]) -> None:
    pins: dict[str, list[str]] = {}
    for each in garden:
        pins.setdefault(each.pin, []).append(each.hash_option)
    text = "".join(f"{pin} \\\n    {' '.join(hashes)}\n" for pin, hashes in pins.items())
    (workspace.project / "base.txt").write_text(text)
    (workspace.project / "requirements.txt").write_text("--require-hashes\n-r base.txt\n")


def _pip(workspace: Workspace, index_url: str, lock: str = "requirements.txt") -> Result:
    target = workspace.fresh_environment()
    words: list[str | Path] = [PIP.python, "-I", "-m", "pip", "--python", target, "--cache-dir", workspace.cache]
    return workspace.run([*words, "install", "--index-url", index_url, "-r", lock], PIP._variables(), workspace.project, 120)


def _uv_pip(workspace: Workspace, index_url: str) -> Result:
    target = workspace.fresh_environment()
    words: list[str | Path] = [
        TOOLS / "bin" / "uv",
        "pip",
        "install",
        "--python",
        target,
        "--default-index",
        index_url,
        "-r",
        "requirements.txt",
    ]
    return workspace.run(words, UV.variables(workspace), workspace.project, 120)


def _pip_lock(workspace: Workspace, index_url: str, _: list[Distribution]) -> None:
    made = PIP.lock(workspace, index_url, ["orchard"])
    assert made.succeeded, made.output


def _uv_export(workspace: Workspace, index_url: str, _: list[Distribution]) -> None:
    made = UV.lock(workspace, index_url, ["orchard"])
    assert made.succeeded, made.output
    words: list[str | Path] = [
        TOOLS / "bin" / "uv",
        "export",
        "--frozen",
        "--format",
        "pylock.toml",
        "-o",
        "pylock.toml",
        "--no-emit-project",
    ]
    made = workspace.run(words, UV.variables(workspace), workspace.project, 60)
    assert made.succeeded, made.output


def _uv_pylock(workspace: Workspace, index_url: str) -> Result:
    target = workspace.fresh_environment()
    words: list[str | Path] = [TOOLS / "bin" / "uv", "pip", "sync", "--preview", "--python", target, "pylock.toml"]
    return workspace.run(words, UV.variables(workspace), workspace.project, 120)


def _uv_lock(workspace: Workspace, index_url: str, _: list[Distribution]) -> None:
    made = UV.lock(workspace, index_url, ["orchard"])
    assert made.succeeded, made.output


CASES = [
    Case("pip", "requirements.txt", _pinned, _pip, frozenset({"page", "sidecar"})),
    Case("uv pip", "requirements.txt", _pinned, _uv_pip, frozenset({"page", "sidecar"})),
    Case("pip lock", "pylock.toml", _pip_lock, partial(_pip, lock="pylock.toml"), frozenset()),
    Case("uv export", "pylock.toml", _uv_export, _uv_pylock, frozenset()),
    Case("uv lock", "uv.lock", _uv_lock, lambda workspace, _: UV.sync(workspace, "--frozen"), frozenset()),
]


@pytest.fixture
def mirror(start_edge: StartEdge, well_behaved: None) -> Edge:
    """An edge of the test's own before the fake."""
    return start_edge()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_lock_made_with_the_mirror_installs_with_the_registry_gone_once_it_is_warm(
    start_edge: StartEdge, fake: FakePyPI, garden: list[Distribution], workspace: Workspace, case: Case, well_behaved: None
) -> None:
    with_pages = start_edge()
    case.make(workspace, with_pages.index_url, garden)
    lock = workspace.project / case.lock
    # Another edge at the same address has nothing of what was asked for to make the lock.
    with_pages.stop()
    shutil.rmtree(with_pages.data)
    edge = with_pages
    edge.data.mkdir()
    edge.start()

    files = [*FILES, NATIVE]
    before = ready(edge, lock)
    assert not before.ready
    assert before.missing == sorted([f"the page of {name}" for name in TREE] if "page" in case.asks else files)
    # Without its page nobody can tell which files of a project fit, nor what builds a source distribution without that.
    assert before.lock["notes"][-1].endswith(MORE)

    assert warm(edge, lock).status == 0
    fake.refuse()
    edge.age(HOURS_S)
    after = ready(edge, lock)
    assert after.ready, after.output
    workspace.empty_cache()
    done = case.install(workspace, edge.index_url)
    assert done.succeeded, done.output
    assert done.installed == TREE

    asked = [*files, *(f"{name}.metadata" for name in files if name.endswith(".whl") and "sidecar" in case.asks)]
    lost = half(asked)
    lose(edge, lost)
    assert ready(edge, lock).missing == lost
    lose(edge, asked)
    assert ready(edge, lock).missing == sorted(asked)
    workspace.empty_cache()
    # pip would try for a minute.
    assert not case.name.startswith("uv") or not case.install(workspace, edge.index_url).succeeded


def test_each_platform_is_told_of_by_itself(
    mirror: Edge, fake: FakePyPI, garden: list[Distribution], workspace: Workspace
) -> None:
    _pinned(workspace, mirror.index_url, garden)
    lock = workspace.project / "requirements.txt"
    assert warm(mirror, lock).status == 0
    said = ready(mirror, lock, "--platform", "win_amd64", "--platform", "linux_aarch64")
    assert {(each["platform"], each["ready"], each["why"]) for each in said.lock["platforms"]} == {
        ("linux_x86_64", True, None),
        ("win_amd64", False, None),
        ("linux_aarch64", False, "no file of numeric 1.0 fits"),
    }
    (windows,) = [each for each in said.lock["missing"] if each["name"].endswith(".whl")]
    assert (windows["name"], windows["on"]) == ("numeric-1.0-cp313-cp313-win_amd64.whl", ["win_amd64, Python 3.13"])

    # Unasked, those platforms and Pythons count that there is a file for.
    assert warm(mirror, lock, here=False).status == 0
    fake.refuse()
    everywhere = ready(mirror, lock, here=False)
    assert everywhere.ready
    assert {(each["platform"], each["python"]) for each in everywhere.lock["platforms"] if each["ready"]} == {
        ("linux_x86_64", "3.13"),
        ("macosx_arm64", "3.13"),
        ("win_amd64", "3.13"),
    }


def test_a_lock_is_not_ready_for_a_python_that_it_is_not_for(
    mirror: Edge, garden: list[Distribution], workspace: Workspace
) -> None:
    lock = workspace.project / "uv.lock"
    (soil,) = [each for each in garden if each.filename == "soil-3.1-py3-none-any.whl"]
    lock.write_text(
        'version = 1\nrevision = 3\nrequires-python = ">=3.13"\n\n'
        '[[package]]\nname = "garden"\nversion = "0.1.0"\nsource = { virtual = "." }\ndependencies = [{ name = "soil" }]\n\n'
        f'[[package]]\nname = "soil"\nversion = "3.1"\nsource = {{ registry = "{mirror.index_url}" }}\n'
        f'wheels = [{{ url = "{mirror.index_url}soil/{soil.filename}", hash = "sha256:{soil.sha256}", size = 1 }}]\n'
    )
    for words in (("--python", "3.12"), ("--python", "3.12", "--platform", "linux_x86_64")):
        said = ready(mirror, lock, *words, here=False)
        assert not said.ready
        assert {each["why"] for each in said.lock["platforms"]} == {"the lock is for Python >=3.13"}


def test_what_a_rule_refuses_is_not_ready_and_the_rule_is_named(
    mirror: Edge, fake: FakePyPI, garden: list[Distribution], workspace: Workspace
) -> None:
    _pinned(workspace, mirror.index_url, garden)
    lock = workspace.project / "requirements.txt"
    assert warm(mirror, lock).ready
    mirror.set_rules(Rule("pkg:pypi/pear-tree@1.0", "they are not ripe", "no-pears"))
    said = ready(mirror, lock)
    while said.ready:
        said = ready(mirror, lock)
    assert said.refused == {"pear_tree-1.0.tar.gz": "no-pears"} or set(said.refused.values()) == {"no-pears"}
    assert said.missing == []
    told = mirror.command("ready", str(lock))
    assert "refused by rule no-pears" in told.stdout
    assert "they are not ripe" in told.stdout


def test_what_builds_an_sdist_is_fetched_and_missed_too(
    mirror: Edge, fake: FakePyPI, shelf: Shelf, workspace: Workspace, project: str
) -> None:
    """The builder is named by no lock file: the newest that fits is taken, as pip and uv take it."""
    builder, tool, newest = f"{project}-builder", f"{project}-tool", "1.9"
    source = shelf.sdist(project, "1.0", build_requires=[f"{builder}>=1,<2"])
    fake.publish(
        source,
        shelf.wheel(builder, "1.0"),
        shelf.wheel(builder, newest, requires=[tool, 'never; sys_platform == "win32"']),
        shelf.wheel(builder, "2.0"),
        shelf.wheel(tool, "0.1"),
    )
    (workspace.project / "requirements.txt").write_text(f"{source.pin} {source.hash_option}\n")
    lock = workspace.project / "requirements.txt"
    said = warm(mirror, lock)
    assert said.status == 0, said.output
    assert any("is built from source" in note for note in said.lock["notes"])
    fake.refuse()
    mirror.age(HOURS_S)
    assert ready(mirror, lock).ready
    done = _pip(workspace, mirror.index_url)
    assert done.succeeded, done.output
    workspace.empty_cache()
    done = _uv_pip(workspace, mirror.index_url)
    assert done.succeeded, done.output

    lose(mirror, [f"{tool.replace('-', '_')}-0.1-py3-none-any.whl"])
    assert ready(mirror, lock).missing == [f"{tool.replace('-', '_')}-0.1-py3-none-any.whl"]

    # With the source gone nothing here says any more what builds it, nor with the builder what that requires: it was remembered.
    wheels = [f"{each.replace('-', '_')}-{version}-py3-none-any.whl" for each, version in ((builder, newest), (tool, "0.1"))]
    everything = sorted([source.filename, *wheels, *(f"{wheel}.metadata" for wheel in wheels)])
    for lost in ([*wheels, f"{wheels[0]}.metadata"], everything):
        lose(mirror, lost)
        said = ready(mirror, lock)
        assert said.missing == sorted(lost)
        assert not any(MORE in note for note in said.lock["notes"])


def test_a_source_distribution_that_is_built_with_nothing_leads_to_nothing_more_when_it_is_missing(
    mirror: Edge, fake: FakePyPI, shelf: Shelf, workspace: Workspace, project: str
) -> None:
    source = shelf.sdist(project, "1.0")
    fake.publish(source)
    lock = workspace.project / "requirements.txt"
    lock.write_text(f"{source.pin} {source.hash_option}\n")
    assert mirror.command("refresh", f"pkg:pypi/{project}").returncode == 0
    before = ready(mirror, lock)
    assert (before.missing, before.lock["notes"]) == ([source.filename], [UNREAD])
    assert warm(mirror, lock).ready
    lose(mirror, [source.filename])
    said = ready(mirror, lock)
    assert (said.missing, said.lock["notes"]) == ([source.filename], [])


def test_what_builds_the_project_itself_is_fetched_too(
    mirror: Edge, fake: FakePyPI, shelf: Shelf, workspace: Workspace, project: str
) -> None:
    """``uv sync`` installs the project that the lock is of, and for that builds it."""
    builder = shelf.wheel(f"{project}-builder", "1.5")
    soil = shelf.wheel(f"{project}-soil", "1.0")
    fake.publish(builder, soil)
    (workspace.project / "backend.py").write_text(BACKEND)
    (workspace.project / "recipe.py").write_text(
        'NAME = "locked"\nVERSION = "1"\nMODULE = "locked"\nMETADATA = "Metadata-Version: 2.1\\nName: locked\\nVersion: 1\\n"\n'
    )
    (workspace.project / "locked.py").write_text("")
    (workspace.project / "pyproject.toml").write_text(
        f'[project]\nname = "locked"\nversion = "1"\nrequires-python = ">=3.13"\ndependencies = ["{soil.project}"]\n'
        f'[build-system]\nrequires = ["{builder.project}>=1"]\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    uv, variables = TOOLS / "bin" / "uv", UV.variables(workspace)
    words: list[str | Path] = [uv, "lock", "--python", TOOLS / "bin" / "python", "--default-index", mirror.index_url]
    made = workspace.run(words, variables, workspace.project, 60)
    assert made.succeeded, made.output
    lock = workspace.project / "uv.lock"
    assert ready(mirror, lock).missing == sorted([soil.filename, f"the page of {builder.project}"])
    assert warm(mirror, lock).ready
    fake.refuse()
    mirror.age(HOURS_S)
    assert ready(mirror, lock).ready
    workspace.empty_cache()
    workspace.fresh_environment()
    environment = variables | {"UV_PROJECT_ENVIRONMENT": str(workspace.environment)}
    words = [uv, "sync", "--frozen", "--no-editable", "--default-index", mirror.index_url]
    done = workspace.run(words, environment, workspace.project, 60)
    assert done.succeeded, done.output
    assert done.installed == {soil.project: "1.0", "locked": "1"}


def test_poetrys_own_document_is_fetched_if_the_lock_names_no_source(
    mirror: Edge, fake: FakePyPI, garden: list[Distribution], workspace: Workspace
) -> None:
    """Poetry asks the public index, which it knows by itself, for its JSON document."""
    assert POETRY.lock(workspace, mirror.index_url, ["soil"]).succeeded
    lock = workspace.project / "poetry.lock"
    lock.write_text(re.sub(r"\n\[package\.source\](?:\n.+)+", "", lock.read_text()))
    assert "the JSON document of soil 3.1" in ready(mirror, lock).missing
    assert warm(mirror, lock).ready
    fake.refuse()
    mirror.age(HOURS_S)
    assert ready(mirror, lock).ready
    assert mirror.ask("/pypi/pypi/soil/3.1/json").status == 200


def test_what_is_from_elsewhere_is_told_and_only_minded_if_it_is_remote(
    mirror: Edge, fake: FakePyPI, garden: list[Distribution], workspace: Workspace
) -> None:
    soil = next(each for each in garden if each.filename == "soil-3.1-py3-none-any.whl")
    lock = workspace.project / "requirements.txt"
    lock.write_text(f"{soil.pin} {soil.hash_option}\n./beside\n")
    assert warm(mirror, lock).ready
    assert ready(mirror, lock).elsewhere == {"./beside": "a file or directory"}
    lock.write_text(f"{soil.pin} {soil.hash_option}\ngit+https://code.test/x.git#egg=x\n")
    said = ready(mirror, lock)
    assert not said.ready
    assert said.elsewhere == {"x": "git at code.test"}
    assert ready(mirror, lock, "--covered").ready
    assert "not from a registry: not covered  x (git at code.test)" in mirror.command("ready", str(lock)).stdout


def test_what_was_warmed_is_not_evicted_until_it_is_unpinned(
    start_edge: StartEdge, fake: FakePyPI, shelf: Shelf, workspace: Workspace, project: str, well_behaved: None
) -> None:
    edge = start_edge(top='[store]\nlimit = "4MB"\n')
    kept = shelf.wheel(project, "1.0", size=2000 * KB)
    others = [shelf.wheel(f"{project}-{number}", "1.0", size=1500 * KB) for number in range(4)]
    fake.publish(kept, *others)
    lock = workspace.project / "requirements.txt"
    lock.write_text(f"{kept.pin} {kept.hash_option}\n")
    assert warm(edge, lock).ready
    for other in others:
        assert edge.page(other.project).status == 200
        assert edge.file(other).status == 200
    assert edge.holds(kept)
    told = edge.command("warm", "--unpin", str(lock))
    assert told.returncode == 0, told.stderr
    for other in others:
        edge.file(other)
    assert not edge.holds(kept)


def test_a_lock_that_makes_no_sense_is_told_with_its_line(mirror: Edge, workspace: Workspace) -> None:
    (workspace.project / "uv.lock").write_text("version = 1\n[[package]\n")
    for command in ("warm", "ready"):
        told = mirror.command(command, str(workspace.project / "uv.lock"))
        assert told.returncode == 2
        assert f"edge: {workspace.project / 'uv.lock'}: line 2: no TOML" in told.stderr


def test_what_cannot_be_had_is_listed_at_the_end_and_the_status_says_so(
    mirror: Edge, fake: FakePyPI, garden: list[Distribution], workspace: Workspace
) -> None:
    soil = next(each for each in garden if each.filename == "soil-3.1-py3-none-any.whl")
    lock = workspace.project / "requirements.txt"
    lock.write_text(f"{soil.pin} {soil.hash_option}\nnowhere==1.0 {soil.hash_option}\n")
    told = mirror.command("warm", str(lock))
    assert told.returncode == 1
    assert "missing  the page of nowhere" in told.stdout
    assert mirror.holds(soil)


def test_without_a_running_edge_the_store_is_looked_at(
    mirror: Edge, fake: FakePyPI, garden: list[Distribution], workspace: Workspace
) -> None:
    _pinned(workspace, mirror.index_url, garden)
    lock = workspace.project / "requirements.txt"
    assert warm(mirror, lock).ready
    mirror.stop()
    assert ready(mirror, lock).ready
    assert "no edge or origin is running" in mirror.command("warm", str(lock)).stderr
    for path in held(mirror):
        path.unlink()
    assert not ready(mirror, lock).ready
