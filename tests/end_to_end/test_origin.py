"""An origin in a process of its own, asked by a node over TLS: enrolment, packages, the ledger, recalls, backups, its end."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from origin.api import wire
from origin.datadir import DataDirectory
from origin.feed import checked
from origin.model import Change, File, Page
from origin.registries.pypi import PyPI
from tests.fakes import FakePyPI
from tests.harness import Rule, send_raw, wait_until
from tests.origin_process import Node, OriginProcess
from tests.wheels import MB, Distribution, Shelf

pytestmark = pytest.mark.usefixtures("well_behaved")


@pytest.fixture
def origin(fake: FakePyPI, tmp_path: Path) -> Iterator[OriginProcess]:
    with OriginProcess(tmp_path / "origin", {"pypi": fake.index_url}) as origin:
        yield origin


def file_of(one: Distribution) -> File:
    b = one.blake2b
    path = f"packages/{b[:2]}/{b[2:4]}/{b[4:]}/{one.filename}"
    found = PyPI("pypi", "http://pypi.test/simple/").resource("GET", path)
    assert isinstance(found, File)
    return found


def test_an_edge_is_let_in_once_and_gets_what_the_registry_has(
    origin: OriginProcess, fake: FakePyPI, shelf: Shelf, project: str
) -> None:
    one = shelf.wheel(project, "1.0", size=200_000)
    fake.publish(one)
    told = origin.told("invite", "berlin")
    pin, secret = wire.read_token(told["token"])
    node = Node(origin, pin)
    assert node.ask("/v1/ping").status == 401
    enrolment = msgspec.json.encode(wire.Enrolment(secret=base64.b64encode(secret).decode()))
    enrolled = node.ask("/v1/enrol", method="POST", body=enrolment)
    assert enrolled.status == 200
    node.enrolled = msgspec.json.decode(enrolled.body, type=wire.Enrolled)
    assert (node.enrolled.edge, node.enrolled.version) == ("berlin", 1)
    again = node.ask("/v1/enrol", method="POST", body=enrolment)
    assert (again.status, again.json()["rule"]) == (403, "enrolment")
    assert node.ask("/v1/ping").status == 204

    page = node.ask(wire.page_path(Page("pypi", project)), {"Accept-Encoding": "gzip"})
    facts, document = wire.read_page(page.content)
    assert page.headers["leeward-verdicts"] == "0"
    assert one.filename in PyPI("pypi", facts.url.rpartition(project)[0]).reread(Page("pypi", project), document).entries
    assert node.ask(wire.page_path(Page("pypi", project)), {"If-None-Match": page.headers["etag"]}).status == 304

    path = wire.file_path(file_of(one))
    part = node.ask(path, {"Range": "bytes=100-299", "If-Range": f'"sha256-{one.sha256}"'})
    assert (part.status, part.body) == (206, one.content[100:300])
    whole = node.ask(path)
    assert (whole.status, whole.body) == (200, one.content)
    assert whole.headers["x-checksum-sha256"] == one.sha256
    assert whole.headers["content-length"] == str(len(one.content))
    assert "transfer-encoding" not in whole.headers
    wait_until(lambda: node.ask(f"/v1/blobs/sha256/{one.sha256}").body == one.content)
    assert fake.count(kind="file", path=f"*/{one.filename}") == 1

    (edge,) = origin.told("edges")["edges"]
    assert (edge["name"], edge["live"], edge["address"]) == ("berlin", True, "127.0.0.1")
    assert origin.told("dismiss", "berlin") == {"dismissed": "berlin"}
    assert node.ask("/v1/ping").status == 401


def test_only_whoever_has_the_pins_key_is_believed(origin: OriginProcess, tmp_path: Path, fake: FakePyPI) -> None:
    pin, _ = wire.read_token(origin.told("invite", "berlin")["token"])
    with OriginProcess(tmp_path / "other", {"pypi": fake.index_url}) as other, pytest.raises(ssl.SSLError):
        Node(other, pin).ask("/v1/ping")
    assert Node(origin, pin).ask("/-/live").body == b"live\n"


def test_whoever_asks_plainly_is_told_to_use_tls(origin: OriginProcess) -> None:
    told = send_raw(origin.url.replace("https", "http"), b"GET /-/ready HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b" 400 " in told.splitlines()[0]
    assert b"https://" in told


def test_who_looks_after_it_needs_no_secret(origin: OriginProcess) -> None:
    node = Node(origin)
    assert [node.ask(f"/-/{what}").status for what in ("live", "ready", "metrics", "else")] == [200, 200, 200, 404]
    metrics = node.ask("/-/metrics").body.decode()
    for name in ("leeward_feed_serial", "leeward_verdicts_revision", "leeward_certificate_expires_seconds"):
        assert f"\n{name} " in metrics
    assert node.ask("/").status == 404
    assert origin.told("status")["at"] == origin.url


def test_the_ledger_is_followed_and_its_chain_holds(origin: OriginProcess, fake: FakePyPI, shelf: Shelf, project: str) -> None:
    one = shelf.wheel(project, "1.0", size=1000)
    fake.publish(one)
    node = origin.enrolled("berlin")
    assert node.enrolled is not None
    snapshot = node.snapshot()
    epoch, serial = wire.read_cursor(snapshot.cursor)
    key = base64.b64decode(node.enrolled.key)
    assert node.ask(wire.file_path(file_of(one))).status == 200
    chain, cursor = bytes.fromhex(snapshot.hash), snapshot.cursor
    changes: list[Change] = []
    while not any(change.kind == "file" and change.filename == one.filename for change in changes):
        batch, records = node.changes(cursor, wait_s=10)
        chain = checked(batch, records, chain, key, wire.read_cursor(cursor)[1])
        cursor = batch.cursor
        changes += [msgspec.json.decode(record, type=Change) for record in records]
    (line,) = [change for change in changes if change.kind == "file" and change.filename == one.filename]
    assert line.digest is not None and line.digest.value == one.sha256
    assert (line.purl, line.source, line.size) == (f"pkg:pypi/{project}@1.0", "registry", len(one.content))
    assert [change.serial for change in changes] == list(range(serial + 1, serial + 1 + len(changes)))
    whole = node.snapshot()
    assert one.filename in [held.filename for held in whole.files]
    compared = node.tell("holdings", wire.Comparison())
    told = msgspec.json.decode(compared.body, type=wire.Compared)
    assert told.shards == wire.shard_digests((held.file.key, held.digest) for held in whole.files)
    gone = node.ask(f"/v1/changes?after=other.{serial}&verdicts=0&wait=0&limit=10")
    assert (gone.status, epoch in gone.json()["detail"]) == (410, True)
    report = origin.told("verify")["ledger"]
    assert report["problems"] == [] and report["lines"] >= serial + len(changes)


def test_a_recall_wakes_who_waits_and_returns_when_all_have_it(
    origin: OriginProcess, fake: FakePyPI, shelf: Shelf, project: str
) -> None:
    one = shelf.wheel(project, "1.0", size=1000)
    fake.publish(one)
    node, silent = origin.enrolled("berlin"), origin.enrolled("silent")
    file = wire.file_path(file_of(one))
    assert node.ask(file).status == 200
    wait_until(lambda: node.ask(f"/v1/blobs/sha256/{one.sha256}").status == 200)
    cursor = node.snapshot().cursor
    waited: list[float] = []

    def follow() -> None:
        nonlocal cursor
        began = time.monotonic()
        while (verdicts := node.verdicts()).revision < 1:
            batch, _ = node.changes(cursor, verdicts=0, wait_s=20)
            cursor = batch.cursor
        waited.append(time.monotonic() - began)
        assert node.acknowledge(cursor, verdicts.revision).status == 204

    thread = threading.Thread(target=follow)
    thread.start()
    assert silent.ask("/v1/ping").status == 204
    target = f"pkg:pypi/{project}@1.0"
    done = origin.command("recall", target, "--reason", "it steals", "--wait", "3s", "--json")
    thread.join(20)
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert (told["acknowledged"], told["missing"], told["verdicts"]) == (["berlin"], ["silent"], 1)
    assert [each["digest"] for each in told["files"]] == [f"sha256-{one.sha256}"]
    assert waited[0] < 15
    for path in (file, f"/v1/blobs/sha256/{one.sha256}"):
        for headers, method in (({}, "GET"), ({"Range": "bytes=0-1"}, "GET"), ({}, "HEAD")):
            reply = node.ask(path, headers, method)
            assert (reply.status, reply.headers["leeward-verdicts"]) == (403, "1"), (path, headers, method)
    (recall,) = node.verdicts().recalls
    assert (recall.target, recall.reason, recall.purls) == (target, "it steals", (target,))

    who = origin.told("who", target)
    assert (who["edges"], [each["edge"] for each in who["brought"]]) == (["berlin"], ["berlin"])
    access = wire.EdgeAccess(
        number=1, at=1e9, file=file_of(one).key, digest=one.sha256, client="10.1.2.3", token="", sent=1000, complete=True
    )
    assert node.tell("accesses", wire.Accesses((access,))).status == 204
    who = origin.told("who", f"sha256:{one.sha256}")
    assert [(each["edge"], each["client"], each["times"]) for each in who["deliveries"]] == [("berlin", "10.1.2.3", 1)]

    assert origin.told("dismiss", "silent")
    node.acknowledge(cursor, 2)
    undone = origin.told("recall", target, "--undo", "--wait", "0s", status=1)
    assert (undone["undone"], undone["missing"]) == (target, ["berlin"])
    assert node.ask(file).status == 200


def test_edited_rules_are_the_next_revision(origin: OriginProcess, project: str) -> None:
    node = origin.enrolled("berlin")
    assert node.verdicts() == wire.Verdicts()
    origin.set_rules(Rule(f"pkg:pypi/{project}", "not for us"))
    wait_until(lambda: node.verdicts().revision == 1)
    assert [rule["match"] for rule in node.verdicts().rules] == [f"pkg:pypi/{project}"]
    assert origin.told("why", f"pkg:pypi/{project}@1.0")["verdict"] == "refuse"
    origin.config.write_text('[[rules]]\nname = "x"\nmatch = "six"\naction = "refuse"')
    wait_until(lambda: "does not begin with pkg:" in origin.told("status")["rules_file"])
    assert node.verdicts().revision == 1
    origin.set_rules(Rule(f"pkg:pypi/{project}", "not for us"))
    assert origin.stop() == 0
    origin.start()
    assert (node.verdicts().revision, origin.told("status")["verdicts"]["revision"]) == (1, 1)


def test_what_an_edge_took_alone_is_synchronized_here(origin: OriginProcess, fake: FakePyPI, shelf: Shelf, project: str) -> None:
    one = shelf.wheel(project, "1.0", size=1000)
    fake.publish(one)
    node = origin.enrolled("berlin")
    file = file_of(one)
    offered = wire.HeldFile(
        registry="pypi",
        project=project,
        version="1.0",
        filename=one.filename,
        path=file.path,
        digest=f"sha256-{one.sha256}",
        size=len(one.content),
    )
    assert node.tell("offers", wire.Offers((offered,))).status == 204
    wait_until(lambda: node.ask(f"/v1/blobs/sha256/{one.sha256}").body == one.content)
    assert fake.count(kind="file", path=f"*/{one.filename}") == 1


def test_it_drains_without_waiting_for_those_who_wait(origin: OriginProcess) -> None:
    node = origin.enrolled("berlin")
    cursor = node.snapshot().cursor
    told: list[int] = []

    def follow(query: str) -> None:
        # Whoever waits is answered, or told by the connection's end, as others that idle are.
        with contextlib.suppress(http.client.RemoteDisconnected):
            told.append(node.ask(f"/v1/changes?{query}").status)

    queries = (f"after={cursor}&verdicts=0&wait=30&limit=10", f"wait=30&after={cursor}")
    threads = [threading.Thread(target=follow, args=(query,)) for query in queries]
    for thread in threads:
        thread.start()
    wait_until(lambda: origin.told("status")["ledger"]["waiting"] == 2)
    began = time.monotonic()
    assert origin.stop() == 0
    assert time.monotonic() - began < 5
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads)
    assert told and set(told) == {200}
    assert "stopped" in origin.log_tail()


def test_nothing_is_lost_when_it_is_killed(origin: OriginProcess, fake: FakePyPI, shelf: Shelf, project: str) -> None:
    one = shelf.wheel(project, "1.0", size=1000)
    fake.publish(one)
    node = origin.enrolled("berlin")
    assert node.ask(wire.file_path(file_of(one))).status == 200
    wait_until(lambda: node.ask(f"/v1/blobs/sha256/{one.sha256}").status == 200)
    origin.told("recall", "pkg:pypi/evil", "--reason", "bad", "--wait", "0s", status=1)
    origin.kill()
    origin.start()
    assert node.ask(f"/v1/blobs/sha256/{one.sha256}").body == one.content
    assert [each.target for each in node.verdicts().recalls] == ["pkg:pypi/evil"]
    assert origin.told("verify")["ledger"]["problems"] == []


@pytest.mark.parametrize("running", [True, False])
def test_a_backup_is_restored_as_another_epoch(
    origin: OriginProcess, fake: FakePyPI, shelf: Shelf, project: str, tmp_path: Path, running: bool
) -> None:
    one = shelf.wheel(project, "1.0", size=1000)
    fake.publish(one)
    node = origin.enrolled("berlin")
    assert node.ask(wire.file_path(file_of(one))).status == 200
    wait_until(lambda: node.ask(f"/v1/blobs/sha256/{one.sha256}").status == 200)
    before = node.snapshot()
    if not running:
        assert origin.stop() == 0
    told = origin.told("backup", str(tmp_path / "backup"))
    assert told["blobs"] >= 1
    if running:
        assert origin.stop() == 0
    again = OriginProcess(tmp_path / "again", {"pypi": fake.index_url}, data=tmp_path / "restored")
    done = again.command("restore", str(tmp_path / "backup"), "--json")
    assert done.returncode == 0, done.stderr
    with again:
        assert node.enrolled is not None
        known = Node(again, node.pin)
        known.enrolled = node.enrolled
        assert known.ask(f"/v1/blobs/sha256/{one.sha256}").body == one.content
        after = known.snapshot()
        assert wire.read_cursor(after.cursor)[0] != wire.read_cursor(before.cursor)[0]
        assert known.ask(f"/v1/changes?after={before.cursor}&verdicts=0&wait=0&limit=10").status == 410
        assert known.verdicts().revision > 1_000_000
        assert again.told("verify")["ledger"]["problems"] == []


@pytest.mark.parametrize(
    "arguments", [("edges",), ("who", "pkg:pypi/six"), ("verify",), ("recall", "pkg:pypi/six", "--reason", "x")]
)
def test_a_store_that_nobody_runs_on_can_be_asked(origin: OriginProcess, arguments: tuple[str, ...]) -> None:
    origin.enrolled("berlin")
    assert origin.stop() == 0
    done = origin.command(*arguments)
    assert done.returncode == 0, done.stderr
    assert ("berlin" in done.stdout) == (arguments == ("edges",))
    status = origin.command("status")
    assert (status.returncode, "no edge or origin is running" in status.stderr) == (1, True)
    started = origin.start()
    assert started.told("status")["verdicts"]["revision"] == (1 if arguments[0] == "recall" else 0)


def test_a_second_origin_on_the_same_directory_says_so(origin: OriginProcess, fake: FakePyPI) -> None:
    other = OriginProcess(origin.directory / "other", {"pypi": fake.index_url}, data=origin.data)
    done = other.command("serve", "--listen", "127.0.0.1:0")
    assert (done.returncode, f"in use by process {origin.pid}" in done.stderr) == (1, True)


def test_an_origin_starts_once_a_command_lets_go_of_its_store(origin: OriginProcess) -> None:
    assert origin.stop() == 0
    with DataDirectory.open(origin.data):
        origin.start(wait=False)
        wait_until(lambda: f"is in use by process {os.getpid()}: waiting" in origin.log_tail(), 20)
    origin.wait_ready()
    assert origin.log_tail().count("waiting up to") == 1


def test_a_second_signal_ends_it_at_once(origin: OriginProcess, fake: FakePyPI, shelf: Shelf, project: str) -> None:
    one = shelf.wheel(project, "1.0", size=30 * MB)
    fake.publish(one)
    node = origin.enrolled("berlin")
    assert node.enrolled is not None
    process = origin._process
    assert isinstance(process, subprocess.Popen)
    with contextlib.closing(node.connect()) as connection:
        connection.request("GET", wire.file_path(file_of(one)), headers={"Authorization": f"Bearer {node.enrolled.secret}"})
        # Nobody reads on: the origin would wait for that.
        assert connection.getresponse().status == 200
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining" in origin.log_tail())
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
