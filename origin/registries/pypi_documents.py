"""PyPI's documents: parsed into listings, restricted, and written for clients. ``pypi.py`` says which is which.

The stored form of a project page is JSON. Each entry keeps the raw JSON of its file (``Entry.extra``), and the listing keeps the rest of
the document (``frame``), so that what policy does not touch goes out byte for byte as it came in, unknown keys included, and
everything can be done a piece at a time. Essential reading: PEP 691, 700, 714, 592, 740, 792, and the protocol's section 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from html import escape
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

import msgspec

from ..model import ALGORITHMS, Allow, Digest, Entry, File, Hold, Listing, Page, Refuse, Verdict
from . import pypi_names as names
from . import slices

LIMIT_FILE_BYTES = 1 << 40
"""A file said to be larger is not believed."""

LIMIT_SERIAL = 1 << 63
"""A serial that no catalogue could keep is not believed."""

METADATA_KEYS = ("core-metadata", "dist-info-metadata", "data-dist-info-metadata")
"""The names under which a sidecar is advertised, in the order clients look. The last is what the public index writes beside the first."""

_HASHED = re.compile(r"/packages/([0-9a-f]{2})/([0-9a-f]{2})/([0-9a-f]{60})/[^/]+$")
_URL = re.compile(r"(https?://[A-Za-z0-9._:\[\]-]+(/[^?#\s\\]*)(?:\?[^#\s\\]*)?)(?:#\S*)?", re.IGNORECASE)
_ABSOLUTE = ("https://", "http://")
_PLAIN_PATH = re.compile(r"[A-Za-z0-9._+!/-]*")
_PROVENANCE = re.compile(r"/integrity/[^/]+/([^/?#]+)/[^/]+/provenance$")


_HEAD = '<!DOCTYPE html>\n<html>\n  <head>\n    <meta name="pypi:repository-version" content="{}">\n'


class _Published(msgspec.Struct, gc=False):
    """A file of a project page. Loosely typed: what is wrong in one file must not cost the page."""

    filename: str
    url: str
    hashes: dict[str, Any] | None = None
    size: Any = None
    upload_time: Any = msgspec.field(default=None, name="upload-time")
    yanked: Any = None
    core_metadata: Any = msgspec.field(default=None, name="core-metadata")
    dist_info_metadata: Any = msgspec.field(default=None, name="dist-info-metadata")
    data_dist_info_metadata: Any = msgspec.field(default=None, name="data-dist-info-metadata")
    provenance: Any = None


class _PublishedLegacy(msgspec.Struct, gc=False):
    """A file of the legacy JSON API."""

    filename: str
    url: str
    digests: dict[str, Any] | None = None
    size: Any = None
    upload_time: Any = msgspec.field(default=None, name="upload_time_iso_8601")
    yanked: Any = None
    yanked_reason: Any = None


class _Shown(msgspec.Struct, gc=False):
    """What the HTML of a file says beside what its Entry does."""

    requires_python: Any = msgspec.field(default=None, name="requires-python")
    gpg_sig: Any = msgspec.field(default=None, name="gpg-sig")


class _Meta(msgspec.Struct, gc=False):
    api_version: str = msgspec.field(name="api-version")
    serial: Any = msgspec.field(default=None, name="_last-serial")


class _Status(msgspec.Struct, gc=False):
    status: str = "active"
    reason: Any = None


class _Project(msgspec.Struct, gc=False):
    name: str


class _Info(msgspec.Struct, gc=False):
    name: str
    version: Any = None


_PUBLISHED = msgspec.json.Decoder(list[_Published])
_PUBLISHED_ONE = msgspec.json.Decoder(_Published)
_LEGACY_ONE = msgspec.json.Decoder(_PublishedLegacy)
_SHOWN = msgspec.json.Decoder(_Shown)
_RAW = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANY = msgspec.json.Decoder()
_ENCODE = msgspec.json.Encoder().encode
_PROJECTS = msgspec.json.Decoder(list[_Project])


@dataclass(frozen=True, slots=True)
class ProjectListing(Listing):
    """A project page's listing. ``frame`` is its document without the files; ``dropped`` counts files not fit to be listed."""

    frame: Mapping[str, bytes] = field(default_factory=dict)
    dropped: int = 0


# ---- project pages: reading -----------------------------------------------------------------------------------------


