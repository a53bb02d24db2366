"""The stages themselves, and ``synchronize``, which walks them inside a flight."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import trio

from ..blobs import BlobStore, Spool
from ..catalog import Binding, Catalog
from ..errors import Corrupt, NotFound, Rebound, Refused, Unavailable
from ..flights import Flight
from ..model import Allow, Clock, Digest, Entry, File, Refuse, Span, Verdict
from ..policy.purls import purl_of
from ..registries import Registry
from ..registries.wheels import check_archive, extract_metadata
from ..sources import FileHead, Source
from .release import Release, choose, releasable
from .stages import Assembled, Decided, Initialized, Parsed, Retrieved, Scanned, Stored

log = logging.getLogger("leeward.synchronize")

RESUMES = 2
"""How often a broken transfer is taken up again where it broke."""

BUFFER_BYTES = 2 * 1024 * 1024
"""How much may wait between the network and the spool; then upstream is not read until the spool caught up."""

METADATA_LIMIT_BYTES = 10 * 1024 * 1024
"""Larger METADATA is not offered as a sidecar."""


@dataclass(frozen=True, slots=True)
class Workbench:
    """What synchronizing needs. ``judge`` is asked of the file and what is known of its digests, whenever more is; ``event(kind, subject,
    detail)`` tells operators;
    ``make_room(size)`` evicts what has to go before ``size`` bytes are spooled; ``evidence(files)`` reads small files whole, by file
    name, and leaves out what there is not; ``signature(file)`` reads one, None if there is none.
    """

    sources: Sequence[Source]
    blobs: BlobStore
    catalog: Catalog
    judge: Callable[[File, Sequence[Digest]], Verdict]
    event: Callable[[str, str, str], Awaitable[None]]
    make_room: Callable[[int], Awaitable[object]]
    evidence: Callable[[Sequence[File]], Awaitable[Mapping[str, bytes]]]
    signature: Callable[[File], Awaitable[bytes | None]]
    clock: Clock
    threads: trio.CapacityLimiter


async def synchronize(flight: Flight[Stored], bench: Workbench, registry: Registry, file: File, entry: Entry) -> Stored:
    """Bring one file in. Runs as a flight's job: readers follow ``flight`` meanwhile.

    Raises ``Refused``, ``NotFound``, ``Unavailable`` or ``Corrupt``; then nothing was stored and no client got a usable file.
    """
    spools: list[Spool] = []
    try:
        initialized = await initialize(bench, registry, file, entry)
        retrieved = await retrieve(flight, bench, initialized, spools)
        assembled = await assemble(bench, retrieved)
        await check_signature(bench, assembled)
        flight.identified(assembled.digests)
        # They may be bytes that were recalled under another name.
        _require(bench.judge(file, assembled.digests))
        if assembled.proven:
            # These are the very bytes that were published: nothing that scanning finds would hold them back any longer.
            flight.advance(retrieved.spool.written, retrieved.spool.written)
        scanned = await scan(bench, assembled)
        parsed = await parse(bench, scanned)
        decided = decide(bench, parsed)
        flight.advance(retrieved.spool.written, retrieved.spool.written)
        return await store(bench, decided)
    finally:
        # A cancelled or failed flight must not leave its temporary behind. Discarding an adopted spool is a no-op; the
        # shield is bounded by one unlink.
        with trio.CancelScope(shield=True):
            for spool in spools:
                await spool.discard()


async def initialize(bench: Workbench, registry: Registry, file: File, entry: Entry) -> Initialized:
    """Check that it may be fetched at all: by the rules, and by the signature on what its listing says of it."""
    _require(bench.judge(file, entry.digests))
    await _require_signed(bench, file, registry.check(file, entry, "", None))
    return Initialized(registry, file, entry)


async def _require_signed(bench: Workbench, file: File, wrong: str) -> None:
    if wrong:
        await bench.event("bad-signature", file.key, wrong)
        raise Refused(Refuse(f"{file.name}: {wrong}", "signature"))


async def check_signature(bench: Workbench, assembled: Assembled) -> None:
    """Check the bytes against their detached signature, if the registry asks for one. Nothing held back is released before that."""
    initialized, spool = assembled.retrieved.initialized, assembled.retrieved.spool
    registry, file = initialized.registry, initialized.file
    signature = registry.signature(file)
    if signature is None:
        return
    held = await bench.signature(signature)
    wrong = await trio.to_thread.run_sync(
        registry.check, file, initialized.entry, f"/proc/self/fd/{spool.fileno()}", held, limiter=bench.threads
    )
    await _require_signed(bench, file, wrong)


class _Evidence:
    """What is published of a file apart from any listing, read while its bytes begin to come."""

    def __init__(self, bench: Workbench, initialized: Initialized) -> None:
        self._bench = bench
        self._initialized = initialized
        self._wanted = initialized.registry.evidence(initialized.file)
        self._came = trio.Event()
        self._digests: tuple[Digest, ...] = ()
        self._failure: Unavailable | Corrupt | None = None
        if not self._wanted:
            self._came.set()

    async def read(self) -> None:
        """Read it, keeping what goes wrong for whoever waits."""
        registry, file = self._initialized.registry, self._initialized.file
        try:
            self._digests = registry.vouched(file, await self._bench.evidence(self._wanted))
        except (Unavailable, Corrupt) as error:
            self._failure = error
        except ValueError as error:
            await self._bench.event("bad-evidence", file.key, str(error))
            self._failure = Corrupt(f"what upstream publishes of {file.name} cannot be read: {error}")
        self._came.set()

    async def wait(self) -> tuple[Digest, ...]:
        await self._came.wait()
        if self._failure is not None:
            raise self._failure
        return self._digests


async def retrieve(flight: Flight[Stored], bench: Workbench, initialized: Initialized, spools: list[Spool]) -> Retrieved:
    """Fetch the bytes into a spool, from the first source that has them, resuming a broken transfer where it broke.

    Only a source that cannot answer leads to the next. A resumed body may come from another source: the digest over the whole covers
    mixing, which is why a file without a proven digest is resumed only where it began, under the validator it began with.
    """
    evidence = _Evidence(bench, initialized)
    failure: Exception
    async with trio.open_nursery() as nursery:
        nursery.start_soon(evidence.read)
        try:
            return await _retrieve(flight, bench, initialized, spools, evidence)
        except (Unavailable, NotFound, Corrupt, Refused) as error:
            failure = error
        finally:
            nursery.cancel_scope.cancel()
    raise failure


@dataclass(slots=True)
class _Course:
    """What of a transfer lasts over its attempts. ``source`` is where it began: its validator means something there alone."""

    entry: Entry
    transfer: _Transfer | None = None
    source: Source | None = None


async def _retrieve(
    flight: Flight[Stored], bench: Workbench, initialized: Initialized, spools: list[Spool], evidence: _Evidence
) -> Retrieved:
    course = _Course(initialized.entry)
    failure = Unavailable("no source is configured")
    for source in bench.sources:
        try:
            return await _retrieve_from(source, flight, bench, initialized, spools, evidence, course)
        except Unavailable as error:
            if course.transfer is not None and not _proven(initialized.registry, course.entry.digests):
                raise
            failure = error
    raise failure


async def _retrieve_from(
    source: Source,
    flight: Flight[Stored],
    bench: Workbench,
    initialized: Initialized,
    spools: list[Spool],
    evidence: _Evidence,
    course: _Course,
) -> Retrieved:
    registry, file, entry, transfer = initialized.registry, initialized.file, course.entry, course.transfer
    for attempt in range(RESUMES + 1):
        start = transfer.spool.written if transfer else 0
        validator = transfer.head.validator if transfer and course.source is source else None
        try:
            async with source.file(file, entry, start, validator) as stream:
                flight.is_there = True
                if transfer is None:
                    size = _agreed_size(file, entry, stream.head)
                    entry = msgspec.structs.replace(entry, digests=(*entry.digests, *await evidence.wait()))
                    told = (*entry.digests, *stream.head.digests)
                    flight.identified(told)
                    _require(bench.judge(file, told))
                    algorithms = sorted({registry.identity, *(d.algorithm for d in told)} - {"sha256"})
                    await _make_room(bench, size or 0)
                    spool = await bench.blobs.spool(algorithms, size)
                    spools.append(spool)
                    flight.trail = stream.head.trail
                    flight.began(spool.fileno(), size, told, stream.head.last_modified)
                    release = choose(entry, size, streams=registry.strict(file), proofs=registry.proofs)
                    transfer = _Transfer(flight, spool, stream.head, size, release)
                    course.entry, course.transfer, course.source = entry, transfer, source
                elif transfer.size is not None and stream.head.size not in (None, transfer.size):
                    raise Corrupt(f"{file.name} changed its size while it was fetched", transfer.size, stream.head.size)
                elif not _proven(registry, entry.digests) and stream.head.validator != transfer.head.validator:
                    # No digest would tell a mixture of two files from either of them.
                    raise Corrupt(f"{file.name} changed while it was fetched", transfer.head.validator, stream.head.validator)
                await transfer.pump(stream.chunks, skip=transfer.spool.written - stream.head.start)
                break
        except Unavailable:
            resumable = transfer is not None and (transfer.head.validator is not None or _proven(registry, entry.digests))
            if not resumable or attempt == RESUMES:
                raise
            log.info("transfer broke, resuming", extra={"file": file.filename, "at": start})
    assert transfer is not None
    if transfer.size is not None and transfer.spool.written != transfer.size:
        raise Corrupt(f"{file.name} ended after {transfer.spool.written} bytes", transfer.size, transfer.spool.written)
    if transfer.size is None:
        flight.resized(transfer.spool.written)
    return Retrieved(
        replace(initialized, entry=entry),
        transfer.spool,
        transfer.head.media_type,
        transfer.head.digests,
        transfer.head.last_modified,
        source.name,
    )


async def _make_room(bench: Workbench, size: int) -> None:
    """Evict for what comes. Where that fails the spool finds what room there is: a full disk costs nobody an install."""
    try:
        await bench.make_room(size)
    except Unavailable as error:
        log.warning("no room could be made: %s", error)


def _agreed_size(file: File, entry: Entry, head: FileHead) -> int | None:
    if entry.size is not None and head.size is not None and entry.size != head.size:
        raise Corrupt(f"{file.name} has another size than its listing says", entry.size, head.size)
    return head.size if head.size is not None else entry.size


class _Transfer:
    """Moves chunks from the network to the spool. The network is read on while a thread writes and hashes, up to a bound."""

    def __init__(self, flight: Flight[Stored], spool: Spool, head: FileHead, size: int | None, release: Release) -> None:
        self.flight = flight
        self.spool = spool
        self.head = head
        self.size = size
        self.release = release
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._ended = False
        self._failure: Unavailable | Corrupt | None = None
        self._moved = trio.lowlevel.ParkingLot()

    async def pump(self, chunks: AsyncIterator[bytes], skip: int) -> None:
        """Write ``chunks`` to the spool, leaving out the first ``skip`` bytes (a source that ignored the range sends them again).

        Raises what broke: the network's ``Unavailable`` or ``Corrupt``, or the spool's. What arrived before a break is kept.
        """
        self._ended = False
        self._failure = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, nursery.cancel_scope)
            try:
                async for chunk in chunks:
                    piece = chunk
                    if skip > 0:
                        piece, skip = chunk[skip:], max(0, skip - len(chunk))
                    if piece:
                        await self._put(piece)
            except (Unavailable, Corrupt) as error:
                self._failure = error
            self._ended = True
            self._moved.unpark_all()
        if self._failure is not None:
            raise self._failure

    async def _put(self, piece: bytes) -> None:
        while self._waiting_bytes >= BUFFER_BYTES:
            await self._moved.park()
        self._waiting.append(piece)
        self._waiting_bytes += len(piece)
        self._moved.unpark_all()

    async def _write(self, reading: trio.CancelScope) -> None:
        while True:
            if self._waiting:
                batch, self._waiting, self._waiting_bytes = b"".join(self._waiting), [], 0
                self._moved.unpark_all()
                try:
                    if self.size is not None and self.spool.written + len(batch) > self.size:
                        raise Corrupt("upstream sent more bytes than it announced", self.size)
                    await self.spool.write(batch)
                except (Unavailable, Corrupt) as error:
                    self._failure = error
                    reading.cancel()
                    return
                self.flight.advance(self.spool.written, releasable(self.release, self.spool.written, self.size))
            elif self._ended:
                return
            else:
                await self._moved.park()


def _proven(registry: Registry, digests: Sequence[Digest]) -> bool:
    return any(d.algorithm in registry.proofs for d in digests)


async def assemble(bench: Workbench, retrieved: Retrieved) -> Assembled:
    """Compare size and every published digest with what came. All must agree."""
    registry, file, entry = retrieved.initialized.registry, retrieved.initialized.file, retrieved.initialized.entry
    spool = retrieved.spool
    if entry.size is not None and entry.size != spool.written:
        raise Corrupt(f"{file.name} has another size than its listing says", entry.size, spool.written)
    expected = (*entry.digests, *retrieved.digests)
    for digest in expected:
        actual = spool.digest(digest.algorithm)
        if actual != digest:
            await bench.event("digest-mismatch", file.key, f"expected {digest}, upstream sent {actual}")
            raise Corrupt(f"{file.name}: upstream sent bytes with another {digest.algorithm} digest", digest, actual)
    aliases = tuple(sorted({d for d in (*expected, spool.digest(registry.identity)) if d.algorithm != "sha256"}))
    # Only what was published proves anything: a header sent along with the bytes would vouch for a login page just as well.
    return Assembled(retrieved, spool.digest("sha256"), aliases, _proven(registry, entry.digests))


async def scan(bench: Workbench, assembled: Assembled) -> Scanned:
    """Look through the archive. An odd one whose digest is proven is what its author published: noted, not refused."""
    spool, file = assembled.retrieved.spool, assembled.retrieved.initialized.file
    oddity = "" if assembled.proven else _check_kind(spool.fileno(), file.filename, assembled.retrieved.media_type)
    if not oddity:
        oddity = await trio.to_thread.run_sync(_check_archive, spool.fileno(), file.filename, limiter=bench.threads)
    if oddity:
        await bench.event("odd-archive", file.key, oddity)
        if not assembled.proven:
            raise Corrupt(f"{file.name} is not a sound archive: {oddity}")
    return Scanned(assembled, oddity)


def _check_kind(fd: int, filename: str, media_type: str) -> str:
    """Tell a captive portal's page, or anything else that is plainly not what its name says, from a file without a digest."""
    head = os.pread(fd, 64 * 1024, 0)
    if media_type.partition(";")[0].strip().lower() == "text/html" or head.lstrip()[:14].lower().startswith(
        (b"<!doctype html", b"<html")
    ):
        return "an HTML page"
    if filename.endswith(".metadata") and not re.search(rb"^Metadata-Version:", head, re.MULTILINE | re.IGNORECASE):
        return "not core metadata"
    if filename.endswith(".asc") and b"-----BEGIN PGP" not in head:
        return "not an OpenPGP signature"
    return ""


