"""Laws of the pure npm modules: nothing crashes on mutated input, what is written reads back, policy leaves the rest alone."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from origin.errors import NotFound, Refused
from origin.model import File, Listing, Page, Refuse
from origin.registries import Registry, slices
from origin.registries import npm_names as names
from origin.registries.npm import NPM

ROOT = "https://npm.test/"
BASE = "http://edge.test:8080/npm/"
FULL = "application/json"
ABBREVIATED = "application/vnd.npm.install-v1+json"
NPM_TEST: Registry = NPM("npm", ROOT)
NAMES = ("foo", "@scope/name", "JSONStream")

VERSIONS = st.from_regex(r"v?[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(?:-?(?:a|rc\.[0-9]|x-1))?(?:\+[a-z0-9.]{1,5})?", fullmatch=True)
KEYS = VERSIONS | st.sampled_from(["__proto__", "constructor", "latest", "1.0", "..", "a/b", "%2e", "x y", "é"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
MORE = st.dictionaries(st.text(max_size=6).map(lambda key: "x-" + key), VALUES, max_size=2)
SCRIPTS = st.dictionaries(st.sampled_from(["install", "postinstall", "test"]), st.sampled_from(["", "node x"]))


@st.composite
def manifests(draw: st.DrawFn, name: str, version: str) -> dict[str, Any]:
    digest = draw(st.binary(min_size=64, max_size=64))
    place = draw(
        st.sampled_from(
            [
                f"{ROOT}{name}/-/{names.basename(name)}-1.tgz",
                f"http://cdn.test/{version}.tgz",
                "-/x.tgz",
                "ftp://x/y",
                f"{ROOT}{name}/-/x.tgz",
            ]
        )
        | st.just(f"{ROOT}{name}/-/{names.basename(name)}-{version}.tgz")
    )
    dist = {"integrity": f"sha512-{base64.b64encode(digest).decode()}", "shasum": digest[:20].hex(), "tarball": place}
    optional = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "scripts": SCRIPTS | VALUES,
                "deprecated": st.booleans() | st.text(max_size=5),
                "dependencies": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
                "hasInstallScript": st.booleans(),
            },
        )
    )
    shape = draw(st.sampled_from([dist, dist, dist, None, {}, "x"]))
    return {**draw(MORE), "name": name, "version": version, **optional, "dist": shape}


@st.composite
def packuments(draw: st.DrawFn) -> tuple[str, bytes]:
    name = draw(st.sampled_from(NAMES))
    versions = draw(st.lists(KEYS, max_size=6, unique=True))
    document: dict[str, Any] = {
        "_id": name,
        "name": name,
        "dist-tags": draw(st.dictionaries(st.sampled_from(["latest", "next", "x"]), st.sampled_from([*versions, "9.9.9"]))),
        "versions": {version: draw(manifests(name, version)) for version in versions},
        **draw(MORE),
    }
    if draw(st.booleans()):
        document["time"] = {
            "modified": "2024-02-01T00:00:00.000Z",
            **{version: draw(st.sampled_from(["2024-01-01T00:00:00.000Z", "2023-01-01", "never"])) for version in versions},
        }
    return name, json.dumps(document, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1]))).encode()


def read(name: str, body: bytes) -> Listing:
    return NPM_TEST.read(Page("npm", name), body, FULL, ROOT + names.escaped(name))


@settings(max_examples=60)
@given(packuments())
def test_what_is_written_reads_back(made: tuple[str, bytes]) -> None:
    name, body = made
    listing = read(name, body)
    relative = any(link == "-/x.tgz" for link in links(json.loads(body)).values())
    assert relative or NPM_TEST.write(listing, FULL, None) == body
    assert NPM_TEST.reread(listing.page, listing.document) == listing
    mirrored = json.loads(NPM_TEST.write(listing, FULL, BASE))
    paths = {entry.file.version: entry.file.path for entry in listing.entries.values()}
    assert links(mirrored) == {version: BASE + names.in_url(path) for version, path in paths.items()}
    # Whatever else there is, is as it was.
    assert without_links(mirrored) == without_links(json.loads(body))


def links(document: dict[str, Any]) -> dict[str, str]:
    return {
        version: each["dist"]["tarball"]
        for version, each in document["versions"].items()
        if isinstance(each["dist"], dict) and "tarball" in each["dist"]
    }


def without_links(document: dict[str, Any]) -> dict[str, Any]:
    for each in document["versions"].values():
        if isinstance(each["dist"], dict):
            each["dist"].pop("tarball", None)
    return document


@settings(max_examples=60)
@given(packuments())
def test_each_tarball_has_an_address_of_its_own_that_leads_back_to_it(made: tuple[str, bytes]) -> None:
    listing = read(*made)
    owners = NPM_TEST.owners(listing)
    assert len({entry.file.path for entry in listing.entries.values()}) == len(listing.entries)
    assert len({entry.file.version for entry in listing.entries.values()}) == len(listing.entries)
    for entry in listing.entries.values():
        meant = NPM_TEST.resource("GET", names.in_url(entry.file.path))
        assert isinstance(meant, File)
        if meant.path in owners:
            project, version = owners[meant.path]
            meant = msgspec.structs.replace(meant, project=project, version=version)
        assert meant == entry.file
        assert NPM_TEST.expected(meant, listing) == entry
        # Every spelling, and astray too.
        for raw in (names.in_url(entry.file.path), names.in_url(entry.file.path).replace("/", "%2f", 1)):
            if raw.startswith("@") or "%2f" not in raw:
                assert NPM_TEST.resource("GET", raw) == NPM_TEST.resource("GET", names.in_url(entry.file.path))
                assert NPM_TEST.stray(f"/{raw}", "/some/npm/") == raw
                assert NPM_TEST.stray(f"/some/npm/some/npm/{raw}", "/some/npm/") == raw


@settings(max_examples=60)
@given(packuments())
def test_the_abbreviated_form_says_nothing_that_the_full_one_does_not(made: tuple[str, bytes]) -> None:
    listing = read(*made)
    full = json.loads(NPM_TEST.write(listing, FULL, BASE))
    short = json.loads(NPM_TEST.write(listing, ABBREVIATED, BASE))
    assert list(short["versions"]) == list(full["versions"])
    assert short["dist-tags"] == full["dist-tags"]
    for version, manifest in short["versions"].items():
        whole = full["versions"][version]
        scripts = whole.get("scripts")
        runs = isinstance(scripts, dict) and any(scripts.get(key) for key in ("preinstall", "install", "postinstall"))
        assert bool(manifest.pop("hasInstallScript", False)) == (runs or whole.pop("hasInstallScript", False))
        assert "scripts" not in manifest
        assert (
            manifest.items() <= whole.items()
            if not unhashable(manifest)
            else all(whole[key] == manifest[key] for key in manifest)
        )


def tarballs(listing: Listing) -> dict[str, tuple[object, ...]]:
    return {entry.file.version: (entry.url, entry.digests, entry.published) for entry in listing.entries.values()}


def unhashable(manifest: dict[str, Any]) -> bool:
    return any(isinstance(value, dict | list) for value in manifest.values())


@settings(max_examples=80)
@given(packuments(), st.data())
def test_policy_takes_away_the_refused_versions_and_nothing_else(made: tuple[str, bytes], data: st.DataObject) -> None:
    listing = read(*made)
    before = json.loads(listing.document)
    versions = list(before["versions"])
    gone = set(data.draw(st.lists(st.sampled_from(versions), unique=True)) if versions else [])
    restricted = NPM_TEST.restrict(listing, {version: Refuse("no", "r") for version in gone})
    for base in (None, BASE):
        after = json.loads(NPM_TEST.write(restricted, FULL, base))
        if base is None:
            assert after["versions"] == {version: each for version, each in before["versions"].items() if version not in gone}
        assert list(after["versions"]) == [version for version in versions if version not in gone]
        assert not gone & set(after.get("time", {}))
        assert set(after.get("policyRestrictions", {}).get("versions", {})) == gone
        tags = after["dist-tags"]
        assert not gone & set(tags.values())
        assert {tag: version for tag, version in before["dist-tags"].items() if version not in gone}.items() <= tags.items()
        if before["dist-tags"].get("latest") in gone:
            assert ("latest" in tags) == bool(restricted.entries)
    again = NPM_TEST.reread(restricted.page, restricted.document)
    # Which of two versions that share a tarball keeps its path depends on who else is there; what is behind it does not.
    assert tarballs(again) == tarballs(restricted)
    assert {e.file.version for e in again.entries.values()} == {e.file.version for e in listing.entries.values()} - gone
    # The tier below judges by the same rules, and finds nothing left to do.
    below = NPM_TEST.restrict(again, restricted.restrictions)
    assert (below.entries, below.document) == (again.entries, restricted.document)


@settings(max_examples=60)
@given(packuments(), st.text(max_size=8) | KEYS, st.floats(0, 4e9))
def test_views_and_dates_are_of_one_document(made: tuple[str, bytes], wanted: str, restricted_at: float) -> None:
    listing = replace(read(*made), restricted_at=float(int(restricted_at)))
    full = json.loads(NPM_TEST.write(listing, FULL, BASE))
    try:
        said = json.loads(NPM_TEST.write(listing, FULL, BASE, f"manifest/{wanted}"))
    except (NotFound, Refused):
        assert wanted not in full["versions"]
        assert full["dist-tags"].get(wanted) not in full["versions"]
    else:
        assert said == full["versions"].get(wanted) or said == full["versions"][full["dist-tags"][wanted]]
    assert json.loads(NPM_TEST.write(listing, FULL, BASE, "dist-tags")) == full["dist-tags"]
    short = json.loads(NPM_TEST.write(listing, ABBREVIATED, BASE))
    assert short.get("modified") == full.get("modified", full.get("time", {}).get("modified"))


@settings(max_examples=300)
@given(packuments(), st.data())
def test_mutated_documents_are_read_or_refused_and_never_crash(made: tuple[str, bytes], data: st.DataObject) -> None:
    name, sound = made
    body = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(body) - 1))
        match data.draw(st.sampled_from(["set", "cut", "repeat", "put"])):
            case "set":
                body[at] = data.draw(st.integers(0, 255))
            case "cut":
                del body[at : at + data.draw(st.integers(1, 40))]
                body = body or bytearray(b"x")
            case "repeat":
                body[at:at] = body[at : at + data.draw(st.integers(1, 40))]
            case _:
                body[at:at] = data.draw(
                    st.sampled_from([b"\\ud83d", b"null", b'"', b"\\", b"{}", b'"versions":{},', b'"time":7,'])
                )
    try:
        listing = read(name, bytes(body))
    except ValueError:
        return
    restricted = NPM_TEST.restrict(listing, {entry.file.version: Refuse("no", "r") for entry in listing.entries.values()})
    NPM_TEST.headers(restricted)
    for shown in (listing, restricted, replace(restricted, restricted_at=3e9)):
        for variant in (FULL, ABBREVIATED):
            for base in (None, BASE):
                json.loads(NPM_TEST.write(shown, variant, base))
        assert NPM_TEST.reread(shown.page, shown.document).entries == shown.entries


@given(st.text(max_size=80) | st.text("ab/%2fF@.+-~!'()*\\\0?é", max_size=80))
def test_any_target_means_something_nothing_or_is_malformed(target: str) -> None:
    try:
        found = NPM_TEST.resource("GET", target)
    except ValueError:
        return
    if isinstance(found, Page) and found.project:
        assert names.normalise(found.project) == found.project
        assert NPM_TEST.locate(found, None).startswith(ROOT)
    if isinstance(found, File):
        assert NPM_TEST.resource("GET", names.in_url(found.path)) == found


@given(st.text(max_size=60) | st.text("application/jsonvd.pm-itl1+*;q=0.5, ", max_size=60))
def test_any_accept_field_gets_one_of_the_variants(accept: str) -> None:
    page = Page("npm", "foo")
    assert NPM_TEST.negotiate(page, accept, "foo") in NPM_TEST.variants(page)


@given(st.text(max_size=60) | st.text("textsizefrom=&0123456789%2f+.-", max_size=60))
def test_any_search_is_clean_or_malformed(query: str) -> None:
    try:
        found = NPM_TEST.resource("GET", f"-/v1/search?{query}")
    except ValueError:
        return
    again = NPM_TEST.resource("GET", found.request)  # type: ignore[union-attr]  # a relay
    assert again == found


@given(st.text(max_size=30) | VERSIONS, st.text(max_size=30) | VERSIONS)
def test_versions_have_one_order(one: str, other: str) -> None:
    left, right = names.version_key(one), names.version_key(other)
    if left is not None and right is not None:
        assert (left < right) + (left == right) + (left > right) == 1
        assert names.is_stable(left) == (left[4] == ())


@given(VERSIONS, st.sampled_from(NAMES))
def test_a_version_survives_the_file_name_it_is_in(version: str, name: str) -> None:
    filename = names.conventional(name, version)
    assert filename is not None
    assert names.version_in(name, filename) == version


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=5), st.sampled_from([None, 2]), st.booleans())
def test_places_are_where_the_values_stand(document: dict[str, Any], indent: int | None, plain: bool) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=plain).encode()
    within = set(list(document)[:2])
    found, inner = slices.places(text, within)
    assert list(found) == list(document)
    assert {key: json.loads(text[start:stop]) for key, (start, stop) in found.items()} == document
    assert inner.keys() == {key for key in within if isinstance(document[key], dict)}
    for key, members in inner.items():
        assert {name: json.loads(text[start:stop]) for name, (start, stop) in members.items()} == document[key]


@given(st.binary(max_size=200) | st.text('{}[]",:\\a1 \n', max_size=60).map(str.encode))
def test_what_has_places_is_json_or_what_stands_there_is_not(text: bytes) -> None:
    try:
        found, _ = slices.places(text)
        for start, stop in found.values():
            msgspec.json.decode(text[start:stop])
    except ValueError:
        return
    msgspec.json.decode(text)


def test_a_key_given_twice_means_its_last_value() -> None:
    found, inner = slices.places(b'{"a": {"x": 1, "x": 2}, "b": 1, "a": 3, "c": {"y": 1, "y": 22}}', {"a", "c"})
    assert list(found) == ["b", "a", "c"]
    assert list(inner) == ["c"]
    assert list(inner["c"]) == ["y"]
