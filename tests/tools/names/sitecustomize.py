"""Gives names that end in ``.test`` the addresses a test wants, in every process of an edge: Python imports this when it starts.

``PYTHONPATH`` leads here, and ``LEEWARD_TEST_NAMES`` is the path of a JSON object of names and lists of addresses. It is read at each
look-up, so that an answer can change between two. A name that it does not have does not exist; all other names are left alone. Clients
that an edge runs inherit both variables and find nothing changed: what they look up for themselves went past the edge.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any


def install(table: str) -> None:
    """Look names up in the file ``table``."""
    real = socket.getaddrinfo

    def look_up(
        host: bytes | str | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002 -- as it is called
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        name = (host.decode("ascii") if isinstance(host, bytes) else host or "").lower().removesuffix(".")
        if not name.endswith(".test") or flags & socket.AI_NUMERICHOST:
            return real(host, port, family, type, proto, flags)
        with open(table) as opened:  # noqa: PTH123 -- pathlib would be imported into every process that starts
            addresses = json.load(opened).get(name, [])
        found: list[Any] = []
        for address in addresses:
            if family in {0, socket.AF_INET6 if ":" in address else socket.AF_INET}:
                found += real(address, port, family, type, proto, flags | socket.AI_NUMERICHOST)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found

    socket.getaddrinfo = look_up


if "LEEWARD_TEST_NAMES" in os.environ and any(word.partition(".")[0] == "edge" for word in sys.orig_argv[1:5]):
    install(os.environ["LEEWARD_TEST_NAMES"])
