"""What a request to a Maven mirror means: coordinates, documents, sidecars, refusals."""

from __future__ import annotations

import pytest

from origin.model import Digest, Entry, File, Local, Page
from origin.registries import Options, Registry
from origin.registries import maven_paths as paths
from origin.registries.maven import Maven

UPSTREAM = "https://maven.test/maven2/"
REGISTRY: Registry = Maven("maven", UPSTREAM)
LIB = "org/example/lib"
SHA1 = "a" * 40


def file(target: str) -> File:
    meant = REGISTRY.resource("GET", target)
    assert isinstance(meant, File), target
    return meant


# ---- coordinates


@pytest.mark.parametrize(
    ("target", "project", "version", "classifier", "extension", "ending"),
    [
        ("junit/junit/4.13.2/junit-4.13.2.jar", "junit/junit", "4.13.2", "", "jar", ""),
        (f"{LIB}/1.0/lib-1.0.pom", "org.example/lib", "1.0", "", "pom", ""),
        (f"{LIB}/1.0/lib-1.0.module", "org.example/lib", "1.0", "", "module", ""),
        (f"{LIB}/1.0/lib-1.0-sources.jar", "org.example/lib", "1.0", "sources", "jar", ""),
        (f"{LIB}/1.0/lib-1.0-linux-x86_64.1.2.so", "org.example/lib", "1.0", "linux-x86_64.1.2", "so", ""),
        (f"{LIB}/1.0/lib-1.0-bin.tar.gz", "org.example/lib", "1.0", "bin", "tar.gz", ""),
        (f"{LIB}/1.0/lib-1.0.tar.zst", "org.example/lib", "1.0", "", "tar.zst", ""),
        (f"{LIB}/1.0/lib-1.0-a.b-c.d.tar.bz2.sha512", "org.example/lib", "1.0", "a.b-c.d", "tar.bz2", ".sha512"),
        (f"{LIB}/1.0/lib-1.0.spdx.json", "org.example/lib", "1.0", "", "spdx.json", ""),
        (f"{LIB}/1.0/lib-1.0.7z", "org.example/lib", "1.0", "", "7z", ""),
        (f"{LIB}/1.0/lib-1.0.jar.asc", "org.example/lib", "1.0", "", "jar", ".asc"),
        (f"{LIB}/1.0/lib-1.0.jar.asc.sha1", "org.example/lib", "1.0", "", "jar", ".asc.sha1"),
        (f"{LIB}/1.0/lib-1.0.jar.sigstore.json", "org.example/lib", "1.0", "", "jar", ".sigstore.json"),
        (f"{LIB}/1.0/lib-1.0.jar.sigstore.json.asc.md5", "org.example/lib", "1.0", "", "jar", ".sigstore.json.asc.md5"),
        (f"{LIB}/1.0-SNAPSHOT/lib-1.0-20240101.120000-3.jar", "org.example/lib", "1.0-SNAPSHOT", "", "jar", ""),
        (f"{LIB}/1.0-SNAPSHOT/lib-1.0-20240101.120000-3-tests.jar", "org.example/lib", "1.0-SNAPSHOT", "tests", "jar", ""),
        (f"{LIB}/1.0-SNAPSHOT/lib-1.0-SNAPSHOT-tests.jar", "org.example/lib", "1.0-SNAPSHOT", "tests", "jar", ""),
        (f"{LIB}/SNAPSHOT/lib-20240101.120000-3.jar", "org.example/lib", "SNAPSHOT", "", "jar", ""),
        ("a/b/cats-core_2.13/2.10.0/cats-core_2.13-2.10.0.jar", "a.b/cats-core_2.13", "2.10.0", "", "jar", ""),
        (
            "com/x/com.x.gradle.plugin/1/com.x.gradle.plugin-1.pom",
            "com.x/com.x.gradle.plugin",
            "1",
            "",
            "pom",
            "",
        ),
        (f"{LIB}/1.0%20x/lib-1.0%20x.jar", "org.example/lib", "1.0 x", "", "jar", ""),
        (f"{LIB}/1~2!3,4/lib-1~2!3,4.jar", "org.example/lib", "1~2!3,4", "", "jar", ""),
    ],
)
def test_a_path_tells_its_coordinates(
    target: str, project: str, version: str, classifier: str, extension: str, ending: str
) -> None:
    meant = file(target)
    path = target.replace("%20", " ")
    assert meant == File("maven", project, version, path.rpartition("/")[2], path)
    found = paths.read_file(tuple(path.split("/")))
    assert found is not None
    assert (found.classifier, found.extension, found.ending) == (classifier, extension, ending)
    assert REGISTRY.locate(meant, None) == UPSTREAM + target


