"""What lock files need, one reader per format: text in, ``Lock`` out, without I/O.

A lock says of each package which version is meant and what its bytes are; it does not say what this edge holds of them, nor which of a
version's files a client on some platform takes. So a reader tells what stands there (``Needed``), ``targets.py`` says on which platforms
and Pythons that applies and which files are taken there, and ``edge/warm.py`` looks for them. What comes from nowhere near a registry
(a directory, a git repository) is told too (``Elsewhere``): a lock is not ready because its other half is.

``reading.py`` knows which reader a file is for. The formats: ``requirements.py`` (pip's, with hashes), ``python.py`` (``uv.lock``,
``poetry.lock``, ``pdm.lock``, ``pylock.toml``), ``npm.py`` (``package-lock.json``, ``bun.lock``), ``pnpm.py``, ``yarn.py`` (both
generations), ``gradle.py``. ``yaml.py`` reads the part of YAML that two of them are written in.

Everything read here was written by others: a reader raises ``Malformed``, with the line, and nothing else.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from origin.model import ALGORITHMS, Digest

type Ask = Literal["page", "json", "sidecar", "signature"]
"""What clients of a format ask for beside the files: the page that lists them, PyPI's legacy document, metadata beside wheels, detached
signatures.
"""


class Malformed(ValueError):
    """A lock file that is none, or of a kind that says too little. ``line`` counts from 1, and is 0 for the whole.

    ``file`` names the file where it is another one that the lock includes.
    """

    def __init__(self, why: str, line: int = 0, file: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.line = line
        self.file = file

    def __str__(self) -> str:
        return f"{f'{self.file}: ' if self.file else ''}{f'line {self.line}: ' if self.line else ''}{self.why}"


class LockedFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file as a lock names it. Its bytes must have every one of ``digests``; ``url`` is where the client asks, "" if by convention."""

    filename: str
    digests: tuple[Digest, ...] = ()
    url: str = ""
    requires_python: str = ""


class Needed(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version of one package that comes from a registry. Without a version only its page is asked for, and may be absent.

    ``files`` are those that the lock names; if it names none, ``digests`` are those of which a file must have one (none: any file).
    ``source`` is the index that the lock names, "" for whatever the client is configured with. ``form`` restricts Python's files.
    ``os``, ``cpu`` and ``libc`` are npm's, ``!`` before a name excludes it; ``optional`` is what a client goes on without.
    """

    kind: Literal["pypi", "npm", "maven"]
    project: str
    version: str
    files: tuple[LockedFile, ...] = ()
    digests: tuple[Digest, ...] = ()
    source: str = ""
    asks: tuple[Ask, ...] = ()
    marker: str = ""
    form: Literal["any", "wheel", "sdist"] = "any"
    os: tuple[str, ...] = ()
    cpu: tuple[str, ...] = ()
    libc: tuple[str, ...] = ()
    optional: bool = False
    line: int = 0


class Elsewhere(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something a lock names that no registry has. ``remote`` tells what has to be fetched all the same from what lies on this machine."""

    name: str
    where: str
    remote: bool
    marker: str = ""


@dataclass(frozen=True, slots=True)
class Reach:
    """A way to a node of a lock's graph, open where ``marker`` is true."""

    node: int
    marker: str = ""


@dataclass(frozen=True, slots=True)
class Lock:
    """What a lock file says.

    ``nodes`` are the graph's: each leads on by ``edges`` (of the same index) and stands for one of ``needed``, or for nothing (None).
    Without ``roots`` everything is needed wherever its own marker is true. ``requires_python`` is a specifier, ``pythons`` are the
    versions it was made for, if it says so; ``environments`` are markers, one of which has to be true. ``local`` are paths, relative to
    the lock, of projects that a Python client builds; ``scripts`` are packages that run something when they are installed.
    """

    format: str
    needed: tuple[Needed, ...] = ()
    elsewhere: tuple[Elsewhere, ...] = ()
    requires_python: str = ""
    pythons: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()
    roots: tuple[Reach, ...] = ()
    nodes: tuple[int | None, ...] = ()
    edges: tuple[tuple[Reach, ...], ...] = ()
    local: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()
    extras: frozenset[str] = field(default_factory=frozenset)
    groups: frozenset[str] = field(default_factory=frozenset)

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(needed.kind for needed in self.needed)


# ---- what several readers share --------------------------------------------------------------------------------------


def hashed(text: str, line: int = 0) -> Digest:
    """``sha256:ab…`` as a digest. Raises ``Malformed``."""
    algorithm, _, value = text.partition(":")
    algorithm, value = algorithm.strip().lower(), value.strip().lower()
    if ALGORITHMS.get(algorithm) != len(value) or not all(digit in "0123456789abcdef" for digit in value):
        raise Malformed(f"{text[:80]!r} is no hash", line)
    return Digest(algorithm, value)


def hashes_of(values: Mapping[str, object], line: int = 0) -> tuple[Digest, ...]:
    """Digests of a table ``{sha256 = "ab…"}``; algorithms that nothing here computes are passed over. Raises ``Malformed``."""
    return tuple(hashed(f"{name}:{value}", line) for name, value in values.items() if name.lower() in ALGORITHMS)


def integrity(text: str, line: int = 0) -> tuple[Digest, ...]:
    """The strongest digest of a Subresource Integrity value, which is the one that clients check. Raises ``Malformed``."""
    found: list[Digest] = []
    for word in text.split():
        algorithm, dash, encoded = word.partition("?")[0].partition("-")
        if not dash or algorithm not in ALGORITHMS:
            continue
        try:
            value = base64.b64decode(encoded, validate=True).hex()
        except (binascii.Error, ValueError):
            raise Malformed(f"{word[:80]!r} is no integrity", line) from None
        found.append(hashed(f"{algorithm}:{value}", line))
    if not found:
        raise Malformed(f"{text[:80]!r} is no integrity", line)
    return (max(found, key=lambda digest: ALGORITHMS[digest.algorithm]),)


def line_of(text: str, offset: int) -> int:
    """The line that the character at ``offset`` stands on, from 1."""
    return text.count("\n", 0, offset) + 1


def words_of(value: object) -> tuple[str, ...]:
    """The strings of a list, or a string alone; anything else says nothing."""
    if isinstance(value, str):
        return (value,)
    return tuple(word for word in value if isinstance(word, str)) if isinstance(value, Iterable) else ()
