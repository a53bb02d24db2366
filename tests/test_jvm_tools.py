"""What is not the pinned file is not kept, and what is there already is not fetched again."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from tests.tools import jvm
from tests.tools.jvm import Pin


def archive(member: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as out:
        entry = tarfile.TarInfo(member)
        entry.size = 2
        out.addfile(entry, io.BytesIO(b"ok"))
    return packed.getvalue()


@pytest.fixture
def content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bytes:
    """The right file of the only pin there is."""
    content = archive("tool-1/bin/run")
    pins = tmp_path / "jvm.pins"
    pins.write_text(f"# a comment\n\ntest.group:tool:1:tar.gz:bin sha512:{hashlib.sha512(content).hexdigest()}\n")
    monkeypatch.setattr(jvm, "PINS", pins)
    return content


def test_the_pinned_archive_is_unpacked_and_fetched_once(content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fetched: list[list[str]] = []

    def fetch(missing: list[Pin], downloads: Path) -> None:
        fetched.append([pin.filename for pin in missing])
        (downloads / missing[0].filename).write_bytes(content)

    monkeypatch.setattr(jvm, "_fetch", fetch)
    for _ in range(2):
        jvm.install(tmp_path / "tools")
        assert (tmp_path / "tools" / "tool-1" / "bin" / "run").read_bytes() == b"ok"
    assert fetched == [["tool-1-bin.tar.gz"]]


def test_another_file_is_refused_and_removed(content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(jvm, "_fetch", lambda missing, downloads: (downloads / missing[0].filename).write_bytes(content + b"\0"))
    with pytest.raises(RuntimeError, match="tool-1-bin.tar.gz is not the file that jvm.pins pins"):
        jvm.install(tmp_path / "tools")
    assert list((tmp_path / "tools" / "downloads").iterdir()) == []
    assert not (tmp_path / "tools" / "tool-1").exists()


def test_without_mvn_it_says_what_to_install(content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert content
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="mvn is missing: install Debian's packages maven and default-jdk-headless"):
        jvm.install(tmp_path / "tools")


@pytest.mark.parametrize("line", ["a:b:1:jar", "a:b:jar sha512:" + "0" * 128, "a:b:1:jar sha512:00"])
def test_a_line_that_pins_nothing_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match="not a pin"):
        Pin.parse(line)


def test_the_pins_of_this_tree_can_be_read() -> None:
    clients = {"apache-maven", "interface", "slf4j-api", "gradle-api", "groovy", "groovy-ant", "kotlin-stdlib"}
    assert {pin.artifact for pin in jvm.pins()} == clients
