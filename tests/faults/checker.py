"""Judges a recorded history, after Jepsen's manner: seven promises, each looked for in every record that could break it.

- *I1* every body is what was published under that name, or the range of it that was asked for
- *I2* nothing that was recalled is served once the edge has the recall in force; how much later at most is measured
- *I3* what an edge has applied is a beginning of the origin's ledger, never less than before, and all of it once the fleet has healed
- *I4* a page never goes back, on one edge, from one answer to a later one
- *I5* a blob that was held once is held, whole, and served ever after, whatever was killed
- *I6* a registry is asked for a file once by each node, but for what faults cost
- *I7* an answer that ends as its framing promised is whole

And what follows from them for whoever asks: nothing published is *absent* (404), and nothing is *refused* that nobody recalled.

``python -m tests.faults.checker FILE`` judges a history that a run left behind.
"""

from __future__ import annotations

import bisect
import math
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.history import (
    Asked,
    Bound,
    Call,
    Fault,
    Healed,
    History,
    Holding,
    InForce,
    Life,
    Line,
    Place,
    Published,
    Recalled,
    Verified,
)

WHAT = {
    "I1": "bodies equal what was published",
    "I2": "nothing recalled is served",
    "I3": "edges apply the ledger in order, and all of it",
    "I4": "pages never go back",
    "I5": "what was held is held and served",
    "I6": "registries are asked once",
    "I7": "nothing ends cleanly short",
    "absent": "nothing published is 404",
    "refused": "nothing is refused that nobody recalled",
}

SERVED = (200, 206, 304)

UNDER_WAY_S = 2.0
"""How long what was already on its way to a client may still arrive after the recall is in force; nothing asked for later is served."""

AFTERMATH_S = 6.0
"""How long after a fault its consequences may still show: a failure is remembered for some seconds."""

BETWEEN_NODES = ("cut", "refuse")
"""Faults that come between nodes, and not between a node and a registry."""

RETRIES = 2
"""How often a transfer that breaks off is taken up again."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken, in words, with the records that show it."""

    promise: str
    text: str
    records: tuple[object, ...] = ()

    def __str__(self) -> str:
        return f"{self.promise}: {self.text}"