@pytest.mark.parametrize(
    "target",
    [
        "lib/1.0/lib-1.0.jar",  # no group
        f"{LIB}/1.0/other-1.0.jar",
        f"{LIB}/1.0/lib-1.1.jar",
        f"{LIB}/1.0/lib-1.0",
        f"{LIB}/1.0/lib-1.0.",
        f"{LIB}/1.0/lib-1.0-.jar",
        f"{LIB}/1.0/lib-1.0.1.jar",  # another version's, by the look of it
        f"{LIB}/1.0/lib-1.0x.jar",
        f"{LIB}/1.0/lib-1.0.jar.sha1.md5",
        f"{LIB}/1.0/lib-1.0.sha1",
        f"{LIB}/1.0/LIB-1.0.jar",
        f"{LIB}/1.0-snapshot/lib-1.0-20240101.120000-3.jar",
        f"{LIB}/1.0/lib-1.0-20240101.120000-3",
        f"{LIB}/1.0-SNAPSHOT/lib-1.1-20240101.120000-3.jar",
        "org.example/x/lib/1.0/lib-1.0.jar",  # the same coordinates as org/example/x, at another path
        "org/ex%20ample/lib/1.0/lib-1.0.jar",
        "org/example/.lib/1.0/.lib-1.0.jar",
        f"{LIB}/1.0@x/lib-1.0@x.jar",
        f"{LIB}/1.0/lib-1.0.jar@{SHA1}",
        f"{LIB}/1.0/maven-metadata.xml.asc",
        f"{LIB}/maven-metadata-central.xml",
        "maven-metadata.xml",
        "x/1.0-SNAPSHOT/maven-metadata.xml",
        ".index/nexus-maven-repository-index.gz",
        ".index/nexus-maven-repository-index.properties",
        ".meta/other.txt",
        "archetype-catalog.xml.asc",
        "robots.txt.sha1",
        "org",
        LIB,
        f"{LIB}/1.0",
    ],
)
def test_what_follows_no_layout_is_not_there(target: str) -> None:
    assert REGISTRY.resource("GET", target) is None


def test_plus_and_its_encoding_are_one_key_and_case_matters() -> None:
    plain = file(f"{LIB}/1.0+b/lib-1.0+b.jar")
    assert file(f"{LIB}/1.0%2Bb/lib-1.0%2bb.jar") == file(f"{LIB}/1.0+b/lib-1.0%2Bb.jar") == plain
    assert plain.version == "1.0+b"
    assert REGISTRY.locate(plain, None) == f"{UPSTREAM}{LIB}/1.0+b/lib-1.0+b.jar"
    assert file("org/Example/lib/1.0/lib-1.0.jar") != file("org/example/lib/1.0/lib-1.0.jar")
    assert file("or%67/example/lib/1.0/lib-1.0.jar") == file("org/example/lib/1.0/lib-1.0.jar")


@pytest.mark.parametrize(
    "target",
    [
        "org/../lib/1.0/lib-1.0.jar",
        "org/%2e%2e/lib/1.0/lib-1.0.jar",
        "org%2fexample/lib/1.0/lib-1.0.jar",
        "org//example/lib/1.0/lib-1.0.jar",
        "/org/example/lib/1.0/lib-1.0.jar",
        "org/./lib/1.0/lib-1.0.jar",
        "org\\example/lib/1.0/lib-1.0.jar",
        "org/example/lib/1.0/lib-1.0%00.jar",
        "org/example/lib/1.0/lib-1.0%252e.jar",
        "org/example/lib/%ff/lib-1.0.jar",
        f"org/example/lib/1.0/lib-1.0-{'x' * 250}.jar",
        "org/example/lib/1.0/..%2f..%2fx.jar",
    ],
)
def test_tricks_are_malformed(target: str) -> None:
    with pytest.raises(ValueError):
        REGISTRY.resource("GET", target)


