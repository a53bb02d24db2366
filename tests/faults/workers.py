"""Clients of an edge, as records: pages, files whole and by range, conditional ones, and what pip, npm and mvn ask in a row.

Each keeps asking by its own seed until it is told to stop: for pages on a connection that it keeps, for files on one of their own. What
was asked and what came is all that they write down; whether that was right is the checker's.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import random
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Self
from urllib.parse import unquote, urljoin, urlsplit

from msgspec.structs import replace

from tests.faults.history import Call, History, now
from tests.faults.releases import Item, Release
from tests.harness import Reply, ask

PIP_PAGE = {
    "User-Agent": "pip/26.3",
    "Accept": "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01",
    "Cache-Control": "max-age=0",
}
HTML_PAGE = {"User-Agent": "pip/9.0", "Accept": "text/html"}
NPM_PAGE = {
    "User-Agent": "npm/11.0.0 node/v24.0.0 linux x64",
    "Accept": "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8, */*",
}
NPM_FULL_PAGE = {"User-Agent": "npm/11.0.0 node/v24.0.0 linux x64", "Accept": "application/json"}
MAVEN_PAGE = {"User-Agent": "Apache-Maven/3.9.11", "Cache-Control": "no-cache"}

PAGE_HEADERS: Mapping[str, Sequence[Mapping[str, str]]] = {
    "pypi": (PIP_PAGE, PIP_PAGE, HTML_PAGE),
    "npm": (NPM_PAGE, NPM_PAGE, NPM_FULL_PAGE),
    "maven": (MAVEN_PAGE,),
}

FILE_HEADERS: Mapping[str, Mapping[str, str]] = {
    "pypi": {"User-Agent": "pip/26.3", "Accept-Encoding": "identity"},
    "npm": {"User-Agent": "npm/11.0.0 node/v24.0.0 linux x64"},
    "maven": {"User-Agent": "Apache-Maven/3.9.11"},
}

TIMEOUT_S = 40.0
"""Longer than an edge may keep anybody waiting."""


class Client:
    """Asks one edge at ``url`` and writes down what came. ``life`` tells which process of the edge is there.

    It keeps a connection to the end of its block.
    """

    def __init__(
        self, worker: str, edge: str, url: Callable[[], str], history: History, life: Callable[[], int] = lambda: 1
    ) -> None:
        self.worker = worker
        self.edge = edge
        self._url = url
        self._life = life
        self._history = history
        self._kept: http.client.HTTPConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def page(self, release: Release, headers: Mapping[str, str]) -> Call:
        """Ask for a project's page."""
        invoked, life = now(), self._life()
        reply, error = self._ask_again(release.page, headers)
        call = self._call("GET", invoked, life, reply, error, project=release.project)
        if reply is not None and reply.status == 200:
            call = _with_page(call, release, reply, urljoin(self._url(), release.page))
        self._history.add(call)
        return call

    def file(
        self,
        release: Release,
        item: Item,
        method: str = "GET",
        window: tuple[int, int | None] | None = None,
        tag: str | None = None,
    ) -> Call:
        """Ask for a file, or for ``[start, stop)`` of it; ``tag`` makes it conditional."""
        headers = dict(FILE_HEADERS[release.kind])
        start, stop = window or (0, None)
        if window is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        if tag is not None:
            headers["If-None-Match"] = tag
        invoked, life = now(), self._life()
        reply, error = self._ask(item.path, headers, method)
        expected = item.content[start:stop] if reply is not None and reply.status == 206 else item.content
        call = self._call(
            method,
            invoked,
            life,
            reply,
            error,
            key=item.key,
            start=start,
            stop=stop,
            conditional=tag is not None,
            body=hashlib.sha256(reply.body).hexdigest() if reply is not None else "",
            expected=hashlib.sha256(expected).hexdigest(),
        )
        self._history.add(call)
        return call

    def install(self, release: Release) -> None:
        """What the release's own client asks for to install it: the page, what goes before the artifact, the artifact."""
        page = self.page(release, PAGE_HEADERS[release.kind][0])
        if release.version in page.releases:
            for item in sorted(release.items, key=lambda item: (not item.sidecar, item is release.artifact)):
                self.file(release, item)

    def _ask(self, path: str, headers: Mapping[str, str], method: str = "GET") -> tuple[Reply | None, str]:
        try:
            return ask(self._url() + path, headers, method, TIMEOUT_S), ""
        except (OSError, http.client.HTTPException) as error:
            return None, f"{type(error).__name__}: {error}"

    def _ask_again(self, path: str, headers: Mapping[str, str]) -> tuple[Reply | None, str]:
        """Ask on the connection that the last page came by, as installers do: pages are answered from memory there."""
        began = now()
        if self._kept is None:
            self._kept = http.client.HTTPConnection(urlsplit(self._url()).netloc, timeout=TIMEOUT_S)
        try:
            self._kept.request("GET", path, headers={"Accept-Encoding": "identity", **headers})
            response = self._kept.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            short = False
            try:
                body = response.read()
            except (http.client.IncompleteRead, ConnectionError) as error:
                body, short = getattr(error, "partial", b""), True
                self._leave()
            return Reply(response.status, response.reason, fields, body, short, now() - began), ""
        except (OSError, http.client.HTTPException) as error:
            self._leave()
            return None, f"{type(error).__name__}: {error}"

    def _leave(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _call(self, method: str, invoked: float, life: int, reply: Reply | None, error: str, **more: object) -> Call:
        facts: dict[str, object] = {}
        if reply is not None:
            length = reply.headers.get("content-length")
            if reply.status >= 400:
                error = reply.reason
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    error = f"{reply.reason}: {json.loads(reply.body)['detail']}"
            facts = {
                "status": reply.status,
                "clean": not reply.short,
                "length": int(length) if length is not None else None,
                "size": len(reply.body),
                "held": _is_held(reply.headers.get("cache-status", "")),
                "retry_after": reply.headers.get("retry-after"),
            }
        given = {"worker": self.worker, "edge": self.edge, "life": life, "method": method, "invoked": invoked, "completed": now()}
        return Call(**given, **facts, error=error, **more)  # type: ignore[arg-type]  # by name, as the record has them


class Worker:
    """A client that goes on until ``stop`` is set, at ``pace_s`` a step. ``published`` tells what there is to ask for."""

    def __init__(
        self, client: Client, published: Callable[[], Sequence[Release]], seed: str, stop: threading.Event, pace_s: float
    ) -> None:
        self.client = client
        self._published = published
        self._random = random.Random(seed)
        self._stop = stop
        self._pace_s = pace_s
        self._tags: dict[str, str] = {}

    def run(self) -> None:
        with self.client:
            while not self._stop.wait(self._random.uniform(0.5, 1.5) * self._pace_s):
                releases = self._published()
                if releases:
                    self._step(self._choose(releases))

    def _choose(self, releases: Sequence[Release]) -> Release:
        """A new one half of the time: those are what travels."""
        recent = releases[-12:]
        return self._random.choice(recent if self._random.random() < 0.5 else releases)

    def _step(self, release: Release) -> None:
        item = self._random.choice(release.items)
        size = len(item.content)
        match self._random.choices(("page", "file", "range", "head", "known", "install"), (4, 3, 2, 1, 1, 3))[0]:
            case "page":
                self.client.page(release, self._random.choice(PAGE_HEADERS[release.kind]))
            case "file":
                self.client.file(release, item)
            case "range":
                start = self._random.randrange(size)
                stop = self._random.choice((None, self._random.randrange(start, size) + 1))
                self.client.file(release, item, window=(start, stop))
            case "head":
                self.client.file(release, item, "HEAD")
            case "known":
                self.client.file(release, item, tag=file_tag(release, item))
            case _:
                self.client.install(release)


def file_tag(release: Release, item: Item) -> str:
    """The ETag that an edge gives the file."""
    if release.kind == "maven":
        return f'"sha1-{hashlib.sha1(item.content, usedforsecurity=False).hexdigest()}"'
    return f'"sha256-{item.sha256}"'


def _is_held(cache_status: str) -> bool:
    """Whether the last node on the way, which is the edge, took it from its store (RFC 9211)."""
    last = cache_status.rpartition(",")[2]
    return any(part.strip() == "hit" for part in last.split(";"))


# ---- pages -----------------------------------------------------------------------------------------------------------


def _with_page(call: Call, release: Release, reply: Reply, url: str) -> Call:
    """The record with what the page says."""
    try:
        match release.kind:
            case "pypi":
                read = _read_pypi(reply, url)
            case "npm":
                read = _read_npm(reply, url)
            case _:
                read = _read_maven(reply)
    except (ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        return replace(call, readable=False, error=f"{type(error).__name__}: {error}")
    return replace(call, **read)


def _read_pypi(reply: Reply, url: str) -> dict[str, object]:
    listed: dict[str, str] = {}
    releases: dict[str, None] = {}
    if "json" in reply.headers["content-type"]:
        document = reply.json()
        for file in document["files"]:
            listed[_key(url, file["url"])] = file["hashes"].get("sha256", "")
            if file["yanked"] is False:
                releases[file["filename"].split("-")[1]] = None
        return {"listed": listed, "releases": tuple(releases), "serial": int(document["meta"]["_last-serial"])}
    text = reply.content.decode()
    if not re.search(r"</html>\s*(<!--.*-->\s*)?$", text):
        raise ValueError("the page ends early")
    for attributes, filename in re.findall(r"<a ([^>]*)>([^<]+)</a>", text):
        href = re.search(r'href="([^"#]*)(?:#sha256=([0-9a-f]*))?"', attributes)
        assert href is not None, attributes
        listed[_key(url, href[1])] = href[2] or ""
        if "data-yanked" not in attributes:
            releases[filename.split("-")[1]] = None
    return {"listed": listed, "releases": tuple(releases)}


def _read_npm(reply: Reply, url: str) -> dict[str, object]:
    versions = reply.json()["versions"]
    return {"listed": {_key(url, one["dist"]["tarball"]): "" for one in versions.values()}, "releases": tuple(versions)}


def _read_maven(reply: Reply) -> dict[str, object]:
    text = reply.content.decode()
    if not text.rstrip().endswith("</metadata>"):
        raise ValueError("the metadata ends early")
    if reply.headers["x-checksum-sha1"] != hashlib.sha1(reply.content, usedforsecurity=False).hexdigest():
        raise ValueError("the metadata's checksum is another's")
    return {"releases": tuple(re.findall(r"<version>([^<]+)</version>", text.partition("<versions>")[2]))}


def _key(base: str, link: str) -> str:
    return unquote(urlsplit(urljoin(base, link)).path).lstrip("/")
