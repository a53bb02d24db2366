"""Pages as a node holds them: fresh, stale, absent or never seen; revalidated by one flight each; restricted by policy.

The order of things for a request, all in ``Pages.page``: what is held and fresh is the answer. What is held and stale is revalidated, but
nobody waits longer than ``SLOW_S`` for that, and nobody waits at all while the source says it is not worth it. What
is not held is waited for, within the source's own bounds.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import trio

from . import freshness
from .catalog import Binding, Catalog, StoredAnswer
from .errors import Corrupt, NotFound, Refused, Unavailable
from .flights import Flight, Flights
from .graveyard import Graveyard
from .model import Allow, Clock, Digest, Entry, File, Hold, Listing, Page, Refuse, Stamp, Validity, Verdict
from .notes import Notes
from .policy.rules import Rule, judge, judge_page, verdicts
from .registries import Registry
from .sources import Absent, Answer, Known, NotModified, Received, Source

log = logging.getLogger("leeward.pages")

SLOW_S = 1.0
"""Stale-if-slow: how long a request waits for a revalidation while something usable is held. pip gives up after 15 s."""

LOOK_S = 1.0
"""How often an upstream that is in doubt is asked because of pages that are held."""

INSIST_S = 10.0
"""A page confirmed less than this long ago is not asked for again because a client says ``no-cache``."""

REMOVAL_CONFIRM_S = 60.0
"""What is missing upstream is believed only when it is still missing this much later: CDN nodes disagree after a publish."""

LARGE_BYTES = 16 * 1024
"""Documents beyond this are parsed and edited in a worker thread. (A Maven page has more versions in less room than any other: to judge
and take off those of 35 KB takes 26 ms.)
"""

JUDGED_BYTES = 32
"""How many bytes of a document are parsed in the time in which one rule judges one version."""

MEMORY_BYTES = 128 * 1024 * 1024
"""How much stays parsed in memory: documents as stored, and their entries."""

ENTRY_BYTES = 1600
"""What an entry of a parsed listing takes beside its document, about."""

SIDECAR = ".metadata"

ABSENT = "absent/"
"""Before a file's path: the view under which it is remembered that upstream has no such file, where no page lists files."""

ABSENT_S = 300.0
"""How long that is believed; afterwards it still stands in for an upstream that does not answer."""


@dataclass(frozen=True, slots=True)
class PageView:
    """A page ready to be written for a client. ``outcome`` is a label for metrics, ``cache_status`` the RFC 9211 member's parameters."""

    listing: Listing
    stamp: Stamp
    validity: Validity
    received_at: float
    serial: int | None
    outcome: str
    cache_status: str
    last_modified: str | None = None

    @property
    def fresh(self) -> bool:
        return self.outcome in ("hit", "miss", "revalidated", "collapsed")


class HeldPage:
    """One page in memory: the answer's facts, the listing as upstream means it, and the last view made of it."""

    __slots__ = (
        "answer",
        "listing",
        "making",
        "policy",
        "restricted",
        "retired",
        "sidecars",
        "size",
        "validity",
        "vanishing",
        "view",
        "weight",
    )

    def __init__(self, answer: StoredAnswer, listing: Listing | None) -> None:
        self.size = len(answer.document) + 2048
        self.weight = self.size + (ENTRY_BYTES * len(listing.entries) if listing is not None else 0)
        # The listing holds the document; the answer here is only its facts.
        self.answer = replace(answer, document=b"")
        self.listing = listing
        self.view: Listing | None = None
        self.sidecars: dict[str, Digest] | None = None
        # When policy last changed what is left of it, and what it took off then; None until that was looked up.
        self.restricted: tuple[float, str] | None = None
        self.policy = -1
        self.validity = Validity(answer.stamp.fresh_until)
        self.making = trio.Lock()
        self.retired = False
        # What the last look missed; None if that look was before a restart.
        self.vanishing: frozenset[str] | None = None

    @property
    def listings(self) -> tuple[Listing, ...]:
        """What it holds, each once."""
        return tuple(each for each in (self.listing, self.view if self.view is not self.listing else None) if each is not None)

    def restamp(self, stamp: Stamp, received_at: float) -> None:
        self.answer = replace(self.answer, stamp=stamp, received_at=received_at)
        self.validity.fresh_until = stamp.fresh_until

    def forget_view(self) -> None:
        """What was rendered from the view must not be sent any more; a new view has a validity of its own."""
        self.validity.valid = False
        self.view = None

    def retire(self) -> None:
        """It is held no more: whoever still works with it may finish, but what is made of it may never be kept."""
        self.retired = True
        self.forget_view()


