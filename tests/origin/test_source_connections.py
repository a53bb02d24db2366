"""Connections to registries: which addresses are refused, whom we trust, the way through a proxy."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import httpcore
import httpx
import pytest
import trio
import trio.testing
import trustme

from origin.errors import Corrupt, Unavailable
from origin.metrics import Metrics
from origin.model import Entry
from origin.sources import Received
from origin.sources.addresses import literal, network_of, race
from origin.sources.connect import CheckedBackend, trust
from origin.sources.failures import translate
from origin.sources.registry import _own_places
from origin.sources.tunnels import Dialler, Reach
from tests.answering import Reply, answering
from tests.contracts.sources import collect
from tests.registry_bench import PAGE, PATIENT, WHEEL, Bench, Names, bench, document, source_of


@pytest.fixture
async def at() -> AsyncIterator[Bench]:
    async with bench() as made:
        yield made


# ---- addresses


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("93.184.215.14", "public"),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", "public"),
        ("10.1.2.3", "private"),
        ("172.16.0.1", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "private"),
        ("fd12::1", "private"),
        ("224.0.0.1", "private"),
        ("255.255.255.255", "private"),
        ("127.0.0.1", "loopback"),
        ("127.8.8.8", "loopback"),
        ("0.0.0.0", "loopback"),  # noqa: S104 -- nothing is bound
        ("::1", "loopback"),
        ("::", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:10.0.0.1", "private"),
        ("64:ff9b::7f00:1", "loopback"),
        ("2002:7f00:1::", "loopback"),
        ("169.254.169.254", "metadata"),
        ("::ffff:169.254.169.254", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("168.63.129.16", "metadata"),
        ("fe80::1", "metadata"),
        ("fec0::1", "private"),
        ("::7f00:1", "private"),
        ("::ffff:0:7f00:1", "private"),
    ],
)
def test_addresses_are_told_apart(text: str, network: str) -> None:
    assert network_of(ip_address(text)) == network


async def test_a_listing_cannot_send_us_into_our_own_network() -> None:
    """The upstream is public; its listing names hosts that are not."""
    names = Names(
        {
            "pypi.test": ["93.184.215.14"],
            "files.test": ["93.184.215.14", "127.0.0.1"],
            "inside.test": ["10.0.0.1"],
            "cloud.test": ["169.254.169.254"],
        }
    )
    trio.socket.set_custom_hostname_resolver(names)
    metrics = Metrics()
    source = source_of("http://pypi.test/simple/", metrics)
    for host in ("files.test", "inside.test", "cloud.test", "127.0.0.1", "169.254.169.254", "[::1]", "2130706433"):
        with pytest.raises((Corrupt, Unavailable)) as caught:
            async with source.file(WHEEL, Entry(WHEEL, f"http://{host}:1/x.whl")):
                pytest.fail("it was let in")
        assert "may not send us" in str(caught.value) or host == "2130706433"
    await source.aclose()


async def test_an_upstream_on_loopback_may_keep_its_files_there_but_not_with_the_cloud() -> None:
    async with bench() as at, answering() as files:
        trio.socket.set_custom_hostname_resolver(
            Names({"files.test": ["127.0.0.1"], "cloud.test": ["169.254.169.254"], "inside.test": ["10.0.0.1"]})
        )
        files.answers["/x.whl"] = Reply(200, b"wheel")
        async with at.source.file(WHEEL, Entry(WHEEL, f"http://files.test:{files.port}/x.whl")) as stream:
            assert await collect(stream) == b"wheel"
        assert files.asked[0].fields["host"] == f"files.test:{files.port}"
        for host in ("cloud.test", "inside.test"):
            with pytest.raises(Corrupt):
                async with at.source.file(WHEEL, Entry(WHEEL, f"http://{host}/x.whl")):
                    pytest.fail("it was let in")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("0xA9FEA9FE", "169.254.169.254"),
        ("169.254.169.254.", "169.254.169.254"),
        ("[::ffff:169.254.169.254]", "::ffff:169.254.169.254"),
        ("fe80::1%25eth0", "fe80::1"),
        ("localhost", "127.0.0.1"),
        ("Any.LocalHost.", "127.0.0.1"),
        ("files.test", None),
        ("1.2.3.4.test", None),
        ("", None),
    ],
)
def test_an_address_is_known_however_it_is_spelt(host: str, address: str | None) -> None:
    assert literal(host) == (None if address is None else ip_address(address))


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "127.0.0.1", "10.0.0.1", "[::1]", "[::ffff:10.0.0.1]", "2852039166", "0xa9.254.169.254", "localhost"],
)
async def test_a_proxy_is_not_asked_for_addresses_of_our_own_network(host: str) -> None:
    async with answering() as proxy:
        metrics = Metrics()
        source = source_of("http://10.9.9.9/simple/", metrics, proxy=proxy.url)
        with pytest.raises(Corrupt, match="may not send us"):
            async with source.file(WHEEL, Entry(WHEEL, f"http://{host}/x.whl")):
                pytest.fail("it was let in")
        assert proxy.asked == []
        proxy.answers["http://10.9.9.9/x.whl"] = Reply(200, b"wheel")
        proxy.answers["http://93.184.215.14/x.whl"] = Reply(200, b"wheel")
        for fine in ("10.9.9.9", "93.184.215.14"):
            async with source.file(WHEEL, Entry(WHEEL, f"http://{fine}/x.whl")) as stream:
                assert await collect(stream) == b"wheel"
        await source.aclose()


async def test_a_redirect_behind_a_proxy_leads_to_no_address_of_our_own_network() -> None:
    async with answering() as proxy:
        source = source_of("http://pypi.test/simple/", Metrics(), proxy=proxy.url)
        listed = "http://169.254.169.254/x.whl"
        proxy.answers["http://pypi.test/simple/six/"] = Reply(302, fields={"Location": listed})
        with pytest.raises(Corrupt):
            await source.page(PAGE, None)
        assert len(proxy.asked) == 1
        await source.aclose()


def reaches(home: str, *aliases: str) -> frozenset[tuple[str, int]]:
    return _own_places(httpx.URL(home), aliases)


def test_the_operator_named_hosts_and_ports() -> None:
    assert reaches("http://pypi.test:3141/simple/") == {("pypi.test", 3141)}
    assert reaches("https://pypi.test/simple/", "Other.test", "third.test:81") == {
        ("pypi.test", 443),
        ("other.test", 443),
        ("other.test", 80),
        ("third.test", 81),
    }


@pytest.mark.parametrize(
    ("home", "host", "port", "passes"),
    [
        ("10.0.0.1", "files.test", 443, True),  # a company's file host
        ("10.0.0.1", "files.test", 8081, True),
        ("10.0.0.1", "files.test", 22, False),
        ("10.0.0.1", "local.test", 8081, False),
        ("10.0.0.1", "cloud.test", 80, False),
        ("10.0.0.1", "public.test", 8081, True),
        ("93.184.215.14", "alias.test", 3141, True),
        ("93.184.215.14", "alias.test", 6379, False),
        ("93.184.215.14", "files.test", 443, False),
        ("127.0.0.1", "local.test", 8081, True),
        ("127.0.0.1", "local.test", 25, False),
        ("127.0.0.1", "files.test", 443, False),
        ("169.254.7.7", "cloud.test", 80, False),
        ("169.254.7.7", "home.test", 3141, True),
    ],
)
async def test_what_a_listing_may_reach_depends_on_where_its_upstream_is(home: str, host: str, port: int, passes: bool) -> None:
    names = {"home.test": home, "files.test": "10.0.0.2", "local.test": "127.0.0.1", "cloud.test": "169.254.169.254"}
    names |= {"public.test": "93.184.215.14", "alias.test": "10.0.0.9"}
    trio.socket.set_custom_hostname_resolver(Names({name: [address] for name, address in names.items()}))
    backend = CheckedBackend("home.test", reaches("http://home.test:3141/", "alias.test"))
    reached: list[list[str]] = []

    async def race(addresses: list[str], *_: object) -> httpcore.AsyncNetworkStream:
        reached.append(addresses)
        raise httpcore.ConnectError

    backend._race = race  # type: ignore[assignment, method-assign]
    with pytest.raises(httpcore.ConnectError):
        await backend.connect_tcp(host, port)
    assert reached == ([[names[host]]] if passes else [])


async def test_a_host_is_looked_up_once_per_connection() -> None:
    async with answering() as upstream:
        names = Names({"pypi.test": ["127.0.0.1"]})
        trio.socket.set_custom_hostname_resolver(names)
        upstream.answers["/simple/six/"] = document()
        source = source_of(f"http://pypi.test:{upstream.port}/simple/", Metrics())
        await source.page(PAGE, None)
        assert names.asked == ["pypi.test"]
        await source.aclose()


async def test_another_address_of_the_host_is_tried() -> None:
    async with answering() as upstream:
        trio.socket.set_custom_hostname_resolver(Names({"pypi.test": ["127.0.0.2", "127.0.0.1"]}))
        upstream.answers["/simple/six/"] = document(b"here")
        source = source_of(f"http://pypi.test:{upstream.port}/simple/", Metrics())
        answer = await source.page(PAGE, None)
        assert isinstance(answer, Received)
        await source.aclose()


async def test_a_connection_that_nobody_waits_for_any_more_is_closed() -> None:
    """The one who asked leaves in the very moment in which it is made."""
    closed: list[str] = []
    with trio.CancelScope() as leaving:

        async def connect(address: str) -> str:
            await trio.lowlevel.checkpoint()
            leaving.cancel()
            return address

        async def discard(made: str) -> None:
            closed.append(made)

        await race(["192.0.2.1", "192.0.2.2"], connect, discard, (OSError,))
    assert leaving.cancelled_caught
    assert closed == ["192.0.2.1"]


async def test_names_that_are_never_resolved_leave_threads_for_everybody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's resolver cannot be told to stop: each look-up keeps its thread, though whoever asked gave up long ago."""
    over = threading.Event()

    def look_up(host: bytes | str, port: int, family: int = 0, kind: int = 0, proto: int = 0, flags: int = 0) -> object:
        if not flags & socket.AI_NUMERICHOST:
            over.wait(30)
        raise socket.gaierror(socket.EAI_NONAME, "no answer")

    trio.socket.set_custom_hostname_resolver(None)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    dialler = Dialler(Reach(), connect_s=0.2)
    told: list[str] = []

    async def ask(number: int) -> None:
        with pytest.raises(Unavailable) as caught:
            await dialler.tunnel(f"{number}.test", 443)
        told.append(str(caught.value))

    try:
        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(ask, number)
        assert sorted(told) == sorted(f"the name {number}.test was not resolved in time" for number in range(60))
        with trio.fail_after(5):
            await trio.to_thread.run_sync(int)
    finally:
        over.set()


