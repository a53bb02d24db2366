"""A fake PyPI: what it publishes, the pages and files it answers with, and how a test tells it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import urllib.parse
from collections.abc import Callable, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any, ClassVar

from tests.fakes import documents
from tests.fakes.documents import Dialect, Project, Upload, normalise
from tests.fakes.fake import Fake
from tests.fakes.misbehaviour import Misbehaviour
from tests.fakes.server import Answer, Kind, Request
from tests.wheels import Distribution


class PyPI(Kind):
    """What is published, as index and file host tell it."""

    modes: ClassVar[Mapping[str, Any]] = {"plain": False, "html_only": False, "validators": True, "layout": "hashed"}
    media_type = documents.JSON

    def begin(self) -> None:
        self.projects: dict[str, Project] = {}
        self.by_path: dict[str, Upload] = {}
        self.serial = 20_000_000
        self.written: dict[tuple[str, int, bool, Dialect], str] = {}

    def calls(self) -> Mapping[str, Callable[..., Any]]:
        return {
            "publish": self.publish,
            "publish_many": self.publish_many,
            "withdraw": self.withdraw,
            "withdraw_project": self.withdraw_project,
            "yank": self.yank,
            "set_status": self.set_status,
            "page_json": self.page_json,
            "provenance": self.provenance,
        }

    @property
    def dialect(self) -> Dialect:
        return Dialect(self.root("index"), self.root("files"), bool(self.settings["plain"]), str(self.settings["layout"]))

    def tag(self, content: bytes) -> str:
        return f'"{base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()}"'

    # -- changes

    def publish(self, **values: Any) -> None:
        with self.lock:
            upload = Upload(**values)
            if upload.metadata is not None:
                upload.metadata_sha256 = hashlib.sha256(upload.metadata.encode()).hexdigest()
            project = self._touch(upload.project)
            project.uploads[upload.filename] = upload
            self.by_path[upload.hashed_path] = upload
            self.by_path[upload.relative_path] = upload

    def publish_many(self, project: str, count: int) -> None:
        """Half of them sound like wheels of old versions of a large project, for several platforms each."""
        with self.lock:
            whole = self._touch(project)
            name = project.replace("-", "_")
            for number in range(count):
                version = f"1.{number // 10}.{number % 10}"
                filename = f"{name}-{version}-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
                digest = hashlib.sha256(filename.encode()).hexdigest()
                blake = hashlib.blake2b(filename.encode(), digest_size=32).hexdigest()
                upload = Upload(project, version, filename, None, 1_000_000 + number, digest, blake, "", digest, ">=3.8")
                whole.uploads[filename] = upload

    def withdraw(self, filename: str, bytes_too: bool) -> None:
        with self.lock:
            upload = self._find(filename)
            self._touch(upload.project)
            upload.listed = False
            if bytes_too:
                self.by_path.pop(upload.hashed_path, None)
                self.by_path.pop(upload.relative_path, None)

    def withdraw_project(self, project: str) -> None:
        with self.lock:
            del self.projects[normalise(project)]

    def yank(self, filename: str, reason: str | bool) -> None:
        with self.lock:
            upload = self._find(filename)
            self._touch(upload.project)
            upload.yanked = reason

    def set_status(self, project: str, status: str, reason: str) -> None:
        with self.lock:
            changed = self._touch(project)
            changed.status, changed.reason = status, reason

    def page_json(self, project: str) -> dict[str, Any]:
        with self.lock:
            return documents.detail_json(self.projects[normalise(project)], self.dialect)

    def provenance(self, filename: str) -> str:
        with self.lock:
            return documents.provenance(self._find(filename))

    def _touch(self, name: str) -> Project:
        self.serial += 1
        project = self.projects.setdefault(normalise(name), Project(name, self.serial))
        project.remember_first()
        project.serial = self.serial
        return project

    def _find(self, filename: str) -> Upload:
        for project in self.projects.values():
            if filename in project.uploads:
                return project.uploads[filename]
        raise LookupError(f"no file {filename}")

    # -- answers

    def classify(self, request: Request) -> str:
        path = request.path.partition("?")[0]
        if path.startswith(("/packages/source/", "/packages/py")):
            return "redirect"
        if path.startswith(("/packages/", "/files/")):
            return "metadata" if path.endswith(".metadata") else "file"
        if path == "/simple/":
            return "root"
        if path.startswith("/simple/"):
            return "page"
        if path.startswith("/pypi/") and path.rstrip("/").endswith("/json"):
            return "legacy"
        if path.startswith("/integrity/"):
            return "provenance"
        return "other"

    def answer(self, request: Request, how: list[Misbehaviour]) -> Answer:
        """The right answer, as the real registry gives it."""
        path = urllib.parse.unquote(request.path.partition("?")[0])
        with self.lock:
            if request.host == "elsewhere":
                return self._file(request, path, elsewhere=True)
            if request.host == "files" or path.startswith("/files/"):
                return self._file(request, path)
            if path.startswith("/packages/"):
                return Answer.text(301, "", Location=self.dialect.files_root + path)
            parts = path.strip("/").split("/")
            if parts[0] == "simple":
                return self._simple(request, path, parts[1:], how)
            if parts[0] == "pypi" and parts[-1] == "json" and len(parts) in {3, 4}:
                return self._legacy(parts)
            if parts[0] == "integrity" and parts[-1] == "provenance" and len(parts) == 5:
                return self._provenance(parts)
            return Answer.text(404, "404 Not Found")

    def _simple(self, request: Request, path: str, parts: list[str], how: list[Misbehaviour]) -> Answer:
        plain = self.settings["plain"]
        if not parts:
            names = sorted(self.projects)
            document = {"meta": {"api-version": "1.4"}, "projects": [{"name": name} for name in names]}
            return self._page(Answer.text(200, json.dumps(document), documents.JSON), self.serial)
        name = parts[0]
        if len(parts) != 1:
            return Answer.text(404, "404 Not Found")
        if name != normalise(name):
            return Answer.text(404, "") if plain else Answer.text(301, "", Location=f"/simple/{normalise(name)}/")
        if not path.endswith("/"):
            return Answer.text(301, "", Location=f"{path}/")
        project = self.projects.get(name)
        if project is None:
            return Answer.text(404, "" if plain else "404 Not Found")
        if any(one.old_serial for one in how) and project.first is not None:
            project = project.first
        media_type = documents.HTML if self.settings["html_only"] else documents.choose(request.headers.get("accept"))
        key = (name, project.serial, media_type == documents.JSON, self.dialect)
        body = self.written.get(key)
        if body is None:
            if media_type == documents.JSON:
                body = json.dumps(documents.detail_json(project, self.dialect), separators=(",", ":"))
            else:
                body = documents.detail_html(project, self.dialect)
            self.written[key] = body
        media_type += "; charset=UTF-8" if media_type == documents.HTML else ""
        return self._page(Answer.text(200, body, media_type), project.serial)

    def _legacy(self, parts: list[str]) -> Answer:
        project = self.projects.get(normalise(parts[1]))
        if project is None:
            return Answer.text(404, '{"message": "Not Found"}', "application/json")
        document = documents.legacy_json(project, self.dialect, parts[2] if len(parts) == 4 else None)
        if document is None:
            return Answer.text(404, '{"message": "Not Found"}', "application/json")
        return self._page(Answer.text(200, json.dumps(document), "application/json"), project.serial, max_age=900)

    def _provenance(self, parts: list[str]) -> Answer:
        project = self.projects.get(normalise(parts[1]))
        upload = project.uploads.get(parts[3]) if project is not None else None
        if upload is None or not upload.provenance or not upload.listed or self.settings["plain"]:
            return Answer.text(404, '{"message": "No provenance available"}', "application/json")
        return self._page(Answer.text(200, documents.provenance(upload), documents.INTEGRITY), None)

    def _page(self, answer: Answer, serial: int | None, max_age: int = 600) -> Answer:
        """Add what the index says about caching."""
        if self.settings["plain"]:
            return answer
        answer.headers += [
            ("Cache-Control", f"max-age={max_age}, public"),
            ("Vary", "Accept, Accept-Encoding"),
            ("Access-Control-Allow-Origin", "*"),
            ("X-Served-By", "cache-test1, cache-test2"),
        ]
        if serial is not None:
            answer.set("X-PyPI-Last-Serial", str(serial))
        answer.conditional = bool(self.settings["validators"])
        return answer

    def _file(self, request: Request, path: str, elsewhere: bool = False) -> Answer:
        parts = path.strip("/").split("/")
        if parts[:1] == ["packages"] and len(parts) == 5 and len(parts[1]) > 2:
            with contextlib.suppress(LookupError):
                return Answer.text(302, "", Location=self._find(parts[-1]).hashed_path)
        sidecar = path.endswith(".metadata")
        upload = self.by_path.get(path.removesuffix(".metadata") if sidecar else path)
        if upload is None and elsewhere:
            with contextlib.suppress(LookupError):
                upload = self._find(parts[-1].removesuffix(".metadata"))
        if upload is None or (sidecar and upload.metadata is None) or (not sidecar and upload.path is None):
            return Answer.text(404, "<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "application/xml")
        # The file host's CDN drops If-None-Match and If-Modified-Since for artifacts: a file is always sent whole, or as asked by Range.
        if sidecar:
            answer = Answer.file((upload.metadata or "").encode())
            tag = hashlib.md5(answer.content, usedforsecurity=False).hexdigest()
        else:
            answer = Answer.file(Path(upload.path or ""), "binary/octet-stream")
            tag = upload.sha256[:32]
        answer.headers += [
            ("Last-Modified", formatdate(1_704_067_200, usegmt=True)),
            ("ETag", f'"{tag}"'),
            ("Cache-Control", "max-age=365000000, immutable, public"),
        ]
        if not self.settings["plain"] and not sidecar:
            kind = "bdist_wheel" if upload.filename.endswith(".whl") else "sdist"
            answer.headers += [
                ("x-pypi-file-project", upload.project),
                ("x-pypi-file-version", upload.version),
                ("x-pypi-file-package-type", kind),
                ("x-pypi-file-python-version", "py3" if kind == "bdist_wheel" else "source"),
            ]
        return answer


class FakePyPI(Fake):
    """The fake PyPI as a test holds it.

    Its modes: ``plain``, ``html_only``, ``validators``, ``layout`` (``hashed`` or ``relative``).
    """

    kind = "pypi"

    @property
    def index_url(self) -> str:
        """What an edge's ``upstream`` is set to: ends in ``/simple/``."""
        return f"{self.index_root}/simple/"

    def publish(
        self,
        *distributions: Distribution,
        core_metadata: bool = True,
        provenance: bool = False,
        yanked: str | bool = False,
        hashes: bool = True,
        upload_time: str = "2024-01-01T00:00:00.000000Z",
    ) -> None:
        """Offer files; one published before under the same name is replaced."""
        for one in distributions:
            self._call(
                "publish",
                project=one.project,
                version=one.version,
                filename=one.filename,
                path=str(one.path),
                size=one.size,
                sha256=one.sha256,
                blake2b=one.blake2b,
                metadata=one.metadata.decode() if one.is_wheel else None,
                requires_python=one.requires_python,
                core_metadata=core_metadata and one.is_wheel,
                provenance=provenance,
                yanked=yanked,
                hashes=hashes,
                upload_time=upload_time,
            )

    def publish_many(self, project: str, count: int) -> None:
        """List ``count`` wheels that exist on the page only."""
        self._call("publish_many", project=project, count=count)

    def withdraw(self, filename: str, *, bytes_too: bool = False) -> None:
        """Take a file off its page; the file host keeps its bytes unless ``bytes_too``."""
        self._call("withdraw", filename=filename, bytes_too=bytes_too)

    def withdraw_project(self, project: str) -> None:
        """Answer 404 for the project's page."""
        self._call("withdraw_project", project=project)

    def yank(self, filename: str, reason: str | bool = True) -> None:
        self._call("yank", filename=filename, reason=reason)

    def set_status(self, project: str, status: str, reason: str = "") -> None:
        """Set the project's PEP 792 status."""
        self._call("set_status", project=project, status=status, reason=reason)

    def path_of(self, distribution: Distribution) -> str:
        """The path of a file on the file host, ``/packages/ab/cd/…``."""
        b = distribution.blake2b
        return f"/packages/{b[:2]}/{b[2:4]}/{b[4:]}/{distribution.filename}"

    def page_json(self, project: str) -> dict[str, Any]:
        """The page as upstream would write it now."""
        return dict(self._call("page_json", project=project))

    def provenance(self, filename: str) -> str:
        """The provenance object upstream serves, as text."""
        return str(self._call("provenance", filename=filename))


KIND = PyPI
