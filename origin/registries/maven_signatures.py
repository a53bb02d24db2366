"""Detached OpenPGP signatures of Maven files, checked against the certificates an operator gives. Essential reading: RFC 9580.

``pysequoia`` is loaded when there are certificates. It says "no valid signatures" of a changed file, an unknown key and an algorithm that
is no longer trusted alike; who made a signature, and by what, is therefore looked up beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pysequoia import Cert, Sig
    from pysequoia.packet import HashAlgorithm, Packet

type Status = Literal["valid", "unknown-key", "weak-algorithm", "bad", "unparseable"]

LIMIT_SIGNATURE_BYTES = 256 * 1024
LIMIT_SIGNATURES = 16

_ARMOUR = b"-----BEGIN PGP "
_PRIVATE = _ARMOUR + b"PRIVATE KEY BLOCK"
_LEAST_BITS = 2048
# The graver first: what is told of several signatures of which none is valid.
_GRAVITY: tuple[Status, ...] = ("bad", "weak-algorithm", "unknown-key")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a signature turned out to be, and a sentence on it."""

    status: Status
    sentence: str


class Keyring:
    """Certificates, armoured or binary, one after another. Raises ``ValueError`` with a sentence for anything else."""

    def __init__(self, keys: bytes) -> None:
        try:
            from pysequoia import Cert
            from pysequoia.packet import PacketPile, Tag
        except ImportError:
            raise ValueError("OpenPGP signatures are checked with pysequoia, which is not installed") from None
        try:
            certificates = Cert.split_bytes(keys) if keys.strip() else []
            piles = [list(PacketPile.from_bytes(bytes(certificate))) for certificate in certificates]
            # Certificates leave such parts out when they are read.
            is_private = _PRIVATE in keys or (
                _ARMOUR not in keys and any(packet.tag == Tag.SecretKey for packet in PacketPile.from_bytes(keys))
            )
        except RuntimeError as error:
            raise ValueError(f"the keys cannot be read as OpenPGP certificates: {_first_line(error)}") from None
        if not certificates:
            raise ValueError("there is no OpenPGP certificate among the keys")
        if is_private:
            raise ValueError("there is a private key among the keys: export only certificates, and keep it elsewhere")
        self._by_key: dict[str, list[Cert]] = {}
        self._weak: set[str] = set()
        for certificate, packets in zip(certificates, piles, strict=True):
            for key, is_weak in _keys(packets):
                for name in filter(None, (key.fingerprint, key.key_id)):
                    self._by_key.setdefault(name, []).append(certificate)
                    if is_weak:
                        self._weak.add(name)
        self.certificates = certificates

    def __repr__(self) -> str:
        return f"<Keyring of {len(self.certificates)} certificates>"

    def check(self, content: str, signature: bytes) -> Finding:
        """Say what ``signature`` is to the bytes at the path ``content``. Any valid one among several counts."""
        try:
            signatures = _read(signature)
        except (RuntimeError, ValueError) as error:
            return Finding("unparseable", f"its signature cannot be read: {_first_line(error)}")
        findings = [self._check_one(content, each) for each in signatures]
        for finding in findings:
            if finding.status == "valid":
                return finding
        return min(findings, key=lambda finding: _GRAVITY.index(finding.status))

    def _check_one(self, content: str, signature: Sig) -> Finding:
        from pysequoia import verify

        issuer = signature.issuer_fingerprint or signature.issuer_key_id or ""
        known = self._by_key.get(issuer, [])
        if not known:
            return Finding("unknown-key", f"it is signed with the unknown key {issuer or '(not named)'}")
        try:
            verify(file=content, store=lambda _: known, signature=signature)
        except RuntimeError:
            if _is_weak_hash(signature.hash_algorithm) or issuer in self._weak:
                return Finding(
                    "weak-algorithm", f"it is signed with the key {issuer} by an algorithm that proves nothing any more"
                )
            return Finding("bad", f"its signature by the key {issuer} is not one of these bytes, or the key was not to be used")
        return Finding("valid", f"it is signed with the key {issuer}")


def _read(signature: bytes) -> list[Sig]:
    """The signatures in a file, binary or in one or more armoured blocks, each a packet or several."""
    from pysequoia import Sig
    from pysequoia.packet import PacketPile, Tag

    if len(signature) > LIMIT_SIGNATURE_BYTES:
        raise ValueError(f"{len(signature)} bytes")
    _, *armoured = signature.split(_ARMOUR)
    blocks = [_ARMOUR + piece for piece in armoured] or [signature]
    found: list[Sig] = []
    for block in blocks[:LIMIT_SIGNATURES]:
        for packet in PacketPile.from_bytes(block):
            if packet.tag != Tag.Signature:
                raise ValueError(f"it holds a {packet.tag}, not only signatures")
            found.append(Sig.from_bytes(bytes(packet)))
    if not found:
        raise ValueError("it is empty")
    return found[:LIMIT_SIGNATURES]


def _keys(packets: Sequence[Packet]) -> Iterator[tuple[Packet, bool]]:
    """Each key of a certificate, and whether what it signs proves nothing: it is too short, or bound by nothing but broken hashes."""
    from pysequoia.packet import Tag

    primary = packets[0]
    own = (primary.fingerprint, primary.key_id)
    component = primary
    keys, bound = [primary], set()
    for packet in packets[1:]:
        if packet.tag == Tag.Signature:
            issuer = packet.issuer_fingerprint or packet.issuer_key_id
            if issuer in own and packet.hash_algorithm is not None and not _is_weak_hash(packet.hash_algorithm):
                # What binds a user to the certificate binds its primary key.
                bound.add(component.fingerprint or primary.fingerprint)
            continue
        component = packet
        if packet.tag == Tag.PublicSubkey:
            keys.append(packet)
    for key in keys:
        yield key, _is_short(key) or not {primary.fingerprint, key.fingerprint} <= bound


def _is_weak_hash(algorithm: HashAlgorithm) -> bool:
    from pysequoia.packet import HashAlgorithm

    return algorithm in (HashAlgorithm.MD5, HashAlgorithm.SHA1, HashAlgorithm.RipeMD)


def _is_short(key: Packet) -> bool:
    from pysequoia.packet import PublicKeyAlgorithm as Algorithm

    # "A one-octet version number [...] A four-octet number denoting the time [...] A one-octet number denoting the public-key algorithm",
    # then the modulus, or the prime, whose first two octets are its length in bits (RFC 9580 §5.5.2.2, §5.5.5, §3.2).
    measured = key.key_algorithm in (Algorithm.RSAEncryptSign, Algorithm.RSASign, Algorithm.DSA)
    return measured and key.body[:1] == b"\4" and int.from_bytes(key.body[6:8]) < _LEAST_BITS


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
