"""Python's lock files in TOML: ``uv.lock``, ``poetry.lock``, ``pdm.lock`` and ``pylock.toml``.

They name files and their hashes. ``uv.lock`` and ``pylock.toml`` name addresses too, and their clients ask there and nowhere else; the
others ask the index for its page first. Essential reading: PEP 751; the others' formats are their programs' own.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from packaging.pylock import Package, PackageSdist, PackageWheel, Pylock, PylockValidationError

from origin.model import Digest
from origin.registries import pypi_names

from . import Ask, Elsewhere, Lock, LockedFile, Malformed, Needed, Reach, hashed, hashes_of, line_of, words_of

UV, POETRY, PDM, PYLOCK = "uv.lock", "poetry.lock", "pdm.lock", "pylock.toml"

type Table = Mapping[str, object]

_AT_LINE = re.compile(r"\s*\(at line (\d+), column \d+\)|\s*\(at end of document\)")


def table_of(text: str) -> Table:
    """``text`` as TOML. Raises ``Malformed`` with the line."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _AT_LINE.search(str(error))
        line = int(found[1]) if found is not None and found[1] else len(text.splitlines())
        raise Malformed(f"no TOML: {_AT_LINE.sub('', str(error)).lower()}", line) from None
    except (ValueError, RecursionError) as error:
        raise Malformed(f"no TOML: {str(error) or 'nested beyond all reason'}") from None


@dataclass(slots=True)
class _Packages:
    """A lock's list of packages, with the line of each for whoever has to look one up."""

    text: str
    heading: str
    lines: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.lines = [line_of(self.text, found.start()) for found in re.finditer(rf"(?m)^\[\[{self.heading}\]\]", self.text)]

    def line(self, index: int) -> int:
        return self.lines[index] if index < len(self.lines) else 0


def _tables(document: Table, key: str, packages: _Packages | None = None) -> Iterator[tuple[int, Table]]:
    """The tables of a list, each with its line. Raises ``Malformed`` for a list that is none."""
    listed = document.get(key, [])
    if not isinstance(listed, list):
        raise Malformed(f"{key} is no list of tables")
    for index, each in enumerate(listed):
        line = packages.line(index) if packages is not None else 0
        if not isinstance(each, dict):
            raise Malformed(f"{key} is no list of tables", line)
        yield line, each


def _text(table: Table, key: str, line: int, what: str = "a package") -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value:
        raise Malformed(f"{what} has no {key}", line)
    return value


def _optional(table: Table, key: str) -> str:
    value = table.get(key)
    return value if isinstance(value, str) else ""


def _project(name: str, line: int) -> str:
    try:
        return pypi_names.normalise(name)
    except ValueError as error:
        raise Malformed(str(error), line) from None


def _file_at(url: str) -> str:
    """The file name that an address ends in."""
    return unquote(urlsplit(url).path.rpartition("/")[2])


# ---- uv --------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Graph:
    """A graph being built. Nodes are packages, and packages with one of their extras or groups."""

    names: dict[str, list[int]] = field(default_factory=dict)
    versions: dict[int, tuple[str, str]] = field(default_factory=dict)
    parts: dict[tuple[int, str], int] = field(default_factory=dict)
    nodes: list[int | None] = field(default_factory=list)
    edges: list[list[Reach]] = field(default_factory=list)

    def add(self, stands_for: int | None) -> int:
        self.nodes.append(stands_for)
        self.edges.append([])
        return len(self.nodes) - 1

    def meant(self, dependency: Table) -> list[int]:
        """The packages that a dependency leads to: of several versions the one it names, else all."""
        found = self.names.get(_loose(_optional(dependency, "name")), [])
        version, source = _optional(dependency, "version"), str(dependency.get("source", ""))
        exact = [
            node
            for node in found
            if version in ("", self.versions[node][0]) and ("source" not in dependency or source == self.versions[node][1])
        ]
        return exact or found

    def lead(self, start: int, dependencies: object) -> None:
        """Draw the edges from ``start`` to what its dependencies lead to."""
        for dependency in dependencies if isinstance(dependencies, list) else ():
            if not isinstance(dependency, dict):
                continue
            marker = _optional(dependency, "marker")
            for node in self.meant(dependency):
                self.edges[start].append(Reach(node, marker))
                for extra in words_of(dependency.get("extra", ())):
                    if (part := self.parts.get((node, extra))) is not None:
                        self.edges[start].append(Reach(part, marker))