@dataclass
class Report:
    """What the checker found. ``looked_at`` counts the occasions on which each promise could have been broken.

    Times are in seconds: ``last_served`` how much later than it was in force something recalled still arrived, at most;
    ``acknowledging`` from each recall's command to each edge's having it in force; ``propagation`` from each line's being in the ledger
    to its being applied at each edge, ``undisturbed`` those of them during which no fault was near.
    """

    violations: list[Violation] = field(default_factory=list)
    looked_at: Counter[str] = field(default_factory=Counter)
    last_served: float = 0.0
    acknowledging: list[float] = field(default_factory=list)
    propagation: list[float] = field(default_factory=list)
    undisturbed: list[float] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def found(self, promise: str, text: str, *records: object) -> None:
        self.violations.append(Violation(promise, text, records))

    def table(self) -> str:
        """Counts and measures, for people."""
        broken = Counter(violation.promise for violation in self.violations)
        rows = [f"{promise:8} {what:45} {self.looked_at[promise]:7} {broken[promise]:7}" for promise, what in WHAT.items()]
        lines = [f"{'':8} {'promise':45} {'checked':>7} {'broken':>7}", *rows, ""]
        lines += [
            f"calls    {_counted(self.calls)}",
            f"faults   {_counted(self.faults)}",
            f"T        {self.last_served:.3f} s from a recall's being in force at an edge to the last byte of it there",
            f"recall   {spread(self.acknowledging)} from the command to an edge's having it in force",
            f"feed     {spread(self.propagation)} from a line's being written to its being applied at an edge",
            f"         {spread(self.undisturbed)} of them with no fault near",
        ]
        return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Median, 99th percentile and greatest, in seconds."""
    if not values:
        return "-"
    return (
        f"p50 {statistics.median(values):.3f} s, p99 {percentile(values, 99):.3f} s, at most {max(values):.3f} s ({len(values)})"
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that ``percent`` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def check(history: History) -> Report:
    """Judge a history. Pure: the same records, the same report."""
    report = Report()
    facts = _Facts(history)
    for call in facts.calls:
        report.calls[_outcome(call)] += 1
    for fault in facts.faults:
        report.faults[fault.kind] += 1
    for promise in (
        _bodies,
        _whole,
        _recalls,
        _order,
        _equal,
        _pages,
        _holdings,
        _held_is_served,
        _upstream,
        _absences,
        _measure_propagation,
    ):
        promise(facts, report)
    return report


class _Facts:
    """The records, sorted and looked up."""

    def __init__(self, history: History) -> None:
        self.published = {record.key: record for record in history.of(Published)}
        self.calls = sorted(history.of(Call), key=lambda call: call.invoked)
        self.recalls = sorted(history.of(Recalled), key=lambda record: record.invoked)
        self.in_force = sorted(history.of(InForce), key=lambda record: record.at)
        self.lines = history.of(Line)
        self.places = sorted(history.of(Place), key=lambda record: record.at)
        self.holdings = sorted(history.of(Holding), key=lambda record: record.at)
        self.lives = history.of(Life)
        self.faults = history.of(Fault)
        self.asked = sorted(history.of(Asked), key=lambda record: record.at)
        self.bound = {record.node: record for record in history.of(Bound)}
        self.verified = history.of(Verified)
        self.healed = min((record.at for record in history.of(Healed)), default=None)
        self.edges = sorted({call.edge for call in self.calls} | {place.edge for place in self.places})
        self._span_of: dict[str, list[tuple[float, float]]] = {}
        self.releases: dict[str, dict[str, list[Published]]] = defaultdict(lambda: defaultdict(list))
        self.of_project: dict[str, list[Published]] = defaultdict(list)
        for record in self.published.values():
            self.of_project[record.project].append(record)
            self.releases[record.project][record.version].append(record)

    def disturbed(self, whom: str, began: float, ended: float, but: Sequence[str] = ()) -> bool:
        """Whether a fault that touched ``whom`` was under way, or just over, at any time from ``began`` to ``ended``.

        Faults of the kinds in ``but`` do not count.
        """
        return any(whom in fault.whom and fault.began <= ended and began <= fault.ended + AFTERMATH_S for fault in self.faults)

    def withdrawn(self, key: str, began: float, ended: float) -> bool:
        """Whether ``key`` may have been recalled at any time from ``began`` to ``ended``, seen from some edge.

        An edge that was away hears late of the end of a recall too: it counts until every edge is known to be without it.
        """
        return any(start <= ended and began <= stop for target in self._targets(key) for start, stop in self._spans(target))

    def ever_recalled(self, project: str, version: str) -> bool:
        """Whether any file of the release ever was."""
        return any(one.key in (*recall.keys, *recall.also) for one in self.releases[project][version] for recall in self.recalls)

    def _targets(self, key: str) -> set[str]:
        return {recall.target for recall in self.recalls if key in (*recall.keys, *recall.also)}

    def _spans(self, target: str) -> list[tuple[float, float]]:
        """From when until when ``target`` may be in force somewhere."""
        if target not in self._span_of:
            self._span_of[target] = self._measure(target)
        return self._span_of[target]

    def _measure(self, target: str) -> list[tuple[float, float]]:
        spans: list[tuple[float, float]] = []
        began: float | None = None
        for recall in self.recalls:
            if recall.target != target:
                continue
            if not recall.undo:
                began = recall.invoked if began is None else began
            elif began is not None and recall.succeeded:
                spans.append((began, self._gone_everywhere(target, recall.invoked)))
                began = None
        if began is not None:
            spans.append((began, math.inf))
        return spans

    def _gone_everywhere(self, target: str, after: float) -> float:
        """When the last edge was first seen without ``target`` after ``after``, and with what it was about on its page again.

        A page is asked for anew only when somebody wants it: until then what is not on it is not given.
        """
        about = {key for recall in self.recalls if recall.target == target for key in (*recall.keys, *recall.also)}
        releases = {(self.published[key].project, self.published[key].version) for key in about}
        last = after
        for edge in self.edges:
            without = [one.at for one in self.in_force if one.edge == edge and one.at > after and target not in one.targets]
            last = max(last, min(without, default=math.inf))
            for project, version in releases:
                pages = [call for call in self.calls if (call.edge, call.project) == (edge, project) and call.invoked > after]
                listed = [call.completed for call in pages if version in call.releases]
                last = max(last, min(listed, default=math.inf))
        return last


# ---- I1 and I7: what came ---------------------------------------------------------------------------------------------


def _bodies(facts: _Facts, report: Report) -> None:
    for call in facts.calls:
        if call.project:
            for key, digest in call.listed.items():
                report.looked_at["I1"] += 1
                published = facts.published.get(key)
                if published is None:
                    report.found("I1", f"{call.edge} lists {key}, which nobody published", call)
                elif digest and digest != published.sha256:
                    report.found("I1", f"{call.edge} lists {key} with another digest than it was published with", call)
        elif call.status in (200, 206) and call.clean and call.method != "HEAD":
            report.looked_at["I1"] += 1
            if call.body != call.expected:
                report.found("I1", f"{call.edge} sent other bytes as {_asked_for(call)}", call)


def _whole(facts: _Facts, report: Report) -> None:
    for call in facts.calls:
        if call.status not in (200, 206):
            continue
        report.looked_at["I7"] += 1
        if call.project:
            if call.clean and not call.readable:
                report.found("I7", f"{call.edge} sent a page of {call.project} that ends early, cleanly", call)
            continue
        size = facts.published[call.key].size
        stop = size if call.stop is None or call.status == 200 else min(call.stop, size)
        promised = stop - (call.start if call.status == 206 else 0)
        if call.length is None:
            report.found("I7", f"{call.edge} sent {call.key} without its length", call)
        elif call.length != promised:
            report.found("I7", f"{call.edge} promised {call.length} bytes of {promised} as {_asked_for(call)}", call)
        elif call.clean and call.method != "HEAD" and call.size != promised:
            report.found("I7", f"{call.edge} ended cleanly after {call.size} bytes of {promised} of {_asked_for(call)}", call)


# ---- I2: recalls ------------------------------------------------------------------------------------------------------


def _recalls(facts: _Facts, report: Report) -> None:
    for number, recall in enumerate(facts.recalls):
        if recall.undo:
            continue
        undone = min(
            (later.invoked for later in facts.recalls[number + 1 :] if later.undo and later.target == recall.target),
            default=math.inf,
        )
        for edge in facts.edges:
            since = _in_force_since(facts, recall, edge, undone)
            if since is None:
                continue
            report.acknowledging.append(since - recall.invoked)
            for call in facts.calls:
                if call.edge == edge and since < call.completed <= undone and (what := _serves(call, recall)):
                    report.last_served = max(report.last_served, call.completed - since)
                    late_s = call.invoked - since
                    if late_s > 0:
                        report.found(
                            "I2", f"{edge} served {what}, asked for {late_s:.3f} s after its recall was in force", recall, call
                        )
                    elif call.completed - since > UNDER_WAY_S:
                        passed_s = call.completed - since
                        report.found(
                            "I2", f"{edge} still sent {what} {passed_s:.3f} s after its recall was in force", recall, call
                        )
            report.looked_at["I2"] += sum(
                call.edge == edge and since < call.invoked and call.completed <= undone and _is_about(call, recall)
                for call in facts.calls
            )


def _in_force_since(facts: _Facts, recall: Recalled, edge: str, undone: float) -> float | None:
    """When ``edge`` is first known to have had the recall in force, by its own store or by its word to the origin."""
    known = [
        record.at
        for record in facts.in_force
        if record.edge == edge and recall.target in record.targets and recall.invoked <= record.at < undone
    ]
    if edge in recall.acknowledged and recall.completed < undone:
        known.append(recall.completed)
    return min(known, default=None)


def _is_about(call: Call, recall: Recalled) -> bool:
    return call.key in recall.keys or any(project == call.project for project, _ in recall.releases)


def _serves(call: Call, recall: Recalled) -> str:
    """What of the recalled an answer serves, in words; empty if nothing."""
    if call.status not in SERVED:
        return ""
    if call.key in recall.keys:
        # Bytes that nobody had under a name are known by their digest once they are here, and their end is kept back then.
        is_given = call.clean or bool(recall.releases)
        return f"{call.key} ({call.method}, {call.status})" if is_given else ""
    if call.project and call.status == 200:
        return next(
            (
                f"{project} {version} on its page"
                for project, version in recall.releases
                if project == call.project and version in call.releases
            ),
            "",
        )
    return ""


# ---- I3: the ledger ---------------------------------------------------------------------------------------------------


def _order(facts: _Facts, report: Report) -> None:
    chain: dict[int, Line] = {}
    files: dict[tuple[str, str], int] = {}
    for line in facts.lines:
        report.looked_at["I3"] += 1
        before = chain.setdefault(line.serial, line)
        if before.hash != line.hash:
            report.found("I3", f"line {line.serial} of the ledger was rewritten", before, line)
        if line.digest and files.setdefault((line.kind, line.resource), line.serial) != line.serial:
            first = files[line.kind, line.resource]
            report.found("I3", f"{line.resource} stands in the ledger twice, as {first} and {line.serial}", line)
    if chain and sorted(chain) != list(range(min(chain), max(chain) + 1)):
        report.found("I3", "the ledger has gaps")
    last: dict[str, Place] = {}
    for place in facts.places:
        report.looked_at["I3"] += 1
        before_place = last.get(place.edge)
        if before_place is not None and place.epoch == before_place.epoch and place.serial < before_place.serial:
            report.found("I3", f"{place.edge} went back from line {before_place.serial} to {place.serial}", before_place, place)
        here = chain.get(place.serial)
        if here is not None and here.hash != place.hash:
            report.found("I3", f"what {place.edge} applied up to line {place.serial} is not what the origin wrote", here, place)
        elif here is None and chain and place.serial > max(chain):
            report.found("I3", f"{place.edge} applied line {place.serial}, which the origin has not written", place)
        last[place.edge] = place
    if facts.healed is None or not chain:
        return
    head = max((line.serial for line in chain.values() if line.at <= facts.healed), default=0)
    for edge, place in last.items():
        report.looked_at["I3"] += 1
        if place.serial < head:
            report.found("I3", f"{edge} stayed at line {place.serial} of {head}", place)


def _equal(facts: _Facts, report: Report) -> None:
    """Whether every edge is the origin's equal at the end: the same names, the same bytes, the same pages."""
    origin = facts.bound.get("origin")
    for node, bound in facts.bound.items():
        report.looked_at["I3"] += 1
        if origin is None or node == "origin":
            continue
        # What is recalled goes nowhere any more.
        at = bound.at
        kept_back = {one.sha256 for one in facts.published.values() if facts.withdrawn(one.key, at, at)}
        for name in sorted(origin.names.keys() | bound.names.keys()):
            here, there = bound.names.get(name), origin.names.get(name)
            if (here or there) in kept_back:
                continue
            if here is None:
                report.found("I3", f"{name} is at the origin and never came to {node}")
            elif there is None:
                report.found("I3", f"{name} is at {node} and never came to the origin")
            elif here != there:
                report.found("I3", f"{name} is bound to one digest at {node} and to another at the origin")
    for record in facts.verified:
        report.looked_at["I3"] += 1
        if not record.succeeded:
            report.found("I3", f"{record.node} does not verify: {record.told}", record)
    if facts.healed is None:
        return
    # A page once everything is over: all that was published and not recalled.
    ends = {(call.edge, call.project): call for call in facts.calls if call.project and call.invoked >= facts.healed}
    for (edge, project), call in ends.items():
        report.looked_at["I3"] += 1
        wanted = {
            version
            for version, files in facts.releases[project].items()
            if not any(facts.withdrawn(one.key, call.invoked, call.completed) for one in files)
        }
        if call.status != 200 and wanted:
            report.found("I3", f"{edge} has no page of {project} after the faults ({call.status} {call.error})", call)
        elif missing := wanted - set(call.releases):
            report.found("I3", f"{edge} lost {project} {', '.join(sorted(missing))}", call)


