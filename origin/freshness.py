"""How long an upstream answer may be used: RFC 9111 and RFC 5861 as pure functions.

Pages are stamped once, by the node that asked the registry; ``Stamp`` is what all other tiers obey. Nothing here reads a clock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Literal

from .model import Headers, Stamp

STALE_S = 30 * 24 * 3600.0
"""How long a page may be served after its freshness ended, when upstream does not answer."""

NEGATIVE_S = (30.0, 60.0)
"""Between these a clean "there is no such project" is believed."""

LIMIT_DELTA_S = 2**31
"""What a longer time counts as: "the recipient MUST consider the value to be 2147483648" (RFC 9111 §1.2.2)."""

_NOT_REUSED = ("no-store", "no-cache", "private")

_DIRECTIVE = re.compile(
    r"""\s*+(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]++)(?:=(?:"(?P<quoted>(?:[^"\\]|\\.)*+)"|(?P<token>[^,"\s]*+)))?+[^,]*+(?:,|$)"""
)


def stamp(
    headers: Headers, now: float, *, cap_s: float, jitter: float = 1.0, stale_s: float = STALE_S, status: int = 200
) -> Stamp:
    """Say until when an answer received at ``now`` (UTC seconds) with these fields may be used.

    Fresh for as long as upstream says, never beyond ``cap_s``, and for ``cap_s`` where it says nothing; times ``jitter`` (0.85 to
    1.15, a number the caller drew), so that pages learnt together do not expire together, but never beyond either bound. Stale for
    ``stale_s`` more. An absence (``status`` 404 or 410) gets the short life of ``negative_stamp`` at most. Never raises: a malformed
    field counts as "not fresh" where it speaks of freshness.
    Source: RFC 9111 §4.2, RFC 5861 §4.
    """
    lifetime_s = _remaining_s(headers, now)
    fresh_s = cap_s if lifetime_s is None else min(lifetime_s, cap_s)
    if status in (404, 410):
        fresh_s = min(fresh_s, NEGATIVE_S[1])
    # A factor above 1 is turned over, so that nothing is called fresh longer than upstream or the settings allow.
    fresh_until = now + max(0.0, fresh_s * (jitter if jitter <= 1 else 2 - min(jitter, 2.0)))
    return Stamp(fresh_until, fresh_until + max(0.0, stale_s))


def negative_stamp(now: float, jitter: float = 1.0, stale_s: float = STALE_S) -> Stamp:
    """The stamp of a clean 404 or 410: 45 s times ``jitter``, kept within 30 to 60 s.

    Afterwards it still stands in for an upstream that does not answer.
    """
    low, high = NEGATIVE_S
    fresh_until = now + min(high, max(low, (low + high) / 2 * jitter))
    return Stamp(fresh_until, fresh_until + max(0.0, stale_s))


def judge(stamp: Stamp, now: float) -> Literal["fresh", "stale", "dead"]:
    """Say how a page may be used at ``now`` (UTC seconds): at once, when upstream fails or is slow, or not at all."""
    if now < stamp.fresh_until:
        return "fresh"
    # "the cache MAY return a stale response [...] when an error is encountered" for stale-if-error's time (RFC 5861 §4); the time is ours.
    return "stale" if now < stamp.stale_until else "dead"


def directives(headers: Headers) -> Mapping[str, str | None]:
    """The Cache-Control directives, lower-case, of all such fields; of one given twice the first.

    "When there is more than one value present for a given directive [...] either the first occurrence should be used or the response
    should be considered stale" (RFC 9111 §4.2.1).
    """
    found: dict[str, str | None] = {}
    for name, value in headers:
        if name == "cache-control":
            for match in _DIRECTIVE.finditer(value[:4096]):
                quoted = match["quoted"]
                argument = match["token"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                found.setdefault(match["name"].lower(), argument)
    return found


def _remaining_s(headers: Headers, now: float) -> float | None:
    """How much longer upstream calls the answer fresh; 0 if it forbids reuse, None if it says nothing."""
    said = directives(headers)
    if any(name in said for name in _NOT_REUSED):
        return 0.0
    # We are a shared cache: "If the cache is shared and the s-maxage response directive [...] is present, use its value, or if the
    # max-age response directive [...] is present, use its value, or if the Expires response header field [...] is present, use its
    # value minus the value of the Date response header field" (RFC 9111 §4.2.1).
    for name in ("s-maxage", "max-age"):
        if name in said:
            # "Caches are encouraged to consider responses that have invalid freshness information (e.g., a max-age directive with
            # non-integer content) to be stale." (RFC 9111 §4.2.1)
            lifetime_s = _delta_s(said[name])
            return max(0.0, (lifetime_s or 0.0) - _age_s(headers, now))
    expires = _first(headers, "expires")
    if expires is None:
        return None
    # "A cache recipient MUST interpret invalid date formats, especially the value "0", as representing a time in the past" (RFC 9111 §5.3).
    end = _date(expires)
    if end is None:
        return 0.0
    sent = _date(_first(headers, "date") or "")
    return max(0.0, end - (now if sent is None else sent) - _age_s(headers, now))


def _age_s(headers: Headers, now: float) -> float:
    """How old the answer was on arrival, by its ``Age`` field.

    The apparent age (our clock less its ``Date``) is left out: RFC 9111 §4.2.3 has it for caches whose clock is right; an edge's is often
    not, and a clock that is an hour fast would make every page stale for ever.
    """
    # "If the Age field is [...] a list, the recipient SHOULD use the first value; if invalid, SHOULD ignore it" (RFC 9111 §5.1, in short).
    value = _first(headers, "age")
    return (_delta_s(value.partition(",")[0].strip()) or 0.0) if value is not None else 0.0


def _delta_s(text: str | None) -> float | None:
    """Delta-seconds: a non-negative integer in ASCII digits, cut to ``LIMIT_DELTA_S``; None for anything else. Source: RFC 9111 §1.2.2."""
    if not text or not text.isascii() or not text.isdigit():
        return None
    digits = text.lstrip("0")
    return float(LIMIT_DELTA_S if len(digits) > 10 else min(int(digits or "0"), LIMIT_DELTA_S))


def _date(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
        return moment.timestamp() if moment.tzinfo is not None else None
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _first(headers: Headers, wanted: str) -> str | None:
    return next((value for name, value in headers if name == wanted), None)
