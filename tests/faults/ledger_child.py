"""The program that test_ledger_crashes.py kills: ``python ledger_child.py DIRECTORY ROUND``.

Many tasks at once store files, publish pages, change the policy and apply batches of a feed, for ever. What is durable is acknowledged by
a line: ``kept <number> <hex>``, ``published <page> <revision>``, ``appended <serial> <revision>``, ``followed <number>``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from origin.blobs.disk import DiskBlobs
from origin.catalog import StoredAnswer, Wanted
from origin.catalog.sqlite import SqliteCatalog
from origin.datadir import DataDirectory
from origin.feed import Ledger
from origin.model import Change, Page, Stamp
from tests.faults.store_child import store, wheel

OWNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
FILES_PER_ROUND = 1000
PAGES = 5
WANTED_PER_BATCH = 7


def acknowledge(*words: object) -> None:
    print(*words, flush=True)


async def keep_files(blobs: DiskBlobs, catalog: SqliteCatalog, first: int, step: int) -> None:
    number = first
    while True:
        digest = await store(blobs, catalog, number)
        acknowledge("kept", number, digest.value)
        number += step


async def publish_pages(catalog: SqliteCatalog, number: int) -> None:
    while True:
        document = b"some document " * (1 + number) * 100
        page = Page("pypi", f"page-{number}")
        revision = await catalog.publish(StoredAnswer(page, 200, document, "text/plain", Stamp(1.0, 2.0), 0.0))
        acknowledge("published", page.project, revision)


async def change_policy(catalog: SqliteCatalog) -> None:
    revision = int(await catalog.recall("verdicts") or 0)
    while True:
        revision += 1
        change = Change(0, "verdicts", kind="verdicts", revision=revision)
        serial = await catalog.append(change, {"verdicts": str(revision)})
        acknowledge("appended", serial, revision)


async def follow(catalog: SqliteCatalog) -> None:
    number = int(await catalog.recall("cursor") or 0)
    while True:
        number += 1
        wanted = [Wanted(f"{number}.{each}", wheel(each), float(number)) for each in range(WANTED_PER_BATCH)]
        await catalog.follow({"cursor": str(number)}, [("pypi", "page-1")], wanted)
        acknowledge("followed", number)


async def main(directory: DataDirectory, number: int) -> None:
    blobs = DiskBlobs(directory.blobs)
    await blobs.sweep()
    catalog = await SqliteCatalog.open(directory.catalog, keeps_ledger=True)
    ledger = await Ledger.open(catalog, OWNER.sign, lambda: 0.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.run)
        for each in range(4):
            nursery.start_soon(keep_files, blobs, catalog, number * FILES_PER_ROUND + each, 4)
        for each in range(PAGES):
            nursery.start_soon(publish_pages, catalog, each)
        nursery.start_soon(change_policy, catalog)
        nursery.start_soon(follow, catalog)


if __name__ == "__main__":
    with DataDirectory.open(Path(sys.argv[1])) as data_directory:
        trio.run(main, data_directory, int(sys.argv[2]))
