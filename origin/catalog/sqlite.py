"""The catalogue in one SQLite file, in WAL mode: the default, enough for a node of any size that is one process.

Every statement runs in a worker thread. Reads take one of a few connections and never wait for the writer. Writes share one
connection and *group commit*: whoever's turn it is commits all that is waiting in one transaction, each write in a savepoint of its
own, so that two hundred files bound at once cost a few syncs rather than two hundred and one ``Rebound`` undoes nobody else's
work. ``synchronous=FULL`` makes the commit durable before anybody is told.

Documents are one zstd frame each, made and undone in threads too; zstandard lets go of the GIL, so that the ten megabytes of a
20,000-file page do not stall the loop.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from queue import SimpleQueue
from typing import Self

import msgspec
import trio

from ..errors import Rebound, Unavailable, Unusable
from ..model import Change, Digest, File, Page, Stamp, Verdict
from . import ABSENT, Access, Binding, Event, StoredAnswer
from .packing import packed, unpacked

log = logging.getLogger(__name__)

APPLICATION_ID = 0x4C656577
"""Marks the file as ours (``Leew``), so that somebody else's database is refused, not migrated."""

READERS = 4
BUSY_TIMEOUT_S = 5.0
BATCH = 256
"""The most writes committed together."""

TRIM_ROWS = 10_000
"""The most rows deleted in one transaction, so that trimming does not hold up the writes of requests."""

EVENTS_KEPT = 100_000
VICTIMS = 10_000
"""The most holdings named at a time; a caller that needs more asks again."""

QUICK_CHECK_BYTES = 256 << 20
"""Databases up to this size are read through when opened, about half a second; of larger ones only the schema is."""

SELECT_BINDINGS = (
    "SELECT registry, project, version, filename, path, digest, size, bound_at, aliases, media_type, last_modified FROM bindings"
)

NEVER = float("-inf")

_verdicts: msgspec.json.Decoder[Verdict] = msgspec.json.Decoder(Verdict)


class Write[T]:
    """A write that waits for its turn, and what became of it."""

    __slots__ = ("abandoned", "done", "error", "operation", "result")

    def __init__(self, operation: Callable[[sqlite3.Connection], T]) -> None:
        self.operation = operation
        self.done = False
        self.abandoned = False
        self.result: T | None = None
        self.error: Exception | None = None


