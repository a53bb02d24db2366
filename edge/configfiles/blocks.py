"""A block of ours between two marks, in a file that is otherwise somebody else's or not there."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from .lines import end_of
from .values import KeyAt, Values


class Block:
    """Text with one block, the value of ``url``: its address where the block is just as we write it, else its text.

    ``template`` has a place ``{url}`` and ``escape`` spells an address for it.
    """

    def __init__(self, begin: str, template: str, end: str, escape: Callable[[str], str], *, hash_comments: bool = False) -> None:
        self.hash_comments = hash_comments
        self._begin, self._template, self._end, self._escape = begin, template, end, escape
        before, after = re.escape(template).split(re.escape("{url}"), 1)
        self._ours = re.compile(re.escape(begin) + "\n" + before + "(.*)" + after + re.escape(end) + "\n")
        self._block = re.compile(re.escape(begin) + ".*?" + re.escape(end) + r"(?:\r?\n|\Z)", re.DOTALL)

    def read(self, text: str) -> Values:
        found = self._found(text)
        if found is None:
            return {"rest": text.strip()} if text.strip() else {}
        block = found[0].replace("\r\n", "\n")
        ours = self._ours.fullmatch(block if block.endswith("\n") else block + "\n")
        values: Values = {"url": ours[1] if ours is not None and self._escape(ours[1]) == ours[1] else block}
        rest = (text[: found.start()] + text[found.end() :]).strip()
        return values | ({"rest": rest} if rest else {})

    def edits(self, text: str, changes: Sequence[tuple[KeyAt, Any]], original: Values) -> tuple[Callable[[], str], ...]:
        return (lambda: self._edited(text, changes),)

    def _edited(self, text: str, changes: Sequence[tuple[KeyAt, Any]]) -> str:
        for _, value in changes:
            found = self._found(text)
            block = "" if value is None else value if value.startswith(self._begin) else self._written(value)
            block = block.replace("\n", end_of(text))
            if found is not None:
                text = text[: found.start()] + block + text[found.end() :]
            else:
                text += ("" if not text or text.endswith("\n") else end_of(text)) + block
        return text

    def _written(self, url: str) -> str:
        return f"{self._begin}\n{self._template.replace('{url}', self._escape(url))}{self._end}\n"

    def _found(self, text: str) -> re.Match[str] | None:
        if text.count(self._begin) > 1:
            raise ValueError("it has more than one block of ours")
        return self._block.search(text)
