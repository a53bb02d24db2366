"""A registry reduced to what a benchmark needs: pages from memory, files by sendfile, and a count of what was asked.

It is no test of correctness (``tests/fakes`` is): it answers fast, the same each time, and can be slowed down. It runs in its own
process: ``python -m benchmarks.upstream --directory DIR``. ``DIR`` holds ``index.json`` (project -> document) and the files. It prints
its port on the first line. ``GET /counts`` tells how often each path was asked, ``GET /forget`` starts the count again.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Document:
    """A page in both encodings, with its validator."""

    plain: bytes
    packed: bytes
    etag: str


class Upstream:
    """Serves one directory. ``rate`` is bytes a second for each file transfer, 0 for as fast as it goes."""

    def __init__(self, directory: Path, rate: int, max_age: int, files_root: str) -> None:
        self.directory = directory
        self.rate = rate
        self.max_age = max_age
        index: dict[str, dict[str, Any]] = json.loads((directory / "index.json").read_bytes())
        self.documents = {project: self._document(document, files_root) for project, document in index.items()}
        self.packuments = {file.stem: self._packed(file.read_bytes()) for file in sorted(directory.glob("npm/*.json"))}
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()

    @staticmethod
    def _document(document: dict[str, Any], files_root: str) -> Document:
        for file in document["files"]:
            file["url"] = files_root + file["url"]
        return Upstream._packed(json.dumps(document).encode())

    @staticmethod
    def _packed(plain: bytes) -> Document:
        return Document(plain, gzip.compress(plain, 6), f'"{hashlib.md5(plain, usedforsecurity=False).hexdigest()}"')

    def serve(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffered = b""
        try:
            while True:
                while b"\r\n\r\n" not in buffered:
                    received = connection.recv(65536)
                    if not received:
                        return
                    buffered += received
                head, _, buffered = buffered.partition(b"\r\n\r\n")
                self._answer(connection, head.decode("latin-1").split("\r\n"))
        except OSError:
            return  # the other side went away: that is its right
        finally:
            connection.close()

    def _answer(self, connection: socket.socket, lines: list[str]) -> None:
        method, target, _ = lines[0].split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        path = target.partition("?")[0]
        with self.lock:
            if path == "/forget":
                self.counts.clear()
            told = json.dumps(self.counts).encode()
            self.counts[path] += 1
        if path in {"/counts", "/forget"}:
            self._send(connection, method, "200 OK", {"Content-Type": "application/json"}, told)
        elif path.startswith("/simple/"):
            self._page(connection, method, self.documents.get(path.split("/")[2]), headers)
        elif path.startswith("/npm/"):
            self._page(connection, method, self.packuments.get(path.split("/")[2]), headers, "application/json")
        elif path.startswith("/files/") and (file := self.directory / path.rpartition("/")[2]).is_file():
            self._file(connection, method, file, headers)
        else:
            self._send(connection, method, "404 Not Found", {}, b"no such thing")

    def _page(
        self,
        connection: socket.socket,
        method: str,
        document: Document | None,
        headers: dict[str, str],
        media_type: str = JSON_TYPE,
    ) -> None:
        if document is None:
            self._send(connection, method, "404 Not Found", {"Content-Type": "text/plain"}, b"no such project")
            return
        fields = {
            "Content-Type": media_type,
            "ETag": document.etag,
            "Cache-Control": f"max-age={self.max_age}, public",
            "Vary": "Accept",
        }
        if headers.get("if-none-match") == document.etag:
            self._send(connection, method, "304 Not Modified", fields, None)
        elif "gzip" in headers.get("accept-encoding", ""):
            self._send(connection, method, "200 OK", fields | {"Content-Encoding": "gzip"}, document.packed)
        else:
            self._send(connection, method, "200 OK", fields, document.plain)

    def _file(self, connection: socket.socket, method: str, file: Path, headers: dict[str, str]) -> None:
        size = file.stat().st_size
        start, stop, status = 0, size, "200 OK"
        fields = {
            "Content-Type": "application/octet-stream",
            "ETag": f'"{file.name}"',
            "Accept-Ranges": "bytes",
            "Cache-Control": "max-age=365000000, immutable, public",
        }
        if (asked := headers.get("range", "")).startswith("bytes=") and "," not in asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = (int(first), int(last) + 1 if last else size) if first else (size - int(last), size)
            status = "206 Partial Content"
            fields["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        connection.sendall(self._head(status, fields, stop - start))
        if method == "HEAD":
            return
        descriptor = os.open(file, os.O_RDONLY)
        try:
            began, sent = time.monotonic(), 0
            while start < stop:
                step = min(PIECE if not self.rate else max(1, self.rate // 50), stop - start)
                moved = os.sendfile(connection.fileno(), descriptor, start, step)
                start, sent = start + moved, sent + moved
                if self.rate and (early := began + sent / self.rate - time.monotonic()) > 0:
                    time.sleep(early)
        finally:
            os.close(descriptor)

    def _send(self, connection: socket.socket, method: str, status: str, fields: dict[str, str], body: bytes | None) -> None:
        head = self._head(status, fields, None if body is None else len(body))
        connection.sendall(head if body is None or method == "HEAD" else head + body)

    @staticmethod
    def _head(status: str, fields: dict[str, str], length: int | None) -> bytes:
        if length is not None:
            fields = fields | {"Content-Length": str(length)}
        return (f"HTTP/1.1 {status}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n").encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rate", type=int, default=0, help="bytes a second for each file; 0: as fast as it goes")
    parser.add_argument("--max-age", type=int, default=3600, help="seconds that pages say they stay fresh")
    options = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", options.port), backlog=1024)
    port = listener.getsockname()[1]
    upstream = Upstream(options.directory, options.rate, options.max_age, f"http://127.0.0.1:{port}/files/")
    print(port, flush=True)
    upstream.serve(listener)


if __name__ == "__main__":
    main()
