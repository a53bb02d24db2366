"""The control socket: commands reach the running node, for its owner alone, and whoever leaves is not worked for."""

from __future__ import annotations

import socket
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from origin.control import Command, CommandFailed, NotRunning, Progress, call, sentence, serve_control
from origin.errors import NotFound, Refused, Unavailable
from origin.model import Refuse


@asynccontextmanager
async def node(path: Path, commands: Mapping[str, Command]) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, path, commands)
        yield
        nursery.cancel_scope.cancel()


async def echo(arguments: dict[str, object], progress: Progress) -> object:
    for done in range(2):
        await progress({"done": done, "total": 2})
    return {"heard": arguments}


async def test_a_command_is_obeyed_and_tells_how_far_it_is(tmp_path: Path) -> None:
    told: list[dict[str, object]] = []
    async with node(tmp_path / "edge.sock", {"echo": echo}):
        result = await call(tmp_path / "edge.sock", "echo", {"purl": "pkg:pypi/six"}, told.append)
    assert result == {"heard": {"purl": "pkg:pypi/six"}}
    assert told == [{"done": 0, "total": 2}, {"done": 1, "total": 2}]


async def test_the_socket_is_its_owners_alone_and_goes_with_the_node(tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    async with node(path, {}):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_no_node_is_told_from_a_failed_command(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match="no edge or origin is running"):
        await call(tmp_path / "edge.sock", "echo", {})
    with pytest.raises(NotRunning):
        await call(tmp_path / "no" / "such" / "edge.sock", "echo", {})


async def test_a_socket_left_by_a_node_that_died_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(NotRunning):
        await call(path, "echo", {})
    async with node(path, {"echo": echo}):
        assert await call(path, "echo", {}) == {"heard": {}}


async def test_a_second_node_does_not_take_the_socket_away(tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    async with node(path, {"echo": echo}):
        with pytest.raises(OSError, match="another node is running"):
            await serve_control(path, {})
        assert await call(path, "echo", {}) == {"heard": {}}


async def test_a_file_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    path.write_text("precious")
    with pytest.raises(OSError, match="the control socket cannot be made"):
        await serve_control(path, {})
    assert path.read_text() == "precious"


async def test_a_data_directory_may_be_deep(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 90) / ("e" * 90)
    directory.mkdir(parents=True)
    async with node(directory / "edge.sock", {"echo": echo}):
        assert await call(directory / "edge.sock", "echo", {}) == {"heard": {}}
    assert not (directory / "edge.sock").exists()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("not a purl: x"), "not a purl: x"),
        (NotFound("no such project"), "no such project"),
        (Unavailable("upstream is silent"), "upstream is silent"),
        (Refused(Refuse("it is evil", "no-evil")), "refused by rule no-evil: it is evil"),
        (OSError(28, "No space left on device", "/data"), "No space left on device: /data"),
    ],
)
async def test_a_failed_command_gives_its_sentence(tmp_path: Path, error: Exception, told: str) -> None:
    async def fail(_: dict[str, object], __: Progress) -> object:
        raise error

    async with node(tmp_path / "edge.sock", {"fail": fail}):
        with pytest.raises(CommandFailed) as caught:
            await call(tmp_path / "edge.sock", "fail", {})
    assert str(caught.value) == told


async def test_a_fault_is_logged_and_the_node_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def crash(_: dict[str, object], __: Progress) -> object:
        raise RuntimeError("a fault with a secret in it")

    async def unspeakable(_: dict[str, object], __: Progress) -> object:
        return object()

    async with node(tmp_path / "edge.sock", {"crash": crash, "unspeakable": unspeakable, "echo": echo}):
        for name in ("crash", "unspeakable"):
            with pytest.raises(CommandFailed, match=f"{name} failed inside the node") as caught:
                await call(tmp_path / "edge.sock", name, {})
            assert "secret" not in str(caught.value)
        assert await call(tmp_path / "edge.sock", "echo", {}) == {"heard": {}}
    assert "a command failed" in caplog.text


async def test_an_unknown_command_is_told_the_known_ones(tmp_path: Path) -> None:
    async with node(tmp_path / "edge.sock", {"echo": echo}):
        with pytest.raises(CommandFailed, match=r"unknown command 'ehco'; this node knows echo"):
            await call(tmp_path / "edge.sock", "ehco", {})


@pytest.mark.parametrize("line", [b"nonsense\n", b'{"command": 3}\n', b"[]\n", b"\xff\n", b"x" * (1 << 21) + b"\n"])
async def test_nonsense_is_refused_and_the_node_goes_on(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "edge.sock"
    async with node(path, {"echo": echo}):
        async with await trio.open_unix_socket(str(path)) as stream:
            answer = b""
            try:
                await stream.send_all(line)
                while received := await stream.receive_some(65536):
                    answer += received
            except trio.BrokenResourceError:
                assert len(line) > 1 << 20
            else:
                assert answer.startswith(b'{"error":"not a command')
        async with await trio.open_unix_socket(str(path)):
            pass
        assert await call(path, "echo", {}) == {"heard": {}}


async def test_a_command_whose_caller_leaves_is_cancelled(tmp_path: Path) -> None:
    began, ended = trio.Event(), trio.Event()

    async def endless(_: dict[str, object], __: Progress) -> object:
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with node(tmp_path / "edge.sock", {"endless": endless}), trio.open_nursery() as nursery:
        nursery.start_soon(call, tmp_path / "edge.sock", "endless", {})
        await began.wait()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
            await ended.wait()
    assert ended.is_set()


async def test_a_node_that_stops_meanwhile_is_told(tmp_path: Path) -> None:
    began = trio.Event()

    async def endless(_: dict[str, object], __: Progress) -> object:
        began.set()
        await trio.sleep_forever()
        raise AssertionError

    async def ask() -> None:
        with pytest.raises(CommandFailed, match="stopped before it had answered"):
            await call(tmp_path / "edge.sock", "endless", {})

    async with trio.open_nursery() as nursery, node(tmp_path / "edge.sock", {"endless": endless}):
        nursery.start_soon(ask)
        await began.wait()


def test_a_fault_of_the_program_has_no_sentence() -> None:
    assert sentence(RuntimeError("x")) is None
    assert sentence(ValueError("x")) == "x"
