"""HTTP/2 to the same handler as HTTP/1.1: the same answers, bodies within windows, and a connection that ends in order."""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from origin.errors import Corrupt, NotFound, Refused, Unavailable
from origin.http import Request, Response, Splice
from origin.http.hosts import Site
from origin.http.hot import HotPages
from origin.http.limits import Limits
from origin.metrics import Tally
from origin.model import Arriving, Refuse, Validity
from tests.origin.http.loopback import get, plain, running, settled
from tests.origin.http.loopback_h2 import NOW, Client, fields, serving_h2
from tests.origin.http.test_conversation import CountedSpan, Deliveries, Spool

ETAG = ("ETag", '"sha256-x"')
RANGES = ("Accept-Ranges", "bytes")
PAGE = b"<html>" + bytes(range(256)) * 30


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(os.urandom(3_000_000))
    return path


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool")
    yield made
    made.file.close()


def opened(path: Path) -> CountedSpan:
    return CountedSpan(os.open(path, os.O_RDONLY), 0, path.stat().st_size)


def content(path: Path) -> bytes:
    return path.read_bytes()


def everything(path: Path, hot: HotPages | None = None) -> Callable[[Request], Awaitable[Response]]:
    """A handler with an answer of each sort."""
    validity, tally = Validity(NOW + 1000), Tally()

    async def handler(request: Request) -> Response:
        match request.target:
            case "/page":
                headers = [
                    ("Content-Type", "text/html"),
                    ETAG,
                    ("Vary", "Accept"),
                    ("Last-Modified", "Thu, 14 Jan 2027 08:00:00 GMT"),
                ]
                response = Response(200, headers, PAGE)
                if hot is not None:
                    hot.keep(request, response, validity, tally)
                return response
            case "/file":
                return Response(200, [ETAG, RANGES], opened(path))
            case "/none":
                return Response(204, [ETAG], b"")
            case "/moved":
                return Response(302, [("Location", "/page"), ("Connection", "close"), ("X-Case", "kept")], b"", "Elsewhere")
            case "/missing":
                raise NotFound("no such project")
            case "/refused":
                raise Refused(Refuse("too young", "age"))
            case "/later":
                raise Unavailable("not now", 7)
            case "/broken":
                raise ZeroDivisionError
            case "/wrong":
                return Response(200, [("X-Wrong", "a\r\nSet-Cookie: b")], b"")
            case _:
                return await plain(request)

    return handler


ASKED = [
    ("GET", "/page", (), None),
    ("HEAD", "/page", (), None),
    ("GET", "/page", (("if-none-match", '"sha256-x"'),), None),
    ("GET", "/page", (("if-none-match", 'W/"other", "sha256-x"'),), None),
    ("GET", "/page", (("if-none-match", '"other"'),), None),
    ("GET", "/page", (("if-match", '"other"'),), None),
    ("GET", "/page", (("if-modified-since", "Thu, 14 Jan 2027 08:00:00 GMT"),), None),
    ("GET", "/page", (("range", "bytes=0-1"),), None),
    ("GET", "/file", (), None),
    ("HEAD", "/file", (), None),
    ("GET", "/file", (("range", "bytes=100-70099"),), None),
    ("GET", "/file", (("range", "bytes=-5"),), None),
    ("GET", "/file", (("range", "bytes=9000000-"),), None),
    ("GET", "/file", (("range", "bytes=5-"), ("if-range", '"other"')), None),
    ("GET", "/none", (), None),
    ("GET", "/moved", (), None),
    ("GET", "/missing", (), None),
    ("HEAD", "/missing", (), None),
    ("GET", "/refused", (), None),
    ("GET", "/later", (), None),
    ("GET", "/broken", (), None),
    ("GET", "/wrong", (), None),
    ("POST", "/echo?x=1", (), b""),
    ("POST", "/echo", (("content-type", "application/json"),), b"{}" * 40_000),
    ("POST", "/echo", (), b"x" * 300_001),
    ("PUT", "/echo", (("expect", "100-continue"),), b"some"),
    ("PUT", "/echo", (("expect", "wonders"),), b"some"),
    ("OPTIONS", "*", (), None),
    ("FROB", "/page", (), None),
    ("GET", "/" + "x" * 9000, (), None),
    ("GET", "/page#there", (), None),
    ("GET", "/page", tuple((f"x-{n}", "1") for n in range(101)), None),
    ("GET", "/page", (("x-long", "y" * 60_000),), None),
]


