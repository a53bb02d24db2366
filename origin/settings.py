"""Settings: defaults, then the TOML file, then environment variables, then options; each checked, each complaint with its place.

The tables that both kinds of node have are here, with the reading of layers; ``edge/settings.py`` adds what only an edge has.
A settings class is a frozen ``msgspec.Struct``. Its field names carry units, its keys do not: a field ``fresh_s`` is the key
``fresh`` and takes a duration (``"10m"``), a field ``limit_bytes`` is the key ``limit`` and takes a size (``"10GB"``).

A place is ``edge.toml:12``, ``EDGE_LISTEN`` or ``--listen``. Secrets appear in no ``repr`` and in no complaint.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
import types
from collections import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin
from urllib.parse import urlsplit

import msgspec

from .logs import without_userinfo
from .registries import Options
from .toml_lines import KeyPath, key_lines
from .words import duration_s, listen_address, shown, size_bytes, web_url

SECRETS = frozenset({"password", "token", "users"})
"""Fields whose values are never shown."""


class SettingsError(ValueError):
    """A setting cannot be used. The message is one sentence for the operator, beginning with the place."""


# ---- tables ---------------------------------------------------------------------------------------------------------


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of settings whose ``repr`` shows no secret."""

    def __repr__(self) -> str:
        shown = []
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name in SECRETS and value:
                value = "…"
            elif isinstance(value, str):
                value = without_userinfo(value)
            shown.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


class RegistrySettings(Table, frozen=True, kw_only=True):
    """One instance of a registry. ``upstream`` and ``path`` end in ``/``; ``upstream`` never holds credentials.

    ``fresh_s`` caps the life upstream gives its pages. ``removed`` says what becomes of held files that left their page.
    ``page_limit_bytes`` and ``file_limit_bytes`` bound what is accepted from upstream, after decompression; ``pages_at_once`` and
    ``files_at_once`` how many requests of each kind it sees at a time.

    ``keys`` is a file of the keys that signatures are checked by: npm's key document, OpenPGP certificates for Maven. Without it none
    are, and files that are held already are not checked again.
    ``signatures`` says what becomes of files that have none (npm, Maven). ``audit`` says what becomes of audits, which tell upstream
    all that a project uses (npm). ``groups`` are the name patterns that this instance alone answers for where several share a path
    (Maven).
    """

    kind: str
    upstream: str
    path: str
    aliases: tuple[str, ...] = ()
    fresh_s: float = msgspec.field(default=600.0, name="fresh")
    removed: Literal["refuse", "serve"] = "refuse"
    username: str | None = None
    password: str | None = None
    token: str | None = None
    keys: Path | None = None
    signatures: Literal["check", "require"] = "check"
    audit: Literal["forward", "empty", "off"] = "forward"
    groups: tuple[str, ...] = ()
    page_limit_bytes: int = msgspec.field(default=256 * 1000 * 1000, name="page_limit")
    file_limit_bytes: int = msgspec.field(default=16 << 30, name="file_limit")
    pages_at_once: int = 64
    files_at_once: int = 64


class UpstreamSettings(Table, frozen=True, kw_only=True):
    """How upstreams are reached. ``proxy`` is a URL and may hold credentials; ``ca`` is added to the operating system's store.

    ``connect_timeout_s`` bounds a connection try, ``answer_timeout_s`` the wait for the first byte of an answer, ``idle_timeout_s`` the
    wait for the next one: by default whoever asked has an answer within 2 and 10 s. ``rate`` is how many requests may be sent to each
    of them in a second, 0 for any number.
    """

    proxy: str | None = None
    ca: Path | None = None
    rate: int = 0
    connect_timeout_s: float = msgspec.field(default=1.9, name="connect_timeout")
    answer_timeout_s: float = msgspec.field(default=9.8, name="answer_timeout")
    idle_timeout_s: float = msgspec.field(default=15.0, name="idle_timeout")


