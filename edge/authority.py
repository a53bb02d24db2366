"""The certificate authority: a stable root, a constrained intermediate below it, and leaves.

``DIR/ca/`` in the data directory holds all of it (``signer.Files``). Whatever needs an authority's key is done by
``python -m edge.authority``, a process of its own that ends when it has signed: the serving process opens neither authority's key, only
leaves with theirs. What the certificates say is in ``certificates.py``.

The signer makes what is missing or ends too soon, under a lock, so that two edges' first moments do not make two roots, and so that a
kill at any moment loses nothing. The order of writing a certificate and its key, which are two files:

    KEY.new     written, on the disk
    CERT        renamed into place: from here on it counts
    KEY         KEY.new renamed into place

Killed before the second step, the old pair stands and ``KEY.new`` is thrown away; killed after it, the next run does the third.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography import x509

from origin.datadir import sync_directory
from origin.errors import Unusable

from . import certificates
from .certificates import Signer
from .signer import Files, Issued, Lease, place, root_of

__all__ = ["issue", "main", "root_of"]


def issue(directory: Path, hosts: Sequence[str], now: float) -> Issued:
    """Make what is missing or ends too soon for exactly these hosts: root, intermediate, leaves. ``now`` is in UTC seconds.

    What is there and good is left as it is. Without hosts only the root is made. Raises ``errors.Unusable`` if there is no root to stand
    on. What else goes wrong is told in the answer, hosts that are none among it.
    """
    files = Files(directory)
    told: list[str] = []
    hosts = _checked(hosts, told)
    with _locked(files):
        _sweep(files)
        root = _root(files, now)
        if certificates.begins(root) > now:
            told.append(
                f"The authority's root begins on {_day(certificates.begins(root))}, and clients refuse it until then: is the clock right?"
            )
        intermediate = _intermediate(files, root, hosts, now, told)
        leaves = {}
        for host in hosts:
            leaf = _leaf(files, root, intermediate, host, now, told)
            if leaf is not None:
                leaves[host] = _lease(leaf)
        _forget_ended(files, hosts, now)
    if intermediate is None:
        return Issued(leaves, told=tuple(told))
    ends = certificates.ends(intermediate.certificate)
    due = certificates.renewed_at(intermediate.certificate, certificates.INTERMEDIATE_LEFT)
    return Issued(leaves, ends, due, tuple(told))


def _checked(hosts: Sequence[str], told: list[str]) -> list[str]:
    """The hosts that a certificate can name, each once; from here on a host may be part of a path."""
    checked: dict[str, None] = {}
    for host in hosts:
        try:
            certificates.name_of(host)
        except ValueError as error:
            told.append(f"No certificate is made: {error}.")
        else:
            checked[host] = None
    return list(checked)


# ---- root ------------------------------------------------------------------------------------------------------------


def _root(files: Files, now: float) -> x509.Certificate:
    """The root's certificate, made if there never was one. Its key is not read if the certificate is there."""
    _finish(files.root, files.root_key)
    text = _read(files.root)
    if text is None:
        return _new_root(files, now).certificate
    try:
        root = certificates.read_certificates(text)[0]
    except ValueError as error:
        raise Unusable(
            f"The authority's root {files.root} cannot be used, {error}: restore it, or move {files.directory} away to have a new one made."
        ) from error
    if not certificates.is_authority(root):
        raise Unusable(f"The authority's root {files.root} is no authority's certificate: restore it.")
    if certificates.ends(root) <= now:
        raise Unusable(
            f"The authority's root {files.root} ended on {_day(certificates.ends(root))}: move {files.directory} away to have a new one"
            " made, and have every client trust that."
        )
    return root


def _new_root(files: Files, now: float) -> Signer:
    text = _read(files.root_key)
    if text is not None:
        # The certificate alone is gone. One with the same name and key does for every client that trusts the old one.
        try:
            root = certificates.make_root(now, certificates.read_key(text))
        except ValueError as error:
            raise Unusable(
                f"{files.root} is missing and {files.root_key} cannot be used, {error}: restore both, or move {files.directory} away."
            ) from error
        place(files.root, certificates.pem_of(root.certificate), 0o644)
        return root
    if files.intermediate.exists():
        raise Unusable(
            f"The authority's root {files.root} is missing, though something was signed with it: restore it, or move {files.directory} away"
            " to have a new one made."
        )
    root = certificates.make_root(now)
    _place_pair(files.root, files.root_key, root)
    return root


