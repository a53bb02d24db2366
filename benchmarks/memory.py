"""What a thousand slow readers cost, and how long a listing of 20,000 files keeps everybody else waiting."""

from __future__ import annotations

import time
from collections.abc import Mapping

from .stage import CLIENT_CPU, FILE, PIP, SERVER_CPU, Server, Stage, file_path, stage
from .table import keep, show, spread

MB = 1_000_000
READERS = 1000
READ_BYTES_S = 8192
FILE_BYTES = 500 * MB
WATCH_S = 12.0
MEMORY_TARGET = 150 * MB

LISTED = 20_000
ROUNDS = 5
PROBE_PAUSE_US = 1000
PROBE_S = 2.0
STALL_TARGET_MS = 20.0
IDLE = "longest stall with nothing to do"


def run() -> bool:
    """Measure both; False if a target is missed."""
    with stage() as here:
        large = here.shelf.wheel("large", "1.0", size=FILE_BYTES)
        here.publish("large", [large])
        for number in range(ROUNDS):
            here.publish(f"endless-{number}", [], listed=LISTED)
        upstream = here.upstream(rate=40 * MB)
        edge = here.edge(upstream.port)
        cold = _readers(here, edge, large.filename)
        wait_held(edge, file_path(edge, "large", large.filename))
        warm = _readers(here, edge, large.filename)
        quick = here.upstream()
        here.stop(edge)
        stalls = _stalls(here, quick)
    readers = f"{READERS:,} readers at {READ_BYTES_S // 1024} KiB/s, 500 MB"
    rows = [
        [f"{readers} arriving", f"{cold / MB:.0f} MB", f"{MEMORY_TARGET / MB:.0f} MB"],
        [f"{readers} held", f"{warm / MB:.0f} MB", f"{MEMORY_TARGET / MB:.0f} MB"],
        *(
            [what, f"{spread(worst)} ms", "" if what == IDLE else f"least {STALL_TARGET_MS:.0f} ms"]
            for what, worst in stalls.items()
        ),
    ]
    show(f"Memory at most; longest stalls, {ROUNDS} rounds: median [range]", ["case", "leeward", "target"], rows)
    keep("memory", {"arriving_bytes": cold, "held_bytes": warm, "stall_ms": stalls})
    stall = max(min(worst) for what, worst in stalls.items() if what != IDLE)
    right = max(cold, warm) <= MEMORY_TARGET and stall <= STALL_TARGET_MS
    print(f"targets {'met' if right else 'MISSED'}")
    return right


def _readers(here: Stage, edge: Server, wheel: str) -> int:
    """How much resident memory grew, at most, while they read."""
    path = file_path(edge, "large", wheel)
    before = edge.usage().resident_bytes
    options = ("-1", "-c", str(READERS), "-s", str(READ_BYTES_S), "-t", str(WATCH_S))
    client = here.client.start(edge.port, path, FILE, *options)
    most = before
    while client.poll() is None:
        most = max(most, edge.usage().resident_bytes)
        time.sleep(0.1)
    load = here.client.result(client)
    served = sum(1 for _, _, received in load.each if received)
    if load.errors or served < READERS:
        raise RuntimeError(f"only {served} of {READERS} readers were served: {load.trouble or 'no answer'}")
    return most - before


def wait_held(edge: Server, path: str) -> None:
    """Read the file once to its end, so that it is held."""
    bare = Server(edge.name, edge.process, edge.port)
    status, _, body = bare.get(path, FILE, timeout_s=120)
    if status != 200 or len(body) < FILE_BYTES:
        raise RuntimeError(f"the large file was answered {status} with {len(body):,} bytes")


def _stalls(here: Stage, upstream: Server) -> dict[str, list[float]]:
    """The longest answer of ``/-/live`` in ms, asked every millisecond while a long listing is handled: one figure for each round.

    A machine that others share stops everybody now and then, and that can only lengthen a stall: the least of the rounds is ours.
    """
    edge = here.edge(upstream.port, fresh="1s")
    edge.pin({SERVER_CPU})
    steps = {
        f"listing of {LISTED:,} files, first fetch, JSON": PIP | {"Accept-Encoding": "gzip"},
        "the same in HTML": PIP | {"Accept-Encoding": "gzip", "Accept": "text/html"},
        "the same, stale, JSON": PIP | {"Accept-Encoding": "identity"},
    }
    worst: dict[str, list[float]] = {IDLE: [], **{what: [] for what in steps}}
    for number in range(ROUNDS):
        worst[IDLE].append(_longest(here, edge, None, PIP))
        for what, headers in steps.items():
            worst[what].append(_longest(here, edge, f"/simple/endless-{number}/", headers))
    return worst


def _longest(here: Stage, edge: Server, path: str | None, headers: Mapping[str, str]) -> float:
    """Milliseconds of the longest answer that the prober saw while ``path`` was asked for."""
    options = ("-c", "1", "-i", str(PROBE_PAUSE_US), "-k", str(CLIENT_CPU), "-t", str(PROBE_S))
    prober = here.client.start(edge.port, "/-/live", FILE, *options)
    time.sleep(0.2)
    if path is not None:
        status, _, body = edge.get(path, headers)
        if status != 200 or len(body) < LISTED:
            raise RuntimeError(f"the long listing was answered {status} with {len(body):,} bytes")
    load = here.client.result(prober)
    if load.errors:
        raise RuntimeError(f"the prober failed: {load.trouble}")
    return load.max_us / 1000
