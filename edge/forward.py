"""The proxy face: requests in absolute form, ``CONNECT``, and what is asked inside an intercepted tunnel."""

from __future__ import annotations

from origin.http import Request, Response


class Forward:
    """The edge's outermost handler: it tells the faces apart. What is the mirror face's goes there."""

    async def handle(self, request: Request) -> Response:
        """Answer any request, of either face. Never raises."""
        raise NotImplementedError
