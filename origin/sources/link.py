"""One node of ours, spoken to over HTTP/1.1: its pin, its connections, and when it was last heard.

Trust is the pin and nothing else: a node makes its own certificate, and who enrolled there knows the SHA-256 of its SubjectPublicKeyInfo.
That is compared after the handshake and before a byte of a request is sent. Where no pin is given, an ``https`` address is trusted as
any other server is.
"""

from __future__ import annotations

import hashlib
import math
import random
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpcore
import httpx
import trio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_der_x509_certificate

from ..api.wire import ROOT, VERDICTS
from ..metrics import Metrics
from ..model import Clock, Headers
from .answers import Answer, Trial, number, read_page
from .breaker import Breaker
from .connect import CheckedBackend, trust
from .failures import Failed, PinRefused, translate

CONNECT_S = 0.9
"""How long a connection and its handshake may take: what is asked after this node has as long again, within the two seconds of all."""

UNREACHABLE_S = 1.9
"""In which time all sources together must be found to be out of reach."""

IDLE_S = 60.0
"""How long an idle connection is kept."""

KEPT_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 4),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
"""A question for news waits where nothing moves. That its connection is gone, whose other end was told and not we, is noticed in 4 s; that
the network is, in 10 s.
"""

IDLE_CONNECTIONS = 32

STALL_S = 15.0
"""The longest pause within an answer."""


@dataclass(frozen=True, slots=True)
class Replied:
    """A whole answer, whatever its status."""

    status: int
    headers: Headers
    body: bytes


class Link:
    """The way to one node. ``authorization`` gives the field's value for each request, ``""`` for none; ``pin`` is 32 bytes.

    ``on_verdicts`` hears of every revision that an answer names. Raises ``ValueError`` for an address that is no URL of a server.
    """

    def __init__(
        self,
        url: str,
        pin: bytes | None,
        authorization: Callable[[], str],
        *,
        clock: Clock,
        metrics: Metrics,
        user_agent: str,
        deployment_id: str,
        connect_s: float = CONNECT_S,
        ca: Path | None = None,
    ) -> None:
        self.url = httpx.URL(url)
        if self.url.scheme not in {"http", "https"} or not self.url.host:
            raise ValueError(f"not an http:// or https:// URL with a host: {url[:200]!r}")
        if pin is not None and self.url.scheme != "https":
            raise ValueError(f"nothing can be pinned without TLS: {url[:200]!r}")
        self.clock = clock
        self.metrics = metrics
        self.connect_s = connect_s
        self.heard_at = -math.inf
        """When anything last came from there, on trio's clock."""
        self.on_verdicts: Callable[[int], None] = _nobody
        self.on_heard: Callable[[], None] = _nobody
        self._authorization = authorization
        self._identity = (
            ("Host", self.url.netloc.decode("ascii")),
            ("User-Agent", user_agent),
            ("Via", "1.1 leeward"),
            ("CDN-Loop", f"leeward; id={deployment_id}"),
        )
        backend: httpcore.AsyncNetworkBackend = CheckedBackend(self.url.host, None)
        if pin is None:
            context = trust(ca)
        else:
            # Whose key it is says the pin.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            backend = _PinnedBackend(backend, pin)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=None,
            max_keepalive_connections=IDLE_CONNECTIONS,
            keepalive_expiry=IDLE_S,
            network_backend=backend,
            socket_options=KEPT_ALIVE,
        )
        # Whether somebody is there, a connection that was made before does not tell.
        self._fresh = httpcore.AsyncConnectionPool(
            ssl_context=context, max_connections=None, max_keepalive_connections=0, network_backend=backend
        )

    def __repr__(self) -> str:
        return f"<Link to {self.url}>"

    @property
    def host(self) -> str:
        return self.url.netloc.decode("ascii")

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Headers = (), *, timeout_s: float, limit_bytes: int
    ) -> Replied:
        """Ask, and read the whole answer. ``path`` begins with a slash; ``timeout_s`` bounds everything.

        Raises ``Unavailable`` (or ``Corrupt``, for what is no HTTP or longer than ``limit_bytes``) if there is no answer.
        """
        fields = (*headers, ("Accept-Encoding", "gzip"))
        try:
            with trio.move_on_after(timeout_s):
                answer = await self.ask(method, path, fields, body, spare_trial(), patience_s=timeout_s, stall_s=timeout_s)
                async with answer:
                    return Replied(answer.status, answer.headers, await read_page(answer, limit_bytes, timeout_s))
            raise Failed("slow-first-byte", f"{self.host} has not answered")
        except Failed as failed:
            raise failed.error() from failed.__cause__

    async def knock(self) -> bool:
        """Whether anybody answers on a connection made for this. Callers bound the wait."""
        try:
            answer = await self.ask("GET", f"{ROOT}ping", (), b"", spare_trial(), pool=self._fresh)
            await answer.aclose()
        except Failed:
            return False
        return True

    async def ask(
        self,
        method: str,
        path: str,
        fields: Iterable[tuple[str, str]],
        body: bytes,
        trial: Trial,
        *,
        patience_s: float = STALL_S,
        stall_s: float = STALL_S,
        pool: httpcore.AsyncConnectionPool | None = None,
    ) -> Answer:
        """Send a request and wait for the answer's head, as long as the caller lets it. Raises ``Failed``.

        A request that may be repeated is, once, if the connection was closed before there was an answer: it was an old one.
        """
        for may_repeat in (method in {"GET", "HEAD"}, False):
            try:
                return await self._ask(method, path, fields, body, trial, patience_s, stall_s, pool or self._pool)
            except Failed as failed:
                if not may_repeat or failed.failure.label != "reset":
                    raise
        raise AssertionError("unreachable")

    async def _ask(
        self,
        method: str,
        path: str,
        fields: Iterable[tuple[str, str]],
        body: bytes,
        trial: Trial,
        patience_s: float,
        stall_s: float,
        pool: httpcore.AsyncConnectionPool,
    ) -> Answer:
        started = trio.current_time()
        scope = trio.CancelScope(deadline=started + self.connect_s)

        async def follow(event: str, info: Mapping[str, object]) -> None:
            # The time to connect is over once the request goes out.
            if event == "http11.send_request_headers.started":
                scope.deadline = math.inf

        request = self._request(method, path, fields, body, follow)
        try:
            with scope:
                response = await pool.handle_async_request(request)
                answer = Answer(
                    response,
                    self.url,
                    trial,
                    self.metrics.received_bytes,
                    is_head=method == "HEAD",
                    stall_s=stall_s,
                    patience_s=patience_s,
                    sent_at=started,
                )
                self._heard(answer)
                return answer
        except Exception as raised:
            raise translate(raised, self.host, answered=False) from raised
        raise Failed("connect", f"no connection to {self.host} in time")

    def _heard(self, answer: Answer) -> None:
        self.heard_at = trio.current_time()
        self.on_heard()
        revision = number(answer.field(VERDICTS))
        if revision is not None:
            self.on_verdicts(revision)

    def _request(self, method: str, path: str, fields: Iterable[tuple[str, str]], body: bytes, trace: object) -> httpcore.Request:
        headers = [*self._identity, *fields]
        authorization = self._authorization()
        if authorization:
            headers.append(("Authorization", authorization))
        if body or method == "POST":
            headers.append(("Content-Length", str(len(body))))
        return httpcore.Request(
            method,
            httpcore.URL(
                scheme=self.url.raw_scheme,
                host=self.url.raw_host,
                port=self.url.port,
                target=self.url.raw_path.rstrip(b"/") + path.encode("ascii"),
            ),
            headers=[(name.encode("ascii"), value.encode("latin-1")) for name, value in headers],
            content=body or None,
            extensions={"trace": trace},
        )

    async def aclose(self) -> None:
        """Close the idle connections. Transfers still running break."""
        # Bounded by 2 s; closing a socket does not wait for the other side.
        with trio.move_on_after(2, shield=True):
            await self._pool.aclose()
            await self._fresh.aclose()


