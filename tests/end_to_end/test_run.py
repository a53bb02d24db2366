"""How ``edge run`` runs a command: who is started, who is stopped, and what comes through."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from edge import run
from edge.clients import Records, Surroundings, use
from edge.clients.proxied import Given, proxied
from edge.environment import Proxy
from edge.settings import EdgeSettings
from edge.trust import ensure_trust
from origin import control
from origin.control import CommandFailed
from tests import node, proxy_stage
from tests.fakes import Authority, FakeMaven, FakeNpm, FakePyPI
from tests.harness import PIP, REFUSING, ROOT, Edge, Rule, Through, Workspace, ask, clean_environment, wait_until
from tests.jars import pom_xml
from tests.jvm import GRADLE, MAVENS, PROBE, QUICK, SETTINGS, JvmWorkspace, Maven
from tests.node import NPM, PNPM, YARN1, YARN4

pytestmark = pytest.mark.slow

authority, packed = proxy_stage.authority, proxy_stage.packed
pypi, npm, maven = proxy_stage.pypi, proxy_stage.npm, proxy_stage.maven


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    """An edge that does not run. Its registries refuse connections."""
    made = Edge(tmp_path / "edge", f"http://127.0.0.1:{REFUSING}/simple/")
    yield made
    made.stop()


def variables_of(edge: Edge, **more: str) -> dict[str, str]:
    return clean_environment(edge.directory / "home") | edge.found_names() | more


def started(edge: Edge, *command: str, words: Sequence[str] = (), **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*edge.running.words[:-1], *words, "--", *command],
        cwd=edge.directory,
        env=variables_of(edge, **more),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ran(edge: Edge, *command: str, given: str = "", words: Sequence[str] = (), **more: str) -> tuple[int, str, str]:
    """Status, standard output and standard error."""
    process = started(edge, *command, words=words, **more)
    output, errors = process.communicate(given, timeout=60)
    return process.returncode, output, errors


def runs(edge: Edge) -> bool:
    return (edge.data / "edge.sock").exists()


def answers(url: str) -> bool:
    try:
        return ask(f"{url}/-/live", timeout_s=2).status == 200
    except OSError:
        return False


ASKING = """
import os, sys, urllib.request
proxy = os.environ["HTTPS_PROXY"]
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
print(proxy, opener.open(proxy + "/-/live").status, sys.stdin.read())
"""


def test_a_command_has_an_edge_for_as_long_as_it_runs(edge: Edge) -> None:
    status, output, errors = ran(edge, sys.executable, "-c", ASKING, given="told")
    assert status == 0
    assert re.fullmatch(rf"edge run: through an edge that was started for this, at \S+, with its store in {edge.data}\n", errors)
    url, live, given = output.split()
    assert (live, given) == ("200", "told")
    assert not runs(edge)
    assert not answers(url)


def test_an_edge_that_runs_is_used_and_goes_on(edge: Edge) -> None:
    edge.start()
    status, output, _ = ran(edge, "sh", "-c", "echo $HTTPS_PROXY; cat $SSL_CERT_FILE | grep -c BEGIN")
    url, certificates = output.split()
    assert (status, url) == (0, edge.url)
    assert int(certificates) >= 1
    assert answers(edge.url)


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -KILL $$", 128 + 9), ("kill -TERM $$", 128 + 15)])
def test_the_exit_status_is_the_commands(edge: Edge, script: str, status: int) -> None:
    edge.start()
    assert ran(edge, "sh", "-c", script)[0] == status


def test_what_cannot_be_started_has_a_status_of_its_own(edge: Edge) -> None:
    plain = edge.directory / "plain"
    plain.write_text("no program")
    status, _, errors = ran(edge, "no-such-command-here")
    assert (status, errors) == (127, "edge run: no-such-command-here: no such command\n")
    status, _, errors = ran(edge, str(plain))
    assert status == 126
    assert "cannot be executed" in errors
    assert not (edge.data / "run").exists(), "no edge was started for it"


def test_there_can_be_no_edge(edge: Edge) -> None:
    edge.config.write_text("listen = 12\n")
    status, output, errors = ran(edge, "echo", "told")
    assert (status, output) == (125, "")
    assert "edge.toml:1: listen" in errors
    assert ran(edge, words=["--quiet"])[0] == 2, "no command"


def test_a_data_directory_that_cannot_be_one_is_told_in_a_sentence(edge: Edge) -> None:
    shutil.rmtree(edge.data)
    edge.data.write_text("a file")
    status, output, errors = ran(edge, "echo", "told")
    assert (status, output) == (125, "")
    assert re.fullmatch(r"edge: .*data.*\n", errors), errors


def test_why_an_edge_does_not_start_is_told(edge: Edge) -> None:
    """The settings are good, the store is not: only the edge that is started can tell."""
    ran(edge, "true")
    (edge.data / "catalog.sqlite").unlink(missing_ok=True)
    for path in edge.data.glob("*.sqlite*"):
        path.unlink()
        path.mkdir()
    (edge.data / "blobs").rename(edge.data / "elsewhere")
    (edge.data / "blobs").write_text("no directory")
    status, output, errors = ran(edge, "echo", "told")
    assert (status, output) == (125, "")
    assert errors.startswith("edge: no edge could be started: ")
    assert not runs(edge)


def test_the_edge_of_another_user_is_left_alone(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock: the suite may run as a user whom no file keeps out."""

    async def call(path: Path, *_: object) -> object:
        raise CommandFailed(f"the node on {path.parent} belongs to another user")

    monkeypatch.setattr(control, "call", call)
    settings = EdgeSettings(data=edge.data)
    with pytest.raises(CommandFailed, match="belongs to another user"), run.using(settings, [], {}):
        pytest.fail("there is no edge to use")
    assert not (edge.data / "run").exists()


