"""The words everything else is written in: digests, resources, listings, verdicts, stamps, bodies.

Values only. Nothing here reads a clock, a socket or a file; nothing here knows a registry. Read this file first,
then ``registries/__init__.py`` (what a registry's rules are) and ``service.py`` (how a node answers with them).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

type Clock = Callable[[], float]
"""Gives the time of day in UTC seconds. Durations and deadlines use trio's clock instead."""

type Headers = tuple[tuple[str, str], ...]
"""Header fields in order; names lower-case, values stripped."""

ALGORITHMS: Mapping[str, int] = {
    "sha256": 64,
    "sha512": 128,
    "sha384": 96,
    "sha224": 56,
    "blake2b-256": 64,
    "sha1": 40,
    "md5": 32,
}
"""Digest algorithms that may be checked, with the length of their lower-case hex."""

STRONG: frozenset[str] = frozenset({"sha256", "sha384", "sha512", "blake2b-256"})
"""Algorithms for which a match alone proves that the bytes are those published."""


class Digest(msgspec.Struct, frozen=True, gc=False, order=True):
    """A digest of some bytes. ``value`` is lower-case hex without a prefix.

    SHA-256 names blobs. Digests by other algorithms are checked when published and recorded as aliases.
    """

    algorithm: str
    value: str

    @classmethod
    def parse(cls, algorithm: str, value: str) -> Digest:
        """Check outside text; raises ``ValueError`` for an unknown algorithm or anything but hex of its length."""
        algorithm, value = algorithm.lower(), value.strip().lower()
        length = ALGORITHMS.get(algorithm)
        if length is None:
            raise ValueError(f"unknown digest algorithm {algorithm[:32]!r}")
        if len(value) != length or value.strip("0123456789abcdef"):
            raise ValueError(f"not a {algorithm} digest in hex: {value[:32]!r}")
        return cls(algorithm, value)

    def __str__(self) -> str:
        return f"{self.algorithm}-{self.value}"


# ---- resources: what a request can mean -----------------------------------------------------------------------------


class Page(msgspec.Struct, frozen=True, gc=False):
    """Something mutable, named by a key: a project page, a packument, a ``maven-metadata.xml``. Only pages have freshness.

    ``registry`` is the name of an instance (``"pypi"``, ``"pytorch"``), ``project`` the normalised project name,
    ``view`` what of it: ``""`` for the page that lists its files, else a name private to the registry's module.
    """

    registry: str
    project: str
    view: str = ""

    @property
    def key(self) -> str:
        return f"{self.registry}:{self.project}:{self.view}"


class File(msgspec.Struct, frozen=True, gc=False):
    """Something immutable, named by a digest once known, streamed untouched: a wheel, a tarball, a jar, a sidecar.

    ``version`` is as the registry's module reads it from the file name or path, ``""`` if it cannot tell. ``path`` is where the
    mirror face offers it, relative to the instance's path, in its one canonical spelling (``packages/ab/cd/…/six-1.0.tar.gz``).
    """

    registry: str
    project: str
    version: str
    filename: str
    path: str

    @property
    def key(self) -> str:
        """What the permanent binding to a digest is made under."""
        return f"{self.registry}:{self.project}:{self.version}:{self.filename}"

    @property
    def name(self) -> str:
        """What people know it by, for messages: of a file that may change, ``filename`` also tells which of its contents is meant."""
        return self.path.rpartition("/")[2] or self.filename


class Relay(msgspec.Struct, frozen=True, gc=False):
    """Neither page nor file: a search, a forwarded audit. Held briefly or not at all.

    ``method`` is ``GET`` or ``POST``; ``request`` is path and query relative to the upstream's root, as they will be sent; ``body`` is
    what goes along, decoded, empty for ``GET``.
    """

    registry: str
    method: str
    request: str
    body: bytes = b""


class Local(msgspec.Struct, frozen=True, gc=False):
    """A request answered here, without store or upstream: a redirect, a refusal, ``/-/ping``.

    ``location`` (for 3xx) is relative to the instance's path; ``message`` becomes reason phrase and problem detail.
    """

    status: int
    message: str = ""
    location: str = ""
    body: bytes = b""
    media_type: str = ""


type Resource = Page | File | Relay | Local


# ---- listings: what a page says -------------------------------------------------------------------------------------


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One file as its listing describes it.

    ``url`` is absolute, as upstream means it. ``size`` is in bytes. ``published`` is UTC seconds as upstream states it, never the
    time we fetched it. ``yanked`` is None if not yanked, else the reason, possibly empty. ``sidecar`` holds the digests of the
    file's metadata sidecar: None if none is advertised, empty if it is advertised without a digest. ``provenance`` is an
    absolute URL. ``extra`` is for the registry's module alone.
    """

    file: File
    url: str
    digests: tuple[Digest, ...] = ()
    size: int | None = None
    published: float | None = None
    yanked: str | None = None
    sidecar: tuple[Digest, ...] | None = None
    provenance: str | None = None
    extra: bytes = b""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a page says, parsed once: its entries by file name, its validators' subject, and the document as received.

    ``document`` is in the registry's one stored form (PyPI: JSON, whatever upstream sent). ``serial`` is upstream's own, if any.
    ``restrictions`` maps a version to the verdict that took it off the page, for messages; empty before ``Registry.restrict``.
    ``restricted_at`` is when policy last changed what is left of the page (whole UTC seconds, rounded up), 0 if it never did: where
    clients compare dates, none may be older than that. ``bare`` are the versions that the document tells of without a file that could be
    had: they have no entry, and are judged like the others.
    """

    page: Page
    entries: Mapping[str, Entry]
    document: bytes
    serial: int | None = None
    restrictions: Mapping[str, Verdict] = field(default_factory=dict)
    restricted_at: float = field(default=0.0, kw_only=True)
    bare: frozenset[str] = field(default=frozenset(), kw_only=True)


