"""How an edge comes to belong to an origin, and what it keeps of that: ``origin.json`` in its data directory, for its owner alone.

An invitation (``origin invite``) names the origin's key by its pin and is good once. What it buys is an identity: a name, a secret to
authenticate with, and the keys by which the origin's ledger and the fleet's other edges are known.
"""

from __future__ import annotations

import base64
import time
from pathlib import Path

import msgspec

from origin.api import wire
from origin.app import release
from origin.datadir import place
from origin.errors import Corrupt, Unavailable, Unusable
from origin.metrics import Metrics
from origin.sources.link import Link

from .following.central import Channel

FILE = "origin.json"

TIMEOUT_S = 15.0
CONNECT_S = 5.0
LIMIT_BYTES = 1 << 20


class NotEnrolled(Unusable):
    """The settings name an origin that this edge does not belong to."""


class FormerKey(msgspec.Struct, frozen=True):
    """A key that the fleet had, base64, until then (UTC seconds), as far as is known here."""

    key: str
    until: float

    def __repr__(self) -> str:
        return f"<FormerKey until {self.until:.0f}>"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What an edge is to its origin.

    ``pin`` is the SHA-256 of the origin's SubjectPublicKeyInfo, in hex; ``deployment`` its id in ``CDN-Loop``; ``key`` the Ed25519 public
    key of its ledger, base64. ``secret`` and ``fleet`` (base64) are secrets, and so are the keys in ``fleet_former``, those that the fleet
    had lately, the newest last.
    """

    url: str
    pin: str
    edge: str
    secret: str
    deployment: str
    key: str
    fleet: str
    fleet_former: tuple[FormerKey, ...] = ()

    def __repr__(self) -> str:
        return f"<Identity {self.edge} of {self.url}>"

    @property
    def pinned(self) -> bytes:
        return bytes.fromhex(self.pin)

    @property
    def fleet_key(self) -> bytes:
        return base64.b64decode(self.fleet)


def read_identity(data: Path) -> Identity | None:
    """The identity kept in a data directory, None if there is none. Raises ``Unusable``."""
    path = data / FILE
    again = "have the origin `origin invite` this edge, and `edge enrol` it again"
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unusable(f"The identity {path} cannot be read ({error.strerror}): correct its owner, or {again}.") from error
    try:
        identity = msgspec.json.decode(text, type=Identity)
        if len(identity.pinned) != 32 or len(base64.b64decode(identity.key, validate=True)) != 32 or not identity.fleet_key:
            raise ValueError("a key of another length")
    except ValueError:
        raise Unusable(f"The identity {path} is damaged: {again}.") from None
    return identity


def require_identity(data: Path, url: str) -> Identity:
    """The identity of the edge in ``data``, which is to follow the origin at ``url``: by what name it is found may change, its key tells
    whether it is the one. Raises ``NotEnrolled`` or ``Unusable``.
    """
    identity = read_identity(data)
    if identity is None:
        raise NotEnrolled(
            f"This edge is not enrolled with the origin {url}: run `origin invite NAME` there, then `edge enrol {url} TOKEN` here."
        )
    return msgspec.structs.replace(identity, url=url)


def write_identity(data: Path, identity: Identity) -> None:
    """Keep an identity, in place of what was kept. Raises ``OSError``."""
    _make(data)
    place(data / FILE, msgspec.json.format(msgspec.json.encode(identity)) + b"\n", 0o600)


def _make(data: Path) -> None:
    """Have the directory, before an invitation is used up for it."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)


async def enrol(url: str, token: str, data: Path) -> Identity:
    """Use an invitation up at the origin at ``url``, and keep what it gives in ``data``, in place of what was kept.

    Raises ``ValueError`` for what is no invitation, ``Unavailable`` if the origin cannot be asked, shows another key than the invitation
    names, or does not take it, and ``OSError``, with a sentence each.
    """
    pin, secret = wire.read_token(token)
    _make(data)
    link = Link(
        url,
        pin,
        lambda: "",
        clock=time.time,
        metrics=Metrics(),
        user_agent=f"leeward/{release()}",
        deployment_id="enrolment",
        connect_s=CONNECT_S,
    )
    try:
        identity = await ask_enrolment(link, url, pin, secret)
    finally:
        await link.aclose()
    write_identity(data, identity)
    return identity


async def ask_enrolment(channel: Channel, url: str, pin: bytes, secret: bytes) -> Identity:
    """What an invitation's secret buys. Raises ``Unavailable``."""
    asked = wire.Enrolment(secret=base64.b64encode(secret).decode(), release=release())
    fields = (("Content-Type", "application/json"),)
    try:
        reply = await channel.request(
            "POST", f"{wire.ROOT}enrol", msgspec.json.encode(asked), fields, timeout_s=TIMEOUT_S, limit_bytes=LIMIT_BYTES
        )
    except Corrupt as error:
        raise Unavailable(f"{url} is no origin: {error}") from None
    if reply.status != 200:
        raise Unavailable(_told(reply.body) or f"{url} answered {reply.status}; it does not seem to be an origin")
    try:
        got = msgspec.json.decode(reply.body, type=wire.Enrolled)
    except ValueError as error:
        raise Unavailable(f"{url} is no origin: it sent {error}") from None
    return Identity(
        url=url,
        pin=pin.hex(),
        edge=got.edge,
        secret=got.secret,
        deployment=got.deployment,
        key=got.key,
        fleet=got.fleet,
    )


class _Problem(msgspec.Struct):
    detail: str = ""


def _told(body: bytes) -> str:
    """The sentence in a problem document, ``""`` if there is none. Source: RFC 9457 §3.1.4."""
    try:
        return msgspec.json.decode(body, type=_Problem).detail
    except ValueError:
        return ""
