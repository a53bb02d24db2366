"""The HTTP server: HTTP/1.1 on trio, with hits answered straight from the selector of idle connections.

Read ``listen.py`` (opens, serves and drains listeners), ``door.py`` (the one task with the selector), ``hot.py`` (kept answers, and how a
request is recognised as one), ``conversation.py`` (a request that has a task of its own), in this order. Beneath them lie ``wire.py``
(sockets), ``sending.py`` (bodies on their way out), ``limits.py``, and what is pure: ``h1.py`` (the grammar), ``hosts.py`` (bases and
proxies), ``ranges.py`` (conditions and ranges), ``coding.py`` (content codings), ``problems.py`` (errors to responses).

A handler never sees a socket: it is given a ``Request`` and returns a ``Response``. The server adds ``Date``, ``Connection`` and
``Content-Length``, leaves bodies out of HEAD, ``304`` and ``204``, and applies ``If-None-Match``, ``If-Modified-Since`` (when there is
no ETag), ``If-Range`` and ``Range`` to any 200 that carries an ``ETag`` — ranges only where ``Accept-Ranges: bytes`` is set.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from ..model import Body, Headers


@dataclass(frozen=True, slots=True)
class Request:
    """One request, parsed strictly. ``target`` is raw: as sent, in origin form or absolute form, query included.

    ``base`` is the external base URL the client used (``http://127.0.0.1:8080``), from a closed list; ``listed`` is False
    if its Host is not on the list: the answer may be rendered but never kept. ``client`` is the address of the client, seen through
    trusted proxies. ``body`` is whole, within the limit.
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

    def header(self, name: str) -> str | None:
        """The field's value, several joined by ``", "``; ``name`` in lower case."""
        values = [v for n, v in self.headers if n == name]
        return ", ".join(values) if values else None


@dataclass(slots=True)
class Response:
    """One answer. Header names are written as given. ``reason`` is short ASCII, ``""`` for the standard phrase.

    ``delivered(sent_bytes, complete)`` is called once, when the body went out or the connection ended.
    """

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: Body = b""
    reason: str = ""
    close: bool = False
    delivered: Callable[[int, bool], None] | None = None

    def header(self, name: str) -> str | None:
        """The first value of a field, by lower-case name."""
        for n, v in self.headers:
            if n.lower() == name:
                return v
        return None


type Handler = Callable[[Request], Awaitable[Response]]
"""Answers a request. An exception that gets out of it is answered by ``problems.respond``."""
