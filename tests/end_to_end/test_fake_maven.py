"""The fake Maven repository answers as Central does, and the real JVM clients resolve from it alone."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import jvm
from tests.fakes.maven import FakeMaven
from tests.gradle_like import GRADLE_LIKE, GradleLike
from tests.harness import Reply, ask
from tests.jars import Component, Jars, SigningKey
from tests.jvm import COURSIER, GRADLE, IMPLIED, JVM_CLIENTS, MAVEN_4, MAVEN_38, MAVEN_39, MAVENS, JvmClient, JvmWorkspace, Maven
from tests.wheels import KB


@pytest.fixture(scope="session")
def jars(scratch: Path) -> Jars:
    return Jars(scratch / "jars")


@pytest.fixture(scope="module")
def one_fake() -> Iterator[FakeMaven]:
    with FakeMaven.start() as fake:
        yield fake


@pytest.fixture
def maven(one_fake: FakeMaven) -> FakeMaven:
    """The module's fake, with nothing published."""
    one_fake.reset()
    return one_fake


@pytest.fixture
def tree(maven: FakeMaven, jars: Jars) -> FakeMaven:
    """A small world: ``lib`` wants ``core`` in a range, ``app-parent`` and ``bom`` manage versions; and the plugin that resolves."""
    maven.publish(
        *(jars.component(f"org.example:core:{version}") for version in ("1.0", "1.5", "2.0")),
        jars.component("org.example:lib:1.0", requires=["org.example:core:[1.0,2.0)"]),
        jars.component("org.example:bom:3", packaging="pom", managed=["org.example:lib:1.0"]),
        jars.component("org.example:app-parent:4", packaging="pom", managed=["com.example.other:tool:0.1"]),
        jars.component("com.example.other:tool:0.1", classifiers=["sources"]),
        jars.plugin(MAVEN_39.home / "lib"),
        jars.component(IMPLIED),
    )
    maven.forget()
    return maven


def get(maven: FakeMaven, path: str, method: str = "GET", **headers: str) -> Reply:
    """Ask for a path below the releases; header names are spelt with underscores."""
    return ask(maven.url + path, {name.replace("_", "-"): value for name, value in headers.items()}, method)


# ---- the tree --------------------------------------------------------------------------------------------------------


def test_a_file_has_its_checksums_in_headers_and_beside_it(maven: FakeMaven, jars: Jars) -> None:
    lib = jars.component("org.example:lib:1.0", size=100 * KB)
    maven.publish(lib)
    reply = get(maven, lib.jar.path)
    assert (reply.status, reply.body) == (200, lib.jar.content)
    assert reply.headers["etag"] == f'"{lib.jar.md5}"'
    assert (reply.headers["x-checksum-sha1"], reply.headers["x-checksum-md5"]) == (lib.jar.sha1, lib.jar.md5)
    assert get(maven, lib.jar.path + ".sha1").body == lib.jar.sha1.encode()
    assert get(maven, lib.jar.path + ".md5").body == lib.jar.md5.encode()
    missing = get(maven, lib.jar.path + ".sha256")
    assert missing.status == 404
    assert len(missing.body) < 200
    head = get(maven, lib.jar.path, "HEAD")
    assert head.body == b""
    assert {**head.headers, "date": ""} == {**reply.headers, "date": ""}


def test_a_file_honours_conditions_and_ranges(maven: FakeMaven, jars: Jars) -> None:
    jar = jars.component("org.example:lib:1.0", size=100 * KB).jar
    maven.publish(jars.component("org.example:lib:1.0", size=100 * KB))
    whole = get(maven, jar.path)
    assert get(maven, jar.path, If_None_Match=whole.headers["etag"]).status == 304
    assert get(maven, jar.path, If_Modified_Since=whole.headers["last-modified"]).status == 304
    part = get(maven, jar.path, Range="bytes=10-", If_Unmodified_Since=whole.headers["last-modified"])
    assert (part.status, part.body) == (206, whole.body[10:])
    assert get(maven, jar.path, Range="bytes=10-", If_Unmodified_Since="Thu, 01 Jan 1998 00:00:00 GMT").status == 412


