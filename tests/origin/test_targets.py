"""The strict reading of request targets: what passes is unambiguous, what is doubtful is refused."""

from __future__ import annotations

import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from origin import targets
from origin.targets import Target


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("simple/six/", Target(("simple", "six"), "", True)),
        ("/simple/six", Target(("simple", "six"), "", False)),
        ("", Target((), "", True)),
        ("/", Target((), "", True)),
        ("simple/six/?format=a%2Fb", Target(("simple", "six"), "format=a%2Fb", True)),
        ("packages/ab/six-1.0%2Blocal.tar.gz", Target(("packages", "ab", "six-1.0+local.tar.gz"), "", False)),
        ("a/%C3%A9", Target(("a", "é"), "", False)),
        ("a/" + "x" * 255, Target(("a", "x" * 255), "", False)),
        ("a/...", Target(("a", "..."), "", False)),
        ("a/100%25", Target(("a", "100%"), "", False)),
        ("@scope/name", Target(("@scope", "name"), "", False)),
    ],
)
def test_a_plain_target_is_decoded_once(target: str, expected: Target) -> None:
    assert targets.parse(target) == expected


@pytest.mark.parametrize(
    "target",
    [
        "../etc/passwd",
        "a/../b",
        "a/..",
        "a/./b",
        "a/%2e%2e/b",
        "a/.%2e/b",
        "a/%2E./b",
        "a/%2e",
        "a//b",
        "//a",
        "a//",
        "a%2fb",
        "a%2Fb",
        "a/%00",
        "a/b%00.whl",
        "a/%0d%0aX:y",
        "a/%7f",
        "a/%C2%85",
        "a\\b",
        "a%5Cb",
        "a%5c..%5cb",
        "a/%252e%252e/b",
        "a/%252f",
        "a/%2500",
        "a/%zz",
        "a/%",
        "a/%2",
        "a/%ff",
        "a/%C3",
        "a#b",
        "a?b#c",
        "a b",
        "a\tb",
        "a\x00b",
        "aéb",
        "a?é",
        "a?%zz",
        "a/" + "x" * 256,
        "a/" + "%C3%A9" * 128,
        "http://pypi.test/a",
    ],
)
def test_a_doubtful_target_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="request target"):
        targets.parse(target)


def test_an_encoded_slash_passes_only_where_it_is_asked_for() -> None:
    assert targets.parse("@s%2Fname", encoded_slash=True) == Target(("@s/name",), "", False)
    for doubtful in ("%2F..", "a%2F..%2Fb", "a%2F", "%2Fa", "a%252Fb"):
        with pytest.raises(ValueError, match="request target"):
            targets.parse(doubtful, encoded_slash=True)


_names = st.text(alphabet=string.ascii_letters + string.digits + "-_.+@ é日", min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..")
)


@given(st.lists(_names, min_size=1, max_size=5))
def test_quoting_segments_and_parsing_them_gives_them_back(segments: list[str]) -> None:
    target = "/".join(quote(segment, safe="") for segment in segments)
    assert targets.parse(target) == Target(tuple(segments), "", False)


@given(st.text(max_size=60))
def test_any_text_parses_safely_or_is_a_value_error(text: str) -> None:
    try:
        target = targets.parse(text)
    except ValueError:
        return
    for segment in target.segments:
        assert segment not in ("", ".", "..")
        assert not set(segment) & set("/\\\x00\r\n")