class LimitSettings(Table, frozen=True, kw_only=True):
    """What one client may ask of the HTTP server before it is told to stop."""

    connections: int = 4096
    header_bytes: int = msgspec.field(default=64 << 10, name="header")
    body_bytes: int = msgspec.field(default=10_000_000, name="body")
    handshake_timeout_s: float = msgspec.field(default=10.0, name="handshake_timeout")
    header_timeout_s: float = msgspec.field(default=20.0, name="header_timeout")
    body_timeout_s: float = msgspec.field(default=60.0, name="body_timeout")
    idle_timeout_s: float = msgspec.field(default=75.0, name="idle_timeout")
    send_timeout_s: float = msgspec.field(default=60.0, name="send_timeout")


class ServerSettings(Table, frozen=True, kw_only=True):
    """The node's own HTTP server.

    ``drain_s`` is how long a stopping node lets transfers go on. ``public_urls`` are the base URLs clients may use besides the
    listener's own addresses, without a trailing slash. ``trusted_proxies`` are addresses or networks whose ``X-Forwarded-*``
    counts.
    """

    drain_s: float = msgspec.field(default=30.0, name="drain")
    public_urls: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    limits: LimitSettings = LimitSettings()


class TLSSettings(Table, frozen=True, kw_only=True):
    """The certificate the node shows, with its chain, and its key, both PEM; both or neither. Changed files are read again by themselves.

    With them the listener takes TLS and plain HTTP (which proxy clients need) on the same port, unless ``only`` is set.
    """

    cert: Path | None = None
    key: Path | None = None
    only: bool = False


class StoreSettings(Table, frozen=True, kw_only=True):
    """``limit_bytes`` of blobs on disk, None for as much as fits; ``memory_bytes`` of rendered answers held in memory.

    ``spool_memory_bytes`` bounds the files that pass through memory, all together, while the disk takes no more.
    """

    limit_bytes: int | None = msgspec.field(default=None, name="limit")
    memory_bytes: int = msgspec.field(default=64 << 20, name="memory")
    spool_memory_bytes: int = msgspec.field(default=256 << 20, name="spool_memory")


class LogSettings(Table, frozen=True, kw_only=True):
    """What is told on standard error, and whether as JSON lines."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    json: bool = False


RANGES: Mapping[str, Mapping[str, tuple[str | int, str | int]]] = {
    "RegistrySettings": {
        "fresh": ("0s", "365d"),
        "page_limit": ("1kB", "4GB"),
        "file_limit": ("1kB", "1PB"),
        "pages_at_once": (1, 10_000),
        "files_at_once": (1, 10_000),
    },
    "UpstreamSettings": {
        "rate": (0, 1_000_000),
        "connect_timeout": ("10ms", "1h"),
        "answer_timeout": ("10ms", "1h"),
        "idle_timeout": ("10ms", "1h"),
    },
    "LimitSettings": {
        "connections": (1, 1_000_000),
        "header": ("1kB", "16MB"),
        "body": ("1B", "1GB"),
        "handshake_timeout": ("10ms", "1d"),
        "header_timeout": ("10ms", "1d"),
        "body_timeout": ("10ms", "1d"),
        "idle_timeout": ("10ms", "1d"),
        "send_timeout": ("10ms", "1d"),
    },
    "ServerSettings": {"drain": ("0s", "1d")},
    "ProxySettings": {"idle": ("1s", "1d"), "ports": (1, 65535)},
    "ReplicateSettings": {
        "limit": ("1kB", "1000PB"),
        "at_once": (1, 256),
        "lease": ("10s", "365d"),
        "compare": ("10s", "30d"),
    },
    "FleetSettings": {"lease": ("1s", "365d"), "popular": (1, 1_000_000)},
    "StoreSettings": {"limit": ("1kB", "1000PB"), "memory": ("0B", "1PB"), "spool_memory": ("0B", "1PB")},
}
"""The least and the most each number may be, by table and key, as words of the settings file: beyond them a node cannot work."""


def _require_range(table: type[Table], key: str, value: object) -> None:
    """Raises ``ValueError`` if ``RANGES`` has a row for the key and a number is outside it."""
    least, most = RANGES.get(table.__name__, {}).get(key, (None, None))
    if least is None or most is None or not isinstance(value, int | float):
        return
    number: Callable[[object], float] = duration_s if str(least).endswith("s") else size_bytes
    if not number(least) <= value <= number(most):
        raise ValueError(f"must be from {least} to {most}")


# ---- layers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A value not yet decoded.

    ``text`` is true where every value is text: variables and options. Relative paths are beneath ``base``.
    """

    value: object
    place: str
    base: Path
    text: bool


