"""A network of a test's own, ``edge capture`` in it, and clients that know of no proxy.

A test that is decorated with ``in_own_network`` runs in a thread whose network namespace is new, and so does every process that it starts:
nothing that happens there can be seen from outside, nor reach it. ``Client`` is a program in a second namespace, whose way out is the
first; its names lead where the test says, which may be nowhere.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from tests.harness import ROOT, TOOLS, Edge, clean_environment, wait_until

GATEWAY, CLIENT = "10.77.0.1", "10.77.0.2"
NOWHERE = "192.0.2.1"
"""An address at which nobody is (RFC 5737): what is said to have come from there came from the edge."""

_numbers = itertools.count()


def why_not() -> str:
    """Why this machine cannot run these tests; empty if it can."""
    if os.geteuid() != 0:
        return "capturing needs root, which these tests do not run as"
    missing = [
        name
        for name in ("ip", "nft", "unshare", "nsenter")
        if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None
    ]
    if missing:
        return f"not installed: {', '.join(missing)}"
    made = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, check=False)
    return "" if made.returncode == 0 else f"no namespaces can be made here: {made.stderr.decode().strip()}"


def in_own_network[**P](test: Callable[P, None]) -> Callable[P, None]:
    """Run ``test`` in a network namespace of its own, with loopback up; skip it where there can be none."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        if reason := why_not():
            pytest.skip(reason)
        failed: list[BaseException] = []

        def inside() -> None:
            try:
                os.unshare(os.CLONE_NEWNET)
                ip("link", "set", "lo", "up")
                test(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 -- the outcome of a test is an exception of pytest's
                failed.append(error)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]

    return run


def ip(*words: str) -> None:
    """``ip``, as in iproute2."""
    subprocess.run(["ip", *words], check=True, env=os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"})


def nft_tables() -> str:
    """What nftables has in this namespace."""
    environ = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    return subprocess.run(["nft", "list", "tables"], check=True, env=environ, capture_output=True, text=True).stdout


# ---- clients ---------------------------------------------------------------------------------------------------------


class Here:
    """Programs in the test's own namespace, for which ``names`` lead to these addresses."""

    def __init__(self, directory: Path, names: Mapping[str, str]) -> None:
        self._hosts = directory / f"hosts-{next(_numbers)}"
        found = {"localhost": "127.0.0.1", **names}
        self._hosts.write_text("".join(f"{address} {name}\n" for name, address in found.items()))
        self._home = directory / f"home-{next(_numbers)}"

    def words(self) -> list[str]:
        return ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(self._hosts)]

    def run(self, *command: str | Path, timeout_s: float = 90, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program that has no proxy variable and nothing else of this machine's."""
        environ = clean_environment(self._home) | variables
        assert not [name for name in environ if "proxy" in name.lower()]
        return subprocess.run(
            [*self.words(), *map(str, command)],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            cwd="/",
        )

    def pip(
        self, directory: Path, index_url: str, certificate: Path, *requirements: str, name: str = "pip"
    ) -> subprocess.CompletedProcess[str]:
        """``pip install`` into ``directory``; the process is called ``name``."""
        program = directory.with_name(f"{directory.name}-bin") / name
        program.parent.mkdir(exist_ok=True)
        shutil.copy(TOOLS / "bin" / "pip", program)
        words: list[str | Path] = [
            "install",
            "--target",
            directory,
            "--no-cache-dir",
            "--disable-pip-version-check",
            "--retries",
            "0",
            "--timeout",
            "20",
        ]
        return self.run(program, *words, "--index-url", index_url, "--cert", certificate, *requirements)


class Beyond(Here):
    """Programs in a namespace of their own, whose way out is the test's: they come in by ``interface``."""

    interface = "leeward0"

    def __init__(self, directory: Path, names: Mapping[str, str], process: subprocess.Popen[bytes]) -> None:
        super().__init__(directory, names)
        self._process = process

    @classmethod
    @contextlib.contextmanager
    def start(cls, directory: Path, names: Mapping[str, str]) -> Iterator[Self]:
        """Make the namespace, and the wire to it."""
        process = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            process.stdout.readline()
            made = cls(directory, names, process)
            ip("link", "add", cls.interface, "type", "veth", "peer", "name", "leeward1", "netns", str(process.pid))
            ip("address", "add", f"{GATEWAY}/24", "dev", cls.interface)
            ip("link", "set", cls.interface, "up")
            for words in (
                ["link", "set", "lo", "up"],
                ["address", "add", f"{CLIENT}/24", "dev", "leeward1"],
                ["link", "set", "leeward1", "up"],
                ["route", "add", "default", "via", GATEWAY],
            ):
                subprocess.run([*made.entering(), "ip", *words], check=True)
            yield made
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()

    def entering(self) -> list[str]:
        return ["nsenter", f"--net=/proc/{self._process.pid}/ns/net"]

    def words(self) -> list[str]:
        return [*self.entering(), *super().words()]


# ---- capturing -------------------------------------------------------------------------------------------------------


class Capturing:
    """``edge capture`` for ``edge``, running until the block ends."""

    def __init__(self, edge: Edge, *arguments: str) -> None:
        self._log = edge.directory / f"capture-{next(_numbers)}.log"
        self._command = [
            # The installed script: its name is that of the edge, which is left out of what is captured.
            str(Path(sys.executable).with_name("edge")),
            "capture",
            "--data",
            str(edge.data),
            "--config",
            str(edge.config),
            *arguments,
        ]
        self._environ = clean_environment(edge.directory / "home") | {
            "PYTHONPATH": str(ROOT),
            "EDGE_LISTEN": f"127.0.0.1:{edge.port}",
        }
        self._environ |= {"EDGE_LOG__LEVEL": "debug"}
        self.process: subprocess.Popen[bytes] | None = None

    def begin(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT
            )
        return self.process

    def __enter__(self) -> Self:
        process = self.begin()
        wait_until(lambda: "capturing mode=" in self.log or process.poll() is not None, 60)
        if process.poll() is not None:
            log = self.log
            if "local mode does not work on this machine" in log:
                pytest.skip(next(line for line in log.splitlines() if "does not work" in line))
            raise AssertionError(log)
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            assert self.stop() == 0, self.log

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def children(self) -> list[int]:
        """The processes that it has started, and those they have."""
        assert self.process is not None
        return descendants(self.process.pid)


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def alive(pids: Sequence[int]) -> list[int]:
    """Those of these processes that still run (a zombie does not)."""
    running = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                running.append(pid)
    return running


def all_gone(pids: Sequence[int]) -> bool:
    return alive(pids) == []


# ---- servers ---------------------------------------------------------------------------------------------------------


class Greeter:
    """A server at ``address`` that has nothing to do with registries: ``answer`` gives its bytes for what it has read.

    ``context`` makes it speak TLS; ``greeting`` is said before anything is read. ``heard`` is all that was read, ``peers`` who came.
    """

    def __init__(self, address: str, port: int, *, context: ssl.SSLContext | None = None, greeting: bytes = b"") -> None:
        self.heard: list[bytes] = []
        self.failed: list[Exception] = []
        self._context = context
        self._greeting = greeting
        self._listener = socket.create_server((address, port))
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(20)
            try:
                opened: Any = connection if self._context is None else self._context.wrap_socket(connection, server_side=True)
                with opened:
                    if self._greeting:
                        opened.sendall(self._greeting)
                    said = opened.recv(65536)
                    self.heard.append(said)
                    opened.sendall(b"heard " + said)
            except OSError as error:
                self.failed.append(error)
                connection.close()
