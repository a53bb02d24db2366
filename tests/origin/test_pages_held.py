"""Pages under odd circumstances: replaced while somebody works with them, unreadable, on a disk without room, contradicted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trio.testing import MockClock

from origin.catalog import StoredAnswer
from origin.errors import Unavailable
from origin.model import Digest, Page
from tests.origin.test_files import fetch, landed
from tests.scripted import MEDIA_TYPE, Upload, bench, document, now, stamp
from tests.wheels import KB, Shelf

PAGE = Page("pypi", "six")


@pytest.fixture
def clock() -> MockClock:
    # Worker threads count as blocked tasks: the threshold keeps the clock from jumping while one works.
    return MockClock(autojump_threshold=0.5)


@pytest.fixture
def upload(tmp_path: Path) -> Upload:
    made = Shelf(tmp_path).wheel("six", "1.0", size=100 * KB)
    return Upload(made.filename, made.content)


async def test_what_is_made_of_a_page_after_its_replacement_is_never_valid(
    tmp_path: Path, upload: Upload, clock: MockClock
) -> None:
    async with bench(tmp_path, {"six": [upload]}) as b:
        await b.service.page(PAGE)
        pages = b.service._pages
        old = await pages.held(PAGE)
        assert old is not None
        b.source.projects["six"] = [upload, Upload("six-2.0-py3-none-any.whl", b"2")]
        clock.jump(601)
        await b.service.page(PAGE)
        # A request that held the old page across its replacement goes on: it may finish, but nothing of it may be kept.
        late = await pages._view(old, "hit", "hit")
        assert len(late.listing.entries) == 1
        assert not late.validity.valid
        b.rule("pkg:pypi/six@1.0", "recalled")
        again = await pages._view(old, "hit", "hit")
        assert again.listing.entries[upload.filename].yanked == "recalled", "and it is judged by the rules now in force"
        assert not again.validity.valid


async def test_a_stored_page_that_cannot_be_read_is_asked_for_anew(tmp_path: Path, upload: Upload, clock: MockClock) -> None:
    async with bench(tmp_path, {"six": [upload]}) as b:
        await b.catalog.publish(StoredAnswer(PAGE, 200, b"<not json>", MEDIA_TYPE, stamp(), now()))
        assert upload.filename in (await b.service.page(PAGE)).listing.entries
        assert "unreadable-page" in await b.events()


async def test_a_catalogue_without_room_costs_nobody_a_page(
    tmp_path: Path, upload: Upload, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(tmp_path, {"six": [upload]}) as b:

        async def full(*_: object) -> None:
            raise Unavailable("no room for the catalogue")

        for method in ("publish", "renew", "record_owners", "bind", "touch", "drop"):
            monkeypatch.setattr(b.catalog, method, full)
        assert (await b.service.page(PAGE)).outcome == "miss"
        assert (await b.service.page(PAGE)).outcome == "hit"
        clock.jump(601)
        assert (await b.service.page(PAGE)).outcome == "revalidated"
        assert await fetch(b, upload) == upload.content
        assert "not-stored" in await b.events()
        await b.service.keep_house()


@pytest.mark.parametrize("view", ["", "json"])
async def test_digests_that_contradict_a_binding_never_reach_a_page(
    tmp_path: Path, upload: Upload, clock: MockClock, view: str
) -> None:
    async with bench(tmp_path, {"six": [upload]}) as b:
        await fetch(b, upload)
        await landed(b)
        other = "ab" * 32
        if view:
            described = upload.described()
            legacy = {"filename": upload.filename, "url": described["url"], "digests": {"sha256": other}, "size": 7}
            info = {"name": "six", "version": "1.0"}
            b.source.raw["six"] = json.dumps({"info": info, "urls": [legacy], "releases": {"1.0": [legacy]}}).encode()
        else:
            page = json.loads(document("six", [upload]))
            page["files"][0]["core-metadata"] = {"sha256": other}
            b.source.raw["six"] = json.dumps(page).encode()
            clock.jump(601)
        found = await b.service.page(Page("pypi", "six", view))
        assert other.encode() not in found.listing.document
        assert "rebound" in await b.events()
        if not view:
            (sidecar,) = [x for x in await b.catalog.bindings("pypi", "six") if x.file.filename.endswith(".metadata")]
            assert found.listing.entries[upload.filename].sidecar == (Digest("sha256", sidecar.digest.value),)
