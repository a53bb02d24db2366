"""HTTP/1.1's grammar: one request's head, read strictly; a chunked body, decoded strictly; a response's head, written.

No I/O. httptools reads the head, and our own checks stand before and after it: whatever two readers could frame differently is refused,
and every refusal ends the connection. Source: RFC 9112; the list of refusals is RFC 9112 §11.2's and other servers' advisories.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

import httptools

from ..model import Headers
from . import Response
from .limits import Limits


class Malformed(ValueError):
    """The request cannot be answered as sent; ``status`` says how to tell the client. The connection must end."""

    def __init__(self, detail: str, status: int = 400) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """One request's head. ``length`` is the body's, None if it is chunked. ``expects`` tells that the client waits for ``100``."""

    method: str
    target: str
    version: str
    headers: Headers
    length: int | None
    keep_alive: bool
    expects: bool

    def values(self, name: str) -> list[str]:
        return [value for n, value in self.headers if n == name]


_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_LINE = re.compile(rb"(" + _TOKEN + rb"{1,32}) ([!-~]+) HTTP/([0-9])\.([0-9])\r\n")
# One expression refuses bare CR and LF, folded lines, space before the colon, NUL and every other control character.
_FIELDS = re.compile(rb"(?:" + _TOKEN + rb"+:[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n")
_BARE_LF = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")
_FIRST = re.compile(_TOKEN + rb"|\r")
_LENGTH = re.compile(r"[0-9]{1,15}")
_BODILESS = frozenset({"GET", "HEAD", "TRACE", "CONNECT"})


def parse_head(head: bytes, limits: Limits) -> Head:
    """Read ``head``, which ends with the first blank line. Raises ``Malformed``."""
    if len(head) > limits.head_bytes:
        raise Malformed("the request's head is too large", 431)
    line = _LINE.match(head)
    if line is None:
        raise Malformed("malformed request line")
    if len(line[2]) > limits.target_bytes:
        raise Malformed("the request target is too long", 414)
    if line[3] != b"1" or line[4] not in (b"0", b"1"):
        raise Malformed("unknown protocol version", 505)
    if not _FIELDS.fullmatch(head, line.end()):
        raise Malformed("malformed header field")
    fields = _Fields(limits.head_fields)
    try:
        httptools.HttpRequestParser(fields).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # "A server MAY ignore a received Upgrade header field" (RFC 9110 §7.8), and CONNECT is the handler's to refuse
    except httptools.HttpParserInvalidMethodError:
        raise Malformed("unknown method", 501) from None
    except httptools.HttpParserCallbackError as error:
        # Not from error.__context__: within somebody's except clause that would be another exception.
        raise (fields.failure or error) from None
    except httptools.HttpParserError:
        raise Malformed("malformed request") from None
    method, target, version = line[1].decode(), line[2].decode(), f"1.{line[4].decode()}"
    _check_target(method, target)
    return _framed(method, target, version, tuple(fields.found))


class _Fields:
    """What httptools reports, kept."""

    def __init__(self, limit: int) -> None:
        self.found: list[tuple[str, str]] = []
        self.failure: Malformed | None = None
        self._limit = limit

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.found) >= self._limit:
            self.failure = Malformed("too many header fields", 431)
            raise self.failure
        self.found.append((name.decode("latin-1").lower(), value.strip(b" \t").decode("latin-1")))


def _check_target(method: str, target: str) -> None:
    if method == "CONNECT":
        plain = "/" not in target and "@" not in target
    elif method == "OPTIONS" and target == "*":
        plain = True
    else:
        plain = target.startswith("/") or target[:7].lower() == "http://" or target[:8].lower() == "https://"
    if not plain or "#" in target:
        raise Malformed("malformed request target")


def _framed(method: str, target: str, version: str, headers: Headers) -> Head:
    """Settle how long the body is and whether the connection lasts. Source: RFC 9112 §6.3, §9.3."""
    given: dict[str, list[str]] = {}
    for name, value in headers:
        given.setdefault(name, []).append(value)
    hosts = given.get("host", [])
    if len(hosts) > 1 or (version == "1.1" and not hosts):
        raise Malformed("exactly one Host is needed")
    lengths, codings = given.get("content-length", []), given.get("transfer-encoding", [])
    length: int | None = 0
    if codings:
        # "A server MAY reject a request that contains both Content-Length and Transfer-Encoding" (§6.1): here it always does.
        if lengths or version == "1.0" or len(codings) > 1 or codings[0].lower() != "chunked":
            raise Malformed("ambiguous or unsupported transfer coding")
        length = None
    elif lengths:
        if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
            raise Malformed("malformed Content-Length")
        length = int(lengths[0])
    if length != 0 and method in _BODILESS:
        raise Malformed(f"{method} takes no body")
    expects = False
    for expectation in given.get("expect", []) if version == "1.1" else ():
        if expectation.lower() != "100-continue":
            raise Malformed("this expectation cannot be met", 417)
        expects = length != 0  # "MAY omit sending a 100 (Continue) response if ... there is no content" (RFC 9110 §10.1.1)
    options = {option.strip().lower() for value in given.get("connection", []) for option in value.split(",")}
    keep_alive = "close" not in options and (version == "1.1" or "keep-alive" in options)
    return Head(method, target, version, headers, length, keep_alive, expects)


def check_beginning(data: bytes, limits: Limits) -> None:
    """Refuse the beginning of a head that no further byte can mend. Raises ``Malformed``."""
    if len(data) > limits.head_bytes:
        raise Malformed("the request's head is too large", 431)
    if data and not _FIRST.match(data):
        raise Malformed("not an HTTP request")
    if _BARE_LF.search(data):
        raise Malformed("a line must end with CR and LF")
    if b"\r\n" not in data and len(data) > limits.target_bytes + 64:
        raise Malformed("the request target is too long", 414)


class Dechunker:
    """A chunked request body, decoded as it comes. ``body`` is whole once ``feed`` returned True; ``rest`` is what followed it.

    Chunk extensions and trailer fields are refused: no client of ours sends them, and readers have disagreed about both.
    """

    __slots__ = ("_data", "_limit", "_remaining", "body", "rest")

    def __init__(self, limit_bytes: int) -> None:
        self.body = bytearray()
        self.rest = b""
        self._data = bytearray()
        self._limit = limit_bytes
        self._remaining = -1  # of the present chunk, with its CR LF; -1: a size line comes next

    def feed(self, data: bytes) -> bool:
        """Take more bytes; True when the body is complete. Raises ``Malformed`` (400, or 413 beyond the limit)."""
        buffer = self._data
        buffer += data
        while True:
            if self._remaining >= 0:
                if len(buffer) < self._remaining:
                    return False
                if buffer[self._remaining - 2 : self._remaining] != b"\r\n":
                    raise Malformed("malformed chunk")
                self.body += buffer[: self._remaining - 2]
                del buffer[: self._remaining]
                self._remaining = -1
            end = buffer.find(b"\r\n")
            if end < 0:
                if len(buffer) > 9 or not _CHUNK_SIZE_SO_FAR.fullmatch(buffer):
                    raise Malformed("malformed chunk size")
                return False
            if not _CHUNK_SIZE.fullmatch(buffer, 0, end):
                raise Malformed("malformed chunk size")
            size = int(buffer[:end], 16)
            if len(self.body) + size > self._limit:
                raise Malformed("the request's body is too large", 413)
            if size == 0:
                if len(buffer) < end + 4:
                    if not b"\r\n\r\n".startswith(buffer[end:]):
                        raise Malformed("trailer fields are not accepted")
                    return False
                if buffer[end : end + 4] != b"\r\n\r\n":
                    raise Malformed("trailer fields are not accepted")
                self.rest = bytes(buffer[end + 4 :])
                return True
            del buffer[: end + 2]
            self._remaining = size + 2


_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")
_CHUNK_SIZE_SO_FAR = re.compile(rb"[0-9A-Fa-f]{0,8}\r?")


# ---- responses ------------------------------------------------------------------------------------------------------

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OURS = frozenset({"connection", "content-length", "date", "keep-alive", "transfer-encoding"})


def http_date(now: float) -> str:
    """``now`` (UTC seconds) as HTTP writes it."""
    return formatdate(now, usegmt=True)


def head_lines(response: Response) -> str:
    """The handler's header lines. Raises ``ValueError`` for a name or value that would break out of its line."""
    lines = []
    for name, value in response.headers:
        if name.lower() in _OURS:
            continue
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError(f"not a header field: {name[:64]!r}")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines)


def check_response(response: Response) -> None:
    """Raises ``ValueError`` for a header field or reason phrase that would break out of its line."""
    if not _VALUE.fullmatch(response.reason):
        raise ValueError("not a reason phrase")
    head_lines(response)


def write_head(response: Response, *, date: str, length: int | None, connection: str = "") -> bytes:
    """The head of ``response``; ``length`` None leaves ``Content-Length`` out (204, 304). The response is checked."""
    reason = response.reason or _PHRASES.get(response.status, "")
    framing = "" if length is None else f"Content-Length: {length}\r\n"
    if connection:
        framing += f"Connection: {connection}\r\n"
    head = f"HTTP/1.1 {response.status} {reason}\r\nDate: {date}\r\n{head_lines(response)}{framing}\r\n"
    return head.encode("latin-1")
