"""Files of one setting a line, as the npm world writes them: ``.npmrc``, ``.yarnrc`` and ``.yarnrc.yml``.

A value is the text as it is written, quotes included and without the comment behind it, so that what was there can be put back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .values import KeyAt, Values

_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


@dataclass(frozen=True, slots=True)
class Entry:
    """One setting: lines ``start`` to ``stop`` (excluded), and in the first of them the value between two columns."""

    key: str
    start: int
    stop: int
    value: tuple[int, int]


def lines_of(text: str) -> list[str]:
    """The lines with their ends, which may be any of the three."""
    return _LINES.findall(text)


def end_of(text: str) -> str:
    """The line end the file uses."""
    return "\r\n" if "\r\n" in text else "\n"


def unquoted(value: str) -> str:
    """What a value means where quotes are only quotes."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        try:
            return str(json.loads(value))
        except ValueError:
            return value
    return value[1:-1].replace("''", "'") if len(value) > 1 and value[0] == value[-1] == "'" else value


def _added(lines: list[str], at: int, written: list[str], end: str) -> None:
    """Insert ``written`` before line ``at``, and give the line above an end if it has none."""
    if at and not lines[at - 1].endswith(("\n", "\r")):
        lines[at - 1] += end
    lines[at:at] = [line + end for line in written]


def _put_value(line: str, entry: Entry, value: str) -> str:
    first, last = entry.value
    return line[:first] + value + line[last:]


class NPMRC:
    """``.npmrc`` as npm's ``ini`` reads it: of a key that is there twice the last counts; what is in a section configures nothing."""

    _line = re.compile(r"(\s*)([^=\r\n]*?)(\s*=[ \t]*|(?=\s*\Z))(.*?)(\s*)\Z", re.DOTALL)
    hash_comments = True

    def read(self, text: str) -> Values:
        values: Values = {}
        section = values
        for line in lines_of(text):
            if head := self._header(line):
                section = values.setdefault(head, {})
            elif entry := self._entry(line, 0):
                value = line[slice(*entry.value)] if "=" in line else "true"
                comment = line[entry.value[1] :].strip()
                if entry.key.endswith("[]"):
                    section.setdefault(entry.key, []).append(f"{value} {comment}")
                else:
                    section[entry.key] = value
        return values

    def edits(self, text: str, changes: Sequence[tuple[KeyAt, Any]], original: Values) -> tuple[Callable[[], str], ...]:
        return (lambda: self._by_lines(text, changes),)

    def _by_lines(self, text: str, changes: Sequence[tuple[KeyAt, Any]]) -> str:
        lines = lines_of(text)
        for path, value in changes:
            (key,) = path
            first_header = next((number for number, line in enumerate(lines) if self._header(line)), None)
            found = [entry for number, line in enumerate(lines[:first_header]) if (entry := self._entry(line, number))]
            mine = [entry for entry in found if entry.key == key]
            if value is None:
                del lines[mine[-1].start]
            elif mine and "=" in lines[mine[-1].start]:
                lines[mine[-1].start] = _put_value(lines[mine[-1].start], mine[-1], value)
            elif first_header is None:
                _added(lines, len(lines), [f"{key}={value}"], end_of(text))
            else:
                _added(lines, found[-1].stop if found else 0, [f"{key}={value}"], end_of(text))
        return "".join(lines)

    @staticmethod
    def _header(line: str) -> str:
        found = re.fullmatch(r"\s*(\[[^\]]*\])\s*", line)
        return found[1] if found else ""

    def _entry(self, line: str, number: int) -> Entry | None:
        told = line.strip()
        if not told or told[0] in ";#":
            return None
        found = self._line.fullmatch(line)
        assert found is not None
        first, last = found.span(4)
        quoted = re.match(r"""("(?:[^"\\]|\\.)*"|'[^']*')\s*\Z""", line[first:last])
        # An unquoted value ends at a comment; a backslash takes the meaning from both signs.
        cut = None if quoted else re.search(r"\s*(?<!\\)[;#]", line[first:last])
        return Entry(unquoted(found[2].strip()), number, number + 1, (first, first + cut.start() if cut else last))


