"""Changing a few keys of a configuration file somebody else wrote, and nothing else in it.

A file is text and what it reads as. ``edited`` tries the ways a format has of changing the text and takes the first whose result
reads as wanted: as before but for the changes. Comments, order and layout stay wherever a line-wise edit can do it.
"""

from __future__ import annotations

import configparser
import contextlib
import copy
import io
import re
import tomllib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import tomlkit
import tomlkit.exceptions
import tomlkit.items

from origin.toml_lines import KeyPath, key_spans

# ---- paths and changes -----------------------------------------------------------------------------------------------


class Member(msgspec.Struct, frozen=True):
    """The first table in an array of tables whose ``key`` is ``value``: one step of a path."""

    key: str
    value: str | bool


type KeyAt = tuple[str | Member, ...]
"""Where a key is: ``("global", "index-url")``, ``("index", Member("default", True), "url")``. One that ends in a Member is a table."""

type Values = dict[str, Any]
"""What a file says, as nested tables."""


def find(values: Any, path: KeyAt) -> Any:
    """What stands at ``path``, None if nothing does."""
    for step in path:
        if isinstance(step, Member):
            tables = [table for table in values if isinstance(table, dict)] if isinstance(values, list) else []
            values = next((table for table in tables if table.get(step.key) == step.value), None)
        else:
            values = values.get(step) if isinstance(values, dict) else None
        if values is None:
            return None
    return values


def _apply(values: Values, changes: Sequence[tuple[KeyAt, Any]], original: Values) -> Values:
    """``values`` with ``changes`` made.

    None takes a key away, and with it the tables above that become empty and were not in ``original``.
    """
    values = copy.deepcopy(values)
    for path, value in changes:
        if value is None:
            _take_away(values, path, original)
        else:
            _put(values, path, value)
    return values


def _put(values: Any, path: KeyAt, value: Any) -> None:
    for step, following in zip(path, (*path[1:], None), strict=True):
        belongs: type[Any] = list if isinstance(step, Member) else dict
        if not isinstance(values, belongs):
            raise ValueError("something else stands where a table belongs")  # noqa: TRY004  # the file is wrong, no argument
        if isinstance(step, Member):
            found = find(values, (step,))
            if found is None:
                values.append(found := dict(value) if following is None else {step.key: step.value})
            values = found
        elif following is None:
            values[step] = value
        else:
            values = values.setdefault(step, [] if isinstance(following, Member) else {})


def _take_away(values: Any, path: KeyAt, original: Values) -> None:
    above = find(values, path[:-1]) if len(path) > 1 else values
    if above is None or find(above, path[-1:]) is None:
        return
    last = path[-1]
    if isinstance(last, Member):
        above.remove(find(above, (last,)))
    else:
        del above[last]
    if not above and len(path) > 1 and find(original, path[:-1]) is None:
        _take_away(values, path[:-1], original)


def _same(one: Any, other: Any) -> bool:
    """Whether two readings are equal: order of keys apart, and a NaN like a NaN."""

    def canonical(value: Any) -> Any:
        if isinstance(value, dict):
            return sorted((key, canonical(member)) for key, member in value.items())
        if isinstance(value, list):
            return [canonical(member) for member in value]
        return repr(value)

    return bool(canonical(one) == canonical(other))


# ---- formats --------------------------------------------------------------------------------------------------------


class Format(Protocol):
    """A configuration language: reading it, and ways of editing its text."""

    def read(self, text: str) -> Values:
        """Raises ``ValueError`` for text the client could not read either."""
        ...

    def edits(self, text: str, changes: Sequence[tuple[KeyAt, Any]], original: Values) -> tuple[Callable[[], str], ...]:
        """Ways to get the text with ``changes`` made, the one that keeps most first. A way that fails raises ``ValueError``."""
        ...


class INI:
    """What ``configparser`` reads, in pip's dialect: ``_`` and ``-`` in names are one, ``[DEFAULT]`` is a section like others."""

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


