"""What makes a node an origin: its identity, the ledger that is announced, policy, the fleet; and the commands for those who run it."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import trio

from . import backup
from .api.following import Central
from .api.wire import Verdicts, token_text
from .app import Node
from .control import Command, Progress
from .feed import Ledger, verify_ledger
from .fleet import Fleet
from .holdings import Holdings
from .identity import Identity, keep_fleet_key, open_identity
from .intake import Intake, Popularity
from .node_settings import OriginSettings
from .recalling import CentralPolicy, Delivered, Meant

log = logging.getLogger("leeward.origin")

KEY = "ledger key"
PIN = "pin"
"""Under what the catalogue remembers the ledger's public key, and the certificate's pin."""

DAY_S = 86400.0

WAIT_S = 30.0
"""How long a recall waits for edges, unless the operator says."""

LIMIT_WAIT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Origin:
    """An origin's parts. ``url`` is where edges find it."""

    node: Node
    central: Central
    policy: CentralPolicy
    popularity: Popularity
    data: Path
    url: str

    @property
    def identity(self) -> Identity:
        return self.central.identity

    @property
    def fleet(self) -> Fleet:
        return self.central.fleet

    @property
    def ledger(self) -> Ledger:
        return self.central.ledger

    async def run(self) -> None:
        """Everything that goes on in the background, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.ledger.run)
            nursery.start_soon(self.fleet.run)
            nursery.start_soon(self.popularity.run)
            nursery.start_soon(self.central.intake.run)


async def open_origin(node: Node, settings: OriginSettings, hosts: Iterable[str], url: str) -> Origin:
    """Make an origin of a node that is open. Policy is in force when this returns.

    ``hosts`` are what a certificate of its own names. Raises ``Unusable``, ``Unavailable``, ``ValueError``.
    """
    catalog, service, clock, metrics = node.catalog, node.service, node.service.clock, node.metrics
    given = (settings.tls.cert, settings.tls.key) if settings.tls.cert is not None and settings.tls.key is not None else None
    signed_by = await catalog.recall(KEY) or ""
    identity = open_identity(settings.data, hosts, time.time(), given=given, signed_by=signed_by)
    if not signed_by:
        await catalog.remember(KEY, identity.key_text)
    await _tell_new_pin(node, identity)
    ledger = await Ledger.open(catalog, identity.sign, clock)
    fleet = Fleet(
        catalog,
        clock,
        metrics,
        settings.fleet.lease_s,
        lambda: ledger.head,
        key=identity.fleet,
        keep_key=partial(keep_fleet_key, settings.data),
    )

    def apply(verdicts: Verdicts) -> None:
        try:
            service.set_central(verdicts)
        except ValueError as error:
            # By a newer Leeward: what can be read is in force.
            log.error("not all of this origin's own verdicts can be read: %s", error)  # noqa: TRY400 -- a sentence, no fault of ours
        ledger.set_verdicts(verdicts.revision)
        fleet.revision = verdicts.revision
        metrics.verdicts_revision.set(verdicts.revision)

    policy = CentralPolicy(catalog, node.registries, clock, apply)
    await policy.open()
    await fleet.open()
    popularity = Popularity(catalog, node.registries, clock, settings.fleet.popular)
    intake = Intake(catalog, node.registries, service.keep, popularity, metrics, clock)
    central = Central(fleet, ledger, policy, intake, Holdings(catalog, node.registries), identity)
    return Origin(node, central, policy, popularity, settings.data, url)


async def _tell_new_pin(node: Node, identity: Identity) -> None:
    pin = identity.pin().hex()
    known = await node.catalog.recall(PIN)
    if known is not None and known != pin:
        log.warning("the certificate has another key than before: edges that enrolled under the old one have to enrol again")
    if known != pin:
        await node.catalog.remember(PIN, pin)


# ---- commands -------------------------------------------------------------------------------------------------------


def commands(origin: Origin, *, running: bool) -> dict[str, Command]:
    """The commands of an origin by name. ``running`` says that it serves: then edges can hear of what is decided."""
    made = _Commands(origin, running)
    own: Mapping[str, Callable[[dict[str, object], Progress], Awaitable[object]]] = {
        "status": made.status,
        "verify": made.verify,
        "invite": made.invite,
        "edges": made.edges,
        "dismiss": made.dismiss,
        "recall": made.recall,
        "who": made.who,
        "backup": made.backup,
    }
    return {**origin.node.service.commands(), **own}


class _Commands:
    """One method for each command: arguments in, something that becomes JSON out."""

    def __init__(self, origin: Origin, running: bool) -> None:
        self._origin = origin
        self._running = running
        self._service = origin.node.service.commands()

    async def status(self, arguments: dict[str, object], progress: Progress) -> object:
        origin = self._origin
        found = await self._service["status"](arguments, progress)
        assert isinstance(found, dict)
        current = origin.policy.current
        states = origin.fleet.states()
        live = sum(state.live for state in states)
        return {
            "at": origin.url,
            "ledger": {"epoch": origin.ledger.epoch, "lines": origin.ledger.head, "waiting": origin.ledger.waiting},
            "edges": {"live": live, "gone": len(states) - live},
            "verdicts": {
                "revision": current.revision,
                "recalls": [{"recalled": each.target, "reason": each.reason} for each in current.recalls],
            },
            **found,
        }

    async def verify(self, arguments: dict[str, object], progress: Progress) -> object:
        found = await self._service["verify"](arguments, progress)
        assert isinstance(found, dict)
        report = await verify_ledger(self._origin.node.catalog, self._origin.identity.public_key)
        return found | {"ledger": {"lines": report.serial, "vouched": report.checkpoint, "problems": list(report.problems)}}

    async def invite(self, arguments: dict[str, object], _: Progress) -> object:
        name, valid_s = str(arguments.get("name", "")), _seconds(arguments, "valid_s", DAY_S)
        secret = await self._origin.fleet.invite(name, valid_s)
        return {
            "name": name,
            "token": token_text(self._origin.identity.pin(), secret),
            "until": self._origin.node.service.clock() + valid_s,
            "url": self._origin.url,
        }

    async def edges(self, _: dict[str, object], __: Progress) -> object:
        return {
            "lines": self._origin.ledger.head,
            "verdicts": self._origin.policy.current.revision,
            "now": self._origin.node.service.clock(),
            "edges": [msgspec.to_builtins(state) for state in self._origin.fleet.states()],
        }

    async def dismiss(self, arguments: dict[str, object], _: Progress) -> object:
        name = str(arguments.get("name", ""))
        if not await self._origin.fleet.dismiss(name):
            known = ", ".join(state.name for state in self._origin.fleet.states()) or "there are none"
            raise ValueError(f"there is no edge and no invitation named {name[:64]!r}; edges: {known}")
        return {"dismissed": name}

    async def recall(self, arguments: dict[str, object], progress: Progress) -> object:
        target, policy = str(arguments.get("target", "")), self._origin.policy
        if arguments.get("undo"):
            recall = await policy.undo(target)
            told: dict[str, object] = {"undone": recall.target, "reason": recall.reason}
        else:
            reason = str(arguments.get("reason", "")).strip()
            if not reason:
                raise ValueError("a recall needs a reason: it is what people are told who ask for the package")
            recall, meant = await policy.recall(target, reason)
            told = {"recalled": recall.target, "reason": recall.reason, **_meant(meant)}
        revision = policy.current.revision

        async def progressing(done: int, total: int) -> None:
            await progress({"done": done, "total": total, "step": "acknowledged"})

        wait_s = min(LIMIT_WAIT_S, _seconds(arguments, "wait_s", WAIT_S)) if self._running else 0.0
        have, missing = await self._origin.fleet.wait_acknowledged(revision, wait_s, progressing)
        return {
            **told,
            "id": recall.id,
            "verdicts": revision,
            "acknowledged": list(have),
            "missing": list(missing),
            "gone": [state.name for state in self._origin.fleet.states() if not state.live],
            "running": self._running,
        }

    async def who(self, arguments: dict[str, object], _: Progress) -> object:
        # What was delivered a moment ago is still in memory.
        await self._origin.node.service.accesses.flush()
        meant, delivered = await self._origin.policy.who(str(arguments.get("target", "")))
        by_edges = [msgspec.to_builtins(each) for each in delivered if each.client]
        brought = [msgspec.to_builtins(each) for each in delivered if not each.client]
        return {"target": meant.target, **_meant(meant), "deliveries": by_edges, "brought": brought, "edges": _edges(delivered)}

    async def backup(self, arguments: dict[str, object], progress: Progress) -> object:
        directory = Path(str(arguments.get("directory", "")))
        if not directory.is_absolute():
            raise ValueError(f"not an absolute path: {str(directory)[:100]!r}")
        node = self._origin.node
        told = await backup.back_up(
            node.catalog, node.blobs, self._origin.data, directory, node.deployment, node.service.clock(), progress
        )
        return told | {"certificate": self._origin.identity.certificate.is_relative_to(self._origin.data)}


def _meant(meant: Meant) -> dict[str, object]:
    return {
        "files": [{"file": binding.file.key, "digest": str(binding.digest), "size": binding.size} for binding in meant.bindings],
        "also": [binding.file.key for binding in meant.also],
        "purls": list(meant.purls),
    }


def _edges(delivered: Iterable[Delivered]) -> list[str]:
    return sorted({each.edge for each in delivered if each.edge})


def _seconds(arguments: Mapping[str, object], name: str, default: float) -> float:
    value = arguments.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise ValueError(f"{name} is no number of seconds: {value!r}")
    return float(value)
