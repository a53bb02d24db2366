"""Settings: layers, words, defaults, and complaints that say where."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import tempfile
import tomllib
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from edge.settings import EdgeSettings, Loaded, load_edge
from origin.http.h1 import Malformed
from origin.http.hosts import Hosts
from origin.loading import load_rules
from origin.registries import Options, kinds
from origin.settings import (
    RANGES,
    SettingsError,
    Table,
    default_data,
    find_config,
    options_of,
)
from origin.toml_lines import key_lines
from origin.words import duration_s, listen_address, size_bytes, web_url

RULE = '[[rules]]\nname = "no-evil"\nmatch = "pkg:pypi/evil"\naction = "refuse"\nreason = "it is evil"\n'
ORIGIN = 'origin = "https://origin.test:9090"\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "edge.toml"


def load(config: Path, text: str = "", environ: dict[str, str] | None = None, **options: object) -> Loaded:
    config.write_text(text)
    return load_edge({"config": config, "data": config.parent / "data", **options}, environ or {})


def complaint(config: Path, text: str = "", environ: dict[str, str] | None = None, **options: object) -> str:
    with pytest.raises(SettingsError) as caught:
        load(config, text, environ, **options)
    return str(caught.value).replace(str(config), "edge.toml")


# ---- layers


def test_an_edge_needs_no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_edge({}, {"HOME": str(tmp_path)}).settings
    assert settings.listen == "127.0.0.1:8080"
    assert settings.origin is None
    assert list(settings.registries) == ["pypi", "npm", "maven"]
    assert settings.registries["pypi"].path == "/pypi/"
    assert settings.registries["pypi"].upstream.endswith("/simple/")
    assert settings.registries["pypi"].fresh_s == 600


def test_later_layers_win(config: Path) -> None:
    text = 'listen = "127.0.0.1:1"\n[store]\nlimit = "1GB"\n[log]\nlevel = "debug"\n'
    environ = {"EDGE_LISTEN": "127.0.0.1:2", "EDGE_STORE__LIMIT": "2GB"}
    settings = load(config, text, environ, listen="127.0.0.1:3").settings
    assert settings.listen == "127.0.0.1:3"
    assert settings.store.limit_bytes == 2_000_000_000
    assert settings.log.level == "debug"
    assert load(config, text, environ).settings.listen == "127.0.0.1:2"
    assert load(config, text).settings.listen == "127.0.0.1:1"


def test_options_that_were_not_given_change_nothing(config: Path) -> None:
    assert load(config, 'listen = "127.0.0.1:1"', listen=None).settings.listen == "127.0.0.1:1"


def test_variables_reach_every_kind_of_value(config: Path) -> None:
    environ = {
        "EDGE_REGISTRIES__PYPI__UPSTREAM": "http://pypi.test:7001/simple",
        "EDGE_REGISTRIES__INTERNAL__KIND": "pypi",
        "EDGE_REGISTRIES__INTERNAL__UPSTREAM": "http://internal.test/simple/",
        "EDGE_LOG__JSON": "true",
        "EDGE_SERVER__PUBLIC_URLS": "http://a.test, http://b.test:1",
        "EDGE_SERVER__LIMITS__CONNECTIONS": "7",
        "EDGE_UPSTREAM__CONNECT_TIMEOUT": "250ms",
    }
    settings = load(config, "", environ).settings
    assert settings.registries["pypi"].upstream == "http://pypi.test:7001/simple/"
    assert settings.registries["internal"].path == "/internal/"
    assert settings.log.json is True
    assert settings.server.public_urls == ("http://a.test", "http://b.test:1")
    assert settings.server.limits.connections == 7
    assert settings.upstream.connect_timeout_s == 0.25


def test_a_variable_finds_an_instance_whose_name_has_a_dash(config: Path) -> None:
    text = '[registries.py-torch]\nkind = "pypi"\nupstream = "http://a.test/"\n'
    settings = load(config, text, {"EDGE_REGISTRIES__PY_TORCH__UPSTREAM": "http://b.test/"}).settings
    assert settings.registries["py-torch"].upstream == "http://b.test/"
    assert "py_torch" not in settings.registries


def test_variables_of_others_are_passed_over(config: Path) -> None:
    environ = {
        "EDGE_LISTEN": "",
        "EDGE_SERVICE_HOST": "10.0.0.1",
        "EDGE_PORT": "tcp://10.0.0.1:80",
        "EDGE_PORT_80_TCP_ADDR": "10.0.0.1",
        "EDGEWISE": "x",
    }
    assert load(config, "", environ).settings.listen == "127.0.0.1:8080"


def test_relative_paths_are_beneath_the_file_that_names_them(config: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(config.parent / "corp.pem"))
    config.write_text('data = "store"\n[upstream]\nca = "corp.pem"\n')
    settings = load_edge({"config": config}, {}).settings
    assert settings.data == config.parent / "store"
    assert settings.upstream.ca == config.parent / "corp.pem"


def test_the_data_directory_is_the_users_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("origin.settings.is_root", lambda: False)
    assert default_data("edge", {"HOME": "/h"}) == Path("/h/.local/state/leeward/edge")
    assert default_data("edge", {"HOME": "/h", "XDG_STATE_HOME": "/s"}) == Path("/s/leeward/edge")
    assert default_data("edge", {"HOME": "/h", "XDG_STATE_HOME": "not/absolute"}) == Path("/h/.local/state/leeward/edge")
    monkeypatch.setattr("origin.settings.is_root", lambda: True)
    assert default_data("edge", {"HOME": "/h"}) == Path("/var/lib/leeward/edge")
    assert load_edge({}, {"HOME": str(tmp_path), "EDGE_DATA": "/d"}).settings.data == Path("/d")


def test_a_user_without_a_home_is_none_of_our_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under any number."""

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setattr("origin.settings.is_root", lambda: False)
    assert default_data("edge", {}) == Path("/.local/state/leeward/edge")


