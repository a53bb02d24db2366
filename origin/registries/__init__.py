"""What a registry's rules are, one module per kind, without I/O.

A module here turns raw request targets into resources, documents into listings, and listings into documents. It opens no
socket, reads no clock and touches no disk, so every rule can be tested by a plain call, and a large document can be handled in a
worker thread. Only this package turns text from the network into ``Page`` and ``File``.

Documents can hold 20,000 files. ``read``, ``restrict`` and ``write`` are called in a worker thread for anything large and must not
hold the interpreter's lock for more than a few milliseconds in one C call: decode and encode in slices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ..model import Digest, Entry, File, Headers, Listing, Page, Relay, Resource, Verdict

type Judge = Callable[[str, str], Verdict]
"""What the rules in force say of (project, version)."""


@dataclass(frozen=True, slots=True)
class Options:
    """What an instance may be told beside its upstream; each kind heeds what concerns it.

    ``aliases`` are other hosts that mean the same upstream. ``keys`` is the content of the file with the keys its signatures are checked by
    (npm: the registry's key document; Maven: OpenPGP certificates), None to check none; ``signatures`` says whether what has
    none is refused. ``audit`` says what becomes of audits. ``groups`` are the name patterns this instance alone answers for where
    several share a path (``org.example.*``).
    """

    aliases: tuple[str, ...] = ()
    keys: bytes | None = None
    signatures: Literal["check", "require"] = "check"
    audit: Literal["forward", "empty", "off"] = "forward"
    groups: tuple[str, ...] = ()


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

    @property
    def hold_s(self) -> float:
        """How long a client of this kind is left waiting for the first byte of a file before it is told to come back, in seconds."""
        ...

    @property
    def identity(self) -> str:
        """The digest algorithm that a file's ETag is made of: ``sha256``, or ``sha1`` where often nothing else is known in time.

        Every file of the instance is hashed by it, and by SHA-256.
        """
        ...

    @property
    def proofs(self) -> frozenset[str]:
        """The algorithms for which a match with what was published proves that the bytes are those published."""
        ...

    @property
    def groups(self) -> tuple[str, ...]:
        """The name patterns this instance alone answers for among those that share its path; empty for any name no other claims."""
        ...

    # -- requests

    def resource(self, method: str, target: str) -> Resource | None:
        """Say what a raw request target means.

        ``target`` is relative to the instance's path, without a leading slash, percent-encoding and query as the client sent
        them. None if no such thing can exist (404). Raises ``ValueError`` for a malformed target (400): bad encoding, dot segments,
        NUL, backslash, an empty segment, a segment over 255 bytes.
        """
        ...

    def stray(self, target: str, path: str) -> str | None:
        """The target (relative to the instance's path) that a client must have meant which lost the path on its way, or doubled it.

        ``target`` is raw and begins with a slash, ``path`` is the instance's. None if nothing of this kind looks so.
        """
        ...

    def insists(self, cache_control: str, target: str) -> bool:
        """Whether a client wants upstream asked, by its ``Cache-Control`` and the raw target's query."""
        ...

    def basis(self, page: Page) -> Page:
        """The page that is held, of which ``page`` is one view (a manifest of a packument, a checksum of metadata); else itself."""
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

    def checksum(self, file: File) -> str:
        """The digest algorithm that ``file``, a checksum sidecar, holds the value of for its ``subject``; ``""`` for any other file."""
        ...

    def claimed(self, resource: Page | File) -> str:
        """The name to hold the ``groups`` of those that share a path against; ``""`` for what is about the whole repository."""
        ...

    def listing_page(self, file: File) -> Page | None:
        """The page that lists ``file``; None where no page does, and only upstream knows whether it exists."""
        ...

    # -- the registry's own addresses, as clients that know nothing of us ask for them

    @property
    def sample(self) -> Page | None:
        """A page that every upstream of the kind has, and that lists files: where those are, all are. None where nothing is elsewhere."""
        ...

    def meaning(self, target: str, *, files: bool) -> str | None:
        """What a raw ``target`` in origin form, at one of the registry's hosts, means: a target as ``resource`` takes it.

        ``files`` says that the host is one where files are kept, on which only files are looked for; else it is the upstream's own, or an
        alias of it, and files may be there too. The inverse of ``locate``, without a listing: where the path does not tell a file's
        project for certain, ``guesses`` of the resource tell of the others. None if the registry has nothing there.
        Raises ``ValueError`` for a malformed target.
        """
        ...

    def address(self, target: str) -> str:
        """The absolute URL at the upstream of what ``target`` means here: of a page, or of where a ``Local`` redirects to.

        Files are elsewhere, and have theirs from a listing.
        """
        ...

    # -- upstream

    def life_s(self, page: Page, fresh_s: float) -> float:
        """The longest life, in seconds, that a page of this kind gets where the settings say ``fresh_s``."""
        ...

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

        ``file.path`` must be the listed one: a right name under a wrong path is not listed. Where no page lists files, ``listing`` is None
        and the Entry says where to ask.
        """
        ...

    def evidence(self, resource: Page | File) -> tuple[File, ...]:
        """The small files to read first, or meanwhile, to know the digests of ``resource`` (Maven: ``.sha1``)."""
        ...

    def vouched(self, resource: Page | File, evidence: Mapping[str, bytes]) -> tuple[Digest, ...]:
        """The digests that ``evidence`` (by ``File.filename``; what upstream lacks is left out) publishes of ``resource``.

        Raises ``ValueError`` for evidence that is none: that is upstream's fault, not an absence.
        """
        ...

    def signature(self, file: File) -> File | None:
        """The detached signature to check ``file`` by; None if none is asked for."""
        ...

    def check(self, file: File, entry: Entry | None, content: str, signature: bytes | None) -> str:
        """Say what is wrong with a file's signature, ``""`` if nothing is: who has no keys checks none.

        ``content`` is a path at which the bytes can be read, ``""`` before they are there: then only what is signed beside them is checked
        (npm). ``signature`` is what ``signature(file)`` holds, None if upstream has none.
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

    def write(self, listing: Listing, media_type: str, base: str | None, view: str | None = None) -> bytes:
        """The document for a client, uncompressed.

        ``base`` is the instance's absolute external URL ending in ``/`` (``http://127.0.0.1:8080/pypi/``): file links lead beneath
        it, root-relative where clients take that. ``None`` leaves links as published (proxy face). ``view`` is the view asked for where it
        is not the listing's own (see ``basis``). Raises ``NotFound`` or ``Refused`` for a view of what is not there or was taken off.
        """
        ...

    def merge(self, listings: Sequence[Listing]) -> Listing:
        """One page made of the same page of several upstreams, in their order, each already restricted."""
        ...

    def headers(self, listing: Listing, body: bytes = b"", last_modified: str | None = None, note: str = "") -> Headers:
        """Response header fields of the registry's own that go with a page (``X-PyPI-Last-Serial``).

        ``body`` is what was written; ``last_modified`` upstream's own field; ``note`` a sentence on the node's state that the person
        may want to read (``npm-notice``), ``""`` if all is well.
        """
        ...

    def file_headers(self, file: File, digests: Sequence[Digest], last_modified: str | None) -> Headers:
        """``Content-Type``, ``ETag`` and whatever else goes with a file, the same for GET and HEAD, held and arriving.

        ``digests`` holds one by ``identity``; whatever else happens to be known must not show.
        """
        ...

    # -- relays

    def forward(self, relay: Relay) -> Headers | None:
        """The request header fields a relay is sent with; None if it is not sent at all but answered by ``relayed`` of nothing."""
        ...

    def relayed(self, relay: Relay, body: bytes, judge: Judge) -> bytes:
        """What a client gets of upstream's answer (``b""`` if it was not asked). Raises ``ValueError`` if it makes no sense."""
        ...

    def relay_life_s(self, relay: Relay) -> float:
        """How many seconds an answer may be given again; 0 for one that is nobody else's."""
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
