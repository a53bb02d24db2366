"""Maven under a rule: what it refuses is delivered on no path, to no client, out of no cache, and every client says why."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.maven import FakeMaven
from tests.gradle_like import GRADLE_LIKE
from tests.harness import Edge, Reply, Rule, wait_until
from tests.jars import Component, Jars
from tests.jvm import COURSIER, MAVEN_4, MAVEN_38, MAVEN_39, JvmClient, JvmWorkspace, Maven
from tests.maven_stage import get, metadata_path, sidecars_of

REASON = "sends passwords home; ask security about ticket 4711"

AT_ONCE_S = 1.0
SOON_S = 5.0


@dataclass(frozen=True)
class Release:
    """Two versions of one library, the second of which the rule refuses."""

    good: Component
    evil: Component

    @property
    def rule(self) -> Rule:
        return Rule(f"pkg:maven/{self.evil.group}/{self.evil.artifact}@>=2", REASON, "no-evil")

    @property
    def metadata(self) -> str:
        return metadata_path(f"{self.evil.group}:{self.evil.artifact}")

    def wanted(self, version: str) -> str:
        return f"{self.evil.group}:{self.evil.artifact}:{version}"


@pytest.fixture
def release(repository: FakeMaven, jars: Jars, group: str) -> Release:
    both = Release(
        jars.component(f"{group}:lib:1.0", module=True),
        jars.component(f"{group}:lib:2.0", module=True, size=600_000, classifiers=["sources"], archives=["tar.gz"]),
    )
    signature = jars.file(f"{both.evil.jar.path}.asc", b"-----BEGIN PGP SIGNATURE-----\n\nnone\n-----END PGP SIGNATURE-----\n")
    evil = both.evil.with_files(signature)
    repository.publish(both.good, evil)
    return Release(both.good, evil)


@pytest.fixture(autouse=True)
def no_rule_stays(mirror: Edge, restored: None) -> Iterator[None]:
    yield
    mirror.set_rules()


def refuse(edge: Edge, release: Release) -> None:
    edge.set_rules(release.rule)
    wait_until(lambda: get(edge, release.evil.pom.path).status == 403, SOON_S)


def lift(edge: Edge, release: Release) -> None:
    edge.set_rules()
    wait_until(lambda: get(edge, release.evil.pom.path).status == 200, SOON_S)


# ---- raw requests ----------------------------------------------------------------------------------------------------


def of(extension: str, classifier: str = "", suffix: str = "", **headers: str) -> Callable[[Edge, Component], Reply]:
    return lambda edge, one: get(edge, one.file(extension, classifier).path + suffix, **headers)


PATHS: dict[str, Callable[[Edge, Component], Reply]] = {
    "pom": of("pom"),
    "jar": of("jar"),
    "module": of("module"),
    "classifier": of("jar", "sources"),
    "archive": of("tar.gz"),
    "pom's sha1": of("pom", suffix=".sha1"),
    "jar's sha1": of("jar", suffix=".sha1"),
    "jar's md5": of("jar", suffix=".md5"),
    "jar's sha256": of("jar", suffix=".sha256"),
    "signature": of("jar", suffix=".asc"),
    "signature's sha1": of("jar", suffix=".asc.sha1"),
    "absent classifier": lambda edge, one: get(edge, one.jar.path.replace(".jar", "-javadoc.jar")),
    "absent bundle": of("jar", suffix=".sigstore.json"),
    "head": lambda edge, one: get(edge, one.jar.path, "HEAD"),
    "head of the pom": lambda edge, one: get(edge, one.pom.path, "HEAD"),
    "range": of("jar", Range="bytes=0-99"),
    "suffix range": of("jar", Range="bytes=-99"),
    "resumed": of("jar", Range="bytes=5-", If_Unmodified_Since="Thu, 01 Jan 2032 00:00:00 GMT"),
    "encoded": lambda edge, one: get(edge, one.jar.path.replace("-2.0", "%2D2%2E0")),
    "query": of("jar", suffix="?x=1"),
}
NEVER_THERE = {"absent classifier", "absent bundle", "jar's sha256"}


@pytest.mark.parametrize("state", ["never fetched", "held by the edge"])
def test_no_path_delivers_a_refused_version(mirror: Edge, release: Release, repository: FakeMaven, state: str) -> None:
    if state == "held by the edge":
        for name, one in PATHS.items():
            assert (one(mirror, release.evil).status == 404) == (name in NEVER_THERE), name
    refuse(mirror, release)
    repository.forget()
    for name, one in PATHS.items():
        reply = one(mirror, release.evil)
        assert (name, reply.status) == (name, 403)
        assert REASON in reply.reason, name
        if not name.startswith("head"):
            assert reply.headers["content-type"] == "application/problem+json"
            assert REASON in reply.json()["detail"]
    assert repository.seen() == []
    assert get(mirror, release.good.jar.path).status == 200
    lift(mirror, release)
    for name, one in PATHS.items():
        assert one(mirror, release.evil).status in ({404} if name in NEVER_THERE else {200, 206}), name


@pytest.mark.parametrize("state", ["cold", "hot"])
def test_the_metadata_and_its_checksums_forget_a_refused_version(mirror: Edge, release: Release, state: str) -> None:
    before = b""
    if state == "hot":
        for _ in range(3):
            before = get(mirror, release.metadata).body
            sidecars_of(mirror, release.metadata)
        assert b"<version>2.0</version>" in before
    refuse(mirror, release)
    reply = get(mirror, release.metadata)
    assert b"<version>1.0</version>" in reply.body
    assert b"2.0" not in reply.body
    assert b"<release>1.0</release>" in reply.body
    told = sidecars_of(mirror, release.metadata)
    for name in ("md5", "sha1", "sha256", "sha512"):
        digest = hashlib.new(name, reply.body, usedforsecurity=False).hexdigest()
        assert told[name] == reply.headers[f"x-checksum-{name}"] == digest
    head = get(mirror, release.metadata, "HEAD")
    varying = {"date": "", "cache-status": ""}
    assert {**head.headers, **varying} == {**reply.headers, **varying}
    lift(mirror, release)
    wait_until(lambda: b"<version>2.0</version>" in get(mirror, release.metadata).body, SOON_S)
    again = get(mirror, release.metadata)
    assert sidecars_of(mirror, release.metadata)["sha1"] == hashlib.sha1(again.body, usedforsecurity=False).hexdigest()


@pytest.mark.alone
def test_a_rule_reaches_every_path_within_a_second_and_leaves_as_fast(mirror: Edge, release: Release) -> None:
    paths = [one.path for one in release.evil.files] + [release.evil.jar.path + ".sha1"]

    def told() -> tuple[set[int], bool]:
        return {get(mirror, path).status for path in paths}, b"2.0" in get(mirror, release.metadata).body

    for _ in range(2):
        assert told() == ({200}, True)
    mirror.set_rules(release.rule)
    wait_until(lambda: told() == ({403}, False), AT_ONCE_S)
    mirror.set_rules()
    wait_until(lambda: told() == ({200}, True), AT_ONCE_S)


def test_all_versions_refused_is_a_refusal_of_the_metadata(mirror: Edge, release: Release) -> None:
    mirror.set_rules(Rule(f"pkg:maven/{release.evil.group}/lib", REASON))
    wait_until(lambda: get(mirror, release.good.pom.path).status == 403, SOON_S)
    for suffix in ("", ".sha1", ".md5"):
        reply = get(mirror, release.metadata + suffix)
        assert (reply.status, REASON in reply.reason) == (403, True)


def test_a_snapshot_is_refused_with_all_that_it_resolves_to(repository: FakeMaven, jars: Jars, group: str, scratch: Path) -> None:
    one = jars.component(f"{group}:lib:1.1-SNAPSHOT", stamp=("20240101.120000", 1))
    plain = jars.component(f"{group}:plain:1.1-SNAPSHOT")
    repository.publish(one, plain)
    with Edge(Path(tempfile.mkdtemp(dir=scratch)), repository.snapshots_url, kind="maven") as edge:
        paths = [
            one.pom.path,
            one.jar.path,
            f"{one.jar.path}.sha1",
            metadata_path(one.coordinate),
            metadata_path(one.coordinate) + ".sha1",
            plain.jar.path,
            f"{plain.jar.path}.sha1",
        ]
        assert {path: get(edge, path).status for path in paths} == dict.fromkeys(paths, 200)
        edge.set_rules(Rule(f"pkg:maven/{group}/*@1.1-SNAPSHOT", REASON))
        wait_until(lambda: get(edge, paths[0]).status == 403, SOON_S)
        assert {path: get(edge, path).status for path in paths} == dict.fromkeys(paths, 403)
        edge.set_rules()
        wait_until(lambda: {get(edge, path).status for path in paths} == {200}, SOON_S)


def test_bytes_that_are_still_arriving_are_refused_too(repository: FakeMaven, mirror: Edge, release: Release) -> None:
    jar = release.evil.jar
    gate = repository.misbehave(f"*/{jar.filename}", gate=500_000)
    assert get(mirror, jar.path, Range="bytes=0-99").status == 206
    mirror.set_rules(release.rule)
    wait_until(lambda: get(mirror, jar.path, Range="bytes=0-99").status == 403, SOON_S)
    repository.behave(gate)
    lift(mirror, release)
    assert get(mirror, jar.path).body == jar.content


# ---- clients ---------------------------------------------------------------------------------------------------------


def flat(output: str) -> str:
    return re.sub(r"\s+", " ", output)


def no_trace(workspace: JvmWorkspace, release: Release) -> bool:
    """Whether nothing in the client's cache says that the refused version is not there, or holds a file of it."""
    found = [path for path in workspace.cache.rglob("*") if "lib" in path.parts and "2.0" in path.parts and path.is_file()]
    texts = [path.read_text(errors="replace") for path in found if path.name.endswith(".lastUpdated")]
    return not any(path.suffix in {".jar", ".pom"} for path in found) and not any(".error=\n" in text for text in texts)


