"""The fake npm registry's keys, and what it signs with them: versions, and attestations of versions."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import urllib.parse
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SCHEME = "ecdsa-sha2-nistp256"

EXPIRED = "2020-01-01T00:00:00.000Z"
"""When the old key ended: what was published before is still rightly signed with it."""

PUBLISH = "https://attestation.test/specs/publish/v0.1"
PROVENANCE = "https://slsa.dev/provenance/v1"
IN_TOTO = "application/vnd.in-toto+json"
BUNDLE = "application/vnd.dev.sigstore.bundle+json;version=0.2"


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


@dataclass(frozen=True)
class Key:
    """A signing key. ``expires`` as the key document says it, None for never."""

    private: ec.EllipticCurvePrivateKey
    expires: str | None = None

    @classmethod
    def make(cls, expires: str | None = None) -> Key:
        return cls(ec.generate_private_key(ec.SECP256R1()), expires)

    @property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    @property
    def keyid(self) -> str:
        return f"SHA256:{b64(hashlib.sha256(self.public).digest()).rstrip('=')}"

    def sign(self, content: bytes) -> str:
        """Base64 of the DER signature."""
        return b64(self.private.sign(content, ec.ECDSA(hashes.SHA256())))

    def entry(self) -> dict[str, Any]:
        """Its entry in the key document."""
        return {"expires": self.expires, "keyid": self.keyid, "keytype": SCHEME, "scheme": SCHEME, "key": b64(self.public)}


class Ring:
    """The registry's two keys, one that nobody lists, and the authority's that certifies who built what."""

    def __init__(self) -> None:
        self.old = Key.make(EXPIRED)
        self.current = Key.make()
        self.unknown = Key.make()
        self.builder = Key.make()

    def document(self) -> dict[str, Any]:
        """What ``/-/npm/v1/keys`` says."""
        return {"keys": [self.old.entry(), self.current.entry()]}

    def key_at(self, time: str) -> Key:
        """The key in use at a publish time."""
        return self.old if time < EXPIRED else self.current

    def signatures(self, name: str, version: str, integrity: str, time: str, how: str) -> list[dict[str, str]]:
        """``dist.signatures``: ``good``, ``tampered`` (over something else), ``expired``, ``unknown`` (a key not listed), or ``none``."""
        payload = f"{name}@{version}:{integrity}".encode()
        if how == "none":
            return []
        if how == "tampered":
            payload += b"!"
        keys = {"good": self.key_at(time), "tampered": self.key_at(time), "expired": self.old, "unknown": self.unknown}
        return [{"keyid": keys[how].keyid, "sig": keys[how].sign(payload)}]

    def attestations(self, name: str, version: str, integrity: str, time: str, registry: str) -> dict[str, Any]:
        """What ``/-/npm/v1/attestations/…`` says: the registry's own, and the builder's provenance, each a DSSE envelope."""
        subject = [{"name": purl(name, version), "digest": {"sha512": base64.b64decode(integrity.partition("-")[2]).hex()}}]
        published = {"name": name, "version": version, "registry": registry}
        built = {
            "buildDefinition": {
                "buildType": "https://builder.test/workflow/v1",
                "externalParameters": {
                    "workflow": {
                        "ref": f"refs/tags/v{version}",
                        "repository": "https://code.test/someone/something",
                        "path": ".github/workflows/release.yml",
                    }
                },
            },
            "runDetails": {"builder": {"id": "https://builder.test/hosted"}},
        }
        key = self.key_at(time)
        at = str(int(dt.datetime.fromisoformat(time).timestamp()))
        return {
            "attestations": [
                {
                    "predicateType": PUBLISH,
                    "bundle": _bundle(key, key.keyid, {"publicKey": {"hint": key.keyid}}, at, subject, PUBLISH, published),
                },
                {
                    "predicateType": PROVENANCE,
                    "bundle": _bundle(self.builder, "", self._certified(), at, subject, PROVENANCE, built),
                },
            ]
        }

    def _certified(self) -> dict[str, Any]:
        name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "builder.test")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.builder.private.public_key())
            .serial_number(1)
            .not_valid_before(dt.datetime(2015, 1, 1, tzinfo=dt.UTC))
            .not_valid_after(dt.datetime(2045, 1, 1, tzinfo=dt.UTC))
            .sign(self.builder.private, hashes.SHA256())
        )
        return {
            "x509CertificateChain": {"certificates": [{"rawBytes": b64(certificate.public_bytes(serialization.Encoding.DER))}]}
        }


def purl(name: str, version: str) -> str:
    """``pkg:npm/%40scope/name@1.0.0``."""
    return f"pkg:npm/{urllib.parse.quote(name, safe='/')}@{version}"


def envelope_bytes(payload_type: str, payload: bytes) -> bytes:
    """What a DSSE signature is over: ``DSSEv1 SP LEN(type) SP type SP LEN(body) SP body``."""
    return b"DSSEv1 %d %s %d %s" % (len(payload_type), payload_type.encode(), len(payload), payload)


def _bundle(
    key: Key, keyid: str, material: dict[str, Any], at: str, subject: list[dict[str, Any]], kind: str, predicate: dict[str, Any]
) -> dict[str, Any]:
    statement = {"_type": "https://in-toto.io/Statement/v1", "subject": subject, "predicateType": kind, "predicate": predicate}
    payload = json.dumps(statement, separators=(",", ":")).encode()
    return {
        "mediaType": BUNDLE,
        "verificationMaterial": {**material, "tlogEntries": [{"logIndex": "1", "integratedTime": at}]},
        "dsseEnvelope": {
            "payload": b64(payload),
            "payloadType": IN_TOTO,
            "signatures": [{"sig": key.sign(envelope_bytes(IN_TOTO, payload)), "keyid": keyid}],
        },
    }
