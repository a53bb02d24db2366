"""Connections that clients of the proxy face ask for: which may be made, and how, directly or through another proxy.

Whoever may use a proxy may ask it for anything, so it must not become a way into the networks that it stands in. Only public
addresses may be reached, and the networks that the operator has listed; how a host is spelled does not matter (``addresses.py``).
"""

from __future__ import annotations

import base64
import errno
import ipaddress
import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import trio

from ..errors import Unavailable
from ..model import Headers
from .addresses import METADATA, WEB_PORTS, Address, Lookups, literal, network_of, parsed, race, unwrapped
from .connect import trust
from .failures import NameFailure

type IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
type Connected = trio.SocketStream | trio.SSLStream[trio.SocketStream]

RETRY_S = 5
_HEAD_BYTES = 16 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r]")
_LINK_LOCAL = (ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("fe80::/10"))
_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
_KINDS = {
    "private": "a private address",
    "loopback": "an address of this machine itself",
    "metadata": "a link-local address or one that tells cloud machines their credentials",
}


class OffLimits(Exception):
    """What was asked for may not be reached through here. The message is the sentence for the client."""


class Astray(Exception):
    """There is no such host, or the next proxy does not lead there. The message is the sentence for the client."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Where tunnels may lead: public addresses, those in ``allow``, and of the ports below 1024 those in ``ports``."""

    allow: tuple[IPNetwork, ...] = ()
    ports: frozenset[int] = WEB_PORTS

    def check_port(self, port: int) -> None:
        """Raises ``OffLimits``."""
        if port < 1024 and port not in self.ports:
            raise OffLimits(f"tunnels to port {port} are not made here; [proxy] ports can list it")

    def check(self, host: str, address: Address) -> None:
        """Refuse ``address``, which ``host`` spells or resolves to. Raises ``OffLimits``.

        A network that is allowed opens no more than it names: of link-local addresses only what is listed as such, and of those where
        clouds keep credentials only one listed by itself.
        """
        address = unwrapped(address)
        kind = network_of(address)
        if kind == "public" or any(_opens(network, address) for network in self.allow):
            return
        raise OffLimits(f"{host} is at {_KINDS[kind]}, which is not reached through here; [proxy] allow can list its network")


def _opens(network: IPNetwork, address: Address) -> bool:
    if address not in network:
        return False
    if address in METADATA:
        return network.num_addresses == 1
    return not address.is_link_local or any(
        local.version == network.version and network.subnet_of(local)  # type: ignore[arg-type]  # of one version, as just said
        for local in _LINK_LOCAL
    )


@dataclass(frozen=True, slots=True)
class NextProxy:
    """The proxy that upstreams are reached by. ``authorization`` is a field value, ``""`` for none; ``context`` is for ``https://``."""

    host: str
    port: int
    authorization: str = ""
    context: ssl.SSLContext | None = None

    @classmethod
    def at(cls, url: str, ca: Path | None) -> NextProxy:
        """Read the setting. Raises ``ValueError``."""
        parts = httpx.URL(url)
        if parts.scheme not in {"http", "https"} or not parts.host:
            raise ValueError("upstream.proxy: not an http:// or https:// URL with a host")
        authorization = ""
        if parts.username:
            authorization = "Basic " + base64.b64encode(f"{parts.username}:{parts.password}".encode()).decode()
        secure = parts.scheme == "https"
        return cls(parts.host, parts.port or (443 if secure else 80), authorization, trust(ca) if secure else None)

    def __repr__(self) -> str:
        return f"NextProxy({self.host}:{self.port})"


@dataclass(slots=True)
class Dialled:
    """A connection that was made. ``greeting`` is what came from the other side already. ``host`` is as it is to be written on the way.

    ``proxy`` is set if who is connected is the next proxy, which has not been told yet where to.
    """

    stream: Connected
    host: str
    greeting: bytes = b""
    proxy: NextProxy | None = None


