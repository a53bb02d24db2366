"""The command line: ``edge serve | run | use | refresh | why | verify | gc | status``.

``edge --help`` is meant to be enough to get on. What a command needs is imported when it runs, so that help is quick. Errors are one
sentence on standard error: exit 2 for what was asked wrongly (usage, settings), 1 for what failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import capture_command

if TYPE_CHECKING:
    from .settings import EdgeSettings, Loaded

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
    parser = _parser()
    asked = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] | None = asked.run
    if run is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        return run(asked)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read our output had enough. Keep Python from complaining once more while it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except BaseExceptionGroup as group:
        if group.split(KeyboardInterrupt)[1] is None:
            return 128 + signal.SIGINT
        return _complain(group)
    except Exception as error:  # noqa: BLE001  # what no sentence is known for is raised again
        return _complain(error)


def _complain(error: BaseException) -> int:
    """Print the sentence for ``error`` and return its exit status; a fault of the program is raised again."""
    told = _sentence(error)
    if told is None:
        raise error
    status, text = told
    print(f"edge: {text}", file=sys.stderr)
    return status


def _sentence(error: BaseException) -> tuple[int, str] | None:
    """Exit status and text for an error a person can act on; None for a fault of the program."""
    from origin.control import CommandFailed, NotRunning, sentence
    from origin.settings import SettingsError

    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        return _sentence(error.exceptions[0])
    if isinstance(error, SettingsError):
        return 2, str(error)
    if isinstance(error, CommandFailed | NotRunning) or type(error).__name__ == "ClientError":
        return 1, str(error)
    told = sentence(error) if isinstance(error, Exception) else None
    return None if told is None else (1, told)


# ---- arguments ------------------------------------------------------------------------------------------------------


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=96)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=_Help, allow_abbrev=False
    )
    parser.add_argument("--version", action=_Version, help="print the version")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    serve = _command(
        commands,
        "serve",
        _serve,
        "run an edge",
        "Run an edge until it is told to stop (Ctrl-C or SIGTERM; running downloads finish first).",
        "edge serve\n  edge serve --listen 0.0.0.0:8080 --data /srv/leeward",
    )
    serve.add_argument("--listen", metavar="HOST:PORT", help="where to listen (default 127.0.0.1:8080)")
    serve.add_argument("--origin", metavar="URL", help="the central origin to ask first (not in this release)")
    serve.add_argument("--log-json", action="store_true", default=None, help="write the log as JSON lines")
    serve.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="how much to log (default info)")

    use = _command(
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

    run = _command(
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

    refresh = _command(
        commands,
        "refresh",
        _refresh,
        "ask upstream now what there is of a project",
        "Have the running edge ask upstream at once for a project's page, however fresh the held one is.",
        "edge refresh pkg:pypi/six",
    )
    why = _command(
        commands,
        "why",
        _why,
        "explain what this edge does with a package",
        "Say whether a package is served, held back or refused, by which rule, and what is held of it.",
        "edge why pkg:pypi/six\n  edge why pkg:npm/@scope/name@1.0.0\n  edge why pkg:maven/org.example/lib@2.0",
    )
    for command in (refresh, why):
        command.add_argument("purl", metavar="PURL", help="a package URL: pkg:pypi/NAME or pkg:pypi/NAME@VERSION")
    verify = _command(
        commands,
        "verify",
        _verify,
        "re-hash everything in the store",
        "Read every stored file again and compare its digest. Exit status 1 if any is bad or missing.",
        "edge verify",
    )
    gc = _command(
        commands,
        "gc",
        _gc,
        "remove what nothing refers to",
        "Remove blobs that no name refers to and temporary files nobody writes any more.",
        "edge gc --dry-run\n  edge gc",
    )
    gc.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    status = _command(
        commands,
        "status",
        _status,
        "say how the running edge is",
        "Print what the running edge says of itself.",
        "edge status\n  edge status --json",
    )
    ca = _command(
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
        _command(
            commands,
            "capture",
            _capture,
            "take the registries' connections of programs that know nothing of it",
            capture_command.DESCRIPTION,
            capture_command.EXAMPLES,
        )
    )
    for command in (refresh, why, verify, gc, status, ca):
        command.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], brief: str, description: str, examples: str
) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(
        name,
        help=brief,
        description=description,
        epilog=f"examples:\n  {examples}",
        formatter_class=_Help,
        allow_abbrev=False,
    )
    made.set_defaults(run=run)
    made.add_argument("--config", metavar="FILE", help=_CONFIG_HELP.get(name, _CONFIG_HELP[""]))
    made.add_argument("--data", metavar="DIR", help=_DATA_HELP)
    return made


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:  # noqa: A002  # argparse's name
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import PackageNotFoundError, version

        try:
            told = version("leeward")
        except PackageNotFoundError:
            told = "(not installed, run from its source)"
        print(f"leeward {told}")
        parser.exit()


def _load(asked: argparse.Namespace, *, rules_too: bool = True) -> Loaded:
    from .settings import load_edge

    options = {
        "config": asked.config,
        "data": asked.data,
        "listen": getattr(asked, "listen", None),
        "origin": getattr(asked, "origin", None),
        "log.json": getattr(asked, "log_json", None),
        "log.level": getattr(asked, "log_level", None),
    }
    return load_edge(options, os.environ, rules_too=rules_too)


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
        _complain(error)
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


def _capture(asked: argparse.Namespace) -> int:
    from .address import as_running

    return capture_command.run(asked, as_running(_load(asked, rules_too=False).settings))


# ---- commands for a node --------------------------------------------------------------------------------------------


def _ask(asked: argparse.Namespace, command: str, arguments: dict[str, object]) -> Any:
    """Have the running node do ``command``, else, where the store alone is enough, do it here."""
    import trio

    # A rule that cannot be read yet must not keep anybody from asking the edge that still goes by the last good ones.
    settings = _load(asked, rules_too=False).settings
    told = _ProgressLine() if sys.stderr.isatty() and not asked.json else None
    try:
        return trio.run(_ask_or_do, settings, lambda: _load(asked).settings, command, arguments, told)
    finally:
        if told is not None:
            told.clear()


async def _ask_or_do(
    settings: EdgeSettings,
    with_rules: Callable[[], EdgeSettings],
    command: str,
    arguments: dict[str, object],
    told: Callable[[dict[str, object]], None] | None,
) -> object:
    from origin import control

    try:
        return await control.call(settings.data / "edge.sock", command, arguments, told)
    except control.NotRunning:
        if command in {"refresh", "status"}:
            raise
        if not settings.data.is_dir():
            raise control.NotRunning(f"no edge is running on {settings.data}, and there is no store there") from None
    from . import app

    async def progress(far: dict[str, object]) -> None:
        if told is not None:
            told(far)

    async with app.offline(with_rules()) as commands:
        return await commands[command](arguments, progress)


class _ProgressLine:
    """How far a command is, on one line of the terminal that is written over."""

    def __call__(self, far: dict[str, object]) -> None:
        done, total = far.get("done"), far.get("total")
        if not isinstance(done, int) or not isinstance(total, int):
            return
        size = far.get("bytes")
        read = f", {size_text(size)}" if isinstance(size, int) else ""
        filled = 30 * done // total if total else 30
        sys.stderr.write(f"\r\x1b[K[{'#' * filled}{'.' * (30 - filled)}] {done} of {total}{read}")
        sys.stderr.flush()

    @staticmethod
    def clear() -> None:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def _refresh(asked: argparse.Namespace) -> int:
    result = _ask(asked, "refresh", {"purl": asked.purl})
    failed = any(str(page["outcome"]).startswith("failed") for page in result["pages"])
    return _tell(asked, result, lambda: refresh_lines(result)) or int(failed)


def _why(asked: argparse.Namespace) -> int:
    result = _ask(asked, "why", {"purl": asked.purl})
    return _tell(asked, result, lambda: why_lines(result))


def _verify(asked: argparse.Namespace) -> int:
    result = _ask(asked, "verify", {})
    failed = any(result.get(found) for found in ("bad", "missing", "unreadable"))
    return _tell(asked, result, lambda: verify_lines(result)) or int(failed)


def _gc(asked: argparse.Namespace) -> int:
    result = _ask(asked, "gc", {"dry_run": asked.dry_run})
    return _tell(asked, result, lambda: gc_lines(result))


def _status(asked: argparse.Namespace) -> int:
    result = _ask(asked, "status", {})
    return _tell(asked, result, lambda: status_lines(result))


def _ca(asked: argparse.Namespace) -> int:
    import time

    from . import ca, signer, trust

    settings = _load(asked, rules_too=False).settings
    data = settings.data
    if not settings.proxy.enabled and not signer.Files(data).root.exists():
        from origin.errors import Unusable

        raise Unusable("This edge has no authority: its proxy face is off ([proxy] enabled is false).")
    root = signer.root_of(data)
    written: dict[str, object] = {}
    if asked.bundle is not None:
        written[str(asked.bundle)] = trust.write_bundle(asked.bundle, root)
    if asked.truststore is not None:
        written[str(asked.truststore)] = trust.write_truststore(asked.truststore, root, asked.password)
    if asked.pem:
        sys.stdout.write(root.decode())
        return 0
    if written:
        return _tell(
            asked, written, lambda: [f"{path} holds {count} certificates, ours among them" for path, count in written.items()]
        )
    result = ca.describe(data, time.time())
    return _tell(asked, result, lambda: ca.lines(result, time_text))


def _tell(asked: argparse.Namespace, result: object, lines: Callable[[], list[str]]) -> int:
    if asked.json:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode(result)).decode())
    else:
        print("\n".join(lines()))
    return 0


# ---- results, for people --------------------------------------------------------------------------------------------

_VERDICTS = {"allow": "allowed", "refuse": "refused", "hold": "held back"}


def why_lines(result: Mapping[str, Any]) -> list[str]:
    """What ``why`` found, one fact a line."""
    verdict = _VERDICTS.get(str(result["verdict"]), str(result["verdict"]))
    by_rule = f" by rule {result['rule']}" if result.get("rule") else ""
    reason = f": {result['reason']}" if result.get("reason") else ""
    lines = [f"{result['purl']} is {verdict}{by_rule}{reason}"]
    if result.get("version") is None and (refused := result.get("refused_versions")):
        shown = ", ".join(refused[:10]) + (f" and {len(refused) - 10} more" if len(refused) > 10 else "")
        lines[0] = f"{result['purl']} is allowed but for {shown}"
    if len(result.get("instances") or ()) > 1:
        lines.append(f"  from     {result['instance']}")
    if result.get("held"):
        size = result.get("size")
        lines.append("  held     yes" + (f", {size_text(size)}" if isinstance(size, int) else ""))
    else:
        lines.append("  held     no")
    if result.get("digest") and result.get("version") is not None:
        lines.append(f"  digest   {result['digest']}")
    if result.get("bound_at") is not None:
        lines.append(f"  bound    {time_text(result['bound_at'])}")
    if page := result.get("page"):
        lines.append(f"  page     {page.get('state')}")
        lines.extend(
            f"  {name:<8} {time_text(page[key])}"
            for name, key in (("received", "received_at"), ("fresh to", "fresh_until"))
            if page.get(key) is not None
        )
    lines.extend(f"  event    {_event_text(event)}" for event in result.get("events") or ())
    return lines


OUTCOMES = {"200": "a new page", "304": "unchanged", "404": "no such project upstream"}
"""How upstream's answer to a refresh is told to people."""


