"""npm's rules: what a request means, where upstream has it, which representation a client gets.

Beside it: ``npm_names.py`` (names, versions, file names), ``npm_documents.py`` (packuments), ``npm_json.py`` (all other JSON),
``npm_signatures.py`` (what the registry signs), ``slices.py`` (large JSON).

Addresses below an instance's path; ``<pkg>`` is ``name``, ``@scope/name``, or the latter with ``%40`` or ``%2f`` in any spelling:

====================================================  ====================================================
``<pkg>``                                             Page(view ``""``), the packument, always held in full
``<pkg>/<version or tag>``                            Page(view ``manifest/<version or tag>``), a view of it
``-/package/<pkg>/dist-tags``                         Page(view ``dist-tags``), a view of it
``<pkg>/-/<file>.tgz``                                File, at upstream's own path
``-/npm/v1/keys``                                     Page(no project, view ``keys``)
``-/npm/v1/attestations/<pkg>@<version>``             Page(view ``attestations/<version>``)
``-/v1/search``                                       Relay
``-/npm/v1/security/…``                               Relay: audits
``""``, ``-/ping``, ``-/whoami``                      Local
====================================================  ====================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache
from typing import Literal
from urllib.parse import quote, unquote_plus, urlsplit, urlunsplit

from .. import targets
from ..errors import NotFound
from ..model import STRONG, Allow, Digest, Entry, File, Headers, Listing, Local, Page, Relay, Resource, Verdict
from . import Judge, Options, npm_json
from . import npm_documents as documents
from . import npm_names as names
from . import npm_signatures as signatures
from .plain import Plain, quality_of

FULL = "application/json"
ABBREVIATED = "application/vnd.npm.install-v1+json"

_LIVES_S: Mapping[str, float] = {"keys": 3600.0, "attestations": 86400.0}
"""What changes hardly ever may be held for longer than a packument, in seconds."""

SEARCH_LIFE_S = 300.0
"""How long a search's answer may be given again."""

LIMIT_FOUND = 250
"""How many packages one search may ask for; what the registry itself gives at most."""

LIMIT_TEXT = 512
"""The longest text to search for, in characters."""

SEARCH = "-/v1/search"
AUDITS = ("-/npm/v1/security/advisories/bulk", "-/npm/v1/security/audits/quick", "-/npm/v1/security/audits")
"""The bulk endpoint, and the older ones that take a whole tree."""

READ_ONLY = Local(403, "read-only mirror: publish, tag and log in at the registry itself")
ACCOUNTS = Local(403, "read-only mirror: accounts, teams and tokens are kept at the registry itself")
METHOD = Local(405, "only GET and HEAD here")
NO_AUDIT = Local(404, "audits are turned off on this mirror")
PING = Local(200, body=b"{}", media_type=FULL)
WHOAMI = Local(200, body=b'{"username":"anonymous"}', media_type=FULL)
ROOT = Local(200, body=b'{"db_name":"registry","read_only":true}', media_type=FULL)

_ACCOUNTS = frozenset(
    {("-", "user"), ("-", "org"), ("-", "team"), ("-", "npm", "v1", "hooks")}
    | {("-", "npm", "v1", "tokens"), ("-", "npm", "v1", "user")}
)
_NO_VULNERABILITIES = (
    b'{"actions":[],"advisories":{},"muted":[],"metadata":{"vulnerabilities":{"info":0,"low":0,"moderate":0,"high":0,"critical":0},'
    b'"dependencies":0,"devDependencies":0,"optionalDependencies":0,"totalDependencies":0}}'
)
_NO_ATTESTATIONS = b'{"attestations":[]}'


