"""Listeners opened, limited, drained: what happens before and after conversations."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
import trio.testing

from origin.http import Response, listen
from origin.http.hot import HotPages
from origin.http.listen import CannotListen, Limits, open_tcp, raise_descriptor_limit
from origin.model import Arriving
from tests.origin.http.loopback import answering, get, plain, running, settled
from tests.origin.http.test_conversation import Spool, spool

__all__ = ["spool"]  # a fixture


@contextlib.contextmanager
def no_descriptors_left() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        in_use = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 1, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with contextlib.suppress(OSError):
            while True:
                stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        yield


async def test_without_descriptors_accepting_pauses_and_comes_back(
    mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(plain) as server:
        with trio.socket.socket() as sock:
            with no_descriptors_left():
                await sock.connect(("127.0.0.1", server.port))
                await sock.send(get("/a").encode())
                await trio.testing.wait_all_tasks_blocked(0.1)
                assert caplog.text.count("cannot accept connections") == 1
            mock_clock.jump(2)
            assert (await sock.recv(1000)).startswith(b"HTTP/1.1 200")


async def test_connections_leave_descriptors_for_files_and_upstream(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mock_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(listen, "raise_descriptor_limit", lambda: 4)
    async with running(plain) as server, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(server.client()) for _ in range(3)]
        for client in clients:
            await client.send(get("/a"))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert server.server.statistics()["connections"] == 2
        assert "at most 2 connections" in caplog.text


def test_the_limit_of_descriptors_is_raised_to_the_most_allowed() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        assert raise_descriptor_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 512
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_draining_closes_the_idle_and_lets_the_busy_finish(spool: Spool) -> None:
    async with running(answering(lambda r: Response(200, [], Arriving(spool, 0, 100)))) as server:
        async with server.client() as idle, server.client() as busy, server.client() as late:
            await busy.send(get("/a"))
            await late.send("GET /late HTTP/1.1\r\n")
            await idle.send("")
            await settled(lambda: server.server.statistics()["connections"] == 3 and server.seen)
            assert server.nursery is not None
            server.nursery.start_soon(server.server.drain)
            assert await idle.rest() == b""
            with pytest.raises(OSError, match="connect"):
                await trio.open_tcp_stream("127.0.0.1", server.port)
            spool.write(b"x" * 100)
            assert (await busy.answer()).body == b"x" * 100
            assert await busy.rest() == b""
            await late.send("Host: localhost\r\n\r\n")
            assert (await late.answer()).headers["connection"] == "close"
        await settled(lambda: not server.server.statistics()["connections"])


async def test_draining_cuts_what_outlasts_it(spool: Spool, mock_clock: trio.testing.MockClock) -> None:
    async with (
        running(answering(lambda r: Response(200, [], Arriving(spool, 0, 100))), limits=Limits(drain_s=60)) as server,
        server.client() as client,
    ):
        spool.write(b"x")
        await client.send(get("/a"))
        await settled(lambda: server.seen)
        assert server.nursery is not None
        server.nursery.start_soon(server.server.drain)
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(59)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not spool.closed
        mock_clock.jump(2)
        assert (await client.rest()).endswith(b"\r\n\r\nx")
        await settled(lambda: spool.closed)


def test_an_address_this_machine_lacks_does_not_keep_a_name_s_others_from_being_listened_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def means(*addresses: str) -> None:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)

    means("192.0.2.1", "127.0.0.1")
    listeners = open_tcp("localhost", 0)
    assert [listener.getsockname()[0] for listener in listeners] == ["127.0.0.1"]
    listeners[0].close()
    means("192.0.2.1")
    with pytest.raises(CannotListen, match=r"Cannot listen on localhost:0: Cannot assign requested address\.$"):
        open_tcp("localhost", 0)


@pytest.mark.parametrize("name", ["(none)", "build-host-", "a b"])
async def test_a_machine_s_odd_name_does_not_keep_it_from_serving(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    server = listen.Server(plain, HotPages(1 << 20))
    async with trio.open_nursery() as nursery:
        listeners = open_tcp("0.0.0.0", 0)  # noqa: S104 - the case in question
        port = listeners[0].getsockname()[1]
        await nursery.start(server.serve, listeners)
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(get("/a", host=f"127.0.0.1:{port}").encode())
            assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 200")
        nursery.cancel_scope.cancel()


async def test_a_taken_port_is_told_in_a_sentence() -> None:
    [listener] = open_tcp("127.0.0.1", 0)
    port = listener.getsockname()[1]
    with listener, pytest.raises(CannotListen) as caught:
        open_tcp("127.0.0.1", port)
    assert str(caught.value).endswith(
        f"Cannot listen on 127.0.0.1:{port}: another program is listening there already; name another address with --listen."
    )


async def test_the_client_is_seen_through_trusted_proxies_only() -> None:
    forwarded = "X-Forwarded-For: 6.6.6.6, 192.0.2.7, 10.0.0.9"
    for proxies, client_address in (((), "127.0.0.1"), (("127.0.0.1/32", "10.0.0.0/8"), "192.0.2.7")):
        async with running(plain, trusted_proxies=proxies) as server, server.client() as client:
            await client.get("/a", forwarded)
            assert server.seen[0].client == client_address
