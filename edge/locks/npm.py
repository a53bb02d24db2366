"""npm's ``package-lock.json`` (and ``npm-shrinkwrap.json``) of all three versions, and Bun's ``bun.lock``.

Both name each package's place in ``node_modules``, its address or none, and its integrity. Of version 1 npm asks the registry for every
package's page, since the lock lacks what newer ones repeat from there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Literal

import msgspec

from origin.registries import npm_names

from . import Elsewhere, Lock, LockedFile, Malformed, Needed, integrity, line_of, words_of

FORMAT, BUN = "package-lock.json", "bun.lock"

LIMIT_DEPTH = 64
"""How deep ``node_modules`` may lie within one another."""

type Table = Mapping[str, object]
type Ask = Literal["page"]

_OFFSET = re.compile(r" \(byte (\d+)\)")
_REMOTE = re.compile(r"git(?:\+[a-z]+)?:|git@|(?:github|gitlab|bitbucket|gist):|https?:|ssh:")
_COMMA = re.compile(r'("(?:[^"\\]|\\.)*+")|,(?=\s*[}\]])')


def json_of(text: str) -> object:
    """``text`` as JSON. Raises ``Malformed`` with the line."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError) as error:
        found = _OFFSET.search(str(error))
        at = len(text.encode()[: int(found[1])].decode(errors="replace")) if found is not None else len(text)
        raise Malformed(
            f"no JSON: {_OFFSET.sub('', str(error)).removeprefix('JSON is malformed: ')}", line_of(text, at)
        ) from None
    except RecursionError:
        raise Malformed("no JSON: nested beyond all reason") from None


def read(text: str) -> Lock:
    """A ``package-lock.json``. Raises ``Malformed``."""
    document = json_of(text)
    if not isinstance(document, dict) or "lockfileVersion" not in document:
        raise Malformed("it has no lockfileVersion, as a package-lock.json has")
    needed: list[Needed] = []
    elsewhere: list[Elsewhere] = []
    packages = document.get("packages")
    found = _placed(packages, text) if isinstance(packages, dict) else _nested(document, text)
    for each in found:
        if isinstance(each, Needed):
            needed.append(each)
        else:
            elsewhere.append(each)
    scripts = tuple(
        place.rpartition("node_modules/")[2]
        for place, entry in (packages.items() if isinstance(packages, dict) else ())
        if isinstance(entry, dict) and entry.get("hasInstallScript") and "node_modules/" in place
    )
    return Lock(FORMAT, tuple(dict.fromkeys(needed)), tuple(dict.fromkeys(elsewhere)), scripts=tuple(dict.fromkeys(scripts)))


def _placed(packages: Table, text: str) -> Iterator[Needed | Elsewhere]:
    """What version 2 and 3 list, by place. A place outside every ``node_modules`` is of the project itself."""
    for place, entry in packages.items():
        if not isinstance(entry, dict):
            raise Malformed(f"{place[:80]!r} is no package", _line(text, place))
        name = entry.get("name")
        name = name if isinstance(name, str) and name else place.rpartition("node_modules/")[2]
        if "node_modules/" not in place or entry.get("inBundle"):
            continue
        if entry.get("link"):
            yield Elsewhere(name, "a directory", remote=False)
            continue
        yield _package(name, entry, entry.get("resolved"), text, place, ask=not entry.get("resolved"))


def _nested(document: Table, text: str) -> Iterator[Needed | Elsewhere]:
    """What version 1 lists, one within the other."""
    waiting: list[tuple[Table, int]] = [(document, 0)]
    while waiting:
        above, depth = waiting.pop()
        if depth > LIMIT_DEPTH:
            raise Malformed("packages within packages beyond all reason")
        members = above.get("dependencies")
        for name, entry in members.items() if isinstance(members, dict) else ():
            if not isinstance(entry, dict):
                raise Malformed(f"{name[:80]!r} is no package", _line(text, name))
            waiting.append((entry, depth + 1))
            version = entry.get("version")
            if entry.get("bundled") or not isinstance(version, str):
                continue
            real, at, aliased = version.removeprefix("npm:").rpartition("@")
            if version.startswith("npm:") and at:
                yield _package(real, {**entry, "version": aliased}, entry.get("resolved"), text, name, ask=True)
            elif version.startswith(("file:", "link:")):
                yield Elsewhere(name, "a file or directory", remote=False)
            elif _REMOTE.match(version):
                yield Elsewhere(name, where_of(version), remote=True)
            else:
                yield _package(name, entry, entry.get("resolved"), text, name, ask=True)


