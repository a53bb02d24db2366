"""What the ledger says of a page and of a file, and how a line is written and chained: pure functions."""

from __future__ import annotations

import hashlib

import msgspec

from ..api.wire import chained
from ..model import ALLOW, Change, Digest
from . import Binding, Line, StoredAnswer


def line_of(change: Change, serial: int, previous: bytes) -> Line:
    """The line that follows the one whose hash is ``previous``; what it says is all in its record."""
    record = msgspec.json.encode(msgspec.structs.replace(change, serial=serial))
    return Line(serial, record, chained(previous, (record,)))


def digest_of_document(document: bytes) -> Digest | None:
    """The SHA-256 of a page's uncompressed document; None for an absence, which has none."""
    return Digest("sha256", hashlib.sha256(document).hexdigest()) if document else None


def page_change(answer: StoredAnswer, digest: Digest | None) -> Change:
    """The line of a page. ``digest`` is that of its document; an absence has none."""
    page = answer.page
    return Change(
        0,
        page.key,
        digest,
        kind="page",
        at=answer.received_at,
        registry=page.registry,
        project=page.project,
        view=page.view,
        status=answer.status,
    )


def file_change(binding: Binding) -> Change:
    """The line of a file, which policy let in: nothing else is ever bound."""
    file = binding.file
    return Change(
        0,
        file.key,
        binding.digest,
        ALLOW,
        kind="file",
        at=binding.bound_at,
        registry=file.registry,
        project=file.project,
        version=file.version,
        filename=file.filename,
        path=file.path,
        size=binding.size,
        purl=binding.purl,
        published=binding.published,
        source=binding.source,
    )
