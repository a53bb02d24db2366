"""Batches of the ledger as they are sent: read, signed and coded once for all who ask for the same.

A batch of lines is five times smaller in gzip. That costs its origin less than to encrypt it plainly for two edges.
"""

from __future__ import annotations

from functools import lru_cache

import trio

from ..feed import Ledger
from ..http.coding import encode, negotiate_coding
from .wire import LINES_TYPE

CODINGS = ("gzip",)

SMALL_BYTES = 1200
"""Up to this a batch is one packet in any coding."""

LARGE_BYTES = 64 << 10
"""Beyond this a batch is coded in a worker thread."""

KEPT = 16
"""How many coded batches are kept. Those who follow closely ask for the same two or three."""


class Batches:
    """The ledger's batches in the codings that edges accept."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._coded: dict[bytes, bytes] = {}

    def made(self, after: int, limit: int, coding: str) -> tuple[bytes, str] | None:
        """What ``batch`` would give of the lines after this serial, if it was made for somebody already."""
        plain = self._ledger.made(after, limit)
        if plain is None or coding == "identity" or len(plain) <= SMALL_BYTES:
            return None if plain is None else (plain, "identity")
        coded = self._coded.get(plain)
        return None if coded is None else (coded, coding)

    async def batch(self, cursor: str, limit: int, coding: str) -> tuple[bytes, str]:
        """The lines beyond ``cursor`` as ``Ledger.batch`` has them, and the coding they are in. Raises as it does."""
        plain = await self._ledger.batch(cursor, limit)
        if coding == "identity" or len(plain) <= SMALL_BYTES:
            return plain, "identity"
        coded = self._coded.get(plain)
        if coded is None:
            coded = encode(plain, coding) if len(plain) <= LARGE_BYTES else await trio.to_thread.run_sync(encode, plain, coding)
            while len(self._coded) >= KEPT:
                del self._coded[next(iter(self._coded))]
            self._coded[plain] = coded
        return coded, coding


@lru_cache(maxsize=64)
def coding_for(accept_encoding: str | None) -> str:
    """The coding that a batch is sent in to whoever accepts these."""
    return negotiate_coding(accept_encoding, CODINGS)


def fields_of(coding: str) -> list[tuple[str, str]]:
    """The header fields of a batch in this coding."""
    fields = [("Content-Type", LINES_TYPE), ("Cache-Control", "no-store"), ("Vary", "Accept-Encoding")]
    return fields if coding == "identity" else [*fields, ("Content-Encoding", coding)]
