"""The wiring of an edge: a node with a front door. ``main`` is ``edge serve``."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import trio

from origin.api import wire
from origin.api.server import Face
from origin.app import Makings, Node, RunningSource, open_node, registries_alone, release
from origin.control import Command, Progress, serve_control
from origin.http import Handler, Request, Response
from origin.http.certificate import FileCertificate
from origin.http.hot import HotPages
from origin.http.listen import Server
from origin.listening import certificate_of, limits_of, options_text, run, serve_until_drained, settle, stop_on_signal
from origin.loading import load_rules
from origin.metrics import Metrics, total
from origin.policy.rules import Rule, parse_rule
from origin.registries import Registry
from origin.service import Service
from origin.settings import SettingsError
from origin.sources.addresses import WEB_PORTS
from origin.sources.link import Link, connect_share_s
from origin.sources.remote import DIRECT_PATIENCE_S, PATIENCE_S, RemoteSource
from origin.sources.sibling import SIBLING_PATIENCE_S, SiblingSource
from origin.sources.tunnels import Dialler, NextProxy, Reach, is_local
from origin.watch import watch_rules

from . import clients, warm
from .address import local_address
from .enrolment import Identity, read_identity, require_identity
from .fleet_keys import FleetKeys
from .follow import Follower, last_verdicts
from .following.bringing import Budget
from .forward import Forward, Proxy, Users
from .hosts import Hosts
from .intercept import Interception
from .mirror import Instance, Mirror
from .rehearsal import Rehearsals
from .render import Renderings
from .settings import EdgeSettings, Loaded

log = logging.getLogger("leeward.edge")

SOCKET = "edge.sock"

FOLLOWING_CONNECT_S = 5.0
"""How long a connection to the origin may take on which nobody waits for a package."""

LEARN_S = 10.0
"""How long an alias waits for what is learnt of registries' hosts."""


def main(loaded: Loaded) -> int:
    """Serve until SIGTERM or SIGINT, then drain. Returns the exit status.

    Raises ``SettingsError``, ``datadir.Locked`` or ``OSError``, each with a sentence for the operator.
    """
    return run(serve, loaded)


