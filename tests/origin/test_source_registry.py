"""The registries themselves: the contract, then what is sent, what comes back, and when it is asked for again."""

from __future__ import annotations

import gzip
import hashlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import trio

from origin.errors import Corrupt, Unavailable
from origin.metrics import Metrics
from origin.model import Digest, Entry, File, Page
from origin.registries.pypi import PyPI
from origin.sources import Absent, Known, NotModified, Received
from origin.sources.lines import LINES
from origin.sources.registry import Upstream
from tests.answering import Answering, Reply, answering
from tests.contracts.sources import BODY, Arena, SourceContract, collect
from tests.registry_bench import BRIEF, NOW, PAGE, PATIENT, RELAY, WHEEL, Bench, bench, document, revalidated, source_of, stored


@pytest.fixture
async def at() -> AsyncIterator[Bench]:
    async with bench() as made:
        yield made


class TestContract(SourceContract):
    """The contract over a registry."""

    @pytest.fixture
    async def arena(self) -> AsyncIterator[Arena]:
        metrics = Metrics()
        async with trio.open_nursery() as nursery:
            life = trio.CancelScope()

            async def serve(task_status: trio.TaskStatus[Answering]) -> None:
                with life:
                    async with answering() as upstream:
                        task_status.started(upstream)
                        await trio.sleep_forever()

            upstream: Answering = await nursery.start(serve)
            source = source_of(upstream.url + "simple/", metrics, replace(PATIENT, first_byte_s=2))
            page, file, relay = "/simple/six/", "/files/six.whl", f"/simple/{RELAY.request}"

            def publish(body: bytes, etag: str) -> None:
                upstream.answers[page] = revalidated(body, etag)

            def upload(body: bytes, cut: int | None) -> None:
                upstream.answers[file] = stored(body, cuts=None if cut is None else [cut])

            def everywhere(reply: Reply) -> Callable[[], None]:
                return lambda: upstream.answers.update({page: reply, file: reply, relay: reply})

            yield Arena(
                source,
                PAGE,
                WHEEL,
                Entry(WHEEL, f"{upstream.url}files/six.whl"),
                RELAY,
                publish,
                upload,
                answer=lambda status, body: upstream.answers.update({relay: Reply(status, body)}),
                withdraw=upstream.answers.clear,
                silence=everywhere(Reply(silent=True)),
                fail=everywhere(Reply(503)),
                vanish=life.cancel,
                requests=lambda: len(upstream.asked),
            )
            await source.aclose()
            nursery.cancel_scope.cancel()


# ---- what is sent


async def test_nothing_but_our_own_fields_is_sent(at: Bench) -> None:
    at.page_answers(document())
    at.file_answers(Reply(200, b"wheel"))
    await at.fetch(Known(etag='"old"', last_modified="Sat, 01 Jan 2022 00:00:00 GMT"))
    await at.download()
    page, file = at.upstream.asked
    assert dict(page.fields) == {
        "host": f"127.0.0.1:{at.upstream.port}",
        "user-agent": "leeward/1.0",
        "via": "1.1 leeward",
        "cdn-loop": "leeward; id=edge-7",
        "accept": PyPI("pypi", "http://pypi.test/").ask(PAGE)[0][1],
        "accept-encoding": "gzip",
        "if-none-match": '"old"',
        "if-modified-since": "Sat, 01 Jan 2022 00:00:00 GMT",
    }
    assert file.fields["accept-encoding"] == "identity"
    assert set(file.fields) == {"host", "user-agent", "via", "cdn-loop", "accept", "accept-encoding"}


async def test_no_cookie_comes_back(at: Bench) -> None:
    at.page_answers(document(Set_Cookie="spy=1"))
    answer = await at.fetch()
    await at.fetch()
    assert "cookie" not in at.upstream.asked[1].fields
    assert "set-cookie" not in dict(answer.headers)


