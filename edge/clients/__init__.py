"""How each client is pointed at this edge, and back.

``CLIENTS`` is the table: where a client's configuration is, what it is written in, and which keys point it at a registry; its rows are
in ``python.py``, ``node.py`` and ``jvm.py``. What is done with a row is in ``records.py``. Here is which address a client gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from origin.settings import RegistrySettings
from origin.words import web_url

from ..settings import DEFAULT_LISTEN
from .jvm import JVM
from .node import NODE
from .python import PYTHON
from .records import Client, ClientError, FileOutcome, Outcome, Records, Surroundings, host_of, undo, use

__all__ = [
    "CLIENTS",
    "Client",
    "ClientError",
    "FileOutcome",
    "Outcome",
    "Records",
    "Surroundings",
    "how_to",
    "index_url",
    "is_index_url",
    "once",
    "undo",
    "use",
]

CLIENTS: Mapping[str, Client] = {client.name: client for client in (*PYTHON, *NODE, *JVM)}
"""Every client that can be pointed here."""


def is_index_url(client: Client, address: str) -> bool:
    """Whether ``address`` is what the client is given, not an edge's: for PyPI it ends in ``/simple/``, else it has a path."""
    path = urlsplit(address).path.rstrip("/")
    return path.endswith("/simple") if client.kind == "pypi" else bool(path)


def index_url(client: Client, address: str, registries: Mapping[str, RegistrySettings]) -> str:
    """The URL ``client`` is given: ``address`` itself if it is one, else the edge's address with the instance's path added.

    Raises ``ClientError`` for something that is no address, or if no instance of the client's kind is configured.
    """
    try:
        web_url(address)
    except ValueError as error:
        raise ClientError(str(error)) from None
    if is_index_url(client, address):
        return address.rstrip("/") + "/"
    found = [registry for name, registry in registries.items() if client.kind in (name, registry.kind)]
    found.sort(key=lambda registry: registry is not registries.get(client.kind))
    if not found:
        raise ClientError(f"no {client.kind} registry is configured for {client.name}")
    base = address.rstrip("/") + "/"
    path = found[0].path
    return (base if base.endswith(path) else base.removesuffix("/") + path) + _below(client.kind)


def once(client: Client, url: str) -> str:
    """The line that installs through ``url`` one time, with nothing written."""
    return client.once.format(url=url, host=host_of(url))


def how_to(base_url: str, registries: Mapping[str, RegistrySettings], *, proxy: bool = False, options: str = "") -> str:
    """How to point each client at the edge that answers at ``base_url``: text for a person's terminal, a line for each registry.

    ``proxy`` says that it is an HTTP proxy too; ``options`` are those by which other commands find it, each after a space.
    """
    lines = []
    for name, registry in registries.items():
        mine = [client for client in CLIENTS.values() if client.kind == registry.kind]
        if not mine:
            continue
        url = f"{base_url.rstrip('/')}{registry.path}{_below(registry.kind)}"
        lines.append(f"{name}: {url}")
        # Only where everything is at its default is the command sure to find this address by itself.
        by_default = url == f"http://{DEFAULT_LISTEN}/{registry.kind}/{_below(registry.kind)}"
        first, *others = mine
        lines.append(
            f"  edge use {first.name}" + ("" if by_default else f" --url {url}") + f" (or {', '.join(c.name for c in others)})"
        )
        if first.kind != "maven":
            lines[-1] += f", or once: {once(first, url)}"
    if proxy:
        lines.append(f"as a proxy: HTTPS_PROXY={base_url.rstrip('/')}, with {base_url.rstrip('/')}/-/ca.pem trusted")
        lines.append(f"  edge use{options} --proxy NAME sets both, edge run{options} -- COMMAND for one command")
    if lines:
        lines.append("edge use NAME writes it for you, --undo takes it back.")
    if any(registry.kind == "pypi" for registry in registries.values()):
        lines[-1] += " Make it pip's only index: never add it with --extra-index-url,"
        lines.append("which lets packages from elsewhere win unchecked.")
    return "\n".join(lines)


def _below(kind: str) -> str:
    """Where clients of the kind begin, beneath an instance's path."""
    return "simple/" if kind == "pypi" else ""
