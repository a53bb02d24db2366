"""The fake registry's server: one thread for each connection, sockets and nothing else."""

from __future__ import annotations

import base64
import contextlib
import fnmatch
import gzip
import hashlib
import json
import os
import random
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

from tests.fakes import documents
from tests.fakes.documents import Dialect, Project, Upload, normalise
from tests.fakes.misbehaviour import Misbehaviour, Misbehaviours

HOSTS = {"index": "127.0.0.1", "files": "127.0.0.2", "elsewhere": "127.0.0.3"}
"""Three addresses of the loopback network: three hosts, as far as any client can tell."""

PIECE = 1 << 18

REASONS = {200: "OK", 206: "Partial Content", 301: "Moved Permanently", 302: "Found", 304: "Not Modified", 404: "Not Found"}

PORTAL = b"<!DOCTYPE html><html><head><title>Welcome to HotelNet</title></head><body>Please sign in.</body></html>"


@dataclass
class Request:
    """A parsed request; ``path`` is the raw target."""

    host: str
    method: str
    path: str
    version: str
    headers: dict[str, str]


@dataclass
class Record:
    """What ``Seen`` is made of."""

    number: int
    at: float
    host: str
    method: str
    path: str
    kind: str
    headers: list[tuple[str, str]]
    status: int = 0
    sent: int = 0
    complete: bool = False
    body: str = ""


@dataclass
class Answer:
    """A right answer, before anything spoils it. The body is ``content`` or the file at ``path``."""

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    content: bytes = b""
    path: str | None = None
    size: int = 0
    ranged: bool = False
    conditional: bool = False

    @classmethod
    def text(cls, status: int, content: bytes | str, media_type: str = "text/plain; charset=UTF-8", **headers: str) -> Answer:
        body = content.encode() if isinstance(content, str) else content
        fields = [("Content-Type", media_type), *((name.replace("_", "-"), value) for name, value in headers.items())]
        return cls(status, fields, body, size=len(body))

    def set(self, name: str, value: str) -> None:
        self.headers = [(n, v) for n, v in self.headers if n.lower() != name.lower()] + [(name, value)]

    def header(self, name: str) -> str | None:
        return next((v for n, v in self.headers if n.lower() == name.lower()), None)


class Hangup(Exception):
    """Close the connection now. ``hard`` resets it."""

    def __init__(self, hard: bool = False) -> None:
        super().__init__("hang up")
        self.hard = hard


