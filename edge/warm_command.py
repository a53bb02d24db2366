"""``edge warm`` and ``edge ready`` as the command line knows them: their words, what they ask of the node, and what they tell.

Lock files are read here, by whoever they belong to; the node is sent what they need. For a ``pom.xml`` Maven is run, at a place of the
edge where what it asks for is written down.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from origin import terminal
from origin.terminal import count_text

if TYPE_CHECKING:
    from .locks import Elsewhere, Lock
    from .readiness import Asked, Build
    from .settings import EdgeSettings

FORMATS = """\
requirements.txt with hashes, uv.lock, poetry.lock, pdm.lock, pylock.toml,
package-lock.json, pnpm-lock.yaml, yarn.lock, bun.lock, gradle.lockfile, pom.xml"""

WARM = f"""\
Fetch everything that lock files need, before it is needed: pages, files and what stands beside them,
pinned so that nothing else takes their place. For every platform and Python that a lock is for,
unless some are named. Exit status 1 if something could not be had.

Lock files: {FORMATS}
(mvn is run once, on a shadow of the project: what a pom.xml needs only Maven knows)."""

WARM_EXAMPLES = """\
edge warm uv.lock
  edge warm --platform linux_x86_64 --python 3.13 requirements.txt
  edge warm package-lock.json gradle.lockfile pom.xml"""

READY = f"""\
Say whether lock files would install from what this edge holds if everything upstream were gone: on
which platforms, and what is missing or refused by a rule. Asks no upstream. Exit status 0 if all
are ready, else 1.

