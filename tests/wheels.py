"""Real, installable wheels and source distributions, made on the spot, the same bytes every time.

A ``Shelf`` is a directory that keeps what was built, because the tests want files of up to 500 MB and want them once. Nothing here
needs the network: the source distributions carry their own build backend.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import random
import struct
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

KB = 1000
MB = 1000 * KB

PIECE = 4 * MB
"""How many bytes of filler are made, hashed and written at a time."""

EPOCH = (2024, 1, 1, 0, 0, 0)

BACKEND = '''\
"""A build backend in thirty lines: it packs the one module beside it."""

import base64
import hashlib
import os
import zipfile

from recipe import METADATA, MODULE, NAME, VERSION


def _pack(directory, editable=False):
    info = f"{NAME}-{VERSION}.dist-info"
    files = {
        f"{MODULE}.py": open(f"{MODULE}.py", "rb").read(),
        f"{info}/METADATA": METADATA.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\\nGenerator: backend 1\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    record = ""
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(content)}\\n"
    files[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\\n").encode()
    filename = f"{NAME}-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, filename), "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return filename


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    return _pack(wheel_directory)


def get_requires_for_build_wheel(config_settings=None):
    return []
'''


@dataclass(frozen=True, slots=True)
class Distribution:
    """One built file. ``path`` holds the bytes; ``metadata`` is its METADATA or PKG-INFO; digests are lower-case hex."""

    project: str
    version: str
    filename: str
    path: Path
    size: int
    sha256: str
    blake2b: str
    metadata: bytes
    requires_python: str | None = None

    @property
    def content(self) -> bytes:
        return self.path.read_bytes()

    @property
    def is_wheel(self) -> bool:
        return self.filename.endswith(".whl")

    @property
    def metadata_sha256(self) -> str:
        return hashlib.sha256(self.metadata).hexdigest()

    @property
    def pin(self) -> str:
        """``name==version``, as requirements spell it."""
        return f"{self.project}=={self.version}"

    @property
    def hash_option(self) -> str:
        """The option that pins it in a requirements file."""
        return f"--hash=sha256:{self.sha256}"


class Shelf:
    """Builds distributions into ``directory``, once each. The same arguments give the same bytes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._built: dict[str, Distribution] = {}

    def wheel(
        self,
        project: str,
        version: str,
        *,
        size: int = 0,
        requires: Sequence[str] = (),
        requires_python: str | None = None,
        seed: str = "",
        python_tag: str = "py3",
        rest: str = "none-any",
        summary: str = "made for a test",
    ) -> Distribution:
        """A pure wheel of at least ``size`` bytes (0: just what it needs). Its module has ``VERSION`` and imports nothing.

        ``seed`` makes other bytes under the same name. ``python_tag`` and ``rest`` say what it claims to be for.
        """
        name = project.replace("-", "_").replace(".", "_")
        filename = f"{name}-{version}-{python_tag}-{rest}.whl"
        key = repr((filename, size, tuple(requires), requires_python, seed, summary))
        if key not in self._built:
            metadata = _metadata(project, version, requires, requires_python, summary)
            path = self._place(key, filename)
            if not path.exists():
                partial = path.with_name(path.name + ".partial")
                _write_wheel(partial, name, version, f"{python_tag}-{rest}", metadata, size, seed)
                partial.rename(path)
            self._built[key] = _measure(project, version, path, metadata, requires_python)
        return self._built[key]

    def sdist(
        self,
        project: str,
        version: str,
        *,
        size: int = 0,
        requires: Sequence[str] = (),
        build_requires: Sequence[str] = (),
        requires_python: str | None = None,
        seed: str = "",
    ) -> Distribution:
        """A source distribution that any installer can build without a network, of at least ``size`` bytes."""
        name = project.replace("-", "_").replace(".", "_")
        filename = f"{name}-{version}.tar.gz"
        key = repr((filename, size, tuple(requires), tuple(build_requires), requires_python, seed))
        if key not in self._built:
            metadata = _metadata(project, version, requires, requires_python, "made for a test")
            path = self._place(key, filename)
            if not path.exists():
                partial = path.with_name(path.name + ".partial")
                partial.write_bytes(_sdist_bytes(name, version, metadata, size, seed, build_requires))
                partial.rename(path)
            self._built[key] = _measure(project, version, path, metadata, requires_python)
        return self._built[key]

    def _place(self, key: str, filename: str) -> Path:
        """A directory per recipe, so that two recipes for one name do not overwrite each other."""
        directory = self.directory / hashlib.sha256(key.encode()).hexdigest()[:16]
        directory.mkdir(parents=True, exist_ok=True)
        return directory / filename


