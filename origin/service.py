"""What a node does, whatever its sources and faces: pages and files, rules, house-keeping, and answers to operators.

Exactly one per node. ``pages.py`` and ``files.py`` hold the two halves; here they are joined with the store and the rules, and here are the
commands that an operator's socket offers: ``refresh``, ``why``, ``verify``, ``gc``, ``status``.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

import trio

from .access import AccessLog
from .api.wire import Verdicts
from .blobs import BlobStore
from .catalog import Binding, Catalog, Event
from .errors import Corrupt, NotFound, Unavailable
from .files import Delivery, Files
from .flights import Flights
from .groups import Groups, members_for
from .held import PageView
from .metrics import Metrics
from .model import Allow, Clock, Digest, File, Hold, Listing, Page, Refuse, Relay
from .notes import Notes
from .pages import ABSENT, Pages
from .policy.force import Policy
from .policy.purls import parse_purl
from .policy.recalls import Central
from .policy.recalls import read as read_verdicts
from .policy.rules import Rule, judge, verdicts
from .registries import Registry
from .relays import Relays
from .sources import Source

log = logging.getLogger("leeward.service")

HOUSEKEEPING_S = 2.0
"""How often uses and accesses are written down and the store's size is looked at."""

ADOPTION_S = 2.0
"""The longest time between a blob's rename and its row that gc allows for."""

TRIM_S = 3600.0
ACCESSES_KEPT_S = 30 * 86400.0
ACCESSES_KEPT = 3_000_000
"""How often what only grows is trimmed, and what the access ledger keeps at most: seconds back, and records."""

ABSENCES_KEPT_S = 30 * 86400.0
ABSENCES_KEPT = 100_000
"""What is kept of what does not exist: Maven's clients probe for a lot of it, and in an outage must hear the same; but anybody can make
names up.
"""

CHANGES_KEPT = 1_000_000
"""Lines of the ledger kept by a node that nobody follows. An origin's catalogue keeps all."""

type Progress = Callable[[dict[str, object]], Awaitable[None]]


