"""The origin's command line: help that teaches, errors in a sentence, results for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from origin import __main__ as command_line
from origin.api.wire import read_token
from tests import commands

COMMANDS = [
    *["serve", "invite", "edges", "dismiss", "recall", "who", "backup", "restore"],
    *["status", "why", "refresh", "verify", "gc"],
]

EDGE = {
    "name": "berlin",
    "enrolled_at": 1.0,
    "seen_at": 1_800_000_000.0,
    "live": True,
    "serial": 90,
    "verdicts": 3,
    "behind": 10,
    "unresolved": 2,
    "held_bytes": 11_100,
    "address": "192.0.2.7",
    "release": "1.0",
}
SILENT = EDGE | {"name": "tokyo", "seen_at": 1_799_990_000.0, "live": False, "verdicts": 2, "release": "", "address": ""}
NEW = SILENT | {"name": "lima", "seen_at": 0.0}
RECALLED: dict[str, object] = {
    "recalled": "pkg:npm/evil@1.0.0",
    "reason": "it steals",
    "id": "4",
    "verdicts": 4,
    "files": [{"file": "npm:evil:1.0.0:evil-1.0.0.tgz", "digest": "sha256-ab", "size": 10}],
    "also": ["npm:copy:1.0.0:copy-1.0.0.tgz"],
    "purls": ["pkg:npm/evil@1.0.0"],
    "acknowledged": ["berlin", "lima"],
    "missing": [],
    "gone": ["tokyo"],
    "running": True,
}
DELIVERED = {
    "edge": "berlin",
    "client": "10.0.0.1",
    "token": "ci",
    "file": "npm:evil:1.0.0:evil-1.0.0.tgz",
    "digest": "ab",
    "first": 1_800_000_000.0,
    "last": 1_800_000_060.0,
    "times": 3,
    "whole": 0,
}
WHO = {
    "target": "pkg:npm/evil@1.0.0",
    "files": [{}],
    "also": [],
    "deliveries": [DELIVERED],
    "brought": [DELIVERED | {"client": ""}],
}
BACKUP = {
    "directory": "/backup",
    "generation": "g",
    "made_at": 1_800_000_000.0,
    "serial": 100,
    "blobs": 3,
    "bytes": 2_500_000,
    "linked": 1,
    "copied": 1,
    "kept": 1,
    "bad": [],
    "certificate": True,
}
VERIFIED: dict[str, object] = {
    "checked": 3,
    "bad": [],
    "missing": [],
    "unreadable": [],
    "bytes": 12_345,
    "ledger": {"lines": 100, "vouched": 90, "problems": []},
}


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the settings of whoever runs it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    commands.leave_out(monkeypatch, "ORIGIN_", "XDG_")
    monkeypatch.setenv("ORIGIN_DATA", str(tmp_path / "data"))


def running(data: Path, answers: Mapping[str, object]) -> AbstractContextManager[list[tuple[str, dict[str, object]]]]:
    """An origin's control socket on ``data``, giving ``answers``; yields what it was asked."""
    return commands.answering(data / "origin.sock", answers)


def run(*arguments: str) -> int:
    return commands.run(command_line.main, *arguments)


# ---- help and errors


def test_help_names_every_command_and_how_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    told = capsys.readouterr().out
    for name in (*COMMANDS, "origin serve", "origin invite berlin", "edge enrol", "origin.toml", "ORIGIN_LISTEN"):
        assert name in told


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    assert f"examples:\n  origin {name}" in capsys.readouterr().out