async def test_connections_are_used_again(at: Bench) -> None:
    at.upstream.answers["/simple/six/"] = revalidated(b"{}", '"v1"')
    at.file_answers(Reply(200, b"wheel"))
    await at.fetch()
    await at.source.page(PAGE, Known(etag='"v1"'))
    assert isinstance(await at.source.page(Page("pypi", "seven"), None), Absent)
    await at.source.exists(WHEEL, at.entry.url)
    await at.download()
    assert at.upstream.connections == 1
    assert at.sent("page") == 3
    assert at.sent("file") == 2


@pytest.mark.parametrize(
    ("settings", "sent"),
    [
        ({"username": "me", "password": "secret"}, "Basic bWU6c2VjcmV0"),
        ({"token": "t0ken"}, "Bearer t0ken"),
        ({"username": "t0ken"}, "Basic dDBrZW46"),
        ({}, None),
    ],
)
async def test_credentials_go_to_their_own_upstream(settings: dict[str, Any], sent: str | None) -> None:
    async with bench(**settings) as at:
        at.page_answers(document())
        at.file_answers(Reply(200, b"wheel"))
        await at.fetch()
        await at.download()
        assert [asked.fields.get("authorization") for asked in at.upstream.asked] == [sent, sent]
        assert "secret" not in repr(Upstream(registry=PyPI("pypi", "http://pypi.test/"), password="secret"))


async def test_credentials_in_the_upstream_url_are_used_and_hidden() -> None:
    async with answering() as upstream:
        upstream.answers["/simple/six/"] = document()
        metrics = Metrics()
        source = source_of(upstream.url.replace("//", "//me:secret@") + "simple/", metrics)
        answer = await source.page(PAGE, None)
        assert isinstance(answer, Received)
        assert answer.url == upstream.url + "simple/six/"
        assert upstream.asked[0].fields["authorization"] == "Basic bWU6c2VjcmV0"
        await source.aclose()


async def test_credentials_go_nowhere_else() -> None:
    async with bench(token="t0ken", aliases=frozenset({"localhost"})) as at, answering() as other:
        other.answers["/files/six.whl"] = Reply(200, b"wheel")
        other.answers["/simple/six/"] = document()
        at.page_answers(Reply(302, fields={"Location": f"http://localhost:{other.port}/simple/six/"}))
        await at.fetch()
        async with at.source.file(WHEEL, Entry(WHEEL, other.url + "files/six.whl")) as stream:
            assert await collect(stream) == b"wheel"
        assert len(other.asked) == 2
        assert all("authorization" not in asked.fields for asked in other.asked)


# ---- pages


async def test_a_compressed_page_is_decompressed(at: Bench) -> None:
    body = b'{"files": [' + b"0, " * 100_000 + b"0]}"
    at.page_answers(document(gzip.compress(body), Content_Encoding="gzip"))
    assert (await at.fetch()).body == body


async def test_a_page_says_what_it_was(at: Bench) -> None:
    at.page_answers(
        Reply(
            200,
            b"<html>",
            {"Content-Type": "Text/HTML; charset=utf-8", "X-PyPI-Last-Serial": "17", "Cache-Control": "max-age=300"},
        )
    )
    answer = await at.fetch()
    assert (answer.media_type, answer.serial, answer.etag) == ("text/html", 17, None)
    assert NOW + 300 * 0.85 <= answer.stamp.fresh_until <= NOW + 300


async def test_no_page_is_fresh_for_longer_than_the_settings_say() -> None:
    async with bench(fresh_s=60.0) as at:
        at.page_answers(document(Cache_Control="max-age=86400"))
        assert (await at.fetch()).stamp.fresh_until <= NOW + 60


async def test_an_absence_is_believed_for_a_minute_at_most(at: Bench) -> None:
    at.page_answers(Reply(410))
    answer = await at.source.page(PAGE, None)
    assert isinstance(answer, Absent)
    assert NOW + 30 <= answer.stamp.fresh_until <= NOW + 60


