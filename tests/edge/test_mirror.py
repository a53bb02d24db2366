"""The mirror face: what a request becomes, before any socket is involved."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from edge.mirror import Instance, Mirror
from edge.render import Renderings
from origin.http import Request, Response
from origin.http.hot import HotPages
from origin.model import Arriving, Page, Span
from tests.origin.test_files import landed, read_body
from tests.scripted import Bench, Upload, bench
from tests.wheels import KB, Shelf

JSON = "application/vnd.pypi.simple.v1+json"
HTML = "application/vnd.pypi.simple.v1+html"


@pytest.fixture
def clock() -> MockClock:
    # Worker threads count as blocked tasks: the threshold keeps the clock from jumping while one works.
    return MockClock(autojump_threshold=0.5)


@pytest.fixture(scope="module")
def upload(tmp_path_factory: pytest.TempPathFactory) -> Upload:
    made = Shelf(tmp_path_factory.mktemp("shelf")).wheel("six", "1.0", size=100 * KB)
    return Upload(made.filename, made.content)


class Front:
    """A mirror on a bench, asked as the server would ask it."""

    def __init__(self, b: Bench) -> None:
        self.bench = b
        self.hot = HotPages(1 << 20)
        self.mirror = Mirror(
            [Instance((b.registry,), "/pypi/")],
            b.service,
            Renderings(1 << 20, trio.CapacityLimiter(1)),
            self.hot,
            b.metrics,
            "0123456789abcdef",
        )

    async def ask(self, target: str, method: str = "GET", **headers: str) -> Response:
        fields = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        response = await self.mirror.handle(Request(method, target, fields, base="http://edge.test:8080"))
        if isinstance(response.body, bytes) and response.delivered is not None:
            response.delivered(len(response.body), True)
        return response

    @staticmethod
    def yanked(response: Response) -> dict[str, object]:
        """What a page (JSON) says of its files."""
        assert isinstance(response.body, bytes)
        return {file["filename"]: file.get("yanked", False) for file in json.loads(response.body)["files"]}

    def counted(self, outcome: str, kind: str = "page") -> int:
        return self.bench.metrics.tally("mirror", "pypi", kind, outcome).count


@asynccontextmanager
async def front(tmp_path: Path, upload: Upload) -> AsyncIterator[Front]:
    async with bench(tmp_path, {"six": [upload]}) as b:
        yield Front(b)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (f"{JSON}, {HTML}; q=0.1, text/html; q=0.01", JSON),
        ("application/vnd.pypi.simple.latest+json", JSON),
        (HTML, HTML),
        ("text/html", "text/html"),
        ("*/*", "text/html"),
        ("image/png", "text/html"),
    ],
)
async def test_a_page_is_written_in_the_form_that_was_asked_for(
    tmp_path: Path, clock: MockClock, upload: Upload, accept: str, media_type: str
) -> None:
    async with front(tmp_path, upload) as f:
        response = await f.ask("/pypi/simple/six/", accept=accept)
        assert response.status == 200
        assert response.header("content-type") == media_type
        assert response.header("vary") == "Accept, Accept-Encoding"
        assert response.header("cache-control") == "no-cache"
        assert response.header("cache-status") == "leeward; fwd=uri-miss; stored"
        assert isinstance(response.body, bytes)
        assert f"/pypi/{upload.path}".encode() in response.body
        assert b"files.test" not in response.body


async def test_every_variant_has_an_etag_of_its_own_that_changes_with_policy_alone(
    tmp_path: Path, clock: MockClock, upload: Upload
) -> None:
    async with front(tmp_path, upload) as f:

        async def etags() -> list[str | None]:
            return [
                (await f.ask("/pypi/simple/six/", accept=accept, accept_encoding=coding)).header("etag")
                for accept in (JSON, HTML, "text/html")
                for coding in ("identity", "gzip", "zstd")
            ]

        before = await etags()
        assert len(set(before)) == 9
        assert await etags() == before
        f.bench.rule("pkg:pypi/six@1.0")
        during = await etags()
        assert not set(during) & set(before)
        f.bench.service.set_rules([])
        assert await etags() == before, "the same content has the same tag again, on every edge"


async def test_whoever_waits_while_a_page_is_refused_and_then_replaced_gets_nothing_written_before(
    tmp_path: Path, clock: MockClock, upload: Upload
) -> None:
    async with front(tmp_path, upload) as f, trio.open_nursery() as nursery:
        before = await f.ask("/pypi/simple/six/", accept=JSON)
        assert f.yanked(before) == {"six-1.0-py3-none-any.whl": False}
        clock.jump(601)
        f.bench.source.open_gate = gate = trio.Event()
        waited: list[Response] = []
        is_answered = trio.Event()

        @nursery.start_soon
        async def wait() -> None:
            waited.append(await f.ask("/pypi/simple/six/", accept=JSON))
            is_answered.set()

        await trio.testing.wait_all_tasks_blocked(0.01)
        f.bench.rule("pkg:pypi/six@1.0")
        held = await f.bench.service._pages.held(Page("pypi", "six"))
        assert held is not None
        async with held.making:
            # It waits no longer, and is to have what is held; that moment the new page comes.
            await trio.sleep(1.1)
            f.bench.source.projects["six"].append(Upload("six-2.0-py3-none-any.whl", b"new"))
            gate.set()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert held.retired
            assert not waited
        await is_answered.wait()
        assert waited[0].header("cache-status") == "leeward; hit; detail=upstream-slow"
        assert f.yanked(waited[0]) == {"six-1.0-py3-none-any.whl": "not for us"}


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/pypi", "/pypi/"),
        ("/pypi/simple/Six/", "/pypi/simple/six/"),
        ("/pypi/simple/six", "/pypi/simple/six/"),
        ("/pypi/simple/Foo_.-Bar", "/pypi/simple/foo-bar/"),
    ],
)
async def test_other_spellings_are_sent_to_the_one(
    tmp_path: Path, clock: MockClock, upload: Upload, target: str, location: str
) -> None:
    async with front(tmp_path, upload) as f:
        response = await f.ask(target)
        assert (response.status, response.header("location")) == (301, location)
        assert f.bench.source.asked == []


async def test_a_file_asked_for_by_name_alone_is_sent_to_its_path(tmp_path: Path, clock: MockClock, upload: Upload) -> None:
    async with front(tmp_path, upload) as f:
        response = await f.ask(f"/pypi/packages/py3/s/six/{upload.filename}")
        assert (response.status, response.header("location")) == (302, f"/pypi/{upload.path}")


async def test_a_file_is_immutable_uncoded_and_tagged_by_its_digest(tmp_path: Path, clock: MockClock, upload: Upload) -> None:
    async with front(tmp_path, upload) as f:
        response = await f.ask(f"/pypi/{upload.path}", accept_encoding="gzip")
        assert isinstance(response.body, Arriving | Span)
        assert await read_body(response.body) == upload.content
        assert response.header("etag") == f'"sha256-{upload.sha256}"'
        assert response.header("content-encoding") is None
        assert response.header("accept-ranges") == "bytes"
        assert "immutable" in (response.header("cache-control") or "")
        assert response.delivered is not None
        response.delivered(len(upload.content), True)
        await landed(f.bench)
        await f.bench.service.keep_house()
        (access,) = await f.bench.catalog.accesses()
        assert (access.digest, access.sent, access.complete) == (upload.sha256, len(upload.content), True)
        again = await f.ask(f"/pypi/{upload.path}")
        assert again.header("cache-status") == "leeward; hit"
        assert isinstance(again.body, Span)
        again.body.close()


async def test_a_refusal_says_why_in_reason_phrase_and_body(tmp_path: Path, clock: MockClock, upload: Upload) -> None:
    async with front(tmp_path, upload) as f:
        f.bench.rule("pkg:pypi/six@1.0", "stolen credentials")
        for method in ("GET", "HEAD"):
            for suffix in ("", ".metadata"):
                response = await f.ask(f"/pypi/{upload.path}{suffix}", method)
                assert response.status == 403
                assert response.reason == "Blocked by policy: stolen credentials"
                assert isinstance(response.body, bytes)
                body = json.loads(response.body)
                assert body["detail"] == body["message"] == "stolen credentials"
                assert response.header("content-type") == "application/problem+json"
        provenance = await f.ask(f"/pypi/integrity/six/1.0/{upload.filename}/provenance")
        assert provenance.status == 403
        assert f.counted("refused", "file") == 4


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/pypi/simple/../../etc/passwd", 400),
        ("/pypi/simple/%2e%2e/", 400),
        ("/pypi/simple/six%2fevil/", 400),
        ("/pypi/simple/six%00/", 400),
        ("/pypi/simple/six%255cevil/", 400),
        ("/pypi/simple/six\\evil/", 400),
        (f"/pypi/simple/{'a' * 300}/", 400),
        ("/pypi/simple/-six-/", 404),
        ("/pypi/nowhere", 404),
        ("/elsewhere/%zz", 400),
        ("/elsewhere/", 404),
        ("http://pypi.test/simple/six/", 403),
        ("/-/nothing", 404),
    ],
)
async def test_a_target_that_means_nothing_reaches_neither_disk_nor_upstream(
    tmp_path: Path, clock: MockClock, upload: Upload, target: str, status: int
) -> None:
    async with front(tmp_path, upload) as f:
        response = await f.ask(target)
        assert response.status == status
        assert f.bench.source.asked == []


async def test_uploads_are_refused_as_read_only(tmp_path: Path, clock: MockClock, upload: Upload) -> None:
    async with front(tmp_path, upload) as f:
        for target in ("/pypi/legacy/", "/pypi/pypi", "/pypi/RPC2"):
            response = await f.ask(target, "POST")
            assert response.status in (403, 501)
            assert "read-only" in response.reason
        assert (await f.ask("/pypi/simple/six/", "DELETE")).status == 405


async def test_a_request_that_passed_here_before_is_a_loop(tmp_path: Path, clock: MockClock, upload: Upload) -> None:
    async with front(tmp_path, upload) as f:
        response = await f.ask("/pypi/simple/six/", cdn_loop="other; id=1, leeward; id=0123456789abcdef")
        assert response.status == 508
        assert (await f.ask("/pypi/simple/six/", cdn_loop="leeward; id=ffff")).status == 200


async def test_no_cache_asks_upstream_for_a_page_held_longer_than_ten_seconds(
    tmp_path: Path, clock: MockClock, upload: Upload
) -> None:
    async with front(tmp_path, upload) as f:
        await f.ask("/pypi/simple/six/")
        clock.jump(11)
        assert (await f.ask("/pypi/simple/six/", cache_control="max-age=0")).header("cache-status") == "leeward; hit"
        response = await f.ask("/pypi/simple/six/", cache_control="no-cache")
        assert response.header("cache-status") == "leeward; fwd=request; fwd-status=304"


async def test_what_was_answered_is_explained_and_counted(tmp_path: Path, clock: MockClock, upload: Upload) -> None:
    async with front(tmp_path, upload) as f:
        await f.ask("/pypi/simple/six/")
        await f.ask("/pypi/simple/six/")
        assert (f.counted("miss"), f.counted("hit")) == (1, 1)
        why = await f.ask("/-/why/pkg:pypi/six@1.0")
        assert isinstance(why.body, bytes)
        assert json.loads(why.body)["page"]["state"] == "fresh"
        assert (await f.ask("/-/why/nonsense")).status == 400
        metrics = await f.ask("/-/metrics")
        assert isinstance(metrics.body, bytes)
        assert b'leeward_requests_total{face="mirror",kind="page",outcome="hit",registry="pypi"} 1.0' in metrics.body
        assert b"six" not in metrics.body, "no project's name in a label"
        assert (await f.ask("/-/live")).status == (await f.ask("/-/ready")).status == 200
