"""What request targets mean to PyPI, where upstream has things, and which representation a client gets."""

from __future__ import annotations

import pytest

from origin.errors import NotFound
from origin.model import Entry, File, Listing, Local, Page
from origin.registries import Registry
from origin.registries.kinds import create, default_upstream

HASH = "ab/cd/" + "e" * 60
PYPI: Registry = create("pypi", "pypi", "http://pypi.test:7001/simple/")
PAGE = Page("pypi", "foo-bar", "")
JSON = "application/vnd.pypi.simple.v1+json"
HTML = "application/vnd.pypi.simple.v1+html"


@pytest.mark.parametrize(
    ("target", "meaning"),
    [
        ("simple/", Page("pypi", "", "index")),
        ("simple/foo-bar/", PAGE),
        ("simple/foo-bar/?format=x", PAGE),
        ("simple", Local(301, "moved", "simple/")),
        ("simple/foo-bar", Local(301, "moved", "simple/foo-bar/")),
        ("simple/Foo_Bar/", Local(301, "moved", "simple/foo-bar/")),
        ("simple/FOO..bar?a=b", Local(301, "moved", "simple/foo-bar/?a=b")),
        ("simple/%66oo-bar/", PAGE),
        ("pypi/foo-bar/json", Page("pypi", "foo-bar", "json")),
        ("pypi/foo-bar/json/", Page("pypi", "foo-bar", "json")),
        ("pypi/foo-bar/1.0/json", Page("pypi", "foo-bar", "json/1.0")),
        ("pypi/Foo.Bar/1.0/json/", Local(301, "moved", "pypi/foo-bar/1.0/json")),
        ("integrity/Foo_Bar/1.0/f-1.0.zip/provenance", Page("pypi", "foo-bar", "provenance/1.0/f-1.0.zip")),
        ("simple/-foo/", None),
        ("simple/foo%20bar/", None),
        ("simple/f%C3%B6%C3%B6/", None),
        ("simple/foo/bar/", None),
        ("pypi/foo/1%200/json", None),
        ("", None),
        ("rss/updates.xml", None),
        ("search/", None),
        ("packages/", None),
        (f"packages/{HASH}/", None),
        (f"packages/{HASH.upper()}/foo-1.0.zip", None),
        (f"packages/{HASH}/foo-1.0.zip/", None),
        ("packages/-/Foo/foo-1.0.zip", None),
    ],
)
def test_a_target_means_a_page_a_redirect_or_nothing(target: str, meaning: object) -> None:
    assert PYPI.resource("GET", target) == meaning
    assert PYPI.resource("HEAD", target) == meaning


