"""Registries, origin and one edge alive, dead, hanging or cut off, in every combination: what was synchronized installs at each edge
that is left, what was not is 503 in time, never 404 and never a hang; with ``direct`` off (edge ``a``) and on (edge ``d``).

In the combinations where all of them are gone in one way, and in one mixed one, the clients are real: pip, npm and mvn, which have never
installed anything. Elsewhere the requests are those that they send, unless ``make outages`` runs this: then they install in every one.
"""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.capture_stage import in_own_network
from tests.fakes import FakeMaven, FakeNpm, FakePyPI
from tests.faults.fleet_stage import Stage
from tests.faults.history import History
from tests.faults.nemesis import ORIGIN, Node
from tests.faults.releases import KINDS, Item, Release, Shelves
from tests.faults.workers import FILE_HEADERS, PAGE_HEADERS
from tests.harness import PIP, Reply, Workspace, ask, wait_until
from tests.jars import Jars
from tests.jvm import MAVEN_39, JvmWorkspace
from tests.maven_stage import publish_tools
from tests.node import NPM
from tests.tarballs import Tarballs
from tests.wheels import Shelf

STATES = ("alive", "dead", "hanging", "cut off")

EDGES = ("a", "d", "b")
"""``d`` is ``direct``; ``b`` is the one that fails too, and a sibling of both."""

SLOW_S = 1.0
"""How long a held page waits for whoever is slow."""

UNREACHABLE_S = 2.0
SILENT_S = 10.0
"""How long a cold request may take: where nobody can be reached, and the first ones where somebody takes what is sent and says nothing."""

SLACK_S = 1.5
"""What this machine may add: it plays all parts."""

FIRST = 3
"""How often something new is asked for until it is known that a silent part is."""

RECOVERED_S = 45.0

LISTED = 140
"""How many releases there are of which only the page is known."""

WITH_CLIENTS = (
    set(itertools.product(STATES, STATES, STATES))
    if os.environ.get("LEEWARD_OUTAGES") == "all"
    else {(state, state, state) for state in STATES if state != "alive"} | {("alive", "hanging", "cut off")}
)
"""In which combinations of registries, origin and ``b`` the clients are real."""


@dataclass
class Cold:
    """What nobody has asked for yet: releases of projects, and further releases of projects whose page is known."""

    shelves: Shelves
    publish: Callable[[Release], None]
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1000))
    listed: dict[str, deque[Release]] = field(default_factory=dict)

    def project(self, kind: str) -> Release:
        """A release of a project that nobody has asked for."""
        made = self.shelves.release(kind, next(self.numbers), 0, "cold", largest=0)
        self.publish(made)
        return made

    def file(self, kind: str) -> Release:
        """A release that a held page lists, and whose file nobody has."""
        return self.listed[kind].popleft()

    def still(self, release: Release) -> None:
        """The file of this one did not come."""
        self.listed[release.kind].append(release)


@dataclass
class Asked:
    """One request and what came of it."""

    what: str
    reply: Reply


