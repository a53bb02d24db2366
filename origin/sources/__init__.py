"""Where a miss is looked for: the registries themselves, an origin, a sibling.

``Source`` is the seam, with one contract suite (``tests/contracts/sources.py``) over all of them. A source translates its transport's
failures into ``Unavailable`` and ``Corrupt`` and nothing else gets out; that a thing does not exist is a value (``Absent``), except in
``file``, where it is ``NotFound``. A node of ours may also say ``Refused``: its verdict is recorded, and no other source is asked. Sources
are asked in order; only ``Unavailable`` leads to the next, and what is known to be older than what is held (``RefusedPage`` too).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import Refused
from ..model import Digest, Entry, File, Headers, Hold, Page, Refuse, Relay, Stamp, Verdict


@dataclass(frozen=True, slots=True)
class Known:
    """What is held of a page, so that the source can ask for news only. ``etag`` is upstream's own, verbatim.

    ``max_age_s`` is how long ago the registry itself may have said it at most, where a node of ours is asked; None for as long as that is
    fresh.
    """

    etag: str | None = None
    last_modified: str | None = None
    serial: int | None = None
    max_age_s: float | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """A new document. ``url`` is the final one after redirects. ``stamp.revision`` is 0: the catalogue numbers revisions.

    ``digests`` are those of the whole document that came along in fields. ``prepared`` says that a node of ours sent it: ``body`` is then
    the stored form of what its policy left of the listing (``Registry.reread``), believed as it is, and ``restrictions`` and
    ``restricted_at`` are those of ``Listing``. ``received_at`` is when upstream sent or confirmed it, in UTC seconds, at the earliest: it
    may have been ``unsure_s`` later, since it is not known how long the answer was on its way. ``trail`` is that node's own
    ``Cache-Status``, to be shown before ours.
    """

    body: bytes
    media_type: str
    url: str
    stamp: Stamp
    etag: str | None = None
    last_modified: str | None = None
    serial: int | None = None
    headers: Headers = ()
    digests: tuple[Digest, ...] = ()
    prepared: bool = False
    restrictions: Mapping[str, Verdict] = field(default_factory=dict)
    restricted_at: float = 0.0
    received_at: float | None = None
    unsure_s: float = 0.0
    trail: str = ""


@dataclass(frozen=True, slots=True)
class NotModified:
    """What is held is current, until ``stamp`` says otherwise. ``received_at`` is as in ``Received``; None for now."""

    stamp: Stamp
    trail: str = ""
    received_at: float | None = None


@dataclass(frozen=True, slots=True)
class Absent:
    """Upstream says cleanly that there is no such page. ``status`` is 404 or 410.

    ``prepared``, ``received_at`` and ``unsure_s`` are as in ``Received``.
    """

    status: int
    stamp: Stamp
    prepared: bool = False
    trail: str = ""
    received_at: float | None = None
    unsure_s: float = 0.0


type Answer = Received | NotModified | Absent


class RefusedPage(Refused):
    """A node of ours serves nothing of a page that it has. ``received_at`` and ``unsure_s`` are as in ``Received``."""

    def __init__(self, verdict: Refuse | Hold, received_at: float, unsure_s: float) -> None:
        super().__init__(verdict)
        self.received_at = received_at
        self.unsure_s = unsure_s


@dataclass(frozen=True, slots=True)
class Relayed:
    """What upstream answered to a relay: its status (200, or 4xx that is about the request), whole and decoded."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class FileHead:
    """What upstream said before the bytes. ``size`` is the whole representation's, None if not told.

    ``start`` is the offset the bytes begin at: 0 even where a later one was asked for, if upstream ignored the range.
    ``digests`` are those found in response headers, ``last_modified`` is the field as sent, ``trail`` as in ``Received``.
    """

    size: int | None
    start: int
    media_type: str
    validator: str | None
    digests: tuple[Digest, ...] = ()
    last_modified: str | None = None
    trail: str = ""


@dataclass(slots=True)
class FileStream:
    """An open transfer.

    ``chunks`` ends early by raising ``Unavailable`` (broken, retryable) or ``Corrupt``, never by ending clean short.
    """

    head: FileHead
    chunks: AsyncIterator[bytes]


class Source(Protocol):
    """One place to look for what is not held. Safe to use from many tasks at once."""

    @property
    def name(self) -> str:
        """For metrics and logs: ``registry``, ``origin``, ``sibling``."""
        ...

    async def page(self, page: Page, known: Known | None) -> Answer:
        """Fetch or revalidate a page. Bounded in time: see ``available``. Raises ``Unavailable`` or ``Corrupt``."""
        ...

    def file(
        self, file: File, entry: Entry, start: int = 0, validator: str | None = None
    ) -> AbstractAsyncContextManager[FileStream]:
        """Open a transfer of ``file`` from offset ``start`` (with ``validator`` as ``If-Range``).

        On entering raises ``NotFound`` for a clean 404/410, ``Unavailable``, ``Corrupt``.
        """
        ...

    async def relay(self, relay: Relay) -> Relayed:
        """Forward a request that is neither page nor file. Raises ``Unavailable`` or ``Corrupt``."""
        ...

    async def exists(self, file: File, url: str) -> bool:
        """Whether upstream still has bytes at ``url``. Raises ``Unavailable``."""
        ...

    def available(self, registry: str, kind: str) -> bool:
        """Whether it is worth waiting for an answer about ``registry`` (``kind`` is ``"page"`` or ``"file"``), decided without I/O.

        False while the breaker is open, while the first try after start has not ended, and while a request that has gone unanswered
        for a second (a page: whose end has not come) makes the upstream suspect; for files, while that is so of every known file
        host. Then what is held should be served at once.
        """
        ...
