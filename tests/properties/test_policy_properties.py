"""Laws of policy and freshness."""

from __future__ import annotations

from fnmatch import fnmatchcase
from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from origin.freshness import directives, judge, stamp
from origin.model import ALLOW
from origin.policy import rules as policy
from origin.policy.purls import Patterns, parse_purl, purl_of
from origin.registries import Registry
from origin.registries.kinds import create

PYPI: Registry = create("pypi", "pypi", "http://pypi.test/simple/")
PARTS = st.integers(0, 3)
VERSIONS = st.builds(
    lambda release, pre, local: ".".join(map(str, release)) + pre + local,
    st.lists(PARTS, min_size=1, max_size=3),
    st.sampled_from(["", "", "a1", "rc2", ".post1", ".dev3"]),
    st.sampled_from(["", "", "", "+cu118"]),
)
NAMES = st.sampled_from(["a", "ab", "b", "@s/a", "@s/b", "@t/a", "[a]"])
GLOBS = st.one_of(
    st.lists(st.sampled_from(["pkg:", "npm", "pypi", "/", "a", "b", "@s", "@", "1", "*", "?", "[ab]", "[", "%40"])).map("".join),
    st.builds(
        "pkg:{}/{}{}".format, st.sampled_from(["npm", "pypi", "*"]), NAMES, st.sampled_from(["", "*", "@*", "@1*", "@1.0"])
    ),
)
PLAIN = VERSIONS.map(lambda version: version.partition("+")[0])
COMPARATORS = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])


def refuses(spec: str, version: str) -> bool:
    rule = policy.parse_rule({"name": "r", "match": f"pkg:pypi/x@{spec}", "action": "refuse"})
    return policy.judge([rule], PYPI, "x", version) is not ALLOW


@given(VERSIONS, PLAIN)
def test_each_version_is_below_at_or_above_another(version: str, other: str) -> None:
    assert [refuses(f"<{other}", version), refuses(other, version), refuses(f">{other}", version)].count(True) == 1
    assert refuses(f"<={other}", version) == (refuses(f"<{other}", version) or refuses(other, version))
    assert refuses(f">={other}", version) == (refuses(f">{other}", version) or refuses(other, version))
    assert refuses(f"!={other}", version) != refuses(f"=={other}", version)


@given(VERSIONS, st.lists(st.tuples(COMPARATORS, PLAIN), min_size=1, max_size=3))
def test_a_comma_means_and(version: str, comparisons: list[tuple[str, str]]) -> None:
    together = refuses(",".join(comparator + wanted for comparator, wanted in comparisons), version)
    assert together == all(refuses(comparator + wanted, version) for comparator, wanted in comparisons)


@given(st.lists(PARTS, min_size=1, max_size=3), st.lists(PARTS, min_size=1, max_size=3), COMPARATORS)
def test_final_releases_compare_as_installers_have_them(version: list[int], wanted: list[int], comparator: str) -> None:
    mine, its = ".".join(map(str, version)), ".".join(map(str, wanted))
    assert refuses(comparator + its, mine) == SpecifierSet(comparator + its).contains(Version(mine))


@given(st.text(max_size=20), COMPARATORS.filter(lambda comparator: comparator != "=="), PLAIN)
def test_what_has_no_place_in_the_order_is_refused_by_every_range(version: str, comparator: str, wanted: str) -> None:
    if PYPI.version_key(version) is None:
        assert refuses(comparator + wanted, version)


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_is_a_rule_or_a_sentence(name: str, spec: str) -> None:
    for match in (name, f"pkg:pypi/{name}", f"pkg:npm/@{name}@{spec}", f"pkg:pypi/x@{spec}"):
        try:
            rule = policy.parse_rule({"name": "r", "match": match, "action": "refuse"})
        except ValueError:
            continue
        policy.judge([rule], PYPI, "x", "1.0")
        try:
            parse_purl(match)
        except ValueError:
            continue


HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["cache-control", "age", "expires", "date", "vary"]),
        st.sampled_from(["max-age=60", "s-maxage=5", "no-store", "Tue, 14 Nov 2023 22:13:20 GMT", "0", "45", 'private="x, y'])
        | st.text(max_size=40)
        | st.text('max-age=",\\ 0123456789', max_size=60),
    ),
    max_size=6,
).map(tuple)


@given(HEADERS, st.floats(0, 2**33), st.floats(0, 1e6), st.floats(0.85, 1.15), st.sampled_from([200, 404]))
def test_no_answer_outlives_its_cap(
    headers: tuple[tuple[str, str], ...], now: float, cap_s: float, jitter: float, status: int
) -> None:
    given_stamp = stamp(headers, now, cap_s=cap_s, jitter=jitter, status=status)
    assert now <= given_stamp.fresh_until <= now + cap_s + 1e-6 * max(1.0, now)
    assert given_stamp.fresh_until <= given_stamp.stale_until
    assert judge(given_stamp, given_stamp.stale_until) == "dead"
    directives(headers)


@given(st.lists(GLOBS, max_size=5), st.sampled_from(["npm", "pypi"]), NAMES, st.sampled_from(["", "1", "1.0", "2"]))
def test_patterns_together_name_what_one_of_them_does(globs: list[str], kind: str, name: str, version: str) -> None:
    purls = [unquote(purl_of(kind, name, version)), unquote(purl_of(kind, name))]
    one_does = any(fnmatchcase(purl, unquote(glob)) for glob in globs for purl in purls)
    assert Patterns(globs).match(purl_of(kind, name, version)) == one_does
    assert Patterns(globs).match("") == ("*" in globs or any(fnmatchcase("", glob) for glob in globs))
