"""The contract over every kind of registry, and over the layouts that upstreams of a kind have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from selectolax.lexbor import LexborHTMLParser

from origin.model import Page
from origin.registries.pypi import PyPI
from tests.contracts.registries import Arena, RegistryContract, Sample, Shown
from tests.toy import MEDIA_TYPE, Toy

DATA = Path(__file__).resolve().parent.parent / "data" / "pypi"
SIMPLE = "application/vnd.pypi.simple.v1+json"
INTEGRITY = "application/vnd.pypi.integrity.v1+json"
WHEEL = "foo_bar-1.1-py3-none-any.whl"
FOO = Page("pypi", "foo-bar")


def look(document: bytes, media_type: str) -> Mapping[str, Shown]:
    """What pip, and whoever reads the legacy JSON, takes from a page."""
    if media_type.endswith("html"):
        return _look_at_html(document)
    said: dict[str, Any] = json.loads(document)
    places: list[list[dict[str, Any]]] = [said.get("files", []), said.get("urls", []), *said.get("releases", {}).values()]
    return {file["filename"]: Shown(file["url"], _why_yanked(file)) for place in places for file in place}


def _why_yanked(file: Mapping[str, Any]) -> str | None:
    reason = file.get("yanked_reason") or file["yanked"] if file.get("yanked") else None
    return "yanked" if reason is True else reason


def _look_at_html(document: bytes) -> Mapping[str, Shown]:
    nodes = LexborHTMLParser(document).css("a")
    return {
        node.text(): Shown(
            node.attributes["href"] or "",
            (node.attributes["data-yanked"] or "yanked") if "data-yanked" in node.attributes else None,
        )
        for node in nodes
    }


def sample(name: str, page: Page = FOO, **changes: bool) -> Sample:
    """A page kept in a data file, without the line end after it, which says nothing."""
    html = name.endswith(".html")
    media_type = "text/html; charset=utf-8" if html else "application/json" if page.view else SIMPLE
    body = (DATA / name).read_bytes().rstrip()
    return Sample(page, body, media_type, f"https://pypi.test/simple/{page.project}/", closed=not html, **changes)


def listed(project: str, *files: dict[str, object], url: str = "https://pypi.test/simple/") -> Sample:
    """A page in JSON that lists ``files``."""
    body = json.dumps({"meta": {"api-version": "1.1"}, "name": project, "files": files}).encode()
    return Sample(Page("pypi", project), body, SIMPLE, f"{url}{project}/")


class TestHashedPaths(RegistryContract):
    """An upstream laid out like the public index: each file beneath its own digest."""

    @pytest.fixture
    def arena(self) -> Arena:
        place = f"packages/11/22/{'3' * 60}"
        ambiguous = [
            {
                "filename": name,
                "url": f"https://files.pypi.test/{place}/{name}",
                "hashes": {"sha256": f"{number:064x}"},
                "size": 5,
            }
            for number, name in enumerate(
                ["foo-2-1.tar.gz", "foo_2-1.0-py3-none-any.whl", "foo-2-1.0.win32-py2.7.exe", "foo-2.zip"]
            )
        ]
        index = b'{"meta": {"api-version": "1.4", "_last-serial": 9}, "projects": [{"name": "Foo_Bar"}, {"name": "baz"}]}'
        provenance = b'{"version": 1, "attestation_bundles": [{"publisher": {"kind": "GitHub"}, "attestations": []}]}'
        about = Page("pypi", "foo-bar", f"provenance/1.1/{WHEEL}")
        return Arena(
            PyPI("pypi", "https://pypi.test/simple/"),
            (
                sample("plain.json"),
                sample("plain.html"),
                sample("legacy.json", Page("pypi", "foo-bar", "json")),
                listed("foo-2", *ambiguous),
                Sample(Page("pypi", "", "index"), index, SIMPLE, "https://pypi.test/simple/", named=False, lists=False),
                Sample(about, provenance, INTEGRITY, "https://pypi.test/integrity/", named=False, lists=False),
            ),
            look,
            sidecars=(".metadata", ".asc"),
            targets=(
                "simple/",
                "simple/foo-bar/",
                "pypi/foo-bar/json",
                "pypi/foo-bar/1.0/json",
                f"integrity/foo-bar/1.1/{WHEEL}/provenance",
                f"{place}/{WHEEL}",
                f"{place}/foo-bar-1.0.tar.gz.metadata",
                "packages/-/foo-bar/foo-bar-1.0.zip",
                "packages/source/f/foo_bar/foo-bar-1.0.zip",
            ),
            ascending=(
                "0.9.dev1",
                "1.0.dev1",
                "1.0a1",
                "1.0rc1",
                "1.0",
                "1.0+cu118",
                "1.0.post1",
                "1.0.1",
                "1.10",
                "2024.1",
                "1!0.1",
            ),
            equal=(("1.0", "1.0.0"), ("1.0-beta2", "1.0b2"), ("v1.0", "1"), ("1.0+A.b", "1.0+a-b")),
            unordered=("", "one", "1.0-", "2004d~x", "1.0+", "9" * 5000),
            spellings={
                "Foo_Bar": "foo-bar",
                "foo--bar": "foo-bar",
                "FOO.bar": "foo-bar",
                "a": "a",
                "zope.Interface": "zope-interface",
            },
            nameless=("", "-", "foo-", "_foo", "foo bar", "f/o", "..", "föö", "foo\n", "x" * 256),
        )


class TestOtherLayouts(RegistryContract):
    """Upstreams that keep files wherever they like, link relatively, and tell no digests of some; the instance has its root elsewhere."""

    @pytest.fixture
    def arena(self) -> Arena:
        relative = listed(
            "torch",
            {
                "filename": "torch-2.0.tar.gz",
                "url": "../../src/torch-2.0.tar.gz?token=1#sha256=" + "a" * 64,
                "hashes": {},
                "yanked": True,
            },
            {
                "filename": "torch-2.1+cu118-py3-none-any.whl",
                "url": "/whl/cu118/torch-2.1%2Bcu118-py3-none-any.whl",
                "hashes": {"sha256": "b" * 64, "md5": "b" * 32},
                "core-metadata": True,
                "size": 0,
            },
            {"filename": "torch 2.2.zip", "url": "torch%202.2.zip", "hashes": {"sha512": "c" * 128}, "gpg-sig": True},
            {
                "filename": "Torch-2.3.egg",
                "url": "//cdn.test:8443/Torch-2.3.egg",
                "hashes": {"sha256": "d" * 64},
                "gpg-sig": False,
            },
            {"filename": "odd.bin", "url": "odd.bin", "hashes": {"sha256": "e" * 64}, "yanked": "strange & <odd>"},
            url="http://index.test:3141/root/pypi/+simple/",
        )
        bare = (
            b"<html><body><a href=torch-1.0.zip>torch-1.0.zip</a><a href=torch-1.1-py3-none-any.whl#sha256=%s>t</a></body></html>"
        )
        plain = Sample(
            relative.page, bare % (b"a" * 64), "text/html", "http://index.test:3141/root/pypi/+simple/torch/", closed=False
        )
        return Arena(
            PyPI("pypi", "http://index.test:3141/root/pypi/+simple"),
            (
                relative,
                plain,
                sample("base-href.html"),
                sample("bare-directory.html"),
                sample("old-cache.json"),
                sample("bad-files.json"),
            ),
            look,
            sidecars=(".metadata", ".asc"),
            targets=(
                "simple/torch/",
                "packages/-/torch/torch-2.1+cu118-py3-none-any.whl",
                "packages/-/torch/torch-2.0.tar.gz.asc",
            ),
            ascending=("1.0", "2.0"),
            equal=(),
            unordered=("odd",),
            spellings={"Torch": "torch"},
            nameless=("",),
        )


def look_at_toy(document: bytes, media_type: str) -> Mapping[str, Shown]:
    """A client of the toy registry."""
    lines = [line.split(" ") for line in document.decode().split("\n")[1:-1]]
    return {filename: Shown(url, None) for _, filename, _, _, url in lines}


class TestToy(RegistryContract):
    """A kind unlike PyPI wherever the contract leaves a choice, so that the laws lean on no kind."""

    @pytest.fixture
    def arena(self) -> Arena:
        upstream = "http://toy.test/"
        files = [(f"{n}.0", f"ball-{n}.bin", f"{n} {n:064x} {upstream}stock/ball-{n}.bin") for n in (1, 2, 10)]
        body = "\n".join(["toy ball 7", *(" ".join(file) for file in files), "end"]).encode()
        return Arena(
            Toy("shop", upstream),
            (Sample(Page("shop", "ball"), body, MEDIA_TYPE, f"{upstream}list/ball"),),
            look_at_toy,
            sidecars=(),
            targets=("list/ball", "files/ball/1.0/ball-1.bin"),
            ascending=("0.9", "1.0", "2", "10"),
            equal=(("1.0", "01.0"),),
            unordered=("", "one", "1.", "1.0+x"),
            spellings={"Ball": "ball", "a-b": "a-b"},
            nameless=("", "-", "a--b", "a/b", ".."),
            obscure=frozenset(name for _, name, _ in files),
        )
