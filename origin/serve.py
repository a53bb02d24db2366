"""The wiring of an origin: a node that its edges follow. ``main`` is ``origin serve``."""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import trio

from . import targets
from .api.batches import Batches
from .api.following import Following
from .api.polling import Polling
from .api.server import Face
from .app import Node, open_node
from .central import commands, open_origin
from .control import Command, serve_control
from .errors import Unavailable
from .http import Request, Response
from .http.hot import HotPages
from .http.listen import Server
from .http.problems import problem, respond
from .listening import certificate_of, limits_of, options_text, run, serve_until_drained, settle, stop_on_signal
from .loading import load_rules
from .metrics import Metrics
from .node_settings import Loaded, OriginSettings
from .policy.rules import Rule, parse_rule
from .recalling import CentralPolicy
from .watch import watch_rules
from .words import listen_address

log = logging.getLogger("leeward.origin")

SOCKET = "origin.sock"

AGAIN_S = 2.0
"""How long after rules could not be written down that is tried again."""

_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 -- recognised, not chosen


def main(loaded: Loaded) -> int:
    """Serve until SIGTERM or SIGINT, then drain. Returns the exit status.

    Raises ``SettingsError``, ``Unusable``, ``Unavailable`` or ``OSError``, each with a sentence for the operator.
    """
    return run(serve, loaded)


