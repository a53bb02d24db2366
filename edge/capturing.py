"""``edge capture``: mitmproxy in a process of its own, with our addon (``capture.py``), started, steered and stopped.

mitmproxy catches connections; which of them are for a registry, and what becomes of those, the addon decides. Here are its life, the rules
that send connections to it (transparent mode), and what has to be so before it can work: privileges, a kernel that can do it, an edge.

The edge's own connections must never be captured: it would wait for itself. In local mode its process is left out, in transparent mode the
user it runs as; mitmproxy then runs as that user too, so that there is one to leave out.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import json
import logging
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import trio

from origin import control
from origin.errors import Unusable
from origin.words import listen_address

OLDEST = (12, 2)
"""The mitmproxy that this was written for."""

TABLE = "inet leeward_capture"
"""The nftables table that holds all rules of ours, and nothing else."""

POLL_S = 1.0
"""How often the edge is asked which hosts it stands in for: files' hosts are learnt while it runs."""

START_S = 30.0
STOP_S = 5.0
RULES_S = 10.0

ADDON = Path(__file__).with_name("capture.py")

CGROUPS = Path("/sys/fs/cgroup")

_PROGRAM = re.compile(r"[^,!\x00-\x20]+")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run of ``edge capture`` is to do. ``mode`` is ``transparent`` or ``local``, the latter of ``programs`` only if there are any.

    ``edge`` is its address. Its control socket is ``asked`` for the hosts and its process; with None, ``hosts`` are all that is known.
    In transparent mode connections to ``ports`` are sent to ``port`` here: this machine's own, and what comes in by ``interfaces``.
    """

    mode: str
    mitmdump: Path
    edge: tuple[str, int]
    asked: Path | None
    programs: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    authorization: str = field(default="", repr=False)
    port: int = 8082
    ports: tuple[int, ...] = (80, 443)
    interfaces: tuple[str, ...] = ()
    install_rules: bool = False


@dataclass(frozen=True, slots=True)
class Edge:
    """The edge as it runs now: which hosts it stands in for, its process and its user (None where it was not asked)."""

    hosts: tuple[str, ...]
    pid: int | None = None
    uid: int | None = None


# ---- what is asked for -------------------------------------------------------------------------------------------------


def read_mode(text: str) -> tuple[str, tuple[str, ...]]:
    """``transparent``, ``local`` or ``local:PROGRAM[,PROGRAM…]`` as mode and programs. Raises ``ValueError``."""
    mode, colon, data = text.partition(":")
    programs = tuple(data.split(",")) if colon else ()
    if mode not in {"transparent", "local"} or (mode == "transparent" and colon):
        raise ValueError(f'not a mode: "{text[:64]}"; there are transparent, local and local:PROGRAM')
    if any(_PROGRAM.fullmatch(program) is None for program in programs):
        raise ValueError(f'not names of programs or process ids, joined by commas: "{data[:64]}"')
    return mode, programs


def read_url(url: str) -> tuple[tuple[str, int], str]:
    """An edge's URL as address and value of ``Proxy-Authorization`` (empty without a user). Raises ``ValueError``."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.path not in {"", "/"} or parts.query:
        raise ValueError(
            f'not the address of an edge that is reached without TLS, such as "http://127.0.0.1:8080": {parts.hostname}'
        )
    name, password = urllib.parse.unquote(parts.username or ""), urllib.parse.unquote(parts.password or "")
    return (parts.hostname, parts.port or 80), proof_of(name, password)


def proof_of(name: str, password: str) -> str:
    """The value of ``Proxy-Authorization`` for a user, empty for none. Source: RFC 7617 §2."""
    return f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}" if name else ""


def where(listen: str) -> tuple[str, int]:
    """The address to reach an edge at that listens on ``listen``. Plain HTTP is spoken there whether or not TLS is too."""
    host, port = listen_address(listen)
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104  # what to dial where any address is listened on


