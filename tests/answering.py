"""An upstream in the tests' hands, on a real loopback socket: each path answers as it is told, however wrong that is."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import trio


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came. Field names are lower-case."""

    method: str
    target: str
    fields: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """What to answer. Its faults: ``length`` announces another length (-1: none at all), ``cut`` closes after so many body bytes,
    ``silent`` never sends a byte, ``stalls`` never sends another after ``cut``, ``endless`` never ends, ``drips`` neither, a byte at a
    time and that many seconds apart, ``raw`` is no HTTP at all.
    """

    status: int = 200
    body: bytes = b""
    fields: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None
    cut: int | None = None
    silent: bool = False
    stalls: bool = False
    endless: bool = False
    drips: float | None = None
    raw: bytes | None = None


type Answers = Reply | list[Reply] | Callable[[Asked], Reply]


class Answering:
    """The upstream. ``answers`` maps a path to its reply, a list to be used up (the last stays), or a function; else 404. ``delays`` holds
    the answer of a path back for so many seconds.
    """

    def __init__(self, scheme: str, host: str, port: int) -> None:
        self.url = f"{scheme}://{host}:{port}/"
        self.port = port
        self.answers: dict[str, Answers] = {}
        self.delays: dict[str, float] = {}
        self.asked: list[Asked] = []
        self.connections = 0
        self._news = trio.lowlevel.ParkingLot()

    async def wait_asked(self, times: int) -> None:
        """Wait until so many requests came."""
        while len(self.asked) < times:
            await self._news.park()

    def paths(self) -> list[str]:
        return [asked.target for asked in self.asked]

    async def _serve(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        self.connections += 1
        try:
            async with stream:
                buffer = b""
                while True:
                    while b"\r\n\r\n" not in buffer:
                        data = await stream.receive_some(65536)
                        if not data:
                            return
                        buffer += data
                    head, _, buffer = buffer.partition(b"\r\n\r\n")
                    asked = _read(head)
                    length = int(asked.fields.get("content-length", "0"))
                    while len(buffer) < length:
                        data = await stream.receive_some(65536)
                        if not data:
                            return
                        buffer += data
                    asked, buffer = replace(asked, body=buffer[:length]), buffer[length:]
                    self.asked.append(asked)
                    self._news.unpark_all()
                    await trio.sleep(self.delays.get(asked.target, 0))
                    if not await _send(stream, asked, self._reply(asked)):
                        return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the client hung up, which many tests are about

    def _reply(self, asked: Asked) -> Reply:
        answers = self.answers.get(asked.target, Reply(404))
        if isinstance(answers, list):
            return answers.pop(0) if len(answers) > 1 else answers[0]
        return answers if isinstance(answers, Reply) else answers(asked)


async def _send(stream: trio.abc.SendStream, asked: Asked, reply: Reply) -> bool:
    """Send the reply and say whether the connection may be used again."""
    if reply.silent:
        await trio.sleep_forever()
    if reply.raw is not None:
        await stream.send_all(reply.raw)
        return False
    fields = dict(reply.fields)
    if reply.status != 304 and not reply.endless and reply.drips is None:
        length = len(reply.body) if reply.length is None else reply.length
        if length >= 0:
            fields.setdefault("Content-Length", str(length))
    lines = [f"HTTP/1.1 {reply.status} Whatever", *(f"{name}: {value}" for name, value in fields.items())]
    await stream.send_all("\r\n".join([*lines, "", ""]).encode("latin-1"))
    if asked.method == "HEAD" or reply.status == 304:
        return True
    while reply.drips is not None:
        await stream.send_all(b"x")
        await trio.sleep(reply.drips)
    while reply.endless:
        await stream.send_all(b"x" * 1000)
    await stream.send_all(reply.body[: reply.cut])
    if reply.stalls:
        await trio.sleep_forever()
    return reply.cut is None and reply.length is None


def _read(head: bytes) -> Asked:
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines)
    return Asked(method, target, {name.lower(): value.strip() for name, _, value in pairs})


@asynccontextmanager
async def answering(host: str = "127.0.0.1", context: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[Answering]:
    """Run an upstream until the block ends."""
    async with trio.open_nursery() as nursery:
        if context is None:
            plain = await trio.open_tcp_listeners(port, host=host)
            upstream = Answering("http", host, plain[0].socket.getsockname()[1])
            nursery.start_soon(trio.serve_listeners, upstream._serve, plain)
        else:
            secure = await trio.open_ssl_over_tcp_listeners(port, context, host=host, https_compatible=True)
            listener = secure[0].transport_listener
            assert isinstance(listener, trio.SocketListener)
            upstream = Answering("https", "localhost", listener.socket.getsockname()[1])
            nursery.start_soon(_serve_tls, upstream, secure)
        yield upstream
        nursery.cancel_scope.cancel()


async def _serve_tls(upstream: Answering, listeners: list[trio.SSLListener[trio.SocketStream]]) -> None:
    await trio.serve_listeners(upstream._serve, listeners)
