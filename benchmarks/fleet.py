"""How many edges one origin carries: real connections, 50 changes a second, and the time until the last edge has checked each of them.

For each number of edges a fresh ``origin serve`` starts (``publishing.py`` writes its ledger's lines), pinned to one core; ``followers.py``
plays the edges on the other. What the origin costs is read from the kernel: its own CPU time and resident memory, no client's.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import trio

from origin.control import call

from .followers import LATE_S, SLOT_S, Plan, Seen, Window
from .plot import Panel, draw
from .stage import CLIENT_CPU, OUT, ROOT, SERVER_CPU, Server, Stage, free_port, stage, wait_ready
from .table import keep, show

EDGES = (10, 30, 100, 300, 1000)
SECONDS = 15.0
RATE = 50.0

SETTLE_S = 2.0
"""Between the last enrolment and the window, and before it without any edge."""

READY_S = 120.0
"""How long all edges may take to enrol."""

BUSY = 0.7
"""The share of a core that an origin may use in the long run, for the projection."""

TARGET_S = 5.0


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured with so many edges. CPU is seconds a second; times are seconds; rates are a second.

    ``alone`` is what the origin uses while nobody follows. ``missing`` lines never arrived, counted over all edges.
    """

    edges: int
    p50_s: float
    p99_s: float
    max_s: float
    alone_cpu: float
    cpu: float
    resident_per_edge: float
    polls: float
    acknowledgements: float
    bytes: float
    changes: float
    missing: int
    follower_cpu: float

    @property
    def requests(self) -> float:
        return self.polls + self.acknowledgements


def run(edges: Sequence[int], seconds: float, rate: float) -> bool:
    """Measure, print, draw and project; False if a line did not arrive, or later than it should."""
    figures = []
    for count in edges:
        with stage() as here:
            figures.append(_measure(here, count, min(seconds, 30.0), rate))
        print(f"{count} edges measured", flush=True)
    show(
        f"Following: {rate:.0f} changes a second for {seconds:.0f} s; from the call of bind() until an edge has checked the line",
        ["edges", "p50, ms", "p99, ms", "max, ms", "CPU", "CPU/edge", "RSS/edge", "polls/s", "acks/s", "MB/s", "missing"],
        [_row(figure) for figure in figures],
    )
    print(
        f"CPU is the origin's own, of one core; it uses {figures[-1].alone_cpu:.1%} with nobody following. {_others(figures)}".strip()
    )
    print(
        "RSS/edge is what it grew by, divided; with few edges most of that is what its first requests take, whoever sends them."
    )
    _draw(figures, rate)
    for sentence in project(figures):
        print(sentence)
    keep("fleet", [asdict(figure) for figure in figures])
    right = all(not figure.missing and figure.max_s <= TARGET_S for figure in figures)
    print(f"target: every line at every edge within {TARGET_S:.0f} s: {'met' if right else 'MISSED'}")
    return right


def _row(figure: Figure) -> list[str]:
    return [
        str(figure.edges),
        *(f"{seconds * 1000:.0f}" for seconds in (figure.p50_s, figure.p99_s, figure.max_s)),
        f"{figure.cpu:.1%}",
        f"{(figure.cpu - figure.alone_cpu) / figure.edges * 1e6:.0f} us/s",
        f"{figure.resident_per_edge / 1000:.0f} kB",
        f"{figure.polls:.0f}",
        f"{figure.acknowledgements:.0f}",
        f"{figure.bytes / 1e6:.1f}",
        str(figure.missing),
    ]


def _others(figures: Sequence[Figure]) -> str:
    slow = [figure for figure in figures if figure.follower_cpu > 0.8]
    return f"At {slow[0].edges} edges their own process was nearly busy: it adds to the times." if slow else ""


# ---- one measurement ------------------------------------------------------------------------------------------------


