"""A writable front for a read-only registry, so that Verdaccio's battery can publish what it then reads through a mirror.

Reading goes to the registry under test; publishing, tagging, deprecating and unpublishing go to the fake registry behind it. Clients
see one registry, at ``http://localhost:<port>/`` and the path of the registry under test, which sees ``Host`` as they sent it.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import http.client
import http.server
import json
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from tests.fakes.npm import FakeNpm
from tests.tarballs import Tarball

HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})


@contextlib.contextmanager
def opened(registry: str, fake: FakeNpm, directory: Path, written: Callable[[str], None] = lambda _: None) -> Iterator[str]:
    """Stand before ``registry`` until the block ends; gives the front's URL. ``directory`` keeps what is published.

    ``written`` hears the name of every package changed, before the client hears that it was: what a mirror may answer from what it holds
    can be made new there.
    """
    address = urllib.parse.urlsplit(registry)

    class Handler(_Handler):
        reading = address
        writing = _Writing(fake, directory, written)

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}{address.path}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Writing:
    """What changes the fake, by the requests that npm clients send. Source: libnpmpublish, ``npm dist-tag``, ``npm unpublish``."""

    def __init__(self, fake: FakeNpm, directory: Path, written: Callable[[str], None]) -> None:
        self._fake = fake
        self._directory = directory
        self._written = written

    def change(self, method: str, path: str, body: bytes) -> None:
        """Do what is asked. Raises ``LookupError`` for anything else."""
        plain = urllib.parse.unquote(path.partition("?")[0]).strip("/")
        document = json.loads(body) if body else None
        if plain.startswith("-/package/"):
            name, _, tag = plain.removeprefix("-/package/").partition("/dist-tags/")
            self._fake.set_tag(name, tag, document if method in {"PUT", "POST"} else None)
        elif method == "DELETE" and "/-/" in plain:
            return  # its version went with the document before
        elif method == "DELETE":
            name = plain.partition("/-rev/")[0]
            self._fake.unpublish(name)
        elif method == "PUT" and isinstance(document, dict) and "versions" in document:
            name = str(document["name"])
            self._take(name, document)
        else:
            raise LookupError(f"{method} {path}")
        self._written(name)

    def _take(self, name: str, document: dict[str, Any]) -> None:
        attachments = document.get("_attachments") or {}
        versions: dict[str, dict[str, Any]] = document["versions"]
        if attachments:
            ((filename, attachment),) = [item for item in attachments.items() if item[0].endswith(".tgz")]
            ((version, manifest),) = versions.items()
            tarball = self._tarball(name, version, filename, base64.b64decode(attachment["data"]), manifest)
            now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
            self._fake.publish(tarball, tags=list(document["dist-tags"]), time=now)
            return
        held = self._fake.packument(name)["versions"]
        for version in held.keys() - versions.keys():
            self._fake.unpublish(name, version)
        for version, manifest in versions.items():
            message = manifest.get("deprecated") or None
            if held[version].get("deprecated") != message:
                self._fake.deprecate(name, version, message)

    def _tarball(self, name: str, version: str, filename: str, content: bytes, manifest: dict[str, Any]) -> Tarball:
        path = self._directory / hashlib.sha256(content).hexdigest()
        path.write_bytes(content)
        digests = [hashlib.new(algorithm, content).hexdigest() for algorithm in ("sha1", "sha256", "sha512")]
        told = {
            member: value for member, value in manifest.items() if member not in {"dist", "_id", "_nodeVersion", "_npmVersion"}
        }
        basename = filename.rpartition("/")[2]
        sha1, sha256, sha512 = digests
        return Tarball(name, version, basename, path, len(content), sha1, sha256, sha512, told, 2, len(content))


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up when they have seen enough."""


class _Handler(http.server.BaseHTTPRequestHandler):
    reading: ClassVar[urllib.parse.SplitResult]
    writing: ClassVar[_Writing]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._read()

    do_HEAD = do_GET  # noqa: N815 -- the names http.server looks for

    def do_POST(self) -> None:
        if "/-/package/" in self.path:
            self.do_PUT()
        else:
            self._read()

    def do_PUT(self) -> None:
        body = self._body()
        if "/-/user/" in self.path:
            self._tell(201, {"ok": True, "token": "anyone"})
            return
        path = self.path.removeprefix(self.reading.path.rstrip("/"))
        try:
            self.writing.change(self.command, path, body)
        except LookupError as error:
            self._tell(404, {"error": str(error)})
        else:
            self._tell(201, {"ok": True})

    do_DELETE = do_PUT  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- as http.server has it
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while length := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(length))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _read(self) -> None:
        """Pass a request on as it is, ``Host`` too, and its answer back."""
        prefix = self.reading.path.rstrip("/")
        path = self.path if self.path.startswith(f"{prefix}/") else prefix + self.path
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        connection = http.client.HTTPConnection(self.reading.netloc, timeout=60)
        try:
            connection.request(self.command, path, self._body() or None, headers)
            answer = connection.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in HOP_BY_HOP | {"date", "server"}:
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            if answer.status != 304 and length is not None:
                self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(content)
        except (OSError, http.client.HTTPException):
            self.close_connection = True
        finally:
            connection.close()

    def _tell(self, status: int, document: object) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
