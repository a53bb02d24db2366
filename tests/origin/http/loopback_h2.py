"""HTTP/2 on a loopback port without TLS, by prior knowledge, and two clients: one of raw frames, one that keeps the protocol."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset
from hpack import Encoder
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame

from origin.http import Handler, Request, Response
from origin.http.conversation import Gone, House, Peer
from origin.http.h2 import serve_h2
from origin.http.hosts import Hosts, Standings
from origin.http.hot import HotPages
from origin.http.limits import Limits
from origin.http.sending import Stalled
from origin.http.wire import PlainWire

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NOW = 1_800_000_000.0


@dataclass
class Served:
    """A server, what its handler has seen, how many handlers run now and ran at most, and how connections ended."""

    port: int
    hot: HotPages
    draining: trio.Event
    seen: list[Request] = field(default_factory=list)
    running: int = 0
    most: int = 0
    ends: list[Exception | None] = field(default_factory=list)
    ended: trio.Event = field(default_factory=trio.Event)

    @asynccontextmanager
    async def raw(self, *, settings: dict[int, int] | None = None) -> AsyncIterator[Raw]:
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            raw = Raw(stream)
            await raw.send(PREFACE + SettingsFrame(settings=settings or {}).serialize())
            yield raw

    @asynccontextmanager
    async def client(self, *, window: int = 65535) -> AsyncIterator[Client]:
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            client = Client(stream, window)
            await client.begin()
            yield client


@asynccontextmanager
async def serving_h2(
    handler: Handler,
    *,
    limits: Limits | None = None,
    hot: HotPages | None = None,
    hosts: Standings | None = None,
    clock: Callable[[], float] = lambda: NOW,
    send_buffer_bytes: int = 0,
    user: str = "",
) -> AsyncIterator[Served]:
    draining = trio.Event()
    listener = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener[0].socket.getsockname()[1]
    listed = Hosts(["http://localhost", f"http://localhost:{port}"])
    served = Served(port, hot or HotPages(1 << 24), draining)

    async def counted(request: Request) -> Response:
        served.seen.append(request)
        served.running += 1
        served.most = max(served.most, served.running)
        try:
            return await handler(request)
        finally:
            served.running -= 1

    house = House(
        handler=counted,
        hosts=listed,
        limits=limits or Limits(),
        clock=clock,
        scope=lambda authorization: authorization or "",
        closing=draining.is_set,
        draining=draining,
        cold_reads=trio.CapacityLimiter(2),
    )

    async def serve(stream: trio.SocketStream) -> None:
        sock = socket.socket(fileno=stream.socket.detach())
        sock.setblocking(False)
        if send_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
        wire = PlainWire(sock)
        peer = Peer(wire, "127.0.0.1", False, hosts or listed)
        peer.user = user
        try:
            await serve_h2(house, peer, served.hot)
            served.ends.append(None)
        except Stalled as error:
            wire.abort()
            served.ends.append(error)
        except (OSError, Gone) as error:
            served.ends.append(error)
        finally:
            wire.close()
            served.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listener)
        yield served
        nursery.cancel_scope.cancel()


def fields(target: str = "/", *more: tuple[str, str], method: str = "GET", authority: str = "localhost") -> list[tuple[str, str]]:
    return [(":method", method), (":scheme", "http"), (":authority", authority), (":path", target), *more]


class Raw:
    """Sends frames as given, and reads frames; it acknowledges nothing."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.encoder = Encoder()
        self.frames: list[Frame] = []
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    def headers(self, stream_id: int, block: Iterable[tuple[str, str]] | None = None, *flags: str) -> bytes:
        data = self.encoder.encode(list(block or fields()))
        return HeadersFrame(stream_id, data, flags=flags or ("END_HEADERS", "END_STREAM")).serialize()

    async def read(self) -> Frame | None:
        """The next frame; None at the end."""
        while True:
            if len(self._buffer) >= 9:
                frame, length = Frame.parse_frame_header(memoryview(self._buffer[:9]))
                if len(self._buffer) >= 9 + length:
                    frame.parse_body(memoryview(self._buffer[9 : 9 + length]))
                    self._buffer = self._buffer[9 + length :]
                    self.frames.append(frame)
                    return frame
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._buffer += data

    async def until(self, *kinds: type[Frame]) -> Frame:
        """The next frame of these kinds. GOAWAY is always one."""
        while (frame := await self.read()) is not None:
            if isinstance(frame, (GoAwayFrame, *kinds)):
                return frame
        raise EOFError(self.frames[-3:])

    async def data(self) -> bytes:
        """What the next DATA frame holds."""
        frame = await self.until(DataFrame)
        assert isinstance(frame, DataFrame), frame
        return frame.data

    async def answer_ping(self) -> None:
        """Read on to the server's PING, past its GOAWAY, and acknowledge it."""
        while not isinstance(frame := await self.until(PingFrame), PingFrame):
            pass
        await self.send(PingFrame(0, frame.opaque_data, flags=["ACK"]).serialize())

    async def goaway(self) -> GoAwayFrame:
        """Read until GOAWAY, and on to the end of the connection."""
        while await self.read() is not None:
            pass
        told = [frame for frame in self.frames if isinstance(frame, GoAwayFrame)]
        assert told, self.frames[-3:]
        return told[-1]

    def resets(self) -> dict[int, int]:
        return {frame.stream_id: frame.error_code for frame in self.frames if isinstance(frame, RstStreamFrame)}


