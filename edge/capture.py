"""The addon with which mitmproxy hands captured connections to the edge. Only mitmproxy's own interpreter loads it.

``capturing.py`` starts mitmproxy with this file and talks to it in lines of JSON: what to do on its standard input, what happened on
descriptor ``tell``. When standard input ends, so does mitmproxy: it never outlives whoever started it.

Nothing is decrypted here. The first bytes of a connection say which host it is for (a TLS ClientHello, or the head of a plain HTTP
request). One for a registry goes to the edge as to a proxy, behind ``CONNECT``, so that the edge's own constrained certificate is what
the client sees; every other goes to where it was going, byte for byte. If the edge does not answer, a registry's connection is closed:
none ever goes past it.

This file stands alone: mitmproxy pins old libraries, so it has an environment of its own, in which there is nothing of ours.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Generator
from dataclasses import make_dataclass
from typing import Any, NamedTuple

from mitmproxy import connection, ctx
from mitmproxy.proxy import commands, events, layer, layers
from mitmproxy.proxy.layers import modes
from mitmproxy.proxy.layers.quic import quic_parse_client_hello_from_datagrams
from mitmproxy.proxy.layers.tls import parse_client_hello

HEAD_LIMIT_BYTES = 64 << 10
"""How much of a connection is looked at: a ClientHello with post-quantum keys has some 2 KB, a request's head at most this."""

ANSWER_LIMIT_BYTES = 16 << 10

SILENCE_S = 0.5
"""A client that says nothing for so long may be waiting for the server's greeting (SSH, SMTP), so the server is let speak."""

CLIENT_SPEAKS_FIRST = (80, 443)
"""Ports without a greeting: the original destination is not dialled before the client has said whom it wants."""

QUIC_DATAGRAMS = 4
"""A QUIC ClientHello may take several datagrams; after so many the rest is no longer looked at."""

ANSWER_S = 5.0
"""How long a connection to a host that nothing is known about waits for word whether it is a registry's by now."""

TOLD_AGAIN_S = 5.0
"""How often, at most, the same trouble with one host is told."""

CLIENT_HELLO = 1
"""The type of that handshake message (RFC 8446 §4), which is the first in its record."""

METHOD = re.compile(rb"[A-Z]{1,20}")
REQUEST = re.compile(rb"[A-Z]{1,20} ")
REQUEST_LINE = re.compile(rb"([A-Z]{1,20}) (\S+) HTTP/1\.[01]")
AUTHORITY = re.compile(r"([A-Za-z0-9._-]{1,255})(:[0-9]{1,5})?")


class Orders:
    """What ``capturing.py`` wants: ``hosts`` (lower case) go to ``edge``; with ``ports``, nothing but these is accepted.

    ``authorization`` is the value of a Proxy-Authorization field, or empty. ``tell`` is a descriptor to write to. With ``asks`` there is
    somebody to ask for the hosts of this moment.
    """

    def __init__(self) -> None:
        self.edge: tuple[str, int] = ("127.0.0.1", 0)
        self.authorization = ""
        self.hosts: frozenset[str] = frozenset()
        self.ports: frozenset[int] | None = None
        self.tell = -1
        self.asks = False
        self._told: dict[tuple[str, str], float] = {}

    def follow(self, line: bytes) -> dict[str, Any]:
        """Take over what one line says, and return all of it."""
        said: dict[str, Any] = json.loads(line)
        if "edge" in said:
            host, port = said["edge"]
            self.edge = (str(host), int(port))
        if "hosts" in said:
            self.hosts = frozenset(map(plain, said["hosts"]))
        if "ports" in said:
            self.ports = None if said["ports"] is None else frozenset(said["ports"])
        self.authorization = said.get("authorization", self.authorization)
        self.tell = said.get("tell", self.tell)
        self.asks = said.get("asks", self.asks)
        return said

    def report(self, what: str, **values: object) -> None:
        """Tell ``capturing.py``. One that no longer listens is about to end this process anyway."""
        line = json.dumps({"what": what, **values}).encode() + b"\n"
        try:
            os.write(self.tell, line)
        except OSError:
            return

    def trouble(self, host: str, text: str) -> None:
        """Tell of a connection that was refused, but not of every one in a crowd of the same."""
        now = time.monotonic()
        last = self._told.get((host, text))
        if last is None or now - last >= TOLD_AGAIN_S:
            if len(self._told) > 1000:
                self._told.clear()
            self._told[host, text] = now
            self.report("trouble", host=host, text=text)


ORDERS = Orders()

AskHook: Any = make_dataclass("LeewardAskHook", [("hosts", frozenset)], bases=(commands.StartHook,), eq=False)
"""Has the connection wait for ``Capture.leeward_ask``. (A class with annotations of its own cannot be made in a script of mitmproxy's.)"""

