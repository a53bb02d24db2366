"""What a request to an npm registry means: names in all their spellings, what is refused, what strays."""

from __future__ import annotations

import pytest

from origin.model import ALLOW, File, Local, Page, Refuse, Relay, Verdict
from origin.registries import Options, Registry
from origin.registries.npm import NPM

FULL = "application/json"
ABBREVIATED = "application/vnd.npm.install-v1+json"
REGISTRY: Registry = NPM("npm", "https://npm.test/")
SCOPED = Page("npm", "@scope/name")
SPELLINGS = ("@scope/name", "@scope%2fname", "@scope%2Fname", "%40scope%2fname", "%40scope/name")
BULK = "-/npm/v1/security/advisories/bulk"
LEGACY = ("-/npm/v1/security/audits", "-/npm/v1/security/audits/quick")


def get(target: str) -> object:
    return REGISTRY.resource("GET", target)


def relay(target: str, method: str = "GET", body: bytes = b"", registry: Registry = REGISTRY) -> Relay:
    meant = registry.resource(method, target)
    assert isinstance(meant, Relay)
    return Relay(meant.registry, meant.method, meant.request, body)


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_every_spelling_of_a_scoped_name_means_one_thing(spelled: str) -> None:
    assert get(spelled) == get(f"{spelled}?write=true") == SCOPED
    assert get(f"{spelled}/1.0.0") == Page("npm", "@scope/name", "manifest/1.0.0")
    assert get(f"{spelled}/latest") == Page("npm", "@scope/name", "manifest/latest")
    assert get(f"-/package/{spelled}/dist-tags") == Page("npm", "@scope/name", "dist-tags")
    assert get(f"-/npm/v1/attestations/{spelled}@1.0.0") == Page("npm", "@scope/name", "attestations/1.0.0")
    tarball = File("npm", "@scope/name", "1.0.0", "name-1.0.0.tgz", "@scope/name/-/name-1.0.0.tgz")
    assert get(f"{spelled}/-/name-1.0.0.tgz") == tarball


def test_a_tarball_that_repeats_the_scope_keeps_its_path() -> None:
    for spelled in ("@scope/name-1.0.0.tgz", "@scope%2fname-1.0.0.tgz"):
        meant = get(f"@scope/name/-/{spelled}")
        assert meant == File("npm", "@scope/name", "1.0.0", "name-1.0.0.tgz", "@scope/name/-/@scope/name-1.0.0.tgz")


def test_names_that_differ_in_case_are_different() -> None:
    assert get("JSONStream") == Page("npm", "JSONStream")
    assert get("jsonstream") == Page("npm", "jsonstream")
    assert REGISTRY.normalise("JSONStream") == "JSONStream"


@pytest.mark.parametrize("name", ["a", "lodash", "x.y", "Hello!", "we~ird'(1)*", "0", "@-x/y", "@_x/_y", "@A/B.c", "npm"])
def test_old_and_odd_names_are_names(name: str) -> None:
    assert get(name) == Page("npm", name)
    assert REGISTRY.locate(Page("npm", name), None) == f"https://npm.test/{name.replace('/', '%2f')}"


@pytest.mark.parametrize(
    "name",
    [
        *("favicon.ico", "robots.txt", "node_modules", "Node_Modules", ".hidden", "_all_docs", "@", "@scope", "@/x"),
        *("@scope/.x", "@scope/-", "a b", "a:b", "ü", "a@1", "x" * 256, "@s/" + "x" * 255),
    ],
)
def test_what_is_no_name_never_reaches_upstream(name: str) -> None:
    try:
        assert get(name.replace(" ", "%20").replace("ü", "%C3%BC")) is None
    except ValueError:
        assert "" in name.split("/") or len(name) > 255
    with pytest.raises(ValueError):
        REGISTRY.normalise(name)


@pytest.mark.parametrize(
    "target",
    [
        *(
            "/lodash",
            "lodash//-/x.tgz",
            "lodash/..",
            "lodash/%2e%2e",
            "lodash%00",
            "lodash\\x",
            "lodash%5cx",
            "lodash%252fx",
            "%zz",
        ),
        *("lodash%2fx", "lodash/-/a%2fb.tgz", "@a%2fb%2fc", "@a%2f..", "@a%2f", "lodash/-/" + "x" * 256, "lodash%ff"),
    ],
)
def test_malformed_targets_are_refused_as_such(target: str) -> None:
    with pytest.raises(ValueError):
        get(target)


