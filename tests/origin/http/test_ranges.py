"""Conditions and ranges as pure functions: every answer is the whole, a true part, or an honest refusal."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from origin.http import Request, Response
from origin.http.ranges import apply, matches_weakly
from origin.model import Arriving, Span

CONTENT = b"0123456789"
MODIFIED = 1_700_000_000
NOW = MODIFIED + 1000.0


def request(method: str = "GET", **fields: str) -> Request:
    return Request(method, "/a", tuple((name.replace("_", "-"), value) for name, value in fields.items()))


def response(body: bytes = CONTENT, etag: str | None = '"e"', ranges: bool = True) -> Response:
    headers = [("Content-Type", "text/plain"), ("Last-Modified", formatdate(MODIFIED, usegmt=True)), ("Vary", "Accept")]
    if etag is not None:
        headers.append(("ETag", etag))
    if ranges:
        headers.append(("Accept-Ranges", "bytes"))
    return Response(200, headers, body)


@pytest.mark.parametrize(
    ("asked", "status", "body", "told"),
    [
        ("bytes=0-0", 206, b"0", "bytes 0-0/10"),
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=7-99", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-99", 206, CONTENT, "bytes 0-9/10"),
        ("BYTES=0-1", 206, b"01", "bytes 0-1/10"),
        (" bytes = 0-1 ", 206, b"01", "bytes 0-1/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=10-20", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=0-1,4-5", 200, CONTENT, None),
        ("bytes=0-1, -1", 200, CONTENT, None),
        ("bytes=4-2", 200, CONTENT, None),
        ("bytes=-", 200, CONTENT, None),
        ("bytes=a-b", 200, CONTENT, None),
        ("bytes=+1-2", 200, CONTENT, None),
        ("bytes=1", 200, CONTENT, None),
        ("bytes=0-99999999999999999999", 200, CONTENT, None),
        ("items=0-1", 200, CONTENT, None),
        ("", 200, CONTENT, None),
    ],
)
def test_a_range_is_answered(asked: str, status: int, body: bytes | None, told: str | None) -> None:
    answer = apply(request(range=asked), response(), NOW)
    assert answer.status == status
    assert answer.header("content-range") == told
    if body is not None:
        assert answer.body == body
        assert answer.header("etag") == '"e"'


def test_ranges_are_for_get_and_for_what_offers_them() -> None:
    assert apply(request("HEAD", range="bytes=0-1"), response(), NOW).status == 200
    assert apply(request("POST", range="bytes=0-1"), response(), NOW).status == 200
    assert apply(request(range="bytes=0-1"), response(ranges=False), NOW).status == 200
    assert apply(request(range="bytes=0-1"), Response(404, [("Accept-Ranges", "bytes")], CONTENT), NOW).status == 404
    assert apply(request(range="bytes=-1"), response(b""), NOW).status == 200
    assert apply(request(range="bytes=0-"), response(b""), NOW).status == 416


def test_a_precondition_guards_only_what_has_an_etag() -> None:
    assert apply(request(if_match='"a"'), response(etag=None), NOW).status == 200
    weak = response(etag='W/"e"')
    assert apply(request(if_match='W/"e"'), weak, NOW).status == 412
    assert apply(request(if_match="*"), weak, NOW).status == 200


def test_a_span_and_an_arrival_are_narrowed_without_being_read() -> None:
    span = Span(-1, 100, 200)
    answer = apply(request(range="bytes=10-19"), Response(200, [("Accept-Ranges", "bytes")], span), NOW)
    assert answer.body == Span(-1, 110, 120)
    assert span == Span(-1, 100, 200)
    arriving = Arriving(None, 100, 200, 7.5)  # type: ignore[arg-type]
    answer = apply(request(range="bytes=-5"), Response(200, [("Accept-Ranges", "bytes")], arriving), NOW)
    assert answer.body == Arriving(None, 195, 200, 7.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ('"e"', 206),
        ('W/"e"', 200),
        ('"other"', 200),
        (formatdate(MODIFIED, usegmt=True), 206),
        (formatdate(MODIFIED - 1, usegmt=True), 200),
        (formatdate(MODIFIED + 1, usegmt=True), 200),
        ("nonsense", 200),
    ],
)
def test_if_range_compares_strongly(condition: str, status: int) -> None:
    assert apply(request(range="bytes=0-1", if_range=condition), response(), NOW).status == status


def test_a_weak_etag_never_proves_a_part() -> None:
    assert apply(request(range="bytes=0-1", if_range='W/"e"'), response(etag='W/"e"'), NOW).status == 200


def test_a_date_proves_a_part_only_once_its_second_is_over() -> None:
    asked = request(range="bytes=0-1", if_range=formatdate(MODIFIED, usegmt=True))
    assert apply(asked, response(), MODIFIED + 0.5).status == 200


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"if_none_match": '"e"'}, 304),
        ({"if_none_match": 'W/"e"'}, 304),
        ({"if_none_match": '"a", "e"'}, 304),
        ({"if_none_match": '"a,\\"e"'}, 200),
        ({"if_none_match": "*"}, 304),
        ({"if_none_match": '"a"'}, 200),
        ({"if_none_match": "e"}, 200),
        ({"if_modified_since": formatdate(MODIFIED, usegmt=True)}, 304),
        ({"if_modified_since": formatdate(MODIFIED - 1, usegmt=True)}, 200),
        ({"if_modified_since": formatdate(NOW + 30, usegmt=True)}, 304),
        ({"if_modified_since": formatdate(NOW + 90, usegmt=True)}, 200),
        ({"if_modified_since": "yesterday"}, 200),
        ({"if_none_match": '"a"', "if_modified_since": formatdate(MODIFIED, usegmt=True)}, 200),
        ({"if_none_match": '"e"', "range": "bytes=0-1"}, 304),
        ({"if_match": '"e"'}, 200),
        ({"if_match": '"a", "e"'}, 200),
        ({"if_match": "*"}, 200),
        ({"if_match": '"a"'}, 412),
        ({"if_match": 'W/"e"'}, 412),
        ({"if_match": '"a"', "if_none_match": '"e"', "range": "bytes=0-1"}, 412),
        ({"if_match": '"e"', "if_none_match": '"e"'}, 304),
        ({"if_unmodified_since": formatdate(MODIFIED, usegmt=True)}, 200),
        ({"if_unmodified_since": formatdate(MODIFIED - 1, usegmt=True)}, 412),
        ({"if_unmodified_since": "yesterday"}, 200),
        ({"if_match": '"e"', "if_unmodified_since": formatdate(MODIFIED - 1, usegmt=True)}, 200),
    ],
)
def test_conditions_are_answered_in_their_order(fields: dict[str, str], status: int) -> None:
    for method in ("GET", "HEAD"):
        answer = apply(request(method, **fields), response(), NOW)
        assert answer.status == status
        if status == 304:
            assert answer.body == b""
            assert {name for name, _ in answer.headers} == {"ETag", "Vary", "Last-Modified"}


@given(st.binary(max_size=50), st.text(max_size=20) | st.from_regex(r"bytes=[0-9]{0,3}-[0-9]{0,3}", fullmatch=True))
def test_a_part_is_what_it_says_it_is(content: bytes, asked: str) -> None:
    answer = apply(request(range=asked), response(content), NOW)
    match answer.status:
        case 200:
            assert answer.body == content
        case 206:
            unit, _, span = (answer.header("content-range") or "").partition(" ")
            positions, _, size = span.partition("/")
            first, last = (int(position) for position in positions.split("-"))
            assert (unit, int(size)) == ("bytes", len(content))
            assert 0 <= first <= last < len(content)
            assert answer.body == content[first : last + 1]
        case status:
            assert status == 416
            assert answer.header("content-range") == f"bytes */{len(content)}"


@given(st.lists(st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters='"'), max_size=6), max_size=5))
def test_a_list_of_etags_matches_exactly_its_members(tags: list[str]) -> None:
    condition = ", ".join(f'W/"{tag}"' for tag in tags)
    for tag in tags:
        assert matches_weakly(condition, f'"{tag}"')
    assert not matches_weakly(condition, '"absent tag"')


@given(st.text(max_size=40), st.text(max_size=10))
def test_any_condition_can_be_compared(condition: str, etag: str) -> None:
    matches_weakly(condition, etag)
    apply(request(if_none_match=condition, if_modified_since=condition, if_range=condition, range="bytes=0-"), response(), NOW)
