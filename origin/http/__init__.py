"""The HTTP server: HTTP/1.1 and HTTP/2 on trio, with hits answered straight from the selector of idle connections.

Read ``listen.py`` (opens, serves and drains listeners), ``door.py`` (the one task with the selector of ``connection.py``'s), ``hot.py``
(kept answers, and how a request is recognised as one), ``conversation.py`` (a request that has a task of its own), in this order. Beneath
them lie ``wire.py`` and ``tls.py`` (sockets), ``sending.py`` (bodies on their way out), ``limits.py``, and what is pure: ``h1.py`` (the
grammar), ``hosts.py`` (bases and proxies), ``ranges.py`` (conditions and ranges), ``coding.py`` (content codings), ``problems.py`` (errors
to responses). ``h2.py`` is HTTP/2, with ``h2_stream.py`` and ``h2_output.py`` (how answers go out), ``h2_head.py`` and ``h2_budget.py``
(what a client may say, and how often); what both protocols do to an answer stands in ``answers.py``.

A handler never sees a socket: it is given a ``Request`` and returns a ``Response``. The server adds ``Date``, ``Connection`` and
``Content-Length``, leaves bodies out of HEAD, ``304`` and ``204``, and applies ``If-None-Match``, ``If-Modified-Since`` (when there is
no ETag), ``If-Range`` and ``Range`` to any 200 that carries an ``ETag`` — ranges only where ``Accept-Ranges: bytes`` is set.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from ..model import Body, Face, Headers


@dataclass(frozen=True, slots=True)
class Request:
    """One request, parsed strictly. ``target`` is raw: as sent, in origin form or absolute form, query included.

    ``base`` is the external base URL the client used (``http://127.0.0.1:8080``), from a closed list; ``listed`` is False
    if its Host is not on the list: the answer may be rendered but never kept. ``client`` is the address of the client, seen through
    trusted proxies. ``body`` is whole, within the limit.

    ``face`` is ``"proxy"`` for a request inside an intercepted tunnel: then ``base`` is the site the client believes it speaks to
    (``https://pypi.test``), and ``user`` whoever asked for the tunnel. One in absolute form came to the mirror face, and is the handler's
    to tell apart.
    """

    method: str
    target: str
    headers: Headers
    base: str = "http://127.0.0.1"
    listed: bool = True
    client: str = ""
    version: str = "1.1"
    body: bytes = b""
    scope: str = ""
    face: Face = "mirror"
    user: str = ""

    def header(self, name: str) -> str | None:
        """The field's value, several joined by ``", "``; ``name`` in lower case."""
        values = [v for n, v in self.headers if n == name]
        return ", ".join(values) if values else None


@dataclass(frozen=True, slots=True)
class Intercept:
    """After this answer to ``CONNECT`` the client speaks TLS, and finds ``site`` here: ``https://pypi.test``, with a port if it is not 443.

    ``context`` has the certificate, and says by ALPN what is spoken. ``user`` is who will have sent the requests inside.
    """

    site: str
    context: ssl.SSLContext
    user: str = ""


@dataclass(slots=True)
class Splice:
    """After this answer, if it is one to ``CONNECT``, or instead of it, the client is joined with somebody else.

    ``stream`` is connected, and the server's to close. ``preface`` goes there first, ``greeting`` to the client. ``answers_only`` lets
    nothing more through from the client: it sent one request, which ``preface`` is, and no other may follow it. ``ended(sent, received)``
    is called once, with the bytes that went to ``stream`` and came from it.
    """

    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]
    preface: bytes = b""
    greeting: bytes = b""
    answers_only: bool = False
    ended: Callable[[int, int], None] | None = None

    def close(self, sent: int = 0, received: int = 0, *, is_broken: bool = False) -> None:
        """Close the stream at once, with a reset if ``is_broken``, and tell ``ended``."""
        stream = self.stream
        made = (stream.transport_stream if isinstance(stream, trio.SSLStream) else stream).socket
        if is_broken:
            with contextlib.suppress(OSError):  # closed already
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        made.close()
        if self.ended is not None:
            self.ended(sent, received)


@dataclass(slots=True)
class Response:
    """One answer. Header names are written as given. ``reason`` is short ASCII, ``""`` for the standard phrase.

    ``delivered(sent_bytes, complete)`` is called once, when the body went out or the connection ended. ``onward`` is what the connection
    turns into afterwards (HTTP/1.1 only): nothing further on it is a request of this one's kind.
    """

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: Body = b""
    reason: str = ""
    close: bool = False
    delivered: Callable[[int, bool], None] | None = None
    onward: Intercept | Splice | None = None

    def header(self, name: str) -> str | None:
        """The first value of a field, by lower-case name."""
        for n, v in self.headers:
            if n.lower() == name:
                return v
        return None


type Handler = Callable[[Request], Awaitable[Response]]
"""Answers a request. An exception that gets out of it is answered by ``problems.respond``."""