def read_project(page: Page, body: bytes, url: str) -> ProjectListing:
    """Parse a project page in JSON. Raises ``ValueError`` for anything but that page of that very project."""
    frame, split = slices.take_apart(body, {"files"})
    if "files" not in split:
        raise ValueError("a project page without a list of files")
    _ANY.decode(slices.put_together(frame, {}))
    meta = _meta(frame)
    _same_project(page, _required(frame, "name", str))
    reader = _Reader(page, url)
    pieces = split["files"]
    for run, array in slices.batches(pieces):
        array.decode()
        try:
            published = _PUBLISHED.decode(array)
        except msgspec.ValidationError:
            for raw in run:
                reader.add_doubtful(raw)
        else:
            for file, raw in zip(published, run, strict=True):
                reader.add(file, raw)
    document = body
    # Stored documents are read again without knowing where they came from.
    if reader.absolute:
        document = slices.put_together(frame, {"files": [entry.extra for entry in reader.entries.values()]})
    quarantined = _status(frame).status == "quarantined"
    # "quarantined: The project is considered generally unsafe for use [...] The index MUST NOT offer any downloads" (PEP 792)
    entries = {} if quarantined else reader.entries
    return ProjectListing(page, entries, document, _serial(meta.serial), {}, frame, reader.dropped)


class _Reader:
    """Turns published files into entries, and counts those that it would not list."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.entries: dict[str, Entry] = {}
        self.dropped = 0
        self.absolute = False
        """Whether links had to be made absolute, so that the document can be read again without knowing where it came from."""

    def add_doubtful(self, raw: bytes) -> None:
        try:
            file = _PUBLISHED_ONE.decode(raw)
        except msgspec.ValidationError:
            self.dropped += 1
        else:
            self.add(file, raw)

    def add(self, published: _Published, raw: bytes) -> None:
        # Also where the file is not listed: read from elsewhere, the same link could lead somewhere.
        self.absolute = self.absolute or not published.url.startswith(_ABSOLUTE)
        located = locate_file(self.page, published.filename, published.url, self.url)
        if located is None or published.filename in self.entries or not plausible_size(published.size):
            self.dropped += 1
            return
        file, url, anchor = located
        provenance = published.provenance
        if isinstance(provenance, str):
            found = _URL.fullmatch(_resolved(provenance, self.url))
            provenance = found[1] if found else None
        else:
            provenance = None
        if not published.url.startswith(_ABSOLUTE) or (provenance and not published.provenance.startswith(_ABSOLUTE)):
            self.absolute = True
            raw = edited(raw, {"url": url, "provenance": provenance} if published.provenance else {"url": url})
        self.entries[published.filename] = Entry(
            file,
            url,
            digests(published.hashes, anchor),
            published.size,
            _time(published.upload_time),
            _yanked(published.yanked),
            _sidecar(published),
            provenance,
            raw,
        )


def locate_file(page: Page, filename: str, link: str, base: str) -> tuple[File, str, Digest | None] | None:
    """The File that ``link`` on a page of ``page.project`` means, its absolute URL, and the digest that the URL carries.

    None for a file not to be listed: no http(s) URL with a host, a name that is not the URL's last component or not fit for a path.
    """
    if (
        not filename.isprintable()
        or "/" in filename
        or "\\" in filename
        or filename in ("", ".", "..")
        or len(filename.encode()) > 255
    ):
        return None
    found = _URL.fullmatch(_resolved(link, base))
    if found is None:
        return None
    url, path = found[1], found[2]
    last = path.rpartition("/")[2]
    if last != filename and unquote(last) != filename:
        return None
    hashed = _HASHED.search(path)
    anchor = None
    if hashed is not None:
        # The directories are the BLAKE2b-256 of the file, in the public index's own layout and nowhere else.
        anchor = Digest("blake2b-256", "".join(hashed.groups()))
        place = f"packages/{hashed[1]}/{hashed[2]}/{hashed[3]}/{filename}"
    else:
        place = f"packages/-/{page.project}/{filename}"
    return File(page.registry, page.project, names.version_in(page.project, filename), filename, place), url, anchor


def digests(published: Mapping[str, Any] | None, anchor: Digest | None = None) -> tuple[Digest, ...]:
    """The usable ones of published hashes, strongest first; malformed ones and unknown algorithms are left out."""
    found: set[Digest] = {anchor} if anchor else set()
    for algorithm, value in (published or {}).items():
        if isinstance(value, str):
            try:
                found.add(Digest.parse(algorithm.replace("blake2b_256", "blake2b-256"), value))
            except ValueError:
                continue
    return tuple(sorted(found, key=lambda digest: (_STRENGTH[digest.algorithm], digest.value)))


_STRENGTH = {algorithm: rank for rank, algorithm in enumerate(ALGORITHMS)}


def plausible_size(size: object) -> bool:
    return size is None or (type(size) is int and 0 <= size <= LIMIT_FILE_BYTES)


def _resolved(link: str, base: str) -> str:
    if link.startswith(_ABSOLUTE):
        return link
    try:
        return urljoin(base, link)
    except ValueError:
        return ""


def _time(text: object) -> float | None:
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _yanked(value: object) -> str | None:
    return "" if value is True else value if isinstance(value, str) and value else None


def _sidecar(published: _Published) -> tuple[Digest, ...] | None:
    for value in (published.core_metadata, published.dist_info_metadata, published.data_dist_info_metadata):
        if isinstance(value, dict):
            return digests(value)
        if value is not None:
            return () if value is True else None
    return None


def _required[T](frame: Mapping[str, bytes], key: str, kind: type[T]) -> T:
    if key not in frame:
        raise ValueError(f"no {key!r} in the document")
    return msgspec.json.decode(frame[key], type=kind)


def _meta(frame: Mapping[str, bytes]) -> _Meta:
    meta = _required(frame, "meta", _Meta)
    # "a client MUST fail if the major version is greater than what it knows" (PEP 629, 691)
    if meta.api_version.partition(".")[0] != "1":
        raise ValueError(f"simple API version {meta.api_version[:16]!r} is not 1.x")
    return meta


def _status(frame: Mapping[str, bytes]) -> _Status:
    raw = frame.get("project-status")
    if raw is None:
        return _Status()
    try:
        return msgspec.json.decode(raw, type=_Status)
    except msgspec.ValidationError:
        return _Status()


def _same_project(page: Page, name: str) -> None:
    if names.normalise(name) != page.project:
        raise ValueError(f"a document of {name[:64]!r}, not of {page.project!r}")


def _serial(value: object) -> int | None:
    """A serial as a number: caches in between have been seen to make it a string. What no counter reaches is no serial."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        value = int(value)
    return value if type(value) is int and 0 <= value < LIMIT_SERIAL else None


