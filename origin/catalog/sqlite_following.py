"""What an edge keeps of its following: which pages and files it means to bring here, and how that stands."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import msgspec

from ..model import File, Page
from . import Wanted
from .sqlite_ledger import REMEMBER
from .sqlite_transactions import Transactions

_pages = msgspec.json.Decoder(Page)
_files = msgspec.json.Decoder(File)

WANT = (
    "INSERT INTO wanted (key, is_file, resource, since, due, attempts, error, dead, asked) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1)"
    " ON CONFLICT DO UPDATE SET due = min(due, excluded.due), asked = asked + 1 RETURNING asked"
)


class FollowingRows(Transactions):
    """The part of the catalogue that a follower works from."""

    async def follow(
        self, memory: Mapping[str, str], stale: Iterable[tuple[str, str]] = (), wanted: Iterable[Wanted] = ()
    ) -> Sequence[Wanted]:
        """Apply a batch of the feed in one transaction: these projects' pages are stale, these are wanted, these facts are remembered."""
        facts, projects, given = list(memory.items()), list(dict.fromkeys(stale)), list(wanted)
        rows = [_row_of(each) for each in given]

        def write(connection: sqlite3.Connection) -> list[int]:
            connection.executemany(
                "UPDATE answers SET fresh_until = min(fresh_until, 0) WHERE registry = ? AND project = ?", projects
            ).close()
            asked = [connection.execute(WANT, row).fetchall()[0][0] for row in rows]
            connection.executemany(REMEMBER, facts).close()
            return asked

        asked = await self._write(write)
        return [replace(each, asked=count) for each, count in zip(given, asked, strict=True)]

    async def wanted(self, now: float, limit: int = 100) -> Sequence[Wanted]:
        """What is due at ``now``: pages before files, then the longest wanted first, the dead last."""
        return await self._read(
            lambda connection: [
                Wanted(key, (_files if is_file else _pages).decode(resource), since, due, attempts, error, bool(dead), asked)
                for key, is_file, resource, since, due, attempts, error, dead, asked in connection.execute(
                    "SELECT key, is_file, resource, since, due, attempts, error, dead, asked FROM wanted WHERE due <= ?"
                    " ORDER BY dead, is_file, since, key LIMIT ?",
                    (now, limit),
                )
            ]
        )

    async def settle(self, done: Iterable[str | Wanted], failed: Iterable[Wanted] = ()) -> None:
        """Forget what came, and write down how the rest stands."""
        gone = [(each, None) if isinstance(each, str) else (each.key, each.asked) for each in done]
        rest = [(each.attempts, each.error, each.dead, each.asked, each.due, each.key) for each in failed]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM wanted WHERE key = ?1 AND asked = coalesce(?2, asked)", gone).close()
            connection.executemany(
                "UPDATE wanted SET attempts = ?, error = ?, dead = ?, due = CASE WHEN asked = ? THEN ? ELSE due END WHERE key = ?",
                rest,
            ).close()

        await self._write(write)

    async def unresolved(self) -> tuple[int, int, float | None]:
        """How much is wanted, how much of that is dead, and since when the oldest is."""
        count, dead, since = await self._read(
            lambda connection: connection.execute("SELECT count(*), coalesce(sum(dead), 0), min(since) FROM wanted").fetchone()
        )
        return int(count), int(dead), since


def _row_of(wanted: Wanted) -> tuple[object, ...]:
    is_file = isinstance(wanted.resource, File)
    resource = msgspec.json.encode(wanted.resource)
    return (wanted.key, is_file, resource, wanted.since, wanted.due, wanted.attempts, wanted.error, wanted.dead)
