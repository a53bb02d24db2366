"""Packuments: read, written in both forms, restricted, amended; what is no packument."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from msgspec.structs import replace as replaced

from origin.errors import NotFound, Refused
from origin.model import Digest, Entry, File, Hold, Listing, Page, Refuse, Verdict
from origin.policy.rules import parse_rule, verdicts
from origin.registries import Registry
from origin.registries.npm import NPM

FULL = "application/json"
ABBREVIATED = "application/vnd.npm.install-v1+json"
ROOT = "https://npm.test/"
BASE = "http://edge.test:8080/npm/"
REGISTRY: Registry = NPM("npm", ROOT)
SHA512 = f"sha512-{base64.b64encode(bytes(range(64))).decode()}"
NO = Refuse("malware", "no-evil")


def manifest(version: str, name: str = "foo", **more: Any) -> dict[str, Any]:
    dist = {"integrity": SHA512, "shasum": "ab" * 20, "tarball": f"{ROOT}{name}/-/{name.rpartition('/')[2]}-{version}.tgz"}
    return {"name": name, "version": version, **more, "dist": {**dist, **more.get("dist", {})}}


def packument(*manifests: dict[str, Any], name: str = "foo", **more: Any) -> dict[str, Any]:
    versions = {each["version"]: each for each in manifests}
    times = {version: f"2024-01-{number + 1:02}T00:00:00.000Z" for number, version in enumerate(versions)}
    return {
        "_id": name,
        "_rev": "1-x",
        "name": name,
        "dist-tags": {"latest": list(versions)[-1]} if versions else {},
        "versions": versions,
        "time": {"created": "2024-01-01T00:00:00.000Z", "modified": "2024-02-01T12:00:00.500Z", **times},
        "readme": "# foo",
        **more,
    }


def read(document: Mapping[str, Any] | bytes, name: str = "foo", registry: Registry = REGISTRY) -> Listing:
    body = document if isinstance(document, bytes) else json.dumps(document, indent=1).encode()
    return registry.read(Page("npm", name), body, FULL, ROOT + name.replace("/", "%2f"))


def written(listing: Listing, form: str = FULL, base: str | None = BASE) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(REGISTRY.write(listing, form, base))
    return said


def links(document: Mapping[str, Any]) -> dict[str, str]:
    return {
        version: each["dist"]["tarball"]
        for version, each in document["versions"].items()
        if "tarball" in (each.get("dist") or {})
    }


def refused(*versions: str, verdict: Verdict = NO) -> dict[str, Verdict]:
    return dict.fromkeys(versions, verdict)


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_an_entry_says_what_is_published_of_a_tarball() -> None:
    listing = read(packument(manifest("1.0.0")))
    assert listing.entries == {
        "foo-1.0.0.tgz": Entry(
            File("npm", "foo", "1.0.0", "foo-1.0.0.tgz", "foo/-/foo-1.0.0.tgz"),
            f"{ROOT}foo/-/foo-1.0.0.tgz",
            (Digest("sha512", bytes(range(64)).hex()), Digest("sha1", "ab" * 20)),
            None,
            1704067200.0,
            extra=listing.entries["foo-1.0.0.tgz"].extra,
        )
    }
    assert json.loads(listing.entries["foo-1.0.0.tgz"].extra) == manifest("1.0.0")["dist"]


def test_every_digest_of_an_integrity_counts_and_nonsense_does_not() -> None:
    of = {
        algorithm: base64.b64encode(bytes([7]) * size).decode()
        for algorithm, size in (("sha1", 20), ("sha256", 32), ("sha384", 48))
    }
    integrity = (
        f"  sha256-{of['sha256']}?x sha384-{of['sha384']}\tsha1-{of['sha1']} sha256-{of['sha384']} sha3-AAAA sha512-AAAA md5-!"
    )
    entry = read(packument(manifest("1.0.0", dist={"integrity": integrity, "shasum": "07" * 20}))).entries["foo-1.0.0.tgz"]
    assert entry.digests == (Digest("sha384", "07" * 48), Digest("sha256", "07" * 32), Digest("sha1", "07" * 20))
    nonsensical: tuple[object, ...] = (None, 7, "", "sha512", [])
    for nonsense in nonsensical:
        entry = read(packument(manifest("1.0.0", dist={"integrity": nonsense, "shasum": "x"}))).entries["foo-1.0.0.tgz"]
        assert entry.digests == ()


def test_a_document_of_another_name_or_case_is_refused() -> None:
    document = packument(manifest("1.0.0", "JSONStream"), name="JSONStream")
    assert read(document, "JSONStream").entries.keys() == {"JSONStream-1.0.0.tgz"}
    for name in ("jsonstream", "foo", "@scope/JSONStream"):
        with pytest.raises(ValueError, match="JSONStream"):
            read(document, name)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<!DOCTYPE html><title>Log in</title>",
        b"null",
        b"[]",
        b'{"error": "not_found"}',
        b'{"name": "foo"}',
        b'{"name": "foo", "versions": []}',
        b'{"name": "foo", "versions": null}',
        b'{"name": "foo", "versions": {"1.0.0": null}}',
        b'{"name": "foo", "versions": {"1.0.0": "x"}}',
        b'{"name": "foo", "versions": {}} trailing',
        b'{"name": "foo", "versions": {}',
        b'{"name": "foo", "versions": {"1.0.0": {"a": }}}',
        b'{"name": "foo", "versions": {}, "readme": "\xff"}',
        b'{"name": ["foo"], "versions": {}}',
        b'{"versions": {}}',
    ],
)
def test_what_is_no_packument_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        read(body)


def test_media_types_that_are_not_json_are_refused() -> None:
    body = json.dumps(packument(manifest("1.0.0"))).encode()
    for media_type in ("application/json; charset=utf-8", ABBREVIATED, "Application/JSON"):
        assert REGISTRY.read(Page("npm", "foo"), body, media_type, ROOT).entries
    for media_type in ("text/html", "", "text/json", "application/octet-stream"):
        with pytest.raises(ValueError, match="media type"):
            REGISTRY.read(Page("npm", "foo"), body, media_type, ROOT)


def test_a_package_unpublished_as_a_whole_has_no_versions() -> None:
    listing = read({"_id": "foo", "name": "foo", "time": {"unpublished": {"time": "2024-01-01T00:00:00.000Z"}}})
    assert not listing.entries
    assert written(listing)["time"]["unpublished"]


def test_versions_without_a_tarball_stay_listed_without_a_link() -> None:
    odd: list[dict[str, Any]] = [
        {"name": "foo", "version": "0.0.1"},
        {"name": "foo", "version": "0.0.2", "dist": {"shasum": "ab" * 20}},
        {"name": "foo", "version": "0.0.3", "dist": {"tarball": 7}},
        {"name": "foo", "version": "0.0.4", "dist": {"tarball": "ftp://x.test/foo.tgz"}},
        {"name": "foo", "version": "0.0.5", "dist": {"tarball": "https://x.test/a/../foo.tgz"}},
        {"name": "foo", "version": "0.0.6", "dist": {"tarball": "https://user@x.test/foo.tgz"}},
        {"name": "foo", "version": "0.0.7", "dist": None},
    ]
    listing = read(packument(*odd, manifest("1.0.0"), manifest("../../x"), manifest("1\\0")))
    assert list(listing.entries) == ["foo-1.0.0.tgz"]
    for form in (FULL, ABBREVIATED):
        said = written(listing, form)
        assert len(said["versions"]) == 10
        assert links(said) == {"1.0.0": f"{BASE}foo/-/foo-1.0.0.tgz"}
    assert written(listing, base=None)["versions"]["0.0.4"] == odd[3]


def test_tarballs_keep_their_paths_beneath_the_root_and_get_usual_ones_elsewhere() -> None:
    registry: Registry = NPM("npm", "http://index.test/repository/npm/")
    paths = {
        "1.0.0": ("http://index.test/repository/npm/@s/n/-/n-1.0.0.tgz", "@s/n/-/n-1.0.0.tgz"),
        "1.0.1": ("http://files.test/repository/npm/@s%2Fn/-/n-1.0.1.tgz", "@s/n/-/n-1.0.1.tgz"),
        "1.0.2": ("http://index.test/repository/npm/@s/n/-/@s/n-1.0.2.tgz", "@s/n/-/@s/n-1.0.2.tgz"),
        "1.0.3": ("http://index.test/repository/npm/@s/n/-/N_1.0.3.tgz", "@s/n/-/N_1.0.3.tgz"),
        "1.0.4": ("http://index.test/repository/npm/@s/other/-/n-1.0.4.tgz", "@s/n/-/n-1.0.4.tgz"),
        "1.0.5": ("http://index.test/elsewhere/1.0.5/5f2e", "@s/n/-/n-1.0.5.tgz"),
        "1.0.6": ("http://index.test/repository/npm/download/@s/n/1.0.6/5f2e", "@s/n/-/n-1.0.6.tgz"),
        "1.0.7+x": ("http://index.test/repository/npm/@s/n/-/n%20x.tgz?a=b#c", "@s/n/-/n x.tgz"),
    }
    document = packument(*(manifest(v, "@s/n", dist={"tarball": url}) for v, (url, _) in paths.items()), name="@s/n")
    listing = read(document, "@s/n", registry)
    assert {entry.file.version: entry.file.path for entry in listing.entries.values()} == {
        v: path for v, (_, path) in paths.items()
    }
    assert {entry.file.version: entry.url for entry in listing.entries.values()} == {
        version: url.partition("#")[0] for version, (url, _) in paths.items()
    }
    owners = registry.owners(listing)
    assert owners == {"@s/n/-/N_1.0.3.tgz": ("@s/n", "1.0.3"), "@s/n/-/n x.tgz": ("@s/n", "1.0.7+x")}
    probed = registry.probe_location(File("npm", "@s/n", "9.9.9", "n-9.9.9.tgz", "@s/n/-/n-9.9.9.tgz"), listing)
    assert probed == "http://index.test/repository/npm/@s/n/-/n-9.9.9.tgz"


def test_a_version_under_another_ones_tarball_leaves_that_its_name() -> None:
    wrong = manifest("1.0.0", dist={"tarball": f"{ROOT}foo/-/foo-2.0.0.tgz"})
    listing = read(packument(wrong, manifest("2.0.0"), manifest("3.0.0", dist={"tarball": f"{ROOT}foo/-/foo-2.0.0.tgz"})))
    assert {entry.file.version: (entry.file.path, entry.url) for entry in listing.entries.values()} == {
        "1.0.0": ("foo/-/foo-1.0.0.tgz", f"{ROOT}foo/-/foo-2.0.0.tgz"),
        "2.0.0": ("foo/-/foo-2.0.0.tgz", f"{ROOT}foo/-/foo-2.0.0.tgz"),
        "3.0.0": ("foo/-/foo-3.0.0.tgz", f"{ROOT}foo/-/foo-2.0.0.tgz"),
    }
    assert links(written(listing)) == {f"{n}.0.0": f"{BASE}foo/-/foo-{n}.0.0.tgz" for n in (1, 2, 3)}


def test_half_a_character_is_mended_and_a_whole_one_left() -> None:
    document = packument(manifest("1.0.0", description="cut \ud83d", funding="\\ud83d \U0001f600"), readme="x\ude00y\ud83d")
    listing = read(json.dumps(document).encode())
    said = written(listing, base=None)
    assert said["readme"] == "x\ufffdy\ufffd"
    assert said["versions"]["1.0.0"]["description"] == "cut \ufffd"
    assert said["versions"]["1.0.0"]["funding"] == "\\ud83d \U0001f600"
    assert REGISTRY.reread(listing.page, listing.document).document == listing.document


def test_values_nested_deeper_than_one_step_reaches_are_read() -> None:
    nested: dict[str, Any] = {}
    for _ in range(30):
        nested = {"a": nested, "b": [1]}
    listing = read(packument(manifest("1.0.0", config=nested)))
    assert written(listing)["versions"]["1.0.0"]["config"] == nested


def test_a_text_named_error_never_leaves() -> None:
    document = packument(manifest("1.0.0"), error="something")
    for form in (FULL, ABBREVIATED):
        for base in (BASE, None):
            assert "error" not in written(read(document), form, base)
    assert written(read(packument(manifest("1.0.0"), error={"a": 1})))["error"] == {"a": 1}


# ---- writing ---------------------------------------------------------------------------------------------------------


def test_staged_versions_go_past_no_rule() -> None:
    staged = {"versions": {"9.0.0": manifest("9.0.0")}}
    listing = read(packument(manifest("1.0.0"), stagedVersions=staged))
    for base in (BASE, None):
        assert "stagedVersions" not in written(listing, FULL, base)
        assert b"9.0.0" not in REGISTRY.write(listing, ABBREVIATED, base)
    assert REGISTRY.reread(listing.page, listing.document).entries == listing.entries


def test_only_tarballs_are_rewritten() -> None:
    dist = {"attestations": {"url": f"{ROOT}-/npm/v1/attestations/foo@1.0.0", "provenance": {"predicateType": "x"}}}
    document = packument(manifest("1.0.0", dist=dist, homepage=ROOT, _resolved=f"{ROOT}foo/-/foo-1.0.0.tgz"), homepage=ROOT)
    listing = read(document)
    said = written(listing)
    assert said["versions"]["1.0.0"]["dist"].pop("tarball") == f"{BASE}foo/-/foo-1.0.0.tgz"
    document["versions"]["1.0.0"]["dist"].pop("tarball")
    assert said == document
    assert list(said) == list(document)


def test_as_published_means_the_very_bytes() -> None:
    body = json.dumps(packument(manifest("1.0.0")), indent=3).encode()
    assert REGISTRY.write(read(body), FULL, None) == body


def test_scoped_tarballs_have_conventional_links() -> None:
    listing = read(packument(manifest("1.0.0+x", "@s/n"), name="@s/n"), "@s/n")
    assert links(written(listing)) == {"1.0.0+x": f"{BASE}@s/n/-/n-1.0.0+x.tgz"}


def test_the_abbreviated_form_has_what_installing_needs() -> None:
    kept: dict[str, Any] = {
        "deprecated": "no more",
        "dependencies": {"a": "^1"},
        "optionalDependencies": {},
        "devDependencies": {"b": "2"},
        "bundleDependencies": ["a"],
        "peerDependencies": {"c": "*"},
        "peerDependenciesMeta": {"c": {"optional": True}},
        "bin": {"foo": "x.js"},
        "directories": {},
        "engines": {"node": ">=18"},
        "os": ["linux"],
        "cpu": ["x64"],
        "libc": ["glibc"],
        "funding": "x",
        "_hasShrinkwrap": False,
    }
    dropped: dict[str, Any] = {
        "description": "d",
        "maintainers": [],
        "_id": "x",
        "scripts": {"test": "x"},
        "readme": "r",
        "types": "t",
    }
    dist: dict[str, Any] = {
        "fileCount": 3,
        "unpackedSize": 10,
        "signatures": [{"keyid": "k", "sig": "s"}],
        "attestations": {"url": "u"},
    }
    listing = read(packument(manifest("1.0.0", **dropped, **kept, dist=dist)))
    said = written(listing, ABBREVIATED)
    assert list(said) == ["name", "modified", "dist-tags", "versions"]
    assert said["modified"] == "2024-02-01T12:00:00.500Z"
    whole = {"name": "foo", "version": "1.0.0", **kept, "dist": manifest("1.0.0", dist=dist)["dist"]}
    assert links(said) == {"1.0.0": f"{BASE}foo/-/foo-1.0.0.tgz"}
    whole["dist"]["tarball"] = f"{BASE}foo/-/foo-1.0.0.tgz"
    assert said["versions"]["1.0.0"] == whole
    assert list(said["versions"]["1.0.0"]) == list(whole)


@pytest.mark.parametrize(
    ("members", "has"),
    [
        ({"scripts": {"postinstall": "node x"}}, True),
        ({"scripts": {"preinstall": "x"}}, True),
        ({"scripts": {"install": "x", "test": "y"}}, True),
        ({"gypfile": True}, True),
        ({"hasInstallScript": True}, True),
        ({"hasInstallScript": False, "scripts": {"install": "x"}}, True),
        ({"scripts": {"prepare": "x", "test": "x"}}, None),
        ({"scripts": {"install": ""}}, None),
        ({"scripts": ["install"]}, None),
        ({"gypfile": False}, None),
        ({"hasInstallScript": False}, False),
        ({}, None),
    ],
)
def test_the_abbreviated_form_tells_of_install_scripts(members: dict[str, Any], has: bool | None) -> None:
    said = written(read(packument(manifest("1.0.0", **members))), ABBREVIATED)
    assert said["versions"]["1.0.0"].get("hasInstallScript") is has
    assert "scripts" not in said["versions"]["1.0.0"]


def test_order_odd_keys_and_unknown_members_are_kept() -> None:
    document = packument(manifest("2.0.0"), manifest("__proto__"), manifest("1.0.0", future={"x": 1.50}), manifest("constructor"))
    document["dist-tags"] = {"z": "2.0.0", "__proto__": "1.0.0", "a": "1.0.0", "latest": "2.0.0"}
    body = json.dumps({**document, "future": [1e3]}).encode().replace(b"1000.0", b"1E3")
    listing = read(body)
    for form in (FULL, ABBREVIATED):
        said = written(listing, form)
        assert list(said["versions"]) == ["2.0.0", "__proto__", "1.0.0", "constructor"]
        assert list(said["dist-tags"]) == ["z", "__proto__", "a", "latest"]
    restricted = REGISTRY.restrict(listing, refused("2.0.0"))
    assert b'"future":[1E3]' in REGISTRY.write(restricted, FULL, BASE)
    assert b'"future":{"x": 1.5}' in REGISTRY.write(restricted, FULL, BASE)


def test_a_bare_upstreams_document_has_both_forms() -> None:
    bare = packument(manifest("1.0.0"))
    bare = {key: bare[key] for key in ("_id", "name", "dist-tags", "versions")}
    listing = read(bare)
    assert "modified" not in written(listing, ABBREVIATED)
    assert REGISTRY.headers(listing) == ()
    assert listing.entries["foo-1.0.0.tgz"].published is None
    # And one that answers in the abbreviated form alone.
    short = {key: value for key, value in bare.items() if key != "_id"} | {"modified": "2024-01-01T00:00:00.000Z"}
    assert written(read(short), ABBREVIATED)["modified"] == "2024-01-01T00:00:00.000Z"


# ---- views -----------------------------------------------------------------------------------------------------------


def view(listing: Listing, name: str, base: str | None = BASE) -> Any:
    return json.loads(REGISTRY.write(listing, FULL, base, name))


def test_a_manifest_is_had_by_version_and_by_tag() -> None:
    document = packument(manifest("1.0.0"), manifest("2.0.0-rc.1"))
    document["dist-tags"] = {"latest": "1.0.0", "next": "2.0.0-rc.1"}
    listing = read(document)
    for wanted, version in (("1.0.0", "1.0.0"), ("latest", "1.0.0"), ("next", "2.0.0-rc.1")):
        said = view(listing, f"manifest/{wanted}")
        assert said["version"] == version
        assert said["dist"]["tarball"] == f"{BASE}foo/-/foo-{version}.tgz"
        assert view(listing, f"manifest/{wanted}", None) == document["versions"][version]
    for wanted in ("3.0.0", "beta", "__proto__", "toString"):
        with pytest.raises(NotFound, match="foo"):
            view(listing, f"manifest/{wanted}")
    assert view(listing, "dist-tags") == document["dist-tags"]


def test_views_show_the_page_as_policy_left_it() -> None:
    document = packument(manifest("1.0.0"), manifest("2.0.0"))
    document["dist-tags"]["two"] = "2.0.0"
    restricted = REGISTRY.restrict(read(document), refused("2.0.0"))
    assert view(restricted, "manifest/latest")["version"] == "1.0.0"
    assert view(restricted, "dist-tags") == {"latest": "1.0.0"}
    with pytest.raises(Refused) as caught:
        view(restricted, "manifest/2.0.0")
    assert caught.value.verdict == NO
    with pytest.raises(NotFound):
        view(restricted, "manifest/two")


def test_views_have_one_form() -> None:
    listing = read(packument(manifest("1.0.0")))
    for name in ("manifest/1.0.0", "dist-tags"):
        assert REGISTRY.variants(Page("npm", "foo", name)) == (FULL,)
        with pytest.raises(ValueError):
            REGISTRY.write(listing, ABBREVIATED, BASE, name)


# ---- policy ----------------------------------------------------------------------------------------------------------


def test_a_refused_version_leaves_the_page_and_npm_is_told_why() -> None:
    document = packument(manifest("1.0.0"), manifest("1.1.0", engines={"node": "*"}), manifest("1.2.0"))
    restricted = REGISTRY.restrict(read(document), refused("1.1.0"))
    assert list(restricted.entries) == ["foo-1.0.0.tgz", "foo-1.2.0.tgz"]
    for form in (FULL, ABBREVIATED):
        said = written(restricted, form)
        assert list(said["versions"]) == ["1.0.0", "1.2.0"]
        assert said["dist-tags"] == {"latest": "1.2.0"}
        assert said["policyRestrictions"] == {
            "message": "foo 1.1.0: malware",
            "versions": {"1.1.0": {"name": "foo", "version": "1.1.0", "engines": {"node": "*"}}},
        }
    assert list(written(restricted)["time"]) == ["created", "modified", "1.0.0", "1.2.0"]
    untouched = json.dumps(document["versions"]["1.0.0"], indent=1).encode().replace(b"\n", b"\n  ")
    assert untouched in REGISTRY.write(restricted, FULL, None)
    assert b"1.1.0.tgz" not in REGISTRY.write(restricted, FULL, None)


def test_a_restricted_page_can_be_restricted_further() -> None:
    first = REGISTRY.restrict(read(packument(manifest("1.0.0"), manifest("2.0.0"), manifest("3.0.0"))), refused("3.0.0"))
    second = REGISTRY.restrict(first, refused("3.0.0", "2.0.0", verdict=Refuse("other", "r")))
    said = written(second)["policyRestrictions"]
    assert said["message"] == "foo 3.0.0: malware\nfoo 2.0.0: other"
    assert list(said["versions"]) == ["3.0.0", "2.0.0"]
    assert written(second)["dist-tags"] == {"latest": "1.0.0"}


def test_nothing_is_left_of_a_page_whose_every_version_is_refused() -> None:
    restricted = REGISTRY.restrict(read(packument(manifest("1.0.0"), manifest("2.0.0"))), refused("1.0.0", "2.0.0"))
    assert not restricted.entries
    assert restricted.restrictions.keys() == {"1.0.0", "2.0.0"}
    assert written(restricted)["versions"] == written(restricted)["dist-tags"] == {}


@pytest.mark.parametrize(
    ("versions", "gone", "latest"),
    [
        # The highest stable one that was there before.
        (("1.0.0", "1.2.0", "1.10.0", "2.0.0-rc.1", "2.0.0"), ("2.0.0",), "1.10.0"),
        # 1.0.5 was published after 2.0.0: a patch of an old line is not the latest.
        (("1.0.0", "1.9.0", "2.0.0", "3.0.0-beta"), ("2.0.0",), "1.9.0"),
        # Higher, but it was not the latest when the one that went was. The dates say nothing: some mirrors make them up.
        (("1.0.0", "2.0.0", "3.0.0"), ("2.0.0",), "1.0.0"),
        (("2.0.0", "1.0.0", "3.0.0"), ("2.0.0",), "1.0.0"),
        (("2.0.0", "3.0.0"), ("2.0.0",), "3.0.0"),
        (("1.0.0-alpha", "1.0.0-beta", "1.0.0"), ("1.0.0",), "1.0.0-beta"),
        (("1.0.0", "2.0.0"), ("1.0.0", "2.0.0"), None),
        (("odd", "1.0.0"), ("1.0.0",), "odd"),
    ],
)
def test_latest_moves_to_what_should_have_been(versions: tuple[str, ...], gone: tuple[str, ...], latest: str | None) -> None:
    document = packument(*(manifest(version) for version in versions))
    document["dist-tags"]["latest"] = gone[0]
    assert written(REGISTRY.restrict(read(document), refused(*gone)))["dist-tags"].get("latest") == latest


def test_latest_avoids_what_is_deprecated_while_it_can() -> None:
    document = packument(
        manifest("1.0.0"), manifest("1.1.0", deprecated="broken"), manifest("1.2.0", deprecated=""), manifest("2.0.0")
    )
    assert written(REGISTRY.restrict(read(document), refused("2.0.0")))["dist-tags"] == {"latest": "1.2.0"}
    assert written(REGISTRY.restrict(read(document), refused("2.0.0", "1.2.0")))["dist-tags"] == {"latest": "1.0.0"}
    assert written(REGISTRY.restrict(read(document), refused("2.0.0", "1.2.0", "1.0.0")))["dist-tags"] == {"latest": "1.1.0"}


def test_versions_without_a_tarball_are_judged_too_and_never_become_the_latest() -> None:
    document = packument(
        manifest("1.0.0"),
        manifest("2.0.0", dist={"tarball": "ftp://x.test/foo.tgz"}),
        {"name": "foo", "version": "3.0.0"},
        manifest("4.0.0"),
    )
    document["dist-tags"] = {"latest": "4.0.0", "next": "3.0.0", "old": "2.0.0"}
    listing = read(document)
    rules = [parse_rule({"name": "r", "match": "pkg:npm/foo@>=3", "action": "refuse", "reason": "malware"})]
    assert verdicts(rules, REGISTRY, listing).keys() == {"3.0.0", "4.0.0"}
    restricted = REGISTRY.restrict(listing, verdicts(rules, REGISTRY, listing))
    for form in (FULL, ABBREVIATED):
        said = written(restricted, form)
        assert list(said["versions"]) == ["1.0.0", "2.0.0"]
        assert said["dist-tags"] == {"latest": "1.0.0", "old": "2.0.0"}
    with pytest.raises(Refused):
        REGISTRY.write(restricted, FULL, BASE, "manifest/3.0.0")
    assert not verdicts(rules, REGISTRY, restricted)


def test_other_tags_are_dropped_and_odd_ones_left_alone() -> None:
    document = packument(manifest("1.0.0"), manifest("2.0.0"))
    document["dist-tags"] = {"beta": "2.0.0", "latest": "1.0.0", "lost": "9.9.9", "odd": ["2.0.0"]}
    restricted = REGISTRY.restrict(read(document), refused("2.0.0"))
    assert written(restricted)["dist-tags"] == {"latest": "1.0.0", "lost": "9.9.9", "odd": ["2.0.0"]}


def test_a_quarantine_tells_when_it_ends() -> None:
    hold = Hold(1767225600.0, "too  new", "age")
    restricted = REGISTRY.restrict(read(packument(manifest("1.0.0"), manifest("2.0.0"))), {"2.0.0": hold})
    assert written(restricted)["policyRestrictions"]["message"] == "foo 2.0.0: too new (until 2026-01-01T00:00:00.000Z)"
    assert REGISTRY.restrict(read(packument(manifest("1.0.0"))), {"1.0.0": Hold(1e300, "no", "r")}).restrictions


def test_a_message_stays_readable_when_much_is_refused() -> None:
    versions = [f"1.0.{n}" for n in range(300)]
    restricted = REGISTRY.restrict(read(packument(*map(manifest, versions), manifest("2.0.0"))), refused(*versions))
    message = written(restricted)["policyRestrictions"]["message"]
    assert message.endswith("1.0.19 and 280 more: malware")
    assert len(written(restricted)["policyRestrictions"]["versions"]) == 300


# ---- dates and notices -----------------------------------------------------------------------------------------------


def test_dates_are_the_later_of_upstreams_and_policys() -> None:
    listing = read(packument(manifest("1.0.0")))
    for restricted_at, modified, header in (
        (0.0, "2024-02-01T12:00:00.500Z", "Thu, 01 Feb 2024 12:00:00 GMT"),
        (1700000000.0, "2024-02-01T12:00:00.500Z", "Thu, 01 Feb 2024 12:00:00 GMT"),
        (1767225600.0, "2026-01-01T00:00:00.000Z", "Thu, 01 Jan 2026 00:00:00 GMT"),
    ):
        dated = replace(listing, restricted_at=restricted_at)
        for base in (BASE, None):
            assert written(dated, FULL, base)["time"]["modified"] == modified
            assert written(dated, ABBREVIATED, base)["modified"] == modified
        assert dict(REGISTRY.headers(dated))["last-modified"] == header
        assert dict(REGISTRY.headers(dated, b"", "Fri, 01 Jan 2100 00:00:00 GMT"))["last-modified"] == header


def test_policys_date_finds_a_place_in_a_document_without_times() -> None:
    bare = {"name": "foo", "versions": {"1.0.0": manifest("1.0.0")}}
    dated = replace(read(bare), restricted_at=1767225600.0)
    for form in (FULL, ABBREVIATED):
        assert written(dated, form)["modified"] == "2026-01-01T00:00:00.000Z"
    assert written(replace(read({**bare, "time": {}}), restricted_at=1767225600.0))["time"] == {
        "modified": "2026-01-01T00:00:00.000Z"
    }


@pytest.mark.parametrize("odd", ["9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+14:00"])
def test_a_date_that_no_date_field_can_hold_is_none(odd: str) -> None:
    for document in (
        packument(manifest("1.0.0"), modified=odd, time={}),
        packument(manifest("1.0.0"), time={"modified": odd, "1.0.0": odd}),
    ):
        listing = read(document)
        assert REGISTRY.headers(listing) == ()
        assert written(listing, ABBREVIATED)["versions"].keys() == {"1.0.0"}
        assert listing.entries["foo-1.0.0.tgz"].published is None


def test_upstreams_own_field_dates_what_tells_no_date_itself() -> None:
    keys = REGISTRY.read(Page("npm", "", "keys"), b'{"keys": []}', FULL, ROOT)
    date = "Thu, 01 Jan 2026 00:00:00 GMT"
    assert REGISTRY.headers(keys, b"", date) == (("last-modified", date),)
    for odd in ("yesterday", "", None, "Thu, 99 Jan 2026 00:00:00 GMT"):
        assert REGISTRY.headers(keys, b"", odd) == ()


def notice(listing: Listing, note: str = "") -> str | None:
    return dict(REGISTRY.headers(listing, b"", None, note)).get("npm-notice")


def test_a_notice_says_what_is_hidden_and_how_the_node_is() -> None:
    listing = read(packument(manifest("1.0.0"), manifest("2.0.0"), manifest("3.0.0")))
    assert notice(listing) is None
    assert notice(listing, "upstream is  down\n") == "upstream is down"
    one, two = REGISTRY.restrict(listing, refused("2.0.0")), REGISTRY.restrict(listing, refused("2.0.0", "3.0.0"))
    assert notice(one) == "1 version hidden by policy: malware"
    assert notice(two, "upstream is down") == "upstream is down; 2 versions hidden by policy: malware"
    mixed = REGISTRY.restrict(listing, {"2.0.0": NO, "3.0.0": Refuse("café\u2028\x07x" + "y" * 300, "r")})
    assert notice(mixed) == "2 versions hidden by policy: malware (and 1 more reasons)"
    long = notice(REGISTRY.restrict(listing, {"3.0.0": Refuse("café\u2028\x07x" + "y" * 300, "r")}))
    assert long is not None
    assert long.isascii()
    assert long.isprintable()
    assert len(long) == 200


# ---- amending --------------------------------------------------------------------------------------------------------


def test_a_changed_integrity_under_a_known_version_is_put_back() -> None:
    before = read(packument(manifest("1.0.0", dist={"signatures": [{"keyid": "k", "sig": "old"}]}), manifest("2.0.0")))
    changed = manifest("1.0.0", dist={"integrity": SHA512.replace("A", "B"), "shasum": "cd" * 20, "signatures": [], "future": 1})
    now = read(packument(changed, manifest("2.0.0", description="new"), manifest("3.0.0")))
    amended = REGISTRY.amend(
        now, {"foo-1.0.0.tgz": before.entries["foo-1.0.0.tgz"], "foo-0.9.0.tgz": before.entries["foo-2.0.0.tgz"]}
    )
    assert amended.entries["foo-1.0.0.tgz"] == before.entries["foo-1.0.0.tgz"]
    said, was = written(amended, base=None), written(now, base=None)
    assert said["versions"]["1.0.0"]["dist"] == written(before, base=None)["versions"]["1.0.0"]["dist"]
    said["versions"]["1.0.0"]["dist"] = was["versions"]["1.0.0"]["dist"]
    assert said == was


def test_an_entry_known_only_by_its_binding_is_described_by_its_digests() -> None:
    now = read(packument(manifest("1.0.0", dist={"fileCount": 3, "signatures": [{"keyid": "k", "sig": "s"}]})))
    listed = now.entries["foo-1.0.0.tgz"]
    held = replaced(
        listed, digests=(Digest("sha256", "11" * 32), Digest("sha512", "22" * 64), Digest("sha1", "33" * 20)), extra=b""
    )
    amended = REGISTRY.amend(now, {"foo-1.0.0.tgz": held})
    assert written(amended, base=None)["versions"]["1.0.0"]["dist"] == {
        "tarball": f"{ROOT}foo/-/foo-1.0.0.tgz",
        "integrity": f"sha512-{base64.b64encode(b'\x22' * 64).decode()}",
        "shasum": "33" * 20,
    }


# ---- attestations ----------------------------------------------------------------------------------------------------


def test_attestations_are_relayed_as_they_are_and_closed_with_their_version() -> None:
    page = Page("npm", "@s/n", "attestations/1.0.0")
    body = b'{ "attestations": [ {"predicateType": "x", "bundle": {"y": 1.0}} ] }'
    listing = REGISTRY.read(page, body, FULL, ROOT)
    assert REGISTRY.write(listing, FULL, BASE) == body
    assert [entry.file.version for entry in listing.entries.values()] == ["1.0.0"]
    restricted = REGISTRY.restrict(listing, refused("1.0.0"))
    assert restricted.restrictions == refused("1.0.0")
    assert b"predicateType" not in REGISTRY.write(restricted, FULL, BASE)
    for bad in (b"{}", b'{"attestations": {}}', b"[]", b"<html>", b'{"attestations": [1'):
        with pytest.raises(ValueError):
            REGISTRY.read(page, bad, FULL, ROOT)
