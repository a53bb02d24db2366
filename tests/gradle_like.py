"""A client that asks as today's Gradle does: what Debian's Gradle 4.4 does not know yet, in one place to count requests by.

Those are ``.module`` files and their marker, problem documents, signatures asked for in bulk, and a repository that is left alone after a
failure. Which requests it sends, in which order and with which headers, follows protocols/maven.md sections 2, 6 and 9, and what
the real 4.4 was seen to do. It resolves as far as tests need: highest version wins, ranges, parents, BOMs, snapshots; no exclusions,
no properties, one repository.
"""

from __future__ import annotations

import concurrent.futures
import gzip
import hashlib
import http.client
import json
import re
import threading
import time
import urllib.parse
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.jars import GRADLE_MARKER
from tests.jvm import JvmWorkspace, Resolution

ATTEMPTS = 3
"""How often a request that fails for a moment is sent: status 429 or 5xx, a broken connection, a timeout."""

REDIRECTS = 5

HEADERS = {
    "Connection": "Keep-Alive",
    "User-Agent": "Gradle/8.10 (Linux;6.1;amd64) (Debian;17;17)",
    "Accept-Encoding": "gzip,x-gzip,deflate",
}

Module = tuple[str, str]
"""Group and artifact."""


class Failed(Exception):
    """The build fails with this text."""


@dataclass(frozen=True)
class Head:
    """What a GET or HEAD says of a resource. ``sha1`` is lower-case hex, from a header."""

    etag: str | None
    last_modified: str | None
    length: str | None
    sha1: str | None

    def is_as(self, other: Head) -> bool:
        """The tag alone decides if both have one, else date and length."""
        if self.etag is not None and other.etag is not None:
            return self.etag == other.etag
        return self.last_modified is not None and (self.last_modified, self.length) == (other.last_modified, other.length)


@dataclass(frozen=True)
class Held:
    """A resource in the cache; ``file`` is None for one that was not there. ``at`` is in UTC seconds."""

    head: Head
    file: str | None
    at: float


