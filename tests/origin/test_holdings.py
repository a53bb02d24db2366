"""What an origin holds, compared by digests and told in parts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from origin.api import wire
from origin.api.wire import Comparison
from origin.catalog import Binding, StoredAnswer
from origin.catalog.memory import MemoryCatalog
from origin.holdings import NAMES_S, Holdings
from origin.model import Digest, File, Page, Stamp
from origin.registries import Registry
from origin.registries.npm import NPM
from origin.registries.pypi import PyPI

REGISTRIES: Mapping[str, Registry] = {"pypi": PyPI("pypi", "http://pypi.test/simple/"), "npm": NPM("npm", "http://npm.test/")}


def binding(registry: str, project: str, number: int) -> Binding:
    name = f"{project}-{number}.tgz"
    digest = Digest("sha256", hashlib.sha256(f"{registry} {name}".encode()).hexdigest())
    return Binding(File(registry, project, f"{number}.0", name, f"{project}/-/{name}"), digest, number, 0.0)


def answer(project: str, status: int = 200) -> StoredAnswer:
    return StoredAnswer(Page("npm", project), status, b"{}" if status == 200 else b"", "application/json", Stamp(1, 2), 0.0)


def told(bindings: list[Binding]) -> tuple[str, ...]:
    return wire.shard_digests((each.file.key, str(each.digest)) for each in bindings)


async def filled(count: int) -> tuple[MemoryCatalog, list[Binding]]:
    catalog = MemoryCatalog(keeps_ledger=True)
    bindings = [binding(registry, f"p{number % 7}", number) for number in range(count) for registry in ("npm", "pypi")]
    for each in bindings:
        await catalog.bind(each)
    return catalog, bindings


async def test_all_bindings_are_in_one_digest_as_an_edge_reckons_it() -> None:
    catalog, bindings = await filled(40)
    holdings = Holdings(catalog, REGISTRIES)
    compared = await holdings.compare(Comparison(), "e")
    assert compared.shards == told(bindings)
    assert compared.total == wire.total_digest(told(bindings))
    assert compared.cursor == "e.80"


async def test_what_came_since_is_added_to_what_was_reckoned() -> None:
    catalog, bindings = await filled(5)
    holdings = Holdings(catalog, REGISTRIES)
    await holdings.compare(Comparison(), "e")
    more = binding("npm", "later", 99)
    await catalog.bind(more)
    await catalog.bind(more)
    await catalog.publish(answer("later"))
    compared = await holdings.compare(Comparison(), "e")
    assert compared.shards == told([*bindings, more])
    assert compared == await Holdings(catalog, REGISTRIES).compare(Comparison(), "e")


async def test_only_the_releases_that_are_asked_for_count() -> None:
    catalog, bindings = await filled(20)
    holdings = Holdings(catalog, REGISTRIES)
    for match, mine in (
        (("pkg:npm/*",), [each for each in bindings if each.file.registry == "npm"]),
        (
            ("pkg:pypi/p3", "pkg:npm/p1@1.0"),
            [
                each
                for each in bindings
                if (each.file.registry, each.file.project) == ("pypi", "p3")
                or (each.file.registry, each.file.project, each.file.version) == ("npm", "p1", "1.0")
            ],
        ),
        (("pkg:maven/*",), []),
    ):
        assert mine or match == ("pkg:maven/*",)
        assert (await holdings.compare(Comparison(match=match), "e")).shards == told(mine)
        assert (await holdings.compare(Comparison(match=tuple(reversed(match))), "e")).shards == told(mine)


async def test_a_shards_names_are_told_in_full() -> None:
    catalog, bindings = await filled(40)
    holdings = Holdings(catalog, REGISTRIES)
    shard = wire.shard_of(bindings[0].file.key)
    found = await holdings.compare(Comparison(match=("pkg:npm/*",), shard=shard), "e")
    wanted = {
        each.file.key: str(each.digest)
        for each in bindings
        if wire.shard_of(each.file.key) == shard and each.file.registry == "npm"
    }
    assert {held.file.key: held.digest for held in found.files} == wanted
    assert bindings[0].file in [held.file for held in found.files]
    assert found.cursor == "e.80"


async def test_the_names_of_shards_are_read_together_and_not_kept_for_long(autojump_clock: trio.testing.MockClock) -> None:
    catalog, bindings = await filled(40)
    holdings = Holdings(catalog, REGISTRIES)

    async def names(shard: int) -> set[str]:
        return {held.file.key for held in (await holdings.compare(Comparison(shard=shard), "e")).files}

    assert set().union(*[await names(shard) for shard in range(wire.SHARDS)]) == {each.file.key for each in bindings}
    more = binding("npm", "later", 99)
    shard = wire.shard_of(more.file.key)
    await names(shard)
    await catalog.bind(more)
    assert more.file.key not in await names(shard)
    await trio.sleep(NAMES_S + 1)
    assert more.file.key in await names(shard)


@pytest.mark.parametrize("shard", [-1, 256])
async def test_a_shard_that_is_none_is_refused(shard: int) -> None:
    with pytest.raises(ValueError, match="there are 256 shards"):
        await Holdings(MemoryCatalog(), REGISTRIES).compare(Comparison(shard=shard), "e")


@given(st.integers(1, 9), st.integers(0, 6), st.integers(0, 3))
async def test_a_snapshot_in_parts_is_all_of_it_once(limit: int, pages: int, files: int) -> None:
    catalog, bindings = await filled(files)
    for number in range(pages):
        await catalog.publish(answer(f"page{number}"))
    await catalog.publish(answer("gone", 404))
    holdings = Holdings(catalog, REGISTRIES)
    seen: list[str] = []
    after, parts = "", 0
    while True:
        part = await holdings.snapshot(after, limit, "e")
        seen += [page.key for page in part.pages] + [held.file.key for held in part.files]
        assert len(part.pages) + len(part.files) <= limit
        assert part.total == pages + len(bindings)
        serial, last = await catalog.head()
        assert (part.cursor, part.hash) == (f"e.{serial}", last.hex())
        parts += 1
        if not part.after:
            break
        after = part.after
    assert seen == [*sorted(f"npm:page{number}:" for number in range(pages)), *sorted(each.file.key for each in bindings)]
    assert parts <= (pages + len(bindings)) // limit + 2


async def test_a_place_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not a place in a snapshot"):
        await Holdings(MemoryCatalog(), REGISTRIES).snapshot("x", 10, "e")
