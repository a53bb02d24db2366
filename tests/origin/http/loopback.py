"""A server on a loopback port and a small strict client, for the tests of this folder."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio
import trio.testing

from origin.http import Handler, Request, Response
from origin.http.hot import HotPages
from origin.http.listen import Limits, Server, open_tcp
from origin.http.tls import Contexts


@dataclass
class Answer:
    status: int
    reason: str
    headers: dict[str, str]
    body: bytes


class Client:
    """Sends bytes as given and reads answers by their ``Content-Length``."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def send(self, data: bytes | str) -> None:
        await self.stream.send_all(data.encode() if isinstance(data, str) else data)

    async def get(self, target: str, *lines: str, method: str = "GET") -> Answer:
        await self.send(get(target, *lines, method=method))
        return await self.answer(method)

    async def answer(self, method: str = "GET") -> Answer:
        while b"\r\n\r\n" not in self.buffer:
            self.buffer += await self._more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, reason = first.split(" ", 2)
        assert version == "HTTP/1.1"
        headers: dict[str, str] = {}
        for line in lines:
            name, value = line.split(": ", 1)
            assert name.lower() not in headers
            headers[name.lower()] = value
        length = 0
        if method != "HEAD" and int(status) not in (100, 204, 304):
            length = int(headers["content-length"])
        while len(self.buffer) < length:
            self.buffer += await self._more()
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return Answer(int(status), reason, headers, body)

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        data, self.buffer = self.buffer, b""
        try:
            while more := await self.stream.receive_some(65536):
                data += more
        except trio.BrokenResourceError:
            return data
        return data

    async def _more(self) -> bytes:
        data = await self.stream.receive_some(65536)
        if not data:
            raise EOFError(self.buffer)
        return data


def get(target: str, *lines: str, method: str = "GET", host: str = "localhost") -> str:
    return "".join(f"{line}\r\n" for line in (f"{method} {target} HTTP/1.1", f"Host: {host}", *lines, ""))


@dataclass
class Running:
    server: Server
    hot: HotPages
    port: int
    seen: list[Request] = field(default_factory=list)
    nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            yield Client(stream)

    async def exchange(self, data: bytes) -> bytes:
        """Send ``data`` on a connection of its own; everything the server says until it closes."""
        async with self.client() as client:
            await client.send(data)
            return await client.rest()


@asynccontextmanager
async def running(
    handler: Handler,
    *,
    hot: HotPages | None = None,
    limits: Limits | None = None,
    clock: Callable[[], float] = lambda: 1_800_000_000.0,
    public_urls: tuple[str, ...] = ("http://localhost",),
    contexts: Contexts | None = None,
    tls_only: bool = False,
    **options: object,
) -> AsyncIterator[Running]:
    seen: list[Request] = []

    async def noting(request: Request) -> Response:
        seen.append(request)
        return await handler(request)

    store = hot or HotPages(1 << 24)
    server = Server(noting, store, limits=limits, clock=clock, public_urls=public_urls, **options)  # type: ignore[arg-type]
    listeners = open_tcp("127.0.0.1", 0)
    port = listeners[0].getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(server.serve, listeners, contexts=contexts, tls_only=tls_only))
        yield Running(server, store, port, seen, nursery)
        nursery.cancel_scope.cancel()


async def settled(condition: Callable[[], object]) -> None:
    """Wait until ``condition`` holds, while everybody else goes on."""
    for _ in range(5000):
        if condition():
            return
        await trio.testing.wait_all_tasks_blocked(0.001)
    raise AssertionError("it never came true")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def plain(request: Request) -> Response:
    """Tells the target and the body's length."""
    return Response(200, [("Content-Type", "text/plain")], f"{request.method} {request.target} {len(request.body)}".encode())


def answering(response: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
    async def handler(request: Request) -> Response:
        return response(request)

    return handler
