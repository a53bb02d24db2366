"""The command line: ``edge serve | run | use | enrol | warm | ready | refresh | why | verify | gc | status``.

``edge --help`` is meant to be enough to get on. What a command needs is imported when it runs, so that help is quick. Errors are one
sentence on standard error: exit 2 for what was asked wrongly (usage, settings), 1 for what failed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from origin import programs, terminal

from . import capture_command, warm_command

if TYPE_CHECKING:
    from origin.control import Command

    from .settings import Loaded

_DESCRIPTION = """\
Leeward's edge: a mirror next to you that verifies what it fetches, refuses what policy
refuses, and goes on when the registry is down.

Start one, point your tools at it, install as always:

  edge serve
  edge use pip
  pip install six

Or try it with nothing configured and nothing started:

  edge run -- pip install six
"""

_EPILOG = """\
Every command says more with --help: edge use --help.

Settings come from edge.toml (see --config), then variables (EDGE_LISTEN,
EDGE_REGISTRIES__PYPI__UPSTREAM), then options. None are needed to begin.
"""


_DATA_HELP = """\
the data directory (default: $EDGE_DATA, else what the settings say, else
~/.local/state/leeward/edge, for root /var/lib/leeward/edge)"""


_CONFIG_HELP = {
    "": "the settings (default: $EDGE_CONFIG, else the first edge.toml found: here, of the user, of the system)",
    "run": "the settings (default: $EDGE_CONFIG, else the user's or the system's edge.toml, never a project's)",
}

_CLIENTS = ("pip", "uv", "poetry", "pdm", "npm", "pnpm", "yarn", "bun", "maven", "gradle", "sbt")
"""The rows of ``clients.CLIENTS``, spelled here because help does not wait for that import."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    return terminal.run("edge", _parser(), arguments)


