"""Pointing any client here and back: what a row of the table is, and ``use`` and ``undo``, which work on any row.

They keep everything they do not have to change (``configfiles``), and save the original before anything is written.

A record in ``<state>/leeward/use/`` remembers, for each file, its original bytes, our keys and what stood there, and the hashes of what
we wrote. A file that is still as we left it, or is gone, gets its bytes back; in one that was edited since, only keys that still hold
our value are taken back. Pointing a client elsewhere starts from the original again, so that nothing accumulates.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import ipaddress
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from origin.settings import home_directory, user_directory

from ..configfiles import Format, KeyAt, Values, edited, find


class ClientError(Exception):
    """A client's configuration cannot be changed; nothing was. The message is a sentence for the person."""


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
        return home_directory(self.environ)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file that points a client somewhere. ``point`` gives the keys that do so for an address, given what the file says now.

    ``must_exist`` is the sentence for a person without the file, where it is not ours to make.
    """

    format: Format
    path: Callable[[Surroundings], Path]
    point: Callable[[Values, str], list[tuple[KeyAt, Any]]]
    must_exist: str = ""


@dataclass(frozen=True, slots=True)
class Client:
    """One row of the table. ``kind`` is the kind of registry it installs from, ``files`` are written together.

    ``once`` is the line that does the same for one run. ``overrides`` are variables that win over the files. ``notes`` are sentences
    for the person, given what each file says and the address. ``shares`` names the client whose files these are too.
    """

    name: str
    kind: str
    files: tuple[ConfigFile, ...]
    once: str
    overrides: tuple[str, ...] = ()
    notes: Callable[[Surroundings, Sequence[Values], str], list[str]] = field(default=lambda _here, _values, _url: [])
    shares: str = ""

    @property
    def recorded_as(self) -> str:
        """The name records are kept under: clients that read the same file are pointed and undone as one."""
        return self.shares or self.name


def is_loopback(host: str) -> bool:
    """Whether a host, as a URL has it, is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def needs_trust(url: str) -> str:
    """The ``host[:port]`` of a plain HTTP URL that does not stay on this machine, else ``""``: clients want to be told of those."""
    parts = urlsplit(url)
    if parts.scheme == "https" or is_loopback(parts.hostname or ""):
        return ""
    return f"{host_of(url)}:{parts.port}" if parts.port else host_of(url)


def host_of(url: str) -> str:
    """The host as a URL spells it, an IPv6 address in brackets."""
    host = urlsplit(url).hostname or ""
    return f"[{host}]" if ":" in host else host


# ---- records --------------------------------------------------------------------------------------------------------


class Key(msgspec.Struct, frozen=True):
    """One key of ours: what we wrote, and what stood there, None if nothing did."""

    path: KeyAt
    value: Any
    before: Any = None


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

    def beside(self, record: Record) -> list[Record]:
        """The records that others have of the same file."""
        suffix = self._file("", Path(record.path)).name
        found = []
        for file in sorted(self.directory.glob(f"*{suffix}")):
            with contextlib.suppress(msgspec.DecodeError, OSError):
                other = msgspec.json.decode(file.read_bytes(), type=Record)
                if other.client != record.client and other.path == record.path:
                    found.append(other)
        return found

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
class FileOutcome:
    """What was done to one file, or would be. ``after`` is None where it is (or would be) gone."""

    path: Path
    before: bytes | None
    after: bytes | None

    @property
    def changed(self) -> bool:
        return self.after != self.before


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, or would be, to a client's files. ``path`` and ``after`` are those of the first."""

    files: tuple[FileOutcome, ...]
    notes: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        return any(file.changed for file in self.files)

    @property
    def path(self) -> Path:
        return self.files[0].path

    @property
    def after(self) -> bytes | None:
        return self.files[0].after


def use(client: Client, url: str, here: Surroundings, records: Records, write: bool = True) -> Outcome:
    """Point ``client`` at ``url``. With ``write`` false, only say what its files would be.

    Doing it twice is doing it once. Raises ``ClientError``, having changed nothing, or ``OSError``.
    """
    done: list[FileOutcome] = []
    said: list[Values] = []
    to_save: list[Record] = []
    with records.locked() if write else contextlib.nullcontext():
        for config in client.files:
            path = _real(config.path(here))
            current = _read(path)
            if current is None and config.must_exist:
                raise ClientError(config.must_exist)
            record = records.load(client.recorded_as, path)
            original = current if record is None else _taken_back(config, record, current)
            values = _values(config, path, original)
            keys = tuple(Key(at, value, find(values, at)) for at, value in config.point(values, url))
            after = _edited(config, path, original, [(key.path, key.value) for key in keys], values)
            done.append(FileOutcome(path, current, after))
            said.append(values)
            if after == current and record is not None:
                continue
            earlier = record if record is not None else Record(client.recorded_as, str(path), original, (), ())
            # Until the file is replaced it holds what an earlier run wrote: that must be known as ours too.
            kept = tuple(key for key in earlier.keys if key not in keys)
            hashes = tuple(dict.fromkeys((_hash(after), *earlier.written)))[:8]
            to_save.append(Record(client.recorded_as, str(path), original, keys + kept, hashes))
        if write:
            _check(done)
            for record in to_save:
                records.save(record)
            for outcome in done:
                if outcome.changed:
                    _write(outcome.path, outcome.before, outcome.after, url)
    notes = [f"{name} is set, and wins over the file" for name in client.overrides if here.environ.get(name)]
    return Outcome(tuple(done), (*notes, *client.notes(here, said, url)))


