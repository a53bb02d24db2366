"""The clients of the npm registry: npm, pnpm, Yarn (both generations) and Bun."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..configfiles import NPMRC, TOML, Format, KeyAt, Values, YAMLLines, YarnRC, find
from ..configfiles.lines import unquoted
from .records import Client, ClientError, ConfigFile, Surroundings, host_of


def _variable(here: Surroundings, *names: str) -> str:
    return next((value for name in names if (value := here.environ.get(name))), "")


def npmrc_path(here: Surroundings) -> Path:
    # npm takes its variables in either case.
    named = _variable(here, "npm_config_userconfig", "NPM_CONFIG_USERCONFIG")
    return Path(named) if named else here.home() / ".npmrc"


def _npmrc_point(_: Values, url: str) -> list[tuple[KeyAt, Any]]:
    return [(("registry",), url)]


def _npmrc_notes(here: Surroundings, said: Sequence[Values], _url: str) -> list[str]:
    (values,) = said
    notes = _scope_notes(key.removesuffix(":registry") for key in values if key.startswith("@") and key.endswith(":registry"))
    notes += _in_project(here, ".npmrc", "registry")
    return notes


def _scope_notes(scopes: Any) -> list[str]:
    named = sorted(scopes)
    return [f"{', '.join(named)} keep registries of their own: those packages go past this edge"] if named else []


def _in_project(here: Surroundings, name: str, key: str) -> list[str]:
    """A note if the project somebody stands in names a registry itself: that wins over the user's."""
    formats: dict[str, Format] = {".npmrc": NPMRC(), ".yarnrc": YarnRC(), ".yarnrc.yml": YAMLLines()}
    for directory in (here.directory, *here.directory.parents):
        if directory != here.home() and (directory / name).is_file():
            try:
                values = formats[name].read((directory / name).read_text("utf-8", "replace"))
            except (OSError, ValueError):
                return []
            return [f"{directory / name} names a registry itself, and wins here"] if key in values else []
        if (directory / "package.json").is_file() or directory == here.home():
            break
    return []


def _npm_notes(here: Surroundings, said: Sequence[Values], url: str) -> list[str]:
    notes = _npmrc_notes(here, said, url)
    if said[0].get("replace-registry-host") != "always":
        notes.append(
            "a lock file made through another mirror names it: npm asks here for those too with replace-registry-host=always"
        )
    return notes


def _pnpm_notes(here: Surroundings, said: Sequence[Values], url: str) -> list[str]:
    notes = ["npm reads the same file: it is pointed here as well, and either one's --undo takes it back for both"]
    notes += _npmrc_notes(here, said, url)
    # pnpm 9 and 10 ask ~/.npmrc before their own rc; from 11 on these two are asked before it.
    for name, format_ in (("config.yaml", YAMLLines()), ("auth.ini", NPMRC())):
        file = here.config("pnpm", name)
        try:
            if "registry" in format_.read(file.read_text("utf-8", "replace")):
                notes.append(f"{file} names a registry too: pnpm 11 and later take that one; remove it there")
        except (OSError, ValueError):
            continue
    return notes


def yarn1_path(here: Surroundings) -> Path:
    return here.home() / ".yarnrc"


def _yarn1_point(_: Values, url: str) -> list[tuple[KeyAt, Any]]:
    return [(("registry",), json.dumps(url))]


def yarn_path(here: Surroundings) -> Path:
    return here.home() / (here.environ.get("YARN_RC_FILENAME") or ".yarnrc.yml")


def _yarn_point(values: Values, url: str) -> list[tuple[KeyAt, Any]]:
    keys: list[tuple[KeyAt, Any]] = [(("npmRegistryServer",), json.dumps(url))]
    if not url.startswith("https:"):
        # Yarn wants to be told of every host it may speak plain HTTP to, this machine included.
        hosts = values.get("unsafeHttpWhitelist") or []
        if isinstance(hosts, str):
            raise ClientError(f"unsafeHttpWhitelist is no plain list; add {host_of(url)} to it by hand first")
        if not {host_of(url), "*", "**"} & {unquoted(host) for host in hosts}:
            keys.append((("unsafeHttpWhitelist",), [*hosts, json.dumps(host_of(url))]))
    return keys


