"""``edge run -- COMMAND …``: one command through the proxy face, with nothing configured before it and nothing to take back after.

The edge that runs on the data directory is used; if none does, one is started on a free port, for as long as anybody needs it. Who uses an
edge that was started so holds ``DIR/run/users.lock`` shared; its *keeper* (this module run as a program) waits to hold the lock alone, and
then stops it. So of two commands at once the second uses the first one's edge, whichever ends first, and a command that is killed leaves
none behind. A third that comes while the edge stops waits for the lock, finds none running, and starts one anew.

What a command needs to be told is ``environment.py``'s subject. This module is for the main thread of a process of its own: it blocks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import NoReturn
from urllib.parse import urlsplit

from origin.errors import Unusable
from origin.settings import NO_CONFIG, home_directory, usual_configs

from .settings import EdgeSettings, Loaded

READY_S = 10.0
"""How long an edge may take until it answers commands."""

STOP_S = 15.0
"""How long an edge that was started may take to end; then it is killed."""

LOG_LIMIT_BYTES = 1 << 20
"""A log of edges that were started which is larger is begun anew."""

OURS_FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
"""Exit statuses that are not the command's own; as those of env(1)."""

NPM_OF_MACHINE = (Path("/etc/npmrc"), Path("/usr/local/etc/npmrc"), Path("/usr/etc/npmrc"))
"""What npm may read for all users, besides the file that is beside its Node.js."""

PIP_OF_MACHINE = (Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"))
"""What pip reads for all users."""

_FORWARDED = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2})
_TOLD_BY_KERNEL = 0x80  # siginfo's SI_KERNEL (sigaction(2)): a terminal tells the command itself


@dataclass(frozen=True, slots=True)
class Running:
    """An edge that answers at ``at`` and stands in for ``hosts``.

    ``log`` is where one that was started for commands writes; None if somebody else runs it.
    """

    at: str
    hosts: frozenset[str]
    log: Path | None = None
    keeper: subprocess.Popen[bytes] | None = None


