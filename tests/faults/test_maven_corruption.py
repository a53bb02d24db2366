"""One flipped bit in what a Maven repository sends: nobody completes, nothing is stored, and the next honest attempt succeeds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.maven import FakeMaven
from tests.harness import Edge, wait_until
from tests.jars import Component, Jars, SigningKey, Stored
from tests.jvm import MAVEN_38, MAVEN_39, JvmWorkspace, Maven
from tests.maven_stage import get, holds, metadata_path
from tests.wheels import KB, MB

HELD_WHOLE = 256 * 1024
"""Of a jar up to this size no byte leaves before its digest matches."""

MEMO_S = 15.0
"""An error is remembered for some seconds; a busy machine adds its own."""


@pytest.fixture(autouse=True)
def well_behaved_again(restored: None) -> None:
    """After each test."""


@dataclass(frozen=True)
class Spoilt:
    """What a test made wrong for a while: a path that has to be right afterwards, and how."""

    path: str
    content: bytes


@pytest.fixture(scope="module")
def recovering() -> list[Spoilt]:
    """One wait for all of it, at the end."""
    return []


@dataclass(frozen=True)
class What:
    """A file of some size, and where in the component it is."""

    name: str
    size: int
    extension: str = "jar"

    @property
    def whole(self) -> bool:
        return self.size <= HELD_WHOLE

    def of(self, component: Component) -> Stored:
        return component.file(self.extension)


WHATS = [
    What("a jar of 100 KB", 100 * KB),
    What("a jar of 5 MB", 5 * MB),
    What("a pom", 0, "pom"),
    What("a module", 0, "module"),
    What("a tar.gz", 0, "tar.gz"),
]


@pytest.mark.parametrize("told", [True, False], ids=["with headers", "without headers"])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("what", WHATS, ids=lambda what: what.name)
def test_a_flipped_bit_reaches_nobody_and_is_not_stored(
    repository: FakeMaven,
    mirror: Edge,
    jars: Jars,
    group: str,
    what: What,
    where: str,
    told: bool,
    recovering: list[Spoilt],
) -> None:
    one = jars.component(f"{group}:lib:1.0", size=what.size, module=True, archives=["tar.gz"])
    repository.publish(one)
    repository.mode(checksum_headers=told)
    file = what.of(one)
    at = {"first": 0, "middle": file.size // 2, "last": file.size - 1}[where]
    held, stray, events = mirror.blobs(), mirror.stray_files(), mirror.metric("leeward_events_total")
    repository.misbehave(f"*/{file.filename}", flip=at)
    reply = get(mirror, file.path)
    if what.whole:
        assert reply.status == 502, reply.reason
        assert reply.headers["content-type"] == "application/problem+json"
    else:
        assert (reply.status, reply.short) == (200, True)
        assert len(reply.body) <= file.size - HELD_WHOLE
    tag, date = f'"sha1-{file.sha1}"', "Fri, 01 Jan 2055 00:00:00 GMT"
    tails = [
        {"Range": f"bytes={len(reply.body)}-", "If_Range": tag},
        {"Range": f"bytes={len(reply.body)}-", "If_Unmodified_Since": date},
        {"Range": "bytes=-1000"},
    ]
    for headers in tails:
        again = get(mirror, file.path, **headers)
        assert again.status in {502, 503} or (again.short and again.status in {200, 206}), (headers, again.status)
    assert (mirror.blobs(), mirror.stray_files()) == (held, stray)
    assert mirror.metric("leeward_events_total") > events, "somebody is told"
    recovering.append(Spoilt(file.path, file.content))


@pytest.mark.parametrize("told", [True, False], ids=["with headers", "without headers"])
@pytest.mark.parametrize("which", ["flipped digit", "no digest", "html"])
def test_a_wrong_checksum_file_lets_nothing_through(
    repository: FakeMaven, mirror: Edge, jars: Jars, group: str, which: str, told: bool, recovering: list[Spoilt]
) -> None:
    one = jars.component(f"{group}:lib:1.0", size=100 * KB)
    repository.publish(one)
    repository.mode(checksum_headers=told)
    wrong = ("0" if one.jar.sha1[0] != "0" else "1") + one.jar.sha1[1:]
    text = {"flipped digit": wrong, "no digest": "soon", "html": "<html>please sign in</html>"}[which]
    path = repository.path_of(one.jar) + ".sha1"
    repository.misbehave(path, replace=text, media_type="text/plain")
    held = mirror.blobs()
    for _ in range(2):
        assert get(mirror, one.jar.path).status == 502
    assert get(mirror, one.jar.path, "HEAD").status == 502
    assert mirror.blobs() == held
    recovering.append(Spoilt(one.jar.path, one.jar.content))


@pytest.mark.parametrize("told", [True, False], ids=["with headers", "without headers"])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_metadata_with_a_flipped_bit_is_not_believed(
    repository: FakeMaven, mirror: Edge, jars: Jars, group: str, where: str, told: bool, recovering: list[Spoilt]
) -> None:
    one = jars.component(f"{group}:lib:1.0")
    repository.publish(one)
    repository.mode(checksum_headers=told)
    path = metadata_path(f"{group}:lib")
    right = repository.text(f"/maven2/{path}").encode()
    repository.misbehave(f"/maven2/{path}", flip={"first": 0, "middle": len(right) // 2, "last": len(right) - 1}[where])
    for suffix in ("", ".sha1", ".md5"):
        assert get(mirror, path + suffix).status == 502
    recovering.append(Spoilt(path, right))


def test_held_metadata_outlives_a_corrupt_one(repository: FakeMaven, mirror: Edge, jars: Jars, group: str) -> None:
    repository.publish(jars.component(f"{group}:lib:1.0"))
    path = metadata_path(f"{group}:lib")
    held = get(mirror, path)
    repository.publish(jars.component(f"{group}:lib:2.0"))
    repository.misbehave(f"/maven2/{path}", flip=200)
    mirror.age(700)
    again = get(mirror, path)
    assert (again.status, again.body) == (200, held.body)
    assert get(mirror, f"{path}.sha1").body.decode() == again.headers["x-checksum-sha1"]
    mirror.age(0)


HOW: dict[str, dict[str, Any]] = {
    "cut short": {"truncate": 50_000},
    "grown": {"grow": 10},
    "coded": {"gzip": True},
    "a portal": {"html": True},
}


@pytest.mark.parametrize("how", HOW)
def test_other_bytes_than_the_checksums_are_not_stored(
    repository: FakeMaven, mirror: Edge, jars: Jars, group: str, how: str, recovering: list[Spoilt]
) -> None:
    one = jars.component(f"{group}:lib:1.0", size=100 * KB)
    repository.publish(one)
    repository.misbehave(f"*/{one.jar.filename}", **HOW[how])
    assert get(mirror, one.jar.path).status in {502, 503}
    assert not holds(mirror, one.jar)
    recovering.append(Spoilt(one.jar.path, one.jar.content))


def test_a_damaged_snapshot_is_told_by_its_name(
    repository: FakeMaven, jars: Jars, group: str, start_mirror: Callable[..., Edge]
) -> None:
    """Each of its contents is bound under a name of its own, which is nobody's business."""
    one = jars.component(f"{group}:lib:1-SNAPSHOT", size=100 * KB)
    repository.publish(one)
    repository.misbehave(repository.path_of(one.jar), flip=1000)
    edge = start_mirror(upstream=repository.snapshots_url)
    reply = get(edge, one.jar.path)
    assert (reply.status, reply.reason.partition(":")[0]) == (502, one.jar.filename)
    assert not holds(edge, one.jar)
    repository.behave()
    wait_until(partial(_answers, edge, one.jar.path), MEMO_S)
    assert get(edge, one.jar.path).body == one.jar.content


