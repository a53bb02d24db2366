"""What Python's clients ask for: the page that lists a project's files, the file that fits, metadata beside it, what builds it.

The best file is chosen here as clients choose it, since a lock mostly names them all. Where nothing but an sdist fits, its client builds it
and asks for what its ``pyproject.toml`` requires: the newest that fits, from pages as they stand. So it is chosen here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import trio
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from origin.errors import Corrupt, NotFound, Refused, Unavailable
from origin.held import PageView
from origin.model import Entry, File, Hold, Listing, Page, Refuse
from origin.registries import Registry, pypi_names

from ..locks import Lock, LockedFile, Malformed, Needed
from ..locks.targets import Candidate, Target, holds, taken
from . import MORE, Account, Build, Thing, Wish
from .builds import build_requirements, metadata_in, requirements, requirements_in
from .hands import Had, Hand
from .places import Members, Places

LIMIT_BUILD = 200
"""How many packages a build may take before it is given up."""

LIMIT_DEPTH = 3
"""How deep builds may lie within one another: what builds the builder."""

UNREAD = f"what a build takes, the source distribution tells and what is installed to build it, and one is missing: {MORE}"
"""Said of a lock that was never brought here whole."""

_NO_LOCK = Lock("")
_FAILURES = (NotFound, Refused, Unavailable, Corrupt)


class _Listed(msgspec.Struct):
    filename: str
    requires_python: str | None = msgspec.field(default=None, name="requires-python")


class _Document(msgspec.Struct):
    files: list[_Listed]


@dataclass(frozen=True, slots=True)
class Shelf:
    """A project's page: the registry it is of, as clients see it and as it is held."""

    registry: Registry
    view: PageView
    listed: Listing
    pythons: Mapping[str, str]

    def entry(self, filename: str) -> Entry | None:
        """What is said of a file: as upstream means it, whether policy takes it off or not."""
        return self.listed.entries.get(filename) or self.view.listing.entries.get(filename)


