"""``origin serve`` in a process of its own, and a node that speaks to it over a raw TLS connection, knowing it by its pin alone."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509

from origin.api import wire
from origin.identity import pin_of
from tests.harness import KINDS, REFUSING, NodeProcess, Reply


class OriginProcess(NodeProcess):
    """An origin before ``upstreams`` (kind to URL; others refuse). ``top`` is TOML placed before its registries."""

    program = "origin"

    def __init__(self, directory: Path, upstreams: Mapping[str, str], *, top: str = "", data: Path | None = None) -> None:
        super().__init__(directory, data)
        self.upstreams = dict(upstreams)
        self._top = top
        self._write_config()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def _settings(self) -> list[str]:
        lines = [self._top]
        for kind in KINDS:
            url = self.upstreams.get(kind) or f"http://127.0.0.1:{REFUSING}/"
            lines += [f"[registries.{kind}]", f"upstream = {json.dumps(url)}"]
        return lines

    def _look(self, path: str, timeout_s: float = 30) -> Reply:
        return Node(self).ask(path, timeout_s=timeout_s)

    def told(self, *arguments: str, status: int = 0) -> Any:
        """What a command says with ``--json``."""
        done = self.command(*arguments, "--json")
        assert done.returncode == status, done.stdout + done.stderr
        return json.loads(done.stdout)

    def enrolled(self, name: str) -> Node:
        """A node that was let in with an invitation."""
        pin, secret = wire.read_token(self.told("invite", name)["token"])
        node = Node(self, pin)
        asked = wire.Enrolment(secret=base64.b64encode(secret).decode())
        reply = node.ask("/v1/enrol", method="POST", body=msgspec.json.encode(asked))
        assert reply.status == 200, reply.body
        node.enrolled = msgspec.json.decode(reply.body, type=wire.Enrolled)
        return node


class Node:
    """What asks an origin: over TLS, checking nothing but the pin, if it has one."""

    def __init__(self, origin: OriginProcess, pin: bytes | None = None) -> None:
        self.origin = origin
        self.pin = pin
        self.enrolled: wire.Enrolled | None = None

    def connect(self, timeout_s: float = 30) -> http.client.HTTPSConnection:
        """A connection to whoever has the pin's key. Raises ``ssl.SSLError`` for anybody else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", self.origin.port, timeout=timeout_s, context=context)
        connection.connect()
        sock = connection.sock
        assert isinstance(sock, ssl.SSLSocket)
        shown = sock.getpeercert(binary_form=True)
        assert shown is not None
        if self.pin is not None and pin_of(x509.load_der_x509_certificate(shown)) != self.pin:
            connection.close()
            raise ssl.SSLError("another key than the invitation's")
        return connection

    def ask(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
        body: bytes | None = None,
        timeout_s: float = 30,
    ) -> Reply:
        """One request on a connection of its own."""
        connection = self.connect(timeout_s)
        try:
            fields = dict(headers or {})
            if self.enrolled is not None:
                fields["Authorization"] = f"Bearer {self.enrolled.secret}"
            connection.request(method, path, body, fields)
            response = connection.getresponse()
            return Reply(
                response.status,
                response.reason,
                {name.lower(): value for name, value in response.getheaders()},
                response.read(),
            )
        finally:
            connection.close()

    def tell(self, what: str, message: msgspec.Struct) -> Reply:
        """Post a message."""
        return self.ask(f"/v1/{what}", method="POST", body=msgspec.json.encode(message))

    def verdicts(self) -> wire.Verdicts:
        return msgspec.json.decode(self.ask("/v1/verdicts").body, type=wire.Verdicts)

    def changes(self, after: str, *, verdicts: int = 0, wait_s: int = 0) -> tuple[wire.Batch, list[bytes]]:
        reply = self.ask(f"/v1/changes?after={after}&verdicts={verdicts}&wait={wait_s}&limit=1000")
        assert reply.status == 200, reply.body
        return wire.read_lines(reply.body)

    def snapshot(self) -> wire.Snapshot:
        return msgspec.json.decode(self.ask("/v1/snapshot").body, type=wire.Snapshot)

    def acknowledge(self, cursor: str, verdicts: int) -> Reply:
        return self.tell("acknowledgements", wire.Acknowledgement(cursor=cursor, verdicts=verdicts))
