"""HTTP/2: one connection in a task of its own, every stream answered by the handler that HTTP/1.1 has.

The h2 library keeps the protocol's state and its bytes; ``h2_budget.py`` counts what comes in before the library sees it, ``h2_head.py``
reads and writes heads. Here are the sockets and the tasks: one reads and answers hot hits at once, one writes, and each other stream has
one from its whole request to the end of its body. No stream has a buffer: a piece of a body is read when the client's window and the
output, which is bounded for the whole connection, have room for it, and streams take turns. Bytes go out in one send per turn of the loop.

What may cost us without end, and what ends it (RFC 9113 §10.5), is listed at ``limits.Limits``; every excess is told by GOAWAY.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    PingAckReceived,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame, PingFrame

from ..model import Arriving, Body
from . import Request, Response, Splice
from .answers import begun, is_bodiless, is_carried, may_begin, narrowed
from .conversation import Gone, House, Peer
from .h1 import Head, Malformed, http_date
from .h2_budget import CONTINUATION, DATA, FRAME_BYTES, HEADERS, RST_STREAM, Budget, Excess, Gate, frames_in
from .h2_head import Broken, Fields, lowered, read_head
from .h2_output import Output
from .h2_stream import TURN_BYTES, Sender, Stream, Stuck, due
from .hot import HotPages, Rendered, is_plain
from .problems import problem, respond
from .ranges import matches_weakly
from .sending import Stalled, Truncated

_log = logging.getLogger(__name__)

_READ_BYTES = 64 * 1024
_TABLE_BYTES = 4096
_LINGER_S = 2
_LINGER_BYTES = 1024 * 1024
_GOAWAY_S = 1.0
_LAST_STREAM = 2**31 - 1
_PING = b"leeward!"
_BODILESS = frozenset({"GET", "HEAD", "TRACE"})


async def serve_h2(house: House, peer: Peer, hot: HotPages) -> None:
    """Serve the connection that ``peer.unread`` begins, from the client's preface on, until it ends.

    Returns when it has ended in order; raises ``OSError``, ``Gone`` or ``Stalled`` when it broke. The wire is the caller's to close.
    """
    await _Connection(house, peer, hot).serve()


class _Connection:
    def __init__(self, house: House, peer: Peer, hot: HotPages) -> None:
        self._house = house
        self._peer = peer
        self._hot = hot
        self._limits = limits = house.limits
        # Heads are checked by ``h2_head``, against the same rules as HTTP/1.1's; the library's own checks cost twice as much, and end
        # the connection where a stream would do.
        self._h2 = H2Connection(
            H2Configuration(
                client_side=False,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._h2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: limits.h2_streams,
                SettingCodes.MAX_HEADER_LIST_SIZE: limits.head_bytes,
                SettingCodes.MAX_FRAME_SIZE: FRAME_BYTES,
            },
        )
        self._h2.decoder.max_header_list_size = limits.head_bytes
        self._budget = Budget(limits)
        self._gate = Gate(self._budget, limits)
        self._streams: dict[int, Stream] = {}
        self._incomplete: dict[int, Stream] = {}
        self._running = 0
        self._queue: deque[Stream] = deque()
        self._bodies_bytes = 0
        self._requests = 0
        self._reset_now: set[int] = set()  # streams whose reset came with the bytes that are being read
        self._last_active = 0.0
        self._output = Output(peer.wire, limits)
        self._sender = Sender(self._h2, self._output, self._budget, limits, house.cold_reads)
        # How it ends.
        self._is_over = False
        self._failure: Exception | None = None
        self._leaves_at: float | None = None  # the first GOAWAY is out, the second follows then at the latest
        self._last: int | None = None  # the last stream that is answered, once that is settled
        self._reading = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._second = -1
        self._date = b""

    # -- life

    async def serve(self) -> None:
        self._last_active = trio.current_time()
        self._h2.initiate_connection()
        self._collect()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._write)
            nursery.start_soon(self._await_drain)
            await self._read()
            nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        await self._farewell()

    async def _read(self) -> None:
        """Take what comes, until the connection is over; between two frames look whose time is up."""
        try:
            data, self._peer.unread = self._peer.unread, b""
            self._gate.since = trio.current_time()
            if data:
                self._take(data)
            while not self._is_over:
                with trio.CancelScope(deadline=self._due()) as self._reading:
                    while not self._is_over:
                        data = await self._receive()
                        if not data:
                            raise Gone
                        self._take(data)
                        del data  # while nothing comes, nothing is held
                if self._reading.cancelled_caught and not self._is_over:
                    self._on_time()
        except (OSError, Stalled, Gone) as error:
            self._peer.gone = True
            if self._failure is None and (self._streams or self._output.pending or isinstance(error, Stalled)):
                self._failure = error
            elif not isinstance(error, Gone):
                self._failure = self._failure or error
        self._is_over = True
        for stream in self._streams.values():
            stream.is_open = False

    async def _receive(self) -> bytes:
        """More bytes, ``b""`` at the end. While the client does not take what it has asked for, it is not asked what else it wants."""
        while self._output.pending >= 2 * self._limits.h2_output_bytes:
            await self._output.turn()
            self._output.pass_on()
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self._peer.wire.recv_nowait(_READ_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._peer.wire.fileno())

    async def _await_drain(self) -> None:
        await self._house.draining.wait()
        self._leave()

    async def _farewell(self) -> None:
        """Send what is left, and let the client read it: closing with its bytes unread would reset the connection under it."""
        wire = self._peer.wire
        received = 0
        with trio.move_on_after(_LINGER_S), contextlib.suppress(OSError, Stalled):
            while not self._output.flush():
                await self._output.wait_writable()
            wire.finish()
            while received < _LINGER_BYTES and not self._peer.gone:
                try:
                    data = wire.recv_nowait(_READ_BYTES)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(wire.fileno())
                    continue
                if not data:
                    return
                received += len(data)
                await trio.lowlevel.checkpoint()

    # -- time

    def _due(self) -> float:
        """When ``_on_time`` has something to do next, if nothing else happens."""
        limits = self._limits
        moments = [due(stream) for stream in self._incomplete.values()]
        if self._gate.since >= 0:
            moments.append(self._gate.since + limits.head_s)
        if self._leaves_at is not None:
            moments.append(self._leaves_at)
        elif not self._streams:
            moments.append(self._last_active + limits.idle_s)
        return min(moments, default=float("inf"))

    def _rearm(self) -> None:
        """An earlier deadline than the present one may have come up; a later one is found when the present one passes."""
        self._reading.deadline = min(self._reading.deadline, self._due())

    def _on_time(self) -> None:
        now = trio.current_time()
        limits = self._limits
        if 0 <= self._gate.since <= now - limits.head_s:
            self._end(ErrorCodes.ENHANCE_YOUR_CALM, "a head came too slowly")
            return
        for stream in list(self._incomplete.values()):
            if due(stream) <= now:
                self._refuse(stream, Malformed("the request's body came too slowly", 408))
        if self._leaves_at is not None:
            if self._leaves_at <= now:
                self._settle()
        elif not self._streams and self._last_active + limits.idle_s <= now:
            self._leave()
        self._output.ring()

    # -- ends

    def _leave(self) -> None:
        """Ask the client to come again on another connection, without losing what it has sent already (RFC 9113 §6.8)."""
        if self._leaves_at is None and not self._is_over:
            self._leaves_at = trio.current_time() + _GOAWAY_S
            self._output.add(GoAwayFrame(last_stream_id=_LAST_STREAM).serialize() + PingFrame(opaque_data=_PING).serialize())
            self._output.ring()
            self._rearm()

    def _settle(self) -> None:
        """The second GOAWAY: what was opened until now is answered, and nothing after it."""
        if self._last is None:
            self._last = self._h2.highest_inbound_stream_id
            self._leaves_at = float("inf")
            self._output.add(GoAwayFrame(last_stream_id=self._last).serialize())
            self._output.ring()
        self._end_if_idle()

    def _end(self, code: ErrorCodes, reason: str) -> None:
        """End the connection now, and say why."""
        if not self._is_over:
            _log.info("an HTTP/2 connection from %s is ended: %s", self._peer.address, reason)
            last = self._h2.highest_inbound_stream_id
            self._output.add(GoAwayFrame(last_stream_id=last, error_code=code, additional_data=reason.encode()).serialize())
            self._stop()

    def _end_if_idle(self) -> None:
        if not self._streams:
            if self._last is not None or self._gate.has_left:
                self._stop()
            else:
                self._rearm()

    def _stop(self) -> None:
        self._is_over = True
        self._reading.cancel()

    # -- what comes in

    def _take(self, data: bytes) -> None:
        """Understand ``data``, and answer what can be answered at once."""
        now = trio.current_time()
        try:
            events = self._h2.receive_data(self._gate.feed(data, now))
            self._count_ours(now)
            self._reset_now = {event.stream_id for event in events if type(event) is StreamReset}
            for event in events:
                self._on_event(event, now)
        except Excess as error:
            self._end(error.code, str(error))
        except H2Error as error:
            # The library has said so by GOAWAY already.
            self._collect()
            _log.info("an HTTP/2 connection from %s is ended: %s", self._peer.address, str(error)[:200])
            self._stop()
        if self._gate.has_left:
            self._end_if_idle()
        if self._gate.since >= 0 or self._incomplete:
            self._rearm()
        if not self._output.flush():
            self._output.ring()

    def _count_ours(self, now: float) -> None:
        """Count what the library has answered by itself: acknowledgements, and resets that the client has brought about."""
        data = self._h2.data_to_send()
        if not data:
            return
        for kind, stream in frames_in(data):
            if kind == RST_STREAM:
                self._budget.made_to_reset(stream, now)
            if kind not in (DATA, HEADERS, CONTINUATION):
                self._output.next_control_frames += 1
        self._output.add(data)
        if self._output.control_frames > self._limits.h2_control_queued:
            raise Excess("too many frames are not taken")

    def _on_event(self, event: Event, now: float) -> None:
        match event:
            case RequestReceived():
                self._on_request(event.stream_id, event.headers, event.stream_ended is not None, now)
            case WindowUpdated():
                self._on_window(event.stream_id)
            case DataReceived():
                self._on_data(event, now)
            case StreamEnded():
                self._on_ended(event.stream_id)
            case StreamReset():
                stream = self._streams.get(event.stream_id)
                if stream is not None:
                    self._abandon(stream)
            case RemoteSettingsChanged():
                # The client may allow us any table; what we put into it is ours to bound, and every look-up goes through it all.
                self._h2.encoder.header_table_size = min(self._h2.encoder.header_table_size, _TABLE_BYTES)
                self._on_window(0)
            case TrailersReceived():
                stream = self._incomplete.get(event.stream_id)
                if stream is not None:
                    stream.has_ended = True
                    self._refuse(stream, Malformed("trailer fields are not accepted"))
            case PingAckReceived() if event.ping_data == _PING and self._leaves_at is not None:
                self._settle()
            case _:
                pass

    def _on_request(self, stream_id: int, fields: Fields, has_ended: bool, now: float) -> None:
        self._last_active = now
        if self._last is not None:
            # "Receivers of a GOAWAY frame MUST NOT open additional streams on the connection" (RFC 9113 §6.8), but may not have seen it.
            self._reset(stream_id, ErrorCodes.REFUSED_STREAM)
            self._budget.made_to_reset(stream_id, now)
            return
        if stream_id in self._reset_now:
            return  # the library has closed it already
        self._requests += 1
        if self._requests == self._limits.h2_requests:
            self._leave()
        house, peer = self._house, self._peer
        stream = Stream(stream_id, has_ended)
        try:
            head = read_head(fields, self._limits)
            standing = peer.hosts.standing(head, peer.address, peer.trusted)
        except Broken:
            self._reset(stream_id, ErrorCodes.PROTOCOL_ERROR)
            self._budget.made_to_reset(stream_id, now)
            return
        except Malformed as error:
            method = "HEAD" if (b":method", b"HEAD") in fields else "GET"
            stream.request = Request(method, "", ())
            self._streams[stream_id] = stream
            self._refuse(stream, error)
            return
        stream.request = request = Request(
            method=head.method,
            target=head.target,
            headers=head.headers,
            base=standing.base,
            listed=standing.listed,
            client=standing.client,
            version="2",
            scope=house.scope(", ".join(head.values("authorization")) or None),
            face=standing.face,
            user=peer.user,
        )
        if has_ended and self._is_hot(stream, head, request):
            return
        self._streams[stream_id] = stream
        stream.head = head
        if has_ended:
            self._begin(stream)
        else:
            self._await_body(stream, head, now)

    def _await_body(self, stream: Stream, head: Head, now: float) -> None:
        self._incomplete[stream.id] = stream
        limits = self._limits
        if head.length is not None and head.length > limits.body_bytes:
            self._exceed(stream)
            return
        stream.body_until, stream.pause_until = now + limits.body_s, now + limits.body_pause_s
        expectations = head.values("expect")
        if any(expectation.lower() != "100-continue" for expectation in expectations):
            self._refuse(stream, Malformed("this expectation cannot be met", 417))
        elif expectations:
            self._h2.send_headers(stream.id, [(b":status", b"100")])
            self._collect()

    def _on_data(self, event: DataReceived, now: float) -> None:
        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self._collect()
        self._budget.useful(len(event.data))
        stream = self._incomplete.get(event.stream_id)
        if stream is None or not event.data:
            return
        assert stream.request is not None
        stream.pause_until = now + self._limits.body_pause_s
        if stream.request.method in _BODILESS:
            self._refuse(stream, Malformed(f"{stream.request.method} takes no body"))
            return
        stream.body += event.data
        stream.held_bytes += len(event.data)
        self._bodies_bytes += len(event.data)
        if len(stream.body) > self._limits.body_bytes:
            self._exceed(stream)
        elif self._bodies_bytes > self._limits.h2_bodies_bytes:
            # Nothing has been done with it: the client may send it again (RFC 9113 §8.7).
            self._abandon(stream)
            self._reset(stream.id, ErrorCodes.REFUSED_STREAM)
            self._budget.made_to_reset(stream.id, now)

    def _on_ended(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.has_ended = True
            if self._incomplete.pop(stream_id, None) is not None:
                self._begin(stream)

    def _exceed(self, stream: Stream) -> None:
        """The body is too large. The handler may have more to say than that, and is asked first, without it."""
        self._bodies_bytes -= stream.held_bytes
        stream.held_bytes = 0
        stream.body = bytearray()
        stream.is_excessive = True
        self._incomplete.pop(stream.id, None)
        self._begin(stream)

    def _refuse(self, stream: Stream, error: Malformed) -> None:
        stream.answer = respond(error)
        self._incomplete.pop(stream.id, None)
        self._begin(stream)

    def _abandon(self, stream: Stream) -> None:
        """The stream was reset. Its handler, if it has one, is cancelled; its place is free when that has unwound."""
        stream.is_open = False
        stream.scope.cancel()
        if self._incomplete.pop(stream.id, None) is not None:
            self._forget(stream)
        elif stream in self._queue:
            self._queue.remove(stream)
            self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        del self._streams[stream.id]
        self._bodies_bytes -= stream.held_bytes
        self._last_active = trio.current_time()
        self._end_if_idle()

    def _on_window(self, stream_id: int) -> None:
        """The client takes more: on one stream, or (0) perhaps on any."""
        if stream_id:
            stream = self._streams.get(stream_id)
            if stream is not None:
                stream.window.unpark()
        else:
            for stream in self._streams.values():
                stream.window.unpark()

    # -- hot hits

    def _is_hot(self, stream: Stream, head: Head, request: Request) -> bool:
        """Answer from the kept answers, without a task, if there is one."""
        if not is_plain(head, "if-none-match"):
            return False
        now = self._house.clock()
        rendered = self._hot.ready(request, now)
        conditions = head.values("if-none-match")
        if rendered is None or len(conditions) > 1:
            return False
        date = self._date_at(now)
        if rendered.second != self._second:
            rendered.refresh(self._second, date)
        is_brief = bool(conditions) and matches_weakly(conditions[0], rendered.etag.decode("latin-1"))
        body = b"" if is_brief else rendered.body
        rendered.tally.count += 1
        if len(body) > self._output.room:
            self._output.flush()
        room = min(TURN_BYTES, self._h2.local_flow_control_window(stream.id), self._output.room)
        if len(body) > room or room < 0:
            # Too long to be sent at once, or much else is waiting: it takes its turn like any other answer.
            headers = rendered.brief_fields if is_brief else list(rendered.fields)
            stream.answer = Response(304 if is_brief else 200, headers, body, delivered=_counted(rendered))
            self._streams[stream.id] = stream
            self._begin(stream)
            return True
        if rendered.lowered is None:
            length = (b"content-length", b"%d" % len(rendered.body))
            whole = [(b":status", b"200"), *lowered(rendered.fields), length]
            rendered.lowered = whole, [(b":status", b"304"), *lowered(rendered.brief_fields)]
        self._h2.send_headers(stream.id, [*rendered.lowered[is_brief], (b"date", date)], end_stream=not body)
        for at in range(0, len(body), FRAME_BYTES):
            self._h2.send_data(stream.id, body[at : at + FRAME_BYTES], end_stream=at + FRAME_BYTES >= len(body))
        self._budget.useful(len(body))
        rendered.tally.sent += self._collect()
        return True

    def _date_at(self, now: float) -> bytes:
        second = int(now)
        if second != self._second:
            self._second = second
            self._date = http_date(second).encode()
        return self._date

    # -- work

    def _begin(self, stream: Stream) -> None:
        """Give the stream a task, now or when another has unwound: a reset frees the stream at once, but not what works for it."""
        if self._running >= self._limits.h2_streams:
            self._queue.append(stream)
            return
        assert self._nursery is not None
        self._running += 1
        self._nursery.start_soon(self._work, stream)

    async def _work(self, stream: Stream) -> None:
        response: Response | None = None
        answer: Response | None = None
        body: Body = b""
        complete = False
        try:
            with stream.scope:
                response = stream.answer or await self._handled(stream)
                body = response.body
                answer = await self._answer(stream, response)
                if stream.is_open:
                    await self._sender.send(stream, answer, self._date_at(self._house.clock()))
                    complete = answer.status < 500 or is_carried(answer, response)
                    if not stream.has_ended:
                        # "a server MAY request that the client abort transmission of a request without error by sending a RST_STREAM with
                        # an error code of NO_ERROR after sending a complete response" (RFC 9113 §8.1)
                        self._reset(stream.id, ErrorCodes.NO_ERROR)
                        self._budget.made_to_reset(stream.id, trio.current_time())
        except Excess as error:
            self._end(error.code, str(error))
        except Stuck:
            self._give_up(stream)
        except Exception as error:  # noqa: BLE001 - a body that cannot go on ends short, and says so by a reset
            if not isinstance(error, Truncated | OSError):
                _log.warning("an answer broke off: %s", error, exc_info=error)
            self._reset(stream.id, ErrorCodes.INTERNAL_ERROR)
        finally:
            stream.is_open = False
            if response is not None:
                if not isinstance(body, bytes):
                    body.close()
                if isinstance(response.onward, Splice):
                    response.onward.close()  # there is no way to join it here
                if response.delivered is not None:
                    carried = answer is None or is_carried(answer, response)
                    response.delivered(stream.sent if carried else 0, complete)
            self._unwound(stream)

    def _unwound(self, stream: Stream) -> None:
        self._running -= 1
        self._forget(stream)
        if self._queue and not self._is_over:
            self._begin(self._queue.popleft())
        self._output.ring()

    async def _handled(self, stream: Stream) -> Response:
        request = stream.request
        assert request is not None
        if stream.body:
            request = stream.request = replace(request, body=bytes(stream.body))
            stream.body = bytearray()
        try:
            return await self._house.handler(request)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises, the client gets an answer
            return respond(error, request)

    async def _answer(self, stream: Stream, response: Response) -> Response:
        """What is sent of the handler's answer. Its body, where it has one, may begin to leave."""
        request = stream.request
        assert request is not None
        if stream.answer is not None:
            return response
        if response.onward is not None:
            return problem(501, "Not possible over HTTP/2", "This connection cannot turn into another.", instance=request.target)
        # A handler that finds the missing body malformed says nothing that the client could use.
        if stream.is_excessive and response.status <= 400:
            return respond(Malformed("the request's body is too large", 413), request)
        answer = narrowed(request, response, self._house.clock())
        if isinstance(answer.body, Arriving) and not is_bodiless(request, answer) and not may_begin(answer.body):
            answer = await begun(request, answer, answer.body)
        return answer

    # -- what goes out

    def _give_up(self, stream: Stream) -> None:
        """The client takes too little of ``stream``: reset it; if all others wait for it too, so must the connection end."""
        others = [other for other in self._streams.values() if other is not stream and other.is_open]
        if all(other.is_waiting for other in others):
            self._end(ErrorCodes.ENHANCE_YOUR_CALM, "the client takes its answers too slowly")
        else:
            self._reset(stream.id, ErrorCodes.ENHANCE_YOUR_CALM)

    def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        with contextlib.suppress(H2Error):  # it is closed already
            self._h2.reset_stream(stream_id, code)
        self._collect()
        self._output.ring()

    def _collect(self) -> int:
        """Take what the library has written; how many bytes that is."""
        data = self._h2.data_to_send()
        self._output.add(data)
        return len(data)

    async def _write(self) -> None:
        try:
            await self._output.run()
        except (OSError, Stalled) as error:
            self._failure = error
            self._stop()


def _counted(rendered: Rendered) -> Callable[[int, bool], None]:
    def delivered(sent: int, complete: bool) -> None:
        rendered.tally.sent += sent

    return delivered
