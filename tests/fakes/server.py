"""What every fake registry is: threads and sockets, a control port, a log of requests, and obedience when told to misbehave.

What it answers is its ``Kind``'s. To add one, write ``tests/fakes/<name>.py`` with

- a ``Kind`` of its own: ``modes`` with their defaults, ``begin`` (nothing published yet), ``calls`` (what a test may tell it),
  ``classify`` (a word for each request, for ``seen(kind=…)``) and ``answer`` (the right answer: what spoils it comes after);
- ``KIND = ThatClass``, by which ``python -m tests.fakes <name>`` finds it;
- a ``Fake`` (``fake.py``) with ``kind = "<name>"`` and a method for each of its calls.

An ``Answer`` says what the answer is (``content``, or a file's ``path`` and ``size``) and what may be done to it: ``ranged`` for
``Range`` and ``If-Range``, ``conditional`` for ``If-None-Match`` and ``If-Modified-Since``, ``coded`` for gzip. ``Content-Length``,
``Date`` and the request's log are the server's.
"""

from __future__ import annotations

import contextlib
import fnmatch
import gzip
import json
import os
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import Any, ClassVar

from tests.fakes.misbehaviour import Misbehaviour, Misbehaviours
from tests.fakes.tls import server_context

HOSTS = {"index": "127.0.0.1", "files": "127.0.0.2", "elsewhere": "127.0.0.3"}
"""Three addresses of the loopback network: three hosts, as far as any client can tell."""


@dataclass(frozen=True, slots=True)
class Site:
    """What the hosts are called from outside, and by which scheme; ``certificate`` is a file of chain and key, for ``https``.

    ``hosts`` are the addresses that they listen on.
    """

    scheme: str = "http"
    names: Mapping[str, str] = field(default_factory=lambda: HOSTS)
    certificate: str | None = None
    hosts: Mapping[str, str] = field(default_factory=lambda: HOSTS)


PIECE = 1 << 18

REASONS = {
    200: "OK",
    201: "Created",
    206: "Partial Content",
    301: "Moved Permanently",
    302: "Found",
    304: "Not Modified",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    412: "Precondition Failed",
    416: "Range Not Satisfiable",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}

PORTAL = b"<!DOCTYPE html><html><head><title>Welcome to HotelNet</title></head><body>Please sign in.</body></html>"


@dataclass
class Request:
    """A parsed request; ``path`` is the raw target, ``body`` as it came, header names are in lower case."""

    host: str
    method: str
    path: str
    version: str
    headers: dict[str, str]
    body: bytes = b""


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
    peer: str = ""


@dataclass
class Answer:
    """A right answer, before anything spoils it. The body is ``content`` or the file at ``path``, of ``size`` bytes.

    ``coded``: gzip for whom accepts it; ``packed`` gives the packed bytes where they are held already. ``conditional`` goes by the
    headers ``ETag`` and ``Last-Modified``; without an ``ETag`` the kind makes one from the bytes.
    """

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    content: bytes = b""
    path: str | None = None
    size: int = 0
    ranged: bool = False
    conditional: bool = False
    coded: bool = True
    packed: Callable[[], bytes] | None = None

    @classmethod
    def text(cls, status: int, content: bytes | str, media_type: str = "text/plain; charset=UTF-8", **headers: str) -> Answer:
        body = content.encode() if isinstance(content, str) else content
        fields = [("Content-Type", media_type), *((name.replace("_", "-"), value) for name, value in headers.items())]
        return cls(status, fields, body, size=len(body))

    @classmethod
    def file(cls, content: bytes | Path, media_type: str = "application/octet-stream", **headers: str) -> Answer:
        """Bytes that are sent as they are, whole or by ranges."""
        fields = [("Content-Type", media_type), *((name.replace("_", "-"), value) for name, value in headers.items())]
        fields.append(("Accept-Ranges", "bytes"))
        if isinstance(content, bytes):
            return cls(200, fields, content, size=len(content), ranged=True, coded=False)
        return cls(200, fields, path=str(content), size=content.stat().st_size, ranged=True, coded=False)

    def set(self, name: str, value: str) -> None:
        self.headers = [(n, v) for n, v in self.headers if n.lower() != name.lower()] + [(name, value)]

    def header(self, name: str) -> str | None:
        return next((v for n, v in self.headers if n.lower() == name.lower()), None)


class Hangup(Exception):
    """Close the connection now. ``hard`` resets it."""

    def __init__(self, hard: bool = False) -> None:
        super().__init__("hang up")
        self.hard = hard


