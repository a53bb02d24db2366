"""What an edge asks of its origin besides packages: one method for each message of ``origin/api/wire.py``."""

from __future__ import annotations

from typing import Protocol
from urllib.parse import quote

import msgspec

from origin.api import wire
from origin.errors import Corrupt, Unavailable
from origin.model import Headers

SOON_S = 15.0
"""How long the origin may take for anything but a long poll."""

LISTING_S = 60.0
"""How long it may take to look through all that it holds."""

MARGIN_S = 10.0
"""How much longer than asked a long poll may take."""

SMALL_BYTES = 16 << 20
LARGE_BYTES = 256 << 20
"""The most that is read of an answer: of a message, and of a batch or a listing."""


class Reply(Protocol):
    """An answer, whole."""

    @property
    def status(self) -> int: ...

    @property
    def body(self) -> bytes: ...


class Channel(Protocol):
    """What is asked of ``origin.sources.remote.Link``. Raises ``Unavailable`` if there is no answer, ``Corrupt`` if it is none."""

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Headers = (), *, timeout_s: float, limit_bytes: int
    ) -> Reply: ...


class Outdated(Exception):
    """The cursor is of another epoch, or of lines that the origin no longer has: a snapshot is the way on."""


class Dismissed(Unavailable):
    """The origin answers, and does not know us."""


class Central:
    """The origin, asked over one channel.

    Every method raises ``Unavailable`` if there is no good answer, ``Dismissed`` if we are none of its edges, and ``ValueError`` for an
    answer that cannot be read.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def verdicts(self) -> wire.Verdicts:
        """The policy in force there. A list of malware makes it as large as any listing."""
        return msgspec.json.decode(await self._get("verdicts", LISTING_S, LARGE_BYTES), type=wire.Verdicts)

    async def changes(self, after: str, verdicts: int, wait_s: float, limit: int) -> tuple[wire.Batch, list[bytes]]:
        """The next lines; waits for some, or for a change of policy, up to ``wait_s``. Raises ``Outdated``."""
        query = f"changes?after={quote(after, safe='')}&verdicts={verdicts}&wait={wait_s:.0f}&limit={limit}"
        return wire.read_lines(await self._get(query, wait_s + MARGIN_S, LARGE_BYTES))

    async def snapshot(self, after: str, limit: int) -> wire.Snapshot:
        """A part of what is held, by key beyond ``after``."""
        query = f"snapshot?after={quote(after, safe='')}&limit={limit}"
        return msgspec.json.decode(await self._get(query, LISTING_S, LARGE_BYTES), type=wire.Snapshot)

    async def instances(self) -> wire.Instances:
        """Which registries the origin mirrors."""
        return msgspec.json.decode(await self._get("instances"), type=wire.Instances)

    async def acknowledge(self, acknowledgement: wire.Acknowledgement) -> wire.Acknowledged | None:
        """Tell what is in force here; what the origin says to that, if anything."""
        body = await self._post("acknowledgements", acknowledgement)
        return msgspec.json.decode(body, type=wire.Acknowledged) if body else None

    async def ship(self, accesses: wire.Accesses) -> None:
        """Tell who fetched what. Repetitions are told apart by their numbers."""
        await self._post("accesses", accesses)

    async def offer(self, offers: wire.Offers) -> None:
        await self._post("offers", offers)

    async def compare(self, comparison: wire.Comparison) -> wire.Compared:
        body = await self._post("holdings", comparison, LISTING_S, LARGE_BYTES)
        return msgspec.json.decode(body, type=wire.Compared)

    async def _get(self, what: str, timeout_s: float = SOON_S, limit_bytes: int = SMALL_BYTES) -> bytes:
        return await self._ask("GET", what, b"", (), timeout_s, limit_bytes)

    async def _post(self, what: str, message: msgspec.Struct, timeout_s: float = SOON_S, limit_bytes: int = SMALL_BYTES) -> bytes:
        fields = (("Content-Type", "application/json"),)
        return await self._ask("POST", what, msgspec.json.encode(message), fields, timeout_s, limit_bytes)

    async def _ask(self, method: str, what: str, body: bytes, fields: Headers, timeout_s: float, limit_bytes: int) -> bytes:
        try:
            reply = await self._channel.request(
                method, wire.ROOT + what, body, fields, timeout_s=timeout_s, limit_bytes=limit_bytes
            )
        except Corrupt as error:
            raise ValueError(str(error)) from None
        return _told(reply)


def _told(reply: Reply) -> bytes:
    match reply.status:
        case 200 | 204:
            return reply.body
        case 401 | 403:
            raise Dismissed(
                "the origin does not know this edge, or no longer: `origin invite` it there and `edge enrol` it here again", 60
            )
        case 410:
            raise Outdated
        case status:
            raise Unavailable(f"the origin answered {status}", 10)
