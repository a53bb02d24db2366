"""An origin's settings: what ``origin.toml``, ``ORIGIN_…`` and the options of ``origin serve`` say, checked.

``settings.py`` has the tables that both kinds of node share and the reading of layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from .settings import (
    NO_CONFIG,
    Layers,
    LogSettings,
    RegistrySettings,
    ServerSettings,
    StoreSettings,
    Table,
    TLSSettings,
    UpstreamSettings,
    check_registries,
    check_server,
    default_data,
    default_registries,
    find_config,
    read_toml,
    rules_of,
    usual_configs,
)

DEFAULT_LISTEN = "127.0.0.1:9090"


class FleetSettings(Table, frozen=True, kw_only=True):
    """The edges that follow this origin. One that was not heard of for ``lease_s`` counts as gone: no recall waits for it.

    A file that ``popular`` edges have delivered is announced to all, for those that bring here what is popular.
    """

    lease_s: float = msgspec.field(default=3600.0, name="lease")
    popular: int = 2


class OriginSettings(Table, frozen=True, kw_only=True):
    """Everything an origin can be told. ``listen`` is ``host:port``; ``rules`` are as written, for ``policy.rules.parse_rule``.

    The ``path`` of a registry means nothing here: edges have their own.
    """

    data: Path
    listen: str = DEFAULT_LISTEN
    registries: Mapping[str, RegistrySettings] = msgspec.field(default_factory=dict)
    upstream: UpstreamSettings = UpstreamSettings()
    server: ServerSettings = ServerSettings()
    tls: TLSSettings = TLSSettings()
    store: StoreSettings = StoreSettings()
    fleet: FleetSettings = FleetSettings()
    log: LogSettings = LogSettings()
    rules: tuple[Mapping[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings and the file they came from, None if none was found.

    ``watch_path`` is absolute: that file, else the one in the working directory that would be found first if somebody made it. Its
    ``[[rules]]`` are watched.
    """

    settings: OriginSettings
    config_path: Path | None
    watch_path: Path


def load_origin(options: Mapping[str, object], environ: Mapping[str, str], *, rules_too: bool = True) -> Loaded:
    """Read and check all layers.

    ``options`` maps dotted keys to values (``{"listen": "127.0.0.1:0", "log.json": True}``), None for options not given;
    ``"config"`` names the file, ``"-"`` none. ``rules_too=False`` leaves the rules unread: the running origin has them. Raises
    ``settings.SettingsError``.
    """
    options = dict(options)
    config = options.pop("config", None)
    config_path = find_config("origin", Path(str(config)) if config is not None else None, environ)
    layers = Layers("origin")
    rules: tuple[Mapping[str, object], ...] = ()
    if config_path is not None:
        layers.add_file(config_path)
        rules = load_rules(config_path) if rules_too else ()
    layers.add_environment(environ, ignore=("ORIGIN_CONFIG",))
    layers.add_options(options)
    layers.tree.pop("rules", None)
    layers.add_default("data", default_data("origin", environ))
    settings = layers.decode(OriginSettings)
    named = settings.registries
    missing = {name: default for name, default in default_registries().items() if name not in named}
    settings = msgspec.structs.replace(settings, registries={**named, **missing}, rules=rules)
    check_registries(layers, settings.registries)
    check_server(layers, settings.listen, settings.server, settings.tls, settings.upstream)
    # Where no file was wanted, one that lies here must not say anything later either.
    here, of_user, *_ = usual_configs("origin", environ)
    unwanted = str(config if config is not None else environ.get("ORIGIN_CONFIG")) == str(NO_CONFIG)
    return Loaded(settings, config_path, (config_path or (of_user if unwanted else here)).absolute())


def load_rules(path: Path) -> tuple[Mapping[str, object], ...]:
    """Read only the ``[[rules]]`` of the settings file again. Raises ``settings.SettingsError`` with the line."""
    document, lines = read_toml(path)
    return rules_of(document, lines, path)
