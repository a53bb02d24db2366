"""The certificate authority: a stable root, a constrained intermediate below it, and leaves.

``DIR/ca/`` in the data directory holds all of it. Whatever needs an authority's key is done by ``python -m edge.authority``, a process of
its own that ends when it has signed: the serving process opens neither authority's key, only leaves with theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def root_of(directory: Path) -> bytes:
    """The root certificate (PEM), made on first use. Raises ``errors.Unusable`` with a sentence. May block: starts the signer if needed."""
    raise NotImplementedError


def issue(directory: Path, hosts: Sequence[str], now: float) -> None:
    """Make what is missing or ends too soon for exactly these hosts: root, intermediate, leaves. Only the signer calls this."""
    raise NotImplementedError