class Registry:
    """What is published and how it is told: pure state under one lock, no sockets."""

    def __init__(self, ports: dict[str, int]) -> None:
        self.ports = ports
        self.lock = threading.RLock()
        self.seen_more = threading.Condition(self.lock)
        self.misbehaviours = Misbehaviours()
        self.clear()

    def clear(self) -> None:
        with self.lock:
            self.projects: dict[str, Project] = {}
            self.by_path: dict[str, Upload] = {}
            self.serial = 20_000_000
            self.settings: dict[str, Any] = {
                "plain": False,
                "html_only": False,
                "validators": True,
                "layout": "hashed",
                "ahead_s": 0,
            }
            self.log: list[Record] = []
            self.written: dict[tuple[str, int, bool, Dialect], str] = {}
            self.numbers = 0
            self.misbehaviours.end(None)

    @property
    def dialect(self) -> Dialect:
        return Dialect(
            f"http://{HOSTS['index']}:{self.ports['index']}",
            f"http://{HOSTS['files']}:{self.ports['files']}",
            bool(self.settings["plain"]),
            str(self.settings["layout"]),
        )

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

    def mode(self, **settings: Any) -> None:
        with self.lock:
            unknown = set(settings) - set(self.settings)
            if unknown:
                raise ValueError(f"no such mode: {sorted(unknown)}")
            self.settings |= settings

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

    # -- the log

    def note(self, request: Request, kind: str, raw_headers: list[tuple[str, str]]) -> Record:
        with self.lock:
            self.numbers += 1
            record = Record(self.numbers, time.monotonic(), request.host, request.method, request.path, kind, raw_headers)
            self.log.append(record)
            self.seen_more.notify_all()
            return record

    def _select(self, kind: str | None, path: str | None, host: str | None) -> list[Record]:
        return [
            record
            for record in self.log
            if (kind is None or record.kind == kind)
            and (path is None or fnmatch.fnmatchcase(record.path, path))
            and (host is None or record.host == host)
        ]

    def seen(self, kind: str | None, path: str | None, host: str | None) -> list[dict[str, Any]]:
        with self.lock:
            return [asdict(record) for record in self._select(kind, path, host)]

    def wait_seen(self, count: int, kind: str | None, path: str | None, timeout_s: float) -> bool:
        with self.seen_more:
            return self.seen_more.wait_for(lambda: len(self._select(kind, path, None)) >= count, timeout_s)

    def forget(self) -> None:
        with self.lock:
            self.log = []

    # -- answers

    def kind(self, request: Request) -> str:
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
        answer = Answer(200, [("Content-Type", "application/octet-stream" if sidecar else "binary/octet-stream")], ranged=True)
        if sidecar:
            answer.content = (upload.metadata or "").encode()
            answer.size = len(answer.content)
            tag = hashlib.md5(answer.content, usedforsecurity=False).hexdigest()
        else:
            answer.path, answer.size, tag = upload.path, upload.size, upload.sha256[:32]
        answer.headers += [
            ("Last-Modified", formatdate(1_704_067_200, usegmt=True)),
            ("ETag", f'"{tag}"'),
            ("Cache-Control", "max-age=365000000, immutable, public"),
            ("Accept-Ranges", "bytes"),
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


class Connections:
    """Open sockets of one listener, so that they can all be cut."""

    def __init__(self, registry: Registry, host: str, serve: Callable[[socket.socket, str], None]) -> None:
        self.registry = registry
        self.host = host
        self.serve = serve
        self.lock = threading.Lock()
        self.open: set[socket.socket] = set()
        self.listener: socket.socket | None = None

    def listen(self, port: int) -> int:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOSTS.get(self.host, "127.0.0.1"), port))
        listener.listen(1024)
        self.listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return int(listener.getsockname()[1])

    def close(self) -> None:
        """Refuse from now on, and cut whoever is connected."""
        listener, self.listener = self.listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self.lock:
            connections = list(self.open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if self.listener is not listener:
                connection.close()
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.open.add(connection)
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        try:
            self.serve(connection, self.host)
        except Hangup as hangup:
            if hangup.hard:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except (OSError, ValueError):
            pass  # the peer went away, or sent what is no request: nothing to tell it
        finally:
            with self.lock:
                self.open.discard(connection)
            connection.close()


class Server:
    """Three listeners of the registry and one to control it."""

    def __init__(self) -> None:
        self.ports: dict[str, int] = {}
        self.registry = Registry(self.ports)
        self.listeners = {name: Connections(self.registry, name, self._serve) for name in HOSTS}
        self.control = Connections(self.registry, "control", self._serve_control)

    def start(self) -> None:
        for name, listener in (*self.listeners.items(), ("control", self.control)):
            self.ports[name] = listener.listen(0)

    def refuse(self) -> None:
        for listener in self.listeners.values():
            listener.close()

    def listen_again(self) -> None:
        for name, listener in self.listeners.items():
            if listener.listener is None:
                listener.listen(self.ports[name])

    def reset(self) -> None:
        self.registry.clear()
        self.listen_again()

    # -- the control port

    def _serve_control(self, connection: socket.socket, host: str) -> None:
        with connection.makefile("rb") as source:
            while (request := _read_request(source, host)) is not None:
                body = json.loads(source.read(int(request[0].headers.get("content-length", "0"))))
                try:
                    reply = {"result": self._control(body["call"], body["arguments"])}
                except (LookupError, ValueError, TypeError, OSError) as error:
                    reply = {"error": f"{type(error).__name__}: {error}"}
                content = json.dumps(reply).encode()
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)

    def _control(self, call: str, arguments: dict[str, Any]) -> Any:
        registry = self.registry
        calls: dict[str, Callable[..., Any]] = {
            "publish": registry.publish,
            "publish_many": registry.publish_many,
            "withdraw": registry.withdraw,
            "withdraw_project": registry.withdraw_project,
            "yank": registry.yank,
            "set_status": registry.set_status,
            "page_json": registry.page_json,
            "provenance": registry.provenance,
            "mode": registry.mode,
            "misbehave": registry.misbehaviours.add,
            "behave": registry.misbehaviours.end,
            "wait_at_gate": self._wait_at_gate,
            "refuse": self.refuse,
            "listen_again": self.listen_again,
            "seen": registry.seen,
            "wait_seen": registry.wait_seen,
            "forget": registry.forget,
            "reset": self.reset,
        }
        return calls[call](**arguments)

    def _wait_at_gate(self, number: int, arrivals: int) -> None:
        if not self.registry.misbehaviours.wait_arrivals(number, arrivals):
            raise ValueError(f"nobody came to gate {number}")

    # -- the registry's ports

    def _serve(self, connection: socket.socket, host: str) -> None:
        with connection.makefile("rb") as source:
            while (parsed := _read_request(source, host)) is not None:
                request, raw_headers = parsed
                record = self.registry.note(request, self.registry.kind(request), raw_headers)
                length = int(request.headers.get("content-length", "0"))
                if length:
                    record.body = source.read(length).decode("latin-1")
                how = self.registry.misbehaviours.of(host, request.method, request.path, request.headers)
                for one in how:
                    if one.delay_s:
                        one.ended.wait(one.delay_s)
                    if one.silent:
                        _wait_for_end(connection, one)
                        raise Hangup
                    if one.reset:
                        raise Hangup(hard=True)
                answer = _spoil_head(request, self.registry.answer(request, how), how)
                _finish_head(request, answer)
                _send(
                    connection,
                    request,
                    answer,
                    how,
                    record,
                    self.registry.misbehaviours.arrive,
                    self.registry.settings["ahead_s"],
                )
                if request.version == "HTTP/1.0" or request.headers.get("connection", "").lower() == "close":
                    return


