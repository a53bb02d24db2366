"""How each client is pointed at this edge, and back.

``CLIENTS`` is the table: where a client's configuration is, what it is written in, and which keys point it at an index. ``use`` and
``undo`` work on any row. They keep everything they do not have to change (``configfiles.py``), and save the original before anything
is written.

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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from origin.settings import RegistrySettings, user_directory, web_url

from .configfiles import INI, TOML, Format, KeyAt, Member, Values, edited, find
from .settings import DEFAULT_LISTEN


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
    point: Callable[[Values, str], list[tuple[KeyAt, Any]]]
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


def _pip_point(values: Values, url: str) -> list[tuple[KeyAt, Any]]:
    # A command's own section wins over [global], so an index named there has to be pointed here as well.
    sections = [name for name, options in values.items() if name != "global" and "index-url" in options]
    keys: list[tuple[KeyAt, Any]] = [((section, "index-url"), url) for section in ("global", *sections)]
    if host := _needs_trust(url):
        trusted = str(find(values, ("global", "trusted-host")) or "")
        if host not in trusted.split():
            keys.append((("global", "trusted-host"), f"{trusted}\n{host}" if trusted else host))
    return keys


def _pip_notes(values: Values) -> list[str]:
    if any("extra-index-url" in options for options in values.values()):
        return ["extra-index-url is set too: pip takes the highest version from any index, so those packages go past this edge"]
    return []


def _uv_point(values: Values, url: str) -> list[tuple[KeyAt, Any]]:
    # The first default index counts; it wins over index-url, also over that of [pip].
    if find(values, ("index", Member("default", True))) is not None:
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


def _poetry_point(values: Values, url: str) -> list[tuple[KeyAt, Any]]:
    source: KeyAt = ("tool", "poetry", "source")
    named = Member("name", "leeward")
    if find(values, (*source, named)) is not None:
        return [((*source, named, "url"), url), ((*source, named, "priority"), "primary")]
    return [((*source, named), {"name": "leeward", "url": url, "priority": "primary"})]


def _poetry_notes(values: Values) -> list[str]:
    sources = find(values, ("tool", "poetry", "source")) or []
    notes = ["poetry.lock must be made anew: run poetry lock"]
    priorities = [s.get("priority", "primary") for s in sources if isinstance(s, dict) and s.get("name") != "leeward"]
    if "primary" in priorities:
        notes.append("other primary sources stay, and packages found there go past this edge")
    return notes


def _pdm_path(here: Surroundings) -> Path:
    named = here.environ.get("PDM_CONFIG_FILE")
    return Path(named) if named else here.config("pdm", "config.toml")


def _pdm_point(values: Values, url: str) -> list[tuple[KeyAt, Any]]:
    keys: list[tuple[KeyAt, Any]] = [(("pypi", "url"), url)]
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
        keys = tuple(Key(at, value, find(values, at)) for at, value in client.point(values, url))
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
    """Take back what ``use`` did: the file's bytes if nobody touched it since or it is gone, else only keys that still hold our value.

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
        notes = _theirs(client, record, after)
    return Outcome(path, after != current, after, notes)


def _taken_back(client: Client, record: Record, current: bytes | None) -> bytes | None:
    """The file as it would be had we never touched it."""
    if current is None or _hash(current) in record.written:
        # Where there was something before us, a file that is gone does not take it along: the record is the only copy.
        return record.original
    path = Path(record.path)
    values = _values(client, path, current)
    before = _values(client, path, record.original)
    changes: list[tuple[KeyAt, Any]] = []
    for key in record.keys:
        found = find(values, key.path)
        if _is_ours(key, found) and key.path not in [path_ for path_, _ in changes]:
            changes.append((key.path, key.before))
    after = _edited(client, path, current, changes, before)
    return None if record.original is None and not after.strip() else after


def _is_ours(key: Key, found: Any) -> bool:
    """Whether what stands at the key is what we wrote. A table of ours is known by its address: what somebody added goes with it."""
    if isinstance(found, dict) and isinstance(key.value, dict):
        return bool(found.get("url") == key.value["url"])
    return bool(found == key.value)


def _theirs(client: Client, record: Record, content: bytes | None) -> tuple[str, ...]:
    """A sentence for each key of ours that somebody changed since, and that therefore stays."""
    if content is None or content == record.original:
        return ()
    values = _values(client, Path(record.path), content)
    before = _values(client, Path(record.path), record.original)
    changed = {_spelled(key.path): find(values, key.path) for key in record.keys if find(values, key.path) is not None}
    original = {_spelled(key.path): find(before, key.path) for key in record.keys}
    return tuple(f"{name} was changed since, and stays as it is" for name, value in changed.items() if value != original[name])


def _values(client: Client, path: Path, content: bytes | None) -> Values:
    try:
        return client.format.read(_text(content or b""))
    except ValueError as error:
        raise ClientError(f"{path} cannot be read as {client.name} reads it, so nothing was changed: {error}") from None


def _edited(client: Client, path: Path, content: bytes | None, changes: list[tuple[KeyAt, Any]], original: Values) -> bytes:
    try:
        return edited(client.format, _text(content or b""), changes, original).encode("utf-8", "surrogateescape")
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
        parts.append(f"{name}: {url}")
        for client in mine:
            # Only where everything is at its default is the command sure to find this address by itself.
            by_default = url == f"http://{DEFAULT_LISTEN}/{client.kind}/simple/"
            command = f"edge use {client.name}" + ("" if by_default else f" --url {url}")
            parts.append(f"  {client.name:<7} {command:<16}  or once: {client.once.format(url=url)}")
        parts.append(
            f"  edge use {mine[0].name} --undo takes it back. Make it the only index: never add it with --extra-index-url,"
        )
        parts.append("  which lets packages from elsewhere win unchecked.")
    return "\n".join(parts)