async def test_a_name_that_does_not_exist_is_unavailable() -> None:
    trio.socket.set_custom_hostname_resolver(Names({}))
    metrics = Metrics()
    source = source_of("http://pypi.test/simple/", metrics)
    with pytest.raises(Unavailable, match="cannot be resolved"):
        await source.page(PAGE, None)
    assert [s.labels["failure"] for f in metrics.upstream_failures.collect() for s in f.samples if s.name.endswith("_total")] == [
        "dns"
    ]
    await source.aclose()


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "/x.whl", "http://", "http://\x00/", "file:///etc/passwd"])
async def test_a_listing_that_names_no_url_is_corrupt(url: str, at: Bench) -> None:
    with pytest.raises(Corrupt):
        async with at.source.file(WHEEL, Entry(WHEEL, url)):
            pytest.fail("it was opened")
    assert at.sent("file") == 0


# ---- trust and egress


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


async def test_a_company_authority_is_trusted_when_configured(authority: trustme.CA, tmp_path: Path) -> None:
    ca = tmp_path / "corp.pem"
    authority.cert_pem.write_to_path(str(ca))
    async with bench(context=server_context(authority, "localhost"), ca=ca) as at:
        at.page_answers(document(b"secure"))
        assert (await at.fetch()).body == b"secure"


