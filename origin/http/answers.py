"""What becomes of a handler's answer before it is sent, the same for HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import trio

from ..errors import Unavailable
from ..model import Arriving
from . import Request, Response
from .h1 import check_response
from .problems import respond
from .ranges import apply

_RETRY_S = 5


def narrowed(request: Request, response: Response, now: float) -> Response:
    """The answer as conditions and ranges leave it at ``now`` (UTC seconds); one that would break out of its lines is told as 500."""
    try:
        answer = apply(request, response, now)
        check_response(answer)
    except Exception as error:  # noqa: BLE001 - a header that would break out of its line, or the like: a mistake of ours
        return respond(RuntimeError(str(error)), request)
    return answer


def is_bodiless(request: Request, answer: Response) -> bool:
    """Whether nothing follows the answer's head (RFC 9110 §6.4.1)."""
    return request.method == "HEAD" or answer.status in (204, 304)


def told_length(request: Request, answer: Response) -> int | None:
    """What ``Content-Length`` says; None if the field is left out."""
    if answer.status in (204, 304):
        return None
    if request.method == "HEAD" and not len(answer.body):
        # A handler may know the length of what it need not open.
        told = answer.header("content-length")
        if told is not None and told.isascii() and told.isdigit():
            return int(told)
    return len(answer.body)


def is_carried(answer: Response, response: Response) -> bool:
    """Whether ``answer`` still tells of what the handler's ``response`` holds, or is a refusal in its place."""
    return answer.status in (response.status, 206, 304)


def may_begin(body: Arriving) -> bool:
    """Whether some of ``body`` may leave now."""
    return body.start >= body.stop or body.flight.releasable > body.start


async def begun(request: Request, answer: Response, body: Arriving) -> Response:
    """Wait until some of ``body`` may leave: a flight that fails before that can still be told as an error, instead of ending short.

    Past ``body.hold_until`` the client is told to come back: it would give up by itself, without knowing when to try again.
    """
    flight = body.flight
    try:
        with trio.move_on_at(body.hold_until):
            await flight.wait_beyond(body.start)
        if flight.releasable <= body.start:
            raise Unavailable("this part of the file is still being fetched", flight.estimate_s() or _RETRY_S)
    except Exception as error:  # noqa: BLE001 - told to the client
        return respond(error, request)
    return answer
