"""What stands on the stage: documents, the upstream, nginx, our edge, and the client that asks them.

Every server listens on a loopback port of its own, keeps its files in one temporary directory, and is gone when the stage is.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.fakes.tls import Authority
from tests.wheels import Distribution, Shelf

ROOT = Path(__file__).resolve().parent.parent
OUT = Path(__file__).resolve().parent / "out"
CLIENTS = ROOT / ".tools" / "venv" / "bin"

SERVER_CPU, CLIENT_CPU = 0, 1
READY_S = 20.0
STOP_S = 10.0

PIP = {
    "User-Agent": 'pip/26.3 {"ci":null,"cpu":"x86_64","implementation":{"name":"CPython","version":"3.13.0"},"installer":{"name":"pip",'
    '"version":"26.3"},"openssl_version":"OpenSSL 3.0.19 27 Jan 2026","python":"3.13.0","system":{"name":"Linux"}}',
    "Accept": "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01",
    "Cache-Control": "max-age=0",
    "Connection": "keep-alive",
}
"""What pip sends for a project page, apart from its encodings."""

FILE = {"User-Agent": PIP["User-Agent"], "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "keep-alive"}


# ---- processes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and its children have used: CPU seconds since they began, resident bytes now."""

    cpu_s: float
    resident_bytes: int


class Server:
    """A running server. ``root`` is what requests' paths begin with."""

    tls_port = 0
    """Where it speaks TLS, if it does."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int, root: str = "") -> None:
        self.name = name
        self.process = process
        self.port = port
        self.root = root

    def pids(self) -> list[int]:
        """The process and its children."""
        found = [self.process.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                found += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return found

    def usage(self) -> Usage:
        cpu_s, resident = 0.0, 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                cpu_s += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                resident += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        return Usage(cpu_s, resident)

    def pin(self, cpus: set[int]) -> None:
        """Let all its threads run on these cores alone."""
        for pid in self.pids():
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(int(thread.name), cpus)

    def get(self, path: str, headers: Mapping[str, str] = PIP, timeout_s: float = 60) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection of its own: status, lower-cased headers, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request("GET", self.root + path, headers=dict(headers))
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        finally:
            connection.close()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def wait_ready(server: Server, path: str, log: Path) -> Server:
    """Ask until it answers. Raises ``RuntimeError`` with the end of its log if it stops or stays silent."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and server.process.poll() is None:
        with contextlib.suppress(OSError):
            bare = Server(server.name, server.process, server.port)
            if bare.get(path, timeout_s=2)[0] < 500:
                return server
        time.sleep(0.05)
    server.stop()
    raise RuntimeError(f"{server.name} did not start; its log ends:\n{log.read_text(errors='replace')[-2000:]}")


def nginx_path() -> str:
    unpacked = ROOT / ".tools" / "nginx" / "usr" / "sbin" / "nginx"
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if unpacked.exists():
        return str(unpacked)
    if found is None:
        raise RuntimeError("nginx is missing: `make bench` gets it")
    return found


NGINX = """\
daemon off;
{user}
worker_processes 1;
pid {directory}/pid;
error_log {directory}/error.log warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    open_file_cache max=10000 inactive=1h;
    open_file_cache_valid 1h;
    open_file_cache_min_uses 1;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/temporary;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    proxy_cache_path {directory}/cache levels=1:2 keys_zone=held:64m max_size=20g inactive=1d use_temp_path=off;
    upstream registry {{ server 127.0.0.1:{upstream}; keepalive 16; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        listen 127.0.0.1:{tls_port} ssl http2 backlog=4096;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        location / {{
            proxy_pass http://registry;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Accept-Encoding $http_accept_encoding;
            proxy_cache held;
            proxy_cache_key $uri|$http_accept_encoding;
            proxy_cache_lock on;
            proxy_cache_lock_timeout 60s;
            proxy_cache_lock_age 60s;
            proxy_ignore_headers Vary;
            proxy_cache_valid 200 1h;
        }}
    }}
}}
"""
"""As fast as its documentation lets it be: sendfile, open files remembered, no log, no variants by header."""


# ---- the client ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """What the client saw. Times are microseconds; ``each`` is (first byte, last byte, bytes) for each one-shot connection."""

    answers: int
    received: int
    errors: int
    trouble: str
    seconds: float
    p50_us: float
    p99_us: float
    max_us: float
    each: Sequence[tuple[float, float, int]]


