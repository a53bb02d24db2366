"""What an HTTP/2 client may cost: its frames counted as they come in, before anything is made of them.

No I/O and no clock. The h2 library keeps the protocol's state; it leaves floods to whoever uses it, and it waits for a whole frame before
it looks at the length. ``Gate`` follows the frames' own nine bytes, ``Budget`` holds the accounts. Sources: RFC 9113 §10.5; CVE-2023-44487
(streams opened and reset at once), CVE-2025-8671 (streams that the server is made to reset), CVE-2024-27316 (heads without end).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from h2.errors import ErrorCodes

from .limits import Limits

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
"""Frame types (RFC 9113 §6)."""

FRAME_BYTES = 16 * 1024
"""The longest frame we take, and the longest we send: what both sides may assume at first (RFC 9113 §4.2)."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES = 9
_END_HEADERS = 0x4
_LAST_STREAM = 2**31 - 1
_NOISE_PER_REQUEST = 8
_MARK_S = 0.05


class Excess(Exception):
    """The client does what no client needs to; ``code`` is what it is told with GOAWAY."""

    def __init__(self, reason: str, code: ErrorCodes = ErrorCodes.ENHANCE_YOUR_CALM) -> None:
        super().__init__(reason)
        self.code = code


class Budget:
    """One connection's accounts. Times are seconds of any one clock. Whatever is counted may raise ``Excess``."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._tokens = float(limits.h2_control_burst)
        self._filled = 0.0
        self._resets: deque[tuple[float, int]] = deque()
        self._made_to_reset: set[int] = set()
        self._noise = 0
        self._useful_bytes = 0
        self._requests = 0

    def control(self, now: float) -> None:
        """A frame that has to be acknowledged: SETTINGS or PING."""
        limits = self._limits
        self._tokens = min(limits.h2_control_burst, self._tokens + (now - self._filled) * limits.h2_control_per_s)
        self._filled = now
        if self._tokens < 1:
            raise Excess("too many SETTINGS and PING frames")
        self._tokens -= 1

    def request(self) -> None:
        self._requests += 1

    def useful(self, count: int) -> None:
        """``count`` bytes of a body came, or went."""
        self._useful_bytes += count

    def noise(self) -> None:
        """A frame that carries nothing by itself."""
        self._noise += 1
        limits = self._limits
        if self._noise > limits.h2_noise_frames:  # the rest of the sum matters then only
            earned = _NOISE_PER_REQUEST * self._requests + self._useful_bytes // limits.h2_noise_bytes
            if self._noise > limits.h2_noise_frames + earned:
                raise Excess("too many frames that carry nothing")

    def reset(self, stream: int, now: float) -> None:
        """A stream was reset as soon as it was opened, by the client or because of what it sent."""
        since = now - self._limits.h2_resets_s
        while self._resets and self._resets[0][0] <= since:
            self._made_to_reset.discard(self._resets.popleft()[1])
        self._resets.append((now, stream))
        if len(self._resets) > self._limits.h2_resets:
            raise Excess("too many streams were reset")

    def made_to_reset(self, stream: int, now: float) -> None:
        """We reset a stream because of what the client sent: counted once, however much more was on its way to it."""
        if stream in self._made_to_reset:
            self.noise()
            return
        self._made_to_reset.add(stream)
        self.reset(stream, now)


@dataclass(slots=True)
class _Opened:
    """Streams up to ``highest`` were opened by ``ended``. One for all of a twentieth of a second, so that there are few."""

    began: float
    ended: float
    highest: int


class Gate:
    """Follows a client's bytes from frame to frame. It keeps at most the beginning of a frame's nine bytes.

    ``since`` is when an unfinished head (or preface) began, -1 if none is. ``has_left`` tells that the client sent GOAWAY. That frame is
    not passed on, because the library would let us send nothing after it, and the client still waits for the answers to what it asked.
    """

    def __init__(self, budget: Budget, limits: Limits) -> None:
        self.since = -1.0
        self.has_left = False
        self._budget = budget
        self._limits = limits
        self._held = b""
        self._preface = PREFACE  # what of it has not come yet
        self._skip = len(PREFACE)
        self._drop = 0
        self._began = False
        self._is_head = True
        self._block = 0  # the stream whose header block is unfinished
        self._continuations = 0
        self._block_bytes = 0
        self._highest = 0
        self._soon = 0  # streams up to this one were opened longer ago than ``h2_reset_soon_s``
        self._opened: deque[_Opened] = deque()

    def feed(self, data: bytes, now: float) -> bytes:
        """Count the frames in ``data``; what is returned is for the library. Raises ``Excess``."""
        held = len(self._held)
        data = self._held + data
        if self._preface:
            begin = data[: len(self._preface)]
            if not self._preface.startswith(begin):
                raise Excess("not the preface of HTTP/2", ErrorCodes.PROTOCOL_ERROR)
            self._preface = self._preface[len(begin) :]
        length, at, start = len(data), self._skip, min(self._drop, len(data))
        self._drop -= start
        pieces: list[bytes] = []
        while at + HEAD_BYTES <= length:
            size = int.from_bytes(data[at : at + 3])
            kind = data[at + 3]
            stream = int.from_bytes(data[at + 5 : at + 9]) & _LAST_STREAM
            self._begins(at >= held)
            self._on_frame(kind, data[at + 4], stream, size, now)
            stop = at + HEAD_BYTES + size
            if kind == GOAWAY:
                pieces.append(data[start:at])
                start = min(stop, length)
                self._drop = stop - start
            at = stop
        # Of a frame that is not known yet nothing is passed on.
        self._held = data[at:] if at < length else b""
        if self._held:
            self._begins(at >= held)
        self._skip = max(0, at - length)
        if self._block or self._held or (self._skip and self._is_head):
            self.since = now if self.since < 0 else self.since
        else:
            self.since = -1.0
        last = data[start : length - len(self._held)]
        return b"".join((*pieces, last)) if pieces else last

    def _begins(self, is_new: bool) -> None:
        """A frame follows: if its first byte ``is_new`` too, and no head is unfinished, then what began before is whole."""
        if is_new and not self._block:
            self.since = -1.0

    def _on_frame(self, kind: int, flags: int, stream: int, size: int, now: float) -> None:
        budget = self._budget
        self._is_head = kind in (HEADERS, CONTINUATION)
        if size > FRAME_BYTES:
            raise Excess("a frame is too long", ErrorCodes.FRAME_SIZE_ERROR)
        if not self._began:
            # "This sequence MUST be followed by a SETTINGS frame" (RFC 9113 §3.4)
            if kind != SETTINGS:
                raise Excess("no SETTINGS after the preface", ErrorCodes.PROTOCOL_ERROR)
            self._began = True
        if self._block:
            self._on_continuation(kind, flags, stream, size)
        elif kind == HEADERS:
            self._on_headers(flags, stream, size, now)
        elif kind == DATA or kind in (PRIORITY, WINDOW_UPDATE) or kind > CONTINUATION:
            budget.noise()
        elif kind in (SETTINGS, PING):
            budget.control(now)
        elif kind == RST_STREAM:
            self._on_reset(stream, now)
        elif kind == GOAWAY:
            if stream:
                raise Excess("GOAWAY on a stream", ErrorCodes.PROTOCOL_ERROR)
            if size < 8:
                raise Excess("GOAWAY is too short", ErrorCodes.FRAME_SIZE_ERROR)
            self.has_left = True

    def _on_headers(self, flags: int, stream: int, size: int, now: float) -> None:
        if stream > self._highest:
            self._highest = stream
            if self._opened and now - self._opened[-1].began < _MARK_S:
                self._opened[-1].ended, self._opened[-1].highest = now, stream
            else:
                self._forget_opened(now)
                self._opened.append(_Opened(now, now, stream))
            self._budget.request()
        else:
            self._budget.noise()  # trailers, or what the library refuses
        if not flags & _END_HEADERS:
            self._block, self._continuations, self._block_bytes = stream or -1, 0, size

    def _on_continuation(self, kind: int, flags: int, stream: int, size: int) -> None:
        if kind != CONTINUATION or stream != self._block:
            raise Excess("another frame within a head", ErrorCodes.PROTOCOL_ERROR)
        self._continuations += 1
        self._block_bytes += size
        if self._continuations > self._limits.h2_continuations or self._block_bytes > self._limits.head_bytes:
            raise Excess("a head without end")
        if flags & _END_HEADERS:
            self._block = 0

    def _on_reset(self, stream: int, now: float) -> None:
        self._forget_opened(now)
        if self._soon < stream <= self._highest:
            self._budget.reset(stream, now)
        else:
            self._budget.noise()

    def _forget_opened(self, now: float) -> None:
        while self._opened and now - self._opened[0].ended > self._limits.h2_reset_soon_s:
            self._soon = self._opened.popleft().highest


def frames_in(data: bytes) -> Iterator[tuple[int, int]]:
    """Type and stream of each of some whole frames."""
    at = 0
    while at + HEAD_BYTES <= len(data):
        yield data[at + 3], int.from_bytes(data[at + 5 : at + 9]) & _LAST_STREAM
        at += HEAD_BYTES + int.from_bytes(data[at : at + 3])
