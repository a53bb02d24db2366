"""Backups of an origin: made while it runs, into one directory again and again; checked whole before anything is restored.

::

    DIR/backup.json           the last backup that is complete: replaced in one step, when all it names is on the disk
    DIR/generations/<time>/   its catalogue, its keys, and the list of its blobs
    DIR/blobs/sha256/ab/cd/   blobs, linked where the file system allows it, else copied; shared by all generations
    DIR/lock

So a backup that is cut off leaves the one before as it was, and the next goes on with the blobs that are there already. A restored origin
has a new epoch: its edges begin anew with a snapshot, and what they have that it lost, they offer.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import trio

from .api.wire import Verdicts
from .blobs import BlobStore
from .catalog import Catalog
from .catalog.sqlite import SqliteCatalog
from .datadir import DataDirectory, place, sync_directory
from .errors import Unusable
from .feed import EPOCH, new_epoch
from .identity import FILES
from .model import Change, Digest
from .recalling import VERDICTS

MANIFEST = "backup.json"
GENERATIONS = "generations"
BLOBS = "blobs"
CATALOG = "catalog.sqlite"
LIST = "blobs.list"

RESTORING = "restoring"
"""In a data directory while it is being restored: the work space, and the sign that it may be gone on with."""

VERSION = 1

PART = 100
"""How many blobs are handled in one thread hop."""

READ_BYTES = 1 << 20

type Progress = Callable[[dict[str, object]], Awaitable[None]]


class FileFacts(msgspec.Struct, frozen=True):
    """What a file of a generation must be."""

    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A backup that is complete. ``files`` are by path beneath the generation; ``made_at`` is UTC seconds.

    ``deployment`` tells whose it is; ``serial`` is the ledger's last line, or one soon before it; ``blobs`` and ``bytes`` count.
    """

    version: int = VERSION
    deployment: str
    generation: str
    made_at: float
    serial: int
    files: Mapping[str, FileFacts]
    blobs: int
    bytes: int


@dataclass(slots=True)
class _Counts:
    """What became of blobs. ``gone`` were not there any more, ``bad`` are not what their name says."""

    linked: int = 0
    copied: int = 0
    kept: int = 0
    bytes: int = 0
    gone: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)


# ---- making one -----------------------------------------------------------------------------------------------------


async def back_up(
    catalog: Catalog, blobs: BlobStore, data: Path, directory: Path, deployment: str, now: float, progress: Progress
) -> dict[str, object]:
    """Make a backup of a node in ``directory``, and let the one before it go. The node may run, and go on meanwhile.

    Raises ``Unusable``, ``Unavailable`` or ``OSError``.
    """
    with _locked(directory):
        await trio.to_thread.run_sync(_require_ours, directory, deployment)
        generation = f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
        into = directory / GENERATIONS / generation
        try:
            into.mkdir(mode=0o700, parents=True)
            serial, _ = await catalog.head()
            await progress({"step": "the catalogue"})
            await catalog.backup(str(into / CATALOG))
            await trio.to_thread.run_sync(_copy_keys, data, into)
            # After the copy: every blob that it has a row of is among these, unless it was given up since.
            held = sorted(await catalog.holdings())
            counts = _Counts()
            listed: list[str] = []
            for start in range(0, len(held), PART):
                some = held[start : start + PART]
                listed += await trio.to_thread.run_sync(_take_blobs, blobs, some, directory / BLOBS, counts)
                await progress({"done": min(start + PART, len(held)), "total": len(held), "bytes": counts.bytes})
            manifest = await trio.to_thread.run_sync(_finish, directory, into, listed, deployment, now, serial)
        except BaseException:
            shutil.rmtree(into, ignore_errors=True)
            raise
        await trio.to_thread.run_sync(_prune, directory, generation, frozenset(line.partition(" ")[0] for line in listed))
    return {
        "directory": str(directory),
        "generation": generation,
        "made_at": now,
        "serial": serial,
        "blobs": manifest.blobs,
        "bytes": manifest.bytes,
        "linked": counts.linked,
        "copied": counts.copied,
        "kept": counts.kept,
        "bad": counts.bad,
    }


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Have the directory for ourselves. Raises ``Unusable``."""
    if (directory / CATALOG).exists() and not (directory / MANIFEST).exists():
        raise Unusable(f"{directory} is a node's own data directory: name another one for the backup.")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unusable(f"The backup's directory {directory} cannot be used ({error.strerror}).") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Unusable(f"Another backup into {directory} is under way.") from None
        yield
    finally:
        os.close(lock)


def _require_ours(directory: Path, deployment: str) -> None:
    """Nothing but a backup of this origin may be there."""
    manifest = _read_manifest(directory)
    if manifest is not None and manifest.deployment != deployment:
        raise Unusable(f"{directory} holds a backup of another origin: name another directory.")
    strangers = {path.name for path in directory.iterdir()} - {"lock", MANIFEST, GENERATIONS, BLOBS}
    strangers = {name for name in strangers if not name.startswith(f".{MANIFEST}.")}
    if strangers:
        raise Unusable(f"{directory} holds something else ({min(strangers)}): name a directory for backups alone.")


def _copy_keys(data: Path, into: Path) -> None:
    for name in FILES:
        if (data / name).exists():
            (into / name).parent.mkdir(mode=0o700, exist_ok=True)
            place(into / name, (data / name).read_bytes(), 0o600)


def _take_blobs(blobs: BlobStore, some: Sequence[tuple[Digest, int]], into: Path, counts: _Counts) -> list[str]:
    """Have these blobs there; a line for each that is."""
    lines = []
    for digest, size in some:
        path = _blob_path(into, digest.value)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size == size:
                counts.kept += 1
                counts.bytes += size
                lines.append(f"{digest.value} {size}")
                continue
        span = blobs.open_nowait(digest)
        if span is None:
            counts.gone.append(str(digest))
            continue
        try:
            if _bring(f"/proc/self/fd/{span.fd}", span.fd, path, digest.value, counts):
                counts.bytes += len(span)
                lines.append(f"{digest.value} {len(span)}")
            else:
                counts.bad.append(str(digest))
        finally:
            span.close()
    return lines


def _bring(source: str, fd: int, path: Path, value: str, counts: _Counts, *, checked: bool = False) -> bool:
    """Link a blob to ``path``, or copy it; False if it is not what its name says, which is seen only when it is read.

    ``checked`` says that it was read, and is.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.parent / f".{value}.{secrets.token_hex(4)}"
    try:
        try:
            # With a directory's descriptor, which an absolute path has no use for, it follows /proc's link to what is open: linkat(2).
            os.link(source, temporary, src_dir_fd=fd, follow_symlinks=True)
            counts.linked += 1
        except OSError:
            # Another file system, or one that knows no links.
            if _copy(fd, temporary) != value and not checked:
                return False
            counts.copied += 1
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _copy(fd: int, path: Path) -> str:
    """Copy what can be read from ``fd``; its SHA-256 in hex."""
    hashed = hashlib.sha256()
    with path.open("xb") as file:
        at = 0
        while piece := os.pread(fd, READ_BYTES, at):
            hashed.update(piece)
            file.write(piece)
            at += len(piece)
        os.fchmod(file.fileno(), 0o444)
        file.flush()
        os.fsync(file.fileno())
    return hashed.hexdigest()


