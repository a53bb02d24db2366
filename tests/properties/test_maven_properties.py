"""Laws of the pure Maven modules: the order is one, no path means another file, policy cuts out what it refuses and nothing else."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import example, given, settings
from hypothesis import strategies as st

from origin.model import File, Page, Refuse
from origin.registries import Registry
from origin.registries import maven_metadata as documents
from origin.registries import maven_paths as paths
from origin.registries.maven import XML, Maven
from origin.registries.maven_versions import highest, in_order, is_snapshot, version_key

UPSTREAM = "https://maven.test/maven2/"
REGISTRY: Registry = Maven("maven", UPSTREAM)
PAGE = Page("maven", "org.example/lib", "")

TOKENS = st.sampled_from("0 1 2 10 01 a b m x alpha beta milestone rc cr SNAPSHOT ga final release sp foo 20240101".split())
VERSIONS = st.builds(
    lambda first, rest: first + "".join(separator + token for separator, token in rest),
    TOKENS,
    st.lists(st.tuples(st.sampled_from([".", "-", "", "_", "+"]), TOKENS), max_size=5),
)
ANY_VERSION = VERSIONS | st.text("01.-abmgxsp", min_size=1, max_size=10).filter(lambda text: text not in (".", ".."))


# ---- the order


@given(ANY_VERSION, ANY_VERSION)
def test_any_two_versions_are_in_one_order(one: str, other: str) -> None:
    left, right = version_key(one), version_key(other)
    assert left is not None and right is not None
    assert (left < right) + (left == right) + (right < left) == 1
    assert (hash(left) == hash(right)) or left != right


@settings(max_examples=300)
@given(ANY_VERSION, ANY_VERSION, ANY_VERSION)
def test_the_order_is_transitive(one: str, other: str, third: str) -> None:
    a, b, c = (version_key(version) for version in (one, other, third))
    assert a is not None and b is not None and c is not None
    if a <= b <= c:
        assert a <= c


@given(VERSIONS, st.sampled_from([".0", "-0", ".ga", "-final", ".0.0", "-0.0", ".RELEASE", ".", "-"]))
def test_trailing_nulls_do_not_count(version: str, nulls: str) -> None:
    assert version_key(version + nulls) == version_key(version)


@given(VERSIONS)
def test_case_and_leading_zeros_do_not_count(version: str) -> None:
    assert version_key(version.upper()) == version_key(version.lower())
    assert version_key(re.sub(r"(?<![0-9])([0-9])", r"0\1", version)) == version_key(version)


@given(st.lists(ANY_VERSION, max_size=8))
def test_the_highest_is_the_last_in_order(versions: list[str]) -> None:
    ordered = in_order(versions)
    assert sorted(ordered) == sorted(versions)
    best = highest(versions)
    assert best is None if not ordered else version_key(best or "") == version_key(ordered[-1])


# ---- paths

NAMES = st.text("abzABZ019_.-", min_size=1, max_size=8).filter(lambda text: text not in (".", ".."))
DIRECTORY = st.builds(
    lambda group, artifact, version: (group, artifact, version),
    st.lists(st.text("ab01_-", min_size=1, max_size=5), min_size=1, max_size=3).map("/".join),
    NAMES,
    VERSIONS | st.sampled_from(["1.0-SNAPSHOT", "SNAPSHOT", "1+b", "1 x"]),
)
TAILS = st.sampled_from(
    [
        ".jar",
        ".pom",
        "-sources.jar",
        "-a.b.tar.gz",
        ".tar.gz.asc",
        ".jar.asc.sha1",
        ".7z",
        ".1.jar",
        "-1.jar",
        ".jar.sigstore.json",
        ".md5",
    ]
)


@st.composite
def tricky_paths(draw: st.DrawFn) -> str:
    """Paths of files, right or nearly so."""
    group, artifact, version = draw(DIRECTORY)
    spelled = draw(st.sampled_from([version, version.removesuffix("SNAPSHOT") + "20240101.120000-3"]) | VERSIONS)
    path = f"{group}/{artifact}/{version}/{draw(st.just(artifact) | NAMES)}-{spelled}{draw(TAILS)}"
    at = draw(st.integers(0, len(path)))
    return path[:at] + draw(st.just("") | st.sampled_from(["%2B", "+", "%20", "%2e", ".", "-", "/", "%", "@", "x"])) + path[at:]


@settings(max_examples=500)
@given(tricky_paths())
@example("org/example/lib/1.0/lib-1.0%2B.jar")
@example("a/b/1-SNAPSHOT/b-1-20240101.120000-3.jar.asc.md5")
def test_no_target_means_a_file_that_upstream_keeps_elsewhere(target: str) -> None:
    try:
        meant = REGISTRY.resource("GET", target)
    except ValueError:
        return
    if isinstance(meant, File):
        url = REGISTRY.locate(meant, None)
        assert url.startswith(UPSTREAM)
        again = REGISTRY.resource("GET", url.removeprefix(UPSTREAM))
        assert again == meant
        # The directory of a project is the project's alone.
        assert meant.path.startswith(f"{paths.directory_of(meant.project)}/{meant.version}/")
        assert REGISTRY.normalise(meant.project) == meant.project
        assert meant.filename == meant.path.rpartition("/")[2]
        plain = REGISTRY.subject(meant)
        assert (plain == meant) == (REGISTRY.checksum(meant) == "")
        assert (plain.project, plain.version) == (meant.project, meant.version)
        assert REGISTRY.resource("GET", REGISTRY.locate(plain, None).removeprefix(UPSTREAM)) == plain
        for other in REGISTRY.evidence(meant):
            assert REGISTRY.resource("GET", REGISTRY.locate(other, None).removeprefix(UPSTREAM)) == other
    elif isinstance(meant, Page):
        assert REGISTRY.resource("GET", REGISTRY.locate(meant, None).removeprefix(UPSTREAM)) == meant
        basis = REGISTRY.basis(meant)
        assert REGISTRY.resource("GET", REGISTRY.locate(basis, None).removeprefix(UPSTREAM)) == basis


@given(DIRECTORY, DIRECTORY, TAILS, TAILS)
def test_two_paths_are_two_files(one: tuple[str, str, str], other: tuple[str, str, str], tail: str, other_tail: str) -> None:
    targets = {
        f"{group}/{artifact}/{version}/{artifact}-{version}{end}"
        for (group, artifact, version), end in ((one, tail), (other, other_tail))
    }
    meant = [REGISTRY.resource("GET", target.replace(" ", "%20")) for target in targets]
    files = [each for each in meant if isinstance(each, File)]
    assert len({each.key for each in files}) == len(files)


# ---- documents

SPACE = st.sampled_from(["", " ", "\n  ", "\r\n\t"])
UNKNOWN = st.sampled_from(
    ["", "<extra/>", "<extra a='>'>text</extra>", "<!-- <version>9</version> -->", "<?pi x?>", "<latest2>é</latest2>"]
)


@st.composite
def metadata(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A document of the lib's versions, untidy, and those versions."""
    versions = draw(st.lists(VERSIONS, max_size=6))
    told = ""
    for name in ("latest", "release"):
        choice = draw(st.sampled_from(["", f"<{name}/>", *(f"<{name}>{version}</{name}>" for version in versions)]))
        told += draw(SPACE) + choice + draw(UNKNOWN)
    listed = "".join(
        f"{draw(SPACE)}<version>{draw(SPACE)}{version}{draw(SPACE)}</version>{draw(UNKNOWN)}" for version in versions
    )
    wrapped = (
        f"<versions>{listed}{draw(SPACE)}</versions>"
        if versions
        else draw(st.sampled_from(["<versions/>", "<versions> </versions>", ""]))
    )
    updated = draw(
        st.sampled_from(["", "<lastUpdated>20260102030405</lastUpdated>", "<lastUpdated/>", "<lastUpdated>x</lastUpdated>"])
    )
    declared = draw(st.sampled_from(["", '<?xml version="1.0"?>', "\ufeff", '\ufeff<?xml version="1.0" encoding="UTF-8"?>']))
    named = "<groupId>org.example</groupId><artifactId>lib</artifactId>"
    versioning = f"<versioning>{told}{wrapped}{updated}</versioning>"
    return f"{declared}<metadata>{draw(UNKNOWN)}{named}{versioning}{draw(UNKNOWN)}</metadata>{draw(SPACE)}", versions


