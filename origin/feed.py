"""The ledger as a feed: batches for those who follow, what they check of them, and a walk over all of it.

The ledger is the catalogue's: a line is written in the transaction of the row it tells of. ``Ledger`` tells followers of lines that are
there, encodes and signs each batch once for all who wait for it, and vouches for how far the chain has come. ``checked`` is the other side:
what an edge makes sure of before it believes a batch. ``verify_ledger`` walks the whole chain.
"""

from __future__ import annotations

import base64
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import msgspec
import trio
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from .api.wire import (
    GENESIS,
    Batch,
    Checkpoint,
    chained,
    cursor_text,
    frame_lines,
    read_cursor,
    signed_text,
)
from .catalog import Catalog, Line
from .errors import Unavailable
from .model import Change, Clock

log = logging.getLogger("leeward.feed")

EPOCH = "epoch"
CHECKPOINT = "checkpoint"
"""Under what the catalogue remembers the ledger's epoch, and the last checkpoint as JSON."""

LINES = 1000
"""The most lines in a batch."""

CACHE_BYTES = 32 << 20
"""The most bytes of batches kept for others who ask for the same."""

CHECKPOINT_S = 10.0
"""How often a checkpoint of a ledger that grew is written down."""

GATHER_S = 0.02
GATHER_MOST_S = 2.0
GATHER_S_PER_WAITER = 0.0002
"""After one news the next waits a little, longer where many wait for it: waking each of them costs about a sixth of that."""

AGAIN_S = 1.0
"""How long after the catalogue failed it is asked again."""

PROBLEMS = 100
"""The most problems that a report names."""


class CursorGone(LookupError):
    """Nothing can be followed from this cursor: begin with a snapshot."""


class EpochChanged(CursorGone):
    """The ledger is another one now, restored from a copy."""


class BehindFloor(CursorGone):
    """The lines after the cursor are not kept."""


class Forked(ValueError):
    """What was sent is not the continuation of what was followed, or is not signed by whom we follow."""


class RolledBack(ValueError):
    """The ledger ends before what was followed of it."""


