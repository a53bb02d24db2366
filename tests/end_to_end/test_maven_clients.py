"""The JVM clients through an edge: cold, warm, checked as strictly as they can, and with what only some of them ask for."""

from __future__ import annotations

import hashlib
import re

import pytest

from tests.fakes.maven import FakeMaven
from tests.gradle_like import GRADLE_LIKE, GradleLike
from tests.harness import Edge, Rule, wait_until
from tests.jars import Jars
from tests.jvm import COURSIER, JVM_CLIENTS, MAVEN_4, MAVEN_38, MAVEN_39, JvmClient, JvmWorkspace, Maven
from tests.maven_stage import asked_of, get, holds, sidecars_of, tree


@pytest.fixture(autouse=True)
def well_behaved_again(restored: None) -> None:
    """After each test."""


def resolved_of(group: str) -> list[str]:
    return [f"{group}:app:1.0", f"{group}:core:1.5", f"{group}:lib:1.0"]


@pytest.mark.slow
@pytest.mark.parametrize("client", [*JVM_CLIENTS, GRADLE_LIKE], ids=lambda client: client.name)
def test_a_clean_client_gets_everything_from_the_edge_the_second_time(
    repository: FakeMaven, mirror: Edge, jars: Jars, group: str, jvm: JvmWorkspace, client: JvmClient
) -> None:
    """Upstream sends no checksum headers; ours spare clients the checksum files all the same."""
    repository.publish(*tree(jars, group))
    repository.mode(checksum_headers=False)
    options = ["-C"] if isinstance(client, Maven) else []
    requires = [f"{group}:app:1.0"]
    cold = client.resolve(jvm, mirror.index_url, requires, options=options)
    assert cold.resolved == resolved_of(group), cold.told
    jvm.empty_cache()
    repository.forget()
    requests, since = mirror.upstream_requests(), len(mirror.log.read_text())
    warm = client.resolve(jvm, mirror.index_url, requires, options=options)
    assert warm.resolved == resolved_of(group), warm.told
    assert repository.seen() == []
    assert mirror.upstream_requests() == requests
    for version, name in (("1.5", "core"), ("1.0", "lib"), ("1.0", "app")):
        coordinate = f"{group}:{name}:{version}"
        published = next(one for one in tree(jars, group) if one.coordinate == coordinate)
        assert warm.files[coordinate].read_bytes() == published.jar.content
    sidecars = [path for path in asked_of(mirror, since) if path.endswith((".sha1", ".md5"))]
    if client in {MAVEN_39, MAVEN_4, COURSIER}:
        assert sidecars == []
    if client is MAVEN_4:
        assert "auto-discovered prefixes for remote repository edge" in warm.output
    if client is MAVEN_38:
        assert f"/maven/{published_jar(group)}.sha1" in sidecars


def published_jar(group: str) -> str:
    return f"{group.replace('.', '/')}/lib/1.0/lib-1.0.jar"


def test_a_file_and_its_checksum_cost_upstream_two_requests(repository: FakeMaven, mirror: Edge, jars: Jars, group: str) -> None:
    """A client that asks for the checksum at once gets what was just found out, bound or not."""
    for version in range(1, 21):
        one = jars.component(f"{group}:lib:{version}")
        repository.publish(one)
        repository.forget()
        assert get(mirror, one.jar.path).status == 200
        assert get(mirror, f"{one.jar.path}.sha1").body.decode() == one.jar.sha1
        assert repository.count(path=f"*/{one.jar.filename}*") == 2


@pytest.mark.slow
def test_metadata_that_a_rule_shortened_passes_strict_checks(
    repository: FakeMaven, mirror: Edge, jars: Jars, group: str, jvm: JvmWorkspace
) -> None:
    repository.publish(*tree(jars, group))
    mirror.set_rules(Rule(f"pkg:maven/{group}/core@1.5", "too new"))
    wait_until(lambda: get(mirror, f"{group.replace('.', '/')}/core/1.5/core-1.5.pom").status == 403)
    result = MAVEN_4.resolve(jvm, mirror.index_url, [f"{group}:lib:1.0"], options=["-C"])
    assert result.resolved == [f"{group}:core:1.0", f"{group}:lib:1.0"], result.told
    mirror.set_rules()
    wait_until(lambda: get(mirror, f"{group.replace('.', '/')}/core/1.5/core-1.5.pom").status == 200)


@pytest.mark.slow
def test_plugin_prefixes_parents_and_imports_come_through(
    repository: FakeMaven, mirror: Edge, jars: Jars, group: str, jvm: JvmWorkspace
) -> None:
    repository.publish(*tree(jars, group))
    result = MAVEN_39.resolve(
        jvm, mirror.index_url, [f"{group}:lib:"], parent=f"{group}:parent:4", goal="probe:resolve", options=["-C"]
    )
    assert result.resolved == [f"{group}:core:1.5", f"{group}:lib:1.0"], result.told


def test_prefixes_are_passed_on_with_checksums_of_our_own(repository: FakeMaven, mirror: Edge) -> None:
    path = ".meta/prefixes.txt"
    reply = get(mirror, path)
    assert reply.body.decode() == repository.text(f"/maven2/{path}")
    for name, told in sidecars_of(mirror, path).items():
        assert told == reply.headers[f"x-checksum-{name}"] == hashlib.new(name, reply.body, usedforsecurity=False).hexdigest()


def test_gradle_finds_strong_digests_in_the_module_file(
    repository: FakeMaven, mirror: Edge, jars: Jars, group: str, jvm: JvmWorkspace
) -> None:
    repository.publish(*tree(jars, group))
    client = GradleLike(module_first=True, signatures=True)
    result = client.resolve(jvm, mirror.index_url, [f"{group}:app:1.0"])
    assert result.resolved == resolved_of(group), result.told
    lib = f"{group.replace('.', '/')}/lib/1.0/lib-1.0"
    assert repository.count(path=f"/maven2/{lib}.module") == 1
    # Bytes that only their SHA-1 vouches for, and a module file that is held and says otherwise.
    swapped = jars.component(f"{group}:lib:1.0", seed="swapped", size=300_000)
    jar = swapped.jar
    for blob in mirror.blobs():
        if blob.name == next(one for one in tree(jars, group) if one.artifact == "lib").jar.sha256:
            blob.unlink()
    repository.publish(swapped, listed=False)
    reply = get(mirror, jar.path)
    assert reply.status == 502 or reply.short
    assert not holds(mirror, jar)


@pytest.mark.slow
def test_the_blocker_of_plain_http_is_told_as_documented(
    repository: FakeMaven, mirror: Edge, jars: Jars, group: str, jvm: JvmWorkspace
) -> None:
    """Maven's own settings block http repositories elsewhere; a mirror of ours on loopback, or one that captures them, is no such."""
    repository.publish(*tree(jars, group))
    elsewhere = {"elsewhere": "http://repo.maven.test/maven2/"}
    requires = [f"{group}:core:1.0", f"{group}:nowhere:1.0"]
    blocked = MAVEN_39.resolve(jvm, mirror.index_url, requires, repositories=elsewhere, mirror_of="central", global_settings=True)
    assert not blocked.succeeded
    assert "maven-default-http-blocker" in blocked.output
    assert re.search(r"Blocked mirror for repositories: \[elsewhere \(http://repo\.maven\.test/maven2/", blocked.output)
    captured = MAVEN_39.resolve(jvm, mirror.index_url, requires[:1], repositories=elsewhere, global_settings=True)
    assert captured.resolved == requires[:1], captured.told