# ---- project pages: policy ------------------------------------------------------------------------------------------


def restrict_project(listing: ProjectListing, verdicts: Mapping[str, Verdict]) -> ProjectListing:
    """List refused versions as yanked for the verdict's reason, their sidecars and provenance as absent; leave all else alone.

    "Yanked" is what resolvers pass over and what shows its reason to whoever pinned the version exactly.
    """
    restrictions = forbidding(verdicts)
    entries = dict(listing.entries)
    for filename, entry in listing.entries.items():
        verdict = restrictions.get(entry.file.version)
        if verdict is not None:
            entries[filename] = _restricted(entry, reason_of(verdict))
    if not restrictions:
        return replace(listing, restrictions={})
    document = slices.put_together(listing.frame, {"files": [entry.extra for entry in entries.values()]})
    return replace(listing, entries=entries, document=document, restrictions=restrictions)


def forbidding(verdicts: Mapping[str, Verdict]) -> dict[str, Verdict]:
    return {version: verdict for version, verdict in verdicts.items() if not isinstance(verdict, Allow)}


def reason_of(verdict: Verdict) -> str:
    """What a page says of a refused version: never empty, which would mean "not yanked"."""
    reason = verdict.reason if isinstance(verdict, Hold | Refuse) else ""
    return " ".join(reason.split()) or "refused by policy"


def _restricted(entry: Entry, reason: str) -> Entry:
    changes: dict[str, Any] = {"yanked": reason}
    present = _RAW.decode(entry.extra)
    changes.update({key: False for key in METADATA_KEYS if key in present})
    if "provenance" in present:
        changes["provenance"] = None
    return msgspec.structs.replace(entry, yanked=reason, sidecar=None, provenance=None, extra=edited(entry.extra, changes))


