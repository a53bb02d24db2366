"""Half a minute in which everything fails that can, by a seed: no promise is broken. ``make chaos`` goes on for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.capture_stage import in_own_network
from tests.faults.chaos import run
from tests.faults.checker import WHAT

SEED = 2
SECONDS = 25.0
PACE_S = 0.25
"""The pause between the steps of a client: other tests run beside this one."""


@pytest.mark.slow
@in_own_network
def test_a_fleet_keeps_its_promises_while_everything_fails(tmp_path: Path) -> None:
    report, history = run(SEED, SECONDS, tmp_path, print, PACE_S)
    print(report.table())
    path = tmp_path / "history.jsonl"
    history.write(path)
    again = f"judge it again: python -m tests.faults.checker {path}"
    assert report.violations == [], "\n".join([*map(str, report.violations[:20]), again])
    assert all(report.looked_at[promise] > 10 for promise in WHAT), report.looked_at
    assert sum(report.faults.values()) > 5
