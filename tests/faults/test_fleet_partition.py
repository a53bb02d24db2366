"""An edge cut off from its origin while there is news on both sides: once they speak again they are equal, and everything came once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.capture_stage import in_own_network
from tests.faults import sampling
from tests.faults.fleet_stage import Stage
from tests.faults.history import Fault, Healed, History, Line, Place, now
from tests.faults.nemesis import ORIGIN
from tests.faults.releases import KINDS, Release, Shelves
from tests.harness import wait_until

pytestmark = pytest.mark.slow

LASTS_S = 6.0
"""How long they are apart."""


@contextmanager
def cut(stage: Stage, how: str) -> Iterator[None]:
    """``a`` and the origin are apart while the block runs: packets are dropped, refused, or the origin's wire is out."""
    began = now()
    match how:
        case "dropped":
            stage.network.cut("a", ORIGIN)
        case "refused":
            stage.network.cut("a", ORIGIN, "refuse")
        case _:
            stage.network.pull(ORIGIN)
    yield
    stage.network.mend_all()
    stage.history.add(Fault(kind=how, began=began, ended=now(), whom=("a", ORIGIN)))


def install(stage: Stage, edge: str, *releases: Release) -> None:
    """Have a client at ``edge`` ask for what installing these takes."""
    with stage.client(edge, f"{edge}-client") as client:
        for release in releases:
            stage.network.run(edge, client.install, release)


@pytest.mark.parametrize("how", ["dropped", "refused", "unplugged"])
def test_after_a_cut_with_news_on_both_sides_the_edge_equals_the_origin(tmp_path: Path, scratch: Path, how: str) -> None:
    @in_own_network
    def run() -> None:
        history, shelves = History(), Shelves(scratch / "partition-shelves")

        def made(number: int, of: int) -> list[Release]:
            return [shelves.release(kind, number, of, "cut") for kind in KINDS]

        before, here, there, both = made(0, 0), made(1, 0), made(2, 0), made(0, 1)
        with Stage.start(tmp_path, history, edges=("a", "b"), direct=("a",)) as stage:
            with stage.watched():
                stage.registries.publish(*before)
                install(stage, "a", *before)
                assert stage.heal() == ""
                with cut(stage, how):
                    began = time.monotonic()
                    stage.registries.publish(*here, *there, *both)
                    sides = [threading.Thread(target=install, args=(stage, "a", *here, *both))]
                    if how != "unplugged":
                        sides.append(threading.Thread(target=install, args=(stage, "b", *there, *both)))
                    for side in sides:
                        side.start()
                    for side in sides:
                        side.join()
                    assert stage.recall(before[0])
                    # What was recalled meanwhile cannot be known at "a".
                    assert stage.network.run("a", stage.client("a", "a-apart").file, before[0], before[0].artifact).status == 200
                    time.sleep(max(0.0, LASTS_S - (time.monotonic() - began)))
                mended = time.monotonic()
                wait_until(lambda: is_in_force(stage, "a", before[0]), 15)
                print(f"{how}: a recall was in force {time.monotonic() - mended:.1f} s after the cut")
                assert stage.network.run("a", stage.client("a", "a-after").file, before[0], before[0].artifact).status == 403
                assert stage.heal() == ""
                print(f"{how}: level {time.monotonic() - mended:.1f} s after the cut")
                install(stage, "b", *here, *there, *both)
                assert stage.heal() == ""
                history.add(Healed(at=now()))
                stage.ask_for_all("end")
            report = stage.conclude()
        assert report.violations == [], report.table()
        assert report.looked_at["I3"] > 30
        # What each side brought is at the origin, said once.
        files = [line.resource for line in {line.serial: line for line in history.of(Line)}.values() if line.kind == "file"]
        assert len(files) == len(set(files))
        for release in (*here, *both):
            assert any(release.artifact.path.rpartition("/")[2] in resource for resource in files)
        assert history.of(Place)

    run()


def is_in_force(stage: Stage, edge: str, release: Release) -> bool:
    """Whether an edge has the recall of a release in force, durably."""
    with sampling.reading(stage.data[edge]) as connection:
        known = sampling.facts(connection, "verdicts")
    return known is not None and release.purl in [recall["target"] for recall in known["verdicts"]["recalls"]]