def flipped(content: bytes, at: int) -> bytes:
    """``content`` with one bit of the byte at ``at`` turned over; negative counts from the end."""
    changed = bytearray(content)
    changed[at] ^= 0x01
    return bytes(changed)


def filler(size: int, seed: str) -> Iterator[bytes]:
    """``size`` bytes that no compressor with less than 4 MB of memory makes smaller, in pieces; no two pieces are alike."""
    block = random.Random(f"filler {seed}").randbytes(min(PIECE, size))
    for number, start in enumerate(range(0, size, PIECE)):
        yield (number.to_bytes(8, "big") + block[8:])[: size - start]


def _metadata(project: str, version: str, requires: Sequence[str], requires_python: str | None, summary: str) -> bytes:
    lines = ["Metadata-Version: 2.1", f"Name: {project}", f"Version: {version}", f"Summary: {summary}"]
    if requires_python is not None:
        lines.append(f"Requires-Python: {requires_python}")
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    return ("\n".join(lines) + "\n\nMade on the spot.\n").encode()


def _write_wheel(path: Path, name: str, version: str, tag: str, metadata: bytes, size: int, seed: str) -> None:
    info = f"{name}-{version}.dist-info"
    module = f"VERSION = {version!r}\nSEED = {seed!r}\n".encode()
    wheel = f"Wheel-Version: 1.0\nGenerator: shelf 1\nRoot-Is-Purelib: true\nTag: {tag}\n".encode()
    record: list[str] = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:

        def add(member: str, pieces: Iterator[bytes]) -> None:
            digest, length = hashlib.sha256(), 0
            with archive.open(zipfile.ZipInfo(member, EPOCH), "w", force_zip64=False) as sink:
                for piece in pieces:
                    digest.update(piece)
                    length += len(piece)
                    sink.write(piece)
            encoded = base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
            record.append(f"{member},sha256={encoded},{length}\n")

        add(f"{name}/__init__.py", iter([module]))
        if size:
            add(f"{name}/filler.bin", filler(size, f"{name} {version} {seed}"))
        add(f"{info}/METADATA", iter([metadata]))
        add(f"{info}/WHEEL", iter([wheel]))
        record.append(f"{info}/RECORD,,\n")
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD", EPOCH), "".join(record))


def _sdist_bytes(name: str, version: str, metadata: bytes, size: int, seed: str, build_requires: Sequence[str]) -> bytes:
    recipe = f"NAME = {name!r}\nVERSION = {version!r}\nMODULE = {name!r}\nMETADATA = {metadata.decode()!r}\n"
    requires = ", ".join(f'"{requirement}"' for requirement in build_requires)
    project = f'[build-system]\nrequires = [{requires}]\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    members = {
        "PKG-INFO": metadata,
        "pyproject.toml": project.encode(),
        "backend.py": BACKEND.encode(),
        "recipe.py": recipe.encode(),
        f"{name}.py": f"VERSION = {version!r}\nSEED = {seed!r}\n".encode(),
    }
    if size:
        members["filler.bin"] = b"".join(filler(size, f"{name} {version} {seed}"))
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=1, mtime=0) as squeezed,
        tarfile.open(fileobj=squeezed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for member, content in members.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{member}")
            entry.size, entry.mtime, entry.mode = len(content), 1_700_000_000, 0o644
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _measure(project: str, version: str, path: Path, metadata: bytes, requires_python: str | None) -> Distribution:
    sha256, blake2b = hashlib.sha256(), hashlib.blake2b(digest_size=32)
    size = 0
    with path.open("rb") as source:
        while piece := source.read(PIECE):
            size += len(piece)
            sha256.update(piece)
            blake2b.update(piece)
    return Distribution(
        project,
        version,
        path.name,
        path,
        size,
        sha256.hexdigest(),
        blake2b.hexdigest(),
        metadata,
        requires_python,
    )


def directory_offset(content: bytes) -> int:
    """Where a zip's central directory begins: what lies before it can be flipped without breaking the archive's frame."""
    end = content.rindex(b"PK\x05\x06")
    (offset,) = struct.unpack_from("<I", content, end + 16)
    return int(offset)
