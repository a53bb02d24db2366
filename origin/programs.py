"""What the command lines of both programs have alike: how a command is added and asked, and the commands that any node obeys.

``terminal.py`` has what is told. What takes long to import is imported where it is needed, so that help is quick.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import terminal

if TYPE_CHECKING:
    from .control import Command

type Run = Callable[[argparse.Namespace], int]

type Ask = Callable[[argparse.Namespace, str, dict[str, object]], Any]
"""Has the node that is meant do a command."""


@dataclass(frozen=True, slots=True)
class Program:
    """One program's commands. Its helps for ``--config`` and ``--data`` are by command, and for all others under ``""``."""

    name: str
    config_help: Mapping[str, str]
    data_help: Mapping[str, str]
    ask: Ask

    def parser(self, description: str, epilog: str) -> tuple[argparse.ArgumentParser, Any]:
        """The parser, and that to which commands are added."""
        parser = argparse.ArgumentParser(
            prog=self.name, description=description, epilog=epilog, formatter_class=terminal.Help, allow_abbrev=False
        )
        parser.add_argument("--version", action=terminal.Version, help="print the version")
        parser.set_defaults(run=None)
        return parser, parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(self, commands: Any, name: str, run: Run, brief: str, description: str, examples: str) -> argparse.ArgumentParser:
        """Add a command that ``run`` does."""
        made: argparse.ArgumentParser = commands.add_parser(
            name,
            help=brief,
            description=description,
            epilog=f"examples:\n  {examples}",
            formatter_class=terminal.Help,
            allow_abbrev=False,
        )
        made.set_defaults(run=run)
        made.add_argument("--config", metavar="FILE", help=self.config_help.get(name, self.config_help[""]))
        made.add_argument("--data", metavar="DIR", help=self.data_help.get(name, self.data_help[""]))
        return made

    # ---- what any node obeys

    def add_refresh(self, commands: Any) -> None:
        def refresh(asked: argparse.Namespace) -> int:
            result = self.ask(asked, "refresh", {"purl": asked.purl})
            failed = any(str(page["outcome"]).startswith("failed") for page in result["pages"])
            return terminal.tell(asked, result, lambda: terminal.refresh_lines(result)) or int(failed)

        made = self.add(
            commands,
            "refresh",
            refresh,
            "ask upstream now what there is of a project",
            f"Have the running {self.name} ask upstream at once for a project's page, however fresh the held one is.",
            f"{self.name} refresh pkg:pypi/six",
        )
        _add_purl(made)
        add_json(made)

    def add_why(self, commands: Any, *examples: str) -> None:
        def why(asked: argparse.Namespace) -> int:
            result = self.ask(asked, "why", {"purl": asked.purl})
            return terminal.tell(asked, result, lambda: terminal.why_lines(result))

        made = self.add(
            commands,
            "why",
            why,
            f"explain what this {self.name} does with a package",
            "Say whether a package is served, held back or refused, by which rule, and what is held of it.",
            "\n  ".join(f"{self.name} why {purl}" for purl in examples),
        )
        _add_purl(made)
        add_json(made)

    def add_gc(self, commands: Any) -> None:
        def gc(asked: argparse.Namespace) -> int:
            result = self.ask(asked, "gc", {"dry_run": asked.dry_run})
            return terminal.tell(asked, result, lambda: terminal.gc_lines(result))

        made = self.add(
            commands,
            "gc",
            gc,
            "remove what nothing refers to",
            "Remove blobs that no name refers to and temporary files nobody writes any more.",
            f"{self.name} gc --dry-run\n  {self.name} gc",
        )
        made.add_argument("--dry-run", action="store_true", help="only say what would be removed")
        add_json(made)

    def add_status(self, commands: Any) -> None:
        def status(asked: argparse.Namespace) -> int:
            result = self.ask(asked, "status", {})
            return terminal.tell(asked, result, lambda: terminal.status_lines(result))

        made = self.add(
            commands,
            "status",
            status,
            f"say how the running {self.name} is",
            f"Print what the running {self.name} says of itself.",
            f"{self.name} status\n  {self.name} status --json",
        )
        add_json(made)


def _add_purl(command: argparse.ArgumentParser) -> None:
    command.add_argument("purl", metavar="PURL", help="a package URL: pkg:pypi/NAME or pkg:pypi/NAME@VERSION")


def add_json(*commands: argparse.ArgumentParser) -> None:
    """``--json``, for what ``terminal.tell`` tells."""
    for command in commands:
        command.add_argument("--json", action="store_true", help="print the result as JSON")


def add_logging(serve: argparse.ArgumentParser) -> None:
    """How a node logs."""
    serve.add_argument("--log-json", action="store_true", default=None, help="write the log as JSON lines")
    serve.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="how much to log (default info)")


def options_of(asked: argparse.Namespace) -> dict[str, object]:
    """What was said on the command line about settings, as ``loading.load`` takes it."""
    return {
        "config": asked.config,
        "data": asked.data,
        "listen": getattr(asked, "listen", None),
        "origin": getattr(asked, "origin", None),
        "log.json": getattr(asked, "log_json", None),
        "log.level": getattr(asked, "log_level", None),
    }


def ask(
    asked: argparse.Namespace,
    socket: Path,
    command: str,
    arguments: dict[str, object],
    alone: Callable[[], AbstractAsyncContextManager[Mapping[str, Command]]] | None,
) -> Any:
    """Have the node that listens on ``socket`` do ``command``; if none does, the store ``alone``, where that is enough.

    Raises as ``control.call`` and the command do.
    """
    import trio

    from . import control

    async def ask_or_do() -> object:
        try:
            return await control.call(socket, command, arguments, told)
        except control.NotRunning:
            if alone is None:
                raise
        async with alone() as commands:
            return await commands[command](arguments, terminal.progress_on(told))

    with terminal.progress_line(asked) as told:
        return trio.run(ask_or_do)