def test_paths_that_lead_nowhere_are_absent() -> None:
    for target in (
        "a/b/c",
        "lodash/-",
        "-",
        "-/",
        "-/all",
        "-/_view/x",
        "-/nothing",
        "lodash/-/x.tgz/",
        "@s/n/1/2",
        "-/package/x",
    ):
        assert get(target) is None, target
    for target in ("-/npm/v1/attestations/x", "-/npm/v1/attestations/x@", "-/npm/v1/attestations/@1", "-/package/_x/dist-tags"):
        assert get(target) is None, target
    for tag in ("latest", "*", "1.x", "1.0.0%3F"):
        assert get(f"-/npm/v1/attestations/lodash@{tag}") is None, "what a tag means may be refused"


def test_a_tarballs_name_tells_its_version_where_it_follows_the_convention() -> None:
    for target, version in (
        ("foo-bar/-/foo-bar-1.0.0-rc.1.tgz", "1.0.0-rc.1"),
        ("foo/-/foo-1.0.0%2Bx.tgz", "1.0.0+x"),
        ("foo/-/bar-1.0.0.tgz", ""),
        ("foo/-/foo-1.0.0.zip", ""),
    ):
        meant = get(target)
        assert isinstance(meant, File)
        assert meant.version == version
        assert REGISTRY.strict(meant)
        assert REGISTRY.listing_page(meant) == Page("npm", meant.project)


# ---- what is answered here -------------------------------------------------------------------------------------------


def test_small_answers_are_given_here() -> None:
    for target, body in (("-/ping", b"{}"), ("-/ping?write=true", b"{}"), ("-/whoami", b'{"username":"anonymous"}')):
        assert get(target) == Local(200, body=body, media_type=FULL)
    root = get("")
    assert isinstance(root, Local)
    assert (root.status, root.media_type) == (200, FULL)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("PUT", "lodash"),
        ("PUT", "@scope%2fname"),
        ("PUT", "lodash/-rev/1-abc"),
        ("DELETE", "lodash/-rev/1-abc"),
        ("DELETE", "lodash/-/lodash-1.0.0.tgz/-rev/1-abc"),
        ("PUT", "-/package/@scope%2fname/dist-tags/latest"),
        ("DELETE", "-/package/lodash/dist-tags/beta"),
        ("POST", "-/v1/login"),
        ("PUT", "-/user/org.couchdb.user:me"),
        ("POST", "-/npm/v1/tokens"),
        ("DELETE", "-/npm/v1/tokens/token/abc"),
        ("POST", "lodash"),
    ],
)
def test_writing_is_refused_with_a_sentence(method: str, target: str) -> None:
    meant = REGISTRY.resource(method, target)
    assert isinstance(meant, Local)
    assert meant.status == 403
    assert meant.message.startswith("read-only mirror")


def test_accounts_are_refused_and_other_methods_not_allowed() -> None:
    for target in ("-/user/x", "-/org/x/package", "-/team/a/b", "-/npm/v1/hooks", "-/npm/v1/tokens", "-/npm/v1/user"):
        meant = get(target)
        assert isinstance(meant, Local)
        assert meant.status == 403
    for method in ("PATCH", "OPTIONS", "TRACE"):
        meant = REGISTRY.resource(method, "lodash")
        assert isinstance(meant, Local)
        assert meant.status == 405


# ---- strays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tarball", ["lodash/-/lodash-1.0.0.tgz", "@s/n/-/n-1.0.0.tgz", "@s%2fn/-/n-1.0.0.tgz", "npm/-/npm-10.0.0.tgz"]
)
@pytest.mark.parametrize("path", ["/npm/", "/repository/npm/", "/a/"])
def test_a_tarball_is_found_without_its_prefix_and_with_it_twice(tarball: str, path: str) -> None:
    assert REGISTRY.stray(f"/{tarball}", path) == tarball
    assert REGISTRY.stray(f"{path}{path[1:]}{tarball}", path) == tarball
    assert REGISTRY.stray(f"{path}{tarball}", path) is None
    assert REGISTRY.stray(f"/{tarball}?x=1", path) == f"{tarball}?x=1"


