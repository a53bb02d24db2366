"""Laws of the pure PyPI modules: nothing crashes on mutated input, what is written reads back, policy leaves the rest alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from origin.model import File, Page, Refuse
from origin.registries import Registry, slices
from origin.registries import pypi_names as names
from origin.registries.kinds import create

DATA = Path(__file__).resolve().parent.parent / "data" / "pypi"
PYPI: Registry = create("pypi", "pypi", "https://pypi.test/simple/")
PAGE = Page("pypi", "foo-bar", "")
URL = "https://pypi.test/simple/foo-bar/"
JSON = "application/vnd.pypi.simple.v1+json"
BASE = "http://edge.test:8080/pypi/"

VERSIONS = st.from_regex(
    r"(?:[1-9]!)?[0-9]{1,3}(?:\.[0-9]{1,3}){0,3}(?:(?:a|b|rc)[0-9])?(?:\.post[0-9])?(?:\+[a-z0-9]{1,5})?", fullmatch=True
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    version = draw(VERSIONS)
    filename = draw(
        st.sampled_from([f"foo_bar-{version}-py3-none-any.whl", f"foo-bar-{version}.tar.gz", f"foo_bar-{version}-py2.7.egg"])
    )
    digest = draw(st.text("0123456789abcdef", min_size=64, max_size=64))
    directory = draw(st.sampled_from([f"packages/{digest[:2]}/{digest[2:4]}/{digest[4:]}", "wheels", "simple/foo-bar"]))
    # The second one could say anything about keys that have a meaning; the first has them as the specification does.
    file: dict[str, Any] = draw(st.dictionaries(st.text(max_size=6).map(lambda key: "x-" + key), VALUES, max_size=2))
    file.update({"filename": filename, "url": f"https://files.pypi.test/{directory}/{filename}", "hashes": {"sha256": digest}})
    optional: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "size": st.integers(0, 2**31),
                "yanked": st.booleans() | st.text(min_size=1, max_size=20),
                "core-metadata": st.booleans() | st.just({"sha256": digest}),
                "dist-info-metadata": st.booleans() | st.just({"sha256": digest}),
                "data-dist-info-metadata": st.booleans() | st.just({"sha256": digest}),
                "requires-python": st.none() | st.text(max_size=20),
                "upload-time": st.none() | st.just("2024-01-01T00:00:00.000001Z") | st.text(max_size=8),
                "provenance": st.none() | st.just(f"https://pypi.test/integrity/foo-bar/{version}/{filename}/provenance"),
                "gpg-sig": st.booleans(),
            },
        )
    )
    return {**file, **optional}


@st.composite
def pages(draw: st.DrawFn) -> bytes:
    listed = draw(st.lists(files(), max_size=6, unique_by=lambda file: file["filename"]))
    document = {"meta": {"api-version": "1.4", "_last-serial": draw(st.integers(0, 2**40))}, "name": "Foo.Bar", "files": listed}
    return json.dumps(
        {**document, "x-more": draw(VALUES)}, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1]))
    ).encode()


@settings(max_examples=40)
@given(pages())
def test_what_is_written_reads_back(body: bytes) -> None:
    listing = PYPI.read(PAGE, body, JSON, URL)
    assert len(listing.entries) == len(json.loads(body)["files"])
    assert json.loads(PYPI.write(listing, JSON, None)) == json.loads(body)
    assert PYPI.reread(PAGE, PYPI.write(listing, JSON, None)).entries.keys() == listing.entries.keys()
    mirrored = PYPI.read(PAGE, PYPI.write(listing, JSON, BASE), JSON, f"{BASE}simple/foo-bar/")
    for name, entry in listing.entries.items():
        again = mirrored.entries[name]
        assert (again.digests[:1], again.size, again.yanked, again.sidecar) == (
            entry.digests[:1],
            entry.size,
            entry.yanked,
            entry.sidecar,
        )
        assert again.url == f"{BASE}{entry.file.path}"


@settings(max_examples=40)
@given(pages())
def test_html_says_what_json_says(body: bytes) -> None:
    listing = PYPI.read(PAGE, body, JSON, URL)
    again = PYPI.read(PAGE, PYPI.write(listing, "text/html", None), "text/html", URL)
    assert [(e.file, e.url, e.digests, e.sidecar, e.provenance) for e in again.entries.values()] == [
        (e.file, e.url, e.digests, e.sidecar, e.provenance) for e in listing.entries.values()
    ]


@settings(max_examples=40)
@given(pages(), st.data())
def test_policy_touches_the_refused_versions_and_nothing_else(body: bytes, data: st.DataObject) -> None:
    listing = PYPI.read(PAGE, body, JSON, URL)
    versions = sorted({entry.file.version for entry in listing.entries.values()})
    refused = set(data.draw(st.lists(st.sampled_from(versions), unique=True)) if versions else [])
    restricted = PYPI.restrict(listing, {version: Refuse('no </a> & "no"', "r") for version in refused})
    before = {file["filename"]: file for file in json.loads(listing.document)["files"]}
    after = {file["filename"]: file for file in json.loads(PYPI.write(restricted, JSON, None))["files"]}
    assert before.keys() == after.keys()
    for name, entry in restricted.entries.items():
        if entry.file.version in refused:
            assert entry.yanked == after[name]["yanked"] == 'no </a> & "no"'
            assert not any(
                after[name].get(key) for key in ("core-metadata", "dist-info-metadata", "data-dist-info-metadata", "provenance")
            )
            assert PYPI.expected(File("pypi", "foo-bar", entry.file.version, f"{name}.metadata", ""), restricted) is None
        else:
            assert entry == listing.entries[name]
            assert after[name] == before[name]
    again = PYPI.reread(PAGE, restricted.document)
    assert again.entries == restricted.entries
    # The tier below judges by the same rules, and finds nothing left to do.
    below = PYPI.restrict(again, restricted.restrictions)
    assert (below.entries, below.document) == (restricted.entries, restricted.document)


@settings(max_examples=40)
@given(pages())
def test_what_is_listed_can_be_asked_for(body: bytes) -> None:
    listing = PYPI.read(PAGE, body, JSON, URL)
    owners = PYPI.owners(listing)
    for entry in listing.entries.values():
        for link in (entry.file.path, entry.file.path.replace("+", "%2B")):
            asked = PYPI.resource("GET", link)
            assert isinstance(asked, File)
            if asked != entry.file:
                assert owners[entry.file.path] == (entry.file.project, entry.file.version)
            else:
                assert PYPI.expected(asked, listing) == entry


@settings(max_examples=300)
@given(st.sampled_from(sorted(DATA.iterdir())), st.data())
def test_mutated_documents_are_read_or_refused_and_never_crash(path: Path, data: st.DataObject) -> None:
    body = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(body) - 1))
        match data.draw(st.sampled_from(["set", "cut", "repeat"])):
            case "set":
                body[at] = data.draw(st.integers(0, 255))
            case "cut":
                del body[at : at + data.draw(st.integers(1, 40))]
                body = body or bytearray(b"x")
            case _:
                body[at:at] = body[at : at + data.draw(st.integers(1, 40))]
    media_type = "text/html" if path.suffix == ".html" else JSON
    for page in (PAGE, Page("pypi", "foo-bar", "json"), Page("pypi", "", "index")):
        kind = "application/json" if page.view == "json" else media_type
        try:
            listing = PYPI.read(page, bytes(body), kind, URL)
        except ValueError:
            continue
        restricted = PYPI.restrict(listing, {entry.file.version: Refuse("no", "r") for entry in listing.entries.values()})
        for variant in PYPI.variants(page):
            written = PYPI.write(restricted, variant, BASE)
            if variant.endswith("json"):
                json.loads(written)
            else:
                assert LexborHTMLParser(written).css_first("title") is not None


@given(st.text(max_size=80) | st.text("ab/%2.+-simplepackagesjson\\\0?é", max_size=80))
def test_any_target_means_something_nothing_or_is_malformed(target: str) -> None:
    try:
        found = PYPI.resource("GET", target)
    except ValueError:
        return
    if isinstance(found, File):
        assert found.path in ("", target.partition("?")[0]) or "%" in target or target.startswith("/")
        list(PYPI.guesses(found))
        PYPI.strict(found)


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_accept_field_gets_one_of_the_variants(accept: str, query: str) -> None:
    assert PYPI.negotiate(PAGE, accept, f"simple/foo-bar/?{query}") in PYPI.variants(PAGE)


@given(st.text(max_size=120))
def test_any_file_name_can_be_read(filename: str) -> None:
    for project, version in names.readings(filename):
        assert project == names.normalise(project)
        assert isinstance(version, str)
    names.version_in("foo", filename)


@given(VERSIONS)
def test_a_version_survives_the_file_name_it_is_in(version: str) -> None:
    expected = names.canonical(version)
    for filename in (f"foo_bar-{version}-py3-none-any.whl", f"foo_bar-{version}.tar.gz"):
        assert names.readings(filename)[0] == ("foo-bar", expected)
        assert names.version_in("foo-bar", filename) == expected
    assert names.version_in("foo-bar", f"foo-bar-{version}.zip") == expected


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=5), st.sampled_from([None, 2]), st.booleans())
def test_taking_apart_and_putting_together_changes_nothing(document: dict[str, Any], indent: int | None, plain: bool) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=plain).encode()
    frame, split = slices.take_apart(text)
    assert frame.keys() | split.keys() == document.keys()
    assert json.loads(slices.put_together(frame, split)) == document


@given(st.binary(max_size=200) | st.text('{}[]",:\\a1 \n', max_size=60).map(str.encode))
def test_what_is_taken_apart_is_json_or_its_pieces_are_not(text: bytes) -> None:
    try:
        frame, split = slices.take_apart(text)
        for piece in (*frame.values(), *(piece for pieces in split.values() for piece in pieces)):
            msgspec.json.decode(piece)
    except ValueError:
        return
    # Grammar is checked by decoding the pieces; so where all of them decode, so does the whole.
    msgspec.json.decode(text)