def _read_request(source: Any, host: str) -> tuple[Request, list[tuple[str, str]]] | None:
    """The next request's head, None at the end of the connection."""
    line = source.readline(65536)
    if not line.strip():
        return None
    method, path, version = line.decode("latin-1").split()
    raw: list[tuple[str, str]] = []
    while (line := source.readline(65536)) not in {b"\r\n", b"\n", b""}:
        name, _, value = line.decode("latin-1").partition(":")
        raw.append((name.strip().lower(), value.strip()))
    return Request(host, method, path, version, dict(raw)), raw


def _wait_for_end(connection: socket.socket, one: Misbehaviour) -> None:
    """Say nothing until the misbehaviour is over or the peer has left."""
    connection.settimeout(0.05)
    while not one.ended.is_set():
        try:
            if not connection.recv(1, socket.MSG_PEEK):
                return
            one.ended.wait(0.05)
        except TimeoutError:
            continue
    connection.settimeout(None)


def _spoil_head(request: Request, answer: Answer, how: list[Misbehaviour]) -> Answer:
    """Put another answer in the right one's place."""
    for one in how:
        if one.status is not None:
            answer = Answer.text(one.status, one.body)
            if one.retry_after is not None:
                answer.set("Retry-After", one.retry_after)
        if one.html:
            answer = Answer.text(200, PORTAL, "text/html; charset=utf-8")
        if one.replace is not None:
            answer = Answer.text(200, one.replace, one.media_type or documents.JSON)
        elif one.media_type is not None:
            answer.set("Content-Type", one.media_type)
        if one.redirect is not None:
            location = one.redirect if not one.redirect.endswith("*") else one.redirect[:-1] + request.path
            answer = Answer.text(302, "", Location=location)
        if one.loop:
            answer = Answer.text(302, "", Location=f"{request.path.partition('?')[0]}?{random.randrange(10**9)}")
    return answer


def _finish_head(request: Request, answer: Answer) -> None:
    """Content coding, validators, conditionals and ranges, as the real index and file host do them."""
    codings = [piece.split(";")[0].strip() for piece in request.headers.get("accept-encoding", "").split(",")]
    if answer.status == 200 and not answer.ranged and "gzip" in codings and len(answer.content) > 200:
        answer.content = gzip.compress(answer.content, 1, mtime=0)
        answer.size = len(answer.content)
        answer.set("Content-Encoding", "gzip")
    if answer.conditional and answer.status == 200:
        tag = f'"{base64.b64encode(hashlib.md5(answer.content, usedforsecurity=False).digest()).decode()}"'
        answer.set("ETag", tag)
        if tag in request.headers.get("if-none-match", ""):
            answer.status, answer.content, answer.size = 304, b"", 0
            answer.headers = [(n, v) for n, v in answer.headers if n not in {"Content-Type", "Content-Encoding"}]
    # The file host's CDN drops If-None-Match and If-Modified-Since for artifacts: a file is always sent whole, or as asked by Range.


def _window(request: Request, answer: Answer) -> tuple[int, int]:
    """Apply ``Range`` and ``If-Range``; gives the bytes to send and turns the answer into a 206 or 416 if need be."""
    wanted = request.headers.get("range", "")
    whole = (0, answer.size)
    if not answer.ranged or answer.status != 200 or not wanted.startswith("bytes=") or "," in wanted:
        return whole
    condition = request.headers.get("if-range")
    if condition is not None and condition not in {answer.header("ETag"), answer.header("Last-Modified")}:
        return whole
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    if first:
        start, stop = int(first), min(int(last) + 1 if last else answer.size, answer.size)
    else:
        start, stop = max(0, answer.size - int(last)), answer.size
    if start >= stop:
        answer.status, answer.content, answer.path = 416, b"", None
        answer.set("Content-Range", f"bytes */{answer.size}")
        return (0, 0)
    answer.status = 206
    answer.set("Content-Range", f"bytes {start}-{stop - 1}/{answer.size}")
    return start, stop


