"""Files as an edge serves them, cold and warm: bytes, headers, ranges, conditions, sidecars."""

from __future__ import annotations

import hashlib

import pytest

from tests.fakes import FakePyPI
from tests.harness import Edge, wait_until
from tests.stage import StartEdge
from tests.wheels import KB, MB, Shelf

pytestmark = pytest.mark.usefixtures("well_behaved")

SIZES = [0, 100 * KB, 3 * MB]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_file_is_the_same_cold_and_warm_and_fetched_once(
    fake: FakePyPI, edge: Edge, shelf: Shelf, project: str, size: int, kind: str
) -> None:
    one = shelf.wheel(project, "1.0", size=size) if kind == "wheel" else shelf.sdist(project, "1.0", size=size)
    fake.publish(one)
    for _ in ("cold", "warm", "warm"):
        reply = edge.file(one)
        assert reply.status == 200
        assert reply.body == one.content
        assert reply.headers["etag"] == f'"sha256-{one.sha256}"'
        assert reply.headers["content-length"] == str(one.size)
        assert reply.headers["content-type"] == "application/octet-stream"
        assert reply.headers["accept-ranges"] == "bytes"
        assert "immutable" in reply.headers["cache-control"]
        assert "content-encoding" not in reply.headers
        head = edge.ask(edge.file_path(one), method="HEAD")
        assert (head.status, head.body) == (200, b"")
        for name in ("etag", "content-length", "content-type", "accept-ranges", "cache-control"):
            assert head.headers[name] == reply.headers[name]
    assert fake.count(kind="file", path=f"*/{one.filename}") == 1
    wait_until(lambda: edge.holds(one), 3)


@pytest.mark.parametrize("size", SIZES)
def test_head_on_a_cold_file_knows_its_length(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str, size: int) -> None:
    wheel = shelf.wheel(project, "1.0", size=size)
    fake.publish(wheel)
    head = edge.ask(edge.file_path(wheel), {"Accept-Encoding": "identity"}, "HEAD")
    assert head.status == 200
    assert head.headers["content-length"] == str(wheel.size)
    assert head.headers["accept-ranges"] == "bytes"
    assert edge.file(wheel).body == wheel.content
    assert fake.count(kind="file", path=f"*/{wheel.filename}") == 1


@pytest.mark.parametrize("state", ["cold", "warm"])
@pytest.mark.parametrize("size", [100 * KB, 3 * MB])
@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("bytes=0-99", slice(0, 100)),
        ("bytes=0-0", slice(0, 1)),
        ("bytes=50000-", slice(50000, None)),
        ("bytes=-500", slice(-500, None)),
        ("bytes=90000-99999999999", slice(90000, None)),
        ("bytes=-99999999999", slice(0, None)),
        ("BYTES=5-9", slice(5, 10)),
    ],
)
def test_one_range_is_answered_exactly(
    fake: FakePyPI, edge: Edge, shelf: Shelf, project: str, state: str, size: int, wanted: str, expected: slice
) -> None:
    wheel = shelf.wheel(project, "1.0", size=size)
    fake.publish(wheel)
    if state == "warm":
        assert edge.file(wheel).status == 200
    reply = edge.file(wheel, Range=wanted)
    assert reply.status == 206
    assert reply.body == wheel.content[expected]
    start, stop, _ = expected.indices(wheel.size)
    assert reply.headers["content-range"] == f"bytes {start}-{stop - 1}/{wheel.size}"
    assert reply.headers["content-length"] == str(stop - start)
    assert fake.count(kind="file", path=f"*/{wheel.filename}") == 1
    assert all(seen.header("range") is None for seen in fake.seen(path=f"*/{wheel.filename}")), "nothing partial is ever fetched"


@pytest.mark.parametrize("wanted", ["bytes=0-9,20-29", "bytes=9-5", "bytes=x-y", "lines=0-9", "bytes="])
def test_what_is_no_single_range_is_answered_whole(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str, wanted: str) -> None:
    wheel = shelf.wheel(project, "1.0")
    fake.publish(wheel)
    for _ in ("cold", "warm"):
        reply = edge.file(wheel, Range=wanted)
        assert (reply.status, reply.body) == (200, wheel.content)


def test_a_range_beyond_the_end_is_416(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str) -> None:
    wheel = shelf.wheel(project, "1.0")
    fake.publish(wheel)
    for _ in ("cold", "warm"):
        reply = edge.file(wheel, Range=f"bytes={wheel.size}-")
        assert reply.status == 416
        assert reply.headers["content-range"] == f"bytes */{wheel.size}"


def test_if_range_compares_strongly(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str) -> None:
    wheel = shelf.wheel(project, "1.0", size=100 * KB)
    fake.publish(wheel)
    tag = f'"sha256-{wheel.sha256}"'
    for _ in ("cold", "warm"):
        assert edge.file(wheel, Range="bytes=5-9", If_Range=tag).status == 206
        for other in ('"sha256-else"', f"W/{tag}", "Mon, 01 Jan 2024 00:00:00 GMT"):
            reply = edge.file(wheel, Range="bytes=5-9", If_Range=other)
            assert (reply.status, reply.body) == (200, wheel.content)


