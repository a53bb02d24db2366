"""The ledger's rows: one line for each change, chained, with a serial that has no gaps.

Each line is written in the transaction of the row it tells of. Serial and hash of the line before are read inside of it, and lines are
written by one connection, so that an undone write leaves neither a gap nor a broken chain.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

import msgspec

from ..api.wire import GENESIS
from ..model import Change, Digest, Verdict
from . import Line
from .records import line_of
from .sqlite_transactions import Transactions

_verdicts: msgspec.json.Decoder[Verdict] = msgspec.json.Decoder(Verdict)
_changes = msgspec.json.Decoder(Change)

REMEMBER = "INSERT INTO memory VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"


class LedgerRows(Transactions):
    """The part of the catalogue that is the ledger. Lines by a Leeward without a chain are in ``changes``, not among the ``lines``."""

    async def changes(self, after: int, limit: int = 1000) -> Sequence[Change]:
        """The lines beyond serial ``after``, oldest first."""
        return await self._read(
            lambda connection: [
                _changes.decode(record) if record is not None else _old_change(*row)
                for record, *row in connection.execute(
                    "SELECT record, serial, resource, digest, verdict FROM changes WHERE serial > ? ORDER BY serial LIMIT ?",
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
        """Forget all lines but the newest ``keep``, and never the last one; returns how many went. None do if the ledger is kept."""
        if self.keeps_ledger:
            return 0

        def write(connection: sqlite3.Connection, limit: int) -> int:
            return connection.execute(
                "DELETE FROM changes WHERE serial IN (SELECT serial FROM changes WHERE serial <= ? ORDER BY serial LIMIT ?)",
                (newest - max(1, keep), limit),
            ).rowcount

        # Read once: lines that come while this runs are kept on top of ``keep``.
        newest = await self._read(
            lambda connection: int(connection.execute("SELECT coalesce(max(serial), 0) FROM changes").fetchone()[0])
        )
        return await self._until_none_is_left(write)

    async def lines(self, after: int, limit: int = 1000) -> Sequence[Line]:
        """The chained lines beyond serial ``after``, oldest first."""
        return await self._read(
            lambda connection: [
                Line(*row)
                for row in connection.execute(
                    # Cast, so that one that was tampered with is sent as what it is, and found.
                    "SELECT serial, CAST(coalesce(record, '') AS BLOB), CAST(coalesce(hash, '') AS BLOB) FROM changes"
                    " WHERE serial > max(?, (SELECT since FROM chained)) ORDER BY serial LIMIT ?",
                    (after, limit),
                )
            ]
        )

    async def head(self) -> tuple[int, bytes]:
        """Serial and hash of the last line. The hash is ``GENESIS`` until there is a chained one."""
        return await self._read(read_head)

    async def append(self, change: Change, memory: Mapping[str, str] | None = None) -> int:
        """Write a line that no row goes with, and remember these facts in the same transaction; returns its serial."""

        def write(connection: sqlite3.Connection) -> int:
            connection.executemany(REMEMBER, (memory or {}).items()).close()
            return add_line(connection, change)

        return await self._write(write, tells=True)


def read_head(connection: sqlite3.Connection) -> tuple[int, bytes]:
    """Serial and hash of the last line."""
    row = connection.execute("SELECT serial, hash FROM changes ORDER BY serial DESC LIMIT 1").fetchone()
    serial, last = row or (0, None)
    return serial, GENESIS if last is None else last


def add_line(connection: sqlite3.Connection, change: Change) -> int:
    """In a transaction: write the next line; returns its serial. What it says is all in its record."""
    serial, previous = read_head(connection)
    line = line_of(change, serial + 1, previous)
    connection.execute(
        "INSERT INTO changes (serial, resource, record, hash) VALUES (?, '', ?, ?)", (line.serial, line.record, line.hash)
    )
    return line.serial


def _old_change(serial: int, resource: str, digest: str | None, verdict: bytes | None) -> Change:
    return Change(
        serial,
        resource,
        None if digest is None else digest_of(digest),
        None if verdict is None else _verdicts.decode(verdict),
    )


def digest_of(text: str) -> Digest:
    """Undo ``str(digest)``; algorithms may have a hyphen too."""
    algorithm, _, value = text.rpartition("-")
    return Digest(algorithm, value)
