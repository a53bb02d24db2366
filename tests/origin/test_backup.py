"""Backups of an origin: whole or not there, made again and again, and restored only if they are what they were."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from origin import backup
from origin.api.wire import Verdicts
from origin.app import Node, open_node
from origin.catalog import Binding
from origin.errors import Unusable
from origin.feed import verify_ledger
from origin.identity import FILES, open_identity
from origin.model import Digest, File
from origin.settings import StoreSettings, UpstreamSettings

NOW = 1_800_000_000.0


async def silent(_: dict[str, object]) -> None:
    """Progress that nobody reads."""


@asynccontextmanager
async def origin(data: Path) -> AsyncIterator[Node]:
    async with open_node(data, {}, UpstreamSettings(), StoreSettings(), connected=False, role="origin") as node:
        open_identity(data, ["localhost"], time.time())
        yield node


async def store(node: Node, name: str, content: bytes = b"") -> Digest:
    """Hold a blob under a name."""
    content = content or name.encode() * 100
    digest = Digest("sha256", hashlib.sha256(content).hexdigest())
    spool = await node.blobs.spool()
    await spool.write(content)
    await node.blobs.adopt(spool, digest)
    await spool.discard()
    await node.catalog.bind(Binding(File("npm", name, "1.0.0", f"{name}.tgz", name), digest, len(content), 0.0))
    return digest


async def back_up(node: Node, data: Path, directory: Path, now: float = NOW) -> dict[str, object]:
    return await backup.back_up(node.catalog, node.blobs, data, directory, node.deployment, now, silent)


def blobs_in(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "blobs").rglob("*") if path.is_file())


def manifest(directory: Path) -> dict[str, object]:
    return msgspec.json.decode((directory / "backup.json").read_bytes(), type=dict[str, object])


async def test_what_was_backed_up_is_restored_as_it_was_in_another_epoch(tmp_path: Path) -> None:
    data, there, again = tmp_path / "data", tmp_path / "backup", tmp_path / "again"
    async with origin(data) as node:
        digests = [await store(node, name) for name in ("one", "two", "three")]
        await node.catalog.remember("epoch", "first")
        await node.catalog.remember("verdicts", msgspec.json.encode(Verdicts(revision=7)).decode())
        before = await node.catalog.head()
        told = await back_up(node, data, there)
        assert (told["blobs"], told["linked"], told["copied"]) == (3, 3, 0)
        deployment = node.deployment
    restored = await backup.restore(there, again, NOW + 10, silent)
    assert (restored["blobs"], restored["left_out"]) == (3, [])
    for name in FILES:
        assert (again / name).read_bytes() == (data / name).read_bytes()
        assert stat.S_IMODE((again / name).stat().st_mode) == (0o644 if name.endswith("cert.pem") else 0o600)
    async with origin(again) as node:
        assert node.deployment == deployment
        assert await node.catalog.recall("epoch") == restored["epoch"] != "first"
        verdicts = msgspec.json.decode(await node.catalog.recall("verdicts") or "", type=Verdicts)
        assert verdicts.revision == int(NOW + 10)
        serial, _ = await node.catalog.head()
        assert serial == before[0] + 1
        identity = open_identity(again, ["localhost"], time.time())
        assert (await verify_ledger(node.catalog, identity.public_key)).problems == ()
        for digest in digests:
            assert await node.blobs.verify(digest)
        assert sorted(path.name for path in again.iterdir() if path.name not in ("tls", "blobs")) == [
            "catalog.sqlite",
            "catalog.sqlite-shm",
            "catalog.sqlite-wal",
            "fleet.key",
            "ledger.key",
            "lock",
            "version",
        ]


async def test_what_was_restored_takes_any_file_whatever_the_backup_had(tmp_path: Path) -> None:
    """A few blobs have but a few of the 256 directories of names; the last of them made the store look whole."""
    last = next(name for name in map(str, range(10_000)) if hashlib.sha256(name.encode() * 100).digest()[0] == 0xFF)
    async with origin(tmp_path / "data") as node:
        await store(node, last)
        await back_up(node, tmp_path / "data", tmp_path / "backup")
    await backup.restore(tmp_path / "backup", tmp_path / "again", NOW + 10, silent)
    async with origin(tmp_path / "again") as node:
        for name in ("one", "two", "three"):
            assert await node.blobs.verify(await store(node, name))


async def test_an_invitation_that_was_used_after_the_backup_is_not_good_once_more(tmp_path: Path) -> None:
    data, there, again = tmp_path / "data", tmp_path / "backup", tmp_path / "again"
    async with origin(data) as node:
        await node.catalog.invite("lisbon", "aa", until=NOW + 3600)
        await back_up(node, data, there)
        assert await node.catalog.enrol("aa", "its secret", NOW) == "lisbon"
    await backup.restore(there, again, NOW + 10, silent)
    async with origin(again) as node:
        assert await node.catalog.enrol("aa", "somebody else's secret", NOW + 20) is None


async def test_a_further_backup_takes_what_is_new_and_lets_go_of_what_is_gone(tmp_path: Path) -> None:
    data, there = tmp_path / "data", tmp_path / "backup"
    async with origin(data) as node:
        one, two = await store(node, "one"), await store(node, "two")
        first = await back_up(node, data, there)
        await node.catalog.drop(one)
        await node.blobs.delete(one)
        three = await store(node, "three")
        second = await back_up(node, data, there, NOW + 60)
        assert (second["linked"], second["kept"], second["blobs"]) == (1, 1, 2)
        assert blobs_in(there) == sorted([two.value, three.value])
        assert [path.name for path in (there / "generations").iterdir()] == [second["generation"]]
        assert second["generation"] != first["generation"]
    restored = await backup.restore(there, tmp_path / "again", NOW, silent)
    assert restored["blobs"] == 2


async def test_where_there_can_be_no_links_blobs_are_copied_and_read_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, there = tmp_path / "data", tmp_path / "backup"

    def link(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    async with origin(data) as node:
        good, bad = await store(node, "good"), await store(node, "bad")
        damaged = data / "blobs" / "sha256" / bad.value[:2] / bad.value[2:4] / bad.value
        damaged.chmod(0o644)
        damaged.write_bytes(b"x" * len(b"bad" * 100))
        told = await back_up(node, data, there)
        assert (told["copied"], told["linked"], told["bad"]) == (1, 0, [str(bad)])
    assert blobs_in(there) == [good.value]
    restored = await backup.restore(there, tmp_path / "again", NOW, silent)
    assert (restored["blobs"], restored["left_out"]) == (1, [])
    async with origin(tmp_path / "again") as node:
        assert await node.catalog.held(good) is not None
        assert await node.catalog.held(bad) is None, "no row names a missing blob"
        assert len(await node.catalog.bindings("npm", "bad")) == 1


@pytest.mark.parametrize("step", ["catalogue", "blobs", "end"])
async def test_a_backup_that_is_cut_off_leaves_the_one_before_as_it_was(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, there = tmp_path / "data", tmp_path / "backup"
    async with origin(data) as node:
        await store(node, "one")
        await back_up(node, data, there)
        before = manifest(there)
        await store(node, "two")

        def fail(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        broken = {"catalogue": "_copy_keys", "blobs": "_take_blobs", "end": "_finish"}[step]
        with monkeypatch.context() as patched:
            patched.setattr(backup, broken, fail)
            with pytest.raises(OSError, match="No space left"):
                await back_up(node, data, there, NOW + 60)
        assert manifest(there) == before
        assert [path.name for path in (there / "generations").iterdir()] == [before["generation"]]
        assert (await backup.restore(there, tmp_path / "again", NOW, silent))["blobs"] == 1
        after = await back_up(node, data, there, NOW + 120)
        assert after["blobs"] == 2


async def test_a_backup_whose_maker_was_killed_is_gone_on_with(tmp_path: Path) -> None:
    data, there = tmp_path / "data", tmp_path / "backup"
    async with origin(data) as node:
        await store(node, "one")
        await back_up(node, data, there)
        # What a killed one leaves: a generation that nothing names, and half a blob.
        (there / "generations" / "killed").mkdir()
        (there / "generations" / "killed" / "catalog.sqlite").write_bytes(b"half")
        (there / "blobs" / "sha256" / ".half").write_bytes(b"half")
        told = await back_up(node, data, there, NOW + 60)
        assert told["kept"] == 1
        assert [path.name for path in (there / "generations").iterdir()] == [told["generation"]]
        assert not (there / "blobs" / "sha256" / ".half").exists()


async def test_a_directory_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    data, there = tmp_path / "data", tmp_path / "backup"
    there.mkdir()
    (there / "photos").mkdir()
    async with origin(data) as node:
        with pytest.raises(Unusable, match=r"holds something else \(photos\)"):
            await back_up(node, data, there)
        (there / "photos").rmdir()
        await back_up(node, data, there)
    async with origin(tmp_path / "other") as other:
        with pytest.raises(Unusable, match="a backup of another origin"):
            await back_up(other, tmp_path / "other", there)


async def test_a_nodes_own_data_directory_takes_no_backup(tmp_path: Path) -> None:
    async with origin(tmp_path) as node:
        with pytest.raises(Unusable, match="own data directory"):
            await back_up(node, tmp_path, tmp_path)


async def test_two_backups_into_one_directory_do_not_mix(tmp_path: Path) -> None:
    data, there = tmp_path / "data", tmp_path / "backup"
    async with origin(data) as node:
        going, go = trio.Event(), trio.Event()

        async def slowly(_: dict[str, object]) -> None:
            going.set()
            await go.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(backup.back_up, node.catalog, node.blobs, data, there, node.deployment, NOW, slowly)
            await going.wait()
            with pytest.raises(Unusable, match="Another backup into .* is under way"):
                await back_up(node, data, there)
            go.set()
        assert (there / "backup.json").exists()


@pytest.mark.parametrize("name", ["catalog.sqlite", "ledger.key", "blobs.list"])
@pytest.mark.parametrize("fault", ["changed", "missing"])
async def test_a_backup_that_is_not_what_it_was_is_not_restored(tmp_path: Path, name: str, fault: str) -> None:
    data, there = tmp_path / "data", tmp_path / "backup"
    async with origin(data) as node:
        await store(node, "one")
        told = await back_up(node, data, there)
    path = there / "generations" / str(told["generation"]) / name
    if fault == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(Unusable, match=name):
        await backup.restore(there, tmp_path / "again", NOW, silent)
    assert not (tmp_path / "again").exists()


async def test_a_blob_that_is_not_what_it_was_is_left_out(tmp_path: Path) -> None:
    data, there = tmp_path / "data", tmp_path / "backup"
    async with origin(data) as node:
        changed, missing, good = [await store(node, name) for name in ("changed", "missing", "good")]
        await back_up(node, data, there)
    for digest, content in ((changed, b"y" * 700), (missing, None)):
        path = there / "blobs" / "sha256" / digest.value[:2] / digest.value[2:4] / digest.value
        path.unlink()
        if content is not None:
            path.write_bytes(content)
    restored = await backup.restore(there, tmp_path / "again", NOW, silent)
    assert restored["left_out"] == sorted([str(changed), str(missing)])
    async with origin(tmp_path / "again") as node:
        assert [await node.catalog.held(digest) is not None for digest in (changed, missing, good)] == [False, False, True]


async def test_nothing_is_restored_over_something(tmp_path: Path) -> None:
    data, there = tmp_path / "data", tmp_path / "backup"
    async with origin(data) as node:
        await store(node, "one")
        await back_up(node, data, there)
        with pytest.raises(Unusable, match="is not empty"):
            await backup.restore(there, data, NOW, silent)
    with pytest.raises(Unusable, match="is not empty"):
        await backup.restore(there, data, NOW, silent)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    with pytest.raises(Unusable, match="is not empty"):
        await backup.restore(there, tmp_path / "full", NOW, silent)
    with pytest.raises(Unusable, match="holds no complete backup"):
        await backup.restore(tmp_path / "full", tmp_path / "again", NOW, silent)


async def test_a_restoring_that_was_cut_off_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, there, again = tmp_path / "data", tmp_path / "backup", tmp_path / "again"
    async with origin(data) as node:
        digest = await store(node, "one")
        await back_up(node, data, there)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for broken in ("_put_keys", "_put_catalog"):
        with monkeypatch.context() as patched:
            patched.setattr(backup, broken, fail)
            with pytest.raises(OSError, match="No space left"):
                await backup.restore(there, again, NOW, silent)
        assert not (again / "catalog.sqlite").exists()
    assert (await backup.restore(there, again, NOW, silent))["blobs"] == 1
    async with origin(again) as node:
        assert await node.blobs.verify(digest)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"version": 2}, "newer Leeward"),
        ({"generation": "../x"}, "damaged"),
        ({"files": {"/etc/passwd": {"size": 1, "sha256": ""}}}, "no part of a backup"),
        ({"files": {}}, "has no catalog.sqlite"),
        ({"made_at": "noon"}, "damaged"),
    ],
)
async def test_a_manifest_that_makes_no_sense_is_told(tmp_path: Path, change: dict[str, object], complaint: str) -> None:
    data, there = tmp_path / "data", tmp_path / "backup"
    async with origin(data) as node:
        await back_up(node, data, there)
    (there / "backup.json").write_text(json.dumps(manifest(there) | change))
    with pytest.raises(Unusable, match=complaint):
        await backup.restore(there, tmp_path / "again", NOW, silent)
