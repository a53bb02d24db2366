"""How a node of either kind serves: at its listeners, with its certificate, within its limits, until it is told to stop."""

from __future__ import annotations

import gc
import logging
import os
import shlex
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio

from .app import Node
from .http.certificate import FileCertificate
from .http.listen import Limits, Server, open_tcp
from .loading import Loaded, NodeSettings, Program
from .settings import ServerSettings, SettingsError, default_data
from .words import listen_address

SWITCH_INTERVAL_S = 0.0005
"""How long a worker thread may keep the interpreter's lock from the event loop."""


def run[Settings: NodeSettings](
    serve: Callable[[Loaded[Settings], list[socket.socket]], Awaitable[None]], loaded: Loaded[Settings]
) -> int:
    """Have ``serve`` serve at the listeners that the settings ask for; the exit status. Raises as ``serve`` does, and ``OSError``."""
    # Bound before the store is opened: a taken port is the likeliest complaint and should come first.
    listeners = open_tcp(*listen_address(loaded.settings.listen))
    # The loop gives up the interpreter's lock at every system call; with the default of 5 ms it would wait that long for it
    # each time while a worker thread parses a large page.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    trio.run(serve, loaded, listeners)
    return 0


def settle() -> None:
    """What is loaded now stays: the collector need not walk it again, which takes tens of milliseconds each time."""
    gc.collect()
    gc.freeze()


async def serve_until_drained(
    server: Server,
    listeners: list[socket.socket],
    certificate: FileCertificate | None,
    tls_only: bool,
    task_status: trio.TaskStatus[trio.Event] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled or drained. ``task_status`` gives, once it listens, the event of its having ended."""
    ended = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(server.serve, listeners, contexts=certificate, tls_only=tls_only))
        task_status.started(ended)
    ended.set()


async def stop_on_signal(
    server: Server, serving: trio.Event, log: logging.Logger, before: Callable[[], None] = lambda: None
) -> None:
    """Drain on the first SIGTERM or SIGINT, after ``before``; a second one is somebody in a hurry."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("%s: draining", signal.Signals(number).name)
            break
        async with trio.open_nursery() as nursery:

            async def drain() -> None:
                before()
                await server.drain()
                nursery.cancel_scope.cancel()

            nursery.start_soon(drain)
            async for _ in signals:
                nursery.cancel_scope.cancel()
        log.info("stopped")
        serving.set()


def limits_of(settings: ServerSettings) -> Limits:
    """What one client may ask of the listener."""
    asked = settings.limits
    return Limits(
        head_bytes=asked.header_bytes,
        body_bytes=asked.body_bytes,
        head_s=asked.header_timeout_s,
        body_s=asked.body_timeout_s,
        handshake_s=asked.handshake_timeout_s,
        idle_s=asked.idle_timeout_s,
        connections=asked.connections,
        stall_s=asked.send_timeout_s,
        drain_s=settings.drain_s,
    )


def certificate_of(certificate: Path, key: Path | None, node: Node) -> FileCertificate:
    """What the listener shows. Raises ``SettingsError``."""
    try:
        return FileCertificate(certificate, key, clock=node.service.clock, metrics=node.metrics)
    except ValueError as error:
        raise SettingsError(f"tls.cert: {error}") from error


def options_text[Settings: NodeSettings](program: Program, loaded: Loaded[Settings]) -> str:
    """The options by which other commands find this node, each after a space; none if they do so anyway."""
    words = [] if loaded.config_path is None else ["--config", shlex.quote(str(loaded.config_path))]
    if loaded.settings.data != default_data(program, os.environ):
        words += ["--data", shlex.quote(str(loaded.settings.data))]
    return "".join(f" {word}" for word in words)
