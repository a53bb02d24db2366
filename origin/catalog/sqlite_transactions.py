"""How statements reach SQLite: connections, threads, and transactions that many writes share.

Reads take one of a few connections and never wait for the writer. Writes share one connection and *group commit*: whoever's turn it is
commits all that is waiting in one transaction, each write in a savepoint of its own, so that two hundred files bound at once cost a few
syncs rather than two hundred and one ``Rebound`` undoes nobody else's work. ``synchronous=FULL`` makes the commit durable before anybody is
told.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from queue import SimpleQueue
from typing import Self

import trio

from ..errors import Rebound, Unavailable, Unusable

log = logging.getLogger(__name__)

APPLICATION_ID = 0x4C656577
"""Marks the file as ours (``Leew``), so that somebody else's database is refused, not migrated."""

READERS = 4
BUSY_TIMEOUT_S = 5.0
BATCH = 256
"""The most writes committed together."""

TRIM_ROWS = 10_000
"""The most rows deleted in one transaction, so that trimming does not hold up the writes of requests."""

QUICK_CHECK_BYTES = 256 << 20
"""Databases up to this size are read through when opened, about half a second; of larger ones only the schema is."""


class Write[T]:
    """A write that waits for its turn, and what became of it."""

    __slots__ = ("abandoned", "done", "error", "operation", "result", "tells")

    def __init__(self, operation: Callable[[sqlite3.Connection], T], tells: bool) -> None:
        self.operation = operation
        self.tells = tells
        self.done = False
        self.abandoned = False
        self.result: T | None = None
        self.error: Exception | None = None


class Transactions:
    """The connections to one file, and the two ways to use them: ``_read`` and ``_write``.

    ``on_change``, if set, is called in the event loop after each commit of writes that may have added lines to the ledger.
    """

    def __init__(
        self, path: Path, writer: sqlite3.Connection, readers: Sequence[sqlite3.Connection], *, keeps_ledger: bool = False
    ) -> None:
        self.path = path
        self.keeps_ledger = keeps_ledger
        self.on_change: Callable[[], None] | None = None
        self._writer = writer
        self._readers: SimpleQueue[sqlite3.Connection | None] = SimpleQueue()
        for reader in readers:
            self._readers.put(reader)
        self._queue: deque[Write[object]] = deque()
        self._turn = trio.Lock()
        self._writing = trio.CapacityLimiter(1)
        self._reading = trio.CapacityLimiter(len(readers))
        self._packing = trio.CapacityLimiter(2)
        self._copying = trio.CapacityLimiter(1)
        self._closed = False

    @classmethod
    async def open(cls, path: Path, *, keeps_ledger: bool = False) -> Self:
        """Open or create the catalogue at ``path``, migrating one by an older Leeward.

        ``keeps_ledger`` is for an origin: no line is ever trimmed, whoever asks, since its chain is verified from the beginning.

        Raises ``Unusable`` for a file that is damaged, no catalogue, or by a newer Leeward. Nothing is ever made anew over it.
        """
        return cls(path, *await trio.to_thread.run_sync(open_connections, path), keeps_ledger=keeps_ledger)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path} {len(self._queue)} writes waiting>"

    async def close(self) -> None:
        """Wait for what is running, fold the log into the file, close. Idempotent."""
        if self._closed:
            return
        self._closed = True
        # Shielded, since it mostly runs while a node is being cancelled: the transaction under way and one checkpoint, whose log is
        # kept near 4 MB by the automatic ones. Under 6 s, of which BUSY_TIMEOUT_S only if somebody else has the file open.
        with trio.CancelScope(shield=True):
            async with self._turn:
                await trio.to_thread.run_sync(self._close, limiter=self._writing)

    def _close(self) -> None:
        readers = [self._readers.get() for _ in range(int(self._reading.total_tokens))]
        # For threads that found the catalogue open a moment ago and now wait for a connection: they pass it on to each other.
        self._readers.put(None)
        try:
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            # The log is replayed at the next open: nothing is lost.
            log.warning("the catalogue's log could not be folded in: %s", error)
        for connection in filter(None, (*readers, self._writer)):
            try:
                connection.close()
            except sqlite3.Error as error:
                log.warning("the catalogue was not closed well: %s", error)

    # ---- transactions

    async def _read[T](self, operation: Callable[[sqlite3.Connection], T]) -> T:
        self._check_open()
        return await trio.to_thread.run_sync(self._read_in_thread, operation, limiter=self._reading)

    def _read_in_thread[T](self, operation: Callable[[sqlite3.Connection], T]) -> T:
        # Waits only for ``close``: there are connections for all that are allowed in.
        self._check_open()
        connection = self._readers.get()
        if connection is None:
            self._readers.put(None)
            raise Unavailable("the catalogue is closed", 1)
        try:
            return operation(connection)
        except Exception as error:
            raise translated(error) from error
        finally:
            self._readers.put(connection)

    async def _write[T](self, operation: Callable[[sqlite3.Connection], T], *, tells: bool = False) -> T:
        """Run a write in a transaction shared with others that wait; returns once it is durable. A cancelled one may have happened.

        ``tells`` is for one that may add lines to the ledger.
        """
        self._check_open()
        write = Write(operation, tells)
        self._queue.append(write)  # type: ignore[arg-type]  # each result goes back only to the caller whose type it has
        try:
            # The lock is fair: whoever gets it next finds its write done by the one before, or commits all that waits by now.
            while not write.done:
                async with self._turn:
                    if not write.done:
                        self._check_open()
                        await self._commit()
        finally:
            write.abandoned = True
        if write.error is not None:
            raise write.error
        return write.result  # type: ignore[return-value]  # set, since there is no error

    async def _commit(self) -> None:
        # Whoever is cancelled while its thread runs still comes back here once the thread has ended: nobody misses the news.
        if await trio.to_thread.run_sync(self._commit_waiting, limiter=self._writing) and self.on_change is not None:
            self.on_change()

    def _commit_waiting(self) -> bool:
        """In a thread; whether lines may have been added to the ledger. The queue is emptied here rather than by the caller, who may be
        cancelled before the thread begins.
        """
        batch: list[Write[object]] = []
        while self._queue and len(batch) < BATCH:
            write = self._queue.popleft()
            if not write.abandoned:
                batch.append(write)
        if not batch:
            return False
        connection = self._writer
        try:
            if connection.in_transaction:
                # The last one failed, and could not be undone then.
                connection.execute("ROLLBACK")
            connection.execute("BEGIN IMMEDIATE")
            for write in batch:
                self._run(connection, write)
            connection.execute("COMMIT")
        except BaseException as error:
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            failure = translated(error) if isinstance(error, sqlite3.Error) else Unavailable("The catalogue failed", 30)
            for write in batch:
                write.error = failure
            if not isinstance(error, sqlite3.Error):
                raise
        finally:
            for write in batch:
                write.done = True
        return any(write.tells and write.error is None for write in batch)

    def _run(self, connection: sqlite3.Connection, write: Write[object]) -> None:
        connection.execute("SAVEPOINT one")
        try:
            write.result = write.operation(connection)
        except Exception as error:
            write.error = translated(error)
            if not connection.in_transaction:
                # SQLite itself gave up the whole transaction (full disk, I/O error): so must everybody in it.
                raise
            connection.execute("ROLLBACK TO one")
        connection.execute("RELEASE one")

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("The catalogue is closed")

    async def _until_none_is_left(self, write: Callable[[sqlite3.Connection, int], int]) -> int:
        """Run a write that deletes at most as many rows as it is told until it finds nothing; returns how many went."""
        gone = 0
        while count := await self._write(lambda connection: write(connection, TRIM_ROWS)):
            gone += count
            if count < TRIM_ROWS:
                break
        return gone


