"""Who an origin is: the key that signs its ledger, the certificate that it shows, and the key by which its edges know each other.

All are made on first use, in the data directory, for its owner alone::

    ledger.key              Ed25519; signs checkpoints. Lost, it cannot be made again: edges would take another one's ledger for a fork.
    tls/cert.pem key.pem    P-256, signed by itself, unless the settings name others. Edges know the key by its pin, not the certificate:
                            that is made anew, over the same key, when it nears its end or does not name a host that it should.
    fleet.key               32 bytes, in hex

Essential reading: RFC 5280 §4.2.1 (extensions). What the strictest verifiers ask for beyond it (OpenSSL's ``X509_V_FLAG_X509_STRICT``) is
kept, so that whoever is given the certificate as a root may check the connection as any other.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from .datadir import place
from .errors import Unavailable, Unusable
from .issuing import begin_certificate, key_usage, name_by_key

LIFE = timedelta(days=3652)
"""Of the certificate. Nobody trusts it for its date, but for its key."""

LEFT = timedelta(days=366)
"""A certificate with less than this before it is made anew at a start."""

FLEET_BYTES = 32

LEDGER_KEY = "ledger.key"
FLEET_KEY = "fleet.key"
CERTIFICATE = "tls/cert.pem"
CERTIFICATE_KEY = "tls/key.pem"

FILES = (LEDGER_KEY, FLEET_KEY, CERTIFICATE, CERTIFICATE_KEY)
"""All of it, below the data directory: what a backup must have."""

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


@dataclass(frozen=True, slots=True)
class Identity:
    """An origin's keys. ``fleet`` is a secret; ``certificate`` and ``key`` are the files that its listener shows."""

    certificate: Path
    key: Path
    fleet: bytes = field(repr=False)
    ledger: Ed25519PrivateKey = field(repr=False)

    def sign(self, text: bytes) -> bytes:
        """The ledger's signature of ``text``, 64 bytes."""
        return self.ledger.sign(text)

    @property
    def public_key(self) -> bytes:
        """What the ledger's signatures are checked with: Ed25519, raw, 32 bytes."""
        return self.ledger.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def key_text(self) -> str:
        """The same in base64."""
        return base64.b64encode(self.public_key).decode()

    def pin(self) -> bytes:
        """The pin of the certificate as its file is now. Raises ``Unusable``."""
        return pin_of(_read_certificate(self.certificate))


def pin_of(certificate: x509.Certificate) -> bytes:
    """The SHA-256 of a certificate's SubjectPublicKeyInfo: it stays when the certificate is made anew over the same key."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


def open_identity(
    data: Path, hosts: Iterable[str], now: float, *, given: tuple[Path, Path] | None = None, signed_by: str = ""
) -> Identity:
    """The origin's keys in ``data``, made if there are none.

    ``hosts`` are the names and addresses that a certificate of our own names; ``given`` are the operator's certificate and key instead.
    ``signed_by`` is the key (base64) that the ledger was signed with before, ``""`` if it was not: then no other will do. ``now`` is
    UTC seconds. Blocks for a few file operations: for the start of a node that holds the directory. Raises ``Unusable``.
    """
    try:
        ledger = _open_ledger_key(data / LEDGER_KEY, signed_by)
        fleet = _open_fleet_key(data / FLEET_KEY)
        if given is not None:
            certificate, key = given
        else:
            certificate, key = data / CERTIFICATE, data / CERTIFICATE_KEY
            _open_certificate(certificate, key, hosts, now)
    except OSError as error:
        raise Unusable(f"The origin's keys in {data} cannot be used ({error.strerror}): correct their owner.") from error
    return Identity(certificate, key, fleet, ledger)


# ---- the ledger's and the fleet's -----------------------------------------------------------------------------------


def _open_ledger_key(path: Path, signed_by: str) -> Ed25519PrivateKey:
    restore = "restore it from a backup; edges take a ledger signed by another key for another origin's"
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError:
        if signed_by:
            raise Unusable(f"The key {path}, which signed this ledger, is missing: {restore}.") from None
        made = Ed25519PrivateKey.generate()
        place(path, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
        return made
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Unusable(f"{path} holds no private key in PEM that is not encrypted: {restore}.") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise Unusable(f"{path} holds a key that is not Ed25519: {restore}.")
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    if signed_by and base64.b64encode(public).decode() != signed_by:
        raise Unusable(f"The key {path} is not the one that signed this ledger: {restore}.")
    return key


def new_fleet_key() -> bytes:
    """A key for a fleet."""
    return secrets.token_bytes(FLEET_BYTES)


def keep_fleet_key(data: Path, key: bytes) -> None:
    """Have the fleet's key be this one from the next start on. Blocks. Raises ``Unavailable``."""
    try:
        place(data / FLEET_KEY, key.hex().encode() + b"\n", 0o600)
    except OSError as error:
        raise Unavailable(f"the fleet's key cannot be written: {error.strerror}", 10) from error