class Ledger:
    """The catalogue's ledger, as it is announced. Made by ``open``; ``run`` must run for news to be told.

    ``head`` is the serial of the last line that was announced, ``hash`` that line's; lines beyond it are there, but come with the next
    announcement, so that all who wait are given the same. ``verdicts`` is the revision of the policy in force. ``waiting`` is how many
    wait for news; whoever lets them wait elsewhere than in ``wait_beyond`` counts them in.
    """

    def __init__(
        self,
        catalog: Catalog,
        signer: Callable[[bytes], bytes],
        clock: Clock,
        epoch: str,
        head: tuple[int, bytes],
        floor: int,
        verdicts: int,
    ) -> None:
        self.epoch = epoch
        self.head, self.hash = head
        self.verdicts = verdicts
        self.waiting = 0
        self._catalog = catalog
        self._signer = signer
        self._clock = clock
        self._floor = floor
        self._news = trio.Event()
        self._moved = trio.Event()
        self._moves = 0
        self._written = -1
        # What was made since the last announcement, by serial and limit, and what is being made.
        self._made: dict[tuple[int, int], bytes] = {}
        self._making: dict[tuple[int, int], trio.Event] = {}
        self._made_bytes = 0

    @classmethod
    async def open(cls, catalog: Catalog, signer: Callable[[bytes], bytes], clock: Clock, *, verdicts: int = 0) -> Self:
        """Read where the ledger is, and be told of its lines from now on. ``signer`` makes the 64 bytes of an Ed25519 signature.

        ``verdicts`` is the revision in force at the start.
        """
        epoch = await catalog.recall(EPOCH)
        if epoch is None:
            epoch = new_epoch()
            await catalog.remember(EPOCH, epoch)
        head = await catalog.head()
        oldest = await catalog.lines(0, 1)
        ledger = cls(catalog, signer, clock, epoch, head, oldest[0].serial if oldest else head[0] + 1, verdicts)
        catalog.on_change = ledger.notify
        return ledger

    def __repr__(self) -> str:
        return f"<Ledger {self.cursor} verdicts {self.verdicts}, {self.waiting} waiting>"

    @property
    def cursor(self) -> str:
        """Where somebody who knows everything that was announced follows from."""
        return cursor_text(self.epoch, self.head)

    # ---- news

    def notify(self) -> None:
        """There may be new lines: ``run`` announces them, at once if there was no news a moment ago."""
        self._news.set()

    def set_verdicts(self, revision: int) -> None:
        """The policy in force is of this revision. Whoever waits is told at once."""
        if revision != self.verdicts:
            self.verdicts = revision
            self._wake()

    async def announce(self) -> None:
        """Announce the lines there are, now. Raises ``Unavailable``."""
        serial, last = await self._catalog.head()
        if serial > self.head:
            self.head, self.hash = serial, last
            self._wake()

    def _wake(self) -> None:
        self._forget_made()
        self.stir()

    def stir(self) -> None:
        """Wake all who wait, to look again: the news may be that somebody is to wait no longer."""
        self._moves += 1
        self._moved.set()
        self._moved = trio.Event()

    def _forget_made(self) -> None:
        self._made.clear()
        self._made_bytes = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Announce news as it comes, and write down a checkpoint once in a while. Never ends by itself."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._announce_all)
            nursery.start_soon(self._vouch)
            task_status.started()

    async def _announce_all(self) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            try:
                await self.announce()
            except Unavailable as error:
                log.warning("new lines cannot be announced yet: %s", error)
                self._news.set()
                await trio.sleep(AGAIN_S)
            await trio.sleep(min(GATHER_MOST_S, max(GATHER_S, self.waiting * GATHER_S_PER_WAITER)))

    async def _vouch(self) -> None:
        while True:
            try:
                await self.vouch()
            except Unavailable as error:
                log.warning("no checkpoint could be written: %s", error)
            await trio.sleep(CHECKPOINT_S)

    async def vouch(self) -> None:
        """Write down a checkpoint of what was announced, by which ``verify_ledger`` notices a chain that was cut or made anew."""
        if self.head != self._written:
            serial = self.head
            await self._catalog.remember(CHECKPOINT, msgspec.json.encode(self._checkpoint(serial, self.hash)).decode())
            self._written = serial

    async def wait_moved(self, moves: int) -> int:
        """Wait until lines were announced, the verdicts changed or ``stir`` was called more than ``moves`` times; how often that was."""
        while self._moves <= moves:
            await self._moved.wait()
        return self._moves

    # ---- batches

    async def wait_beyond(self, cursor: str, verdicts: int, timeout_s: float) -> None:
        """Wait until there are lines beyond ``cursor`` or the verdicts are not of this revision, ``timeout_s`` at most.

        Raises ``EpochChanged`` or ``BehindFloor``, and ``ValueError`` for what is no cursor of ours.
        """
        after = self._serial(cursor)
        await trio.lowlevel.checkpoint()
        self.waiting += 1
        try:
            with trio.move_on_after(max(0.0, timeout_s)):
                # Whoever was ahead of us followed a ledger that is no more, and must learn of it.
                while self.head == after and self.verdicts == verdicts:
                    await self._moved.wait()
        finally:
            self.waiting -= 1

    def made(self, after: int, limit: int) -> bytes | None:
        """What ``batch`` would give of the lines after this serial, if it was made for somebody already."""
        return self._made.get((after, max(1, min(limit, LINES))))

    async def batch(self, cursor: str, limit: int = LINES) -> bytes:
        """The lines beyond ``cursor``, ``limit`` or ``LINES`` at most, framed and vouched for: made once for all who ask for the same.

        There are none beyond the head. Of a cursor beyond it (one from before the data was rolled back behind our back) the answer is
        where the ledger ends, signed: the follower finds out. Raises as ``wait_beyond`` does, and ``Unavailable``.
        """
        after, limit = self._serial(cursor), max(1, min(limit, LINES))
        if after > self.head:
            # Perhaps lines are there that were not announced yet: a snapshot's cursor is where the catalogue ended when it was read.
            await self.announce()
        while (after, limit) not in self._made:
            making = self._making.get((after, limit))
            if making is None:
                return await self._make_for_all(after, limit)
            # All who wait wake together. If nothing came of it (its maker was cancelled, or there was news), the first makes it anew.
            await making.wait()
        return self._made[after, limit]

    async def _make_for_all(self, after: int, limit: int) -> bytes:
        head, verdicts = self.head, self.verdicts
        self._making[after, limit] = ended = trio.Event()
        try:
            made = await self._make(after, min(limit, head - after), head, verdicts)
            if (head, verdicts) == (self.head, self.verdicts):
                if self._made_bytes + len(made) > CACHE_BYTES:
                    self._forget_made()
                self._made[after, limit] = made
                self._made_bytes += len(made)
            return made
        finally:
            del self._making[after, limit]
            ended.set()

    async def _make(self, after: int, count: int, head: int, verdicts: int) -> bytes:
        lines: Sequence[Line] = ()
        serial, last = head, self.hash
        if count > 0:
            lines = await self._catalog.lines(after, count)
            if not lines or lines[0].serial != after + 1:
                raise BehindFloor(f"the lines after {after} are not kept")
            serial, last = lines[-1].serial, lines[-1].hash
        batch = Batch(
            cursor=cursor_text(self.epoch, serial),
            verdicts=verdicts,
            head=head,
            checkpoint=self._checkpoint(serial, last),
        )
        return frame_lines(batch, [line.record for line in lines])

    def _serial(self, cursor: str) -> int:
        epoch, serial = read_cursor(cursor)
        if epoch != self.epoch:
            raise EpochChanged(f"the ledger's epoch is {self.epoch}, not {epoch[:64]}")
        if serial + 1 < self._floor:
            raise BehindFloor(f"the lines after {serial} are not kept: the first is {self._floor}")
        return serial

    def _checkpoint(self, serial: int, last: bytes) -> Checkpoint:
        plain = Checkpoint(self.epoch, serial, last.hex(), float(self._clock()))
        signature = base64.b64encode(self._signer(signed_text(plain))).decode()
        return msgspec.structs.replace(plain, signature=signature)