async def test_an_older_page_than_the_one_held_is_not_taken(at: Bench) -> None:
    at.page_answers(document(X_PyPI_Last_Serial="99"))
    answer = await at.source.page(PAGE, Known(etag='"held"', serial=100))
    assert isinstance(answer, NotModified)
    assert answer.stamp.fresh_until == NOW + 30
    assert at.failures() == {"serial": 1}
    assert isinstance(await at.source.page(PAGE, Known(etag='"held"', serial=99)), Received)


@pytest.mark.parametrize(
    ("reply", "error", "label"),
    [
        (Reply(200, b"x" * 3000), Corrupt, "oversized"),
        (Reply(200, gzip.compress(b"x" * 3_000_000), {"Content-Encoding": "gzip"}), Corrupt, "oversized"),
        (Reply(200, endless=True), Corrupt, "oversized"),
        (Reply(200, gzip.compress(b"x" * 900)[:-9], {"Content-Encoding": "gzip"}), Corrupt, "parse"),
        (Reply(200, gzip.compress(b"x") + b"rest", {"Content-Encoding": "gzip"}), Corrupt, "parse"),
        (Reply(200, b"not gzip", {"Content-Encoding": "gzip"}), Corrupt, "parse"),
        (Reply(200, b"x", {"Content-Encoding": "br"}), Corrupt, "content-encoding"),
        (Reply(200, b"x" * 500, length=900), Unavailable, "short-body"),
        (Reply(200, b"x" * 500, cut=100), Unavailable, "short-body"),
        (Reply(200, b"x" * 500, cut=100, stalls=True), Unavailable, "slow-body"),
        (Reply(raw=b"SSH-2.0-OpenSSH\r\n\r\n"), Corrupt, "status"),
        (Reply(204), Corrupt, "status"),
        (Reply(206, b"x"), Corrupt, "status"),
        (Reply(304), Corrupt, "status"),
        (Reply(302), Corrupt, "status"),
        (Reply(401), Unavailable, "http-4xx"),
        (Reply(403, b"filtered"), Unavailable, "http-403"),
        (Reply(429), Unavailable, "http-429"),
    ],
)
async def test_a_page_that_cannot_be_used_is_told_by_its_kind(reply: Reply, error: type[Exception], label: str) -> None:
    async with bench(BRIEF if reply.stalls else PATIENT, page_limit_bytes=1000) as at:
        at.page_answers(reply)
        with pytest.raises(error):
            await at.fetch()
        assert at.failures() == {label: 1}
        assert len(at.upstream.asked) == 1
        assert at.source.available("pypi", "page")


async def test_a_body_that_trickles_for_ever_ends() -> None:
    # It stays below its limit and never stalls: only the time for the whole page ends it.
    async with bench(BRIEF) as at:
        at.page_answers(Reply(200, drips=0.02))
        with trio.fail_after(30), pytest.raises(Unavailable):
            await at.fetch()
        assert at.failures() == {"slow-body": 1}


@pytest.mark.parametrize(
    ("value", "wait_s"), [("120", 120), ("999999", 3600), ("Fri, 15 Jan 2027 08:01:00 GMT", 60), ("soon", 5), ("0", 1)]
)
async def test_retry_after_is_passed_on(value: str, wait_s: int, at: Bench) -> None:
    at.page_answers(Reply(503, fields={"Retry-After": value}))
    with pytest.raises(Unavailable) as caught:
        await at.fetch()
    assert caught.value.retry_after_s == wait_s


async def test_an_upstream_that_limits_us_is_left_alone_until_it_said(at: Bench) -> None:
    at.page_answers(Reply(429, fields={"Retry-After": "60"}))
    for _ in range(3):
        with pytest.raises(Unavailable) as caught:
            await at.fetch()
        assert 59 <= caught.value.retry_after_s <= 60
    assert len(at.upstream.asked) == 1
    assert not at.source.available("pypi", "page")


# ---- asking again


@pytest.mark.parametrize("first", [Reply(500), Reply(502), Reply(raw=b"")])
async def test_a_passing_failure_is_hidden(first: Reply, at: Bench) -> None:
    at.page_answers(first, first, document(b"third"))
    assert (await at.fetch()).body == b"third"
    assert at.sent("page") == 3


