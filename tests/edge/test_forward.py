"""The proxy face: whose request it is, what it may reach, and what becomes of it, before any socket is involved."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from edge.forward import Forward, Proxy, Users
from edge.hosts import Hosts
from edge.mirror import Instance, Mirror
from edge.render import Renderings
from origin.errors import Unavailable
from origin.http import Intercept, Request, Response, Splice
from origin.http.hot import HotPages
from origin.model import Listing
from origin.registries import kinds
from origin.sources.tunnels import Astray, Dialled, Dialler, OffLimits, Reach
from tests.origin.test_files import landed, read_body
from tests.scripted import Bench, Upload, bench
from tests.wheels import KB, Shelf

JSON = "application/vnd.pypi.simple.v1+json"
EDGE = "http://edge.test:8080"
DEPLOYMENT = "0123456789abcdef"


@pytest.fixture
def clock() -> MockClock:
    # Worker threads count as blocked tasks: the threshold keeps the clock from jumping while one works.
    return MockClock(autojump_threshold=0.5)


@pytest.fixture(scope="module")
def upload(tmp_path_factory: pytest.TempPathFactory) -> Upload:
    made = Shelf(tmp_path_factory.mktemp("shelf")).wheel("six", "1.0", size=100 * KB)
    return Upload(made.filename, made.content)


class Table(Hosts):
    """The real table, whose learning the test does."""

    def __init__(self, b: Bench, *aliases: str) -> None:
        super().__init__({"pypi": b.registry}, {"pypi": aliases})
        self.learnt = trio.Event()
        self.learnt.set()
        self.doubted: list[str] = []
        self.seen: list[str] = []

    async def wait_learnt(self) -> None:
        await self.learnt.wait()

    def doubt(self, host: str) -> str:
        self.doubted.append(host)
        return ""

    def saw(self, instance: str, listing: Listing) -> None:
        self.seen.append(f"{instance} {listing.page.project}")


class Certificates:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.trouble: Exception | None = None
        self.made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    async def context(self, host: str) -> ssl.SSLContext:
        self.asked.append(host)
        if self.trouble is not None:
            raise self.trouble
        return self.made


class Dialling(Dialler):
    """Notes who is asked for, and answers with what the test wants."""

    def __init__(self) -> None:
        super().__init__(Reach((ipaddress.ip_network("127.0.0.0/8"),)))
        self.asked: list[tuple[str, int]] = []
        self.trouble: Exception | None = None
        self.near: list[trio.SocketStream] = []
        self.fields: object = ()

    async def approach(self, host: str, port: int) -> Dialled:
        self.asked.append((host, port))
        if self.trouble is not None:
            raise self.trouble
        far, near = trio.socket.socketpair()
        self.near.append(trio.SocketStream(near))
        return Dialled(trio.SocketStream(far), host)

    async def tunnel(self, host: str, port: int, fields: Any = ()) -> Dialled:
        self.fields = fields
        return await self.approach(host, port)


class Front:
    """Both faces on a bench, asked as the server would ask them."""

    def __init__(self, b: Bench, *aliases: str, users: dict[str, str] | None = None, **settings: bool) -> None:
        self.bench = b
        self.hot = HotPages(1 << 20)
        self.hosts = Table(b, *aliases)
        self.certificates = Certificates()
        self.dialler = Dialling()
        mirror = Mirror(
            [Instance((b.registry,), "/pypi/")],
            b.service,
            Renderings(1 << 20, trio.CapacityLimiter(1)),
            self.hot,
            b.metrics,
            DEPLOYMENT,
            root_pem=lambda: b"-----BEGIN CERTIFICATE-----\n",
            shown=self.hosts.saw,
        )
        proxy = Proxy(self.hosts, self.certificates, self.dialler, Users(users or {}), **settings)
        self.forward = Forward(mirror, proxy, b.metrics, DEPLOYMENT)
        self.mirror_alone = Forward(mirror, None, b.metrics, DEPLOYMENT)

    async def send(self, request: Request) -> Response:
        response = await self.forward.handle(request)
        if isinstance(response.body, bytes) and response.delivered is not None:
            response.delivered(len(response.body), True)
        if isinstance(response.onward, Splice):
            response.onward.close()
            for stream in self.dialler.near:
                stream.socket.close()
        return response

    async def inside(self, target: str, site: str = "https://pypi.test", method: str = "GET", **headers: str) -> Response:
        """A request inside an intercepted tunnel."""
        return await self.send(Request(method, target, fields(headers), base=site, face="proxy", user="ann"))

    async def mirror(self, target: str, **headers: str) -> Response:
        return await self.send(Request("GET", target, fields(headers), base=EDGE))

    async def absolute(self, url: str, method: str = "GET", body: bytes = b"", **headers: str) -> Response:
        """A request in absolute form, as the server reads it."""
        scheme, _, rest = url.partition("://")
        base = f"{scheme}://{rest.partition('/')[0].partition('?')[0]}"
        return await self.send(Request(method, url, fields(headers), base=base, listed=base == EDGE, body=body))

    async def connect(self, target: str, **headers: str) -> Response:
        return await self.send(Request("CONNECT", target, fields(headers), base="http://whoever.test", listed=False))


def fields(headers: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name.replace("_", "-"), value) for name, value in headers.items())


@asynccontextmanager
async def front(
    tmp_path: Path, upload: Upload, *aliases: str, users: dict[str, str] | None = None, **settings: bool
) -> AsyncIterator[Front]:
    async with bench(tmp_path, {"six": [upload]}) as b:
        yield Front(b, *(aliases or ("files.test",)), users=users, **settings)


def detail(response: Response) -> str:
    assert isinstance(response.body, bytes)
    return str(msgspec.json.decode(response.body)["detail"])


# ---- what is asked of a registry's host


async def test_a_page_has_its_links_as_published_and_both_faces_share_what_is_held(
    tmp_path: Path, clock: MockClock, upload: Upload
) -> None:
    async with front(tmp_path, upload) as f:
        ours = await f.mirror("/pypi/simple/six/", accept=JSON)
        theirs = await f.inside("/simple/six/", accept=JSON)
        assert (ours.status, theirs.status) == (200, 200)
        assert isinstance(ours.body, bytes)
        assert isinstance(theirs.body, bytes)
        assert b"files.test" not in ours.body
        assert upload.url.encode() in theirs.body
        assert len(f.bench.source.asked) == 1
        assert ours.header("etag") != theirs.header("etag"), "other bytes, another tag"
        assert theirs.header("cache-status") == "leeward; hit"
        assert theirs.header("vary") == ours.header("vary")
        assert f.hosts.seen == ["pypi six"], "links as published tell which hosts there are; ours tell nothing"


async def test_a_page_of_either_face_is_kept_hot_under_the_site_it_was_asked_at(
    tmp_path: Path, clock: MockClock, upload: Upload
) -> None:
    async with front(tmp_path, upload) as f:
        request = Request("GET", "/simple/six/", (), base="https://pypi.test", face="proxy")
        await f.send(request)
        response = await f.send(request)
        now = f.bench.service.clock()
        kept = f.hot.ready(request, now)
        assert kept is not None
        assert kept.body == response.body
        assert f.hot.ready(replace(request, face="mirror"), now) is None
        assert f.hot.ready(replace(request, base="https://other.test"), now) is None
        f.bench.rule("pkg:pypi/six@1.0")
        assert f.hot.ready(request, now) is None, "a rule reaches it at once"


async def test_a_file_is_the_same_blob_by_either_face_and_the_ledger_knows_the_user(
    tmp_path: Path, clock: MockClock, upload: Upload
) -> None:
    async with front(tmp_path, upload) as f:
        await f.inside("/simple/six/")
        for face in ("proxy", "mirror"):
            if face == "proxy":
                response = await f.inside(f"/{upload.path}", "https://files.test")
            else:
                response = await f.mirror(f"/pypi/{upload.path}")
            assert response.status == 200
            assert not isinstance(response.body, bytes)
            assert response.header("etag") == f'"sha256-{upload.sha256}"'
            assert await read_body(response.body) == upload.content
            assert response.delivered is not None
            response.delivered(len(upload.content), True)
            await landed(f.bench)
        assert sum("whl" in asked for asked in f.bench.source.asked) == 1
        assert f.bench.metrics.tally("proxy", "pypi", "file", "miss").count == 1
        await f.bench.service.accesses.flush()
        assert sorted(access.token for access in await f.bench.catalog.accesses()) == ["", "ann"]


async def test_a_rule_refuses_on_both_faces(tmp_path: Path, clock: MockClock, upload: Upload) -> None:
    async with front(tmp_path, upload) as f:
        await f.inside("/simple/six/")
        f.bench.rule("pkg:pypi/six@1.0")
        for response in (await f.inside(f"/{upload.path}", "https://files.test"), await f.mirror(f"/pypi/{upload.path}")):
            assert response.status == 403
            assert response.header("content-type") == "application/problem+json"
            assert response.reason.startswith("Blocked by policy")
        page = await f.inside("/simple/six/", accept=JSON)
        assert isinstance(page.body, bytes)
        assert b'"yanked"' in page.body


@pytest.mark.parametrize(
    ("target", "location"),
    [("/simple/Six/", "/simple/six/"), ("/simple/six", "/simple/six/"), ("/simple/Foo_.-Bar", "/simple/foo-bar/")],
)
async def test_redirects_stay_on_the_site_that_was_asked(
    tmp_path: Path, clock: MockClock, upload: Upload, target: str, location: str
) -> None:
    async with front(tmp_path, upload) as f:
        response = await f.inside(target)
        assert (response.status, response.header("location")) == (301, location)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
async def test_what_no_registry_has_is_not_passed_through(tmp_path: Path, clock: MockClock, upload: Upload, method: str) -> None:
    async with front(tmp_path, upload) as f:
        for site in ("https://pypi.test", "https://files.test:8443"):
            response = await f.inside("/danger-api/projects/six/files", site, method)
            assert response.status == (404 if method == "GET" else 403)
            assert detail(response)
        response = await f.absolute("http://pypi.test/danger-api", method)
        assert response.status == (404 if method == "GET" else 403)
        assert f.dialler.asked == []
        assert f.bench.source.asked == []


async def test_nothing_is_published_through_the_proxy_face(tmp_path: Path, clock: MockClock, upload: Upload) -> None:
    async with front(tmp_path, upload) as f:
        response = await f.inside("/legacy/", method="POST")
        assert response.status == 403
        assert f.dialler.asked == []


async def test_a_request_in_absolute_form_is_answered_for_a_registry_s_host_over_either_scheme(
    tmp_path: Path, clock: MockClock, upload: Upload
) -> None:
    async with front(tmp_path, upload) as f:
        for url in ("http://pypi.test/simple/six/", "https://pypi.test/simple/six/", "http://pypi.test:8080/simple/six/"):
            response = await f.absolute(url, accept=JSON)
            assert response.status == 200, url
            assert isinstance(response.body, bytes)
            assert upload.url.encode() in response.body
        assert len(f.bench.source.asked) == 1
        assert f.hot.statistics()["answers"] == 0, "its raw target is another one"


async def test_our_own_address_in_absolute_form_is_the_mirror_face_s(tmp_path: Path, clock: MockClock, upload: Upload) -> None:
    async with front(tmp_path, upload, users={"ann": "secret"}) as f:
        assert (await f.absolute(f"{EDGE}/-/live")).status == 200
        response = await f.absolute(f"{EDGE}/pypi/simple/six/", accept=JSON)
        assert response.status == 200
        assert isinstance(response.body, bytes)
        assert f"/pypi/{upload.path}".encode() in response.body
        assert (await f.absolute(f"{EDGE}?x")).status == 404


async def test_the_root_certificate_is_had_from_the_mirror_face(tmp_path: Path, clock: MockClock, upload: Upload) -> None:
    async with front(tmp_path, upload) as f:
        response = await f.mirror("/-/ca.pem")
        assert (response.status, response.body) == (200, b"-----BEGIN CERTIFICATE-----\n")
        assert (await f.inside("/-/ca.pem")).status == 404, "inside a tunnel it is the registry that is asked"


# ---- CONNECT


@pytest.mark.parametrize(
    ("target", "site", "host"),
    [
        ("pypi.test:443", "https://pypi.test", "pypi.test"),
        ("PyPI.Test:443", "https://pypi.test", "pypi.test"),
        ("pypi.test.:443", "https://pypi.test.", "pypi.test"),
        ("files.test:8443", "https://files.test:8443", "files.test"),
        ("pypi.test:80", "https://pypi.test:80", "pypi.test"),
        ("pypi.test:22", "https://pypi.test:22", "pypi.test"),
    ],
)
async def test_a_registry_s_host_is_stood_in_for_on_any_port_and_in_any_spelling(
    tmp_path: Path, clock: MockClock, upload: Upload, target: str, site: str, host: str
) -> None:
    async with front(tmp_path, upload) as f:
        response = await f.connect(target)
        assert response.status == 200
        assert response.onward == Intercept(site, f.certificates.made, "")
        assert f.certificates.asked == [host]
        assert f.dialler.asked == []
        assert f.bench.metrics.tally("proxy", "", "connect", "intercepted").count == 1


@pytest.mark.parametrize("host", ["other.test", "OTHER.test."])
async def test_a_further_name_of_a_public_registry_is_stood_in_for_as_soon_as_it_is_asked_for(
    tmp_path: Path, clock: MockClock, upload: Upload, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "_OTHER_NAMES", {hashlib.sha256(b"other.test").hexdigest()[:20]: "pypi"})
    async with front(tmp_path, upload) as f:
        monkeypatch.setattr(kinds, "default_upstream", lambda _: f.bench.registry.upstream)
        assert isinstance((await f.connect(f"{host}:443")).onward, Intercept)
        assert f.certificates.asked == ["other.test"]
        assert (await f.absolute(f"http://{host}/simple/six/", accept=JSON)).status == 200
        assert f.dialler.asked == []


@pytest.mark.parametrize("target", ["127.0.0.9:443", "2130706441:443", "0177.0.0.9:443", "[::ffff:127.0.0.9]:443"])
async def test_an_address_that_is_stood_in_for_is_known_in_every_spelling(
    tmp_path: Path, clock: MockClock, upload: Upload, target: str
) -> None:
    async with front(tmp_path, upload, "127.0.0.9") as f:
        response = await f.connect(target)
        assert isinstance(response.onward, Intercept)
        assert f.dialler.asked == []


async def test_a_certificate_that_cannot_be_had_is_told_as_such(tmp_path: Path, clock: MockClock, upload: Upload) -> None:
    async with front(tmp_path, upload) as f:
        f.certificates.trouble = Unavailable("the data directory cannot be written", 30)
        response = await f.connect("pypi.test:443")
        assert (response.status, response.header("retry-after")) == (503, "30")
        assert "cannot be written" in detail(response)
        assert response.onward is None
        assert response.close


async def test_a_host_of_files_that_is_not_learnt_yet_is_waited_for(tmp_path: Path, clock: MockClock, upload: Upload) -> None:
    async with front(tmp_path, upload, "mirror.pypi.test") as f:
        f.hosts.learnt = trio.Event()
        answers: list[Response] = []

        async def ask() -> None:
            answers.append(await f.connect("files.test:443"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(3)
            assert answers == []
            f.hosts.add_alias("pypi", "files.test")
            f.hosts.learnt.set()
        assert isinstance(answers[0].onward, Intercept)
        # And not for ever.
        f.hosts.learnt = trio.Event()
        began = trio.current_time()
        assert isinstance((await f.connect("example.test:443")).onward, Splice)
        assert trio.current_time() - began == pytest.approx(10)
        assert f.hosts.doubted == ["example.test"]


@pytest.mark.parametrize(
    "target",
    [
        "pypi.test",
        "pypi.test:",
        "pypi.test:0",
        "pypi.test:65536",
        "pypi.test:443:443",
        "pypi.test:-1",
        "pypi.test:4%343",
        "ann@pypi.test:443",
        "http://pypi.test:443",
        "/pypi.test:443",
        "::1:443",
        "[::1:443",
        "[fe80::1%25eth0]:443",
        "[v1.x]:443",
        "pypi..test:443",
        "pypi.test..:443",
        ".:443",
        ":443",
        "*:443",
        "pypi%2etest:443",
        "pypi.test\\:443",
        "pypi.test:٤٤٣",
    ],
)
async def test_a_malformed_connect_is_refused_and_ends_the_connection(
    tmp_path: Path, clock: MockClock, upload: Upload, target: str
) -> None:
    async with front(tmp_path, upload) as f:
        response = await f.connect(target)
        assert response.status == 400
        assert response.onward is None
        assert response.close
        assert f.dialler.asked == []
        assert f.certificates.asked == []


async def test_another_host_is_tunnelled_or_refused_by_setting(tmp_path: Path, clock: MockClock, upload: Upload) -> None:
    async with front(tmp_path, upload) as f:
        response = await f.connect("example.test:443", cdn_loop="other; id=1", via="1.1 other")
        assert isinstance(response.onward, Splice)
        assert not response.onward.answers_only
        assert f.dialler.asked == [("example.test", 443)]
        assert f.dialler.fields == (
            ("Via", "1.1 other, 1.1 leeward"),
            ("CDN-Loop", f"other; id=1, leeward; id={DEPLOYMENT}"),
        )
    async with front(tmp_path / "other", upload, tunnel=False) as f:
        response = await f.connect("example.test:443")
        assert (response.status, response.onward, response.close) == (403, None, True)
        assert "no registry's host" in detail(response)
        assert f.dialler.asked == []


@pytest.mark.parametrize(
    ("trouble", "status", "again"),
    [
        (OffLimits("x.test is at a private address"), 403, None),
        (Astray("there is no host named x.test"), 502, None),
        (Unavailable("x.test:443 refuses connections", 5), 503, "5"),
    ],
)
async def test_why_there_is_no_tunnel_is_told_as_a_problem(
    tmp_path: Path, clock: MockClock, upload: Upload, trouble: Exception, status: int, again: str | None
) -> None:
    async with front(tmp_path, upload) as f:
        f.dialler.trouble = trouble
        response = await f.connect("x.test:443")
        assert (response.status, response.header("retry-after"), response.close) == (status, again, True)
        assert detail(response) == str(trouble)
        assert (await f.absolute("http://x.test/")).status == status


async def test_without_the_proxy_face_there_is_a_mirror_only(tmp_path: Path, clock: MockClock, upload: Upload) -> None:
    async with front(tmp_path, upload) as f:
        f.forward = f.mirror_alone
        for response in (await f.connect("pypi.test:443"), await f.absolute("http://pypi.test/simple/six/")):
            assert response.status == 403
            assert "mirror only" in detail(response)
        assert (await f.mirror("/pypi/simple/six/")).status == 200
        assert f.certificates.asked == []


# ---- who may


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "user"),
    [
        (basic("ann", "s:e cret"), "ann"),
        (basic("ann", "s:e cret").replace("Basic", "bAsIc"), "ann"),
        (basic("bob", "ü"), "bob"),
        (basic("ann", "wrong"), None),
        (basic("ann", ""), None),
        (basic("bob", "s:e cret"), None),
        (basic("eve", ""), None),
        (basic("", ""), None),
        ("Basic " + base64.b64encode(b"ann").decode(), None),
        ("Basic !!!", None),
        ("Basic " + base64.b64encode(b"\xff:\xff").decode(), None),
        ("Bearer x", None),
        ("", None),
        (None, None),
    ],
)
def test_users_prove_themselves_by_basic_credentials(authorization: str | None, user: str | None) -> None:
    users = Users({"ann": "s:e cret", "bob": "ü"})
    assert users.named(authorization) == user
    assert Users({}).named(authorization) == ""


async def test_the_proxy_face_asks_who_it_is_and_the_mirror_face_does_not(
    tmp_path: Path, clock: MockClock, upload: Upload
) -> None:
    async with front(tmp_path, upload, users={"ann": "secret"}) as f:
        for response in (
            await f.connect("pypi.test:443"),
            await f.connect("example.test:443"),
            await f.absolute("http://pypi.test/simple/six/"),
            await f.absolute("http://example.test/"),
        ):
            assert response.status == 407
            assert response.header("proxy-authenticate") == 'Basic realm="leeward", charset="UTF-8"'
            assert not response.close, "the client comes again on the same connection"
        assert f.dialler.asked == []
        assert (await f.mirror("/pypi/simple/six/")).status == 200
        proof = basic("ann", "secret")
        response = await f.connect("pypi.test:443", proxy_authorization=proof)
        assert isinstance(response.onward, Intercept)
        assert response.onward.user == "ann"
        assert (await f.inside("/simple/six/")).status == 200, "who asks inside has proved so by the CONNECT"
        assert (await f.absolute("http://pypi.test/simple/six/", proxy_authorization=proof)).status == 200


async def test_a_request_that_has_been_here_is_a_loop(tmp_path: Path, clock: MockClock, upload: Upload) -> None:
    async with front(tmp_path, upload) as f:
        loop = f"leeward; id={DEPLOYMENT}"
        for response in (
            await f.connect("example.test:443", cdn_loop=loop),
            await f.absolute("http://example.test/", cdn_loop=loop),
            await f.absolute("http://pypi.test/simple/six/", cdn_loop=f"other, {loop}"),
            await f.inside("/simple/six/", cdn_loop=loop),
        ):
            assert response.status == 508
        assert f.dialler.asked == []


# ---- plain requests to others


async def forwarded(f: Front, url: str, method: str = "GET", body: bytes = b"", **headers: str) -> bytes:
    """What goes to the other side."""
    response = await f.absolute(url, method, body, **headers)
    assert isinstance(response.onward, Splice), response
    assert response.onward.answers_only
    return response.onward.preface


async def test_a_plain_request_is_written_anew(tmp_path: Path, clock: MockClock, upload: Upload) -> None:
    async with front(tmp_path, upload) as f:
        sent = await forwarded(
            f,
            "http://example.test:8000/a%20b?c=d",
            "POST",
            b"body",
            host="elsewhere.test",
            accept="*/*",
            authorization="Bearer theirs",
            proxy_authorization="Basic ours",
            proxy_connection="keep-alive",
            connection="keep-alive, X-Private",
            x_private="1",
            te="trailers",
            upgrade="websocket",
            transfer_encoding="chunked",
            expect="100-continue",
            via="1.0 before",
            cdn_loop="other",
        )
        head, _, body = sent.partition(b"\r\n\r\n")
        assert head.decode().split("\r\n") == [
            "POST /a%20b?c=d HTTP/1.1",
            "Host: example.test:8000",
            "accept: */*",
            "authorization: Bearer theirs",
            "Content-Length: 4",
            "Via: 1.0 before, 1.1 leeward",
            f"CDN-Loop: other, leeward; id={DEPLOYMENT}",
            "Connection: close",
        ]
        assert body == b"body"
        assert f.dialler.asked == [("example.test", 8000)]


async def test_the_target_of_a_plain_request_is_in_origin_form(tmp_path: Path, clock: MockClock, upload: Upload) -> None:
    async with front(tmp_path, upload) as f:
        for url, target in (
            ("http://example.test", b"GET / "),
            ("http://example.test?a=b", b"GET /?a=b "),
            ("HTTP://example.test/x//y?z=http://w/", b"GET /x//y?z=http://w/ "),
        ):
            sent = await forwarded(f, url)
            assert sent.startswith(target)
            assert b"Content-Length" not in sent
        assert (await forwarded(f, "http://example.test", "OPTIONS", max_forwards="3")).startswith(b"OPTIONS * ")
        assert b"\r\nMax-Forwards: 2\r\n" in await forwarded(f, "http://example.test/", "OPTIONS", max_forwards="3")
        assert (await f.absolute("http://example.test/", "OPTIONS", max_forwards="0")).status == 204
        assert (await f.absolute("http://example.test/", "TRACE")).status == 405


async def test_other_hosts_are_forwarded_to_by_setting_and_over_tls_by_connect_only(
    tmp_path: Path, clock: MockClock, upload: Upload
) -> None:
    async with front(tmp_path, upload) as f:
        response = await f.absolute("https://example.test/")
        assert response.status == 403
        assert "CONNECT" in detail(response)
    async with front(tmp_path / "other", upload, forward=False) as f:
        response = await f.absolute("http://example.test/")
        assert response.status == 403
        assert f.dialler.asked == []
        assert (await f.absolute("http://pypi.test/simple/six/")).status == 200
