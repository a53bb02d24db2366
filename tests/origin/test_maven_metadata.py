"""Maven's documents: read, restricted, merged, written; checksums and module metadata read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

from origin.model import Allow, Digest, File, Hold, Listing, Page, Refuse
from origin.registries import Registry
from origin.registries import maven_metadata as documents
from origin.registries.maven import TEXT, XML, Maven

REGISTRY: Registry = Maven("maven", "https://maven.test/maven2/")
PAGE = Page("maven", "org.example/lib", "")
NO = Refuse("known to be evil", "no-evil")
SHA1 = "0123456789abcdef0123456789abcdef01234567"

DOCUMENT = b"""<?xml version="1.0" encoding="UTF-8"?>
<!-- made by hand -->
<metadata   modelVersion='1.1.0' xmlns="urn:m" note="a > b">
  <groupId>org.example</groupId>
\t<artifactId>lib</artifactId>
  <extra attribute="&lt;/version>"/>
  <versioning>
    <latest>3.0-SNAPSHOT</latest>
    <release>2.1</release>
    <versions>
      <version>2.1</version>
      <version>1.0</version><version >1.10</version>
      <!-- <version>9.9</version> -->
      <version>3.0-SNAPSHOT</version>
      <version>2.1</version>
    </versions>
    <lastUpdated>20260102030405</lastUpdated>
  </versioning>
