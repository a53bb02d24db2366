"""A fake npm registry: what it publishes, the packuments, tarballs and ``/-/`` answers it gives, and how a test tells it."""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import json
import re
import urllib.parse
import zlib
from collections.abc import Callable, Mapping, Sequence
from email.utils import format_datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from tests.fakes import npm_documents as documents
from tests.fakes.fake import Fake
from tests.fakes.misbehaviour import Misbehaviour
from tests.fakes.npm_documents import Advisory, Dialect, Package, Release
from tests.fakes.npm_keys import Ring, b64
from tests.fakes.server import Answer, Kind, Request
from tests.tarballs import Tarball

KEYS = "/-/npm/v1/keys"
ATTESTATIONS = "/-/npm/v1/attestations/"
AUDITS = "/-/npm/v1/security/"

PLACES = {KEYS: "keys", "/-/ping": "ping", "/-/v1/search": "search"}


class Written:
    """A document as bytes, as it was after so many ``changes`` of its package."""

    def __init__(self, changes: int, content: bytes) -> None:
        self.changes = changes
        self.content = content

    @cached_property
    def packed(self) -> bytes:
        return gzip.compress(self.content, 1, mtime=0)

    @cached_property
    def tag(self) -> str:
        return _tag(self.content)


class Npm(Kind):
    """What is published, as the registry tells it."""

    modes: ClassVar[Mapping[str, Any]] = {
        "abbreviates": True,
        "conditional": True,
        "validators": True,
        "signatures": True,
        "intermediary": False,
        "max_age": 300,
        "tarballs": "index",
        "audit": "both",
    }
    media_type = documents.JSON

    def __init__(self, ports: Mapping[str, int]) -> None:
        self.ring = Ring()
        super().__init__(ports)

    def begin(self) -> None:
        self.packages: dict[str, Package] = {}
        self.by_target: dict[str, Release] = {}
        self.advisories: list[Advisory] = []
        self.written: dict[tuple[str, str, Dialect], Written] = {}

    def calls(self) -> Mapping[str, Callable[..., Any]]:
        return {
            "publish": self.publish,
            "publish_many": self.publish_many,
            "replace": self.replace,
            "unpublish": self.unpublish,
            "set_tag": self.set_tag,
            "deprecate": self.deprecate,
            "advise": self.advise,
            "packument": self.packument,
            "attestations": self.attestations,
            "keys": self.ring.document,
        }

    @property
    def dialect(self) -> Dialect:
        tarballs = self.root(str(self.settings["tarballs"]))
        return Dialect(self.root(), tarballs, bool(self.settings["signatures"]), bool(self.settings["intermediary"]))

    # -- changes

    def publish(
        self,
        name: str,
        version: str,
        manifest: dict[str, Any],
        dist: dict[str, Any],
        target: str,
        file: str | None,
        tags: Sequence[str],
        time: str,
        deprecated: str | None,
        provenance: bool,
        signature: str,
    ) -> None:
        with self.lock:
            package = self._touch(name, time)
            release = Release(version, manifest, dist, target, file, time, deprecated, [], provenance)
            if "integrity" in dist:
                release.signatures = self.ring.signatures(name, version, dist["integrity"], time, signature)
            package.releases[version] = self.by_target[target] = release
            package.times[version] = time
            package.tags |= dict.fromkeys(tags, version)

    def publish_many(self, name: str, versions: int, bytes_each: int) -> None:
        """Versions of one minor each, a minute apart, with a member that makes each as long as wanted."""
        with self.lock:
            package = self._touch(name, "2024-01-01T00:00:00.000Z")
            for number in range(versions):
                version = f"1.{number}.0"
                digest = hashlib.sha512(f"{name}@{version}".encode()).digest()
                integrity = f"sha512-{b64(digest)}"
                dist = {"integrity": integrity, "shasum": digest[:20].hex(), "fileCount": 2, "unpackedSize": 1000 + number}
                target = f"{name}/-/{name.rpartition('/')[2]}-{version}.tgz"
                time = _moment(_parse("2024-01-01T00:00:00.000Z") + dt.timedelta(minutes=number))
                signatures = self.ring.signatures(name, version, integrity, time, "good")
                release = Release(
                    version, {"name": name, "version": version, "notes": ""}, dist, target, None, time, None, signatures
                )
                length = len(json.dumps(documents.manifest(package, release, self.dialect), separators=(",", ":")))
                release.manifest["notes"] = ("made for a test, and long; " * (bytes_each // 27 + 1))[
                    : max(0, bytes_each - length)
                ]
                package.releases[version] = self.by_target[target] = release
                package.times[version] = package.modified = time
                package.tags["latest"] = version

    def replace(self, name: str, version: str, dist: dict[str, Any], file: str, listed: bool, signed: bool) -> None:
        with self.lock:
            package = self._touch(name) if listed else self.packages[name]
            release = package.releases[version]
            release.file = file
            if listed:
                release.dist = dist
            if signed:
                release.signatures = self.ring.signatures(name, version, dist["integrity"], release.time, "good")

    def unpublish(self, name: str, version: str | None, bytes_too: bool) -> None:
        with self.lock:
            gone = self._find(name, version)
            if version is None:
                del self.packages[name]
            else:
                package = self._touch(name)
                del package.releases[version]
                left = list(package.releases)
                package.tags = {
                    tag: left[-1] if tagged == version else tagged
                    for tag, tagged in package.tags.items()
                    if tagged != version or (tag == "latest" and left)
                }
            if bytes_too:
                ids = {id(release) for release in gone}
                self.by_target = {target: release for target, release in self.by_target.items() if id(release) not in ids}

    def set_tag(self, name: str, tag: str, version: str | None) -> None:
        with self.lock:
            package = self._touch(name)
            if version is None:
                del package.tags[tag]
            else:
                package.tags[tag] = package.releases[version].version

    def deprecate(self, name: str, version: str, message: str | None) -> None:
        with self.lock:
            (release,) = self._find(name, version)
            self._touch(name)
            release.deprecated = message

    def advise(self, name: str, versions: list[str], vulnerable_versions: str, severity: str, title: str) -> int:
        with self.lock:
            number = 1_000_001 + len(self.advisories)
            self.advisories.append(Advisory(number, name, tuple(versions), vulnerable_versions, severity, title))
            return number

    def packument(self, name: str) -> dict[str, Any]:
        with self.lock:
            return documents.packument(self._package(name), self.dialect)

    def attestations(self, name: str, version: str) -> dict[str, Any]:
        (release,) = self._find(name, version)
        return self.ring.attestations(name, version, release.dist["integrity"], release.time, self.root())

    def _touch(self, name: str, time: str | None = None) -> Package:
        """Count a change of a package. ``modified`` is the time given, or a minute after the last where that is later."""
        if time is None:
            self._package(name)
        package = self.packages.setdefault(name, Package(name, created=time or "", modified=time or ""))
        package.remember_first()
        if package.changes:
            later = _moment(_parse(package.modified) + dt.timedelta(minutes=1))
            package.modified = max(time or "", later)
        package.changes += 1
        return package

    def _package(self, name: str) -> Package:
        if name not in self.packages:
            raise LookupError(f"no package {name}")
        return self.packages[name]

    def _find(self, name: str, version: str | None) -> list[Release]:
        releases = self._package(name).releases
        if version is None:
            return list(releases.values())
        if version not in releases:
            raise LookupError(f"no version {name}@{version}")
        return [releases[version]]

    # -- answers

    def classify(self, request: Request) -> str:
        path = request.path.partition("?")[0]
        if path.startswith(AUDITS) and request.method == "POST":
            return "audit"
        if request.method not in {"GET", "HEAD"}:
            return "write"
        if path in PLACES:
            return PLACES[path]
        if path.startswith(ATTESTATIONS):
            return "attestations"
        if request.host != "index" or path.endswith(".tgz") or _plain(path) in self.by_target:
            return "tarball"
        if path.startswith("/-/") or path == "/":
            return "other"
        _, rest = _name_of(_plain(path))
        return {0: "packument", 1: "manifest"}.get(len(rest), "other")

    def told(self, request: Request) -> str:
        """The body decoded, as text: an audit's is JSON."""
        try:
            return _decoded(request).decode()
        except ValueError:
            return super().told(request)

    def tag(self, content: bytes) -> str:
        return _tag(content)

    def answer(self, request: Request, how: list[Misbehaviour]) -> Answer:
        with self.lock:
            match self.classify(request):
                case "audit":
                    return self._audit(request)
                case "write":
                    return self._write(request)
                case "keys":
                    return self._served(self.ring.document())
                case "attestations":
                    return self._attestations(request)
                case "search":
                    return self._search(request)
                case "ping":
                    return _json(200, {})
                case "tarball":
                    return self._tarball(request)
                case "packument" | "manifest":
                    return self._package_answer(request, how)
                case _:
                    return self._other(request)

    def _package_answer(self, request: Request, how: list[Misbehaviour]) -> Answer:
        path = request.path.partition("?")[0]
        name, rest = _name_of(_plain(path))
        package = self.packages.get(name)
        if package is None or not package.releases or "%40" in path:
            return _not_found()  # the scope's sign stays as it is, whatever else is escaped
        if any(one.old_serial for one in how) and package.first is not None:
            package = package.first
        if rest:
            release = package.releases.get(package.tags.get(rest[0], rest[0]))
            if release is None:
                return _json(404, f"version not found: {rest[0]}")
            content = json.dumps(documents.manifest(package, release, self.dialect)).encode()
            return self._cached(Written(package.changes, content), documents.JSON, package)
        short = (
            self.settings["abbreviates"] and not self.settings["intermediary"] and _wants_short(request.headers.get("accept", ""))
        )
        media_type = documents.ABBREVIATED if short else documents.JSON
        key = (name, media_type, self.dialect)
        written = self.written.get(key)
        if written is None or written.changes != package.changes:
            document = documents.abbreviated(package, self.dialect) if short else documents.packument(package, self.dialect)
            written = Written(package.changes, json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode())
            self.written[key] = written
        return self._cached(written, media_type, package)

    def _cached(self, written: Written, media_type: str, package: Package) -> Answer:
        """Add what the registry says about caching."""
        answer = Answer.text(200, written.content, media_type)
        answer.packed = lambda: written.packed
        if self.settings["intermediary"]:
            return answer
        answer.set("Cache-Control", f"public, max-age={self.settings['max_age']}")
        answer.set("Vary", "accept-encoding, accept")
        answer.set("Accept-Ranges", "bytes")
        if self.settings["validators"]:
            answer.set("ETag", written.tag)
            answer.set("Last-Modified", _http_date(package.modified))
            answer.conditional = bool(self.settings["conditional"])
        return answer

    def _served(self, document: dict[str, Any]) -> Answer:
        """Keys and attestations: an intermediary does not have them."""
        if self.settings["intermediary"]:
            return Answer(404)
        answer = _json(200, document)
        answer.set("Cache-Control", f"public, max-age={self.settings['max_age']}")
        answer.conditional = bool(self.settings["validators"] and self.settings["conditional"])
        return answer

    def _attestations(self, request: Request) -> Answer:
        name, _, version = _plain(request.path.partition("?")[0]).removeprefix(ATTESTATIONS.lstrip("/")).rpartition("@")
        package = self.packages.get(name)
        release = package.releases.get(version) if package is not None else None
        if release is None or not release.provenance or self.settings["intermediary"]:
            return Answer(404) if self.settings["intermediary"] else _not_found()
        return self._served(self.attestations(name, version))

    def _tarball(self, request: Request) -> Answer:
        release = self.by_target.get(_plain(request.path.partition("?")[0]))
        away = request.host == "index" and self.settings["tarballs"] != "index"
        if release is None or release.file is None or away:
            return _not_found()
        answer = Answer.file(Path(release.file))
        if not self.settings["intermediary"]:
            answer.set("Cache-Control", "public, immutable, max-age=31557600")
            answer.set("ETag", f'"{hashlib.md5(release.file.encode(), usedforsecurity=False).hexdigest()}"')
            answer.set("Last-Modified", _http_date(release.time))
            answer.conditional = True
        return answer

    def _search(self, request: Request) -> Answer:
        query = urllib.parse.parse_qs(request.path.partition("?")[2])
        words = query.get("text", [""])[0].lower().split()
        size, start = int(query.get("size", ["20"])[0]), int(query.get("from", ["0"])[0])
        names = sorted(name for name, package in self.packages.items() if package.releases)
        matching = [name for name in names if all(word in name.lower() for word in words)]
        objects = [documents.found(self.packages[name]) for name in matching[start : start + size]]
        answer = _json(200, {"objects": objects, "total": len(matching), "time": "2024-01-01T00:00:00.000Z"})
        answer.set("Cache-Control", "private, no-store")
        return answer

    def _audit(self, request: Request) -> Answer:
        """Bulk audits and the older whole trees; 400 where the body is not what a client sends."""
        call = request.path.partition("?")[0].removeprefix(AUDITS)
        allowed = {"both": ("advisories/bulk", "audits/quick", "audits"), "quick": ("audits/quick", "audits"), "off": ()}
        if call not in allowed[self.settings["audit"]]:
            return _not_found()
        try:
            document = json.loads(_decoded(request))
        except ValueError as error:
            return _json(400, {"error": f"not JSON: {error}"})
        if call == "advisories/bulk":
            if not _is_bulk(document):
                return _json(400, {"error": "want names with lists of versions"})
            reply = documents.bulk_audit(document, self.advisories)
        elif isinstance(document, dict) and isinstance(document.get("dependencies", {}), dict):
            reply = documents.quick_audit(document, self.advisories)
        else:
            return _json(400, {"error": "want a tree of dependencies"})
        answer = _json(200, reply)
        answer.set("Cache-Control", "private, no-store")
        return answer

    @staticmethod
    def _write(request: Request) -> Answer:
        """Say yes to whatever would change something, and change nothing: the log has it."""
        if request.path == "/-/v1/login":
            return _not_found()
        return _json(201, {"ok": True, "id": request.path, "rev": "1-0", "token": "issued-by-the-fake"})

    def _other(self, request: Request) -> Answer:
        path = request.path.partition("?")[0]
        if path == "/":
            return _json(200, {"db_name": "registry", "doc_count": len(self.packages)})
        if path == "/-/whoami":
            return _json(401, {"error": "You must be logged in"})
        if (asked := re.fullmatch(r"-/package/(.+)/dist-tags", _plain(path))) and asked[1] in self.packages:
            return _json(200, self.packages[asked[1]].tags)
        return _not_found()


def _json(status: int, document: object) -> Answer:
    return Answer.text(status, json.dumps(document), documents.JSON)


def _not_found() -> Answer:
    return _json(404, {"error": "Not found"})


def _plain(path: str) -> str:
    """A path below the root, decoded: ``@scope%2fname`` and ``@scope/name`` are one."""
    return urllib.parse.unquote(path).removeprefix("/")


def _name_of(plain: str) -> tuple[str, list[str]]:
    """The package's name and the segments after it."""
    segments = plain.split("/")
    length = 2 if plain.startswith("@") else 1
    return "/".join(segments[:length]), segments[length:]


def _wants_short(accept: str) -> bool:
    """Whether the abbreviated form is asked for by its name, and not less than the full one."""
    weights = {}
    for part in accept.split(","):
        media_type, *parameters = [piece.strip() for piece in part.split(";")]
        weights[media_type] = next((float(one[2:]) for one in parameters if one.startswith("q=")), 1.0)
    return 0 < weights.get(documents.ABBREVIATED, 0) >= weights.get(documents.JSON, 0)


def _decoded(request: Request) -> bytes:
    """The body without its content coding. Raises ``ValueError``."""
    coding = request.headers.get("content-encoding", "identity")
    if coding == "identity":
        return request.body
    if coding != "gzip":
        raise ValueError(f"content coding {coding}")
    try:
        return gzip.decompress(request.body)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"bad gzip: {error}") from None


