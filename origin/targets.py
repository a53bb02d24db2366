"""The one strict reading of a request target's path, before anybody routes by it.

Pure, beneath ``registries``: a target is decoded once, here, and what cannot be decoded in exactly one way is refused. What passes holds no
dot segment, no control character, no backslash and nothing that a second decoding would change.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

LIMIT_SEGMENT_BYTES = 255
"""The longest path segment, decoded: the longest name a file system takes."""

# RFC 3986 §3.3 pchar and "/", plus what clients send raw although they should encode it: brackets, braces, "|", "^", "`", quotes.
# Left out: controls, space, "#", "?", "\" and everything beyond ASCII.
_PATH = re.compile(r"[!\"$-\[\]-~]*")
_QUERY = re.compile(r"[!\"$-~]*")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Target:
    """A path in decoded segments. ``query`` is raw, without ``?``; ``slash`` tells whether the path is empty or ends in ``/``."""

    segments: tuple[str, ...]
    query: str
    slash: bool


def parse(target: str, *, encoded_slash: bool = False) -> Target:
    """Decode ``target``, a path with an optional query; one leading ``/`` is optional too.

    ``encoded_slash`` lets ``%2F`` stand inside a segment (npm scopes), where it decodes to ``/``. Raises ``ValueError`` with a short
    message for anything doubtful. Source: RFC 3986 §3.3, §6.2.2.
    """
    path, _, query = target.partition("?")
    if not _QUERY.fullmatch(query) or _BAD_ESCAPE.search(query):
        raise ValueError(f"malformed query in the request target: {_shown(query)}")
    if not _PATH.fullmatch(path):
        raise ValueError(f"character not allowed in the request target: {_shown(path)}")
    path = path.removeprefix("/")
    slash = not path or path.endswith("/")
    path = path.removesuffix("/") if path != "/" else path
    segments = tuple(_segment(raw, encoded_slash) for raw in path.split("/")) if path else ()
    return Target(segments, query, slash)


def beneath(target: str, url: str) -> str | None:
    """``target``, in origin form, relative to the path of ``url``, which ends in ``/``: raw as it came, ``""`` for that path itself.

    Compared decoded, segment by segment. None if it is not beneath. Raises ``ValueError`` for a malformed target.
    """
    if not target.startswith("/"):
        raise ValueError(f"not in origin form: {_shown(target)}")
    asked = parse(target, encoded_slash=True).segments
    root = tuple(unquote(segment) for segment in urlsplit(url).path.split("/") if segment)
    if asked[: len(root)] != root:
        return None
    path, mark, query = target[1:].partition("?")
    return "/".join(path.split("/")[len(root) :]) + mark + query


def _segment(raw: str, encoded_slash: bool) -> str:
    if _BAD_ESCAPE.search(raw):
        raise ValueError(f"bad percent-encoding in the request target: {_shown(raw)}")
    try:
        text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), raw).encode("latin-1").decode("utf-8") if "%" in raw else raw
    except UnicodeDecodeError:
        raise ValueError(f"percent-encoding is not UTF-8 in the request target: {_shown(raw)}") from None
    if not text:
        raise ValueError("empty segment in the request target")
    if len(text.encode()) > LIMIT_SEGMENT_BYTES:
        raise ValueError(f"segment over {LIMIT_SEGMENT_BYTES} bytes in the request target: {_shown(raw)}")
    if _CONTROL.search(text) or "\\" in text:
        raise ValueError(f"control character or backslash in the request target: {_shown(raw)}")
    if _ESCAPE.search(text):
        raise ValueError(f"doubly encoded segment in the request target: {_shown(raw)}")
    if "/" in text and not encoded_slash:
        raise ValueError(f"encoded slash in the request target: {_shown(raw)}")
    for part in text.split("/"):
        if part in ("", ".", ".."):
            raise ValueError(f"empty or dot segment in the request target: {_shown(raw)}")
    return text


def _shown(raw: str) -> str:
    return ascii(raw[:64])