@dataclass(slots=True)
class Shop:
    """Where a lock's packages are looked for, and how.

    ``asked`` is what builds asked for, by target: instance, project, version and name of each file; ``built`` says that there are builds,
    which may ask for nothing. ``unread`` says that something is missing that would tell of more.
    """

    hand: Hand
    places: Places
    account: Account
    everything: bool = False
    asked: set[tuple[str, str]] = field(default_factory=set)
    built: bool = False
    unread: bool = False
    _shelves: dict[Page, Shelf] = field(default_factory=dict)

    async def settle(self, wish: Wish) -> None:
        """Find out about one package on its targets."""
        needed = wish.needed
        groups = self.places.members("pypi", needed.source, needed.project)
        if not groups:
            self.account.outside(f"{needed.project} {needed.version}", f"{needed.source}, which is no registry of this edge")
            return
        shelf = await self._shelf(needed, groups[0], wish.targets)
        chosen = await self._chosen(needed, shelf, wish.targets)
        for filename, targets in chosen.items():
            await self._file(needed, groups[0], shelf, filename, targets)

    # -- the page

    async def _shelf(self, needed: Needed, members: Members, targets: Sequence[int]) -> Shelf | None:
        """The page, which some clients ask for and without which a lock may not say enough; None if it is not to be had."""
        registry = members[0]
        project = registry.normalise(needed.project)
        is_asked = "page" in needed.asks or not needed.files
        shelf: Shelf | None = None
        try:
            shelf = await self._look(registry, project)
        except _FAILURES as error:
            if is_asked:
                self.account.fail(Thing(registry.name, project, "", "page", f"the page of {project}"), error, targets)
            if not needed.files and not self.hand.brings and not isinstance(error, Refused):
                self.account.notes[f"which of a project's files fits, its page tells, and one is missing: {MORE}"] = None
        if "json" in needed.asks:
            page = Page(registry.name, project, f"json/{needed.version}")
            thing = Thing(registry.name, project, needed.version, "page", f"the JSON document of {project} {needed.version}")
            try:
                await self.hand.page([(registry, page)])
                self.account.had.add(thing)
            except _FAILURES as error:
                self.account.fail(thing, error, targets)
        return shelf

    async def _look(self, registry: Registry, project: str) -> Shelf:
        page = Page(registry.name, project)
        if (known := self._shelves.get(page)) is not None:
            return known
        view = await self.hand.page([(registry, page)])
        listed = await self.hand.held(page) or view.listing
        self.account.had.add(Thing(registry.name, project, "", "page", f"the page of {project}"))
        shelf = self._shelves[page] = Shelf(registry, view, listed, await _pythons(listed.document))
        return shelf

    # -- the choice

    async def _chosen(self, needed: Needed, shelf: Shelf | None, targets: Sequence[int]) -> dict[str, set[int]]:
        """The files to be had, each with the targets that take it."""
        if needed.files:
            candidates = [
                Candidate(file.filename, file.requires_python or _python(shelf, file.filename)) for file in needed.files
            ]
        elif shelf is not None:
            candidates = [Candidate(name, shelf.pythons.get(name, "")) for name in _pinned(shelf, needed)]
            if not candidates:
                self._unlisted(needed, shelf, targets)
                return {}
        else:
            return {}
        chosen: dict[str, set[int]] = {}
        # Tags by the thousand, for each target: not a moment's work for a package with many wheels.
        among = [(index, self.account.asked.targets[index]) for index in targets]
        picked = await trio.to_thread.run_sync(lambda: {index: taken(candidates, target, needed.form) for index, target in among})
        for index, names in picked.items():
            if not names:
                self.account.strand([index], f"no file of {needed.project} {needed.version} fits")
            for name in (each.filename for each in candidates) if self.everything else names:
                chosen.setdefault(name, set()).add(index)
        return chosen

    def _unlisted(self, needed: Needed, shelf: Shelf, targets: Sequence[int]) -> None:
        thing = Thing(
            shelf.registry.name, shelf.listed.page.project, needed.version, "file", f"{needed.project} {needed.version}"
        )
        verdict = shelf.view.listing.restrictions.get(needed.version)
        if isinstance(verdict, Refuse | Hold):
            self.account.fail(thing, Refused(verdict), targets)
        else:
            self.account.lack(thing, "missing", "no file with these hashes is listed", targets)

    # -- files

    async def _file(self, needed: Needed, members: Members, shelf: Shelf | None, filename: str, targets: set[int]) -> None:
        locked = next((file for file in needed.files if file.filename == filename), LockedFile(filename, needed.digests))
        files = self._located(needed, members[0], shelf, locked)
        if files is None:
            where = locked.url.partition("://")[2].partition("/")[0]
            self.account.outside(filename, f"{where}, which is no host of this edge's registries")
            return
        thing = Thing(files[0].registry, files[0].project, needed.version, "file", filename)
        try:
            had = await self.hand.file(files)
        except _FAILURES as error:
            self.account.fail(thing, error, targets)
            if not filename.endswith(".whl"):
                self.unread = self.unread or not isinstance(error, Refused)
            elif "sidecar" in needed.asks and shelf is not None and not isinstance(error, Refused):
                # Wheels and what stands beside them are stored, and lost, each by itself.
                await self._sidecar(files[0], shelf, needed.version, targets)
            return
        if needed.files:
            is_meant = await self.hand.agrees(had, locked.digests)
        else:
            is_meant = any(digest in had.digests for digest in needed.digests)
        if not is_meant:
            self.account.lack(thing, "other", "what is here has another digest than the lock says", targets)
            return
        self.account.had.add(thing)
        if filename.endswith(".whl"):
            if "sidecar" in needed.asks and shelf is not None:
                await self._sidecar(had.file, shelf, needed.version, targets)
        elif not self.everything or not any(file.filename.endswith(".whl") for file in needed.files):
            await self._build(had, needed, targets, 0)

    def _located(self, needed: Needed, registry: Registry, shelf: Shelf | None, locked: LockedFile) -> Sequence[File] | None:
        """Where a client asks for a file; None if that is nowhere here."""
        if locked.url:
            return self.places.files("pypi", locked.url)
        entry = shelf.entry(locked.filename) if shelf is not None else None
        if entry is not None:
            return [entry.file]
        # By name alone: what was had before is bound under it.
        return [File(registry.name, registry.normalise(needed.project), needed.version, locked.filename, "")]

    async def _sidecar(self, wheel: File, shelf: Shelf, version: str, targets: Iterable[int]) -> Had | None:
        """The metadata beside a wheel, if its page advertises it: clients that see that ask for nothing else first."""
        shown = shelf.view.listing.entries.get(wheel.filename)
        if shown is None or shown.sidecar is None:
            return None
        beside = msgspec.structs.replace(wheel, filename=f"{wheel.filename}.metadata", path=f"{shown.file.path}.metadata")
        thing = Thing(beside.registry, beside.project, version, "file", beside.filename)
        try:
            had = await self.hand.file([beside])
        except _FAILURES as error:
            self.account.fail(thing, error, targets)
            return None
        self.account.had.add(thing)
        return had

    # -- builds

    async def build(self, wanted: Build) -> None:
        """What building a project of one's own takes, on each target."""
        self.built = True
        try:
            requires = requirements(wanted.requires)
        except ValueError as error:
            thing = Thing("", wanted.name, "", "file", wanted.name)
            self.account.lack(thing, "other", str(error), range(len(self.account.asked.targets)))
            return
        for index, target in enumerate(self.account.asked.targets):
            await _Build(self, wanted.name, target, index, 0).gather(requires)

    async def remembered(self, asked: Sequence[tuple[str, str]], targets: Sequence[int]) -> None:
        """Look for what builds took when this lock was last brought here, where something is missing that would tell."""
        told = {thing.name for thing in (*self.account.had, *(thing for thing, _ in self.account.lacks))}
        for place, words in asked:
            on = [index for index in targets if str(self.account.asked.targets[index]) == place]
            registry, project, version, filename = words.split(" ", 3)
            if not on or filename in told:
                continue
            thing = Thing(registry, project, version, "file", filename)
            try:
                await self.hand.file([File(registry, project, version, filename, "")])
                self.account.had.add(thing)
            except _FAILURES as error:
                self.account.fail(thing, error, on)

    async def _build(self, sdist: Had, needed: Needed, targets: Iterable[int], depth: int) -> None:
        """What building an sdist takes, on each target."""
        self.built = True
        told = f"{needed.project} {needed.version}"
        thing = Thing(sdist.file.registry, sdist.file.project, needed.version, "file", sdist.file.filename)
        try:
            archive = await self.hand.content(sdist)
            requires = await trio.to_thread.run_sync(build_requirements, sdist.file.filename, archive)
        except (ValueError, *_FAILURES) as error:
            self.account.lack(thing, "other", f"what building it takes is unknown: {error}", targets)
            self.unread = True
            return
        if not requires:
            return
        said = ", ".join(map(str, requires))
        self.account.notes[f"{told} is built from source: it says that takes {said}, and may ask for more once it runs"] = None
        for index in targets:
            target = self.account.asked.targets[index]
            await _Build(self, told, target, index, depth).gather(requires)


