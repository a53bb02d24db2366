"""An origin and its edges, each in a process of its own, as operators set them up: invited, enrolled, started.

``Origin`` and ``FleetEdge`` start, stop, kill, pause and restart; ``fleet`` lays out an origin and edges before the registries that a test
has. Times between them are this machine's own, and ``age`` sets a node's time of day ahead.
"""

from __future__ import annotations

import contextlib
import json
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.harness import KINDS, REFUSING, Edge, wait_until
from tests.origin_process import OriginProcess

SOON_S = 5.0
"""How soon what one edge fetched is at the others."""


class Origin(OriginProcess):
    """An origin as its operator knows it."""

    start_s = 30.0

    def invite(self, name: str, *options: str) -> str:
        """An invitation's token."""
        token: str = self.told("invite", name, *options)["token"]
        return token

    def edges(self) -> dict[str, dict[str, Any]]:
        """What it says of its edges, by name."""
        return {edge["name"]: edge for edge in self.told("edges")["edges"]}

    def recall(self, target: str, reason: str = "found to be bad", *options: str) -> subprocess.CompletedProcess[str]:
        return self.command("recall", target, "--reason", reason, *options)

    def blobs(self) -> set[str]:
        """What it holds, by SHA-256."""
        return {path.name for path in (self.data / "blobs" / "sha256").rglob("*") if path.is_file()}


class FleetEdge(Edge):
    """An edge of ``origin``, not enrolled yet. ``replicate`` is its table; ``more`` is TOML placed before the registries."""

    def __init__(
        self,
        directory: Path,
        origin: Origin,
        name: str,
        *,
        direct: bool = False,
        replicate: Mapping[str, object] | None = None,
        more: str = "",
    ) -> None:
        self.origin = origin
        self.name = name
        self.direct = direct
        self.siblings: Sequence[str] = ()
        self.replicate = {"mode": "all", **(replicate or {})}
        self._more = more
        upstreams = {kind: {"upstream": origin.upstreams[kind]} for kind in KINDS if origin.upstreams.get(kind)}
        refusing = f"http://127.0.0.1:{REFUSING}/"
        others: dict[str, Mapping[str, object]] = {kind: found for kind, found in upstreams.items() if kind != "pypi"}
        super().__init__(directory, origin.upstreams.get("pypi") or refusing, others=others)

    def _write_config(self) -> None:
        lines = [f"origin = {json.dumps(self.origin.url)}", f"direct = {json.dumps(self.direct)}"]
        lines += [f"siblings = {json.dumps(list(self.siblings))}", self._more, "[replicate]"]
        self.top = "\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in self.replicate.items())])
        super()._write_config()

    def enrol(self, token: str | None = None) -> Self:
        """Use an invitation up, a new one unless it is given."""
        done = self.command("enrol", self.origin.url, token or self.origin.invite(self.name))
        assert done.returncode == 0, done.stdout + done.stderr
        return self

    def status(self) -> dict[str, Any]:
        """What it says of how it stands with its origin."""
        done = self.command("status", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        told: dict[str, Any] = json.loads(done.stdout)["origin"]
        return told

    def digests(self) -> set[str]:
        """What it holds, by SHA-256."""
        return {path.name for path in self.blobs()}

    def wait_holding(self, digests: set[str], timeout_s: float = SOON_S) -> float:
        """Wait until it holds these blobs; the seconds that took."""
        return wait_until(lambda: digests <= self.digests(), timeout_s)

    def wait_level(self, timeout_s: float = 20.0) -> None:
        """Wait until it is in contact, has applied all that the origin told, and nothing is left to be brought."""

        def level() -> bool:
            metrics = self.metrics()
            return (
                metrics["leeward_origin_connected"] == 1
                and metrics["leeward_feed_lag_seconds"] == 0
                and metrics["leeward_feed_serial"] >= self.origin.metric("leeward_feed_serial")
                and metrics["leeward_replication_wanted"] == 0
            )

        try:
            wait_until(level, timeout_s, 0.1)
        except TimeoutError as error:
            raise TimeoutError(f"{self.name} is not level: {self.status()}\n{self.log_tail()}") from error


class Fleet:
    """An origin and edges by name, in one directory. All that runs ends with the block."""

    def __init__(self, directory: Path, upstreams: Mapping[str, str], stack: contextlib.ExitStack, *, top: str = "") -> None:
        self.directory = directory
        self.edges: dict[str, FleetEdge] = {}
        self._stack = stack
        self.origin = stack.enter_context(Origin(directory / "origin", upstreams, top=top))

    def edge(self, name: str, *, start: bool = True, **settings: Any) -> FleetEdge:
        """An edge that is enrolled, and runs unless told otherwise. Settings as ``FleetEdge`` takes them."""
        edge = FleetEdge(self.directory / name, self.origin, name, **settings).enrol()
        self.edges[name] = edge
        if start:
            self._stack.enter_context(edge)
        else:
            self._stack.callback(edge.__exit__)
        return edge

    def __getitem__(self, name: str) -> FleetEdge:
        return self.edges[name]

    def logs(self) -> str:
        """The ends of all logs."""
        told = [f"---- origin\n{self.origin.log_tail()}"]
        return "\n".join([*told, *(f"---- {name}\n{edge.log_tail()}" for name, edge in self.edges.items())])


@contextlib.contextmanager
def fleet(scratch: Path, upstreams: Mapping[str, str], *, top: str = "") -> Iterator[Fleet]:
    """An origin before these registries, and no edge yet."""
    with contextlib.ExitStack() as stack:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-", dir=scratch, ignore_cleanup_errors=True))
        )
        yield Fleet(directory, upstreams, stack, top=top)


@contextlib.contextmanager
def three_regions(scratch: Path, upstreams: Mapping[str, str], **settings: Any) -> Iterator[Fleet]:
    """An origin and three edges that replicate everything, each with the other two as siblings."""
    with fleet(scratch, upstreams) as made:
        edges = [made.edge(name, start=False, **settings) for name in "abc"]
        for edge in edges:
            edge.siblings = [other.url for other in edges if other is not edge]
            edge._write_config()
            edge.start()
        for edge in edges:
            edge.wait_level()
        yield made


def arrivals(fleet: Fleet, digests: Sequence[str], names: Sequence[str], trigger: Callable[[], object]) -> dict[str, list[float]]:
    """How long after ``trigger`` began each blob was at each edge, in seconds. Raises ``TimeoutError``."""
    began = time.monotonic()
    trigger()
    found: dict[str, dict[str, float]] = {name: {} for name in names}

    def all_there() -> bool:
        for name in names:
            held = fleet[name].digests()
            for digest in digests:
                if digest in held:
                    found[name].setdefault(digest, time.monotonic() - began)
        return all(len(times) == len(digests) for times in found.values())

    wait_until(all_there, 30, 0.01)
    return {name: list(times.values()) for name, times in found.items()}


def told(seconds: Sequence[float]) -> str:
    """Times for a reader: how many, the median, the longest."""
    return f"{len(seconds)} blobs: median {statistics.median(seconds) * 1000:.0f} ms, longest {max(seconds) * 1000:.0f} ms"


def one_sentence(text: str) -> str:
    """What a command complained about, which has to be one line."""
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    return re.sub(r"^(edge|origin): ", "", lines[0])