# ---- arguments ------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    program = programs.Program("edge", _CONFIG_HELP, {"": _DATA_HELP}, _ask)
    parser, commands = program.parser(_DESCRIPTION, _EPILOG)
    serve = program.add(
        commands,
        "serve",
        _serve,
        "run an edge",
        "Run an edge until it is told to stop (Ctrl-C or SIGTERM; running downloads finish first).",
        "edge serve\n  edge serve --listen 0.0.0.0:8080 --data /srv/leeward",
    )
    serve.add_argument("--listen", metavar="HOST:PORT", help="where to listen (default 127.0.0.1:8080)")
    serve.add_argument("--origin", metavar="URL", help="the central origin to follow and to ask first (see edge enrol --help)")
    programs.add_logging(serve)

    use = program.add(
        commands,
        "use",
        _use,
        "point pip, npm, Maven or another client at this edge, or back",
        "Write a client's own configuration so that it installs through this edge. The original is\n"
        "saved once; --undo brings it back and keeps whatever you changed in the meantime.\n\n"
        "Python: pip, uv, poetry, pdm. npm: npm, pnpm, yarn, bun. Maven: maven, gradle, sbt.\n"
        "All are changed for your user, only Poetry in the project you stand in.\n\n"
        "With --proxy the client keeps its registry and asks for it through the edge. uv, Poetry, PDM,\n"
        "Bun and sbt have no setting for that: the variables to set are printed, with exit status 2.\n"
        "edge use CLIENT and edge use --proxy CLIENT are undone one by one.",
        "edge use pip\n  edge use npm --url http://mirror.test:8080\n  edge use maven --print\n  edge use pip --undo\n"
        "  edge use --proxy npm\n  edge use --proxy npm --undo",
    )
    use.add_argument("client", choices=_CLIENTS, metavar="CLIENT", help=f"which client: {', '.join(_CLIENTS)}")
    use.add_argument(
        "--url",
        metavar="URL",
        help="the edge's address, or the URL the client is to be given: an index URL ending in /simple/, for npm and Maven any "
        "with a path (default: from the settings)",
    )
    use.add_argument(
        "--proxy",
        action="store_true",
        help="set the edge as the client's proxy and make it trust the edge's root, instead of naming a registry: lock files keep the "
        "public registries' names",
    )
    use.add_argument(
        "--root", metavar="FILE", type=Path, help="with --proxy: the root (PEM) of an edge elsewhere, as edge ca --pem prints it"
    )
    use.add_argument("--undo", action="store_true", help="take back what an earlier run did")
    use.add_argument("--print", action="store_true", dest="only_print", help="write nothing, show what the file would be")

    run = program.add(
        commands,
        "run",
        _run,
        "run one command through the edge, with nothing configured",
        "Run a command with the edge as its proxy and the edge's root trusted, in its environment only:\n"
        "pip, uv, Poetry, PDM, npm, pnpm, Yarn, Bun, Maven, Gradle, curl and whatever they start.\n"
        "The edge that runs is used; without one, one is started until the command ends. Hosts that\n"
        "lock files here name for a registry are taken for it too.\n\n"
        "The exit status is the command's (128 + n if signal n ended it), 127 if there is no such\n"
        "command, 126 if it cannot be executed, 125 if there can be no edge.",
        "edge run -- pip install six\n  edge run -- npm ci\n  edge run --data /srv/leeward -- mvn verify",
    )
    run.usage = "edge run [--config FILE] [--data DIR] [--quiet] -- COMMAND …"
    run.add_argument("--quiet", action="store_true", help="say nothing besides what the command says, but for errors")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="the command and its arguments")

    enrol = program.add(
        commands,
        "enrol",
        _enrol,
        "make this edge one of an origin's",
        "Use an invitation, as origin invite prints one, up at the origin that gave it. What it brings\n"
        "is kept in the data directory, in place of what an earlier invitation brought. An edge that\n"
        "runs meanwhile goes on as it is until it is restarted.",
        "edge enrol https://origin.test:9090 lw1.4lfR…\n  edge serve --origin https://origin.test:9090",
    )
    enrol.add_argument("url", metavar="URL", help="the origin's address: https://HOST:PORT")
    enrol.add_argument("token", metavar="TOKEN", help="the invitation; - reads it from standard input")

    for name, brief, description, examples in (
        ("warm", "fetch what lock files need, before an outage", warm_command.WARM, warm_command.WARM_EXAMPLES),
        ("ready", "say whether lock files would install in an outage", warm_command.READY, warm_command.READY_EXAMPLES),
    ):
        made = program.add(commands, name, partial(_warm, name), brief, description, examples)
        warm_command.add_arguments(made, name)
        programs.add_json(made)
    program.add_refresh(commands)
    program.add_why(commands, "pkg:pypi/six", "pkg:npm/@scope/name@1.0.0", "pkg:maven/org.example/lib@2.0")
    verify = program.add(
        commands,
        "verify",
        _verify,
        "re-hash everything in the store",
        "Read every stored file again and compare its digest. Exit status 1 if any is bad or missing.",
        "edge verify",
    )
    program.add_gc(commands)
    program.add_status(commands)
    ca = program.add(
        commands,
        "ca",
        _ca,
        "show the certificate authority, or have clients trust it",
        "Print what this edge's certificate authority holds, or write files that make a client trust\n"
        "its root. A bundle and a truststore hold the machine's public roots too, because clients\n"
        "that are given one mostly forget their own. Needs no running edge.",
        "edge ca\n  edge ca --pem > leeward.pem\n  edge ca --bundle roots.pem\n  edge ca --truststore roots.p12",
    )
    ca.add_argument("--pem", action="store_true", help="print the root's certificate")
    ca.add_argument("--bundle", metavar="FILE", type=Path, help="write the public roots and ours, in PEM")
    ca.add_argument("--truststore", metavar="FILE", type=Path, help="write the same as a PKCS#12 truststore, for JVMs")
    ca.add_argument("--password", default="changeit", help="the truststore's password (default: changeit)")
    capture_command.add_arguments(
        program.add(
            commands,
            "capture",
            _capture,
            "take the registries' connections of programs that know nothing of it",
            capture_command.DESCRIPTION,
            capture_command.EXAMPLES,
        )
    )
    programs.add_json(verify, ca)
    return parser


def _load(asked: argparse.Namespace, *, rules_too: bool = True) -> Loaded:
    from .settings import load_edge

    return load_edge(programs.options_of(asked), os.environ, rules_too=rules_too)


# ---- serve and use --------------------------------------------------------------------------------------------------


def _serve(asked: argparse.Namespace) -> int:
    loaded = _load(asked)
    from origin import logs

    from . import app

    logs.configure(loaded.settings.log.level, loaded.settings.log.json)
    return app.main(loaded)


