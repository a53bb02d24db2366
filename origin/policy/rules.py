"""Rules: parsed from settings, matched against releases, judged."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, cast

from ..model import ALLOW, Listing, Refuse, Verdict
from ..registries import maven_paths, maven_versions, npm_names, pypi_names
from . import purls

type Comparator = Literal["==", "!=", "<", "<=", ">", ">="]

_KEYS = ("name", "match", "action", "reason")
_COMPARISON = re.compile(r"(===?|!=|<=|>=|<|>|=)?\s*(.*)", re.DOTALL)
# Ranges as Maven's own files write them, ``[1,2)``, among them: they would match nothing.
_UNSUPPORTED = re.compile(r"[~^*|\s,()\[\]]")


LIMIT_SPELLED = 300_000

LIMIT_INDEXES = 8
"""Of how many sets of rules, and kinds, it is remembered where the rules on a project stand."""

# The kinds whose order and spelling are known while a rule is parsed, before there are registries: what places a version that a rule
# names, and what spells a name that a rule has.
_WORDS: Mapping[str, tuple[Callable[[str], object | None], Callable[[str], str]]] = {
    "pypi": (pypi_names.parse_version, str),
    "npm": (npm_names.version_key, str),
    "maven": (maven_versions.bound, maven_paths.pattern),
}


class Versions(Protocol):
    """What of a registry judging needs; ``registries.Registry`` has it."""

    @property
    def kind(self) -> str: ...
    def version_key(self, version: str) -> object | None: ...
    def same_but_local(self, version: str) -> str: ...
    def normalise(self, project: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Match:
    """Which releases a rule is about: a kind, a name in which ``*`` is any run of characters, comparisons that must all hold.

    No comparisons mean every version.
    """

    kind: str
    name: str
    spec: tuple[tuple[Comparator, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One of ``[[rules]]``. ``reason`` is the operator's sentence for whoever is refused."""

    name: str
    match: Match
    action: Literal["refuse"]
    reason: str


def parse_rule(table: Mapping[str, Any]) -> Rule:
    """Make a rule of its settings. Raises ``ValueError`` with a sentence that names the rule and what is wrong with it."""
    name = table.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ValueError("a rule has no name")
    if unknown := sorted(set(table) - set(_KEYS)):
        raise ValueError(f"rule {name!r} has an unknown key {unknown[0]!r}; known: {', '.join(_KEYS)}")
    match = table.get("match")
    if not isinstance(match, str):
        raise ValueError(  # noqa: TRY004 - a setting from outside, not a programmer's mistake
            f'rule {name!r} has no match, such as match = "pkg:pypi/evil@>=1,<2"'
        )
    action = table.get("action")
    if action != "refuse":
        raise ValueError(f"rule {name!r} has the unknown action {action!r}; known: refuse")
    reason = table.get("reason", "")
    if not isinstance(reason, str):
        raise ValueError(f"rule {name!r} has a reason that is no text")  # noqa: TRY004 - as above
    try:
        return Rule(name, parse_match(match), "refuse", reason.strip() or f"refused by the rule {name}")
    except ValueError as error:
        raise ValueError(f"rule {name!r}: {error}") from None


def parse_match(text: str) -> Match:
    """Parse ``pkg:<kind>/<name>[@<spec>]``. Raises ``ValueError`` with a sentence."""
    kind, name, spec = purls.split(text.strip())
    order, spelled = _WORDS[kind]
    name = spelled(name)
    if spec is None:
        return Match(kind, name)
    comparisons = []
    for part in spec.split(","):
        found = _COMPARISON.fullmatch(part.strip())
        assert found is not None  # the expression takes any text
        comparator, version = found[1] or "==", found[2].strip()
        if comparator not in ("==", "!=", "<", "<=", ">", ">="):
            raise ValueError(f"{comparator!r} is no comparison; use ==, !=, <, <=, > or >=")
        if not version or _UNSUPPORTED.search(version):
            raise ValueError(f"{part.strip()[:64]!r} is no version or comparison; write an exact version, or >=1,<2 and the like")
        if order(version) is None and comparator not in ("==", "!="):
            raise ValueError(f"{version[:64]!r} has no place in the order of {kind} versions")
        comparisons.append((cast("Comparator", comparator), version))
    return Match(kind, name, tuple(comparisons))


def judge(rules: Sequence[Rule], registry: Versions, project: str, version: str) -> Verdict:
    """Say whether a release may be served. ``version`` is as in ``File.version``; "" (unknown) is matched by any rule on the project."""
    return _first(_about(rules, registry, project), registry, version)


def _first(about: Iterable[Rule], registry: Versions, version: str) -> Verdict:
    for rule in about:
        if _covers(rule.match, registry, version):
            return Refuse(rule.reason, rule.name)
    return ALLOW


