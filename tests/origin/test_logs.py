"""What is told on standard error: one line a record, no secret, nothing forged."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from origin import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Give the process's logging back as it was."""
    root = logging.getLogger()
    handlers, level, raising, show = root.handlers[:], root.level, logging.raiseExceptions, warnings.showwarning
    yield
    logging.captureWarnings(False)
    root.handlers[:], logging.raiseExceptions = handlers, raising
    root.setLevel(level)
    warnings.showwarning = show


def told(message: str, *values: object, json: bool = False, area: str = "origin.flights", **fields: object) -> str:
    stream = io.StringIO()
    logs.configure(json=json, stream=stream)
    logging.getLogger(area).info(message, *values, extra=fields)
    return stream.getvalue()


def test_a_record_is_one_readable_line() -> None:
    line = told("fetched %s", "six", file="six-1.16.0.whl", size=11053, note="two words")
    assert re.fullmatch(
        r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info    flights  fetched six file=six-1\.16\.0\.whl size=11053 note="two words"\n',
        line,
    )


def test_a_record_is_one_json_object_by_option() -> None:
    line = json.loads(told("fetched %s", "six", json=True, file="a", size=3, fresh=True))
    assert line.pop("time").endswith("Z")
    assert line == {"level": "info", "area": "flights", "message": "fetched six", "file": "a", "size": 3, "fresh": True}


@pytest.mark.parametrize("as_json", [False, True])
def test_no_secret_is_written(as_json: bool) -> None:
    line = told(
        "asking %s",
        "http://me:hunter2@pypi.test/simple/six/",
        json=as_json,
        url="https://hunter2@pypi.test/",
        password="hunter2",
        Authorization="Basic hunter2",
        api_token="hunter2",
    )
    assert "hunter2" not in line
    assert "pypi.test/simple/six/" in line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:hun/ter2@pypi.test/a", "https://…@pypi.test/a"),
        ("https://me:hunter2@x@pypi.test/", "https://…@pypi.test/"),
        ("https://me:hun'ter2?#@pypi.test/", "https://…@pypi.test/"),
        ("me:hunter2@proxy.test:3128", "…@proxy.test:3128"),
        ('proxy="me:hunter2@proxy.test:3128"', 'proxy="…@proxy.test:3128"'),
        ("pkg:pypi/six@1.16.0 of http://pypi.test/", "pkg:pypi/six@1.16.0 of http://pypi.test/"),
        ("somebody@mail.test  asks", "somebody@mail.test  asks"),
        ("http://a.test/ http://u:p@b.test/", "http://a.test/ http://…@b.test/"),
        ("https://npm.test/@scope/name", "https://npm.test/@scope/name"),
        ("http://127.0.0.1:4873/npm/@scope%2fname", "http://127.0.0.1:4873/npm/@scope%2fname"),
        ("http://[::1]:4873/@scope/name/-/name-1.0.0.tgz", "http://[::1]:4873/@scope/name/-/name-1.0.0.tgz"),
        ("pkg:npm/@scope/name@1.0.0", "pkg:npm/@scope/name@1.0.0"),
        ("page npm:@scope/name: from https://npm.test/@scope/name", "page npm:@scope/name: from https://npm.test/@scope/name"),
        ("hunter2:@proxy.test:3128", "…@proxy.test:3128"),
        ("me:hunter2:@npm.test:3128", "…@npm.test:3128"),
        ("me:hunter2:@npm.test/path", "…@npm.test/path"),
        ('page="npm:@scope/name:"', 'page="npm:@scope/name:"'),
        ("https://me:hunter2@npm.test/@scope/name", "https://…@scope/name"),
        ("https://me:hunter2/@npm.test/", "https://…@npm.test/"),
        ("https://me:hun/ter2@npm.test/@scope/name", "https://…@scope/name"),
        ("https://hunter2/x@npm.test/@scope/name", "https://…@scope/name"),
        ("https://me@x.test:hunter2/@npm.test/", "https://…@npm.test/"),
    ],
)
def test_credentials_go_however_they_are_written(text: str, shown: str) -> None:
    assert logs.without_userinfo(text) == shown


def test_no_secret_is_written_in_a_traceback() -> None:
    stream = io.StringIO()
    logs.configure(stream=stream)
    try:
        raise ValueError("http://me:hunter2@pypi.test/")
    except ValueError:
        logging.getLogger("origin.x").exception("it failed")
    written = stream.getvalue()
    assert "hunter2" not in written
    assert "ValueError" in written
    assert all(line.startswith("    ") for line in written.splitlines()[1:])


@given(st.text(), st.text())
def test_nothing_can_forge_a_line(message: str, value: str) -> None:
    for as_json in (False, True):
        stream = io.StringIO()
        formatter = logs.JSONLines() if as_json else logs.Lines()
        record = logging.makeLogRecord({"name": "a", "msg": message, "levelname": "INFO", "field": value})
        stream.write(formatter.format(record))
        line = stream.getvalue()
        assert line.isprintable() or not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", line)
        line.encode()


def test_colour_is_for_terminals_only() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        logs.configure(stream=stream)
        logging.getLogger("origin.x").warning("careful")
    assert "\x1b[33mwarn" in terminal.getvalue()
    assert "\x1b" not in pipe.getvalue()


def test_requests_are_told_at_debug_only() -> None:
    for level, count in (("info", 0), ("debug", 1)):
        stream = io.StringIO()
        logs.configure(level, stream=stream)
        logs.tell_access("127.0.0.1", "GET", "/pypi/simple/six/", 200, 1234, 0.0015)
        assert stream.getvalue().count("GET /pypi/simple/six/ client=127.0.0.1 status=200 sent=1234 ms=1.5") == count


def test_libraries_that_log_every_request_are_heard_at_debug_only() -> None:
    for level, count in (("info", 0), ("debug", 1)):
        stream = io.StringIO()
        logs.configure(level, stream=stream)
        logging.getLogger("httpx").info("HTTP Request: GET http://pypi.test/")
        assert stream.getvalue().count("HTTP Request") == count


def test_configuring_twice_does_not_tell_twice() -> None:
    assert told("once").count("once") == 1
    assert told("once").count("once") == 1


def test_a_message_that_does_not_fit_its_values_harms_nobody() -> None:
    assert told("%d", "no number").count("\n") <= 1
