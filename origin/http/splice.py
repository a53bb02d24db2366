"""Two connections joined: bytes pass both ways, unread, until both sides have finished or nothing has moved for too long.

Each direction holds one piece at a time: who sends faster than the other side takes is kept waiting. That one side has finished sending is
told to the other as just that, for protocols that end a request so and then wait for the answer. A side that breaks breaks the other, so
that nothing cut off looks whole. Of what passes only one thing is read: the head of an answer that is to be the only one.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import trio

from . import Splice
from .conversation import Gone, House, Peer

PIECE_BYTES = 64 * 1024
"""The most that is read at a time."""

QUIET_S = 1.0
"""A draining server ends a tunnel in which nothing has moved for so long. Others go on until they are cut."""

LINGER_S = 2.0
"""How long a client may take to close once it was given the only answer there will be, and the other side to go on with one once the client
asks for more: then it seems to be at its end, without saying so.
"""


_HEAD_BYTES = 64 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: |\r?\n)")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_OF_CONNECTION = re.compile(rb"\r?\n(?:connection|keep-alive|proxy-connection)[ \t]*:[^\n]*(?:\n[ \t][^\n]*)*", re.IGNORECASE)


class LastHead:
    """The head of the only answer there will be, told to the client as the last on its connection, whatever the other side says.

    Else a client that asks several sites through one connection might stay, and take what this one sends next for another's answer.
    """

    def __init__(self) -> None:
        self.is_whole = False
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What of ``data`` may go on, perhaps with what was held. Raises ``ConnectionAbortedError`` for what is no answer of HTTP/1."""
        self._held += data
        passed = b""
        while not self.is_whole and (end := _HEAD_END.search(self._held)) is not None:
            head, rest = self._held[: end.start()], self._held[end.end() :]
            status = _STATUS.match(head + b"\n")
            if status is None:
                raise ConnectionAbortedError("what came is no answer")
            # What comes before the answer itself (RFC 9110 §15.2) says nothing of the connection.
            self.is_whole = status[1][:1] != b"1"
            lines = re.split(rb"\r?\n", _OF_CONNECTION.sub(b"", head))
            if self.is_whole:
                lines.append(b"Connection: close")
            passed += b"\r\n".join((*lines, b"", b""))
            self._held = rest
        if self.is_whole:
            passed, self._held = passed + self._held, b""
        elif len(self._held) > _HEAD_BYTES:
            raise ConnectionAbortedError("the answer's head has no end")
        return passed


async def splice(house: House, peer: Peer, onward: Splice) -> None:
    """Join ``peer`` with ``onward.stream`` until both have finished. Closes the stream; the peer's wire is the caller's to close.

    ``peer.unread`` goes first, behind ``onward.preface``. Raises ``OSError`` when either side breaks.
    """
    await _Joint(house, peer, onward).run()


type _Direction = Callable[[], Awaitable[None]]


class _Joint:
    def __init__(self, house: House, peer: Peer, onward: Splice) -> None:
        self._house = house
        self._peer = peer
        self._onward = onward
        self._stream = onward.stream
        self._moved_at = trio.current_time()
        self._sent = 0
        self._received = 0
        self._client_done = trio.Event()
        self._client_wants = False
        self._is_whole = False
        self._failure: OSError | None = None

    async def run(self) -> None:
        once = self._onward.answers_only
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, nursery.cancel_scope)
                async with trio.open_nursery() as both:
                    both.start_soon(self._guarded, self._up_once if once else self._up, nursery.cancel_scope)
                    await self._guarded(self._down, nursery.cancel_scope)
                    if once:
                        with trio.move_on_after(LINGER_S):
                            await self._client_done.wait()
                        both.cancel_scope.cancel()
                nursery.cancel_scope.cancel()
        finally:
            self._onward.close(self._sent, self._received, is_broken=self._failure is not None)
            if self._failure is not None or (once and not self._is_whole):
                # With a reset, so that what was cut off does not look whole.
                self._peer.wire.abort()
        if self._failure is not None:
            raise self._failure

    async def _guarded(self, pass_on: _Direction, scope: trio.CancelScope) -> None:
        """One direction. When it breaks, so does everything."""
        try:
            await pass_on()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._failure = self._failure or ConnectionResetError(str(error.__cause__ or "the other side broke"))
            scope.cancel()
        except OSError as error:
            self._failure = self._failure or error
            scope.cancel()

    async def _up(self) -> None:
        """From the client onward."""
        peer = self._peer
        piece, peer.unread = self._onward.preface + peer.unread, b""
        try:
            while True:
                if piece:
                    await self._send_on(piece)
                piece = b""  # while nothing moves, nothing is held
                piece = await peer.receive()
        except Gone:
            # Over TLS, to a next proxy, there is no such half: the other side learns of it when it has finished too.
            if isinstance(self._stream, trio.SocketStream):
                await self._stream.send_eof()

    async def _up_once(self) -> None:
        """The one request, and then nothing more: what a client sends behind it is read, so that it can be seen to leave, and dropped."""
        peer = self._peer
        await self._send_on(self._onward.preface)
        dropped, peer.unread = len(peer.unread), b""
        try:
            while dropped < PIECE_BYTES:
                self._client_wants = dropped > 0
                dropped += len(await peer.receive())
        except Gone:
            self._client_done.set()

    async def _down(self) -> None:
        """From the other side to the client."""
        piece = self._onward.greeting
        head = LastHead() if self._onward.answers_only else None
        while True:
            if head is not None:
                piece = head.feed(piece)
                if head.is_whole:
                    head = None
            if piece:
                await self._send_back(piece)
            piece = b""
            piece = bytes(await self._stream.receive_some(PIECE_BYTES))
            if not piece:
                break
            self._received += len(piece)
        if head is not None:
            raise ConnectionAbortedError("there was no answer")
        self._is_whole = True
        self._peer.wire.finish()

    async def _send_on(self, piece: bytes) -> None:
        self._moved_at = trio.current_time()
        await self._stream.send_all(piece)
        self._sent += len(piece)
        self._moved_at = trio.current_time()

    async def _send_back(self, piece: bytes) -> None:
        wire, left = self._peer.wire, memoryview(piece)
        while left:
            self._moved_at = trio.current_time()
            try:
                left = left[wire.send_nowait(left) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(wire.fileno())
        self._moved_at = trio.current_time()

    async def _watch(self, scope: trio.CancelScope) -> None:
        """End what does not move."""
        draining, once = self._house.draining, self._onward.answers_only
        while True:
            left_s = self._moved_at + self._patience_s() - trio.current_time()
            if left_s <= 0:
                if once or not draining.is_set():
                    self._failure = TimeoutError("nothing moved for too long")
                scope.cancel()
                return
            with trio.move_on_after(min(left_s, QUIET_S) if once else left_s):
                if draining.is_set():
                    await trio.sleep_forever()
                await draining.wait()

    def _patience_s(self) -> float:
        """How long nothing need move. An answer that the server waits for while it drains may take its time."""
        idle_s = self._house.limits.tunnel_idle_s
        if not self._onward.answers_only:
            return min(idle_s, QUIET_S) if self._house.draining.is_set() else idle_s
        # A server that keeps the connection open, although it was told not to, leaves a client waiting that uses it again.
        return min(idle_s, LINGER_S) if self._client_wants and self._received else idle_s
