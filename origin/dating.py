"""When policy last changed what is left of a page, remembered over restarts.

pnpm asks with the date it finds in the document: unless taking a version off, or giving it back, makes that later, it goes
on for ever with what it has. So no two changes share a date, and once policy has dated a page, what upstream changes in it is
dated here too: its own date may be one from before that.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping

from .catalog import Catalog
from .errors import Unavailable
from .model import Clock, Page, Verdict

log = logging.getLogger("leeward.dating")

type Dated = tuple[float, str]
"""When that was (whole UTC seconds, rounded up, 0 if never), and what was left of the page then."""


async def dated(
    catalog: Catalog,
    clock: Clock,
    page: Page,
    before: Dated | None,
    restrictions: Mapping[str, Verdict],
    revision: int,
    *,
    after: float = 0.0,
) -> Dated:
    """Date what is left of a page's ``revision`` once ``restrictions`` were taken off. ``before`` is None until it was looked up.

    ``after`` is the date that the page came with, if a node of ours has dated it already.
    """
    key = f"restricted {page.key}"
    if before is None:
        at, _, told = (await catalog.recall(key) or "0 ").partition(" ")
        before = float(at), told
    taken = _fingerprint(restrictions)
    if taken or before[0]:
        taken = f"{taken}/{revision}"
    if before[1] == taken:
        return before
    now = max(float(math.ceil(clock())), before[0] + 1, after + 1), taken
    try:
        await catalog.remember(key, f"{now[0]} {taken}")
    except Unavailable as error:
        log.warning("when policy changed a page was not remembered: %s", error, extra={"page": page.key})
    return now


def _fingerprint(restrictions: Mapping[str, Verdict]) -> str:
    """What was taken off a page, in a few characters: ``""`` if nothing."""
    if not restrictions:
        return ""
    told = "\n".join(f"{version} {verdict}" for version, verdict in sorted(restrictions.items()))
    return hashlib.sha256(told.encode()).hexdigest()[:20]
