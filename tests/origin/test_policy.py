"""Rules as people write them, and the verdicts they make."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest

from origin.model import ALLOW, Listing, Page, Refuse, Verdict
from origin.policy.purls import Patterns, parse_purl, purl_of
from origin.policy.rules import Rule, judge, judge_page, parse_rule, verdicts
from origin.registries import Registry
from origin.registries.kinds import create

PYPI: Registry = create("pypi", "corp", "http://pypi.test/simple/")


class Npm:
    """Another kind, as far as policy is concerned: names as they are, versions without an order."""

    kind = "npm"

    def version_key(self, version: str) -> object | None:
        return None

    def same_but_local(self, version: str) -> str:
        return version

    def normalise(self, project: str) -> str:
        return project


def rule(match: str, reason: str = "because", name: str = "r") -> Rule:
    return parse_rule({"name": name, "match": match, "action": "refuse", "reason": reason})


def refuses(match: str, version: str, project: str = "evil") -> bool:
    return judge([rule(match)], PYPI, project, version) is not ALLOW


@pytest.mark.parametrize(
    ("match", "refused", "allowed"),
    [
        ("pkg:pypi/evil", ["1", "0.dev0", "not a version", ""], []),
        ("pkg:pypi/evil@1.0", ["1.0", "1.0.0", "1", "v1.0", "1.0+cu118", ""], ["1.0.post1", "1.0rc1", "1.1", "weird"]),
        ("pkg:pypi/evil@==1.0", ["1.0", "1.0+x"], ["1.1"]),
        ("pkg:pypi/evil@1.0+cu118", ["1.0+cu118", "1.0+CU118"], ["1.0", "1.0+cu121"]),
        ("pkg:pypi/evil@1.0%2Bcu118", ["1.0+cu118"], ["1.0"]),
        ("pkg:pypi/evil@!=1.0", ["1.1", "weird"], ["1.0", "1.0.0", "1.0+x"]),
        ("pkg:pypi/evil@>=1,<2", ["1", "1.9.9", "2rc1", "2.dev0", "1+x", "weird", ""], ["0.9", "2", "2.0+x", "1rc1"]),
        ("pkg:pypi/evil@<2", ["0", "2rc1", "2.dev0", "weird"], ["2", "2+local", "3"]),
        ("pkg:pypi/evil@<=2", ["2", "2+local", "2.0"], ["2.post1"]),
        ("pkg:pypi/evil@>2", ["2.post1", "3", "3a1"], ["2", "2+local"]),
        ("pkg:pypi/evil@ >= 1 , != 1.5 ", ["1", "1.6"], ["1.5", "0"]),
        ("pkg:pypi/evil@2004d-odd", ["2004d-odd", ""], ["2004", "2004d"]),
        ("pkg:pypi/evil@1!1.0", ["1!1.0"], ["1.0"]),
    ],
)
def test_a_range_covers_what_it_says(match: str, refused: list[str], allowed: list[str]) -> None:
    assert [version for version in refused if not refuses(match, version)] == []
    assert [version for version in allowed if refuses(match, version)] == []


@pytest.mark.parametrize(
    ("match", "covered", "spared"),
    [
        ("pkg:pypi/Foo_Bar", ["foo-bar"], ["foo", "foo-bar-baz", "xfoo-bar"]),
        ("pkg:pypi/*", ["a", "foo-bar"], []),
        ("pkg:pypi/foo_*", ["foo-bar", "foo-"], ["foo", "xfoo-bar"]),
        ("pkg:pypi/*evil*", ["evil", "xevilx"], ["evi"]),
        ("pkg:pypi/a.b", ["a-b"], ["axb"]),
        ("PKG:PyPI/foo", ["foo"], ["bar"]),
        ("pkg:pypi/foo?file_name=x#y", ["foo"], ["bar"]),
        ("pkg:npm/foo", [], ["foo"]),
    ],
)
def test_a_name_means_projects_of_its_kind(match: str, covered: list[str], spared: list[str]) -> None:
    assert [project for project in covered if not refuses(match, "1", project)] == []
    assert [project for project in spared if refuses(match, "1", project)] == []


def test_the_first_rule_gives_the_reason_however_it_spells_the_name() -> None:
    npm = Npm()
    spelled = ("pkg:npm/evil@1.0.0", "pkg:npm/e*", "pkg:pypi/evil", "pkg:npm/evil", "pkg:npm/*l@2.0.0")
    rules = tuple(replace(rule(match), reason=match) for match in spelled)
    for _ in range(2):
        assert judge(rules, npm, "evil", "1.0.0") == Refuse("pkg:npm/evil@1.0.0", "r")
        assert judge(rules, npm, "evil", "2.0.0") == Refuse("pkg:npm/e*", "r")
        assert judge(rules, npm, "devil", "2.0.0") == Refuse("pkg:npm/*l@2.0.0", "r")
        assert judge(rules, npm, "devil", "1.0.0") is ALLOW
        assert judge_page(rules, npm, "evil") == Refuse("pkg:npm/e*", "r")


def test_what_is_remembered_of_rules_is_of_those_alone() -> None:
    npm = Npm()
    for number in range(100):
        # Each of these sets may get the identity of one that is gone.
        assert judge((rule(f"pkg:npm/evil{number}"),), npm, f"evil{number}", "1") is not ALLOW
    growing = [rule("pkg:npm/evil")]
    assert judge(growing, npm, "other", "1") is ALLOW
    growing.append(rule("pkg:npm/other"))
    assert judge(growing, npm, "other", "1") is not ALLOW


def test_a_scope_may_be_written_either_way_and_a_star_crosses_slashes() -> None:
    npm = Npm()
    for match in ("pkg:npm/@evil/thing", "pkg:npm/%40evil/thing", "pkg:npm/@evil%2Fthing", "pkg:npm/@evil/*", "pkg:npm/@ev*"):
        assert judge([rule(match)], npm, "@evil/thing", "1.0.0") is not ALLOW
        assert judge([rule(match)], npm, "@good/thing", "1.0.0") is ALLOW
    assert judge([rule("pkg:npm/@evil/thing@1.0.0")], npm, "@evil/thing", "1.0.0") is not ALLOW
    assert judge([rule("pkg:npm/@evil/thing@1.0.0")], npm, "@evil/thing", "1.0.1") is ALLOW
    assert judge([rule("pkg:npm/%40evil/thing@>=1")], npm, "@evil/thing", "unplaceable") is not ALLOW


def test_any_rule_refuses_and_the_first_gives_the_reason() -> None:
    rules = [rule("pkg:pypi/other"), rule("pkg:pypi/evil@>=1", "first", "a"), rule("pkg:pypi/*", "second", "b")]
    assert judge(rules, PYPI, "evil", "1") == Refuse("first", "a")
    assert judge(rules, PYPI, "evil", "0") == Refuse("second", "b")
    assert judge([], PYPI, "evil", "1") is ALLOW


def test_a_page_is_closed_by_a_rule_on_the_whole_project_but_not_on_pypi() -> None:
    assert judge_page([rule("pkg:npm/evil")], Npm(), "evil") == Refuse("because", "r")
    assert judge_page([rule("pkg:npm/evil@1.0.0")], Npm(), "evil") is None
    assert judge_page([rule("pkg:pypi/evil")], PYPI, "evil") is None


def test_the_verdicts_on_a_page_are_by_version_and_only_what_is_not_allowed() -> None:
    names = ("evil-1.0.tar.gz", "evil-1.0-py3-none-any.whl", "evil-2.0rc1.tar.gz", "evil-3.0.tar.gz", "odd.bin")
    body = json.dumps(
        {
            "meta": {"api-version": "1.0"},
            "name": "evil",
            "files": [{"filename": name, "url": f"http://f.test/{name}", "hashes": {}} for name in names],
        }
    ).encode()
    page = Page("corp", "evil", "")
    listing: Listing = PYPI.read(page, body, "application/vnd.pypi.simple.v1+json", "http://pypi.test/simple/evil/")
    expected: dict[str, Verdict] = dict.fromkeys(("1.0", "2.0rc1", ""), Refuse("because", "r"))
    assert verdicts([rule("pkg:pypi/evil@<2.0")], PYPI, listing) == expected
    assert verdicts([rule("pkg:pypi/good")], PYPI, listing) == {}
    everything = PYPI.restrict(listing, verdicts([rule("pkg:pypi/e*")], PYPI, listing))
    assert {entry.yanked for entry in everything.entries.values()} == {"because"}


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({}, "has no name"),
        ({"name": " "}, "has no name"),
        ({"name": "x", "mach": "pkg:pypi/a"}, "unknown key 'mach'"),
        ({"name": "x", "action": "refuse"}, "has no match"),
        ({"name": "x", "match": 3, "action": "refuse"}, "has no match"),
        ({"name": "x", "match": "pkg:pypi/a"}, "unknown action None"),
        ({"name": "x", "match": "pkg:pypi/a", "action": "allow"}, "unknown action 'allow'"),
        ({"name": "x", "match": "pkg:pypi/a", "action": "refuse", "reason": 1}, "no text"),
        ({"name": "x", "match": "pypi/a", "action": "refuse"}, "pkg:"),
        ({"name": "x", "match": "pkg:cargo/a", "action": "refuse"}, "pypi, npm, maven"),
        ({"name": "x", "match": "pkg:pypi", "action": "refuse"}, "kind"),
        ({"name": "x", "match": "pkg:pypi/", "action": "refuse"}, "no package"),
        ({"name": "x", "match": "pkg:pypi/a b", "action": "refuse"}, "space"),
        ({"name": "x", "match": "pkg:pypi/a@", "action": "refuse"}, "no version"),
        ({"name": "x", "match": "pkg:pypi/a@>=1,", "action": "refuse"}, "no version"),
        ({"name": "x", "match": "pkg:pypi/a@~=1.0", "action": "refuse"}, "no version"),
        ({"name": "x", "match": "pkg:pypi/a@===1.0", "action": "refuse"}, "no comparison"),
        ({"name": "x", "match": "pkg:pypi/a@1.*", "action": "refuse"}, "no version"),
        ({"name": "x", "match": "pkg:pypi/a@>=1 <2", "action": "refuse"}, "no version"),
        ({"name": "x", "match": "pkg:pypi/a@>=one", "action": "refuse"}, "order"),
        # What would match nothing at all.
        ({"name": "x", "match": "pkg:maven/com.evil", "action": "refuse"}, r"group/\*"),
        ({"name": "x", "match": "pkg:maven/com.evil/lib@[1,2)", "action": "refuse"}, "no version"),
        ({"name": "x", "match": "pkg:maven/com.evil/lib@(,2]", "action": "refuse"}, "no version"),
        ({"name": "x", "match": "pkg:maven/com.evil/lib@1.0-20240101.120000-3", "action": "refuse"}, "SNAPSHOT"),
    ],
)
def test_a_bad_rule_is_refused_with_a_sentence(table: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_rule(table)


@pytest.mark.parametrize(
    "name", ["com.evil:*", "com.evil/*", "com.evil:lib", "com.evil/lib", "com.evil:l*b", "com.*", "*/lib", "*"]
)
def test_a_maven_rule_may_be_written_as_build_files_do(name: str) -> None:
    assert isinstance(
        judge([rule(f"pkg:maven/{name}")], create("maven", "maven", "https://maven.test/"), "com.evil/lib", "1.0"), Refuse
    )


def test_a_rule_without_a_reason_gives_its_name() -> None:
    assert parse_rule({"name": "x", "match": "pkg:pypi/a", "action": "refuse"}).reason == "refused by the rule x"


def test_a_purl_of_a_command_names_one_package() -> None:
    assert parse_purl("pkg:pypi/six@1.16.0") == ("pypi", "six", "1.16.0")
    assert parse_purl("pkg:pypi/Six") == ("pypi", "Six", None)
    assert parse_purl("pkg:npm/%40scope/name@1.0.0") == ("npm", "@scope/name", "1.0.0")
    assert parse_purl("pkg:npm/@scope/name") == ("npm", "@scope/name", None)
    assert parse_purl("pkg:maven/org.apache/commons@1.0?type=jar") == ("maven", "org.apache/commons", "1.0")
    assert parse_purl("pkg:pypi/torch@2.0%2Bcu118") == ("pypi", "torch", "2.0+cu118")
    for wrong in ("six", "pkg:six", "pkg:pypi/*", "pkg:pypi/six@", "pkg:gem/x", "pkg:pypi/a%00b"):
        with pytest.raises(ValueError, match=r"."):
            parse_purl(wrong)


def test_a_thousand_lines_are_held_against_a_thousand_patterns_in_an_instant() -> None:
    some = [f"pkg:npm/@scope-{n}/*" for n in range(400)]
    patterns = Patterns([*some, *(f"pkg:pypi/p-{n}" for n in range(400)), *(f"pkg:pypi/q-{n}@1.*.0" for n in range(200))])
    purls = [purl_of("npm" if n % 3 else "pypi", f"@scope-{n}/x" if n % 3 else f"q-{n}", f"1.{n}.0") for n in range(1000)]
    began = time.process_time()
    found = sum(map(patterns.match, purls))
    assert time.process_time() - began < 0.25  # 10 ms here, where one pattern after the other took two seconds, in the event loop
    assert found == 266 + 67
