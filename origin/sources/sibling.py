"""Another edge of the fleet, asked for what it holds while the origin does not answer.

It asks nobody in turn. What it has is as good as the origin's; what it has not, it knows nothing of: that is no absence, and whatever goes
wrong there leads to the next source. Of what it refuses, only a recall is heard: its own rules are its own.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Collection
from typing import Any, ClassVar

from ..api import wire
from ..errors import NotFound, Refused, Unavailable
from ..model import File, Relay
from ..policy.recalls import is_recall
from . import Absent, Relayed
from .answers import Answer, told_digests
from .failures import Failed
from .link import Link
from .remote import Kind, RemoteSource

SIBLING_PATIENCE_S = 2.0
"""How long a sibling is waited for: it asks nobody."""


class SiblingSource(RemoteSource):
    """A ``Source`` over another edge. Its link authenticates by the key that the fleet shares, and ``prove`` signs a text with it.

    What is believed of an answer is proven by that key too: the way there may be plain HTTP.
    """

    NAME: ClassVar[str] = "sibling"
    UNKNOWN: ClassVar[str] = "does not take this edge for one of its fleet"

    def __init__(self, link: Link, registries: Collection[str], *, prove: Callable[[str], str], **more: Any) -> None:
        super().__init__(link, registries, **more)
        self._prove = prove

    def _challenge(self) -> str:
        return secrets.token_hex(16)

    def _believe(self, answer: Answer, target: str, challenge: str) -> None:
        # Whatever else it may say leads to the next source, whoever said it.
        if answer.status not in {200, 206, 304, 403}:
            return
        wanted = self._prove(wire.proven_text(challenge, target, answer.status, answer.field))
        # One for each key that it takes: around a change of the fleet's key there are several.
        proofs = (answer.field(wire.PROOF) or "").split()
        if not any(hmac.compare_digest(each.encode(), wanted.encode()) for each in proofs):
            raise Failed("digest", f"{self.link.host} does not prove that its answer is one of this fleet")
        if answer.status != 304 and not any(digest.algorithm == "sha256" for digest in told_digests(answer)):
            raise Failed("digest", f"{self.link.host} does not say what it sends")

    async def relay(self, relay: Relay) -> Relayed:
        """A sibling relays nothing."""
        raise Unavailable("siblings relay nothing")

    async def exists(self, file: File, url: str) -> bool:
        """Whether the sibling holds the file; that it does not says nothing."""
        if await super().exists(file, url):
            return True
        raise Unavailable(f"{self.link.host} does not hold {file.name}")

    def _absent(self, answer: Answer, asked_at: float) -> Absent:
        raise Unavailable(f"{self.link.host} holds nothing of it")

    def _error(self, failed: Failed) -> Unavailable:
        return Unavailable(failed.message, failed.retry_after_s or 5)

    async def _refusal(self, kind: Kind, answer: Answer) -> Exception:
        found = await super()._refusal(kind, answer)
        if isinstance(found, Unavailable) or (isinstance(found, Refused) and is_recall(found.verdict)):
            return found
        return Unavailable(f"{self.link.host} does not hold it" if isinstance(found, NotFound) else str(found))
