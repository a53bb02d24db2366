"""How each client is pointed at this edge, and back.

``CLIENTS`` is the table: where a client's configuration is, what it is written in, and which keys point it at an index. ``use`` and
``undo`` work on any row. They keep everything they do not have to change: files are edited as text, an edit is accepted only if
the file then reads as before but for our keys, and the original is saved before anything is written.

A record in ``<state>/leeward/use/`` remembers, for each file, its original bytes, our keys and what stood there, and the hashes of what
we wrote. A file that is still as we left it gets its bytes back; in one that was edited since, only keys that still hold our value are
taken back. Pointing a client elsewhere starts from the original again, so that nothing accumulates.
"""

from __future__ import annotations

import configparser
import contextlib
import copy
import fcntl
import hashlib
import io
import ipaddress
import os
import re
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec
import tomlkit
import tomlkit.exceptions
import tomlkit.items

from origin.settings import RegistrySettings, user_directory, web_url
from origin.toml_lines import KeyPath, key_spans


class ClientError(Exception):
    """A client's configuration cannot be changed; nothing was. The message is a sentence for the person."""


# ---- keys and changes -----------------------------------------------------------------------------------------------


class Member(msgspec.Struct, frozen=True):
    """The first table in an array of tables whose ``key`` is ``value``: one step of a path."""

    key: str
    value: str | bool


type Path_ = tuple[str | Member, ...]
"""Where a key is: ``("global", "index-url")``, ``("index", Member("default", True), "url")``. One that ends in a Member is a table."""

type Values = dict[str, Any]
"""What a file says, as nested tables."""


class Key(msgspec.Struct, frozen=True):
    """One key of ours: what we wrote, and what stood there, None if nothing did."""

    path: Path_
    value: Any
    before: Any = None


def _find(values: Any, path: Path_) -> Any:
    """What stands at ``path``, None if nothing does."""
    for step in path:
        if isinstance(step, Member):
            tables = [table for table in values if isinstance(table, dict)] if isinstance(values, list) else []
            values = next((table for table in tables if table.get(step.key) == step.value), None)
        else:
            values = values.get(step) if isinstance(values, dict) else None
        if values is None:
            return None
    return values


def _apply(values: Values, changes: Sequence[tuple[Path_, Any]], original: Values) -> Values:
    """``values`` with ``changes`` made.

    None takes a key away, and with it the tables above that become empty and were not in ``original``.
    """
    values = copy.deepcopy(values)
    for path, value in changes:
        if value is None:
            _take_away(values, path, original)
        else:
            _put(values, path, value)
    return values


def _put(values: Any, path: Path_, value: Any) -> None:
    for step, following in zip(path, (*path[1:], None), strict=True):
        if isinstance(step, Member):
            found = _find(values, (step,))
            if found is None:
                values.append(found := dict(value) if following is None else {step.key: step.value})
            values = found
        elif following is None:
            values[step] = value
        else:
            values = values.setdefault(step, [] if isinstance(following, Member) else {})


def _take_away(values: Any, path: Path_, original: Values) -> None:
    above = _find(values, path[:-1]) if len(path) > 1 else values
    if above is None or _find(above, path[-1:]) is None:
        return
    last = path[-1]
    if isinstance(last, Member):
        above.remove(_find(above, (last,)))
    else:
        del above[last]
    if not above and len(path) > 1 and _find(original, path[:-1]) is None:
        _take_away(values, path[:-1], original)


def _same(one: Any, other: Any) -> bool:
    """Whether two readings are equal: order of keys apart, and a NaN like a NaN."""

    def canonical(value: Any) -> Any:
        if isinstance(value, dict):
            return sorted((key, canonical(member)) for key, member in value.items())
        if isinstance(value, list):
            return [canonical(member) for member in value]
        return repr(value)

    return bool(canonical(one) == canonical(other))


# ---- formats --------------------------------------------------------------------------------------------------------


