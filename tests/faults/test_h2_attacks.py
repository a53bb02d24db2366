"""What an HTTP/2 client can do to cost more than it should: each attack ends with the right code, in bounded memory and time.

Raw frames, because no library would send these. The rows are RFC 9113 §10.5's, and those of the advisories named at each.
"""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from h2.errors import ErrorCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from origin.http import Request, Response
from origin.http.hot import HotPages
from origin.http.limits import Limits
from origin.metrics import Tally
from origin.model import Span, Validity
from tests.origin.http.loopback import plain, resident_bytes, settled
from tests.origin.http.loopback_h2 import NOW, PREFACE, Raw, Served, fields, serving_h2

CALM = ErrorCodes.ENHANCE_YOUR_CALM
PROTOCOL = ErrorCodes.PROTOCOL_ERROR
SIZE = 8_000_000


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(os.urandom(SIZE))
    return path


def raw_frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


async def waiting(request: Request) -> Response:
    await trio.sleep_forever()
    raise AssertionError


async def flood(raw: Raw, data: bytes) -> None:
    """Send as far as the server takes it: it may end the connection at any byte."""
    try:
        await raw.send(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


async def ends(raw: Raw, code: int, *, within_s: float = 10) -> GoAwayFrame:
    with trio.fail_after(within_s):
        told = await raw.goaway()
    await raw.stream.aclose()
    assert told.error_code == code, (told.error_code, told.additional_data)
    return told


async def nothing_is_left(served: Served) -> None:
    await settled(lambda: served.running == 0 and served.ends)


# ---- heads ----------------------------------------------------------------------------------------------------------


async def test_a_head_without_end_stops_after_eight_continuations() -> None:
    """CVE-2024-27316 and its kin."""
    async with serving_h2(plain) as served, served.raw() as raw:
        begin = HeadersFrame(1, raw.encoder.encode(fields())).serialize()
        await flood(raw, begin + ContinuationFrame(1, b"").serialize() * 5000)
        await ends(raw, CALM)
        assert not served.seen


async def test_a_head_in_eight_continuations_is_read() -> None:
    async with serving_h2(plain) as served, served.raw() as raw:
        block = raw.encoder.encode(fields("/a", ("x", "y" * 9000)))
        begin = HeadersFrame(1, block[:1000]).serialize()
        middle = b"".join(ContinuationFrame(1, block[n * 1000 :][:1000]).serialize() for n in range(1, 8))
        await raw.send(begin + middle + ContinuationFrame(1, block[8000:], flags=["END_HEADERS"]).serialize())
        await raw.send(DataFrame(1, b"", flags=["END_STREAM"]).serialize())
        await settled(lambda: served.seen)
        assert served.seen[0].target == "/a"


async def test_a_large_head_in_few_frames_is_refused_before_it_is_decoded() -> None:
    async with serving_h2(plain) as served, served.raw() as raw:
        await flood(raw, HeadersFrame(1, b"x" * 16384).serialize() + ContinuationFrame(1, b"x" * 16384).serialize() * 7)
        await ends(raw, CALM)


@pytest.mark.parametrize("parts", [PREFACE[:10], b"", b"\0", b"frame", b"block"])
async def test_a_head_that_drips_is_given_up_after_ten_seconds(parts: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with serving_h2(plain) as served, await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
        raw = Raw(stream)
        if parts.startswith(b"PRI") or not parts:
            await raw.send(parts)
        else:
            await raw.send(PREFACE + SettingsFrame(0).serialize())
            head = HeadersFrame(1, raw.encoder.encode(fields())).serialize()
            await raw.send({b"\0": head[:4], b"frame": head[:-1], b"block": head}[parts])
        began = trio.current_time()
        await ends(raw, CALM, within_s=60)
        assert 9.9 <= trio.current_time() - began < 14


async def test_a_bomb_of_indexed_fields_is_not_unpacked() -> None:
    """CVE-2016-6581: a long field put into the table once, then named by one byte, again and again."""
    before = resident_bytes()
    async with serving_h2(plain) as served, served.raw() as raw:
        block = raw.encoder.encode([*fields(), ("x-bomb", "y" * 3900)]) + b"\xbe" * 12_000
        await raw.send(raw_frame(1, 0x5, 1, block))
        await ends(raw, CALM)
        assert not served.seen
        await nothing_is_left(served)
    assert resident_bytes() - before < 20_000_000


async def test_a_head_that_cannot_be_decoded_ends_the_connection() -> None:
    async with serving_h2(plain) as served, served.raw() as raw:
        await raw.send(raw_frame(1, 0x5, 1, b"\xff\xff\xff\xff\xff\xff"))
        await ends(raw, PROTOCOL)


# ---- streams opened and reset ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [False, True], ids=["handler", "kept"])
async def test_streams_reset_as_soon_as_they_are_opened(kept: bool) -> None:
    """CVE-2023-44487."""
    hot = HotPages(1 << 20)

    async def handler(request: Request) -> Response:
        if not kept:
            return await waiting(request)
        response = Response(200, [("ETag", '"x"')], b"page")
        hot.keep(request, response, Validity(NOW + 10), Tally())
        return response

    async with serving_h2(handler, hot=hot) as served, served.raw() as raw:
        if kept:
            await raw.send(raw.headers(1))
            await raw.data()
        for n in range(1, 2000):
            await flood(raw, raw.headers(1 + 2 * n) + RstStreamFrame(1 + 2 * n, error_code=8).serialize())
        told = await ends(raw, CALM)
        assert told.last_stream_id <= 2 * 105
        assert served.most <= 101
        await nothing_is_left(served)


async def test_streams_reset_after_a_while_are_not_held_against_the_client(autojump_clock: trio.testing.MockClock) -> None:
    async with serving_h2(waiting, limits=Limits(h2_resets=2)) as served, served.raw() as raw:
        for n in range(20):
            await raw.send(raw.headers(1 + 2 * n))
            await trio.sleep(1.2)
            await raw.send(RstStreamFrame(1 + 2 * n, error_code=8).serialize())
        await raw.send(PingFrame(0, b"12345678").serialize())
        assert isinstance(await raw.until(PingFrame), PingFrame)


async def test_no_more_handlers_run_than_streams_may_be_open_whatever_is_reset() -> None:
    """A handler that cannot be cancelled keeps its place until it has unwound."""
    release = trio.Event()

    async def stubborn(request: Request) -> Response:
        with trio.CancelScope(shield=True):  # bounded by the test
            await release.wait()
        return Response(200, [], b"")

    limits = Limits(h2_streams=10, h2_resets=1000)
    async with serving_h2(stubborn, limits=limits) as served, served.raw() as raw:
        await raw.send(b"".join(raw.headers(1 + 2 * n) for n in range(10)))
        await settled(lambda: served.running == 10)
        await raw.send(b"".join(RstStreamFrame(1 + 2 * n, error_code=8).serialize() for n in range(10)))
        for n in range(10, 45):
            await raw.send(raw.headers(1 + 2 * n))
            await raw.send(RstStreamFrame(1 + 2 * n, error_code=8).serialize())
        await raw.send(b"".join(raw.headers(1 + 2 * n) for n in range(45, 50)) + PingFrame(0, b"12345678").serialize())
        await raw.until(PingFrame)
        assert (served.running, served.most) == (10, 10)
        release.set()
        answered: set[int] = set()
        while len(answered) < 5:
            frame = await raw.until(HeadersFrame)
            answered.add(frame.stream_id)
        assert answered == {91, 93, 95, 97, 99}
        assert served.most == 10


async def test_more_streams_than_are_allowed_at_a_time() -> None:
    async with serving_h2(waiting) as served, served.raw() as raw:
        await flood(raw, b"".join(raw.headers(1 + 2 * n) for n in range(101)))
        await ends(raw, PROTOCOL)
        assert served.most <= 100
        await nothing_is_left(served)


def window_of_zero(raw: Raw, stream: int) -> bytes:
    return raw.headers(stream) + raw_frame(8, 0, stream, struct.pack(">I", 0))


def window_overflow(raw: Raw, stream: int) -> bytes:
    return raw.headers(stream) + WindowUpdateFrame(stream, 2**31 - 1).serialize()


def data_after_the_end(raw: Raw, stream: int) -> bytes:
    return raw.headers(stream) + DataFrame(stream, b"x").serialize()


def head_after_the_end(raw: Raw, stream: int) -> bytes:
    return raw.headers(stream) + raw.headers(stream)


def priority_of_a_wrong_size(raw: Raw, stream: int) -> bytes:
    return raw.headers(stream) + raw_frame(2, 0, stream, b"1234")


def priority_on_itself(raw: Raw, stream: int) -> bytes:
    return raw.headers(stream) + PriorityFrame(stream, depends_on=stream).serialize()


def malformed(raw: Raw, stream: int) -> bytes:
    return raw.headers(stream, fields("/", ("connection", "x")))


@pytest.mark.parametrize(
    ("shape", "codes"),
    [
        (window_of_zero, {PROTOCOL, ErrorCodes.FRAME_SIZE_ERROR}),
        (window_overflow, {CALM}),
        (data_after_the_end, {CALM}),
        (head_after_the_end, {CALM}),
        (priority_of_a_wrong_size, {ErrorCodes.FRAME_SIZE_ERROR}),
        (priority_on_itself, {PROTOCOL}),
        (malformed, {CALM}),
    ],
)
async def test_streams_that_we_are_made_to_reset(shape: Callable[[Raw, int], bytes], codes: set[int]) -> None:
    """CVE-2025-8671: whether the protocol has the stream end, or the connection, it is not done a thousand times."""
    async with serving_h2(waiting) as served, served.raw() as raw:
        for n in range(1000):
            await flood(raw, shape(raw, 1 + 2 * n))
        with trio.fail_after(10):
            told = await raw.goaway()
        await raw.stream.aclose()
        assert told.error_code in codes, (told.error_code, told.additional_data)
        assert len(raw.resets()) <= 101
        assert served.most <= 100
        assert len(served.seen) <= 102
        await nothing_is_left(served)


async def test_bodies_that_are_too_large_again_and_again() -> None:
    async with serving_h2(plain, limits=Limits(body_bytes=10)) as served, served.raw() as raw:
        for n in range(150):
            await flood(raw, raw.headers(1 + 2 * n, fields(method="POST"), "END_HEADERS"))
            await flood(raw, DataFrame(1 + 2 * n, b"x" * 11).serialize())
            await trio.testing.wait_all_tasks_blocked()
        await ends(raw, CALM)


# ---- frames that carry nothing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [SettingsFrame(0).serialize(), PingFrame(0, b"12345678").serialize(), PingFrame(0, b"12345678", flags=["ACK"]).serialize()],
    ids=["settings", "ping", "ping ack"],
)
async def test_frames_to_be_acknowledged(frame: bytes) -> None:
    async with serving_h2(plain) as served, served.raw() as raw:
        await flood(raw, frame * 10_000)
        await ends(raw, CALM)
        assert len(raw.frames) < 120


async def test_ten_pings_a_second_are_nobodys_business(autojump_clock: trio.testing.MockClock) -> None:
    async with serving_h2(plain) as served, served.raw() as raw:
        for _ in range(300):
            await raw.send(PingFrame(0, b"12345678").serialize())
            assert isinstance(await raw.until(PingFrame), PingFrame)
            await trio.sleep(0.11)


async def test_acknowledgements_that_were_taken_during_a_download_count_no_more(big: Path) -> None:
    """The client is always a little behind, so that the output is never empty until the end."""

    async def handler(request: Request) -> Response:
        return Response(200, [], Span(os.open(big, os.O_RDONLY), 0, SIZE))

    limits = Limits(h2_control_queued=10, h2_control_burst=10_000)
    settings = {SettingsFrame.INITIAL_WINDOW_SIZE: 2**31 - 1}
    async with serving_h2(handler, limits=limits, send_buffer_bytes=4096) as served, served.raw(settings=settings) as raw:
        await raw.send(WindowUpdateFrame(0, 2**31 - 1 - 65535).serialize() + raw.headers(1))
        received = acknowledged = 0
        while received < SIZE:
            received += len(await raw.data())
            if received // (64 * 1024) > acknowledged:
                acknowledged += 1
                await raw.send(PingFrame(0, b"12345678").serialize())
                await trio.testing.wait_all_tasks_blocked()
        assert acknowledged > 10


@pytest.mark.parametrize(
    "frame",
    [
        DataFrame(1, b"").serialize(),
        DataFrame(1, b"", pad_length=9, flags=["PADDED"]).serialize(),
        PriorityFrame(1, depends_on=0, stream_weight=3).serialize(),
        PriorityFrame(2001, depends_on=0, stream_weight=3).serialize(),
        WindowUpdateFrame(0, 1).serialize(),
        WindowUpdateFrame(1, 1).serialize(),
        RstStreamFrame(9).serialize()[:5] + struct.pack(">I", 1) + b"\0\0\0\0",
        raw_frame(0xF0, 0, 0, b"unknown"),
    ],
    ids=["data", "padding", "priority", "priority of an idle stream", "window", "stream's window", "reset", "unknown"],
)
async def test_noise(frame: bytes) -> None:
    async with serving_h2(waiting, limits=Limits(h2_resets=10_000)) as served, served.raw() as raw:
        await raw.send(raw.headers(1, fields(method="POST"), "END_HEADERS"))
        await flood(raw, frame * 100_000)
        await ends(raw, CALM)
        await nothing_is_left(served)


async def test_windows_opened_by_a_byte_at_a_time(big: Path) -> None:
    async def handler(request: Request) -> Response:
        return Response(200, [], Span(os.open(big, os.O_RDONLY), 0, SIZE))

    async with serving_h2(handler) as served, served.raw(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0}) as raw:
        await raw.send(raw.headers(1))
        for _ in range(100):
            await flood(raw, WindowUpdateFrame(1, 1).serialize() * 50)
        await ends(raw, CALM)
        assert sum(len(frame.data) for frame in raw.frames if isinstance(frame, DataFrame)) < 5000