@dataclass
class Answer:
    """What came on one stream. ``reset`` is the error code of RST_STREAM, None if there was none."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None


class Client:
    """One connection that keeps the protocol, for requests in turn or together."""

    def __init__(self, stream: trio.SocketStream, window: int) -> None:
        self.stream = stream
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.local_settings.initial_window_size = window
        self.h2.local_settings.acknowledge()
        self.answers: dict[int, Answer] = {}
        self.terminated: list[ConnectionTerminated] = []

    async def begin(self) -> None:
        self.h2.initiate_connection()
        await self.flush()

    async def flush(self) -> None:
        await self.stream.send_all(self.h2.data_to_send())

    async def ask(
        self, target: str, *more: tuple[str, str], method: str = "GET", authority: str = "localhost", body: bytes | None = None
    ) -> int:
        """Send a request; its stream."""
        stream_id = self.h2.get_next_available_stream_id()
        self.answers[stream_id] = Answer()
        self.h2.send_headers(stream_id, fields(target, *more, method=method, authority=authority), end_stream=body is None)
        await self.flush()
        while body is not None:
            count = min(len(body), self.h2.local_flow_control_window(stream_id), 16384)
            if not count and body:
                await self.take()
                if self.answers[stream_id].reset is not None:
                    break
                continue
            self.h2.send_data(stream_id, body[:count], end_stream=count == len(body))
            body = body[count:] or None
            await self.flush()
        return stream_id

    async def take(self, *, acknowledge: bool = True) -> bool:
        """Read once; False at the end."""
        data = await self.stream.receive_some(65536)
        if not data:
            return False
        for event in self.h2.receive_data(data):
            match event:
                case ResponseReceived():
                    answer = self.answers[event.stream_id]
                    answer.headers = dict(event.headers)  # type: ignore[arg-type]  # decoded
                    answer.status = int(answer.headers.pop(":status"))
                case DataReceived():
                    self.answers[event.stream_id].body += event.data
                    if acknowledge:
                        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case StreamEnded():
                    self.answers[event.stream_id].ended = True
                case StreamReset():
                    self.answers[event.stream_id].reset = int(event.error_code)
                case ConnectionTerminated():
                    self.terminated.append(event)
        await self.flush()
        return True

    async def finish(self, stream_id: int) -> Answer:
        answer = self.answers[stream_id]
        while not answer.ended and answer.reset is None:
            if not await self.take():
                break
        return answer

    async def get(
        self, target: str, *more: tuple[str, str], method: str = "GET", authority: str = "localhost", body: bytes | None = None
    ) -> Answer:
        return await self.finish(await self.ask(target, *more, method=method, authority=authority, body=body))
