"""An edge in a process of its own, and the real clients pointed at it.

``Edge`` starts, stops, kills and restarts ``edge serve`` with a settings file that tests rewrite; ``CLIENTS`` are pip, uv, poetry and pdm,
each run in a home, cache and environment of its own. Nothing of this machine's configuration reaches them, and nothing but
loopback is talked to.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import trio

from origin import control
from tests.ageing import set_ahead
from tests.wheels import Distribution

ROOT = Path(__file__).resolve().parents[1]

TOOLS = Path(os.environ.get("LEEWARD_TOOLS", ROOT / ".tools" / "venv"))
"""The virtual environment that holds pip, uv, poetry and pdm."""

START_TIMEOUT_S = 20.0

KINDS = ("pypi", "npm", "maven")

NAMES = ROOT / "tests" / "tools" / "names"
"""What gives an edge's processes the addresses of names in ``.test``."""

REFUSING = 9
"""A port of this machine that nobody listens on (the discard service's)."""


# ---- waiting ---------------------------------------------------------------------------------------------------------


def wait_until(true: Callable[[], object], timeout_s: float = 5.0, every_s: float = 0.02) -> float:
    """Ask until ``true()`` is; gives the seconds it took. Raises ``TimeoutError``. For processes: tests on trio wait for events."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > timeout_s:
            raise TimeoutError(f"not so within {timeout_s} s")
        time.sleep(every_s)
    return time.monotonic() - began


_PORTS = range(10_000, 30_000)
"""Below those that the kernel gives out by itself, so that no connection takes one between its choice and its use."""

_PORTS_PER_WORKER = 2_000

_given: set[int] = set()
"""Ports that were chosen before: whoever asked for one may not listen on it yet."""


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now, from a range that this worker of the suite has to itself."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % (len(_PORTS) // _PORTS_PER_WORKER)
    mine = _PORTS[worker * _PORTS_PER_WORKER : (worker + 1) * _PORTS_PER_WORKER]
    if len(_given) > _PORTS_PER_WORKER // 2:
        _given.clear()
    for port in random.sample(mine, len(mine)):
        if port in _given:
            continue
        with socket.socket() as probe:
            # As servers bind: a port that a connection of an earlier one still lingers on is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                probe.listen()
            except OSError:
                continue
            _given.add(port)
            return port
    raise RuntimeError("no port is free")


@contextlib.contextmanager
def swallowing(host: str, port: int) -> Iterator[None]:
    """Make connecting to this address hang, as if packets were dropped: a listener whose queue is full and never emptied."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            code = filler.connect_ex((host, port))
            assert code in {0, errno.EINPROGRESS}, os.strerror(code)
        yield


# ---- raw requests ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. ``body`` is as sent, still coded; ``short`` says that the connection closed before ``Content-Length`` bytes."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes
    short: bool = False
    seconds: float = 0

    @property
    def content(self) -> bytes:
        """The body with its content coding undone."""
        coding = self.headers.get("content-encoding", "identity")
        if coding == "gzip":
            return gzip.decompress(self.body)
        assert coding == "identity", coding
        return self.body

    def json(self) -> Any:
        return json.loads(self.content)


def ask(
    url: str, headers: Mapping[str, str] | None = None, method: str = "GET", timeout_s: float = 30, body: bytes | None = None
) -> Reply:
    """Send one request on a connection of its own. The path goes out as written; redirects are not followed."""
    began = time.monotonic()
    parts = re.fullmatch(r"http://([^/]+)(/.*)?", url)
    assert parts is not None, url
    connection = http.client.HTTPConnection(parts[1], timeout=timeout_s)
    try:
        connection.putrequest(method, parts[2] or "/", skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        short = False
        try:
            content = response.read()
        except http.client.IncompleteRead as error:
            content, short = error.partial, True
        except ConnectionError:
            content, short = b"", True
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, response.reason, fields, content, short, time.monotonic() - began)
    finally:
        connection.close()


def send_raw(url: str, request: bytes, timeout_s: float = 10) -> bytes:
    """Send bytes as they are and give all that comes back until the server closes or falls silent for ``timeout_s``."""
    address = urllib.parse.urlsplit(url)
    assert address.hostname is not None
    received = b""
    with socket.create_connection((address.hostname, address.port or 80), timeout_s) as connection:
        connection.sendall(request)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while piece := connection.recv(65536):
                received += piece
    return received


