"""Tunnels and forwarded requests on real sockets: whom they reach, whom they never reach, and how they end."""

from __future__ import annotations

import base64
import ipaddress
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import trio
import trio.testing
import trustme

from edge.forward import Forward, Proxy, Users
from edge.hosts import Hosts
from edge.mirror import Mirror
from edge.render import Renderings
from origin.http.hot import HotPages
from origin.http.listen import Limits
from origin.metrics import Metrics, total
from origin.service import Service
from origin.sources.addresses import METADATA
from origin.sources.tunnels import Dialler, NextProxy, OffLimits, Reach, is_local
from tests.answering import Reply, answering
from tests.harness import free_port, swallowing
from tests.origin.http.loopback import Client, Running, running, settled
from tests.registry_bench import Names

pytestmark = pytest.mark.slow

LOOPBACK = ("127.0.0.0/8", "::1/128")
DEPLOYMENT = "0123456789abcdef"


class Unlearnt(Hosts):
    """A table without registries: everything is somebody else's."""

    def __init__(self) -> None:
        super().__init__({}, {})


class NoCertificates:
    async def context(self, host: str) -> ssl.SSLContext:
        raise AssertionError("nobody is stood in for")


@dataclass
class Standing:
    """An edge's proxy face that is asked over sockets."""

    server: Running
    metrics: Metrics
    names: Names

    async def asked(self, message: str) -> bytes:
        return await self.server.exchange(message.encode())


@asynccontextmanager
async def proxy(
    *,
    allow: Sequence[str] = (),
    ports: Sequence[int] = (),
    users: dict[str, str] | None = None,
    names: dict[str, list[str]] | None = None,
    next_proxy: NextProxy | None = None,
    limits: Limits | None = None,
    connect_s: float = 2.0,
) -> AsyncIterator[Standing]:
    metrics, own = Metrics(), set[int]()
    reach = Reach(tuple(ipaddress.ip_network(network) for network in allow), frozenset({80, 443, *ports}))
    dialler = Dialler(
        reach, connect_s=connect_s, answer_s=2, is_own=lambda address, port: port in own and is_local(address), proxy=next_proxy
    )
    hot = HotPages(1 << 20)
    service = cast(Service, None)  # no request here is a registry's
    mirror = Mirror([], service, Renderings(1 << 20, trio.CapacityLimiter(1)), hot, metrics, DEPLOYMENT)
    forward = Forward(mirror, Proxy(Unlearnt(), NoCertificates(), dialler, Users(users or {})), metrics, DEPLOYMENT)
    resolver = Names(names or {})
    trio.socket.set_custom_hostname_resolver(resolver)
    async with running(forward.handle, hot=hot, limits=limits, metrics=metrics) as server:
        own.add(server.port)
        yield Standing(server, metrics, resolver)


type Conversation = Callable[[trio.SocketStream], Awaitable[None]]


@dataclass
class Listener:
    """Somebody whom tunnels may lead to; counts who comes."""

    port: int
    came: list[str] = field(default_factory=list)


async def echo(stream: trio.SocketStream) -> None:
    while data := await stream.receive_some(65536):
        await stream.send_all(data)
    await stream.send_eof()


