"""The part of YAML that lock files are written in, read strictly: mappings, sequences and strings.

Two programs write it and nobody edits it: indented mappings and sequences, flow collections on one line, plain, quoted and folded
scalars, long keys behind ``?``. What is not of that kind (anchors, tags, directives) is refused with its line rather than guessed at. Every
scalar is a string: what ``true`` or ``6.0`` means is for the reader of the format to say. Essential reading: YAML 1.2, chapters 7 and 8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from . import Malformed

LIMIT_DEPTH = 64
"""How deep collections may lie within one another."""

type Value = str | list[Value] | dict[str, Value]

_PLAIN_END = re.compile(r":(?=\s|$)|\s#")
_NOT_PLAIN = frozenset("\"'[]{}&*!|>%@`#,")
_ESCAPES = {
    "0": "\0",
    "a": "\a",
    "b": "\b",
    "t": "\t",
    "n": "\n",
    "v": "\v",
    "f": "\f",
    "r": "\r",
    "e": "\x1b",
    " ": " ",
    '"': '"',
    "/": "/",
    "\\": "\\",
    "N": "\x85",
    "_": "\xa0",
}
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
_FOLDED = re.compile(r"[|>][+-]?[1-9]?[+-]?\s*(?:#.*)?")


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    indent: int
    text: str


def load(text: str) -> list[Value]:
    """The documents of ``text``, in order; empty ones are left out. Raises ``Malformed`` for anything but the part described above."""
    documents: list[Value] = []
    lines: list[_Line] = []
    raw = [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]
    for number, line in enumerate([*raw, "---"], 1):
        if line.startswith(("---", "...")) and not line[3:].strip():
            if any(each.text for each in lines):
                documents.append(_Reader(lines, raw).document())
            lines = []
            continue
        if line.startswith(("%", "---")):
            raise Malformed(f"{line[:40]!r} is nothing that a lock file is written with", number)
        body = line.lstrip(" ")
        # A line of comment counts for nothing, but may be text of a folded scalar: those read the lines themselves.
        lines.append(_Line(number, len(line) - len(body), "" if body.startswith("#") else body.rstrip()))
    return documents


class _Reader:
    """One document."""

    def __init__(self, lines: list[_Line], raw: list[str]) -> None:
        self._lines = lines
        self._raw = raw
        self._at = 0
        self._depth = 0

    def document(self) -> Value:
        first = self._peek()
        assert first is not None, "a document has a line"
        value = self._node(first.indent)
        if (rest := self._peek()) is not None:
            raise Malformed("this is indented unlike what stands before it", rest.number)
        return value

    def _peek(self) -> _Line | None:
        while self._at < len(self._lines):
            line = self._lines[self._at]
            if line.text:
                if line.text.startswith("\t"):
                    raise Malformed("a tab does not indent", line.number)
                return line
            self._at += 1
        return None

    def _node(self, indent: int) -> Value:
        """What begins at the present line, which is indented by ``indent``."""
        line = self._peek()
        assert line is not None, "whoever calls has seen it"
        self._depth += 1
        if self._depth > LIMIT_DEPTH:
            raise Malformed("nested beyond all reason", line.number)
        try:
            if line.text == "-" or line.text.startswith("- "):
                return self._sequence(indent)
            if line.text.startswith("? ") or _member(line.text, line.number) is not None:
                return self._mapping(indent)
            self._at += 1
            return self._scalar(line.text, line, indent)
        finally:
            self._depth -= 1

    def _mapping(self, indent: int) -> Value:
        found: dict[str, Value] = {}
        while (line := self._peek()) is not None and line.indent == indent:
            if line.text.startswith("? "):
                key, rest = self._long_key(line, indent)
            else:
                member = _member(line.text, line.number)
                if member is None:
                    raise Malformed(f"{line.text[:60]!r} is no member of a mapping", line.number)
                key, rest = member
                self._at += 1
            if key in found:
                raise Malformed(f"{key[:60]!r} is there twice", line.number)
            found[key] = self._value(rest, line, indent, in_mapping=True)
        if line is not None and line.indent > indent:
            raise Malformed("this is indented unlike what stands before it", line.number)
        return found

    def _long_key(self, line: _Line, indent: int) -> tuple[str, str]:
        """A key behind ``?``, whose value begins on the next line behind ``:``."""
        key = self._inline(line.text[2:].strip(), line.number)
        self._at += 1
        after = self._peek()
        if not isinstance(key, str) or after is None or after.indent != indent or not re.match(r":(?:\s|$)", after.text):
            raise Malformed("a key behind ? is a string, and its value follows behind :", line.number)
        self._at += 1
        return key, after.text[1:].lstrip()

    def _value(self, rest: str, line: _Line, indent: int, *, in_mapping: bool) -> Value:
        """What follows a key or a dash on its line: ``rest``, or lines that are indented further."""
        if rest and not rest.startswith("#"):
            return self._scalar(rest, line, indent)
        below = self._peek()
        if below is None or below.indent < indent:
            return ""
        if below.indent > indent:
            return self._node(below.indent)
        # A sequence may stand right below its key.
        if in_mapping and (below.text == "-" or below.text.startswith("- ")):
            return self._node(indent)
        return ""

    def _sequence(self, indent: int) -> Value:
        found: list[Value] = []
        while (line := self._peek()) is not None and line.indent == indent and (line.text == "-" or line.text.startswith("- ")):
            rest = line.text[1:].lstrip()
            inner = indent + len(line.text) - len(rest)
            if rest.startswith(("- ", "? ")) or (rest and _member(rest, line.number) is not None):
                # A collection that begins behind the dash is indented as far as its first line stands.
                self._lines[self._at] = _Line(line.number, inner, rest)
                found.append(self._node(inner))
                continue
            self._at += 1
            found.append(self._value(rest, line, indent, in_mapping=False))
        if line is not None and line.indent > indent:
            raise Malformed("this is indented unlike what stands before it", line.number)
        return found

    def _scalar(self, text: str, line: _Line, indent: int) -> Value:
        """A value that begins on its key's line. A plain or quoted one may go on over lines that are indented further."""
        if _FOLDED.fullmatch(text):
            return self._folded(text, indent)
        if text[0] in "&*!%@`":
            raise Malformed(f"{text[:40]!r} is nothing that a lock file is written with", line.number)
        if text[0] in "[{":
            # Flow collections are written on one line, or broken between their members.
            while (more := self._peek()) is not None and more.indent > indent and not _closes(text):
                text += " " + more.text
                self._at += 1
            return self._inline(text, line.number)
        if text[0] in "\"'":
            while not _is_quoted(text) and (more := self._peek()) is not None and more.indent > indent:
                text += " " + more.text
                self._at += 1
            return self._inline(text, line.number)
        plain = _uncommented(text)
        if re.search(r":(?:\s|$)", plain):
            raise Malformed(f"{text[:60]!r} is neither one value nor a member", line.number)
        while (more := self._peek()) is not None and more.indent > indent and _member(more.text, more.number) is None:
            plain += " " + _uncommented(more.text)
            self._at += 1
        return plain

    def _folded(self, header: str, indent: int) -> str:
        """A literal or folded block: every line that is empty or indented further than ``indent``, as it stands."""
        taken: list[str] = []
        while self._at < len(self._lines):
            line = self._lines[self._at]
            raw = self._raw[line.number - 1]
            if raw.strip() and line.indent <= indent:
                break
            taken.append(raw)
            self._at += 1
        least = min((len(raw) - len(raw.lstrip(" ")) for raw in taken if raw.strip()), default=0)
        body = [raw[least:] for raw in taken]
        text = "\n".join(body) if header.startswith("|") else " ".join(each for each in body if each)
        return text.rstrip("\n")

    # -- on one line

    def _inline(self, text: str, number: int) -> Value:
        value, rest = self._flow(text, number, 0)
        if rest.strip() and not rest.lstrip().startswith("#"):
            raise Malformed(f"{rest.strip()[:60]!r} stands behind a value", number)
        return value

    def _flow(self, text: str, number: int, depth: int) -> tuple[Value, str]:
        """A value at the start of ``text``, and what follows it."""
        text = text.lstrip()
        if depth > LIMIT_DEPTH:
            raise Malformed("nested beyond all reason", number)
        if not text:
            raise Malformed("a value is missing", number)
        match text[0]:
            case "{":
                return self._flow_mapping(text[1:], number, depth + 1)
            case "[":
                return self._flow_sequence(text[1:], number, depth + 1)
            case '"' | "'":
                return _quoted(text, number)
            case first if first in "&*!%@`|>":
                raise Malformed(f"{text[:40]!r} is nothing that a lock file is written with", number)
        if depth == 0:
            return _uncommented(text), ""
        end = re.search(r"[,\[\]{}]|:(?=\s|$)", text)
        stop = end.start() if end is not None else len(text)
        if not text[:stop].strip():
            raise Malformed("a value is missing", number)
        return text[:stop].strip(), text[stop:]

    def _flow_mapping(self, text: str, number: int, depth: int) -> tuple[Value, str]:
        found: dict[str, Value] = {}
        text = text.lstrip()
        while not text.startswith("}"):
            key, text = self._flow(text, number, depth)
            text = text.lstrip()
            if not isinstance(key, str) or key in found or not text.startswith(":"):
                raise Malformed("a collection in braces is made of keys and values", number)
            found[key], text = self._flow(text[1:], number, depth)
            text = _next(text, "}", number)
        return found, text[1:]

    def _flow_sequence(self, text: str, number: int, depth: int) -> tuple[Value, str]:
        found: list[Value] = []
        text = text.lstrip()
        while not text.startswith("]"):
            value, text = self._flow(text, number, depth)
            found.append(value)
            text = _next(text, "]", number)
        return found, text[1:]