class Kind:
    """What one registry publishes and how it tells it: state under one ``lock``, no sockets. Methods are called in any thread.

    ``ports`` is filled once the server listens; ``settings`` are its modes as they stand.
    """

    site: Site = Site()
    """Set by the server before anything is asked."""

    modes: ClassVar[Mapping[str, Any]] = {}
    """What a test may set, with the values at the beginning. ``ahead_s`` (how far ahead the ``Date`` is) every kind has."""
    media_type: ClassVar[str] = "application/json"
    """What a replaced body is said to be, unless a misbehaviour says otherwise."""

    def __init__(self, ports: Mapping[str, int]) -> None:
        self.ports = ports
        self.lock = threading.RLock()
        self.settings: dict[str, Any] = {}
        self.clear()

    def clear(self) -> None:
        """Be as at the start."""
        with self.lock:
            self.settings = {"ahead_s": 0, **self.modes}
            self.begin()

    def begin(self) -> None:
        """Set every attribute to "nothing published". Called with the lock held, at first and on every ``reset``."""
        raise NotImplementedError

    def calls(self) -> Mapping[str, Callable[..., Any]]:
        """What a test can tell it, by name. Arguments and results are JSON; errors are LookupError, ValueError, TypeError, OSError."""
        raise NotImplementedError

    def classify(self, request: Request) -> str:
        """The request's ``kind`` in the log."""
        raise NotImplementedError

    def answer(self, request: Request, how: list[Misbehaviour]) -> Answer:
        """The right answer. ``how`` tells of ``old_serial``; all else that misbehaves is the server's."""
        raise NotImplementedError

    def tag(self, content: bytes) -> str:
        """The ETag of a conditional answer that has none, with its quotes, from the bytes as they are sent."""
        raise NotImplementedError

    def told(self, request: Request) -> str:
        """The request's body as the log keeps it."""
        return request.body.decode("latin-1")

    def mode(self, **settings: Any) -> None:
        with self.lock:
            unknown = set(settings) - set(self.settings)
            if unknown:
                raise ValueError(f"no such mode: {sorted(unknown)}")
            self.settings |= settings

    def root(self, host: str = "index") -> str:
        """The address of one of its hosts, without a slash at the end."""
        return f"{self.site.scheme}://{self.site.names[host]}:{self.ports[host]}"


class Log:
    """The requests that came in."""

    def __init__(self) -> None:
        self.more = threading.Condition()
        self.records: list[Record] = []
        self.numbers = 0

    def note(self, request: Request, kind: str, raw_headers: list[tuple[str, str]], peer: str) -> Record:
        with self.more:
            self.numbers += 1
            record = Record(
                self.numbers, time.monotonic(), request.host, request.method, request.path, kind, raw_headers, peer=peer
            )
            self.records.append(record)
            self.more.notify_all()
            return record

    def _select(self, kind: str | None, path: str | None, host: str | None) -> list[Record]:
        return [
            record
            for record in self.records
            if (kind is None or record.kind == kind)
            and (path is None or fnmatch.fnmatchcase(record.path, path))
            and (host is None or record.host == host)
        ]

    def seen(self, kind: str | None, path: str | None, host: str | None) -> list[dict[str, Any]]:
        with self.more:
            return [asdict(record) for record in self._select(kind, path, host)]

    def wait_seen(self, count: int, kind: str | None, path: str | None, timeout_s: float) -> bool:
        with self.more:
            return self.more.wait_for(lambda: len(self._select(kind, path, None)) >= count, timeout_s)

    def forget(self) -> None:
        with self.more:
            self.records = []


class Connections:
    """Open sockets of one listener, so that they can all be cut. With a ``context`` they speak TLS."""

    def __init__(
        self,
        host: str,
        serve: Callable[[socket.socket, str], None],
        context: ssl.SSLContext | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        self.host = host
        self.address = address
        self.serve = serve
        self.context = context
        self.lock = threading.Lock()
        self.open: set[socket.socket] = set()
        self.listener: socket.socket | None = None

    def listen(self, port: int) -> int:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.address, port))
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
                # Not TLS's own, which pulls the state from under the thread that serves.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

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
        plain = connection
        try:
            if self.context is not None:
                connection = self._secure(plain)
            self.serve(connection, self.host)
        except Hangup as hangup:
            if hangup.hard:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except (OSError, ValueError):
            pass  # the peer went away, or sent what is no request: nothing to tell it
        finally:
            with self.lock:
                self.open -= {plain, connection}
            connection.close()

    def _secure(self, plain: socket.socket) -> socket.socket:
        """Shake hands. The new socket takes the old one's place among those that can be cut."""
        assert self.context is not None
        secure = self.context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        with self.lock:
            self.open.discard(plain)
            self.open.add(secure)
        try:
            secure.do_handshake()
        except OSError:
            with self.lock:
                self.open.discard(secure)
            secure.close()
            raise
        return secure


