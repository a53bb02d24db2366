"""The command line: help that teaches, errors in a sentence, results for people and as JSON."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from edge import __main__ as command_line
from edge.address import local_address
from edge.settings import load_edge
from origin import terminal
from tests import commands

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ["serve", "use", "refresh", "why", "verify", "gc", "status", "ca"]

WHY = {
    "purl": "pkg:pypi/six@1.16.0",
    "verdict": "refuse",
    "reason": "it is evil",
    "rule": "no-evil",
    "held": True,
    "digest": "sha256-ab",
    "size": 11053,
    "page": {"state": "fresh", "fresh_until": 1_800_000_600, "received_at": 1_800_000_000},
    "bound_at": 1_800_000_000,
    "events": [{"at": 1_800_000_000, "kind": "rebound", "digest": "sha256-cd"}],
}
ANSWERS: dict[str, object] = {
    "why": WHY,
    "refresh": {"purl": "pkg:pypi/six", "pages": [{"page": "pypi:six:", "outcome": "304"}]},
    "verify": {"checked": 3, "bad": [], "missing": [], "bytes": 12345},
    "gc": {"blobs": 2, "bytes": 2_500_000, "temporaries": 1, "dry_run": False},
    "status": {"listening": "127.0.0.1:8080", "store": {"blobs": 3}, "breakers": []},
}


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the settings of whoever runs it."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    commands.leave_out(monkeypatch, "EDGE_", "XDG_", "PIP_")
    monkeypatch.setenv("EDGE_DATA", str(tmp_path / "data"))
    return home


def running(data: Path, answers: Mapping[str, object]) -> AbstractContextManager[list[tuple[str, dict[str, object]]]]:
    """A node's control socket on ``data``, giving ``answers``; yields what it was asked."""
    return commands.answering(data / "edge.sock", answers)


def run(*arguments: str) -> int:
    return commands.run(command_line.main, *arguments)


# ---- help


def test_help_names_every_command_and_how_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    told = capsys.readouterr().out
    for name in (*COMMANDS, "edge serve", "edge use pip", "edge.toml", "EDGE_LISTEN"):
        assert name in told


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    told = capsys.readouterr().out
    assert f"examples:\n  edge {name}" in told
    assert "--config" in told
    assert "--data" in told


def test_the_help_of_serve_says_where_the_data_directory_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line.main(["serve", "--help"])
    told = capsys.readouterr().out
    assert "~/.local/state/leeward/edge" in told
    assert "/var/lib/leeward/edge" in told


def test_no_command_prints_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert "edge serve" in capsys.readouterr().err


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sreve") == 2
    assert "sreve" in capsys.readouterr().err


def test_help_is_quick_because_little_is_imported() -> None:
    code = "import sys; from edge.__main__ import main\ntry: main(['--help'])\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    loaded = set(done.stderr.split())
    assert "edge.__main__" in loaded
    assert not loaded & {"trio", "httpx", "msgspec", "tomlkit", "selectolax", "edge.app"}


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("leeward ")


# ---- errors


def test_a_bad_setting_stops_the_start_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "edge.toml").write_text('\nlisten = "everywhere"\n')
    assert run("serve") == 2
    assert capsys.readouterr().err.startswith("edge: edge.toml:2: listen: not an address to listen on")


def test_a_command_that_needs_a_running_edge_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["refresh", "pkg:pypi/six"], ["status"]):
        assert run(*arguments) == 1
        assert capsys.readouterr().err == f"edge: no edge or origin is running on {tmp_path / 'data'}\n"


def test_a_command_for_a_store_that_is_not_there_makes_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify") == 1
    assert "there is no store there" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_what_the_node_could_not_do_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path / "data", {"why": ValueError("not a purl: six")}):
        assert run("why", "six") == 1
    assert capsys.readouterr().err == "edge: not a purl: six\n"


def test_an_interrupt_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for interrupt in (KeyboardInterrupt(), BaseExceptionGroup("nursery", [KeyboardInterrupt()])):

        def stop(_: object, *, rules_too: bool = True, interrupt: BaseException = interrupt) -> int:
            raise interrupt

        monkeypatch.setattr(command_line, "_load", stop)
        assert run("status") == 130
    assert capsys.readouterr().err == ""


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_: object, *, rules_too: bool = True) -> int:
        raise RuntimeError("a fault")

    monkeypatch.setattr(command_line, "_load", crash)
    with pytest.raises(RuntimeError, match="a fault"):
        command_line.main(["status"])


# ---- results


def test_why_tells_verdict_rule_reason_and_what_is_held(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path / "data", ANSWERS) as asked:
        assert run("why", "pkg:pypi/six@1.16.0") == 0
    assert asked == [("why", {"purl": "pkg:pypi/six@1.16.0"})]
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "pkg:pypi/six@1.16.0 is refused by rule no-evil: it is evil"
    assert "  held     yes, 11.1 kB" in told
    assert "  page     fresh" in told
    assert "  fresh to 2027-01-15 08:10:00 UTC" in told
    assert told[-1] == "  event    2027-01-15 08:00:00 UTC kind=rebound digest=sha256-cd"


def test_the_other_results_are_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path / "data", ANSWERS) as asked:
        assert run("refresh", "pkg:pypi/six") == 0
        assert capsys.readouterr().out == "pypi: six: unchanged\n"
        assert run("verify") == 0
        assert capsys.readouterr().out == "3 files, 12.3 kB checked: all good\n"
        assert run("gc", "--dry-run") == 0
        assert capsys.readouterr().out == "2 blobs (2.5 MB) and 1 temporary file removed\n"
        assert run("status") == 0
        assert capsys.readouterr().out == "listening: 127.0.0.1:8080\nstore:\n  blobs: 3\nbreakers: none\n"
    assert ("gc", {"dry_run": True}) in asked


