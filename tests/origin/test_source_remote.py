"""An origin as a source: the contract, over its real face and TLS; what is sent, what comes back, and when it counts as gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from origin.api import wire
from origin.errors import Corrupt, NotFound, Refused, Unavailable
from origin.http import Handler, Request, Response
from origin.metrics import Metrics
from origin.model import Hold, Listing, Refuse
from origin.sources import Absent, Known, NotModified, Received, Relayed
from origin.sources.link import Link
from tests.contracts.sources import BODY, Arena, SourceContract, collect
from tests.origin.http.loopback import settled
from tests.remote_stage import EDGE, ENTRY, NOW, PAGE, RELAY, WHEEL, Key, Stage, sourced, stage


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage(tmp_path) as made:
        yield made


def listing(document: bytes = b"{}", **facts: object) -> Listing:
    return Listing(PAGE, {}, document, **facts)  # type: ignore[arg-type]  # the facts' own types


async def silent(_: Request) -> Response:
    await trio.sleep_forever()
    raise AssertionError("unreachable")


def arena_on(at: Stage, source: object) -> Arena:
    """The contract's levers on a node."""

    def publish(body: bytes, _: str) -> None:
        at.told.page_is = listing(body)

    def upload(body: bytes, cut: int | None) -> None:
        at.told.file_is, at.told.cuts = body, [] if cut is None else [cut]

    def answer(status: int, body: bytes) -> None:
        faults: dict[int, Exception] = {404: NotFound("no"), 405: NotFound("no"), 410: NotFound("no")}
        at.told.relay_is = body if status == 200 else faults.get(status, ValueError("cannot be read"))

    def withdraw() -> None:
        at.told.page_is, at.told.file_is = NotFound("no such page"), NotFound("no such file")

    def fail() -> None:
        at.told.page_is = at.told.file_is = at.told.relay_is = Unavailable("the registry does not answer", 7)

    def silence() -> None:
        at.handle = silent

    return Arena(
        source,  # type: ignore[arg-type]  # a Source, of either kind
        PAGE,
        WHEEL,
        ENTRY,
        RELAY,
        publish,
        upload,
        answer=answer,
        withdraw=withdraw,
        silence=silence,
        fail=fail,
        vanish=at.stop,
        requests=lambda: len(at.at.seen),
        said=lambda status: 404 if status in {404, 405, 410} else 400,
    )


class TestContract(SourceContract):
    """The contract over an origin."""

    @pytest.fixture
    async def arena(self, at: Stage) -> AsyncIterator[Arena]:
        async with sourced(at, patience_s=3) as source:
            yield arena_on(at, source)


# ---- what is sent


async def test_who_asks_is_told_and_nothing_else(at: Stage) -> None:
    at.told.page_is = listing()
    at.told.file_is = b"wheel"
    async with sourced(at) as source:
        await source.page(PAGE, Known('"leeward-old"', "Sat, 01 Jan 2022 00:00:00 GMT", 3, max_age_s=10.0))
        async with source.file(WHEEL, ENTRY, 2, '"v"') as stream:
            await collect(stream)
    page, file = at.seen()
    assert dict(page.headers) == {
        "host": f"127.0.0.1:{at.at.port}",
        "user-agent": "leeward/1.0",
        "via": "1.1 leeward",
        "cdn-loop": "leeward; id=edge-7",
        "authorization": EDGE,
        "accept": wire.PAGE_TYPE,
        "accept-encoding": "gzip",
        "if-none-match": '"leeward-old"',
        "cache-control": "max-age=10",
    }
    assert (page.target, file.target) == (wire.page_path(PAGE), wire.file_path(WHEEL))
    assert [file.header(name) for name in ("range", "if-range", "accept-encoding", "prefer")] == [
        "bytes=2-",
        '"v"',
        "identity",
        "wait=30",
    ]
    assert at.told.asked_within == [10.0]


async def test_what_a_registry_gave_as_validator_means_nothing_to_a_node(at: Stage) -> None:
    at.told.page_is = listing()
    async with sourced(at) as source:
        assert isinstance(await source.page(PAGE, Known('"upstreams"', "Sat, 01 Jan 2022 00:00:00 GMT")), Received)
    assert at.seen()[0].header("if-none-match") is None
    assert at.seen()[0].header("if-modified-since") is None


async def test_connections_are_used_again(at: Stage) -> None:
    at.told.page_is = listing()
    at.told.file_is = BODY
    async with sourced(at) as source:
        for _ in range(3):
            await source.page(PAGE, None)
            async with source.file(WHEEL, ENTRY) as stream:
                await collect(stream)
            await source.exists(WHEEL, "")
    assert len(at.seen()) == 9
    assert at.contexts.times == 2, "one for all, and that of the first knock"


