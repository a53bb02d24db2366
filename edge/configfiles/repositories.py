"""The list of repositories sbt's launcher reads: ``[repositories]``, then ``name`` or ``name: address`` a line, asked in this order."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from .lines import end_of, lines_of
from .values import KeyAt, Values

_ENTRY = re.compile(r"(\s*)([^\s:#\[][^:\r\n]*?)[ \t]*(?::[ \t]*(.*?))?(\s*)", re.DOTALL)


class Repositories:
    """``{section: {name: address}}``; a name alone, which sbt knows by itself, has the address ``""``."""

    hash_comments = True

    def read(self, text: str) -> Values:
        values: Values = {}
        section: dict[str, str] | None = None
        for number, line in enumerate(lines_of(text), 1):
            told = line.strip()
            if not told or told[0] == "#":
                continue
            if head := self._header(line):
                section = values.setdefault(head, {})
                continue
            found = _ENTRY.fullmatch(line)
            if section is None or found is None or found[2] in section:
                raise ValueError(f"line {number} is no repository of its own in a section: {told[:60]}")
            section[found[2]] = found[3] or ""
        return values

    def edits(self, text: str, changes: Sequence[tuple[KeyAt, Any]], original: Values) -> tuple[Callable[[], str], ...]:
        return (lambda: self._by_lines(text, changes, original),)

    def _by_lines(self, text: str, changes: Sequence[tuple[KeyAt, Any]], original: Values) -> str:
        lines, end = lines_of(text), end_of(text)
        for path, value in changes:
            section, name = path
            assert isinstance(section, str)
            assert isinstance(name, str)
            if lines and not lines[-1].endswith(("\n", "\r")):
                lines[-1] += end
            self._change(lines, section, name, value, end)
            if value is None and section not in original and not self._entries(lines, section):
                lines[:] = [line for line in lines if self._header(line) != section]
        return "".join(lines)

    def _change(self, lines: list[str], section: str, name: str, value: str | None, end: str) -> None:
        entries = self._entries(lines, section)
        mine = next((number for number, found in entries if found[2] == name), None)
        if value is None:
            assert mine is not None
            del lines[mine]
            return
        indent = entries[0][1][1] if entries else "  "
        written = f"{indent}{name}: {value}{end}" if value else f"{indent}{name}{end}"
        if mine is not None:
            lines[mine] = written
            return
        if not any(self._header(line) == section for line in lines):
            lines.append(f"[{section}]{end}")
        # What sbt has on this machine is asked first.
        head = next(number for number, line in enumerate(lines) if self._header(line) == section)
        near = [number for number, found in entries if found[2] in {"local", "maven-local"} and not found[3]]
        at = head
        for number, _ in entries:
            if number not in near:
                break
            at = number
        lines.insert(at + 1, written)

    def _entries(self, lines: list[str], section: str) -> list[tuple[int, re.Match[str]]]:
        found = []
        inside = False
        for number, line in enumerate(lines):
            if head := self._header(line):
                inside = head == section
            elif inside and line.strip() and line.strip()[0] != "#" and (entry := _ENTRY.fullmatch(line)):
                found.append((number, entry))
        return found

    @staticmethod
    def _header(line: str) -> str:
        found = re.fullmatch(r"\s*\[([^\]]+)\]\s*", line)
        return found[1] if found else ""