@pytest.mark.parametrize("arguments", [["why", "p"], ["refresh", "p"], ["verify"], ["gc"], ["status"]])
def test_results_are_json_by_option(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path / "data", ANSWERS):
        assert run(*arguments, "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == ANSWERS[arguments[0]]
    assert captured.err == ""


def test_verify_fails_when_anything_is_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path / "data", {"verify": {"checked": 3, "bad": ["sha256-ab"], "missing": [{"name": "x"}], "bytes": 9}}):
        assert run("verify") == 1
    assert capsys.readouterr().out.splitlines() == [
        "bad      sha256-ab",
        "missing  name=x",
        "3 files, 9 B checked: 1 bad, 1 missing, 0 could not be read",
    ]


def test_a_bad_rule_keeps_nobody_from_asking_the_running_edge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "edge.toml"
    config.write_text('[[rules]]\nname = "x"\nmatch = "pkg:pypi/six"\naction = "deny"\nreason = "y"\n')
    with running(tmp_path / "data", ANSWERS):
        assert run("status", "--config", str(config)) == 0
    capsys.readouterr()
    (tmp_path / "data").mkdir(exist_ok=True)
    assert run("verify", "--config", str(config)) == 2
    assert "edge.toml:1" in capsys.readouterr().err


def test_a_refresh_that_failed_is_told_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = [{"page": "pypi:six:", "outcome": "failed: no answer"}, {"page": "pypi:six:json", "outcome": "404"}]
    with running(tmp_path / "data", {"refresh": {"purl": "pkg:pypi/six", "pages": pages}}):
        assert run("refresh", "pkg:pypi/six") == 1
    assert capsys.readouterr().out.splitlines() == [
        "pypi: six: failed: no answer",
        "pypi: six (json): no such project upstream",
    ]


def test_progress_is_shown_on_a_terminal_and_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(tmp_path / "data", ANSWERS):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        assert run("verify") == 0
    told = capsys.readouterr().err
    assert "] 1 of 2, 10 B" in told
    assert told.endswith("\r\x1b[K")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (5 * 10**9, "5.0 GB"), (10**16, "10000.0 TB")],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert terminal.size_text(size) == text


def test_one_thing_is_told_as_one() -> None:
    assert [terminal.count_text(number, "file") for number in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
    assert terminal.verify_lines({"checked": 1, "bad": [], "missing": [], "bytes": 9}) == ["1 file, 9 B checked: all good"]
    assert terminal.gc_lines({"blobs": 1, "bytes": 9, "temporaries": 0}) == ["1 blob (9 B) and 0 temporary files removed"]


def test_what_is_so_or_not_is_told_as_yes_or_no(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"direct": False, "origin": {"in_contact": True, "since": None}, "sources": [{"name": "pypi", "open": True}, False]}
    with running(tmp_path / "data", {"status": answer}):
        assert run("status") == 0
        told = capsys.readouterr().out.splitlines()
        assert run("status", "--json") == 0
        assert json.loads(capsys.readouterr().out) == answer
    assert told == ["direct: no", "origin:", "  in_contact: yes", "  since: none", "sources: name=pypi open=yes, no"]


def test_nothing_that_is_told_moves_a_terminals_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.tell(argparse.Namespace(json=False), None, lambda: ["évil-1.0\x1b[2J\r\x9b.jar", "next"])
    assert capsys.readouterr().out == "évil-1.0\\x1b[2J\\r\\x9b.jar\nnext\n"


# ---- use


def test_use_takes_its_address_from_the_settings(tmp_path: Path, own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "edge.toml").write_text('listen = "0.0.0.0:9000"\n[registries.pypi]\npath = "/py/"\n')
    assert run("use", "pip") == 0
    file = own_home / ".config" / "pip" / "pip.conf"
    assert file.read_text() == "[global]\nindex-url = http://127.0.0.1:9000/py/simple/\n"
    assert capsys.readouterr().out.splitlines() == [
        f"{file} now points pip at http://127.0.0.1:9000/py/simple/",
        "edge use pip --undo takes it back",
    ]
    assert run("use", "pip", "--undo") == 0
    assert not file.exists()


def test_use_prints_without_writing(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("use", "uv", "--print", "--url", "http://mirror.test") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"# {own_home / '.config' / 'uv' / 'uv.toml'}",
        "[[index]]",
        'url = "http://mirror.test/pypi/simple/"',
        "default = true",
    ]
    assert not list(own_home.rglob("*"))


def test_use_complains_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("use", "poetry") == 1
    assert capsys.readouterr().err == "edge: there is no pyproject.toml here or above; run this in a Poetry project\n"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", "http://127.0.0.1:8080"),
        ('listen = "[::]:1"', "http://[::1]:1"),
        ('listen = "edge.test:80"', "http://edge.test:80"),
        ('[server]\npublic_urls = ["https://mirror.test"]', "https://mirror.test"),
    ],
)
def test_the_address_clients_should_use(tmp_path: Path, text: str, address: str) -> None:
    (tmp_path / "edge.toml").write_text(text)
    settings: Any = load_edge({"data": tmp_path}, {"HOME": str(tmp_path)}).settings
    assert local_address(settings) == address
