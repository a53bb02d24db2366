"""The fake registry answers as the real one does, and goes wrong as it is told: what the other tests stand on."""

from __future__ import annotations

import hashlib
import json
import threading
import time

import pytest

from tests.fakes import FakePyPI
from tests.harness import ask, swallowing
from tests.wheels import KB, Shelf, flipped

pytestmark = pytest.mark.usefixtures("well_behaved")

JSON = {"Accept": "application/vnd.pypi.simple.v1+json"}


def test_a_page_links_to_another_host_and_carries_validators(fake: FakePyPI, shelf: Shelf, project: str) -> None:
    wheel = shelf.wheel(project, "1.0", requires_python=">=3.8")
    fake.publish(wheel, provenance=True)
    reply = ask(f"{fake.index_url}{project}/", JSON)
    (entry,) = reply.json()["files"]
    assert entry["url"] == fake.files_root + fake.path_of(wheel)
    assert entry["hashes"] == {"sha256": wheel.sha256}
    assert entry["core-metadata"] == entry["data-dist-info-metadata"] == {"sha256": wheel.metadata_sha256}
    assert entry["requires-python"] == ">=3.8"
    assert reply.headers["vary"] == "Accept, Accept-Encoding"
    assert reply.headers["x-pypi-last-serial"] == str(reply.json()["meta"]["_last-serial"])
    again = ask(f"{fake.index_url}{project}/", JSON | {"If-None-Match": reply.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    assert ask(entry["provenance"]).json()["attestation_bundles"]


def test_html_is_the_answer_to_an_unknown_accept(fake: FakePyPI, shelf: Shelf, project: str) -> None:
    fake.publish(shelf.wheel(project, "1.0"))
    reply = ask(f"{fake.index_url}{project}/", {"Accept": "*/*"})
    assert reply.headers["content-type"].startswith("text/html")
    assert f"#sha256={shelf.wheel(project, '1.0').sha256}" in reply.content.decode()
    packed = ask(f"{fake.index_url}{project}/", {"Accept": "*/*", "Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["etag"] != reply.headers["etag"]
    assert packed.content == reply.content


def test_files_honour_ranges_and_ignore_conditions(fake: FakePyPI, shelf: Shelf, project: str) -> None:
    wheel = shelf.wheel(project, "1.0", size=100 * KB)
    fake.publish(wheel)
    url = fake.files_root + fake.path_of(wheel)
    whole = ask(url)
    assert whole.body == wheel.content
    assert ask(url, {"If-None-Match": whole.headers["etag"]}).status == 200
    part = ask(url, {"Range": "bytes=10-19", "If-Range": whole.headers["etag"]})
    assert (part.status, part.body) == (206, wheel.content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{wheel.size}"
    assert ask(url, {"Range": "bytes=-5"}).body == wheel.content[-5:]
    assert ask(url, {"Range": f"bytes={wheel.size}-"}).status == 416
    assert ask(url, {"Range": "bytes=10-19", "If-Range": '"other"'}).status == 200
    assert ask(url + ".metadata").body == wheel.metadata


def test_a_plain_index_says_less(fake: FakePyPI, shelf: Shelf, project: str) -> None:
    wheel = shelf.wheel(project, "1.0")
    fake.publish(wheel, provenance=True)
    fake.mode(plain=True, layout="relative")
    reply = ask(f"{fake.index_url}{project}/", JSON)
    assert not {"etag", "cache-control", "vary", "x-pypi-last-serial"} & set(reply.headers)
    document = reply.json()
    assert document["meta"]["api-version"] == "1.1"
    assert isinstance(document["meta"]["_last-serial"], str)
    assert not {"core-metadata", "provenance"} & set(document["files"][0])
    assert document["files"][0]["url"] == f"../../files/{project}/{wheel.filename}"
    assert ask(f"{fake.index_root}/files/{project}/{wheel.filename}").body == wheel.content


def test_names_and_slashes_are_redirected(fake: FakePyPI, shelf: Shelf, project: str) -> None:
    fake.publish(shelf.wheel(project, "1.0"))
    for spelling in (project.upper() + "/", project):
        reply = ask(fake.index_url + spelling)
        assert (reply.status, reply.headers["location"]) == (301, f"/simple/{project}/")


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"status": 503, "retry_after": "7"}, (503, b"", False)),
        ({"truncate": 1000}, (200, slice(0, 1000), True)),
        ({"grow": 10}, (200, None, False)),
        ({"length_off_by": 10}, (200, slice(None), True)),
        ({"redirect": "http://other.test/"}, (302, b"", False)),
        ({"loop": True}, (302, b"", False)),
    ],
)
def test_misbehaviour_is_as_ordered(
    fake: FakePyPI, shelf: Shelf, project: str, how: dict[str, object], expected: tuple[int, bytes | slice | None, bool]
) -> None:
    wheel = shelf.wheel(project, "1.0", size=100 * KB)
    fake.publish(wheel)
    fake.misbehave(f"*/{wheel.filename}", **how)
    reply = ask(fake.files_root + fake.path_of(wheel))
    status, body, short = expected
    assert (reply.status, reply.short) == (status, short)
    if isinstance(body, slice):
        assert reply.body == wheel.content[body]
    elif body is None:
        assert reply.body == wheel.content + b"\0" * 10
    fake.behave()
    assert hashlib.sha256(ask(fake.files_root + fake.path_of(wheel)).body).hexdigest() == wheel.sha256


@pytest.mark.parametrize("at", [0, 50_000, -1])
def test_one_bit_is_flipped_also_in_a_range(fake: FakePyPI, shelf: Shelf, project: str, at: int) -> None:
    wheel = shelf.wheel(project, "1.0", size=100 * KB)
    fake.publish(wheel)
    fake.misbehave(f"*/{wheel.filename}", flip=at)
    spoilt = flipped(wheel.content, at)
    assert ask(fake.files_root + fake.path_of(wheel)).body == spoilt
    assert ask(fake.files_root + fake.path_of(wheel), {"Range": "bytes=-60000"}).body == spoilt[-60000:]


def test_a_gate_holds_the_rest_until_it_is_opened(fake: FakePyPI, shelf: Shelf, project: str) -> None:
    wheel = shelf.wheel(project, "1.0", size=100 * KB)
    fake.publish(wheel)
    gate = fake.misbehave(f"*/{wheel.filename}", gate=5000)
    bodies: list[bytes] = []
    reader = threading.Thread(target=lambda: bodies.append(ask(fake.files_root + fake.path_of(wheel)).body))
    reader.start()
    fake.wait_at_gate(gate)
    assert fake.seen(path=f"*/{wheel.filename}")[-1].sent == 5000
    fake.behave(gate)
    reader.join(10)
    assert bodies == [wheel.content]


def test_the_old_page_comes_back_with_its_old_serial(fake: FakePyPI, shelf: Shelf, project: str) -> None:
    fake.publish(shelf.wheel(project, "1.0"))
    first = ask(f"{fake.index_url}{project}/", JSON).json()
    fake.publish(shelf.wheel(project, "2.0"))
    fake.misbehave("*", old_serial=True)
    assert ask(f"{fake.index_url}{project}/", JSON).json() == first


def test_silence_refusal_and_swallowing_are_three_different_things(fake: FakePyPI, shelf: Shelf, project: str) -> None:
    fake.publish(shelf.wheel(project, "1.0"))
    url = f"{fake.index_url}{project}/"
    silence = fake.silence()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        ask(url, timeout_s=0.3)
    assert time.monotonic() - began >= 0.3
    fake.behave(silence)
    fake.refuse()
    with pytest.raises(ConnectionRefusedError):
        ask(url)
    with swallowing(fake.hosts["index"], fake.ports["index"]), pytest.raises(TimeoutError):
        ask(url, timeout_s=0.3)
    fake.listen_again()
    assert ask(url).status == 200


def test_every_request_is_counted_with_what_it_carried(fake: FakePyPI, shelf: Shelf, project: str) -> None:
    fake.publish(shelf.wheel(project, "1.0"))
    fake.forget()
    ask(f"{fake.index_url}{project}/?x=1", {"X-Odd": "yes"})
    (seen,) = fake.seen(kind="page")
    assert (seen.method, seen.path, seen.host, seen.status) == ("GET", f"/simple/{project}/?x=1", "index", 200)
    assert seen.header("x-odd") == "yes"
    assert json.loads(json.dumps(seen.headers))
