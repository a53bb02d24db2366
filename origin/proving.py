"""What an upstream sent of a page, made sure of before it is believed: by its published digests, and by what is bound already.

What a node of ours sent was made sure of there, and does not come here.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import msgspec

from .catalog import Binding, Catalog
from .errors import Corrupt, Unavailable
from .model import Digest, Entry, File, Listing, Page
from .notes import Notes
from .registries import Registry
from .sources import Answer, Received

log = logging.getLogger("leeward.proving")


class Work(Protocol):
    """Does some work, in a worker thread if it is about many bytes."""

    async def __call__[T](self, size_bytes: int, work: Callable[[], T]) -> T: ...


class Proving:
    """Checks pages as they come. ``event(kind, subject, detail)`` tells operators."""

    def __init__(self, catalog: Catalog, notes: Notes, work: Work, event: Callable[[str, str, str], Awaitable[None]]) -> None:
        self._catalog = catalog
        self._notes = notes
        self._work = work
        self._event = event

    async def proven(
        self, registry: Registry, page: Page, answer: Received, ask_again: Callable[[], Awaitable[Answer]]
    ) -> Received:
        """The answer, if its bytes are those that upstream publishes digests of. Raises ``Corrupt`` if they are not.

        Digests that came along count; else the registry's evidence is read. Upstream may have replaced page and digest between our
        two requests: what disagrees is asked for once more.
        """
        evidence = registry.evidence(page)
        if not evidence:
            return answer
        wrong: Digest | None = None
        for attempt in range(2):
            if attempt:
                again = await ask_again()
                if not isinstance(again, Received):
                    raise Unavailable(f"upstream changed the page of {page.project} while it was read")
                answer = again
            digests = answer.digests or await self._published(registry, page, evidence)
            work = partial(contradicted, answer.body, digests)
            wrong = await self._work(len(answer.body), work)
            if wrong is None:
                return answer
        await self._event("digest-mismatch", page.key, f"expected {wrong}")
        raise Corrupt(f"upstream sent a page of {page.project} that is not the one it publishes a digest of", wrong)

    async def _published(self, registry: Registry, page: Page, evidence: Sequence[File]) -> tuple[Digest, ...]:
        notes = await self._notes.read_all(evidence)
        try:
            return registry.vouched(page, notes)
        except ValueError as error:
            await self._event("bad-evidence", page.key, str(error))
            raise Corrupt(f"upstream's digest of {page.project}'s page cannot be read: {error}") from None

    async def record_owners(self, page: Page, owners: Mapping[str, tuple[str, str]]) -> None:
        """Remember whose the files are that do not tell it by their name."""
        try:
            await self._catalog.record_owners(page.registry, owners)
        except Unavailable as error:
            log.warning("ambiguous file names were not recorded: %s", error, extra={"page": page.key})

    async def keep_bound(self, registry: Registry, before: Listing | None, listing: Listing) -> Listing:
        """Keep what is held of files that upstream now publishes with another digest under a bound name: an alarm, not news."""
        page = listing.page
        keep: dict[str, Entry] = {}
        for binding in await self._catalog.bindings(page.registry, page.project):
            subject = registry.subject(binding.file)
            entry = listing.entries.get(subject.filename)
            if entry is None:
                continue
            published = entry.digests if subject == binding.file else entry.sidecar or ()
            if not _contradicts(published, binding):
                continue
            now = ", ".join(map(str, published)) or "what has no digest"
            await self._event("rebound", binding.file.key, f"bound to {binding.digest}, now published as {now}")
            if subject != binding.file:
                # Advertised by nobody but us: ``enrich`` puts the bound digest in its place.
                keep.setdefault(subject.filename, msgspec.structs.replace(entry, sidecar=None, extra=b""))
                continue
            held = before.entries.get(subject.filename) if before is not None else None
            keep[subject.filename] = held if held is not None else _entry_of(binding, entry)
        return await self._work(len(listing.document), lambda: registry.amend(listing, keep)) if keep else listing


def contradicted(data: bytes, digests: Sequence[Digest]) -> Digest | None:
    """The first of ``digests`` that ``data`` has not; None if all agree."""
    for digest in digests:
        if digest.algorithm in hashlib.algorithms_available and hashlib.new(digest.algorithm, data).hexdigest() != digest.value:
            return digest
    return None


def _contradicts(published: Sequence[Digest], binding: Binding) -> bool:
    """Whether another digest than the bound one is published, by any algorithm both name."""
    bound = {d.algorithm: d for d in (binding.digest, *binding.aliases)}
    return any(d.algorithm in bound and bound[d.algorithm] != d for d in published)


def _entry_of(binding: Binding, seen: Entry) -> Entry:
    """An entry for a bound file whose own listing is no longer held: the bound digests, nothing that the new bytes brought."""
    file: File = binding.file
    return Entry(file, seen.url, (binding.digest, *binding.aliases), binding.size, seen.published, seen.yanked)
