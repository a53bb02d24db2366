"""``make three-regions``: an origin and three edges on this machine, and real clients at each with the registries dead."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests import regions_stage
from tests.harness import ROOT, wait_until
from tests.regions_stage import Regions, Registries, install

pytestmark = pytest.mark.slow

registries, regions = regions_stage.registries, regions_stage.regions

PATIENCE_S = 30.0
"""How long what one region fetched is waited for in the others. How soon it is there, `make bench ARGS=propagation` tells."""


def test_what_one_region_installs_the_others_have_soon_and_install_with_the_registries_dead(
    regions: Regions, registries: Registries, tmp_path: Path
) -> None:
    regions.start()
    install(regions.url("a"), tmp_path / "a")
    wait_until(lambda: all(registries.digests <= regions.blobs(region) for region in ("b", "c")), PATIENCE_S)
    registries.refuse()
    for region in ("b", "c"):
        install(regions.url(region), tmp_path / region)

    # The next run goes on with what this one leaves, without enrolling anybody again.
    regions.signal(signal.SIGINT)
    assert regions.wait() == 0, regions.told
    assert regions.listening() == []
    identities = [(regions.directory / f"edge-{region}" / "origin.json").read_bytes() for region in "abc"]
    regions.start()
    assert identities == [(regions.directory / f"edge-{region}" / "origin.json").read_bytes() for region in "abc"]
    install(regions.url("c"), tmp_path / "again")


def test_it_says_what_is_where_and_lines_to_try_it_with(regions: Regions) -> None:
    regions.start()
    told = regions.told
    for region in "abc":
        assert f"pip install --index-url {regions.url(region)}/pypi/simple/" in told
        assert f"npm install --registry {regions.url(region)}/npm/" in told
        [settings] = re.findall(rf"mvn -s (\S*maven-edge-{region}\.xml) verify", told)
        assert f"{regions.url(region)}/maven/" in (ROOT / settings).read_text()
    # What it says of the fleet works as it is printed.
    [line] = re.findall(r"^  (\S+/origin edges .*)$", told, re.MULTILINE)
    shown = subprocess.run(["/bin/sh", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert all(f"edge-{region}" in shown.stdout for region in "abc")
    regions.signal(signal.SIGTERM)
    assert regions.wait() == 0
    assert regions.processes() == {}


def test_one_that_ends_ends_the_others_and_the_end_of_its_log_is_shown(regions: Regions) -> None:
    regions.start()
    os.kill(regions.processes()["edge-b"], signal.SIGKILL)
    assert regions.wait() == 1
    assert "three-regions: edge-b ended with status -9" in regions.told
    assert "serving" in regions.told.split("edge-b ended", 1)[1]
    assert regions.processes() == {}


def test_a_port_that_is_taken_is_told_and_nothing_is_left_running(regions: Regions) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", regions.ports[2]))
        taken.listen()
        regions.start(wait=False)
        assert regions.wait() == 1
    assert f"three-regions: port {regions.ports[2]} is taken" in regions.told
    assert "run on this machine" not in regions.told
    assert regions.processes() == {}


def test_a_second_run_in_the_same_directory_leaves_the_first_alone(regions: Regions) -> None:
    regions.start()
    logs = [regions.directory / f"{name}.log" for name in ("origin", "edge-a", "edge-b", "edge-c")]
    before = [log.read_bytes() for log in logs]
    for arguments in (["--fresh"], ["--ports", "1", "2", "3", "4"]):
        second = subprocess.run(
            [sys.executable, "deploy/three_regions.py", str(regions.directory), *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (second.returncode, second.stdout) == (1, "")
        assert second.stderr.startswith(f"three-regions: it runs already in {regions.directory}; ")
    assert all(log.read_bytes().startswith(said) for log, said in zip(logs, before, strict=True))
    regions.signal(signal.SIGINT)
    assert regions.wait() == 0


def test_make_passes_on_where_and_on_which_ports() -> None:
    arguments = "here --ports 1 2 3 4"
    planned = subprocess.run(
        ["make", "--no-print-directory", "-n", "three-regions", f"ARGS={arguments}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert planned.stdout.splitlines()[-1] == f"exec .venv/bin/python deploy/three_regions.py {arguments}"
