"""Hits: recognised by raw bytes, answered without the handler, and never beyond their validity."""

from __future__ import annotations

import os
import socket
from contextlib import AsyncExitStack

import pytest
import trio
import trio.testing

from origin.http import Request, Response
from origin.http.hot import JOINED_BYTES, LIMIT_BLOCKS, LIMIT_GROUPS, LIMIT_PAIRS, HotPages, Rendered
from origin.http.listen import Limits
from origin.metrics import Tally
from origin.model import Validity
from tests.origin.http.loopback import Running, get, resident_bytes, running, settled


class Pages:
    """A handler that keeps every page it renders, in the coding the request asks for."""

    def __init__(self, limit_bytes: int = 1 << 22, size: int = 100) -> None:
        self.hot = HotPages(limit_bytes)
        self.validity = Validity(9e9)
        self.tally = Tally()
        self.size = size
        self.revision = 1

    async def __call__(self, request: Request) -> Response:
        coding = "gzip" if "gzip" in (request.header("accept-encoding") or "") else "identity"
        etag = f'"{self.revision}-{coding}"'
        body = f"{request.base} {request.target} {coding} {self.revision} ".encode().ljust(self.size, b".")
        headers = [
            ("Content-Type", "text/plain"),
            ("ETag", etag),
            ("Cache-Control", "no-cache"),
            ("Vary", "Accept, Accept-Encoding"),
            ("Cache-Status", "leeward; fwd=uri-miss; stored"),
        ]
        response = Response(200, headers, body)
        self.hot.keep(request, response, self.validity, self.tally)
        return response


async def test_the_second_request_is_a_hit_that_says_the_same() -> None:
    pages = Pages()
    async with running(pages, hot=pages.hot) as server, server.client() as client:
        cold = await client.get("/a")
        hits = [await client.get("/a") for _ in range(3)]
        assert len(server.seen) == 1
        for hit in hits:
            assert (hit.status, hit.reason, hit.body) == (200, "OK", cold.body)
            assert hit.headers == cold.headers | {"cache-status": "leeward; hit"}
        assert pages.tally.count == 3
        assert pages.tally.sent > 3 * len(cold.body)
        async with server.client() as other:
            assert (await other.get("/a")).body == cold.body
        assert len(server.seen) == 1


async def test_a_client_that_holds_the_page_is_told_so_by_304() -> None:
    pages = Pages()
    async with running(pages, hot=pages.hot) as server, server.client() as client:
        await client.get("/a")
        for value in ('"1-identity"', 'W/"1-identity"', '"0", "1-identity"', "*", '"0" ,W/"1-identity"'):
            for name in ("If-None-Match", "if-none-match"):
                answer = await client.get("/a", "Accept-Language: de", f"{name}: {value}", "X-Last: 1")
                assert answer.status == 304
                assert answer.headers == {
                    "date": "Fri, 15 Jan 2027 08:00:00 GMT",
                    "etag": '"1-identity"',
                    "cache-control": "no-cache",
                    "vary": "Accept, Accept-Encoding",
                    "cache-status": "leeward; hit",
                }
        for value in ('"2"', "W/", '"1-identit', '""', "1-identity"):
            assert (await client.get("/a", f"If-None-Match: {value}")).status == 200
        assert len(server.seen) == 1


async def test_variants_are_kept_apart() -> None:
    pages = Pages()
    async with running(pages, hot=pages.hot) as server, server.client() as client:
        for _ in range(2):
            assert b" gzip " in (await client.get("/a", "Accept-Encoding: gzip")).body
            assert b" identity " in (await client.get("/a")).body
            assert b" identity " in (await client.get("/a", "Accept-Encoding: identity")).body
            assert b" identity " in (await client.get("/a", "Accept-Encoding:")).body
        assert len(server.seen) == 4
        assert pages.hot.statistics()["answers"] == 2
        assert (await client.get("/a", "Accept-Encoding: gzip", 'If-None-Match: "1-identity"')).status == 200
        assert (await client.get("/a", "Accept-Encoding: gzip", 'If-None-Match: "1-gzip"')).status == 304


