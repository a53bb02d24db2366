"""A command line in this process: what it is run with, and a node's control socket that answers it as it is told."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from origin.control import Command, Progress, serve_control


def run(main: Callable[[Sequence[str]], int], *arguments: str) -> int:
    """Run a command; its exit status, however it ends."""
    try:
        return main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


def leave_out(monkeypatch: pytest.MonkeyPatch, *prefixes: str) -> None:
    """Take variables away, so that no test reads the settings of whoever runs it."""
    for name in list(os.environ):
        if name.startswith(prefixes):
            monkeypatch.delenv(name)


@contextmanager
def answering(path: Path, answers: Mapping[str, object]) -> Iterator[list[tuple[str, dict[str, object]]]]:
    """A node's control socket, in a thread of its own, giving ``answers`` by command; yields what it was asked."""
    path.parent.mkdir(exist_ok=True)
    asked: list[tuple[str, dict[str, object]]] = []
    stop, ready = trio.Event(), threading.Event()
    token: list[trio.lowlevel.TrioToken] = []

    def command(name: str) -> Command:
        async def run(arguments: dict[str, object], progress: Progress) -> object:
            asked.append((name, arguments))
            await progress({"done": 1, "total": 2, "bytes": 10})
            answer = answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return run

    async def serve() -> None:
        token.append(trio.lowlevel.current_trio_token())
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, path, {name: command(name) for name in answers})
            ready.set()
            await stop.wait()
            nursery.cancel_scope.cancel()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    try:
        assert ready.wait(10)
        yield asked
    finally:
        token[0].run_sync_soon(stop.set)
        thread.join(10)
