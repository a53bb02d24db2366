"""One request answered in a task of its own: whatever is not a hot hit.

The task reads the request in full, calls the handler while it watches for the client to leave, applies conditions and ranges, sends the
answer, and closes the body. Afterwards the connection goes back to the door, with any bytes that came behind the request.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import trio

from ..model import Arriving, Body, Clock
from . import Handler, Intercept, Request, Response, Splice
from .answers import begun, is_bodiless, is_carried, may_begin, narrowed, told_length
from .h1 import Dechunker, Head, Malformed, check_beginning, http_date, parse_head, write_head
from .hosts import Hosts, Standings
from .limits import Limits
from .problems import respond
from .sending import Stalled, Transfer, Truncated
from .wire import PlainWire, Wire

_log = logging.getLogger(__name__)

_READ_BYTES = 64 * 1024
_SMALL_BYTES = 64 * 1024
_LINGER_S = 2
_LINGER_BYTES = 1024 * 1024
_EXCESS_LINGER_S = 10
_EXCESS_LINGER_BYTES = 64 * 1024 * 1024
_HALF_CLOSED_S = 10
_LOOK_S = 1


class Gone(Exception):
    """The client left; nobody is there to answer."""


class Peer:
    """One connection's side of a conversation. ``unread`` holds bytes received and not yet understood.

    ``gone`` tells that the client will send nothing more; it may still read. ``hosts`` says whom it believes to speak to,
    ``user`` whom it is, if it had to tell.
    """

    __slots__ = ("address", "gone", "hosts", "trusted", "unread", "user", "wire")

    def __init__(self, wire: Wire, address: str, trusted: bool, hosts: Standings) -> None:
        self.wire = wire
        self.hosts = hosts
        self.address = address
        self.trusted = trusted
        self.user = ""
        self.unread = b""
        self.gone = False

    async def receive(self) -> bytes:
        """Wait for more bytes. Raises ``Gone`` at the end and ``OSError`` when broken."""
        while True:
            await trio.lowlevel.wait_readable(self.wire.fileno())
            try:
                data = self.wire.recv_nowait(_READ_BYTES)
            except BlockingIOError:
                continue
            if not data:
                raise Gone
            return data


@dataclass(frozen=True, slots=True)
class House:
    """What all conversations of a server share.

    ``closing`` tells whether answers should ask clients to leave. ``draining`` is set when the server drains: whoever holds a connection
    for long (HTTP/2, a tunnel) waits for it, and ends in order; what still runs ``limits.drain_s`` later is cut.
    """

    handler: Handler
    hosts: Hosts
    limits: Limits
    clock: Clock
    scope: Callable[[str | None], str]
    closing: Callable[[], bool]
    cold_reads: trio.CapacityLimiter
    draining: trio.Event


async def converse(house: House, peer: Peer) -> bool | Intercept | Splice:
    """Answer the request that ``peer.unread`` begins with; True if the connection may be used again, or what it turns into.

    Raises ``Gone``, ``OSError``, ``Stalled`` or ``Truncated`` when the connection cannot go on; the caller closes it.
    """
    transfer = Transfer(peer.wire, house.limits, house.cold_reads)
    try:
        head, request, is_excessive = await _read(house, peer, transfer)
    except Malformed as error:
        await _refuse(house, transfer, respond(error))
        await _linger(peer)
        return False
    response: Response | None = None
    complete = False
    carried = True
    body: Body = b""  # what the handler gave, to be closed
    outgoing: Body = b""  # what of it is sent
    try:
        # The handler's answer must be ours to close even if the client leaves, or the server stops, at this very moment.
        async def handle() -> None:
            nonlocal response, body
            try:
                response = await house.handler(request)
            except Exception as error:  # noqa: BLE001 - whatever a handler raises, the client gets an answer
                response = respond(error, request)
            body = response.body

        await _attended(peer, transfer, handle)
        assert response is not None
        if isinstance(response.onward, Intercept) and (trouble := _cannot_shake_hands(peer)) is not None:
            response = replace(respond(trouble, request), delivered=response.delivered, close=True)
        onward = response.onward
        if onward is not None and not is_excessive and (head.method != "CONNECT" or response.status < 300):
            if head.method == "CONNECT":
                # "A server MUST NOT send any Transfer-Encoding or Content-Length header fields in a 2xx (Successful) response to CONNECT"
                # (RFC 9110 §9.3.6).
                await transfer.head(write_head(response, date=http_date(house.clock()), length=None))
            complete = True
            response.onward = None  # the caller's from here on
            return onward
        keep_alive = head.keep_alive and not response.close and not house.closing() and not peer.gone and not is_excessive
        # A handler that finds the missing body malformed says nothing that the client could use.
        if is_excessive and response.status <= 400:
            answer = respond(Malformed("the request's body is too large", 413), request)
        else:
            answer = narrowed(request, response, house.clock())
        if is_bodiless(request, answer):
            message = _written(house, request, answer, head, keep_alive)
        else:
            if isinstance(answer.body, Arriving):
                answer = await _first_bytes(peer, transfer, request, answer, answer.body)
            message, outgoing = _written(house, request, answer, head, keep_alive), answer.body
        carried = is_carried(answer, response)
        await _send(peer, transfer, message, outgoing)
        complete = answer.status < 500 or carried
        if is_excessive:
            await _linger(peer, _EXCESS_LINGER_S, _EXCESS_LINGER_BYTES)
        elif not keep_alive:
            await _linger(peer)
        return keep_alive
    finally:
        if not isinstance(body, bytes):
            body.close()
        if response is not None and isinstance(response.onward, Splice):
            response.onward.close()  # nobody took it
        if response is not None and response.delivered is not None:
            response.delivered(transfer.sent if carried else 0, complete)


async def _read(house: House, peer: Peer, transfer: Transfer) -> tuple[Head, Request, bool]:
    """Read one request whole. Raises ``Malformed``.

    If its body is too large (True), the request comes without it: the handler may have more to say than that, and is asked first.
    """
    end = peer.unread.find(b"\r\n\r\n")
    if end < 0:
        check_beginning(peer.unread, house.limits)
        raise Malformed("the request's head is incomplete")
    head = parse_head(peer.unread[: end + 4], house.limits)
    standing = peer.hosts.standing(head, peer.address, peer.trusted)
    peer.unread = peer.unread[end + 4 :]
    body = b""
    is_excessive = head.length is not None and head.length > house.limits.body_bytes
    if head.length != 0 and not is_excessive:
        try:
            body = await _read_body(house, peer, head, transfer)
        except Malformed as error:
            if error.status != 413:
                raise
            is_excessive = True
    request = Request(
        method=head.method,
        target=head.target,
        headers=head.headers,
        base=standing.base,
        listed=standing.listed,
        client=standing.client,
        version=head.version,
        body=body,
        scope=house.scope(", ".join(head.values("authorization")) or None),
        face=standing.face,
        user=peer.user,
    )
    return head, request, is_excessive


async def _read_body(house: House, peer: Peer, head: Head, transfer: Transfer) -> bytes:
    limits = house.limits
    try:
        with trio.fail_after(limits.body_s):
            if head.expects and not peer.unread:
                await transfer.head(b"HTTP/1.1 100 Continue\r\n\r\n")
            if head.length is None:
                dechunker = Dechunker(limits.body_bytes)
                while not dechunker.feed(peer.unread):
                    with trio.fail_after(limits.body_pause_s):
                        peer.unread = await peer.receive()
                peer.unread = dechunker.rest
                return bytes(dechunker.body)
            received = bytearray(peer.unread)
            while len(received) < head.length:
                with trio.fail_after(limits.body_pause_s):
                    received += await peer.receive()
            peer.unread = bytes(received[head.length :])
            return bytes(received[: head.length])
    except trio.TooSlowError:
        raise Malformed("the request's body came too slowly", 408) from None


async def _first_bytes(peer: Peer, transfer: Transfer, request: Request, answer: Response, body: Arriving) -> Response:
    """The answer once its first bytes may leave, or the error that tells why none will; the client is watched meanwhile."""
    if may_begin(body):
        return answer

    async def wait() -> None:
        nonlocal answer
        answer = await begun(request, answer, body)

    await _attended(peer, transfer, wait)
    return answer


def _written(house: House, request: Request, answer: Response, head: Head, keep_alive: bool) -> bytes:
    """The answer's head."""
    if not keep_alive:
        connection = "close"
    else:
        connection = "keep-alive" if head.version == "1.0" else ""
    return write_head(answer, date=http_date(house.clock()), length=told_length(request, answer), connection=connection)