@pytest.mark.parametrize(
    ("style", "written"),
    [
        ("bare", "{sha1}"),
        ("newline", "{sha1}\n"),
        ("upper", "{SHA1}"),
        ("named", "{sha1}  lib-1.0.jar\n"),
        ("label", "lib-1.0.jar: {sha1}\n"),
        ("openssl", "SHA1(lib-1.0.jar)= {sha1}\n"),
    ],
)
def test_checksums_are_written_as_history_wrote_them(maven: FakeMaven, jars: Jars, style: str, written: str) -> None:
    lib = jars.component("org.example:lib:1.0")
    maven.publish(lib)
    maven.mode(style=style, checksum_headers=False)
    assert get(maven, lib.jar.path + ".sha1").body.decode() == written.format(sha1=lib.jar.sha1, SHA1=lib.jar.sha1.upper())
    assert "x-checksum-sha1" not in get(maven, lib.jar.path).headers
    maven.mode(sidecars="sha512")
    assert get(maven, lib.jar.path + ".sha1").status == 404
    assert lib.jar.sha512 in get(maven, lib.jar.path + ".sha512").body.decode().lower()


def test_metadata_follows_what_is_published(maven: FakeMaven, jars: Jars) -> None:
    path = "org/example/lib/maven-metadata.xml"
    assert get(maven, path).status == 404
    first, second = jars.component("org.example:lib:1.0"), jars.component("org.example:lib:1.1")
    maven.publish(first)
    before = get(maven, path)
    maven.publish(second)
    after = get(maven, path)
    assert b"<version>1.1</version>" not in before.body
    assert b"<latest>1.1</latest>\n    <release>1.1</release>" in after.body
    assert after.headers["etag"] != before.headers["etag"]
    assert after.headers["last-modified"] > before.headers["last-modified"]
    assert get(maven, path + ".sha1").body.decode() == hashlib.sha1(after.body, usedforsecurity=False).hexdigest()
    stale = maven.misbehave("*/maven-metadata.xml*", old_serial=True)
    assert get(maven, path).body == before.body
    maven.behave(stale)
    maven.describe("org.example:lib", latest="1.0", release="")
    told = get(maven, path).body
    assert b"<latest>1.0</latest>" in told
    assert b"<release>" not in told
    maven.withdraw_version(second)
    assert b"<version>1.1</version>" not in get(maven, path).body
    assert get(maven, second.jar.path).status == 404
    assert get(maven, first.jar.path).status == 200


def test_a_file_that_is_withdrawn_or_replaced_leaves_metadata_alone(maven: FakeMaven, jars: Jars) -> None:
    lib, other = jars.component("org.example:lib:1.0"), jars.component("org.example:lib:1.0", seed="other")
    maven.publish(lib)
    document = get(maven, "org/example/lib/maven-metadata.xml").body
    maven.publish(other, listed=False)
    assert get(maven, lib.jar.path).body == other.jar.content != lib.jar.content
    maven.withdraw(maven.path_of(lib.jar))
    assert get(maven, lib.jar.path).status == get(maven, lib.jar.path + ".sha1").status == 404
    assert get(maven, "org/example/lib/maven-metadata.xml").body == document
    maven.put("/maven2/org/example/lib/maven-metadata.xml", "<metadata/>")
    assert get(maven, "org/example/lib/maven-metadata.xml").body == b"<metadata/>"


def test_a_timestamped_snapshot_is_found_through_its_metadata(maven: FakeMaven, jars: Jars) -> None:
    old = jars.component("org.example:lib:2-SNAPSHOT", stamp=("20240101.120000", 1), classifiers=["sources"])
    new = jars.component("org.example:lib:2-SNAPSHOT", stamp=("20240102.120000", 2), archives=["tar.gz"])
    maven.publish(old, new)
    document = ask(f"{maven.snapshots_url}org/example/lib/2-SNAPSHOT/maven-metadata.xml").body.decode()
    assert "<timestamp>20240102.120000</timestamp><buildNumber>2</buildNumber>" in document
    assert "<extension>tar.gz</extension><value>2-20240102.120000-2</value>" in document
    assert "<version>2-SNAPSHOT</version>" in ask(f"{maven.snapshots_url}org/example/lib/maven-metadata.xml").body.decode()
    for one in (old.jar, new.jar):
        assert ask(maven.index_root + maven.path_of(one)).body == one.content
    assert get(maven, new.jar.path).status == 404


def test_groups_prefixes_and_catalogue_are_told(tree: FakeMaven, jars: Jars) -> None:
    assert b"<prefix>probe</prefix>" in get(tree, "org/example/build/maven-metadata.xml").body
    assert get(tree, ".meta/prefixes.txt").body.decode().splitlines()[3:] == ["/com/example", "/org/codehaus", "/org/example"]
    tree.mode(prefixes="unsupported")
    assert get(tree, ".meta/prefixes.txt").body == b"@ unsupported\n"
    tree.mode(prefixes="")
    assert get(tree, ".meta/prefixes.txt").status == 404
    tree.publish(jars.component("org.example:simple-archetype:1.0"))
    assert b"<artifactId>simple-archetype</artifactId>" in get(tree, "archetype-catalog.xml").body