@pytest.mark.parametrize("version", ["1.0.0.SNAPSHOT", "1.0SNAPSHOT", "1.0-SNAPSHOT", "SNAPSHOT"])
def test_what_the_resolver_takes_for_a_snapshot_may_change(version: str) -> None:
    jar = REGISTRY.resource("GET", f"{LIB}/{version}/lib-{version}.jar")
    assert isinstance(jar, File)
    assert REGISTRY.listing_page(jar) == Page("maven", "org.example/lib", f"file/{jar.path}")
    page = REGISTRY.resource("GET", f"{LIB}/{version}/maven-metadata.xml")
    assert page == Page("maven", "org.example/lib", f"snapshot/{version}")


# ---- documents


@pytest.mark.parametrize(
    ("target", "project", "view"),
    [
        (f"{LIB}/maven-metadata.xml", "org.example/lib", ""),
        ("org/apache/maven/plugins/maven-metadata.xml", "org.apache.maven/plugins", ""),
        ("junit/maven-metadata.xml", "", "group/junit"),
        (f"{LIB}/1.0-SNAPSHOT/maven-metadata.xml", "org.example/lib", "snapshot/1.0-SNAPSHOT"),
        (".meta/prefixes.txt", "", "prefixes"),
        (".meta/repository-metadata.xml", "", "repository"),
        ("archetype-catalog.xml", "", "catalog"),
    ],
)
def test_a_document_and_its_checksums_are_views_of_one_page(target: str, project: str, view: str) -> None:
    page = Page("maven", project, view)
    assert REGISTRY.resource("GET", target) == page
    assert REGISTRY.basis(page) == page
    assert REGISTRY.locate(page, None) == UPSTREAM + target
    for algorithm in ("md5", "sha1", "sha256", "sha512"):
        checksum = REGISTRY.resource("GET", f"{target}.{algorithm}")
        assert isinstance(checksum, Page)
        assert checksum != page
        assert REGISTRY.basis(checksum) == page
        assert REGISTRY.variants(checksum) == ("text/plain",)
        assert REGISTRY.version_of(checksum) == REGISTRY.version_of(page)
        assert REGISTRY.locate(checksum, None) == f"{UPSTREAM}{target}.{algorithm}"
    assert REGISTRY.version_of(page) == ("1.0-SNAPSHOT" if "SNAPSHOT" in view else None)
    (evidence,) = REGISTRY.evidence(page)
    assert (evidence.filename, evidence.path) == (target.rpartition("/")[2] + ".sha1", target + ".sha1")
    assert REGISTRY.expected(evidence, None) == Entry(evidence, UPSTREAM + target + ".sha1")
    assert REGISTRY.vouched(page, {evidence.filename: SHA1.encode()}) == (Digest("sha1", SHA1),)
    assert REGISTRY.vouched(page, {}) == ()


def test_documents_live_as_long_as_their_kind_does() -> None:
    def life(view: str, fresh_s: float) -> float:
        return REGISTRY.life_s(Page("maven", "g/a", view), fresh_s)

    assert [life("", 600), life("group/g", 600), life("snapshot/1-SNAPSHOT", 600), life("file/x", 60)] == [600, 600, 300, 60]
    assert [life("prefixes", 600), life("catalog", 600), life("repository", 600)] == [86400] * 3


# ---- what is answered here


def test_uploads_are_refused_and_other_methods_do_not_exist() -> None:
    target = f"{LIB}/1.0/lib-1.0.jar"
    put = REGISTRY.resource("PUT", target)
    assert isinstance(put, Local)
    assert put.status == 403
    assert "read-only" in put.message
    for method in ("OPTIONS", "PROPFIND", "MKCOL", "DELETE", "POST", "PATCH"):
        meant = REGISTRY.resource(method, target)
        assert isinstance(meant, Local) and meant.status == 405


