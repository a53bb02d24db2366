"""A source that does as it is told, and a service standing on it in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from origin.blobs.disk import DiskBlobs
from origin.catalog import Catalog
from origin.catalog.memory import MemoryCatalog
from origin.errors import NotFound, Unavailable
from origin.flights import Flights, open_flights
from origin.metrics import Metrics
from origin.model import Digest, Entry, File, Page, Relay, Stamp
from origin.policy.rules import Rule, parse_rule
from origin.registries import Registry
from origin.registries.pypi import PyPI
from origin.service import Service
from origin.sources import Absent, Answer, FileHead, FileStream, Known, NotModified, Received, Relayed

UPSTREAM = "http://pypi.test/simple/"
MEDIA_TYPE = "application/vnd.pypi.simple.v1+json"
EPOCH = 1_700_000_000.0
FRESH_S = 600.0
STALE_S = 30 * 86400.0
PATIENCE_S = 2.0
FAILURES_TO_OPEN = 3


def now() -> float:
    """The day as the tests' clock has it: UTC seconds that pass with trio's clock."""
    return EPOCH + trio.current_time()


def stamp(fresh_s: float = FRESH_S) -> Stamp:
    return Stamp(now() + fresh_s, now() + STALE_S)


@dataclass
class Upload:
    """One file as upstream has it. ``content`` is what is sent; ``published`` what its page says it is."""

    filename: str
    content: bytes
    published: bytes | None = None
    yanked: str | bool = False
    digests: bool = True
    hashed: bool = True

    @property
    def truth(self) -> bytes:
        return self.content if self.published is None else self.published

    @property
    def path(self) -> str:
        h = hashlib.blake2b(self.truth, digest_size=32).hexdigest()
        return f"packages/{h[:2]}/{h[2:4]}/{h[4:]}/{self.filename}"

    @property
    def url(self) -> str:
        return f"http://files.test/{self.path if self.hashed else f'plain/{self.filename}'}"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.truth).hexdigest()

    def described(self) -> dict[str, object]:
        return {
            "filename": self.filename,
            "url": self.url,
            "hashes": {"sha256": self.sha256} if self.digests else {},
            "size": len(self.truth),
            "upload-time": "2024-01-01T00:00:00.000000Z",
            "yanked": self.yanked,
        }


def document(project: str, uploads: Sequence[Upload], serial: int | None = 1) -> bytes:
    """A project page as upstream would send it."""
    meta: dict[str, object] = {"api-version": "1.1"} | ({} if serial is None else {"_last-serial": serial})
    versions = sorted({u.filename.split("-")[1] for u in uploads})
    return json.dumps({"meta": meta, "name": project, "versions": versions, "files": [u.described() for u in uploads]}).encode()


@dataclass
class ScriptedSource:
    """Upstream in the tests' hands: change ``projects``, hold ``gate`` closed, set ``down`` or ``silent``, break transfers at ``break_at``.

    It keeps the contract of every source, without a network.
    """

    projects: dict[str, list[Upload]] = field(default_factory=dict)
    serials: dict[str, int] = field(default_factory=dict)
    raw: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    registries: frozenset[str] = frozenset({"pypi"})
    down: bool = False
    silent: bool = False
    failures: int = 0
    worth_waiting: bool = True
    asked: list[str] = field(default_factory=list)
    conditional: bool = True
    break_at: list[int] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)
    still_there: set[str] = field(default_factory=set)
    piece_bytes: int = 64 * 1024
    open_gate: trio.Event | None = None
    file_gate: trio.Event | None = None
    gate_after: int = 0
    validators: list[str] = field(default_factory=list)
    header_digests: bool = False
    relayed: dict[str, Relayed] = field(default_factory=dict)
    name: str = "registry"

    def available(self, registry: str, kind: str) -> bool:
        return self.worth_waiting and registry in self.registries and self.failures < FAILURES_TO_OPEN

    async def _reach(self, what: str, gate: trio.Event | None = None) -> None:
        self.asked.append(what)
        await trio.lowlevel.checkpoint()
        if gate is not None:
            await gate.wait()
        if self.silent:
            await trio.sleep(PATIENCE_S)
        if self.silent or self.down:
            self.failures += 1
            raise Unavailable("upstream is down", 7)
        self.failures = 0

    async def page(self, page: Page, known: Known | None) -> Answer:
        await self._reach(f"page {page.project}", self.open_gate)
        project = page.project
        if project in self.raw:
            body = self.raw[project]
        elif project in self.projects:
            body = document(project, self.projects[project], self.serials.get(project, 1))
        else:
            return Absent(404, stamp(30))
        etag = self.etags.get(project) or f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
        if known is not None and known.etag == etag and self.conditional:
            return NotModified(stamp())
        return Received(body, MEDIA_TYPE, f"{UPSTREAM}{project}/", stamp(), etag)

    def _uploads(self) -> Iterator[Upload]:
        return (upload for uploads in self.projects.values() for upload in uploads if upload.filename not in self.missing)

    @asynccontextmanager
    async def file(self, file: File, entry: Entry, start: int = 0, validator: str | None = None) -> AsyncIterator[FileStream]:
        await self._reach(f"file {file.filename} from {start}")
        upload = next((upload for upload in self._uploads() if upload.filename == file.filename), None)
        if upload is None:
            raise NotFound(file.filename)
        validator = self.validators.pop(0) if self.validators else '"v1"'
        sent = (Digest("sha256", hashlib.sha256(upload.content).hexdigest()),) if self.header_digests else ()
        async with aclosing(self._chunks(upload, start)) as chunks:
            yield FileStream(FileHead(len(upload.content), start, "application/octet-stream", validator, sent), chunks)

    async def _chunks(self, upload: Upload, start: int) -> AsyncGenerator[bytes]:
        end = self.break_at.pop(0) if self.break_at else None
        for at in range(start, len(upload.content), self.piece_bytes):
            if self.file_gate is not None and at >= self.gate_after:
                await self.file_gate.wait()
            if end is not None and at >= end:
                raise Unavailable("the connection broke", 1)
            await trio.lowlevel.checkpoint()
            yield upload.content[at : at + self.piece_bytes]

    async def relay(self, relay: Relay) -> Relayed:
        await self._reach(f"relay {relay.request}")
        return self.relayed.get(relay.request, Relayed(404, b""))

    async def exists(self, file: File, url: str) -> bool:
        await self._reach(f"exists {file.filename}")
        return file.filename in self.still_there or any(upload.url == url for upload in self._uploads())


@dataclass(frozen=True)
class Sent:
    """What stands at an address. ``digests`` and ``last_modified`` come in fields; a ``status`` of 500 and more says: not now."""

    body: bytes = b""
    status: int = 200
    media_type: str = "application/octet-stream"
    last_modified: str | None = None
    digests: tuple[Digest, ...] = ()


@dataclass
class Web:
    """Upstreams of any kind in the tests' hands: addresses, and what stands there. It keeps the contract of every source.

    ``sent`` maps an address to its answer, or to several to be used up (the last stays). ``down`` names instances whose upstream does not
    answer, ``doubted`` those that nobody should wait for; ``gates`` holds an address' answer back, and ``body_gate`` all bodies from
    ``gate_after`` on. ``asked`` lists the addresses that were asked for, ``relays`` what was forwarded.
    """

    registries: Mapping[str, Registry]
    sent: dict[str, Sent | list[Sent]] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    doubted: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    relays: list[Relay] = field(default_factory=list)
    gates: dict[str, trio.Event] = field(default_factory=dict)
    body_gate: trio.Event | None = None
    gate_after: int = 0
    piece_bytes: int = 64 * 1024
    name: str = "registry"

    def available(self, registry: str, kind: str) -> bool:
        return registry in self.registries and registry not in self.doubted

    async def _answer(self, registry: str, url: str) -> Sent:
        """What stands at an address; raises ``Unavailable`` if nobody says."""
        self.asked.append(url)
        await trio.lowlevel.checkpoint()
        if url in self.gates:
            await self.gates[url].wait()
        if registry in self.down:
            raise Unavailable("upstream is down", 7)
        sent = self.sent.get(url, Sent(status=404))
        if isinstance(sent, list):
            sent = sent.pop(0) if len(sent) > 1 else sent[0]
        if sent.status >= 500:
            raise Unavailable(f"upstream answers {sent.status}", 7)
        return sent

    async def page(self, page: Page, known: Known | None) -> Answer:
        rules = self.registries[page.registry]
        url, life = rules.locate(page, None), stamp(rules.life_s(page, FRESH_S))
        sent = await self._answer(page.registry, url)
        if sent.status != 200:
            return Absent(sent.status, stamp(30))
        etag = f'"{hashlib.md5(sent.body, usedforsecurity=False).hexdigest()}"'
        if known is not None and known.etag == etag:
            return NotModified(life)
        return Received(sent.body, sent.media_type, url, life, etag, sent.last_modified, digests=sent.digests)

    @asynccontextmanager
    async def file(self, file: File, entry: Entry, start: int = 0, validator: str | None = None) -> AsyncIterator[FileStream]:
        sent = await self._answer(file.registry, entry.url)
        if sent.status != 200:
            raise NotFound(file.filename)
        head = FileHead(len(sent.body), start, sent.media_type, '"v1"', sent.digests, sent.last_modified)
        async with aclosing(self._chunks(sent.body, start)) as chunks:
            yield FileStream(head, chunks)

    async def _chunks(self, body: bytes, start: int) -> AsyncGenerator[bytes]:
        for at in range(start, len(body), self.piece_bytes):
            if self.body_gate is not None and at >= self.gate_after:
                await self.body_gate.wait()
            await trio.lowlevel.checkpoint()
            yield body[at : at + self.piece_bytes]

    async def relay(self, relay: Relay) -> Relayed:
        self.relays.append(relay)
        sent = await self._answer(relay.registry, self.registries[relay.registry].upstream + relay.request)
        return Relayed(sent.status, sent.body)

    async def exists(self, file: File, url: str) -> bool:
        return (await self._answer(file.registry, url)).status == 200


@dataclass
class Bench:
    """A service and everything it stands on."""

    service: Service
    source: ScriptedSource
    blobs: DiskBlobs
    catalog: MemoryCatalog
    flights: Flights
    metrics: Metrics
    registry: PyPI

    def rule(self, match: str, reason: str = "not for us") -> None:
        """Put one rule in force."""
        rules: list[Rule] = [parse_rule({"name": "test", "match": match, "action": "refuse", "reason": reason})]
        self.service.set_rules(rules)

    def file(self, upload: Upload, suffix: str = "") -> File:
        """What a request for an upload's path means."""
        found = self.registry.resource("GET", upload.path + suffix)
        assert isinstance(found, File)
        return found

    async def events(self) -> list[str]:
        return [event.kind for event in await self.catalog.events()]