type _Tree = dict[str, _Leaf | _Tree]


@dataclass(slots=True)
class Layers:
    """Settings as they come, later layers over earlier ones; decoded by ``decode``.

    ``program`` is ``"edge"`` or ``"origin"``: the prefix of its variables.
    """

    program: str
    tree: _Tree = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)
    file_name: str = "the defaults"

    def add_file(self, path: Path) -> None:
        """Lay the TOML file at ``path`` over what is there. Raises ``SettingsError``."""
        document, lines = read_toml(path)
        self.file_name = str(path)
        self.places.update({key: f"{path}:{line}" for key, line in lines.items()})
        self._lay(document, (), path.absolute().parent)

    def add_environment(self, environ: Mapping[str, str], ignore: Iterable[str] = ()) -> None:
        """Lay ``EDGE_LISTEN``, ``EDGE_REGISTRIES__PYPI__UPSTREAM`` and the like over what is there.

        White space around a value is no part of it: what is made from a file often ends in a newline. A variable set to nothing
        counts as unset. Variables that Kubernetes makes for a service named like the program are
        passed over. Raises ``SettingsError`` for one that is no setting.
        """
        prefix = self.program.upper() + "_"
        for variable, text in sorted(environ.items()):
            if not variable.startswith(prefix) or not text.strip() or variable in ignore or _KUBERNETES.search(variable):
                continue
            keys = self._spelled(tuple(variable[len(prefix) :].lower().split("__")))
            if keys[0] == "rules":
                raise SettingsError(f"{variable}: rules are read from the settings file only")
            self._set(keys, _Leaf(text.strip(), variable, Path.cwd(), True))

    def add_options(self, options: Mapping[str, object]) -> None:
        """Lay command-line options over what is there: dotted key to value, None if not given."""
        for dotted, value in options.items():
            if value is not None:
                name = "--" + dotted.replace(".", "-").replace("_", "-")
                self._set(tuple(dotted.split(".")), _Leaf(value, name, Path.cwd(), isinstance(value, str)))

    def add_default(self, key: str, value: object) -> None:
        """Set a top-level key that no layer has set."""
        self.tree.setdefault(key, _Leaf(value, "the defaults", Path.cwd(), False))

    def place(self, path: KeyPath) -> str:
        """Where ``path``, or else what it stands in, was set."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.file_name

    def error(self, path: KeyPath, reason: str) -> SettingsError:
        """A complaint about ``path``."""
        dotted = ".".join(str(key) for key in path)
        return SettingsError(f"{self.place(path)}: {dotted}: {reason}" if dotted else f"{self.place(path)}: {reason}")

    def decode[T: Table](self, table: type[T]) -> T:
        """Decode the top level into ``table``. Raises ``SettingsError``."""
        return self._table(table, self.tree, ())

    # -- building the tree

    def _lay(self, values: Mapping[str, object], path: tuple[str, ...], base: Path) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                self._subtree((*path, key))
                self._lay(value, (*path, key), base)
            else:
                self._set((*path, key), _Leaf(value, self.place((*path, key)), base, False))

    def _subtree(self, path: tuple[str, ...]) -> _Tree:
        tree = self.tree
        for key in path:
            found = tree.setdefault(key, {})
            if isinstance(found, _Leaf):
                found = tree[key] = {}
            tree = found
        return tree

    def _set(self, path: tuple[str, ...], leaf: _Leaf) -> None:
        self._subtree(path[:-1])[path[-1]] = leaf
        self.places[path] = leaf.place
        for length in range(1, len(path)):
            self.places.setdefault(path[:length], leaf.place)

    def _spelled(self, keys: tuple[str, ...]) -> tuple[str, ...]:
        """``keys`` with an instance's name as the file spells it: variables have no ``-`` and no ``.``."""
        registries = self.tree.get("registries")
        if keys[0] == "registries" and len(keys) > 1 and isinstance(registries, dict):
            for name in registries:
                if re.sub(r"[-.]", "_", name) == keys[1]:
                    return (keys[0], name, *keys[2:])
        return keys

    # -- decoding it

    def _table[T: Table](self, table: type[T], tree: _Tree | _Leaf, path: KeyPath) -> T:
        if isinstance(tree, _Leaf):
            raise self.error(path, "is a table of settings, not a value")
        fields = {known.encode_name: known for known in msgspec.structs.fields(table)}
        values: dict[str, object] = {}
        for key, found in tree.items():
            known = fields.get(key)
            if known is None:
                near = difflib.get_close_matches(key, fields, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(fields)}"
                raise self.error((*path, key), f"unknown setting{hint}")
            value = values[known.name] = self._value(known.name, known.type, found, (*path, key))
            try:
                _require_range(table, key, value)
            except ValueError as error:
                raise self.error((*path, key), str(error)) from None
        if table is RegistrySettings:
            complete_registry(values, str(path[-1]), lambda key, reason: self.error((*path, key), reason))
        return table(**values)

    def _value(self, name: str, wanted: Any, found: _Leaf | _Tree, path: KeyPath) -> object:
        if isinstance(wanted, type) and issubclass(wanted, Table):
            return self._table(wanted, found, path)
        if get_origin(wanted) is abc.Mapping:
            return self._mapping(get_args(wanted)[1], found, path)
        if not isinstance(found, _Leaf):
            raise self.error(path, "is a value, not a table of settings")
        try:
            return _decode(name, wanted, found)
        except (ValueError, msgspec.ValidationError) as error:
            reason = str(error) if name not in SECRETS else "not a text"
            if get_origin(wanted) is Literal:
                reason = f"one of {', '.join(get_args(wanted))}"
            raise self.error(path, reason) from None

    def _mapping(self, wanted: Any, found: _Leaf | _Tree, path: KeyPath) -> dict[str, object]:
        if isinstance(found, _Leaf):
            raise self.error(path, "is a table, not a value")
        return {key: self._value(str(path[-1]), wanted, value, (*path, key)) for key, value in found.items()}


