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
from ..http.waiting import Poll
from ..metrics import Tally
from .wire import LINES_TYPE, ROOT, VERDICTS, cursor_text

_LINE = re.compile(
    rb"GET /v1/changes\?after=([A-Za-z0-9_-]{1,64})\.([0-9]{1,18})"
    rb"&verdicts=([0-9]{1,18})&wait=([0-9]{1,4})&limit=([0-9]{1,9}) HTTP/1\.1\r\n"
)


class Polling:
    """The ledger's news, as ``http.waiting.Polls`` has it. A question is (serial, verdicts, limit).

    ``who`` tells from an ``Authorization`` value which edge asks.
    """

    prefix = f"GET {ROOT}changes?".encode()

    def __init__(self, ledger: Ledger, fleet: Fleet, who: Callable[[str | None], str | None], tally: Tally) -> None:
        self.tally = tally
        self._ledger = ledger
        self._fleet = fleet
        self._who = who
        self._epoch = ledger.epoch.encode()
        self._answer: tuple[bytes, Response] = (b"", Response(200))

    def asked(self, line: bytes, authorization: str | None, address: str) -> Poll | None:
        """The question, if an edge of ours asks for what comes after something that was announced; how far it is is noted."""
        found = _LINE.fullmatch(line)
        if found is None or found[1] != self._epoch:
            return None
        serial = int(found[2])
        if serial > self._ledger.head or (edge := self._who(authorization)) is None:
            return None
        self._fleet.heard(edge, address=address, serial=serial)
        return Poll((serial, int(found[3]), int(found[5])), float(found[4]))

    def has_news(self, question: Hashable) -> bool:
        serial, verdicts, _ = _read(question)
        return serial != self._ledger.head or verdicts != self._ledger.verdicts

    def answer_nowait(self, question: Hashable) -> Response | None:
        serial, _, limit = _read(question)
        body = self._ledger.made(serial, limit) if self.has_news(question) else None
        return None if body is None else self._response(body)

    async def answer(self, question: Hashable) -> Response:
        serial, _, limit = _read(question)
        return self._response(await self._ledger.batch(cursor_text(self._ledger.epoch, serial), limit))

    async def wait_news(self, seen: int) -> int:
        return await self._ledger.wait_moved(seen)

    def crowd(self, more: int) -> None:
        self._ledger.waiting += more

    def _response(self, body: bytes) -> Response:
        # Nearly all ask for the same, and the same response is written out only once. A batch is made anew when the verdicts change.
        if self._answer[0] is not body:
            fields = [("Content-Type", LINES_TYPE), ("Cache-Control", "no-store"), (VERDICTS, str(self._ledger.verdicts))]
            self._answer = (body, Response(200, fields, body))
        return self._answer[1]


def _read(question: Hashable) -> tuple[int, int, int]:
    assert isinstance(question, tuple)
    serial, verdicts, limit = question
    return serial, verdicts, limit