def undo(client: Client, here: Surroundings, records: Records, write: bool = True) -> Outcome:
    """Take back what ``use`` did: a file's bytes if nobody touched it since or it is gone, else only keys that still hold our value.

    Raises ``ClientError``, having changed nothing, or ``OSError``.
    """
    done: list[FileOutcome] = []
    notes: list[str] = []
    found: list[Record] = []
    beside: list[Record] = []
    with records.locked() if write else contextlib.nullcontext():
        for config in client.files:
            path = _real(config.path(here))
            current = _read(path)
            record = records.load(client.recorded_as, path)
            if record is None:
                done.append(FileOutcome(path, current, current))
                continue
            found.append(record)
            after = _taken_back(config, record, current)
            done.append(FileOutcome(path, current, after))
            notes += _theirs(config, record, after)
            theirs = records.beside(record)
            beside += [_without(config, record, other, current, after) for other in theirs]
            notes += [f"what edge use {_command(other.client)} wrote to {path} stays" for other in theirs]
        if not found:
            told = f"nothing was changed in {' and '.join(str(outcome.path) for outcome in done)}"
            others = records.others(client.recorded_as)
            return Outcome(tuple(done), (told + (f"; there is a record of {', '.join(others)}" if others else ""),))
        if write:
            _check(done)
            for outcome in done:
                if outcome.changed:
                    _write(outcome.path, outcome.before, outcome.after)
            for record in found:
                records.forget(record)
            for other in beside:
                records.save(other)
    return Outcome(tuple(done), tuple(notes))


def _without(config: ConfigFile, record: Record, other: Record, current: bytes | None, after: bytes | None) -> Record:
    """``other``, of the same file, as it would be had ``record`` never been: neither brings back what the other one wrote."""
    original = other.original if other.original is None else _taken_back(config, record, other.original)
    written = other.written
    if current is not None and after is not None and _hash(current) in written:
        # As it left the file, nobody but us touched it.
        written = (_hash(after), *written)[:8]
    return msgspec.structs.replace(other, original=original, written=written)


def _command(recorded_as: str) -> str:
    """What a person types for the client of a record."""
    return f"--proxy {recorded_as.removeprefix('proxy-')}" if recorded_as.startswith("proxy-") else recorded_as


def _check(outcomes: Sequence[FileOutcome]) -> None:
    """Raise ``ClientError`` if any of the files is no longer what the decision was made on."""
    for outcome in outcomes:
        if _read(outcome.path) != outcome.before:
            raise ClientError(f"{outcome.path} was changed by something else just now; nothing was written, try again")


def _taken_back(config: ConfigFile, record: Record, current: bytes | None) -> bytes | None:
    """The file as it would be had we never touched it."""
    if current is None or _hash(current) in record.written:
        # Where there was something before us, a file that is gone does not take it along: the record is the only copy.
        return record.original
    path = Path(record.path)
    values = _values(config, path, current)
    before = _values(config, path, record.original)
    changes: list[tuple[KeyAt, Any]] = []
    for key in record.keys:
        found = find(values, key.path)
        if _is_ours(key, found) and key.path not in [path_ for path_, _ in changes]:
            changes.append((key.path, key.before))
    after = _edited(config, path, current, changes, before)
    return None if record.original is None and not after.strip() else after


def _is_ours(key: Key, found: Any) -> bool:
    """Whether what stands at the key is what we wrote. A table of ours is known by its address: what somebody added goes with it."""
    if isinstance(found, dict) and isinstance(key.value, dict):
        return all(found.get(part) == key.value.get(part) for part in ("url", "host", "port"))
    return bool(found == key.value)


def _theirs(config: ConfigFile, record: Record, content: bytes | None) -> tuple[str, ...]:
    """A sentence for each key of ours that somebody changed since, and that therefore stays."""
    if content is None or content == record.original:
        return ()
    values = _values(config, Path(record.path), content)
    before = _values(config, Path(record.path), record.original)
    changed = {_spelled(key.path): find(values, key.path) for key in record.keys if find(values, key.path) is not None}
    original = {_spelled(key.path): find(before, key.path) for key in record.keys}
    return tuple(f"{name} was changed since, and stays as it is" for name, value in changed.items() if value != original[name])


def _values(config: ConfigFile, path: Path, content: bytes | None) -> Values:
    try:
        return config.format.read(_text(content or b""))
    except ValueError as error:
        raise ClientError(f"{path} cannot be read, so nothing was changed: {error}") from None


def _edited(config: ConfigFile, path: Path, content: bytes | None, changes: list[tuple[KeyAt, Any]], original: Values) -> bytes:
    try:
        return edited(config.format, _text(content or b""), changes, original).encode("utf-8", "surrogateescape")
    except ValueError as error:
        wanted = "; ".join(f"{_spelled(at)} = {value}" for at, value in changes)
        raise ClientError(f"{path} was not changed: {error}. Change it by hand: {wanted}") from None


def _spelled(path: KeyAt) -> str:
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
