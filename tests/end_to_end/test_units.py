"""What the units in deploy/ forbid, the nodes do not need: their system calls, watched while they work."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Self

import pytest

from tests.fakes import FakePyPI
from tests.harness import PIP, REFUSING, ROOT, Workspace, ask, clean_environment, free_port, wait_until
from tests.wheels import Shelf

pytestmark = pytest.mark.slow

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


def allowed(program: str) -> frozenset[str]:
    """What ``SystemCallFilter`` leaves, line by line."""
    left: frozenset[str] = frozenset()
    unit = (ROOT / "deploy" / f"leeward-{program}.service").read_text()
    for value in re.findall(r"^SystemCallFilter=(.*)$", unit, re.MULTILINE):
        groups = frozenset().union(*(calls_of(group) for group in value.removeprefix("~").split()))
        left = left - groups if value.startswith("~") else left | groups
    return left


class Watched:
    """A node under strace, which runs within the block; afterwards ``trace`` has its calls. ``url`` is where it listens."""

    def __init__(self, program: str, directory: Path, upstream: str, *options: str) -> None:
        self.program = program
        self.data = directory / program
        self.trace = directory / f"{program}.trace"
        self.port = free_port()
        self.url = f"{'https' if program == 'origin' else 'http'}://127.0.0.1:{self.port}"
        prefix = f"{program.upper()}_REGISTRIES__"
        refusing = f"http://127.0.0.1:{REFUSING}/"
        self._environ = clean_environment(directory / "home") | {
            f"{prefix}PYPI__UPSTREAM": upstream,
            f"{prefix}NPM__UPSTREAM": refusing,
            f"{prefix}MAVEN__UPSTREAM": refusing,
        }
        self._options = options
        self._log = directory / f"{program}.log"

    def command(self, command: str, *words: str, told: str = "") -> str:
        """What one of its commands prints."""
        given = [sys.executable, "-m", self.program, command, "--config", "-", "--data", str(self.data), *words]
        done = subprocess.run(given, cwd=ROOT, env=self._environ, input=told, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def __enter__(self) -> Self:
        words = ["serve", "--config", "-", "--data", str(self.data), "--listen", f"127.0.0.1:{self.port}", *self._options]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                # With -D the node is our child, and strace its.
                ["strace", "-D", "-f", "-q", "-o", self.trace, sys.executable, "-m", self.program, *words],
                cwd=ROOT,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._serves, 60)
        return self

    def _serves(self) -> bool:
        text = self._log.read_text(errors="replace")
        assert self._process.poll() is None, text
        return "serving at=" in text

    def __exit__(self, *_: object) -> None:
        try:
            self._process.terminate()
            self._process.wait(60)
            ended = rf"^{self._process.pid} +\+\+\+ exited"
            wait_until(lambda: re.search(ended, self.trace.read_text(errors="replace"), re.MULTILINE), 20)
        finally:
            self._process.kill()
            self._process.wait()


def assert_nothing_forbidden(node: Watched) -> None:
    text = node.trace.read_text(errors="replace")
    made = set(re.findall(r"^\d+ +(\w+)\(", text, re.MULTILINE))
    assert {"accept4", "fsync", "openat"} <= made, "the trace shows the node at work"
    assert made - allowed(node.program) - AS_ROOT_ONLY == set()
    # MemoryDenyWriteExecute: no memory that is both writable and executable, none that becomes executable.
    assert [line for line in text.splitlines() if re.search(r"mmap\(.*PROT_WRITE\|PROT_EXEC|mprotect\(.*PROT_EXEC", line)] == []
    families = set(re.findall(r"socket\((AF_\w+)", text))
    assert families <= {"AF_INET", "AF_INET6", "AF_UNIX"}


def install_twice(url: str, project: str, directory: Path) -> None:
    for number in range(2):
        installed = PIP.install(Workspace(directory / f"client-{number}"), f"{url}/pypi/simple/", [project])
        assert installed.succeeded, installed.output


def test_an_edge_alone_does_nothing_that_its_unit_forbids(fake: FakePyPI, shelf: Shelf, project: str, tmp_path: Path) -> None:
    fake.publish(shelf.wheel(project, "1.0", size=300_000))
    with Watched("edge", tmp_path, fake.index_url) as edge:
        install_twice(edge.url, project, tmp_path)
        # The root is made by a process of its own.
        wait_until(lambda: ask(f"{edge.url}/-/ca.pem").status == 200, 30)
    assert_nothing_forbidden(edge)


def test_an_origin_and_an_edge_that_follows_it_do_nothing_that_their_units_forbid(
    fake: FakePyPI, shelf: Shelf, project: str, tmp_path: Path
) -> None:
    fake.publish(shelf.wheel(project, "1.0", size=300_000))
    with Watched("origin", tmp_path, fake.index_url) as origin:
        edge = Watched("edge", tmp_path, fake.index_url, "--origin", origin.url)
        edge.command("enrol", origin.url, "-", told=origin.command("invite", "here").splitlines()[0])
        with edge:
            install_twice(edge.url, project, tmp_path)
            origin.command("recall", f"pkg:pypi/{project}", "--reason", "tried out")
            origin.command("backup", str(tmp_path / "backup"))
    assert_nothing_forbidden(origin)
    assert_nothing_forbidden(edge)
