"""Blobs as files: ``sha256/ab/cd/<hex>`` beneath a root of its own, temporaries in ``tmp/`` beside them.

The order of system calls is the contract with a crash, and ``tests/faults`` kills the process at each of them::

    spool    open(O_CREAT|O_EXCL) in tmp/, posix_fallocate
    write    pwrite, hash                                     one thread hop each
    adopt    ftruncate if more was reserved than written
             fdatasync           the bytes are on the disk before they have a name
             fstat               the size is what was written
             fchmod 0444
             mkdir ab/cd, fsync ab, once per directory and process
             rename              atomic: there is never a torn file under a final name
             fsync ab/cd         the name is on the disk before anybody is told

After ``adopt`` the caller writes the catalogue's row. A crash in between leaves a blob without a row, which is whole and
harmless; the other order would leave a row without a blob. A failed fsync drops the kernel's dirty state, so that trying again
can succeed falsely (PostgreSQL's "fsync errors"): the spool is condemned instead, its file deleted, and never retried.
``O_TMPFILE`` with ``linkat`` would leave no temporaries at all but does not exist on every file system (overlay, NFS, FUSE);
``sweep`` costs one directory.

A full disk never fails an install. The states are ``normal``; ``pressure`` (evict ``pressure_bytes()``); ``no-admit``, in which spools
live in memory, up to a bound over all of them, and are passed through without being stored; and ``read-only``, when the disk
refuses for another reason than room. They come from a ledger of our own bytes (the limit) and from ``statvfs`` (other users
of the disk), in bytes and in inodes, measured in the thread hops that touch the disk anyway.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import logging
import os
import secrets
import stat
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol, cast

import trio

from ..datadir import sync_directory
from ..errors import Corrupt, Unavailable, Unusable
from ..metrics import Metrics
from ..model import Digest, Span
from . import Spool

log = logging.getLogger(__name__)

STEP_BYTES = 8 << 20
"""What a spool of unknown size reserves at a time."""

HASH_STEP_BYTES = 1 << 20
"""How much ``verify`` reads at a time: large enough that hashing, which lets go of the GIL, is nearly all of it."""

FULL_S = 5.0
"""How long a refusal for lack of room is believed, unless something is deleted first."""

SHORT_S = 60.0
"""How long what a refused spool lacked is asked of eviction: it may have been made room for by others meanwhile."""

SUSPECT_S = 30.0
"""How long a disk that failed for another reason is left alone."""

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""The process's or the machine's trouble, which says nothing about the disk or what is on it."""

HEX = "0123456789abcdef"
STATES = ("normal", "pressure", "no-admit", "read-only")


