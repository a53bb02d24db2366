"""What an edge answers to raw requests for a Maven repository: absences, ranges, conditions, heads, odd paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.fakes.maven import FakeMaven
from tests.harness import Edge, Reply, ask, send_raw, wait_until
from tests.jars import Component, Jars
from tests.maven_stage import get, metadata_path, sidecars_of
from tests.wheels import KB, MB

SOON_S = 3.0
"""How fast an absence is told on a busy machine."""

VARYING = ("date", "cache-status", "connection", "keep-alive")


@pytest.fixture(autouse=True)
def well_behaved_again(restored: None, mirror: Edge) -> Iterator[None]:
    yield
    mirror.age(0)


@pytest.fixture
def lib(repository: FakeMaven, jars: Jars, group: str) -> Component:
    one = jars.component(f"{group}:lib:1.0", size=100 * KB, module=True, archives=["tar.gz"], classifiers=["linux-x86.64"])
    repository.publish(one)
    return one


def told(reply: Reply) -> dict[str, str]:
    """The header fields that do not vary."""
    return {name: value for name, value in reply.headers.items() if name not in VARYING}


# ---- what is not there -----------------------------------------------------------------------------------------------

ABSENT: dict[str, Callable[[Component], str]] = {
    "module": lambda one: one.module.path.replace("/1.0/", "/9.9/").replace("-1.0.", "-9.9."),
    "sha512": lambda one: f"{one.jar.path}.sha512",
    "sha256": lambda one: f"{one.pom.path}.sha256",
    "classifier": lambda one: one.jar.path.replace(".jar", "-javadoc.jar"),
    "classifier's sha1": lambda one: one.jar.path.replace(".jar", "-javadoc.jar.sha1"),
    "signature": lambda one: f"{one.jar.path}.asc",
    "bundle": lambda one: f"{one.jar.path}.sigstore.json",
    "version": lambda one: one.pom.path.replace("/1.0/", "/2.0/").replace("-1.0.", "-2.0."),
    "metadata": lambda one: metadata_path(f"{one.group}:nowhere"),
    "metadata's sha1": lambda one: metadata_path(f"{one.group}:nowhere") + ".sha1",
}


@pytest.mark.parametrize("what", ABSENT)
def test_what_is_absent_is_told_quickly_and_asked_for_once(
    repository: FakeMaven, mirror: Edge, lib: Component, what: str
) -> None:
    path = ABSENT[what](lib)
    get(mirror, lib.jar.path)
    repository.forget()
    for method in ("GET", "HEAD", "GET"):
        reply = get(mirror, path, method)
        assert (reply.status, reply.seconds < SOON_S) == (404, True)
    assert repository.count(path=f"/maven2/{path.removesuffix('.sha1') if 'metadata' in what else path}") == 1


def test_an_absence_is_believed_for_minutes_and_no_longer(
    repository: FakeMaven, mirror: Edge, jars: Jars, lib: Component
) -> None:
    whole = lib.with_files(jars.file(f"{lib.jar.path}.asc", b"a signature"))
    paths = [f"{lib.jar.path}.asc", f"{lib.group.replace('.', '/')}/lib/2.0/lib-2.0.pom"]
    assert [get(mirror, path).status for path in paths] == [404, 404]
    repository.publish(whole, jars.component(f"{lib.group}:lib:2.0"))
    assert [get(mirror, path).status for path in paths] == [404, 404]
    mirror.age(601)
    wait_until(lambda: [get(mirror, path).status for path in paths] == [200, 200], 10)


def test_a_version_that_appears_in_the_metadata_ends_its_absence(
    repository: FakeMaven, mirror: Edge, jars: Jars, lib: Component
) -> None:
    new = jars.component(f"{lib.group}:lib:2.0")
    metadata = metadata_path(f"{lib.group}:lib")
    assert get(mirror, metadata).status == 200
    assert get(mirror, new.pom.path).status == 404
    repository.publish(new)
    done = mirror.command("refresh", f"pkg:maven/{lib.group}/lib")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: get(mirror, new.pom.path).status == 200, 10)


def test_checksums_that_upstream_has_are_ours_of_the_held_file(repository: FakeMaven, mirror: Edge, lib: Component) -> None:
    repository.mode(sidecars="md5 sha1 sha256 sha512", style="openssl")
    for _ in range(2):
        assert sidecars_of(mirror, lib.jar.path) == {name: getattr(lib.jar, name) for name in ("md5", "sha1", "sha256", "sha512")}
        get(mirror, lib.jar.path)


# ---- ranges and heads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [True, False], ids=["with headers", "without headers"])
@pytest.mark.parametrize("state", ["cold", "warm"])
@pytest.mark.parametrize("extension", ["jar", "pom", "module", "tar.gz"])
def test_a_head_says_what_a_get_does(
    repository: FakeMaven, mirror: Edge, lib: Component, extension: str, state: str, headers: bool
) -> None:
    file = lib.file(extension)
    repository.mode(checksum_headers=headers)
    if state == "warm":
        get(mirror, file.path)
    head = get(mirror, file.path, "HEAD")
    reply = get(mirror, file.path)
    again = get(mirror, file.path, "HEAD")
    assert (head.status, head.body, reply.body) == (200, b"", file.content)
    assert told(head) == told(reply) == told(again)
    assert reply.headers["content-length"] == str(file.size)
    assert reply.headers["etag"] == f'"sha1-{file.sha1}"'
    assert reply.headers["x-checksum-sha1"] == file.sha1
    assert "last-modified" in reply.headers
    assert "immutable" in reply.headers["cache-control"]
    assert "content-disposition" not in reply.headers


@pytest.mark.parametrize("state", ["cold", "warm"])
def test_a_transfer_is_resumed_only_if_the_file_is_the_same(
    mirror: Edge, repository: FakeMaven, jars: Jars, group: str, state: str
) -> None:
    one = jars.component(f"{group}:lib:1.0", size=1 * MB)
    repository.publish(one)
    if state == "warm":
        get(mirror, one.jar.path)
    after, before = "Wed, 01 Jan 2031 00:00:00 GMT", "Mon, 01 Jan 2001 00:00:00 GMT"
    part = get(mirror, one.jar.path, Range="bytes=500000-", If_Unmodified_Since=after, Accept_Encoding="identity")
    assert (part.status, part.body) == (206, one.jar.content[500_000:])
    assert part.headers["content-range"] == f"bytes 500000-{one.jar.size - 1}/{one.jar.size}"
    failed = get(mirror, one.jar.path, Range="bytes=500000-", If_Unmodified_Since=before)
    assert failed.status == 412
    own = get(mirror, one.jar.path, Range="bytes=500000-", If_Unmodified_Since=part.headers["last-modified"])
    assert own.status == 206
    assert get(mirror, one.jar.path, Range=f"bytes={one.jar.size}-").status == 416
    assert get(mirror, one.jar.path, If_None_Match=f'"sha1-{one.jar.sha1}"').status == 304
    assert get(mirror, one.jar.path, If_Modified_Since=part.headers["last-modified"]).status == 304


def test_clients_that_forbid_caching_cause_no_traffic(repository: FakeMaven, mirror: Edge, lib: Component) -> None:
    """The resolver sends this with everything."""
    metadata = metadata_path(f"{lib.group}:lib")
    paths = [*(one.path for one in lib.files), lib.jar.path + ".sha1", metadata, metadata + ".sha1", ".meta/prefixes.txt"]
    for path in paths:
        assert get(mirror, path).status == 200
    repository.forget()
    mirror.age(60)
    forbid = {"Cache_Control": "no-cache, no-store", "Pragma": "no-cache", "Accept": "application/problem+json,*/*"}
    for _ in range(3):
        for path in paths:
            assert get(mirror, path, **forbid).status == 200
    assert repository.seen() == []


def test_metadata_is_packed_for_whom_asks_and_files_never_are(mirror: Edge, lib: Component) -> None:
    packed = get(mirror, metadata_path(f"{lib.group}:lib"), Accept_Encoding="gzip,x-gzip,deflate", Cache_Control="max-age=0")
    plain = get(mirror, metadata_path(f"{lib.group}:lib"))
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == plain.body
    assert packed.headers["x-checksum-sha1"] == plain.headers["x-checksum-sha1"]
    assert packed.headers["etag"] != plain.headers["etag"]
    for path in (lib.pom.path, lib.jar.path, lib.jar.path + ".sha1", metadata_path(f"{lib.group}:lib") + ".sha1"):
        assert "content-encoding" not in get(mirror, path, Accept_Encoding="gzip").headers


# ---- paths -----------------------------------------------------------------------------------------------------------


def test_odd_but_right_paths_lead_to_the_file(repository: FakeMaven, mirror: Edge, jars: Jars, group: str) -> None:
    plus = jars.component(f"{group}:lib:1.0+build.5", archives=["tar.gz"], classifiers=["linux-x86.64"])
    repository.publish(plus)
    for file in plus.files:
        spellings = [file.path, file.path.replace("+", "%2B"), file.path.replace("+", "%2b"), file.path.replace("lib-", "%6cib-")]
        for path in spellings:
            reply = get(mirror, path)
            assert (path, reply.status, reply.body) == (path, 200, file.content)
        assert repository.count(path=f"*{file.filename}") + repository.count(path=f"*{file.filename.replace('+', '%2B')}") == 1


FUZZ = {
    "{d}/1.0/../1.0/lib-1.0.jar": {400},
    "{d}/1.0/%2e%2e/1.0/lib-1.0.jar": {400},
    "{d}/1.0/.%2E/1.0/lib-1.0.jar": {400},
    "{d}/./1.0/lib-1.0.jar": {400},
    "{d}%2f1.0/lib-1.0.jar": {400},
    "{d}/1.0%2Flib-1.0.jar": {400},
    "{d}//1.0/lib-1.0.jar": {400},
    "/{d}/1.0/lib-1.0.jar": {400},
    "{d}/1.0\\lib-1.0.jar": {400},
    "{d}/1.0%5Clib-1.0.jar": {400},
    "{d}/1.0/lib-1.0.jar%00": {400},
    "{d}/1.0/lib-1.0.jar%0d%0aX:%20y": {400},
    "{d}/1.0/lib-1.0.jar%": {400},
    "{d}/1.0/lib-1.0.jar%zz": {400},
    "{d}/1.0/lib-1.0.jar%ff": {400, 404},
    "{d}/1.0/" + 300 * "a": {400},
    "{d}/1.0/lib-2.0.jar": {404},
    "{d}/1.0/other-1.0.jar": {404},
    "{d}/1.0/lib-1.0": {404},
    "{d}/1.0/lib-1.0.": {404},
    "{d}/1.0/LIB-1.0.jar": {404},
    "{d}/1.0/lib-1.0.jar/": {404},
    "{d}/1.0/": {404},
    "{d}/1.0": {404},
    "{d}/": {404},
    "": {404},
    "lib-1.0.jar": {404},
    "{d}/1.0/index.html": {404},
    "{d}/1.0/maven-metadata.xml": {404},
    ".index/nexus-maven-repository-index.gz": {404},
    ".meta/other.txt": {404},
    "favicon.ico": {404},
    "robots.txt": {200},
    "{d}/1.0/lib-1.0.jar.sha1.sha1": {404},
    "{d}/1.0/lib-1.0.jar?x=y#z": {200, 400},
    "{d}/1.0/lib-1.0-20240101.120000-1.jar": {404},
    "{d}/2-SNAPSHOT/lib-2-20240101.120000-1.jar": {404},
    "{d}/2-SNAPSHOT/lib-3-20240101.120000-1.jar": {404},
}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_no_odd_path_gets_through_or_goes_upstream_as_something_else(
    repository: FakeMaven, mirror: Edge, lib: Component, method: str
) -> None:
    directory = f"{lib.group.replace('.', '/')}/lib"
    repository.forget()
    for pattern, statuses in FUZZ.items():
        path = pattern.replace("{d}", directory)
        request = f"{method} /maven/{path} HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n".encode("latin-1")
        status = int(send_raw(mirror.url, request).split()[1])
        assert status in statuses, (path, status)
    for seen in repository.seen():
        assert seen.path.startswith(f"/maven2/{directory}/")
        assert not seen.path.endswith("/"), "directories are answered here: coursier asks for them before each range"
        odd = ("..", "//", "\\", "%2e", "%2f", "%5c", "%00", "index.html")
        assert [piece for piece in odd if piece in seen.path.lower()] == []


@pytest.mark.parametrize(
    ("method", "status"), [("PUT", 403), ("POST", 405), ("DELETE", 405), ("OPTIONS", 405), ("PROPFIND", 405), ("MKCOL", 405)]
)
def test_nothing_is_written_here(repository: FakeMaven, mirror: Edge, lib: Component, method: str, status: int) -> None:
    repository.forget()
    reply = ask(mirror.index_url + lib.jar.path, method=method, body=b"x" if method in {"PUT", "POST"} else None)
    assert reply.status == status
    assert reply.headers["content-type"] == "application/problem+json"
    assert repository.seen() == []


def test_a_groups_metadata_tells_its_plugins(mirror: Edge) -> None:
    reply = get(mirror, "org/example/build/maven-metadata.xml")
    assert b"<prefix>probe</prefix>" in reply.body
    assert sidecars_of(mirror, "org/example/build/maven-metadata.xml")["sha1"] == reply.headers["x-checksum-sha1"]


# ---- a repository that has had enough --------------------------------------------------------------------------------


def test_a_throttling_repository_is_left_alone(
    repository: FakeMaven, jars: Jars, group: str, start_mirror: Callable[[], Edge]
) -> None:
    held = jars.component(f"{group}:held:1.0")
    others = [jars.component(f"{group}:cold:{version}.0") for version in range(30)]
    repository.publish(held, *others)
    edge = start_mirror()
    metadata = metadata_path(f"{group}:held")
    for path in (held.jar.path, held.pom.path, metadata):
        assert get(edge, path).status == 200
    repository.mode(throttle=1, retry_after="30")
    get(edge, others[0].jar.path)
    repository.forget()
    for one in others[1:]:
        reply = get(edge, one.jar.path)
        assert reply.status == 503, reply.reason
        assert 1 <= int(reply.headers["retry-after"]) <= 60
        assert "retry-after" in get(edge, one.pom.path, "HEAD").headers
    edge.age(700)
    for path in (held.jar.path, held.pom.path, metadata, metadata + ".sha1", held.jar.path + ".sha1"):
        assert get(edge, path).status == 200
    assert len(repository.seen()) <= 6, [seen.path for seen in repository.seen()]


def test_a_withdrawn_file_is_held_for_those_who_lock_it(repository: FakeMaven, mirror: Edge, lib: Component) -> None:
    """Nobody may take a release back from a Maven repository; no page says that somebody did."""
    assert get(mirror, lib.jar.path).status == 200
    repository.withdraw(repository.path_of(lib.jar))
    mirror.age(700)
    wait_until(partial(_is_right, mirror, lib), 5)


def _is_right(edge: Edge, one: Component) -> bool:
    return get(edge, one.jar.path).body == one.jar.content
