"""A fake Maven repository: the tree of files, metadata that follows what is published, and how a test tells it.

Releases are under ``/maven2/`` and snapshots under ``/maven-snapshots/``. Headers are those of Central (protocols/maven.md section 3): the
ETag is the quoted MD5 of the content, and each answer names its own SHA-1 and MD5 unless told not to. Two fakes may run at once.
"""

from __future__ import annotations

import hashlib
import mimetypes
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import Any, ClassVar

from tests.fakes import maven_documents as documents
from tests.fakes.fake import Fake
from tests.fakes.maven_documents import EPOCH_S, Project, Version
from tests.fakes.misbehaviour import Misbehaviour
from tests.fakes.server import Answer, Kind, Request
from tests.jars import Component, Stored

RELEASES = "/maven2/"
SNAPSHOTS = "/maven-snapshots/"

CHECKSUMS = (".md5", ".sha1", ".sha256", ".sha512")

MEDIA_TYPES = {
    ".jar": "application/java-archive",
    ".pom": "text/xml",
    ".xml": "text/xml",
    ".module": "application/json",
    ".asc": "text/plain",
    ".txt": "text/plain",
}


@dataclass(frozen=True)
class Held:
    """One published file. ``file`` is where its bytes are; digests are lower-case hex by algorithm."""

    file: str
    size: int
    digests: Mapping[str, str]
    changed: int


@dataclass(frozen=True)
class Document:
    """One document as it stands: its bytes, and the serial of its last change."""

    content: bytes
    serial: int


