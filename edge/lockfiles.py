"""What the lock files at hand tell of registries' hosts: those that no table has and that are nevertheless other names of one.

A host is believed to be another name only if a lock file has files there in the registry's very own shape, named for the very package
and version that it locks, and hashed: npm's ``/<name>/-/<basename>-<version>.tgz`` right beneath the root, or PyPI's
``/packages/<digest>/<file>``. So a code host's archives are none, and what comes by a wrong belief does not match the lock. Nor is it
one if settings name it, be they the project's, the user's, the machine's, in variables or in the command's own words: who wrote it there
means that registry and no other, and its packages must never be looked for in the public one. For the same reason the index that a lock
file tells of is none: only settings make a client ask it.

Everything read here was written by others. What makes no sense is passed over, and nothing raises.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from urllib.parse import unquote, urlsplit

import msgspec

from origin.registries import npm_names, pypi_names

from .hosts import normal

LIMIT_BYTES = 32 << 20
"""The longest lock file that is read."""

LIMIT_SETTINGS_BYTES = 1 << 20
"""The longest settings file that is read."""

LIMIT_LEVELS = 16
"""How many directories upwards a project's root is looked for."""

LIMIT_HOSTS = 4
"""How many hosts of a kind are told of, those that most files are at."""

LIMIT_LINE = 100_000
"""No line of a lock file that tells anything is longer, in characters."""

SETTINGS = (
    ".npmrc",
    ".yarnrc",
    ".yarnrc.yml",
    "bunfig.toml",
    ".bunfig.toml",
    "pnpm-workspace.yaml",
    "package.json",
    "pip.conf",
    "pip.ini",
    "uv.toml",
    "pyproject.toml",
    "poetry.toml",
    "pdm.toml",
    "Pipfile",
)
"""Where a project, or its user, says which registries to ask."""

HOME_SETTINGS = (
    *(".npmrc", ".yarnrc", ".yarnrc.yml", ".bunfig.toml", ".config/pnpm/rc", ".pip/pip.conf", ".config/pip/pip.conf"),
    *(".config/uv/uv.toml", ".config/pypoetry/config.toml", ".config/pdm/config.toml"),
)

SYSTEM_SETTINGS = (
    *("/etc/npmrc", "/usr/etc/npmrc", "/usr/local/etc/npmrc", "/etc/pip.conf", "/etc/xdg/pip/pip.conf"),
    *("/etc/uv/uv.toml", "/etc/xdg/uv/uv.toml"),
)

NAMED_SETTINGS = ("npm_config_userconfig", "npm_config_globalconfig", "pip_config_file", "uv_config_file")
"""Variables, in either case, that name a settings file."""