async def test_three_attempts_are_enough(at: Bench) -> None:
    at.page_answers(Reply(500))
    with pytest.raises(Unavailable):
        await at.fetch()
    assert at.sent("page") == 3
    assert at.failures() == {"http-5xx": 3}


async def test_retries_stop_when_their_budget_is_used_up(at: Bench) -> None:
    at.page_answers(Reply(500))
    for _ in range(30):
        with pytest.raises(Unavailable):
            await at.fetch()
    assert at.sent("page") == 30 + 10 + 2


@pytest.mark.parametrize("fault", [Reply(silent=True), Reply(500), Reply(raw=b"")])
async def test_a_conditional_request_that_fails_is_repeated_plainly(fault: Reply) -> None:
    async with bench(BRIEF) as at:
        at.upstream.answers["/simple/six/"] = lambda asked: fault if "if-none-match" in asked.fields else document(b"plain")
        for _ in range(4):
            assert (await at.fetch(Known(etag='"v1"'))).body == b"plain"
        assert ["if-none-match" in asked.fields for asked in at.upstream.asked] == [True, False] * 4
        assert at.source.statistics() == {"pypi": {"page": "closed", "file": "closed", "relay": "closed"}}


# ---- redirects


async def test_a_redirect_is_followed_and_the_last_url_told(at: Bench) -> None:
    at.page_answers(Reply(301, b"moved", {"Location": "../Six/"}))
    at.upstream.answers["/simple/Six/"] = document(b"there")
    answer = await at.fetch()
    assert (answer.body, answer.url) == (b"there", at.upstream.url + "simple/Six/")
    assert at.upstream.connections == 1


@pytest.mark.parametrize(
    ("location", "label"),
    [
        ("/simple/six/", "redirect-loop"),
        ("/a", "redirect-loop"),
        ("http://elsewhere.test/simple/six/", "redirect-host"),
        ("ftp://127.0.0.1/x", "redirect-host"),
        ("http://[", "redirect-host"),
    ],
)
async def test_a_redirect_that_leads_nowhere_good_is_not_followed(location: str, label: str, at: Bench) -> None:
    at.page_answers(Reply(302, fields={"Location": location}))
    at.upstream.answers["/a"] = Reply(302, fields={"Location": "/b"})
    at.upstream.answers["/b"] = Reply(302, fields={"Location": "/a"})
    with pytest.raises(Corrupt):
        await at.fetch()
    assert at.failures() == {label: 1}


@pytest.mark.parametrize(("kind", "allowed"), [("page", 5), ("file", 3)])
async def test_so_many_redirects_are_followed_and_no_more(kind: str, allowed: int, at: Bench) -> None:
    def chain(length: int) -> None:
        first = "/simple/six/" if kind == "page" else "/files/six-1.0-py3-none-any.whl"
        stops = [first, *(f"/stop{number}" for number in range(length))]
        for here, there in pairwise(stops):
            at.upstream.answers[here] = Reply(307, fields={"Location": there})
        at.upstream.answers[stops[-1]] = document(b"end")

    async def fetch() -> bytes:
        return (await at.fetch()).body if kind == "page" else await at.download()

    chain(allowed)
    assert await fetch() == b"end"
    chain(allowed + 1)
    with pytest.raises(Corrupt):
        await fetch()


# ---- files


async def test_a_file_is_taken_up_where_it_broke(at: Bench) -> None:
    at.upstream.answers["/files/six-1.0-py3-none-any.whl"] = stored(BODY)
    async with at.open(1000, '"f1"') as stream:
        assert (stream.head.start, stream.head.size, stream.head.validator) == (1000, len(BODY), '"f1"')
        assert await collect(stream) == BODY[1000:]
    assert at.upstream.asked[0].fields["range"] == "bytes=1000-"
    assert at.upstream.asked[0].fields["if-range"] == '"f1"'


