"""The contract over npm: one instance laid out like the public registry, one with tarballs wherever they happen to be."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import pytest

from origin.model import Page
from origin.registries import Options
from origin.registries.npm import NPM
from tests.contracts.registries import Arena, RegistryContract, Sample, Shown

FULL = "application/json"


def look(document: bytes, media_type: str) -> Mapping[str, Shown]:
    """What npm takes from a packument: where each version's tarball is, under the name it has there."""
    said: dict[str, Any] = json.loads(document)
    links = [manifest["dist"]["tarball"] for manifest in said.get("versions", {}).values() if has_tarball(manifest)]
    return {unquote(link.partition("?")[0].rpartition("/")[2]): Shown(link, None) for link in links}


def has_tarball(manifest: Mapping[str, Any]) -> bool:
    dist = manifest.get("dist")
    return isinstance(dist, dict) and "tarball" in dist


def sri(algorithm: str, length: int, byte: int) -> str:
    return f"{algorithm}-{base64.b64encode(bytes([byte]) * length).decode()}"


def manifest(name: str, version: str, tarball: str, **dist: object) -> dict[str, object]:
    return {"name": name, "version": version, "scripts": {"test": "x"}, "dist": {**dist, "tarball": tarball}}


def packument(name: str, *manifests: dict[str, object], **more: object) -> dict[str, object]:
    versions = {str(each["version"]): each for each in manifests}
    times = {version: f"2024-01-{number + 1:02}T00:00:00.000Z" for number, version in enumerate(versions)}
    return {
        "_id": name,
        "name": name,
        "dist-tags": {"latest": list(versions)[-1]},
        "versions": versions,
        "time": {"created": "2024-01-01T00:00:00.000Z", "modified": "2024-02-01T00:00:00.000Z", **times},
        "users": {"somebody": True},
        **more,
    }


def sample(document: Mapping[str, object], root: str, **changes: bool) -> Sample:
    name = str(document["name"])
    return Sample(Page("npm", name), json.dumps(document, indent=1).encode(), FULL, root + name.replace("/", "%2f"), **changes)