def test_a_package_called_like_the_path_is_no_stray() -> None:
    for target in ("/npm/npm", "/npm/npm/", "/npm/npm/10.0.0", "/npm/npm/-/npm-10.0.0.tgz", "/npm/npm/latest"):
        assert REGISTRY.stray(target, "/npm/") is None, target
    # The path lost, not the package.
    assert REGISTRY.stray("/npm/-/npm-10.0.0.tgz", "/npm/") == "npm/-/npm-10.0.0.tgz"


@pytest.mark.parametrize("path", ["/npm/", "/a/"])
def test_what_the_registry_offers_beneath_its_path_is_no_tarball_of_a_package_called_like_the_path(path: str) -> None:
    for target in (
        "-/npm/v1/keys",
        "-/package/left/dist-tags",
        "-/v1/search?text=left",
        "-/ping",
        "-/npm/v1/security/audits",
        "-/all",
    ):
        assert REGISTRY.stray(f"{path}{target}", path) is None, target


def test_only_tarballs_stray() -> None:
    for target in (
        "/",
        "/lodash",
        "/@s%2fn",
        "/npm/npm/lodash",
        "/-/ping",
        "/lodash/latest",
        "/x/../y/-/y-1.tgz",
        "//-/x.tgz",
        "/x/-/%zz",
    ):
        assert REGISTRY.stray(target, "/npm/") is None, target
    assert REGISTRY.stray("/lodash/-/lodash-1.0.0.tgz", "/") is None


# ---- representations, views, freshness -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "variant"),
    [
        (f"{ABBREVIATED}; q=1.0, application/json; q=0.8, */*", ABBREVIATED),
        (ABBREVIATED, ABBREVIATED),
        ("application/json; q=1.0, */*", FULL),
        (FULL, FULL),
        ("*/*", FULL),
        ("", FULL),
        (None, FULL),
        (f"{ABBREVIATED};q=0, */*", FULL),
        (f"{ABBREVIATED};q=0.5, application/json", FULL),
        (f"{ABBREVIATED}, application/json", FULL),
        (f"{ABBREVIATED};q=x", FULL),
    ],
)
def test_each_client_gets_the_form_it_prefers(accept: str | None, variant: str) -> None:
    assert REGISTRY.negotiate(SCOPED, accept, "x") == variant
    assert REGISTRY.negotiate(Page("npm", "x", "manifest/1"), accept, "x") == FULL


def test_views_stand_on_the_packument_and_pages_of_their_own_do_not() -> None:
    for view in ("", "manifest/1.0.0", "dist-tags"):
        page = Page("npm", "@scope/name", view)
        assert REGISTRY.basis(page) == SCOPED
        assert REGISTRY.locate(page, None) == "https://npm.test/@scope%2fname"
        assert REGISTRY.version_of(page) is None
    keys, attestations = Page("npm", "", "keys"), Page("npm", "@scope/name", "attestations/1.0.0+x")
    assert (REGISTRY.basis(keys), REGISTRY.basis(attestations)) == (keys, attestations)
    assert REGISTRY.locate(keys, None) == "https://npm.test/-/npm/v1/keys"
    assert REGISTRY.locate(attestations, None) == "https://npm.test/-/npm/v1/attestations/@scope%2fname@1.0.0+x"
    assert REGISTRY.version_of(attestations) == "1.0.0+x"
    assert (REGISTRY.life_s(SCOPED, 300), REGISTRY.life_s(keys, 300)) == (300, 3600)


def test_who_is_about_to_write_or_says_no_cache_insists() -> None:
    assert REGISTRY.insists("", "lodash?write=true")
    assert REGISTRY.insists("no-cache", "lodash")
    assert not REGISTRY.insists("", "lodash?rewrite=true")
    assert not REGISTRY.insists("max-age=0", "lodash")