@asynccontextmanager
async def bench(
    tmp_path: Path,
    projects: Mapping[str, list[Upload]],
    *,
    registries: Callable[[], Mapping[str, PyPI]] | None = None,
    serve_removed: bool = False,
    limit_bytes: int | None = None,
    upstream_since: float = 0.0,
) -> AsyncIterator[Bench]:
    """A node's service over a scripted source, with blobs on disk and its catalogue in memory."""
    source = ScriptedSource(dict(projects))
    metrics = Metrics()
    registry = PyPI("pypi", UPSTREAM)
    blobs = DiskBlobs(tmp_path / "blobs", limit_bytes=limit_bytes)
    await blobs.sweep()
    catalog = MemoryCatalog()
    async with open_flights(metrics) as flights:
        service = Service(
            registries() if registries else {"pypi": registry},
            [source],
            blobs,
            catalog,
            flights,
            metrics,
            now,
            serve_removed=frozenset({"pypi"} if serve_removed else ()),
            upstream_since={"pypi": upstream_since},
        )
        yield Bench(service, source, blobs, catalog, flights, metrics, registry)


@dataclass
class Stall:
    """A service of any kinds, the upstreams it asks, and what it stands on."""

    service: Service
    web: Web
    blobs: DiskBlobs
    catalog: Catalog
    flights: Flights
    metrics: Metrics

    def rule(self, match: str, reason: str = "not for us") -> None:
        """Put one rule in force."""
        self.service.set_rules([parse_rule({"name": "test", "match": match, "action": "refuse", "reason": reason})])

    async def events(self) -> list[str]:
        return [event.kind for event in await self.catalog.events()]


@asynccontextmanager
async def stall(
    tmp_path: Path, registries: Sequence[Registry], web: Web | None = None, catalog: Catalog | None = None
) -> AsyncIterator[Stall]:
    """A node's service over ``web``. With the ``web`` and ``catalog`` of another one it is that one, started again."""
    named = {registry.name: registry for registry in registries}
    web = web or Web(named)
    catalog = catalog or MemoryCatalog()
    metrics = Metrics()
    blobs = DiskBlobs(tmp_path / "blobs", limit_bytes=None)
    await blobs.sweep()
    async with open_flights(metrics) as flights:
        service = Service(named, [web], blobs, catalog, flights, metrics, now)
        yield Stall(service, web, blobs, catalog, flights, metrics)