# ---- intermediate ----------------------------------------------------------------------------------------------------


def _intermediate(files: Files, root: x509.Certificate, hosts: Sequence[str], now: float, told: list[str]) -> Signer | None:
    """The intermediate, made anew if it does not permit all hosts, is near its end, or is not whole.

    Where that cannot be done, the sentence is appended to ``told`` and the present one goes on, if there is a good one.
    """
    _finish(files.intermediate, files.intermediate_key)
    present = _present(files, root, now)
    if not hosts:
        return present
    reason = ""
    if present is None:
        reason = "there is no intermediate that could be used"
    elif missing := sorted(set(hosts) - certificates.hosts_of(present.certificate)):
        reason = f"the intermediate is not for {', '.join(missing)}"
    elif certificates.renewed_at(present.certificate, certificates.INTERMEDIATE_LEFT) <= now:
        reason = f"the intermediate ends on {_day(certificates.ends(present.certificate))}"
    if not reason:
        return present
    try:
        made = certificates.make_intermediate(_signing_root(files, root), hosts, now)
        _place_pair(files.intermediate, files.intermediate_key, made)
    except Unusable as error:
        told.append(f"A new intermediate is due ({reason}) and cannot be made: {error}")
        return present
    return made


def _present(files: Files, root: x509.Certificate, now: float) -> Signer | None:
    """The intermediate at hand; None if there is none, or none that clients would accept."""
    with contextlib.suppress(Unusable, ValueError):
        certificate, key = _read(files.intermediate), _read(files.intermediate_key)
        if certificate is not None and key is not None:
            signer = certificates.read_signer(certificate, key)
            if certificates.is_valid(signer.certificate, now) and certificates.is_signed_by(signer.certificate, root):
                return signer
    return None


def _signing_root(files: Files, root: x509.Certificate) -> Signer:
    text = _read(files.root_key)
    if text is None:
        raise Unusable(f"the root's key {files.root_key} is not there; put it back until this is done.")
    try:
        return certificates.read_signer(certificates.pem_of(root), text)
    except ValueError as error:
        raise Unusable(f"the root's key {files.root_key} cannot be used, {error}; restore it.") from error


# ---- leaves ----------------------------------------------------------------------------------------------------------


def _leaf(
    files: Files, root: x509.Certificate, intermediate: Signer | None, host: str, now: float, told: list[str]
) -> x509.Certificate | None:
    """A host's leaf, made if missing or due; None, with a sentence in ``told``, where there is no good one and none can be made."""
    path = files.leaf(host)
    held = _held(path, root, host, now)
    if held is not None and not _is_due(held, intermediate, now):
        return held
    if intermediate is None or host not in certificates.hosts_of(intermediate.certificate):
        return held
    leaf = certificates.make_leaf(intermediate, host, now)
    chain = (leaf.certificate, intermediate.certificate)
    try:
        place(path, b"".join([*map(certificates.pem_of, chain), certificates.key_pem_of(leaf.key)]), 0o600)
    except Unusable as error:
        told.append(f"The certificate for {host} could not be made: {error}")
        return held
    return leaf.certificate


def _lease(leaf: x509.Certificate) -> Lease:
    due = certificates.renewed_at(leaf, certificates.LEAF_LEFT)
    return Lease(certificates.fingerprint(leaf), certificates.begins(leaf), certificates.ends(leaf), due)


def _is_due(leaf: x509.Certificate, intermediate: Signer | None, now: float) -> bool:
    """Whether a new one is due, and would last longer: near the end of an intermediate that cannot be renewed, none does."""
    if intermediate is None or certificates.ends(leaf) >= certificates.ends(intermediate.certificate):
        return False
    return certificates.renewed_at(leaf, certificates.LEAF_LEFT) <= now


