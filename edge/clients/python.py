"""Python's clients: pip, uv, Poetry and PDM."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..configfiles import INI, TOML, KeyAt, Member, Values, find
from .records import Client, ClientError, ConfigFile, Surroundings, needs_trust


def pip_path(here: Surroundings) -> Path:
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
    if host := needs_trust(url):
        trusted = str(find(values, ("global", "trusted-host")) or "")
        if host not in trusted.split():
            keys.append((("global", "trusted-host"), f"{trusted}\n{host}" if trusted else host))
    return keys


def _pip_notes(_: Surroundings, said: Sequence[Values], _url: str) -> list[str]:
    (values,) = said
    if any("extra-index-url" in options for options in values.values()):
        return ["extra-index-url is set too: pip takes the highest version from any index, so those packages go past this edge"]
    return []


def _uv_point(values: Values, url: str) -> list[tuple[KeyAt, Any]]:
    # The first default index counts; it wins over index-url, also over that of [pip].
    if find(values, ("index", Member("default", True))) is not None:
        return [(("index", Member("default", True), "url"), url)]
    return [(("index", Member("url", url)), {"url": url, "default": True})]


def _uv_notes(_: Surroundings, said: Sequence[Values], _url: str) -> list[str]:
    (values,) = said
    indexes = values.get("index", [])
    others = [entry for entry in indexes if isinstance(entry, dict) and not entry.get("default") and not entry.get("explicit")]
    notes = ["uv.lock names the index it was made with, and uv sync --frozen downloads from there: uv lock makes it anew"]
    if others or "extra-index-url" in values:
        notes.append("other indexes are configured and are asked first: their packages go past this edge")
    return notes


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


def _poetry_notes(_: Surroundings, said: Sequence[Values], _url: str) -> list[str]:
    (values,) = said
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
    if needs_trust(url):
        keys.append((("pypi", "verify_ssl"), False))
    return keys


def _uv_path(here: Surroundings) -> Path:
    named = here.environ.get("UV_CONFIG_FILE")
    return Path(named) if named else here.config("uv", "uv.toml")


PYTHON = (
    Client(
        name="pip",
        kind="pypi",
        files=(ConfigFile(INI(), pip_path, _pip_point),),
        once="pip install --index-url {url} six",
        overrides=("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"),
        notes=_pip_notes,
    ),
    Client(
        name="uv",
        kind="pypi",
        files=(ConfigFile(TOML(), _uv_path, _uv_point),),
        once="uv pip install --default-index {url} six",
        overrides=("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_NO_CONFIG"),
        notes=_uv_notes,
    ),
    Client(
        name="poetry",
        kind="pypi",
        files=(
            ConfigFile(
                TOML(),
                _poetry_path,
                _poetry_point,
                must_exist="there is no pyproject.toml here or above; run this in a Poetry project",
            ),
        ),
        once="poetry source add --priority=primary leeward {url}",
        notes=_poetry_notes,
    ),
    Client(
        name="pdm",
        kind="pypi",
        files=(ConfigFile(TOML(), _pdm_path, _pdm_point),),
        once="PDM_PYPI_URL={url} pdm install",
        overrides=("PDM_PYPI_URL",),
    ),
)
"""The rows of Python's clients."""
