"""TLS interception as the serving process sees it: certificates at hand for every host that is stood in for, renewed before they end."""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from origin.errors import Unavailable, Unusable
from origin.http.tls import server_context
from origin.metrics import Metrics
from origin.model import Clock

from .hosts import Hosts
from .signer import SIGNER_LIMIT_S, Files, Issued, Lease, read_issued, signer_command, signer_environment

log = logging.getLogger("leeward.authority")

WAIT_S = 10.0
"""How long a client waits for a certificate that is being made."""

CHECK_S = 60.0
"""How often the time of day is looked at: it may jump, and a machine may have slept."""

RETRY_S = 5.0
RETRY_LIMIT_S = 300.0
"""When what could not be signed is tried again: after the first, doubled each time up to the second."""


@dataclass(frozen=True, slots=True)
class _Held:
    lease: Lease
    context: ssl.SSLContext


class Interception:
    """Leaves for all of ``hosts.names()``, signed by a process of its own (``authority.py``).

    Takes ``hosts.changed`` for itself. One round of signing runs at a time; what is wanted meanwhile is in the next.
    """

    def __init__(self, directory: Path, hosts: Hosts, clock: Clock, metrics: Metrics) -> None:
        self._directory = directory
        self._files = Files(directory)
        self._hosts = hosts
        self._clock = clock
        self._metrics = metrics
        self._root = b""
        self._held: dict[str, _Held] = {}
        self._refused: dict[str, str] = {}  # hosts that the last round made none for, and why
        self._trouble = ""  # what the last round could not do
        self._due = 0.0
        self._is_signing = False
        self._wanted = trio.Event()  # a round is wanted
        self._done = trio.Event()  # the round that runs, or the next if none does, has ended
        hosts.changed = self._want

    def root_pem(self) -> bytes:
        """The root's certificate, for ``/-/ca.pem``. Raises ``errors.Unavailable`` with a sentence while there is none."""
        if not self._root:
            raise Unavailable(self._trouble or "The authority's root is being made: ask again.", 1)
        return self._root

    async def context(self, host: str) -> ssl.SSLContext:
        """The server's context for ``host``, one of ``hosts.names()``; waits for a certificate that is being made.

        Raises ``errors.Unavailable`` with a sentence if none can be had.
        """
        held = self._good(host)
        if held is None:
            with trio.move_on_after(WAIT_S):
                held = await self._made(host)
        if held is None:
            raise Unavailable(f"The certificate for {host} is not made yet: try again.", 5)
        return held.context

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Have certificates issued at start, when hosts are added, and before any ends. Runs until cancelled."""
        task_status.started()
        retry_s = RETRY_S
        while True:
            self._wanted = trio.Event()
            if await self._round():
                retry_s = RETRY_S
                await self._wait_due()
            else:
                with trio.move_on_after(retry_s):
                    await self._wanted.wait()
                retry_s = min(2 * retry_s, RETRY_LIMIT_S)

    # -- for clients

    def _good(self, host: str) -> _Held | None:
        held = self._held.get(host)
        return held if held is not None and held.lease.begins <= self._clock() < held.lease.ends else None

    async def _made(self, host: str) -> _Held:
        """Have ``host``'s certificate made, and wait for it."""
        while (held := self._good(host)) is None:
            if host not in self._hosts.names():
                raise Unavailable(f"{host} is not stood in for here.", 30)
            # What was tried in vain is tried again by ``run``, in its own time, and not as often as clients ask.
            if host in self._refused:
                raise Unavailable(self._refused[host], 30)
            if not self._is_signing:
                self._want()
            await self._done.wait()
        return held

    def _want(self) -> None:
        self._wanted.set()

    # -- signing

    async def _wait_due(self) -> None:
        while self._clock() < self._due:
            with trio.move_on_after(CHECK_S):
                await self._wanted.wait()
                return

    async def _round(self) -> bool:
        """Have the signer do what is due, and take up what it made. False if something is left to be done."""
        names = self._hosts.names()
        self._is_signing = True
        try:
            issued = await self._ask_signer(names)
            self._metrics.intermediate_ends.set(issued.intermediate_ends)
            # A certificate whose file was damaged is still good here.
            kept = {host: held for host, held in self._held.items() if host in names}
            self._root, self._held, told = await trio.to_thread.run_sync(_taken_up, self._files, issued, kept)
        except Unusable as error:
            # What was made before goes on until it ends.
            issued, told = Issued({}), [str(error)]
        finally:
            self._is_signing = False
        self._due = min([held.lease.due for held in self._held.values()] + ([issued.due] if issued.due else []), default=math.inf)
        self._tell([*issued.told, *told])
        missing = {name for name in names if self._good(name) is None}
        self._refused = dict.fromkeys(missing, self._trouble or "The signer made no certificate for this host.")
        is_settled = not self._trouble and not missing and self._clock() < self._due
        self._metrics.authority_troubled.set(0 if is_settled else 1)
        done, self._done = self._done, trio.Event()
        done.set()
        return is_settled

    async def _ask_signer(self, names: frozenset[str]) -> Issued:
        """Raises ``errors.Unusable``."""
        command = signer_command(self._directory, self._clock())
        asked = msgspec.json.encode(sorted(names))
        try:
            with trio.fail_after(SIGNER_LIMIT_S):
                done = await trio.run_process(
                    command, stdin=asked, env=signer_environment(), capture_stdout=True, capture_stderr=True, check=False
                )
        except OSError as error:
            raise Unusable(f"The authority's signer could not be started ({error.strerror}).") from error
        except trio.TooSlowError:
            raise Unusable(f"The authority's signer was not done within {SIGNER_LIMIT_S:.0f} s and was stopped.") from None
        return read_issued(done.returncode, done.stdout, done.stderr)

    def _tell(self, told: list[str]) -> None:
        """Log what could not be done; a sentence that was logged after the last round is not repeated."""
        for sentence in told:
            if sentence not in self._trouble:
                log.warning("%s", sentence)
        if self._trouble and not told:
            log.info("the authority signs again")
        self._trouble = " ".join(told)


def _taken_up(files: Files, issued: Issued, held: Mapping[str, _Held]) -> tuple[bytes, dict[str, _Held], list[str]]:
    """The root, a context for every leaf that there is, and sentences about those that cannot be used. Reads files."""
    contexts, told = dict(held), []
    for host, lease in issued.leaves.items():
        before = held.get(host)
        try:
            contexts[host] = (
                before if before is not None and before.lease == lease else _Held(lease, server_context(str(files.leaf(host))))
            )
        except ValueError as error:
            told.append(f"The certificate for {host} cannot be used: {error}.")
    try:
        return files.root.read_bytes(), contexts, told
    except OSError as error:
        raise Unusable(f"The authority's root {files.root} cannot be read ({error.strerror}).") from error