async def test_a_download_with_a_window_update_for_each_frame_is_no_noise(big: Path) -> None:
    async def handler(request: Request) -> Response:
        return Response(200, [], Span(os.open(big, os.O_RDONLY), 0, SIZE))

    async with serving_h2(handler) as served, served.raw() as raw:
        await raw.send(raw.headers(1))
        received = 0
        while received < SIZE:
            count = len(await raw.data())
            received += count
            for at in range(0, count, 1024):
                step = min(1024, count - at)
                await raw.send(WindowUpdateFrame(0, step).serialize() + WindowUpdateFrame(1, step).serialize())
        assert received == SIZE


# ---- frames that are wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (raw_frame(0, 0, 1, b"")[:3].replace(b"\0", b"\xff") + b"\0\0\0\0\0\1", ErrorCodes.FRAME_SIZE_ERROR),
        (raw_frame(4, 0, 0, b"12345"), ErrorCodes.FRAME_SIZE_ERROR),
        (raw_frame(6, 0, 0, b"12345"), ErrorCodes.FRAME_SIZE_ERROR),
        (raw_frame(7, 0, 0, b"1234"), ErrorCodes.FRAME_SIZE_ERROR),
        (raw_frame(7, 0, 1, b"12345678"), PROTOCOL),
        (raw_frame(9, 4, 1, b""), PROTOCOL),
        (raw_frame(5, 4, 1, b"\0\0\0\2"), PROTOCOL),
        (raw_frame(0, 0, 0, b"x"), PROTOCOL),
        (raw_frame(0, 0, 7, b"x"), PROTOCOL),
        (raw_frame(8, 0, 0, b"\0\0\0\0"), PROTOCOL),
        (raw_frame(8, 0, 0, b"\x7f\xff\xff\xff"), ErrorCodes.FLOW_CONTROL_ERROR),
        (raw_frame(4, 0, 0, struct.pack(">HI", 4, 2**31)), ErrorCodes.FLOW_CONTROL_ERROR),
        (raw_frame(4, 0, 0, struct.pack(">HI", 5, 1)), PROTOCOL),
        (raw_frame(1, 5, 2, b"\x82"), PROTOCOL),
    ],
)
async def test_a_frame_that_breaks_the_protocol(sent: bytes, code: int) -> None:
    async with serving_h2(plain) as served, served.raw() as raw:
        await raw.send(sent)
        await ends(raw, code)
        await nothing_is_left(served)