class Dialler:
    """Makes connections within ``reach``. ``is_own`` tells whether an address and port are our own listener's."""

    def __init__(
        self,
        reach: Reach,
        *,
        connect_s: float = 1.9,
        answer_s: float = 9.8,
        is_own: Callable[[Address, int], bool] = lambda address, port: False,
        proxy: NextProxy | None = None,
    ) -> None:
        self._reach = reach
        self._connect_s = connect_s
        self._answer_s = answer_s
        self._is_own = is_own
        self._proxy = proxy
        self._lookups = Lookups()

    async def tunnel(self, host: str, port: int, fields: Headers = ()) -> Dialled:
        """Connect to ``host``, which is a name or any spelling of an address, through the next proxy if there is one.

        ``fields`` tell a next proxy who has been passed on the way.
        Raises ``OffLimits``, ``Astray`` or ``Unavailable``, each with a sentence for the client.
        """
        dialled = await self.approach(host, port)
        if dialled.proxy is None:
            return dialled
        try:
            dialled.greeting = await self._ask(dialled.stream, f"{dialled.host}:{port}", dialled.proxy, fields)
        except BaseException:
            await trio.aclose_forcefully(dialled.stream)
            raise
        dialled.proxy = None
        return dialled

    async def approach(self, host: str, port: int) -> Dialled:
        """As ``tunnel``, but a next proxy is connected to and told nothing: plain HTTP is asked of it by absolute URLs."""
        self._reach.check_port(port)
        address = literal(host)
        if address is not None:
            self._check(host, address, port)
        shown = host if address is None else f"[{address}]" if address.version == 6 else str(address)
        if self._proxy is not None:
            # Names are the next proxy's to resolve, and to judge.
            stream = await self._connect(
                self._proxy.host, self._proxy.port, await self._found(self._proxy.host, self._proxy.port)
            )
            return Dialled(await self._secured(stream, self._proxy), shown, proxy=self._proxy)
        if address is not None:
            return Dialled(await self._connect(host, port, [str(address)]), shown)
        found = await self._found(host, port)
        for text in found:
            self._check(host, parsed(text), port)
        return Dialled(await self._connect(host, port, found), shown)

    def _check(self, host: str, address: Address, port: int) -> None:
        self._reach.check(host, address)
        if self._is_own(unwrapped(address), port):
            raise OffLimits(f"{host}:{port} is this edge itself")

    async def _found(self, host: str, port: int) -> list[str]:
        try:
            with trio.fail_after(self._connect_s):
                return await self._lookups.resolve(host, port)
        except trio.TooSlowError:
            raise Unavailable(f"the name {host} was not resolved in time", RETRY_S) from None
        except NameFailure as error:
            cause = error.__cause__
            if isinstance(cause, UnicodeError) or (isinstance(cause, OSError) and cause.errno in _NO_SUCH_NAME):
                raise Astray(f"there is no host named {host}") from None
            raise Unavailable(f"the name {host} cannot be resolved now", RETRY_S) from None

    async def _connect(self, host: str, port: int, addresses: list[str]) -> trio.SocketStream:
        """Dial these addresses, and no others: the name is not looked up again."""
        try:
            with trio.fail_after(self._connect_s):
                return await race(addresses, lambda address: _dial(address, port), trio.aclose_forcefully, (OSError,))
        except trio.TooSlowError:
            raise Unavailable(f"{host}:{port} does not answer", RETRY_S) from None
        except OSError as error:
            reason = "refuses connections" if error.errno == errno.ECONNREFUSED else f"cannot be reached: {error.strerror}"
            raise Unavailable(f"{host}:{port} {reason}", RETRY_S) from None

    async def _secured(self, stream: trio.SocketStream, proxy: NextProxy) -> Connected:
        if proxy.context is None:
            return stream
        secure = trio.SSLStream(stream, proxy.context, server_hostname=proxy.host, https_compatible=True)
        try:
            with trio.fail_after(self._answer_s):
                await secure.do_handshake()
        except BaseException as error:
            await trio.aclose_forcefully(stream)
            if isinstance(error, trio.BrokenResourceError | trio.TooSlowError):
                raise Unavailable(f"no secure connection to the next proxy: {error.__cause__ or 'it does not answer'}") from None
            raise
        return secure

    async def _ask(self, stream: Connected, where: str, proxy: NextProxy, passed: Headers) -> bytes:
        """Have the next proxy make a tunnel; what came behind its answer. The stream is the caller's to close."""
        fields = [("Host", where), *passed]
        if proxy.authorization:
            fields.append(("Proxy-Authorization", proxy.authorization))
        lines = [f"CONNECT {where} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
        received = b""
        try:
            with trio.fail_after(self._answer_s):
                await stream.send_all("\r\n".join(lines).encode("latin-1"))
                while b"\r\n\r\n" not in received and len(received) < _HEAD_BYTES:
                    piece = await stream.receive_some(_HEAD_BYTES)
                    if not piece:
                        break
                    received += piece
        except trio.TooSlowError:
            raise Unavailable("the next proxy does not answer", RETRY_S) from None
        except trio.BrokenResourceError:
            raise Unavailable("the next proxy closed the connection", RETRY_S) from None
        head, end, rest = received.partition(b"\r\n\r\n")
        status = _STATUS.match(head + b"\r")
        if not end or status is None:
            raise Astray("the next proxy's answer makes no sense")
        if not status[1].startswith(b"2"):
            told = f"the next proxy answered {status[1].decode()} for {where}"
            if status[1] in (b"429", b"503", b"504"):
                raise Unavailable(told, RETRY_S)
            raise Astray(told)
        return rest


async def _dial(address: str, port: int) -> trio.SocketStream:
    made = trio.socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        await made.connect((address, port))
    except BaseException:
        made.close()
        raise
    return trio.SocketStream(made)


def is_local(address: Address) -> bool:
    """Whether this machine has the address: then a socket can be bound to it. Nothing is sent."""
    with socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True
