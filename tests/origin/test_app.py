"""A node's opening: whose data directory it is meanwhile, and how long it is waited for."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from origin.app import COMMAND_WAIT_S, LOCK_PAUSE_S, NODE_WAIT_S, SOCKETS, Node, open_node
from origin.control import serve_control
from origin.datadir import DataDirectory, Locked
from origin.settings import StoreSettings, UpstreamSettings


def opened(data: Path, *, connected: bool = True) -> AbstractAsyncContextManager[Node]:
    return open_node(data, {}, UpstreamSettings(), StoreSettings(), connected=connected)


@asynccontextmanager
async def letting_go(held: DataDirectory, after_s: float) -> AsyncIterator[None]:
    """Have a directory given up while the block runs."""

    async def let_go() -> None:
        await trio.sleep(after_s)
        held.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_go)
        yield


async def test_a_node_starts_once_a_command_lets_go_of_its_store(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "leeward.node")
    with DataDirectory.open(tmp_path) as held:
        async with letting_go(held, NODE_WAIT_S - 1), opened(tmp_path) as node:
            assert trio.current_time() >= NODE_WAIT_S - 1
            assert await node.catalog.recall("deployment") == node.deployment
    (told,) = [record.getMessage() for record in caplog.records if record.name == "leeward.node"]
    assert told == f"the data directory {tmp_path} is in use by process {os.getpid()}: waiting up to 10 s for it"


@pytest.mark.parametrize(("connected", "wait_s"), [(True, NODE_WAIT_S), (False, COMMAND_WAIT_S)])
async def test_a_store_that_is_kept_is_given_up_after_some_seconds(
    tmp_path: Path, autojump_clock: MockClock, connected: bool, wait_s: float
) -> None:
    began = trio.current_time()
    with DataDirectory.open(tmp_path), pytest.raises(Locked, match=f"is in use by process {os.getpid()}: stop it first"):
        async with opened(tmp_path, connected=connected):
            raise AssertionError("two have it")
    assert wait_s <= trio.current_time() - began < wait_s + 2 * LOCK_PAUSE_S


@pytest.mark.parametrize("name", SOCKETS)
async def test_a_node_that_answers_commands_is_not_waited_for(tmp_path: Path, autojump_clock: MockClock, name: str) -> None:
    async with trio.open_nursery() as nursery:
        with DataDirectory.open(tmp_path):
            await nursery.start(serve_control, tmp_path / name, {})
            began = trio.current_time()
            with pytest.raises(Locked):
                async with opened(tmp_path):
                    raise AssertionError("two have it")
            assert trio.current_time() - began < LOCK_PAUSE_S
            nursery.cancel_scope.cancel()
