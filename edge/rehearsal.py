"""An outage rehearsed: a place of the mirror face where one run of a real client is answered from what is held, and watched.

What a build needs, often only the build knows. So it is run, with its repository at ``/-/rehearsal/<token>/…`` instead of ``/…``: answered
either by a twin of the node that has no source, as in an outage, or by the node itself; and what it asks for is written down. The token is
known to whoever began the rehearsal by the control socket, and to nobody else. Policy is in force there as everywhere.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import msgspec
import trio

from origin.flights import open_flights
from origin.http import Handler, Request, Response
from origin.http.problems import problem
from origin.metrics import Metrics
from origin.service import Service

from .mirror import Mirror

log = logging.getLogger("leeward.rehearsal")

PREFIX = "/-/rehearsal/"

LIMIT_REHEARSALS = 16
"""How many may go on at a time."""

LIMIT_ASKED = 100_000
"""How many requests of one are written down."""

LASTS_S = 4 * 3600.0
"""How long one may go on until it is taken for forgotten."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of a target that was asked for. ``reason`` is what a client is told, "" if it was given what it asked for."""

    status: int
    reason: str = ""


@dataclass(slots=True)
class Rehearsal:
    """One run, of an outage if ``held``. ``asked`` has the raw targets in their order, each with how it was answered last."""

    handle: Handler
    held: bool
    asked: dict[str, Answered] = field(default_factory=dict)
    ended: trio.Event = field(default_factory=trio.Event)


class Rehearsals:
    """All that go on at a node. ``mirror`` makes a mirror face for a service; ``run`` owns what they are made of."""

    def __init__(self, service: Service, live: Handler, mirror: Callable[[Service], Mirror]) -> None:
        self._service = service
        self._live = live
        self._mirror = mirror
        self._going: dict[str, Rehearsal] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep what rehearsals need, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def begin(self, *, held: bool) -> str:
        """Begin one: of an outage if ``held``. Gives the path that stands before a client's targets. Raises ``ValueError`` for too many."""
        if self._nursery is None or len(self._going) >= LIMIT_REHEARSALS:
            raise ValueError(f"{LIMIT_REHEARSALS} rehearsals go on already; try again when one has ended")
        token = secrets.token_urlsafe(24)
        await self._nursery.start(self._keep, token, held)
        return f"{PREFIX}{token}"

    async def _keep(self, token: str, held: bool, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """One rehearsal, until it ends or is taken for forgotten."""
        async with _handler(self._service, self._mirror) if held else _same(self._live) as handle:
            rehearsal = self._going[token] = Rehearsal(handle, held)
            task_status.started()
            try:
                with trio.move_on_after(LASTS_S):
                    await rehearsal.ended.wait()
            finally:
                self._going.pop(token, None)

    def end(self, path: str) -> dict[str, Answered]:
        """End the rehearsal at ``path`` and tell what was asked for. Raises ``ValueError`` if there is none."""
        rehearsal = self._going.pop(path.removeprefix(PREFIX), None)
        if rehearsal is None:
            raise ValueError("there is no such rehearsal, or it went on for too long")
        rehearsal.ended.set()
        return rehearsal.asked

    def before(self, handler: Handler) -> Handler:
        """``handler``, with what is asked in a rehearsal answered there."""

        async def handle(request: Request) -> Response:
            if not request.target.startswith(PREFIX):
                return await handler(request)
            token, slash, rest = request.target.removeprefix(PREFIX).partition("/")
            rehearsal = self._going.get(token)
            if rehearsal is None:
                return problem(404, "Not found", "there is no such thing", instance=PREFIX)
            target = slash + rest
            response = await rehearsal.handle(replace(request, target=target, listed=False))
            if len(rehearsal.asked) < LIMIT_ASKED:
                rehearsal.asked[target] = Answered(response.status, _reason(response))
            return _final(response) if rehearsal.held else response

        return handle


def _final(response: Response) -> Response:
    """What is not here now will not be in a moment: who is told 503 tries again for minutes, and fails all the same."""
    if response.status == 503:
        response.status = 500
        response.headers = [(name, value) for name, value in response.headers if name.lower() != "retry-after"]
    return response


def _reason(response: Response) -> str:
    if response.status < 400:
        return ""
    try:
        document = msgspec.json.decode(response.body if isinstance(response.body, bytes) else b"", type=dict[str, object])
    except msgspec.DecodeError:
        return response.reason
    return str(document.get("detail", response.reason))


@asynccontextmanager
async def _handler(service: Service, mirror: Callable[[Service], Mirror]) -> AsyncIterator[Handler]:
    metrics = Metrics()
    async with open_flights(metrics) as flights:
        yield mirror(service.alone(flights, metrics)).handle


@asynccontextmanager
async def _same(handler: Handler) -> AsyncIterator[Handler]:
    yield handler
