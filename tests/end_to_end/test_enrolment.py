"""How an edge comes to belong to an origin, and every way in which that can fail: one sentence, and nothing is changed."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from edge.enrolment import Identity, read_identity
from origin.api import wire
from tests.fakes import FakePyPI
from tests.fleet import Fleet, FleetEdge, Origin, fleet, one_sentence
from tests.harness import free_port, wait_until
from tests.wheels import Shelf

pytestmark = pytest.mark.usefixtures("well_behaved")


@pytest.fixture(scope="module")
def made(fake: FakePyPI, scratch: Path) -> Iterator[Fleet]:
    """An origin; edges are enrolled by the tests."""
    with fleet(scratch, {"pypi": fake.index_url}) as made:
        yield made


@pytest.fixture
def edge(made: Fleet, tmp_path: Path) -> Iterator[FleetEdge]:
    """An edge that is not enrolled, and does not run."""
    with_origin = FleetEdge(tmp_path / "edge", made.origin, tmp_path.name[-40:].lower().replace("_", "-").strip("-"))
    yield with_origin
    with_origin.__exit__()


def refused(done: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """The one sentence of a command that failed."""
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("edge: ")
    return one_sentence(done.stderr)


def identity(edge: FleetEdge) -> Identity:
    found = read_identity(edge.data)
    assert found is not None
    return found


def test_an_edge_that_is_not_enrolled_does_not_start_with_an_origin_and_says_what_to_do(edge: FleetEdge) -> None:
    told = refused(edge.command("serve", "--listen", f"127.0.0.1:{edge.port}"))
    url = edge.origin.url
    assert told == (
        f"This edge is not enrolled with the origin {url}: run `origin invite NAME` there, then `edge enrol {url} TOKEN` here."
    )


def test_an_invitation_makes_an_edge_one_of_the_fleet_and_is_kept_for_its_owner_alone(
    edge: FleetEdge, fake: FakePyPI, shelf: Shelf, project: str
) -> None:
    wheel = shelf.wheel(project, "1.0")
    fake.publish(wheel)
    done = edge.command("enrol", edge.origin.url, edge.origin.invite(edge.name))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"this edge is {edge.name} now, one of the origin at {edge.origin.url}"
    assert f"start it: edge serve{''.join(f' {word}' for word in edge._options())} --origin {edge.origin.url} " in done.stdout
    kept = edge.data / "origin.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    secret = json.loads(kept.read_text())["secret"]
    edge.start()
    assert edge.file(wheel).status == 200
    assert edge.metric("leeward_upstream_requests_total", source="origin", registry="pypi") > 0
    assert edge.metric("leeward_upstream_requests_total", source="registry") == 0
    wait_until(lambda: edge.origin.edges()[edge.name]["live"], 15, 0.5)
    assert secret not in edge.log.read_text()
    assert secret not in repr(identity(edge))


def test_an_invitation_can_come_from_standard_input_and_is_good_once(edge: FleetEdge) -> None:
    token = edge.origin.invite(edge.name)
    command = ["enrol", *edge._options(), edge.origin.url, "-"]
    done = subprocess.run(
        [sys.executable, "-m", "edge", *command],
        input=f"{token}\n",
        env=edge._environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    before = identity(edge)
    assert "used already" in refused(edge.command("enrol", edge.origin.url, token))
    assert identity(edge) == before


def test_an_invitation_ends(edge: FleetEdge) -> None:
    token = edge.origin.invite(edge.name, "--valid", "1h")
    edge.origin.age(3700)
    try:
        assert "has ended" in refused(edge.command("enrol", edge.origin.url, token))
    finally:
        edge.origin.age(0)
    assert read_identity(edge.data) is None


def test_an_invitation_of_another_origin_is_not_shown_to_this_one(edge: FleetEdge) -> None:
    _, secret = wire.read_token(edge.origin.invite(edge.name))
    told = refused(edge.command("enrol", edge.origin.url, wire.token_text(b"\1" * 32, secret)))
    assert "its key is another one" in told
    # It was not used up.
    pin, _ = wire.read_token(edge.origin.invite(f"{edge.name}-2"))
    assert pin != b"\1" * 32


@pytest.mark.parametrize(
    ("token", "told"),
    [("lw1.abc", "this is no invitation as `origin invite` prints one"), ("hunter2", "this is no invitation")],
)
def test_what_is_no_invitation_is_not_sent_anywhere(edge: FleetEdge, token: str, told: str) -> None:
    found = refused(edge.command("enrol", "https://127.0.0.1:9", token))
    assert told in found
    assert token not in found


def test_an_origin_that_cannot_be_reached_is_said_to_be(edge: FleetEdge, fake: FakePyPI) -> None:
    token = edge.origin.invite(edge.name)
    free = f"127.0.0.1:{free_port()}"
    assert refused(edge.command("enrol", f"https://{free}", token)) == f"no connection to {free}: Connection refused"
    other = urlsplit(fake.index_url).netloc
    assert f"no secure connection to {other}" in refused(edge.command("enrol", f"https://{other}", token))
    assert "an origin is asked over TLS only" in refused(edge.command("enrol", edge.origin.url.replace("https", "http"), token))
    assert "a host and a port" in refused(edge.command("enrol", f"{edge.origin.url}/v1/", token))
    edge.enrol(token)
    assert identity(edge).edge == edge.name


def test_enrolling_again_replaces_what_was_and_an_edge_that_runs_follows_once_it_is_restarted(
    edge: FleetEdge, made: Fleet, fake: FakePyPI, shelf: Shelf, project: str, tmp_path: Path
) -> None:
    wheel, later = shelf.wheel(project, "1.0"), shelf.wheel(f"{project}-later", "1.0")
    fake.publish(wheel, later)
    edge.enrol().start()
    assert edge.file(wheel).status == 200
    first = identity(edge)
    with Origin(tmp_path / "other", {"pypi": fake.index_url}) as other:
        done = edge.command("enrol", other.url, other.invite("elsewhere"))
        assert done.returncode == 0, done.stderr
        assert "once it is restarted" in done.stdout
        assert identity(edge).key != first.key
        assert edge.file(wheel).status == 200
        edge.stop()
        edge.origin = other
        edge._write_config()
        edge.start()
        assert edge.file(wheel).status == 200, "what is here stays here"
        assert edge.file(later).status == 200
        wait_until(lambda: other.edges()["elsewhere"]["live"], 15, 0.5)


def test_an_edge_that_was_dismissed_serves_on_what_it_holds_and_says_why_it_gets_nothing_new(
    edge: FleetEdge, fake: FakePyPI, shelf: Shelf, project: str
) -> None:
    wheel, later = shelf.wheel(project, "1.0"), shelf.wheel(f"{project}-later", "1.0")
    fake.publish(wheel, later)
    edge.enrol().start()
    assert edge.file(wheel).status == 200
    assert edge.origin.command("dismiss", edge.name).returncode == 0
    wait_until(lambda: edge.page(later.project).status == 503, 10)
    assert edge.file(wheel).status == 200
    edge.restart()
    wait_until(lambda: "edge enrol" in edge.status().get("why", ""), 40, 0.5)
    assert edge.file(wheel).status == 200
    edge.stop()
    edge.enrol().start()
    wait_until(lambda: edge.file(later).status == 200, 15)


def test_a_damaged_identity_stops_the_start(edge: FleetEdge) -> None:
    edge.enrol()
    (edge.data / "origin.json").write_text('{"url": "https://origin.test"}')
    told = refused(edge.command("serve", "--listen", f"127.0.0.1:{edge.port}"))
    assert "is damaged" in told
    assert "edge enrol" in told