class Service:
    """One node's service. ``run`` owns its background work; everything else may be called from any task meanwhile."""

    def __init__(
        self,
        registries: Mapping[str, Registry],
        sources: Sequence[Source],
        blobs: BlobStore,
        catalog: Catalog,
        flights: Flights,
        metrics: Metrics,
        clock: Clock,
        *,
        serve_removed: frozenset[str] = frozenset(),
        slow_s: float = 1.0,
        removal_confirm_s: float = 60.0,
        upstream_since: Mapping[str, float] | None = None,
    ) -> None:
        self.rules_trouble = ""
        self.central = Verdicts()
        self._central = Central()
        self._own_rules: tuple[Rule, ...] = ()
        self.lapsed = ""
        self._twins: weakref.WeakSet[Service] = weakref.WeakSet()
        self._serve_removed = serve_removed
        self.registries = registries
        self.metrics = metrics
        self.clock = clock
        self._blobs = blobs
        self._catalog = catalog
        self._flights = flights
        self._sources = sources
        self._purging = trio.Lock()
        self._trim_at = 0.0
        # Worker threads, apart: a bomb of an archive must not keep pages from being parsed.
        parsing, unpacking = trio.CapacityLimiter(4), trio.CapacityLimiter(2)
        self.accesses = AccessLog(catalog, metrics)
        notes = Notes(registries, sources, flights)
        self._pages = Pages(
            registries,
            sources,
            catalog,
            flights,
            clock,
            parsing,
            self._event,
            notes,
            slow_s=slow_s,
            removal_confirm_s=removal_confirm_s,
            upstream_since=upstream_since,
        )
        self._files = Files(
            registries,
            self._pages,
            sources,
            blobs,
            catalog,
            flights,
            clock,
            unpacking,
            self._event,
            self.evict,
            notes,
            serve_removed=serve_removed,
        )
        self._groups = Groups(self._pages, self._files, parsing)
        self._relays = Relays(registries, sources, flights, clock, parsing)

    # ---- for the faces

    async def page(self, page: Page, *, insist: bool = False, max_age_s: float | None = None) -> PageView:
        """See ``Pages.page``."""
        return await self._pages.page(page, insist=insist, max_age_s=max_age_s)

    async def deliver(self, file: File, *, hold_s: float) -> Delivery:
        """See ``Files.deliver``."""
        return await self._files.deliver(file, hold_s=hold_s)

    async def page_of(self, members: Sequence[tuple[Registry, Page]], *, insist: bool = False) -> PageView:
        """See ``Groups.page``."""
        return await self._groups.page(members, insist=insist)

    async def deliver_of(self, files: Sequence[File], *, hold_s: float) -> Delivery:
        """See ``Groups.deliver``."""
        return await self._groups.deliver(files, hold_s=hold_s)

    async def relay(self, relay: Relay) -> bytes:
        """See ``Relays.ask``."""
        self._pages.require_leave()
        registry = self.registries[relay.registry]
        return await self._relays.ask(relay, lambda project, version: judge(self.rules, registry, project, version))

    async def canonical_path(self, file: File) -> str:
        """The path under which a file that was asked for by name alone is offered. Raises like ``deliver``."""
        return (await self._files.resolve(file)).file.path

    async def held(self, page: Page) -> Listing | None:
        """What a page that is held says, as upstream sent it; None if it is not held, or known to be absent. Asks no upstream."""
        held = await self._pages.held(page)
        return held.listing if held is not None else None

    async def projects(self, registry: str) -> Sequence[str]:
        """The projects held of an instance, sorted."""
        return await self._catalog.projects(registry)

    async def remember(self, key: str, value: str) -> None:
        """Keep a small fact over restarts. Raises ``Unavailable``."""
        await self._catalog.remember(key, value)

    async def recall(self, key: str) -> str | None:
        """What was kept under ``key``, None if nothing was. Raises ``Unavailable``."""
        return await self._catalog.recall(key)

    # ---- for other nodes, and for what a node does by itself

    async def held_page(self, page: Page) -> PageView | None:
        """See ``Pages.held_view``."""
        return await self._pages.held_view(page)

    async def held_file(self, file: File) -> Delivery | None:
        """See ``Files.held``."""
        return await self._files.held(file)

    async def holds(self, file: File) -> Binding | None:
        """See ``Files.holds``."""
        return await self._files.holds(file)

    async def blob(self, digest: Digest) -> Delivery | None:
        """See ``Files.blob``."""
        return await self._files.blob(digest)

    async def exists(self, file: File) -> bool:
        """See ``Files.exists``."""
        return await self._files.exists(file)

    async def keep(self, resource: Page | File) -> None:
        """Bring a page or file here and wait until it is stored; nothing if it is held, and a page fresh. Raises like ``page`` and
        ``deliver``.
        """
        if isinstance(resource, Page):
            await self._pages.keep(resource)
        else:
            await self._files.keep(resource)

    async def doubt(self, registry: str, project: str) -> None:
        """See ``Pages.doubt_project``."""
        await self._pages.doubt_project(registry, project)

    def doubted(self, projects: Iterable[tuple[str, str]]) -> None:
        """See ``Pages.doubted``."""
        self._pages.doubted(projects)

    # ---- policy

    def set_rules(self, rules: Sequence[Rule]) -> None:
        """Put this node's own rules in force, at once and on every path."""
        self._own_rules = tuple(rules)
        self._enforce()

    def set_central(self, verdicts: Verdicts) -> None:
        """Put an origin's recalls and rules in force before this node's own, at once and on every path.

        Raises ``ValueError`` with a sentence if there is a rule that cannot be read. Then all that can be read is in force, and
        ``central`` is what it was before.
        """
        if verdicts == self.central:
            return
        self._central = read_verdicts(verdicts, self._central)
        self._enforce()
        if self._central.faults:
            raise ValueError("; ".join(self._central.faults))
        self.central = verdicts

    def lapse(self, reason: str) -> None:
        """Answer for no page and no file from now on, but with that reason; ``""`` to go on. In force at once."""
        self.lapsed = reason
        self._pages.lapse(reason)
        for twin in list(self._twins):
            twin.lapse(reason)

    def alone(self, flights: Flights, metrics: Metrics) -> Service:
        """A twin without sources over the same store, under the policy that this node has at any time: what it answers in an outage.

        It brings nothing here, and has nothing to ``run``.
        """
        twin = Service(
            self.registries, (), self._blobs, self._catalog, flights, metrics, self.clock, serve_removed=self._serve_removed
        )
        self._twins.add(twin)
        twin._take_over(self)
        twin.lapse(self.lapsed)
        return twin

    def _take_over(self, node: Service) -> None:
        self.central, self._central, self._own_rules = node.central, node._central, node._own_rules
        self._enforce()

    def _enforce(self) -> None:
        central = self._central
        shared = Policy(central.rules, central.digests)
        own = self._own_rules
        self._pages.enforce(Policy((*central.rules, *own), central.digests) if own else shared, shared)
        self._files.review()
        for twin in list(self._twins):
            twin._take_over(self)
        self.metrics.rules.set(len(self.rules))

    def set_rules_trouble(self, reason: str) -> None:
        """Say why the rules file is not in force, for whoever asks how the node is; ``""`` once it is."""
        self.rules_trouble = reason

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All that are in force: an origin's first."""
        return self._pages.policy.rules

    async def _event(self, kind: str, subject: str, detail: str) -> None:
        log.warning("%s: %s", kind, detail, extra={"subject": subject})
        self.metrics.events.labels(kind).inc()
        try:
            await self._catalog.record_event(Event(self.clock(), kind, subject, detail))
        except Unavailable as error:
            log.warning("the event could not be recorded: %s", error)

    # ---- house-keeping

    async def run(self) -> None:
        """Keep house until cancelled; then write down what is still in memory (bounded: 5 s)."""
        try:
            while True:
                await trio.sleep(HOUSEKEEPING_S)
                await self.keep_house()
        finally:
            # Shielded so that a stop does not lose the last accesses and uses; bounded by 5 s.
            with trio.move_on_after(5, shield=True):
                await self._write_down()

    async def keep_house(self) -> None:
        """Write down uses and accesses, evict what is over the limit, trim what only grows. A step that fails is tried again later."""
        for step in (self._write_down, self.evict, self._trim, self._pages.keep_house):
            try:
                await step()
            except Unavailable as error:
                log.warning("house-keeping put off: %s", error)
            except Exception:
                log.exception("house-keeping failed in %s", step.__name__)

    async def _write_down(self) -> None:
        await self._files.flush_uses()
        await self.accesses.flush()

    async def _trim(self) -> None:
        """Forget old access records, once in a while."""
        now = self.clock()
        if now >= self._trim_at:
            self._trim_at = now + TRIM_S
            await self._catalog.trim_accesses(now - ACCESSES_KEPT_S, ACCESSES_KEPT)
            await self._catalog.trim_absences(now - ABSENCES_KEPT_S, ABSENCES_KEPT)
            await self._catalog.trim_changes(CHANGES_KEPT)

    async def evict(self, more: int = 0) -> int:
        """Delete the least recently used blobs until the store is at ``normal`` with ``more`` bytes to come; returns the bytes freed."""
        if self._blobs.pressure_bytes(more) <= 0:
            return 0
        async with self._purging:
            # Whoever held the lock before may have made room enough.
            need = self._blobs.pressure_bytes(more)
            return await self._give_up(need) if need > 0 else 0

    async def make_room(self, need_bytes: int) -> int:
        """Delete the least recently used blobs, ``need_bytes`` of them, however much room there is; returns the bytes freed."""
        async with self._purging:
            return await self._give_up(need_bytes)

    async def _give_up(self, need: int) -> int:
        """Delete the least recently used blobs, while the purging lock is held; returns the bytes freed."""
        freed = 0
        # What was read a moment ago must not look unused.
        try:
            await self._files.flush_uses()
        except Unavailable as error:
            log.warning("last uses were not written down: %s", error)
        for digest, size in await self._catalog.victims(need):
            # The row goes first: a crash in between leaves an unreferenced blob for gc, never a row without its blob.
            await self._drop(digest)
            if not await self._blobs.delete(digest):
                continue
            freed += size
            if await self._catalog.held(digest) is not None:
                # The same bytes were bound under another name meanwhile: their row must not outlive them.
                await self._drop(digest)
        self.metrics.evicted_bytes.inc(freed)
        log.info("evicted %d bytes", freed)
        return freed

    async def _drop(self, digest: Digest) -> None:
        """Take a holding's row away. On a disk so full that not even that can be written, the blob goes first: room comes before rows."""
        try:
            await self._catalog.drop(digest)
        except Unavailable as error:
            log.warning("a row outlives its blob: %s", error)

    # ---- for operators

    def commands(self) -> dict[str, Callable[[dict[str, object], Progress], Awaitable[object]]]:
        """The commands of the operator's socket, by name."""
        return {
            "refresh": self._refresh_command,
            "why": self._why_command,
            "verify": self._verify_command,
            "gc": self._gc_command,
            "status": self._status_command,
        }

    def _instances(self, kind: str, project: str) -> list[tuple[Registry, str]]:
        found = [(r, r.normalise(project)) for r in self.registries.values() if r.kind == kind]
        if not found:
            raise ValueError(f"no registry of kind {kind!r} is configured here")
        return found

    async def _refresh_command(self, arguments: dict[str, object], progress: Progress) -> object:
        purl = str(arguments.get("purl", ""))
        kind, project, _ = parse_purl(purl)
        pages: list[dict[str, object]] = []
        instances = self._instances(kind, project)
        for registry, name in instances:
            listing = Page(registry.name, name)
            held = await self._catalog.views(registry.name, name)
            if not held and registry not in members_for([each for each, _ in instances], name):
                # Another one's name: this upstream was never told of it, and need not be.
                continue
            views = [page for page in held if page != listing and not page.view.startswith(ABSENT)]
            await self._pages.doubt_absences(registry.name, name)
            for page in (listing, *views):
                await progress({"page": page.key})
                try:
                    outcome = await self._pages.refresh(page)
                except (Unavailable, Corrupt, NotFound) as error:
                    outcome = f"failed: {error}"
                pages.append({"page": page.key, "outcome": outcome})
        return {"purl": purl, "pages": pages}

    async def _why_command(self, arguments: dict[str, object], _: Progress) -> object:
        return await self.why(str(arguments.get("purl", "")))

    async def why(self, purl: str) -> dict[str, object]:
        """Explain what this node would do with a project or version, without asking upstream. ``ValueError`` for a bad purl."""
        kind, project, version = parse_purl(purl)
        instances = self._instances(kind, project)
        asked = members_for([registry for registry, _ in instances], instances[0][1])
        answers = [await self._why(registry, name, version) for registry, name in instances if registry in asked or not asked]
        # The one that has it speaks first.
        answers.sort(key=lambda answer: (not answer["held"], answer["page"] is None))
        return {"purl": purl, **answers[0], "instances": answers} if len(answers) > 1 else {"purl": purl, **answers[0]}

    async def _why(self, registry: Registry, project: str, version: str | None) -> dict[str, object]:
        page = Page(registry.name, project)
        held = await self._pages.held(page)
        bindings = await self._catalog.bindings(registry.name, project)
        files: list[dict[str, object]] = [
            {
                "file": binding.file.filename,
                "version": binding.file.version,
                "digest": str(binding.digest),
                "size": binding.size,
                "bound_at": _time(binding.bound_at),
                "held": await self._catalog.held(binding.digest) is not None,
            }
            for binding in bindings
            if version is None or _same_version(registry, binding.file.version, version)
        ]
        verdict = judge(self.rules, registry, project, version) if version is not None else None
        # What is listed, and what was had without a listing.
        listed = verdicts(self.rules, registry, held.listing) if held is not None and held.listing is not None else {}
        had = {binding.file.version for binding in bindings}
        refused = sorted({*listed, *(one for one in had if not isinstance(judge(self.rules, registry, project, one), Allow))})
        about = f"{registry.name}:{project}:"
        events = [e for e in await self._catalog.events(1000) if e.subject.startswith(about)][:20]
        first = files[0] if files else {}
        return {
            "instance": registry.name,
            "project": project,
            "version": version,
            "verdict": "refuse" if isinstance(verdict, Refuse) else "hold" if isinstance(verdict, Hold) else "allow",
            "reason": verdict.reason if isinstance(verdict, Refuse | Hold) else "",
            "rule": verdict.rule if isinstance(verdict, Refuse | Hold) else "",
            "held": any(f["held"] for f in files),
            "digest": first.get("digest"),
            "size": first.get("size"),
            "bound_at": first.get("bound_at"),
            "files": files,
            "refused_versions": refused,
            "page": None
            if held is None
            else {
                "state": "absent" if held.listing is None else "fresh" if held.validity.fresh_until > self.clock() else "stale",
                "fresh_until": _time(held.answer.stamp.fresh_until),
                "received_at": _time(held.answer.received_at),
                "revision": held.answer.stamp.revision,
                "files": len(held.listing.entries) if held.listing is not None else 0,
            },
            "events": [{"at": _time(e.at), "kind": e.kind, "subject": e.subject, "detail": e.detail} for e in events],
        }

    async def _verify_command(self, _: dict[str, object], progress: Progress) -> object:
        return await self.verify(progress)

    async def verify(self, progress: Progress) -> dict[str, object]:
        """Hash every held blob again. A bad one goes to quarantine and is fetched again when it is next asked for."""
        holdings = await self._catalog.holdings()
        bad: list[str] = []
        missing: list[str] = []
        unreadable: list[str] = []
        seen_bytes = 0
        for done, (digest, size) in enumerate(holdings):
            try:
                sound = await self._blobs.verify(digest)
            except Unavailable as error:
                # For want of descriptors or memory, say: that condemns no blob.
                log.warning("could not be verified: %s", error, extra={"blob": str(digest)})
                unreadable.append(str(digest))
                continue
            if sound:
                seen_bytes += size
            elif await self._blobs.size(digest) is None:
                # It may have been evicted since the list was made: then nothing is wrong.
                if await self._catalog.held(digest) is not None:
                    missing.append(str(digest))
                    await self._event("blob-missing", str(digest), "the catalogue holds it, the store does not")
                    await self._catalog.drop(digest)
            else:
                bad.append(str(digest))
                await self._event("blob-damaged", str(digest), "its bytes do not match its name; put in quarantine")
                await self._catalog.drop(digest)
                await self._blobs.quarantine(digest)
            await progress({"done": done + 1, "total": len(holdings), "bytes": seen_bytes})
        return {"checked": len(holdings), "bad": bad, "missing": missing, "unreadable": unreadable, "bytes": seen_bytes}

    async def _gc_command(self, arguments: dict[str, object], progress: Progress) -> object:
        return await self.gc(progress, dry_run=bool(arguments.get("dry_run", False)))

    async def gc(self, progress: Progress, *, dry_run: bool) -> dict[str, object]:
        """Delete blobs that no row holds, and temporaries nobody writes; evict what is over the limit."""
        blobs = size_bytes = temporaries = 0
        unheld = [digest async for digest in self._blobs.digests() if await self._catalog.held(digest) is None]
        if unheld:
            # A blob becomes visible a moment before its row: what is still without one after this long is garbage.
            await trio.sleep(ADOPTION_S)
        async with self._purging:
            for digest in unheld:
                if await self._catalog.held(digest) is None:
                    size_bytes += await self._blobs.size(digest) or 0
                    blobs += 1
                    if not dry_run:
                        await self._blobs.delete(digest)
                    await progress({"blobs": blobs, "bytes": size_bytes})
        if not dry_run:
            temporaries = await self._blobs.sweep()
            size_bytes += await self.evict()
        return {"blobs": blobs, "bytes": size_bytes, "temporaries": temporaries, "dry_run": dry_run}

    async def _status_command(self, _: dict[str, object], __: Progress) -> object:
        return {
            "registries": {
                r.name: {
                    "kind": r.kind,
                    "upstream": r.upstream,
                    "answers": any(source.available(r.name, "page") for source in self._sources),
                    "projects": len(await self._catalog.projects(r.name)),
                }
                for r in self.registries.values()
            },
            "store": {"state": self._blobs.state(), "bytes": await self._catalog.held_bytes()},
            "flights": self._flights.statistics(),
            "rules": [{"name": rule.name, "reason": rule.reason} for rule in self.rules],
            "rules_file": self.rules_trouble or "in force",
            "events": [
                {"at": _time(e.at), "kind": e.kind, "subject": e.subject, "detail": e.detail}
                for e in await self._catalog.events(10)
            ],
        }


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _same_version(registry: Registry, one: str, other: str) -> bool:
    key = registry.version_key(one)
    return one == other or (key is not None and key == registry.version_key(other))