def test_the_settings_file_is_the_first_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home" / ".config" / "leeward" / "edge.toml"
    home.parent.mkdir(parents=True)
    environ = {"HOME": str(tmp_path / "home")}
    home.write_text("")
    assert find_config("edge", None, environ) == home
    Path("edge.toml").write_text("")
    assert find_config("edge", None, environ) == Path("edge.toml")
    assert find_config("edge", None, environ | {"EDGE_CONFIG": "/c"}) == Path("/c")
    assert find_config("edge", Path("/o"), environ | {"EDGE_CONFIG": "/c"}) == Path("/o")


def test_a_settings_file_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml: cannot be read: No such file"):
        load_edge({"config": tmp_path / "absent.toml"}, {})


# ---- complaints


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('\nlisten = "8080"', "edge.toml:2: listen: not an address to listen on"),
        ('listn = "x"', "edge.toml:1: listn: unknown setting; did you mean listen?"),
        ('[registries.pypi]\n# so\nfresh = "10 parsecs"', "edge.toml:3: registries.pypi.fresh: not a duration"),
        ('[registries.pypi]\nremoved = "maybe"', "edge.toml:2: registries.pypi.removed: one of refuse, serve"),
        ('[registries.pypi]\nflavour = "sour"', "edge.toml:2: registries.pypi.flavour: unknown setting"),
        ("[registries.conda]\n", "edge.toml:1: registries.conda.kind: unknown kind 'conda', known: "),
        ('[registries.pypi]\nkind = "gopher"', "edge.toml:2: registries.pypi.kind: unknown kind 'gopher', known: "),
        ('[registries."A b"]\nkind = "pypi"', "edge.toml:1: registries.A b.: an instance's name"),
        ('[registries.pypi]\nupstream = "ftp://pypi.test/"', "edge.toml:2: registries.pypi.upstream: not an http or https URL"),
        ('[registries.pypi]\nupstream = "http://u:hunter2@pypi.test/"', "edge.toml:2: registries.pypi.upstream: a URL with cred"),
        ('[registries.pypi]\npath = "pypi"', "edge.toml:2: registries.pypi.path: a path begins and ends with a slash"),
        ('[registries.pypi]\npath = "/"', "edge.toml:2: registries.pypi.path: a path begins and ends with a slash"),
        ('[registries.pypi]\npath = "/a/../b/"', "edge.toml:2: registries.pypi.path: a path is made of plain names"),
        ('[registries.pypi]\npath = "/-/x/"', "edge.toml:2: registries.pypi.path: paths beneath /-/"),
        (
            '[registries.b]\nkind = "pypi"\nupstream = "http://b.test/"\npath = "/pypi/"',
            "edge.toml:4: registries.b.path: /pypi/ is, holds or lies beneath /pypi/",
        ),
        ('[registries.b]\nkind = "pypi"', "edge.toml:1: registries.b.upstream: is missing"),
        (
            '[registries.b]\nkind = "pypi"\nupstream = "http://b.test/"\npath = "/pypi/b/"',
            "edge.toml:4: registries.b.path: /pypi/b/ is, holds",
        ),
        ('[registries.pypi]\npassword = "p"', "edge.toml:2: registries.pypi.password: a password needs a username"),
        ('[registries.pypi]\nusername = "u"\ntoken = "t"', "edge.toml:3: registries.pypi.token: set either"),
        ("registries = 3", "edge.toml:1: registries: is a table, not a value"),
        ("store = 3", "edge.toml:1: store: is a table of settings, not a value"),
        ("[listen]\nport = 1", "edge.toml:1: listen: is a value, not a table of settings"),
        ("direct = 1", "edge.toml:1: direct: Expected `bool`"),
        ('[store]\nlimit = "lots"', "edge.toml:2: store.limit: not a size"),
        ("[store]\nlimit = -1", "edge.toml:2: store.limit: not a size"),
        ('[tls]\ncert = "a.pem"', "edge.toml:1: tls: a certificate needs its key"),
        ('[upstream]\nca = "absent.pem"', "edge.toml:2: upstream.ca: there is no file"),
        ('[server]\ntrusted_proxies = [\n  "10.0.0.1",\n  "ten",\n]', "edge.toml:4: server.trusted_proxies.1: not an address"),
        ('[server]\npublic_urls = ["http://a.test/"]', "edge.toml:2: server.public_urls"),
        ('[upstream]\nca = "edge.toml"', "edge.toml:2: upstream.ca: "),
        ('[server]\n\npublic_urls = ["http://höst.test"]', "edge.toml:3: server.public_urls: a public URL names its host"),
        (
            '[server]\npublic_urls = [\n"http://a.test",\n"http://-.test"]',
            "edge.toml:4: server.public_urls.1: a public URL names",
        ),
        ('\norigin = "http://origin.test"', "edge.toml:2: origin: an origin is asked over TLS only: https://origin.test"),
        ('origin = "https://origin.test/v1/"', "edge.toml:1: origin: a host and a port are all it takes"),
        ('origin = "https://a:hunter2@origin.test"', "edge.toml:1: origin: a host and a port are all it takes"),
        ('siblings = ["https://b.test"]', "edge.toml:1: siblings: siblings know each other by their origin"),
        (ORIGIN + 'siblings = ["https://b.test",\n"b.test"]', "edge.toml:3: siblings.1: not an http or https URL"),
        (
            ORIGIN + '[registries.pypi]\npath = "/v1/pypi/"',
            "edge.toml:3: registries.pypi.path: paths beneath /v1/ are where the other nodes of a fleet ask",
        ),
        ("direct = true", "edge.toml:1: direct: an edge without an origin asks the registries anyway"),
        ('[replicate]\nmode = "some"', "edge.toml:2: replicate.mode: one of none, all, matching, popular"),
        ('[replicate]\nmode = "matching"', "edge.toml:2: replicate.mode: matching what?"),
        ('[replicate]\nmatch = ["pkg:npm/*"]', "edge.toml:2: replicate.match: says what mode"),
        (
            '[replicate]\nmode = "matching"\nmatch = [\n"pkg:npm/@company/*",\n"company/*"]',
            "edge.toml:5: replicate.match.1: 'company/*' does not begin with pkg:",
        ),
        ("[replicate]\nat_once = 0", "edge.toml:2: replicate.at_once: must be from 1 to 256"),
        ('[replicate]\nlease = "0s"', "edge.toml:2: replicate.lease: must be from 10s to 365d"),
        ("[server.limits]\nconnections = 0", "edge.toml:2: server.limits.connections: must be from 1 to 1000000"),
        ("[server.limits]\nconnections = -1", "edge.toml:2: server.limits.connections: must be from"),
        ("[server.limits]\nheader = 0", "edge.toml:2: server.limits.header: must be from 1kB to 16MB"),
        ("[server.limits]\nbody = 0", "edge.toml:2: server.limits.body: must be from"),
        ('[server.limits]\nidle_timeout = "1000000d"', "edge.toml:2: server.limits.idle_timeout: must be from 10ms to 1d"),
        ("[server.limits]\nheader_timeout = 0", "edge.toml:2: server.limits.header_timeout: must be from"),
        ("[server.limits]\nsend_timeout = 0", "edge.toml:2: server.limits.send_timeout: must be from"),
        ('[server]\ndrain = "2d"', "edge.toml:2: server.drain: must be from 0s to 1d"),
        ('[upstream]\nconnect_timeout = "0s"', "edge.toml:2: upstream.connect_timeout: must be from 10ms to 1h"),
        ("[upstream]\nanswer_timeout = 0.0", "edge.toml:2: upstream.answer_timeout: must be from"),
        ('[upstream]\nidle_timeout = "2h"', "edge.toml:2: upstream.idle_timeout: must be from"),
        ("[registries.pypi]\npage_limit = 0", "edge.toml:2: registries.pypi.page_limit: must be from"),
        ("[registries.pypi]\nfile_limit = 0", "edge.toml:2: registries.pypi.file_limit: must be from"),
        ('[registries.pypi]\nfresh = "999w"', "edge.toml:2: registries.pypi.fresh: must be from 0s to 365d"),
        ('[store]\nlimit = "1000000P"', "edge.toml:2: store.limit: must be from"),
        ('[registries.pypi]\ntoken = ""', "edge.toml:2: registries.pypi.token: a token is printable ASCII"),
        ('origin = "origin.test"', "edge.toml:1: origin: not an http or https URL"),
        ("listen =\n", "edge.toml:1: not TOML"),
        ('a = 1\nb = "x', "edge.toml:2: not TOML"),
        (RULE + '\n[[rules]]\nname = "x"\naction = "refuse"\n', "edge.toml:7: rule 'x'"),
        ("rules = 3", "edge.toml:1: rules: each rule is a table of its own"),
    ],
)
def test_a_bad_setting_is_refused_with_its_line_and_reason(config: Path, text: str, told: str) -> None:
    found = complaint(config, text)
    assert found.startswith(told)
    assert "hunter2" not in found


