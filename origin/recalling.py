"""An origin's policy and its changes: the rules of its settings, recalls and their undoing, and who fetched what was recalled.

Policy is ``wire.Verdicts``, one revision after another. Each is written down with its line of the ledger in one transaction, then put in
force here, then announced; ``fleet.py`` knows which edges have it in force.

What an operator names is a release as a rule's ``match`` names it (``pkg:npm/evil@>=1,<2``), or bytes by a digest. Either is *expanded*:
a release to the digests of its files, so that they are refused under any name; a digest to the releases that have such a file.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import msgspec
import trio

from .api.wire import Recall, Verdicts
from .catalog import Access, Binding, Catalog
from .model import Change, Clock, Digest, Refuse
from .policy.purls import purl_of
from .policy.recalls import parse_digest
from .policy.rules import Rule, judge, parse_match
from .registries import Registry

log = logging.getLogger("leeward.recalling")

VERDICTS = "verdicts"
"""Under what the catalogue remembers them, as JSON; and what a line about them is about."""

PART = 1000

LIMIT_ACCESSES = 100_000
"""The most access records that one question about deliveries looks at."""


@dataclass(frozen=True, slots=True)
class Meant:
    """What a target means, as far as is known here.

    ``target`` is in its one spelling. ``bindings`` are the names that it means. ``also`` are names outside of the releases that it names,
    whose bytes are the same.
    """

    target: str
    purls: tuple[str, ...]
    digests: tuple[str, ...]
    bindings: tuple[Binding, ...]
    also: tuple[Binding, ...]


class Delivered(msgspec.Struct, frozen=True):
    """One file as somebody got it: a ``client`` of an ``edge``, or, where ``client`` is empty, the edge itself, from this origin.

    ``first`` and ``last`` are UTC seconds; of ``times`` deliveries ``whole`` were complete.
    """

    edge: str
    client: str
    token: str
    file: str
    digest: str
    first: float
    last: float
    times: int
    whole: int


class CentralPolicy:
    """The verdicts of an origin. ``open`` comes first. ``apply`` puts verdicts in force, and must not fail for those that were checked."""

    def __init__(
        self, catalog: Catalog, registries: Mapping[str, Registry], clock: Clock, apply: Callable[[Verdicts], None]
    ) -> None:
        self.current = Verdicts()
        self._catalog = catalog
        self._registries = registries
        self._clock = clock
        self._apply = apply
        self._changing = trio.Lock()

    def __repr__(self) -> str:
        return f"<CentralPolicy revision {self.current.revision}: {len(self.current.rules)} rules, {len(self.current.recalls)} recalls>"

    async def open(self) -> None:
        """Put in force what was in force before. Raises ``Unavailable``, and ``ValueError`` for what cannot be read."""
        known = await self._catalog.recall(VERDICTS)
        if known is not None:
            self.current = msgspec.json.decode(known, type=Verdicts)
        self._apply(self.current)

    # ---- changes

    async def set_rules(self, tables: Iterable[Mapping[str, object]]) -> bool:
        """Have these rules, raw and checked, in place of those before; False if they are the same. Raises ``Unavailable``."""
        rules = tuple(dict(table) for table in tables)
        async with self._changing:
            if rules == self.current.rules:
                return False
            await self._change(msgspec.structs.replace(self.current, rules=rules))
            return True

    async def recall(self, target: str, reason: str) -> tuple[Recall, Meant]:
        """Refuse a release, or bytes, from now on. What is recalled already is recalled again, with whatever is known of it by now.

        Raises ``ValueError`` for a target that names nothing, ``Unavailable``.
        """
        meant = await self.meant(target)
        async with self._changing:
            before = next((each for each in self.current.recalls if each.target == meant.target), None)
            recall = Recall(
                id=before.id if before is not None else self._new_id(),
                target=meant.target,
                reason=" ".join(reason.split()),
                at=before.at if before is not None else self._clock(),
                purls=_joined(before.purls if before is not None else (), meant.purls),
                digests=_joined(before.digests if before is not None else (), meant.digests),
            )
            others = tuple(each for each in self.current.recalls if each is not before)
            if recall != before:
                await self._change(msgspec.structs.replace(self.current, recalls=(*others, recall)))
                log.warning("recalled: %s", meant.target, extra={"reason": recall.reason, "files": len(meant.bindings)})
        return recall, meant

    async def undo(self, target: str) -> Recall:
        """Take a recall back: of a target, or by its id. Raises ``ValueError`` if there is none, ``Unavailable``."""
        async with self._changing:
            wanted = {target.strip(), target.strip().removeprefix("recall-")}
            with contextlib.suppress(ValueError):  # an id, perhaps
                wanted.add(spelled(target))
            found = next((each for each in self.current.recalls if each.target in wanted or each.id in wanted), None)
            if found is None:
                known = ", ".join(each.target for each in self.current.recalls)
                raise ValueError(f"{target[:200]!r} is not recalled; {f'what is: {known}' if known else 'nothing is'}")
            left = tuple(each for each in self.current.recalls if each is not found)
            await self._change(msgspec.structs.replace(self.current, recalls=left))
            log.warning("no longer recalled: %s", found.target)
            return found

    def _new_id(self) -> str:
        return str(self.current.revision + 1)

    async def _change(self, verdicts: Verdicts) -> None:
        verdicts = msgspec.structs.replace(verdicts, revision=self.current.revision + 1)
        text = msgspec.json.encode(verdicts)
        change = Change(
            0,
            VERDICTS,
            Digest("sha256", sha256(text).hexdigest()),
            kind="verdicts",
            at=self._clock(),
            revision=verdicts.revision,
        )
        # Shielded, and bounded by one write to the catalogue: were the caller cancelled between the commit and what follows, this revision
        # would be written down and not in force, and the next change would be another one of the same number.
        with trio.CancelScope(shield=True):
            await self._catalog.append(change, {VERDICTS: text.decode()})
            self.current = verdicts
            self._apply(verdicts)

    # ---- what a target means

    async def meant(self, target: str) -> Meant:
        """Expand a target. Raises ``ValueError`` for one that names nothing that could be."""
        name = spelled(target)
        if not name.startswith("pkg:"):
            digest = parse_digest(name)
            bindings = tuple(await self._catalog.named(digest)) if digest.algorithm == "sha256" else ()
            releases = (self._release(binding) for binding in bindings)
            return Meant(name, _joined((), (purl for purl in releases if purl)), _known((digest,), bindings), bindings, ())
        bindings = tuple([binding async for binding in self._bindings(name)])
        mine = {binding.file.key for binding in bindings}
        named = [each for digest in {binding.digest for binding in bindings} for each in await self._catalog.named(digest)]
        also = tuple(each for each in named if each.file.key not in mine)
        return Meant(name, (name,), _known((), bindings), bindings, also)

    async def _bindings(self, purl: str) -> AsyncIterator[Binding]:
        """The names bound here that a purl with or without a spec is about. One of no known version is so only if all versions are."""
        match = parse_match(purl)
        rules = (Rule("", match, "refuse", ""),)
        for registry in self._registries.values():
            if registry.kind != match.kind:
                continue
            async for binding in self._of(registry, match.name):
                file = binding.file
                if (file.version or not match.spec) and isinstance(judge(rules, registry, file.project, file.version), Refuse):
                    yield binding

    async def _of(self, registry: Registry, name: str) -> AsyncIterator[Binding]:
        """The bindings of a project; of all projects, if ``name`` is a pattern."""
        if "*" not in name:
            try:
                project = registry.normalise(name)
            except ValueError:
                return
            for binding in await self._catalog.bindings(registry.name, project):
                yield binding
            return
        after = beginning = f"{registry.name}:"
        while some := await self._catalog.bindings_after(after, PART):
            after = some[-1].file.key
            for binding in some:
                if not binding.file.key.startswith(beginning):
                    return
                yield binding

    def _release(self, binding: Binding) -> str:
        """The purl of a file's release; ``""`` if it cannot be told, or if no rule could name it."""
        registry = self._registries.get(binding.file.registry)
        if registry is None or not binding.file.version:
            return ""
        purl = purl_of(registry.kind, binding.file.project, binding.file.version)
        try:
            parse_match(purl)
        except ValueError:
            return ""
        return purl

    # ---- who has it

    async def who(self, target: str, limit: int = LIMIT_ACCESSES) -> tuple[Meant, Sequence[Delivered]]:
        """Who got what a target means: from the access ledgers of all edges, and what this origin gave them. Raises like ``recall``."""
        meant = await self.meant(target)
        files = [binding.file.key for binding in (*meant.bindings, *meant.also)]
        digests = [digest.value for digest in map(parse_digest, meant.digests) if digest.algorithm == "sha256"]
        return meant, grouped(await self._catalog.deliveries(files, digests, limit))


