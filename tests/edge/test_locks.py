"""What each format's reader makes of lock files: those that the real programs wrote (``tests/data/locks``), and of odd ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.locks import Elsewhere, Lock, Malformed, gradle, npm, pnpm, python, reading, requirements, yarn
from edge.locks.targets import Target, applying
from origin.model import Digest

LOCKS = Path(__file__).resolve().parents[1] / "data" / "locks"
LINUX, WINDOWS = Target("linux_x86_64", "3.13"), Target("win_amd64", "3.13")
SHA256, SHA512 = "a" * 64, f"sha512-{'A' * 86}=="
ORCHARD = ["apple-tree 1.5", "orchard 2.0", "pear-tree 1.0", "soil 3.1"]
GARDEN = ["@farm/rain-water 0.2.0", "orchard 2.1.0", "pear 1.2.7", "soil 3.1.0"]


def named(lock: Lock, target: Target = LINUX) -> list[str]:
    """What applies on a target, as name and version."""
    return sorted(
        f"{needed.project} {needed.version}"
        for needed in (lock.needed[i] for i in applying(lock, target).needed)
        if needed.version
    )


def required(text: str, **others: str) -> Lock:
    """A requirements file, with those that it includes."""
    texts = {"requirements.txt": text, **others}
    return requirements.read("requirements.txt", texts.__getitem__)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("uv.lock", python.UV),
        ("poetry.lock", python.POETRY),
        ("pdm.lock", python.PDM),
        ("pylock.toml", python.PYLOCK),
        ("pylock.uv.toml", python.PYLOCK),
        ("requirements.txt", requirements.FORMAT),
    ],
)
def test_what_pythons_programs_wrote_is_read(name: str, kept: str) -> None:
    lock = reading.read(LOCKS / name)
    assert lock.format == kept
    assert named(lock) == ORCHARD
    # pip's lock is for the machine that it was made on.
    assert named(lock, WINDOWS) == ORCHARD + (["win-only 1.0"] if name != "pylock.toml" else [])
    assert lock.elsewhere == ()
    wheel = "d798beae0fbfcffcdb35358cd4afbf15a1e134d37c7d3e62d5ed5142bb67713c"
    soil = next(needed for needed in lock.needed if needed.project == "soil")
    digests = soil.digests or tuple(digest for file in soil.files for digest in file.digests)
    assert Digest("sha256", wheel) in digests


@pytest.mark.parametrize(
    ("name", "natives", "elsewhere"),
    [
        ("package-lock.json", ["native-linux 1.0.0", "native-musl 1.0.0"], []),
        ("bun.lock", ["native-linux 1.0.0"], []),
        ("pnpm-lock.yaml", ["native-linux 1.0.0"], []),
        ("yarn-1/yarn.lock", ["native-linux 1.0.0", "native-mac 1.0.0", "native-musl 1.0.0"], []),
        ("yarn-4/yarn.lock", ["native-linux 1.0.0"], []),
    ],
)
def test_what_npms_clients_wrote_is_read(name: str, natives: list[str], elsewhere: list[str]) -> None:
    """npm 10 does not write down libc, and fetches accordingly; Yarn 1 fetches whatever is locked."""
    lock = reading.read(LOCKS / name)
    assert named(lock, Target("linux_x86_64")) == sorted(GARDEN + natives)
    assert sorted(each.name for each in lock.elsewhere) == elsewhere
    others = [native for native in natives if "mac" in native or name.startswith("yarn-1")]
    assert named(lock, Target("win_amd64")) == sorted(GARDEN + others)
    soil = next(needed for needed in lock.needed if needed.project == "soil")
    assert [file.filename for file in soil.files] == ["soil-3.1.0.tgz"]
    # Yarn 4's checksums are of archives of its own.
    assert [digest.algorithm for file in soil.files for digest in file.digests] == (
        [] if name.startswith("yarn-4") else ["sha512"]
    )


# ---- requirements ----------------------------------------------------------------------------------------------------


def test_requirements_include_others_are_constrained_and_have_markers() -> None:
    text = f"""\