MATRIX = [
    (MAVEN_39, "fresh"),
    (MAVEN_39, "held by the edge"),
    (MAVEN_38, "held by the edge"),
    (MAVEN_4, "held by the edge"),
    (COURSIER, "held by the edge"),
    (GRADLE_LIKE, "fresh"),
    (GRADLE_LIKE, "held by the edge"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("client", "state"), MATRIX, ids=lambda value: value if isinstance(value, str) else value.name)
def test_an_exact_version_fails_with_the_reason_and_works_once_the_rule_is_gone(
    mirror: Edge, release: Release, repository: FakeMaven, jars: Jars, jvm: JvmWorkspace, client: JvmClient, state: str
) -> None:
    """Through a library that wants it: a POM that were merely missing would drop it without a word."""
    group = release.evil.group
    app = jars.component(f"{group}:app:1.0", requires=[release.wanted("2.0")])
    repository.publish(app)
    if state != "fresh":
        assert {get(mirror, one.path).status for one in release.evil.files} == {200}
    refuse(mirror, release)
    result = client.resolve(jvm, mirror.index_url, [app.coordinate])
    assert not result.succeeded
    # coursier tells neither the reason phrase nor the problem, whoever answers.
    assert (REASON if client is not COURSIER else "forbidden") in flat(result.output), result.told
    assert "is missing, no dependency information" not in result.output
    assert release.wanted("2.0") not in result.files
    assert no_trace(jvm, release)
    lift(mirror, release)
    again = client.resolve(jvm, mirror.index_url, [app.coordinate])
    assert again.succeeded, again.told
    assert again.files[release.wanted("2.0")].read_bytes() == release.evil.jar.content


@pytest.mark.slow
@pytest.mark.parametrize("client", [MAVEN_39, MAVEN_38, GRADLE_LIKE, COURSIER], ids=lambda client: client.name)
def test_a_range_and_latest_resolve_to_the_next_allowed_version(
    mirror: Edge, release: Release, jvm: JvmWorkspace, client: JvmClient
) -> None:
    refuse(mirror, release)
    latest = {MAVEN_39: "LATEST", MAVEN_38: "RELEASE", GRADLE_LIKE: "latest.release", COURSIER: "latest.release"}[client]
    options = ["-C"] if isinstance(client, Maven) else []
    for wanted in ("[1.0,3.0)", latest):
        result = client.resolve(jvm, mirror.index_url, [release.wanted(wanted)], options=options)
        assert result.succeeded, result.told
        assert result.resolved == [release.wanted("1.0")]
        jvm.empty_cache()


@pytest.mark.parametrize("kind", ["parent", "bom"])
def test_a_refused_parent_or_bom_says_so(
    mirror: Edge, repository: FakeMaven, jars: Jars, group: str, jvm: JvmWorkspace, kind: str
) -> None:
    lib = jars.component(f"{group}:lib:1.0")
    managing = jars.component(f"{group}:{kind}:1.0", packaging="pom", managed=[lib.coordinate])
    repository.publish(lib, managing)
    mirror.set_rules(Rule(f"pkg:maven/{group}/{kind}", REASON))
    wait_until(lambda: get(mirror, managing.pom.path).status == 403, SOON_S)
    more = {"parent": managing.coordinate} if kind == "parent" else {"imports": [managing.coordinate]}
    result = MAVEN_39.resolve(jvm, mirror.index_url, [f"{group}:lib:"], **more)
    assert not result.succeeded
    assert REASON in flat(result.output)
    mirror.set_rules()
    wait_until(lambda: get(mirror, managing.pom.path).status == 200, SOON_S)
    assert MAVEN_39.resolve(jvm, mirror.index_url, [f"{group}:lib:"], **more).resolved == [lib.coordinate]
