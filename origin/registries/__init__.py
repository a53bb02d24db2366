"""What a registry's rules are, one module per kind, without I/O.

A module here turns raw request targets into resources, documents into listings, and listings into documents. It opens no
socket, reads no clock and touches no disk, so every rule can be tested by a plain call, and a large document can be handled in a
worker thread. Only this package turns text from the network into ``Page`` and ``File``.

Documents can hold 20,000 files. ``read``, ``restrict`` and ``write`` are called in a worker thread for anything large and must not
hold the interpreter's lock for more than a few milliseconds in one C call: decode and encode in slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from ..model import Digest, Entry, File, Headers, Listing, Page, Resource, Verdict


class Registry(Protocol):
    """The rules of one configured instance: its kind's rules, bound to an instance name and its upstream."""

    @property
    def kind(self) -> str:
        """``pypi``, ``npm`` or ``maven``: the purl type."""
        ...

    @property
    def name(self) -> str:
        """The instance's name."""
        ...

    @property
    def upstream(self) -> str:
        """The upstream's root URL, ending in ``/``."""
        ...

    # -- requests

    def resource(self, method: str, target: str) -> Resource | None:
        """Say what a raw request target means.

        ``target`` is relative to the instance's path, without a leading slash, percent-encoding and query as the client sent
        them. None if no such thing can exist (404). Raises ``ValueError`` for a malformed target (400): bad encoding, dot segments,
        NUL, backslash, an empty segment, a segment over 255 bytes.
        """
        ...

    def guesses(self, file: File) -> Iterable[File]:
        """Other (project, version) readings of an ambiguous file name, most likely first, ``file`` itself excluded."""
        ...

    def variants(self, page: Page) -> tuple[str, ...]:
        """The media types ``page`` can be written in, preferred first: the closed list that rendered answers are kept by."""
        ...

    def negotiate(self, page: Page, accept: str | None, target: str) -> str:
        """Choose one of ``variants(page)`` for an ``Accept`` value (and the raw target's query, where a format may stand there)."""
        ...

    def subject(self, file: File) -> File:
        """The file that ``file`` is a sidecar of (metadata, signature); ``file`` itself if it is none."""
        ...

    def listing_page(self, file: File) -> Page:
        """The page that lists ``file``."""
        ...

    # -- upstream

    def locate(self, resource: Page | File, listing: Listing | None) -> str:
        """The absolute upstream URL. Raises ``NotFound`` for a file that ``listing`` does not have."""
        ...

    def probe_location(self, file: File, listing: Listing) -> str | None:
        """Where upstream would keep a file that ``listing`` lacks, to ask whether the bytes still exist; None if unknowable."""
        ...

    def ask(self, page: Page) -> Headers:
        """Request header fields for fetching ``page`` from upstream (``Accept``)."""
        ...

    def expected(self, file: File, listing: Listing | None) -> Entry | None:
        """What ``listing`` publishes of ``file`` (for a sidecar: an Entry made of the sidecar's digests), None if it lacks it.

        ``file.path`` must be the listed one: a right name under a wrong path is not listed.
        """
        ...

    # -- documents

    def read(self, page: Page, body: bytes, media_type: str, url: str) -> Listing:
        """Parse what upstream sent. ``url`` is the final URL, against which relative links resolve.

        Raises ``ValueError`` for anything that is not such a document of that very project: a captive portal's HTML, another name,
        a missing mandatory key. A page that cannot be understood must not be served.
        """
        ...

    def reread(self, page: Page, document: bytes) -> Listing:
        """Parse a stored ``Listing.document`` again."""
        ...

    def restrict(self, listing: Listing, verdicts: Mapping[str, Verdict]) -> Listing:
        """Apply verdicts (by version string as in ``Entry.file.version``); unlisted versions are allowed. Edits entries and document."""
        ...

    def enrich(self, listing: Listing, sidecars: Mapping[str, Digest]) -> Listing:
        """Advertise metadata sidecars generated here (by file name) for entries whose upstream advertises none."""
        ...

    def write(self, listing: Listing, media_type: str, base: str | None) -> bytes:
        """The document for a client, uncompressed.

        ``base`` is the instance's absolute external URL ending in ``/`` (``http://127.0.0.1:8080/pypi/``): file links become root-relative
        beneath its path. ``None`` leaves links as published (proxy face).
        """
        ...

    def headers(self, listing: Listing) -> Headers:
        """Response header fields of the registry's own that go with a page (``X-PyPI-Last-Serial``)."""
        ...

    def amend(self, listing: Listing, keep: Mapping[str, Entry]) -> Listing:
        """Put held entries (by file name) in place of what upstream now says of them; document and entries both."""
        ...

    def owners(self, listing: Listing) -> Mapping[str, tuple[str, str]]:
        """``path -> (project, version)`` for the files, sidecars included, that ``resource`` alone would read otherwise."""
        ...

    # -- versions and files

    def version_of(self, page: Page) -> str | None:
        """The version that a page is about, so that a verdict on it closes the page (a provenance); None for pages about all."""
        ...

    def version_key(self, version: str) -> object | None:
        """A sort key in the kind's own order, comparable with others of the kind; None for a version outside its grammar."""
        ...

    def same_but_local(self, version: str) -> str:
        """``version`` without the part that a rule which does not spell it ignores (PyPI: the local label); else unchanged."""
        ...

    def normalise(self, project: str) -> str:
        """The project's one spelling. Raises ``ValueError`` for a name outside the grammar."""
        ...

    def strict(self, file: File) -> bool:
        """Whether clients unpack ``file`` while it streams, so that no byte may leave before its digest matches."""
        ...