def test_an_edge_without_a_proxy_face_is_told_of(edge: Edge) -> None:
    edge.config.write_text("[proxy]\nenabled = false\n" + edge.config.read_text())
    status, output, errors = ran(edge, "echo", "told")
    assert (status, output) == (125, "")
    assert "[proxy] enabled is false" in errors


def test_an_edge_that_takes_tls_only_is_told_of(edge: Edge, authority: Authority) -> None:
    certificate = json.dumps(str(authority.certificate("127.0.0.1")))
    status, _, errors = ran(edge, "true")
    assert status == 0, errors
    edge.config.write_text(f"{edge.config.read_text()}\n[tls]\ncert = {certificate}\nkey = {certificate}\nonly = true\n")
    edge.start(wait=False)
    wait_until(lambda: runs(edge), 20)
    status, output, errors = ran(edge, "echo", "told")
    assert (status, output) == (125, "")
    assert "takes TLS only" in errors


def test_the_end_of_a_command_is_heard_of_by_who_was_started_without_ears_for_it(edge: Edge) -> None:
    """A disposition to ignore SIGCHLD is inherited from whoever starts us."""
    words = [*edge.running.words[:-1], "--", "sh", "-c", "exit 7"]
    deaf = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", deaf, *words],
        cwd=edge.directory,
        env=variables_of(edge),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert not runs(edge)


# ---- signals ---------------------------------------------------------------------------------------------------------

WAITING = """
import os, signal, sys
signal.signal(getattr(signal, sys.argv[1]), lambda *_: sys.exit(5))
print("ready", os.environ["HTTPS_PROXY"], flush=True)
signal.pause()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_signals_are_passed_on(edge: Edge, name: str) -> None:
    edge.start()
    process = started(edge, sys.executable, "-c", WAITING, name)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready")
    process.send_signal(getattr(signal, name))
    assert process.wait(20) == 5
    process.communicate()


COUNTING = """
import os, signal, sys
count = 0
def told(*_):
    global count
    count += 1
    os.write(1, b"INT ")
signal.signal(signal.SIGINT, told)
print("ready", flush=True)
sys.stdin.readline()
print("count", count, sys.stdin.isatty(), flush=True)
"""


TAKING = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Makes its standard input the terminal of its session, and goes on as its arguments."""


def test_the_terminals_interrupt_reaches_the_command_once_and_the_edge_never(edge: Edge) -> None:
    near, far = pty.openpty()
    attributes = termios.tcgetattr(far)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(far, termios.TCSANOW, attributes)
    with os.fdopen(near, "r+b", buffering=0) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-c", TAKING, *edge.running.words, sys.executable, "-c", COUNTING],
            cwd=edge.directory,
            env=variables_of(edge),
            stdin=far,
            stdout=far,
            stderr=far,
            start_new_session=True,
        )
        os.close(far)
        told = b""

        def read_until(wanted: bytes) -> None:
            nonlocal told
            while wanted not in told:
                try:
                    told += terminal.read(4096)
                except OSError as error:  # what Linux says when nobody holds the other end any more
                    raise AssertionError(told) from error

        read_until(b"ready")
        terminal.write(b"\x03")
        read_until(b"INT")
        terminal.write(b"\n")
        read_until(b"count")
        assert process.wait(20) == 0
        assert b"count 1 True" in told
    assert b"draining" in (edge.data / "run" / "edge.log").read_bytes(), "it was told to stop only at the end"
    assert b"SIGINT" not in (edge.data / "run" / "edge.log").read_bytes()


