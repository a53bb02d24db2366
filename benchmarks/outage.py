"""pip through a warm edge while the registry is healthy, refuses, is silent, or swallows packets; the edge restarted each time.

Every page has outlived its freshness when pip asks. An address that swallows packets is imitated on loopback by a listener whose
queue is full: the kernel then drops what asks to connect.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator

from .stage import CLIENTS, Server, Stage, free_port, stage
from .table import keep, ratios, show, spread

WHEELS = 20
WHEEL_BYTES = 200_000
TARGET = 1.2


def run(rounds: int) -> bool:
    """Measure and print; False if an install failed or took more than ``TARGET`` times the healthy one (medians)."""
    with stage() as here:
        names = [f"tree-{number:02d}" for number in range(WHEELS)]
        for number, name in enumerate(names):
            requires = names[1:] if number == 0 else ()
            here.publish(name, [here.shelf.wheel(name, "1.0", size=WHEEL_BYTES, requires=requires)])
        upstream = here.upstream(max_age=0)
        data = here.directory / "edge-outage"
        first = here.edge(upstream.port, fresh="1s", data=data)
        _install(here, first, names[0])
        here.stop(first)
        took: dict[str, list[float]] = {"healthy": [], "refuses": [], "is silent": [], "swallows packets": []}
        for _ in range(rounds):
            for how, times in took.items():
                with _registry(how, upstream.port) as port:
                    time.sleep(1.1)  # every page's life runs out
                    edge = here.edge(port, fresh="1s", data=data)
                    times.append(_install(here, edge, names[0]))
                    here.stop(edge)
    rows = [[how, spread(times), spread(ratios(times, took["healthy"]))] for how, times in took.items()]
    show(
        f"Outage: pip installs {WHEELS} wheels, edge warm and just restarted, {rounds} rounds",
        ["the registry", "s", "of healthy"],
        rows,
    )
    keep("outage", took)
    right = all(statistics.median(ratios(times, took["healthy"])) <= TARGET for times in took.values())
    print(f"target: at most {TARGET} times the healthy one: {'met' if right else 'MISSED'}")
    return right


def _install(here: Stage, edge: Server, project: str) -> float:
    """Seconds that pip took. It starts from an empty cache and knows no other index."""
    target = here.directory / "installed"
    shutil.rmtree(target, ignore_errors=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    environment = kept | {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    command = [str(CLIENTS / "pip"), "install", "--quiet", "--no-cache-dir", "--target", str(target)]
    command += ["--index-url", f"http://127.0.0.1:{edge.port}/pypi/simple/", project]
    began = time.monotonic()
    subprocess.run(command, check=True, env=environment, timeout=300)
    seconds = time.monotonic() - began
    found = len(list(target.glob("*.dist-info")))
    if found != WHEELS:
        raise RuntimeError(f"pip installed {found} of {WHEELS} wheels")
    return seconds


@contextlib.contextmanager
def _registry(how: str, healthy_port: int) -> Iterator[int]:
    """A port that behaves so."""
    if how == "healthy":
        yield healthy_port
    elif how == "refuses":
        yield free_port()
    else:
        with contextlib.ExitStack() as held:
            swallows = how == "swallows packets"
            listener = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0 if swallows else 1024))
            address = listener.getsockname()
            for _ in range(8 if swallows else 0):
                filling = held.enter_context(socket.socket())
                filling.setblocking(False)
                filling.connect_ex(address)
            yield address[1]
