"""Where a lock may be installed: which of its packages apply on a platform and Python, and which of a version's files are taken there.

A *target* is a platform, and a Python where that matters. A platform's name leaves open what differs from machine to machine:
``linux_x86_64`` is whatever glibc, ``macosx_arm64`` whatever macOS. There the file counts that some such machine takes: for each level
that a wheel asks for, the best that a machine of that level can have. A machine older than all wheels is none of that name's; whoever has
one says its level (``manylinux_2_17_x86_64``, ``macosx_13_0_arm64``).

Essential reading: PEP 425 (tags), PEP 600 (manylinux), PEP 656 (musllinux), PEP 508 (markers),
npm-install-checks (``os``, ``cpu``, ``libc``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache

from packaging.markers import InvalidMarker, Marker, UndefinedComparison, UndefinedEnvironmentName
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion

from . import Elsewhere, Lock, Malformed, Needed, Reach

COMMON = ("linux_x86_64", "linux_aarch64", "macosx_arm64", "macosx_x86_64", "win_amd64")
"""The platforms meant where none is named."""

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.15")
"""The Pythons meant where neither the lock nor anybody names one."""

SDISTS = (".tar.gz", ".zip", ".tgz", ".tar.bz2", ".tar.xz", ".tar")
"""What a Python client builds a wheel from."""

LAST_MICRO = 99
"""Of a Python, its first and this micro version are held against markers: what is true of either applies."""

_LINUX = re.compile(r"(?P<libc>many|musl)?linux(?:_(?P<major>\d{1,2})_(?P<minor>\d{1,3}))?_(?P<machine>[a-z0-9_]+)")
_MAC = re.compile(r"macosx(?:_(?P<major>\d{1,2})_(?P<minor>\d{1,3}))?_(?P<machine>arm64|x86_64)")
_MACHINES = ("x86_64", "aarch64", "i686", "armv7l", "ppc64le", "s390x", "riscv64", "loongarch64")
_WINDOWS = {"win_amd64": "AMD64", "win_arm64": "ARM64", "win32": "x86"}
_OLD_NAMES = {(2, 17): "manylinux2014", (2, 12): "manylinux2010", (2, 5): "manylinux1"}
_NPM_CPUS = {
    **dict.fromkeys(("x86_64", "AMD64"), "x64"),
    **dict.fromkeys(("aarch64", "arm64", "ARM64"), "arm64"),
    **dict.fromkeys(("i686", "x86"), "ia32"),
    "armv7l": "arm",
    "ppc64le": "ppc64",
    "s390x": "s390x",
    "riscv64": "riscv64",
    "loongarch64": "loong64",
}
_EXTRA = re.compile(r"""extra\s*(?:==|!=)\s*["']([^"']+)["']|["']([^"']+)["']\s*(?:==|!=)\s*extra""")

type Level = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform as people name it. ``level`` is the glibc, musl or macOS meant, None for any. ``system`` is Python's ``sys_platform``."""

    name: str
    system: str
    machine: str
    libc: str = ""
    level: Level | None = None

    @property
    def os(self) -> str:
        """npm's word for the system."""
        return self.system

    @property
    def cpu(self) -> str:
        """npm's word for the machine."""
        return _NPM_CPUS.get(self.machine, self.machine)


@dataclass(frozen=True, slots=True)
class Target:
    """A platform and, for Python, a version such as ``3.13``. Both are empty where nothing depends on them (Maven)."""

    platform: str = ""
    python: str = ""

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.platform, self.python and f"Python {self.python}"))) or "any platform"


@dataclass(frozen=True, slots=True)
class Applying:
    """What of a lock applies on a target: indices of ``needed``, what is from elsewhere, ``why`` it cannot be installed there, or ""."""

    needed: tuple[int, ...]
    elsewhere: tuple[Elsewhere, ...]
    why: str = ""


