"""What a node knows: answers, bindings, holdings, events, and the feed of changes.

- An *answer* is a page as upstream gave it, with its validators and stamp.
- A *binding* ties a file's name to a digest, for ever. A different digest under the name is ``Rebound``: an alarm.
- A *holding* is a blob that is here, with its size and last use; holdings are evictable, bindings are not.
- An *event* is something an operator should see. A *change* is a line of the feed.

Publishing rows and the feed's line is one transaction. Implementations pass ``tests/contracts/catalogs.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..model import Change, Digest, File, Page, Stamp

ABSENT = (404, 410)
"""The statuses of a clean absence."""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """A page as held. ``status`` is 200, or 404/410 for a clean absence (``document`` is then empty).

    ``document`` is the listing's stored form, uncompressed (implementations may compress at rest). ``etag`` and ``last_modified`` are
    upstream's. ``received_at`` is UTC seconds of the last time upstream sent or confirmed it. ``vanishing_since``
    is set while something missing upstream awaits its second confirmation.
    """

    page: Page
    status: int
    document: bytes
    media_type: str
    stamp: Stamp
    received_at: float
    etag: str | None = None
    last_modified: str | None = None
    serial: int | None = None
    vanishing_since: float | None = None


@dataclass(frozen=True, slots=True)
class Binding:
    """A file's name tied to its digest. ``aliases`` are the other digests that were checked. ``bound_at`` is UTC seconds.

    ``last_modified`` is upstream's field as it was sent with the bytes.
    """

    file: File
    digest: Digest
    size: int
    bound_at: float
    aliases: tuple[Digest, ...] = ()
    media_type: str = ""
    last_modified: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something an operator should see. ``kind`` is from a closed list (``digest-mismatch``, ``rebound``, ``upstream-gone``, …)."""

    at: float
    kind: str
    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class Access:
    """One delivered file. ``complete`` is whether the last byte went out."""

    at: float
    file: str
    digest: str
    client: str
    token: str
    sent: int
    complete: bool


class Catalog(Protocol):
    """Safe to use from many tasks. Every method is one transaction; those that change something return once it is durable.

    A catalogue that fails raises ``Unavailable`` from any method, and, but for ``Rebound``, nothing else.
    """

    # -- pages
    async def answer(self, page: Page) -> StoredAnswer | None:
        """What is held of a page. One that is held but damaged counts as not held, until it is published again."""
        ...

    async def publish(self, answer: StoredAnswer) -> int:
        """Store an answer and its feed line; returns its revision, one more than the page's last (``answer.stamp.revision`` is ignored).

        An absence over an absence of the same status is no news: the revision stays, and no line is written.
        """
        ...

    async def renew(self, page: Page, stamp: Stamp, received_at: float) -> None:
        """Extend a held answer (a 304): stamp and time only. The revision stays; no feed line; no-op if nothing is held."""
        ...

    async def expire(self, registry: str, project: str, views: str = "") -> int:
        """Make every page of a project, whose view begins with ``views``, stale at once; returns how many were held."""
        ...

    async def views(self, registry: str, project: str) -> Sequence[Page]:
        """Every page held of a project, absences too, sorted by view."""
        ...

    async def trim_absences(self, before: float, keep: int) -> int:
        """Forget absences received before ``before`` (UTC seconds) and all but the newest ``keep``; returns how many went.

        No page gets a revision again that it had before.
        """
        ...

    async def projects(self, registry: str) -> Sequence[str]:
        """The projects whose listing is held with status 200, sorted."""
        ...

    # -- owners: files whose project cannot be read off their name
    async def record_owners(self, registry: str, owners: Mapping[str, tuple[str, str]]) -> None:
        """Record ``path -> (project, version)``."""
        ...

    async def owner(self, registry: str, path: str) -> tuple[str, str] | None: ...

    # -- bindings and holdings
    async def bind(self, binding: Binding) -> None:
        """Bind a name, hold its blob and write the feed line, in one transaction. Idempotent for the same digest; else ``Rebound``."""
        ...

    async def binding(self, file: File) -> Binding | None: ...

    async def bindings(self, registry: str, project: str) -> Sequence[Binding]: ...

    async def held(self, digest: Digest) -> int | None:
        """The size of a held blob in bytes, None if it is not held."""
        ...

    async def touch(self, used: Mapping[Digest, float]) -> None:
        """Note last uses (UTC seconds), in one batch."""
        ...

    async def pin(self, digest: Digest, pinned: bool = True) -> None:
        """Keep a held blob from eviction, or no longer. A no-op if it is not held; forgotten when it is dropped."""
        ...

    async def victims(self, need_bytes: int) -> Sequence[tuple[Digest, int]]:
        """The least recently used holdings, enough to free ``need_bytes``, pinned ones apart."""
        ...

    async def drop(self, digest: Digest) -> None:
        """The blob is no longer here. Bindings stay."""
        ...

    async def holdings(self) -> Sequence[tuple[Digest, int]]:
        """All held blobs with their sizes."""
        ...

    async def held_bytes(self) -> int: ...

    # -- feed, events, access, memory
    async def changes(self, after: int, limit: int = 1000) -> Sequence[Change]:
        """The lines beyond serial ``after``, oldest first. Some are missing if ``after + 1 < oldest_change()``."""
        ...

    async def oldest_change(self) -> int:
        """The serial of the oldest line kept; of the first to come if there is none."""
        ...

    async def trim_changes(self, keep: int) -> int:
        """Forget all lines but the newest ``keep`` (and never the last one, so that serials go on); returns how many went."""
        ...

    async def record_event(self, event: Event) -> None: ...

    async def events(self, limit: int = 100, subject: str | None = None) -> Sequence[Event]:
        """Newest first."""
        ...

    async def record_accesses(self, batch: Iterable[Access]) -> None: ...

    async def accesses(self, file: str | None = None, limit: int = 100) -> Sequence[Access]: ...

    async def trim_accesses(self, before: float, keep: int) -> int:
        """Forget access records made before ``before`` (UTC seconds) and all but the newest ``keep``; returns how many went."""
        ...

    async def remember(self, key: str, value: str) -> None:
        """Keep a small fact over restarts (learnt file hosts, the last serial)."""
        ...

    async def recall(self, key: str) -> str | None: ...

    async def close(self) -> None: ...
