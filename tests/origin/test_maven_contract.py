"""The contract of a registry, held by Maven: no page of this kind lists files to be had, so laws about such pages have their own form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace as changed

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from origin.errors import NotFound
from origin.model import Digest, File, Listing, Page, Refuse
from origin.registries.maven import XML, Maven
from tests.contracts.registries import (
    ABSURD,
    LAW,
    LOGIN,
    Arena,
    RegistryContract,
    Sample,
    Shown,
    mutated,
    require_address,
    require_plain,
)

UPSTREAM = "https://maven.test/maven2/"
ARTIFACT = b"""<?xml version="1.0" encoding="UTF-8"?>
<metadata modelVersion="1.1.0">
  <groupId>org.example.widgets</groupId>
  <artifactId>lib</artifactId>
  <versioning>
    <latest>2.1-SNAPSHOT</latest>
    <release>2.0</release>
    <versions>
      <version>1.0</version>
      <version>2.0</version>
      <version>1.10+b</version>
      <version>2.1-SNAPSHOT</version>
    </versions>
    <lastUpdated>20260102030405</lastUpdated>
  </versioning>
</metadata>
"""
SNAPSHOT = b"""<metadata modelVersion="1.1.0"><groupId>org.example.widgets</groupId><artifactId>lib</artifactId>
<version>2.1-SNAPSHOT</version><versioning>
  <snapshot><timestamp>20260102.030405</timestamp><buildNumber>7</buildNumber></snapshot><lastUpdated>20260102030405</lastUpdated>
  <snapshotVersions><snapshotVersion><extension>jar</extension><value>2.1-20260102.030405-7</value>
  <updated>20260102030405</updated></snapshotVersion></snapshotVersions>
