"""Upstream sends what it should not: a clear error or the old page, nothing stored, nothing crashed, no credentials given away."""

from __future__ import annotations

import base64
import json
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import FakePyPI
from tests.harness import PIP, Edge, Workspace, wait_until
from tests.stage import StartEdge
from tests.wheels import KB, MB, Shelf

USERNAME, PASSWORD = "edge-user", "edge-password"

HOUR_S = 3600.0


@pytest.fixture(autouse=True)
def well_behaved_again(well_behaved: None) -> None:
    """After each test."""


@pytest.fixture(scope="module")
def edge(fake: FakePyPI, scratch: Path) -> Iterator[Edge]:
    """An edge with credentials for its upstream and small limits."""
    registry = {"username": USERNAME, "password": PASSWORD, "page_limit": "1MB", "file_limit": "20MB"}
    with Edge(Path(tempfile.mkdtemp(dir=scratch)), fake.index_url, registry=registry) as edge:
        edge.wait_learnt()
        yield edge


@pytest.fixture(scope="module")
def recovering() -> list[str]:
    """What the tests of this module made fail. Errors are remembered for some seconds: one wait for all of it, at the end."""
    return []


BAD_PAGES: dict[str, dict[str, Any]] = {
    "a captive portal": {"html": True},
    "a page that redirects to itself": {"loop": True},
    "a redirect to another host": {"redirect": "ELSEWHERE"},
    "an answer without end": {"endless": True},
    "more than the limit": {"grow": 2 * MB},
    "a body cut short": {"truncate": 200},
    "a length that promises more": {"length_off_by": 50},
    "a length that promises less": {"length_off_by": -50},
    "broken JSON": {"replace": '{"meta": {"api-version": "1.1"}, "name": "x", "files": ['},
    "another project's page": {
        "replace": '{"meta": {"api-version": "1.1"}, "name": "somebody-else", "files": [], "versions": []}'
    },
    "no name": {"replace": '{"meta": {"api-version": "1.1"}, "files": []}'},
    "no files": {"replace": '{"meta": {"api-version": "1.1"}, "name": "x"}'},
    "a list": {"replace": "[]"},
    "null": {"replace": "null"},
    "nothing at all": {"replace": ""},
    "deep nesting": {"replace": "[" * 100_000},
    "a version from the future": {"replace": '{"meta": {"api-version": "2.0"}, "name": "x", "files": [], "versions": []}'},
    "an unknown type": {"media_type": "application/octet-stream"},
    "an unknown status": {"status": 299},
    "no content": {"status": 204},
}


def ordered(fake: FakePyPI, how: dict[str, Any]) -> dict[str, Any]:
    """``how`` with the address that is only known now."""
    return {name: fake.elsewhere_root + "*" if value == "ELSEWHERE" else value for name, value in how.items()}


@pytest.mark.parametrize("how", BAD_PAGES.values(), ids=BAD_PAGES)
def test_a_bad_page_is_an_error_when_cold_and_the_old_page_when_held(
    fake: FakePyPI, edge: Edge, shelf: Shelf, project: str, how: dict[str, Any], recovering: list[str]
) -> None:
    fake.publish(shelf.wheel(project, "1.0"), shelf.wheel(f"{project}-cold", "1.0"))
    edge.age(0)
    good = edge.page(project)
    assert good.status == 200
    number = fake.misbehave(f"/simple/{project}*", **ordered(fake, how))

    cold = edge.page(f"{project}-cold")
    assert cold.status in {502, 503}, cold.reason
    assert cold.headers["content-type"] == "application/problem+json"
    assert cold.json()["detail"]
    assert cold.seconds < 15

    edge.age(HOUR_S)
    held = edge.page(project)
    assert held.status == 200
    assert held.json()["files"] == good.json()["files"]
    assert fake.count(host="elsewhere") == 0
    fake.behave(number)
    edge.age(0)
    recovering.append(f"/pypi/simple/{project}-cold/")


BAD_FILES: dict[str, dict[str, Any]] = {
    "a captive portal": {"html": True},
    "a redirect loop": {"loop": True},
    "a redirect to another host": {"redirect": "ELSEWHERE"},
    "bytes without end": {"endless": True},
    "more bytes than listed": {"grow": 1000},
    "a length that promises more": {"length_off_by": 50},
    "a length that promises less": {"length_off_by": -50},
    "fewer bytes than listed": {"replace": "short", "media_type": "application/octet-stream"},
    "a content coding": {"gzip": True},
    "no content": {"status": 204},
    "an error page": {"status": 500, "body": "<html>oops</html>"},
    "a filter's refusal": {"status": 403, "body": "blocked"},
    "a listed file missing": {"status": 404},
}


