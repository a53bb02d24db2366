"""Where clients reach an edge: by its settings, and, where one runs on the same data directory, by its own word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from origin.words import listen_address

if TYPE_CHECKING:
    from .settings import EdgeSettings


def local_address(settings: EdgeSettings) -> str:
    """The base URL clients should use for the edge with these settings: its first public URL, else where it listens."""
    if settings.server.public_urls:
        return settings.server.public_urls[0]
    return _at(settings.listen, "http" if settings.tls.cert is None else "https")


def proxy_address(settings: EdgeSettings) -> str:
    """Where clients reach the proxy face: as ``local_address``, but plain HTTP, which is what they speak to a proxy."""
    plain = next((url for url in settings.server.public_urls if url.startswith("http:")), None)
    return plain or _at(settings.listen, "http")


def own_address(settings: EdgeSettings) -> str:
    """Where what this machine itself starts reaches the edge: where it listens, in plain HTTP unless it takes TLS only."""
    return _at(settings.listen, "https" if settings.tls.only and settings.tls.cert is not None else "http")


def _at(listen: str, scheme: str) -> str:
    host, port = listen_address(listen)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # what to dial where any address is listened on
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def as_running(settings: EdgeSettings) -> EdgeSettings:
    """``settings`` with the address that the edge on this data directory listens at; as they are if none runs there.

    Port 0, an option or a variable of its own may have led it elsewhere than its settings file says.
    """
    import trio
    from msgspec.structs import replace

    from origin import control

    try:
        at = trio.run(control.call, settings.data / "edge.sock", "at", {})
    except (control.NotRunning, control.CommandFailed, OSError):
        return settings
    return replace(settings, listen=at) if isinstance(at, str) else settings
