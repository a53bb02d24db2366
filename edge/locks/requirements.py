"""pip's requirements files, if everything in them is pinned and hashed: only then do they say all that an installation needs.

What pip-compile, ``uv pip compile``, ``uv export`` and ``poetry export`` write, and what people make of it: files that include others,
constraints, options. Essential reading: pip's "Requirements File Format" and "Secure installs".
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote

import msgspec
from packaging.requirements import InvalidRequirement, Requirement

from origin.model import Digest
from origin.registries import pypi_names

from . import Ask, Elsewhere, Lock, Malformed, Needed, hashed

FORMAT = "requirements.txt"

LIMIT_FILES = 64
"""How many files one may include, with those that they include."""

type Texts = Callable[[str], str]
"""The text of an included file by its path. Raises ``OSError`` or ``ValueError``."""

_COMMENT = re.compile(r"(?:^|\s+)#.*$")
_HASH = re.compile(r"\s--hash[=\s]\s*(\S+)")
_OPTION = re.compile(r"\s(--(?:config-settings?|global-option|install-option))[=\s]\s*(\"[^\"]*\"|'[^']*'|\S+)")
_PINNED = re.compile(r"={2,3}")
_MADE_WITH = re.compile(r"(?m)^#.*\b(?:with Python|--python-version|-p) (3\.\d{1,2})\b")
_LOCAL = re.compile(r"(?:\.{0,2}/|file:|\w:\\|~)|.*\.(?:whl|tar\.gz|zip|tar\.bz2|tgz)$", re.IGNORECASE)
_REMOTE = re.compile(r"(?:git|hg|svn|bzr)\+|https?:|ssh:|ftp:")


@dataclass(slots=True)
class _Read:
    """What has been read so far.

    ``needed`` is told with the included file that it stands in. ``forms`` are those of single projects, ``form`` that of all others.
    """

    texts: Texts
    needed: list[tuple[Needed, str]] = field(default_factory=list)
    elsewhere: list[Elsewhere] = field(default_factory=list)
    constraints: dict[str, tuple[str, tuple[Digest, ...]]] = field(default_factory=dict)
    files: set[tuple[str, bool]] = field(default_factory=set)
    local: list[str] = field(default_factory=list)
    index: str = ""
    form: Literal["any", "wheel", "sdist"] = "any"
    forms: dict[str, Literal["any", "wheel", "sdist"]] = field(default_factory=dict)


def read(path: str, texts: Texts) -> Lock:
    """The lock that the file ``path`` is, with all it includes. Raises ``Malformed``."""
    found = _Read(texts)
    _file(found, path, 0, is_constraint=False, top=path)
    needed = tuple(_settled(found, each, file) for each, file in found.needed)
    if not needed and not found.elsewhere:
        raise Malformed("it requires nothing")
    made_with = tuple(dict.fromkeys(_MADE_WITH.findall(texts(path)[:4096])))
    return Lock(FORMAT, needed, tuple(found.elsewhere), pythons=made_with, local=tuple(found.local))


def _file(found: _Read, path: str, line: int, *, is_constraint: bool, top: str) -> None:
    if (path, is_constraint) in found.files:
        return
    found.files.add((path, is_constraint))
    if len(found.files) > LIMIT_FILES:
        raise Malformed(f"more than {LIMIT_FILES} files include one another", line)
    try:
        text = found.texts(path)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Malformed(f"{path} cannot be read: {why}", line) from None
    for number, logical in logical_lines(text):
        try:
            _line(found, path, number, logical, is_constraint=is_constraint, top=top)
        except Malformed as error:
            if path == top or error.file:
                raise
            raise Malformed(error.why, error.line, path) from None


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines joined where they end with a backslash, without comments, with the number of the first of each; empty ones are left out."""
    joined = ""
    first = 0
    for number, raw in enumerate([*text.removeprefix("\ufeff").splitlines(), ""], 1):
        first = first or number
        if raw.endswith("\\") and not raw.lstrip().startswith("#"):
            joined += raw[:-1]
            continue
        # A comment between continued lines ends nothing: pip-compile writes none there, people do.
        if joined and raw.lstrip().startswith("#"):
            continue
        line = _COMMENT.sub("", joined + raw).strip()
        if line:
            yield first, line
        joined, first = "", 0


def _line(found: _Read, path: str, number: int, line: str, *, is_constraint: bool, top: str) -> None:
    if line.startswith("-"):
        _option(found, path, number, line, top=top)
        return
    spec, hashes = _hashes(line, number)
    if not is_constraint and (place := _place(spec)) is not None:
        found.elsewhere.append(place)
        if not place.remote:
            found.local.append(place.name)
        return
    try:
        requirement = Requirement(spec)
    except InvalidRequirement as error:
        raise Malformed(f"{spec[:80]!r} is no requirement: {str(error).partition(chr(10))[0]}", number) from None
    marker = str(requirement.marker) if requirement.marker is not None else ""
    if requirement.url is not None:
        if not is_constraint:
            remote = _REMOTE.match(requirement.url) is not None
            found.elsewhere.append(Elsewhere(requirement.name, _origin(requirement.url), remote, marker))
        return
    project = pypi_names.normalise(requirement.name)
    version = _pin(requirement)
    if is_constraint:
        if version:
            found.constraints[project] = (version, hashes)
        return
    form = found.forms.get(project, found.form)
    asks: tuple[Ask, ...] = ("page", "sidecar")
    needed = Needed(
        "pypi", project, version, digests=hashes, source=found.index, asks=asks, marker=marker, form=form, line=number
    )
    found.needed.append((needed, "" if path == top else path))