def _held(path: Path, root: x509.Certificate, host: str, now: float) -> x509.Certificate | None:
    """The leaf in this file, if it is whole and a client that trusts the root would accept it for ``host``."""
    with contextlib.suppress(Unusable, ValueError):
        if (text := _read(path)) is not None:
            leaf, *above = certificates.read_certificates(text)
            certificates.read_signer(text, text)
            chain = [leaf, *above, root]
            if (
                len(chain) == 3
                and certificates.is_for(leaf, host)
                and all(certificates.is_valid(one, now) for one in chain[:2])
                and all(certificates.is_signed_by(one, issuer) for one, issuer in itertools.pairwise(chain))
            ):
                return leaf
    return None


def _forget_ended(files: Files, hosts: Sequence[str], now: float) -> None:
    """Remove the leaves, with their keys, that nobody asks for any more and that have ended."""
    kept = {files.leaf(host) for host in hosts}
    for path in files.leaves.glob("*.pem"):
        if path not in kept:
            with contextlib.suppress(Unusable, ValueError, OSError):
                if certificates.ends(certificates.read_certificates(_read(path) or b"")[0]) <= now:
                    path.unlink()


# ---- files -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(files: Files) -> Iterator[None]:
    """Make the directories, and keep other signers out."""
    try:
        for directory in (files.directory, files.leaves):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if directory.stat().st_mode & 0o077:
                directory.chmod(0o700)
        # The file stays: deleting it would let two processes each lock a file of that name.
        lock = os.open(files.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unusable(
            f"The authority's directory {files.directory} cannot be used ({error.strerror}): correct its owner, or check the disk."
        ) from error
    try:
        # Waits for another signer, which is quick; whoever started us waits only so long.
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    except OSError as error:
        raise Unusable(
            f"The authority's directory {files.directory} cannot be used ({error.strerror}): use a local file system."
        ) from error
    finally:
        os.close(lock)


def _sweep(files: Files) -> None:
    """Remove what killed signers left half written. Only signers write files of these names, one at a time."""
    for leftovers in (files.directory.glob(".root.*"), files.directory.glob(".intermediate.*"), files.leaves.glob(".*")):
        for path in leftovers:
            with contextlib.suppress(OSError):
                path.unlink()


def _place_pair(certificate: Path, key: Path, signer: Signer) -> None:
    """Put a certificate and its key in place, in the order that the module's docstring tells."""
    place(_new(key), certificates.key_pem_of(signer.key), 0o600)
    place(certificate, certificates.pem_of(signer.certificate), 0o644)
    _rename_new(key)


def _finish(certificate: Path, key: Path) -> None:
    """Do what a killed signer left undone of ``_place_pair``, or take it back."""
    new = _read(_new(key))
    if new is None:
        return
    text = _read(certificate)
    if text is not None:
        with contextlib.suppress(ValueError):
            certificates.read_signer(text, new)
            _rename_new(key)
            return
    with contextlib.suppress(OSError):
        _new(key).unlink()


def _rename_new(key: Path) -> None:
    try:
        _new(key).replace(key)
        sync_directory(key.parent)
    except OSError as error:
        raise Unusable(f"{key} cannot be written ({error.strerror}).") from error


def _new(key: Path) -> Path:
    return key.with_name(f"{key.name}.new")


def _read(path: Path) -> bytes | None:
    """A file's bytes; None if it is not there."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unusable(f"{path} cannot be read ({error.strerror}): correct its owner.") from error


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


# ---- the process -----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    """``python -m edge.authority DIR NOW``: issue for the hosts on standard input (a JSON array), and print an ``Issued`` as JSON.

    Exit 1 with one sentence on standard error if there is nothing to answer.
    """
    try:
        data, now = arguments
        hosts = msgspec.json.decode(sys.stdin.buffer.read(), type=list[str])
        issued = issue(Path(data), hosts, float(now))
    except (Unusable, ValueError) as error:
        print(str(error), file=sys.stderr)
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(issued))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