@dataclass(slots=True)
class _Build:
    """The environment that one build takes on one target, put together as pip and uv do: the newest that fits."""

    shop: Shop
    built: str
    target: Target
    index: int
    depth: int
    wanted: dict[str, list[SpecifierSet]] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)

    async def gather(self, requires: Iterable[Requirement]) -> None:
        waiting = [(requirement, frozenset[str]()) for requirement in requires]
        while waiting:
            requirement, extras = waiting.pop(0)
            if len(self.wanted) > LIMIT_BUILD:
                self._missing(requirement, f"what building {self.built} takes has no end")
                return
            if requirement.marker is not None and not self._applies(str(requirement.marker), extras):
                continue
            name = canonicalize_name(requirement.name)
            specifiers = self.wanted.setdefault(name, [])
            specifiers.append(requirement.specifier)
            known = self.chosen.get(name)
            if (
                known is not None
                and all(each.contains(known, prereleases=True) for each in specifiers)
                and not requirement.extras
            ):
                continue
            found = await self._pick(requirement, name, specifiers)
            waiting += [(each, frozenset(requirement.extras)) for each in found]

    def _applies(self, marker: str, extras: frozenset[str]) -> bool:
        try:
            return holds(marker, self.target, _NO_LOCK, extras)
        except Malformed:
            # Nobody knows how it is judged: what it may ask for had better be here.
            return True

    async def _pick(self, requirement: Requirement, name: str, specifiers: Sequence[SpecifierSet]) -> Sequence[Requirement]:
        """Choose a version of ``name``, have its file, and tell what it requires."""
        shop = self.shop
        groups = shop.places.members("pypi", "", name)
        if requirement.url is not None or not groups:
            self._missing(requirement, "it is from no registry of this edge")
            return ()
        try:
            shelf = await shop._look(groups[0][0], name)
        except _FAILURES as error:
            shop.account.fail(Thing(groups[0][0].name, name, "", "page", f"the page of {name}"), error, [self.index])
            shop.unread = True
            return ()
        best = _newest(shelf, specifiers, self.target)
        if best is None:
            self._missing(requirement, f"no version of {name} fits, which building {self.built} takes")
            return ()
        version, filenames = best
        self.chosen[name] = version
        found: Sequence[Requirement] = ()
        for filename in sorted(filenames):
            entry = shelf.entry(filename)
            assert entry is not None, "it was chosen from there"
            thing = Thing(entry.file.registry, entry.file.project, version, "file", filename)
            self._keep(entry.file)
            try:
                had = await shop.hand.file([entry.file])
            except _FAILURES as error:
                shop.account.fail(thing, error, [self.index])
                shop.unread = True
                continue
            shop.account.had.add(thing)
            if filename.endswith(".whl"):
                found = await self._requires(had, shelf, version)
            elif self.depth + 1 < LIMIT_DEPTH:
                await shop._build(had, Needed("pypi", name, version), [self.index], self.depth + 1)
            else:
                self._missing(requirement, f"building {self.built} takes a build within a build within a build")
        return found

    async def _requires(self, had: Had, shelf: Shelf, version: str) -> Sequence[Requirement]:
        sidecar = await self.shop._sidecar(had.file, shelf, version, [self.index])
        if sidecar is not None:
            self._keep(sidecar.file)
        try:
            if sidecar is not None:
                return requirements_in(await self.shop.hand.content(sidecar))
            wheel = await self.shop.hand.content(had)
            return requirements_in(await trio.to_thread.run_sync(metadata_in, wheel))
        except (ValueError, *_FAILURES) as error:
            thing = Thing(had.file.registry, had.file.project, version, "file", had.file.filename)
            self.shop.account.lack(thing, "other", f"what it requires is unknown: {error}", [self.index])
            self.shop.unread = True
            return ()

    def _keep(self, file: File) -> None:
        """Have it remembered that this was asked for."""
        self.shop.asked.add((str(self.target), f"{file.registry} {file.project} {file.version} {file.filename}"))

    def _missing(self, requirement: Requirement, reason: str) -> None:
        name = canonicalize_name(requirement.name)
        self.shop.account.lack(Thing("", name, "", "file", str(requirement)), "missing", reason, [self.index])


