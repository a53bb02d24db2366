"""What every certificate says that Leeward makes, whoever signs it: an origin's own, and those of an edge's authority.

Pure functions over keys, with no file and no clock. Essential reading: RFC 5280 §4.2.1 (extensions). What the strictest clients ask for
beyond it: OpenSSL's ``X509_V_FLAG_X509_STRICT`` (Python's default since 3.13) wants key identifiers everywhere.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

BACKDATED = timedelta(hours=1)
"""How much earlier than now a certificate begins, for clients whose clocks are late."""

type Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def begin_certificate(
    subject: x509.Name, issuer: x509.Name, key: Key, issuer_key: Key, now: float, life: timedelta
) -> x509.CertificateBuilder:
    """A certificate over ``key`` with its names, its life from ``now`` (UTC seconds) on, and the identifiers of both keys."""
    begins = datetime.fromtimestamp(int(now), UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins - BACKDATED)
        .not_valid_after(begins + life)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )


def name_by_key(role: str, key: Key) -> x509.Name:
    """Whose certificate it is. The name ends in a part of its key's identifier, so that those of one role can be told apart."""
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()[:8]
    names = {NameOID.ORGANIZATION_NAME: "Leeward", NameOID.COMMON_NAME: f"{role} {identifier}"}
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in names.items()])


def key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    """Signing certificates and nothing else, or a server's part of a handshake and nothing else."""
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
