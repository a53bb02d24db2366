"""The fake registries under names and TLS: what an edge meets there, and that they misbehave as well as in the clear."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from pathlib import Path

import pytest

from tests import proxy_stage
from tests.fakes import Authority, FakeMaven, FakeNpm, FakePyPI
from tests.harness import PIP, Edge, Workspace
from tests.jars import Jars
from tests.proxy_stage import start_proxy, straight_to
from tests.tarballs import Tarballs
from tests.wheels import Shelf

authority, packed = proxy_stage.authority, proxy_stage.packed
pypi, npm, maven = proxy_stage.pypi, proxy_stage.npm, proxy_stage.maven


class Named(http.client.HTTPSConnection):
    """A connection to one of a fake's hosts, by its name."""

    def __init__(self, authority: Authority, fake: FakePyPI, host: str) -> None:
        super().__init__(fake.names[host], fake.ports[host], context=authority.client_context(), timeout=10)
        self._address = fake.hosts[host]

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), 10)
        self.sock = self._context.wrap_socket(plain, server_hostname=self.host)  # type: ignore[attr-defined]


def get(authority: Authority, fake: FakePyPI, path: str, host: str = "files") -> bytes:
    with contextlib.closing(Named(authority, fake, host)) as connection:
        connection.request("GET", path)
        with connection.getresponse() as reply:
            assert reply.status == 200
            return reply.read()


def test_documents_link_to_names_and_files_are_there(authority: Authority, pypi: FakePyPI, shelf: Shelf, project: str) -> None:
    wheel = shelf.wheel(project, "1.0", size=700_000)
    pypi.publish(wheel)
    (entry,) = pypi.page_json(project)["files"]
    assert entry["url"] == f"https://files.pypi.test:{pypi.ports['files']}{pypi.path_of(wheel)}"
    assert get(authority, pypi, pypi.path_of(wheel)) == wheel.content
    (seen,) = pypi.seen(path=pypi.path_of(wheel))
    assert (seen.sent, seen.complete) == (wheel.size, True)


def test_a_certificate_is_for_the_names_of_its_fake(authority: Authority, pypi: FakePyPI) -> None:
    with (
        socket.create_connection((pypi.hosts["index"], pypi.ports["index"]), 10) as plain,
        pytest.raises(ssl.SSLCertVerificationError, match=r"npm\.test"),
    ):
        authority.client_context().wrap_socket(plain, server_hostname="npm.test")


def test_a_body_cut_short_ends_without_a_word(authority: Authority, pypi: FakePyPI, shelf: Shelf, project: str) -> None:
    wheel = shelf.wheel(project, "1.0", size=700_000)
    pypi.publish(wheel)
    number = pypi.misbehave(pypi.path_of(wheel), truncate=300_000)
    with pytest.raises((http.client.IncompleteRead, ssl.SSLEOFError)):
        get(authority, pypi, pypi.path_of(wheel))
    pypi.behave(number)


def test_silence_and_refusal_end_for_whoever_waits(authority: Authority, pypi: FakePyPI, shelf: Shelf, project: str) -> None:
    wheel = shelf.wheel(project, "1.0")
    pypi.publish(wheel)
    number = pypi.misbehave(pypi.path_of(wheel), silent=True)
    ends: list[type[Exception]] = []

    def wait() -> None:
        try:
            get(authority, pypi, pypi.path_of(wheel))
        except (OSError, http.client.HTTPException) as error:
            ends.append(type(error))

    waiting = threading.Thread(target=wait)
    pypi.forget()
    waiting.start()
    pypi.wait_seen(1, path=pypi.path_of(wheel))
    pypi.refuse()
    waiting.join(10)
    assert not waiting.is_alive()
    assert len(ends) == 1
    with pytest.raises(ConnectionRefusedError):
        get(authority, pypi, pypi.path_of(wheel))
    pypi.listen_again()
    pypi.behave(number)
    assert get(authority, pypi, pypi.path_of(wheel)) == wheel.content


def test_an_edge_finds_them_by_name_and_checks_their_certificates(
    authority: Authority,
    pypi: FakePyPI,
    npm: FakeNpm,
    maven: FakeMaven,
    scratch: Path,
    shelf: Shelf,
    packed: Tarballs,
    jars: Jars,
    project: str,
) -> None:
    wheel, component = shelf.wheel(project, "1.0"), jars.component("org.example.named:app:1.0")
    tarball = packed.pack(project, "1.0.0")
    pypi.publish(wheel)
    npm.publish(tarball)
    maven.publish(component)
    with start_proxy(authority, scratch, pypi, npm, maven) as edge:
        assert edge.file(wheel).body == wheel.content
        assert edge.ask(f"/npm/{tarball.target}").body == tarball.path.read_bytes()
        for file in component.files:
            assert edge.ask(f"/maven/{file.path}").body == file.source.read_bytes()
        edge.set_names({})
        edge.restart()
        assert edge.file(shelf.wheel(f"{project}-other", "1.0")).status == 503
    with Edge(scratch / "distrusting", pypi.index_url, names=pypi.addresses) as distrusting:
        assert distrusting.file(wheel).status == 503


def test_a_client_gets_straight_to_them(
    authority: Authority, pypi: FakePyPI, scratch: Path, shelf: Shelf, workspace: Workspace, project: str
) -> None:
    pypi.publish(shelf.wheel(project, "1.0"))
    with straight_to(authority, scratch, pypi) as straight:
        workspace.through = straight.through
        result = PIP.install(workspace, pypi.index_url, [project])
        assert result.installed == {project: "1.0"}, result.output
        assert set(straight.tether.reached) == {"pypi.test", "files.pypi.test"}