@settings(max_examples=200)
@given(metadata(), st.data())
def test_policy_cuts_out_what_it_refuses_and_nothing_else(drawn: tuple[str, list[str]], data: st.DataObject) -> None:
    text, versions = drawn
    listing = REGISTRY.read(PAGE, text.encode(), XML, "")
    assert set(listing.entries) == set(versions)
    refused = data.draw(st.sets(st.sampled_from(versions))) if versions else set()
    restricted = REGISTRY.restrict(listing, {version: Refuse("no", "rule") for version in refused})
    left = [version for version in dict.fromkeys(versions) if version not in refused]
    assert list(restricted.entries) == list(dict.fromkeys(version for version in listing.entries if version not in refused))
    # The tier below judges by the same rules, and finds nothing left to do.
    below = REGISTRY.restrict(REGISTRY.reread(listing.page, restricted.document), restricted.restrictions)
    assert (below.entries, below.document) == (restricted.entries, restricted.document)
    now = documents.read_metadata(REGISTRY.write(restricted, XML, None))
    assert now.versions == left
    assert not refused & set(now.named)
    before = documents.read_metadata(text.encode())
    for name, candidates in (("latest", left), ("release", [version for version in left if not is_snapshot(version)])):
        was, is_now = (each.outline.text(f"metadata/versioning/{name}") for each in (before, now))
        assert is_now == (was if was not in refused else highest(candidates) or "")
    # All that was neither refused nor repaired is there, in its order.
    forgotten = re.compile(r"\s*<version>[^<]*</version>|\s*<(latest|release)>[^<]*</\1>")
    assert forgotten.sub("", restricted.document.decode()) == forgotten.sub("", text)
    if not refused:
        assert restricted.document == text.encode()