def _open_fleet_key(path: Path) -> bytes:
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        made = new_fleet_key()
        place(path, made.hex().encode() + b"\n", 0o600)
        return made
    except UnicodeDecodeError:
        text = ""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != FLEET_BYTES:
        raise Unusable(
            f"{path} holds no key of {FLEET_BYTES} bytes in hex: restore it from a backup, or remove it and enrol all edges anew."
        )
    return key


# ---- the certificate ------------------------------------------------------------------------------------------------


def _open_certificate(certificate: Path, key: Path, hosts: Iterable[str], now: float) -> None:
    certificate.parent.mkdir(mode=0o700, exist_ok=True)
    wanted = _names(hosts)
    if not key.exists():
        if certificate.exists():
            raise Unusable(
                f"The key {key} of {certificate} is missing: restore it from a backup, or remove the certificate and enrol all edges anew."
            )
        made = ec.generate_private_key(ec.SECP256R1())
        place(key, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    private = _read_key(key)
    if certificate.exists():
        found = _read_certificate(certificate)
        if found.public_key() != private.public_key():
            raise Unusable(f"{key} is not the key of {certificate}: restore both from a backup, or remove the certificate.")
        lasts = found.not_valid_before_utc.timestamp() <= now < (found.not_valid_after_utc - LEFT).timestamp()
        if lasts and set(wanted) <= set(_named(found)):
            return
        wanted = list(dict.fromkeys((*wanted, *_named(found))))
    place(certificate, make_certificate(private, wanted, now).public_bytes(Encoding.PEM), 0o644)


def make_certificate(key: ec.EllipticCurvePrivateKey, names: Iterable[x509.GeneralName], now: float) -> x509.Certificate:
    """A server's certificate over ``key``, signed by itself, that cannot sign another."""
    subject = name_by_key("Leeward origin", key)
    return (
        begin_certificate(subject, subject, key, key, now, LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )


def _names(hosts: Iterable[str]) -> list[x509.GeneralName]:
    """What a certificate can say of ``hosts``, each once; what is neither host name nor address is left out."""
    found: list[x509.GeneralName] = []
    for host in dict.fromkeys(host.lower() for host in hosts):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host.partition("%")[0])))
        except ValueError:
            if len(host) <= 253 and all(_LABEL.fullmatch(label) for label in host.split(".")):
                found.append(x509.DNSName(host))
    return found


def _named(certificate: x509.Certificate) -> list[x509.GeneralName]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (x509.ExtensionNotFound, ValueError):
        return []


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise Unusable(f"The certificate {path} cannot be read ({error.strerror}).") from error
    except ValueError:
        raise Unusable(
            f"{path} holds no certificate in PEM: restore it, or remove it to have one made over the same key."
        ) from None


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Unusable(f"{path} holds no EC key in PEM that is not encrypted: restore it from a backup.")
    return key
