"""What goes wrong with a fleet, and when: a schedule made from a seed alone, and the one who carries it out.

A schedule is data: the same seed, the same acts at the same seconds. How the processes interleave is the machine's, so a replay is of
the same faults, not of the same run. All faults have ended when a schedule has.
"""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import kill as send_signal
from pathlib import Path
from typing import Protocol

from tests.fakes import Fake
from tests.faults import sampling
from tests.faults.history import Fault, History, Life, Verified, now
from tests.faults.network import Network

ORIGIN = "origin"

NODE_FAULTS: tuple[str, ...] = ("kill", "pause", "pull")
LINK_FAULTS: tuple[str, ...] = ("cut", "refuse")
REGISTRY_FAULTS: tuple[str, ...] = ("registry dead", "registry silent", "registry cut off", "registry torn")

PAUSE_S = (1.0, 3.0)
"""Between the beginnings of two faults."""

LASTS_S = (0.5, 7.0)

RECALL_S = (4.0, 8.0)
"""Between two recalls."""

STARTS = 10
"""How often a node is started that cannot be: commands open the store of a node that does not run, for some seconds."""

UNDO_S = (3.0, 9.0)
"""From a recall to its being taken back, where it is."""


@dataclass(frozen=True, slots=True)
class Act:
    """Something that happens ``at_s`` seconds after the beginning, for ``lasts_s``. ``whom`` names nodes and registries.

    A ``publish`` is of release ``number`` of project ``project`` of the registry ``whom[0]``. A ``recall`` is of the release that was
    published as number ``project`` of all, ``by_digest`` or by name; it is taken back after ``lasts_s``, if that is more than 0.
    """

    at_s: float
    kind: str
    whom: tuple[str, ...] = ()
    lasts_s: float = 0.0
    project: int = 0
    number: int = 0
    by_digest: bool = False

    def __str__(self) -> str:
        what = f" {self.project}.{self.number}" if self.kind in {"publish", "recall"} else ""
        return f"{self.at_s:6.1f} s  {self.kind}{what} {' '.join(self.whom)}" + (
            f" for {self.lasts_s:.1f} s" if self.lasts_s else ""
        )


def schedule(seed: int, seconds: float, edges: Sequence[str], registries: Sequence[str], projects: int) -> list[Act]:
    """What happens in ``seconds``, in order. Every project has its release 0 before; no fault lasts beyond the end."""
    acts = [
        *_faults(random.Random(f"{seed} faults"), seconds, edges, registries),
        *_publishing(random.Random(f"{seed} publishing"), seconds, registries, projects),
    ]
    return sorted([*acts, *_recalls(random.Random(f"{seed} recalls"), seconds, acts, len(registries) * projects)], key=_when)


def _when(act: Act) -> float:
    return act.at_s


def _faults(draw: random.Random, seconds: float, edges: Sequence[str], registries: Sequence[str]) -> list[Act]:
    """One after the other, often several at once, never the same thing twice at once."""
    acts: list[Act] = []
    busy: dict[frozenset[str], float] = {}
    at = draw.uniform(*PAUSE_S)
    while at < seconds - LASTS_S[0]:
        kind = draw.choices((*NODE_FAULTS, *LINK_FAULTS, *REGISTRY_FAULTS), weights=(5, 3, 2, 4, 2, 1, 1, 1, 1))[0]
        lasts = min(draw.uniform(*LASTS_S), seconds - at)
        if kind in NODE_FAULTS:
            whom: tuple[str, ...] = (draw.choice((ORIGIN, *edges)),)
        elif kind in LINK_FAULTS:
            whom = (draw.choice(list(edges)), ORIGIN)
        else:
            whom = (draw.choice(list(registries)),)
        if busy.get(frozenset(whom), 0.0) < at:
            acts.append(Act(at, kind, whom, lasts))
            busy[frozenset(whom)] = at + lasts
        at += draw.uniform(*PAUSE_S)
    return acts


def _publishing(draw: random.Random, seconds: float, registries: Sequence[str], projects: int) -> list[Act]:
    acts = []
    last: dict[tuple[str, int], int] = {}
    at = draw.uniform(0.5, 1.5)
    while at < seconds:
        registry, project = draw.choice(list(registries)), draw.randrange(projects)
        last[registry, project] = last.get((registry, project), 0) + 1
        acts.append(Act(at, "publish", (registry,), project=project, number=last[registry, project]))
        at += draw.uniform(0.5, 1.5)
    return acts


def _recalls(draw: random.Random, seconds: float, acts: Sequence[Act], first: int) -> list[Act]:
    """Of what has been published for some seconds, each release once at most."""
    recalls: list[Act] = []
    taken: set[int] = set()
    at = draw.uniform(*RECALL_S)
    while at < seconds:
        there = first + sum(act.kind == "publish" and act.at_s < at - 2 for act in acts)
        free = [number for number in range(there) if number not in taken]
        if free:
            chosen = draw.choice(free[-20:])
            taken.add(chosen)
            undone = draw.uniform(*UNDO_S) if draw.random() < 0.6 else 0.0
            recalls.append(Act(at, "recall", (ORIGIN,), undone, project=chosen, by_digest=draw.random() < 0.3))
        at += draw.uniform(*RECALL_S)
    return recalls


