"""An origin and three edges on this machine: ``make three-regions``.

It starts them on loopback with the settings in ``three-regions/``, enrols the edges by itself, says what is where and how to try it, and
ends all of them on Ctrl-C or SIGTERM, or when one of them ends. Run again it goes on with what the last run left. Variables such as
``ORIGIN_REGISTRIES__NPM__UPSTREAM`` and ``EDGE_LOG__LEVEL`` reach the nodes as they reach any other.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import trio

HERE = Path(__file__).resolve().parent
SETTINGS = HERE / "three-regions"

REGIONS = ("a", "b", "c")

PORTS = (9090, 8081, 8082, 8083)
"""Of the origin and the three edges."""

START_S = 30.0
"""How long a node may take until it serves."""

STOP_S = 40.0
"""How long a node may take to end, which is longer than the settings here let it drain; then it is killed."""

COMMAND_S = 60.0

LOG_LINES = 30

_TOKEN = re.compile(r"\blw1\.[A-Za-z0-9_-]+")


class Failed(Exception):
    """It cannot go on; the message says why, with the end of a log where there is one."""


@dataclass(slots=True)
class Node:
    """One node: its program (``origin`` or ``edge``), what it is called, where it listens and where its things are.

    ``process`` is there while it runs.
    """

    program: str
    name: str
    port: int
    directory: Path
    environ: Mapping[str, str]
    options: tuple[str, ...] = ()
    process: trio.Process | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.program == 'origin' else 'http'}://127.0.0.1:{self.port}"

    @property
    def config(self) -> Path:
        return SETTINGS / f"{self.name}.toml"

    @property
    def data(self) -> Path:
        return self.directory / self.name

    @property
    def log(self) -> Path:
        return self.directory / f"{self.name}.log"

    @property
    def identity(self) -> Path:
        """What an edge has once it is enrolled."""
        return self.data / "origin.json"

    def command(self, command: str, *arguments: str) -> list[str]:
        """The words of one of its commands."""
        options = ["--config", str(self.config), "--data", str(self.data)]
        return [sys.executable, "-m", self.program, command, *options, *arguments]

    def log_end(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return "(there is no log)"
        return "\n".join(lines[-LOG_LINES:])

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started when it says that it is ready. Raises ``Failed`` if the node ends by itself."""
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        words = self.command("serve", "--listen", f"127.0.0.1:{self.port}", *self.options)
        with self.log.open("wb") as log:
            # In a session of its own: Ctrl-C at a terminal is ours, and the node hears of it once.
            process = await trio.lowlevel.open_process(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environ, start_new_session=True
            )
        self.process = process
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wait_ready, task_status)
                status = await process.wait()
                raise Failed(f"{self.name} ended with status {status}; the end of {self.log}:\n\n{self.log_end()}")
        finally:
            # As long as it drains, and STOP_S at most.
            with trio.CancelScope(shield=True):
                await _end(process)
            self.process = None

    async def _wait_ready(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.move_on_after(START_S):
            while True:
                if await trio.to_thread.run_sync(_is_ready, self.url, abandon_on_cancel=True):
                    task_status.started()
                    return
                await trio.sleep(0.1)
        raise Failed(f"{self.name} was not ready in {START_S:.0f} s; the end of {self.log}:\n\n{self.log_end()}")


async def _end(process: trio.Process) -> None:
    process.terminate()
    with trio.move_on_after(STOP_S):
        await process.wait()
        return
    process.kill()
    await process.wait()


def _is_ready(url: str) -> bool:
    # The origin's certificate is its own, and all that is asked is whether somebody serves.
    context = ssl._create_unverified_context()  # noqa: S323
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(f"{url}/-/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


async def _output(words: Sequence[str], environ: Mapping[str, str], told: str = "") -> str:
    """What a command prints that reads ``told``. Raises ``Failed`` with what it says if it fails."""
    with trio.move_on_after(COMMAND_S):
        done = await trio.run_process(
            words,
            stdin=told.encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=dict(environ),
            start_new_session=True,
        )
        if done.returncode == 0:
            return done.stdout.decode(errors="replace")
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise Failed(f"{shlex.join(words)} ended with status {done.returncode}:\n\n{said}")
    raise Failed(f"{shlex.join(words)} took longer than {COMMAND_S:.0f} s")


# ---- the fleet -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fleet:
    """The four of them, and the directory they share."""

    directory: Path
    origin: Node
    edges: tuple[Node, ...]

    @classmethod
    def of(cls, directory: Path, ports: Sequence[int], upstreams: Mapping[str, str], environ: Mapping[str, str]) -> Fleet:
        """Lay it out; nothing is started."""
        given = dict(environ)
        for instance, url in upstreams.items():
            for program in ("ORIGIN", "EDGE"):
                given[f"{program}_REGISTRIES__{instance.upper()}__UPSTREAM"] = url
        named = {"ORIGIN_SERVER__PUBLIC_URLS": f"https://127.0.0.1:{ports[0]}"}
        origin = Node("origin", "origin", ports[0], directory, given | named)
        urls = [f"http://127.0.0.1:{port}" for port in ports[1:]]
        edges = []
        for region, port, url in zip(REGIONS, ports[1:], urls, strict=True):
            siblings = {"EDGE_SIBLINGS": ",".join(other for other in urls if other != url)}
            edges.append(Node("edge", f"edge-{region}", port, directory, given | siblings, ("--origin", origin.url)))
        return cls(directory, origin, tuple(edges))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the origin, enrol and start the edges; ready when all serve. Raises ``Failed`` when one ends."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.origin.run)
            async with trio.open_nursery() as starting:
                for edge in self.edges:
                    starting.start_soon(self._join, edge, nursery)
            task_status.started()

    def hurry(self) -> None:
        """End those that are still running without waiting for what they are doing."""
        for node in (self.origin, *self.edges):
            if node.process is not None:
                node.process.kill()

    async def _join(self, edge: Node, nursery: trio.Nursery) -> None:
        """Enrol the edge if it is not, and start it."""
        if not edge.identity.exists():
            edge.data.mkdir(mode=0o700, parents=True, exist_ok=True)
            invitation = _TOKEN.search(await _output(self.origin.command("invite", edge.name), self.origin.environ))
            if invitation is None:
                raise Failed(f"origin invite {edge.name} printed no token")
            await _output(edge.command("enrol", self.origin.url, "-"), edge.environ, invitation[0])
        await nursery.start(edge.run)

    async def write_maven_settings(self) -> None:
        """A settings file for each edge, since Maven takes no repository by option."""
        async with trio.open_nursery() as nursery:
            for edge in self.edges:
                nursery.start_soon(self._write_maven_settings, edge)

    def maven_settings(self, edge: Node) -> Path:
        return self.directory / f"maven-{edge.name}.xml"

    async def _write_maven_settings(self, edge: Node) -> None:
        # Of a user with no settings of their own, which may hold passwords.
        home = self.directory / "home"
        home.mkdir(exist_ok=True)
        text = await _output(edge.command("use", "maven", "--url", edge.url, "--print"), {**edge.environ, "HOME": str(home)})
        self.maven_settings(edge).write_text(text)

    def told(self) -> str:
        """What is where, and what to try."""
        a, b, c = self.edges
        data = _near(self.origin.data)
        programs = _near(Path(sys.executable).parent)
        lines = ["", f"An origin and three edges run on this machine, with all they keep in {_near(self.directory)}:", ""]
        lines += [f"  {node.name:8}{node.url:26}{_near(node.log)}" for node in (self.origin, *self.edges)]
        lines += ["", "Install at A. Moments later B and C have it, and install it with the registries gone:", ""]
        for edge in (a, b, c):
            lines += [
                f"  # {edge.name}",
                f"  pip install --index-url {edge.url}/pypi/simple/ six",
                f"  npm install --registry {edge.url}/npm/ is-odd",
                f"  mvn -s {_near(self.maven_settings(edge))} verify",
            ]
        lines += ["", "See who follows, take something back everywhere, and let it in again:", ""]
        lines += [
            f"  {programs}/origin edges --data {data}",
            f"  {programs}/origin recall pkg:pypi/six --reason 'trying it out' --data {data}",
            f"  {programs}/origin recall pkg:pypi/six --undo --data {data}",
        ]
        return "\n".join([*lines, "", "Ctrl-C ends all of them; what they hold stays for the next time.", ""])


def _near(path: Path) -> str:
    """A path as it is typed from here."""
    try:
        return shlex.quote(str(path.absolute().relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(str(path))


# ---- the command -----------------------------------------------------------------------------------------------------


async def _until_told(fleet: Fleet) -> None:
    """Run the fleet until a signal says stop. A second one is somebody in a hurry."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as outer:

            async def stop(running: trio.CancelScope) -> None:
                async for number in signals:
                    if running.cancel_called:
                        fleet.hurry()
                    else:
                        print(f"\n{signal.Signals(number).name}: ending all of them", flush=True)
                        running.cancel()

            async with trio.open_nursery() as nursery:
                outer.start_soon(stop, nursery.cancel_scope)
                await nursery.start(fleet.run)
                await fleet.write_maven_settings()
                print(fleet.told(), flush=True)
            outer.cancel_scope.cancel()


def _upstream(text: str) -> tuple[str, str]:
    instance, equals, url = text.partition("=")
    if not equals or not instance or "://" not in url:
        raise argparse.ArgumentTypeError(f"not INSTANCE=URL, such as pypi=http://127.0.0.1:7001/simple/: {text}")
    return instance, url


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make three-regions", description="Run an origin and three edges on this machine.", allow_abbrev=False
    )
    parser.add_argument(
        "directory", nargs="?", type=Path, default=Path(".three-regions"), help="where all is kept (default: %(default)s)"
    )
    parser.add_argument(
        "--ports", nargs=4, type=int, metavar=("ORIGIN", "A", "B", "C"), default=PORTS, help="default: 9090 8081 8082 8083"
    )
    parser.add_argument(
        "--upstream", action="append", type=_upstream, default=[], metavar="INSTANCE=URL", help="another registry: pypi=http://…"
    )
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run left in the directory")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the fleet until told to stop; 0 then, 1 if it could not go on."""
    asked = _parser().parse_args(arguments)
    directory: Path = asked.directory.absolute()
    fleet = Fleet.of(directory, asked.ports, dict(asked.upstream), os.environ)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (directory / "lock").open("a") as lock:
        try:
            _check_alone(lock, asked.ports, directory)
        except Failed as error:
            print(f"three-regions: {error}", file=sys.stderr)
            return 1
        return _run(fleet, asked.fresh)


def _check_alone(lock: TextIO, ports: Sequence[int], directory: Path) -> None:
    """Hold the lock, and find the ports free: raises ``Failed`` otherwise.

    Another run's nodes would be taken for these, and its logs and data would be written over.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Failed(
            f"it runs already in {_near(directory)}; end that first, or name another directory and other --ports"
        ) from None
    for port in ports:
        # What else is wrong with a port the node says itself.
        with socket.socket() as probe, contextlib.suppress(OverflowError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise Failed(f"port {port} is taken; end what listens there, or name others: --ports ORIGIN A B C") from None


def _run(fleet: Fleet, fresh: bool) -> int:
    if fresh:
        for node in (fleet.origin, *fleet.edges):
            shutil.rmtree(node.data, ignore_errors=True)
    if not fleet.origin.data.exists():
        # The origin will be another one, which does not know them.
        for edge in fleet.edges:
            edge.identity.unlink(missing_ok=True)
    try:
        trio.run(_until_told, fleet)
    except BaseExceptionGroup as group:
        failed, rest = group.split(Failed)
        if rest is not None or failed is None:
            raise
        print(f"three-regions: {_first(failed)}", file=sys.stderr)
        return 1
    return 0


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


if __name__ == "__main__":
    sys.exit(main())