# ---- I4: pages --------------------------------------------------------------------------------------------------------


def _pages(facts: _Facts, report: Report) -> None:
    by_page: dict[tuple[str, str], list[Call]] = defaultdict(list)
    for call in facts.calls:
        if call.project and call.status == 200 and call.clean and call.readable:
            by_page[call.edge, call.project].append(call)
    for (edge, project), calls in by_page.items():
        steady = {version for version in facts.releases[project] if not facts.ever_recalled(project, version)}
        ended = sorted(calls, key=lambda call: call.completed)
        ends = [call.completed for call in ended]
        serials = _running_max(ended, [-1 if call.serial is None else call.serial for call in ended])
        newest = [_newest(call, steady, facts.releases[project]) for call in ended]
        numbers = _running_max(ended, newest)
        for call in calls:
            # Only what had ended before this was asked for comes before it.
            before = bisect.bisect_left(ends, call.invoked)
            if not before:
                continue
            report.looked_at["I4"] += 1
            serial, earlier = serials[before - 1]
            if call.serial is not None and call.serial < serial:
                report.found("I4", f"{edge} went back from serial {serial} of {project} to {call.serial}", earlier, call)
            number, earlier = numbers[before - 1]
            here = _newest(call, steady, facts.releases[project])
            if here < number:
                report.found("I4", f"{edge} went back from release {number} of {project} to {here}", earlier, call)


