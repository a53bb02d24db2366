"""What the fake npm registry's documents say: packuments in both forms, single manifests, search results, audits."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

JSON = "application/json"
ABBREVIATED = "application/vnd.npm.install-v1+json"

KEPT = frozenset(
    """
    name version dependencies optionalDependencies devDependencies bundleDependencies peerDependencies peerDependenciesMeta bin
    directories dist engines os cpu deprecated funding _hasShrinkwrap
    """.split()
)
"""The members of a version that the abbreviated form keeps; ``hasInstallScript`` is made for it."""

LEVELS = ("info", "low", "moderate", "high", "critical")

SOMEONE = {"name": "someone", "email": "someone@people.test"}


@dataclass
class Release:
    """One published version. ``file`` is the tarball's place on disk, None where it is only listed; ``target`` its path below the root."""

    version: str
    manifest: dict[str, Any]
    dist: dict[str, Any]
    target: str
    file: str | None
    time: str
    deprecated: str | None = None
    signatures: list[dict[str, str]] = field(default_factory=list)
    provenance: bool = False


@dataclass
class Package:
    """A package with its history. ``times`` keeps what was unpublished, as the real one does; ``changes`` counts."""

    name: str
    releases: dict[str, Release] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    times: dict[str, str] = field(default_factory=dict)
    created: str = ""
    modified: str = ""
    changes: int = 0
    first: Package | None = None

    def remember_first(self) -> None:
        """Keep it as it is for ``old_serial``."""
        if self.first is None and self.releases:
            self.first = copy.deepcopy(self)


@dataclass(frozen=True)
class Dialect:
    """How documents are written: where tarballs are, and how much is told. ``intermediary`` is protocols/npm.md section 2.1."""

    root: str
    tarballs: str
    signatures: bool = True
    intermediary: bool = False

    def dist(self, package: Package, release: Release) -> dict[str, Any]:
        url = f"{self.tarballs}/{release.target}"
        if self.intermediary:
            return {member: release.dist[member] for member in ("integrity", "shasum") if member in release.dist} | {
                "tarball": url
            }
        told = {**release.dist, "tarball": url}
        if release.provenance:
            told["attestations"] = {
                "url": f"{self.root}/-/npm/v1/attestations/{package.name.replace('/', '%2f')}@{release.version}",
                "provenance": {"predicateType": "https://slsa.dev/provenance/v1"},
            }
        if release.signatures and self.signatures:
            told["signatures"] = release.signatures
        return told


def manifest(package: Package, release: Release, dialect: Dialect) -> dict[str, Any]:
    """A version as the full packument tells it."""
    document = {
        **release.manifest,
        "_id": f"{package.name}@{release.version}",
        "_nodeVersion": "20.0.0",
        "_npmVersion": "10.0.0",
        "dist": dialect.dist(package, release),
        "_npmUser": SOMEONE,
        "directories": {},
        "maintainers": [SOMEONE],
        "_hasShrinkwrap": False,
    }
    if release.deprecated is not None:
        document["deprecated"] = release.deprecated
    return document


def times(package: Package) -> dict[str, str]:
    return {"created": package.created, "modified": package.modified, **package.times}


def packument(package: Package, dialect: Dialect) -> dict[str, Any]:
    """The full form."""
    versions = {version: manifest(package, release, dialect) for version, release in package.releases.items()}
    document: dict[str, Any] = {"_id": package.name}
    if not dialect.intermediary:
        document["_rev"] = f"{package.changes}-{hashlib.md5(package.name.encode(), usedforsecurity=False).hexdigest()}"
    document |= {"name": package.name, "dist-tags": dict(package.tags), "versions": versions, "time": times(package)}
    if not dialect.intermediary:
        document |= {
            "maintainers": [SOMEONE],
            "description": "made for a test",
            "license": "MIT",
            "readme": f"# {package.name}\n\nMade for a test.\n",
            "readmeFilename": "README.md",
            "users": {},
        }
    return document