async def serve(
    loaded: Loaded, listeners: list[socket.socket], task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run an edge until cancelled or told to stop by a signal. ``task_status`` gives its base URL once it listens."""
    settings = loaded.settings
    base = _base_url(listeners[0], "https" if settings.tls.only and settings.tls.cert is not None else "http")
    fleet = _Fleet.of(settings)
    async with open_node(settings.data, settings.registries, settings.upstream, settings.store, sources=fleet.sources) as node:
        node.service.set_rules(_rules(settings.rules))
        follower = await fleet.follower(node)
        hot = HotPages(settings.store.memory_bytes)
        hosts, interception = _stand_ins(settings, node)
        mirror = _mirror(settings, node, hot, hosts, interception)
        proxy = _proxy(settings, hosts, interception, listeners)
        certificate = _certificate(settings, node)
        forward = Forward(mirror, proxy, node.metrics, node.deployment)
        rehearsals = Rehearsals(node.service, mirror.handle, partial(_rehearsed, settings, node))
        server = _server(settings, node, hot, rehearsals.before(_Faces(forward, fleet.face(node)).handle))
        async with trio.open_nursery() as nursery:
            service = node.service
            await nursery.start(rehearsals.run)
            commands = _commands(base, service, hosts, node.metrics, follower)
            commands |= _warming(settings, node, base, hosts, rehearsals).commands()
            await nursery.start(serve_control, settings.data / SOCKET, commands)
            nursery.start_soon(
                watch_rules,
                loaded.watch_path,
                _load_rules,
                service.set_rules,
                node.metrics,
                service.rules,
                service.set_rules_trouble,
            )
            serving = await nursery.start(serve_until_drained, server, listeners, certificate, settings.tls.only)
            if certificate is not None:
                nursery.start_soon(certificate.run)
            if hosts is not None and interception is not None:
                # Neither is waited for: whoever uses the mirror face needs no host learnt and no certificate made.
                nursery.start_soon(hosts.run, service)
                nursery.start_soon(interception.run)
            if follower is not None:
                nursery.start_soon(fleet.follow, follower)
            nursery.start_soon(stop_on_signal, server, serving, log)
            is_proxy = proxy is not None and not (settings.tls.only and certificate is not None)
            print(clients.how_to(base, settings.registries, proxy=is_proxy, options=options_text("edge", loaded)), flush=True)
            settle()
            log.info("serving", extra={"at": base, "data": str(settings.data), "rules": len(node.service.rules)})
            task_status.started(base)
            await serving.wait()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def offline(settings: EdgeSettings) -> AsyncIterator[Mapping[str, Command]]:
    """The commands on the store itself, while no edge runs on it."""
    async with open_node(settings.data, settings.registries, settings.upstream, settings.store, connected=False) as node:
        node.service.set_rules(_rules(settings.rules))
        identity = read_identity(settings.data) if settings.origin is not None else None
        if identity is not None:
            with contextlib.suppress(ValueError):  # what can be read of them is in force
                node.service.set_central(await last_verdicts(node.catalog, identity))
        commands = dict(node.service.commands())
        del commands["refresh"]
        hosts, _ = _stand_ins(settings, node)
        if hosts is not None:
            await hosts.restore(node.service)
        yield commands | _warming(settings, node, local_address(settings), hosts, None).commands()


# ---- the fleet ------------------------------------------------------------------------------------------------------


class _Fleet:
    """Where a miss is looked for, and whom else it is shown to, by whether an origin is followed. Made by ``of``."""

    def __init__(self, settings: EdgeSettings, identity: Identity | None) -> None:
        self._settings = settings
        self._identity = identity
        self._links: list[Link] = []
        self._keys: FleetKeys | None = None

    @classmethod
    def of(cls, settings: EdgeSettings) -> _Fleet:
        """Raises ``enrolment.NotEnrolled``, or ``Unusable`` for an identity that cannot be read."""
        return cls(settings, require_identity(settings.data, settings.origin) if settings.origin is not None else None)

    def sources(self, makings: Makings) -> Sequence[RunningSource]:
        """The origin, the siblings, and the registries themselves if that is wanted; an edge alone has these only."""
        identity, settings = self._identity, self._settings
        if identity is None or settings.origin is None:
            return registries_alone(makings)
        clock, names = makings.clock, makings.registries.keys()
        share_s = connect_share_s(1 + len(settings.siblings), direct=settings.direct)

        def link(url: str, pin: bytes | None, token: Callable[[], str], connect_s: float = share_s) -> Link:
            return Link(
                url,
                pin,
                lambda: f"Bearer {token()}",
                clock=clock,
                metrics=makings.metrics,
                user_agent=f"leeward/{release()}",
                deployment_id=makings.deployment,
                connect_s=connect_s,
                ca=settings.upstream.ca,
            )

        keys = self._keys = FleetKeys(settings.data, identity, clock)
        asked = link(settings.origin, identity.pinned, lambda: identity.secret)
        # Following has connections of its own: a recall never waits for a package.
        self._links = [link(settings.origin, identity.pinned, lambda: identity.secret, FOLLOWING_CONNECT_S), asked]
        origin = RemoteSource(asked, names, clock=clock, patience_s=DIRECT_PATIENCE_S if settings.direct else PATIENCE_S)
        # Whoever follows is the first to hear that it is back.
        self._links[0].on_heard = origin.heard
        siblings = [
            SiblingSource(
                link(url, None, keys.token),
                names,
                prove=keys.proof_of,
                clock=clock,
                patience_s=SIBLING_PATIENCE_S,
            )
            for url in settings.siblings
        ]
        return [origin, *siblings, *([makings.meagre()] if settings.direct else [])]

    async def follower(self, node: Node) -> Follower | None:
        """Who follows the origin, with what was known at the last contact in force already; None for an edge alone."""
        if self._identity is None:
            return None
        asked = self._settings.replicate
        follower = Follower(
            self._identity,
            self._links[0],
            asked,
            node.service,
            {name: registry.kind for name, registry in node.registries.items()},
            node.catalog,
            Budget(
                asked.limit_bytes, partial(total, node.metrics.held_bytes), lambda: node.blobs.state() in ("normal", "pressure")
            ),
            node.metrics,
            node.service.clock,
            self._keys,
        )
        for link in self._links:
            link.on_verdicts = follower.noticed
        await follower.begin()
        return follower

    async def follow(self, follower: Follower) -> None:
        """Follow until cancelled; then close what was followed by."""
        try:
            await follower.run()
        finally:
            await self._links[0].aclose()

    def face(self, node: Node) -> Face | None:
        """The face that siblings are shown; None for an edge alone."""
        if self._keys is None:
            return None
        return Face(
            node.service,
            node.catalog,
            node.registries,
            node.metrics,
            node.deployment,
            self._keys.who,
            held_only=True,
            prove=self._keys.proofs_of,
        )


class _Faces:
    """The outermost handler: what other nodes ask, and what clients do."""

    def __init__(self, forward: Forward, face: Face | None) -> None:
        self._forward = forward
        self._face = face

    async def handle(self, request: Request) -> Response:
        """Answer any request, of whichever face. Never raises."""
        if self._face is not None and request.face == "mirror" and request.target.startswith(wire.ROOT):
            return await self._face.handle(request)
        return await self._forward.handle(request)


def _rules(raw: Sequence[Mapping[str, object]]) -> list[Rule]:
    return [parse_rule(rule) for rule in raw]


def _load_rules(path: Path) -> list[Rule]:
    return _rules(load_rules(path))


def _base_url(listener: socket.socket, scheme: str) -> str:
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- recognised, not chosen
    return f"{scheme}://[{shown}]:{port}" if ":" in shown else f"{scheme}://{shown}:{port}"


def _stand_ins(settings: EdgeSettings, node: Node) -> tuple[Hosts, Interception] | tuple[None, None]:
    """Whom the proxy face stands in for, and with which certificates; neither if it is off."""
    if not settings.proxy.enabled:
        return None, None
    try:
        hosts = Hosts(node.registries, {name: registry.aliases for name, registry in settings.registries.items()})
    except ValueError as error:
        raise SettingsError(f"registries: the proxy face cannot stand in for an upstream or alias: {error}") from error
    return hosts, Interception(settings.data, hosts, node.service.clock, node.metrics)


def _warming(settings: EdgeSettings, node: Node, base: str, hosts: Hosts | None, rehearsals: Rehearsals | None) -> warm.Warming:
    """What ``warm`` and ``ready`` stand on. ``hosts`` is None without a proxy face; clients speak no TLS to a proxy."""
    if settings.tls.only and settings.tls.cert is not None:
        hosts = None
    paths = {name: registry.path for name, registry in settings.registries.items()}
    return warm.Warming(node, paths, (base, *settings.server.public_urls), hosts, rehearsals)


def _rehearsed(settings: EdgeSettings, node: Node, service: Service) -> Mirror:
    """A mirror face of a twin of the node, which keeps nothing of what it says."""
    return _mirror(settings, dataclasses.replace(node, service=service, metrics=service.metrics), HotPages(0), None, None)


def _mirror(settings: EdgeSettings, node: Node, hot: HotPages, hosts: Hosts | None, interception: Interception | None) -> Mirror:
    paths: dict[str, list[Registry]] = {}
    for name, registry in settings.registries.items():
        paths.setdefault(registry.path, []).append(node.registries[name])
    return Mirror(
        [Instance(tuple(members), path) for path, members in paths.items()],
        node.service,
        Renderings(settings.store.memory_bytes, trio.CapacityLimiter(2)),
        hot,
        node.metrics,
        node.deployment,
        root_pem=interception.root_pem if interception is not None else None,
        shown=hosts.saw if hosts is not None else None,
    )


def _proxy(
    settings: EdgeSettings,
    hosts: Hosts | None,
    interception: Interception | None,
    listeners: Sequence[socket.socket],
) -> Proxy | None:
    """The proxy face, None if it is off."""
    if hosts is None or interception is None:
        return None
    asked, upstream = settings.proxy, settings.upstream
    ports = {listener.getsockname()[1] for listener in listeners}
    dialler = Dialler(
        Reach(tuple(ipaddress.ip_network(network, strict=False) for network in asked.allow), WEB_PORTS | set(asked.ports)),
        connect_s=upstream.connect_timeout_s,
        answer_s=upstream.answer_timeout_s,
        is_own=lambda address, port: port in ports and is_local(address),
        proxy=NextProxy.at(upstream.proxy, upstream.ca) if upstream.proxy is not None else None,
    )
    return Proxy(hosts, interception, dialler, Users(asked.users), asked.tunnel, asked.forward)


def _commands(
    base: str, service: Service, hosts: Hosts | None, metrics: Metrics, follower: Follower | None
) -> dict[str, Command]:
    """The commands of the service, and those that only an edge has."""
    commands = dict(service.commands())
    status = commands["status"]

    async def told(arguments: dict[str, object], progress: Progress) -> object:
        found = await status(arguments, progress)
        assert isinstance(found, dict)
        if follower is not None:
            found = {"origin": await follower.status()} | found
        if hosts is None:
            return {"at": base, "proxy": "off"} | found
        ends = total(metrics.intermediate_ends)
        proxy: dict[str, object] = {
            "hosts": sorted(hosts.names()),
            "tunnels": int(total(metrics.tunnels_open)),
            "certificates_until": datetime.fromtimestamp(ends, UTC).isoformat(timespec="seconds") if ends else "none yet",
        }
        return {"at": base, "proxy": proxy} | found

    async def alias(arguments: dict[str, object], _: Progress) -> object:
        if hosts is None:
            raise ValueError("the proxy face is off: [proxy] enabled is false")
        instance, host = str(arguments.get("instance", "")), str(arguments.get("host", ""))
        with trio.move_on_after(LEARN_S):
            # A file host that is not known yet is no alias: it will be learnt.
            await hosts.wait_learnt()
        known = host.lower() in hosts.names()
        if not known:
            hosts.add_alias(instance, host)
        return {"instance": instance, "host": host, "known": known}

    async def names(arguments: dict[str, object], _: Progress) -> object:
        # Asked for every connection that `edge capture` sees go to a host unknown to it: status would count the store each time.
        if hosts is None:
            raise ValueError("the proxy face is off: [proxy] enabled is false")
        if arguments.get("learnt"):
            with trio.move_on_after(LEARN_S):
                await hosts.wait_learnt()
        met = arguments.get("met", [])
        for host in met if isinstance(met, list) else []:
            hosts.recognise(str(host))
        return {"hosts": sorted(hosts.names())}

    async def at(_arguments: dict[str, object], _: Progress) -> object:
        return base.partition("://")[2]

    return commands | {"status": told, "alias": alias, "hosts": names, "at": at}


def _certificate(settings: EdgeSettings, node: Node) -> FileCertificate | None:
    """The operator's own certificate for the listener, None without one. Raises ``SettingsError``."""
    return certificate_of(settings.tls.cert, settings.tls.key, node) if settings.tls.cert is not None else None


def _server(settings: EdgeSettings, node: Node, hot: HotPages, handler: Handler) -> Server:
    return Server(
        handler,
        hot,
        limits=dataclasses.replace(limits_of(settings.server), tunnel_idle_s=settings.proxy.idle_s),
        public_urls=settings.server.public_urls,
        trusted_proxies=settings.server.trusted_proxies,
        metrics=node.metrics,
    )