# ---- several at once -------------------------------------------------------------------------------------------------


def waiting(edge: Edge) -> tuple[subprocess.Popen[str], str]:
    """A command that goes on until a signal; and its proxy."""
    process = started(edge, sys.executable, "-c", WAITING, "SIGTERM")
    assert process.stdout is not None
    ready, url = process.stdout.readline().split()
    assert ready == "ready"
    return process, url


def end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 5


def test_two_commands_share_an_edge_until_the_last_of_them_ends(edge: Edge) -> None:
    first, url = waiting(edge)
    second, other = waiting(edge)
    assert other == url
    end(first)
    assert answers(url), "the second one uses it still"
    third, again = waiting(edge)
    assert again == url
    end(second)
    assert answers(url)
    end(third)
    wait_until(lambda: not answers(url), 20)
    wait_until(lambda: not runs(edge), 20)


def test_a_command_that_is_killed_leaves_no_edge_behind(edge: Edge) -> None:
    process, url = waiting(edge)
    process.kill()
    process.wait()
    wait_until(lambda: not answers(url), 20)
    wait_until(lambda: not runs(edge), 20)
    for stream in (process.stdin, process.stdout, process.stderr):
        assert stream is not None
        stream.close()


def test_an_edge_that_dies_under_a_command_is_told_of(edge: Edge) -> None:
    script = "import os, signal, sys, time\nfor line in sys.stdin: pass"
    process = started(edge, sys.executable, "-c", f"print('ready', flush=True)\n{script}")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    pid = serving_pid(edge)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 20)
    _, errors = process.communicate("", timeout=30)
    assert process.returncode == 0
    assert "the edge answers no more; " in errors


def serving_pid(edge: Edge) -> int:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"serve" in words and str(edge.data).encode() in words:
            return int(path.parent.name)
    raise AssertionError("no edge serves there")


# ---- what is asked and told ------------------------------------------------------------------------------------------


def test_the_persons_proxy_becomes_that_of_the_edge_that_is_started(edge: Edge) -> None:
    settings = EdgeSettings(data=edge.data)
    environ = {"PATH": "/bin", "PYTHONPATH": "/mine"}
    given = run._serving_environ(settings, environ, "http://corp.test:3128")
    assert given["EDGE_UPSTREAM__PROXY"] == "http://corp.test:3128"
    assert given["PYTHONPATH"] == f"{ROOT}{os.pathsep}/mine"
    assert "EDGE_UPSTREAM__PROXY" not in run._serving_environ(settings, environ, "")
    edge.start()
    through = f"edge run: through the edge that runs, at {edge.url}, with its store in {edge.data}\n"
    _, _, errors = ran(edge, "true", HTTPS_PROXY="http://corp.test:3128")
    assert errors == f"edge run: the edge that runs has no [upstream] proxy, so yours is not used for this command\n{through}"
    assert ran(edge, "true", HTTPS_PROXY=edge.url)[2] == through, "its own is nothing to tell of"
    assert ran(edge, "true", words=["--quiet"], HTTPS_PROXY="http://corp.test:3128")[2] == ""
    assert "a socks5 proxy cannot be" in ran(edge, "true", ALL_PROXY="socks5://corp.test:1080")[2]


def test_what_was_not_let_through_is_told_at_the_end(edge: Edge) -> None:
    edge.start()
    asking = (
        "import os, urllib.request, urllib.error\n"
        "try: urllib.request.urlopen('http://169.254.169.254/')\n"
        "except urllib.error.HTTPError as error: print(error.code)\n"
    )
    status, output, errors = ran(edge, sys.executable, "-c", asking)
    assert (status, output) == (0, "403\n")
    assert errors.splitlines()[-1].startswith("edge run: 1 connection was not let through")


