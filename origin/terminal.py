"""How the commands of both programs talk to people: help, errors in a sentence, progress, results as lines or as JSON.

What takes long to import is imported where it is needed, so that help is quick.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from .control import Progress


def run(program: str, parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    """Run one command, which ``parser`` has set as ``run``, and return its exit status: 2 for what was asked wrongly, 1 for what failed."""
    asked = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], int] | None = asked.run
    if command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        return command(asked)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read our output had enough. Keep Python from complaining once more while it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except BaseExceptionGroup as group:
        if group.split(KeyboardInterrupt)[1] is None:
            return 128 + signal.SIGINT
        return complain(program, group)
    except Exception as error:  # noqa: BLE001  # what no sentence is known for is raised again
        return complain(program, error)


def complain(program: str, error: BaseException) -> int:
    """Print the sentence for ``error`` and return its exit status; a fault of the program is raised again."""
    told = sentence(error)
    if told is None:
        raise error
    status, text = told
    print(f"{program}: {text}", file=sys.stderr)
    return status


def sentence(error: BaseException) -> tuple[int, str] | None:
    """Exit status and text for an error a person can act on; None for a fault of the program."""
    from .control import CommandFailed, NotRunning
    from .control import sentence as told_by
    from .settings import SettingsError

    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        return sentence(error.exceptions[0])
    if isinstance(error, SettingsError):
        return 2, str(error)
    if isinstance(error, CommandFailed | NotRunning) or type(error).__name__ == "ClientError":
        return 1, str(error)
    told = told_by(error) if isinstance(error, Exception) else None
    return None if told is None else (1, told)


# ---- arguments ------------------------------------------------------------------------------------------------------


class Help(argparse.RawDescriptionHelpFormatter):
    """Help as it was written, in lines that fit."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=96)


class Version(argparse.Action):
    """``--version``."""

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


# ---- results --------------------------------------------------------------------------------------------------------


class ProgressLine:
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


@contextlib.contextmanager
def progress_line(asked: argparse.Namespace) -> Iterator[ProgressLine | None]:
    """A line for the command's progress, cleared at the end of the block; None where nobody would look at it."""
    told = ProgressLine() if sys.stderr.isatty() and not asked.json else None
    try:
        yield told
    finally:
        if told is not None:
            told.clear()


def progress_on(told: ProgressLine | None) -> Progress:
    """Has a command that is done here tell how far it is as one does that a node does."""

    async def progress(far: dict[str, object]) -> None:
        if told is not None:
            told(far)

    return progress


def _harmless(line: str) -> str:
    """A line without what a terminal would obey: names of files and clients are anybody's words."""
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode("ascii") for each in line
    )


def tell(asked: argparse.Namespace, result: object, lines: Callable[[], list[str]]) -> int:
    """Print a result, as JSON if that was asked for; the exit status is 0."""
    if asked.json:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode(result)).decode())
    else:
        print("\n".join(map(_harmless, lines())))
    return 0


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
    lines.extend(f"  event    {event_text(event)}" for event in result.get("events") or ())
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
    lines = [f"bad      {item_text(item)}" for item in result["bad"]]
    lines += [f"missing  {item_text(item)}" for item in result["missing"]]
    unread = result.get("unreadable") or []
    lines += [f"unread   {item_text(item)}" for item in unread]
    found = (
        f"{len(result['bad'])} bad, {len(result['missing'])} missing, {len(unread)} could not be read" if lines else "all good"
    )
    return [*lines, f"{count_text(result['checked'], 'file')}, {size_text(result['bytes'])} checked: {found}"]


def gc_lines(result: Mapping[str, Any]) -> list[str]:
    """What ``gc`` removed, or would."""
    verb = "would be removed" if result.get("dry_run") else "removed"
    blobs, temporaries = count_text(result["blobs"], "blob"), count_text(result["temporaries"], "temporary file")
    return [f"{blobs} ({size_text(result['bytes'])}) and {temporaries} {verb}"]


def status_lines(result: Any, indent: str = "") -> list[str]:
    """Whatever the node says of itself: names and values, tables indented."""
    if not isinstance(result, Mapping):
        return [f"{indent}{result}"]
    lines = []
    for name, value in result.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{name}:", *status_lines(value, indent + "  ")]
        elif isinstance(value, list | tuple):
            lines.append(f"{indent}{name}: {', '.join(item_text(item) for item in value) or 'none'}")
        else:
            lines.append(f"{indent}{name}: {value_text(value)}")
    return lines


def count_text(number: int, one: str, many: str = "") -> str:
    """A number of things: ``1 file``, ``2 files``. ``many`` is for what no ``s`` makes of ``one``."""
    return f"{number} {one}" if number == 1 else f"{number} {many or f'{one}s'}"


def value_text(value: object) -> str:
    """A value of JSON for people."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


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


def event_text(event: object) -> str:
    if not isinstance(event, Mapping):
        return str(event)
    at = event.get("at", event.get("time"))
    rest = " ".join(
        f"{key}={value_text(value)}" for key, value in event.items() if key not in {"at", "time"} and value is not None
    )
    return rest if at is None else f"{time_text(at)} {rest}"


def item_text(item: object) -> str:
    if isinstance(item, Mapping):
        return " ".join(f"{key}={value_text(value)}" for key, value in item.items() if value is not None)
    return value_text(item)
