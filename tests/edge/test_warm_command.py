"""``edge warm`` and ``edge ready`` on the command line: what the node is asked, what people and CI are told."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edge import warm_command
from edge.__main__ import main
from edge.address import own_address
from edge.settings import EdgeSettings, load_edge
from origin.settings import ServerSettings, SettingsError, TLSSettings

LOCKS = Path(__file__).resolve().parents[1] / "data" / "locks"


class Node:
    """What is asked of the node, and what it answers."""

    def __init__(self, **answers: object) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._answers = answers

    def __call__(self, command: str, arguments: dict[str, object]) -> Any:
        self.asked.append((command, json.loads(json.dumps(arguments))))
        return self._answers[command]


def lock(**more: object) -> dict[str, object]:
    found: dict[str, object] = {
        "lock": "uv.lock",
        "format": "uv.lock",
        "ready": True,
        "platforms": [],
        "missing": [],
        "refused": [],
        "elsewhere": [],
        "notes": [],
        "things": 3,
    }
    return found | more


def run(tmp_path: Path, command: str, node: Node, *words: str) -> int:
    parser = argparse.ArgumentParser()
    warm_command.add_arguments(parser, command)
    parser.add_argument("--json", action="store_true")
    settings = load_edge({"config": "-", "data": str(tmp_path)}, {}).settings
    return warm_command.run(parser.parse_args(words), command, settings, node)


def test_the_node_is_asked_for_what_applies_on_each_target(tmp_path: Path) -> None:
    node = Node(ready={"ready": True, "locks": [lock()]})
    words = [
        "--platform",
        "linux_x86_64",
        "--platform",
        "win_amd64",
        "--python",
        "3.13",
        "--url",
        "https://edge.test",
        "--covered",
    ]
    assert run(tmp_path, "ready", node, *words, str(LOCKS / "uv.lock")) == 0
    ((command, arguments),) = node.asked
    assert (command, arguments["urls"], arguments["local"]) == ("ready", ["https://edge.test"], True)
    (asked,) = arguments["locks"]
    assert asked["targets"] == [{"platform": "linux_x86_64", "python": "3.13"}, {"platform": "win_amd64", "python": "3.13"}]
    assert asked["fixed"] is True
    wishes = {wish["needed"]["project"]: wish["targets"] for wish in asked["wishes"]}
    assert wishes == {"apple-tree": [0, 1], "orchard": [0, 1], "pear-tree": [0, 1], "soil": [0, 1], "win-only": [1]}
    # A host that is shaped as the registry's own files are is taken for another name of it.
    assert asked["believed"]["pypi"] == ["files.pypi.test"]


def test_warm_says_how_much_how_many_at_a_time_and_whether_to_pin(tmp_path: Path) -> None:
    told = {"files": 4, "pages": 2, "fetched": 3, "bytes": 1_500_000, "pinned": True, "locks": [lock()]}
    node = Node(warm=told)
    assert run(tmp_path, "warm", node, "--all", "--jobs", "3", "--no-pin", str(LOCKS / "uv.lock")) == 0
    ((_, arguments),) = node.asked
    assert {key: arguments[key] for key in ("at_once", "pin", "everything")} == {"at_once": 3, "pin": False, "everything": True}


def test_warm_can_let_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = Node(unpin={"files": 7})
    assert run(tmp_path, "warm", node, "--unpin", str(LOCKS / "uv.lock")) == 0
    assert capsys.readouterr().out == "7 files may be evicted again\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--platform", "amiga"], "'amiga' is no platform"),
        (["--python", "2.7"], "'2.7' is no Python"),
        ([], "uv.lock: line 1: no TOML"),
    ],
)
def test_what_was_asked_wrongly_is_told_and_the_node_is_not_asked(tmp_path: Path, words: list[str], complaint: str) -> None:
    (tmp_path / "uv.lock").write_text("[")
    node = Node()
    with pytest.raises(SettingsError, match=complaint):
        run(tmp_path, "ready", node, *words, str(tmp_path / "uv.lock"))
    assert node.asked == []


def test_a_lock_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere: there is no such file"):
        run(tmp_path, "ready", Node(), str(tmp_path / "nowhere"))


def platform(name: str, python: str, ready: bool | None, why: str | None = None) -> Mapping[str, object]:
    return {"platform": name, "python": python, "ready": ready, "why": why}


def test_what_is_not_ready_is_told_by_platform_with_each_reason() -> None:
    missing = {
        "what": "file",
        "name": "soil-3.1-py3-none-any.whl",
        "registry": "pypi",
        "project": "soil",
        "version": "3.1",
        "reason": "not here",
        "on": ["linux_x86_64, Python 3.13"],
    }
    refused = missing | {
        "name": "pear-1.0.tar.gz",
        "reason": "it is evil",
        "rule": "no-pears",
        "on": ["linux_x86_64, Python 3.13"] * 2,
    }
    result = {
        "locks": [
            lock(
                ready=False,
                platforms=[
                    platform("linux_x86_64", "3.12", False),
                    platform("linux_x86_64", "3.13", False),
                    platform("win_amd64", "3.12", None, "the lock is not made for it"),
                    platform("macosx_arm64", "3.13", True),
                ],
                missing=[missing],
                refused=[refused],
                elsewhere=[{"name": "x", "where": "git at code.test", "remote": True}],
                notes=["pear is built from source"],
            ),
            lock(lock="other.lock"),
        ]
    }
    assert warm_command.ready_lines(result) == [
        "uv.lock: not ready",
        "  linux_x86_64 (Python 3.12, 3.13): no",
        "  win_amd64 (Python 3.12): not for it, the lock is not made for it",
        "  macosx_arm64 (Python 3.13): yes",
        "  missing  soil-3.1-py3-none-any.whl: not here (for linux_x86_64, Python 3.13)",
        "  refused by rule no-pears  pear-1.0.tar.gz: it is evil (for linux_x86_64, Python 3.13; linux_x86_64, Python 3.13)",
        "  not from a registry: not covered  x (git at code.test)",
        "  note  pear is built from source",
        "other.lock: ready",
    ]


def test_of_very_much_that_is_missing_the_first_are_told() -> None:
    missing = [{"name": f"{n}.whl", "reason": "not here", "on": []} for n in range(warm_command.SHOWN + 5)]
    lines = warm_command.ready_lines({"locks": [lock(ready=False, missing=missing)]})
    assert len(lines) == warm_command.SHOWN + 2
    assert lines[-1] == "  missing  5 more; --json tells all"


def test_what_was_fetched_is_told_at_the_end() -> None:
    result = {
        "files": 4,
        "pages": 2,
        "fetched": 3,
        "bytes": 1_500_000,
        "pinned": True,
        "locks": [lock(lock="pom.xml", format="pom.xml")],
    }
    assert warm_command.warm_lines(result) == [
        "4 files and 2 pages are here, pinned; 3 files were fetched, 1.5 MB",
        "pom.xml: 3 files are here",
    ]


def test_of_a_lock_that_is_not_for_what_was_asked_warm_says_so() -> None:
    why = "the lock is for Python >=3.13"
    unfit = lock(ready=False, platforms=[platform("linux_x86_64", "3.12", None, why)])
    result = {"files": 0, "pages": 0, "fetched": 0, "bytes": 0, "pinned": True, "locks": [unfit]}
    assert warm_command.warm_lines(result) == [
        "uv.lock: not ready",
        f"  linux_x86_64 (Python 3.12): not for it, {why}",
        "0 files and 0 pages are here, pinned; 0 files were fetched, 0 B",
    ]


@pytest.mark.parametrize("command", ["warm", "ready"])
def test_help_names_the_lock_files(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    told = capsys.readouterr().out
    for name in (
        "uv.lock",
        "poetry.lock",
        "pylock.toml",
        "package-lock.json",
        "pnpm-lock.yaml",
        "yarn.lock",
        "gradle.lockfile",
        "pom.xml",
    ):
        assert name in told
    assert f"edge {command} " in told


@pytest.mark.parametrize(
    ("listen", "tls", "address"),
    [
        ("0.0.0.0:8080", TLSSettings(), "http://127.0.0.1:8080"),
        ("[::1]:8080", TLSSettings(), "http://[::1]:8080"),
        ("127.0.0.1:8080", TLSSettings(cert=Path("edge.pem"), only=True), "https://127.0.0.1:8080"),
        ("127.0.0.1:8080", TLSSettings(cert=Path("edge.pem")), "http://127.0.0.1:8080"),
    ],
)
def test_maven_is_sent_to_the_edge_itself_whatever_its_public_name(listen: str, tls: TLSSettings, address: str) -> None:
    server = ServerSettings(public_urls=("https://edge.test",))
    assert own_address(EdgeSettings(data=Path("data"), listen=listen, tls=tls, server=server)) == address
