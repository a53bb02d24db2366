"""Searches and audits: what is forwarded and what is not, who may share an answer, and what the rules leave of it."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from edge.mirror import BODY_LIMIT_BYTES, Instance, Mirror
from edge.render import Renderings
from origin.errors import Corrupt, NotFound, Unavailable
from origin.http import Request, Response
from origin.http.coding import decoded
from origin.http.h1 import Malformed
from origin.http.hot import HotPages
from origin.model import Relay
from origin.registries import Options, npm_json
from origin.registries.npm import AUDITS, NPM, SEARCH_LIFE_S
from origin.relays import REMEMBERED, STALE_S
from tests.answering import Reply, answering
from tests.registry_bench import bench
from tests.scripted import Sent, Stall, stall

ROOT = "https://npm.test/"
SEARCH = "-/v1/search?text=six"
AUDIT = AUDITS[0]
QUESTION = b'{"six":["1.0"]}'
ADVICE = b'{"six":[{"id":1}]}'


@pytest.fixture
def clock() -> MockClock:
    # Worker threads count as blocked tasks: the threshold keeps the clock from jumping while one works.
    return MockClock(autojump_threshold=0.5)


def found(*names: str) -> bytes:
    """A search's answer."""
    objects = [{"package": {"name": name, "version": "1.0.0", "links": {}}, "searchScore": 1} for name in names]
    return json.dumps({"objects": objects, "total": len(objects), "time": "now"}).encode()


class Desk:
    """A mirror of npm, asked as the server would ask it."""

    def __init__(self, s: Stall, audit: Literal["forward", "empty", "off"]) -> None:
        self.s = s
        self.web = s.web
        self.mirror = Mirror(
            [Instance((NPM("npm", ROOT, Options(audit=audit)),), "/npm/")],
            s.service,
            Renderings(1 << 20, trio.CapacityLimiter(1)),
            HotPages(1 << 20),
            s.metrics,
            "0123456789abcdef",
        )

    async def ask(self, request: str, body: bytes = b"", **headers: str) -> Response:
        fields = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        method = "POST" if body else "GET"
        return await self.mirror.handle(Request(method, f"/npm/{request}", fields, body=body))

    async def names(self, request: str = SEARCH) -> list[str]:
        """The names that a search finds."""
        response = await self.ask(request)
        assert response.status == 200
        assert isinstance(response.body, bytes)
        return [each["package"]["name"] for each in json.loads(response.body)["objects"]]


@asynccontextmanager
async def desk(tmp_path: Path, audit: Literal["forward", "empty", "off"] = "forward") -> AsyncIterator[Desk]:
    async with stall(tmp_path, [NPM("npm", ROOT, Options(audit=audit))]) as s:
        s.web.sent[ROOT + SEARCH] = Sent(found("six", "sixty"))
        s.web.sent[ROOT + AUDIT] = Sent(ADVICE)
        yield Desk(s, audit)


# ---- searches


async def test_a_search_is_asked_once_for_all_and_remembered_for_a_while(tmp_path: Path, clock: MockClock) -> None:
    async with desk(tmp_path) as d:
        gate = d.web.gates[ROOT + SEARCH] = trio.Event()
        got: list[list[str]] = []

        async def ask() -> None:
            got.append(await d.names())

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
            await wait_all_tasks_blocked(0.1)
            gate.set()
        assert got == [["six", "sixty"]] * 20
        clock.jump(SEARCH_LIFE_S - 1)
        await d.names()
        assert len(d.web.asked) == 1
        clock.jump(2)
        await d.names()
        assert len(d.web.asked) == 2


async def test_a_search_is_no_other_search(tmp_path: Path, clock: MockClock) -> None:
    async with desk(tmp_path) as d:
        d.web.sent[f"{ROOT}{SEARCH}&from=2"] = Sent(found("sixth"))
        assert await d.names() == ["six", "sixty"]
        assert await d.names(f"{SEARCH}&from=2") == ["sixth"]
        assert await d.names("-/v1/search?from=2&text=six&tracking=me") == ["sixth"]
        assert d.web.asked == [ROOT + SEARCH, f"{ROOT}{SEARCH}&from=2"]


