"""What the live tests share: a real registry replaced by a dead one, and how long an installation takes then."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
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


def outage_ratio(edge: Edge, kind: str, install: Callable[[], float], label: str) -> float:
    """Install from a healthy, warm edge and again with every page expired, the registry dead and the edge restarted.

    Gives how many times as long the second took, at best. ``install`` gives its seconds and fails by itself. The edge is left as it was.
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
