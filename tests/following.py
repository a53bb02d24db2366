"""An origin in memory that an edge can follow, and the edge's own side without a store: what the tests of following stand on.

``Origin`` keeps a real ledger in a real catalogue, and answers what ``edge.following.central`` asks as the replication face does.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import msgspec
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge.enrolment import Identity
from edge.follow import Follower
from edge.following.bringing import Budget
from edge.settings import ReplicateSettings
from origin.api import wire
from origin.catalog import Binding, StoredAnswer
from origin.catalog.memory import MemoryCatalog
from origin.errors import Unavailable
from origin.feed import CursorGone, Ledger, new_epoch
from origin.metrics import Metrics, total
from origin.model import Change, Digest, File, Headers, Page, Stamp
from origin.policy.purls import purl_of
from tests.scripted import now

KINDS = {"pypi": "pypi", "npm": "npm"}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, whole."""

    status: int
    body: bytes = b""


def file(name: str, version: str = "1.0", registry: str = "pypi") -> File:
    """A file of the project ``name``."""
    filename = f"{name}-{version}.tar.gz"
    return File(registry, name, version, filename, f"packages/{filename}")


def binding(bound: File, content: bytes | None = None, source: str = "registry") -> Binding:
    """A binding of that file, made now; its content is its name's unless given."""
    body = content if content is not None else bound.key.encode()
    digest = Digest("sha256", hashlib.sha256(body).hexdigest())
    purl = purl_of(bound.registry, bound.project, bound.version)
    return Binding(bound, digest, len(body), now(), purl=purl, source=source)


