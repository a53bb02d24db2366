"""Real clients and the authority's certificates: what they must accept, and what they must refuse, however it was signed.

A small TLS server shows leaves of a real authority, some of them for hosts that its intermediate may not sign for: minted here with the
intermediate's own key, as a thief of it would. Each client trusts the root as ``edge.trust`` has it do.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge import authority, certificates, trust
from edge.signer import Files
from origin.http.tls import server_context
from tests.harness import TOOLS, clean_environment
from tests.node import BUN_PROGRAM, NODE

PUBLIC = "public.test"
"""A host whose certificate is not ours: as of one that a tunnel leads to, and that the machine's own roots vouch for."""


@dataclass(frozen=True)
class Case:
    """A host, and whether clients must accept what an authority for ``permitted`` signed for it."""

    permitted: tuple[str, ...]
    host: str
    is_good: bool

    def __str__(self) -> str:
        return f"{self.host}-by-{'+'.join(self.permitted)}"


NAMES = ("files.pypi.test", "my_mirror.test", "npm.test", "pypi.test", "registry")
MIXED = ("127.0.0.1", "pypi.test")
ADDRESSES = ("127.0.0.1",)
SIXES = ("::1", "pypi.test")

CASES = [
    *(Case(NAMES, host, True) for host in ("pypi.test", "npm.test", "files.pypi.test", "registry", "my_mirror.test")),
    *(Case(NAMES, host, False) for host in ("evil.test", "test", "xpypi.test", "127.0.0.1", "::1")),
    *(Case(MIXED, host, True) for host in ("pypi.test", "127.0.0.1")),
    *(Case(MIXED, host, False) for host in ("evil.test", "127.0.0.2", "::1")),
    *(Case(ADDRESSES, host, host == "127.0.0.1") for host in ("127.0.0.1", "127.0.0.2", "evil.test", "::1")),
    *(Case(SIXES, host, host in SIXES) for host in ("::1", "pypi.test", "127.0.0.1", "evil.test")),
]


