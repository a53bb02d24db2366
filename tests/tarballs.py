"""Real, installable npm packages, made on the spot, the same bytes every time.

``Tarballs`` is a shelf like that of ``wheels.py``: a directory that keeps what was packed, because the tests want files of many megabytes
and want them once. A tarball has ``package/package.json``, a module that exports its version, and whatever else was asked for.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.wheels import MB, PIECE, filler

EPOCH = 499_162_500
"""The modification time that ``npm pack`` gives every member, UTC seconds."""


@dataclass(frozen=True, slots=True)
class Tarball:
    """One packed version. ``path`` holds the bytes; ``manifest`` is its ``package.json``; digests are lower-case hex."""

    name: str
    version: str
    filename: str
    path: Path
    size: int
    sha1: str
    sha256: str
    sha512: str
    manifest: Mapping[str, Any]
    file_count: int
    unpacked_size: int

    @property
    def content(self) -> bytes:
        return self.path.read_bytes()

    @property
    def shasum(self) -> str:
        """``dist.shasum``."""
        return self.sha1

    @property
    def integrity(self) -> str:
        """``dist.integrity``: one hash as Subresource Integrity writes it."""
        return f"sha512-{base64.b64encode(bytes.fromhex(self.sha512)).decode()}"

    @property
    def target(self) -> str:
        """Its conventional place below a registry: ``@scope/name/-/name-1.0.0.tgz``."""
        return f"{self.name}/-/{self.filename}"

    @property
    def spec(self) -> str:
        """``name@version``, as the command line spells it."""
        return f"{self.name}@{self.version}"


class Tarballs:
    """Packs into ``directory``, once each. The same arguments give the same bytes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._packed: dict[str, Tarball] = {}

    def pack(
        self,
        name: str,
        version: str,
        *,
        size: int = 0,
        seed: str = "",
        dependencies: Mapping[str, str] | None = None,
        optional_dependencies: Mapping[str, str] | None = None,
        peer_dependencies: Mapping[str, str] | None = None,
        dev_dependencies: Mapping[str, str] | None = None,
        scripts: Mapping[str, str] | None = None,
        bin: Sequence[str] = (),  # noqa: A002 -- the member's name
        engines: Mapping[str, str] | None = None,
        os: Sequence[str] = (),
        cpu: Sequence[str] = (),
        libc: Sequence[str] = (),
        members: Mapping[str, Any] | None = None,
        files: Mapping[str, str] | None = None,
        folder: str = "package",
    ) -> Tarball:
        """A package of at least ``size`` bytes (0: just what it needs). ``require(name)`` gives ``{version, seed}``.

        ``bin`` names commands that print ``<name> <version>``. ``members`` are further ones of ``package.json``, ``files`` further
        files by their paths in the package. ``seed`` makes other bytes under the same name. ``folder`` is the top directory, which
        old packages name as they like.
        """
        manifest: dict[str, Any] = {
            "name": name,
            "version": version,
            "description": "made for a test",
            "main": "index.js",
            "license": "MIT",
            **{
                member: value if isinstance(value, Mapping) else list(value)
                for member, value in {
                    "dependencies": dependencies,
                    "optionalDependencies": optional_dependencies,
                    "peerDependencies": peer_dependencies,
                    "devDependencies": dev_dependencies,
                    "scripts": scripts,
                    "bin": {command: f"bin/{command}.js" for command in bin},
                    "engines": engines,
                    "os": os,
                    "cpu": cpu,
                    "libc": libc,
                }.items()
                if value
            },
            **(members or {}),
        }
        filename = f"{name.rpartition('/')[2]}-{version}.tgz"
        key = repr((filename, json.dumps(manifest), size, seed, sorted((files or {}).items()), folder))
        if key not in self._packed:
            place = self.directory / hashlib.sha256(key.encode()).hexdigest()[:16]
            place.mkdir(parents=True, exist_ok=True)
            path = place / filename
            contents = _contents(manifest, seed, files or {})
            if not path.exists():
                partial = path.with_name(f"{path.name}.partial")
                _write(partial, folder, contents, size, f"{name} {version} {seed}")
                partial.rename(path)
            self._packed[key] = _measure(path, manifest, contents, size)
        return self._packed[key]


def _contents(manifest: Mapping[str, Any], seed: str, files: Mapping[str, str]) -> dict[str, bytes]:
    told = json.dumps({"version": manifest["version"], "seed": seed})
    contents = {
        "package.json": json.dumps(manifest, indent=2).encode() + b"\n",
        "index.js": f"module.exports = {told};\n".encode(),
    }
    commands = manifest.get("bin", {})
    for path in commands.values() if isinstance(commands, Mapping) else ():
        line = json.dumps(f"{manifest['name']} {manifest['version']}")
        contents[path] = f"#!/usr/bin/env node\nconsole.log({line});\n".encode()
    return contents | {path: text.encode() for path, text in files.items()}


def _write(path: Path, folder: str, contents: Mapping[str, bytes], size: int, seed: str) -> None:
    level = 1 if size < MB else 0  # filler does not shrink, and packing much of it only takes time
    with (
        path.open("wb") as sink,
        gzip.GzipFile(filename="", mode="wb", fileobj=sink, compresslevel=level, mtime=0) as squeezed,
        tarfile.open(fileobj=squeezed, mode="w|", format=tarfile.PAX_FORMAT, bufsize=tarfile.RECORDSIZE) as archive,
    ):
        for member, content in contents.items():
            archive.addfile(_entry(f"{folder}/{member}", len(content)), io.BytesIO(content))
        if size:
            archive.addfile(_entry(f"{folder}/filler.bin", size), _Pieces(filler(size, seed)))


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size, EPOCH, 0o755 if "/bin/" in name else 0o644
    return entry


class _Pieces(io.RawIOBase):
    """Pieces as a file to read from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        while len(self._rest) < size and (piece := next(self._pieces, b"")):
            self._rest += piece
        found, self._rest = self._rest[:size], self._rest[size:]
        return found


def _measure(path: Path, manifest: Mapping[str, Any], contents: Mapping[str, bytes], size: int) -> Tarball:
    sha1, sha256, sha512 = hashlib.sha1(usedforsecurity=False), hashlib.sha256(), hashlib.sha512()
    with path.open("rb") as source:
        while piece := source.read(PIECE):
            for digest in (sha1, sha256, sha512):
                digest.update(piece)
    return Tarball(
        manifest["name"],
        manifest["version"],
        path.name,
        path,
        path.stat().st_size,
        sha1.hexdigest(),
        sha256.hexdigest(),
        sha512.hexdigest(),
        manifest,
        len(contents) + bool(size),
        sum(map(len, contents.values())) + size,
    )
