"""A ``RegistrySource`` on an upstream in the tests' hands, and what that upstream may answer."""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import trio

from origin.metrics import Metrics
from origin.model import Entry, File, Page, Relay
from origin.registries.pypi import PyPI
from origin.sources import FileStream, Known, Received
from origin.sources.registry import RegistrySource, Timeouts, Upstream
from tests.answering import Answering, Asked, Reply, answering
from tests.contracts.sources import collect

NOW = 1_800_000_000.0
JSON = "application/vnd.pypi.simple.v1+json"
PAGE = Page("pypi", "six")
WHEEL = File("pypi", "six", "1.0", "six-1.0-py3-none-any.whl", "packages/six-1.0-py3-none-any.whl")
RELAY = Relay("pypi", "GET", "-/search?text=six")
PATIENT = Timeouts()
BRIEF = Timeouts(first_byte_s=2, stall_s=0.2, page_s=0.5, queue_s=0.2)
"""For tests in which waiting is the point. (The others must pass on a machine that has other things to do.)"""


def document(body: bytes = b"{}", etag: str = '"v1"', **fields: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return Reply(200, body, {"Content-Type": f"{JSON}; charset=utf-8", "ETag": etag, **named})


def revalidated(body: bytes, etag: str) -> Callable[[Asked], Reply]:
    def answer(asked: Asked) -> Reply:
        if asked.fields.get("if-none-match") == etag:
            return Reply(304, fields={"ETag": etag, "Cache-Control": "max-age=600"})
        return document(body, etag)

    return answer


def stored(body: bytes, *, cuts: list[int] | None = None, etag: str | None = '"f1"') -> Callable[[Asked], Reply]:
    """A file that honours ranges."""
    waiting = list(cuts or [])

    def answer(asked: Asked) -> Reply:
        fields = {"Content-Type": "application/octet-stream"} | ({"ETag": etag} if etag else {})
        cut = waiting.pop(0) if waiting else None
        wanted = asked.fields.get("range")
        if wanted is None or asked.fields.get("if-range", etag) != etag:
            return Reply(200, body, fields, cut=cut)
        start = int(wanted.removeprefix("bytes=").removesuffix("-").split("-")[0])
        return Reply(206, body[start:], fields | {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}, cut=cut)

    return answer


@dataclass
class Bench:
    """A source on one upstream."""

    source: RegistrySource
    upstream: Answering
    metrics: Metrics

    @property
    def entry(self) -> Entry:
        return Entry(WHEEL, self.upstream.url + "files/six-1.0-py3-none-any.whl")

    def page_answers(self, *replies: Reply) -> None:
        self.upstream.answers["/simple/six/"] = list(replies)

    def file_answers(self, *replies: Reply) -> None:
        self.upstream.answers["/files/six-1.0-py3-none-any.whl"] = list(replies)

    async def fetch(self, known: Known | None = None) -> Received:
        answer = await self.source.page(PAGE, known)
        assert isinstance(answer, Received)
        return answer

    @asynccontextmanager
    async def open(self, start: int = 0, validator: str | None = None) -> AsyncIterator[FileStream]:
        async with self.source.file(WHEEL, self.entry, start, validator) as stream:
            yield stream

    async def download(self) -> bytes:
        async with self.open() as stream:
            return await collect(stream)

    def sent(self, kind: str) -> float:
        labels = {"registry": "pypi", "kind": kind, "source": "registry"}
        return self.metrics.registry.get_sample_value("leeward_upstream_requests_total", labels) or 0

    def failures(self) -> dict[str, float]:
        samples = [s for family in self.metrics.upstream_failures.collect() for s in family.samples]
        return {s.labels["failure"]: s.value for s in samples if s.name.endswith("_total")}


def source_of(url: str, metrics: Metrics, timeouts: Timeouts = PATIENT, **settings: Any) -> RegistrySource:
    config = replace(Upstream(registry=PyPI("pypi", url), timeouts=timeouts), **settings)
    return RegistrySource(
        {"pypi": config},
        clock=lambda: NOW,
        metrics=metrics,
        user_agent="leeward/1.0",
        deployment_id="edge-7",
        rng=random.Random(1),
    )


@asynccontextmanager
async def bench(timeouts: Timeouts = PATIENT, context: ssl.SSLContext | None = None, **settings: Any) -> AsyncIterator[Bench]:
    metrics = Metrics()
    async with answering(context=context) as upstream:
        source = source_of(upstream.url + "simple/", metrics, timeouts, **settings)
        try:
            yield Bench(source, upstream, metrics)
        finally:
            await source.aclose()


class Names(trio.abc.HostnameResolver):
    """A name service in the tests' hands."""

    def __init__(self, table: dict[str, list[str]]) -> None:
        self.table = table
        self.asked: list[str] = []

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002 -- the protocol's name
        proto: int = 0,
        flags: int = 0,
    ) -> list[tuple[Any, ...]]:
        name = (host or b"").decode()
        self.asked.append(name)
        if name not in self.table:
            raise OSError(-2, "Name or service not known")
        return [(trio.socket.AF_INET, trio.socket.SOCK_STREAM, 6, "", (address, int(port or 0))) for address in self.table[name]]

    async def getnameinfo(self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int) -> tuple[str, str]:
        raise AssertionError("nobody asks backwards")