class Shown:
    """A TLS server on loopback that shows one leaf, speaks one answer, and counts who came through the handshake with a request.

    It is a proxy too, for clients that look names up: whatever they ``CONNECT`` to is itself.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.requests: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            # A client that does not like the certificate just goes.
            with connection, contextlib.suppress(OSError):
                connection.settimeout(10)
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        if connection.recv(1, socket.MSG_PEEK) == b"C":
            _head(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with self.context.wrap_socket(connection, server_side=True) as secured:
            self.requests.append(_head(secured).partition("\r\n")[0])
            secured.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def _head(connection: socket.socket) -> str:
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(4096)
        if not piece:
            raise ConnectionAbortedError
        received += piece
    return received.decode("latin-1")


@dataclass(frozen=True)
class Stage:
    """One authority for ``permitted``: what clients trust, and a server for each host."""

    trust: trust.Trust
    shown: Mapping[str, Shown]


@pytest.fixture(scope="module")
def stages(scratch: Path) -> Iterator[Mapping[tuple[str, ...], Stage]]:
    with contextlib.ExitStack() as stack:
        made = {}
        for number, permitted in enumerate(dict.fromkeys(case.permitted for case in CASES)):
            data = scratch / f"authority-{number}"
            now = time.time()
            authority.issue(data, permitted, now)
            files = Files(data)
            stolen = certificates.read_signer(files.intermediate.read_bytes(), files.intermediate_key.read_bytes())
            shown = {}
            for case in CASES:
                if case.permitted == permitted:
                    chain = files.leaf(case.host) if case.is_good else data / f"stolen-{case.host}.pem"
                    if not case.is_good:
                        leaf = certificates.make_leaf(stolen, case.host, now)
                        texts = [certificates.pem_of(leaf.certificate), certificates.pem_of(stolen.certificate)]
                        chain.write_bytes(b"".join([*texts, certificates.key_pem_of(leaf.key)]))
                    context = server_context(str(chain))
                    context.set_alpn_protocols(["http/1.1"])
                    shown[case.host] = Shown(context)
                    stack.callback(shown[case.host].close)
            made[permitted] = Stage(trust.ensure_trust(data), shown)
        yield made


def told(stages: Mapping[tuple[str, ...], Stage], ask: Callable[[Stage, Sequence[str]], Mapping[str, str]]) -> dict[str, str]:
    """What a client says of each case, "" for one that it accepts; asked once for each authority."""
    said: dict[str, str] = {}
    for permitted, stage in stages.items():
        answers = ask(stage, [case.host for case in CASES if case.permitted == permitted])
        said |= {str(case): answers[case.host] for case in CASES if case.permitted == permitted}
    return said


def assert_right(said: Mapping[str, str], why: str, cannot: Callable[[str], bool] = lambda host: False) -> None:
    """Accepted what is good; refused what is not, and for its name. ``why``, any of these words, is how the client puts that.

    Hosts that it ``cannot`` speak to, whoever vouches for them, are refused in words of their own.
    """
    good = [str(case) for case in CASES if case.is_good and not cannot(case.host)]
    assert {case: said[case] for case in good} == dict.fromkeys(good, "")
    for case in CASES:
        if cannot(case.host):
            assert said[str(case)]
        elif not case.is_good:
            assert any(word in said[str(case)] for word in why.split("|")), (str(case), said[str(case)])


def run(command: Sequence[str | Path], home: Path, **variables: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        env=clean_environment(home) | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout


def is_address(host: str) -> bool:
    return ":" in host or host[0].isdigit()


def test_python(stages: Mapping[tuple[str, ...], Stage]) -> None:
    def ask(stage: Stage, hosts: Sequence[str]) -> Mapping[str, str]:
        context = ssl.create_default_context(cafile=stage.trust.root)
        assert context.verify_flags & ssl.VERIFY_X509_STRICT
        said: dict[str, str] = {}
        for host in hosts:
            try:
                with (
                    socket.create_connection(("127.0.0.1", stage.shown[host].port), 10) as plain,
                    context.wrap_socket(plain, server_hostname=host),
                ):
                    said[host] = ""
            except ssl.SSLCertVerificationError as error:
                said[host] = error.verify_message
        return said

    assert_right(told(stages, ask), "permitted subtree violation|excluded subtree violation")


def test_openssl(stages: Mapping[tuple[str, ...], Stage], tmp_path: Path) -> None:
    def ask(stage: Stage, hosts: Sequence[str]) -> Mapping[str, str]:
        said: dict[str, str] = {}
        for host in hosts:
            command: list[str | Path] = [
                "openssl",
                "s_client",
                "-connect",
                f"127.0.0.1:{stage.shown[host].port}",
                "-CAfile",
                stage.trust.root,
            ]
            command += ["-x509_strict", "-verify_return_error", "-verify_ip" if is_address(host) else "-verify_hostname", host]
            out = run(command, tmp_path, SSL_CERT_DIR="/nonexistent", SSL_CERT_FILE="/nonexistent")
            said[host] = "" if "Verify return code: 0 (ok)" in out else out
        return said

    assert_right(told(stages, ask), "permitted subtree violation|excluded subtree violation")


JAVASCRIPT = """\
const [host, port] = process.argv.slice(-2);
const tls = require('tls');
const name = require('net').isIP(host) ? {} : {servername: host};
const socket = tls.connect({host: '127.0.0.1', port: +port, ...name,
    checkServerIdentity: (_, certificate) => tls.checkServerIdentity(host, certificate)});
socket.on('secureConnect', () => { console.log('accepted'); socket.destroy(); });
socket.on('error', (error) => { console.log(error.code + ' ' + error.message); });
"""


@pytest.mark.parametrize("program", ["node", NODE], ids=["system", "pinned"])
def test_node(stages: Mapping[tuple[str, ...], Stage], tmp_path: Path, program: str | Path) -> None:
    script = tmp_path / "client.js"
    script.write_text(JAVASCRIPT)

    def ask(stage: Stage, hosts: Sequence[str]) -> Mapping[str, str]:
        said: dict[str, str] = {}
        for host in hosts:
            out = run([program, script, host, str(stage.shown[host].port)], tmp_path, NODE_EXTRA_CA_CERTS=str(stage.trust.root))
            said[host] = out.removesuffix("accepted\n")
        return said

    assert_right(told(stages, ask), "PERMITTED_VIOLATION|permitted subtree violation|excluded subtree violation")


JAVA = """\
import java.net.Socket;
import java.util.List;
import javax.net.ssl.*;

