"""The catalogue in dictionaries: a small real one for tests, which passes the same suite as SQLite's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import trio

from ..api.wire import GENESIS
from ..errors import Rebound, Unavailable
from ..model import Change, Digest, File, Page, Stamp
from . import ABSENT, Access, Binding, Event, Line, Member, StoredAnswer, Wanted
from .records import digest_of_document, file_change, line_of, page_change


@dataclass(slots=True)
class Holding:
    """A blob that is here."""

    size: int
    used_at: float
    pinned: bool = False


class MemoryCatalog:
    """A ``Catalog`` that forgets everything with its process. Each method is one step of the event loop, hence one transaction."""

    def __init__(self, *, keeps_ledger: bool = False) -> None:
        self.keeps_ledger = keeps_ledger
        self.on_change: Callable[[], None] | None = None
        self._answers: dict[str, StoredAnswer] = {}
        self._owners: dict[tuple[str, str], tuple[str, str]] = {}
        self._bindings: dict[str, Binding] = {}
        self._holdings: dict[Digest, Holding] = {}
        self._lines: list[Line] = []
        self._floor = 0
        self._events: list[Event] = []
        self._accesses: dict[int, Access] = {}
        self._accesses_given = 0
        self._wanted: dict[str, Wanted] = {}
        self._invitations: dict[str, tuple[str, float]] = {}
        self._members: dict[str, Member] = {}
        self._memory: dict[str, str] = {}
        self._closed = False

    async def _begin(self) -> None:
        """Every method may wait, as those of a real catalogue do."""
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise Unavailable("The catalogue is closed")

    def _add_line(self, change: Change) -> int:
        serial, previous = self._head()
        self._lines.append(line_of(change, serial + 1, previous))
        if self.on_change is not None:
            self.on_change()
        return serial + 1

    def _head(self) -> tuple[int, bytes]:
        return (self._lines[-1].serial, self._lines[-1].hash) if self._lines else (0, GENESIS)

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
            self._add_line(page_change(answer, digest_of_document(answer.document)))
        return revision

    async def renew(self, page: Page, stamp: Stamp, received_at: float) -> None:
        await self._begin()
        held = self._answers.get(page.key)
        if held is not None:
            stamp = Stamp(stamp.fresh_until, stamp.stale_until, held.stamp.revision)
            self._answers[page.key] = replace(held, stamp=stamp, received_at=received_at)

    async def expire(self, registry: str, project: str, views: str = "") -> int:
        await self._begin()
        return self._expire(registry, project, views)

    def _expire(self, registry: str, project: str, views: str = "") -> int:
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
            self._bindings[name] = replace(binding, purl="", published=None, source="")
            self._add_line(file_change(binding))
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
        return [msgspec.json.decode(each.record, type=Change) for each in await self.lines(after, limit)]

    async def oldest_change(self) -> int:
        await self._begin()
        return self._lines[0].serial if self._lines else 1

    async def trim_changes(self, keep: int) -> int:
        await self._begin()
        gone = 0 if self.keeps_ledger else max(0, len(self._lines) - max(1, keep))
        del self._lines[:gone]
        return gone

    async def lines(self, after: int, limit: int = 1000) -> Sequence[Line]:
        await self._begin()
        return [each for each in self._lines if each.serial > after][:limit]

    async def head(self) -> tuple[int, bytes]:
        await self._begin()
        return self._head()

    async def append(self, change: Change, memory: Mapping[str, str] | None = None) -> int:
        await self._begin()
        self._memory.update(memory or {})
        return self._add_line(change)

    async def record_event(self, event: Event) -> None:
        await self._begin()
        self._events.append(event)

    async def events(self, limit: int = 100, subject: str | None = None) -> Sequence[Event]:
        await self._begin()
        return [each for each in reversed(self._events) if subject in (None, each.subject)][:limit]

    async def record_accesses(self, batch: Iterable[Access]) -> None:
        await self._begin()
        known = {(each.edge, each.number) for each in self._accesses.values() if each.number > 0}
        for access in batch:
            if (access.edge, access.number) not in known:
                self._accesses_given += 1
                self._accesses[self._accesses_given] = access
                known |= {(access.edge, access.number)} if access.number > 0 else set()

    async def accesses(self, file: str | None = None, limit: int = 100) -> Sequence[Access]:
        await self._begin()
        return [each for each in reversed(self._accesses.values()) if file in (None, each.file)][:limit]

    async def trim_accesses(self, before: float, keep: int) -> int:
        await self._begin()
        recent = {number: each for number, each in self._accesses.items() if each.at >= before}
        gone = len(self._accesses) - min(keep, len(recent))
        self._accesses = dict(list(recent.items())[max(0, len(recent) - keep) :])
        return gone

    async def accesses_after(self, number: int, limit: int = 1000) -> Sequence[tuple[int, Access]]:
        await self._begin()
        return [(each, access) for each, access in self._accesses.items() if each > number and not access.edge][:limit]

    async def deliveries(self, files: Sequence[str], digests: Sequence[str], limit: int = 1000) -> Sequence[Access]:
        await self._begin()
        found = [each for each in reversed(self._accesses.values()) if each.file in files or each.digest in digests]
        return sorted(found, key=lambda each: each.at, reverse=True)[:limit]

    async def remember(self, key: str, value: str) -> None:
        await self._begin()
        self._memory[key] = value

    async def recall(self, key: str) -> str | None:
        await self._begin()
        return self._memory.get(key)

    async def pages_after(self, key: str, limit: int = 1000) -> Sequence[Page]:
        await self._begin()
        held = sorted(name for name, answer in self._answers.items() if answer.status == 200 and name > key)
        return [self._answers[name].page for name in held[:limit]]

    async def bindings_after(self, name: str, limit: int = 1000) -> Sequence[Binding]:
        await self._begin()
        return [self._bindings[each] for each in sorted(self._bindings) if each > name][:limit]

    async def named(self, digest: Digest) -> Sequence[Binding]:
        await self._begin()
        return [self._bindings[each] for each in sorted(self._bindings) if self._bindings[each].digest == digest]

    async def bound(self, names: Sequence[str]) -> Mapping[str, Digest]:
        await self._begin()
        return {name: self._bindings[name].digest for name in names if name in self._bindings}

    async def counts(self) -> tuple[int, int]:
        await self._begin()
        return sum(each.status == 200 for each in self._answers.values()), len(self._bindings)

    async def follow(
        self, memory: Mapping[str, str], stale: Iterable[tuple[str, str]] = (), wanted: Iterable[Wanted] = ()
    ) -> Sequence[Wanted]:
        await self._begin()
        given: list[Wanted] = []
        for registry, project in stale:
            self._expire(registry, project)
        for each in wanted:
            known = self._wanted.get(each.key)
            changed = each if known is None else replace(known, due=min(known.due, each.due), asked=known.asked + 1)
            self._wanted[each.key] = replace(changed, asked=1) if known is None else changed
            given.append(replace(each, asked=self._wanted[each.key].asked))
        self._memory.update(memory)
        return given

    async def wanted(self, now: float, limit: int = 100) -> Sequence[Wanted]:
        await self._begin()
        due = [each for each in self._wanted.values() if each.due <= now]
        return sorted(due, key=lambda each: (each.dead, isinstance(each.resource, File), each.since, each.key))[:limit]

    async def settle(self, done: Iterable[str | Wanted], failed: Iterable[Wanted] = ()) -> None:
        await self._begin()
        for each in done:
            known = self._wanted.get(each if isinstance(each, str) else each.key)
            if known is not None and (isinstance(each, str) or each.asked == known.asked):
                del self._wanted[known.key]
        for again in failed:
            known = self._wanted.get(again.key)
            if known is not None:
                due = again.due if again.asked == known.asked else known.due
                self._wanted[again.key] = replace(known, due=due, attempts=again.attempts, error=again.error, dead=again.dead)

    async def unresolved(self) -> tuple[int, int, float | None]:
        await self._begin()
        every = self._wanted.values()
        return len(every), sum(each.dead for each in every), min((each.since for each in every), default=None)

    async def invite(self, name: str, secret: str, until: float) -> None:
        await self._begin()
        self._invitations[name] = (secret, until)

    async def enrol(self, invitation: str, secret: str, now: float) -> str | None:
        await self._begin()
        name = next((name for name, (shown, _) in self._invitations.items() if shown == invitation), None)
        if name is None or self._invitations.pop(name)[1] <= now:
            return None
        self._members[name] = Member(name, secret, now)
        for number, access in self._accesses.items():
            if access.edge == name:
                self._accesses[number] = replace(access, number=0)
        return name

    async def edges(self) -> Sequence[Member]:
        await self._begin()
        return [self._members[name] for name in sorted(self._members)]

    async def seen(self, edges: Iterable[Member]) -> None:
        await self._begin()
        for each in edges:
            known = self._members.get(each.name)
            if known is not None:
                self._members[each.name] = replace(each, secret=known.secret, enrolled_at=known.enrolled_at)

    async def dismiss(self, name: str) -> bool:
        await self._begin()
        member, invitation = self._members.pop(name, None), self._invitations.pop(name, None)
        return member is not None or invitation is not None

    async def backup(self, path: str) -> None:
        """Write the facts and the ledger down, for whoever wants to look: nothing can be made of it again."""
        await self._begin()
        facts = {"memory": self._memory, "lines": [each.record.decode() for each in self._lines]}
        await trio.to_thread.run_sync(_write_new, Path(path), json.dumps(facts))

    async def close(self) -> None:
        self._closed = True


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise Unavailable(f"The copy {path} cannot be made: {error.strerror}") from error
