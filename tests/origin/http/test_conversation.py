"""Requests that have a task of their own: bodies in and out, expectations, disconnects, stalls, time limits and draining."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from origin.errors import Corrupt, NotFound, Refused, Unavailable
from origin.http import Request, Response
from origin.http.listen import Limits
from origin.http.problems import problem
from origin.metrics import Metrics
from origin.model import Arriving, Hold, Refuse, Span, Validity
from tests.origin.http.loopback import Running, answering, get, plain, resident_bytes, running, settled

ETAG = ("ETag", '"sha256-x"')
RANGES = ("Accept-Ranges", "bytes")


class CountedSpan(Span):
    """A Span that counts how often it was closed."""

    closed = 0

    def close(self) -> None:
        self.closed += 1
        super().close()


class Spool:
    """An arrival that the test moves by hand."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w+b")
        self.releasable = 0
        self.failure: Exception | None = None
        self.estimate: float | None = None
        self.closed = 0
        self._moved = trio.Event()

    def fileno(self) -> int:
        return self.file.fileno()

    async def wait_beyond(self, offset: int) -> int:
        while self.releasable <= offset:
            if self.failure is not None:
                raise self.failure
            await self._moved.wait()
        return self.releasable

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.file.flush()
        self.releasable += len(data)
        self._wake()

    def fail(self, failure: Exception) -> None:
        self.failure = failure
        self._wake()

    def estimate_s(self) -> float | None:
        return self.estimate

    def close(self) -> None:
        self.closed += 1

    def _wake(self) -> None:
        self._moved.set()
        self._moved = trio.Event()


class Deliveries(list[tuple[int, bool]]):
    def note(self, sent: int, complete: bool) -> None:
        self.append((sent, complete))


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool")
    with spool.file:
        yield spool


async def later(clock: trio.testing.MockClock, seconds: int, condition: Callable[[], object]) -> None:
    """Wait until ``condition`` holds, which it must after at most so many seconds, and not at once."""
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert not condition()
    for _ in range(seconds):
        clock.jump(1)
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert condition()


# ---- requests -------------------------------------------------------------------------------------------------------


async def test_a_posted_body_reaches_the_handler_whole() -> None:
    async with running(answering(lambda r: Response(200, [], r.body))) as server, server.client() as client:
        body = os.urandom(300_000)
        await client.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert (await client.answer()).body == body
        head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: Chunked\r\n\r\n"
        await client.send(head + b"".join(b"%X\r\n%b\r\n" % (len(c), c) for c in (body[:7], body[7:])) + b"0\r\n\r\n")
        assert (await client.answer()).body == body


