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
    seen: Identity,
) -> None:
    """Apply ``load(path)`` after each change of the file, until cancelled.

    ``seen`` is the identity of what is in force. A file that is gone or that ``load`` refuses (``ValueError``) leaves the rules as they
    are: dropping a refusal must be somebody's decision, not an accident of an editor.
    """
    while True:
        await trio.sleep(INTERVAL_S)
        now = identity(path)
        if now == seen:
            continue
        seen = now
        try:
            if now is None:
                raise ValueError(f"{path}: the file is gone")
            rules = load(path)
        except (ValueError, OSError) as error:
            metrics.rules_invalid.set(1)
            log.warning("the rules stay as they were: %s", error)
            continue
        apply(rules)
        metrics.rules_invalid.set(0)
        log.info("%d rules are in force", len(rules))
