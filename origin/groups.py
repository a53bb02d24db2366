"""Several upstreams at one path: a company's own repository before the public one, releases beside snapshots.

The members stand in a fixed order, that of the settings. A project that some member's ``groups`` claim is asked of those members alone, so
that nobody can publish a company's names elsewhere and be believed; any other is asked of the members that claim nothing. A page is
the members' pages made one. A file comes from whoever has delivered it before, else from the first that has it: only a clean
absence leads to the next member, never an outage.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase

import trio

from .errors import NotFound, Refused
from .files import Delivery, Files
from .held import PageView
from .model import File, Page, Validity
from .pages import LARGE_BYTES, Pages
from .registries import Registry

REMEMBERED = 500
REMEMBERED_BYTES = 64 * 1024 * 1024
"""How many merged pages are remembered, and how many bytes of their documents."""


def members_for(members: Sequence[Registry], project: str) -> Sequence[Registry]:
    """The members that answer for ``project``, in order.

    A pattern means that name and everything beneath it, ``*`` at its end or not, as ``org.example.*`` covers ``org.example:lib`` too: who
    claims too much asks too few, who claims too little believes whoever publishes there. ``*`` elsewhere is any run of characters.
    """
    claiming = [member for member in members if any(_covers(pattern, project) for pattern in member.groups)]
    return claiming or [member for member in members if not member.groups]


def _covers(pattern: str, project: str) -> bool:
    # With dots throughout, so that metadata of the group itself, which reads like an artifact's, belongs to the group too.
    name = project.replace("/", ".")
    plain = pattern.replace("/", ".").removesuffix(".*")
    return fnmatchcase(name, plain) or fnmatchcase(name, f"{plain}.*")


class JointValidity(Validity):
    """Holds for as long as all of its parts do."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[Validity]) -> None:
        self._parts = tuple(parts)

    @property
    def valid(self) -> bool:  # type: ignore[override]
        return all(part.valid for part in self._parts)

    @property
    def fresh_until(self) -> float:  # type: ignore[override]
        return min(part.fresh_until for part in self._parts)

    def is_of(self, parts: Sequence[Validity]) -> bool:
        """Whether these very validities are its parts."""
        return len(parts) == len(self._parts) and all(a is b for a, b in zip(parts, self._parts, strict=True))


class Groups:
    """Pages and files of several instances of one kind, asked together."""

    def __init__(self, pages: Pages, files: Files, threads: trio.CapacityLimiter) -> None:
        self._pages = pages
        self._files = files
        self._threads = threads
        self._merged: OrderedDict[tuple[str, ...], PageView] = OrderedDict()
        self._merged_bytes = 0
        self._merging: dict[tuple[str, ...], trio.Lock] = {}

    async def page(self, members: Sequence[tuple[Registry, Page]], *, insist: bool = False) -> PageView:
        """The members' pages as one. Raises like ``Pages.page``; ``NotFound`` only if all say so, ``Refused`` if none has more."""
        if len(members) == 1:
            return await self._pages.page(members[0][1], insist=insist)
        views: list[PageView] = []
        parts: list[Validity] = []
        refused: Refused | None = None
        for _, page in members:
            try:
                view = await self._pages.page(page, insist=insist)
            except (NotFound, Refused) as error:
                # Nothing of this one: what others have may still be had.
                refused = error if isinstance(error, Refused) else refused
                # What is absent may appear: the whole is fresh no longer than that is believed.
                if (absent := await self._pages.held(page)) is not None:
                    parts.append(absent.validity)
                continue
            views.append(view)
            parts.append(view.validity)
        if not views:
            raise refused or NotFound(f"{members[0][1].project or 'this'} does not exist upstream")
        key = tuple(page.key for _, page in members)
        worst = max(views, key=lambda view: _BADNESS.index(view.outcome) if view.outcome in _BADNESS else 0)
        merged = self._remembered(key, parts)
        if merged is None:
            # One at a time: a hundred clients of a large page must not have it made a hundred times.
            lock = self._merging.setdefault(key, trio.Lock())
            try:
                async with lock:
                    merged = self._remembered(key, parts)
                    if merged is None:
                        merged = await self._made_one(members[0][0], views, parts, worst)
                        self._remember(key, merged)
            finally:
                if not lock.statistics().tasks_waiting:
                    self._merging.pop(key, None)
        received_at = min(view.received_at for view in views)
        return PageView(
            merged.listing,
            merged.stamp,
            merged.validity,
            received_at,
            None,
            worst.outcome,
            worst.cache_status,
            merged.last_modified,
            worst.trail,
        )

    async def _made_one(
        self, registry: Registry, views: Sequence[PageView], parts: Sequence[Validity], worst: PageView
    ) -> PageView:
        listings = [view.listing for view in views]
        if sum(len(listing.document) for listing in listings) <= LARGE_BYTES:
            listing = registry.merge(listings)
        else:
            listing = await trio.to_thread.run_sync(registry.merge, listings, limiter=self._threads)
        newest = max((view.last_modified for view in views if view.last_modified), key=_moment, default=None)
        first = views[0]
        return PageView(
            listing, first.stamp, JointValidity(parts), first.received_at, None, worst.outcome, worst.cache_status, newest
        )

    def _remembered(self, key: tuple[str, ...], parts: Sequence[Validity]) -> PageView | None:
        view = self._merged.get(key)
        if view is None or not isinstance(view.validity, JointValidity) or not view.validity.is_of(parts):
            return None
        self._merged.move_to_end(key)
        return view

    def _remember(self, key: tuple[str, ...], view: PageView) -> None:
        before = self._merged.pop(key, None)
        if before is not None:
            self._merged_bytes -= len(before.listing.document)
        self._merged[key] = view
        self._merged_bytes += len(view.listing.document)
        while len(self._merged) > 1 and (len(self._merged) > REMEMBERED or self._merged_bytes > REMEMBERED_BYTES):
            _, dropped = self._merged.popitem(last=False)
            self._merged_bytes -= len(dropped.listing.document)

    async def deliver(self, files: Sequence[File], *, hold_s: float) -> Delivery:
        """The file from the first member that has it. Raises like ``Files.deliver``."""
        if len(files) == 1:
            return await self._files.deliver(files[0], hold_s=hold_s)
        until = trio.current_time() + hold_s
        for file in files:
            if await self._files.is_bound(file):
                return await self._files.deliver(file, hold_s=hold_s)
        missing = NotFound(f"{files[0].filename} does not exist upstream")
        for file in files:
            try:
                return await self._files.deliver(file, hold_s=max(1.0, until - trio.current_time()))
            except NotFound as error:
                missing = error
        raise missing


_BADNESS = ("hit", "collapsed", "miss", "revalidated", "stale")


def _moment(value: str) -> float:
    """An HTTP date in UTC seconds; 0 for what is none."""
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0