def _measure(here: Stage, count: int, seconds: float, rate: float) -> Figure:
    origin, data = _origin(here, rate)
    origin.pin({SERVER_CPU})
    invitations = trio.run(_invite, data / "origin.sock", count)
    time.sleep(SETTLE_S)
    before, alone = _usage(origin, SETTLE_S)
    followers = subprocess.Popen(
        ["taskset", "--cpu-list", str(CLIENT_CPU), sys.executable, "-m", "benchmarks.followers"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert followers.stdin is not None
        assert followers.stdout is not None
        _say(followers, Plan(origin.port, invitations))
        if (said := followers.stdout.readline()) != b"ready\n":
            raise RuntimeError(f"the edges did not come to follow: {said.decode()[:2000]}")
        time.sleep(SETTLE_S)
        begin = time.time()
        _say(followers, Window(begin, begin + seconds))
        resident, cpu = _usage(origin, seconds)
        out, _ = followers.communicate(timeout=LATE_S + seconds)
        seen = msgspec.json.decode(out, type=Seen)
    finally:
        followers.kill()
        followers.wait()
    if seen.failures:
        raise RuntimeError(f"{len(seen.failures)} edges failed, the first: {seen.failures[0]}")
    return Figure(
        edges=count,
        **dict(zip(("p50_s", "p99_s", "max_s"), _percentiles(seen.slots), strict=True)),
        alone_cpu=alone,
        cpu=cpu,
        resident_per_edge=(resident - before) / count,
        polls=seen.polls / seconds,
        acknowledgements=seen.acknowledgements / seconds,
        bytes=seen.received / seconds,
        changes=seen.lines / seconds,
        missing=seen.lines * count - seen.arrived,
        follower_cpu=seen.busy_s / seconds,
    )


def _say(process: subprocess.Popen[bytes], told: msgspec.Struct) -> None:
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(told) + b"\n")
    process.stdin.flush()


def _usage(server: Server, seconds: float) -> tuple[int, float]:
    """Resident bytes at the end of so many seconds, and CPU seconds a second over them."""
    before = server.usage()
    began = time.monotonic()
    time.sleep(seconds)
    after = server.usage()
    return after.resident_bytes, (after.cpu_s - before.cpu_s) / (time.monotonic() - began)


def _percentiles(slots: Mapping[int, int]) -> tuple[float, float, float]:
    total = sum(slots.values())
    found = []
    for share in (0.5, 0.99, 1.0):
        left = share * total
        for slot in sorted(slots):
            left -= slots[slot]
            if left <= 0:
                found.append(slot * SLOT_S)
                break
    median, late, last = found
    return median, late, last


def _origin(here: Stage, rate: float) -> tuple[Server, Path]:
    """An origin in a directory of its own, before a registry that nobody asks anything of."""
    here.publish("none", [])
    registry = here.upstream()
    data = here.directory / "origin"
    data.mkdir()
    config = data.with_suffix(".toml")
    config.write_text(
        "".join(
            f'[registries.{name}]\nupstream = "http://127.0.0.1:{registry.port}/{path}"\n'
            for name, path in {"pypi": "simple/", "npm": "npm/", "maven": "maven/"}.items()
        )
    )
    port = free_port()
    log = data.with_suffix(".log")
    command = [sys.executable, "-m", "benchmarks.publishing", str(rate), "--config", str(config), "--data", str(data)]
    with log.open("ab") as sink:
        process = subprocess.Popen([*command, "--listen", f"127.0.0.1:{port}"], stdout=sink, stderr=sink, cwd=ROOT)
    origin = Server("origin", process, port)
    here.servers.append(origin)
    return wait_ready(origin, "/-/live", log), data


async def _invite(sock: Path, count: int) -> list[str]:
    found = []
    for number in range(count):
        told = await call(sock, "invite", {"name": f"edge-{number:05d}"})
        assert isinstance(told, dict)
        found.append(str(told["token"]))
    return found


# ---- what follows from them -----------------------------------------------------------------------------------------


def fit(figures: Sequence[Figure]) -> tuple[float, float]:
    """Least squares for ``CPU = idle + cost * requests a second``: idle (CPU seconds a second) and the cost in CPU seconds."""
    xs, ys = [figure.requests for figure in figures], [figure.cpu for figure in figures]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((each - x) ** 2 for each in xs)
    cost = sum((each - x) * (other - y) for each, other in zip(xs, ys, strict=True)) / spread if spread else 0.0
    return y - cost * x, cost


def project(figures: Sequence[Figure]) -> list[str]:
    """What one core carries, with what that rests on."""
    last = max(figures, key=lambda figure: figure.edges)
    idle, fitted_cost = fit(figures)
    # With more edges each request finds less of what it needs in the processor's caches: no less is believed than what the last took.
    cost = max(fitted_cost, (last.cpu - last.alone_cpu) / last.requests if last.requests else 0.0)
    if cost <= 0:
        return ["There is nothing to project from: the origin's time did not grow with what it was asked."]
    capacity = (BUSY - idle) / cost
    per_edge = last.requests / last.edges
    at_pace = capacity / per_edge
    # An edge polls again when it was told: at TARGET_S / 2 a round, most lines arrive within TARGET_S.
    slowest = 1 / (TARGET_S / 2) + last.acknowledgements / last.edges
    at_most = capacity / slowest
    traffic = last.bytes / last.edges
    fitted = (
        f"Fit: {idle:.1%} of a core, and {fitted_cost * 1e6:.0f} us for each request answered; with {last.edges} edges, each of which sends"
        f" {per_edge:.1f} a second, it is {cost * 1e6:.0f} us."
    )
    carried = (
        f"Projection: a core that is {BUSY:.0%} busy answers {capacity:,.0f} requests a second. That carries {_round(at_pace)} edges at"
        f" the pace of {last.edges}; if they are told every {TARGET_S / 2:g} s instead, {_round(at_most)}."
    )
    assumed = (
        "It assumes that the cost of a request stays what it is, that acknowledgements stay as frequent, that"
        f" {traffic / 1000:.0f} kB/s to each edge ({_round(at_most)} edges: {at_most * traffic * 8 / 1e9:.1f} Gbit/s) find a network,"
        f" and {last.resident_per_edge / 1000:.0f} kB of memory each ({at_most * last.resident_per_edge / 1e9:.1f} GB)."
    )
    return [fitted, carried, assumed]


def _round(value: float) -> str:
    """Two digits: no more is known."""
    digits = 1 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{round(value, digits):,.0f}"


def _draw(figures: Sequence[Figure], rate: float) -> None:
    def line(name: str) -> list[tuple[float, float]]:
        return [(figure.edges, 1000 * float(getattr(figure, name))) for figure in figures]

    path = OUT / "fleet.svg"
    draw(
        path,
        f"One origin, {rate:.0f} changes a second",
        [
            Panel(
                "until a line is checked at an edge",
                "edges",
                "ms",
                {"median": line("p50_s"), "99th percentile": line("p99_s"), "last": line("max_s")},
                log=True,
                limit=(TARGET_S * 1000, "5 s"),
            ),
            Panel(
                "the origin's CPU",
                "edges",
                "% of a core",
                {
                    "with edges": [(f.edges, 100 * f.cpu) for f in figures],
                    "alone": [(f.edges, 100 * f.alone_cpu) for f in figures],
                },
            ),
            Panel(
                "the origin's memory for each edge",
                "edges",
                "kB",
                {"resident": [(f.edges, f.resident_per_edge / 1000) for f in figures]},
            ),
        ],
    )
    print(f"plot: benchmarks/out/{path.name}", flush=True)
