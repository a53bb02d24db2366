"""What every ``BlobStore`` does. A test module inherits ``BlobContract`` once per implementation and gives it an ``arena``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import trio

from origin.blobs import BlobStore
from origin.errors import Corrupt, Unavailable
from origin.model import Digest, Span


@dataclass(frozen=True)
class Arena:
    """A new, empty store; how to rot one of its blobs; how to make one with a limit in bytes; and whether those may hold more."""

    blobs: BlobStore
    damage: Callable[[Digest], None]
    limited: Callable[[int], BlobStore]


def digest_of(data: bytes) -> Digest:
    """The name of a blob of these bytes."""
    return Digest("sha256", hashlib.sha256(data).hexdigest())


async def put(blobs: BlobStore, data: bytes, size: int | None = None) -> Digest:
    """Spool, adopt, discard."""
    spool = await blobs.spool(size=size)
    await spool.write(data)
    await blobs.adopt(spool, digest_of(data))
    await spool.discard()
    return digest_of(data)


def content(span: Span | None) -> bytes | None:
    """The bytes of a span, which is closed."""
    if span is None:
        return None
    try:
        return os.pread(span.fd, len(span), span.start)
    finally:
        span.close()


class BlobContract:
    """The suite. Each test gets an arena of its own."""

    @pytest.mark.parametrize("size", [None, 11, 5, 5000])
    async def test_what_was_adopted_can_be_opened_whole(self, arena: Arena, size: int | None) -> None:
        digest = await put(arena.blobs, b"hello world", size)
        assert content(arena.blobs.open_nowait(digest)) == b"hello world"
        assert content(await arena.blobs.open(digest)) == b"hello world"
        assert await arena.blobs.size(digest) == 11
        assert [each async for each in arena.blobs.digests()] == [digest]

    async def test_an_empty_blob_is_a_blob(self, arena: Arena) -> None:
        digest = await put(arena.blobs, b"", 0)
        assert content(arena.blobs.open_nowait(digest)) == b""
        assert await arena.blobs.size(digest) == 0
        assert await arena.blobs.verify(digest)

    async def test_what_is_not_here_is_none_or_false(self, arena: Arena) -> None:
        digest = digest_of(b"absent")
        assert arena.blobs.open_nowait(digest) is None
        assert await arena.blobs.open(digest) is None
        assert await arena.blobs.size(digest) is None
        assert not await arena.blobs.delete(digest)
        assert not await arena.blobs.verify(digest)
        await arena.blobs.quarantine(digest)
        assert [each async for each in arena.blobs.digests()] == []

    async def test_nothing_has_a_name_before_it_is_adopted(self, arena: Arena) -> None:
        spool = await arena.blobs.spool(size=4)
        await spool.write(b"half")
        assert arena.blobs.open_nowait(digest_of(b"half")) is None
        assert [each async for each in arena.blobs.digests()] == []
        await spool.discard()
        assert arena.blobs.open_nowait(digest_of(b"half")) is None

    async def test_a_spool_hashes_by_every_algorithm_named(self, arena: Arena) -> None:
        spool = await arena.blobs.spool(["blake2b-256", "sha1", "md5", "sha512"])
        await spool.write(b"one ")
        await spool.write(memoryview(b"two"))
        data = b"one two"
        assert spool.written == len(data)
        assert spool.digest("sha256") == digest_of(data)
        assert spool.digest("blake2b-256") == Digest("blake2b-256", hashlib.blake2b(data, digest_size=32).hexdigest())
        for algorithm in ("sha1", "md5", "sha512"):
            assert spool.digest(algorithm) == Digest(algorithm, hashlib.new(algorithm, data).hexdigest())
        await spool.discard()

    async def test_an_unknown_algorithm_is_refused(self, arena: Arena) -> None:
        with pytest.raises(ValueError, match="crc32"):
            await arena.blobs.spool(["crc32"])

    async def test_a_follower_reads_what_was_written_while_more_arrives(self, arena: Arena) -> None:
        spool = await arena.blobs.spool(size=1 << 20)
        follower = os.dup(spool.fileno())
        expected = b""
        for number in range(8):
            piece = bytes([number]) * 70_000
            await spool.write(piece)
            expected += piece
            assert os.pread(follower, spool.written, 0) == expected
        await arena.blobs.adopt(spool, digest_of(expected))
        assert os.pread(spool.fileno(), len(expected), 0) == expected
        await spool.discard()
        assert os.pread(follower, len(expected), 0) == expected
        os.close(follower)
        assert content(arena.blobs.open_nowait(digest_of(expected))) == expected

    async def test_bytes_that_are_not_the_digest_are_not_adopted(self, arena: Arena) -> None:
        spool = await arena.blobs.spool()
        await spool.write(b"evil")
        with pytest.raises(Corrupt) as caught:
            await arena.blobs.adopt(spool, digest_of(b"good"))
        assert (caught.value.expected, caught.value.actual) == (digest_of(b"good"), digest_of(b"evil"))
        assert [each async for each in arena.blobs.digests()] == []
        assert os.pread(spool.fileno(), 4, 0) == b"evil"
        await spool.discard()

    async def test_discarding_is_idempotent_and_keeps_an_adopted_blob(self, arena: Arena) -> None:
        spool = await arena.blobs.spool()
        await spool.write(b"kept")
        await arena.blobs.adopt(spool, digest_of(b"kept"))
        await arena.blobs.adopt(spool, digest_of(b"kept"))
        await spool.discard()
        await spool.discard()
        with pytest.raises(ValueError, match="closed"):
            spool.fileno()
        assert content(arena.blobs.open_nowait(digest_of(b"kept"))) == b"kept"

    async def test_the_same_bytes_twice_are_one_blob(self, arena: Arena) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(put, arena.blobs, b"same" * 1000)
        assert [each async for each in arena.blobs.digests()] == [digest_of(b"same" * 1000)]

    async def test_readers_of_a_deleted_blob_go_on(self, arena: Arena) -> None:
        digest = await put(arena.blobs, b"short life")
        span = arena.blobs.open_nowait(digest)
        assert await arena.blobs.delete(digest)
        assert not await arena.blobs.delete(digest)
        assert arena.blobs.open_nowait(digest) is None
        assert content(span) == b"short life"

    async def test_a_deleted_blob_can_come_back(self, arena: Arena) -> None:
        digest = await put(arena.blobs, b"again")
        await arena.blobs.delete(digest)
        await put(arena.blobs, b"again")
        assert content(arena.blobs.open_nowait(digest)) == b"again"

    async def test_a_rotten_blob_fails_verification_and_goes_to_quarantine(self, arena: Arena) -> None:
        digest = await put(arena.blobs, b"sound" * 500_000)
        other = await put(arena.blobs, b"other")
        assert await arena.blobs.verify(digest)
        arena.damage(digest)
        assert not await arena.blobs.verify(digest)
        assert await arena.blobs.verify(other)
        await arena.blobs.quarantine(digest)
        assert arena.blobs.open_nowait(digest) is None
        assert [each async for each in arena.blobs.digests()] == [other]
        await put(arena.blobs, b"sound" * 500_000)
        assert await arena.blobs.verify(digest)

    async def test_sweeping_leaves_live_spools_and_blobs_alone(self, arena: Arena) -> None:
        digest = await put(arena.blobs, b"held")
        spool = await arena.blobs.spool(size=6)
        await spool.write(b"coming")
        assert await arena.blobs.sweep() == 0
        await arena.blobs.adopt(spool, digest_of(b"coming"))
        await spool.discard()
        assert {each async for each in arena.blobs.digests()} == {digest, digest_of(b"coming")}

    async def test_many_spools_at_once_do_not_mix(self, arena: Arena) -> None:
        async def one(number: int) -> None:
            pieces = [bytes([number, turn]) * (1000 + number) for turn in range(5)]
            spool = await arena.blobs.spool(size=sum(map(len, pieces)))
            for piece in pieces:
                await spool.write(piece)
            digest = digest_of(b"".join(pieces))
            await arena.blobs.adopt(spool, digest)
            await spool.discard()
            assert content(arena.blobs.open_nowait(digest)) == b"".join(pieces)

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(one, number)
        assert len([each async for each in arena.blobs.digests()]) == 50

    async def test_a_cancelled_writer_can_still_discard(self, arena: Arena) -> None:
        spool = await arena.blobs.spool(size=10)
        with trio.CancelScope() as scope:
            await spool.write(b"12345")
            scope.cancel()
            try:
                await spool.write(b"67890")
            finally:
                await spool.discard()
        assert scope.cancelled_caught
        assert [each async for each in arena.blobs.digests()] == []

    async def test_a_full_store_is_under_pressure_until_enough_is_deleted(self, arena: Arena) -> None:
        blobs = arena.limited(100_000)
        assert blobs.state() == "normal"
        digests = [await put(blobs, bytes([number]) * 12_000, 12_000) for number in range(8)]
        assert blobs.state() == "pressure"
        assert 6_000 <= blobs.pressure_bytes() <= 12_000
        await blobs.delete(digests[0])
        assert blobs.state() == "normal"
        assert blobs.pressure_bytes() == 0

    async def test_beyond_every_bound_there_is_no_spool(self, arena: Arena) -> None:
        blobs = arena.limited(100_000)
        with pytest.raises(Unavailable):
            await blobs.spool(size=1_000_000)
        spool = await blobs.spool(size=50_000)
        await spool.discard()
