"""``pnpm-lock.yaml``, from version 5.4 to 9: packages by name and version, with an integrity and, only where it is unusual, an address.

pnpm 11 asks the registry for the page of every package that a lock names, whatever it installs of it: it holds their ages against its own
policy. And it asks for its own page, and for what that says it waits. Older ones ask for nothing but tarballs; what satisfies the new
satisfies the old.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from origin.registries import npm_names

from . import Elsewhere, Lock, Malformed, Needed, words_of
from .npm import package, where_of
from .yaml import Value, load

FORMAT = "pnpm-lock.yaml"

_KEY = re.compile(r"/?(?P<name>@[^@/]+/[^@/]+|[^@/]+)[@/](?P<version>[^()]+)(?:\(.*)?")


def read(text: str) -> Lock:
    """The lock that ``text`` is. Raises ``Malformed``."""
    documents = [document for document in load(text) if isinstance(document, dict)]
    versions = [str(document.get("lockfileVersion", "")) for document in documents]
    if not any(versions):
        raise Malformed("it has no lockfileVersion, as a pnpm-lock.yaml has")
    if any(version and version.partition(".")[0] not in ("5", "6", "7", "8", "9") for version in versions):
        raise Malformed(f"its version {', '.join(filter(None, versions))[:40]} is not known here; 5.4 to 9 are")
    needed = [Needed("npm", "pnpm", "", asks=("page",))]
    elsewhere: list[Elsewhere] = []
    scripts: tuple[str, ...] = ()
    for document, version in zip(documents, versions, strict=True):
        for place, entry, optional in _packages(document):
            found = _package(place, entry, optional, is_old=version.startswith("5"))
            if isinstance(found, Needed):
                needed.append(found)
                scripts += (found.project,) if entry.get("requiresBuild") == "true" else ()
                if found.os or found.cpu or found.libc:
                    # Its page is asked for wherever the lock is installed.
                    needed.append(Needed("npm", found.project, "", asks=("page",)))
            else:
                elsewhere.append(found)
    scripts = tuple(dict.fromkeys(scripts))
    return Lock(FORMAT, tuple(dict.fromkeys(needed)), tuple(dict.fromkeys(elsewhere)), scripts=scripts)


def _packages(document: Mapping[str, Value]) -> list[tuple[str, Mapping[str, Value], bool]]:
    """The packages, each with whether a client goes on without it."""
    packages, snapshots = document.get("packages") or {}, document.get("snapshots") or {}
    if not isinstance(packages, dict) or not isinstance(snapshots, dict):
        raise Malformed("its packages are no mapping")
    # Since version 9 that is said of each use of a package, with the peers it is used with.
    required = {
        place.partition("(")[0]
        for place, use in snapshots.items()
        if not (isinstance(use, dict) and use.get("optional") == "true")
    }
    found: list[tuple[str, Mapping[str, Value], bool]] = []
    for place, entry in packages.items():
        if not isinstance(entry, dict):
            raise Malformed(f"{place[:80]!r} is no package")
        plain = place.partition("(")[0]
        optional = plain not in required if snapshots else entry.get("optional") == "true"
        found.append((place, entry, optional))
    return found


def _package(place: str, entry: Mapping[str, Value], optional: bool, *, is_old: bool) -> Needed | Elsewhere:
    resolution = entry.get("resolution")
    if not isinstance(resolution, dict):
        raise Malformed(f"{place[:80]!r} has no resolution")
    key = _KEY.fullmatch(place)
    told = {name: value for name in ("name", "version") if isinstance(value := entry.get(name), str)}
    name = told.get("name") or (key["name"] if key is not None else place)
    version = key["version"] if key is not None else ""
    if is_old:
        # Before version 6 peers stood behind an underscore.
        version = version.partition("_")[0]
    tarball, integrity = resolution.get("tarball", ""), resolution.get("integrity", "")
    if "directory" in resolution or (isinstance(tarball, str) and tarball.startswith("file:")):
        return Elsewhere(name, "a file or directory", remote=False)
    if "repo" in resolution or not isinstance(integrity, str) or not integrity or npm_names.version_key(version) is None:
        address = next((value for each in ("repo", "tarball") if isinstance(value := resolution.get(each), str) and value), place)
        return Elsewhere(name, where_of(address), remote=True)
    if not npm_names.is_name(name):
        raise Malformed(f"{place[:80]!r} has no package's name")
    os, cpu, libc = (words_of(entry.get(each) or ()) for each in ("os", "cpu", "libc"))
    url = tarball if isinstance(tarball, str) else ""
    try:
        return package(name, version, url, integrity, 0, ask=True, os=os, cpu=cpu, libc=libc, optional=optional)
    except Malformed as error:
        raise Malformed(f"{place[:80]!r}: {error.why}") from None
