"""What an origin answers its edges besides packages: enrolment, the ledger, its policy, and what edges tell of themselves."""

from __future__ import annotations

import base64
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import trio

from ..errors import Refused
from ..feed import CursorGone, Ledger
from ..fleet import Fleet, Membership
from ..holdings import Holdings
from ..http import Request, Response
from ..http.coding import encode, negotiate_coding
from ..http.problems import problem
from ..identity import Identity
from ..intake import Intake
from ..model import Refuse
from ..registries import Registry
from ..tokens import key_name, read_secret
from . import wire
from .batches import Batches, coding_for, fields_of
from .server import CODINGS, LARGE_BYTES, Query, message, read, unknown

log = logging.getLogger("leeward.replication")

WAIT_S = 60.0
"""The longest that a question for changes is kept, whatever the asker says."""

PARTS = 5000
"""The most of a snapshot that is given at a time."""

LIMIT_BYTES: Mapping[str, int] = {"enrol": 4 << 10, "acknowledgements": 4 << 10, "holdings": 256 << 10}
"""The most bytes a message may have; of any other ``LIMIT_BATCH_BYTES``."""

LIMIT_BATCH_BYTES = 8 << 20
LIMIT_BATCH = 10_000
"""The most access records or offered files in a message."""

type Answering = Callable[[str, Request, Query], Awaitable[Response]]


class Policy(Protocol):
    """The verdicts in force here; ``recalling.CentralPolicy`` has them."""

    @property
    def current(self) -> wire.Verdicts: ...


@dataclass(frozen=True, slots=True)
class Central:
    """Everything of an origin that edges ask about."""

    fleet: Fleet
    ledger: Ledger
    policy: Policy
    intake: Intake
    holdings: Holdings
    identity: Identity


