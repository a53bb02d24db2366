"""What one client may cost. Every figure is a setting; these are the defaults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds.

    ``head_bytes`` and ``head_fields`` bound a request's head (431), ``target_bytes`` its target (414), ``body_bytes`` its body (413).
    A head must be complete ``head_s`` after its first byte (408), a body ``body_s`` after its head, and it may pause for
    ``body_pause_s``; a TLS handshake must end within ``handshake_s``; an idle connection closes after ``idle_s``. Beyond ``connections``
    nobody is accepted until somebody leaves. A peer that takes less than ``slowest_bytes_per_s``, averaged over ``stall_s``, is dropped.
    ``drain_s`` is how long running answers may go on once the server drains.
    """

    head_bytes: int = 64 * 1024
    head_fields: int = 100
    target_bytes: int = 8 * 1024
    body_bytes: int = 1024 * 1024
    head_s: float = 10
    body_pause_s: float = 30
    body_s: float = 60
    handshake_s: float = 10
    idle_s: float = 75
    tunnel_idle_s: float = 600
    connections: int = 10_000
    slowest_bytes_per_s: int = 1024
    stall_s: float = 30
    drain_s: float = 60
