"""What an upstream answers: the head, the body with each wait bounded, and what a page's or a file's answer must look like.

An answer also carries the *trial* of its upstream: whether there is somebody who answers. For a page that is decided only when its
whole body came, for a file by its first byte, for anything else by the head.
"""

from __future__ import annotations

import base64
import math
import re
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self, cast

import httpcore
import httpx
import trio
from prometheus_client import Counter

from ..model import Digest, Headers
from . import FileHead
from .breaker import Breaker, Permit
from .failures import Failed, translate

DRAINED_BYTES = 64 * 1024
"""A body nobody wants is read up to this, to keep its connection; beyond, the connection is closed."""

SLICE_BYTES = 1024 * 1024
"""Decompressed at a time, so that a bomb neither stalls the loop nor outgrows its limit."""

PAGE_RATE = 32 * 1024
"""Bytes per second that buy a page more time than ``page_s``: a large one over a thin link, but none that drips."""


class Trial:
    """A permit whose request is under way. The first word about how it ended counts, any later one is ignored."""

    __slots__ = ("_breaker", "_is_over", "_permit", "is_answered")

    def __init__(self, breaker: Breaker, permit: Permit) -> None:
        self._breaker = breaker
        self._permit = permit
        self._is_over = False
        self.is_answered = False
        """Whether the head came."""

    def end(self, error: BaseException | None) -> None:
        """It ended well, or with ``error``. Anything but a ``Failed`` is no fault of upstream's, and says nothing."""
        if self._is_over:
            return
        if error is not None and not isinstance(error, Failed):
            self.withdraw()
        elif isinstance(error, Failed) and error.failure.is_dead:
            self._is_over = True
            self._breaker.fail(self._permit, trio.current_time())
        elif error is None or self.is_answered or error.failure.label == "status":
            self._is_over = True
            self._breaker.succeed(self._permit)  # nonsense perhaps, but somebody is there
        else:
            self.withdraw()

    def withdraw(self) -> None:
        """Nothing was learnt."""
        if not self._is_over:
            self._is_over = True
            self._breaker.withdraw(self._permit, trio.current_time())


