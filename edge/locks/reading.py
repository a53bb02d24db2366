"""Which reader a file is for: by its name where that is telling, else by what it says."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from . import Lock, Malformed, gradle, npm, pnpm, python, requirements, yarn

LIMIT_BYTES = 64 << 20
"""The longest lock file that is read."""

type Reader = Callable[[str], Lock]

NAMED: Mapping[str, Reader] = {
    "uv.lock": python.read_uv,
    "poetry.lock": python.read_poetry,
    "pdm.lock": python.read_pdm,
    "package-lock.json": npm.read,
    "npm-shrinkwrap.json": npm.read,
    "bun.lock": npm.read_bun,
    "pnpm-lock.yaml": pnpm.read,
    "yarn.lock": yarn.read,
}
"""Readers by the names that files have by themselves."""

PATTERNS: tuple[tuple[re.Pattern[str], Reader], ...] = (
    # "pylock.toml" or "pylock.<name>.toml" (PEP 751)
    (re.compile(r"pylock(?:\.[^.]+)?\.toml"), python.read_pylock),
    (re.compile(r".*\.py\.lock"), python.read_uv),
    (re.compile(r".+\.lockfile"), gradle.read),
)

SIGNS: tuple[tuple[re.Pattern[str], Reader], ...] = (
    (re.compile(r"\A\s*\{(?s:.){0,400}\"lockfileVersion\"(?s:.)*\"workspaces\"\s*:"), npm.read_bun),
    (re.compile(r"\A\s*\{(?s:.){0,4000}\"lockfileVersion\""), npm.read),
    (re.compile(r"(?m)^lockfileVersion:"), pnpm.read),
    (re.compile(r"(?m)^# yarn lockfile v1|^__metadata:"), yarn.read),
    (re.compile(r"(?m)^lock_version\s*="), python.read_pdm),
    (re.compile(r"(?m)^content-hash\s*="), python.read_poetry),
    (re.compile(r"(?m)^lock-version\s*="), python.read_pylock),
    (re.compile(r"(?m)^\[\[package\]\]"), python.read_uv),
    (re.compile(r"(?m)^[\w.-]+:[\w.-]+:[^\s=:]+=\S*$"), gradle.read),
)
"""What files of other names are known by: the first that is found decides, and pip's requirements are what is left."""


def read(path: Path) -> Lock:
    """The lock file at ``path``, with what it includes.

    Raises ``Malformed``, or ``OSError`` for a file that cannot be read.
    """
    text = text_of(path)
    reader = reader_of(path.name, text)
    if reader is not None:
        return reader(text)
    if not re.search(r"(?m)^\s*(?:-r|--|[A-Za-z0-9][\w.-]*\s*(?:\[.*\]\s*)?(?:==|@))", text):
        raise Malformed("it is no lock file of a kind known here")
    return requirements.read(str(path), lambda name: text if name == str(path) else text_of(Path(name)))


def reader_of(name: str, text: str) -> Reader | None:
    """The reader of a file of that name and content; None for pip's requirements, which may be called anything."""
    if name in NAMED:
        return NAMED[name]
    for pattern, reader in PATTERNS:
        if pattern.fullmatch(name):
            return reader
    if re.search(r"requirements|constraints", name) and not name.endswith((".toml", ".json", ".yaml")):
        return None
    return next((reader for sign, reader in SIGNS if sign.search(text)), None)


def text_of(path: Path) -> str:
    """A file's text. Raises ``OSError``, or ``Malformed`` for one that is too long or no text."""
    if not path.is_file():
        # A pipe or device would keep us waiting, and a directory says nothing.
        raise Malformed("it is no file") if path.exists() else FileNotFoundError(2, "there is no such file", str(path))
    with path.open("rb") as file:
        data = file.read(LIMIT_BYTES + 1)
    if len(data) > LIMIT_BYTES:
        raise Malformed(f"it has more than {LIMIT_BYTES >> 20} MiB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed("it is no UTF-8", data.count(b"\n", 0, error.start) + 1) from None