def test_other_bytes_under_a_bound_name_are_never_delivered(repository: FakeMaven, mirror: Edge, jars: Jars, group: str) -> None:
    one, other = (jars.component(f"{group}:lib:1.0", size=100 * KB, seed=seed) for seed in ("mine", "theirs"))
    repository.publish(one)
    assert get(mirror, one.jar.path).body == one.jar.content
    wait_until(lambda: mirror.ask(f"/-/why/pkg:maven/{group}/lib@1.0").json()["held"])
    repository.publish(other)
    mirror.age(8 * 86400)
    for blob in mirror.blobs():
        if blob.name == one.jar.sha256:
            blob.unlink()
    mirror.restart()
    assert get(mirror, one.jar.path).status == 502
    assert not holds(mirror, other.jar)
    mirror.age(0)
    repository.publish(one)
    wait_until(partial(_answers, mirror, one.jar.path), MEMO_S)
    assert get(mirror, one.jar.path).body == one.jar.content


@pytest.fixture(scope="module")
def signer() -> Iterator[SigningKey]:
    with SigningKey.made() as key:
        yield key


@pytest.mark.parametrize("signatures", ["check", "require"])
def test_a_swapped_jar_with_the_originals_signature_is_refused(
    repository: FakeMaven, jars: Jars, group: str, signer: SigningKey, scratch: Path, signatures: str
) -> None:
    """Jar and ``.sha1`` agree with each other; only the signature tells."""
    honest = jars.signed(jars.component(f"{group}:lib:1.0", size=100 * KB), signer)
    swapped = jars.component(f"{group}:lib:1.0", size=100 * KB, seed="swapped")
    unsigned = jars.component(f"{group}:unsigned:1.0")
    directory = Path(tempfile.mkdtemp(dir=scratch))
    keys = directory / "keys.asc"
    keys.write_bytes(signer.public)
    repository.publish(honest, unsigned)
    repository.publish(swapped.with_files(honest.file("jar.asc")), listed=False)
    with Edge(directory / "edge", repository.url, kind="maven", registry={"keys": str(keys), "signatures": signatures}) as edge:
        reply = get(edge, honest.jar.path)
        assert (reply.status, "signature" in reply.reason) == (403, True), reply.reason
        assert not holds(edge, swapped.jar)
        assert get(edge, unsigned.jar.path).status == (200 if signatures == "check" else 403)
        repository.publish(honest, listed=False)
        wait_until(partial(_answers, edge, honest.jar.path), MEMO_S)
        assert get(edge, honest.jar.path).body == honest.jar.content


