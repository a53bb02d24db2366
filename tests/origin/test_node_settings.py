"""An origin's settings, and where they come from; ``tests/edge/test_settings.py`` has what both kinds of node share."""

from __future__ import annotations

from pathlib import Path

import pytest

from origin.loading import load_rules
from origin.node_settings import load_origin
from origin.settings import SettingsError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of whoever runs the tests is found."""
    monkeypatch.chdir(tmp_path)


def test_nothing_need_be_said(tmp_path: Path) -> None:
    loaded = load_origin({}, {"HOME": str(tmp_path)})
    assert loaded.config_path is None
    assert loaded.watch_path == tmp_path / "origin.toml"
    settings = loaded.settings
    assert settings.listen == "127.0.0.1:9090"
    assert settings.data.name == "origin"
    assert set(settings.registries) == {"pypi", "npm", "maven"}
    assert (settings.fleet.lease_s, settings.fleet.popular) == (3600.0, 2)


def test_file_variables_and_options_lie_over_each_other(tmp_path: Path) -> None:
    (tmp_path / "origin.toml").write_text(
        'listen = "127.0.0.1:1"\n[fleet]\nlease = "5m"\npopular = 3\n[registries.company]\nkind = "npm"\nupstream = "http://npm.test"\n'
    )
    environ = {"HOME": str(tmp_path), "ORIGIN_FLEET__POPULAR": "4", "ORIGIN_LISTEN": "127.0.0.1:2"}
    settings = load_origin({"listen": "127.0.0.1:3", "log.json": True}, environ).settings
    assert settings.listen == "127.0.0.1:3"
    assert (settings.fleet.lease_s, settings.fleet.popular) == (300.0, 4)
    assert settings.registries["company"].upstream == "http://npm.test/"
    assert settings.log.json


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('origin = "https://origin.test"', r"origin.toml:1: origin: unknown setting"),
        ("[fleet]\npopular = 0", r"origin.toml:2: fleet.popular: must be from 1"),
        ('[fleet]\nlease = "soon"', r"origin.toml:2: fleet.lease: not a duration"),
        ('listen = "9090"', r"origin.toml:1: listen: not an address"),
        ('[tls]\ncert = "missing.pem"', r"origin.toml:1: tls: a certificate needs its key"),
        ('[[rules]]\nname = "x"\nmatch = "six"\naction = "refuse"', r"origin.toml:1: rule 'x'"),
    ],
)
def test_what_cannot_be_is_told_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "origin.toml").write_text(text)
    with pytest.raises(SettingsError, match=complaint):
        load_origin({}, {"HOME": str(tmp_path)})


def test_rules_come_as_they_are_written(tmp_path: Path) -> None:
    rule = {"name": "no-evil", "match": "pkg:pypi/evil@>=1,<2", "action": "refuse", "reason": "it is evil"}
    lines = "\n".join(f'{key} = "{value}"' for key, value in rule.items())
    (tmp_path / "origin.toml").write_text(f"[[rules]]\n{lines}\n")
    assert load_origin({}, {"HOME": str(tmp_path)}).settings.rules == (rule,)
    assert load_origin({}, {"HOME": str(tmp_path)}, rules_too=False).settings.rules == ()
    assert load_rules(tmp_path / "origin.toml") == (rule,)


def test_where_no_file_is_wanted_none_is_read_or_watched(tmp_path: Path) -> None:
    (tmp_path / "origin.toml").write_text('listen = "127.0.0.1:1"')
    loaded = load_origin({"config": "-"}, {"HOME": str(tmp_path)})
    assert loaded.settings.listen == "127.0.0.1:9090"
    assert loaded.watch_path != tmp_path / "origin.toml"
