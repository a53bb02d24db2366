"""Requests through the proxy face, beside the same ones to the mirror face: one store, one upstream request, one set of rules."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import proxy_stage
from tests.fakes import Authority, FakeMaven, FakeNpm, FakePyPI
from tests.harness import REFUSING, Edge, Rule, ask, send_raw, wait_until
from tests.proxy_stage import ALIAS, start_proxy, through
from tests.wheels import KB, Shelf

pytestmark = pytest.mark.slow

authority, packed = proxy_stage.authority, proxy_stage.packed
pypi, npm, maven = proxy_stage.pypi, proxy_stage.npm, proxy_stage.maven

JSON = "application/vnd.pypi.simple.v1+json"


@pytest.fixture(scope="module")
def edge(authority: Authority, pypi: FakePyPI, npm: FakeNpm, maven: FakeMaven, scratch: Path) -> Iterator[Edge]:
    with start_proxy(authority, scratch, pypi, npm, maven, others={"npm": {"aliases": [ALIAS]}}) as made:
        yield made


def requests_to(fake: FakePyPI | FakeNpm | FakeMaven, part: str) -> int:
    return sum(part in request.path for request in fake.seen())


# ---- one store


def test_a_file_fetched_by_both_faces_is_one_blob_and_one_upstream_request(edge: Edge, pypi: FakePyPI, shelf: Shelf) -> None:
    wheel = shelf.wheel("both-faces", "1.0", size=300 * KB)
    pypi.publish(wheel)
    ours = ask(f"{edge.index_url}both-faces/", {"Accept": JSON}).json()["files"][0]["url"]
    theirs = through(edge, f"{pypi.index_url}both-faces/", Accept=JSON).json()["files"][0]["url"]
    assert theirs.startswith(f"{pypi.files_root}/")
    by_proxy = through(edge, theirs)
    by_mirror = ask(ours if ours.startswith("http") else edge.url + ours)
    assert (by_proxy.status, by_mirror.status) == (200, 200)
    assert by_proxy.body == by_mirror.body == wheel.content
    assert by_proxy.headers["etag"] == by_mirror.headers["etag"]
    assert requests_to(pypi, wheel.filename) == 1
    assert requests_to(pypi, "/simple/both-faces/") == 1
    name = hashlib.sha256(wheel.content).hexdigest()
    wait_until(lambda: len(list((edge.data / "blobs" / "sha256").rglob(name))) == 1)


def test_a_page_s_tags_differ_between_the_faces_and_each_gets_its_304(edge: Edge, pypi: FakePyPI) -> None:
    ours = ask(f"{edge.index_url}orchard/", {"Accept": JSON})
    theirs = through(edge, f"{pypi.index_url}orchard/", Accept=JSON)
    assert ours.headers["etag"] != theirs.headers["etag"]
    assert pypi.files_root.encode() in theirs.content
    assert pypi.files_root.encode() not in ours.content
    for tag, expected in ((theirs.headers["etag"], 304), (ours.headers["etag"], 200)):
        again = through(edge, f"{pypi.index_url}orchard/", Accept=JSON, If_None_Match=tag)
        assert again.status == expected
        assert again.headers["etag"] == theirs.headers["etag"]
    assert ask(f"{edge.index_url}orchard/", {"Accept": JSON, "If-None-Match": theirs.headers["etag"]}).status == 200


def test_maven_s_answers_are_the_same_by_both_faces(edge: Edge, maven: FakeMaven) -> None:
    for path in ("org/example/orchard/app/maven-metadata.xml", "org/example/orchard/app/1.0/app-1.0.jar"):
        theirs = through(edge, f"{maven.url}{path}")
        ours = ask(f"{edge.url}/maven/{path}")
        assert (theirs.status, ours.status) == (200, 200), path
        assert theirs.body == ours.body
        assert theirs.headers["etag"] == ours.headers["etag"]


def test_npm_s_documents_keep_their_links_and_an_alias_is_the_same_registry(edge: Edge, npm: FakeNpm) -> None:
    theirs = through(edge, f"{npm.registry_url}orchard").json()
    tarball = theirs["versions"]["2.1.0"]["dist"]["tarball"]
    assert tarball.startswith(npm.index_root)
    got = through(edge, tarball)
    assert got.status == 200
    port = npm.ports["index"]
    alias = through(edge, f"https://{ALIAS}:{port}/orchard/-/orchard-2.1.0.tgz")
    assert alias.body == got.body
    assert alias.headers["etag"] == got.headers["etag"]
    assert requests_to(npm, "orchard-2.1.0.tgz") == 1


# ---- one set of rules


def test_a_rule_refuses_on_both_faces(
    authority: Authority, pypi: FakePyPI, npm: FakeNpm, maven: FakeMaven, scratch: Path, shelf: Shelf
) -> None:
    wheel = shelf.wheel("forbidden", "1.0")
    pypi.publish(wheel)
    with start_proxy(authority, scratch, pypi, npm, maven) as edge:
        url = through(edge, f"{pypi.index_url}forbidden/", Accept=JSON).json()["files"][0]["url"]
        assert through(edge, url).status == 200
        edge.set_rules(Rule("pkg:pypi/forbidden", "nobody needs it"))
        wait_until(lambda: through(edge, url).status == 403)
        refused = through(edge, url)
        assert refused.headers["content-type"] == "application/problem+json"
        assert "nobody needs it" in refused.reason
        listed = through(edge, f"{pypi.index_url}forbidden/", Accept=JSON).json()["files"][0]
        assert "nobody needs it" in listed["yanked"]
        ours = ask(f"{edge.index_url}forbidden/", {"Accept": JSON}).json()["files"][0]["url"]
        assert ask(ours if ours.startswith("http") else edge.url + ours).status == 403
        # Nor is there a way round: another path, another port, plain HTTP inside a tunnel.
        assert through(edge, f"{pypi.files_root}/x/../{wheel.filename}").status in (400, 404)
        host = pypi.names["files"]
        before = len(pypi.seen())
        answer = send_raw(edge.url, f"CONNECT {host}:80 HTTP/1.1\r\nHost: {host}\r\n\r\nGET / HTTP/1.1\r\n\r\n".encode(), 3)
        assert b"HTTP/1.1 200 OK" not in answer
        assert len(pypi.seen()) == before
        assert edge.metric("leeward_tunnels_total") == 0


def test_what_another_registry_beside_it_claims_is_asked_of_no_public_one(
    authority: Authority, maven: FakeMaven, scratch: Path
) -> None:
    """A company's names, published by somebody in the public repository, are believed by neither face."""
    company = {"kind": "maven", "upstream": f"http://127.0.0.1:{REFUSING}/", "path": "/maven/", "groups": ["org.example.orchard"]}
    with start_proxy(authority, scratch, maven, others={"company": company}) as edge:
        before = len(maven.seen())
        for path in ("org/example/orchard/lib/1.0/lib-1.0.jar", "org/example/orchard/lib/maven-metadata.xml"):
            theirs = through(edge, f"{maven.url}{path}")
            assert (theirs.status, theirs.json()["detail"]) == (404, "no upstream here answers for org.example.orchard/lib")
            assert ask(f"{edge.url}/maven/{path}").status == 503, "the company's is asked, and does not answer"
        assert len(maven.seen()) == before
        assert through(edge, f"{maven.url}archetype-catalog.xml").status == 200, "what nobody claims is there as ever"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/no/such/thing/here", 404), ("PUT", "/anything/at/all", 403), ("POST", "/legacy/", 403)],
)
def test_nothing_unknown_is_passed_through(edge: Edge, pypi: FakePyPI, method: str, path: str, status: int) -> None:
    edge.wait_learnt()  # that asks for a page by itself
    before = len(pypi.seen())
    answer = through(edge, pypi.index_root + path, method)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]
    assert len(pypi.seen()) == before


