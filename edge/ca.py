"""``edge ca``: what the authority holds, read from its files whether an edge runs or not. No private key is read, but for those of leaves'
files, in which it stands beside the certificate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography import x509

from origin.errors import Unusable

from . import certificates
from .signer import Files


def describe(directory: Path, now: float) -> dict[str, object]:
    """Root, intermediate and leaves as plain values, times in UTC seconds. ``trouble`` are sentences: what is wrong or soon will be.

    Raises ``errors.Unusable`` if there is no root, or it cannot be read.
    """
    files = Files(directory)
    trouble: list[str] = []
    try:
        root = certificates.read_certificates(files.root.read_bytes())[0]
    except (OSError, ValueError) as error:
        raise Unusable(f"The authority's root {files.root} cannot be read: {_reason(error)}.") from error
    has_key = files.root_key.exists()
    if not certificates.is_valid(root, now):
        trouble.append("the root is not valid now: is the clock right?")
    intermediate = _intermediate(files, root, now, has_key, trouble)
    if intermediate is not None and not has_key:
        trouble.append(
            f"the root's key is not at {files.root_key}: new hosts get no certificate, and all end with the intermediate;"
            " put it back while a new intermediate is due"
        )
    return {
        "root": {
            "subject": root.subject.rfc4514_string(),
            "fingerprint": certificates.fingerprint(root),
            **_life(root),
            "file": str(files.root),
            "key_is_here": has_key,
        },
        "intermediate": None
        if intermediate is None
        else {"hosts": sorted(certificates.hosts_of(intermediate)), **_life(intermediate)},
        "leaves": _leaves(files, now, trouble),
        "trouble": trouble,
    }


def _intermediate(files: Files, root: x509.Certificate, now: float, has_key: bool, trouble: list[str]) -> x509.Certificate | None:
    try:
        intermediate = certificates.read_certificates(files.intermediate.read_bytes())[0]
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        trouble.append(f"the intermediate {files.intermediate} cannot be read: {_reason(error)}")
        return None
    if not certificates.is_signed_by(intermediate, root):
        trouble.append("the intermediate was not signed by this root; a running edge makes another")
    elif not certificates.is_valid(intermediate, now):
        trouble.append("the intermediate is not valid now")
    elif not has_key and certificates.renewed_at(intermediate, certificates.INTERMEDIATE_LEFT) <= now:
        trouble.append("a new intermediate is due")
    return intermediate


def _leaves(files: Files, now: float, trouble: list[str]) -> dict[str, object]:
    leaves: dict[str, object] = {}
    try:
        paths = sorted(files.leaves.glob("[!.]*.pem"))
    except OSError:
        paths = []
    for path in paths:
        try:
            leaf = certificates.read_certificates(path.read_bytes())[0]
        except (OSError, ValueError) as error:
            trouble.append(f"{path} cannot be read: {_reason(error)}")
            continue
        # One that has ended is made anew when an edge runs that asks for it.
        leaves[path.stem] = {**_life(leaf), "valid": certificates.is_valid(leaf, now)}
    return leaves


def _life(certificate: x509.Certificate) -> dict[str, float]:
    return {"begins": certificates.begins(certificate), "ends": certificates.ends(certificate)}


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def lines(result: Mapping[str, Any], time_text: Callable[[object], str]) -> list[str]:
    """``describe``'s result for people; ``time_text`` writes a time."""
    root, intermediate, leaves = result["root"], result["intermediate"], result["leaves"]
    told = [
        "root",
        f"  subject      {root['subject']}",
        f"  SHA-256      {root['fingerprint']}",
        f"  valid        {time_text(root['begins'])} to {time_text(root['ends'])}",
        f"  certificate  {root['file']}",
        f"  key          {'beside it' if root['key_is_here'] else 'not here'}",
    ]
    if intermediate is None:
        told.append("intermediate   none yet: edge serve makes one")
    else:
        told += [
            "intermediate",
            f"  only for     {', '.join(intermediate['hosts'])} (and names below them)",
            f"  valid        {time_text(intermediate['begins'])} to {time_text(intermediate['ends'])}",
        ]
    if leaves:
        width = max(len(host) for host in leaves)
        told.append("leaves")
        told += [
            f"  {host:<{width}}  {'to' if life['valid'] else 'ended'} {time_text(life['ends'])}" for host, life in leaves.items()
        ]
    return told + [f"note: {sentence}" for sentence in result["trouble"]]
