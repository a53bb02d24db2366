"""What every ``Registry`` does. A test module inherits ``RegistryContract`` once per kind and layout and gives it an ``arena``.

The laws know the protocol and nothing of any kind: an arena brings the documents, targets, names and versions, and reads what was
written as a client of that kind would. A kind may strike a refused version off its page or keep it there marked; either is lawful.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import replace as changed
from itertools import combinations
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from origin.errors import NotFound
from origin.model import ALGORITHMS, ALLOW, STRONG, Digest, Entry, File, Hold, Listing, Local, Page, Refuse, Relay, Verdict
from origin.registries import Registry


@dataclass(frozen=True)
class Sample:
    """A page as upstream sends it, from ``url``.

    ``named`` says whether the document tells whose it is, ``closed`` whether it tells that its end is missing, ``lists`` whether it
    lists files to be had (a list of projects does not).
    """

    page: Page
    body: bytes
    media_type: str
    url: str
    named: bool = True
    closed: bool = True
    lists: bool = True


@dataclass(frozen=True)
class Shown:
    """A file as a client sees it on a page. ``barred`` is why not to take it, None if nothing speaks against it."""

    link: str
    barred: str | None


@dataclass(frozen=True)
class Arena:
    """One configured instance and what there is to know of its kind.

    ``look(document, media_type)`` reads a written page as a client does, by file name. ``sidecars`` are the endings of what stands beside
    a file. ``targets`` mean a page or file each, ``views`` each a view of one of the samples, ``relays`` (method, target) what is relayed.
    ``ascending`` are versions in order, ``equal`` pairs that are the same to the order, ``unordered`` texts that are no version.
    ``spellings`` maps a project's spellings to the one, ``nameless`` are no names. ``obscure`` are the files whose URLs do not tell them.
    """

    registry: Registry
    samples: tuple[Sample, ...]
    look: Callable[[bytes, str], Mapping[str, Shown]]
    sidecars: tuple[str, ...]
    targets: tuple[str, ...]
    ascending: tuple[str, ...]
    equal: tuple[tuple[str, str], ...]
    unordered: tuple[str, ...]
    spellings: Mapping[str, str]
    nameless: tuple[str, ...]
    views: tuple[str, ...] = ()
    relays: tuple[tuple[str, str], ...] = ()
    obscure: frozenset[str] = frozenset()
    base: str = "http://edge.test:8080/some/where/"

    def read(self, sample: Sample) -> Listing:
        return self.registry.read(sample.page, sample.body, sample.media_type, sample.url)

    def listings(self) -> Iterator[Listing]:
        """What is read from each sample."""
        for sample in self.samples:
            yield self.read(sample)

    def lists(self) -> Iterator[Listing]:
        """Those that list files to be had."""
        for sample in self.samples:
            if sample.lists:
                yield self.read(sample)

    def written(self, listing: Listing, base: str | None) -> dict[str, bytes]:
        """The listing in each of its variants."""
        return {variant: self.registry.write(listing, variant, base) for variant in self.registry.variants(listing.page)}

    def target(self, link: str) -> str:
        """What a client asks for that follows ``link``, relative to the instance's path."""
        url = urljoin(self.base, link).partition("#")[0]
        assert url.startswith(self.base), f"{link} leads away"
        return url.removeprefix(self.base)


LOGIN = b"<!DOCTYPE html><html><head><title>Please log in</title></head><body><h1>Welcome</h1><form><input name=u></form></body></html>"
ABSURD = (
    b"",
    b"\0",
    b"\xff\xfe",
    b"null",
    b"[]",
    b"{}",
    b"<",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"<a>" * 20_000,
    b'"',
    b"\xef\xbb\xbf{}",
)
TRICKS = (*".. . %2e%2e %2f %2F..%2F %00 %5c // %252e %252f % %zz %ff ? # é : @ + \\".split(), "\0", "\r\n", " ", "x" * 300)
TOKENS = (*rb'-1 1e999 null true [] {} "" " < & \ud800 // ../'.split(), b"9" * 40, b"\0", b"\xff", b"\xed\xa0\x80", b"\r\n")

REASONS = st.text(st.characters(exclude_categories=["C"]), max_size=40)
VERDICTS: st.SearchStrategy[Verdict] = st.one_of(
    st.just(ALLOW),
    REASONS.map(lambda reason: Refuse(reason, "rule")),
    REASONS.map(lambda reason: Hold(2e9, reason, "rule")),
)

# Each subclass runs the same laws over an arena of frozen values: neither other runners nor a fixture made once can mix anything up.
LAW = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors, HealthCheck.function_scoped_fixture],
)


