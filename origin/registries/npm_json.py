"""JSON that others sent: whether it is sound, what mends it, and the small documents of which nothing more needs to be known.

Large values are checked in pieces, so that no call holds the interpreter for long (``slices.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from . import slices

PIECE_BYTES = 256 * 1024
"""How much is handled in one call, where there is a choice."""

# Each escape in a text, so that none is taken for part of another; in the group what is half of a surrogate pair.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


class _Found(msgspec.Struct, gc=False):
    name: str
    version: str


class _SearchResult(msgspec.Struct, gc=False):
    package: _Found


_SEARCH_RESULT = msgspec.json.Decoder(_SearchResult)


def require_json(raw: memoryview) -> None:
    """Raise ``ValueError`` for what is no JSON value in UTF-8."""
    if len(raw) > PIECE_BYTES and raw[0] == ord("{"):
        text = bytes(raw)
        for start, stop in slices.places(text)[0].values():
            require_json(memoryview(text)[start:stop])
        return
    str(raw, "utf-8")
    msgspec.json.decode(raw, type=msgspec.Raw)


def sound(raw: memoryview) -> bytes | None:
    """What to keep instead of ``raw``: None if it is sound JSON, else what mends it. Raises ``ValueError`` if nothing does.

    READMEs and descriptions are cut to length upstream, some in the middle of a surrogate pair. JavaScript reads on; nobody else does.
    """
    try:
        require_json(raw)
    except msgspec.DecodeError:
        mended = _ESCAPE.sub(lambda found: found[0] if found[1] is None else b"\\ufffd", raw)
        require_json(memoryview(mended))
        return mended
    return None


def require_list(body: bytes, member: str) -> None:
    """Raise ``ValueError`` unless ``body`` is a JSON object with an array ``member``, as keys and attestations come."""
    frame, split = slices.take_apart(body, {member})
    if member not in split:
        raise ValueError(f"no list of {member} in the document")
    for pieces in (frame.values(), split[member]):
        for raw in pieces:
            require_json(memoryview(raw))


def require_object(body: bytes) -> None:
    """Raise ``ValueError`` unless ``body`` is a JSON object."""
    for start, stop in slices.places(body)[0].values():
        sound(memoryview(body)[start:stop])


def require_posted(body: bytes) -> None:
    """The same of what a client sent, in calls over the whole of it: 10 MB take 10 ms, and 50 ms at worst.

    Taken in pieces, the same made of nothing but brackets takes five seconds.
    """
    if body.lstrip(b" \t\r\n")[:1] != b"{":
        raise ValueError("not a JSON object")
    str(body, "utf-8")
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except RecursionError:
        raise ValueError("JSON that nests too deeply") from None


def filter_search(body: bytes, allowed: Callable[[str, str], bool]) -> bytes:
    """A search's answer without the objects that are not ``allowed`` (name, version), or that do not tell what they are."""
    frame, split = slices.take_apart(body, {"objects"})
    if "objects" not in split:
        raise ValueError("a search result without a list of objects")
    for raw in frame.values():
        require_json(memoryview(raw))
    kept = []
    for raw in split["objects"]:
        try:
            found = _SEARCH_RESULT.decode(sound(memoryview(raw)) or raw).package
        except msgspec.ValidationError:
            continue
        if allowed(found.name, found.version):
            kept.append(raw)
    if len(kept) == len(split["objects"]):
        return body
    # The objects come first, as they do upstream.
    rest = slices.put_together(frame, {})
    objects = slices.put_together({}, {"objects": kept})
    return objects if rest == b"{}" else objects[:-1] + b"," + rest[1:]