@pytest.mark.parametrize(
    "target", ["", "org/", f"{LIB}/", f"{LIB}/1.0/", f"{LIB}/index.html", "index.html", f"{LIB}/1.0/lib-1.0.jar/"]
)
def test_directories_are_not_listed_and_that_is_said(target: str) -> None:
    meant = REGISTRY.resource("GET", target)
    assert isinstance(meant, Local)
    assert meant.status == 404
    assert "director" in meant.message


def test_robots_are_told_to_stay_away_without_asking_upstream() -> None:
    robots = REGISTRY.resource("GET", "robots.txt")
    assert isinstance(robots, Local)
    assert (robots.status, robots.media_type) == (200, "text/plain")
    assert b"Disallow: /" in robots.body
    icon = REGISTRY.resource("GET", "favicon.ico")
    assert isinstance(icon, Local) and icon.status == 404


# ---- files


def test_a_release_file_is_listed_nowhere_and_told_by_its_checksum_and_module() -> None:
    jar = file(f"{LIB}/1.0/lib-1.0-all.jar")
    assert REGISTRY.listing_page(jar) is None
    assert REGISTRY.expected(jar, None) == Entry(jar, f"{UPSTREAM}{LIB}/1.0/lib-1.0-all.jar")
    assert [each.path for each in REGISTRY.evidence(jar)] == [f"{LIB}/1.0/lib-1.0-all.jar.sha1", f"{LIB}/1.0/lib-1.0.module"]
    assert all(each.project == jar.project and each.version == jar.version for each in REGISTRY.evidence(jar))
    for name in ("lib-1.0.pom", "lib-1.0.module", "lib-1.0.jar.asc", "lib-1.0.jar.sigstore.json"):
        assert [each.filename for each in REGISTRY.evidence(file(f"{LIB}/1.0/{name}"))] == [name + ".sha1"]
    assert REGISTRY.evidence(file(f"{LIB}/1.0/lib-1.0.jar.md5")) == ()


def test_the_module_of_a_snapshot_has_its_timestamp() -> None:
    jar = file(f"{LIB}/1.0-SNAPSHOT/lib-1.0-20240101.120000-3-sources.jar")
    assert [each.filename for each in REGISTRY.evidence(jar)] == [jar.filename + ".sha1", "lib-1.0-20240101.120000-3.module"]
    assert REGISTRY.listing_page(jar) is None


def test_a_checksum_belongs_to_its_file_and_a_signature_is_a_file_of_its_own() -> None:
    jar = file(f"{LIB}/1.0/lib-1.0.jar")
    for algorithm in ("md5", "sha1", "sha256", "sha512"):
        sidecar = file(f"{LIB}/1.0/lib-1.0.jar.{algorithm}")
        assert (REGISTRY.subject(sidecar), REGISTRY.checksum(sidecar)) == (jar, algorithm)
    signature = file(f"{LIB}/1.0/lib-1.0.jar.asc")
    assert (REGISTRY.subject(signature), REGISTRY.checksum(signature)) == (signature, "")
    assert REGISTRY.subject(file(f"{LIB}/1.0/lib-1.0.jar.asc.sha1")) == signature
    assert (REGISTRY.subject(jar), REGISTRY.checksum(jar)) == (jar, "")


def test_each_content_of_a_snapshot_that_may_change_has_a_name_of_its_own() -> None:
    path = f"{LIB}/1.0-SNAPSHOT/lib-1.0-SNAPSHOT.jar"
    jar = file(path)
    page = REGISTRY.listing_page(jar)
    assert page == Page("maven", "org.example/lib", f"file/{path}")
    assert REGISTRY.version_of(page) == "1.0-SNAPSHOT"
    assert REGISTRY.locate(page, None) == f"{UPSTREAM}{path}.sha1"
    assert REGISTRY.evidence(page) == ()
    names = set()
    for digest in ("a" * 40, "b" * 40):
        listing = REGISTRY.read(page, digest.encode(), "text/plain", "")
        entry = REGISTRY.expected(jar, listing)
        assert entry is not None
        assert entry == Entry(
            File("maven", "org.example/lib", "1.0-SNAPSHOT", f"lib-1.0-SNAPSHOT.jar@{digest}", path),
            f"{UPSTREAM}{path}",
            (Digest("sha1", digest),),
        )
        assert list(listing.entries) == ["lib-1.0-SNAPSHOT.jar"]
        assert REGISTRY.evidence(entry.file) == ()
        assert not REGISTRY.strict(entry.file)
        assert dict(REGISTRY.file_headers(entry.file, entry.digests, None))["Content-Type"] == "application/java-archive"
        names.add(entry.file.key)
    assert len(names) == 2
    assert REGISTRY.listing_page(file(path + ".sha1")) == page
    assert REGISTRY.listing_page(file(path + ".asc")) == Page("maven", "org.example/lib", f"file/{path}.asc")


