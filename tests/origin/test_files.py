"""Files as a node delivers them: verified, judged, shared, stored; and never a usable wrong one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from origin.errors import Corrupt, NotFound, Refused, Unavailable
from origin.files import Delivery
from origin.model import Arriving, Digest, File, Page, Span
from tests.scripted import Bench, Upload, bench
from tests.wheels import KB, MB, Shelf, flipped

PAGE = Page("pypi", "six")


@pytest.fixture
def clock() -> MockClock:
    # Worker threads count as blocked tasks: the threshold keeps the clock from jumping while one works.
    return MockClock(autojump_threshold=0.5)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


def wheel(shelf: Shelf, size: int = 100 * KB, version: str = "1.0") -> Upload:
    made = shelf.wheel("six", version, size=size)
    return Upload(made.filename, made.content)


async def read(delivery: Delivery) -> bytes:
    """Read a delivery to its end, as the server would send it."""
    assert not isinstance(delivery.body, bytes)
    return await read_body(delivery.body)


async def read_body(body: Span | Arriving) -> bytes:
    """Read and close a body."""
    try:
        match body:
            case Span(fd=fd, start=start, stop=stop):
                return os.pread(fd, stop - start, start)
            case Arriving(flight=flight, start=at, stop=stop):
                pieces = []
                while at < stop:
                    upto = min(await flight.wait_beyond(at), stop)
                    pieces.append(os.pread(flight.fileno(), upto - at, at))
                    at = upto
                return b"".join(pieces)
    finally:
        body.close()


async def fetch(b: Bench, upload: Upload, suffix: str = "") -> bytes:
    return await read(await b.service.deliver(b.file(upload, suffix), hold_s=8))


async def landed(b: Bench) -> None:
    """Wait until no flight is in the air."""
    while b.flights.statistics()["running"]:
        # Spinning, so that the clock does not jump meanwhile; nobody outside a flight is told of its end, on purpose.
        await trio.lowlevel.checkpoint()


async def test_a_file_is_fetched_once_for_all_and_then_held(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    upload = wheel(shelf, 2 * MB)
    got: list[bytes] = []
    async with bench(tmp_path, {"six": [upload]}) as b:

        async def ask() -> None:
            got.append(await fetch(b, upload))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ask)
        await landed(b)
        assert b.source.asked.count(f"file {upload.filename} from 0") == 1
        delivery = await b.service.deliver(b.file(upload), hold_s=8)
        assert delivery.cache_status == "hit"
        assert delivery.digest == Digest("sha256", upload.sha256)
        assert await read(delivery) == upload.content
        assert b.source.asked.count(f"file {upload.filename} from 0") == 1
    assert got == [upload.content] * 50


@pytest.mark.parametrize("at", [0, 50_000, -1], ids=["first byte", "middle", "last byte"])
@pytest.mark.parametrize("size", [100 * KB, 3 * MB])
async def test_one_flipped_bit_and_nobody_gets_a_whole_file(
    tmp_path: Path, shelf: Shelf, clock: MockClock, at: int, size: int
) -> None:
    good = wheel(shelf, size)
    where = at % len(good.content)
    bad = Upload(good.filename, flipped(good.content, where), published=good.content)
    async with bench(tmp_path, {"six": [bad]}) as b:
        with pytest.raises(Corrupt):
            await fetch(b, bad)
        assert [d async for d in b.blobs.digests()] == []
        assert await b.catalog.binding(b.file(bad)) is None
        assert "digest-mismatch" in await b.events()
        with pytest.raises(Corrupt):
            await fetch(b, bad)
        assert b.source.asked.count(f"file {bad.filename} from 0") == 1, "the failure is remembered for all"


async def test_the_tail_stays_back_until_the_digest_is_known(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    upload = wheel(shelf, 3 * MB)
    async with bench(tmp_path, {"six": [upload]}) as b:
        b.source.file_gate = trio.Event()
        b.source.gate_after = len(upload.content) - 64 * KB
        delivery = await b.service.deliver(b.file(upload), hold_s=8)
        assert isinstance(delivery.body, Arriving)
        follower = delivery.body.flight
        with trio.move_on_after(5):
            at = 0
            while True:
                at = await follower.wait_beyond(at)
        assert 0 < at <= len(upload.content) - 256 * 1024
        b.source.file_gate.set()
        assert await read(delivery) == upload.content


async def test_nothing_of_a_source_distribution_leaves_before_it_is_verified(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    made = shelf.sdist("six", "1.0", size=3 * MB)
    upload = Upload(made.filename, made.content)
    async with bench(tmp_path, {"six": [upload]}) as b:
        b.source.file_gate = trio.Event()
        b.source.gate_after = 2 * MB
        with pytest.raises(Unavailable) as caught:
            await fetch(b, upload)
        assert caught.value.retry_after_s >= 1
        b.source.file_gate.set()
        await landed(b)
        assert await fetch(b, upload) == upload.content
        assert b.source.asked.count(f"file {upload.filename} from 0") == 1, "the flight went on meanwhile"


async def test_a_broken_transfer_is_resumed_twice_and_no_more(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    upload = wheel(shelf, 2 * MB)
    async with bench(tmp_path, {"six": [upload]}) as b:
        b.source.break_at = [500 * KB, 1 * MB]
        assert await fetch(b, upload) == upload.content
        starts = [int(a.rpartition(" ")[2]) for a in b.source.asked if a.startswith("file")]
        assert len(starts) == 3
        assert starts[0] == 0 < starts[1] < starts[2]
    async with bench(tmp_path / "other", {"six": [upload]}) as b:
        b.source.break_at = [500 * KB, 600 * KB, 700 * KB]
        with pytest.raises(Unavailable):
            await fetch(b, upload)
        assert [d async for d in b.blobs.digests()] == []


async def test_whoever_asks_again_after_a_broken_transfer_waits_for_the_next_instead_of_hearing_of_the_last(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    upload = wheel(shelf, 2 * MB)
    async with bench(tmp_path, {"six": [upload]}) as b:
        b.source.break_at = [500 * KB, 600 * KB, 700 * KB]
        with pytest.raises(Unavailable):
            await fetch(b, upload)
        before = len(b.source.asked)
        began = trio.current_time()
        found: list[bytes] = []

        async def again() -> None:
            found.append(await fetch(b, upload))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(again)
        assert found == [upload.content] * 20
        assert 0 < trio.current_time() - began <= 3
        assert [a.partition(" ")[0] for a in b.source.asked[before:]].count("file") == 1


async def test_a_rule_closes_held_files_and_those_in_the_air(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    upload = wheel(shelf, 3 * MB)
    async with bench(tmp_path, {"six": [upload]}) as b:
        b.source.file_gate = trio.Event()
        b.source.gate_after = 1 * MB
        delivery = await b.service.deliver(b.file(upload), hold_s=8)
        b.rule("pkg:pypi/six@1.0", "recalled")
        b.source.file_gate.set()
        with pytest.raises(Refused, match="recalled"):
            await read(delivery)
        b.service.set_rules([])
        clock.jump(10)
        assert await fetch(b, upload) == upload.content
        await landed(b)
        b.rule("pkg:pypi/six@1.0", "recalled")
        for suffix in ("", ".metadata"):
            with pytest.raises(Refused, match="recalled"):
                await fetch(b, upload, suffix)
        b.service.set_rules([])
        assert await fetch(b, upload) == upload.content


async def test_a_listed_file_that_upstream_lacks_is_unavailable_not_absent(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    upload = wheel(shelf)
    async with bench(tmp_path, {"six": [upload]}) as b:
        b.source.missing.add(upload.filename)
        with pytest.raises(Unavailable):
            await fetch(b, upload)


async def test_an_unlisted_file_is_refused_if_upstream_has_its_bytes_and_absent_otherwise(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    listed, hidden = wheel(shelf), wheel(shelf, version="9.9")
    async with bench(tmp_path, {"six": [listed]}) as b:
        with pytest.raises(NotFound):
            await fetch(b, hidden)
        with pytest.raises(NotFound):
            await fetch(b, hidden)
        assert b.source.asked.count(f"exists {hidden.filename}") == 1, "asked once for all"
        b.source.still_there.add(hidden.filename)
        clock.jump(61)
        with pytest.raises(Refused, match="not listed"):
            await fetch(b, hidden)


async def test_a_right_name_under_a_wrong_path_is_not_that_file(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    upload = wheel(shelf)
    async with bench(tmp_path, {"six": [upload]}) as b:
        await fetch(b, upload)
        await landed(b)
        wrong = b.registry.resource("GET", f"packages/00/11/{'2' * 60}/{upload.filename}")
        assert isinstance(wrong, File)
        with pytest.raises(NotFound):
            await b.service.deliver(wrong, hold_s=8)


async def test_a_wheel_without_a_published_sidecar_gets_one_made_from_its_own_metadata(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    made = shelf.wheel("six", "1.0", size=100 * KB)
    upload = Upload(made.filename, made.content)
    async with bench(tmp_path, {"six": [upload]}) as b:
        with pytest.raises(NotFound):
            await fetch(b, upload, ".metadata")
        before = await b.service.page(PAGE)
        assert before.listing.entries[upload.filename].sidecar is None
        await fetch(b, upload)
        await landed(b)
        after = await b.service.page(PAGE)
        assert not before.validity.valid
        assert after.listing.entries[upload.filename].sidecar == (Digest("sha256", made.metadata_sha256),)
        assert await fetch(b, upload, ".metadata") == made.metadata


async def test_the_ledger_says_of_a_file_and_its_made_sidecar_what_release_they_are_and_where_they_came_from(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    made = shelf.wheel("six", "1.0", size=50 * KB)
    upload = Upload(made.filename, made.content)
    async with bench(tmp_path, {"six": [upload]}) as b:
        await fetch(b, upload)
        await landed(b)
        lines = {line.filename: line for line in await b.catalog.changes(0) if line.kind == "file"}
    assert set(lines) == {upload.filename, f"{upload.filename}.metadata"}
    for line in lines.values():
        assert (line.purl, line.published, line.source) == ("pkg:pypi/six@1.0", 1704067200.0, b.source.name)
    assert lines[upload.filename].digest == Digest("sha256", upload.sha256)
    assert lines[upload.filename].size == len(upload.content)


async def test_a_file_without_any_digest_is_held_strictly_and_bound_at_first_sight(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    made = shelf.wheel("six", "1.0", size=2 * MB)
    upload = Upload(made.filename, made.content, digests=False)
    async with bench(tmp_path, {"six": [upload]}) as b:
        # Without a hashed path either: as an index of another make would list it.
        page = await b.service.page(PAGE)
        entry = page.listing.entries[upload.filename]
        assert await read(await b.service.deliver(entry.file, hold_s=8)) == upload.content


async def test_a_damaged_blob_is_taken_out_and_fetched_again(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    upload = wheel(shelf)
    async with bench(tmp_path, {"six": [upload]}) as b:
        await fetch(b, upload)
        await landed(b)
        held = next((tmp_path / "blobs" / "sha256").rglob(upload.sha256))
        held.chmod(0o600)
        held.write_bytes(b"torn")
        assert await fetch(b, upload) == upload.content
        assert "blob-damaged" in await b.events()
        await landed(b)
        assert next((tmp_path / "blobs" / "sha256").rglob(upload.sha256)).read_bytes() == upload.content


async def test_verify_finds_a_flipped_bit_and_the_next_install_heals_it(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    upload = wheel(shelf)
    told: list[dict[str, object]] = []

    async def progress(line: dict[str, object]) -> None:
        told.append(line)

    async with bench(tmp_path, {"six": [upload]}) as b:
        await fetch(b, upload)
        await landed(b)
        held = next((tmp_path / "blobs" / "sha256").rglob(upload.sha256))
        held.chmod(0o600)
        held.write_bytes(flipped(upload.content, 1000))
        result = await b.service.verify(progress)
        assert result["bad"] == [f"sha256-{upload.sha256}"]
        assert told[-1]["done"] == told[-1]["total"]
        assert await fetch(b, upload) == upload.content


async def test_a_full_store_evicts_the_least_recently_used_and_never_fails_an_install(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    uploads = [wheel(shelf, 300 * KB, f"{n}.0") for n in range(6)]
    async with bench(tmp_path, {"six": uploads}, limit_bytes=1 * MB) as b:
        for upload in uploads:
            assert await fetch(b, upload) == upload.content
            await landed(b)
            clock.jump(1)
            await b.service.keep_house()
        assert await b.catalog.held_bytes() <= 1 * MB
        assert await b.catalog.held(Digest("sha256", uploads[0].sha256)) is None
        assert await b.catalog.held(Digest("sha256", uploads[-1].sha256)) is not None
        assert await fetch(b, uploads[0]) == uploads[0].content


async def test_in_an_outage_a_file_that_may_be_listed_by_now_is_unavailable(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    listed, newer = wheel(shelf), wheel(shelf, version="9.9")
    async with bench(tmp_path, {"six": [listed]}) as b:
        await b.service.page(PAGE)
        b.source.down = True
        clock.jump(601)
        with pytest.raises(Unavailable):
            await fetch(b, newer)


async def test_a_resumed_transfer_without_a_digest_never_mixes_two_files(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    made = shelf.wheel("six", "1.0", size=1 * MB)
    upload = Upload(made.filename, made.content, digests=False, hashed=False)
    async with bench(tmp_path, {"six": [upload]}) as b:
        b.source.break_at = [500 * KB]
        b.source.validators = ['"v1"', '"v2"']
        entry = (await b.service.page(PAGE)).listing.entries[upload.filename]
        assert entry.digests == ()
        with pytest.raises(Corrupt, match="changed while"):
            await read(await b.service.deliver(entry.file, hold_s=8))
        assert [d async for d in b.blobs.digests()] == []


async def test_a_login_page_is_not_taken_for_a_file_without_a_digest(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    page = b"<!DOCTYPE html><html>please log in</html>"
    for name in ("six-1.0.exe", "six-1.0.zip"):
        upload = Upload(name, page, digests=False, hashed=False)
        async with bench(tmp_path / name, {"six": [upload]}) as b:
            b.source.header_digests = True
            entry = (await b.service.page(PAGE)).listing.entries[name]
            with pytest.raises(Corrupt, match="HTML"):
                await read(await b.service.deliver(entry.file, hold_s=8))
            assert [d async for d in b.blobs.digests()] == []


async def test_requests_for_old_and_new_bytes_under_one_name_never_share_a_flight(
    tmp_path: Path, shelf: Shelf, clock: MockClock
) -> None:
    old = wheel(shelf, 3 * MB)
    new = Upload(old.filename, flipped(old.content, 1 * MB))
    async with bench(tmp_path, {"six": [old]}) as b:
        b.source.file_gate = trio.Event()
        b.source.gate_after = 1 * MB
        first = await b.service.deliver(b.file(old), hold_s=8)
        b.source.projects["six"] = [new]
        clock.jump(601)
        await b.service.page(PAGE)
        clock.jump(61)
        await b.service.page(PAGE)
        second = await b.service.deliver(b.file(new), hold_s=8)
        assert second.digest == Digest("sha256", new.sha256)
        assert second.outcome == "miss"
        b.source.file_gate.set()
        assert await read(first) == old.content
        assert await read(second) == new.content
        await landed(b)
        assert "rebound" in await b.events()


async def test_a_sidecar_made_here_is_made_again_when_its_blob_has_gone(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    made = shelf.wheel("six", "1.0", size=100 * KB)
    upload = Upload(made.filename, made.content)
    async with bench(tmp_path, {"six": [upload]}) as b:
        await fetch(b, upload)
        await landed(b)
        for gone in ([made.metadata_sha256], [made.metadata_sha256, upload.sha256]):
            for value in gone:
                await b.catalog.drop(Digest("sha256", value))
                await b.blobs.delete(Digest("sha256", value))
            assert await fetch(b, upload, ".metadata") == made.metadata
            await landed(b)


async def test_an_ambiguous_name_costs_few_pages_and_finds_its_project(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    made = shelf.sdist("zope", "1.2", size=10 * KB)
    odd = Upload("zope-1-2.tar.gz", made.content)
    async with bench(tmp_path, {"zope-1": [odd], "zope": [wheel(shelf)]}) as b:
        assert await fetch(b, odd) == odd.content
        asked = len(b.source.asked)
        many = Upload("-".join(["a"] * 100) + "-1.tar.gz", made.content)
        with pytest.raises(NotFound):
            await fetch(b, many)
        assert len(b.source.asked) - asked <= 5


async def test_who_joins_a_running_fetch_looks_nothing_up_but_is_judged(tmp_path: Path, shelf: Shelf, clock: MockClock) -> None:
    upload = wheel(shelf, 3 * MB)
    async with bench(tmp_path, {"six": [upload]}) as b:
        b.source.file_gate = trio.Event()
        b.source.gate_after = 1 * MB
        first = await b.service.deliver(b.file(upload), hold_s=8)
        clock.jump(601)
        b.source.down = True
        second = await b.service.deliver(b.file(upload), hold_s=8)
        assert second.outcome == "collapsed"
        assert b.source.asked.count("page six") == 1
        b.source.file_gate.set()
        assert await read(first) == await read(second) == upload.content
        await landed(b)
        b.rule("pkg:pypi/six@1.0", "recalled")
        with pytest.raises(Refused, match="recalled"):
            await b.service.deliver(b.file(upload), hold_s=8)
        b.service.set_rules([])
        assert (await b.service.deliver(b.file(upload), hold_s=8)).outcome == "hit"