_KUBERNETES = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_(TCP|UDP|SCTP)(_.*)?)?)$")


def _decode(name: str, wanted: Any, leaf: _Leaf) -> object:
    """A leaf as the type ``wanted``, after its unit if the field's name has one. Raises ``ValueError``."""
    value = leaf.value
    if name.endswith("_s"):
        return duration_s(value)
    if name.endswith("_bytes"):
        size = size_bytes(value)
        return None if size == 0 and _optional(wanted) else size
    if wanted is Path or Path in get_args(wanted):
        if not isinstance(value, str | os.PathLike):
            raise ValueError(f"not a path: {shown(value)}")
        text = os.fspath(value)
        if not text or "\0" in str(text):
            raise ValueError("not a path")
        return leaf.base / Path(str(text)).expanduser()
    if leaf.text and isinstance(value, str) and get_origin(wanted) is tuple:
        value = [part.strip() for part in value.split(",") if part.strip()]
    return msgspec.convert(value, wanted, strict=not leaf.text)


def _optional(wanted: Any) -> bool:
    return get_origin(wanted) in (Union, types.UnionType) and type(None) in get_args(wanted)


def read_toml(path: Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """The document at ``path`` and the line of each key. Raises ``SettingsError`` if it cannot be read or is not TOML."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise SettingsError(f"{path}:{line}: not UTF-8 text") from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return tomllib.loads(text), key_lines(text)
    except tomllib.TOMLDecodeError as error:
        reason, _, position = str(error).rpartition(" (at ")
        found = re.match(r"line (\d+)", position)
        line = int(found[1]) if found else text.count("\n") + 1
        raise SettingsError(f"{path}:{line}: not TOML: {reason or error}") from None


# ---- checks over what was decoded -----------------------------------------------------------------------------------

_INSTANCE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")
# What can be sent in an Authorization field: a user name ends at the first colon (RFC 7617 §2), a token has no spaces (RFC 6750 §2.1).
_CREDENTIALS = {
    "username": re.compile(r"[\x20-\x39\x3b-\x7e]+"),
    "password": re.compile(r"[\x20-\x7e]*"),
    "token": re.compile(r"[\x21-\x7e]+"),
}
_CREDENTIAL_REASONS = {
    "username": "a user name is printable ASCII without a colon, and not empty",
    "password": "a password is printable ASCII, without line breaks and the like",
    "token": "a token is printable ASCII without spaces or line breaks, and not empty",
}
# What HTTP lets a Host field say: a name or an address, and perhaps a port; ``origin/http/hosts.py`` lists public URLs by it.
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9.])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_GROUP_PATTERN = re.compile(r"[A-Za-z0-9_*-]+(?:\.[A-Za-z0-9_*-]+)*(?:/[A-Za-z0-9_*.-]+)?")
_PATH_SEGMENT = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*")


def complete_registry(values: dict[str, object], name: str, error: Callable[[str, str], SettingsError]) -> None:
    """Fill in what an instance leaves out and check the rest, in place. Knows kinds only through ``registries.kinds``."""
    from .registries import kinds

    if not _INSTANCE_NAME.fullmatch(name):
        raise error("", "an instance's name has lower-case letters, digits, '-', '_' and '.' only")
    kind = str(values.setdefault("kind", name))
    if kind not in kinds.KINDS:
        known = ", ".join(sorted(kinds.KINDS))
        missing = "" if kind != name else "; a name that is no kind needs a kind = … beside it"
        raise error("kind", f"unknown kind {shown(kind)}, known: {known}{missing}")
    upstream = values.get("upstream")
    if upstream is None:
        # The public registry under a company's name would be an invitation to whoever registers its packages there.
        if name != kind:
            raise error("upstream", f"is missing; only an instance named {kind} has the public registry by default")
        upstream = kinds.default_upstream(kind)
    try:
        upstream = web_url(str(upstream))
    except ValueError as wrong:
        raise error("upstream", str(wrong)) from None
    if urlsplit(upstream).username is not None or urlsplit(upstream).password is not None:
        raise error("upstream", "a URL with credentials in it; set username and password, or token, beside it")
    values["upstream"] = upstream if upstream.endswith("/") else upstream + "/"
    path = str(values.setdefault("path", f"/{name}/"))
    segments = path.strip("/").split("/")
    if not (path.startswith("/") and path.endswith("/") and len(path) > 2):
        raise error("path", f"a path begins and ends with a slash, as in /{name}/: {shown(path)}")
    if path != f"/{'/'.join(segments)}/" or not all(_PATH_SEGMENT.fullmatch(segment) for segment in segments):
        raise error("path", f"a path is made of plain names between single slashes: {shown(path)}")
    if segments[0] == "-":
        raise error("path", "paths beneath /-/ are the node's own")
    for key, allowed in _CREDENTIALS.items():
        value = values.get(key)
        if value is not None and not allowed.fullmatch(str(value)):
            raise error(key, _CREDENTIAL_REASONS[key])
    if values.get("token") is not None and (values.get("username") is not None or values.get("password") is not None):
        raise error("token", "set either a token or username and password")
    if values.get("password") is not None and values.get("username") is None:
        raise error("password", "a password needs a username beside it")


def default_registries() -> dict[str, RegistrySettings]:
    """One instance of each kind this release knows, named like the kind, pointing at the public registry."""
    from .registries import kinds

    return {kind: RegistrySettings(kind=kind, upstream=kinds.default_upstream(kind), path=f"/{kind}/") for kind in kinds.KINDS}


def check_registries(layers: Layers, registries: Mapping[str, RegistrySettings]) -> None:
    """Refuse two instances of which one's path is, or lies beneath, the other's; and keys that cannot be read. Raises ``SettingsError``.

    Several of one kind may stand at the same path if the kind's pages can be made one: then they are asked in order.
    """
    from .registries import kinds

    placed: list[tuple[str, str]] = []
    for name, registry in registries.items():
        for key in sorted(frozenset().union(*kinds.HEEDED.values()) - kinds.HEEDED[registry.kind]):
            if ("registries", name, key) in layers.places:
                raise layers.error(
                    ("registries", name, key), f"means nothing to a registry of kind {registry.kind}; leave it out"
                )
        for pattern in registry.groups:
            if not _GROUP_PATTERN.fullmatch(pattern):
                reason = f"not a pattern of names, such as org.example.* or org.example/lib: {shown(pattern)}"
                raise layers.error(("registries", name, "groups"), reason)
        try:
            kinds.create(registry.kind, name, registry.upstream, options_of(registry))
        except OSError as error:
            raise layers.error(("registries", name, "keys"), f"{registry.keys} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise layers.error(("registries", name, "keys"), str(error)) from None
        if registry.signatures == "require" and registry.keys is None:
            raise layers.error(
                ("registries", name, "signatures"), "signatures cannot be required without keys; set keys beside it"
            )
        for other, path in placed:
            shared = registry.path == path and registry.kind == registries[other].kind and registry.kind in kinds.MERGED
            if shared:
                continue
            if registry.path.startswith(path) or path.startswith(registry.path):
                # Complain about the one that somebody wrote down: the other may be there by default.
                blamed, kept = (name, other) if ("registries", name) in layers.places else (other, name)
                raise layers.error(
                    ("registries", blamed, "path"),
                    f"{registries[blamed].path} is, holds or lies beneath {registries[kept].path} of registries.{kept}",
                )
        placed.append((name, registry.path))


def options_of(settings: RegistrySettings) -> Options:
    """What an instance's rules are told. Reads the key file; raises ``OSError``."""
    keys = settings.keys.read_bytes() if settings.keys is not None else None
    return Options(settings.aliases, keys, settings.signatures, settings.audit, settings.groups)


def check_server(layers: Layers, listen: str, server: ServerSettings, tls: TLSSettings, upstream: UpstreamSettings) -> None:
    """Check addresses, URLs, networks and files that need more than a type. Raises ``SettingsError``."""
    checks: list[tuple[KeyPath, Callable[[str], object], Sequence[str]]] = [
        (("listen",), listen_address, [listen]),
        (("server", "public_urls"), _base_url, server.public_urls),
        (("server", "trusted_proxies"), _network, server.trusted_proxies),
        (("upstream", "proxy"), web_url, [upstream.proxy] if upstream.proxy is not None else []),
    ]
    for path, check, texts in checks:
        for index, text in enumerate(texts):
            try:
                check(text)
            except ValueError as error:
                raise layers.error((*path, index) if len(texts) > 1 else path, str(error)) from None
    if (tls.cert is None) != (tls.key is None):
        raise layers.error(("tls",), "a certificate needs its key, and the key its certificate: set both cert and key")
    if tls.only and tls.cert is None:
        raise layers.error(("tls", "only"), "TLS needs a certificate: set cert and key")
    for path, file in ((("tls", "cert"), tls.cert), (("tls", "key"), tls.key), (("upstream", "ca"), upstream.ca)):
        if file is not None and not file.is_file():
            raise layers.error(path, f"there is no file {file}")
    if upstream.ca is not None:
        _require_certificates(layers, upstream.ca)


def _require_certificates(layers: Layers, ca: Path) -> None:
    import ssl  # takes a while, and few name a file

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=ca)
    except ssl.SSLError:
        raise layers.error(("upstream", "ca"), f"{ca} holds no PEM certificates") from None
    except OSError as error:
        raise layers.error(("upstream", "ca"), f"{ca} cannot be read: {error.strerror}") from None
    if not context.cert_store_stats()["x509"]:
        raise layers.error(("upstream", "ca"), f"{ca} holds no certificates")