def new_epoch() -> str:
    """The name of a ledger that begins, or goes on from a copy."""
    return secrets.token_hex(8)


# ---- the follower's side


class _Numbered(msgspec.Struct, gc=False):
    """What is read of a line to check it: whatever else it says may be of a later version."""

    serial: int


_numbered = msgspec.json.Decoder(_Numbered)


def checked(batch: Batch, records: Sequence[bytes], previous: bytes, key: bytes, after: int | None = None) -> bytes:
    """The hash after a batch that continues the ledger whose hash was ``previous``; ``key`` is its Ed25519 public key, 32 bytes.

    ``after`` is the serial that was reached. Without it a ledger that was rolled back is called forked. Raises ``Forked`` or
    ``RolledBack``, or a plain ``ValueError`` for what makes no sense.
    """
    checkpoint = batch.checkpoint
    if not is_signed(checkpoint, key):
        raise Forked(f"the checkpoint at {checkpoint.serial} is not signed by the origin that is followed")
    if batch.cursor != cursor_text(checkpoint.epoch, checkpoint.serial):
        raise ValueError(f"the cursor {batch.cursor[:64]!r} is not that of the checkpoint at {checkpoint.serial}")
    if after is not None and checkpoint.serial < after:
        raise RolledBack(f"the ledger ends at {checkpoint.serial}, and was followed up to {after}")
    before = checkpoint.serial - len(records)
    if after is not None and before != after:
        raise Forked(f"lines up to {checkpoint.serial} were sent for those after {after}, but they are {len(records)}")
    for expected, record in enumerate(records, before + 1):
        if (serial := _numbered.decode(record).serial) != expected:
            raise Forked(f"the line {serial} was sent as the line {expected}")
    reached = chained(previous, records)
    if reached.hex() != checkpoint.hash:
        raise Forked(f"the lines up to {checkpoint.serial} do not continue the ledger that was followed")
    return reached


def is_signed(checkpoint: Checkpoint, key: bytes) -> bool:
    """Whether a checkpoint's signature is by the owner of ``key``, an Ed25519 public key."""
    try:
        signature = base64.b64decode(checkpoint.signature, validate=True)
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signed_text(checkpoint))
    except (InvalidSignature, ValueError):
        return False
    return True


# ---- the whole of it


