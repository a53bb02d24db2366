"""An origin or a sibling on a loopback port, over TLS, with a service in the tests' hands behind the real face; and sources on it."""

from __future__ import annotations

import hashlib
import math
import os
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import trio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from origin.access import AccessLog
from origin.api.server import Face
from origin.catalog import Binding, StoredAnswer
from origin.catalog.memory import MemoryCatalog
from origin.errors import NotFound, Unavailable
from origin.files import Delivery
from origin.held import PageView
from origin.http import Handler, Request, Response
from origin.http.tls import server_context
from origin.identity import make_certificate
from origin.metrics import Metrics
from origin.model import Arriving, Digest, Entry, File, Listing, Page, Relay, Span, Stamp, Validity
from origin.registries import Registry
from origin.registries.npm import NPM
from origin.registries.pypi import PyPI
from origin.service import Service
from origin.sources.link import Link, pin_of
from origin.sources.remote import RemoteSource
from origin.sources.sibling import SiblingSource
from origin.tokens import proof
from tests.origin.http.loopback import Running, running, settled

NOW = 1_800_000_000.0
REGISTRIES: dict[str, Registry] = {"pypi": PyPI("pypi", "http://pypi.test/simple/"), "npm": NPM("npm", "http://npm.test/")}
PAGE = Page("pypi", "six")
HASHED = hashlib.blake2b(b"six", digest_size=32).hexdigest()
WHEEL = File(
    "pypi", "six", "1.0", "six-1.0-py3-none-any.whl", f"packages/{HASHED[:2]}/{HASHED[2:4]}/{HASHED[4:]}/six-1.0-py3-none-any.whl"
)
ENTRY = Entry(WHEEL, f"http://files.test/{WHEEL.path}")
RELAY = Relay("npm", "GET", "-/v1/search?text=six")
EDGE = "Bearer edge"
FLEET = bytes(range(32))
PROVE = partial(proof, FLEET)