@pytest.mark.parametrize(("name", "is_trusted"), [("localhost", False), ("elsewhere.test", True)])
async def test_a_certificate_that_does_not_fit_is_an_outage(
    name: str, is_trusted: bool, authority: trustme.CA, tmp_path: Path
) -> None:
    ca = tmp_path / "corp.pem"
    authority.cert_pem.write_to_path(str(ca))
    async with bench(context=server_context(authority, name), ca=ca if is_trusted else None) as at:
        with pytest.raises(Unavailable, match="certificate"):
            await at.fetch()
        assert at.failures() == {"tls": 1}
        assert at.upstream.asked == []


def test_why_there_is_no_connection_is_told_in_few_words() -> None:
    refused = OSError(errno.ECONNREFUSED, "Error connecting to ('127.0.0.1', 9): Connection refused")
    plain = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1)")
    plain.reason = "WRONG_VERSION_NUMBER"
    for cause, told in [
        (refused, "no connection to a.test: Connection refused"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "no connection to a.test: Network is unreachable"),
        (plain, "no secure connection to a.test: no TLS is spoken there"),
    ]:
        assert translate(httpcore.ConnectError(cause), "a.test", answered=False).message == told


@pytest.mark.parametrize("content", [b"not a certificate", b"", None])
def test_a_bad_authority_file_is_named(content: bytes | None, tmp_path: Path) -> None:
    ca = tmp_path / "corp.pem"
    if content is not None:
        ca.write_bytes(content)
    with pytest.raises(ValueError, match=r"corp\.pem"):
        trust(ca)


