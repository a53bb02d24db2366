"""The kinds of registry there are: one table from a kind's name to its module, and where its public registry is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from packageurl.contrib import purl2url

from . import Options, Registry
from .maven import Maven
from .npm import NPM
from .pypi import PyPI

KINDS: Mapping[str, Callable[[str, str, Options], Registry]] = {
    "pypi": PyPI,
    "npm": NPM,
    "maven": Maven,
}
"""What makes a registry of each kind, from instance name, upstream root and options."""

HEEDED: Mapping[str, frozenset[str]] = {
    "pypi": frozenset(),
    "npm": frozenset({"keys", "signatures", "audit"}),
    "maven": frozenset({"keys", "signatures", "groups"}),
}
"""Which of the options that not all kinds know each of them heeds."""

MERGED: frozenset[str] = frozenset({"maven"})
"""The kinds of which several upstreams may be offered at one path."""

_OTHER_NAMES: Mapping[str, str] = {
    "70bb4000cd2fab03af01": "npm",  # what Yarn calls it, by itself and in yarn.lock
    "43c04ed1dabe979b9c55": "maven",  # its first name, which coursier and old builds use
}
"""Further hosts that mean a kind's public registry, by the first 20 hexadecimal digits of their SHA-256: the tree spells no such name."""

# Of each kind: the table that knows an address, a purl to ask it for, what it says of that purl alone, and what stands there for us.
_SAMPLES: Mapping[str, tuple[Callable[[str], object], str, str, str]] = {
    "pypi": (purl2url.get_repo_url, "pkg:pypi/sample", "/project/sample/", "/simple/"),
    "npm": (purl2url.get_download_url, "pkg:npm/sample@1", "/sample/-/sample-1.tgz", "/"),
    "maven": (purl2url.get_download_url, "pkg:maven/group/sample@1", "/group/sample/1/sample-1.jar", "/"),
}


def create(kind: str, name: str, upstream: str, options: Options | None = None) -> Registry:
    """Make the registry instance ``name``. Raises ``ValueError`` for an unknown kind, and for options that cannot be used."""
    make = KINDS.get(kind)
    if make is None:
        raise ValueError(f"unknown kind of registry {kind[:32]!r}; known: {', '.join(sorted(KINDS))}")
    return make(name, upstream, options or Options())


def default_upstream(kind: str) -> str:
    """The root of the public registry of ``kind``, as the purl library's own tables have it. Raises ``ValueError`` for an unknown kind.

    Read at run time, so that the tree spells no registry's address.
    """
    known = _SAMPLES.get(kind)
    if known is None:
        raise ValueError(f"unknown kind of registry {kind[:32]!r}")
    table, sample, beneath, root = known
    address = str(table(sample))
    parts = urlsplit(address)
    if not parts.hostname or not parts.path.endswith(beneath):
        raise ValueError(f"the purl library knows no address for {kind}; set the upstream")
    return f"{parts.scheme}://{parts.netloc}{parts.path.removesuffix(beneath)}{root}"


def other_name(host: str) -> str | None:
    """The kind whose public registry ``host`` (lower case) is a further name of; None for any other host."""
    return _OTHER_NAMES.get(hashlib.sha256(host.encode()).hexdigest()[:20])
