"""An origin's settings: what ``origin.toml``, ``ORIGIN_…`` and the options of ``origin serve`` say, checked.

``settings.py`` has the tables that both kinds of node share and the reading of layers; ``loading.py`` puts all together.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from . import loading
from .settings import Table

DEFAULT_LISTEN = "127.0.0.1:9090"


class FleetSettings(Table, frozen=True, kw_only=True):
    """The edges that follow this origin. One that was not heard of for ``lease_s`` counts as gone: no recall waits for it.

    A file that ``popular`` edges have delivered is announced to all, for those that bring here what is popular.
    """

    lease_s: float = msgspec.field(default=3600.0, name="lease")
    popular: int = 2


class OriginSettings(loading.NodeSettings, frozen=True, kw_only=True):
    """Everything an origin can be told. The ``path`` of a registry means nothing here: edges have their own."""

    listen: str = DEFAULT_LISTEN
    fleet: FleetSettings = FleetSettings()


type Loaded = loading.Loaded[OriginSettings]


def load_origin(options: Mapping[str, object], environ: Mapping[str, str], *, rules_too: bool = True) -> Loaded:
    """Read and check all layers, as ``loading.load`` does. Raises ``settings.SettingsError``."""
    return loading.load("origin", OriginSettings, options, environ, rules_too=rules_too)
