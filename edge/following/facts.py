"""What a follower remembers over restarts, apart for each origin it ever follows. Small facts in the catalogue's memory, as JSON."""

from __future__ import annotations

import hashlib

import msgspec

from origin.api import wire
from origin.catalog import Catalog


class Place(msgspec.Struct, frozen=True):
    """Where we are in the feed. ``hash`` is that of the last line applied, in hex."""

    cursor: str
    hash: str

    @property
    def chain(self) -> bytes:
        return bytes.fromhex(self.hash)


class Resync(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that is being taken in, for who wants what is called ``wanted``.

    ``place`` is where to follow from when it is; ``after`` is where its next part begins, None when there is none.
    """

    place: Place
    wanted: str
    after: str | None = ""
    done: int = 0
    total: int = 0


class InForce(msgspec.Struct, frozen=True):
    """The origin's policy as last heard, and the ledger's epoch it was heard in, ``""`` if that was not known."""

    verdicts: wire.Verdicts
    epoch: str = ""


class Facts:
    """The facts about the origin whose ledger has this public key (base64)."""

    def __init__(self, catalog: Catalog, key: str) -> None:
        self._catalog = catalog
        self._prefix = f"origin {hashlib.sha256(key.encode()).hexdigest()[:12]} "

    def pair(self, name: str, value: object) -> dict[str, str]:
        """The fact as ``Catalog.follow`` takes it."""
        return {self._prefix + name: msgspec.json.encode(value).decode()}

    async def keep(self, name: str, value: object) -> None:
        """Raises ``Unavailable``."""
        for key, text in self.pair(name, value).items():
            await self._catalog.remember(key, text)

    async def get[T](self, name: str, kind: type[T]) -> T | None:
        """None if there is none, or one that an earlier Leeward wrote otherwise. Raises ``Unavailable``."""
        text = await self._catalog.recall(self._prefix + name)
        if not text:
            return None
        try:
            return msgspec.json.decode(text, type=kind)
        except (msgspec.DecodeError, ValueError):
            return None
