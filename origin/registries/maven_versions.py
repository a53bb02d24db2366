"""The order of Maven versions, as a key that sorts, and which versions are snapshots.

The order is the one that Maven's own ``ComparableVersion`` promises, in the words of its "Version Order Specification" (POM reference):
a version is a run of tokens, each with the separator before it; trailing nulls before each hyphen do not count; what is left is compared
token by token, the shorter version padded with nulls. That padding need not be spelled out: once trailing nulls are gone, a null token
stands only where a greater one follows, so the end of a version lies directly below the null qualifier and the whole is a plain
lexicographic order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

type Key = tuple[tuple[int, int, str], ...]
"""Compares with its like; equal for versions that Maven holds to be the same."""

# "alpha" < "beta" < "milestone" < "rc" = "cr" < "snapshot" < "" = "final" = "ga" = "release" < "sp"
_KNOWN = {"alpha": 0, "beta": 1, "milestone": 2, "rc": 3, "snapshot": 4, "": 6, "sp": 7}
_ALIASES = {"cr": "rc", "ga": "", "final": "", "release": ""}
# "can be shortened [...] when directly followed by a number"
_SHORT = {"a": "alpha", "b": "beta", "m": "milestone"}
_OTHER = 8

_QUALIFIER, _HYPHENED, _DOTTED = 0, 1, 2
_END = (_QUALIFIER, 5, "")
_NULLS = ((_QUALIFIER, 6, ""), (_HYPHENED, 0, ""), (_DOTTED, 0, ""))

_VERSION = re.compile(r"[A-Za-z0-9_.+~!, -]{1,255}")
_PIECE = re.compile(r"([.-]?)([0-9]+|[^0-9.-]+|)")
_SNAPSHOT = re.compile(r"(?:.*-)?SNAPSHOT", re.DOTALL)
_TIMESTAMPED = re.compile(r"(?:.*-)?[0-9]{8}\.[0-9]{6}-[0-9]+", re.DOTALL)


def is_version(text: str) -> bool:
    """Whether ``text`` can be a version in a repository: its characters, and nothing that a path would read otherwise."""
    return _VERSION.fullmatch(text) is not None and text == text.strip() and text not in (".", "..")


def is_snapshot(version: str) -> bool:
    """Whether ``version`` is a snapshot, ``…-SNAPSHOT`` or resolved to a timestamp."""
    return _SNAPSHOT.fullmatch(version) is not None or is_timestamped(version)


def is_timestamped(version: str) -> bool:
    """Whether ``version`` is one build of a snapshot, resolved to a timestamp."""
    return _TIMESTAMPED.fullmatch(version) is not None


def bound(version: str) -> Key | None:
    """The sort key of a version that a rule names. Raises ``ValueError`` for one build of a snapshot: rules are about releases."""
    if is_timestamped(version):
        raise ValueError(f"{version[:64]!r} is one build of a snapshot; rules are about all of them: write …-SNAPSHOT")
    return version_key(version)


@lru_cache(16384)
def version_key(version: str) -> Key | None:
    """The sort key of ``version``; None for what cannot be one."""
    if not is_version(version):
        return None
    tokens: list[tuple[int, int, str]] = []
    for hyphened, text, before_number in _tokens(version.lower()):
        if text[:1].isdigit():
            token = (_HYPHENED if hyphened else _DOTTED, int(text), "")
        else:
            name = _SHORT.get(text, text) if before_number else text
            name = _ALIASES.get(name, name)
            known = _KNOWN.get(name)
            # "".qualifier" = "-qualifier" < "-number" < ".number""
            token = (_QUALIFIER, _OTHER, name) if known is None else (_QUALIFIER, known, "")
        if hyphened or token[0] == _QUALIFIER:
            _trim(tokens)
        tokens.append(token)
    _trim(tokens)
    return (*tokens, _END)


def highest(versions: Iterable[str]) -> str | None:
    """The highest of ``versions``, of equals the last; None of none. What has no place in the order is lower than everything."""
    best: tuple[bool, Key] = (False, ())
    found: str | None = None
    for version in versions:
        key = version_key(version)
        rank = (key is not None, key or ())
        if found is None or rank >= best:
            best, found = rank, version
    return found


def in_order(versions: Iterable[str]) -> list[str]:
    """``versions`` from the lowest to the highest, equals as they come; what has no place in the order goes first."""
    return sorted(versions, key=lambda version: ((key := version_key(version)) is not None, key or ()))


def _tokens(version: str) -> Iterable[tuple[bool, str, bool]]:
    """(whether a hyphen precedes it, the token, whether a number follows it without a separator) of each token.

    "A transition between digits and characters is equivalent to a hyphen. Empty tokens are replaced with "0"."
    """
    found = [(match[1], match[2]) for match in _PIECE.finditer(version) if match[0]]
    if found and found[0][0]:
        found.insert(0, ("", ""))
    for at, (separator, text) in enumerate(found):
        following = found[at + 1] if at + 1 < len(found) else ("-", "")
        yield separator == "-" or (at > 0 and not separator), text or "0", not following[0] and following[1][:1].isdigit()


def _trim(tokens: list[tuple[int, int, str]]) -> None:
    while tokens and tokens[-1] in _NULLS:
        tokens.pop()
