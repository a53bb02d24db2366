"""Several repositories at one path: a company's own, the public one, snapshots; and several instances of a kind, each at its own."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes import FakePyPI
from tests.fakes.maven import FakeMaven
from tests.gradle_like import GRADLE_LIKE
from tests.harness import PIP, Edge, Rule, Workspace, ask, wait_until
from tests.jars import Jars
from tests.jvm import MAVEN_4, MAVEN_39, JvmClient, JvmWorkspace, Maven
from tests.maven_stage import get, holds, metadata_path, publish_tools, restore, sidecars_of
from tests.wheels import KB, Shelf

SOON_S = 5.0

SNAPSHOTS_LIVE_S = 301


@dataclass(frozen=True)
class Estate:
    """One path, behind which stand the public releases and snapshots, and the company's own."""

    edge: Edge
    public: FakeMaven
    company: FakeMaven


@pytest.fixture(scope="module")
def module_estate(jars: Jars, scratch: Path) -> Iterator[Estate]:
    with FakeMaven.start() as public, FakeMaven.start() as company:
        publish_tools(public, jars)
        shared: dict[str, object] = {"kind": "maven", "path": "/maven/"}
        others: dict[str, dict[str, object]] = {
            "company": shared | {"upstream": company.url, "groups": ["com.company"]},
            "company-snapshots": shared | {"upstream": company.snapshots_url, "groups": ["com.company"]},
            "snapshots": shared | {"upstream": public.snapshots_url},
        }
        with Edge(Path(tempfile.mkdtemp(dir=scratch)), public.url, kind="maven", others=others) as edge:
            yield Estate(edge, public, company)


@pytest.fixture
def estate(module_estate: Estate) -> Iterator[Estate]:
    yield module_estate
    for fake in (module_estate.public, module_estate.company):
        restore(fake)
    module_estate.edge.set_rules()
    module_estate.edge.age(0)


@pytest.fixture
def own(group: str) -> str:
    """A group of the company's that no other test uses."""
    return group.replace("org.example", "com.company")


# ---- a company's own -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("client", [MAVEN_39, MAVEN_4, GRADLE_LIKE], ids=lambda client: client.name)
def test_a_client_resolves_from_both_repositories(
    estate: Estate, jars: Jars, group: str, own: str, jvm: JvmWorkspace, client: JvmClient
) -> None:
    theirs = jars.component(f"{group}:lib:1.0")
    mine = jars.component(f"{own}:app:1.0", requires=[f"{group}:lib:[1.0,2.0)"])
    estate.public.publish(theirs)
    estate.company.publish(mine)
    options = ["-C"] if isinstance(client, Maven) else []
    result = client.resolve(jvm, estate.edge.index_url, [mine.coordinate], options=options)
    assert result.resolved == [mine.coordinate, theirs.coordinate], result.told
    assert result.files[mine.coordinate].read_bytes() == mine.jar.content
    assert estate.company.count(path=f"*/{group.replace('.', '/')}/*") == 0
    assert estate.public.count(path="*/com/company/*") == 0


def test_who_has_a_file_of_several_repositories_is_told(estate: Estate, jars: Jars, group: str, own: str) -> None:
    theirs, mine = jars.component(f"{group}:lib:1.0"), jars.component(f"{own}:lib:1.0")
    estate.public.publish(theirs)
    estate.company.publish(mine)
    for one, instance in ((theirs, "maven"), (mine, "company")):
        assert get(estate.edge, one.jar.path).status == 200
        purl = f"pkg:maven/{one.coordinate.rpartition(':')[0].replace(':', '/')}"
        told = json.loads(estate.edge.command("why", f"{purl}@1.0", "--json").stdout)
        assert (told["instance"], told["held"]) == (instance, True)
        assert "held     yes" in estate.edge.command("why", f"{purl}@1.0").stdout
        estate.edge.set_rules(Rule(f"{purl}@1.0", "no more"))
        wait_until(lambda purl=purl: "allowed but for 1.0" in estate.edge.command("why", purl).stdout)  # type: ignore[misc]
        estate.edge.set_rules()


def test_prefixes_of_several_repositories_are_nobodys(estate: Estate) -> None:
    reply = get(estate.edge, ".meta/prefixes.txt")
    assert reply.body == b"@ unsupported\n"
    assert sidecars_of(estate.edge, ".meta/prefixes.txt")["sha1"] == hashlib.sha1(reply.body, usedforsecurity=False).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("client", [MAVEN_39, GRADLE_LIKE], ids=lambda client: client.name)
