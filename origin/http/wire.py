"""Sockets as the server uses them: never blocking, and the same for plain and TLS connections (``tls.py``).

``recv_nowait`` and ``send_nowait`` are attributes, not methods, so that a plain socket's own bound methods can stand there: the hot
path calls each once per request.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from collections.abc import Callable
from typing import Literal, Protocol

type Spoken = Literal["http/1.1", "h2"]
"""What is spoken on a connection."""

_ACKED_AT = 120  # in struct tcp_info, since Linux 4.1


class Wire(Protocol):
    """One accepted connection."""

    @property
    def spoken(self) -> Spoken: ...

    @property
    def recv_nowait(self) -> Callable[[int], bytes]:
        """Read up to so many bytes (over TLS a record more); ``b""`` at the end.

        Raises ``BlockingIOError`` when there is nothing yet, ``OSError`` when broken. What it leaves, the selector will report.
        """
        ...

    @property
    def send_nowait(self) -> Callable[..., int]:
        """Send what fits and say how much. Raises ``BlockingIOError`` when nothing does, ``OSError`` when broken.

        What was not sent must be what is sent next, though it may be split otherwise, or be followed by more.
        """
        ...

    @property
    def send_parts_nowait(self) -> Callable[[tuple[bytes, bytes]], int]:
        """Send what fits of several pieces, as if they were one."""
        ...

    def fileno(self) -> int: ...

    def is_broken(self) -> bool:
        """Whether the connection has ended in both directions: it was reset, or both sides finished."""
        ...

    def acknowledged(self) -> int:
        """How many bytes the peer has acknowledged, since the connection began, as the kernel counts them."""
        ...

    def sendfile_nowait(self, fd: int, offset: int, count: int) -> int:
        """Send bytes of a file; 0 when the file ends there. Raises ``BlockingIOError`` when nothing fits."""
        ...

    def finish(self) -> None:
        """Say that nothing more will be sent; reading goes on."""
        ...

    def close(self) -> None:
        """Close; what the kernel holds still goes out. Over TLS it looks cut off, unless ``finish`` came before. Idempotent."""
        ...

    def abort(self) -> None:
        """Close at once with a reset, dropping what the kernel holds. Idempotent."""
        ...


class PlainWire:
    """A TCP connection without TLS."""

    __slots__ = ("_sock", "recv_nowait", "send_nowait", "send_parts_nowait")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self.recv_nowait: Callable[[int], bytes] = sock.recv
        self.send_nowait: Callable[..., int] = sock.send
        self.send_parts_nowait: Callable[[tuple[bytes, bytes]], int] = sock.sendmsg

    @property
    def spoken(self) -> Spoken:
        return "http/1.1"

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def socket(self) -> socket.socket:
        """The socket itself, for a handshake that makes another wire of it."""
        return self._sock

    def is_broken(self) -> bool:
        return is_hung_up(self._sock.fileno())

    def acknowledged(self) -> int:
        return acknowledged_bytes(self._sock)

    def sendfile_nowait(self, fd: int, offset: int, count: int) -> int:
        return os.sendfile(self._sock.fileno(), fd, offset, count)

    def finish(self) -> None:
        with contextlib.suppress(OSError):  # the peer was quicker
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._sock.close()

    def abort(self) -> None:
        with contextlib.suppress(OSError):  # closed already
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()


def is_hung_up(fd: int) -> bool:
    """Whether a connection has ended in both directions."""
    poll = select.poll()
    poll.register(fd, 0)  # errors and hang-ups are told unasked
    return bool(poll.poll(0))


def acknowledged_bytes(sock: socket.socket) -> int:
    """How many bytes the peer has acknowledged since the connection began (``tcpi_bytes_acked``). Raises ``OSError``."""
    told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_AT + 8)
    count: int = struct.unpack_from("Q", told, _ACKED_AT)[0]
    return count