# ---- carrying it out -------------------------------------------------------------------------------------------------


class Process(Protocol):
    """A node, as ``tests/fleet.py`` has them."""

    @property
    def pid(self) -> int: ...

    @property
    def data(self) -> Path: ...

    def start(self) -> object: ...

    def kill(self) -> None: ...


class Node:
    """A node's process in its namespace, and the count of its lives."""

    def __init__(self, name: str, process: Process, network: Network, history: History) -> None:
        self.name = name
        self.process = process
        self.life = 1
        self.lock = threading.Lock()
        self._network = network
        self._history = history
        self._began = now()

    def start(self) -> None:
        """Start it, and return once it is ready. It is started again, as its supervisor would, if a command has its data directory."""
        with self.lock:
            for attempt in range(1, STARTS + 1):
                self._began = now()
                try:
                    self._network.run(self.name, self.process.start)
                except RuntimeError as error:
                    if "is in use by process" not in str(error) or attempt == STARTS:
                        raise
                    self.process.kill()
                    time.sleep(1)
                else:
                    return

    def kill(self) -> None:
        """SIGKILL, and a look at what it leaves."""
        with self.lock:
            self.process.kill()
            self._history.add(Life(node=self.name, number=self.life, began=self._began, ended=now(), how="killed"))
            self.life += 1
            missing = sampling.missing(self.process.data)
            told = f"killed, its catalogue names blobs that are not there: {missing}" if missing else ""
            self._history.add(Verified(at=now(), node=self.name, succeeded=not missing, told=told))

    def signal(self, number: int) -> None:
        with self.lock:
            send_signal(self.process.pid, number)

    def end(self) -> None:
        """Write down the life that is going on; the process is left as it is."""
        self._history.add(Life(node=self.name, number=self.life, began=self._began))


class Nemesis:
    """Does what a schedule says to the nodes, the network and the registries, and writes down when.

    ``publish`` and ``recall`` are called for acts of those kinds, in threads of their own. What fails in any thread is raised by ``run``.
    """

    def __init__(
        self,
        nodes: Mapping[str, Node],
        network: Network,
        fakes: Mapping[str, Fake],
        history: History,
        publish: Callable[[Act], None],
        recall: Callable[[Act], None],
        told: Callable[[Act], None] = lambda _: None,
    ) -> None:
        self._nodes = dict(nodes)
        self._network = network
        self._fakes = dict(fakes)
        self._history = history
        self._publish = publish
        self._recall = recall
        self._told = told
        self._failed: list[BaseException] = []
        self._busy: defaultdict[tuple[str, ...], threading.Lock] = defaultdict(threading.Lock)
        self._over = threading.Event()

    def run(self, acts: Sequence[Act]) -> None:
        """Carry out all of it; returns when every fault is over and every node runs again."""
        began = now()
        threads = []
        for act in acts:
            self._over.wait(max(0.0, began + act.at_s - now()))
            if self._failed:
                break
            self._told(act)
            threads.append(threading.Thread(target=self._carry_out, args=(act,)))
            threads[-1].start()
        for thread in threads:
            thread.join()
        self._network.mend_all()
        if self._failed:
            raise self._failed[0]

    def _carry_out(self, act: Act) -> None:
        try:
            match act.kind:
                case "publish":
                    self._publish(act)
                case "recall":
                    self._recall(act)
                case _:
                    # A node that is slow to come back is not what was scheduled any more: it is left in peace.
                    if self._busy[act.whom].acquire(blocking=False):
                        try:
                            began = now()
                            with self._fault(act):
                                self._over.wait(act.lasts_s)
                            self._history.add(Fault(kind=act.kind, began=began, ended=now(), whom=act.whom))
                        finally:
                            self._busy[act.whom].release()
        except BaseException as error:  # noqa: BLE001 -- handed over to run
            self._failed.append(error)

    @contextlib.contextmanager
    def _fault(self, act: Act) -> Iterator[None]:
        """One fault, for as long as the block lasts."""
        if act.kind in REGISTRY_FAULTS:
            with self._registry_fault(act.kind, act.whom[0]):
                yield
            return
        node = self._nodes[act.whom[0]]
        match act.kind:
            case "kill":
                node.kill()
                yield
                node.start()
            case "pause":
                node.signal(signal.SIGSTOP)
                yield
                node.signal(signal.SIGCONT)
            case "pull":
                self._network.pull(node.name)
                yield
                self._network.plug(node.name)
            case kind:
                one, other = act.whom
                self._network.cut(one, other, "drop" if kind == "cut" else "refuse")
                yield
                self._network.mend(one, other)

    @contextlib.contextmanager
    def _registry_fault(self, kind: str, registry: str) -> Iterator[None]:
        fake = self._fakes[registry]
        match kind:
            case "registry dead":
                fake.refuse()
                yield
                fake.listen_again()
            case "registry silent":
                number = fake.silence()
                yield
                fake.behave(number)
            case "registry torn":
                number = fake.misbehave("*", truncate=300)
                yield
                fake.behave(number)
            case _:
                for node in self._nodes:
                    self._network.cut(node, registry)
                yield
                for node in self._nodes:
                    self._network.mend(node, registry)