@pytest.mark.parametrize(
    "target",
    [
        "simple/..%2ffoo/",
        "simple/../foo/",
        "simple/%2e%2e/foo/",
        "simple/foo%00/",
        "simple/foo%5cbar/",
        "simple/foo\\bar/",
        "simple//foo/",
        "simple/%252e%252e/",
        "simple/%zz/",
        f"packages/{HASH}/{'x' * 300}.whl",
    ],
)
def test_a_malformed_target_is_a_value_error(target: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        PYPI.resource("GET", target)


def test_what_would_write_is_refused_as_read_only() -> None:
    for method, target in [("POST", "legacy/"), ("POST", "pypi"), ("POST", "RPC2"), ("GET", "legacy/"), ("POST", "simple/foo/")]:
        answer = PYPI.resource(method, target)
        assert isinstance(answer, Local)
        assert (answer.status, answer.message[:16]) == (403, "read-only mirror")


def test_other_methods_are_not_allowed() -> None:
    answer = PYPI.resource("DELETE", "simple/foo/")
    assert isinstance(answer, Local)
    assert answer.status == 405


@pytest.mark.parametrize(
    ("filename", "project", "version"),
    [
        ("foo_bar-1.0.tar.gz", "foo-bar", "1.0"),
        ("foo-bar-1.0.tar.gz", "foo-bar", "1.0"),
        ("Foo.Bar-1.0.0.zip", "foo-bar", "1.0.0"),
        ("foo_bar-1.0-1-py3-none-any.whl", "foo-bar", "1.0"),
        ("foo_bar-1.0+cu118-py3-none-any.whl", "foo-bar", "1.0+cu118"),
        ("foo_bar-1.0+cu118-py3-none-any.whl.metadata", "foo-bar", "1.0+cu118"),
        ("foo-bar-1.0.tar.gz.asc", "foo-bar", "1.0"),
        ("foo_bar-1.0-py2.7.egg", "foo-bar", "1.0"),
        ("foo_bar-1.0-py2.7-linux-x86_64.egg", "foo-bar", "1.0"),
        ("foo-bar-1.0.win32-py2.7.exe", "foo-bar", "1.0"),
        ("foo-bar-1.0.win-amd64.msi", "foo-bar", "1.0"),
        ("foo-bar-1.0.linux-x86_64.tar.gz", "foo-bar", "1.0"),
        ("foo-bar-1.0-1.noarch.rpm", "foo-bar", "1.0"),
        ("foo-1.0-1.tar.gz", "foo", "1.0.post1"),
        ("foo-3-1.0.tar.gz", "foo-3", "1.0"),
        ("foo-1.0dev-r123.tar.gz", "foo", "1.0dev-r123"),
        ("strange", "", ""),
        ("nodash.tar.gz", "", ""),
    ],
)
def test_project_and_version_are_read_off_a_file_name(filename: str, project: str, version: str) -> None:
    path = f"packages/{HASH}/{filename}"
    assert PYPI.resource("GET", path) == File("pypi", project, version, filename, path)


def test_a_plus_is_the_same_however_it_is_sent() -> None:
    raw = PYPI.resource("GET", f"packages/{HASH}/foo-1.0+a-py3-none-any.whl")
    assert raw == PYPI.resource("GET", f"packages/{HASH}/foo-1.0%2Ba-py3-none-any.whl")
    assert raw == PYPI.resource("GET", f"packages/{HASH}/foo-1.0%2ba-py3-none-any.whl?download=1")


def test_files_without_a_hashed_path_are_named_by_project() -> None:
    assert PYPI.resource("GET", "packages/-/foo-2/foo-2-1.0.zip") == File(
        "pypi", "foo-2", "1.0", "foo-2-1.0.zip", "packages/-/foo-2/foo-2-1.0.zip"
    )


def test_guessable_links_mean_a_file_by_name() -> None:
    for target in ("packages/source/f/foo/foo-1.0.tar.gz", "packages/3.4/F/Foo/foo-1.0.tar.gz"):
        assert PYPI.resource("GET", target) == File("pypi", "foo", "1.0", "foo-1.0.tar.gz", "")


def test_an_ambiguous_name_has_other_readings() -> None:
    file = PYPI.resource("GET", f"packages/{HASH}/foo-2-1.tar.gz")
    assert isinstance(file, File)
    assert (file.project, file.version) == ("foo", "2.post1")
    assert [(guess.project, guess.version) for guess in PYPI.guesses(file)] == [("foo-2", "1")]
    wheel = PYPI.resource("GET", f"packages/{HASH}/foo-1-py3-none-any.whl")
    assert isinstance(wheel, File)
    assert list(PYPI.guesses(wheel)) == []


def test_what_streams_into_an_unpacker_is_strict() -> None:
    def strict(filename: str) -> bool:
        return PYPI.strict(File("pypi", "foo", "1", filename, ""))

    assert all(map(strict, ("foo-1.tar.gz", "foo-1.tgz", "foo-1.tar.bz2", "foo-1.TAR.XZ", "foo-1.unheard")))
    assert not any(map(strict, ("foo-1-py3-none-any.whl", "foo-1.zip", "foo-1.egg", "foo-1-py3-none-any.whl.metadata")))


# -- upstream


def test_upstream_addresses_follow_from_the_simple_root() -> None:
    assert PYPI.locate(PAGE, None) == "http://pypi.test:7001/simple/foo-bar/"
    assert PYPI.locate(Page("pypi", "", "index"), None) == "http://pypi.test:7001/simple/"
    assert PYPI.locate(Page("pypi", "foo", "json"), None) == "http://pypi.test:7001/pypi/foo/json"
    assert PYPI.locate(Page("pypi", "foo", "json/1!1.0+a"), None) == "http://pypi.test:7001/pypi/foo/1!1.0+a/json"
    provenance = Page("pypi", "foo", "provenance/1.0/foo-1.0.zip")
    assert PYPI.locate(provenance, None) == "http://pypi.test:7001/integrity/foo/1.0/foo-1.0.zip/provenance"


def test_an_upstream_root_of_another_name_has_its_apis_beneath_it() -> None:
    other = create("pypi", "corp", "http://corp.test/root/+simple")
    assert other.upstream == "http://corp.test/root/+simple/"
    assert other.locate(Page("corp", "foo", "json"), None) == "http://corp.test/root/+simple/pypi/foo/json"


def test_upstreams_own_link_to_a_provenance_is_preferred() -> None:
    file = File("pypi", "foo", "1.0", "foo-1.0.zip", "packages/-/foo/foo-1.0.zip")
    listing = Listing(PAGE, {file.filename: Entry(file, "http://f.test/foo-1.0.zip", provenance="http://pypi.test/p")}, b"")
    assert PYPI.locate(Page("pypi", "foo", "provenance/1.0/foo-1.0.zip"), listing) == "http://pypi.test/p"


def test_a_file_is_found_by_its_listing_alone() -> None:
    path = f"packages/{HASH}/foo-1.0.zip"
    file = File("pypi", "foo", "1.0", "foo-1.0.zip", path)
    entry = Entry(file, f"http://files.test/root/{path}")
    listing = Listing(PAGE, {file.filename: entry}, b"")
    assert PYPI.locate(file, listing) == entry.url
    by_name = File("pypi", "foo", "1.0", "foo-1.0.zip", "")
    assert PYPI.expected(by_name, listing) == entry
    elsewhere = File("pypi", "foo", "1.0", "foo-1.0.zip", f"packages/00/00/{'0' * 60}/foo-1.0.zip")
    assert PYPI.expected(elsewhere, listing) is None
    with pytest.raises(NotFound):
        PYPI.locate(elsewhere, listing)
    with pytest.raises(NotFound):
        PYPI.locate(file, None)
    assert PYPI.probe_location(elsewhere, listing) == f"http://files.test/root/{elsewhere.path}"
    assert PYPI.probe_location(by_name, listing) is None


def test_the_public_registries_are_known_without_being_spelled() -> None:
    assert default_upstream("pypi").endswith("/simple/")
    assert default_upstream("npm").count("/") == 3
    assert default_upstream("maven").endswith("/")
    for wrong in (default_upstream, lambda kind: create(kind, "x", "http://x.test/")):
        with pytest.raises(ValueError, match="unknown kind"):
            wrong("cargo")


# -- representations


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "text/html"),
        ("", "text/html"),
        ("*/*", "text/html"),
        ("text/html", "text/html"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
        ("image/png", "text/html"),
        (JSON, JSON),
        (HTML, HTML),
        ("application/vnd.pypi.simple.latest+json", JSON),
        ("application/vnd.pypi.simple.latest+html", HTML),
        ("application/vnd.pypi.simple.v2+json", "text/html"),
        (f"{JSON}, {HTML}; q=0.1, text/html; q=0.01", JSON),
        (f"{JSON}, {HTML};q=0.2, text/html;q=0.01", JSON),
        (f"{JSON}, */*;q=0.1", JSON),
        (f"{HTML}, {JSON}", JSON),
        (f"{HTML};q=0.9, {JSON};q=0.3", HTML),
        (f"{JSON};q=0, */*", "text/html"),
        (f"{JSON};q=nonsense, text/html", "text/html"),
        (f"{JSON.upper()}", JSON),
        (",;,", "text/html"),
    ],
)
def test_the_representation_follows_the_accept_field(accept: str | None, chosen: str) -> None:
    assert PYPI.negotiate(PAGE, accept, "simple/foo-bar/") == chosen


def test_a_format_in_the_query_overrides_the_accept_field() -> None:
    assert PYPI.negotiate(PAGE, "text/html", f"simple/foo/?format={JSON}") == JSON
    assert PYPI.negotiate(PAGE, "text/html", "simple/foo/?x=1&format=application%2Fvnd.pypi.simple.latest%2Bjson") == JSON
    assert PYPI.negotiate(PAGE, JSON, "simple/foo/?format=image/png") == JSON


def test_the_other_apis_have_their_own_types() -> None:
    assert PYPI.negotiate(Page("pypi", "foo", "json"), "text/html", "") == "application/json"
    provenance = Page("pypi", "foo", "provenance/1/f")
    assert PYPI.negotiate(provenance, None, "") == "application/vnd.pypi.integrity.v1+json"
    assert PYPI.negotiate(provenance, "application/json", "") == "application/json"
    assert PYPI.negotiate(provenance, "application/*", "") == "application/vnd.pypi.integrity.v1+json"


def test_json_is_asked_for_first() -> None:
    (name, value), *_ = PYPI.ask(PAGE)
    assert name == "accept"
    assert value.startswith(JSON)
    assert "text/html" in value
