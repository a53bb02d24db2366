"""What one HTTP/2 connection has to send: bounded, in turns, and in one piece for all who write in the same turn of the loop."""

from __future__ import annotations

import trio

from .limits import Limits
from .sending import Stalled
from .wire import Wire


class Output:
    """Bytes on their way to one socket. ``pending`` of them are not given to the kernel yet.

    Writers ``turn``, ``add`` and ``pass_on``, without waiting in between: nobody is served twice before another once, and what waits never
    grows far beyond ``limits.h2_output_bytes``. ``run`` sends what ``flush`` has left.
    """

    def __init__(self, wire: Wire, limits: Limits) -> None:
        self.next_control_frames = 0
        """How many frames without a part in any answer were added, and wait for what is being sent; for the caller to count."""
        self._sending_control_frames = 0
        self._wire = wire
        self._limits = limits
        # All of ``_sending`` goes first, from the same buffer until it is gone (TLS insists), then ``_next``.
        self._sending = memoryview(b"")
        self._next = bytearray()
        self._turns = trio.lowlevel.ParkingLot()
        self._bell = trio.lowlevel.ParkingLot()
        self._taken_before = -1
        self._waited_s = 0.0

    @property
    def pending(self) -> int:
        return len(self._next) + len(self._sending)

    @property
    def room(self) -> int:
        """How many bytes may be added without a turn; negative while somebody waits for one."""
        return self._limits.h2_output_bytes - self.pending if not self._turns else -1

    @property
    def control_frames(self) -> int:
        """How many frames without a part in any answer wait here."""
        return self.next_control_frames + self._sending_control_frames

    def add(self, data: bytes) -> None:
        self._next += data

    def ring(self) -> None:
        """Have sent what was added."""
        self._bell.unpark()

    async def turn(self) -> None:
        """Wait until there is room; those who wait are served in order. ``pass_on`` must follow, whatever happens."""
        if self.room > 0:
            return
        self._bell.unpark()
        try:
            await self._turns.park()
        except trio.Cancelled:
            self.pass_on()  # the turn may have been given to us at this very moment
            raise

    def pass_on(self) -> None:
        """Let the next one write, if there is room left; and have it sent."""
        if self.pending < self._limits.h2_output_bytes:
            self._turns.unpark()
        self._bell.unpark()

    def flush(self) -> bool:
        """Send what fits, without waiting; True if that is all there is. Raises ``OSError``."""
        is_all = self._send()
        if self.pending < self._limits.h2_output_bytes:
            self._turns.unpark()
        return is_all

    async def run(self) -> None:
        """Send what is added, for ever. Raises ``OSError`` or ``Stalled``."""
        while True:
            if not self.flush():
                await self.wait_writable()
            elif not self.pending:
                await self._bell.park()

    async def wait_writable(self) -> None:
        """Wait for room in the socket, under the same rule as ``sending.Transfer``: what counts is what the client has acknowledged."""
        limits, fd = self._limits, self._wire.fileno()
        if self._taken_before < 0:
            self._taken_before = self._wire.acknowledged()
        began = trio.current_time()
        with trio.move_on_after(limits.stall_s - self._waited_s) as scope:
            await trio.lowlevel.wait_writable(fd)
        self._waited_s += trio.current_time() - began
        if scope.cancelled_caught or self._waited_s >= limits.stall_s:
            taken = self._wire.acknowledged()
            if taken - self._taken_before < limits.slowest_bytes_per_s * limits.stall_s:
                raise Stalled
            self._taken_before, self._waited_s = taken, 0.0

    def _send(self) -> bool:
        while True:
            if not self._sending:
                self._sending_control_frames, self.next_control_frames = self.next_control_frames, 0
                if not self._next:
                    return True
                self._sending, self._next = memoryview(self._next), bytearray()
            try:
                count = self._wire.send_nowait(self._sending)
            except BlockingIOError:
                return False
            self._sending = self._sending[count:]