@st.composite
def mutated(draw: st.DrawFn, body: bytes) -> bytes:
    """``body`` with one byte, or one number or other piece, replaced."""
    at = draw(st.integers(0, max(0, len(body) - 1)))
    if draw(st.booleans()):
        return body[:at] + bytes([draw(st.integers(0, 255))]) + body[at + 1 :]
    end = at
    while body[end : end + 1].isdigit():
        end += 1
    return body[:at] + draw(st.sampled_from(TOKENS)) + body[max(end, at + draw(st.integers(0, 12))) :]


def asked(targets: tuple[str, ...]) -> st.SearchStrategy[str]:
    """Targets: arbitrary ones, and good ones with a trick in them."""

    @st.composite
    def tricky(draw: st.DrawFn) -> str:
        target = draw(st.sampled_from(targets))
        for _ in range(draw(st.integers(0, 3))):
            at, trick = draw(st.integers(0, len(target))), draw(st.sampled_from(TRICKS) | st.text(max_size=6))
            target = target[:at] + trick + target[at + draw(st.integers(0, 8)) :]
        return target

    return tricky() | st.text(max_size=60)


def require_plain(text: str) -> None:
    """No part of ``text`` could lead anywhere if it were taken for a path or put into a header or a key."""
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or c == "\\" for c in text), ascii(text)
    if text:
        for segment in text.split("/"):
            assert segment not in ("", ".", ".."), ascii(text)
            assert len(segment.encode()) <= 255, ascii(text)


def require_address(url: str) -> None:
    """``url`` is an absolute http(s) URL that can be put into a request as it stands."""
    parts = urlsplit(url)
    assert parts.scheme in ("http", "https") and parts.hostname, ascii(url)
    assert url.isascii() and url.isprintable() and " " not in url, ascii(url)
    assert not parts.fragment, ascii(url)
    assert not {".", ".."} & set(parts.path.split("/")), ascii(url)


def require_sound(listing: Listing, page: Page) -> None:
    """Everything in ``listing`` is of ``page`` and fit to be kept, whatever the document was."""
    assert listing.page == page
    assert listing.serial is None or 0 <= listing.serial < 2**63
    assert not listing.restrictions
    for name, entry in listing.entries.items():
        file = entry.file
        assert (file.registry, file.project, file.filename) == (page.registry, page.project, name)
        assert "/" not in file.filename
        for text in (file.filename, file.version, file.path):
            require_plain(text)
        assert all(Digest.parse(digest.algorithm, digest.value) == digest for digest in (*entry.digests, *(entry.sidecar or ())))
        assert entry.size is None or 0 <= entry.size < 2**63


def said(listing: Listing) -> tuple[object, ...]:
    """All of a listing but what a kind keeps there for itself."""
    return listing.page, listing.entries, listing.document, listing.serial, listing.restrictions


def essence(entry: Entry) -> tuple[object, ...]:
    """What policy never touches."""
    return entry.file, entry.url, entry.digests, entry.size, entry.published


def in_origin_form(url: str) -> str:
    """What a client asks the host for that follows ``url``."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def same_host(url: str, other: str) -> bool:
    return urlsplit(url).hostname == urlsplit(other).hostname


def means(registry: Registry, raw: str, *, files: bool) -> object:
    """The resource that a target at one of the registry's own hosts means."""
    target = registry.meaning(raw, files=files)
    return None if target is None else registry.resource("GET", target)


def beside(arena: Arena, listing: Listing, entry: Entry) -> Iterator[tuple[File, str]]:
    """The sidecars of a file that ``listing`` offers, with their addresses."""
    for ending in arena.sidecars:
        file = replace(entry.file, filename=entry.file.filename + ending, path=entry.file.path + ending)
        published = arena.registry.expected(file, listing)
        if published is not None:
            yield file, published.url