class Format(Protocol):
    """A configuration language: reading it, and ways of editing its text."""

    def read(self, text: str) -> Values:
        """Raises ``ValueError`` for text the client could not read either."""
        ...

    def edits(self, text: str, changes: Sequence[tuple[Path_, Any]], original: Values) -> tuple[Callable[[], str], ...]:
        """Ways to get the text with ``changes`` made, the one that keeps most first. A way that fails raises ``ValueError``."""
        ...


class INI:
    """What ``configparser`` reads, in pip's dialect: ``_`` and ``-`` in names are one, ``[DEFAULT]`` is a section like others."""

    def read(self, text: str) -> Values:
        parser = configparser.RawConfigParser(default_section="\0")
        try:
            parser.read_file(io.StringIO(text, newline=None))
        except configparser.Error as error:
            raise ValueError(" ".join(str(error).split())) from None
        return {section: {self._name(option): value for option, value in parser.items(section)} for section in parser.sections()}

    def edits(self, text: str, changes: Sequence[tuple[Path_, Any]], original: Values) -> tuple[Callable[[], str], ...]:
        return (lambda: self._by_lines(text, changes, original),)

    def _by_lines(self, text: str, changes: Sequence[tuple[Path_, Any]], original: Values) -> str:
        lines = text.split("\n")
        end = "\r" if "\r\n" in text else ""
        for path, value in changes:
            section, option = path
            assert isinstance(section, str)
            assert isinstance(option, str)
            if value is None:
                self._remove(lines, section, option, section in original)
            else:
                self._set(lines, section, option, value, end)
        return "\n".join(lines)

    def _set(self, lines: list[str], section: str, option: str, value: str, end: str) -> None:
        head, stop = self._section(lines, section)
        if head < 0:
            if lines[-1].strip():
                lines.append("")
            if len(lines) > 1 and lines[-2].strip():
                lines.insert(-1, end)
            lines[-1:] = [f"[{section}]{end}", *self._written("", option, value, end), ""]
            return
        found = self._options(lines, head, stop)
        mine = [place for place in found if self._name(place[0]) == option]
        for name, start, after in reversed(mine):
            indent = lines[start][: len(lines[start]) - len(lines[start].lstrip())]
            lines[start:after] = self._written(indent, name, value, end)
        if not mine:
            first = lines[found[0][1]] if found else ""
            written = self._written(first[: len(first) - len(first.lstrip())], option, value, end)
            # A header that ends the file without a newline needs one.
            if head + 1 == len(lines):
                lines.append("")
            lines[head + 1 : head + 1] = written

    def _remove(self, lines: list[str], section: str, option: str, keep_section: bool) -> None:
        head, stop = self._section(lines, section)
        for name, start, after in reversed(self._options(lines, head, stop) if head >= 0 else []):
            if self._name(name) == option:
                del lines[start:after]
        head, stop = self._section(lines, section)
        if head < 0 or keep_section or self._options(lines, head, stop):
            return
        if any(line.strip() for line in lines[head + 1 : stop]):
            # Somebody's comment: it stays, without the header it no longer belongs to.
            del lines[head]
        else:
            del lines[head:stop]
            if not lines or lines[-1].strip():
                lines.append("")

    @staticmethod
    def _name(option: str) -> str:
        return option.lower().replace("_", "-")

    @staticmethod
    def _written(indent: str, option: str, value: str, end: str) -> list[str]:
        first, *rest = value.split("\n")
        return [f"{indent}{option} = {first}".rstrip() + end, *(f"{indent}    {line}".rstrip() + end for line in rest)]

    @staticmethod
    def _section(lines: list[str], section: str) -> tuple[int, int]:
        """The line of the section's header and the line after the section; -1 if there is none."""
        head = -1
        for number, line in enumerate(lines):
            found = re.match(r"\[(.+)\]", line.strip()) if not line[:1].isspace() else None
            if found is not None:
                if head >= 0:
                    return head, number
                if found[1] == section:
                    head = number
        return head, len(lines)

    @staticmethod
    def _options(lines: list[str], head: int, stop: int) -> list[tuple[str, int, int]]:
        """Name, first line and line after of each option between ``head`` and ``stop``; values go on in deeper indented lines."""
        found: list[tuple[str, int, int]] = []
        indent = 0
        for number in range(head + 1, stop):
            line = lines[number]
            told = line.strip()
            if not told or told[0] in "#;":
                continue
            depth = len(line) - len(line.lstrip())
            if found and depth > indent:
                found[-1] = (*found[-1][:2], number + 1)
            else:
                indent = depth
                found.append((re.split(r"[=:]", told, maxsplit=1)[0].strip(), number, number + 1))
        return found