class Answer:
    """A response whose head came: its fields, and its body as it comes, counted, each wait bounded by the stall limit."""

    def __init__(
        self,
        response: httpcore.Response,
        url: httpx.URL,
        trial: Trial,
        received: Counter,
        *,
        is_head: bool,
        stall_s: float,
        patience_s: float,
        sent_at: float,
    ) -> None:
        self.status = response.status
        self.url = url
        self.headers: Headers = tuple(
            (name.decode("ascii", "replace").lower(), value.decode("latin-1").strip())
            for name, value in response.headers
            if name.lower() not in {b"set-cookie", b"set-cookie2"}
        )
        self._response = response
        self._parts = aiter(cast("AsyncIterator[bytes]", response.stream))
        self._trial = trial
        self._received = received
        self._is_head = is_head
        self._stall_s = stall_s
        self.patience_s = patience_s
        self.sent_at = sent_at
        self._first: bytes | None = None
        self.received = 0
        """Bytes of the body so far."""
        self._is_begun = self._is_ended = False

    def field(self, name: str) -> str | None:
        """The first value of a field, by lower-case name."""
        return next((value for known, value in self.headers if known == name), None)

    @property
    def media_type(self) -> str:
        """The media type alone, lower-case, ``""`` if none is told."""
        return (self.field("content-type") or "").partition(";")[0].strip().lower()

    @property
    def coding(self) -> str:
        """The content coding, ``identity`` if none is told."""
        return (self.field("content-encoding") or "identity").strip().lower()

    @property
    def length(self) -> int | None:
        return number(self.field("content-length"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._trial.end(error)
        await self.leave()

    async def begin(self) -> None:
        """Wait for the body's first bytes or its end, and keep them for ``part``. Raises ``Failed``. The caller bounds the wait."""
        self._first = await self._next()

    async def part(self, by: float = math.inf) -> bytes | None:
        """The next bytes of the body, None at its end; ``by`` when (trio's clock), or the stall limit. Raises ``Failed``."""
        first, self._first = self._first, None
        if first is not None:
            return first
        if self._is_ended:
            return None
        try:
            with trio.fail_at(min(by, trio.current_time() + self._stall_s)):
                return await self._next()
        except trio.TooSlowError:
            self._is_ended = True
            raise Failed("slow-body", f"{self.url.host} stopped in the middle of its answer, or sends it too slowly") from None

    async def _next(self) -> bytes | None:
        self._is_begun = True
        try:
            part = await anext(self._parts)
        except StopAsyncIteration:
            self._is_ended = True
            return None
        except Exception as raised:
            self._is_ended = True
            raise translate(raised, self.url.host, answered=True) from raised
        self._received.inc(len(part))
        self.received += len(part)
        return part

    async def leave(self) -> None:
        """Be done with it: close a transfer that may be long, read the short rest of anything else."""
        if self.status in {200, 206} and not self._is_head:
            await self.aclose()
        else:
            await self.discard()

    async def discard(self) -> None:
        """Read a short rest, to keep the connection; then close."""
        left = DRAINED_BYTES
        try:
            with suppress(Failed), trio.move_on_after(1):
                while left > 0 and (part := await self.part()) is not None:
                    left -= len(part)
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close the response; its connection too, unless the body was read to its end. Waits for nobody."""
        # Not bounded by a number but by what it does: closing a socket, which takes no time, and TLS without waiting for a reply.
        with trio.CancelScope(shield=True):
            with suppress(Exception):  # whatever closing finds wrong, what mattered has been read
                await self._response.aclose()
            # httpcore's iterators are generators inside generators. Trio warns of those that are dropped half way, so they are run
            # to their end: what was buffered, then the error of reading from a closed socket.
            with suppress(Exception):
                while self._is_begun and not self._is_ended:
                    await anext(self._parts)


async def read_page(answer: Answer, limit: int, page_s: float, came: Callable[[bytes], object] | None = None) -> bytes:
    """A page's body, decompressed, at most ``limit`` bytes. ``came`` is told each part as it came, before it is decompressed.

    Raises ``Failed`` if it is too large, too slow, stops early or is not what its coding says. It must be there ``page_s`` seconds after
    it was asked for, or keep coming at ``PAGE_RATE``; and it may pause no longer than its first byte may take.
    """
    if answer.coding not in {"identity", "gzip", "x-gzip"}:
        raise Failed("content-encoding", f"{answer.url.host} sent a page as {answer.coding[:32]!r}, which was not asked for")
    decoder = None if answer.coding == "identity" else zlib.decompressobj(wbits=31)
    parts: list[bytes] = []
    size = 0
    while True:
        earned_s = answer.received / PAGE_RATE
        part = await answer.part(min(answer.sent_at + page_s + earned_s, trio.current_time() + answer.patience_s))
        if part is None:
            break
        if came is not None:
            came(part)
        for piece in (part,) if decoder is None else _inflate(decoder, part):
            size += len(piece)
            if size > limit:
                raise Failed("oversized", f"{answer.url.host} sent a page of more than {limit} bytes")
            parts.append(piece)
            if len(piece) == SLICE_BYTES:
                await trio.lowlevel.checkpoint()
    if decoder is not None and not decoder.eof:
        raise Failed("parse", f"{answer.url.host} sent a page whose compressed form is cut off")
    return b"".join(parts)


def _inflate(decoder: zlib._Decompress, part: bytes) -> Iterator[bytes]:
    """Decompress in slices. Raises ``Failed`` for broken data, and for more after the end of the stream."""
    try:
        while True:
            piece = decoder.decompress(part, SLICE_BYTES)
            if piece:
                yield piece
            part = decoder.unconsumed_tail
            if not part and len(piece) < SLICE_BYTES:
                break
    except zlib.error as error:
        raise Failed("parse", f"a compressed page cannot be read: {error}") from error
    if decoder.unused_data:
        raise Failed("parse", "a compressed page goes on after its end")


def file_head(answer: Answer, start: int) -> FileHead:
    """What was said before a file's bytes. Raises ``Failed`` for a coding, and for a range other than the one asked for."""
    if answer.coding != "identity":
        raise Failed(
            "content-encoding", f"{answer.url.host} sent a file as {answer.coding[:32]!r} although identity was asked for"
        )
    etag, modified = answer.field("etag"), answer.field("last-modified")
    # If-Range needs a strong validator: "An origin server MUST use the strong comparison function" (RFC 9110 §13.1.5, in short).
    strong = etag if etag and not etag.startswith("W/") else None if etag else modified
    if answer.status == 200:
        return FileHead(answer.length, 0, answer.media_type, strong, told_digests(answer), modified)
    told = answer.field("content-range") or ""
    found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", told, re.ASCII)
    first, last, size = (int(number) for number in found.groups()) if found else (0, 0, 0)
    if not found or first != start or last != size - 1 or answer.length not in {None, last - first + 1}:
        raise Failed("range", f"{answer.url.host} sent {told[:64] or 'no Content-Range'!r} when asked for bytes from {start} on")
    return FileHead(size, start, answer.media_type, strong, told_digests(answer), modified)


def told_digests(answer: Answer) -> tuple[Digest, ...]:
    """The digests of the whole file told in fields: ``Repr-Digest`` (RFC 9530), ``X-Checksum-…`` (Maven repositories)."""
    found: list[Digest] = []
    for name, value in answer.headers:
        with suppress(ValueError):
            if name.startswith("x-checksum-"):
                found.append(Digest.parse(name.removeprefix("x-checksum-"), value))
            elif name == "repr-digest":
                for algorithm, text in re.findall(r"(sha-256|sha-512)=:([A-Za-z0-9+/=]+):", value):
                    octets = base64.b64decode(text, validate=True)
                    found.append(Digest.parse(algorithm.replace("-", ""), octets.hex()))
    return tuple(found)


def number(text: str | None) -> int | None:
    """A field's value as a number, None if it is none or has more than 18 digits."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else None