type Refreshed = tuple[str, HeldPage]
"""How a refresh ended (``"200"``, ``"304"``, ``"404"``) and what is held now."""


class Pages:
    """All pages of a node. ``event(kind, subject, detail)`` tells operators; ``rules`` are those in force.

    ``upstream_since`` says since when (UTC seconds) each instance has had the upstream it has: validators and serials
    older than that are another upstream's and mean nothing to this one.
    """

    def __init__(
        self,
        registries: Mapping[str, Registry],
        sources: Sequence[Source],
        catalog: Catalog,
        flights: Flights,
        clock: Clock,
        threads: trio.CapacityLimiter,
        event: Callable[[str, str, str], Awaitable[None]],
        notes: Notes,
        *,
        slow_s: float = SLOW_S,
        removal_confirm_s: float = REMOVAL_CONFIRM_S,
        upstream_since: Mapping[str, float] | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._registries = registries
        self._sources = sources
        self._catalog = catalog
        self._flights = flights
        self._clock = clock
        self._threads = threads
        self._event = event
        self._notes = notes
        self._slow_s = slow_s
        self._removal_confirm_s = removal_confirm_s
        self._upstream_since = upstream_since or {}
        self._memory_bytes = memory_bytes
        self._held: OrderedDict[Page, HeldPage] = OrderedDict()
        self._held_bytes = 0
        self._loading: dict[Page, trio.Lock] = {}
        self._graveyard = Graveyard(clock, threads)
        self._looked: dict[str, float] = {}
        self._rules: tuple[Rule, ...] = ()
        self._policy = 0

    async def keep_house(self) -> None:
        """Free what was dropped since the last call."""
        await self._graveyard.let_go()

    # ---- policy

    @property
    def rules(self) -> tuple[Rule, ...]:
        return self._rules

    def set_rules(self, rules: Sequence[Rule]) -> None:
        """Put rules in force at once: every rendering made under the old ones is void when this returns."""
        self._rules = tuple(rules)
        self._policy += 1
        for held in self._held.values():
            # Of an absence nothing is rendered, and no view of it would ever have a validity anew.
            if held.listing is not None:
                self._graveyard.bury(*held.listings)
                held.forget_view()

    # ---- asking

    async def page(self, page: Page, *, insist: bool = False) -> PageView:
        """Answer with a page as policy leaves it.

        ``insist`` asks upstream even if the page is fresh, unless it was confirmed within ``INSIST_S``. Raises ``NotFound``,
        ``Refused``, ``Unavailable`` or ``Corrupt``.
        """
        registry = self._registries[page.registry]
        self._require_allowed(registry, page)
        held = await self.held(page)
        now = self._clock()
        if held is None or freshness.judge(held.answer.stamp, now) == "dead":
            return await self._cold(page)
        fresh = freshness.judge(held.answer.stamp, now) == "fresh"
        if fresh and not (insist and now - held.answer.received_at > INSIST_S):
            return await self._view(held, "hit", "hit")
        if not self._answers(page.registry):
            self._look(page)
            return await self._view(held, "stale", "hit; detail=upstream-down")
        flight, joined = self._refresh(page)
        with trio.move_on_after(self._slow_s):
            try:
                how, held = await flight.wait_outcome()
            except (Unavailable, Corrupt):
                return await self._view(held, "stale", "hit; detail=upstream-down")
            forwarded = f"fwd={'request' if fresh else 'stale'}; fwd-status={how}"
            return await self._view(held, "revalidated", forwarded + ("; collapsed" if joined else ""))
        return await self._view(held, "stale", "hit; detail=upstream-slow")

    async def _cold(self, page: Page) -> PageView:
        flight, joined = self._refresh(page)
        _, held = await flight.wait_outcome()
        status = "fwd=uri-miss; stored" + ("; collapsed" if joined else "")
        return await self._view(held, "collapsed" if joined else "miss", status)

    async def refresh(self, page: Page) -> str:
        """Ask upstream now, whatever is held. Returns how it ended: ``"200"``, ``"304"``, ``"404"``; raises like ``page``."""
        self._flights.forget(f"page {page.key}")
        flight, _ = self._refresh(page)
        how, _ = await flight.wait_outcome()
        return how

    def refresh_soon(self, held: HeldPage) -> None:
        """Revalidate in the background if stale; whoever caused this does not wait."""
        if freshness.judge(held.answer.stamp, self._clock()) != "fresh":
            if self._answers(held.answer.page.registry):
                self._refresh(held.answer.page)
            else:
                self._look(held.answer.page)

    def _look(self, page: Page) -> None:
        """Ask an upstream that is in doubt, for nobody in particular. One page is enough: a flight for each request could only fail."""
        now = trio.current_time()
        if now - self._looked.get(page.registry, -math.inf) >= LOOK_S:
            self._looked[page.registry] = now
            self._refresh(page)

    def _answers(self, registry: str) -> bool:
        return any(source.available(registry, "page") for source in self._sources)

    async def held(self, page: Page) -> HeldPage | None:
        """What is held of a page, without asking upstream."""
        held = self._held.get(page)
        if held is not None:
            self._held.move_to_end(page)
            return held
        lock = self._loading.setdefault(page, trio.Lock())
        try:
            async with lock:
                # Re-check inside: whoever held the lock before has loaded it.
                held = self._held.get(page)
                if held is None:
                    answer = await self._catalog.answer(page)
                    # A refresh may have published and kept a newer one while the catalogue was read.
                    held = self._held.get(page)
                    if held is None and answer is not None:
                        held = await self._reread(answer)
                        if held is not None and page not in self._held:
                            self._keep(held)
                        held = self._held.get(page, held)
                return held
        finally:
            if not lock.statistics().tasks_waiting:
                self._loading.pop(page, None)

    async def _reread(self, answer: StoredAnswer) -> HeldPage | None:
        """A stored answer in memory; None if it can no longer be read, so that upstream is asked as if nothing were held."""
        if answer.status != 200:
            return HeldPage(answer, None)
        registry = self._registries[answer.page.registry]
        try:
            listing = await self._work(len(answer.document), lambda: registry.reread(answer.page, answer.document))
        except ValueError as error:
            await self._event("unreadable-page", answer.page.key, f"what is stored of it cannot be read: {error}")
            return None
        return HeldPage(answer, listing)

    # ---- views

    def _require_allowed(self, registry: Registry, page: Page) -> None:
        if page.project and (refused := judge_page(self._rules, registry, page.project)) is not None:
            raise Refused(refused)
        version = registry.version_of(page)
        if version is not None:
            verdict = judge(self._rules, registry, page.project, version)
            if not isinstance(verdict, Allow):
                raise Refused(verdict)

    async def _view(self, held: HeldPage, outcome: str, cache_status: str) -> PageView:
        if held.answer.status != 200 or held.listing is None:
            page = held.answer.page
            raise NotFound(f"{' of '.join(filter(None, (page.view, page.project))) or 'this'} does not exist upstream")
        if held.view is None or held.policy != self._policy:
            # One at a time: a hundred askers after a rule's edit must not restrict a large page a hundred times.
            async with held.making:
                await self._make_view(held, held.listing)
        view = held.view
        assert view is not None
        if view.restrictions and not view.entries:
            # Nothing is left. An empty page would say that the project has no versions, which is not so.
            raise Refused(_first(view.restrictions))
        answer = held.answer
        return PageView(
            view, answer.stamp, held.validity, answer.received_at, answer.serial, outcome, cache_status, answer.last_modified
        )

    async def _make_view(self, held: HeldPage, listing: Listing) -> None:
        """Make ``held.view`` what sidecars and the rules now in force leave of ``listing``. No checkpoint between that and return."""
        registry = self._registries[held.answer.page.registry]
        while held.view is None or held.policy != self._policy:
            policy, rules = self._policy, self._rules
            if held.sidecars is None:
                held.sidecars = await self._sidecars(held.answer.page)
            sidecars = dict(held.sidecars)

            def make(rules: tuple[Rule, ...] = rules, sidecars: dict[str, Digest] = sidecars) -> Listing:
                enriched = registry.enrich(listing, sidecars) if sidecars else listing
                verdict_of = verdicts(rules, registry, enriched)
                return registry.restrict(enriched, verdict_of) if verdict_of else enriched

            # Many rules on many versions cost more than the document does.
            view = await self._work(held.size + JUDGED_BYTES * len(rules) * (len(listing.entries) + len(listing.bare)), make)
            restricted_at = await self._restricted_at(held, view)
            if restricted_at:
                view = replace(view, restricted_at=restricted_at)
            # The rules or sidecars may have changed while a thread worked: then that view is already wrong.
            if policy == self._policy and sidecars == held.sidecars:
                held.view, held.policy = view, policy
                # A retired page is in no table that a rule's edit could reach: its views are for the requests at hand alone.
                if not held.validity.valid and not held.retired:
                    held.validity = Validity(held.answer.stamp.fresh_until)

    async def _restricted_at(self, held: HeldPage, view: Listing) -> float:
        """When policy last changed what is left of the page: whole UTC seconds, rounded up, 0 if it never did. Remembered over restarts.

        pnpm asks with the date it finds in the document: unless taking a version off, or giving it back, makes that later, it goes
        on for ever with what it has. So no two changes share a date, and once policy has dated a page, what upstream changes in it is
        dated here too: its own date may be one from before that.
        """
        key = f"restricted {held.answer.page.key}"
        if held.restricted is None:
            at, _, before = (await self._catalog.recall(key) or "0 ").partition(" ")
            held.restricted = float(at), before
        taken = _fingerprint(view.restrictions)
        if taken or held.restricted[0]:
            taken = f"{taken}/{held.answer.stamp.revision}"
        if held.restricted[1] != taken:
            held.restricted = max(float(math.ceil(self._clock())), held.restricted[0] + 1), taken
            try:
                await self._catalog.remember(key, f"{held.restricted[0]} {taken}")
            except Unavailable as error:
                log.warning("when policy changed a page was not remembered: %s", error, extra={"page": held.answer.page.key})
        return held.restricted[0]

    async def _sidecars(self, page: Page) -> dict[str, Digest]:
        if page.view:
            return {}
        bindings = await self._catalog.bindings(page.registry, page.project)
        return {b.file.filename.removesuffix(SIDECAR): b.digest for b in bindings if b.file.filename.endswith(SIDECAR)}

    # ---- files that no page lists

    async def absence(self, file: File) -> str | None:
        """Whether upstream is known to lack a file that no page lists: ``"fresh"``, ``"stale"``, or None if nothing says so."""
        held = await self.held(_absence(file))
        if held is None:
            return None
        state = freshness.judge(held.answer.stamp, self._clock())
        return None if state == "dead" else state

    async def record_absence(self, file: File) -> None:
        """Upstream has said cleanly that there is no such file."""
        now = self._clock()
        stamp = Stamp(now + ABSENT_S, now + ABSENT_S + freshness.STALE_S)
        await self._publish(StoredAnswer(_absence(file), 404, b"", "", stamp, now), None)

    async def forget_absence(self, file: File) -> None:
        """Upstream was seen to have the file: nothing that was said before may stand in for it."""
        try:
            held = await self.held(_absence(file))
        except Unavailable as error:
            log.warning("an absence was not forgotten: %s", error, extra={"file": file.filename})
            return
        if held is not None and held.answer.stamp.stale_until > 0:
            await self._renew(held, Stamp(0.0, 0.0))

    async def doubt_absences(self, registry: str, project: str) -> None:
        """Something of the project changed: what it lacked may be there by now. (One write: anybody can make up names by the thousand.)"""
        try:
            await self._catalog.expire(registry, project, ABSENT)
        except Unavailable as error:
            log.warning("what was missing is not doubted on disk: %s", error, extra={"project": project})
        for page, held in self._held.items():
            if page.project == project and page.registry == registry and page.view.startswith(ABSENT):
                held.restamp(Stamp(0.0, held.answer.stamp.stale_until, held.answer.stamp.revision), held.answer.received_at)

    async def doubt(self, page: Page) -> None:
        """What is held of a page is stale from now on."""
        if (held := await self.held(page)) is not None:
            await self._renew(held, Stamp(self._clock(), held.answer.stamp.stale_until))

    def sidecar_made(self, page: Page, filename: str, digest: Digest) -> None:
        """A metadata sidecar of ``filename`` can be offered from now on."""
        held = self._held.get(page)
        if held is not None and held.sidecars is not None:
            held.sidecars[filename] = digest
            held.forget_view()

    # ---- refreshing

    def _refresh(self, page: Page) -> tuple[Flight[Refreshed], bool]:
        async def job(_: Flight[Refreshed]) -> Refreshed:
            return await self._fetch(page)

        return self._flights.join(f"page {page.key}", job)

    async def _fetch(self, page: Page) -> Refreshed:
        held = await self.held(page)
        known = None
        comparable = held is not None and held.answer.received_at >= self._upstream_since.get(page.registry, 0.0)
        if held is not None and comparable and held.listing is not None and held.answer.vanishing_since is None:
            known = Known(held.answer.etag, held.answer.last_modified, held.answer.serial)
        answer = await self._ask(page, known)
        match answer:
            case NotModified(stamp):
                assert held is not None, "a 304 can only answer a condition"
                return "304", await self._renew(held, stamp)
            case Absent():
                return "404", await self._absent(page, held, answer)
            case Received():
                return await self._received(page, held, answer)

    async def _ask(self, page: Page, known: Known | None) -> Answer:
        last: Unavailable | None = None
        for source in self._sources:
            try:
                return await source.page(page, known)
            except Unavailable as error:
                last = error
        raise last or Unavailable("no source is configured")

    async def _renew(self, held: HeldPage, stamp: Stamp) -> HeldPage:
        stamp = replace_revision(stamp, held.answer.stamp.revision)
        now = self._clock()
        try:
            await self._catalog.renew(held.answer.page, stamp, now)
        except Unavailable as error:
            log.warning("a confirmed page keeps its old stamp on disk: %s", error, extra={"page": held.answer.page.key})
        held.restamp(stamp, now)
        return held

    async def _absent(self, page: Page, held: HeldPage | None, answer: Absent) -> HeldPage:
        if held is not None and held.listing is not None:
            waiting = await self._vanishing(held, frozenset(held.listing.entries), f"the page answers {answer.status}")
            if waiting is not None:
                return waiting
            await self._event("upstream-gone", page.key, f"upstream answers {answer.status}; its page is withdrawn")
        stored = StoredAnswer(page, answer.status, b"", "", answer.stamp, self._clock())
        return await self._publish(stored, None)

    async def _vanishing(self, held: HeldPage, gone: frozenset[str], what: str) -> HeldPage | None:
        """Files held are missing upstream. Returns what stays held until a second look misses them too; None once it did."""
        now = self._clock()
        since = held.answer.vanishing_since
        if since is not None and (held.vanishing is None or gone <= held.vanishing):
            if now - since >= self._removal_confirm_s:
                return None
        else:
            since = now
            log.warning("missing upstream, waiting for confirmation", extra={"page": held.answer.page.key, "what": what})
        stamp = Stamp(since + self._removal_confirm_s, held.answer.stamp.stale_until, held.answer.stamp.revision)
        listing = held.listing
        stored = replace(held.answer, stamp=stamp, vanishing_since=since, document=listing.document if listing else b"")
        waiting = await self._publish(stored, listing)
        waiting.vanishing = gone
        return waiting

    async def _received(self, page: Page, held: HeldPage | None, answer: Received) -> Refreshed:
        registry = self._registries[page.registry]
        answer = await self._proven(registry, page, answer)
        try:
            listing = await self._work(len(answer.body), lambda: registry.read(page, answer.body, answer.media_type, answer.url))
        except ValueError as error:
            await self._event("unparsable-page", page.key, str(error))
            raise Corrupt(f"upstream sent something else than the page of {page.project}: {error}") from None
        serial = listing.serial if listing.serial is not None else answer.serial
        if held is not None and held.listing is not None:
            old = held.listing
            comparable = held.answer.received_at >= self._upstream_since.get(page.registry, 0.0)
            if comparable and serial is not None and held.answer.serial is not None and serial < held.answer.serial:
                await self._event("serial-regression", page.key, f"serial {serial} after {held.answer.serial}")
                return "304", await self._renew(held, answer.stamp)
            if listing.document == old.document and held.answer.vanishing_since is None:
                return "304", await self._renew(held, answer.stamp)
            gone = frozenset(name for name in old.entries if name not in listing.entries)
            if gone:
                waiting = await self._vanishing(held, gone, f"{len(gone)} files, {min(gone)} first")
                if waiting is not None:
                    return "200", waiting
                await self._event("upstream-gone", page.key, f"{len(gone)} files left the page: {', '.join(sorted(gone)[:20])}")
        if listing.entries:
            listing = await self._keep_bound(registry, page, held, listing)
        stored = StoredAnswer(
            page,
            200,
            listing.document,
            answer.media_type,
            answer.stamp,
            self._clock(),
            answer.etag,
            answer.last_modified,
            serial,
        )
        owners = await self._work(len(listing.document), lambda: registry.owners(listing))
        if owners:
            await self._record_owners(page, owners)
        # First, so that nobody learns of a file from the page and is then told that there is none.
        await self.doubt_absences(page.registry, page.project)
        return "200", await self._publish(stored, listing)

    async def _proven(self, registry: Registry, page: Page, answer: Received) -> Received:
        """The answer, if its bytes are those that upstream publishes digests of. Raises ``Corrupt`` if they are not.

        Digests that came along count; else the registry's evidence is read. Upstream may have replaced page and digest between our
        two requests: what disagrees is asked for once more.
        """
        evidence = registry.evidence(page)
        if not evidence:
            return answer
        wrong: Digest | None = None
        for attempt in range(2):
            if attempt:
                again = await self._ask(page, None)
                if not isinstance(again, Received):
                    raise Unavailable(f"upstream changed the page of {page.project} while it was read")
                answer = again
            digests = answer.digests or await self._published(registry, page, evidence)
            work = partial(contradicted, answer.body, digests)
            wrong = await self._work(len(answer.body), work)
            if wrong is None:
                return answer
        await self._event("digest-mismatch", page.key, f"expected {wrong}")
        raise Corrupt(f"upstream sent a page of {page.project} that is not the one it publishes a digest of", wrong)

    async def _published(self, registry: Registry, page: Page, evidence: Sequence[File]) -> tuple[Digest, ...]:
        notes = await self._notes.read_all(evidence)
        try:
            return registry.vouched(page, notes)
        except ValueError as error:
            await self._event("bad-evidence", page.key, str(error))
            raise Corrupt(f"upstream's digest of {page.project}'s page cannot be read: {error}") from None

    async def _record_owners(self, page: Page, owners: Mapping[str, tuple[str, str]]) -> None:
        try:
            await self._catalog.record_owners(page.registry, owners)
        except Unavailable as error:
            log.warning("ambiguous file names were not recorded: %s", error, extra={"page": page.key})

    async def _keep_bound(self, registry: Registry, page: Page, held: HeldPage | None, listing: Listing) -> Listing:
        """Keep what is held of files that upstream now publishes with another digest under a bound name: an alarm, not news."""
        keep: dict[str, Entry] = {}
        for binding in await self._catalog.bindings(page.registry, page.project):
            subject = registry.subject(binding.file)
            entry = listing.entries.get(subject.filename)
            if entry is None:
                continue
            published = entry.digests if subject == binding.file else entry.sidecar or ()
            if not _contradicts(published, binding):
                continue
            now = ", ".join(map(str, published)) or "what has no digest"
            await self._event("rebound", binding.file.key, f"bound to {binding.digest}, now published as {now}")
            if subject != binding.file:
                # Advertised by nobody but us: ``enrich`` puts the bound digest in its place.
                keep.setdefault(subject.filename, msgspec.structs.replace(entry, sidecar=None, extra=b""))
                continue
            before = held.listing.entries.get(subject.filename) if held is not None and held.listing is not None else None
            keep[subject.filename] = before if before is not None else _entry_of(binding, entry)
        return await self._work(len(listing.document), lambda: registry.amend(listing, keep)) if keep else listing

    async def _publish(self, stored: StoredAnswer, listing: Listing | None) -> HeldPage:
        try:
            revision = await self._catalog.publish(stored)
        except Unavailable as error:
            # A catalogue without room costs the page its place over a restart, and nobody an install.
            revision = stored.stamp.revision + 1
            await self._event("not-stored", stored.page.key, str(error))
        stored = replace(stored, stamp=replace_revision(stored.stamp, revision))
        held = HeldPage(stored, listing)
        before = self._held.pop(stored.page, None)
        if before is not None:
            self._held_bytes -= before.weight
            self._graveyard.bury(*before.listings)
            before.retire()
        self._keep(held)
        return held

    def _keep(self, held: HeldPage) -> None:
        self._held[held.answer.page] = held
        self._held_bytes += held.weight
        while self._held_bytes > self._memory_bytes and len(self._held) > 1:
            _, dropped = self._held.popitem(last=False)
            self._held_bytes -= dropped.weight
            self._graveyard.bury(*dropped.listings)
            # Its renderings can no longer be told to change, so they must not live on.
            dropped.retire()

    async def _work[T](self, size_bytes: int, work: Callable[[], T]) -> T:
        if size_bytes <= LARGE_BYTES:
            return work()
        return await trio.to_thread.run_sync(work, limiter=self._threads)


def replace_revision(stamp: Stamp, revision: int) -> Stamp:
    return Stamp(stamp.fresh_until, stamp.stale_until, revision)


def contradicted(data: bytes, digests: Sequence[Digest]) -> Digest | None:
    """The first of ``digests`` that ``data`` has not; None if all agree."""
    for digest in digests:
        if digest.algorithm in hashlib.algorithms_available and hashlib.new(digest.algorithm, data).hexdigest() != digest.value:
            return digest
    return None


def _absence(file: File) -> Page:
    return Page(file.registry, file.project, ABSENT + file.path)


def _first(restrictions: Mapping[str, Verdict]) -> Refuse | Hold:
    return next(verdict for verdict in restrictions.values() if not isinstance(verdict, Allow))


def _fingerprint(restrictions: Mapping[str, Verdict]) -> str:
    """What was taken off a page, in a few characters: ``""`` if nothing."""
    if not restrictions:
        return ""
    told = "\n".join(f"{version} {verdict}" for version, verdict in sorted(restrictions.items()))
    return hashlib.sha256(told.encode()).hexdigest()[:20]


def _contradicts(published: Sequence[Digest], binding: Binding) -> bool:
    """Whether another digest than the bound one is published, by any algorithm both name."""
    bound = {d.algorithm: d for d in (binding.digest, *binding.aliases)}
    return any(d.algorithm in bound and bound[d.algorithm] != d for d in published)


def _entry_of(binding: Binding, seen: Entry) -> Entry:
    """An entry for a bound file whose own listing is no longer held: the bound digests, nothing that the new bytes brought."""
    file: File = binding.file
    return Entry(file, seen.url, (binding.digest, *binding.aliases), binding.size, seen.published, seen.yanked)