class TOML:
    """TOML: lines of their own are edited as text; what is written inline is left to tomlkit, which may move comments."""

    def read(self, text: str) -> Values:
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(str(error)) from None

    def edits(self, text: str, changes: Sequence[tuple[Path_, Any]], original: Values) -> tuple[Callable[[], str], ...]:
        return lambda: self._by_lines(text, changes, original), lambda: self._by_tomlkit(text, changes, original)

    def _by_lines(self, text: str, changes: Sequence[tuple[Path_, Any]], original: Values) -> str:
        for path, value in changes:
            text = self._without(text, path, original) if value is None else self._with(text, path, value)
        return text

    @staticmethod
    def _by_tomlkit(text: str, changes: Sequence[tuple[Path_, Any]], original: Values) -> str:
        try:
            document = tomlkit.parse(text)
            for path, value in changes:
                if value is None:
                    _take_away(document, path, original)
                else:
                    _put(document, path, value)
            return tomlkit.dumps(document)
        except (tomlkit.exceptions.TOMLKitError, AttributeError, KeyError, IndexError, TypeError) as error:
            raise ValueError(str(error)) from None

    def _with(self, text: str, path: Path_, value: Any) -> str:
        """``text`` with ``value`` at ``path``: in the place of what is there, beneath the table's header, or at the end."""
        spans = key_spans(text)
        end = "\r\n" if "\r\n" in text else "\n"
        at = self._indexed(text, path)
        if found := spans.get(at):
            return text[: found.value] + self._written(value) + text[found.stop :]
        pair = "" if isinstance(path[-1], Member) else f"{self._dotted(path[-1:])} = {self._written(value)}{end}"
        above = spans.get(at[:-1])
        if pair and above is not None and above.kind == "header":
            after = text.find("\n", above.stop) + 1
            return text[:after] + pair + text[after:] if after else text + end + pair
        if isinstance(path[-1], Member):
            added = f"[[{self._dotted(path)}]]{end}"
            added += "".join(f"{name} = {self._written(member)}{end}" for name, member in value.items())
        else:
            added = f"[{self._dotted(path[:-1])}]{end}{pair}"
        return text + (end if text and not text.endswith("\n") else "") + (end if text.strip() else "") + added

    def _without(self, text: str, path: Path_, original: Values) -> str:
        """``text`` without what is at ``path``, and without the header above it if that has nothing left and is not in ``original``."""
        at = self._indexed(text, path)
        spans = key_spans(text)
        mine = [span for key, span in spans.items() if key[: len(at)] == at and span.kind != "inline"]
        if not mine:
            return text
        start = text.rfind("\n", 0, min(span.start for span in mine)) + 1
        stop = text.find("\n", max(span.stop for span in mine)) + 1 or len(text)
        if spans.get(at) is not None and spans[at].kind == "header" and re.search(r"\n\r?\n\Z", text[:start]):
            # The empty line above a table came with it.
            start = text.rfind("\n", 0, start - 1) + 1
        text = text[:start] + text[stop:]
        above = path[:-1]
        emptied = above and not isinstance(path[-1], Member) and _find(self.read(text), above) == {}
        return self._without(text, above, original) if emptied and _find(original, above) is None else text

    def _indexed(self, text: str, path: Path_) -> KeyPath:
        """``path`` with the index of each Member; one that is not there has the index after the last."""
        at: KeyPath = ()
        values: Any = self.read(text)
        for step in path:
            if isinstance(step, Member):
                tables = values if isinstance(values, list) else []
                found = _find(tables, (step,))
                at = (*at, next((index for index, table in enumerate(tables) if table is found), len(tables)))
            else:
                at = (*at, step)
            values = _find(values, (step,))
        return at

    @staticmethod
    def _dotted(path: Path_) -> str:
        return ".".join(tomlkit.key(step).as_string() for step in path if isinstance(step, str))

    @staticmethod
    def _written(value: str | bool) -> str:
        return tomlkit.item(value).as_string()


