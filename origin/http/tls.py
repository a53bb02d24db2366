"""TLS under the server: a non-blocking wire, and the handshake that makes one of a socket.

An ``ssl.SSLSocket`` in the door's own selector costs half of what ``trio.SSLStream`` does; its price is told at ``TLSWire``.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Protocol

import trio

from .wire import Spoken, acknowledged_bytes, is_hung_up

RECORD_BYTES = 16384
"""The most that one TLS record carries (RFC 8446 §5.1), and the most that is ever kept for a peer that does not read."""

_PIECE_BYTES = 256 * 1024
# Only suites that HTTP/2 allows under TLS 1.2 (RFC 9113 §9.2.2); those of TLS 1.3 are all fit, and not chosen here.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

# What a file's next piece is read into, and encrypted from, without an await between: one for all connections of the loop's thread.
_piece = memoryview(bytearray(_PIECE_BYTES))


class Contexts(Protocol):
    """Gives the context for a new connection."""

    def context(self) -> ssl.SSLContext: ...


class TLSWire:
    """One connection with TLS. ``spoken`` is what ALPN settled, ``http/1.1`` where the client offered nothing.

    What is sent goes to OpenSSL in pieces of one record. A piece that the socket has no room for is OpenSSL's to finish, and must be given
    to it again, the very same (``SSL_write(3)``); it is kept here, and does not count as sent. Once it has gone out, its length is credited
    against what callers send next: they send the same bytes again, though perhaps split otherwise. So nobody is told that bytes are
    sent before the kernel has them, and a peer that does not read costs one record kept and one encrypted.

    Nothing is ever left over inside OpenSSL, of which no selector would know: it reads one record at a time from the kernel, and
    ``recv_nowait`` takes a record whole.
    """

    __slots__ = ("_credit", "_is_ended", "_is_finishing", "_kept", "_read", "_sock", "_write", "spoken")

    def __init__(self, sock: ssl.SSLSocket) -> None:
        """``sock`` has shaken hands and does not block."""
        self._sock = sock
        self._read: Callable[[int], bytes] = sock.recv
        self._write: Callable[[bytes | memoryview], int] = sock.send
        self._kept = b""  # the piece that OpenSSL has begun to write
        self._credit = b""  # a piece that went out in the end, as far as nobody was told yet
        self._is_ended = self._is_finishing = False
        self.spoken: Spoken = "h2" if sock.selected_alpn_protocol() == "h2" else "http/1.1"

    def fileno(self) -> int:
        return self._sock.fileno()

    def is_broken(self) -> bool:
        return is_hung_up(self._sock.fileno())

    def acknowledged(self) -> int:
        return acknowledged_bytes(self._sock)

    def sendfile_nowait(self, fd: int, offset: int, count: int) -> int:
        """Reads and encrypts up to 256 KB: as fast as in larger pieces, and as long as page hits may have to wait."""
        self._flush()
        if self._credit:
            # The caller has told no offset but the one at which these bytes were read.
            return self._credited(min(count, len(self._credit)))
        size = os.preadv(fd, [_piece[: min(count, _PIECE_BYTES)]], offset)
        return self._pour(_piece[:size]) if size else 0

    def finish(self) -> None:
        """Say ``close_notify``, unless something is still on its way: an answer that is not whole must not look as if it were.

        While there is something to be read, saying so waits until that was read: with ``close_notify`` Python asks OpenSSL for the peer's
        own at once, and OpenSSL takes anything else that it finds there for the end of the connection.
        """
        if self._kept or self._credit or self._is_ended or self._write is _finished:
            return
        self._write = _finished
        self._is_finishing = True
        self._say_end()

    def _say_end(self) -> None:
        try:
            if socket.socket.recv(self._sock, 1, socket.MSG_PEEK):
                return
        except BlockingIOError:
            pass
        except OSError:
            return  # there is nobody to be told
        self._is_finishing = False
        with contextlib.suppress(OSError, ValueError):
            self._sock.unwrap()
            self._is_ended = True  # both have said so: what might follow is not TLS
        with contextlib.suppress(OSError):  # the peer was quicker
            socket.socket.shutdown(self._sock, socket.SHUT_WR)  # the SSLSocket's own would end reading too

    def close(self) -> None:
        """Close without ``close_notify``: where an answer is whole, ``finish`` comes before."""
        self._is_ended = True
        self._sock.close()
        self._kept = self._credit = b""

    def abort(self) -> None:
        with contextlib.suppress(OSError):  # closed already
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def recv_nowait(self, count: int) -> bytes:
        """Up to so many bytes, but never a part of a record: at most 16 KB more."""
        if self._is_ended:
            return b""
        try:
            data = self._read(count)
            if len(data) == count and (rest := self._sock.pending()):
                data += self._read(rest)
        except ssl.SSLWantReadError:
            raise BlockingIOError from None
        except ssl.SSLZeroReturnError:  # what Python makes of the peer's end if ours was before it
            data = b""
        except ssl.SSLWantWriteError:
            # Nobody may renegotiate, so there is nothing that reading would have to answer; to wait for room here would be to spin, since
            # the selector goes on to report the bytes that are there to be read.
            raise ConnectionAbortedError("the client does not read what it asks for") from None
        if self._is_finishing:
            self._say_end()
        return data

    def send_nowait(self, data: bytes | memoryview) -> int:
        if self._kept or self._credit:
            self._flush()
            if self._credit:
                return self._credited_against(data)
        if len(data) > RECORD_BYTES:
            return self._pour(memoryview(data))
        try:
            return self._write(data)
        except ssl.SSLWantWriteError:
            self._kept = bytes(data)
            raise BlockingIOError from None

    def send_parts_nowait(self, parts: tuple[bytes, bytes]) -> int:
        head, body = parts
        room = RECORD_BYTES - len(head)
        if self._kept or self._credit or room <= 0:
            return self.send_nowait(head or body)
        first = self.send_nowait(head + body[:room])
        try:
            return first + self._pour(memoryview(body)[room:])
        except BlockingIOError:
            return first

    def _pour(self, data: memoryview) -> int:
        """Send record by record until the socket is full, but no more than a piece. Raises ``BlockingIOError`` if it is full at once."""
        sent = 0
        stop = min(len(data), _PIECE_BYTES)
        while sent < stop:
            record = data[sent : min(sent + RECORD_BYTES, stop)]
            try:
                sent += self._write(record)
            except ssl.SSLWantWriteError:
                self._kept = bytes(record)
                if not sent:
                    raise BlockingIOError from None
                break
        return sent

    def _flush(self) -> None:
        """Let OpenSSL finish what it has begun. Raises ``BlockingIOError`` while there is no room for it."""
        if self._kept:
            try:
                self._write(self._kept)
            except ssl.SSLWantWriteError:
                raise BlockingIOError from None
            self._kept, self._credit = b"", self._kept

    def _credited_against(self, data: bytes | memoryview) -> int:
        count = min(len(data), len(self._credit))
        if data[:count] != self._credit[:count]:
            raise AssertionError("other bytes are sent than those that were begun")
        return self._credited(count)

    def _credited(self, count: int) -> int:
        self._credit = self._credit[count:]
        return count


def _finished(data: bytes | memoryview) -> int:
    """What would be sent after ``close_notify`` would be lost, or not even be encrypted."""
    raise BrokenPipeError("nothing can be sent on a connection that was finished")


def server_context(cert: str, key: str | None = None) -> ssl.SSLContext:
    """A server's context with what is in these PEM files (``cert``: the chain, leaf first, and perhaps the key).

    TLS 1.2 and up, ALPN ``h2`` and ``http/1.1``. Raises ``ValueError`` with a sentence if they cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["h2", "http/1.1"])
    files = cert if key is None else f"{cert} and {key}"
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except ssl.SSLError as error:
        reason = "the key does not belong to the certificate" if error.reason == "KEY_VALUES_MISMATCH" else _reason(error)
        raise ValueError(f"{files} cannot be used for TLS: {reason}") from None
    except OSError as error:
        raise ValueError(f"{files} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"{files} cannot be used for TLS: {error}") from None
    return context


def _no_password() -> str:
    """Instead of OpenSSL asking for one at the terminal."""
    raise ValueError("the key is protected by a password, which a server has nobody to ask for")


def _reason(error: ssl.SSLError) -> str:
    if error.reason in (None, "PEM_LIB", "NO_START_LINE"):
        return "they are not a certificate and its key in PEM"
    return error.reason.lower().replace("_", " ")


async def handshake(sock: socket.socket, context: ssl.SSLContext, timeout_s: float) -> TLSWire:
    """Shake hands on a connected, non-blocking socket, which is the wire's afterwards (and closed on failure).

    Raises ``OSError`` (``ssl.SSLError`` among them) if the client does not like it, or takes longer than ``timeout_s``.
    """
    try:
        wrapped = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
    except BaseException:
        sock.close()
        raise
    try:
        with trio.fail_after(timeout_s):
            await _shake(wrapped)
        return TLSWire(wrapped)
    except trio.TooSlowError:
        wrapped.close()
        raise TimeoutError(f"no handshake within {timeout_s:g} seconds") from None
    except BaseException:
        wrapped.close()
        raise


async def _shake(sock: ssl.SSLSocket) -> None:
    while True:
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(sock.fileno())
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(sock.fileno())
        except ValueError as error:  # what Python makes of a peer that went before anything was said
            raise ConnectionAbortedError(str(error)) from None
        else:
            await trio.lowlevel.checkpoint()
            return
