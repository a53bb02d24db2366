"""Who opens the authority's keys, as the kernel sees it: ``edge serve`` under strace, from its very first start."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from edge import certificates
from edge.signer import Files
from tests.harness import ROOT, Edge, wait_until

OPENED = re.compile(r'^(\d+) +open(?:at2?)?\((?:\w+, )?"([^"]+)"(.*)$')
EXECUTED = re.compile(r'^(\d+) +execve\("[^"]+", \[(.*?)\]')


@pytest.fixture
def traced(scratch: Path, tmp_path: Path) -> Edge:
    """An edge that is not started. Its registries refuse, but its proxy face stands in for them all the same."""
    if shutil.which("strace") is None:
        pytest.fail("strace is not installed: this test follows the system calls of an edge with it (apt install strace)")
    return Edge(tmp_path / "edge", "http://pypi.test:9/simple/", others={"npm": {"upstream": "http://npm.test:9/"}})


def shown(edge: Edge, host: str) -> bytes:
    """The certificate (DER) that a client of the proxy face gets which trusts the root and nothing else."""
    context = ssl.create_default_context(cafile=Files(edge.data).root)
    with socket.create_connection(("127.0.0.1", edge.port), 30) as plain:
        plain.sendall(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            piece = plain.recv(1)
            assert piece, head
            head += piece
        assert head.startswith(b"HTTP/1.1 200"), head
        with context.wrap_socket(plain, server_hostname=host) as secured:
            found = secured.getpeercert(binary_form=True)
            assert found is not None
            return found


@pytest.mark.slow
def test_only_the_signer_opens_an_authoritys_key(traced: Edge, tmp_path: Path) -> None:
    edge, trace = traced, tmp_path / "trace"
    command = [
        "strace",
        "-f",
        "-qq",
        "-s",
        "4096",
        "-e",
        "trace=open,openat,openat2,execve",
        "-e",
        "signal=none",
        "-o",
        str(trace),
    ]
    command += [sys.executable, "-m", "edge", "serve", *edge._options(), "--listen", f"127.0.0.1:{edge.port}"]
    with (tmp_path / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=edge._environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        files = Files(edge.data)
        wait_until(lambda: files.leaf("pypi.test").exists() and files.leaf("npm.test").exists(), 60)
        wait_until(lambda: edge.ask("/-/ready").status == 200, 60)
        shown(edge, "pypi.test")
        before = files.intermediate.read_bytes()
        # A host more, so that the root signs while the edge serves.
        add_alias(edge, "pypi", "more.test")
        wait_until(lambda: files.leaf("more.test").exists(), 60)
        shown(edge, "more.test")
        assert files.intermediate.read_bytes() != before
        assert edge.ask("/-/ca.pem").body == files.root.read_bytes()
    finally:
        # strace itself takes no signal while it traces. The first line is of the process that it began with.
        os.kill(int(trace.read_text(errors="replace").split(maxsplit=1)[0]), signal.SIGTERM)
        process.wait(30)
    opened, executed = read_trace(trace)
    keys = {str(path) for path in (files.root_key, files.intermediate_key)}
    by_key = {key: {task for task, paths in opened.items() if key in paths or f"{key}.new" in paths} for key in keys}
    assert all(by_key.values()), "the trace shows what it is to show"
    for key, tasks in by_key.items():
        for task in tasks:
            assert '"-m", "edge.authority"' in executed.get(task, "the serving process"), (key, task)
    # The serving process reads leaves, and the root's certificate.
    (first_task, *_) = opened
    serving = {path for task, paths in opened.items() if "edge.authority" not in executed.get(task, "") for path in paths}
    assert '"edge", "serve"' in executed[first_task]
    assert str(files.leaf("pypi.test")) in serving
    ours = {path for path in serving if path.startswith(f"{files.directory}/")}
    hosts = certificates.hosts_of(certificates.read_certificates(files.intermediate.read_bytes())[0])
    assert hosts >= {"pypi.test", "npm.test", "more.test"}
    assert ours == {str(files.root), *(str(files.leaf(host)) for host in hosts)}


def add_alias(edge: Edge, instance: str, host: str) -> None:
    """Tell the running edge of another host, as ``edge run`` does."""
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(str(edge.data / "edge.sock"))
        control.sendall(
            b'{"command": "alias", "arguments": {"instance": "%s", "host": "%s"}}\n' % (instance.encode(), host.encode())
        )
        answer = control.makefile("rb").readline()
    assert b'"result"' in answer, answer


def read_trace(trace: Path) -> tuple[dict[str, set[str]], dict[str, str]]:
    """What each task (a process, or a thread of one) tried to open, and which command line it last became."""
    opened: dict[str, set[str]] = defaultdict(set)
    executed: dict[str, str] = {}
    for line in trace.read_text(errors="replace").splitlines():
        if found := EXECUTED.match(line):
            executed[found[1]] = found[2]
        elif found := OPENED.match(line):
            opened[found[1]].add(found[2])
    return opened, executed


@pytest.mark.slow
def test_an_edge_whose_roots_key_was_taken_away_serves_on_and_says_so_for_new_hosts(traced: Edge) -> None:
    with traced as edge:
        files = Files(edge.data)
        wait_until(lambda: files.leaf("pypi.test").exists(), 60)
        first = shown(edge, "pypi.test")
        files.root_key.unlink()
        edge.restart()
        assert shown(edge, "pypi.test") == first
        add_alias(edge, "pypi", "more.test")
        told = edge.ask("/-/live")
        assert told.status == 200
        with socket.create_connection(("127.0.0.1", edge.port), 30) as plain:
            plain.sendall(b"CONNECT more.test:443 HTTP/1.1\r\nHost: more.test:443\r\n\r\n")
            answer = plain.makefile("rb").readline()
        assert answer.startswith(b"HTTP/1.1 503 "), answer
        wait_until(lambda: "more.test" in edge.log_tail() and str(files.root_key) in edge.log_tail(), 10)
        shown_by_command = edge.command("ca")
        assert f"note: the root's key is not at {files.root_key}" in shown_by_command.stdout
        assert certificates.fingerprint(certificates.read_certificates(files.root.read_bytes())[0]) in shown_by_command.stdout
