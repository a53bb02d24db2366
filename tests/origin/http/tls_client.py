"""A client that does TLS by hand: what is encrypted, what is on the wire and what was understood are three different things here."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from origin.http.tls import TLSWire, handshake, server_context
from tests.fakes.tls import Authority


class Shown:
    """Contexts that are always the same one; and what clients need to trust it."""

    def __init__(self, directory: Path, *names: str) -> None:
        self.authority = Authority(directory)
        self.path = self.authority.certificate(*(names or ("localhost",)))
        self.server = server_context(str(self.path))

    def context(self) -> ssl.SSLContext:
        return self.server

    def client(self, *protocols: str) -> ssl.SSLContext:
        context = self.authority.client_context()
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context


class Talker:
    """TLS over a non-blocking socket. ``is_ended`` once the server has said ``close_notify``, ``is_cut`` once TCP ended without."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str | None = "localhost") -> None:
        sock.setblocking(False)
        self.sock = sock
        self.is_ended = self.is_cut = False
        self.received = bytearray()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)

    async def shake_hands(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                await self.flush()
                await trio.lowlevel.wait_readable(self.sock)
                if not self.fetch():
                    raise EOFError from None
            finally:
                await self.flush()

    async def send(self, data: bytes) -> None:
        self.tls.write(data)
        await self.flush()

    async def say_end(self) -> None:
        """Say ``close_notify``, and go on reading."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        await self.flush()

    async def flush(self) -> None:
        data = memoryview(self._outgoing.read())
        while data:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.sock)

    def fetch(self, limit_bytes: int = 1 << 20) -> int:
        """Take from the kernel what is there, up to so many bytes, and say how many they were."""
        try:
            data = self.sock.recv(limit_bytes)
        except BlockingIOError:
            return 0
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return len(data)

    def take(self, limit_bytes: int = 1 << 20) -> int:
        """Take and understand what is there; how many bytes came, encrypted."""
        count = self.fetch(limit_bytes)
        with contextlib.suppress(ssl.SSLWantReadError):
            try:
                while data := self.tls.read(1 << 16):
                    self.received += data
                self.is_ended = True
            except ssl.SSLZeroReturnError:
                self.is_ended = True
            except ssl.SSLEOFError:
                self.is_cut = True
        return count

    async def read(self, size: int) -> bytes:
        """So many bytes, or fewer if the connection ends before."""
        while len(self.received) < size and not (self.is_ended or self.is_cut):
            await trio.lowlevel.wait_readable(self.sock)
            self.take()
        data = bytes(self.received[:size])
        del self.received[:size]
        return data


@asynccontextmanager
async def talking(
    port: int, context: ssl.SSLContext, name: str | None = "localhost", *, receive_bytes: int = 0
) -> AsyncIterator[Talker]:
    """A client of the server on that port, hands shaken. ``receive_bytes`` keeps the kernel's buffer small."""
    with trio.socket.socket() as sock:
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        await sock.connect(("127.0.0.1", port))
        with socket.socket(fileno=sock.detach()) as plain:
            talker = Talker(plain, context, name)
            await talker.shake_hands()
            yield talker


@asynccontextmanager
async def joined(shown: Shown) -> AsyncIterator[tuple[TLSWire, Talker]]:
    """A wire and who talks to it, over buffers that are soon full."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as near:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        near.connect(listener.getsockname())
        far, _ = listener.accept()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        talker = Talker(near, shown.client())
        wire: TLSWire | None = None

        async def serve() -> None:
            nonlocal wire
            far.setblocking(False)
            wire = await handshake(far, shown.server, 5)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            nursery.start_soon(talker.shake_hands)
        assert wire is not None
        try:
            talker.take()  # session tickets
            yield wire, talker
        finally:
            wire.close()
