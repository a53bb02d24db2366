"""One stream of an HTTP/2 connection, and how its answer goes out: within the client's window, and in turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

import trio
from h2.connection import H2Connection

from ..model import Arriving, Body, Span, Validity
from . import Request, Response
from .answers import is_bodiless, told_length
from .h1 import Head
from .h2_budget import FRAME_BYTES, Budget
from .h2_head import answer_fields
from .h2_output import Output
from .limits import Limits
from .sending import Truncated, read_ahead, read_nowait, require_valid

TURN_BYTES = 2 * FRAME_BYTES
"""How much of a kept answer is sent at once, and of a file read ahead."""


class Stuck(Exception):
    """The client opens its window too slowly, or not at all."""


class Stream:
    """One request, from its head until its handler has unwound. ``is_open`` tells whether an answer may still be sent on it.

    ``has_ended`` tells that the client has sent all of its request; until then ``body_until`` and ``pause_until`` say when it must have
    gone on. ``answer`` is one that needs no handler.
    """

    __slots__ = (
        "answer",
        "body",
        "body_until",
        "has_ended",
        "head",
        "held_bytes",
        "id",
        "is_excessive",
        "is_open",
        "is_waiting",
        "pause_until",
        "request",
        "scope",
        "sent",
        "sent_before",
        "waited_s",
        "window",
    )

    def __init__(self, stream_id: int, has_ended: bool) -> None:
        self.id = stream_id
        self.has_ended = has_ended
        self.is_open = True
        self.is_excessive = False
        self.is_waiting = False
        self.head: Head | None = None
        self.request: Request | None = None
        self.answer: Response | None = None
        self.body = bytearray()
        self.held_bytes = 0
        self.body_until = self.pause_until = 0.0
        self.scope = trio.CancelScope()
        self.window = trio.lowlevel.ParkingLot()
        self.sent = self.sent_before = 0
        self.waited_s = 0.0


def due(stream: Stream) -> float:
    """When the rest of a request must have come."""
    return min(stream.body_until, stream.pause_until)


class Sender:
    """Sends answers on one connection's streams."""

    def __init__(
        self, h2: H2Connection, output: Output, budget: Budget, limits: Limits, cold_reads: trio.CapacityLimiter
    ) -> None:
        self._h2 = h2
        self._output = output
        self._budget = budget
        self._limits = limits
        self._cold_reads = cold_reads

    async def send(self, stream: Stream, answer: Response, date: bytes) -> None:
        """Send the whole answer. Raises ``Truncated``, ``OSError`` or ``Stuck``."""
        request = stream.request
        assert request is not None
        body: Body = b"" if is_bodiless(request, answer) else answer.body
        fields = answer_fields(answer, date, told_length(request, answer))
        await self._output.turn()
        try:
            if not stream.is_open:
                return
            self._h2.send_headers(stream.id, fields, end_stream=not len(body))
            self._collect()
        finally:
            self._output.pass_on()
        match body:
            case bytes():
                await self._pieces(stream, lambda at, count: body[at : at + count], 0, len(body), len(body))
            case Span():
                await self._file(stream, body.fd, body.start, body.stop, body.stop, body.validity)
            case Arriving():
                offset = body.start
                while offset < body.stop:
                    try:
                        releasable = min(await body.flight.wait_beyond(offset), body.stop)
                    except Exception as error:
                        raise Truncated(str(error)) from error
                    if releasable <= offset:
                        raise Truncated(f"the flight landed {body.stop - offset} bytes early")
                    await self._file(stream, body.flight.fileno(), offset, releasable, body.stop, body.validity)
                    offset = releasable
            case _:
                assert_never(body)

    async def _file(self, stream: Stream, fd: int, start: int, stop: int, end: int, validity: Validity | None) -> None:
        def read(at: int, count: int) -> bytes | None:
            require_valid(validity)
            return read_nowait(fd, at, count)

        while start < stop:
            start = await self._pieces(stream, read, start, stop, end)
            if start < stop:
                await read_ahead(fd, start, min(TURN_BYTES, stop - start), self._cold_reads)

    async def _pieces(self, stream: Stream, read: Callable[[int, int], bytes | None], at: int, stop: int, end: int) -> int:
        """Send bytes ``[at, stop)``, the last of which ends the stream if ``stop`` is ``end``; as far as ``read`` gives them at once.

        Not a byte is read before the client's window and the output have room for it.
        """
        while at < stop:
            await self._output.turn()
            count = 0
            try:
                while at < stop and stream.is_open:
                    count = min(FRAME_BYTES, stop - at, self._h2.local_flow_control_window(stream.id))
                    if count <= 0 or self._output.pending >= self._limits.h2_output_bytes:
                        break
                    data = read(at, count)
                    if data is None:
                        return at
                    if not data:
                        raise Truncated(f"the file ends {stop - at} bytes early")
                    at += len(data)
                    self._h2.send_data(stream.id, data, end_stream=at == end)
                    self._collect()
                    stream.sent += len(data)
                    self._budget.useful(len(data))
                    del data  # who waits, for a turn or a window, holds none of it
            finally:
                self._output.pass_on()
            if not stream.is_open:
                raise Truncated("the stream was reset")
            if at < stop and count <= 0:
                await self._wait_window(stream)
        return at

    async def _wait_window(self, stream: Stream) -> None:
        """Wait until the client takes more on ``stream``, and give up on one that has taken too little for too long."""
        limits = self._limits
        began = trio.current_time()
        stream.is_waiting = True
        with trio.move_on_after(limits.stall_s - stream.waited_s) as scope:
            await stream.window.park()
        stream.is_waiting = False
        stream.waited_s += trio.current_time() - began
        if scope.cancelled_caught or stream.waited_s >= limits.stall_s:
            if stream.sent - stream.sent_before < limits.slowest_bytes_per_s * limits.stall_s:
                raise Stuck
            stream.sent_before, stream.waited_s = stream.sent, 0.0

    def _collect(self) -> None:
        self._output.add(self._h2.data_to_send())