class SqliteCatalog:
    """A ``Catalog`` in the file it was opened on. Made by ``open``; closed by ``close``."""

    def __init__(self, path: Path, writer: sqlite3.Connection, readers: Sequence[sqlite3.Connection]) -> None:
        self.path = path
        self._writer = writer
        self._readers: SimpleQueue[sqlite3.Connection | None] = SimpleQueue()
        for reader in readers:
            self._readers.put(reader)
        self._queue: deque[Write[object]] = deque()
        self._turn = trio.Lock()
        self._writing = trio.CapacityLimiter(1)
        self._reading = trio.CapacityLimiter(len(readers))
        self._packing = trio.CapacityLimiter(2)
        self._closed = False

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open or create the catalogue at ``path``, migrating one by an older Leeward.

        Raises ``Unusable`` for a file that is damaged, no catalogue, or by a newer Leeward. Nothing is ever made anew over it.
        """
        return cls(path, *await trio.to_thread.run_sync(open_connections, path))

    def __repr__(self) -> str:
        return f"<SqliteCatalog {self.path} {len(self._queue)} writes waiting>"

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

    async def _write[T](self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run a write in a transaction shared with others that wait; returns once it is durable. A cancelled one may have happened."""
        self._check_open()
        write = Write(operation)
        self._queue.append(write)  # type: ignore[arg-type]  # each result goes back only to the caller whose type it has
        try:
            # The lock is fair: whoever gets it next finds its write done by the one before, or commits all that waits by now.
            while not write.done:
                async with self._turn:
                    if not write.done:
                        self._check_open()
                        await trio.to_thread.run_sync(self._commit_waiting, limiter=self._writing)
        finally:
            write.abandoned = True
        if write.error is not None:
            raise write.error
        return write.result  # type: ignore[return-value]  # set, since there is no error

    def _commit_waiting(self) -> None:
        """In a thread. The queue is emptied here rather than by the caller, who may be cancelled before the thread begins."""
        batch: list[Write[object]] = []
        while self._queue and len(batch) < BATCH:
            write = self._queue.popleft()
            if not write.abandoned:
                batch.append(write)
        if not batch:
            return
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

    # ---- pages

    async def answer(self, page: Page) -> StoredAnswer | None:
        """What is held of a page, its document unpacked; None too for one that is damaged."""

        def read(connection: sqlite3.Connection) -> StoredAnswer | None:
            row = connection.execute(
                "SELECT status, document, media_type, fresh_until, stale_until, revision, received_at, etag, last_modified, serial,"
                " vanishing_since FROM answers WHERE key = ?",
                (page.key,),
            ).fetchone()
            if row is None:
                return None
            status, stored, media_type, fresh_until, stale_until, revision, *rest = row
            document = unpacked(stored)
            if document is None:
                log.warning("the stored page %s is damaged: it counts as not held until it is fetched again", page.key)
                return None
            return StoredAnswer(page, status, document, media_type, Stamp(fresh_until, stale_until, revision), *rest)

        return await self._read(read)

    async def publish(self, answer: StoredAnswer) -> int:
        """Store an answer and its feed line, unless it is an absence known already; returns its revision."""
        page, stamp = answer.page, answer.stamp
        document = await trio.to_thread.run_sync(packed, answer.document, limiter=self._packing)
        validators = (answer.etag, answer.last_modified, answer.serial)
        rest = (answer.received_at, answer.media_type, *validators, answer.vanishing_since, document)

        def write(connection: sqlite3.Connection) -> int:
            last = connection.execute("SELECT status, revision FROM answers WHERE key = ?", (page.key,)).fetchone()
            if last is None:
                last = (None, *connection.execute("SELECT revision FROM trimmed").fetchone())
            news = last[0] != answer.status or answer.status not in ABSENT
            revision = int(last[1]) + news
            connection.execute(
                "INSERT INTO answers (key, registry, project, view, status, revision, fresh_until, stale_until, received_at, media_type,"
                " etag, last_modified, serial, vanishing_since, document) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (key) DO UPDATE SET status = excluded.status, revision = excluded.revision,"
                " fresh_until = excluded.fresh_until, stale_until = excluded.stale_until, received_at = excluded.received_at,"
                " media_type = excluded.media_type, etag = excluded.etag, last_modified = excluded.last_modified,"
                " serial = excluded.serial, vanishing_since = excluded.vanishing_since, document = excluded.document",
                (
                    page.key, page.registry, page.project, page.view, answer.status, revision, stamp.fresh_until, stamp.stale_until,
                    *rest,
                ),
            )  # fmt: skip
            if news:
                add_change(connection, page.key)
            return revision

        return await self._write(write)

    async def renew(self, page: Page, stamp: Stamp, received_at: float) -> None:
        """Extend a held answer (a 304)."""
        await self._write(
            lambda connection: connection.execute(
                "UPDATE answers SET fresh_until = ?, stale_until = ?, received_at = ? WHERE key = ?",
                (stamp.fresh_until, stamp.stale_until, received_at, page.key),
            ).close()
        )

    async def expire(self, registry: str, project: str, views: str = "") -> int:
        """Make every page of a project, whose view begins with ``views``, stale at once; returns how many were held."""
        return await self._write(
            lambda connection: (
                connection.execute(
                    "UPDATE answers SET fresh_until = min(fresh_until, 0) WHERE registry = ? AND project = ?"
                    " AND substr(view, 1, length(?3)) = ?3",
                    (registry, project, views),
                ).rowcount
            )
        )

    async def views(self, registry: str, project: str) -> Sequence[Page]:
        """Every page held of a project, absences too, sorted by view."""
        return await self._read(
            lambda connection: [
                Page(registry, project, view)
                for (view,) in connection.execute(
                    "SELECT view FROM answers WHERE registry = ? AND project = ? ORDER BY view", (registry, project)
                )
            ]
        )

    async def trim_absences(self, before: float, keep: int) -> int:
        """Forget absences received before ``before`` (UTC seconds) and all but the newest ``keep``; returns how many went."""

        # The condition is word for word that of an index, which is used only then.
        def read(connection: sqlite3.Connection) -> tuple[float, str] | None:
            newest_to_go: tuple[float, str] | None = connection.execute(
                "SELECT received_at, key FROM answers WHERE status IN (404, 410) ORDER BY received_at DESC, key DESC LIMIT 1 OFFSET ?",
                (keep,),
            ).fetchone()
            return newest_to_go

        def write(connection: sqlite3.Connection) -> int:
            # What was received again meanwhile is later than the cut.
            revisions = connection.execute(
                "DELETE FROM answers WHERE key IN (SELECT key FROM answers WHERE status IN (404, 410)"
                " AND (received_at < ?1 OR (received_at, key) <= (?2, ?3)) ORDER BY received_at, key LIMIT ?4) RETURNING revision",
                (before, *cut, TRIM_ROWS),
            ).fetchall()
            if revisions:
                # A page that comes back is numbered beyond all that went: nobody may take it for what it was.
                connection.execute("UPDATE trimmed SET revision = max(revision, ?)", max(revisions))
            return len(revisions)

        cut = await self._read(read) or (NEVER, "")
        return await self._until_none_is_left(write)

    async def projects(self, registry: str) -> Sequence[str]:
        """The projects whose listing is held with status 200, sorted."""
        return await self._read(
            lambda connection: [
                project
                for (project,) in connection.execute(
                    "SELECT project FROM answers WHERE registry = ? AND view = '' AND status = 200 ORDER BY project", (registry,)
                )
            ]
        )

    # ---- owners

    async def record_owners(self, registry: str, owners: Mapping[str, tuple[str, str]]) -> None:
        """Record ``path -> (project, version)``. What is known already is not written again."""
        rows = [(registry, path, project, version) for path, (project, version) in owners.items()]
        await self._write(
            lambda connection: connection.executemany(
                "INSERT INTO owners VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET project = excluded.project,"
                " version = excluded.version WHERE project != excluded.project OR version != excluded.version",
                rows,
            ).close()
        )

    async def owner(self, registry: str, path: str) -> tuple[str, str] | None:
        """The ``(project, version)`` recorded for a path."""
        row: tuple[str, str] | None = await self._read(
            lambda connection: connection.execute(
                "SELECT project, version FROM owners WHERE registry = ? AND path = ?", (registry, path)
            ).fetchone()
        )
        return row

    # ---- bindings and holdings

    async def bind(self, binding: Binding) -> None:
        """Bind a name, hold its blob and write the feed line, in one transaction."""
        file, name = binding.file, binding.file.key
        words = (file.registry, file.project, file.version, file.filename, file.path)
        aliases = " ".join(map(str, binding.aliases))

        def write(connection: sqlite3.Connection) -> None:
            row = connection.execute("SELECT digest FROM bindings WHERE name = ?", (name,)).fetchone()
            if row is None:
                connection.execute(
                    "INSERT INTO bindings (name, registry, project, version, filename, path, digest, size, bound_at, media_type, aliases,"
                    " last_modified) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        name,
                        *words,
                        str(binding.digest),
                        binding.size,
                        binding.bound_at,
                        binding.media_type,
                        aliases,
                        binding.last_modified,
                    ),
                )
                add_change(connection, name, binding.digest)
            elif (bound := digest_of(row[0])) != binding.digest:
                raise Rebound(name, bound, binding.digest)
            connection.execute(
                "INSERT INTO holdings (digest, size, used_at) VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET size = excluded.size, used_at = max(used_at, excluded.used_at)",
                (str(binding.digest), binding.size, binding.bound_at),
            )

        await self._write(write)

    async def binding(self, file: File) -> Binding | None:
        """What a file's name is bound to."""
        found = await self._bindings(f"{SELECT_BINDINGS} WHERE name = ?", (file.key,))
        return found[0] if found else None

    async def bindings(self, registry: str, project: str) -> Sequence[Binding]:
        """All bindings of a project, by name."""
        return await self._bindings(f"{SELECT_BINDINGS} WHERE registry = ? AND project = ? ORDER BY name", (registry, project))

    async def _bindings(self, query: str, values: tuple[str, ...]) -> list[Binding]:
        return await self._read(
            lambda connection: [
                Binding(
                    File(registry, project, version, filename, path),
                    digest_of(digest),
                    size,
                    bound_at,
                    tuple(map(digest_of, aliases.split())),
                    *rest,
                )
                for registry, project, version, filename, path, digest, size, bound_at, aliases, *rest in connection.execute(
                    query, values
                )
            ]
        )

    async def held(self, digest: Digest) -> int | None:
        """The size of a held blob in bytes."""
        row = await self._read(
            lambda connection: connection.execute("SELECT size FROM holdings WHERE digest = ?", (str(digest),)).fetchone()
        )
        return None if row is None else int(row[0])

    async def touch(self, used: Mapping[Digest, float]) -> None:
        """Note last uses; one that is older than what is known changes nothing."""
        rows = [(at, str(digest), at) for digest, at in used.items()]
        await self._write(
            lambda connection: connection.executemany(
                "UPDATE holdings SET used_at = ? WHERE digest = ? AND used_at < ?", rows
            ).close()
        )

    async def pin(self, digest: Digest, pinned: bool = True) -> None:
        """Keep a held blob from eviction, or no longer. A no-op if it is not held."""
        await self._write(
            lambda connection: connection.execute(
                "UPDATE holdings SET pinned = ? WHERE digest = ?", (pinned, str(digest))
            ).close()
        )

    async def victims(self, need_bytes: int) -> Sequence[tuple[Digest, int]]:
        """The least recently used holdings, enough to free ``need_bytes``, at most ``VICTIMS``; pinned ones apart."""

        def read(connection: sqlite3.Connection) -> list[tuple[Digest, int]]:
            found: list[tuple[Digest, int]] = []
            left = need_bytes
            rows = connection.execute(
                "SELECT digest, size FROM holdings WHERE pinned = 0 ORDER BY used_at, digest LIMIT ?", (VICTIMS,)
            )
            for digest, size in rows:
                if left <= 0:
                    break
                found.append((digest_of(digest), size))
                left -= size
            # An unfinished read would keep the log from being folded in.
            rows.close()
            return found

        return await self._read(read)

    async def drop(self, digest: Digest) -> None:
        """The blob is no longer here. Bindings stay."""
        await self._write(lambda connection: connection.execute("DELETE FROM holdings WHERE digest = ?", (str(digest),)).close())

    async def holdings(self) -> Sequence[tuple[Digest, int]]:
        """All held blobs with their sizes."""
        return await self._read(
            lambda connection: [
                (digest_of(digest), size) for digest, size in connection.execute("SELECT digest, size FROM holdings")
            ]
        )

    async def held_bytes(self) -> int:
        """The sum of the sizes of all held blobs."""
        return await self._read(
            lambda connection: int(connection.execute("SELECT coalesce(sum(size), 0) FROM holdings").fetchone()[0])
        )

    # ---- feed, events, access, memory

    async def changes(self, after: int, limit: int = 1000) -> Sequence[Change]:
        """The lines of the feed beyond serial ``after``, oldest first."""
        return await self._read(
            lambda connection: [
                Change(serial, resource, digest and digest_of(digest), verdict and _verdicts.decode(verdict))
                for serial, resource, digest, verdict in connection.execute(
                    "SELECT serial, resource, digest, verdict FROM changes WHERE serial > ? ORDER BY serial LIMIT ?",
                    (after, limit),
                )
            ]
        )

    async def oldest_change(self) -> int:
        """The serial of the oldest line kept; of the first to come if there is none."""
        return await self._read(
            lambda connection: int(connection.execute("SELECT coalesce(min(serial), 1) FROM changes").fetchone()[0])
        )

    async def trim_changes(self, keep: int) -> int:
        """Forget all lines of the feed but the newest ``keep``, and never the last one; returns how many went."""

        def write(connection: sqlite3.Connection) -> int:
            return connection.execute(
                "DELETE FROM changes WHERE serial IN (SELECT serial FROM changes WHERE serial <= ? ORDER BY serial LIMIT ?)",
                (newest - max(1, keep), TRIM_ROWS),
            ).rowcount

        # Read once: lines that come while this runs are kept on top of ``keep``.
        newest = await self._read(
            lambda connection: int(connection.execute("SELECT coalesce(max(serial), 0) FROM changes").fetchone()[0])
        )
        return await self._until_none_is_left(write)

    async def record_event(self, event: Event) -> None:
        """Keep an event; the newest ``EVENTS_KEPT`` stay."""

        def write(connection: sqlite3.Connection) -> None:
            newest = connection.execute(
                "INSERT INTO events (at, kind, subject, detail) VALUES (?, ?, ?, ?)",
                (event.at, event.kind, event.subject, event.detail),
            ).lastrowid
            assert newest is not None
            connection.execute("DELETE FROM events WHERE id <= ?", (newest - EVENTS_KEPT,))

        await self._write(write)

    async def events(self, limit: int = 100, subject: str | None = None) -> Sequence[Event]:
        """Newest first."""
        query = "SELECT at, kind, subject, detail FROM events ORDER BY id DESC LIMIT ?2"
        if subject is not None:
            query = "SELECT at, kind, subject, detail FROM events WHERE subject = ?1 ORDER BY id DESC LIMIT ?2"
        return await self._read(lambda connection: [Event(*row) for row in connection.execute(query, (subject, limit))])

    async def record_accesses(self, batch: Iterable[Access]) -> None:
        """Keep who fetched what."""
        rows = [(each.at, each.file, each.digest, each.client, each.token, each.sent, each.complete) for each in batch]
        await self._write(
            lambda connection: connection.executemany(
                "INSERT INTO accesses (at, file, digest, client, token, sent, complete) VALUES (?, ?, ?, ?, ?, ?, ?)", rows
            ).close()
        )

    async def accesses(self, file: str | None = None, limit: int = 100) -> Sequence[Access]:
        """Newest first."""
        query = "SELECT at, file, digest, client, token, sent, complete FROM accesses ORDER BY id DESC LIMIT ?2"
        if file is not None:
            query = (
                "SELECT at, file, digest, client, token, sent, complete FROM accesses WHERE file = ?1 ORDER BY id DESC LIMIT ?2"
            )
        return await self._read(
            lambda connection: [
                Access(at, name, digest, client, token, sent, bool(complete))
                for at, name, digest, client, token, sent, complete in connection.execute(query, (file, limit))
            ]
        )

    async def trim_accesses(self, before: float, keep: int) -> int:
        """Forget access records made before ``before`` (UTC seconds) and all but the newest ``keep``; returns how many went."""

        def read(connection: sqlite3.Connection) -> int:
            # Records come in order of time, near enough: the first that is recent ends the old ones without a scan of the rest.
            (newest,) = connection.execute("SELECT coalesce(max(id), 0) FROM accesses").fetchone()
            recent = connection.execute("SELECT id FROM accesses WHERE at >= ? ORDER BY id LIMIT 1", (before,)).fetchone()
            return int(max(newest - keep + 1, newest + 1 if recent is None else recent[0]))

        def write(connection: sqlite3.Connection) -> int:
            return connection.execute(
                "DELETE FROM accesses WHERE id IN (SELECT id FROM accesses WHERE id < ? ORDER BY id LIMIT ?)", (cut, TRIM_ROWS)
            ).rowcount

        cut = await self._read(read)
        return await self._until_none_is_left(write)

    async def _until_none_is_left(self, write: Callable[[sqlite3.Connection], int]) -> int:
        """Run a write that deletes at most ``TRIM_ROWS`` until it finds nothing; returns how many went."""
        gone = 0
        while count := await self._write(write):
            gone += count
            if count < TRIM_ROWS:
                break
        return gone

    async def remember(self, key: str, value: str) -> None:
        """Keep a small fact over restarts."""
        await self._write(
            lambda connection: connection.execute(
                "INSERT INTO memory VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", (key, value)
            ).close()
        )

    async def recall(self, key: str) -> str | None:
        """A fact remembered, None if there is none."""
        row = await self._read(lambda connection: connection.execute("SELECT value FROM memory WHERE key = ?", (key,)).fetchone())
        return None if row is None else str(row[0])


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


def add_change(
    connection: sqlite3.Connection, resource: str, digest: Digest | None = None, verdict: Verdict | None = None
) -> None:
    """Write a line of the feed. Its serial is one more than the last: an undone transaction gives its serials back."""
    connection.execute(
        "INSERT INTO changes (resource, digest, verdict) VALUES (?, ?, ?)",
        (resource, digest and str(digest), verdict and msgspec.json.encode(verdict)),
    )


def digest_of(text: str) -> Digest:
    """Undo ``str(digest)``; algorithms may have a hyphen too."""
    algorithm, _, value = text.rpartition("-")
    return Digest(algorithm, value)
