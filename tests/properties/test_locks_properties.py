"""Lock files were written by others: whatever the bytes, a reader gives a lock or says with a sentence that it is none."""

from __future__ import annotations

import contextlib
import string
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.locks import Lock, Malformed, gradle, npm, pnpm, python, requirements, yaml, yarn
from edge.locks.targets import Target, applying

LOCKS = Path(__file__).resolve().parents[1] / "data" / "locks"
GRADLE = "# comment\norg.example:lib:1.0=compileClasspath,runtimeClasspath\norg.example:core:2.0+b=x\nempty=annotationProcessor\n"


def pip(text: str) -> Lock:
    def texts(name: str) -> str:
        if name != "requirements.txt":
            raise FileNotFoundError(2, "there is no such file")
        return text

    return requirements.read("requirements.txt", texts)


CASES: dict[str, tuple[str, Callable[[str], Lock]]] = {
    "uv.lock": ((LOCKS / "uv.lock").read_text(), python.read_uv),
    "poetry.lock": ((LOCKS / "poetry.lock").read_text(), python.read_poetry),
    "pdm.lock": ((LOCKS / "pdm.lock").read_text(), python.read_pdm),
    "pylock.toml": ((LOCKS / "pylock.uv.toml").read_text(), python.read_pylock),
    "requirements.txt": ((LOCKS / "requirements.txt").read_text(), pip),
    "package-lock.json": ((LOCKS / "package-lock.json").read_text(), npm.read),
    "bun.lock": ((LOCKS / "bun.lock").read_text(), npm.read_bun),
    "pnpm-lock.yaml": ((LOCKS / "pnpm-lock.yaml").read_text(), pnpm.read),
    "yarn-1": ((LOCKS / "yarn-1" / "yarn.lock").read_text(), yarn.read),
    "yarn-4": ((LOCKS / "yarn-4" / "yarn.lock").read_text(), yarn.read),
    "gradle.lockfile": (GRADLE, gradle.read),
}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_a_mutated_lock_is_read_or_told_to_be_none(name: str, data: st.DataObject) -> None:
    text, read = CASES[name]
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        stop = data.draw(st.integers(start, min(len(text), start + 40)))
        put = data.draw(st.one_of(st.just(""), st.text(max_size=6), st.sampled_from(list("{}[]:,'\"#@-? \n\t&*\\=/0"))))
        text = text[:start] + put + text[stop:]
    told = "a lock"
    try:
        applying(read(text), Target("linux_x86_64", "3.13"))
    except Malformed as error:
        told = str(error)
    assert told
    assert "\n" not in told


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from(list("ab:-?'\"{}[],#&|> \n\t@%~!\\x0")), max_size=120))
def test_text_of_yamls_own_signs_is_read_or_told_to_be_none(text: str) -> None:
    with contextlib.suppress(Malformed):
        yaml.load(text)


SAFE = st.text(alphabet=string.ascii_letters + string.digits + " .:/@#'\"^~<>=*!{}[],&|%-?", max_size=24)
VALUES: st.SearchStrategy[yaml.Value] = st.recursive(
    SAFE,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(SAFE, inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(SAFE, VALUES, min_size=1, max_size=5))
def test_yaml_that_was_written_is_read_as_it_was_meant(document: dict[str, yaml.Value]) -> None:
    assert yaml.load("\n".join(block(document, 0)) + "\n") == [document]
    assert yaml.load(f"all: {flow(document)}\n") == [{"all": document}]


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'" if "\\" not in text and len(text) % 2 else '"' + text.replace('"', '\\"') + '"'


def flow(value: yaml.Value) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)}: {flow(each)}" for key, each in value.items()) + "}"
    return "[" + ", ".join(map(flow, value)) + "]" if isinstance(value, list) else quoted(value)


def block(value: yaml.Value, indent: int) -> list[str]:
    """A value as indented lines; empty collections in brackets."""
    space = " " * indent
    lines: list[str] = []
    if isinstance(value, dict) and value:
        for key, each in value.items():
            nested = isinstance(each, (dict, list)) and each
            lines += [f"{space}{quoted(key)}:", *block(each, indent + 2)] if nested else [f"{space}{quoted(key)}: {flow(each)}"]
    elif isinstance(value, list) and value:
        for each in value:
            nested = isinstance(each, (dict, list)) and each
            lines += [f"{space}-", *block(each, indent + 2)] if nested else [f"{space}- {flow(each)}"]
    else:
        lines = [f"{space}{flow(value)}"]
    return lines