def _run(asked: argparse.Namespace) -> int:
    command = asked.command[1:] if asked.command[:1] == ["--"] else asked.command
    if not command:
        print("edge: run needs a command: edge run -- pip install six", file=sys.stderr)
        return 2
    from . import run

    def tell(note: str) -> None:
        if not asked.quiet:
            print(f"edge run: {note}", file=sys.stderr, flush=True)

    if asked.config is None and not os.environ.get("EDGE_CONFIG"):
        asked.config = str(run.usual_config(os.environ, tell))
    options = [word for name in ("config", "data") if getattr(asked, name) for word in (f"--{name}", getattr(asked, name))]
    try:
        return run.run(_load(asked, rules_too=False), command, options, os.environ, tell)
    except Exception as error:  # noqa: BLE001  # what no sentence is known for is raised again
        # Every other status is, or could be, the command's.
        terminal.complain("edge", error)
        return run.OURS_FAILED


def _use(asked: argparse.Namespace) -> int:
    from origin.logs import without_userinfo

    from . import clients

    if asked.proxy:
        return _use_proxy(asked)
    client = clients.CLIENTS[asked.client]
    here = clients.Surroundings(os.environ, Path.cwd())
    records = clients.Records.of_user(os.environ)
    if asked.undo:
        url = ""
        outcome = clients.undo(client, here, records, not asked.only_print)
    else:
        url = _index_url(asked, client)
        outcome = clients.use(client, url, here, records, not asked.only_print)
    _tell_files(asked, client, outcome, f"now points {client.name} at {without_userinfo(url)}")
    return 0


def _use_proxy(asked: argparse.Namespace) -> int:
    from . import clients
    from .clients import proxied

    here = clients.Surroundings(os.environ, Path.cwd())
    records = clients.Records.of_user(os.environ)
    if asked.undo:
        if asked.client in proxied.BY_VARIABLES:
            print(f"edge: {asked.client} takes variables only: nothing was written for it; unset them", file=sys.stderr)
            return 2
        client = proxied.proxied(asked.client, None)
        outcome = clients.undo(client, here, records, not asked.only_print)
        _tell_files(asked, client, outcome, "")
        return 0
    given = _given(asked)
    if asked.client in proxied.BY_VARIABLES:
        print("\n".join(proxied.variables(asked.client, given)))
        print(f"edge: {asked.client} takes its proxy and trust from variables only: these; nothing was written", file=sys.stderr)
        return 2
    client = proxied.proxied(asked.client, given)
    outcome = clients.use(client, given.proxy.url, here, records, not asked.only_print)
    _tell_files(asked, client, outcome, f"now has {client.name} go through http://{given.proxy.host}:{given.proxy.port}")
    mirror = clients.CLIENTS[asked.client]
    if records.others(mirror.recorded_as):
        told = f"{mirror.name} is pointed at an edge's mirror too, and asks there; edge use {mirror.name} --undo leaves the proxy alone"
        print(f"note: {told}", file=sys.stderr)
    return 0


def _given(asked: argparse.Namespace) -> Any:
    """The proxy and the trust that a client is given: of the edge with these settings."""
    from . import address
    from .clients import ClientError, proxied
    from .environment import Proxy

    settings = _load(asked, rules_too=False).settings
    if asked.url is None and settings.tls.only and settings.tls.cert is not None:
        raise ClientError("this edge takes TLS only ([tls] only), which clients do not speak to a proxy")
    if asked.url is None and not settings.proxy.enabled:
        raise ClientError("this edge's proxy face is off ([proxy] enabled is false)")
    url = asked.url if asked.url is not None else address.proxy_address(address.as_running(settings))
    at = proxied.given_address(url)
    user, password = next(iter(settings.proxy.users.items()), ("", ""))
    return proxied.Given(Proxy(*at, user, password), proxied.trust_of(at, settings.data, asked.root, os.environ))


def _tell_files(asked: argparse.Namespace, client: Any, outcome: Any, pointed: str) -> None:
    """Say what became of a client's files, or print what they would be."""
    for config, file in zip(client.files, outcome.files, strict=True):
        if asked.only_print:
            # Where # begins no comment, what is printed is still a file the client can be given.
            header = f"# {file.path}" + ("" if file.after is not None else " would not exist")
            print(header, file=sys.stdout if config.format.hash_comments else sys.stderr, flush=True)
            sys.stdout.write((file.after or b"").decode("utf-8", "replace"))
        elif not file.changed:
            print(f"{file.path} needed no change")
        elif not asked.undo:
            print(f"{file.path} {pointed}")
        elif outcome.notes:
            print(f"{file.path} now is without what we wrote")
        else:
            print(f"{file.path} now is {'as it was' if file.after is not None else 'gone, as before'}")
    if outcome.changed and not asked.only_print and not asked.undo:
        print(f"edge use {'--proxy ' if asked.proxy else ''}{client.name} --undo takes it back")
    for note in outcome.notes:
        print(f"note: {note}", file=sys.stderr)


