"""What one client may cost. Every figure is a setting; these are the defaults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds.

    ``head_bytes`` and ``head_fields`` bound a request's head (431), ``target_bytes`` its target (414), ``body_bytes`` its body (413).
    A head must be complete ``head_s`` after its first byte (408), a body ``body_s`` after its head, and it may pause for
    ``body_pause_s``; a TLS handshake ends within ``handshake_s``; an idle connection closes after ``idle_s``. Beyond ``connections``
    nobody is accepted until somebody leaves. A peer that takes less than ``slowest_bytes_per_s``, averaged over ``stall_s``, is
    dropped. ``drain_s`` is how long running answers may go on once the server drains.

    Of one HTTP/2 connection: ``h2_streams`` at a time, whose handlers may not be more either, whatever the client has reset; bodies
    of ``h2_bodies_bytes`` together; ``h2_requests`` until it is asked to come again. A head has ``h2_continuations`` CONTINUATION
    frames. Beyond ``h2_resets`` streams in ``h2_resets_s`` that the client resets within ``h2_reset_soon_s`` of opening them, or makes us
    reset, it is sent away; so it is beyond ``h2_control_per_s`` SETTINGS and PING frames (``h2_control_burst`` at once),
    ``h2_control_queued`` control frames of ours that it has not taken, and ``h2_noise_frames`` frames that carry nothing, or less than
    ``h2_noise_bytes`` each on average. ``h2_output_bytes`` may wait for the socket.
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
    h2_streams: int = 100
    h2_bodies_bytes: int = 4 * 1024 * 1024
    h2_requests: int = 10_000
    h2_continuations: int = 8
    h2_resets: int = 100
    h2_resets_s: float = 60
    h2_reset_soon_s: float = 1
    h2_control_per_s: float = 10
    h2_control_burst: int = 50
    h2_control_queued: int = 1000
    h2_noise_frames: int = 1000
    h2_noise_bytes: int = 128
    h2_output_bytes: int = 64 * 1024