class Following:
    """Answers what ``Face`` does not. ``drain`` ends all waiting, so that a stop need not be waited for."""

    def __init__(
        self, central: Central, registries: Mapping[str, Registry], deployment: str, batches: Batches | None = None
    ) -> None:
        self._central = central
        self._batches = batches or Batches(central.ledger)
        self._registries = registries
        self._deployment = deployment
        self._waiting: dict[trio.CancelScope, Membership] = {}
        self._draining = False
        self._coded: tuple[int, str, bytes] | None = None
        self._coding = trio.Lock()
        central.fleet.on_ended(self._turn_away)
        self._routes: Mapping[str, tuple[str, Answering]] = {
            "instances": ("GET", self._instances),
            "changes": ("GET", self._changes),
            "snapshot": ("GET", self._snapshot),
            "verdicts": ("GET", self._verdicts),
            "edges": ("GET", self._edges),
            "acknowledgements": ("POST", self._acknowledgement),
            "accesses": ("POST", self._accesses),
            "offers": ("POST", self._offers),
            "holdings": ("POST", self._compare),
        }

    @property
    def revision(self) -> int:
        """The revision of the verdicts in force."""
        return self._central.policy.current.revision

    def heard(self, node: str, request: Request) -> None:
        """An edge asked for something."""
        self._central.fleet.heard(node, address=request.client)

    def drain(self) -> None:
        """Answer all who wait now, and whoever comes from now on at once."""
        self._draining = True
        for scope in self._waiting:
            scope.cancel()

    def _turn_away(self) -> None:
        for scope, membership in self._waiting.items():
            if not self._central.fleet.is_current(membership):
                scope.cancel()

    async def answer(self, node: str, request: Request, segments: Sequence[str], query: Query) -> Response | None:
        """As ``Rest`` has it."""
        route = self._routes.get(segments[0]) if len(segments) == 1 else None
        if route is None:
            return None
        method, answering = route
        if request.method != method and not (method == "GET" and request.method == "HEAD"):
            return problem(405, "Method not allowed", f"{method} only", headers=[("Allow", method)], instance=request.target)
        if (too_large := _too_large(request, segments[0])) is not None:
            return too_large
        return await answering(node, request, query)

    # ---- enrolment

    async def enrol(self, request: Request) -> Response:
        """Let whoever shows an invitation in."""
        if (too_large := _too_large(request, "enrol")) is not None:
            return too_large
        asked = read(request.body, wire.Enrolment)
        if asked.version != wire.VERSION:
            raise ValueError(
                f"this origin speaks version {wire.VERSION} of the protocol, the edge version {asked.version}: update the older"
            )
        found = await self._central.fleet.enrol(read_secret(asked.secret))
        if found is None:
            raise Refused(
                Refuse("this invitation is not known here, was used already, or has ended; ask for another one", "enrolment")
            )
        name, secret = found
        identity = self._central.identity
        return message(
            wire.Enrolled(
                edge=name,
                secret=secret,
                deployment=self._deployment,
                key=identity.key_text,
                fleet=base64.b64encode(self._central.fleet.key).decode(),
            )
        )

    async def _instances(self, _: str, __: Request, ___: Query) -> Response:
        return message(wire.Instances({name: registry.kind for name, registry in self._registries.items()}))

    # ---- the ledger and what is held

    async def _changes(self, node: str, request: Request, query: Query) -> Response:
        after = query.get("after", "")
        ledger = self._central.ledger
        epoch, serial = wire.read_cursor(after)
        if epoch == ledger.epoch:
            self._central.fleet.heard(node, serial=min(serial, ledger.head))
        wait_s = min(WAIT_S, _number(query, "wait", 0))
        membership = self._central.fleet.membership(node)
        if membership is None:
            return unknown(request.target)
        try:
            with trio.CancelScope() as scope:
                self._waiting[scope] = membership
                try:
                    await ledger.wait_beyond(after, _number(query, "verdicts", 0), 0 if self._draining else wait_s)
                finally:
                    del self._waiting[scope]
            if not self._central.fleet.is_current(membership):
                # Dismissed while it waited.
                return unknown(request.target)
            coding = coding_for(request.header("accept-encoding"))
            body, coding = await self._batches.batch(after, max(1, _number(query, "limit", 1000)), coding)
        except CursorGone as error:
            return problem(410, "Cannot be followed from there", str(error), instance=request.target)
        return Response(200, fields_of(coding), body)

    async def _snapshot(self, _: str, request: Request, query: Query) -> Response:
        limit = max(1, min(PARTS, _number(query, "limit", 1000)))
        found = await self._central.holdings.snapshot(query.get("after", ""), limit, self._central.ledger.epoch)
        return await self._coded_for(request, msgspec.json.encode(found))

    async def _compare(self, _: str, request: Request, __: Query) -> Response:
        asked = read(request.body, wire.Comparison)
        found = await self._central.holdings.compare(asked, self._central.ledger.epoch)
        return await self._coded_for(request, msgspec.json.encode(found))

    # ---- policy

    async def _verdicts(self, _: str, request: Request, __: Query) -> Response:
        coding = negotiate_coding(request.header("accept-encoding"), CODINGS)
        # All edges ask at once, and all for the same: whoever comes while it is made waits for it.
        async with self._coding:
            verdicts = self._central.policy.current
            coded = self._coded
            if coded is None or coded[:2] != (verdicts.revision, coding):
                coded = self._coded = (verdicts.revision, coding, await _encoded(msgspec.json.encode(verdicts), coding))
        return _in_coding(coded[2], coding)

    async def _acknowledgement(self, node: str, request: Request, _: Query) -> Response:
        told = read(request.body, wire.Acknowledgement)
        epoch, serial = wire.read_cursor(told.cursor)
        ledger, fleet = self._central.ledger, self._central.fleet
        membership = fleet.membership(node)
        if epoch == ledger.epoch and serial > ledger.head:
            # Perhaps it follows from a snapshot, and has seen lines that were not announced yet.
            await ledger.announce()
        # Nobody can have in force what is not decided yet: an edge that says so speaks of an origin that was restored since. Nor does one
        # that has followed lines which are not there: the ledger was rolled back, and its revisions are perhaps given anew by now.
        is_ahead = epoch == ledger.epoch and serial > ledger.head
        told = msgspec.structs.replace(told, verdicts=0 if is_ahead else min(told.verdicts, self.revision))
        if membership is None or not fleet.is_current(membership):
            # Dismissed meanwhile, or another one has its name now: the key is not for it.
            return unknown(request.target)
        fleet.acknowledge(node, told, min(serial, ledger.head) if epoch == ledger.epoch else 0)
        if told.fleet and told.fleet != key_name(fleet.key):
            return message(wire.Acknowledged(fleet=base64.b64encode(fleet.key).decode()))
        return _taken()

    # ---- what edges tell

    async def _accesses(self, node: str, request: Request, _: Query) -> Response:
        told = read(request.body, wire.Accesses).accesses
        if len(told) > LIMIT_BATCH:
            return _too_many(request)
        await self._central.intake.accesses(node, told)
        return _taken()

    async def _offers(self, node: str, request: Request, _: Query) -> Response:
        files = read(request.body, wire.Offers).files
        if len(files) > LIMIT_BATCH:
            return _too_many(request)
        await self._central.intake.offers(node, files)
        return _taken()

    async def _edges(self, _: str, __: Request, ___: Query) -> Response:
        return message(wire.Edges(tuple(self._central.fleet.states())))

    async def _coded_for(self, request: Request, body: bytes) -> Response:
        coding = negotiate_coding(request.header("accept-encoding"), CODINGS)
        return _in_coding(await _encoded(body, coding), coding)


async def _encoded(body: bytes, coding: str) -> bytes:
    if len(body) <= LARGE_BYTES:
        return encode(body, coding)
    return await trio.to_thread.run_sync(encode, body, coding)


def _in_coding(body: bytes, coding: str) -> Response:
    fields = [("Content-Type", "application/json"), ("Cache-Control", "no-store"), ("Vary", "Accept-Encoding")]
    if coding != "identity":
        fields.append(("Content-Encoding", coding))
    return Response(200, fields, body)


def _taken() -> Response:
    return Response(204, [("Cache-Control", "no-store")])


def _number(query: Query, name: str, default: int) -> int:
    text = query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ValueError(f"{name} is not a number: {text[:40]!r}")
    return int(text)


def _too_large(request: Request, what: str) -> Response | None:
    limit = LIMIT_BYTES.get(what, LIMIT_BATCH_BYTES)
    if len(request.body) <= limit:
        return None
    return problem(413, "Too large", f"a message of this kind has at most {limit} bytes", instance=request.target)


def _too_many(request: Request) -> Response:
    return problem(413, "Too many", f"at most {LIMIT_BATCH} at a time", instance=request.target)
