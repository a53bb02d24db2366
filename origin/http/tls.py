"""TLS under the server: a non-blocking wire, the handshake, and certificates that are read again when their files change.

An ``ssl.SSLSocket`` in the door's own selector costs half of what ``trio.SSLStream`` does; its price is told at ``TLSWire``.
"""

from __future__ import annotations

import socket
import ssl
from typing import Protocol

from .wire import Spoken, Wire


class Contexts(Protocol):
    """Gives the context for a new connection."""

    def context(self) -> ssl.SSLContext: ...


class TLSWire(Wire):
    """One connection with TLS. ``spoken`` is what ALPN settled, ``http/1.1`` where the client offered nothing."""

    @property
    def spoken(self) -> Spoken:
        raise NotImplementedError


def server_context(cert: str, key: str | None = None) -> ssl.SSLContext:
    """A server's context with what is in these PEM files (``cert``: the chain, leaf first, and perhaps the key).

    TLS 1.2 and up, ALPN ``h2`` and ``http/1.1``. Raises ``ValueError`` with a sentence if they cannot be used.
    """
    raise NotImplementedError


async def handshake(sock: socket.socket, context: ssl.SSLContext, timeout_s: float) -> TLSWire:
    """Shake hands on a connected, non-blocking socket, which is the wire's afterwards (and closed on failure).

    Raises ``OSError`` (``ssl.SSLError`` among them) if the client does not like it, or takes longer than ``timeout_s``.
    """
    raise NotImplementedError
