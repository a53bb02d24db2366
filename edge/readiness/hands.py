"""The two ways of looking for what a lock needs: at what is here, and by bringing it here."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from origin.catalog import Catalog
from origin.errors import Corrupt, NotFound, Refused, Unavailable
from origin.files import Delivery
from origin.held import PageView
from origin.model import Arriving, Digest, File, Listing, Page, Span
from origin.registries import Registry
from origin.service import Service
from origin.sources import Source

AT_ONCE = 8
"""How many files or pages are brought at a time, unless somebody says otherwise."""

LOOK_AT_ONCE = 4
"""How many are looked at at a time: it is the disk that answers."""

PATIENCE_S = 45.0
"""How long a registry that does not answer, or is busy, is waited for altogether: longer than it goes unasked after an outage."""

RETRY_S = 1.0
"""How soon one that does not answer is asked again."""

HOLD_S = 5.0
"""How long what is held is waited for."""

LIMIT_CONTENT_BYTES = 64 << 20
"""The largest file that is read for what it says of others."""

PIECE_BYTES = 1 << 20

type Failure = NotFound | Refused | Unavailable | Corrupt


@dataclass(frozen=True, slots=True)
class Had:
    """A file that is here, under the name that it is bound by."""

    file: File
    digests: tuple[Digest, ...]
    size: int

    @property
    def digest(self) -> Digest:
        return next((digest for digest in self.digests if digest.algorithm == "sha256"), self.digests[0])


class Hand(Protocol):
    """Looks for pages and files. Everything raises ``NotFound``, ``Refused``, ``Unavailable`` or ``Corrupt`` for what is not to be had."""

    @property
    def brings(self) -> bool:
        """Whether what is not here is fetched."""
        ...

    async def page(self, bases: Sequence[tuple[Registry, Page]]) -> PageView: ...

    async def file(self, files: Sequence[File]) -> Had:
        """The first of these that is to be had: the same file of several instances that are asked together."""
        ...

    async def agrees(self, had: Had, digests: Sequence[Digest]) -> bool:
        """Whether a file that is here has all these digests. Its bytes are read where nobody knows one of them."""
        ...

    async def content(self, had: Had) -> bytes:
        """The bytes of a file that is here."""
        ...

    async def held(self, page: Page) -> Listing | None:
        """What a page says as it is held, before policy."""
        ...


class Look:
    """Looks at what is here. ``service`` is a twin without sources. Given a ``catalog``, what is seen is no longer pinned there."""

    brings = False

    def __init__(self, service: Service, catalog: Catalog | None = None) -> None:
        self.unpinned = 0
        self._service = service
        self._catalog = catalog
        self._limit = trio.CapacityLimiter(LOOK_AT_ONCE)

    async def page(self, bases: Sequence[tuple[Registry, Page]]) -> PageView:
        async with self._limit:
            try:
                return await self._service.page_of(bases)
            except Unavailable:
                raise Unavailable(self._service.lapsed or "not here") from None

    async def file(self, files: Sequence[File]) -> Had:
        async with self._limit:
            try:
                had = _had(await self._service.deliver_of(files, hold_s=1.0))
            except Unavailable:
                raise Unavailable(self._service.lapsed or "not here") from None
        if self._catalog is not None and had.digest.algorithm == "sha256":
            await self._catalog.pin(had.digest, pinned=False)
            self.unpinned += 1
        return had

    async def agrees(self, had: Had, digests: Sequence[Digest]) -> bool:
        return await _agrees(self._service, had, digests)

    async def content(self, had: Had) -> bytes:
        return await _content(self._service, had.file)

    async def held(self, page: Page) -> Listing | None:
        return await self._service.held(page)


@dataclass(slots=True)
class Tally:
    """How far the bringing is: things, and bytes of files that were not here before."""

    done: int = 0
    total: int = 0
    fetched: int = 0
    pages: int = 0
    files: int = 0
    fetched_files: int = 0
    tell: Callable[[], Awaitable[None]] | None = None


class Bring:
    """Brings here what is asked for, each thing once, and pins it unless ``pins`` is off."""

    brings = True

    def __init__(
        self,
        service: Service,
        catalog: Catalog,
        sources: Sequence[Source],
        tally: Tally,
        *,
        at_once: int = AT_ONCE,
        pins: bool = True,
    ) -> None:
        self._service = service
        self._catalog = catalog
        self._sources = sources
        self._tally = tally
        self._pins = pins
        self._limit = trio.CapacityLimiter(at_once)
        # By instance, until when it is waited for: trio's clock.
        self._until: dict[str, float] = {}
        self._pages: dict[tuple[str, ...], _Once[PageView]] = {}
        self._files: dict[tuple[str, ...], _Once[Had]] = {}

    async def page(self, bases: Sequence[tuple[Registry, Page]]) -> PageView:
        async def job() -> PageView:
            async with self._limit:
                for registry, page in bases:
                    # What is held and cannot be asked for anew will do, as it does for clients.
                    with contextlib.suppress(NotFound, Refused, Unavailable, Corrupt):
                        await self._patiently(registry, page)
                view = await self._service.page_of(bases)
            self._tally.pages += 1
            return view

        return await self._once(self._pages, tuple(page.key for _, page in bases), job)

    async def file(self, files: Sequence[File]) -> Had:
        async def job() -> Had:
            async with self._limit:
                had = await self._kept(files)
            self._tally.files += 1
            if self._pins and had.digest.algorithm == "sha256":
                await self._catalog.pin(had.digest)
            return had

        return await self._once(self._files, tuple(f"{file.key} {file.path}" for file in files), job)

    async def _kept(self, files: Sequence[File]) -> Had:
        # Whichever instance delivered it before does so again; else the first that has it.
        for file in files:
            if (binding := await self._service.holds(file)) is not None:
                await self._service.keep(file)
                return Had(binding.file, (binding.digest, *binding.aliases), binding.size)
        missing: NotFound | None = None
        for file in files:
            registry = self._service.registries[file.registry]
            try:
                await self._patiently(registry, file)
            except NotFound as error:
                missing = error
                continue
            if registry.checksum(file):
                return _had(await self._service.deliver(file, hold_s=HOLD_S))
            binding = await self._service.holds(file)
            if binding is None:
                raise Unavailable(f"there is no room for {file.name}", 60)
            self._tally.fetched += binding.size
            self._tally.fetched_files += 1
            return Had(binding.file, (binding.digest, *binding.aliases), binding.size)
        raise missing or NotFound("nothing here has such a file")

    async def _patiently(self, registry: Registry, resource: Page | File) -> None:
        """Bring it here, trying again for a while where it cannot be had for the moment: each registry is waited for once."""
        while True:
            try:
                await self._service.keep(resource)
                return
            except Unavailable as error:
                now = trio.current_time()
                until = self._until.setdefault(registry.name, now + PATIENCE_S)
                if now >= until:
                    raise
                # What answers may say for how long it is busy; what does not is asked again soon.
                kind = "page" if isinstance(resource, Page) else "file"
                answers = any(source.available(registry.name, kind) for source in self._sources)
                await trio.sleep(min(error.retry_after_s if answers else RETRY_S, until - now))

    async def agrees(self, had: Had, digests: Sequence[Digest]) -> bool:
        return await _agrees(self._service, had, digests)

    async def content(self, had: Had) -> bytes:
        return await _content(self._service, had.file)

    async def held(self, page: Page) -> Listing | None:
        return await self._service.held(page)

    async def _once[T](self, kept: dict[tuple[str, ...], _Once[T]], key: tuple[str, ...], job: Callable[[], Awaitable[T]]) -> T:
        """What ``job`` gives or raises, done once for all who ask under ``key``."""
        once = kept.get(key)
        if once is None:
            once = kept[key] = _Once()
            self._tally.total += 1
            try:
                once.value = await job()
            except (NotFound, Refused, Unavailable, Corrupt) as error:
                once.error = error
            except BaseException:
                kept.pop(key)
                raise
            finally:
                once.done.set()
            self._tally.done += 1
            if self._tally.tell is not None:
                await self._tally.tell()
        await once.done.wait()
        if once.error is not None:
            # Without the traces of everybody who was told before.
            raise once.error.with_traceback(None)
        assert once.value is not None, "it was done"
        return once.value


@dataclass(slots=True)
class _Once[T]:
    done: trio.Event = field(default_factory=trio.Event)
    value: T | None = None
    error: Failure | None = None


def _had(delivery: Delivery) -> Had:
    if isinstance(delivery.body, (Span, Arriving)):
        delivery.body.close()
    return Had(delivery.file, delivery.digests, delivery.size)


async def _content(service: Service, file: File) -> bytes:
    delivery = await service.deliver(file, hold_s=HOLD_S)
    body = delivery.body
    if isinstance(body, bytes):
        return body
    try:
        if not isinstance(body, Span) or len(body) > LIMIT_CONTENT_BYTES:
            raise Unavailable(f"{file.name} cannot be read for what it says of others", 60)
        return await trio.to_thread.run_sync(os.pread, body.fd, len(body), body.start)
    finally:
        body.close()


async def _agrees(service: Service, had: Had, digests: Sequence[Digest]) -> bool:
    known = {digest.algorithm: digest for digest in had.digests}
    unknown = [digest for digest in digests if digest.algorithm not in known]
    if any(known.get(digest.algorithm, digest) != digest for digest in digests):
        return False
    if not unknown:
        return True
    delivery = await service.deliver(had.file, hold_s=HOLD_S)
    body = delivery.body
    if isinstance(body, bytes):
        return all(hashlib.new(digest.algorithm, body).hexdigest() == digest.value for digest in unknown)
    try:
        return isinstance(body, Span) and await trio.to_thread.run_sync(_has, body, unknown)
    finally:
        body.close()


def _has(span: Span, digests: Sequence[Digest]) -> bool:
    """Hash bytes in an open file. For a worker thread."""
    hashes = [hashlib.new(digest.algorithm) for digest in digests]
    at = span.start
    while at < span.stop and (piece := os.pread(span.fd, min(PIECE_BYTES, span.stop - at), at)):
        at += len(piece)
        for each in hashes:
            each.update(piece)
    return all(each.hexdigest() == digest.value for each, digest in zip(hashes, digests, strict=True))
