"""A fleet in a network of its own while everything goes wrong, and the judgement afterwards: ``make chaos``.

An origin and three edges, each in a network namespace, follow and serve while registries, wires and processes fail by a schedule made
from the seed, releases are published and recalled, and clients keep asking. ``c`` may ask registries itself (``direct``); each edge brings
here all that the origin has. Once all faults are over the fleet gets some time to heal; then everything that was recorded is judged by
``checker.py``. If a promise was broken, the history is left in a file, with the nodes' logs beside it, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.capture_stage import in_own_network, why_not
from tests.fakes import FakeMaven, FakeNpm, FakePyPI
from tests.faults import sampling
from tests.faults.checker import Report, check
from tests.faults.history import Asked, Call, Healed, History, Published, Recalled, Verified, now
from tests.faults.nemesis import ORIGIN, Act, Nemesis, Node, schedule
from tests.faults.network import Network
from tests.faults.releases import KINDS, Registries, Release, Shelves
from tests.faults.workers import PAGE_HEADERS, Client, Worker
from tests.fleet import FleetEdge, Origin

EDGES = ("a", "b", "c")
DIRECT = "c"

PROJECTS = 4
"""Of each kind."""

WORKERS = 2
"""At each edge."""

HEAL_S = 90.0
"""How long the fleet may take to be level again once all faults are over: breakers open again after half a minute at the latest."""

PROGRESS_S = 5.0

FRESH = "2s"
"""How long a page of a registry's is believed: so short that faults meet every page."""

REPLICATE = {"mode": "all"}


class FarOrigin(Origin):
    """An origin that others reach at ``address``."""

    host = "0.0.0.0"  # noqa: S104 -- of a namespace of its own

    def __init__(self, directory: Path, upstreams: Mapping[str, str], address: str) -> None:
        self._address = address
        super().__init__(directory, upstreams)

    @property
    def url(self) -> str:
        return f"https://{self._address}:{self.port}"

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {f"ORIGIN_REGISTRIES__{kind.upper()}__FRESH": FRESH for kind in KINDS}


class FarEdge(FleetEdge):
    """An edge that its siblings reach at ``address``."""

    host = "0.0.0.0"  # noqa: S104 -- of a namespace of its own

    def __init__(self, directory: Path, origin: Origin, name: str, address: str, **settings: Any) -> None:
        self._address = address
        super().__init__(directory, origin, name, **settings)

    @property
    def far_url(self) -> str:
        return f"http://{self._address}:{self.port}"

    def write_config(self) -> None:
        """Write its settings, which its siblings are among."""
        self._write_config()

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {f"EDGE_REGISTRIES__{kind.upper()}__FRESH": FRESH for kind in KINDS}


@dataclass
class Stage:
    """The network, the registries and the nodes of one run, all started. ``nodes`` are all of them, by name."""

    network: Network
    registries: Registries
    nodes: dict[str, Node]
    origin: FarOrigin
    edges: dict[str, FarEdge]
    history: History

    @classmethod
    @contextlib.contextmanager
    def start(
        cls, directory: Path, history: History, *, edges: Sequence[str] = EDGES, direct: Sequence[str] = (DIRECT,)
    ) -> Iterator[Stage]:
        """Everything up, every edge enrolled and following. ``direct`` are the edges that may ask registries themselves."""
        with contextlib.ExitStack() as stack:
            network = stack.enter_context(Network.start(ORIGIN, *edges, registries=KINDS))
            pypi = stack.enter_context(FakePyPI.start(hosts=network.hosts("pypi")))
            npm = stack.enter_context(FakeNpm.start(hosts=network.hosts("npm")))
            maven = stack.enter_context(FakeMaven.start(hosts=network.hosts("maven")))
            registries = Registries({"pypi": pypi, "npm": npm, "maven": maven}, history)
            upstreams = {"pypi": pypi.index_url, "npm": npm.registry_url, "maven": maven.url}
            origin = FarOrigin(directory / "origin", upstreams, network.address(ORIGIN))
            nodes = {ORIGIN: Node(ORIGIN, origin, network, history)}
            stack.callback(origin.__exit__)
            nodes[ORIGIN].start()
            made = {
                name: FarEdge(directory / name, origin, name, network.address(name), direct=name in direct, replicate=REPLICATE)
                for name in edges
            }
            for name, edge in made.items():
                edge.siblings = [other.far_url for other in made.values() if other is not edge]
                edge.write_config()
                token = network.run(ORIGIN, origin.invite, name)
                network.run(name, edge.enrol, token)
                nodes[name] = Node(name, edge, network, history)
                stack.callback(edge.__exit__)
                nodes[name].start()
            yield cls(network, registries, nodes, origin, made, history)

    @property
    def data(self) -> dict[str, Path]:
        """The nodes' data directories."""
        return {name: node.process.data for name, node in self.nodes.items()}

    def url(self, edge: str) -> str:
        """Where an edge's own clients reach it, in its namespace."""
        return self.edges[edge].url


