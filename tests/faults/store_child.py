"""The program that test_store_crashes.py kills, starves and lies to: ``python store_child.py store|fill DIRECTORY``.

``store`` puts three files into a node's store, and prints a line for each: ``kept <hex>`` once it is bound, ``refused <why>`` if the
store said so. ``fill`` works on a small file system until it is full, and prints what it saw as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import trio

from origin.blobs.disk import DiskBlobs
from origin.catalog import Binding, StoredAnswer
from origin.catalog.sqlite import SqliteCatalog
from origin.datadir import DataDirectory
from origin.errors import Unavailable, Unusable
from origin.model import Digest, File, Page, Stamp

PIECE_BYTES = 50_000


def wheel(number: int) -> File:
    return File("pypi", "six", str(number), f"six-{number}.whl", f"packages/six-{number}.whl")


def data_of(number: int) -> bytes:
    """Three pieces, the last one short, different for each number."""
    return bytes([number % 251, 1, 2, number // 251]) * (2 * PIECE_BYTES // 4 + number)


async def store(blobs: DiskBlobs, catalog: SqliteCatalog, number: int) -> Digest:
    """All the steps from the first byte to the binding."""
    data = data_of(number)
    digest = Digest("sha256", hashlib.sha256(data).hexdigest())
    # A reservation that is too large, so that adopting has to cut it.
    spool = await blobs.spool(size=len(data) + 1000)
    try:
        for start in range(0, len(data), PIECE_BYTES):
            await spool.write(data[start : start + PIECE_BYTES])
        await blobs.adopt(spool, digest)
    finally:
        await spool.discard()
    await catalog.bind(Binding(wheel(number), digest, len(data), 1.0))
    return digest


async def store_three(directory: DataDirectory) -> None:
    blobs = DiskBlobs(directory.blobs)
    await blobs.sweep()
    catalog = await SqliteCatalog.open(directory.catalog)
    first = len(await catalog.bindings("pypi", "six"))
    for number in range(first, first + 3):
        try:
            digest = await store(blobs, catalog, number)
        except Unavailable as error:
            print(f"refused {error}", flush=True)
        else:
            print(f"kept {digest.value}", flush=True)
    await catalog.close()


async def fill(directory: DataDirectory) -> None:
    seen: dict[str, object] = {}
    blobs = DiskBlobs(directory.blobs, memory_bytes=4 << 20)
    catalog = await SqliteCatalog.open(directory.catalog)
    kept: list[Digest] = []
    states = [blobs.state()]
    for number in range(100):
        data = os.urandom(1 << 20)
        digest = Digest("sha256", hashlib.sha256(data).hexdigest())
        spool = await blobs.spool(size=len(data))
        await spool.write(data)
        if blobs.state() != states[-1]:
            states.append(blobs.state())
        if not spool.durable:
            seen["memory_spool_reads_back"] = os.pread(spool.fileno(), len(data), 0) == data
            await spool.discard()
            break
        await blobs.adopt(spool, digest)
        await spool.discard()
        await catalog.bind(Binding(wheel(number), digest, len(data), float(number)))
        kept.append(digest)
    seen["states"] = states
    seen["kept"] = len(kept)
    seen["pressure_bytes"] = blobs.pressure_bytes()

    # Somebody else takes all that is left: what is held is still served, the catalogue says what it cannot do.
    junk = directory.path / "junk"
    with junk.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 65536):
                pass
        except OSError as error:
            seen["junk_ended"] = error.strerror
    seen["all_verify_when_full"] = [await blobs.verify(digest) for digest in kept] == [True] * len(kept)
    answer = StoredAnswer(Page("pypi", "six"), 200, os.urandom(300_000), "application/json", Stamp(1.0, 2.0), 0.0)
    try:
        await catalog.publish(answer)
    except Unavailable as error:
        seen["catalogue_when_full"] = str(error)
    seen["bindings_when_full"] = len(await catalog.bindings("pypi", "six"))
    spool = await blobs.spool()
    seen["durable_when_full"] = spool.durable
    seen["state_when_full"] = blobs.state()
    await spool.discard()

    # Evicting, as the service does, brings it all back.
    junk.unlink()
    for digest, _ in await catalog.victims(blobs.pressure_bytes()):
        await blobs.delete(digest)
        await catalog.drop(digest)
    seen["state_after_eviction"] = blobs.state()
    seen["revision_after_eviction"] = await catalog.publish(answer)

    # A spool of unknown size runs into the wall after its first step: refused, and the next one is held in memory.
    greedy = DiskBlobs(directory.blobs, memory_bytes=4 << 20, reserve_bytes=0)
    for digest, _ in await catalog.victims(6 << 20):
        await greedy.delete(digest)
    spool = await greedy.spool()
    seen["greedy_is_durable"] = spool.durable
    written = 0
    try:
        while written < 64 << 20:
            await spool.write(b"y" * (1 << 20))
            written += 1 << 20
    except Unavailable as error:
        seen["greedy_refused"] = str(error)
    seen["greedy_reads_back"] = os.pread(spool.fileno(), written, 0) == b"y" * written
    seen["state_after_greed"] = greedy.state()
    after = await greedy.spool(size=1000)
    seen["durable_after_greed"] = after.durable
    await after.discard()
    await spool.discard()
    await catalog.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    with DataDirectory.open(Path(sys.argv[2])) as data_directory:
        try:
            trio.run({"store": store_three, "fill": fill}[sys.argv[1]], data_directory)
        except Unusable as error:
            print(f"refused {error}", flush=True)
