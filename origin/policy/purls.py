"""Purls as people write them in rules and commands: ``pkg:pypi/six@1.16.0``, ``pkg:npm/@scope/*``, ``pkg:pypi/evil@>=1,<2``.

The same shape as a package URL, but not parsed by the purl library: a pattern is no valid purl (``*`` and ``<`` would need escapes that
nobody types), and its normalisation would hide what was written from the messages.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from urllib.parse import quote, unquote

KINDS = ("pypi", "npm", "maven")

_BAD = re.compile(r"[\x00-\x20\x7f-\xa0\\]")


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


def matches(glob: str, purl: str) -> bool:
    """Whether ``purl`` (as ``purl_of`` writes it) is named by a pattern such as ``pkg:npm/@scope/*`` or ``pkg:pypi/six``; ``*`` is any
    run of
    characters. A pattern without a version names all versions.
    """
    if glob == "*":
        return True
    wanted = unquote(glob)
    return fnmatchcase(unquote(purl), wanted) or fnmatchcase(unquote(purl.partition("@")[0]), wanted)