async def test_what_was_found_is_judged_by_the_rules_now_in_force(tmp_path: Path, clock: MockClock) -> None:
    async with desk(tmp_path) as d:
        assert await d.names() == ["six", "sixty"]
        d.s.rule("pkg:npm/six")
        assert await d.names() == ["sixty"]
        d.s.rule("pkg:npm/sixty@>=1")
        assert await d.names() == ["six"]
        d.s.service.set_rules([])
        assert await d.names() == ["six", "sixty"]
        assert len(d.web.asked) == 1


async def test_an_old_answer_stands_in_for_an_upstream_that_does_not_answer(tmp_path: Path, clock: MockClock) -> None:
    async with desk(tmp_path) as d:
        await d.names()
        clock.jump(SEARCH_LIFE_S + 1)
        d.web.down = {"npm"}
        assert await d.names() == ["six", "sixty"]
        d.web.doubted = {"npm"}
        asked = len(d.web.asked)
        assert await d.names() == ["six", "sixty"]
        assert len(d.web.asked) == asked
        clock.jump(STALE_S)
        response = await d.ask(SEARCH)
        assert response.status == 503
        assert response.header("retry-after") is not None


async def test_what_is_remembered_is_bounded(tmp_path: Path, clock: MockClock) -> None:
    async with desk(tmp_path) as d:
        for number in range(REMEMBERED + 1):
            d.web.sent[f"{ROOT}-/v1/search?text={number}"] = Sent(found())
            await d.names(f"-/v1/search?text={number}")
        asked = len(d.web.asked)
        await d.names(f"-/v1/search?text={REMEMBERED}")
        assert len(d.web.asked) == asked
        await d.names("-/v1/search?text=0")
        assert len(d.web.asked) == asked + 1


async def test_an_answer_that_makes_no_sense_is_told_as_upstreams_fault(tmp_path: Path, clock: MockClock) -> None:
    async with desk(tmp_path) as d:
        for body in (b"<html>please log in</html>", b"{}", b""):
            d.web.sent[ROOT + SEARCH] = Sent(body)
            assert (await d.ask(SEARCH)).status == 502
            clock.jump(SEARCH_LIFE_S + 1)


@pytest.mark.parametrize(
    ("status", "told"), [(400, 400), (404, 404), (405, 404), (410, 404), (413, 400), (422, 400), (500, 503), (503, 503)]
)
async def test_what_upstream_says_of_the_request_is_passed_on_and_not_remembered(
    tmp_path: Path, clock: MockClock, status: int, told: int
) -> None:
    async with desk(tmp_path) as d:
        for request, body in ((SEARCH, b""), (AUDIT, QUESTION)):
            good = d.web.sent[ROOT + request]
            d.web.sent[ROOT + request] = Sent(b"no", status=status)
            assert (await d.ask(request, body)).status == told
            d.web.sent[ROOT + request] = good
            await trio.sleep(10)
            assert (await d.ask(request, body)).status == 200


# ---- audits


async def test_an_audit_is_never_shared_or_remembered(tmp_path: Path, clock: MockClock) -> None:
    async with desk(tmp_path) as d:
        gate = d.web.gates[ROOT + AUDIT] = trio.Event()
        bodies = [json.dumps({f"package-{number}": ["1.0"]}).encode() for number in range(4)]
        async with trio.open_nursery() as nursery:
            for body in bodies:
                nursery.start_soon(d.ask, AUDIT, body)
            nursery.start_soon(d.ask, AUDIT, bodies[0])
            await wait_all_tasks_blocked(0.1)
            assert sorted(relay.body for relay in d.web.relays) == sorted([*bodies, bodies[0]])
            gate.set()
        response = await d.ask(AUDIT, bodies[0])
        assert len(d.web.relays) == 6
        assert response.body == ADVICE
        assert response.header("cache-control") == "no-store"
        d.web.down = {"npm"}
        assert (await d.ask(AUDIT, bodies[0])).status == 503


