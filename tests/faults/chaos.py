"""A fleet in a network of its own while everything goes wrong, and the judgement afterwards: ``make chaos``.

An origin and three edges, each in a network namespace, follow and serve while registries, wires and processes fail by a schedule made
from the seed, releases are published and recalled, and clients keep asking. ``c`` may ask registries itself (``direct``); each edge brings
here all that the origin has. Once all faults are over the fleet gets some time to heal; then everything that was recorded is judged by
``checker.py``. If a promise was broken, the history is left in a file, with the nodes' logs beside it, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.capture_stage import in_own_network, why_not
from tests.faults import sampling
from tests.faults.checker import Report
from tests.faults.fleet_stage import Stage
from tests.faults.history import Call, Healed, History, now
from tests.faults.nemesis import Act, Nemesis, schedule
from tests.faults.releases import KINDS, Release, Shelves
from tests.faults.workers import Worker

EDGES = ("a", "b", "c")
DIRECT = "c"

PROJECTS = 4
"""Of each kind."""

WORKERS = 2
"""At each edge."""

PROGRESS_S = 5.0


class Run:
    """One run of the schedule that ``acts`` is."""

    def __init__(
        self, stage: Stage, shelves: Shelves, seed: int, acts: Sequence[Act], told: Callable[[str], None], pace_s: float
    ) -> None:
        self.stage = stage
        self.history = stage.history
        self.shelves = shelves
        self.seed = seed
        self._acts = acts
        self._told = told
        self._pace_s = pace_s
        self._over = threading.Event()
        self._failed: list[BaseException] = []

    def run(self) -> Report:
        """Publish the first releases, let everything happen, let it heal, judge."""
        for kind in KINDS:
            for project in range(PROJECTS):
                self.stage.registries.publish(self.shelves.release(kind, project, 0))
        threads = [*self._workers(), self.thread(self._tell_progress)]
        for thread in threads:
            thread.start()
        try:
            with self.stage.watched():
                self.let_it_happen()
                self._heal()
                self._over.set()
                # Whatever nobody asked for yet comes now, and travels; then all stands still.
                self.stage.ask_for_all("once")
                self._heal()
                self.history.add(Healed(at=now()))
                self.stage.ask_for_all("end")
        finally:
            self._over.set()
            for thread in threads:
                thread.join()
        if self._failed:
            raise self._failed[0]
        return self.stage.conclude()

    def let_it_happen(self) -> None:
        """Everything that goes wrong; all is well again when this returns."""
        stage, told = self.stage, self._told
        nemesis = Nemesis(
            stage.nodes,
            stage.network,
            stage.registries.fakes,
            self.history,
            self._publish,
            self._recall,
            lambda act: told(str(act)),
        )
        nemesis.run(self._acts)
        told("all faults are over")

    def _heal(self) -> None:
        lacking = self.stage.heal()
        self._told(f"still lacking: {lacking}" if lacking else "level again")

    # -- who takes part

    def _workers(self) -> Iterator[threading.Thread]:
        for edge in self.stage.edges:
            for number in range(WORKERS):
                worker = Worker(
                    self.stage.client(edge, f"{edge}{number}"),
                    lambda: self.stage.registries.published,
                    f"{self.seed} {edge} {number}",
                    self._over,
                    self._pace_s,
                )
                yield self.thread(self.stage.network.run, edge, worker.run)

    def thread(self, call: Callable[..., object], *arguments: object) -> threading.Thread:
        """What fails in it is raised by ``run``."""

        def run() -> None:
            try:
                call(*arguments)
            except BaseException as error:  # noqa: BLE001 -- raised by whoever started it
                self._failed.append(error)

        return threading.Thread(target=run)

    def _tell_progress(self) -> None:
        began = now()
        while not self._over.wait(PROGRESS_S):
            calls = len(self.history.of(Call))
            places = []
            for edge in self.stage.edges:
                with contextlib.suppress(sqlite3.Error):
                    places.append(f"{edge} {sampling.place(self.stage.data[edge])[0]}")
            releases = len(self.stage.registries.published)
            self._told(f"{now() - began:6.1f} s  {calls} calls, {releases} releases, at line {', '.join(places)}")

    # -- what happens

    def _publish(self, act: Act) -> None:
        self.stage.registries.publish(self.shelves.release(act.whom[0], act.project, act.number))

    def _recall(self, act: Act) -> None:
        """Recall, and take it back after a while."""
        release = self.stage.registries.published[act.project]
        self._insist(release, act.by_digest, undo=False)
        if act.lasts_s:
            time.sleep(act.lasts_s)
            self._insist(release, act.by_digest, undo=True)

    def _insist(self, release: Release, by_digest: bool, *, undo: bool) -> None:
        """Again and again if the origin is away, as an operator would."""
        for _ in range(10):
            if self.stage.recall(release, by_digest=by_digest, undo=undo):
                return
            time.sleep(1)
        raise RuntimeError(f"the origin did not take the recall of {release.purl} ({by_digest=}, {undo=})")


# ---- the command ------------------------------------------------------------------------------------------------------


def run(seed: int, seconds: float, directory: Path, told: Callable[[str], None], pace_s: float = 0.15) -> tuple[Report, History]:
    """A whole run with the schedule of ``seed``, in the namespace of this thread. The nodes' logs stay in ``directory``."""
    history = History()
    shelves = Shelves(directory / "shelves")
    with Stage.start(directory, history, edges=EDGES, direct=(DIRECT,)) as stage:
        acts = schedule(seed, seconds, EDGES, KINDS, PROJECTS)
        report = Run(stage, shelves, seed, acts, told, pace_s).run()
    return report, history


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=None, help="which faults (default: a new one each time)")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (default %(default)s)")
    parser.add_argument(
        "--directory", type=Path, default=None, help="where the nodes' data, logs and the history go (default: a new one)"
    )
    options = parser.parse_args(arguments)
    if reason := why_not():
        print(f"make chaos: {reason}", file=sys.stderr)
        return 2
    seed = random.SystemRandom().randrange(1, 1_000_000) if options.seed is None else options.seed
    directory = options.directory or Path(tempfile.mkdtemp(prefix=f"leeward-chaos-{seed}-"))
    directory.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}, {options.minutes:g} minutes, in {directory}", flush=True)
    outcome: list[int] = []

    @in_own_network
    def inside() -> None:
        report, history = run(seed, 60 * options.minutes, directory, lambda line: print(line, flush=True))
        print(f"\n{report.table()}\n", flush=True)
        path = directory / "history.jsonl"
        history.write(path)
        if not report.violations:
            print(f"no violation with seed {seed}")
            outcome.append(0)
            return
        for violation in report.violations[:20]:
            print(violation)
        print(
            f"{len(report.violations)} violations. The history is in {path}, the nodes' logs are beside it. "
            f'The same faults again: make chaos ARGS="--seed {seed} --minutes {options.minutes:g}". '
            f"To judge it again: python -m tests.faults.checker {path}"
        )
        outcome.append(1)

    inside()
    if outcome == [0] and options.directory is None:
        shutil.rmtree(directory, ignore_errors=True)
    return outcome[0]


if __name__ == "__main__":
    sys.exit(main())