-r base.txt   # first of all
-c pins.txt
--index-url https://index.test/simple
--only-binary pear
Apple.Tree[juice] == 1.5 ; sys_platform == "win32" \\
    --hash=sha256:{SHA256} \\
    --hash sha256:{"b" * 64}   # two of them
pear --hash=sha256:{SHA256}
-e .
./wheels/local-1.0-py3-none-any.whl
git+https://code.test/x.git@v1#egg=from-git
direct @ https://token:secret@code.test/direct-1.0.zip
"""
    lock = required(text, **{"base.txt": f"soil==3.1 --hash=sha256:{SHA256}\n", "pins.txt": "pear==2.0\nunused==1\n"})
    assert named(lock) == ["pear 2.0", "soil 3.1"]
    assert named(lock, WINDOWS) == ["apple-tree 1.5", "pear 2.0", "soil 3.1"]
    apple = lock.needed[1]
    assert [digest.value for digest in apple.digests] == [SHA256, "b" * 64]
    assert apple.source == "https://index.test/simple"
    assert [needed.form for needed in lock.needed] == ["any", "any", "wheel"]
    assert [(each.name, each.where, each.remote) for each in lock.elsewhere] == [
        (".", "a file or directory", False),
        ("./wheels/local-1.0-py3-none-any.whl", "a file or directory", False),
        ("from-git", "git at code.test", True),
        ("direct", "code.test", True),
    ]


def test_the_python_that_requirements_were_compiled_with_is_the_one_they_are_for() -> None:
    text = f"# This file is autogenerated by pip-compile with Python 3.12\nsoil==3.1 --hash=sha256:{SHA256}\n"
    assert required(text).pythons == ("3.12",)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (f"# a\nsoil>=3 --hash=sha256:{SHA256}\n", "line 2: soil is not pinned"),
        (f"soil==3.* --hash=sha256:{SHA256}\n", "line 1: soil is not pinned"),
        ("soil==3.1\n", "line 1: soil has no --hash"),
        ("\nsoil==3.1 --hash=sha256:beef\n", "line 2: 'sha256:beef' is no hash"),
        ("so il==3.1\n", "line 1: 'so il==3.1' is no requirement"),
        ("--frobnicate\n", "line 1: '--frobnicate' is no option"),
        ("-r\n", "line 1: -r needs a value"),
        ("-r https://code.test/requirements.txt\n", "line 1: https://code.test/requirements.txt is elsewhere"),
        ("-r missing.txt\n", "line 1: missing.txt cannot be read"),
        ("-r bad.txt\n", "bad.txt: line 3: soil has no --hash"),
        ("\n# nothing\n", "it requires nothing"),
        ("-r '\n", 'line 1: "-r \'" cannot be read'),
    ],
)
def test_requirements_that_say_too_little_are_told_with_their_line(text: str, complaint: str) -> None:
    def texts(name: str) -> str:
        if name == "requirements.txt":
            return text
        if name == "bad.txt":
            return "\n\nsoil==3.1\n"
        raise FileNotFoundError(2, "there is no such file")

    with pytest.raises(Malformed) as caught:
        requirements.read("requirements.txt", texts)
    assert str(caught.value).startswith(complaint)


def test_files_that_include_one_another_are_read_once() -> None:
    lock = required(
        f"-r a.txt\nsoil==3.1 --hash=sha256:{SHA256}\n", **{"a.txt": f"-r requirements.txt\npear==1 --hash=md5:{'a' * 32}\n"}
    )
    assert named(lock) == ["pear 1", "soil 3.1"]


# ---- uv, poetry, pdm, pylock -----------------------------------------------------------------------------------------

UV_HEAD = 'version = 1\nrequires-python = ">=3.12"\n'


def uv_package(name: str, version: str, more: str = "", source: str = '{ registry = "https://pypi.test/simple" }') -> str:
    return (
        f'\n[[package]]\nname = "{name}"\nversion = "{version}"\nsource = {source}\n'
        f'wheels = [{{ url = "https://files.test/{name}-{version}-py3-none-any.whl", hash = "sha256:{SHA256}" }}]\n{more}'
    )


def test_of_a_uv_lock_that_applies_to_which_a_way_leads_from_the_project() -> None:
    """Through markers, extras and groups, and to the version of a fork that the dependency names."""
    fork = 'name = "fork", source = { registry = "https://pypi.test/simple" }'
    dependencies = [
        '{ name = "a", extra = ["fast"] }',
        f'{{ {fork}, version = "1", marker = "python_full_version < \'3.13\'" }}',
        f'{{ {fork}, version = "2", marker = "python_full_version >= \'3.13\'" }}',
    ]
    app = f"""