def _newest(call: Call, steady: set[str], releases: Mapping[str, Sequence[Published]]) -> int:
    """The number of the newest release on a page that was never recalled; -1 if there is none."""
    return max((releases[version][0].number for version in call.releases if version in steady), default=-1)


def _running_max(calls: Sequence[Call], values: Sequence[int]) -> list[tuple[int, Call]]:
    """For each call the greatest value up to it, and the call that has it."""
    best: list[tuple[int, Call]] = []
    for call, value in zip(calls, values, strict=True):
        best.append((value, call) if not best or value > best[-1][0] else best[-1])
    return best


# ---- I5: what is held -------------------------------------------------------------------------------------------------


def _holdings(facts: _Facts, report: Report) -> None:
    kills = sum(life.how == "killed" for life in facts.lives)
    for record in facts.holdings:
        report.looked_at["I5"] += len(record.new)
        for digest in record.gone:
            report.found("I5", f"{record.node} held {digest[:12]} and no longer does, after {kills} kills in all", record)
    held: dict[str, set[str]] = defaultdict(set)
    for record in facts.holdings:
        held[record.node] |= set(record.new)
    for node, digests in held.items():
        bound = facts.bound.get(node)
        if bound is not None:
            for digest in sorted(digests - set(bound.whole)):
                report.found("I5", f"{node} held {digest[:12]}, which is not there whole at the end")


