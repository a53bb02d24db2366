"""The contract over the source that tests of the service stand on: a fake is only as good as what it has in common with the real one."""

from __future__ import annotations

import pytest
import trio.testing

from origin.model import Entry
from origin.sources import Relayed
from tests.contracts.sources import BODY, Arena, SourceContract
from tests.registry_bench import PAGE, RELAY, WHEEL
from tests.scripted import ScriptedSource, Upload


class TestContract(SourceContract):
    """The contract over ``ScriptedSource``."""

    @pytest.fixture
    def arena(self, autojump_clock: trio.testing.MockClock) -> Arena:
        source = ScriptedSource()
        project = PAGE.project

        def publish(body: bytes, etag: str) -> None:
            source.raw[project], source.etags[project] = body, etag

        def upload(body: bytes, cut: int | None) -> None:
            source.projects[project] = [Upload(WHEEL.filename, body)]
            source.break_at = [] if cut is None else [cut]

        def withdraw() -> None:
            source.raw.clear()
            source.projects.clear()

        def say(what: str) -> None:
            setattr(source, what, True)

        return Arena(
            source,
            PAGE,
            WHEEL,
            Entry(WHEEL, Upload(WHEEL.filename, BODY).url),
            RELAY,
            publish,
            upload,
            answer=lambda status, body: source.relayed.update({RELAY.request: Relayed(status, body)}),
            withdraw=withdraw,
            silence=lambda: say("silent"),
            fail=lambda: say("down"),
            vanish=lambda: say("down"),
            requests=lambda: 0 if source.down else len(source.asked),
        )