def enrich_project(listing: ProjectListing, sidecars: Mapping[str, Digest]) -> ProjectListing:
    """Advertise the sidecars for files that advertise none and that no verdict forbids."""
    changed: dict[str, Entry] = {}
    for filename, digest in sidecars.items():
        entry = listing.entries.get(filename)
        if entry is not None and entry.sidecar is None and entry.file.version not in listing.restrictions:
            published = {digest.algorithm: digest.value}
            extra = edited(entry.extra, {"core-metadata": published, "data-dist-info-metadata": published})
            changed[filename] = msgspec.structs.replace(entry, sidecar=(digest,), extra=extra)
    if not changed:
        return listing
    entries = {**listing.entries, **changed}
    document = slices.put_together(listing.frame, {"files": [entry.extra for entry in entries.values()]})
    return replace(listing, entries=entries, document=document)


def amend_project(listing: ProjectListing, keep: Mapping[str, Entry]) -> ProjectListing:
    """Put held entries in place of those listed now, or beside them where they are no longer."""
    if not keep:
        return listing
    entries = dict(listing.entries)
    for name, entry in keep.items():
        entries[name] = entry if entry.extra else _described(entry, entries.get(name))
    document = slices.put_together(listing.frame, {"files": [entry.extra for entry in entries.values()]})
    return replace(listing, entries=entries, document=document)


def _described(entry: Entry, listed: Entry | None) -> Entry:
    """``entry``, made elsewhere, with the JSON that says of its file what it does: the listed one's, but for what goes with the bytes."""
    members = _RAW.decode(listed.extra) if listed is not None else {}
    changes: dict[str, Any] = {
        "filename": entry.file.filename,
        "url": entry.url,
        "hashes": {digest.algorithm: digest.value for digest in entry.digests if digest.algorithm != "blake2b-256"},
        "size": entry.size,
        "yanked": False if entry.yanked is None else entry.yanked or True,
        **{key: False for key in METADATA_KEYS if key in members and not entry.sidecar},
    }
    if "provenance" in members:
        changes["provenance"] = entry.provenance
    return msgspec.structs.replace(entry, extra=edited(_ENCODE(members), changes))


def edited(raw: bytes, changes: Mapping[str, Any]) -> bytes:
    """The JSON object ``raw`` with some members set; the others keep their bytes."""
    members = _RAW.decode(raw)
    for key, value in changes.items():
        members[key] = msgspec.Raw(_ENCODE(value))
    return _ENCODE(members)


# ---- project pages: writing -----------------------------------------------------------------------------------------


def write_project_json(listing: ProjectListing, base: str | None) -> bytes:
    files = [entry.extra if base is None else _rewritten(entry, base) for entry in listing.entries.values()]
    return slices.put_together(listing.frame, {"files": files})


def _rewritten(entry: Entry, base: str) -> bytes:
    changes: dict[str, Any] = {"url": link(entry.file, base)}
    if entry.provenance is not None:
        changes["provenance"] = provenance_link(entry, base)
    return edited(entry.extra, changes)


def write_project_html(listing: ProjectListing, base: str | None) -> bytes:
    """The page in HTML. Everything is escaped: names, reasons and versions are whatever someone uploaded.

    Source: PEP 503, 592, 714, 740, 792.
    """
    meta = _meta(listing.frame)
    status = _status(listing.frame)
    name = escape(_required(listing.frame, "name", str))
    parts = [_HEAD.format(escape(meta.api_version))]
    if "project-status" in listing.frame:
        parts.append(f'    <meta name="pypi:project-status" content="{escape(status.status)}">\n')
        if isinstance(status.reason, str):
            parts.append(f'    <meta name="pypi:project-status-reason" content="{escape(status.reason)}">\n')
    parts.append(f"    <title>Links for {name}</title>\n  </head>\n  <body>\n    <h1>Links for {name}</h1>\n")
    parts += [_anchor(entry, base) for entry in listing.entries.values()]
    parts.append("  </body>\n</html>\n")
    if listing.serial is not None:
        parts.append(f"<!--SERIAL {listing.serial}-->")
    return "".join(parts).encode()


