"""What one region installs, and when the others have it: an origin and three edges, and wheels from 10 kB to 10 MB.

Each wheel is fetched through edge A, page and file, as ``pip`` does it, and neither it nor its project was heard of before; A asks the
origin, the origin the registry. The clock starts before A is asked, and stops when the blob lies in the stores of B and C, which nobody
asks for anything. What comes after A has the file whole is told apart.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.fleet import Fleet, three_regions
from tests.wheels import Distribution

from .stage import stage
from .table import keep, show

SIZES = {"10 kB": 10_000, "100 kB": 100_000, "1 MB": 1_000_000, "10 MB": 10_000_000}
OTHERS = "bc"

BURST = 200
BURST_BYTES = 100_000
BURST_AT_ONCE = 8
"""A large install: so many wheels, fetched so many at a time."""

LONGEST_S = 30.0
LOOK_S = 0.002

MEDIAN_S = 1.0
"""The target for wheels of less than 1 MB, from when A has the file."""

WORST_S = 5.0
"""The target for all."""


@dataclass(frozen=True, slots=True)
class Journey:
    """One wheel, in seconds: until A had it, and until it was at each of the others, both from when A was asked."""

    at_first: float
    at_others: Sequence[float]

    @property
    def after(self) -> list[float]:
        """How much later than A the others had it; 0 for one that was there before A's client had read the end."""
        return [max(0.0, at - self.at_first) for at in self.at_others]


def run(rounds: int) -> bool:
    """Measure and print; False if a target is missed."""
    journeys: dict[str, list[Journey]] = defaultdict(list)
    with stage() as here:
        wheels = {
            name: [here.shelf.wheel(f"reach-{size}-{number}", "1.0", size=size) for number in range(rounds)]
            for name, size in SIZES.items()
        }
        burst = [here.shelf.wheel(f"burst-{number}", "1.0", size=BURST_BYTES) for number in range(BURST)]
        for sized in (*wheels.values(), burst):
            for wheel in sized:
                here.publish(wheel.project, [wheel])
        registry = here.upstream()
        paths = {"pypi": "simple/", "npm": "npm/", "maven": "maven/"}
        upstreams = {kind: f"http://127.0.0.1:{registry.port}/{path}" for kind, path in paths.items()}
        with three_regions(here.directory, upstreams) as fleet:
            for number in range(rounds):
                for name, sized in wheels.items():
                    journeys[name].append(_journey(fleet, sized[number]))
            journeys[f"{BURST} of 100 kB"] = _burst(fleet, burst)
    rows = []
    for name, made in journeys.items():
        others = [at for journey in made for at in journey.at_others]
        after = [later for journey in made for later in journey.after]
        rows.append([name, _told([journey.at_first for journey in made]), _told(others), _told(after)])
    show(
        f"Propagation: {rounds} wheels of each size, then {BURST} in one go, from when edge A was asked; ms, median (worst)",
        ["wheel", "A has it", "B and C have it", "after A"],
        rows,
    )
    keep("propagation", {name: [asdict(journey) for journey in made] for name, made in journeys.items()})
    small = [at for name in journeys if SIZES.get(name, 0) < 1_000_000 for journey in journeys[name] for at in journey.at_others]
    worst = max(at for made in journeys.values() for journey in made for at in journey.at_others)
    right = statistics.median(small) <= MEDIAN_S and worst <= WORST_S
    print(
        f"target: within {WORST_S:g} s, those under 1 MB within {MEDIAN_S:g} s at the median: {'met' if right else 'MISSED'}"
        f" ({statistics.median(small):.2f} s, worst of all {worst:.2f} s)"
    )
    return right


def _told(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.0f} ({max(seconds) * 1000:.0f})"


def _burst(fleet: Fleet, wheels: Sequence[Distribution]) -> list[Journey]:
    """All of them through A, as an installer does it; each has a clock of its own."""
    with ThreadPoolExecutor(BURST_AT_ONCE) as fetching, ThreadPoolExecutor(len(wheels)) as watching:
        fetched = [(wheel, fetching.submit(_fetch, fleet, wheel)) for wheel in wheels]
        return list(watching.map(lambda each: _arrival(fleet, each[0], *each[1].result()), fetched))


def _journey(fleet: Fleet, wheel: Distribution) -> Journey:
    return _arrival(fleet, wheel, *_fetch(fleet, wheel))


def _fetch(fleet: Fleet, wheel: Distribution) -> tuple[float, float]:
    """Fetch it through A: when that began, by the monotonic clock, and how long it took."""
    began = time.monotonic()
    [link] = [file["url"] for file in fleet["a"].page(wheel.project).json()["files"] if file["filename"] == wheel.filename]
    reply = fleet["a"].ask(urlsplit(link).path)
    at_first = time.monotonic() - began
    if reply.status != 200 or len(reply.body) != wheel.size:
        raise RuntimeError(f"edge A answered {reply.status} with {len(reply.body):,} bytes for {wheel.filename}\n{fleet.logs()}")
    return began, at_first


def _arrival(fleet: Fleet, wheel: Distribution, began: float, at_first: float) -> Journey:
    blobs = [_blob(fleet[name].data, wheel.sha256) for name in OTHERS]
    there: dict[Path, float] = {}
    while len(there) < len(blobs):
        for blob in blobs:
            if blob not in there and blob.exists():
                there[blob] = time.monotonic() - began
        if time.monotonic() - began > LONGEST_S:
            raise RuntimeError(f"{wheel.filename} did not reach the others within {LONGEST_S:.0f} s\n{fleet.logs()}")
        time.sleep(LOOK_S)
    return Journey(at_first, list(there.values()))


def _blob(data: Path, sha256: str) -> Path:
    return data / "blobs" / "sha256" / sha256[:2] / sha256[2:4] / sha256