@lru_cache(256)
def platform_of(name: str) -> Platform:
    """The platform of that name. Raises ``ValueError`` for one that nobody has."""
    if name in _WINDOWS:
        return Platform(name, "win32", _WINDOWS[name])
    found = _MAC.fullmatch(name)
    if found is not None:
        return Platform(name, "darwin", found["machine"], "", _level(found))
    found = _LINUX.fullmatch(name)
    if found is None or found["machine"] not in _MACHINES or (found["libc"] is None and found["major"] is not None):
        raise ValueError(
            f"{name[:64]!r} is no platform; there are {', '.join(COMMON)}, musllinux_x86_64, manylinux_2_28_x86_64 …"
        )
    return Platform(name, "linux", found["machine"], "musl" if found["libc"] == "musl" else "glibc", _level(found))


def _level(found: re.Match[str]) -> Level | None:
    return None if found["major"] is None else (int(found["major"]), int(found["minor"]))


def python_of(text: str) -> str:
    """A Python as targets have it. Raises ``ValueError`` for what is none."""
    if re.fullmatch(r"3\.\d{1,2}", text) is None:
        raise ValueError(f"{text[:64]!r} is no Python; write 3.13")
    return text


def targets_of(lock: Lock, platforms: Sequence[str] = (), pythons: Sequence[str] = ()) -> tuple[Target, ...]:
    """The targets that a lock is to be held against: those asked for, else the common ones that it speaks of."""
    if not lock.kinds & {"pypi", "npm"}:
        return (Target(),)
    names = platforms or COMMON
    if "pypi" not in lock.kinds:
        return tuple(Target(name) for name in names)
    versions = pythons or lock.pythons or [each for each in PYTHONS if _suits(lock.requires_python, each)] or PYTHONS[-1:]
    return tuple(Target(name, version) for name in names for version in versions)


# ---- markers ---------------------------------------------------------------------------------------------------------


def applying(lock: Lock, target: Target) -> Applying:
    """What of ``lock`` applies on ``target``. Raises ``Malformed`` for a marker that is none."""
    why = ""
    if target.python and not _suits(lock.requires_python, target.python):
        why = f"the lock is for Python {lock.requires_python}"
    elif lock.environments and not any(holds(each, target, lock) for each in lock.environments):
        why = "the lock is not made for it"
    if lock.roots:
        reached = _reached(lock, target)
        found = [index for index in range(len(lock.needed)) if index in reached]
    else:
        found = [index for index, needed in enumerate(lock.needed) if holds(needed.marker, target, lock)]
    platform = platform_of(target.platform) if target.platform else None
    taken: list[int] = []
    for index in found:
        needed = lock.needed[index]
        if platform is None or _fits(needed, platform):
            taken.append(index)
        elif not needed.optional:
            why = why or f"{needed.project} {needed.version} is not for it"
    return Applying(tuple(taken), tuple(each for each in lock.elsewhere if holds(each.marker, target, lock)), why)


def _reached(lock: Lock, target: Target) -> set[int]:
    """The needed that a graph's roots lead to."""
    open_here: dict[str, bool] = {}

    def is_open(reach: Reach) -> bool:
        if reach.marker not in open_here:
            open_here[reach.marker] = holds(reach.marker, target, lock)
        return open_here[reach.marker]

    waiting = [reach.node for reach in lock.roots if is_open(reach)]
    seen = set(waiting)
    while waiting:
        for reach in lock.edges[waiting.pop()]:
            if reach.node not in seen and is_open(reach):
                seen.add(reach.node)
                waiting.append(reach.node)
    return {index for node in seen if (index := lock.nodes[node]) is not None}


def holds(marker: str, target: Target, lock: Lock, extras: Iterable[str] | None = None) -> bool:
    """Whether ``marker`` may be true on ``target``, for some micro version of its Python. Raises ``Malformed``.

    ``extras`` are those that were asked for; None if any may have been.
    """
    if not marker or not target.platform:
        return True
    parsed = _marker(marker)
    asked = (found[1] or found[2] for found in _EXTRA.finditer(marker)) if extras is None else extras
    possible = {"", *asked}
    for environment in _environments(target):
        for extra in possible:
            given: dict[str, str | AbstractSet[str]] = {
                **environment,
                "extra": extra,
                "extras": lock.extras,
                "dependency_groups": lock.groups,
            }
            try:
                if parsed.evaluate(given, context="lock_file"):
                    return True
            except (UndefinedComparison, UndefinedEnvironmentName, InvalidVersion) as error:
                raise Malformed(f"the marker {marker[:80]!r} cannot be judged: {error}") from None
    return False


