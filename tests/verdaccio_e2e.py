"""Verdaccio's battery of end-to-end tests, run against a registry with the pinned npm, pnpm 11, yarn 4 and bun.

``run`` gives what each of its tests said. In version 4 nearly every test publishes what it then reads, under a name made up for the
run; ``READING`` names the few that need nothing but a registry that answers. ``PROXYING`` need one more thing: that the registry's upstream
is the battery's own, which it starts on ``localhost`` at ``uplink_port`` and lets fail in several ways.

The registry's URL has to say ``localhost``: the configurations that the battery writes allow plain HTTP to, and have a token for, no other
host.
"""

from __future__ import annotations

import re
import shlex
import stat
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests import node

MANAGERS = {"npm": "npm", "pnpm": "pnpm-11", "yarn-modern": "yarn-berry", "bun": "bun"}
"""Its word for each package manager, and ours. It refuses pnpm before 11 and knows no yarn 1."""

READING = ("ping",)
PROXYING = ("scenario:uplink-failure", "scenario:reserved-names")
PUBLISHING = (
    "publish install ci audit info deprecate dist-tags package-names login search unpublish scenario:install-multiple-deps "
    "scenario:minimum-release-age scenario:tarballs scenario:metadata scenario:search"
).split()

VACUOUS = frozenset({("pnpm", "audit")})
"""Tests, by manager, that pass without asking the registry anything."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One test of the battery with one manager. ``manager`` is as it names it, ``npm@10.9.9``; ``said`` is what it printed about it."""

    manager: str
    test: str
    verdict: Literal["passed", "failed", "skipped"]
    said: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run. ``output`` is all it printed, without colours."""

    returncode: int
    output: str
    outcomes: tuple[Outcome, ...]

    def verdicts(self) -> dict[str, str]:
        """``manager > test`` by verdict, the manager without its version."""
        return {f"{outcome.manager.partition('@')[0]} > {outcome.test}": outcome.verdict for outcome in self.outcomes}

    @property
    def failed(self) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.verdict == "failed")


def run(
    registry: str,
    directory: Path,
    *,
    tests: Sequence[str] = READING,
    managers: Sequence[str] = ("npm", "pnpm", "yarn-modern"),
    uplink_port: int | None = None,
    pending: Sequence[str] = (),
    timeout_s: float = 600,
) -> Report:
    """Run these tests in ``directory``, which keeps homes, caches and projects. Nothing is downloaded but from ``registry``.

    ``pending`` are the tests whose further checks to make too: those that Verdaccio itself does not pass yet. Raises ``ValueError`` for
    a registry that is not at ``localhost``, ``RuntimeError`` if the battery did not get as far as its tests.
    """
    address = urllib.parse.urlsplit(registry)
    if address.hostname != "localhost":
        raise ValueError(f"the battery's clients would not talk to {registry!r}: its host has to be localhost")
    home, scratch, programs = directory / "home", directory / "scratch", directory / "bin"
    for made in (home, scratch, programs):
        made.mkdir(parents=True, exist_ok=True)
    words = [*node.program("verdaccio-e2e"), "--registry", registry.rstrip("/"), "--token", "nobody", "--verbose"]
    for manager in managers:
        words += ["--pm", f"{manager}={_launcher(programs / manager, node.program(MANAGERS[manager]))}"]
    # The yarn plug-ins that two tests load are fetched by a plain `npm`.
    _launcher(programs / "npm", node.program("npm"))
    for test in tests:
        words += ["--test", test]
    if uplink_port is not None:
        words += ["--uplink-port", str(uplink_port)]
    variables = node.environment(home)
    variables |= {
        "PATH": f"{programs}:{variables['PATH']}",
        "TMPDIR": str(scratch),
        "npm_config_registry": registry,
        "npm_config_update_notifier": "false",
        "YARN_ENABLE_TELEMETRY": "0",
        "E2E_PENDING_CONTRACT_CHECKS": ",".join(pending),
    }
    done = node.run(words, cwd=directory, variables=variables, timeout_s=timeout_s)
    output = _plain(done.output)
    report = Report(done.returncode, output, tuple(outcomes(output)))
    if not report.outcomes:
        raise RuntimeError(f"the battery ended with {done.returncode} before its tests:\n{output}")
    return report


def outcomes(output: str) -> Iterator[Outcome]:
    """Read what it printed: a manager's name at the margin, below it each test's beginning, what it did, its verdict and the reason."""
    manager, test, verdict, said = "", "", "", list[str]()
    for line in [*output.partition("\n====")[0].splitlines(), "end@"]:
        heading, told = re.fullmatch(r"([a-z-]+@)\S*", line), re.fullmatch(r"  (✓|PASS|FAIL|SKIP) (\S+)(?: .*)?", line)
        if heading or line.startswith("  running ") or (told and told[1] == "SKIP"):
            if verdict:
                yield Outcome(manager, test, VERDICTS[verdict], "\n".join(said))
            verdict, said = "", []
        if heading:
            manager = line
        elif told:
            verdict, test = told[1], told[2]
        else:
            said.append(line)


VERDICTS: dict[str, Literal["passed", "failed", "skipped"]] = {
    "✓": "passed",
    "PASS": "passed",
    "FAIL": "failed",
    "SKIP": "skipped",
}


def _launcher(path: Path, command: Sequence[str]) -> Path:
    """A script that runs ``command``: the battery takes a manager as one path."""
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