def _anchor(entry: Entry, base: str | None) -> str:
    href = entry.url if base is None else link(entry.file, base)
    fragment = next((f"#{d.algorithm}={d.value}" for d in entry.digests if d.algorithm != "blake2b-256"), "")
    shown = _SHOWN.decode(entry.extra)
    attributes = ""
    if isinstance(shown.requires_python, str) and shown.requires_python:
        attributes += f' data-requires-python="{escape(shown.requires_python)}"'
    if entry.yanked is not None:
        attributes += f' data-yanked="{escape(entry.yanked)}"'
    if entry.sidecar is not None:
        value = f"{entry.sidecar[0].algorithm}={entry.sidecar[0].value}" if entry.sidecar else "true"
        attributes += f' data-core-metadata="{value}" data-dist-info-metadata="{value}"'
    if isinstance(shown.gpg_sig, bool):
        attributes += f' data-gpg-sig="{"true" if shown.gpg_sig else "false"}"'
    if entry.provenance is not None:
        provenance = entry.provenance if base is None else provenance_link(entry, base)
        attributes += f' data-provenance="{escape(provenance)}"'
    return f'    <a href="{escape(href + fragment)}"{attributes}>{escape(entry.file.filename)}</a><br />\n'


def link(file: File, base: str) -> str:
    """Where the mirror face offers ``file``, as a root-relative URL below ``base``'s path.

    Relative, so that it holds for whatever scheme, host and port the client used.
    """
    return f"{urlsplit(base).path}{in_url(file.path)}"


def provenance_link(entry: Entry, base: str) -> str:
    """Fully qualified: "the value MUST be a fully qualified URL" (PEP 740)."""
    file = entry.file
    found = _PROVENANCE.search(entry.provenance or "")
    # Upstream's own spelling of the version, where it shows: it may know the release by that alone.
    version = found[1] if found else in_url(file.version or "0")
    return f"{base}integrity/{file.project}/{version}/{in_url(file.filename)}/provenance"


def in_url(path: str) -> str:
    return path if _PLAIN_PATH.fullmatch(path) else quote(path, safe="/+!~()',;=@$&*")


# ---- the list of projects -------------------------------------------------------------------------------------------


def read_index(page: Page, body: bytes) -> Listing:
    """Check the list of all projects. Tens of megabytes: it is checked in slices and kept as it came."""
    frame, split = slices.take_apart(body, {"projects"})
    if "projects" not in split:
        raise ValueError("an index without a list of projects")
    _ANY.decode(slices.put_together(frame, {}))
    meta = _meta(frame)
    for _, array in slices.batches(split["projects"]):
        _PROJECTS.decode(array)
    return Listing(page, {}, body, _serial(meta.serial))


def write_index_html(listing: Listing, root: str) -> bytes:
    """The list of projects in HTML, its links below ``root``."""
    frame, split = slices.take_apart(listing.document, {"projects"})
    meta = _meta(frame)
    parts = [_HEAD.format(escape(meta.api_version)), "    <title>Simple index</title>\n  </head>\n  <body>\n"]
    for _, array in slices.batches(split["projects"]):
        for project in _PROJECTS.decode(array):
            try:
                name = names.normalise(project.name)
            except ValueError:
                continue
            parts.append(f'    <a href="{escape(root)}{name}/">{escape(project.name)}</a><br />\n')
    parts.append("  </body>\n</html>\n")
    if listing.serial is not None:
        parts.append(f"<!--SERIAL {listing.serial}-->")
    return "".join(parts).encode()


# ---- legacy JSON ----------------------------------------------------------------------------------------------------


def read_legacy(page: Page, body: bytes, url: str) -> Listing:
    """Parse ``/pypi/<name>/json`` or ``/pypi/<name>/<version>/json``."""
    frame, urls, releases = _legacy_parts(body)
    _ANY.decode(slices.put_together({key: raw for key, raw in frame.items() if key != "releases"}, {}))
    info = _required(frame, "info", _Info)
    _same_project(page, info.name)
    entries: dict[str, Entry] = {}
    absolute = True
    latest = names.canonical(info.version) if isinstance(info.version, str) else ""
    for release, pieces in ((latest, urls), *releases.items()):
        for raw in pieces:
            raw.decode()
            try:
                published = _LEGACY_ONE.decode(raw)
            except msgspec.ValidationError:
                continue
            absolute = absolute and published.url.startswith(_ABSOLUTE)
            located = locate_file(page, published.filename, published.url, url)
            if located is None or published.filename in entries or not plausible_size(published.size):
                continue
            file, place, anchor = located
            if not file.version:
                file = msgspec.structs.replace(file, version=names.canonical(release))
            yanked = (
                (published.yanked_reason if isinstance(published.yanked_reason, str) else "")
                if published.yanked is True
                else None
            )
            entries[published.filename] = Entry(
                file, place, digests(published.digests, anchor), published.size, _time(published.upload_time), yanked
            )
    serial = _serial(msgspec.json.decode(frame["last_serial"])) if "last_serial" in frame else None
    listing = Listing(page, entries, body, serial)
    if absolute:
        return listing
    # Stored documents are read again without knowing where they came from.
    return replace(listing, document=_edit_legacy(listing, lambda raw, entry: edited(raw, {"url": entry.url})))