@pytest.mark.parametrize("hits", [0, 1], ids=["first", "kept"])
@pytest.mark.parametrize(("method", "target", "more", "body"), ASKED)
async def test_both_protocols_answer_alike(
    method: str, target: str, more: tuple[tuple[str, str], ...], body: bytes | None, hits: int, big: Path
) -> None:
    limits = Limits(body_bytes=300_000)
    hot = [HotPages(1 << 20), HotPages(1 << 20)]
    async with (
        running(everything(big, hot[0]), limits=limits, hot=hot[0]) as server,
        serving_h2(everything(big, hot[1]), limits=limits, hot=hot[1]) as served,
        server.client() as one,
        served.client() as two,
    ):
        for _ in range(hits):
            await one.get("/page")
            await two.get("/page")
        lines = [f"{name}: {value}" for name, value in more]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        await one.send(get(target, *lines, method=method).encode() + (body or b""))
        first = await one.answer(method)
        if first.status == 100:
            first = await one.answer(method)
        fields = (*more, *((("content-length", str(len(body))),) if body is not None else ()))
        second = await two.get(target, *fields, method=method, body=body)
        first.headers.pop("connection", None)
        assert (second.status, second.headers) == (first.status, first.headers)
        assert second.body == first.body
        assert second.ended


async def test_the_handler_sees_the_same_request(big: Path) -> None:
    async with running(plain) as server, serving_h2(plain) as served, server.client() as one, served.client() as two:
        more = [("authorization", "Bearer x"), ("accept", "text/html;q=0.5, */*"), ("cookie", "a=1")]
        await one.get("/a%2Fb?c", *(f"{name}: {value}" for name, value in more))
        await two.get("/a%2Fb?c", *more, ("cookie", "b=2"))
        first, second = server.seen[0], served.seen[0]
        assert (second.method, second.target, second.base, second.listed, second.body) == (
            first.method,
            first.target,
            first.base,
            first.listed,
            first.body,
        )
        assert dict(second.headers) == {**dict(first.headers), "cookie": "a=1; b=2"}
        assert second.scope == "Bearer x"
        assert second.version == "2"


async def test_a_kept_answer_needs_no_handler_and_is_counted(big: Path) -> None:
    hot, tally = HotPages(1 << 20), Tally()

    async def handler(request: Request) -> Response:
        response = Response(200, [ETAG], b"x" * int(request.target[1:]))
        hot.keep(request, response, Validity(NOW + 10), tally)
        return response

    async with serving_h2(handler, hot=hot) as served, served.client() as client:
        for size in (10, 20_000, 100_000):
            for _ in range(3):
                answer = await client.get(f"/{size}")
                assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"x" * size, str(size))
            assert (await client.get(f"/{size}", ("if-none-match", '"sha256-x"'))).status == 304
            assert (await client.get(f"/{size}", ("if-none-match", '"y"'), ("if-none-match", '"sha256-x"'))).status == 304
            assert (await client.get(f"/{size}", ("range", "bytes=0-0"))).status == 200
        assert len(served.seen) == 9
        assert tally.count == 9
        assert tally.sent > 2 * 120_010


async def test_what_the_second_protocol_kept_the_first_finds(big: Path) -> None:
    hot = HotPages(1 << 20)
    async with (
        running(everything(big, hot), hot=hot) as server,
        serving_h2(everything(big, hot), hot=hot) as served,
        server.client() as one,
        served.client() as two,
    ):
        assert (await two.get("/page", ("accept-encoding", "gzip"))).status == 200
        answer = await one.get("/page", "Accept-Encoding: gzip")
        assert (answer.status, answer.body, answer.headers["date"]) == (200, PAGE, "Fri, 15 Jan 2027 08:00:00 GMT")
        assert server.server.statistics()["hits"] == 1


