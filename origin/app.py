"""The wiring of a node: the only place that knows what is plugged into what."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, Protocol

import trio

from .blobs import BlobStore
from .blobs.disk import DiskBlobs
from .catalog import Catalog
from .catalog.sqlite import SqliteCatalog
from .control import CommandFailed, NotRunning, peer
from .datadir import DataDirectory, Locked
from .flights import Flights, open_flights
from .loopwatch import LoopWatch
from .metrics import Metrics
from .model import Clock
from .registries import Registry
from .registries.kinds import create
from .service import Service
from .settings import RegistrySettings, StoreSettings, UpstreamSettings, options_of
from .sources import Source
from .sources.registry import RegistrySource, Timeouts, Upstream
from .sources.remote import introduce

LANDING_S = 5.0
"""How long a stopping node goes on storing what it has fetched."""

NODE_WAIT_S = 10.0
"""How long a starting node waits for a command that has the store at that moment: most are done in a second."""

COMMAND_WAIT_S = 3.0
"""The same for a command: somebody looks on."""

LOCK_PAUSE_S = 0.1

SOCKETS = ("edge.sock", "origin.sock")
"""Where in its data directory a node answers commands, by its role."""

log = logging.getLogger("leeward.node")


class RunningSource(Source, Protocol):
    """A source with work of its own in the background, for as long as ``run`` runs."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None: ...


@dataclass(frozen=True, slots=True)
class Makings:
    """What a node's sources are made of. ``direct`` makes the one that asks the registries themselves, ``meagre`` the same for a node that
    does so only while its origin does not answer.
    """

    registries: Mapping[str, Registry]
    catalog: Catalog
    metrics: Metrics
    clock: Clock
    deployment: str
    direct: Callable[[], RegistrySource]
    meagre: Callable[[], RegistrySource]


@dataclass(frozen=True, slots=True)
class Node:
    """A node at work. ``deployment`` names it in ``CDN-Loop``; ``sources`` are in the order they are asked in."""

    service: Service
    registries: Mapping[str, Registry]
    metrics: Metrics
    deployment: str
    catalog: SqliteCatalog
    blobs: BlobStore
    flights: Flights
    sources: Sequence[Source]


def registries_alone(makings: Makings) -> Sequence[RunningSource]:
    """The sources of a node that has nobody else to ask."""
    return (makings.direct(),)


@asynccontextmanager
async def open_node(
    data: Path,
    registries: Mapping[str, RegistrySettings],
    upstream: UpstreamSettings,
    store: StoreSettings,
    *,
    connected: bool = True,
    role: Literal["edge", "origin"] = "edge",
    sources: Callable[[Makings], Sequence[RunningSource]] = registries_alone,
    clock: Clock = time.time,
) -> AsyncIterator[Node]:
    """Open a node on its data directory and run it until the block ends.

    ``connected=False`` opens the store alone, for commands while no node runs: nothing is asked of any upstream. ``sources`` says where
    a miss is looked for, in order. The ledger of an ``origin`` is never trimmed. Raises ``errors.Unusable`` (``datadir.Locked`` if
    another process has the directory and keeps it) and ``ValueError``, with a sentence each.
    """
    metrics = Metrics()
    rules_of = {name: create(s.kind, name, s.upstream, options_of(s)) for name, s in registries.items()}
    with await _own_directory(data, NODE_WAIT_S if connected else COMMAND_WAIT_S):
        catalog = await SqliteCatalog.open(data / "catalog.sqlite", keeps_ledger=role == "origin")
        try:
            blobs = DiskBlobs(
                data / "blobs", limit_bytes=store.limit_bytes, memory_bytes=store.spool_memory_bytes, metrics=metrics
            )
            await blobs.sweep()
            deployment = await catalog.recall("deployment")
            if deployment is None:
                deployment = secrets.token_hex(8)
                await catalog.remember("deployment", deployment)

            def direct(*, meagre: bool = False) -> RegistrySource:
                asked = {name: _upstream(rules_of[name], s, upstream) for name, s in registries.items()}
                return RegistrySource(
                    {name: each.meagre() for name, each in asked.items()} if meagre else asked,
                    clock=clock,
                    metrics=metrics,
                    user_agent=f"leeward/{release()}",
                    deployment_id=deployment,
                )

            async with open_flights(metrics) as flights, trio.open_nursery() as nursery:
                asked: Sequence[RunningSource] = ()
                if connected:
                    asked = sources(Makings(rules_of, catalog, metrics, clock, deployment, direct, partial(direct, meagre=True)))
                    introduce(asked)
                    for source in asked:
                        await nursery.start(source.run)
                since = {name: await _upstream_since(catalog, name, s.upstream, clock) for name, s in registries.items()}
                service = Service(
                    rules_of,
                    asked,
                    blobs,
                    catalog,
                    flights,
                    metrics,
                    clock,
                    serve_removed=frozenset(name for name, s in registries.items() if s.removed == "serve"),
                    upstream_since=since,
                )
                await service.keep_house()
                if connected:
                    nursery.start_soon(service.run)
                    trio.lowlevel.add_instrument(LoopWatch(metrics))
                yield Node(service, rules_of, metrics, deployment, catalog, blobs, flights, asked)
                # What has arrived whole need not be fetched again after a restart.
                with trio.move_on_after(LANDING_S):
                    await flights.wait_landed()
                nursery.cancel_scope.cancel()
        finally:
            # The catalogue's last transaction must not be cut short; bounded by one checkpoint of the write-ahead log.
            with trio.move_on_after(10, shield=True):
                await catalog.close()


