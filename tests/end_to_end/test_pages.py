"""Project pages as an edge serves them: representations, validators, redirects, and every field upstream wrote."""

from __future__ import annotations

import gzip
import json
from urllib.parse import urljoin

import pytest

from tests.fakes import FakePyPI
from tests.harness import Edge, Rule, wait_until
from tests.stage import StartEdge
from tests.wheels import Shelf

pytestmark = pytest.mark.usefixtures("well_behaved")

JSON = "application/vnd.pypi.simple.v1+json"
VENDOR_HTML = "application/vnd.pypi.simple.v1+html"

PIP_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01"


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "text/html"),
        ("text/html", "text/html"),
        ("*/*", "text/html"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
        ("image/png", "text/html"),
        (PIP_ACCEPT, JSON),
        (JSON, JSON),
        ("application/vnd.pypi.simple.latest+json", JSON),
        ("application/vnd.pypi.simple.v1+json, */*;q=0.1", JSON),
        (VENDOR_HTML, VENDOR_HTML),
        ("application/vnd.pypi.simple.latest+html", VENDOR_HTML),
        ("application/vnd.pypi.simple.v1+json;q=0.1, text/html;q=0.5", "text/html"),
    ],
)
def test_the_answer_is_of_the_type_asked_for(
    fake: FakePyPI, edge: Edge, shelf: Shelf, project: str, accept: str | None, media_type: str
) -> None:
    fake.publish(shelf.wheel(project, "1.0"))
    for _ in ("cold", "hot"):
        reply = edge.ask(f"/pypi/simple/{project}/", {} if accept is None else {"Accept": accept})
        assert reply.status == 200
        assert reply.headers["content-type"].split(";")[0] == media_type
        assert {"accept", "accept-encoding"} <= {part.strip().lower() for part in reply.headers["vary"].split(",")}
        assert reply.headers["cache-control"] == "no-cache"
        assert int(reply.headers["content-length"]) == len(reply.body)
    assert fake.count(kind="page", path=f"*/{project}/") == 1


def test_head_says_what_get_says(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str) -> None:
    fake.publish(shelf.wheel(project, "1.0"))
    head = edge.ask(f"/pypi/simple/{project}/", {"Accept": JSON}, "HEAD")
    get = edge.page(project)
    assert (head.status, head.body) == (200, b"")
    for name in ("content-type", "content-length", "etag", "vary", "cache-control"):
        assert head.headers[name] == get.headers[name]


def test_nothing_upstream_wrote_is_lost(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str) -> None:
    wheel, sdist = shelf.wheel(project, "1.0", requires_python=">=3.8"), shelf.sdist(project, "0.9")
    fake.publish(wheel, provenance=True, upload_time="2023-05-06T07:08:09.123456Z")
    fake.publish(sdist, yanked="broken <b>build</b>")
    fake.set_status(project, "deprecated", "see elsewhere")
    theirs, ours = fake.page_json(project), edge.page(project).json()
    assert ours["name"] == theirs["name"]
    assert ours["versions"] == theirs["versions"]
    assert ours["project-status"] == theirs["project-status"]
    assert ours["meta"]["api-version"] == theirs["meta"]["api-version"]
    assert ours["meta"]["_last-serial"] == theirs["meta"]["_last-serial"]
    for their, our in zip(theirs["files"], ours["files"], strict=True):
        for name in ("filename", "hashes", "size", "upload-time", "requires-python", "yanked"):
            assert our[name] == their[name]
        assert our["core-metadata"] == their["core-metadata"] == our["data-dist-info-metadata"]
        assert our["url"].startswith("/pypi/packages/")
        assert our["url"].endswith("/" + our["filename"])


def test_html_says_the_same_as_json(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str) -> None:
    wheel = shelf.wheel(project, "1.0", requires_python=">=3.8,<4")
    fake.publish(wheel, provenance=True)
    fake.publish(shelf.sdist(project, "0.9"), yanked='broken "build" <script>')
    html = edge.page(project, "text/html").content.decode()
    assert f'href="{edge.file_path(wheel)}#sha256={wheel.sha256}"' in html
    assert "data-requires-python=" in html
    assert "&gt;=3.8,&lt;4" in html
    assert f"sha256={wheel.metadata_sha256}" in html
    assert "<script>" not in html
    assert "data-yanked=" in html
    assert f">{wheel.filename}</a>" in html


