"""Downloading clients on trio: many at once, slow ones, ones that leave in the middle."""

from __future__ import annotations

import hashlib
import socket
from dataclasses import dataclass, field

import trio

PIECE = 1 << 18


@dataclass
class Download:
    """One GET of ``path`` from 127.0.0.1:``port``, watched while it runs.

    ``received`` counts body bytes; ``first_byte_s`` is from asking to the body's first byte, ``seconds`` to its end. ``complete`` says that
    all announced bytes came. The events fire when the head is in, and each time ``received`` grows.
    """

    port: int
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 0
    reason: str = ""
    length: int = 0
    received: int = 0
    complete: bool = False
    first_byte_s: float = float("inf")
    seconds: float = 0
    sha256: str = ""
    head: str = ""
    head_came: trio.Event = field(default_factory=trio.Event)
    grew: trio.Event = field(default_factory=trio.Event)

    async def run(self, *, leave_at: int | None = None, bytes_per_s: float = 0, wait: trio.Event | None = None) -> None:
        """Download it all, or leave after so many body bytes, or read slowly; ``wait``: once the head is in, read on only then."""
        began = trio.current_time()
        digest = hashlib.sha256()
        stream = await self._connect(small_window=bool(bytes_per_s) or wait is not None)
        async with stream:
            fields = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
            await stream.send_all(f"GET {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n{fields}\r\n".encode())
            buffer = b""
            while b"\r\n\r\n" not in buffer:
                piece = await self._receive(stream, 65536)
                if not piece:
                    return
                buffer += piece
            head, _, body = buffer.partition(b"\r\n\r\n")
            self._read_head(head.decode("latin-1"))
            self.head_came.set()
            if wait is not None:
                await wait.wait()
            while True:
                if body:
                    if not self.received:
                        self.first_byte_s = trio.current_time() - began
                    self.received += len(body)
                    digest.update(body)
                    self.grew.set()
                    self.grew = trio.Event()
                if self.received >= self.length or (leave_at is not None and self.received >= leave_at):
                    break
                if bytes_per_s:
                    await trio.sleep(max(0.0, self.received / bytes_per_s - (trio.current_time() - began)))
                limit = PIECE if leave_at is None else min(PIECE, leave_at - self.received)
                body = await self._receive(stream, min(limit, 4096) if bytes_per_s else limit)
                if not body:
                    break
        self.seconds = trio.current_time() - began
        self.complete = self.received == self.length
        self.sha256 = digest.hexdigest()

    async def wait_received(self, count: int) -> None:
        """Return once at least ``count`` body bytes are in."""
        while self.received < count:
            await self.grew.wait()

    async def _connect(self, small_window: bool) -> trio.SocketStream:
        connection = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if small_window:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        await connection.connect(("127.0.0.1", self.port))
        return trio.SocketStream(connection)

    async def _receive(self, stream: trio.SocketStream, limit: int) -> bytes:
        try:
            return bytes(await stream.receive_some(limit))
        except trio.BrokenResourceError:
            return b""  # the server reset the connection: the body ended short

    def _read_head(self, head: str) -> None:
        self.head = head
        line, *fields = head.split("\r\n")
        _, status, self.reason = line.split(" ", 2)
        self.status = int(status)
        for one in fields:
            name, _, value = one.partition(":")
            if name.lower() == "content-length":
                self.length = int(value)
