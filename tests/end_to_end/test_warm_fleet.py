"""``edge warm`` and ``edge ready`` at an edge that follows an origin: brought by way of it, and recalled as anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import FakePyPI
from tests.fleet import fleet
from tests.harness import PIP, UV, Workspace, wait_until
from tests.warm_stage import HOURS_S, ready, warm
from tests.wheels import Shelf

pytestmark = pytest.mark.slow


def test_what_was_warmed_by_way_of_an_origin_installs_without_it_and_is_not_ready_once_it_is_recalled(
    fake: FakePyPI, shelf: Shelf, scratch: Path, workspace: Workspace, well_behaved: None
) -> None:
    made = [
        shelf.wheel("fleet-orchard", "2.0", requires=["fleet-soil"]),
        shelf.sdist("fleet-pear", "1.0"),
        shelf.wheel("fleet-soil", "3.1", size=300_000),
    ]
    fake.publish(*made)
    lock = workspace.project / "requirements.txt"
    lock.write_text("".join(f"{each.pin} {each.hash_option}\n" for each in made))
    with fleet(scratch, {"pypi": fake.index_url}) as nodes:
        edge = nodes.edge("a", replicate={"mode": "none"})
        other = nodes.edge("b", replicate={"mode": "none"})
        assert not ready(edge, lock).ready
        said = warm(edge, lock)
        assert said.status == 0, said.output + nodes.logs()
        assert ready(edge, lock).ready

        fake.refuse()
        nodes.origin.pause()
        edge.age(HOURS_S)
        try:
            assert ready(edge, lock).ready
            for client in (PIP, UV):
                done = client.install(workspace, edge.index_url, [], hashes=made)
                assert done.succeeded, done.output
                workspace.empty_cache()
        finally:
            nodes.origin.resume()
            edge.age(0)

        # The origin holds it by now: another edge is made ready without the registry.
        assert warm(other, lock).ready
        assert ready(other, lock).ready

        nodes.origin.recall("pkg:pypi/fleet-soil@3.1", "it is barren")
        wait_until(lambda: not ready(edge, lock).ready, 20)
        refused = ready(edge, lock).refused
        assert list(refused) == ["fleet_soil-3.1-py3-none-any.whl"] or "fleet_soil-3.1-py3-none-any.whl" in refused
        assert all(rule.startswith("recall-") for rule in refused.values())
