"""The signer as everyone else sees it: where the authority's files are, how the signer is started, and what it answers.

Whatever needs an authority's key is done by ``python -m edge.authority``, a process of its own that ends when it has signed. This module is
what both sides of that border share, and knows nothing of certificates: the serving process opens neither authority's key, only leaves
with theirs.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from origin import datadir
from origin.errors import Unusable

SIGNER_LIMIT_S = 60.0
"""The signer takes a fraction of a second; longer on a machine that is busy, or behind another signer."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where everything is, below a data directory.

    ca/                     for its owner alone (0700), keys and leaves too (0600)
      lock                  held with flock by the signer
      root.pem root.key     the key may be taken away: the intermediate goes on until it ends
      intermediate.pem intermediate.key
      leaves/HOST.pem       leaf, intermediate and the leaf's key
    """

    data: Path

    @property
    def directory(self) -> Path:
        return self.data / "ca"

    @property
    def lock(self) -> Path:
        return self.directory / "lock"

    @property
    def root(self) -> Path:
        return self.directory / "root.pem"

    @property
    def root_key(self) -> Path:
        return self.directory / "root.key"

    @property
    def intermediate(self) -> Path:
        return self.directory / "intermediate.pem"

    @property
    def intermediate_key(self) -> Path:
        return self.directory / "intermediate.key"

    @property
    def leaves(self) -> Path:
        return self.directory / "leaves"

    def leaf(self, host: str) -> Path:
        """The file of a host that ``certificates.name_of`` has accepted: nothing else may become a part of a path."""
        return self.leaves / f"{host}.pem"


class Lease(msgspec.Struct, frozen=True):
    """How long a leaf is good, and from when a new one is due; all in UTC seconds. ``fingerprint`` tells it from another."""

    fingerprint: str
    begins: float
    ends: float
    due: float


class Issued(msgspec.Struct, frozen=True):
    """What the signer answers. ``leaves`` has every asked host that a good leaf is at hand for.

    ``intermediate_ends`` is in UTC seconds, 0 if there is none; ``due`` is when it is to be made anew. ``told`` are sentences for the
    operator: what could not be done, whether or not something is missing for it yet.
    """

    leaves: Mapping[str, Lease]
    intermediate_ends: float = 0
    due: float = 0
    told: tuple[str, ...] = ()


def root_of(directory: Path) -> bytes:
    """The root certificate (PEM), made on first use. Raises ``errors.Unusable`` with a sentence. May block: starts the signer if needed."""
    files = Files(directory)
    if (text := _read_root(files)) is None:
        _have_signed(directory)
        text = _read_root(files)
    if text is None or b"-----BEGIN CERTIFICATE-----" not in text:
        raise Unusable(
            f"The authority's root {files.root} holds no certificate: restore it, or move {files.directory} away to have a new one made."
        )
    return text


def _read_root(files: Files) -> bytes | None:
    try:
        return files.root.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unusable(f"The authority's root {files.root} cannot be read ({error.strerror}): correct its owner.") from error


def place(path: Path, content: bytes, mode: int) -> None:
    """Put ``content`` at ``path``, whole or not at all, and on the disk before it is seen. Raises ``errors.Unusable`` with a sentence."""
    try:
        datadir.place(path, content, mode)
    except OSError as error:
        raise Unusable(f"{path} cannot be written ({error.strerror}).") from error


# ---- starting the signer ---------------------------------------------------------------------------------------------


def signer_command(directory: Path, now: float) -> list[str]:
    """The signer's command line; it reads the hosts from standard input, as a JSON array."""
    # -P: nothing is imported from wherever the caller happens to stand.
    return [sys.executable, "-P", "-m", "edge.authority", str(directory.absolute()), repr(float(now))]


def signer_environment() -> dict[str, str]:
    """This process's environment, in which the signer's modules are found where ours were."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if Path(path).is_absolute())}


def read_issued(returncode: int, out: bytes, err: bytes) -> Issued:
    """The signer's answer. Raises ``errors.Unusable`` with its sentence."""
    if returncode == 0:
        with contextlib.suppress(msgspec.DecodeError):
            return msgspec.json.decode(out, type=Issued)
    lines = err.decode("utf-8", "replace").strip().splitlines()
    said = lines[-1][:500] if lines else f"it ended with {returncode} and said nothing"
    raise Unusable(said if returncode == 1 else f"The authority's signer failed: {said}")


def _have_signed(directory: Path) -> Issued:
    """Have the signer make a root."""
    try:
        done = subprocess.run(
            signer_command(directory, time.time()),
            env=signer_environment(),
            input=b"[]",
            capture_output=True,
            timeout=SIGNER_LIMIT_S,
            check=False,
        )
    except OSError as error:
        raise Unusable(f"The authority's signer could not be started ({error.strerror}).") from error
    except subprocess.TimeoutExpired:
        raise Unusable(f"The authority's signer was not done within {SIGNER_LIMIT_S:.0f} s and was stopped.") from None
    return read_issued(done.returncode, done.stdout, done.stderr)