async def test_a_page_that_lost_its_validity_is_asked_for_again_on_warm_connections() -> None:
    pages = Pages()
    async with running(pages, hot=pages.hot) as server, server.client() as client:
        await client.get("/a")
        await client.get("/a")
        pages.validity.valid = False
        pages.validity, pages.revision = Validity(9e9), 2
        assert b" 2 " in (await client.get("/a")).body
        assert b" 2 " in (await client.get("/a")).body
        assert (await client.get("/a", 'If-None-Match: "1-identity"')).status == 200
        assert len(server.seen) == 2
        assert pages.hot.statistics()["answers"] == 1


async def test_a_page_past_its_freshness_is_asked_for_until_it_is_confirmed() -> None:
    pages = Pages()
    now = 1000.0
    pages.validity.fresh_until = 1010.0
    async with running(pages, hot=pages.hot, clock=lambda: now) as server, server.client() as client:
        await client.get("/a")
        now = 1009.5
        first = await client.get("/a")
        assert first.headers["date"] == "Thu, 01 Jan 1970 00:16:49 GMT"
        assert len(server.seen) == 1
        now = 1010.0
        await client.get("/a")
        assert len(server.seen) == 2
        pages.validity.fresh_until = 1020.0
        second = await client.get("/a")
        assert len(server.seen) == 2
        assert second.headers["date"] == "Thu, 01 Jan 1970 00:16:50 GMT"
        assert second.body == first.body


async def test_clearing_reaches_connections_that_remember_their_header_block() -> None:
    pages = Pages()
    async with running(pages, hot=pages.hot) as server, server.client() as client:
        await client.get("/a")
        await client.get("/a")
        pages.hot.clear()
        await client.get("/a")
        assert len(server.seen) == 2
        await client.get("/a")
        assert len(server.seen) == 2


@pytest.mark.parametrize(
    "line",
    [
        "Range: bytes=0-1",
        "If-Range: x",
        "If-Modified-Since: Thu, 01 Jan 1970 00:16:50 GMT",
        "If-Match: *",
        "Cache-Control: no-cache",
        "Cache-Control: max-age=0, no-cache",
        "Pragma: no-cache",
        "Connection: close",
        "Upgrade: h2c",
        "Content-Length: 0",
        'IF-NONE-MATCH: "1-identity"',
        'If-None-Match:"1-identity"',
    ],
)
async def test_a_request_that_asks_for_more_than_the_page_goes_to_the_handler(line: str) -> None:
    pages = Pages()
    async with running(pages, hot=pages.hot) as server, server.client() as client:
        await client.get("/a")
        await client.get("/a", line)
        assert len(server.seen) == 2


async def test_requests_of_changing_shape_on_one_connection_are_told_apart() -> None:
    pages = Pages()
    shapes = [
        (("Accept: a", 'If-None-Match: "1-identity"', "X: y"), 304),
        (("Accept: a", "X: y"), 200),
        (("Accept: a", 'If-None-Match: "0"', "X: y"), 200),
        (("Accept: a", "If-None-Match: ", "X: y"), 200),
        (('If-None-Match: "1-identity"', "Accept: a", "X: y"), 304),
        (("Accept: a", "X: y", 'If-None-Match: "1-identity"'), 304),
        (("Accept: a", 'If-None-Match: "1-identity"', "X: y", "pacote-pkg-id: 1"), 304),
        (("Accept: a", 'if-none-match: "1-identity"', "X: y"), 304),
    ]
    async with running(pages, hot=pages.hot) as server, server.client() as client:
        for target in ("/a", "/b"):
            await client.get(target, "Accept: a", "X: y")
        for first, status in shapes:
            for second, other in shapes:
                for lines, expected in ((first, status), (second, other), (second, other)):
                    assert (await client.get("/a", *lines)).status == expected
                assert (await client.get("/b", *second)).status == other
        assert len(server.seen) == 2