async def _send(peer: Peer, transfer: Transfer, message: bytes, body: Body) -> None:
    match body:
        case bytes() if len(body) <= _SMALL_BYTES:
            await transfer.small(message, body)
        case Arriving():
            await transfer.head(message)

            async def send() -> None:
                try:
                    await transfer.body(body)
                except (OSError, Stalled, Truncated):
                    raise
                except Exception as error:
                    raise Truncated(str(error)) from error

            # Nobody would notice a client that leaves while nothing arrives.
            await _attended(peer, transfer, send)
        case _:
            await transfer.head(message)
            await transfer.body(body)


def _cannot_shake_hands(peer: Peer) -> Malformed | None:
    """Why TLS cannot begin here, if it cannot: OpenSSL wants a socket, with everything that the client will say still in it."""
    if not isinstance(peer.wire, PlainWire):
        return Malformed("TLS cannot be intercepted inside TLS: set this proxy as http://", 501)
    if peer.unread:
        return Malformed("the client must wait for the answer to CONNECT")
    return None


async def refuse(house: House, peer: Peer, error: Malformed) -> None:
    """Tell a client that has said nothing of use yet, and let it read that. Raises ``OSError`` or ``Stalled``."""
    await _refuse(house, Transfer(peer.wire, house.limits, house.cold_reads), respond(error))
    await _linger(peer)


