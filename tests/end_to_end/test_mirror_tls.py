"""The mirror face over TLS, with an operator's certificate: beside plain HTTP on one port, for real clients, renewed while it serves."""

from __future__ import annotations

import http.client
import json
import shutil
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes import FakePyPI
from tests.fakes.tls import Authority
from tests.harness import ROOT, Edge, clean_environment, wait_until
from tests.wheels import KB, Shelf

pytestmark = pytest.mark.slow

JSON = "application/vnd.pypi.simple.v1+json"


@dataclass(frozen=True)
class Secure:
    edge: Edge
    authority: Authority
    cert: Path

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
        context = self.authority.client_context()
        connection = http.client.HTTPSConnection("127.0.0.1", self.edge.port, context=context, timeout=30)
        try:
            connection.request("GET", path, headers=dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def shown(self) -> str:
        return ssl.get_server_certificate(("127.0.0.1", self.edge.port))


@pytest.fixture
def secure(tmp_path: Path, fake: FakePyPI) -> Iterator[Secure]:
    authority = Authority(tmp_path / "authority")
    cert = tmp_path / "cert.pem"
    shutil.copy(authority.certificate("127.0.0.1", "localhost"), cert)
    top = f"[tls]\ncert = {json.dumps(str(cert))}\nkey = {json.dumps(str(cert))}\n"
    with Edge(tmp_path / "edge", fake.index_url, top=top) as edge:
        yield Secure(edge, authority, cert)


def test_pages_and_files_are_the_same_by_both_and_links_lead_to_where_they_were_read(
    secure: Secure, fake: FakePyPI, shelf: Shelf
) -> None:
    wheel = shelf.wheel("by-both", "1.0", size=3000 * KB)
    fake.publish(wheel)
    page = "/pypi/simple/by-both/"
    status, _, cold = secure.get(page, {"Accept": JSON})
    assert status == 200
    status, headers, warm = secure.get(page, {"Accept": JSON})
    assert (status, warm) == (200, cold)
    url = str(json.loads(warm)["files"][0]["url"])
    assert not url.startswith("http:")
    assert secure.get(page, {"Accept": JSON, "If-None-Match": headers["etag"]})[0] == 304
    path = url.removeprefix(f"https://127.0.0.1:{secure.edge.port}")
    assert secure.get(path)[2] == secure.edge.ask(path).body == wheel.content
    assert secure.get(path, {"Range": "bytes=1000000-1999999"})[2] == wheel.content[1_000_000:2_000_000]


def test_a_renewed_certificate_is_shown_without_a_restart_and_told_in_the_metrics(secure: Secure) -> None:
    before = secure.shown()
    shutil.copy(secure.authority.certificate("127.0.0.1", "localhost"), secure.cert)
    wait_until(lambda: secure.shown() != before, 20)
    assert secure.get("/-/live")[0] == 200
    metrics = secure.get("/-/metrics")[2].decode()
    [line] = [line for line in metrics.splitlines() if line.startswith("leeward_certificate_expires_seconds ")]
    assert float(line.split()[1]) > 1.7e9
    assert 'leeward_tls_handshakes_total{outcome="done"}' in metrics


def test_pip_and_a_client_of_http_2_are_served(secure: Secure, fake: FakePyPI, shelf: Shelf, tmp_path: Path) -> None:
    wheel = shelf.wheel("by-pip", "1.0", size=300 * KB)
    fake.publish(wheel)
    base, trusted = f"https://localhost:{secure.edge.port}", str(secure.authority.path)
    into = tmp_path / "into"
    pip = [str(ROOT / ".tools" / "venv" / "bin" / "pip"), "download", "--no-deps", "--cert", trusted, "-d", str(into)]
    command = [*pip, "--index-url", f"{base}/pypi/simple/", "by-pip"]
    subprocess.run(command, check=True, env=clean_environment(tmp_path / "home"), timeout=60)
    assert (into / wheel.filename).read_bytes() == wheel.content
    curl = ["curl", "-sS", "--http2", "--noproxy", "*", "--cacert", trusted, "-H", f"Accept: {JSON}", "-w", "%{http_version}"]
    done = subprocess.run([*curl, f"{base}/pypi/simple/by-pip/"], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("}2")
    assert wheel.filename in done.stdout