def _check_archive(fd: int, filename: str) -> str:
    # A descriptor opened anew has an offset of its own; ``dup`` would share it with the spool's writer and the followers.
    with Path(f"/proc/self/fd/{fd}").open("rb") as f:
        try:
            check_archive(f, filename)
        except ValueError as error:
            return str(error)
    return ""


async def parse(bench: Workbench, scanned: Scanned) -> Parsed:
    """Read the wheel's own METADATA; compare it with the published sidecar's digest, since both must be the same bytes (PEP 658)."""
    spool, initialized = scanned.assembled.retrieved.spool, scanned.assembled.retrieved.initialized
    file, entry = initialized.file, initialized.entry
    if scanned.oddity:
        return Parsed(scanned, None)
    metadata = await trio.to_thread.run_sync(_read_metadata, spool.fileno(), spool.written, file.filename, limiter=bench.threads)
    if metadata is not None and entry.sidecar:
        for digest in entry.sidecar:
            if digest.algorithm == "sha256" and _sha256(metadata) != digest:
                await bench.event("metadata-mismatch", file.key, f"the wheel's METADATA is not the published sidecar {digest}")
    return Parsed(scanned, metadata)


def _read_metadata(fd: int, size: int, filename: str) -> bytes | None:
    try:
        found = extract_metadata(lambda start, length: os.pread(fd, length, start), size, filename)
    except ValueError as error:
        log.info("no metadata could be read", extra={"file": filename, "why": str(error)})
        return None
    return found if found is not None and len(found) <= METADATA_LIMIT_BYTES else None