class NPM(Plain):
    """The rules of one npm instance. ``upstream`` is the registry's root. Raises ``ValueError`` for keys that cannot be used."""

    kind: Literal["npm"] = "npm"
    # npm and pnpm wait for minutes; a scan should be over by then.
    hold_s = 20.0
    identity = "sha256"
    # What was published before 2017 has no other digest.
    proofs = STRONG | {"sha1"}
    groups: tuple[str, ...] = ()

    def __init__(self, name: str, upstream: str, options: Options | None = None) -> None:
        options = options or Options()
        self.name = name
        self.upstream = upstream if upstream.endswith("/") else upstream + "/"
        self.aliases = options.aliases
        # Small, and beneath most of what there is.
        self.sample = Page(name, "wrappy", "")
        self._root = urlsplit(self.upstream).path or "/"
        self._audit = options.audit
        self._keys = None if options.keys is None else signatures.read_keys(options.keys)
        self._required = options.signatures == "require"

    def __repr__(self) -> str:
        return f"<NPM {self.name} at {self.upstream}>"

    # -- requests

    def resource(self, method: str, target: str) -> Resource | None:
        if target.startswith("/"):
            raise ValueError("empty segment in the request target")
        asked = targets.parse(target, encoded_slash=True)
        segments = _flat(asked.segments)
        reading = method in ("GET", "HEAD")
        if method == "POST" and "/".join(segments) in AUDITS:
            return NO_AUDIT if self._audit == "off" else Relay(self.name, "POST", "/".join(segments))
        if segments[:2] in _ACCOUNTS or segments[:4] in _ACCOUNTS:
            return ACCOUNTS if reading else READ_ONLY
        if method in ("PUT", "DELETE", "POST"):
            return READ_ONLY
        if not reading:
            return METHOD
        if segments[:1] == ("-",):
            return self._special(segments, asked.query)
        if not segments:
            return ROOT
        found = names.split(segments)
        match found:
            case (name, ()):
                return Page(self.name, name, "")
            case (name, ("-", *rest)) if rest and not asked.slash:
                return self._file(name, segments)
            case (name, (version,)) if version != "-":
                return Page(self.name, name, f"manifest/{version}")
            case _:
                return None

    def _special(self, segments: tuple[str, ...], query: str) -> Resource | None:
        match segments:
            case ("-", "ping"):
                return PING
            case ("-", "whoami"):
                return WHOAMI
            case ("-", "v1", "search"):
                return Relay(self.name, "GET", SEARCH + _search_query(query))
            case ("-", "npm", "v1", "keys"):
                return Page(self.name, "", "keys")
            case ("-", "npm", "v1", "attestations", *rest):
                name, at, version = "/".join(rest).rpartition("@")
                return Page(self.name, name, f"attestations/{version}") if at and _is_one(name, version) else None
            case ("-", "package", *rest, "dist-tags"):
                name = "/".join(rest)
                return Page(self.name, name, "dist-tags") if names.is_name(name) else None
            case _:
                return None

    def _file(self, name: str, segments: tuple[str, ...]) -> File:
        filename = segments[-1]
        return File(self.name, name, names.version_in(name, filename), filename, "/".join(segments))

    def stray(self, target: str, path: str) -> str | None:
        """Tarballs alone: some clients put them below the host's root, or below the path twice."""
        plain = target.partition("?")[0]
        if path == "/" or not plain.endswith(".tgz") or not target.startswith("/"):
            return None
        # The instance's path may be a package's name too: what means something below the path is meant so.
        if target.startswith(path) and self._reads(target[len(path) :]) is not None:
            return None
        doubled = path + path[1:]
        candidates = [target[1:]]
        if target.startswith(doubled):
            candidates.insert(0, target[len(doubled) :])
        return next((candidate for candidate in candidates if isinstance(self._reads(candidate), File)), None)

    def _reads(self, target: str) -> Resource | None:
        try:
            return self.resource("GET", target)
        except ValueError:
            return None

    def insists(self, cache_control: str, target: str) -> bool:
        # ``?write=true`` is how npm reads what it is about to write.
        return "no-cache" in cache_control or "write=true" in target.partition("?")[2].split("&")

    def basis(self, page: Page) -> Page:
        return Page(self.name, page.project, "") if _kind(page) in ("manifest", "dist-tags") else page

    def variants(self, page: Page) -> tuple[str, ...]:
        return (FULL, ABBREVIATED) if page.view == "" else (FULL,)

    def negotiate(self, page: Page, accept: str | None, target: str) -> str:
        return _negotiate(accept or "") if page.view == "" else FULL

    def subject(self, file: File) -> File:
        return file

    def listing_page(self, file: File) -> Page:
        return Page(self.name, file.project, "")

    # -- the registry's own addresses

    def meaning(self, target: str, *, files: bool) -> str | None:
        """As the protocol has it. Beneath the root everything is the registry's; elsewhere a tarball goes by the shape of its path."""
        beneath = targets.beneath(target, self.upstream)
        if beneath is not None and not files and self._reads(beneath) is not None:
            return beneath
        asked = targets.parse(target, encoded_slash=True)
        try:
            path = None if asked.slash else names.tarball_at(_flat(asked.segments))
        except ValueError:
            path = None
        return names.in_url(path) if path is not None else None if files else beneath

    # -- upstream

    def life_s(self, page: Page, fresh_s: float) -> float:
        return max(fresh_s, _LIVES_S.get(_kind(page), fresh_s))

    def locate(self, resource: Page | File, listing: Listing | None) -> str:
        if isinstance(resource, File):
            entry = self.expected(resource, listing)
            if entry is None:
                raise NotFound(f"{resource.project} lists no {resource.filename}")
            return entry.url
        project = names.escaped(resource.project)
        match _kind(resource):
            case "keys":
                return f"{self.upstream}-/npm/v1/keys"
            case "attestations":
                return f"{self.upstream}-/npm/v1/attestations/{project}@{quote(_version(resource), safe='+')}"
            case _:
                return f"{self.upstream}{project}"

    def probe_location(self, file: File, listing: Listing) -> str | None:
        path = names.in_url(file.path)
        # All of a package's tarballs stand beneath one root upstream, on the registry's host or another.
        for entry in listing.entries.values():
            known = names.in_url(entry.file.path)
            parts = urlsplit(entry.url)
            if parts.path.endswith("/" + known):
                return urlunsplit((parts.scheme, parts.netloc, parts.path.removesuffix(known) + path, "", ""))
        return self.upstream + path

    def ask(self, page: Page) -> Headers:
        return (("accept", FULL),)

    def expected(self, file: File, listing: Listing | None) -> Entry | None:
        entry = listing.entries.get(file.filename) if listing is not None else None
        return entry if entry is not None and entry.file.path == file.path else None

    def check(self, file: File, entry: Entry | None, content: str, signature: bytes | None) -> str:
        """As the protocol has it. What is signed is the integrity, to which the bytes are then held."""
        if self._keys is None:
            return ""
        if entry is None:
            return f"{file.filename} is not listed, so no signature can vouch for it" if self._required else ""
        owner = entry.file
        return signatures.fault(self._keys, owner.project, owner.version, entry.extra, entry.published, required=self._required)

    # -- documents

    def read(self, page: Page, body: bytes, media_type: str, url: str) -> Listing:
        kind = media_type.partition(";")[0].strip().lower()
        if kind != FULL and not (kind.startswith("application/") and kind.endswith("+json")):
            raise ValueError(f"unexpected media type {kind[:64]!r}")
        return self._read(page, body, url)

    def reread(self, page: Page, document: bytes) -> Listing:
        return self._read(page, document, self.locate(page, None))

    def _read(self, page: Page, body: bytes, url: str) -> Listing:
        match _kind(page):
            case "":
                return documents.read_packument(page, body, url, self._root, self._at)
            case "keys":
                npm_json.require_list(body, "keys")
                return Listing(page, {}, body)
            case "attestations":
                npm_json.require_list(body, "attestations")
                return Listing(page, self._spoken_of(page), body)
            case view:
                raise ValueError(f"{view} is a view of a packument and not read by itself")

    def _at(self, path: str) -> File | None:
        """The file that a decoded path means."""
        try:
            found = self.resource("GET", names.in_url(path))
        except ValueError:
            return None
        return found if isinstance(found, File) else None

    def _spoken_of(self, page: Page) -> Mapping[str, Entry]:
        """An attestation's listing has one entry, the tarball that it speaks of, so that verdicts can be found for it."""
        filename = names.conventional(page.project, _version(page))
        if filename is None:
            return {}
        return {filename: Entry(File(self.name, page.project, _version(page), filename, ""), "")}

    def restrict(self, listing: Listing, verdicts: Mapping[str, Verdict]) -> Listing:
        """As the protocol has it. Of a refused version's attestations nothing is left: answer them with ``restrictions``, 403."""
        match _kind(listing.page):
            case "":
                return documents.restrict_packument(self._packument(listing), verdicts)
            case "attestations":
                forbidden = documents.forbidding(verdicts)
                document = _NO_ATTESTATIONS if _version(listing.page) in forbidden else listing.document
                return Listing(listing.page, listing.entries, document, None, forbidden)
            case _:
                return listing

    def _packument(self, listing: Listing) -> documents.Packument:
        """``listing`` with what only this module's own listings carry."""
        if isinstance(listing, documents.Packument):
            return listing
        read = self.reread(listing.page, listing.document)
        assert isinstance(read, documents.Packument)
        return replace(read, restrictions=listing.restrictions, restricted_at=listing.restricted_at)

    def write(self, listing: Listing, media_type: str, base: str | None, view: str | None = None) -> bytes:
        asked = view if view is not None else listing.page.view
        if media_type not in self.variants(Page(self.name, listing.page.project, asked)):
            raise ValueError(f"{listing.page.key} cannot be written as {media_type}")
        if listing.page.view:
            return listing.document
        packument = self._packument(listing)
        match asked.partition("/"):
            case ("", _, _):
                write = documents.write_abbreviated if media_type == ABBREVIATED else documents.write_full
                return write(packument, base)
            case ("manifest", _, wanted):
                return documents.write_manifest(packument, wanted, base)
            case ("dist-tags", _, _):
                return documents.write_tags(packument)
            case _:
                raise ValueError(f"a packument has no view {asked[:64]!r}")

    def headers(self, listing: Listing, body: bytes = b"", last_modified: str | None = None, note: str = "") -> Headers:
        """``Last-Modified`` is the same moment as ``modified`` in what was written: pnpm compares that with what it holds."""
        moment = documents.last_change(listing) if isinstance(listing, documents.Packument) else listing.restricted_at
        moment = moment or _http_date(last_modified)
        fields = [("last-modified", formatdate(math.floor(moment), usegmt=True))] if moment > 0 else []
        text = documents.notice(listing, note)
        if text:
            fields.append(("npm-notice", text))
        return tuple(fields)

    def file_headers(self, file: File, digests: Sequence[Digest], last_modified: str | None) -> Headers:
        sha256 = next(digest.value for digest in digests if digest.algorithm == "sha256")
        return (("Content-Type", "application/octet-stream"), ("ETag", f'"sha256-{sha256}"'))

    # -- relays

    def forward(self, relay: Relay) -> Headers | None:
        """As the protocol has it. Raises ``ValueError`` for an audit of something else than a JSON object."""
        if relay.method == "GET":
            return (("accept", FULL),)
        npm_json.require_posted(relay.body)
        return None if self._audit != "forward" else (("accept", FULL), ("content-type", FULL))

    def relayed(self, relay: Relay, body: bytes, judge: Judge) -> bytes:
        if relay.method == "GET":

            def allowed(name: str, version: str) -> bool:
                return names.is_name(name) and isinstance(judge(name, version), Allow)

            return npm_json.filter_search(body, allowed)
        if self._audit != "forward":
            return b"{}" if relay.request == AUDITS[0] else _NO_VULNERABILITIES
        npm_json.require_object(body)
        return body

    def relay_life_s(self, relay: Relay) -> float:
        return SEARCH_LIFE_S if relay.method == "GET" else 0.0

    def amend(self, listing: Listing, keep: Mapping[str, Entry]) -> Listing:
        return documents.amend_packument(self._packument(listing), keep) if listing.page.view == "" else listing

    def owners(self, listing: Listing) -> Mapping[str, tuple[str, str]]:
        return {
            entry.file.path: (entry.file.project, entry.file.version)
            for entry in listing.entries.values()
            if entry.file.path and names.version_in(entry.file.project, entry.file.filename) != entry.file.version
        }

    # -- versions and files

    def version_of(self, page: Page) -> str | None:
        return _version(page) if _kind(page) == "attestations" else None

    def version_key(self, version: str) -> object | None:
        return names.version_key(version)

    def normalise(self, project: str) -> str:
        return names.normalise(project)

    def strict(self, file: File) -> bool:
        return True


