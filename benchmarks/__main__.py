"""``python -m benchmarks [WHAT]``: measure, print a table, leave the raw figures in ``benchmarks/out/``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from . import catalogue, fleet, hot, memory, outage, packument, propagation, recall, stampede


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "what",
        nargs="*",
        metavar="WHAT",
        help="hot (default): pages, 304, wheels beside nginx; stampede: 100 clients on one cold wheel; "
        "memory: 1,000 slow readers, a listing of 20,000 files; outage: pip while the registry is down; "
        "packument: 100 clients on a cold packument of 50 MB; catalogue: 1,000,000 releases beside 1,000; "
        "fleet: up to 1,000 edges that follow one origin; "
        "propagation: what one of three edges fetches, and when the others have it; "
        "recall: when fifty edges have acknowledged a recall; all",
    )
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default %(default)s)")
    parser.add_argument(
        "--seconds", type=float, help=f"seconds for each measurement (default: 1 in a round of hot, {fleet.SECONDS:g} of fleet)"
    )
    parser.add_argument("--edges", type=int, nargs="+", default=fleet.EDGES, help="how many edges follow, one run each (fleet)")
    parser.add_argument("--changes", type=float, default=fleet.RATE, help="changes a second (fleet; default %(default)g)")
    options = parser.parse_args()
    benchmarks: dict[str, Callable[[], bool]] = {
        "hot": lambda: hot.run(options.rounds, options.seconds or 1.0),
        "stampede": stampede.run,
        "memory": memory.run,
        "packument": lambda: packument.run(options.rounds),
        "catalogue": lambda: catalogue.run(options.rounds),
        "fleet": lambda: fleet.run(options.edges, options.seconds or fleet.SECONDS, options.changes),
        "propagation": lambda: propagation.run(options.rounds),
        "recall": recall.run,
        "outage": lambda: outage.run(min(options.rounds, 3)),
    }
    wanted = options.what or ["hot"]
    if unknown := sorted(set(wanted) - benchmarks.keys() - {"all"}):
        parser.error(f"there is no benchmark named {', '.join(unknown)}: choose from {', '.join(benchmarks)}, all")
    met = [benchmarks[name]() for name in (benchmarks if "all" in wanted else wanted)]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
