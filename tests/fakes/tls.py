"""An authority of a test's own, which stands for the public ones: the fakes' certificates are its, and edges are told to trust it."""

from __future__ import annotations

import itertools
import ssl
from pathlib import Path

import trustme


class Authority:
    """Made anew for each ``directory``; ``path`` is its certificate (PEM)."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "authority.pem"
        self._directory = directory
        self._numbers = itertools.count(1)
        self._ca = trustme.CA()
        self._ca.cert_pem.write_to_path(self.path)

    def certificate(self, *names: str) -> Path:
        """One for these names; the file holds chain and key."""
        path = self._directory / f"certificate-{next(self._numbers)}.pem"
        self._ca.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(path)
        return path

    def client_context(self) -> ssl.SSLContext:
        """Trusts this authority alone."""
        return ssl.create_default_context(cafile=self.path)


def server_context(certificate: str) -> ssl.SSLContext:
    """A fake's context, with a file as ``certificate`` gives it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["http/1.1"])
    return context