async def test_another_key_than_the_pinned_one_is_told_nothing(at: Stage, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Key.make(tmp_path / "other")
    link = at.link(pin=other.pin)
    async with sourced(at, link=link) as source:
        for _ in range(2):
            with pytest.raises(Unavailable, match=r"does not answer|another one"):
                await source.page(PAGE, None)
        assert not source.available("pypi", "page")
    with pytest.raises(Unavailable, match="its key is another one"):
        await link.request("GET", "/v1/ping", timeout_s=5, limit_bytes=100)
    assert at.at.seen == []


@pytest.mark.parametrize(("url", "pin"), [("http://127.0.0.1:9090", bytes(32)), ("ftp://x", None), ("nonsense", None)])
def test_an_address_that_cannot_be_asked_is_none(url: str, pin: bytes | None) -> None:
    with pytest.raises(ValueError, match="URL|TLS"):
        Link(url, pin, str, clock=lambda: NOW, metrics=Metrics(), user_agent="", deployment_id="")


async def test_an_address_may_have_a_path(at: Stage) -> None:
    paths: list[str] = []

    async def note(request: Request) -> Response:
        paths.append(request.target)
        return Response(204)

    at.handle = note
    link = at.link(path="/lee/")
    assert (await link.request("GET", "/v1/ping", timeout_s=5, limit_bytes=100)).status == 204
    assert paths == ["/lee/v1/ping"]
    await link.aclose()


async def test_a_message_is_asked_for_over_the_same_link(at: Stage) -> None:
    heard: list[int] = []

    async def answer(request: Request) -> Response:
        if request.target == "/v1/large":
            return Response(200, [], bytes(2000))
        if request.target == "/v1/slow":
            await trio.sleep_forever()
        return Response(200, [(wire.VERDICTS, "12"), ("X-Method", request.method)], request.body)

    at.handle = answer
    link = at.link()
    link.on_verdicts = heard.append
    reply = await link.request(
        "POST", "/v1/offers", b"[1]", (("content-type", "application/json"),), timeout_s=5, limit_bytes=100
    )
    assert (reply.status, reply.body, dict(reply.headers)["x-method"]) == (200, b"[1]", "POST")
    assert heard == [12]
    with pytest.raises(Corrupt, match="more than 100"):
        await link.request("GET", "/v1/large", timeout_s=5, limit_bytes=100)
    with pytest.raises(Unavailable, match="has not answered"):
        await link.request("GET", "/v1/slow", timeout_s=0.05, limit_bytes=100)
    await link.aclose()


# ---- pages


async def test_a_page_brings_all_that_the_origin_knows_of_it(at: Stage) -> None:
    restrictions = {"1.0": Refuse("a worm", "recall-7"), "2.0": Hold(5.0, "young", "age")}
    at.told.page_is = listing(b'{"name":"six"}' * 100_000, serial=9, restrictions=restrictions, restricted_at=4.0)
    at.told.confirmed_ago_s, at.told.fresh_s = 60.0, 500.0
    async with sourced(at) as source:
        answer = await source.page(PAGE, None)
    assert isinstance(answer, Received)
    assert (answer.body, answer.prepared, answer.serial) == (b'{"name":"six"}' * 100_000, True, 9)
    assert (answer.restrictions, answer.restricted_at) == (restrictions, 4.0)
    assert (answer.stamp.fresh_until, answer.stamp.stale_until) == (NOW + 500, NOW + 86400)
    assert answer.received_at == NOW - 60
    assert answer.trail == "leeward-origin; hit"
    assert wire.is_page_etag(answer.etag)
    assert at.seen()[0].header("accept-encoding") == "gzip"


async def test_a_confirmed_page_and_an_absence_say_how_long_they_hold(at: Stage) -> None:
    at.told.page_is = listing()
    async with sourced(at) as source:
        first = await source.page(PAGE, None)
        assert isinstance(first, Received)
        at.told.fresh_s, at.told.cache_status = -5.0, "hit; detail=upstream-down"
        again = await source.page(PAGE, Known(first.etag))
        assert isinstance(again, NotModified)
        assert again.stamp.fresh_until == NOW - 5
        assert again.trail == "leeward-origin; hit; detail=upstream-down"
        at.told.page_is = NotFound("no such page")
        absent = await source.page(PAGE, None)
        assert isinstance(absent, Absent)
        assert (absent.prepared, absent.stamp.fresh_until) == (True, NOW + 30)


async def test_a_trail_of_several_nodes_is_kept_in_order(at: Stage) -> None:
    at.told.page_is, at.told.cache_status = listing(), "fwd=uri-miss; stored, other-leeward; hit"
    async with sourced(at) as source:
        answer = await source.page(PAGE, None)
    assert isinstance(answer, Received)
    assert answer.trail == "leeward-origin; fwd=uri-miss; stored, other-leeward; hit"


def framed(body: bytes, *fields: tuple[str, str]) -> Handler:
    async def answer(_: Request) -> Response:
        return Response(200, [("Content-Type", wire.PAGE_TYPE), (wire.STAMP, wire.stamp_text(1, 2)), *fields], body)

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        framed(b"no newline"),
        framed(b'{"wrong": 1}\n{}'),
        framed(wire.frame_page(wire.PageFacts(media_type="x"), b"{}"), ("Repr-Digest", f"sha-256=:{'A' * 43}=:")),
    ],
)
async def test_what_is_no_page_or_not_the_one_it_was_told_to_be_is_corrupt(answer: Handler, at: Stage) -> None:
    async with sourced(at) as source:
        at.handle = answer
        with pytest.raises(Corrupt):
            await source.page(PAGE, None)


