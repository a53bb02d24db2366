"""A fleet in a network of its own, with registries before it, and what is written down of it: what tests of faults stand on.

``Stage`` starts an origin and edges, each in a network namespace, in front of the fakes of all kinds. It publishes and recalls as operators
do, tells when the fleet is as it should be, and writes down at the end what every node has.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.fakes import FakeMaven, FakeNpm, FakePyPI
from tests.faults import sampling
from tests.faults.checker import Report, check
from tests.faults.history import Asked, History, Published, Recalled, Verified, now
from tests.faults.nemesis import ORIGIN, Node
from tests.faults.network import Network
from tests.faults.releases import KINDS, Registries, Release
from tests.faults.workers import PAGE_HEADERS, Client
from tests.fleet import FleetEdge, Origin

FRESH = "2s"
"""How long a page of a registry's is believed: so short that faults meet every page."""

REPLICATE = {"mode": "all"}

START_S = 90.0
"""How long a node may take to be ready on a machine that has more to do."""

HEAL_S = 90.0
"""How long the fleet may take to be level again once all faults are over: breakers open again after half a minute at the latest."""

TRACE = "Traceback (most recent call last)"
"""What a node's log never has."""


class FarOrigin(Origin):
    """An origin that others reach at ``address``."""

    host = "0.0.0.0"  # noqa: S104 -- of a namespace of its own
    start_s = START_S

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
    start_s = START_S

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
    def start(cls, directory: Path, history: History, *, edges: Sequence[str], direct: Sequence[str] = ()) -> Iterator[Stage]:
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

    def client(self, edge: str, worker: str) -> Client:
        """A client of ``edge``, to be used in its namespace."""
        return Client(worker, edge, lambda: self.edges[edge].url, self.history, lambda: self.nodes[edge].life)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Look at all nodes again and again while the block runs, and once more after it."""
        sampler, over, failed = sampling.Sampler(self.data, self.history), threading.Event(), []

        def run() -> None:
            try:
                while not over.wait(sampling.EVERY_S):
                    sampler.look()
            except BaseException as error:  # noqa: BLE001 -- raised where the block ends
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        if failed:
            raise failed[0]
        sampler.look()

    # -- what operators do

    def recall(self, release: Release, *, by_digest: bool = False, undo: bool = False) -> bool:
        """Recall a release, or the bytes of its artifact, or take that back. False if nobody can say whether it was done."""
        target = f"sha256-{release.artifact.sha256}" if by_digest else release.purl
        invoked = now()
        told = self.network.run(ORIGIN, self._tell_origin, target, undo)
        # Bytes that the origin has under no name are refused themselves, and nothing else that is of their release.
        whole = not by_digest or bool(told is not None and told.get("purls"))
        items = release.items if whole else (release.artifact,)
        self.history.add(
            Recalled(
                invoked=invoked,
                completed=now(),
                target=target,
                undo=undo,
                keys=tuple(item.key for item in items),
                also=tuple(item.key for item in release.items),
                releases=((release.project, release.version),) if whole else (),
                acknowledged=tuple(told["acknowledged"]) if told is not None else (),
                succeeded=told is not None,
            )
        )
        return told is not None

    def _tell_origin(self, target: str, undo: bool) -> dict[str, Any] | None:
        how = ["--undo"] if undo else ["--reason", "found to be bad"]
        try:
            done = self.origin.command("recall", target, *how, "--wait", "10s", "--json", timeout_s=30)
            if undo and "is not recalled" in done.stderr:
                # It was taken back before, and who said so was not heard.
                return {"purls": [target], "acknowledged": []}
            told: dict[str, Any] = json.loads(done.stdout)
        except (subprocess.TimeoutExpired, ValueError):
            return None
        return told

    # -- once it is over

    def heal(self, timeout_s: float = HEAL_S) -> str:
        """Return once every edge is level, wants nothing more and shows all that is published; what is still lacking after that time."""
        until = now() + timeout_s
        while lacking := self._lacking():
            if now() > until:
                return lacking
            time.sleep(0.5)
        return ""

    def ask_for_all(self, name: str) -> None:
        """Have a client at each edge ask for everything that was published."""
        for edge in self.edges:
            self.network.run(edge, self._ask_for_all, self.client(edge, f"{edge}-{name}"))

    def conclude(self) -> Report:
        """Write down all that the nodes have and what they say of themselves, and judge the history."""
        self.history.add(*sampling.ledger(self.data[ORIGIN]))
        for name, data in self.data.items():
            self.history.add(sampling.bound(name, data))
        for node in self.nodes.values():
            node.end()
        self._note_what_was_asked()
        processes: dict[str, FarOrigin | FarEdge] = {ORIGIN: self.origin, **self.edges}
        for name, process in processes.items():
            done = self.network.run(name, process.command, "verify")
            told = (done.stdout + done.stderr).strip()
            self.history.add(Verified(at=now(), node=name, succeeded=done.returncode == 0, told=told[-2000:]))
            _, found, trace = process.log.read_text(errors="replace").partition(TRACE)
            told = f"its log has a traceback: {trace[:3000]}" if found else ""
            self.history.add(Verified(at=now(), node=name, succeeded=not found, told=told))
        return check(self.history)

    def _lacking(self) -> str:
        """What is not as it should be yet, the first thing found."""
        head = max((line.serial for line in sampling.ledger(self.data[ORIGIN])), default=0)
        if found := sampling.wanted(self.data[ORIGIN]):
            return f"the origin wants {found[0]}"
        for edge in self.edges:
            if sampling.place(self.data[edge])[0] != head:
                return f"{edge} is not at line {head}"
            if found := sampling.wanted(self.data[edge]):
                return f"{edge} wants {found[0]}"
            if lacking := self.network.run(edge, self._page_lacking, edge):
                return lacking
        return ""

    def _page_lacking(self, edge: str) -> str:
        withdrawn, published = self._withdrawn(), self.registries.published
        with self.client(edge, f"{edge}-heal") as client:
            for release in {release.project: release for release in published}.values():
                page = client.page(release, PAGE_HEADERS[release.kind][0])
                mine = [one for one in published if one.project == release.project and one.artifact.key not in withdrawn]
                if missing := {one.version for one in mine} - set(page.releases):
                    return f"{edge} does not show {release.project} {', '.join(sorted(missing))} ({page.status} {page.error})"
        return ""

    def _withdrawn(self) -> set[str]:
        """The files under recall now, or perhaps."""
        keys: set[str] = set()
        for recall in sorted(self.history.of(Recalled), key=lambda recall: recall.completed):
            if not recall.undo:
                keys |= set(recall.also)
            elif recall.succeeded:
                keys -= set(recall.also)
        return keys

    def _ask_for_all(self, client: Client) -> None:
        published = self.registries.published
        with client:
            for release in {release.project: release for release in published}.values():
                client.page(release, PAGE_HEADERS[release.kind][0])
            for release in published:
                for item in release.items:
                    client.file(release, item)

    def _note_what_was_asked(self) -> None:
        """Who asked the registries for which file."""
        known = {record.key for record in self.history.of(Published)}
        sidecars = {item.key for release in self.registries.published for item in release.items if item.sidecar}
        for kind, fake in self.registries.fakes.items():
            for seen in fake.seen():
                key = f"{kind}/{unquote(seen.path.partition('?')[0]).lstrip('/').removeprefix('maven2/')}"
                if seen.method == "GET" and key in known - sidecars:
                    by = self.network.named(seen.peer)
                    self.history.add(Asked(at=seen.at, by=by, key=key, status=seen.status, complete=seen.complete))
