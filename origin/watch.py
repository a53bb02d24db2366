"""The rules' file, watched: an edit is in force within a fraction of a second, an invalid one keeps the last good rules."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from .metrics import Metrics
from .policy.rules import Rule

log = logging.getLogger("leeward.rules")

INTERVAL_S = 0.2
"""How often the file's identity is looked at: one ``stat``. No notification is needed, and none is missed on network disks."""

type Identity = tuple[int, int, int] | None


def identity(path: Path) -> Identity:
    """What changes when a file is edited in place or replaced; None while there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


async def watch_rules(
    path: Path,
    load: Callable[[Path], Sequence[Rule]],
    apply: Callable[[Sequence[Rule]], None],
    metrics: Metrics,
    rules: Sequence[Rule],
    trouble: Callable[[str], None] = lambda _: None,
) -> None:
    """Apply ``load(path)`` after each change of the file, until cancelled. ``rules`` are those in force at the start.

    ``trouble`` is told why the file is not in force, ``""`` once it is.

    A file that is gone, empty or refused by ``load`` (``ValueError``) leaves the rules as they are: dropping a refusal must be somebody's
    decision, not an accident of an editor. For the same reason a file is read only once it has kept still for an interval: many
    programs write by truncating first, and a file cut between two tables is valid and has fewer rules.
    """
    in_force = tuple(rules)
    seen: Identity | None = None
    read: Identity | None = None
    existed = identity(path) is not None
    while True:
        now = identity(path)
        if now == seen and now != read:
            read = now
            try:
                found = _load(path, load, now)
            except (ValueError, OSError) as error:
                if existed:
                    metrics.rules_invalid.set(1)
                    trouble(str(error))
                    log.warning("the rules stay as they were: %s", error)
            else:
                existed = True
                metrics.rules_invalid.set(0)
                trouble("")
                if found is not None and found != in_force:
                    apply(found)
                    in_force = found
                    log.info("rules in force: %d", len(found))
                elif found is None:
                    read = None
        seen = now
        await trio.sleep(INTERVAL_S)


def _load(path: Path, load: Callable[[Path], Sequence[Rule]], before: Identity) -> tuple[Rule, ...] | None:
    """The rules in the file; None if it changed while it was read. Raises ``ValueError`` or ``OSError``."""
    if before is None:
        raise ValueError(f"{path}: the file is gone")
    if before[2] == 0:
        raise ValueError(f"{path}: the file is empty")
    rules = tuple(load(path))
    return rules if identity(path) == before else None
