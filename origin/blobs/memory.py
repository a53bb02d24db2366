"""Blobs in memory files: a small real store for tests, which passes the same suite as the one on disk."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence

import trio

from ..errors import Corrupt, Unavailable
from ..model import Digest, Span
from . import Spool
from .disk import Hasher, hasher


class MemoryBlobs:
    """A ``BlobStore`` that forgets everything at ``close``. ``limit_bytes`` bounds blobs and spools together; None: nothing does."""

    def __init__(self, limit_bytes: int | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.quarantined: set[Digest] = set()
        self._files: dict[Digest, int] = {}
        self._used = 0

    async def spool(self, algorithms: Sequence[str] = (), size: int | None = None) -> Spool:
        hashes = {algorithm: hasher(algorithm) for algorithm in ("sha256", *algorithms)}
        await trio.lowlevel.checkpoint()
        self.take(size or 0)
        return MemorySpool(self, hashes, size or 0)

    def take(self, count: int) -> None:
        """Account for bytes to come; raises ``Unavailable`` beyond the limit."""
        if self.limit_bytes is not None and self._used + count > self.limit_bytes:
            raise Unavailable("The store is full", 10)
        self._used += count

    def give_back(self, count: int) -> None:
        """Undo ``take``."""
        self._used -= count

    async def adopt(self, spool: Spool, digest: Digest) -> None:
        await trio.lowlevel.checkpoint()
        actual = spool.digest("sha256")
        if actual != digest:
            raise Corrupt(f"What arrived is {actual}, not {digest}", digest, actual)
        if digest not in self._files:
            self._files[digest] = os.dup(spool.fileno())
            os.ftruncate(self._files[digest], spool.written)
            self._used += spool.written

    def open_nowait(self, digest: Digest) -> Span | None:
        fd = self._files.get(digest)
        return None if fd is None else Span(os.dup(fd), 0, os.fstat(fd).st_size)

    async def open(self, digest: Digest) -> Span | None:
        await trio.lowlevel.checkpoint()
        return self.open_nowait(digest)

    async def size(self, digest: Digest) -> int | None:
        await trio.lowlevel.checkpoint()
        fd = self._files.get(digest)
        return None if fd is None else os.fstat(fd).st_size

    async def delete(self, digest: Digest) -> bool:
        await trio.lowlevel.checkpoint()
        fd = self._files.pop(digest, None)
        if fd is None:
            return False
        self._used -= os.fstat(fd).st_size
        os.close(fd)
        return True

    async def verify(self, digest: Digest) -> bool:
        await trio.lowlevel.checkpoint()
        fd = self._files.get(digest)
        if fd is None:
            return False
        actual = hasher("sha256")
        actual.update(os.pread(fd, os.fstat(fd).st_size, 0))
        return actual.hexdigest() == digest.value

    async def quarantine(self, digest: Digest) -> None:
        if await self.delete(digest):
            self.quarantined.add(digest)

    async def digests(self) -> AsyncIterator[Digest]:
        for digest in list(self._files):
            await trio.lowlevel.checkpoint()
            yield digest

    async def sweep(self) -> int:
        await trio.lowlevel.checkpoint()
        return 0

    def state(self) -> str:
        if self.limit_bytes is None or self._used <= 0.95 * self.limit_bytes:
            return "normal"
        return "pressure" if self._used < self.limit_bytes else "no-admit"

    def pressure_bytes(self, more: int = 0) -> int:
        if self.limit_bytes is None or self._used + more <= 0.95 * self.limit_bytes:
            return 0
        return min(self._used + more - int(0.9 * self.limit_bytes), sum(os.fstat(fd).st_size for fd in self._files.values()))

    def close(self) -> None:
        """Forget everything. Idempotent."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        self.close()


class MemorySpool:
    """A ``Spool`` of ``MemoryBlobs``."""

    durable = True

    def __init__(self, blobs: MemoryBlobs, hashes: dict[str, Hasher], reserved: int) -> None:
        self._blobs = blobs
        self._hashes = hashes
        self._reserved = reserved
        self._fd = os.memfd_create("spool", os.MFD_CLOEXEC)
        self._written = 0

    @property
    def written(self) -> int:
        return self._written

    def fileno(self) -> int:
        if self._fd < 0:
            raise ValueError("the spool is closed")
        return self._fd

    async def write(self, data: bytes | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        more = self._written + len(data) - self._reserved
        if more > 0:
            self._blobs.take(more)
            self._reserved += more
        left = memoryview(data)
        while left:
            count = os.pwrite(self.fileno(), left, self._written)
            self._hashes_update(left[:count])
            left = left[count:]
            self._written += count

    def _hashes_update(self, data: memoryview) -> None:
        for each in self._hashes.values():
            each.update(data)

    def digest(self, algorithm: str) -> Digest:
        return Digest(algorithm, self._hashes[algorithm].hexdigest())

    async def discard(self) -> None:
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            self._blobs.give_back(self._reserved)

    def __del__(self) -> None:
        self._close()
