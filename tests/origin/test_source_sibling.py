"""A sibling as a source: what it holds is good, what it lacks it knows nothing of, and of its refusals only recalls are heard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from origin.errors import Corrupt, NotFound, Refused, Unavailable
from origin.http import Request, Response
from origin.model import Refuse
from origin.sources.remote import RemoteSource
from origin.sources.sibling import SiblingSource
from origin.tokens import proof, sibling, sibling_token
from tests.contracts.sources import BODY, Arena, SourceContract, collect
from tests.origin.test_source_remote import arena_on, listing
from tests.remote_stage import ENTRY, FLEET, NOW, PAGE, RELAY, WHEEL, Stage, sourced, stage


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage(tmp_path, held_only=True) as made:
        yield made


class TestContract(SourceContract):
    """The contract over a sibling, but for what it cannot know."""

    @pytest.fixture
    async def arena(self, at: Stage) -> AsyncIterator[Arena]:
        async with sourced(at, SiblingSource, patience_s=3) as source:
            yield arena_on(at, source)

    async def test_a_clean_absence_is_a_value(self, arena: Arena) -> None:
        """A sibling's word that there is nothing is none."""
        arena.withdraw()
        with pytest.raises(Unavailable, match="holds nothing of it"):
            await arena.source.page(arena.page, None)

    async def test_a_file_that_is_gone_is_not_found(self, arena: Arena) -> None:
        """It was never here, for all that a sibling can tell."""
        arena.withdraw()
        with pytest.raises(Unavailable, match="not hold|not held"):
            async with arena.source.file(arena.file, arena.entry):
                pytest.fail("nothing can be opened")
        with pytest.raises(Unavailable):
            await arena.source.exists(arena.file, arena.entry.url)

    async def test_a_relay_brings_whatever_was_answered(self, arena: Arena) -> None:
        """Siblings relay nothing."""
        arena.answer(200, b"{}")
        with pytest.raises(Unavailable):
            await arena.source.relay(arena.relay)

    async def test_what_is_said_about_a_relayed_request_is_an_answer_too(  # type: ignore[override]  # of no status
        self, arena: Arena
    ) -> None:
        """Siblings relay nothing."""


async def test_what_a_sibling_holds_is_told_as_an_origin_would(at: Stage) -> None:
    at.told.page_is, at.told.file_is = listing(b'{"name":"six"}'), BODY
    async with sourced(at, SiblingSource) as source:
        assert source.name == "sibling"
        answer = await source.page(PAGE, None)
        assert (answer.trail, source.available("pypi", "file")) == ("leeward-sibling; hit", True)
        async with source.file(WHEEL, ENTRY) as stream:
            assert await collect(stream) == BODY
        assert await source.exists(WHEEL, "")


@pytest.mark.parametrize("fault", [Corrupt("wrong"), NotFound("no"), Refused(Refuse("not here", "own")), Unavailable("busy")])
async def test_whatever_is_wrong_at_a_sibling_leads_on(fault: Exception, at: Stage) -> None:
    at.told.page_is = at.told.file_is = fault
    async with sourced(at, SiblingSource) as source:
        with pytest.raises(Unavailable):
            await source.page(PAGE, None)
        with pytest.raises(Unavailable):
            async with source.file(WHEEL, ENTRY):
                pytest.fail("nothing can be opened")
        with pytest.raises(Unavailable):
            await source.relay(RELAY)


async def test_a_recall_that_a_sibling_has_heard_of_counts_here_too(at: Stage) -> None:
    at.told.page_is = at.told.file_is = Refused(Refuse("recalled: a worm", "recall-7"))
    async with sourced(at, SiblingSource) as source:
        with pytest.raises(Refused, match="a worm"):
            await source.page(PAGE, None)
        with pytest.raises(Refused, match="a worm"):
            async with source.file(WHEEL, ENTRY):
                pytest.fail("nothing can be opened")


async def ask_all(source: RemoteSource) -> None:
    """Each of what a sibling is asked for is refused to be believed."""
    with pytest.raises(Unavailable, match="prove|another digest|compressed"):
        await source.page(PAGE, None)
    with pytest.raises(Unavailable, match="prove|another digest|compressed"):
        await source.exists(WHEEL, "")


@pytest.mark.parametrize("change", ["no proof", "another stamp", "another etag", "another question", "another page", "a refusal"])
async def test_what_somebody_on_the_way_changed_is_not_believed(change: str, at: Stage) -> None:
    at.told.page_is, at.told.file_is = listing(b'{"name":"six"}'), BODY
    face, earlier = at.handle, list[str]()

    async def listen(request: Request) -> Response:
        answer = await face(request)
        earlier.append(answer.header("leeward-proof") or "")
        return answer

    async def meddle(request: Request) -> Response:
        answer = await face(request)
        fields = {name.lower(): value for name, value in answer.headers}
        match change:
            case "no proof":
                fields.pop("leeward-proof", None)
            case "another stamp":
                fields["leeward-stamp"] = "99999.0 99999.0 0.0"
            case "another etag":
                fields["etag"] = '"leeward-0000000000000000000000000000000000000000"'
            case "another question":
                fields["leeward-proof"] = earlier[-1]
            case "another page" if isinstance(answer.body, bytes):
                answer.body = b"x" * len(answer.body)
            case _:
                answer.status = 403
        answer.headers = list(fields.items())
        return answer

    async with sourced(at, SiblingSource) as source:
        at.handle = listen
        await source.page(PAGE, None)
        at.handle = meddle
        await ask_all(source)


async def test_a_file_that_somebody_on_the_way_changed_is_not_believed(at: Stage) -> None:
    at.told.file_is = BODY
    face = at.handle

    async def meddle(request: Request) -> Response:
        answer = await face(request)
        told = [(name, value) for name, value in answer.headers if name != "Repr-Digest"]
        answer.headers = [*told, ("Repr-Digest", "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:")]
        return answer

    async with sourced(at, SiblingSource) as source:
        at.handle = meddle
        with pytest.raises(Unavailable, match="prove"):
            async with source.file(WHEEL, ENTRY):
                pytest.fail("nothing can be opened")


async def test_an_answer_of_another_fleet_is_not_believed(at: Stage) -> None:
    at.told.page_is, at.told.file_is = listing(), BODY
    async with sourced(at, SiblingSource, prove=lambda text: proof(bytes(32), text)) as source:
        await ask_all(source)


async def test_the_fleets_key_opens_a_sibling(at: Stage) -> None:
    at.told.page_is = listing()
    seen: list[str | None] = []
    face = at.handle

    async def note(request: Request) -> Response:
        seen.append(sibling(FLEET, request.header("authorization"), NOW))
        return await face(request)

    at.handle = note
    link = at.link("Bearer " + sibling_token(FLEET, "oslo", NOW))
    async with sourced(at, SiblingSource, link=link) as source:
        with pytest.raises(Unavailable, match="does not take this edge for one of its fleet"):
            await source.page(PAGE, None)
    assert seen == ["oslo", "oslo"]
