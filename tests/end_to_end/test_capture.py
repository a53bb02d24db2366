"""``edge capture``: programs that know of no proxy get their registries from the edge, and everything else as before.

All of it happens in network namespaces of the test's own. What a client reaches under a registry's name came from the edge: the name
leads it to an address where nobody is.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests import proxy_stage
from tests.capture_stage import (
    CLIENT,
    GATEWAY,
    NOWHERE,
    Beyond,
    Capturing,
    Greeter,
    Here,
    alive,
    all_gone,
    in_own_network,
    nft_tables,
)
from tests.fakes import Authority, FakePyPI
from tests.fakes.tls import server_context
from tests.harness import TOOLS, Edge, wait_until
from tests.wheels import Shelf

pytestmark = pytest.mark.slow

authority = proxy_stage.authority

NAMES = {"pypi.test": NOWHERE, "files.pypi.test": NOWHERE, "elsewhere.test": GATEWAY}

PROGRAM = f"leeward-{os.getpid()}"
"""What the captured process is called in local mode, which sees every process of the machine: none of another test run is called so."""

ASK = """\
import hashlib, socket, ssl, sys
host, port, certificate = sys.argv[1:4]
with socket.create_connection((host, int(port)), 20) as plain:
    context = ssl.create_default_context(cafile=certificate)
    with context.wrap_socket(plain, server_hostname=host) as secure:
        print(hashlib.sha256(secure.getpeercert(binary_form=True)).hexdigest())
        secure.sendall(b"\\x00\\xff said in secret")
        print(secure.recv(65536))
"""

LISTEN = """\
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 20) as plain:
    print(plain.recv(65536))
    plain.sendall(b"thank you")
    print(plain.recv(65536))
"""

FETCH = """\
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=20)
connection.request("GET", sys.argv[3], headers={"Accept": "application/vnd.pypi.simple.v1+json"})
reply = connection.getresponse()
print(reply.status, reply.headers["Cache-Status"], reply.read().decode())
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """A registry under the names of ``NAMES``, an edge before it, and the certificate of the edge's authority."""

    fake: FakePyPI
    edge: Edge
    certificate: Path

    @property
    def transparent(self) -> tuple[str, ...]:
        """The options for transparent mode, for the ports of this registry and of ``Greeter``."""
        ports = sorted({80, 443, 2222, self.fake.ports["index"], self.fake.ports["files"]})
        return ("--mode", "transparent", "--install-rules", "--ports", ",".join(map(str, ports)))


@contextlib.contextmanager
def stage(authority: Authority, shelf: Shelf, scratch: Path) -> Iterator[Stage]:
    with FakePyPI.start(authority) as fake:
        # First, so that the edge learns the files' host when it starts.
        fake.publish(shelf.wheel("pip", "1.0"), shelf.wheel("orchard", "2.0", requires=["soil"]), shelf.wheel("soil", "3.1"))
        with proxy_stage.start_proxy(authority, scratch, fake) as edge:
            wait_until(lambda: edge.ask("/-/ca.pem").status == 200, 20)
            yield Stage(fake, edge, edge.root_certificate())


def assert_installed(directory: Path) -> None:
    assert {"orchard-2.0.dist-info", "soil-3.1.dist-info"} <= {path.name for path in directory.iterdir()}


