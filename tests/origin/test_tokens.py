"""Secrets: kept as digests, found by whoever shows them, and short-lived between siblings."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from origin import tokens
from origin.catalog import Member
from origin.tokens import SIBLING_S, Keyring, digest_of, sibling, sibling_token

FLEET = bytes(range(32))
NOW = 1_700_000_000.0


def test_an_edge_is_known_by_its_secret_and_by_nothing_else() -> None:
    one, other = tokens.new_secret(), tokens.new_secret()
    keyring = Keyring()
    keyring.learn([Member("berlin", digest_of(one), NOW), Member("tokyo", digest_of(other), NOW)])
    assert keyring.edge(f"Bearer {one}") == "berlin"
    assert keyring.edge(f"bearer  {other}") == "tokyo"
    for wrong in (
        None,
        "",
        "Bearer",
        "Bearer ",
        one,
        f"Basic {one}",
        f"Bearer {one}x",
        f"Bearer {digest_of(one)}",
        "Bearer \xff",
    ):
        assert keyring.edge(wrong) is None
    assert one not in repr(keyring)


def test_an_edge_that_was_dismissed_is_not_known_any_more() -> None:
    secret = tokens.new_secret()
    keyring = Keyring()
    keyring.learn([Member("berlin", digest_of(secret), NOW)])
    keyring.learn([])
    assert keyring.edge(f"Bearer {secret}") is None


@given(st.binary(min_size=16, max_size=64))
def test_an_invitations_secret_is_read_in_either_alphabet(secret: bytes) -> None:
    for text in (base64.b64encode(secret), base64.urlsafe_b64encode(secret), base64.urlsafe_b64encode(secret).rstrip(b"=")):
        assert tokens.read_secret(text.decode()) == secret


@pytest.mark.parametrize("text", ["", "abc", "not base64 at all, but long enough!", "é" * 40])
def test_what_is_no_secret_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match="not base64"):
        tokens.read_secret(text)


def test_a_siblings_token_tells_who_made_it_for_a_while() -> None:
    shown = f"Bearer {sibling_token(FLEET, 'eu.west-1', NOW)}"
    for later in (-SIBLING_S, 0.0, SIBLING_S):
        assert sibling(FLEET, shown, NOW + later) == "eu.west-1"
    for later in (-SIBLING_S - 1, SIBLING_S + 1, 120.0):
        assert sibling(FLEET, shown, NOW + later) is None


def test_a_siblings_token_of_another_fleet_is_worth_nothing() -> None:
    assert sibling(bytes(32), f"Bearer {sibling_token(FLEET, 'berlin', NOW)}", NOW) is None


@given(st.integers(0, 200), st.sampled_from("abc.019"))
def test_a_changed_token_is_worth_nothing(place: int, letter: str) -> None:
    made = sibling_token(FLEET, "berlin", NOW)
    place %= len(made)
    changed = made[:place] + letter + made[place + 1 :]
    assert sibling(FLEET, f"Bearer {changed}", NOW) == ("berlin" if changed == made else None)


@given(st.text(max_size=80))
def test_nothing_that_is_sent_makes_a_look_up_fail(text: str) -> None:
    keyring = Keyring()
    assert keyring.edge(text) is None and keyring.edge(f"Bearer {text}") is None
    assert sibling(FLEET, text, NOW) is None and sibling(FLEET, f"Bearer {text}", NOW) is None


@pytest.mark.parametrize(
    ("name", "fits"), [("berlin", True), ("eu-west.1", True), ("a", True), ("", False), ("-a", False), ("A", False)]
)
def test_an_edges_name_is_plain(name: str, fits: bool) -> None:
    assert (tokens.EDGE_NAME.fullmatch(name) is not None) == fits
