"""What an HTTP/2 client may cost: the accounts, and the frames followed however their bytes come."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import ContinuationFrame, DataFrame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame
from hypothesis import given
from hypothesis import strategies as st

from origin.http import Response
from origin.http.h2_budget import PREFACE, Budget, Excess, Gate, frames_in
from origin.http.h2_head import answer_fields, read_head
from origin.http.limits import Limits

SETTINGS = SettingsFrame(0).serialize()


def gate(limits: Limits | None = None) -> Gate:
    limits = limits or Limits()
    return Gate(Budget(limits), limits)


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(at)]


def frames(stream: int) -> st.SearchStrategy[bytes]:
    return st.one_of(
        st.binary(max_size=40).map(lambda data: DataFrame(stream, data).serialize()),
        st.just(HeadersFrame(stream, b"xyz", flags=["END_HEADERS"]).serialize()),
        st.just(HeadersFrame(stream, b"x").serialize() + ContinuationFrame(stream, b"y", flags=["END_HEADERS"]).serialize()),
        st.just(PingFrame(0, b"12345678").serialize()),
        st.just(RstStreamFrame(stream, error_code=8).serialize()),
        st.just(GoAwayFrame(0, additional_data=b"bye").serialize()),
    )


@given(st.lists(frames(1), max_size=20), st.lists(st.integers(0, 10_000), max_size=30))
def test_however_the_bytes_come_the_same_is_passed_on(sent: list[bytes], cuts: list[int]) -> None:
    data = PREFACE + SETTINGS + b"".join(sent)
    whole, split = gate(), gate()
    expected = b"".join(frame for frame in [PREFACE, SETTINGS, *sent] if frame[3] != 7 or frame is PREFACE)
    assert whole.feed(data, 0.0) == expected
    assert b"".join(split.feed(chunk, 0.0) for chunk in chunks(data, cuts)) == expected
    assert split.has_left == whole.has_left == any(frame[3] == 7 for frame in sent)
    assert split.since == whole.since == -1


@given(st.binary(max_size=300), st.lists(st.integers(0, 400), max_size=10))
def test_no_bytes_break_it(data: bytes, cuts: list[int]) -> None:
    one = gate()
    one.feed(PREFACE + SETTINGS, 0.0)
    passed = b""
    with contextlib.suppress(Excess):
        for chunk in chunks(data, cuts):
            passed += one.feed(chunk, 0.0)
    assert len(passed) <= len(data)


def test_an_unfinished_head_is_known_since_its_first_byte() -> None:
    one = gate()
    assert one.since == -1
    one.feed(PREFACE[:5], 1.0)
    assert one.since == 1
    one.feed(PREFACE[5:] + SETTINGS, 2.0)
    assert one.since == -1
    head = HeadersFrame(1, b"abc").serialize()
    one.feed(head[:3], 3.0)
    one.feed(head[3:11], 4.0)
    one.feed(head[11:], 5.0)
    assert one.since == 3
    one.feed(ContinuationFrame(1, b"", flags=["END_HEADERS"]).serialize(), 6.0)
    assert one.since == -1
    one.feed(DataFrame(1, b"abc").serialize()[:-1], 7.0)
    assert one.since == -1


def test_heads_that_are_each_cut_in_two_are_each_in_time() -> None:
    one = gate()
    one.feed(PREFACE + SETTINGS, 0.0)
    heads = [HeadersFrame(1 + 2 * n, b"abc", flags=["END_HEADERS"]).serialize() for n in range(20)]
    one.feed(heads[0][:4], 0.0)
    for n, (head, following) in enumerate(itertools.pairwise(heads), 1):
        one.feed(head[4:] + following[:4], float(n))
        assert one.since == n


def test_resets_count_within_their_time_only() -> None:
    budget = Budget(Limits(h2_resets=3, h2_resets_s=60))
    for n in range(50):
        budget.reset(n, n * 21.0)
    for n in range(3):
        budget.reset(n, 2000.0)
    with pytest.raises(Excess) as caught:
        budget.reset(3, 2000.0)
    assert caught.value.code == ErrorCodes.ENHANCE_YOUR_CALM


def test_a_stream_is_made_to_reset_once() -> None:
    budget = Budget(Limits(h2_resets=2))
    for _ in range(100):
        budget.made_to_reset(1, 0.0)
    budget.made_to_reset(3, 0.0)
    with pytest.raises(Excess):
        budget.made_to_reset(5, 0.0)


@pytest.mark.parametrize(("after_s", "is_soon"), [(0.0, True), (0.9, True), (1.2, False)])
def test_a_reset_is_soon_within_a_second(after_s: float, is_soon: bool) -> None:
    one = gate(Limits(h2_resets=0))
    one.feed(PREFACE + SETTINGS, 0.0)
    for n in range(20):
        one.feed(HeadersFrame(1 + 2 * n, b"", flags=["END_HEADERS"]).serialize(), 5 + n / 100)
    reset = RstStreamFrame(39).serialize()
    if is_soon:
        with pytest.raises(Excess):
            one.feed(reset, 5.19 + after_s)
    else:
        one.feed(reset, 5.19 + after_s)


def test_control_frames_come_back_with_time() -> None:
    budget = Budget(Limits())
    for _ in range(50):
        budget.control(100.0)
    with pytest.raises(Excess):
        budget.control(100.05)
    for n in range(100):
        budget.control(101 + n / 10)


def test_noise_is_earned_by_requests_and_bodies() -> None:
    budget = Budget(Limits(h2_noise_frames=10))
    budget.request()
    budget.useful(1280)
    for _ in range(10 + 8 + 10):
        budget.noise()
    with pytest.raises(Excess):
        budget.noise()


def test_frames_are_told_by_type_and_stream() -> None:
    data = SETTINGS + RstStreamFrame(5).serialize() + DataFrame(7, b"abc").serialize()
    assert list(frames_in(data)) == [(4, 0), (3, 5), (0, 7)]


@given(st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=12)), max_size=6))
def test_no_field_gets_out_of_its_line(more: list[tuple[bytes, bytes]]) -> None:
    """Whatever is read is what was sent: a field for a field, none made of a part of another."""
    fields = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a.test"), (b":path", b"/"), *more]
    try:
        head = read_head(fields, Limits())
    except ValueError:
        return
    assert len(head.headers) == len(more) + (not any(name == b"host" for name, _ in more)) - max(
        0, sum(name == b"cookie" for name, _ in more) - 1
    )


def test_an_answer_loses_what_is_the_connections_own() -> None:
    response = Response(200, [("Connection", "close"), ("ETag", '"x"'), ("Content-Length", "9"), ("X-Latin", "\xe9")], b"")
    assert answer_fields(response, b"now", 3) == [
        (b":status", b"200"),
        (b"date", b"now"),
        (b"etag", b'"x"'),
        (b"x-latin", b"\xe9"),
        (b"content-length", b"3"),
    ]