class Client:
    """``load.c``, compiled once for each change of it."""

    def __init__(self, directory: Path) -> None:
        source = Path(__file__).with_name("load.c")
        self.directory = directory
        self.binary = OUT / f"load-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
        if not self.binary.exists():
            OUT.mkdir(exist_ok=True)
            subprocess.run(["gcc", "-O2", "-o", str(self.binary), str(source)], check=True)

    def run_tls(self, port: int, path: str, headers: Mapping[str, str], connections: int, seconds: float, *options: str) -> Load:
        """Ask over TLS with ``h2load``: HTTP/2, or what ``options`` say. It checks statuses, and keeps no times of its own here."""
        given = [f"--header={name}: {value}" for name, value in headers.items() if name != "Connection"]
        command = ["h2load", "-c", str(connections), "-t", "1", "-D", f"{seconds:g}", *options, *given]
        command.append(f"https://127.0.0.1:{port}{path}")
        pinned = partial(os.sched_setaffinity, 0, {CLIENT_CPU})
        out = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=pinned).stdout
        done = re.search(r"finished in ([0-9.]+)s, ([0-9.]+) req/s", out)
        counts = re.search(r"requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", out)
        traffic = re.search(r"traffic: .*?\((\d+)\) total", out)
        if done is None or counts is None or traffic is None:
            raise RuntimeError(f"h2load said something unexpected:\n{out}")
        answers, *bad = (int(count) for count in counts.groups())
        return Load(answers, int(traffic[1]), sum(bad), "h2load counted them", float(done[1]), 0, 0, 0, [])

    def start(self, port: int, path: str, headers: Mapping[str, str], *options: str) -> subprocess.Popen[bytes]:
        """Begin asking for ``path``; ``result`` waits for the end."""
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            *(f"{name}: {value}" for name, value in headers.items()),
            "",
            "",
        ]
        request = self.directory / f"request-{time.monotonic_ns()}"
        request.write_bytes("\r\n".join(lines).encode())
        return subprocess.Popen([str(self.binary), "-p", str(port), "-r", str(request), *options], stdout=subprocess.PIPE)

    @staticmethod
    def result(process: subprocess.Popen[bytes]) -> Load:
        out, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"the load client ended with {process.returncode}")
        seen: dict[str, Any] = json.loads(out)
        return Load(
            answers=int(seen["answers"]),
            received=int(seen["bytes"]),
            errors=int(seen["errors"]),
            trouble=str(seen["trouble"]),
            seconds=float(seen["seconds"]),
            p50_us=float(seen["p50"]),
            p99_us=float(seen["p99"]),
            max_us=float(seen["max"]),
            each=[(float(first), float(last), int(size)) for first, last, size in seen["each"]],
        )

    def run(self, port: int, path: str, headers: Mapping[str, str], *options: str) -> Load:
        return self.result(self.start(port, path, headers, *options))


# ---- the stage -------------------------------------------------------------------------------------------------------