async def test_a_file_that_changed_meanwhile_comes_from_its_start(at: Bench) -> None:
    at.upstream.answers["/files/six-1.0-py3-none-any.whl"] = stored(BODY, etag='"f2"')
    async with at.open(1000, '"f1"') as stream:
        assert stream.head.start == 0
        assert await collect(stream) == BODY


@pytest.mark.parametrize(
    "told", ["bytes 0-9/10", "bytes 6-9/10", "bytes 5-8/10", "bytes 5-9/*", "bytes 5-9/11", "bits 5-9/10", "bytes */10", ""]
)
async def test_a_range_other_than_asked_for_is_not_taken(told: str, at: Bench) -> None:
    at.file_answers(Reply(206, b"56789", {"Content-Range": told}))
    with pytest.raises(Corrupt):
        async with at.open(5):
            pytest.fail("a wrong range was taken")
    assert at.failures() == {"range": 1}


@pytest.mark.parametrize(
    ("fields", "validator"),
    [
        ({"ETag": '"strong"'}, '"strong"'),
        ({"ETag": 'W/"weak"', "Last-Modified": "Sat, 01 Jan 2022 00:00:00 GMT"}, None),
        ({"Last-Modified": "Sat, 01 Jan 2022 00:00:00 GMT"}, "Sat, 01 Jan 2022 00:00:00 GMT"),
        ({}, None),
    ],
)
async def test_only_a_strong_validator_is_kept(fields: dict[str, str], validator: str | None, at: Bench) -> None:
    at.file_answers(Reply(200, b"wheel", fields))
    async with at.open() as stream:
        assert stream.head.validator == validator


async def test_digests_told_in_fields_are_passed_on(at: Bench) -> None:
    sha1 = hashlib.sha1(b"wheel", usedforsecurity=False).hexdigest()
    repr_digest = "sha-256=:q0SSqmsb4rUnN3SEYuQUUHmqYQxMB8wzcqBmyc1Kdmk=:, md5=:AAAA:"
    at.file_answers(Reply(200, b"wheel", {"X-Checksum-SHA1": sha1, "X-Checksum-MD5": "no", "Repr-Digest": repr_digest}))
    async with at.open() as stream:
        assert [digest.algorithm for digest in stream.head.digests] == ["sha1", "sha256"]
        assert stream.head.digests[0] == Digest("sha1", sha1)


async def test_a_file_without_a_length_has_no_size(at: Bench) -> None:
    at.file_answers(Reply(200, b"wheel", length=-1))
    async with at.open() as stream:
        assert stream.head.size is None
        assert await collect(stream) == b"wheel"


@pytest.mark.parametrize(
    ("reply", "error", "label"),
    [
        (Reply(200, b"x" * 500, length=900), Unavailable, "short-body"),
        (Reply(200, b"x" * 500, cut=100), Unavailable, "short-body"),
        (Reply(200, b"x" * 500, cut=100, stalls=True), Unavailable, "slow-body"),
        (Reply(200, b"x" * 2000), Corrupt, "oversized"),
        (Reply(200, b"x" * 2000, length=-1), Corrupt, "oversized"),
        (Reply(200, endless=True), Corrupt, "oversized"),
        (Reply(200, b"x", {"Content-Encoding": "gzip"}), Corrupt, "content-encoding"),
        (Reply(416), Unavailable, "http-4xx"),
    ],
)
async def test_a_file_that_cannot_be_used_is_told_by_its_kind(reply: Reply, error: type[Exception], label: str) -> None:
    async with bench(BRIEF if reply.stalls else PATIENT, file_limit_bytes=1000) as at:
        at.file_answers(reply)
        with pytest.raises(error):
            await at.download()
        assert at.failures() == {label: 1}


def sidecar_of(wheel: File, ending: str) -> File:
    return File(wheel.registry, wheel.project, wheel.version, wheel.filename + ending, wheel.path + ending)


@pytest.mark.parametrize("ending", [".metadata", ".asc"])
async def test_a_sidecar_has_a_limit_of_its_own(ending: str) -> None:
    async with bench(sidecar_limit_bytes=10) as at:
        at.file_answers(Reply(200, b"x" * 11))
        sidecar = sidecar_of(WHEEL, ending)
        with pytest.raises(Corrupt):
            async with at.source.file(sidecar, at.entry):
                pytest.fail("too large a sidecar was taken")