# ---- the face itself


def test_plain_requests_in_absolute_form_are_answered_from_the_registry_too(edge: Edge, pypi: FakePyPI) -> None:
    host, port = pypi.names["index"], pypi.ports["index"]
    for url in (
        f"https://{host}:{port}/simple/orchard/",
        f"http://{host}:{port}/simple/orchard/",
        f"http://{host}/simple/orchard/",
    ):
        message = f"GET {url} HTTP/1.1\r\nHost: {host}\r\nAccept: {JSON}\r\nConnection: close\r\n\r\n"
        answer = send_raw(edge.url, message.encode())
        assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
        assert pypi.files_root.encode() in answer


def test_our_own_address_is_reached_through_ourselves(edge: Edge) -> None:
    message = f"GET {edge.url}/-/live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    assert send_raw(edge.url, message.encode()).endswith(b"live\n")
    root = ask(f"{edge.url}/-/ca.pem")
    assert root.status == 200
    assert root.body.startswith(b"-----BEGIN CERTIFICATE-----")


@contextlib.contextmanager
def watched() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0177.0.0.1", "[::ffff:127.0.0.1]", "localhost", "169.254.169.254"])
def test_the_running_edge_reaches_nobody_on_its_own_machine(edge: Edge, host: str) -> None:
    with watched() as listener:
        port = listener.getsockname()[1]
        for line in (f"CONNECT {host}:{port}", f"GET http://{host}:{port}/"):
            answer = send_raw(edge.url, f"{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode(), 3)
            assert answer.startswith(b"HTTP/1.1 403"), answer
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_status_tells_of_the_proxy_face(edge: Edge, pypi: FakePyPI) -> None:
    status = json.loads(edge.command("status", "--json").stdout)
    assert status["at"] == edge.url
    assert pypi.names["index"] in status["proxy"]["hosts"]
    assert pypi.names["files"] in status["proxy"]["hosts"]
    assert status["proxy"]["tunnels"] == 0
    assert status["proxy"]["certificates_until"].startswith("20")


def test_the_proxy_face_can_be_off(authority: Authority, pypi: FakePyPI, scratch: Path) -> None:
    with start_proxy(authority, scratch, pypi, top="[proxy]\nenabled = false\n") as edge:
        for line in ("CONNECT pypi.test:443", "GET http://pypi.test/simple/"):
            answer = send_raw(edge.url, f"{line} HTTP/1.1\r\nHost: pypi.test\r\nConnection: close\r\n\r\n".encode(), 3)
            assert answer.startswith(b"HTTP/1.1 403"), answer
        assert ask(f"{edge.url}/-/ca.pem").status == 404
        assert not (edge.data / "ca").exists()
        assert ask(f"{edge.index_url}orchard/").status == 200


def test_users_are_asked_for_on_the_proxy_face_alone(authority: Authority, pypi: FakePyPI, scratch: Path) -> None:
    with start_proxy(authority, scratch, pypi, top='[proxy.users]\nann = "secret"\n') as edge:
        with pytest.raises(OSError, match="407"):
            through(edge, f"{pypi.index_url}orchard/")
        assert ask(f"{edge.index_url}orchard/").status == 200