async def test_in_an_outage_nobody_waits_for_an_audit(tmp_path: Path, clock: MockClock) -> None:
    async with desk(tmp_path) as d:
        d.web.doubted = {"npm"}
        before = trio.current_time()
        response = await d.ask(AUDIT, QUESTION)
        assert response.status == 503
        assert trio.current_time() == before
        assert d.web.asked == []


@pytest.mark.parametrize(("audit", "status", "body"), [("empty", 200, b"{}"), ("off", 404, None)])
async def test_an_audit_that_is_not_to_be_forwarded_leaves_nothing_upstream(
    tmp_path: Path, clock: MockClock, audit: Literal["empty", "off"], status: int, body: bytes | None
) -> None:
    async with desk(tmp_path, audit) as d:
        d.web.down = d.web.doubted = {"npm"}
        response = await d.ask(AUDIT, QUESTION)
        assert response.status == status
        assert body is None or response.body == body
        assert d.web.relays == []


async def test_a_coded_audit_is_forwarded_plainly(tmp_path: Path, clock: MockClock) -> None:
    async with desk(tmp_path) as d:
        for coding in ("gzip", "x-gzip", "GZIP"):
            assert (await d.ask(AUDIT, gzip.compress(QUESTION), content_encoding=coding)).body == ADVICE
        assert (await d.ask(AUDIT, QUESTION, content_encoding="identity")).body == ADVICE
        assert [relay.body for relay in d.web.relays] == [QUESTION] * 4


@pytest.mark.parametrize(
    ("body", "coding", "status"),
    [
        (b"{}" + b" " * BODY_LIMIT_BYTES, "", 413),
        (gzip.compress(b" " * (BODY_LIMIT_BYTES + 1)), "gzip", 413),
        (QUESTION, "br", 415),
        (QUESTION, "gzip, gzip", 415),
        (QUESTION, "gzip", 400),
        (gzip.compress(QUESTION)[:-3], "gzip", 400),
        (gzip.compress(QUESTION) + b"more", "gzip", 400),
        (b"[1]", "", 400),
        (b"\xff", "", 400),
    ],
    ids=["long", "bomb", "br", "twice", "no gzip", "cut", "more", "no object", "no text"],
)
async def test_a_body_that_is_none_reaches_nobody(
    tmp_path: Path, clock: MockClock, body: bytes, coding: str, status: int
) -> None:
    async with desk(tmp_path) as d:
        response = await d.ask(AUDIT, body, **({"content_encoding": coding} if coding else {}))
        assert response.status == status
        assert response.header("content-type") == "application/problem+json"
        assert d.web.relays == []


@pytest.mark.parametrize("coding", ["", "gzip"])
async def test_no_body_is_read_where_others_wait(
    tmp_path: Path, clock: MockClock, monkeypatch: pytest.MonkeyPatch, coding: str
) -> None:
    loop = threading.get_ident()
    read_in: list[int] = []

    def noted[**P, R](function: Callable[P, R]) -> Callable[P, R]:
        def noting(*arguments: P.args, **named: P.kwargs) -> R:
            read_in.append(threading.get_ident())
            return function(*arguments, **named)

        return noting

    monkeypatch.setattr(npm_json, "require_posted", noted(npm_json.require_posted))
    if coding:
        monkeypatch.setattr("edge.mirror.decoded", noted(decoded))
    async with desk(tmp_path) as d:
        if coding:
            assert (await d.ask(AUDIT, gzip.compress(QUESTION), content_encoding=coding)).body == ADVICE
        else:
            assert (await d.ask(AUDIT, QUESTION)).body == ADVICE
    assert read_in
    assert loop not in read_in


def test_a_body_may_be_as_long_as_the_limit_and_no_longer() -> None:
    for coding, code in (("", bytes), ("gzip", gzip.compress)):
        assert decoded(code(b"x" * 1000), coding, 1000) == b"x" * 1000
        with pytest.raises(Malformed) as caught:
            decoded(code(b"x" * 1001), coding, 1000)
        assert caught.value.status == 413
    assert decoded(gzip.compress(b""), "gzip", 0) == b""