def _yarn_notes(here: Surroundings, said: Sequence[Values], _url: str) -> list[str]:
    classic, berry = said
    scopes = [unquoted(key).removesuffix(":registry") for key in classic if key.startswith("@") and key.endswith(":registry")]
    notes = _scope_notes(scopes)
    if "npmRegistryServer" in str(berry.get("npmScopes", "")):
        notes.append("npmScopes keep registries of their own: those packages go past this edge")
    if "npmAuditRegistry" in berry:
        notes.append("npmAuditRegistry stays: yarn npm audit goes past this edge")
    try:
        npmrc = NPMRC().read(npmrc_path(here).read_text("utf-8", "replace"))
    except OSError:
        npmrc = {}
    if "registry" in npmrc:
        notes.append(f"Yarn 1 takes the registry in {npmrc_path(here)} before its own: edge use npm points that here as well")
    notes += _in_project(here, ".yarnrc", "registry") + _in_project(here, ".yarnrc.yml", "npmRegistryServer")
    notes.append("Yarn 1 downloads from where yarn.lock says: entries made through another registry must be made anew")
    return notes


def _bun_path(here: Surroundings) -> Path:
    # With XDG_CONFIG_HOME set, Bun does not look in the home directory.
    return Path(here.environ.get("XDG_CONFIG_HOME") or here.home()) / ".bunfig.toml"


def _bun_point(_: Values, url: str) -> list[tuple[KeyAt, Any]]:
    # A table with a token for another registry is replaced as a whole: the token is not this edge's.
    return [(("install", "registry"), url)]


def _bun_notes(_: Surroundings, said: Sequence[Values], _url: str) -> list[str]:
    (values,) = said
    notes = _scope_notes(
        (f"@{name.removeprefix('@')}" for name in scopes) if (scopes := find(values, ("install", "scopes"))) else ()
    )
    if isinstance(find(values, ("install", "registry")), dict):
        notes.append("the registry before had credentials or settings of its own: they are left out until --undo")
    notes.append("Bun downloads from where bun.lock says: entries made through another mirror must be made anew")
    return notes


_NPM_VARIABLES = ("npm_config_registry", "NPM_CONFIG_REGISTRY")

NODE = (
    Client(
        name="npm",
        kind="npm",
        files=(ConfigFile(NPMRC(), npmrc_path, _npmrc_point),),
        once="npm install --registry={url} NAME",
        overrides=_NPM_VARIABLES,
        notes=_npm_notes,
    ),
    Client(
        name="pnpm",
        kind="npm",
        files=(ConfigFile(NPMRC(), npmrc_path, _npmrc_point),),
        once="pnpm add --registry={url} NAME",
        overrides=(*_NPM_VARIABLES, "pnpm_config_registry", "PNPM_CONFIG_REGISTRY"),
        notes=_pnpm_notes,
        shares="npm",
    ),
    Client(
        name="yarn",
        kind="npm",
        files=(ConfigFile(YarnRC(), yarn1_path, _yarn1_point), ConfigFile(YAMLLines(), yarn_path, _yarn_point)),
        once="YARN_REGISTRY={url} YARN_NPM_REGISTRY_SERVER={url} YARN_UNSAFE_HTTP_WHITELIST={host} yarn add NAME",
        overrides=(*_NPM_VARIABLES, "YARN_REGISTRY", "YARN_NPM_REGISTRY_SERVER"),
        notes=_yarn_notes,
    ),
    Client(
        name="bun",
        kind="npm",
        files=(ConfigFile(TOML(), _bun_path, _bun_point),),
        once="BUN_CONFIG_REGISTRY={url} bun add NAME",
        overrides=("BUN_CONFIG_REGISTRY", *_NPM_VARIABLES),
        notes=_bun_notes,
    ),
)
"""The rows of the npm registry's clients."""
