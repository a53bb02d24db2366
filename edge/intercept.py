"""TLS interception as the serving process sees it: certificates at hand for every host that is stood in for, renewed before they end."""

from __future__ import annotations

import ssl
from pathlib import Path

import trio

from origin.model import Clock

from .hosts import Hosts


class Interception:
    """Leaves for all of ``hosts.names()``, signed by a process of its own (``authority.py``)."""

    def __init__(self, directory: Path, hosts: Hosts, clock: Clock) -> None:
        raise NotImplementedError

    def root_pem(self) -> bytes:
        """The root's certificate, for ``/-/ca.pem``."""
        raise NotImplementedError

    async def context(self, host: str) -> ssl.SSLContext:
        """The server's context for ``host``, one of ``hosts.names()``; waits for a certificate that is being made.

        Raises ``errors.Unavailable`` with a sentence if none can be had.
        """
        raise NotImplementedError

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Have certificates issued at start, when hosts are added, and before any ends. Runs until cancelled."""
        raise NotImplementedError