def _sha256(data: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(data).hexdigest())


def decide(bench: Workbench, parsed: Parsed) -> Decided:
    """Judge again: the rules may have changed while the bytes came."""
    assembled = parsed.scanned.assembled
    verdict = bench.judge(assembled.retrieved.initialized.file, assembled.digests)
    _require(verdict)
    return Decided(parsed, verdict)


def _require(verdict: Verdict) -> None:
    if not isinstance(verdict, Allow):
        raise Refused(verdict)


async def store(bench: Workbench, decided: Decided) -> Stored:
    """Adopt the spool and bind the name. Clients have the bytes already; a store without room costs them nothing."""
    parsed = decided.parsed
    assembled = parsed.scanned.assembled
    retrieved = assembled.retrieved
    registry, file = retrieved.initialized.registry, retrieved.initialized.file
    binding = Binding(
        file,
        assembled.digest,
        retrieved.spool.written,
        bench.clock(),
        assembled.aliases,
        retrieved.media_type,
        retrieved.last_modified,
        purl=purl_of(registry.kind, file.project, file.version),
        published=retrieved.initialized.entry.published,
        source=retrieved.source,
    )
    if not retrieved.spool.durable:
        return Stored(binding, kept=False)
    try:
        await bench.blobs.adopt(retrieved.spool, assembled.digest)
        await bench.catalog.bind(binding)
    except Unavailable as error:
        await bench.event("not-stored", file.key, str(error))
        return Stored(binding, kept=False)
    except Rebound as error:
        await bench.event("rebound", file.key, str(error))
        # The same bytes may be another name's, rightly.
        if await bench.catalog.held(assembled.digest) is None:
            await bench.blobs.quarantine(assembled.digest)
        raise
    sidecar = None
    if parsed.metadata is not None and retrieved.initialized.entry.sidecar is None:
        sidecar = await _store_sidecar(bench, binding, parsed.metadata)
    return Stored(binding, kept=True, sidecar=sidecar)


