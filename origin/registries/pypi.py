"""PyPI's rules: what a request means, where upstream has it, which representation a client gets.

Beside it: ``pypi_names.py`` (names, versions, file names), ``pypi_documents.py`` (pages read, restricted, written), ``pypi_html.py`` (pages
that come as HTML), ``slices.py`` (large JSON). Essential reading: the simple repository API, which is PEP 503 as amended by 592, 629,
658, 691, 700, 714, 740 and 792.

Addresses below an instance's path:

======================================================  ====================================================
``simple/``                                             Page(view ``index``), the list of projects
``simple/<name>/``                                      Page(view ``""``), what lists the files
``pypi/<name>/json``, ``pypi/<name>/<version>/json``    Page(view ``json`` or ``json/<version>``)
``integrity/<name>/<version>/<filename>/provenance``    Page(view ``provenance/<version>/<filename>``)
``packages/<2>/<2>/<60 hex>/<filename>``                File, at upstream's own path, which is the file's digest
``packages/-/<name>/<filename>``                        File whose upstream URL has any other form
``packages/<source or tag>/<letter>/<name>/<filename>`` File by name, of old guessable links; its ``path`` is empty
``packages/-/-/<filename>``                             File whose name may be read in several ways, likewise
======================================================  ====================================================

Beside each file, its sidecars: ``….metadata`` and ``….asc``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Literal
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import msgspec

from .. import targets
from ..errors import NotFound
from ..model import STRONG, Digest, Entry, File, Headers, Listing, Local, Page, Resource, Verdict
from . import Options, slices
from . import pypi_documents as documents
from . import pypi_html as html
from . import pypi_names as names
from .plain import Plain, quality_of

JSON = "application/vnd.pypi.simple.v1+json"
HTML = "application/vnd.pypi.simple.v1+html"
TEXT = "text/html"
LEGACY = "application/json"
INTEGRITY = "application/vnd.pypi.integrity.v1+json"

_SIMPLE = (JSON, HTML, TEXT)
_VARIANTS: Mapping[str, tuple[str, ...]] = {
    "": _SIMPLE,
    "index": _SIMPLE,
    "json": (LEGACY,),
    "provenance": (INTEGRITY, LEGACY),
}
_DEFAULTS: Mapping[str, str] = {"": TEXT, "index": TEXT, "json": LEGACY, "provenance": INTEGRITY}
_LATEST = {
    "application/vnd.pypi.simple.latest+json": JSON,
    "application/vnd.pypi.simple.latest+html": HTML,
}
_ASK: Mapping[str, Headers] = {
    "": (("accept", f"{JSON}, {HTML};q=0.2, {TEXT};q=0.01"),),
    "index": (("accept", f"{JSON}, {HTML};q=0.2, {TEXT};q=0.01"),),
    "json": (("accept", LEGACY),),
    "provenance": (("accept", INTEGRITY),),
}

_HEX = {2: re.compile(r"[0-9a-f]{2}"), 60: re.compile(r"[0-9a-f]{60}")}
_VERSION = re.compile(r"[A-Za-z0-9._+!-]+")
_EMPTY_PROVENANCE = b'{"version":1,"attestation_bundles":[]}'

READ_ONLY = Local(403, "read-only mirror: upload to the registry itself")
METHOD = Local(405, "only GET and HEAD here")


class PyPI(Plain):
    """The rules of one PyPI instance. ``upstream`` is the root of its simple API."""

    kind: Literal["pypi"] = "pypi"
    # pip gives up after 15 s without a byte.
    hold_s = 8.0
    identity = "sha256"
    proofs = STRONG
    groups: tuple[str, ...] = ()

    def __init__(self, name: str, upstream: str, options: Options | None = None) -> None:
        self.name = name
        self.upstream = upstream if upstream.endswith("/") else upstream + "/"
        self.aliases = options.aliases if options else ()
        # What index servers are installed with.
        self.sample = Page(name, "pip", "")
        # JSON and integrity APIs are siblings of simple/, where upstream is named so; else they are looked for beneath the root.
        self._root = self.upstream.removesuffix("simple/") if self.upstream.endswith("/simple/") else self.upstream

    def __repr__(self) -> str:
        return f"<PyPI {self.name} at {self.upstream}>"

    # -- requests

    def resource(self, method: str, target: str) -> Resource | None:
        if target.startswith("/"):
            raise ValueError("empty segment in the request target")
        asked = targets.parse(target)
        segments = asked.segments
        if segments[:1] == ("legacy",) or method == "POST":
            return READ_ONLY
        if method not in ("GET", "HEAD"):
            return METHOD
        match segments:
            case ("simple",):
                return Page(self.name, "", "index") if asked.slash else _moved("simple/", asked.query)
            case ("simple", raw):
                project = _project(raw)
                if project is None:
                    return None
                if raw != project or not asked.slash:
                    return _moved(f"simple/{project}/", asked.query)
                return Page(self.name, project, "")
            case ("pypi", raw, "json"):
                return self._legacy(raw, "json", asked.query)
            case ("pypi", raw, version, "json"):
                return self._legacy(raw, f"json/{version}", asked.query) if _VERSION.fullmatch(version) else None
            case ("integrity", raw, version, filename, "provenance"):
                project = _project(raw)
                if project is None or not _VERSION.fullmatch(version):
                    return None
                return Page(self.name, project, f"provenance/{version}/{filename}")
            case ("packages", *_) if not asked.slash:
                return self._file(segments)
            case _:
                return None

    def _legacy(self, raw: str, view: str, query: str) -> Resource | None:
        project = _project(raw)
        if project is None:
            return None
        if raw != project:
            tail = view.removeprefix("json").removeprefix("/")
            return _moved(f"pypi/{project}/{quote(tail) + '/' if tail else ''}json", query)
        return Page(self.name, project, view)

    def _file(self, segments: tuple[str, ...]) -> File | None:
        match segments:
            case (_, first, second, rest, filename) if (
                _HEX[2].fullmatch(first) and _HEX[2].fullmatch(second) and _HEX[60].fullmatch(rest)
            ):
                plain, _ending = names.without_sidecar(filename)
                # No reading: the caller may know the owner of the path from a listing.
                project, version = next(iter(names.readings(plain)), ("", ""))
                return File(self.name, project, version, filename, "/".join(segments))
            case (_, "-", "-", filename):
                plain, _ending = names.without_sidecar(filename)
                reading = next(iter(names.readings(plain)), None)
                return File(self.name, *reading, filename, "") if reading is not None else None
            case (_, "-", raw, filename):
                return self._named(raw, filename, "/".join(segments)) if _project(raw) == raw else None
            case (_, tag, letter, raw, filename) if tag != "-" and len(letter) == 1:
                return self._named(raw, filename, "")
            case _:
                return None

    def _named(self, raw: str, filename: str, path: str) -> File | None:
        project = _project(raw)
        if project is None:
            return None
        plain, _ = names.without_sidecar(filename)
        return File(self.name, project, names.version_in(project, plain), filename, path)

    def insists(self, cache_control: str, target: str) -> bool:
        # What ``--refresh`` sends. ``max-age=0`` is what old pips always send: no.
        return "no-cache" in cache_control

    def guesses(self, file: File) -> Iterable[File]:
        plain, _ = names.without_sidecar(file.filename)
        for project, version in names.readings(plain):
            if (project, version) != (file.project, file.version):
                yield msgspec.structs.replace(file, project=project, version=version)

    def variants(self, page: Page) -> tuple[str, ...]:
        return _VARIANTS[_view(page)]

    def negotiate(self, page: Page, accept: str | None, target: str) -> str:
        return _negotiate(_view(page), accept or "", target.partition("?")[2])

    def subject(self, file: File) -> File:
        plain, ending = names.without_sidecar(file.filename)
        return msgspec.structs.replace(file, filename=plain, path=file.path.removesuffix(ending)) if ending else file

    def listing_page(self, file: File) -> Page:
        return Page(self.name, file.project, "")

    # -- the registry's own addresses

    def meaning(self, target: str, *, files: bool) -> str | None:
        """As the protocol has it. An index keeps its files wherever it likes: they go by their names, or by the digest in the path."""
        beneath = targets.beneath(target, "/")
        assert beneath is not None, "everything is beneath the root"
        asked = targets.parse(beneath, encoded_slash=True)
        listed = None if files else targets.beneath(target, self.upstream)
        project = ""
        if listed is not None:
            segments = targets.parse(listed, encoded_slash=True)
            if len(segments.segments) < 2 or segments.slash:
                return f"simple/{listed}"
            project = _project(segments.segments[0]) or "" if len(segments.segments) == 2 else ""
        sibling = None if files else targets.beneath(target, self._root)
        if sibling is not None:
            match targets.parse(sibling, encoded_slash=True).segments:
                case ("legacy", *_) | ("pypi", _, "json") | ("pypi", _, _, "json") | ("integrity", _, _, _, "provenance"):
                    return sibling
        return None if asked.slash else self._file_at(asked.segments, project)

    def _file_at(self, segments: tuple[str, ...], project: str) -> str | None:
        """What decoded ``segments`` mean as a file's path. ``project`` is the one beneath whose page it is, if it is there."""
        filename = segments[-1]
        if "/" in filename:
            return None
        plain = filename.removesuffix(".provenance")
        if plain != filename:
            readings = [(name, version) for name, version in names.readings(plain) if project in ("", name) and version]
            return documents.in_url("integrity/{}/{}/{}/provenance".format(*readings[0], plain)) if readings else None
        hashed = ("packages", *segments[-4:])
        if segments[-5:-4] == ("packages",) and self._file(hashed) is not None and _HEX[60].fullmatch(hashed[3]):
            return documents.in_url("/".join(hashed))
        plain, _ = names.without_sidecar(filename)
        projects = {name for name, _ in names.readings(plain)}
        if project and (project in projects or not projects):
            return documents.in_url(f"packages/-/{project}/{filename}")
        if not projects:
            return None
        return documents.in_url(f"packages/-/{projects.pop() if len(projects) == 1 else '-'}/{filename}")

    def address(self, target: str) -> str:
        if target.startswith("simple/"):
            return self.upstream + target.removeprefix("simple/")
        return self._root + target

    # -- upstream

    def locate(self, resource: Page | File, listing: Listing | None) -> str:
        """As the protocol has it. For a provenance page ``listing`` may be the project's: upstream's own link to it is taken from there."""
        if isinstance(resource, File):
            entry = self.expected(resource, listing)
            if entry is None:
                raise NotFound(f"{resource.project or 'the index'} lists no {resource.filename}")
            return entry.url
        view, _, rest = resource.view.partition("/")
        match view:
            case "":
                return f"{self.upstream}{resource.project}/"
            case "index":
                return self.upstream
            case "json":
                return f"{self._root}pypi/{resource.project}/{documents.in_url(rest) + '/' if rest else ''}json"
            case _:
                version, _, filename = rest.partition("/")
                entry = listing.entries.get(filename) if listing else None
                if entry is not None and entry.provenance is not None:
                    return entry.provenance
                return f"{self._root}integrity/{resource.project}/{documents.in_url(version)}/{documents.in_url(filename)}/provenance"

    def probe_location(self, file: File, listing: Listing) -> str | None:
        plain, ending = names.without_sidecar(file.filename)
        owner = listing.entries.get(plain) if ending else None
        if owner is not None and file.path in ("", owner.file.path + ending):
            return _beside(owner.url, ending)
        if not file.path or file.path.startswith("packages/-/"):
            return None
        # All of a project's files stand beneath one root upstream.
        for entry in listing.entries.values():
            path = documents.in_url(entry.file.path)
            parts = urlsplit(entry.url)
            if parts.path.endswith("/" + path):
                root = parts.path.removesuffix(path)
                return urlunsplit((parts.scheme, parts.netloc, root + documents.in_url(file.path), "", ""))
        return None

    def ask(self, page: Page) -> Headers:
        return _ASK[_view(page)]

    def expected(self, file: File, listing: Listing | None) -> Entry | None:
        if listing is None:
            return None
        entry = listing.entries.get(file.filename)
        if entry is not None:
            return entry if file.path in ("", entry.file.path) else None
        plain, ending = names.without_sidecar(file.filename)
        owner = listing.entries.get(plain) if ending else None
        if owner is None or file.path not in ("", owner.file.path + ending):
            return None
        published = owner.sidecar if ending == ".metadata" else () if _is_signed(owner) else None
        if published is None:
            return None
        beside = msgspec.structs.replace(owner.file, filename=file.filename, path=owner.file.path + ending)
        return Entry(beside, _beside(owner.url, ending), published, published=owner.published)

    # -- documents

    def read(self, page: Page, body: bytes, media_type: str, url: str) -> Listing:
        kind = media_type.partition(";")[0].strip().lower()
        is_json = kind == LEGACY or kind.endswith("+json")
        is_html = kind == TEXT or kind.endswith("+html")
        view = _view(page)
        if view in ("", "index") and is_html:
            body = html.project_to_json(body, url, page.project) if view == "" else html.index_to_json(body)
        elif not is_json:
            raise ValueError(f"unexpected media type {kind[:64]!r}")
        return self._read(page, body, url)

    def reread(self, page: Page, document: bytes) -> Listing:
        return self._read(page, document, self.locate(page, None))

    def _read(self, page: Page, body: bytes, url: str) -> Listing:
        match _view(page):
            case "":
                return documents.read_project(page, body, url)
            case "index":
                return documents.read_index(page, body)
            case "json":
                return documents.read_legacy(page, body, url)
            case _:
                return self._read_provenance(page, body)

    def _read_provenance(self, page: Page, body: bytes) -> Listing:
        """A provenance's listing has one entry, the file that it speaks of, so that verdicts can be found for it."""
        frame, split = slices.take_apart(body, {"attestation_bundles"})
        if "attestation_bundles" not in split:
            raise ValueError("a provenance without attestation bundles")
        msgspec.json.decode(slices.put_together(frame, split))
        file = self._spoken_of(page)
        return Listing(page, {file.filename: Entry(file, "")}, body)

    def _spoken_of(self, page: Page) -> File:
        _, version, filename = page.view.split("/", 2)
        read = names.version_in(page.project, filename) or names.canonical(version)
        return File(self.name, page.project, read, filename, "")

    def restrict(self, listing: Listing, verdicts: Mapping[str, Verdict]) -> Listing:
        """As the protocol has it. Of a refused version's provenance nothing is left: answer it with ``restrictions``, 403."""
        if isinstance(listing, documents.ProjectListing):
            return documents.restrict_project(listing, verdicts)
        match _view(listing.page):
            case "json":
                return documents.restrict_legacy(listing, verdicts)
            case "provenance":
                forbidden = documents.forbidding(verdicts)
                gone = self._spoken_of(listing.page).version in forbidden
                return Listing(listing.page, listing.entries, _EMPTY_PROVENANCE if gone else listing.document, None, forbidden)
            case "index":
                return listing
            case _:
                return documents.restrict_project(self._project_listing(listing), verdicts)

    def _project_listing(self, listing: Listing) -> documents.ProjectListing:
        """``listing`` with what only this module's own listings carry."""
        if isinstance(listing, documents.ProjectListing):
            return listing
        read = self.reread(listing.page, listing.document)
        assert isinstance(read, documents.ProjectListing)
        return read

    def enrich(self, listing: Listing, sidecars: Mapping[str, Digest]) -> Listing:
        return documents.enrich_project(self._project_listing(listing), sidecars) if listing.page.view == "" else listing

    def write(self, listing: Listing, media_type: str, base: str | None, view: str | None = None) -> bytes:
        view = _view(listing.page)
        if media_type not in _VARIANTS[view]:
            raise ValueError(f"{listing.page.key} cannot be written as {media_type}")
        match view:
            case "":
                project = self._project_listing(listing)
                if media_type == JSON:
                    return documents.write_project_json(project, base)
                return documents.write_project_html(project, base)
            case "index" if media_type != JSON:
                root = self.upstream if base is None else base + "simple/"
                return documents.write_index_html(listing, urlsplit(root).path)
            case "json":
                return documents.write_legacy(listing, base)
            case _:
                return listing.document

    def headers(self, listing: Listing, body: bytes = b"", last_modified: str | None = None, note: str = "") -> Headers:
        return () if listing.serial is None else (("x-pypi-last-serial", str(listing.serial)),)

    def file_headers(self, file: File, digests: Sequence[Digest], last_modified: str | None) -> Headers:
        sha256 = next(digest.value for digest in digests if digest.algorithm == "sha256")
        return (("Content-Type", "application/octet-stream"), ("ETag", f'"sha256-{sha256}"'))

    def amend(self, listing: Listing, keep: Mapping[str, Entry]) -> Listing:
        match _view(listing.page):
            case "":
                return documents.amend_project(self._project_listing(listing), keep)
            case "json":
                return documents.amend_legacy(listing, keep)
            case _:
                return listing

    def owners(self, listing: Listing) -> Mapping[str, tuple[str, str]]:
        found: dict[str, tuple[str, str]] = {}
        for entry in listing.entries.values():
            file = entry.file
            if file.path and self._file(tuple(file.path.split("/"))) != file:
                for ending in ("", *names.SIDECARS):
                    found[file.path + ending] = (file.project, file.version)
        return found

    # -- versions and files

    def version_of(self, page: Page) -> str | None:
        return self._spoken_of(page).version if _view(page) == "provenance" else None

    def version_key(self, version: str) -> object | None:
        return names.parse_version(version)

    def same_but_local(self, version: str) -> str:
        parsed = names.parse_version(version)
        return version if parsed is None or parsed.local is None else parsed.public

    def normalise(self, project: str) -> str:
        return names.normalise(project)

    def strict(self, file: File) -> bool:
        plain, ending = names.without_sidecar(file.filename)
        # What is not known to be harmless by halves is strict.
        return not ending and not plain.lower().endswith(names.USELESS_WITHOUT_TAIL)