def test_churning_metadata_is_another_at_each_request(tree: FakeMaven) -> None:
    path = "org/example/core/maven-metadata.xml"
    tree.mode(churn="documents")
    first, second = get(tree, path).body, get(tree, path).body
    assert first != second
    assert get(tree, path + ".sha1").body.decode() == hashlib.sha1(second, usedforsecurity=False).hexdigest()
    tree.mode(churn="all")
    last = get(tree, path).body
    assert get(tree, path + ".sha1").body.decode() != hashlib.sha1(last, usedforsecurity=False).hexdigest()


def test_a_throttling_repository_says_when_to_come_back(tree: FakeMaven) -> None:
    tree.mode(throttle=2, retry_after="7")
    path = "org/example/core/maven-metadata.xml"
    assert [get(tree, path).status for _ in range(3)] == [200, 200, 429]
    assert get(tree, path).headers["retry-after"] == "7"


def test_requests_are_told_apart(maven: FakeMaven, jars: Jars) -> None:
    lib = jars.component("org.example:lib:1.0", module=True, archives=["tar.gz"])
    maven.publish(lib)
    paths = [lib.pom.path, lib.module.path, lib.jar.path, lib.file("tar.gz").path, lib.jar.path + ".sha1", lib.jar.path + ".asc"]
    paths += ["org/example/lib/maven-metadata.xml", ".meta/prefixes.txt", "archetype-catalog.xml", "org/example/lib/"]
    for path in paths:
        get(maven, path)
    kinds = ["pom", "module", "jar", "jar", "checksum", "signature", "metadata", "prefixes", "catalog", "other"]
    assert [seen.kind for seen in maven.seen()] == kinds


def test_two_repositories_stand_side_by_side(maven: FakeMaven, jars: Jars) -> None:
    mine, theirs = jars.component("org.example:lib:1.0"), jars.component("org.example:lib:1.0", seed="theirs")
    with FakeMaven.start() as other:
        maven.publish(mine)
        other.publish(theirs)
        assert (get(maven, mine.jar.path).body, get(other, mine.jar.path).body) == (mine.jar.content, theirs.jar.content)
        assert (maven.count(kind="jar"), other.count(kind="jar")) == (1, 1)


# ---- what is published -----------------------------------------------------------------------------------------------


def test_a_component_is_the_same_bytes_every_time(jars: Jars, tmp_path: Path) -> None:
    def made(where: Jars) -> Component:
        return where.component(
            "org.example:lib:1.0", size=50 * KB, classifiers=["sources"], archives=["tar.gz", "zip"], module=True
        )

    first, second = made(jars), made(Jars(tmp_path))
    assert [(one.path, one.sha512) for one in first.files] == [(one.path, one.sha512) for one in second.files]
    with zipfile.ZipFile(first.jar.source) as archive:
        assert archive.testzip() is None
    assert first.jar.size >= 50 * KB
    assert f'"sha256": "{first.jar.sha256}"' in first.module.content.decode()