def refresh_lines(result: Mapping[str, Any]) -> list[str]:
    """What became of each page that was asked for again."""
    lines = []
    for page in result["pages"]:
        registry, project, view = str(page["page"]).split(":", 2)
        outcome = str(page["outcome"])
        lines.append(f"{registry}: {project}{f' ({view})' if view else ''}: {OUTCOMES.get(outcome, outcome)}")
    return lines


def verify_lines(result: Mapping[str, Any]) -> list[str]:
    """What ``verify`` found: the bad first, then the count."""
    lines = [f"bad      {_item_text(item)}" for item in result["bad"]]
    lines += [f"missing  {_item_text(item)}" for item in result["missing"]]
    unread = result.get("unreadable") or []
    lines += [f"unread   {_item_text(item)}" for item in unread]
    found = (
        f"{len(result['bad'])} bad, {len(result['missing'])} missing, {len(unread)} could not be read" if lines else "all good"
    )
    return [*lines, f"{result['checked']} files, {size_text(result['bytes'])} checked: {found}"]


def gc_lines(result: Mapping[str, Any]) -> list[str]:
    """What ``gc`` removed, or would."""
    verb = "would be removed" if result.get("dry_run") else "removed"
    return [f"{result['blobs']} blobs ({size_text(result['bytes'])}) and {result['temporaries']} temporary files {verb}"]


