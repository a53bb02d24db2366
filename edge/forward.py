"""The proxy face: requests in absolute form, ``CONNECT``, and what is asked inside an intercepted tunnel.

A registry's host is stood in for: what is asked of it is answered as the mirror face would, from the same store and by the same rules,
only with links as published. Nothing of such a host is ever passed through, on whatever port or path: that would be a way past the rules.
Any other host is tunnelled, or a plain request forwarded to it, unread and unkept, where the operator lets that be.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from ssl import SSLContext
from typing import Protocol
from urllib.parse import urlsplit

import trio

from origin.errors import NotFound
from origin.http import Intercept, Request, Response, Splice
from origin.http.problems import problem
from origin.metrics import Metrics
from origin.model import Headers, Listing
from origin.registries import Registry
from origin.sources.addresses import literal, unwrapped
from origin.sources.tunnels import Astray, Dialled, Dialler, OffLimits

from .hosts import Meant
from .mirror import About, Mirror, Offer

log = logging.getLogger("leeward.forward")

LEARNING_S = 10.0
"""How long a ``CONNECT`` to a host that nothing is known about waits until the registries' file hosts are learnt."""

# "CONNECT uses a special form of request target, unique to this method, consisting of only the host and port number of the tunnel
# destination, separated by a colon" (RFC 9110 §9.3.6).
_TUNNEL = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9.])?|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})")
_ABSOLUTE = re.compile(r"(https?)://[^/?]+(/?[^?]*)(\?.*)?", re.IGNORECASE)
_HOP_BY_HOP = frozenset(
    "connection content-length expect host keep-alive max-forwards te trailer transfer-encoding upgrade http2-settings".split()
)
"""Fields of a request that end here, or that we write ourselves. Source: RFC 9110 §7.6.1. Those named ``Proxy-…`` do too."""


class Table(Protocol):
    """What is asked of ``hosts.Hosts``."""

    def names(self) -> frozenset[str]: ...

    def recognise(self, host: str) -> bool: ...

    def meanings(self, host: str, target: str) -> Sequence[Meant]: ...

    def doubt(self, host: str) -> str: ...

    def saw(self, instance: str, listing: Listing) -> None: ...

    async def wait_learnt(self) -> None: ...


class Certificates(Protocol):
    """What is asked of ``intercept.Interception``."""

    async def context(self, host: str) -> SSLContext: ...


