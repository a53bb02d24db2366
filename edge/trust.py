"""What a client is given so that it trusts the root: the machine's public roots with ours added, as a PEM bundle and as a JVM's truststore.

A client that is told of a bundle mostly forgets its own, so the bundle must hold all that the machine trusts. ``edge ca``, ``edge run`` and
``edge use --proxy`` hand these out; the serving process needs none of them.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import ssl
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from origin.errors import Unusable

from .signer import Files, place, root_of

PASSWORD = "changeit"  # noqa: S105  # what JDKs use for their own truststores: there is no secret in it, and keytool asks for one
"""The password of a truststore, where nothing else is asked for."""

BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, RHEL
    "/etc/pki/tls/certs/ca-bundle.crt",  # older RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/var/lib/ca-certificates/ca-bundle.pem",
    "/etc/ssl/cert.pem",  # macOS, BSDs, Alpine without its package
    "/usr/local/share/certs/ca-root-nss.crt",  # FreeBSD
    "/opt/homebrew/etc/ca-certificates/cert.pem",  # Homebrew
    "/usr/local/etc/ca-certificates/cert.pem",
    "/opt/homebrew/etc/openssl@3/cert.pem",
    "/usr/local/etc/openssl@3/cert.pem",
)
"""Where systems keep the roots they trust, as one file. The first that holds any counts."""

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+?)-----END CERTIFICATE-----")

LIMIT_BYTES = 32 << 20
"""A larger file is no bundle of roots."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Files that make a client trust the root. ``root`` holds it alone; ``bundle`` and ``truststore`` (PKCS#12) the public roots too."""

    root: Path
    bundle: Path
    truststore: Path
    password: str


def ensure_trust(directory: Path, environ: Mapping[str, str] = os.environ) -> Trust:
    """The three files in ``DIR/ca/`` of this data directory, made where missing and made again where the machine's roots have changed.

    Blocks; starts the signer if there is no root yet. Raises ``errors.Unusable`` with a sentence.
    """
    root = root_of(directory)
    files = Files(directory)
    trust = Trust(files.root, files.directory / "bundle.pem", files.directory / "truststore.p12", PASSWORD)
    write_bundle(trust.bundle, root, environ)
    write_truststore(trust.truststore, root, PASSWORD, environ)
    return trust


def write_bundle(path: Path, root_pem: bytes, environ: Mapping[str, str] = os.environ) -> int:
    """Write the public roots and ``root_pem`` to ``path``, whole or not at all, unless just that is there. Gives how many certificates.

    Raises ``errors.Unusable`` with a sentence.
    """
    certificates = _with_ours(root_pem, environ, path)
    content = b"".join(_pem(der) for der in certificates)
    if _read(path) != content:
        place(path, content, 0o644)
    return len(certificates)


def write_truststore(path: Path, root_pem: bytes, password: str = PASSWORD, environ: Mapping[str, str] = os.environ) -> int:
    """The same certificates as a PKCS#12 truststore for JVMs (8u301 and newer). Gives how many; raises ``errors.Unusable``.

    What no JVM could read is left out, so it may hold a few less than the bundle.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
    from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12Certificate, serialize_java_truststore

    if not password:
        raise Unusable("A truststore needs a password: JVMs do not read certificates from one that has none.")
    entries = []
    with warnings.catch_warnings():
        # Roots that break a rule of form are the machine's business: it trusts them.
        warnings.simplefilter("ignore")
        for number, der in enumerate(_with_ours(root_pem, environ, path)):
            try:
                certificate = x509.load_der_x509_certificate(der)
            except ValueError:
                continue
            # An alias that is used twice would be one entry, so each has its number.
            entries.append(PKCS12Certificate(certificate, b"leeward" if number == 0 else f"public-{number}".encode()))
        if _trusted(path, password) != [entry.certificate for entry in entries]:
            place(path, serialize_java_truststore(entries, BestAvailableEncryption(password.encode())), 0o644)
    return len(entries)


def public_roots(environ: Mapping[str, str] = os.environ, except_for: Path | None = None) -> tuple[bytes, ...]:
    """The certificates (DER) that this machine trusts: as its environment says, else as its system does, else those of certifi.

    ``except_for`` names a file that is ours to write and so says nothing.
    """
    for path in _bundles(environ):
        if except_for is not None and _same(path, except_for):
            continue
        if found := _certificates(_read(path)):
            return tuple(dict.fromkeys(found))
    for directory in _directories(environ):
        if found := [der for path in _files(directory) for der in _certificates(_read(path))]:
            return tuple(dict.fromkeys(found))
    import certifi

    return tuple(dict.fromkeys(_certificates(_read(Path(certifi.where())))))


def _with_ours(root_pem: bytes, environ: Mapping[str, str], path: Path) -> Sequence[bytes]:
    ours = _certificates(root_pem)
    if len(ours) != 1:
        raise Unusable("The authority's root is not one certificate in PEM: nothing can be told to trust it.")
    return tuple(dict.fromkeys([*ours, *public_roots(environ, path)]))


def _bundles(environ: Mapping[str, str]) -> Iterator[Path]:
    defaults = ssl.get_default_verify_paths()
    named = (environ.get("SSL_CERT_FILE"), environ.get("NIX_SSL_CERT_FILE"), defaults.openssl_cafile)
    yield from (Path(name) for name in (*named, *BUNDLES) if name)


def _directories(environ: Mapping[str, str]) -> Iterator[Path]:
    # Several are spelled like a PATH.
    named = (environ.get("SSL_CERT_DIR") or "").split(os.pathsep)
    yield from (Path(name) for name in (*named, ssl.get_default_verify_paths().openssl_capath) if name)


def _files(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.is_file())
    except OSError:
        return []


def _read(path: Path) -> bytes:
    """A file's bytes; none if it cannot be read or is no plain file of a sensible size."""
    try:
        if not path.is_file() or path.stat().st_size > LIMIT_BYTES:
            return b""
        return path.read_bytes()
    except OSError:
        return b""


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _certificates(text: bytes) -> list[bytes]:
    """The certificates in PEM text, as DER, in order. What is damaged, and what says more than that it is trusted, is passed over."""
    found = []
    for block in _BLOCK.finditer(text):
        try:
            found.append(base64.b64decode(b"".join(block[1].split()), validate=True))
        except binascii.Error:
            continue
    return found


def _pem(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).encode()


def _trusted(path: Path, password: str) -> list[object]:
    """The certificates of a truststore, in order; none if it is not there or cannot be read."""
    from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

    try:
        return [entry.certificate for entry in load_pkcs12(_read(path), password.encode()).additional_certs]
    except ValueError:
        return []