def open_connections(path: Path) -> tuple[sqlite3.Connection, list[sqlite3.Connection]]:
    """In a thread: the writer and the readers of a catalogue that is known to be ours, whole and of this version."""
    connections: list[sqlite3.Connection] = []
    try:
        connections.append(connect(path))
        prepare(connections[0], path)
        for _ in range(READERS):
            connections.append(connect(path))
            connections[-1].execute("PRAGMA query_only = ON").close()
    except BaseException as error:
        for connection in connections:
            connection.close()
        if isinstance(error, sqlite3.Error | OSError):
            raise Unusable(unusable(path, error)) from error
        raise
    return connections[0], connections[1:]


def connect(path: Path) -> sqlite3.Connection:
    # Used from many threads, one at a time; transactions are begun by hand.
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.executescript("PRAGMA synchronous = FULL; PRAGMA cell_size_check = ON; PRAGMA journal_size_limit = 67108864;")
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Check whose and how whole the file is, then bring it to the newest version."""
    steps = migrations()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise Unusable(
            f"{path} is a database, but no catalogue of Leeward's: name another data directory, or move the file away."
        )
    if version > len(steps):
        raise Unusable(
            f"{path} was written by a newer Leeward (catalogue version {version}; this one knows up to {len(steps)}):"
            " start that version, or name another data directory."
        )
    if path.stat().st_size <= QUICK_CHECK_BYTES:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
    connection.execute("PRAGMA journal_mode = WAL").fetchone()
    for number, statements in enumerate(steps[version:], version + 1):
        # The version changes in the same transaction: a crash leaves all of a step or nothing.
        connection.executescript(
            f"BEGIN IMMEDIATE; {statements}\nPRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number}; COMMIT;"
        )


def migrations() -> list[str]:
    """The SQL of each step from an empty file to the newest version, in order of the number their file names begin with."""
    found = sorted(
        (each.name, each) for each in resources.files(__package__).joinpath("migrations").iterdir() if each.name[:1].isdigit()
    )
    assert [int(name[:4]) for name, _ in found] == list(range(1, len(found) + 1))
    return [each.read_text(encoding="utf-8") for _, each in found]


def unusable(path: Path, error: sqlite3.Error | OSError) -> str:
    """One sentence for the operator."""
    if code_of(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"{path} is in use by another process: stop it first."
    if isinstance(error, OSError) or code_of(error) in (
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_FULL,
    ):
        return f"{path} cannot be opened for writing ({error}): check its owner, its mode and the room left on the disk."
    return (
        f"{path} is damaged ({error}): restore it from a backup, or move it and its -wal and -shm files away to begin with an empty"
        " catalogue; stored files are kept, but what they were bound to is fetched again."
    )


def translated(error: Exception) -> Exception:
    """What a failure in a transaction means to callers: ``Unavailable``, but for ``Rebound``. A statement that failed changed nothing."""
    if isinstance(error, Rebound | Unavailable):
        return error
    code = code_of(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable("The catalogue is in use by another process", 1)
    if code == sqlite3.SQLITE_FULL:
        return Unavailable("The disk has no room for the catalogue", 10)
    # With its traceback: a disk that fails, a damaged row, or a mistake of ours, which must not end the node either.
    log.error("the catalogue failed: %s", error, exc_info=error)
    return Unavailable(f"The catalogue failed: {error}", 30)


def code_of(error: Exception) -> int:
    """SQLite's primary result code; 0 for an error of the Python module's own."""
    code: int = getattr(error, "sqlite_errorcode", 0) or 0
    return code & 0xFF