class Region:
    """The fleet, and how each part of it is."""

    def __init__(self, stage: Stage, shelves: Shelves) -> None:
        self.stage = stage
        self.states = {"registries": "alive", "origin": "alive", "b": "alive"}
        self.cold = Cold(shelves, stage.registries.publish)
        self.warm = [shelves.release(kind, 0, 0, "warm") for kind in KINDS]
        self._silenced: dict[str, int] = {}
        self.slowest: dict[str, float] = {}

    # -- how the parts are

    def be(self, registries: str, origin: str, b: str) -> bool:
        """Bring about this combination; True if a part is silent now that was not before.

        One that is cut off is silent at first too, on connections that there are.
        """
        begun = False
        for part, state in (("registries", registries), ("origin", origin), ("b", b)):
            if self.states[part] != state:
                self._end(part)
                self._begin(part, state)
                begun |= state in {"hanging", "cut off"}
                self.states[part] = state
        return begun

    def _begin(self, part: str, state: str) -> None:
        network, fakes = self.stage.network, self.stage.registries.fakes
        match part, state:
            case _, "alive":
                pass
            case "registries", "dead":
                for fake in fakes.values():
                    fake.refuse()
            case "registries", "hanging":
                self._silenced = {name: fake.silence() for name, fake in fakes.items()}
            case "registries", _:
                for node, registry in itertools.product(self.stage.nodes, fakes):
                    network.cut(node, registry)
            case _, "dead":
                self._node(part).kill()
            case _, "hanging":
                self._node(part).signal(signal.SIGSTOP)
            case "origin", _:
                for edge in EDGES:
                    network.cut(edge, ORIGIN)
            case _:
                for other in (*self.stage.nodes, *fakes):
                    if other != part:
                        network.cut(part, other)

    def _end(self, part: str) -> None:
        network, fakes = self.stage.network, self.stage.registries.fakes
        match part, self.states[part]:
            case _, "alive":
                pass
            case "registries", "dead":
                for fake in fakes.values():
                    fake.listen_again()
            case "registries", "hanging":
                for name, fake in fakes.items():
                    fake.behave(self._silenced[name])
            case "registries", _:
                for node, registry in itertools.product(self.stage.nodes, fakes):
                    network.mend(node, registry)
            case _, "dead":
                self._node(part).start()
            case _, "hanging":
                self._node(part).signal(signal.SIGCONT)
            case "origin", _:
                for edge in EDGES:
                    network.mend(edge, ORIGIN)
            case _:
                # What is cut off for another reason stays so.
                for other in (*self.stage.nodes, *fakes):
                    if other != part:
                        network.mend(part, other)
                for name in ("registries", "origin"):
                    if self.states[name] == "cut off":
                        self._begin(name, "cut off")

    def _node(self, part: str) -> Node:
        return self.stage.nodes[part]

    @property
    def serving(self) -> Sequence[str]:
        """The edges whose clients are served: one that is cut off from all others has clients too."""
        return EDGES if self.states["b"] in {"alive", "cut off"} else EDGES[:2]

    def reaches(self, edge: str) -> bool:
        """Whether something cold can come to ``edge``."""
        origin, registries = self.states["origin"] == "alive", self.states["registries"] == "alive"
        return registries and (origin or edge == "d") and not (edge == "b" and self.states["b"] != "alive")

    # -- what clients ask

    def check_warm(self) -> list[str]:
        """Ask at each edge that serves for what installing the warm releases takes; gives what is wrong."""

        def run(edge: str) -> Iterator[str]:
            for release in self.warm:
                yield from self._judge_warm(edge, self._page(edge, release), SLOW_S)
                for item in release.items:
                    yield from self._judge_warm(edge, self._file(edge, release, item), 0)

        return self._at_each(self.serving, run)

    def _judge_warm(self, edge: str, asked: Asked, limit_s: float) -> Iterator[str]:
        if asked.reply.status != 200 or asked.reply.short:
            yield f"{edge}: {asked.what}: {asked.reply.status} {asked.reply.reason}"
        yield from self._judge_time(edge, "warm", asked, limit_s)

    def check_cold(self, how: str, limit_s: float, each: int) -> list[str]:
        """Ask at ``a`` and ``d``, all at once, for ``each`` cold pages and files of each kind; gives what is wrong."""
        wanted: list[tuple[str, Release, Item | None]] = []
        for edge, kind in itertools.product(EDGES[:2], KINDS):
            for _ in range(each):
                page, file = self.cold.project(kind), self.cold.file(kind)
                wanted += [(edge, page, None), (edge, file, file.artifact)]

        def run(one: tuple[str, Release, Item | None]) -> Iterator[str]:
            edge, release, item = one
            asked = self._page(edge, release) if item is None else self._file(edge, release, item)
            if item is not None and asked.reply.status != 200:
                self.cold.still(release)
            yield from self._judge_cold(edge, how, asked, limit_s)

        return self._at_each(wanted, run)

    def _judge_cold(self, edge: str, how: str, asked: Asked, limit_s: float) -> Iterator[str]:
        reply = asked.reply
        if self.reaches(edge):
            if reply.status != 200:
                yield f"{edge}: {how} {asked.what}: {reply.status} {reply.reason}, although it can be had"
        elif reply.status != 503:
            yield f"{edge}: {how} {asked.what}: {reply.status} {reply.reason}"
        elif int(reply.headers.get("retry-after", "0")) < 1:
            yield f"{edge}: {how} {asked.what}: 503 without Retry-After"
        yield from self._judge_time(edge, how, asked, limit_s)

    def _judge_time(self, edge: str, how: str, asked: Asked, limit_s: float) -> Iterator[str]:
        seconds = asked.reply.seconds
        self.slowest[how] = max(seconds, self.slowest.get(how, 0))
        if seconds > limit_s + SLACK_S:
            yield f"{edge}: {how} {asked.what}: {asked.reply.status} took {seconds:.1f} s, {limit_s:.0f} s are allowed"

    def _page(self, edge: str, release: Release) -> Asked:
        headers = PAGE_HEADERS[release.kind][0]
        return Asked(f"page of {release.project}", self.stage.network.run(edge, ask, self._url(edge) + release.page, headers))

    def _file(self, edge: str, release: Release, item: Item) -> Asked:
        headers = FILE_HEADERS[release.kind]
        return Asked(item.key, self.stage.network.run(edge, ask, self._url(edge) + item.path, headers))

    def _url(self, edge: str) -> str:
        return self.stage.edges[edge].url

    def _at_each[T](self, ones: Sequence[T], run: Callable[[T], Iterator[str]]) -> list[str]:
        """Run for each at once."""
        wrong: list[str] = []

        def gather(one: T) -> None:
            try:
                wrong.extend(run(one))
            except Exception as error:  # noqa: BLE001 -- a request that got no answer at all
                wrong.append(f"{one}: {type(error).__name__}: {error}")

        threads = [threading.Thread(target=gather, args=(one,)) for one in ones]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(wrong)

    def install(self, *edges: str) -> list[str]:
        """Install with the real clients, each in a world of its own, at all these edges at once; gives what failed."""

        def run(one: tuple[str, Callable[[str, Path], str]]) -> Iterator[str]:
            edge, client = one
            with tempfile.TemporaryDirectory(prefix="client-") as directory:
                if failed := self.stage.network.run(edge, client, self._url(edge), Path(directory)):
                    yield f"{edge}: {failed}"

        return self._at_each([(edge, client) for edge in edges for client in (with_pip, with_npm, with_mvn)], run)