def _index_url(asked: argparse.Namespace, client: Any) -> str:
    from . import address, clients

    if asked.url is not None and clients.is_index_url(client, asked.url):
        return clients.index_url(client, asked.url, {})
    settings = _load(asked).settings
    url = asked.url if asked.url is not None else address.local_address(address.as_running(settings))
    return clients.index_url(client, url, settings.registries)


def _enrol(asked: argparse.Namespace) -> int:
    import trio

    from origin import control

    from .enrolment import enrol
    from .settings import node_url

    url = node_url(asked.url)
    settings = _load(asked, rules_too=False).settings
    token = sys.stdin.readline() if asked.token == "-" else asked.token  # noqa: S105 -- no token, but where it is
    identity = trio.run(enrol, url, token, settings.data)
    print(f"this edge is {identity.edge} now, one of the origin at {url}")
    try:
        trio.run(control.peer, settings.data / "edge.sock")
    except (control.NotRunning, control.CommandFailed):
        where = {"--config": asked.config, "--data": asked.data}
        options = "".join(f" {option} {shlex.quote(str(value))}" for option, value in where.items() if value)
        print(f'start it: edge serve{options} --origin {url} (or origin = "{url}" in its settings)')
    else:
        print(f'one runs here: it follows once it is restarted, with --origin {url} or origin = "{url}" in its settings')
    return 0


def _capture(asked: argparse.Namespace) -> int:
    from .address import as_running

    return capture_command.run(asked, as_running(_load(asked, rules_too=False).settings))


# ---- commands for a node --------------------------------------------------------------------------------------------


def _ask(asked: argparse.Namespace, command: str, arguments: dict[str, object]) -> Any:
    """Have the running node do ``command``, else, where the store alone is enough, do it here."""
    # A rule that cannot be read yet must not keep anybody from asking the edge that still goes by the last good ones.
    settings = _load(asked, rules_too=False).settings

    def alone() -> AbstractAsyncContextManager[Mapping[str, Command]]:
        from origin import control

        from . import app

        if not settings.data.is_dir():
            raise control.NotRunning(f"no edge is running on {settings.data}, and there is no store there")
        return app.offline(_load(asked).settings)

    return programs.ask(asked, settings.data / "edge.sock", command, arguments, None if command in _RUNNING_ONLY else alone)


_RUNNING_ONLY = frozenset({"refresh", "status", "warm", "rehearse", "rehearsed"})
"""What the store alone cannot do."""


def _warm(command: str, asked: argparse.Namespace) -> int:
    settings = _load(asked, rules_too=False).settings
    return warm_command.run(asked, command, settings, partial(_ask, asked))


def _verify(asked: argparse.Namespace) -> int:
    result = _ask(asked, "verify", {})
    failed = any(result.get(found) for found in ("bad", "missing", "unreadable"))
    return terminal.tell(asked, result, lambda: terminal.verify_lines(result)) or int(failed)


def _ca(asked: argparse.Namespace) -> int:
    import time

    from . import ca, signer, trust

    settings = _load(asked, rules_too=False).settings
    data = settings.data
    if not settings.proxy.enabled and not signer.Files(data).root.exists():
        from origin.errors import Unusable

        raise Unusable("This edge has no authority: its proxy face is off ([proxy] enabled is false).")
    root = signer.root_of(data)
    written: dict[str, int] = {}
    if asked.bundle is not None:
        written[str(asked.bundle)] = trust.write_bundle(asked.bundle, root)
    if asked.truststore is not None:
        written[str(asked.truststore)] = trust.write_truststore(asked.truststore, root, asked.password)
    if asked.pem:
        sys.stdout.write(root.decode())
        return 0
    if written:
        return terminal.tell(
            asked,
            written,
            lambda: [
                f"{path} holds {terminal.count_text(count, 'certificate')}, ours among them" for path, count in written.items()
            ],
        )
    result = ca.describe(data, time.time())
    return terminal.tell(asked, result, lambda: ca.lines(result, terminal.time_text))


if __name__ == "__main__":
    sys.exit(main())