async def test_another_site_is_misdirected(big: Path) -> None:
    async with serving_h2(everything(big), hosts=Site("https://pypi.test"), user="ann") as served, served.client() as client:
        assert (await client.get("/page", authority="npm.test")).status == 421
        assert (await client.get("/page", authority="pypi.test")).status == 200
        assert served.seen[0].base == "https://pypi.test"
        assert (served.seen[0].face, served.seen[0].user) == ("proxy", "ann")


async def test_an_authority_that_host_contradicts_is_refused() -> None:
    async with serving_h2(plain) as served, served.raw() as raw:
        await raw.send(raw.headers(1, fields("/a", ("host", "elsewhere"))) + raw.headers(3, fields("/a", ("host", "LOCALHOST"))))
        for _ in range(2):
            await raw.until(HeadersFrame)
        await settled(lambda: len(served.seen) == 1)
        assert served.seen[0].header("host") == "LOCALHOST"


@pytest.mark.parametrize(
    "block",
    [
        fields("/a", ("X-Upper", "1")),
        fields("/a", ("connection", "close")),
        fields("/a", ("transfer-encoding", "chunked")),
        fields("/a", ("te", "gzip")),
        fields("/a", ("x", "a\r\nhost: b")),
        fields("/a", ("x", "a\0")),
        fields("/a", ("x", " a")),
        fields("/a", ("x y", "a")),
        fields("/a", ("x:y", "a")),
        fields("/a", ("", "a")),
        fields("/a", (":path", "/b")),
        fields("/a", (":protocol", "websocket")),
        fields("/a", ("x", "1"), (":late", "1")),
        fields("/a b\r\nhost: c"),
        fields(""),
        fields("/a")[1:],
        [(":method", "GET"), (":path", "/")],
    ],
    ids=lambda block: repr(block[-1]),
)
async def test_what_is_no_request_in_http_2_is_reset(block: list[tuple[str, str]]) -> None:
    async with serving_h2(plain) as served, served.raw() as raw:
        await raw.send(raw.headers(1, block) + raw.headers(3))
        await raw.until(HeadersFrame)
        assert raw.resets() == {1: 1}
        assert [request.target for request in served.seen] == ["/"]


async def test_connect_is_refused_and_so_is_what_a_connection_cannot_turn_into() -> None:
    left, right = trio.socket.socketpair()
    stream = trio.SocketStream.__new__(trio.SocketStream)
    stream.socket = left

    async def handler(request: Request) -> Response:
        return Response(200, [], b"", onward=Splice(stream))

    async with serving_h2(handler) as served, served.client() as client, served.raw() as raw:
        assert (await client.get("/a")).status == 501
        await settled(lambda: left.fileno() == -1)
        await raw.send(raw.headers(1, [(":method", "CONNECT"), (":authority", "localhost:443")]))
        frame = await raw.until(HeadersFrame)
        assert isinstance(frame, HeadersFrame)
        assert len(served.seen) == 1
    right.close()


async def test_many_files_and_pages_at_once_arrive_to_the_byte(big: Path) -> None:
    hot = HotPages(1 << 20)
    async with serving_h2(everything(big, hot), hot=hot) as served, served.client() as client:
        asked = [await client.ask(target) for target in ("/file", "/page", "/missing") * 8]
        answers = [await client.finish(stream) for stream in asked]
        assert {a.body for a in answers[0::3]} == {content(big)}
        assert {a.body for a in answers[1::3]} == {PAGE}
        assert {a.status for a in answers[2::3]} == {404}
        await settled(lambda: served.running == 0)


async def test_streams_take_turns(big: Path) -> None:
    """A page asked for behind two large files does not wait for their end."""
    async with serving_h2(everything(big)) as served, served.client(window=2**24) as client:
        client.h2.increment_flow_control_window(2**26)
        files = [await client.ask("/file"), await client.ask("/file")]
        page = await client.ask("/page")
        await client.finish(page)
        assert all(len(client.answers[stream].body) < 3_000_000 for stream in files)
        sizes = [len((await client.finish(stream)).body) for stream in files]
        assert sizes == [3_000_000, 3_000_000]