def _base_url(text: str) -> str:
    if "@" in web_url(text) or text.endswith("/"):
        raise ValueError(f"a public URL has no credentials and no slash at its end: {shown(text)}")
    if not _AUTHORITY.fullmatch(urlsplit(text).netloc):
        raise ValueError(
            f"a public URL names its host as clients send it, in ASCII (xn--… for other letters), with a port at most: {shown(text)}"
        )
    return text


def _network(text: str) -> object:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f'not an address or network, such as "10.0.0.1" or "10.0.0.0/8": {shown(text)}') from None


# ---- rules ----------------------------------------------------------------------------------------------------------


def rules_of(document: Mapping[str, object], lines: Mapping[KeyPath, int], path: Path) -> tuple[Mapping[str, object], ...]:
    """The ``[[rules]]`` of a settings file, raw, each tried by ``policy.rules.parse_rule``.

    Raises ``SettingsError`` with the line.
    """
    from .policy.rules import parse_rule

    found = document.get("rules", [])
    if not isinstance(found, list) or not all(isinstance(rule, dict) for rule in found):
        raise SettingsError(f"{path}:{lines.get(('rules',), 1)}: rules: each rule is a table of its own, headed [[rules]]")
    for index, rule in enumerate(found):
        try:
            parse_rule(rule)
        except ValueError as error:
            raise SettingsError(f"{path}:{lines.get(('rules', index), 1)}: {error}") from None
    return tuple(found)