def abbreviated(package: Package, dialect: Dialect) -> dict[str, Any]:
    """The form for installing."""
    versions = {}
    for version, release in package.releases.items():
        whole = manifest(package, release, dialect)
        short = {member: value for member, value in whole.items() if member in KEPT}
        if not whole["_hasShrinkwrap"]:
            del short["_hasShrinkwrap"]
        if {"preinstall", "install", "postinstall"} & set(whole.get("scripts", {})):
            short["hasInstallScript"] = True
        versions[version] = short
    return {"name": package.name, "dist-tags": dict(package.tags), "versions": versions, "modified": package.modified}


def found(package: Package) -> dict[str, Any]:
    """One object of a search's answer: the version tagged ``latest``, or else the last."""
    version = package.tags.get("latest") or list(package.releases)[-1]
    release = package.releases[version]
    return {
        "package": {
            "name": package.name,
            "scope": package.name.partition("/")[0].removeprefix("@") if package.name.startswith("@") else "unscoped",
            "version": version,
            "description": release.manifest.get("description", ""),
            "keywords": list(release.manifest.get("keywords", [])),
            "date": release.time,
            "links": {"homepage": f"https://home.test/{package.name}"},
            "publisher": {"username": SOMEONE["name"], "email": SOMEONE["email"]},
            "maintainers": [{"username": SOMEONE["name"], "email": SOMEONE["email"]}],
        },
        "score": {"final": 0.5, "detail": {"quality": 0.5, "popularity": 0.5, "maintenance": 0.5}},
        "searchScore": 1.0,
        "flags": {"unstable": version.startswith("0.")},
    }


@dataclass(frozen=True)
class Advisory:
    """What an audit finds. ``versions`` are those it is about; ``vulnerable_versions`` the range it names."""

    id: int
    name: str
    versions: tuple[str, ...]
    vulnerable_versions: str
    severity: str
    title: str

    def bulk(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "url": f"https://advisories.test/{self.id}",
            "title": self.title,
            "severity": self.severity,
            "vulnerable_versions": self.vulnerable_versions,
            "cwe": ["CWE-1321"],
            "cvss": {"score": 7.5, "vectorString": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:H"},
        }


def bulk_audit(wanted: Mapping[str, list[str]], advisories: Iterable[Advisory]) -> dict[str, Any]:
    """The answer to names with their versions: only what is about one of them."""
    reply: dict[str, Any] = {}
    for one in advisories:
        if set(wanted.get(one.name, ())) & set(one.versions):
            reply.setdefault(one.name, []).append(one.bulk())
    return reply


def quick_audit(tree: Mapping[str, Any], advisories: Iterable[Advisory]) -> dict[str, Any]:
    """The answer to a whole tree of dependencies, in the older form."""
    places: list[tuple[str, str, str]] = []

    def walk(node: Mapping[str, Any], path: str) -> None:
        for name, below in node.get("dependencies", {}).items():
            places.append((name, str(below.get("version", "")), path + name))
            walk(below, f"{path}{name}>")

    walk(tree, "")
    counts = dict.fromkeys(LEVELS, 0)
    told: dict[str, Any] = {}
    for one in advisories:
        hits = [(version, path) for name, version, path in places if name == one.name and version in one.versions]
        if not hits:
            continue
        counts[one.severity] += len(hits)
        told[str(one.id)] = {
            **one.bulk(),
            "module_name": one.name,
            "patched_versions": "<0.0.0",
            "overview": one.title,
            "recommendation": "None",
            "findings": [{"version": version, "paths": [path]} for version, path in hits],
        }
    return {
        "actions": [],
        "advisories": told,
        "muted": [],
        "metadata": {
            "vulnerabilities": counts,
            "dependencies": len(places),
            "devDependencies": 0,
            "optionalDependencies": 0,
            "totalDependencies": len(places),
        },
    }