def test_a_bad_variable_is_refused_by_its_name(config: Path) -> None:
    assert complaint(config, "", {"EDGE_LISTEN": "x"}).startswith("EDGE_LISTEN: listen: not an address")
    assert complaint(config, "", {"EDGE_LITSEN": "x"}).startswith("EDGE_LITSEN: litsen: unknown setting; did you mean listen")
    assert complaint(config, "", {"EDGE_STORE": "x"}).startswith("EDGE_STORE: store: is a table")
    assert complaint(config, "", {"EDGE_RULES": "x"}).startswith("EDGE_RULES: rules are read from the settings file")
    assert complaint(config, "", {"EDGE_REGISTRIES__PYPI__FRESH": "x"}).startswith("EDGE_REGISTRIES__PYPI__FRESH: ")


def test_a_bad_option_is_refused_by_its_name(config: Path) -> None:
    assert complaint(config, "", listen="x").startswith("--listen: listen: not an address")


def test_text_that_is_not_utf_8_is_refused_with_its_line(config: Path) -> None:
    config.write_bytes(b'listen = "127.0.0.1:1"\n# \xff\n')
    with pytest.raises(SettingsError, match=r":2: not UTF-8"):
        load_edge({"config": config}, {})


def test_no_secret_is_shown(config: Path) -> None:
    text = '[registries.pypi]\nusername = "u"\npassword = "hunter2"\n[upstream]\nproxy = "http://me:hunter2@proxy.test:3128"\n'
    settings = load(config, text).settings
    assert settings.registries["pypi"].password == "hunter2"
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in f"{settings.upstream}"
    assert "hunter2" not in complaint(config, '[upstream]\nproxy = "http://me:hunter2@proxy.test:x"\n')
    assert "hunter2" not in complaint(config, '[registries.pypi]\nusername = "u"\npassword = ["hunter2"]\n')


