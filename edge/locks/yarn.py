"""``yarn.lock`` of both generations: the one of Yarn 1 in a form of its own, with addresses, the later one in YAML, without.

Yarn 1 fetches all that its lock names, whatever platform it is for. Later ones fetch what ``conditions`` let be installed, and check no
tarball's digest: their checksum is of an archive that they make themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote

from origin.registries import npm_names

from . import Elsewhere, Lock, Malformed, Needed
from .npm import package, where_of
from .yaml import Value, load

CLASSIC, BERRY = "yarn.lock (1)", "yarn.lock"

_SHA1 = re.compile(r"#([0-9a-f]{40})$")
_MEMBER = re.compile(r'("(?:[^"\\]|\\.)*"|[^\s"]+)\s+("(?:[^"\\]|\\.)*"|\S+)')
_SPECIFIER = re.compile(r'"((?:[^"\\]|\\.)*)"|([^\s",][^",]*)')
_ELSEWHERE = re.compile(r"(?:git|git\+[a-z]+|https?|ssh|github|gitlab|bitbucket|gist|exec):|git@|[\w.-]+/[\w.-]+(?:#|$)")
_LOCAL = re.compile(r"(?:file|link|portal|workspace):|\.{0,2}/")
_CONDITION = re.compile(r"(os|cpu|libc)=(!?[\w.-]+)")


def read(text: str) -> Lock:
    """The lock that ``text`` is, of either generation. Raises ``Malformed``."""
    return _berry(text) if re.search(r"(?m)^__metadata:\s*$", text) else _classic(text)


# ---- Yarn 1 ----------------------------------------------------------------------------------------------------------


def _classic(text: str) -> Lock:
    if "yarn lockfile v1" not in text[:4096]:
        raise Malformed("it does not say that it is a yarn lockfile")
    needed: list[Needed] = []
    elsewhere: list[Elsewhere] = []
    for line, specifiers, members in _entries(text):
        name, wanted = _split(specifiers[0], line)
        url, version = members.get("resolved", ""), members.get("version", "")
        if wanted.startswith("npm:"):
            real, at, _ = wanted[4:].rpartition("@")
            name = real if at else wanted[4:]
        if _LOCAL.match(wanted):
            elsewhere.append(Elsewhere(name, "a file or directory", remote=False))
        elif (_ELSEWHERE.match(wanted) and not wanted.startswith("npm:")) or _is_git(url):
            elsewhere.append(Elsewhere(name, where_of(url or wanted), remote=True))
        elif not version or not npm_names.is_name(name):
            raise Malformed(f"{specifiers[0][:80]!r} has no version", line)
        else:
            # A file's name without an address is one of an offline mirror, beside which Yarn asks nobody.
            url = url if url.startswith(("http://", "https://")) else ""
            sha1 = _SHA1.search(url)
            told = members.get("integrity", "")
            found = package(name, version, url.partition("#")[0], told, line, ask=not url)
            needed.append(found if told or sha1 is None else _with_sha1(found, sha1[1]))
    return Lock(CLASSIC, tuple(dict.fromkeys(needed)), tuple(dict.fromkeys(elsewhere)))


def _with_sha1(needed: Needed, sha1: str) -> Needed:
    from msgspec.structs import replace

    from origin.model import Digest

    return replace(needed, files=tuple(replace(file, digests=(Digest("sha1", sha1),)) for file in needed.files))


def _is_git(url: str) -> bool:
    return url.startswith(("git", "ssh:")) or ".git#" in url


def _entries(text: str) -> Iterator[tuple[int, list[str], dict[str, str]]]:
    """Each entry: its line, its specifiers, its own members. Raises ``Malformed``."""
    heading: tuple[int, list[str], dict[str, str]] | None = None
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not line[0].isspace():
            if heading is not None:
                yield heading
            specifiers = [_plain(found[1], found[2]) for found in _SPECIFIER.finditer(line.rstrip().removesuffix(":"))]
            if not line.rstrip().endswith(":") or not specifiers:
                raise Malformed(f"{line[:80]!r} begins no entry", number)
            heading = number, specifiers, {}
            continue
        if heading is None:
            raise Malformed(f"{line.strip()[:80]!r} belongs to no entry", number)
        if line.startswith("   "):
            continue
        member = _MEMBER.fullmatch(line.strip())
        if member is not None:
            heading[2].setdefault(_unquoted(member[1]), _unquoted(member[2]))
        elif not line.rstrip().endswith(":"):
            raise Malformed(f"{line.strip()[:80]!r} is no member", number)
    if heading is not None:
        yield heading


def _plain(quoted: str | None, bare: str | None) -> str:
    return quoted if quoted is not None else (bare or "").strip()


def _unquoted(word: str) -> str:
    return word[1:-1] if word.startswith('"') else word


def _split(specifier: str, line: int) -> tuple[str, str]:
    """A specifier's name and what is wanted of it."""
    at = specifier.find("@", 1)
    if at < 1:
        raise Malformed(f"{specifier[:80]!r} is no name and range", line)
    return specifier[:at], specifier[at + 1 :]


# ---- later -----------------------------------------------------------------------------------------------------------


def _berry(text: str) -> Lock:
    documents = load(text)
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise Malformed("it is no mapping of entries")
    needed: list[Needed] = []
    elsewhere: list[Elsewhere] = []
    for place, entry in documents[0].items():
        if place == "__metadata":
            continue
        if not isinstance(entry, dict):
            raise Malformed(f"{place[:80]!r} is no entry")
        found = _resolved(place, entry)
        if isinstance(found, Needed):
            needed.append(found)
        elif found is not None:
            elsewhere.append(found)
    return Lock(BERRY, tuple(dict.fromkeys(needed)), tuple(dict.fromkeys(elsewhere)))


def _resolved(place: str, entry: Mapping[str, Value]) -> Needed | Elsewhere | None:
    """What an entry comes from; None for what is made of another entry, and for the project itself."""
    resolution = entry.get("resolution")
    if not isinstance(resolution, str):
        raise Malformed(f"{place[:80]!r} has no resolution")
    name, reference = _split(resolution, 0)
    if reference.startswith("patch:"):
        # What is patched has an entry of its own.
        return None
    if reference == "workspace:.":
        return None
    if _LOCAL.match(reference):
        return Elsewhere(name, "a file or directory", remote=False)
    if not reference.startswith("npm:"):
        return Elsewhere(name, where_of(reference), remote=True)
    version, _, parameters = reference[4:].partition("::")
    if "@" in version:
        name, _, version = version.rpartition("@")
    archive = re.search(r"(?:^|&)__archiveUrl=([^&]+)", parameters)
    conditions = entry.get("conditions", "")
    found: dict[str, list[str]] = {}
    for key, value in _CONDITION.findall(conditions if isinstance(conditions, str) else ""):
        found.setdefault(key, []).append(value)
    if not npm_names.is_name(name) or npm_names.version_key(version) is None:
        raise Malformed(f"{place[:80]!r} is of no package and version")
    os, cpu, libc = (tuple(found.get(key, ())) for key in ("os", "cpu", "libc"))
    url = unquote(archive[1]) if archive is not None else ""
    # With conditions it is only taken where they hold, and left out elsewhere.
    return package(name, version, url, "", 0, os=os, cpu=cpu, libc=libc, optional=bool(conditions))
