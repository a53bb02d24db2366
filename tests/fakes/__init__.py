"""A PyPI to test against: a process of its own that answers as the real one does, counts what it is asked, and misbehaves on command.

It shares no code with ``origin``: what both got wrong together, no test would find. ``documents.py`` says what its pages look like,
``misbehaviour.py`` how it can go wrong, ``server.py`` is the server in plain threads and sockets, and here is how a test talks to it::

    with FakePyPI.start() as fake:
        fake.publish(shelf.wheel("six", "1.0"))
        fake.misbehave("*/six-1.0*", flip=-1)
        ...
        assert fake.count(kind="file") == 1

Index, files and "elsewhere" are three addresses of the loopback network, so that a link from one to another is a link to another host.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.wheels import Distribution

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Seen:
    """One request the fake received. ``headers`` are in order, names in lower case; ``sent`` counts body bytes handed to the socket.

    ``kind`` is ``root``, ``page``, ``legacy``, ``provenance``, ``file``, ``metadata``, ``redirect`` or ``other``; ``host`` is ``index``,
    ``files`` or ``elsewhere``. ``status`` is 0 while unanswered or when it never was answered. ``at`` is the monotonic clock in seconds.
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

    def header(self, name: str) -> str | None:
        for n, v in self.headers:
            if n == name:
                return v
        return None


class FakePyPI:
    """The fake as a test holds it: its addresses, and its control port."""

    def __init__(self, process: subprocess.Popen[str], ports: Mapping[str, int], hosts: Mapping[str, str]) -> None:
        self._process = process
        self.ports = dict(ports)
        self.hosts = dict(hosts)

    @classmethod
    @contextlib.contextmanager
    def start(cls) -> Iterator[Self]:
        """Run the fake until the block ends."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("the fake registry did not start")
            hello = json.loads(line)
            yield cls(process, hello["ports"], hello["hosts"])
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    @property
    def index_url(self) -> str:
        """What an edge's ``upstream`` is set to: ends in ``/simple/``."""
        return f"{self.index_root}/simple/"

    @property
    def index_root(self) -> str:
        return f"http://{self.hosts['index']}:{self.ports['index']}"

    @property
    def files_root(self) -> str:
        return f"http://{self.hosts['files']}:{self.ports['files']}"

    @property
    def elsewhere_root(self) -> str:
        """A third host, which neither page nor setting names."""
        return f"http://{self.hosts['elsewhere']}:{self.ports['elsewhere']}"

    # -- what it has

    def publish(
        self,
        *distributions: Distribution,
        core_metadata: bool = True,
        provenance: bool = False,
        yanked: str | bool = False,
        hashes: bool = True,
        upload_time: str = "2024-01-01T00:00:00.000000Z",
    ) -> None:
        """Offer files; one published before under the same name is replaced."""
        for one in distributions:
            self._call(
                "publish",
                project=one.project,
                version=one.version,
                filename=one.filename,
                path=str(one.path),
                size=one.size,
                sha256=one.sha256,
                blake2b=one.blake2b,
                metadata=one.metadata.decode() if one.is_wheel else None,
                requires_python=one.requires_python,
                core_metadata=core_metadata and one.is_wheel,
                provenance=provenance,
                yanked=yanked,
                hashes=hashes,
                upload_time=upload_time,
            )

    def publish_many(self, project: str, count: int) -> None:
        """List ``count`` wheels that exist on the page only."""
        self._call("publish_many", project=project, count=count)

    def withdraw(self, filename: str, *, bytes_too: bool = False) -> None:
        """Take a file off its page; the file host keeps its bytes unless ``bytes_too``."""
        self._call("withdraw", filename=filename, bytes_too=bytes_too)

    def withdraw_project(self, project: str) -> None:
        """Answer 404 for the project's page."""
        self._call("withdraw_project", project=project)

    def yank(self, filename: str, reason: str | bool = True) -> None:
        self._call("yank", filename=filename, reason=reason)

    def set_status(self, project: str, status: str, reason: str = "") -> None:
        """Set the project's PEP 792 status."""
        self._call("set_status", project=project, status=status, reason=reason)

    def path_of(self, distribution: Distribution) -> str:
        """The path of a file on the file host, ``/packages/ab/cd/…``."""
        b = distribution.blake2b
        return f"/packages/{b[:2]}/{b[2:4]}/{b[4:]}/{distribution.filename}"

    def page_json(self, project: str) -> dict[str, Any]:
        """The page as upstream would write it now."""
        return dict(self._call("page_json", project=project))

    def provenance(self, filename: str) -> str:
        """The provenance object upstream serves, as text."""
        return str(self._call("provenance", filename=filename))

    # -- how it answers

    def mode(self, **settings: bool | str | float) -> None:
        """Change how it answers everything: ``plain``, ``html_only``, ``validators``, ``layout`` (``hashed`` or ``relative``), ``ahead_s``.

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