@asynccontextmanager
async def listening(talk: Conversation = echo, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Listener]:
    listeners = await trio.open_tcp_listeners(port, host=host)
    made = Listener(listeners[0].socket.getsockname()[1])

    async def serve(stream: trio.SocketStream) -> None:
        made.came.append(stream.socket.getsockname()[0])
        try:
            await talk(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield made
        nursery.cancel_scope.cancel()


def connect(host: str, port: int, *lines: str) -> str:
    return "".join(f"{line}\r\n" for line in (f"CONNECT {host}:{port} HTTP/1.1", "Host: whoever.test", *lines, ""))


def absolute(host: str, port: int, *lines: str) -> str:
    return "".join(f"{line}\r\n" for line in (f"GET http://{host}:{port}/ HTTP/1.1", f"Host: {host}:{port}", *lines, ""))


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def opened(client: Client, host: str, port: int, *lines: str) -> None:
    """Have a tunnel made on this connection."""
    await client.send(connect(host, port, *lines))
    while b"\r\n\r\n" not in client.buffer:
        client.buffer += await client.stream.receive_some(4096)
    head, _, client.buffer = client.buffer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 Connection established\r\n"), head
    assert b"Content-Length" not in head


async def received(client: Client, count: int) -> bytes:
    while len(client.buffer) < count:
        more = await client.stream.receive_some(65536)
        assert more, client.buffer
        client.buffer += more
    data, client.buffer = client.buffer[:count], client.buffer[count:]
    return data


# ---- whom they never reach

NAMES = {
    "inside.test": ["127.0.0.1"],
    "private.test": ["10.0.0.1"],
    "mixed.test": ["93.184.215.14", "127.0.0.1"],
    "cloud.test": ["169.254.169.254"],
    "nothing.test": ["0.0.0.0"],  # noqa: S104 -- an answer, nothing is bound
}

HERE = (
    "127.0.0.1 127.8.8.8 127.1 2130706433 0177.0.0.1 017700000001 0x7f.0.0.1 0x7f000001 0x7F.1 0.0.0.0 0 localhost LocalHost "
    "localhost. x.localhost [::1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [64:ff9b::7f00:1] [2002:7f00:1::] inside.test mixed.test "
    "INSIDE.test inside.test. nothing.test"
).split()
ELSEWHERE = (
    "169.254.169.254 169.254.0.1 2852039166 0251.0376.0251.0376 [::ffff:169.254.169.254] [fe80::1] [fd00:ec2::254] 168.63.129.16 "
    "10.0.0.1 167772161 192.168.1.1 172.16.0.1 100.64.0.1 224.0.0.1 255.255.255.255 [fc00::1] private.test cloud.test"
).split()


@pytest.mark.parametrize("host", HERE + ELSEWHERE)
async def test_neither_a_tunnel_nor_a_request_reaches_our_own_networks(host: str) -> None:
    async with (
        listening() as four,
        listening(host="::1", port=four.port) as six,
        proxy(names=NAMES | {"inside.test.": ["127.0.0.1"]}) as p,
    ):
        for message in (connect(host, four.port), absolute(host, four.port, "Connection: close")):
            answer = await p.asked(message)
            assert status(answer) == 403, answer
            assert b"application/problem+json" in answer
            assert b"not reached through here" in answer
        assert four.came + six.came == []
        assert total(p.metrics.tunnels_open) == 0


@pytest.mark.parametrize("first", ["127.0.0.2", "127.0.0.1"])
async def test_what_was_checked_is_what_is_dialled(first: str) -> None:
    """The name's answer changes after every question; only one of its addresses is allowed."""

    class Turning(Names):
        async def getaddrinfo(self, host: bytes | None, port: Any, *rest: Any, **more: Any) -> list[tuple[Any, ...]]:
            found = await super().getaddrinfo(host, port, *rest, **more)
            self.table["turning.test"] = ["127.0.0.1" if self.table["turning.test"] == ["127.0.0.2"] else "127.0.0.2"]
            return found

    async with (
        listening(host="127.0.0.2") as allowed,
        listening(port=allowed.port) as forbidden,
        proxy(allow=["127.0.0.2/32"]) as p,
    ):
        names = Turning({"turning.test": [first]})
        trio.socket.set_custom_hostname_resolver(names)
        async with p.server.client() as client:
            if first == "127.0.0.2":
                await opened(client, "turning.test", allowed.port)
                await client.send("hello")
                assert await received(client, 5) == b"hello"
            else:
                assert (await client.get(f"turning.test:{allowed.port}", method="CONNECT")).status == 403
        assert names.asked == ["turning.test"], "it is looked up once"
        assert forbidden.came == []
        assert allowed.came == (["127.0.0.2"] if first == "127.0.0.2" else [])


async def test_our_own_listener_is_not_reached_even_where_its_network_is() -> None:
    async with proxy(allow=LOOPBACK, names={"us.test": ["127.0.0.3"]}) as p:
        for host in ("127.0.0.1", "us.test", "2130706433"):
            answer = await p.asked(connect(host, p.server.port))
            assert status(answer) == 403
            assert b"this edge itself" in answer
        assert status(await p.asked(absolute("127.0.0.1", p.server.port, "Connection: close"))) == 403


@pytest.mark.parametrize("port", [1, 22, 25, 53, 1023])
async def test_ports_that_belong_to_other_things_than_the_web_are_not_reached(port: int) -> None:
    async with proxy(allow=LOOPBACK, names={"public.test": ["93.184.215.14"]}) as p:
        for host in ("127.0.0.1", "public.test"):
            assert status(await p.asked(connect(host, port))) == 403
        assert p.names.asked == []


@pytest.mark.parametrize(
    ("allow", "address", "passes"),
    [
        ((), "93.184.215.14", True),
        ((), "2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ((), "10.0.0.1", False),
        (("10.0.0.0/8",), "10.0.0.1", True),
        (("10.0.0.0/8",), "::ffff:10.0.0.1", True),
        (("10.0.0.0/8",), "192.168.0.1", False),
        (("::ffff:0:0/96",), "::ffff:10.0.0.1", False),
        (("0.0.0.0/0", "::/0"), "127.0.0.1", True),
        (("0.0.0.0/0", "::/0"), "169.254.3.4", False),
        (("0.0.0.0/0", "::/0"), "fe80::1", False),
        (("169.254.0.0/16",), "169.254.3.4", True),
        (("169.254.0.0/16",), "169.254.169.254", False),
        (("169.254.169.254/32",), "169.254.169.254", True),
        (("fd00::/8",), "fd00:ec2::254", False),
        (("fd00::/8",), "fd00::1", True),
        (("168.0.0.0/8",), "168.63.129.16", False),
    ],
)
def test_an_allowed_network_opens_what_it_names_and_no_more(allow: tuple[str, ...], address: str, passes: bool) -> None:
    reach = Reach(tuple(ipaddress.ip_network(network) for network in allow))
    if passes:
        reach.check("x.test", ipaddress.ip_address(address))
        return
    with pytest.raises(OffLimits):
        reach.check("x.test", ipaddress.ip_address(address))


def test_no_wide_network_opens_where_clouds_keep_credentials() -> None:
    everything = Reach((ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")))
    for address in METADATA:
        with pytest.raises(OffLimits):
            everything.check("x.test", address)


# ---- what passes


async def test_bytes_pass_both_ways_early_ones_too_and_are_counted() -> None:
    async with listening() as far, proxy(allow=LOOPBACK, names={"far.test": ["127.0.0.1"]}) as p, p.server.client() as client:
        await client.send(connect("far.test", far.port) + "early")
        await settled(lambda: total(p.metrics.tunnels_open) == 1)
        while b"\r\n\r\nearly" not in client.buffer:
            client.buffer += await client.stream.receive_some(4096)
        client.buffer = b""
        sent = bytes(range(256)) * 2000
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, sent)
            assert await received(client, len(sent)) == sent
        await client.stream.send_eof()
        assert await client.rest() == b"", "it has ended in order"
        await settled(lambda: total(p.metrics.tunnels_open) == 0)
        text = p.metrics.text().decode()
        assert f'leeward_tunnel_bytes_total{{direction="out"}} {float(len(sent) + 5)!r}' in text
        assert 'leeward_tunnels_total{kind="tunnel"} 1.0' in text


async def test_either_side_may_finish_and_still_hear_the_other() -> None:
    async def until_end(stream: trio.SocketStream) -> None:
        heard = b""
        while data := await stream.receive_some(4096):
            heard += data
        await stream.send_all(b"heard " + heard)

    async def first(stream: trio.SocketStream) -> None:
        await stream.send_all(b"all I say")
        await stream.send_eof()
        heard = b""
        while data := await stream.receive_some(4096):
            heard += data
        said.append(heard)

    said: list[bytes] = []
    async with listening(until_end) as far, proxy(allow=LOOPBACK) as p, p.server.client() as client:
        await opened(client, "127.0.0.1", far.port)
        await client.send("request")
        await client.stream.send_eof()
        assert await client.rest() == b"heard request"
    async with listening(first) as far, proxy(allow=LOOPBACK) as p, p.server.client() as client:
        await opened(client, "127.0.0.1", far.port)
        assert await client.rest() == b"all I say"
        await client.send("and I")
        await client.stream.send_eof()
        await settled(lambda: said == [b"and I"])


async def test_who_reads_slowly_keeps_the_other_side_waiting() -> None:
    sent = 0

    async def pour(stream: trio.SocketStream) -> None:
        nonlocal sent
        while True:
            await stream.send_all(b"x" * 65536)
            sent += 65536

    async with listening(pour) as far, proxy(allow=LOOPBACK) as p, p.server.client() as client:
        await opened(client, "127.0.0.1", far.port)
        before = -1
        while sent != before:
            before = sent
            await trio.sleep(0.2)
        assert sent < 32 * 1024 * 1024, "what is under way is in the kernel's buffers alone"


async def test_tunnels_in_which_nothing_moves_hold_nothing_of_what_has() -> None:
    tunnels, size = 20, 64 * 1024
    async with listening() as there, proxy(allow=LOOPBACK) as p, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(p.server.client()) for _ in range(tunnels)]
        for client in clients:
            await opened(client, "127.0.0.1", there.port)
        tracemalloc.start()
        try:
            for client in clients:
                await client.send("x" * size)
                assert len(await received(client, size)) == size
            await trio.testing.wait_all_tasks_blocked(0.01)
            held = sum(
                trace.size
                for trace in tracemalloc.take_snapshot().traces
                if trace.size >= 8192 and trace.traceback[0].filename.endswith(("conversation.py", "splice.py"))
            )
        finally:
            tracemalloc.stop()
        assert held < 2 * size, f"{held // tunnels} bytes each"


async def test_a_side_that_breaks_breaks_the_other() -> None:
    async def cut(stream: trio.SocketStream) -> None:
        await stream.send_all(b"half of it")
        await stream.receive_some(1)
        stream.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    async with listening(cut) as far, proxy(allow=LOOPBACK) as p, p.server.client() as client:
        await opened(client, "127.0.0.1", far.port)
        assert await received(client, 10) == b"half of it"
        await client.send("x")
        with pytest.raises(trio.BrokenResourceError):
            await client.stream.receive_some(1)


async def test_an_ipv6_address_is_reached() -> None:
    async with listening(host="::1") as far, proxy(allow=LOOPBACK) as p, p.server.client() as client:
        await opened(client, "[::1]", far.port)
        await client.send("hello")
        assert await received(client, 5) == b"hello"


@pytest.mark.parametrize(
    "line",
    ["Content-Length: 4", "Transfer-Encoding: chunked"],
)
async def test_a_connect_has_no_body(line: str) -> None:
    async with listening() as far, proxy(allow=LOOPBACK) as p:
        answer = await p.asked(connect("127.0.0.1", far.port, line) + "body")
        assert status(answer) == 400
        assert answer.count(b"HTTP/1.1") == 1
        assert far.came == []


async def test_what_follows_a_refused_connect_is_not_read_as_requests() -> None:
    async with proxy() as p:
        answer = await p.asked(connect("127.0.0.1", 443) + "GET /-/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert status(answer) == 403
        assert answer.count(b"HTTP/1.1") == 1


# ---- who cannot be reached


async def test_nobody_there_is_told_at_once_and_when_to_come_again() -> None:
    async with proxy(allow=LOOPBACK) as p:
        answer = await p.asked(connect("127.0.0.1", free_port()))
        assert status(answer) == 503
        assert b"Retry-After: 5" in answer
        assert b"refuses connections" in answer
        answer = await p.asked(connect("nobody.test", 443))
        assert status(answer) == 502
        assert b"no host named nobody.test" in answer


async def test_a_silent_host_costs_no_longer_than_the_connect_timeout() -> None:
    port = free_port()
    with swallowing("127.0.0.1", port):
        async with proxy(allow=LOOPBACK, connect_s=0.3) as p:
            began = trio.current_time()
            answer = await p.asked(connect("127.0.0.1", port))
            assert status(answer) == 503
            assert b"does not answer" in answer
            assert trio.current_time() - began < 2


async def test_the_next_address_is_tried_where_the_first_refuses() -> None:
    async with (
        listening(host="127.0.0.2") as far,
        proxy(allow=LOOPBACK, names={"two.test": ["127.0.0.3", "127.0.0.2"]}) as p,
        p.server.client() as client,
    ):
        await opened(client, "two.test", far.port)
        assert far.came == ["127.0.0.2"]


# ---- who may


async def test_a_client_that_is_asked_who_it_is_comes_again_on_its_connection() -> None:
    proof = "Proxy-Authorization: Basic " + base64.b64encode(b"ann:secret").decode()
    async with listening() as far, proxy(allow=LOOPBACK, users={"ann": "secret"}) as p, p.server.client() as client:
        answer = await client.get(f"127.0.0.1:{far.port}", method="CONNECT")
        assert (answer.status, answer.headers["proxy-authenticate"]) == (407, 'Basic realm="leeward", charset="UTF-8"')
        answer = await client.get(f"http://127.0.0.1:{far.port}/")
        assert answer.status == 407
        assert (await client.get("/-/live")).status == 200
        assert far.came == []
        await opened(client, "127.0.0.1", far.port, proof)
        await client.send("hello")
        assert await received(client, 5) == b"hello"


# ---- plain requests


async def test_an_answer_passes_as_it_is_and_nothing_follows_it() -> None:
    async with answering() as site, proxy(allow=LOOPBACK, names={"site.test": ["127.0.0.1"]}) as p:
        site.answers["/a?b=c"] = Reply(203, b"the answer", {"X-Theirs": "1"}, cut=10)
        answer = await p.asked(
            f"POST http://site.test:{site.port}/a?b=c HTTP/1.1\r\nHost: site.test\r\nContent-Length: 4\r\nProxy-Connection: close\r\n\r\n"
            "body"
            f"GET http://site.test:{site.port}/secret HTTP/1.1\r\nHost: site.test\r\n\r\n"
        )
        assert answer == b"HTTP/1.1 203 Whatever\r\nX-Theirs: 1\r\nContent-Length: 10\r\nConnection: close\r\n\r\nthe answer"
        assert [(asked.method, asked.target, asked.body) for asked in site.asked] == [("POST", "/a?b=c", b"body")]
        fields = dict(site.asked[0].fields)
        assert fields == {
            "host": f"site.test:{site.port}",
            "content-length": "4",
            "via": "1.1 leeward",
            "cdn-loop": f"leeward; id={DEPLOYMENT}",
            "connection": "close",
        }
        await settled(lambda: 'leeward_tunnels_total{kind="forward"} 1.0' in p.metrics.text().decode())


async def test_what_is_no_answer_does_not_reach_the_client() -> None:
    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nX: 1\r\n")

    async with listening(talk) as site, proxy(allow=LOOPBACK) as p, p.server.client() as client:
        await client.send(absolute("127.0.0.1", site.port))
        with trio.fail_after(6), pytest.raises(trio.BrokenResourceError):
            await client.stream.receive_some(4096)


async def test_a_client_that_asks_again_is_not_left_waiting_by_a_server_that_does_not_close() -> None:
    async with answering() as site, proxy(allow=LOOPBACK) as p, p.server.client() as client:
        site.answers["/"] = Reply(200, b"one")
        assert (await client.get(f"http://127.0.0.1:{site.port}/")).body == b"one"
        await client.send(absolute("127.0.0.1", site.port))
        with trio.fail_after(6), pytest.raises(trio.BrokenResourceError):
            await client.stream.receive_some(1)
        assert len(site.asked) == 1, "nothing follows the one request"


async def test_an_answer_that_is_cut_off_does_not_look_whole() -> None:
    async def cut(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf")
        await cut_now.wait()
        stream.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    cut_now = trio.Event()
    async with listening(cut) as site, proxy(allow=LOOPBACK) as p, p.server.client() as client:
        await client.send(absolute("127.0.0.1", site.port))
        heard = b""
        while not heard.endswith(b"half"):
            heard += await client.stream.receive_some(4096)
        cut_now.set()
        with pytest.raises(trio.BrokenResourceError):
            await client.stream.receive_some(4096)


async def test_a_request_whose_body_is_too_large_is_not_passed_on_without_it() -> None:
    async with listening() as site, proxy(allow=LOOPBACK, limits=Limits(body_bytes=10)) as p:
        for framing, body in (
            ("Content-Length: 20", "x" * 20),
            ("Transfer-Encoding: chunked", "14\r\n" + "x" * 20 + "\r\n0\r\n\r\n"),
        ):
            message = f"POST http://127.0.0.1:{site.port}/ HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n{body}"
            assert status(await p.asked(message)) == 413
        await settled(lambda: total(p.metrics.tunnels_open) == 0)
        assert 'leeward_tunnel_bytes_total{direction="out"} 0.0' in p.metrics.text().decode()


# ---- how they end


async def test_a_tunnel_in_which_nothing_moves_is_ended() -> None:
    async with listening() as far, proxy(allow=LOOPBACK, limits=Limits(tunnel_idle_s=0.5)) as p, p.server.client() as client:
        await opened(client, "127.0.0.1", far.port)
        for _ in range(3):
            await trio.sleep(0.3)
            await client.send("x")
            assert await received(client, 1) == b"x"
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await client.stream.receive_some(1)
        await settled(lambda: total(p.metrics.tunnels_open) == 0)


async def test_a_server_that_drains_ends_quiet_tunnels_and_lets_busy_ones_go_on() -> None:
    async with listening() as far, proxy(allow=LOOPBACK, limits=Limits(drain_s=20)) as p, AsyncExitStack() as stack:
        quiet, busy = [await stack.enter_async_context(p.server.client()) for _ in range(2)]
        for client in (quiet, busy):
            await opened(client, "127.0.0.1", far.port)
        done = trio.Event()

        async def drain() -> None:
            await p.server.server.drain()
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)

            async def keep_busy() -> None:
                while not stop.is_set():
                    await busy.send("x")
                    assert await received(busy, 1) == b"x"
                    await trio.sleep(0.1)

            stop = trio.Event()
            nursery.start_soon(keep_busy)
            with trio.fail_after(5):
                assert await quiet.rest() == b""
            assert not done.is_set()
            await busy.send("y")
            stop.set()
            with trio.fail_after(5):
                await done.wait()
        assert total(p.metrics.tunnels_open) == 0


# ---- through another proxy


@asynccontextmanager
async def other_proxy(
    answer: bytes = b"HTTP/1.1 200 fine\r\nX: y\r\n\r\n", context: ssl.SSLContext | None = None
) -> AsyncIterator[Any]:
    """A proxy that answers every ``CONNECT`` alike and then echoes."""
    heads: list[bytes] = []

    async def talk(stream: trio.SocketStream) -> None:
        transport: trio.abc.Stream = stream
        if context is not None:
            transport = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        head = b""
        while b"\r\n\r\n" not in head:
            head += await transport.receive_some(4096)
        heads.append(head)
        await transport.send_all(answer)
        while data := await transport.receive_some(4096):
            await transport.send_all(data)

    async with listening(talk) as listener:
        yield listener, heads


async def test_tunnels_go_through_the_next_proxy_which_resolves_names() -> None:
    async with other_proxy(b"HTTP/1.1 200 fine\r\nX: y\r\n\r\ngreeting") as (listener, heads):
        url = f"http://ann:s%20ecret@127.0.0.1:{listener.port}"
        async with proxy(next_proxy=NextProxy.at(url, None)) as p, p.server.client() as client:
            await opened(client, "far.test", 443, "CDN-Loop: other")
            assert await received(client, 8) == b"greeting"
            await client.send("hello")
            assert await received(client, 5) == b"hello"
            proof = base64.b64encode(b"ann:s ecret").decode()
            assert heads[0].decode().split("\r\n")[:-2] == [
                "CONNECT far.test:443 HTTP/1.1",
                "Host: far.test:443",
                "Via: 1.1 leeward",
                f"CDN-Loop: other, leeward; id={DEPLOYMENT}",
                f"Proxy-Authorization: Basic {proof}",
            ]
            assert p.names.asked == [], "its own address is no name"
            for host in ("127.1", "localhost", "[::ffff:169.254.169.254]"):
                assert status(await p.asked(connect(host, 443))) == 403
            assert status(await p.asked(connect("far.test", 22))) == 403
            assert len(heads) == 1
            # A literal goes on in the one spelling that was checked.
            async with p.server.client() as other:
                await opened(other, str(int(ipaddress.ip_address("93.184.215.14"))), 443)
            assert heads[1].startswith(b"CONNECT 93.184.215.14:443 HTTP/1.1\r\n")


async def test_plain_requests_are_asked_of_the_next_proxy_by_absolute_urls() -> None:
    async with other_proxy(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as (listener, heads):
        url = f"http://ann:b@127.0.0.1:{listener.port}"
        async with proxy(next_proxy=NextProxy.at(url, None)) as p, p.server.client() as client:
            answer = await client.get("http://site.test:81/a?b")
            assert answer.status == 403, "port 81 is none of the web's"
            assert (await client.get("http://site.test/a?b", "Proxy-Authorization: Basic bWU6bWU=")).status == 200
        head = heads[0].decode()
        assert head.startswith("GET http://site.test/a?b HTTP/1.1\r\nHost: site.test\r\n")
        assert f"Proxy-Authorization: Basic {base64.b64encode(b'ann:b').decode()}\r\n" in head
        assert "bWU6bWU=" not in head


@pytest.mark.parametrize(
    ("answer", "expected", "sentence"),
    [
        (b"HTTP/1.1 407 who\r\nContent-Length: 0\r\n\r\n", 502, b"answered 407"),
        (b"HTTP/1.1 403 no\r\n\r\n", 502, b"answered 403"),
        (b"HTTP/1.1 503 later\r\n\r\n", 503, b"answered 503"),
        (b"SSH-2.0-x\r\n\r\n", 502, b"makes no sense"),
        (b"HTTP/1.1 200 fine\r\n" + b"X: y\r\n" * 4000, 502, b"makes no sense"),
    ],
)
async def test_a_next_proxy_that_does_not_lead_on_is_told_of(answer: bytes, expected: int, sentence: bytes) -> None:
    async with (
        other_proxy(answer) as (listener, _),
        proxy(next_proxy=NextProxy.at(f"http://127.0.0.1:{listener.port}", None)) as p,
    ):
        told = await p.asked(connect("far.test", 443))
        assert status(told) == expected
        assert sentence in told


async def test_a_next_proxy_may_be_spoken_to_over_tls() -> None:
    authority = trustme.CA()
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with other_proxy(context=serving) as (listener, heads):
        next_proxy = NextProxy("localhost", listener.port, context=trusting)
        async with proxy(next_proxy=next_proxy, names={"localhost": ["127.0.0.1"]}) as p, p.server.client() as client:
            await opened(client, "far.test", 443)
            await client.send("hello")
            assert await received(client, 5) == b"hello"
            assert heads[0].startswith(b"CONNECT far.test:443")
        strange = NextProxy("localhost", listener.port, context=ssl.create_default_context())
        async with proxy(next_proxy=strange, names={"localhost": ["127.0.0.1"]}) as p:
            answer = await p.asked(connect("far.test", 443))
            assert status(answer) == 503
            assert b"no secure connection" in answer
