"""The server over TLS: hits, bodies and ends as on a plain connection, beside it on the same port, and inside intercepted tunnels."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import resource
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from origin.http import Intercept, Request, Response, door
from origin.http.certificate import LOOK_S, FileCertificate
from origin.http.conversation import House, Peer
from origin.http.hot import HotPages
from origin.http.listen import Limits
from origin.metrics import Metrics
from origin.model import Arriving, Span
from tests.origin.http.loopback import Client, Running, answering, get, plain, resident_bytes, running, settled
from tests.origin.http.test_conversation import Deliveries, Spool, spool
from tests.origin.http.test_hot import Pages
from tests.origin.http.tls_client import Shown, Talker, talking

__all__ = ["spool"]  # a fixture

FILE_BYTES = 50_000_000


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    return Shown(tmp_path_factory.mktemp("tls"), "localhost", "pypi.test")


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "file"
    block = b"".join(hashlib.sha256(bytes([number])).digest() for number in range(250))
    with path.open("wb") as file:
        for number in range(FILE_BYTES // 8000):
            file.write(number.to_bytes(8) + block[8:])
    assert path.stat().st_size == FILE_BYTES
    return path


def contents(path: Path) -> bytes:
    return path.read_bytes()


class Encrypted(Client):
    """The small strict client, over TLS."""

    def __init__(self, talker: Talker) -> None:
        self.talker = talker
        self.buffer = b""

    async def send(self, data: bytes | str) -> None:
        await self.talker.send(data.encode() if isinstance(data, str) else data)

    async def rest(self) -> bytes:
        data, self.buffer = self.buffer, b""
        while not (self.talker.is_ended or self.talker.is_cut):
            data += await self.talker.read(1)
        return data + await self.talker.read(1 << 30)

    async def _more(self) -> bytes:
        data = await self.talker.read(1)
        if not data:
            raise EOFError(self.buffer)
        return data + await self.talker.read(len(self.talker.received))


@asynccontextmanager
async def encrypted(
    server: Running, context: ssl.SSLContext, name: str | None = "localhost", *, receive_bytes: int = 0
) -> AsyncIterator[Encrypted]:
    async with talking(server.port, context, name, receive_bytes=receive_bytes) as talker:
        yield Encrypted(talker)


# ---- hits -------------------------------------------------------------------------------------------------------------


async def test_hits_are_answered_as_on_a_plain_connection(shown: Shown) -> None:
    pages = Pages()
    async with running(pages, hot=pages.hot, contexts=shown) as server, encrypted(server, shown.client()) as client:
        cold = await client.get("/a")
        assert cold.status == 200
        for _ in range(3):
            hit = await client.get("/a")
            assert hit.headers == cold.headers | {"cache-status": "leeward; hit"}
            assert hit.body == cold.body
        assert (await client.get("/a", 'If-None-Match: "1-identity"')).status == 304
        assert (await client.get("/a", 'If-None-Match: W/"1-identity", "2"')).status == 304
        await client.send(get("/a") * 100)
        assert [(await client.answer()).body for _ in range(100)] == [cold.body] * 100
        assert len(server.seen) == 1
        assert server.server.statistics()["hits"] == 105


async def test_requests_split_over_records_are_whole_again(shown: Shown) -> None:
    pages = Pages()
    async with running(pages, hot=pages.hot, contexts=shown) as server, encrypted(server, shown.client()) as client:
        for _ in range(2):
            for letter in get("/a"):
                await client.send(letter)
            assert (await client.answer()).status == 200
        body = "x" * 100_000
        await client.send(f"POST /b HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}" + get("/a"))
        assert (await client.answer()).status == 200
        assert (await client.answer()).body.startswith(b"http://localhost /a")
        assert len(server.seen[1].body) == 100_000


async def test_one_port_takes_both_and_each_is_told_its_own_scheme(shown: Shown) -> None:
    pages = Pages()
    async with running(pages, hot=pages.hot, contexts=shown, public_urls=()) as server:
        host = f"localhost:{server.port}"
        for _ in range(2):
            async with server.client() as client, encrypted(server, shown.client()) as secure:
                for _ in range(2):
                    await client.send(get("/a", host=host))
                    assert (await client.answer()).body.startswith(f"http://{host} /a".encode())
                    await secure.send(get("/a", host=host))
                    assert (await secure.answer()).body.startswith(f"https://{host} /a".encode())
        # Each was rendered once, and found again by the other connection.
        assert [(request.base, request.listed, request.face) for request in server.seen] == [
            (f"http://{host}", True, "mirror"),
            (f"https://{host}", True, "mirror"),
        ]


async def test_a_public_url_is_found_by_https(shown: Shown) -> None:
    async with running(plain, contexts=shown, public_urls=("https://mirror.test",)) as server:
        async with encrypted(server, shown.client()) as client:
            await client.send(get("/a", host="mirror.test"))
            await client.answer()
            await client.send(get("/a", host="elsewhere.test"))
            await client.answer()
            await client.send("GET /a HTTP/1.0\r\n\r\n")
            await client.rest()
        assert [(request.base, request.listed) for request in server.seen] == [
            ("https://mirror.test", True),
            ("https://elsewhere.test", False),
            ("https://mirror.test", True),
        ]


async def test_on_a_port_for_tls_alone_plain_http_is_told_so(shown: Shown) -> None:
    async with running(plain, contexts=shown, tls_only=True) as server:
        async with server.client() as client:
            answer = await client.get("/a")
            assert answer.status == 400
            assert "https://" in answer.reason
            assert answer.headers["connection"] == "close"
            await client.stream.send_eof()
            assert await client.rest() == b""
        assert server.seen == []
        async with encrypted(server, shown.client()) as secure:
            assert (await secure.get("/a")).status == 200


async def test_a_client_that_names_nobody_is_served(shown: Shown) -> None:
    context = shown.client()
    context.check_hostname = False
    async with running(plain, contexts=shown) as server, encrypted(server, context, None) as client:
        assert (await client.get("/a")).status == 200


async def test_old_protocols_are_not_spoken_and_tls_1_2_is(shown: Shown) -> None:
    async with running(plain, contexts=shown) as server:
        context = shown.client()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        async with encrypted(server, context) as client:
            assert client.talker.tls.version() == "TLSv1.2"
            assert client.talker.tls.compression() is None
            await client.send(get("/a") * 3)
            for _ in range(3):
                assert (await client.answer()).status == 200


# ---- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10_000, 16_384, 50_000, 200_000, 1_500_000])
async def test_a_hit_that_does_not_fit_reaches_a_slow_reader_to_the_byte(shown: Shown, size: int) -> None:
    pages = Pages(1 << 26, size)
    async with (
        running(pages, hot=pages.hot, contexts=shown) as server,
        encrypted(server, shown.client()) as first,
        encrypted(server, shown.client(), receive_bytes=4096) as slow,
    ):
        body = (await first.get("/a")).body
        assert len(body) == size
        await slow.send(get("/a") * 3)
        for _ in range(200):
            slow.talker.take(2000)
            await trio.lowlevel.checkpoint()
        for _ in range(3):
            answer = await slow.answer()
            assert answer.body == body
        assert len(server.seen) == 1
        assert pages.tally.count == 3


async def digest_of(client: Encrypted, length: int) -> str:
    digest = hashlib.sha256(client.buffer)
    left = length - len(client.buffer)
    while left:
        data = await client.talker.read(min(left, 1 << 20))
        assert data
        digest.update(data)
        left -= len(data)
    client.buffer = b""
    return digest.hexdigest()


async def head(client: Encrypted) -> str:
    while b"\r\n\r\n" not in client.buffer:
        client.buffer += await client._more()
    told, _, client.buffer = client.buffer.partition(b"\r\n\r\n")
    return told.decode()


async def test_files_arrive_to_the_byte_whole_or_in_part_at_rest_or_arriving(shown: Shown, big: Path, spool: Spool) -> None:
    document = contents(big)
    expected, part = (hashlib.sha256(piece).hexdigest() for piece in (document, document[10_000_001:30_000_000]))
    headers = [("ETag", '"e"'), ("Accept-Ranges", "bytes")]

    def answer(request: Request) -> Response:
        if request.target == "/arriving":
            return Response(200, list(headers), Arriving(spool, 0, FILE_BYTES))
        return Response(200, list(headers), Span(os.open(big, os.O_RDONLY), 0, FILE_BYTES))

    async with running(answering(answer), contexts=shown) as server, encrypted(server, shown.client()) as client:
        await client.send(get("/span"))
        assert f"Content-Length: {FILE_BYTES}" in await head(client)
        assert await digest_of(client, FILE_BYTES) == expected
        await client.send(get("/span", "Range: bytes=10000001-29999999"))
        assert "206" in await head(client)
        assert await digest_of(client, 19_999_999) == part
        async with trio.open_nursery() as nursery:

            async def arrive() -> None:
                marks = (0, 1, 20_000, 300_000, 16_000_000, FILE_BYTES)
                for start, stop in itertools.pairwise(marks):
                    spool.write(document[start:stop])
                    await trio.testing.wait_all_tasks_blocked()

            nursery.start_soon(arrive)
            await client.send(get("/arriving"))
            assert "200" in await head(client)
            assert await digest_of(client, FILE_BYTES) == expected
        assert (await client.get("/arriving", "Range: bytes=0-9")).body == document[:10]


async def test_a_body_that_ends_short_never_looks_whole(shown: Shown, spool: Spool) -> None:
    spool.write(b"x" * 50_000)
    async with (
        running(answering(lambda r: Response(200, [], Arriving(spool, 0, 100_000))), contexts=shown) as server,
        encrypted(server, shown.client()) as client,
    ):
        await client.send(get("/a"))
        await head(client)
        spool.fail(RuntimeError("lost"))
        assert len(await client.rest()) == 50_000
        assert (client.talker.is_ended, client.talker.is_cut) == (False, True)


async def test_an_answer_that_closes_is_ended_in_order(shown: Shown) -> None:
    async with running(plain, contexts=shown) as server, encrypted(server, shown.client()) as client:
        assert (await client.get("/a", "Connection: close")).status == 200
        assert await client.rest() == b""
        assert (client.talker.is_ended, client.talker.is_cut) == (True, False)


async def test_a_client_that_goes_on_sending_reads_why_it_is_refused(shown: Shown) -> None:
    size = 3_000_000
    async with running(plain, contexts=shown) as server:
        for _ in range(10):
            async with encrypted(server, shown.client()) as client:
                await client.send(f"POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n")
                for _ in range(size // 100_000):
                    await client.send(bytes(100_000))
                    await trio.lowlevel.checkpoint()
                assert (await client.answer()).status == 413
                await client.talker.say_end()
                assert await client.rest() == b""
                assert client.talker.is_ended


async def test_a_client_that_has_said_its_last_still_gets_its_answer(shown: Shown) -> None:
    waiting, go = trio.Event(), trio.Event()

    async def handler(request: Request) -> Response:
        waiting.set()
        await go.wait()
        return Response(200, [], b"late")

    async with running(handler, contexts=shown) as server, encrypted(server, shown.client()) as client:
        await client.send(get("/a"))
        await client.talker.say_end()
        await waiting.wait()
        go.set()
        assert (await client.answer()).body == b"late"


# ---- slow, silent and many --------------------------------------------------------------------------------------------


async def test_a_peer_that_takes_nothing_is_dropped_and_a_slow_one_is_not(
    shown: Shown, big: Path, mock_clock: trio.testing.MockClock
) -> None:
    deliveries = Deliveries()

    def answer(request: Request) -> Response:
        return Response(200, [], Span(os.open(big, os.O_RDONLY), 0, FILE_BYTES), delivered=deliveries.note)

    async with (
        running(answering(answer), contexts=shown, limits=Limits(stall_s=5)) as server,
        encrypted(server, shown.client(), receive_bytes=4096) as stuck,
        encrypted(server, shown.client(), receive_bytes=4096) as slow,
    ):
        await stuck.send(get("/a"))
        await slow.send(get("/a"))
        for _ in range(6):
            await trio.testing.wait_all_tasks_blocked(0.05)
            # Less than a record in all: what is kept for it must not look as if it took nothing.
            taken = 0
            while taken < 9000:
                await trio.lowlevel.wait_readable(slow.talker.sock)
                taken += slow.talker.take(2500)
            await trio.testing.wait_all_tasks_blocked(0.05)
            mock_clock.jump(5.1)
        await settled(lambda: deliveries)
        assert len(deliveries) == 1
        assert not deliveries[0][1]
        with pytest.raises(ConnectionResetError):
            await stuck.rest()
        assert not slow.talker.is_cut


async def test_slow_readers_hold_no_more_than_a_record_each(shown: Shown, big: Path) -> None:
    pages = Pages(1 << 26, 8_000_000)
    readers = 150
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * readers + 200)), hard))

    async def handler(request: Request) -> Response:
        if request.target == "/page":
            return await pages(request)
        return Response(200, [], Span(os.open(big, os.O_RDONLY), 0, FILE_BYTES))

    try:
        async with running(handler, hot=pages.hot, contexts=shown) as server, AsyncExitStack() as stack:
            first = await stack.enter_async_context(encrypted(server, shown.client()))
            await first.get("/page")
            context = shown.client()
            clients = [await stack.enter_async_context(encrypted(server, context, receive_bytes=4096)) for _ in range(readers)]
            before = resident_bytes()
            for number, client in enumerate(clients):
                await client.send(get("/page" if number % 2 else "/file"))
            await settled(lambda: server.server.statistics()["busy"] == readers)
            await trio.testing.wait_all_tasks_blocked(0.2)
            grown = resident_bytes() - before
            # A record kept, a record encrypted, and a task.
            assert grown < readers * 64 * 1024, f"{grown / readers:.0f} bytes each"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_an_idle_connection_is_closed_in_order(shown: Shown, mock_clock: trio.testing.MockClock) -> None:
    async with running(plain, contexts=shown) as server, encrypted(server, shown.client()) as client:
        assert (await client.get("/a")).status == 200
        await settled(lambda: server.server.statistics()["busy"] == 0)
        mock_clock.jump(77)
        assert await client.rest() == b""
        assert client.talker.is_ended


# ---- handshakes -------------------------------------------------------------------------------------------------------


def outcomes(metrics: Metrics) -> dict[str, float]:
    [family] = metrics.handshakes.collect()
    return {s.labels["outcome"]: s.value for s in family.samples if s.name.endswith("_total")}


async def test_a_handshake_that_dawdles_is_cut_off(shown: Shown, mock_clock: trio.testing.MockClock) -> None:
    metrics = Metrics()
    async with running(plain, contexts=shown, metrics=metrics) as server, server.client() as client:
        await client.send(b"\x16\x03\x01\x02\x00\x01")
        await settled(lambda: server.server.statistics()["busy"] == 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(9)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.server.statistics()["connections"] == 1
        mock_clock.jump(1.1)
        assert await client.rest() == b""
        await settled(lambda: server.server.statistics()["connections"] == 0)
        assert outcomes(metrics) == {"late": 1}


async def test_garbage_ends_its_own_connection_and_no_other(shown: Shown) -> None:
    metrics = Metrics()
    async with running(plain, contexts=shown, metrics=metrics) as server, encrypted(server, shown.client()) as good:
        for data in (b"\x16garbage\r\n\r\n" * 100, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", b"\x16"):
            async with server.client() as client:
                await client.send(data)
                with contextlib.suppress(trio.BrokenResourceError):  # it may be gone already
                    await client.stream.send_eof()
                assert b"HTTP" not in await client.rest()
        await settled(lambda: server.server.statistics()["connections"] == 1)
        assert (await good.get("/a")).status == 200
        assert outcomes(metrics) == {"done": 1, "failed": 3}


async def test_a_client_that_does_not_trust_us_is_counted_and_told_of(
    shown: Shown, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics()
    stranger = Shown(tmp_path)
    with caplog.at_level(logging.INFO):
        async with running(plain, contexts=shown, metrics=metrics) as server:
            with pytest.raises(ssl.SSLCertVerificationError):
                async with encrypted(server, stranger.client()):
                    pass
            await settled(lambda: outcomes(metrics))
            assert outcomes(metrics) == {"distrusted": 1}
    assert "127.0.0.1 does not trust the certificate of this server" in caplog.text


async def test_handshakes_count_as_connections(shown: Shown, mock_clock: trio.testing.MockClock) -> None:
    async with running(plain, contexts=shown, limits=Limits(connections=1)) as server, server.client() as dawdler:
        await dawdler.send(b"\x16")
        await settled(lambda: server.server.statistics()["busy"] == 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        async with server.client() as second:
            await second.send(get("/a"))
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert server.seen == []
            mock_clock.jump(10.1)
            await trio.testing.wait_all_tasks_blocked(0.02)
            mock_clock.jump(1.1)
            assert (await second.answer()).status == 200


async def test_draining_ends_handshakes_and_idle_connections_and_lets_answers_finish(shown: Shown, spool: Spool) -> None:
    spool.write(b"y" * 50)
    async with (
        running(answering(lambda r: Response(200, [], Arriving(spool, 0, 100))), contexts=shown) as server,
        encrypted(server, shown.client()) as idle,
        encrypted(server, shown.client()) as busy,
        server.client() as undecided,
        server.client() as shaking,
    ):
        await shaking.send(b"\x16\x03")
        await busy.send(get("/a"))
        await head(busy)
        await settled(lambda: server.server.statistics()["busy"] == 2)
        assert server.nursery is not None
        server.nursery.start_soon(server.server.drain)
        assert await idle.rest() == b""
        assert idle.talker.is_ended
        assert await undecided.rest() == b""
        assert await shaking.rest() == b""
        spool.write(b"y" * 50)
        assert await busy.rest() == b"y" * 100
        assert busy.talker.is_ended


async def test_a_renewed_certificate_is_shown_to_new_connections_while_old_ones_live(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    shown = Shown(tmp_path / "authority")
    cert = tmp_path / "cert.pem"
    shutil.copy(shown.path, cert)
    certificate = FileCertificate(cert, clock=lambda: 1_800_000_000.0)
    async with running(plain, contexts=certificate) as server:
        assert server.nursery is not None
        await server.nursery.start(certificate.run)
        async with encrypted(server, shown.client()) as old:
            first = old.talker.tls.getpeercert(binary_form=True)
            shutil.copy(shown.authority.certificate("localhost"), cert)
            before = certificate.context()
            await trio.testing.wait_all_tasks_blocked(0.02)
            mock_clock.jump(LOOK_S + 0.1)
            await settled(lambda: certificate.context() is not before)
            async with encrypted(server, shown.client()) as new:
                assert new.talker.tls.getpeercert(binary_form=True) != first
                assert (await new.get("/a")).status == 200
            assert (await old.get("/a")).status == 200


# ---- HTTP/2 -----------------------------------------------------------------------------------------------------------


async def test_a_connection_that_settled_on_h2_goes_where_h2_is_spoken(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    async def echo(house: House, peer: Peer, hot: HotPages) -> None:
        peer.wire.send_nowait(b"h2 " + await peer.receive())
        await house.draining.wait()

    monkeypatch.setattr(door, "serve_h2", echo)
    async with running(plain, contexts=shown) as server:
        async with encrypted(server, shown.client("http/1.1")) as one:
            assert one.talker.tls.selected_alpn_protocol() == "http/1.1"
            assert (await one.get("/a")).status == 200
        async with encrypted(server, shown.client("h2", "http/1.1")) as two:
            assert two.talker.tls.selected_alpn_protocol() == "h2"
            await two.send(b"preface")
            assert await two.talker.read(10) == b"h2 preface"
            assert server.nursery is not None
            server.nursery.start_soon(server.server.drain)
            assert await two.rest() == b""
            assert two.talker.is_ended


# ---- tunnels ----------------------------------------------------------------------------------------------------------


class Intercepting:
    """A handler that ends every tunnel here, and answers what comes through it with kept pages."""

    def __init__(self, shown: Shown) -> None:
        self.pages = Pages()
        self.shown = shown

    async def __call__(self, request: Request) -> Response:
        if request.method == "CONNECT":
            host, _, port = request.target.partition(":")
            site = f"https://{host}" if port == "443" else f"https://{request.target}"
            return Response(200, onward=Intercept(site, self.shown.server))
        return await self.pages(request)


@asynccontextmanager
async def tunnelled(server: Running, shown: Shown, authority: str = "pypi.test:443", *protocols: str) -> AsyncIterator[Encrypted]:
    with trio.socket.socket() as sock:
        await sock.connect(("127.0.0.1", server.port))
        await sock.send(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        answer = await sock.recv(1000)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert answer.endswith(b"\r\n\r\n")
        assert b"content-length" not in answer.lower()
        with socket.socket(fileno=sock.detach()) as near:
            talker = Talker(near, shown.client(*protocols), authority.partition(":")[0])
            await talker.shake_hands()
            yield Encrypted(talker)


async def test_a_tunnel_that_ends_here_is_the_site_and_has_hits(shown: Shown) -> None:
    handler = Intercepting(shown)
    async with running(handler, hot=handler.pages.hot) as server:
        for _ in range(2):
            async with tunnelled(server, shown) as client:
                for _ in range(3):
                    await client.send(get("/simple/a/", host="pypi.test"))
                    assert (await client.answer()).body.startswith(b"https://pypi.test /simple/a/")
                await client.send(get("/simple/a/", 'If-None-Match: "1-identity"', host="pypi.test:443"))
                assert (await client.answer()).status == 304
        inside = [request for request in server.seen if request.method == "GET"]
        assert [(request.base, request.face, request.listed) for request in inside] == [("https://pypi.test", "proxy", True)]
        assert server.server.statistics()["hits"] == 7
        # What the mirror face keeps under the same target is another page.
        async with server.client() as client:
            assert (await client.get("/simple/a/")).body.startswith(b"http://localhost /simple/a/")


async def test_a_tunnel_to_another_port_is_another_site(shown: Shown) -> None:
    handler = Intercepting(shown)
    async with running(handler, hot=handler.pages.hot) as server:
        for authority in ("pypi.test:443", "pypi.test:8443"):
            async with tunnelled(server, shown, authority) as client:
                await client.send(get("/a", host=authority))
                base = f"https://{authority.removesuffix(':443')}"
                assert (await client.answer()).body.startswith(f"{base} /a".encode())


async def test_in_a_tunnel_other_hosts_and_other_forms_are_not_answered(shown: Shown) -> None:
    handler = Intercepting(shown)
    async with running(handler, hot=handler.pages.hot) as server:
        async with tunnelled(server, shown) as client:
            await client.send(get("/a", host="pypi.test"))
            await client.answer()
        for status, data in (
            (421, get("/a", host="npm.test")),
            (421, get("/a", host="pypi.test:8443")),
            (400, get("http://pypi.test/a", host="pypi.test")),
            (400, get("npm.test:443", host="npm.test", method="CONNECT")),
            (400, "GET /a HTTP/1.1\r\n\r\n"),
        ):
            async with tunnelled(server, shown) as client:
                await client.send(data)
                assert (await client.answer()).status == status
                await client.talker.say_end()
                assert await client.rest() == b""
        assert {request.target for request in server.seen} == {"pypi.test:443", "/a"}


async def test_recognisers_of_tunnels_are_bounded_and_forgotten_ones_come_back(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "_TUNNELS", 2)
    handler = Intercepting(shown)
    async with running(handler, hot=handler.pages.hot) as server:
        [behind] = server.server._doors
        for port in (1, 2, 3, 1):
            authority = f"pypi.test:{port}"
            async with tunnelled(server, shown, authority) as client:
                for _ in range(2):
                    await client.send(get("/a", host=authority))
                    assert (await client.answer()).body.startswith(f"https://{authority} /a".encode())
            assert len(behind._tunnels) <= 2
        assert sum(request.method == "GET" for request in server.seen) == 3


async def test_connections_to_many_sites_do_not_each_hold_what_was_remembered(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "_TUNNELS", 2)
    handler = Intercepting(shown)
    async with running(handler, hot=handler.pages.hot) as server, AsyncExitStack() as stack:
        recognisers = []
        [behind] = server.server._doors
        for port in range(1, 6):
            authority = f"pypi.test:{port}"
            client = await stack.enter_async_context(tunnelled(server, shown, authority))
            recognisers.append(behind._tunnels[f"https://{authority}"][1])
            for number in range(20):
                await client.send(get("/a", f"X-Unique: {number}", host=authority))
                assert (await client.answer()).body.startswith(f"https://{authority} /a".encode())
        # Those that many may still come to remember a lot, and the others close to nothing, though connections use them.
        assert [len(recogniser._known) > 1 for recogniser in recognisers] == [False, False, False, True, True]


async def test_a_client_that_speaks_tls_before_it_is_told_to_is_refused(shown: Shown) -> None:
    handler = Intercepting(shown)
    async with running(handler) as server, server.client() as client:
        await client.send(get("pypi.test:443", host="pypi.test:443", method="CONNECT").encode() + b"\x16\x03\x01\x00\x05hello")
        answer = await client.answer()
        assert (answer.status, answer.reason) == (400, "the client must wait for the answer to CONNECT")


async def test_tls_inside_tls_is_refused_before_the_client_believes_in_a_tunnel(shown: Shown) -> None:
    handler = Intercepting(shown)
    async with running(handler, contexts=shown) as server, encrypted(server, shown.client()) as client:
        answer = await client.get("pypi.test:443", method="CONNECT")
        assert answer.status == 501
        assert "http://" in answer.reason


async def test_a_handshake_in_a_tunnel_has_its_time_and_its_metric(shown: Shown, mock_clock: trio.testing.MockClock) -> None:
    metrics = Metrics()
    async with running(Intercepting(shown), metrics=metrics) as server, server.client() as client:
        await client.send(get("pypi.test:443", host="pypi.test:443", method="CONNECT"))
        while not client.buffer.endswith(b"\r\n\r\n"):
            client.buffer += await client._more()
        await settled(lambda: server.server.statistics()["busy"] == 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(10.1)
        await client.rest()
        await settled(lambda: server.server.statistics()["connections"] == 0)
        assert outcomes(metrics) == {"late": 1}


# ---- other people's clients -------------------------------------------------------------------------------------------


async def test_curl_and_openssl_are_served(shown: Shown, big: Path, tmp_path: Path) -> None:
    def answer(request: Request) -> Response:
        return Response(200, [], Span(os.open(big, os.O_RDONLY), 0, FILE_BYTES))

    async with running(answering(answer), contexts=shown) as server:
        got = tmp_path / "got"
        url = f"https://localhost:{server.port}/file"
        command = ["curl", "--http1.1", "-sS", "--noproxy", "*", "--cacert", str(shown.authority.path), "-o", str(got), url]
        done = await trio.run_process(command, capture_stderr=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert contents(got) == contents(big)
        command = ["openssl", "s_client", "-connect", f"localhost:{server.port}", "-alpn", "http/1.1", "-CAfile"]
        command += [str(shown.authority.path), "-verify_return_error", "-legacy_renegotiation"]
        # "R" asks for a renegotiation, which TLS 1.2 would have.
        done = await trio.run_process(
            [*command, "-tls1_2"], stdin=b"R\n", capture_stdout=True, stderr=subprocess.DEVNULL, check=False
        )
        assert b"Secure Renegotiation IS supported" in done.stdout
        assert b"Compression: NONE" in done.stdout
