"""The kinds of registry there are: one table from a kind's name to its module, and where its public registry is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from packageurl.contrib import purl2url

from . import Registry
from .pypi import PyPI

KINDS: Mapping[str, Callable[[str, str, Sequence[str]], Registry]] = {
    "pypi": PyPI,
}
"""What makes a registry of each kind, from instance name, upstream root and aliases."""


def create(kind: str, name: str, upstream: str, aliases: Sequence[str] = ()) -> Registry:
    """Make the registry instance ``name``. ``aliases`` are other hosts that mean the same upstream. Raises ``ValueError`` for an unknown kind."""
    make = KINDS.get(kind)
    if make is None:
        raise ValueError(f"unknown kind of registry {kind[:32]!r}; known: {', '.join(sorted(KINDS))}")
    return make(name, upstream, tuple(aliases))


def default_upstream(kind: str) -> str:
    """The root of the public registry of ``kind``, as the purl library's own tables have it. Raises ``ValueError`` for an unknown kind.

    Read at run time, so that the tree spells no registry's address.
    """
    match kind:
        case "pypi":
            sample, root = str(purl2url.get_repo_url("pkg:pypi/sample")), "/simple/"
        case "npm":
            sample, root = purl2url.get_download_url("pkg:npm/sample@1"), "/"
        case "maven":
            sample = purl2url.get_download_url("pkg:maven/group/sample@1")
            root = urlsplit(str(sample)).path.removesuffix("group/sample/1/sample-1.jar")
        case _:
            raise ValueError(f"unknown kind of registry {kind[:32]!r}")
    parts = urlsplit(str(sample))
    if not parts.hostname:
        raise ValueError(f"the purl library knows no address for {kind}; set the upstream")
    return f"{parts.scheme}://{parts.netloc}{root}"
