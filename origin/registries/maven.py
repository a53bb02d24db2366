"""Maven's rules: what a request means, where upstream has it, which representation a client gets.

Beside it: ``maven_paths.py`` (paths and coordinates), ``maven_versions.py`` (the order), ``maven_metadata.py`` (documents),
``maven_signatures.py`` (OpenPGP). Essential reading: Maven's "Repository Layout" and "Repository Metadata", the resolver's "Remote
Repository Filtering", Gradle Module Metadata.

Addresses below an instance's path:

==============================================  ================================================================
``<group>/<artifact>/maven-metadata.xml``       Page(view ``""``), of an artifact or of a group: its content tells
``<group>/maven-metadata.xml``                  Page(no project, view ``group/<group>``), of a group of one segment
``<g>/<a>/<v>-SNAPSHOT/maven-metadata.xml``     Page(view ``snapshot/<v>-SNAPSHOT``)
``.meta/prefixes.txt``                          Page(no project, view ``prefixes``)
``.meta/repository-metadata.xml``               Page(no project, view ``repository``)
``archetype-catalog.xml``                       Page(no project, view ``catalog``)
any of these, ``.md5 .sha1 .sha256 .sha512``    Page(its view and ``checksum/<algorithm>``), written of its very bytes
``<g>/<a>/<v>/<a>-<v>[-<classifier>].<ext>``    File, and so are its ``.asc``, ``.sigstore.json`` and checksums
==============================================  ================================================================

A file that may change, ``<a>-<v>-SNAPSHOT.<ext>``, is listed by Page(view ``file/<path>``), which is its ``.sha1``: one entry, under the
file's name, whose file has the digest in its own name, so that each content is bound for ever under a name of its own.

What follows no layout is not there (404) and is never asked for upstream: policy could not judge it. Nor is ``.index/``: gigabytes of
search index, which would tell of every version that a rule refuses.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from email.utils import formatdate, parsedate_to_datetime
from typing import Literal
from urllib.parse import quote

import msgspec

from .. import targets
from ..errors import NotFound
from ..model import STRONG, Allow, Digest, Entry, File, Headers, Listing, Local, Page, Resource, Verdict
from . import Options
from . import maven_metadata as documents
from . import maven_paths as paths
from . import maven_versions as versions
from .maven_signatures import Keyring
from .plain import Plain

XML = "application/xml"
TEXT = "text/plain"

READ_ONLY = Local(403, "read-only mirror: deploy to the repository itself")
METHOD = Local(405, "only GET and HEAD here")
NO_DIRECTORY = Local(404, "directories are not listed here: ask for a file, or for maven-metadata.xml")
NO_ICON = Local(404, "there is no icon here")
ROBOTS = Local(200, body=b"User-agent: *\nDisallow: /\n", media_type=TEXT)

_LOCAL: Mapping[tuple[str, ...], Local] = {("robots.txt",): ROBOTS, ("favicon.ico",): NO_ICON}
_INDEX_PAGES = frozenset({"index.html", "index.htm"})

_ASK: Mapping[str, Headers] = {XML: (("accept", f"{XML}, text/xml, */*;q=0.5"),), TEXT: (("accept", f"{TEXT}, */*;q=0.5"),)}

SNAPSHOT_LIFE_S = 300.0
"""The longest that a snapshot's metadata is believed, and that a snapshot's file is the same."""

REPOSITORY_LIFE_S = 86400.0
"""How long documents about a whole repository are believed: they are large, and change slowly."""

_TYPES: Mapping[str, str] = {
    **dict.fromkeys(("jar", "war", "ear", "aar", "rar", "sar", "par", "nbm", "hpi", "jpi", "klib"), "application/java-archive"),
    **dict.fromkeys(("pom", "xml"), XML),
    **dict.fromkeys(("module", "json"), "application/json"),
    **dict.fromkeys(("gz", "tgz"), "application/gzip"),
    **dict.fromkeys((*paths.CHECKSUMS, "txt"), TEXT),
    "zip": "application/zip",
    "asc": "application/pgp-signature",
}
"""What a file is sent as, by what follows its last dot. Clients do not look."""

_USELESS_BY_HALVES = frozenset(
    # Zip archives by other names: the directory is at the end.
    "jar war ear aar rar sar par nbm hpi jpi kar har klib zip apk aab esb bar "
    # Documents that no parser takes cut short.
    "pom xml module json asc "
    # Shorter than what is held back of any file.
    "md5 sha1 sha256 sha512".split()
)

_BARE_DIGEST = re.compile(rb"[0-9a-f]{32,128}")


class Maven(Plain):
    """The rules of one Maven instance. ``upstream`` is the root of its repository.

    Raises ``ValueError`` for ``options.keys`` that are no certificates.
    """

    kind: Literal["maven"] = "maven"
    # Gradle gives up after 30 s without a byte.
    hold_s = 20.0
    # What every repository publishes of every file.
    identity = "sha1"
    proofs = STRONG | {"sha1"}

    def __init__(self, name: str, upstream: str, options: Options | None = None) -> None:
        options = options or Options()
        self.name = name
        self.upstream = upstream if upstream.endswith("/") else upstream + "/"
        self.aliases = options.aliases
        self.groups = options.groups
        self._keyring = Keyring(options.keys) if options.keys is not None else None
        self._require_signatures = options.signatures == "require"

    def __repr__(self) -> str:
        return f"<Maven {self.name} at {self.upstream}>"

    # -- requests

    def resource(self, method: str, target: str) -> Resource | None:
        if target.startswith("/"):
            raise ValueError("empty segment in the request target")
        asked = targets.parse(target)
        if method == "PUT":
            return READ_ONLY
        if method not in ("GET", "HEAD"):
            return METHOD
        segments = asked.segments
        if asked.slash or segments[-1] in _INDEX_PAGES:
            return NO_DIRECTORY
        return _LOCAL.get(segments) or self._document(segments) or self._file("/".join(segments))

    def _document(self, segments: tuple[str, ...]) -> Page | None:
        last, checksum = paths.split_checksum(segments[-1])
        found: tuple[str, str] | None = None
        if last == paths.METADATA:
            found = paths.read_metadata(segments[:-1])
        elif view := paths.DOCUMENTS.get("/".join((*segments[:-1], last))):
            found = "", view
        if found is None:
            return None
        project, view = found
        if checksum:
            view = f"{view}/checksum/{checksum}" if view else f"checksum/{checksum}"
        return Page(self.name, project, view)

    def _file(self, path: str) -> File | None:
        segments = tuple(path.split("/"))
        found = paths.read_file(segments)
        return File(self.name, found.project, found.version, segments[-1], path) if found else None

    def insists(self, cache_control: str, target: str) -> bool:
        # "Cache-Control: no-cache, no-store" is what the resolver sends with everything.
        return False

    def basis(self, page: Page) -> Page:
        view, checksum = paths.split_view(page.view)
        return msgspec.structs.replace(page, view=view) if checksum else page

    def variants(self, page: Page) -> tuple[str, ...]:
        view, checksum = paths.split_view(page.view)
        return (TEXT,) if checksum or view == "prefixes" or view.startswith("file/") else (XML,)

    def negotiate(self, page: Page, accept: str | None, target: str) -> str:
        return self.variants(page)[0]

    def subject(self, file: File) -> File:
        filename, checksum = paths.split_checksum(file.filename)
        if not checksum:
            return file
        return msgspec.structs.replace(file, filename=filename, path=file.path.removesuffix(f".{checksum}"))

    def checksum(self, file: File) -> str:
        return paths.split_checksum(file.filename)[1]

    def claimed(self, resource: Page | File) -> str:
        if isinstance(resource, Page) and not resource.project:
            kind, _, group = paths.split_view(resource.view)[0].partition("/")
            return group if kind == "group" else ""
        return resource.project

    def listing_page(self, file: File) -> Page | None:
        path, _ = paths.split_checksum(file.path)
        found = paths.read_file(tuple(path.split("/")))
        return Page(self.name, file.project, f"file/{path}") if found is not None and found.is_mutable else None

    # -- upstream

    def life_s(self, page: Page, fresh_s: float) -> float:
        match page.view.partition("/")[0]:
            case "snapshot" | "file":
                return min(fresh_s, SNAPSHOT_LIFE_S)
            case "prefixes" | "repository" | "catalog":
                return max(fresh_s, REPOSITORY_LIFE_S)
            case _:
                return fresh_s

    def locate(self, resource: Page | File, listing: Listing | None) -> str:
        if isinstance(resource, Page):
            return self._url(paths.document_path(resource.project, resource.view))
        entry = self.expected(resource, listing)
        if entry is None:
            raise NotFound(f"{resource.filename} is not listed by its checksum")
        return entry.url

    def _url(self, path: str) -> str:
        return self.upstream + quote(path, safe="/+!,~")

    def ask(self, page: Page) -> Headers:
        return _ASK[self.variants(page)[0]]

    def expected(self, file: File, listing: Listing | None) -> Entry | None:
        """As the protocol has it. Whether there is a file that no page lists, only asking tells."""
        if listing is None:
            return Entry(file, self._url(file.path))
        plain = self.subject(file)
        entry = listing.entries.get(paths.without_content(plain.filename))
        if entry is None or plain.path not in ("", entry.file.path):
            return None
        if plain == file:
            return entry if file.filename in (entry.file.filename, paths.without_content(entry.file.filename)) else None
        beside = msgspec.structs.replace(file, path=f"{entry.file.path}.{self.checksum(file)}")
        return Entry(beside, self._url(beside.path))

    def evidence(self, resource: Page | File) -> tuple[File, ...]:
        if isinstance(resource, Page):
            view, checksum = paths.split_view(resource.view)
            if checksum or view.startswith("file/"):
                return ()
            path = paths.document_path(resource.project, view) + ".sha1"
            return (File(self.name, resource.project, self.version_of(resource) or "", path.rpartition("/")[2], path),)
        found = paths.read_file(tuple(resource.path.split("/")))
        # What is listed has its digest from there.
        if found is None or found.is_mutable or self.checksum(resource):
            return ()
        sha1 = msgspec.structs.replace(resource, filename=resource.filename + ".sha1", path=resource.path + ".sha1")
        if found.ending or found.extension in ("pom", "module"):
            return (sha1,)
        directory = resource.path.removesuffix(resource.filename)
        module = f"{found.project.partition('/')[2]}-{found.spelled}.module"
        return (sha1, msgspec.structs.replace(resource, filename=module, path=directory + module))

    def vouched(self, resource: Page | File, evidence: Mapping[str, bytes]) -> tuple[Digest, ...]:
        found: list[Digest] = []
        wanted = [file.filename for file in self.evidence(resource)]
        if isinstance(resource, File):
            # Checksums by whatever algorithm count, even those that are not worth asking for.
            wanted += [name for ending in paths.CHECKSUMS if (name := f"{resource.filename}.{ending}") not in wanted]
        for name in wanted:
            if (body := evidence.get(name)) is None:
                continue
            of, algorithm = paths.split_checksum(name)
            if algorithm:
                found.append(documents.read_checksum(algorithm, body, of))
            else:
                assert isinstance(resource, File), "pages have no module metadata"
                found += documents.read_module(body, resource.filename)
        return tuple(found)

    def signature(self, file: File) -> File | None:
        found = paths.read_file(tuple(file.path.split("/"))) if self._keyring is not None else None
        if found is None or found.ending:
            return None
        return msgspec.structs.replace(file, filename=paths.without_content(file.filename) + ".asc", path=file.path + ".asc")

    def check(self, file: File, entry: Entry | None, content: str, signature: bytes | None) -> str:
        """As the protocol has it. A bad signature, or what is none, is never passed; one that proves nothing, only if none is required."""
        if self._keyring is None or not content or self.signature(file) is None:
            return ""
        if signature is None:
            return "it has no signature, and one is required" if self._require_signatures else ""
        finding = self._keyring.check(content, signature)
        match finding.status:
            case "valid":
                return ""
            case "unknown-key" | "weak-algorithm":
                return finding.sentence if self._require_signatures else ""
            case _:
                return finding.sentence

    # -- documents

    def read(self, page: Page, body: bytes, media_type: str, url: str) -> Listing:
        """As the protocol has it. Repositories say anything of the media type, and clients do not look: the content alone tells."""
        return Listing(page, self._entries(page, body), body)

    def reread(self, page: Page, document: bytes) -> Listing:
        return Listing(page, self._entries(page, document, stored=True), document)

    def _entries(self, page: Page, body: bytes, *, stored: bool = False) -> Mapping[str, Entry]:
        """What a document lists. ``stored`` ones may be restricted, and then list less than any that upstream sends."""
        kind, _, rest = page.view.partition("/")
        match kind:
            case "prefixes":
                documents.read_prefixes(body)
            case "repository":
                documents.read_description(body)
            case "catalog":
                documents.read_catalog(body)
            case "file":
                return {} if stored and not body else self._content(page, rest, body)
            case "snapshot":
                metadata = documents.read_metadata(body)
                documents.require_of(metadata, page.project, rest)
                if metadata.has_versioning:
                    return {rest: self._version(page, rest)}
                if not stored:
                    raise ValueError("metadata of a snapshot without versioning")
            case _:
                metadata = documents.read_metadata(body)
                documents.require_of(metadata, page.project, group=rest)
                if not metadata.has_plugins and (rest or not metadata.has_versioning):
                    raise ValueError("metadata with neither versioning nor plugins")
                return {version: self._version(page, version) for version in metadata.named if versions.is_version(version)}
        return {}

    def _version(self, page: Page, version: str) -> Entry:
        return Entry(File(page.registry, page.project, version, "", ""), "")

    def _content(self, page: Page, path: str, body: bytes) -> Mapping[str, Entry]:
        """What the checksum of a file that may change says of it."""
        file = self._file(path)
        if file is None or file.project != page.project:
            raise ValueError(f"{page.key} is no file's")
        digest = documents.read_checksum("sha1", body, file.filename)
        content = msgspec.structs.replace(file, filename=paths.of_content(file.filename, digest.value))
        return {file.filename: Entry(content, self._url(path), (digest,))}

    def restrict(self, listing: Listing, verdicts: Mapping[str, Verdict]) -> Listing:
        """As the protocol has it. Of a page about one version that is refused nothing is left: answer it with ``restrictions``, 403."""
        forbidden = {version: verdict for version, verdict in verdicts.items() if not isinstance(verdict, Allow)}
        entries = {name: entry for name, entry in listing.entries.items() if entry.file.version not in forbidden}
        document = listing.document
        if len(entries) < len(listing.entries):
            match listing.page.view.partition("/")[0]:
                case "file":
                    document = b""
                case "snapshot":
                    document = documents.without_versioning(documents.read_metadata(document))
                case _:
                    document = documents.without_versions(documents.read_metadata(document), forbidden)
        return replace(listing, entries=entries, document=document, restrictions=forbidden)

    def write(self, listing: Listing, media_type: str, base: str | None, view: str | None = None) -> bytes:
        """As the protocol has it. No document leads anywhere, so ``base`` makes no difference."""
        page = listing.page if view is None else msgspec.structs.replace(listing.page, view=view)
        if media_type not in self.variants(page) or self.basis(page) != self.basis(listing.page):
            raise ValueError(f"{page.key} cannot be written as {media_type} of {listing.page.key}")
        document = listing.document
        if listing.page.view == "" and listing.restricted_at:
            document = documents.updated_since(documents.read_metadata(document), listing.restricted_at)
        checksum = paths.split_view(page.view)[1]
        return hashlib.new(checksum, document, usedforsecurity=False).hexdigest().encode() if checksum else document

    def merge(self, listings: Sequence[Listing]) -> Listing:
        """As the protocol has it. Also of one: what it says of the whole repository may not hold where several are offered as one."""
        first = listings[0]
        entries: dict[str, Entry] = {}
        forbidden: dict[str, Verdict] = {}
        for listing in reversed(listings):
            entries |= listing.entries
            forbidden |= listing.restrictions
        match first.page.view.partition("/")[0]:
            case "prefixes":
                document = documents.UNSUPPORTED
            case "catalog":
                document = documents.merge_catalogs([listing.document for listing in listings])
            case "snapshot":
                newest = max(listings, key=lambda listing: documents.read_metadata(listing.document).last_updated)
                document, entries = newest.document, dict(newest.entries)
            case "file" | "repository":
                document, entries = first.document, dict(first.entries)
            case _:
                group = first.page.view.removeprefix("group/")
                read = [documents.read_metadata(listing.document) for listing in listings]
                document = documents.merge_metadata(first.page.project, group, read)
        return Listing(
            first.page,
            entries,
            document,
            None,
            {version: verdict for version, verdict in forbidden.items() if version not in entries},
            restricted_at=max(listing.restricted_at for listing in listings),
        )

    def headers(self, listing: Listing, body: bytes = b"", last_modified: str | None = None, note: str = "") -> Headers:
        """As the protocol has it. Checksums of a document's body spare clients the sidecar; of a sidecar there are none."""
        fields: list[tuple[str, str]] = []
        modified = _later(last_modified, listing.restricted_at)
        if modified is not None:
            fields.append(("last-modified", modified))
        if body and not _BARE_DIGEST.fullmatch(body):
            for algorithm in ("sha1", "md5", "sha256", "sha512"):
                digest = hashlib.new(algorithm, body, usedforsecurity=False)
                fields.append((f"x-checksum-{algorithm}", digest.hexdigest()))
        return tuple(fields)

    def file_headers(self, file: File, digests: Sequence[Digest], last_modified: str | None) -> Headers:
        sha1 = next(digest.value for digest in digests if digest.algorithm == "sha1")
        ending = paths.without_content(file.filename).rpartition(".")[2].lower()
        fields = [
            ("Content-Type", _TYPES.get(ending, "application/octet-stream")),
            ("ETag", f'"sha1-{sha1}"'),
            ("X-Checksum-SHA1", sha1),
        ]
        if last_modified:
            fields.append(("Last-Modified", last_modified))
        if self.listing_page(self.subject(file)) is not None:
            # It may be other bytes tomorrow.
            fields.append(("Cache-Control", "no-cache"))
        return tuple(fields)

    def amend(self, listing: Listing, keep: Mapping[str, Entry]) -> Listing:
        """As the protocol has it. Only a file that may change is listed with digests, and each of its contents has a name of its own."""
        return listing

    # -- versions and files

    def version_of(self, page: Page) -> str | None:
        kind, _, rest = paths.split_view(page.view)[0].partition("/")
        match kind:
            case "snapshot":
                return rest
            case "file":
                file = self._file(rest)
                return file.version if file is not None else None
            case _:
                return None

    def version_key(self, version: str) -> object | None:
        return versions.version_key(version)

    def normalise(self, project: str) -> str:
        return paths.normalise(project)

    def strict(self, file: File) -> bool:
        # What is not known to be harmless by halves is strict: tar archives, executables, scripts, whatever else there is.
        return paths.without_content(file.filename).rpartition(".")[2].lower() not in _USELESS_BY_HALVES


def _later(last_modified: str | None, moment: float) -> str | None:
    """The later of an HTTP date and ``moment`` (UTC seconds, 0 for none) as an HTTP date; what is no date counts for nothing."""
    stated = None
    if last_modified is not None:
        try:
            parsed = parsedate_to_datetime(last_modified)
            stated = parsed.timestamp() if parsed.tzinfo is not None else None
        except (ValueError, TypeError, OverflowError, IndexError):
            stated = None
    if not moment:
        return last_modified if stated is not None else None
    return last_modified if stated is not None and stated >= moment else formatdate(moment, usegmt=True)
