"""The service stands on the protocol of registries and on no kind: it serves one that was made up."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from trio.testing import MockClock

from origin.blobs.disk import DiskBlobs
from origin.catalog.memory import MemoryCatalog
from origin.errors import NotFound, Refused
from origin.flights import open_flights
from origin.metrics import Metrics
from origin.model import Arriving, File, Page, Span
from origin.policy.rules import Match, Rule
from origin.service import Service
from origin.sources import Answer, Known, Received
from tests.scripted import ScriptedSource, Upload, now, stamp
from tests.toy import MEDIA_TYPE, Toy

SHOP = Toy("shop", "http://toy.test/")
BALL = Page("shop", "ball")
UPLOADS = [Upload(f"ball-{version}.bin", f"a ball {version}".encode() * 100) for version in (1, 2)]
DOCUMENT = "\n".join(
    [
        "toy ball 7",
        *(f"{n}.0 {u.filename} {len(u.content)} {u.sha256} http://toy.test/stock/{u.filename}" for n, u in enumerate(UPLOADS, 1)),
        "end",
    ]
).encode()


class ToySource(ScriptedSource):
    """The scripted source, with the toy's page."""

    async def page(self, page: Page, known: Known | None) -> Answer:
        await self._reach(f"page {page.project}")
        return Received(DOCUMENT, MEDIA_TYPE, "http://toy.test/list/ball", stamp())


@pytest.fixture
def clock() -> MockClock:
    # Worker threads count as blocked tasks: the threshold keeps the clock from jumping while one works.
    return MockClock(autojump_threshold=0.5)


def file(number: int) -> File:
    meant = SHOP.resource("GET", f"files/ball/{number}.0/ball-{number}.bin")
    assert isinstance(meant, File)
    return meant


async def deliver(service: Service, number: int) -> str:
    """Fetch a file and give the SHA-256 of what came."""
    body = (await service.deliver(file(number), hold_s=8)).body
    assert not isinstance(body, bytes)
    try:
        if isinstance(body, Arriving):
            while await body.flight.wait_beyond(body.stop - 1) < body.stop:
                pass
            return hashlib.sha256(os.pread(body.flight.fileno(), len(body), body.start)).hexdigest()
        assert isinstance(body, Span)
        return hashlib.sha256(os.pread(body.fd, len(body), body.start)).hexdigest()
    finally:
        body.close()


async def test_a_made_up_kind_is_served_verified_and_judged(tmp_path: Path, clock: MockClock) -> None:
    source = ToySource({"ball": UPLOADS}, registries=frozenset({"shop"}))
    blobs = DiskBlobs(tmp_path / "blobs")
    await blobs.sweep()
    metrics = Metrics()
    async with open_flights(metrics) as flights:
        service = Service({"shop": SHOP}, [source], blobs, MemoryCatalog(), flights, metrics, now)
        view = await service.page(BALL)
        assert SHOP.write(view.listing, MEDIA_TYPE, None) == DOCUMENT
        assert await deliver(service, 1) == UPLOADS[0].sha256
        assert await deliver(service, 1) == UPLOADS[0].sha256
        assert source.asked == ["page ball", "file ball-1.bin from 0"]

        service.set_rules([Rule("no-two", Match("toy", "ball", ((">=", "2"),)), "refuse", "too bouncy")])
        restricted = (await service.page(BALL)).listing
        assert list(restricted.entries) == ["ball-1.bin"]
        assert list(restricted.restrictions) == ["2.0"]
        with pytest.raises(Refused, match="too bouncy"):
            await deliver(service, 2)

        service.set_rules([])
        assert SHOP.write((await service.page(BALL)).listing, MEDIA_TYPE, None) == DOCUMENT
        assert await deliver(service, 2) == UPLOADS[1].sha256
        with pytest.raises(NotFound):
            await deliver(service, 3)
