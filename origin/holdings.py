"""What an origin holds, in one digest, so that an edge can tell by one question whether it lacks anything.

A binding lasts for ever and is one line of the ledger, so sums over bindings grow line by line: the first question about a set of releases
reads the whole ledger, later ones what came since.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import trio

from .api.wire import SHARDS, Compared, Comparison, HeldFile, Snapshot, cursor_text, shard_of, total_digest, wanted_by
from .catalog import Binding, Catalog
from .model import Change, File
from .policy.purls import purl_of
from .registries import Registry

PART = 1000

LIMIT_SETS = 32
"""Of how many sets of releases the sums are remembered; edges mostly want one and the same."""

LIMIT_SHARD = 200_000
"""The most names told of one shard."""

SHARDS_AT_ONCE = 16
"""How many shards' names are read together: who asks for one that differs will ask for the next, and each reading passes all bindings."""

NAMES_S = 60.0
"""How long they are kept for that."""

_PAGES, _FILES = "p.", "f."

_changes = msgspec.json.Decoder(Change)


class _Sums:
    """One sum for each shard over the bindings that match, up to the line ``serial``."""

    def __init__(self, match: tuple[str, ...]) -> None:
        self.is_wanted = wanted_by(match)
        self.serial = 0
        self.values = [0] * SHARDS
        self.lock = trio.Lock()

    def add(self, name: str, digest: str) -> None:
        shard = shard_of(name)
        hashed = hashlib.sha256(f"{name}\0{digest}".encode()).digest()
        self.values[shard] = (self.values[shard] + int.from_bytes(hashed)) % (1 << 256)

    def digests(self) -> tuple[str, ...]:
        return tuple(f"{each:064x}" for each in self.values)


@dataclass(frozen=True, slots=True)
class _Names:
    """The names of some shards as they were at ``serial``, read at ``at`` (trio's clock)."""

    match: tuple[str, ...]
    serial: int
    at: float
    shards: Mapping[int, Sequence[HeldFile]]


class Holdings:
    """Answers comparisons and gives snapshots. All may be asked at once."""

    def __init__(self, catalog: Catalog, registries: Mapping[str, Registry]) -> None:
        self._catalog = catalog
        self._registries = registries
        self._sums: OrderedDict[tuple[str, ...], _Sums] = OrderedDict()
        self._names: _Names | None = None
        self._reading = trio.Lock()
        self._total: int | None = None

    # ---- comparing

    async def compare(self, asked: Comparison, epoch: str) -> Compared:
        """One digest over the bindings whose release matches, or the names of a shard. Raises ``Unavailable``, ``ValueError``."""
        match = tuple(sorted(set(asked.match)))
        if asked.shard is not None:
            return await self._names_of(match, asked.shard, epoch)
        sums = self._sums.get(match)
        if sums is None:
            sums = self._sums[match] = _Sums(match)
            if len(self._sums) > LIMIT_SETS:
                self._sums.popitem(last=False)
        self._sums.move_to_end(match)
        async with sums.lock:
            await self._bring_up_to_date(sums)
            shards = sums.digests()
            return Compared(cursor=cursor_text(epoch, sums.serial), total=total_digest(shards), shards=shards)

    async def _bring_up_to_date(self, sums: _Sums) -> None:
        while lines := await self._catalog.lines(sums.serial, PART):
            for line in lines:
                change = _changes.decode(line.record)
                if change.kind == "file" and change.digest is not None and sums.is_wanted(self._purl(change)):
                    sums.add(change.resource, str(change.digest))
                sums.serial = line.serial
            await trio.lowlevel.checkpoint()

    async def _names_of(self, match: tuple[str, ...], shard: int, epoch: str) -> Compared:
        if not 0 <= shard < SHARDS:
            raise ValueError(f"there are {SHARDS} shards, from 0 on: {shard}")
        async with self._reading:
            names = self._names
            if names is None or names.match != match or shard not in names.shards or trio.current_time() - names.at > NAMES_S:
                names = self._names = await self._read_names(match, shard)
        return Compared(cursor=cursor_text(epoch, names.serial), files=tuple(names.shards[shard]))

    async def _read_names(self, match: tuple[str, ...], first: int) -> _Names:
        serial, _ = await self._catalog.head()
        found: dict[int, list[HeldFile]] = {shard: [] for shard in range(first, min(SHARDS, first + SHARDS_AT_ONCE))}
        is_wanted = wanted_by(match)
        async for binding in self._bindings():
            shard = found.get(shard_of(binding.file.key))
            if shard is not None and len(shard) < LIMIT_SHARD and is_wanted(self._purl(binding.file)):
                shard.append(held_file(binding))
        return _Names(match, serial, trio.current_time(), found)

    async def _bindings(self) -> AsyncIterator[Binding]:
        after = ""
        while some := await self._catalog.bindings_after(after, PART):
            after = some[-1].file.key
            for binding in some:
                yield binding
            await trio.lowlevel.checkpoint()

    def _purl(self, what: File | Change) -> str:
        registry = self._registries.get(what.registry)
        return purl_of(registry.kind, what.project, what.version) if registry is not None else ""

    # ---- the whole of it

    async def snapshot(self, after: str, limit: int, epoch: str) -> Snapshot:
        """A part of what is held, beyond ``after``: pages by key, then files by name. Raises ``Unavailable``, ``ValueError``."""
        # Before anything else is read: what changes from here on is told by the lines that follow.
        serial, last = await self._catalog.head()
        if not after or self._total is None:
            # Counting takes as long as a part does: once for all of them.
            self._total = sum(await self._catalog.counts())
        kind, key = (_PAGES, "") if not after else (after[:2], after[2:])
        if kind not in (_PAGES, _FILES):
            raise ValueError(f"not a place in a snapshot: {after[:64]!r}")
        pages = await self._catalog.pages_after(key, limit) if kind == _PAGES else ()
        files: Sequence[Binding] = ()
        if kind == _FILES or len(pages) < limit:
            files = await self._catalog.bindings_after(key if kind == _FILES else "", limit - len(pages))
        if kind == _PAGES and len(pages) == limit:
            following = _PAGES + pages[-1].key
        else:
            following = _FILES + files[-1].file.key if len(pages) + len(files) == limit and files else ""
        return Snapshot(
            cursor=cursor_text(epoch, serial),
            hash=last.hex(),
            pages=tuple(pages),
            files=tuple(held_file(binding) for binding in files),
            after=following,
            total=self._total,
        )


def held_file(binding: Binding) -> HeldFile:
    """A binding as nodes tell each other of it."""
    file = binding.file
    return HeldFile(
        registry=file.registry,
        project=file.project,
        version=file.version,
        filename=file.filename,
        path=file.path,
        digest=str(binding.digest),
        size=binding.size,
    )