def _flat(segments: tuple[str, ...]) -> tuple[str, ...]:
    """Segments with scopes on their own. ``%2f`` may stand nowhere else. Raises ``ValueError`` where it does."""
    flat: list[str] = []
    for segment in segments:
        pieces = segment.split("/")
        if len(pieces) > (2 if segment.startswith("@") else 1):
            raise ValueError(f"encoded slash in the request target: {segment[:64]!a}")
        flat += pieces
    return tuple(flat)


def _is_one(name: str, version: str) -> bool:
    # A tag could mean a version that is refused, and nobody here would know.
    return names.is_name(name) and names.version_key(version) is not None


def _kind(page: Page) -> str:
    return page.view.partition("/")[0]


def _version(page: Page) -> str:
    return page.view.partition("/")[2]


def _search_query(query: str) -> str:
    """A search's query with what the registry knows and nothing else, in one order. Raises ``ValueError`` for values that are none."""
    given: dict[str, str] = {}
    for part in query.split("&"):
        key, _, value = part.partition("=")
        try:
            given.setdefault(key, unquote_plus(value, errors="strict"))
        except UnicodeDecodeError:
            raise ValueError("percent-encoding is not UTF-8 in the query") from None
    asked: list[str] = []
    if "text" in given:
        if len(given["text"]) > LIMIT_TEXT:
            raise ValueError(f"a text to search for may have {LIMIT_TEXT} characters")
        asked.append(f"text={quote(given['text'], safe='')}")
    for key, limit in (("size", LIMIT_FOUND), ("from", 10_000)):
        if key in given:
            if not given[key].isascii() or not given[key].isdigit() or len(given[key]) > 9:
                raise ValueError(f"{key} is no number in the query")
            asked.append(f"{key}={min(int(given[key]), limit)}")
    asked += [f"{key}={_weight(key, given[key])}" for key in ("quality", "popularity", "maintenance") if key in given]
    return "?" + "&".join(asked) if asked else ""


def _weight(key: str, text: str) -> str:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight <= 1:
        raise ValueError(f"{key} is no number from 0 to 1 in the query")
    return f"{weight:g}"


@lru_cache(4096)
def _negotiate(accept: str) -> str:
    """The abbreviated form for who prefers it by name; the full one for everybody else, as any range means it."""
    qualities = {FULL: -1.0, ABBREVIATED: 0.0}
    for member in accept.lower().split(","):
        media_range, *parameters = [piece.strip() for piece in member.split(";")]
        if media_range in qualities:
            qualities[media_range] = max(qualities[media_range], quality_of(parameters))
    return ABBREVIATED if qualities[ABBREVIATED] > max(qualities[FULL], 0.0) else FULL


def _http_date(text: str | None) -> float:
    try:
        return parsedate_to_datetime(text).timestamp() if text else 0.0
    except (ValueError, OverflowError):
        return 0.0