def edited(format_: Format, text: str, changes: Sequence[tuple[Path_, Any]], original: Values) -> str:
    """``text`` with ``changes`` made and nothing else. Raises ``ValueError`` if it is unreadable or no way of editing keeps the rest."""
    values = format_.read(text)
    wanted = _apply(values, changes, original)
    if _same(values, wanted):
        return text
    for way in format_.edits(text, changes, original):
        with contextlib.suppress(ValueError):
            result = way()
            if _same(format_.read(result), wanted):
                return result
    raise ValueError("it is written in a way that cannot be edited without changing something else")


# ---- clients --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a person stands: variables and working directory."""

    environ: Mapping[str, str]
    directory: Path

    def config(self, *parts: str) -> Path:
        """A file beneath the user's configuration directory."""
        return user_directory(self.environ, "XDG_CONFIG_HOME", ".config").joinpath(*parts)

    def home(self) -> Path:
        return Path(self.environ["HOME"]) if self.environ.get("HOME") else Path.home()


@dataclass(frozen=True, slots=True)
class Client:
    """One row of the table. ``kind`` is the kind of registry it installs from.

    ``point`` gives the keys that point the client at an index URL, given what its file says now. ``once`` is the line that does the
    same for one run. ``overrides`` are variables that win over the file. ``notes`` are sentences for the person.
    """

    name: str
    kind: str
    format: Format
    path: Callable[[Surroundings], Path]
    point: Callable[[Values, str], list[tuple[Path_, Any]]]
    once: str
    overrides: tuple[str, ...] = ()
    notes: Callable[[Values], list[str]] = field(default=lambda _: [])
    must_exist: str = ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _needs_trust(url: str) -> str:
    """The ``host[:port]`` of a plain HTTP URL that does not stay on this machine, else ``""``: clients want to be told of those."""
    parts = urlsplit(url)
    if parts.scheme == "https" or _is_loopback(parts.hostname or ""):
        return ""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return f"{host}:{parts.port}" if parts.port else host


def _pip_path(here: Surroundings) -> Path:
    # pip reads the named file instead of the user's, but only if it exists.
    named = here.environ.get("PIP_CONFIG_FILE")
    current, legacy = here.config("pip", "pip.conf"), here.home() / ".pip" / "pip.conf"
    if named == os.devnull:
        raise ClientError(f"PIP_CONFIG_FILE={os.devnull} tells pip to read no configuration file; unset it first")
    if named and (Path(named).exists() or not (current.exists() or legacy.exists())):
        return Path(named)
    return legacy if legacy.exists() and not current.exists() else current


def _pip_point(values: Values, url: str) -> list[tuple[Path_, Any]]:
    # A command's own section wins over [global], so an index named there has to be pointed here as well.
    sections = [name for name, options in values.items() if name != "global" and "index-url" in options]
    keys: list[tuple[Path_, Any]] = [((section, "index-url"), url) for section in ("global", *sections)]
    if host := _needs_trust(url):
        trusted = str(_find(values, ("global", "trusted-host")) or "")
        if host not in trusted.split():
            keys.append((("global", "trusted-host"), f"{trusted}\n{host}" if trusted else host))
    return keys


def _pip_notes(values: Values) -> list[str]:
    if any("extra-index-url" in options for options in values.values()):
        return ["extra-index-url is set too: pip takes the highest version from any index, so those packages go past this edge"]
    return []