@pytest.mark.parametrize("bad", ["hunter2\\n", "hunter2\\u0000", "hunter2\\u007f", "hunter2\\t", "hunter2é", "hunter2\\r\\nX: y"])
@pytest.mark.parametrize("key", ["token", "username", "password"])
def test_what_no_header_can_carry_is_refused_without_showing_it(config: Path, key: str, bad: str) -> None:
    text = f'[registries.pypi]\n\n{key} = "{bad}"\n' + ('username = "u"\n' if key == "password" else "")
    found = complaint(config, text)
    assert found.startswith(f"edge.toml:3: registries.pypi.{key}: a ")
    assert "printable ASCII" in found
    assert "hunter2" not in found


def test_white_space_around_a_variable_is_no_part_of_it(config: Path) -> None:
    settings = load(
        config, "", {"EDGE_REGISTRIES__PYPI__TOKEN": " tok\n", "EDGE_LISTEN": "\n", "EDGE_LOG__JSON": "true\r\n"}
    ).settings
    assert settings.registries["pypi"].token == "tok"
    assert settings.listen == "127.0.0.1:8080"
    assert settings.log.json
    assert "EDGE_REGISTRIES__PYPI__TOKEN: " in complaint(config, "", {"EDGE_REGISTRIES__PYPI__TOKEN": "a\nb"})


