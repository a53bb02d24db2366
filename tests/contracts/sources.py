"""What every ``Source`` does. A test module inherits ``SourceContract`` once per implementation and gives it an ``arena``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import trio

from origin.errors import Corrupt, NotFound, Unavailable
from origin.model import Entry, File, Page, Relay
from origin.sources import Absent, FileStream, Known, NotModified, Received, Relayed, Source


@dataclass(frozen=True)
class Arena:
    """A source that was told to wait briefly, one page, one file and one relay, and what may happen to them upstream.

    ``publish(body, etag)`` puts the page there, ``withdraw()`` removes page and file; ``upload(body, cut)`` puts the file there, to be cut
    off once after ``cut`` bytes; ``answer(status, body)`` is what the relay gets; ``silence()`` lets upstream accept and never answer,
    ``fail()`` lets it say that it cannot now, ``vanish()`` takes it off the network. ``requests()`` counts what arrived there.
    ``said(status)`` is what becomes, on the way, of what upstream says of a relayed request.
    """

    source: Source
    page: Page
    file: File
    entry: Entry
    relay: Relay
    publish: Callable[[bytes, str], None]
    upload: Callable[[bytes, int | None], None]
    answer: Callable[[int, bytes], None]
    withdraw: Callable[[], None]
    silence: Callable[[], None]
    fail: Callable[[], None]
    vanish: Callable[[], None]
    requests: Callable[[], int]
    said: Callable[[int], int] = lambda status: status

    async def fetch(self) -> Received:
        """The page, and with it the validator that the source knows it by."""
        answer = await self.source.page(self.page, None)
        assert isinstance(answer, Received)
        return answer


async def collect(stream: FileStream) -> bytes:
    """All bytes of a transfer."""
    return b"".join([chunk async for chunk in stream.chunks])


BODY = bytes(range(256)) * 2000


class SourceContract:
    """The suite. Each test gets an arena of its own."""

    async def test_a_page_comes_with_its_validator_type_and_stamp(self, arena: Arena) -> None:
        arena.publish(b'{"name": "six"}', '"v1"')
        answer = await arena.fetch()
        assert answer.body == b'{"name": "six"}'
        assert answer.etag
        assert answer.media_type == "application/vnd.pypi.simple.v1+json"
        assert answer.stamp.fresh_until < answer.stamp.stale_until
        assert answer.stamp.revision == 0
        assert answer.url.startswith("http")

    async def test_a_page_that_did_not_change_is_not_sent_again(self, arena: Arena) -> None:
        arena.publish(b"{}", '"v1"')
        answer = await arena.source.page(arena.page, Known(etag=(await arena.fetch()).etag))
        assert isinstance(answer, NotModified)
        assert answer.stamp.fresh_until < answer.stamp.stale_until

    async def test_a_page_that_changed_is_sent(self, arena: Arena) -> None:
        arena.publish(b"{}", '"v1"')
        before = await arena.fetch()
        arena.publish(b'{"a": 1}', '"v2"')
        answer = await arena.source.page(arena.page, Known(etag=before.etag))
        assert isinstance(answer, Received)
        assert answer.body == b'{"a": 1}'
        assert answer.etag != before.etag

    async def test_a_clean_absence_is_a_value(self, arena: Arena) -> None:
        arena.withdraw()
        answer = await arena.source.page(arena.page, None)
        assert isinstance(answer, Absent)
        assert answer.status in {404, 410}

    @pytest.mark.parametrize("fault", ["silence", "fail", "vanish"])
    @pytest.mark.parametrize("what", ["page", "held page", "file", "existence", "relay"])
    async def test_an_upstream_that_cannot_answer_is_unavailable(self, fault: str, what: str, arena: Arena) -> None:
        arena.publish(b"{}", '"v1"')
        arena.upload(BODY, None)
        arena.answer(200, b"{}")
        {"silence": arena.silence, "fail": arena.fail, "vanish": arena.vanish}[fault]()

        async def ask() -> object:
            match what:
                case "page":
                    return await arena.source.page(arena.page, None)
                case "held page":
                    return await arena.source.page(arena.page, Known(etag='"v1"'))
                case "file":
                    async with arena.source.file(arena.file, arena.entry) as stream:
                        return stream.head
                case "relay":
                    return await arena.source.relay(arena.relay)
                case _:
                    return await arena.source.exists(arena.file, arena.entry.url)

        with trio.fail_after(10), pytest.raises(Unavailable) as caught:
            await ask()
        assert caught.value.retry_after_s >= 1

    async def test_a_file_comes_whole(self, arena: Arena) -> None:
        arena.upload(BODY, None)
        async with arena.source.file(arena.file, arena.entry) as stream:
            assert stream.head.size == len(BODY)
            assert stream.head.start == 0
            assert await collect(stream) == BODY

    async def test_a_broken_transfer_says_so_and_can_be_taken_up_again(self, arena: Arena) -> None:
        arena.upload(BODY, 100_000)
        got = b""
        async with arena.source.file(arena.file, arena.entry) as stream:
            validator = stream.head.validator
            with pytest.raises(Unavailable):  # noqa: PT012 -- what came before is kept
                async for chunk in stream.chunks:
                    got += chunk
        assert got == BODY[: len(got)]
        async with arena.source.file(arena.file, arena.entry, len(got), validator) as stream:
            assert stream.head.size == len(BODY)
            got = got[: stream.head.start] + await collect(stream)
        assert got == BODY

    async def test_a_file_that_is_gone_is_not_found(self, arena: Arena) -> None:
        arena.withdraw()
        with pytest.raises(NotFound):
            async with arena.source.file(arena.file, arena.entry):
                pytest.fail("nothing can be opened")
        assert not await arena.source.exists(arena.file, arena.entry.url)

    async def test_a_file_that_is_there_exists(self, arena: Arena) -> None:
        arena.upload(BODY, None)
        assert await arena.source.exists(arena.file, arena.entry.url)

    async def test_a_relay_brings_whatever_was_answered(self, arena: Arena) -> None:
        arena.answer(200, b'{"objects": []}')
        assert await arena.source.relay(arena.relay) == Relayed(200, b'{"objects": []}')

    @pytest.mark.parametrize("status", [400, 404, 405, 410, 413, 422])
    async def test_what_is_said_about_a_relayed_request_is_an_answer_too(self, status: int, arena: Arena) -> None:
        arena.answer(status, b"no")
        assert (await arena.source.relay(arena.relay)).status == arena.said(status)

    async def test_a_transfer_can_be_left_at_any_time(self, arena: Arena) -> None:
        arena.upload(BODY, None)
        async with arena.source.file(arena.file, arena.entry) as stream:
            async for chunk in stream.chunks:
                assert chunk
                break
        async with arena.source.file(arena.file, arena.entry):
            pass
        with trio.CancelScope() as scope:
            async with arena.source.file(arena.file, arena.entry) as stream:
                scope.cancel()
                await collect(stream)
        assert scope.cancelled_caught
        async with arena.source.file(arena.file, arena.entry) as stream:
            assert await collect(stream) == BODY

    async def test_an_error_of_the_reader_passes_through(self, arena: Arena) -> None:
        arena.upload(BODY, None)
        with pytest.raises(Corrupt, match="mine"):
            async with arena.source.file(arena.file, arena.entry):
                raise Corrupt("mine")

    async def test_many_may_ask_at_once(self, arena: Arena) -> None:
        arena.publish(b"{}", '"v1"')
        arena.upload(BODY, None)
        bodies: list[bytes] = []

        async def fetch() -> None:
            assert isinstance(await arena.source.page(arena.page, None), Received)
            async with arena.source.file(arena.file, arena.entry) as stream:
                bodies.append(await collect(stream))

        async with trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(fetch)
        assert bodies == [BODY] * 16

    async def test_a_source_that_answered_is_worth_waiting_for_and_an_unknown_registry_is_not(self, arena: Arena) -> None:
        arena.publish(b"{}", '"v1"')
        await arena.source.page(arena.page, None)
        assert arena.source.available(arena.page.registry, "page")
        assert not arena.source.available("nonesuch", "page")

    async def test_a_source_that_vanished_is_not_worth_waiting_for(self, arena: Arena) -> None:
        arena.publish(b"{}", '"v1"')
        await arena.source.page(arena.page, None)
        arena.vanish()
        for _ in range(3):
            with pytest.raises(Unavailable):
                await arena.source.page(arena.page, None)
        assert not arena.source.available(arena.page.registry, "page")
        before = arena.requests()
        with trio.fail_after(2), pytest.raises(Unavailable):
            await arena.source.page(arena.page, None)
        assert arena.requests() == before
