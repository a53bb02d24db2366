"""Recalls: what was found bad after it was served, as rules and refused digests; and an origin's verdicts read whole.

A recall names releases, which become rules like any other, and bytes, which are refused under whatever name. The digests are those
that the recall tells; which others the same bytes have is known to whoever holds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..api.wire import Recall, Verdicts
from ..model import ALLOW, Digest, Entry, Listing, Refuse, Verdict
from .rules import Rule, parse_match, parse_rule

_RULE = "recall-"


@dataclass(frozen=True, slots=True)
class Table:
    """``[[rules]]`` as they were written, and read."""

    written: Sequence[Mapping[str, object]] = ()
    rules: tuple[Rule, ...] = ()
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Central:
    """An origin's verdicts as they are judged by: its recalls' rules before its ``[[rules]]``, and the digests that are refused.

    ``faults`` are the sentences on what of them cannot be read; whatever can is in ``rules`` and ``digests`` all the same. ``table`` is
    what was read of the ``[[rules]]`` alone.
    """

    rules: tuple[Rule, ...] = ()
    digests: Mapping[Digest, Refuse] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    table: Table = Table()


def read(verdicts: Verdicts, before: Central | None = None) -> Central:
    """Read verdicts. Never raises: one rule that a newer origin has, and this node cannot read, must not keep a recall from counting.

    What was read ``before`` is not read again: a list of malware takes a second, in which a recall would hold up all that is served.
    """
    rules: list[Rule] = []
    digests: dict[Digest, Refuse] = {}
    faults: list[str] = []
    for recall in verdicts.recalls:
        refuse = refusal(recall)
        for purl in recall.purls:
            try:
                rules.append(Rule(refuse.rule, parse_match(purl), "refuse", refuse.reason))
            except ValueError as error:
                faults.append(f"recall {recall.id}: {error}")
        for text in recall.digests:
            try:
                digests.setdefault(parse_digest(text), refuse)
            except ValueError as error:
                faults.append(f"recall {recall.id}: {error}")
    table = before.table if before is not None and before.table.written == verdicts.rules else _read_table(verdicts.rules)
    return Central((*rules, *table.rules), digests, (*faults, *table.faults), table)


def _read_table(written: Sequence[Mapping[str, object]]) -> Table:
    rules: list[Rule] = []
    faults: list[str] = []
    for each in written:
        try:
            rules.append(parse_rule(each))
        except ValueError as error:
            faults.append(str(error))
    return Table(written, tuple(rules), tuple(faults))


def refusal(recall: Recall) -> Refuse:
    """What is said to whoever asks for something recalled."""
    reason = " ".join(recall.reason.split())
    return Refuse(f"recalled: {reason}" if reason else "recalled", f"{_RULE}{recall.id}")


def is_recall(verdict: Verdict) -> bool:
    """Whether a verdict is one of ``refusal``."""
    return isinstance(verdict, Refuse) and verdict.rule.startswith(_RULE)


def parse_digest(text: str) -> Digest:
    """A digest as recalls spell it: ``sha256-<hex>``. Raises ``ValueError``."""
    algorithm, dash, value = text.strip().rpartition("-")
    if not dash:
        raise ValueError(f"no digest: {text[:80]!r}; write sha256-<hex>")
    return Digest.parse(algorithm, value)


def judge_digests(refused: Mapping[Digest, Refuse], digests: Iterable[Digest]) -> Verdict:
    """Say whether bytes with these digests may be served."""
    if refused:
        for digest in digests:
            found = refused.get(digest)
            if found is not None:
                return found
    return ALLOW


def listed(refused: Mapping[Digest, Refuse], listing: Listing) -> dict[str, Verdict]:
    """The versions of a listing that have a file with a refused digest, by ``Entry.file.version``."""
    found: dict[str, Verdict] = {}
    if refused:
        for entry in listing.entries.values():
            verdict = judge_digests(refused, _told(entry))
            if verdict is not ALLOW:
                found.setdefault(entry.file.version, verdict)
    return found


def _told(entry: Entry) -> Sequence[Digest]:
    return (*entry.digests, *entry.sidecar) if entry.sidecar else entry.digests