class Maven(Kind):
    """What is published, as the repository tells it."""

    modes: ClassVar[Mapping[str, Any]] = {
        "checksum_headers": True,
        "sidecars": "md5 sha1",
        "style": "bare",
        "validators": True,
        "prefixes": "listed",
        "churn": "",
        "throttle": 0,
        "retry_after": "30",
    }
    media_type = "text/xml"

    def begin(self) -> None:
        self.held: dict[str, Held] = {}
        self.projects: dict[tuple[str, str, str], Project] = {}
        self.written: dict[str, Document] = {}
        self.put_texts: dict[str, Document] = {}
        self.first: dict[str, Document] = {}
        self.serial = 0
        self.asked = 0

    def calls(self) -> Mapping[str, Callable[..., Any]]:
        return {
            "publish": self.publish,
            "put": self.put,
            "withdraw": self.withdraw,
            "withdraw_version": self.withdraw_version,
            "describe": self.describe,
            "touch": self.touch,
            "text": self.text,
        }

    def tag(self, content: bytes) -> str:
        return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'

    # -- changes

    def publish(
        self,
        repository: str,
        group: str,
        artifact: str,
        version: str,
        stamp: list[Any] | None,
        prefix: str,
        files: list[dict[str, Any]],
        listed: bool,
    ) -> None:
        with self.lock:
            self.serial += 1
            for one in files:
                digests = {name: one[name] for name in ("md5", "sha1", "sha256", "sha512")}
                self.held[repository + one["path"]] = Held(one["file"], one["size"], digests, self.serial)
                self.put_texts.pop(repository + one["path"], None)
            if not listed:
                return
            project = self.projects.setdefault((repository, group, artifact), Project(group, artifact, self.serial))
            self._remember(repository, project)
            project.serial = self.serial
            project.prefix = prefix or project.prefix
            known = project.versions.setdefault(version, Version(version))
            if stamp is not None:
                names = [one["path"].rpartition("/")[2] for one in files]
                known.stamps = [old for old in known.stamps if (old[0], old[1]) != (stamp[0], stamp[1])]
                known.stamps.append((str(stamp[0]), int(stamp[1]), names))

    def put(self, path: str, text: str) -> None:
        """Answer with this text at ``path``, whatever is published; its checksums follow it."""
        with self.lock:
            self.serial += 1
            self.put_texts[path] = Document(text.encode(), self.serial)

    def withdraw(self, path: str) -> None:
        """Answer 404 for one file and its checksums; metadata stays."""
        with self.lock:
            if self.held.pop(path, None) is None and self.put_texts.pop(path, None) is None:
                raise LookupError(f"no file {path}")

    def withdraw_version(self, repository: str, group: str, artifact: str, version: str) -> None:
        """Take a version off the metadata, and its files away."""
        with self.lock:
            project = self.projects[repository, group, artifact]
            del project.versions[version]
            self.serial += 1
            project.serial = self.serial
            directory = f"{repository}{group.replace('.', '/')}/{artifact}/{version}/"
            self.held = {path: one for path, one in self.held.items() if not path.startswith(directory)}

    def describe(self, repository: str, group: str, artifact: str, latest: str | None, release: str | None) -> None:
        with self.lock:
            project = self.projects[repository, group, artifact]
            self.serial += 1
            project.serial, project.latest, project.release = self.serial, latest, release

    def touch(self, repository: str, group: str, artifact: str) -> None:
        """Raise the metadata's ``lastUpdated``."""
        with self.lock:
            self.serial += 1
            self.projects[repository, group, artifact].serial = self.serial

    def text(self, path: str) -> str:
        """What the repository would answer at ``path``, a document, now."""
        with self.lock:
            document = self._document(path)
            if document is None:
                raise LookupError(f"no document {path}")
            return document.content.decode()

    def _remember(self, repository: str, project: Project) -> None:
        """Keep the project's metadata as it first was, for ``old_serial``."""
        path = f"{repository}{project.group.replace('.', '/')}/{project.artifact}/maven-metadata.xml"
        if path not in self.first and project.versions:
            self.first[path] = Document(documents.project_xml(project).encode(), project.serial)

    # -- answers

    def classify(self, request: Request) -> str:
        path = _path(request)
        name = path.rpartition("/")[2]
        if name.endswith(CHECKSUMS):
            return "checksum"
        if name == "maven-metadata.xml":
            return "metadata"
        if "/.meta/" in path:
            return "prefixes"
        if name == "archetype-catalog.xml":
            return "catalog"
        if name.endswith((".asc", ".sigstore.json")):
            return "signature"
        if name.endswith((".pom", ".module")):
            return name.rpartition(".")[2]
        return "jar" if name and path.startswith((RELEASES, SNAPSHOTS)) and path.count("/") >= 5 else "other"

    def answer(self, request: Request, how: list[Misbehaviour]) -> Answer:
        """The right answer, as the repository gives it."""
        path = _path(request)
        with self.lock:
            if request.method not in {"GET", "HEAD"}:
                return Answer.text(405, "", Allow="GET, HEAD")
            self.asked += 1
            if self.settings["throttle"] and self.asked > self.settings["throttle"]:
                return Answer.text(429, "Too Many Requests", Retry_After=str(self.settings["retry_after"]))
            if not path.startswith((RELEASES, SNAPSHOTS)):
                return self._missing()
            suffix = next((one for one in CHECKSUMS if path.endswith(one)), "")
            if suffix and path not in self.put_texts:
                return self._checksum(path.removesuffix(suffix), suffix[1:], how)
            return _unless_modified(request, self._content(path, how))

    def mode(self, **settings: Any) -> None:
        with self.lock:
            super().mode(**settings)
            self.asked = 0

    def _checksum(self, path: str, algorithm: str, how: list[Misbehaviour]) -> Answer:
        if algorithm not in self.settings["sidecars"].split():
            return self._missing()
        if self.settings["churn"] == "all":
            self._churn(path)
        document = self._document(path, how)
        if document is not None:
            digest, changed = hashlib.new(algorithm, document.content, usedforsecurity=False).hexdigest(), document.serial
        elif path in self.held:
            digest, changed = self.held[path].digests[algorithm], self.held[path].changed
        else:
            return self._missing()
        content = documents.checksum_text(digest, algorithm, path, str(self.settings["style"])).encode()
        return self._headed(Answer.file(content, "text/plain"), _digests(content), changed)

    def _content(self, path: str, how: list[Misbehaviour]) -> Answer:
        if self.settings["churn"]:
            self._churn(path)
        kind = MEDIA_TYPES.get(Path(path).suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream"
        document = self._document(path, how)
        if document is not None:
            return self._headed(Answer.file(document.content, kind), _digests(document.content), document.serial)
        held = self.held.get(path)
        if held is None:
            return self._missing()
        return self._headed(Answer.file(Path(held.file), kind), held.digests, held.changed)

    def _missing(self) -> Answer:
        return Answer.text(404, "<html><body><h1>404 Not Found</h1></body></html>", "text/html")

    def _headed(self, answer: Answer, digests: Mapping[str, str], changed: int) -> Answer:
        """Add validators and checksums, as Central does."""
        if self.settings["validators"]:
            answer.set("ETag", f'"{digests["md5"]}"')
            answer.set("Last-Modified", formatdate(EPOCH_S + changed, usegmt=True))
            answer.conditional = True
        if self.settings["checksum_headers"]:
            answer.set("x-checksum-md5", digests["md5"])
            answer.set("x-checksum-sha1", digests["sha1"])
        return answer

    def _churn(self, path: str) -> None:
        """Be updated once more, if it is a project's metadata."""
        found = self._project(path)
        if found is not None:
            self.serial += 1
            found.serial = self.serial

    def _project(self, path: str) -> Project | None:
        """The project whose G:A or G:A:V metadata ``path`` is."""
        if not path.endswith("/maven-metadata.xml"):
            return None
        repository = SNAPSHOTS if path.startswith(SNAPSHOTS) else RELEASES
        parts = path.removeprefix(repository).split("/")[:-1]
        if parts[-1:] and parts[-1].endswith("-SNAPSHOT"):
            parts.pop()
        return self.projects.get((repository, ".".join(parts[:-1]), parts[-1])) if len(parts) > 1 else None

    def _document(self, path: str, how: list[Misbehaviour] | None = None) -> Document | None:
        """The document at ``path`` if the repository writes one there."""
        if path in self.put_texts:
            return self.put_texts[path]
        repository = SNAPSHOTS if path.startswith(SNAPSHOTS) else RELEASES
        name = path.removeprefix(repository)
        mine = {key: project for key, project in self.projects.items() if key[0] == repository}
        if name == ".meta/prefixes.txt":
            return self._prefixes(mine)
        if name == "archetype-catalog.xml":
            return Document(documents.catalog_xml(list(mine.values())).encode(), self.serial)
        if not name.endswith("/maven-metadata.xml"):
            return None
        if any(one.old_serial for one in how or ()) and path in self.first:
            return self.first[path]
        project = self._project(path)
        directory = name.removesuffix("/maven-metadata.xml")
        if project is not None and not directory.endswith("-SNAPSHOT"):
            if not project.versions:
                return None
            return Document(documents.project_xml(project).encode(), project.serial)
        if project is not None:
            version = project.versions.get(directory.rpartition("/")[2])
            return Document(documents.snapshot_xml(project, version).encode(), project.serial) if version is not None else None
        plugins = [one for key, one in mine.items() if key[1] == directory.replace("/", ".") and one.prefix]
        if not plugins:
            return None
        return Document(documents.group_xml(plugins).encode(), max(one.serial for one in plugins))

    def _prefixes(self, mine: Mapping[tuple[str, str, str], Project]) -> Document | None:
        if self.settings["prefixes"] == "listed":
            return Document(documents.prefixes_text(key[1] for key in mine).encode(), self.serial)
        if self.settings["prefixes"] == "unsupported":
            return Document(b"@ unsupported\n", 0)
        return None


def _path(request: Request) -> str:
    return urllib.parse.unquote(request.path.partition("?")[0])


def _unless_modified(request: Request, answer: Answer) -> Answer:
    """RFC 9110 section 13.1.4: with this a client goes on with a file only if it is the same."""
    since, modified = request.headers.get("if-unmodified-since"), answer.header("Last-Modified")
    if since is None or modified is None or answer.status != 200:
        return answer
    if parsedate_to_datetime(modified) > parsedate_to_datetime(since):
        return Answer.text(412, "")
    return answer


def _digests(content: bytes) -> dict[str, str]:
    return {name: hashlib.new(name, content, usedforsecurity=False).hexdigest() for name in ("md5", "sha1")}


class FakeMaven(Fake):
    """The fake repository as a test holds it.

    Requests are of kind ``metadata``, ``checksum``, ``pom``, ``jar`` (any other artifact), ``module``, ``signature``, ``prefixes``,
    ``catalog`` or ``other``. Its modes: ``checksum_headers`` (``x-checksum-*``), ``sidecars`` (the algorithms that have a file, with
    spaces between), ``style`` (how those are written: ``maven_documents.checksum_text``), ``validators``, ``prefixes`` (``listed``,
    ``unsupported`` or ``""``: 404), ``churn`` (``documents``: metadata changes with each request for it; ``all``: with each for its
    checksums too), ``throttle`` (429 after so many requests, counted from when a mode was last set; 0: never) with ``retry_after``.
    """

    kind = "maven"

    @property
    def url(self) -> str:
        """The root of the releases, with its slash: what an edge's ``upstream`` is set to."""
        return f"{self.index_root}{RELEASES}"

    @property
    def snapshots_url(self) -> str:
        return f"{self.index_root}{SNAPSHOTS}"

    def publish(self, *components: Component, listed: bool = True) -> None:
        """Offer versions, in this order; files published before under the same path are replaced.

        Not ``listed``: metadata stays as it is.
        """
        for one in components:
            self._call(
                "publish",
                repository=_repository(one.version),
                group=one.group,
                artifact=one.artifact,
                version=one.version,
                stamp=one.stamp,
                prefix=one.prefix,
                files=[_told(file) for file in one.files],
                listed=listed,
            )

    def put(self, path: str, text: str) -> None:
        """Answer with this text at a path (with ``/maven2/``), whatever is published; ``withdraw`` undoes it."""
        self._call("put", path=path, text=text)

    def withdraw(self, path: str) -> None:
        """Answer 404 for the file at a path (with ``/maven2/``) and for its checksums."""
        self._call("withdraw", path=path)

    def withdraw_version(self, component: Component) -> None:
        """Take a version off its metadata, and its files away."""
        self._call(
            "withdraw_version",
            repository=_repository(component.version),
            group=component.group,
            artifact=component.artifact,
            version=component.version,
        )

    def describe(self, project: str, *, latest: str | None = None, release: str | None = None) -> None:
        """Say what ``latest`` and ``release`` of ``group:artifact`` are ("": no such element; None: what its versions give)."""
        group, _, artifact = project.partition(":")
        self._call("describe", repository=RELEASES, group=group, artifact=artifact, latest=latest, release=release)

    def touch(self, project: str, *, snapshots: bool = False) -> None:
        """Raise ``lastUpdated`` of ``group:artifact``."""
        group, _, artifact = project.partition(":")
        self._call("touch", repository=SNAPSHOTS if snapshots else RELEASES, group=group, artifact=artifact)

    def text(self, path: str) -> str:
        """A document as the repository would write it now."""
        return str(self._call("text", path=path))

    def path_of(self, file: Stored) -> str:
        """Where the fake has a file: its path with ``/maven2/`` or ``/maven-snapshots/``."""
        return (SNAPSHOTS if file.path.rpartition("/")[0].endswith("-SNAPSHOT") else RELEASES) + file.path


def _repository(version: str) -> str:
    return SNAPSHOTS if version.endswith("-SNAPSHOT") else RELEASES


def _told(file: Stored) -> dict[str, Any]:
    return {
        "path": file.path,
        "file": str(file.source),
        "size": file.size,
        "md5": file.md5,
        "sha1": file.sha1,
        "sha256": file.sha256,
        "sha512": file.sha512,
    }


KIND = Maven
