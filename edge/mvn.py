"""One run of the real ``mvn`` through a place of this edge: what a ``pom.xml`` needs only Maven knows.

Maven runs in a *shadow* of the project: real directories where POMs are, with copies of these, and links to everything else. So what it
builds lies in the shadow and nothing of the project changes. Its local repository is empty and goes with the shadow, so that it asks for
everything; every repository is mirrored to the edge.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from origin.errors import Unusable
from origin.registries.maven_metadata import outline

from .readiness import poms

GOALS = ("verify",)
"""What is run where nobody says otherwise. With everything that it takes here, ``mvn verify`` needs nobody."""

LIMIT_POMS = 2000
"""How many POMs a project may have."""

LAST_LINES = 30
"""How much of what Maven printed is told when it failed."""

_ADVICE = re.compile(r"\[ERROR\] *(?:$|-> \[Help|\[Help|To see the full|Re-run Maven|For more information|After correcting)")
"""What Maven says whatever went wrong."""

_SETTINGS = "<mirrors><mirror><id>leeward</id><mirrorOf>*</mirrorOf><url>{url}</url></mirror></mirrors>"


@dataclass(frozen=True, slots=True)
class Project:
    """A project: its directories that have POMs, beneath ``top``, and the POM to begin with."""

    top: Path
    pom: Path
    poms: tuple[Path, ...]

    @property
    def key(self) -> str:
        """A digest of all that says what is needed, by which that is remembered."""
        told = hashlib.sha256()
        for path in (*self.poms, *sorted((self.top / ".mvn").glob("*"))):
            if path.is_file():
                told.update(f"{path.relative_to(self.top)}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
        return told.hexdigest()[:40]


@dataclass(frozen=True, slots=True)
class Ran:
    """How a run ended. ``output`` is what it printed last."""

    status: int
    output: str


def project_of(pom: Path) -> Project:
    """The project that ``pom`` is of: with its modules, and the parents that lie beside it. Raises ``Unusable`` or ``OSError``."""
    pom = pom.resolve()
    found: dict[Path, None] = {}
    waiting = [pom]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found[path] = None
        if len(found) > LIMIT_POMS:
            raise Unusable(f"{pom} has more than {LIMIT_POMS} modules")
        try:
            read = poms.read(path.read_bytes())
        except ValueError as error:
            raise Unusable(f"{path} is no POM: {error}") from None
        if read.parent is not None and read.relative_path:
            waiting += _at(path.parent / read.relative_path)
        for module in read.modules:
            waiting += _at(path.parent / module)
    above = [pom.parent, *pom.parent.parents]
    config = next((directory for directory in above if (directory / ".mvn").is_dir()), pom.parent)
    top = Path(os.path.commonpath([config, *(path.parent for path in found)]))
    if top == Path(top.anchor):
        raise Unusable(f"{pom} and its modules have no directory in common")
    return Project(top, pom, tuple(sorted(found)))


def _at(path: Path) -> list[Path]:
    """The POM that a relative path means, if it is there."""
    path = path / "pom.xml" if path.is_dir() else path
    return [path.resolve()] if path.is_file() else []


@contextlib.contextmanager
def shadow(project: Project) -> Iterator[Path]:
    """A shadow of the project, and the path of its POM there; gone when the block ends."""
    scratch = Path(tempfile.mkdtemp(prefix="leeward-mvn-"))
    try:
        real = {path.parent for path in project.poms}
        for directory in list(real):
            real |= {each for each in directory.parents if each.is_relative_to(project.top)}
        real.add(project.top)
        for directory in sorted(real):
            place = scratch / "project" / directory.relative_to(project.top)
            place.mkdir(parents=True, exist_ok=True)
            for entry in directory.iterdir():
                if entry in project.poms:
                    shutil.copyfile(entry, place / entry.name)
                elif entry not in real and not (entry.name == "target" and (directory / "pom.xml") in project.poms):
                    (place / entry.name).symlink_to(entry)
        yield scratch / "project" / project.pom.relative_to(project.top)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def run(
    project: Project,
    url: str,
    goals: Sequence[str],
    environ: Mapping[str, str],
    *,
    program: str | None = None,
    quiet: bool = True,
) -> Ran:
    """Run Maven on a shadow of the project, with the repository at ``url`` for all. Raises ``Unusable`` if there is no Maven."""
    command = program or shutil.which("mvn", path=environ.get("PATH"))
    if command is None:
        raise Unusable("mvn is not on the PATH: what a pom.xml needs only Maven knows; name it with --mvn")
    with shadow(project) as pom:
        scratch = pom.parents[len(project.pom.relative_to(project.top).parts)]
        settings = scratch / "settings.xml"
        settings.write_bytes(settings_for(url, _settings_of(environ)))
        words = [command, "-B", "-ntp", "-s", str(settings), "-f", str(pom), f"-Dmaven.repo.local={scratch / 'repository'}"]
        # A test that fails is not what is asked here, and a module that cannot be built is no reason not to ask for what others need.
        words += ["-Dmaven.test.failure.ignore=true", "--fail-at-end", *goals]
        try:
            done = subprocess.run(
                words, cwd=pom.parent, env=dict(environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                check=False,
            )  # fmt: skip
        except OSError as error:
            raise Unusable(f"{command} cannot be run: {error.strerror}") from None
    lines = done.stdout.decode(errors="replace").splitlines()
    telling = [line for line in lines if line.startswith("[ERROR]") and not _ADVICE.match(line)] or lines
    return Ran(done.returncode, "\n".join(telling[:LAST_LINES]))


def settings_for(url: str, theirs: bytes) -> bytes:
    """The person's settings (profiles, servers), but for mirrors and proxies: every repository is at ``url``."""
    mirrors = _SETTINGS.format(url=escape(url)).encode()
    try:
        document = outline(
            theirs, "settings", frozenset({"settings", "settings/mirrors", "settings/proxies", "settings/offline"})
        )
    except ValueError:
        # None, or none that Maven could read either.
        return b"<settings>" + mirrors + b"</settings>\n"
    cuts = [each for name in ("mirrors", "proxies", "offline") for each in document.all(f"settings/{name}")]
    whole = document.all("settings")[0]
    start, stop = document.inner(whole)
    if start >= stop and theirs[whole.start : whole.stop].endswith(b"/>"):
        return b"<settings>" + mirrors + b"</settings>\n"
    kept = theirs
    for element in sorted(cuts, key=lambda each: -each.start):
        kept = kept[: element.start] + kept[element.stop :]
    return kept[:start] + mirrors + kept[start:]


def _settings_of(environ: Mapping[str, str]) -> bytes:
    try:
        return (Path(environ.get("HOME") or Path.home()) / ".m2" / "settings.xml").read_bytes()
    except (OSError, RuntimeError):
        return b""
