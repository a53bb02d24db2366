"""What the units in deploy/ forbid, the nodes do not need: their system calls, watched while they work."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.fakes import FakePyPI
from tests.harness import PIP, ROOT, Workspace, ask, clean_environment, free_port, wait_until
from tests.wheels import Shelf

pytestmark = pytest.mark.slow

UNIT = ROOT / "deploy" / "leeward-edge.service"

AS_ROOT_ONLY = frozenset({"fchown"})
"""SQLite gives a file it makes the owner of its database, if it is root. Under systemd nobody here is."""


@cache
def calls_of(group: str) -> frozenset[str]:
    """A group of system calls as systemd has it, those that it names in turn included."""
    told = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True).stdout
    words = [line.strip() for line in told.splitlines()[1:] if line.startswith("    ") and not line.strip().startswith("#")]
    return frozenset(word for word in words if not word.startswith("@")).union(
        *(calls_of(word) for word in words if word.startswith("@"))
    )


def allowed() -> frozenset[str]:
    """What ``SystemCallFilter`` leaves, line by line."""
    left: frozenset[str] = frozenset()
    for value in re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(), re.MULTILINE):
        groups = frozenset().union(*(calls_of(group) for group in value.removeprefix("~").split()))
        left = left - groups if value.startswith("~") else left | groups
    return left


@contextlib.contextmanager
def watched(directory: Path, upstream: str) -> Iterator[tuple[str, Path]]:
    """An edge under strace: its URL, and the file in which its calls are once the block has ended."""
    port, trace = free_port(), directory / "trace"
    environ = {
        "EDGE_REGISTRIES__PYPI__UPSTREAM": upstream,
        "EDGE_REGISTRIES__NPM__UPSTREAM": "http://127.0.0.1:9/",
        "EDGE_REGISTRIES__MAVEN__UPSTREAM": "http://127.0.0.1:9/",
    }
    words = ["serve", "--config", "-", "--data", str(directory / "data"), "--listen", f"127.0.0.1:{port}"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            # With -D the edge is our child, and strace its.
            ["strace", "-D", "-f", "-q", "-o", trace, sys.executable, "-m", "edge", *words],
            cwd=ROOT,
            env=clean_environment(directory / "home") | environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        assert process.poll() is None, (directory / "log").read_text()
        try:
            return ask(f"{url}/-/ready", timeout_s=2).status == 200
        except OSError:
            return False

    try:
        wait_until(is_ready, 60)
        yield url, trace
        process.terminate()
        process.wait(60)
        wait_until(lambda: re.search(rf"^{process.pid} +\+\+\+ exited", trace.read_text(errors="replace"), re.MULTILINE), 10)
    finally:
        process.kill()
        process.wait()


def test_a_node_makes_no_system_call_that_its_unit_forbids(fake: FakePyPI, shelf: Shelf, project: str, tmp_path: Path) -> None:
    fake.publish(shelf.wheel(project, "1.0", size=300_000))
    with watched(tmp_path, fake.index_url) as (url, trace):
        for number in range(2):
            installed = PIP.install(Workspace(tmp_path / f"client-{number}"), f"{url}/pypi/simple/", [project])
            assert installed.succeeded, installed.output
        # The root is made by a process of its own.
        wait_until(lambda: ask(f"{url}/-/ca.pem").status == 200, 30)
    text = trace.read_text(errors="replace")
    made = set(re.findall(r"^\d+ +(\w+)\(", text, re.MULTILINE))
    assert {"accept4", "fsync", "sendfile"} <= made, "the trace shows the node at work"
    assert made - allowed() - AS_ROOT_ONLY == set()
    # MemoryDenyWriteExecute: no memory that is both writable and executable, none that becomes executable.
    assert [line for line in text.splitlines() if re.search(r"mmap\(.*PROT_WRITE\|PROT_EXEC|mprotect\(.*PROT_EXEC", line)] == []
