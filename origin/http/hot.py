"""Rendered answers, kept ready to be sent: complete ``200`` and ``304`` bytes, made anew when the second changes.

``HotPages`` is the store; ``Recogniser`` tells from a request's raw bytes which kept answer it means, without parsing what has been parsed
before. Both belong to the event loop's thread and never wait. The measurements behind the shape: a whole header block looked up as bytes
costs 0.4 us, parsed in C with callbacks 2.2 us, and a hit has to cost less than the system calls around it (about 1.8 us).

A hit is found by raw request line and raw ``Accept`` and ``Accept-Encoding`` values, so two spellings of one wish are two ways to the same
bytes; how a wish is read is decided once, by the handler that made the answer.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable

from ..metrics import Tally
from ..model import Face, Headers, Validity
from . import Request, Response
from .h1 import Head, Malformed, head_lines, parse_head
from .hosts import Standings
from .limits import Limits
from .ranges import matches_weakly

LIMIT_PAIRS = 32
"""How many (Accept, Accept-Encoding) pairs one target is remembered for."""

LIMIT_WISH_BYTES = 1024
"""The longest pair worth remembering."""

LIMIT_BLOCKS = 4096
"""How many raw header blocks are remembered; they hold credentials, and die with the epoch."""

LIMIT_BLOCK_BYTES = 2048
"""The longest header block worth remembering."""

LIMIT_GROUPS = 4096
"""How many (face, base, scope) are remembered."""

JOINED_BYTES = 64 * 1024
"""The longest body that is joined with its head, for one plain send; of a longer one only the head is made anew each second."""

_OK = b"HTTP/1.1 200 OK\r\nDate: "
_NOT_MODIFIED = b"HTTP/1.1 304 Not Modified\r\nDate: "
_KEPT_BY_304 = frozenset({"etag", "cache-control", "vary", "cache-status", "content-location"})
_OVERHEAD_BYTES = 1024

type Pages = dict[bytes, dict[bytes, Rendered]]
"""Raw request line -> raw Accept and Accept-Encoding -> answer."""


class Rendered:
    """One document in one coding, ready to be sent. ``whole`` and ``brief`` are messages for the second ``second``.

    ``fields`` are the header fields of a ``200``, without those that the server adds; ``lowered`` are those of a ``200`` and of a ``304``
    as HTTP/2 sends them, once it has.
    ``body`` is one immutable copy for all seconds and all readers. It stands at the end of ``whole`` too, unless ``is_apart``: then
    ``whole`` is the head alone.
    """

    __slots__ = (
        "_brief_rest",
        "_whole_rest",
        "body",
        "brief",
        "etag",
        "fields",
        "is_apart",
        "line",
        "lowered",
        "pages",
        "second",
        "seen",
        "size",
        "tally",
        "validity",
        "whole",
    )

    def __init__(self, response: Response, body: bytes, etag: str, validity: Validity, tally: Tally) -> None:
        # On a hit the page is fresh, whatever the first answer's Cache-Status told of the way it took.
        response = Response(200, [(n, "leeward; hit" if n.lower() == "cache-status" else v) for n, v in response.headers])
        self.fields = tuple(response.headers)
        brief = Response(304, self.brief_fields)
        self.body = body
        self.is_apart = len(body) > JOINED_BYTES
        self._whole_rest = f"\r\n{head_lines(response)}Content-Length: {len(body)}\r\n\r\n".encode("latin-1")
        self._brief_rest = f"\r\n{head_lines(brief)}\r\n".encode("latin-1")
        self.whole = self.brief = b""
        self.second = -1
        self.seen = -1
        self.etag = etag.encode("latin-1")
        self.validity = validity
        self.tally = tally
        held = len(body) if self.is_apart else 2 * len(body)
        self.size = held + 2 * (len(self._whole_rest) + len(self._brief_rest)) + _OVERHEAD_BYTES
        self.pages: Pages = {}
        self.line = b""
        self.lowered: tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]] | None = None

    @property
    def brief_fields(self) -> list[tuple[str, str]]:
        """The header fields of a ``304``, without those that the server adds."""
        return [(n, v) for n, v in self.fields if n.lower() in _KEPT_BY_304]

    def refresh(self, second: int, date: bytes) -> None:
        """Make both messages anew for ``second``."""
        self.whole = b"".join((_OK, date, self._whole_rest, b"" if self.is_apart else self.body))
        self.brief = b"".join((_NOT_MODIFIED, date, self._brief_rest))
        self.second = second

    def left(self, message: bytes, sent: int) -> tuple[bytes, memoryview]:
        """What of ``message``, and of the body that goes with it, is left after ``sent`` bytes: short bytes, and a part of ``body``.

        Neither keeps ``message`` alive: slow readers would otherwise hold a copy for every second in which one of them came.
        """
        if message is not self.whole:
            return message[sent:], memoryview(b"")
        head_bytes = len(message) if self.is_apart else len(message) - len(self.body)
        return message[sent:head_bytes], memoryview(self.body)[max(0, sent - head_bytes) :]


class HotPages:
    """Rendered answers, bounded by bytes. Handlers ``keep`` what may be repeated; the server finds it by the request's raw bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._groups: dict[tuple[Face, str, str], Pages] = {}
        self._ring: OrderedDict[Rendered, None] = OrderedDict()
        self._evicted = 0
        self.epoch = object()
        """Compared by identity: facts remembered under another epoch are void."""

    def keep(self, request: Request, response: Response, validity: Validity, tally: Tally) -> None:
        """Remember a whole answer to ``request``, before the server adds to it. What cannot be repeated is quietly not kept.

        Later hits count in ``tally`` and are answered only while ``validity`` holds; their ``Cache-Status`` is ``leeward; hit``.
        """
        body, etag = response.body, response.header("etag")
        if not (request.listed and request.method == "GET" and request.version in ("1.1", "2")):
            return
        if response.status != 200 or not isinstance(body, bytes) or etag is None or response.reason or response.close:
            return
        wish = wish_of(request.headers)
        if len(body) > self._limit_bytes // 8 or len(wish) > LIMIT_WISH_BYTES:
            return
        pages = self.pages(request.face, request.base, request.scope)
        line = f"GET {request.target} HTTP/1.1\r\n".encode("latin-1")
        variants = pages.setdefault(line, {})
        tag = etag.encode("latin-1")
        rendered = next((r for r in variants.values() if r.etag == tag and r.validity is validity), None)
        if rendered is None:
            rendered = Rendered(response, body, etag, validity, tally)
            rendered.pages, rendered.line = pages, line
            rendered.size += len(line)
            self._held_bytes += rendered.size
            self._ring[rendered] = None
        # The newest pair goes to the end: the bound drops the one that was asked for anew longest ago.
        self._unlink(variants, wish, but=rendered)
        variants[wish] = rendered
        self._held_bytes += len(wish)
        while len(variants) > LIMIT_PAIRS:
            self._unlink(variants, next(iter(variants)))
        self._evict()

    def pages(self, face: Face, base: str, scope: str) -> Pages:
        """The answers kept for one face, base and scope: the same dictionary until ``clear``."""
        found = self._groups.get((face, base, scope))
        if found is None:
            if len(self._groups) >= LIMIT_GROUPS:
                self._forget_groups()
            found = self._groups[face, base, scope] = {}
        return found

    def ready(self, request: Request, now: float) -> Rendered | None:
        """The kept answer to a request that was parsed by somebody else (HTTP/2): a plain ``GET``, conditions and ranges apart."""
        if not request.listed or request.method != "GET":
            return None
        variants = self.pages(request.face, request.base, request.scope).get(
            f"GET {request.target} HTTP/1.1\r\n".encode("latin-1")
        )
        rendered = variants.get(wish_of(request.headers)) if variants else None
        if rendered is None or rendered.validity.holds(now):
            return rendered
        if not rendered.validity.valid:
            self.drop(rendered)
        return None

    def _forget_groups(self) -> None:
        """Clients can name many sites, each with ports of its own: those with nothing kept for them go, else some that were named first.

        Facts that know such a dictionary would never find anything in it.
        """
        self._groups = {key: pages for key, pages in self._groups.items() if pages}
        if len(self._groups) >= LIMIT_GROUPS:
            # The bases of the mirror face come from a closed list.
            for key in sorted(self._groups, key=lambda key: key[0] == "mirror")[: LIMIT_GROUPS // 8]:
                for variants in list(self._groups[key].values()):
                    for rendered in set(variants.values()):
                        self.drop(rendered)
                del self._groups[key]
        self.forget_facts()

    def drop(self, rendered: Rendered) -> None:
        """Forget an answer that will never hold again."""
        variants = rendered.pages.get(rendered.line, {})
        for wish in [wish for wish, found in variants.items() if found is rendered]:
            self._unlink(variants, wish)
        if not variants:
            rendered.pages.pop(rendered.line, None)

    def forget_facts(self) -> None:
        """Void every remembered header block: what it meant may have changed."""
        self.epoch = object()

    def clear(self) -> None:
        """Forget all answers and all remembered header blocks."""
        for pages in self._groups.values():
            pages.clear()
        self._groups.clear()
        self._ring.clear()
        self._held_bytes = 0
        self.forget_facts()

    def statistics(self) -> dict[str, int]:
        """How many answers are held, in how many bytes, and how many were given up for room."""
        return {"answers": len(self._ring), "bytes": self._held_bytes, "evicted": self._evicted}

    def _unlink(self, variants: dict[bytes, Rendered], wish: bytes, but: Rendered | None = None) -> None:
        """Take one way to an answer away; with the last one goes the answer, unless it is ``but``."""
        rendered = variants.pop(wish, None)
        if rendered is None:
            return
        self._held_bytes -= len(wish)
        if rendered is not but and rendered not in variants.values():
            del self._ring[rendered]
            self._held_bytes -= rendered.size

    def _evict(self) -> None:
        """Clock: an answer used since the hand last passed is passed over once. Its ``second`` tells, so hits need not."""
        while self._held_bytes > self._limit_bytes and self._ring:
            rendered = next(iter(self._ring))
            if rendered.second != rendered.seen and len(self._ring) > 1:
                rendered.seen = rendered.second
                self._ring.move_to_end(rendered)
            else:
                self.drop(rendered)
                self._evicted += 1


def wish_of(headers: Headers) -> bytes:
    """What a rendering is chosen by, raw: the values of ``Accept`` and ``Accept-Encoding``."""
    accept = ", ".join(value for name, value in headers if name == "accept")
    coding = ", ".join(value for name, value in headers if name == "accept-encoding")
    absent = not any(name == "accept-encoding" for name, _ in headers)
    return f"{accept}\n{'-' if absent else coding}".encode("latin-1")


class Facts:
    """What a header block means: which answers it may be given (None: it has to be read in full) and by what wish.

    ``is_plain`` tells that nothing in it asks for more than what the request line does; then ``authorization`` and ``accept_encoding`` are
    the fields' values.
    """

    __slots__ = ("accept_encoding", "authorization", "epoch", "is_plain", "pages", "wish")

    def __init__(self, epoch: object, pages: Pages | None, wish: bytes) -> None:
        self.epoch = epoch
        self.pages = pages
        self.wish = wish
        self.is_plain = False
        self.authorization: str | None = None
        self.accept_encoding: str | None = None


# Fields that a kept answer takes no account of: a request with one is read in full.
_COLD = frozenset(
    {
        "content-length",
        "transfer-encoding",
        "trailer",
        "expect",
        "upgrade",
        "http2-settings",
        "range",
        "if-range",
        "if-match",
        "if-none-match",
        "if-modified-since",
        "if-unmodified-since",
        "pragma",
    }
)
# Lines whose values change from request to request, cut out before the block is looked up.
_CONDITIONS = (b"\r\nIf-None-Match: ", b"\r\nif-none-match: ")
_VOLATILE = (b"\r\npacote-pkg-id: ",)
_PLAIN = re.compile(rb"[\x20-\x7e]*")


class Recogniser:
    """Tells what raw header blocks mean, and remembers at most ``limit_blocks`` of them.

    One per kind of peer: a trusted proxy's forwarded fields change what a block means, and so does the site that a client speaks to.
    """

    def __init__(
        self,
        hot: HotPages,
        hosts: Standings,
        limits: Limits,
        trusted: bool,
        scope: Callable[[str | None], str],
        limit_blocks: int = LIMIT_BLOCKS,
    ) -> None:
        self._limit_blocks = limit_blocks
        self._hot = hot
        self._hosts = hosts
        self._limits = limits
        self._trusted = trusted
        self._scope = scope
        self._known: dict[bytes, Facts] = {}

    def retire(self) -> None:
        """Remember no more than one block from here on: only connections that are open still come here, and there may be thousands."""
        self._known.clear()
        self._limit_blocks = 1

    def recall(self, block: bytes) -> Facts | None:
        """The facts remembered for ``block``, if they are still true."""
        facts = self._known.get(block)
        return facts if facts is not None and facts.epoch is self._hot.epoch else None

    def study(self, block: bytes) -> Facts:
        """Read ``block``, everything after the request line, in full and strictly, and remember what it means."""
        facts = Facts(self._hot.epoch, None, b"")
        try:
            head = parse_head(b"GET / HTTP/1.1\r\n" + block, self._limits)
            if is_plain(head):
                standing = self._hosts.standing(head, "", self._trusted)
                authorization = ", ".join(head.values("authorization")) or None
                if standing.listed:
                    pages = self._hot.pages(standing.face, standing.base, self._scope(authorization))
                    facts = Facts(self._hot.epoch, pages, wish_of(head.headers))
                facts.is_plain, facts.authorization = True, authorization
                facts.accept_encoding = ", ".join(head.values("accept-encoding")) or None
        except Malformed:
            pass  # read in full again, and refused there
        if len(block) <= LIMIT_BLOCK_BYTES:
            if len(self._known) >= self._limit_blocks:
                self._known.clear()
            self._known[block] = facts
        return facts


def is_plain(head: Head, apart: str = "") -> bool:
    """Whether nothing in ``head`` asks for more than the page as it is, the field ``apart`` not counted."""
    if not head.keep_alive:
        return False
    for name, value in head.headers:
        if name in _COLD and name != apart:
            return False
        # pip before 26.2 sends max-age=0 with every request; it is answered like any other.
        if name == "cache-control" and value != "max-age=0":
            return False
    return True


def cut_condition(block: bytes) -> tuple[bytes, bytes, bytes] | None:
    """``block`` up to the value of its ``If-None-Match`` line, that value, and what follows it; None if there is none in a usual spelling.

    The value is not checked here, except that it does not run past its line; see ``message_for``. What is left must still be read
    strictly, so a folded line, or a second condition, is found there.
    """
    for start in _CONDITIONS:
        at = block.find(start)
        if at >= 0:
            at += len(start)
            stop = block.find(b"\r\n", at)
            return block[:at], block[at:stop], block[stop:]
    return None


def without_condition(before: bytes) -> bytes:
    """``before``, as ``cut_condition`` gives it, without the name of the line that was cut."""
    return before[: before.rindex(b"\r\n")]


def cut_volatile(block: bytes) -> bytes:
    """``block`` without the other lines that change from request to request; their values are checked."""
    for start in _VOLATILE:
        at = block.find(start)
        if at >= 0:
            stop = block.find(b"\r\n", at + 2)
            if _PLAIN.fullmatch(block, at + len(start), stop):
                block = block[:at] + block[stop:]
    return block


def message_for(condition: bytes | None, rendered: Rendered) -> bytes | None:
    """The message to send: brief if the client holds ``rendered`` already. None if its condition has to be read in full."""
    if condition is None:
        return rendered.whole
    if condition == rendered.etag:
        return rendered.brief
    if not _PLAIN.fullmatch(condition):
        return None
    return rendered.brief if matches_weakly(condition.decode("latin-1"), rendered.etag.decode("latin-1")) else rendered.whole