def test_the_public_repository_cannot_slip_a_company_name_in(
    estate: Estate, jars: Jars, own: str, jvm: JvmWorkspace, client: JvmClient
) -> None:
    mine = jars.component(f"{own}:lib:1.0")
    forged = jars.component(f"{own}:lib:99", seed="forged")
    estate.company.publish(mine)
    estate.public.publish(forged, jars.component(f"{own}:lib:1.0", seed="forged"))
    estate.public.forget()
    for file in forged.files:
        for suffix in ("", ".sha1", ".asc"):
            assert get(estate.edge, file.path + suffix).status == 404
    assert b"99" not in get(estate.edge, metadata_path(f"{own}:lib")).body
    latest = "LATEST" if isinstance(client, Maven) else "latest.release"
    for wanted in ("[1.0,)", latest):
        jvm.empty_cache()
        result = client.resolve(jvm, estate.edge.index_url, [f"{own}:lib:{wanted}"])
        assert result.resolved == [mine.coordinate], result.told
        assert result.files[mine.coordinate].read_bytes() == mine.jar.content
    assert not any("com/company" in seen.path for seen in estate.public.seen())


def test_an_outage_of_the_company_asks_nobody_else(estate: Estate, jars: Jars, own: str) -> None:
    one = jars.component(f"{own}:lib:1.0")
    estate.public.publish(one)
    estate.company.refuse()
    estate.public.forget()
    for path in (one.pom.path, one.jar.path, metadata_path(f"{own}:lib")):
        reply = get(estate.edge, path)
        assert (reply.status, reply.seconds < SOON_S) == (503, True)
    assert not any("com/company" in seen.path for seen in estate.public.seen())


def test_an_outage_of_one_member_is_no_absence(estate: Estate, jars: Jars, group: str) -> None:
    """What the first does not tell, no second may answer for."""
    one = jars.component(f"{group}:lib:1.0")
    estate.public.publish(one)
    estate.public.misbehave("/maven2/*", status=500)
    assert get(estate.edge, one.jar.path).status == 503
    estate.public.behave()
    wait_until(lambda: get(estate.edge, one.jar.path).status == 200, 15)


# ---- releases and snapshots ------------------------------------------------------------------------------------------


def test_metadata_of_releases_and_snapshots_is_one_document(estate: Estate, jars: Jars, group: str) -> None:
    estate.public.publish(*(jars.component(f"{group}:lib:{version}") for version in ("1.0", "1.1")))
    estate.public.publish(jars.component(f"{group}:lib:1.2-SNAPSHOT", stamp=("20240101.120000", 1)))
    reply = get(estate.edge, metadata_path(f"{group}:lib"))
    for version in ("1.0", "1.1", "1.2-SNAPSHOT"):
        assert f"<version>{version}</version>".encode() in reply.body
    assert b"<latest>1.2-SNAPSHOT</latest>" in reply.body
    assert b"<release>1.1</release>" in reply.body
    for name, told in sidecars_of(estate.edge, metadata_path(f"{group}:lib")).items():
        assert told == reply.headers[f"x-checksum-{name}"] == hashlib.new(name, reply.body, usedforsecurity=False).hexdigest()


def test_a_rule_holds_for_every_member(estate: Estate, jars: Jars, group: str, own: str) -> None:
    evil = [
        jars.component(f"{group}:lib:2.0"),
        jars.component(f"{group}:lib:2.1-SNAPSHOT", stamp=("20240101.120000", 1)),
        jars.component(f"{group}:plain:2.1-SNAPSHOT"),
    ]
    mine = [jars.component(f"{own}:lib:2.0"), jars.component(f"{own}:lib:2.1-SNAPSHOT", stamp=("20240101.120000", 1))]
    estate.public.publish(jars.component(f"{group}:lib:1.0"), *evil)
    estate.company.publish(jars.component(f"{own}:lib:1.0"), *mine)
    paths = [file.path + suffix for one in (*evil, *mine) for file in one.files for suffix in ("", ".sha1")]
    paths += [metadata_path(one.coordinate) + suffix for one in (evil[1], mine[1]) for suffix in ("", ".md5")]
    listings = [metadata_path(f"{name}:lib") for name in (group, own)]
    # A member that was away a moment ago may not be asked again at once.
    wait_until(lambda: {get(estate.edge, path).status for path in paths} == {200}, 20)
    assert all(b"2.0" in get(estate.edge, path).body for path in listings)
    estate.edge.set_rules(
        Rule(f"pkg:maven/{group}/*@>=2.0", "not this one"), Rule(f"pkg:maven/{own}/*@>=2.0", "nor this", "second-rule")
    )
    wait_until(lambda: {get(estate.edge, path).status for path in paths} == {403}, SOON_S)
    for path in listings:
        reply = get(estate.edge, path)
        assert b"<version>1.0</version>" in reply.body
        assert b"<version>2" not in reply.body
        assert get(estate.edge, f"{path}.sha1").body.decode() == hashlib.sha1(reply.body, usedforsecurity=False).hexdigest()
    estate.edge.set_rules()
    wait_until(lambda: {get(estate.edge, path).status for path in paths} == {200}, SOON_S)


