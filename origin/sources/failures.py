"""What can go wrong upstream, as a table: each failure's metric label, whose fault it is, and which error it becomes.

The only place that knows the foreign exceptions of the transport (httpcore, ssl, socket).
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Literal

import httpcore

from ..errors import Corrupt, Unavailable

type Label = Literal[
    "address",
    "busy",
    "connect",
    "content-encoding",
    "digest",
    "dns",
    "http-403",
    "http-429",
    "http-4xx",
    "http-5xx",
    "oversized",
    "parse",
    "range",
    "redirect-host",
    "redirect-loop",
    "reset",
    "serial",
    "short-body",
    "slow-body",
    "slow-first-byte",
    "status",
    "tls",
]


@dataclass(frozen=True, slots=True)
class Failure:
    """One class of failure.

    ``is_dead`` means that nobody gave an answer one can use: it counts towards opening the breaker. ``is_retried`` means that asking
    again at once may help. ``is_wrong`` means that upstream answered wrongly (``Corrupt``), not that it
    cannot answer now (``Unavailable``).
    """

    label: Label
    is_dead: bool = False
    is_retried: bool = False
    is_wrong: bool = False


FAILURES: dict[Label, Failure] = {
    failure.label: failure
    for failure in (
        # No connection.
        Failure("dns", is_dead=True, is_retried=True),
        Failure("connect", is_dead=True, is_retried=True),
        Failure("tls", is_dead=True),  # an expired certificate does not heal within a request
        Failure("address", is_wrong=True),  # a name that leads into a network where upstream has no business
        Failure("busy"),  # all our own connections to it are in use
        # No answer.
        Failure("slow-first-byte", is_dead=True),
        Failure("reset", is_dead=True, is_retried=True),
        # An answer that says: not now.
        Failure("http-403"),  # of a filter before the registry; never a statement about the package
        Failure("http-429"),
        Failure("http-4xx"),
        Failure("http-5xx", is_retried=True),
        # An answer that cannot be used.
        Failure("status", is_wrong=True),
        Failure("redirect-loop", is_wrong=True),
        Failure("redirect-host", is_wrong=True),
        Failure("content-encoding", is_wrong=True),
        Failure("range", is_wrong=True),
        # A body that stops, or is not what it should be. (A page without its end is as good as none. A file's first byte has told the
        # breaker that somebody is there; what becomes of the rest is not its concern.)
        Failure("slow-body", is_dead=True),
        Failure("short-body", is_dead=True),
        Failure("oversized", is_wrong=True),
        Failure("parse", is_wrong=True),
        Failure("digest", is_wrong=True),
        Failure("serial", is_wrong=True),
    )
}


class Failed(Exception):
    """One attempt failed. Inside the source only: what leaves it is ``error()``."""

    def __init__(self, label: Label, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.failure = FAILURES[label]
        self.message = message
        self.retry_after_s = retry_after_s

    def error(self) -> Unavailable | Corrupt:
        if self.failure.is_wrong:
            return Corrupt(self.message)
        return Unavailable(self.message, 5 if self.retry_after_s is None else self.retry_after_s)


class NameFailure(httpcore.ConnectError):
    """The host's name could not be resolved."""


class PinRefused(httpcore.ConnectError):
    """The node shows another key than the one that was pinned."""


class AddressRefused(httpcore.ConnectError):
    """The host's name resolves to an address that a registry must not send us to."""


def translate(raised: Exception, host: str, *, answered: bool) -> Failed:
    """Turn an exception of the transport into a ``Failed``. ``answered`` says whether the response's head had come."""
    reason = _reason(raised)
    match raised:
        case AddressRefused():
            return Failed("address", f"{host} {reason}")
        case PinRefused():
            return Failed("tls", f"{host} {reason}")
        case NameFailure():
            return Failed("dns", f"the name {host} cannot be resolved: {reason}")
        case httpcore.ConnectError() | httpcore.ConnectTimeout() if _about_tls(raised):
            return Failed("tls", f"no secure connection to {host}: {reason}")
        case httpcore.ConnectError() | httpcore.ConnectTimeout():
            return Failed("connect", f"no connection to {host}: {reason}")
        case httpcore.ProxyError():
            return Failed("connect", f"the proxy gives no connection to {host}: {reason}")
        case httpcore.UnsupportedProtocol() | httpcore.LocalProtocolError():
            return Failed("redirect-host", f"{host} cannot be asked: {reason}")
        case httpcore.RemoteProtocolError() if answered:
            return Failed("short-body", f"{host} ended its answer too early: {reason}")
        case httpcore.RemoteProtocolError() if "disconnected" not in str(raised):
            return Failed("status", f"{host} does not speak HTTP: {reason}")
        case _ if answered:
            return Failed("short-body", f"the connection to {host} broke: {reason}")
        case _:
            return Failed("reset", f"{host} closed the connection without an answer: {reason}")


def _chain(raised: BaseException) -> list[BaseException]:
    """The exception and what caused it. httpcore passes the cause as an argument and drops the link."""
    found: list[BaseException] = []
    waiting: list[object] = [raised]
    while waiting and len(found) < 20:
        error = waiting.pop()
        if isinstance(error, BaseException) and not any(error is known for known in found):
            found.append(error)
            waiting += [error.__cause__, error.__context__, *error.args]
            if isinstance(error, BaseExceptionGroup):
                waiting += error.exceptions
    return found


def _about_tls(raised: BaseException) -> bool:
    return any(isinstance(error, ssl.SSLError | ssl.CertificateError) for error in _chain(raised))


def _reason(raised: BaseException) -> str:
    """The most telling words in the chain, cut to a line."""
    chain = _chain(raised)
    for error in chain:
        if isinstance(error, ssl.SSLCertVerificationError):
            # OpenSSL's own errors say more than those that Python code makes.
            return f"certificate not trusted, {getattr(error, 'verify_message', error)}"[:200]
    for error in chain:
        if isinstance(error, ssl.SSLError):
            # Not all of them have a reason.
            told = getattr(error, "reason", None) or str(error)
            return "no TLS is spoken there" if told == "WRONG_VERSION_NUMBER" else told[:200]
    for error in chain:
        if isinstance(error, OSError) and error.strerror:
            # Trio puts the address before it, which our sentences have.
            return error.strerror.rpartition("): ")[2][:200]
    return (str(raised) or type(raised).__name__)[:200]
