"""Secrets by which nodes recognise each other: what an edge shows its origin, and what siblings show each other.

An origin keeps of every secret its SHA-256 alone. Secrets are 256 random bits, so no slow hash is needed, and a look-up by digest tells
a guesser nothing by the time it takes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable

from .catalog import Member

SECRET_BYTES = 32

SIBLING_S = 90.0
"""How far from now the time in a sibling's token may be: how long one is good that was overheard, and how much clocks may differ."""

EDGE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")
"""What an edge may be called: it stands in tables, logs and tokens."""

_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/=-]{1,512})", re.IGNORECASE)
_SIBLING = "lws1"


def new_secret() -> str:
    """What an edge authenticates with from now on: text that can stand in a header field."""
    return secrets.token_urlsafe(SECRET_BYTES)


def new_invitation() -> bytes:
    """The one-time secret of an invitation."""
    return secrets.token_bytes(SECRET_BYTES)


def digest_of(secret: str | bytes) -> str:
    """What is kept of a secret: its SHA-256, in hex."""
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).hexdigest()


def read_secret(text: str) -> bytes:
    """An invitation's secret from base64 of either alphabet, padded or not. Raises ``ValueError``."""
    plain = text.strip().rstrip("=").replace("-", "+").replace("_", "/")
    try:
        octets = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError:
        octets = b""
    if len(octets) < 16:
        raise ValueError("the invitation's secret is not base64, or a part of it is missing")
    return octets


def bearer(authorization: str | None) -> str:
    """The token in an ``Authorization`` value, ``""`` without one. Source: RFC 6750 §2.1."""
    found = _BEARER.fullmatch((authorization or "").strip())
    return found[1] if found else ""


class Keyring:
    """Which edge a secret belongs to. In memory: ``learn`` is told of all members whenever they change."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Keyring of {len(self._names)} edges>"

    def learn(self, members: Iterable[Member]) -> None:
        """These are the edges from now on, and no others."""
        self._names = {member.secret: member.name for member in members}

    def edge(self, authorization: str | None) -> str | None:
        """The edge that sent this ``Authorization`` value; None if it is none of ours. One hash, whatever was sent."""
        return self._names.get(digest_of(bearer(authorization)))


# ---- siblings -------------------------------------------------------------------------------------------------------


def sibling_token(fleet: bytes, edge: str, now: float) -> str:
    """What an edge shows a sibling at ``now`` (UTC seconds): its name and the time, signed with the fleet's key."""
    said = f"{_SIBLING}.{int(now)}.{edge}"
    return f"{said}.{_signed(fleet, said)}"


def sibling(fleet: bytes, authorization: str | None, now: float) -> str | None:
    """The edge that made the token in this ``Authorization`` value; None if it was not made with ``fleet``, or not lately."""
    said, _, signature = bearer(authorization).rpartition(".")
    if not hmac.compare_digest(signature, _signed(fleet, said)):
        return None
    version, at, edge = said.split(".", 2)  # as it was signed
    if version != _SIBLING or not at.isdecimal() or abs(now - int(at)) > SIBLING_S:
        return None
    return edge


def key_name(fleet: bytes) -> str:
    """By what the keys of a fleet are told apart. It gives nothing of the key away."""
    return _signed(fleet, f"{_SIBLING} name")[:16]


def proof(fleet: bytes, text: str) -> str:
    """The proof of ``wire.proven_text``, by whoever has the fleet's key."""
    return _signed(fleet, text)


def _signed(fleet: bytes, said: str) -> str:
    return hmac.new(fleet, said.encode(), hashlib.sha256).hexdigest()
