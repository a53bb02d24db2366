"""How long a registry is waited for, and when it is asked again."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from origin.errors import NotFound, Unavailable
from origin.metrics import Metrics
from origin.model import Entry
from origin.registries.pypi import PyPI
from origin.sources.registry import Upstream
from origin.sources.retries import Rate, RetryBudget, pause_s, retry_after_s
from tests.answering import Reply, answering
from tests.registry_bench import NOW, PAGE, PATIENT, WHEEL, Bench, Names, bench, document, source_of

SILENT_S = 9.8
DOUBTFUL_S = 1.9
"""How long a source waits for a silent upstream: whoever asked has an answer within 10 s, and within 2 s once that is known."""


@pytest.fixture
async def at() -> AsyncIterator[Bench]:
    async with bench() as made:
        yield made


# ---- time: a clock that stands still unless told to jump


async def test_a_silent_upstream_costs_less_than_ten_seconds_then_nothing(mock_clock: MockClock) -> None:
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
            await fail(SILENT_S)
        assert at.source.statistics()["pypi"] == {"page": "open", "file": "closed", "relay": "closed"}
        with pytest.raises(Unavailable):
            await at.fetch()  # at once: the clock stands still
        mock_clock.jump(6)
        await fail(DOUBTFUL_S)  # the probe
        at.page_answers(document())
        with pytest.raises(Unavailable):
            await at.fetch()
        mock_clock.jump(12)
        await at.fetch()
        assert at.source.statistics()["pypi"] == {"page": "closed", "file": "closed", "relay": "closed"}


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


async def wait(at: Bench, mock_clock: MockClock, what: Callable[[], Awaitable[object]], seconds: float) -> None:
    """Check that it fails as unavailable, and that it takes so many seconds."""
    asked = len(at.upstream.asked)
    done = trio.Event()

    async def client() -> None:
        with pytest.raises(Unavailable):
            await what()
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client)
        await at.upstream.wait_asked(asked + 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(seconds - 0.1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not done.is_set()
        mock_clock.jump(0.1)
        await done.wait()


@pytest.mark.parametrize("cut", [0, 100])
async def test_a_page_whose_body_stalls_is_as_bad_as_silence(cut: int, mock_clock: MockClock) -> None:
    async with bench(PATIENT) as at:
        at.page_answers(document())
        await at.fetch()
        at.page_answers(Reply(200, b"x" * 500, cut=cut, stalls=True))
        for _ in range(3):
            await wait(at, mock_clock, at.fetch, SILENT_S)
            assert not at.source.available("pypi", "page")
        assert at.source.statistics()["pypi"]["page"] == "open"
        mock_clock.jump(6)
        await wait(at, mock_clock, at.fetch, DOUBTFUL_S)  # the probe
        at.page_answers(document())
        mock_clock.jump(12)
        await at.fetch()
        assert at.source.available("pypi", "page")


async def test_a_page_that_takes_its_time_makes_its_upstream_suspect_until_it_came(mock_clock: MockClock) -> None:
    async with bench(PATIENT) as at, trio.open_nursery() as nursery:
        at.page_answers(Reply(200, b"x" * 500, cut=100, stalls=True))
        nursery.start_soon(at.fetch)
        await at.upstream.wait_asked(1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        at.source._links["pypi"].was_tried = True
        assert at.source.available("pypi", "page")
        mock_clock.jump(1.1)
        assert not at.source.available("pypi", "page")
        at.page_answers(document())
        await at.fetch()
        assert at.source.available("pypi", "page")
        nursery.cancel_scope.cancel()


async def test_pages_that_break_off_three_times_open_the_breaker(at: Bench) -> None:
    at.page_answers(Reply(200, b"x" * 500, cut=100))
    for _ in range(3):
        with pytest.raises(Unavailable):
            await at.fetch()
    assert at.source.statistics()["pypi"]["page"] == "open"


async def test_a_file_without_a_first_byte_is_as_bad_as_silence(mock_clock: MockClock) -> None:
    async with bench(PATIENT) as at:
        at.file_answers(Reply(200, b"x" * 500, cut=0, stalls=True))
        for _ in range(3):
            await wait(at, mock_clock, at.download, SILENT_S)
        assert at.source.statistics()["pypi"]["file"] == "open"


async def test_a_file_that_stalls_later_says_nothing_about_its_host(mock_clock: MockClock) -> None:
    async with bench(PATIENT) as at:
        at.file_answers(Reply(200, b"x" * 500, cut=100, stalls=True))
        for _ in range(4):
            await wait(at, mock_clock, at.download, 15)
        assert at.source.available("pypi", "file")


async def test_an_upstream_that_sends_heads_only_is_not_taken_for_well(mock_clock: MockClock) -> None:
    async with bench(PATIENT) as at, trio.open_nursery() as nursery:
        await nursery.start(at.source.run)
        await at.upstream.wait_asked(1)
        at.page_answers(Reply(200, b"x" * 500, cut=0, stalls=True))
        for _ in range(3):
            await wait(at, mock_clock, at.fetch, SILENT_S)
        asked = len(at.upstream.asked)
        mock_clock.jump(8)
        await at.upstream.wait_asked(asked + 1)
        assert at.upstream.asked[-1].method == "GET"
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(2)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert at.source.statistics()["pypi"]["page"] == "open"
        at.page_answers(document())
        mock_clock.jump(15)
        await at.upstream.wait_asked(asked + 2)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert at.source.statistics()["pypi"]["page"] == "closed"
        nursery.cancel_scope.cancel()


async def test_waiting_for_a_place_is_part_of_a_requests_time(mock_clock: MockClock) -> None:
    async with bench(PATIENT, files_at_once=1) as at, trio.open_nursery() as nursery:
        at.file_answers(Reply(200, b"wheel"), Reply(silent=True))
        ended: list[float] = []

        async def download() -> None:
            with pytest.raises(Unavailable):
                await at.download()
            ended.append(trio.current_time() - began)

        began = trio.current_time()
        async with at.open():
            nursery.start_soon(download)
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.start_soon(download)
            await trio.testing.wait_all_tasks_blocked(0.01)
            mock_clock.jump(7)
        await at.upstream.wait_asked(2)  # the one that waited; the other still does
        mock_clock.jump(1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert ended == [8]
        mock_clock.jump(2)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert ended == [8, 10]
        assert at.source.statistics()["pypi"]["file"] == "closed"


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
        assert at.source.statistics()["pypi"] == {"page": "open", "file": "open", "relay": "closed"}
        assert at.sent("page") == 1
        # Nobody asks, so the prober does; any answer will do.
        mock_clock.jump(8)
        await at.upstream.wait_asked(3)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert at.source.statistics()["pypi"] == {"page": "closed", "file": "closed", "relay": "closed"}
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


# ---- how often


async def test_requests_wait_for_their_turn_and_no_longer_than_for_a_place(mock_clock: MockClock) -> None:
    async with bench(PATIENT, rate_per_s=2, burst=2) as at:
        at.page_answers(document())
        for _ in range(2):
            await at.fetch()
        took: list[float] = []

        async def ask() -> None:
            await at.fetch()
            took.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert took == []
            for _ in range(3):
                mock_clock.jump(0.5)
                await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(took) == 3
        assert [later - earlier for earlier, later in itertools.pairwise(took)] == pytest.approx([0.5, 0.5])


async def test_who_would_wait_too_long_for_a_turn_is_told_when_it_comes(mock_clock: MockClock) -> None:
    async with bench(replace(PATIENT, queue_s=1), rate_per_s=0.1, burst=1) as at:
        at.page_answers(document())
        await at.fetch()
        for _ in range(3):
            with pytest.raises(Unavailable, match="as often as it may be") as caught:
                await at.fetch()
            assert caught.value.retry_after_s == 10
        assert at.failures() == {"busy": 3}
        assert at.source.available("pypi", "page"), "that is nothing against upstream"
        mock_clock.jump(10)
        await at.fetch()


async def test_retries_and_redirects_are_paid_by_those_who_come_later(mock_clock: MockClock) -> None:
    async with bench(replace(PATIENT, queue_s=0.1), rate_per_s=1, burst=2) as at:
        at.upstream.answers["/simple/six/"] = Reply(302, fields={"Location": "/simple/seven/"})
        at.upstream.answers["/simple/seven/"] = document()
        await at.fetch()
        assert len(at.upstream.asked) == 2
        with pytest.raises(Unavailable, match="as often as it may be"):
            await at.fetch()


async def test_a_turn_that_is_not_taken_is_given_back(mock_clock: MockClock) -> None:
    async with bench(PATIENT, rate_per_s=1, burst=1) as at:
        at.page_answers(document())
        await at.fetch()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(at.fetch)
                await trio.testing.wait_all_tasks_blocked(0.01)
                scope.cancel()
        mock_clock.jump(1)
        with trio.fail_after(1):
            await at.fetch()


@pytest.mark.parametrize("status", [429, 403])
async def test_an_upstream_that_says_when_is_asked_nothing_at_all_before(status: int, at: Bench) -> None:
    at.page_answers(Reply(status, fields={"Retry-After": "60"}))
    at.file_answers(Reply(200, b"wheel"))
    with pytest.raises(Unavailable):
        await at.fetch()
    for call in (at.fetch, at.download):
        with pytest.raises(Unavailable, match="asked us to wait"):
            await call()
    assert len(at.upstream.asked) == 1
    assert not at.source.available("pypi", "page")
    assert not at.source.available("pypi", "file")


async def test_another_host_that_limits_us_stops_its_own_files_only(at: Bench) -> None:
    async with answering("localhost") as other:
        other.answers["/six.whl"] = Reply(429, fields={"Retry-After": "60"})
        at.page_answers(document())
        with pytest.raises(Unavailable):
            async with at.source.file(WHEEL, Entry(WHEEL, f"http://localhost:{other.port}/six.whl")):
                pytest.fail("nothing can be opened")
        await at.fetch()


def test_the_share_of_an_edge_that_is_cut_off_is_small_whatever_was_configured() -> None:
    upstream = Upstream(registry=PyPI("pypi", "http://pypi.test/"), rate_per_s=100, pages_at_once=4).meagre()
    assert (upstream.rate_per_s, upstream.pages_at_once, upstream.files_at_once) == (5, 4, 8)
    assert (upstream.timeouts.connect_s, upstream.timeouts.first_byte_s) == (0.9, 3.8)
    assert Upstream(registry=upstream.registry).meagre().rate_per_s == 5
    assert Upstream(registry=upstream.registry, rate_per_s=1).meagre().rate_per_s == 1


def test_a_rate_lets_a_burst_pass_and_then_so_many_a_second() -> None:
    rate = Rate(2, 3)
    assert [rate.take(10.0) for _ in range(5)] == pytest.approx([0, 0, 0, 0.5, 1.0])
    rate.give_back()
    assert rate.take(10.0) == pytest.approx(1.0)
    assert rate.take(11.0) == pytest.approx(0.5)
    assert [rate.take(100.0) for _ in range(4)] == pytest.approx([0, 0, 0, 0.5])
    assert [Rate(0, 0).take(1.0) for _ in range(100)] == [0.0] * 100


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
