"""Long polls: requests that wait for news, thousands at a time, without a task for each.

``Polls`` says what can be waited for; the door shows it every request that begins as its polls do, and only those. While it waits, for
news or for its answer to be made, a connection stays in the door's selector, so that its end is noticed, and is filed here under its
question. With news, each question is answered once, and everybody who asked it is sent the same bytes. A poll that ``Polls`` does not
understand, or cannot answer, is the handler's, like any other request.

With a task for each poll a thousand waiting edges cost 200 us for each answer; this way it is 45 us, of which TLS takes half.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import trio

from ..metrics import Tally
from . import Response
from .connection import Connection
from .conversation import House
from .h1 import http_date, write_head
from .hot import Facts

LOOK_S = 1.0
"""How often it is looked who has waited for long enough."""

MOST_IDLE = 0.7
"""The longest that a poll waits, as a share of what an idle connection lives for."""

PIPELINED_BYTES = 16 * 1024
"""How much a client may send while it waits."""

TURN = 32
"""How many are told between two checkpoints."""

MESSAGES = 16
"""How many answers are kept as they were sent. Those who follow closely all ask for the same."""


@dataclass(frozen=True, slots=True)
class Poll:
    """A request for news. Polls with the same ``question`` are given the same answer. ``wait_s`` is how long there may be none,
    ``asker`` who is told.
    """

    question: Hashable
    wait_s: float
    asker: Hashable = None


class Polls(Protocol):
    """What can be waited for. ``prefix`` is how the line of each such request begins; ``tally`` counts those that are answered here."""

    prefix: bytes
    tally: Tally

    def asked(self, line: bytes, facts: Facts, address: str) -> Poll | None:
        """What a request means. ``line`` is its first, with CR LF; its fields are plain. None if the handler has to see it."""
        ...

    def has_news(self, question: Hashable) -> bool:
        """Whether the answer would be more than that there is nothing."""
        ...

    def answer_nowait(self, question: Hashable) -> Response | None:
        """The answer, if it is made already. Its body is ``bytes``."""
        ...

    async def answer(self, question: Hashable) -> Response:
        """The answer as of now, also if there is no news. Its body is ``bytes``. Whatever it raises, the handler will say."""
        ...

    @property
    def endings(self) -> int:
        """How often somebody has ceased to be welcome. Only then those who wait are looked through."""
        ...

    def is_welcome(self, asker: Hashable) -> bool:
        """Whether a poll's ``asker``, who waits, may be answered still; that somebody may not is news. Else the handler has to see it."""
        ...

    async def wait_news(self, seen: int) -> int:
        """Wait until more than ``seen`` news have come, and return how many have."""
        ...

    def crowd(self, more: int) -> None:
        """So many more wait than before, or fewer."""
        ...


type Crowd = dict[Connection, Waiter]


@dataclass(slots=True)
class Waiter:
    """A connection that waits: until when (trio's clock), whose, for what, among whom, and the request itself, for the handler."""

    until: float
    asker: Hashable
    question: Hashable
    crowd: Crowd
    request: bytes


