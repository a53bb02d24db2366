"""An edge's settings: what ``edge.toml``, ``EDGE_…`` and the options of ``edge serve`` say, checked.

``origin/settings.py`` has the tables that both kinds of node share and the reading of layers; ``origin/loading.py`` puts all together.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from origin import loading
from origin.api.wire import ROOT
from origin.policy.purls import split
from origin.settings import Layers, Table
from origin.words import web_url

DEFAULT_LISTEN = "127.0.0.1:8080"

USER = re.compile(r"[\x20-\x39\x3b-\x7e]+")
"""What a proxy user may be named: in ``Basic`` credentials a name ends at the first colon (RFC 7617 §2)."""


class ProxySettings(Table, frozen=True, kw_only=True):
    """The proxy face: whether foreign hosts are tunnelled, which private networks tunnels may reach, who may use it.

    ``enabled`` is for all of it: without it there is a mirror only, and no certificate authority is made. ``tunnel`` is for ``CONNECT`` to
    hosts that no registry here has, ``forward`` for plain HTTP to them, uncached. Neither
    reaches loopback, link-local or private addresses, but for the networks in ``allow``, nor ports below 1024 other than 80, 443 and
    those in ``ports``. A tunnel in which nothing moves for ``idle_s`` is closed. ``users`` maps a name to its password; with none,
    whoever reaches the port may use it.
    """

    enabled: bool = True
    tunnel: bool = True
    forward: bool = True
    allow: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    idle_s: float = msgspec.field(default=600.0, name="idle")
    users: Mapping[str, str] = msgspec.field(default_factory=dict)


class ReplicateSettings(Table, frozen=True, kw_only=True):
    """What an edge that follows an origin brings here before anybody asks, and what it does when it hears nothing from there.

    ``mode`` says which releases: none, all, those that ``match`` names (purls with ``*``), or those that several edges of the fleet have
    asked for. Their pages come too, so that a client that was never served here is served in an outage. ``limit_bytes`` is how much the
    store may hold for more to be brought: then news takes the place of what was used least recently, and what is only caught up with is
    left where it is. ``at_once`` is how many files come at a time.

    After ``lease_s`` without a word from the origin, ``lapsed`` says whether what is held is served on, or refused until it speaks again.
    Every ``compare_s`` what is here is compared with what the origin has, and repaired.
    """

    mode: Literal["none", "all", "matching", "popular"] = "popular"
    match: tuple[str, ...] = ()
    limit_bytes: int | None = msgspec.field(default=None, name="limit")
    at_once: int = 8
    lease_s: float = msgspec.field(default=3600.0, name="lease")
    lapsed: Literal["serve", "refuse"] = "serve"
    compare_s: float = msgspec.field(default=3600.0, name="compare")


class EdgeSettings(loading.NodeSettings, frozen=True, kw_only=True):
    """Everything an edge can be told.

    ``origin`` is the URL of the central origin that is followed, None for an edge alone. ``siblings`` are asked what it cannot be asked,
    and the registries themselves only if ``direct`` is set.
    """

    listen: str = DEFAULT_LISTEN
    origin: str | None = None
    direct: bool = False
    siblings: tuple[str, ...] = ()
    proxy: ProxySettings = ProxySettings()
    replicate: ReplicateSettings = ReplicateSettings()


type Loaded = loading.Loaded[EdgeSettings]


def load_edge(options: Mapping[str, object], environ: Mapping[str, str], *, rules_too: bool = True) -> Loaded:
    """Read and check all layers, as ``origin.loading.load`` does. Raises ``origin.settings.SettingsError``."""
    return loading.load("edge", EdgeSettings, options, environ, rules_too=rules_too, ignore=("EDGE_MITMDUMP",), check=_check)


def _check(layers: Layers, settings: EdgeSettings) -> None:
    _check_fleet(layers, settings)
    for index, network in enumerate(settings.proxy.allow):
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError as error:
            raise layers.error(("proxy", "allow", index), str(error)) from None
    for index, port in enumerate(settings.proxy.ports):
        if not 1 <= port <= 65535:
            raise layers.error(("proxy", "ports", index), "must be from 1 to 65535")
    for user in settings.proxy.users:
        if not USER.fullmatch(user):
            raise layers.error(("proxy", "users"), "a user name is printable ASCII without a colon, and not empty")
        if not settings.proxy.users[user]:
            raise layers.error(("proxy", "users"), f"the user {user} has no password")


def _check_fleet(layers: Layers, settings: EdgeSettings) -> None:
    if settings.origin is not None:
        try:
            node_url(settings.origin)
        except ValueError as error:
            raise layers.error(("origin",), str(error)) from None
    elif settings.siblings:
        raise layers.error(("siblings",), "siblings know each other by their origin, and none is set")
    elif settings.direct:
        raise layers.error(("direct",), "an edge without an origin asks the registries anyway; leave it out, or set origin")
    for name, registry in settings.registries.items():
        if settings.origin is not None and registry.path.startswith(ROOT):
            raise layers.error(("registries", name, "path"), f"paths beneath {ROOT} are where the other nodes of a fleet ask")
    for index, sibling in enumerate(settings.siblings):
        try:
            node_url(sibling, secure=False)
        except ValueError as error:
            raise layers.error(("siblings", index), str(error)) from None
    asked = settings.replicate
    if asked.mode == "matching" and not asked.match:
        raise layers.error(("replicate", "mode"), 'matching what? name releases in match, as in ["pkg:npm/@company/*"]')
    if asked.match and asked.mode != "matching":
        raise layers.error(("replicate", "match"), f'says what mode = "matching" brings here; the mode is "{asked.mode}"')
    for index, glob in enumerate(asked.match):
        try:
            if glob != "*":
                split(glob)
        except ValueError as error:
            raise layers.error(("replicate", "match", index), str(error)) from None


def node_url(text: str, *, secure: bool = True) -> str:
    """The URL of another node, which is found at the root of a host, without a slash at its end. Raises ``ValueError``.

    ``secure`` takes nothing but TLS: an edge and its origin tell each other what nobody else may hear or change.
    """
    parts = urlsplit(web_url(text))
    if parts.path.strip("/") or parts.username is not None or parts.password is not None:
        raise ValueError("a host and a port are all it takes, as in https://origin.test:9090")
    if secure and parts.scheme != "https":
        raise ValueError(f"an origin is asked over TLS only: https://{parts.netloc}")
    return text.rstrip("/")