def read_uv(text: str) -> Lock:
    """A ``uv.lock``. Raises ``Malformed``."""
    document = table_of(text)
    if "version" not in document:
        raise Malformed("it has no version, as a uv.lock has")
    packages = list(_tables(document, "package", _Packages(text, "package")))
    needed: list[Needed] = []
    elsewhere: list[Elsewhere] = []
    graph = _Graph()
    roots: list[int] = []
    local: list[str] = []
    for line, package in packages:
        name = _project(_text(package, "name", line), line)
        source = package.get("source")
        if not isinstance(source, dict):
            raise Malformed(f"{name} has no source", line)
        found = _uv_package(name, package, source, line)
        if isinstance(found, Needed):
            needed.append(found)
        elif "." not in (source.get("virtual"), source.get("editable")):
            # The project itself is where the lock is.
            elsewhere.append(found)
        node = graph.add(len(needed) - 1 if isinstance(found, Needed) else None)
        graph.names.setdefault(name, []).append(node)
        graph.versions[node] = _optional(package, "version"), str(source)
        if isinstance(found, Elsewhere) and not found.remote:
            roots.append(node)
            local += [path for kind in ("editable", "directory", "path") if (path := _optional(source, kind))]
        for kind in ("optional-dependencies", "dev-dependencies"):
            members = package.get(kind)
            for part in members if isinstance(members, dict) else ():
                graph.parts[node, part] = graph.add(None)
    for node, (_, package) in enumerate_packages(graph, packages):
        graph.lead(node, package.get("dependencies"))
        for kind in ("optional-dependencies", "dev-dependencies"):
            members = package.get(kind)
            for part, dependencies in members.items() if isinstance(members, dict) else ():
                graph.lead(graph.parts[node, part], dependencies)
                if node in roots:
                    # All that a project of one's own may be installed with: its extras and groups.
                    graph.edges[node].append(Reach(graph.parts[node, part]))
    top = _uv_requirements(document, graph)
    return Lock(
        UV,
        tuple(needed),
        tuple(elsewhere),
        requires_python=_optional(document, "requires-python"),
        environments=words_of(document.get("supported-markers", ())),
        roots=tuple(Reach(node) for node in (*roots, *([top] if top is not None else []))),
        nodes=tuple(graph.nodes),
        edges=tuple(map(tuple, graph.edges)),
        local=tuple(local),
    )


def enumerate_packages(graph: _Graph, packages: Sequence[tuple[int, Table]]) -> Iterator[tuple[int, tuple[int, Table]]]:
    """The packages with their nodes, in order: each has one of its own, the parts of it come behind."""
    own = sorted(graph.versions)
    yield from zip(own, packages, strict=True)


def _uv_requirements(document: Table, graph: _Graph) -> int | None:
    """A node for what a lock requires without a project: a script's, or a workspace's own."""
    manifest = document.get("manifest")
    if not isinstance(manifest, dict):
        return None
    groups = manifest.get("dependency-groups")
    required = [manifest.get("requirements"), *(groups.values() if isinstance(groups, dict) else ())]
    if not any(required):
        return None
    top = graph.add(None)
    for dependencies in required:
        graph.lead(top, dependencies)
    return top


def _uv_package(name: str, package: Table, source: Table, line: int) -> Needed | Elsewhere:
    version = _optional(package, "version")
    told = f"{name} {version}".strip()
    if (index := _optional(source, "registry")) and "://" in index and not index.startswith("file:"):
        files = [_uv_file(name, wheel, line) for _, wheel in _tables(package, "wheels")]
        sdist = package.get("sdist")
        if isinstance(sdist, dict):
            files.append(_uv_file(name, sdist, line))
        if not files:
            raise Malformed(f"{name} has no files", line)
        return Needed("pypi", name, _text(package, "version", line), tuple(files), source=index, line=line)
    for kind in ("git", "url"):
        if address := _optional(source, kind):
            return Elsewhere(told, f"{'git at ' if kind == 'git' else ''}{_host(address)}", remote=True)
    return Elsewhere(told, "a file or directory", remote=False)


def _uv_file(name: str, table: Table, line: int) -> LockedFile:
    url = _optional(table, "url")
    filename = _optional(table, "filename") or _file_at(url or _optional(table, "path"))
    if not filename:
        raise Malformed(f"a file of {name} has no name", line)
    digest = _optional(table, "hash")
    return LockedFile(filename, (hashed(digest, line),) if digest else (), url)


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0].rpartition("@")[2] or url[:60]


