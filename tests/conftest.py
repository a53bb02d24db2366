"""What every test shares: how hard Hypothesis tries, and a word beforehand about programs that are not there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hypothesis import HealthCheck, settings

from tests.maven_stage import group, jars, jvm, mirror, repository, restored, start_mirror  # noqa: F401 -- fixtures
from tests.stage import (  # noqa: F401 -- fixtures, and the log of the edges that a failed test used
    edge,
    fake,
    project,
    pytest_runtest_makereport,
    scratch,
    shelf,
    start_edge,
    well_behaved,
    workspace,
)

ROOT = Path(__file__).resolve().parent.parent

CLIENTS = ("pip", "uv", "poetry", "pdm")
PROGRAMS = ("strace",)

# A machine that others share gives no meaning to a deadline in milliseconds; where a failure must come back it is derandomized.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_report_header() -> list[str]:
    """Say which programs are missing before the tests that drive them fail one by one. ``make test`` installs them all."""
    search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    lines = []
    missing = [name for name in PROGRAMS if shutil.which(name, path=search) is None]
    if missing:
        lines.append(f"missing system programs: {', '.join(missing)} (`make test` names or installs their packages)")
    absent = [name for name in CLIENTS if not (ROOT / ".tools" / "venv" / "bin" / name).exists()]
    if absent:
        lines.append(f"missing test clients: {', '.join(absent)} (`make test` installs them into .tools/venv)")
    return lines