def _finish(directory: Path, into: Path, listed: Sequence[str], deployment: str, now: float, serial: int) -> Manifest:
    """Make the generation the backup: everything that it names is on the disk before it is named."""
    place(into / LIST, "".join(f"{line}\n" for line in listed).encode(), 0o600)
    files = {
        str(path.relative_to(into)): FileFacts(path.stat().st_size, _sha256(path))
        for path in sorted(into.rglob("*"))
        if path.is_file()
    }
    manifest = Manifest(
        deployment=deployment,
        generation=into.name,
        made_at=now,
        serial=serial,
        files=files,
        blobs=len(listed),
        bytes=sum(int(line.partition(" ")[2]) for line in listed),
    )
    # Links and directories of thousands of blobs: one call has them all on the disk.
    os.sync()
    place(directory / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)), 0o600)
    return manifest


def _prune(directory: Path, generation: str, values: frozenset[str]) -> None:
    """Remove what the backup does not name. What is left of this when it is cut off, the next does."""
    for path in (directory / GENERATIONS).iterdir():
        if path.name != generation:
            shutil.rmtree(path, ignore_errors=True)
    for path in (directory / BLOBS).rglob("*"):
        if path.name not in values and path.is_file():
            path.unlink(missing_ok=True)


# ---- restoring one --------------------------------------------------------------------------------------------------


async def restore(directory: Path, data: Path, now: float, progress: Progress) -> dict[str, object]:
    """Make ``data``, which must be empty, what was backed up in ``directory``. What was cut off can be begun again.

    Catalogue and keys must be exactly what the manifest says, or nothing is restored; a blob that is not is left out, and fetched again
    when it is asked for. Raises ``Unusable`` (``datadir.Locked``), ``Unavailable`` or ``OSError``.
    """
    manifest = _read_manifest(directory)
    if manifest is None:
        raise Unusable(f"{directory} holds no complete backup: there is no {MANIFEST}.")
    generation = directory / GENERATIONS / manifest.generation
    await progress({"step": "checking"})
    await trio.to_thread.run_sync(_check, generation, manifest)
    _require_empty(data)
    with DataDirectory.open(data) as opened:
        work = data / RESTORING
        work.mkdir(mode=0o700, exist_ok=True)
        held = [line.split() for line in (generation / LIST).read_text(encoding="ascii").splitlines()]
        counts = _Counts()
        for start in range(0, len(held), PART):
            some = held[start : start + PART]
            await trio.to_thread.run_sync(_put_blobs, directory / BLOBS, some, opened.blobs, counts)
            await progress({"done": min(start + PART, len(held)), "total": len(held), "bytes": counts.bytes})
        await progress({"step": "the catalogue"})
        await trio.to_thread.run_sync(_put_keys, generation, manifest, data)
        await trio.to_thread.run_sync(_copy_catalog, generation / CATALOG, work / CATALOG)
        epoch = await _begin_anew(work / CATALOG, {value for value, _ in held} - {name[7:] for name in counts.bad}, now)
        await trio.to_thread.run_sync(_put_catalog, work / CATALOG, opened.catalog)
        shutil.rmtree(work)
    return {
        "data": str(data),
        "made_at": manifest.made_at,
        "serial": manifest.serial,
        "epoch": epoch,
        "blobs": len(held) - len(counts.bad),
        "bytes": counts.bytes,
        "left_out": counts.bad,
    }