# ---- where things are -----------------------------------------------------------------------------------------------


def is_root() -> bool:
    """Whether the process runs as the superuser, whose defaults are the system's directories."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def default_data(program: str, environ: Mapping[str, str]) -> Path:
    """The data directory of a node that is told none: the system's for root, the user's state directory for others."""
    if is_root():
        return Path("/var/lib/leeward") / program
    return user_directory(environ, "XDG_STATE_HOME", ".local/state") / "leeward" / program


NO_CONFIG = Path("-")
"""Named in place of a settings file: there is none, wherever one may lie."""


def find_config(program: str, option: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The settings file: the option's, the variable's, else the first that exists here, of the user, of the system.

    None if none does, or where ``-`` is named.
    """
    if option is None and (named := environ.get(f"{program.upper()}_CONFIG")):
        option = Path(named)
    if option is not None:
        return None if option == NO_CONFIG else option
    return next((path for path in usual_configs(program, environ) if path.is_file()), None)


def usual_configs(program: str, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where a settings file is looked for that nobody named, first to last: here, of the user, of the system."""
    return (
        Path(f"{program}.toml"),
        user_directory(environ, "XDG_CONFIG_HOME", ".config") / "leeward" / f"{program}.toml",
        Path("/etc/leeward") / f"{program}.toml",
    )


def user_directory(environ: Mapping[str, str], variable: str, default: str) -> Path:
    """A directory of the XDG base directory specification; a relative one is ignored, as that demands."""
    named = Path(environ.get(variable) or ".")
    if named.is_absolute():
        return named
    return home_directory(environ) / default


def home_directory(environ: Mapping[str, str]) -> Path:
    """The user's home; the root directory for one who has none, as a container's may."""
    try:
        return Path(environ.get("HOME") or Path.home())
    except RuntimeError:
        return Path("/")
