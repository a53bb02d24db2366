"""Pages as a node holds them: fresh, stale, absent or never seen; revalidated by one flight each; restricted by policy.

The order of things for a request, all in ``Pages.page``: what is held and fresh is the answer. What is held and stale is revalidated, but
nobody waits longer than ``SLOW_S`` for that, and nobody waits at all while the source says it is not worth it. What
is not held is waited for, within the source's own bounds.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import trio

from . import freshness
from .catalog import Catalog, StoredAnswer
from .dating import dated
from .errors import Corrupt, NotFound, Refused, Unavailable
from .flights import Flight, Flights
from .graveyard import Graveyard
from .held import HeldPage, PageView
from .model import Allow, Clock, Digest, File, Hold, Listing, Page, Refuse, Stamp, Validity, Verdict
from .notes import Notes
from .policy.force import Policy
from .policy.rules import judge_page
from .prepared import added, is_older, is_prepared, merged, precedes, recalled, taken_off
from .prepared import remember as remember_taken
from .proving import Proving
from .registries import Registry
from .sources import Absent, Answer, Known, NotModified, Received, RefusedPage, Source

log = logging.getLogger("leeward.pages")

SLOW_S = 1.0
"""Stale-if-slow: how long a request waits for a revalidation while something usable is held. pip gives up after 15 s."""

LOOK_S = 1.0
"""How often an upstream that is in doubt is asked because of pages that are held."""

INSIST_S = 10.0
"""A page confirmed less than this long ago is not asked for again because a client says ``no-cache``."""

REMOVAL_CONFIRM_S = 60.0
"""What is missing upstream is believed only when it is still missing this much later: CDN nodes disagree after a publish."""

OLDER_RETRY_S = 5.0
"""When to come back to a node of ours that has only something older than what is held."""

LAPSED_S = 30.0
"""When to come back to a node that may not answer now."""

LARGE_BYTES = 16 * 1024
"""Documents beyond this are parsed and edited in a worker thread. (A Maven page has more versions in less room than any other: to judge
and take off those of 35 KB takes 26 ms.)
"""

JUDGED_BYTES = 32
"""How many bytes of a document are parsed in the time in which one rule judges one version."""

MEMORY_BYTES = 128 * 1024 * 1024
"""How much stays parsed in memory: documents as stored, and their entries."""

SIDECAR = ".metadata"

ABSENT = "absent/"
"""Before a file's path: the view under which it is remembered that upstream has no such file, where no page lists files."""

ABSENT_S = 300.0
"""How long that is believed; afterwards it still stands in for an upstream that does not answer."""


@dataclass(frozen=True, slots=True)
class Refreshed:
    """How a refresh ended (``"200"``, ``"304"``, ``"404"``) and what is held now. ``trail`` is as in ``Received``."""

    how: str
    held: HeldPage
    trail: str = ""


