"""Archives: real ones of all ages are accepted, broken and harmful ones are not, and a wheel's metadata comes out as it went in."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable

import pytest

from origin.registries.wheels import TAIL_BYTES, Limits, check_archive, extract_metadata, zip_tail

METADATA = b"Metadata-Version: 2.1\nName: foo\nVersion: 1.0\n"
WHEEL = "foo-1.0-py3-none-any.whl"


class Unseekable(io.RawIOBase):
    """What zipfile writes streaming archives to: entries then have data descriptors."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        piece = bytes(data)  # type: ignore[call-overload]
        self.data += piece
        return len(piece)


def zipped(*entries: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED, comment: bytes = b"") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
        archive.comment = comment
    return out.getvalue()


SOUND = zipped(("foo/__init__.py", b"x = 1\n" * 100), ("foo-1.0.dist-info/METADATA", METADATA), ("foo-1.0.dist-info/RECORD", b""))


def tarball(compress: Callable[[bytes], bytes], size: int = 100_000) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("foo-1.0/setup.py")
        info.size = size
        archive.addfile(info, io.BytesIO(bytes(size)))
    return compress(out.getvalue())


def check(data: bytes, filename: str = WHEEL, limits: Limits | None = None) -> None:
    check_archive(io.BytesIO(data), filename, limits)


def test_ordinary_archives_are_accepted() -> None:
    check(SOUND)
    check(SOUND, "foo-1.0.zip")
    check(tarball(gzip.compress), "foo-1.0.tar.gz")
    check(tarball(gzip.compress), "foo-1.0.TGZ")
    check(tarball(bz2.compress), "foo-1.0.tar.bz2")
    check(tarball(lzma.compress), "foo-1.0.tar.xz")


