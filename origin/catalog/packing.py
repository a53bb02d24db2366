"""Documents at rest: one zstd frame each."""

from __future__ import annotations

import zstandard


def packed(document: bytes) -> bytes:
    """A document as stored, with a checksum of zstd's own."""
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(document) if document else b""


def unpacked(stored: bytes) -> bytes | None:
    """A document as published; None for a damaged one."""
    try:
        return zstandard.ZstdDecompressor().decompress(stored) if stored else b""
    except (zstandard.ZstdError, TypeError, MemoryError):
        # The frame's header says how much to allocate, and it may be damaged too.
        return None