# ---- relays ----------------------------------------------------------------------------------------------------------


def test_a_search_asks_for_what_the_registry_knows_and_no_more() -> None:
    asked = relay("-/v1/search?from=20&evil=1&text=keywords:a+b%26c&size=100000&quality=0.65&size=3&popularity=1")
    assert asked.request == "-/v1/search?text=keywords%3Aa%20b%26c&size=250&from=20&quality=0.65&popularity=1"
    assert relay("-/v1/search").request == "-/v1/search"
    assert REGISTRY.relay_life_s(asked) == 300
    assert REGISTRY.forward(asked) == (("accept", FULL),)
    for bad in ("size=-1", "size=x", "from=1e3", "quality=2", "maintenance=nan", "text=%ff", "text=" + "x" * 600):
        with pytest.raises(ValueError):
            get(f"-/v1/search?{bad}")


def test_a_search_finds_nothing_that_is_refused() -> None:
    body = (
        b'{"objects": [{"package": {"name": "a", "version": "1.0.0"}, "score": {"final": 1.50}}, {"package":{"name":"evil","version":"1"}},'
        b' {"package": {"name": 7}}, {"package": {"name": "../x", "version": "1"}}], "total": 4, "time": "now"}'
    )

    def judge(name: str, version: str) -> Verdict:
        return Refuse("no", "r") if name == "evil" else ALLOW

    asked = relay("-/v1/search?text=a")
    assert REGISTRY.relayed(asked, body, judge) == (
        b'{"objects":[{"package": {"name": "a", "version": "1.0.0"}, "score": {"final": 1.50}}],"total":4,"time":"now"}'
    )
    clean = b'{"objects": [{"package": {"name": "a", "version": "1.0.0"}}], "total": 1 }'
    assert REGISTRY.relayed(asked, clean, judge) == clean
    for bad in (b"", b"[]", b"<html>", b"{}", b'{"objects": {}}', b'{"objects": [1'):
        with pytest.raises(ValueError):
            REGISTRY.relayed(asked, bad, judge)


def test_audits_are_forwarded_as_json_objects() -> None:
    for target in (BULK, *LEGACY):
        asked = relay(target, "POST", b'{"lodash": ["1.0.0"]}')
        assert asked.request == target
        assert REGISTRY.forward(asked) == (("accept", FULL), ("content-type", FULL))
        assert REGISTRY.relayed(asked, b'{"lodash":[{"id":1}]}', lambda *_: ALLOW) == b'{"lodash":[{"id":1}]}'
        assert REGISTRY.relay_life_s(asked) == 0
        assert REGISTRY.forward(relay(target, "POST", b' \n{"a": {"b": [[]]}}\n'))
        for bad in (b"", b"[]", b"x", b"{", b'{"a":}', b'{"a":1}{}', b'{"a":"\xff"}', b' {"a":' + b"[" * 100_000):
            with pytest.raises(ValueError):
                REGISTRY.forward(relay(target, "POST", bad))
            with pytest.raises(ValueError):
                REGISTRY.relayed(asked, bad, lambda *_: ALLOW)
        assert get(target) is None


def test_audits_can_be_answered_here_or_turned_off() -> None:
    here: Registry = NPM("npm", "https://npm.test", Options(audit="empty"))
    bulk = relay(BULK, "POST", b"{}", here)
    assert here.forward(bulk) is None
    assert here.relayed(bulk, b"", lambda *_: ALLOW) == b"{}"
    for target in LEGACY:
        said = here.relayed(relay(target, "POST", b"{}", here), b"", lambda *_: ALLOW)
        assert b'"advisories":{}' in said
        assert b'"totalDependencies":0' in said
    off: Registry = NPM("npm", "https://npm.test", Options(audit="off"))
    for target in (BULK, *LEGACY):
        meant = off.resource("POST", target)
        assert isinstance(meant, Local)
        assert meant.status == 404
        assert meant.message


def test_an_instance_knows_what_proves_its_files() -> None:
    assert "sha1" in REGISTRY.proofs
    assert "md5" not in REGISTRY.proofs
    assert REGISTRY.identity == "sha256"
    assert REGISTRY.hold_s == 20
