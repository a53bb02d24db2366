"""The command line: ``origin serve | invite | edges | dismiss | recall | who | backup | restore | status | why | refresh | verify | gc``.

``origin --help`` is meant to be enough to get on. What a command needs is imported when it runs, so that help is quick. Errors are one
sentence on standard error: exit 2 for what was asked wrongly (usage, settings), 1 for what failed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import programs, terminal
from .terminal import count_text, size_text, time_text

if TYPE_CHECKING:
    from .control import Command
    from .node_settings import Loaded

_DESCRIPTION = """\
Leeward's central origin: it asks the registries for all edges that follow it, keeps the
ledger of what it found, and takes back from all of them what turns out to be bad.

Start one, and let an edge in:

  origin serve --listen 0.0.0.0:9090
  origin invite berlin                              prints a token, good once
  edge enrol https://ORIGIN:9090 TOKEN              at the edge
  edge serve --origin https://ORIGIN:9090

Something bad got through:

  origin recall pkg:npm/evil@1.0.0 --reason "steals credentials"
  origin who pkg:npm/evil@1.0.0
"""

_EPILOG = """\
Every command says more with --help: origin recall --help.

Settings come from origin.toml (see --config), then variables (ORIGIN_LISTEN,
ORIGIN_REGISTRIES__PYPI__UPSTREAM), then options. None are needed to begin.
"""

_DATA_HELP = {
    "": "the data directory (default: $ORIGIN_DATA, else what the settings say, else\n"
    "~/.local/state/leeward/origin, for root /var/lib/leeward/origin)",
    "restore": "the empty directory to restore into; it must be named",
}

_CONFIG_HELP = {"": "the settings (default: $ORIGIN_CONFIG, else the first origin.toml found: here, of the user, of the system)"}

_TARGET_HELP = "a release, as in pkg:npm/evil@1.0.0 or pkg:pypi/evil@>=1,<2, or bytes, as in sha256:<hex>"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    return terminal.run("origin", _parser(), arguments)


# ---- arguments ------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    program = programs.Program("origin", _CONFIG_HELP, _DATA_HELP, _ask)
    parser, commands = program.parser(_DESCRIPTION, _EPILOG)
    serve = program.add(
        commands,
        "serve",
        _serve,
        "run an origin",
        "Run an origin until it is told to stop (Ctrl-C or SIGTERM; running transfers finish first).\n"
        "It speaks TLS only, with a certificate of its own making unless the settings name another.",
        "origin serve\n  origin serve --listen 0.0.0.0:9090 --data /srv/leeward",
    )
    serve.add_argument("--listen", metavar="HOST:PORT", help="where to listen (default 127.0.0.1:9090)")
    programs.add_logging(serve)
    invite = program.add(
        commands,
        "invite",
        _invite,
        "let an edge in",
        "Print a token with which one edge enrols, once. It holds the pin of this origin's certificate,\n"
        "so the edge knows whom it speaks to. An earlier token for the same name is void. When it is used,\n"
        "who had that name until then is dismissed.",
        "origin invite berlin\n  origin invite berlin --valid 1h",
    )
    invite.add_argument("name", metavar="NAME", help="what the edge is called from now on: lower-case letters, digits, - _ .")
    invite.add_argument("--valid", metavar="TIME", default="24h", help="how long it can be used (default 24h)")
    edges = program.add(
        commands,
        "edges",
        _edges,
        "say how the edges stand",
        "List the edges: when each was heard of, how far it has followed, which policy it has in force.",
        "origin edges\n  origin edges --json",
    )
    dismiss = program.add(
        commands,
        "dismiss",
        _dismiss,
        "let an edge in no more",
        "Forget an edge, or an invitation that was not used. It gets nothing from here any more, and some minutes later nothing\n"
        "from its siblings either, who are told another key: those in contact within half a minute.\n"
        "What it holds it goes on serving until its lease ends, if its settings say so.",
        "origin dismiss berlin",
    )
    dismiss.add_argument("name", metavar="NAME", help="the edge")
    _add_recall(program, commands)
    who = program.add(
        commands,
        "who",
        _who,
        "say who got something",
        "List who fetched a release, or bytes: which client, through which edge, when. From the edges'\n"
        "access ledgers, as far as they have sent them.",
        "origin who pkg:npm/evil@1.0.0\n  origin who sha256:3f0c…",
    )
    who.add_argument("target", metavar="TARGET", help=_TARGET_HELP)
    _add_backups(program, commands)
    program.add_status(commands)
    program.add_why(commands, "pkg:pypi/six", "pkg:npm/@scope/name@1.0.0")
    program.add_refresh(commands)
    verify = program.add(
        commands,
        "verify",
        _verify,
        "re-hash everything in the store, and the ledger",
        "Read every stored file again and compare its digest, and walk the ledger's chain from its first\n"
        "line. Exit status 1 if anything is bad or missing.",
        "origin verify",
    )
    program.add_gc(commands)
    programs.add_json(invite, edges, dismiss, who, verify)
    return parser


def _add_recall(program: programs.Program, commands: Any) -> None:
    recall = program.add(
        commands,
        "recall",
        _recall,
        "take a release back from all edges",
        "Refuse a release, or bytes under any name, here and at every edge, whatever holds it. Returns\n"
        "when every edge that is alive has said that it serves it no more, and names those that have not:\n"
        "then the exit status is 1. Edges that come back later obey before they serve anything.",
        'origin recall pkg:npm/evil@1.0.0 --reason "steals credentials"\n'
        '  origin recall "pkg:pypi/evil@>=1,<2" --reason "CVE-2026-1" --wait 60s\n'
        '  origin recall sha256:3f0c… --reason "malware"\n  origin recall pkg:npm/evil@1.0.0 --undo',
    )
    recall.add_argument("target", metavar="TARGET", help=_TARGET_HELP)
    recall.add_argument("--reason", metavar="TEXT", help="what people are told who ask for it")
    recall.add_argument("--wait", metavar="TIME", default="30s", help="how long edges are waited for (default 30s)")
    recall.add_argument("--undo", action="store_true", help="take the recall back (by its target or its id)")
    programs.add_json(recall)


def _add_backups(program: programs.Program, commands: Any) -> None:
    backup = program.add(
        commands,
        "backup",
        _backup,
        "copy everything to another directory",
        "Back up the catalogue, the keys and the files, whether the origin runs or not. Into the same\n"
        "directory again, only what is new is copied; the backup before stays good until the new one is\n"
        "complete. On one file system files are linked and take no room: for another disk, name one.\n"
        "The running origin writes it, as the user that it runs as.",
        "origin backup /backup/leeward",
    )
    backup.add_argument("directory", metavar="DIR", help="where to; a directory for backups of this origin alone")
    restore = program.add(
        commands,
        "restore",
        _restore,
        "make a data directory of a backup",
        "Check a backup whole, and put it into an empty data directory. The ledger goes on in a new epoch:\n"
        "edges notice, begin anew with a snapshot, and offer what they have that was lost.",
        "origin restore /backup/leeward --data /srv/leeward",
    )
    # That --data is missing is said in a sentence, so it is not argparse's to require.
    restore.usage = "origin restore [-h] [--config FILE] [--json] --data DIR DIR"
    restore.add_argument("directory", metavar="DIR", help="the backup")
    programs.add_json(backup, restore)


def _load(asked: argparse.Namespace, *, rules_too: bool = True) -> Loaded:
    from .node_settings import load_origin

    return load_origin(programs.options_of(asked), os.environ, rules_too=rules_too)


def _time(asked: argparse.Namespace, option: str) -> float:
    """An option that is a time, in seconds. Raises ``SettingsError``."""
    from .settings import SettingsError
    from .words import duration_s

    try:
        return duration_s(getattr(asked, option))
    except ValueError as error:
        raise SettingsError(f"--{option}: {error}") from None


# ---- commands -------------------------------------------------------------------------------------------------------


def _serve(asked: argparse.Namespace) -> int:
    loaded = _load(asked)
    from . import logs, serve

    logs.configure(loaded.settings.log.level, loaded.settings.log.json)
    return serve.main(loaded)


def _ask(asked: argparse.Namespace, command: str, arguments: dict[str, object]) -> Any:
    """Have the running origin do ``command``, else, where the store alone is enough, do it here."""
    # A rule that cannot be read yet must not keep anybody from asking the origin that still goes by the last good ones.
    settings = _load(asked, rules_too=False).settings

    def alone() -> AbstractAsyncContextManager[Mapping[str, Command]]:
        from . import control, serve

        # An invitation may come before the first start; to look for anything else where nothing is would only make an empty store.
        if command != "invite" and not (settings.data / "catalog.sqlite").exists():
            raise control.NotRunning(f"no origin is running on {settings.data}, and there is no store there")
        return serve.offline(settings)

    running_only = command in {"refresh", "status"}
    return programs.ask(asked, settings.data / "origin.sock", command, arguments, None if running_only else alone)


def _invite(asked: argparse.Namespace) -> int:
    result = _ask(asked, "invite", {"name": asked.name, "valid_s": _time(asked, "valid")})
    return terminal.tell(asked, result, lambda: invite_lines(result))


def _edges(asked: argparse.Namespace) -> int:
    result = _ask(asked, "edges", {})
    return terminal.tell(asked, result, lambda: edges_lines(result))


def _dismiss(asked: argparse.Namespace) -> int:
    result = _ask(asked, "dismiss", {"name": asked.name})
    return terminal.tell(asked, result, lambda: [f"{result['dismissed']} is no edge of this origin any more"])


def _recall(asked: argparse.Namespace) -> int:
    if not asked.undo and not (asked.reason or "").strip():
        print('origin: recall needs a reason, which people are told: --reason "steals credentials"', file=sys.stderr)
        return 2
    arguments = {"target": asked.target, "reason": asked.reason or "", "undo": asked.undo, "wait_s": _time(asked, "wait")}
    result = _ask(asked, "recall", arguments)
    return terminal.tell(asked, result, lambda: recall_lines(result)) or int(bool(result["missing"]))


def _who(asked: argparse.Namespace) -> int:
    result = _ask(asked, "who", {"target": asked.target})
    return terminal.tell(asked, result, lambda: who_lines(result))


def _backup(asked: argparse.Namespace) -> int:
    result = _ask(asked, "backup", {"directory": str(Path(asked.directory).expanduser().absolute())})
    return terminal.tell(asked, result, lambda: backup_lines(result)) or int(bool(result["bad"]))


def _restore(asked: argparse.Namespace) -> int:
    if asked.data is None:
        print("origin: restore needs --data, the empty directory to restore into", file=sys.stderr)
        return 2
    import time

    import trio

    from . import backup

    with terminal.progress_line(asked) as told:
        progress = terminal.progress_on(told)
        result = trio.run(backup.restore, Path(asked.directory), Path(asked.data).absolute(), time.time(), progress)
    return terminal.tell(asked, result, lambda: restore_lines(result)) or int(bool(result["left_out"]))


def _verify(asked: argparse.Namespace) -> int:
    result = _ask(asked, "verify", {})
    failed = any(result.get(found) for found in ("bad", "missing", "unreadable")) or result["ledger"]["problems"]
    return terminal.tell(asked, result, lambda: verify_lines(result)) or int(bool(failed))


# ---- results, for people --------------------------------------------------------------------------------------------


def invite_lines(result: Mapping[str, Any]) -> list[str]:
    """The token, alone on its line, and what to do with it."""
    return [
        str(result["token"]),
        "",
        f"It makes one edge {result['name']}, once, until {time_text(result['until'])}. At the edge:",
        f"  edge enrol {result['url']} TOKEN",
    ]


def edges_lines(result: Mapping[str, Any]) -> list[str]:
    """A line for each edge."""
    edges = result["edges"]
    if not edges:
        return ["no edges: origin invite NAME lets one in"]
    rows = [("edge", "heard of", "behind", "policy", "to fetch", "holds", "release", "address")]
    for edge in edges:
        policy = "in force" if edge["verdicts"] >= result["verdicts"] else f"{edge['verdicts']} of {result['verdicts']}"
        if not edge["seen_at"]:
            policy = "-"
        rows.append(
            (
                edge["name"],
                (ago_text(result["now"] - edge["seen_at"]) + ("" if edge["live"] else ", gone")) if edge["seen_at"] else "never",
                count_text(edge["behind"], "line"),
                policy,
                str(edge["unresolved"]),
                size_text(edge["held_bytes"]),
                edge["release"] or "-",
                edge["address"] or "-",
            )
        )
    return table_lines(rows)


def recall_lines(result: Mapping[str, Any]) -> list[str]:
    """What was recalled, and who serves it no more."""
    if "undone" in result:
        lines = [f"{result['undone']} is no longer recalled (it was: {result['reason']})"]
    else:
        files = result["files"]
        refused = count_text(len(files), "file held here is refused", "files held here are refused")
        lines = [f"{result['recalled']} is recalled (recall-{result['id']}): {refused}"]
        lines += [f"  {each['file']}  {each['digest']}" for each in files[:20]]
        lines += [f"  and {len(files) - 20} more"] if len(files) > 20 else []
        lines += [f"  the same bytes, refused too: {name}" for name in result["also"][:20]]
    if not result["running"]:
        return [*lines, "no origin is running: edges hear of it when it does"]
    have, missing, gone = result["acknowledged"], result["missing"], result["gone"]
    lines.append(
        f"in force at {count_text(len(have), 'edge')}"
        + (f": {', '.join(have[:10])}" if have else "")
        + ("…" if len(have) > 10 else "")
    )
    lines += [f"NOT acknowledged by {', '.join(missing)}"] if missing else []
    lines += [f"not heard of for longer than the lease: {', '.join(gone)}"] if gone else []
    return lines


def who_lines(result: Mapping[str, Any]) -> list[str]:
    """Who got it."""
    deliveries, brought = result["deliveries"], result["brought"]
    lines = [f"{result['target']}: {count_text(len(result['files']), 'file is', 'files are')} known here"]
    if not deliveries and not brought:
        return [*lines, "nobody got any of it, as far as edges have said"]
    if deliveries:
        rows = [("edge", "client", "file", "first", "last", "times")]
        rows += [
            (
                each["edge"],
                each["client"] + (f" ({each['token']})" if each["token"] else ""),
                each["file"],
                time_text(each["first"]),
                time_text(each["last"]),
                str(each["times"]) + ("" if each["whole"] else ", never whole"),
            )
            for each in deliveries
        ]
        lines += table_lines(rows)
    lines += [f"brought to {each['edge'] or 'an edge'}: {each['file']}, {time_text(each['last'])}" for each in brought]
    return lines


def backup_lines(result: Mapping[str, Any]) -> list[str]:
    """What was backed up."""
    new = result["linked"] + result["copied"]
    told = f"{count_text(result['blobs'], 'file')} ({size_text(result['bytes'])}), {new} of them new"
    lines = [f"{result['directory']}: {told}, the ledger up to line {result['serial']}, and the keys"]
    if result["linked"]:
        linked = count_text(
            result["linked"], "is linked: it takes no room here, and shares", "are linked: they take no room here, and share"
        )
        lines.append(f"{linked} the fate of this disk")
    lines += [f"bad, left out: {digest}" for digest in result["bad"]]
    if not result["certificate"]:
        lines.append("the certificate and its key are the operator's own ([tls]) and are not in it")
    return lines


def restore_lines(result: Mapping[str, Any]) -> list[str]:
    """What was restored, and what is to be done now."""
    made, files = time_text(result["made_at"]), count_text(result["blobs"], "file")
    lines = [f"{result['data']}: {files} ({size_text(result['bytes'])}), as of {made}, in the new epoch {result['epoch']}"]
    lines += [f"damaged, left out: {digest}" for digest in result["left_out"]]
    if result["left_out"]:
        lines.append("what was left out is fetched again when it is asked for")
    lines.append(f"what was recalled, or dismissed, after {made} is not in it: do that again")
    return [*lines, f"start it: origin serve --data {result['data']}"]


def verify_lines(result: Mapping[str, Any]) -> list[str]:
    """What ``verify`` found in the store, and in the ledger."""
    ledger = result["ledger"]
    problems = [f"ledger   {problem}" for problem in ledger["problems"]]
    found = count_text(len(problems), "problem") if problems else "the chain holds"
    return [*terminal.verify_lines(result), *problems, f"{count_text(ledger['lines'], 'line')} of the ledger checked: {found}"]


def table_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns, the first of which is the heading."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def ago_text(seconds: float) -> str:
    """A time ago, in its largest unit: ``3 m ago``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


if __name__ == "__main__":
    sys.exit(main())