def status_lines(result: Any, indent: str = "") -> list[str]:
    """Whatever the node says of itself: names and values, tables indented."""
    if not isinstance(result, Mapping):
        return [f"{indent}{result}"]
    lines = []
    for name, value in result.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{name}:", *status_lines(value, indent + "  ")]
        elif isinstance(value, list | tuple):
            lines.append(f"{indent}{name}: {', '.join(_item_text(item) for item in value) or 'none'}")
        else:
            lines.append(f"{indent}{name}: {'none' if value is None else value}")
    return lines


def size_text(size: int) -> str:
    """Bytes for people, in powers of 1000: ``11.1 kB``."""
    if size < 1000:
        return f"{size} B"
    value, units = size / 1000, ["kB", "MB", "GB", "TB"]
    while value >= 999.95 and len(units) > 1:
        value /= 1000
        del units[0]
    return f"{value:.1f} {units[0]}"


def time_text(seconds: object) -> str:
    """UTC seconds as a date and time; anything else as it is."""
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        return str(seconds)
    from datetime import UTC, datetime

    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def _event_text(event: object) -> str:
    if not isinstance(event, Mapping):
        return str(event)
    at = event.get("at", event.get("time"))
    rest = " ".join(f"{key}={value}" for key, value in event.items() if key not in {"at", "time"} and value is not None)
    return rest if at is None else f"{time_text(at)} {rest}"


def _item_text(item: object) -> str:
    if isinstance(item, Mapping):
        return " ".join(f"{key}={value}" for key, value in item.items() if value is not None)
    return str(item)


if __name__ == "__main__":
    sys.exit(main())