def _newest(shelf: Shelf, specifiers: Sequence[SpecifierSet], target: Target) -> tuple[str, frozenset[str]] | None:
    """The newest version that every specifier allows and that has a file for ``target``, with the files taken of it."""
    versions: dict[Version, list[Candidate]] = {}
    for name, entry in shelf.view.listing.entries.items():
        parsed = pypi_names.parse_version(entry.file.version)
        if parsed is not None and entry.yanked is None:
            versions.setdefault(parsed, []).append(Candidate(name, shelf.pythons.get(name, "")))
    # A version before its release is taken only if there is no other.
    for early in (False, True):
        for version in sorted(versions, reverse=True):
            if version.is_prerelease is early and all(each.contains(version, prereleases=True) for each in specifiers):
                names = taken(versions[version], target)
                if names:
                    return str(version), names
    return None


def _pinned(shelf: Shelf, needed: Needed) -> list[str]:
    """The files of a version that have one of the hashes, by name."""
    version = pypi_names.parse_version(needed.version)
    found = []
    for name, entry in shelf.listed.entries.items():
        parsed = pypi_names.parse_version(entry.file.version)
        same = entry.file.version == needed.version or (version is not None and parsed == version)
        if same and (not needed.digests or any(digest in entry.digests for digest in needed.digests)):
            found.append(name)
    return found


def _python(shelf: Shelf | None, filename: str) -> str:
    return shelf.pythons.get(filename, "") if shelf is not None else ""


async def _pythons(document: bytes) -> Mapping[str, str]:
    """What a page says of each file's Python."""
    try:
        decoded = await trio.to_thread.run_sync(lambda: msgspec.json.decode(document, type=_Document))
    except msgspec.DecodeError:
        return {}
    return {file.filename: file.requires_python for file in decoded.files if file.requires_python}
