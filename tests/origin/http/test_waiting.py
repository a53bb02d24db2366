"""Long polls: who waits has no task, everybody is told the same, and whatever is odd about a poll is the handler's."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

import pytest
import trio
import trio.testing

from origin.errors import Unavailable
from origin.http import Request, Response
from origin.http.hot import Facts
from origin.http.listen import Limits
from origin.http.waiting import PIPELINED_BYTES, Poll
from origin.metrics import Tally
from tests.origin.http.loopback import Client, Running, get, plain, running, settled
from tests.origin.http.tls_client import Shown

LINE = b"GET /news?after="


class News:
    """``Polls`` over one number: ``GET /news?after=N`` asks for what comes after it, and waits for ``wait_s``."""

    prefix = LINE

    def __init__(self, wait_s: float = 30.0) -> None:
        self.tally = Tally()
        self.waiting = 0
        self.wait_s = wait_s
        self.number = 0
        self.size = 0
        self.asking: list[tuple[str | None, str | None, str]] = []
        self.answered: list[Hashable] = []
        self.failure: Exception | None = None
        self.unwelcome: set[Hashable] = set()
        self.looked_at = 0
        self.ready: Response | None = None
        self.making = trio.Event()
        self.making.set()
        self._news = 0
        self._moved = trio.Event()

    def asked(self, line: bytes, facts: Facts, address: str) -> Poll | None:
        after = line.removeprefix(LINE).removesuffix(b" HTTP/1.1\r\n")
        if not after.isdigit() or facts.authorization == "nobody":
            return None
        self.asking.append((facts.authorization, facts.accept_encoding, address))
        return Poll(int(after), self.wait_s, facts.authorization)

    def has_news(self, question: Hashable) -> bool:
        return question != self.number

    def answer_nowait(self, question: Hashable) -> Response | None:
        return self.ready

    async def answer(self, question: Hashable) -> Response:
        if self.failure is not None:
            raise self.failure
        self.answered.append(question)
        await self.making.wait()
        return Response(200, [("X-News", str(self.number))], f"{question} to {self.number}".encode().ljust(self.size, b"."))

    @property
    def endings(self) -> int:
        return len(self.unwelcome)

    def is_welcome(self, asker: Hashable) -> bool:
        self.looked_at += 1
        return asker not in self.unwelcome

    async def wait_news(self, seen: int) -> int:
        while self._news <= seen:
            await self._moved.wait()
        return self._news

    def crowd(self, more: int) -> None:
        self.waiting += more

    def tell(self) -> None:
        self.number += 1
        self.stir()

    def stir(self) -> None:
        self._news += 1
        self._moved.set()
        self._moved = trio.Event()


def waiting(server: Running) -> int:
    [door] = server.server._doors
    assert door._waiting is not None
    return len(door._waiting)


async def wait_waiting(server: Running, count: int) -> None:
    await settled(lambda: waiting(server) == count)


async def test_a_poll_waits_without_a_task_until_there_is_news() -> None:
    news = News()
    async with running(plain, polls=news) as server, server.client() as client:
        await client.send(get("/news?after=0", "Authorization: one", "Accept-Encoding: a", "Accept-Encoding: b"))
        await wait_waiting(server, 1)
        assert server.server.statistics()["busy"] == 0
        news.tell()
        answer = await client.answer()
        assert (answer.status, answer.body, answer.headers["x-news"]) == (200, b"0 to 1", "1")
        assert answer.headers["date"] == "Fri, 15 Jan 2027 08:00:00 GMT"
        assert news.asking == [("one", "a, b", "127.0.0.1")]
        assert server.seen == []
        assert (news.tally.count, news.tally.sent) == (1, len(b"0 to 1"))
        await client.send(get("/news?after=1"))
        await wait_waiting(server, 1)
        news.tell()
        assert (await client.answer()).body == b"1 to 2"
        assert (await client.get("/other")).body == b"GET /other 0"


async def test_all_who_ask_the_same_are_told_by_one_answer() -> None:
    news = News()
    async with running(plain, polls=news) as server:
        streams = [await trio.open_tcp_stream("127.0.0.1", server.port) for _ in range(100)]
        clients = [Client(stream) for stream in streams]
        for client in clients:
            await client.send(get("/news?after=0"))
        await wait_waiting(server, 100)
        assert news.waiting == 100
        news.tell()
        for client in clients:
            assert (await client.answer()).body == b"0 to 1"
        assert news.answered == [0]
        assert news.waiting == 0
        for client in clients:
            await client.stream.aclose()


async def test_who_may_be_told_no_more_is_the_handlers_at_once_and_the_others_wait_on() -> None:
    news = News()
    async with running(plain, polls=news) as server, server.client() as one, server.client() as other:
        await one.send(get("/news?after=0", "Authorization: one"))
        await other.send(get("/news?after=0", "Authorization: other"))
        await wait_waiting(server, 2)
        news.unwelcome.add("one")
        news.stir()
        assert (await one.answer()).body == b"GET /news?after=0 0"
        assert (waiting(server), news.waiting) == (1, 1)
        news.tell()
        assert (await other.answer()).body == b"0 to 1"


async def test_those_who_wait_are_not_looked_through_while_all_are_welcome() -> None:
    news = News()
    async with running(plain, polls=news) as server, server.client() as one, server.client() as other:
        await one.send(get("/news?after=0", "Authorization: one"))
        await other.send(get("/news?after=0", "Authorization: other"))
        await wait_waiting(server, 2)
        news.tell()
        assert [(await client.answer()).body for client in (one, other)] == [b"0 to 1", b"0 to 1"]
        assert news.looked_at == 2, "once for each that was answered"


async def test_who_may_be_told_no_more_is_not_told_what_is_being_made() -> None:
    news = News()
    news.making = trio.Event()
    async with running(plain, polls=news) as server, server.client() as client:
        await client.send(get("/news?after=0", "Authorization: one"))
        await wait_waiting(server, 1)
        news.tell()
        await settled(lambda: news.answered)
        news.unwelcome.add("one")
        news.making.set()
        assert (await client.answer()).body == b"GET /news?after=0 0"


async def test_no_poll_waits_longer_than_an_idle_connection_lives(mock_clock: trio.testing.MockClock) -> None:
    async with running(plain, polls=News(wait_s=1000)) as server, server.client() as client:
        await client.send(get("/news?after=0"))
        await wait_waiting(server, 1)
        mock_clock.jump(Limits().idle_s - 15)
        assert (await client.answer()).body == b"0 to 0"


async def test_a_poll_that_has_waited_for_long_enough_is_told_so(mock_clock: trio.testing.MockClock) -> None:
    news = News(wait_s=25)
    async with running(plain, polls=news) as server, server.client() as client:
        await client.send(get("/news?after=0"))
        await wait_waiting(server, 1)
        mock_clock.jump(26)
        assert (await client.answer()).body == b"0 to 0"
        assert waiting(server) == 0


async def test_an_answer_that_is_made_already_is_sent_at_once() -> None:
    news = News()
    news.ready = Response(200, [], b"made before")
    async with running(plain, polls=news) as server, server.client() as client:
        await client.send(get("/news?after=0") + get("/other") + get("/news?after=3"))
        assert [(await client.answer()).body for _ in range(3)] == [b"made before", b"GET /other 0", b"made before"]
        assert news.answered == []


@pytest.mark.parametrize(
    "request_text",
    [
        get("/news?after=x"),
        get("/news?after=0", "Authorization: nobody"),
        get("/news?after=0", "Range: bytes=0-1"),
        get("/news?after=0", "Connection: close"),
        get("/news?after=0", method="HEAD"),
    ],
)
async def test_a_poll_that_is_not_understood_is_the_handlers(request_text: str) -> None:
    async with running(plain, polls=News()) as server, server.client() as client:
        await client.send(request_text)
        assert (await client.answer(request_text.split(" ", 1)[0])).status == 200
        assert len(server.seen) == 1
        assert waiting(server) == 0


async def test_an_answer_that_has_to_be_made_is_waited_for_like_news() -> None:
    news = News()
    async with running(plain, polls=news) as server, server.client() as one, server.client() as other:
        news.making = trio.Event()
        await one.send(get("/news?after=7"))
        await settled(lambda: news.answered == [7])
        await other.send(get("/news?after=7"))
        await wait_waiting(server, 2)
        news.making.set()
        assert (await one.answer()).body == b"7 to 0"
        assert (await other.answer()).body == b"7 to 0"
        assert server.seen == []


async def test_a_malformed_poll_is_refused() -> None:
    async with running(plain, polls=News()) as server:
        for text in (get("/news?after=0", "Bad : x"), get("/news?after=0", host="a b")):
            assert (await server.exchange(text.encode())).startswith(b"HTTP/1.1 400 ")


async def test_a_poll_that_does_not_wait_is_the_handlers() -> None:
    async with running(plain, polls=News(wait_s=0)) as server, server.client() as client:
        assert (await client.get("/news?after=0")).body == b"GET /news?after=0 0"


async def test_an_answer_that_cannot_be_made_is_the_handlers_to_explain() -> None:
    async def failing(request: Request) -> Response:
        raise Unavailable("not now", 3)

    news = News()
    async with running(failing, polls=news) as server, server.client() as client:
        news.failure = Unavailable("not now", 3)
        await client.send(get("/news?after=0") + get("/news?after=0"))
        await wait_waiting(server, 1)
        news.tell()
        for _ in range(2):
            answer = await client.answer()
            assert (answer.status, answer.headers["retry-after"]) == (503, "3")


async def test_a_client_that_leaves_waits_no_longer() -> None:
    news = News()
    async with running(plain, polls=news) as server:
        async with server.client() as client:
            await client.send(get("/news?after=0"))
            await wait_waiting(server, 1)
        await wait_waiting(server, 0)
        assert server.server.statistics()["connections"] == 0
        news.tell()
        async with server.client() as client:
            assert (await client.get("/other")).status == 200
        assert news.answered == []


async def test_what_follows_a_poll_on_its_connection_is_answered_after_it() -> None:
    news = News()
    async with running(plain, polls=news) as server, server.client() as client:
        await client.send(get("/news?after=0") + get("/first"))
        await wait_waiting(server, 1)
        await client.send(get("/second"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        news.tell()
        bodies = [(await client.answer()).body for _ in range(3)]
        assert bodies == [b"0 to 1", b"GET /first 0", b"GET /second 0"]


async def test_a_client_that_says_too_much_while_it_waits_is_sent_away() -> None:
    async with running(plain, polls=News()) as server, server.client() as client:
        await client.send(get("/news?after=0"))
        await wait_waiting(server, 1)
        await client.send(b"x" * (PIPELINED_BYTES + 1))
        assert await client.rest() == b""
        assert waiting(server) == 0


async def test_a_large_answer_reaches_a_slow_reader_whole() -> None:
    news = News()
    news.size = 20_000_000
    async with running(plain, polls=news) as server, server.client() as client:
        await client.send(get("/news?after=0"))
        await wait_waiting(server, 1)
        news.tell()
        await settled(lambda: server.server.statistics()["busy"] == 1)
        assert (await client.answer()).body == b"0 to 1".ljust(news.size, b".")
        assert (await client.get("/other")).status == 200


async def test_a_drain_tells_those_who_wait_that_there_is_nothing() -> None:
    news = News()
    async with running(plain, polls=news, limits=Limits(drain_s=30)) as server, server.client() as client:
        await client.send(get("/news?after=0"))
        await wait_waiting(server, 1)
        with trio.fail_after(5):
            await server.server.drain()
        assert (await client.answer()).body == b"0 to 0"
        assert await client.rest() == b""


async def test_a_drain_does_not_wait_for_an_answer_that_is_not_made(mock_clock: trio.testing.MockClock) -> None:
    news = News()
    news.making = trio.Event()
    async with running(plain, polls=news, limits=Limits(drain_s=30)) as server, server.client() as client:
        await client.send(get("/news?after=0"))
        await wait_waiting(server, 1)
        mock_clock.autojump_threshold = 0.01
        await server.server.drain()
        assert trio.current_time() < 5
        assert await client.rest() == b""


async def test_polls_wait_over_tls_too(tmp_path: Path) -> None:
    news, shown = News(), Shown(tmp_path)
    news.size = 1_000_000
    async with running(plain, polls=news, contexts=shown) as server, server.client() as client:
        stream = trio.SSLStream(client.stream, shown.client(), server_hostname="localhost")
        secure = Client(stream)  # type: ignore[arg-type]  # of a stream it wants only what any has
        for after in range(3):
            await secure.send(get(f"/news?after={after}"))
            await wait_waiting(server, 1)
            news.tell()
            assert (await secure.answer()).body == f"{after} to {after + 1}".encode().ljust(news.size, b".")
        assert (await secure.get("/other")).status == 200