# ---- what is said instead


@pytest.mark.parametrize(
    ("verdict", "document"),
    [(Refuse("a worm", "recall-7"), {}), (Hold(7.0, "too young", "age"), {"until": 7.0})],
)
async def test_a_refusal_is_passed_on_as_it_is(verdict: Refuse | Hold, document: dict[str, object], at: Stage) -> None:
    at.told.page_is = at.told.file_is = at.told.relay_is = Refused(verdict)
    async with sourced(at) as source:
        for call in (lambda: source.page(PAGE, None), lambda: source.exists(WHEEL, ""), lambda: source.relay(RELAY)):
            with pytest.raises(Refused) as caught:
                await call()
            assert caught.value.verdict == verdict
        with pytest.raises(Refused) as caught:
            async with source.file(WHEEL, ENTRY):
                pytest.fail("nothing can be opened")
        assert caught.value.verdict == verdict
        assert source.available("pypi", "page")


async def test_an_edge_that_was_dismissed_is_told_what_to_do(at: Stage) -> None:
    async with sourced(at, link=at.link("Bearer unknown")) as source:
        with pytest.raises(Unavailable, match="does not know this edge any more: `origin invite`"):
            await source.page(PAGE, None)


def status(code: int, *fields: tuple[str, str], **problem: object) -> Handler:
    async def answer(request: Request) -> Response:
        if request.target == "/v1/ping":
            return Response(204)
        return Response(code, list(fields), msgspec.json.encode(problem) if problem else b"<html>")

    return answer


@pytest.mark.parametrize(
    ("answer", "message", "retry_after_s"),
    [
        (status(503, ("Retry-After", "17"), detail="the registry hangs"), "the registry hangs", 17),
        (status(500), "answers 500", 5),
        (status(404), "answers 404", 5),
        (status(508, detail="a loop"), "answers 508: a loop", 5),
        (status(302, ("Location", "https://elsewhere.test/")), "answers 302", 5),
    ],
)
async def test_whatever_else_is_said_means_that_it_cannot_answer_now(
    answer: Handler, message: str, retry_after_s: int, at: Stage
) -> None:
    async with sourced(at) as source:
        at.handle = answer
        with pytest.raises(Unavailable, match=message) as caught:
            await source.page(PAGE, None)
        assert caught.value.retry_after_s == retry_after_s
        assert source.available("pypi", "page"), "somebody is there"


async def test_what_is_refused_without_a_reason_that_can_be_read_is_looked_for_nowhere_else(at: Stage) -> None:
    async with sourced(at) as source:
        at.handle = status(403)
        with pytest.raises(Refused, match="refuses it"):
            await source.page(PAGE, None)
        with pytest.raises(Refused, match="refuses it"):
            async with source.file(WHEEL, ENTRY):
                pytest.fail("nothing can be opened")


async def test_wrong_bytes_above_are_wrong_bytes_here(at: Stage) -> None:
    at.told.page_is = at.told.file_is = Corrupt("the registry sent a login page")
    async with sourced(at) as source:
        with pytest.raises(Corrupt, match="login page"):
            await source.page(PAGE, None)
        with pytest.raises(Corrupt, match="login page"):
            async with source.file(WHEEL, ENTRY):
                pytest.fail("nothing can be opened")


async def test_who_is_told_to_ask_less_often_waits(at: Stage) -> None:
    async with sourced(at) as source:
        at.handle = status(429, ("Retry-After", "60"))
        with pytest.raises(Unavailable):
            await source.page(PAGE, None)
        assert not source.available("pypi", "page")
        with pytest.raises(Unavailable, match="asked us to wait"):
            await source.page(PAGE, None)
        assert len(at.seen()) == 1


