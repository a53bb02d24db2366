"""What a node knows: answers, bindings, holdings, events, and the feed of changes.

- An *answer* is a page as upstream gave it, with its validators and stamp.
- A *binding* ties a file's name to a digest, for ever. A different digest under the name is ``Rebound``: an alarm.
- A *holding* is a blob that is here, with its size and last use; holdings are evictable, bindings are not.
- An *event* is something an operator should see. A *change* is a line of the feed.

Publishing rows and the feed's line is one transaction. Implementations pass ``tests/contracts/catalogs.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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

    ``last_modified`` is upstream's field as it was sent with the bytes. ``purl``, ``published`` and ``source`` are for the ledger alone and
    do not come back from the catalogue.
    """

    file: File
    digest: Digest
    size: int
    bound_at: float
    aliases: tuple[Digest, ...] = ()
    media_type: str = ""
    last_modified: str | None = None
    purl: str = field(default="", compare=False)
    published: float | None = field(default=None, compare=False)
    source: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Event:
    """Something an operator should see. ``kind`` is from a closed list (``digest-mismatch``, ``rebound``, ``upstream-gone``, …)."""

    at: float
    kind: str
    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class Access:
    """One delivered file. ``digest`` is its SHA-256 in hex. ``complete`` is whether the last byte went out.

    ``edge`` is empty for this node's own, else which edge delivered it, and ``number`` (from 1) is then that edge's own numbering, by
    which a repetition is told.
    """

    at: float
    file: str
    digest: str
    client: str
    token: str
    sent: int
    complete: bool
    edge: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the ledger as it is sent.

    ``record`` is the JSON of a ``Change``, ``hash`` the SHA-256 of the hash before it and of the record.
    """

    serial: int
    record: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class Wanted:
    """A page or file that a follower means to bring here, and how often that failed. ``key`` is the page's or file's.

    Times are UTC seconds: ``since`` it was first wanted, ``due`` to be tried again. ``dead`` is one that failed too often: still tried,
    rarely. ``asked`` is how often it was wanted since, which the catalogue counts.
    """

    key: str
    resource: Page | File
    since: float
    due: float = 0.0
    attempts: int = 0
    error: str = ""
    dead: bool = False
    asked: int = 1


@dataclass(frozen=True, slots=True)
class Member:
    """An edge of ours. ``secret`` is the SHA-256 of what it authenticates with, in hex. ``address`` is where it was last seen from."""

    name: str
    secret: str
    enrolled_at: float
    seen_at: float = 0.0
    serial: int = 0
    verdicts: int = 0
    unresolved: int = 0
    held_bytes: int = 0
    address: str = ""
    release: str = ""


class Catalog(Protocol):
    """Safe to use from many tasks. Every method is one transaction; those that change something return once it is durable.

    A catalogue that fails raises ``Unavailable`` from any method, and, but for ``Rebound``, nothing else.

    ``on_change``, if set, is called in the event loop after lines were written; sometimes in vain. It must not wait nor raise.
    """

    on_change: Callable[[], None] | None

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
        """Forget all lines but the newest ``keep`` (and never the last one, so that serials go on); returns how many went.

        None do in a catalogue that was opened to keep its ledger, as an origin's is.
        """
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

    async def accesses_after(self, number: int, limit: int = 1000) -> Sequence[tuple[int, Access]]:
        """This node's own access records beyond ``number``, oldest first, each with its number, which is never given twice."""
        ...

    async def deliveries(self, files: Sequence[str], digests: Sequence[str], limit: int = 1000) -> Sequence[Access]:
        """Accesses of any edge to files of these keys or bytes of these digests (SHA-256 in hex), newest first."""
        ...

    async def remember(self, key: str, value: str) -> None:
        """Keep a small fact over restarts (learnt file hosts, the last serial)."""
        ...

    async def recall(self, key: str) -> str | None: ...

    # -- the ledger as it is sent: for an origin
    async def lines(self, after: int, limit: int = 1000) -> Sequence[Line]:
        """The lines beyond serial ``after``, oldest first, chained. Those by a Leeward that did not chain them are not among them: the
        chain begins, with ``GENESIS``, at the first that is.
        """
        ...

    async def head(self) -> tuple[int, bytes]:
        """Serial and hash of the last line; ``(0, GENESIS)`` before the first. The hash of a line that is not chained is ``GENESIS``."""
        ...

    async def append(self, change: Change, memory: Mapping[str, str] | None = None) -> int:
        """Write a line that no row goes with (its ``serial`` is ignored), and remember these facts in the same transaction; its serial."""
        ...

    async def pages_after(self, key: str, limit: int = 1000) -> Sequence[Page]:
        """Pages held with status 200, by key, beyond ``key``."""
        ...

    async def bindings_after(self, name: str, limit: int = 1000) -> Sequence[Binding]:
        """Bindings by name (``File.key``), beyond ``name``, whether their blob is here or not."""
        ...

    async def named(self, digest: Digest) -> Sequence[Binding]:
        """Every binding to ``digest``, by name."""
        ...

    async def bound(self, names: Sequence[str]) -> Mapping[str, Digest]:
        """What these names (``File.key``) are bound to, those of them that are."""
        ...

    async def counts(self) -> tuple[int, int]:
        """How many pages are held with status 200, and how many names are bound."""
        ...

    # -- following: for an edge
    async def follow(
        self, memory: Mapping[str, str], stale: Iterable[tuple[str, str]] = (), wanted: Iterable[Wanted] = ()
    ) -> Sequence[Wanted]:
        """Apply a batch of the feed, in one transaction: every page of these (registry, project) is stale, these are wanted, these facts
        (the cursor) are remembered.

        What is wanted already stays as it is, but is due again (no later than it is now) and ``asked`` once more. Returns what was given as
        ``wanted``, each ``asked`` as often as it is by now.
        """
        ...

    async def wanted(self, now: float, limit: int = 100) -> Sequence[Wanted]:
        """What is due at ``now``: pages before files, then the longest wanted first, the dead last."""
        ...

    async def settle(self, done: Iterable[str | Wanted], failed: Iterable[Wanted] = ()) -> None:
        """Forget what came, and write down how the rest stands; what is not wanted is passed over.

        By key it goes in any case. Given as it was read, it stays if it was asked for again meanwhile, since what came may be older than
        that; one that failed is then due as it was.
        """
        ...

    async def unresolved(self) -> tuple[int, int, float | None]:
        """How much is wanted, how much of that is dead, and since when the oldest is (UTC seconds)."""
        ...

    # -- the fleet: for an origin
    async def invite(self, name: str, secret: str, until: float) -> None:
        """Let whoever shows the secret with this SHA-256 (hex) before ``until`` enrol as ``name``; an earlier invitation of it is void."""
        ...

    async def enrol(self, invitation: str, secret: str, now: float) -> str | None:
        """Use an invitation up, once: the edge's name, whose secret is ``secret`` (SHA-256, hex) from now on; None if there is none or
        it ended. An edge of that name begins anew, in its ``Member`` and in the numbering of its accesses.
        """
        ...

    async def edges(self) -> Sequence[Member]:
        """All edges, by name."""
        ...

    async def seen(self, edges: Iterable[Member]) -> None:
        """Note how these edges stand: all but ``secret`` and ``enrolled_at``. One that is not ours is passed over."""
        ...

    async def dismiss(self, name: str) -> bool:
        """The edge is none of ours any more, and its invitation is void. False if there was neither."""
        ...

    async def backup(self, path: str) -> None:
        """Write a consistent copy of everything to a new file, while the node runs. ``Unavailable`` if there is a file already."""
        ...

    async def close(self) -> None: ...
