"""One page as a node holds it in memory, one as it is given out, and what a path turns out to mean."""

from __future__ import annotations

from dataclasses import dataclass, replace

import trio

from .catalog import Binding, StoredAnswer
from .dating import Dated
from .errors import Refused
from .model import Allow, Digest, Entry, File, Listing, Stamp, Validity
from .registries import Registry

ENTRY_BYTES = 1600
"""What an entry of a parsed listing takes beside its document, about."""


@dataclass(frozen=True, slots=True)
class PageView:
    """A page ready to be written for a client. ``outcome`` is a label for metrics, ``cache_status`` the RFC 9211 member's parameters.

    ``trail`` are the members of the nodes of ours that were asked on the way.
    """

    listing: Listing
    stamp: Stamp
    validity: Validity
    received_at: float
    serial: int | None
    outcome: str
    cache_status: str
    last_modified: str | None = None
    trail: str = ""

    @property
    def fresh(self) -> bool:
        return self.outcome in ("hit", "miss", "revalidated", "collapsed")


class HeldPage:
    """One page in memory: the answer's facts, the listing as upstream means it, and the last view made of it."""

    __slots__ = (
        "answer",
        "listing",
        "making",
        "policy",
        "restricted",
        "retired",
        "sidecars",
        "size",
        "validity",
        "vanishing",
        "view",
        "weight",
    )

    def __init__(self, answer: StoredAnswer, listing: Listing | None) -> None:
        self.size = len(answer.document) + 2048
        self.weight = self.size + (ENTRY_BYTES * len(listing.entries) if listing is not None else 0)
        # The listing holds the document; the answer here is only its facts.
        self.answer = replace(answer, document=b"")
        self.listing = listing
        self.view: Listing | None = None
        self.sidecars: dict[str, Digest] | None = None
        # When policy last changed what is left of it, and what it took off then; None until that was looked up.
        self.restricted: Dated | None = None
        self.policy = -1
        self.validity = Validity(answer.stamp.fresh_until)
        self.making = trio.Lock()
        self.retired = False
        # What the last look missed; None if that look was before a restart.
        self.vanishing: frozenset[str] | None = None

    @property
    def listings(self) -> tuple[Listing, ...]:
        """What it holds, each once."""
        return tuple(each for each in (self.listing, self.view if self.view is not self.listing else None) if each is not None)

    def restamp(self, stamp: Stamp, received_at: float) -> None:
        self.answer = replace(self.answer, stamp=stamp, received_at=received_at)
        self.validity.fresh_until = stamp.fresh_until

    def forget_view(self) -> None:
        """What was rendered from the view must not be sent any more; a new view has a validity of its own."""
        self.validity.valid = False
        self.view = None

    def retire(self) -> None:
        """It is held no more: whoever still works with it may finish, but what is made of it may never be kept."""
        self.retired = True
        self.forget_view()

    # ---- files

    def entry(self, registry: Registry, file: File) -> Entry | None:
        """What the page publishes of a file, None if it lacks it."""
        return registry.expected(file, self.listing) if self.listing is not None else None

    def lists(self, registry: Registry, file: File) -> bool:
        """Whether a file, or what it is a sidecar of, is listed."""
        return self.entry(registry, registry.subject(file)) is not None

    def require_not_taken(self, file: File) -> None:
        """Raise ``Refused`` for a file whose version the node that sent the page has taken off it."""
        verdict = self.listing.restrictions.get(file.version) if self.listing is not None else None
        if verdict is not None and not isinstance(verdict, Allow):
            raise Refused(verdict)


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a requested path means: the file with its true project and version, what its listing says, what it is bound to."""

    file: File
    entry: Entry | None
    binding: Binding | None

    @property
    def digests(self) -> tuple[Digest, ...]:
        """What is known for certain of the file's bytes: what it is bound to, else what its listing says."""
        if self.binding is not None:
            return (self.binding.digest, *self.binding.aliases)
        return self.entry.digests if self.entry is not None else ()