class TestUsualLayout(RegistryContract):
    """Each tarball at its conventional path; names with and without a scope; keys and attestations beside."""

    @pytest.fixture
    def arena(self) -> Arena:
        root = "https://npm.test/"
        plain = packument(
            "foo",
            manifest("foo", "0.9.0", f"{root}foo/-/foo-0.9.0.tgz", shasum="a" * 40),
            manifest("foo", "1.0.0", f"{root}foo/-/foo-1.0.0.tgz", shasum="b" * 40, integrity=sri("sha512", 64, 1)),
            manifest("foo", "1.1.0-rc.1", f"{root}foo/-/foo-1.1.0-rc.1.tgz", integrity=sri("sha512", 64, 2), signatures=[]),
            {"name": "foo", "version": "0.0.1"},
            readme="half a character: \ud83d",
        )
        scoped = packument(
            "@scope/name",
            manifest("@scope/name", "1.0.0", f"{root}@scope/name/-/name-1.0.0.tgz", integrity=sri("sha512", 64, 3)),
            manifest("@scope/name", "2.0.0", f"{root}@scope%2fname/-/name-2.0.0.tgz", integrity=sri("sha256", 32, 4)),
        )
        keys = b'{"keys": [{"keyid": "SHA256:a", "keytype": "x", "scheme": "x", "key": "AA==", "expires": null}]}'
        about = Page("npm", "@scope/name", "attestations/1.0.0")
        return Arena(
            NPM("npm", root),
            (
                sample(plain, root),
                sample(scoped, root),
                Sample(Page("npm", "", "keys"), keys, FULL, f"{root}-/npm/v1/keys", named=False, lists=False),
                Sample(about, b'{"attestations": [{"predicateType": "x"}]}', FULL, f"{root}-/", named=False, lists=False),
            ),
            look,
            sidecars=(),
            targets=(
                "foo",
                "foo/1.0.0",
                "foo/latest",
                "@scope/name",
                "@scope%2fname",
                "@scope%2fname/latest",
                "-/package/foo/dist-tags",
                "-/package/@scope%2fname/dist-tags",
                "-/npm/v1/keys",
                "-/npm/v1/attestations/@scope%2fname@1.0.0",
                "foo/-/foo-1.0.0.tgz",
                "@scope/name/-/name-1.0.0.tgz",
                "@scope%2fname/-/name-1.0.0.tgz",
            ),
            ascending=(
                *("0.0.1", "0.9.0", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2"),
                *("1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0", "1.10.0", "20130101.0.0"),
            ),
            equal=(
                ("1.0.0+a", "1.0.0+b"),
                ("v1.0", "1.0.0"),
                ("1.0.0beta", "1.0.0-beta"),
                ("= 1.2.3", "1.2.3"),
                ("1.0.0b.1", "1.0.0-b.1"),
                ("1.0.0-", "1.0.0--"),
            ),
            unordered=("", "one", "1.", "1.2.3.4", "1.0.0+", "1.0.0-a..b", "9" * 17, "1.0.0-" + "x" * 300),
            spellings={"foo": "foo", "Foo": "Foo", "@scope/name": "@scope/name", "@Scope/Name": "@Scope/Name"},
            nameless=("", ".foo", "_foo", "-", "a/b", "@a/b/c", "@a", "node_modules", "favicon.ico", "a b", "ü", "x" * 256),
            views=("foo/1.0.0", "foo/latest", "foo/0.0.1", "-/package/foo/dist-tags", "@scope%2fname/2.0.0"),
            relays=(
                ("GET", "-/v1/search?text=foo"),
                ("POST", "-/npm/v1/security/advisories/bulk"),
                ("POST", "-/npm/v1/security/audits/quick"),
                ("POST", "-/npm/v1/security/audits"),
            ),
        )


class TestOtherLayouts(RegistryContract):
    """An upstream beneath a path, some tarballs at odd places in it, some elsewhere, some linked relatively; a document without times."""

    @pytest.fixture
    def arena(self) -> Arena:
        root = "http://index.test:4873/repository/npm/"
        odd = packument(
            "@s/odd",
            manifest("@s/odd", "1.0.0", f"{root}@s/odd/-/@s/odd-1.0.0.tgz", shasum="1" * 40),
            manifest("@s/odd", "1.1.0", f"{root}@s%2fodd/-/Odd-1.1.0%2Bx.tgz", shasum="2" * 40),
            manifest("@s/odd", "1.2.0", "http://files.test/elsewhere/odd-1.2.0.tgz?token=1#x", shasum="3" * 40),
            manifest("@s/odd", "1.3.0", "odd/-/odd-1.3.0.tgz", integrity=f"{sri('sha384', 48, 5)} {sri('sha512', 64, 5)}?a"),
            manifest("@s/odd", "v1.4", "/repository/npm/@s/odd/-/s-odd-1.4.tgz", integrity="sha512-nonsense"),
            manifest("@s/odd", "1.5.0", "ftp://files.test/odd-1.5.0.tgz", shasum="4" * 40),
        )
        # As some caches leave it: no times, no scripts.
        bare = packument("bare", *(manifest("bare", f"{n}.0.0", f"{root}bare/-/bare-{n}.0.0.tgz") for n in (1, 2)))
        bare = {key: bare[key] for key in ("name", "dist-tags", "versions")}
        no_ftp = {version: each for version, each in dict(odd["versions"]).items() if version != "1.5.0"}  # type: ignore[call-overload]  # a mapping
        return Arena(
            NPM("npm", root, Options(audit="empty", signatures="require")),
            (sample({**odd, "versions": no_ftp}, root), sample(bare, root)),
            look,
            sidecars=(),
            targets=(
                "@s/odd",
                "@s/odd/-/@s/odd-1.0.0.tgz",
                "@s/odd/-/Odd-1.1.0%2Bx.tgz",
                "bare/-/bare-1.0.0.tgz",
                "bare/-/deep/x.tgz",
            ),
            ascending=("1.0.0", "2.0.0"),
            equal=(),
            unordered=("latest",),
            spellings={"bare": "bare"},
            nameless=("",),
            views=("bare/latest", "-/package/bare/dist-tags"),
            # Where nothing tells the scope, and where another package's tarball would be.
            obscure=frozenset({"odd-1.2.0.tgz", "odd-1.3.0.tgz"}),
            relays=(("POST", "-/npm/v1/security/advisories/bulk"), ("POST", "-/npm/v1/security/audits")),
        )
