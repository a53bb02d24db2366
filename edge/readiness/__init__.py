"""Whether what a lock file needs is here, and bringing it: one module per kind of registry, over two ways of looking.

``hands.py`` has the two: ``Look`` asks a twin of the node that has no source (``Service.alone``), so that its answers are those that
clients get when everything upstream is dead; ``Bring`` asks the node, waits until what was asked for is stored, and pins it. ``python.py``,
``npm.py`` and ``maven.py`` know what clients ask for of one package, and ask for that by hand. ``places.py`` knows which of this edge's
instances an address in a lock means. ``poms.py`` and ``builds.py`` read what says that more is needed: POMs, and what builds an sdist.

The commands are in ``edge/warm.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from origin.errors import Refused

from ..locks import Elsewhere, Needed
from ..locks.targets import Target

type Why = Literal["missing", "refused", "other"]
"""Not here; forbidden by policy; here, but not what the lock means."""

MORE = "there may be more than is listed, and edge warm finds it"
"""Ends the notes on what cannot be known while something else is missing."""


class Thing(msgspec.Struct, frozen=True, order=True):
    """Something that a client asks for: a file by its name, or a page by what it is called for people."""

    registry: str
    project: str
    version: str
    what: Literal["file", "page"]
    name: str


class Wish(msgspec.Struct, frozen=True, omit_defaults=True):
    """A package needed on some targets, by their places in ``Asked.targets``."""

    needed: Needed
    targets: tuple[int, ...]


class Build(msgspec.Struct, frozen=True):
    """A project of one's own that a client builds, and what it says that takes."""

    name: str
    requires: tuple[str, ...]


class Asked(msgspec.Struct, frozen=True, omit_defaults=True):
    """One lock as the command sends it to the node.

    ``unfit`` are targets that the lock is not for, each with the reason; ``fixed`` says that the targets were asked for by name, so that
    none may be left out. ``believed`` are hosts that lock files make other names of a registry, by kind, as in ``lockfiles.py``.
    """

    name: str
    format: str
    targets: tuple[Target, ...]
    wishes: tuple[Wish, ...]
    elsewhere: tuple[Elsewhere, ...] = ()
    unfit: dict[int, str] = {}
    builds: tuple[Build, ...] = ()
    notes: tuple[str, ...] = ()
    fixed: bool = False
    believed: dict[str, tuple[str, ...]] = {}


@dataclass(slots=True)
class Lack:
    """Something that a client would ask for and not get: why, and on which targets."""

    thing: Thing
    why: Why
    reason: str
    rule: str = ""
    targets: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Account:
    """What was found out about one lock. ``had`` are the things that are here, ``notes`` sentences for people."""

    asked: Asked
    lacks: dict[tuple[Thing, str], Lack] = field(default_factory=dict)
    unfit: dict[int, str] = field(default_factory=dict)
    elsewhere: dict[Elsewhere, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    had: set[Thing] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.unfit |= self.asked.unfit
        self.notes |= dict.fromkeys(self.asked.notes)
        self.elsewhere |= dict.fromkeys(self.asked.elsewhere)

    def lack(self, thing: Thing, why: Why, reason: str, targets: Iterable[int], rule: str = "") -> None:
        """Note that ``thing`` is not to be had on these targets."""
        self.lacks.setdefault((thing, reason), Lack(thing, why, reason, rule)).targets.update(targets)

    def fail(self, thing: Thing, error: Exception, targets: Iterable[int]) -> None:
        """Note what came of asking for ``thing``."""
        if isinstance(error, Refused):
            self.lack(thing, "refused", str(error), targets, error.verdict.rule)
        else:
            self.lack(thing, "missing", str(error), targets)

    def outside(self, name: str, where: str) -> None:
        """Note that something is to be had from where nothing here knows about."""
        self.elsewhere[Elsewhere(name, where, remote=True)] = None

    def strand(self, targets: Iterable[int], reason: str) -> None:
        """Note that the lock cannot be installed on these targets, whatever is here."""
        for target in targets:
            self.unfit.setdefault(target, reason)