async def _refuse(house: House, transfer: Transfer, answer: Response) -> None:
    assert isinstance(answer.body, bytes)
    message = write_head(answer, date=http_date(house.clock()), length=len(answer.body), connection="close")
    await transfer.small(message, answer.body)


async def _attended(peer: Peer, transfer: Transfer, work: Callable[[], Awaitable[None]]) -> None:
    """Do ``work`` unless the client leaves meanwhile: then it is cancelled and ``Gone`` raised."""
    failure: Exception | None = None
    finished = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, peer, transfer, nursery.cancel_scope)
        try:
            await work()
            finished = True
        except Exception as error:  # noqa: BLE001 - raised again below, outside the nursery that would wrap it
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not finished:
        raise Gone


async def _watch(peer: Peer, transfer: Transfer, scope: trio.CancelScope) -> None:
    """Cancel ``scope`` when the client has left. What it pipelines is kept, up to a bound; beyond it, watching ends.

    A client that has finished sending may still wait for the answer (``nc -N`` does), and one that has closed altogether looks the same
    until something is sent to it. Either may wait for a while without any byte; a reset is seen at once.
    """
    try:
        while len(peer.unread) < _READ_BYTES:
            peer.unread += await peer.receive()
    except OSError:
        peer.gone = True
        scope.cancel()
    except Gone:
        peer.gone = True
        given, idle_since = transfer.given, trio.current_time()
        while trio.current_time() - idle_since < _HALF_CLOSED_S and not peer.wire.is_broken():
            await trio.sleep(_LOOK_S)
            # A reader that has bytes before it is alive, though slow; ``Stalled`` is for those.
            if transfer.given != given or not transfer.is_at_rest():
                given, idle_since = transfer.given, trio.current_time()
        scope.cancel()


async def _linger(peer: Peer, limit_s: float = _LINGER_S, limit_bytes: int = _LINGER_BYTES) -> None:
    """Let the client read the last answer: closing with its bytes unread would reset the connection under it."""
    peer.wire.finish()
    received = 0
    with trio.move_on_after(limit_s):
        try:
            while received < limit_bytes:
                received += len(await peer.receive())
        except (Gone, OSError):
            return
