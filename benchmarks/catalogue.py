"""Whether a catalogue of a million releases answers as one of a thousand does: what followers and requests ask of it, at both sizes."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from origin.catalog import Binding, StoredAnswer
from origin.catalog.packing import packed
from origin.catalog.records import digest_of_document
from origin.catalog.sqlite import SqliteCatalog, write_answer, write_binding
from origin.model import Digest, File, Page, Stamp

from .table import keep, ratios, show, spread

SMALL, LARGE = 1_000, 1_000_000
"""Releases, each of one file."""

RELEASES_OF_A_PROJECT = 10
LISTED = 30
"""How many files a page names: the same at both sizes, so that only the look-up differs."""

LINES = 100
CALLS = 200
TARGET = 1.3

type Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Filled:
    """A catalogue with its number of releases."""

    catalog: SqliteCatalog
    releases: int

    @property
    def projects(self) -> int:
        return self.releases // RELEASES_OF_A_PROJECT


def run(rounds: int, large: int = LARGE) -> bool:
    """Fill two catalogues, ask both in turn; False if a target is missed."""
    with tempfile.TemporaryDirectory(prefix="leeward-catalogue-") as place:
        return trio.run(_run, Path(place), rounds, large)


async def _run(place: Path, rounds: int, large: int) -> bool:
    small, big = [await _filled(place / f"{releases}.sqlite", releases) for releases in (SMALL, large)]
    chance = random.Random(7)
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in QUESTIONS}
    for _ in range(rounds):
        for name, ask in QUESTIONS.items():
            # In turn, call by call, so that whatever else the machine does falls on both alike.
            taken: tuple[list[float], list[float]] = ([], [])
            for _ in range(CALLS):
                for filled, times in zip((small, big), taken, strict=True):
                    call = ask(filled, chance)
                    began = time.perf_counter()
                    await call()
                    times.append(time.perf_counter() - began)
            for kept, times in zip(seconds[name], taken, strict=True):
                kept.append(statistics.median(times))
    for filled in (small, big):
        await filled.catalog.close()
    found = {name: ratios(theirs, ours) for name, (ours, theirs) in seconds.items()}
    rows = [
        [name, *(f"{spread([each * 1e6 for each in kept])} us" for kept in seconds[name]), spread(found[name])]
        for name in QUESTIONS
    ]
    head = ["question", f"at {SMALL:,} releases", f"at {large:,}", f"ratio (target {TARGET})"]
    show(f"A catalogue's answers, medians of {CALLS} calls, {rounds} rounds: median [range]", head, rows)
    keep("catalogue", {"releases": [SMALL, large], "seconds": seconds, "ratios": found})
    right = all(statistics.median(found[name]) <= TARGET for name in QUESTIONS)
    print(f"targets {'met' if right else 'MISSED'}")
    return right


# ---- what is asked


def _project(filled: Filled, chance: random.Random) -> str:
    return _name(chance.randrange(filled.projects))


def _changes(filled: Filled, chance: random.Random) -> Call:
    after = chance.randrange(filled.releases - LINES)
    return lambda: filled.catalog.changes(after, LINES)


def _newest(filled: Filled, chance: random.Random) -> Call:
    after = filled.releases + filled.projects - 1
    return lambda: filled.catalog.changes(after)


def _lines(filled: Filled, chance: random.Random) -> Call:
    after = chance.randrange(filled.releases - LINES)
    return lambda: filled.catalog.lines(after, LINES)


def _bindings_after(filled: Filled, chance: random.Random) -> Call:
    name = f"pypi:{_name(chance.randrange(filled.projects * 4 // 5))}"
    return lambda: filled.catalog.bindings_after(name, LINES)


def _pages_after(filled: Filled, chance: random.Random) -> Call:
    key = f"pypi:{_project(filled, chance)}"
    return lambda: filled.catalog.pages_after(key, 10)


def _listing(filled: Filled, chance: random.Random) -> Call:
    page = Page("pypi", _project(filled, chance))
    return lambda: filled.catalog.answer(page)


def _bindings(filled: Filled, chance: random.Random) -> Call:
    project = _project(filled, chance)
    return lambda: filled.catalog.bindings("pypi", project)


def _binding(filled: Filled, chance: random.Random) -> Call:
    file = _file(_project(filled, chance), chance.randrange(RELEASES_OF_A_PROJECT))
    return lambda: filled.catalog.binding(file)


def _named(filled: Filled, chance: random.Random) -> Call:
    digest = _digest(_file(_project(filled, chance), 3))
    return lambda: filled.catalog.named(digest)


def _head(filled: Filled, chance: random.Random) -> Call:
    return filled.catalog.head


QUESTIONS: dict[str, Callable[[Filled, random.Random], Call]] = {
    f"changes, {LINES} from anywhere": _changes,
    "changes, the newest one": _newest,
    f"lines, {LINES} from anywhere": _lines,
    "head": _head,
    f"a listing of {LISTED} files": _listing,
    f"bindings of a project of {RELEASES_OF_A_PROJECT}": _bindings,
    f"bindings_after, {LINES} from anywhere": _bindings_after,
    "pages_after, 10 from anywhere": _pages_after,
    "binding of a name": _binding,
    "names of a digest": _named,
}


# ---- what is there


async def _filled(path: Path, releases: int) -> Filled:
    """A catalogue whose releases came in any order, as they do, each page after its project's first file."""
    print(f"filling a catalogue with {releases:,} releases", flush=True)
    began = time.monotonic()
    catalog = await SqliteCatalog.open(path, keeps_ledger=True)
    order = list(range(releases))
    random.Random(releases).shuffle(order)

    def write(numbers: Sequence[int], connection: sqlite3.Connection) -> None:
        for number in numbers:
            project, version = divmod(number, RELEASES_OF_A_PROJECT)
            file = _file(_name(project), version)
            purl = f"pkg:pypi/{file.project}@{file.version}"
            write_binding(
                connection,
                Binding(file, _digest(file), 12_345, 1e9, (), "application/zip", purl=purl, published=9e8, source="registry"),
            )
            if version == 0:
                document = b"".join(_document(file.project))
                page = Page("pypi", file.project)
                answer = StoredAnswer(page, 200, document, "application/json", Stamp(2e9, 3e9), 1e9)
                write_answer(connection, answer, packed(document), digest_of_document(document))

    for start in range(0, releases, 10_000):
        await catalog._write(partial(write, order[start : start + 10_000]))
    await catalog.close()
    size = (await trio.Path(path).stat()).st_size
    print(f"  {size / 1e6:,.0f} MB in {time.monotonic() - began:.0f} s", flush=True)
    return Filled(await SqliteCatalog.open(path, keeps_ledger=True), releases)


def _name(project: int) -> str:
    # Names are as random as those of people's projects: neighbours by number are none by name.
    return f"project-{hashlib.blake2b(b'%d' % project, digest_size=5).hexdigest()}"


def _file(project: str, version: int) -> File:
    filename = f"{project.replace('-', '_')}-1.{version}-py3-none-any.whl"
    return File("pypi", project, f"1.{version}", filename, f"packages/ab/cd/{_hex(filename)[:60]}/{filename}")


def _document(project: str) -> Iterator[bytes]:
    for version in range(LISTED):
        name = f"{project}-1.{version}-py3-none-any.whl"
        yield f'{{"filename":"{name}","url":"http://files.test/{name}","hashes":{{"sha256":"{_hex(name)}"}},"size":12345}},'.encode()


def _digest(file: File) -> Digest:
    return Digest("sha256", _hex(file.filename))


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