class TOML:
    """TOML: lines of their own are edited as text; what is written inline is left to tomlkit, which may move comments."""

    def read(self, text: str) -> Values:
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(str(error)) from None

    def edits(self, text: str, changes: Sequence[tuple[KeyAt, Any]], original: Values) -> tuple[Callable[[], str], ...]:
        return lambda: self._by_lines(text, changes, original), lambda: self._by_tomlkit(text, changes, original)

    def _by_lines(self, text: str, changes: Sequence[tuple[KeyAt, Any]], original: Values) -> str:
        for path, value in changes:
            text = self._without(text, path, original) if value is None else self._with(text, path, value)
        return text

    @staticmethod
    def _by_tomlkit(text: str, changes: Sequence[tuple[KeyAt, Any]], original: Values) -> str:
        try:
            document = tomlkit.parse(text)
            for path, value in changes:
                if value is None:
                    _take_away(document, path, original)
                else:
                    _put(document, path, value)
            return tomlkit.dumps(document)
        except (tomlkit.exceptions.TOMLKitError, AttributeError, KeyError, IndexError, TypeError) as error:
            raise ValueError(str(error)) from None

    def _with(self, text: str, path: KeyAt, value: Any) -> str:
        """``text`` with ``value`` at ``path``: in the place of what is there, beneath the table's header, or at the end."""
        spans = key_spans(text)
        end = "\r\n" if "\r\n" in text else "\n"
        at = self._indexed(text, path)
        if found := spans.get(at):
            return text[: found.value] + self._written(value) + text[found.stop :]
        pair = "" if isinstance(path[-1], Member) else f"{self._dotted(path[-1:])} = {self._written(value)}{end}"
        above = spans.get(at[:-1])
        if pair and above is not None and above.kind == "header":
            after = text.find("\n", above.stop) + 1
            return text[:after] + pair + text[after:] if after else text + end + pair
        if isinstance(path[-1], Member):
            added = f"[[{self._dotted(path)}]]{end}"
            added += "".join(f"{name} = {self._written(member)}{end}" for name, member in value.items())
        else:
            added = f"[{self._dotted(path[:-1])}]{end}{pair}"
        return text + (end if text and not text.endswith("\n") else "") + (end if text.strip() else "") + added

    def _without(self, text: str, path: KeyAt, original: Values) -> str:
        """``text`` without what is at ``path``, and without the header above it if that has nothing left and is not in ``original``."""
        at = self._indexed(text, path)
        spans = key_spans(text)
        mine = [span for key, span in spans.items() if key[: len(at)] == at and span.kind != "inline"]
        if not mine:
            return text
        start = text.rfind("\n", 0, min(span.start for span in mine)) + 1
        stop = text.find("\n", max(span.stop for span in mine)) + 1 or len(text)
        if spans.get(at) is not None and spans[at].kind == "header" and re.search(r"\n\r?\n\Z", text[:start]):
            # The empty line above a table came with it.
            start = text.rfind("\n", 0, start - 1) + 1
        text = text[:start] + text[stop:]
        above = path[:-1]
        emptied = above and not isinstance(path[-1], Member) and find(self.read(text), above) == {}
        return self._without(text, above, original) if emptied and find(original, above) is None else text

    def _indexed(self, text: str, path: KeyAt) -> KeyPath:
        """``path`` with the index of each Member; one that is not there has the index after the last."""
        at: KeyPath = ()
        values: Any = self.read(text)
        for step in path:
            if isinstance(step, Member):
                tables = values if isinstance(values, list) else []
                found = find(tables, (step,))
                at = (*at, next((index for index, table in enumerate(tables) if table is found), len(tables)))
            else:
                at = (*at, step)
            values = find(values, (step,))
        return at

    @staticmethod
    def _dotted(path: KeyAt) -> str:
        return ".".join(tomlkit.key(step).as_string() for step in path if isinstance(step, str))

    @staticmethod
    def _written(value: str | bool) -> str:
        return tomlkit.item(value).as_string()


def edited(format_: Format, text: str, changes: Sequence[tuple[KeyAt, Any]], original: Values) -> str:
    """``text`` with ``changes`` made and nothing else. Raises ``ValueError`` if it is unreadable or no way of editing keeps the rest."""
    values = format_.read(text)
    wanted = _apply(values, changes, original)
    if _same(values, wanted):
        return text
    for way in format_.edits(text, changes, original):
        with contextlib.suppress(ValueError):
            result = way()
            if _same(format_.read(result), wanted):
                return result
    raise ValueError("it is written in a way that cannot be edited without changing something else")