def test_odd_but_real_archives_are_accepted() -> None:
    check(zipped(("foo/", b""), ("foo/a.py", b""), comment=b"made by hand"))
    check(zipped(("a", b"x" * 1000), method=zipfile.ZIP_STORED))
    check(zipped(("f\u00f6\u00f6/a.py", b"1")))
    streamed = Unseekable()
    with zipfile.ZipFile(streamed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.py", b"1" * 1000)
        archive.writestr("b.py", b"2" * 1000)
    check(bytes(streamed.data))
    large = io.BytesIO()
    with zipfile.ZipFile(large, "w") as archive, archive.open("a", "w", force_zip64=True) as member:
        member.write(b"x" * 1000)
    check(large.getvalue())
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = zipped(("a.py", b"1"), ("a.py", b"1"))
    check(twice)
    check(b"#!/bin/sh\n" + SOUND, "foo-1.0.zip")
    check(SOUND + b"\n", "foo-1.0-py2.7.egg")
    whole = tarball(gzip.compress)
    check(whole + bytes(512), "foo-1.0.tar.gz")
    raw = tarball(bytes)
    check(gzip.compress(raw[:1000]) + gzip.compress(raw[1000:]), "foo-1.0.tar.gz")


def test_kinds_without_a_check_pass() -> None:
    check(b"MZ whatever", "foo-1.0.win32.exe")
    check(b"", "foo-1.0-1.noarch.rpm")


@pytest.mark.parametrize("filename", [WHEEL, "foo-1.0.zip", "foo-1.0.tar.gz", "foo-1.0.tar.bz2", "foo-1.0.tar.xz"])
@pytest.mark.parametrize("data", [b"", b"<html>log in</html>", b"PK\x03\x04", b"\x1f\x8b", bytes(4096)])
def test_what_is_no_archive_is_refused(filename: str, data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        check(data, filename)


@pytest.mark.parametrize("lost", [1, 4, 21, 22, 23, 100, len(SOUND) // 2])
def test_a_wheel_cut_short_is_refused(lost: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        check(SOUND[:-lost])


@pytest.mark.parametrize(
    ("filename", "compress"), [("a.tar.gz", gzip.compress), ("a.tar.bz2", bz2.compress), ("a.tar.xz", lzma.compress)]
)
def test_a_tarball_cut_short_or_damaged_is_refused(filename: str, compress: Callable[[bytes], bytes]) -> None:
    whole = tarball(compress)
    for lost in (1, 4, 8, len(whole) // 2):
        with pytest.raises(ValueError, match="cut short"):
            check(whole[:-lost], filename)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x10
    with pytest.raises(ValueError, match=r"."):
        check(bytes(flipped), filename)


def test_a_wheel_with_something_around_it_is_refused() -> None:
    for data in (b"#!/bin/sh\n" + SOUND, SOUND + b"x", SOUND + SOUND):
        with pytest.raises(ValueError, match="wheel"):
            check(data)


def test_two_different_files_under_one_name_are_refused() -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = zipped(("a.py", b"1"), ("a.py", b"2"))
    with pytest.raises(ValueError, match="two different entries"):
        check(twice)


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/passwd", "C:/evil", "a\\..\\evil", "..\\evil"])
def test_names_that_lead_outside_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        check(zipped((name, b"")))
    with pytest.raises(ValueError, match="leads out"):
        check(zipped((name, b"")), "foo-1.0.zip")


def test_an_entry_that_is_called_otherwise_where_it_stands_is_refused() -> None:
    other = SOUND.replace(b"foo/__init__.py", b"bar/__init__.py", 1)
    with pytest.raises(ValueError, match="another name"):
        check(other)


def test_overlapping_entries_are_refused() -> None:
    data = bytearray(zipped(("a", b"1" * 50), ("b", b"2" * 50), method=zipfile.ZIP_STORED))
    first = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", first + 4)
    # The second entry's offset becomes the first one's.
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    with pytest.raises(ValueError, match="overlaps"):
        check(bytes(data), "a-1.0.zip")


def test_limits_are_kept() -> None:
    with pytest.raises(ValueError, match="2 entries"):
        check(zipped(("a", b""), ("b", b"")), limits=Limits(entries=1))
    with pytest.raises(ValueError, match="unpacked"):
        check(zipped(("a", bytes(1000))), limits=Limits(unpacked_bytes=999))
    with pytest.raises(ValueError, match="unpacked"):
        check(tarball(gzip.compress), "a.tar.gz", Limits(unpacked_bytes=99_999))
    with pytest.raises(ValueError, match="10 times"):
        check(tarball(gzip.compress, 3 << 20), "a.tar.gz", Limits(ratio=10, ratio_from_bytes=1 << 20))
    check(tarball(gzip.compress), "a.tar.gz", Limits(ratio=10))


# -- metadata


def extracted(data: bytes, filename: str = WHEEL) -> bytes | None:
    return extract_metadata(lambda offset, length: data[offset : offset + length], len(data), filename)


def test_metadata_comes_out_byte_for_byte() -> None:
    assert extracted(SOUND) == METADATA
    odd = METADATA + b"\r\n\xff\x00"
    assert extracted(zipped(("Foo_Bar-1.0.dist-info/METADATA", odd)), "foo.bar-1.0.0-py3-none-any.whl") == odd


def test_only_a_wheels_own_metadata_counts() -> None:
    assert extracted(zipped(("other-1.0.dist-info/METADATA", METADATA))) is None
    assert extracted(zipped(("foo-2.0.dist-info/METADATA", METADATA))) is None
    assert extracted(zipped(("x/foo-1.0.dist-info/METADATA", METADATA))) is None
    assert extracted(zipped(("foo-1.0.dist-info/METADATA", METADATA), ("FOO-1.0.dist-info/METADATA", b""))) is None
    vendored = zipped(("foo-1.0.dist-info/METADATA", METADATA), ("foo/_vendor/six-1.dist-info/METADATA", b""))
    assert extracted(vendored) == METADATA


def test_nothing_comes_out_of_what_cannot_be_read() -> None:
    assert extracted(b"") is None
    assert extracted(b"<html>") is None
    assert extracted(SOUND[:-30]) is None
    assert extracted(SOUND, "foo-1.0.tar.gz") is None
    assert extracted(zipped(("foo-1.0.dist-info/METADATA", bytes(11 << 20)))) is None
    damaged = bytearray(zipped(("foo-1.0.dist-info/METADATA", METADATA * 50), method=zipfile.ZIP_STORED))
    damaged[100] ^= 1
    assert extracted(bytes(damaged)) is None


def test_the_held_tail_covers_small_archives_and_the_directory_of_large_ones() -> None:
    assert zip_tail(1000) == 1000
    assert zip_tail(1 << 20) == TAIL_BYTES
    assert zip_tail(640 << 20) == 10 << 20