</metadata>
"""


def read(body: bytes, page: Page = PAGE) -> Listing:
    return REGISTRY.read(page, body, XML, "")


def restricted(body: bytes, *refused: str, page: Page = PAGE) -> bytes:
    return REGISTRY.write(REGISTRY.restrict(read(body, page), dict.fromkeys(refused, NO)), XML, None)


def versioning(*versions: str, latest: str = "", release: str = "", updated: str = "20260102030405") -> bytes:
    """A plain document of these versions."""
    told = "".join(f"<{name}>{text}</{name}>" for name, text in (("latest", latest), ("release", release)) if text)
    listed = "".join(f"<version>{version}</version>" for version in versions)
    return (
        f"<metadata><groupId>org.example</groupId><artifactId>lib</artifactId><versioning>{told}<versions>{listed}</versions>"
        f"<lastUpdated>{updated}</lastUpdated></versioning></metadata>"
    ).encode()


def plugins(*pairs: tuple[str, str], before: str = "") -> bytes:
    listed = "".join(f"<plugin><name>é</name><prefix>{p}</prefix><artifactId>{a}</artifactId></plugin>" for p, a in pairs)
    return f"<metadata>{before}<plugins>{listed}</plugins></metadata>".encode()


# ---- reading


def test_each_version_is_an_entry_and_the_document_stays_as_it_came() -> None:
    listing = read(DOCUMENT)
    assert set(listing.entries) == {"1.0", "1.10", "2.1", "3.0-SNAPSHOT"}
    assert listing.entries["1.0"].file == File("maven", "org.example/lib", "1.0", "", "")
    assert REGISTRY.write(listing, XML, None) == DOCUMENT
    assert REGISTRY.write(listing, XML, "http://edge.test/maven/") == DOCUMENT


def test_what_latest_and_release_name_is_judged_though_it_is_not_listed() -> None:
    body = versioning("1.0", latest="2.0", release="2.0")
    assert set(read(body).entries) == {"1.0", "2.0"}
    assert restricted(body, "2.0") == versioning("1.0", latest="1.0", release="1.0")


@pytest.mark.parametrize(
    "body",
    [
        DOCUMENT.replace(b"org.example", b"org.other"),
        DOCUMENT.replace(b"<artifactId>lib", b"<artifactId>bil"),
        b"<metadata/>",
        b"<metadata><groupId>org.example</groupId><artifactId>lib</artifactId></metadata>",
        b"<project><versioning/></project>",
        b"<html><body>please log in</body></html>",
        b"<!DOCTYPE metadata><metadata><versioning/></metadata>",
        b'<!DOCTYPE metadata [<!ENTITY a "1.0">]><metadata><versioning><versions><version>&a;</version></versions></versioning></metadata>',
        b'<!DOCTYPE metadata SYSTEM "http://evil.test/x.dtd"><metadata><versioning/></metadata>',
        b"<metadata><versioning>&undefined;</versioning></metadata>",
        b"<metadata><versioning></metadata>",
        b"<metadata><versioning/></metadata><metadata/>",
        b'<?xml version="1.0" encoding="utf-16"?><metadata><versioning/></metadata>',
        b'<?xml version="1.0" encoding="utf-7"?><metadata><versioning/></metadata>',
        "<metadata><versioning/></metadata>".encode("utf-16"),
        "<metadata><versioning/></metadata>".encode("utf-16-le"),
        b"<metadata><versioning>" + b"<a>" * 40 + b"</a>" * 40 + b"</versioning></metadata>",
        b'<m:metadata xmlns:m="urn:m"><versioning/></m:metadata>',
        b"",
        b"   ",
    ],
)
def test_anything_but_this_projects_metadata_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        read(body)


def test_metadata_beyond_all_size_is_refused() -> None:
    with pytest.raises(ValueError, match="limit"):
        read(b"<metadata><versioning/>" + b" " * documents.LIMIT_BYTES + b"</metadata>")


def test_a_flood_of_references_costs_no_more_than_its_size() -> None:
    text = b"&#97;" * 1_000_000
    listing = read(versioning("1.0").replace(b"<versions>", text + b"<versions><version>" + text + b"</version>"))
    assert list(listing.entries) == ["1.0"]


def test_a_thousand_versions_in_pieces_are_the_same() -> None:
    names = [f"1.{n}" for n in range(8000)]
    body = versioning(*names, latest="1.7999", release="1.7999")
    assert len(body) > 3 * 64 * 1024
    listing = read(body)
    assert list(listing.entries) == names
    assert restricted(body, *names[1:]) == versioning("1.0", latest="1.0", release="1.0")


def test_a_groups_document_is_told_by_its_content() -> None:
    page = Page("maven", "org.example/plugins", "")
    assert read(plugins(("foo", "foo-maven-plugin")), page).entries == {}
    assert read(plugins(("foo", "x"), before="<groupId>org.example.plugins</groupId>"), page).entries == {}
    assert read(plugins(("foo", "x")), Page("maven", "", "group/junit")).entries == {}
    for other in (
        plugins(before="<groupId>org.other</groupId>"),
        plugins(before="<groupId>org.example</groupId><artifactId>lib</artifactId>"),
    ):
        with pytest.raises(ValueError):
            read(other, page)
    with pytest.raises(ValueError):
        read(versioning("1.0"), Page("maven", "", "group/junit"))


def test_one_directory_may_be_a_group_and_an_artifact() -> None:
    body = versioning("1.0", "2.0", latest="2.0").replace(b"</metadata>", b"<plugins><plugin/></plugins></metadata>")
    assert set(read(body).entries) == {"1.0", "2.0"}
    assert b"<plugins><plugin/></plugins>" in restricted(body, "2.0")


def test_text_is_trimmed_and_references_are_resolved() -> None:
    body = versioning("\n 1.0 ", "1&#46;1", "<![CDATA[1.2]]>", "1.<!-- x -->3", latest=" 1&#46;1 ")
    assert list(read(body).entries) == ["1.0", "1.1", "1.2", "1.3"]
    assert restricted(body, "1.1", "1.3") == versioning("\n 1.0 ", "<![CDATA[1.2]]>", latest="1.2")


def test_a_version_is_not_hidden_behind_white_space() -> None:
    body = versioning("\n" * 5000 + "1.0", "2.0")
    assert list(read(body).entries) == ["1.0", "2.0"]
    assert b"1.0" not in restricted(body, "1.0")


def test_latin_documents_are_edited_in_their_own_encoding() -> None:
    body = '<?xml version="1.0" encoding="ISO-8859-1"?>'.encode("latin-1") + versioning("1.0", "2.0", latest="2.0").replace(
        b"<versioning>", "<note>é</note><versioning>".encode("latin-1")
    )
    assert restricted(body, "2.0") == body.replace(b"<version>2.0</version>", b"").replace(b"2.0", b"1.0")


def test_a_snapshots_document_is_about_one_version() -> None:
    page = Page("maven", "org.example/lib", "snapshot/3.0-SNAPSHOT")
    body = (
        b"<metadata><groupId>org.example</groupId><artifactId>lib</artifactId><version>3.0-SNAPSHOT</version>"
        b"<versioning><snapshot><buildNumber>7</buildNumber></snapshot></versioning></metadata>"
    )
    listing = read(body, page)
    assert set(listing.entries) == {"3.0-SNAPSHOT"}
    assert REGISTRY.version_of(page) == "3.0-SNAPSHOT"
    barred = REGISTRY.restrict(listing, {"3.0-SNAPSHOT": NO})
    assert (barred.entries, barred.restrictions) == ({}, {"3.0-SNAPSHOT": NO})
    assert b"buildNumber" not in REGISTRY.write(barred, XML, None)
    with pytest.raises(ValueError):
        read(body.replace(b"<version>3.0", b"<version>3.1"), page)
    with pytest.raises(ValueError):
        read(body.replace(b">lib<", b">other<"), page)
    with pytest.raises(ValueError):
        read(b"<metadata><version>3.0-SNAPSHOT</version></metadata>", page)


# ---- policy


def test_a_refused_version_leaves_and_nothing_else_changes() -> None:
    assert restricted(DOCUMENT, "1.10") == DOCUMENT.replace(b"<version >1.10</version>", b"")
    assert restricted(DOCUMENT, "1.0") == DOCUMENT.replace(b"\n      <version>1.0</version>", b"")


def test_latest_is_the_highest_left_and_release_the_highest_that_is_no_snapshot() -> None:
    now = restricted(DOCUMENT, "2.1")
    assert b"<latest>3.0-SNAPSHOT</latest>" in now
    assert b"<release>1.10</release>" in now
    assert b"2.1<" not in now
    now = restricted(DOCUMENT, "2.1", "3.0-SNAPSHOT")
    assert b"<latest>1.10</latest>" in now
    assert b"<release>1.10</release>" in now
    now = restricted(DOCUMENT, "2.1", "1.0", "1.10")
    assert b"<latest>3.0-SNAPSHOT</latest>" in now
    assert b"<release>" not in now
    assert b"\n    <latest>3.0-SNAPSHOT</latest>\n    <versions>" in now


def test_a_stale_latest_is_left_alone_while_nothing_refuses_it() -> None:
    body = versioning("1.0", "2.0", "3.0", latest="2.0", release="1.0")
    assert restricted(body, "3.0") == versioning("1.0", "2.0", latest="2.0", release="1.0")


def test_with_every_version_refused_nothing_is_told() -> None:
    listing = REGISTRY.restrict(read(DOCUMENT), dict.fromkeys(["1.0", "1.10", "2.1", "3.0-SNAPSHOT"], NO))
    assert listing.entries == {}
    assert len(listing.restrictions) == 4
    now = REGISTRY.write(listing, XML, None)
    assert b"<latest>" not in now
    assert b"<release>" not in now
    assert b"<extra" in now
    assert REGISTRY.reread(PAGE, listing.document).entries == {}


def test_verdicts_are_kept_for_messages_and_allowed_versions_stay() -> None:
    hold = Hold(2e9, "too new", "age")
    listing = REGISTRY.restrict(read(DOCUMENT), {"1.0": Allow(), "2.1": hold})
    assert listing.restrictions == {"2.1": hold}
    assert set(listing.entries) == {"1.0", "1.10", "3.0-SNAPSHOT"}


def test_last_updated_is_raised_to_the_rule_but_never_lowered() -> None:
    listing = read(DOCUMENT)
    before, after = 1700000000.0, 1800000000.0
    assert REGISTRY.write(replace(listing, restricted_at=before), XML, None) == DOCUMENT
    raised = DOCUMENT.replace(b"20260102030405", b"20270115080000")
    assert REGISTRY.write(replace(listing, restricted_at=after), XML, None) == raised
    silent = versioning("1.0").replace(b"<lastUpdated>20260102030405</lastUpdated>", b"")
    assert REGISTRY.write(replace(read(silent), restricted_at=after), XML, None) == silent


def test_last_modified_is_upstreams_or_the_rules_whichever_is_later() -> None:
    upstream = "Fri, 02 Jan 2026 03:04:05 GMT"

    def modified(restricted_at: float, last_modified: str | None) -> str | None:
        listing = replace(read(DOCUMENT), restricted_at=restricted_at)
        return dict(REGISTRY.headers(listing, b"", last_modified)).get("last-modified")

    assert modified(0, upstream) == upstream
    assert modified(1700000000, upstream) == upstream
    assert modified(1800000000, upstream) == "Fri, 15 Jan 2027 08:00:00 GMT"
    assert modified(1800000000, None) == "Fri, 15 Jan 2027 08:00:00 GMT"
    assert modified(0, None) is None
    assert modified(0, "yesterday") is None
    assert modified(1800000000, "yesterday") == "Fri, 15 Jan 2027 08:00:00 GMT"


# ---- checksums are of the very bytes


@pytest.mark.parametrize("restricted_at", [0.0, 1800000000.0])
def test_a_document_and_its_checksums_agree_restricted_or_not(restricted_at: float) -> None:
    for verdicts in ({}, {"2.1": NO}):
        listing = replace(REGISTRY.restrict(read(DOCUMENT), verdicts), restricted_at=restricted_at)
        body = REGISTRY.write(listing, XML, None)
        fields = dict(REGISTRY.headers(listing, body))
        for algorithm in ("md5", "sha1", "sha256", "sha512"):
            value = hashlib.new(algorithm, body).hexdigest()
            sidecar = REGISTRY.write(listing, TEXT, None, f"checksum/{algorithm}")
            assert sidecar == value.encode()
            assert fields[f"x-checksum-{algorithm}"] == value
            assert not any(name.startswith("x-checksum") for name, _ in REGISTRY.headers(listing, sidecar))


def test_documents_about_the_repository_have_checksums_too() -> None:
    body = b"## repository-prefixes/2.0\n/org/example\n"
    listing = read(body, Page("maven", "", "prefixes"))
    assert REGISTRY.write(listing, TEXT, None) == body
    assert REGISTRY.write(listing, TEXT, None, "prefixes/checksum/sha1") == hashlib.sha1(body).hexdigest().encode()  # noqa: S324
    assert "x-checksum-sha1" in dict(REGISTRY.headers(listing, body))


def test_a_view_of_another_page_or_in_another_form_is_not_written() -> None:
    listing = read(DOCUMENT)
    for media_type, view in ((TEXT, None), (XML, "checksum/sha1"), (TEXT, "prefixes/checksum/sha1"), (XML, "catalog")):
        with pytest.raises(ValueError):
            REGISTRY.write(listing, media_type, None, view)


# ---- the same page of several upstreams


def test_versions_of_several_are_united_in_order_and_the_newest_date_counts() -> None:
    one = read(versioning("2.0", "1.0", latest="2.0", updated="20260101000000"))
    other = read(versioning("1.10", "1.0", "3.0-SNAPSHOT", latest="1.10", release="1.10", updated="20260301000000"))
    merged = REGISTRY.merge([one, other])
    assert set(merged.entries) == {"1.0", "1.10", "2.0", "3.0-SNAPSHOT"}
    again = documents.read_metadata(merged.document)
    assert again.versions == ["1.0", "1.10", "2.0", "3.0-SNAPSHOT"]
    assert again.outline.text("metadata/versioning/latest") == "3.0-SNAPSHOT"
    assert again.outline.text("metadata/versioning/release") == "2.0"
    assert again.last_updated == "20260301000000"
    assert read(merged.document).entries == REGISTRY.reread(PAGE, merged.document).entries == read(merged.document).entries


def test_the_only_one_that_says_anything_stays_as_it_is() -> None:
    full, empty = read(DOCUMENT), read(versioning())
    assert REGISTRY.merge([full]).document == DOCUMENT
    assert REGISTRY.merge([empty, full]).document == DOCUMENT


def test_what_policy_did_to_each_holds_for_all() -> None:
    one = replace(REGISTRY.restrict(read(versioning("1.0", "2.0")), {"2.0": NO}), restricted_at=1700000000.0)
    other = replace(REGISTRY.restrict(read(versioning("1.5", "2.0")), {"2.0": NO}), restricted_at=1800000000.0)
    merged = REGISTRY.merge([one, other])
    assert set(merged.entries) == {"1.0", "1.5"}
    assert merged.restrictions == {"2.0": NO}
    assert merged.restricted_at == 1800000000.0
    body = REGISTRY.write(merged, XML, None)
    assert b"2.0" not in body
    assert b"<lastUpdated>20270115080000</lastUpdated>" in body
    assert REGISTRY.write(merged, TEXT, None, "checksum/sha256") == hashlib.sha256(body).hexdigest().encode()
    assert dict(REGISTRY.headers(merged, body))["last-modified"] == "Fri, 15 Jan 2027 08:00:00 GMT"


def test_plugins_of_several_are_united_and_the_first_of_a_prefix_counts() -> None:
    page = Page("maven", "org.example/plugins", "")
    latin = b'<?xml version="1.0" encoding="iso-8859-1"?>' + plugins(("bar", "bar-mine")).decode().encode("latin-1")
    merged = REGISTRY.merge(
        [read(plugins(("foo", "foo-mine")), page), read(plugins(("foo", "foo-theirs")), page), read(latin, page)]
    )
    assert b"foo-mine" in merged.document and b"bar-mine" in merged.document
    assert b"foo-theirs" not in merged.document
    assert merged.document.count("é".encode()) == 2
    assert read(merged.document, page).entries == {}


def test_a_group_of_one_and_an_artifact_of_another_are_both_told() -> None:
    merged = REGISTRY.merge([read(plugins(("foo", "foo-mine"))), read(versioning("1.0", "2.0", latest="2.0"))])
    assert b"foo-mine" in merged.document
    assert set(read(merged.document).entries) == {"1.0", "2.0"}


def test_the_newest_snapshot_counts() -> None:
    page = Page("maven", "org.example/lib", "snapshot/3.0-SNAPSHOT")
    old, new = (
        read(b"<metadata><versioning><lastUpdated>%s</lastUpdated></versioning></metadata>" % when, page)
        for when in (b"20260101000000", b"20260201000000")
    )
    assert REGISTRY.merge([old, new]).document == new.document
    assert REGISTRY.merge([new, old]).document == new.document
    assert set(REGISTRY.merge([old, new]).entries) == {"3.0-SNAPSHOT"}


def test_prefixes_of_several_repositories_are_never_one_members() -> None:
    page = Page("maven", "", "prefixes")
    listing = read(b"## repository-prefixes/2.0\n/org/example\n", page)
    for listings in ([listing, listing], [listing]):
        merged = REGISTRY.merge(listings)
        assert REGISTRY.write(merged, TEXT, None) == b"@ unsupported\n"
        assert read(merged.document, page).entries == {}


def test_catalogs_are_united_and_the_first_of_the_same_coordinates_counts() -> None:
    page = Page("maven", "", "catalog")

    def catalog(*archetypes: tuple[str, str]) -> Listing:
        listed = "".join(
            f"<archetype><groupId>g</groupId><artifactId>a</artifactId><version>{version}</version><description>{text}</description></archetype>"
            for version, text in archetypes
        )
        return read(f'<archetype-catalog xmlns="urn:c"><archetypes>{listed}</archetypes></archetype-catalog>'.encode(), page)

    merged = REGISTRY.merge([catalog(("1", "mine")), catalog(("1", "theirs"), ("2", "more")), catalog()])
    assert merged.document.count(b"<archetype>") == 2
    assert b"mine" in merged.document and b"more" in merged.document
    assert b"theirs" not in merged.document
    assert b'<archetype-catalog xmlns="urn:c">' in merged.document
    assert read(merged.document, page).document == merged.document
    alone = catalog(("1", "mine"))
    assert REGISTRY.merge([alone]).document == alone.document
    empty = read(b"<archetype-catalog/>", page)
    assert b"mine" in read(REGISTRY.merge([empty, alone]).document, page).document


# ---- prefixes


@pytest.mark.parametrize(
    "body",
    [
        b"## repository-prefixes/2.0\n/org\n/com/example\n",
        b"# Prefix file generated by Sonatype Nexus\r\n# x: y\r\n\r\n/org\r\n",
        b"@ unsupported\n",
    ],
)
def test_prefixes_pass_through(body: bytes) -> None:
    assert REGISTRY.write(read(body, Page("maven", "", "prefixes")), TEXT, None) == body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"/org\n",
        b"<html>\n",
        b"## repository-prefixes/3.0\n/org\n",
        b"## repository-prefixes/2.0\nhttp://evil.test/\n",
        b"## repository-prefixes/2.0\n/a//b\n",
        b"## repository-prefixes/2.0\n/a\\b\n",
        b"## repository-prefixes/2.0\n<p>\n",
        "## repository-prefixes/2.0\n/é\n".encode(),
        b"## repository-prefixes/2.0\n/" + b"a" * 250 + b"\n",
        b"## repository-prefixes/2.0\n" + b"/a\n" * 100_001,
    ],
)
def test_what_is_no_prefixes_file_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        read(body, Page("maven", "", "prefixes"))


# ---- checksums as published


@pytest.mark.parametrize(
    "body",
    [
        SHA1,
        SHA1.upper(),
        f"{SHA1}\n",
        f"\ufeff{SHA1}\r\n",
        f"{SHA1}  lib-1.0.jar\n",
        f"{SHA1} *lib-1.0.jar",
        f"lib-1.0.jar: {SHA1}",
        f"SHA1(lib-1.0.jar)= {SHA1}\n",
        f"{SHA1}\t/home-of/builds/lib-1.0.jar",
        f"{'f' * 41} {SHA1}",
        f"{SHA1} {'f' * 40}",
    ],
)
def test_a_checksum_is_read_in_any_form_it_ever_had(body: str) -> None:
    assert documents.read_checksum("sha1", body.encode(), "lib-1.0.jar") == Digest("sha1", SHA1)


def test_a_digest_in_the_files_own_name_is_not_its_checksum() -> None:
    name = f"lib-{'f' * 40}.jar"
    assert documents.read_checksum("sha1", f"SHA1({name})= {SHA1}".encode(), name) == Digest("sha1", SHA1)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n",
        b"not found",
        SHA1[:-1].encode(),
        (SHA1 + "0").encode(),
        f"<html><body>{SHA1}</body></html>".encode(),
        f'{{"trace": "{SHA1}"}}'.encode(),
        b"\0" + SHA1.encode(),
        b" " * 5000 + SHA1.encode(),
    ],
)
def test_what_is_no_checksum_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        documents.read_checksum("sha1", body)


@pytest.mark.parametrize(("algorithm", "length"), [("md5", 32), ("sha1", 40), ("sha256", 64), ("sha512", 128)])
def test_each_algorithm_has_its_length(algorithm: str, length: int) -> None:
    assert documents.read_checksum(algorithm, b"A" * length).value == "a" * length
    with pytest.raises(ValueError):
        documents.read_checksum(algorithm, b"a" * (length + 8))


# ---- what vouches for a file


JAR = File("maven", "org.example/lib", "1.0", "lib-1.0.jar", "org/example/lib/1.0/lib-1.0.jar")


def module(*files: dict[str, object]) -> bytes:
    return json.dumps(
        {"formatVersion": "1.1", "component": {}, "variants": [{"name": "api", "files": list(files)}, {"name": "x"}]}
    ).encode()


def test_a_file_is_vouched_for_by_its_sha1_and_by_the_module() -> None:
    told = module(
        {"name": "lib.jar", "url": "lib-1.0.jar", "size": 3, "sha512": "a" * 128, "sha256": "b" * 64, "sha1": SHA1},
        {"name": "lib-1.0.jar", "url": "lib-1.0-other.jar", "sha256": "c" * 64},
    )
    evidence = {"lib-1.0.jar.sha1": SHA1.encode(), "lib-1.0.module": told}
    assert REGISTRY.vouched(JAR, evidence) == (Digest("sha1", SHA1), Digest("sha512", "a" * 128), Digest("sha256", "b" * 64))
    assert REGISTRY.vouched(JAR, {"lib-1.0.module": told}) == (Digest("sha512", "a" * 128), Digest("sha256", "b" * 64))
    assert REGISTRY.vouched(JAR, {"lib-1.0.jar.sha1": SHA1.encode()}) == (Digest("sha1", SHA1),)
    assert REGISTRY.vouched(JAR, {"lib-1.0.module": module({"name": "lib-2.0.jar"})}) == ()


def test_digests_without_their_leading_zeros_are_filled_up() -> None:
    told = module({"name": "lib-1.0.jar", "url": "lib-1.0.jar", "sha256": "b" * 62})
    assert REGISTRY.vouched(JAR, {"lib-1.0.module": told}) == (Digest("sha256", "00" + "b" * 62),)


@pytest.mark.parametrize(
    "evidence",
    [
        {"lib-1.0.jar.sha1": b"<html>please log in</html>"},
        {"lib-1.0.module": b"<html>please log in</html>"},
        {"lib-1.0.module": b"{}"},
        {"lib-1.0.module": b"[" * 100_000},
        {"lib-1.0.module": module({"name": "lib-1.0.jar", "sha256": "x" * 64})},
        {"lib-1.0.module": module({"name": "lib-1.0.jar", "sha256": "a" * 64}, {"name": "lib-1.0.jar", "sha256": "b" * 64})},
    ],
)
def test_evidence_that_is_none_is_upstreams_fault(evidence: dict[str, bytes]) -> None:
    with pytest.raises(ValueError):
        REGISTRY.vouched(JAR, evidence)