def _settled(found: _Read, needed: Needed, file: str) -> Needed:
    """A requirement with what constraints and later options say of it. Raises ``Malformed`` for one that is left open."""
    version, hashes = found.constraints.get(needed.project, ("", ()))
    pinned = needed.version or version
    digests = needed.digests or hashes
    if not pinned:
        raise Malformed(
            f"{needed.project} is not pinned (==): which version is meant, nobody knows beforehand", needed.line, file
        )
    if not digests:
        raise Malformed(
            f"{needed.project} has no --hash: only where all is hashed does a file say all that is needed", needed.line, file
        )
    form = found.forms.get(needed.project, found.form)
    return msgspec.structs.replace(needed, version=pinned, digests=digests, source=needed.source or found.index, form=form)


def _hashes(line: str, number: int) -> tuple[str, tuple[Digest, ...]]:
    """A requirement without its options, and the digests that these name."""
    digests = tuple(hashed(value, number) for value in _HASH.findall(line))
    spec = _OPTION.sub("", _HASH.sub("", line)).strip()
    if " --" in spec:
        raise Malformed(f"{spec.partition(' --')[2][:40]!r} is no option that a requirement has", number)
    return spec, digests


def _pin(requirement: Requirement) -> str:
    """The one version that is allowed, "" if there are several."""
    for specifier in requirement.specifier:
        if _PINNED.fullmatch(specifier.operator) and not specifier.version.endswith(".*"):
            return pypi_names.canonical(specifier.version)
    return ""


def _place(spec: str) -> Elsewhere | None:
    """What a requirement without a name leads to; None for one with a name."""
    if _REMOTE.match(spec):
        name = re.search(r"[#&]egg=([^&\[]+)", spec)
        plain = spec.partition("#")[0].rpartition("/")[2]
        return Elsewhere(unquote(name[1] if name else plain)[:200], _origin(spec), remote=True)
    if " @ " not in spec and _LOCAL.match(spec.partition(";")[0].strip()):
        return Elsewhere(spec.partition(";")[0].strip()[:200], "a file or directory", remote=False)
    return None


def _origin(url: str) -> str:
    """What a requirement's URL is, for people: without what it may hold of credentials."""
    scheme, _, rest = url.partition("://")
    host = rest.partition("/")[0].rpartition("@")[2]
    return f"{'git at ' if scheme.startswith('git') else ''}{host}" if host else "a file or directory"


def _option(found: _Read, path: str, number: int, line: str, *, top: str) -> None:
    """A line of its own that begins with a dash. What changes nothing about which files are needed is passed over."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise Malformed(f"{line[:60]!r} cannot be read: {error}", number) from None
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if not name.startswith("--") and len(name) > 2:
            name, equals, value = name[:2], "=", word[2:]
        if name in _WITH_VALUE and not equals:
            if not words:
                raise Malformed(f"{name} needs a value", number)
            value = words.pop(0)
        match name:
            case "-r" | "--requirement" | "-c" | "--constraint":
                if _REMOTE.match(value):
                    raise Malformed(f"{value[:60]} is elsewhere: what it requires cannot be known here", number)
                included = posixpath.normpath(posixpath.join(posixpath.dirname(path), value))
                _file(found, included, number, is_constraint=name in ("-c", "--constraint"), top=top)
            case "-i" | "--index-url" | "--pypi-url":
                found.index = value
            case "-e" | "--editable":
                place = _place(value) or Elsewhere(value[:200], "a file or directory", remote=False)
                found.elsewhere.append(place)
                if not place.remote:
                    found.local.append(place.name)
                return
            case "--no-binary" | "--only-binary":
                _restrict(found, value, "sdist" if name == "--no-binary" else "wheel")
            case _ if name not in _WITH_VALUE and name not in _PASSED_OVER:
                raise Malformed(f"{name[:40]!r} is no option that a requirements file has", number)


def _restrict(found: _Read, value: str, form: Literal["wheel", "sdist"]) -> None:
    for name in filter(None, (each.strip() for each in value.split(","))):
        if name == ":all:":
            found.form = form
        elif name == ":none:":
            found.form = "any"
            found.forms.clear()
        else:
            try:
                found.forms[pypi_names.normalise(name)] = form
            except ValueError:
                continue


_WITH_VALUE: Mapping[str, None] = dict.fromkeys(
    "-r --requirement -c --constraint -i --index-url --pypi-url --extra-index-url -f --find-links --trusted-host -e --editable "
    "--no-binary --only-binary --use-feature --config-settings --config-setting --global-option --uploaded-prior-to".split()
)
_PASSED_OVER = frozenset("--no-index --pre --prefer-binary --require-hashes --all-releases --only-final".split())
