"""What an npm registry's clients are answered: names in every spelling, two forms of a page, conditions, audits, and what is refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

import pytest

from tests import npm_stage
from tests.fakes import FakeNpm
from tests.harness import Edge, Reply, ask
from tests.npm_stage import FULL, SHORT, VENDOR, escaped, page, tarball
from tests.tarballs import Tarballs

npm, mirror, packed = npm_stage.npm, npm_stage.mirror, npm_stage.packed

SPELLINGS = ["@{scope}/{name}", "@{scope}%2f{name}", "@{scope}%2F{name}", "%40{scope}/{name}", "%40{scope}%2f{name}"]

BULK = "/npm/-/npm/v1/security/advisories/bulk"

BODY_LIMIT = 10_000_000


@pytest.fixture(autouse=True)
def well_behaved_again(npm: FakeNpm) -> Iterator[None]:
    yield
    npm.behave()
    npm.mode(audit="both")


# ---- names -----------------------------------------------------------------------------------------------------------


def test_a_scoped_name_is_one_in_every_spelling(mirror: Edge, npm: FakeNpm, packed: Tarballs, project: str) -> None:
    one = packed.pack(f"@farm/{project}", "1.0.0")
    npm.publish(one, provenance=True)
    npm.forget()
    types = [one["predicateType"] for one in npm.attestations(one.name, "1.0.0")["attestations"]]
    spelt = [spelling.format(scope="farm", name=project) for spelling in SPELLINGS]
    pages = [mirror.ask(f"/npm/{name}", SHORT) for name in spelt]
    assert {reply.status for reply in pages} == {200}
    assert len({reply.body for reply in pages}) == len({reply.headers["etag"] for reply in pages}) == 1
    assert pages[0].json()["versions"]["1.0.0"]["dist"]["tarball"] == f"{mirror.url}/npm/{one.target}"
    for name in spelt:
        assert mirror.ask(f"/npm/{name}/-/{one.filename}").body == one.content, name
        assert mirror.ask(f"/npm/{name}/1.0.0").json()["version"] == "1.0.0", name
        assert mirror.ask(f"/npm/{name}/latest").json()["version"] == "1.0.0", name
        assert mirror.ask(f"/npm/-/package/{name}/dist-tags").json() == {"latest": "1.0.0"}, name
        attested = mirror.ask(f"/npm/-/npm/v1/attestations/{name}@1.0.0").json()["attestations"]
        assert [one["predicateType"] for one in attested] == types, name
    assert [npm.count(kind=kind) for kind in ("packument", "tarball", "attestations")] == [1, 1, 1]
    assert npm.seen(kind="packument")[0].path == f"/@farm%2f{project}"


def test_names_that_differ_in_case_alone_are_two(mirror: Edge, npm: FakeNpm, packed: Tarballs) -> None:
    stream, small = packed.pack("JSONStream", "1.3.5"), packed.pack("jsonstream", "0.0.1")
    npm.publish(stream)
    npm.publish(small)
    for one in (stream, small):
        assert page(mirror, one.name).json()["name"] == one.name
        assert list(page(mirror, one.name).json()["versions"]) == [one.version]
        assert tarball(mirror, one).body == one.content
    assert mirror.ask("/npm/jsonstream/-/JSONStream-1.3.5.tgz").status == 404


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/npm/pear%00", 400),
        ("/npm/..%2fpear", 400),
        ("/npm/@farm%2f..%2fpear", 400),
        ("/npm/pear/%2e%2e/-/pear-1.0.0.tgz", 400),
        ("/npm/pear%5cpear", 400),
        ("/npm/%zz", 400),
        ("/npm/a//b", 400),
        ("/npm/favicon.ico", 404),
        ("/npm/node_modules", 404),
        ("/npm/-/all", 404),
    ],
)
def test_what_is_no_name_is_told_in_json_and_asked_of_nobody(mirror: Edge, npm: FakeNpm, target: str, status: int) -> None:
    npm.forget()
    reply = mirror.ask(target)
    assert reply.status == status
    assert isinstance(reply.json()["error"], str)
    assert npm.count() == 0


@pytest.mark.parametrize("place", ["/{target}", "/npm/npm/{target}", "/{escaped}", "/npm/npm/{escaped}"])
def test_a_tarball_is_found_without_the_prefix_and_with_it_twice(
    mirror: Edge, npm: FakeNpm, packed: Tarballs, project: str, place: str
) -> None:
    one = packed.pack(f"@farm/{project}", "1.0.0")
    npm.publish(one)
    path = place.format(target=one.target, escaped=f"{escaped(one.name)}/-/{one.filename}")
    reply = mirror.ask(path)
    assert (reply.status, reply.body) == (200, one.content)
    assert mirror.ask(path, {"If-None-Match": reply.headers["etag"]}).status == 304
    assert mirror.ask(path, method="HEAD").headers["content-length"] == str(one.size)


# ---- the two forms ---------------------------------------------------------------------------------------------------


def test_both_forms_of_a_page_come_from_one_fetch(mirror: Edge, npm: FakeNpm, packed: Tarballs, project: str) -> None:
    one = packed.pack(project, "1.0.0", scripts={"postinstall": "true"}, dependencies={"soil": "^1"}, libc=["glibc"])
    npm.publish(packed.pack(project, "0.9.0", scripts={"test": "true"}), deprecated="use another")
    npm.publish(one, provenance=True, manifest={"error": "a member of a version, not of the page"})
    npm.forget()
    full, short = page(mirror, project, FULL), page(mirror, project, SHORT)
    assert npm.count(kind="packument") == 1
    assert (full.headers["content-type"], short.headers["content-type"]) == ("application/json", VENDOR)
    assert full.headers["etag"] != short.headers["etag"]
    for reply in (full, short):
        assert reply.headers["vary"] == "Accept, Accept-Encoding"
        assert reply.headers["cache-control"] == "no-cache"
        assert "error" not in reply.json()
        assert list(reply.json()["versions"]) == ["0.9.0", "1.0.0"]
        theirs = npm.packument(project)["versions"]["1.0.0"]["dist"]
        ours = reply.json()["versions"]["1.0.0"]["dist"]
        assert ours == theirs | {"tarball": f"{mirror.url}/npm/{one.target}"}
    document, upstream = full.json(), npm.packument(project)
    for published in (document, upstream):
        for version in published["versions"].values():
            del version["dist"]["tarball"]
    assert document == upstream
    assert set(short.json()) == {"name", "modified", "dist-tags", "versions"}
    assert short.json()["modified"] == upstream["time"]["modified"]
    version = short.json()["versions"]["1.0.0"]
    assert version["hasInstallScript"] is True
    assert version["dependencies"] == {"soil": "^1"}
    assert not {"scripts", "_npmUser", "maintainers"} & set(version)
    assert "hasInstallScript" not in short.json()["versions"]["0.9.0"]
    assert short.json()["versions"]["0.9.0"]["deprecated"] == "use another"


@pytest.mark.parametrize("accept", [None, "*/*", "application/json; q=1.0, */*", f"{VENDOR}; q=0.1, application/json"])
def test_who_does_not_prefer_the_short_form_gets_the_full_one(
    mirror: Edge, npm: FakeNpm, packed: Tarballs, project: str, accept: str | None
) -> None:
    npm.publish(packed.pack(project, "1.0.0"))
    reply = mirror.ask(f"/npm/{project}", {"Accept": accept} if accept else {})
    assert reply.headers["content-type"] == "application/json"
    assert "readme" in reply.json()


def test_conditions_are_judged_by_the_form_and_the_tag_comes_before_the_date(
    mirror: Edge, npm: FakeNpm, packed: Tarballs, project: str
) -> None:
    npm.publish(packed.pack(project, "1.0.0"))
    forms = {"full": FULL, "short": SHORT}
    first: dict[str, Reply] = {}
    for name, form in forms.items():
        first[name] = page(mirror, project, form)
        assert first[name].headers["last-modified"] == "Mon, 01 Jan 2024 00:00:00 GMT"
    for name, form in forms.items():
        tag, other = first[name].headers["etag"], first["full" if name == "short" else "short"].headers["etag"]
        date, earlier = first[name].headers["last-modified"], "Sun, 31 Dec 2023 00:00:00 GMT"
        unchanged = page(mirror, project, form, If_None_Match=tag)
        assert (unchanged.status, unchanged.body, unchanged.headers["etag"]) == (304, b"", tag)
        assert page(mirror, project, form, If_None_Match=f'"another", {tag}').status == 304
        assert page(mirror, project, form, If_None_Match=f"W/{tag}").status == 304
        assert page(mirror, project, form, If_None_Match=other).status == 200
        assert page(mirror, project, form, If_Modified_Since=date).status == 304
        assert page(mirror, project, form, If_Modified_Since=earlier).status == 200
        assert page(mirror, project, form, If_None_Match=tag, If_Modified_Since=earlier).status == 304
        assert page(mirror, project, form, If_None_Match=other, If_Modified_Since=date).status == 200
        assert page(mirror, project, form).status == 200
        packed_form = page(mirror, project, form, Accept_Encoding="gzip")
        assert packed_form.headers["content-encoding"] == "gzip"
        assert packed_form.content == first[name].body
        assert page(mirror, project, form, Accept_Encoding="gzip", If_None_Match=tag).status == 200
        head = mirror.ask(f"/npm/{project}", form, "HEAD")
        assert (head.status, head.body, head.headers["etag"]) == (200, b"", tag)


def test_tarballs_say_what_they_are_and_are_never_coded(mirror: Edge, npm: FakeNpm, packed: Tarballs, project: str) -> None:
    one = packed.pack(project, "1.0.0", size=300_000)
    npm.publish(one)
    for state in ("cold", "held"):
        reply = tarball(mirror, one, Accept_Encoding="gzip, br, zstd")
        assert (reply.status, reply.body) == (200, one.content), state
        assert "content-encoding" not in reply.headers
        assert reply.headers["content-type"] == "application/octet-stream"
        assert reply.headers["content-length"] == str(one.size)
        assert reply.headers["etag"] == f'"sha256-{one.sha256}"'
        assert reply.headers["accept-ranges"] == "bytes"
        assert "immutable" in reply.headers["cache-control"]
    part = tarball(mirror, one, Range="bytes=-100")
    assert (part.status, part.body) == (206, one.content[-100:])
    assert npm.count(kind="tarball", path=f"*{one.filename}") == 1


# ---- what is neither page nor tarball --------------------------------------------------------------------------------


def test_small_questions_are_answered_here(mirror: Edge, npm: FakeNpm) -> None:
    npm.forget()
    assert mirror.ask("/npm/-/ping").json() == {}
    assert mirror.ask("/npm/-/ping?write=true").json() == {}
    assert mirror.ask("/npm/-/whoami").json() == {"username": "anonymous"}
    assert isinstance(mirror.ask("/npm/").json()["db_name"], str)
    assert npm.count() == 0


def test_keys_are_relayed_as_they_are(mirror: Edge, npm: FakeNpm) -> None:
    assert mirror.ask("/npm/-/npm/v1/keys").json() == json.loads(npm.keys_json())


@pytest.mark.parametrize("coding", ["gzip", "identity"])
@pytest.mark.parametrize("path", ["advisories/bulk", "audits/quick", "audits"])
def test_audits_are_forwarded_without_who_asked(mirror: Edge, npm: FakeNpm, path: str, coding: str) -> None:
    npm.advise("pear", "1.0.0", title="rots")
    asked = {"pear": ["1.0.0"]} if path.endswith("bulk") else {"name": "x", "dependencies": {"pear": {"version": "1.0.0"}}}
    body = json.dumps(asked).encode()
    headers = {"Content-Type": "application/json", "Authorization": "Bearer secret", "npm-session": "s", "Cookie": "c=1"}
    npm.forget()
    reply = ask(
        f"{mirror.url}/npm/-/npm/v1/security/{path}",
        headers | ({"Content-Encoding": "gzip"} if coding == "gzip" else {}),
        "POST",
        body=gzip.compress(body) if coding == "gzip" else body,
    )
    assert reply.status == 200
    assert b"rots" in reply.content
    (seen,) = npm.seen(kind="audit")
    assert json.loads(seen.body) == asked
    assert not {"authorization", "npm-session", "cookie"} & {name for name, _ in seen.headers}


def test_audits_that_upstream_does_not_offer_are_absent_here_too(mirror: Edge, npm: FakeNpm) -> None:
    npm.mode(audit="off")
    reply = ask(mirror.url + BULK, {"Content-Type": "application/json"}, "POST", body=b"{}")
    assert reply.status == 404
    assert isinstance(reply.json()["error"], str)


@pytest.mark.parametrize("coding", ["gzip", "identity"])
def test_a_body_over_the_limit_is_413_in_json(mirror: Edge, npm: FakeNpm, coding: str) -> None:
    body = b'{"pear": ["' + b"1" * BODY_LIMIT + b'"]}'
    npm.forget()
    headers = {"Content-Type": "application/json"} | ({"Content-Encoding": "gzip"} if coding == "gzip" else {})
    reply = ask(mirror.url + BULK, headers, "POST", body=gzip.compress(body, 1) if coding == "gzip" else body)
    assert reply.status == 413
    assert reply.headers["content-type"] == "application/problem+json"
    assert isinstance(reply.json()["error"], str)
    assert npm.count(kind="audit") == 0


@pytest.mark.parametrize("body", [b"\x1f\x8b broken", b"not gzip at all"])
def test_a_body_that_cannot_be_unpacked_is_400(mirror: Edge, body: bytes) -> None:
    reply = ask(mirror.url + BULK, {"Content-Type": "application/json", "Content-Encoding": "gzip"}, "POST", body=body)
    assert reply.status == 400
    assert isinstance(reply.json()["error"], str)


WRITES = [
    ("PUT", "/npm/pear"),
    ("PUT", "/npm/@farm%2fpear"),
    ("PUT", "/npm/pear/-rev/1-0"),
    ("DELETE", "/npm/pear/-rev/1-0"),
    ("PUT", "/npm/-/package/pear/dist-tags/beta"),
    ("DELETE", "/npm/-/package/pear/dist-tags/beta"),
    ("PUT", "/npm/-/user/org.couchdb.user:someone"),
    ("POST", "/npm/-/v1/login"),
    ("POST", "/npm/-/npm/v1/tokens"),
]


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_whatever_would_change_something_is_403_and_goes_no_further(mirror: Edge, npm: FakeNpm, method: str, path: str) -> None:
    npm.forget()
    headers = {"Authorization": "Bearer secret-of-a-publisher", "Content-Type": "application/json"}
    reply = ask(mirror.url + path, headers, method, body=b'{"name": "pear"}')
    assert reply.status == 403
    assert "read-only mirror" in reply.json()["error"]
    assert "read-only mirror" in reply.json()["message"]
    assert npm.count() == 0
    assert "secret-of-a-publisher" not in mirror.log.read_text()
