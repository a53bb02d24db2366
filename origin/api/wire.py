"""What nodes say to each other, spelled once for both sides: paths, header fields, messages.

All paths are beneath ``/v1``; every request but ``enrol`` carries ``Authorization: Bearer <secret>``. Errors are the problem documents of
the
mirror face, with its statuses; a ``403`` that policy caused says which rule in the members ``rule`` and ``reason``, and ``until`` for a
hold.

| request | answer |
|---|---|
| ``POST enrol`` | ``Enrolment`` -> ``Enrolled`` |
| ``GET ping`` | 204: somebody is there |
| ``GET instances`` | ``Instances`` |
| ``GET pages/<registry>/<project>?view=`` | a framed page (``frame_page``), 304, or a clean 404/410; each with ``STAMP`` |
| ``GET, HEAD files/<registry>/<path>`` | the file's bytes, ranges too |
| ``GET existence/<registry>/<path>`` | ``Existence``: whether upstream still has the bytes of a file that no page lists |
| ``POST relays/<registry>`` | ``Relaying`` -> the answer's bytes, judged |
| ``GET, HEAD blobs/sha256/<hex>`` | a held blob's bytes, ranges too |
| ``GET changes?after=&verdicts=&wait=&limit=`` | ``Batch`` and lines (``frame_lines``); 410 for a cursor of another epoch or too old |
| ``GET snapshot?after=&limit=`` | ``Snapshot``: what is held, in pages of keys, with the cursor to follow from |
| ``GET verdicts`` | ``Verdicts``: rules and recalls in force |
| ``POST acknowledgements`` | ``Acknowledgement`` -> 204, or ``Acknowledged`` if the fleet's key is another one now |
| ``POST accesses`` | ``Accesses`` -> 204 |
| ``POST offers`` | ``Offers`` -> 204 |
| ``POST holdings`` | ``Comparison`` -> ``Compared``: one digest over the bindings that an edge wants, or those of one shard by name |
| ``GET edges`` | ``Edges`` |

Every answer to an authenticated request carries ``VERDICTS``, so that whoever talks to the origin learns of a recall, however far behind
it is.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from urllib.parse import quote

import msgspec

from ..model import Digest, File, Page, Verdict
from ..policy.purls import Patterns

VERSION = 1

ROOT = "/v1/"

STAMP = "leeward-stamp"
"""How long a page may be used from now on, fresh and stale, and how long ago its registry sent or confirmed it, in seconds:
``"540.0 2592540.0 60.0"``. Relative, since clocks differ.
"""

VERDICTS = "leeward-verdicts"
"""The revision of the verdicts in force at the origin."""

NONCE = "leeward-nonce"
PROOF = "leeward-proof"
"""What a sibling is asked to prove its answer with, and the proof: ``proven_text`` signed with the fleet's key. Siblings may be
reached over plain HTTP, and a page is believed as it comes: nobody else's may pass for it. Around a change of the key there is one proof
for each that is taken, with a space between them.
"""

PAGE_TYPE = "application/vnd.leeward.page"
LINES_TYPE = "application/vnd.leeward.lines"

GENESIS = bytes(32)
"""The hash before a ledger's first line."""

SHARDS = 256


# ---- addresses ------------------------------------------------------------------------------------------------------


def page_path(page: Page) -> str:
    """Where a page is asked for."""
    view = f"?view={quote(page.view, safe='')}" if page.view else ""
    return f"{ROOT}pages/{quote(page.registry, safe='')}/{quote(page.project, safe='')}{view}"


def file_path(file: File, what: str = "files") -> str:
    """Where a file is asked for by name; ``what`` is ``files`` or ``existence``."""
    return f"{ROOT}{what}/{quote(file.registry, safe='')}/{quote(file.path, safe='/@')}"


def blob_path(digest: Digest) -> str:
    """Where a blob is asked for."""
    return f"{ROOT}blobs/sha256/{digest.value}"