_ROOTS = (".git", ".hg", ".svn", ".jj")
_PRIVATE = frozenset("local localhost localdomain internal intranet lan corp home private arpa".split())
_URL = re.compile(r"https?://[^\s\"'<>\\,;)\]}]{1,2000}", re.IGNORECASE)
_HASHED = re.compile(r"/packages/[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{60}/([^/]+)$")
_INDEX = re.compile(r"^\s*(?:-i\b|--(?:extra-)?index-url\b|-f\b|--find-links\b|--trusted-host\b)[\s=]*(\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Locked:
    """One file, at ``url``. ``names`` is what its package may be called; ``hashed`` tells whether the lock knows its bytes."""

    kind: str
    names: frozenset[str]
    version: str
    url: str
    hashed: bool


def unknown_hosts(
    directory: Path,
    known: frozenset[str],
    *,
    home: Path | None = None,
    environ: Mapping[str, str] | None = None,
    words: Sequence[str] = (),
) -> Mapping[str, tuple[str, ...]]:
    """For each kind of registry, the hosts that lock files in ``directory``, or above it up to the project's root, have its files at.

    Without those in ``known`` and those that settings name: the project's own, those in ``home`` and of the machine (None to look at
    none), and what ``environ`` or the ``words`` of a command hold anywhere. Reads files.
    """
    directories = list(_upwards(directory))
    environ = environ or {}
    configured = frozenset(host for folder in directories for name in SETTINGS for host in _hosts_in(folder / name))
    if home is not None:
        configured |= frozenset(host for path in _settings_of(home, environ) for host in _hosts_in(path))
    said = "\n".join((*environ.values(), *words)).lower()
    found: dict[str, Counter[str]] = {}
    for folder in directories:
        for path, read in _lock_files(folder):
            text = _text(path, LIMIT_BYTES)
            if read is _requirements:
                configured |= frozenset(host for url in _INDEX.findall(text) if (host := _host(url)))
            try:
                for locked in read(text):
                    host = registry_host(locked)
                    if host:
                        found.setdefault(locked.kind, Counter())[host] += 1
            except (ValueError, RecursionError):
                continue
    passed_over = known | configured
    hosts = {
        kind: tuple(host for host, _ in count.most_common() if host not in passed_over and host not in said)
        for kind, count in found.items()
    }
    return {kind: told[:LIMIT_HOSTS] for kind, told in hosts.items() if told}


def registry_host(locked: Locked) -> str:
    """The host that a locked file shows to be a registry's of its kind; empty if it shows none."""
    host = _host(locked.url)
    if not host:
        return ""
    path = unquote(urlsplit(locked.url).path)
    if locked.kind == "pypi":
        found = _HASHED.search(path)
        if found is None:
            return ""
        projects = set(map(_project, locked.names))
        same = (name in projects and _is_same(version, locked.version) for name, version in pypi_names.readings(found[1]))
        return host if any(same) else ""
    shapes = {f"/{name}/-/{npm_names.conventional(name, locked.version)}" for name in locked.names if npm_names.is_name(name)}
    return host if locked.hashed and path in shapes else ""


# ---- lock files ------------------------------------------------------------------------------------------------------


def _package_lock(text: str) -> Iterator[Locked]:
    """npm's ``package-lock.json`` and ``npm-shrinkwrap.json``, of every version."""
    document = msgspec.json.decode(text)
    if not isinstance(document, dict):
        return
    for place, entry in _members(document, "packages"):
        name = entry.get("name") or place.rpartition("node_modules/")[2]
        yield from _npm(name, entry.get("version"), entry.get("resolved"), entry.get("integrity"))
    waiting: list[Mapping[str, object]] = [document]
    while waiting:
        for name, entry in _members(waiting.pop(), "dependencies"):
            version = entry.get("version")
            if isinstance(version, str) and version.startswith("npm:"):
                name, _, version = version[4:].rpartition("@")
            yield from _npm(name, version, entry.get("resolved"), entry.get("integrity"))
            waiting.append(entry)


def _members(document: Mapping[str, object], key: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    members = document.get(key)
    if isinstance(members, dict):
        yield from ((name, entry) for name, entry in members.items() if isinstance(entry, dict))


def _npm(name: object, version: object, url: object, integrity: object) -> Iterator[Locked]:
    if isinstance(name, str) and isinstance(version, str) and isinstance(url, str):
        yield Locked("npm", frozenset({name}), version, url, bool(integrity))


_SPECIFIER = re.compile(r"\"?(@?[^@\",\s]{1,256}(?:/[^@\",\s]{1,256})?)@(?:npm:(@?[^@\",\s]{1,256})@)?")
_YARN_MEMBER = re.compile(r"  (version|resolved|resolution|integrity|checksum):? \"?([^\"\s]{1,4000})\"?\s*$")
_ARCHIVE = re.compile(r"__archiveUrl=([^&\"\s]+)")


def _yarn(text: str) -> Iterator[Locked]:
    """``yarn.lock`` of both generations: a heading of specifiers, then indented members."""
    names: frozenset[str] = frozenset()
    members: dict[str, str] = {}
    for line in (*_lines(text), "end:"):
        if not line[:1].isspace():
            url = members.get("resolved") or "".join(map(unquote, _ARCHIVE.findall(members.get("resolution", ""))[:1]))
            hashed = "#" in url or bool(members.keys() & {"integrity", "checksum"})
            if url:
                yield Locked("npm", names, members.get("version", ""), url, hashed)
            members = {}
            names = frozenset(name for found in _SPECIFIER.findall(line) for name in found if name)
        elif found := _YARN_MEMBER.match(line):
            members.setdefault(found[1], found[2])


_PNPM_KEY = re.compile(r"  ['\"]?/?(@[^@/\s]{1,256}/[^@/\s()]{1,256}|[^@/\s()'\"]{1,256})[@/]([^'\"():/\s]{1,256})[^\n]*:\s*$")
_PNPM_TARBALL = re.compile(r"\btarball: ['\"]?(https?://[^'\",}\s]+)")


def _pnpm(text: str) -> Iterator[Locked]:
    """``pnpm-lock.yaml``, which has addresses only of what is not at the registry that was configured."""
    name = version = url = ""
    hashed = False
    for line in _lines(text):
        if found := _PNPM_KEY.match(line):
            name, version, url, hashed = found[1], found[2].partition("_")[0], "", False
        elif line.startswith("    "):
            hashed = hashed or "integrity:" in line
            if tarball := _PNPM_TARBALL.search(line):
                url = tarball[1]
            if url and hashed:
                yield Locked("npm", frozenset({name}), version, url, True)
                url = ""


_BUN = re.compile(r'\s*"[^"\s]+": \["(@?[^"@\s]{1,512})@([^"\s]{1,256})", "(https?://[^"\s]+)".*"sha(?:1|256|384|512)-')


def _bun(text: str) -> Iterator[Locked]:
    """``bun.lock``, a line for each package."""
    for line in _lines(text):
        if found := _BUN.match(line):
            yield Locked("npm", frozenset({found[1]}), found[2], found[3], True)


_SECTION = re.compile(r"\[{1,2}([^\[\]]{1,256})\]{1,2}\s*$")
_MEMBER = re.compile(r"(name|version) = \"([^\"]{1,256})\"\s*$")
_FILE = re.compile(r"\burl = [\"'](https?://[^\"'\s]+)[\"']")


def _toml(text: str) -> Iterator[Locked]:
    """``uv.lock``, ``poetry.lock``, ``pdm.lock`` and ``pylock.toml``: tables of packages, with files or tables of files.

    Read by lines, as their programs write them: a parser takes seconds for a long one.
    """
    package: dict[str, str] = {}
    own = False
    for line in _lines(text):
        if section := _SECTION.match(line):
            own = section[1] in ("package", "packages")
            package = {} if own else package
        elif own and (member := _MEMBER.match(line)):
            package[member[1]] = member[2]
        for url in _FILE.findall(line):
            yield Locked("pypi", frozenset({package.get("name", "")}), package.get("version", ""), url, True)


_PINNED = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]{0,255})\s*(?:\[[^\]]*\])?\s*@\s*(https?://[^\s;]+)")


def _requirements(text: str) -> Iterator[Locked]:
    """``requirements.txt``: what is required by address."""
    for line in _lines(text):
        if found := _PINNED.match(line):
            filename = unquote(urlsplit(found[2]).path.rpartition("/")[2])
            version = pypi_names.version_in(_project(found[1]), filename)
            yield Locked("pypi", frozenset({found[1]}), version, found[2], True)


type Reader = Callable[[str], Iterator[Locked]]

READERS: Mapping[str, Reader] = {
    "package-lock.json": _package_lock,
    "npm-shrinkwrap.json": _package_lock,
    "yarn.lock": _yarn,
    "pnpm-lock.yaml": _pnpm,
    "bun.lock": _bun,
    "uv.lock": _toml,
    "poetry.lock": _toml,
    "pdm.lock": _toml,
    "pylock.toml": _toml,
    "requirements.txt": _requirements,
    "requirements.lock": _requirements,
}
"""Which files are lock files, and what reads each."""


# ---- files -----------------------------------------------------------------------------------------------------------


def _upwards(directory: Path) -> Iterator[Path]:
    """``directory`` and those above it, up to the project's root: what version control keeps, else ``directory`` alone."""
    try:
        directory = directory.resolve()
        above = [directory, *directory.parents][:LIMIT_LEVELS]
        root = next((at for at, folder in enumerate(above) if any((folder / mark).exists() for mark in _ROOTS)), 0)
    except (OSError, RuntimeError):
        return
    yield from above[: root + 1]


def _settings_of(home: Path, environ: Mapping[str, str]) -> Iterator[Path]:
    """The settings files of a person and of the machine."""
    yield from (home / name for name in HOME_SETTINGS)
    yield from map(Path, SYSTEM_SETTINGS)
    yield from (Path(value) for name, value in environ.items() if value and name.lower() in NAMED_SETTINGS)
    if moved := environ.get("XDG_CONFIG_HOME"):
        yield from (Path(moved, name.removeprefix(".config/")) for name in HOME_SETTINGS if name.startswith(".config/"))
        yield Path(moved, ".bunfig.toml")
    if active := environ.get("VIRTUAL_ENV"):
        yield Path(active, "pip.conf")


def _lock_files(folder: Path) -> Iterator[tuple[Path, Reader]]:
    for name, read in READERS.items():
        yield folder / name, read


def _text(path: Path, limit_bytes: int) -> str:
    """A file's text, empty if there is none, or what is there is too long or no file."""
    try:
        # Not opened before it is known to be a file: a pipe would keep us waiting.
        about = path.stat()
        if not S_ISREG(about.st_mode) or about.st_size > limit_bytes:
            return ""
        with path.open("rb") as file:
            return file.read(limit_bytes).decode("utf-8", "replace")
    except (OSError, ValueError):
        return ""


def _lines(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if len(line) <= LIMIT_LINE)


def _hosts_in(path: Path) -> Iterator[str]:
    """The hosts that a settings file names, in URLs or, as ``.npmrc`` does, in ``//host/:_authToken``."""
    text = _text(path, LIMIT_SETTINGS_BYTES)
    for url in (*_URL.findall(text), *(f"https:{found}" for found in re.findall(r"(?<![:\w])//[A-Za-z0-9.:\[\]-]+", text))):
        if host := _any_host(url):
            yield host


def _any_host(url: str) -> str:
    try:
        return normal(urlsplit(url).hostname or "")
    except ValueError:
        return ""


def _host(url: str) -> str:
    """The host of a URL, empty if it can be no public registry's: an address, a name of one label or of a network of one's own."""
    if not _URL.match(url) or "@" in url.split("/", 3)[2]:
        return ""
    host = _any_host(url)
    last = host.rpartition(".")[2]
    return "" if last in ("", host) or last.isdigit() or last in _PRIVATE else host


def _is_same(one: str, other: str) -> bool:
    version = pypi_names.parse_version(one)
    return one == other or (version is not None and version == pypi_names.parse_version(other))


def _project(name: str) -> str:
    try:
        return pypi_names.normalise(name)
    except ValueError:
        return ""
