"""Half a minute in which everything fails that can, by a seed: no promise is broken. ``make chaos`` goes on for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.capture_stage import in_own_network, why_not
from tests.faults import chaos, checker
from tests.faults.chaos import run
from tests.faults.checker import WHAT, Report, check
from tests.faults.history import Bound, History

SEED = 2
SECONDS = 18.0
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


def test_what_a_run_found_is_left_in_a_file_with_how_to_see_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if reason := why_not():
        pytest.skip(reason)
    names = [{"six": "aa"}, {"six": "bb"}]

    def found(seed: int, *_: object) -> tuple[Report, History]:
        assert seed == 7
        history = History(Bound(at=1, node=node, names=each) for node, each in zip(("origin", "a"), names, strict=True))
        return check(history), history

    monkeypatch.setattr(chaos, "run", found)
    assert chaos.main(["--seed", "7", "--minutes", "5", "--directory", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "six is bound to one digest at a and to another at the origin" in told
    assert 'make chaos ARGS="--seed 7 --minutes 5"' in told
    assert checker.main([str(tmp_path / "history.jsonl")]) == 1
    names[1] = names[0]
    assert chaos.main(["--seed", "7", "--minutes", "5", "--directory", str(tmp_path)]) == 0
    assert "no violation with seed 7" in capsys.readouterr().out
