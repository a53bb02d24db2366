"""The words a settings file is written in: durations, sizes, addresses, URLs. Each is read strictly, and complained about in a sentence."""

from __future__ import annotations

import ipaddress
import math
import re
from urllib.parse import urlsplit

_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*")
_DURATION_UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGTP])(I?))?B?", re.IGNORECASE)


def duration_s(value: object) -> float:
    """Read ``"10m"``, ``"1h30m"``, ``"250ms"`` or plain seconds. Raises ``ValueError``."""
    complaint = ValueError(f'not a duration, such as "30s", "10m" or "1d": {shown(value)}')
    if isinstance(value, bool):
        raise complaint
    if isinstance(value, int | float):
        seconds = float(value)
    elif isinstance(value, str):
        text = value.strip().lower()
        try:
            seconds = float(text)
        except ValueError:
            parts = list(_DURATION_PART.finditer(text))
            if not parts or "".join(part[0] for part in parts) != text:
                raise complaint from None
            seconds = math.fsum(float(part[1]) * _DURATION_UNITS_S[part[2]] for part in parts)
    else:
        raise complaint
    if not (math.isfinite(seconds) and seconds >= 0):
        raise complaint
    return seconds


def size_bytes(value: object) -> int:
    """Read ``"10GB"`` (powers of 1000), ``"512MiB"`` (powers of 1024) or plain bytes. Raises ``ValueError``."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (found := _SIZE.fullmatch(value.strip())):
        step = 1024 if found[3] else 1000
        power = "KMGTP".index(found[2].upper()) + 1 if found[2] else 0
        whole, _, fraction = found[1].partition(".")
        scale: int = step**power
        return int(whole) * scale + (int(fraction) * scale // 10 ** len(fraction) if fraction else 0)
    raise ValueError(f'not a size, such as "10GB" or "512MiB": {shown(value)}')


def listen_address(text: str) -> tuple[str, int]:
    """Split ``127.0.0.1:8080``, ``[::1]:8080`` or ``localhost:8080`` into host and port; port 0 lets the system choose.

    Raises ``ValueError``.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535 or (":" in host) != bracketed:
        raise ValueError(f'not an address to listen on, such as "127.0.0.1:8080" or "[::1]:8080": {shown(text)}')
    if bracketed:
        try:
            ipaddress.IPv6Address(host.partition("%")[0])
        except ValueError:
            raise ValueError(f"not an IPv6 address: {shown(host)}") from None
    elif not re.fullmatch(r"[A-Za-z0-9_.-]+", host):
        raise ValueError(f"not a host name or address: {shown(host)}")
    return host, int(port)


def web_url(text: str) -> str:
    """Return ``text`` if it is an absolute http or https URL without query and fragment.

    Raises ``ValueError``, showing no credentials.
    """
    try:
        parts = urlsplit(text)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        parts, port_is_fine = urlsplit(""), False
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not port_is_fine
        or re.search(r"[\s\x00-\x1f\x7f\\]", text)
        or "?" in text
        or "#" in text
    ):
        raise ValueError(f"not an http or https URL without query: {shown(text)}")
    return text


def shown(value: object) -> str:
    """``value`` as a complaint shows it: short, and without what precedes an ``@``, which may be a password however it is written."""
    text = repr(value)
    _, at, rest = text.rpartition("@")
    if at:
        text = f"'…@{rest}"
    return text if len(text) <= 80 else text[:79] + "…"