def test_a_directory_that_holds_another_edge_package_is_no_danger(edge: Edge) -> None:
    """The edge that is started is ours, whatever lies where the person stands."""
    (edge.directory / "edge").mkdir()
    (edge.directory / "edge" / "__init__.py").write_text("raise SystemExit('wrong')")
    words = ["-P", "-m", "edge", *edge.running.words[3:]]
    done = subprocess.run(
        [sys.executable, *words, "echo", "told"],
        cwd=edge.directory,
        env=variables_of(edge),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "told\n"), done.stderr


# ---- real clients, and nothing else started ---------------------------------------------------------------------------


@pytest.fixture
def unstarted(authority: Authority, scratch: Path, pypi: FakePyPI, npm: FakeNpm, maven: FakeMaven) -> Iterator[Edge]:
    """An edge that knows all three registries by name, and that nobody has started."""
    made = proxy_stage.new_edge(authority, scratch, pypi, npm, maven)
    yield made
    shutil.rmtree(made.directory, ignore_errors=True)


def test_pip_installs_with_nothing_configured_and_nothing_started(unstarted: Edge, pypi: FakePyPI, workspace: Workspace) -> None:
    workspace.through = unstarted.running
    pypi.forget()
    done = PIP.install(workspace, pypi.index_url, ["orchard"])
    assert done.installed == proxy_stage.PYTHON_TREE, done.output
    assert {(seen.header("user-agent") or "").partition("/")[0] for seen in pypi.seen()} == {"leeward"}
    assert not runs(unstarted)
    assert len(unstarted.blobs()) >= len(done.installed)


def test_no_proxy_of_pips_own_file_leads_past_the_edge(unstarted: Edge, pypi: FakePyPI, workspace: Workspace) -> None:
    path = workspace.project / "pip.conf"
    path.write_text(f"[global]\nproxy = http://127.0.0.1:{REFUSING}\n")
    variables = {**unstarted.running.variables, "PIP_CONFIG_FILE": str(path)}
    workspace.through = replace(unstarted.running, variables=variables)
    done = PIP.install(workspace, pypi.index_url, ["orchard"])
    assert done.installed == proxy_stage.PYTHON_TREE, done.output


def test_npm_ci_installs_a_lock_as_it_is(
    unstarted: Edge, authority: Authority, npm: FakeNpm, scratch: Path, tmp_path: Path
) -> None:
    with proxy_stage.straight_to(authority, scratch, npm) as straight:
        project = NPM.project(tmp_path / "npm", npm.registry_url, through=straight.through)
        assert project.install({"orchard": "^2.0.0"}).succeeded
        lock = project.lock
    again = NPM.project(tmp_path / "npm", npm.registry_url, through=unstarted.running)
    again.write_manifest({"orchard": "^2.0.0"})
    again.empty_cache()
    npm.forget()
    done = again.ci()
    assert done.installed == proxy_stage.NODE_TREE, done.output
    assert done.lock == lock
    assert {(seen.header("user-agent") or "").partition("/")[0] for seen in npm.seen()} == {"leeward"}


@pytest.mark.parametrize("client", MAVENS, ids=lambda client: client.name)
def test_maven_resolves_with_nothing_configured_and_nothing_started(
    unstarted: Edge, maven: FakeMaven, tmp_path: Path, client: Maven
) -> None:
    workspace = JvmWorkspace(tmp_path / "jvm", unstarted.running)
    maven.forget()
    done = client.resolve(workspace, maven.url, ["org.example.orchard:app:1.0"])
    assert done.resolved == proxy_stage.JAVA_TREE, done.told
    assert {(seen.header("user-agent") or "").partition("/")[0] for seen in maven.seen()} == {"leeward"}


def test_a_rule_that_refuses_is_told_of_at_the_end(unstarted: Edge, pypi: FakePyPI, workspace: Workspace) -> None:
    workspace.through = unstarted.running
    unstarted.set_rules(Rule("pkg:pypi/apple-tree", "rotten"))
    done = PIP.install(workspace, pypi.index_url, ["apple-tree==1.5"])
    assert not done.succeeded
    assert "refused by a rule; edge why PURL says by which" in done.output


# ---- real clients that edge use --proxy has configured -----------------------------------------------------------------


@pytest.fixture(scope="module")
def proxy(authority: Authority, scratch: Path, pypi: FakePyPI, npm: FakeNpm, maven: FakeMaven) -> Iterator[Edge]:
    with proxy_stage.start_proxy(authority, scratch, pypi, npm, maven) as edge:
        yield edge