async def serve(
    loaded: Loaded, listeners: list[socket.socket], task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run an origin until cancelled or told to stop by a signal. ``task_status`` gives its base URL once it listens."""
    settings = loaded.settings
    host, port = listeners[0].getsockname()[:2]
    url = _url(settings, host, port)
    async with open_node(settings.data, settings.registries, settings.upstream, settings.store, role="origin") as node:
        origin = await open_origin(node, settings, _hosts(settings, host), url)
        await _take_rules(loaded, origin.policy)
        certificate = certificate_of(origin.identity.certificate, origin.identity.key, node)
        batches = Batches(origin.ledger)
        following = Following(origin.central, node.registries, node.deployment, batches)
        face = Face(node.service, node.catalog, node.registries, node.metrics, node.deployment, origin.fleet.edge, rest=following)
        polling = Polling(
            origin.ledger, batches, origin.fleet, origin.fleet.edge, node.metrics.tally("replication", "", "other", "local")
        )
        server = _server(settings, node, Front(face, node.metrics), polling)
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, settings.data / SOCKET, commands(origin, running=True))
            nursery.start_soon(origin.run)
            nursery.start_soon(_watch, loaded, origin.policy, node)
            nursery.start_soon(certificate.run)
            serving = await nursery.start(serve_until_drained, server, listeners, certificate, True)
            # Edges that wait for news are told that there is none: they ask again, and find somebody or nobody.
            nursery.start_soon(stop_on_signal, server, serving, log, following.drain)
            print(how_to(url, options_text("origin", loaded)), flush=True)
            settle()
            log.info("serving", extra={"at": url, "data": str(settings.data), "edges": len(origin.fleet.states())})
            task_status.started(url)
            await serving.wait()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def offline(settings: OriginSettings) -> AsyncIterator[Mapping[str, Command]]:
    """The commands on the store itself, while no origin runs on it."""
    async with open_node(
        settings.data, settings.registries, settings.upstream, settings.store, connected=False, role="origin"
    ) as node:
        host, port = listen_address(settings.listen)
        made = commands(await open_origin(node, settings, _hosts(settings, host), _url(settings, host, port)), running=False)
        del made["refresh"]
        yield made


# ---- the listener ---------------------------------------------------------------------------------------------------


class Front:
    """What is answered at the listener: nodes of ours, and whoever looks after this one."""

    def __init__(self, face: Face, metrics: Metrics) -> None:
        self._face = face
        self._metrics = metrics

    async def handle(self, request: Request) -> Response:
        """Answer a request. Never raises."""
        if not request.target.startswith("/-/"):
            return await self._face.handle(request)
        try:
            return self._local(request)
        except ValueError as error:
            return respond(error, request)

    def _local(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return problem(
                405, "Method not allowed", "only GET and HEAD here", headers=[("Allow", "GET, HEAD")], instance=request.target
            )
        match targets.parse(request.target.partition("?")[0]).segments[1:]:
            case ("live",):
                return _text(b"live\n")
            case ("ready",):
                return _text(b"ready\n")
            case ("metrics",):
                return _text(self._metrics.text(), "text/plain; version=0.0.4; charset=utf-8")
            case _:
                return problem(404, "Not found", "known here: /-/live /-/ready /-/metrics", instance=request.target)


def _text(body: bytes, media_type: str = "text/plain; charset=utf-8") -> Response:
    return Response(200, [("Content-Type", media_type), ("Cache-Control", "no-store")], body)


def _server(settings: OriginSettings, node: Node, front: Front, polling: Polling) -> Server:
    return Server(
        front.handle,
        HotPages(0),
        limits=limits_of(settings.server),
        public_urls=settings.server.public_urls,
        trusted_proxies=settings.server.trusted_proxies,
        metrics=node.metrics,
        polls=polling,
    )


# ---- rules ----------------------------------------------------------------------------------------------------------


async def _take_rules(loaded: Loaded, policy: CentralPolicy) -> None:
    """Put the settings' rules in force. Without a settings file those before stay: dropping a refusal must be somebody's decision."""
    if loaded.config_path is not None:
        await policy.set_rules(loaded.settings.rules)
    elif policy.current.rules:
        log.warning("there is no settings file: the %d rules that were in force before stay", len(policy.current.rules))


async def _watch(loaded: Loaded, policy: CentralPolicy, node: Node) -> None:
    """Put edited rules in force, until cancelled."""
    send, receive = trio.open_memory_channel[Sequence[Mapping[str, object]]](math.inf)
    read: Sequence[Mapping[str, object]] = ()

    def load(path: Path) -> list[Rule]:
        nonlocal read
        read = load_rules(path)
        return [parse_rule(table) for table in read]

    async def put() -> None:
        async for tables in receive:
            while True:
                try:
                    await policy.set_rules(tables)
                    break
                except Unavailable as error:
                    log.warning("edited rules are not in force yet: %s", error)
                    await trio.sleep(AGAIN_S)

    async with send, receive, trio.open_nursery() as nursery:
        nursery.start_soon(put)
        await watch_rules(
            loaded.watch_path,
            load,
            lambda _: send.send_nowait(read),
            node.metrics,
            [parse_rule(table) for table in policy.current.rules],
            node.service.set_rules_trouble,
        )


# ---- what people are told -------------------------------------------------------------------------------------------


def how_to(url: str, options: str) -> str:
    """How an edge is let in, for a person's terminal. ``options`` are those by which other commands find this origin."""
    return "\n".join(
        [
            f"origin: {url}",
            "Let an edge in, each with an invitation of its own, which is good once:",
            f"  origin invite{options} NAME",
            f"  edge enrol {url} TOKEN",
            f"  edge serve --origin {url}",
        ]
    )


def _url(settings: OriginSettings, host: str, port: int) -> str:
    """Where edges find this origin: the first public URL, else the listener's address."""
    if settings.server.public_urls:
        return settings.server.public_urls[0]
    shown = socket.gethostname() if host in _WILDCARDS else host
    return f"https://[{shown}]:{port}" if ":" in shown else f"https://{shown}:{port}"


def _hosts(settings: OriginSettings, host: str) -> list[str]:
    """What a certificate of our own names."""
    public = [urlsplit(url).hostname or "" for url in settings.server.public_urls]
    mine = [] if host in _WILDCARDS else [host]
    return [*public, *mine, socket.gethostname(), "localhost", "127.0.0.1", "::1"]
