"""The door: one task that owns the listeners and every idle connection, and answers hot hits without another task.

It waits on an epoll object of its own, whose descriptor trio watches. Once woken it polls without waiting, again and again until nothing
is ready or 256 events were served, because returning to trio after every batch costs 0.3 us a request. Whatever is no hot hit leaves the
epoll object and is answered in a task; a connection that comes back with unread bytes goes to the ready list, since epoll will never
report bytes that were read already, and wakes the door.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import ssl
from collections import OrderedDict, deque
from collections.abc import Sequence
from functools import partial

import trio

from ..metrics import Metrics, Tally
from . import Intercept, Splice
from .connection import Connection, Wheel
from .conversation import Gone, House, converse, refuse
from .h1 import Malformed, check_beginning, http_date
from .h2 import serve_h2
from .hosts import Site, Standings
from .hot import (
    LIMIT_BLOCK_BYTES,
    HotPages,
    Recogniser,
    Rendered,
    cut_condition,
    cut_volatile,
    message_for,
    without_condition,
)
from .sending import Stalled, Transfer, Truncated
from .splice import splice
from .tls import Contexts, handshake
from .waiting import Polls, Waiting
from .wire import PlainWire

_log = logging.getLogger(__name__)

_RECEIVE_BYTES = 16 * 1024
_POLL_EVENTS = 64
_TURN_EVENTS = 256
_PIPELINED = 32
_ACCEPTS = 64
_EMPTY_LINES = 2
_BACKLOG_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_CLIENT_HELLO = b"\x16"  # the content type of a record that carries a handshake (RFC 8446 §5.1); no method of HTTP begins so
_LAST_WORD_S = 1.0
_TUNNELS = 32
_TUNNEL_BLOCKS = 512
_DISTRUST = frozenset(
    f"{prefix}_ALERT_{reason}"
    for prefix in ("TLSV1", "TLSV13", "SSLV3")
    for reason in ("UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN", "CERTIFICATE_EXPIRED", "UNSUPPORTED_CERTIFICATE")
)
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Door:
    """The connections of one set of listeners."""

    def __init__(
        self,
        house: House,
        hot: HotPages,
        metrics: Metrics | None,
        connections: int,
        *,
        schemes: Sequence[str] = ("http",),
        contexts: Contexts | None = None,
        polls: Polls | None = None,
    ) -> None:
        """At most ``connections`` are open at a time. ``contexts`` are needed if ``https`` is among ``schemes``."""
        self._house = house
        self._most_connections = connections
        self._hot = hot
        self._metrics = metrics
        self._limits = house.limits
        self._listeners: dict[int, socket.socket] = {}
        self._listening = False
        self._connections: dict[int, Connection] = {}
        self._ready: deque[Connection] = deque()
        self._wheel = Wheel(self._limits.idle_s, self._limits.head_s)
        self._waiting = Waiting(polls, house, self._say, self._leave) if polls is not None else None
        self._schemes = schemes
        self._contexts = contexts
        self._recognisers = self._recognisers_for(house.hosts)
        self._secure_recognisers = self._recognisers_for(house.hosts.over_tls)
        self._tunnels: OrderedDict[str, tuple[Site, Recogniser]] = OrderedDict()
        self._handshakes: set[trio.CancelScope] = set()
        self._second = -1
        self._now = 0.0
        self._date = b""
        self._empty = trio.Event()
        self._draining = False
        self._nursery: trio.Nursery | None = None
        self._epoll: select.epoll | None = None
        self._bell = -1
        self.hits = 0

    # -- life

    async def run(self, listeners: list[socket.socket], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until drained or cancelled. Closes the listeners and every connection in the end."""
        with select.epoll() as epoll:
            self._epoll = epoll
            self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            try:
                epoll.register(self._bell, select.EPOLLIN)
                for listener in listeners:
                    listener.setblocking(False)
                    self._listeners[listener.fileno()] = listener
                self._resume_listening()
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._keep_time)
                    nursery.start_soon(self._answer)
                    if self._waiting is not None:
                        nursery.start_soon(self._waiting.run)
                    task_status.started()
            finally:
                for connection in list(self._connections.values()):
                    self._close(connection)
                self._stop_listening()
                for listener in listeners:
                    listener.close()
                os.close(self._bell)
                self._epoll = None

    async def drain(self) -> None:
        """Stop accepting, close what is idle, let running answers finish for ``drain_s``, then cut them."""
        self._draining = True
        self._stop_listening()
        for listener in self._listeners.values():
            listener.close()
        for scope in self._handshakes:
            scope.cancel()
        if self._waiting is not None:
            with trio.move_on_after(_LAST_WORD_S):
                await self._waiting.end()
        for connection in list(self._connections.values()):
            if not connection.busy and connection.since < 0:
                self._close(connection, is_whole=True)
        if self._connections:
            with trio.move_on_after(self._limits.drain_s):
                await self._empty.wait()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def statistics(self) -> dict[str, int]:
        """How many connections are open, how many of them are in a conversation, and how many hits were answered here."""
        busy = sum(connection.busy for connection in self._connections.values())
        return {"connections": len(self._connections), "busy": busy, "hits": self.hits}

    @property
    def draining(self) -> bool:
        return self._draining

    async def _keep_time(self) -> None:
        """Close what idles or dawdles, once a second; never inside a batch of events, whose descriptors must stay what they are."""
        began = trio.current_time() - self._wheel.tick
        while True:
            await trio.sleep(1)
            while self._wheel.tick + 1 <= trio.current_time() - began:
                for connection in self._wheel.advance():
                    if connection.since >= 0:
                        with contextlib.suppress(OSError):  # it is closed in any case
                            connection.send(_TOO_SLOW)
                    self._close(connection, is_whole=True)
            self._resume_listening()

    # -- listening

    def _resume_listening(self) -> None:
        if self._listening or self._draining or self._epoll is None or len(self._connections) >= self._most_connections:
            return
        for fd in self._listeners:
            self._epoll.register(fd, select.EPOLLIN)
        self._listening = True

    def _stop_listening(self) -> None:
        """Leave newcomers in the kernel's backlog."""
        if self._listening and self._epoll is not None:
            for fd in self._listeners:
                self._epoll.unregister(fd)
        self._listening = False

    def _accept(self, listener: socket.socket) -> None:
        assert self._epoll is not None
        for _ in range(_ACCEPTS):
            if len(self._connections) >= self._most_connections:
                self._stop_listening()
                return
            try:
                sock, peer = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _BACKLOG_ERRORS:
                    _log.warning("cannot accept connections for a second: %s", error)
                    self._stop_listening()
                    return
                continue  # that one client gave up in the backlog
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                own = sock.getsockname()
                for scheme in self._schemes:
                    if self._house.hosts.own(own[0], own[1], scheme):
                        self._hot.forget_facts()
                address = str(peer[0])
                trusted = self._house.hosts.trusts(address)
                connection = Connection(
                    PlainWire(sock), address, trusted, self._house.hosts, self._recognisers[trusted], self._wheel.tick
                )
                if self._contexts is not None:
                    connection.recv = partial(self._on_first_byte, connection, sock, self._contexts)
                self._epoll.register(connection.fd, select.EPOLLIN)
            except OSError:
                sock.close()
                continue
            self._connections[connection.fd] = connection
            self._wheel.put(connection)
            if self._metrics is not None:
                self._metrics.connections.inc()

    # -- TLS

    def _recognisers_for(self, hosts: Standings) -> dict[bool, Recogniser]:
        house = self._house
        return {trusted: Recogniser(self._hot, hosts, house.limits, trusted, house.scope) for trusted in (False, True)}

    def _on_first_byte(self, connection: Connection, sock: socket.socket, contexts: Contexts, count: int) -> bytes:
        """Stands for ``recv`` until a client has said something: the first byte tells whether it speaks TLS."""
        assert self._nursery is not None
        first = sock.recv(1, socket.MSG_PEEK)
        if first == _CLIENT_HELLO:
            self._park(connection)
            recogniser = self._secure_recognisers[connection.trusted]
            self._nursery.start_soon(self._secure, connection, contexts.context(), self._house.hosts.over_tls, recogniser)
            raise BlockingIOError
        if first and "http" not in self._schemes:
            self._park(connection)
            self._nursery.start_soon(self._turn_away, connection)
            raise BlockingIOError
        connection.recv = sock.recv
        return sock.recv(count)

    def _tunnel(self, base: str) -> tuple[Site, Recogniser]:
        """What is remembered of requests to one site. Clients can name many, each with ports of its own."""
        found = self._tunnels.get(base)
        if found is None:
            site = Site(base)
            found = site, Recogniser(self._hot, site, self._limits, False, self._house.scope, _TUNNEL_BLOCKS)
            self._tunnels[base] = found
            if len(self._tunnels) > _TUNNELS:
                _, (_, forgotten) = self._tunnels.popitem(last=False)
                forgotten.retire()
        self._tunnels.move_to_end(base)
        return found

    async def _secure(self, connection: Connection, context: ssl.SSLContext, hosts: Standings, recogniser: Recogniser) -> None:
        """Shake hands on a parked connection, and go on over TLS."""
        is_done = False
        try:
            with trio.CancelScope() as scope:
                self._handshakes.add(scope)
                if self._draining:
                    scope.cancel()
                try:
                    is_done = await self._shake_hands(connection, context, hosts, recogniser)
                finally:
                    self._handshakes.discard(scope)
        except Exception:  # noqa: BLE001 - one client's failure must not end the others
            _log.exception("a handshake failed")
        finally:
            if not is_done:
                self._close(connection)
            elif connection.wire.spoken != "h2":
                self._return(connection, True)
        if is_done and connection.wire.spoken == "h2":
            await self._converse(connection)

    async def _shake_hands(
        self, connection: Connection, context: ssl.SSLContext, hosts: Standings, recogniser: Recogniser
    ) -> bool:
        wire = connection.wire
        assert isinstance(wire, PlainWire)
        outcome = "failed"
        try:
            secure = await handshake(wire.socket, context, self._limits.handshake_s)
            connection.begin(secure, hosts, recogniser)
            outcome = "done"
        except TimeoutError:
            outcome = "late"
        except ssl.SSLError as error:
            if error.reason in _DISTRUST:
                outcome = "distrusted"
                where = hosts.base if isinstance(hosts, Site) else "this server"
                _log.info("%s does not trust the certificate of %s: %s", connection.address, where, error.reason)
        except OSError:
            pass  # it left
        if self._metrics is not None:
            self._metrics.handshakes.labels(outcome).inc()
        return outcome == "done"

    # -- events

    async def _answer(self) -> None:
        assert self._epoll is not None
        poll, connections, ready = self._epoll.poll, self._connections, self._ready
        epoll_fd = self._epoll.fileno()
        while True:
            await trio.lowlevel.wait_readable(epoll_fd)
            turn = self.hits
            while True:
                events = poll(0, _POLL_EVENTS)
                if not events and not ready:
                    break
                self._read_clock()
                for fd, _ in events:
                    connection = connections.get(fd)
                    if connection is not None:
                        self._on_readable(connection)
                    else:
                        self._on_other(fd)
                for _ in range(len(ready)):
                    connection = ready.popleft()
                    if not connection.busy and connections.get(connection.fd) is connection:
                        self._on_requests(connection, connection.unread)
                turn -= len(events)
                if self.hits - turn >= _TURN_EVENTS:
                    turn = self.hits
                    await trio.lowlevel.checkpoint()

    def _read_clock(self) -> None:
        self._now = now = self._house.clock()
        second = int(now)
        if second != self._second:
            self._second = second
            self._date = http_date(second).encode()

    def _on_other(self, fd: int) -> None:
        if fd == self._bell:
            os.eventfd_read(fd)
        elif fd in self._listeners and self._listening:
            self._accept(self._listeners[fd])
        # Anything else was closed earlier in this batch.

    def _on_readable(self, connection: Connection) -> None:
        try:
            data = connection.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._close(connection)
            return
        if not data:
            self._close(connection, is_whole=True)
            return
        connection.stamp = self._wheel.tick
        if connection.unread:
            self._on_requests(connection, connection.unread + data)
            return
        facts = connection.facts
        if facts is not None and facts.epoch is self._hot.epoch and not self._draining:
            # The bytes around the remembered block are a kept request line and, perhaps, a plain ETag: that proves their grammar, and that
            # there is exactly one request. Nothing else is parsed. Written out, because each call would cost a tenth of a hit.
            line, condition = b"", None
            after = connection.after
            if not after:
                block = connection.block
                if data.endswith(block):
                    line = data[: -len(block)]
            elif data.endswith(after):
                before = connection.before
                start = data.find(b"\n") + 1
                at, stop = start + len(before), len(data) - len(after)
                if at <= stop and data.startswith(before, start):
                    line, condition = data[:start], data[at:stop]
            rendered: Rendered | None
            try:
                rendered = facts.pages[line][facts.wish]  # type: ignore[index]  # None is not remembered
            except KeyError:
                rendered = None
            if rendered is not None and rendered.validity.valid and self._now < rendered.validity.fresh_until:
                if rendered.second != self._second:
                    rendered.refresh(self._second, self._date)
                message: bytes | None
                if condition is None:
                    message = rendered.whole
                elif condition == rendered.etag:
                    message = rendered.brief
                else:
                    message = message_for(condition, rendered)
                if message is not None:
                    self._send(connection, rendered, message)
                    return
        self._on_requests(connection, data)

    def _on_requests(self, connection: Connection, data: bytes) -> None:
        """Answer what can be answered at once from ``data``; leave the rest to a task, or to the next turn."""
        for _ in range(_PIPELINED):
            if data.startswith(b"\r\n"):
                data = self._without_empty_lines(connection, data)
                if data.startswith(b"\r\n"):
                    connection.unread = data
                    self._leave(connection)  # to be refused
                    return
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._on_beginning(connection, data)
                return
            if self._waiting is not None and data.startswith(self._waiting.prefix) and not self._draining:
                message = self._poll(connection, data, end + 4)
                if message is not None:
                    data = connection.unread
                    if not message or not self._give(connection, message) or not data:
                        return
                    continue
            found = None if self._draining else self._recognise(connection, data, end + 4)
            if found is None:
                connection.unread = data
                self._leave(connection)
                return
            rendered, message = found
            data = data[end + 4 :]
            connection.unread = data
            connection.since = -1
            connection.empty_lines = 0
            if not self._send(connection, rendered, message):
                return
            if not data:
                return
        self._ready.append(connection)

    def _without_empty_lines(self, connection: Connection, data: bytes) -> bytes:
        """``data`` without the empty lines it begins with, as far as they may be skipped.

        "a server that is expecting to receive and parse a request-line SHOULD ignore at least one empty line (CRLF) received prior to the
        request-line" (RFC 9112 §2.2).
        """
        connection.facts = None  # so that the next request comes this way too, and the count begins anew with it
        while connection.empty_lines < _EMPTY_LINES and data.startswith(b"\r\n"):
            connection.empty_lines += 1
            data = data[2:]
        return data

    def _on_beginning(self, connection: Connection, data: bytes) -> None:
        """Keep the beginning of a head, unless nothing can mend it."""
        connection.unread = data
        if not data:
            connection.since = -1
            return
        try:
            check_beginning(data, self._limits)
        except Malformed:
            self._leave(connection)
            return
        if connection.since < 0:
            connection.since = self._wheel.tick
            self._wheel.put(connection)

    def _recognise(self, connection: Connection, data: bytes, end: int) -> tuple[Rendered, bytes] | None:
        """The kept answer to the request in ``data[:end]`` and the message to send; None if it has to be read in full."""
        if not data.startswith(b"GET "):
            connection.facts = None
            return None
        start = data.find(b"\r\n") + 2
        line, block = data[:start], data[start:end]
        is_short = len(block) <= LIMIT_BLOCK_BYTES
        recogniser = connection.recogniser
        facts = None if connection.after else recogniser.recall(block)
        condition = None
        connection.before = connection.after = b""
        if facts is None:
            cut = cut_condition(block)
            if cut is not None:
                connection.before, condition, connection.after = cut
                block = without_condition(connection.before) + connection.after
            rest = cut_volatile(block)
            if rest != block:
                # The next one will differ there, so there is nothing to compare it with.
                connection.before = connection.after = b""
                block = rest
            facts = recogniser.recall(block) or recogniser.study(block)
        if is_short and facts.pages is not None:
            connection.block, connection.facts = block, facts
        else:
            # Of no use, or too long: thousands of idle connections may hold one each.
            connection.block = connection.before = connection.after = b""
            connection.facts = None
        if facts.pages is None:
            return None
        variants = facts.pages.get(line)
        rendered = variants.get(facts.wish) if variants is not None else None
        if rendered is None:
            return None
        if not rendered.validity.holds(self._now):
            if not rendered.validity.valid:
                self._hot.drop(rendered)
            return None
        if rendered.second != self._second:
            rendered.refresh(self._second, self._date)
        message = message_for(condition, rendered)
        return None if message is None else (rendered, message)

    def _poll(self, connection: Connection, data: bytes, end: int) -> bytes | None:
        """What ``Waiting.begin`` says of the request in ``data[:end]``. What follows it is unread, unless it is the handler's."""
        assert self._waiting is not None
        start = data.find(b"\r\n") + 2
        message = self._waiting.begin(connection, data[:start], data[start:end])
        if message is not None:
            connection.unread = data[end:]
            connection.since = -1
            connection.empty_lines = 0
        return message

    def _say(self, connection: Connection, message: bytes) -> None:
        """Answer a connection that waited."""
        connection.stamp = self._wheel.tick
        if self._give(connection, message) and connection.unread:
            self._ready.append(connection)
            os.eventfd_write(self._bell, 1)

    def _give(self, connection: Connection, message: bytes) -> bool:
        """One send. What does not fit goes on in a task; then False."""
        try:
            sent = connection.send(message)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(connection)
            return False
        if sent == len(message):
            return True
        self._park(connection)
        assert self._nursery is not None
        self._nursery.start_soon(self._finish, connection, b"", memoryview(message)[sent:], Tally())
        return False

    def _send(self, connection: Connection, rendered: Rendered, message: bytes) -> bool:
        """One send. What does not fit goes on in a task; then False."""
        self.hits += 1
        tally = rendered.tally
        tally.count += 1
        length = len(message)
        try:
            if rendered.is_apart and message is rendered.whole:
                length += len(rendered.body)
                sent = connection.send_parts((message, rendered.body))
            else:
                sent = connection.send(message)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(connection)
            return False
        tally.sent += sent
        if sent == length:
            return True
        self._park(connection)
        assert self._nursery is not None
        self._nursery.start_soon(self._finish, connection, *rendered.left(message, sent), tally)
        return False

    # -- tasks

    def _park(self, connection: Connection) -> None:
        """Take the connection out of the selector: a mask of 0 would still report hang-ups, and spin."""
        assert self._epoll is not None
        connection.busy = True
        connection.since = -1
        connection.empty_lines = 0
        self._epoll.unregister(connection.fd)
        self._wheel.remove(connection)

    def _leave(self, connection: Connection) -> None:
        assert self._nursery is not None
        self._park(connection)
        self._nursery.start_soon(self._converse, connection)

    async def _converse(self, connection: Connection) -> None:
        outcome: bool | Intercept = False
        try:
            if connection.wire.spoken == "h2":
                await serve_h2(self._house, connection, self._hot)
                connection.wire.finish()
            else:
                turned = await converse(self._house, connection)
                if isinstance(turned, Splice):
                    await splice(self._house, connection, turned)
                else:
                    outcome = turned
        except Stalled:
            # What the kernel holds for such a peer is given up too.
            connection.wire.abort()
        except (Gone, Truncated, OSError):
            pass  # the connection ends short: a plain close lets what was released arrive, and Content-Length tells the rest
        except Exception:  # noqa: BLE001 - one conversation's failure must not end the others
            _log.exception("a conversation failed")
        finally:
            if not isinstance(outcome, Intercept):
                self._return(connection, outcome)
        if isinstance(outcome, Intercept):
            connection.user = outcome.user
            site, recogniser = self._tunnel(outcome.site)
            await self._secure(connection, outcome.context, site, recogniser)

    async def _turn_away(self, connection: Connection) -> None:
        """Tell a client that speaks plain HTTP where only TLS is spoken."""
        try:
            await refuse(self._house, connection, Malformed("this port speaks TLS only: ask it by https://"))
        except (OSError, Stalled):
            pass  # it left
        finally:
            self._return(connection, False)

    async def _finish(self, connection: Connection, head: bytes, body: memoryview, tally: Tally) -> None:
        """Send the rest of a hot hit that did not fit."""
        keep = False
        transfer = Transfer(connection.wire, self._limits, self._house.cold_reads)
        try:
            await transfer.rest(head)
            await transfer.rest(body)
            keep = True
        except Stalled:
            connection.wire.abort()
        except OSError:
            pass  # the client left
        finally:
            tally.sent += transfer.sent
            self._return(connection, keep)

    def _return(self, connection: Connection, keep: bool) -> None:
        """Give the connection back to the door, or close it."""
        if not keep or self._draining or self._epoll is None or connection.gone:
            self._close(connection, is_whole=keep)
            return
        connection.busy = False
        connection.stamp = self._wheel.tick
        self._epoll.register(connection.fd, select.EPOLLIN)
        self._wheel.put(connection)
        if connection.unread:
            self._ready.append(connection)
            os.eventfd_write(self._bell, 1)

    def _close(self, connection: Connection, *, is_whole: bool = False) -> None:
        """Forget and close. The kernel takes a closed descriptor out of epoll by itself; its number may be anybody's afterwards.

        Over TLS a connection is ended in order only if what was sent ``is_whole``; to the others the next segment says as much.
        """
        if self._connections.get(connection.fd) is not connection:
            return
        del self._connections[connection.fd]
        self._wheel.remove(connection)
        if self._waiting is not None:
            self._waiting.leave(connection)
        connection.busy = True
        if is_whole and connection.is_secure:
            connection.wire.finish()
        connection.wire.close()
        if self._metrics is not None:
            self._metrics.connections.dec()
        if self._draining and not self._connections:
            self._empty.set()
