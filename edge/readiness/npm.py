"""What npm's clients ask for: a tarball by its address, or where the registry conventionally has it; some ask for its packument too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from origin.errors import Corrupt, NotFound, Refused, Unavailable
from origin.model import File, Page
from origin.registries import Registry, npm_names

from ..locks import LockedFile, Needed
from . import Account, Thing, Wish
from .hands import Hand
from .places import Places

_FAILURES = (NotFound, Refused, Unavailable, Corrupt)


@dataclass(slots=True)
class Shop:
    """Where a lock's packages are looked for, and how."""

    hand: Hand
    places: Places
    account: Account

    async def settle(self, wish: Wish) -> None:
        """Find out about one package on its targets."""
        needed = wish.needed
        groups = self.places.members("npm", needed.source, needed.project)
        if not groups:
            self._elsewhere(needed, needed.source or "npm, which this edge has no registry of")
            return
        registry = groups[0][0]
        if "page" in needed.asks:
            thing = Thing(registry.name, needed.project, "", "page", f"the page of {needed.project}")
            try:
                await self.hand.page([(registry, Page(registry.name, needed.project, ""))])
                self.account.had.add(thing)
            except _FAILURES as error:
                # What a client only wants to know of itself may not exist.
                if needed.version or not isinstance(error, NotFound):
                    self.account.fail(thing, error, wish.targets)
        for locked in needed.files:
            await self._file(needed, registry, locked, wish.targets)

    async def _file(self, needed: Needed, registry: Registry, locked: LockedFile, targets: Sequence[int]) -> None:
        files = self.places.files("npm", locked.url) if locked.url else _conventional(registry, needed)
        if files is None:
            self._elsewhere(needed, locked.url.partition("://")[2].partition("/")[0])
            return
        thing = Thing(files[0].registry, needed.project, needed.version, "file", files[0].filename)
        try:
            had = await self.hand.file(files)
            is_meant = await self.hand.agrees(had, locked.digests)
        except _FAILURES as error:
            self.account.fail(thing, error, targets)
            return
        if is_meant:
            self.account.had.add(thing)
        else:
            self.account.lack(thing, "other", "what is here has another digest than the lock says", targets)

    def _elsewhere(self, needed: Needed, where: str) -> None:
        told = f"{needed.project} {needed.version}"
        self.account.outside(told, f"{where}, which is no host of this edge's registries")


def _conventional(registry: Registry, needed: Needed) -> Sequence[File] | None:
    filename = npm_names.conventional(needed.project, needed.version)
    found = registry.resource("GET", npm_names.in_url(f"{needed.project}/-/{filename}"))
    return [found] if isinstance(found, File) else None