def _project(raw: str) -> str | None:
    try:
        return names.normalise(raw)
    except ValueError:
        return None


def _moved(location: str, query: str) -> Local:
    return Local(301, "moved", f"{location}?{query}" if query else location)


def _view(page: Page) -> str:
    return page.view.partition("/")[0]


def _beside(url: str, ending: str) -> str:
    """The sidecar's URL: the file's "with .metadata appended to it" (PEP 658), before any query."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path + ending))


class _Signed(msgspec.Struct, gc=False):
    gpg_sig: bool | None = msgspec.field(default=None, name="gpg-sig")


def _is_signed(entry: Entry) -> bool:
    try:
        return bool(entry.extra) and msgspec.json.decode(entry.extra, type=_Signed).gpg_sig is True
    except msgspec.ValidationError:
        return False


@lru_cache(4096)
def _negotiate(view: str, accept: str, query: str) -> str:
    """Choose among the view's variants: the highest quality wins, then their order; nothing acceptable means the default, never 406."""
    variants = _VARIANTS[view]
    for part in query.split("&"):
        key, _, value = part.partition("=")
        if key == "format":
            wanted = _LATEST.get(unquote(value), unquote(value))
            if wanted in variants:
                return wanted
    qualities: dict[str, tuple[int, float]] = {}
    for member in accept.split(","):
        media_range, *parameters = [piece.strip().lower() for piece in member.split(";")]
        quality = quality_of(parameters)
        # "The most specific reference has precedence" (RFC 9110 §12.5.1)
        for variant, precedence in _meant(media_range, variants, _DEFAULTS[view]):
            if precedence > qualities.get(variant, (0, 0.0))[0]:
                qualities[variant] = (precedence, quality)
    acceptable = [variant for variant in variants if qualities.get(variant, (0, 0.0))[1] > 0]
    return max(acceptable, key=lambda variant: qualities[variant][1], default=_DEFAULTS[view])


def _meant(media_range: str, variants: Sequence[str], default: str) -> list[tuple[str, int]]:
    """Which variants a media range means, and how specifically. ``*/*`` means the default alone, as with the public index."""
    media_range = _LATEST.get(media_range, media_range)
    if media_range in variants:
        return [(media_range, 3)]
    if media_range == "*/*":
        return [(default, 1)]
    if media_range.endswith("/*"):
        return [(variant, 2) for variant in variants if variant.startswith(media_range[:-1])]
    return []