@dataclass(frozen=True, slots=True)
class Report:
    """What a walk over the ledger found. ``problems`` are sentences, ``PROBLEMS`` at most.

    ``first`` and ``serial`` are those of the first and the last line, 0 if there is none; ``checkpoint`` is the serial up to which the
    ledger's owner vouched for it, 0 if nowhere.
    """

    first: int
    serial: int
    hash: bytes
    checkpoint: int
    problems: tuple[str, ...]


class _Walk:
    """How far a walk has come, and what it found."""

    def __init__(self, checkpoint: Checkpoint | None, *, trimmed: bool) -> None:
        self.first = self.serial = self.files = 0
        self.previous = GENESIS
        self.problems: list[str] = []
        self._checkpoint = checkpoint
        self._trimmed = trimmed

    def tell(self, problem: str) -> None:
        if len(self.problems) < PROBLEMS:
            self.problems.append(problem)

    def follow(self, lines: Sequence[Line]) -> list[Change]:
        """Check a piece of the chain; returns its lines of files."""
        files = []
        for line in lines:
            if not self.first:
                self.first = line.serial
                # A ledger of which the beginning is not kept is believed as far as its first line.
                is_whole = not self._trimmed
            else:
                is_whole = True
                if line.serial != self.serial + 1:
                    self.tell(f"line {self.serial} is followed by line {line.serial}")
            if is_whole and chained(self.previous, (line.record,)) != line.hash:
                self.tell(f"line {line.serial} is not the one that was chained to the line before it")
            self.serial, self.previous = line.serial, line.hash
            if (
                self._checkpoint is not None
                and line.serial == self._checkpoint.serial
                and line.hash.hex() != self._checkpoint.hash
            ):
                self.tell(f"line {line.serial} is not the one that the checkpoint vouches for")
            try:
                change = _changes.decode(line.record)
            except ValueError as error:
                self.tell(f"line {line.serial} cannot be read: {error}")
                continue
            if change.serial != line.serial:
                self.tell(f"line {line.serial} calls itself {change.serial}")
            if change.kind == "file":
                files.append(change)
        self.files += len(files)
        return files


_changes = msgspec.json.Decoder(Change)


async def verify_ledger(catalog: Catalog, key: bytes, *, trimmed: bool = False, piece: int = LINES) -> Report:
    """Walk the whole chain, in pieces and off the event loop, and compare its lines of files with what is bound.

    ``key`` is the Ed25519 public key of who signs its checkpoints. ``trimmed`` is for a ledger whose beginning is not kept, as an edge's.
    Raises ``Unavailable``.
    """
    problems: list[str] = []
    checkpoint = _read_checkpoint(await catalog.recall(CHECKPOINT), key, problems)
    _, names = await catalog.counts()
    oldest, (newest, _) = await catalog.oldest_change(), await catalog.head()
    walk = _Walk(checkpoint, trimmed=trimmed)
    walk.problems = problems
    while lines := await catalog.lines(walk.serial, piece):
        files = await trio.to_thread.run_sync(walk.follow, lines)
        bound = await catalog.bound([change.resource for change in files])
        for change in files:
            if change.resource not in bound:
                walk.tell(f"line {change.serial} names {change.resource}, which is not bound")
            elif bound[change.resource] != change.digest:
                walk.tell(
                    f"line {change.serial} says {change.digest} of {change.resource}, which is bound to {bound[change.resource]}"
                )
    # Every name is bound in the transaction of its line. Lines from before the chain do not tell files from pages.
    is_all_chained = (walk.first or newest + 1) == oldest
    if is_all_chained and not trimmed and walk.files < names:
        walk.tell(f"{names} names are bound, but the ledger tells of {walk.files}")
    if checkpoint is not None and walk.serial < checkpoint.serial:
        walk.tell(f"the ledger ends at {walk.serial}, and was vouched for up to {checkpoint.serial}")
    return Report(walk.first, walk.serial, walk.previous, checkpoint.serial if checkpoint else 0, tuple(walk.problems))


def _read_checkpoint(text: str | None, key: bytes, problems: list[str]) -> Checkpoint | None:
    if text is None:
        return None
    try:
        checkpoint = msgspec.json.decode(text, type=Checkpoint)
    except ValueError as error:
        problems.append(f"the checkpoint cannot be read: {error}")
        return None
    if not is_signed(checkpoint, key):
        problems.append(f"the checkpoint at {checkpoint.serial} is not signed with the ledger's key")
        return None
    return checkpoint
