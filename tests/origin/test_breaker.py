"""The breaker: when an upstream is left alone, and when it is asked again."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from origin.sources.breaker import JITTER, LONGEST_S, OPEN_S, Breaker, Permit


class Half(random.Random):
    """Draws the middle of any range."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


@pytest.fixture
def breaker() -> Breaker:
    return Breaker(Half())


def state_of(breaker: Breaker) -> str:
    return breaker.state


def admit(breaker: Breaker, now: float) -> Permit:
    permit = breaker.admit(now)
    assert permit is not None
    return permit


def break_at(breaker: Breaker, now: float) -> None:
    for _ in range(3):
        breaker.fail(admit(breaker, now), now)
    assert state_of(breaker) == "open"


def test_it_begins_closed_and_lets_all_pass(breaker: Breaker) -> None:
    assert state_of(breaker) == "closed"
    assert not any(admit(breaker, 0).is_probe for _ in range(10))
    assert breaker.is_trusted(0)


def test_three_failures_in_a_row_open_it(breaker: Breaker) -> None:
    for _ in range(2):
        breaker.fail(admit(breaker, 0), 0)
    breaker.succeed(admit(breaker, 0))
    for _ in range(2):
        breaker.fail(admit(breaker, 0), 0)
    assert state_of(breaker) == "closed"
    breaker.fail(admit(breaker, 0), 0)
    assert state_of(breaker) == "open"
    assert not breaker.is_trusted(0)


def test_while_open_it_refuses_and_says_how_long(breaker: Breaker) -> None:
    break_at(breaker, 100)
    assert breaker.admit(100) is None
    assert breaker.retry_in_s(102) == OPEN_S - 2
    assert breaker.admit(104.9) is None


def test_one_probe_passes_and_the_others_wait_for_it(breaker: Breaker) -> None:
    break_at(breaker, 0)
    probe = admit(breaker, 5)
    assert probe.is_probe
    assert state_of(breaker) == "half-open"
    assert breaker.admit(5) is None
    assert not breaker.is_trusted(5)
    breaker.succeed(probe)
    assert state_of(breaker) == "closed"
    assert breaker.is_trusted(5)


def test_failed_probes_double_the_wait_up_to_a_limit(breaker: Breaker) -> None:
    break_at(breaker, 0)
    now, waits = 0.0, []
    for _ in range(8):
        waits.append(breaker.retry_in_s(now))
        now += waits[-1]
        breaker.fail(admit(breaker, now), now)
    assert waits == [5, 10, 20, 30, 30, 30, 30, 30]
    now += 30
    breaker.succeed(admit(breaker, now))
    break_at(breaker, now)
    assert breaker.retry_in_s(now) == OPEN_S


def test_a_probe_that_was_cancelled_leaves_its_place_to_the_next(breaker: Breaker) -> None:
    break_at(breaker, 0)
    breaker.withdraw(admit(breaker, 5), 5)
    assert admit(breaker, 5).is_probe


def test_late_results_are_ignored(breaker: Breaker) -> None:
    late = [admit(breaker, 0) for _ in range(6)]
    break_at(breaker, 1)
    breaker.succeed(late[0])
    assert state_of(breaker) == "open"
    probe = admit(breaker, 6)
    breaker.fail(late[1], 6)
    assert state_of(breaker) == "half-open"
    breaker.succeed(probe)
    for permit in late[2:]:
        breaker.fail(permit, 7)
    assert state_of(breaker) == "closed"


def test_it_can_be_opened_by_a_failed_first_try() -> None:
    news: list[bool] = []
    breaker = Breaker(Half(), news.append)
    breaker.open(0)
    breaker.succeed(admit(breaker, 5))
    assert news == [True, False]


def test_openings_of_many_edges_are_spread() -> None:
    waits = set()
    for seed in range(50):
        breaker = Breaker(random.Random(seed))
        breaker.open(0)
        waits.add(breaker.retry_in_s(0))
    assert OPEN_S * (1 - JITTER) <= min(waits) < OPEN_S - 0.5
    assert OPEN_S + 0.5 < max(waits) <= OPEN_S * (1 + JITTER)


# ---- suspicion


def test_a_second_without_an_answer_makes_it_suspect(breaker: Breaker) -> None:
    admit(breaker, 0)
    assert breaker.is_trusted(1)
    assert not breaker.is_trusted(1.1)
    assert state_of(breaker) == "closed"


def test_any_later_answer_clears_the_suspicion(breaker: Breaker) -> None:
    admit(breaker, 0)
    breaker.succeed(admit(breaker, 0.5))
    assert breaker.is_trusted(60)
    admit(breaker, 60)
    assert not breaker.is_trusted(61.1)


def test_an_answer_before_the_silence_does_not_count(breaker: Breaker) -> None:
    breaker.succeed(admit(breaker, 0))
    admit(breaker, 0)
    assert not breaker.is_trusted(1.1)


@pytest.mark.parametrize("ending", ["fail", "withdraw"])
def test_suspicion_outlives_the_request_that_raised_it(ending: str, breaker: Breaker) -> None:
    permit = admit(breaker, 0)
    getattr(breaker, ending)(permit, 10)
    assert not breaker.is_trusted(100)
    breaker.succeed(admit(breaker, 100))
    assert breaker.is_trusted(100)


def test_a_quick_failure_raises_no_suspicion(breaker: Breaker) -> None:
    breaker.fail(admit(breaker, 0), 0.1)
    breaker.withdraw(admit(breaker, 0), 0.1)
    assert breaker.is_trusted(100)


@given(
    st.lists(st.tuples(st.sampled_from(["admit", "succeed", "fail", "withdraw", "open"]), st.floats(0, 12), st.integers(0, 20))),
    st.integers(0, 1000),
)
def test_whatever_happens_it_never_sticks(steps: list[tuple[str, float, int]], seed: int) -> None:
    """At most one probe is out at a time; changes are told alternately; and a minute later a success closes it."""
    news: list[bool] = []
    breaker = Breaker(random.Random(seed), news.append)
    now = 0.0
    out: list[Permit] = []
    for verb, pause_s, which in steps:
        now += pause_s
        if verb == "admit":
            permit = breaker.admit(now)
            if permit is not None:
                out.append(permit)
        elif verb == "open":
            breaker.open(now)
        elif out:
            permit = out.pop(which % len(out))
            if verb == "succeed":
                breaker.succeed(permit)
            else:
                getattr(breaker, verb)(permit, now)
        assert sum(p.is_probe and p is breaker._probe for p in out) <= 1
        assert breaker.retry_in_s(now) <= LONGEST_S * (1 + JITTER)
    for permit in out:
        breaker.withdraw(permit, now)
    breaker.succeed(admit(breaker, now + 60))
    assert state_of(breaker) == "closed"
    assert breaker.is_trusted(now + 60)
    assert news == [n % 2 == 0 for n in range(len(news))]
