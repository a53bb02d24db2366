"""Many clients at once while upstream's metadata is another at each request: what a client puts together belongs together."""

from __future__ import annotations

import hashlib
import random
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import count, takewhile

import pytest

from tests.fakes.maven import FakeMaven
from tests.fakes.maven_documents import instant
from tests.harness import Edge, Rule, wait_until
from tests.jars import Jars
from tests.maven_stage import get, metadata_path

ALGORITHMS = ("md5", "sha1", "sha256", "sha512")

CLIENTS = 8
MANY = 30
LONGEST_S = 60.0


@pytest.fixture(autouse=True)
def well_behaved_again(restored: None, mirror: Edge) -> Iterator[None]:
    yield
    mirror.age(0)
    mirror.set_rules()


class Hammer:
    """What clients saw: the checksums they were told, and what was wrong with a document, or with it and its checksum."""

    def __init__(self, edge: Edge, path: str) -> None:
        self.edge = edge
        self.path = path
        self.lock = threading.Lock()
        self.sidecars: dict[str, set[str]] = defaultdict(set)
        self.wrong: list[str] = []
        self.pairs = 0

    def run(self, enough: threading.Event, seed: int) -> None:
        choose = random.Random(seed)
        while not enough.is_set():
            algorithm = choose.choice(ALGORITHMS)
            coding = choose.choice(("identity", "gzip"))
            before = get(self.edge, self.path, Accept_Encoding=coding)
            sidecar = get(self.edge, f"{self.path}.{algorithm}")
            after = get(self.edge, self.path, choose.choice(("GET", "HEAD")), Accept_Encoding=coding)
            with self.lock:
                self._judge(before.status, sidecar.status, after.status)
                if not self.wrong:
                    self._compare(before.content, dict(before.headers), algorithm, sidecar.body.decode(), dict(after.headers))

    def _judge(self, *statuses: int) -> None:
        if set(statuses) != {200}:
            self.wrong.append(f"statuses {statuses}")

    def _compare(self, document: bytes, head: dict[str, str], algorithm: str, sidecar: str, after: dict[str, str]) -> None:
        for name in ALGORITHMS:
            digest = hashlib.new(name, document, usedforsecurity=False).hexdigest()
            if head[f"x-checksum-{name}"] != digest:
                self.wrong.append(f"{name} in the header is not the body's")
        self.sidecars[algorithm].add(sidecar)
        if head["etag"] == after["etag"]:
            self.pairs += 1
            if head[f"x-checksum-{algorithm}"] != sidecar:
                self.wrong.append(f"{algorithm} file disagrees although the document did not change")


def answered(repository: FakeMaven, path: str) -> int:
    return repository.count(path=f"/maven2/{path}")


def versions_of(document: str) -> list[bytes]:
    """The document as it was after each change so far."""
    last = re.search(r"<lastUpdated>(\d+)<", document)
    assert last is not None
    serials = takewhile(lambda serial: instant(serial) <= last[1], count())
    return [document.replace(last[0], f"<lastUpdated>{instant(serial)}<").encode() for serial in serials]


@pytest.mark.slow
@pytest.mark.parametrize("churn", ["documents", "all", "rules"])
def test_metadata_and_its_checksums_belong_together_whatever_upstream_does_meanwhile(
    repository: FakeMaven, mirror: Edge, jars: Jars, group: str, churn: str
) -> None:
    """Pages are expired ten times a second. ``all``: upstream's own checksum files never fit; its headers do. ``rules`` come and go too."""
    repository.publish(*(jars.component(f"{group}:lib:{version}.0") for version in range(1, 40)))
    path = metadata_path(f"{group}:lib")
    repository.mode(churn="documents" if churn == "rules" else churn)
    hammer = Hammer(mirror, path)
    enough = threading.Event()
    threads = [threading.Thread(target=hammer.run, args=(enough, seed)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    ahead = 0.0
    until = time.monotonic() + LONGEST_S
    while not hammer.wrong and time.monotonic() < until and (hammer.pairs < MANY or answered(repository, path) < MANY):
        ahead += 601
        mirror.age(ahead)
        if churn == "rules":
            mirror.set_rules(*([Rule(f"pkg:maven/{group}/lib@>=20", "too new")] if round(ahead / 601) % 10 < 5 else []))
        time.sleep(0.1)
    enough.set()
    for thread in threads:
        thread.join()
    assert hammer.wrong == []
    assert answered(repository, path) >= MANY, "upstream was asked again and again"
    assert hammer.pairs >= MANY
    if churn == "rules":
        return
    written = versions_of(repository.text(f"/maven2/{path}"))
    for algorithm, told in hammer.sidecars.items():
        assert told <= {hashlib.new(algorithm, one, usedforsecurity=False).hexdigest() for one in written}


def test_a_crowd_for_one_jar_is_one_request(repository: FakeMaven, mirror: Edge, jars: Jars, group: str) -> None:
    one = jars.component(f"{group}:lib:1.0", size=2_000_000)
    repository.publish(one)
    gate = repository.misbehave(f"*/{one.jar.filename}", gate=1_000_000)
    bodies: list[bytes] = []
    threads = [threading.Thread(target=lambda: bodies.append(get(mirror, one.jar.path).body)) for _ in range(20)]
    for thread in threads:
        thread.start()
    repository.wait_at_gate(gate)
    repository.behave(gate)
    for thread in threads:
        thread.join()
    assert bodies == [one.jar.content] * 20
    assert [seen.method for seen in repository.seen(path=f"*/{one.jar.filename}")] == ["GET"]
    assert repository.count(path=f"*/{one.jar.filename}.sha1") == 1


@pytest.mark.slow
def test_a_snapshot_that_is_replaced_all_the_time_is_always_whole(
    repository: FakeMaven, jars: Jars, group: str, start_mirror: Callable[..., Edge]
) -> None:
    """A file, its headers and its checksum are of one content, whichever that is."""
    contents = [jars.component(f"{group}:plain:1-SNAPSHOT", seed=str(n), size=50_000) for n in range(20)]
    repository.publish(contents[0])
    edge = start_mirror(upstream=repository.snapshots_url)
    path = contents[0].jar.path
    known = {one.jar.sha1 for one in contents}
    wrong: list[str] = []
    good: list[str] = []
    enough = threading.Event()

    def run() -> None:
        while not enough.is_set() and not wrong:
            reply, sidecar = get(edge, path), get(edge, f"{path}.sha1")
            digest = hashlib.sha1(reply.body, usedforsecurity=False).hexdigest()
            if reply.status == 502:
                continue  # replaced twice while it was fetched
            if (reply.status, sidecar.status, reply.short) != (200, 200, False):
                wrong.append(f"{reply.status} {reply.reason}, {sidecar.status} {sidecar.reason}")
            elif reply.headers["x-checksum-sha1"] != digest or not {digest, sidecar.body.decode()} <= known:
                wrong.append(f"{digest} {reply.headers['x-checksum-sha1']} {sidecar.body!r}")
            else:
                good.append(digest)

    threads = [threading.Thread(target=run) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    replaced = 0
    until = time.monotonic() + LONGEST_S
    while not wrong and time.monotonic() < until and len(set(good)) < len(contents) // 2:
        replaced += 1
        edge.age(400 * replaced)
        repository.publish(contents[replaced % len(contents)])
        time.sleep(0.3)
    enough.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(set(good)) >= len(contents) // 2
    edge.age(400 * (replaced + 1))
    newest = contents[replaced % len(contents)].jar
    wait_until(lambda: get(edge, path).body == newest.content, 10)
    assert get(edge, f"{path}.sha1").body.decode() == newest.sha1
