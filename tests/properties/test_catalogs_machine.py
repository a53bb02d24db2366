"""SQLite's catalogue against the one in dictionaries: whatever is done to both, in any order and over restarts, both say the same."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from origin.api.wire import GENESIS, chained
from origin.catalog import Access, Binding, Catalog, Member, StoredAnswer, Wanted
from origin.catalog.memory import MemoryCatalog
from origin.catalog.sqlite import SqliteCatalog
from origin.errors import Rebound
from origin.model import Change, Digest, File, Page, Stamp

PAGES = st.builds(Page, st.sampled_from(["npm", "pypi"]), st.sampled_from(["a", "b"]), st.sampled_from(["", "json"]))
FILES = st.builds(
    lambda project, number: File("pypi", project, str(number), f"{project}-{number}.whl", f"packages/{project}-{number}.whl"),
    st.sampled_from(["a", "b"]),
    st.integers(0, 2),
)
RESOURCES = PAGES | FILES
DIGESTS = st.integers(0, 2).map(lambda number: Digest("sha256", f"{number:064x}"))
TIMES = st.integers(0, 20).map(float)
FACTS = st.dictionaries(st.sampled_from(["cursor", "verdicts"]), st.text("ab\n☃", max_size=3), max_size=2)
NAMES = st.sampled_from(["lisbon", "porto", "evora"])
SECRETS = st.sampled_from(["aa", "bb", "cc", "dd"])
COUNTS = st.integers(0, 5)


def wanted() -> st.SearchStrategy[Wanted]:
    return st.builds(
        lambda resource, since, due, attempts, dead: Wanted(resource.key, resource, since, due, attempts, "why", dead),
        RESOURCES, TIMES, TIMES, COUNTS, st.booleans(),
    )  # fmt: skip


def accesses() -> st.SearchStrategy[Access]:
    def access(file: File, digest: Digest, edge: str, number: int) -> Access:
        return Access(0.0, file.key, digest.value, "192.0.2.1", "", 10, True, edge, number if edge else 0)

    return st.builds(access, FILES, DIGESTS, st.just("") | NAMES, st.integers(1, 5))


class CatalogsMachine(RuleBasedStateMachine):
    """Each rule does one thing to both catalogues, each in a loop of its own, and compares what they answer."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="catalogs-machine-"))
        self.memory = MemoryCatalog()
        self.clock = 0.0

    @initialize()
    def start(self) -> None:
        self.sqlite = trio.run(SqliteCatalog.open, self.directory / "catalog.sqlite")

    def teardown(self) -> None:
        trio.run(self.sqlite.close)
        shutil.rmtree(self.directory)

    def both(self, call: Callable[[Catalog], Awaitable[object]]) -> None:
        """Do the same to each; they must answer the same, or fail alike."""

        async def main() -> list[object]:
            answers: list[object] = []
            for catalog in (self.sqlite, self.memory):
                try:
                    answer = await call(catalog)
                except Rebound as error:
                    answer = str(error)
                answers.append(list(answer) if isinstance(answer, list | tuple) else answer)
            return answers

        one, other = trio.run(main)
        assert one == other

    @rule()
    def reopen(self) -> None:
        trio.run(self.sqlite.close)
        self.sqlite = trio.run(SqliteCatalog.open, self.directory / "catalog.sqlite")

    # ---- the ledger

    @rule(page=PAGES, status=st.sampled_from([200, 404, 410]), document=st.binary(max_size=20), at=TIMES)
    def publish(self, page: Page, status: int, document: bytes, at: float) -> None:
        answer = StoredAnswer(page, status, document if status == 200 else b"", "text/plain", Stamp(at + 10, at + 20), at)
        self.both(lambda catalog: catalog.publish(answer))

    @rule(file=FILES, digest=DIGESTS, at=TIMES)
    def bind(self, file: File, digest: Digest, at: float) -> None:
        binding = Binding(
            file, digest, 10, at, purl=f"pkg:pypi/{file.project}@{file.version}", published=at - 1, source="registry"
        )
        self.both(lambda catalog: catalog.bind(binding))

    @rule(revision=COUNTS, facts=FACTS)
    def append(self, revision: int, facts: dict[str, str]) -> None:
        change = Change(0, "verdicts", kind="verdicts", revision=revision)
        self.both(lambda catalog: catalog.append(change, facts))

    @rule(keep=st.integers(0, 12))
    def trim_changes(self, keep: int) -> None:
        self.both(lambda catalog: catalog.trim_changes(keep))

    @rule(before=TIMES, keep=COUNTS)
    def trim_absences(self, before: float, keep: int) -> None:
        self.both(lambda catalog: catalog.trim_absences(before, keep))

    @rule(digest=DIGESTS)
    def drop(self, digest: Digest) -> None:
        self.both(lambda catalog: catalog.drop(digest))

    @rule(digest=DIGESTS, files=st.lists(FILES, max_size=3))
    def names(self, digest: Digest, files: list[File]) -> None:
        self.both(lambda catalog: catalog.named(digest))
        self.both(lambda catalog: catalog.bound([file.key for file in files]))

    @rule(after=RESOURCES, serial=st.integers(0, 30), limit=st.integers(1, 3))
    def walk(self, after: Page | File, serial: int, limit: int) -> None:
        self.both(lambda catalog: catalog.pages_after(after.key, limit))
        self.both(lambda catalog: catalog.bindings_after(after.key, limit))
        self.both(lambda catalog: catalog.lines(serial, limit))
        self.both(lambda catalog: catalog.changes(serial, limit))

    # ---- following

    @rule(facts=FACTS, stale=st.lists(PAGES, max_size=2), wants=st.lists(wanted(), max_size=3))
    def follow(self, facts: dict[str, str], stale: list[Page], wants: list[Wanted]) -> None:
        projects = [(page.registry, page.project) for page in stale]
        self.both(lambda catalog: catalog.follow(facts, projects, wants))

    @rule(
        now=TIMES,
        limit=st.integers(1, 3),
        ends=st.lists(st.sampled_from(["done", "by key", "failed"]), max_size=3),
        again=st.booleans(),
    )
    def work(self, now: float, limit: int, ends: list[str], again: bool) -> None:
        async def act(catalog: Catalog) -> list[Wanted]:
            due = list(await catalog.wanted(now, limit))
            if again:
                await catalog.follow({}, [], due[:1])
            done = [each if end == "done" else each.key for each, end in zip(due, ends, strict=False) if end != "failed"]
            failed = [
                replace(each, due=now + 5, attempts=each.attempts + 1, error="again", dead=each.attempts > 2)
                for each, end in zip(due, ends, strict=False)
                if end == "failed"
            ]
            await catalog.settle(done, failed)
            return due

        self.both(act)

    @rule(each=wanted())
    def settle_what_may_not_be_wanted(self, each: Wanted) -> None:
        self.both(lambda catalog: catalog.settle([each], [each]))

    # ---- the fleet

    @rule(name=NAMES, secret=SECRETS, until=TIMES)
    def invite(self, name: str, secret: str, until: float) -> None:
        # Two edges never share a secret: it is 256 random bits.
        self.both(lambda catalog: catalog.invite(name, f"{name} {secret}", until))

    @rule(name=NAMES, shown=SECRETS, secret=SECRETS, now=TIMES)
    def enrol(self, name: str, shown: str, secret: str, now: float) -> None:
        self.both(lambda catalog: catalog.enrol(f"{name} {shown}", secret, now))

    @rule(name=NAMES, at=TIMES, serial=COUNTS)
    def seen(self, name: str, at: float, serial: int) -> None:
        self.both(lambda catalog: catalog.seen([Member(name, "", 0.0, at, serial, address="192.0.2.1")]))

    @rule(name=NAMES)
    def dismiss(self, name: str) -> None:
        self.both(lambda catalog: catalog.dismiss(name))

    @rule(batch=st.lists(accesses(), max_size=4))
    def record_accesses(self, batch: list[Access]) -> None:
        # Trimming by age takes it that they come in order of time, near enough.
        self.clock += 1
        batch = [replace(each, at=self.clock) for each in batch]
        self.both(lambda catalog: catalog.record_accesses(batch))

    @rule(before=TIMES, keep=COUNTS)
    def trim_accesses(self, before: float, keep: int) -> None:
        self.both(lambda catalog: catalog.trim_accesses(before, keep))

    @rule(files=st.lists(FILES, max_size=2), digests=st.lists(DIGESTS, max_size=2), limit=st.integers(1, 3))
    def deliveries(self, files: list[File], digests: list[Digest], limit: int) -> None:
        names, values = [file.key for file in files], [digest.value for digest in digests]
        self.both(lambda catalog: catalog.deliveries(names, values, limit))

    # ---- always

    @invariant()
    def both_say_the_same(self) -> None:
        async def said(catalog: Catalog) -> list[object]:
            lines = await catalog.lines(0)
            if lines and lines[0].serial == 1:
                assert lines[-1].hash == chained(GENESIS, [line.record for line in lines])
            pages = await catalog.pages_after("")
            return [
                list(lines),
                list(await catalog.changes(0)),
                await catalog.head(),
                await catalog.oldest_change(),
                [await catalog.answer(page) for page in pages],
                list(await catalog.bindings_after("")),
                await catalog.counts(),
                list(await catalog.wanted(1e12)),
                await catalog.unresolved(),
                list(await catalog.edges()),
                list(await catalog.accesses()),
                [access for _, access in await catalog.accesses_after(0)],
                await catalog.recall("cursor"),
                await catalog.recall("verdicts"),
                await catalog.held_bytes(),
            ]

        self.both(said)


CatalogsMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestCatalogs = CatalogsMachine.TestCase