class Users:
    """Who may use the proxy face; everybody, if nobody is named."""

    def __init__(self, passwords: Mapping[str, str]) -> None:
        # Digests are of one length, so that a comparison tells nothing of a password's.
        self._digests = {name: hashlib.sha256(password.encode()).digest() for name, password in passwords.items()}
        self._nobody = hashlib.sha256(b"").digest()

    def named(self, authorization: str | None) -> str | None:
        """The user whom ``Proxy-Authorization`` proves, ``""`` if nobody need be; None if it proves nobody. Source: RFC 7617."""
        if not self._digests:
            return ""
        scheme, _, encoded = (authorization or "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            name, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            return None
        known = self._digests.get(name)
        same = hmac.compare_digest(hashlib.sha256(password.encode()).digest(), known or self._nobody)
        return name if colon and known is not None and same else None


@dataclass(frozen=True, slots=True)
class Proxy:
    """What the proxy face stands on, and what it may do besides standing in for registries."""

    hosts: Table
    certificates: Certificates
    dialler: Dialler
    users: Users
    tunnel: bool = True
    forward: bool = True


class Forward:
    """The edge's outermost handler: it tells the faces apart. What is the mirror face's goes there.

    ``proxy`` is None where that face is off.
    """

    def __init__(self, mirror: Mirror, proxy: Proxy | None, metrics: Metrics, deployment: str) -> None:
        self._mirror = mirror
        self._proxy = proxy
        self._metrics = metrics
        self._passed = (("Via", "1.1 leeward"), ("CDN-Loop", f"leeward; id={deployment}"))

    async def handle(self, request: Request) -> Response:
        """Answer any request, of either face. Never raises."""
        if request.face == "proxy":
            return await self._mirror.answered(request, "proxy", self._inside)
        if request.method == "CONNECT":
            response = await self._mirror.answered(request, "proxy", self._connect)
            # What a client sent behind a CONNECT that is refused was not meant to be read as requests. (One that is asked to say who
            # it is waits for the answer, and comes again on the same connection.)
            response.close = response.onward is None and response.status != 407
            return response
        if request.target[:1] in ("/", "*"):
            return await self._mirror.handle(request)
        if request.listed:
            # A client that reaches everything through us reaches us so too.
            return await self._mirror.handle(replace(request, target=_origin_form(request)))
        return await self._mirror.answered(request, "proxy", self._absolute)

    # -- registries

    async def _inside(self, request: Request, about: About) -> Response:
        """A request inside an intercepted tunnel. Who sends it has proved so by the ``CONNECT``."""
        if (loop := self._mirror.loop(request)) is not None:
            return loop
        if self._proxy is None:
            return _off(request)
        return await self._registry(self._proxy, request, urlsplit(request.base).hostname or "", request.user, about)

    async def _registry(self, proxy: Proxy, request: Request, host: str, user: str, about: About) -> Response:
        """What a registry that ``host`` is of says; where several share the host, the first that has it."""
        absent: Response | NotFound | None = None
        for meant in proxy.hosts.meanings(host, request.target):
            registry = meant.registry
            offer = Offer("proxy", (registry,), None, partial(_location, registry), user)
            try:
                response = await self._mirror.offered(request, offer, meant.target, about)
            except NotFound as error:
                absent = absent or error
                continue
            if response.status != 404:
                return response
            absent = absent or response
        if isinstance(absent, NotFound):
            raise absent
        if absent is not None:
            return absent
        about.outcome = "absent"
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            return problem(403, "Read-only", "nothing is sent to a registry through this edge", instance=request.target)
        sentence = f"the registry at {host} has nothing at this path that this edge knows of, and nothing is passed through"
        return problem(404, "Not found", sentence, instance=request.target)

    # -- what comes to the face itself

    def _admitted(self, request: Request, about: About) -> tuple[Proxy, str] | Response:
        """The proxy and who asks, or why the request goes no further."""
        if self._proxy is None:
            about.outcome = "refused"
            return _off(request)
        user = self._proxy.users.named(request.header("proxy-authorization"))
        if user is None:
            about.outcome = "unauthorized"
            sentence = "this proxy asks for a user name and a password"
            fields = [("Proxy-Authenticate", 'Basic realm="leeward", charset="UTF-8"')]
            return problem(407, "Proxy authentication required", sentence, headers=fields, instance=request.target)
        loop = self._mirror.loop(request)
        return (self._proxy, user) if loop is None else loop

    async def _absolute(self, request: Request, about: About) -> Response:
        """A request in absolute form. The server has read its authority strictly, into ``base``."""
        about.kind = "forward"
        admitted = self._admitted(request, about)
        if isinstance(admitted, Response):
            return admitted
        proxy, user = admitted
        site = urlsplit(request.base)
        host, target = site.hostname or "", _origin_form(request)
        stood_for = await _stood_for(proxy.hosts, host)
        if stood_for is not None:
            inside = replace(request, target=target, face="proxy", listed=False, user=user)
            return await self._registry(proxy, inside, stood_for, user, about)
        self._doubt(proxy, host)
        if site.scheme != "http":
            about.outcome = "refused"
            sentence = f"{host} is no registry's host here, and is reached over TLS by CONNECT only"
            return problem(403, "Use CONNECT", sentence, instance=request.target)
        if not proxy.forward:
            about.outcome = "refused"
            sentence = f"{host} is no registry's host here, and this edge forwards nothing else"
            return problem(403, "Not forwarded", sentence, instance=request.target)
        if request.method == "TRACE":
            return problem(405, "Method not allowed", "TRACE is not passed on", headers=[("Allow", "GET, HEAD, POST")])
        hops = request.header("max-forwards")
        if request.method == "OPTIONS" and hops == "0":
            return Response(204, [("Allow", "GET, HEAD, POST, PUT, DELETE, OPTIONS")])
        port = site.port or 80
        dialled = await self._dialled(request, proxy.dialler.approach(host, port), about)
        if isinstance(dialled, Response):
            return dialled
        about.outcome = "forwarded"
        preface = _rebuilt(request, target, dialled, port, self._passed)
        return Response(200, onward=self._splice(dialled, preface=preface, answers_only=True))

    async def _connect(self, request: Request, about: About) -> Response:
        """``CONNECT``: a tunnel that ends here, or one that leads on."""
        about.kind = "connect"
        admitted = self._admitted(request, about)
        if isinstance(admitted, Response):
            return admitted
        proxy, user = admitted
        asked = _TUNNEL.fullmatch(request.target)
        if asked is None or not 1 <= int(asked[2]) <= 65535:
            raise ValueError("CONNECT names a host and a port, as in pypi.test:443")
        host, port = asked[1].lower(), int(asked[2])
        stood_for = await _stood_for(proxy.hosts, host)
        if stood_for is not None:
            context = await proxy.certificates.context(stood_for)
            about.outcome = "intercepted"
            site = f"https://{host}" if port == 443 else f"https://{host}:{port}"
            return Response(200, reason="Connection established", onward=Intercept(site, context, user))
        self._doubt(proxy, host)
        if not proxy.tunnel:
            about.outcome = "refused"
            sentence = f"{host} is no registry's host here, and this edge makes no tunnels to others"
            return problem(403, "Not tunnelled", sentence, instance=request.target)
        fields = _marked(request.headers, self._passed)
        dialled = await self._dialled(request, proxy.dialler.tunnel(host, port, fields), about)
        if isinstance(dialled, Response):
            return dialled
        about.outcome = "tunnelled"
        return Response(200, reason="Connection established", onward=self._splice(dialled))

    async def _dialled(self, request: Request, dialling: Awaitable[Dialled], about: About) -> Dialled | Response:
        """The connection, or why there is none."""
        try:
            return await dialling
        except OffLimits as error:
            about.outcome = "refused"
            return problem(403, "Off limits", str(error), instance=request.target)
        except Astray as error:
            about.outcome = "unavailable"
            return problem(502, "Leads nowhere", str(error), instance=request.target)

    def _splice(self, dialled: Dialled, preface: bytes = b"", *, answers_only: bool = False) -> Splice:
        kind = "forward" if answers_only else "tunnel"
        is_open = self._metrics.tunnels_open.labels(kind)
        is_open.inc()

        def ended(sent: int, received: int) -> None:
            is_open.dec()
            self._metrics.tunnels.labels(kind).inc()
            self._metrics.tunnel_bytes.labels("out").inc(sent)
            self._metrics.tunnel_bytes.labels("in").inc(received)

        return Splice(dialled.stream, preface, dialled.greeting, answers_only, ended)

    def _doubt(self, proxy: Proxy, host: str) -> None:
        if warning := proxy.hosts.doubt(host):
            log.warning("%s", warning)


async def _stood_for(hosts: Table, host: str) -> str | None:
    """``host`` as the table has it, None if it is not there. One that is not *yet* there is waited for: it would be passed by for good."""
    spelled = host.strip("[]").removesuffix(".")
    if ".." in f"{spelled}.":
        raise ValueError("malformed host name")
    address = literal(host)
    candidates = {spelled, str(address), str(unwrapped(address))} if address is not None else {spelled}
    if not candidates & hosts.names() and not hosts.recognise(spelled):
        with trio.move_on_after(LEARNING_S):
            await hosts.wait_learnt()
    return next(iter(sorted(candidates & hosts.names())), None)


def _location(registry: Registry, target: str) -> str:
    """Where a client finds ``target`` of a registry on the site that it asked."""
    parts = urlsplit(registry.address(target))
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _origin_form(request: Request) -> str:
    """The target of a request in absolute form as it would be sent to the site itself. Source: RFC 9112 §3.2."""
    match = _ABSOLUTE.fullmatch(request.target)
    if match is None:
        raise ValueError("malformed request target")
    if request.method == "OPTIONS" and not match[2] and not match[3]:
        return "*"  # §3.2.4
    return (match[2] or "/") + (match[3] or "")


def _marked(headers: Headers, passed: Headers) -> Headers:
    """``passed`` behind what other intermediaries have written into the same fields."""
    return tuple((name, ", ".join([*(v for n, v in headers if n == name.lower()), value])) for name, value in passed)


def _rebuilt(request: Request, target: str, dialled: Dialled, port: int, passed: Headers) -> bytes:
    """The one request that is passed on, written anew: nothing in it that two readers could frame differently."""
    named = {option.strip().lower() for option in (request.header("connection") or "").split(",")}
    dropped = _HOP_BY_HOP | named | {name.lower() for name, _ in passed}
    site = dialled.host if port == 80 else f"{dialled.host}:{port}"
    fields = [("Host", site)]
    if dialled.proxy is not None:
        target = f"http://{site}{'' if target == '*' else target}"
        if dialled.proxy.authorization:
            fields.append(("Proxy-Authorization", dialled.proxy.authorization))
    fields += [(name, value) for name, value in request.headers if name not in dropped and not name.startswith("proxy-")]
    hops = request.header("max-forwards")
    if request.method == "OPTIONS" and hops is not None and hops.isascii() and hops.isdigit():
        fields.append(("Max-Forwards", str(int(hops[:9]) - 1)))
    if request.body or request.header("content-length") or request.header("transfer-encoding"):
        fields.append(("Content-Length", str(len(request.body))))
    fields += [*_marked(request.headers, passed), ("Connection", "close")]
    # In the client's own version: the answer comes to it as it is.
    lines = [f"{request.method} {target} HTTP/{request.version}", *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1") + request.body


def _off(request: Request) -> Response:
    sentence = "this edge answers as a mirror only; use its address as the index URL"
    return problem(403, "Not a proxy", sentence, instance=request.target)
