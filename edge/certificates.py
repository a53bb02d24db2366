"""What the authority's certificates say, and whether one is still good: pure functions over certificates, with no file and no clock.

Root (10 years) <- intermediate (90 days, only for the hosts that it names) <- leaves (7 days, a host each). All keys are P-256 and each
certificate has its own. Essential reading: RFC 5280 §4.2.1 (extensions), §4.2.1.10 (name constraints), §6 (path validation). What the
strictest clients ask for beyond it: OpenSSL's ``X509_V_FLAG_X509_STRICT`` (Python's default since 3.13) wants key identifiers everywhere.

Name constraints stand on the intermediate because JDKs ignore those on a trust anchor.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from origin.issuing import Key, begin_certificate, key_usage, name_by_key

DAY = timedelta(days=1)
ROOT_LIFE = 3652 * DAY
INTERMEDIATE_LIFE = 90 * DAY
LEAF_LIFE = 7 * DAY

INTERMEDIATE_LEFT = 1 / 3
"""An intermediate is made anew when this part of its life is left."""

LEAF_LEFT = 1 / 2
"""A leaf likewise."""

NOWHERE = "invalid"
"""The one DNS name that is permitted where only addresses are stood in for, since a form of name that is not mentioned at all is
unconstrained: "any names ending with '.invalid' … are guaranteed not to exist" in meaning (RFC 6761 §6.4)."""

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


@dataclass(frozen=True, slots=True)
class Signer:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: Key


# ---- names -----------------------------------------------------------------------------------------------------------


def name_of(host: str) -> x509.DNSName | x509.IPAddress:
    """The name a certificate gives a host: a DNS name in lower case (A-labels), or an IP address without brackets.

    Raises ``ValueError`` with a sentence for anything else; wildcards are something else.
    """
    labels = host.split(".")
    # What ends in a number is an address to every client, or to some.
    if ":" in host or labels[-1].isdecimal() or labels[-1].startswith("0x"):
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(f"{host[:100]!r} is neither a host name nor an address") from None
        if str(address) != host or getattr(address, "scope_id", None) is not None:
            raise ValueError(f"{host[:100]!r} is not how this address is spelled")
        return x509.IPAddress(address)
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{host[:100]!r} is no host name")
    return x509.DNSName(host)


def hosts_of(intermediate: x509.Certificate) -> frozenset[str]:
    """The hosts that an intermediate of ours is constrained to; none for any other certificate."""
    try:
        constraints = intermediate.extensions.get_extension_for_class(x509.NameConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        return frozenset()
    hosts = set()
    for name in constraints.permitted_subtrees or ():
        if isinstance(name, x509.DNSName):
            hosts.add(name.value)
        elif isinstance(name, x509.IPAddress) and isinstance(name.value, ipaddress.IPv4Network | ipaddress.IPv6Network):
            hosts.add(str(name.value.network_address))
    return frozenset(hosts - {NOWHERE})


def _constraints(hosts: Iterable[str]) -> x509.NameConstraints:
    """Only these hosts. RFC 5280 knows no DNS constraint that leaves out the names below a name: those are permitted too.

    All addresses are excluded. Where some are hosts, those are permitted and nothing needs to be excluded, since what is not permitted of a
    form that is mentioned is out; and nothing may be: JDKs (17) compare an address with a network of the other family, and fail.
    BoringSSL knows no constraints on addresses and refuses every leaf for one.
    """
    names = [name_of(host) for host in sorted(hosts)]
    permitted: list[x509.GeneralName] = [name for name in names if isinstance(name, x509.DNSName)] or [x509.DNSName(NOWHERE)]
    networks = [ipaddress.ip_network(name.value) for name in names if isinstance(name, x509.IPAddress)]
    everything = [x509.IPAddress(ipaddress.ip_network(network)) for network in ("0.0.0.0/0", "::/0")]
    return x509.NameConstraints([*permitted, *map(x509.IPAddress, networks)], None if networks else everything)


# ---- making ----------------------------------------------------------------------------------------------------------


def make_root(now: float, key: Key | None = None) -> Signer:
    """A root, with a new key or this one. Its name ends in a part of its key's identifier: edges' roots can be told apart by it."""
    key = key if key is not None else ec.generate_private_key(ec.SECP256R1())
    subject = name_by_key("Leeward root", key)
    builder = begin_certificate(subject, subject, key, key, now, ROOT_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
    builder = builder.add_extension(key_usage(sign_certificates=True), critical=True)
    return Signer(builder.sign(key, hashes.SHA256()), key)


def make_intermediate(root: Signer, hosts: Sequence[str], now: float) -> Signer:
    """An intermediate that can sign for these hosts only, and for servers only. Raises ``ValueError`` for a host that is none."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = name_by_key("Leeward intermediate", key)
    life = _clipped(INTERMEDIATE_LIFE, root.certificate, now)
    builder = begin_certificate(subject, root.certificate.subject, key, root.key, now, life)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(key_usage(sign_certificates=True), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(_constraints(hosts), critical=True)
    return Signer(builder.sign(root.key, hashes.SHA256()), key)


def make_leaf(intermediate: Signer, host: str, now: float) -> Signer:
    """A leaf for one host, with a key of its own. Raises ``ValueError`` for a host that is none; does not look at constraints."""
    key = ec.generate_private_key(ec.SECP256R1())
    life = _clipped(LEAF_LIFE, intermediate.certificate, now)
    # No common name: it holds 64 characters, a host up to 253, and clients that take it for a host name check it as one.
    builder = begin_certificate(x509.Name([]), intermediate.certificate.subject, key, intermediate.key, now, life)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(key_usage(sign_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    # "If the subject field contains an empty sequence, then the issuing CA MUST include a subjectAltName extension that is marked as
    # critical" (RFC 5280 §4.2.1.6)
    builder = builder.add_extension(x509.SubjectAlternativeName([name_of(host)]), critical=True)
    return Signer(builder.sign(intermediate.key, hashes.SHA256()), key)


def _clipped(life: timedelta, issuer: x509.Certificate, now: float) -> timedelta:
    """Nothing outlives what signed it."""
    return min(life, issuer.not_valid_after_utc - datetime.fromtimestamp(int(now), UTC))


# ---- judging ---------------------------------------------------------------------------------------------------------


def ends(certificate: x509.Certificate) -> float:
    """When it ends, in UTC seconds."""
    return certificate.not_valid_after_utc.timestamp()


def begins(certificate: x509.Certificate) -> float:
    return certificate.not_valid_before_utc.timestamp()


def is_valid(certificate: x509.Certificate, now: float) -> bool:
    """Whether ``now`` is within its life."""
    return begins(certificate) <= now < ends(certificate)


def renewed_at(certificate: x509.Certificate, left: float) -> float:
    """When only the part ``left`` of its life is left, in UTC seconds."""
    return ends(certificate) - (ends(certificate) - begins(certificate)) * left


def is_signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it may sign others."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def is_for(leaf: x509.Certificate, host: str) -> bool:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return list(names) == [name_of(host)]


def fingerprint(certificate: x509.Certificate) -> str:
    """Its SHA-256 as people compare it: ``AB:CD:…``."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


# ---- PEM -------------------------------------------------------------------------------------------------------------


def pem_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def key_pem_of(key: Key) -> bytes:
    """The private key, PKCS#8, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_signer(certificate_pem: bytes, key_pem: bytes) -> Signer:
    """A certificate and its key. Raises ``ValueError`` with a sentence if either is damaged or they do not belong together."""
    certificate = read_certificates(certificate_pem)[0]
    key = read_key(key_pem)
    if key.public_key() != certificate.public_key():
        raise ValueError("the key is not that of the certificate")
    return Signer(certificate, key)


def read_certificates(text: bytes) -> list[x509.Certificate]:
    """One or more certificates. Raises ``ValueError``."""
    try:
        return x509.load_pem_x509_certificates(text)
    except ValueError as error:
        raise ValueError("it holds no certificate in PEM") from error


def read_key(text: bytes) -> Key:
    """A private key, EC or RSA, not encrypted. Raises ``ValueError``."""
    try:
        key = load_pem_private_key(text, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("it holds no private key in PEM that is not encrypted") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError("its key is neither an EC nor an RSA key")  # noqa: TRY004 -- the file's content is wrong, not a type
    return key