def _uv_point(values: Values, url: str) -> list[tuple[Path_, Any]]:
    # The first default index counts; it wins over index-url, also over that of [pip].
    if _find(values, ("index", Member("default", True))) is not None:
        return [(("index", Member("default", True), "url"), url)]
    return [(("index", Member("url", url)), {"url": url, "default": True})]


def _uv_notes(values: Values) -> list[str]:
    indexes = values.get("index", [])
    others = [entry for entry in indexes if isinstance(entry, dict) and not entry.get("default") and not entry.get("explicit")]
    if others or "extra-index-url" in values:
        return ["other indexes are configured and are asked first: their packages go past this edge"]
    return []


def _poetry_path(here: Surroundings) -> Path:
    for directory in (here.directory, *here.directory.parents):
        if (directory / "pyproject.toml").is_file():
            return directory / "pyproject.toml"
    return here.directory / "pyproject.toml"


def _poetry_point(values: Values, url: str) -> list[tuple[Path_, Any]]:
    source: Path_ = ("tool", "poetry", "source")
    named = Member("name", "leeward")
    if _find(values, (*source, named)) is not None:
        return [((*source, named, "url"), url), ((*source, named, "priority"), "primary")]
    return [((*source, named), {"name": "leeward", "url": url, "priority": "primary"})]


def _poetry_notes(values: Values) -> list[str]:
    sources = _find(values, ("tool", "poetry", "source")) or []
    notes = ["poetry.lock must be made anew: run poetry lock"]
    priorities = [s.get("priority", "primary") for s in sources if isinstance(s, dict) and s.get("name") != "leeward"]
    if "primary" in priorities:
        notes.append("other primary sources stay, and packages found there go past this edge")
    return notes


def _pdm_path(here: Surroundings) -> Path:
    named = here.environ.get("PDM_CONFIG_FILE")
    return Path(named) if named else here.config("pdm", "config.toml")


def _pdm_point(values: Values, url: str) -> list[tuple[Path_, Any]]:
    keys: list[tuple[Path_, Any]] = [(("pypi", "url"), url)]
    if _needs_trust(url):
        keys.append((("pypi", "verify_ssl"), False))
    return keys


def _uv_path(here: Surroundings) -> Path:
    named = here.environ.get("UV_CONFIG_FILE")
    return Path(named) if named else here.config("uv", "uv.toml")


CLIENTS: Mapping[str, Client] = {
    client.name: client
    for client in (
        Client(
            name="pip",
            kind="pypi",
            format=INI(),
            path=_pip_path,
            point=_pip_point,
            once="pip install --index-url {url} six",
            overrides=("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"),
            notes=_pip_notes,
        ),
        Client(
            name="uv",
            kind="pypi",
            format=TOML(),
            path=_uv_path,
            point=_uv_point,
            once="uv pip install --default-index {url} six",
            overrides=("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_NO_CONFIG"),
            notes=_uv_notes,
        ),
        Client(
            name="poetry",
            kind="pypi",
            format=TOML(),
            path=_poetry_path,
            point=_poetry_point,
            once="poetry source add --priority=primary leeward {url}",
            notes=_poetry_notes,
            must_exist="there is no pyproject.toml here or above; run this in a Poetry project",
        ),
        Client(
            name="pdm",
            kind="pypi",
            format=TOML(),
            path=_pdm_path,
            point=_pdm_point,
            once="PDM_PYPI_URL={url} pdm install",
            overrides=("PDM_PYPI_URL",),
        ),
    )
}
"""Every client that can be pointed here."""


# ---- records --------------------------------------------------------------------------------------------------------


class Record(msgspec.Struct, frozen=True):
    """What is remembered of one file. ``original`` is None if there was no file; ``written`` are SHA-256 of contents of ours."""

    client: str
    path: str
    original: bytes | None
    keys: tuple[Key, ...]
    written: tuple[str, ...]