class Server:
    """Three listeners of the registry and one to control it."""

    def __init__(self, kind: type[Kind], site: Site | None = None) -> None:
        self.ports: dict[str, int] = {}
        self.kind = kind(self.ports)
        self.kind.site = site or Site()
        self.log = Log()
        self.misbehaviours = Misbehaviours()
        certificate = self.kind.site.certificate
        context = server_context(certificate) if certificate is not None else None
        self.listeners = {
            name: Connections(name, self._serve, context, address) for name, address in self.kind.site.hosts.items()
        }
        self.control = Connections("control", self._serve_control)

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
        self.misbehaviours.end(None)
        self.kind.clear()
        self.log.forget()
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
        calls: dict[str, Callable[..., Any]] = {
            **self.kind.calls(),
            "mode": self.kind.mode,
            "misbehave": self.misbehaviours.add,
            "behave": self.misbehaviours.end,
            "wait_at_gate": self._wait_at_gate,
            "refuse": self.refuse,
            "listen_again": self.listen_again,
            "seen": self.log.seen,
            "wait_seen": self.log.wait_seen,
            "forget": self.log.forget,
            "reset": self.reset,
        }
        return calls[call](**arguments)

    def _wait_at_gate(self, number: int, arrivals: int) -> None:
        if not self.misbehaviours.wait_arrivals(number, arrivals):
            raise ValueError(f"nobody came to gate {number}")

    # -- the registry's ports

    def _serve(self, connection: socket.socket, host: str) -> None:
        peer = str(connection.getpeername()[0])
        with connection.makefile("rb") as source:
            while (parsed := _read_request(source, host)) is not None:
                request, raw_headers = parsed
                record = self.log.note(request, self.kind.classify(request), raw_headers, peer)
                if request.headers.get("expect", "").lower() == "100-continue":
                    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.body = _read_body(source, request.headers)
                record.body = self.kind.told(request)
                how = self.misbehaviours.of(host, request.method, request.path, request.headers)
                for one in how:
                    if one.delay_s:
                        one.ended.wait(one.delay_s)
                    if one.silent:
                        _wait_for_end(connection, one)
                        raise Hangup
                    if one.reset:
                        raise Hangup(hard=True)
                answer = _spoil_head(request, self.kind.answer(request, how), how, self.kind.media_type)
                _finish_head(request, answer, self.kind.tag)
                _send(connection, request, answer, how, record, self.misbehaviours.arrive, self.kind.settings["ahead_s"])
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


def _read_body(source: Any, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return bytes(source.read(int(headers.get("content-length", "0"))))
    body = b""
    while size := int(source.readline(65536).split(b";")[0], 16):
        body += source.read(size)
        source.readline(65536)
    while source.readline(65536) not in {b"\r\n", b"\n", b""}:
        pass  # trailers
    return body


def _wait_for_end(connection: socket.socket, one: Misbehaviour) -> None:
    """Say nothing until the misbehaviour is over or the peer has left."""
    connection.settimeout(0.05)
    while not one.ended.is_set():
        try:
            # Not TLS's own, which cannot peek.
            if not socket.socket.recv(connection, 1, socket.MSG_PEEK):
                return
            one.ended.wait(0.05)
        except TimeoutError:
            continue
    connection.settimeout(None)


def _spoil_head(request: Request, answer: Answer, how: list[Misbehaviour], media_type: str) -> Answer:
    """Put another answer in the right one's place."""
    for one in how:
        if one.status is not None:
            answer = Answer.text(one.status, one.body)
            if one.retry_after is not None:
                answer.set("Retry-After", one.retry_after)
        if one.html:
            answer = Answer.text(200, PORTAL, "text/html; charset=utf-8")
        if one.replace is not None:
            answer = Answer.text(200, one.replace, one.media_type or media_type)
        elif one.media_type is not None:
            answer.set("Content-Type", one.media_type)
        if one.redirect is not None:
            location = one.redirect if not one.redirect.endswith("*") else one.redirect[:-1] + request.path
            answer = Answer.text(302, "", Location=location)
        if one.loop:
            answer = Answer.text(302, "", Location=f"{request.path.partition('?')[0]}?{random.randrange(10**9)}")
    return answer


def _finish_head(request: Request, answer: Answer, tag_of: Callable[[bytes], str]) -> None:
    """Content coding, validators and conditionals."""
    codings = [piece.split(";")[0].strip() for piece in request.headers.get("accept-encoding", "").split(",")]
    if answer.status == 200 and answer.coded and "gzip" in codings and len(answer.content) > 200:
        answer.content = answer.packed() if answer.packed is not None else gzip.compress(answer.content, 1, mtime=0)
        answer.size = len(answer.content)
        answer.set("Content-Encoding", "gzip")
    if answer.conditional and answer.status == 200:
        if answer.header("ETag") is None:
            answer.set("ETag", tag_of(answer.content))
        if _is_known(request.headers, answer):
            answer.status, answer.content, answer.path, answer.size = 304, b"", None, 0
            answer.headers = [(n, v) for n, v in answer.headers if n not in {"Content-Type", "Content-Encoding"}]


def _is_known(headers: Mapping[str, str], answer: Answer) -> bool:
    """RFC 9110 section 13.2.2: the tag decides where one is sent, and the date else."""
    if "if-none-match" in headers:
        tag = (answer.header("ETag") or "").removeprefix("W/")
        return tag in headers["if-none-match"] or headers["if-none-match"].strip() == "*"
    modified, since = answer.header("Last-Modified"), headers.get("if-modified-since")
    if modified is None or since is None:
        return False
    try:
        return parsedate_to_datetime(modified) <= parsedate_to_datetime(since)
    except (ValueError, TypeError):
        return False


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
            if isinstance(connection, ssl.SSLSocket):
                record.sent = connection.sendfile(source, start, stop - start)
                start = stop
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