[[package]]
name = "app"
version = "1"
source = {{ editable = "." }}
dependencies = [{", ".join(dependencies)}]
[package.optional-dependencies]
extra = [{{ name = "b" }}]
[package.dev-dependencies]
dev = [{{ name = "c" }}]
"""
    text = UV_HEAD + app
    text += uv_package("a", "1", '[package.optional-dependencies]\nfast = [{ name = "d" }]\nslow = [{ name = "e" }]\n')
    text += "".join(uv_package(name, "1") for name in ("b", "c", "d", "e", "fork", "unreached")) + uv_package("fork", "2")
    lock = python.read_uv(text)
    assert named(lock) == ["a 1", "b 1", "c 1", "d 1", "fork 2"]
    assert named(lock, Target("linux_x86_64", "3.12")) == ["a 1", "b 1", "c 1", "d 1", "fork 1"]
    assert "Python >=3.12" in applying(lock, Target("linux_x86_64", "3.11")).why


def test_of_a_uv_lock_what_is_not_from_a_registry_is_told_with_whether_it_is_remote() -> None:
    places = {
        "from-git": '{ git = "https://code.test/x?rev=1#abc" }',
        "from-url": '{ url = "https://code.test/x.zip" }',
        "beside": '{ directory = "../beside" }',
        "flat": '{ registry = "wheels" }',
    }
    lock = python.read_uv(UV_HEAD + "".join(uv_package(name, "1", source=source) for name, source in places.items()))
    assert [(each.name, each.remote) for each in lock.elsewhere] == [
        ("from-git 1", True),
        ("from-url 1", True),
        ("beside 1", False),
        ("flat 1", False),
    ]


def test_a_scripts_uv_lock_begins_with_what_the_script_requires() -> None:
    text = (
        UV_HEAD + '[manifest]\nrequirements = [{ name = "a", specifier = ">=1" }]\n' + uv_package("a", "1") + uv_package("b", "1")
    )
    assert named(python.read_uv(text)) == ["a 1"]


def test_the_environments_of_a_uv_lock_say_where_it_is_for() -> None:
    lock = python.read_uv(UV_HEAD + "supported-markers = [\"sys_platform == 'linux'\"]\n" + uv_package("a", "1"))
    assert applying(lock, LINUX).why == ""
    assert applying(lock, WINDOWS).why == "the lock is not made for it"


def test_conflicting_extras_of_a_uv_lock_are_all_taken_for_possible() -> None:
    dependencies = (
        "dependencies = [{ name = \"cpu\", marker = \"extra == 'extra-3-app-cpu' or (extra == 'x' and extra == 'y')\" }, "
        "{ name = \"gpu\", marker = \"sys_platform == 'win32' and extra == 'extra-3-app-gpu'\" }]\n"
    )
    app = f'[[package]]\nname = "app"\nversion = "1"\nsource = {{ virtual = "." }}\n{dependencies}'
    lock = python.read_uv(UV_HEAD + app + uv_package("cpu", "1") + uv_package("gpu", "1"))
    assert named(lock) == ["cpu 1"]
    assert named(lock, WINDOWS) == ["cpu 1", "gpu 1"]


def test_a_poetry_lock_of_version_1_has_its_files_apart() -> None:
    text = (
        f'[[package]]\nname = "Soil.Good"\nversion = "3.1"\noptional = false\n[package.dependencies]\nx = "*"\n'
        f'[metadata]\nlock-version = "1.1"\npython-versions = "^3.9"\n[metadata.files]\n'
        f'"Soil.Good" = [{{file = "soil_good-3.1.tar.gz", hash = "sha256:{SHA256}"}}]\n'
    )
    lock = python.read_poetry(text)
    assert lock.requires_python == ">=3.9,<4"
    (soil,) = lock.needed
    assert (soil.project, soil.asks, soil.files[0].filename) == ("soil-good", ("page", "json"), "soil_good-3.1.tar.gz")


@pytest.mark.parametrize(
    ("constraint", "specifier"),
    [
        (">=3.13,<4", ">=3.13,<4"),
        ("^3.11", ">=3.11,<4"),
        ("~3.11", ">=3.11,<3.12"),
        ("~3", ">=3,<4"),
        ("3.11", "==3.11"),
        (">=3.8, !=3.9", ">=3.8,!=3.9"),
        ("~2.7 || ^3.6", ""),
        ("*", ""),
    ],
)
def test_poetrys_constraint_on_python_is_a_specifier(constraint: str, specifier: str) -> None:
    text = f'[metadata]\npython-versions = "{constraint}"\n'
    assert python.read_poetry(text).requires_python == specifier


def test_a_poetry_package_for_some_groups_applies_if_any_of_their_markers_holds() -> None:
    text = (
        f'[[package]]\nname = "a"\nversion = "1"\nfiles = [{{file = "a-1.tar.gz", hash = "sha256:{SHA256}"}}]\n'
        "[package.markers]\nmain = \"sys_platform == 'win32'\"\ndev = \"sys_platform == 'darwin'\"\n"
        '[[package]]\nname = "b"\nversion = "1"\n[package.source]\ntype = "git"\nurl = "https://code.test/b.git"\n[metadata]\n'
    )
    lock = python.read_poetry(text)
    assert named(lock) == []
    assert named(lock, WINDOWS) == ["a 1"]
    assert lock.elsewhere == (Elsewhere("b 1", "git at code.test", remote=True),)


def test_of_a_pylock_what_extras_and_groups_may_ask_for_applies() -> None:
    text = (
        'lock-version = "1.0"\ncreated-by = "x"\nextras = ["fast"]\ndependency-groups = ["dev"]\n'
        "environments = [\"sys_platform == 'linux'\"]\n"
    )
    for name, marker in [("a", "'fast' in extras"), ("b", "'dev' in dependency_groups"), ("c", "'other' in extras")]:
        text += (
            f'[[packages]]\nname = "{name}"\nversion = "1"\nmarker = "{marker}"\nindex = "https://pypi.test/simple"\n'
            f'wheels = [{{ url = "https://files.test/{name}-1-py3-none-any.whl", hashes = {{ sha256 = "{SHA256}", whirlpool = "00" }} }}]\n'
        )
    text += '[[packages]]\nname = "d"\nvcs = { type = "git", url = "https://code.test/d.git", commit-id = "abc" }\n'
    text += '[[packages]]\nname = "e"\ndirectory = { path = "." }\n'
    lock = python.read_pylock(text)
    assert named(lock) == ["a 1", "b 1"]
    assert applying(lock, WINDOWS).why == "the lock is not made for it"
    assert [(each.name, each.remote) for each in lock.elsewhere] == [("d", True), ("e", False)]


# ---- npm, pnpm, yarn, bun --------------------------------------------------------------------------------------------


def test_a_package_lock_of_version_1_is_read_to_its_depths_and_its_pages_are_asked_for() -> None:
    tarball = {"version": "1.3.0", "resolved": "https://npm.test/left-pad/-/left-pad-1.3.0.tgz", "integrity": SHA512}
    text = json.dumps(
        {
            "lockfileVersion": 1,
            "dependencies": {
                "a": {**tarball, "dependencies": {"left-pad": tarball, "bundled": {**tarball, "bundled": True}}},
                "aliased": {**tarball, "version": "npm:left-pad@1.3.0"},
                "from-git": {"version": "git+ssh://git@code.test/x.git#abc"},
                "beside": {"version": "file:../beside"},
                "hub": {"version": "github:owner/name#abc"},
            },
        }
    )
    lock = npm.read(text)
    assert named(lock, Target("linux_x86_64")) == ["a 1.3.0", "left-pad 1.3.0"]
    assert {needed.asks for needed in lock.needed} == {("page",)}
    assert [(each.name, each.where, each.remote) for each in lock.elsewhere] == [
        ("from-git", "git at code.test", True),
        ("beside", "a file or directory", False),
        ("hub", "git at github:owner/name", True),
    ]


def test_a_package_lock_without_addresses_has_the_pages_asked_for() -> None:
    packages = {
        "": {"name": "app"},
        "packages/own": {"version": "1.0.0"},
        "node_modules/own": {"resolved": "packages/own", "link": True},
        "node_modules/a": {"version": "1.0.0", "integrity": SHA512},
        "node_modules/a/node_modules/b": {"version": "1.0.0", "inBundle": True},
        "node_modules/c": {"version": "1.0.0", "resolved": "git+https://code.test/c.git#abc"},
        "node_modules/alias": {"name": "@s/real", "version": "2.0.0", "resolved": "https://npm.test/@s/real/-/real-2.0.0.tgz"},
    }
    lock = npm.read(json.dumps({"lockfileVersion": 3, "packages": packages}))
    assert {needed.project: needed.asks for needed in lock.needed} == {"a": ("page",), "@s/real": ()}
    assert [each.name for each in lock.elsewhere] == ["own", "c"]


PNPM_6 = f"""lockfileVersion: '6.0'

