"""``warm`` and ``ready`` as a node does them: bring here what lock files need, or say whether it is here, for when everything else is gone.

The command reads the lock files and sends what they need (``readiness.Asked``); what of that a client would ask for, and whether it would
get it, is found out here. For builds that only know themselves what they need, see ``rehearsal.py``: ``rehearse`` begins one and
``rehearsed`` ends it.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import msgspec
import trio

from origin.app import Node
from origin.control import Command, Progress
from origin.errors import Corrupt, NotFound, Refused, Unavailable
from origin.flights import open_flights
from origin.metrics import Metrics
from origin.model import File, Hold, Refuse
from origin.policy.rules import judge
from origin.service import Service

from .hosts import Hosts
from .readiness import Account, Asked, Lack, Thing, maven, npm, python
from .readiness.hands import AT_ONCE, Bring, Hand, Look, Tally
from .readiness.places import Places
from .rehearsal import Answered, Rehearsals

TELL_S = 0.1
"""How often the caller hears how far things are."""

REMEMBERED = 64
REMEMBERED_PATHS = 20_000
"""Of how many locks whose files must be read to know what they need it is remembered, and how much of each."""


class Wanted(msgspec.Struct, frozen=True):
    """What ``warm`` and ``ready`` are asked. ``urls`` are further addresses of this edge; ``everything`` means every file a lock names.

    ``local`` says that what is in no registry of this edge does not count.
    """

    locks: tuple[Asked, ...] = ()
    urls: tuple[str, ...] = ()
    at_once: int = AT_ONCE
    pin: bool = True
    everything: bool = False
    local: bool = False


class Rehearsed(msgspec.Struct, frozen=True):
    """What ``rehearsed`` is asked: which one ends, and ``key``, by which what it needed is remembered. ``keep`` brings that here.

    ``whole`` says that the client got to its end, and so asked for everything.
    """

    path: str
    key: str
    keep: bool = False
    pin: bool = True
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Warming:
    """What the commands stand on. ``paths`` is where each instance is offered, ``own`` are this edge's base URLs.

    ``hosts`` is None without a proxy face.
    """

    node: Node
    paths: Mapping[str, str]
    own: Sequence[str]
    hosts: Hosts | None
    rehearsals: Rehearsals | None = None

    def commands(self) -> dict[str, Command]:
        """The commands, by name."""
        found: dict[str, Command] = {"ready": self.ready, "unpin": self.unpin}
        if self.node.sources:
            found["warm"] = self.warm
        if self.rehearsals is not None:
            found |= {"rehearse": self.rehearse, "rehearsed": self.rehearsed}
        return found

    # -- lock files

    async def warm(self, arguments: dict[str, object], progress: Progress) -> object:
        """Bring here what lock files need."""
        wanted = _converted(arguments, Wanted)
        tally = Tally()
        tell = _Teller(progress, tally)
        tally.tell = tell
        node = self.node
        hand = Bring(node.service, node.catalog, node.sources, tally, at_once=max(1, wanted.at_once), pins=wanted.pin)
        accounts = [await self._survey(asked, wanted, hand) for asked in wanted.locks]
        await tell.last()
        return {
            "files": tally.files,
            "pages": tally.pages,
            "fetched": tally.fetched_files,
            "bytes": tally.fetched,
            "pinned": wanted.pin,
            "locks": [_told(account, local=wanted.local) for account in accounts],
        }

    async def ready(self, arguments: dict[str, object], progress: Progress) -> object:
        """Say whether lock files would install from what is here."""
        wanted = _converted(arguments, Wanted)
        async with _alone(self.node.service) as service:
            hand = Look(service)
            told = []
            for done, asked in enumerate(wanted.locks):
                await progress({"done": done, "total": len(wanted.locks)})
                told.append(_told(await self._survey(asked, wanted, hand), local=wanted.local))
        return {"ready": all(lock["ready"] for lock in told), "locks": told}

    async def unpin(self, arguments: dict[str, object], _: Progress) -> object:
        """Let what lock files need be evicted like anything else."""
        wanted = _converted(arguments, Wanted)
        async with _alone(self.node.service) as service:
            hand = Look(service, self.node.catalog)
            for asked in wanted.locks:
                await self._survey(asked, wanted, hand)
        return {"files": hand.unpinned}

    async def _survey(self, asked: Asked, wanted: Wanted, hand: Hand) -> Account:
        """Find out about all that one lock needs."""
        account = Account(asked)
        places = Places(self.node.registries, self.paths, (*self.own, *wanted.urls), self.hosts, asked.believed)
        locked = {_pair(wish.needed.project): wish.needed.version for wish in asked.wishes if wish.needed.kind == "maven"}
        modules = maven.Shop(hand, places, account, locked)
        distributions = python.Shop(hand, places, account, wanted.everything)
        shops: dict[str, python.Shop | npm.Shop | maven.Shop] = {
            "pypi": distributions,
            "npm": npm.Shop(hand, places, account),
            "maven": modules,
        }
        async with trio.open_nursery() as nursery:
            for wish in asked.wishes:
                nursery.start_soon(shops[wish.needed.kind].settle, wish)
            for build in asked.builds:
                nursery.start_soon(distributions.build, build)
        if locked:
            named = [f"{':'.join(name)}:{version}" for name, version in locked.items()]
            await self._remembering(f"lock {_digest(named)}", modules, maven.UNREAD, account)
        if distributions.unread or distributions.built:
            named = [f"{wish.needed.project} {wish.needed.version}" for wish in asked.wishes if wish.needed.kind == "pypi"]
            named += [f"{build.name} {' '.join(build.requires)}" for build in asked.builds]
            await self._remembering(f"built {_digest(named)}", distributions, python.UNREAD, account)
        return account

    async def _remembering(self, key: str, shop: maven.Shop | python.Shop, unread: str, account: Account) -> None:
        """Where what leads to more is missing, look for that as it was when this lock was brought here; when it is brought, remember."""
        if not shop.hand.brings and shop.unread:
            kept = await _recalled(self.node.service, key)
            await shop.remembered(kept or (), range(len(account.asked.targets)))
            if kept is None:
                account.notes[unread] = None
        elif shop.hand.brings and not account.lacks:
            await _remember(self.node.service, key, sorted(shop.asked))

    # -- rehearsals

    async def rehearse(self, arguments: dict[str, object], _: Progress) -> object:
        """Begin one, ``held`` or not."""
        assert self.rehearsals is not None, "the command is offered with them"
        return {"path": await self.rehearsals.begin(held=bool(arguments.get("held", False)))}

    async def rehearsed(self, arguments: dict[str, object], progress: Progress) -> object:
        """End one, and say what of what was asked for is here; of one that was not held, keep that."""
        assert self.rehearsals is not None, "the command is offered with them"
        wanted = _converted(arguments, Rehearsed)
        asked = self.rehearsals.end(wanted.path)
        account = Account(Asked("pom.xml", "pom.xml", (), ()))
        found = list(self._meant(asked))
        is_whole = wanted.whole
        tally = Tally()
        if wanted.keep:
            tell = _Teller(progress, tally)
            tally.tell = tell
            node = self.node
            hand = Bring(node.service, node.catalog, node.sources, tally, pins=wanted.pin)
            async with trio.open_nursery() as nursery:
                for files, answered in found:
                    nursery.start_soon(self._kept, hand, account, files, answered)
            await tell.last()
            if is_whole and not account.lacks:
                paths = {(files[0].registry, files[0].path) for files, _ in found}
                await _remember(node.service, f"pom {wanted.key}", sorted(paths))
        else:
            away = self.node.service.lapsed or "not here"
            for files, answered in found:
                self._noted(account, files, replace(answered, reason=away) if answered.status == 503 else answered)
            if not is_whole:
                # The build ended before it had asked for everything: what it needed before tells the rest.
                async with _alone(self.node.service) as service:
                    shop = maven.Shop(Look(service), Places(self.node.registries, self.paths, (), self.hosts), account)
                    shop.asked |= {(files[0].registry, files[0].path) for files, _ in found}
                    kept = await _recalled(self.node.service, f"pom {wanted.key}")
                    await shop.remembered(kept or (), ())
                is_whole = kept is not None
        return {
            "asked": len(asked),
            "whole": is_whole,
            "files": len(account.had),
            "bytes": tally.fetched,
            "missing": [_lack(each, account) for each in _sorted(account.lacks.values()) if each.why != "refused"],
            "refused": [_lack(each, account) for each in _sorted(account.lacks.values()) if each.why == "refused"],
            "pages": sorted(
                _page_asked(target) for target, answered in asked.items() if answered.status == 503 and _is_page(target)
            ),
        }

    async def _kept(self, hand: Bring, account: Account, files: Sequence[File], answered: Answered) -> None:
        """Keep what a client was given; what it was refused, or could not be given, is noted."""
        if answered.status != 200:
            self._noted(account, files, answered)
            return
        thing = _thing(files[0])
        try:
            await hand.file(files)
            account.had.add(thing)
        except (NotFound, Refused, Unavailable, Corrupt) as error:
            account.fail(thing, error, ())

    def _noted(self, account: Account, files: Sequence[File], answered: Answered) -> None:
        thing = _thing(files[0])
        if answered.status < 400:
            account.had.add(thing)
        elif answered.status == 403:
            verdict = judge(self.node.service.rules, self.node.registries[files[0].registry], files[0].project, files[0].version)
            account.lack(thing, "refused", answered.reason, (), verdict.rule if isinstance(verdict, Refuse | Hold) else "")
        elif answered.status not in (404, 410):
            account.lack(thing, "missing", answered.reason, ())

    def _meant(self, asked: Mapping[str, Answered]) -> Iterable[tuple[Sequence[File], Answered]]:
        """The files among targets that were asked for, checksums apart: those are made of what they are of."""
        paths = sorted(set(self.paths.values()), key=len, reverse=True)
        for target, answered in asked.items():
            path = next((path for path in paths if target.startswith(path)), None)
            if path is None:
                continue
            files: list[File] = []
            for name, registry in self.node.registries.items():
                if self.paths[name] == path:
                    try:
                        found = registry.resource("GET", target.removeprefix(path))
                    except ValueError:
                        continue
                    if isinstance(found, File) and not registry.checksum(found):
                        files.append(found)
            if files:
                yield files, answered


def _thing(file: File) -> Thing:
    return Thing(file.registry, file.project.replace("/", ":"), file.version, "file", file.filename)


def _is_page(target: str) -> bool:
    return target.rpartition("/")[2] == "maven-metadata.xml"


def _page_asked(target: str) -> str:
    return target.lstrip("/")


@asynccontextmanager
async def _alone(service: Service) -> AsyncIterator[Service]:
    """A twin of the node without sources."""
    metrics = Metrics()
    async with open_flights(metrics) as flights:
        yield service.alone(flights, metrics)


class _Teller:
    """Tells the caller how far things are, not more often than anybody can read."""

    def __init__(self, progress: Progress, tally: Tally) -> None:
        self._progress = progress
        self._tally = tally
        self._told_at = -TELL_S

    async def __call__(self) -> None:
        now = trio.current_time()
        if now - self._told_at >= TELL_S:
            self._told_at = now
            await self.last()

    async def last(self) -> None:
        """Tell now."""
        tally = self._tally
        await self._progress({"done": tally.done, "total": tally.total, "bytes": tally.fetched})


def _converted[T](arguments: Mapping[str, object], kind: type[T]) -> T:
    try:
        return msgspec.convert(arguments, kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise ValueError(f"not what this command is asked: {error}") from None


# ---- memory ----------------------------------------------------------------------------------------------------------

_INDEX = "brought"


async def _remember(service: Service, key: str, paths: Sequence[tuple[str, str]]) -> None:
    """Remember what a lock needed. The locks that were brought longest ago are forgotten."""
    if len(paths) > REMEMBERED_PATHS:
        return
    kept = msgspec.json.decode(await service.recall(_INDEX) or "[]", type=list[str])
    kept = [each for each in kept if each != key] + [key]
    await service.remember(f"{_INDEX} {key}", msgspec.json.encode(paths).decode())
    for gone in kept[:-REMEMBERED]:
        await service.remember(f"{_INDEX} {gone}", "")
    await service.remember(_INDEX, msgspec.json.encode(kept[-REMEMBERED:]).decode())


async def _recalled(service: Service, key: str) -> Sequence[tuple[str, str]] | None:
    """What a lock needed, which may be nothing; None if it was never brought here whole, or that was forgotten."""
    told = await service.recall(f"{_INDEX} {key}")
    return msgspec.json.decode(told, type=list[tuple[str, str]]) if told else None


# ---- what is told ----------------------------------------------------------------------------------------------------


def _told(account: Account, *, local: bool) -> dict[str, object]:
    """What was found out about a lock, as the caller gets it."""
    asked = account.asked
    platforms: list[dict[str, object]] = []
    for index, target in enumerate(asked.targets):
        lacks = [lack for lack in account.lacks.values() if index in lack.targets]
        unfit = account.unfit.get(index, "")
        is_ready = None if unfit and not asked.fixed else not unfit and not lacks
        platforms.append({"platform": target.platform, "python": target.python, "ready": is_ready, "why": unfit or None})
    fit = [each for each in platforms if each["ready"] is not None]
    outside = [each for each in account.elsewhere if each.remote]
    # What is lacking on platforms that the lock is not for says nothing.
    counted = {index for index, each in enumerate(platforms) if each["ready"] is not None}
    lacks = _sorted(lack for lack in account.lacks.values() if lack.targets & counted)
    return {
        "lock": asked.name,
        "format": asked.format,
        "ready": bool(fit) and all(each["ready"] for each in fit) and (local or not outside),
        "platforms": platforms,
        "missing": [_lack(lack, account) for lack in lacks if lack.why != "refused"],
        "refused": [_lack(lack, account) for lack in lacks if lack.why == "refused"],
        "elsewhere": [{"name": each.name, "where": each.where, "remote": each.remote} for each in account.elsewhere],
        "notes": list(account.notes),
        "things": len(account.had),
    }


def _lack(lack: Lack, account: Account) -> dict[str, object]:
    thing = lack.thing
    told: dict[str, object] = {
        "what": thing.what,
        "name": thing.name,
        "registry": thing.registry,
        "project": thing.project,
        "version": thing.version,
        "reason": lack.reason,
    }
    if lack.rule:
        told["rule"] = lack.rule
    if account.asked.targets:
        told["on"] = [str(account.asked.targets[index]) for index in sorted(lack.targets)]
    return told


def _sorted(lacks: Iterable[Lack]) -> list[Lack]:
    return sorted(lacks, key=lambda lack: (lack.thing.what != "page", lack.thing))


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:40]


def _pair(project: str) -> tuple[str, str]:
    group, _, artifact = project.partition("/")
    return group, artifact