@pytest.mark.slow
@pytest.mark.parametrize("client", [MAVEN_39, GRADLE_LIKE], ids=lambda client: client.name)
def test_a_new_snapshot_is_seen_after_its_short_life(
    estate: Estate, jars: Jars, group: str, jvm: JvmWorkspace, client: JvmClient
) -> None:
    coordinate = f"{group}:snap:1-SNAPSHOT"
    old, new = (jars.component(coordinate, stamp=(f"2024010{day}.120000", day), seed=str(day)) for day in (1, 2))
    estate.public.publish(old)

    def resolved() -> bytes:
        if isinstance(client, Maven):
            # Only a repository that may have snapshots is asked for them.
            anywhere = {"any": "http://any.test/"}
            result = client.resolve(jvm, estate.edge.index_url, [coordinate], options=["-U", "-C"], repositories=anywhere)
        else:
            result = client.resolve(jvm, estate.edge.index_url, [coordinate])
        assert result.succeeded, result.told
        (file,) = result.files.values()
        return file.read_bytes()

    assert resolved() == old.jar.content
    estate.public.publish(new)
    assert resolved() == old.jar.content
    estate.edge.age(SNAPSHOTS_LIVE_S * 1.2)
    wait_until(lambda: b"20240102" in get(estate.edge, metadata_path(coordinate)).body, SOON_S)
    assert resolved() == new.jar.content
    assert get(estate.edge, old.jar.path).body == old.jar.content


def test_a_snapshot_that_is_replaced_is_never_mixed_with_its_old_checksums(estate: Estate, jars: Jars, group: str) -> None:
    coordinate = f"{group}:plain:1-SNAPSHOT"
    old, new = (jars.component(coordinate, seed=seed, size=100 * KB) for seed in ("old", "new"))
    estate.public.publish(old)

    def is_whole(path: str) -> bytes:
        reply, head = get(estate.edge, path), get(estate.edge, path, "HEAD")
        sha1 = hashlib.sha1(reply.body, usedforsecurity=False).hexdigest()
        assert reply.headers["x-checksum-sha1"] == head.headers["x-checksum-sha1"] == sha1
        assert (reply.headers["etag"], head.headers["etag"]) == (f'"sha1-{sha1}"', f'"sha1-{sha1}"')
        assert get(estate.edge, f"{path}.sha1").body.decode() == sha1
        assert "immutable" not in reply.headers["cache-control"]
        return reply.body

    for file in ("pom", "jar"):
        assert is_whole(old.file(file).path) == old.file(file).content
    estate.public.publish(new)
    for file in ("pom", "jar"):
        assert is_whole(old.file(file).path) == old.file(file).content
    estate.edge.age(SNAPSHOTS_LIVE_S * 1.2)
    for file in ("pom", "jar"):
        path = new.file(file).path
        wait_until(lambda path=path: get(estate.edge, path).headers.get("x-checksum-sha1") != old.jar.sha1, SOON_S)  # type: ignore[misc]
        wait_until(lambda path=path, file=file: is_whole(path) == new.file(file).content, SOON_S)  # type: ignore[misc]
    assert holds(estate.edge, new.jar)


def test_a_replaced_snapshot_survives_an_outage_and_a_restart(estate: Estate, jars: Jars, group: str) -> None:
    one = jars.component(f"{group}:plain:1-SNAPSHOT", size=100 * KB)
    estate.public.publish(one)
    assert get(estate.edge, one.jar.path).body == one.jar.content
    estate.public.refuse()
    estate.edge.age(6 * 3600)
    estate.edge.restart()
    reply = get(estate.edge, one.jar.path)
    assert (reply.status, reply.body) == (200, one.jar.content)
    assert get(estate.edge, f"{one.jar.path}.sha1").body.decode() == one.jar.sha1


# ---- several instances of a kind -------------------------------------------------------------------------------------


def test_two_indexes_of_a_kind_stand_beside_each_other(fake: FakePyPI, shelf: Shelf, project: str, scratch: Path) -> None:
    public, other = shelf.wheel(project, "1.0"), shelf.wheel(project, "2.0+cpu")
    with FakePyPI.start() as second:
        fake.publish(public)
        second.publish(other)
        others = {"pytorch": {"kind": "pypi", "upstream": second.index_url, "path": "/whl/cpu/"}}
        with Edge(Path(tempfile.mkdtemp(dir=scratch)), fake.index_url, others=others) as edge:
            for index_url, version in ((edge.index_url, "1.0"), (f"{edge.url}/whl/cpu/simple/", "2.0+cpu")):
                result = PIP.install(Workspace(Path(tempfile.mkdtemp(dir=scratch))), index_url, [project])
                assert result.installed == {project: version}, result.output
            edge.set_rules(Rule(f"pkg:pypi/{project}", "neither"))
            paths = [f"{edge.index_url}{project}/", f"{edge.url}/whl/cpu/simple/{project}/"]
            wait_until(lambda: edge.file(public).status == 403, SOON_S)
            for path in paths:
                page = ask(path, {"Accept": "application/vnd.pypi.simple.v1+json"})
                assert page.status == 403 or all(file["yanked"] == "neither" for file in page.json()["files"])
            assert second.count(path=f"*{public.filename}*") == fake.count(path=f"*{other.filename}*") == 0