class Records:
    """The records in one directory, one file each. Hold ``locked()`` around reading, writing the client's file, and saving."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def of_user(cls, environ: Mapping[str, str]) -> Records:
        return cls(user_directory(environ, "XDG_STATE_HOME", ".local/state") / "leeward" / "use")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands out."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def load(self, client: str, path: Path) -> Record | None:
        """The record of ``path``, None if there is none. Raises ``ClientError`` for one that cannot be read."""
        file = self._file(client, path)
        try:
            return msgspec.json.decode(file.read_bytes(), type=Record)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise ClientError(f"the record {file} of what was changed cannot be read: {error}") from None

    def save(self, record: Record) -> None:
        _replace(self._file(record.client, Path(record.path)), msgspec.json.encode(record), 0o600)

    def forget(self, record: Record) -> None:
        self._file(record.client, Path(record.path)).unlink(missing_ok=True)

    def others(self, client: str) -> list[str]:
        """The files of ``client`` that have a record."""
        found = []
        for file in sorted(self.directory.glob(f"{client}-*.json")):
            with contextlib.suppress(msgspec.DecodeError, OSError):
                found.append(msgspec.json.decode(file.read_bytes(), type=Record).path)
        return found

    def _file(self, client: str, path: Path) -> Path:
        return self.directory / f"{client}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.json"


# ---- use and undo ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, or would be. ``after`` is None where the file is (or would be) gone."""

    path: Path
    changed: bool
    after: bytes | None
    notes: tuple[str, ...] = ()


def use(client: Client, url: str, here: Surroundings, records: Records, write: bool = True) -> Outcome:
    """Point ``client`` at the index ``url``. With ``write`` false, only say what the file would be.

    Doing it twice is doing it once. Raises ``ClientError``, having changed nothing, or ``OSError``.
    """
    path = _real(client.path(here))
    with records.locked() if write else contextlib.nullcontext():
        current = _read(path)
        if current is None and client.must_exist:
            raise ClientError(client.must_exist)
        record = records.load(client.name, path)
        original = current if record is None else _taken_back(client, record, current)
        values = _values(client, path, original)
        keys = tuple(Key(at, value, _find(values, at)) for at, value in client.point(values, url))
        after = _edited(client, path, original, [(key.path, key.value) for key in keys], values)
        notes = [f"{name} is set, and wins over the file" for name in client.overrides if here.environ.get(name)]
        notes += client.notes(values)
        if write and not (after == current and record is not None):
            earlier = record if record is not None else Record(client.name, str(path), original, (), ())
            # Until the file is replaced it holds what an earlier run wrote: that must be known as ours too.
            kept = tuple(key for key in earlier.keys if key not in keys)
            hashes = tuple(dict.fromkeys((_hash(after), *earlier.written)))[:8]
            records.save(Record(client.name, str(path), original, keys + kept, hashes))
            _write(path, current, after, url)
    return Outcome(path, after != current, after, tuple(notes))


def undo(client: Client, here: Surroundings, records: Records, write: bool = True) -> Outcome:
    """Take back what ``use`` did: the file's bytes if nobody touched it since, else only keys that still hold our value.

    Raises ``ClientError``, having changed nothing, or ``OSError``.
    """
    path = _real(client.path(here))
    with records.locked() if write else contextlib.nullcontext():
        current = _read(path)
        record = records.load(client.name, path)
        if record is None:
            others = records.others(client.name)
            told = f"nothing was changed in {path}" + (f"; there is a record of {', '.join(others)}" if others else "")
            return Outcome(path, False, current, (told,))
        after = _taken_back(client, record, current)
        if write:
            if after != current:
                _write(path, current, after)
            records.forget(record)
    return Outcome(path, after != current, after)


def _taken_back(client: Client, record: Record, current: bytes | None) -> bytes | None:
    """The file as it would be had we never touched it."""
    if current is None or _hash(current) in record.written:
        return record.original if current is not None else None
    path = Path(record.path)
    values = _values(client, path, current)
    before = _values(client, path, record.original)
    changes: list[tuple[Path_, Any]] = []
    for key in record.keys:
        found = _find(values, key.path)
        # A table of ours is known by its address: what somebody added to it goes with it.
        ours = found is not None and (found == key.value or (isinstance(found, dict) and found.get("url") == key.value["url"]))
        if ours and key.path not in [path_ for path_, _ in changes]:
            changes.append((key.path, key.before))
    after = _edited(client, path, current, changes, before)
    return None if record.original is None and not after.strip() else after