type Steps = Generator[Any, Any]
"""What a layer does: commands out, and what became of them in."""


# ---- what a connection is for -----------------------------------------------------------------------------------------


class Secure(NamedTuple):
    """A TLS ClientHello for ``host``."""

    host: str


class Plain(NamedTuple):
    """A plain HTTP request for ``host``: ``head`` is what to send to a proxy instead of the first ``length`` bytes."""

    host: str
    head: bytes
    length: int


class Muddled(NamedTuple):
    """A plain HTTP request that names these hosts and is not for sending on: several of them, or a target that is none."""

    hosts: frozenset[str]


class Other:
    """Neither, or for no host that could be told. What is meant for another proxy counts as such: somebody has set it."""


class Unfinished:
    """More bytes are needed. ``sure``: they begin one of the two without a doubt."""

    def __init__(self, sure: bool) -> None:
        self.sure = sure


def plain(host: str) -> str:
    """A host name as it is compared."""
    return host.lower().removesuffix(".")


def aim(data: bytes) -> Secure | Plain | Muddled | Other | Unfinished:
    """Say from its first bytes whom a client wants to speak to. Never raises."""
    if not data:
        return Unfinished(sure=False)
    if b"\x16\x03".startswith(data[:2]):
        # RFC 8446 §5.1: a handshake record, of a version that begins with 3.
        return _tls(data)
    if found := METHOD.match(data):
        if REQUEST.match(data):
            return _http(data)
        if found.end() == len(data):
            return Unfinished(sure=False)
    return Other()


def _tls(data: bytes) -> Secure | Other | Unfinished:
    if len(data) < 6:
        return Unfinished(sure=False)
    if data[5] != CLIENT_HELLO:
        return Other()
    try:
        hello = parse_client_hello(data)
        host = hello.sni if hello is not None else None
    except Exception:  # noqa: BLE001  # mitmproxy's generated parser has errors of many kinds, and what it cannot read is no hello
        return Other()
    if hello is None:
        return Unfinished(sure=True) if len(data) < HEAD_LIMIT_BYTES else Other()
    return Secure(plain(host)) if host else Other()


def _http(data: bytes) -> Plain | Muddled | Other | Unfinished:
    end = data.find(b"\r\n\r\n")
    if end < 0 and len(data) < HEAD_LIMIT_BYTES:
        return Unfinished(sure=True)
    first, *fields = data[:end].split(b"\r\n")
    line = REQUEST_LINE.fullmatch(first)
    named = [AUTHORITY.fullmatch(value.decode("latin-1")) for name, value in map(_field, fields) if name == b"host"]
    hosts = frozenset(plain(authority[1]) for authority in named if authority is not None)
    if line is not None and (line[1] == b"CONNECT" or b"://" in line[2].partition(b"?")[0]):
        return Other()
    if end < 0 or line is None or len(named) != 1 or named[0] is None or not line[2].startswith(b"/"):
        return Muddled(hosts)
    method, target, authority = line[1], line[2], named[0]
    # One request to a connection: the edge would take the next one, in origin form, for one to its own mirror.
    kept = [line for line in fields if _field(line)[0] not in {b"connection", b"keep-alive", b"proxy-connection", b"upgrade"}]
    head = b"%b http://%b%b HTTP/1.1\r\n" % (method, authority[0].encode(), target)
    head += b"".join(line + b"\r\n" for line in [*kept, b"Connection: close"])
    return Plain(plain(authority[1]), head, end + 4)


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.lower(), value.strip(b" \t")


def quic_host(datagrams: list[bytes]) -> str | None:
    """The host that a QUIC ClientHello names, "" for none, None if more is needed."""
    try:
        hello = quic_parse_client_hello_from_datagrams(datagrams)
    except ValueError:
        return ""
    return None if hello is None else plain(hello.sni or "")


# ---- a connection -----------------------------------------------------------------------------------------------------