class YarnRC:
    """``.yarnrc`` of Yarn 1: ``key "value"`` or ``key: value``, indented lines belong to the key above."""

    _quoted = r'"(?:[^"\\\r\n]|\\.)*"'
    _line = re.compile(
        rf'({_quoted}|[^\s:"#,]+)(\s*:[ \t]*|[ \t]+|(?=[\r\n]|\Z))' + rf"({_quoted}(?=\s*(?:\#|\Z))|[^#\r\n]*?)(\s*(?:\#.*)?)",
        re.DOTALL,
    )
    hash_comments = True

    def read(self, text: str) -> Values:
        lines = lines_of(text)
        values: Values = {}
        for entry in self._entries(lines):
            first, last = entry.value
            values[entry.key] = "\n".join([lines[entry.start][first:last], *(told for told in self._below(lines, entry))])
        return values

    def edits(self, text: str, changes: Sequence[tuple[KeyAt, Any]], original: Values) -> tuple[Callable[[], str], ...]:
        return (lambda: self._by_lines(text, changes),)

    def _by_lines(self, text: str, changes: Sequence[tuple[KeyAt, Any]]) -> str:
        lines = lines_of(text)
        for path, value in changes:
            (key,) = path
            assert isinstance(key, str)
            mine = [entry for entry in self._entries(lines) if entry.key == key]
            if value is None:
                del lines[mine[-1].start : mine[-1].stop]
            elif not mine:
                _added(lines, len(lines), [f"{key} {value}"], end_of(text))
            elif self._below(lines, mine[-1]):
                raise ValueError("several lines stand where one belongs")
            else:
                at = mine[-1].start
                separated = lines[at] if mine[-1].value[0] > len(key) else lines[at].replace(key, f"{key} ", 1)
                shifted = len(separated) - len(lines[at])
                moved = Entry(key, at, at + 1, (mine[-1].value[0] + shifted, mine[-1].value[1] + shifted))
                lines[at] = _put_value(separated, moved, value)
        return "".join(lines)

    def _entries(self, lines: list[str]) -> list[Entry]:
        """Raises ``ValueError`` for a line that is no setting: its place among the others would be a guess."""
        entries: list[Entry] = []
        for number, line in enumerate(lines):
            told = line.strip()
            if not told or told[0] == "#":
                continue
            if line[0] in " \t":
                if not entries:
                    raise ValueError(f"line {number + 1} is indented beneath nothing")
                entries[-1] = Entry(entries[-1].key, entries[-1].start, number + 1, entries[-1].value)
                continue
            found = self._line.fullmatch(line)
            if found is None:
                raise ValueError(f"line {number + 1} is no setting: {told[:60]}")
            entries.append(Entry(unquoted(found[1]), number, number + 1, found.span(3)))
        return entries

    @staticmethod
    def _below(lines: list[str], entry: Entry) -> list[str]:
        return [
            told for line in lines[entry.start + 1 : entry.stop] if (told := line.rstrip()).strip() and told.strip()[0] != "#"
        ]