def test_an_upstream_or_proxy_that_cannot_be_asked_is_named() -> None:
    with pytest.raises(ValueError, match="upstream"):
        source_of("ftp://pypi.test/", Metrics())
    with pytest.raises(ValueError, match="proxy"):
        source_of("http://pypi.test/", Metrics(), proxy="socks5://proxy.test:1080")


async def test_plain_requests_go_through_a_proxy_that_does_the_resolving() -> None:
    async with answering() as proxy:
        proxy.answers["http://pypi.test/simple/six/"] = document(b"through")
        source = source_of("http://pypi.test/simple/", Metrics(), proxy=proxy.url.replace("//", "//me:secret@"))
        answer = await source.page(PAGE, None)
        assert isinstance(answer, Received)
        assert answer.body == b"through"
        assert proxy.asked[0].fields["proxy-authorization"] == "Basic bWU6c2VjcmV0"
        await source.aclose()


async def test_secure_requests_go_through_a_tunnel(authority: trustme.CA, tmp_path: Path) -> None:
    ca = tmp_path / "corp.pem"
    authority.cert_pem.write_to_path(str(ca))
    asked: list[bytes] = []
    async with answering(context=server_context(authority, "pypi.test")) as upstream, trio.open_nursery() as nursery:

        async def tunnel(client: trio.SocketStream) -> None:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await client.receive_some(1000)
            asked.append(head)
            async with await trio.open_tcp_stream("127.0.0.1", upstream.port) as server:
                await client.send_all(b"HTTP/1.1 200 Connected\r\n\r\n")
                async with trio.open_nursery() as both:

                    async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
                        async for data in source:
                            await sink.send_all(data)
                        both.cancel_scope.cancel()

                    both.start_soon(pump, client, server)
                    both.start_soon(pump, server, client)

        listeners: list[trio.SocketListener] = await nursery.start(trio.serve_tcp, tunnel, 0)
        port = listeners[0].socket.getsockname()[1]
        upstream.answers["/simple/six/"] = document(b"through")
        source = source_of("https://pypi.test/simple/", Metrics(), PATIENT, proxy=f"http://me:secret@localhost:{port}", ca=ca)
        answer = await source.page(PAGE, None)
        assert isinstance(answer, Received)
        assert answer.body == b"through"
        assert asked[0].startswith(b"CONNECT pypi.test:443 ")
        assert b"Proxy-Authorization: Basic bWU6c2VjcmV0" in asked[0]
        assert "proxy-authorization" not in upstream.asked[0].fields
        await source.aclose()
        nursery.cancel_scope.cancel()


async def test_a_handshake_that_is_given_up_leaves_no_socket_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        backend = CheckedBackend("127.0.0.1", None)
        stream = await backend.connect_tcp("127.0.0.1", listener.getsockname()[1])
        accepted, _ = listener.accept()
        with accepted:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.start_tls, trust(None), "pypi.test")
                    await trio.testing.wait_all_tasks_blocked(0.05)
                    scope.cancel()
            assert scope.cancelled_caught
            assert stream.get_extra_info("socket").fileno() == -1
