"""The certificate authority: a stable root, a constrained intermediate below it, and leaves.

``DIR/ca/`` in the data directory holds all of it. Whatever needs an authority's key is done by ``python -m edge.authority``, a process of
its own that ends when it has signed: the serving process opens neither authority's key, only leaves with theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Files:
    """Where everything is, below a data directory."""

    data: Path

    @property
    def directory(self) -> Path:
        return self.data / "ca"

    @property
    def root(self) -> Path:
        return self.directory / "root.pem"


def root_of(directory: Path) -> bytes:
    """The root certificate (PEM), made on first use. Raises ``errors.Unusable`` with a sentence. May block: starts the signer if needed."""
    raise NotImplementedError


def issue(directory: Path, hosts: Sequence[str], now: float) -> None:
    """Make what is missing or ends too soon for exactly these hosts: root, intermediate, leaves. Only the signer calls this."""
    raise NotImplementedError


def place(path: Path, content: bytes, mode: int) -> None:
    """Put ``content`` at ``path``, whole or not at all, and on the disk before it is seen. Raises ``errors.Unusable`` with a sentence."""
    raise NotImplementedError
