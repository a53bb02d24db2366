"""Heads of HTTP/2: a request's fields to the ``Head`` that HTTP/1.1 gives, an answer's fields to what is sent. No I/O.

What is allowed in a request is decided in one place, ``h1.parse_head``: it is given the same head as HTTP/1.1 would write it, once nothing
in the fields can break out of its line. Source: RFC 9113 §8.2, §8.3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from . import Response
from .h1 import Head, Malformed, parse_head
from .limits import Limits

type Fields = Sequence[tuple[bytes, bytes]]


class Broken(ValueError):
    """Not a request that HTTP/2 allows: its stream is reset with PROTOCOL_ERROR (RFC 9113 §8.1.1)."""


_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_OUT_OF_LINE = re.compile(rb"[\r\n\0]")
_PSEUDO = frozenset({b":method", b":scheme", b":authority", b":path"})
# "An endpoint MUST NOT generate an HTTP/2 message containing connection-specific header fields. ... Any message containing
# connection-specific header fields MUST be treated as malformed" (§8.2.2)
_OF_CONNECTION = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"http2-settings"}
)
_OURS = frozenset({"connection", "content-length", "date", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})


def read_head(fields: Fields, limits: Limits) -> Head:
    """The head that ``fields`` are. Its ``length`` is 0 where HTTP/2 need not tell one. Raises ``Broken`` or ``Malformed``."""
    pseudo, lines = _sorted(fields)
    method, path = pseudo.get(b":method"), pseudo.get(b":path")
    if method == b"CONNECT":
        raise Malformed("CONNECT is not offered over HTTP/2", 501)
    if not method or not path or b":scheme" not in pseudo:
        raise Broken("a mandatory pseudo-header field is missing")
    if pseudo[b":scheme"] not in (b"http", b"https"):
        raise Malformed("unknown scheme")
    if not path.startswith(b"/") and not (path == b"*" and method == b"OPTIONS"):
        raise Malformed("malformed request target")
    hosts = [line[6:] for line in lines if line.startswith(b"host: ")]
    authority = pseudo.get(b":authority")
    if authority is not None:
        # "A server SHOULD treat a request as malformed if it contains a Host header field that identifies an entity that differs from the
        # entity in the ":authority" pseudo-header field" (§8.3.1)
        if any(host.lower() != authority.lower() for host in hosts):
            raise Malformed("Host and :authority differ")
        if not hosts:
            lines.insert(0, b"host: " + authority)
    return parse_head(b"%b %b HTTP/1.1\r\n%b\r\n\r\n" % (method, path, b"\r\n".join(lines)), limits)


def _sorted(fields: Fields) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Pseudo-header fields, and the others as lines."""
    pseudo: dict[bytes, bytes] = {}
    lines: list[bytes] = []
    cookies: list[bytes] = []
    for name, value in fields:
        if _OUT_OF_LINE.search(value):
            raise Broken("a field value breaks out of its line")
        if name[:1] == b":":
            if lines or cookies or name in pseudo or name not in _PSEUDO:
                raise Broken("a pseudo-header field is unknown, out of place or there twice")
            pseudo[name] = value
            continue
        if not _NAME.fullmatch(name) or value != value.strip(b" \t"):
            raise Broken("malformed header field")
        if name in _OF_CONNECTION or (name == b"te" and value != b"trailers"):
            raise Broken("a field that is the connection's own")
        if name == b"cookie":
            cookies.append(value)  # "MUST be concatenated into a single octet string using the two-octet delimiter" (§8.2.3)
        else:
            lines.append(name + b": " + value)
    if cookies:
        lines.append(b"cookie: " + b"; ".join(cookies))
    return pseudo, lines


def lowered(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """A handler's header fields as HTTP/2 has them; without those that are the server's to write."""
    return [(n.lower().encode("latin-1"), v.strip(" \t").encode("latin-1")) for n, v in headers if n.lower() not in _OURS]


def answer_fields(response: Response, date: bytes, length: int | None) -> list[tuple[bytes, bytes]]:
    """The head of a checked ``response``; ``length`` None leaves ``content-length`` out. A reason phrase has no place in HTTP/2."""
    fields = [(b":status", b"%d" % response.status), (b"date", date), *lowered(response.headers)]
    if length is not None:
        fields.append((b"content-length", b"%d" % length))
    return fields
