"""How long an answer may be used, from what upstream says of it."""

from __future__ import annotations

import pytest

from origin.freshness import STALE_S, directives, judge, negative_stamp, stamp
from origin.model import Headers, Stamp

NOW = 1_700_000_000.0
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
CAP_S = 600.0


def fresh_s(*headers: tuple[str, str], jitter: float = 1.0, cap_s: float = CAP_S, status: int = 200) -> float:
    return stamp(headers, NOW, cap_s=cap_s, jitter=jitter, status=status).fresh_until - NOW


@pytest.mark.parametrize(
    ("headers", "expected_s"),
    [
        ((), CAP_S),
        ((("cache-control", "public, max-age=60"),), 60),
        ((("cache-control", "max-age=60, s-maxage=30"),), 30),
        ((("cache-control", "s-maxage=90, max-age=60"),), 90),
        ((("cache-control", "max-age=86400"),), CAP_S),
        ((("cache-control", "MAX-AGE=60"),), 60),
        ((("cache-control", 'max-age="60"'),), 60),
        ((("cache-control", "max-age=60, max-age=5"),), 60),
        ((("cache-control", "public"), ("cache-control", "max-age=60")), 60),
        ((("cache-control", 'ext="a, max-age=1", max-age=60'),), 60),
        ((("cache-control", "max-age=0"),), 0),
        ((("cache-control", "max-age=-1"),), 0),
        ((("cache-control", "max-age=1.5"),), 0),
        ((("cache-control", "max-age=soon"),), 0),
        ((("cache-control", "max-age"),), 0),
        ((("cache-control", "max-age=\u0663\u0663"),), 0),
        ((("cache-control", "max-age=" + "9" * 5000),), CAP_S),
        ((("cache-control", "max-age=60"), ("age", "45")), 15),
        ((("cache-control", "max-age=60"), ("age", "90")), 0),
        ((("cache-control", "max-age=60"), ("age", "old")), 60),
        ((("cache-control", "max-age=60"), ("age", "45, 3")), 15),
        ((("cache-control", "no-store"),), 0),
        ((("cache-control", "no-cache, max-age=60"),), 0),
        ((("cache-control", 'no-cache="set-cookie", max-age=60'),), 0),
        ((("cache-control", "private, max-age=60"),), 0),
        ((("cache-control", "must-revalidate"),), CAP_S),
        ((("cache-control", ",,;=,"),), CAP_S),
        ((("expires", "Tue, 14 Nov 2023 22:14:20 GMT"), ("date", DATE)), 60),
        ((("expires", "Tue, 14 Nov 2023 22:14:20 GMT"),), 60),
        # A clock of upstream's own that is an hour ahead: only the difference counts.
        ((("expires", "Tue, 14 Nov 2023 23:14:20 GMT"), ("date", "Tue, 14 Nov 2023 23:13:20 GMT")), 60),
        ((("expires", "0"),), 0),
        ((("expires", "Tue, 14 Nov 2023 22:00:00 GMT"), ("date", DATE)), 0),
        ((("expires", "Tue, 14 Nov 2023 22:14:20 GMT"), ("cache-control", "max-age=5")), 5),
    ],
)
def test_upstream_says_how_long_an_answer_is_fresh_within_the_cap(headers: Headers, expected_s: float) -> None:
    assert fresh_s(*headers) == expected_s


def test_jitter_only_ever_shortens() -> None:
    assert fresh_s(jitter=0.85) == pytest.approx(510)
    assert fresh_s(jitter=1.15) == pytest.approx(510)
    assert fresh_s(("cache-control", "max-age=100"), jitter=1.1) == pytest.approx(90)


def test_an_absence_is_believed_for_a_minute_at_most() -> None:
    assert fresh_s(("cache-control", "max-age=600"), status=404) == 60
    assert fresh_s(("cache-control", "max-age=6"), status=410) == 6
    for jitter in (0.0, 0.85, 1.0, 1.15, 9.0):
        assert 30 <= negative_stamp(NOW, jitter).fresh_until - NOW <= 60


def test_stale_time_follows_the_fresh_one() -> None:
    given = stamp((("cache-control", "no-store"),), NOW, cap_s=CAP_S)
    assert given == Stamp(NOW, NOW + STALE_S)
    assert stamp((), NOW, cap_s=CAP_S, stale_s=10).stale_until == NOW + CAP_S + 10


def test_a_page_is_fresh_then_stale_then_dead() -> None:
    page = Stamp(NOW, NOW + 10)
    assert [judge(page, NOW + s) for s in (-1, 0, 9, 10, 11)] == ["fresh", "stale", "stale", "dead", "dead"]


def test_directives_are_read_as_the_grammar_has_them() -> None:
    assert directives((("cache-control", ' a , B = , c=1,d="x, \\"y\\"" , e=f g, h'),)) == {
        "a": None,
        "b": None,
        "c": "1",
        "d": 'x, "y"',
        "e": "f",
        "h": None,
    }
