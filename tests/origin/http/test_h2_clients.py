"""Other people's HTTP/2 clients over TLS, against the whole server: 20,000 requests without one that failed, bodies to the byte."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame, SettingsFrame

from origin.http import Request, Response
from origin.http.hot import HotPages
from origin.metrics import Tally
from origin.model import Span, Validity
from tests.origin.http.loopback import Running, running, settled
from tests.origin.http.loopback_h2 import NOW, PREFACE, Raw
from tests.origin.http.tls_client import Shown

FILE_BYTES = 20_000_000
PAGE = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    return Shown(tmp_path_factory.mktemp("tls"), "localhost")


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "file"
    path.write_bytes(os.urandom(FILE_BYTES))
    return path


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_of(path: Path) -> str:
    return digest(path.read_bytes())


@asynccontextmanager
async def site(shown: Shown, big: Path) -> AsyncIterator[tuple[Running, str, Tally]]:
    hot, tally, validity = HotPages(1 << 20), Tally(), Validity(NOW + 1000)

    async def handler(request: Request) -> Response:
        headers = [("Content-Type", "text/html"), ("ETag", '"sha256-x"'), ("Vary", "Accept"), ("Cache-Control", "no-cache")]
        match request.target:
            case "/file":
                return Response(200, [*headers, ("Accept-Ranges", "bytes")], Span(os.open(big, os.O_RDONLY), 0, FILE_BYTES))
            case "/missing":
                return Response(404, headers, b"missing")
            case _:
                response = Response(200, headers, PAGE)
                if request.target == "/page":
                    hot.keep(request, response, validity, tally)
                return response

    async with running(handler, hot=hot, contexts=shown, public_urls=()) as server:
        yield server, f"https://localhost:{server.port}", tally


async def output_of(*command: str) -> bytes:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    with trio.fail_after(120):
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


def told(report: bytes) -> dict[str, int]:
    """h2load's counts."""
    line = re.search(rb"requests: (.*)", report)
    assert line is not None, report
    return {name: int(count) for count, name in re.findall(r"([0-9]+) (\w+)", line[1].decode())}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["/page", "/other"], ids=["kept", "handler"])
async def test_20000_requests_and_none_fails(shown: Shown, big: Path, target: str) -> None:
    async with site(shown, big) as (server, url, tally):
        counts = told(await output_of("h2load", "-n", "20000", "-c", "32", "-m", "16", url + target))
        assert (counts["succeeded"], counts["failed"], counts["errored"], counts["timeout"]) == (20_000, 0, 0, 0)
        if target == "/page":
            assert tally.count + len(server.seen) == 20_000
        await settled(lambda: server.server.statistics()["connections"] == 0)


@pytest.mark.slow
async def test_many_files_at_once_and_none_fails(shown: Shown, big: Path) -> None:
    async with site(shown, big) as (_, url, _):
        report = await output_of("h2load", "-n", "60", "-c", "4", "-m", "10", url + "/file")
        assert told(report)["succeeded"] == 60
        match = re.search(rb"\(([0-9]+)\) data", report)
        assert match is not None
        assert int(match[1]) == 60 * FILE_BYTES


async def test_curl_gets_page_file_range_and_304(shown: Shown, big: Path, tmp_path: Path) -> None:
    async with site(shown, big) as (server, url, _):
        curl = ("curl", "--http2", "-sS", "--noproxy", "*", "--cacert", str(shown.authority.path))
        asked: list[str] = []
        for name, target in (("a", "/page"), ("b", "/file"), ("c", "/page"), ("d", "/missing")):
            asked += ["-o", str(tmp_path / name), url + target]
        said = await output_of(*curl, "-w", "%{http_version} %{http_code} %{num_connects}\n", *asked)
        assert said.decode().splitlines() == ["2 200 1", "2 200 0", "2 200 0", "2 404 0"]
        assert digest_of(tmp_path / "a") == digest_of(tmp_path / "c") == digest(PAGE)
        assert digest_of(tmp_path / "b") == digest_of(big)
        part = await output_of(*curl, "-r", "1000000-1099999", url + "/file")
        assert digest(part) == digest(content(big)[1_000_000:1_100_000])
        head = await output_of(*curl, "-I", url + "/file")
        assert b"HTTP/2 200" in head
        assert f"content-length: {FILE_BYTES}".encode() in head
        code = await output_of(*curl, "-o", "/dev/null", "-w", "%{http_code}", "-H", 'If-None-Match: "sha256-x"', url + "/page")
        assert code == b"304"
        posted = await output_of(*curl, "--data-binary", f"@{tmp_path / 'a'}", url + "/echo")
        assert posted == PAGE
        assert server.seen[-1].body == PAGE
        assert {request.base for request in server.seen} == {url}


async def test_nghttp_gets_pages_and_files_together(shown: Shown, big: Path) -> None:
    async with site(shown, big) as (_, url, _):
        targets = [url + target for target in ("/page", "/file", "/other", "/missing")]
        assert len(await output_of("nghttp", "--no-verify-peer", *targets)) == 2 * len(PAGE) + FILE_BYTES + len(b"missing")


async def test_a_drain_ends_connections_in_order_over_tls(shown: Shown, big: Path) -> None:
    async with site(shown, big) as (server, _, _):
        transport = await trio.open_tcp_stream("127.0.0.1", server.port)
        stream = trio.SSLStream(transport, shown.client("h2"), server_hostname="localhost", https_compatible=True)
        raw = Raw(stream)
        await raw.send(PREFACE + SettingsFrame(0).serialize())
        head = [(":method", "GET"), (":scheme", "https"), (":authority", f"localhost:{server.port}"), (":path", "/other")]
        await raw.send(raw.headers(1, head))
        assert isinstance(await raw.until(HeadersFrame), HeadersFrame)
        assert server.nursery is not None
        server.nursery.start_soon(server.server.drain)
        await raw.answer_ping()
        last = await raw.goaway()
        assert (last.last_stream_id, last.error_code) == (1, 0)
        assert sum(len(frame.data) for frame in raw.frames if isinstance(frame, DataFrame)) == len(PAGE)
        assert len([frame for frame in raw.frames if isinstance(frame, GoAwayFrame)]) == 2
        await transport.aclose()
        await settled(lambda: not server.server.statistics()["connections"])


def content(path: Path) -> bytes:
    return path.read_bytes()
