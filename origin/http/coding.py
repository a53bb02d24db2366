"""Content codings: which one a client may be given, and the bytes in it. The server adds none; whoever renders a page asks here."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Sequence

import zstandard

from .h1 import Malformed

_QUALITY = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")
_ALIASES = {"x-gzip": "gzip"}


def parse_quality_list(value: str) -> list[tuple[str, float]]:
    """Read ``a;q=0.5, b`` as ``[("a", 0.5), ("b", 1.0)]``: members in order, lower-case, other parameters kept in the name.

    Never raises: a member with a malformed weight counts as unacceptable (0). Source: RFC 9110 §12.4.2.
    """
    members: list[tuple[str, float]] = []
    for member in value.split(","):
        quality = 1.0
        kept: list[str] = []
        for part in member.split(";"):
            name, equals, weight = part.strip().partition("=")
            if equals and name.strip().lower() == "q":
                weight = weight.strip()
                quality = float(weight) if _QUALITY.fullmatch(weight) else 0.0
            elif part.strip():
                kept.append(part.strip().lower())
        if kept:
            members.append((";".join(kept), quality))
    return members


def negotiate_coding(accept_encoding: str | None, offered: Sequence[str]) -> str:
    """Choose among ``offered`` (ours, preferred first) and ``identity``. Source: RFC 9110 §12.5.3.

    The client's weights come first, our order breaks ties, and ``identity`` wins only where a coding we have is not wanted as much.
    Without the field, or when everything is refused, ``identity``: sending it plainly is kinder than 406.
    """
    if accept_encoding is None:
        return "identity"
    weights: dict[str, float] = {}
    for coding, quality in parse_quality_list(accept_encoding):
        coding = _ALIASES.get(coding, coding)
        weights[coding] = max(quality, weights.get(coding, 0.0))
    others = weights.get("*", 0.0)
    chosen, best = "identity", weights.get("identity", 0.0)
    for coding in reversed(offered):
        quality = weights.get(coding, others)
        if quality > 0 and quality >= best:
            chosen, best = coding, quality
    return chosen


def decoded(body: bytes, coding: str, limit: int) -> bytes:
    """A request's body without its coding.

    Raises ``Malformed``: 415 for a coding we do not read, 413 beyond ``limit`` bytes, 400 if broken.
    """
    coding = _ALIASES.get(coding.strip().lower(), coding.strip().lower())
    if coding not in ("", "identity", "gzip"):
        raise Malformed(f"a body coded as {coding[:32]!r} is not read here; send gzip or none", 415)
    if coding != "gzip":
        if len(body) > limit:
            raise Malformed(f"the body has more than {limit} bytes", 413)
        return body
    reader = zlib.decompressobj(wbits=31)
    try:
        plain = reader.decompress(body, limit + 1)
    except zlib.error as error:
        raise Malformed(f"the body is no gzip: {error}") from None
    if len(plain) > limit:
        raise Malformed(f"the body has more than {limit} bytes", 413)
    if not reader.eof or reader.unused_data:
        raise Malformed("the body is cut off, or goes on after its end")
    return plain


def encode(body: bytes, coding: str) -> bytes:
    """``body`` in ``coding``: the same bytes for the same input, always. Raises ``ValueError`` for a coding we do not have."""
    match coding:
        case "identity":
            return body
        case "gzip":
            return gzip.compress(body, compresslevel=6, mtime=0)
        case "zstd":
            return zstandard.ZstdCompressor(level=6).compress(body)
        case _:
            raise ValueError(f"unknown content coding {coding[:32]!r}")
