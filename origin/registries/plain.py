"""What a kind has that has nothing special: each kind says only where it differs.

An answer here is always the harmless one: nothing is read beside a file, nothing is signed, nothing is forwarded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .. import targets
from ..model import Digest, Entry, File, Headers, Listing, Page, Relay
from . import Judge


class Plain:
    """The protocol's methods for a kind whose URLs are its targets, without sidecars, views, strays, checksums, evidence, signatures,
    groups and relays.
    """

    groups: tuple[str, ...] = ()
    sample: Page | None = None
    upstream: str

    def meaning(self, target: str, *, files: bool) -> str | None:
        return targets.beneath(target, self.upstream)

    def address(self, target: str) -> str:
        return self.upstream + target

    def guesses(self, file: File) -> Iterable[File]:
        return ()

    def stray(self, target: str, path: str) -> str | None:
        return None

    def basis(self, page: Page) -> Page:
        return page

    def checksum(self, file: File) -> str:
        return ""

    def claimed(self, resource: Page | File) -> str:
        return resource.project

    def life_s(self, page: Page, fresh_s: float) -> float:
        return fresh_s

    def probe_location(self, file: File, listing: Listing) -> str | None:
        return None

    def evidence(self, resource: Page | File) -> tuple[File, ...]:
        return ()

    def vouched(self, resource: Page | File, evidence: Mapping[str, bytes]) -> tuple[Digest, ...]:
        return ()

    def signature(self, file: File) -> File | None:
        return None

    def check(self, file: File, entry: Entry | None, content: str, signature: bytes | None) -> str:
        return ""

    def enrich(self, listing: Listing, sidecars: Mapping[str, Digest]) -> Listing:
        return listing

    def owners(self, listing: Listing) -> Mapping[str, tuple[str, str]]:
        return {}

    def same_but_local(self, version: str) -> str:
        return version

    def merge(self, listings: Sequence[Listing]) -> Listing:
        raise NotImplementedError("pages of this kind are not made one")

    def forward(self, relay: Relay) -> Headers | None:
        return None

    def relayed(self, relay: Relay, body: bytes, judge: Judge) -> bytes:
        raise ValueError("nothing is relayed here")

    def relay_life_s(self, relay: Relay) -> float:
        return 0.0


def quality_of(parameters: Sequence[str]) -> float:
    """The weight among a media range's parameters: 1 if there is none, 0 if it is none. Source: RFC 9110 §12.4.2."""
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                return 0.0
            return quality if 0 <= quality <= 1 else 0.0
    return 1.0