def _next(text: str, end: str, number: int) -> str:
    """``text`` at the next member of a flow collection, or at its ``end``."""
    text = text.lstrip()
    if text.startswith(","):
        return text[1:].lstrip()
    if not text.startswith(end):
        raise Malformed(f"a collection does not end with {end}", number)
    return text


def _member(text: str, number: int) -> tuple[str, str] | None:
    """The key that a line begins with, and what follows its colon; None if it begins with none."""
    if text[0] in "\"'":
        if not _is_quoted(text):
            return None
        key, rest = _quoted(text, number)
        rest = rest.lstrip()
        return (key, rest[1:].lstrip()) if rest[:1] == ":" and not rest[1:2].strip() else None
    if text[0] in _NOT_PLAIN or (text[0] in "?:-" and not text[1:2].strip()):
        return None
    end = _PLAIN_END.search(text)
    if end is None or end[0] != ":":
        return None
    return text[: end.start()].rstrip(), text[end.end() :].lstrip()


def _quoted(text: str, number: int) -> tuple[str, str]:
    found = re.match(r"\"((?:[^\"\\]|\\.)*)\"|'((?:[^']|'')*)'", text, re.DOTALL)
    if found is None:
        raise Malformed("a quotation does not end", number)
    value = _unescaped(found[1], number) if found[1] is not None else found[2].replace("''", "'")
    return value, text[found.end() :]


def _is_quoted(text: str) -> bool:
    return re.match(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*'", text, re.DOTALL) is not None


def _closes(text: str) -> bool:
    """Whether as many brackets close in ``text`` as open, those in quotations apart."""
    bare = re.sub(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*'", "", text)
    return sum(map(bare.count, "[{")) <= sum(map(bare.count, "]}"))


def _unescaped(text: str, number: int) -> str:
    def one(found: re.Match[str]) -> str:
        code = found[1] or found[2] or found[3]
        if code is not None:
            value = int(code, 16)
            if value > 0x10FFFF or 0xD800 <= value < 0xE000:
                raise Malformed(f"{found[0]!r} is no character", number)
            return chr(value)
        if found[4] not in _ESCAPES:
            raise Malformed(f"{found[0]!r} is no escape", number)
        return _ESCAPES[found[4]]

    return _ESCAPE.sub(one, text)


def _uncommented(text: str) -> str:
    found = re.search(r"\s#", text)
    return (text[: found.start()] if found is not None else text).strip()
