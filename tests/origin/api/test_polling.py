"""Changes asked for by those who follow closely: the very answer that the handler would give, without it."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import trio
import trio.testing

from origin.api import wire
from origin.api.batches import Batches
from origin.api.polling import Polling
from origin.http import Response
from origin.http.hot import Facts
from origin.metrics import Tally
from tests.contracts.catalogs import bound, wheel
from tests.origin.api.test_following import SIX, Origin, origin


def polling(o: Origin) -> Polling:
    return Polling(o.central.ledger, Batches(o.central.ledger), o.central.fleet, o.central.fleet.edge, Tally())


def facts(secret: str, accept_encoding: str | None = None) -> Facts:
    found = Facts(object(), None, b"")
    found.is_plain, found.authorization, found.accept_encoding = True, f"Bearer {secret}", accept_encoding
    return found


def line(cursor: str, verdicts: int = 0, wait: int = 25, limit: int = 1000) -> bytes:
    return f"GET /v1/changes?after={cursor}&verdicts={verdicts}&wait={wait}&limit={limit} HTTP/1.1\r\n".encode()


def said(response: Response) -> tuple[int, object, dict[str, str]]:
    return response.status, response.body, {name.lower(): value for name, value in response.headers}


async def test_an_edge_is_told_of_a_line_as_the_handler_would_tell_it(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with origin(tmp_path) as o:
        ledger, polls = o.central.ledger, polling(o)
        assert line(ledger.cursor).startswith(polls.prefix)
        poll = polls.asked(line(ledger.cursor), facts(o.secret), "192.0.2.9")
        assert poll is not None and poll.wait_s == 25
        assert not polls.has_news(poll.question) and polls.answer_nowait(poll.question) is None
        moves = await polls.wait_news(-1)
        polls.crowd(3)
        assert ledger.waiting == 3
        polls.crowd(-3)
        await o.bench.service.keep(o.bench.file(SIX))
        assert await polls.wait_news(moves) > moves
        await trio.sleep(1)
        assert polls.has_news(poll.question)
        answer = await polls.answer(poll.question)
        assert said(answer) == said(await o.asked(f"changes?after={ledger.epoch}.0&verdicts=0&wait=25&limit=1000"))
        # Whoever else asks for the same is given the same.
        assert polls.answer_nowait(poll.question) is answer
        (state,) = o.central.fleet.states()
        assert (state.address, state.serial, state.behind) == ("192.0.2.7", 0, 2)


async def test_a_large_batch_comes_in_gzip_to_whoever_takes_it(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with origin(tmp_path) as o:
        ledger, polls = o.central.ledger, polling(o)
        polled = [
            polls.asked(line(f"{ledger.epoch}.0"), facts(o.secret, accepted), "") for accepted in ("gzip", "gzip;q=0", None, "br")
        ]
        for number in range(20):
            await o.bench.catalog.bind(bound(wheel(number), str(number)))
        await trio.sleep(1)
        packed, *plain = [await polls.answer(poll.question) for poll in polled if poll is not None]
        assert dict(packed.headers)["Content-Encoding"] == "gzip"
        assert isinstance(packed.body, bytes)
        for answer in plain:
            assert "Content-Encoding" not in dict(answer.headers)
            assert answer.body == gzip.decompress(packed.body)
        target = f"changes?after={ledger.epoch}.0&verdicts=0&wait=25&limit=1000"
        assert said(await o.asked(target, accept_encoding="gzip")) == said(packed)
        assert said(await o.asked(target)) == said(plain[0])


async def test_how_far_an_edge_is_and_where_it_asks_from_is_noted(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with origin(tmp_path) as o:
        await o.bench.service.keep(o.bench.file(SIX))
        await trio.sleep(1)
        polling(o).asked(line(o.central.ledger.cursor), facts(o.secret), "192.0.2.9")
        (state,) = o.central.fleet.states()
        assert (state.address, state.serial, state.behind) == ("192.0.2.9", 2, 0)


async def test_who_is_dismissed_is_welcome_no_more_and_those_who_wait_are_woken(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with origin(tmp_path) as o:
        fleet, polls = o.central.fleet, polling(o)
        poll = polls.asked(line(o.central.ledger.cursor), facts(o.secret), "")
        assert poll is not None and polls.is_welcome(poll.asker)
        moves = await polls.wait_news(-1)
        await fleet.enrol(await fleet.invite("berlin", 60))
        assert polls.is_welcome(poll.asker)
        again = await fleet.enrol(await fleet.invite("tokyo", 60))
        assert again is not None and not polls.is_welcome(poll.asker), "its secret is another one now"
        with trio.fail_after(1):
            moves = await polls.wait_news(moves)

        poll = polls.asked(line(o.central.ledger.cursor), facts(again[1]), "")
        assert poll is not None and polls.is_welcome(poll.asker)
        await fleet.dismiss("tokyo")
        assert not polls.is_welcome(poll.asker) and not polls.has_news(poll.question)
        with trio.fail_after(1):
            await polls.wait_news(moves)
        assert [state.name for state in fleet.states()] == ["berlin"]


async def test_other_verdicts_are_news(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with origin(tmp_path) as o:
        ledger, polls = o.central.ledger, polling(o)
        poll = polls.asked(line(ledger.cursor), facts(o.secret), "")
        assert poll is not None
        ledger.set_verdicts(1)
        assert polls.has_news(poll.question)
        first = await polls.answer(poll.question)
        batch, records = wire.read_lines(first.body)  # type: ignore[arg-type]  # bytes, as promised
        assert (batch.verdicts, records, dict(first.headers)[wire.VERDICTS]) == (1, [], "1")
        ledger.set_verdicts(2)
        assert dict((await polls.answer(poll.question)).headers)[wire.VERDICTS] == "2"


@pytest.mark.parametrize("how", ["unknown", "another epoch", "ahead", "other words", "HTTP/1.0", "no cursor", "more words"])
async def test_whatever_else_there_is_to_a_question_is_the_handlers(tmp_path: Path, how: str) -> None:
    async with origin(tmp_path) as o:
        cursor = o.central.ledger.cursor
        asked = {
            "unknown": line(cursor),
            "another epoch": line("other.0"),
            "ahead": line(f"{o.central.ledger.epoch}.7"),
            "other words": line(cursor).replace(b"&wait=", b"&wait=x"),
            "HTTP/1.0": line(cursor).replace(b"HTTP/1.1", b"HTTP/1.0"),
            "no cursor": line("x"),
            "more words": line(cursor).replace(b"&limit", b"&more=1&limit"),
        }[how]
        assert polling(o).asked(asked, facts("other" if how == "unknown" else o.secret), "") is None
