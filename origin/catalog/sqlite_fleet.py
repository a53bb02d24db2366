"""The fleet's rows: invitations, edges, and who fetched what, here and at each edge."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence

from . import Access, Member
from .sqlite_transactions import Transactions

SELECT_ACCESSES = "SELECT id, at, file, digest, client, token, sent, complete, edge, number FROM accesses"
DELIVERIES = (
    "SELECT id, at, file, digest, client, token, sent, complete, edge, number FROM accesses WHERE id IN"
    " (SELECT id FROM accesses WHERE file IN (SELECT value FROM json_each(?))"
    " UNION SELECT id FROM accesses WHERE digest IN (SELECT value FROM json_each(?))) ORDER BY at DESC, id DESC LIMIT ?"
)


class FleetRows(Transactions):
    """The part of the catalogue that tells of edges and of deliveries."""

    # ---- edges

    async def invite(self, name: str, secret: str, until: float) -> None:
        """Let whoever shows the secret with this SHA-256 before ``until`` enrol as ``name``."""
        await self._write(
            lambda connection: connection.execute(
                "INSERT INTO invitations VALUES (?, ?, ?)"
                " ON CONFLICT (name) DO UPDATE SET secret = excluded.secret, until = excluded.until",
                (name, secret, until),
            ).close()
        )

    async def enrol(self, invitation: str, secret: str, now: float) -> str | None:
        """Use an invitation up, once: the name of the edge whose secret is ``secret`` from now on; None if there is no such invitation."""

        def write(connection: sqlite3.Connection) -> str | None:
            found = connection.execute("DELETE FROM invitations WHERE secret = ? RETURNING name, until", (invitation,)).fetchall()
            if not found or found[0][1] <= now:
                return None
            name: str = found[0][0]
            # As a new one, of which nothing is known: it may have begun with an empty directory.
            connection.execute("INSERT OR REPLACE INTO members (name, secret, enrolled_at) VALUES (?, ?, ?)", (name, secret, now))
            # Its numbering begins anew too: what is here is kept, but takes no number from what comes.
            connection.execute("UPDATE accesses SET number = 0 WHERE edge = ? AND number > 0", (name,))
            return name

        return await self._write(write)

    async def void_invitations(self) -> None:
        """No invitation is good any more."""
        await self._write(lambda connection: connection.execute("DELETE FROM invitations").close())

    async def edges(self) -> Sequence[Member]:
        """All edges, by name."""
        return await self._read(
            lambda connection: [
                Member(*row)
                for row in connection.execute(
                    "SELECT name, secret, enrolled_at, seen_at, serial, verdicts, unresolved, held_bytes, address, release"
                    " FROM members ORDER BY name"
                )
            ]
        )

    async def seen(self, edges: Iterable[Member]) -> None:
        """Note how these edges stand: all but ``secret`` and ``enrolled_at``."""
        rows = [
            (each.seen_at, each.serial, each.verdicts, each.unresolved, each.held_bytes, each.address, each.release, each.name)
            for each in edges
        ]
        await self._write(
            lambda connection: connection.executemany(
                "UPDATE members SET seen_at = ?, serial = ?, verdicts = ?, unresolved = ?, held_bytes = ?, address = ?, release = ?"
                " WHERE name = ?",
                rows,
            ).close()
        )

    async def dismiss(self, name: str) -> bool:
        """The edge is none of ours any more, and its invitation is void. False if there was neither."""

        def write(connection: sqlite3.Connection) -> bool:
            gone = connection.execute("DELETE FROM members WHERE name = ?", (name,)).rowcount
            return gone + connection.execute("DELETE FROM invitations WHERE name = ?", (name,)).rowcount > 0

        return await self._write(write)

    # ---- deliveries

    async def record_accesses(self, batch: Iterable[Access]) -> None:
        """Keep who fetched what. What an edge sends again is passed over."""
        rows = [
            (each.at, each.file, each.digest, each.client, each.token, each.sent, each.complete, each.edge, each.number)
            for each in batch
        ]
        await self._write(
            lambda connection: connection.executemany(
                "INSERT INTO accesses (at, file, digest, client, token, sent, complete, edge, number)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                rows,
            ).close()
        )

    async def accesses(self, file: str | None = None, limit: int = 100) -> Sequence[Access]:
        """Newest first."""
        only = "" if file is None else " WHERE file = ?1"
        return [each for _, each in await self._accesses(f"{SELECT_ACCESSES}{only} ORDER BY id DESC LIMIT ?2", (file, limit))]

    async def accesses_after(self, number: int, limit: int = 1000) -> Sequence[tuple[int, Access]]:
        """This node's own records beyond ``number``, oldest first, each with its number, which is never given twice."""
        return await self._accesses(f"{SELECT_ACCESSES} WHERE id > ? AND edge = '' ORDER BY id LIMIT ?", (number, limit))

    async def deliveries(self, files: Sequence[str], digests: Sequence[str], limit: int = 1000) -> Sequence[Access]:
        """Accesses of any edge to files of these keys or bytes of these digests, newest first."""
        values = (json.dumps(list(files)), json.dumps(list(digests)), limit)
        return [each for _, each in await self._accesses(DELIVERIES, values)]

    async def _accesses(self, query: str, values: tuple[object, ...]) -> list[tuple[int, Access]]:
        return await self._read(
            lambda connection: [
                (number, Access(at, file, digest, client, token, sent, bool(complete), *rest))
                for number, at, file, digest, client, token, sent, complete, *rest in connection.execute(query, values)
            ]
        )

    async def trim_accesses(self, before: float, keep: int) -> int:
        """Forget access records made before ``before`` (UTC seconds) and all but the newest ``keep``; returns how many went."""

        def read(connection: sqlite3.Connection) -> int:
            # Records come in order of time, near enough: the first that is recent ends the old ones without a scan of the rest.
            (newest,) = connection.execute("SELECT coalesce(max(id), 0) FROM accesses").fetchone()
            recent = connection.execute("SELECT id FROM accesses WHERE at >= ? ORDER BY id LIMIT 1", (before,)).fetchone()
            # Counted, since a repetition that was passed over may have left a gap.
            surplus = connection.execute("SELECT id FROM accesses ORDER BY id DESC LIMIT 1 OFFSET ?", (keep,)).fetchone()
            return max(newest + 1 if recent is None else int(recent[0]), 0 if surplus is None else int(surplus[0]) + 1)

        def write(connection: sqlite3.Connection, limit: int) -> int:
            return connection.execute(
                "DELETE FROM accesses WHERE id IN (SELECT id FROM accesses WHERE id < ? ORDER BY id LIMIT ?)", (cut, limit)
            ).rowcount

        cut = await self._read(read)
        return await self._until_none_is_left(write)