async def test_a_relay_tells_of_the_request_itself(at: Stage) -> None:
    async with sourced(at) as source:
        at.told.relay_is = NotFound("offers nothing of the kind")
        assert (await source.relay(RELAY)).status == 404
        at.told.relay_is = b'{"objects":[]}'
        assert await source.relay(RELAY) == Relayed(200, b'{"objects":[]}')
        assert at.seen("relays/")[-1].method == "POST"


# ---- files


async def test_a_file_tells_its_digest_and_where_it_came_from(at: Stage) -> None:
    at.told.file_is = BODY
    async with sourced(at) as source, source.file(WHEEL, ENTRY) as stream:
        assert [digest.algorithm for digest in stream.head.digests] == ["sha256", "sha256"]
        assert (stream.head.last_modified, stream.head.trail) == ("Tue, 02 Jan 2024 03:04:05 GMT", "leeward-origin; hit")
        assert stream.head.validator == f'"sha256-{stream.head.digests[0].value}"'
        assert await collect(stream) == BODY


# ---- who is there


async def test_a_node_that_is_gone_is_known_before_anybody_asks(at: Stage) -> None:
    at.stop()
    await trio.testing.wait_all_tasks_blocked()
    async with sourced(at) as source:
        assert source.statistics() == {"page": "open", "file": "open"}
        with pytest.raises(Unavailable, match="does not answer"):
            await source.page(PAGE, None)


async def test_a_node_that_hangs_costs_those_who_wait_two_seconds_and_those_who_come_later_nothing(at: Stage) -> None:
    at.told.page_is = listing()
    at.told.file_is = BODY
    async with sourced(at) as source:
        await source.page(PAGE, None)
        at.handle = silent
        started, took = trio.current_time(), []

        async def ask() -> None:
            with pytest.raises(Unavailable, match="does not answer"):
                await source.page(PAGE, None)
            took.append(trio.current_time() - started)

        async def fetch() -> None:
            with pytest.raises(Unavailable, match="does not answer"):
                async with source.file(WHEEL, ENTRY):
                    pytest.fail("nothing can be opened")
            took.append(trio.current_time() - started)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
                nursery.start_soon(fetch)
        assert max(took) < 3
        assert at.pings() == 2, "one knock for all, and that of the start"
        began = trio.current_time()
        await ask()
        assert trio.current_time() - began < 0.2


async def test_a_transfer_whose_node_hangs_midway_is_given_up_soon(at: Stage) -> None:
    at.told.file_is = BODY
    at.told.stalls = True
    async with sourced(at) as source, source.file(WHEEL, ENTRY) as stream:
        at.handle = silent
        with trio.fail_after(4), pytest.raises(Unavailable, match="does not answer"):
            await collect(stream)


async def test_a_node_that_is_at_work_is_waited_for(at: Stage) -> None:
    at.told.page_is = listing()
    face, may_go = at.handle, trio.Event()

    async def slow(request: Request) -> Response:
        if request.target != "/v1/ping":
            await may_go.wait()
        return await face(request)

    async with sourced(at) as source, trio.open_nursery() as nursery:
        at.handle = slow
        answers: list[object] = []

        async def ask() -> None:
            answers.append(await source.page(PAGE, None))

        nursery.start_soon(ask)
        await settled(lambda: at.pings() == 2)
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert source.available("pypi", "page"), "it answered the knock"
        may_go.set()
        await settled(lambda: answers)
        assert isinstance(answers[0], Received)


async def test_patience_has_an_end(at: Stage) -> None:
    async def slow(request: Request) -> Response:
        if request.target != "/v1/ping":
            await trio.sleep_forever()
        return Response(204)

    async with sourced(at, patience_s=0.2) as source:
        at.handle = slow
        with pytest.raises(Unavailable, match="has not answered"):
            await source.page(PAGE, None)


async def test_a_node_that_is_heard_of_elsewhere_is_asked_again_at_once(at: Stage) -> None:
    at.told.page_is = listing()
    face = at.handle
    link = at.link()
    async with sourced(at, link=link) as source:
        at.handle = silent
        with pytest.raises(Unavailable):
            await source.page(PAGE, None)
        assert source.statistics()["page"] == "open"
        at.handle = face
        # The follower's poll is answered again.
        assert (await link.request("GET", "/v1/ping", timeout_s=5, limit_bytes=100)).status == 204
        with trio.fail_after(2):
            await settled(lambda: source.statistics()["page"] == "closed")
        assert isinstance(await source.page(PAGE, None), Received)