def judge_page(rules: Sequence[Rule], registry: Versions, project: str) -> Refuse | None:
    """Say whether a project's page as a whole is refused.

    Never for PyPI, where refused versions stay listed, yanked with the reason: that is how its clients show it. Elsewhere by a
    rule that names the project without a version.
    """
    if registry.kind == "pypi":
        return None
    for rule in _about(rules, registry, project):
        if not rule.match.spec:
            return Refuse(rule.reason, rule.name)
    return None


def verdicts(rules: Sequence[Rule], registry: Versions, listing: Listing) -> dict[str, Verdict]:
    """The verdict on each version listed that is not simply allowed, by ``Entry.file.version``."""
    project = listing.page.project
    about = _about(rules, registry, project)
    if not about:
        return {}
    found: dict[str, Verdict] = {}
    for version in {entry.file.version for entry in listing.entries.values()} | listing.bare:
        verdict = _first(about, registry, version)
        if verdict is not ALLOW:
            found[version] = verdict
    return found


def _about(rules: Sequence[Rule], registry: Versions, project: str) -> list[Rule]:
    """The rules that name ``project``, in their order."""
    index = _index(rules, registry)
    found = [*index.names.get(project, ()), *(place for place, covers in index.patterns if covers(project))]
    return [rules[place] for place in sorted(found)]


@dataclass(frozen=True, slots=True)
class _Index:
    """Where in ``rules`` those of one kind stand: by the name they spell, and the patterns."""

    rules: Sequence[Rule]
    names: Mapping[str, list[int]]
    patterns: Sequence[tuple[int, Callable[[str], bool]]]


_SPELLED: dict[tuple[str, str], str] = {}
"""Names in rules as a kind spells them: with one rule more, the same hundred thousand are indexed again."""

_INDEXES: OrderedDict[tuple[int, str], _Index] = OrderedDict()
"""By identity of the rules: a list of malware has a hundred thousand of them, and every request is judged."""


def _index(rules: Sequence[Rule], registry: Versions) -> _Index:
    key = id(rules), registry.kind
    known = _INDEXES.get(key)
    # Rules that are gone may have left their identity to others; what can change has none.
    if known is not None and known.rules is rules:
        return known
    names: dict[str, list[int]] = {}
    patterns: list[tuple[int, Callable[[str], bool]]] = []
    for place, match in enumerate(rule.match for rule in rules):
        if match.kind != registry.kind:
            continue
        if "*" in match.name:
            patterns.append((place, _pattern(match.name, match.kind)))
        else:
            names.setdefault(_wanted(match.name, registry), []).append(place)
    made = _Index(rules, names, patterns)
    if isinstance(rules, tuple):
        _INDEXES[key] = made
        while len(_INDEXES) > LIMIT_INDEXES:
            _INDEXES.popitem(last=False)
    return made


def _wanted(name: str, registry: Versions) -> str:
    key = registry.kind, name
    spelled = _SPELLED.get(key)
    if spelled is None:
        try:
            spelled = registry.normalise(name)
        except ValueError:
            # A name that no project can have: kept, so that a rule for a kind whose grammar is stricter than the writer knew does no harm.
            spelled = name
        if len(_SPELLED) >= LIMIT_SPELLED:
            _SPELLED.clear()
        _SPELLED[key] = spelled
    return spelled


@lru_cache(4096)
def _pattern(name: str, kind: str) -> Callable[[str], bool]:
    """A predicate over normalised project names."""
    if kind == "pypi":
        # PEP 503 for the pieces between the stars; the ends of a whole name's grammar do not hold for a piece.
        name = re.sub(r"[-_.]+", "-", name).lower()
    expression = re.compile(".*".join(re.escape(piece) for piece in name.split("*")), re.DOTALL)
    return lambda project: expression.fullmatch(project) is not None


def _covers(match: Match, registry: Versions, version: str) -> bool:
    """Whether ``version`` fulfils every comparison. Pre-releases are versions like any other: ``<2`` covers ``2rc1``."""
    if not version:
        return True
    return all(_holds(registry, comparator, wanted, version) for comparator, wanted in match.spec)


def _holds(registry: Versions, comparator: Comparator, wanted: str, version: str) -> bool:
    # A local label ("1.0+cu118") says how something was built, not what: a rule that does not spell one means all of them.
    if registry.same_but_local(wanted) == wanted:
        version = registry.same_but_local(version)
    mine, its = registry.version_key(version), registry.version_key(wanted)
    if mine is None or its is None:
        # Without order only sameness can be told. Ranges match: what cannot be placed must not slip through.
        match comparator:
            case "==":
                return version == wanted
            case "!=":
                return version != wanted
            case _:
                return True
    left, right = cast("Any", mine), cast("Any", its)
    match comparator:
        case "==":
            return bool(left == right)
        case "!=":
            return bool(left != right)
        case "<":
            return bool(left < right)
        case "<=":
            return bool(left <= right)
        case ">":
            return bool(left > right)
        case ">=":
            return bool(left >= right)
