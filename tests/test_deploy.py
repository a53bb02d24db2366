"""What lies in deploy/ is used as it is, so it must be what this release understands: settings, units, the image."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edge import __main__ as edge_command
from edge.settings import load_edge
from origin import __main__ as origin_command
from origin.node_settings import load_origin
from origin.words import duration_s

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"

EDGES = sorted(DEPLOY.rglob("edge*.toml"))
ORIGINS = sorted(DEPLOY.rglob("origin.toml"))

PROGRAMS = ("edge", "origin")
PARSERS = {"edge": edge_command._parser(), "origin": origin_command._parser()}


# ---- settings --------------------------------------------------------------------------------------------------------


def test_there_are_settings_for_an_edge_alone_for_one_machine_and_for_three_regions() -> None:
    found = [str(path.relative_to(DEPLOY)) for path in sorted(DEPLOY.rglob("*.toml"))]
    assert found == [
        "edge.toml",
        *("one-machine/edge.toml", "one-machine/origin.toml"),
        "origin.toml",
        *("three-regions/edge-a.toml", "three-regions/edge-b.toml", "three-regions/edge-c.toml", "three-regions/origin.toml"),
    ]


def test_the_example_settings_are_accepted_and_hold_the_limits_they_name() -> None:
    loaded = load_edge({"config": str(DEPLOY / "edge.toml")}, {})
    assert loaded.settings.store.limit_bytes == 100 * 10**9
    assert loaded.settings.registries["pypi"].fresh_s == 600


@pytest.mark.parametrize("path", EDGES, ids=lambda path: path.parent.name + "-" + path.stem)
def test_an_edges_settings_are_accepted(path: Path) -> None:
    settings = load_edge({"config": str(path)}, {}).settings
    assert str(settings.data) == "/var/lib/leeward/edge"
    assert settings.store.limit_bytes is not None
    # What is brought here leaves room for what is asked for.
    assert (settings.replicate.limit_bytes or 0) < settings.store.limit_bytes


@pytest.mark.parametrize("path", ORIGINS, ids=lambda path: path.parent.name)
def test_an_origins_settings_are_accepted(path: Path) -> None:
    settings = load_origin({"config": str(path)}, {}).settings
    assert str(settings.data) == "/var/lib/leeward/origin"
    assert settings.listen.endswith(":9090")
    assert settings.store.limit_bytes is not None


def test_every_commented_line_of_the_origins_example_is_accepted_too(tmp_path: Path) -> None:
    settings = load_origin({"config": str(whole(DEPLOY / "origin.toml", tmp_path))}, {}).settings
    assert settings.server.public_urls == ("https://origin.company.test:9090",)
    assert (settings.fleet.lease_s, settings.fleet.popular) == (3600, 2)
    assert settings.upstream.rate == 50
    assert len(settings.rules) == 1


def test_an_edge_beside_its_origin_finds_it_on_the_same_machine() -> None:
    origin = load_origin({"config": str(DEPLOY / "one-machine" / "origin.toml")}, {}).settings
    edge = load_edge({"config": str(DEPLOY / "one-machine" / "edge.toml")}, {}).settings
    assert edge.origin == f"https://{origin.listen}"


def test_three_regions_follow_one_origin_bring_everything_and_know_the_other_two() -> None:
    regions = {
        name: load_edge({"config": str(DEPLOY / "three-regions" / f"edge-{name}.toml")}, {}).settings for name in ("a", "b", "c")
    }
    assert {settings.origin for settings in regions.values()} == {"https://origin.company.test:9090"}
    for name, settings in regions.items():
        assert settings.replicate.mode == "all"
        assert not settings.direct
        assert set(settings.siblings) == {f"http://edge-{other}.company.test:8080" for other in regions if other != name}


def test_every_commented_line_of_the_edges_example_is_accepted_too(tmp_path: Path) -> None:
    loaded = load_edge({"config": str(whole(DEPLOY / "edge.toml", tmp_path))}, {})
    assert loaded.settings.registries["company"].path == "/company/"
    assert loaded.settings.origin == "https://origin.company.test:9090"
    assert loaded.settings.replicate.match == ("pkg:npm/@company/*", "pkg:pypi/*")
    assert len(loaded.settings.rules) == 1
    assert loaded.settings.proxy.allow == ("10.20.0.0/16",)


def whole(example: Path, tmp_path: Path) -> Path:
    """The example with its comments taken off."""
    lines = example.read_text().splitlines()
    settings = [line.removeprefix("# ") for line in lines if "=" in line or line.startswith(("[", "# ["))]
    # Files that only a company has.
    settings = [line for line in settings if not line.startswith(("ca = ", "keys = ", "cert = ", "key = "))]
    path = tmp_path / example.name
    path.write_text("\n".join(settings))
    return path


# ---- units -----------------------------------------------------------------------------------------------------------


def unit(program: str) -> configparser.SectionProxy:
    """The ``[Service]`` of a unit; of a key that is repeated, the last."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / f"leeward-{program}.service")
    return parser["Service"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_systemd_waits_longer_than_a_node_drains(program: str) -> None:
    drains = [duration_s(drain) for drain in re.findall(r'^drain = "(.*?)"', texts(f"{program}*.toml"), re.MULTILINE)]
    assert drains
    # What has arrived is stored, and the catalogue closed, after that.
    assert duration_s(unit(program)["TimeoutStopSec"]) >= max(drains) + 15


def texts(pattern: str) -> str:
    return "\n".join(path.read_text() for path in sorted(DEPLOY.rglob(pattern)))


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_unit_is_what_systemd_understands_and_leaves_little_open(program: str, tmp_path: Path) -> None:
    # Of this machine are the programs that it names; nothing else is changed.
    here = tmp_path / f"leeward-{program}.service"
    here.write_text((DEPLOY / here.name).read_text().replace("/opt/leeward/bin/", f"{Path(sys.executable).parent}/"))
    verified = subprocess.run(["systemd-analyze", "verify", here], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    # Points out of 100 that a hardened service may have left; the network is among them.
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", here], capture_output=True, text=True, check=False
    )
    assert rated.returncode == 0, rated.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_both_units_are_hardened_alike(program: str) -> None:
    other = dict(unit("edge" if program == "origin" else "origin"))
    own = dict(unit(program))
    assert {key for key in own if own[key] != other.get(key)} <= {
        "ExecStart",
        "ExecStartPre",
        "EnvironmentFile",
        "StateDirectory",
    }


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_unit_starts_its_node_with_the_settings_of_the_system_on_data_of_its_own(program: str) -> None:
    service = unit(program)
    path, *words = shlex.split(service["ExecStart"])
    assert path == f"/opt/leeward/bin/{program}"
    asked = PARSERS[program].parse_args(words)
    assert (asked.config, asked.data) == (f"/etc/leeward/{program}.toml", f"/var/lib/leeward/{program}")
    assert asked.data.removeprefix("/var/lib/") in service["StateDirectory"].split()


def test_what_the_origins_unit_and_manifest_say_of_backups_is_a_command_and_a_place_that_can_be_written() -> None:
    [written] = re.findall(r"`origin (backup .*?)`", (DEPLOY / "leeward-origin.service").read_text())
    asked = PARSERS["origin"].parse_args(written.split())
    assert str(asked.directory).removeprefix("/var/lib/") in unit("origin")["StateDirectory"].split()
    assert f"`origin backup {asked.directory}`" in (DEPLOY / "kubernetes" / "origin.yaml").read_text()


def test_the_edges_unit_enrols_it_once(tmp_path: Path) -> None:
    service = unit("edge")
    said = runs(service["ExecStartPre"], tmp_path, {"LEEWARD_ORIGIN": "https://o.test:9090", "LEEWARD_TOKEN": "lw1.abc"})
    *words, token = said
    enrol = PARSERS["edge"].parse_args(words)
    assert (enrol.url, enrol.token, token) == ("https://o.test:9090", "-", "lw1.abc")
    assert (enrol.config, enrol.data) == ("/etc/leeward/edge.toml", str(tmp_path / "data"))
    # With no token, or with an identity, nothing is done.
    assert runs(service["ExecStartPre"], tmp_path, {"LEEWARD_ORIGIN": "https://o.test:9090"}) == []
    (tmp_path / "data" / "origin.json").write_text("{}")
    assert runs(service["ExecStartPre"], tmp_path, {"LEEWARD_TOKEN": "lw1.abc"}) == []


def runs(command: str, tmp_path: Path, environ: dict[str, str]) -> list[str]:
    """What a line of a unit runs as ``edge``, here, as words, and then what it gives it to read."""
    stand_in = tmp_path / "edge"
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\ncat\n')
    stand_in.chmod(0o755)
    (tmp_path / "data").mkdir(exist_ok=True)
    # systemd.service(5): "$$" is "$", and a line that ends in a backslash goes on.
    words = shlex.split(command.replace("\\\n", " ").replace("$$", "$"))
    words = [
        word.replace("/opt/leeward/bin/edge", str(stand_in)).replace("/var/lib/leeward/edge", str(tmp_path / "data"))
        for word in words
    ]
    done = subprocess.run(words, env=environ | {"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


# ---- the image -------------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The Containerfile's instructions, in order, continued lines joined."""
    lines = [line for line in (DEPLOY / "Containerfile").read_text().splitlines() if not line.startswith("#")]
    return [
        (word, rest.strip())
        for line in "\n".join(lines).replace("\\\n", " ").splitlines()
        if line
        for word, _, rest in [line.partition(" ")]
    ]


def variables() -> dict[str, str]:
    """What the image sets."""
    said = [variable for word, rest in instructions() if word == "ENV" for variable in shlex.split(rest)]
    return dict(variable.partition("=")[::2] for variable in said)


def test_the_image_is_made_in_two_stages_and_runs_as_nobody_in_particular() -> None:
    said = instructions()
    stages = [index for index, (word, _) in enumerate(said) if word == "FROM"]
    assert len(stages) == 2
    final = said[stages[1] :]
    assert [rest for word, rest in final if word == "COPY"] == ["--from=build /opt/leeward /opt/leeward"]
    uid = dict(final)["USER"].partition(":")[0]
    assert int(uid) > 0
    assert uid in dict(final)["RUN"], "who runs owns the data directory"
    assert dict(final)["VOLUME"] == "/var/lib/leeward"


def test_the_image_installs_what_is_pinned_and_nothing_else() -> None:
    installs = [rest for word, rest in instructions() if word == "RUN" and " install " in rest and "/bin/pip" in rest]
    assert len(installs) == 2
    assert "--require-hashes --no-deps -r requirements/build.txt -r requirements/run.txt" in installs[0]
    assert "--no-index --no-deps --no-build-isolation ." in installs[1]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_image_has_a_node_listen_for_others_and_keep_its_data_in_the_volume(program: str) -> None:
    environ = variables()
    exposed = next(rest.split() for word, rest in instructions() if word == "EXPOSE")
    prefix = program.upper()
    host, _, port = environ[f"{prefix}_LISTEN"].partition(":")
    assert host == "0.0.0.0"  # noqa: S104 -- in a container
    assert port in exposed
    assert environ[f"{prefix}_DATA"] == f"/var/lib/leeward/{program}"


def test_the_image_serves_as_an_edge_unless_told_otherwise() -> None:
    command = next(rest for word, rest in instructions() if word == "CMD")
    assert command == '["edge", "serve"]'
    settings = load_edge({"config": "-"}, variables()).settings
    assert str(settings.data) == "/var/lib/leeward/edge"


def test_what_the_image_copies_is_enough_to_build_it_whole(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from"):
            *names, target = rest.split()
            for name in names:
                found = ROOT / name
                if found.is_dir():
                    shutil.copytree(found, source / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    (source / target).mkdir(exist_ok=True)
                    shutil.copy(found, source / target)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    built = subprocess.run(
        [*pip, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = set(wheel.namelist())
        scripts = next(wheel.read(name).decode() for name in packed if name.endswith("entry_points.txt"))
    tree = {
        str(path.relative_to(ROOT))
        for package in PROGRAMS
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert tree <= packed
    assert all(f"{program} = {program}.__main__:main" in scripts for program in PROGRAMS)