def test_every_spoilt_file_is_right_once_upstream_is(repository: FakeMaven, mirror: Edge, recovering: list[Spoilt]) -> None:
    for one in recovering:
        wait_until(partial(_answers, mirror, one.path), MEMO_S)
        assert get(mirror, one.path).body == one.content


def _answers(edge: Edge, path: str) -> bool:
    return get(edge, path).status == 200


# ---- clients ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("client", "size"), [(MAVEN_38, 100 * KB), (MAVEN_39, 5 * MB)], ids=["small, 3.8", "large, 3.9"])
def test_maven_fails_clearly_and_recovers(
    repository: FakeMaven, mirror: Edge, jars: Jars, group: str, jvm: JvmWorkspace, client: Maven, size: int
) -> None:
    """By its own checks alone 3.x would warn and use the file."""
    one = jars.component(f"{group}:lib:1.0", size=size)
    repository.publish(one)
    repository.misbehave(f"*/{one.jar.filename}", flip=one.jar.size // 2)
    result = client.resolve(jvm, mirror.index_url, [one.coordinate])
    assert not result.succeeded
    assert result.files == {}
    assert not list(jvm.cache.rglob(one.jar.filename))
    assert "Could not transfer artifact" in result.output, result.told
    assert not holds(mirror, one.jar)
    repository.behave()
    wait_until(partial(_answers, mirror, one.jar.path), MEMO_S)
    again = client.resolve(jvm, mirror.index_url, [one.coordinate])
    assert again.succeeded, again.told
    assert again.files[one.coordinate].read_bytes() == one.jar.content