async def test_two_conditions_are_read_in_full() -> None:
    pages = Pages()
    async with running(pages, hot=pages.hot) as server, server.client() as client:
        await client.get("/a")
        answer = await client.get("/a", 'If-None-Match: "0"', "X: y", 'If-None-Match: "1-identity"')
        assert (answer.status, len(server.seen)) == (304, 2)
        answer = await client.get("/a", 'If-None-Match: "0"', 'if-none-match: "1-identity"')
        assert (answer.status, len(server.seen)) == (304, 3)


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\x00b", '"1-identity"\r\n folded', "a\x7f"])
async def test_a_cut_condition_hides_no_control_character(value: str) -> None:
    pages = Pages()
    async with running(pages, hot=pages.hot) as server, server.client() as client:
        await client.get("/a", "X: y")
        await client.get("/a", "X: y", 'If-None-Match: "1-identity"')
        for name in ("If-None-Match", "pacote-pkg-id"):
            async with server.client() as warm:
                await warm.get("/a", "X: y", 'If-None-Match: "1-identity"')
                await warm.send(get("/a", "X: y", f"{name}: {value}"))
                assert (await warm.answer()).status == 400
                assert await warm.rest() == b""


async def test_npm_s_changing_package_line_does_not_hide_a_hit() -> None:
    pages = Pages()
    async with running(pages, hot=pages.hot) as server, server.client() as client:
        await client.get("/a")
        for number in range(5):
            assert (await client.get("/a", f"pacote-pkg-id: registry:a@{number}")).status == 200
        assert len(server.seen) == 1


async def test_max_age_zero_is_answered_like_any_other() -> None:
    pages = Pages()
    async with running(pages, hot=pages.hot) as server, server.client() as client:
        for _ in range(3):
            assert (await client.get("/a", "Cache-Control: max-age=0")).status == 200
        assert len(server.seen) == 1