def grouped(accesses: Iterable[Access]) -> list[Delivered]:
    """Accesses by who got what through whom: edges' clients first, then the edges themselves; by name, then by time."""
    found: dict[tuple[str, str, str, str, str], list[Access]] = {}
    for each in accesses:
        # What an origin delivered, it delivered to the edge that its token names.
        edge, client, token = (each.edge, each.client, each.token) if each.edge else (each.token, "", "")
        found.setdefault((edge, client, token, each.file, each.digest), []).append(each)
    delivered = [
        Delivered(
            *key, first=min(each.at for each in some), last=max(each.at for each in some), times=len(some), whole=_whole(some)
        )
        for key, some in found.items()
    ]
    return sorted(delivered, key=lambda each: (each.client == "", each.edge, each.client, each.first, each.file))


def _whole(accesses: Iterable[Access]) -> int:
    return sum(each.complete for each in accesses)


def spelled(target: str) -> str:
    """A target in its one spelling: a digest as ``sha256-<hex>``, a purl as it was written. Raises ``ValueError`` with a sentence."""
    text = target.strip()
    if text[:4].lower() == "pkg:":
        parse_match(text)
        return f"pkg:{text[4:]}"
    algorithm, value = "sha256", text
    for separator in (":", "-"):
        head, found, rest = text.rpartition(separator)
        if found:
            algorithm, value = head, rest
            break
    try:
        return str(Digest.parse(algorithm, value))
    except ValueError:
        raise ValueError(
            f"{text[:100]!r} names neither a release, as in pkg:pypi/evil@1.0, nor bytes, as in sha256:<64 hexadecimal digits>"
        ) from None


def _known(first: Iterable[Digest], bindings: Iterable[Binding]) -> tuple[str, ...]:
    """``first`` and all digests that bindings know of their bytes: an edge may have met those under another name, by another algorithm.

    MD5 is left out: others can be given the same.
    """
    told = (digest for binding in bindings for digest in (binding.digest, *binding.aliases) if digest.algorithm != "md5")
    return _joined(map(str, first), map(str, told))


def _joined(first: Iterable[str], second: Iterable[str]) -> tuple[str, ...]:
    """All of both, each once, in order."""
    return tuple(dict.fromkeys((*first, *second)))