def _send(
    connection: socket.socket,
    request: Request,
    answer: Answer,
    how: list[Misbehaviour],
    record: Record,
    arrive: Callable[[Misbehaviour], None],
    ahead_s: float,
) -> None:
    start, stop = _window(request, answer)
    endless = any(one.endless for one in how)
    length = stop - start + sum(one.length_off_by + one.grow for one in how)
    if any(one.gzip for one in how):
        content = gzip.compress(_read(answer, start, stop))
        answer.content, answer.path, start, stop, length = content, None, 0, len(content), len(content)
        answer.set("Content-Encoding", "gzip")
    if answer.status != 304:
        answer.set(*(("Transfer-Encoding", "chunked") if endless else ("Content-Length", str(length))))
    answer.set("Date", formatdate(time.time() + ahead_s, usegmt=True))
    head = f"HTTP/1.1 {answer.status} {REASONS.get(answer.status, 'Whatever')}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in answer.headers) + "\r\n"
    record.status = answer.status
    if request.method == "HEAD" or answer.status == 304:
        connection.sendall(head.encode("latin-1"))
        record.complete = True
        return
    if not endless and not any(_touches_body(one) for one in how):
        _send_fast(connection, head, answer, start, stop, record)
        return
    connection.sendall(head.encode("latin-1"))
    for piece in _spoilt(answer, start, stop, how, arrive):
        connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if endless else piece)
        record.sent += len(piece)
    if endless or any(one.length_off_by for one in how):
        raise Hangup
    record.complete = True


def _send_fast(connection: socket.socket, head: str, answer: Answer, start: int, stop: int, record: Record) -> None:
    if answer.path is None:
        connection.sendall(head.encode("latin-1") + answer.content[start:stop])
        record.sent = stop - start
    else:
        connection.sendall(head.encode("latin-1"))
        with Path(answer.path).open("rb") as source:
            while start < stop:
                sent = os.sendfile(connection.fileno(), source.fileno(), start, stop - start)
                if sent == 0:
                    raise Hangup
                start += sent
                record.sent += sent
    record.complete = True


def _touches_body(one: Misbehaviour) -> bool:
    return bool(
        one.flip is not None
        or one.truncate is not None
        or one.gate is not None
        or one.bytes_per_s
        or one.grow
        or one.length_off_by
    )


def _read(answer: Answer, start: int, stop: int) -> bytes:
    if answer.path is None:
        return answer.content[start:stop]
    with Path(answer.path).open("rb") as source:
        return os.pread(source.fileno(), stop - start, start)


def _spoilt(
    answer: Answer, start: int, stop: int, how: list[Misbehaviour], arrive: Callable[[Misbehaviour], None]
) -> Iterator[bytes]:
    """The body's pieces with what is wrong with them; raises ``Hangup`` where it is cut."""
    rates = [one.bytes_per_s for one in how if one.bytes_per_s]
    piece_size = max(1, min(PIECE, int(min(rates) / 20))) if rates else PIECE
    gates = {_absolute(one.gate, answer.size): one for one in how if one.gate is not None}
    flips = {_absolute(one.flip, answer.size) for one in how if one.flip is not None}
    cuts = [_absolute(one.truncate, answer.size) for one in how if one.truncate is not None]
    began, sent, at = time.monotonic(), 0, start
    while at < stop:
        if cuts and at >= min(cuts):
            raise Hangup
        if at in gates:
            arrive(gates.pop(at))
        edges = [edge for edge in (*gates, *cuts) if edge > at]
        piece = bytearray(_read(answer, at, min([stop, at + piece_size, *edges])))
        for flip in flips:
            if at <= flip < at + len(piece):
                piece[flip - at] ^= 0x01
        yield bytes(piece)
        at += len(piece)
        sent += len(piece)
        for one in how:
            if one.bytes_per_s:
                one.ended.wait(max(0.0, began + sent / one.bytes_per_s - time.monotonic()))
    if cuts and at >= min(cuts) and at < answer.size:
        raise Hangup
    for one in how:
        if one.grow:
            yield b"\0" * one.grow
    while any(one.endless and not one.ended.is_set() for one in how):
        yield b" " * 65536


def _absolute(offset: int | None, size: int) -> int:
    assert offset is not None
    return offset if offset >= 0 else size + offset