def test_a_file_already_held_by_the_client_is_not_sent_again(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str) -> None:
    wheel = shelf.wheel(project, "1.0", size=100 * KB)
    fake.publish(wheel)
    tag = edge.file(wheel).headers["etag"]
    again = edge.file(wheel, If_None_Match=tag)
    assert (again.status, again.body) == (304, b"")
    assert edge.file(wheel, If_None_Match='"other"').status == 200


@pytest.mark.parametrize("state", ["wheel cold", "wheel warm"])
def test_the_metadata_sidecar_is_passed_on_verified(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str, state: str) -> None:
    wheel = shelf.wheel(project, "1.0", requires=["something>=1"])
    fake.publish(wheel)
    if state == "wheel warm":
        assert edge.file(wheel).status == 200
    for _ in range(2):
        reply = edge.file(wheel, ".metadata")
        assert (reply.status, reply.body) == (200, wheel.metadata)
        assert reply.headers["etag"] == f'"sha256-{wheel.metadata_sha256}"'
        assert "content-encoding" not in reply.headers
    assert fake.count(kind="metadata", path=f"*/{wheel.filename}.metadata") <= 1


def test_a_query_never_reaches_upstream_nor_divides_the_cache(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str) -> None:
    wheel = shelf.wheel(project, "1.0")
    fake.publish(wheel)
    assert edge.file(wheel).status == 200
    assert edge.ask(edge.file_path(wheel) + "?x=1").body == wheel.content
    assert edge.ask(f"/pypi/simple/{project}/?token=secret").status == 200
    assert all("?" not in seen.path for seen in fake.seen())
    assert fake.count(kind="file", path=f"*/{wheel.filename}*") == 1


def test_plus_signs_may_be_encoded_or_not(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str) -> None:
    wheel = shelf.wheel(project, "1.0+local.1")
    fake.publish(wheel)
    assert "+" in wheel.filename
    path = edge.file_path(wheel)
    for spelling in (path, path.replace("+", "%2B"), path.replace("+", "%2b")):
        reply = edge.ask(spelling)
        assert (reply.status, reply.body) == (200, wheel.content), spelling
    assert len([seen for seen in fake.seen(kind="file") if project.replace("-", "_") in seen.path]) == 1


def test_a_listed_name_under_another_hash_is_not_the_file(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str) -> None:
    one, two = shelf.wheel(project, "1.0"), shelf.wheel(project, "2.0")
    fake.publish(one, two)
    mixed = edge.file_path(one).removesuffix(one.filename) + two.filename
    assert edge.ask(mixed).status in {403, 404}
    assert edge.file(one).status == edge.file(two).status == 200


def test_a_file_its_page_lacks_is_refused_while_upstream_has_the_bytes(
    fake: FakePyPI, start_edge: StartEdge, shelf: Shelf, project: str
) -> None:
    edge = start_edge()
    fake.publish(shelf.wheel(project, "1.0"), shelf.wheel(project, "2.0"), shelf.wheel(project, "3.0"))
    fake.withdraw(shelf.wheel(project, "2.0").filename)
    fake.withdraw(shelf.wheel(project, "3.0").filename, bytes_too=True)
    assert edge.file(shelf.wheel(project, "2.0")).status == 403
    assert edge.file(shelf.wheel(project, "3.0")).status == 404
    assert not edge.holds(shelf.wheel(project, "2.0"))


def test_files_survive_a_restart_and_keep_their_validator(
    fake: FakePyPI, start_edge: StartEdge, shelf: Shelf, project: str
) -> None:
    edge = start_edge()
    wheel = shelf.wheel(project, "1.0", size=3 * MB)
    fake.publish(wheel)
    before = edge.file(wheel)
    wait_until(lambda: edge.metric("leeward_flights_running") == 0)
    edge.restart()
    after = edge.file(wheel)
    assert (after.status, after.headers["etag"], after.body) == (200, before.headers["etag"], before.body)
    assert fake.count(kind="file", path=f"*/{wheel.filename}") == 1


def test_blobs_are_named_by_what_they_hold(fake: FakePyPI, start_edge: StartEdge, shelf: Shelf, project: str) -> None:
    edge = start_edge()
    wheels = [shelf.wheel(project, f"{n}.0", size=n * 200 * KB) for n in range(1, 5)]
    fake.publish(*wheels)
    for wheel in wheels:
        assert edge.file(wheel).status == 200
    wait_until(lambda: len(edge.blobs()) >= 4, 2)
    for blob in edge.blobs():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
        assert blob.parent.name == blob.name[2:4]
        assert blob.parent.parent.name == blob.name[:2]
    assert edge.command("verify").returncode == 0