public class Client {
    public static void main(String[] arguments) throws Exception {
        for (int i = 0; i < arguments.length; i += 2) {
            String host = arguments[i];
            String said = "accepted";
            try (Socket plain = new Socket("127.0.0.1", Integer.parseInt(arguments[i + 1]));
                    SSLSocket socket = (SSLSocket) ((SSLSocketFactory) SSLSocketFactory.getDefault())
                        .createSocket(plain, host, plain.getPort(), true)) {
                SSLParameters parameters = socket.getSSLParameters();
                parameters.setEndpointIdentificationAlgorithm("HTTPS");
                socket.setSSLParameters(parameters);
                socket.startHandshake();
            } catch (SSLException error) {
                said = error.toString().replace('\\n', ' ');
            }
            System.out.println(host + " " + said);
        }
    }
}
"""


@pytest.mark.slow
def test_java(stages: Mapping[tuple[str, ...], Stage], tmp_path: Path) -> None:
    """JDKs speak to no host with an underscore."""
    source = tmp_path / "Client.java"
    source.write_text(JAVA)
    run(["javac", "-d", tmp_path, source], tmp_path)

    def ask(stage: Stage, hosts: Sequence[str]) -> Mapping[str, str]:
        options = [
            f"-Djavax.net.ssl.trustStore={stage.trust.truststore}",
            "-XX:TieredStopAtLevel=1",
            "-Djava.net.preferIPv4Stack=true",
        ]
        options += [f"-Djavax.net.ssl.trustStorePassword={stage.trust.password}", "-cp", str(tmp_path)]
        out = run(
            ["java", *options, "Client", *(word for host in hosts for word in (host, str(stage.shown[host].port)))], tmp_path
        )
        lines = dict(line.split(" ", 1) for line in out.splitlines())
        return {host: lines[host].removeprefix("accepted") for host in hosts}

    assert_right(told(stages, ask), "name constraints", lambda host: "_" in host)


def test_uv(stages: Mapping[tuple[str, ...], Stage], tmp_path: Path) -> None:
    """uv verifies with rustls and webpki. It asks for no server whose name is an IPv6 address in brackets."""

    def ask(stage: Stage, hosts: Sequence[str]) -> Mapping[str, str]:
        said: dict[str, str] = {}
        for host in hosts:
            shown = stage.shown[host]
            shown.requests.clear()
            authority_ = f"[{host}]" if ":" in host else host
            command: list[str | Path] = [
                TOOLS / "bin" / "uv",
                "pip",
                "install",
                "--dry-run",
                "--no-cache",
                "--target",
                tmp_path / "target",
                "orchard",
            ]
            command += ["--index-url", f"https://{authority_}/simple/"]
            proxy = f"http://127.0.0.1:{shown.port}"
            out = run(command, tmp_path, SSL_CERT_FILE=str(stage.trust.bundle), HTTPS_PROXY=proxy, UV_HTTP_RETRIES="0")
            said[host] = "" if shown.requests == ["GET /simple/orchard/ HTTP/1.1"] else out
        return said

    assert_right(told(stages, ask), "NameConstraintViolation|name constraint", lambda host: ":" in host)


def test_bun(stages: Mapping[tuple[str, ...], Stage], tmp_path: Path) -> None:
    """bun verifies with BoringSSL, which knows no constraints on addresses."""
    script = tmp_path / "client.js"
    script.write_text(JAVASCRIPT)

    def ask(stage: Stage, hosts: Sequence[str]) -> Mapping[str, str]:
        said: dict[str, str] = {}
        for host in hosts:
            command: list[str | Path] = [BUN_PROGRAM, script, host, str(stage.shown[host].port)]
            said[host] = run(command, tmp_path, NODE_EXTRA_CA_CERTS=str(stage.trust.root)).removesuffix("accepted\n")
        return said

    assert_right(told(stages, ask), "permitted subtree violation|excluded subtree violation|PERMITTED|EXCLUDED", is_address)


def test_a_java_truststore_is_of_trusted_certificates_and_as_many_as_the_bundle(
    stages: Mapping[tuple[str, ...], Stage], tmp_path: Path
) -> None:
    made = stages[NAMES].trust
    out = run(["keytool", "-list", "-keystore", made.truststore, "-storepass", made.password], tmp_path)
    assert out.count("trustedCertEntry") == made.bundle.read_bytes().count(b"BEGIN CERTIFICATE")
    assert certificates.fingerprint(certificates.read_certificates(made.root.read_bytes())[0]) in out


def test_the_bundle_keeps_what_the_machine_trusts(tmp_path: Path) -> None:
    """A client that is given the bundle still accepts hosts that others vouch for."""
    foreign = certificates.make_root(time.time())
    roots = tmp_path / "roots.pem"
    roots.write_bytes(certificates.pem_of(foreign.certificate))
    vouched = certificates.make_intermediate(foreign, [PUBLIC], time.time())
    leaf = certificates.make_leaf(vouched, PUBLIC, time.time())
    chain = tmp_path / "chain.pem"
    texts = [certificates.pem_of(leaf.certificate), certificates.pem_of(vouched.certificate), certificates.key_pem_of(leaf.key)]
    chain.write_bytes(b"".join(texts))
    made = trust.ensure_trust(tmp_path / "data", {"SSL_CERT_FILE": str(roots)})
    shown = Shown(server_context(str(chain)))
    try:
        context = ssl.create_default_context(cafile=made.bundle)
        with socket.create_connection(("127.0.0.1", shown.port), 10) as plain, context.wrap_socket(plain, server_hostname=PUBLIC):
            pass
    finally:
        shown.close()