def _is_bulk(document: object) -> bool:
    return isinstance(document, dict) and all(
        isinstance(versions, list) and all(isinstance(version, str) for version in versions) for versions in document.values()
    )


def _tag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def _parse(time: str) -> dt.datetime:
    return dt.datetime.fromisoformat(time)


def _moment(time: dt.datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03}Z"


def _http_date(time: str) -> str:
    return format_datetime(_parse(time).astimezone(dt.UTC), usegmt=True)


class FakeNpm(Fake):
    """The fake npm registry as a test holds it.

    Its modes: ``abbreviates`` (goes by ``Accept``), ``conditional`` (answers 304), ``validators``, ``signatures`` (tells them),
    ``intermediary`` (seen through a cache that tells less: protocols/npm.md section 2.1), ``max_age`` (seconds, of documents),
    ``tarballs`` (the host they are on: ``index``, ``files`` or ``elsewhere``), ``audit`` (``both``, ``quick`` or ``off``).

    Requests are of the kinds ``packument``, ``manifest``, ``tarball``, ``keys``, ``attestations``, ``search``, ``audit`` (with the
    body decoded), ``ping``, ``write`` (whatever would change something) and ``other``.
    """

    kind = "npm"

    @property
    def registry_url(self) -> str:
        """What an edge's ``upstream`` is set to."""
        return f"{self.index_root}/"

    def publish(
        self,
        *tarballs: Tarball,
        tags: Sequence[str] = ("latest",),
        time: str = "2024-01-01T00:00:00.000Z",
        deprecated: str | None = None,
        provenance: bool = False,
        integrity: bool = True,
        signature: str = "good",
        target: str | None = None,
        manifest: Mapping[str, Any] | None = None,
    ) -> None:
        """Offer versions, each with those tags; one published before under the same version is replaced.

        ``signature``: ``good``, ``tampered``, ``expired`` (the old key, after its end, if ``time`` is later than 2020), ``unknown`` (by a
        key that is not listed) or ``none``. Not ``integrity``: ``shasum`` only and unsigned, as of old. ``target``: another path than the
        conventional one, below the root. ``manifest``: members that the registry tells otherwise than the tarball's ``package.json``.
        """
        for one in tarballs:
            dist = self._dist(one)
            if not integrity:
                del dist["integrity"]
            self._call(
                "publish",
                name=one.name,
                version=one.version,
                manifest={**one.manifest, **(manifest or {})},
                dist=dist,
                target=target or one.target,
                file=str(one.path),
                tags=list(tags),
                time=time,
                deprecated=deprecated,
                provenance=provenance,
                signature=signature,
            )

    def publish_many(self, name: str, versions: int, bytes_each: int = 1000) -> None:
        """List versions ``1.0.0``, ``1.1.0``, … that exist in the packument only, each about ``bytes_each`` bytes of the full one."""
        self._call("publish_many", name=name, versions=versions, bytes_each=bytes_each)

    def replace(self, tarball: Tarball, *, listed: bool = True, signed: bool = False) -> None:
        """Serve these bytes under the version of that name. ``listed``: the packument tells their digests; ``signed``: and a signature."""
        self._call(
            "replace",
            name=tarball.name,
            version=tarball.version,
            dist=self._dist(tarball),
            file=str(tarball.path),
            listed=listed,
            signed=signed,
        )

    def unpublish(self, name: str, version: str | None = None, *, bytes_too: bool = True) -> None:
        """Take a version away, or (None) the whole package. ``latest`` falls to what was published last of the rest."""
        self._call("unpublish", name=name, version=version, bytes_too=bytes_too)

    def set_tag(self, name: str, tag: str, version: str | None) -> None:
        """Point a tag at a version; None takes the tag away."""
        self._call("set_tag", name=name, tag=tag, version=version)

    def deprecate(self, name: str, version: str, message: str | None = "use another") -> None:
        self._call("deprecate", name=name, version=version, message=message)

    def advise(
        self,
        name: str,
        *versions: str,
        vulnerable_versions: str = "*",
        severity: str = "high",
        title: str = "Prototype pollution",
    ) -> int:
        """Have audits find these versions; gives the advisory's number."""
        call = partial(self._call, "advise", name=name, versions=versions)
        return int(call(vulnerable_versions=vulnerable_versions, severity=severity, title=title))

    def tarball_url(self, tarball: Tarball, host: str = "index") -> str:
        """Where a tarball with the conventional path is."""
        return f"{self.root(host)}/{tarball.target}"

    def packument(self, name: str) -> dict[str, Any]:
        """The full packument as upstream would write it now."""
        return dict(self._call("packument", name=name))

    def attestations(self, name: str, version: str) -> dict[str, Any]:
        """What the registry attests of a version that has provenance."""
        return dict(self._call("attestations", name=name, version=version))

    def keys_json(self) -> str:
        """The key document, as an operator would pin it. The keys stay the same until the fake ends."""
        return json.dumps(self._call("keys"), indent=2)

    @staticmethod
    def _dist(tarball: Tarball) -> dict[str, Any]:
        return {
            "integrity": tarball.integrity,
            "shasum": tarball.shasum,
            "fileCount": tarball.file_count,
            "unpackedSize": tarball.unpacked_size,
        }


KIND = Npm
