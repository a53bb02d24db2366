"""The catalogue in one SQLite file, in WAL mode: the default, enough for a node of any size that is one process.

Every statement runs in a worker thread; ``sqlite_transactions`` says how. What is the ledger's, a follower's and the fleet's stands in
``sqlite_ledger``, ``sqlite_following`` and ``sqlite_fleet``; pages, bindings, holdings and the rest are here.

Documents are one zstd frame each, made and undone in threads too; zstandard lets go of the GIL, so that the ten megabytes of a
20,000-file page do not stall the loop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from ..errors import Rebound, Unavailable
from ..model import Digest, File, Page, Stamp
from . import ABSENT, Binding, Event, StoredAnswer
from .packing import packed, unpacked
from .records import digest_of_document, file_change, page_change
from .sqlite_fleet import FleetRows
from .sqlite_following import FollowingRows
from .sqlite_ledger import REMEMBER, LedgerRows, add_line, digest_of
from .sqlite_transactions import connect, translated

log = logging.getLogger(__name__)

EVENTS_KEPT = 100_000
VICTIMS = 10_000
"""The most holdings named at a time; a caller that needs more asks again."""

SELECT_BINDINGS = (
    "SELECT registry, project, version, filename, path, digest, size, bound_at, aliases, media_type, last_modified FROM bindings"
)

NEVER = float("-inf")


class SqliteCatalog(LedgerRows, FollowingRows, FleetRows):
    """A ``Catalog`` in the file it was opened on. Made by ``open``; closed by ``close``."""

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
        """Store an answer and its line, unless it is an absence known already; returns its revision."""
        document, digest = await trio.to_thread.run_sync(_packed_and_hashed, answer.document, limiter=self._packing)
        return await self._write(lambda connection: write_answer(connection, answer, document, digest), tells=True)

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

        def write(connection: sqlite3.Connection, limit: int) -> int:
            # What was received again meanwhile is later than the cut.
            revisions = connection.execute(
                "DELETE FROM answers WHERE key IN (SELECT key FROM answers WHERE status IN (404, 410)"
                " AND (received_at < ?1 OR (received_at, key) <= (?2, ?3)) ORDER BY received_at, key LIMIT ?4) RETURNING revision",
                (before, *cut, limit),
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

    async def pages_after(self, key: str, limit: int = 1000) -> Sequence[Page]:
        """Pages held with status 200, by key, beyond ``key``."""
        return await self._read(
            lambda connection: [
                Page(*row)
                for row in connection.execute(
                    "SELECT registry, project, view FROM answers WHERE status = 200 AND key > ? ORDER BY key LIMIT ?",
                    (key, limit),
                )
            ]
        )

    async def counts(self) -> tuple[int, int]:
        """How many pages are held with status 200, and how many names are bound."""
        pages, names = await self._read(
            lambda connection: connection.execute(
                "SELECT (SELECT count(*) FROM answers WHERE status = 200), (SELECT count(*) FROM bindings)"
            ).fetchone()
        )
        return int(pages), int(names)

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
        """Bind a name, hold its blob and write the line, in one transaction."""
        await self._write(lambda connection: write_binding(connection, binding), tells=True)

    async def binding(self, file: File) -> Binding | None:
        """What a file's name is bound to."""
        found = await self._bindings(f"{SELECT_BINDINGS} WHERE name = ?", (file.key,))
        return found[0] if found else None

    async def bindings(self, registry: str, project: str) -> Sequence[Binding]:
        """All bindings of a project, by name."""
        return await self._bindings(f"{SELECT_BINDINGS} WHERE registry = ? AND project = ? ORDER BY name", (registry, project))

    async def bindings_after(self, name: str, limit: int = 1000) -> Sequence[Binding]:
        """Bindings by name, beyond ``name``, whether their blob is here or not."""
        return await self._bindings(f"{SELECT_BINDINGS} WHERE name > ? ORDER BY name LIMIT ?", (name, limit))

    async def named(self, digest: Digest) -> Sequence[Binding]:
        """Every binding to ``digest``, by name."""
        return await self._bindings(f"{SELECT_BINDINGS} WHERE digest = ? ORDER BY name", (str(digest),))

    async def bound(self, names: Sequence[str]) -> Mapping[str, Digest]:
        """What these names are bound to, those of them that are."""

        def read(connection: sqlite3.Connection) -> dict[str, Digest]:
            found = {}
            for name in names:
                row = connection.execute("SELECT digest FROM bindings WHERE name = ?", (name,)).fetchone()
                if row is not None:
                    found[name] = digest_of(row[0])
            return found

        return await self._read(read)

    async def _bindings(self, query: str, values: tuple[object, ...]) -> list[Binding]:
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

    # ---- events, memory

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

    async def remember(self, key: str, value: str) -> None:
        """Keep a small fact over restarts."""
        await self._write(lambda connection: connection.execute(REMEMBER, (key, value)).close())

    async def recall(self, key: str) -> str | None:
        """A fact remembered, None if there is none."""
        row = await self._read(lambda connection: connection.execute("SELECT value FROM memory WHERE key = ?", (key,)).fetchone())
        return None if row is None else str(row[0])

    async def backup(self, path: str) -> None:
        """Write a consistent copy of everything to a new file, while the node runs. Raises ``Unavailable``, also if the file is there."""
        await trio.to_thread.run_sync(self._backup, Path(path), limiter=self._copying)

    def _backup(self, path: Path) -> None:
        # On a connection of its own: it reads for as long as it takes, and nobody waits for it.
        self._check_open()
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise Unavailable(f"The copy {path} cannot be made: {error.strerror}") from error
        try:
            with contextlib.closing(connect(self.path)) as connection:
                connection.execute("VACUUM INTO ?", (str(path),))
            for each in (path, path.parent):
                _sync(each)
        except (sqlite3.Error, OSError) as error:
            path.unlink(missing_ok=True)
            raise (
                Unavailable(f"The copy {path} cannot be made: {error}") if isinstance(error, OSError) else translated(error)
            ) from error