def _held_is_served(facts: _Facts, report: Report) -> None:
    """What came from an edge's store once comes from it ever after: no fault of others is an excuse."""
    first: dict[tuple[str, str], float] = {}
    for call in facts.calls:
        if call.key and call.held and call.status in SERVED and call.clean:
            here = (call.edge, call.key)
            first[here] = min(first.get(here, math.inf), call.completed)
    for call in facts.calls:
        if call.invoked > first.get((call.edge, call.key), math.inf) and call.status:
            report.looked_at["I5"] += 1
            if call.status in (*SERVED, 416) or facts.withdrawn(call.key, call.invoked, call.completed):
                continue
            report.found("I5", f"{call.edge} held {call.key} and answered {call.status} {call.error}", call)


# ---- I6: upstream -----------------------------------------------------------------------------------------------------


def _upstream(facts: _Facts, report: Report) -> None:
    """A node asks for a file once in its lifetime, and once more for each time that a fault may have cost it what came."""
    lives: dict[str, list[Life]] = defaultdict(list)
    for life in facts.lives:
        lives[life.node].append(life)
    whole: dict[tuple[str, str], Asked] = {}
    asked: Counter[tuple[str, int, str]] = Counter()
    for record in facts.asked:
        report.looked_at["I6"] += 1
        here = (record.by, record.key)
        number = next((life.number for life in lives[record.by] if life.began <= record.at <= (life.ended or math.inf)), 0)
        asked[record.by, number, record.key] += 1
        # What is found to be recalled is not stored, and so may be fetched again.
        if record.status not in (200, 206) or not record.complete or facts.withdrawn(record.key, record.at, record.at):
            continue
        if here in whole:
            report.found("I6", f"{record.by} took {record.key} from its registry again, undisturbed", whole[here], record)
        registry = record.key.partition("/")[0]
        if not any(facts.disturbed(whom, record.at - 1, record.at + 3, BETWEEN_NODES) for whom in (record.by, registry)):
            whole.setdefault(here, record)
    for (by, number, key), count in asked.items():
        touching = [
            fault for fault in facts.faults if {by, key.partition("/")[0]} & set(fault.whom) and fault.kind not in BETWEEN_NODES
        ]
        for each in lives[by]:
            if each.number == number:
                ended = math.inf if each.ended is None else each.ended
                touching = [one for one in touching if one.began <= ended and each.began <= one.ended + AFTERMATH_S]
        # In an outage each client that comes back begins a new fetch once the last failure is forgotten, a second later at the soonest.
        lasted_s = sum(fault.ended + AFTERMATH_S - fault.began for fault in touching)
        permitted = (1 + RETRIES) * (1 + len(touching)) + lasted_s
        if count > permitted:
            report.found("I6", f"{by} asked for {key} {count} times in one life; {permitted:.0f} were permitted")


