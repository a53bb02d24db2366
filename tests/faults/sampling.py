"""How the nodes stand, read from their catalogues while they run, stand still or are dead: a node that lies still says nothing itself.

Reads are short and of one file, so that they hold nothing up; one that cannot be done just now is left for the next time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.faults.history import Bound, History, Holding, InForce, Line, Place, now

EVERY_S = 0.1


@contextlib.contextmanager
def reading(data: Path) -> Iterator[sqlite3.Connection]:
    """A node's catalogue, to be read. Raises ``sqlite3.Error`` while it cannot be."""
    connection = sqlite3.connect(f"file:{data / 'catalog.sqlite'}?mode=ro", uri=True, timeout=0.2)
    try:
        yield connection
    finally:
        connection.close()


def facts(connection: sqlite3.Connection, name: str) -> Any:
    """What a follower remembers under this name, None if nothing."""
    row = connection.execute("SELECT value FROM memory WHERE key LIKE 'origin % ' || ?", (name,)).fetchone()
    return None if row is None else json.loads(row[0])


class Sampler:
    """Looks at every node, and writes down what is new. ``nodes`` are the data directories by name; one is ``origin``."""

    def __init__(self, nodes: Mapping[str, Path], history: History) -> None:
        self._nodes = dict(nodes)
        self._history = history
        self._held: dict[str, set[str]] = {node: set() for node in nodes}
        self._places: dict[str, tuple[str, str]] = {}
        self._targets: dict[str, tuple[int, tuple[str, ...]]] = {}
        self._head = 0

    def look(self) -> None:
        """At each once; one whose catalogue cannot be read just now is passed over."""
        for node, data in self._nodes.items():
            with contextlib.suppress(sqlite3.Error), reading(data) as connection:
                self._look(node, connection)

    def _look(self, node: str, connection: sqlite3.Connection) -> None:
        at = now()
        held = {row[0] for row in connection.execute("SELECT digest FROM holdings")}
        if node == "origin":
            self._lines(connection)
        else:
            self._place(node, connection)
        before = self._held[node]
        if held != before:
            new, gone = (tuple(_hex(one) for one in sorted(some)) for some in (held - before, before - held))
            self._history.add(Holding(at=at, node=node, new=new, gone=gone))
            self._held[node] = held

    def _lines(self, connection: sqlite3.Connection) -> None:
        query = "SELECT serial, record, hash FROM changes WHERE serial > ? ORDER BY serial"
        rows = connection.execute(query, (self._head,)).fetchall()
        at = now()
        for serial, record, chain in rows:
            self._history.add(line_of(serial, record, chain, at))
            self._head = serial

    def _place(self, node: str, connection: sqlite3.Connection) -> None:
        place, known = facts(connection, "place"), facts(connection, "verdicts")
        # Read, then the time: what was read was so before.
        at = now()
        if place is not None and (place["cursor"], place["hash"]) != self._places.get(node):
            epoch, _, serial = place["cursor"].rpartition(".")
            self._history.add(Place(at=at, edge=node, epoch=epoch, serial=int(serial), hash=place["hash"]))
            self._places[node] = (place["cursor"], place["hash"])
        if known is not None:
            verdicts = known["verdicts"]
            targets = tuple(recall["target"] for recall in verdicts.get("recalls", ()))
            if (verdicts["revision"], targets) != self._targets.get(node):
                self._history.add(InForce(at=at, edge=node, revision=verdicts["revision"], targets=targets))
                self._targets[node] = (verdicts["revision"], targets)


def line_of(serial: int, record: bytes, chain: bytes, at: float) -> Line:
    """A row of the ledger."""
    said = json.loads(record)
    digest = said.get("digest")
    told = str(digest["value"]) if said.get("kind", "page") == "file" and digest else ""
    return Line(at=at, serial=serial, hash=chain.hex(), kind=said.get("kind", "page"), resource=said["resource"], digest=told)


def ledger(data: Path) -> list[Line]:
    """The whole ledger as it stands."""
    with reading(data) as connection:
        rows = connection.execute("SELECT serial, record, hash FROM changes ORDER BY serial").fetchall()
    return [line_of(serial, record, chain, now()) for serial, record, chain in rows]


def bound(node: str, data: Path) -> Bound:
    """What a node has under names, and which of the blobs are in its store, whole."""
    with reading(data) as connection:
        names = {name: _hex(digest) for name, digest in connection.execute("SELECT name, digest FROM bindings")}
        held = [_hex(row[0]) for row in connection.execute("SELECT digest FROM holdings")]
    whole = []
    for digest in held:
        path = data / "blobs" / "sha256" / digest[:2] / digest[2:4] / digest
        if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == digest:
            whole.append(digest)
    return Bound(at=now(), node=node, names=names, whole=tuple(whole))


def missing(data: Path) -> list[str]:
    """Blobs that a node's catalogue says it holds, and that are not in its store, whole."""
    found = bound("", data)
    with reading(data) as connection:
        held = {_hex(row[0]) for row in connection.execute("SELECT digest FROM holdings")}
    return sorted(held - set(found.whole))


def place(data: Path) -> tuple[int, str]:
    """How far an edge has followed, and the chain's hash there; (0, "") if it has not begun."""
    with reading(data) as connection:
        found = facts(connection, "place")
    return (0, "") if found is None else (int(found["cursor"].rpartition(".")[2]), found["hash"])


def wanted(data: Path) -> list[tuple[str, int, str]]:
    """What a node still means to bring: key, attempts, and the last error."""
    with reading(data) as connection:
        return connection.execute("SELECT key, attempts, error FROM wanted").fetchall()


def _hex(digest: str) -> str:
    """A SHA-256 as the catalogue writes it, without its algorithm."""
    return digest.rpartition("-")[2]