class Waiting:
    """The connections of one door that wait. ``say`` sends a whole message on one, ``hand_over`` lets the handler answer what is unread."""

    def __init__(
        self, polls: Polls, house: House, say: Callable[[Connection, bytes], object], hand_over: Callable[[Connection], None]
    ) -> None:
        self.prefix = polls.prefix
        self._polls = polls
        self._house = house
        self._say = say
        self._hand_over = hand_over
        self._crowds: dict[Hashable, Crowd] = {}
        self._waiters: Crowd = {}
        self._endings = polls.endings
        self._stirred = trio.Event()
        # Messages of this second, by the response that they are made of.
        self._made: dict[int, tuple[Response, bytes]] = {}
        self._second = -1

    def __len__(self) -> int:
        return len(self._waiters)

    def begin(self, connection: Connection, line: bytes, block: bytes) -> bytes | None:
        """Look at a request of ours, whose end ``connection.unread`` goes on from: the message that answers it, or ``b""`` if it waits now.

        None if it is the handler's.
        """
        recogniser = connection.recogniser
        facts = recogniser.recall(block) or recogniser.study(block)
        if not facts.is_plain:
            return None
        poll = self._polls.asked(line, facts, connection.address)
        if poll is None:
            return None
        answer = self._polls.answer_nowait(poll.question)
        if answer is not None:
            return self._message(answer)
        if poll.wait_s <= 0:
            return None
        if self._polls.has_news(poll.question):
            self._stirred.set()
        crowd = self._crowds.setdefault(poll.question, {})
        until = trio.current_time() + min(poll.wait_s, MOST_IDLE * self._house.limits.idle_s)
        crowd[connection] = self._waiters[connection] = Waiter(until, poll.asker, poll.question, crowd, line + block)
        connection.recv = partial(_receive, connection)
        self._polls.crowd(1)
        return b""

    def leave(self, connection: Connection) -> None:
        """The connection waits no longer, if it did."""
        waiter = self._waiters.pop(connection, None)
        if waiter is not None:
            del waiter.crowd[connection]
            if not waiter.crowd and self._crowds.get(waiter.question) is waiter.crowd:
                del self._crowds[waiter.question]
            connection.recv = connection.wire.recv_nowait
            self._polls.crowd(-1)

    async def run(self) -> None:
        """Tell those who wait of news, and those who have waited for long enough that there is none, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            nursery.start_soon(self._expire)
            while True:
                await self._stirred.wait()
                self._stirred = trio.Event()
                self._turn_away()
                for question in list(self._crowds):
                    if self._polls.has_news(question):
                        # Whoever asks the same from now on is answered at once, or joins another crowd.
                        await self._tell(question, list(self._crowds.pop(question).items()))

    async def end(self) -> None:
        """Tell everybody who waits, whether there is news or not."""
        for question, crowd in list(self._crowds.items()):
            await self._tell(question, list(crowd.items()))

    def _turn_away(self) -> None:
        endings = self._polls.endings
        if endings == self._endings:
            return
        self._endings = endings
        for connection, waiter in list(self._waiters.items()):
            if not self._polls.is_welcome(waiter.asker):
                self._hand_back(connection, waiter)

    def _hand_back(self, connection: Connection, waiter: Waiter) -> None:
        """Let the handler answer what a connection has waited with."""
        self.leave(connection)
        connection.unread = waiter.request + connection.unread
        self._hand_over(connection)

    async def _listen(self) -> None:
        seen = -1
        while True:
            seen = await self._polls.wait_news(seen)
            self._stirred.set()

    async def _expire(self) -> None:
        while True:
            await trio.sleep(LOOK_S)
            now = trio.current_time()
            for question, crowd in list(self._crowds.items()):
                if late := [(connection, waiter) for connection, waiter in crowd.items() if waiter.until <= now]:
                    await self._tell(question, late)

    async def _tell(self, question: Hashable, asking: Sequence[tuple[Connection, Waiter]]) -> None:
        answer: Response | None = None
        with contextlib.suppress(Exception):  # the handler comes upon it too, and knows how to say it
            answer = await self._polls.answer(question)
        for number, (connection, waiter) in enumerate(asking, 1):
            # It may have left since, and may even wait for something else by now.
            if self._waiters.get(connection) is waiter:
                if answer is not None and self._polls.is_welcome(waiter.asker):
                    self.leave(connection)
                    self._say(connection, self._message(answer))
                else:
                    self._hand_back(connection, waiter)
            if number % TURN == 0:
                await trio.lowlevel.checkpoint()

    def _message(self, answer: Response) -> bytes:
        """The answer as it is sent now, and counted."""
        assert isinstance(answer.body, bytes)
        second = int(self._house.clock())
        if second != self._second:
            self._second = second
            self._made.clear()
        _, message = self._made.get(id(answer), (answer, b""))
        if not message:
            message = write_head(answer, date=http_date(second), length=len(answer.body)) + answer.body
            if len(self._made) >= MESSAGES:
                self._made.clear()
            # The response is kept along, so that no other can have its identity.
            self._made[id(answer)] = answer, message
        self._polls.tally.count += 1
        self._polls.tally.sent += len(answer.body)
        return message


def _receive(connection: Connection, count: int) -> bytes:
    """Stands for ``recv`` while a connection waits: tells of its end, and keeps what else is said for later."""
    data = connection.wire.recv_nowait(count)
    if not data or len(connection.unread) + len(data) > PIPELINED_BYTES:
        return b""
    connection.unread += data
    raise BlockingIOError