@settings(max_examples=100)
@given(st.lists(metadata(), min_size=2, max_size=3), st.integers(0, 2**31))
def test_several_documents_make_one_that_tells_what_each_did(drawn: list[tuple[str, list[str]]], moment: int) -> None:
    listings = [REGISTRY.read(PAGE, text.encode(), XML, "") for text, _ in drawn]
    merged = replace(REGISTRY.merge(listings), restricted_at=float(moment))
    told = {version for _, versions in drawn for version in versions}
    assert set(merged.entries) == told
    body = REGISTRY.write(merged, XML, None)
    again = REGISTRY.read(PAGE, body, XML, "")
    assert set(again.entries) == told
    assert REGISTRY.headers(merged, body)


@given(st.binary(max_size=200) | st.text("<>/=\"' metadataversioning!?[]&;x", max_size=80).map(lambda text: text.encode()))
def test_any_bytes_are_metadata_or_a_value_error(body: bytes) -> None:
    for page in (PAGE, Page("maven", "", "catalog"), Page("maven", "", "prefixes"), Page("maven", "", "group/x")):
        try:
            REGISTRY.read(page, body, XML, "")
        except ValueError:
            continue


@given(st.binary(max_size=120) | st.text("0123456789abcdefABCDEF \n:=()*", max_size=140).map(lambda text: text.encode()))
def test_any_bytes_are_a_checksum_or_a_value_error(body: bytes) -> None:
    for algorithm, length in (("md5", 32), ("sha1", 40), ("sha256", 64), ("sha512", 128)):
        try:
            digest = documents.read_checksum(algorithm, body, "lib.jar")
        except ValueError:
            continue
        assert len(digest.value) == length
        assert digest.value in body.decode("latin-1").lower()
