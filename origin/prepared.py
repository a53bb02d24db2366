"""Pages that a node of ours sent: what its policy took off them, remembered over restarts.

The stored document is what was left; why the rest is missing stands beside it in the catalogue. The two are not written in one
transaction, so each record tells which document it is of, and is written first: a record of another document is none.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import msgspec

from .api.wire import is_page_etag
from .catalog import Catalog, StoredAnswer
from .model import Listing, Page, Verdict
from .sources import Absent, Answer, NotModified, RefusedPage

log = logging.getLogger("leeward.prepared")


class _Taken(msgspec.Struct, frozen=True, omit_defaults=True):
    """``restrictions`` and ``restricted_at`` of ``Listing``, and of which document."""

    document: str
    restrictions: dict[str, Verdict] = {}
    restricted_at: float = 0.0


_DECODE = msgspec.json.Decoder(_Taken)


def is_prepared(answer: StoredAnswer) -> bool:
    """Whether what is held came from a node of ours."""
    return is_page_etag(answer.etag)


async def remember(catalog: Catalog, listing: Listing) -> None:
    """Write down what is missing of ``listing``. Called before its document is published. Raises ``Unavailable``."""
    key = _key(listing.page)
    if listing.restrictions or listing.restricted_at:
        taken = _Taken(_name(listing.document), dict(listing.restrictions), listing.restricted_at)
        await catalog.remember(key, msgspec.json.encode(taken).decode())
    elif await catalog.recall(key):
        await catalog.remember(key, "")


async def recalled(catalog: Catalog, listing: Listing) -> Listing | None:
    """A prepared listing that was read again, with what is missing of it; None if that is not known any more."""
    text = await catalog.recall(_key(listing.page))
    if not text:
        return listing
    try:
        taken = _DECODE.decode(text)
    except ValueError as error:
        log.warning("what was taken off a page cannot be read: %s", error, extra={"page": listing.page.key})
        return None
    return taken_off(listing, taken.restrictions, taken.restricted_at) if taken.document == _name(listing.document) else None


def taken_off(listing: Listing, restrictions: Mapping[str, Verdict], restricted_at: float) -> Listing:
    """``listing`` with what another node took off it."""
    return replace(listing, restrictions=dict(restrictions), restricted_at=restricted_at)


def merged(prepared: Listing, view: Listing) -> Listing:
    """``view``, which is ``prepared`` restricted once more, with the restrictions of both: of one version the later one's."""
    if not prepared.restrictions:
        return view
    return replace(view, restrictions={**prepared.restrictions, **view.restrictions})


def added(prepared: Listing, view: Listing) -> Mapping[str, Verdict]:
    """What of a merged view's restrictions is this node's doing."""
    before = prepared.restrictions
    return {version: verdict for version, verdict in view.restrictions.items() if before.get(version) != verdict}


async def is_older(
    answer: Answer, held: Listing, received_at: float, now: float, reread: Callable[[bytes], Awaitable[Listing]]
) -> bool:
    """Whether a node of ours sent something from before what is held, which was received at ``received_at``.

    It may be an edge that was away for longer, or an origin that was away when we were not. When its registry confirmed what it has is
    known but for the time that the answer took: where that could make the difference, the one that lacks what the other has is older.
    """
    if isinstance(answer, NotModified) or not answer.prepared or answer.received_at is None:
        return False
    # A clock that was set back tells nothing.
    if not answer.received_at < received_at <= now:
        return False
    if isinstance(answer, Absent):
        return True
    try:
        listing = await reread(answer.body)
    except ValueError:
        # Whoever believes it will find that out.
        return False
    if listing.document == held.document:
        return False
    if answer.received_at + answer.unsure_s < received_at:
        return True
    lost = {entry.file.version for name, entry in held.entries.items() if name not in listing.entries}
    return bool((lost | (held.bare - listing.bare)) - answer.restrictions.keys())


def precedes(refused: RefusedPage, received_at: float, now: float) -> bool:
    """Whether a refusal is of a page from before ``received_at``. What is newer may have something that is not refused."""
    return refused.received_at + refused.unsure_s < received_at <= now


def _key(page: Page) -> str:
    return f"taken {page.key}"


def _name(document: bytes) -> str:
    return hashlib.sha256(document).hexdigest()[:20]
