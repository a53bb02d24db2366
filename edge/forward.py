"""The proxy face: requests in absolute form, ``CONNECT``, and what is asked inside an intercepted tunnel."""

from __future__ import annotations

from origin.http import Request, Response

from .hosts import Hosts
from .intercept import Interception
from .mirror import Mirror


class Forward:
    """The edge's outermost handler: it tells the faces apart. What is the mirror face's goes there."""

    def __init__(self, mirror: Mirror, proxy: tuple[Hosts, Interception] | None) -> None:
        self._mirror = mirror
        self._proxy = proxy

    async def handle(self, request: Request) -> Response:
        """Answer any request, of either face. Never raises."""
        return await self._mirror.handle(request)
