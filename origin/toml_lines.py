"""Where each key of a TOML document stands, so that a complaint can name its line and an edit can leave the rest alone.

``tomllib`` tells what a document says, not where. This reads the same text once more, only for keys and their lines; it is meant
for text that ``tomllib`` has accepted, and never judges it. Source: the TOML 1.0 grammar.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Literal

type KeyPath = tuple[str | int, ...]
"""Keys and, for members of arrays, indexes: ``("rules", 0, "match")``."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_INLINE_BLANK = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^\\"]|\\.|"{1,2}(?!"))*"{3,5}' + r"|'''(?:[^']|'{1,2}(?!'))*'{3,5}" + r'|"(?:[^"\\]|\\.)*"' + r"|'[^']*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]*")


def key_lines(text: str) -> dict[KeyPath, int]:
    """Map the path of every key, table and array member in ``text`` to its line, the first being 1.

    A table that several headers open has the line of the first. Raises ``ValueError`` only for text that is not TOML.
    """
    return _Reader(text).document()


@dataclass(frozen=True, slots=True)
class Span:
    """Where something stands, as offsets into the text.

    A ``pair`` is a key and its value on lines of their own, from ``start`` to ``stop``, its value beginning at ``value``; ``inline`` is one
    within braces; a ``header`` is ``[table]`` or ``[[table]]``.
    """

    kind: Literal["pair", "inline", "header"]
    start: int
    value: int
    stop: int


def key_spans(text: str) -> dict[KeyPath, Span]:
    """Map the path of every key with a value, and of every table with a header of its own, to where it stands."""
    reader = _Reader(text)
    reader.document()
    return reader.spans


class _Reader:
    """A position in the text, moving forward; ``lines`` and ``spans`` fill on the way."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self.spans: dict[KeyPath, Span] = {}
        self.array_sizes: dict[KeyPath, int] = {}
        self._counted_to = 0
        self._line = 1

    def document(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while True:
            self._skip(_BLANK)
            if self.at >= len(self.text):
                return self.lines
            start = self.at
            if self.text.startswith("[[", start):
                self.at += 2
                line = self._line_here()
                array = self._inside(self._key())
                index = self.array_sizes.get(array, 0)
                self.array_sizes[array] = index + 1
                table = (*array, index)
                self._note(table, line)
                self._expect("]]")
                self.spans[table] = Span("header", start, start, self.at)
            elif self._peek() == "[":
                self.at += 1
                line = self._line_here()
                table = self._inside(self._key())
                self._note(table, line)
                self._expect("]")
                self.spans[table] = Span("header", start, start, self.at)
            else:
                self._pair(table, "pair")

    def _pair(self, table: KeyPath, kind: Literal["pair", "inline"]) -> None:
        start = self.at
        line = self._line_here()
        path = (*table, *self._key())
        self._note(path, line)
        self._expect("=")
        self._skip(_INLINE_BLANK)
        value = self.at
        self._value(path)
        stop = value + len(self.text[value : self.at].rstrip())
        self.spans[path] = Span(kind, start, value, stop)

    def _value(self, path: KeyPath) -> None:
        self._skip(_INLINE_BLANK)
        if self._peek() == "[":
            self.at += 1
            index = 0
            while self._more("]"):
                self._note((*path, index), self._line_here())
                self._value((*path, index))
                index += 1
        elif self._peek() == "{":
            self.at += 1
            while self._more("}"):
                self._pair(path, "inline")
        elif string := _STRING.match(self.text, self.at):
            self.at = string.end()
        else:
            self._skip(_SCALAR)

    def _more(self, closing: str) -> bool:
        """Step over blanks and one comma; say whether another member follows, stepping over ``closing`` if none does."""
        self._skip(_BLANK)
        if self._peek() == ",":
            self.at += 1
            self._skip(_BLANK)
        if self._peek() == closing:
            self.at += 1
            return False
        if self.at >= len(self.text):
            raise ValueError(f"no {closing!r} before the end")
        return True

    def _key(self) -> tuple[str, ...]:
        parts: list[str] = []
        while True:
            self._skip(_INLINE_BLANK)
            if quoted := _STRING.match(self.text, self.at):
                self.at = quoted.end()
                parts.append(str(tomllib.loads(f"k = {quoted[0]}")["k"]))
            elif bare := _BARE_KEY.match(self.text, self.at):
                self.at = bare.end()
                parts.append(bare[0])
            else:
                raise ValueError(f"no key at line {self._line_here()}")
            self._skip(_INLINE_BLANK)
            if self._peek() != ".":
                return tuple(parts)
            self.at += 1

    def _inside(self, keys: tuple[str, ...]) -> KeyPath:
        """A header's keys as a path: ``[rules.extra]`` after ``[[rules]]`` means the last of the rules."""
        path: KeyPath = ()
        for position, key in enumerate(keys):
            path = (*path, key)
            if path in self.array_sizes and position < len(keys) - 1:
                path = (*path, self.array_sizes[path] - 1)
        return path

    def _note(self, path: KeyPath, line: int) -> None:
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], line)

    def _line_here(self) -> int:
        self._line += self.text.count("\n", self._counted_to, self.at)
        self._counted_to = self.at
        return self._line

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self.text, self.at)
        if found is not None:
            self.at = found.end()

    def _expect(self, token: str) -> None:
        self._skip(_INLINE_BLANK)
        if not self.text.startswith(token, self.at):
            raise ValueError(f"no {token!r} at line {self._line_here()}")
        self.at += len(token)
