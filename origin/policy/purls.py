"""Purls as people write them in rules and commands: ``pkg:pypi/six@1.16.0``, ``pkg:npm/@scope/*``, ``pkg:pypi/evil@>=1,<2``.

The same shape as a package URL, but not parsed by the purl library: a pattern is no valid purl (``*`` and ``<`` would need escapes that
nobody types), and its normalisation would hide what was written from the messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
from urllib.parse import quote, unquote

KINDS = ("pypi", "npm", "maven")

_BAD = re.compile(r"[\x00-\x20\x7f-\xa0\\]")
_WILD = re.compile(r"[*?\[]")


def split(text: str) -> tuple[str, str, str | None]:
    """Split ``pkg:<kind>/<name>[@<rest>]``: kind, decoded name, and what follows the version separator (decoded), None without one.

    The separator is the last ``@`` that does not begin a scope. Raises ``ValueError`` with a sentence.
    """
    head, colon, body = text.partition(":")
    if head.lower() != "pkg" or not colon:
        raise ValueError(f"{text[:64]!r} does not begin with pkg:")
    kind, slash, rest = body.lstrip("/").partition("/")
    kind = kind.lower()
    if not slash or kind not in KINDS:
        raise ValueError(f"{text[:64]!r} names no kind of registry; pkg:<kind>/<name>, where <kind> is one of {', '.join(KINDS)}")
    # Qualifiers and subpath say nothing about which release is meant.
    rest = rest.partition("#")[0].partition("?")[0]
    at = rest.rfind("@")
    # An @ that begins the name or follows a slash begins a scope.
    raw_name, raw_version = (rest, None) if at <= 0 or rest[at - 1] == "/" else (rest[:at], rest[at + 1 :])
    name = unquote(raw_name).strip("/")
    version = None if raw_version is None else unquote(raw_version)
    if not name:
        raise ValueError(f"{text[:64]!r} names no package")
    if _BAD.search(name):
        raise ValueError(f"the name in {text[:64]!r} holds a space, a control character or a backslash")
    return kind, name, version


def parse_purl(text: str) -> tuple[str, str, str | None]:
    """The (kind, project, version or None) that a purl names, as written but for percent-encoding; normalise the project by its registry.

    Raises ``ValueError`` with a sentence.
    """
    kind, name, version = split(text.strip())
    if "*" in name:
        raise ValueError(f"{text[:64]!r} is a pattern; name one package")
    if version is not None and (not version or _BAD.search(version)):
        raise ValueError(f"the version in {text[:64]!r} is empty or holds a space")
    return kind, name, version


def purl_of(kind: str, project: str, version: str = "") -> str:
    """The purl of a release, or of a project without ``version``; the project in its registry's one spelling (``group/artifact`` for
    Maven).

    An ``@`` of a scope is encoded, so that the only one is the version's.
    """
    name = quote(project, safe="/.+-_~")
    spelled = f"@{quote(version, safe='.+-_~!')}" if version else ""
    return f"pkg:{kind}/{name}{spelled}"


class Patterns:
    """Patterns such as ``pkg:npm/@scope/*`` or ``pkg:pypi/six``, to be held against many purls: a thousand take little longer than one.

    ``*`` is any run of characters. A pattern without a version names all versions; ``*`` alone names everything, even ``""``.

    Those without a wildcard, or with a single ``*`` at their end, are looked up; of the others only those are tried whose beginning fits.
    """

    def __init__(self, globs: Iterable[str]) -> None:
        self._is_any = False
        self._plain: set[str] = set()
        self._beginnings: dict[str, list[str] | re.Pattern[str] | None] = {}
        """What comes before the first wildcard, and what is to match then: patterns, compiled once they are needed; None for anything."""
        for glob in globs:
            self._is_any = self._is_any or glob == "*"
            wanted = unquote(glob)
            wild = _WILD.search(wanted)
            if wild is None:
                self._plain.add(wanted)
            elif wanted[wild.start() :] == "*":
                self._beginnings[wanted[:-1]] = None
            elif (others := self._beginnings.setdefault(wanted[: wild.start()], [])) is not None:
                assert isinstance(others, list)
                others.append(translate(wanted))
        self._lengths = sorted({len(beginning) for beginning in self._beginnings})

    def match(self, purl: str) -> bool:
        """Whether one of them names ``purl``, as ``purl_of`` writes it."""
        return self._is_any or self._has(unquote(purl)) or self._has(unquote(purl.partition("@")[0]))

    def _has(self, name: str) -> bool:
        return name in self._plain or any(self._fits(name[:length], name) for length in self._lengths)

    def _fits(self, beginning: str, name: str) -> bool:
        if beginning not in self._beginnings:
            return False
        rest = self._beginnings[beginning]
        if isinstance(rest, list):
            rest = self._beginnings[beginning] = re.compile("|".join(rest))
        return rest is None or rest.match(name) is not None
