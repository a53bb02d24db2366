"""What Gradle asks for of a locked module: its POM, its ``.module`` file, the POMs above and beside it, its jars.

A lock names coordinates alone. Everything else is read from what is here, or has just been brought: so where a POM is missing, what it
leads to is unknown. What was needed when the lock was last brought here is remembered, and told in its place.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

import trio

from origin.errors import Corrupt, NotFound, Refused, Unavailable
from origin.model import File, Page
from origin.registries import Registry, maven_paths
from origin.registries.maven_versions import is_snapshot

from . import MORE, Account, Thing, Wish, poms
from .hands import Had, Hand
from .places import Members, Places

LIMIT_LINEAGE = 32
"""How many POMs stand above one another at most."""

UNREAD = f"what a missing POM leads to, only the POM tells: {MORE}"
"""Said of a lock that was never brought here whole."""

_FAILURES = (NotFound, Refused, Unavailable, Corrupt)


@dataclass(slots=True)
class Shop:
    """Where a lock's modules are looked for, and how. ``asked`` are the paths that were asked for, by instance."""

    hand: Hand
    places: Places
    account: Account
    locked: dict[tuple[str, str], str] = field(default_factory=dict)
    asked: set[tuple[str, str]] = field(default_factory=set)
    unread: bool = False
    signatures: bool = False
    _poms: dict[poms.Coordinates, trio.Lock] = field(default_factory=dict)
    _read: dict[poms.Coordinates, poms.Pom | None] = field(default_factory=dict)

    async def settle(self, wish: Wish) -> None:
        """Find out about one module."""
        needed = wish.needed
        group, _, artifact = needed.project.partition("/")
        groups = self.places.members("maven", "", needed.project)
        told = f"{group}:{artifact}:{needed.version}"
        if not groups:
            self.account.outside(told, "a repository that this edge has none of")
            return
        if is_snapshot(needed.version):
            self.account.outside(told, "a snapshot, whose files nobody knows until it is asked for")
            return
        coordinates = group, artifact, needed.version
        members, stem = groups[0], _stem(coordinates)
        self.signatures = "signature" in needed.asks
        pom = await self._pom(members, coordinates, wish.targets)
        if pom is None:
            return
        module = None
        if pom.has_module:
            module = await self._file(members, f"{stem}.module", wish.targets)
        elif self.hand.brings:
            # Who declares it asks for it first, marked or not: then its absence has to be known.
            with contextlib.suppress(*_FAILURES):
                await self.hand.file([file for registry in members if (file := _at(registry, f"{stem}.module")) is not None])
        if module is not None:
            # Then nothing of the POM is read but its comment.
            await self._modules_files(members, module, stem, wish.targets)
            return
        lineage = await self._lineage(members, coordinates, wish.targets)
        if lineage is not None:
            await self._chosen_from(lineage.open(), wish.targets)
        await self._packaged(members, stem, pom.packaging, wish.targets)
        for other_group, other_artifact, classifier, kind in lineage.classified() if lineage is not None else ():
            version = self.locked.get((other_group, other_artifact))
            if version is not None:
                extension = "jar" if kind in poms.JARS else kind
                beside = f"{_stem((other_group, other_artifact, version))}{f'-{classifier}' if classifier else ''}.{extension}"
                await self._file(members, beside, wish.targets)

    async def _modules_files(self, members: Members, module: Had, stem: str, targets: Sequence[int]) -> None:
        try:
            read = poms.read_module(await self.hand.content(module))
        except (ValueError, *_FAILURES) as error:
            self.account.lack(_thing(module.file), "other", str(error), targets)
            return
        await self._chosen_from(read.open, targets)
        for url in read.files:
            path = posixpath.normpath(posixpath.join(posixpath.dirname(stem), unquote(url.partition("?")[0])))
            await self._file(members, path, targets)

    async def _chosen_from(self, modules: Iterable[tuple[str, str]], targets: Sequence[int]) -> None:
        """What there is of modules that are required in a range: their versions are looked up, though the lock says which it is."""
        for group, artifact in modules:
            project = f"{group}/{artifact}"
            groups = self.places.members("maven", "", project)
            if (group, artifact) not in self.locked or not groups:
                continue
            thing = Thing(groups[0][0].name, f"{group}:{artifact}", "", "page", f"the versions of {group}:{artifact}")
            try:
                await self.hand.page([(registry, Page(registry.name, project)) for registry in groups[0]])
                self.account.had.add(thing)
            except _FAILURES as error:
                self.account.fail(thing, error, targets)

    async def _packaged(self, members: Members, stem: str, packaging: str, targets: Sequence[int]) -> None:
        """The file of a module without metadata of Gradle's."""
        if packaging == "pom":
            # Gradle looks whether there is a jar all the same: that there is none must be known here.
            await self._file(members, f"{stem}.jar", targets, optional=True)
        elif packaging in poms.JARS or await self._file(members, f"{stem}.{packaging}", targets, optional=True) is None:
            await self._file(members, f"{stem}.jar", targets)

    # -- POMs

    async def _lineage(self, members: Members, coordinates: poms.Coordinates, targets: Sequence[int]) -> poms.Lineage | None:
        """A POM with those above it, having asked for what they import; None if the first is not to be had."""
        found: list[poms.Pom] = []
        at: poms.Coordinates | None = coordinates
        while at is not None and len(found) < LIMIT_LINEAGE:
            pom = await self._pom(members, at, targets)
            if pom is None:
                break
            found.append(pom)
            at = pom.parent if pom.parent is not None and all(pom.parent) else None
        if not found:
            return None
        lineage = poms.Lineage(tuple(found))
        for each in lineage.imports():
            if each not in self._read:
                await self._lineage(members, each, targets)
        return lineage

    async def _pom(self, members: Members, coordinates: poms.Coordinates, targets: Sequence[int]) -> poms.Pom | None:
        async with self._poms.setdefault(coordinates, trio.Lock()):
            if coordinates in self._read:
                return self._read[coordinates]
            self._read[coordinates] = None
            had = await self._file(members, f"{_stem(coordinates)}.pom", targets)
            if had is None:
                self.unread = True
                return None
            try:
                pom = self._read[coordinates] = poms.read(await self.hand.content(had))
            except (ValueError, *_FAILURES) as error:
                self.account.lack(_thing(had.file), "other", str(error), targets)
                return None
            return pom

    # -- files

    async def _file(self, members: Members, path: str, targets: Sequence[int], *, optional: bool = False) -> Had | None:
        """The file at a path; None if it is not to be had, which is noted unless a client goes on without it."""
        files = [file for registry in members if (file := _at(registry, path)) is not None]
        if not files:
            return None
        had: Had | None
        self.asked.add((files[0].registry, path))
        try:
            had = await self.hand.file(files)
        except NotFound as error:
            # Said cleanly, and remembered: clients will hear the same.
            if not optional:
                self.account.fail(_thing(files[0]), error, targets)
            return None
        except _FAILURES as error:
            self.account.fail(_thing(files[0]), error, targets)
            if isinstance(error, Refused):
                return None
            had = None
        else:
            self.account.had.add(_thing(had.file))
        if self.signatures and not path.endswith(".asc"):
            # Stored, and lost, by itself.
            await self._file(members, f"{path}.asc", targets, optional=True)
        return had

    async def remembered(self, paths: Sequence[tuple[str, str]], targets: Sequence[int]) -> None:
        """Look for what was needed when this lock was last brought here, where a POM is missing that would tell."""
        for instance, path in paths:
            groups = [each for each in self.places.members("maven", "", _project(path)) if any(r.name == instance for r in each)]
            if groups and not any(path == asked for _, asked in self.asked):
                await self._file(groups[0], path, targets, optional=True)


def _stem(coordinates: poms.Coordinates) -> str:
    """The path of a module's files without their extension."""
    group, artifact, version = coordinates
    return f"{group.replace('.', '/')}/{artifact}/{version}/{artifact}-{version}"


def _project(path: str) -> str:
    found = maven_paths.read_file(tuple(path.split("/")))
    return found.project if found is not None else ""


def _at(registry: Registry, path: str) -> File | None:
    try:
        found = registry.resource("GET", quote(path, safe="/+!,~"))
    except ValueError:
        return None
    return found if isinstance(found, File) else None


def _thing(file: File) -> Thing:
    return Thing(file.registry, file.project.replace("/", ":"), file.version, "file", file.filename)
