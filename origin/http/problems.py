"""Errors to responses, in one table.

Every error is a problem document (RFC 9457) whose members ``error`` and ``message`` serve npm's clients too, and a short reason phrase,
because pip and pnpm show nothing else of an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus

import msgspec

from ..errors import Corrupt, NotFound, Refused, Unavailable
from ..model import Hold
from . import Request, Response
from .h1 import Malformed, http_date

LIMIT_REASON = 120
"""The longest reason phrase, in characters."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Told:
    """How one kind of error is told: status, title, and ``Cache-Status`` detail."""

    status: int
    title: str
    cache_detail: str


_TABLE: dict[type[BaseException], _Told] = {
    NotFound: _Told(404, "Not found", "not-found"),
    Refused: _Told(403, "Blocked by policy", "refused"),
    Unavailable: _Told(503, "Not available now", "unavailable"),
    Corrupt: _Told(502, "Upstream sent something wrong", "corrupt"),
    Malformed: _Told(400, "Malformed request", "malformed"),
}
# Text from outside that breaks its grammar is a plain ValueError; its subclasses (decoding errors and the like) are mistakes of ours.
_PLAIN_VALUE_ERROR = _Told(400, "Malformed request", "malformed")


def outcome_of(error: BaseException) -> str:
    """How a request that ended with ``error`` is counted."""
    match error:
        case Refused():
            return "refused"
        case NotFound():
            return "absent"
        case Unavailable():
            return "unavailable"
        case Corrupt():
            return "corrupt"
        case ValueError():
            return "malformed"
        case _:
            return "error"


def problem(
    status: int,
    title: str,
    detail: str,
    *,
    retry_after_s: float | None = None,
    headers: Iterable[tuple[str, str]] = (),
    reason: str = "",
    instance: str = "",
    cache_detail: str = "",
) -> Response:
    """An error answer. ``reason`` is the reason phrase, ``detail`` by default; ``instance`` is the request target concerned."""
    document = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    if instance:
        document["instance"] = instance
    # npm prints ``error`` after the address; for yarn 1 it is all there is to print, whatever the status says.
    document |= {"error": f"{title}: {detail}" if detail else title, "message": detail}
    fields = [
        ("Content-Type", "application/problem+json"),
        ("Cache-Control", "no-store"),
        ("Cache-Status", f"leeward; detail={cache_detail or _token(title)}"),
    ]
    if retry_after_s is not None:
        fields.append(("Retry-After", str(max(1, round(retry_after_s)))))
    return Response(status, [*fields, *headers], msgspec.json.encode(document), reason=reason_phrase(reason or detail or title))


def respond(error: BaseException, request: Request | None = None) -> Response:
    """The answer that tells a client of ``error``. An unforeseen one is logged with its traceback and told as 500, without internals."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    instance = request.target if request is not None else ""
    told = (
        _PLAIN_VALUE_ERROR
        if type(error) is ValueError
        else next((t for kind, t in _TABLE.items() if isinstance(error, kind)), None)
    )
    if told is None:
        where = f"{request.method} {request.target}" if request is not None else "a connection"
        _log.error("unforeseen error answering %s", where, exc_info=error)
        return problem(500, "Internal error", "The server met an error of its own; its log tells more.", instance=instance)
    status, title = told.status, told.title
    detail = _message(error) or title
    reason, retry_after_s = detail, None
    match error:
        case Refused(verdict=Hold(until=until)):
            title, reason = "Held by policy", f"Held by policy until {http_date(until)}: {detail}"
        case Refused():
            reason = f"Blocked by policy: {detail}"
        case Unavailable(retry_after_s=seconds):
            retry_after_s = seconds
        case Malformed(status=particular):
            status, title = particular, HTTPStatus(particular).phrase
        case _:
            pass
    return problem(
        status, title, detail, retry_after_s=retry_after_s, reason=reason, instance=instance, cache_detail=told.cache_detail
    )


def reason_phrase(text: str) -> str:
    """``text`` as a reason phrase: one line of printable ASCII, ``?`` for anything else, cut to its limit."""
    words = " ".join(text.split())
    plain = "".join(c if " " <= c <= "~" else "?" for c in words)
    return plain if len(plain) <= LIMIT_REASON else plain[: LIMIT_REASON - 3] + "..."


def _message(error: BaseException) -> str:
    # LookupError's own str() of one argument is plain, but KeyError-like repr quoting must never reach people.
    return " ".join(str(argument) for argument in error.args[:1]) if error.args else ""


def _token(title: str) -> str:
    return "-".join("".join(c if c.isalnum() and c.isascii() else " " for c in title.lower()).split()) or "error"