class Stage:
    """A temporary directory, the documents in it, and what was started. Use ``stage()`` to have it cleared away."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.shelf = Shelf(OUT / "shelf")
        self.client = Client(directory)
        self.registry = directory / "registry"
        self.registry.mkdir()
        self.servers: list[Server] = []
        self.certificate = Authority(directory / "authority").certificate("localhost", "127.0.0.1")
        self._index: dict[str, dict[str, Any]] = {}

    def publish(self, project: str, distributions: Sequence[Distribution], listed: int = 0) -> None:
        """Put wheels on a project's page, and ``listed`` more entries whose files nobody will ask for."""
        files = []
        for distribution in distributions:
            link = self.registry / distribution.filename
            if not link.exists():
                os.link(distribution.path, link)
            files.append(_entry(distribution.filename, distribution.sha256, distribution.size))
        for number in range(listed):
            filename = f"{project}-0.{number}-py3-none-any.whl"
            files.append(_entry(filename, hashlib.sha256(filename.encode()).hexdigest(), 1000 + number))
        versions = sorted({file["filename"].split("-")[1] for file in files})
        self._index[project] = {
            "meta": {"api-version": "1.1", "_last-serial": 1},
            "name": project,
            "versions": versions,
            "files": files,
        }
        (self.registry / "index.json").write_text(json.dumps(self._index))

    def publish_packument(self, name: str, document: Mapping[str, object]) -> None:
        """Put an npm package's full document beneath ``/npm/``."""
        directory = self.registry / "npm"
        directory.mkdir(exist_ok=True)
        (directory / f"{name}.json").write_text(json.dumps(document, separators=(",", ":")))

    def upstream(self, *, rate: int = 0, max_age: int = 3600, port: int = 0) -> Server:
        """The registry. What is published later than this it does not know."""
        command = [sys.executable, "-m", "benchmarks.upstream", "--directory", str(self.registry)]
        command += ["--rate", str(rate), "--max-age", str(max_age), "--port", str(port)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        server = Server("upstream", process, int(process.stdout.readline()))
        self.servers.append(server)
        return server

    def nginx(self, upstream: Server) -> Server:
        directory = self.directory / f"nginx-{time.monotonic_ns()}"
        directory.mkdir()
        port = free_port()
        user = "user root;" if os.getuid() == 0 else ""
        tls_port = free_port()
        config = NGINX.format(
            directory=directory, port=port, upstream=upstream.port, user=user, tls_port=tls_port, certificate=self.certificate
        )
        (directory / "nginx.conf").write_text(config)
        command = [nginx_path(), "-e", str(directory / "error.log"), "-p", str(directory), "-c", str(directory / "nginx.conf")]
        server = Server("nginx", subprocess.Popen(command), port)
        server.tls_port = tls_port
        self.servers.append(server)
        return wait_ready(server, "/counts", directory / "error.log")

    def edge(self, upstream_port: int, *, fresh: str = "1h", data: Path | None = None, tls: bool = False) -> Server:
        """Our edge, before the upstream at that port. Give ``data`` again to start it over what it already holds.

        With ``tls`` it takes TLS beside plain HTTP on its port.
        """
        data = data or self.directory / f"edge-{time.monotonic_ns()}"
        data.mkdir(exist_ok=True)
        port = free_port()
        config = data.with_suffix(".toml")
        paths = {"pypi": "simple/", "npm": "npm/", "maven": "maven/"}
        config.write_text(
            "".join(
                f'[registries.{name}]\nupstream = "http://127.0.0.1:{upstream_port}/{path}"\nfresh = "{fresh}"\n'
                for name, path in paths.items()
            )
            + (f'[tls]\ncert = "{self.certificate}"\nkey = "{self.certificate}"\n' if tls else "")
        )
        log = data.with_suffix(".log")
        command = [str(ROOT / ".venv" / "bin" / "edge"), "serve", "--config", str(config), "--data", str(data)]
        with log.open("ab") as sink:
            process = subprocess.Popen([*command, "--listen", f"127.0.0.1:{port}"], stdout=sink, stderr=sink, cwd=self.directory)
        server = Server("leeward", process, port, "/pypi")
        server.tls_port = port if tls else 0
        self.servers.append(server)
        return wait_ready(server, "/-/live", log)

    def stop(self, server: Server) -> None:
        server.stop()
        self.servers.remove(server)


def _entry(filename: str, sha256: str, size: int) -> dict[str, Any]:
    return {
        "filename": filename,
        "hashes": {"sha256": sha256},
        "url": filename,
        "requires-python": ">=3.8",
        "size": size,
        "upload-time": "2026-01-02T03:04:05.678901Z",
        "yanked": False,
        "core-metadata": False,
    }


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """An empty stage, cleared away at the end whatever happens."""
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="stage-", dir=OUT) as directory:
        built = Stage(Path(directory))
        try:
            yield built
        finally:
            for server in reversed(built.servers):
                server.stop()


def file_path(server: Server, project: str, filename: str) -> str:
    """The path at which ``server`` offers a file, as its own page of the project says."""
    status, _, body = server.get(f"/simple/{project}/", PIP | {"Accept-Encoding": "identity"})
    if status != 200:
        raise RuntimeError(f"{server.name} answered {status} for the page of {project}")
    document: dict[str, Any] = json.loads(body)
    [url] = [str(file["url"]) for file in document["files"] if file["filename"] == filename]
    if url.startswith("http"):
        return "/" + url.split("/", 3)[3]
    if not url.startswith("/"):
        raise RuntimeError(f"{server.name} links {url!r}, which is not root-relative")
    return url


def counts(upstream: Server) -> dict[str, int]:
    """How often each path was asked upstream."""
    told: dict[str, int] = json.loads(upstream.get("/counts")[2])
    return told
