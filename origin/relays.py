"""Requests that are neither pages nor files: searches and audits, forwarded, and what comes back judged like everything else.

An answer is given again for as long as the registry's rules allow, and longer if upstream does not answer any more.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial

import trio

from .errors import Corrupt, NotFound, Unavailable
from .flights import Flight, Flights
from .model import Clock, Relay
from .registries import Judge, Registry
from .sources import Relayed, Source

log = logging.getLogger("leeward.relays")

REMEMBERED = 1000
REMEMBERED_BYTES = 16 * 1024 * 1024
"""How many answers are remembered, and how many bytes of them."""

STALE_S = 86400.0
"""How long an answer may stand in for an upstream that does not answer."""


class Relays:
    """Forwards through the first source that answers. For the event loop's thread."""

    def __init__(
        self,
        registries: Mapping[str, Registry],
        sources: Sequence[Source],
        flights: Flights,
        clock: Clock,
        threads: trio.CapacityLimiter,
    ) -> None:
        self._registries = registries
        self._sources = sources
        self._flights = flights
        self._clock = clock
        self._threads = threads
        self._kept: OrderedDict[Relay, tuple[float, bytes]] = OrderedDict()
        self._kept_bytes = 0

    async def ask(self, relay: Relay, judge: Judge) -> bytes:
        """What a client gets. Raises ``NotFound``, ``Unavailable``, ``Corrupt``, or ``ValueError`` for a request upstream cannot read."""
        registry = self._registries[relay.registry]
        # A body may hold megabytes.
        reading = partial(registry.forward, relay)
        fields = await trio.to_thread.run_sync(reading, limiter=self._threads) if relay.body else reading()
        body = b"" if fields is None else await self._fetched(registry, relay)
        # The rules are asked anew for each client: what upstream said is remembered, never what was left of it.
        try:
            return await trio.to_thread.run_sync(partial(registry.relayed, relay, body, judge), limiter=self._threads)
        except ValueError as error:
            raise Corrupt(f"upstream's answer makes no sense: {error}") from None

    async def _fetched(self, registry: Registry, relay: Relay) -> bytes:
        life_s = registry.relay_life_s(relay)
        kept = self._kept.get(relay)
        if kept is not None and self._clock() < kept[0] + life_s:
            self._kept.move_to_end(relay)
            return kept[1]
        try:
            answer = await (self._shared(relay) if life_s else self._send(relay))
        except Unavailable:
            if kept is not None and self._clock() < kept[0] + STALE_S:
                return kept[1]
            raise
        if answer.status in (404, 405, 410):
            raise NotFound("upstream offers nothing of the kind")
        if answer.status != 200:
            raise ValueError(f"upstream cannot make sense of the request ({answer.status})")
        if life_s:
            self._keep(relay, answer.body)
        return answer.body

    async def _shared(self, relay: Relay) -> Relayed:
        async def job(_: Flight[Relayed]) -> Relayed:
            return await self._send(relay)

        key = f"relay {relay.registry} {relay.method} {relay.request} {hashlib.sha256(relay.body).hexdigest()}"
        flight, _ = self._flights.join(key, job)
        return await flight.wait_outcome()

    async def _send(self, relay: Relay) -> Relayed:
        failure = Unavailable("no source is configured")
        for source in self._sources:
            if not source.available(relay.registry, "page"):
                # Nobody waits for an audit in an outage: installs go on without one.
                failure = Unavailable("upstream does not answer")
                continue
            try:
                return await source.relay(relay)
            except Unavailable as error:
                failure = error
        raise failure

    def _keep(self, relay: Relay, body: bytes) -> None:
        if len(body) > REMEMBERED_BYTES // 4:
            return
        before = self._kept.pop(relay, None)
        self._kept_bytes += len(body) - (len(before[1]) if before else 0)
        self._kept[relay] = (self._clock(), body)
        while len(self._kept) > REMEMBERED or self._kept_bytes > REMEMBERED_BYTES:
            _, (_, dropped) = self._kept.popitem(last=False)
            self._kept_bytes -= len(dropped)
