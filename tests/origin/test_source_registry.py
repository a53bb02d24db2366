"""The registries themselves: the contract, then what is theirs alone, over real loopback sockets."""

from __future__ import annotations

import gzip
import hashlib
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from trio.testing import MockClock

from origin.errors import Corrupt, NotFound, Unavailable
from origin.metrics import Metrics
from origin.model import Digest, Entry, File, Page
from origin.registries.pypi import PyPI
from origin.sources import Absent, FileStream, Known, NotModified, Received
from origin.sources.connect import network_of, trust
from origin.sources.registry import RegistrySource, Timeouts, Upstream
from origin.sources.retries import RetryBudget, pause_s, retry_after_s
from tests.answering import Answering, Asked, Reply, answering
from tests.contracts.sources import BODY, Arena, SourceContract, collect

NOW = 1_800_000_000.0
JSON = "application/vnd.pypi.simple.v1+json"
PAGE = Page("pypi", "six")
WHEEL = File("pypi", "six", "1.0", "six-1.0-py3-none-any.whl", "packages/six-1.0-py3-none-any.whl")
PATIENT = Timeouts()
BRIEF = Timeouts(first_byte_s=2, stall_s=0.2, page_s=0.5, queue_s=0.2)
"""For tests in which waiting is the point. (The others must pass on a machine that has other things to do.)"""


def document(body: bytes = b"{}", etag: str = '"v1"', **fields: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return Reply(200, body, {"Content-Type": f"{JSON}; charset=utf-8", "ETag": etag, **named})


def revalidated(body: bytes, etag: str) -> Callable[[Asked], Reply]:
    def answer(asked: Asked) -> Reply:
        if asked.fields.get("if-none-match") == etag:
            return Reply(304, fields={"ETag": etag, "Cache-Control": "max-age=600"})
        return document(body, etag)

    return answer


def stored(body: bytes, *, cuts: list[int] | None = None, etag: str | None = '"f1"') -> Callable[[Asked], Reply]:
    """A file that honours ranges."""
    waiting = list(cuts or [])

    def answer(asked: Asked) -> Reply:
        fields = {"Content-Type": "application/octet-stream"} | ({"ETag": etag} if etag else {})
        cut = waiting.pop(0) if waiting else None
        wanted = asked.fields.get("range")
        if wanted is None or asked.fields.get("if-range", etag) != etag:
            return Reply(200, body, fields, cut=cut)
        start = int(wanted.removeprefix("bytes=").removesuffix("-").split("-")[0])
        return Reply(206, body[start:], fields | {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}, cut=cut)

    return answer


@dataclass
class Bench:
    """A source on one upstream."""

    source: RegistrySource
    upstream: Answering
    metrics: Metrics

    @property
    def entry(self) -> Entry:
        return Entry(WHEEL, self.upstream.url + "files/six-1.0-py3-none-any.whl")

    def page_answers(self, *replies: Reply) -> None:
        self.upstream.answers["/simple/six/"] = list(replies)

    def file_answers(self, *replies: Reply) -> None:
        self.upstream.answers["/files/six-1.0-py3-none-any.whl"] = list(replies)

    async def fetch(self, known: Known | None = None) -> Received:
        answer = await self.source.page(PAGE, known)
        assert isinstance(answer, Received)
        return answer

    @asynccontextmanager
    async def open(self, start: int = 0, validator: str | None = None) -> AsyncIterator[FileStream]:
        async with self.source.file(WHEEL, self.entry, start, validator) as stream:
            yield stream

    async def download(self) -> bytes:
        async with self.open() as stream:
            return await collect(stream)

    def sent(self, kind: str) -> float:
        labels = {"registry": "pypi", "kind": kind, "source": "registry"}
        return self.metrics.registry.get_sample_value("leeward_upstream_requests_total", labels) or 0

    def failures(self) -> dict[str, float]:
        samples = [s for family in self.metrics.upstream_failures.collect() for s in family.samples]
        return {s.labels["failure"]: s.value for s in samples if s.name.endswith("_total")}


def source_of(url: str, metrics: Metrics, timeouts: Timeouts = PATIENT, **settings: Any) -> RegistrySource:
    config = replace(Upstream(registry=PyPI("pypi", url), timeouts=timeouts), **settings)
    return RegistrySource(
        {"pypi": config},
        clock=lambda: NOW,
        metrics=metrics,
        user_agent="leeward/1.0",
        deployment_id="edge-7",
        rng=random.Random(1),
    )


@asynccontextmanager
async def bench(timeouts: Timeouts = PATIENT, context: ssl.SSLContext | None = None, **settings: Any) -> AsyncIterator[Bench]:
    metrics = Metrics()
    async with answering(context=context) as upstream:
        source = source_of(upstream.url + "simple/", metrics, timeouts, **settings)
        try:
            yield Bench(source, upstream, metrics)
        finally:
            await source.aclose()


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
            page, file = "/simple/six/", "/files/six.whl"

            def publish(body: bytes, etag: str) -> None:
                upstream.answers[page] = revalidated(body, etag)

            def upload(body: bytes, cut: int | None) -> None:
                upstream.answers[file] = stored(body, cuts=None if cut is None else [cut])

            def everywhere(reply: Reply) -> Callable[[], None]:
                return lambda: upstream.answers.update({page: reply, file: reply})

            yield Arena(
                source,
                PAGE,
                WHEEL,
                Entry(WHEEL, f"{upstream.url}files/six.whl"),
                publish,
                upload,
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
    async with bench(BRIEF, page_limit_bytes=10**12) as at:
        at.page_answers(Reply(200, endless=True))
        with trio.fail_after(30), pytest.raises(Corrupt):
            await at.fetch()


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
        assert at.source.statistics() == {"pypi": {"page": "closed", "file": "closed"}}


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


async def test_a_sidecar_has_a_limit_of_its_own() -> None:
    async with bench(sidecar_limit_bytes=10) as at:
        at.file_answers(Reply(200, b"x" * 11))
        sidecar = File("pypi", "six", "1.0", WHEEL.filename + ".metadata", WHEEL.path + ".metadata")
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


async def test_what_arrives_is_counted(at: Bench) -> None:
    at.file_answers(Reply(200, b"x" * 5000))
    await at.download()
    assert at.metrics.registry.get_sample_value("leeward_upstream_received_bytes_total") == 5000


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
    ],
)
def test_addresses_are_told_apart(text: str, network: str) -> None:
    assert network_of(ip_address(text)) == network