def test_what_can_be_used_by_halves_is_strict() -> None:
    for name in (
        "lib-1.0.tar.gz",
        "lib-1.0.tgz",
        "lib-1.0.tar.bz2",
        "lib-1.0.tar.xz",
        "lib-1.0-x.tar.zst",
        "lib-1.0.sh",
        "lib-1.0.so",
    ):
        assert REGISTRY.strict(file(f"{LIB}/1.0/{name}")), name
    for name in (
        "lib-1.0.jar",
        "lib-1.0.war",
        "lib-1.0.zip",
        "lib-1.0.pom",
        "lib-1.0.module",
        "lib-1.0.jar.asc",
        "lib-1.0.aar.sha1",
    ):
        assert not REGISTRY.strict(file(f"{LIB}/1.0/{name}")), name


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("lib-1.0.jar", "application/java-archive"),
        ("lib-1.0.pom", "application/xml"),
        ("lib-1.0.module", "application/json"),
        ("lib-1.0.jar.sha1", "text/plain"),
        ("lib-1.0.jar.asc", "application/pgp-signature"),
        ("lib-1.0-bin.tar.gz", "application/gzip"),
        ("lib-1.0.klib.sigstore.json", "application/json"),
        ("lib-1.0.bin", "application/octet-stream"),
    ],
)
def test_a_file_goes_out_with_its_sha1_and_no_other_digest(name: str, media_type: str) -> None:
    digests = (Digest("sha256", "c" * 64), Digest("sha1", SHA1), Digest("md5", "d" * 32))
    modified = "Fri, 02 Jan 2026 03:04:05 GMT"
    expected = (("Content-Type", media_type), ("ETag", f'"sha1-{SHA1}"'), ("X-Checksum-SHA1", SHA1))
    assert REGISTRY.file_headers(file(f"{LIB}/1.0/{name}"), digests, None) == expected
    assert REGISTRY.file_headers(file(f"{LIB}/1.0/{name}"), digests[1:2], modified) == (*expected, ("Last-Modified", modified))


def test_who_asks_again_does_not_cause_traffic() -> None:
    assert not REGISTRY.insists("no-cache, no-store", f"{LIB}/maven-metadata.xml")
    assert REGISTRY.stray("/org/example", "/maven/") is None


def test_an_instance_is_told_its_groups_and_aliases() -> None:
    told = Maven("ours", "https://maven.test/private", Options(aliases=("m.test",), groups=("com.example.*",)))
    assert (told.upstream, told.groups, told.aliases) == ("https://maven.test/private/", ("com.example.*",), ("m.test",))
    assert (told.hold_s, told.identity) == (20, "sha1")
    assert "sha1" in told.proofs and "sha256" in told.proofs and "md5" not in told.proofs


@pytest.mark.parametrize("ending", ["", ".sha1"])
def test_only_what_may_change_is_to_be_asked_for_again(ending: str) -> None:
    digests = (Digest("sha1", SHA1),)
    for target, control in (
        (f"{LIB}/1.0/lib-1.0.jar", None),
        (f"{LIB}/1.0-SNAPSHOT/lib-1.0-20240101.120000-3.jar", None),
        (f"{LIB}/1.0-SNAPSHOT/lib-1.0-SNAPSHOT.jar", "no-cache"),
    ):
        assert dict(REGISTRY.file_headers(file(target + ending), digests, None)).get("Cache-Control") == control