@pytest.mark.parametrize("status", [405, 501])
async def test_existence_is_learnt_without_head_too(status: int, at: Bench) -> None:
    at.upstream.answers["/there"] = lambda asked: Reply(status) if asked.method == "HEAD" else Reply(206, b"x")
    at.upstream.answers["/gone"] = lambda asked: Reply(status) if asked.method == "HEAD" else Reply(404)
    assert await at.source.exists(WHEEL, at.upstream.url + "there")
    assert at.upstream.asked[1].fields["range"] == "bytes=0-0"
    assert not await at.source.exists(WHEEL, at.upstream.url + "gone")


async def test_no_more_transfers_than_allowed_run_at_once() -> None:
    async with bench(BRIEF, files_at_once=1) as at:
        at.file_answers(Reply(200, b"wheel"))
        async with at.open():
            with pytest.raises(Unavailable, match="too many"):
                await at.download()
        assert await at.download() == b"wheel"
        assert at.failures() == {"busy": 1}


async def test_sidecars_and_probes_do_not_queue_behind_wheels() -> None:
    async with bench(BRIEF, files_at_once=1, sidecars_at_once=1) as at:
        at.file_answers(Reply(200, b"wheel"))
        metadata, signature = sidecar_of(WHEEL, ".metadata"), sidecar_of(WHEEL, ".asc")
        async with at.open():
            assert await at.source.exists(WHEEL, at.entry.url)
            async with at.source.file(metadata, at.entry) as stream:
                assert await collect(stream) == b"wheel"
                with pytest.raises(Unavailable, match="too many"):
                    async with at.source.file(signature, at.entry):
                        pytest.fail("there was a place for it")


async def test_a_validator_comes_back_in_the_octets_it_came_in(at: Bench) -> None:
    at.page_answers(document(etag='"caf\xe9"'))
    answer = await at.fetch()
    await at.fetch(Known(etag=answer.etag))
    assert at.upstream.asked[1].fields["if-none-match"] == '"caf\xe9"'


async def test_a_file_without_bytes_comes(at: Bench) -> None:
    at.file_answers(Reply(200, b""))
    assert await at.download() == b""


async def test_a_dead_file_host_stops_no_other(at: Bench) -> None:
    at.file_answers(Reply(200, b"wheel"))
    assert await at.download() == b"wheel"
    # Taken, so that nobody else gets it, and not listened on.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        dead = Entry(WHEEL, f"http://127.0.0.1:{taken.getsockname()[1]}/six.whl")
        for _ in range(3):
            with pytest.raises(Unavailable):
                async with at.source.file(WHEEL, dead):
                    pytest.fail("somebody answered")
    assert at.source.statistics()["pypi"] == {"page": "closed", "file": "open", "relay": "closed"}
    labels = {"registry": "pypi", "kind": "file"}
    assert at.metrics.registry.get_sample_value("leeward_breaker_open", labels) == 1
    assert at.source.available("pypi", "file")
    assert await at.download() == b"wheel"


async def test_hosts_that_listings_name_are_not_remembered_without_end(at: Bench) -> None:
    lines = at.source._links["pypi"].lines["file"]
    for number in range(1000):
        lines.to(f"files{number}.test").breaker.open(trio.current_time())
    assert len(lines._lines) == LINES
    for host in list(lines._lines):
        line = lines.to(host)
        permit = line.breaker.admit(trio.current_time() + 100)
        assert permit is not None
        line.breaker.succeed(permit)
    assert at.metrics.registry.get_sample_value("leeward_breaker_open", {"registry": "pypi", "kind": "file"}) == 0


async def test_what_arrives_is_counted(at: Bench) -> None:
    at.file_answers(Reply(200, b"x" * 5000))
    await at.download()
    assert at.metrics.registry.get_sample_value("leeward_upstream_received_bytes_total") == 5000