def test_every_representation_has_its_own_validator_and_honours_it(
    fake: FakePyPI, edge: Edge, shelf: Shelf, project: str
) -> None:
    fake.publish(shelf.wheel(project, "1.0"), shelf.wheel(project, "2.0"))
    tags = set()
    for accept in (JSON, VENDOR_HTML, "text/html"):
        for coding in ("identity", "gzip"):
            reply = edge.page(project, accept, Accept_Encoding=coding)
            assert reply.status == 200
            assert reply.headers.get("content-encoding", "identity") == coding
            tag = reply.headers["etag"]
            assert tag.startswith('"')
            tags.add(tag)
            again = edge.page(project, accept, Accept_Encoding=coding, If_None_Match=tag)
            assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert len(tags) == 6
    identity, packed = edge.page(project), edge.page(project, Accept_Encoding="gzip")
    assert gzip.decompress(packed.body) == identity.body
    assert fake.count(kind="page", path=f"*/{project}/") == 1


def test_a_rule_changes_the_validator_without_asking_upstream(
    fake: FakePyPI, start_edge: StartEdge, shelf: Shelf, project: str
) -> None:
    edge = start_edge()
    fake.publish(shelf.wheel(project, "1.0"), shelf.wheel(project, "2.0"))
    before = edge.page(project).headers["etag"]
    edge.set_rules(Rule(f"pkg:pypi/{project}@2.0", "not this one"))
    wait_until(lambda: edge.page(project, If_None_Match=before).status == 200, 5)
    changed = edge.page(project, If_None_Match=before)
    assert changed.headers["etag"] != before
    edge.set_rules()
    wait_until(lambda: edge.page(project, If_None_Match=before).status == 304, 5)
    assert fake.count(kind="page", path=f"*/{project}/") == 1


@pytest.mark.parametrize("spelling", ["{upper}/", "{odd}/", "{name}", "{odd}"])
def test_other_spellings_are_redirected_to_the_one_page(
    fake: FakePyPI, edge: Edge, shelf: Shelf, project: str, spelling: str
) -> None:
    name = f"{project}-with-dashes"
    fake.publish(shelf.wheel(name, "1.0"))
    target = "/pypi/simple/" + spelling.format(upper=name.upper(), odd=name.replace("-", "_."), name=name)
    reply = edge.ask(target, {"Accept": JSON})
    assert reply.status == 301
    assert urljoin(edge.url + target, reply.headers["location"]) == f"{edge.url}/pypi/simple/{name}/"
    assert edge.page(name).status == 200
    assert [seen.path for seen in fake.seen(path=f"*{name}*")] == [f"/simple/{name}/"]


def test_a_project_that_does_not_exist_is_asked_for_once(fake: FakePyPI, edge: Edge, project: str) -> None:
    for _ in range(3):
        reply = edge.page(project)
        assert reply.status == 404
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.headers["cache-control"] == "no-store"
    assert fake.count(path=f"*{project}*") == 1


def test_a_new_project_is_found_after_it_was_missing(fake: FakePyPI, start_edge: StartEdge, shelf: Shelf, project: str) -> None:
    edge = start_edge()
    assert edge.page(project).status == 404
    fake.publish(shelf.wheel(project, "1.0"))
    edge.age(120)
    assert edge.page(project).status == 200


def test_a_stale_page_is_revalidated_by_validator(fake: FakePyPI, start_edge: StartEdge, shelf: Shelf, project: str) -> None:
    edge = start_edge()
    fake.publish(shelf.wheel(project, "1.0"))
    first = edge.page(project)
    fake.forget()
    edge.age(3600)
    fake.mode(ahead_s=3600)
    assert edge.page(project).body == first.body
    (seen,) = fake.seen(kind="page", path=f"*/{project}/")
    assert (seen.status, seen.header("if-none-match") is not None) == (304, True)
    assert edge.page(project).status == 200
    assert fake.count(kind="page", path=f"*/{project}/") == 1, "a 304 renews the page's life"


def test_a_new_release_shows_when_the_page_has_aged(fake: FakePyPI, start_edge: StartEdge, shelf: Shelf, project: str) -> None:
    edge = start_edge()
    fake.publish(shelf.wheel(project, "1.0"))
    assert edge.page(project).json()["versions"] == ["1.0"]
    fake.publish(shelf.wheel(project, "2.0"))
    assert edge.page(project).json()["versions"] == ["1.0"]
    edge.age(3600)
    assert edge.page(project).json()["versions"] == ["1.0", "2.0"]


def test_refresh_asks_upstream_at_once(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str) -> None:
    fake.publish(shelf.wheel(project, "1.0"))
    assert edge.page(project).json()["versions"] == ["1.0"]
    fake.publish(shelf.wheel(project, "2.0"))
    edge.refresh(project)
    assert edge.page(project).json()["versions"] == ["1.0", "2.0"]


def test_a_page_never_goes_back_to_an_older_serial(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str) -> None:
    fake.publish(shelf.wheel(project, "1.0"))
    fake.publish(shelf.wheel(project, "2.0"))
    assert edge.page(project).json()["versions"] == ["1.0", "2.0"]
    fake.misbehave(f"/simple/{project}/", old_serial=True)
    edge.command("refresh", f"pkg:pypi/{project}")
    assert edge.page(project).json()["versions"] == ["1.0", "2.0"]


