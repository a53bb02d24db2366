"""A node's data directory: made, locked, and of a known version."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from origin.datadir import LAYOUT, DataDirectory, Locked
from origin.errors import Unusable


def test_a_new_directory_is_private_and_has_a_version(tmp_path: Path) -> None:
    with DataDirectory.open(tmp_path / "deep" / "data") as data:
        assert stat.S_IMODE(data.path.stat().st_mode) == 0o700
        assert (data.path / "version").read_text() == f"{LAYOUT}\n"
        assert data.blobs.parent == data.catalog.parent == data.path


def test_a_second_opening_is_refused_and_says_who_holds_it(tmp_path: Path) -> None:
    with DataDirectory.open(tmp_path) as first, pytest.raises(Locked, match=f"in use by process {os.getpid()}") as caught:
        DataDirectory.open(tmp_path)
    assert caught.value.holder == os.getpid()
    assert repr(first).endswith("closed>")
    DataDirectory.open(tmp_path).close()


def test_the_lock_ends_with_the_process_that_held_it(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, origin.datadir; "
        "kept = origin.datadir.DataDirectory.open(pathlib.Path(sys.argv[1])); "
        "print('locked', flush=True); "
        "input()"
    )
    child = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None and child.stdout.readline() == b"locked\n"
        with pytest.raises(Locked, match=f"process {child.pid}"):
            DataDirectory.open(tmp_path)
        child.kill()
    DataDirectory.open(tmp_path).close()


def test_a_newer_layout_is_refused_and_left_alone(tmp_path: Path) -> None:
    DataDirectory.open(tmp_path).close()
    (tmp_path / "version").write_text(f"{LAYOUT + 1}\n")
    with pytest.raises(Unusable, match="newer Leeward"):
        DataDirectory.open(tmp_path)
    assert (tmp_path / "version").read_text() == f"{LAYOUT + 1}\n"
    (tmp_path / "version").write_text(f"{LAYOUT}\n")
    DataDirectory.open(tmp_path).close()


@pytest.mark.parametrize("text", ["", "one", "-1", "9" * 400, "1\n2"])
def test_a_version_that_is_no_number_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "version").write_text(text)
    with pytest.raises(Unusable, match="holds no number"):
        DataDirectory.open(tmp_path)


def test_a_path_that_cannot_be_a_directory_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(Unusable, match="cannot be used"):
        DataDirectory.open(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
