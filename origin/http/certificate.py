"""An operator's certificate, read again when its files change: renewed without a restart."""

from __future__ import annotations

import contextlib
import logging
import ssl
from pathlib import Path

import trio
from cryptography import x509

from ..metrics import Metrics
from ..model import Clock
from .tls import server_context

_log = logging.getLogger(__name__)

LOOK_S = 5.0
"""How often a certificate's files are looked at."""

type _Identity = tuple[tuple[int, int, int, int], ...]


class FileCertificate:
    """An operator's certificate: the context for its files as they are now. ``run`` reads them again when they change.

    A pair is used only once it has loaded whole, so files may be replaced one after the other; until then, and while what is there cannot
    be used, new connections get the one before. Those that are open keep theirs.
    """

    def __init__(self, cert: Path, key: Path | None = None, *, clock: Clock, metrics: Metrics | None = None) -> None:
        """Reads the files. Raises ``ValueError`` with a sentence if they cannot be used."""
        self._cert = cert
        self._key = key
        self._clock = clock
        self._metrics = metrics
        self._has_ended = False
        self._seen = self._identity()
        self._context, self._expires_at = self._load()
        self._told()

    def context(self) -> ssl.SSLContext:
        return self._context

    @property
    def expires_at(self) -> float:
        """When the certificate in use ends, in UTC seconds."""
        return self._expires_at

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look at the files every few seconds, until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(LOOK_S)
            await self._look()

    async def _look(self) -> None:
        # Read in a thread: a disk that hangs must not stop the server. The identity is taken first, so that a change made while the files
        # are read is seen the next time.
        seen = await trio.to_thread.run_sync(self._identity)
        if seen == self._seen:
            if not self._has_ended and self._expires_at <= self._clock():
                self._told()  # it was not renewed in time
            return
        self._seen = seen
        try:
            self._context, self._expires_at = await trio.to_thread.run_sync(self._load)
        except ValueError as error:
            _log.warning("the certificate before stays in use: %s", error)
            return
        self._told()

    def _told(self) -> None:
        if self._metrics is not None:
            self._metrics.certificate_expires.set(self._expires_at)
        left_s = self._expires_at - self._clock()
        self._has_ended = left_s <= 0
        if self._has_ended:
            _log.warning("the certificate in %s has ended: clients will refuse it", self._cert)
        else:
            _log.info("the certificate in %s is in use for %d days yet", self._cert, left_s // 86400)

    def _load(self) -> tuple[ssl.SSLContext, float]:
        context = server_context(str(self._cert), str(self._key) if self._key else None)
        try:
            leaf = x509.load_pem_x509_certificate(self._cert.read_bytes())
        except (OSError, ValueError) as error:
            raise ValueError(f"{self._cert} cannot be read: {error}") from None
        return context, leaf.not_valid_after_utc.timestamp()

    def _identity(self) -> _Identity:
        """What changes when a file is edited in place or replaced; nothing for a file that is not there."""
        found = []
        for path in (self._cert, self._key):
            with contextlib.suppress(OSError):
                if path is not None:
                    told = path.stat()
                    found.append((told.st_ino, told.st_mtime_ns, told.st_ctime_ns, told.st_size))
        return tuple(found)
