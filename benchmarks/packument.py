"""A packument of 50 MB under a hundred clients that nobody asked before, and how long everybody else waits meanwhile."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Mapping

from .stage import Server, Stage, counts, stage
from .table import keep, show, spread

MB = 1_000_000
CLIENTS = 100
VERSIONS = 10_000
VERSION_BYTES = 5_000
SMALL_VERSIONS = 30

NPM = {
    "User-Agent": "npm/10.9.9 node/v24.0.0 linux x64 workspaces/false",
    "Accept": "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8, */*",
    "Accept-Encoding": "gzip,deflate",
    "Connection": "keep-alive",
}
"""What npm sends for a packument."""

BERRY = NPM | {"User-Agent": "yarn/4.18.1", "Accept": "*/*"}
"""What yarn 4 sends: it wants the full document."""

PROBE_PAUSE_US = 2000
PROBE_S = 12.0

MEMORY_TARGET = 400 * MB
WAIT_TARGET_MS = 50.0


def run(rounds: int) -> bool:
    """Measure; False if a target is missed."""
    with stage() as here:
        here.publish_packument("small", packument("small", SMALL_VERSIONS, 1000))
        for number in range(rounds):
            here.publish_packument(f"vast-{number}", packument(f"vast-{number}", VERSIONS, VERSION_BYTES))
        here.publish("small", [], listed=1)
        upstream = here.upstream()
        figures: dict[str, dict[str, list[float]]] = {"nginx": defaultdict(list), "leeward": defaultdict(list)}
        for number in range(rounds):
            for name in ("nginx", "leeward") if number % 2 == 0 else ("leeward", "nginx"):
                server = here.nginx(upstream) if name == "nginx" else here.edge(upstream.port)
                for what, value in _round(here, upstream, server, f"/npm/vast-{number}").items():
                    figures[name][what].append(value)
                here.stop(server)
    rows = [
        [what, *(spread(by[what]) for by in figures.values()), target]
        for what, target in (
            ("fetched upstream", "1"),
            ("all clients done, ms", ""),
            ("another page, p50, ms", ""),
            ("another page, p99, ms", f"{WAIT_TARGET_MS:.0f}"),
            ("another page, worst, ms", ""),
            ("memory at most, MB", f"{MEMORY_TARGET / MB:.0f}"),
        )
    ]
    head = ["", *figures, "target"]
    show(
        f"Cold: {CLIENTS} clients, half abbreviated, half full, of a {VERSIONS * VERSION_BYTES / MB:.0f} MB packument", head, rows
    )
    keep("packument", figures)
    ours = figures["leeward"]
    right = (
        max(ours["fetched upstream"]) == 1
        and max(ours["memory at most, MB"]) <= MEMORY_TARGET / MB
        and statistics.median(ours["another page, p99, ms"]) <= WAIT_TARGET_MS
    )
    print(f"targets {'met' if right else 'MISSED'}")
    return right


def packument(name: str, versions: int, bytes_each: int) -> dict[str, object]:
    """A full document with this many versions of about this many bytes each."""
    listed = {f"1.{number}.0": _manifest(name, f"1.{number}.0", bytes_each) for number in range(versions)}
    return {
        "_id": name,
        "name": name,
        "dist-tags": {"latest": f"1.{versions - 1}.0"},
        "versions": listed,
        "time": dict.fromkeys(("created", "modified", *listed), "2026-01-02T03:04:05.678Z"),
    }


def _manifest(name: str, version: str, length: int) -> dict[str, object]:
    dist = {
        "tarball": f"http://npm.test/{name}/-/{name}-{version}.tgz",
        "shasum": "0" * 40,
        "integrity": "sha512-" + "A" * 86 + "==",
    }
    manifest: dict[str, object] = {"name": name, "version": version, "dependencies": {"left": "^1.0.0"}, "dist": dist}
    return manifest | {"readme": "x" * max(0, length - len(json.dumps(manifest)))}


def _round(here: Stage, upstream: Server, server: Server, path: str) -> dict[str, float]:
    bare = Server(server.name, server.process, server.port)
    small = "/npm/small"
    bare.get(small, NPM)
    upstream.get("/forget")
    prober = here.client.start(server.port, small, NPM, "-c", "1", "-i", str(PROBE_PAUSE_US), "-t", str(PROBE_S))
    time.sleep(0.2)
    loads = [_ask(here, server, path, headers) for headers in (NPM, BERRY)]
    most = 0
    while any(load.poll() is None for load in loads):
        most = max(most, server.usage().resident_bytes)
        time.sleep(0.02)
    done = [here.client.result(load) for load in loads]
    others = here.client.result(prober)
    for load in (*done, others):
        if load.errors:
            raise RuntimeError(f"{server.name}: {load.errors} answers were wrong: {load.trouble}")
    return {
        "fetched upstream": counts(upstream)[path],
        "all clients done, ms": max(last for load in done for _, last, _ in load.each) / 1000,
        "another page, p50, ms": others.p50_us / 1000,
        "another page, p99, ms": others.p99_us / 1000,
        "another page, worst, ms": others.max_us / 1000,
        "memory at most, MB": most / MB,
    }


def _ask(here: Stage, server: Server, path: str, headers: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return here.client.start(server.port, path, headers, "-1", "-c", str(CLIENTS // 2), "-t", "120")
