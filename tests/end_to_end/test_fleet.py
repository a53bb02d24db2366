"""An origin and its edges, with real processes: what one of them fetched is moments later on all, and outlives every loss of one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import FakePyPI
from tests.fleet import Fleet, arrivals, fleet, three_regions, told
from tests.harness import PIP, Workspace
from tests.wheels import Shelf


@pytest.fixture(scope="module")
def regions(fake: FakePyPI, scratch: Path) -> Iterator[Fleet]:
    with three_regions(scratch, {"pypi": fake.index_url}) as made:
        yield made


@pytest.fixture
def two(fake: FakePyPI, scratch: Path) -> Iterator[Fleet]:
    """An origin and no edge yet."""
    with fleet(scratch, {"pypi": fake.index_url}) as made:
        try:
            yield made
        except BaseException:
            print(made.logs())
            raise


def test_what_one_edge_fetches_is_on_the_others_at_once_and_installs_there_with_the_registry_dead(
    regions: Fleet, fake: FakePyPI, shelf: Shelf, project: str, well_behaved: None
) -> None:
    leaf = shelf.wheel(f"{project}-leaf", "2.0", size=100_000)
    root = shelf.wheel(project, "1.0", requires=[f"{project}-leaf"], size=300_000)
    fake.publish(root, leaf)
    wanted = {project: "1.0", f"{project}-leaf": "2.0"}

    def install(name: str) -> None:
        with tempfile.TemporaryDirectory() as directory:
            done = PIP.install(Workspace(Path(directory)), regions[name].index_url, [project])
            assert done.installed == wanted, done.output + regions.logs()

    times = arrivals(regions, [root.sha256, leaf.sha256], "bc", lambda: install("a"))
    print({name: told(seconds) for name, seconds in times.items()})
    fake.refuse()
    for name in "bc":
        install(name)