async def test_only_whole_pages_under_a_listed_host_are_kept() -> None:
    pages = Pages()
    async with running(pages, hot=pages.hot) as server, server.client() as client:
        for _ in range(2):
            await client.send(get("/a", host="elsewhere.test"))
            assert b"http://elsewhere.test /a" in (await client.answer()).body
        assert [request.listed for request in server.seen] == [False, False]
        for _ in range(2):
            await client.get("/a", method="HEAD")
        assert pages.hot.statistics()["answers"] == 0
        await client.send("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (await client.answer()).headers["connection"] == "keep-alive"
        assert pages.hot.statistics()["answers"] == 0


async def test_bases_are_kept_apart() -> None:
    pages = Pages()
    async with running(pages, hot=pages.hot, public_urls=()) as server, server.client() as client:
        for _ in range(2):
            for host in (f"localhost:{server.port}", f"127.0.0.1:{server.port}", f"[::1]:{server.port}"):
                await client.send(get("/a", host=host))
                assert f"http://{host} /a".encode() in (await client.answer()).body
        assert len(server.seen) == 3


async def test_scopes_are_kept_apart_and_follow_the_credentials() -> None:
    pages = Pages()
    async with (
        running(pages, hot=pages.hot, public_urls=(), scope=lambda authorization: authorization or "") as server,
        server.client() as client,
    ):
        host = f"localhost:{server.port}"
        for _ in range(2):
            for token in ("one", "two"):
                await client.send(get("/a", f"Authorization: Bearer {token}", host=host))
                await client.answer()
        assert [request.scope for request in server.seen] == ["Bearer one", "Bearer two"]


async def test_a_forwarded_host_counts_only_from_a_trusted_proxy_also_on_hits() -> None:
    for trusted in ((), ("127.0.0.0/8",)):
        pages = Pages()
        urls = ("https://a.test", "https://b.test")
        async with running(pages, hot=pages.hot, public_urls=urls, trusted_proxies=trusted) as server, server.client() as client:
            for _ in range(2):
                await client.send(get("/p", "X-Forwarded-Host: b.test", "X-Forwarded-Proto: https", host="a.test"))
                expected = b"https://b.test /p" if trusted else b"https://a.test /p"
                assert expected in (await client.answer()).body
            assert len(server.seen) == 1


async def test_pipelined_hits_and_misses_are_answered_in_order() -> None:
    pages = Pages()
    async with running(pages, hot=pages.hot) as server, server.client() as client:
        await client.get("/hot")
        targets = ["/hot"] * 100 + ["/cold"] + ["/hot"] * 70 + ["/cold", "/other"] + ["/hot"] * 3
        await client.send("".join(get(target) for target in targets))
        with trio.fail_after(5):
            for target in targets:
                assert f" {target} ".encode() in (await client.answer()).body
        assert [request.target for request in server.seen] == ["/hot", "/cold", "/other"]


async def test_bytes_read_already_are_served_after_a_slow_request_without_new_ones() -> None:
    pages = Pages()
    async with running(pages, hot=pages.hot) as server, server.client() as client:
        await client.get("/hot")
        await client.send(get("/slow") + get("/hot") + get("/hot")[:-2])
        with trio.fail_after(5):
            assert b" /slow " in (await client.answer()).body
            assert b" /hot " in (await client.answer()).body
            await client.send("\r\n")
            assert b" /hot " in (await client.answer()).body


async def _dawdler(server: Running) -> trio.socket.SocketType:
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await sock.connect(("127.0.0.1", server.port))
    return sock


async def test_a_hit_that_does_not_fit_goes_on_in_a_task_and_the_connection_comes_back() -> None:
    pages = Pages(limit_bytes=1 << 28, size=4 << 20)
    async with running(pages, hot=pages.hot) as server:
        async with server.client() as client:
            page = (await client.get("/big")).body
        with await _dawdler(server) as sock:
            # Two requests at once: the second waits in our buffer, where no selector will find it.
            await sock.send((get("/big") * 2).encode())
            await trio.testing.wait_all_tasks_blocked()
            async with server.client() as other:
                assert (await other.get("/big")).body == page
            received = bytearray()
            with trio.fail_after(20):
                while len(received) < 2 * len(page) or not received.endswith(page[-1000:]):
                    received += await sock.recv(1 << 20)
            assert received.count(page[:20]) == 2
            assert len(server.seen) == 1
            assert server.server.statistics()["busy"] == 0
            assert pages.tally.sent >= 3 * len(page)


async def test_a_send_that_takes_nothing_loses_no_answer() -> None:
    pages = Pages(limit_bytes=1 << 28, size=1 << 20)
    async with running(pages, hot=pages.hot) as server:
        async with server.client() as client:
            page = (await client.get("/big")).body
        with await _dawdler(server) as sock:
            count = 40
            for _ in range(count):
                # One by one: each is a send of its own, until one of them takes no byte at all.
                await sock.send(get("/big").encode())
                await trio.testing.wait_all_tasks_blocked()
            received = 0
            with trio.fail_after(20):
                while received < count * len(page):
                    received += len(await sock.recv(1 << 20))
            assert len(server.seen) == 1


@pytest.mark.parametrize("size", [100, JOINED_BYTES, JOINED_BYTES + 1])
async def test_a_short_send_loses_and_repeats_nothing_wherever_it_ends(size: int) -> None:
    rendered = Rendered(_page(size), os.urandom(size), '"e"', Validity(9e9), Tally())
    rendered.refresh(1, b"d" * 29)
    message = rendered.whole + (rendered.body if rendered.is_apart else b"")
    assert message.endswith(b"\r\n\r\n" + rendered.body)
    head_bytes = len(message) - size
    for sent in (0, 1, head_bytes - 1, head_bytes, head_bytes + 1, len(message) - 1):
        head, body = rendered.left(rendered.whole, sent)
        assert head + bytes(body) == message[sent:]
        assert body.obj is rendered.body
    head, body = rendered.left(rendered.brief, 3)
    assert head + bytes(body) == rendered.brief[3:]


async def test_slow_readers_of_different_seconds_share_one_body(mock_clock: trio.testing.MockClock) -> None:
    size, readers = 4 << 20, 30
    pages = Pages(limit_bytes=1 << 28, size=size)
    now = 1_800_000_000.0
    async with running(pages, hot=pages.hot, clock=lambda: now) as server, AsyncExitStack() as stack:
        async with server.client() as client:
            await client.get("/big")
        before = resident_bytes()
        for _ in range(readers):
            sock = stack.enter_context(await _dawdler(server))
            await sock.send(get("/big").encode())
            await trio.testing.wait_all_tasks_blocked(0.001)
            now += 1
        assert server.server.statistics()["busy"] == readers
        assert len(server.seen) == 1
        assert resident_bytes() - before < 8 * size


async def test_a_long_header_is_answered_and_not_remembered() -> None:
    pages = Pages()
    async with running(pages, hot=pages.hot) as server, server.client() as client:
        await client.get("/a")
        for lines in ((), ('If-None-Match: "1-identity"',)):
            for _ in range(2):
                await client.get("/a", f"Cookie: {'x' * 60_000}", *lines)
                (connection,) = server.server._doors[0]._connections.values()
                assert len(connection.block) + len(connection.before) + len(connection.after) < 2048
        assert len(server.seen) == 1
        assert b" /a " in (await client.get("/a")).body
        assert len(server.seen) == 1


async def test_empty_lines_between_hits_are_counted_anew_for_each() -> None:
    pages = Pages()
    async with running(pages, hot=pages.hot) as server, server.client() as client:
        for _ in range(5):
            assert b" /a " in (await client.get("/a")).body
            await client.send("\r\n\r\n")
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(server.seen) == 1


async def test_a_client_that_leaves_in_the_middle_of_a_hit_harms_nobody() -> None:
    pages = Pages(limit_bytes=1 << 28, size=4 << 20)
    async with running(pages, hot=pages.hot) as server:
        async with server.client() as client:
            await client.get("/big")
        sock = await _dawdler(server)
        await sock.send(get("/big").encode())
        await trio.testing.wait_all_tasks_blocked()
        sock.close()
        await settled(lambda: not server.server.statistics()["connections"])
        async with server.client() as client:
            assert (await client.get("/big")).status == 200


async def test_many_connections_on_reused_descriptors_get_their_own_answers() -> None:
    pages = Pages()
    async with running(pages, hot=pages.hot) as server:
        for number in range(30):
            async with server.client() as one, server.client() as two:
                await one.send(get(f"/{number}"))
                await two.send(get(f"/{number}-two") * 2)
                await one.stream.aclose()
                for _ in range(2):
                    assert f" /{number}-two ".encode() in (await two.answer()).body


def _request(target: str, **fields: str) -> Request:
    headers = (("host", "localhost"), *((name.replace("_", "-"), value) for name, value in fields.items()))
    return Request("GET", target, headers)


def _page(size: int, etag: str = '"e"') -> Response:
    return Response(200, [("ETag", etag)], b"x" * size)


def test_the_store_stays_within_its_bytes_and_passes_over_what_was_used() -> None:
    hot = HotPages(200_000)
    validity, tally = Validity(9e9), Tally()
    for number in range(5):
        hot.keep(_request(f"/{number}"), _page(10_000), validity, tally)
    used = hot.pages("mirror", "http://127.0.0.1", "")[b"GET /0 HTTP/1.1\r\n"]
    for second in range(200):
        for rendered in used.values():
            rendered.refresh(second, b"d" * 29)
        hot.keep(_request(f"/n{second}"), _page(10_000), validity, tally)
        assert hot.statistics()["bytes"] <= 200_000
    assert b"GET /0 HTTP/1.1\r\n" in hot.pages("mirror", "http://127.0.0.1", "")
    assert hot.statistics()["answers"] == len(hot.pages("mirror", "http://127.0.0.1", ""))
    assert hot.statistics()["evicted"] > 150


def test_a_document_too_large_for_the_store_is_not_kept() -> None:
    hot = HotPages(80_000)
    hot.keep(_request("/a"), _page(10_001), Validity(9e9), Tally())
    assert hot.statistics() == {"answers": 0, "bytes": 0, "evicted": 0}
    hot.keep(_request("/a"), _page(9_000), Validity(9e9), Tally())
    assert hot.statistics()["answers"] == 1


def test_ways_of_asking_are_bounded_and_share_the_answer() -> None:
    hot = HotPages(1 << 20)
    validity = Validity(9e9)
    for number in range(200):
        hot.keep(_request("/a", accept=f"text/{number}"), _page(1000), validity, Tally())
        assert hot.statistics()["answers"] == 1
    variants = hot.pages("mirror", "http://127.0.0.1", "")[b"GET /a HTTP/1.1\r\n"]
    assert len(variants) == LIMIT_PAIRS
    hot.keep(_request("/a", accept="x" * 2000), _page(1000), validity, Tally())
    assert len(variants) == LIMIT_PAIRS
    hot.drop(next(iter(variants.values())))
    assert hot.statistics()["bytes"] == 0


def test_replacing_an_answer_gives_its_bytes_back() -> None:
    hot = HotPages(1 << 20)
    for number in range(50):
        hot.keep(_request("/a"), _page(1000, f'"{number}"'), Validity(9e9), Tally())
        assert hot.statistics()["answers"] == 1
    first = hot.statistics()["bytes"]
    hot.clear()
    hot.keep(_request("/a"), _page(1000, '"00"'), Validity(9e9), Tally())
    assert hot.statistics()["bytes"] == first


async def test_ever_new_header_blocks_are_answered_and_bounded() -> None:
    pages = Pages()
    async with running(pages, hot=pages.hot, limits=Limits()) as server, server.client() as client:
        await client.get("/a")
        for number in range(LIMIT_BLOCKS + 100):
            await client.send(get("/a", f"X-Unique: {number}"))
            if number % 20 == 19:
                for _ in range(20):
                    assert (await client.answer()).status == 200
        assert len(server.seen) == 1


async def test_sites_that_nothing_is_kept_for_are_forgotten_when_they_are_many() -> None:
    pages = Pages()
    request = Request("GET", "/a", (), base="https://pypi.test", face="proxy")
    await pages(request)
    epoch = pages.hot.epoch
    for port in range(1, LIMIT_GROUPS):
        pages.hot.pages("proxy", f"https://pypi.test:{port}", "")
    assert pages.hot.epoch is epoch
    # A connection may remember the dictionary of a site that is forgotten here, and must ask for it anew.
    pages.hot.pages("proxy", "https://pypi.test:65535", "")
    assert len(pages.hot._groups) == 2
    assert pages.hot.epoch is not epoch
    assert pages.hot.ready(request, 0) is not None


async def test_sites_that_something_is_kept_for_are_bounded_too_and_stay_found() -> None:
    pages = Pages(1 << 26)
    for port in range(1, LIMIT_GROUPS + 100):
        await pages(Request("GET", "/a", (), base=f"https://pypi.test:{port}", face="proxy"))
    assert len(pages.hot._groups) <= LIMIT_GROUPS
    epoch = pages.hot.epoch
    newest = Request("GET", "/a", (), base=f"https://pypi.test:{LIMIT_GROUPS + 99}", face="proxy")
    for _ in range(3):
        found = pages.hot.ready(newest, 0)
        assert found is not None
        assert found.body.startswith(newest.base.encode())
    assert pages.hot.epoch is epoch, "what is there already costs nobody what it remembers"
    oldest = Request("GET", "/a", (), base="https://pypi.test:1", face="proxy")
    assert pages.hot.ready(oldest, 0) is None
    held = pages.hot.statistics()
    assert held["answers"] == sum(bool(group) for group in pages.hot._groups.values())
    pages.hot._limit_bytes = 0
    pages.hot._evict()
    assert pages.hot.statistics()["bytes"] == 0