def read_hosts(text: str) -> tuple[str, ...]:
    """Host names joined by commas. Raises ``ValueError``."""
    names = tuple(name.strip().lower().removesuffix(".") for name in text.split(",") if name.strip())
    if not names or any(re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", name) is None for name in names):
        raise ValueError(f'not host names joined by commas: "{text[:64]}"')
    return names


def read_ports(text: str) -> tuple[int, ...]:
    """``80,443`` as numbers. Raises ``ValueError``."""
    if re.fullmatch(r"[0-9]{1,5}(,[0-9]{1,5})*", text) is None or any(not 0 < int(port) < 65536 for port in text.split(",")):
        raise ValueError(f'not ports, such as "80,443": "{text[:64]}"')
    return tuple(map(int, text.split(",")))


def find_mitmdump(named: str | None, environ: Mapping[str, str]) -> Path:
    """Where mitmproxy's command is: as named, by ``EDGE_MITMDUMP``, beside our interpreter, as ``make`` installs it, or on the PATH.

    Raises ``Unusable`` with what to install.
    """
    if told := named or environ.get("EDGE_MITMDUMP"):
        found = shutil.which(told)
        if found is None:
            raise Unusable(f"there is no mitmdump at {told}")
        return Path(found).absolute()
    beside = (Path(sys.executable).parent / "mitmdump", ADDON.parents[1] / ".tools" / "capture" / "bin" / "mitmdump")
    for path in beside:
        if os.access(path, os.X_OK):
            return path
    found = shutil.which("mitmdump", path=environ.get("PATH"))
    if found is None:
        raise Unusable(
            "mitmproxy is missing: install it in an environment of its own (python3 -m venv DIR; DIR/bin/pip install 'mitmproxy>=12.2') "
            "and name it with --mitmdump DIR/bin/mitmdump"
        )
    return Path(found).absolute()


def check_version(text: str) -> None:
    """Read what ``mitmdump --version`` prints. Raises ``Unusable`` if it is too old, or something else."""
    found = re.search(r"^Mitmproxy: (\d+)\.(\d+)", text, re.MULTILINE)
    if found is None:
        raise Unusable("what was found as mitmdump does not say its version")
    if (int(found[1]), int(found[2])) < OLDEST:
        raise Unusable(f"this mitmproxy is too old: {found[1]}.{found[2]}, needed is {'.'.join(map(str, OLDEST))}")


def local_mode(programs: Sequence[str], ourselves: int, edge: int | None, edge_is_named: bool) -> str:
    """Local mode as mitmproxy is told it: programs, never the edge, and ourselves to see that it works.

    The first pattern decides whether whatever matches none is captured: it is if that pattern leaves something out. Of those that
    match, the last decides: ours stands there, since this command is called as the edge is.
    """
    left_out = [f"!{edge}"] if edge is not None else []
    if edge_is_named:
        # Its process id is new after a restart, its name is not.
        left_out.append("!edge")
    patterns = [*programs, *left_out]
    return f"local:{','.join([*patterns, str(ourselves)])}" if patterns else "local"


def rules(wanted: Wanted, spared: Sequence[int], ipv6: bool) -> tuple[str, ...]:
    """The nftables commands, one a line, that send connections to mitmproxy: all but those of the ``spared`` users and to this machine."""
    ports = ", ".join(map(str, wanted.ports))
    send = f"{'' if ipv6 else 'meta nfproto ipv4 '}tcp dport {{ {ports} }} redirect to :{wanted.port}"
    lines = [
        f"add chain {TABLE} output {{ type nat hook output priority -100; policy accept; }}",
        f"add rule {TABLE} output meta skuid {{ {', '.join(map(str, spared))} }} accept",
        f"add rule {TABLE} output ip daddr 127.0.0.0/8 accept",
        f"add rule {TABLE} output ip6 daddr ::1 accept",
        f"add rule {TABLE} output {send}",
    ]
    if wanted.interfaces:
        names = ", ".join(f'"{name}"' for name in wanted.interfaces)
        lines += [
            f"add chain {TABLE} prerouting {{ type nat hook prerouting priority -100; policy accept; }}",
            f"add rule {TABLE} prerouting iifname {{ {names} }} {send}",
        ]
    return tuple(lines)


# ---- the run -----------------------------------------------------------------------------------------------------------


async def capture(wanted: Wanted) -> None:
    """Capture until SIGINT or SIGTERM. Raises ``Unusable``, ``control.NotRunning`` or ``control.CommandFailed`` with a sentence."""
    if os.geteuid() != 0 and (wanted.mode == "local" or wanted.install_rules):
        what = "local mode" if wanted.mode == "local" else "--install-rules"
        raise Unusable(f"{what} needs the privileges of root; start edge capture with sudo")
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_when_told() -> None:
                async for number in signals:
                    _log.info("stopping", extra={"signal": signal.Signals(number).name})
                    nursery.cancel_scope.cancel()
                    return

            nursery.start_soon(stop_when_told)
            await _capture(wanted)
            nursery.cancel_scope.cancel()


async def _capture(wanted: Wanted) -> None:
    edge = await _ask(wanted, learnt=True)
    await _check_mitmdump(wanted.mitmdump)
    ipv6 = wanted.mode == "transparent" and _can_listen("::1", wanted.port)
    runs_as = edge.uid if os.geteuid() == 0 and edge.uid is not None else os.geteuid()
    if wanted.mode == "transparent" and not _can_listen("0.0.0.0" if wanted.interfaces else "127.0.0.1", wanted.port):  # noqa: S104
        raise Unusable(f"port {wanted.port} is taken; choose another with --port")
    with tempfile.TemporaryDirectory(prefix="leeward-capture-") as name:
        directory = Path(name)
        command, environ = _command(wanted, edge, directory, ipv6)
        if wanted.mode == "transparent":
            os.chown(directory, runs_as, -1)
        async with _mitmproxy(command, environ, None if wanted.mode == "local" else runs_as) as child:
            child.order(
                {
                    "edge": wanted.edge,
                    "authorization": wanted.authorization,
                    "hosts": edge.hosts,
                    "ports": None if wanted.mode == "local" else wanted.ports,
                    "tell": child.told_on,
                    "asks": wanted.asked is not None,
                }
            )
            await child.wait_ready()
            async with contextlib.AsyncExitStack() as stack:
                if wanted.mode == "local":
                    await _wait_captured(child)
                else:
                    await stack.enter_async_context(
                        _rules(wanted, sorted({runs_as, *([] if edge.uid is None else [edge.uid])}), ipv6)
                    )
                _log.info("capturing", extra={"mode": wanted.mode, "hosts": len(edge.hosts), "edge": _shown(wanted.edge)})
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(child.wait_broken)
                    if wanted.asked is not None:
                        nursery.start_soon(_follow, wanted, edge, child)


def _command(wanted: Wanted, edge: Edge, directory: Path, ipv6: bool) -> tuple[list[str], dict[str, str]]:
    """mitmproxy's command line and environment. Its files go to ``directory``: it makes an authority of its own, that nobody trusts."""
    if wanted.mode == "local":
        modes = [_local(wanted, edge)]
    elif wanted.interfaces:
        modes = [f"transparent@{wanted.port}"]
    else:
        modes = [f"transparent@{host}:{wanted.port}" for host in ("127.0.0.1", *(("::1",) if ipv6 else ()))]
    command = [str(wanted.mitmdump), "--set", f"confdir={directory}", "--set", "termlog_verbosity=warn", "--set", "flow_detail=0"]
    # A connection that is passed on is the client's to end: by itself mitmproxy would do so after ten idle minutes.
    command += ["--set", "tcp_timeout=86400", *(word for mode in modes for word in ("--mode", mode)), "--scripts", str(ADDON)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    if wanted.mode == "local":
        # mitmproxy starts its redirector by way of sudo, which need not be there for who is root already.
        sudo = directory / "bin" / "sudo"
        sudo.parent.mkdir()
        sudo.write_text('#!/bin/sh\nwhile :; do case "$1" in -*) shift;; *) exec "$@";; esac; done\n')
        sudo.chmod(0o700)
        environ["PATH"] = f"{sudo.parent}:{environ.get('PATH', os.defpath)}"
        command = [*_with_cgroup2(CGROUPS), *command]
    return command, environ


def _local(wanted: Wanted, edge: Edge) -> str:
    name = ""
    if edge.pid is not None:
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{edge.pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    return local_mode(wanted.programs, os.getpid(), edge.pid, name == "edge")


def _with_cgroup2(cgroups: Path) -> list[str]:
    """What to put before a command that looks for version 2 of control groups at their usual place, where both versions are in use."""
    if (cgroups / "cgroup.controllers").exists() or not (cgroups / "unified" / "cgroup.controllers").exists():
        return []
    mount = 'mount --bind "$1" "$0" && shift && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, str(cgroups), str(cgroups / "unified")]


def _can_listen(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


# ---- the edge ----------------------------------------------------------------------------------------------------------


async def _ask(wanted: Wanted, *, learnt: bool = False, met: Sequence[str] = ()) -> Edge:
    """Ask the running edge; ``learnt`` waits until it has had a try at learning its files' hosts, ``met`` are hosts that somebody wants.

    Raises as ``control.call`` does, and ``Unusable`` if it stands in for nobody.
    """
    if wanted.asked is None:
        return Edge(wanted.hosts)
    pid, uid = await control.peer(wanted.asked)
    if wanted.hosts:
        return Edge(wanted.hosts, pid, uid)
    told = await control.call(wanted.asked, "hosts", {"learnt": learnt, "met": list(met)})
    try:
        hosts = msgspec.convert(told, _Hosts).hosts
    except msgspec.ValidationError:
        raise Unusable("the running edge does not say which hosts it stands in for") from None
    if not hosts:
        raise Unusable("the running edge stands in for no host")
    return Edge(tuple(sorted(hosts)), pid, uid)


class _Hosts(msgspec.Struct):
    hosts: list[str]


async def _follow(wanted: Wanted, edge: Edge, child: _Child) -> None:
    """Pass on which hosts the edge stands in for, and, after a restart of it, whom to leave out."""
    away = False
    while True:
        with trio.move_on_after(POLL_S / 4 if away else POLL_S):
            await child.asked.wait()
        answers, met = child.take_asked()
        try:
            now = await _ask(wanted, met=met)
        except (control.NotRunning, control.CommandFailed, Unusable) as error:
            child.order({"answers": answers})
            if not away:
                _log.warning("the edge is away: connections to registries are refused", extra={"reason": str(error)})
            away = True
            continue
        if away or now.pid != edge.pid:
            _log.info("the edge is back")
        away = False
        if wanted.mode == "transparent" and now.uid != edge.uid:
            raise Unusable("the edge now runs as another user; start edge capture again")
        if wanted.mode == "local" and now.pid != edge.pid:
            child.order({"mode": _local(wanted, now)})
        if now.hosts != edge.hosts:
            _log.info("hosts", extra={"added": " ".join(sorted({*now.hosts} - {*edge.hosts}))})
        child.order({"hosts": now.hosts, "answers": answers})
        edge = now


# ---- mitmproxy ---------------------------------------------------------------------------------------------------------


async def _check_mitmdump(path: Path) -> None:
    try:
        done = await trio.run_process([str(path), "--version"], capture_stdout=True, stderr=subprocess.DEVNULL, check=False)
    except OSError as error:
        raise Unusable(f"mitmproxy cannot be started: {error.strerror}: {path}") from None
    check_version(done.stdout.decode(errors="replace"))


class _Child:
    """The running mitmproxy. ``told_on`` is the descriptor, in it, that it reports on."""

    def __init__(self, process: trio.Process, told_on: int) -> None:
        self.told_on = told_on
        self._process = process
        self._orders, self._to_send = trio.open_memory_channel[dict[str, object]](64)
        self.asked = trio.Event()
        self._number = 0
        self._met: list[str] = []
        self._ready = trio.Event()
        self._broken = trio.Event()
        self._silent = trio.Event()
        self._reason = ""
        self._said: collections.deque[str] = collections.deque(maxlen=400)

    def order(self, orders: dict[str, object]) -> None:
        """Tell the addon something; what it has no room for is as if it had ended."""
        try:
            self._orders.send_nowait(orders)
        except trio.WouldBlock:
            self._break("mitmproxy does not listen any more")

    def take_asked(self) -> tuple[int, list[str]]:
        """The last number under which the addon has asked for the hosts, and for which since the last time; ``asked`` is for the next."""
        self.asked = trio.Event()
        met, self._met = self._met, []
        return self._number, met

    async def wait_ready(self) -> None:
        """Wait until it listens. Raises ``Unusable`` with its own words if it does not come to that."""
        with trio.move_on_after(START_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.wait_broken)
                await self._ready.wait()
                nursery.cancel_scope.cancel()
        if not self._ready.is_set():
            raise Unusable(f"mitmproxy did not start within {START_S:g} seconds{self._words()}")

    async def wait_broken(self) -> None:
        """Wait until it can do its work no longer, and raise ``Unusable``."""
        await self._broken.wait()
        raise Unusable(self._reason)

    def _words(self) -> str:
        said = reason(self._said)
        return f": {said}" if said else ""

    def _break(self, why: str) -> None:
        if not self._broken.is_set():
            self._reason = why
            self._broken.set()

    # -- its tasks

    async def send_orders(self) -> None:
        assert self._process.stdin is not None
        async for orders in self._to_send:
            try:
                await self._process.stdin.send_all(msgspec.json.encode(orders) + b"\n")
            except trio.BrokenResourceError:
                return

    async def hear_reports(self, reader: trio.lowlevel.FdStream) -> None:
        async for line in _lines(reader):
            try:
                report = json.loads(line)
            except ValueError:
                continue
            match report:
                case {"what": "ask", "number": int(number), "hosts": list(met)}:
                    self._number = number
                    self._met += map(str, met)
                    self.asked.set()
                case {"what": "ready"}:
                    self._ready.set()
                case {"what": "handed", "host": host}:
                    _log.debug("handed to the edge", extra={"host": host})
                case {"what": "trouble", "host": host, "text": text}:
                    _log.warning("connection closed", extra={"host": host, "reason": text})
                case {"what": "failed", "text": text}:
                    self._break(str(text))
                case _:
                    pass

    async def hear_words(self) -> None:
        assert self._process.stdout is not None
        async for line in _lines(self._process.stdout):
            said = line.decode(errors="replace").rstrip()
            self._said.append(said)
            _log.debug("mitmproxy", extra={"said": said})
            if "[linux-redirector] exited" in said or "Failed to launch mitmproxy-linux-redirector" in said:
                # mitmproxy goes on without the kernel's part of it. The reason was said before.
                self._break(f"local mode does not work on this machine{self._words()}; there is --mode transparent")
        self._silent.set()

    async def hear_end(self) -> None:
        status = await self._process.wait()
        # Its last words may still be in the pipe.
        with trio.move_on_after(1):
            await self._silent.wait()
        self._break(f"mitmproxy ended with status {status}{self._words()}")


def reason(said: Iterable[str]) -> str:
    """The cause in what mitmproxy said: the redirector's chain of causes, else the last line. One line, at most 300 characters."""
    # Each line begins with the time, and words of a library at debug level may look like anything.
    lines = [re.sub(r"^\[[0-9:.]+\]\s*", "", line).strip() for line in said]
    causes = [found[1] for line in lines if (found := re.fullmatch(r"\d: (.*[^>])", line))]
    told = ": ".join(causes) if causes else next((line for line in reversed(lines) if line), "")
    return told[:300]


@contextlib.asynccontextmanager
async def _mitmproxy(command: Sequence[str], environ: Mapping[str, str], uid: int | None) -> AsyncIterator[_Child]:
    """mitmproxy, running as ``uid``. It ends with this block, and at the latest when this process does."""
    uid = None if uid == os.geteuid() else uid
    reads, writes = os.pipe()
    async with trio.lowlevel.FdStream(reads) as reports:
        try:
            process = await trio.lowlevel.open_process(
                command,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(writes,),
                cwd="/",
                # A session of its own: Ctrl-C is for us, and what mitmproxy starts is found by its group.
                start_new_session=True,
                user=uid,
                group=None if uid is None else _group_of(uid),
                extra_groups=None if uid is None else (),
            )
        except OSError as error:
            raise Unusable(f"mitmproxy cannot be started: {error.strerror}: {command[0]}") from None
        finally:
            os.close(writes)
        child = _Child(process, writes)
        try:
            async with trio.open_nursery() as nursery:
                for task in (child.send_orders, child.hear_words, child.hear_end):
                    nursery.start_soon(task)
                nursery.start_soon(child.hear_reports, reports)
                yield child
                nursery.cancel_scope.cancel()
        finally:
            await _end(process)


def _group_of(uid: int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return uid


async def _end(process: trio.Process) -> None:
    """End it and all that it started, within ``STOP_S`` seconds: that bounds the shield."""
    with trio.CancelScope(shield=True):
        _signal(process, signal.SIGTERM)
        with trio.move_on_after(STOP_S):
            await process.wait()
            while _signal(process, 0):  # noqa: ASYNC110  # processes of others cannot be waited for otherwise
                await trio.sleep(0.02)
        _signal(process, signal.SIGKILL)
        await process.wait()


def _signal(process: trio.Process, number: int) -> bool:
    """Send a signal to its group. False if nobody is left in there."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


async def _wait_captured(child: _Child) -> None:
    """Wait until sockets of this process are bound to mitmproxy's device: it is among the captured just for this."""
    with trio.move_on_after(START_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child.wait_broken)
            while not _is_captured():  # noqa: ASYNC110  # the kernel tells nobody
                await trio.sleep(0.02)
            nursery.cancel_scope.cancel()
    if not _is_captured():
        raise Unusable(f"local mode had no effect within {START_S:g} seconds; there is --mode transparent")


def _is_captured() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        return bool(probe.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).strip(b"\0"))


# ---- the rules ---------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _rules(wanted: Wanted, spared: Sequence[int], ipv6: bool) -> AsyncIterator[None]:
    """The rules in force while this block runs, or printed for a person to bring into force."""
    commands = rules(wanted, spared, ipv6)
    _warn_of_spared(spared)
    if not wanted.install_rules:
        sys.stdout.write("\n".join(["nft -f - <<'END'", f"add table {TABLE}", *commands, "END", ""]))
        sys.stdout.write(f"# and afterwards: nft delete table {TABLE}\n")
        sys.stdout.flush()
        yield
        return
    # A table with an owner goes when its owner goes, however that ends: the kernel sees to it. The owner is an nft that is kept running.
    nft = shutil.which("nft", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if nft is None:
        raise Unusable("nft is missing, which --install-rules needs; install the package nftables")
    process = await trio.lowlevel.open_process(
        [nft, "-i"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        lines = [f"add table {TABLE} {{ flags owner; }}", *commands, f"list table {TABLE}"]
        said = b""
        with trio.move_on_after(RULES_S):
            await process.stdin.send_all("".join(line + "\n" for line in lines).encode())
            while not rules_answered(said) and (piece := await process.stdout.receive_some()):
                said += piece
        if b"\n}\n" not in said or b"Error:" in said:
            raise Unusable(rules_refused(said.decode(errors="replace")))
        yield
    finally:
        with trio.CancelScope(shield=True):
            # Ends at once: it reads its standard input to the end, or is killed.
            process.kill()
            await process.wait()


def rules_answered(said: bytes) -> bool:
    """Say whether nft has said all that matters: the table as it is now, or why not (written in pieces, so its line has to end)."""
    return b"\n}\n" in said or re.search(rb"Error:[^\n]*\n", said) is not None


def rules_refused(said: str) -> str:
    """Why nft did not take the rules, in a sentence."""
    told = next((line.removeprefix("Error: ") for line in said.splitlines() if "Error:" in line), "nft did not answer")
    if "not permitted" in told or "busy" in told or "File exists" in told:
        return f"the rules are another's: does another edge capture run here? (table {TABLE}: {told})"
    return f"the kernel or nft does not take the rules: {told}"


def _warn_of_spared(spared: Sequence[int]) -> None:
    for uid in spared:
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            name = str(uid)
        if uid == 0 or str(uid) == os.environ.get("SUDO_UID"):
            _log.warning(
                "this user's own programs are not captured: the edge or mitmproxy runs as the same user", extra={"user": name}
            )


# ---- small things --------------------------------------------------------------------------------------------------------


async def _lines(stream: trio.abc.ReceiveStream, limit_bytes: int = 1 << 20) -> AsyncIterator[bytes]:
    held = b""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for piece in stream:
            *lines, held = (held + piece).split(b"\n")
            held = held[-limit_bytes:]
            for line in lines:
                yield line


def _shown(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
