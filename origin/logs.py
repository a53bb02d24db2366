"""What a node tells on standard error: one line a record, for people or, by option, as JSON.

    2026-11-21T23:14:27.123Z info    flights  fetched file=six-1.16.0.whl size=11053

Write to ``logging.getLogger(__name__)``; whatever is given as ``extra`` becomes ``key=value``. The area is the logger's name without
its package. No secret gets out: user names and passwords in URLs and the values of keys named like secrets are replaced by ``…``, and
control characters are escaped, so that nothing a client sends can forge a line.

Records are written by a plain stream handler, on the thread that made them: below debug a node writes few lines, and a pipe that
nobody empties is the supervisor's fault to fix. At debug every request makes a line (logger ``access``).
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Mapping
from typing import TextIO

import msgspec

access = logging.getLogger("access")
"""One debug line for each answered request: see ``tell_access``."""

SECRET_KEYS = re.compile(r"(?i)passw|secret|token|authorization|cookie|credential")
"""Names whose values are never written."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}
_LEVELS = {"WARNING": "warn", "CRITICAL": "error"}
_COLOURS = {"debug": "\x1b[2m", "info": "\x1b[32m", "warn": "\x1b[33m", "error": "\x1b[31m"}
_PLAIN = "\x1b[0m"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_WORD = re.compile(r"\S+")
_PLAIN_HOST = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?")
_BARE_USERINFO = re.compile(r"[^\s/:?#\"'`<>()\[\]{}=,]*:[^/]*\Z")
_INSTANCE = re.compile(r"[a-z0-9._-]+:")
_QUIET = ("httpx", "httpcore", "h11", "hpack")


def configure(level: str = "info", json: bool = False, stream: TextIO | None = None) -> None:
    """Send everything logged in this process to ``stream`` (standard error), replacing what was configured before.

    ``level`` is ``debug``, ``info``, ``warning`` or ``error``. Libraries that log each request are heard at debug only.
    """
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JSONLines() if json else Lines(colour=stream.isatty()))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    # A broken pipe on standard error must not become a traceback on standard error.
    logging.raiseExceptions = False
    logging.captureWarnings(True)


def tell_access(client: str, method: str, target: str, status: int, sent_bytes: int, seconds: float) -> None:
    """Log one answered request, at debug."""
    if access.isEnabledFor(logging.DEBUG):
        fields = {"client": client, "status": status, "sent": sent_bytes, "ms": round(seconds * 1000, 1)}
        access.debug("%s %s", method, target, extra=fields)


def without_userinfo(text: str) -> str:
    """``text`` with the user name and password of every URL in it replaced by ``…``, and those of ``user:password@host``.

    A password may hold anything by mistake, slashes and ``@`` too: of a word with a URL all between ``://`` and the last ``@`` goes.
    A package URL (``pkg:pypi/six@1.16.0``) stays, and so does the scope in the path of one whose host stands plainly before it.
    """
    return _WORD.sub(_word_without_userinfo, text) if "@" in text else text


def _word_without_userinfo(word: re.Match[str]) -> str:
    before, at, host = word[0].rpartition("@")
    if not at:
        return word[0]
    scheme, slashes, rest = before.partition("://")
    if slashes:
        if "@" not in rest and before.endswith("/") and _PLAIN_HOST.fullmatch(rest.partition("/")[0]):
            return word[0]
        return f"{scheme}://…@{host}"
    bare = _BARE_USERINFO.search(before)
    if bare is not None and _INSTANCE.fullmatch(bare[0]) and "/" in host:
        # That is how a page is called: an instance's name, then that of a scoped package.
        return word[0]
    return word[0] if bare is None else f"{before[: bare.start()]}…@{host}"


class Lines(logging.Formatter):
    """Records as lines for people. A traceback follows its line, indented."""

    def __init__(self, colour: bool = False) -> None:
        super().__init__()
        self.colour = colour

    def format(self, record: logging.LogRecord) -> str:
        level = _level(record)
        told = _escape(without_userinfo(record.getMessage()))
        fields = "".join(f" {_escape(key)}={_quoted(value)}" for key, value in _fields(record).items())
        shown = f"{level:<7}"
        if self.colour:
            shown = f"{_COLOURS.get(level, '')}{shown}{_PLAIN}"
        line = f"{_time(record)} {shown} {_area(record):<8} {told}{fields}"
        if traceback := _traceback(self, record):
            line += "".join(f"\n    {_escape(part)}" for part in traceback.splitlines())
        return line


class JSONLines(logging.Formatter):
    """Records as one JSON object a line: ``time``, ``level``, ``area``, ``message``, the fields, and ``traceback`` if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record),
            "level": _level(record),
            "area": _area(record),
            "message": _mended(without_userinfo(record.getMessage())),
        }
        for key, value in _fields(record).items():
            line.setdefault(
                _mended(key), value if isinstance(value, bool | int | float) or value is None else _mended(str(value))
            )
        if traceback := _traceback(self, record):
            line["traceback"] = _mended(traceback)
        # JSON lets DEL, C1 controls and line separators stand as they are; terminals and line readers do not.
        return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", msgspec.json.encode(line).decode())


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    """What was given as ``extra``, secrets replaced."""
    found: dict[str, object] = {}
    for key, value in vars(record).items():
        if key in _STANDARD:
            continue
        if SECRET_KEYS.search(key):
            value = "…"
        elif not isinstance(value, bool | int | float) and value is not None:
            value = without_userinfo(str(value))
        found[key] = value
    return found


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


def _level(record: logging.LogRecord) -> str:
    return _LEVELS.get(record.levelname, record.levelname.lower())


def _area(record: logging.LogRecord) -> str:
    package, _, rest = record.name.partition(".")
    return rest if rest and package in {"leeward", "origin", "edge"} else record.name


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    return without_userinfo("\n".join(parts))


def _escape(text: str) -> str:
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def _quoted(value: object) -> str:
    text = _escape(str(value))
    if text and not re.search(r'[\s"=]', text):
        return text
    return '"' + text.replace('"', '\\"') + '"'


def _mended(text: str) -> str:
    """``text`` without lone surrogates, which no JSON encoder takes."""
    return text.encode("utf-8", "backslashreplace").decode()