async def test_what_arrives_follows_its_flight(spool: Spool) -> None:
    deliveries = Deliveries()

    async def handler(request: Request) -> Response:
        return Response(200, [RANGES, ETAG], Arriving(spool, 0, 300_000), delivered=deliveries.note)

    async with serving_h2(handler) as served, served.client() as client:
        stream = await client.ask("/a")
        await settled(lambda: served.seen)
        for _ in range(3):
            spool.write(b"x" * 100_000)
            await trio.testing.wait_all_tasks_blocked()
        assert (await client.finish(stream)).body == b"x" * 300_000
        assert (await client.get("/a", ("range", "bytes=299999-"))).body == b"x"
        await settled(lambda: spool.closed == 2)
        assert deliveries == [(300_000, True), (1, True)]


async def test_a_body_whose_leave_is_taken_back_ends_where_it_is(spool: Spool, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(3_000_000))
    leaves = [Validity(math.inf), Validity(math.inf)]

    async def handler(request: Request) -> Response:
        if request.target == "/held":
            return Response(200, [], CountedSpan(os.open(path, os.O_RDONLY), 0, 3_000_000, leaves[0]))
        return Response(200, [], Arriving(spool, 0, 1000, validity=leaves[1]))

    async with serving_h2(handler) as served, served.client() as client:
        held, arriving = await client.ask("/held"), await client.ask("/arriving")
        spool.write(b"x" * 400)
        while not client.answers[held].body or len(client.answers[arriving].body) < 400:
            await client.take()
        for leave in leaves:
            leave.valid = False
        spool.write(b"x" * 600)
        assert (await client.finish(held)).reset == 2
        assert ((await client.finish(arriving)).body, client.answers[arriving].reset) == (b"x" * 400, 2)


async def test_a_flight_that_fails_resets_the_stream_and_no_other(spool: Spool) -> None:
    deliveries = Deliveries()

    async def handler(request: Request) -> Response:
        if request.target == "/b":
            return await plain(request)
        return Response(200, [], Arriving(spool, 0, 1000), delivered=deliveries.note)

    async with serving_h2(handler) as served, served.client() as client:
        stream = await client.ask("/a")
        spool.write(b"x" * 400)
        while len(client.answers[stream].body) < 400:
            await client.take()
        spool.fail(Corrupt("digest"))
        answer = await client.finish(stream)
        assert (answer.body, answer.ended, answer.reset) == (b"x" * 400, False, 2)
        assert (await client.get("/b")).status == 200
        assert (spool.closed, deliveries) == (1, [(400, False)])


async def test_a_flight_that_fails_before_its_first_byte_is_told_as_an_error(spool: Spool) -> None:
    deliveries = Deliveries()

    async def handler(request: Request) -> Response:
        return Response(200, [], Arriving(spool, 0, 1000), delivered=deliveries.note)

    async with serving_h2(handler) as served, served.client() as client:
        stream = await client.ask("/a")
        await settled(lambda: served.seen)
        spool.fail(Corrupt("wrong digest"))
        assert (await client.finish(stream)).status == 502
        await settled(lambda: deliveries == [(0, False)])
        assert spool.closed == 1


async def test_what_may_not_leave_in_time_is_told_to_come_back(spool: Spool, autojump_clock: trio.testing.MockClock) -> None:
    async def handler(request: Request) -> Response:
        return Response(200, [], Arriving(spool, 0, 1000, trio.current_time() + 5))

    spool.estimate = 33
    async with serving_h2(handler) as served, served.client() as client:
        answer = await client.get("/a")
        assert (answer.status, answer.headers["retry-after"]) == (503, "33")


