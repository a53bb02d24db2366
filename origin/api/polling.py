"""``GET changes`` as a long poll that waits without a task (``http/waiting.py``): what ``following.py`` answers, for thousands of edges.

Only what an edge that follows closely asks, spelled as our edges spell it, is answered here. Whatever else there is to a request for
changes (another epoch, lines that are not kept, somebody unknown, any mistake) is ``following.py``'s, which says why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable

from ..feed import Ledger
from ..fleet import Fleet
from ..http import Response
from ..http.hot import Facts
from ..http.waiting import Poll
from ..metrics import Tally
from .batches import KEPT, Batches, coding_for, fields_of
from .wire import ROOT, VERDICTS, cursor_text

_LINE = re.compile(
    rb"GET /v1/changes\?after=([A-Za-z0-9_-]{1,64})\.([0-9]{1,18})"
    rb"&verdicts=([0-9]{1,18})&wait=([0-9]{1,4})&limit=([0-9]{1,9}) HTTP/1\.1\r\n"
)


class Polling:
    """The ledger's news, as ``http.waiting.Polls`` has it. A question is (serial, verdicts, limit, coding), who asks a ``Membership``.

    ``who`` tells from an ``Authorization`` value which edge asks.
    """

    prefix = f"GET {ROOT}changes?".encode()

    def __init__(
        self, ledger: Ledger, batches: Batches, fleet: Fleet, who: Callable[[str | None], str | None], tally: Tally
    ) -> None:
        self.tally = tally
        self._ledger = ledger
        self._batches = batches
        self._fleet = fleet
        self._who = who
        self._epoch = ledger.epoch.encode()
        self._answers: dict[bytes, Response] = {}
        self.endings = 0
        fleet.on_ended(self._ended)

    def asked(self, line: bytes, facts: Facts, address: str) -> Poll | None:
        """The question, if an edge of ours asks for what comes after something that was announced; how far it is is noted."""
        found = _LINE.fullmatch(line)
        if found is None or found[1] != self._epoch:
            return None
        serial = int(found[2])
        if serial > self._ledger.head or (edge := self._who(facts.authorization)) is None:
            return None
        self._fleet.heard(edge, address=address, serial=serial)
        question = (serial, int(found[3]), int(found[5]), coding_for(facts.accept_encoding))
        membership = self._fleet.membership(edge)
        return None if membership is None else Poll(question, float(found[4]), membership)

    def _ended(self) -> None:
        self.endings += 1
        self._ledger.stir()

    def is_welcome(self, asker: Hashable) -> bool:
        assert isinstance(asker, tuple)
        return self._fleet.is_current(asker)

    def has_news(self, question: Hashable) -> bool:
        serial, verdicts, _, _ = _read(question)
        return serial != self._ledger.head or verdicts != self._ledger.verdicts

    def answer_nowait(self, question: Hashable) -> Response | None:
        serial, _, limit, coding = _read(question)
        made = self._batches.made(serial, limit, coding) if self.has_news(question) else None
        return None if made is None else self._response(*made)

    async def answer(self, question: Hashable) -> Response:
        serial, _, limit, coding = _read(question)
        return self._response(*await self._batches.batch(cursor_text(self._ledger.epoch, serial), limit, coding))

    async def wait_news(self, seen: int) -> int:
        return await self._ledger.wait_moved(seen)

    def crowd(self, more: int) -> None:
        self._ledger.waiting += more

    def _response(self, body: bytes, coding: str) -> Response:
        # Nearly all ask for the same, and the same response is written out only once. A batch is made anew when the verdicts change.
        response = self._answers.get(body)
        if response is None:
            while len(self._answers) >= KEPT:
                del self._answers[next(iter(self._answers))]
            response = Response(200, [*fields_of(coding), (VERDICTS, str(self._ledger.verdicts))], body)
            self._answers[body] = response
        return response


def _read(question: Hashable) -> tuple[int, int, int, str]:
    assert isinstance(question, tuple)
    serial, verdicts, limit, coding = question
    return serial, verdicts, limit, coding