@pytest.mark.parametrize(
    "mode", [{}, {"html_only": True}, {"plain": True}, {"plain": True, "html_only": True, "layout": "relative"}]
)
def test_any_kind_of_index_becomes_the_same_page(
    fake: FakePyPI, edge: Edge, shelf: Shelf, project: str, mode: dict[str, bool | str]
) -> None:
    wheel, sdist = shelf.wheel(project, "1.0", requires_python=">=3.8"), shelf.sdist(project, "1.0")
    fake.publish(wheel, sdist)
    fake.mode(**mode)
    document = edge.page(project).json()
    assert document["name"] == project
    files = {entry["filename"]: entry for entry in document["files"]}
    assert set(files) == {wheel.filename, sdist.filename}
    for distribution in (wheel, sdist):
        entry = files[distribution.filename]
        assert entry["hashes"]["sha256"] == distribution.sha256
        assert entry["url"].startswith("/pypi/")
        reply = edge.ask(entry["url"])
        assert (reply.status, reply.body) == (200, distribution.content)
    assert files[wheel.filename]["requires-python"] == ">=3.8"


def test_metadata_is_made_from_a_held_wheel_where_upstream_advertises_none(
    fake: FakePyPI, start_edge: StartEdge, shelf: Shelf, project: str
) -> None:
    edge = start_edge()
    wheel = shelf.wheel(project, "1.0")
    fake.publish(wheel, core_metadata=False)
    (entry,) = edge.page(project).json()["files"]
    assert not entry.get("core-metadata")
    assert edge.ask(entry["url"]).status == 200

    def advertised() -> bool:
        (entry,) = edge.page(project).json()["files"]
        return bool(entry.get("core-metadata") == {"sha256": wheel.metadata_sha256})

    wait_until(advertised, 5)
    reply = edge.ask(entry["url"] + ".metadata")
    assert (reply.status, reply.body) == (200, wheel.metadata)
    html = edge.page(project, "text/html").content.decode()
    assert f'data-core-metadata="sha256={wheel.metadata_sha256}"' in html
    assert f'data-dist-info-metadata="sha256={wheel.metadata_sha256}"' in html


def test_a_quarantined_project_offers_no_files(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str) -> None:
    fake.publish(shelf.wheel(project, "1.0"))
    fake.set_status(project, "quarantined", "under investigation")
    document = edge.page(project).json()
    assert document["files"] == []
    assert document["project-status"] == {"status": "quarantined", "reason": "under investigation"}


def test_legacy_json_points_at_the_edge(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str) -> None:
    wheel = shelf.wheel(project, "1.0")
    fake.publish(wheel, shelf.wheel(project, "2.0"))
    for path in (f"/pypi/pypi/{project}/json", f"/pypi/pypi/{project}/1.0/json"):
        reply = edge.ask(path)
        assert reply.status == 200, path
        assert reply.headers["content-type"].split(";")[0] == "application/json"
        text = json.dumps(reply.json())
        assert edge.file_path(wheel) in text
        assert fake.files_root not in text
    assert edge.ask(f"/pypi/pypi/{project}/9.9/json").status == 404


def test_provenance_is_passed_on_as_it_is(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str) -> None:
    wheel = shelf.wheel(project, "1.0")
    fake.publish(wheel, provenance=True)
    (entry,) = edge.page(project).json()["files"]
    assert entry["provenance"] == f"{edge.url}/pypi/integrity/{project}/1.0/{wheel.filename}/provenance"
    reply = edge.ask(entry["provenance"].removeprefix(edge.url))
    assert reply.status == 200
    assert reply.headers["content-type"].split(";")[0] == "application/vnd.pypi.integrity.v1+json"
    assert reply.content.decode() == fake.provenance(wheel.filename)


def test_provenance_links_follow_only_addresses_the_edge_is_known_by(
    fake: FakePyPI, edge: Edge, shelf: Shelf, project: str
) -> None:
    fake.publish(shelf.wheel(project, "1.0"), provenance=True)
    forged = {"Accept": JSON, "Host": "attacker.test", "X-Forwarded-Host": "attacker.test", "X-Forwarded-Proto": "https"}
    edge.ask(f"/pypi/simple/{project}/", {"Accept": JSON, "X-Forwarded-Host": "attacker.test"})
    edge.ask(f"/pypi/simple/{project}/", forged)
    assert "attacker.test" not in edge.page(project).content.decode()


def test_writing_is_refused_with_a_reason(fake: FakePyPI, edge: Edge) -> None:
    before = len(fake.seen())
    reply = edge.ask("/pypi/legacy/", {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": "0"}, "POST")
    assert reply.status == 403
    assert "read-only" in reply.reason.lower()
    assert len(fake.seen()) == before
