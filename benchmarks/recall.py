"""How soon what was recalled is served nowhere any more: an origin, a warm edge, and followers that make it fifty edges in all.

The followers poll, verify, put in force and acknowledge with the edge's own code, in this process, over TLS; they keep what they know in
memory. The edge is ``edge serve``, and holds what is recalled. A recall begins when ``origin recall`` is started and ends when the command
returns, having heard from every edge; each follower's own time is when it had the recall in force. The edge is then asked at once.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import trio

from origin import control
from tests.faults.checker import percentile
from tests.faults.many_followers import ManyFollowers
from tests.fleet import Fleet, fleet
from tests.wheels import Distribution

from .stage import stage
from .table import keep, show

EDGES = 50
RECALLS = 25

TARGET_S = 5.0
"""At the 99th percentile, until every live edge has acknowledged."""


def run() -> bool:
    """Measure and print; False if the target is missed, or if the edge served what was recalled."""
    with stage() as here:
        wheels = [here.shelf.wheel(f"evil-{number:02d}", "1.0", size=20_000) for number in range(RECALLS)]
        for wheel in wheels:
            here.publish(wheel.project, [wheel])
        registry = here.upstream()
        with fleet(here.directory, {"pypi": f"http://127.0.0.1:{registry.port}/simple/"}) as made:
            made.edge("warm")
            paths = [_warm(made, wheel) for wheel in wheels]
            commands, in_force, served = trio.run(_measure, made, wheels, paths)
    rows = [
        ["the command returned", *_told(commands), str(len(commands))],
        ["an edge had it in force", *_told(in_force), str(len(in_force))],
    ]
    title = f"Recall: {RECALLS} recalls with {EDGES} edges following, one of them a real one that holds it; from the command, s"
    show(title, ["until", "median", "p99", "worst", "times"], rows)
    keep("recall", {"commands_s": commands, "in_force_s": in_force, "served_after": served})
    p99 = percentile(commands, 99)
    right = p99 < TARGET_S and served == 0
    print(f"target: acknowledged by all within {TARGET_S:g} s at p99: {'met' if right else 'MISSED'} ({p99:.2f} s)")
    print(f"requests for what was recalled that the edge answered with it afterwards: {served}")
    return right


def _told(seconds: Sequence[float]) -> list[str]:
    return [f"{statistics.median(seconds):.2f}", f"{percentile(seconds, 99):.2f}", f"{max(seconds):.2f}"]


def _warm(made: Fleet, wheel: Distribution) -> str:
    """Fetch a wheel through the edge; where it is there."""
    edge = made["warm"]
    [link] = [file["url"] for file in edge.page(wheel.project).json()["files"]]
    path: str = urlsplit(link).path
    if edge.ask(path).body != wheel.content:
        raise RuntimeError(f"the edge did not serve {wheel.filename}\n{made.logs()}")
    return path


async def _measure(made: Fleet, wheels: Sequence[Distribution], paths: Sequence[str]) -> tuple[list[float], list[float], int]:
    """Seconds until each command returned and until each edge had each recall in force; and what was served after that."""
    socket = made.origin.data / "origin.sock"
    names = [f"edge-{number:02d}" for number in range(EDGES - 1)]
    invitations = [await _invite(socket, name) for name in names]
    followers = ManyFollowers(made.origin.url, invitations)
    commands: list[float] = []
    in_force: list[float] = []
    served = 0
    async with trio.open_nursery() as nursery:
        await nursery.start(followers.run)
        for wheel, path in zip(wheels, paths, strict=True):
            began = time.monotonic()
            words = ("recall", f"pkg:pypi/{wheel.project}@1.0", "--reason", "a worm", "--wait", "60s")
            told = await trio.to_thread.run_sync(made.origin.told, *words)
            commands.append(time.monotonic() - began)
            reply = await trio.to_thread.run_sync(made["warm"].ask, path)
            served += reply.status != 403
            if len(told["acknowledged"]) != EDGES:
                raise RuntimeError(f"only {told['acknowledged']} acknowledged\n{made.logs()}")
            in_force += [at - began for at in followers.in_force(told["verdicts"])]
        nursery.cancel_scope.cancel()
    return commands, in_force, served


async def _invite(socket: Path, name: str) -> str:
    told = await control.call(socket, "invite", {"name": name, "valid_s": 3600.0})
    assert isinstance(told, dict)
    return str(told["token"])
