"""An origin and its edge killed again and again while one publishes and the other applies: nothing that was told to anybody is lost."""

from __future__ import annotations

import itertools
import os
import random
import time
from pathlib import Path

import pytest

from tests.capture_stage import in_own_network
from tests.faults.chaos import PROJECTS, Run
from tests.faults.fleet_stage import Stage
from tests.faults.history import Fault, History, Life, Line, Verified, now
from tests.faults.nemesis import ORIGIN
from tests.faults.releases import KINDS, Shelves

KILLS = 12
PAUSE_S = (0.2, 1.5)
"""From a node's being ready to its next death, so that it dies at its start, at work, and while it catches up."""

PUBLISH_S = 0.25
PACE_S = 0.1


class Killing(Run):
    """Publishes all the time, and kills the origin, the edge, or both at once, each as soon as they are back."""

    def let_it_happen(self) -> None:
        chance = random.Random(f"{self.seed} kills")
        publishing = self.thread(self._publish_on)
        publishing.start()
        for _ in range(KILLS):
            time.sleep(chance.uniform(*PAUSE_S))
            names = chance.choice([(ORIGIN,), ("a",), (ORIGIN, "a")])
            began = now()
            for name in names:
                self.stage.nodes[name].kill()
            time.sleep(chance.choice([0.0, 0.0, 0.5]))
            for name in names:
                self.stage.nodes[name].start()
            self.history.add(Fault(kind="kill", began=began, ended=now(), whom=names))
        self.enough = True
        publishing.join()

    enough = False

    def _publish_on(self) -> None:
        chance = random.Random(f"{self.seed} publishing")
        for of in itertools.count(1):
            ones = [(kind, project) for kind in KINDS for project in range(PROJECTS)]
            for kind, project in chance.sample(ones, len(ones)):
                if self.enough:
                    return
                self.stage.registries.publish(self.shelves.release(kind, project, of))
                time.sleep(PUBLISH_S)


@pytest.mark.slow
@in_own_network
def test_killed_while_publishing_and_applying_a_fleet_loses_nothing_it_told_of(tmp_path: Path) -> None:
    seed = int(os.environ.get("LEEWARD_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
    print(f"LEEWARD_SEED={seed}")
    history = History()
    with Stage.start(tmp_path, history, edges=("a",)) as stage:
        report = Killing(stage, Shelves(tmp_path / "shelves"), seed, (), print, PACE_S).run()
    print(report.table())
    killed = [life for life in history.of(Life) if life.how == "killed"]
    assert len(killed) >= KILLS and {life.node for life in killed} == {ORIGIN, "a"}
    # After each kill it was looked whether a row named a missing blob, and in the end each node verified itself, the origin its ledger too.
    assert len(history.of(Verified)) >= len(killed) + 2
    assert len(history.of(Line)) > 50
    assert report.violations == [], "\n".join(map(str, report.violations[:20]))
