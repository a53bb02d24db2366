"""Conditional requests and ranges, as pure functions over a request and the whole answer to it.

Order of evaluation as RFC 9110 §13.2.2 has it. Bodies are borrowed, never closed: the caller closes the one it was given.
"""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime

from ..model import Arriving, Body, Span
from . import Request, Response
from .problems import problem

SKEW_S = 60.0
"""How far ahead of ours another clock may be for its dates to count."""

# "the server generating a 304 response MUST generate any of the following header fields that would have been sent in a 200 (OK) response"
# (RFC 9110 §15.4.5), and ours: where the answer came from, and which policy it was given under.
_KEPT_BY_304 = frozenset(
    {"etag", "cache-control", "vary", "cache-status", "content-location", "expires", "last-modified", "leeward-verdicts"}
)
_RANGE = re.compile(r"bytes[ \t]*=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.IGNORECASE)
_STRONG_ETAGS = re.compile(r'(?<!W/)"[\x21\x23-\x7e\x80-\xff]*"')
_ETAGS = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


def apply(request: Request, response: Response, now: float) -> Response:
    """Narrow a 200 to what the request's conditions and range ask for: the same response, a 304, a 206, a 412 or a 416.

    ``now`` is UTC seconds. Only ``Range`` on GET counts (§14.2); several ranges, or one that cannot be read, give the whole.
    """
    if response.status != 200 or request.method not in ("GET", "HEAD"):
        return response
    if response.header("etag") is not None and not _precondition_holds(request, response):
        answer = problem(412, "Precondition failed", "This is not what the request was meant for.", instance=request.target)
        answer.close, answer.delivered = response.close, response.delivered
        return answer
    if _is_unchanged(request, response, now):
        kept = [(name, value) for name, value in response.headers if name.lower() in _KEPT_BY_304]
        return Response(304, kept, b"", close=response.close, delivered=response.delivered)
    asked = request.header("range")
    if asked is None or request.method != "GET" or (response.header("accept-ranges") or "").lower() != "bytes":
        return response
    if not _range_condition_holds(request.header("if-range"), response, now):
        return response
    size = len(response.body)
    match _select(asked, size):
        case None:
            return response
        case ():
            answer = problem(
                416,
                "Range not satisfiable",
                f"The range lies outside the {size} bytes there are.",
                headers=[("Content-Range", f"bytes */{size}"), ("Accept-Ranges", "bytes")],
                instance=request.target,
            )
            answer.close, answer.delivered = response.close, response.delivered
            return answer
        case (first, last):
            headers = [(n, v) for n, v in response.headers if n.lower() != "content-length"]
            headers.append(("Content-Range", f"bytes {first}-{last}/{size}"))
            return Response(206, headers, _narrowed(response.body, first, last + 1), "", response.close, response.delivered)


def matches_weakly(condition: str, etag: str | None) -> bool:
    """Whether an ``If-None-Match`` value names ``etag`` (by weak comparison) or is ``*``. Source: RFC 9110 §8.8.3.2, §13.1.2."""
    if condition.strip() == "*":
        return True
    if etag is None:
        return False
    opaque = etag.removeprefix("W/")
    return any(found.removeprefix("W/") == opaque for found in _ETAGS.findall(condition))


def _precondition_holds(request: Request, response: Response) -> bool:
    condition = request.header("if-match")
    if condition is not None:
        # By strong comparison, so that a weak ETag matches nothing but "*" (§13.1.1, §8.8.3.2).
        return condition.strip() == "*" or response.header("etag") in _STRONG_ETAGS.findall(condition)
    since, modified = _seconds(request.header("if-unmodified-since")), _seconds(response.header("last-modified"))
    # "A recipient MUST ignore the If-Unmodified-Since header field if the resource does not have a modification date available" (§13.1.4)
    return since is None or modified is None or modified <= since


def _is_unchanged(request: Request, response: Response, now: float) -> bool:
    condition = request.header("if-none-match")
    if condition is not None:
        # "A recipient MUST ignore If-Modified-Since if the request contains an If-None-Match header field" (§13.1.3)
        return matches_weakly(condition, response.header("etag"))
    since, modified = _seconds(request.header("if-modified-since")), _seconds(response.header("last-modified"))
    # A date to come vouches for nothing: whoever has it would never hear of a change again (§8.8.2.1).
    return since is not None and modified is not None and modified <= since <= now + SKEW_S


def _range_condition_holds(condition: str | None, response: Response, now: float) -> bool:
    if condition is None:
        return True
    condition = condition.strip()
    if condition.startswith(('"', "W/")):
        # "A client MUST NOT generate an If-Range header field containing an entity tag that is marked as weak" (§13.1.5)
        return not condition.startswith("W/") and condition == response.header("etag")
    modified = response.header("last-modified")
    moment = _seconds(modified)
    # A date is a strong validator only if the representation could not have changed again within its second (§8.8.2.2).
    return modified is not None and moment is not None and condition == modified.strip() and now - moment >= 1


def _select(asked: str, size: int) -> tuple[int, int] | tuple[()] | None:
    """First and last position; ``()`` if unsatisfiable; None if the field is to be ignored."""
    match = _RANGE.fullmatch(asked.strip())
    if match is None:
        return None
    first, last = match[1], match[2]
    if first:
        start = int(first)
        if last and int(last) < start:
            return None
        if start >= size:
            return ()
        return start, min(int(last), size - 1) if last else size - 1
    if not last:
        return None
    if int(last) == 0:
        return ()
    return (max(0, size - int(last)), size - 1) if size else None


def _narrowed(body: Body, first: int, stop: int) -> Body:
    match body:
        case bytes():
            return body[first:stop]
        case Span():
            return Span(body.fd, body.start + first, body.start + stop, body.validity)
        case Arriving():
            return Arriving(body.flight, body.start + first, body.start + stop, body.hold_until, body.validity)


def _seconds(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError, IndexError):
        return None