</versioning></metadata>"""
GROUP = b"""<metadata><plugins>
<plugin><name>Foo</name><prefix>foo</prefix><artifactId>foo-maven-plugin</artifactId></plugin>
</plugins></metadata>"""
PREFIXES = b"## repository-prefixes/2.0\n# a comment: with a colon\n/org/example\n/com\n"
CATALOG = b"""<archetype-catalog xmlns="urn:x"><archetypes><archetype><groupId>org.example</groupId><artifactId>start</artifactId>
<version>1.0</version></archetype></archetypes></archetype-catalog>"""
DESCRIPTION = b"<repository-metadata><id>maven</id></repository-metadata>"
PATH = "org/example/widgets/lib/2.1-SNAPSHOT/lib-2.1-SNAPSHOT.jar"


def sample(
    view: str, body: bytes, project: str = "org.example.widgets/lib", *, named: bool = False, closed: bool = True
) -> Sample:
    return Sample(Page("maven", project, view), body, XML, UPSTREAM, named=named, closed=closed, lists=False)


def look(document: bytes, media_type: str) -> Mapping[str, Shown]:
    return {}


def require_sound(listing: Listing, page: Page) -> None:
    """Everything in ``listing`` is of ``page``; entries go by version, or by the name of the one file that a page is about."""
    assert listing.page == page
    assert listing.serial is None
    assert not listing.restrictions
    for name, entry in listing.entries.items():
        file = entry.file
        assert (file.registry, file.project) == (page.registry, page.project)
        for text in (name, file.filename, file.version, file.path):
            require_plain(text)
        if page.view.startswith("file/"):
            (digest,) = entry.digests
            assert digest == Digest.parse("sha1", digest.value)
            assert (file.filename, file.path) == (f"{name}@{digest.value}", page.view.removeprefix("file/"))
        else:
            assert (file.version, file.filename, file.path) == (name, "", "")


class TestMaven(RegistryContract):
    @pytest.fixture
    def arena(self) -> Arena:
        return Arena(
            Maven("maven", UPSTREAM),
            (
                sample("", ARTIFACT, named=True),
                sample("snapshot/2.1-SNAPSHOT", SNAPSHOT, named=True),
                sample("", GROUP, "org.example/plugins"),
                sample("group/widgets", GROUP, ""),
                sample("prefixes", PREFIXES, "", closed=False),
                sample("catalog", CATALOG, ""),
                sample("repository", DESCRIPTION, ""),
                sample(f"file/{PATH}", b"a" * 40 + b"  lib-2.1-SNAPSHOT.jar\n", closed=False),
            ),
            look,
            sidecars=(".md5", ".sha1", ".sha256", ".sha512"),
            targets=(
                "org/example/widgets/lib/maven-metadata.xml",
                "org/example/widgets/lib/maven-metadata.xml.sha1",
                "org/example/widgets/lib/2.1-SNAPSHOT/maven-metadata.xml",
                "widgets/maven-metadata.xml.sha512",
                ".meta/prefixes.txt",
                ".meta/prefixes.txt.sha256",
                "org/example/widgets/lib/1.0/lib-1.0.jar",
                "org/example/widgets/lib/1.10+b/lib-1.10%2Bb-sources.jar.asc.md5",
                "org/example/widgets/lib/2.1-SNAPSHOT/lib-2.1-20260102.030405-7-a.b.tar.gz",
                PATH,
            ),
            ascending=("1.0-alpha-1", "1.0-rc1", "1.0-SNAPSHOT", "1.0", "1.0-sp", "1.0-x", "1.0-1", "1.0.1", "1.10", "2024"),
            equal=(("1.0", "1"), ("1.0.Final", "1.0.0.RELEASE"), ("1.0-a1", "1.0-alpha-1"), ("1.0-CR1", "1-rc1")),
            unordered=("", "a/b", " 1", "..", "1\n", "é", "1:0"),
            spellings={
                "org.example/lib": "org.example/lib",
                "org.example:lib_2.13": "org.example/lib_2.13",
                "Junit:junit": "Junit/junit",
            },
            nameless=(
                "",
                "lib",
                "/",
                "a/",
                "/a",
                "a/b/c",
                "a:b:c",
                "org..x/a",
                ".x/a",
                "a/.b",
                "a b/c",
                "a/ü",
                "a/b\n",
                "g" * 256 + "/a",
            ),
        )

    # -- laws that presume a page of files, as they are where there is none

    def test_the_samples_are_worth_running_over(self, arena: Arena) -> None:
        assert any(len(listing.entries) >= 4 for listing in arena.listings())
        for sample in arena.samples:
            require_sound(arena.read(sample), sample.page)

    def test_a_login_page_or_nonsense_is_no_page(self, arena: Arena) -> None:
        """Repositories say any media type of these files and clients do not look, so only the content tells."""
        for sample in arena.samples:
            for body in (LOGIN, *ABSURD):
                with pytest.raises(ValueError):
                    arena.read(changed(sample, body=body))
            listing = arena.read(sample)
            for media_type in ("application/octet-stream", "text/html", ""):
                assert arena.read(changed(sample, media_type=media_type)) == listing

    def test_a_document_cut_off_anywhere_is_refused_or_at_least_sound(self, arena: Arena) -> None:
        for sample in arena.samples:
            for length in range(len(sample.body.rstrip())):
                try:
                    listing = arena.read(changed(sample, body=sample.body[:length]))
                except ValueError:
                    continue
                assert not sample.closed, f"{length} of {len(sample.body)} bytes were believed"
                require_sound(listing, sample.page)

    @settings(LAW, max_examples=300)
    @given(st.data())
    def test_a_changed_document_is_refused_or_sound_and_never_another_projects(self, arena: Arena, data: st.DataObject) -> None:
        registry = arena.registry
        sample = data.draw(st.sampled_from(arena.samples))
        sample = changed(sample, body=data.draw(mutated(sample.body)))
        if sample.named:
            with pytest.raises(ValueError):
                arena.read(changed(sample, page=replace(sample.page, project="quite.another/one")))
        try:
            listing = arena.read(sample)
        except ValueError:
            return
        require_sound(listing, sample.page)
        assert registry.reread(sample.page, listing.document).entries == listing.entries
        restricted = registry.restrict(listing, {entry.file.version: Refuse("no", "rule") for entry in listing.entries.values()})
        assert not restricted.entries
        registry.headers(restricted)
        registry.merge([restricted, listing])
        arena.written(restricted, arena.base)

    def test_a_right_name_under_a_wrong_path_is_not_listed(self, arena: Arena) -> None:
        listing = self.listing_of_a_file(arena)
        (entry,) = listing.entries.values()
        for path in (PATH.replace("example", "other"), "x", PATH + "x"):
            file = replace(entry.file, path=path)
            assert arena.registry.expected(file, listing) is None
            with pytest.raises(NotFound):
                arena.registry.locate(file, listing)

    def test_what_is_not_listed_is_nowhere(self, arena: Arena) -> None:
        listing = self.listing_of_a_file(arena)
        (entry,) = listing.entries.values()
        for name in ("lib-2.1-SNAPSHOT.pom", f"lib-2.1-SNAPSHOT.jar@{'b' * 40}", ""):
            file = replace(entry.file, filename=name)
            assert arena.registry.expected(file, listing) is None
            with pytest.raises(NotFound):
                arena.registry.locate(file, listing)

    def test_what_is_listed_is_found_and_so_are_its_sidecars(self, arena: Arena) -> None:
        registry = arena.registry
        listing = self.listing_of_a_file(arena)
        (entry,) = listing.entries.values()
        meant = registry.resource("GET", PATH)
        assert isinstance(meant, File)
        assert registry.listing_page(meant) == registry.listing_page(entry.file) == listing.page
        assert registry.expected(meant, listing) == registry.expected(entry.file, listing) == entry
        assert registry.locate(meant, listing) == entry.url == UPSTREAM + PATH
        for ending in arena.sidecars:
            beside = registry.resource("GET", PATH + ending)
            assert isinstance(beside, File)
            assert registry.subject(beside) == meant
            assert registry.checksum(beside) == ending[1:]
            assert registry.listing_page(beside) == listing.page
            published = registry.expected(beside, listing)
            assert published is not None and published.file == beside
            require_address(published.url)
            assert published.url == entry.url + ending

    def listing_of_a_file(self, arena: Arena) -> Listing:
        return next(listing for listing in arena.listings() if listing.page.view.startswith("file/"))