def test_without_a_command_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert "origin serve" in capsys.readouterr().err
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("leeward ")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("serve", "--listen", "everywhere"), "--listen: listen: not an address"),
        (("invite", "berlin", "--valid", "soon"), "--valid: not a duration"),
        (("recall", "pkg:npm/evil", "--reason", "x", "--wait", "long"), "--wait: not a duration"),
        (("recall", "pkg:npm/evil"), "recall needs a reason"),
        (("recall", "pkg:npm/evil", "--reason", "  "), "recall needs a reason"),
        (("restore", "/backup"), "restore needs --data"),
    ],
)
def test_what_was_asked_wrongly_is_told_in_a_sentence(
    arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("origin: ") and complaint in told


def test_the_help_of_restore_says_that_it_must_be_told_where_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("restore", "--help") == 0
    told = capsys.readouterr().out
    assert told.startswith("usage: origin restore [-h] [--config FILE] [--json] --data DIR DIR\n")
    assert "[--data DIR]" not in told and "ORIGIN_DATA" not in told


@pytest.mark.parametrize("arguments", [("status",), ("refresh", "pkg:npm/x"), ("edges",), ("who", "pkg:npm/x"), ("dismiss", "x")])
def test_where_nothing_is_nothing_is_made(tmp_path: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 1
    assert " is running on " in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_what_the_origin_cannot_do_is_told_in_its_own_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path / "data", {"dismiss": ValueError("there is no edge named 'x'")}):
        assert run("dismiss", "x") == 1
    assert capsys.readouterr().err == "origin: there is no edge named 'x'\n"


# ---- results


def told(tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: object, *arguments: str, status: int = 0) -> str:
    """What a command prints of an answer; that it prints all of it as JSON is checked by the way."""
    with running(tmp_path / "data", {arguments[0]: answer}):
        assert run(*arguments, "--json") == status
        assert json.loads(capsys.readouterr().out) == answer
        assert run(*arguments) == status
    return capsys.readouterr().out


def test_edges_are_listed_in_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"lines": 100, "verdicts": 3, "now": 1_800_000_090.0, "edges": [EDGE, SILENT, NEW]}
    lines = told(tmp_path, capsys, answer, "edges").splitlines()
    assert [line.split("  ")[0].strip() for line in lines] == ["edge", "berlin", "tokyo", "lima"]
    for word in ("2 m ago", "10 lines", "in force", "11.1 kB", "192.0.2.7"):
        assert word in lines[1]
    assert "1 line  " in told(tmp_path, capsys, answer | {"edges": [EDGE | {"behind": 1}]}, "edges")
    assert "3 h ago, gone" in lines[2] and "2 of 3" in lines[2]
    assert "never" in lines[3]
    assert "origin invite NAME" in told(tmp_path, capsys, answer | {"edges": []}, "edges")


def test_an_invitation_is_a_line_that_can_be_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"name": "berlin", "token": "lw1.abc", "until": 1_800_000_000.0, "url": "https://origin.test:9090"}
    lines = told(tmp_path, capsys, answer, "invite", "berlin").splitlines()
    assert lines[0] == "lw1.abc"
    assert lines[-1] == "  edge enrol https://origin.test:9090 TOKEN"


def test_how_long_an_invitation_is_good_is_told_to_the_origin(tmp_path: Path) -> None:
    answer = {"name": "berlin", "token": "lw1.abc", "until": 1.0, "url": "https://origin.test:9090"}
    with running(tmp_path / "data", {"invite": answer}) as asked:
        run("invite", "berlin", "--valid", "1h30m")
    assert asked == [("invite", {"name": "berlin", "valid_s": 5400.0})]


def test_a_recall_says_where_it_is_in_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(tmp_path, capsys, RECALLED, "recall", "pkg:npm/evil@1.0.0", "--reason", "it steals")
    for sentence in (
        "pkg:npm/evil@1.0.0 is recalled (recall-4): 1 file held here is refused",
        "npm:evil:1.0.0:evil-1.0.0.tgz  sha256-ab",
        "the same bytes, refused too: npm:copy:1.0.0:copy-1.0.0.tgz",
        "in force at 2 edges: berlin, lima",
        "not heard of for longer than the lease: tokyo",
    ):
        assert sentence in text


def test_an_edge_that_does_not_acknowledge_is_named_and_the_status_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = RECALLED | {"acknowledged": [], "missing": ["berlin", "lima"]}
    text = told(tmp_path, capsys, answer, "recall", "pkg:npm/evil@1.0.0", "--reason", "it steals", status=1)
    assert "NOT acknowledged by berlin, lima" in text


def test_a_recall_that_is_undone_says_what_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = {name: value for name, value in RECALLED.items() if name not in ("recalled", "files", "also")}
    answer |= {"undone": "pkg:npm/evil@1.0.0"}
    with running(tmp_path / "data", {"recall": answer}) as asked:
        assert run("recall", "pkg:npm/evil@1.0.0", "--undo", "--wait", "1m") == 0
    assert asked[0][1] == {"target": "pkg:npm/evil@1.0.0", "reason": "", "undo": True, "wait_s": 60.0}
    assert "pkg:npm/evil@1.0.0 is no longer recalled (it was: it steals)" in capsys.readouterr().out


