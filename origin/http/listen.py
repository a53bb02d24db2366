"""Opening, serving and draining listeners."""

from __future__ import annotations

import errno
import logging
import resource
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import trio

from ..metrics import Metrics
from ..model import Clock
from . import Handler
from .conversation import House
from .door import Door
from .hosts import Hosts
from .hot import HotPages
from .limits import Limits
from .tls import Contexts
from .waiting import Polls

__all__ = ["CannotListen", "Limits", "Server", "open_tcp", "raise_descriptor_limit"]

_log = logging.getLogger(__name__)

_BACKLOG = 4096
_COLD_READS = 8
_SPARE_DESCRIPTORS = 256
_ABSENT = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_NR_OPEN = Path("/proc/sys/fs/nr_open")
_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - recognised, not chosen


class CannotListen(OSError):
    """An address cannot be listened on; the message is a sentence that names it."""


def open_tcp(host: str, port: int) -> list[socket.socket]:
    """Open listeners on every address that ``host`` means (``""``: all) and this machine has; port 0 lets the kernel choose.

    Blocks while a name is resolved: call it before the loop runs. Raises ``CannotListen``. The caller closes them, or gives them to
    ``Server.serve``.
    """
    where = f"[{host}]:{port}" if ":" in host else f"{host or '*'}:{port}"
    opened: list[socket.socket] = []
    absent: OSError | None = None
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                opened.append(_listener(family, kind, protocol, address))
            except OSError as error:
                # "localhost" may mean ::1 on a machine without IPv6.
                if error.errno not in _ABSENT:
                    raise
                absent = error
        if not opened and absent is not None:
            raise absent
    except OSError as error:
        for listener in opened:
            listener.close()
        raise CannotListen(error.errno, _sentence(where, error)) from error
    return opened


def _listener(family: int, kind: int, protocol: int, address: object) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)  # type: ignore[arg-type]  # as the resolver gave it
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def raise_descriptor_limit() -> int:
    """Let this process open as many descriptors as it may, and return how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _most_of_all() if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY:
        return most
    if soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError) as error:
            _log.warning("cannot raise the limit of open files above %d: %s", soft, error)
            return soft
    return most


def _most_of_all() -> int:
    """What the kernel allows any process."""
    try:
        return int(_NR_OPEN.read_text())
    except (OSError, ValueError):
        return 1 << 20  # the kernel's default


def _affordable(connections: int) -> int:
    """``connections``, or as many as leave room for files and connections to upstream."""
    descriptors = raise_descriptor_limit()
    affordable = descriptors - min(_SPARE_DESCRIPTORS, descriptors // 2)
    if affordable >= connections:
        return connections
    _log.warning("at most %d connections at a time instead of %d: %d files may be open", affordable, connections, descriptors)
    return affordable


def _sentence(where: str, error: OSError) -> str:
    reason = error.strerror or str(error)
    if isinstance(error, PermissionError):
        return f"Cannot listen on {where}: this user may not use that port."
    if "in use" in reason.lower():
        return f"Cannot listen on {where}: another program is listening there already; name another address with --listen."
    return f"Cannot listen on {where}: {reason}."


class Server:
    """HTTP for one handler, plain and over TLS. ``hot`` holds the answers that need no handler."""

    def __init__(
        self,
        handler: Handler,
        hot: HotPages,
        *,
        limits: Limits | None = None,
        public_urls: Iterable[str] = (),
        trusted_proxies: Iterable[str] = (),
        metrics: Metrics | None = None,
        clock: Clock = time.time,
        scope: Callable[[str | None], str] = lambda authorization: "",
        polls: Polls | None = None,
    ) -> None:
        """``trusted_proxies`` are networks (``10.0.0.0/8``); ``scope`` turns an ``Authorization`` value into the request's scope.

        ``polls`` are the requests that may wait for news without a task of their own (HTTP/1.1 only; others are the handler's).

        Raises ``ValueError`` for a malformed URL or network.
        """
        self.limits = limits or Limits()
        self._hot = hot
        self._metrics = metrics
        self._polls = polls
        self._doors: list[Door] = []
        self._draining = trio.Event()
        self._house = House(
            handler=handler,
            hosts=Hosts(public_urls, trusted_proxies),
            limits=self.limits,
            clock=clock,
            scope=scope,
            closing=self._draining.is_set,
            cold_reads=trio.CapacityLimiter(_COLD_READS),
            draining=self._draining,
        )

    async def serve(
        self,
        listeners: list[socket.socket],
        *,
        contexts: Contexts | None = None,
        tls_only: bool = False,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve on ``listeners``, which are closed in the end, until cancelled or drained.

        With ``contexts`` they take TLS beside plain HTTP; with ``tls_only``, too, plain HTTP is told to come back over TLS.
        """
        schemes = ("http",) if contexts is None else ("https",) if tls_only else ("http", "https")
        for listener in listeners:
            host, port = listener.getsockname()[:2]
            names = ["localhost", "127.0.0.1", "::1"]
            if host in _WILDCARDS:
                # The addresses that clients reach a wildcard by are added as they come.
                names.append(socket.gethostname())
            else:
                names.insert(0, host)
            for name in names:
                for scheme in schemes:
                    self._house.hosts.own(name, port, scheme)
        most = _affordable(self.limits.connections)
        door = Door(self._house, self._hot, self._metrics, most, schemes=schemes, contexts=contexts, polls=self._polls)
        self._doors.append(door)
        try:
            await door.run(listeners, task_status=task_status)
        finally:
            self._doors.remove(door)

    async def drain(self) -> None:
        """Stop accepting, let running answers finish for ``limits.drain_s``, then cut them; ``serve`` returns."""
        self._draining.set()
        async with trio.open_nursery() as nursery:
            for door in list(self._doors):
                nursery.start_soon(door.drain)

    def statistics(self) -> dict[str, int]:
        """Open connections, those in a conversation, hot hits, and the hot store's own figures."""
        totals = {"connections": 0, "busy": 0, "hits": 0}
        for door in self._doors:
            for name, count in door.statistics().items():
                totals[name] += count
        return totals | {f"hot_{name}": count for name, count in self._hot.statistics().items()}
