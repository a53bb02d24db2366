"""How a test talks to a fake registry: the process, its addresses, and what every kind understands."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from tests.fakes.tls import Authority

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Seen:
    """One request the fake received. ``headers`` are in order, names in lower case; ``sent`` counts body bytes handed to the socket.

    ``kind`` is the registry's word for it (PyPI: ``root``, ``page``, ``legacy``, ``provenance``, ``file``, ``metadata``, ``redirect``
    or ``other``); ``host`` is ``index``, ``files`` or ``elsewhere``. ``status`` is 0 while unanswered or when it never was answered.
    ``at`` is the monotonic clock in seconds, ``peer`` the address that it came from.
    """

    number: int
    at: float
    host: str
    method: str
    path: str
    kind: str
    headers: tuple[tuple[str, str], ...]
    status: int
    sent: int
    complete: bool
    body: str = ""
    peer: str = ""

    def header(self, name: str) -> str | None:
        for n, v in self.headers:
            if n == name:
                return v
        return None


class Fake:
    """A fake registry as a test holds it: its addresses, and its control port. Each kind adds what it can publish."""

    kind: ClassVar[str]
    """The module under ``tests.fakes`` whose ``KIND`` answers."""

    def __init__(
        self, process: subprocess.Popen[str], ports: Mapping[str, int], hosts: Mapping[str, str], site: Mapping[str, Any]
    ) -> None:
        self._process = process
        self.ports = dict(ports)
        self.hosts = dict(hosts)
        self.scheme: str = site.get("scheme", "http")
        self.names: dict[str, str] = dict(site.get("names", hosts))

    @classmethod
    @contextlib.contextmanager
    def start(
        cls, authority: Authority | None = None, *, also: Sequence[str] = (), hosts: Mapping[str, str] | None = None
    ) -> Iterator[Self]:
        """Run the fake until the block ends. ``hosts`` are other addresses for ``index``, ``files`` and ``elsewhere``.

        With an ``authority`` it speaks TLS, and its hosts are called ``pypi.test``, ``files.pypi.test`` and ``elsewhere.pypi.test``, by its
        kind, in the certificate and in its documents; ``also`` are further names in the certificate.
        """
        site: dict[str, Any] = {} if hosts is None else {"hosts": dict(hosts), "names": dict(hosts)}
        if authority is not None:
            names = {"index": f"{cls.kind}.test", "files": f"files.{cls.kind}.test", "elsewhere": f"elsewhere.{cls.kind}.test"}
            certificate = authority.certificate(*names.values(), *also)
            site |= {"scheme": "https", "names": names, "certificate": str(certificate)}
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes", cls.kind, json.dumps(site)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the fake {cls.kind} registry did not start")
            hello = json.loads(line)
            yield cls(process, hello["ports"], hello["hosts"], site)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def root(self, host: str) -> str:
        """The address of one of its hosts (``index``, ``files``, ``elsewhere``), without a slash at the end."""
        return f"{self.scheme}://{self.names[host]}:{self.ports[host]}"

    @property
    def index_root(self) -> str:
        return self.root("index")

    @property
    def files_root(self) -> str:
        return self.root("files")

    @property
    def elsewhere_root(self) -> str:
        """A third host, which neither page nor setting names."""
        return self.root("elsewhere")

    @property
    def addresses(self) -> dict[str, list[str]]:
        """Where its names lead, as ``Edge`` takes them. Empty if it has none."""
        return {name: [self.hosts[host]] for host, name in self.names.items() if name != self.hosts[host]}

    # -- how it answers

    def mode(self, **settings: bool | str | float) -> None:
        """Change how it answers everything, by the modes of its kind; every kind has ``ahead_s``.

        ``ahead_s`` is how far ahead of the real clock its ``Date`` is.
        """
        self._call("mode", **settings)

    def misbehave(self, match: str, **how: Any) -> int:
        """Go wrong on every request whose path matches the glob; see ``misbehaviour.Misbehaviour`` for the ways. Returns its number."""
        return int(self._call("misbehave", match=match, **how))

    def behave(self, number: int | None = None) -> None:
        """Stop one misbehaviour, or all; whoever hangs in one goes on."""
        self._call("behave", number=number)

    def wait_at_gate(self, number: int, arrivals: int = 1) -> None:
        """Wait until that many requests stand at gate ``number``."""
        self._call("wait_at_gate", number=number, arrivals=arrivals)

    def refuse(self) -> None:
        """Close every listening socket and connection: connecting is refused from now on."""
        self._call("refuse")

    def listen_again(self) -> None:
        """Undo ``refuse``, on the same ports."""
        self._call("listen_again")

    def silence(self) -> int:
        """Accept everything, answer nothing. Ended by ``behave``."""
        return self.misbehave("*", silent=True)

    # -- what it was asked

    def seen(self, *, kind: str | None = None, path: str | None = None, host: str | None = None) -> list[Seen]:
        """Requests since the last ``forget``, oldest first; ``path`` is a glob."""
        rows = self._call("seen", kind=kind, path=path, host=host)
        return [Seen(**{**row, "headers": tuple((n, v) for n, v in row["headers"])}) for row in rows]

    def count(self, *, kind: str | None = None, path: str | None = None, host: str | None = None) -> int:
        return len(self.seen(kind=kind, path=path, host=host))

    def wait_seen(self, count: int, *, kind: str | None = None, path: str | None = None, timeout_s: float = 10) -> None:
        """Wait until at least ``count`` such requests came in. Raises ``TimeoutError``."""
        if not self._call("wait_seen", count=count, kind=kind, path=path, timeout_s=timeout_s):
            raise TimeoutError(f"fewer than {count} requests ({kind=}, {path=}) within {timeout_s} s")

    def forget(self) -> None:
        """Begin counting anew."""
        self._call("forget")

    def reset(self) -> None:
        """Forget everything: files, misbehaviours, modes, requests. Listens again if it refused."""
        self._call("reset")

    def _call(self, call: str, **arguments: Any) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["control"], timeout=60)
        try:
            connection.request("POST", "/", json.dumps({"call": call, "arguments": arguments}))
            reply = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply["result"]
