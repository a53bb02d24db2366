"""``origin serve`` in a process of its own, and a node that speaks to it over a raw TLS connection, knowing it by its pin alone."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import msgspec
from cryptography import x509

from origin.api import wire
from origin.identity import pin_of
from tests.harness import KINDS, REFUSING, ROOT, START_TIMEOUT_S, Reply, Rule, clean_environment, free_port, wait_until


class OriginProcess:
    """An origin, with its settings file and data in ``directory``. ``upstream`` is PyPI's; other registries refuse. ``top`` is TOML."""

    def __init__(self, directory: Path, upstream: str, *, top: str = "", data: Path | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.data = data or directory / "data"
        self.config = directory / "origin.toml"
        self.log = directory / "origin.log"
        self.port = free_port()
        self._upstream = upstream
        self._top = top
        self._process: subprocess.Popen[bytes] | None = None
        self.set_rules()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start it, and return once it says that it is ready."""
        assert self._process is None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "origin", "serve", *self._options(), "--listen", f"127.0.0.1:{self.port}"],
                cwd=ROOT,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

        def ready() -> bool:
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError(f"the origin ended with {self._process.returncode}:\n{self.log_tail()}")
            try:
                return Node(self).ask("/-/ready", timeout_s=2).status == 200
            except OSError:
                return False

        wait_until(ready, START_TIMEOUT_S)
        return self

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.terminate()
        try:
            return process.wait(20)
        finally:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """SIGKILL: no goodbye of any kind."""
        process, self._process = self._process, None
        assert process is not None
        process.kill()
        process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else "(no log)"

    def set_rules(self, *rules: Rule) -> None:
        """Rewrite the settings file, atomically, as an editor would."""
        lines = [self._top, "[registries.pypi]", f"upstream = {json.dumps(self._upstream)}"]
        for kind in KINDS[1:]:
            lines += [f"[registries.{kind}]", f'upstream = "http://127.0.0.1:{REFUSING}/"']
        partial = self.config.with_suffix(".partial")
        partial.write_text("\n".join([*lines, "", *(rule.toml() for rule in rules)]))
        partial.rename(self.config)

    def command(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run ``origin COMMAND …`` with its settings and data, whether it runs or not."""
        command, *rest = arguments
        return subprocess.run(
            [sys.executable, "-m", "origin", command, *self._options(), *rest],
            cwd=ROOT,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

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

    def _options(self) -> list[str]:
        return ["--config", str(self.config), "--data", str(self.data)]

    def _environment(self) -> dict[str, str]:
        return clean_environment(self.directory / "home") | {"PYTHONPATH": str(ROOT)}


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
