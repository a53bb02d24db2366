"""The Makefile: it notices an environment that no longer works, and says what is missing before it installs anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with nothing but the Makefile and what its targets depend on, of which all environments look set up."""
    tree = tmp_path.resolve() / "tree"
    for directory in ("requirements/node", "tests/tools"):
        (tree / directory).mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", tree)
    for name in (
        "pyproject.toml",
        "requirements/build.txt",
        "requirements/run.txt",
        "requirements/dev.txt",
        "requirements/tools.txt",
        "requirements/capture.txt",
        "requirements/jvm.pins",
        "requirements/node/package.json",
        "requirements/node/package-lock.json",
        "tests/tools/jvm.py",
    ):
        (tree / name).touch()
        os.utime(tree / name, (1, 1))
    for number, (environment, stamps) in enumerate(
        {".venv": (".made", ".run", ".dev"), ".tools/venv": (".done",), ".tools/capture": (".done",)}.items()
    ):
        where = tree / environment
        # What venv would make, without the time it takes.
        base = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
        (where / "bin").mkdir(parents=True)
        (where / "bin" / "python").symlink_to(base)
        (where / "pyvenv.cfg").write_text(f"home = {base.parent}\n")
        (where / "bin" / "pip").write_text(f"#!{where}/bin/python\n")
        for at, stamp in enumerate(stamps, 1000 + 10 * number):
            (where / stamp).touch()
            os.utime(where / stamp, (at, at))
    for others in ("node", "jvm", "prometheus"):
        (tree / ".tools" / others).mkdir()
        (tree / ".tools" / others / ".done").touch()
    return tree


def make(tree: Path, *arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PIP_"))}
    command = ["make", "--no-print-directory", f"PYTHON={sys.executable}", *arguments]
    return subprocess.run(
        command, cwd=tree, env=inherited | (environ or {}), capture_output=True, text=True, check=False, timeout=60
    )


def test_what_is_set_up_is_not_set_up_again(tree: Path) -> None:
    planned = make(tree, "-n", "test", "edge")
    assert planned.returncode == 0, planned.stderr
    assert "setting up" not in planned.stdout
    assert "install -" not in planned.stdout.replace("apt-get -qq -y", "")


def gone(environment: Path) -> None:
    (environment / "bin" / "python").unlink()
    (environment / "bin" / "python").symlink_to("/nowhere/python3.13")


def elsewhere(environment: Path) -> None:
    (environment / "bin" / "pip").write_text("#!/nowhere/.venv/bin/python\n")


def too_old(environment: Path) -> None:
    (environment / "bin" / "python").unlink()
    (environment / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    (environment / "bin" / "python").chmod(0o755)


def not_its_own(environment: Path) -> None:
    (environment / "pyvenv.cfg").unlink()


@pytest.mark.parametrize("break_it", [gone, elsewhere, too_old, not_its_own])
def test_an_environment_that_does_not_work_is_made_anew_whatever_its_stamps_say(tree: Path, break_it: object) -> None:
    assert callable(break_it)
    break_it(tree / ".venv")
    break_it(tree / ".tools" / "venv")
    break_it(tree / ".tools" / "capture")
    planned = make(tree, "-n", "test").stdout
    assert "setting up .venv" in planned
    assert "installing what Leeward needs to run" in planned
    assert "installing what the tests need" in planned
    assert "as test clients" in planned
    assert "installing mitmproxy" in planned


def test_a_moved_tree_has_its_environment_replaced(tree: Path) -> None:
    moved = tree.rename(tree.with_name("moved"))
    assert "setting up .venv" in make(moved, "-n", "edge").stdout


def test_missing_programs_are_named_before_anything_is_installed(tree: Path, tmp_path: Path) -> None:
    shutil.rmtree(tree / ".venv")
    shutil.rmtree(tree / ".tools")
    somebody = tmp_path / "bin" / "id"
    somebody.parent.mkdir()
    somebody.write_text("#!/bin/sh\necho 1000\n")
    somebody.chmod(0o755)
    environ = {"PATH": f"{somebody.parent}:{os.environ['PATH']}"}
    for target in ("test", "live", "bench"):
        wanted = ("TEST_PROGRAMS=no-such-program:its-package", "BENCH_PROGRAMS=no-such-program:its-package")
        tried = make(tree, "-j4", target, *wanted, environ=environ)
        assert tried.returncode == 2
        assert "needs system packages that only root can install: its-package" in tried.stderr
        assert "setting up" not in tried.stdout
        assert not (tree / ".venv").exists()
        assert not (tree / ".tools").exists()


def test_pip_hears_where_to_ask_but_not_where_to_install(tree: Path) -> None:
    harmful = {
        "PIP_TARGET": "/t",
        "PIP_PREFIX": "/p",
        "PIP_ROOT": "/r",
        "PIP_PYTHON": "/x",
        "PIP_DRY_RUN": "1",
        "PIP_NO_INDEX": "1",
    }
    kept = {"PIP_INDEX_URL": "http://pypi.test/simple/", "PIP_PROXY": "http://proxy.test:1", "PIP_CERT": "/c.pem"}
    shown = make(tree, "--eval", "probe:; @env", "probe", environ=harmful | kept).stdout.splitlines()
    found = dict(line.split("=", 1) for line in shown if line.startswith("PIP_"))
    assert found == kept | {"PIP_USER": "0"}
