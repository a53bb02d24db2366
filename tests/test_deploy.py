"""What lies in deploy/ is used as it is, so it must be what this release understands."""

from __future__ import annotations

import configparser
from pathlib import Path

from edge.settings import load_edge
from origin.words import duration_s

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"


def test_the_example_settings_are_accepted_and_hold_the_limits_they_name() -> None:
    loaded = load_edge({"config": str(DEPLOY / "edge.toml")}, {})
    assert loaded.settings.store.limit_bytes == 100 * 10**9
    assert loaded.settings.registries["pypi"].fresh_s == 600


def test_every_commented_line_of_the_example_is_accepted_too(tmp_path: Path) -> None:
    lines = (DEPLOY / "edge.toml").read_text().splitlines()
    settings = [line.removeprefix("# ") for line in lines if "=" in line or line.startswith(("[", "# ["))]
    # Files that only a company has.
    settings = [line for line in settings if not line.startswith(("ca = ", "keys = ", "cert = ", "key = "))]
    whole = tmp_path / "edge.toml"
    whole.write_text("\n".join(settings))
    loaded = load_edge({"config": str(whole)}, {})
    assert loaded.settings.registries["company"].path == "/company/"
    assert len(loaded.settings.rules) == 1
    assert loaded.settings.proxy.allow == ("10.20.0.0/16",)


def test_systemd_waits_longer_than_the_edge_drains() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DEPLOY / "leeward-edge.service")
    drain_s = load_edge({"config": str(DEPLOY / "edge.toml")}, {}).settings.server.drain_s
    assert duration_s(unit["Service"]["TimeoutStopSec"]) > drain_s
    assert "--config /etc/leeward/edge.toml" in unit["Service"]["ExecStart"]