# ---- verdicts -------------------------------------------------------------------------------------------------------


class Allow(msgspec.Struct, frozen=True, gc=False, tag="allow"):
    """Nothing forbids the release."""


class Hold(msgspec.Struct, frozen=True, gc=False, tag="hold"):
    """Not yet: the release may be served from ``until`` (UTC seconds) on, if nothing else forbids it."""

    until: float
    reason: str
    rule: str


class Refuse(msgspec.Struct, frozen=True, gc=False, tag="refuse"):
    """Not to be served. ``reason`` is the operator's sentence, shown to people; ``rule`` is the rule's name."""

    reason: str
    rule: str


type Verdict = Allow | Hold | Refuse

ALLOW = Allow()


# ---- freshness ------------------------------------------------------------------------------------------------------


class Stamp(msgspec.Struct, frozen=True, gc=False):
    """How long a page may be used: given once, by the node that asked the registry; lower tiers obey, never extend.

    Both times are UTC seconds. ``revision`` grows with each change of the page's content.
    """

    fresh_until: float
    stale_until: float
    revision: int = 0


class Change(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One line of the ledger, which is the feed. ``resource`` is a page's or file's key, or ``"verdicts"``; ``at`` is when we first saw it.

    Of a file (``kind`` ``"file"``): ``digest``, ``size`` in bytes, ``purl`` of its release, ``path`` and ``filename`` as in ``File``,
    ``published`` as upstream states it, ``source`` where it came from, ``verdict`` what policy said of it then. Of a page: ``digest`` of
    its
    document and ``status``. Kind ``"verdicts"`` says that policy changed, to ``revision``; ``"popular"`` that a file of that key is wanted
    by many.
    """

    serial: int
    resource: str
    digest: Digest | None = None
    verdict: Verdict | None = None
    kind: Literal["page", "file", "verdicts", "popular"] = "page"
    at: float = 0.0
    registry: str = ""
    project: str = ""
    version: str = ""
    view: str = ""
    filename: str = ""
    path: str = ""
    size: int = 0
    purl: str = ""
    published: float | None = None
    source: str = ""
    status: int = 0
    revision: int = 0


# ---- bodies ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Span:
    """Bytes ``[start, stop)`` of an open file. Whoever holds the Span closes it, once.

    ``validity``, if there is one, turns invalid once no further byte may leave, even of what is half sent.
    """

    fd: int
    start: int
    stop: int
    validity: Validity | None = None

    def __len__(self) -> int:
        return self.stop - self.start

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class Arrival(Protocol):
    """Bytes that are still being written, as one follower sees them (``flights.Flight`` hands these out)."""

    @property
    def releasable(self) -> int:
        """How many bytes, from offset 0, may be sent to clients now."""
        ...

    def fileno(self) -> int:
        """A descriptor of the follower's own: readable by ``pread`` and ``sendfile`` below ``releasable``."""
        ...

    async def wait_beyond(self, offset: int) -> int:
        """Wait until ``releasable > offset``, or until all of it arrived, and return ``releasable``: 0 for a body without bytes.

        Raises the flight's error if it failed: the body must then end short.
        """
        ...

    def estimate_s(self) -> float | None:
        """Seconds until everything has arrived, at its present rate; None if nothing tells."""
        ...

    def close(self) -> None:
        """Leave the flight. Idempotent."""
        ...


@dataclass(slots=True)
class Arriving:
    """Bytes ``[start, stop)`` of something still being written. Its total size is known, so ``Content-Length`` is too.

    If none of them may leave by ``hold_until`` (trio's clock), the client is told to come back later instead of being kept waiting.
    ``validity`` is as in ``Span``.
    """

    flight: Arrival
    start: int
    stop: int
    hold_until: float = math.inf
    validity: Validity | None = None

    def __len__(self) -> int:
        return self.stop - self.start

    def close(self) -> None:
        self.flight.close()


type Body = bytes | Span | Arriving

type Face = Literal["mirror", "proxy", "sibling", "replication", "control"]
"""Who may ask: the key of a rendered answer begins with it."""


class Validity:
    """Whether what was rendered from a held page may still be sent; shared by all its renderings, checked at every hit.

    The service turns ``valid`` off, for good, when the page or the policy changes, and moves ``fresh_until`` (UTC seconds) when
    upstream confirms the page. One attribute look-up each: this is read on the hot path.
    """

    __slots__ = ("fresh_until", "valid")

    def __init__(self, fresh_until: float) -> None:
        self.valid = True
        self.fresh_until = fresh_until

    def holds(self, now: float) -> bool:
        return self.valid and now < self.fresh_until
