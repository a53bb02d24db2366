"""Names, versions and file names of npm: one parser of each, without any knowledge of documents or addresses.

Essential reading: the registry's rules for package names, Semantic Versioning 2.0.0, and what npm's own "loose" reading takes beside it,
since old packages hold versions from before there was a rule.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import quote

LIMIT_NAME = 255
"""The longest name, in characters. New ones may have 214; it must fit one path segment."""

LIMIT_VERSION = 256
"""The longest version that has a place in the order, in characters; the longest that npm itself reads."""

type Key = tuple[int, int, int, int, tuple[tuple[int, int, str], ...]]

# What encodeURIComponent leaves alone. Old names hold capitals and each of these.
_WORD = r"[A-Za-z0-9\-_.!~*'()]+"
_NAME = re.compile(rf"(?![._]|-$){_WORD}|@(?!\.){_WORD}/(?!\.|-$){_WORD}")
_FORBIDDEN = frozenset({"node_modules", "favicon.ico", "robots.txt"})

_NUMBER = r"([0-9]{1,16})"
_IDENTIFIERS = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_VERSION = re.compile(
    rf"[v=\s]*{_NUMBER}(?:\.{_NUMBER})?(?:\.{_NUMBER})?(?:-({_IDENTIFIERS})|([A-Za-z-][0-9A-Za-z-]*(?:\.[0-9A-Za-z-]+)*))?(?:\+{_IDENTIFIERS})?\s*",
    re.ASCII,
)
_PLAIN_PATH = re.compile(r"[A-Za-z0-9._+!~*'()@/-]*")
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\\/\ud800-\udfff]|%[0-9A-Fa-f]{2}")


@lru_cache(65536)
def normalise(name: str) -> str:
    """``name`` itself: names that differ in case are different. Raises ``ValueError`` for a name outside the grammar."""
    if len(name) > LIMIT_NAME or not _NAME.fullmatch(name) or name.lower() in _FORBIDDEN:
        raise ValueError(f"not a package name: {name[:64]!r}")
    return name


def is_name(name: str) -> bool:
    try:
        normalise(name)
    except ValueError:
        return False
    return True


def split(segments: tuple[str, ...]) -> tuple[str, tuple[str, ...]] | None:
    """The package that decoded path segments begin with, and the segments after it; None if they begin with none."""
    size = 2 if segments and segments[0].startswith("@") else 1
    name = "/".join(segments[:size])
    return (name, segments[size:]) if len(segments) >= size and is_name(name) else None


def basename(name: str) -> str:
    """``name`` without its scope: what tarballs are called after."""
    return name.rpartition("/")[2]


def conventional(name: str, version: str) -> str | None:
    """The tarball's file name as the registry itself gives it, ``<basename>-<version>.tgz``; None where that is no file name."""
    filename = f"{basename(name)}-{version}.tgz"
    return None if _UNFIT.search(filename) or len(filename.encode()) > 255 or version in ("", ".", "..") else filename


def version_in(name: str, filename: str) -> str:
    """The version that a tarball's file name stands for; empty if it follows no convention."""
    start = basename(name) + "-"
    if filename.startswith(start) and filename.endswith(".tgz"):
        return filename[len(start) : -len(".tgz")]
    return ""


def tarball_at(segments: tuple[str, ...]) -> str | None:
    """The path, ``<pkg>/-/<file>``, of the tarball that decoded segments of a URL's path lead to, whatever stands before; None if to none.

    Beside the registry's own shape there are ``…/@scope/name/<version>/<anything>`` and ``…/<pkg>/<basename>-<version>.tgz``.
    """
    for at, segment in enumerate(segments[:-1]):
        name = _name_before(segments[:at]) if segment == "-" else ""
        if name:
            return "/".join((name, *segments[at:]))
    name = _name_before(segments[:-2])
    if name.startswith("@") and version_key(segments[-2]) is not None:
        filename = conventional(name, segments[-2])
        return f"{name}/-/{filename}" if filename is not None else None
    name = _name_before(segments[:-1])
    if name and version_key(version_in(name, segments[-1])) is not None:
        return f"{name}/-/{segments[-1]}"
    return None


def _name_before(segments: tuple[str, ...]) -> str:
    """The package that decoded segments end with; empty if they end with none."""
    size = 2 if len(segments) > 1 and segments[-2].startswith("@") else 1
    name = "/".join(segments[-size:])
    return name if is_name(name) else ""


def in_url(path: str) -> str:
    """A decoded path in its one canonical encoding: ``/`` and ``@`` stand as they are."""
    return path if _PLAIN_PATH.fullmatch(path) else quote(path, safe="/+!~()',;=@$&*")


def escaped(name: str) -> str:
    """A name as one path segment, which is how clients and the registry write it: ``@scope%2fname``."""
    return name.replace("/", "%2f")


@lru_cache(65536)
def version_key(text: str) -> Key | None:
    """Where a version stands in the order of Semantic Versioning 2.0.0 §11; None for text that has no place there.

    Read loosely, as npm does what was published before there was a rule: ``v1.0``, ``1.0.0beta``. Build metadata counts for nothing.
    """
    found = _VERSION.fullmatch(text) if len(text) <= LIMIT_VERSION else None
    if found is None:
        return None
    major, minor, patch, hyphened, bare = found.groups()
    before = hyphened or bare
    identifiers = tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in (before.split(".") if before is not None else ())
    )
    # "a pre-release version has lower precedence than the associated normal version" (§11.3)
    return int(major), int(minor or 0), int(patch or 0), 0 if identifiers else 1, identifiers


def is_stable(key: Key) -> bool:
    return key[3] == 1