async def _own_directory(data: Path, wait_s: float) -> DataDirectory:
    """Open the data directory, once whoever has it lets go of it. Raises as ``DataDirectory.open`` does, ``Locked`` after ``wait_s``.

    A node that answers commands there keeps it: that is not waited for.
    """
    deadline = trio.current_time() + wait_s
    waits = False
    while True:
        try:
            return DataDirectory.open(data)
        except Locked as error:
            if trio.current_time() >= deadline or await _is_served(data):
                raise
            if not waits:
                holder = f"process {error.holder}" if error.holder else "another process"
                log.info("the data directory %s is in use by %s: waiting up to %g s for it", data, holder, wait_s)
                waits = True
        await trio.sleep(LOCK_PAUSE_S)


async def _is_served(data: Path) -> bool:
    """Whether a node answers commands on this data directory."""
    for name in SOCKETS:
        try:
            await peer(data / name)
        except NotRunning:
            continue
        except CommandFailed:
            pass  # there is one, which is not for us to ask
        return True
    return False


async def _upstream_since(catalog: Catalog, name: str, url: str, clock: Clock) -> float:
    """Since when the instance has had this upstream, in UTC seconds; remembered over restarts."""
    key = f"upstream {name}"
    before = await catalog.recall(key)
    since, _, was = (before or "").partition(" ")
    if was == url:
        return float(since)
    # The first upstream an instance ever has was always its own.
    now = 0.0 if before is None else clock()
    await catalog.remember(key, f"{now} {url}")
    return now


def release() -> str:
    """Leeward's own version."""
    try:
        return version("leeward")
    except PackageNotFoundError:
        return "0"


def _upstream(registry: Registry, settings: RegistrySettings, upstream: UpstreamSettings) -> Upstream:
    return Upstream(
        registry=registry,
        aliases=frozenset(settings.aliases),
        fresh_s=settings.fresh_s,
        username=settings.username,
        password=settings.password,
        token=settings.token,
        proxy=upstream.proxy,
        ca=upstream.ca,
        timeouts=Timeouts(
            connect_s=upstream.connect_timeout_s, first_byte_s=upstream.answer_timeout_s, stall_s=upstream.idle_timeout_s
        ),
        page_limit_bytes=settings.page_limit_bytes,
        file_limit_bytes=settings.file_limit_bytes,
        pages_at_once=settings.pages_at_once,
        files_at_once=settings.files_at_once,
        rate_per_s=upstream.rate,
    )
