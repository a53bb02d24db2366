"""Blobs and catalogue against a model, through any order of arrivals, failures, evictions, rot and restarts."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from origin.blobs import Spool
from origin.blobs.disk import DiskBlobs
from origin.catalog import Binding
from origin.catalog.sqlite import SqliteCatalog
from origin.errors import Corrupt, Rebound, Unavailable
from origin.model import Digest, File
from tests.contracts.blobs import content, digest_of

LIMIT_BYTES = 200_000

PIECES = st.binary(max_size=100) | st.builds(
    lambda byte, count: byte * count, st.sampled_from([b"a", b"b"]), st.integers(0, 70_000)
)
NAMES = st.integers(0, 5).map(lambda number: File("pypi", "p", str(number), f"p-{number}.whl", f"packages/p-{number}.whl"))


class Arrival:
    """A spool, what was written to it so far, and a descriptor as a follower has it."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.data = b""
        self.follower = os.dup(spool.fileno())


class StoreMachine(RuleBasedStateMachine):
    """Each rule runs the real store in a loop of its own; the model is two dictionaries."""

    arrivals: Bundle[Arrival] = Bundle("arrivals")

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="store-machine-"))
        self.held: dict[Digest, bytes] = {}
        self.bound: dict[str, Digest] = {}
        self.rotten: set[Digest] = set()
        self.live: list[Arrival] = []
        self.serial = 0
        self.clock = 0.0

    @initialize()
    def start(self) -> None:
        self.open_store()

    def open_store(self) -> None:
        self.blobs = DiskBlobs(self.directory / "blobs", limit_bytes=LIMIT_BYTES, memory_bytes=LIMIT_BYTES)
        self.catalog = trio.run(SqliteCatalog.open, self.directory / "catalog.sqlite")
        self.swept = trio.run(self.blobs.sweep)

    def teardown(self) -> None:
        for arrival in self.live:
            self.forget(arrival)
        trio.run(self.catalog.close)
        shutil.rmtree(self.directory)

    def forget(self, arrival: Arrival) -> None:
        trio.run(arrival.spool.discard)
        os.close(arrival.follower)

    # ---- arrivals

    @rule(target=arrivals, size=st.none() | st.integers(0, 100_000))
    def begin(self, size: int | None) -> Arrival | MultipleResults[Arrival]:
        async def act() -> Spool:
            return await self.blobs.spool(["blake2b-256"], size)

        try:
            arrival = Arrival(trio.run(act))
        except Unavailable:
            assert self.blobs.statistics()["memory_bytes"] + (size or 0) > LIMIT_BYTES
            return multiple()
        self.live.append(arrival)
        return arrival

    @rule(arrival=arrivals, piece=PIECES)
    def write(self, arrival: Arrival, piece: bytes) -> None:
        if arrival not in self.live or getattr(arrival.spool, "adopted", None) is not None:
            return
        try:
            trio.run(arrival.spool.write, piece)
        except Unavailable:
            return
        arrival.data += piece

    @rule(arrival=arrivals, honest=st.booleans(), name=NAMES)
    def adopt(self, arrival: Arrival, honest: bool, name: File) -> None:
        if arrival not in self.live:
            return
        digest = digest_of(arrival.data if honest else arrival.data + b"!")
        again = getattr(arrival.spool, "adopted", None) == digest
        try:
            trio.run(self.blobs.adopt, arrival.spool, digest)
        except Corrupt:
            assert not honest
            return
        except Unavailable:
            # Adopted once, a spool has nothing left to give: what was deleted since does not come back, and is not said to.
            assert not arrival.spool.durable or (digest not in self.held if again else arrival.spool.written == len(arrival.data))
            return
        assert honest
        if again:
            assert digest in self.held
        else:
            self.held[digest] = arrival.data
            self.rotten.discard(digest)
        self.bind(name, digest)

    def bind(self, name: File, digest: Digest) -> None:
        self.clock += 1
        binding = Binding(name, digest, len(self.held[digest]), self.clock)
        bound = self.bound.get(name.key)
        if bound is not None and bound != digest:
            with pytest.raises(Rebound):
                trio.run(self.catalog.bind, binding)
            return
        trio.run(self.catalog.bind, binding)
        self.bound[name.key] = digest
        self.serial += bound is None

    @rule(arrival=consumes(arrivals))
    def discard(self, arrival: Arrival) -> None:
        if arrival in self.live:
            self.live.remove(arrival)
            self.forget(arrival)

    # ---- what becomes of blobs

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.held)))
        span = self.blobs.open_nowait(digest)
        trio.run(self.catalog.drop, digest)
        assert trio.run(self.blobs.delete, digest)
        if digest not in self.rotten:
            assert content(span) == self.held[digest]
        elif span is not None:
            span.close()
        del self.held[digest]
        self.rotten.discard(digest)

    @rule()
    def evict(self) -> None:
        async def act() -> list[Digest]:
            victims = [digest for digest, _ in await self.catalog.victims(self.blobs.pressure_bytes())]
            for digest in victims:
                await self.catalog.drop(digest)
                await self.blobs.delete(digest)
            return victims

        for digest in trio.run(act):
            self.held.pop(digest, None)
            self.rotten.discard(digest)

    @precondition(lambda self: any(self.held.values()))
    @rule(data=st.data())
    def rot(self, data: st.DataObject) -> None:
        sound = sorted(digest for digest, kept in self.held.items() if kept and digest not in self.rotten)
        if not sound:
            return
        digest = data.draw(st.sampled_from(sound))
        path = self.directory / "blobs" / "sha256" / digest.value[:2] / digest.value[2:4] / digest.value
        path.chmod(0o600)
        # The rot of a disk comes back under the name at the next look; who has the file open already is not what this is about.
        rotted = path.with_name("rotted")
        rotted.write_bytes(bytes([self.held[digest][0] ^ 1]) + self.held[digest][1:])
        rotted.rename(path)
        self.rotten.add(digest)

    @rule()
    def verify_all(self) -> None:
        for digest in sorted(self.held):
            sound = trio.run(self.blobs.verify, digest)
            assert sound is (digest not in self.rotten)
            if not sound:
                trio.run(self.blobs.quarantine, digest)
                trio.run(self.catalog.drop, digest)
                del self.held[digest]
        self.rotten.clear()

    @rule()
    def restart(self) -> None:
        # As after a crash: the spools' files are still there, and nobody owns them.
        lost = [each for each in self.live if each.spool.durable and getattr(each.spool, "adopted", None) is None]
        trio.run(self.catalog.close)
        self.open_store()
        assert self.swept >= len([each for each in lost if not os.fstat(each.follower).st_nlink])
        for arrival in self.live:
            self.forget(arrival)
        self.live.clear()
        assert list((self.directory / "blobs" / "tmp").iterdir()) == []

    # ---- always

    @invariant()
    def every_blob_is_there_and_matches_its_name(self) -> None:
        async def listed() -> set[Digest]:
            return {digest async for digest in self.blobs.digests()}

        assert trio.run(listed) == set(self.held)
        for digest, data in self.held.items():
            if digest not in self.rotten:
                assert content(self.blobs.open_nowait(digest)) == data

    @invariant()
    def the_ledger_is_the_sum(self) -> None:
        statistics = self.blobs.statistics()
        assert statistics["held_bytes"] == sum(map(len, self.held.values()))
        assert statistics["held_blobs"] == len(self.held)
        assert statistics["reserved_bytes"] >= 0 and statistics["memory_bytes"] >= 0
        if not self.live:
            assert statistics["reserved_bytes"] == statistics["memory_bytes"] == statistics["lingering_bytes"] == 0

    @invariant()
    def followers_see_what_was_written(self) -> None:
        for arrival in self.live:
            assert arrival.spool.written == len(arrival.data)
            assert os.pread(arrival.follower, len(arrival.data), 0) == arrival.data

    @invariant()
    def bindings_never_change_and_the_feed_has_no_gaps(self) -> None:
        async def read() -> tuple[dict[str, Digest], list[int]]:
            bindings = await self.catalog.bindings("pypi", "p")
            return {each.file.key: each.digest for each in bindings}, [each.serial for each in await self.catalog.changes(0)]

        bindings, serials = trio.run(read)
        assert bindings == self.bound
        assert serials == list(range(1, self.serial + 1))


StoreMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestStore = StoreMachine.TestCase
