"""What the tests of ``edge warm`` and ``edge ready`` share: how both are asked, and how an edge loses what it held."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness import Edge

HOURS_S = 6 * 3600.0
"""Long enough for every page to be stale."""

HERE = ("--platform", "linux_x86_64", "--python", "3.13")
"""What the clients of these tests run on."""


@dataclass(frozen=True, slots=True)
class Said:
    """What ``edge ready`` or ``edge warm`` said of one lock."""

    status: int
    output: str
    lock: Mapping[str, Any]

    @property
    def ready(self) -> bool:
        assert (self.status == 0) == self.lock["ready"], self.output
        return bool(self.lock["ready"])

    @property
    def missing(self) -> list[str]:
        """The names of what is missing, sorted."""
        return sorted(each["name"] for each in self.lock["missing"])

    @property
    def refused(self) -> dict[str, str]:
        """The names of what is refused, each with the rule."""
        return {each["name"]: each.get("rule", "") for each in self.lock["refused"]}

    @property
    def elsewhere(self) -> dict[str, str]:
        return {each["name"]: each["where"] for each in self.lock["elsewhere"]}


def ready(edge: Edge, lock: Path, *options: str, here: bool = True) -> Said:
    """``edge ready`` of a lock, for the platform that clients here run on."""
    return _said(edge, "ready", lock, *(HERE if here else ()), *options)


def warm(edge: Edge, lock: Path, *options: str, here: bool = True) -> Said:
    """``edge warm`` of a lock, likewise."""
    return _said(edge, "warm", lock, *(HERE if here else ()), *options)


def _said(edge: Edge, command: str, lock: Path, *options: str) -> Said:
    done = edge.command(command, "--json", *options, str(lock), timeout_s=240)
    assert done.stdout, done.stderr + edge.log_tail()
    (told,) = json.loads(done.stdout)["locks"]
    return Said(done.returncode, done.stdout + done.stderr, told)


def held(edge: Edge) -> dict[Path, set[str]]:
    """The blobs of a running edge's store, each with the names of the files that it is."""
    names: dict[str, set[str]] = {}
    with contextlib.closing(sqlite3.connect(f"file:{edge.data / 'catalog.sqlite'}?mode=ro", uri=True)) as catalog:
        for filename, digest in catalog.execute("SELECT filename, digest FROM bindings"):
            names.setdefault(str(digest).rpartition("-")[2].rpartition(":")[2], set()).add(filename)
    return {path: names.get(path.name, set()) for path in edge.blobs()}


def lose(edge: Edge, names: Collection[str]) -> None:
    """Take the blobs of these files away, as eviction does."""
    for path, files in held(edge).items():
        if files & set(names):
            path.unlink()


def half(names: Iterable[str]) -> list[str]:
    """Every second name."""
    return sorted(names)[::2]