def python(client: Here, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process that is called ``PROGRAM``."""
    named = f"with open('/proc/self/comm', 'w') as comm: comm.write({PROGRAM!r})\n"
    return client.run(TOOLS / "bin" / "python", "-c", named + code, *map(str, arguments))


# ---- installing ------------------------------------------------------------------------------------------------------


@in_own_network
def test_pip_without_any_proxy_setting_installs_through_the_edge_in_transparent_mode(
    authority: Authority, shelf: Shelf, scratch: Path, tmp_path: Path
) -> None:
    with stage(authority, shelf, scratch) as on, Beyond.start(tmp_path, NAMES) as client:
        with Capturing(on.edge, *on.transparent, "--from", client.interface) as capturing:
            done = client.pip(tmp_path / "first", on.fake.index_url, on.certificate, "orchard")
            assert done.returncode == 0, done.stdout + done.stderr + capturing.log
        assert_installed(tmp_path / "first")
        assert on.edge.upstream_requests("file") == 4, "two wheels, each with its metadata"
        again = client.pip(tmp_path / "second", on.fake.index_url, on.certificate, "orchard")
        assert again.returncode != 0, "but for the capture nothing leads to the registry"


@in_own_network
def test_pip_without_any_proxy_setting_installs_through_the_edge_in_local_mode(
    authority: Authority, shelf: Shelf, scratch: Path, tmp_path: Path
) -> None:
    with stage(authority, shelf, scratch) as on:
        client = Here(tmp_path, NAMES)
        # The edge is asked for too, and left out all the same: it would wait for itself.
        with Capturing(on.edge, "--mode", f"local:{PROGRAM},{on.edge.pid}") as capturing:
            done = client.pip(tmp_path / "first", on.fake.index_url, on.certificate, "orchard", name=PROGRAM)
            assert done.returncode == 0, done.stdout + done.stderr + capturing.log
            assert_installed(tmp_path / "first")
            other = client.pip(tmp_path / "other", on.fake.index_url, on.certificate, "orchard", name="leeward-other")
            assert other.returncode != 0, "a program of another name is not captured"
            on.edge.restart()
            wait_until(lambda: "the edge is back" in capturing.log, 20)
            again = client.pip(tmp_path / "again", on.fake.index_url, on.certificate, "orchard", name=PROGRAM)
            assert again.returncode == 0, again.stdout + again.stderr + capturing.log
        after = client.pip(tmp_path / "after", on.fake.index_url, on.certificate, "orchard", name=PROGRAM)
        assert after.returncode != 0, "but for the capture nothing leads to the registry"


# ---- what is not for a registry --------------------------------------------------------------------------------------


def assert_left_alone(client: Here, authority: Authority, address: str) -> None:
    """TLS with somebody else's own certificate, and a server that speaks first, are as if there were no capture."""
    certificate = authority.certificate("elsewhere.test")
    first = certificate.read_text().partition("-----BEGIN CERTIFICATE-----")[2].partition("-----END")[0]
    its_own = hashlib.sha256(base64.b64decode(first)).hexdigest()
    with Greeter(address, 443, context=server_context(str(certificate))) as secure:
        done = python(client, ASK, "elsewhere.test", 443, authority.path)
        assert done.stdout.splitlines() == [its_own, repr(b"heard \x00\xff said in secret")], done.stderr
        assert secure.heard == [b"\x00\xff said in secret"]
    with Greeter(address, 2222, greeting=b"welcome") as greeter:
        done = python(client, LISTEN, "elsewhere.test", 2222)
        assert done.stdout.splitlines() == [repr(b"welcome"), repr(b"heard thank you")], done.stderr
        assert greeter.heard == [b"thank you"]


@in_own_network
def test_in_transparent_mode_other_connections_pass_undecrypted_and_plain_requests_to_registries_do_not(
    authority: Authority, shelf: Shelf, scratch: Path, tmp_path: Path
) -> None:
    with (
        stage(authority, shelf, scratch) as on,
        Beyond.start(tmp_path, NAMES) as client,
        Capturing(on.edge, *on.transparent, "--from", client.interface),
    ):
        assert_left_alone(client, authority, GATEWAY)
        fetched = python(client, FETCH, "pypi.test", 80, "/simple/orchard/")
        assert fetched.stdout.startswith("200 leeward; "), fetched
        assert "orchard-2.0" in fetched.stdout


@in_own_network
def test_in_local_mode_other_connections_pass_undecrypted(
    authority: Authority, shelf: Shelf, scratch: Path, tmp_path: Path
) -> None:
    with stage(authority, shelf, scratch) as on, Capturing(on.edge, "--mode", f"local:{PROGRAM}"):
        assert_left_alone(Here(tmp_path, NAMES | {"elsewhere.test": "127.0.0.5"}), authority, "127.0.0.5")


@in_own_network
def test_while_the_edge_is_down_registries_fail_at_once_and_all_else_goes_on(
    authority: Authority, shelf: Shelf, scratch: Path, tmp_path: Path
) -> None:
    # The registry's name leads to somebody who would answer: who goes past the edge gets there.
    names = NAMES | {"pypi.test": GATEWAY}
    certificate = authority.certificate("pypi.test")
    with (
        stage(authority, shelf, scratch) as on,
        Beyond.start(tmp_path, names) as client,
        Capturing(on.edge, *on.transparent, "--from", client.interface) as capturing,
    ):
        on.edge.stop()
        wait_until(lambda: "the edge is away" in capturing.log, 20)
        with Greeter(GATEWAY, 443, context=server_context(str(certificate))) as registry:
            done = python(client, ASK, "pypi.test", 443, authority.path)
            assert done.returncode != 0
            assert registry.heard == []
            assert registry.failed == [], "nobody came"
        assert 'connection closed host=pypi.test reason="the edge at' in capturing.log
        assert_left_alone(client, authority, GATEWAY)
        on.edge.start()
        wait_until(lambda: "the edge is back" in capturing.log, 20)
        fetched = python(client, FETCH, "pypi.test", 80, "/simple/orchard/")
        assert fetched.stdout.startswith("200 "), fetched


# ---- this machine's own programs -------------------------------------------------------------------------------------


@pytest.fixture
def anybodys() -> Iterator[Path]:
    """A directory that any user can read: a program run as somebody else has its files here."""
    directory = Path(tempfile.mkdtemp(prefix="leeward-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@in_own_network
def test_rules_capture_this_machines_users_but_not_the_one_that_the_edge_runs_as(
    authority: Authority, shelf: Shelf, scratch: Path, tmp_path: Path, anybodys: Path
) -> None:
    with stage(authority, shelf, scratch) as on, Beyond.start(tmp_path, NAMES), Capturing(on.edge, *on.transparent) as capturing:
        certificate = anybodys / "root.pem"
        certificate.write_bytes(on.certificate.read_bytes())
        certificate.chmod(0o644)

        def handshake(*words: str) -> subprocess.CompletedProcess[str]:
            checked = [
                "-servername",
                "pypi.test",
                "-verify_hostname",
                "pypi.test",
                "-verify_return_error",
                "-CAfile",
                str(certificate),
            ]
            return subprocess.run(
                [*words, "openssl", "s_client", "-brief", "-connect", f"{CLIENT}:443", *checked],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=30,
            )  # fmt: skip

        done = handshake("setpriv", "--reuid", "65534", "--clear-groups", "--")
        assert done.returncode == 0, done.stderr + capturing.log
        assert "Verification: OK" in done.stdout + done.stderr
        assert handshake().returncode != 0, "nobody listens there, and root is not captured"
        assert "this user's own programs are not captured" in capturing.log


# ---- its end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@in_own_network
def test_a_stop_takes_rules_and_processes_away(number: int, authority: Authority, shelf: Shelf, scratch: Path) -> None:
    with stage(authority, shelf, scratch) as on:
        for mode in (on.transparent, ("--mode", f"local:{PROGRAM}")):
            with Capturing(on.edge, *mode) as capturing:
                children = capturing.children()
                assert len(alive(children)) >= 2
                assert ("leeward_capture" in nft_tables()) == ("transparent" in mode)
                assert capturing.stop(number) == 0, capturing.log
            assert alive(children) == []
            assert nft_tables() == ""
            assert "tun" not in subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout


@in_own_network
def test_nothing_is_left_even_of_one_that_is_killed(authority: Authority, shelf: Shelf, scratch: Path) -> None:
    with stage(authority, shelf, scratch) as on:
        for mode in (on.transparent, ("--mode", f"local:{PROGRAM}")):
            with Capturing(on.edge, *mode) as capturing:
                children = capturing.children()
                assert capturing.stop(signal.SIGKILL) != 0
                wait_until(partial(all_gone, children), 20)
            assert nft_tables() == ""


@in_own_network
def test_without_mitmproxy_the_command_ends_with_a_sentence_and_takes_the_rules_away(
    authority: Authority, shelf: Shelf, scratch: Path
) -> None:
    with stage(authority, shelf, scratch) as on:
        for mode in (on.transparent, ("--mode", f"local:{PROGRAM}")):
            with Capturing(on.edge, *mode) as capturing:
                assert capturing.process is not None
                children = capturing.children()
                (mitmproxy, *_) = [pid for pid in children if b"mitmdump" in Path(f"/proc/{pid}/cmdline").read_bytes()]
                os.kill(mitmproxy, signal.SIGKILL)
                assert capturing.process.wait(20) == 1
                assert "edge: mitmproxy ended with status -9" in capturing.log
            assert alive(children) == []
            assert nft_tables() == ""


@in_own_network
def test_a_second_capture_does_not_touch_the_firsts_rules(authority: Authority, shelf: Shelf, scratch: Path) -> None:
    with stage(authority, shelf, scratch) as on, Capturing(on.edge, *on.transparent):
        second = Capturing(on.edge, *on.transparent, "--port", "8083")
        assert second.begin().wait(30) == 1
        assert "does another edge capture run here?" in second.log
        assert "leeward_capture" in nft_tables()


@in_own_network
def test_without_install_rules_they_are_printed(authority: Authority, shelf: Shelf, scratch: Path) -> None:
    with stage(authority, shelf, scratch) as on, Capturing(on.edge, "--mode", "transparent") as capturing:
        assert nft_tables() == ""
        script = capturing.log.partition("nft -f - <<'END'\n")[2].partition("END\n")[0]
        subprocess.run(["nft", "--check", "-f", "-"], input=script, text=True, check=True)
        assert "tcp dport { 80, 443 } redirect to :8082" in script
