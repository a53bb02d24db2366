"""What is published while faults go on: small projects of all three kinds, release after release, the same bytes for the same names.

A ``Release`` knows its files as clients of an edge ask for them and as registries are asked; ``Shelves`` makes them.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fakes import Fake, FakeMaven, FakeNpm, FakePyPI
from tests.faults.history import History, Published, now
from tests.jars import Component, Jars
from tests.tarballs import Tarball, Tarballs
from tests.wheels import Distribution, Shelf

KINDS = ("pypi", "npm", "maven")

GROUP = "org.example.chaos"

LARGEST_BYTES = 300_000


@dataclass(frozen=True, slots=True)
class Item:
    """One file: ``path`` is where an edge offers it, ``content`` its bytes. A ``sidecar`` says something of another file."""

    path: str
    content: bytes
    sidecar: bool = False

    @property
    def key(self) -> str:
        """As ``Published.key``."""
        return self.path.lstrip("/")

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, slots=True)
class Release:
    """A version of a project, with all its files; the first is the artifact. ``page`` is where an edge offers its project's page."""

    kind: str
    name: str
    version: str
    number: int
    page: str
    items: tuple[Item, ...]
    made: Distribution | Tarball | Component

    @property
    def project(self) -> str:
        """As ``Published.project``."""
        return f"{self.kind}/{self.name}"

    @property
    def purl(self) -> str:
        name = self.name.replace(":", "/").replace("@", "%40")
        return f"pkg:{self.kind}/{name}@{self.version}"

    @property
    def artifact(self) -> Item:
        return self.items[0]


class Shelves:
    """Makes releases, once each, below ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._wheels = Shelf(directory / "wheels")
        self._tarballs = Tarballs(directory / "tarballs")
        self._jars = Jars(directory / "jars")
        self._lock = threading.Lock()

    def release(self, kind: str, number: int, of: int, prefix: str = "chaos", *, largest: int = LARGEST_BYTES) -> Release:
        """Release ``of`` of project ``number`` of a kind. Sizes differ, from a few hundred bytes to ``largest``."""
        size = random.Random(f"{prefix} {kind} {number} {of}").choice((0, largest // 15, largest))
        with self._lock:
            match kind:
                case "pypi":
                    return _wheel(self._wheels.wheel(f"{prefix}-{number}", f"{of}.0", size=size), of)
                case "npm":
                    name = f"{prefix}-{number}" if number % 2 else f"@{prefix}/p{number}"
                    return _tarball(self._tarballs.pack(name, f"1.{of}.0", size=size), of)
                case _:
                    return _component(self._jars.component(f"{GROUP}:{prefix}-{number}:1.{of}", size=size), of)


def _wheel(made: Distribution, number: int) -> Release:
    b = made.blake2b
    path = f"/pypi/packages/{b[:2]}/{b[2:4]}/{b[4:]}/{made.filename}"
    items = (Item(path, made.content), Item(f"{path}.metadata", made.metadata, sidecar=True))
    return Release("pypi", made.project, made.version, number, f"/pypi/simple/{made.project}/", items, made)


def _tarball(made: Tarball, number: int) -> Release:
    page = f"/npm/{made.name.replace('/', '%2f')}"
    return Release("npm", made.name, made.version, number, page, (Item(f"/npm/{made.target}", made.content),), made)


def _component(made: Component, number: int) -> Release:
    files = sorted((file for file in made.files if file.path.endswith((".jar", ".pom"))), key=lambda file: file.path)
    items = [Item(f"/maven/{file.path}", file.content) for file in files]
    items.append(Item(f"{items[0].path}.sha1", files[0].sha1.encode(), sidecar=True))
    page = f"/maven/{made.group.replace('.', '/')}/{made.artifact}/maven-metadata.xml"
    return Release("maven", f"{made.group}:{made.artifact}", made.version, number, page, tuple(items), made)


class Registries:
    """The fakes, one of each kind, and what was published on them so far, which the history tells too."""

    def __init__(self, fakes: Mapping[str, Fake], history: History) -> None:
        self.fakes = dict(fakes)
        self._history = history
        self._lock = threading.Lock()
        self._published: list[Release] = []

    def publish(self, *releases: Release) -> None:
        """Offer them, then say so."""
        for release in releases:
            fake, made = self.fakes[release.kind], release.made
            match fake, made:
                case FakePyPI(), Distribution():
                    fake.publish(made)
                case FakeNpm(), Tarball():
                    fake.publish(made)
                case FakeMaven(), Component():
                    fake.publish(made)
            self._history.add(
                *(
                    Published(
                        at=now(),
                        key=item.key,
                        project=release.project,
                        version=release.version,
                        number=release.number,
                        sha256=item.sha256,
                        size=len(item.content),
                    )
                    for item in release.items
                )
            )
            with self._lock:
                self._published.append(release)

    @property
    def published(self) -> Sequence[Release]:
        """All releases so far, in order."""
        with self._lock:
            return list(self._published)
