"""What the live tests share: a real registry that dies, and how long an installation takes then.

It dies in two ways. ``dead_upstream`` takes its place over a restart of the edge. A ``Tether`` is the proxy an edge reaches it through
(bytes pass untouched, TLS and all), and it is cut while the edge runs.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Self
from urllib.parse import urlsplit

from tests.harness import Edge, free_port, swallowing

DEAD = ["refusing", "swallowing", "silent"]

HOURS_S = 6 * 3600.0

ROUNDS = 3
"""Times are compared by the best of so many pairs: what waits for a registry does so in each of them."""

MOST = 1.2
"""How much longer an outage may make an installation."""


@contextlib.contextmanager
def dead_upstream(kind: str, path: str) -> Iterator[str]:
    """An upstream that refuses connections, swallows packets, or accepts and never answers; its root URL, with the path of the real one."""
    with contextlib.ExitStack() as stack:
        port = free_port()
        if kind == "silent":
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", port))
            listener.listen(1000)
        elif kind == "swallowing":
            stack.enter_context(swallowing("127.0.0.1", port))
        yield f"http://127.0.0.1:{port}{path}"


class Tether:
    """A proxy that knows ``CONNECT`` alone, on a port of its own, until it is cut; ``mend`` makes it whole.

    ``names`` are addresses of names that this machine does not know. ``reached`` are the hosts that were asked for, in order.
    """

    def __init__(self, names: Mapping[str, Sequence[str]] | None = None) -> None:
        self.port = free_port()
        self.reached: list[str] = []
        self._names = names or {}
        self._connections: set[socket.socket] = set()
        self._cut = threading.Event()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.mend()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut("refusing")
        self._stack.close()

    def cut(self, kind: str) -> None:
        """From now on nothing passes. Connections that stand are closed if new ones are refused; otherwise they fall silent."""
        self._cut.set()
        self._stack.close()
        if kind == "refusing":
            for connection in list(self._connections):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        elif kind == "silent":
            self._listener()
        else:
            self._stack.enter_context(swallowing("127.0.0.1", self.port))

    def mend(self) -> None:
        """Relay again. What stood before is closed."""
        self._stack.close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._cut = threading.Event()
        threading.Thread(target=self._serve, args=(self._listener(), self._cut), daemon=True).start()

    def _listener(self) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", self.port), backlog=1000)
        # Closing alone would not wake whoever accepts.
        self._stack.callback(listener.close)
        self._stack.callback(listener.shutdown, socket.SHUT_RDWR)
        return listener

    def _serve(self, listener: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while not cut.is_set():
                near, _ = listener.accept()
                threading.Thread(target=self._relay, args=(near, cut), daemon=True).start()

    def _relay(self, near: socket.socket, cut: threading.Event) -> None:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, TimeoutError):
            self._hold(stack, near)
            head = b""
            while b"\r\n\r\n" not in head:
                piece = near.recv(4096)
                if not piece:
                    return
                head += piece
            wanted = re.match(rb"CONNECT ([A-Za-z0-9.-]+):([0-9]+) ", head)
            if wanted is None:
                return  # what is asked of another instance's upstream
            host = wanted[1].decode()
            self.reached.append(host)
            far = socket.create_connection((self._names.get(host, [host])[0], int(wanted[2])), 10)
            self._hold(stack, far)
            near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            other = {near: far, far: near}
            with selectors.DefaultSelector() as both:
                for end in other:
                    both.register(end, selectors.EVENT_READ, end)
                while True:
                    for key, _ in both.select():
                        end = key.data
                        piece = end.recv(65536)
                        if not piece:
                            return
                        if not cut.is_set():
                            other[end].sendall(piece)

    def _hold(self, stack: contextlib.ExitStack, connection: socket.socket) -> None:
        stack.enter_context(connection)
        self._connections.add(connection)
        stack.callback(self._connections.discard, connection)


def cut_ratio(edge: Edge, tether: Tether, kind: str, install: Callable[[], float], label: str, purl: str) -> float:
    """Install from a healthy, warm edge and again with every page expired and the registry gone, the edge running on.

    Whoever is first to meet a silent registry waits a second; here that is ``edge refresh`` of ``purl``. Gives how many times as long
    the second took, at best. ``install`` gives its seconds and fails by itself. The edge is left as it was.
    """
    ratios = []
    for attempt in range(ROUNDS):
        install()
        healthy = install()
        try:
            tether.cut(kind)
            edge.age((attempt + 1) * HOURS_S)
            while not edge.metric("leeward_breaker_open", registry=edge.kind, kind="page"):
                assert edge.command("refresh", purl).returncode != 0
            outage = install()
        finally:
            tether.mend()
            edge.age(0)
            # Rather than wait for the breaker's next look.
            edge.restart()
        ratios.append(outage / healthy)
        print(f"{label}, cut off, {kind}: {outage:.1f} s, healthy and warm {healthy:.1f} s")
        if ratios[-1] < MOST:
            break
    return min(ratios)


def outage_ratio(edge: Edge, kind: str, install: Callable[[], float], label: str) -> float:
    """Install from a healthy, warm edge and again with every page expired, the registry dead and the edge restarted.

    Gives and leaves as ``cut_ratio`` does.
    """
    real = edge.upstream
    install()
    ratios = []
    try:
        for attempt in range(ROUNDS):
            healthy = install()
            edge.stop()
            edge.age((attempt + 1) * HOURS_S)
            with dead_upstream(kind, urlsplit(real).path) as upstream:
                edge.upstream = upstream
                edge.set_rules()
                edge.start()
                outage = install()
                edge.stop()
            _restore(edge, real)
            edge.start()
            ratios.append(outage / healthy)
            print(f"{label}, {kind}: {outage:.1f} s, healthy and warm {healthy:.1f} s")
            if ratios[-1] < MOST:
                break
    except BaseException:
        edge.stop()
        _restore(edge, real)
        edge.start()
        raise
    return min(ratios)


def _restore(edge: Edge, upstream: str) -> None:
    edge.age(0)
    edge.upstream = upstream
    edge.set_rules()
