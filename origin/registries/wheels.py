"""Archives looked into: whether one is sound, and the metadata inside a wheel.

Blocking and CPU-bound: call from a worker thread. Pure but for the file object given. A digest says that the bytes are those published;
what is checked here is that those bytes are an archive at all (a portal's HTML, a truncated upload) and none that harms whoever unpacks
it. Real archives of twenty years are accepted, odd ones included; only what installers could not read or should not is refused.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from . import pypi_names as names

TAIL_BYTES = 256 << 10
"""The least of an archive that is held back until its digest matches."""

METADATA_LIMIT_BYTES = 10 << 20
"""A larger METADATA is not taken out. 1 to 50 KB is typical, over 1 MB occurs."""

_READ_BYTES = 256 << 10
_UNPACK_BYTES = 1 << 20
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may cost whoever unpacks it. ``ratio`` (unpacked to packed) counts only above ``ratio_from_bytes`` unpacked."""

    entries: int = 500_000
    unpacked_bytes: int = 32 << 30
    ratio: int = 500
    ratio_from_bytes: int = 256 << 20


def zip_tail(size: int) -> int:
    """How many bytes at the end of a zip archive of ``size`` bytes to hold back so that it is useless without them.

    The directory takes about 100 bytes an entry, so 1.6 % is above what real wheels need; small archives are held whole.
    """
    return min(size, max(TAIL_BYTES, size // 64))


def check_archive(fileobj: BinaryIO, filename: str, limits: Limits | None = None) -> None:
    """Raise ``ValueError``, saying what is wrong, if ``fileobj`` is not a sound archive of the kind that ``filename`` promises.

    Of kinds without a check here (``.exe``, ``.rpm``, sidecars) nothing is said. Takes as long as unpacking does for tarballs
    (0.3 GB/s, without the interpreter's lock), and milliseconds for zips.
    """
    limits = limits or Limits()
    lowered = filename.lower()
    if lowered.endswith((".whl", ".zip", ".egg", ".jar", ".war", ".ear", ".aar")):
        _check_zip(fileobj, limits, exact=lowered.endswith(".whl"))
        return
    for ending, (magic, unpacker) in _TARBALLS.items():
        if lowered.endswith(ending):
            _check_tarball(fileobj, limits, magic, unpacker)
            return


# ---- zip ------------------------------------------------------------------------------------------------------------


def _check_zip(fileobj: BinaryIO, limits: Limits, *, exact: bool) -> None:
    size = fileobj.seek(0, io.SEEK_END)
    if exact:
        _check_ends(fileobj, size)
    try:
        with zipfile.ZipFile(fileobj) as archive:
            entries = archive.infolist()
            start = archive.start_dir
    except (zipfile.BadZipFile, zipfile.LargeZipFile, OSError, ValueError, NotImplementedError, UnicodeDecodeError) as error:
        raise ValueError(f"not a zip archive: {error}") from None
    if len(entries) > limits.entries:
        raise ValueError(f"{len(entries)} entries in the archive, over the limit of {limits.entries}")
    if exact and not entries:
        raise ValueError("a wheel without entries")
    seen: dict[str, tuple[int, int]] = {}
    unpacked = 0
    for entry in entries:
        _check_name(entry.filename, exact=exact)
        unpacked += entry.file_size
        # The same file written twice is a known slip of build tools; two files under one name hide one from whoever looks first.
        twin = seen.setdefault(entry.filename, (entry.CRC, entry.file_size))
        if exact and twin != (entry.CRC, entry.file_size):
            raise ValueError(f"two different entries named {entry.filename[:64]!r}")
        if exact and entry.flag_bits & 1:
            raise ValueError(f"encrypted entry {entry.filename[:64]!r}")
    if unpacked > limits.unpacked_bytes:
        raise ValueError(f"{unpacked} bytes unpacked, over the limit of {limits.unpacked_bytes}")
    _check_layout(fileobj, entries, start, exact=exact)


def _check_ends(fileobj: BinaryIO, size: int) -> None:
    """A wheel begins with an entry and ends with its directory's end record: what else is there, some reader would take for the archive."""
    fileobj.seek(0)
    if fileobj.read(4) != b"PK\x03\x04":
        raise ValueError("not a wheel: it does not begin with a zip entry")
    length = min(size, 22 + 0xFFFF)
    fileobj.seek(size - length)
    tail = fileobj.read(length)
    # The record is 22 bytes and a comment, whose length its last two bytes tell.
    position = tail.rfind(b"PK\x05\x06")
    while position >= 0:
        if len(tail) - position >= 22 and position + 22 + int.from_bytes(tail[position + 20 : position + 22], "little") == len(
            tail
        ):
            return
        position = tail.rfind(b"PK\x05\x06", 0, position)
    raise ValueError("not a wheel: no directory at its end, so it is cut short or something follows it")


def _check_name(name: str, *, exact: bool) -> None:
    if "\0" in name or not name:
        raise ValueError(f"bad name in the archive: {name[:64]!r}")
    if exact and "\\" in name:
        raise ValueError(f"backslash in the archive's name {name[:64]!r}")
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or (len(parts[0]) == 2 and parts[0][1] == ":"):
        raise ValueError(f"the archive's name {name[:64]!r} leads out of its directory")


def _check_layout(fileobj: BinaryIO, entries: list[zipfile.ZipInfo], directory: int, *, exact: bool) -> None:
    """Each entry where the directory says, under the same name, and none within another: overlapping entries are a zip bomb's trick."""
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            raise ValueError(f"the archive's entry {entry.filename[:64]!r} overlaps another")
        fileobj.seek(entry.header_offset)
        header = fileobj.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise ValueError(f"no entry where the directory has {entry.filename[:64]!r}")
        name_length = int.from_bytes(header[26:28], "little")
        extra_length = int.from_bytes(header[28:30], "little")
        if exact:
            raw = fileobj.read(name_length)
            encoding = "utf-8" if int.from_bytes(header[6:8], "little") & 0x800 else "cp437"
            if raw.decode(encoding, "replace") != entry.orig_filename:
                raise ValueError(f"the directory's {entry.filename[:64]!r} has another name where it stands")
            if end == 0 and entry.header_offset != 0:
                raise ValueError("not a wheel: something stands before its first entry")
        end = entry.header_offset + 30 + name_length + extra_length + entry.compress_size
    if end > directory:
        raise ValueError("the archive's last entry runs into its directory")


# ---- tarballs -------------------------------------------------------------------------------------------------------


class _Unpacker(Protocol):
    """What the three decompressors of the standard library have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


class _Gzip:
    """``zlib``'s, which keeps its unconsumed input differently from the other two, made like them."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(31)

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def decompress(self, data: bytes, max_length: int = 0) -> bytes:
        return self._object.decompress(self._object.unconsumed_tail + data, max_length)


_TARBALLS: Mapping[str, tuple[bytes, Callable[[], _Unpacker]]] = {
    ".tar.gz": (b"\x1f\x8b", _Gzip),
    ".tgz": (b"\x1f\x8b", _Gzip),
    ".tar.bz2": (b"BZh", bz2.BZ2Decompressor),
    ".tbz": (b"BZh", bz2.BZ2Decompressor),
    ".tbz2": (b"BZh", bz2.BZ2Decompressor),
    ".tar.xz": (b"\xfd7zXZ", lzma.LZMADecompressor),
    ".txz": (b"\xfd7zXZ", lzma.LZMADecompressor),
}


def _check_tarball(fileobj: BinaryIO, limits: Limits, magic: bytes, unpacker: Callable[[], _Unpacker]) -> None:
    size = fileobj.seek(0, io.SEEK_END)
    fileobj.seek(0)
    if fileobj.read(len(magic)) != magic:
        raise ValueError("not the compressed archive that its name promises")
    fileobj.seek(0)
    head = b""
    unpacked = 0
    stream = unpacker()
    while True:
        data = fileobj.read(_READ_BYTES)
        if not data:
            raise ValueError(f"the archive is cut short after {size} bytes")
        while True:
            try:
                piece = stream.decompress(data, _UNPACK_BYTES)
            except (zlib.error, OSError, lzma.LZMAError, EOFError) as error:
                raise ValueError(f"the archive is damaged: {error}") from None
            data = b""
            unpacked += len(piece)
            if len(head) < _BLOCK:
                head += piece[: _BLOCK - len(head)]
            if unpacked > limits.unpacked_bytes:
                raise ValueError(f"over {limits.unpacked_bytes} bytes unpacked")
            if unpacked > limits.ratio_from_bytes and unpacked > limits.ratio * size:
                raise ValueError(f"the archive unpacks to more than {limits.ratio} times its {size} bytes")
            if stream.eof:
                # Several streams may follow each other; what is none is padding, which readers of tar do not come to.
                rest = stream.unused_data or fileobj.read(_READ_BYTES)
                if not rest.startswith(magic):
                    _check_tar_head(head)
                    return
                stream, data = unpacker(), rest
            elif not piece:
                break


def _check_tar_head(head: bytes) -> None:
    """The first header's checksum: "the simple sum of all bytes in the header block", its own field taken as spaces (POSIX ustar)."""
    if len(head) < _BLOCK:
        raise ValueError("not a tar archive: less than one block")
    try:
        stated = int(head[148:156].strip(b" \0") or b"0", 8)
    except ValueError:
        raise ValueError("not a tar archive: no checksum in its first header") from None
    bare = head[:148] + b" " * 8 + head[156:]
    # Some old tools summed signed bytes.
    if stated not in (sum(bare), sum(byte - 256 if byte > 127 else byte for byte in bare)):
        raise ValueError("not a tar archive: wrong checksum in its first header")


# ---- metadata -------------------------------------------------------------------------------------------------------


class _ReadAt(io.RawIOBase):
    """A file of ``size`` bytes read by offset, for ``zipfile``."""

    def __init__(self, read_at: Callable[[int, int], bytes], size: int) -> None:
        self._read_at = read_at
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._position)
        data = self._read_at(self._position, left if size < 0 else min(size, left)) if left and size else b""
        self._position += len(data)
        return data


def extract_metadata(read_at: Callable[[int, int], bytes], size: int, filename: str) -> bytes | None:
    """The bytes of ``<name>-<version>.dist-info/METADATA`` in a wheel: what its ``.metadata`` sidecar must be, byte for byte.

    ``read_at(offset, length)`` gives its bytes, blocking. None if there is none, or not exactly one that is the wheel's own.
    """
    parts = filename.removesuffix(".whl").split("-")
    if not filename.endswith(".whl") or len(parts) not in (5, 6):
        return None
    try:
        with zipfile.ZipFile(_ReadAt(read_at, size)) as archive:
            found = [entry for entry in archive.infolist() if _is_own_metadata(entry.filename, parts[0], parts[1])]
            if len(found) != 1 or found[0].file_size > METADATA_LIMIT_BYTES:
                return None
            with archive.open(found[0]) as member:
                data = member.read(METADATA_LIMIT_BYTES + 1)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, ValueError, NotImplementedError, RuntimeError, EOFError):
        # RuntimeError: encrypted; NotImplementedError: a compression of tomorrow. Either way nothing to advertise.
        return None
    return data if len(data) <= METADATA_LIMIT_BYTES else None


def _is_own_metadata(path: str, name: str, version: str) -> bool:
    directory, slash, rest = path.partition("/")
    if not slash or rest != "METADATA" or not directory.endswith(".dist-info"):
        return False
    own_name, _, own_version = directory.removesuffix(".dist-info").partition("-")
    # Compared as they mean, not as they are spelled: builders differ in case, dots and underscores.
    try:
        same_name = names.normalise(own_name) == names.normalise(name)
    except ValueError:
        return False
    own, wanted = names.parse_version(own_version), names.parse_version(version)
    return same_name and (own == wanted if own and wanted else own_version == version)
