"""The result of each stage. Values; each holds the one before it."""

from __future__ import annotations

from dataclasses import dataclass

from ..blobs import Spool
from ..catalog import Binding
from ..model import Digest, Entry, File, Verdict
from ..registries import Registry


@dataclass(frozen=True, slots=True)
class Initialized:
    """What is wanted, and what its listing says of it."""

    registry: Registry
    file: File
    entry: Entry


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The bytes are in the spool, as many as upstream said; nothing else is known of them. ``digests`` and
    ``last_modified`` came with the transfer, from the source of this name.
    """

    initialized: Initialized
    spool: Spool
    media_type: str
    digests: tuple[Digest, ...]
    last_modified: str | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class Assembled:
    """Size and every published digest agree. ``proven`` is False where nothing strong enough was published to compare with."""

    retrieved: Retrieved
    digest: Digest
    aliases: tuple[Digest, ...]
    proven: bool

    @property
    def digests(self) -> tuple[Digest, ...]:
        """All that are known of these bytes, the SHA-256 first."""
        return (self.digest, *self.aliases)


@dataclass(frozen=True, slots=True)
class Scanned:
    """The archive was looked through. ``oddity`` is what is wrong with it, ``""`` if nothing."""

    assembled: Assembled
    oddity: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """The core metadata read from the verified wheel itself; None where there is none to read."""

    scanned: Scanned
    metadata: bytes | None


@dataclass(frozen=True, slots=True)
class Decided:
    """What policy says, judged after everything was known."""

    parsed: Parsed
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Stored:
    """The end. ``binding`` names the blob; ``kept`` is False if no room was left and the bytes lived only as long as the flight.

    ``sidecar`` is the metadata sidecar made and bound beside it, if one was.
    """

    binding: Binding
    kept: bool
    sidecar: Binding | None = None
