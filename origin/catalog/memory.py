"""The catalogue in dictionaries: a small real one for tests, which passes the same suite as SQLite's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import trio

from ..errors import Rebound, Unavailable
from ..model import Change, Digest, File, Page, Stamp
from . import ABSENT, Access, Binding, Event, StoredAnswer


@dataclass(slots=True)
class Holding:
    """A blob that is here."""

    size: int
    used_at: float
    pinned: bool = False


class MemoryCatalog:
    """A ``Catalog`` that forgets everything with its process. Each method is one step of the event loop, hence one transaction."""

    def __init__(self) -> None:
        self._answers: dict[str, StoredAnswer] = {}
        self._owners: dict[tuple[str, str], tuple[str, str]] = {}
        self._bindings: dict[str, Binding] = {}
        self._holdings: dict[Digest, Holding] = {}
        self._changes: list[Change] = []
        self._floor = 0
        self._events: list[Event] = []
        self._accesses: list[Access] = []
        self._memory: dict[str, str] = {}
        self._closed = False

    async def _begin(self) -> None:
        """Every method may wait, as those of a real catalogue do."""
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise Unavailable("The catalogue is closed")

    def _add_change(self, resource: str, digest: Digest | None = None) -> None:
        serial = self._changes[-1].serial + 1 if self._changes else 1
        self._changes.append(Change(serial, resource, digest))

    async def answer(self, page: Page) -> StoredAnswer | None:
        await self._begin()
        return self._answers.get(page.key)

    async def publish(self, answer: StoredAnswer) -> int:
        await self._begin()
        last = self._answers.get(answer.page.key)
        news = last is None or last.status != answer.status or answer.status not in ABSENT
        revision = (self._floor if last is None else last.stamp.revision) + news
        stamp = Stamp(answer.stamp.fresh_until, answer.stamp.stale_until, revision)
        self._answers[answer.page.key] = replace(answer, stamp=stamp)
        if news:
            self._add_change(answer.page.key)
        return revision

    async def renew(self, page: Page, stamp: Stamp, received_at: float) -> None:
        await self._begin()
        held = self._answers.get(page.key)
        if held is not None:
            stamp = Stamp(stamp.fresh_until, stamp.stale_until, held.stamp.revision)
            self._answers[page.key] = replace(held, stamp=stamp, received_at=received_at)

    async def expire(self, registry: str, project: str, views: str = "") -> int:
        await self._begin()
        found = [
            each
            for each in self._answers.values()
            if (each.page.registry, each.page.project) == (registry, project) and each.page.view.startswith(views)
        ]
        for each in found:
            stamp = Stamp(min(each.stamp.fresh_until, 0.0), each.stamp.stale_until, each.stamp.revision)
            self._answers[each.page.key] = replace(each, stamp=stamp)
        return len(found)

    async def views(self, registry: str, project: str) -> Sequence[Page]:
        await self._begin()
        pages = (each.page for each in self._answers.values())
        return sorted(
            (page for page in pages if (page.registry, page.project) == (registry, project)), key=lambda page: page.view
        )

    async def trim_absences(self, before: float, keep: int) -> int:
        await self._begin()
        absences = [each for each in self._answers.values() if each.status in ABSENT]
        absences.sort(key=lambda each: (each.received_at, each.page.key), reverse=True)
        old = [each for number, each in enumerate(absences) if number >= keep or each.received_at < before]
        for each in old:
            self._floor = max(self._floor, each.stamp.revision)
            del self._answers[each.page.key]
        return len(old)

    async def projects(self, registry: str) -> Sequence[str]:
        await self._begin()
        listings = (each for each in self._answers.values() if each.page.view == "" and each.status == 200)
        return sorted(each.page.project for each in listings if each.page.registry == registry)

    async def record_owners(self, registry: str, owners: Mapping[str, tuple[str, str]]) -> None:
        await self._begin()
        self._owners.update({(registry, path): owner for path, owner in owners.items()})

    async def owner(self, registry: str, path: str) -> tuple[str, str] | None:
        await self._begin()
        return self._owners.get((registry, path))

    async def bind(self, binding: Binding) -> None:
        await self._begin()
        name = binding.file.key
        bound = self._bindings.get(name)
        if bound is not None and bound.digest != binding.digest:
            raise Rebound(name, bound.digest, binding.digest)
        if bound is None:
            self._bindings[name] = binding
            self._add_change(name, binding.digest)
        held = self._holdings.setdefault(binding.digest, Holding(binding.size, binding.bound_at))
        held.size, held.used_at = binding.size, max(held.used_at, binding.bound_at)

    async def binding(self, file: File) -> Binding | None:
        await self._begin()
        return self._bindings.get(file.key)

    async def bindings(self, registry: str, project: str) -> Sequence[Binding]:
        await self._begin()
        found = (each for each in self._bindings.values() if (each.file.registry, each.file.project) == (registry, project))
        return sorted(found, key=lambda each: each.file.key)

    async def held(self, digest: Digest) -> int | None:
        await self._begin()
        found = self._holdings.get(digest)
        return None if found is None else found.size

    async def touch(self, used: Mapping[Digest, float]) -> None:
        await self._begin()
        for digest, at in used.items():
            if digest in self._holdings:
                self._holdings[digest].used_at = max(self._holdings[digest].used_at, at)

    async def pin(self, digest: Digest, pinned: bool = True) -> None:
        await self._begin()
        if digest in self._holdings:
            self._holdings[digest].pinned = pinned

    async def victims(self, need_bytes: int) -> Sequence[tuple[Digest, int]]:
        await self._begin()
        found = []
        for digest, holding in sorted(self._holdings.items(), key=lambda item: (item[1].used_at, item[0])):
            if need_bytes <= 0:
                break
            if not holding.pinned:
                found.append((digest, holding.size))
                need_bytes -= holding.size
        return found

    async def drop(self, digest: Digest) -> None:
        await self._begin()
        self._holdings.pop(digest, None)

    async def holdings(self) -> Sequence[tuple[Digest, int]]:
        await self._begin()
        return [(digest, holding.size) for digest, holding in self._holdings.items()]

    async def held_bytes(self) -> int:
        await self._begin()
        return sum(holding.size for holding in self._holdings.values())

    async def changes(self, after: int, limit: int = 1000) -> Sequence[Change]:
        await self._begin()
        return [each for each in self._changes if each.serial > after][:limit]

    async def oldest_change(self) -> int:
        await self._begin()
        return self._changes[0].serial if self._changes else 1

    async def trim_changes(self, keep: int) -> int:
        await self._begin()
        gone = max(0, len(self._changes) - max(1, keep))
        del self._changes[:gone]
        return gone

    async def record_event(self, event: Event) -> None:
        await self._begin()
        self._events.append(event)

    async def events(self, limit: int = 100, subject: str | None = None) -> Sequence[Event]:
        await self._begin()
        return [each for each in reversed(self._events) if subject in (None, each.subject)][:limit]

    async def record_accesses(self, batch: Iterable[Access]) -> None:
        await self._begin()
        self._accesses.extend(batch)

    async def accesses(self, file: str | None = None, limit: int = 100) -> Sequence[Access]:
        await self._begin()
        return [each for each in reversed(self._accesses) if file in (None, each.file)][:limit]

    async def trim_accesses(self, before: float, keep: int) -> int:
        await self._begin()
        count = len(self._accesses)
        recent = [each for each in self._accesses if each.at >= before]
        self._accesses = recent[max(0, len(recent) - keep) :]
        return count - len(self._accesses)

    async def remember(self, key: str, value: str) -> None:
        await self._begin()
        self._memory[key] = value

    async def recall(self, key: str) -> str | None:
        await self._begin()
        return self._memory.get(key)

    async def close(self) -> None:
        self._closed = True