@dataclass
class Origin:
    """An origin as its edges see it. ``trouble`` is asked before each answer and may raise; ``silent`` keeps every question for ever;
    ``is_strange`` makes every place in the ledger one that it does not know.
    """

    catalog: MemoryCatalog = field(default_factory=lambda: MemoryCatalog(keeps_ledger=True))
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    policy: wire.Verdicts = field(default_factory=wire.Verdicts)
    noticed: Callable[[int], None] = lambda _: None
    trouble: Callable[[str], None] = lambda _: None
    silent: bool = False
    asked: list[str] = field(default_factory=list)
    acknowledged: list[wire.Acknowledgement] = field(default_factory=list)
    accesses: list[wire.EdgeAccess] = field(default_factory=list)
    offered: list[wire.HeldFile] = field(default_factory=list)
    part: int = 1000
    is_strange: bool = False
    _opened: trio.Event = field(default_factory=trio.Event)

    async def open(self) -> None:
        """Open the ledger, anew after a restart; to be called before anything is asked."""
        self.ledger = await Ledger.open(self.catalog, self.key.sign, now, verdicts=self.policy.revision)
        self._opened.set()
        self._opened = trio.Event()

    async def run(self) -> None:
        """Announce what happens, whichever ledger is open."""
        async with trio.open_nursery() as nursery:
            while True:
                nursery.start_soon(self.ledger.run)
                await self._opened.wait()

    @property
    def public_key(self) -> str:
        return base64.b64encode(self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()

    # ---- what happens there

    async def page(self, project: str, document: bytes = b"{}", registry: str = "pypi") -> Page:
        """It publishes a page, as new content."""
        page = Page(registry, project)
        await self.catalog.publish(StoredAnswer(page, 200, document, "application/json", Stamp(now() + 600, now() + 9000), now()))
        return page

    async def bind(self, *files: File) -> None:
        """It stores files."""
        for each in files:
            await self.catalog.bind(binding(each))

    async def popular(self, wanted: File) -> None:
        """Many edges wanted that file."""
        await self.catalog.append(
            Change(
                0,
                wanted.key,
                kind="popular",
                at=now(),
                registry=wanted.registry,
                project=wanted.project,
                version=wanted.version,
                filename=wanted.filename,
                path=wanted.path,
            )
        )

    async def recall(self, *purls: str, revision: int | None = None) -> None:
        """It recalls releases, and says so in the ledger."""
        recall = wire.Recall(id=str(self.policy.revision + 1), target=purls[0], reason="bad", at=now(), purls=purls)
        self.set_policy(wire.Verdicts(revision=revision or self.policy.revision + 1, recalls=(*self.policy.recalls, recall)))
        await self.catalog.append(Change(0, "verdicts", kind="verdicts", at=now(), revision=self.policy.revision))

    def set_policy(self, verdicts: wire.Verdicts) -> None:
        self.policy = verdicts
        self.ledger.set_verdicts(verdicts.revision)

    async def restore(self) -> None:
        """It was restored from a backup: another epoch of the same ledger."""
        await self.catalog.remember("epoch", new_epoch())
        await self.open()

    # ---- what is asked of it

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Headers = (), *, timeout_s: float, limit_bytes: int
    ) -> Reply:
        parts = urlsplit(path)
        what = parts.path.removeprefix(wire.ROOT)
        self.asked.append(what)
        with trio.move_on_after(timeout_s):
            await trio.lowlevel.checkpoint()
            if self.silent:
                await trio.sleep_forever()
            self.trouble(what)
            reply = await self._answer(what, {name: values[0] for name, values in parse_qs(parts.query).items()}, body)
            self.noticed(self.policy.revision)
            return reply
        raise Unavailable("the origin is silent")

    async def _answer(self, what: str, query: dict[str, str], body: bytes) -> Reply:
        match what:
            case "changes":
                after, verdicts = query["after"], int(query["verdicts"])
                if self.is_strange:
                    return Reply(410)
                try:
                    await self.ledger.wait_beyond(after, verdicts, float(query["wait"]))
                    return Reply(200, await self.ledger.batch(after, int(query["limit"])))
                except CursorGone:
                    return Reply(410)
            case "verdicts":
                return _json(self.policy)
            case "instances":
                return _json(wire.Instances(KINDS))
            case "acknowledgements":
                self.acknowledged.append(msgspec.json.decode(body, type=wire.Acknowledgement))
                return Reply(204)
            case "accesses":
                self.accesses += msgspec.json.decode(body, type=wire.Accesses).accesses
                return Reply(204)
            case "offers":
                self.offered += msgspec.json.decode(body, type=wire.Offers).files
                return Reply(204)
            case "snapshot":
                return _json(await self._snapshot(query.get("after", ""), min(self.part, int(query["limit"]))))
            case "holdings":
                return _json(await self._compare(msgspec.json.decode(body, type=wire.Comparison)))
            case _:
                return Reply(404)

    async def _snapshot(self, after: str, limit: int) -> wire.Snapshot:
        kind, _, key = after.partition(" ")
        serial, last = await self.catalog.head()
        head = (wire.cursor_text(self.ledger.epoch, serial), last.hex())
        total = sum(await self.catalog.counts())
        if kind in ("", "page"):
            pages = tuple(await self.catalog.pages_after(key, limit))
            following = f"page {pages[-1].key}" if len(pages) == limit else "file "
            return wire.Snapshot(cursor=head[0], hash=head[1], pages=pages, after=following, total=total)
        files = tuple(_held(each) for each in await self.catalog.bindings_after(key, limit))
        following = f"file {files[-1].file.key}" if len(files) == limit else ""
        return wire.Snapshot(cursor=head[0], hash=head[1], files=files, after=following, total=total)

    async def _compare(self, comparison: wire.Comparison) -> wire.Compared:
        found = {}
        is_wanted = wire.wanted_by(comparison.match)
        for each in await self.catalog.bindings_after("", 1_000_000):
            if is_wanted(purl_of(each.file.registry, each.file.project, each.file.version)):
                found[each.file.key] = each
        cursor = wire.cursor_text(self.ledger.epoch, self.ledger.head)
        if comparison.shard is not None:
            chosen = [each for key, each in found.items() if wire.shard_of(key) == comparison.shard]
            return wire.Compared(cursor=cursor, files=tuple(map(_held, chosen)))
        shards = wire.shard_digests({key: str(each.digest) for key, each in found.items()})
        return wire.Compared(cursor=cursor, total=wire.total_digest(shards), shards=shards)


def _json(message: msgspec.Struct) -> Reply:
    return Reply(200, msgspec.json.encode(message))


def _held(each: Binding) -> wire.HeldFile:
    f = each.file
    return wire.HeldFile(
        registry=f.registry,
        project=f.project,
        version=f.version,
        filename=f.filename,
        path=f.path,
        digest=str(each.digest),
        size=each.size,
    )


