"""Bringing: each thing once, a registry that does not answer waited for once, what came pinned."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
import trio
import trio.testing

from edge.readiness.hands import PATIENCE_S, Bring, Tally
from origin.catalog import Binding, Catalog
from origin.errors import NotFound, Unavailable
from origin.model import Digest, File, Page
from origin.registries import Registry
from origin.registries.kinds import create
from origin.service import Service

REGISTRIES = {name: create("maven", name, f"https://{name}.test/") for name in ("one", "two")}
SHA256 = Digest("sha256", "a" * 64)


def file(name: str, registry: str = "one") -> File:
    found = REGISTRIES[registry].resource("GET", f"org/example/{name}/1/{name}-1.jar")
    assert isinstance(found, File)
    return found


class Node:
    """A service whose ``keep`` does what ``keeps`` does, and then has it; and the catalogue, which notes what is pinned."""

    def __init__(self, keeps: Callable[[File | Page], None] = lambda _: None) -> None:
        self.registries: dict[str, Registry] = dict(REGISTRIES)
        self.kept: list[str] = []
        self.pinned: list[Digest] = []
        self._keeps = keeps
        self._held: set[str] = set()

    async def keep(self, resource: File | Page) -> None:
        await trio.lowlevel.checkpoint()
        self.kept.append(resource.key)
        self._keeps(resource)
        self._held.add(resource.key)

    async def holds(self, asked: File) -> Binding | None:
        await trio.lowlevel.checkpoint()
        return Binding(asked, SHA256, 5, 0.0) if asked.key in self._held else None

    async def pin(self, digest: Digest, pinned: bool = True) -> None:
        await trio.lowlevel.checkpoint()
        self.pinned.append(digest)


def bringing(node: Node, tally: Tally | None = None, *, pins: bool = True) -> Bring:
    return Bring(cast("Service", node), cast("Catalog", node), (), tally or Tally(), pins=pins)


async def test_what_several_lock_files_need_is_brought_once_and_pinned() -> None:
    node, tally = Node(), Tally()
    hand = bringing(node, tally)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(hand.file, [file("a")])
    assert node.kept == [file("a").key]
    assert node.pinned == [SHA256]
    assert (tally.done, tally.total, tally.files, tally.fetched_files, tally.fetched) == (1, 1, 1, 1, 5)


async def test_nothing_is_pinned_if_that_is_not_wanted() -> None:
    node = Node()
    await bringing(node, pins=False).file([file("a")])
    assert node.pinned == []


async def test_of_several_instances_the_first_that_has_a_file_gives_it_and_then_again() -> None:
    def keeps(resource: File | Page) -> None:
        if resource.registry == "one":
            raise NotFound("no such file")

    node = Node(keeps)
    assert (await bringing(node).file([file("a"), file("a", "two")])).file.registry == "two"
    assert (await bringing(node).file([file("a"), file("a", "two")])).file.registry == "two"
    assert [key.partition(":")[0] for key in node.kept] == ["one", "two", "two"]


async def test_what_nobody_has_is_told_to_all_who_ask() -> None:
    def keeps(_: File | Page) -> None:
        raise NotFound("no such file")

    node = Node(keeps)
    hand = bringing(node)
    for _ in range(2):
        with pytest.raises(NotFound):
            await hand.file([file("a")])
    assert len(node.kept) == 1


async def test_a_registry_that_is_away_for_a_while_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    def keeps(_: File | Page) -> None:
        if trio.current_time() - began < PATIENCE_S / 2:
            raise Unavailable("it does not answer", 5)

    began = trio.current_time()
    node = Node(keeps)
    assert (await bringing(node).file([file("a")])).size == 5


async def test_a_registry_that_stays_away_is_waited_for_once_however_much_is_needed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def keeps(_: File | Page) -> None:
        raise Unavailable("it does not answer", 5)

    hand = bringing(Node(keeps))
    began = trio.current_time()

    async def ask(name: str) -> None:
        with pytest.raises(Unavailable, match="does not answer"):
            await hand.file([file(name)])

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(ask, f"a{number}")
    assert trio.current_time() - began < PATIENCE_S + 2


async def test_who_asks_and_leaves_spoils_nothing_for_the_next() -> None:
    node = Node()
    hand = bringing(node)
    with trio.CancelScope() as scope:
        scope.cancel()
        await hand.file([file("a")])
    assert (await hand.file([file("a")])).size == 5
