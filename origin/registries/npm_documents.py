"""npm's documents: packuments read into listings, restricted, and written for clients. ``npm.py`` says which is which.

The stored form of a packument is the full document as it was received. It can hold 10,000 versions in 50 MB, so none of it is kept
decoded: a listing knows where in the document each version stands, and whatever looks at one decodes that one. What policy does not
touch goes out byte for byte as it came in, unknown members included. Essential reading: the protocol's sections 2, 4 and 7.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import msgspec

from ..errors import NotFound, Refused
from ..model import Allow, Digest, Entry, File, Hold, Listing, Page, Refuse, Verdict
from . import npm_names as names
from . import slices
from .npm_json import PIECE_BYTES, require_json, sound
from .slices import Place

LIMIT_NOTICE = 200
"""How long ``npm-notice`` may be, in characters."""

LIMIT_TOLD = 20
"""How many versions a message names; of more it tells the number."""

ABBREVIATED_MEMBERS = frozenset(
    "name version dependencies optionalDependencies devDependencies bundleDependencies peerDependencies peerDependenciesMeta bin "
    "directories dist engines os cpu libc deprecated funding hasInstallScript _hasShrinkwrap".split()
)
"""What of a manifest the abbreviated form has."""

_RESTRICTED_MEMBERS = ("name", "version", "engines", "os", "cpu", "libc", "deprecated")
"""What npm looks at of a version that it may not have."""

_INSTALL_SCRIPTS = ("preinstall", "install", "postinstall")
_STRENGTH = {algorithm: rank for rank, algorithm in enumerate(("sha512", "sha384", "sha256", "sha1", "md5"))}
_SRI = re.compile(r"(sha512|sha384|sha256|sha1|md5)-([A-Za-z0-9+/]+={0,2})(?:\?\S*)?", re.ASCII)
_URL = re.compile(r"(https?://[A-Za-z0-9._:\[\]-]+(/[!$-;=@-\[\]-~]*)(?:\?[!$-;=?-\[\]-~]*)?)(?:#\S*)?", re.IGNORECASE)
_ABSOLUTE = ("https://", "http://")
_DOTS = frozenset({".", "..", "%2e", "%2e%2e", ".%2e", "%2e."})
_LARGE_BYTES = 4 << 20
_ROOM_BYTES = 33 << 20
"""Beyond what C libraries take from their own heap, which they would have to clear or to copy."""

_RAW = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXTS = msgspec.json.Decoder(dict[str, Any])
_ANY = msgspec.json.Decoder()
_ENCODE = msgspec.json.Encoder().encode


class _Dist(msgspec.Struct, gc=False):
    """Where a version is and what it hashes to. Loosely typed: what is wrong in one version must not cost the page."""

    tarball: Any = None
    integrity: Any = None
    shasum: Any = None


class _Restrictions(msgspec.Struct, gc=False):
    message: Any = None
    versions: dict[str, msgspec.Raw] = {}


_DIST = msgspec.json.Decoder(_Dist)
_RESTRICTIONS = msgspec.json.Decoder(_Restrictions)

type Locator = Callable[[str], File | None]
"""The file that a path (decoded, relative to the instance's) means; None if it means none."""


@dataclass(frozen=True, slots=True)
class Packument(Listing):
    """A packument's listing. ``members`` and ``versions`` say where in the document they stand.

    ``modified`` is upstream's, in UTC seconds, 0 if it does not tell.
    """

    members: Mapping[str, Place] = field(default_factory=dict)
    versions: Mapping[str, Place] = field(default_factory=dict)
    modified: float = 0.0

    def raw(self, member: str) -> bytes | None:
        """A member's JSON; None if the document lacks it."""
        place = self.members.get(member)
        return None if place is None else self.document[place[0] : place[1]]


# ---- reading --------------------------------------------------------------------------------------------------------


def read_packument(page: Page, body: bytes, url: str, root: str, locate: Locator) -> Packument:
    """Parse a packument. ``root`` is the path of the upstream's root, beneath which tarballs keep their own paths.

    Raises ``ValueError`` for anything but the packument of that very package.
    """
    members, inner = slices.places(body, {"versions", "time"})
    view = memoryview(body)
    mended: dict[str, bytes | memoryview] = {}
    for key, (start, stop) in members.items():
        better = sound(view[start:stop]) if key not in inner else None
        if better is not None:
            mended[key] = better
    name = _decoded(view, members.get("name"))
    if name != page.project:
        raise ValueError(f"a document of {str(name)[:64]!r}, not of {page.project!r}")
    times = inner.get("time", {})
    if "versions" not in inner and not ("versions" not in members and "unpublished" in times):
        raise ValueError("a packument without an object of versions")
    for place in times.values():
        require_json(view[place[0] : place[1]])
    versions = inner.get("versions", {})
    reader = _Reader(page, url, root, locate, versions.keys())
    edited: dict[str, bytes] = {}
    for version, (start, stop) in versions.items():
        better = sound(view[start:stop])
        if better is not None:
            edited[version] = better
        raw = better or view[start:stop]
        dist = _dist_of(raw, version)
        resolved = reader.add(version, dist, _when(view, times.get(version)))
        if resolved is not None:
            edited[version] = _edited(raw, {"dist": msgspec.Raw(_edited(dist, {"tarball": resolved}))})
    modified = _when(view, times.get("modified")) or _moment(_decoded(view, members.get("modified"))) or 0.0
    bare = frozenset(versions.keys() - {entry.file.version for entry in reader.entries.values()})
    listing = Packument(page, reader.entries, body, bare=bare, members=members, versions=versions, modified=modified)
    # Versions apart from the others, which npm installs if it is told to, would go past every rule, and their links past us.
    without = {"stagedVersions"} & members.keys()
    if isinstance(_decoded(view, members.get("error")), str):
        without.add("error")
    if edited or mended or without:
        # A text as ``error`` means failure to some clients, whatever stands beside it. And stored documents are read again without
        # knowing where they came from.
        pieces = ((version, edited.get(version) or view[start:stop]) for version, (start, stop) in versions.items())
        listing = _relocated(listing, _composed(listing, pieces, mended, without))
    # What is edited later must not fail then.
    tags_of(listing)
    _restrictions_of(listing)
    return listing


class _Reader:
    """Turns versions into entries, each with a path and a file name of its own."""

    def __init__(self, page: Page, url: str, root: str, locate: Locator, versions: Collection[str]) -> None:
        self.page = page
        self.url = url
        self.root = root
        self.locate = locate
        self.entries: dict[str, Entry] = {}
        self._beneath = f"{page.project}/-/"
        # A version may be kept under the name that another one's tarball has by rights; that one keeps its name.
        self._reserved = {names.conventional(page.project, version) for version in versions}

    def add(self, version: str, raw: bytes, published: float | None) -> str | None:
        """Add an entry, if there is a usable tarball. Returns the absolute URL where upstream's link is a relative one."""
        try:
            _RAW.decode(raw)
            dist = _DIST.decode(raw)
        except msgspec.DecodeError:
            return None
        if not isinstance(dist.tarball, str):
            return None
        found = _URL.fullmatch(_resolved(dist.tarball, self.url))
        conventional = names.conventional(self.page.project, version)
        if found is None or conventional is None or _DOTS & {*found[2].lower().split("/")}:
            return None
        url = found[1]
        try:
            urlsplit(url)
        except ValueError:
            return None
        file = self._file(version, conventional, found[2])
        if file.filename not in self.entries:
            if not dist.tarball.startswith(_ABSOLUTE):
                raw = _edited(raw, {"tarball": url})
            self.entries[file.filename] = Entry(file, url, _digests(dist), published=published, extra=bytes(raw))
        return None if dist.tarball.startswith(_ABSOLUTE) else url

    def _file(self, version: str, conventional: str, path: str) -> File:
        """Upstream's own path where it is one of ours, and nobody else's by rights; else the conventional one."""
        usual = File(self.page.registry, self.page.project, version, conventional, self._beneath + conventional)
        if not path.startswith(self.root):
            return usual
        path = unquote(path[len(self.root) :])
        if path == usual.path:
            return usual
        meant = self.locate(path)
        if meant is None or meant.project != self.page.project or meant.path != path:
            return usual
        taken = meant.filename != conventional and (meant.filename in self._reserved or meant.filename in self.entries)
        return usual if taken else msgspec.structs.replace(meant, version=version)


def _dist_of(raw: bytes | memoryview, version: str) -> bytes:
    """A manifest's ``dist``. Raises ``ValueError`` for a manifest that is no JSON object."""
    try:
        return bytes(_RAW.decode(raw).get("dist", b"null"))
    except msgspec.ValidationError:
        raise ValueError(f"version {version[:64]!r} is no manifest") from None


def _decoded(view: memoryview, place: Place | None) -> object:
    return None if place is None else _ANY.decode(view[place[0] : place[1]])


def _when(view: memoryview, place: Place | None) -> float | None:
    return _moment(_decoded(view, place))


def _moment(text: object) -> float | None:
    """UTC seconds of an ISO 8601 time; None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        # In UTC, where the years that can be written end earlier for some zones.
        return (moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _stamped(moment: float) -> str:
    """As the registry writes times: ``2024-05-01T00:00:00.000Z``."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _resolved(link: str, base: str) -> str:
    if link.startswith(_ABSOLUTE):
        return link
    try:
        return urljoin(base, link)
    except ValueError:
        return ""


def _digests(dist: _Dist) -> tuple[Digest, ...]:
    """The usable ones of what is published, strongest first. Of several by one algorithm in ``integrity`` the first.

    Source: W3C Subresource Integrity §3.
    """
    found: set[Digest] = set()
    for part in dist.integrity.split() if isinstance(dist.integrity, str) else ():
        match = _SRI.fullmatch(part)
        if match is None or any(digest.algorithm == match[1] for digest in found):
            continue
        try:
            found.add(Digest.parse(match[1], base64.b64decode(match[2], validate=True).hex()))
        except (ValueError, binascii.Error):
            continue
    if isinstance(dist.shasum, str):
        with suppress(ValueError):
            found.add(Digest.parse("sha1", dist.shasum))
    return tuple(sorted(found, key=lambda digest: (_STRENGTH[digest.algorithm], digest.value)))


# ---- putting documents together -------------------------------------------------------------------------------------


def _composed(
    listing: Packument,
    versions: Iterable[tuple[str, bytes | memoryview]],
    changes: Mapping[str, bytes | memoryview],
    without: Collection[str] = (),
) -> bytes:
    """The listing's document with other versions and some members changed or added, each in its old place."""
    view = memoryview(listing.document)
    # Links may be longer than upstream's.
    out = _Writer(len(view) + 128 * len(listing.versions) + sum(map(len, changes.values())))
    out.write(b"{")
    comma = b""
    for key, (start, stop) in listing.members.items():
        if key in without:
            continue
        out.write(comma + _ENCODE(key) + b":")
        comma = b","
        if key == "versions":
            out.write_object(versions)
        else:
            out.write(changes.get(key, view[start:stop]))
    for key, value in changes.items():
        if key not in listing.members:
            out.write(comma + _ENCODE(key) + b":")
            out.write(value)
            comma = b","
    out.write(b"}")
    return out.done()


class _Writer:
    """Writes a document piece by piece into room for ``size_bytes``, more if need be, and hands it over without a copy.

    A join of 60 MB, or a buffer that grows towards that, holds the interpreter for 30 ms at a time. Room that large is given by the
    system page by page, as it is written to, and what is left of it goes back at once.
    """

    def __init__(self, size_bytes: int = 0) -> None:
        self._out = io.BytesIO(bytes(max(size_bytes, _ROOM_BYTES))) if size_bytes > _LARGE_BYTES else io.BytesIO()

    def write(self, piece: bytes | memoryview) -> None:
        for start in range(0, len(piece), PIECE_BYTES):
            self._out.write(piece[start : start + PIECE_BYTES] if len(piece) > PIECE_BYTES else piece)

    def write_object(self, members: Iterable[tuple[str, bytes | memoryview]]) -> None:
        comma = b"{"
        for key, value in members:
            self._out.write(comma + _ENCODE(key) + b":")
            self.write(value)
            comma = b","
        self._out.write(b"}" if comma == b"," else b"{}")

    def done(self) -> bytes:
        self._out.truncate()
        return self._out.getvalue()


def _relocated(listing: Packument, document: bytes) -> Packument:
    """``listing`` with a document put together here, in which everything stands elsewhere."""
    members, inner = slices.places(document, {"versions"})
    return replace(listing, document=document, members=members, versions=inner.get("versions", {}))


def _edited(raw: bytes | memoryview | msgspec.Raw, changes: Mapping[str, Any]) -> bytes:
    """The JSON object ``raw`` with some members set; the others keep their bytes."""
    members = _RAW.decode(raw)
    for key, value in changes.items():
        members[key] = value if isinstance(value, msgspec.Raw) else msgspec.Raw(_ENCODE(value))
    return _ENCODE(members)


def _manifests(listing: Packument) -> Iterator[tuple[str, memoryview]]:
    view = memoryview(listing.document)
    for version, (start, stop) in listing.versions.items():
        yield version, view[start:stop]


# ---- policy ---------------------------------------------------------------------------------------------------------


def forbidding(verdicts: Mapping[str, Verdict]) -> dict[str, Verdict]:
    return {version: verdict for version, verdict in verdicts.items() if not isinstance(verdict, Allow)}


def restrict_packument(listing: Packument, verdicts: Mapping[str, Verdict]) -> Packument:
    """Take refused versions off ``versions`` and ``time``, repair what pointed at them, and say so in ``policyRestrictions``."""
    restrictions = forbidding(verdicts)
    removed = {version: verdict for version, verdict in restrictions.items() if version in listing.versions}
    if not removed:
        return replace(listing, restrictions=restrictions)
    entries = {name: entry for name, entry in listing.entries.items() if entry.file.version not in removed}
    changes = {"policyRestrictions": _restrictions(listing, removed)}
    time = listing.raw("time")
    if time is not None and time[:1] == b"{":
        out = _Writer()
        out.write_object((key, time[start:stop]) for key, (start, stop) in slices.places(time)[0].items() if key not in removed)
        changes["time"] = out.done()
    tags = tags_of(listing)
    if any(isinstance(version, str) and version in removed for version in tags.values()):
        changes["dist-tags"] = _ENCODE(_repaired(listing, tags, removed))
    kept = ((version, raw) for version, raw in _manifests(listing) if version not in removed)
    restricted = _relocated(listing, _composed(listing, kept, changes))
    return replace(restricted, entries=entries, restrictions=restrictions, bare=listing.bare - removed.keys())


def tags_of(listing: Packument) -> dict[str, Any]:
    raw = listing.raw("dist-tags")
    return _TEXTS.decode(raw) if raw is not None and raw[:1] == b"{" else {}


def _repaired(listing: Packument, tags: Mapping[str, Any], removed: Collection[str]) -> dict[str, Any]:
    """The tags without those that point at removed versions; ``latest`` points at what takes its place, if anything can."""
    repaired: dict[str, Any] = {}
    for tag, version in tags.items():
        if not isinstance(version, str) or version not in removed:
            repaired[tag] = version
        elif tag == "latest":
            successor = _successor(listing, version, removed)
            if successor is not None:
                repaired[tag] = successor
    return repaired


def _successor(listing: Packument, gone: str, removed: Collection[str]) -> str | None:
    """Which remaining version is the latest now: the highest that is stable and not deprecated, if possible below ``gone``.

    By order and not by date: what lies above was not the latest when ``gone`` was, and mirrors upstream make dates up. Failing that a
    deprecated one, a pre-release, or whatever is left.
    """
    limit = names.version_key(gone)
    ranked: list[tuple[bool, names.Key, str]] = []
    last = None
    for version in listing.versions:
        if version in removed or version in listing.bare:
            continue
        last = version
        key = names.version_key(version)
        if key is not None:
            ranked.append((limit is not None and key < limit, key, version))
    ranked.sort(reverse=True)
    stable = [version for _, key, version in ranked if names.is_stable(key)]
    for version in stable:
        if not _is_deprecated(listing, version):
            return version
    highest = sorted(ranked, key=lambda rank: rank[1], reverse=True)
    return next(iter(stable), None) or next((version for _, _, version in highest), last)


def _is_deprecated(listing: Packument, version: str) -> bool:
    start, stop = listing.versions[version]
    return _says_something(_RAW.decode(memoryview(listing.document)[start:stop]).get("deprecated"))


def _says_something(raw: msgspec.Raw | None) -> bool:
    """Whether a member is there and not empty. Texts are not decoded: some hold halves of characters, which is nothing to fail over."""
    return raw is not None and bytes(raw) not in (b"null", b"false", b'""')


def _restrictions(listing: Packument, removed: Mapping[str, Verdict]) -> bytes:
    """``policyRestrictions``, which npm consults for a version that it finds nowhere else, to say why.

    The manifests tell what such a version is, and not where its tarball would be.
    """
    earlier = _restrictions_of(listing)
    message = explained(listing.page.project, removed)
    if isinstance(earlier.message, str) and earlier.message:
        # Judged again, or judged by upstream already.
        message = f"{earlier.message}\n{message}"
    manifests = dict(earlier.versions)
    view = memoryview(listing.document)
    for version in removed:
        start, stop = listing.versions[version]
        members = _RAW.decode(view[start:stop])
        manifests[version] = msgspec.Raw(_ENCODE({key: members[key] for key in _RESTRICTED_MEMBERS if key in members}))
    out = _Writer()
    out.write(b'{"message":' + _ENCODE(message) + b',"versions":')
    out.write_object((version, bytes(manifest)) for version, manifest in manifests.items())
    out.write(b"}")
    return out.done()


def _restrictions_of(listing: Packument) -> _Restrictions:
    raw = listing.raw("policyRestrictions")
    return _Restrictions() if raw is None or raw == b"null" else _RESTRICTIONS.decode(raw)


def reason_of(verdict: Verdict) -> str:
    """The sentence for whoever asked for a refused version; for a quarantine it names the time when that ends."""
    reason = " ".join(verdict.reason.split()) if isinstance(verdict, Hold | Refuse) else ""
    reason = reason or "refused by policy"
    if isinstance(verdict, Hold):
        with suppress(ValueError, OverflowError):
            reason += f" (until {_stamped(verdict.until)})"
    return reason


def explained(project: str, removed: Mapping[str, Verdict]) -> str:
    """A line for each reason, with the versions that it keeps back."""
    by_reason: dict[str, list[str]] = {}
    for version, verdict in removed.items():
        by_reason.setdefault(reason_of(verdict), []).append(version)
    lines = []
    for reason, versions in by_reason.items():
        told = ", ".join(versions[:LIMIT_TOLD])
        more = f" and {len(versions) - LIMIT_TOLD} more" if len(versions) > LIMIT_TOLD else ""
        lines.append(f"{project} {told}{more}: {reason}")
    return "\n".join(lines)


def notice(listing: Listing, note: str) -> str:
    """What ``npm-notice`` says, in one line of ASCII; empty if there is nothing to say."""
    said = [note] if note else []
    if listing.restrictions:
        number = len(listing.restrictions)
        reasons = list(dict.fromkeys(reason_of(verdict) for verdict in listing.restrictions.values()))
        more = f" (and {len(reasons) - 1} more reasons)" if len(reasons) > 1 else ""
        said.append(f"{number} version{'s' if number > 1 else ''} hidden by policy: {reasons[0]}{more}")
    text = " ".join("; ".join(said).split()).encode("ascii", "replace").decode()
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= LIMIT_NOTICE else text[: LIMIT_NOTICE - 3] + "..."


def amend_packument(listing: Packument, keep: Mapping[str, Entry]) -> Packument:
    """Let versions have the ``dist`` of held entries. Those that are no longer listed are not added."""
    kept: dict[str, Entry] = {}
    for name, held in keep.items():
        listed = listing.entries.get(name)
        if listed is not None:
            file = msgspec.structs.replace(held.file, version=listed.file.version)
            kept[name] = msgspec.structs.replace(held, file=file, extra=held.extra or _described(held, listed))
    changed = {entry.file.version: entry for entry in kept.values()}
    if all(listing.entries[name].extra == entry.extra for name, entry in kept.items()):
        return replace(listing, entries={**listing.entries, **kept}) if kept else listing
    pieces = (
        (version, _edited(raw, {"dist": msgspec.Raw(changed[version].extra)}) if version in changed else raw)
        for version, raw in _manifests(listing)
    )
    amended = _relocated(listing, _composed(listing, pieces, {}))
    return replace(amended, entries={**listing.entries, **kept})


def _described(held: Entry, listed: Entry) -> bytes:
    """The ``dist`` of an entry made elsewhere: the listed one's, but for what goes with the bytes."""
    members = _RAW.decode(listed.extra)
    # Signatures are of the integrity that is listed, attestations and counts of the bytes.
    for key in ("integrity", "shasum", "signatures", "npm-signature", "attestations", "fileCount", "unpackedSize"):
        members.pop(key, None)
    members["tarball"] = msgspec.Raw(_ENCODE(held.url))
    known = {digest.algorithm: bytes.fromhex(digest.value) for digest in held.digests}
    strongest = next((algorithm for algorithm in _STRENGTH if algorithm in known and algorithm not in ("sha1", "md5")), None)
    if strongest is not None:
        members["integrity"] = msgspec.Raw(_ENCODE(f"{strongest}-{base64.b64encode(known[strongest]).decode()}"))
    if "sha1" in known:
        members["shasum"] = msgspec.Raw(_ENCODE(known["sha1"].hex()))
    return _ENCODE(members)


# ---- writing --------------------------------------------------------------------------------------------------------


def last_change(listing: Packument) -> float:
    """When what is left of the page last changed, for clients that compare dates; 0 if nothing tells. UTC seconds."""
    return max(listing.modified, listing.restricted_at)


def write_full(listing: Packument, base: str | None) -> bytes:
    """The document, its tarballs beneath ``base``, its ``modified`` no older than what policy did to it."""
    changes: dict[str, bytes | memoryview] = {}
    if listing.restricted_at > listing.modified:
        stamp = _stamped(listing.restricted_at)
        time = listing.raw("time")
        if time is not None and time[:1] == b"{":
            changes["time"] = _with_modified(time, stamp)
        if "modified" in listing.members or "time" not in changes:
            changes["modified"] = _ENCODE(stamp)
    if base is None:
        return _composed(listing, _manifests(listing), changes) if changes else listing.document
    links = _Links(listing, base)
    return _composed(listing, ((version, links.rewritten(version, raw)) for version, raw in _manifests(listing)), changes)


def _with_modified(time: bytes, stamp: str) -> bytes:
    members: dict[str, bytes] = {key: time[start:stop] for key, (start, stop) in slices.places(time)[0].items()}
    members["modified"] = _ENCODE(stamp)
    out = _Writer()
    out.write_object(members.items())
    return out.done()


class _Links:
    """Where each version's tarball is offered beneath ``base``."""

    def __init__(self, listing: Packument, base: str | None) -> None:
        self._base = base
        self._paths = {entry.file.version: entry.file.path for entry in listing.entries.values()} if base is not None else {}

    def rewritten(self, version: str, raw: memoryview) -> bytes:
        """A manifest with its one link changed."""
        members = _RAW.decode(raw)
        dist = self.rewritten_dist(version, members.get("dist"))
        if dist is not None:
            members["dist"] = dist
        return _ENCODE(members)

    def rewritten_dist(self, version: str, raw: msgspec.Raw | None) -> msgspec.Raw | None:
        """``dist`` with its link changed; None to leave it as it is."""
        if self._base is None or raw is None or bytes(raw)[:1] != b"{":
            return None
        path = self._paths.get(version)
        if path is not None:
            return msgspec.Raw(_edited(raw, {"tarball": self._base + names.in_url(path)}))
        # What is not listed has no link: upstream's own would lead around us.
        try:
            dist = _RAW.decode(raw)
        except msgspec.DecodeError:
            dist = {}
        dist.pop("tarball", None)
        return msgspec.Raw(_ENCODE(dist))


def write_abbreviated(listing: Packument, base: str | None) -> bytes:
    """The form that clients install from: ``name``, ``modified``, ``dist-tags``, ``versions``, and what policy has to say."""
    links = _Links(listing, base)
    out = _Writer(len(listing.document))
    out.write(b'{"name":' + _ENCODE(listing.page.project))
    if listing.restricted_at > listing.modified:
        out.write(b',"modified":' + _ENCODE(_stamped(listing.restricted_at)))
    elif listing.modified:
        out.write(b',"modified":' + _modified_as_published(listing))
    for key in ("dist-tags", "policyRestrictions"):
        raw = listing.raw(key)
        if raw is not None:
            out.write(b"," + _ENCODE(key) + b":" + raw)
    out.write(b',"versions":')
    out.write_object((version, _abbreviated_version(version, raw, links)) for version, raw in _manifests(listing))
    out.write(b"}")
    return out.done()


def _modified_as_published(listing: Packument) -> bytes:
    time = listing.raw("time")
    if time is not None and time[:1] == b"{":
        place = slices.places(time)[0].get("modified")
        if place is not None and _moment(_ANY.decode(time[place[0] : place[1]])) is not None:
            return time[place[0] : place[1]]
    return listing.raw("modified") or _ENCODE(_stamped(listing.modified))


def _abbreviated_version(version: str, raw: memoryview, links: _Links) -> bytes:
    members = _abbreviated(raw)
    dist = links.rewritten_dist(version, members.get("dist"))
    if dist is not None:
        members["dist"] = dist
    return _ENCODE(members)


def _abbreviated(raw: memoryview) -> dict[str, msgspec.Raw]:
    """What the abbreviated form has of a manifest, in its order."""
    members = _RAW.decode(raw)
    short = {key: value for key, value in members.items() if key in ABBREVIATED_MEMBERS}
    if _has_install_script(members):
        short["hasInstallScript"] = msgspec.Raw(b"true")
    return short


def _has_install_script(members: Mapping[str, msgspec.Raw]) -> bool:
    if any(bytes(members[key]) == b"true" for key in ("hasInstallScript", "gypfile") if key in members):
        return True
    try:
        scripts = _RAW.decode(members.get("scripts", b"{}"))
    except msgspec.DecodeError:
        return False
    return any(_says_something(scripts.get(key)) for key in _INSTALL_SCRIPTS)


def write_manifest(listing: Packument, wanted: str, base: str | None) -> bytes:
    """The manifest of one version, or of the one that a tag points at. Raises ``NotFound``, or ``Refused`` for what policy took away."""
    version = wanted if wanted in listing.versions or wanted in listing.restrictions else tags_of(listing).get(wanted)
    if not isinstance(version, str) or version not in listing.versions:
        if (verdict := listing.restrictions.get(wanted)) is not None and isinstance(verdict, Hold | Refuse):
            raise Refused(verdict)
        raise NotFound(f"{listing.page.project} has no version or tag {wanted[:64]!r}")
    start, stop = listing.versions[version]
    raw = memoryview(listing.document)[start:stop]
    return bytes(raw) if base is None else _Links(listing, base).rewritten(version, raw)


def write_tags(listing: Packument) -> bytes:
    raw = listing.raw("dist-tags")
    return raw if raw is not None and raw[:1] == b"{" else b"{}"