def run(
    loaded: Loaded,
    command: Sequence[str],
    options: Sequence[str],
    environ: Mapping[str, str],
    tell: Callable[[str], None],
) -> int:
    """Run ``command`` through the edge of these settings and give its exit status: its own, 128 + n if signal n ended it.

    ``options`` are the words that give ``edge serve`` the same settings. ``tell`` is given each sentence for the person. Raises
    ``errors.Unusable``, ``control.CommandFailed`` or ``OSError``, with a sentence, if there can be no edge.
    """
    if not loaded.settings.proxy.enabled:
        raise Unusable("The proxy face is off: [proxy] enabled is false.")
    # Whoever started us may have it ignored: then nobody would hear of a child's end.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if status := _unstartable(command[0], environ):
        tell(f"{command[0]}: {'no such command' if status == NOT_FOUND else 'it cannot be executed'}")
        return status
    from . import environment

    settings = loaded.settings
    theirs = environment.user_proxy(environ)
    if theirs and not theirs.startswith(("http://", "https://")):
        tell(f"a {theirs.partition(':')[0]} proxy cannot be used by the edge: registries are asked without yours")
        theirs = ""
    with using(settings, options, environ, theirs) as running:
        from .trust import ensure_trust

        # The roots that the person names in a variable are joined to ours for that variable; the files are the same for all commands.
        public = {name: value for name, value in environ.items() if name not in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
        trust = ensure_trust(settings.data, public)
        host, port = environment.host_and_port(running.at)
        user, password = next(iter(settings.proxy.users.items()), ("", ""))
        proxy = environment.Proxy(host, port, user, password)
        if (
            theirs
            and running.log is None
            and environment.host_and_port(theirs) != (host, port)
            and settings.upstream.proxy is None
        ):
            tell("the edge that runs has no [upstream] proxy, so yours is not used for this command")
        _add_aliases(settings, running, environ, command, tell)
        made = environment.environment(
            proxy,
            trust,
            environ,
            hosts=registry_hosts(settings) | running.hosts,
            join=lambda files: joined(settings.data / "run", files),
            written=written_for_npm(Path.cwd(), environ),
            pip=written_for_pip(environ),
            plain=any(registry.upstream.startswith("http:") for registry in settings.registries.values()),
            public_npm=public_npm(settings),
        )
        for note in (
            *made.notes,
            *_maven_notes(command[0], environ, proxy),
            *_gradle_notes(command[0], environ, proxy),
            *_own_notes(command[0], environ),
        ):
            tell(note)
        whose = "an edge that was started for this" if running.keeper is not None else "the edge that runs"
        tell(f"through {whose}, at {running.at}, with its store in {settings.data}")
        before = _Seen.of(running)
        status = attend(command, {**environ, **made.variables})
        after = _Seen.of(running)
        if after is None:
            tell(f"the edge answers no more; {running.log or 'its log'} says more")
        elif before is not None:
            for note in after.since(before):
                tell(note)
    return status


def usual_config(environ: Mapping[str, str], tell: Callable[[str], None]) -> Path:
    """The settings file where none is named: the user's or the system's, else ``NO_CONFIG``.

    Commands are run in projects, and those come from anywhere: what lies in one must not say where packages come from, least of all for a
    store that other projects share.
    """
    here, *others = usual_configs("edge", environ)
    if here.is_file():
        tell(f"{here} of this directory is not read; if it is meant, name it: --config {here}")
    return next((path.absolute() for path in others if path.is_file()), NO_CONFIG)


def public_npm(settings: EdgeSettings) -> str:
    """The root of the public npm registry if an instance has it as its upstream, else ``""``."""
    from origin.registries import kinds

    public = kinds.default_upstream("npm")
    return public if any(registry.upstream == public for registry in settings.registries.values()) else ""


def registry_hosts(settings: EdgeSettings) -> frozenset[str]:
    """The hosts of all upstreams and their aliases: what must never be asked past the edge."""
    hosts = {urlsplit(registry.upstream).hostname or "" for registry in settings.registries.values()}
    return frozenset(hosts | {alias for registry in settings.registries.values() for alias in registry.aliases}) - {""}


# ---- the edge --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def using(settings: EdgeSettings, options: Sequence[str], environ: Mapping[str, str], theirs: str = "") -> Iterator[Running]:
    """The edge on ``settings.data``, running until the block ends: whoever's it is, else one that is started.

    ``theirs`` is the proxy that one which is started goes through if the settings name none. Raises as ``run``.
    """
    # Another user's is told before anything is made beside it.
    _asked(settings)
    directory = settings.data / "run"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    keeper = None
    with (directory / "users.lock").open("ab") as users, (directory / "joined.lock").open("ab") as joined_lock:
        # Waits while the keeper of an earlier one holds it alone: that edge is stopping.
        fcntl.flock(users, fcntl.LOCK_SH)
        with (directory / "start.lock").open("ab") as start:
            fcntl.flock(start, fcntl.LOCK_EX)
            log = directory / "edge.log"
            running = _asked(settings)
            if running is None:
                keeper = _start(directory, options, _serving_environ(settings, environ, theirs))
                running = _wait_ready(settings, keeper, log)
            else:
                fcntl.flock(joined_lock, fcntl.LOCK_SH)
        try:
            yield replace(running, keeper=keeper, log=log if _is_started(directory, running.at) else None)
        finally:
            fcntl.flock(users, fcntl.LOCK_UN)
            if keeper is not None:
                _wait_stopped(keeper, joined_lock.fileno())


def _asked(settings: EdgeSettings) -> Running | None:
    """The edge that runs, None if none does. Raises ``control.CommandFailed`` for one that is another user's."""
    import trio

    from origin import control

    async def ask() -> object:
        return await control.call(settings.data / "edge.sock", "status", {})

    try:
        status = trio.run(ask)
    except control.NotRunning:
        return None
    at = status.get("at") if isinstance(status, dict) else None
    if not isinstance(at, str):
        raise control.CommandFailed(f"the edge on {settings.data} is of another release: stop it, or start it anew")
    proxy = status.get("proxy") if isinstance(status, dict) else None
    if proxy == "off":
        raise control.CommandFailed(f"the edge on {settings.data} runs without its proxy face: [proxy] enabled is false")
    if at.startswith("https:"):
        raise control.CommandFailed(
            f"the edge on {settings.data} takes TLS only, which commands do not speak to a proxy: [tls] only"
        )
    hosts = proxy.get("hosts") if isinstance(proxy, dict) else None
    return Running(at, frozenset(map(str, hosts)) if isinstance(hosts, list) else frozenset())


def _serving_environ(settings: EdgeSettings, environ: Mapping[str, str], theirs: str) -> dict[str, str]:
    """The environment of an edge that is started: this one's, with the package found whatever the working directory holds."""
    found = dict(environ)
    root = str(Path(__file__).resolve().parent.parent)
    found["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [environ.get("PYTHONPATH")])])
    if settings.upstream.proxy is None and theirs:
        found["EDGE_UPSTREAM__PROXY"] = theirs
    # Commands speak plain HTTP to their proxy.
    found["EDGE_TLS__ONLY"] = "false"
    return found


def _start(directory: Path, options: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    log = directory / "edge.log"
    with contextlib.suppress(OSError):
        if log.stat().st_size > LOG_LIMIT_BYTES:
            log.unlink()
    with log.open("ab") as output:
        os.fchmod(output.fileno(), 0o600)
        # In a session of its own, so that Ctrl-C and a terminal that is closed reach the command alone.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "edge.run", str(directory), *options, "--listen", "127.0.0.1:0"],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _wait_ready(settings: EdgeSettings, keeper: subprocess.Popen[bytes], log: Path) -> Running:
    began, size = time.monotonic(), log.stat().st_size
    while time.monotonic() - began < READY_S:
        if keeper.poll() is not None:
            raise Unusable(f"no edge could be started: {_last_sentence(log, size)}")
        if (running := _asked(settings)) is not None:
            (log.parent / "at").write_text(running.at)
            return running
        time.sleep(0.02)
    keeper.terminate()
    raise Unusable(f"the edge that was started is not ready after {READY_S:.0f} s; {log} says more")


def _last_sentence(log: Path, since: int) -> str:
    """What an edge that did not start said last."""
    with log.open("rb") as file:
        file.seek(max(0, min(since, log.stat().st_size) - 65536))
        lines = file.read().decode("utf-8", "replace").splitlines()
    told = [line.removeprefix("edge: ") for line in lines if line.startswith("edge: ")]
    return told[-1] if told else f"{log} says more"


def _is_started(directory: Path, at: str) -> bool:
    """Whether the edge at ``at`` was started for commands."""
    try:
        return (directory / "at").read_text() == at
    except OSError:
        return False


def _wait_stopped(keeper: subprocess.Popen[bytes], joined_lock: int) -> None:
    """Wait until the edge has ended, unless another command uses it by now: then its keeper sees to it."""
    began = time.monotonic()
    while keeper.poll() is None and time.monotonic() - began < STOP_S + 5:
        try:
            fcntl.flock(joined_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(joined_lock, fcntl.LOCK_UN)
        except BlockingIOError:
            # The keeper is nobody's child from here on: this process ends, and init takes it over.
            keeper.returncode = 0
            return
        time.sleep(0.01)


# ---- the keeper ------------------------------------------------------------------------------------------------------


class _EndedError(BaseException):
    """The edge ended, or somebody told its keeper to."""


def keep(directory: Path, options: Sequence[str]) -> int:
    """Run ``edge serve`` until nobody uses it any more, then have it stop. Returns its exit status."""

    def ended(_number: int, _frame: FrameType | None) -> NoReturn:
        raise _EndedError

    with (directory / "users.lock").open("ab") as users:
        serving = subprocess.Popen([sys.executable, "-P", "-m", "edge", "serve", *options], stdin=subprocess.DEVNULL)
        try:
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, ended)
            if serving.poll() is None:
                fcntl.flock(users, fcntl.LOCK_EX)
        except _EndedError:
            pass
        finally:
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN if number != signal.SIGCHLD else signal.SIG_DFL)
            status = _stopped(serving)
            # Before the lock is let go: whoever comes next must not take the port for this edge's.
            (directory / "at").unlink(missing_ok=True)
    return status


def _stopped(serving: subprocess.Popen[bytes]) -> int:
    if serving.poll() is None:
        serving.terminate()
    try:
        return serving.wait(STOP_S)
    except subprocess.TimeoutExpired:
        serving.kill()
        return serving.wait()


# ---- the command -----------------------------------------------------------------------------------------------------


def _unstartable(name: str, environ: Mapping[str, str]) -> int:
    """The exit status for a command that cannot be started, 0 if it can: told before an edge is started for it."""
    path = environ.get("PATH", os.defpath)
    if shutil.which(name, path=path) is not None:
        return 0
    there = [Path(name)] if "/" in name else [Path(directory or ".") / name for directory in path.split(os.pathsep)]
    return NOT_EXECUTABLE if any(found.exists() for found in there) else NOT_FOUND


def attend(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run ``command`` in this process group, with this one's terminal and open files, and give its exit status.

    Signals sent to this process are passed on. Those of the terminal are not: it sends them to the command itself.
    """
    watched = {*_FORWARDED, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    try:
        try:
            child = os.posix_spawnp(
                command[0], list(command), environ, setsigmask=before, setsigdef=[signal.SIGPIPE, signal.SIGXFSZ]
            )
        except OSError as error:
            print(f"edge: {command[0]}: {error.strerror}", file=sys.stderr)
            return NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
        while True:
            told = signal.sigwaitinfo(watched)
            if told.si_signo != signal.SIGCHLD:
                if told.si_code != _TOLD_BY_KERNEL:
                    os.kill(child, told.si_signo)
                continue
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---- what the environment is made from -------------------------------------------------------------------------------


def joined(directory: Path, files: Sequence[Path]) -> Path:
    """A file in ``directory`` with the contents of several, named by them. Raises ``OSError``."""
    content = b"\n".join(file.read_bytes() for file in files)
    path = directory / f"{hashlib.sha256(content).hexdigest()[:20]}.pem"
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(content)
        partial.rename(path)
    return path


def written_for_npm(directory: Path, environ: Mapping[str, str], machine: Sequence[Path] = NPM_OF_MACHINE) -> dict[str, str]:
    """What all files of npm's clients say of proxies and certificates, by npm's names, and of Yarn 4's registry, by Yarn's.

    npm's file for the machine is beside the Node.js that runs it, wherever that is.
    """
    from .configfiles import NPMRC, Format, YAMLLines
    from .configfiles.lines import unquoted

    home = home_directory(environ)
    rc = environ.get("YARN_RC_FILENAME") or ".yarnrc.yml"
    named = environ.get("npm_config_userconfig") or environ.get("NPM_CONFIG_USERCONFIG")
    of_all = environ.get("npm_config_globalconfig") or environ.get("NPM_CONFIG_GLOBALCONFIG")
    node = shutil.which("node", path=environ.get("PATH", os.defpath))
    beside = [Path(node).resolve().parent.parent / "etc" / "npmrc"] if node else []
    above = [directory, *directory.parents]
    project = next((each for each in above if (each / "package.json").is_file()), directory)
    of_npm = (NPMRC(), ("proxy", "https-proxy", "http-proxy", "noproxy", "cafile", "ca"))
    of_yarn = (YAMLLines(), ("httpsCaFilePath", "npmRegistryServer"))
    files: list[tuple[Path, tuple[Format, tuple[str, ...]]]] = [
        *((path, of_npm) for path in ([Path(of_all)] if of_all else [*machine, *beside])),
        (Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pnpm" / "rc", of_npm),
        (Path(named) if named else home / ".npmrc", of_npm),
        (project / ".npmrc", of_npm),
        *((directory / rc, of_yarn) for directory in (home, *reversed(above))),
    ]
    found: dict[str, str] = {}
    for path, (format_, wanted) in files:
        try:
            values = format_.read(path.read_text("utf-8", "replace"))
        except (OSError, ValueError):
            continue
        for key in wanted:
            value = values.get(key)
            if isinstance(value, str) and value not in ("", "null", "false", "~"):
                told = re.sub(r"\$\{(\w+)[^}]*\}", lambda name: environ.get(name[1], ""), unquoted(value))
                found[key] = str(path.parent / told) if key in ("cafile", "httpsCaFilePath") and told else told
    return found


def written_for_pip(environ: Mapping[str, str], machine: Sequence[Path] = PIP_OF_MACHINE) -> dict[str, str]:
    """What pip's files say of its proxy and certificates, whatever command it is for: its variables win over them all."""
    from .configfiles import INI

    home, named, active = home_directory(environ), environ.get("PIP_CONFIG_FILE"), environ.get("VIRTUAL_ENV")
    moved = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    files = [*machine, home / ".pip" / "pip.conf", moved / "pip" / "pip.conf"]
    files += [Path(active, "pip.conf")] if active else []
    found: dict[str, str] = {}
    for path in [] if named == os.devnull else [*files, *([Path(named)] if named else [])]:
        try:
            sections = INI().read(path.read_text("utf-8", "replace"))
        except (OSError, ValueError):
            continue
        for options in sections.values():
            found |= {key: options[key] for key in ("proxy", "cert") if options.get(key)}
    return found


def _add_aliases(
    settings: EdgeSettings, running: Running, environ: Mapping[str, str], command: Sequence[str], tell: Callable[[str], None]
) -> None:
    """Have the edge stand in for hosts that lock files at hand name for a registry and no table has."""
    import trio

    from origin import control

    from . import lockfiles

    unknown = lockfiles.unknown_hosts(
        Path.cwd(),
        registry_hosts(settings) | running.hosts,
        home=home_directory(environ),
        environ=environ,
        words=command,
    )
    for instance, host in ((_instance(settings, kind), host) for kind, hosts in unknown.items() for host in hosts):
        asked: dict[str, object] = {"instance": instance, "host": host}
        try:
            done = trio.run(control.call, settings.data / "edge.sock", "alias", asked)
        except control.CommandFailed as error:
            tell(f"a lock file here names {host}, which is asked past the edge: {error}")
            continue
        if not (isinstance(done, dict) and done.get("known")):
            tell(f"a lock file here names {host}, which the edge takes for {instance} too; aliases in its settings keep that")


def _instance(settings: EdgeSettings, kind: str) -> str:
    """The instance that other names of the kind's registry are taken for: the one named like the kind, else the first."""
    if kind in settings.registries and settings.registries[kind].kind == kind:
        return kind
    return next((name for name, registry in settings.registries.items() if registry.kind == kind), kind)


def _maven_notes(program: str, environ: Mapping[str, str], proxy: object) -> list[str]:
    """What Maven's own settings say louder than a JVM's properties."""
    from .environment import Proxy

    assert isinstance(proxy, Proxy)
    if Path(program).name not in {"mvn", "mvnw", "mvnd", "mvnDebug"}:
        return []
    notes = []
    settings = home_directory(environ) / ".m2" / "settings.xml"
    with contextlib.suppress(OSError):
        text = re.sub(r"(?s)<!--.*?-->", "", settings.read_text("utf-8", "replace"))
        if any("<active>false" not in re.sub(r"\s", "", one) for one in re.findall(r"(?s)<proxy>.*?</proxy>", text)):
            notes.append(f"{settings} names a proxy, which Maven takes before this one")
    if proxy.username:
        notes.append("Maven takes a proxy's password from its settings only: edge use --proxy maven writes it there")
    return notes


def _gradle_notes(program: str, environ: Mapping[str, str], proxy: object) -> list[str]:
    """What Gradle's own files say louder than a JVM's properties."""
    from .configfiles import Properties
    from .environment import Proxy

    assert isinstance(proxy, Proxy)
    if Path(program).name not in {"gradle", "gradlew"}:
        return []
    home = environ.get("GRADLE_USER_HOME")
    user = Path(home) if home else home_directory(environ) / ".gradle"
    notes = []
    for path in (user / "gradle.properties", Path.cwd() / "gradle.properties"):
        try:
            values = Properties().read(path.read_text("latin-1"))
        except (OSError, ValueError):
            continue
        ours = (proxy.host, str(proxy.port))
        theirs = tuple(values.get(f"systemProp.https.proxy{what}", "") for what in ("Host", "Port"))
        if any(theirs) and theirs != ours:
            notes.append(f"{path} names a proxy, which Gradle takes before this one")
        elif "systemProp.javax.net.ssl.trustStore" in values and theirs != ours:
            notes.append(f"{path} names a truststore, which Gradle takes before this edge's")
    return notes


_OWN = {
    "uv": (("uv.toml", "pyproject.toml"), (".config/uv/uv.toml",)),
    "pnpm": (("pnpm-workspace.yaml",), (".config/pnpm/config.yaml",)),
}
"""Clients whose own files win over variables: those of a project, here or above, and those of a person."""

_OWN_PROXY = re.compile(r"(?m)^[ \t]*[\"']?(https-?proxy|http-?proxy|no-?proxy|proxy)[\"']?[ \t]*[:=]", re.IGNORECASE)


def _own_notes(program: str, environ: Mapping[str, str]) -> list[str]:
    """What the files of clients say louder than any variable."""
    name = Path(program).name
    if name not in _OWN:
        return []
    projects, persons = _OWN[name]
    here = Path.cwd()
    files = [folder / file for folder in (here, *here.parents) for file in projects]
    notes = []
    for path in (*files, *(home_directory(environ) / file for file in persons)):
        with contextlib.suppress(OSError):
            if found := _OWN_PROXY.search(path.read_text("utf-8", "replace")):
                notes.append(f"{path} has {found[1]}, which {name} heeds before this edge")
    return notes


# ---- what happened ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Seen:
    """What an edge has counted so far, and how much it has logged: requests refused by policy, and those not let through."""

    refused: int
    barred: int
    logged: int
    log: Path | None

    @classmethod
    def of(cls, running: Running) -> _Seen | None:
        """None if the edge does not answer."""
        refused = _refused(running.at)
        logged = running.log.stat().st_size if running.log is not None and running.log.exists() else 0
        return None if refused is None else cls(*refused, logged, running.log)

    def since(self, before: _Seen) -> list[str]:
        """A sentence for each thing that a person should know of."""
        notes = []
        if (refused := self.refused - before.refused) > 0:
            told = "1 request was" if refused == 1 else f"{refused} requests were"
            notes.append(f"{told} refused by a rule; edge why PURL says by which")
        if (barred := self.barred - before.barred) > 0:
            told = "1 connection was" if barred == 1 else f"{barred} connections were"
            notes.append(f"{told} not let through: to hosts that are no registry's, which [proxy] in the settings decides on")
        if self.log is not None:
            with self.log.open("rb") as file:
                file.seek(before.logged)
                lines = file.read(self.logged - before.logged).decode("utf-8", "replace").splitlines()
            found = [match[1] for line in lines if (match := _WARNING.fullmatch(line))]
            notes += dict.fromkeys(found)
        return notes[:4]


_WARNING = re.compile(r"\S+Z warn +(?:hosts|forward|authority) +(.+)")
"""A warning about the proxy face, as ``origin/logs.py`` writes it for people."""


def _refused(at: str) -> tuple[int, int] | None:
    """How many requests the edge has refused by policy and how many it did not let through; None where it cannot be asked."""
    from .environment import host_and_port

    connection = http.client.HTTPConnection(*host_and_port(at), timeout=2)
    try:
        connection.request("GET", "/-/metrics")
        text = connection.getresponse().read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    found = re.findall(r'(?m)^leeward_requests_total\{([^}]*outcome="refused"[^}]*)\} ([0-9.e+]+)$', text)
    barred = sum(float(number) for labels, number in found if 'registry=""' in labels)
    return int(sum(float(number) for _, number in found) - barred), int(barred)


if __name__ == "__main__":
    sys.exit(keep(Path(sys.argv[1]), sys.argv[2:]))