# ---- answers of siblings --------------------------------------------------------------------------------------------

_PROVEN = ("etag", "last-modified", "repr-digest", STAMP)


def proven_text(nonce: str, target: str, status: int, field: Callable[[str], str | None]) -> str:
    """What the proof of an answer is made over: the question and all that the answer is believed for; its bytes by their ``Repr-Digest``.

    A part of a file (206) is proven as the file. ``field`` gives a field's value by its lower-case name.
    """
    told = "".join(f"{name}: {field(name) or ''}\n" for name in _PROVEN)
    return f"leeward answer\n{nonce}\n{target}\n{200 if status == 206 else status}\n{told}"


# ---- enrolment ------------------------------------------------------------------------------------------------------

_TOKEN = "lw1."  # noqa: S105 -- a prefix


def token_text(pin: bytes, secret: bytes) -> str:
    """An invitation as it is printed: the SHA-256 of the origin's SubjectPublicKeyInfo, and the one-time secret."""
    assert len(pin) == 32
    return _TOKEN + base64.urlsafe_b64encode(pin + secret).decode().rstrip("=")


def read_token(text: str) -> tuple[bytes, bytes]:
    """The pin and the secret of an invitation. Raises ``ValueError`` with a sentence, which does not repeat it."""
    body = text.strip().removeprefix(_TOKEN)
    try:
        octets = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except ValueError:
        octets = b""
    if not text.strip().startswith(_TOKEN) or len(octets) < 48:
        raise ValueError("this is no invitation as `origin invite` prints one, or a part of it is missing")
    return octets[:32], octets[32:]


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """``secret`` is the invitation's, base64. ``version`` is the protocol's."""

    secret: str
    version: int = VERSION
    release: str = ""


class Enrolled(msgspec.Struct, frozen=True, kw_only=True):
    """What makes the edge one of the fleet. ``edge`` is its name, ``secret`` what it authenticates with from now on.

    ``deployment`` is the origin's id in ``CDN-Loop``; ``key`` the Ed25519 public key of its ledger, base64; ``fleet`` the key by which
    siblings recognise each other, base64.
    """

    edge: str
    secret: str
    deployment: str
    key: str
    fleet: str
    version: int = VERSION


class Instances(msgspec.Struct, frozen=True):
    """The origin's instances: name to kind."""

    kinds: dict[str, str]


# ---- pages and files ------------------------------------------------------------------------------------------------


class PageFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What goes before a page's document. The document is the stored form of what policy left of the listing (``Registry.reread`` reads
    it).

    ``url`` is where upstream had it; ``last_modified`` is upstream's field. ``restrictions`` and ``restricted_at`` are those of
    ``Listing``.
    """

    media_type: str
    url: str = ""
    serial: int | None = None
    last_modified: str | None = None
    restrictions: dict[str, Verdict] = {}
    restricted_at: float = 0.0


_facts = msgspec.json.Decoder(PageFacts)


def frame_page(facts: PageFacts, document: bytes) -> bytes:
    """A page's body: one line of facts, then the document."""
    return msgspec.json.encode(facts) + b"\n" + document


def read_page(body: bytes) -> tuple[PageFacts, bytes]:
    """Undo ``frame_page``. Raises ``ValueError``."""
    line, newline, document = body.partition(b"\n")
    if not newline:
        raise ValueError("a page without its facts")
    return _facts.decode(line), document


_PAGE_ETAG = '"leeward-'


def is_page_etag(etag: str | None) -> bool:
    """Whether an ETag is one of ``page_etag``, and so its page one that a node of ours sent."""
    return etag is not None and etag.startswith(_PAGE_ETAG)


def page_etag(facts: PageFacts, document: bytes) -> str:
    """A strong ETag of all that a page says, not of when it was asked for."""
    return f'{_PAGE_ETAG}{hashlib.sha256(frame_page(facts, document)).hexdigest()[:40]}"'


