"""Bodies on their way out: from memory, from a file, from a file still being written. No reader has a buffer of its own."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from typing import assert_never

import trio

from ..model import Arriving, Body, Span, Validity
from .limits import Limits
from .wire import Wire

PIECE_BYTES = 256 * 1024
"""How much goes out between two checkpoints: as fast as larger pieces, and page hits wait 0.6 ms for it at most (1 MB: 1.6 ms)."""

READ_AHEAD_BYTES = 1024 * 1024
_RWF_NOWAIT: int = os.RWF_NOWAIT


class Stalled(Exception):
    """The peer takes less than the slowest rate allowed."""


class Truncated(Exception):
    """The body's source ended or failed before its length was reached; the connection must end short."""


class Transfer:
    """Sends over one wire, and watches how fast the peer takes it. ``sent`` counts the body's bytes given to the kernel."""

    def __init__(self, wire: Wire, limits: Limits, cold_reads: trio.CapacityLimiter) -> None:
        self.sent = 0
        self._wire = wire
        self._limits = limits
        self._cold_reads = cold_reads
        self._given = 0
        self._taken_before = -1  # nothing had to be waited for
        self._waited_s = 0.0

    async def head(self, data: bytes) -> None:
        """Send a message's head, or any bytes that do not count as body. Raises ``OSError`` or ``Stalled``."""
        await self._bytes(data, len(data))

    async def small(self, head: bytes, body: bytes) -> None:
        """Send head and body at once: apart, they would be two segments and two system calls."""
        await self._bytes(head + body, len(head))

    def is_at_rest(self) -> bool:
        """Whether the peer has everything that was given to the kernel for it."""
        return not unacknowledged_bytes(self._wire.fileno())

    @property
    def given(self) -> int:
        """Bytes given to the kernel, heads included."""
        return self._given

    async def rest(self, data: bytes | memoryview) -> None:
        """Send what is left of a message, all of it counted."""
        await self._bytes(data, 0)

    async def body(self, body: Body) -> None:
        """Send a body whole. Raises ``OSError``, ``Stalled`` or ``Truncated``, or what the body's flight failed with."""
        match body:
            case bytes():
                await self._bytes(body, 0)
            case Span():
                await self._file(body.fd, body.start, body.stop, body.validity)
            case Arriving():
                offset = body.start
                while offset < body.stop:
                    releasable = min(await body.flight.wait_beyond(offset), body.stop)
                    if releasable <= offset:
                        raise Truncated(f"the flight landed {body.stop - offset} bytes early")
                    await self._file(body.flight.fileno(), offset, releasable, body.validity)
                    offset = releasable
            case _:
                assert_never(body)

    async def _bytes(self, data: bytes | memoryview, uncounted: int) -> None:
        left = memoryview(data)
        while left:
            try:
                count = self._wire.send_nowait(left[:PIECE_BYTES])
            except BlockingIOError:
                await self._wait_writable()
                continue
            self._given += count
            self.sent += max(0, count - uncounted)
            uncounted = max(0, uncounted - count)
            left = left[count:]
            if left:
                await trio.lowlevel.checkpoint()

    async def _file(self, fd: int, start: int, stop: int, validity: Validity | None) -> None:
        offset = start
        probed = start
        while offset < stop:
            require_valid(validity)
            count = min(PIECE_BYTES, stop - offset)
            if offset >= probed:
                # sendfile would block the whole loop on a cold page (2-5 ms); asking costs 0.3 us.
                if not _is_resident(fd, offset + count - 1):
                    await read_ahead(fd, offset, count, self._cold_reads)
                    require_valid(validity)
                probed = offset + count
            try:
                sent = self._wire.sendfile_nowait(fd, offset, min(count, probed - offset))
            except BlockingIOError:
                await self._wait_writable()
                continue
            if sent == 0:
                raise Truncated(f"the file ends {stop - offset} bytes early")
            offset += sent
            self.sent += sent
            self._given += sent
            await trio.lowlevel.checkpoint()

    async def _wait_writable(self) -> None:
        """Wait for room, and give up on a peer that has taken too little for too long.

        What counts is what the peer has acknowledged: the kernel may hold megabytes for it, and reports room only in large steps; OpenSSL
        may hold a record, and reports nothing.
        """
        fd = self._wire.fileno()
        if self._taken_before < 0:
            self._taken_before = self._wire.acknowledged()
        while True:
            # Only time spent waiting for the peer counts: a slow flight is not its fault.
            began = trio.current_time()
            with trio.move_on_after(self._limits.stall_s - self._waited_s) as scope:
                await trio.lowlevel.wait_writable(fd)
            self._waited_s += trio.current_time() - began
            if self._waited_s >= self._limits.stall_s:
                taken = self._wire.acknowledged()
                if taken - self._taken_before < self._limits.slowest_bytes_per_s * self._limits.stall_s:
                    raise Stalled
                self._taken_before, self._waited_s = taken, 0.0
            if not scope.cancelled_caught:
                return


def require_valid(validity: Validity | None) -> None:
    """Raises ``Truncated`` if not a byte more may leave: what is on its way out was recalled."""
    if validity is not None and not validity.valid:
        raise Truncated("it was recalled while it was sent")


def unacknowledged_bytes(fd: int) -> int:
    """Bytes in the socket's send queue."""
    answer = fcntl.ioctl(fd, termios.TIOCOUTQ, struct.pack("i", 0))
    count: int = struct.unpack("i", answer)[0]
    return count


def _is_resident(fd: int, offset: int) -> bool:
    try:
        os.preadv(fd, [bytearray(1)], offset, _RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True  # the file system cannot tell
    return True


def read_nowait(fd: int, offset: int, count: int) -> bytes | None:
    """Up to ``count`` bytes of a file, as far as they are in memory; ``b""`` at its end, None if the first would have to be waited for."""
    buffer = bytearray(count)
    try:
        return bytes(memoryview(buffer)[: os.preadv(fd, [buffer], offset, _RWF_NOWAIT)])
    except BlockingIOError:
        return None
    except OSError:
        return os.pread(fd, count, offset)  # the file system cannot tell


async def read_ahead(fd: int, offset: int, count: int, cold_reads: trio.CapacityLimiter) -> None:
    """Bring a piece of a file into memory, off the event loop."""
    await trio.to_thread.run_sync(_read_ahead, fd, offset, count, limiter=cold_reads)


def _read_ahead(fd: int, offset: int, count: int) -> None:
    os.posix_fadvise(fd, offset, READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
    os.pread(fd, 1, offset + count - 1)
