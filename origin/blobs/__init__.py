"""Where verified bytes are kept, named by their SHA-256.

A blob is written as a *spool*: a unique temporary file that readers may follow while it grows. Adopting the spool makes it the
blob: on disk a rename, on S3 an upload. Nothing is ever written under a final name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from ..model import Digest, Span


class Spool(Protocol):
    """Bytes on their way in. Written by one task; followed by many through descriptors of their own."""

    @property
    def written(self) -> int:
        """Bytes written so far: all of them readable from ``fileno()``."""
        ...

    @property
    def durable(self) -> bool:
        """False for a spool held in memory because the disk admits nothing: it can be followed but not adopted."""
        ...

    def fileno(self) -> int:
        """The descriptor, readable and seekable. Followers duplicate it."""
        ...

    async def write(self, data: bytes | memoryview) -> None:
        """Append and hash, in one thread hop. Raises ``Unavailable`` if neither disk nor memory has room left."""
        ...

    def digest(self, algorithm: str) -> Digest:
        """The digest of what was written so far, for SHA-256 and each algorithm named at ``spool()``."""
        ...

    async def discard(self) -> None:
        """Close its descriptor and forget its bytes. Idempotent. To be called once adopted too: then the blob stays."""
        ...


class BlobStore(Protocol):
    """Blobs by digest. Safe to use from many tasks. A store that fails raises ``Unavailable`` from any method, and nothing else."""

    async def spool(self, algorithms: Sequence[str] = (), size: int | None = None) -> Spool:
        """Begin a spool, reserving ``size`` bytes (unknown: in steps). When the disk admits nothing it is held in memory instead.

        Raises ``Unavailable`` when there is room nowhere.
        """
        ...

    async def adopt(self, spool: Spool, digest: Digest) -> None:
        """Make the spool the blob ``digest``, durably: returns only when a crash can no longer lose it.

        Idempotent if the blob exists. Raises ``Corrupt`` if the spool's SHA-256 is not ``digest``, ``Unavailable`` if the disk refuses
        (the spool then stays readable until discarded).
        """
        ...

    def open_nowait(self, digest: Digest) -> Span | None:
        """An open descriptor over the whole blob, or None if it is not here. Quick enough for the event loop (one ``open``)."""
        ...

    async def open(self, digest: Digest) -> Span | None:
        """The same, without blocking the loop even on a slow disk."""
        ...

    async def size(self, digest: Digest) -> int | None:
        """Size in bytes, None if it is not here."""
        ...

    async def delete(self, digest: Digest) -> bool:
        """Remove it; readers that have it open go on. False if it was not here, or is being adopted at this moment: then it stays."""
        ...

    async def verify(self, digest: Digest) -> bool:
        """Hash the blob again; False if missing or different."""
        ...

    async def quarantine(self, digest: Digest) -> None:
        """Take a blob that failed ``verify`` out of service, keeping its bytes aside for people to look at."""
        ...

    def digests(self) -> AsyncIterator[Digest]:
        """All blobs here, in no order."""
        ...

    async def sweep(self) -> int:
        """Delete temporaries that no spool of this process owns; unknown files go to ``lost+found``. Returns how many were removed."""
        ...

    def state(self) -> str:
        """``normal``, ``pressure`` (evict), ``no-admit`` (nothing new is stored) or ``read-only``."""
        ...

    def pressure_bytes(self, more: int = 0) -> int:
        """How many bytes should be evicted now to be back at ``normal`` with ``more`` bytes added; 0 if none."""
        ...
