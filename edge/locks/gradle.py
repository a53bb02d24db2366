"""Gradle's dependency locks: ``gradle.lockfile``, ``buildscript-gradle.lockfile``, and the older ones of single configurations.

Coordinates and nothing else: what files a version has, its POM or ``.module`` file says, and those are read where they are held.
Essential reading: Gradle's "Locking Versions".
"""

from __future__ import annotations

from origin.registries import maven_paths
from origin.registries.maven_versions import is_version

from . import Lock, Malformed, Needed

FORMAT = "gradle.lockfile"

_HEADER = "# This is a Gradle generated file for dependency locking."
"""How every lock begins that Gradle wrote. Until 6.7 there is nothing else in that of a configuration that requires nothing."""


def read(text: str) -> Lock:
    """The lock that ``text`` is. Raises ``Malformed``."""
    needed: list[Needed] = []
    is_lock = False
    for number, raw in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            is_lock = is_lock or line == _HEADER
            continue
        coordinates, equals, _ = line.partition("=")
        if coordinates == "empty" and equals:
            is_lock = True
            continue
        words = coordinates.split(":")
        if len(words) != 3:
            raise Malformed(f"{line[:80]!r} is not group:artifact:version", number)
        group, artifact, version = words
        try:
            project = maven_paths.normalise(f"{group}/{artifact}")
        except ValueError as error:
            raise Malformed(str(error), number) from None
        if not is_version(version):
            raise Malformed(f"{version[:80]!r} is no version", number)
        needed.append(Needed("maven", project, version, line=number))
    if not needed and not is_lock:
        raise Malformed("it locks nothing")
    return Lock(FORMAT, tuple(dict.fromkeys(needed)))
