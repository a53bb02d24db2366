"""Simple pages in HTML turned into the JSON they would have been, so that everything after has one form to deal with.

HTML is what old indexes, static mirrors and PEP 503-only servers send. Source: PEP 503, 592, 629, 658, 714, 740, 792.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import msgspec
from selectolax.lexbor import LexborHTMLParser

from . import pypi_names as names
from . import slices

_WHOLE_BYTES = 256 << 10
"""Up to here a page is parsed in one call, about 1.5 ms."""
_RUN = 300
"""Anchors per call on a larger page, about 0.5 ms."""

# One anchor as index servers write them, quoted attributes and plain text, with the line break after it. Where a page is a run of
# these, cutting it between them cannot change what it means; any other large page is parsed in one call, slow but right.
_ANCHOR = re.compile(
    rb"<a(?:\s++[A-Za-z][\w:-]*+(?:\s*+=\s*+(?:\"[^\"]*+\"|'[^']*+'))?+)*+\s*+>[^<]*+</a>(?:\s++|<br\s*+/?>)*+", re.IGNORECASE
)
_UNCUTTABLE = re.compile(
    rb"<!--|<(?:script|style|template|textarea|noscript|xmp|iframe|select|svg|math|plaintext)\b", re.IGNORECASE
)
_HASH = re.compile(r"(?:^|&)(sha256|sha512|sha384|sha224|sha1|md5)=([0-9A-Fa-f]+)")
_SERIAL = re.compile(rb"<!--\s*SERIAL\s+(\d{1,18})\s*-->")
_TITLE = re.compile(r"\s*Links for (\S+)\s*", re.IGNORECASE)


def project_to_json(body: bytes, url: str, project: str) -> bytes:
    """The JSON of a project page in HTML. ``url`` is where it came from.

    Raises ``ValueError`` for HTML that is no simple page of ``project``: a portal's log-in, an error page, another project's.
    """
    version = ""
    status: dict[str, str] = {}
    title = None
    files: list[bytes] = []
    belonging = False
    base = url
    first = True
    for tree in _trees(body):
        if first:
            first = False
            version = _meta(tree, "pypi:repository-version")
            if status_text := _meta(tree, "pypi:project-status"):
                status["status"] = status_text
                if reason := _meta(tree, "pypi:project-status-reason"):
                    status["reason"] = reason
            title = _links_for(tree)
            base = _base(tree, url)
        for node in tree.css("a[href]"):
            attributes = node.attributes
            file = _file(attributes, base)
            if file is not None:
                belonging = belonging or _belongs(file["filename"], project)
                files.append(msgspec.json.encode(file))
    if title is not None:
        try:
            named = names.normalise(title)
        except ValueError:
            named = ""
        if named != project:
            raise ValueError(f"a page of {title[:64]!r}, not of {project!r}")
    if title is None and not belonging:
        raise ValueError(f"HTML that is not a simple page of {project!r}: neither a title nor any file's name says so")
    if version and version.partition(".")[0] != "1":
        raise ValueError(f"simple repository version {version[:16]!r} is not 1.x")
    # "1.0": from 1.1 on a file must have a size, which HTML does not tell.
    meta: dict[str, Any] = {"api-version": "1.0"}
    if serial := _serial(body):
        meta["_last-serial"] = serial
    document: dict[str, Any] = {"meta": meta, "name": title or project}
    if status:
        document["project-status"] = status
    return slices.put_together({key: msgspec.json.encode(value) for key, value in document.items()}, {"files": files})


def index_to_json(body: bytes) -> bytes:
    """The JSON of the list of all projects in HTML. Raises ``ValueError`` for HTML that is none."""
    projects: list[bytes] = []
    convincing = False
    for tree in _trees(body):
        convincing = convincing or bool(_meta(tree, "pypi:repository-version")) or "simple" in _title(tree).lower()
        for node in tree.css("a[href]"):
            name = node.text().strip().strip("/")
            try:
                names.normalise(name)
            except ValueError:
                continue
            projects.append(msgspec.json.encode({"name": name}))
    if not convincing:
        raise ValueError("HTML that is not a simple index")
    meta: dict[str, Any] = {"api-version": "1.0"}
    if serial := _serial(body):
        meta["_last-serial"] = serial
    return slices.put_together({"meta": msgspec.json.encode(meta)}, {"projects": projects})


def _trees(body: bytes) -> Iterator[LexborHTMLParser]:
    pieces = _cut(body) if len(body) > _WHOLE_BYTES else [body]
    for piece in pieces:
        yield LexborHTMLParser(piece)


def _cut(body: bytes) -> list[bytes]:
    start = body.find(b"<a ")
    if start < 0 or start > _WHOLE_BYTES or _UNCUTTABLE.search(body, 0, start):
        return [body]
    pieces = [body[:start]]
    position = start
    count = 0
    while (anchor := _ANCHOR.match(body, position)) is not None:
        position = anchor.end()
        count += 1
        if count % _RUN == 0:
            pieces.append(body[start:position])
            start = position
    if len(body) - position > _WHOLE_BYTES:
        return [body]
    pieces.append(body[start:])
    return pieces


def _meta(tree: LexborHTMLParser, name: str) -> str:
    node = tree.css_first(f'meta[name="{name}"]')
    return (node.attributes.get("content") or "").strip() if node is not None else ""


def _title(tree: LexborHTMLParser) -> str:
    node = tree.css_first("title")
    return node.text() if node is not None else ""


def _links_for(tree: LexborHTMLParser) -> str | None:
    """The project that the page says its links are for. The title first: it is what PEP 503 servers copy from each other."""
    heading = tree.css_first("h1")
    for text in (_title(tree), heading.text() if heading is not None else ""):
        if found := _TITLE.fullmatch(text):
            return found[1]
    return None


def _base(tree: LexborHTMLParser, url: str) -> str:
    node = tree.css_first("base[href]")
    href = node.attributes.get("href") if node is not None else None
    try:
        return urljoin(url, href) if href else url
    except ValueError:
        return url


def _file(attributes: Mapping[str, str | None], base: str) -> dict[str, Any] | None:
    href = (attributes.get("href") or "").strip()
    try:
        target, _, fragment = urljoin(base, href).partition("#")
        path = urlsplit(target).path
    except ValueError:
        return None
    # Installers take the name from the link, not from its text.
    filename = unquote(path.rpartition("/")[2])
    if names.stem(filename) is None:
        return None
    file: dict[str, Any] = {
        "filename": filename,
        "url": target,
        "hashes": {name: value.lower() for name, value in _HASH.findall(fragment)},
    }
    if requires := attributes.get("data-requires-python"):
        file["requires-python"] = requires
    if "data-yanked" in attributes:
        file["yanked"] = attributes["data-yanked"] or True
    metadata = attributes.get("data-core-metadata", attributes.get("data-dist-info-metadata", "false"))
    if metadata != "false":
        found = _HASH.search(metadata or "")
        file["core-metadata"] = file["data-dist-info-metadata"] = {found[1]: found[2].lower()} if found else True
    if (signed := attributes.get("data-gpg-sig")) is not None:
        file["gpg-sig"] = signed == "true"
    if provenance := attributes.get("data-provenance"):
        file["provenance"] = provenance
    return file


def _belongs(filename: str, project: str) -> bool:
    return any(project == name for name, _ in names.readings(filename))


def _serial(body: bytes) -> int | None:
    found = _SERIAL.search(body, max(0, len(body) - 4096))
    return int(found[1]) if found else None
