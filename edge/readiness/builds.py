"""What it takes to build a source distribution, as far as it says so: no lock file names any of it.

Pure: archives and metadata in, requirements out. What a build backend asks for once it runs nobody knows beforehand. Essential reading:
PEP 517, PEP 518, the core metadata specification.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator

from packaging.metadata import parse_email
from packaging.requirements import InvalidRequirement, Requirement

LEGACY = ("setuptools>=40.8.0",)
"""What builds a distribution that does not say. Source: PEP 518, as pip and uv have it."""

LIMIT_MEMBERS = 50_000
LIMIT_PROJECT_BYTES = 1 << 20
LIMIT_METADATA_BYTES = 16 << 20


def build_requirements(filename: str, archive: bytes) -> tuple[Requirement, ...]:
    """What must be installed to build ``archive``. Raises ``ValueError`` with a sentence for what cannot be read."""
    project = _project(filename, archive)
    told = project_requirements(project) if project is not None else None
    return requirements(LEGACY if told is None else told)


def project_requirements(project: bytes) -> tuple[str, ...] | None:
    """What a ``pyproject.toml`` says that its build requires; None if it says nothing of a build. Raises ``ValueError``."""
    try:
        document = tomllib.loads(project.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its pyproject.toml cannot be read: {error}") from None
    system = document.get("build-system")
    if not isinstance(system, dict):
        return None
    requires = system.get("requires", [])
    if not isinstance(requires, list) or not all(isinstance(each, str) for each in requires):
        raise ValueError("its pyproject.toml does not say what its build requires")
    return tuple(requires)


def requirements(texts: Iterable[str]) -> tuple[Requirement, ...]:
    """Requirements, parsed. Raises ``ValueError``."""
    try:
        return tuple(map(Requirement, texts))
    except InvalidRequirement as error:
        raise ValueError(f"it requires what is no requirement: {str(error).partition(chr(10))[0]}") from None


def _project(filename: str, archive: bytes) -> bytes | None:
    """The ``pyproject.toml`` in the one directory at the archive's top; None if there is none."""
    try:
        members = _zipped(archive) if filename.endswith(".zip") else _packed(archive)
        for number, (name, read) in enumerate(members):
            if number >= LIMIT_MEMBERS:
                break
            parts = posixpath.normpath(name).split("/")
            if len(parts) == 2 and parts[1] == "pyproject.toml":
                return read
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{filename} cannot be unpacked: {error}") from None
    return None


def _packed(archive: bytes) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:*") as packed:
        for member in packed:
            file = packed.extractfile(member) if member.name.endswith("pyproject.toml") and member.isfile() else None
            yield member.name, file.read(LIMIT_PROJECT_BYTES) if file is not None else b""


def _zipped(archive: bytes) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(archive)) as packed:
        for member in packed.infolist():
            if member.filename.endswith("pyproject.toml"):
                with packed.open(member) as file:
                    yield member.filename, file.read(LIMIT_PROJECT_BYTES)
            else:
                yield member.filename, b""


def metadata_in(wheel: bytes) -> bytes:
    """A wheel's own metadata. Raises ``ValueError``."""
    try:
        with zipfile.ZipFile(io.BytesIO(wheel)) as packed:
            for member in packed.infolist():
                directory, _, name = member.filename.rpartition("/")
                if name == "METADATA" and directory.endswith(".dist-info") and "/" not in directory:
                    with packed.open(member) as file:
                        return file.read(LIMIT_METADATA_BYTES)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"it is no wheel: {error}") from None
    raise ValueError("it has no metadata")


def requirements_in(metadata: bytes) -> tuple[Requirement, ...]:
    """What a distribution requires by its metadata. Raises ``ValueError``."""
    raw, _ = parse_email(metadata)
    return requirements(raw.get("requires_dist", []))