@dataclass(frozen=True)
class Description:
    """What a version needs and has: dependencies, the files' URLs by name, and whether a jar has to be looked for by HEAD."""

    requires: tuple[tuple[Module, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class GradleLike:
    """The client. ``module_first``: the repository declares ``gradleMetadata()``; ``signatures``: the build verifies them.

    ``back_off_s`` is waited before a second attempt, twice as long before the third; the real one's is 1 s.
    """

    name: str = "gradle-like"
    module_first: bool = False
    signatures: bool = False
    back_off_s: float = 0.02

    def resolve(
        self,
        workspace: JvmWorkspace,
        url: str,
        requires: Sequence[str],
        *,
        options: Sequence[str] = (),
        timeout_s: float = 30,
        dynamic_s: float = 0,
    ) -> Resolution:
        """As ``jvm.JvmClient``; versions and lists that may change are held for ``dynamic_s`` seconds. There are no ``options``."""
        assert not options
        began = time.monotonic()
        build = _Build(self, url.rstrip("/") + "/", workspace.cache, timeout_s, dynamic_s)
        output: list[str] = []
        files: dict[str, Path] = {}
        try:
            for (group, artifact), version in build.graph(requires).items():
                files |= {f"{group}:{artifact}:{version}": path for path in build.files((group, artifact), version)}
        except Failed as failure:
            output = ["FAILURE: Build failed with an exception.", str(failure)]
            files = {}
            build.forget_absent()
        finally:
            build.close()
        return Resolution(1 if output else 0, "\n".join(output), files, time.monotonic() - began)


@dataclass
class _Build:
    """One run: the repository, whose first failure disables it, and the cache that runs share."""

    client: GradleLike
    root: str
    cache: Path
    timeout_s: float
    dynamic_s: float
    index: dict[str, Held] = field(init=False)
    disabled: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._local = threading.local()
        self._connections: list[http.client.HTTPConnection] = []
        self._descriptions: dict[tuple[Module, str], Description] = {}
        self._fresh: set[str] = set()
        store = self.cache / "index.json"
        rows = json.loads(store.read_text()) if store.exists() else {}
        self.index = {url: Held(Head(**row["head"]), row["file"], row["at"]) for url, row in rows.items()}

    def close(self) -> None:
        (self.cache / "index.json").write_text(json.dumps({url: asdict(held) for url, held in self.index.items()}))
        for connection in self._connections:
            connection.close()

    def forget_absent(self) -> None:
        """What was in no repository is looked for again in the next build."""
        self.index = {url: held for url, held in self.index.items() if held.file is not None}

    # -- the graph

    def graph(self, requires: Sequence[str]) -> dict[Module, str]:
        """The chosen version of everything reachable, by turns until no choice changes."""
        first = [((words[0], words[1]), words[2]) for words in (one.split(":") for one in requires)]
        chosen: dict[Module, str] = {}
        while True:
            wanted: dict[Module, set[str]] = {}
            todo = list(first)
            visited: set[tuple[Module, str]] = set()
            while todo:
                module, version = todo.pop(0)
                exact = self._exact(module, version)
                wanted.setdefault(module, set()).add(exact)
                best = max(chosen.get(module, exact), exact, key=_order)
                if (module, best) not in visited:
                    visited.add((module, best))
                    todo += self._describe(module, best).requires
            latest = {module: max(versions, key=_order) for module, versions in wanted.items()}
            if latest == chosen:
                return chosen
            chosen = latest

    def _exact(self, module: Module, version: str) -> str:
        """Choose of a range, ``latest.release`` or ``1.+``, from the G:A metadata."""
        if not (version[:1] in "[(" or version.endswith("+") or version.startswith("latest.")):
            return version
        url = f"{self._directory(module)}maven-metadata.xml"
        content = self._get(url, changing=True)
        if content is None:
            raise Failed(f"Could not find any version that matches {':'.join(module)}:{version}.\nSearched in: {url}")
        known = [one.text or "" for one in _xml(content).iterfind("./versioning/versions/version")]
        fitting = [one for one in known if _fits(one, version)]
        if not fitting:
            raise Failed(
                f"Could not find any version that matches {':'.join(module)}:{version}.\nVersions that do not match: {known}"
            )
        return max(fitting, key=_order)

    # -- one version

    def files(self, module: Module, version: str) -> Iterator[Path]:
        """Fetch its files, a few at a time."""
        description = self._describe(module, version)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            yield from [
                path
                for path in pool.map(lambda one: self._artifact(module, version, one, description), description.files)
                if path
            ]

    def _artifact(self, module: Module, version: str, file: tuple[str, str], description: Description) -> Path | None:
        name, url = file
        changing = version.endswith("-SNAPSHOT")
        if description.optional and url not in self.index and self._head(url) is None:
            self._keep(url, _absent())
        content = self._get(url, changing)
        if content is None:
            if description.optional:
                return None
            raise Failed(
                f"Could not find {name} ({':'.join(module)}:{version}).\nSearched in the following locations:\n    {url}"
            )
        self._signature(url)
        return Path(self.index[url].file or "")

    def _signature(self, url: str) -> None:
        if self.client.signatures:
            self._get(f"{url}.asc", changing=False)

    def _describe(self, module: Module, version: str) -> Description:
        known = self._descriptions.get((module, version))
        if known is None:
            known = self._descriptions[module, version] = self._read(module, version)
        return known

    def _read(self, module: Module, version: str) -> Description:
        changing = version.endswith("-SNAPSHOT")
        stem = self._stem(module, version)
        if self.client.module_first:
            found = self._module(f"{stem}.module", changing)
            if found is not None:
                return found
        pom = self._get(f"{stem}.pom", changing)
        if pom is None:
            raise Failed(f"Could not find {':'.join(module)}:{version}.\nSearched in the following locations:\n    {stem}.pom")
        if GRADLE_MARKER.encode() in pom and not self.client.module_first:
            found = self._module(f"{stem}.module", changing)
            if found is not None:
                return found
        self._signature(f"{stem}.pom")
        project = _xml(pom)
        packaging = project.findtext("packaging", "jar")
        managed = self._managed(project)
        requires = []
        for one in project.iterfind("./dependencies/dependency"):
            if one.findtext("scope", "compile") in {"compile", "runtime"} and one.findtext("optional") != "true":
                name = (one.findtext("groupId", ""), one.findtext("artifactId", ""))
                requires.append((name, one.findtext("version") or managed.get(name, "")))
        return Description(tuple(requires), ((f"{stem.rpartition('/')[2]}.jar", f"{stem}.jar"),), packaging == "pom")

    def _managed(self, project: ET.Element) -> dict[Module, str]:
        """Versions by dependency management: parents', imported BOMs', its own, the last one said winning."""
        managed: dict[Module, str] = {}
        parent = project.find("parent")
        if parent is not None:
            managed |= self._managed(self._pom_of(parent))
        for one in project.iterfind("./dependencyManagement/dependencies/dependency"):
            if one.findtext("scope") == "import":
                managed |= self._managed(self._pom_of(one))
            else:
                managed[one.findtext("groupId", ""), one.findtext("artifactId", "")] = one.findtext("version", "")
        return managed

    def _pom_of(self, element: ET.Element) -> ET.Element:
        module, version = (element.findtext("groupId", ""), element.findtext("artifactId", "")), element.findtext("version", "")
        url = f"{self._stem(module, version)}.pom"
        pom = self._get(url, version.endswith("-SNAPSHOT"))
        if pom is None:
            raise Failed(f"Could not find {':'.join(module)}:{version}.\nSearched in the following locations:\n    {url}")
        return _xml(pom)

    def _module(self, url: str, changing: bool) -> Description | None:
        """The runtime variant of a ``.module`` file, which may be in another module; None without one."""
        content = self._get(url, changing)
        if content is None:
            return None
        self._signature(url)
        document: dict[str, Any] = json.loads(content)
        for variant in document["variants"]:
            attributes = variant.get("attributes", {})
            if (
                attributes.get("org.gradle.usage") != "java-runtime"
                or attributes.get("org.gradle.category", "library") != "library"
            ):
                continue
            elsewhere = variant.get("available-at")
            if elsewhere is not None:
                return self._module(urllib.parse.urljoin(url, elsewhere["url"]), changing)
            requires = tuple(
                ((one["group"], one["module"]), one.get("version", {}).get("requires", ""))
                for one in variant.get("dependencies", ())
            )
            files = tuple((one["name"], urllib.parse.urljoin(url, one["url"])) for one in variant.get("files", ()))
            return Description(requires, files)
        raise Failed(f"No matching variant of {url} was found.")

    def _directory(self, module: Module) -> str:
        return f"{self.root}{module[0].replace('.', '/')}/{module[1]}/"

    def _stem(self, module: Module, version: str) -> str:
        """The URL of its files without ``.ext``; a snapshot's timestamp is that of its metadata, if it has any."""
        directory = f"{self._directory(module)}{version}/"
        named = version
        if version.endswith("-SNAPSHOT"):
            content = self._get(f"{directory}maven-metadata.xml", changing=True)
            snapshot = _xml(content).find("./versioning/snapshot") if content is not None else None
            if snapshot is not None and snapshot.findtext("timestamp"):
                named = f"{version.removesuffix('SNAPSHOT')}{snapshot.findtext('timestamp')}-{snapshot.findtext('buildNumber')}"
        return f"{directory}{module[1]}-{named}"

    # -- the cache

    def _get(self, url: str, changing: bool) -> bytes | None:
        """The resource's bytes, None for 404: from the cache, after a HEAD if it may have changed, or by GET."""
        with self._lock:
            held = self.index.get(url)
            usable = held is not None and (not changing or url in self._fresh or time.time() - held.at < self.dynamic_s)
        if held is not None and usable:
            return None if held.file is None else Path(held.file).read_bytes()
        candidates = self._candidates(url) if changing else []
        known = held is not None and held.file is not None
        if known or candidates:
            head = self._head(url)
            if head is None:
                self._keep(url, _absent())
                return None
            if held is not None and held.file is not None and held.head.is_as(head):
                self._keep(url, Held(held.head, held.file, time.time()))
                return Path(held.file).read_bytes()
            same = self._same(url, head, candidates)
            if same is not None:
                return self._store(url, head, same)
        status, fields, body = self._request("GET", url, revalidate=known)
        if status == 404:
            self._keep(url, _absent())
            return None
        return self._store(url, _head(fields), body)

    def _head(self, url: str) -> Head | None:
        status, fields, _ = self._request("HEAD", url, revalidate=True)
        return None if status == 404 else _head(fields)

    def _candidates(self, url: str) -> list[Path]:
        """Files of the same directory and extension that were fetched earlier."""
        directory, suffix = url.rpartition("/")[0], Path(url).suffix
        if suffix == ".xml":
            return []
        with self._lock:
            rows = [(one, held.file) for one, held in self.index.items() if held.file is not None]
        return [Path(file) for one, file in rows if one.rpartition("/")[0] == directory and Path(one).suffix == suffix]

    def _same(self, url: str, head: Head, candidates: Sequence[Path]) -> bytes | None:
        """One of ``candidates`` that has the checksum the repository tells, in a header or in its ``.sha1``."""
        if not candidates:
            return None
        sha1 = head.sha1
        if sha1 is None:
            status, _, body = self._request("GET", f"{url}.sha1", revalidate=False)
            sha1 = _strict_sha1(body.decode("latin-1").strip()) if status == 200 else None
        for one in candidates:
            content = one.read_bytes()
            if hashlib.sha1(content, usedforsecurity=False).hexdigest() == sha1:
                return content
        return None

    def _store(self, url: str, head: Head, content: bytes) -> bytes:
        path = self.cache / hashlib.sha256(content).hexdigest() / url.rpartition("/")[2]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        self._keep(url, Held(head, str(path), time.time()))
        return content

    def _keep(self, url: str, held: Held) -> None:
        with self._lock:
            self.index[url] = held
            self._fresh.add(url)

    # -- the wire

    def _request(self, method: str, url: str, revalidate: bool) -> tuple[int, Mapping[str, str], bytes]:
        """Status 200 or 404 with head and body. Anything else fails the build and disables the repository; raises ``Failed``."""
        if self.disabled:
            raise Failed(f"Repository maven is disabled due to earlier error below:\n{self.disabled}")
        failure = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(self.client.back_off_s * 2 ** (attempt - 1))
            try:
                status, reason, fields, body = self._follow(method, url, revalidate)
            except (OSError, http.client.HTTPException) as error:
                failure = f"Could not {method} '{url}'. {type(error).__name__}: {error}"
                continue
            if status in {200, 404}:
                return status, fields, body
            failure = f"Could not {method} '{url}'. Received status code {status} from server: {_detail(fields, body) or reason}"
            if status != 429 and status < 500:
                break
        self.disabled = failure
        raise Failed(f"Could not get resource '{url}'.\n> {failure}")

    def _follow(self, method: str, url: str, revalidate: bool) -> tuple[int, str, Mapping[str, str], bytes]:
        for _ in range(REDIRECTS + 1):
            parts = urllib.parse.urlsplit(url)
            connection = self._connection(parts.netloc)
            headers = ({"Cache-Control": "max-age=0"} if revalidate else {}) | HEADERS
            try:
                connection.request(method, url.partition(parts.netloc)[2], headers=headers)
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                raise
            fields = {name.lower(): value for name, value in response.getheaders()}
            if response.status not in {301, 302, 303, 307, 308}:
                packed = fields.get("content-encoding") in {"gzip", "x-gzip"} and body
                return response.status, response.reason, fields, gzip.decompress(body) if packed else body
            url = urllib.parse.urljoin(url, fields.get("location", ""))
        raise http.client.HTTPException("Maximum redirects exceeded")

    def _connection(self, netloc: str) -> http.client.HTTPConnection:
        """This thread's connection, kept open."""
        own: dict[str, http.client.HTTPConnection] = self._local.__dict__.setdefault("connections", {})
        if netloc not in own:
            own[netloc] = http.client.HTTPConnection(netloc, timeout=self.timeout_s)
            with self._lock:
                self._connections.append(own[netloc])
        return own[netloc]


def _absent() -> Held:
    return Held(Head(None, None, None, None), None, time.time())


def _head(fields: Mapping[str, str]) -> Head:
    etag = fields.get("etag")
    sha1 = fields.get("x-checksum-sha1")
    named = re.fullmatch(r"\{SHA1\{([0-9a-fA-F]+)\}\}", (etag or "").strip('"'))
    found = sha1 if sha1 is not None else named[1] if named else None
    return Head(
        etag, fields.get("last-modified"), fields.get("content-length"), _strict_sha1(found) if found is not None else None
    )


def _strict_sha1(text: str) -> str:
    """The whole text has to be the digest."""
    if not re.fullmatch(r"[0-9a-fA-F]{1,40}", text):
        raise Failed(f"Cannot parse a SHA-1 from {text[:80]!r}")
    return text.lower().rjust(40, "0")


def _detail(fields: Mapping[str, str], body: bytes) -> str:
    """What a problem document (RFC 9457) says; "" of any other."""
    if fields.get("content-type", "").partition(";")[0].strip() != "application/problem+json":
        return ""
    try:
        document = json.loads(body)
    except ValueError:
        return ""
    return str(document.get("detail") or document.get("title") or "")


def _xml(content: bytes) -> ET.Element:
    """The document without its namespaces. Raises ``Failed`` for what is none."""
    try:
        root = ET.fromstring(content)  # noqa: S314 -- what fakes and our own edge say, in a test
    except ET.ParseError as error:
        raise Failed(f"Could not parse XML: {error}") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _order(version: str) -> tuple[tuple[int, int, str], ...]:
    """Numbers above words, words by the alphabet."""
    parts = re.findall(r"\d+|[A-Za-z]+", version)
    return (*((1, int(part), "") if part.isdigit() else (-1, 0, part.lower()) for part in parts), (0, 0, ""))


def _fits(version: str, wanted: str) -> bool:
    """Whether a version is in ``[1.0,2.0)``, ``1.+`` or ``latest.release``."""
    if wanted.startswith("latest."):
        return wanted == "latest.integration" or not version.endswith("-SNAPSHOT")
    if wanted.endswith("+"):
        return version.startswith(wanted[:-1])
    low, comma, high = wanted[1:-1].partition(",")
    if not comma:
        return version == low
    above = not low or _order(version) > _order(low) or (version == low and wanted[0] == "[")
    below = not high or _order(version) < _order(high) or (version == high and wanted[-1] == "]")
    return above and below


GRADLE_LIKE = GradleLike()
