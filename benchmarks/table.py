"""Rounds to figures, figures to a table: medians with their range, ratios taken inside each round."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from typing import Any

from .stage import OUT


def spread(values: Sequence[float], digits: int = 3) -> str:
    """``median [least-greatest]`` in ``digits`` significant digits, thousands as ``k``."""
    if not values:
        return "-"
    middle, least, most = statistics.median(values), min(values), max(values)
    if middle >= 10_000:
        return f"{_short(middle / 1000, digits)}k [{_short(least / 1000, digits)}-{_short(most / 1000, digits)}]"
    return f"{_short(middle, digits)} [{_short(least, digits)}-{_short(most, digits)}]"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours over theirs, round by round. Rounds in which theirs is 0 are left out."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True) if other]


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column is flush left."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(width) if not at else cell.rjust(width) for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *rest]).rstrip()

    print(f"\n{title}\n")
    print(line(head))
    print("  ".join("-" * width for width in widths))
    for row in rows:
        print(line(row))
    print(flush=True)


def keep(name: str, results: Any) -> None:
    """Leave the raw figures in ``benchmarks/out/NAME.json``, with what they were measured on."""
    OUT.mkdir(exist_ok=True)
    machine = {"kernel": platform.release(), "python": platform.python_version(), "cores": os.cpu_count()}
    record = {"measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine, "results": results}
    path = OUT / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"raw figures: benchmarks/out/{path.name}", flush=True)


def _short(value: float, digits: int) -> str:
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 1
    return f"{value:.{max(0, digits - whole)}f}"