dependencies:
  a:
    specifier: ^1.0.0
    version: 1.0.0(peer@2.0.0)

packages:

  /@s/a@1.0.0(peer@2.0.0):
    resolution: {{integrity: {SHA512}}}
    engines: {{node: '>=10'}}
    deprecated: >-
      no longer: maintained

      at all
    dependencies:
      peer: 2.0.0
    dev: false

  /native@1.0.0:
    resolution: {{integrity: {SHA512}, tarball: https://npm.test/native/-/native-1.0.0.tgz}}
    os: ['!win32']
    cpu: [x64]
    requiresBuild: true
    optional: true

  github.com/owner/name/abc:
    resolution: {{tarball: https://code.test/owner/name/tar.gz/abc}}
    name: from-git
    version: 1.0.0

  file:beside:
    resolution: {{directory: beside, type: directory}}
    name: beside
"""


def test_a_pnpm_lock_of_version_6_and_of_5_is_read() -> None:
    lock = pnpm.read(PNPM_6)
    assert named(lock, Target("linux_x86_64")) == ["@s/a 1.0.0", "native 1.0.0"]
    assert named(lock, Target("win_amd64")) == ["@s/a 1.0.0"]
    assert [(each.name, each.remote) for each in lock.elsewhere] == [("from-git", True), ("beside", False)]
    old = f"lockfileVersion: 5.4\npackages:\n\n  /@s/a/1.0.0_peer@2.0.0:\n    resolution:\n      integrity: {SHA512}\n    dev: false\n"
    assert named(pnpm.read(old), Target("linux_x86_64")) == ["@s/a 1.0.0"]


def test_a_pnpm_lock_of_several_documents_is_the_sum_of_them() -> None:
    first = f"---\nlockfileVersion: '9.0'\n\npackages:\n\n  tool@1.0.0:\n    resolution: {{integrity: {SHA512}}}\n"
    second = f"---\nlockfileVersion: '9.0'\n\npackages:\n\n  soil@3.1.0:\n    resolution: {{integrity: {SHA512}}}\n"
    assert named(pnpm.read(first + second), Target("linux_x86_64")) == ["soil 3.1.0", "tool 1.0.0"]


def test_a_package_that_pnpm_needs_somewhere_is_not_optional() -> None:
    text = (
        f"lockfileVersion: '9.0'\npackages:\n  a@1.0.0:\n    resolution: {{integrity: {SHA512}}}\n    os: [darwin]\n"
        "snapshots:\n  a@1.0.0(p@1.0.0):\n    optional: true\n  a@1.0.0(p@2.0.0): {}\n"
    )
    lock = pnpm.read(text)
    assert [needed.optional for needed in lock.needed if needed.version] == [False]
    assert applying(lock, Target("linux_x86_64")).why == "a 1.0.0 is not for it"


def test_a_yarn_1_lock_has_aliases_repositories_and_digests_in_addresses() -> None:
    text = f"""# yarn lockfile v1


"@s/a@^1.0.0", "@s/a@~1.0.0":
  version "1.0.0"
  resolved "https://yarn.test/@s/a/-/a-1.0.0.tgz#{"c" * 40}"
  dependencies:
    version "^9.0.0"

"other@npm:left-pad@^1.1.0":
  version "1.1.0"
  resolved "https://yarn.test/left-pad/-/left-pad-1.1.0.tgz#{"c" * 40}"
  integrity {SHA512}

mirrored@^1.0.0:
  version "1.0.0"
  resolved mirrored-1.0.0.tgz#{"c" * 40}

"from-git@git+https://code.test/x.git":
  version "1.0.0"
  resolved "git+https://code.test/x.git#abc"

from-hub@owner/name:
  version "1.0.0"
  resolved "https://code.test/owner/name/tar.gz/abc"

"beside@file:./beside":
  version "1.0.0"
"""
    lock = yarn.read(text)
    found = {needed.project: needed for needed in lock.needed}
    assert named(lock, Target("linux_x86_64")) == ["@s/a 1.0.0", "left-pad 1.1.0", "mirrored 1.0.0"]
    assert found["@s/a"].files[0].digests == (Digest("sha1", "c" * 40),)
    assert found["left-pad"].files[0].digests[0].algorithm == "sha512"
    assert found["mirrored"].asks == ("page",)
    assert [(each.name, each.remote) for each in lock.elsewhere] == [("from-git", True), ("from-hub", True), ("beside", False)]


def test_a_later_yarn_lock_has_patches_archives_and_conditions() -> None:
    text = """__metadata:
  version: 8

"a@npm:^1.0.0":
  version: 1.0.0
  resolution: "a@npm:1.0.0::__archiveUrl=https%3A%2F%2Fnpm.test%2Fa%2F-%2Fa-1.0.0.tgz"
  conditions: (os=linux | os=darwin) & cpu=x64
  languageName: node

"a@patch:a@npm%3A^1.0.0#./a.patch":
  version: 1.0.0
  resolution: "a@patch:a@npm%3A1.0.0#./a.patch::version=1.0.0&hash=abc&locator=app%40workspace%3A."

"alias@npm:left-pad@^1.3.0":
  version: 1.3.0
  resolution: "left-pad@npm:1.3.0"

"b@https://code.test/b.git#commit=abc":
  version: 1.0.0
  resolution: "b@https://code.test/b.git#commit=abc"

"c@portal:../c::locator=app%40workspace%3A.":
  version: 0.0.0-use.local
  resolution: "c@portal:../c::locator=app%40workspace%3A."
"""
    lock = yarn.read(text)
    assert named(lock, Target("linux_x86_64")) == ["a 1.0.0", "left-pad 1.3.0"]
    assert named(lock, Target("linux_aarch64")) == ["left-pad 1.3.0"]
    assert lock.needed[0].files[0].url == "https://npm.test/a/-/a-1.0.0.tgz"
    assert [(each.name, each.remote) for each in lock.elsewhere] == [("b", True), ("c", False)]


# ---- gradle, and which is which --------------------------------------------------------------------------------------


def test_a_gradle_lockfile_is_coordinates() -> None:
    lock = gradle.read(
        "# comment\norg.example:lib:1.0=compileClasspath,runtimeClasspath\norg.example:core:2.0+b=x\nempty=annotationProcessor\n"
    )
    assert [(needed.project, needed.version) for needed in lock.needed] == [
        ("org.example/lib", "1.0"),
        ("org.example/core", "2.0+b"),
    ]
    assert gradle.read("empty=compileClasspath\n").needed == ()


def test_a_configuration_that_requires_nothing_has_a_lock_of_its_own_without_a_line() -> None:
    """Gradle 4.8 to 6.7 wrote one for every locked configuration."""
    header = (
        "# This is a Gradle generated file for dependency locking.\n# Manual edits can break the build and are not advised.\n"
    )
    assert gradle.read(header) == Lock("gradle.lockfile")
    with pytest.raises(Malformed, match="it locks nothing"):
        gradle.read("# anything else\n")


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("uv.lock", "version = 1\n[[package]\n", "line 2: no TOML"),
        ("uv.lock", 'version = 1\n\n[[package]]\nname = "a"\n', "line 3: a has no source"),
        ("uv.lock", 'version = 1\n[[package]]\nversion = "a"\n', "line 2: a package has no name"),
        ("poetry.lock", '[[package]]\nname = "a"\nversion = "1"\n[metadata]\n', "line 1: a has no files"),
        ("pdm.lock", "[metadata]\n", "it has no [metadata] with a lock_version"),
        ("pylock.toml", 'lock-version = "1.0"\ncreated-by = "x"\n[[packages]]\nversion = "1"\n', "line 3: "),
        ("package-lock.json", '{\n "lockfileVersion": 3,\n "packages": {,}}', "line 3: no JSON"),
        (
            "package-lock.json",
            '{"lockfileVersion": 3,\n "packages": {\n "node_modules/a": {}}}',
            "line 3: 'node_modules/a' has no name",
        ),
        ("package-lock.json", "[]", "it has no lockfileVersion"),
        ("pnpm-lock.yaml", "lockfileVersion: '9.0'\npackages:\n  a: &b\n", "line 3: '&b' is nothing"),
        ("pnpm-lock.yaml", "lockfileVersion: '12.0'\n", "its version 12.0 is not known here"),
        ("yarn.lock", "# yarn lockfile v1\n\na@1:\n  what is this\n", "line 4: 'what is this' is no member"),
        ("yarn.lock", "a@1:\n", "it does not say that it is a yarn lockfile"),
        ("yarn.lock", "__metadata:\n  version: 8\n a: b\n", "line 3: this is indented unlike"),
        ("bun.lock", '{"lockfileVersion": 1, "packages": {"a": []}}', "line 1: 'a' is no package"),
        ("gradle.lockfile", "a:b=c\n", "line 1: 'a:b=c' is not group:artifact:version"),
        ("gradle.lockfile", "#\na:b:1/..=c\n", "line 2: '1/..' is no version"),
        ("anything.txt", "Dear reader,\n", "it is no lock file of a kind known here"),
        ("requirements.txt", "Dear reader,\n", "it is no lock file"),
    ],
)
def test_a_malformed_lock_is_told_in_a_sentence_with_its_line(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(Malformed) as caught:
        reading.read(tmp_path / name)
    assert str(caught.value).startswith(complaint)


@pytest.mark.parametrize("name", ["uv.lock", "poetry.lock", "pdm.lock", "pylock.toml", "requirements.txt", "package-lock.json"])
def test_a_lock_by_another_name_is_known_by_what_it_says(tmp_path: Path, name: str) -> None:
    (tmp_path / "ci.locked").write_bytes((LOCKS / name).read_bytes())
    assert reading.read(tmp_path / "ci.locked") == reading.read(LOCKS / name)


@pytest.mark.parametrize("name", ["pnpm-lock.yaml", "bun.lock", "yarn-1/yarn.lock", "yarn-4/yarn.lock"])
def test_a_lock_of_npms_by_another_name_is_known_by_what_it_says(tmp_path: Path, name: str) -> None:
    (tmp_path / "ci.locked").write_bytes((LOCKS / name).read_bytes())
    assert reading.read(tmp_path / "ci.locked") == reading.read(LOCKS / name)


def test_what_is_no_file_or_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"a\n\xff")
    with pytest.raises(Malformed, match="line 2: it is no UTF-8"):
        reading.read(tmp_path / "binary")
    with pytest.raises(Malformed, match="it is no file"):
        reading.read(tmp_path)
    with pytest.raises(FileNotFoundError):
        reading.read(tmp_path / "nowhere")