async def sidecar_of(bench: Workbench, wheel: Binding, held: Span) -> Binding | None:
    """Make the metadata sidecar of a held wheel again. None if the wheel has none to read, or there is no room."""
    metadata = await trio.to_thread.run_sync(_read_metadata, held.fd, wheel.size, wheel.file.filename, limiter=bench.threads)
    return await _store_sidecar(bench, wheel, metadata) if metadata is not None else None


async def _store_sidecar(bench: Workbench, wheel: Binding, metadata: bytes) -> Binding | None:
    """Offer METADATA beside a wheel whose upstream does not: resolvers then need not fetch the wheel."""
    file, digest = wheel.file, _sha256(metadata)
    binding = Binding(
        File(file.registry, file.project, file.version, file.filename + ".metadata", file.path + ".metadata"),
        digest,
        len(metadata),
        bench.clock(),
        (),
        "application/octet-stream",
        purl=wheel.purl,
        published=wheel.published,
        source=wheel.source,
    )
    try:
        spool = await bench.blobs.spool((), len(metadata))
        try:
            await spool.write(metadata)
            if not spool.durable:
                return None
            await bench.blobs.adopt(spool, digest)
        finally:
            await spool.discard()
        await bench.catalog.bind(binding)
    except (Unavailable, Corrupt) as error:
        log.warning("no metadata sidecar made", extra={"file": file.filename, "why": str(error)})
        return None
    return binding
