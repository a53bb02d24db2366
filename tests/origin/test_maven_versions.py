"""The order of Maven versions, by table: the specification's own examples, and what projects really publish."""

from __future__ import annotations

from itertools import combinations

import pytest

from origin.registries.maven_versions import highest, in_order, is_snapshot, is_version, version_key

ASCENDING = (
    # From the "Version Order Specification" (POM reference).
    "1 1.1",
    "1-snapshot 1 1-sp",
    "1-foo2 1-foo10",
    "1.foo 1-1 1.1",
    "1-ga 1-sp",
    "1-ga.1 1-sp.1 1-sp.2",
    "1-sp-1 1-ga-1",
    "1-alpha 1-beta 1-milestone 1-rc 1-snapshot 1 1-sp 1-abc",
    "1-1 1.1",
    "1.foo 1.0.1",
    "1-a.1 1-1",
    # Digits have the natural order, whatever their number.
    "1 2 10 11 100",
    "1.2 1.9 1.10 1.11",
    "2.0.2147483647 2.0.2147483648 2.0.99999999999999999998 2.0.99999999999999999999",
    "1.0.9 1.0.10 1.1 1.1.0.1 1.2",
    "0 0.0.1 0.1 1",
    "2.1 3 20040616 20050101",
    # Qualifiers with numbers.
    "1.0-alpha-1 1.0-alpha-2 1.0-alpha-10 1.0-beta-1 1.0-beta-2 1.0-rc-1 1.0-rc-2 1.0-SNAPSHOT 1.0",
    "1.0a1 1.0a2 1.0b1 1.0m1 1.0rc1 1.0",
    "1.0-alpha-1-SNAPSHOT 1.0-alpha-1",
    "1.0-alpha 1.0-alpha-1 1.0-alpha.1",
    "2.0.0.M1 2.0.0.M2 2.0.0.M10 2.0.0.RC1 2.0.0.RELEASE 2.0.1.RELEASE",
    "4.1.0.Alpha1 4.1.0.Beta1 4.1.0.CR1 4.1.0.CR2 4.1.0.Final 4.1.0.SP1 4.1.1.Final",
    "Greenwich.SR6 Hoxton.RELEASE Hoxton.SR1 Hoxton.SR2 Hoxton.SR10 2020.0.1",
    "9.4.9.v20180320 9.4.10.RC1 9.4.10.v20180503 9.4.53.v20231009",
    "30.0-jre 31.0.1-jre 31.1-android 31.1-jre",
    "4.13-beta-3 4.13-rc-1 4.13-rc-2 4.13 4.13.1 4.13.2",
    "1.9.0-Beta 1.9.0-RC 1.9.0-RC2 1.9.0 1.9.20-dev-123 1.9.20-1 1.9.21 1.9.22 1.9.22.1",
    "1.0-20240101.120000-3 1.0-20240101.120000-10 1.0-20240102.110000-1",
    "1.0 1.0-pre1 1.0-1 1.0-2 1.0-10 1.0.1",
    "1.0+build.5 1.0+build.12",
    "1.0 1_1 1.1",
    "2.3 2.3-pfd 2.3-1 2.3.1",
    "1.0.0-rc.1 1.0.0-rc.2 1.0.0-rc.11 1.0.0",
    "2.7.8.1 2.7.9-rc1 2.7.9",
)
"""Each line is in order, so that any two of a line are a pair."""

EQUAL = (
    "1 1. 1- 1.0 1.0.0 1.0-0 1-0 1.00 01 1.ga 1-ga 1.final 1-final 1.0.0-0.0.0 1.RELEASE 1-GA 1.0.Final",
    "1-alpha-1 1-a1 1-alpha1 1a1 1.0-a1 1.0.0alpha1 1-ALPHA-1 1.alpha1",
    "1-b2 1-beta-2 1.0-BETA2",
    "1-m3 1-milestone-3 1.0.M3",
    "1-rc1 1-cr1 1.RC1 1.0.CR1",
    "1-foo 1.foo 1.0.0-foo.0.0 1foo",
    "1-1.foo-bar1baz-.1 1-1.foo-bar-1-baz-0.1",
    "1-1 1.0-1 1-ga-1 1.0.0-1 1.-1 1-01",
    "1x 1.0.0-x 1.0-x 1.0.0x",
    "0 0.0 ga final 0-ga",
    "1.0-SNAPSHOT 1-snapshot 1.0.0-Snapshot 1.0.snapshot",
    "1..2 1.0.2 1.00.2",
    "1-sp 1.sp 1.0-SP",
)


PAIRS = [pair for line in ASCENDING for pair in combinations(line.split(), 2)]
SAME = [pair for line in EQUAL for pair in combinations(line.split(), 2)]


@pytest.mark.parametrize(("lower", "higher"), PAIRS)
def test_one_version_is_before_another(lower: str, higher: str) -> None:
    one, other = version_key(lower), version_key(higher)
    assert one is not None and other is not None
    assert one < other
    assert not other < one
    assert one != other


@pytest.mark.parametrize(("one", "other"), SAME)
def test_two_spellings_are_one_version(one: str, other: str) -> None:
    assert version_key(one) == version_key(other) is not None
    assert hash(version_key(one)) == hash(version_key(other))


@pytest.mark.parametrize("short", ["1-a", "1-b", "1-m", "1-a-1", "1.b.2"])
def test_a_letter_is_short_for_a_qualifier_only_directly_before_a_number(short: str) -> None:
    key, release = version_key(short), version_key("1")
    assert key is not None and release is not None
    assert key > release


@pytest.mark.parametrize("text", ["", "1/2", "..", ".", "1\n", "1\0", "1\\2", " 1", "1 ", "x" * 256, "1:2", "é"])
def test_what_no_path_can_hold_is_no_version(text: str) -> None:
    assert not is_version(text)
    assert version_key(text) is None


def test_a_version_may_have_odd_characters_and_many_digits() -> None:
    for text in ("1.0+x", "1~2", "1!2", "1,2", "1 2", "_", "9" * 255, "-", "1-"):
        assert version_key(text) is not None, text


def test_the_highest_of_equals_is_the_last_and_of_none_there_is_none() -> None:
    assert highest([]) is None
    assert highest(["1.0", "2.0", "1.10"]) == "2.0"
    assert highest(["2", "2.0", "2.0.0", "1"]) == "2.0.0"
    assert highest(["a/b"]) == "a/b"
    assert highest(["1", "a/b"]) == "1"


def test_versions_come_into_order_and_equals_stay_as_they_are() -> None:
    assert in_order(["2.0", "1.0", "a/b", "1", "1.0-rc1"]) == ["a/b", "1.0-rc1", "1.0", "1", "2.0"]


@pytest.mark.parametrize(
    ("version", "snapshot"),
    [
        ("1.0-SNAPSHOT", True),
        ("SNAPSHOT", True),
        ("1.0-20240101.120000-3", True),
        ("1.0", False),
        ("1.0-snapshot", False),
        ("1.0SNAPSHOT", False),
        ("1.0-20240101.120000", False),
        ("1.0-SNAPSHOT-1", False),
    ],
)
def test_a_snapshot_is_told_by_its_name(version: str, snapshot: bool) -> None:
    assert is_snapshot(version) is snapshot