class YAMLLines:
    """The plain block YAML people write settings in: ``key: value`` at the left, what belongs to it on the same line or beneath.

    Only the top level is told apart. A value is its text, or a list of texts where it is one of plain items. Anything else a document
    may consist of at its top level (a flow mapping, several documents) raises ``ValueError``.
    """

    _key = r"""("(?:[^"\\\r\n]|\\.)*"|'(?:[^'\r\n]|'')*'|[^\s#?:,\[\]{}&*!|>'"%@`-][^:#\r\n]*?)"""
    _scalar = r"""("(?:[^"\\\r\n]|\\.)*"|'(?:[^'\r\n]|'')*'|[^\s#].*?|)(\s*|[ \t]+\#.*\s*)"""
    _line = re.compile(_key + r"([ \t]*:)(?:[ \t]+" + _scalar + r"|\s*)")
    _item = re.compile(r"([ \t]*)-[ \t]+" + _scalar)
    hash_comments = True

    def read(self, text: str) -> Values:
        lines = lines_of(text)
        return {entry.key: self._value(lines, entry) for entry in self._entries(lines)}

    def edits(self, text: str, changes: Sequence[tuple[KeyAt, Any]], original: Values) -> tuple[Callable[[], str], ...]:
        return (lambda: self._by_lines(text, changes),)

    def _by_lines(self, text: str, changes: Sequence[tuple[KeyAt, Any]]) -> str:
        lines = lines_of(text)
        end = end_of(text)
        for path, value in changes:
            (key,) = path
            assert isinstance(key, str)
            mine = [entry for entry in self._entries(lines) if entry.key == key]
            if value is None:
                del lines[mine[-1].start : mine[-1].stop]
            elif not mine:
                _added(lines, len(lines), self._written(key, value), end)
            else:
                self._set(lines, mine[-1], value, end)
        return "".join(lines)

    def _set(self, lines: list[str], entry: Entry, value: str | list[str], end: str) -> None:
        before = self._value(lines, entry)
        line = lines[entry.start]
        written = line[slice(*entry.value)]
        if written[:1] in {"&", "!"}:
            raise ValueError("an anchor or a tag stands where a value belongs")
        if isinstance(value, str) and isinstance(before, str) and entry.stop == entry.start + 1:
            lines[entry.start] = _put_value(line, entry, value if line[entry.value[0] - 1] != ":" or not value else f" {value}")
        elif isinstance(value, list) and isinstance(before, list) and written:
            lines[entry.start] = _put_value(line, entry, f"[{', '.join(value)}]")
        elif isinstance(value, list) and isinstance(before, list):
            self._set_items(lines, entry, value, end)
        elif any("#" in line for line in lines[entry.start : entry.stop]):
            raise ValueError("a comment stands within the value")
        else:
            lines[entry.start : entry.stop] = [line + end for line in self._written(entry.key, value)]

    def _set_items(self, lines: list[str], entry: Entry, value: list[str], end: str) -> None:
        """Take away items that are not in ``value`` and add those that are only there, at the end."""
        left = list(value)
        indent = "  "
        at = entry.start + 1
        for number in range(entry.start + 1, entry.stop):
            found = self._item.fullmatch(lines[at])
            if found is None:
                at += 1
                continue
            indent = found[1]
            if left and found[2] == left[0]:
                del left[0]
                at += 1
            elif number >= entry.start:
                del lines[at]
        _added(lines, at, [f"{indent}- {item}" for item in left], end)

    @staticmethod
    def _written(key: str, value: str | list[str]) -> list[str]:
        if isinstance(value, list):
            return [f"{key}:", *(f"  - {item}" for item in value)]
        return [f"{key}: {value}".rstrip()]

    def _entries(self, lines: list[str]) -> list[Entry]:
        entries: list[Entry] = []
        for number, line in enumerate(lines):
            told = line.strip()
            if not told or line[0] == "#" or (told[0] == "#" and not entries):
                continue
            belongs = line[0] in " \t" or re.match(r"-(?:\s|\Z)", line)
            if belongs and entries:
                if told[0] != "#":
                    entries[-1] = Entry(entries[-1].key, entries[-1].start, number + 1, entries[-1].value)
                continue
            if not entries and re.fullmatch(r"---\s*", line):
                continue
            found = self._line.fullmatch(line)
            if found is None:
                raise ValueError(f"line {number + 1} is no plain setting: {told[:60]}")
            after = found.end(2)
            entries.append(
                Entry(unquoted(found[1]), number, number + 1, found.span(3) if found[3] is not None else (after, after))
            )
        return entries

    def _value(self, lines: list[str], entry: Entry) -> str | list[str]:
        written = lines[entry.start][slice(*entry.value)]
        below = [line for line in lines[entry.start + 1 : entry.stop] if line.strip() and line.strip()[0] != "#"]
        if not below:
            listed = re.fullmatch(r"\[([^\[\]{}]*)\]", written)
            if listed is None:
                return written
            return [item.strip() for item in listed[1].split(",")] if listed[1].strip() else []
        items = [self._item.fullmatch(line) for line in below]
        plain = [
            item[2] for item in items if item is not None and item[2] and not re.match(r"[\[{&!*|>]|[^\"']+:(\s|\Z)", item[2])
        ]
        if not written and len(plain) == len(below) and len({item[1] for item in items if item is not None}) == 1:
            return plain
        return "\n".join([written, *(line.rstrip() for line in below)])
