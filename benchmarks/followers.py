"""Edges reduced to what following costs their origin: they poll for changes, check what they get, acknowledge, and keep nothing.

One process plays many: ``python -m benchmarks.followers``. It reads a ``Plan`` (JSON, one line) on standard input, enrols its edges, each
on a TLS connection of its own, and says ``ready`` once all have caught up. Then it reads a ``Window`` and, once that is over, prints what
was ``Seen`` in it.

They behave as ``edge/following`` does: a pause after each batch in which lines gather, an acknowledgement once in a while. Each edge
checks that its lines follow those it had, by hash and by signature; where many were sent the very same bytes after the very same lines,
this is computed once, since a real edge has a processor of its own to do it with. There is one loop on one epoll object rather than a task
for each edge: what is measured is the origin, and its client must cost less than it does.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import gzip
import hashlib
import heapq
import itertools
import random
import select
import socket
import ssl
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge.following.feed import GATHER_S, LINES, WAIT_S
from edge.following.reporting import AT_MOST_S
from origin.api import wire
from origin.feed import checked

GZIP = b"\x1f\x8b"
"""How what is in gzip begins, and no JSON (RFC 1952 §2.3.1)."""

HANDSHAKES = 32
"""How many edges enrol at a time."""

LATE_S = 8.0
"""How long after the window what was published in it may still arrive."""

SLOT_S = 0.0001
"""How finely times are kept."""


class Plan(msgspec.Struct, frozen=True):
    """Where the origin is, and the invitations of the edges to play, as ``origin invite`` prints them."""

    port: int
    invitations: list[str]


class Window(msgspec.Struct, frozen=True):
    """What was published in it counts: UTC seconds."""

    begin: float
    end: float


class Seen(msgspec.Struct):
    """What all edges of a process saw. ``slots`` counts, by time from publication to the end of checking, in units of ``SLOT_S``.

    ``lines`` were published in the window, ``arrived`` is over all edges. Requests and bytes (of TLS's content) are of the window.
    """

    slots: dict[int, int]
    lines: int = 0
    arrived: int = 0
    polls: int = 0
    acknowledgements: int = 0
    received: int = 0
    sent: int = 0
    failures: list[str] = []
    busy_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """What a batch leads to: where the next one begins, the hash there, and when its lines were published."""

    cursor: str
    verdicts: int
    chain: bytes
    published: tuple[float, ...]


class _Line(msgspec.Struct, gc=False):
    at: float = 0.0


type Script = Generator[bytes | float, bytes]
"""An edge's life: yields a request, and is sent the answer's body; or yields seconds, to pause."""


class Broken(Exception):
    """An edge cannot go on."""


class Follower:
    """One edge: its connection, and where in its script it is."""

    __slots__ = ("buffer", "is_shaking", "needed", "script", "sock")

    def __init__(self, sock: ssl.SSLSocket, script: Script) -> None:
        self.sock = sock
        self.script = script
        self.is_shaking = True
        self.buffer = b""
        self.needed = -1


class Followers:
    """All edges of this process."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._epoll = select.epoll()
        self._followers: dict[int, Follower] = {}
        self._pauses: list[tuple[float, int, Follower]] = []
        self._order = itertools.count()
        self._starting = 0
        self._level = 0
        self._steps: dict[tuple[bytes, bytes], Step] = {}
        self._lines: set[float] = set()
        self._window = Window(float("inf"), float("inf"))
        self.seen = Seen(collections.defaultdict(int))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE  # the key is pinned instead, as an edge does it

    def run(self) -> None:
        """Play until the window is over and what was published in it has arrived, or ``LATE_S`` have passed."""
        waiting = list(self._plan.invitations)
        self._epoll.register(sys.stdin.fileno(), select.EPOLLIN)
        is_told = False
        busy_before = 0.0
        while True:
            while waiting and self._starting < HANDSHAKES:
                self._begin(waiting.pop())
            if not is_told and self._level == len(self._plan.invitations):
                print("ready", flush=True)
                is_told = True
            now = time.monotonic()
            while self._pauses and self._pauses[0][0] <= now:
                self._advance(heapq.heappop(self._pauses)[2], b"")
            pause_s = self._pauses[0][0] - time.monotonic() if self._pauses else 1.0
            for fd, _ in self._epoll.poll(max(0.0, min(pause_s, 0.1))):
                if fd in self._followers:
                    self._on_readable(self._followers[fd])
                elif fd == sys.stdin.fileno():
                    self._epoll.unregister(fd)
                    self._window = msgspec.json.decode(sys.stdin.readline(), type=Window)
                    busy_before = time.process_time()
            at = time.time()
            if at > self._window.end:
                self.seen.busy_s = self.seen.busy_s or time.process_time() - busy_before
                self.seen.lines = len(self._lines)
                if at > self._window.end + LATE_S or (
                    at > self._window.end + 1 and self.seen.arrived >= len(self._lines) * len(self._plan.invitations)
                ):
                    return
            if self.seen.failures and not is_told:
                return

    # ---- connections

    def _begin(self, invitation: str) -> None:
        pin, secret = wire.read_token(invitation)
        sock = socket.create_connection(("127.0.0.1", self._plan.port), timeout=10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        secure = self._context.wrap_socket(sock, do_handshake_on_connect=False)
        follower = self._followers[secure.fileno()] = Follower(secure, self._script(secure, pin, secret))
        self._epoll.register(secure.fileno(), select.EPOLLIN)
        self._starting += 1
        self._on_readable(follower)

    def _on_readable(self, follower: Follower) -> None:
        sock = follower.sock
        try:
            if follower.is_shaking:
                sock.do_handshake()
                follower.is_shaking = False
                self._advance(follower, None)
                return
            while True:
                data = sock.recv(262144)
                if not data:
                    raise Broken("the origin closed the connection")
                follower.buffer = follower.buffer + data if follower.buffer else data
                if len(follower.buffer) < follower.needed:
                    continue
                body = _answer(follower)
                if body is not None:
                    if self._window.begin <= time.time() < self._window.end:
                        self.seen.received += follower.needed
                    follower.buffer, follower.needed = b"", -1
                    self._advance(follower, body)
                    return
        except ssl.SSLWantReadError:
            return
        except (OSError, Broken) as error:
            self._fail(follower, str(error))

    def _advance(self, follower: Follower, given: bytes | None) -> None:
        """Go on with the script: send its next request, or let it pause."""
        try:
            wish = next(follower.script) if given is None else follower.script.send(given)
            if isinstance(wish, float):
                heapq.heappush(self._pauses, (time.monotonic() + wish, next(self._order), follower))
            elif follower.sock.send(wish) != len(wish):
                raise Broken("the origin takes no requests")
            elif self._window.begin <= time.time() < self._window.end:
                self.seen.sent += len(wish)
        except (OSError, ValueError, LookupError, Broken) as error:
            self._fail(follower, f"{type(error).__name__}: {error}")

    def _fail(self, follower: Follower, why: str) -> None:
        self.seen.failures.append(why)
        self._followers.pop(follower.sock.fileno(), None)
        follower.sock.close()

    # ---- what an edge does

    def _script(self, sock: ssl.SSLSocket, pin: bytes, secret: bytes) -> Script:
        certificate = x509.load_der_x509_certificate(sock.getpeercert(binary_form=True) or b"")
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if hashlib.sha256(key).digest() != pin:
            raise Broken("this is not the origin that invited us")
        enrolment = msgspec.json.encode(wire.Enrolment(secret=base64.b64encode(secret).decode()))
        enrolled = msgspec.json.decode((yield _request("POST", "enrol", enrolment)), type=wire.Enrolled)
        field = f"Authorization: Bearer {enrolled.secret}\r\n"
        ledger_key = base64.b64decode(enrolled.key)
        part = yield _request("GET", "snapshot?after=&limit=1", field=field)
        snapshot = msgspec.json.decode(_plain(part), type=wire.Snapshot)
        at = Step(snapshot.cursor, 0, bytes.fromhex(snapshot.hash), ())
        self._starting -= 1
        is_level = False
        next_acknowledgement = time.monotonic() + random.random() * AT_MOST_S
        while True:
            wait_s = WAIT_S if is_level else 0
            query = f"changes?after={at.cursor}&verdicts={at.verdicts}&wait={wait_s:.0f}&limit={LINES}"
            body = yield _request("GET", query, field=field)
            at = self._checked(at.chain, body, ledger_key)
            self._count(at)
            if not is_level:
                is_level = True
                self._level += 1
            if (now := time.monotonic()) >= next_acknowledgement:
                next_acknowledgement = now + AT_MOST_S
                told = wire.Acknowledgement(cursor=at.cursor, verdicts=at.verdicts, release="0")
                yield _request("POST", "acknowledgements", msgspec.json.encode(told), field)
                if self._window.begin <= time.time() < self._window.end:
                    self.seen.acknowledgements += 1
            if 0 < len(at.published) < LINES:
                yield GATHER_S

    def _checked(self, chain: bytes, body: bytes, key: bytes) -> Step:
        step = self._steps.get((chain, body))
        if step is None:
            batch, records = wire.read_lines(_plain(body))
            published = tuple(msgspec.json.decode(record, type=_Line).at for record in records)
            step = Step(batch.cursor, batch.verdicts, checked(batch, records, chain, key), published)
            if len(self._steps) > 10_000:
                self._steps.clear()
            self._steps[chain, body] = step
        return step

    def _count(self, step: Step) -> None:
        now, window, slots = time.time(), self._window, self.seen.slots
        if window.begin <= now < window.end:
            self.seen.polls += 1
        for at in step.published:
            if window.begin <= at < window.end:
                slots[int((now - at) / SLOT_S)] += 1
                self.seen.arrived += 1
                self._lines.add(at)


def _request(method: str, what: str, body: bytes = b"", field: str = "") -> bytes:
    length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if method == "POST" else ""
    return (
        f"{method} {wire.ROOT}{what} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: leeward/0\r\nAccept-Encoding: gzip\r\n"
        f"{field}{length}\r\n"
    ).encode() + body


def _plain(body: bytes) -> bytes:
    return gzip.decompress(body) if body.startswith(GZIP) else body


def _answer(follower: Follower) -> bytes | None:
    """The body of the answer, None if it is not whole yet; ``needed`` tells how long it is with its head. Raises ``Broken``."""
    data = follower.buffer
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        return None
    if follower.needed < 0:
        status = data[9:12]
        if status not in (b"200", b"204"):
            raise Broken(data[:500].decode("latin-1"))
        fields = data[:end].lower()
        at = fields.find(b"\r\ncontent-length:")
        length = int(fields[at + 17 : fields.find(b"\r\n", at + 2)]) if at >= 0 else 0
        follower.needed = end + length
    return data[end:] if len(data) >= follower.needed else None


def main() -> None:
    plan = msgspec.json.decode(sys.stdin.readline(), type=Plan)
    followers = Followers(plan)
    with contextlib.suppress(KeyboardInterrupt):
        followers.run()
    print(msgspec.json.encode(followers.seen).decode(), flush=True)


if __name__ == "__main__":
    main()