def with_pip(url: str, directory: Path) -> str:
    done = PIP.install(Workspace(directory), f"{url}/pypi/simple/", ["orchard"])
    return "" if done.installed == {"orchard": "1.0", "orchard-leaf": "2.0"} else done.output


def with_npm(url: str, directory: Path) -> str:
    done = NPM.project(directory, f"{url}/npm/", retries=0).install({"orchard": "^1.0.0"})
    return "" if done.installed == {"orchard@1.0.0", "@orchard/leaf@2.0.0"} else done.output


def with_mvn(url: str, directory: Path) -> str:
    done = MAVEN_39.resolve(JvmWorkspace(directory), f"{url}/maven/", ["org.example.orchard:lib:1.0"])
    return "" if done.resolved == ["org.example.orchard:core:1.0", "org.example.orchard:lib:1.0"] else done.told


@contextmanager
def region(directory: Path) -> Iterator[Region]:
    """The fleet with everything warm at all edges, most of which none of their clients ever asked for."""
    shelves = Shelves(directory / "shelves")
    with Stage.start(directory, History(), edges=EDGES, direct=("d",)) as stage:
        made = Region(stage, shelves)
        _publish_trees(stage, directory)
        assert made.install("a") == []
        listed = {kind: deque(shelves.release(kind, 1, of, "half", largest=0) for of in range(LISTED)) for kind in KINDS}
        for kind in KINDS:
            stage.registries.publish(*listed[kind])
        stage.registries.publish(*made.warm)
        with stage.client("a", "warm") as client:
            for release in made.warm:
                stage.network.run("a", client.install, release)
            for kind in KINDS:
                first = listed[kind].popleft()
                assert stage.network.run("a", client.page, first, PAGE_HEADERS[kind][0]).status == 200
        made.cold.listed = listed
        wait_until(lambda: all(_is_level(stage, edge) for edge in EDGES), 60, 0.2)
        yield made


def _publish_trees(stage: Stage, directory: Path) -> None:
    pypi, npm, maven = (stage.registries.fakes[kind] for kind in KINDS)
    assert isinstance(pypi, FakePyPI) and isinstance(npm, FakeNpm) and isinstance(maven, FakeMaven)
    wheels, packed, jars = Shelf(directory / "trees"), Tarballs(directory / "trees"), Jars(directory / "trees")
    pypi.publish(wheels.wheel("orchard", "1.0", requires=["orchard-leaf"], size=200_000), wheels.wheel("orchard-leaf", "2.0"))
    npm.publish(packed.pack("orchard", "1.0.0", dependencies={"@orchard/leaf": "^2.0.0"}, size=100_000))
    npm.publish(packed.pack("@orchard/leaf", "2.0.0"))
    publish_tools(maven, jars)
    maven.publish(jars.component("org.example.orchard:core:1.0"))
    maven.publish(jars.component("org.example.orchard:lib:1.0", requires=["org.example.orchard:core:1.0"], size=300_000))


def _is_level(stage: Stage, edge: str) -> bool:
    metrics = stage.network.run(edge, stage.edges[edge].metrics)
    return metrics["leeward_feed_lag_seconds"] == 0 and metrics["leeward_replication_wanted"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("registries", STATES)
def test_whatever_is_gone_what_was_synchronized_installs_and_the_rest_is_503_in_time(tmp_path: Path, registries: str) -> None:
    @in_own_network
    def run() -> None:
        wrong: list[str] = []
        with region(tmp_path) as here:
            began = time.monotonic()
            for origin, b in itertools.product(STATES, STATES):
                is_silent = here.be(registries, origin, b)
                told = f"registries {registries}, origin {origin}, edge {b}"
                found = here.check_warm()
                if is_silent:
                    # It takes three failures to believe that somebody is gone, of each who is asked in turn.
                    for _ in range(FIRST):
                        began_at = time.monotonic()
                        found += here.check_cold("first cold", SILENT_S, 2)
                        if time.monotonic() - began_at < UNREACHABLE_S:
                            break
                found += here.check_cold("cold", UNREACHABLE_S, 1)
                found += here.check_warm()
                if (registries, origin, b) in WITH_CLIENTS:
                    found += here.install(*here.serving)
                print(f"{time.monotonic() - began:5.1f} s  {told}: {len(found)} wrong", flush=True)
                wrong += [f"{told}: {each}" for each in found]
            here.be("alive", "alive", "alive")
            took_s = wait_until(lambda: not here.check_cold("recovered", SILENT_S, 1), RECOVERED_S, 1)
            print(f"all alive again: everything is to be had {took_s:.1f} s later")
            print(", ".join(f"{how}: {seconds:.2f} s at most" for how, seconds in here.slowest.items()))
        assert wrong == [], "\n".join(wrong[:40])

    run()
