"""Which of a version's files are taken on a platform and Python, and which platforms a lock is held against."""

from __future__ import annotations

import pytest

from edge.locks import Lock, Malformed, Needed
from edge.locks.targets import COMMON, PYTHONS, Candidate, Target, applying, holds, platform_of, python_of, taken, targets_of

NUMERIC = [
    Candidate(f"numeric-2.3.0-{tags}.whl", ">=3.11")
    for tags in (
        "cp313-cp313-manylinux_2_28_x86_64",
        "cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64",
        "cp313-cp313-musllinux_1_2_x86_64",
        "cp313-cp313-macosx_14_0_arm64",
        "cp313-cp313-macosx_11_0_arm64",
        "cp313-cp313-macosx_10_13_x86_64",
        "cp313-cp313-win_amd64",
        "cp312-abi3-win_amd64",
        "py3-none-any",
    )
] + [Candidate("numeric-2.3.0.tar.gz", ">=3.11")]


def tags(platform: str, python: str = "3.13", candidates: list[Candidate] = NUMERIC, form: str = "any") -> set[str]:
    found = taken(candidates, Target(platform, python), form)
    return {name.removeprefix("numeric-2.3.0-").removesuffix(".whl") for name in found}


@pytest.mark.parametrize(
    ("platform", "python", "wanted"),
    [
        # What a machine with a newer glibc takes, and what an older one does.
        (
            "linux_x86_64",
            "3.13",
            {"cp313-cp313-manylinux_2_28_x86_64", "cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64"},
        ),
        ("manylinux_2_35_x86_64", "3.13", {"cp313-cp313-manylinux_2_28_x86_64"}),
        ("manylinux_2_17_x86_64", "3.13", {"cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64"}),
        ("manylinux_2_12_x86_64", "3.13", {"py3-none-any"}),
        ("musllinux_x86_64", "3.13", {"cp313-cp313-musllinux_1_2_x86_64"}),
        ("linux_aarch64", "3.13", {"py3-none-any"}),
        ("linux_x86_64", "3.12", {"py3-none-any"}),
        ("macosx_arm64", "3.13", {"cp313-cp313-macosx_14_0_arm64", "cp313-cp313-macosx_11_0_arm64"}),
        ("macosx_12_0_arm64", "3.13", {"cp313-cp313-macosx_11_0_arm64"}),
        ("macosx_x86_64", "3.13", {"cp313-cp313-macosx_10_13_x86_64"}),
        ("win_amd64", "3.13", {"cp313-cp313-win_amd64"}),
        ("win_amd64", "3.12", {"cp312-abi3-win_amd64"}),
        ("win_amd64", "3.10", set()),
    ],
)
def test_the_best_wheel_of_each_kind_of_machine_is_taken(platform: str, python: str, wanted: set[str]) -> None:
    assert tags(platform, python) == wanted


def test_without_a_wheel_what_is_built_from_source_is_taken() -> None:
    foreign = [
        Candidate("a-1-cp313-cp313-win_amd64.whl"),
        Candidate("a-1.tar.gz"),
        Candidate("a-1.exe"),
        Candidate("a-1-odd.whl"),
    ]
    assert tags("linux_x86_64", candidates=foreign) == {"a-1.tar.gz"}
    assert tags("linux_x86_64", candidates=foreign, form="wheel") == set()
    assert tags("win_amd64", candidates=foreign, form="sdist") == {"a-1.tar.gz"}


def test_of_wheels_that_differ_in_their_build_the_highest_is_taken() -> None:
    builds = [Candidate(f"a-1-{build}-py3-none-any.whl") for build in ("2", "10")] + [Candidate("a-1-py3-none-any.whl")]
    assert tags("linux_x86_64", candidates=builds) == {"a-1-10-py3-none-any"}


