"""The wiring of an edge: a node with a front door. ``main`` is ``edge serve``."""

from __future__ import annotations

import gc
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from origin.app import Node, open_node
from origin.control import Command, Progress, serve_control
from origin.http.hot import HotPages
from origin.http.listen import Limits, Server, open_tcp
from origin.policy.rules import Rule, parse_rule
from origin.registries import Registry
from origin.watch import watch_rules
from origin.words import listen_address

from . import clients
from .forward import Forward
from .hosts import Hosts
from .intercept import Interception
from .mirror import Instance, Mirror
from .render import Renderings
from .settings import EdgeSettings, Loaded, load_rules

log = logging.getLogger("leeward.edge")

SOCKET = "edge.sock"

SWITCH_INTERVAL_S = 0.0005
"""How long a worker thread may keep the interpreter's lock from the event loop."""


def main(loaded: Loaded) -> int:
    """Serve until SIGTERM or SIGINT, then drain. Returns the exit status.

    Raises ``SettingsError``, ``datadir.Locked`` or ``OSError``, each with a sentence for the operator.
    """
    # Bound before the store is opened: a taken port is the likeliest complaint and should come first.
    listeners = open_tcp(*listen_address(loaded.settings.listen))
    # The loop gives up the interpreter's lock at every system call; with the default of 5 ms it would wait that long for it
    # each time while a worker thread parses a large page.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    trio.run(serve, loaded, listeners)
    return 0


async def serve(
    loaded: Loaded, listeners: list[socket.socket], task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run an edge until cancelled or told to stop by a signal. ``task_status`` gives its base URL once it listens."""
    settings = loaded.settings
    base = _base_url(listeners[0])
    async with open_node(settings.data, settings.registries, settings.upstream, settings.store) as node:
        node.service.set_rules(_rules(settings.rules))
        hot = HotPages(settings.store.memory_bytes)
        proxy = _proxy(settings, node)
        forward = _forward(settings, node, hot, proxy)
        server = _server(settings, node, hot, forward)
        async with trio.open_nursery() as nursery:
            service = node.service
            await nursery.start(serve_control, settings.data / SOCKET, service.commands() | _commands(base, proxy))
            if proxy is not None:
                # Neither is waited for: whoever uses the mirror face needs no host learnt and no certificate made.
                nursery.start_soon(proxy[0].run, service)
                nursery.start_soon(proxy[1].run)
            nursery.start_soon(
                watch_rules,
                loaded.watch_path,
                _load_rules,
                service.set_rules,
                node.metrics,
                service.rules,
                service.set_rules_trouble,
            )
            serving = await nursery.start(_serve, server, listeners)
            nursery.start_soon(_stop_on_signal, server, serving)
            print(clients.how_to(base, settings.registries), flush=True)
            # What is loaded now stays: the collector need not walk it again, which takes tens of milliseconds each time.
            gc.collect()
            gc.freeze()
            log.info("serving", extra={"at": base, "data": str(settings.data), "rules": len(node.service.rules)})
            task_status.started(base)
            await serving.wait()
            nursery.cancel_scope.cancel()


async def _serve(
    server: Server, listeners: list[socket.socket], task_status: trio.TaskStatus[trio.Event] = trio.TASK_STATUS_IGNORED
) -> None:
    ended = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, listeners)
        task_status.started(ended)
    ended.set()


async def _stop_on_signal(server: Server, serving: trio.Event) -> None:
    """Drain on the first SIGTERM or SIGINT; a second one is somebody in a hurry."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("%s: draining", signal.Signals(number).name)
            break
        async with trio.open_nursery() as nursery:

            async def drain() -> None:
                await server.drain()
                nursery.cancel_scope.cancel()

            nursery.start_soon(drain)
            async for _ in signals:
                nursery.cancel_scope.cancel()
        log.info("stopped")
        serving.set()


@asynccontextmanager
async def offline(settings: EdgeSettings) -> AsyncIterator[Mapping[str, Command]]:
    """The commands on the store itself, while no edge runs on it."""
    async with open_node(settings.data, settings.registries, settings.upstream, settings.store, connected=False) as node:
        node.service.set_rules(_rules(settings.rules))
        commands = dict(node.service.commands())
        del commands["refresh"]
        yield commands


def _rules(raw: Sequence[Mapping[str, object]]) -> list[Rule]:
    return [parse_rule(rule) for rule in raw]


def _load_rules(path: Path) -> list[Rule]:
    return _rules(load_rules(path))


def _base_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- recognised, not chosen
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _proxy(settings: EdgeSettings, node: Node) -> tuple[Hosts, Interception] | None:
    """What the proxy face needs; None if it is off."""
    if not settings.proxy.enabled:
        return None
    try:
        hosts = Hosts(node.registries, {name: registry.aliases for name, registry in settings.registries.items()})
        return hosts, Interception(settings.data, hosts, node.service.clock, node.metrics)
    except NotImplementedError:
        return None


def _commands(base: str, proxy: tuple[Hosts, Interception] | None) -> dict[str, Command]:
    """The commands that only an edge has."""

    async def alias(arguments: dict[str, object], _: Progress) -> object:
        if proxy is None:
            raise ValueError("the proxy face is off: [proxy] enabled is false")
        instance, host = str(arguments.get("instance", "")), str(arguments.get("host", ""))
        proxy[0].add_alias(instance, host)
        return {"instance": instance, "host": host}

    return {"alias": alias}


def _forward(settings: EdgeSettings, node: Node, hot: HotPages, proxy: tuple[Hosts, Interception] | None) -> Forward:
    paths: dict[str, list[Registry]] = {}
    for name, registry in settings.registries.items():
        paths.setdefault(registry.path, []).append(node.registries[name])
    instances = [Instance(tuple(members), path) for path, members in paths.items()]
    renderings = Renderings(settings.store.memory_bytes, trio.CapacityLimiter(2))
    mirror = Mirror(instances, node.service, renderings, hot, node.metrics, node.deployment)
    return Forward(mirror, proxy)


def _server(settings: EdgeSettings, node: Node, hot: HotPages, forward: Forward) -> Server:
    asked = settings.server.limits
    limits = Limits(
        head_bytes=asked.header_bytes,
        body_bytes=asked.body_bytes,
        head_s=asked.header_timeout_s,
        body_s=asked.body_timeout_s,
        idle_s=asked.idle_timeout_s,
        connections=asked.connections,
        stall_s=asked.send_timeout_s,
        drain_s=settings.server.drain_s,
    )
    return Server(
        forward.handle,
        hot,
        limits=limits,
        public_urls=settings.server.public_urls,
        trusted_proxies=settings.server.trusted_proxies,
        metrics=node.metrics,
    )