def _legacy_parts(body: bytes) -> tuple[dict[str, bytes], list[bytes], dict[str, list[bytes]]]:
    frame, split = slices.take_apart(body, {"urls"})
    releases: dict[str, list[bytes]] = {}
    if frame.get("releases", b"n")[:1] == b"{":
        rest, releases = slices.take_apart(frame["releases"])
        if rest:
            raise ValueError("a release that is no list of files")
    return frame, split.get("urls", []), releases


def restrict_legacy(listing: Listing, verdicts: Mapping[str, Verdict]) -> Listing:
    """As ``restrict_project``: yanked with the reason, in each place where the document speaks of the version or its files."""
    restrictions = forbidding(verdicts)
    if not restrictions:
        return replace(listing, restrictions={})
    entries = dict(listing.entries)
    for filename, entry in listing.entries.items():
        verdict = restrictions.get(entry.file.version)
        if verdict is not None:
            entries[filename] = msgspec.structs.replace(entry, yanked=reason_of(verdict))

    def edit(raw: bytes, entry: Entry) -> bytes:
        verdict = restrictions.get(entry.file.version)
        return raw if verdict is None else edited(raw, {"yanked": True, "yanked_reason": reason_of(verdict)})

    def edit_info(raw: bytes) -> bytes:
        version = msgspec.json.decode(raw, type=_Info).version
        verdict = restrictions.get(names.canonical(version) if isinstance(version, str) else "")
        return raw if verdict is None else edited(raw, {"yanked": True, "yanked_reason": reason_of(verdict)})

    document = _edit_legacy(listing, edit, edit_info)
    return replace(listing, entries=entries, document=document, restrictions=restrictions)


def amend_legacy(listing: Listing, keep: Mapping[str, Entry]) -> Listing:
    """Let listed files have the digests and sizes of held entries. Files that are no longer listed are not added."""
    kept = {name: entry for name, entry in keep.items() if name in listing.entries}
    if not kept:
        return listing

    def edit(raw: bytes, entry: Entry) -> bytes:
        held = kept.get(entry.file.filename)
        if held is None:
            return raw
        return edited(
            raw, {"digests": {d.algorithm.replace("-", "_"): d.value for d in held.digests}, "size": held.size, "url": held.url}
        )

    return replace(listing, entries={**listing.entries, **kept}, document=_edit_legacy(listing, edit))


def write_legacy(listing: Listing, base: str | None) -> bytes:
    if base is None:
        return listing.document
    root = base
    return _edit_legacy(listing, lambda raw, entry: edited(raw, {"url": link(entry.file, root)}))


def _edit_legacy(
    listing: Listing, edit: Callable[[bytes, Entry], bytes], edit_info: Callable[[bytes], bytes] = lambda raw: raw
) -> bytes:
    """Apply ``edit`` to each file, wherever it stands. Files that ``read_legacy`` would not list are left out."""
    frame, urls, releases = _legacy_parts(listing.document)

    def each(pieces: Iterable[bytes]) -> list[bytes]:
        kept: list[bytes] = []
        for raw in pieces:
            try:
                filename = _LEGACY_ONE.decode(raw).filename
            except msgspec.ValidationError:
                continue
            entry = listing.entries.get(filename)
            if entry is not None:
                kept.append(edit(raw, entry))
        return kept

    frame["info"] = edit_info(frame["info"])
    if releases:
        frame["releases"] = slices.put_together({}, {version: each(pieces) for version, pieces in releases.items()})
    return slices.put_together(frame, {"urls": each(urls)})