def _values(client: Client, path: Path, content: bytes | None) -> Values:
    try:
        return client.format.read(_text(content or b""))
    except ValueError as error:
        raise ClientError(f"{path} cannot be read as {client.name} reads it, so nothing was changed: {error}") from None


def _edited(client: Client, path: Path, content: bytes | None, changes: list[tuple[Path_, Any]], original: Values) -> bytes:
    try:
        return edited(client.format, _text(content or b""), changes, original).encode("utf-8", "surrogateescape")
    except ValueError as error:
        wanted = "; ".join(f"{_spelled(at)} = {value}" for at, value in changes)
        raise ClientError(f"{path} was not changed: {error}. Change it by hand: {wanted}") from None


def _spelled(path: Path_) -> str:
    return ".".join(step if isinstance(step, str) else f"[{step.key} = {step.value}]" for step in path)


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---- files ----------------------------------------------------------------------------------------------------------


def _real(path: Path) -> Path:
    """``path`` with symbolic links followed: a link stays one, and what it names is replaced."""
    return path.resolve()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _write(path: Path, expected: bytes | None, content: bytes | None, url: str = "") -> None:
    """Put ``content`` at ``path`` (None: remove the file), unless something else than ``expected`` is there by now."""
    if _read(path) != expected:
        raise ClientError(f"{path} was changed by something else just now; nothing was written, try again")
    if content is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # A new file is for its owner alone if the address in it holds credentials.
    _replace(path, content, 0o600 if "@" in urlsplit(url).netloc else 0o644)


def _replace(path: Path, content: bytes, new_mode: int) -> None:
    """Write beside and rename, so that nobody ever sees half a file. Mode and owner stay as they are."""
    try:
        before = path.stat()
    except FileNotFoundError:
        before = None
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, before.st_mode & 0o7777 if before is not None else new_mode)
            if before is not None:
                with contextlib.suppress(PermissionError):
                    os.fchown(descriptor, before.st_uid, before.st_gid)
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


# ---- addresses ------------------------------------------------------------------------------------------------------


def index_url(client: Client, address: str, registries: Mapping[str, RegistrySettings]) -> str:
    """The index URL for ``client``: ``address`` itself if it is one, else the edge's address with the instance's path added.

    Raises ``ClientError`` for something that is no address, or if no instance of the client's kind is configured.
    """
    try:
        web_url(address)
    except ValueError as error:
        raise ClientError(str(error)) from None
    if address.rstrip("/").endswith("/simple"):
        return address.rstrip("/") + "/"
    found = [registry for name, registry in registries.items() if client.kind in (name, registry.kind)]
    found.sort(key=lambda registry: registry is not registries.get(client.kind))
    if not found:
        raise ClientError(f"no {client.kind} registry is configured for {client.name}")
    base = address.rstrip("/") + "/"
    path = found[0].path
    return (base if base.endswith(path) else base.removesuffix("/") + path) + "simple/"


def how_to(base_url: str, registries: Mapping[str, RegistrySettings]) -> str:
    """How to point each client at the edge that answers at ``base_url``: text for a person's terminal."""
    parts = []
    for name, registry in registries.items():
        mine = [client for client in CLIENTS.values() if client.kind == registry.kind]
        if not mine:
            continue
        url = f"{base_url.rstrip('/')}{registry.path}simple/"
        by_default = registry is registries.get(registry.kind) or registry.kind not in registries
        parts.append(f"{name}: {url}")
        for client in mine:
            command = f"edge use {client.name}" + ("" if by_default else f" --url {url}")
            parts.append(f"  {client.name:<7} {command:<18} or once: {client.once.format(url=url)}")
        parts.append("  edge use pip --undo takes it back. Make it the only index: never add it with --extra-index-url,")
        parts.append("  which lets packages from elsewhere win unchecked.")
    return "\n".join(parts)
