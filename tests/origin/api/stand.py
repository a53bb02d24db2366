"""A face over a scripted service, asked without a socket."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from origin.api.server import Face
from origin.http import Request, Response
from origin.http.answers import narrowed
from origin.model import Arriving, Span
from tests.scripted import Bench, Upload, bench, now

DEPLOYMENT = "0123456789abcdef"
NODE = "tokyo"
KNOWN = {"authorization": "Bearer known"}


def who(authorization: str | None) -> str | None:
    """The one node that is known here."""
    return NODE if authorization == "Bearer known" else None


@dataclass
class Asked:
    """A face, and what can be asked of it."""

    face: Face
    bench: Bench

    async def ask(
        self, target: str, headers: Mapping[str, str] | None = None, method: str = "GET", body: bytes = b"", *, known: bool = True
    ) -> Response:
        """The answer as the server would send it: narrowed by conditions and ranges."""
        fields = {**(KNOWN if known else {}), **(headers or {})}
        request = Request(method, target, tuple(fields.items()), body=body, client="192.0.2.7")
        response = await self.face.handle(request)
        return narrowed(request, response, now())

    async def post(self, target: str, message: msgspec.Struct, **headers: str) -> Response:
        """A message's answer."""
        return await self.ask(target, headers, "POST", msgspec.json.encode(message))


async def content(response: Response) -> bytes:
    """The body as a client would get it; then it is closed, and its delivery told."""
    body, data = response.body, b""
    match body:
        case bytes():
            data = body
        case Span():
            data = os.pread(body.fd, len(body), body.start)
            body.close()
        case Arriving():
            at = body.start
            while at < body.stop:
                stop = min(body.stop, await body.flight.wait_beyond(at))
                data += os.pread(body.flight.fileno(), stop - at, at)
                at = stop
            body.close()
    if response.delivered is not None:
        response.delivered(len(data), True)
    return data


def document(response: Response) -> dict[str, object]:
    """An answer that is JSON."""
    assert isinstance(response.body, bytes)
    return msgspec.json.decode(response.body, type=dict[str, object])


@asynccontextmanager
async def asked(tmp_path: Path, projects: Mapping[str, list[Upload]], *, held_only: bool = False) -> AsyncIterator[Asked]:
    """A face for packages alone; ``held_only`` makes it a sibling's."""
    async with bench(tmp_path, projects) as b:
        face = Face(b.service, b.catalog, b.service.registries, b.metrics, DEPLOYMENT, who, held_only=held_only)
        yield Asked(face, b)


def values(response: Response, name: str) -> Sequence[str]:
    """All values of a field."""
    return [value for field, value in response.headers if field.lower() == name]