class RegistryContract:
    """The suite. ``arena`` brings at least one sample that lists files of two versions."""

    # -- the arena itself, and who it is

    def test_the_samples_are_worth_running_over(self, arena: Arena) -> None:
        assert any(len({entry.file.version for entry in listing.entries.values()}) >= 2 for listing in arena.lists())
        for sample in arena.samples:
            require_sound(arena.read(sample), sample.page)

    def test_an_instance_knows_itself(self, arena: Arena) -> None:
        registry = arena.registry
        assert registry.upstream.endswith("/")
        require_address(registry.upstream)
        assert registry.kind == registry.kind.lower()
        for sample in arena.samples:
            assert sample.page.registry == registry.name
            fields = registry.ask(sample.page)
            assert any(name == "accept" and value for name, value in fields)
            assert all(name == name.lower() for name, _ in fields)

    # -- requests

    def test_good_targets_mean_pages_and_files_to_get_and_head_and_nothing_to_write_to(self, arena: Arena) -> None:
        for target in arena.targets:
            meant = arena.registry.resource("GET", target)
            assert isinstance(meant, Page | File)
            assert meant.registry == arena.registry.name
            assert arena.registry.resource("HEAD", target) == meant
            for method in ("POST", "PUT", "PATCH", "DELETE"):
                assert isinstance(arena.registry.resource(method, target), Local | Relay | None)

    @LAW
    @given(st.data())
    def test_a_target_means_something_harmless_or_nothing_or_is_malformed(self, arena: Arena, data: st.DataObject) -> None:
        registry = arena.registry
        target = data.draw(asked(arena.targets))
        try:
            meant = registry.resource("GET", target)
        except ValueError:
            return
        match meant:
            case Page():
                require_plain(meant.project)
                require_plain(meant.view)
                assert not meant.project or registry.normalise(meant.project) == meant.project
                assert registry.variants(meant)
                assert registry.basis(registry.basis(meant)) == registry.basis(meant)
                assert registry.life_s(meant, 60.0) >= 60.0
                url = registry.locate(meant, None)
                require_address(url)
                assert urlsplit(url).netloc == urlsplit(registry.upstream).netloc
            case File():
                assert "/" not in meant.filename
                for text in (meant.filename, meant.project, meant.version, meant.path):
                    require_plain(text)
                assert not meant.project or registry.normalise(meant.project) == meant.project
                for guess in registry.guesses(meant):
                    assert guess != meant
                    assert (guess.registry, guess.filename, guess.path) == (meant.registry, meant.filename, meant.path)
                for listing in arena.lists():
                    if (place := registry.probe_location(meant, listing)) is not None:
                        require_address(place)
                        known = [registry.upstream, *(entry.url for entry in listing.entries.values())]
                        assert urlsplit(place).netloc in {urlsplit(url).netloc for url in known}
            case Local():
                assert meant.location.isprintable() and not meant.location.startswith("/")
                parts = urlsplit(meant.location)
                assert not parts.scheme and not parts.netloc
            case _:
                assert meant is None or isinstance(meant, Relay)

    @LAW
    @given(st.data(), st.sampled_from(["/", "/lost/", "/some/path/"]))
    def test_a_stray_is_a_file_that_is_asked_for_elsewhere(self, arena: Arena, data: st.DataObject, path: str) -> None:
        registry = arena.registry
        target = data.draw(asked(arena.targets))
        for raw in (f"/{target}", f"{path}{target}", f"{path}{path[1:]}{target}", target):
            meant = registry.stray(raw, path) if raw.startswith("/") else None
            if meant is not None:
                assert raw.endswith(meant) and meant != raw.removeprefix(path)
                assert isinstance(registry.resource("GET", meant), File)

    # -- the registry's own addresses

    def test_a_files_address_means_the_file(self, arena: Arena) -> None:
        registry = arena.registry
        for listing in arena.lists():
            owners = registry.owners(listing)
            for name, entry in listing.entries.items():
                for file, url in [(entry.file, entry.url), *beside(arena, listing, entry)]:
                    for files in (True, False) if same_host(url, registry.upstream) else (True,):
                        meant = means(registry, in_origin_form(url), files=files)
                        if name in arena.obscure or (files and meant is None and same_host(url, registry.upstream)):
                            continue
                        assert isinstance(meant, File), f"{url} means {meant}"
                        if meant.path in owners:
                            project, version = owners[meant.path]
                            meant = replace(meant, project=project, version=version)
                        keys = {each.key: each.path for each in (meant, *registry.guesses(meant))}
                        assert keys.get(file.key) in ("", file.path), f"{url} means {keys}, not {file}"

    def test_a_pages_address_means_the_page(self, arena: Arena) -> None:
        registry = arena.registry
        for page in (sample.page for sample in arena.samples):
            url = registry.locate(page, None)
            assert same_host(url, registry.upstream)
            meant = means(registry, in_origin_form(url), files=False)
            assert meant == page or (isinstance(meant, File) and registry.listing_page(meant) == page)
        for target in arena.targets + arena.views:
            if isinstance(meant := registry.resource("GET", target), Page):
                url = registry.address(target)
                require_address(url)
                assert registry.meaning(in_origin_form(url), files=False) == target
                assert not isinstance(means(registry, in_origin_form(url), files=True), Page) or registry.kind in (
                    "maven",
                    "toy",
                ), meant

    def test_a_sample_lists_files_of_the_instance(self, arena: Arena) -> None:
        page = arena.registry.sample
        if page is not None:
            assert page == Page(arena.registry.name, arena.registry.normalise(page.project), "")

    @LAW
    @given(st.data(), st.booleans())
    def test_any_address_means_something_harmless_or_nothing_or_is_malformed(
        self, arena: Arena, data: st.DataObject, files: bool
    ) -> None:
        registry = arena.registry
        known = [entry.url for listing in arena.lists() for entry in listing.entries.values()]
        addresses = tuple(in_origin_form(url) for url in [*known, *map(registry.address, arena.targets)])
        raw = data.draw(asked(addresses))
        try:
            target = registry.meaning(raw, files=files)
        except ValueError:
            return
        assert raw.startswith("/")
        if target is None:
            return
        assert not target.startswith("/")
        try:
            meant = registry.resource("GET", target)
        except ValueError:
            return
        if isinstance(meant, File):
            assert "/" not in meant.filename
            for text in (meant.filename, meant.project, meant.version, meant.path):
                require_plain(text)
        elif isinstance(meant, Local) and meant.location:
            require_address(registry.address(meant.location).replace(" ", ""))

    def test_path_tricks_are_malformed_at_the_registrys_own_hosts(self, arena: Arena) -> None:
        for target in arena.targets:
            raw = in_origin_form(arena.registry.address(target))
            for trick in ("/..", "/%2e%2E", "/%00", "/%5c", "/%252e", "/%zz", "//x", "/" + "x" * 256):
                for files in (True, False):
                    with pytest.raises(ValueError):
                        arena.registry.meaning(raw + trick, files=files)
            with pytest.raises(ValueError):
                arena.registry.meaning(raw[1:], files=False)

    @LAW
    @given(st.data(), st.text(max_size=20))
    def test_insisting_is_no_matter_of_good_form(self, arena: Arena, data: st.DataObject, cache_control: str) -> None:
        assert arena.registry.insists(cache_control, data.draw(asked(arena.targets))) in (True, False)
        assert not arena.registry.insists("", arena.targets[0])

    def test_what_is_relayed_is_sent_or_answered_here(self, arena: Arena) -> None:
        for method, target in arena.relays:
            relay = arena.registry.resource(method, target)
            assert isinstance(relay, Relay)
            assert relay.registry == arena.registry.name
            assert relay.method in ("GET", "POST")
            require_address(arena.registry.upstream + relay.request)
            relay = replace(relay, body=b"{}" if relay.method == "POST" else b"")
            fields = arena.registry.forward(relay)
            if fields is None:
                assert arena.registry.relayed(relay, b"", lambda project, version: ALLOW)
            else:
                assert all(name == name.lower() and value.isprintable() for name, value in fields)
            assert arena.registry.relay_life_s(relay) >= 0

    @pytest.mark.parametrize(
        "trick", ["..", ".", "%2e%2e", "%2E.", "%00", "\0", "\\", "%5C", "%252e%252e", "%zz", "%", "%ff", "x" * 256, ""]
    )
    def test_path_tricks_are_malformed_wherever_they_stand(self, trick: str, arena: Arena) -> None:
        for target in arena.targets:
            segments = target.split("/")
            for at in range(1, len(segments)):
                with pytest.raises(ValueError):
                    arena.registry.resource("GET", "/".join([*segments[:at], trick, *segments[at:]]))

    @LAW
    @given(st.data(), st.none() | st.text(max_size=60) | st.text("*/+;=,.q01 ajsonhtmlvnd", max_size=60), st.text(max_size=30))
    def test_any_accept_field_gets_one_of_the_variants(
        self, arena: Arena, data: st.DataObject, accept: str | None, query: str
    ) -> None:
        page = data.draw(st.sampled_from(arena.samples)).page
        variants = arena.registry.variants(page)
        assert arena.registry.negotiate(page, accept, f"x/?{query}") in variants
        several = data.draw(st.lists(st.sampled_from([*variants, "*/*", "text/*", "image/png", accept or ""]), max_size=4))
        assert arena.registry.negotiate(page, ", ".join(several), "x/") in variants

    def test_who_asks_for_one_variant_gets_it(self, arena: Arena) -> None:
        for sample in arena.samples:
            variants = arena.registry.variants(sample.page)
            assert variants and len(set(variants)) == len(variants)
            assert [arena.registry.negotiate(sample.page, variant, "x/") for variant in variants] == list(variants)

    # -- documents, read and written

    def test_links_as_written_lead_to_the_very_files(self, arena: Arena) -> None:
        for listing in arena.lists():
            owners = arena.registry.owners(listing)
            for variant, document in arena.written(listing, arena.base).items():
                shown = arena.look(document, variant)
                assert shown.keys() == listing.entries.keys()
                for name, entry in listing.entries.items():
                    meant = arena.registry.resource("GET", arena.target(shown[name].link))
                    assert isinstance(meant, File)
                    if meant.path in owners:
                        project, version = owners[meant.path]
                        meant = replace(meant, project=project, version=version)
                    assert meant == entry.file
                    assert arena.registry.listing_page(meant) == replace(listing.page, view="")
                    assert arena.registry.expected(meant, listing) == entry
                    assert arena.registry.locate(meant, listing) == entry.url

    def test_owners_are_told_of_the_misread_files_and_no_others(self, arena: Arena) -> None:
        for listing in arena.lists():
            owners = arena.registry.owners(listing)
            misread: dict[str, tuple[str, str]] = {}
            for entry in listing.entries.values():
                file = entry.file
                for ending in ("", *arena.sidecars) if file.path else ():
                    meant = arena.registry.resource("GET", file.path.replace("+", "%2B").replace(" ", "%20") + ending)
                    assert isinstance(meant, File)
                    if (meant.project, meant.version) != (file.project, file.version):
                        misread[file.path + ending] = (file.project, file.version)
            assert owners == misread

    def test_what_is_written_without_a_base_reads_back(self, arena: Arena) -> None:
        for sample in arena.samples:
            listing = arena.read(sample)
            for number, (variant, document) in enumerate(arena.written(listing, None).items()):
                again = arena.registry.read(sample.page, document, variant, sample.url)
                # The first variant is the stored form. From others a file may be missing whose name does not tell it from any other link.
                told = {name for name, entry in listing.entries.items() if number == 0 or entry.file.version}
                assert told <= again.entries.keys() <= listing.entries.keys()
                for name, back in again.entries.items():
                    entry = listing.entries[name]
                    assert (back.file, back.url, back.yanked) == (entry.file, entry.url, entry.yanked)
                    assert back.digests == entry.digests if number == 0 else set(back.digests) <= set(entry.digests)
                    assert back.size == entry.size if number == 0 else back.size in (None, entry.size)
                    assert bool(back.digests) == bool(entry.digests)

    def test_links_without_a_base_are_those_published(self, arena: Arena) -> None:
        for listing in arena.lists():
            for variant, document in arena.written(listing, None).items():
                links = {file.link.partition("#")[0] for file in arena.look(document, variant).values()}
                assert links == {entry.url for entry in listing.entries.values()}

    def test_the_stored_document_is_read_as_the_sent_one_was(self, arena: Arena) -> None:
        for listing in arena.listings():
            again = arena.registry.reread(listing.page, listing.document)
            assert said(again) == said(listing)
            assert arena.written(again, arena.base) == arena.written(listing, arena.base)

    @LAW
    @given(st.data(), st.text(max_size=300), st.none() | st.text(max_size=40) | st.just("Mon, 01 Jan 2024 00:00:00 GMT"))
    def test_an_entry_has_an_address_and_a_header_is_one_line(
        self, arena: Arena, data: st.DataObject, note: str, last_modified: str | None
    ) -> None:
        for listing in arena.lists():
            for entry in listing.entries.values():
                require_address(entry.url)
            versions = sorted({entry.file.version for entry in listing.entries.values()})
            verdicts = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(versions, VERDICTS)))
            restricted = changed(arena.registry.restrict(listing, verdicts), restricted_at=data.draw(st.sampled_from([0.0, 2e9])))
            for shown in (listing, restricted):
                body = arena.registry.write(shown, arena.registry.variants(shown.page)[0], arena.base)
                for name, value in arena.registry.headers(shown, body, last_modified, note):
                    assert name == name.lower() and name.isprintable()
                    assert value.isascii() and value.isprintable() and len(value) <= 300

    def test_a_files_headers_say_what_its_identity_says_and_no_more(self, arena: Arena) -> None:
        registry = arena.registry
        own = Digest(registry.identity, "a" * ALGORITHMS[registry.identity])
        others = [Digest(algorithm, "b" * length) for algorithm, length in ALGORITHMS.items() if algorithm != registry.identity]
        for listing in arena.lists():
            for entry in listing.entries.values():
                fields = registry.file_headers(entry.file, [own], None)
                assert registry.file_headers(entry.file, [*others, own], None) == fields
                said = {name.lower(): value for name, value in fields}
                assert said["etag"] == f'"{own}"'
                assert said["content-type"]

    def test_without_keys_or_evidence_nothing_is_checked_by_them(self, arena: Arena) -> None:
        registry = arena.registry
        assert registry.proofs >= STRONG
        assert registry.hold_s > 0
        for listing in arena.lists():
            for entry in listing.entries.values():
                assert registry.signature(entry.file) is None
                assert registry.check(entry.file, entry, "", None) == ""
                assert registry.checksum(entry.file) == ""
                for note in registry.evidence(entry.file):
                    assert registry.vouched(entry.file, {}) == ()
                    assert note.registry == registry.name

    def test_a_view_is_written_from_its_page(self, arena: Arena) -> None:
        pages = {sample.page: arena.read(sample) for sample in arena.samples}
        for target in arena.views:
            meant = arena.registry.resource("GET", target)
            assert isinstance(meant, Page)
            listing = pages[arena.registry.basis(meant)]
            assert meant != listing.page
            for variant in arena.registry.variants(meant):
                for base in (None, arena.base):
                    assert arena.registry.write(listing, variant, base, meant.view)
            assert arena.registry.locate(meant, None).startswith(arena.registry.upstream)

    # -- documents that are not what they should be

    def test_a_document_of_another_project_is_no_page_of_this_one(self, arena: Arena) -> None:
        for sample in arena.samples:
            if sample.named:
                with pytest.raises(ValueError):
                    arena.read(changed(sample, page=replace(sample.page, project="quite-another")))

    def test_a_login_page_or_nonsense_is_no_page(self, arena: Arena) -> None:
        for sample in arena.samples:
            for media_type in {sample.media_type, "text/html", "text/html; charset=utf-8", "application/json"}:
                for body in (LOGIN, *ABSURD):
                    with pytest.raises(ValueError):
                        arena.read(changed(sample, body=body, media_type=media_type))
            for media_type in ("image/png", "", "text/html-not", ";"):
                with pytest.raises(ValueError):
                    arena.read(changed(sample, media_type=media_type))

    def test_a_document_cut_off_anywhere_is_refused_or_at_least_sound(self, arena: Arena) -> None:
        for sample in arena.samples:
            for length in range(len(sample.body)):
                try:
                    listing = arena.read(changed(sample, body=sample.body[:length]))
                except ValueError:
                    continue
                assert not sample.closed, f"{length} of {len(sample.body)} bytes were believed"
                require_sound(listing, sample.page)

    @settings(LAW, max_examples=200)
    @given(st.data())
    def test_a_changed_document_is_refused_or_sound_and_never_another_projects(self, arena: Arena, data: st.DataObject) -> None:
        sample = data.draw(st.sampled_from(arena.samples))
        sample = changed(sample, body=data.draw(mutated(sample.body)))
        if sample.named:
            with pytest.raises(ValueError):
                arena.read(changed(sample, page=replace(sample.page, project="quite-another")))
        try:
            listing = arena.read(sample)
        except ValueError:
            return
        require_sound(listing, sample.page)
        assert arena.registry.reread(sample.page, listing.document).entries == listing.entries
        # What was believed can be handled by everything that comes after.
        verdicts = {entry.file.version: Refuse("no", "rule") for entry in listing.entries.values()}
        restricted = arena.registry.restrict(listing, verdicts)
        arena.registry.owners(restricted)
        arena.registry.headers(restricted)
        for variant, document in arena.written(restricted, arena.base).items():
            for shown in arena.look(document, variant).values() if sample.lists else ():
                assert shown.barred
                arena.target(shown.link)

    # -- what is listed, and what is not

    @LAW
    @given(st.data())
    def test_a_right_name_under_a_wrong_path_is_not_listed(self, arena: Arena, data: st.DataObject) -> None:
        listing = data.draw(st.sampled_from(list(arena.lists())))
        entry = data.draw(st.sampled_from(list(listing.entries.values())))
        right = {entry.file.path, ""}
        wrong = data.draw(st.text(max_size=20) | st.sampled_from([each.file.path for each in listing.entries.values()]))
        file = replace(entry.file, path=wrong if wrong not in right else entry.file.path + "x")
        assert arena.registry.expected(file, listing) is None
        with pytest.raises(NotFound):
            arena.registry.locate(file, listing)

    @LAW
    @given(st.data(), st.text(max_size=20))
    def test_what_is_not_listed_is_nowhere(self, arena: Arena, data: st.DataObject, name: str) -> None:
        listing = data.draw(st.sampled_from(list(arena.lists())))
        entry = data.draw(st.sampled_from(list(listing.entries.values())))
        for filename in (name, name + entry.file.filename):
            if filename not in listing.entries:
                file = replace(entry.file, filename=filename)
                assert arena.registry.expected(file, listing) is None
                with pytest.raises(NotFound):
                    arena.registry.locate(file, listing)

    def test_a_sidecar_belongs_to_its_file(self, arena: Arena) -> None:
        for listing in arena.lists():
            for entry in listing.entries.values():
                assert arena.registry.subject(entry.file) == entry.file
                for ending in arena.sidecars:
                    beside = replace(entry.file, filename=entry.file.filename + ending, path=entry.file.path + ending)
                    assert arena.registry.subject(beside) == entry.file
                    assert arena.registry.listing_page(beside) == arena.registry.listing_page(entry.file)
                    published = arena.registry.expected(beside, listing)
                    if published is not None:
                        require_address(published.url)
                        assert published.file == beside
                        assert published.url != entry.url
                        assert published.digests in ((), entry.sidecar)
                        assert arena.registry.expected(replace(beside, path=beside.path + "x"), listing) is None

    def test_what_clients_unpack_as_it_comes_is_strict(self, arena: Arena) -> None:
        for listing in arena.lists():
            for entry in listing.entries.values():
                for ending in (".tar.gz", ".tgz", ".TGZ"):
                    assert arena.registry.strict(replace(entry.file, filename=f"x-1.0{ending}"))

    # -- policy

    def test_without_a_verdict_against_it_nothing_changes(self, arena: Arena) -> None:
        for listing in arena.listings():
            before = arena.written(listing, arena.base)
            versions = {entry.file.version for entry in listing.entries.values()}
            for verdicts in ({}, dict.fromkeys(versions, ALLOW)):
                same = arena.registry.restrict(listing, verdicts)
                assert said(same) == said(listing)
                assert arena.written(same, arena.base) == before

    @LAW
    @given(st.data())
    def test_policy_bars_what_it_forbids_and_touches_nothing_else(self, arena: Arena, data: st.DataObject) -> None:
        registry = arena.registry
        sample = data.draw(st.sampled_from(arena.samples))
        listing = arena.read(sample)
        before = {base: arena.written(listing, base) for base in (None, arena.base)}
        versions = sorted({entry.file.version for entry in listing.entries.values()})
        verdicts = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(versions, VERDICTS)))
        forbidden = {version: verdict for version, verdict in verdicts.items() if isinstance(verdict, Refuse | Hold)}
        restricted = registry.restrict(listing, verdicts)
        assert restricted.page == listing.page
        assert restricted.restrictions == forbidden
        for name, entry in listing.entries.items():
            now = restricted.entries.get(name)
            if entry.file.version not in forbidden:
                assert now == entry
            elif now is not None:
                assert essence(now) == essence(entry)
        assert restricted.entries.keys() <= listing.entries.keys()
        for base, documents in before.items():
            for variant, document in arena.written(restricted, base).items():
                was, shown = arena.look(documents[variant], variant), arena.look(document, variant)
                if not sample.lists:
                    continue
                assert shown.keys() == restricted.entries.keys()
                for name, file in shown.items():
                    verdict = forbidden.get(listing.entries[name].file.version)
                    if verdict is None:
                        assert file == was[name]
                    else:
                        assert file.link == was[name].link
                        assert file.barred and " ".join(verdict.reason.split()) in file.barred
                if not forbidden:
                    assert document == documents[variant]
        # What goes to the tier below is read there with the same result; what is judged again stays as it is.
        assert registry.reread(listing.page, restricted.document).entries == restricted.entries
        again = registry.restrict(restricted, verdicts)
        assert (again.entries, again.restrictions) == (restricted.entries, restricted.restrictions)
        assert arena.written(again, arena.base) == arena.written(restricted, arena.base)
        below = registry.restrict(registry.reread(listing.page, restricted.document), verdicts)
        assert (below.entries, below.document) == (restricted.entries, restricted.document)
        # And once the rules are gone, so is every trace of them.
        assert {base: arena.written(registry.restrict(listing, {}), base) for base in before} == before

    def test_a_page_about_one_version_has_that_versions_files(self, arena: Arena) -> None:
        for listing in arena.listings():
            version = arena.registry.version_of(listing.page)
            if version is not None:
                assert {entry.file.version for entry in listing.entries.values()} <= {version}

    # -- what is added to a page here

    def test_sidecars_made_here_are_offered_where_upstream_has_none(self, arena: Arena) -> None:
        digest = Digest("sha256", "d" * 64)
        for listing in arena.lists():
            before = arena.written(listing, arena.base)
            for nothing in ({}, {"unheard-of-1.0.zip": digest}):
                assert arena.written(arena.registry.enrich(listing, nothing), arena.base) == before
            richer = arena.registry.enrich(listing, dict.fromkeys(listing.entries, digest))
            assert richer.entries.keys() == listing.entries.keys()
            for name, entry in listing.entries.items():
                now = richer.entries[name]
                assert (essence(now), now.yanked, now.provenance) == (essence(entry), entry.yanked, entry.provenance)
                if now.sidecar == entry.sidecar:
                    continue
                assert (entry.sidecar, now.sidecar) == (None, (digest,))
                beside = [replace(entry.file, filename=name + ending, path=entry.file.path + ending) for ending in arena.sidecars]
                expected = [arena.registry.expected(each, richer) for each in beside]
                assert any(each is not None and each.digests == (digest,) for each in expected)
            assert arena.registry.reread(listing.page, richer.document).entries == richer.entries
            again = arena.registry.enrich(richer, dict.fromkeys(listing.entries, digest))
            assert arena.written(again, arena.base) == arena.written(richer, arena.base)

    def test_nothing_is_offered_of_what_is_refused(self, arena: Arena) -> None:
        digest = Digest("sha256", "d" * 64)
        for listing in arena.lists():
            verdicts = {entry.file.version: Refuse("no", "rule") for entry in listing.entries.values()}
            restricted = arena.registry.restrict(listing, verdicts)
            richer = arena.registry.enrich(restricted, dict.fromkeys(listing.entries, digest))
            assert richer.entries == restricted.entries
            # Whichever comes first.
            other = arena.registry.restrict(arena.registry.enrich(listing, dict.fromkeys(listing.entries, digest)), verdicts)
            assert all(entry.sidecar is None for entry in other.entries.values())
            for variant, document in arena.written(other, arena.base).items():
                assert arena.look(document, variant).keys() == other.entries.keys()

    def test_held_entries_take_the_place_of_what_upstream_says_now(self, arena: Arena) -> None:
        for listing in arena.lists():
            same = arena.registry.amend(listing, {})
            assert arena.written(same, arena.base) == arena.written(listing, arena.base)
            own = arena.registry.amend(listing, listing.entries)
            assert own.entries == listing.entries
            for variant, document in arena.written(own, arena.base).items():
                assert arena.look(document, variant) == arena.look(arena.registry.write(listing, variant, arena.base), variant)
            for name, entry in listing.entries.items():
                held = replace(entry, digests=(Digest("sha256", "e" * 64),), size=77, extra=b"")
                amended = arena.registry.amend(listing, {name: held})
                assert amended.entries.keys() == listing.entries.keys()
                assert amended.page == listing.page
                for other, was in listing.entries.items():
                    now = amended.entries[other]
                    assert now == was if other != name else essence(now) == essence(held)
                again = arena.registry.reread(listing.page, amended.document).entries[name]
                assert (again.file, again.url) == (held.file, held.url)
                # Some kinds' pages tell no sizes.
                assert again.size in (77, entry.size)
                assert set(held.digests) <= set(again.digests)
                twice = arena.registry.amend(amended, {name: held})
                assert arena.written(twice, arena.base) == arena.written(amended, arena.base)

    # -- names and versions

    def test_versions_are_in_the_kinds_own_order(self, arena: Arena) -> None:
        key = arena.registry.version_key
        keys = [key(version) for version in arena.ascending]
        assert None not in keys
        for earlier, later in combinations(keys, 2):
            assert earlier < later and later > earlier and earlier != later  # type: ignore[operator]  # keys of one kind compare
        for one, other in arena.equal:
            assert key(one) is not None and key(one) == key(other)
        assert [key(version) for version in arena.unordered] == [None] * len(arena.unordered)

    @LAW
    @given(st.data())
    def test_any_text_may_be_a_version(self, arena: Arena, data: st.DataObject) -> None:
        version = data.draw(
            st.text(max_size=20) | st.text("0123456789.+-!abrcdevpost", max_size=12) | st.sampled_from(arena.ascending)
        )
        plain = arena.registry.same_but_local(version)
        assert arena.registry.same_but_local(plain) == plain
        key = arena.registry.version_key(version)
        assert (arena.registry.version_key(plain) is None) == (key is None)
        if key is not None:
            for other in arena.ascending:
                against = arena.registry.version_key(other)
                assert (key < against) + (key == against) + (key > against) == 1  # type: ignore[operator]  # keys of one kind compare

    def test_a_project_has_one_spelling(self, arena: Arena) -> None:
        for spelled, one in arena.spellings.items():
            assert arena.registry.normalise(spelled) == arena.registry.normalise(one) == one
        for name in arena.nameless:
            with pytest.raises(ValueError):
                arena.registry.normalise(name)

    @LAW
    @given(name=st.text(max_size=20) | st.text("abZ09._-/@", max_size=12))
    def test_any_text_is_a_project_of_one_spelling_or_none(self, arena: Arena, name: str) -> None:
        try:
            one = arena.registry.normalise(name)
        except ValueError:
            return
        assert arena.registry.normalise(one) == one
        require_plain(one)
