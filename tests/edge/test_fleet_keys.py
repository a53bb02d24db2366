"""The fleet's keys at an edge: a new one is shown once all can have heard of it, and the one before ends."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from edge.enrolment import Identity, read_identity, write_identity
from edge.fleet_keys import SHOWN_S, TAKEN_S, FleetKeys
from origin.tokens import key_name
from tests.scripted import now

OLD, NEW, NEWER = b"o" * 32, b"n" * 32, b"r" * 32


def identity(edge: str, key: bytes = OLD) -> Identity:
    return Identity(
        url="https://origin.test",
        pin="00" * 32,
        edge=edge,
        secret=f"secret of {edge}",
        deployment="d",
        key=base64.b64encode(bytes(32)).decode(),
        fleet=base64.b64encode(key).decode(),
    )


def keys(data: Path, edge: str, key: bytes = OLD) -> FleetKeys:
    made = identity(edge, key)
    write_identity(data / edge, made)
    return FleetKeys(data / edge, made, now)


def knows(one: FleetKeys, other: FleetKeys) -> bool:
    """Whether ``one`` answers what ``other`` asks, and is believed."""
    is_known = one.who(f"Bearer {other.token()}") is not None
    return is_known and other.proof_of("an answer") in one.proofs_of("an answer").split()


async def test_siblings_know_each_other_through_a_change_of_the_key_and_the_dismissed_is_a_stranger_in_the_end(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    first, second, dismissed = keys(tmp_path, "first"), keys(tmp_path, "second"), keys(tmp_path, "dismissed")
    await first.learn(NEW)
    assert first.name == key_name(NEW)
    assert knows(first, second) and knows(second, first), "one has heard of it and the other not yet"
    await trio.sleep(SHOWN_S - 1)
    await second.learn(NEW)
    await trio.sleep(2)
    assert knows(first, second) and knows(second, first), "one shows it and the other not yet"
    await trio.sleep(SHOWN_S)
    assert knows(first, second) and knows(second, first)
    assert not knows(dismissed, first), "what it says is believed no more"
    late = keys(tmp_path, "late")
    assert first.who(f"Bearer {late.token()}") == "late", "it was out of contact"
    await trio.sleep(TAKEN_S - SHOWN_S)
    assert knows(first, second) and knows(second, first)
    assert first.who(f"Bearer {dismissed.token()}") is None
    new = keys(tmp_path, "new", NEW)
    assert knows(first, new) and knows(new, first)


async def test_siblings_know_each_other_though_one_has_heard_of_fewer_keys_when_several_edges_are_dismissed_in_a_row(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    first, second, dismissed = (keys(tmp_path, name) for name in ("first", "second", "dismissed"))
    await first.learn(NEW)
    await trio.sleep(20)
    await first.learn(NEWER)
    await trio.sleep(10)
    await second.learn(NEWER)
    for _ in range(30):
        assert knows(first, second) and knows(second, first), trio.current_time()
        await trio.sleep(5)
    assert not knows(dismissed, first), "it shows the newest by now"
    assert first.name == second.name == key_name(NEWER)
    await trio.sleep(TAKEN_S)
    assert knows(first, second) and knows(second, first)
    assert not knows(first, dismissed) and not knows(first, keys(tmp_path, "dismissed-later", NEW))


async def test_the_oldest_key_is_shown_no_longer_than_others_take_it_however_many_are_dismissed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    first, other = keys(tmp_path, "first"), keys(tmp_path, "other")
    for number in range(40):
        await first.learn(bytes([number]) * 32)
        await trio.sleep(10)
        await other.learn(bytes([number]) * 32)
        await trio.sleep(20)
        assert knows(first, other) and knows(other, first), number


async def test_a_key_that_is_in_force_again_is_no_former_one(tmp_path: Path) -> None:
    first = keys(tmp_path, "first")
    for key in (NEW, OLD):
        await first.learn(key)
    assert len(first.proofs_of("an answer").split()) == 2
    kept = read_identity(tmp_path / "first")
    assert kept is not None and [base64.b64decode(former.key) for former in kept.fleet_former] == [NEW]
    assert kept.fleet_former[0].key not in repr(kept.fleet_former)


async def test_a_change_of_the_key_goes_on_after_a_restart(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    first, old = keys(tmp_path, "first"), keys(tmp_path, "old")
    await first.learn(NEW)
    kept = read_identity(tmp_path / "first")
    assert kept is not None and kept.fleet_key == NEW
    again = FleetKeys(tmp_path / "first", kept, now)
    assert knows(again, old) and knows(old, again)
    await trio.sleep(TAKEN_S)
    assert not knows(again, old) and not knows(old, again)


async def test_the_key_is_not_written_over_what_was_enrolled_anew(tmp_path: Path) -> None:
    first = keys(tmp_path, "first")
    anew = msgspec.structs.replace(identity("first"), secret="another")
    write_identity(tmp_path / "first", anew)
    await first.learn(NEW)
    assert read_identity(tmp_path / "first") == anew


async def test_a_key_that_cannot_be_written_down_is_in_force(tmp_path: Path) -> None:
    first = keys(tmp_path, "first")
    (tmp_path / "first" / "origin.json").write_text("{")
    await first.learn(NEW)
    assert first.name == key_name(NEW)


async def test_what_is_no_key_is_not_taken(tmp_path: Path) -> None:
    first = keys(tmp_path, "first")
    with pytest.raises(ValueError, match="too short"):
        await first.learn(b"")
    assert first.name == key_name(OLD)
    assert "o" * 8 not in repr(first)