class Run:
    """One run of the schedule that ``acts`` is."""

    def __init__(
        self, stage: Stage, shelves: Shelves, seed: int, acts: Sequence[Act], told: Callable[[str], None], pace_s: float
    ) -> None:
        self.stage = stage
        self.history = stage.history
        self._shelves = shelves
        self._seed = seed
        self._acts = acts
        self._told = told
        self._pace_s = pace_s
        self._order: list[Release] = []
        self._stop = threading.Event()
        self._leave = threading.Event()
        self._failed: list[BaseException] = []

    def run(self) -> Report:
        """Publish the first releases, let everything happen, let it heal, judge."""
        for kind in KINDS:
            for project in range(PROJECTS):
                self._publish_release(self._shelves.release(kind, project, 0))
        threads = [*self._worker_threads(), *self._watching_threads()]
        for thread in threads:
            thread.start()
        try:
            Nemesis(
                self.stage.nodes,
                self.stage.network,
                self.stage.registries.fakes,
                self.history,
                self._publish,
                self._recall,
                lambda act: self._told(str(act)),
            ).run(self._acts)
            self._told("all faults are over")
            self._heal()
            self._leave.set()
            # Whatever nobody asked for yet comes now, and travels; then all stands still.
            self._sweep("once")
            self._heal()
            self.history.add(Healed(at=now()))
            self._sweep("end")
            # What is known of it was looked at after it.
            self._stop.wait(5 * sampling.EVERY_S)
        finally:
            self._leave.set()
            self._stop.set()
            for thread in threads:
                thread.join()
        if self._failed:
            raise self._failed[0]
        self._look_at_the_end()
        return check(self.history)

    # -- who takes part

    def _worker_threads(self) -> Iterator[threading.Thread]:
        for edge in self.stage.edges:
            for number in range(WORKERS):
                worker = Worker(
                    self._client(edge, f"{edge}{number}"),
                    lambda: self.stage.registries.published,
                    f"{self._seed} {edge} {number}",
                    self._leave,
                    self._pace_s,
                )
                yield self._thread(self.stage.network.run, edge, worker.run)

    def _watching_threads(self) -> Iterator[threading.Thread]:
        yield self._thread(sampling.Sampler(self.stage.data, self.history, self._stop).run)
        yield self._thread(self._tell_progress)

    def _thread(self, call: Callable[..., object], *arguments: object) -> threading.Thread:
        def run() -> None:
            try:
                call(*arguments)
            except BaseException as error:  # noqa: BLE001 -- raised by whoever started it
                self._failed.append(error)

        return threading.Thread(target=run)

    def _client(self, edge: str, worker: str) -> Client:
        return Client(worker, edge, lambda: self.stage.url(edge), self.history, lambda: self.stage.nodes[edge].life)

    # -- what happens

    def _publish(self, act: Act) -> None:
        self._publish_release(self._shelves.release(act.whom[0], act.project, act.number))

    def _publish_release(self, release: Release) -> None:
        self.stage.registries.publish(release)
        self._order.append(release)

    def _recall(self, act: Act) -> None:
        """Recall, and take it back after a while; again and again if the origin is away, as an operator would."""
        release = self._order[act.project]
        target = f"sha256-{release.artifact.sha256}" if act.by_digest else release.purl
        self._insist(release, target)
        if act.lasts_s:
            self._stop.wait(act.lasts_s)
            self._insist(release, target, "--undo")

    def _insist(self, release: Release, target: str, *options: str) -> None:
        for _ in range(10):
            invoked = now()
            told = self.stage.network.run(ORIGIN, self._tell_origin, target, options)
            succeeded = told is not None
            # Bytes that the origin has under no name are refused themselves, and nothing else that is of their release.
            whole = not target.startswith("sha256-") or bool(told is not None and told.get("purls"))
            items = release.items if whole else (release.artifact,)
            self.history.add(
                Recalled(
                    invoked=invoked,
                    completed=now(),
                    target=target,
                    undo=bool(options),
                    keys=tuple(item.key for item in items),
                    also=tuple(item.key for item in release.items),
                    releases=((release.project, release.version),) if whole else (),
                    acknowledged=tuple(told["acknowledged"]) if told is not None else (),
                    succeeded=succeeded,
                )
            )
            if succeeded:
                return
            self._stop.wait(1)
        raise RuntimeError(f"the origin did not take the recall of {target}: {options}")

    def _tell_origin(self, target: str, options: Sequence[str]) -> dict[str, Any] | None:
        """What ``origin recall`` says, None if it could not do it, or nobody heard whether it did."""
        reason = () if options else ("--reason", "found to be bad")
        try:
            done = self.stage.origin.command("recall", target, *reason, *options, "--wait", "10s", "--json", timeout_s=30)
            if "is not recalled" in done.stderr:
                # It was taken back before, and who said so was not heard.
                return {"purls": [target], "acknowledged": []}
            told: dict[str, Any] = json.loads(done.stdout)
        except (subprocess.TimeoutExpired, ValueError):
            return None
        return told

    # -- how it goes

    def _tell_progress(self) -> None:
        began = now()
        while not self._stop.wait(PROGRESS_S):
            calls = sum(isinstance(record, Call) for record in self.history)
            heads = []
            for edge in self.stage.edges:
                with contextlib.suppress(sqlite3.Error):
                    heads.append(f"{edge} {sampling.place(self.stage.data[edge])[0]}")
            self._told(f"{now() - began:6.1f} s  {calls} calls, {len(self._order)} releases, at line {', '.join(heads)}")

    def _heal(self) -> None:
        """Return when every edge is level, wants nothing more and shows all that is published; or after ``HEAL_S``."""
        until = now() + HEAL_S
        while (lacking := self._lacking()) and now() < until:
            self._stop.wait(0.5)
        self._told(f"still lacking after {HEAL_S:.0f} s: {lacking}" if lacking else "level again")

    def _lacking(self) -> str:
        """What is not as it should be yet, the first thing found."""
        head = max((line.serial for line in sampling.ledger(self.stage.data[ORIGIN])), default=0)
        if found := sampling.wanted(self.stage.data[ORIGIN]):
            return f"the origin wants {found[0]}"
        for edge in self.stage.edges:
            if sampling.place(self.stage.data[edge])[0] != head:
                return f"{edge} is not at line {head}"
            if found := sampling.wanted(self.stage.data[edge]):
                return f"{edge} wants {found[0]}"
            if lacking := self.stage.network.run(edge, self._page_lacking, edge):
                return lacking
        return ""

    def _page_lacking(self, edge: str) -> str:
        client = self._client(edge, f"{edge}-heal")
        withdrawn = self._withdrawn()
        for project in {release.project: release for release in self._order}.values():
            page = client.page(project, PAGE_HEADERS[project.kind][0])
            wanted = {one.version for one in self._order if one.project == project.project and one.artifact.key not in withdrawn}
            if missing := wanted - set(page.releases):
                return f"{edge} does not show {project.project} {', '.join(sorted(missing))} ({page.status})"
        return ""

    def _withdrawn(self) -> set[str]:
        """The files under recall now."""
        keys: set[str] = set()
        for recall in sorted(self.history.of(Recalled), key=lambda recall: recall.completed):
            keys = (
                keys - set(recall.keys)
                if recall.undo and recall.succeeded
                else keys | set(recall.keys)
                if not recall.undo
                else keys
            )
        return keys

    def _look_at_the_end(self) -> None:
        """All that the nodes have, and what they say themselves."""
        self.history.add(*sampling.ledger(self.stage.data[ORIGIN]))
        for name, data in self.stage.data.items():
            self.history.add(sampling.bound(name, data))
        for node in self.stage.nodes.values():
            node.end()
        self._note_what_was_asked()
        processes: dict[str, FarOrigin | FarEdge] = {ORIGIN: self.stage.origin, **self.stage.edges}
        for name, process in processes.items():
            done = self.stage.network.run(name, process.command, "verify")
            told = (done.stdout + done.stderr).strip()
            self.history.add(Verified(at=now(), node=name, succeeded=done.returncode == 0, told=told[-2000:]))
            if "Traceback (most recent call last)" in (log := process.log.read_text(errors="replace")):
                told = log[log.index("Traceback (most recent call last)") :][:3000]
                self.history.add(Verified(at=now(), node=name, succeeded=False, told=f"its log has a traceback: {told}"))

    def _sweep(self, name: str) -> None:
        """Ask for everything at each edge."""
        for edge in self.stage.edges:
            self.stage.network.run(edge, self._ask_for_all, self._client(edge, f"{edge}-{name}"))

    def _ask_for_all(self, client: Client) -> None:
        for release in {release.project: release for release in self._order}.values():
            client.page(release, PAGE_HEADERS[release.kind][0])
        for release in self._order:
            for item in release.items:
                client.file(release, item)

    def _note_what_was_asked(self) -> None:
        """Who asked the registries for which file."""
        known = {record.key for record in self.history.of(Published)}
        sidecars = {item.key for release in self._order for item in release.items if item.sidecar}
        for kind, fake in self.stage.registries.fakes.items():
            for seen in fake.seen():
                key = f"{kind}/{unquote(seen.path.partition('?')[0]).lstrip('/').removeprefix('maven2/')}"
                if seen.method == "GET" and key in known - sidecars:
                    by = self.stage.network.named(seen.peer)
                    self.history.add(Asked(at=seen.at, by=by, key=key, status=seen.status, complete=seen.complete))