# ---- on the wire


GET = Relay("pypi", "GET", SEARCH)
POST = Relay("pypi", "POST", AUDIT, QUESTION)
JSON = {"Content-Type": "application/json"}


async def test_only_our_own_fields_and_the_body_are_sent() -> None:
    async with answering() as upstream:
        root = upstream.url + "root/"
        async with bench(registry=NPM("pypi", root), token="secret") as at:
            upstream.answers[f"/root/{SEARCH}"] = Reply(200, gzip.compress(found("six")), {**JSON, "Content-Encoding": "gzip"})
            upstream.answers[f"/root/{AUDIT}"] = Reply(200, ADVICE, JSON)
            assert (await at.source.relay(GET)).body == found("six")
            assert (await at.source.relay(POST)).body == ADVICE
    search, audit = upstream.asked
    ours = {"host", "user-agent", "via", "cdn-loop", "accept", "accept-encoding", "authorization"}
    assert set(search.fields) == ours
    assert set(audit.fields) == ours | {"content-type", "content-length"}
    assert (search.method, search.body) == ("GET", b"")
    assert (audit.method, audit.body) == ("POST", QUESTION)
    assert audit.fields["content-type"] == "application/json"
    assert {asked.fields["authorization"] for asked in upstream.asked} == {"Bearer secret"}
    assert all("cookie" not in asked.fields for asked in upstream.asked)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_relay_follows_nobody(status: int) -> None:
    async with answering() as upstream, answering("127.0.0.2") as elsewhere:
        root = upstream.url + "root/"
        async with bench(registry=NPM("pypi", root), token="secret", aliases=frozenset({"127.0.0.2"})) as at:
            for path in (SEARCH, AUDIT):
                upstream.answers[f"/root/{path}"] = Reply(status, b"", {"Location": elsewhere.url})
            for relay in (GET, POST):
                with pytest.raises((Corrupt, Unavailable)):
                    await at.source.relay(relay)
        assert elsewhere.asked == []


@pytest.mark.parametrize("reply", [Reply(503), Reply(raw=b""), Reply(200, b"{}", JSON, cut=1)], ids=["503", "reset", "short"])
async def test_what_may_have_arrived_is_not_posted_again(reply: Reply) -> None:
    async with answering() as upstream, bench(registry=NPM("pypi", upstream.url + "root/")) as at:
        upstream.answers[f"/root/{AUDIT}"] = [reply, Reply(200, ADVICE, JSON)]
        upstream.answers[f"/root/{SEARCH}"] = [reply, Reply(200, found(), JSON)]
        with pytest.raises(Unavailable):
            await at.source.relay(POST)
        assert len(upstream.asked) == 1
        if reply.cut is None:
            assert (await at.source.relay(GET)).body == found(), "a search may be asked twice"
            assert len(upstream.asked) == 3


async def test_what_cannot_have_arrived_is_posted_again() -> None:
    async with answering() as upstream:
        port = upstream.port
    # Nobody listens there any more.
    async with bench(registry=NPM("pypi", f"http://127.0.0.1:{port}/")) as at:
        with pytest.raises(Unavailable):
            await at.source.relay(POST)
        assert at.sent("relay") > 1


async def test_relays_have_a_breaker_of_their_own() -> None:
    async with answering() as upstream, bench(registry=NPM("pypi", upstream.url + "root/")) as at:
        upstream.answers[f"/root/{AUDIT}"] = Reply(raw=b"")
        for _ in range(4):
            with pytest.raises(Unavailable):
                await at.source.relay(POST)
        assert len(upstream.asked) == 3
        assert at.source.statistics()["pypi"] == {"page": "closed", "file": "closed", "relay": "open"}


async def test_a_relay_that_is_missing_upstream_says_so(tmp_path: Path, clock: MockClock) -> None:
    async with desk(tmp_path) as d:
        d.web.sent.clear()
        with pytest.raises(NotFound):
            await d.s.service.relay(Relay("npm", "GET", SEARCH))
