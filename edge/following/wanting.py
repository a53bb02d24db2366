"""Which releases an edge wants before anybody asks for them, and what that makes of a line of the feed. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from origin.api import wire
from origin.catalog import Wanted
from origin.model import Allow, Change, File, Page
from origin.pages import ABSENT
from origin.policy.purls import purl_of, split

from ..settings import ReplicateSettings

HELD = 200
"""The status of a page that is there."""


class Wanting:
    """What ``[replicate]`` asks for. ``kinds`` are this edge's instances, name to kind: what others the origin has is passed over."""

    def __init__(self, asked: ReplicateSettings, kinds: Mapping[str, str]) -> None:
        self.mode = asked.mode
        self.name = " ".join((asked.mode, *sorted(asked.match)))
        """What is wanted, in one line: with another one another snapshot is taken in."""
        self._globs = asked.match
        self._is_wanted = wire.wanted_by(asked.match)
        self._is_wanted_of = wire.wanted_by([_of_project(glob) for glob in asked.match])
        self._kinds = kinds

    @property
    def match(self) -> tuple[str, ...] | None:
        """The releases that are wanted whoever asks for them, as ``wire.Comparison`` names them; None if none are."""
        return self._globs if self.mode in ("all", "matching") else None

    def knows(self, registry: str) -> bool:
        """Whether this edge has an instance of that name."""
        return registry in self._kinds

    def kind(self, registry: str) -> str | None:
        """The kind of an instance of ours, None if we have none of that name."""
        return self._kinds.get(registry)

    def purl(self, file: File) -> str:
        """The purl of a file's release, ``""`` for an instance that is not ours."""
        kind = self._kinds.get(file.registry)
        return "" if kind is None else purl_of(kind, file.project, file.version)

    def wants_file(self, file: File) -> bool:
        """Whether it is wanted for its release alone."""
        if file.registry not in self._kinds:
            return False
        return self.mode == "all" or (self.mode == "matching" and self._is_wanted(self.purl(file)))

    def wants_page(self, page: Page) -> bool:
        """Whether it is wanted for its project alone."""
        kind = self._kinds.get(page.registry)
        if kind is None:
            return False
        return self.mode == "all" or (self.mode == "matching" and self._is_wanted_of(purl_of(kind, page.project)))

    def wanted(self, changes: Sequence[Change], held: frozenset[Page], now: float) -> list[Wanted]:
        """What these lines make us want. ``held`` are the pages of their projects that are here: unless nothing is replicated at all,
        they are kept current, so that an outage finds the last that was heard of.
        """
        found: dict[str, Wanted] = {}
        for change in changes:
            for resource in self._meant(change, held):
                found.setdefault(resource.key, Wanted(resource.key, resource, now, now))
        return list(found.values())

    def _meant(self, change: Change, held: frozenset[Page]) -> Sequence[Page | File]:
        if not self.knows(change.registry):
            return ()
        match change.kind:
            case "page" if change.status == HELD:
                page = Page(change.registry, change.project, change.view)
                return (page,) if self.wants_page(page) or (self.mode != "none" and page in held) else ()
            case "file" if change.verdict is None or isinstance(change.verdict, Allow):
                file = file_of(change)
                return (file,) if self.wants_file(file) else ()
            case "popular" if self.mode == "popular":
                return (Page(change.registry, change.project), file_of(change))
            case _:
                return ()


def file_of(change: Change) -> File:
    """The file that a line of kind ``file`` or ``popular`` is about."""
    return File(change.registry, change.project, change.version, change.filename, change.path)


def stale_of(changes: Sequence[Change]) -> list[tuple[str, str]]:
    """The (registry, project) pairs whose pages changed, each once.

    That a file does not exist says nothing of them: Maven's clients look for many that never were.
    """
    return list(
        dict.fromkeys(
            (change.registry, change.project)
            for change in changes
            if change.kind == "page" and not change.view.startswith(ABSENT)
        )
    )


def _of_project(glob: str) -> str:
    """A pattern for projects out of one for releases: without its version."""
    if glob == "*":
        return glob
    _, _, version = split(glob)
    return glob if version is None else glob.rpartition("@")[0]