def test_universal_wheels_of_macos_are_for_both_machines() -> None:
    universal = [Candidate("a-1-cp313-cp313-macosx_10_9_universal2.whl"), Candidate("a-1.tar.gz")]
    assert tags("macosx_arm64", candidates=universal) == {"a-1-cp313-cp313-macosx_10_9_universal2"}
    assert tags("macosx_x86_64", candidates=universal) == {"a-1-cp313-cp313-macosx_10_9_universal2"}


@pytest.mark.parametrize("name", ["", "linux", "amiga_68k", "linux_z80", "manylinux_x86_64_2_28", "linux_2_28_x86_64", "win_68k"])
def test_a_platform_that_nobody_has_is_told(name: str) -> None:
    with pytest.raises(ValueError, match="is no platform"):
        platform_of(name)


@pytest.mark.parametrize("text", ["", "3", "2.7", "3.13.1", "python3.13"])
def test_a_python_that_is_none_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="is no Python"):
        python_of(text)


def test_targets_are_those_asked_for_else_those_that_the_lock_is_for() -> None:
    soil = Needed("pypi", "soil", "1")
    assert targets_of(Lock("x", (soil,), requires_python=">=3.14"), ["win_amd64"]) == (
        Target("win_amd64", "3.14"),
        Target("win_amd64", "3.15"),
    )
    assert len(targets_of(Lock("x", (soil,)))) == len(COMMON) * len(PYTHONS)
    assert {target.python for target in targets_of(Lock("x", (soil,), pythons=("3.12",)))} == {"3.12"}
    assert targets_of(Lock("x", (soil,)), ["win_amd64"], ["3.9"]) == (Target("win_amd64", "3.9"),)
    assert targets_of(Lock("x", (Needed("npm", "soil", "1"),))) == tuple(map(Target, COMMON))
    assert targets_of(Lock("x", (Needed("maven", "a/b", "1"),)), ["win_amd64"]) == (Target(),)


@pytest.mark.parametrize(
    ("marker", "linux", "windows"),
    [
        ("sys_platform == 'linux'", True, False),
        ("platform_system == 'Windows' and os_name == 'nt'", False, True),
        ("python_version >= '3.13' and python_full_version < '3.13.4'", True, True),
        ("python_full_version >= '3.13.4'", True, True),
        ("python_version < '3.13'", False, False),
        ("platform_machine == 'AMD64' or implementation_name == 'pypy'", False, True),
        ("extra == 'a' and sys_platform == 'win32'", False, True),
        ("", True, True),
    ],
)
def test_a_marker_is_judged_for_the_platform_and_not_for_this_machine(marker: str, linux: bool, windows: bool) -> None:
    assert holds(marker, Target("linux_x86_64", "3.13"), Lock("x")) is linux
    assert holds(marker, Target("win_amd64", "3.13"), Lock("x")) is windows


def test_a_marker_that_is_none_is_told() -> None:
    with pytest.raises(Malformed, match="is no marker"):
        holds("sys_platform = 'linux'", Target("linux_x86_64", "3.13"), Lock("x"))


@pytest.mark.parametrize(
    ("os", "cpu", "libc", "where"),
    [
        ("linux", "x64", "", {"linux_x86_64", "musllinux_x86_64"}),
        ("linux", "x64", "musl", {"musllinux_x86_64"}),
        ("!win32", "", "", {"linux_x86_64", "musllinux_x86_64", "macosx_arm64"}),
        ("darwin", "arm64", "", {"macosx_arm64"}),
        ("", "", "glibc", {"linux_x86_64"}),
        ("any", "", "", {"linux_x86_64", "musllinux_x86_64", "macosx_arm64", "win_amd64"}),
    ],
)
def test_npms_conditions_are_held_against_the_platform(os: str, cpu: str, libc: str, where: set[str]) -> None:
    needed = Needed(
        "npm", "a", "1", os=(os,) if os else (), cpu=(cpu,) if cpu else (), libc=(libc,) if libc else (), optional=True
    )
    platforms = ("linux_x86_64", "musllinux_x86_64", "macosx_arm64", "win_amd64")
    assert {name for name in platforms if applying(Lock("x", (needed,)), Target(name)).needed} == where