@pytest.mark.parametrize(
    "text",
    [
        '[upstream]\nproxy = "user:secretpw@proxy.test:3128"',
        '[upstream]\nproxy = "http://user:secret pw@proxy.test:3128"',
        '[registries.pypi]\nupstream = "https://user:secret/pw@proxy.test:3128/"',
        '[registries.pypi]\nupstream = "user:secretpw@x@proxy.test:3128"',
        '[server]\npublic_urls = ["http://user:secretpw@proxy.test:3128"]',
        'listen = "user:secretpw@proxy.test:3128"',
        '[server]\ntrusted_proxies = ["user:secretpw@proxy.test:3128"]',
    ],
)
def test_of_an_address_that_may_hold_a_password_only_the_host_is_shown(config: Path, text: str) -> None:
    found = complaint(config, text)
    assert "…@proxy.test:3128" in found
    assert "secret" not in found
    assert "user:" not in found


@given(st.from_regex(r"https?://[a-zé0-9.:\[\]_/@-]{1,12}", fullmatch=True))
def test_a_public_url_is_accepted_only_if_the_server_can_list_it(url: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        try:
            load(Path(directory) / "edge.toml", "", {"EDGE_SERVER__PUBLIC_URLS": url})
        except SettingsError:
            return
    try:
        Hosts([url])
    except (Malformed, ValueError) as error:
        raise AssertionError(url) from error


def numbers(table: type[Table]) -> list[tuple[str, str]]:
    """Table and key of every number that can be set, tables within tables too."""
    found = []
    for known in msgspec.structs.fields(table):
        inner = [part for part in (known.type, *get_args(known.type)) if isinstance(part, type)]
        found += [number for part in inner if issubclass(part, Table) for number in numbers(part)]
        if {int, float} & set(inner):
            found.append((table.__name__, known.encode_name))
    return found


def test_every_number_has_a_range_that_holds_its_default() -> None:
    missing = [(table, key) for table, key in numbers(EdgeSettings) if key not in RANGES.get(table, {})]
    assert missing == [], "say in RANGES what it may be"
    load_edge({"data": "d"}, {"HOME": "/nowhere"})


def test_an_edge_with_an_origin_replicates_what_is_popular_unless_it_is_told_otherwise(config: Path) -> None:
    settings = load(config, ORIGIN).settings
    assert (settings.origin, settings.direct, settings.siblings) == ("https://origin.test:9090", False, ())
    assert settings.replicate.mode == "popular"
    assert settings.replicate.limit_bytes is None
    assert (settings.replicate.lease_s, settings.replicate.lapsed, settings.replicate.compare_s) == (3600, "serve", 3600)
    text = """
        siblings = ["https://b.test", "http://c.test:8080"]
        direct = true
        [replicate]
        mode = "matching"
        match = ["pkg:npm/@company/*", "*"]
        limit = "10GB"
        at_once = 2
        lease = "10m"
        lapsed = "refuse"
        compare = "1d"
    """
    asked = load(config, ORIGIN + text).settings.replicate
    assert asked.match == ("pkg:npm/@company/*", "*")
    assert (asked.limit_bytes, asked.at_once, asked.lease_s, asked.lapsed, asked.compare_s) == (10**10, 2, 600, "refuse", 86400)


# ---- what is watched


def test_without_a_settings_file_the_one_that_would_be_found_here_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {"HOME": str(tmp_path / "home")}
    loaded = load_edge({}, environ)
    assert loaded.config_path is None
    assert loaded.watch_path == tmp_path / "edge.toml"
    mine = tmp_path / "home" / ".config" / "leeward" / "edge.toml"
    mine.parent.mkdir(parents=True)
    mine.write_text("")
    assert load_edge({}, environ).watch_path == mine
    Path("edge.toml").write_text("")
    loaded = load_edge({}, environ)
    assert loaded.config_path == Path("edge.toml")
    assert loaded.watch_path == tmp_path / "edge.toml"
    Path("other.toml").write_text("")
    assert load_edge({}, environ | {"EDGE_CONFIG": "other.toml"}).watch_path == tmp_path / "other.toml"


# ---- rules


def test_only_the_rules_are_read_again(config: Path) -> None:
    config.write_text("listen = 3\n" + RULE)
    assert [rule["name"] for rule in load_rules(config)] == ["no-evil"]
    config.write_text("")
    assert load_rules(config) == ()


def test_rules_come_with_the_settings(config: Path) -> None:
    loaded = load(config, RULE)
    assert loaded.config_path == config
    assert [rule["match"] for rule in loaded.settings.rules] == ["pkg:pypi/evil"]


# ---- words


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10m", 600),
        ("30s", 30),
        ("1d", 86400),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("1.5h", 5400),
        ("45", 45),
        (45, 45),
        (0.5, 0.5),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "10 years", "-1s", "1m nonsense", "inf", "nan", True, None, [1], -1])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        duration_s(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("10GB", 10**10), ("512MiB", 512 << 20), ("0", 0), ("1.5K", 1500), ("7", 7), ("7 B", 7), (7, 7), ("1tib", 1 << 40)],
)
def test_sizes(text: object, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "10 XB", "-1", -1, 1.5, True, None, "1GBB"])
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(ValueError, match="not a size"):
        size_bytes(text)