def stamp_text(fresh_s: float, stale_s: float, ago_s: float = 0.0) -> str:
    """The value of ``STAMP``."""
    return f"{fresh_s:.3f} {stale_s:.3f} {ago_s:.3f}"


def read_stamp(text: str) -> tuple[float, float, float]:
    """Seconds of freshness and of staleness left, and since it was confirmed. Raises ``ValueError``."""
    fresh, stale, ago = text.split(" ")
    return float(fresh), float(stale), float(ago)


class Existence(msgspec.Struct, frozen=True):
    """Whether upstream has the bytes."""

    exists: bool


class Relaying(msgspec.Struct, frozen=True):
    """A ``Relay`` without its registry; ``body`` is base64."""

    method: str
    request: str
    body: bytes = b""


# ---- verdicts -------------------------------------------------------------------------------------------------------


class Recall(msgspec.Struct, frozen=True, kw_only=True):
    """Something found bad after it was served. ``target`` is what the operator named; ``at`` is UTC seconds.

    ``purls`` are the releases it means, as in a rule's ``match``; ``digests`` the bytes (``sha256-<hex>``), whatever their name.
    """

    id: str
    target: str
    reason: str
    at: float
    purls: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()


class Verdicts(msgspec.Struct, frozen=True, kw_only=True):
    """The origin's policy: its ``[[rules]]`` as written, and what was recalled. ``revision`` grows by one with each change."""

    revision: int = 0
    rules: tuple[dict[str, object], ...] = ()
    recalls: tuple[Recall, ...] = ()


# ---- the feed -------------------------------------------------------------------------------------------------------


class Checkpoint(msgspec.Struct, frozen=True):
    """The ledger's head as the origin vouches for it: ``hash`` in hex, ``at`` UTC seconds, ``signature`` base64, by ``signed_text``."""

    epoch: str
    serial: int
    hash: str
    at: float
    signature: str = ""


def signed_text(checkpoint: Checkpoint) -> bytes:
    """What the signature of a checkpoint is made over."""
    return f"leeward checkpoint\n{checkpoint.epoch}\n{checkpoint.serial}\n{checkpoint.hash}\n{checkpoint.at!r}\n".encode()


def chained(previous: bytes, records: Iterable[bytes]) -> bytes:
    """The hash after ``records``, each hashed with the hash before it."""
    for record in records:
        previous = hashlib.sha256(previous + record).digest()
    return previous


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What goes before a batch of lines. ``cursor`` is where the next batch begins; ``checkpoint`` is of the last line that is sent.

    ``head`` is the ledger's last serial: what is beyond the batch is still to come.
    """

    cursor: str
    verdicts: int
    head: int
    checkpoint: Checkpoint


_batch = msgspec.json.Decoder(Batch)


def frame_lines(batch: Batch, records: Sequence[bytes]) -> bytes:
    """A batch's body: the batch and each record, verbatim, on lines of their own."""
    return b"\n".join((msgspec.json.encode(batch), *records)) + b"\n"


def read_lines(body: bytes) -> tuple[Batch, list[bytes]]:
    """Undo ``frame_lines``. Raises ``ValueError``."""
    first, *records = body.removesuffix(b"\n").split(b"\n")
    return _batch.decode(first), records


def cursor_text(epoch: str, serial: int) -> str:
    """A cursor: opaque to whoever follows, but for its order within an epoch."""
    return f"{epoch}.{serial}"


def read_cursor(text: str) -> tuple[str, int]:
    """Epoch and serial. Raises ``ValueError``."""
    epoch, dot, serial = text.rpartition(".")
    if not dot or not epoch or not (serial.isascii() and serial.isdigit()) or len(serial) > 18:
        raise ValueError(f"not a cursor: {text[:64]!r}")
    return epoch, int(serial)


class HeldFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file by name, with what it is bound to."""

    registry: str
    project: str
    version: str
    filename: str
    path: str
    digest: str
    size: int

    @property
    def file(self) -> File:
        return File(self.registry, self.project, self.version, self.filename, self.path)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A part of what is held. ``cursor`` is where to follow from once all parts are in: that of the first part is the one that counts.

    ``after`` asks for the next part, ``""`` when this is the last. ``total`` is how many there are in all, about.
    """

    cursor: str
    hash: str
    pages: tuple[Page, ...] = ()
    files: tuple[HeldFile, ...] = ()
    after: str = ""
    total: int = 0


class Acknowledgement(msgspec.Struct, frozen=True, kw_only=True):
    """What an edge has applied: it serves nothing any more that ``verdicts`` forbids. ``fleet`` names the fleet's key that it has, as
    ``tokens.key_name`` does. The rest is for whoever looks at the fleet.
    """

    cursor: str
    verdicts: int
    unresolved: int = 0
    oldest_unresolved_s: float = 0.0
    held_bytes: int = 0
    release: str = ""
    fleet: str = ""


class Acknowledged(msgspec.Struct, frozen=True, kw_only=True):
    """The fleet's key from now on, base64: an edge was dismissed that had the one before."""

    fleet: str


class EdgeAccess(msgspec.Struct, frozen=True, kw_only=True):
    """One delivered file as an edge's ledger has it. ``number`` grows, and tells repetitions."""

    number: int
    at: float
    file: str
    digest: str
    client: str
    token: str
    sent: int
    complete: bool


class Accesses(msgspec.Struct, frozen=True):
    """A batch of an edge's access ledger."""

    accesses: tuple[EdgeAccess, ...]


class Offers(msgspec.Struct, frozen=True):
    """Files that an edge took from a registry while it could not ask its origin."""

    files: tuple[HeldFile, ...]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Asks for one digest over all bindings whose release matches ``match`` (all, if empty) up to ``cursor``; with ``shard`` for its
    names.
    """

    match: tuple[str, ...] = ()
    shard: int | None = None


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """``total`` and ``shards`` are hex; ``files`` are those of the shard that was asked for."""

    cursor: str
    total: str = ""
    shards: tuple[str, ...] = ()
    files: tuple[HeldFile, ...] = ()


class EdgeState(msgspec.Struct, frozen=True, kw_only=True):
    """One edge as its origin sees it. ``live`` says that it was heard of within its lease."""

    name: str
    enrolled_at: float
    seen_at: float
    live: bool
    serial: int
    verdicts: int
    behind: int
    unresolved: int = 0
    held_bytes: int = 0
    address: str = ""
    release: str = ""


class Edges(msgspec.Struct, frozen=True):
    """The fleet."""

    edges: tuple[EdgeState, ...]


# ---- comparing holdings ---------------------------------------------------------------------------------------------


def shard_of(name: str) -> int:
    """Which shard a binding's name is in."""
    return hashlib.sha256(name.encode()).digest()[0]


def shard_digests(names: Mapping[str, str] | Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """One digest for each shard over (name, digest) pairs, in any order: the sum of their hashes, so that one more is one addition."""
    sums = [0] * SHARDS
    for name, digest in names.items() if isinstance(names, Mapping) else names:
        hashed = hashlib.sha256(f"{name}\0{digest}".encode()).digest()
        sums[shard_of(name)] = (sums[shard_of(name)] + int.from_bytes(hashed)) % (1 << 256)
    return tuple(f"{each:064x}" for each in sums)


def total_digest(shards: Sequence[str]) -> str:
    """One digest over all shards."""
    return hashlib.sha256("".join(shards).encode()).hexdigest()


def wanted_by(globs: Sequence[str]) -> Callable[[str], bool]:
    """What tells of a release's purl whether it is among those that ``globs`` name (all, if there are none). A file without a known release
    is wanted by ``*`` only.
    """
    return Patterns(globs or ("*",)).match
