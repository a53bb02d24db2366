"""``edge capture`` as the command line knows it: its words and arguments, and what they come to.

Apart from ``capturing.py``, which it starts, so that help does not wait for what that imports.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .settings import EdgeSettings

DESCRIPTION = """\
Have mitmproxy catch connections and hand those to registries to this edge,
until Ctrl-C or SIGTERM. All else goes where it was going, undecrypted. While
the edge is down, connections to registries fail: none goes past it.

local          whatever programs of this machine connect to, or only PROGRAM's:
               its name as `ps -o comm` shows it (pip, uv, node; a thread of a
               JVM is named differently, so give Java's process id), or its
               process id. Needs root and Linux with eBPF. Captured programs
               must live in this network namespace: name some if containers run.
transparent    what nftables sends here: connections of this machine's users,
               except the one that the edge runs as, and with --from those of
               others. --install-rules sets the rules and takes them away at
               the end, however that comes; without it they are printed.

Programs must trust the edge's root certificate, which this does not arrange:
see `edge ca --help`, and `edge use --help` for clients' own settings.

mitmproxy (12.2 or newer) is not part of Leeward's environment, since it pins
old libraries: python3 -m venv DIR; DIR/bin/pip install 'mitmproxy>=12.2'."""

EXAMPLES = """\
sudo edge capture --mode local:pip
  sudo edge capture --mode local
  sudo edge capture --mode transparent --install-rules
  sudo edge capture --mode transparent --from docker0 --install-rules"""


def add_arguments(capture: argparse.ArgumentParser) -> None:
    """What `edge capture` takes."""
    capture.add_argument("--mode", required=True, metavar="MODE", help="transparent, local or local:PROGRAM[,PROGRAM]")
    capture.add_argument(
        "--hosts", metavar="NAMES", help="the registries' host names, joined by commas (default: asked from the edge)"
    )
    capture.add_argument(
        "--url", metavar="URL", help="the edge's address, with user and password if it asks for them (default: from the settings)"
    )
    capture.add_argument("--mitmdump", metavar="PATH", help="mitmproxy's command (default: $EDGE_MITMDUMP, else looked for)")
    capture.add_argument(
        "--port", metavar="N", type=int, default=8082, help="transparent: where mitmproxy listens (default 8082)"
    )
    capture.add_argument("--ports", metavar="N,N", default="80,443", help="transparent: what is captured (default 80,443)")
    capture.add_argument(
        "--from",
        metavar="INTERFACE",
        dest="interfaces",
        action="append",
        default=[],
        help="transparent: capture what comes in here too (containers, other machines); may be repeated",
    )
    capture.add_argument("--install-rules", action="store_true", help="transparent: set the nftables rules, as long as this runs")


def run(asked: argparse.Namespace, settings: EdgeSettings) -> int:
    """Capture until told to stop. Raises ``SettingsError`` for what was asked wrongly, else as ``capturing.capture`` does."""
    import trio

    from origin import logs
    from origin.settings import SettingsError

    from . import capturing

    try:
        mode, programs = capturing.read_mode(asked.mode)
        address, authorization = capturing.read_url(asked.url) if asked.url else _ours(settings)
        ports = capturing.read_ports(asked.ports)
        hosts = capturing.read_hosts(asked.hosts) if asked.hosts else ()
    except ValueError as error:
        raise SettingsError(str(error)) from None
    wanted = capturing.Wanted(
        mode=mode,
        programs=programs,
        mitmdump=capturing.find_mitmdump(asked.mitmdump, os.environ),
        edge=address,
        authorization=authorization,
        # Another machine's edge has no socket here. It is told by both its address and its hosts being given.
        asked=None if asked.url and hosts else settings.data / "edge.sock",
        hosts=hosts,
        port=asked.port,
        ports=ports,
        interfaces=tuple(asked.interfaces),
        install_rules=asked.install_rules,
    )
    logs.configure(settings.log.level, settings.log.json)
    trio.run(capturing.capture, wanted)
    return 0


def _ours(settings: EdgeSettings) -> tuple[tuple[str, int], str]:
    """Where the edge with these settings is, and who we say to it that we are: the first of its users, if it has any."""
    from . import capturing

    name, password = next(iter(settings.proxy.users.items()), ("", ""))
    return capturing.where(settings.listen), capturing.proof_of(name, password)