class Pages:
    """All pages of a node. ``event(kind, subject, detail)`` tells operators; ``policy`` is what is in force.

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
        self._proving = Proving(catalog, notes, self._work, event)
        self._slow_s = slow_s
        self._removal_confirm_s = removal_confirm_s
        self._upstream_since = upstream_since or {}
        self._memory_bytes = memory_bytes
        self._held: OrderedDict[Page, HeldPage] = OrderedDict()
        self._held_bytes = 0
        self._loading: dict[Page, trio.Lock] = {}
        self._graveyard = Graveyard(clock, threads)
        self._looked: dict[str, float] = {}
        # Pages being asked for, and whether something said meanwhile that what comes may be out of date already.
        self._asking: dict[Page, bool] = {}
        self._lapsed = ""
        self._in_force = self._shared = Policy()
        self._policy = 0

    async def keep_house(self) -> None:
        """Free what was dropped since the last call."""
        await self._graveyard.let_go()

    # ---- policy

    @property
    def policy(self) -> Policy:
        return self._in_force

    def enforce(self, policy: Policy, shared: Policy | None = None) -> None:
        """Put a policy in force at once: every rendering made under the old one is void when this returns.

        ``shared`` is the part of it that is every node's, all of it by default. What a node of ours took off a page, and would not any
        more, is asked for again.
        """
        self._in_force, self._shared = policy, shared or policy
        self._void()
        for held in self._held.values():
            self._review(held)

    def lapse(self, reason: str) -> None:
        """Answer nothing from now on but that, whatever is held; ``""`` to go on. In force at once."""
        self._lapsed = reason
        self._void()

    def require_leave(self) -> None:
        """Raises ``Unavailable`` while nothing may be answered."""
        if self._lapsed:
            raise Unavailable(self._lapsed, LAPSED_S)

    def _void(self) -> None:
        self._policy += 1
        for held in self._held.values():
            # Of an absence nothing is rendered, and no view of it would ever have a validity anew.
            if held.listing is not None:
                self._graveyard.bury(*held.listings)
                held.forget_view()

    def _review(self, held: HeldPage) -> None:
        """Doubt a page that lacks what policy has given back."""
        page = held.answer.page
        restrictions = held.listing.restrictions if held.listing is not None else {}
        if restrictions and not self._in_force.still_forbids(self._registries[page.registry], page.project, restrictions):
            self._doubt_nowait(held)

    # ---- asking

    async def page(self, page: Page, *, insist: bool = False, max_age_s: float | None = None) -> PageView:
        """Answer with a page as policy leaves it.

        ``max_age_s`` asks upstream even if the page is fresh, unless it was confirmed within so many seconds; ``insist`` the same, within
        ``INSIST_S``. Raises ``NotFound``, ``Refused``, ``Unavailable`` or ``Corrupt``.
        """
        max_age_s = INSIST_S if insist else max_age_s
        self.require_leave()
        registry = self._registries[page.registry]
        self._require_allowed(registry, page)
        held = await self.held(page)
        now = self._clock()
        if held is None or freshness.judge(held.answer.stamp, now) == "dead":
            return await self._cold(page, max_age_s)
        fresh = freshness.judge(held.answer.stamp, now) == "fresh"
        if fresh and (max_age_s is None or now - held.answer.received_at <= max_age_s):
            return await self._view(held, "hit", "hit")
        if not self._answers(page.registry):
            self._look(page)
            return await self._view(held, "stale", "hit; detail=upstream-down")
        flight, joined = self._refresh(page, max_age_s)
        with trio.move_on_after(self._slow_s):
            try:
                found = await flight.wait_outcome()
            except (Unavailable, Corrupt):
                return await self._view(held, "stale", "hit; detail=upstream-down")
            forwarded = f"fwd={'request' if fresh else 'stale'}; fwd-status={found.how}"
            return await self._view(found.held, "revalidated", forwarded + ("; collapsed" if joined else ""), found.trail)
        return await self._view(held, "stale", "hit; detail=upstream-slow")

    async def _cold(self, page: Page, max_age_s: float | None) -> PageView:
        flight, joined = self._refresh(page, max_age_s)
        found = await flight.wait_outcome()
        status = "fwd=uri-miss; stored" + ("; collapsed" if joined else "")
        return await self._view(found.held, "collapsed" if joined else "miss", status, found.trail)

    async def keep(self, page: Page) -> None:
        """Bring a page here and wait for it; nothing if a fresh one is held. Raises like ``page``."""
        self._require_allowed(self._registries[page.registry], page)
        held = await self.held(page)
        # Whoever was asking already may have asked before there was news.
        for _ in range(2):
            if held is not None and freshness.judge(held.answer.stamp, self._clock()) == "fresh":
                break
            flight, joined = self._refresh(page)
            held = (await flight.wait_outcome()).held
            if not joined:
                break
        assert held is not None
        await self._view(held, "hit", "hit")

    async def held_view(self, page: Page) -> PageView | None:
        """What is held of a page, fresh or stale, as the policy of all nodes leaves it; None if that is nothing. Asks nobody.

        A node's own rules are not for others to obey. Raises ``NotFound`` for an absence that is held, ``Refused``, ``Unavailable`` while
        nothing may be answered.
        """
        self.require_leave()
        self._require_allowed(self._registries[page.registry], page)
        held = await self.held(page)
        state = freshness.judge(held.answer.stamp, self._clock()) if held is not None else "dead"
        if held is None or state == "dead":
            return None
        view = await self._view(held, "hit" if state == "fresh" else "stale", "hit")
        if held.listing is None or self._shared.rules == self._in_force.rules or not added(held.listing, view.listing):
            return view
        return replace(view, listing=await self._made(held, held.listing, self._shared, dict(held.sidecars or {})))

    async def refresh(self, page: Page) -> str:
        """Ask upstream now, whatever is held. Returns how it ended: ``"200"``, ``"304"``, ``"404"``; raises like ``page``."""
        self._flights.forget(f"page {page.key}")
        flight, _ = self._refresh(page, 0.0)
        return (await flight.wait_outcome()).how

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
                            self._review(held)
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
        if is_prepared(answer):
            known = await recalled(self._catalog, listing)
            if known is None:
                # It shows what it should, but not why the rest is missing. As if it were not ours, it is asked for again, and whole.
                stamp = Stamp(0.0, answer.stamp.stale_until, answer.stamp.revision)
                return HeldPage(replace(answer, stamp=stamp, etag=None), listing)
            listing = known
        return HeldPage(answer, listing)

    # ---- views

    def _require_allowed(self, registry: Registry, page: Page) -> None:
        if page.project and (refused := judge_page(self._in_force.rules, registry, page.project)) is not None:
            raise Refused(refused)
        version = registry.version_of(page)
        if version is not None:
            verdict = self._in_force.judge(registry, page.project, version)
            if not isinstance(verdict, Allow):
                raise Refused(verdict)

    async def _view(self, held: HeldPage, outcome: str, cache_status: str, trail: str = "") -> PageView:
        if held.answer.status != 200 or held.listing is None:
            page = held.answer.page
            raise NotFound(f"{' of '.join(filter(None, (page.view, page.project))) or 'this'} does not exist upstream")
        if held.view is None or held.policy != self._policy:
            # One at a time: a hundred askers after a rule's edit must not restrict a large page a hundred times.
            async with held.making:
                await self._make_view(held, held.listing)
        # Whoever was waiting when a lapse came would have a rendering kept that no lapse voids any more.
        self.require_leave()
        view = held.view
        assert view is not None
        about = self._registries[view.page.registry].version_of(view.page) if view.restrictions else None
        if about is not None and about in view.restrictions:
            raise Refused(_first({about: view.restrictions[about]}))
        if view.restrictions and not view.entries:
            # Nothing is left. An empty page would say that the project has no versions, which is not so.
            raise Refused(_first(view.restrictions))
        answer = held.answer
        return PageView(
            view,
            answer.stamp,
            held.validity,
            answer.received_at,
            answer.serial,
            outcome,
            cache_status,
            answer.last_modified,
            trail,
        )

    async def _make_view(self, held: HeldPage, listing: Listing) -> None:
        """Make ``held.view`` what sidecars and the rules now in force leave of ``listing``. No checkpoint between that and return."""
        while held.view is None or held.policy != self._policy:
            policy, force = self._policy, self._in_force
            if held.sidecars is None:
                held.sidecars = await self._sidecars(held.answer.page)
            sidecars = dict(held.sidecars)
            view = await self._made(held, listing, force, sidecars)
            answer, ours = held.answer, added(listing, view)
            held.restricted = await dated(
                self._catalog,
                self._clock,
                answer.page,
                held.restricted,
                ours,
                answer.stamp.revision,
                after=listing.restricted_at,
            )
            if held.restricted[0] or listing.restricted_at:
                view = replace(view, restricted_at=max(listing.restricted_at, held.restricted[0]))
            # The rules or sidecars may have changed while a thread worked: then that view is already wrong.
            if policy == self._policy and sidecars == held.sidecars:
                held.view, held.policy = view, policy
                if not held.validity.valid:
                    # Another one for each view: by it those know each other who keep what they made of one.
                    held.validity = Validity(held.answer.stamp.fresh_until)
                    # A retired page is in no table that a rule's edit could reach: its views are for the requests at hand alone.
                    held.validity.valid = not held.retired

    async def _made(self, held: HeldPage, listing: Listing, force: Policy, sidecars: Mapping[str, Digest]) -> Listing:
        """What sidecars and a policy leave of ``listing``."""
        registry = self._registries[held.answer.page.registry]
        bound = await self._bound(held.answer.page) if force.refused else {}

        def make() -> Listing:
            enriched = registry.enrich(listing, sidecars) if sidecars else listing
            verdict_of = force.judge_listing(registry, enriched, bound)
            return merged(listing, registry.restrict(enriched, verdict_of)) if verdict_of else enriched

        # Many rules on many versions cost more than the document does.
        versions = len(listing.entries) + len(listing.bare)
        return await self._work(held.size + JUDGED_BYTES * len(force.rules) * versions, make)

    async def _sidecars(self, page: Page) -> dict[str, Digest]:
        if page.view:
            return {}
        bindings = await self._catalog.bindings(page.registry, page.project)
        return {b.file.filename.removesuffix(SIDECAR): b.digest for b in bindings if b.file.filename.endswith(SIDECAR)}

    async def _bound(self, page: Page) -> dict[str, list[Digest]]:
        """The digests of the project's bound files, by version: more of them than its listing tells."""
        found: dict[str, list[Digest]] = {}
        for binding in await self._catalog.bindings(page.registry, page.project):
            found.setdefault(binding.file.version, []).extend((binding.digest, *binding.aliases))
        return found

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

    async def doubt_project(self, registry: str, project: str) -> None:
        """What is held of a project is stale from now on, absences too. Raises ``Unavailable``."""
        self.doubted([(registry, project)])
        await self._catalog.expire(registry, project)

    def doubted(self, projects: Iterable[tuple[str, str]]) -> None:
        """What is held of these (registry, project) in memory is stale from now on, and what is on its way; on disk it is already."""
        wanted = set(projects)
        for page in self._asking:
            if (page.registry, page.project) in wanted:
                self._asking[page] = True
        for page, held in self._held.items():
            if (page.registry, page.project) in wanted:
                self._doubt_nowait(held)

    def _doubt_nowait(self, held: HeldPage) -> None:
        stamp = held.answer.stamp
        held.restamp(Stamp(min(stamp.fresh_until, 0.0), stamp.stale_until, stamp.revision), held.answer.received_at)

    def sidecar_made(self, page: Page, filename: str, digest: Digest) -> None:
        """A metadata sidecar of ``filename`` can be offered from now on."""
        held = self._held.get(page)
        if held is not None and held.sidecars is not None:
            held.sidecars[filename] = digest
            held.forget_view()

    # ---- refreshing

    def _refresh(self, page: Page, max_age_s: float | None = None) -> tuple[Flight[Refreshed], bool]:
        async def job(_: Flight[Refreshed]) -> Refreshed:
            return await self._fetch(page, max_age_s)

        return self._flights.join(f"page {page.key}", job)

    async def _fetch(self, page: Page, max_age_s: float | None) -> Refreshed:
        self._asking[page] = False
        try:
            found = await self._fetched(page, max_age_s)
        finally:
            is_doubted = self._asking.pop(page)
        if is_doubted:
            held = found.held
            # It was asked for before there was news: it may or may not have been in there.
            self._doubt_nowait(held)
            try:
                await self._catalog.renew(page, held.answer.stamp, held.answer.received_at)
            except Unavailable as error:
                log.warning("a page is not doubted on disk: %s", error, extra={"page": page.key})
        return found

    async def _fetched(self, page: Page, max_age_s: float | None) -> Refreshed:
        held = await self.held(page)
        known = Known(max_age_s=max_age_s) if max_age_s is not None else None
        comparable = held is not None and held.answer.received_at >= self._upstream_since.get(page.registry, 0.0)
        if held is not None and comparable and held.listing is not None and held.answer.vanishing_since is None:
            serial = None if is_prepared(held.answer) else held.answer.serial
            known = Known(held.answer.etag, held.answer.last_modified, serial, max_age_s)
        answer = await self._ask(page, known, held)
        match answer:
            case NotModified(stamp, received_at=received_at):
                assert held is not None, "a 304 can only answer a condition"
                return Refreshed("304", await self._renew(held, stamp, received_at), answer.trail)
            case Absent():
                return Refreshed("404", await self._absent(page, held, answer), answer.trail)
            case Received(prepared=True):
                return await self._prepared(page, held, answer)
            case Received():
                return await self._received(page, held, answer)

    async def _ask(self, page: Page, known: Known | None, held: HeldPage | None = None) -> Answer:
        """Ask one source after the other. One that has only something older than ``held`` has nothing."""
        last: Unavailable | None = None
        for source in self._sources:
            try:
                answer = await source.page(page, known)
            except Unavailable as error:
                last = error
                continue
            except RefusedPage as error:
                if held is None or not precedes(error, held.answer.received_at, self._clock()):
                    raise
            else:
                if held is None or not await self._is_older(held, answer):
                    return answer
            last = Unavailable(f"what the {source.name} has of {page.project} is older than what is held here", OLDER_RETRY_S)
        raise last or Unavailable("no source is configured")

    async def _is_older(self, held: HeldPage, answer: Answer) -> bool:
        page, registry = held.answer.page, self._registries[held.answer.page.registry]

        async def reread(body: bytes) -> Listing:
            return await self._work(len(body), lambda: registry.reread(page, body))

        return held.listing is not None and await is_older(answer, held.listing, held.answer.received_at, self._clock(), reread)

    async def _renew(self, held: HeldPage, stamp: Stamp, received_at: float | None = None) -> HeldPage:
        """What is held was confirmed: now, or at ``received_at`` by whoever asked."""
        stamp = replace_revision(stamp, held.answer.stamp.revision)
        at = self._clock() if received_at is None else max(held.answer.received_at, received_at)
        try:
            await self._catalog.renew(held.answer.page, stamp, at)
        except Unavailable as error:
            log.warning("a confirmed page keeps its old stamp on disk: %s", error, extra={"page": held.answer.page.key})
        held.restamp(stamp, at)
        return held

    async def _absent(self, page: Page, held: HeldPage | None, answer: Absent) -> HeldPage:
        if held is not None and held.listing is not None and not answer.prepared:
            waiting = await self._vanishing(held, frozenset(held.listing.entries), f"the page answers {answer.status}")
            if waiting is not None:
                return waiting
            await self._event("upstream-gone", page.key, f"upstream answers {answer.status}; its page is withdrawn")
        received_at = self._clock() if answer.received_at is None else answer.received_at
        stored = StoredAnswer(page, answer.status, b"", "", answer.stamp, received_at)
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

    async def _prepared(self, page: Page, held: HeldPage | None, answer: Received) -> Refreshed:
        """A page that a node of ours sent: it has been proven and waited for there, and is believed as it is."""
        registry = self._registries[page.registry]
        try:
            listing = await self._work(len(answer.body), lambda: registry.reread(page, answer.body))
        except ValueError as error:
            await self._event("unparsable-page", page.key, str(error))
            raise Corrupt(f"what was sent as the page of {page.project} is none: {error}") from None
        listing = taken_off(listing, answer.restrictions, answer.restricted_at)
        if listing.entries:
            listing = await self._proving.keep_bound(registry, held.listing if held is not None else None, listing)
        try:
            await remember_taken(self._catalog, listing)
        except Unavailable as error:
            log.warning("what was taken off a page is not remembered: %s", error, extra={"page": page.key})
        received_at = self._clock() if answer.received_at is None else answer.received_at
        serial = listing.serial if listing.serial is not None else answer.serial
        return Refreshed("200", await self._settled(answer, listing, serial, received_at), answer.trail)

    async def _received(self, page: Page, held: HeldPage | None, answer: Received) -> Refreshed:
        registry = self._registries[page.registry]
        answer = await self._proving.proven(registry, page, answer, lambda: self._ask(page, None))
        try:
            listing = await self._work(len(answer.body), lambda: registry.read(page, answer.body, answer.media_type, answer.url))
        except ValueError as error:
            await self._event("unparsable-page", page.key, str(error))
            raise Corrupt(f"upstream sent something else than the page of {page.project}: {error}") from None
        serial = listing.serial if listing.serial is not None else answer.serial
        if held is not None and held.listing is not None:
            old = held.listing
            comparable = held.answer.received_at >= self._upstream_since.get(page.registry, 0.0)
            before = held.answer.serial if comparable and not is_prepared(held.answer) else None
            if serial is not None and before is not None and serial < before:
                await self._event("serial-regression", page.key, f"serial {serial} after {before}")
                return Refreshed("304", await self._renew(held, answer.stamp))
            if listing.document == old.document and held.answer.vanishing_since is None and not is_prepared(held.answer):
                return Refreshed("304", await self._renew(held, answer.stamp))
            gone = frozenset(name for name in old.entries if name not in listing.entries)
            if gone:
                waiting = await self._vanishing(held, gone, f"{len(gone)} files, {min(gone)} first")
                if waiting is not None:
                    return Refreshed("200", waiting)
                await self._event("upstream-gone", page.key, f"{len(gone)} files left the page: {', '.join(sorted(gone)[:20])}")
        if listing.entries:
            listing = await self._proving.keep_bound(registry, held.listing if held is not None else None, listing)
        return Refreshed("200", await self._settled(answer, listing, serial, self._clock()))

    async def _settled(self, answer: Received, listing: Listing, serial: int | None, received_at: float) -> HeldPage:
        """A new page, published and held."""
        page = listing.page
        stored = StoredAnswer(
            page,
            200,
            listing.document,
            answer.media_type,
            answer.stamp,
            received_at,
            answer.etag,
            answer.last_modified,
            serial,
        )
        owners = await self._work(len(listing.document), lambda: self._registries[page.registry].owners(listing))
        if owners:
            await self._proving.record_owners(page, owners)
        # First, so that nobody learns of a file from the page and is then told that there is none.
        await self.doubt_absences(page.registry, page.project)
        return await self._publish(stored, listing)

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


def _absence(file: File) -> Page:
    return Page(file.registry, file.project, ABSENT + file.path)


def _first(restrictions: Mapping[str, Verdict]) -> Refuse | Hold:
    return next(verdict for verdict in restrictions.values() if not isinstance(verdict, Allow))