def write_answer(connection: sqlite3.Connection, answer: StoredAnswer, document: bytes, digest: Digest | None) -> int:
    """In a transaction: write an answer, its document packed already, and its line; returns its revision."""
    page, stamp = answer.page, answer.stamp
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
            answer.received_at, answer.media_type, answer.etag, answer.last_modified, answer.serial, answer.vanishing_since, document,
        ),
    )  # fmt: skip
    if news:
        add_line(connection, page_change(answer, digest))
    return revision


def write_binding(connection: sqlite3.Connection, binding: Binding) -> None:
    """In a transaction: bind a name, hold its blob and write the line. Raises ``Rebound``."""
    file, name, digest = binding.file, binding.file.key, str(binding.digest)
    row = connection.execute("SELECT digest FROM bindings WHERE name = ?", (name,)).fetchone()
    if row is None:
        connection.execute(
            "INSERT INTO bindings (name, registry, project, version, filename, path, digest, size, bound_at, media_type, aliases,"
            " last_modified) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                name, file.registry, file.project, file.version, file.filename, file.path, digest, binding.size, binding.bound_at,
                binding.media_type, " ".join(map(str, binding.aliases)), binding.last_modified,
            ),
        )  # fmt: skip
        add_line(connection, file_change(binding))
    elif (bound := digest_of(row[0])) != binding.digest:
        raise Rebound(name, bound, binding.digest)
    connection.execute(
        "INSERT INTO holdings (digest, size, used_at) VALUES (?, ?, ?)"
        " ON CONFLICT DO UPDATE SET size = excluded.size, used_at = max(used_at, excluded.used_at)",
        (digest, binding.size, binding.bound_at),
    )


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _packed_and_hashed(document: bytes) -> tuple[bytes, Digest | None]:
    return packed(document), digest_of_document(document)