class Hasher(Protocol):
    """The part of a ``hashlib`` object that is used here."""

    def update(self, data: bytes | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


def hasher(algorithm: str) -> Hasher:
    """A new hash object for one of ``model.ALGORITHMS``. Raises ``ValueError`` for any other."""
    if algorithm == "blake2b-256":
        return hashlib.blake2b(digest_size=32)
    return hashlib.new(algorithm, usedforsecurity=False)


@dataclass(frozen=True, slots=True)
class Room:
    """What the file system says is left, in bytes and inodes. ``inodes`` is 0 where it does not count them (btrfs)."""

    free_bytes: int
    total_bytes: int
    free_inodes: int
    inodes: int


@dataclass(slots=True)
class Turn:
    """Who changes one blob's name now, the others waiting in order. ``adoptions`` counts those that succeeded meanwhile."""

    lock: trio.Lock = field(default_factory=trio.Lock)
    adoptions: int = 0


class DiskBlobs:
    """A ``BlobStore`` on a local file system. The data directory's lock makes this process its only writer.

    ``limit_bytes`` bounds what is held (None: by the disk alone): above ``high_water`` of it is ``pressure``, down to ``low_water``; at
    the limit itself nothing is admitted. ``memory_bytes`` bounds the spools held in memory. ``reserve_bytes`` is what is left free for
    others, the catalogue first among them (default 2 % of the disk, at most 1 GiB). Call ``sweep`` once before anything else:
    it counts what is held. ``clock`` gives monotonic seconds. Raises ``Unusable`` if the disk refuses from the start; afterwards
    every failure of the disk is ``Unavailable``, never a bare ``OSError``.
    """

    def __init__(
        self,
        root: Path,
        *,
        limit_bytes: int | None = None,
        memory_bytes: int = 256 << 20,
        high_water: float = 0.95,
        low_water: float = 0.90,
        reserve_bytes: int | None = None,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert 0 < low_water <= high_water <= 1
        self.root = root
        self.limit_bytes = limit_bytes
        self.memory_bytes = memory_bytes
        self._high_water, self._low_water = high_water, low_water
        self._metrics = metrics
        self._clock = clock
        self._names = os.fspath(root / "sha256")
        self._temporaries = os.fspath(root / "tmp")
        try:
            for directory in (root, root / "sha256", root / "tmp"):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Blobs are no more durable than the directories that lead to them.
            sync_directory(root)
            sync_directory(root.parent)
            self._make_names()
            self._room = self._measure()
        except OSError as error:
            raise Unusable(f"The store in {root} cannot be used ({error.strerror}): check the disk and its owner.") from error
        # The held part of the ledger changes together with the names, in worker threads, under this lock.
        self._naming = threading.Lock()
        self._held_bytes = 0
        self._held_blobs = 0
        self._generation = 0
        # The ``ab/cd`` whose entry in their parent is known to be durable, made under one lock per ``ab``, so that syncs of different
        # directories overlap and share the journal's commits.
        self._making = [threading.Lock() for _ in range(256)]
        self._durable: set[str] = set()
        # The rest of the ledger belongs to the event loop's thread.
        self._reserved = 0
        self._in_memory = 0
        self._open: dict[str, int] = {}
        self._lingering: dict[str, int] = {}
        self._live: set[str] = set()
        self._turns: dict[str, Turn] = {}
        self._short = 0
        self._short_until = self._full_until = self._suspect_until = -1.0
        self._serials = itertools.count()
        if reserve_bytes is None:
            reserve_bytes = min(1 << 30, self._room.total_bytes // 50)
        self._reserve_bytes = reserve_bytes
        self._reserve_inodes = min(1000, self._room.inodes // 100)
        # Separate limiters: slow syncs must not keep bytes from being written, nor either of them a hit from being opened.
        self._writes = trio.CapacityLimiter(16)
        self._syncs = trio.CapacityLimiter(16)
        self._reads = trio.CapacityLimiter(8)
        self._walks = trio.CapacityLimiter(2)

    def __repr__(self) -> str:
        return f"<DiskBlobs {self.root} {self.state()} {self.statistics()}>"

    def statistics(self) -> dict[str, int]:
        """The ledger: bytes and blobs held, bytes reserved by spools, deleted but still open, and in memory."""
        return {
            "held_bytes": self._held_bytes,
            "held_blobs": self._held_blobs,
            "reserved_bytes": self._reserved,
            "lingering_bytes": sum(self._lingering.values()),
            "memory_bytes": self._in_memory,
        }

    # ---- spools

    async def spool(self, algorithms: Sequence[str] = (), size: int | None = None) -> Spool:
        """Begin a spool: on disk if it admits ``size`` bytes, reserved there and then, else in memory.

        Raises ``Unavailable`` when there is room nowhere, ``ValueError`` for an unknown algorithm.
        """
        hashes = {algorithm: hasher(algorithm) for algorithm in ("sha256", *algorithms)}
        want = STEP_BYTES if size is None else size
        # Reserved before the hop, so that two spools that begin together cannot both take the last room.
        self._reserved += want
        created = None
        try:
            if not self._admits_by_ledger():
                if self.limit_bytes is not None:
                    self._note_short(self._used() - self.limit_bytes, want)
            else:
                created = await trio.to_thread.run_sync(self._create, want, limiter=self._writes)
        finally:
            if created is None:
                self._reserved -= want
        if created is not None:
            self._short = 0
            fd, path = created
            return DiskSpool(self, hashes, fd, path, want, known=size is not None)
        self._report()
        return self._spool_in_memory(hashes, size or 0)

    def _spool_in_memory(self, hashes: dict[str, Hasher], size: int) -> DiskSpool:
        self._take_memory(size)
        try:
            fd = os.memfd_create("spool", os.MFD_CLOEXEC)
        except OSError as error:
            self._in_memory -= size
            raise Unavailable(f"No spool could be opened: {error.strerror}") from error
        return DiskSpool(self, hashes, fd, None, size, known=True)

    def _take_memory(self, more: int, before: int = 0) -> None:
        """Count ``more`` bytes for a spool in memory that has ``before``. Raises ``Unavailable`` beyond the bound over all of them."""
        # Followers that still read a discarded spool hold its memory a little longer than this counts.
        room = f"the {self.memory_bytes / (1 << 20):.4g} MiB of memory for passing files through (store.spool_memory)"
        if before + more > self.memory_bytes:
            size = f"{(before + more) / (1 << 20):.4g} MiB or more"
            raise Unavailable(f"The store is {self.state()} and a file of {size} exceeds {room}", 30)
        if self._in_memory + more > self.memory_bytes:
            raise Unavailable(f"The store is {self.state()} and {room} are taken", 10)
        self._in_memory += more

    def _create(self, want: int) -> tuple[int, str] | None:
        """In a thread: a temporary file with ``want`` bytes allocated; None if the disk does not admit them."""
        path = f"{self._temporaries}/{os.getpid()}-{next(self._serials)}-{secrets.token_hex(4)}"
        try:
            self._room = self._measure()
            if not self._admits_by_disk(want):
                self._note_short(want + self._reserve_bytes - self._room.free_bytes, want)
                return None
            self._live.add(path)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._live.discard(path)
            self._note_failure(error)
            return None
        try:
            allocate(fd, 0, want)
        except OSError as error:
            close_quietly(fd)
            self._unlink_temporary(path)
            self._note_failure(error)
            return None
        return fd, path

    def _unlink_temporary(self, path: str) -> None:
        try:
            os.unlink(path)
        except OSError as error:
            # Whatever stays is found by the sweep at the next start.
            if error.errno != errno.ENOENT:
                log.warning("cannot delete temporary file %s: %s", path, error.strerror)
        self._live.discard(path)

    # ---- adoption

    async def adopt(self, spool: Spool, digest: Digest) -> None:
        """Make the spool the blob ``digest``, durably. See ``BlobStore.adopt`` and the module's docstring for the order.

        A blob already there is replaced by the bytes just verified, which also heals one that has rotted.
        """
        assert isinstance(spool, DiskSpool) and spool.blobs is self
        if spool.adopted == digest:
            if await self.size(digest) is None:
                raise Unavailable("what was adopted has been deleted since", 1)
            return
        actual = spool.digest("sha256")
        if actual != digest:
            raise Corrupt(f"What arrived is {actual}, not {digest}", digest, actual)
        if not spool.durable:
            raise Unavailable(f"The store is {self.state()}: the file was passed through and not stored", 10)
        spool.check_usable()
        async with self._alone(digest.value) as turn:
            if spool.adopted == digest:
                return
            await trio.to_thread.run_sync(self._settle, spool, digest, limiter=self._syncs)
            turn.adoptions += 1
            self._reserved -= spool.allocated
            spool.allocated = 0
            spool.adopted = digest
            self._open[digest.value] = self._open.get(digest.value, 0) + 1
        self._report()

    @contextlib.asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[Turn]:
        """Be the only one to change this blob's name, files and ledger alike. Turns are taken in the order of asking."""
        turn = self._turns.setdefault(name, Turn())
        try:
            async with turn.lock:
                yield turn
        finally:
            # Trio's lock passes straight to the next who waits: one that is free has nobody.
            if not turn.lock.locked():
                self._turns.pop(name, None)

    def _settle(self, spool: DiskSpool, digest: Digest) -> None:
        """In a thread: the sequence of the module's docstring, from ``ftruncate`` on."""
        fd, final = spool.fileno(), self._path(digest)
        directory = os.path.dirname(final)
        temporary = cast(str, spool.path)
        named = False
        try:
            if spool.allocated != spool.written:
                os.ftruncate(fd, spool.written)
            os.fdatasync(fd)
            size = os.fstat(fd).st_size
            if size != spool.written:
                raise OSError(errno.EIO, f"{size} bytes are in a file of {spool.written}")
            os.fchmod(fd, 0o444)
            self._make_directory(directory)
            with self._naming:
                previous = size_of(final)
                os.rename(temporary, final)
                named = True
                self._generation += 1
                self._held_bytes += size - (previous or 0)
                self._held_blobs += previous is None
            self._live.discard(temporary)
            sync_directory(directory)
        except OSError as error:
            spool.condemn(f"the disk failed: {error.strerror}")
            if named:
                with contextlib.suppress(Unavailable):
                    self._remove(digest.value, final)
            self._unlink_temporary(temporary)
            self._note_failure(error)
            log.exception("blob %s was condemned", digest)
            raise Unavailable(f"The file could not be stored: {error.strerror}") from error

    def _make_directory(self, directory: str) -> None:
        """Create ``ab/cd`` and make its entry durable. Another thread's unfinished mkdir in the same ``ab`` is waited for."""
        if directory in self._durable:
            return
        parent = os.path.dirname(directory)
        with self._making[int(directory[-5:-3], 16)]:
            if directory not in self._durable:
                # One that exists may have been made just before a crash of this process: it too is synced once.
                with contextlib.suppress(FileExistsError):
                    os.mkdir(directory, 0o700)
                sync_directory(parent)
                self._durable.add(directory)

    def _make_names(self) -> None:
        """Create what is missing of ``sha256/00`` to ``ff``, durably: all in a new store, some in one that was restored."""
        there = set(os.listdir(self._names))
        for name in (f"{number:02x}" for number in range(256)):
            if name not in there:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(f"{self._names}/{name}", 0o700)
        # Synced even if all exist: they may have been made just before a crash.
        sync_directory(self._names)

    # ---- reading

    def open_nowait(self, digest: Digest) -> Span | None:
        """An open descriptor over the whole blob, or None. Raises ``Unavailable`` if the disk fails or descriptors run out."""
        found = self._open_file(self._path(digest))
        return None if found is None else Opened(*found, self, digest.value)

    async def open(self, digest: Digest) -> Span | None:
        """As ``open_nowait``, with the opening in a thread."""
        found = await trio.to_thread.run_sync(self._open_file, self._path(digest), limiter=self._reads)
        return None if found is None else Opened(*found, self, digest.value)

    def _open_file(self, path: str) -> tuple[int, int] | None:
        """A descriptor and its file's size in bytes, None if there is no such file."""
        fd = -1
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return fd, os.fstat(fd).st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            if fd >= 0:
                close_quietly(fd)
            raise Unavailable(f"A stored file cannot be opened: {error.strerror}") from error

    async def size(self, digest: Digest) -> int | None:
        """Size in bytes, None if it is not here."""
        return await trio.to_thread.run_sync(self._size, self._path(digest), limiter=self._reads)

    def _size(self, path: str) -> int | None:
        try:
            return size_of(path)
        except OSError as error:
            raise Unavailable(f"A stored file cannot be looked at: {error.strerror}") from error

    async def verify(self, digest: Digest) -> bool:
        """Hash the blob again; False if missing, unreadable or different. Raises ``Unavailable`` if descriptors run out."""
        return await trio.to_thread.run_sync(self._verify, digest, limiter=self._walks)

    def _verify(self, digest: Digest) -> bool:
        actual = hasher("sha256")
        buffer = memoryview(bytearray(HASH_STEP_BYTES))
        try:
            with open(self._path(digest), "rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    actual.update(buffer[:count])
        except OSError as error:
            if error.errno in SHORTAGES:
                raise Unavailable(f"A stored file cannot be read now: {error.strerror}") from error
            if error.errno != errno.ENOENT:
                log.warning("blob %s cannot be read: %s", digest, error.strerror)
            return False
        return actual.hexdigest() == digest.value

    async def digests(self) -> AsyncIterator[Digest]:
        """All blobs here, in no order, listed in a thread a thousand at a time."""
        names = self._blob_names()
        while batch := await trio.to_thread.run_sync(self._next_names, names, limiter=self._walks):
            for name in batch:
                yield Digest("sha256", name)

    def _blob_names(self) -> Iterator[str]:
        for first in scan(self._names):
            yield from (entry.name for entry, known in self._walk(first) if known)

    def _next_names(self, names: Iterator[str]) -> list[str]:
        try:
            return list(itertools.islice(names, 1000))
        except OSError as error:
            raise Unavailable(f"The stored files cannot be listed: {error.strerror}") from error

    # ---- removal

    async def delete(self, digest: Digest) -> bool:
        """Remove it; readers that have it open go on, and their bytes count against the limit until they close.

        One that was adopted while this waited for its turn stays, and the answer is False: somebody wants it since.
        """
        path = self._path(digest)
        turn = self._turns.get(digest.value)
        before = 0 if turn is None else turn.adoptions
        async with self._alone(digest.value) as turn:
            if turn.adoptions != before:
                return False
            size = await trio.to_thread.run_sync(self._remove, digest.value, path, limiter=self._writes)
            if size is None:
                return False
            if self._open.get(digest.value):
                self._lingering[digest.value] = self._lingering.get(digest.value, 0) + size
        self._full_until = -1.0
        self._short = max(0, self._short - size)
        self._report()
        return True

    def _remove(self, name: str, path: str, aside: str | None = None) -> int | None:
        """In a thread: take the name away, or move it ``aside``. The size in bytes, None if it was not here."""
        with self._naming:
            try:
                size = size_of(path)
                if size is None:
                    return None
                if aside is None:
                    os.unlink(path)
                else:
                    os.rename(path, aside)
            except FileNotFoundError:
                return None
            except OSError as error:
                self._note_failure(error)
                raise Unavailable(f"The stored file {name} cannot be removed: {error.strerror}") from error
            self._generation += 1
            self._held_bytes -= size
            self._held_blobs -= 1
        # Not synced: a deletion that a crash undoes leaves a blob that still matches its name.
        try:
            self._room = self._measure()
        except OSError as error:
            # It is gone all the same; what is left is measured again by the next who needs to know.
            self._note_failure(error)
        return size

    async def quarantine(self, digest: Digest) -> None:
        """Move the blob to ``quarantine/<hex>``, numbered if one is there already. A no-op if it is not here.

        Sound bytes that were adopted under its name while this waited for its turn stay.
        """
        turn = self._turns.get(digest.value)
        before = 0 if turn is None else turn.adoptions
        async with self._alone(digest.value) as turn:
            if turn.adoptions == before:
                await trio.to_thread.run_sync(self._quarantine, digest, limiter=self._writes)
        self._report()

    def _quarantine(self, digest: Digest) -> None:
        try:
            aside = unused(self.root / "quarantine", digest.value)
        except OSError as error:
            self._note_failure(error)
            raise Unavailable(f"The stored file {digest} cannot be quarantined: {error.strerror}") from error
        self._remove(digest.value, self._path(digest), aside)

    async def sweep(self) -> int:
        """Delete temporaries that no spool owns, move unknown files to ``lost+found/``, count what is held.

        Returns how many files were removed or moved. The count is taken only if no blob came or went meanwhile. A directory that
        cannot be read is told in the log and passed over: what is in it is still served where it can be.
        """
        removed = await trio.to_thread.run_sync(self._sweep, limiter=self._walks)
        self._report()
        return removed

    def _sweep(self) -> int:
        removed = size = count = 0
        generation = self._generation
        for entry in self._scan_or_warn(self._temporaries):
            if entry.path not in self._live:
                self._unlink_temporary(entry.path)
                removed += 1
        for first in self._scan_or_warn(self._names):
            try:
                for entry, known in self._walk(first):
                    if not known:
                        removed += self._lose(entry.path)
                    elif (found := size_of(entry.path)) is not None:
                        size += found
                        count += 1
            except OSError as error:
                log.warning("the stored files in %s cannot be counted: %s", first.path, error.strerror)
        with self._naming:
            if generation == self._generation:
                self._held_bytes, self._held_blobs = size, count
        return removed

    def _scan_or_warn(self, path: str) -> list[os.DirEntry[str]]:
        try:
            return scan(path)
        except OSError as error:
            log.warning("%s cannot be swept: %s", path, error.strerror)
            return []

    def _lose(self, path: str) -> bool:
        """Move what should not be there to ``lost+found``; False if the disk refuses."""
        try:
            aside = unused(self.root / "lost+found", os.path.basename(path))
            os.rename(path, aside)
        except OSError as error:
            log.warning("unknown file %s cannot be moved to lost+found: %s", path, error.strerror)
            return False
        log.warning("unknown file %s was moved to %s", path, aside)
        return True

    def _walk(self, first: os.DirEntry[str]) -> Iterator[tuple[os.DirEntry[str], bool]]:
        """Everything at and beneath ``sha256/ab``, and whether it is a blob in its own place."""
        if not (is_hex(first.name, 2) and first.is_dir(follow_symlinks=False)):
            yield first, False
            return
        for second in scan(first.path):
            if not (is_hex(second.name, 2) and second.is_dir(follow_symlinks=False)):
                yield second, False
                continue
            for entry in scan(second.path):
                at_home = is_hex(entry.name, 64) and entry.name.startswith(first.name + second.name)
                yield entry, at_home and entry.is_file(follow_symlinks=False)

    # ---- room

    def state(self) -> str:
        """``normal``, ``pressure``, ``no-admit`` or ``read-only``, by what was last measured; does no I/O."""
        now = self._clock()
        if now < self._suspect_until:
            return "read-only"
        if now < self._full_until or not self._admits_by_ledger() or not self._admits_by_disk(0):
            return "no-admit"
        return "pressure" if self.pressure_bytes() else "normal"

    def pressure_bytes(self, more: int = 0) -> int:
        """How many bytes to evict to be back at the low-water mark; 0 if no high-water mark is passed; never more than is held.

        ``more`` bytes that are about to be written count as if they were there, unless they could never be.
        Deleted blobs still being read count for admission but not here: evicting more would not free them sooner.
        """
        over = 0
        if more > self._largest():
            more = 0
        if self.limit_bytes is not None:
            used = self._held_bytes + self._reserved + more
            if used > self._high_water * self.limit_bytes:
                over = used - int(self._low_water * self.limit_bytes)
        free_bytes = self._room.free_bytes - more
        if free_bytes < self._reserve_bytes * 3 // 2:
            over = max(over, self._reserve_bytes * 2 - free_bytes)
        if self._room.inodes and self._held_blobs and self._room.free_inodes < self._reserve_inodes * 3 // 2:
            blobs = self._reserve_inodes * 2 - self._room.free_inodes
            over = max(over, blobs * self._held_bytes // self._held_blobs)
        if self._clock() < self._full_until:
            over = max(over, STEP_BYTES)
        if self._clock() < self._short_until:
            over = max(over, self._short)
        return min(over, self._held_bytes)

    def _admits_by_ledger(self, more: int = 0) -> bool:
        """Whether limit and recent refusals leave room. What is about to be written is already in ``_reserved``."""
        if self._clock() < max(self._full_until, self._suspect_until):
            return False
        return self.limit_bytes is None or self._used() + more <= self.limit_bytes

    def _used(self) -> int:
        return self._held_bytes + self._reserved + sum(self._lingering.values())

    def _note_short(self, short: int, want: int) -> None:
        """Remember what a refused spool lacked, so that it is evicted for the next: unless no eviction could make room for it."""
        if want <= self._largest():
            self._short = max(self._short, short)
            self._short_until = self._clock() + SHORT_S

    def _largest(self) -> int:
        """The most bytes a spool could ever be admitted with."""
        largest = self._room.total_bytes - self._reserve_bytes
        return largest if self.limit_bytes is None else min(largest, self.limit_bytes)

    def _admits_by_disk(self, want: int) -> bool:
        room = self._room
        if room.inodes and room.free_inodes < self._reserve_inodes:
            return False
        return room.free_bytes - want >= self._reserve_bytes

    def _measure(self) -> Room:
        answer = os.statvfs(self.root)
        return Room(answer.f_bavail * answer.f_frsize, answer.f_blocks * answer.f_frsize, answer.f_favail, answer.f_files)

    def _note_failure(self, error: OSError) -> None:
        """Remember why the disk refused. May run in a thread: each is one assignment."""
        if error.errno in NO_ROOM:
            self._full_until = self._clock() + FULL_S
        elif error.errno not in SHORTAGES:
            self._suspect_until = self._clock() + SUSPECT_S

    def _note_closed(self, name: str) -> None:
        """One reader of the blob is gone; the last one's going frees what was deleted meanwhile."""
        left = self._open.get(name, 1) - 1
        if left > 0:
            self._open[name] = left
        else:
            self._open.pop(name, None)
            self._lingering.pop(name, None)

    def _report(self) -> None:
        if self._metrics is not None:
            self._metrics.held_bytes.set(self._held_bytes)
            self._metrics.held_blobs.set(self._held_blobs)
            now = self.state()
            for each in STATES:
                self._metrics.store_state.labels(each).set(each == now)

    def _path(self, digest: Digest) -> str:
        value = digest.value
        # Checked although ``Digest.parse`` did: this is where text becomes a path.
        if digest.algorithm != "sha256" or not is_hex(value, 64):
            raise ValueError(f"no blob is named {str(digest)[:80]!r}")
        return f"{self._names}/{value[:2]}/{value[2:4]}/{value}"


class Opened(Span):
    """A span that tells the store when it is closed. Closed, and let go of, in the event loop's thread."""

    __slots__ = ("_blobs", "_name")

    def __init__(self, fd: int, size: int, blobs: DiskBlobs, name: str) -> None:
        super().__init__(fd, 0, size)
        self._name = name
        self._blobs: DiskBlobs | None = blobs
        blobs._open[name] = blobs._open.get(name, 0) + 1

    def close(self) -> None:
        super().close()
        self._note_closed()

    def __del__(self) -> None:
        # Somebody may have made another Span of the descriptor: it is theirs to close, but the count is ours.
        self._note_closed()

    def _note_closed(self) -> None:
        blobs, self._blobs = self._blobs, None
        if blobs is not None:
            blobs._note_closed(self._name)


class DiskSpool:
    """A ``Spool`` of ``DiskBlobs``: a temporary file, or a memory file where ``path`` is None. Made by ``DiskBlobs.spool``.

    ``allocated`` is what it has reserved, in bytes. ``adopted`` is the digest it became.
    """

    def __init__(
        self, blobs: DiskBlobs, hashes: dict[str, Hasher], fd: int, path: str | None, allocated: int, *, known: bool
    ) -> None:
        self.blobs = blobs
        self.path = path
        self.allocated = allocated
        self.adopted: Digest | None = None
        self._hashes = hashes
        self._fd = fd
        self._known = known
        self._written = 0
        self._condemned = ""

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else "on disk"
        return f"<DiskSpool {where} {self._written} of {self.allocated} bytes {self._condemned or self.adopted or ''}>"

    @property
    def written(self) -> int:
        """Bytes written so far: all of them readable from ``fileno()``."""
        return self._written

    @property
    def durable(self) -> bool:
        """False for a spool held in memory."""
        return self.path is not None

    def fileno(self) -> int:
        """The descriptor; the same for the spool's whole life. Raises ``ValueError`` after ``discard``."""
        if self._fd < 0:
            raise ValueError("the spool is closed")
        return self._fd

    def digest(self, algorithm: str) -> Digest:
        """The digest of what was written so far; ``KeyError`` for an algorithm not named at ``spool()``."""
        return Digest(algorithm, self._hashes[algorithm].hexdigest())

    def condemn(self, why: str) -> None:
        """From now on it can be read and discarded, and nothing else."""
        self._condemned = why

    def check_usable(self) -> None:
        """Raise ``Unavailable`` if an earlier write or sync failed."""
        if self._condemned:
            raise Unavailable(f"The file cannot be stored: {self._condemned}")

    async def write(self, data: bytes | memoryview) -> None:
        """Append and hash, in one thread hop. Raises ``Unavailable`` if there is no room left; then it accepts no more.

        A disk spool never turns into one in memory: followers hold duplicates of its descriptor. Where the size is known all
        of it was allocated at the start, so that a full disk shows in ``spool()``, which can still choose memory.
        """
        assert self.adopted is None
        self.check_usable()
        grow_to = max(self.allocated, self._written + len(data))
        if self.path is None:
            self.blobs._take_memory(grow_to - self.allocated, self.allocated)
            self.allocated = grow_to
            grow_to = 0
        elif grow_to > self.allocated:
            if not self._known:
                grow_to = -(-grow_to // STEP_BYTES) * STEP_BYTES
            more = grow_to - self.allocated
            if not self.blobs._admits_by_ledger(more):
                self.condemn("the store is full")
                self.check_usable()
            self.blobs._reserved += more
            allocated, self.allocated = self.allocated, grow_to
            await trio.to_thread.run_sync(self._append, data, allocated, limiter=self.blobs._writes)
            return
        await trio.to_thread.run_sync(self._append, data, None, limiter=self.blobs._writes)

    def _append(self, data: bytes | memoryview, allocated: int | None) -> None:
        """In a thread. ``allocated`` is what was allocated so far if more is needed now."""
        try:
            if allocated is not None:
                allocate(self._fd, allocated, self.allocated - allocated)
            left, offset = memoryview(data).cast("B"), self._written
            while left:
                count = os.pwrite(self._fd, left, offset)
                left, offset = left[count:], offset + count
        except OSError as error:
            self.condemn(f"writing it failed: {error.strerror}")
            if self.path is not None:
                self.blobs._note_failure(error)
            self._refuse(error)
        for each in self._hashes.values():
            each.update(data)
        # Last, so that a follower who sees the mark finds the bytes.
        self._written = offset

    def _refuse(self, error: OSError) -> NoReturn:
        if self.path is None:
            raise Unavailable(f"The memory for passing files through failed: {error.strerror}", 10) from error
        if error.errno in NO_ROOM:
            raise Unavailable("The disk is full", 10) from error
        raise Unavailable(f"The disk failed: {error.strerror}", 30) from error

    async def discard(self) -> None:
        """Close the descriptor and delete the temporary file. Idempotent; once adopted it only closes: the blob stays."""
        path = self.path if self.adopted is None else None
        fd = self._release()
        if fd < 0:
            return
        # Shielded, since it mostly runs while a flight is being cancelled: one close and one unlink, well under 1 s on a disk
        # that answers at all.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._dispose, fd, path, limiter=self.blobs._writes)

    def _dispose(self, fd: int, path: str | None) -> None:
        close_quietly(fd)
        if path is not None:
            self.blobs._unlink_temporary(path)

    def _release(self) -> int:
        """Give back what the ledgers hold for it, once; the descriptor to close, or -1."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            if self.adopted is not None:
                self.blobs._note_closed(self.adopted.value)
            elif self.path is None:
                self.blobs._in_memory -= self.allocated
            else:
                self.blobs._reserved -= self.allocated
        return fd

    def __del__(self) -> None:
        fd = self._release()
        if fd >= 0:
            close_quietly(fd)
            if self.adopted is None:
                if self.path is not None:
                    self.blobs._unlink_temporary(self.path)
                warnings.warn(f"{self!r} was neither adopted nor discarded", ResourceWarning, stacklevel=1, source=self)


def allocate(fd: int, offset: int, count: int) -> None:
    """Allocate room for bytes to come, so that a full disk shows now. A no-op where the file system cannot."""
    if count > 0:
        try:
            os.posix_fallocate(fd, offset, count)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise


def close_quietly(fd: int) -> None:
    """Close a descriptor whose bytes are no longer needed, or durable already: then a failure is only worth telling."""
    try:
        os.close(fd)
    except OSError as error:
        log.warning("a file of the store was not closed well: %s", error.strerror)


def size_of(path: str) -> int | None:
    """The size of a regular file in bytes, else None."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def is_hex(text: str, length: int) -> bool:
    """Whether ``text`` is lower-case hex of that length."""
    return len(text) == length and not text.strip(HEX)


def scan(path: str) -> list[os.DirEntry[str]]:
    """The entries of a directory, read at once so that it may change while they are looked at."""
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def unused(directory: Path, name: str) -> str:
    """A path in ``directory`` (made if missing) that nothing has yet: ``name``, or ``name.1``, ``name.2``…"""
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    path = directory / name
    for number in itertools.count(1):
        if not os.path.lexists(path):
            break
        path = directory / f"{name}.{number}"
    return os.fspath(path)
