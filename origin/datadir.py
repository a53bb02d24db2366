"""A node's data directory: made, locked and of a version this Leeward knows, before anything in it is touched.

lock              held with flock for as long as the node runs; says who holds it
version           the number of this layout
blobs/            ``blobs.disk``
catalog.sqlite    ``catalog.sqlite``, with a version of its own
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from .errors import Unusable

LAYOUT = 1
"""Grows when an older Leeward could no longer use the directory. The catalogue's tables have a version of their own."""


class Locked(Unusable):
    """Another process uses the data directory. ``holder`` is its process id, 0 if it left none."""

    def __init__(self, path: Path, holder: int) -> None:
        who = f"process {holder}" if holder else "another process"
        super().__init__(f"The data directory {path} is in use by {who}: stop it first, or name another directory with --data.")
        self.path = path
        self.holder = holder


class DataDirectory:
    """A data directory that is ours until ``close``. Made by ``open``; a context manager."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> Self:
        """Create the directory if missing (mode 0700), lock it, and check or write its version.

        Blocks for a few file operations: for the start of a node, before its loop. Raises ``Locked``, else ``Unusable``.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unusable(
                f"The data directory {path} cannot be used ({error.strerror}): name another one with --data, or correct its owner."
            ) from error
        directory = cls(path, lock)
        try:
            directory._take_lock()
            directory._check_version()
        except BaseException:
            directory.close()
            raise
        return directory

    @property
    def blobs(self) -> Path:
        return self.path / "blobs"

    @property
    def catalog(self) -> Path:
        return self.path / "catalog.sqlite"

    def close(self) -> None:
        """Let go of the lock. Idempotent."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<DataDirectory {self.path}{' closed' if self._lock < 0 else ''}>"

    def _take_lock(self) -> None:
        # The lock belongs to the open file, so the kernel lets go of it however the process ends; the file itself always stays:
        # deleting it would let two processes each lock a file of that name.
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 20, 0).strip()
            raise Locked(self.path, int(holder) if holder.isdigit() else 0) from None
        except OSError as error:
            raise Unusable(
                f"The data directory {self.path} cannot be locked ({error.strerror}): use a local file system."
            ) from error
        # Only for the message above: a full disk must not keep a node from starting.
        with contextlib.suppress(OSError):
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, b"%d\n" % os.getpid(), 0)

    def _check_version(self) -> None:
        try:
            text = (self.path / "version").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            self._write_version()
            return
        except (OSError, UnicodeDecodeError) as error:
            raise Unusable(f"The data directory's version file {self.path / 'version'} cannot be read: {error}.") from error
        if not (text.isdecimal() and 0 < len(text) < 10):
            raise Unusable(
                f"The data directory's version file {self.path / 'version'} holds no number but {text[:32]!r}: restore it."
            )
        if int(text) > LAYOUT:
            raise Unusable(
                f"The data directory {self.path} was written by a newer Leeward (layout {int(text)}; this one knows up to {LAYOUT}):"
                " start that version, or name another directory with --data."
            )

    def _write_version(self) -> None:
        """Durably, and whole or not at all."""
        try:
            place(self.path / "version", f"{LAYOUT}\n".encode("ascii"), 0o600)
        except OSError as error:
            raise Unusable(f"The data directory {self.path} cannot be written to ({error.strerror}): check the disk.") from error


def place(path: Path, content: bytes, mode: int) -> None:
    """Put ``content`` at ``path``, whole or not at all, and on the disk before it is seen. Raises ``OSError``."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    sync_directory(path.parent)


def sync_directory(path: str | Path) -> None:
    """Have the names in a directory on the disk. Raises ``OSError``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