@lru_cache(4096)
def _marker(text: str) -> Marker:
    try:
        return Marker(text)
    except InvalidMarker as error:
        raise Malformed(f"{text[:80]!r} is no marker: {str(error).partition(chr(10))[0]}") from None


@lru_cache(256)
def _environments(target: Target) -> tuple[Mapping[str, str], ...]:
    platform = platform_of(target.platform)
    python = target.python or PYTHONS[-1]
    names = {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}
    return tuple(
        {
            "implementation_name": "cpython",
            "implementation_version": f"{python}.{micro}",
            "os_name": "nt" if platform.system == "win32" else "posix",
            "platform_machine": platform.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": names[platform.system],
            "platform_version": "",
            "python_full_version": f"{python}.{micro}",
            "python_version": python,
            "sys_platform": platform.system,
        }
        for micro in (0, LAST_MICRO)
    )


def _suits(specifier: str, python: str) -> bool:
    """Whether some micro version of ``python`` is in ``specifier``; what is no specifier excludes nothing."""
    try:
        allowed = _specifiers(specifier)
    except InvalidSpecifier:
        return True
    return any(allowed.contains(f"{python}.{micro}", prereleases=True) for micro in (0, LAST_MICRO))


@lru_cache(4096)
def _specifiers(text: str) -> SpecifierSet:
    return SpecifierSet(text)


def _fits(needed: Needed, platform: Platform) -> bool:
    """Whether npm's ``os``, ``cpu`` and ``libc`` let a package be installed. Source: npm-install-checks."""
    if not (_listed(needed.os, platform.os) and _listed(needed.cpu, platform.cpu)):
        return False
    if not needed.libc:
        return True
    # "libc checks only work in linux, any value is a failure if we aren't"
    return platform.system == "linux" and _listed(needed.libc, platform.libc)


def _listed(words: Iterable[str], word: str) -> bool:
    words = tuple(words)
    wanted = [each for each in words if not each.startswith("!") and each != "any"]
    return f"!{word}" not in words and (not wanted or word in wanted)


# ---- files -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that could be taken for a version. ``requires_python`` is as its page or lock says, "" for any."""

    filename: str
    requires_python: str = ""

    @property
    def is_wheel(self) -> bool:
        return self.filename.endswith(".whl")


def taken(candidates: Iterable[Candidate], target: Target, form: str = "any") -> frozenset[str]:
    """The files that machines of ``target`` take, by name: the best wheels, else what is built from source; empty if it has none.

    ``form`` is ``Needed.form``.
    """
    suiting = [each for each in candidates if _suits(each.requires_python, target.python)]
    wheels = (
        {each.filename: tags for each in suiting if each.is_wheel and (tags := _tags(each.filename))} if form != "sdist" else {}
    )
    best = _best(wheels, target)
    if best or form == "wheel":
        return best
    return frozenset(each.filename for each in suiting if each.filename.lower().endswith(SDISTS))


def _best(wheels: Mapping[str, tuple[tuple[int | str, ...], frozenset[Tag]]], target: Target) -> frozenset[str]:
    platform = platform_of(target.platform)
    found: set[str] = set()
    for level in _levels(platform, target.python, [tag for _, tags in wheels.values() for tag in tags]):
        ranks = _ranks(target.python, platform, level)
        # (Not by sets: those would be made of the thousand tags of a machine, not of the two of a wheel.)
        ranked = [
            (min(own), build, name)
            for name, (build, tags) in wheels.items()
            if (own := [ranks[tag] for tag in tags if tag in ranks])
        ]
        if ranked:
            least = min(rank for rank, _, _ in ranked)
            equal = [(build, name) for rank, build, name in ranked if rank == least]
            # Of wheels that differ in their build number alone the highest is taken.
            highest = max((build for build, _ in equal), key=_build_key)
            found |= {name for build, name in equal if build == highest}
    return frozenset(found)