def test_signatures_verify_with_the_public_key_alone(jars: Jars, tmp_path: Path) -> None:
    home = tmp_path / "gpg"
    home.mkdir(mode=0o700)
    with SigningKey.made() as key:
        lib = jars.signed(jars.component("org.example:lib:1.0"), key)
        (tmp_path / "keys.asc").write_bytes(key.public)
    keyring = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--no-autostart"]
    subprocess.run([*keyring, "--import", str(tmp_path / "keys.asc")], check=True, capture_output=True)
    told = subprocess.run(
        [*keyring, "--status-fd", "1", "--verify", str(lib.file("jar.asc").source), str(lib.jar.source)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert f"VALIDSIG {key.fingerprint}" in told.stdout
    assert [one.filename for one in lib.files if one.filename.endswith(".asc")] == ["lib-1.0.pom.asc", "lib-1.0.jar.asc"]


# ---- the clients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", [*JVM_CLIENTS, GRADLE_LIKE], ids=lambda client: client.name)
def test_every_client_resolves_from_the_fake_alone(client: JvmClient, tree: FakeMaven, jars: Jars, tmp_path: Path) -> None:
    resolution = client.resolve(JvmWorkspace(tmp_path), tree.url, ["org.example:lib:1.0", "com.example.other:tool:0.1"])
    assert resolution.succeeded, resolution.output
    assert resolution.resolved == ["com.example.other:tool:0.1", "org.example:core:1.5", "org.example:lib:1.0"]
    core = jars.component("org.example:core:1.5")
    assert resolution.files["org.example:core:1.5"].read_bytes() == core.jar.content
    assert {seen.path for seen in tree.seen() if seen.status != 200} <= {"/maven2/org/example/core/"}


@pytest.mark.parametrize("client", MAVENS, ids=lambda client: client.name)
def test_maven_follows_parents_imports_and_plugin_prefixes(client: Maven, tree: FakeMaven, tmp_path: Path) -> None:
    workspace = JvmWorkspace(tmp_path)
    resolution = client.resolve(
        workspace,
        tree.url,
        ["org.example:lib:", "com.example.other:tool:"],
        parent="org.example:app-parent:4",
        imports=["org.example:bom:3"],
        goal="probe:resolve",
    )
    assert resolution.succeeded, resolution.output
    assert resolution.resolved == ["com.example.other:tool:0.1", "org.example:core:1.5", "org.example:lib:1.0"]
    asked = {seen.path for seen in tree.seen(kind="metadata")}
    assert {"/maven2/org/example/build/maven-metadata.xml", "/maven2/org/example/core/maven-metadata.xml"} <= asked


@pytest.mark.parametrize("told", [True, False], ids=["with headers", "without headers"])
@pytest.mark.parametrize("client", MAVENS, ids=lambda client: client.name)
def test_checksum_headers_spare_newer_mavens_the_checksum_files(
    client: Maven, told: bool, tree: FakeMaven, tmp_path: Path
) -> None:
    tree.mode(checksum_headers=told)
    resolution = client.resolve(JvmWorkspace(tmp_path), tree.url, ["org.example:lib:1.0"], options=["-C"])
    assert resolution.succeeded, resolution.output
    wanted = {seen.path for kind in ("pom", "jar", "metadata") for seen in tree.seen(kind=kind)}
    checked = {seen.path.removesuffix(".sha1") for seen in tree.seen(kind="checksum")}
    if told and client is not MAVEN_38:
        assert not checked
    else:
        assert checked - {"/maven2/.meta/prefixes.txt"} == wanted


def test_maven_keeps_no_wrong_file_when_it_is_strict(tree: FakeMaven, tmp_path: Path) -> None:
    tree.misbehave("*/core-1.5.jar", flip=100)
    resolution = MAVEN_39.resolve(JvmWorkspace(tmp_path), tree.url, ["org.example:lib:1.0"], options=["-C"])
    assert not resolution.succeeded
    assert "Checksum validation failed" in resolution.output


def test_maven_takes_the_newest_snapshot(tree: FakeMaven, jars: Jars, tmp_path: Path) -> None:
    coordinate = "org.example:snap:1-SNAPSHOT"
    old, new = (jars.component(coordinate, stamp=(f"20240101.12000{build}", build)) for build in (1, 2))
    tree.publish(old, new)
    resolution = MAVEN_39.resolve(
        JvmWorkspace(tmp_path),
        tree.url,
        [coordinate],
        repositories={"snapshots": tree.snapshots_url},
        mirror_of="central",
    )
    assert resolution.succeeded, resolution.output
    assert resolution.files["org.example:snap:1-20240101.120002-2"].read_bytes() == new.jar.content


@pytest.mark.slow
@pytest.mark.parametrize("client", [GRADLE, GRADLE_LIKE], ids=lambda client: client.name)
def test_gradle_asks_with_head_before_it_fetches_again(client: JvmClient, tree: FakeMaven, jars: Jars, tmp_path: Path) -> None:
    """Ours asks for the very same as the real one."""
    coordinate = "org.example:snap:1-SNAPSHOT"
    tree.publish(jars.component(coordinate, stamp=("20240101.120001", 1)))
    workspace = JvmWorkspace(tmp_path)
    assert client.resolve(workspace, tree.snapshots_url, [coordinate]).resolved == [coordinate]
    assert [(seen.method, seen.kind) for seen in tree.seen()] == [("GET", "metadata"), ("GET", "pom"), ("GET", "jar")]
    tree.forget()
    assert client.resolve(workspace, tree.snapshots_url, [coordinate]).succeeded
    assert [(seen.method, seen.kind) for seen in tree.seen()] == [("HEAD", "metadata"), ("HEAD", "pom"), ("HEAD", "jar")]
    tree.publish(jars.component(coordinate, stamp=("20240101.120002", 2), seed="new"))
    tree.forget()
    assert client.resolve(workspace, tree.snapshots_url, [coordinate]).succeeded
    told = [("HEAD", "metadata"), ("GET", "metadata"), ("HEAD", "pom"), ("GET", "pom"), ("HEAD", "jar"), ("GET", "jar")]
    assert [(seen.method, seen.kind) for seen in tree.seen()] == told


@pytest.mark.parametrize("client", [GRADLE, GRADLE_LIKE], ids=lambda client: client.name)
def test_gradle_looks_for_the_jar_beside_a_pom_that_has_none(
    client: JvmClient, tree: FakeMaven, jars: Jars, tmp_path: Path
) -> None:
    tree.publish(jars.component("org.example:all:1.0", packaging="pom", requires=["org.example:core:1.0"]))
    workspace = JvmWorkspace(tmp_path)
    assert client.resolve(workspace, tree.url, ["org.example:all:1.0"]).resolved == ["org.example:core:1.0"]
    assert [seen.path for seen in tree.seen() if seen.method == "HEAD"] == ["/maven2/org/example/all/1.0/all-1.0.jar"]
    tree.forget()
    assert client.resolve(workspace, tree.url, ["org.example:all:1.0"]).succeeded
    assert tree.seen() == []


def test_the_marker_leads_to_the_module_file(tree: FakeMaven, jars: Jars, tmp_path: Path) -> None:
    marked = jars.component("org.example:marked:1.0", module=True, requires=["org.example:core:1.0"])
    tree.publish(marked)
    resolution = GRADLE_LIKE.resolve(JvmWorkspace(tmp_path / "1"), tree.url, ["org.example:marked:1.0"])
    assert resolution.resolved == ["org.example:core:1.0", "org.example:marked:1.0"]
    asked = [seen.kind for seen in tree.seen(path="*/marked-1.0*")]
    assert asked == ["pom", "module", "jar"]
    tree.forget()
    other = GradleLike(module_first=True, signatures=True)
    assert other.resolve(JvmWorkspace(tmp_path / "2"), tree.url, ["org.example:marked:1.0"]).succeeded
    assert [seen.kind for seen in tree.seen(path="*/marked-1.0*")] == ["module", "signature", "jar", "signature"]
    assert [(seen.kind, seen.status) for seen in tree.seen(path="*/core-1.0.*")][:3] == [
        ("module", 404),
        ("pom", 200),
        ("signature", 404),
    ]


@pytest.mark.parametrize(("status", "attempts"), [(403, 1), (429, 3), (503, 3)])
def test_a_failure_disables_the_repository_for_the_rest_of_the_build(
    status: int, attempts: int, tree: FakeMaven, tmp_path: Path
) -> None:
    body = '{"title": "Refused", "detail": "core is refused: too old"}'
    tree.misbehave("*/core-1.5.jar", status=status, body=body, media_type="application/problem+json")
    resolution = GRADLE_LIKE.resolve(JvmWorkspace(tmp_path), tree.url, ["org.example:core:1.5", "org.example:lib:1.0"])
    assert not resolution.succeeded
    assert f"Received status code {status} from server: core is refused: too old" in resolution.output
    assert tree.count(path="*/core-1.5.jar") == attempts
    assert tree.count(path="*/lib-1.0.jar") == 0


def test_what_was_nowhere_is_looked_for_again(maven: FakeMaven, jars: Jars, tmp_path: Path) -> None:
    workspace = JvmWorkspace(tmp_path)
    assert "Could not find org.example:core:1.0" in GRADLE_LIKE.resolve(workspace, maven.url, ["org.example:core:1.0"]).output
    maven.publish(jars.component("org.example:core:1.0"))
    assert GRADLE_LIKE.resolve(workspace, maven.url, ["org.example:core:1.0"]).succeeded


def test_coursier_checks_what_it_is_given(tree: FakeMaven, tmp_path: Path) -> None:
    tree.misbehave("*/core-1.5.jar", flip=100)
    tree.mode(checksum_headers=False)
    resolution = COURSIER.resolve(JvmWorkspace(tmp_path), tree.url, ["org.example:lib:1.0"])
    assert not resolution.succeeded
    assert "checksum" in resolution.output.lower()


def test_maven_4_asks_for_prefixes(tree: FakeMaven, tmp_path: Path) -> None:
    assert MAVEN_4.resolve(JvmWorkspace(tmp_path), tree.url, ["org.example:core:1.0"]).succeeded
    assert tree.count(kind="prefixes") == 1


def test_a_missing_client_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(jvm, "JVM_TOOLS", tmp_path)
    with pytest.raises(RuntimeError, match="`make test` installs"):
        MAVEN_39.resolve(JvmWorkspace(tmp_path), "http://127.0.0.1:9/", [])