def configure(edge: Edge, name: str, home: Path) -> None:
    """``edge use --proxy`` for the person who is at home there."""
    given = Given(Proxy("127.0.0.1", edge.port), ensure_trust(edge.data))
    here = Surroundings(clean_environment(home), home)
    use(proxied(name, given), given.proxy.url, here, Records(home / "records"))


def test_pip_goes_by_its_file(proxy: Edge, pypi: FakePyPI, workspace: Workspace) -> None:
    configure(proxy, "pip", workspace.home)
    workspace.through = Through(variables={"PIP_CONFIG_FILE": str(workspace.home / ".config" / "pip" / "pip.conf")})
    done = PIP.install(workspace, pypi.index_url, ["orchard"])
    assert done.installed == proxy_stage.PYTHON_TREE, done.output


def test_the_root_of_an_edge_elsewhere_is_asked_for_and_trusted(proxy: Edge, pypi: FakePyPI, workspace: Workspace) -> None:
    """With a data directory of one's own there would be another root, which the edge at that address knows nothing of."""
    mine = workspace.directory / "mine"
    variables = clean_environment(workspace.home) | proxy.found_names()

    def used(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "edge", "use", "--proxy", "pip", "--data", str(mine), *words]
        done = subprocess.run(
            command, env=variables, cwd=workspace.directory, capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, done.stderr

    root = proxy.root_certificate()
    status, told = used("--url", proxy.url)
    assert (status, told.count("\n")) == (1, 1)
    assert "has a root of its own" in told
    assert "--root" in told
    assert not mine.exists(), "no authority was made for nothing"
    configured = workspace.home / ".config" / "pip" / "pip.conf"
    assert not configured.exists()
    assert used("--url", "http://edge.test:1", "--data", str(mine)) == (
        1,
        f"edge: no edge answers at http://edge.test:1, so its root is not known: {told.partition(': have')[2].join(('have', ''))}",
    )
    assert used("--url", proxy.url, "--root", str(root)) == (0, "")
    workspace.through = Through(variables={"PIP_CONFIG_FILE": str(configured)})
    done = PIP.install(workspace, pypi.index_url, ["orchard"])
    assert done.installed == proxy_stage.PYTHON_TREE, done.output
    # Whoever has that edge's own data directory is not asked.
    assert proxy.command("use", "--proxy", "npm", "--url", proxy.url, "--print").returncode == 0


@pytest.mark.parametrize("client", [NPM, PNPM, YARN1, YARN4], ids=lambda client: client.name)
def test_npms_clients_go_by_their_files(proxy: Edge, npm: FakeNpm, tmp_path: Path, client: node.Client) -> None:
    project = client.project(tmp_path / "npm", npm.registry_url)
    configure(proxy, "yarn" if client in (YARN1, YARN4) else "npm", project.home)
    done = project.install({"orchard": "^2.0.0"})
    assert done.installed == proxy_stage.NODE_TREE, done.output


@pytest.mark.parametrize("client", MAVENS, ids=lambda client: client.name)
def test_mavens_go_by_their_files(proxy: Edge, maven: FakeMaven, tmp_path: Path, client: Maven) -> None:
    workspace = JvmWorkspace(tmp_path / "jvm")
    settings = workspace.home / ".m2" / "settings.xml"
    settings.parent.mkdir()
    settings.write_text(SETTINGS.format(url=maven.url, mirror_of="*"))
    configure(proxy, "maven", workspace.home)
    (workspace.project / "pom.xml").write_text(pom_xml("org.example.project:app:1", requires=["org.example.orchard:app:1.0"]))
    command: list[str | Path] = [client.home / "bin" / "mvn", "-B", f"-Dmaven.repo.local={workspace.cache}", f"{PROBE}:resolve"]
    status, output, _ = workspace.run(command, {"MAVEN_OPTS": f"{QUICK} -Duser.home={workspace.home}"}, 120)
    assert (status, output.count("RESOLVED")) == (0, len(proxy_stage.JAVA_TREE)), output


def test_gradle_goes_by_its_file(proxy: Edge, maven: FakeMaven, tmp_path: Path) -> None:
    workspace = JvmWorkspace(tmp_path / "jvm")
    configure(proxy, "gradle", workspace.home)
    (workspace.home / ".gradle" / "gradle.properties").rename(workspace.cache / "gradle.properties")
    done = GRADLE.resolve(workspace, maven.url, ["org.example.orchard:app:1.0"])
    assert done.resolved == proxy_stage.JAVA_TREE, done.told