@dataclass(frozen=True)
class Key:
    """A server's TLS: its context, and what it is pinned by."""

    context: ssl.SSLContext
    pin: bytes

    @classmethod
    def make(cls, folder: Path) -> Key:
        private = ec.generate_private_key(ec.SECP256R1())
        certificate = make_certificate(private, [], NOW)
        (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        (folder / "key.pem").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        context = server_context(str(folder / "cert.pem"), str(folder / "key.pem"))
        return cls(context, pin_of(certificate.public_bytes(Encoding.DER)))


@dataclass
class Given:
    """Always the same context; ``times`` counts the connections it was given for."""

    given: ssl.SSLContext
    times: int = 0

    def context(self) -> ssl.SSLContext:
        self.times += 1
        return self.given


class Broken:
    """An arrival that ends after ``cut`` of its bytes, or ``stalls`` there."""

    def __init__(self, fd: int, cut: int, *, stalls: bool) -> None:
        self.releasable = cut
        self._fd = fd
        self._stalls = stalls

    def fileno(self) -> int:
        return self._fd

    async def wait_beyond(self, offset: int) -> int:
        await trio.lowlevel.checkpoint()
        if offset >= self.releasable and self._stalls:
            await trio.sleep_forever()
        if offset >= self.releasable:
            raise Unavailable("the transfer broke", 1)
        return self.releasable

    def estimate_s(self) -> float | None:
        return None

    def close(self) -> None:
        os.close(self._fd)


@dataclass
class Told:
    """The service: it says what the test puts here, or raises it. ``asked_within`` notes how old a page might be."""

    page_is: Listing | Exception = field(default_factory=lambda: NotFound("no such page"))
    file_is: bytes | Exception = field(default_factory=lambda: NotFound("no such file"))
    relay_is: bytes | Exception = b"{}"
    cuts: list[int] = field(default_factory=list)
    stalls: bool = False
    fresh_s: float = 600.0
    confirmed_ago_s: float = 0.0
    is_absent: bool = False
    asked_within: list[float | None] = field(default_factory=list)
    cache_status: str = "hit"

    def __post_init__(self) -> None:
        self.catalog = MemoryCatalog()
        self.metrics = Metrics()
        self.accesses = AccessLog(self.catalog, self.metrics)

    def clock(self) -> float:
        return NOW

    async def page(self, page: Page, *, max_age_s: float | None = None) -> PageView:
        self.asked_within.append(max_age_s)
        if isinstance(self.page_is, Exception):
            await self.catalog.publish(StoredAnswer(page, 404, b"", "", Stamp(NOW + 30, NOW + 3600), NOW))
            raise self.page_is
        stamp = Stamp(NOW + self.fresh_s, NOW + 86400.0, 7)
        return PageView(
            self.page_is, stamp, Validity(math.inf), NOW - self.confirmed_ago_s, self.page_is.serial, "hit", self.cache_status
        )

    async def held_page(self, page: Page) -> PageView | None:
        return None if isinstance(self.page_is, Unavailable) else await self.page(page)

    async def deliver(self, file: File, *, hold_s: float) -> Delivery:
        if isinstance(self.file_is, Exception):
            raise self.file_is
        fd = os.memfd_create("blob")
        os.write(fd, self.file_is)
        size = len(self.file_is)
        cut = self.cuts.pop(0) if self.cuts else size // 2
        is_whole = not self.stalls and cut == size // 2
        body = Span(fd, 0, size) if is_whole else Arriving(Broken(fd, cut, stalls=self.stalls), 0, size)
        digest = Digest("sha256", hashlib.sha256(self.file_is).hexdigest())
        return Delivery(file, (digest,), size, body, "hit", self.cache_status, "Tue, 02 Jan 2024 03:04:05 GMT")

    async def held_file(self, file: File) -> Delivery | None:
        return None if isinstance(self.file_is, NotFound) else await self.deliver(file, hold_s=0)

    async def holds(self, file: File) -> Binding | None:
        if isinstance(self.file_is, Exception):
            return None
        return Binding(file, Digest("sha256", hashlib.sha256(self.file_is).hexdigest()), len(self.file_is), NOW)

    async def exists(self, file: File) -> bool:
        if isinstance(self.file_is, Exception) and not isinstance(self.file_is, NotFound):
            raise self.file_is
        return not isinstance(self.file_is, Exception)

    async def relay(self, relay: Relay) -> bytes:
        if isinstance(self.relay_is, Exception):
            raise self.relay_is
        return self.relay_is


@dataclass
class Stage:
    """A node. ``handle`` may be put in place of its face's; ``stop`` takes it off the network."""

    told: Told
    key: Key
    at: Running
    contexts: Given
    handle: Handler
    stop: Callable[[], None]

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.at.port}"

    def seen(self, path: str = "") -> list[Request]:
        """Requests that arrived, but for pings."""
        return [each for each in self.at.seen if each.target.startswith(f"/v1/{path}") and each.target != "/v1/ping"]

    def pings(self) -> int:
        return sum(each.target == "/v1/ping" for each in self.at.seen)

    def link(self, authorization: str = EDGE, path: str = "", pin: bytes | None = None, **options: object) -> Link:
        settings: dict[str, object] = {
            "clock": lambda: NOW,
            "metrics": Metrics(),
            "user_agent": "leeward/1.0",
            "deployment_id": "edge-7",
        }
        return Link(self.url + path, pin or self.key.pin, lambda: authorization, **(settings | options))  # type: ignore[arg-type]


@asynccontextmanager
async def stage(folder: Path, *, held_only: bool = False) -> AsyncIterator[Stage]:
    """Run a node until the block ends."""
    told, key = Told(), Key.make(folder)
    contexts = Given(key.context)
    face = Face(
        cast("Service", told),
        told.catalog,
        REGISTRIES,
        told.metrics,
        "node-1",
        lambda authorization: "tokyo" if authorization == EDGE else None,
        held_only=held_only,
        prove=PROVE if held_only else None,
    )
    async with trio.open_nursery() as nursery:
        life = trio.CancelScope()
        made: list[Stage] = []

        async def handle(request: Request) -> Response:
            return await made[0].handle(request)

        async def serve(task_status: trio.TaskStatus[Running]) -> None:
            with life:
                async with running(handle, contexts=contexts, tls_only=True, clock=lambda: NOW) as at:
                    task_status.started(at)
                    await trio.sleep_forever()

        at: Running = await nursery.start(serve)
        made.append(Stage(told, key, at, contexts, face.handle, life.cancel))
        yield made[0]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def sourced(
    at: Stage, kind: type[RemoteSource] = RemoteSource, link: Link | None = None, **options: object
) -> AsyncIterator[RemoteSource]:
    """A source on a node, at work until the block ends; it has knocked once."""
    link = link or at.link()
    if kind is SiblingSource:
        options.setdefault("prove", PROVE)
    source = kind(link, REGISTRIES, clock=lambda: NOW, rng=random.Random(1), **options)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(source.run)
        await settled(lambda: source.available("pypi", "page") or source.statistics()["page"] == "open")
        yield source
        nursery.cancel_scope.cancel()
