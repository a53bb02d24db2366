"""A kind of registry that exists nowhere: the least that keeps the contract, and unlike PyPI wherever the contract leaves a choice.

A page is text: ``toy <project> <serial>``, then for each file ``<version> <filename> <size> <SHA-256> <url>``, then ``end``. What policy
forbids is struck off, there are no sidecars, links carry the version, and only plain numbers are versions. ``count/<project>`` is a view
of the page: how many files it lists. A poll (``POST ask``) is relayed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from msgspec.structs import replace as replaced

from origin import targets
from origin.errors import NotFound
from origin.model import STRONG, Allow, Digest, Entry, File, Headers, Listing, Page, Relay, Resource, Verdict
from origin.registries import Judge
from origin.registries.plain import Plain

MEDIA_TYPE = "text/toy"

_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*", re.IGNORECASE | re.ASCII)
_VERSION = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})*", re.ASCII)
_FIRST = re.compile(r"toy (\S{1,64}) ([0-9]{1,18})", re.ASCII)
_LINE = re.compile(
    r"([0-9.]{1,64}) ([A-Za-z0-9_][A-Za-z0-9._-]{0,99}) ([0-9]{1,12}) (\S+) (https?://[a-z0-9.:-]+/[A-Za-z0-9./_-]*)", re.ASCII
)


class Toy(Plain):
    """One instance. ``upstream`` ends in ``/``."""

    kind = "toy"
    hold_s = 5.0
    identity = "sha256"
    proofs = STRONG
    groups: tuple[str, ...] = ()

    def __init__(self, name: str, upstream: str) -> None:
        self.name = name
        self.upstream = upstream
        self.sample = Page(name, "whistle")

    def resource(self, method: str, target: str) -> Resource | None:
        asked = targets.parse(target)
        if method == "POST" and asked.segments == ("ask",):
            return Relay(self.name, "POST", "ask")
        if method not in ("GET", "HEAD"):
            return None
        match asked.segments:
            case ("count", project) if _is_name(project):
                return Page(self.name, project, "count")
            case ("list", project) if _is_name(project):
                return Page(self.name, project)
            case ("files", project, version, filename) if _is_name(project) and _VERSION.fullmatch(version):
                return File(self.name, project, version, filename, "/".join(asked.segments))
            case _:
                return None

    def stray(self, target: str, path: str) -> str | None:
        try:
            meant = self.resource("GET", target[1:])
        except ValueError:
            return None
        return target[1:] if path != "/" and isinstance(meant, File) else None

    def insists(self, cache_control: str, target: str) -> bool:
        return target.endswith("?now")

    def basis(self, page: Page) -> Page:
        return replaced(page, view="") if page.view == "count" else page

    def variants(self, page: Page) -> tuple[str, ...]:
        return (MEDIA_TYPE,)

    def negotiate(self, page: Page, accept: str | None, target: str) -> str:
        return MEDIA_TYPE

    def subject(self, file: File) -> File:
        return file

    def listing_page(self, file: File) -> Page | None:
        return Page(self.name, file.project)

    def locate(self, resource: Page | File, listing: Listing | None) -> str:
        if isinstance(resource, Page):
            return f"{self.upstream}list/{resource.project}"
        entry = self.expected(resource, listing)
        if entry is None:
            raise NotFound(resource.filename)
        return entry.url

    def ask(self, page: Page) -> Headers:
        return (("accept", MEDIA_TYPE),)

    def expected(self, file: File, listing: Listing | None) -> Entry | None:
        entry = listing.entries.get(file.filename) if listing else None
        return entry if entry is not None and entry.file == file else None

    def read(self, page: Page, body: bytes, media_type: str, url: str) -> Listing:
        if media_type != MEDIA_TYPE:
            raise ValueError(f"unexpected media type {media_type[:64]!r}")
        first, *lines = body.decode("ascii").split("\n")
        head = _FIRST.fullmatch(first)
        if head is None or head[1] != page.project or not lines or lines.pop() != "end":
            raise ValueError(f"not the whole list of {page.project}")
        entries: dict[str, Entry] = {}
        for line in lines:
            found = _LINE.fullmatch(line)
            if found is None or not _VERSION.fullmatch(found[1]) or found[2] in entries or {".", ".."} & {*found[5].split("/")}:
                raise ValueError(f"not a file of {page.project}: {line[:64]!r}")
            file = File(self.name, page.project, found[1], found[2], f"files/{page.project}/{found[1]}/{found[2]}")
            entries[file.filename] = Entry(file, found[5], (Digest.parse("sha256", found[4]),), int(found[3]))
        return Listing(page, entries, body, int(head[2]))

    def reread(self, page: Page, document: bytes) -> Listing:
        return self.read(page, document, MEDIA_TYPE, "")

    def restrict(self, listing: Listing, verdicts: Mapping[str, Verdict]) -> Listing:
        forbidden = {version: verdict for version, verdict in verdicts.items() if not isinstance(verdict, Allow)}
        kept = {name: entry for name, entry in listing.entries.items() if entry.file.version not in forbidden}
        return replace(_rewritten(listing, kept), restrictions=forbidden)

    def write(self, listing: Listing, media_type: str, base: str | None, view: str | None = None) -> bytes:
        if view == "count":
            return str(len(listing.entries)).encode()
        return listing.document if base is None else _document(listing, listing.entries, base)

    def merge(self, listings: Sequence[Listing]) -> Listing:
        first = listings[0]
        entries = {name: entry for listing in reversed(listings) for name, entry in listing.entries.items()}
        return _rewritten(first, entries)

    def headers(self, listing: Listing, body: bytes = b"", last_modified: str | None = None, note: str = "") -> Headers:
        return (("x-toy-serial", str(listing.serial)),)

    def file_headers(self, file: File, digests: Sequence[Digest], last_modified: str | None) -> Headers:
        sha256 = next(digest.value for digest in digests if digest.algorithm == "sha256")
        return (("Content-Type", "application/octet-stream"), ("ETag", f'"sha256-{sha256}"'))

    def forward(self, relay: Relay) -> Headers | None:
        return (("accept", MEDIA_TYPE),)

    def relayed(self, relay: Relay, body: bytes, judge: Judge) -> bytes:
        return body

    def amend(self, listing: Listing, keep: Mapping[str, Entry]) -> Listing:
        return _rewritten(listing, {**listing.entries, **keep})

    def version_of(self, page: Page) -> str | None:
        return None

    def version_key(self, version: str) -> object | None:
        return tuple(map(int, version.split("."))) if _VERSION.fullmatch(version) else None

    def normalise(self, project: str) -> str:
        if not _NAME.fullmatch(project):
            raise ValueError(f"not a name: {project[:64]!r}")
        return project.lower()

    def strict(self, file: File) -> bool:
        return True


def _is_name(project: str) -> bool:
    return _NAME.fullmatch(project) is not None and project == project.lower()


def _rewritten(listing: Listing, entries: Mapping[str, Entry]) -> Listing:
    return replace(listing, entries=entries, document=_document(listing, entries, None))


def _document(listing: Listing, entries: Mapping[str, Entry], base: str | None) -> bytes:
    lines = [f"toy {listing.page.project} {listing.serial}"]
    for name, entry in entries.items():
        url = entry.url if base is None else base + entry.file.path
        lines.append(f"{entry.file.version} {name} {entry.size} {entry.digests[0].value} {url}")
    return "\n".join([*lines, "end"]).encode()
