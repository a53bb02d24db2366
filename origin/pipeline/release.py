"""How much of an arriving file may be given to clients before it is verified: pure functions."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Literal

from ..model import STRONG, Entry

type Release = Literal["strict", "tail-hold"]

TAIL_BYTES = 256 * 1024
"""The least that stays back under tail-hold release: a zip's end record with its longest comment is 64 KiB."""

TAIL_SHARE = 64
"""The tail is at least one part in this many of the file, which covers the central directory of all but contrived archives."""


def choose(entry: Entry, size: int | None, *, streams: bool, proofs: AbstractSet[str] = STRONG) -> Release:
    """Say how an arriving file may be released.

    Tail-hold needs a digest by one of ``proofs``, known beforehand, and the total size. ``streams`` says that clients unpack the file
    while it arrives (``.tar.gz``), so that a prefix can already do harm: strict.
    """
    proven = any(d.algorithm in proofs for d in entry.digests)
    return "tail-hold" if proven and size is not None and not streams else "strict"


def releasable(release: Release, written: int, size: int | None) -> int:
    """How many of ``written`` bytes may leave before verification. ``size`` is the file's total, in bytes."""
    if release == "strict" or size is None:
        return 0
    return max(0, min(written, size - max(TAIL_BYTES, size // TAIL_SHARE)))