# ---- what clients must never be told ----------------------------------------------------------------------------------


def _absences(facts: _Facts, report: Report) -> None:
    offered = _first_offered(facts)
    for call in facts.calls:
        about = [facts.published[call.key]] if call.key else facts.of_project[call.project]
        if not call.status or not any(published.at < call.invoked for published in about):
            continue
        report.looked_at["absent"] += 1
        if call.status in (404, 410):
            report.found("absent", f"{call.edge} said {call.status} of {call.key or call.project}, which is published", call)
        # Where pages list files, one that no page of this edge has listed yet is not its to give.
        if call.key and not call.key.startswith("maven/"):
            listed = offered.get((call.edge, call.key.removesuffix(".metadata")), math.inf)
            if call.invoked <= listed:
                continue
        report.looked_at["refused"] += 1
        if call.status == 403 and not any(facts.withdrawn(one.key, call.invoked, call.completed) for one in about):
            report.found("refused", f"{call.edge} refused {call.key or call.project}, which nobody recalled: {call.error}", call)


def _first_offered(facts: _Facts) -> Mapping[tuple[str, str], float]:
    """When a page of an edge had first listed a file."""
    offered: dict[tuple[str, str], float] = {}
    for call in facts.calls:
        if call.clean:
            for key in call.listed:
                offered[call.edge, key] = min(call.completed, offered.get((call.edge, key), math.inf))
    return offered


# ---- measures ---------------------------------------------------------------------------------------------------------


def _measure_propagation(facts: _Facts, report: Report) -> None:
    written = {line.serial: line.at for line in sorted(facts.lines, key=lambda line: -line.at)}
    for edge in facts.edges:
        reached = 0
        for place in facts.places:
            if place.edge != edge:
                continue
            # Where it was when first looked at says nothing of when it got there.
            for serial in range(reached + 1, place.serial + 1) if reached else ():
                if serial in written:
                    took_s = max(0.0, place.at - written[serial])
                    report.propagation.append(took_s)
                    if not any(facts.disturbed(whom, written[serial], place.at) for whom in (edge, "origin")):
                        report.undisturbed.append(took_s)
            reached = max(reached, place.serial)


def _asked_for(call: Call) -> str:
    if call.status == 206:
        return f"{call.key} [{call.start}:{'' if call.stop is None else call.stop}]"
    return call.key


def _outcome(call: Call) -> str:
    if not call.status:
        return "no answer"
    return f"{call.status}" if call.clean else f"{call.status} cut off"


def _counted(counter: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counter.items())) or "none"


def main(arguments: Iterable[str]) -> int:
    """Judge the files named; 1 if a promise was broken."""
    broken = False
    for name in arguments:
        report = check(History.read(Path(name)))
        print(report.table())
        for violation in report.violations:
            print(violation)
        broken |= bool(report.violations)
    return int(broken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
