"""Whatever the transport raises, at whatever step: only our own errors come out."""

from __future__ import annotations

import inspect
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from itertools import product

import h11
import httpcore
import pytest
import trio

from origin.errors import Corrupt, NotFound, Unavailable
from origin.metrics import Metrics
from origin.model import Entry, Relay
from origin.sources import Known
from tests.contracts.sources import collect
from tests.registry_bench import PAGE, WHEEL, source_of

FOREIGN: list[Exception] = [
    *(
        kind("broken")
        for _, kind in inspect.getmembers(httpcore, inspect.isclass)
        if issubclass(kind, Exception) and kind is not httpcore.ConnectionNotAvailable
    ),
    ssl.SSLError(1, "bad record"),
    ssl.SSLCertVerificationError(1, "expired"),
    ssl.CertificateError("elsewhere"),
    ssl.SSLEOFError(8, "eof"),
    h11.LocalProtocolError("state"),
    h11.RemoteProtocolError("bytes"),
    OSError(5, "Input/output error"),
    ConnectionResetError(104, "reset"),
    BrokenPipeError(32, "pipe"),
    TimeoutError(110, "timed out"),
    OSError("without a number"),
    trio.BrokenResourceError(),
    trio.ClosedResourceError(),
    trio.BusyResourceError("twice"),
    trio.TooSlowError(),
    ExceptionGroup("several", [OSError("one"), ssl.SSLError("two")]),
    RuntimeError("a pool's own mistake"),
    ValueError("no such thing"),
    UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"),
    KeyError("missing"),
]

STEPS = ("send", "first part", "later part", "end", "close")


class Body:
    """A response's body that breaks at one step."""

    def __init__(self, step: str, error: Exception) -> None:
        self.step = step
        self.error = error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self.step == "first part":
            raise self.error
        yield b"one"
        await trio.lowlevel.checkpoint()
        if self.step == "later part":
            raise self.error
        yield b"two"
        if self.step == "end":
            raise self.error

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.step == "close":
            raise self.error


class Pool:
    """A pool of connections that breaks at one step."""

    def __init__(self, step: str, error: Exception, status: int) -> None:
        self.step = step
        self.error = error
        self.status = status

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        await trio.lowlevel.checkpoint()
        if self.step == "send":
            raise self.error
        return httpcore.Response(self.status, headers={"Location": "/elsewhere"}, content=Body(self.step, self.error))

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("error", FOREIGN, ids=lambda error: type(error).__name__)
async def test_no_foreign_error_comes_out(error: Exception, autojump_clock: object) -> None:
    source = source_of("http://pypi.test/simple/", Metrics())
    link = source._links["pypi"]
    url = "http://pypi.test/files/x.whl"

    async def download() -> bytes:
        async with source.file(WHEEL, Entry(WHEEL, url)) as stream:
            return await collect(stream)

    asking: list[Callable[[], Awaitable[object]]] = [
        lambda: source.page(PAGE, None),
        lambda: source.page(PAGE, Known(etag='"v1"')),
        download,
        lambda: source.exists(WHEEL, url),
        lambda: source.relay(Relay("pypi", "POST", "-/search", b"{}")),
        lambda: source._knock(link, "page", link.line("page", link.home)),
    ]
    for step, status, ask in product(STEPS, (200, 206, 302, 404, 503), asking):
        link.pool = Pool(step, error, status)  # type: ignore[assignment]
        with suppress(Unavailable, Corrupt, NotFound):
            await ask()
        # Every place and every permit was given back.
        assert [gate.value for gate in link.gates.values()] == [64, 64, 32, 16]
        for lines in link.lines.values():
            assert not any(line.breaker._unanswered for line in lines._lines.values())
            lines._lines.clear()  # a breaker that is open lets nothing through
