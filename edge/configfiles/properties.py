"""Java's ``.properties``, as Gradle reads its settings: a key, ``=`` or ``:`` or white space, a value.

Source: the documentation of ``java.util.Properties.load``. A line that ends in an odd number of backslashes goes on in the next.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from .lines import end_of, lines_of
from .values import KeyAt, Values

_ENTRY = re.compile(r"[ \t\f]*((?:[^\\\s=:]|\\.)+)([ \t\f]*[=:]?[ \t\f]*)(.*)", re.DOTALL)


class Properties:
    """A flat table. Values are what they mean, without escapes; of a key that is there twice the last counts."""

    hash_comments = True

    def read(self, text: str) -> Values:
        return {key: value for key, value, _ in self._entries(lines_of(text))}

    def edits(self, text: str, changes: Sequence[tuple[KeyAt, Any]], original: Values) -> tuple[Callable[[], str], ...]:
        return (lambda: self._by_lines(text, changes),)

    def _by_lines(self, text: str, changes: Sequence[tuple[KeyAt, Any]]) -> str:
        lines, end = lines_of(text), end_of(text)
        for path, value in changes:
            (key,) = path
            assert isinstance(key, str)
            mine = [at for name, _, at in self._entries(lines) if name == key]
            written = [] if value is None else [f"{_escaped(key, '=: ')}={_escaped(str(value), '')}{end}"]
            if mine:
                lines[mine[-1]] = written
            elif written:
                if lines and not lines[-1].endswith(("\n", "\r")):
                    lines[-1] += end
                lines += written
        return "".join(lines)

    @staticmethod
    def _entries(lines: list[str]) -> list[tuple[str, str, slice]]:
        """Key, value, and the lines of each entry."""
        found, number = [], 0
        while number < len(lines):
            start, told = number, lines[number].rstrip("\r\n").lstrip(" \t\f")
            number += 1
            if not told or told[0] in "#!":
                continue
            while _goes_on(told) and number < len(lines):
                told = told[:-1] + lines[number].rstrip("\r\n").lstrip(" \t\f")
                number += 1
            entry = _ENTRY.fullmatch(told.removesuffix("\\") if _goes_on(told) else told)
            if entry is None:
                raise ValueError(f"line {start + 1} is no property: {told[:60]}")
            found.append((_meant(entry[1]), _meant(entry[3]), slice(start, number)))
        return found


def _goes_on(line: str) -> bool:
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _meant(written: str) -> str:
    def one(found: re.Match[str]) -> str:
        if found[1].startswith("u"):
            if len(found[1]) != 5:
                raise ValueError("\\u stands without four digits")
            return chr(int(found[1][1:], 16))
        return {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}.get(found[1], found[1])

    # Two escapes may be the halves of one character.
    return (
        re.sub(r"\\(u[0-9a-fA-F]{4}|.)", one, written).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    )


def _escaped(text: str, also: str) -> str:
    """``text`` so that it means itself, in ASCII; a space at its beginning would be passed over."""
    told = re.sub(rf"[\\{re.escape(also)}]" if also else r"\\", lambda found: f"\\{found[0]}", text)
    told = "".join(each if " " <= each <= "~" else "".join(f"\\u{unit:04x}" for unit in _utf16(each)) for each in told)
    return f"\\{told}" if told.startswith(" ") else told


def _utf16(character: str) -> list[int]:
    encoded = character.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(encoded[at : at + 2]) for at in range(0, len(encoded), 2)]
