"""Names, versions and file names of PyPI: one parser of each, without any knowledge of pages or addresses.

Essential reading: PEP 503 (names), PEP 440 (versions), PEP 427 (wheels), PEP 625 (what sdists are called now). Older files follow no
specification; the tables here say what they were called.
"""

from __future__ import annotations

import re
from functools import lru_cache

from packaging.version import InvalidVersion, Version

STREAMED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz", ".tar.lzma", ".tar.zst", ".tar.z", ".tar")
"""What clients may unpack while it arrives."""

USELESS_WITHOUT_TAIL = (".whl", ".zip", ".egg")
"""Zip archives: their directory is at the end."""

_OTHERS = (".exe", ".msi", ".rpm", ".deb", ".dmg")
_ENDINGS = tuple(sorted((*STREAMED, *USELESS_WITHOUT_TAIL, *_OTHERS), key=len, reverse=True))

SIDECARS = (".metadata", ".asc")
"""What stands beside a file, named by appending (PEP 658; detached signatures)."""

# "The only valid characters in a name are the ASCII alphabet, ASCII numbers, ., -, and _." (PEP 503, by way of PEP 508)
_NAME = re.compile(r"[A-Z0-9](?:[A-Z0-9._-]*[A-Z0-9])?", re.IGNORECASE | re.ASCII)
_SEPARATORS = re.compile(r"[-_.]+")

# What followed the version in the names of old built distributions. Tried in order on what a version cannot be read from.
_AFTER_VERSION = (
    # foo-1.0-py2.7.egg, foo-1.0-py2.7-linux-x86_64.egg
    re.compile(r"-py\d[\d.]*(?:-.*)?$"),
    # bdist_wininst and bdist_dumb: foo-1.0.win32-py2.7.exe, foo-1.0.linux-x86_64.tar.gz
    re.compile(r"[.-](?:win32|win-amd64|win-arm\w*|linux-\w+|macosx-[\d.]+-\w+|cygwin-[^-]+-\w+)(?:-py\d[\d.]*)?$"),
    # foo-1.0-1.noarch.rpm
    re.compile(r"-[^-]+\.(?:noarch|src|i\d86|x86_64|aarch64)$"),
)


@lru_cache(65536)
def normalise(name: str) -> str:
    """The one spelling of a project's name. Raises ``ValueError`` for a name outside the grammar. Source: PEP 503."""
    if len(name) > 255 or not _NAME.fullmatch(name):
        raise ValueError(f"not a project name: {name[:64]!r}")
    return _loosely(name)


def _loosely(name: str) -> str:
    return _SEPARATORS.sub("-", name).lower()


@lru_cache(65536)
def parse_version(text: str) -> Version | None:
    """None for text that is no PEP 440 version."""
    if len(text) > 255:
        return None
    try:
        return Version(text)
    except (InvalidVersion, ValueError):
        # ValueError: a number of more digits than the interpreter converts.
        return None


def canonical(text: str) -> str:
    """``text`` as PEP 440 writes it, else as it is: versions outside that grammar exist and keep their spelling."""
    version = parse_version(text)
    return text if version is None else str(version)


def without_sidecar(filename: str) -> tuple[str, str]:
    """Split a file name into the file it belongs to and its sidecar ending, the latter empty for a file itself."""
    for ending in SIDECARS:
        if filename.endswith(ending) and len(filename) > len(ending):
            return filename.removesuffix(ending), ending
    return filename, ""


def stem(filename: str) -> str | None:
    """``filename`` without the ending that says what kind of distribution it is; None where that is unknown."""
    lowered = filename.lower()
    for ending in _ENDINGS:
        if lowered.endswith(ending) and len(filename) > len(ending):
            return filename[: -len(ending)]
    return None


def version_in(project: str, filename: str) -> str:
    """The version that ``filename``, known to be of ``project`` (normalised), stands for; empty if it cannot be told.

    ``filename`` is a distribution's, not a sidecar's.
    """
    text = stem(filename)
    if text is None:
        return ""
    if filename.lower().endswith(".whl"):
        parts = text.split("-")
        return canonical(parts[1]) if len(parts) >= 5 else ""
    rests = [rest for name, rest in _splits(text) if _loosely(name) == project]
    for rest in rests:
        if version := _leading_version(rest):
            return version
    return rests[0] if rests else ""


def readings(filename: str) -> list[tuple[str, str]]:
    """The (project, version) pairs that ``filename`` could mean when the project is not known, most likely first.

    A wheel's name has one reading. ``foo-bar-1.0.tar.gz`` has two, as names had dashes before PEP 625; the one that reads as a version
    comes first, and of several the one with the shortest project.
    """
    text = stem(filename)
    if text is None:
        return []
    if filename.lower().endswith(".whl"):
        parts = text.split("-")
        return [(_loosely(parts[0]), canonical(parts[1]))] if len(parts) in (5, 6) and _NAME.fullmatch(parts[0]) else []
    found: list[tuple[int, str, str]] = []
    for name, rest in _splits(text):
        if _NAME.fullmatch(name):
            version = _leading_version(rest)
            rank = 0 if version else 1 if rest[:1].isdigit() else 2
            found.append((rank, _loosely(name), version or rest))
    found.sort(key=lambda reading: reading[0])
    return list(dict.fromkeys((project, version) for _, project, version in found))


def _splits(text: str) -> list[tuple[str, str]]:
    return [
        (text[: dash.start()], text[dash.end() :]) for dash in re.finditer("-", text) if dash.start() and dash.end() < len(text)
    ]


def _leading_version(rest: str) -> str | None:
    """``rest`` as a version, after what old formats appended is cut off; None if it is none."""
    for ending in (None, *_AFTER_VERSION):
        version = parse_version(rest if ending is None else ending.sub("", rest))
        if version is not None:
            return str(version)
    return None
