"""Small files that say something of others: checksums, descriptors, signatures. Read whole into memory, never stored.

What a checksum says is only ever worth something beside the file it is of; kept by itself it would be one more thing to go stale.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import trio

from .errors import Corrupt, NotFound, Unavailable
from .flights import Flight, Flights
from .model import Entry, File
from .registries import Registry
from .sources import Source

log = logging.getLogger("leeward.notes")

LIMIT_BYTES = 4 * 1024 * 1024
"""Longer notes are upstream's mistake: a checksum has a hundred bytes, a descriptor a few thousand."""

LIMIT_S = 30.0
"""The longest that one may take: whole transfers wait for it."""


class Notes:
    """Reads notes from the first source that has them, each once for all who ask at the same time."""

    def __init__(self, registries: Mapping[str, Registry], sources: Sequence[Source], flights: Flights) -> None:
        self._registries = registries
        self._sources = sources
        self._flights = flights

    async def read(self, file: File) -> bytes | None:
        """The whole of a small file; None if upstream has none. Raises ``Unavailable`` or ``Corrupt``."""

        async def job(_: Flight[bytes | None]) -> bytes | None:
            return await self._read(file)

        flight, _ = self._flights.join(f"note {file.registry} {file.path}", job)
        return await flight.wait_outcome()

    async def read_all(self, files: Sequence[File]) -> dict[str, bytes]:
        """The notes there are, by file name, read at the same time."""
        found: dict[str, bytes] = {}
        failures: list[Unavailable | Corrupt] = []

        async def one(file: File) -> None:
            try:
                content = await self.read(file)
            except (Unavailable, Corrupt) as error:
                failures.append(error)
                return
            if content is not None:
                found[file.filename] = content

        async with trio.open_nursery() as nursery:
            for file in files:
                nursery.start_soon(one, file)
        if failures:
            raise failures[0]
        return found

    async def _read(self, file: File) -> bytes | None:
        entry = self._registries[file.registry].expected(file, None) or Entry(file, "")
        failure: Unavailable | None = None
        for source in self._sources:
            try:
                with trio.move_on_after(LIMIT_S):
                    async with source.file(file, entry) as stream:
                        content = bytearray()
                        async for chunk in stream.chunks:
                            content += chunk
                            if len(content) > LIMIT_BYTES:
                                raise Corrupt(f"{file.filename} is longer than any of its kind", LIMIT_BYTES)
                        return bytes(content)
                failure = Unavailable(f"{file.filename} comes too slowly", 5)
            except NotFound:
                return None
            except Unavailable as error:
                failure = error
        raise failure or Unavailable("no source is configured")