# ---- the command ------------------------------------------------------------------------------------------------------


def run(seed: int, seconds: float, directory: Path, told: Callable[[str], None], pace_s: float = 0.15) -> tuple[Report, History]:
    """A whole run with the schedule of ``seed``, in the namespace of this thread. The nodes' logs stay in ``directory``."""
    history = History()
    shelves = Shelves(directory / "shelves")
    with Stage.start(directory, history) as stage:
        acts = schedule(seed, seconds, EDGES, KINDS, PROJECTS)
        report = Run(stage, shelves, seed, acts, told, pace_s).run()
    return report, history


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=None, help="which faults (default: a new one each time)")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (default %(default)s)")
    parser.add_argument(
        "--directory", type=Path, default=None, help="where the nodes' data, logs and the history go (default: a new one)"
    )
    options = parser.parse_args(arguments)
    if reason := why_not():
        print(f"make chaos: {reason}", file=sys.stderr)
        return 2
    seed = random.SystemRandom().randrange(1, 1_000_000) if options.seed is None else options.seed
    directory = options.directory or Path(tempfile.mkdtemp(prefix=f"leeward-chaos-{seed}-"))
    directory.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}, {options.minutes:g} minutes, in {directory}", flush=True)
    outcome: list[int] = []

    @in_own_network
    def inside() -> None:
        report, history = run(seed, 60 * options.minutes, directory, lambda line: print(line, flush=True))
        print(f"\n{report.table()}\n", flush=True)
        if not report.violations:
            print(f"no violation with seed {seed}")
            outcome.append(0)
            return
        path = directory / "history.jsonl"
        history.write(path)
        for violation in report.violations[:20]:
            print(violation)
        print(
            f"{len(report.violations)} violations. The history is in {path}, the nodes' logs are beside it. "
            f'The same faults again: make chaos ARGS="--seed {seed} --minutes {options.minutes:g}". '
            f"To judge it again: python -m tests.faults.checker {path}"
        )
        outcome.append(1)

    inside()
    if outcome == [0] and options.directory is None:
        shutil.rmtree(directory, ignore_errors=True)
    return outcome[0]


if __name__ == "__main__":
    sys.exit(main())
