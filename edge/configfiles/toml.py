"""TOML files."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Sequence
from typing import Any

import tomlkit
import tomlkit.exceptions
import tomlkit.items

from origin.toml_lines import KeyPath, key_spans

from .values import KeyAt, Member, Values, find, put, take_away


class TOML:
    """TOML: lines of their own are edited as text; what is written inline is left to tomlkit, which may move comments."""

    hash_comments = True

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
                    take_away(document, path, original)
                else:
                    put(document, path, value)
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
