"""A node's settings as a whole: the tables that both kinds of node have, read from all layers, completed, checked.

``settings.py`` has the tables themselves and the reading of a layer. ``node_settings.py`` says what an origin can be told,
``edge/settings.py`` what an edge can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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

type Program = Literal["edge", "origin"]


class NodeSettings(Table, frozen=True, kw_only=True):
    """What any node can be told. ``listen`` is ``host:port``; ``rules`` are as written, for ``policy.rules.parse_rule``."""

    data: Path
    listen: str
    registries: Mapping[str, RegistrySettings] = msgspec.field(default_factory=dict)
    upstream: UpstreamSettings = UpstreamSettings()
    server: ServerSettings = ServerSettings()
    tls: TLSSettings = TLSSettings()
    store: StoreSettings = StoreSettings()
    log: LogSettings = LogSettings()
    rules: tuple[Mapping[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded[Settings: NodeSettings]:
    """Settings and the file they came from, None if none was found.

    ``watch_path`` is absolute: that file, else the one in the working directory that would be found first if somebody made it. Its
    ``[[rules]]`` are watched.
    """

    settings: Settings
    config_path: Path | None
    watch_path: Path


def load[Settings: NodeSettings](
    program: Program,
    kind: type[Settings],
    options: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    rules_too: bool,
    ignore: Iterable[str] = (),
    check: Callable[[Layers, Settings], None] | None = None,
) -> Loaded[Settings]:
    """Read and check all layers.

    ``options`` maps dotted keys to values (``{"listen": "127.0.0.1:0", "log.json": True}``), None for options not given;
    ``"config"`` names the file, ``"-"`` none. ``rules_too=False`` leaves the rules unread: the running node has them. ``ignore`` names
    variables that are no settings; ``check`` looks at what this kind alone has. Raises ``settings.SettingsError``.
    """
    options = dict(options)
    config = options.pop("config", None)
    config_path = find_config(program, Path(str(config)) if config is not None else None, environ)
    config_variable = f"{program.upper()}_CONFIG"
    layers = Layers(program)
    rules: tuple[Mapping[str, object], ...] = ()
    if config_path is not None:
        layers.add_file(config_path)
        rules = load_rules(config_path) if rules_too else ()
    layers.add_environment(environ, ignore=(config_variable, *ignore))
    layers.add_options(options)
    layers.tree.pop("rules", None)
    layers.add_default("data", default_data(program, environ))
    settings = layers.decode(kind)
    settings = msgspec.structs.replace(settings, registries=_with_defaults(settings.registries), rules=rules)
    check_registries(layers, settings.registries)
    check_server(layers, settings.listen, settings.server, settings.tls, settings.upstream)
    if check is not None:
        check(layers, settings)
    # Where no file was wanted, one that lies here must not say anything later either.
    here, of_user, *_ = usual_configs(program, environ)
    unwanted = str(config if config is not None else environ.get(config_variable)) == str(NO_CONFIG)
    return Loaded(settings, config_path, (config_path or (of_user if unwanted else here)).absolute())


def _with_defaults(written: Mapping[str, RegistrySettings]) -> dict[str, RegistrySettings]:
    """The instances that were written down, in that order, then those that are there anyway: where some share a path, order counts."""
    return {**written, **{name: default for name, default in default_registries().items() if name not in written}}


def load_rules(path: Path) -> tuple[Mapping[str, object], ...]:
    """Read only the ``[[rules]]`` of the settings file again. Raises ``settings.SettingsError`` with the line."""
    document, lines = read_toml(path)
    return rules_of(document, lines, path)