Lock files: {FORMATS}."""

READY_EXAMPLES = """\
edge ready uv.lock package-lock.json
  edge ready --platform linux_x86_64 --python 3.13 --json requirements.txt"""

SHOWN = 40
"""How many missing things are told one by one."""

type Ask = Callable[[str, dict[str, object]], Any]
"""Has the node do a command."""


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """What ``edge warm`` and ``edge ready`` take."""
    parser.add_argument("locks", nargs="+", type=Path, metavar="LOCKFILE", help="a lock file, or a pom.xml")
    parser.add_argument(
        "--platform",
        action="append",
        default=[],
        metavar="NAME",
        help="linux_x86_64, macosx_arm64, win_amd64, musllinux_x86_64, manylinux_2_28_aarch64 …; may be repeated (default: the "
        "common ones that the lock is for)",
    )
    parser.add_argument("--python", action="append", default=[], metavar="3.N", help="which Python; may be repeated")
    if command == "warm":
        parser.add_argument("--all", action="store_true", help="every file that a lock names, whatever it is for")
        parser.add_argument("--jobs", type=int, default=8, metavar="N", help="how many files at a time (default 8)")
        parser.add_argument("--no-pin", action="store_true", help="let it be evicted like anything else")
        parser.add_argument("--unpin", action="store_true", help="fetch nothing, and let what was pinned be evicted again")
    parser.add_argument(
        "--covered",
        action="store_true",
        help="do not mind what a lock has from elsewhere: repositories of code, other registries",
    )
    parser.add_argument(
        "--url",
        action="append",
        default=[],
        metavar="URL",
        help="a further address of this edge, as a lock made with it names it",
    )
    parser.add_argument("--goals", default="verify", metavar="WORDS", help="pom.xml: what mvn is to do (default: verify)")
    parser.add_argument("--mvn", metavar="PATH", help="pom.xml: which mvn (default: the one on the PATH)")


def run(asked: argparse.Namespace, command: str, settings: EdgeSettings, ask: Ask) -> int:
    """Do what was asked for; the exit status. Raises ``SettingsError`` for what was asked wrongly, else as ``ask`` does."""
    from origin.settings import SettingsError

    from .locks.targets import platform_of, python_of

    try:
        platforms = [platform_of(name).name for name in asked.platform]
        pythons = list(map(python_of, asked.python))
    except ValueError as error:
        raise SettingsError(str(error)) from None
    paths = [path for path in asked.locks if path.name != "pom.xml"]
    wishes = [_asked(path, platforms, pythons) for path in paths]
    is_warm = command == "warm"
    import msgspec

    wanted: dict[str, object] = {"locks": msgspec.to_builtins(wishes, str_keys=True), "urls": asked.url, "local": asked.covered}
    if is_warm and asked.unpin:
        released = ask("unpin", wanted)
        return terminal.tell(asked, released, lambda: [f"{count_text(released['files'], 'file')} may be evicted again"])
    if is_warm:
        wanted |= {"at_once": asked.jobs, "pin": not asked.no_pin, "everything": asked.all}
    result: dict[str, Any] = ask(command, wanted) if wishes else {"locks": []}
    for path in asked.locks:
        if path.name == "pom.xml":
            result["locks"].append(_pom(asked, path, settings, ask, keep=is_warm))
    result["ready"] = all(lock["ready"] for lock in result["locks"])
    terminal.tell(asked, result, lambda: warm_lines(result) if is_warm else ready_lines(result))
    return 0 if result["ready"] else 1


def _asked(path: Path, platforms: Sequence[str], pythons: Sequence[str]) -> Asked:
    """A lock file as the node is asked about it. Raises ``SettingsError`` with its name and line."""
    import msgspec

    from origin.settings import SettingsError

    from . import lockfiles
    from .locks import Malformed, reading
    from .locks.targets import targets_of
    from .readiness import Asked, Wish

    try:
        lock = reading.read(path)
        targets = targets_of(lock, platforms, pythons)
        found = _Found.of(lock, targets)
    except Malformed as error:
        raise SettingsError(f"{path}: {error}") from None
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror or error}") from None
    if lock.format == "gradle.lockfile" and _verifies_signatures(path):
        lock = replace(lock, needed=tuple(msgspec.structs.replace(each, asks=("signature",)) for each in lock.needed))
    notes: tuple[str, ...] = ()
    if lock.scripts:
        named = ", ".join(lock.scripts[:8]) + (f" and {len(lock.scripts) - 8} more" if len(lock.scripts) > 8 else "")
        notes = (f"scripts that run on installation may ask for more from elsewhere: {named}",)
    home = Path(os.environ["HOME"]) if os.environ.get("HOME") else None
    believed = lockfiles.unknown_hosts(path.parent, frozenset(), home=home, environ=os.environ)
    return Asked(
        str(path),
        lock.format,
        targets,
        tuple(Wish(lock.needed[index], tuple(on)) for index, on in sorted(found.needed.items())),
        tuple(found.elsewhere),
        found.unfit,
        tuple(_builds(lock, path)),
        notes,
        fixed=bool(platforms),
        believed=dict(believed),
    )


def _builds(lock: Lock, path: Path) -> Iterable[Build]:
    """The projects beside a lock that its client builds, with what that takes. What says nothing of it is built by setuptools."""
    from .readiness import Build
    from .readiness.builds import LEGACY, build_requirements, project_requirements

    for place in dict.fromkeys(lock.local):
        beside = path.parent / place.removeprefix("file:").removeprefix("//")
        try:
            if beside.is_file() and beside.name.endswith((".tar.gz", ".zip")):
                requires: tuple[str, ...] | None = tuple(map(str, build_requirements(beside.name, beside.read_bytes())))
            elif (beside / "pyproject.toml").is_file():
                requires = project_requirements((beside / "pyproject.toml").read_bytes())
                # uv and PDM install such a project's dependencies, and nothing of itself.
                if requires is None and lock.format in ("uv.lock", "pdm.lock"):
                    continue
            elif not (beside / "setup.py").is_file():
                continue
            else:
                requires = None
        except (OSError, ValueError):
            continue
        yield Build(f"what lies in {place}", LEGACY if requires is None else requires)


def _verifies_signatures(lock: Path) -> bool:
    """Whether the build that a Gradle lock is of holds files against their signatures, and so asks for these."""
    for directory in list(lock.absolute().parents)[:8]:
        try:
            text = (directory / "gradle" / "verification-metadata.xml").read_text("utf-8", "replace")
        except OSError:
            continue
        return re.search(r"<verify-signatures>\s*true\s*</verify-signatures>", text) is not None
    return False


@dataclass(frozen=True, slots=True)
class _Found:
    """What of a lock applies where: targets by the place of what is needed, and why some are none."""

    needed: Mapping[int, Sequence[int]]
    elsewhere: Iterable[Elsewhere]
    unfit: dict[int, str]

    @classmethod
    def of(cls, lock: Lock, targets: Sequence[Any]) -> _Found:
        from .locks.targets import applying

        needed: dict[int, list[int]] = {}
        elsewhere: dict[Elsewhere, None] = {}
        unfit: dict[int, str] = {}
        for place, target in enumerate(targets):
            found = applying(lock, target)
            if found.why:
                unfit[place] = found.why
                continue
            elsewhere |= dict.fromkeys(found.elsewhere)
            for index in found.needed:
                needed.setdefault(index, []).append(place)
        return cls(needed, elsewhere, unfit)


# ---- pom.xml ---------------------------------------------------------------------------------------------------------


def _pom(asked: argparse.Namespace, path: Path, settings: EdgeSettings, ask: Ask, *, keep: bool) -> dict[str, Any]:
    """Run Maven through the edge and tell what became of what it asked for."""
    from . import address, clients, mvn
    from .readiness import MORE

    project = mvn.project_of(path)
    goals = asked.goals.split()
    place = str(ask("rehearse", {"held": not keep})["path"])
    running = address.as_running(settings)
    client = clients.CLIENTS["maven"]
    base = address.own_address(running)
    url = clients.index_url(client, base, running.registries)
    url = url.replace(base, base + place, 1)
    if sys.stderr.isatty() and not asked.json:
        print(f"mvn {asked.goals} of {path}, {'through this edge' if keep else 'with everything upstream gone'}", file=sys.stderr)
    is_whole = False
    try:
        ran = mvn.run(project, url, goals, os.environ, program=asked.mvn)
        is_whole = ran.status == 0
    finally:
        rehearsed = {"path": place, "key": f"{project.key} {asked.goals}", "keep": keep, "whole": is_whole}
        told = ask("rehearsed", rehearsed | {"pin": keep and not asked.no_pin})
    lock: dict[str, Any] = {
        "lock": str(path),
        "format": "pom.xml",
        "platforms": [],
        "missing": told["missing"],
        "refused": told["refused"],
        "elsewhere": [],
        "notes": [],
        "things": told["files"],
        "ready": ran.status == 0 and not (keep and (told["missing"] or told["refused"])),
    }
    if keep:
        lock |= {"bytes": told["bytes"]}
    if ran.status != 0:
        if not told["whole"] and (told["missing"] or told["refused"]):
            # Nobody remembers a build that got to its end.
            lock["notes"].append(f"mvn stops where it misses something: {MORE}")
        lock["notes"].append(f"mvn {asked.goals} ended with {ran.status}:\n{ran.output}")
    elif not keep:
        # It went on without: a client does not mind.
        lock["missing"], lock["refused"] = [], []
    return lock


# ---- results, for people ---------------------------------------------------------------------------------------------


def warm_lines(result: Mapping[str, Any]) -> list[str]:
    """What became of ``warm``: of each lock what could not be had, then the sum."""
    lines: list[str] = []
    for lock in result["locks"]:
        trouble = _trouble_lines(lock)
        if not (lock["ready"] or trouble):
            # Nothing is missing: it is not for all of what was asked for, or for none of it.
            trouble = [f"{lock['lock']}: not ready", *(f"  {line}" for line in _platform_lines(lock["platforms"]))]
        lines += trouble
    if "files" in result:
        lines.append(
            f"{count_text(result['files'], 'file')} and {count_text(result['pages'], 'page')} are here"
            f"{', pinned' if result['pinned'] else ''}; "
            f"{count_text(result['fetched'], 'file was', 'files were')} fetched, {terminal.size_text(result['bytes'])}"
        )
    for lock in result["locks"]:
        if lock["format"] == "pom.xml":
            lines.append(f"{lock['lock']}: {count_text(lock['things'], 'file is', 'files are')} here")
    return lines


def ready_lines(result: Mapping[str, Any]) -> list[str]:
    """What ``ready`` found: of each lock whether it would install, where, and what is missing."""
    lines: list[str] = []
    for lock in result["locks"]:
        lines.append(f"{lock['lock']}: {'ready' if lock['ready'] else 'not ready'}")
        lines += [f"  {line}" for line in _platform_lines(lock["platforms"])]
        lines += _trouble_lines(lock)
    return lines


def _platform_lines(platforms: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each platform; Pythons that fare alike stand together."""
    alike: dict[tuple[str, object, str | None], list[str]] = {}
    for each in platforms:
        if each["platform"]:
            alike.setdefault((each["platform"], each["ready"], each["why"]), []).append(each["python"])
    words = {True: "yes", False: "no", None: "not for it"}
    lines = []
    for (platform, is_ready, why), pythons in alike.items():
        named = f" (Python {', '.join(pythons)})" if any(pythons) else ""
        lines.append(f"{platform}{named}: {words[is_ready]}{f', {why}' if why else ''}")  # type: ignore[index]
    return lines


def _trouble_lines(lock: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    everywhere = len([each for each in lock["platforms"] if each["ready"] is not None])
    for word, found in (("missing", lock["missing"]), ("refused", lock["refused"])):
        for each in found[:SHOWN]:
            rule = f" by rule {each['rule']}" if each.get("rule") else ""
            where = f" (for {'; '.join(each['on'])})" if 0 < len(each.get("on", ())) < everywhere else ""
            lines.append(f"  {word}{rule}  {each['name']}: {each['reason']}{where}")
        if len(found) > SHOWN:
            lines.append(f"  {word}  {len(found) - SHOWN} more; --json tells all")
    lines += [f"  not from a registry: not covered  {each['name']} ({each['where']})" for each in lock["elsewhere"]]
    lines += [f"  note  {note}" for note in lock["notes"]]
    return lines