def test_a_store_limit_of_nothing_is_none(config: Path) -> None:
    assert load(config, '[store]\nlimit = "0"').settings.store.limit_bytes is None


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:8080", ("127.0.0.1", 8080)), ("[::1]:0", ("::1", 0)), ("localhost:65535", ("localhost", 65535))],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert listen_address(text) == address


@pytest.mark.parametrize("text", ["8080", ":8080", "a:", "a:b", "a:65536", "::1:80", "[::1]", "[x]:1", "a b:1", "[a:1", "a:-1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"not an? "):
        listen_address(text)


@given(st.text())
def test_a_url_is_accepted_or_refused_and_nothing_else(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert web_url(text) == text


# ---- lines


def paths(values: Any, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    found = {path} if path else set()
    members = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in members:
        found |= paths(value, (*path, key))
    return found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a = 1\n",
        "a.b.'c d'.\"e\\u0041\" = { f = [1, 2, {g = 3}], 'h' = '' } # c",
        "[a]\nb = '''\n]\n[no]\n'''\n[[c.d]]\ne = 1\n[c.d.f]\n[[c.d]]\n[[c.d.g]]\nh = [\n # ] \n '#', \"\\\"]\",\n]\n",
        'a = """x\\"""\n"y" """\r\nb = 1979-05-27T07:32:00Z\r\n[ c . d ]\r\ne=+inf',
        "a = [[1, [2]], [], [3,],]\n[b]\n[b.c]\nd={}\n",
    ],
)
def test_every_key_has_a_line(text: str) -> None:
    document = tomllib.loads(text)
    lines = key_lines(text)
    assert set(lines) == paths(document)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


def test_lines_are_those_of_the_keys() -> None:
    lines = key_lines("# c\na = '''\n\n'''\n[t]\n\nb = [\n 1,\n 2]\n[[r]]\nx = 1\n[[r]]\n\nx = 2\n")
    assert lines[("a",)] == 2
    assert lines[("t", "b")] == 7
    assert lines[("t", "b", 1)] == 9
    assert lines[("r", 1)] == 12
    assert lines[("r", 1, "x")] == 14


# ---- what npm and Maven may be told

KEY = base64.b64encode(
    ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
).decode()
DESCRIBED = {
    "keyid": "SHA256:one",
    "keytype": "ecdsa-sha2-nistp256",
    "scheme": "ecdsa-sha2-nistp256",
    "key": KEY,
    "expires": None,
}


def test_there_is_an_instance_of_each_kind_by_default(config: Path) -> None:
    registries = load(config).settings.registries
    assert {name: (each.kind, each.path) for name, each in registries.items()} == {
        kind: (kind, f"/{kind}/") for kind in ("pypi", "npm", "maven")
    }
    for each in registries.values():
        assert each.upstream.startswith("https://")
        assert each.upstream.endswith("/")
        assert (each.keys, each.signatures, each.audit, each.groups) == (None, "check", "forward", ())
        assert (each.page_limit_bytes, each.file_limit_bytes) == (256_000_000, 16 << 30)
    assert load(config).settings.server.limits.body_bytes == 10_000_000


def test_an_instance_keeps_the_place_it_was_written_at_and_the_others_follow(config: Path) -> None:
    ours = '[registries.zeta]\nkind = "maven"\nupstream = "http://zeta.test/"\n[registries.alpha]\nkind = "npm"\nupstream = "http://a.test/"\n'
    assert list(load(config, ours).settings.registries) == ["zeta", "alpha", "pypi", "npm", "maven"]
    assert list(load(config, ours + "[registries.maven]\n").settings.registries) == ["zeta", "alpha", "maven", "pypi", "npm"]
    assert list(load(config, "[registries.maven]\n" + ours).settings.registries) == ["maven", "zeta", "alpha", "pypi", "npm"]


def instance(name: str, kind: str, path: str, more: str = "") -> str:
    return f'[registries.{name}]\nkind = "{kind}"\nupstream = "http://{name}.test/"\npath = "{path}"\n{more}\n'


def test_several_maven_repositories_may_share_a_path(config: Path) -> None:
    text = instance("ours", "maven", "/maven/", 'groups = ["com.company.*", "org.ours"]') + instance("more", "maven", "/maven/")
    registries = load(config, text).settings.registries
    assert [name for name, each in registries.items() if each.path == "/maven/"] == ["ours", "more", "maven"]
    assert registries["ours"].groups == ("com.company.*", "org.ours")


@pytest.mark.parametrize(
    "text",
    [
        instance("one", "npm", "/js/") + instance("two", "npm", "/js/"),
        instance("one", "pypi", "/py/") + instance("two", "pypi", "/py/"),
        instance("one", "maven", "/any/") + instance("two", "npm", "/any/"),
        instance("one", "maven", "/any/") + instance("two", "maven", "/any/beneath/"),
        instance("two", "npm", "/maven/"),
    ],
)
def test_no_other_instances_may(config: Path, text: str) -> None:
    assert re.match(r"edge\.toml:\d+: registries\.two\.path: /\w+/(beneath/)? is, holds or lies beneath", complaint(config, text))


@pytest.mark.parametrize("kind", ["npm", "maven"])
def test_keys_that_cannot_be_read_stop_the_start(config: Path, kind: str) -> None:
    text = f'[registries.{kind}]\n\nkeys = "keys.txt"\n'
    keys = config.parent / "keys.txt"
    assert complaint(config, text) == f"edge.toml:3: registries.{kind}.keys: {keys} cannot be read: No such file or directory"
    keys.mkdir()
    assert complaint(config, text) == f"edge.toml:3: registries.{kind}.keys: {keys} cannot be read: Is a directory"
    keys.rmdir()
    for garbage in (b"", b"no keys at all", b"\xff\x00" * 100, b"{}", b"[]", b'{"keys": []}', b'{"keys": [{"keyid": 1}]}'):
        keys.write_bytes(garbage)
        found = complaint(config, text)
        assert found.startswith(f"edge.toml:3: registries.{kind}.keys: ")
        assert len(found) > 60, "it says why"
        assert "\n" not in found


def test_keys_are_read_from_beside_the_file_that_names_them(config: Path) -> None:
    (config.parent / "keys.json").write_text(json.dumps({"keys": [DESCRIBED]}))
    settings = load(config, '[registries.npm]\nkeys = "keys.json"\nsignatures = "require"\n').settings
    assert settings.registries["npm"].keys == config.parent / "keys.json"
    options = options_of(settings.registries["npm"])
    assert options.keys is not None
    assert json.loads(options.keys) == {"keys": [DESCRIBED]}
    assert options.signatures == "require"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '[registries.npm]\nsignatures = "require"',
            "edge.toml:2: registries.npm.signatures: signatures cannot be required without",
        ),
        ('[registries.maven]\nsignatures = "require"', "edge.toml:2: registries.maven.signatures: signatures cannot be required"),
        ('[registries.npm]\nsignatures = "ignore"', "edge.toml:2: registries.npm.signatures: one of check, require"),
        ('[registries.npm]\naudit = "maybe"', "edge.toml:2: registries.npm.audit: one of forward, empty, off"),
        ('[registries.pypi]\naudit = "off"', "edge.toml:2: registries.pypi.audit: means nothing to a registry of kind pypi"),
        ('[registries.pypi]\nkeys = "k"', "edge.toml:2: registries.pypi.keys: means nothing to a registry of kind pypi"),
        ('[registries.npm]\ngroups = ["@ours/*"]', "edge.toml:2: registries.npm.groups: means nothing to a registry of kind npm"),
        ('[registries.maven]\naudit = "off"', "edge.toml:2: registries.maven.audit: means nothing to a registry of kind maven"),
        ('[registries.maven]\ngroups = "org.ours"', "edge.toml:2: registries.maven.groups: "),
        ('[registries.maven]\ngroups = [""]', "edge.toml:2: registries.maven.groups: not a pattern of names"),
        (
            '[registries.maven]\ngroups = ["org.ours", "com.company:lib"]',
            "edge.toml:2: registries.maven.groups: not a pattern of",
        ),
        ('[registries.maven]\ngroups = ["com..company"]', "edge.toml:2: registries.maven.groups: not a pattern of names"),
        ('[registries.maven]\ngroups = ["com company"]', "edge.toml:2: registries.maven.groups: not a pattern of names"),
        ("[server.limits]\nbody = 0", "edge.toml:2: server.limits.body: must be from"),
    ],
)
def test_what_npm_and_maven_cannot_be_told_is_said_with_its_line(config: Path, text: str, expected: str) -> None:
    found = complaint(config, text)
    assert found.startswith(expected), found


def test_every_kind_says_which_options_it_heeds() -> None:
    assert kinds.HEEDED.keys() == kinds.KINDS.keys()
    assert frozenset().union(*kinds.HEEDED.values()) <= set(Options.__dataclass_fields__)