@pytest.mark.parametrize("how", BAD_FILES.values(), ids=BAD_FILES)
@pytest.mark.parametrize("size", [100 * KB, 2 * MB])
def test_a_bad_file_is_never_completed_nor_stored(
    fake: FakePyPI, edge: Edge, shelf: Shelf, project: str, how: dict[str, Any], size: int, recovering: list[str]
) -> None:
    wheel = shelf.wheel(project, "1.0", size=size)
    fake.publish(wheel)
    assert edge.page(project).status == 200
    held, stray = edge.blobs(), edge.stray_files()
    number = fake.misbehave(f"*/{wheel.filename}", **ordered(fake, how))
    reply = edge.file(wheel)
    if reply.status == 200 and not reply.short:
        # An answer that was right after all: coded on the way and decoded again, bit for bit.
        assert reply.body == wheel.content
        assert "content-encoding" not in reply.headers
    else:
        assert reply.status in {502, 503} or reply.short, reply.reason
        assert edge.blobs() == held
        assert edge.stray_files() == stray
    assert reply.seconds < 30
    assert fake.count(host="elsewhere") == 0
    fake.behave(number)
    recovering.append(edge.file_path(wheel))


def test_a_file_above_the_limit_is_refused_before_it_fills_the_disk(
    fake: FakePyPI, edge: Edge, shelf: Shelf, project: str
) -> None:
    wheel = shelf.wheel(project, "1.0", size=30 * MB)
    fake.publish(wheel)
    reply = edge.file(wheel)
    assert reply.status == 502
    assert not edge.holds(wheel)


def test_credentials_go_to_the_upstream_they_were_set_for_and_nowhere_else(
    fake: FakePyPI, edge: Edge, shelf: Shelf, project: str
) -> None:
    wheel = shelf.wheel(project, "1.0")
    fake.publish(wheel)
    assert edge.file(wheel).status == 200
    fake.misbehave(f"*/{project}-away/", redirect=fake.elsewhere_root + "*")
    edge.page(f"{project}-away")
    secret = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
    to_index = fake.seen(host="index", path=f"*{project}*")
    assert {request.header("authorization") for request in to_index} == {f"Basic {secret}"}
    for request in fake.seen(host="files") + fake.seen(host="elsewhere"):
        assert request.header("authorization") is None
        assert PASSWORD not in repr(request)
    assert PASSWORD not in edge.log.read_text()
    assert secret not in edge.log.read_text()


def test_a_link_may_not_point_into_this_machine_by_another_scheme(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str) -> None:
    wheel = shelf.wheel(project, "1.0")
    fake.publish(wheel)
    page = fake.page_json(project)
    for url in ("file:///etc/passwd", "ftp://files.test/x.whl", "javascript:alert(1)", "//", "http://", "http://[::1", "\x00"):
        page["files"][0]["url"] = url
        number = fake.misbehave(f"/simple/{project}/", replace=json.dumps(page))
        edge.refresh_quietly(project)
        reply = edge.page(project)
        assert reply.status in {200, 502, 503}
        assert b"/etc/passwd" not in reply.body
        fake.behave(number)


def test_a_conditional_request_that_hangs_is_tried_again_unconditionally(
    fake: FakePyPI, start_edge: StartEdge, shelf: Shelf, project: str
) -> None:
    edge = start_edge()
    fake.publish(shelf.wheel(project, "1.0"))
    assert edge.page(project).status == 200
    fake.publish(shelf.wheel(project, "2.0"))
    fake.misbehave(f"/simple/{project}/", silent=True, when_header="if-none-match")
    edge.age(HOUR_S)
    began = time.monotonic()
    wait_until(lambda: edge.page(project).json()["versions"] == ["1.0", "2.0"], 40)
    print(f"the new release showed after {time.monotonic() - began:.1f} s")


def test_pip_tells_its_user_what_was_wrong(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str, workspace: Workspace) -> None:
    wheel = shelf.wheel(project, "1.0")
    fake.publish(wheel)
    fake.misbehave(f"*/{wheel.filename}", flip=0)
    result = PIP.install(workspace, edge.index_url, [project], options=["--retries", "0"])
    assert not result.succeeded
    assert "502" in result.output  # which pip retries, so that it shows the number only


def test_everything_is_right_once_upstream_is(edge: Edge, recovering: list[str]) -> None:
    for path in recovering:
        wait_until(partial(answers, edge, path), 15)


def answers(edge: Edge, path: str) -> bool:
    return edge.ask(path).status == 200