class Captured(layer.Layer):
    """One captured connection, from its first byte: mitmproxy's own choice of what to make of it is never asked."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._held = b""
        self._datagrams: list[bytes] = []
        self._answer = b""
        self._host = ""
        self._dialled = False
        self._child: Any = None
        self._step: Any = self._deciding

    def _handle_event(self, event: Any) -> Steps:
        yield from self._step(event)

    # -- before it is known whom the client wants

    def _deciding(self, event: Any) -> Steps:
        address = self.context.server.address[:2]
        udp = self.context.client.transport_protocol == "udp"
        if isinstance(event, events.Start):
            if ORDERS.ports is not None and address[1] not in ORDERS.ports:
                # Nothing sends such a connection here: somebody dialled our own listener, and handing it on would run in a circle.
                yield from self._close()
            elif address == ORDERS.edge:
                yield from self._pass_on()
            elif not udp and address[1] not in CLIENT_SPEAKS_FIRST:
                yield commands.RequestWakeup(SILENCE_S)
        elif isinstance(event, events.Wakeup):
            yield from self._let_the_server_speak()
        elif isinstance(event, events.DataReceived) and event.connection is self.context.client:
            if udp:
                yield from self._judge_datagram(event.data)
            else:
                self._held += event.data
                yield from self._judge()
        elif isinstance(event, events.DataReceived):
            # A greeting: neither TLS nor HTTP begins with one.
            yield from self._pass_on(event)
        elif isinstance(event, events.ConnectionClosed):
            if self._held and event.connection is self.context.client:
                yield from self._pass_on(event)
            else:
                yield from self._close()

    def _judge(self) -> Steps:
        found = aim(self._held)
        match found:
            case Unfinished():
                return
            case Secure(host) | Plain(host):
                yield from self._learn(frozenset({host}))
            case Muddled(hosts):
                yield from self._learn(hosts)
        match found:
            case Secure(host) | Plain(host) if host in ORDERS.hosts:
                self._host = host
                yield from self._to_the_edge(found)
            case Muddled(hosts) if hosts & ORDERS.hosts:
                self._host = min(hosts & ORDERS.hosts)
                yield from self._fail("it is no HTTP request that could be sent on")
            case _:
                yield from self._pass_on()

    def _learn(self, hosts: frozenset[str]) -> Steps:
        """A page that a client has just read may have named a host that files are at, and nobody has said so here yet."""
        if ORDERS.asks and hosts and not hosts & ORDERS.hosts:
            yield AskHook(hosts)

    def _judge_datagram(self, data: bytes) -> Steps:
        self._datagrams.append(data)
        host = quic_host(self._datagrams) if self.context.server.address[1] == 443 else ""
        if host is None and len(self._datagrams) < QUIC_DATAGRAMS:
            return
        if host:
            yield from self._learn(frozenset({host}))
        if host in ORDERS.hosts:
            # The edge does not speak HTTP/3. Without an answer the client goes on over TCP, and comes to the edge.
            yield from self._close()
            return
        yield from self._pass_on()

    def _let_the_server_speak(self) -> Steps:
        found = aim(self._held)
        if self._held and not (isinstance(found, Unfinished) and found.sure):
            yield from self._pass_on()
            return
        if error := (yield commands.OpenConnection(self.context.server)):
            self._note(error)
            yield from self._close()
        else:
            self._dialled = True

    # -- to where it was going

    def _pass_on(self, *more: Any) -> Steps:
        if not self._dialled and (error := (yield commands.OpenConnection(self.context.server))):
            self._note(error)
            yield from self._close()
            return
        if self.context.client.transport_protocol == "udp":
            self._child = layers.UDPLayer(self.context, ignore=True)
            held = [events.DataReceived(self.context.client, datagram) for datagram in self._datagrams]
        else:
            self._child = layers.TCPLayer(self.context, ignore=True)
            held = [events.DataReceived(self.context.client, self._held)] if self._held else []
        self._held = b""
        self._datagrams = []
        yield from self._relay([events.Start(), *held, *more])

    def _note(self, error: str) -> None:
        ORDERS.trouble(str(self.context.server.address[0]), f"not reached: {error}")

    # -- to the edge

    def _to_the_edge(self, found: Secure | Plain) -> Steps:
        port = self.context.server.address[1]
        if self._dialled:
            yield commands.CloseConnection(self.context.server)
        self.context.server = connection.Server(address=ORDERS.edge)
        if error := (yield commands.OpenConnection(self.context.server)):
            yield from self._fail(f"the edge at {_address(ORDERS.edge)} cannot be reached ({error})")
            return
        proof = f"Proxy-Authorization: {ORDERS.authorization}\r\n".encode() if ORDERS.authorization else b""
        if isinstance(found, Plain):
            yield commands.SendData(self.context.server, found.head + proof + b"\r\n")
            self._held = self._held[found.length :]
            yield from self._joined(b"")
            return
        to = f"{self._host}:{port}"
        yield commands.SendData(self.context.server, f"CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n".encode() + proof + b"\r\n")
        self._step = self._asking

    def _asking(self, event: Any) -> Steps:
        """Until the edge has answered ``CONNECT``. What the client says in the meantime is held."""
        connection = getattr(event, "connection", None)
        if isinstance(event, events.DataReceived) and connection is self.context.client:
            self._held += event.data
        elif isinstance(event, events.DataReceived) and connection is self.context.server:
            self._answer += event.data
            head, found, rest = self._answer.partition(b"\r\n\r\n")
            if found:
                status = head.split(b"\r\n", 1)[0]
                if re.match(rb"HTTP/1\.[01] 2\d\d\b", status):
                    yield from self._joined(rest)
                else:
                    told = status.decode("latin-1")[:200]
                    yield from self._fail(f"the edge at {_address(ORDERS.edge)} refused it: {told}")
            elif len(self._answer) > ANSWER_LIMIT_BYTES:
                yield from self._fail(f"what listens at {_address(ORDERS.edge)} is no edge")
        elif isinstance(event, events.ConnectionClosed) and connection is self.context.client:
            yield from self._close()
        elif isinstance(event, events.ConnectionClosed) and connection is self.context.server:
            yield from self._fail(f"the edge at {_address(ORDERS.edge)} closed the connection")

    def _joined(self, rest: bytes) -> Steps:
        ORDERS.report("handed", host=self._host)
        self._child = layers.TCPLayer(self.context, ignore=True)
        held, self._held = self._held, b""
        said = [events.DataReceived(self.context.client, held)] if held else []
        heard = [events.DataReceived(self.context.server, rest)] if rest else []
        yield from self._relay([events.Start(), *said, *heard])

    def _fail(self, text: str) -> Steps:
        ORDERS.trouble(self._host, text)
        yield from self._close()

    # -- the rest of its life

    def _relay(self, first: list[Any]) -> Steps:
        self._step = self._relaying
        for event in first:
            yield from self._child.handle_event(event)

    def _relaying(self, event: Any) -> Steps:
        # The original destination, dialled before it was known that the edge is wanted, may still tell of its end.
        if isinstance(event, events.Wakeup):
            return
        if isinstance(event, events.ConnectionEvent) and event.connection not in (self.context.client, self.context.server):
            return
        yield from self._child.handle_event(event)

    def _close(self) -> Steps:
        self._step = self._ended
        for one in (self.context.server, self.context.client):
            if one.state is not connection.ConnectionState.CLOSED:
                yield commands.CloseConnection(one)

    def _ended(self, _: Any) -> Steps:
        yield from ()


def _address(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# ---- the addon --------------------------------------------------------------------------------------------------------


class Capture:
    """Puts ``Captured`` in place, and follows the orders that come in."""

    def __init__(self) -> None:
        self._heard = b""
        self._asked = 0
        self._waiting: dict[int, asyncio.Future[None]] = {}

    def load(self, _: Any) -> None:
        """Read the first line of orders before anything is listened on."""
        # A byte at a time: what follows the line is for _hear().
        line = bytearray()
        while not line.endswith(b"\n") and (byte := os.read(sys.stdin.fileno(), 1)):
            line += byte
        ORDERS.follow(bytes(line))
        os.set_blocking(ORDERS.tell, False)
        # Not pretty, and the one way in: the modes make their outermost layer by this name. What mitmproxy would choose itself dials the
        # original destination first, waits for ever for clients that wait for a greeting, and may decrypt.
        modes.TransparentProxy = Captured

    def running(self) -> None:
        """Everything listens: say so, and hear further orders."""
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), self._hear)
        ORDERS.report("ready")

    def next_layer(self, asked: layer.NextLayer) -> None:
        """Never asked for as long as ``Captured`` is in place. Should that ever change, nothing goes through rather than past the edge."""
        ORDERS.report("failed", text="this mitmproxy does not let the addon decide about connections")
        asked.layer = Refused(asked.context)

    async def leeward_ask(self, hosts: frozenset[str]) -> None:
        """Say which hosts a connection may be for, and wait until all that are registries' are told anew.

        Without an answer the last that was told stands.
        """
        self._asked += 1
        number = self._asked
        answered = self._waiting[number] = asyncio.get_running_loop().create_future()
        ORDERS.report("ask", number=number, hosts=sorted(hosts))
        try:
            async with asyncio.timeout(ANSWER_S):
                await answered
        except TimeoutError:
            ORDERS.trouble("", "nobody said which hosts are registries'")
        finally:
            self._waiting.pop(number, None)

    def _hear(self) -> None:
        piece = os.read(sys.stdin.fileno(), 65536)
        if not piece:
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            ctx.master.shutdown()
            return
        *lines, self._heard = (self._heard + piece).split(b"\n")
        for line in lines:
            said = ORDERS.follow(line)
            for number, answered in self._waiting.items():
                if number <= said.get("answers", 0) and not answered.done():
                    answered.set_result(None)
            if "mode" in said:
                ctx.options.update(mode=[said["mode"]])


class Refused(layer.Layer):
    """Closes whatever it is put before."""

    def _handle_event(self, event: Any) -> Steps:
        if isinstance(event, events.Start):
            yield commands.CloseConnection(self.context.client)


addons = [Capture()]