# ---- the edge --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """One ``[[rules]]`` entry that refuses."""

    match: str
    reason: str
    name: str = "test-rule"

    def toml(self) -> str:
        return (
            f"[[rules]]\nname = {json.dumps(self.name)}\nmatch = {json.dumps(self.match)}\n"
            f'action = "refuse"\nreason = {json.dumps(self.reason)}\n'
        )


class NodeProcess(ABC):
    """A node as a subprocess, with its settings file and data in ``directory``. A subclass says which, and what its settings are."""

    program: str
    """``edge`` or ``origin``."""

    host = "127.0.0.1"
    """What it listens on."""

    start_s = START_TIMEOUT_S
    """How long it may take to be ready."""

    def __init__(self, directory: Path, data: Path | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.data = data or directory / "data"
        self.config = directory / f"{self.program}.toml"
        self.log = directory / f"{self.program}.log"
        self.clock = directory / "clock"
        self.rules: tuple[Rule, ...] = ()
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        set_ahead(self.clock, 0)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    # -- its life

    def start(self, wait: bool = True) -> Self:
        assert self._process is None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *[sys.executable, "-m", "tests.ageing", str(self.clock), self.program],
                    *["serve", *self._options(), "--listen", f"{self.host}:{self.port}"],
                ],
                cwd=ROOT,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Return as soon as ``/-/ready`` says 200; raise with the log's end if the node dies or takes too long."""

        def ready() -> bool:
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError(f"the {self.program} ended with {self._process.returncode}:\n{self.log_tail()}")
            try:
                return self._look("/-/ready", timeout_s=2).status == 200
            except OSError:
                return False

        try:
            wait_until(ready, self.start_s)
        except TimeoutError as error:
            raise RuntimeError(f"the {self.program} was not ready in time:\n{self.log_tail()}") from error

    def stop(self) -> int:
        """SIGTERM, and the exit status; killed if it takes longer than 20 s."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.terminate()
        try:
            return process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise RuntimeError(f"the {self.program} did not stop on SIGTERM:\n{self.log_tail()}") from None

    def kill(self) -> None:
        """SIGKILL: no goodbye of any kind."""
        process, self._process = self._process, None
        assert process is not None
        process.send_signal(signal.SIGKILL)
        process.wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """It hangs: what is sent to it is taken, and never answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def age(self, seconds: float) -> None:
        """Set its time of day so far ahead of the real one, at once and across restarts."""
        set_ahead(self.clock, seconds)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()

    def log_tail(self, lines: int = 60) -> str:
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    # -- its settings

    def set_rules(self, *rules: Rule) -> None:
        """Rewrite the settings file, atomically, as an editor would; the node takes it up by itself within a second."""
        self.rules = rules
        self._write_config()

    def _write_config(self) -> None:
        partial = self.config.with_suffix(".partial")
        partial.write_text("\n".join([*self._settings(), "", *(rule.toml() for rule in self.rules)]))
        partial.rename(self.config)

    @abstractmethod
    def _settings(self) -> list[str]:
        """The lines of its settings file, without rules."""

    def _options(self) -> list[str]:
        return ["--config", str(self.config), "--data", str(self.data)]

    def _environment(self) -> dict[str, str]:
        return clean_environment(self.directory / "home") | {"PYTHONPATH": str(ROOT)}

    # -- what can be asked of it

    @abstractmethod
    def _look(self, path: str, timeout_s: float = 30) -> Reply:
        """What it answers to whoever looks after it."""

    def metrics(self) -> dict[str, float]:
        """Every sample by its name with labels, as exposed: ``leeward_flights_total{outcome="done"}``."""
        samples = {}
        for line in self._look("/-/metrics").body.decode().splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
        return samples

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        total = 0.0
        for sample, value in self.metrics().items():
            base, _, rest = sample.partition("{")
            if base == name and all(f'{label}="{wanted}"' in rest for label, wanted in labels.items()):
                total += value
        return total

    def command(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run one of the program's commands with the node's settings and data, whether it runs or not."""
        command, *rest = arguments
        return subprocess.run(
            [sys.executable, "-m", self.program, command, *self._options(), *rest],
            cwd=ROOT,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


class Edge(NodeProcess):
    """``edge serve``, with its settings file and data in ``directory``.

    ``kind`` is the registry under test, which has ``upstream``; ``registry`` are further settings of it, ``others`` those of further
    instances, by name, in order. Kinds that are named nowhere get an upstream that refuses. ``top`` is TOML placed before all of them.

    ``authority`` is a file of certificates that its upstreams' are checked with, besides the machine's. ``names`` are the addresses of
    names in ``.test``: the edge, and every command run beside it, finds those and no others.
    """

    program = "edge"

    def __init__(
        self,
        directory: Path,
        upstream: str,
        *,
        kind: str = "pypi",
        registry: Mapping[str, object] | None = None,
        others: Mapping[str, Mapping[str, object]] | None = None,
        top: str = "",
        authority: Path | None = None,
        names: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__(directory)
        self.upstream = upstream
        self.kind = kind
        self.registry = dict(registry or {})
        self.others = {name: dict(settings) for name, settings in (others or {}).items()}
        self.top = top if authority is None else f"{top}\n[upstream]\nca = {json.dumps(str(authority))}\n"
        self.names = directory / "names.json"
        self.data.mkdir(exist_ok=True)
        self._write_config()
        self.set_names(names or {})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def index_url(self) -> str:
        """What clients are pointed at."""
        return f"{self.url}/{self.kind}/" + ("simple/" if self.kind == "pypi" else "")

    # -- its settings

    def _settings(self) -> list[str]:
        lines = [self.top]
        instances = {self.kind: {"upstream": self.upstream} | self.registry} | self.others
        for kind in KINDS:
            instances.setdefault(kind, {"upstream": f"http://127.0.0.1:{REFUSING}/"})
        for name, settings in instances.items():
            lines += [f"[registries.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]
        return lines

    def _environment(self) -> dict[str, str]:
        return clean_environment(self.directory / "home") | self.found_names()

    def found_names(self) -> dict[str, str]:
        """Variables with which processes of an edge find ``names``, and Python finds the edge."""
        return {"PYTHONPATH": os.pathsep.join([str(NAMES), str(ROOT)]), "LEEWARD_TEST_NAMES": str(self.names)}

    def set_names(self, names: Mapping[str, Sequence[str]]) -> None:
        """Give names in ``.test`` these addresses from now on. (Node and registry may hold connections, and what they looked up.)"""
        partial = self.names.with_suffix(".partial")
        partial.write_text(json.dumps({name: list(addresses) for name, addresses in names.items()}))
        partial.rename(self.names)

    # -- what can be asked of it

    def ask(self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET", timeout_s: float = 30) -> Reply:
        return ask(self.url + path, headers, method, timeout_s)

    def _look(self, path: str, timeout_s: float = 30) -> Reply:
        return self.ask(path, timeout_s=timeout_s)

    def page(self, project: str, accept: str = "application/vnd.pypi.simple.v1+json", **headers: str) -> Reply:
        """A project's page; header names are spelt with underscores."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask(f"/pypi/simple/{project}/", {"Accept": accept, **fields})

    def file_path(self, distribution: Distribution) -> str:
        """Where the edge offers a file whose page links to it by its hash."""
        b = distribution.blake2b
        return f"/pypi/packages/{b[:2]}/{b[2:4]}/{b[4:]}/{distribution.filename}"

    def file(self, distribution: Distribution, suffix: str = "", **headers: str) -> Reply:
        """A file's GET; header names are spelt with underscores."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask(self.file_path(distribution) + suffix, fields)

    def upstream_requests(self, kind: str | None = None) -> float:
        """Requests sent to the upstream of the registry under test. (Others are knocked at, since theirs refuse.)"""
        named = {"registry": self.kind} | ({"kind": kind} if kind is not None else {})
        return self.metric("leeward_upstream_requests_total", **named)

    @property
    def running(self) -> Through:
        """What puts ``edge run --`` before a client's command, with this edge as the one that runs."""
        return Through((sys.executable, "-m", "edge", "run", *self._options(), "--"), self.found_names())

    def wait_learnt(self) -> None:
        """Return once the edge has asked every upstream for the page that its file hosts are learnt from."""
        asked: dict[str, object] = {"learnt": True}
        trio.run(control.call, self.data / "edge.sock", "hosts", asked)

    def root_certificate(self) -> Path:
        """The certificate of the edge's authority (PEM), as ``/-/ca.pem`` gives it, in a file."""
        # It is made on first use, which takes a moment.
        wait_until(lambda: self.ask("/-/ca.pem").status == 200)
        reply = self.ask("/-/ca.pem")
        path = self.directory / "ca.pem"
        path.write_bytes(reply.body)
        return path

    def refresh(self, project: str) -> None:
        """``edge refresh``: ask upstream now, whatever freshness says."""
        done = self.command("refresh", f"pkg:pypi/{project}")
        assert done.returncode == 0, done.stdout + done.stderr

    def refresh_quietly(self, project: str) -> None:
        """``edge refresh``, whatever becomes of it."""
        self.command("refresh", f"pkg:pypi/{project}")

    def rss_bytes(self) -> int:
        """The process's resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    # -- what it holds

    def blobs(self) -> list[Path]:
        """Every file in the blob store's final place."""
        store = self.data / "blobs" / "sha256"
        return sorted(path for path in store.rglob("*") if path.is_file()) if store.exists() else []

    def stray_files(self) -> list[Path]:
        """Files under ``blobs`` that are no finished blob: temporary, spooled, or quarantined ones."""
        store = self.data / "blobs"
        return sorted(path for path in store.rglob("*") if path.is_file() and not path.is_relative_to(store / "sha256"))

    def holds(self, distribution: Distribution) -> bool:
        return any(path.name == distribution.sha256 for path in self.blobs())


# ---- clients ---------------------------------------------------------------------------------------------------------


def clean_environment(home: Path) -> dict[str, str]:
    """An environment with nothing of this machine's in it but the PATH and the locale."""
    home.mkdir(parents=True, exist_ok=True)
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    return kept | {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "XDG_DATA_HOME": str(home / ".local"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NO_COLOR": "1",
    }


@dataclass(frozen=True, slots=True)
class Result:
    """How a client fared. ``installed`` maps normalised project names to versions; ``output`` is all it printed."""

    returncode: int
    output: str
    installed: Mapping[str, str]
    seconds: float

    @property
    def succeeded(self) -> bool:
        return self.returncode == 0

    @property
    def flat(self) -> str:
        """The output as one line, for looking up a sentence that a client wrapped."""
        return re.sub(r"[\s│]+", " ", self.output)


@dataclass(frozen=True, slots=True)
class Through:
    """How a client gets to its registry: words before its command, and variables besides its own. As it stands: straight."""

    words: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    def run(
        self, command: Sequence[str | Path], environment: Mapping[str, str], cwd: Path, timeout_s: float
    ) -> tuple[int, str, float]:
        """Run a client's command; gives the exit status, all that it printed, and the seconds that it took."""
        began = time.monotonic()
        done = subprocess.run(
            [*self.words, *map(str, command)],
            cwd=cwd,
            env={**environment, **self.variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return done.returncode, done.stdout, time.monotonic() - began


STRAIGHT = Through()


@dataclass
class Workspace:
    """One client's own world in ``directory``: home, cache, environment, and (poetry, pdm) project with its lock file."""

    directory: Path
    through: Through = STRAIGHT
    environment: Path = field(init=False)
    home: Path = field(init=False)
    cache: Path = field(init=False)
    project: Path = field(init=False)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.environment = self.directory / "environment"
        self.home = self.directory / "home"
        self.cache = self.directory / "cache"
        self.project = self.directory / "project"
        self.project.mkdir(exist_ok=True)

    def fresh_environment(self) -> Path:
        """Make the target environment anew, empty. Gives its interpreter."""
        shutil.rmtree(self.environment, ignore_errors=True)
        done = subprocess.run(
            [
                TOOLS / "bin" / "uv",
                "venv",
                "--quiet",
                "--no-config",
                "--offline",
                "--python",
                TOOLS / "bin" / "python",
                self.environment,
            ],
            env=clean_environment(self.home) | {"UV_CACHE_DIR": str(self.directory / "venv-cache")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return self.environment / "bin" / "python"

    def empty_cache(self) -> None:
        shutil.rmtree(self.cache, ignore_errors=True)

    def installed(self) -> dict[str, str]:
        """What is in the environment, read from its ``dist-info`` directories."""
        found = {}
        for directory in self.environment.glob("lib/python*/site-packages/*.dist-info"):
            name, _, version = directory.name.removesuffix(".dist-info").rpartition("-")
            found[re.sub(r"[-_.]+", "-", name).lower()] = version
        return found

    def run(self, command: Sequence[str | Path], variables: dict[str, str], cwd: Path, timeout_s: float) -> Result:
        """Run a client and look at what it installed."""
        code, output, seconds = self.through.run(command, clean_environment(self.home) | variables, cwd, timeout_s)
        return Result(code, output, self.installed(), seconds)


class Client(Protocol):
    """One installer. ``install`` makes a fresh environment and installs ``requirements`` from ``index_url`` alone.

    ``hashes`` pins: requirements become exact ones with these digests (pip, uv), or the lock file of the workspace's project is used as it
    is, without asking for a new one (poetry, pdm; made by ``lock``). The cache is the workspace's, kept between calls.
    """

    @property
    def name(self) -> str: ...

    def install(
        self,
        workspace: Workspace,
        index_url: str,
        requirements: Sequence[str],
        *,
        hashes: Sequence[Distribution] = (),
        options: Sequence[str] = (),
        timeout_s: float = 120,
    ) -> Result: ...

    def lock(self, workspace: Workspace, index_url: str, requirements: Sequence[str], timeout_s: float = 120) -> Result: ...


def _pinned(workspace: Workspace, hashes: Sequence[Distribution]) -> Path:
    """A requirements file that pins ``hashes``."""
    by_pin: dict[str, list[str]] = {}
    for distribution in hashes:
        by_pin.setdefault(distribution.pin, []).append(distribution.hash_option)
    path = workspace.directory / "requirements.txt"
    path.write_text("".join(f"{pin} {' '.join(options)}\n" for pin, options in by_pin.items()))
    return path


@dataclass(frozen=True)
class Pip:
    """pip; ``python`` is an interpreter that has it."""

    name: str = "pip"
    python: Path = TOOLS / "bin" / "python"

    def install(
        self,
        workspace: Workspace,
        index_url: str,
        requirements: Sequence[str],
        *,
        hashes: Sequence[Distribution] = (),
        options: Sequence[str] = (),
        timeout_s: float = 120,
    ) -> Result:
        target = workspace.fresh_environment()
        wanted = ["--require-hashes", "-r", str(_pinned(workspace, hashes))] if hashes else list(requirements)
        command: list[str | Path] = [
            self.python,
            "-I",
            "-m",
            "pip",
            "--python",
            target,
            "--cache-dir",
            workspace.cache,
            "install",
        ]
        return workspace.run(
            [*command, "--index-url", index_url, *options, *wanted], self._variables(), workspace.directory, timeout_s
        )

    def lock(self, workspace: Workspace, index_url: str, requirements: Sequence[str], timeout_s: float = 120) -> Result:
        """Resolve only; the report is in ``pylock.toml``."""
        command: list[str | Path] = [
            self.python,
            "-I",
            "-m",
            "pip",
            "--cache-dir",
            workspace.cache,
            "lock",
            "--index-url",
            index_url,
        ]
        return workspace.run(
            [*command, "--output", "pylock.toml", *requirements], self._variables(), workspace.project, timeout_s
        )

    def _variables(self) -> dict[str, str]:
        return {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}


@dataclass(frozen=True)
class Uv:
    name: str = "uv"

    def install(
        self,
        workspace: Workspace,
        index_url: str,
        requirements: Sequence[str],
        *,
        hashes: Sequence[Distribution] = (),
        options: Sequence[str] = (),
        timeout_s: float = 120,
    ) -> Result:
        target = workspace.fresh_environment()
        wanted = ["--require-hashes", "-r", str(_pinned(workspace, hashes))] if hashes else list(requirements)
        command: list[str | Path] = [TOOLS / "bin" / "uv", "pip", "install", "--python", target, "--default-index", index_url]
        return workspace.run([*command, *options, *wanted], self.variables(workspace), workspace.directory, timeout_s)

    def lock(self, workspace: Workspace, index_url: str, requirements: Sequence[str], timeout_s: float = 120) -> Result:
        """Write ``uv.lock`` for a project with these dependencies."""
        (workspace.project / "pyproject.toml").write_text(
            f'[project]\nname = "locked"\nversion = "1"\nrequires-python = ">=3.13"\ndependencies = {json.dumps(list(requirements))}\n'
        )
        command: list[str | Path] = [
            TOOLS / "bin" / "uv",
            "lock",
            "--default-index",
            index_url,
            "--python",
            TOOLS / "bin" / "python",
        ]
        return workspace.run(command, self.variables(workspace), workspace.project, timeout_s)

    def sync(self, workspace: Workspace, *options: str, timeout_s: float = 120) -> Result:
        """``uv sync`` of the project as it is, into a fresh environment."""
        workspace.fresh_environment()
        variables = self.variables(workspace) | {"UV_PROJECT_ENVIRONMENT": str(workspace.environment)}
        command: list[str | Path] = [TOOLS / "bin" / "uv", "sync", "--no-install-project", *options]
        return workspace.run(command, variables, workspace.project, timeout_s)

    def variables(self, workspace: Workspace) -> dict[str, str]:
        """Its settings, with its cache in the workspace."""
        return {
            "UV_CACHE_DIR": str(workspace.cache),
            "UV_NO_CONFIG": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_PROGRESS": "1",
            "UV_LINK_MODE": "copy",
            "UV_HTTP_RETRIES": "1",
        }


@dataclass(frozen=True)
class Locking(ABC):
    """A client that installs what its project's lock file says, and nothing else: poetry and pdm."""

    name: str
    sync_words: Sequence[str]
    lock_words: Sequence[str]
    lock_file: str

    def install(
        self,
        workspace: Workspace,
        index_url: str,
        requirements: Sequence[str],
        *,
        hashes: Sequence[Distribution] = (),
        options: Sequence[str] = (),
        timeout_s: float = 120,
    ) -> Result:
        workspace.fresh_environment()
        if not hashes:
            locked = self.lock(workspace, index_url, requirements, timeout_s)
            if not locked.succeeded:
                return locked
        return self.sync(workspace, *options, fresh=False, timeout_s=timeout_s)

    def sync(self, workspace: Workspace, *options: str, fresh: bool = True, timeout_s: float = 120) -> Result:
        """Install the project as it is, into a fresh environment unless there is one already."""
        if fresh:
            workspace.fresh_environment()
        return self._run(workspace, [*self.sync_words, *options], timeout_s)

    def lock(self, workspace: Workspace, index_url: str, requirements: Sequence[str], timeout_s: float = 120) -> Result:
        """Write ``pyproject.toml`` and the lock file anew."""
        (workspace.project / self.lock_file).unlink(missing_ok=True)
        (workspace.project / "pyproject.toml").write_text(
            f'[project]\nname = "locked"\nversion = "1"\nrequires-python = ">=3.13,<4"\ndependencies = {json.dumps(list(requirements))}\n'
            + self._tool_table(index_url)
        )
        if not workspace.environment.exists():
            workspace.fresh_environment()
        return self._run(workspace, self.lock_words, timeout_s)

    def _run(self, workspace: Workspace, words: Sequence[str], timeout_s: float) -> Result:
        return workspace.run([TOOLS / "bin" / self.name, *words], self._variables(workspace), workspace.project, timeout_s)

    @abstractmethod
    def _tool_table(self, index_url: str) -> str:
        """What its table in ``pyproject.toml`` says: this index alone."""

    @abstractmethod
    def _variables(self, workspace: Workspace) -> dict[str, str]: ...


@dataclass(frozen=True)
class Poetry(Locking):
    name: str = "poetry"
    sync_words: Sequence[str] = ("install", "--no-root", "--no-interaction", "--no-ansi")
    lock_words: Sequence[str] = ("lock", "--no-interaction", "--no-ansi")
    lock_file: str = "poetry.lock"

    def _tool_table(self, index_url: str) -> str:
        return f'[tool.poetry]\npackage-mode = false\n[[tool.poetry.source]]\nname = "edge"\nurl = "{index_url}"\npriority = "primary"\n'

    def _variables(self, workspace: Workspace) -> dict[str, str]:
        return {
            "POETRY_CACHE_DIR": str(workspace.cache),
            "POETRY_CONFIG_DIR": str(workspace.home / "poetry-config"),
            "POETRY_DATA_DIR": str(workspace.home / "poetry-data"),
            "POETRY_KEYRING_ENABLED": "false",
            "POETRY_VIRTUALENVS_CREATE": "false",
            "VIRTUAL_ENV": str(workspace.environment),
            "PATH": f"{workspace.environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
        }


@dataclass(frozen=True)
class Pdm(Locking):
    name: str = "pdm"
    sync_words: Sequence[str] = ("sync", "--no-self")
    lock_words: Sequence[str] = ("lock",)
    lock_file: str = "pdm.lock"

    def _tool_table(self, index_url: str) -> str:
        return f'[tool.pdm]\ndistribution = false\n[[tool.pdm.source]]\nname = "pypi"\nurl = "{index_url}"\nverify_ssl = true\n'

    def _variables(self, workspace: Workspace) -> dict[str, str]:
        return {
            "PDM_CACHE_DIR": str(workspace.cache),
            "PDM_CHECK_UPDATE": "false",
            "PDM_IGNORE_SAVED_PYTHON": "1",
            "PDM_LOG_DIR": str(workspace.home / "pdm-log"),
            "PDM_NON_INTERACTIVE": "1",
            "VIRTUAL_ENV": str(workspace.environment),
        }


PIP, UV, POETRY, PDM = Pip(), Uv(), Poetry(), Pdm()

CLIENTS: Sequence[Client] = (PIP, UV, POETRY, PDM)