class Names(trio.abc.HostnameResolver):
    """A name service in the tests' hands."""

    def __init__(self, table: dict[str, list[str]]) -> None:
        self.table = table
        self.asked: list[str] = []

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002 -- the protocol's name
        proto: int = 0,
        flags: int = 0,
    ) -> list[tuple[Any, ...]]:
        name = (host or b"").decode()
        self.asked.append(name)
        if name not in self.table:
            raise OSError(-2, "Name or service not known")
        return [(trio.socket.AF_INET, trio.socket.SOCK_STREAM, 6, "", (address, int(port or 0))) for address in self.table[name]]

    async def getnameinfo(self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int) -> tuple[str, str]:
        raise AssertionError("nobody asks backwards")


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


# ---- time: a clock that stands still unless told to jump


async def test_a_silent_upstream_costs_ten_seconds_then_nothing(mock_clock: MockClock) -> None:
    async with bench(PATIENT) as at, trio.open_nursery() as nursery:
        at.page_answers(Reply(silent=True))

        async def fail(seconds: float) -> None:
            asked = len(at.upstream.asked)
            started = trio.current_time()
            done = trio.Event()

            async def client() -> None:
                with pytest.raises(Unavailable):
                    await at.fetch()
                done.set()

            nursery.start_soon(client)
            await at.upstream.wait_asked(asked + 1)
            mock_clock.jump(seconds - 0.1)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not done.is_set()
            mock_clock.jump(0.1)
            await done.wait()
            assert trio.current_time() - started == pytest.approx(seconds)

        for _ in range(3):
            await fail(10)
        assert at.source.statistics()["pypi"] == {"page": "open", "file": "closed"}
        with pytest.raises(Unavailable):
            await at.fetch()  # at once: the clock stands still
        mock_clock.jump(6)
        await fail(2)  # the probe
        at.page_answers(document())
        with pytest.raises(Unavailable):
            await at.fetch()
        mock_clock.jump(12)
        await at.fetch()
        assert at.source.statistics()["pypi"] == {"page": "closed", "file": "closed"}


class SilentNames(Names):
    """A name service that swallows questions, as a black hole swallows packets: it cannot be connected."""

    async def getaddrinfo(self, *arguments: object, **named: object) -> list[tuple[Any, ...]]:
        self.asked.append(str(arguments[0]))
        await trio.sleep_forever()
        raise AssertionError