def _read_manifest(directory: Path) -> Manifest | None:
    path = directory / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unusable(f"The backup's manifest {path} cannot be read ({error.strerror}).") from error
    except msgspec.DecodeError as error:
        raise Unusable(f"The backup's manifest {path} is damaged: {error}.") from error
    if manifest.version > VERSION:
        raise Unusable(f"The backup in {directory} was made by a newer Leeward.")
    if "/" in manifest.generation or manifest.generation in ("", ".", ".."):
        raise Unusable(f"The backup's manifest {path} is damaged: it names the generation {manifest.generation!r}.")
    return manifest


def _check(generation: Path, manifest: Manifest) -> None:
    """Raises ``Unusable`` unless catalogue, keys and list are exactly what they were."""
    for name, facts in manifest.files.items():
        path = generation / name
        if name not in (CATALOG, LIST, *FILES):
            raise Unusable(f"The backup's manifest names {name}, which is no part of a backup.")
        try:
            if path.stat().st_size == facts.size and _sha256(path) == facts.sha256:
                continue
        except OSError as error:
            raise Unusable(f"The backup is not whole: {path} cannot be read ({error.strerror}).") from error
        raise Unusable(f"The backup is damaged: {path} is not what its manifest says.")
    if missing := [name for name in (CATALOG, LIST, "ledger.key", "fleet.key") if name not in manifest.files]:
        raise Unusable(f"The backup is not whole: it has no {missing[0]}.")


def _require_empty(data: Path) -> None:
    """Nothing may be there, but what an earlier try has left."""
    found = {path.name for path in data.iterdir()} if data.exists() else set()
    if RESTORING not in found and found - {"lock", "version"}:
        raise Unusable(f"{data} is not empty: a backup is restored into a directory of its own.")
    if CATALOG in found:
        raise Unusable(f"{data} holds a catalogue already: a backup is restored into a directory of its own.")


def _put_blobs(source: Path, some: Sequence[Sequence[str]], into: Path, counts: _Counts) -> None:
    for value, size in some:
        path = _blob_path(source, value)
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size != int(size) or hashlib.file_digest(file, "sha256").hexdigest() != value:
                    counts.bad.append(f"sha256-{value}")
                    continue
                _bring(str(path), file.fileno(), _blob_path(into, value), value, counts, checked=True)
        except FileNotFoundError:
            counts.bad.append(f"sha256-{value}")
            continue
        counts.bytes += int(size)


def _put_keys(generation: Path, manifest: Manifest, data: Path) -> None:
    for name in FILES:
        if name in manifest.files:
            (data / name).parent.mkdir(mode=0o700, exist_ok=True)
            place(data / name, (generation / name).read_bytes(), 0o644 if name.endswith("cert.pem") else 0o600)


def _copy_catalog(source: Path, path: Path) -> None:
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        (path.parent / name).unlink(missing_ok=True)
    shutil.copyfile(source, path)
    path.chmod(0o600)


async def _begin_anew(path: Path, values: set[str], now: float) -> str:
    """Make the catalogue that of another ledger, which goes on from where it was: edges must not take it for the one they followed.

    What was decided after the backup is not in it, and edges have that in force: the next revision of the verdicts is one that they have
    never heard of. An invitation that was used after the backup would be good once more: none is.
    """
    catalog = await SqliteCatalog.open(path, keeps_ledger=True)
    try:
        epoch = new_epoch()
        known = await catalog.recall(VERDICTS)
        verdicts = msgspec.json.decode(known, type=Verdicts) if known is not None else Verdicts()
        verdicts = msgspec.structs.replace(verdicts, revision=max(verdicts.revision + 1, int(now)))
        text = msgspec.json.encode(verdicts)
        digest = Digest("sha256", hashlib.sha256(text).hexdigest())
        line = Change(0, VERDICTS, digest, kind="verdicts", at=now, revision=verdicts.revision)
        await catalog.append(line, {EPOCH: epoch, VERDICTS: text.decode()})
        await catalog.void_invitations()
        for held, _ in await catalog.holdings():
            if held.value not in values:
                await catalog.drop(held)
    finally:
        await catalog.close()
    return epoch


def _put_catalog(path: Path, into: Path) -> None:
    """The last step: what it names is on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    os.sync()
    path.replace(into)
    sync_directory(into.parent)


# ---- both -----------------------------------------------------------------------------------------------------------


def _blob_path(root: Path, value: str) -> Path:
    """Where ``blobs.disk`` keeps a blob too."""
    value = Digest.parse("sha256", value).value
    return root / "sha256" / value[:2] / value[2:4] / value


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
