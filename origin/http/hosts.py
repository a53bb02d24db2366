"""Who the client thinks we are, and who the client is: base URLs from a closed list, forwarded fields from trusted proxies only."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from ..model import Face
from .h1 import Head, Malformed

# RFC 3986 §3.2.2 without percent-encoding: a name, an IPv4 address or a bracketed IPv6 address, and perhaps a port.
_AUTHORITY = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9.])?|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_LIMIT_OWN = 64

type Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Standing:
    """How a request reached us. ``base`` has no trailing slash; ``listed`` tells whether it is on the closed list."""

    base: str
    listed: bool
    client: str
    face: Face = "mirror"


class Standings(Protocol):
    """Says how requests on a connection reach us: ``Hosts`` for one that was accepted, ``Site`` inside an intercepted tunnel."""

    def standing(self, head: Head, peer: str, trusted: bool) -> Standing:
        """Settle base, face and client for one request. Raises ``Malformed`` for an invalid Host."""
        ...


class Site:
    """The one site that a client found in its tunnel: ``https://pypi.test``, with a port if it is not 443."""

    def __init__(self, base: str) -> None:
        self.base = base
        self._scheme, _, self._authority = base.partition("://")

    def standing(self, head: Head, peer: str, trusted: bool) -> Standing:
        """As the protocol has it. A Host that is not this site's is not answered here: 421 (RFC 9110 §15.5.20)."""
        authority = (head.values("host") or [""])[0]
        if head.target[:1] not in ("/", "*"):
            raise Malformed("only requests in origin form here")
        if not authority and head.version == "1.0":
            return Standing(self.base, True, peer, "proxy")
        if _authority(authority, self._scheme) != self._authority:
            raise Malformed(f"this connection is for {self._authority}", 421)
        return Standing(self.base, True, peer, "proxy")


class Hosts:
    """The closed list of bases: ``public_urls`` if any are given, else the listeners' own addresses, which ``own`` adds.

    ``over_tls`` says the same of requests that come over TLS to a listener of ours.
    """

    def __init__(self, public_urls: Iterable[str] = (), trusted_proxies: Iterable[str] = ()) -> None:
        self._listed: dict[tuple[str, str], str] = {}
        self._public = False
        self.over_tls: Standings = _OverTLS(self)
        self._networks: tuple[Network, ...] = tuple(ipaddress.ip_network(network, strict=False) for network in trusted_proxies)
        for url in public_urls:
            parts = urlsplit(url)
            if parts.scheme not in _DEFAULT_PORTS or not parts.netloc or parts.query or parts.fragment:
                raise ValueError(f"not a public URL: {url[:200]!r}")
            self._public = True
            self._listed[parts.scheme, _authority(parts.netloc, parts.scheme)] = url.rstrip("/")

    def own(self, host: str, port: int, scheme: str = "http") -> bool:
        """Add an address that a listener has itself, unless public URLs are given; True if the list grew.

        What no Host field could spell (``(none)`` as the machine's name, an address with a zone) is not added.
        """
        try:
            authority = _authority(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", scheme)
        except Malformed:
            return False
        if self._public or (scheme, authority) in self._listed or len(self._listed) >= _LIMIT_OWN:
            return False
        self._listed[scheme, authority] = f"{scheme}://{authority}"
        return True

    def trusts(self, peer: str) -> bool:
        """Whether forwarded fields count that come from ``peer``."""
        address = _address(peer)
        return address is not None and any(address in network for network in self._networks)

    def standing(self, head: Head, peer: str, trusted: bool, scheme: str = "http") -> Standing:
        """Settle base and client for one request that came by ``scheme``. Raises ``Malformed`` for an invalid Host."""
        authority, client = (head.values("host") or [""])[0], peer
        if head.target[:1] not in ("/", "*") and head.method != "CONNECT":
            # "When an origin server receives a request with an absolute-form of request-target, the origin server MUST ignore the received
            # Host header field (if any) and instead use the host information of the request-target" (RFC 9112 §3.2.2)
            if authority:
                _authority(authority, scheme)
            scheme, _, rest = head.target.partition("://")
            scheme, authority = scheme.lower(), re.split(r"[/?#]", rest, maxsplit=1)[0]
        elif trusted:
            authority = _last(head.values("x-forwarded-host")) or authority
            scheme = _last(head.values("x-forwarded-proto")).lower() or scheme
            if scheme not in _DEFAULT_PORTS:
                raise Malformed("unknown X-Forwarded-Proto")
            client = self._client(head, peer)
        if not authority and head.version == "1.0" and "host" not in dict(head.headers):
            bases = sorted(self._listed.items(), key=lambda known: known[0][0] != scheme)  # of this scheme first, in their order
            base = bases[0][1] if bases else f"{scheme}://localhost"
            return Standing(base, True, client)
        authority = _authority(authority, scheme)
        known = self._listed.get((scheme, authority)) or (self._elsewhere(authority) if self._public else None)
        if known is not None:
            return Standing(known, True, client)
        return Standing(f"{scheme}://{authority}", False, client)

    def _elsewhere(self, authority: str) -> str | None:
        """A public URL of the other scheme: TLS may end before us without anybody saying so."""
        for scheme, port in (("https", ":443"), ("http", ":80")):
            base = self._listed.get((scheme, authority.removesuffix(port)))
            if base is not None:
                return base
        return None

    def _client(self, head: Head, peer: str) -> str:
        """The last hop that no trusted proxy is: proxies append, and what stands before an untrusted one may be invented."""
        hops = [hop.strip() for value in head.values("x-forwarded-for") for hop in value.split(",")]
        client = peer
        for hop in reversed(hops):
            if _address(hop) is None:
                break
            client = hop
            if not self.trusts(hop):
                break
        return client


class _OverTLS:
    """``Hosts`` as requests over TLS have it."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    def standing(self, head: Head, peer: str, trusted: bool) -> Standing:
        return self._hosts.standing(head, peer, trusted, "https")


def _authority(text: str, scheme: str) -> str:
    match = _AUTHORITY.fullmatch(text)
    if match is None or (match[2] and int(match[2]) > 65535):
        raise Malformed("invalid Host")
    host, port = match[1].lower(), match[2]
    if host.startswith("[") and (":" not in host or _address(host[1:-1]) is None):
        raise Malformed("invalid Host")
    return host if not port or port == _DEFAULT_PORTS.get(scheme) else f"{host}:{int(port)}"


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def _last(values: list[str]) -> str:
    return values[-1].rpartition(",")[2].strip() if values else ""