async def test_an_upstream_that_cannot_be_connected_costs_two_seconds_with_all_retries(mock_clock: MockClock) -> None:
    names = SilentNames({})
    trio.socket.set_custom_hostname_resolver(names)
    metrics = Metrics()
    source = source_of("http://pypi.test/simple/", metrics, PATIENT)
    for attempts in (1, 2, 3):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                with pytest.raises(Unavailable):
                    await source.page(PAGE, None)

            await trio.testing.wait_all_tasks_blocked(0.01)
            mock_clock.jump(2)
        assert len(names.asked) == attempts
    assert source.statistics()["pypi"]["page"] == "open"
    with pytest.raises(Unavailable):
        await source.page(PAGE, None)
    assert len(names.asked) == 3
    await source.aclose()


async def test_a_request_unanswered_for_a_second_makes_its_upstream_suspect(mock_clock: MockClock) -> None:
    async with bench(PATIENT) as at, trio.open_nursery() as nursery:
        at.page_answers(document())
        await at.fetch()
        assert at.source.available("pypi", "page")
        at.page_answers(Reply(silent=True))
        nursery.start_soon(at.source.page, PAGE, None)
        await at.upstream.wait_asked(2)
        mock_clock.jump(0.9)
        assert at.source.available("pypi", "page")
        mock_clock.jump(0.2)
        assert not at.source.available("pypi", "page")
        assert at.source.available("pypi", "file")
        at.page_answers(document())
        await at.fetch()
        assert at.source.available("pypi", "page")
        nursery.cancel_scope.cancel()


async def test_until_the_first_try_ended_nothing_is_waited_for(mock_clock: MockClock) -> None:
    async with bench(PATIENT) as at, trio.open_nursery() as nursery:
        at.upstream.answers["/simple/"] = [Reply(silent=True), Reply(405)]
        await nursery.start(at.source.run)
        await at.upstream.wait_asked(1)
        assert at.upstream.asked[0].method == "HEAD"
        assert not at.source.available("pypi", "page")
        assert not at.source.available("pypi", "file")
        mock_clock.jump(2)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert at.source.statistics()["pypi"] == {"page": "open", "file": "open"}
        assert at.sent("page") == 1
        # Nobody asks, so the prober does; any answer will do.
        mock_clock.jump(8)
        await at.upstream.wait_asked(3)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert at.source.statistics()["pypi"] == {"page": "closed", "file": "closed"}
        assert at.source.available("pypi", "page")
        assert at.metrics.registry.get_sample_value("leeward_breaker_open", {"registry": "pypi", "kind": "page"}) == 0
        nursery.cancel_scope.cancel()


async def test_an_upstream_that_answers_at_all_is_alive_at_start(at: Bench) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(at.source.run)
        await at.upstream.wait_asked(1)
        with trio.fail_after(5):
            while not at.source.available("pypi", "file"):
                await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()


async def test_an_upstream_that_refuses_connections_is_known_at_once() -> None:
    async with answering() as upstream:
        url = upstream.url
    metrics = Metrics()
    source = source_of(url + "simple/", metrics, PATIENT)
    async with trio.open_nursery() as nursery:
        await nursery.start(source.run)
        with trio.fail_after(1.5):
            while source.statistics()["pypi"]["file"] != "open":
                await trio.testing.wait_all_tasks_blocked(0.01)
            with pytest.raises(Unavailable):
                await source.page(PAGE, None)
        assert metrics.registry.get_sample_value("leeward_breaker_open", {"registry": "pypi", "kind": "page"}) == 1
        nursery.cancel_scope.cancel()


async def test_a_cancelled_request_leaves_nothing_behind(at: Bench) -> None:
    at.file_answers(Reply(silent=True))
    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(at.download)
        await at.upstream.wait_asked(16)
        nursery.cancel_scope.cancel()
    at.file_answers(Reply(200, b"wheel"))
    assert await at.download() == b"wheel"
    assert at.source.statistics()["pypi"]["file"] == "closed"


async def test_a_clean_absence_of_a_file_is_no_failure(at: Bench) -> None:
    with pytest.raises(NotFound):
        await at.download()
    assert at.failures() == {}


# ---- asking again, purely


def test_the_budget_allows_a_tenth() -> None:
    budget = RetryBudget(capacity=2)
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    for _ in range(10):
        budget.earn()
    assert [budget.spend() for _ in range(2)] == [True, False]


@pytest.mark.parametrize("value", [None, "", "soon", "-5", "1.5", "Sat, 99 Foo", "١٢"])
def test_a_retry_after_that_makes_no_sense_is_none(value: str | None) -> None:
    assert retry_after_s(value, NOW) is None


def test_a_huge_retry_after_is_an_hour() -> None:
    assert retry_after_s("9" * 5000, NOW) == 3600


def test_pauses_grow() -> None:
    rng = random.Random(1)
    assert 0.05 <= pause_s(2, rng) <= 0.1 <= pause_s(3, rng) <= 0.2
