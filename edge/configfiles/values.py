"""Paths, changes and the check that nothing else was changed: what every format of configuration file shares."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec


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


def _applied(values: Values, changes: Sequence[tuple[KeyAt, Any]], original: Values) -> Values:
    """``values`` with ``changes`` made.

    None takes a key away, and with it the tables above that become empty and were not in ``original``.
    """
    values = copy.deepcopy(values)
    for path, value in changes:
        if value is None:
            take_away(values, path, original)
        else:
            put(values, path, value)
    return values


def put(values: Any, path: KeyAt, value: Any) -> None:
    """Set what is at ``path``, with the tables above it. Raises ``ValueError`` where something else than a table stands."""
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


def take_away(values: Any, path: KeyAt, original: Values) -> None:
    """Remove what is at ``path``, and the tables above it that become empty and are not in ``original``."""
    above = find(values, path[:-1]) if len(path) > 1 else values
    if above is None or find(above, path[-1:]) is None:
        return
    last = path[-1]
    if isinstance(last, Member):
        above.remove(find(above, (last,)))
    else:
        del above[last]
    if not above and len(path) > 1 and find(original, path[:-1]) is None:
        take_away(values, path[:-1], original)


def _same(one: Any, other: Any) -> bool:
    """Whether two readings are equal: order of keys apart, and a NaN like a NaN."""

    def canonical(value: Any) -> Any:
        if isinstance(value, dict):
            return sorted((key, canonical(member)) for key, member in value.items())
        if isinstance(value, list):
            return [canonical(member) for member in value]
        return repr(value)

    return bool(canonical(one) == canonical(other))


class Format(Protocol):
    """A configuration language: reading it, and ways of editing its text. ``hash_comments``: a ``#`` begins a comment in it."""

    hash_comments: bool

    def read(self, text: str) -> Values:
        """Raises ``ValueError`` for text the client could not read either."""
        ...

    def edits(self, text: str, changes: Sequence[tuple[KeyAt, Any]], original: Values) -> tuple[Callable[[], str], ...]:
        """Ways to get the text with ``changes`` made, the one that keeps most first. A way that fails raises ``ValueError``."""
        ...


def edited(format_: Format, text: str, changes: Sequence[tuple[KeyAt, Any]], original: Values) -> str:
    """``text`` with ``changes`` made and nothing else. Raises ``ValueError`` if it is unreadable or no way of editing keeps the rest."""
    values = format_.read(text)
    wanted = _applied(values, changes, original)
    if _same(values, wanted):
        return text
    for way in format_.edits(text, changes, original):
        with contextlib.suppress(ValueError):
            result = way()
            if _same(format_.read(result), wanted):
                return result
    raise ValueError("it is written in a way that cannot be edited without changing something else")