def _loose(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# ---- poetry and pdm --------------------------------------------------------------------------------------------------


def read_poetry(text: str) -> Lock:
    """A ``poetry.lock``, of Poetry 1 too. Raises ``Malformed``."""
    document = table_of(text)
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        raise Malformed("it has no [metadata], as a poetry.lock has")
    # Poetry 1.2 and before kept all files in one table.
    kept = metadata.get("files")
    apart = kept if isinstance(kept, dict) else {}
    local: list[str] = []
    needed: list[Needed] = []
    elsewhere: list[Elsewhere] = []
    for line, package in _tables(document, "package", _Packages(text, "package")):
        name = _project(_text(package, "name", line), line)
        version = _text(package, "version", line)
        marker = _either(package.get("markers"))
        source = package.get("source")
        kind = _optional(source, "type") if isinstance(source, dict) else ""
        if isinstance(source, dict) and kind not in ("", "legacy"):
            if kind in ("file", "directory"):
                local.append(_optional(source, "url"))
            where = "a file or directory" if kind in ("file", "directory") else f"{kind} at {_host(_optional(source, 'url'))}"
            elsewhere.append(Elsewhere(f"{name} {version}", where, kind not in ("file", "directory"), marker))
            continue
        files = _listed_files(name, package if "files" in package else {"files": apart.get(_text(package, "name", line))}, line)
        index = _optional(source, "url") if isinstance(source, dict) else ""
        # Without a source Poetry asks what it knows as the index by its own document.
        asks: tuple[Ask, ...] = ("page",) if index else ("page", "json")
        needed.append(Needed("pypi", name, version, files, source=index, asks=asks, marker=marker, line=line))
    python = _python(_optional(metadata, "python-versions"))
    return Lock(POETRY, tuple(needed), tuple(elsewhere), requires_python=python, local=tuple(local))


def _either(markers: object) -> str:
    """Poetry's ``markers``: one, or one for each group, of which any will do."""
    if isinstance(markers, dict):
        each = [value if isinstance(value, str) else "" for value in markers.values()]
        return "" if "" in each or not each else " or ".join(f"({marker})" for marker in each)
    return markers if isinstance(markers, str) and markers not in ("*", "<empty>") else ""


def _python(constraint: str) -> str:
    """Poetry's constraint as a specifier, "" for what cannot be said in one."""
    if not constraint or constraint == "*" or "||" in constraint or "|" in constraint:
        return ""
    parts = []
    for part in re.split(r"[,\s]+(?=[<>=!~^\d])", constraint.strip()):
        if part.startswith("^"):
            low = part[1:]
            parts.append(f">={low},<{int(low.partition('.')[0]) + 1}" if low[:1].isdigit() else "")
        elif part.startswith("~") and not part.startswith("~="):
            numbers = part[1:].split(".")
            low = part[1:]
            if len(numbers) > 1 and numbers[1].isdigit():
                parts.append(f">={low},<{numbers[0]}.{int(numbers[1]) + 1}")
            elif numbers[0].isdigit():
                parts.append(f">={low},<{int(numbers[0]) + 1}")
        else:
            parts.append(f"=={part}" if part[:1].isdigit() else part)
    return ",".join(filter(None, parts))


def read_pdm(text: str) -> Lock:
    """A ``pdm.lock``. Raises ``Malformed``."""
    document = table_of(text)
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or "lock_version" not in metadata:
        raise Malformed("it has no [metadata] with a lock_version, as a pdm.lock has")
    # The project itself is installed too.
    local = ["."]
    needed: list[Needed] = []
    elsewhere: list[Elsewhere] = []
    for line, package in _tables(document, "package", _Packages(text, "package")):
        name = _project(_text(package, "name", line), line)
        version = _optional(package, "version")
        marker = _optional(package, "marker")
        if (place := _pdm_place(package)) is not None:
            where, remote = place
            local += [path] if not remote and (path := _optional(package, "path")) else []
            elsewhere.append(Elsewhere(f"{name} {version}".strip(), where, remote, marker))
        elif "files" in package:
            # An extra of a package is listed beside it, with the same files or with none.
            files = _listed_files(name, package, line)
            asks: tuple[Ask, ...] = () if all(file.url for file in files) else ("page",)
            needed.append(Needed("pypi", name, _text(package, "version", line), files, asks=asks, marker=marker, line=line))
    targets = [_optional(target, "requires_python") for _, target in _tables(metadata, "targets")]
    python = targets[0] if len(targets) == 1 else _optional(metadata, "requires_python")
    return Lock(PDM, tuple(needed), tuple(elsewhere), requires_python=python, local=tuple(local))


def _pdm_place(package: Table) -> tuple[str, bool] | None:
    for kind in ("git", "hg", "svn", "bzr"):
        if address := _optional(package, kind):
            return f"{kind} at {_host(address)}", True
    if address := _optional(package, "url"):
        return _host(address), not address.startswith("file:")
    return ("a file or directory", False) if "path" in package else None


def _listed_files(name: str, package: Table, line: int) -> tuple[LockedFile, ...]:
    files = [
        LockedFile(
            _optional(file, "file") or _file_at(_optional(file, "url")),
            (hashed(digest, line),) if (digest := _optional(file, "hash")) else (),
            _optional(file, "url"),
        )
        for _, file in _tables({"files": package.get("files") or []}, "files")
    ]
    if not files or not all(file.filename and file.digests for file in files):
        raise Malformed(f"{name} has {'a file without a name or hash' if files else 'no files'}", line)
    return tuple(files)


# ---- pylock ----------------------------------------------------------------------------------------------------------


def read_pylock(text: str) -> Lock:
    """A ``pylock.toml``. Raises ``Malformed``."""
    document = table_of(text)
    packages = _Packages(text, "packages")
    try:
        lock = Pylock.from_dict(dict(document))
    except PylockValidationError as error:
        context = re.match(r"packages\[(\d+)\]", error.context or "")
        raise Malformed(str(error), packages.line(int(context[1])) if context is not None else 0) from None
    except (ValueError, TypeError, RecursionError) as error:
        raise Malformed(f"no pylock.toml: {error}") from None
    needed: list[Needed] = []
    elsewhere: list[Elsewhere] = []
    for index, package in enumerate(lock.packages):
        found = _pylock_package(package, packages.line(index))
        if isinstance(found, Needed):
            needed.append(found)
        else:
            elsewhere.append(found)
    return Lock(
        PYLOCK,
        tuple(needed),
        tuple(elsewhere),
        requires_python=str(lock.requires_python or ""),
        environments=tuple(map(str, lock.environments or ())),
        local=tuple(each.directory.path for each in lock.packages if each.directory is not None),
        extras=frozenset(lock.extras or ()),
        groups=frozenset(lock.dependency_groups or ()) | frozenset(lock.default_groups or ()),
    )


def _pylock_package(package: Package, line: int) -> Needed | Elsewhere:
    marker = str(package.marker) if package.marker is not None else ""
    version = str(package.version) if package.version is not None else ""
    told = f"{package.name} {version}".strip()
    if package.vcs is not None:
        return Elsewhere(told, f"{package.vcs.type} at {_host(package.vcs.url or '')}", package.vcs.url is not None, marker)
    if package.directory is not None:
        return Elsewhere(told, "a directory", remote=False, marker=marker)
    if package.archive is not None:
        url = package.archive.url or ""
        return Elsewhere(told, _host(url) if url else "a file", bool(url) and not url.startswith("file:"), marker)
    listed: list[PackageWheel | PackageSdist] = [*(package.wheels or ())]
    if package.sdist is not None:
        listed.append(package.sdist)
    files = [_pylock_file(file, line) for file in listed]
    if not files:
        raise Malformed(f"{told} has neither wheels nor an sdist", line)
    if not any(file.url for file in files):
        return Elsewhere(told, "files beside the lock", remote=False, marker=marker)
    if not version:
        readings = [version for file in files if (version := pypi_names.version_in(package.name, file.filename))]
        if not readings:
            raise Malformed(f"{package.name} has no version", line)
        version = readings[0]
    python = str(package.requires_python or "")
    files = [LockedFile(file.filename, file.digests, file.url, python) for file in files]
    return Needed("pypi", str(package.name), version, tuple(files), source=package.index or "", marker=marker, line=line)


def _pylock_file(file: PackageWheel | PackageSdist, line: int) -> LockedFile:
    digests: tuple[Digest, ...] = hashes_of(file.hashes, line)
    if not digests:
        raise Malformed(f"{file.filename} has no hash of a known kind", line)
    return LockedFile(file.filename, digests, file.url or "")