async def test_a_client_that_expects_100_gets_it_before_it_sends_its_body() -> None:
    async with running(plain) as server, server.client() as client:
        await client.send("POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert (await client.answer()).status == 100
        await client.send("hello" + get("/next"))
        assert (await client.answer()).body == b"POST / 5"
        assert (await client.answer()).body == b"GET /next 0"
        # A body that is here already needs no invitation; one too large gets none.
        await client.send("PUT / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
        assert (await client.answer()).body == b"PUT / 5"
        await client.send("PUT / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n")
        assert (await client.answer()).status == 413


async def test_http_1_0_closes_unless_asked_to_stay() -> None:
    async with running(plain) as server:
        said = await server.exchange(b"GET /a HTTP/1.0\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nConnection: close\r\n" in said
        async with server.client() as client:
            for _ in range(2):
                await client.send("GET /a HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
                assert (await client.answer()).headers["connection"] == "keep-alive"


async def test_a_client_may_close_and_a_handler_too() -> None:
    async with running(answering(lambda r: Response(200, close=r.target == "/bye"))) as server:
        for data in (get("/a", "Connection: close"), get("/bye")):
            said = await server.exchange(data.encode() + get("/never").encode())
            assert said.count(b"HTTP/1.1 200") == 1
            assert b"Connection: close" in said
        assert len(server.seen) == 2


async def test_an_upgrade_is_ignored() -> None:
    async with running(plain) as server, server.client() as client:
        await client.send(get("/a", "Connection: Upgrade", "Upgrade: websocket") + get("/b"))
        assert (await client.answer()).body == b"GET /a 0"
        assert (await client.answer()).body == b"GET /b 0"


async def test_the_raw_target_reaches_the_handler_untouched() -> None:
    async with running(plain) as server, server.client() as client:
        for target in ("/a/%2e%2e/b", "/%2F%00?x=%zz", "//double", "/a/../b", "http://pypi.test/simple/", "/{a}|b"):
            assert (await client.get(target)).status == 200
        assert [r.target for r in server.seen] == [
            "/a/%2e%2e/b",
            "/%2F%00?x=%zz",
            "//double",
            "/a/../b",
            "http://pypi.test/simple/",
            "/{a}|b",
        ]
        assert server.seen[4].base == "http://pypi.test"


# ---- answers --------------------------------------------------------------------------------------------------------


async def test_head_has_the_get_s_head_and_no_body(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")

    def answer(request: Request) -> Response:
        if request.target == "/told":
            return Response(200, [("Content-Length", "1234")])
        return Response(200, [ETAG, RANGES], Span(os.open(path, os.O_RDONLY), 0, 10))

    async with running(answering(answer)) as server, server.client() as client:
        whole = await client.get("/a")
        head = await client.get("/a", "Range: bytes=1-2", method="HEAD")
        assert head.headers == whole.headers
        assert (head.status, head.body) == (200, b"")
        assert (await client.get("/told", method="HEAD")).headers["content-length"] == "1234"


async def test_a_file_goes_out_whole_and_in_ranges_and_is_closed_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = os.urandom(3_000_000)
    path.write_bytes(content)
    spans: list[CountedSpan] = []
    deliveries = Deliveries()

    def answer(request: Request) -> Response:
        spans.append(CountedSpan(os.open(path, os.O_RDONLY), 0, len(content)))
        return Response(200, [ETAG, RANGES], spans[-1], delivered=deliveries.note)

    async with running(answering(answer)) as server, server.client() as client:
        assert (await client.get("/a")).body == content
        part = await client.get("/a", "Range: bytes=1000000-1999999")
        assert (part.status, part.body) == (206, content[1_000_000:2_000_000])
        assert part.headers["content-range"] == "bytes 1000000-1999999/3000000"
        assert (await client.get("/a", "Range: bytes=-5")).body == content[-5:]
        assert (await client.get("/a", "Range: bytes=3000000-")).status == 416
        assert (await client.get("/a", 'If-None-Match: "sha256-x"')).status == 304
        assert (await client.get("/a", method="HEAD")).status == 200
        await settled(lambda: len(deliveries) == 6)
    assert [span.closed for span in spans] == [1] * 6
    assert deliveries[:3] == [(3_000_000, True), (1_000_000, True), (5, True)]
    assert deliveries[4:] == [(0, True), (0, True)]


async def test_a_file_shorter_than_promised_ends_short(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    span = CountedSpan(os.open(path, os.O_RDONLY), 0, 2000)
    deliveries = Deliveries()
    async with running(answering(lambda r: Response(200, [], span, delivered=deliveries.note))) as server:
        said = await server.exchange(get("/a").encode())
        assert said.partition(b"\r\n\r\n")[2] == b"x" * 1000
        assert b"Content-Length: 2000\r\n" in said
    assert (span.closed, deliveries) == (1, [(1000, False)])


@pytest.mark.parametrize("asked", ["", "Range: bytes=1000000-"])
async def test_a_file_whose_leave_is_taken_back_ends_where_it_is(asked: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(30_000_000))
    leave = Validity(math.inf)
    response = Response(200, [ETAG, RANGES], CountedSpan(os.open(path, os.O_RDONLY), 0, 30_000_000, leave))
    async with running(answering(lambda r: response)) as server, server.client() as client:
        await client.send(get("/a", *([asked] if asked else [])))
        await client.stream.receive_some(1000)
        leave.valid = False
        assert 0 < len(await client.rest()) < 20_000_000


async def test_what_is_still_arriving_is_followed(spool: Spool) -> None:
    deliveries = Deliveries()
    async with (
        running(
            answering(lambda r: Response(200, [RANGES, ETAG], Arriving(spool, 0, 300_000), delivered=deliveries.note))
        ) as server,
        server.client() as client,
    ):
        await client.send(get("/a"))
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            spool.write(b"x" * 100_000)
            await trio.testing.wait_all_tasks_blocked()
        assert (await client.answer()).body == b"x" * 300_000
        assert (await client.get("/a", "Range: bytes=299999-")).body == b"x"
        await settled(lambda: spool.closed == 2)
        assert deliveries == [(300_000, True), (1, True)]


async def test_a_flight_that_fails_ends_the_body_short_never_cleanly(spool: Spool) -> None:
    deliveries = Deliveries()
    response = Response(200, [], Arriving(spool, 0, 1000), delivered=deliveries.note)
    async with running(answering(lambda r: response)) as server, server.client() as client:
        await client.send(get("/a") + get("/behind"))
        spool.write(b"x" * 400)
        await trio.testing.wait_all_tasks_blocked()
        spool.fail(Corrupt("digest"))
        said = await client.rest()
        assert said.endswith(b"\r\n\r\n" + b"x" * 400)
        assert said.count(b"HTTP/1.1") == 1
        assert (spool.closed, deliveries) == (1, [(400, False)])


async def test_a_flight_that_fails_before_its_first_byte_is_told_as_an_error(spool: Spool) -> None:
    deliveries = Deliveries()
    response = Response(200, [], Arriving(spool, 0, 1000), delivered=deliveries.note)
    async with running(answering(lambda r: response)) as server, server.client() as client:
        await client.send(get("/a"))
        await trio.testing.wait_all_tasks_blocked()
        spool.fail(Corrupt("wrong digest"))
        answer = await client.answer()
        assert (answer.status, answer.reason) == (502, "wrong digest")
        assert (spool.closed, deliveries) == (1, [(0, False)])


async def test_a_client_that_leaves_while_nothing_arrives_is_noticed(spool: Spool, mock_clock: trio.testing.MockClock) -> None:
    deliveries = Deliveries()
    async with running(answering(lambda r: Response(200, [], Arriving(spool, 0, 1000), delivered=deliveries.note))) as server:
        async with server.client() as client:
            await client.send(get("/a"))
            spool.write(b"x" * 10)
            # Bytes left unread would make this a reset, which is noticed at once.
            while not client.buffer.endswith(b"x" * 10):
                client.buffer += await client.stream.receive_some()
        await later(mock_clock, 12, lambda: spool.closed)
        assert deliveries == [(10, False)]


async def test_a_client_that_leaves_cancels_its_handler_alone(mock_clock: trio.testing.MockClock) -> None:
    cancelled, waiting = trio.Event(), trio.Event()

    async def handler(request: Request) -> Response:
        if request.target == "/wait":
            waiting.set()
            try:
                await trio.sleep_forever()
            finally:
                cancelled.set()
        return Response(200)

    async with running(handler) as server:
        async with server.client() as client:
            await client.send(get("/wait"))
            await waiting.wait()
        await later(mock_clock, 12, cancelled.is_set)
        async with server.client() as client:
            assert (await client.get("/")).status == 200


async def test_a_body_is_closed_even_if_the_client_leaves_as_it_is_made(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    span = CountedSpan(os.open(path, os.O_RDONLY), 0, 1)
    waiting = trio.Event()

    async def handler(request: Request) -> Response:
        waiting.set()
        with contextlib.suppress(trio.Cancelled):
            await trio.sleep_forever()
        return Response(200, [], span)

    async with running(handler) as server:
        async with server.client() as client:
            await client.send(get("/wait"))
            await waiting.wait()
        await later(mock_clock, 12, lambda: span.closed)
        assert span.closed == 1


async def test_a_client_that_resets_is_noticed_at_once() -> None:
    cancelled, waiting = trio.Event(), trio.Event()

    async def handler(request: Request) -> Response:
        waiting.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with running(handler) as server:
        async with server.client() as client:
            await client.send(get("/wait"))
            await waiting.wait()
            client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with trio.fail_after(0.8):
            await cancelled.wait()


async def test_a_client_that_has_finished_sending_still_gets_its_answer(spool: Spool, mock_clock: trio.testing.MockClock) -> None:
    async def handler(request: Request) -> Response:
        if request.target == "/spool":
            return Response(200, [], Arriving(spool, 0, 200))
        await trio.sleep(5)
        return Response(200, [], b"patience")

    async with running(handler) as server:
        async with server.client() as client:
            await client.send(get("/slow"))
            await client.stream.send_eof()
            for _ in range(6):
                await trio.testing.wait_all_tasks_blocked(0.01)
                mock_clock.jump(1)
            answer = await client.answer()
            assert (answer.body, answer.headers["connection"]) == (b"patience", "close")
            assert await client.rest() == b""
        async with server.client() as client:
            await client.send(get("/spool"))
            await client.stream.send_eof()
            for _ in range(20):
                # Longer in all than a silent one is kept; but never silent for long.
                await trio.testing.wait_all_tasks_blocked(0.01)
                spool.write(b"x" * 10)
                mock_clock.jump(6)
            assert (await client.answer()).body == b"x" * 200
            assert await client.rest() == b""


async def test_a_reader_is_not_held_longer_than_it_may_be_before_its_first_byte(
    spool: Spool, mock_clock: trio.testing.MockClock
) -> None:
    deliveries = Deliveries()
    spool.write(b"x" * 10)

    async def handler(request: Request) -> Response:
        body = Arriving(spool, 0, 1000, trio.current_time() + 8)
        return Response(200, [RANGES, ETAG], body, delivered=deliveries.note)

    async with running(handler) as server, server.client() as client:
        for estimate, told in ((None, "5"), (42.4, "42")):
            spool.estimate = estimate
            await client.send(get("/tail", "Range: bytes=-100"))
            await trio.testing.wait_all_tasks_blocked(0.01)
            mock_clock.jump(9)
            answer = await client.answer()
            assert (answer.status, answer.headers["retry-after"]) == (503, told)
        assert (spool.closed, deliveries) == (2, [(0, False)] * 2)
        # What is here already may leave however late it is.
        await client.send(get("/start", "Range: bytes=0-9"))
        answer = await client.answer()
        assert (answer.status, answer.body) == (206, b"x" * 10)
        await client.send(get("/tail", "Range: bytes=-1"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(7)
        spool.write(b"y" * 990)
        assert (await client.answer()).body == b"y"


async def test_errors_become_problems_that_pip_uv_and_npm_can_show(caplog: pytest.LogCaptureFixture) -> None:
    errors: dict[str, Exception] = {
        "/404": NotFound("no such project: six"),
        "/403": Refused(Refuse("malware advisory — see wiki\r\nSet-Cookie: a", "no-evil")),
        "/hold": Refused(Hold(1_800_000_000, "too new", "cooldown")),
        "/503": Unavailable("the registry is silent", 7.6),
        "/502": Corrupt("wrong digest", "a", "b"),
        "/400": ValueError("bad target"),
        "/group": ExceptionGroup("flights", [Unavailable("x")]),
        "/500": RuntimeError("secret path"),
        "/decode": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "secret path"),
    }

    async def handler(request: Request) -> Response:
        raise errors[request.target]

    async with running(handler) as server, server.client() as client:
        with caplog.at_level(logging.CRITICAL):
            answers = {target: await client.get(target) for target in errors}
    statuses = {target: answer.status for target, answer in answers.items()}
    expected = {"/hold": 403, "/group": 503, "/decode": 500}
    assert statuses == {target: expected.get(target) or int(target[1:]) for target in errors}
    assert answers["/403"].reason == "Blocked by policy: malware advisory ? see wiki Set-Cookie: a"
    assert answers["/hold"].reason == "Held by policy until Fri, 15 Jan 2027 08:00:00 GMT: too new"
    assert answers["/404"].reason == "no such project: six"
    assert answers["/503"].headers["retry-after"] == "8"
    for target, answer in answers.items():
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["cache-status"].startswith("leeward; detail=")
        assert f'"instance":"{target}"'.encode() in answer.body
        assert b'"error":' in answer.body
        assert b'"message":' in answer.body
        assert b"secret" not in answer.body
        assert "secret" not in answer.reason


async def test_a_header_that_would_break_its_line_is_an_error_not_a_second_header(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        running(answering(lambda r: Response(302, [("Location", "/a\r\nSet-Cookie: b")]))) as server,
        server.client() as client,
    ):
        with caplog.at_level(logging.CRITICAL):
            assert (await client.get("/a")).status == 500
        assert "set-cookie" not in (await client.get("/a")).headers


# ---- slow and idle clients --------------------------------------------------------------------------------------------


async def test_an_idle_connection_closes_after_its_time_and_a_used_one_later(mock_clock: trio.testing.MockClock) -> None:
    async with running(plain) as server, server.client() as one, server.client() as two:
        await one.get("/a")
        await two.get("/a")
        mock_clock.jump(50)
        await settled(lambda: True)
        await two.get("/a")
        mock_clock.jump(27)
        assert await one.rest() == b""
        await two.get("/a")
        mock_clock.jump(77)
        assert await two.rest() == b""


async def test_a_head_that_dawdles_is_cut_off(mock_clock: trio.testing.MockClock) -> None:
    async with running(plain) as server, server.client() as client:
        await client.get("/a")
        await client.send("GET /a HT")
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(6)
        await client.send("TP/1.1\r\n")
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(6)
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")


async def test_a_body_that_dawdles_is_cut_off(mock_clock: trio.testing.MockClock) -> None:
    async with running(plain) as server, server.client() as client:
        await client.send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhel")
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(31)
        assert (await client.answer()).status == 408


async def test_a_body_that_trickles_is_cut_off(mock_clock: trio.testing.MockClock) -> None:
    framings = ("Content-Length: 100\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n64\r\n")
    async with running(plain, limits=Limits(body_s=60)) as server:
        for framing in framings:
            async with server.client() as client:
                await client.send(f"POST / HTTP/1.1\r\nHost: localhost\r\n{framing}")
                for _ in range(2):
                    await trio.testing.wait_all_tasks_blocked(0.01)
                    mock_clock.jump(29)
                    await client.send("x")
                await trio.testing.wait_all_tasks_blocked(0.01)
                mock_clock.jump(3)
                with trio.fail_after(29):
                    assert (await client.answer()).status == 408


async def test_a_body_too_large_is_refused_in_the_handler_s_words_if_it_refuses() -> None:
    def answer(request: Request) -> Response:
        assert request.body == b""
        if request.target == "/upload":
            return problem(403, "Forbidden", "read-only mirror")
        return Response(200, [], b"not this")

    size = 2_000_000
    framings = (
        b"Content-Length: %d\r\n\r\n" % size + bytes(size),
        b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % size,
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % size + bytes(size),
    )
    async with running(answering(answer)) as server:
        for framing in framings:
            for target, status, reason in (
                (b"/upload", 403, "read-only mirror"),
                (b"/audit", 413, "the request's body is too large"),
            ):
                async with server.client() as client:
                    data = b"POST " + target + b" HTTP/1.1\r\nHost: localhost\r\n" + framing + get("/smuggled").encode()
                    await client.send(data)
                    answered = await client.answer()
                    assert (answered.status, answered.reason, answered.headers["connection"]) == (status, reason, "close")
                    await client.stream.send_eof()
                    assert await client.rest() == b""
        assert {request.target for request in server.seen} == {"/upload", "/audit"}


async def test_an_expectation_without_a_body_is_ignored() -> None:
    async with running(plain) as server, server.client() as client:
        assert (await client.get("/a", "Expect: 100-continue")).body == b"GET /a 0"
        await client.send("DELETE /a HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n")
        assert (await client.answer()).body == b"DELETE /a 0"


async def test_empty_lines_before_a_request_are_skipped_but_not_many() -> None:
    post = "POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"
    async with running(plain) as server:
        async with server.client() as client:
            for start in ("\r\n", "\r\n\r\n"):
                await client.send(start + get("/a"))
                assert (await client.answer()).body == b"GET /a 0"
            for _ in range(4):
                await client.send(post + "\r\n")
                assert (await client.answer()).body == b"POST /a 5"
            await client.send("\r")
            await trio.testing.wait_all_tasks_blocked(0.01)
            await client.send("\n" + get("/a"))
            assert (await client.answer()).body == b"GET /a 0"
        for data in ("\r\n" * 3, "\r\n" * 3 + get("/a")):
            async with server.client() as client:
                await client.send(data)
                assert (await client.answer()).status == 400
                await client.stream.send_eof()
                assert await client.rest() == b""
        async with server.client() as client:
            for _ in range(3):
                await client.send("\r\n")
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert (await client.answer()).status == 400


async def drained(sock: trio.socket.SocketType) -> None:
    while await sock.recv(1 << 20):
        pass


@asynccontextmanager
async def slow_reader(server: Running) -> AsyncIterator[trio.socket.SocketType]:
    with trio.socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await sock.connect(("127.0.0.1", server.port))
        await sock.send(get("/a").encode())
        yield sock


async def test_a_peer_that_takes_nothing_is_dropped_and_a_slow_one_is_not(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(50_000_000)
    deliveries = Deliveries()

    def answer(request: Request) -> Response:
        return Response(200, [], Span(os.open(path, os.O_RDONLY), 0, 50_000_000), delivered=deliveries.note)

    async with running(answering(answer)) as server, slow_reader(server) as stuck, slow_reader(server) as slow:
        for _ in range(4):
            await trio.testing.wait_all_tasks_blocked(0.05)
            for _ in range(40):
                await slow.recv(4096)
                await trio.testing.wait_all_tasks_blocked(0.001)
            mock_clock.jump(31)
        await settled(lambda: deliveries)
        assert len(deliveries) == 1
        assert not deliveries[0][1]
        with pytest.raises(ConnectionResetError):
            await drained(stuck)
        assert len(await slow.recv(100)) == 100


async def test_a_thousand_slow_readers_have_no_buffers_of_their_own(tmp_path: Path, spool: Spool) -> None:
    path = tmp_path / "file"
    size = 500_000_000
    with path.open("wb") as file:
        file.truncate(size)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    readers = 1000
    needed = readers * 4 + 200
    assert hard == resource.RLIM_INFINITY or hard >= needed, f"this test needs {needed} descriptors, the hard limit is {hard}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    spool.file.truncate(size)
    spool.releasable = 400_000_000

    def answer(request: Request) -> Response:
        if len(request.target) % 2:
            return Response(200, [], Arriving(spool, 0, size))
        return Response(200, [], Span(os.open(path, os.O_RDONLY), 0, size))

    try:
        async with running(answering(answer)) as server, AsyncExitStack() as stack:
            before = resident_bytes()
            socks = []
            for number in range(readers):
                sock = stack.enter_context(trio.socket.socket())
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                await sock.connect(("127.0.0.1", server.port))
                await sock.send(get("/a" if number % 2 else "/ab").encode())
                socks.append(sock)
            with trio.fail_after(60):
                await settled(lambda: server.server.statistics()["busy"] == readers)
                for sock in socks:
                    await sock.recv(1000)
                await trio.sleep(0.2)
            grown = resident_bytes() - before
            assert grown < 100_000_000, f"{grown / 1e6:.0f} MB"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_beyond_the_limit_newcomers_wait_until_somebody_leaves(mock_clock: trio.testing.MockClock) -> None:
    metrics = Metrics()
    async with (
        running(plain, limits=Limits(connections=2), metrics=metrics) as server,
        server.client() as one,
        server.client() as two,
    ):
        await one.get("/a")
        await two.get("/a")
        async with server.client() as three:
            await three.send(get("/three"))
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert len(server.seen) == 2
            assert metrics.connections._value.get() == 2
            await one.stream.aclose()
            await settled(lambda: server.server.statistics()["connections"] == 1)
            mock_clock.jump(1.1)
            assert (await three.answer()).body == b"GET /three 0"