def test_who_got_something_is_listed_by_edge_and_client(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(tmp_path, capsys, WHO, "who", "pkg:npm/evil@1.0.0")
    assert "berlin  10.0.0.1 (ci)  npm:evil:1.0.0:evil-1.0.0.tgz" in text
    assert "3, never whole" in text
    assert "brought to berlin: npm:evil:1.0.0:evil-1.0.0.tgz" in text
    nobody = WHO | {"deliveries": [], "brought": []}
    assert "nobody got any of it, as far as edges have said" in told(tmp_path, capsys, nobody, "who", "pkg:npm/evil@1.0.0")


def test_a_backup_says_what_it_holds_and_what_it_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(tmp_path, capsys, BACKUP, "backup", "there")
    assert "/backup: 3 files (2.5 MB), 2 of them new, the ledger up to line 100, and the keys" in text
    assert "1 is linked: it takes no room here, and shares the fate of this disk" in text
    text = told(tmp_path, capsys, BACKUP | {"blobs": 1, "linked": 2}, "backup", "there")
    assert "/backup: 1 file (2.5 MB), 3 of them new" in text
    assert "2 are linked: they take no room here, and share the fate of this disk" in text
    answer = BACKUP | {"bad": ["sha256-ab"], "certificate": False}
    text = told(tmp_path, capsys, answer, "backup", "there", status=1)
    assert "bad, left out: sha256-ab" in text and "operator's own" in text
    with running(tmp_path / "data", {"backup": BACKUP}) as asked:
        run("backup", "there")
    assert asked[0][1] == {"directory": str(tmp_path / "there")}


def test_a_broken_chain_is_told_and_the_status_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(tmp_path, capsys, VERIFIED, "verify")
    assert "100 lines of the ledger checked: the chain holds" in text
    broken: Any = VERIFIED | {"ledger": {"lines": 100, "vouched": 90, "problems": ["line 7 is not the one"]}}
    text = told(tmp_path, capsys, broken, "verify", status=1)
    assert "ledger   line 7 is not the one" in text and "100 lines of the ledger checked: 1 problem\n" in text


# ---- on the store itself


def test_an_invitation_may_come_before_the_first_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("invite", "berlin") == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert run("invite", "berlin") == 0
    second = capsys.readouterr().out.splitlines()[0]
    assert read_token(first)[0] == read_token(second)[0]
    assert read_token(first)[1] != read_token(second)[1]
    assert (tmp_path / "data" / "ledger.key").exists()
    assert run("edges") == 0
    assert "no edges" in capsys.readouterr().out
    assert run("dismiss", "berlin") == 0
    assert run("dismiss", "berlin") == 1
    assert run("invite", "BERLIN") == 1
    assert "an edge's name has lower-case letters" in capsys.readouterr().err


def test_a_recall_without_a_running_origin_is_written_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("invite", "berlin")
    assert run("recall", "pkg:npm/evil", "--reason", "it steals") == 0
    assert "no origin is running: edges hear of it when it does" in capsys.readouterr().out
    assert run("why", "pkg:npm/evil@1.0.0", "--json") == 0
    assert json.loads(capsys.readouterr().out)["reason"] == "recalled: it steals"
    assert run("recall", "pkg:npm/other", "--undo") == 1
    assert run("recall", "pkg:npm/evil", "--undo") == 0
    assert run("recall", "evil", "--reason", "x") == 1
    assert "names neither a release" in capsys.readouterr().err


def test_a_stopped_origin_is_backed_up_and_restored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("invite", "berlin")
    assert run("backup", "there") == 0
    assert run("restore", "there", "--data", "again") == 0
    text = capsys.readouterr().out
    assert f"start it: origin serve --data {tmp_path / 'again'}" in text
    assert "in the new epoch" in text
    assert run("restore", "there", "--data", "again") == 1
    assert "is not empty" in capsys.readouterr().err
    assert run("verify", "--data", "again") == 0
    assert "the chain holds" in capsys.readouterr().out
