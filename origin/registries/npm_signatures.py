"""What an npm registry signs of a version: name, version and integrity, so that a tarball cannot be exchanged together with its digest.

The keys are the operator's, in the registry's own key document (``{"keys": [...]}``). Keys that come over the same connection as the
document they vouch for prove nothing, so none are fetched to check by.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

ALGORITHM = "ecdsa-sha2-nistp256"
"""The one key type and scheme there is: ECDSA over P-256 with SHA-256."""

UNKNOWN_TIME = datetime(2015, 1, 1, tzinfo=UTC).timestamp()
"""When a version without a publication time counts as published, as npm has it: before any key."""


class _Key(msgspec.Struct, gc=False):
    keyid: str
    keytype: str
    scheme: str
    key: str
    expires: str | None = None


class _Keys(msgspec.Struct, gc=False):
    keys: list[_Key]


class _Signature(msgspec.Struct, gc=False):
    keyid: str
    sig: str


class _Signed(msgspec.Struct, gc=False):
    integrity: Any = None
    signatures: list[_Signature] | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """A public key. ``expires`` is in UTC seconds: it vouches for what was published before; None if it never ends."""

    public: EllipticCurvePublicKey
    expires: float | None


def read_keys(document: bytes) -> Mapping[str, Key]:
    """The usable keys of a key document by their id. Raises ``ValueError`` with a sentence if it is none, or holds none of them."""
    try:
        published = msgspec.json.decode(document, type=_Keys).keys
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f'the signing keys are no key document ({{"keys": [...]}}): {error}') from None
    usable = [key for key in published if key.keytype == ALGORITHM and key.scheme == ALGORITHM]
    if not usable:
        raise ValueError(f"there is no signing key of the type and scheme {ALGORITHM}")
    return {key.keyid: _read_key(key) for key in usable}


def _read_key(key: _Key) -> Key:
    # Here, not above: whoever checks no signatures does without the library.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        public = load_der_public_key(base64.b64decode(key.key, validate=True))
        expires = None if key.expires is None else _time(key.expires)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"the signing key {key.keyid[:80]!r} cannot be used: {error}") from None
    if not isinstance(public, EllipticCurvePublicKey) or not isinstance(public.curve, SECP256R1):
        raise ValueError(f"the signing key {key.keyid[:80]!r} is not on the curve P-256")  # noqa: TRY004 - text from outside
    return Key(public, expires)


def _time(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def fault(keys: Mapping[str, Key], name: str, version: str, dist: bytes, published: float | None, *, required: bool) -> str:
    """Say what is wrong with the signatures in ``dist`` (JSON), ``""`` if nothing is. ``published`` is in UTC seconds.

    Every signature must hold. Having none is a fault only where they are ``required``.
    """
    what = f"{name}@{version}"
    try:
        signed = msgspec.json.decode(dist or b"{}", type=_Signed)
    except msgspec.DecodeError:
        return f"the signatures of {what} cannot be read"
    if not signed.signatures:
        return f"{what} has no registry signature, and one is required" if required else ""
    if not isinstance(signed.integrity, str):
        return f"{what} is signed but tells no integrity that could have been"
    # "integrity exactly as published": several digests, or another encoding of one, would be another text.
    payload = f"{what}:{signed.integrity}".encode()
    for signature in signed.signatures:
        key = keys.get(signature.keyid)
        if key is None:
            return f"{what} is signed with the key {signature.keyid[:80]!r}, which is none of those configured"
        if key.expires is not None and (UNKNOWN_TIME if published is None else published) >= key.expires:
            return f"{what} was published after the key {signature.keyid[:80]!r} expired that signed it"
        if not _holds(key, signature.sig, payload):
            return f"the registry's signature of {what} does not hold for its integrity"
    return ""


def _holds(key: Key, signature: str, payload: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        key.public.verify(base64.b64decode(signature, validate=True), payload, ECDSA(SHA256()))
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True
