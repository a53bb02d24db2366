"""INI files as pip reads them."""

from __future__ import annotations

import configparser
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from .values import KeyAt, Values


class INI:
    """What ``configparser`` reads, in pip's dialect: ``_`` and ``-`` in names are one, ``[DEFAULT]`` is a section like others."""

    hash_comments = True

    def read(self, text: str) -> Values:
        parser = configparser.RawConfigParser(default_section="\0")
        try:
            parser.read_file(io.StringIO(text, newline=None))
        except configparser.Error as error:
            raise ValueError(" ".join(str(error).split())) from None
        return {section: {self._name(option): value for option, value in parser.items(section)} for section in parser.sections()}

    def edits(self, text: str, changes: Sequence[tuple[KeyAt, Any]], original: Values) -> tuple[Callable[[], str], ...]:
        return (lambda: self._by_lines(text, changes, original),)

    def _by_lines(self, text: str, changes: Sequence[tuple[KeyAt, Any]], original: Values) -> str:
        lines = text.split("\n")
        end = "\r" if "\r\n" in text else ""
        for path, value in changes:
            section, option = path
            assert isinstance(section, str)
            assert isinstance(option, str)
            if value is None:
                self._remove(lines, section, option, section in original)
            else:
                self._set(lines, section, option, value, end)
        return "\n".join(lines)

    def _set(self, lines: list[str], section: str, option: str, value: str, end: str) -> None:
        head, stop = self._section(lines, section)
        if head < 0:
            if lines[-1].strip():
                lines.append("")
            if len(lines) > 1 and lines[-2].strip():
                lines.insert(-1, end)
            lines[-1:] = [f"[{section}]{end}", *self._written("", option, value, end), ""]
            return
        found = self._options(lines, head, stop)
        mine = [place for place in found if self._name(place[0]) == option]
        for name, start, after in reversed(mine):
            indent = lines[start][: len(lines[start]) - len(lines[start].lstrip())]
            lines[start:after] = self._written(indent, name, value, end)
        if not mine:
            first = lines[found[0][1]] if found else ""
            written = self._written(first[: len(first) - len(first.lstrip())], option, value, end)
            # A header that ends the file without a newline needs one.
            if head + 1 == len(lines):
                lines.append("")
            lines[head + 1 : head + 1] = written

    def _remove(self, lines: list[str], section: str, option: str, keep_section: bool) -> None:
        head, stop = self._section(lines, section)
        for name, start, after in reversed(self._options(lines, head, stop) if head >= 0 else []):
            if self._name(name) == option:
                del lines[start:after]
        head, stop = self._section(lines, section)
        if head < 0 or keep_section or self._options(lines, head, stop):
            return
        if any(line.strip() for line in lines[head + 1 : stop]):
            # Somebody's comment: it stays, without the header it no longer belongs to.
            del lines[head]
        else:
            del lines[head:stop]
            if not lines or lines[-1].strip():
                lines.append("")

    @staticmethod
    def _name(option: str) -> str:
        return option.lower().replace("_", "-")

    @staticmethod
    def _written(indent: str, option: str, value: str, end: str) -> list[str]:
        first, *rest = value.split("\n")
        return [f"{indent}{option} = {first}".rstrip() + end, *(f"{indent}    {line}".rstrip() + end for line in rest)]

    @staticmethod
    def _section(lines: list[str], section: str) -> tuple[int, int]:
        """The line of the section's header and the line after the section; -1 if there is none."""
        head = -1
        for number, line in enumerate(lines):
            found = re.match(r"\[(.+)\]", line.strip()) if not line[:1].isspace() else None
            if found is not None:
                if head >= 0:
                    return head, number
                if found[1] == section:
                    head = number
        return head, len(lines)

    @staticmethod
    def _options(lines: list[str], head: int, stop: int) -> list[tuple[str, int, int]]:
        """Name, first line and line after of each option between ``head`` and ``stop``; values go on in deeper indented lines."""
        found: list[tuple[str, int, int]] = []
        indent = 0
        for number in range(head + 1, stop):
            line = lines[number]
            told = line.strip()
            if not told or told[0] in "#;":
                continue
            depth = len(line) - len(line.lstrip())
            if found and depth > indent:
                found[-1] = (*found[-1][:2], number + 1)
            else:
                indent = depth
                found.append((re.split(r"[=:]", told, maxsplit=1)[0].strip(), number, number + 1))
        return found