def _build_key(build: tuple[int | str, ...]) -> tuple[int, str]:
    return (int(build[0]), str(build[1])) if build else (-1, "")


@lru_cache(65536)
def _tags(filename: str) -> tuple[tuple[int | str, ...], frozenset[Tag]] | None:
    """The build number and tags in a wheel's name; None if it is no wheel's."""
    try:
        _, _, build, tags = parse_wheel_filename(filename)
    except (InvalidWheelFilename, InvalidVersion, ValueError):
        return None
    return build, frozenset(tags)


def _levels(platform: Platform, python: str, tags: Sequence[Tag]) -> Sequence[Level]:
    """The levels at which what a machine takes may change: those that a wheel for it asks for, or just the lowest."""
    if platform.system == "win32":
        return [(0, 0)]
    if platform.level is not None:
        return [platform.level]
    asked = {tag: level for tag in tags if (level := _level_in(tag, platform)) is not None}
    lowest = _LOWEST[platform.system, platform.libc][0]
    if not asked:
        return [lowest]
    # What another Python takes says nothing of this one.
    known = _ranks(python, platform, max(asked.values()))
    return sorted({level for tag, level in asked.items() if tag in known}) or [lowest]


@lru_cache(65536)
def _level_in(tag: Tag, platform: Platform) -> Level | None:
    """The level that a tag of the platform's asks for; None for any other tag."""
    lowest, pattern = _LOWEST[platform.system, platform.libc]
    found = pattern.fullmatch(tag.platform)
    if found is not None and found[3] in (platform.machine, "universal2"):
        level = int(found[1]), int(found[2])
        return max(lowest, (11, 0), level) if platform.machine == "arm64" else max(lowest, level)
    if platform.libc == "glibc":
        return next((level for level, name in _OLD_NAMES.items() if tag.platform == f"{name}_{platform.machine}"), None)
    return None


_LOWEST: Mapping[tuple[str, str], tuple[Level, re.Pattern[str]]] = {
    ("linux", "glibc"): ((2, 5), re.compile(r"manylinux_(2)_(\d{1,3})_(\w+)")),
    ("linux", "musl"): ((1, 0), re.compile(r"musllinux_(1)_(\d{1,3})_(\w+)")),
    ("darwin", ""): ((10, 9), re.compile(r"macosx_(\d{2})_(\d{1,3})_(\w+)")),
}
"""The lowest level that is thought of, and which tags ask for one."""


@lru_cache(1024)
def _ranks(python: str, platform: Platform, level: Level) -> Mapping[Tag, int]:
    """The tags that a machine takes, each with its rank: the lower the better. Source: ``packaging.tags``, in pip's order."""
    version = tuple(map(int, python.split(".")))
    interpreter = "cp" + "".join(map(str, version))
    names = list(_platform_tags(platform, level))
    ordered = [*cpython_tags(version, [interpreter], names), *compatible_tags(version, interpreter, names)]
    ranks: dict[Tag, int] = {}
    for rank, tag in enumerate(ordered):
        ranks.setdefault(tag, rank)
    return ranks


def _platform_tags(platform: Platform, level: Level) -> Iterator[str]:
    major, minor = level
    match platform.system:
        case "win32":
            yield platform.name
        case "darwin":
            yield from mac_platforms(level, platform.machine)
        case _ if platform.libc == "musl":
            yield from (f"musllinux_{major}_{each}_{platform.machine}" for each in range(minor, -1, -1))
            yield f"linux_{platform.machine}"
        case _:
            for each in range(minor, 4, -1):
                yield f"manylinux_{major}_{each}_{platform.machine}"
                if (major, each) in _OLD_NAMES:
                    yield f"{_OLD_NAMES[major, each]}_{platform.machine}"
            yield f"linux_{platform.machine}"
