"""The rules' file, watched: edits are in force within a fraction of a second, accidents never are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from trio.testing import MockClock

from origin.metrics import Metrics
from origin.policy.rules import Rule, parse_rule
from origin.watch import watch_rules

ONE = "pkg:pypi/one"
TWO = "pkg:pypi/two"


def rule(match: str) -> Rule:
    return parse_rule({"name": "test", "match": match, "action": "refuse", "reason": "no"})


def load(path: Path) -> list[Rule]:
    """A rules' file in its simplest form: a match a line, ``!`` for what cannot be parsed."""
    lines = path.read_text().split()
    if "!" in lines:
        raise ValueError(f"{path}:1: not a rule")
    return [rule(line) for line in lines if line != "#"]


class Watched:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = Metrics()
        self.applied: list[list[str]] = []
        self.trouble = ""

    def tell(self, reason: str) -> None:
        self.trouble = reason

    def apply(self, rules: Sequence[Rule]) -> None:
        self.applied.append([r.match.name for r in rules])

    def is_invalid(self) -> bool:
        return self.metrics.registry.get_sample_value("leeward_rules_invalid") == 1


@asynccontextmanager
async def watched(path: Path, *in_force: str) -> AsyncIterator[Watched]:
    w = Watched(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_rules, path, load, w.apply, w.metrics, [rule(match) for match in in_force], w.tell)
        await trio.sleep(0.9)
        yield w
        nursery.cancel_scope.cancel()


async def test_an_edit_is_in_force_within_a_second_and_only_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(ONE)
    async with watched(path, ONE) as w:
        assert w.applied == [], "what is in force already is not applied again"
        path.write_text(f"{ONE} {TWO}")
        await trio.sleep(0.9)
        assert w.applied == [["one", "two"]]
        path.write_text("#")
        await trio.sleep(5)
        assert w.applied == [["one", "two"], []]


async def test_an_edit_between_reading_the_settings_and_watching_is_not_missed(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(ONE)
    w = Watched(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_rules, path, load, w.apply, w.metrics, [])
        await trio.sleep(0.9)
        nursery.cancel_scope.cancel()
    assert w.applied == [["one"]]


async def test_a_file_made_later_is_found(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = tmp_path / "edge.toml"
    async with watched(path) as w:
        assert not w.is_invalid(), "having no file is no fault"
        path.write_text(TWO)
        await trio.sleep(0.9)
        assert w.applied == [["two"]]


async def test_a_file_that_is_gone_empty_or_wrong_keeps_the_last_rules_and_says_so(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(ONE)
    async with watched(path, ONE) as w:
        for accident in (path.unlink, lambda: path.write_text(""), lambda: path.write_text("!")):
            accident()
            await trio.sleep(0.9)
            assert w.applied == []
            assert w.is_invalid()
            assert str(path) in w.trouble or "!" in w.trouble
        path.write_text(TWO)
        await trio.sleep(0.9)
        assert w.applied == [["two"]]
        assert not w.is_invalid()
        assert w.trouble == ""


async def test_a_file_being_written_is_not_read_until_it_keeps_still(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(f"{ONE} {TWO}")
    async with watched(path, ONE, TWO) as w:
        for part in ("#", f"# {ONE}", f"# {ONE} #", f"# {ONE} # {TWO}"):
            path.write_text(part)
            await trio.sleep(0.15)
        await trio.sleep(0.9)
        assert w.applied == [], "the rules are the same as before; none of the states in between was in force"