@dataclass
class Keeper:
    """A service that only remembers what it was told. ``ends`` says how keeping a thing ends: an error, or an event to wait for first."""

    catalog: MemoryCatalog
    central: wire.Verdicts = field(default_factory=wire.Verdicts)
    unread: str = ""
    lapsed: str = ""
    told: list[object] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    under_way: set[str] = field(default_factory=set)
    most: int = 0
    ends: dict[str, Exception | trio.Event] = field(default_factory=dict)
    room: list[int] = field(default_factory=list)

    def set_central(self, verdicts: wire.Verdicts) -> None:
        self.told.append(verdicts.revision)
        if self.unread:
            raise ValueError(self.unread)
        self.central = verdicts

    def doubted(self, pairs: Iterable[tuple[str, str]]) -> None:
        self.told += list(pairs)

    async def keep(self, resource: Page | File) -> None:
        """Keep it, and bind a file."""
        key = resource.key
        assert key not in self.under_way, "twice at a time"
        self.under_way.add(key)
        self.most = max(self.most, len(self.under_way))
        try:
            await trio.lowlevel.checkpoint()
            match self.ends.get(key):
                case trio.Event() as event:
                    await event.wait()
                case Exception() as error:
                    raise error
            if isinstance(resource, File):
                await self.catalog.bind(binding(resource, source="origin"))
            self.kept.append(key)
        finally:
            self.under_way.discard(key)

    async def holds(self, file: File) -> Binding | None:
        found = await self.catalog.binding(file)
        return found if found is not None and await self.catalog.held(found.digest) is not None else None

    async def make_room(self, need_bytes: int) -> int:
        self.room.append(need_bytes)
        return need_bytes

    def lapse(self, reason: str) -> None:
        self.lapsed = reason


async def soon(true: Callable[[], object], timeout_s: float = 60.0) -> float:
    """Wait, by trio's clock, until it is so; the seconds that took."""
    began = trio.current_time()
    with trio.fail_after(timeout_s):
        while not true():  # noqa: ASYNC110 -- what is waited for tells nobody, and the clock is a mock
            await trio.sleep(0.01)
    return trio.current_time() - began


ALL = ReplicateSettings(mode="all")
NONE = ReplicateSettings(mode="none")
POPULAR = ReplicateSettings()


@dataclass
class Edge:
    """An edge's own side. ``run`` is its life; everything but the catalogue is gone with it."""

    origin: Origin
    asked: ReplicateSettings = ALL
    catalog: MemoryCatalog = field(default_factory=MemoryCatalog)
    metrics: Metrics = field(default_factory=Metrics)
    held_bytes: float = 0

    def __post_init__(self) -> None:
        self.keeper = Keeper(self.catalog)

    @asynccontextmanager
    async def run(self, *, keeper: Keeper | None = None) -> AsyncIterator[Follower]:
        self.metrics = Metrics()
        self.keeper = keeper or Keeper(self.catalog)
        identity = Identity(
            url="https://origin.test",
            pin="00" * 32,
            edge="a",
            secret="s",
            deployment="d",
            key=self.origin.public_key,
            fleet="Zm9v",
        )
        budget = Budget(self.asked.limit_bytes, lambda: self.held_bytes, lambda: True)
        follower = Follower(identity, self.origin, self.asked, self.keeper, KINDS, self.catalog, budget, self.metrics, now)
        self.origin.noticed = follower.noticed
        await follower.begin()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.run)
            yield follower
            nursery.cancel_scope.cancel()

    async def hold(self, project: str, fresh_s: float = 600) -> Page:
        page = Page("pypi", project)
        await self.catalog.publish(
            StoredAnswer(page, 200, b"{}", "application/json", Stamp(now() + fresh_s, now() + 9000), now())
        )
        return page

    async def is_fresh(self, page: Page) -> bool:
        held = await self.catalog.answer(page)
        return held is not None and held.stamp.fresh_until > now()

    def count(self, name: str) -> float:
        return total(getattr(self.metrics, name))


@asynccontextmanager
async def following(origin: Origin | None = None) -> AsyncIterator[Origin]:
    """An origin that runs."""
    origin = origin or Origin()
    await origin.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(origin.run)
        yield origin
        nursery.cancel_scope.cancel()


def once(error: Exception) -> Callable[[str], None]:
    """Trouble with the next question for changes, and none afterwards."""
    left = [error]

    def trouble(what: str) -> None:
        if what == "changes" and left:
            raise left.pop()

    return trouble
