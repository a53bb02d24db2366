"""Recalls and an origin's verdicts, as they are judged by."""

from __future__ import annotations

import pytest

from origin.api.wire import Recall, Verdicts
from origin.model import ALLOW, Digest, Entry, File, Listing, Page, Refuse
from origin.policy.force import Policy
from origin.policy.recalls import judge_digests, listed, parse_digest, read
from origin.registries.npm import NPM
from origin.registries.pypi import PyPI

PYPI = PyPI("pypi", "http://pypi.test/simple/")
BAD = Digest("sha256", "ba" * 32)


def recall(*, purls: tuple[str, ...] = (), digests: tuple[str, ...] = (), reason: str = "a worm") -> Recall:
    return Recall(id="7", target="x", reason=reason, at=0.0, purls=purls, digests=digests)


def entry(version: str, *digests: Digest, sidecar: tuple[Digest, ...] | None = None) -> Entry:
    file = File("pypi", "six", version, f"six-{version}.tar.gz", f"packages/six-{version}.tar.gz")
    return Entry(file, f"http://files.test/six-{version}.tar.gz", digests, sidecar=sidecar)


def listing(*entries: Entry) -> Listing:
    return Listing(Page("pypi", "six"), {each.file.filename: each for each in entries}, b"{}")


def test_a_recalled_release_is_refused_for_the_recalls_reason() -> None:
    central = read(Verdicts(revision=1, recalls=(recall(purls=("pkg:pypi/six@1.0",)),)))
    policy = Policy(central.rules, central.digests)
    assert policy.judge(PYPI, "six", "1.0") == Refuse("recalled: a worm", "recall-7")
    assert policy.judge(PYPI, "six", "1.1") is ALLOW
    assert central.faults == ()


def test_recalls_come_before_rules_and_give_their_reason_first() -> None:
    rule: dict[str, object] = {"name": "old", "match": "pkg:npm/left-pad", "action": "refuse", "reason": "old"}
    central = read(Verdicts(revision=1, rules=(rule,), recalls=(recall(purls=("pkg:npm/left-pad@1.0.0",)),)))
    npm = NPM("npm", "http://npm.test/")
    assert [rule.name for rule in central.rules] == ["recall-7", "old"]
    assert Policy(central.rules).judge(npm, "left-pad", "1.0.0") == Refuse("recalled: a worm", "recall-7")


def test_rules_that_stay_are_not_read_again_for_a_recall() -> None:
    rules: tuple[dict[str, object], ...] = tuple(
        {"name": f"malware {n}", "match": f"pkg:npm/evil-{n}", "action": "refuse"} for n in range(3)
    )
    before = read(Verdicts(revision=1, rules=rules))
    again = tuple(dict(rule) for rule in rules)
    after = read(Verdicts(revision=2, rules=again, recalls=(recall(purls=("pkg:npm/left-pad",)),)), before)
    assert after.table is before.table
    assert [rule.match.name for rule in after.rules] == ["left-pad", "evil-0", "evil-1", "evil-2"]
    fewer = read(Verdicts(revision=3, rules=again[1:]), after)
    assert [rule.match.name for rule in fewer.rules] == ["evil-1", "evil-2"]


def test_recalled_bytes_are_refused_whatever_their_name() -> None:
    central = read(Verdicts(revision=1, recalls=(recall(digests=(str(BAD),)),)))
    assert judge_digests(central.digests, [Digest("sha1", "0" * 40), BAD]) == Refuse("recalled: a worm", "recall-7")
    assert judge_digests(central.digests, [Digest("sha256", "00" * 32)]) is ALLOW
    assert judge_digests({}, [BAD]) is ALLOW


def test_what_cannot_be_read_is_told_and_keeps_nothing_else_from_counting() -> None:
    future: dict[str, object] = {"name": "new", "match": "pkg:pypi/six", "action": "quarantine"}
    central = read(
        Verdicts(revision=1, rules=(future,), recalls=(recall(purls=("pkg:cargo/x", "pkg:pypi/evil"), digests=("sha9-x", "no")),))
    )
    assert [rule.match.name for rule in central.rules] == ["evil"]
    assert len(central.faults) == 4
    assert "quarantine" in central.faults[3]


def test_a_reason_is_one_line_and_none_is_needed() -> None:
    assert read(Verdicts(recalls=(recall(purls=("pkg:pypi/x",), reason=" a\nworm "),))).rules[0].reason == "recalled: a worm"
    assert read(Verdicts(recalls=(recall(purls=("pkg:pypi/x",), reason=""),))).rules[0].reason == "recalled"


def test_a_page_loses_the_versions_whose_files_or_sidecars_were_recalled() -> None:
    other = Digest("sha256", "00" * 32)
    page = listing(entry("1.0", other), entry("1.1", other, BAD), entry("1.2", other, sidecar=(BAD,)), entry("1.3"))
    refuse = Refuse("recalled: a worm", "recall-7")
    assert listed({BAD: refuse}, page) == {"1.1": refuse, "1.2": refuse}
    assert listed({}, page) == {}


def test_digests_that_are_known_of_bound_files_count_for_their_versions() -> None:
    refuse = Refuse("recalled", "recall-7")
    policy = Policy((), {BAD: refuse})
    assert policy.judge_listing(PYPI, listing(entry("1.0")), {"1.0": [BAD], "9.9": [BAD]}) == {"1.0": refuse}
    assert Policy().judge_listing(PYPI, listing(entry("1.0", BAD)), {}) == {}


def test_what_another_node_took_off_a_page_is_held_against_the_policy_of_now() -> None:
    central = read(Verdicts(recalls=(recall(purls=("pkg:pypi/six@1.0",), digests=(str(BAD),)),)))
    now = Policy(central.rules, central.digests)
    by_rule, by_digest = Refuse("r", "gone"), Refuse("recalled", "recall-7")
    assert now.still_forbids(PYPI, "six", {"1.0": by_rule, "2.0": by_digest})
    assert not now.still_forbids(PYPI, "six", {"1.0": by_rule, "2.0": by_rule})
    assert not Policy().still_forbids(PYPI, "six", {"2.0": by_digest})
    assert Policy().still_forbids(PYPI, "six", {})


@pytest.mark.parametrize("text", ["", "sha256", "sha256-", "sha256-xyz", f"md4-{'0' * 32}", f"sha256-{'0' * 63}"])
def test_what_is_no_digest_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"digest"):
        parse_digest(text)


def test_digests_of_any_algorithm_can_be_recalled() -> None:
    assert parse_digest(f"blake2b-256-{'AB' * 32}") == Digest("blake2b-256", "ab" * 32)
    assert parse_digest(f" sha1-{'0' * 40}\n") == Digest("sha1", "0" * 40)