def connect_share_s(nodes: int, *, direct: bool) -> float:
    """How long each of so many nodes may be connected to, where the registries are asked after them (``direct``) or nobody is."""
    return min(CONNECT_S, (UNREACHABLE_S - CONNECT_S * direct) / max(1, nodes))


def pin_of(certificate: bytes) -> bytes:
    """The SHA-256 of the SubjectPublicKeyInfo in a certificate (DER). Raises ``ValueError`` for what is none."""
    key = load_der_x509_certificate(certificate).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def spare_trial() -> Trial:
    """A trial that nobody learns from."""
    breaker = Breaker(random.Random(0))  # noqa: S311 -- it never opens
    permit = breaker.admit(trio.current_time())
    assert permit is not None, "a new breaker is closed"
    return Trial(breaker, permit)


def _nobody(*_: object) -> None:
    """Nobody wants to hear."""


class _PinnedBackend(httpcore.AsyncNetworkBackend):
    """Connections on which TLS shows the pinned key, or which are none."""

    def __init__(self, backend: httpcore.AsyncNetworkBackend, pin: bytes) -> None:
        assert len(pin) == 32, "a pin is a SHA-256"
        self._backend = backend
        self._pin = pin

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return _PinnedStream(
            await self._backend.connect_tcp(host, port, timeout, local_address, socket_options), self._pin, is_secure=False
        )

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise httpcore.ConnectError("is no network address")

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


class _PinnedStream(httpcore.AsyncNetworkStream):
    """A connection that carries nothing until its key was seen."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, pin: bytes, *, is_secure: bool) -> None:
        self._stream = stream
        self._pin = pin
        self._is_secure = is_secure

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        assert self._is_secure, "nothing is sent before the pin was checked"
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        stream = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        certificate = stream.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if certificate is None or pin_of(certificate) != self._pin:
            await stream.aclose()
            raise PinRefused("is not the node that was enrolled with: its key is another one")
        return _PinnedStream(stream, self._pin, is_secure=True)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
