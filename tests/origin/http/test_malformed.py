"""Requests that two readers could understand differently are refused, and the connection ends: nothing gets in behind them."""

from __future__ import annotations

import contextlib
import random

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from origin.http import Request, Response
from origin.http.h1 import Dechunker, Malformed, check_beginning, parse_head
from origin.http.hot import HotPages
from origin.http.limits import Limits
from origin.metrics import Tally
from origin.model import Validity
from tests.origin.http.loopback import plain, running

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = b"POST /front HTTP/1.1\r\nHost: localhost\r\n"

# name -> status, bytes. What follows in SMUGGLED must never reach a handler.
CORPUS: dict[str, tuple[int, bytes]] = {
    "no Host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    "two equal Hosts": (400, b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n"),
    "empty Host": (400, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    "Host with a path": (400, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    "Host with userinfo": (400, b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    "Host with a bad port": (400, b"GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n"),
    "space before the colon": (400, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
    "Content-Length on GET": (400, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 44\r\n\r\n"),
    "chunked GET": (400, b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "Content-Length on HEAD": (400, b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 44\r\n\r\n"),
    "NUL in a value": (400, b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n"),
    "NUL in the target": (400, b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "control in a value": (400, b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x0bb\r\n\r\n"),
    "bare LF in a value": (400, b"GET / HTTP/1.1\r\nHost: a\r\nX: a\nTransfer-Encoding: chunked\r\n\r\n"),
    "bare LF lines": (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    "bare LF after the request line": (400, b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    "bare LF ends the head": (400, b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    "bare CR in a value": (400, b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n"),
    "bare CR as a line": (400, b"GET / HTTP/1.1\r\nHost: a\r\rX: b\r\n\r\n"),
    "folded line": (400, b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n"),
    "folded first line": (400, b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    "tab-folded coding": (400, HEAD + b"Transfer-Encoding:\r\n\tchunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    "empty field name": (400, b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n"),
    "no colon": (400, b"GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n"),
    "two spaces in the request line": (400, b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "tab in the request line": (400, b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    "space in the target": (400, b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
    "fragment in the target": (400, b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
    "target without slash": (400, b"GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
    "asterisk for GET": (400, b"GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    "raw bytes in the target": (400, b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n"),
    "method with a separator": (400, b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "unknown method": (501, b"SMUGGLE / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "HTTP/0.9": (400, b"GET /\r\n\r\n"),
    "HTTP/2 preface": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/1.2": (505, b"GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
    "lower-case protocol": (400, b"GET / http/1.1\r\nHost: a\r\n\r\n"),
    "a TLS hello": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "three empty lines first": (400, b"\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "CL.TE": (400, HEAD + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG"),
    "TE.CL": (400, HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n8\r\nSMUGGLED\r\n0\r\n\r\n"),
    "TE.TE": (400, HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n\r\n0\r\n\r\n"),
    "chunked twice": (400, HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "gzip, chunked": (400, HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "chunked, identity": (400, HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    "xchunked": (400, HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "chunked in quotes": (400, HEAD + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n'),
    "coding with a vertical tab": (400, HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    "coding with a space before the colon": (400, HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    "HTTP/1.0 with a coding": (400, b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "two lengths": (400, HEAD + b"Content-Length: 0\r\nContent-Length: 44\r\n\r\n"),
    "two equal lengths": (400, HEAD + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n"),
    "a list of lengths": (400, HEAD + b"Content-Length: 0, 0\r\n\r\n"),
    "negative length": (400, HEAD + b"Content-Length: -1\r\n\r\n"),
    "signed length": (400, HEAD + b"Content-Length: +1\r\n\r\na"),
    "hexadecimal length": (400, HEAD + b"Content-Length: 0x1\r\n\r\na"),
    "empty length": (400, HEAD + b"Content-Length:\r\n\r\n"),
    "underscored length": (400, HEAD + b"Content-Length: 1_0\r\n\r\n0123456789"),
    "endless length": (400, HEAD + b"Content-Length: 99999999999999999999\r\n\r\n"),
    "chunk extension": (400, HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n"),
    "chunk extension with bare LF": (400, HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;\nxx\r\n44\r\n0\r\n\r\n"),
    "chunk size with 0x": (400, HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n"),
    "chunk size with a space": (400, HEAD + b"Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n"),
    "negative chunk size": (400, HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n"),
    "long chunk size": (400, HEAD + b"Transfer-Encoding: chunked\r\n\r\n100000000000000005\r\nhello\r\n0\r\n\r\n"),
    "empty chunk size": (400, HEAD + b"Transfer-Encoding: chunked\r\n\r\n\r\n0\r\n\r\n"),
    "chunk without its end": (400, HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n"),
    "bare LF after a chunk size": (400, HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n"),
    "bare CR after a chunk size": (400, HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\rXhello\r\n0\r\n\r\n"),
    "trailer": (400, HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n"),
    "unknown expectation": (417, HEAD + b"Expect: a-pony\r\nContent-Length: 1\r\n\r\na"),
    "unknown expectation on GET": (417, b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue, a-pony\r\n\r\n"),
    "long target": (414, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
    "many fields": (431, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 100 + b"\r\n"),
    "large head": (431, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 65536 + b"\r\n\r\n"),
}


async def test_a_malformed_request_is_refused_and_nothing_gets_in_behind_it() -> None:
    wrong = {}
    async with running(plain) as server:
        for name, (status, data) in CORPUS.items():
            with trio.fail_after(10):
                said = await server.exchange(data + SMUGGLED)
            head, _, _ = said.partition(b"\r\n\r\n")
            if not said.startswith(b"HTTP/1.1 %d " % status) or said.count(b"HTTP/1.1 ") != 1:
                wrong[name] = said[:200]
            elif b"connection: close" not in head.lower() or b"application/problem+json" not in head:
                wrong[name] = head
            if server.seen:
                wrong[name] = repr(server.seen).encode()
                server.seen.clear()
    assert not wrong


async def test_a_body_is_no_request_even_if_it_looks_like_one() -> None:
    for framed in (
        HEAD + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(SMUGGLED) + SMUGGLED + b"\r\n0\r\n\r\n",
    ):
        async with running(plain) as server, server.client() as client:
            await client.send(framed + b"GET /next HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await client.answer()).body == b"POST /front %d" % len(SMUGGLED)
            assert (await client.answer()).body == b"GET /next 0"
            assert [request.target for request in server.seen] == ["/front", "/next"]


async def test_a_malformed_request_on_a_connection_that_hit_before_is_refused_too() -> None:
    hot = HotPages(1 << 20)
    validity, tally = Validity(9e9), Tally()

    async def keeping(request: Request) -> Response:
        response = Response(200, [("ETag", '"e"')], b"page")
        hot.keep(request, response, validity, tally)
        return response

    wrong = {}
    async with running(keeping, hot=hot) as server:
        for name, (status, data) in CORPUS.items():
            async with server.client() as client:
                await client.get("/")
                await client.get("/")
                server.seen.clear()
                with trio.fail_after(10):
                    await client.send(data + SMUGGLED)
                    said = await client.rest()
                if not said.startswith(b"HTTP/1.1 %d " % status) or said.count(b"HTTP/1.1 ") != 1 or server.seen:
                    wrong[name] = said[:200]
    assert not wrong


VALID = [
    b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b'GET /b?x=%2F HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nIf-None-Match: "x"\r\n\r\n',
    b"HEAD /c HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /e HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n",
    b"GET /f HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET /g HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n",
    b"DELETE /h HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
]


async def test_requests_cut_anywhere_are_answered_alike() -> None:
    whole = b"".join(VALID)
    chance = random.Random(7)
    async with running(plain) as server:
        expected = await server.exchange(whole)
        assert expected.count(b"HTTP/1.1 200 OK") == len(VALID)
        for round_ in range(12):
            async with server.client() as client:
                cuts = sorted(chance.sample(range(1, len(whole)), 1 if round_ < 4 else 25))
                for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True):
                    await client.send(whole[start:stop])
                    await trio.testing.wait_all_tasks_blocked()
                assert await client.rest() == expected


async def test_random_and_mutated_bytes_never_crash_the_door() -> None:
    chance = random.Random(11)
    samples = VALID + [data for _, data in CORPUS.values() if len(data) < 2000]
    async with running(plain, limits=Limits(body_bytes=4096)) as server:
        for _ in range(400):
            data = bytearray(chance.choice(samples) + chance.choice(samples))
            for _ in range(chance.randrange(1, 6)):
                at = chance.randrange(len(data))
                match chance.randrange(3):
                    case 0:
                        data[at] = chance.randrange(256)
                    case 1:
                        del data[at : at + chance.randrange(1, 20)]
                    case _:
                        data[at:at] = chance.randbytes(chance.randrange(1, 8))
                if not data:
                    break
            async with server.client() as client:
                await client.send(bytes(data))
                await client.stream.send_eof()
                with trio.fail_after(10):
                    await client.rest()
        async with server.client() as client:
            assert (await client.get("/alive")).body == b"GET /alive 0"


@given(st.binary(max_size=300))
def test_any_bytes_are_a_head_or_malformed(data: bytes) -> None:
    for candidate in (data, b"GET / HTTP/1.1\r\n" + data + b"\r\n\r\n", b"GET /" + data + b" HTTP/1.1\r\nHost: a\r\n\r\n"):
        with contextlib.suppress(Malformed):
            head = parse_head(candidate, Limits())
            assert len([1 for name, _ in head.headers if name == "host"]) == 1
            assert not any(c in value for _, value in head.headers for c in "\r\n\x00")


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.randoms(use_true_random=False))
def test_a_chunked_body_is_decoded_however_it_arrives(chunks: list[bytes], chance: random.Random) -> None:
    encoded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\nGET"
    dechunker = Dechunker(1000)
    at = 0
    while True:
        step = chance.randrange(1, 12)
        piece, at = encoded[at : at + step], at + step
        if dechunker.feed(piece):
            break
        assert at < len(encoded)
    assert bytes(dechunker.body) == b"".join(chunks)
    assert dechunker.rest + encoded[at:] == b"GET"


@given(st.binary(max_size=60))
def test_any_bytes_are_chunks_or_malformed(data: bytes) -> None:
    dechunker = Dechunker(100)
    with contextlib.suppress(Malformed):
        dechunker.feed(data)
        assert len(dechunker.body) <= 100


def test_too_many_fields_are_told_so_wherever_the_head_is_read() -> None:
    head = CORPUS["many fields"][1]
    try:
        raise KeyError("something else is being handled")
    except KeyError:
        with pytest.raises(Malformed, match="too many header fields"):
            parse_head(head, Limits())


def test_an_unfinished_head_is_refused_as_soon_as_nothing_can_mend_it() -> None:
    for hopeful in (b"", b"G", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r"):
        check_beginning(hopeful, Limits())
    for hopeless in (b"\x16\x03", b" GET", b"GET / HTTP/1.1\nH", b"GET / HTTP/1.1\r\nA: b\rc", b"G" * 9000):
        with pytest.raises(Malformed):
            check_beginning(hopeless, Limits())