async def test_a_file_that_is_shorter_than_it_said_is_reset(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(b"x" * 1000)
    span = CountedSpan(os.open(path, os.O_RDONLY), 0, 2000)

    async def handler(request: Request) -> Response:
        return Response(200, [], span)

    async with serving_h2(handler) as served, served.client() as client:
        answer = await client.get("/a")
        assert (answer.body, answer.ended, answer.reset) == (b"x" * 1000, False, 2)
        await settled(lambda: span.closed == 1)


async def test_a_reset_cancels_the_handler_and_closes_its_body(big: Path) -> None:
    cancelled: list[str] = []
    deliveries = Deliveries()
    span = opened(big)

    async def handler(request: Request) -> Response:
        if request.target == "/body":
            return Response(200, [], span, delivered=deliveries.note)
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(request.target)

    async with serving_h2(handler) as served, served.client() as client:
        waiting, sending = await client.ask("/wait"), await client.ask("/body")
        await settled(lambda: len(served.seen) == 2)
        while not client.answers[sending].body:
            await client.take(acknowledge=False)
        for stream in (waiting, sending):
            client.h2.reset_stream(stream)
        await client.flush()
        await settled(lambda: cancelled and span.closed)
        assert deliveries
        assert deliveries[0][1] is False
        assert deliveries[0][0] <= 65535
        assert span.closed == 1


async def test_a_client_that_leaves_cancels_everything() -> None:
    cancelled: list[str] = []

    async def handler(request: Request) -> Response:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(request.target)

    async with serving_h2(handler) as served:
        async with served.client() as client:
            for n in range(20):
                await client.ask(f"/{n}")
            await settled(lambda: served.running == 20)
        await settled(lambda: len(cancelled) == 20)
        assert served.running == 0
        await settled(lambda: served.ends)
        assert served.ends[0] is not None


async def test_a_body_beyond_the_limit_is_413_and_the_rest_of_it_is_not_wanted() -> None:
    async with serving_h2(plain, limits=Limits(body_bytes=100_000)) as served, served.client() as client:
        stream = await client.ask("/a", method="POST", body=b"x" * 400_000)
        answer = await client.finish(stream)
        assert (answer.status, served.seen[0].body) == (413, b"")
        assert (await client.get("/b", method="POST", body=b"y" * 99_000)).status == 200
        assert served.seen[1].body == b"y" * 99_000


async def test_bodies_together_have_a_limit() -> None:
    limits = Limits(body_bytes=40_000, h2_bodies_bytes=50_000)
    async with serving_h2(plain, limits=limits) as served, served.raw() as raw:
        for stream in (1, 3):
            await raw.send(raw.headers(stream, fields(method="POST"), "END_HEADERS"))
            await raw.send(DataFrame(stream, b"x" * 15_000).serialize() * 2)
        await raw.until(RstStreamFrame)
        assert raw.resets() == {3: 7}
        await raw.send(DataFrame(1, b"", flags=["END_STREAM"]).serialize())
        await raw.until(HeadersFrame)
        assert [len(request.body) for request in served.seen] == [30_000]


async def test_a_body_that_comes_too_slowly_is_408(autojump_clock: trio.testing.MockClock) -> None:
    async with serving_h2(plain) as served, served.raw() as raw:
        began = trio.current_time()
        await raw.send(raw.headers(1, fields(method="POST"), "END_HEADERS"))
        await raw.until(HeadersFrame)
        await raw.until(RstStreamFrame)
        assert raw.resets() == {1: 0}
        assert 30 <= trio.current_time() - began < 32
        assert not served.seen


async def test_get_with_a_body_and_trailers_are_refused() -> None:
    async with serving_h2(plain) as served, served.raw() as raw:
        await raw.send(raw.headers(1, fields(), "END_HEADERS") + DataFrame(1, b"x").serialize())
        await raw.until(RstStreamFrame)
        await raw.send(raw.headers(3, fields(method="POST"), "END_HEADERS") + raw.headers(3, [("x", "1")]))
        await raw.until(HeadersFrame)
        assert not served.seen


async def test_an_idle_connection_is_asked_to_leave_in_two_steps(autojump_clock: trio.testing.MockClock) -> None:
    async with serving_h2(plain) as served, served.raw() as raw:
        await raw.send(raw.headers(1))
        await raw.until(DataFrame)
        began = trio.current_time()
        await raw.goaway()
        told = [frame for frame in raw.frames if isinstance(frame, GoAwayFrame)]
        assert [(frame.last_stream_id, frame.error_code) for frame in told] == [(2**31 - 1, 0), (1, 0)]
        assert 75 <= trio.current_time() - began < 80
        await raw.stream.aclose()
        await settled(lambda: served.ends == [None])


async def test_after_its_requests_a_connection_is_left_without_losing_one() -> None:
    async with serving_h2(plain, limits=Limits(h2_requests=20)) as served, served.raw() as raw:
        for n in range(25):
            await raw.send(raw.headers(1 + 2 * n))
        await raw.answer_ping()
        last = await raw.goaway()
        assert (last.last_stream_id, last.error_code) == (49, 0)
        assert len([frame for frame in raw.frames if isinstance(frame, DataFrame) and "END_STREAM" in frame.flags]) == 25
        await settled(lambda: served.ends == [None])


async def test_a_drain_lets_streams_finish_and_takes_no_more(spool: Spool) -> None:
    async def handler(request: Request) -> Response:
        return Response(200, [], Arriving(spool, 0, 1000))

    async with serving_h2(handler) as served, served.raw() as raw:
        await raw.send(raw.headers(1))
        spool.write(b"x" * 500)
        await raw.until(DataFrame)
        served.draining.set()
        await raw.answer_ping()
        await raw.until(GoAwayFrame)
        await raw.send(raw.headers(3))
        await raw.until(RstStreamFrame)
        assert raw.resets() == {3: 7}
        assert not served.ends
        spool.write(b"x" * 500)
        await raw.goaway()
        assert any(isinstance(frame, DataFrame) and "END_STREAM" in frame.flags for frame in raw.frames)
        await settled(lambda: served.ends == [None])


async def test_a_client_that_says_goodbye_still_gets_its_answers(spool: Spool) -> None:
    async def handler(request: Request) -> Response:
        return Response(200, [], Arriving(spool, 0, 1000))

    async with serving_h2(handler) as served, served.raw() as raw:
        await raw.send(raw.headers(1) + GoAwayFrame(last_stream_id=0).serialize())
        await settled(lambda: served.seen)
        spool.write(b"x" * 1000)
        while (await raw.read()) is not None:
            pass
        assert sum(len(frame.data) for frame in raw.frames if isinstance(frame, DataFrame)) == 1000
        await settled(lambda: served.ends == [None])


async def test_the_first_frame_tells_our_limits() -> None:
    async with serving_h2(plain) as served, served.raw() as raw:
        frame = await raw.read()
        assert isinstance(frame, SettingsFrame)
        assert frame.settings[SettingsFrame.MAX_CONCURRENT_STREAMS] == 100
        assert frame.settings[SettingsFrame.MAX_HEADER_LIST_SIZE] == 65536
        assert frame.settings.get(SettingsFrame.ENABLE_PUSH, 0) == 0


async def test_a_window_of_one_byte_gives_one_byte(big: Path) -> None:
    async with serving_h2(everything(big)) as served, served.raw(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 1}) as raw:
        await raw.send(raw.headers(1, fields("/file")))
        assert await raw.data() == content(big)[:1]
        await raw.send(WindowUpdateFrame(1, 10).serialize())
        assert await raw.data() == content(big)[1:11]


async def test_both_ways_of_opening_a_window_let_more_through(big: Path) -> None:
    async with serving_h2(everything(big)) as served, served.raw(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0}) as raw:
        await raw.send(raw.headers(1, fields("/file")))
        await raw.until(HeadersFrame)
        await raw.send(SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 100_000}).serialize())
        received = 0
        while received < 65535:
            received += len(await raw.data())
        await raw.send(WindowUpdateFrame(0, 100_000).serialize())
        while received < 100_000:
            received += len(await raw.data())
        assert received == 100_000


async def test_the_table_for_our_fields_stays_small_whatever_is_allowed() -> None:
    async def handler(request: Request) -> Response:
        return Response(200, [("X-Many", request.target * 50)], b"")

    async with serving_h2(handler) as served, served.client() as client:
        client.h2.update_settings({SettingsFrame.HEADER_TABLE_SIZE: 2**20})
        await client.flush()
        for n in range(100):
            assert (await client.get(f"/{n:050}")).status == 200
        assert len(client.h2.decoder.header_table.dynamic_entries) < 20
        assert isinstance(client, Client)