async def test_the_length_is_judged_before_the_frame_has_come() -> None:
    async with serving_h2(plain) as served, served.raw() as raw:
        await raw.send(b"\x00\x40\x01\x00\x00\x00\x00\x00\x01")
        await ends(raw, ErrorCodes.FRAME_SIZE_ERROR)


@pytest.mark.parametrize("begin", [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", PREFACE + PingFrame(0, b"12345678").serialize()])
async def test_a_connection_that_begins_otherwise(begin: bytes) -> None:
    async with serving_h2(plain) as served, await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
        raw = Raw(stream)
        await raw.send(begin)
        await ends(raw, PROTOCOL)


async def test_a_body_beyond_the_window() -> None:
    async with serving_h2(waiting) as served, served.raw() as raw:
        await raw.send(raw.headers(1, fields(method="POST"), "END_HEADERS"))
        # In one read there is no room for an acknowledgement in between.
        await flood(raw, DataFrame(1, b"x" * 16384).serialize() * 100)
        await ends(raw, ErrorCodes.FLOW_CONTROL_ERROR)
        assert not served.seen


# ---- readers --------------------------------------------------------------------------------------------------------


async def test_a_reader_that_opens_no_window_holds_nothing_and_is_sent_away(
    big: Path, autojump_clock: trio.testing.MockClock
) -> None:
    opened: list[Span] = []
    before = resident_bytes()

    async def handler(request: Request) -> Response:
        opened.append(Span(os.open(big, os.O_RDONLY), 0, SIZE))
        return Response(200, [], opened[-1])

    async with serving_h2(handler) as served, served.raw(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0}) as raw:
        began = trio.current_time()
        await raw.send(b"".join(raw.headers(1 + 2 * n) for n in range(100)))
        await ends(raw, CALM, within_s=60)
        assert 30 <= trio.current_time() - began < 35
        assert not [frame for frame in raw.frames if isinstance(frame, DataFrame)]
        await nothing_is_left(served)
        assert [span.fd for span in opened] == [-1] * 100
    assert resident_bytes() - before < 20_000_000


async def test_one_stream_that_is_not_read_is_reset_and_the_others_go_on(
    big: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async def handler(request: Request) -> Response:
        if request.target == "/wait":
            return await waiting(request)
        return Response(200, [], Span(os.open(big, os.O_RDONLY), 0, SIZE))

    async with serving_h2(handler) as served, served.raw() as raw:
        await raw.send(raw.headers(1, fields("/wait")) + raw.headers(3, fields("/file")))
        await raw.until(RstStreamFrame)
        assert raw.resets() == {3: CALM}
        assert served.running == 1


async def test_a_slow_reader_is_given_no_more_than_its_window(big: Path) -> None:
    """A hundred streams of 8 MB each: what is read of them is what the windows allow, wherever it waits then."""
    read: list[int] = []

    class Counted(Span):
        pass

    async def handler(request: Request) -> Response:
        return Response(200, [], Counted(os.open(big, os.O_RDONLY), 0, SIZE), delivered=lambda sent, complete: read.append(sent))

    before = resident_bytes()
    async with serving_h2(handler) as served:
        async with served.raw() as raw:
            await raw.send(b"".join(raw.headers(1 + 2 * n) for n in range(100)))
            await settled(lambda: len(served.seen) == 100)
            received = 0
            while received < 65535:
                received += len(await raw.data())
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert received == 65535
            assert resident_bytes() - before < 20_000_000
        await settled(lambda: len(read) == 100)
        assert sum(read) == 65535


async def test_streams_that_wait_hold_nothing_of_their_bodies(big: Path) -> None:
    """Each has sent what its window took, and waits for more."""

    async def handler(request: Request) -> Response:
        return Response(200, [], Span(os.open(big, os.O_RDONLY), 0, SIZE))

    streams, window = 90, 16 * 1024
    async with serving_h2(handler) as served, served.raw(settings={SettingsFrame.INITIAL_WINDOW_SIZE: window}) as raw:
        await raw.send(WindowUpdateFrame(0, 2**30).serialize())
        tracemalloc.start()
        try:
            for number in range(streams):
                await raw.send(raw.headers(1 + 2 * number))
            received = 0
            while received < streams * window:
                received += len(await raw.data())
                raw.frames.clear()
            await trio.testing.wait_all_tasks_blocked(0.01)
            held = sum(trace.size for trace in tracemalloc.take_snapshot().traces if trace.size >= 8192)
        finally:
            tracemalloc.stop()
        assert received == streams * window
        assert served.running == 0
        # Some of the interpreter's own tables are this large too.
        assert held < streams * window / 8, f"{held / streams:.0f} bytes each"


async def test_a_reader_with_a_wide_window_that_does_not_read_fills_no_memory(big: Path) -> None:
    """Then the socket is what is full: 64 KB wait here for all its streams together, the rest stays in the file."""
    read: list[int] = []

    async def handler(request: Request) -> Response:
        return Response(200, [], Span(os.open(big, os.O_RDONLY), 0, SIZE), delivered=lambda sent, complete: read.append(sent))

    before = resident_bytes()
    settings = {SettingsFrame.INITIAL_WINDOW_SIZE: 2**30}
    async with serving_h2(handler, send_buffer_bytes=65536) as served:
        async with served.raw(settings=settings) as raw:
            await raw.send(WindowUpdateFrame(0, 2**30).serialize())
            await raw.send(b"".join(raw.headers(1 + 2 * n) for n in range(50)))
            await settled(lambda: len(served.seen) == 50)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert resident_bytes() - before < 20_000_000
        await settled(lambda: len(read) == 50)
        # The kernel's buffers of both ends, and what waits here.
        assert 65536 <= sum(read) < 12_000_000


async def test_a_reader_that_takes_nothing_from_its_socket_is_dropped(big: Path, autojump_clock: trio.testing.MockClock) -> None:
    async def handler(request: Request) -> Response:
        return Response(200, [], Span(os.open(big, os.O_RDONLY), 0, SIZE))

    settings = {SettingsFrame.INITIAL_WINDOW_SIZE: 2**30}
    async with serving_h2(handler, send_buffer_bytes=65536) as served, served.raw(settings=settings) as raw:
        await raw.send(WindowUpdateFrame(0, 2**30).serialize() + raw.headers(1) + raw.headers(3))
        await served.ended.wait()
        assert type(served.ends[0]).__name__ == "Stalled"
        assert 29 <= trio.current_time() < 70
        assert served.running == 0


async def test_answers_without_a_body_wait_for_their_reader_too() -> None:
    """Heads are under no window; requests for them are not read while earlier answers wait."""
    filler = "x" * 8000

    async def handler(request: Request) -> Response:
        return Response(204, [("X-Filler", filler + request.target)], b"")

    before = resident_bytes()
    async with serving_h2(handler, send_buffer_bytes=65536) as served, served.raw() as raw:
        with trio.move_on_after(2):
            for n in range(9000):
                await raw.send(raw.headers(1 + 2 * n, fields(f"/{n}")))
        assert len(served.seen) < 5000
        assert resident_bytes() - before < 40_000_000