def _package(name: str, entry: Table, resolved: object, text: str, place: str, *, ask: bool) -> Needed | Elsewhere:
    version = entry.get("version")
    url = resolved if isinstance(resolved, str) else ""
    if url.startswith("file:"):
        return Elsewhere(name, "a file or directory", remote=False)
    if url and not url.startswith(("http://", "https://")):
        return Elsewhere(name, where_of(url), remote=True)
    if not npm_names.is_name(name) or not isinstance(version, str) or not version:
        raise Malformed(f"{place[:80]!r} has no name and version", _line(text, place))
    if _REMOTE.match(version):
        return Elsewhere(name, where_of(version), remote=True)
    told = entry.get("integrity")
    return package(
        name,
        version,
        url,
        told if isinstance(told, str) else "",
        partial(_line, text, place),
        ask=ask,
        os=words_of(entry.get("os", ())),
        cpu=words_of(entry.get("cpu", ())),
        libc=words_of(entry.get("libc", ())),
        optional=bool(entry.get("optional") or entry.get("devOptional")),
    )


def package(
    name: str,
    version: str,
    url: str,
    told: str,
    line: int | Callable[[], int],
    *,
    ask: bool = False,
    os: tuple[str, ...] = (),
    cpu: tuple[str, ...] = (),
    libc: tuple[str, ...] = (),
    optional: bool = False,
) -> Needed:
    """A version with its one tarball; ``told`` is its integrity. Raises ``Malformed`` with the line, which is only then looked for."""
    filename = npm_names.conventional(name, version)
    if filename is None:
        raise Malformed(f"{version[:80]!r} is no version of {name}", _number(line))
    try:
        digests = integrity(told) if told else ()
    except Malformed as error:
        raise Malformed(error.why, _number(line)) from None
    file = LockedFile(filename, digests, url)
    asks: tuple[Ask, ...] = ("page",) if ask else ()
    return Needed("npm", name, version, (file,), asks=asks, os=os, cpu=cpu, libc=libc, optional=optional)


def _number(line: int | Callable[[], int]) -> int:
    return line if isinstance(line, int) else line()


def where_of(url: str) -> str:
    """An address for people, without what it may hold of credentials."""
    plain = url.removeprefix("git+")
    scheme, _, rest = plain.partition("://")
    host = rest.partition("/")[0].rpartition("@")[2].partition(":")[0]
    if not host:
        # git@host:path, github:owner/name
        host = plain.partition("@")[2].partition(":")[0] if plain.startswith("git@") else plain.partition("#")[0][:80]
    is_git = url.startswith("git") or scheme == "ssh" or plain.partition("#")[0].endswith(".git")
    return f"git at {host}" if is_git else host


def _line(text: str, place: str) -> int:
    """Where a package's member begins; 0 if it is not found as it is usually written."""
    at = text.find(msgspec.json.encode(place).decode() + ":")
    return line_of(text, at) if at >= 0 else 0


# ---- Bun -------------------------------------------------------------------------------------------------------------


def read_bun(text: str) -> Lock:
    """A ``bun.lock``: JSON with commas before closing brackets. Raises ``Malformed``."""
    # Commas become spaces so that places in the text stay what they are.
    document = json_of(_COMMA.sub(lambda found: found[1] or " ", text))
    packages = document.get("packages") if isinstance(document, dict) else None
    if not isinstance(packages, dict):
        raise Malformed("it has no packages, as a bun.lock has")
    needed: list[Needed] = []
    elsewhere: list[Elsewhere] = []
    for place, entry in packages.items():
        if not isinstance(entry, list) or not entry or not isinstance(entry[0], str):
            raise Malformed(f"{place[:80]!r} is no package", _line(text, place))
        at = entry[0].find("@", 1)
        name, version = (entry[0][:at], entry[0][at + 1 :]) if at > 0 else (entry[0], "")
        if version.startswith(("workspace:", "link:", "file:", "root:", "./", "../")) or not version:
            elsewhere.append(Elsewhere(name, "a directory", remote=False))
        elif len(entry) < 4 or _REMOTE.match(version):
            elsewhere.append(Elsewhere(name, where_of(version), remote=True))
        else:
            url, about, told = entry[1], entry[2], entry[3]
            if (
                not npm_names.is_name(name)
                or not isinstance(url, str)
                or not isinstance(about, dict)
                or not isinstance(told, str)
            ):
                raise Malformed(f"{place[:80]!r} is no package", _line(text, place))
            os, cpu, libc = (_words(about.get(key)) for key in ("os", "cpu", "libc"))
            if not about.get("bundled"):
                line = partial(_line, text, place)
                needed.append(
                    package(name, version, url, told, line, os=os, cpu=cpu, libc=libc, optional=bool(os or cpu or libc))
                )
    return Lock(BUN, tuple(dict.fromkeys(needed)), tuple(dict.fromkeys(elsewhere)))


def _words(value: object) -> tuple[str, ...]:
    return tuple(word for word in words_of(value or ()) if word != "none")
