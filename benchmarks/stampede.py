"""A hundred clients on one cold 50 MB wheel, half of them half a second later: who waits how long, and what upstream is asked."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from .stage import FILE, Server, Stage, counts, file_path, stage
from .table import keep, show

CLIENTS = 100
LATER_MS = 500
WHEEL_BYTES = 50_000_000
UPSTREAM_RATE = 25_000_000
"""Bytes a second from upstream, so that the transfer lasts two seconds and the second half of the clients arrives in its midst."""

TARGET_MS = 200.0


@dataclass(frozen=True, slots=True)
class Rush:
    """What a hundred clients saw at one server. The lists are by client, those who came at once first; -1 is never."""

    upstream_gets: int
    first_byte_ms: list[float]
    whole_ms: list[float]
    wrong: int


def run() -> bool:
    """Measure nginx and ours in turn; False if ours misses the target, or anyone got a wrong answer."""
    with stage() as here:
        wheel = here.shelf.wheel("rush", "1.0", size=WHEEL_BYTES)
        here.publish("rush", [wheel])
        upstream = here.upstream(rate=UPSTREAM_RATE)
        rows, results = [], {}
        for server in (here.nginx(upstream), here.edge(upstream.port)):
            upstream.get("/forget")
            seen = results[server.name] = _rush(here, server, upstream, wheel.filename)
            rows.append(
                [
                    server.name,
                    str(seen.upstream_gets),
                    _times(seen.first_byte_ms[: CLIENTS // 2]),
                    _times(seen.first_byte_ms[CLIENTS // 2 :]),
                    f"{max(seen.whole_ms) / 1000:.2f}",
                    str(seen.wrong),
                ]
            )
        head = ["server", "upstream GETs", "first byte, ms: at once", "0.5 s later", "last client done, s", "wrong"]
        show(
            f"Stampede: {CLIENTS} clients, one cold wheel, upstream at {UPSTREAM_RATE / 1e6:.0f} MB/s; median (worst)", head, rows
        )
        ours = results["leeward"]
        right = not ours.wrong and ours.upstream_gets == 1 and max(ours.first_byte_ms) <= TARGET_MS
        print(f"target: one upstream GET, every first byte within {TARGET_MS:.0f} ms: {'met' if right else 'MISSED'}")
        keep("stampede", {name: asdict(seen) for name, seen in results.items()})
        return right


def _rush(here: Stage, server: Server, upstream: Server, wheel: str) -> Rush:
    path = file_path(server, "rush", wheel)
    load = here.client.run(server.port, path, FILE, "-1", "-c", str(CLIENTS), "-w", str(LATER_MS), "-t", "60")
    if load.errors:
        print(f"{server.name}: {load.errors} errors, the first: {load.trouble}", flush=True)
    return Rush(
        upstream_gets=counts(upstream).get(f"/files/{wheel}", 0),
        first_byte_ms=[first / 1000 for first, _, _ in load.each],
        whole_ms=[last / 1000 for _, last, _ in load.each],
        wrong=CLIENTS - load.answers,
    )


def _times(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f} ({max(values):.0f})"
