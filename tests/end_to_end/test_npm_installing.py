"""npm's clients behind an edge: trees, locks and what else people do with a registry."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests import npm_stage
from tests.fakes import FakeNpm
from tests.harness import Edge, wait_until
from tests.node import BUN, NPM, PNPM, YARN1, YARN4, Client, Project, audit_signatures, corepack
from tests.npm_stage import each_client, holds, page, start_mirror
from tests.tarballs import Tarballs

npm, mirror, packed, client_project = npm_stage.npm, npm_stage.mirror, npm_stage.packed, npm_stage.client_project

WANTED = {"orchard": "^2.0.0", "@farm/apple": "1"}
TREE = {"orchard@2.1.0", "@farm/apple@1.5.0", "pear@1.2.7", "soil@3.1.0", "soil@4.0.0", "@farm/rain-water@0.2.0"}

TOKEN = "npm_token-that-nobody-else-may-see"


@pytest.fixture(scope="module", autouse=True)
def orchard(npm: FakeNpm, packed: Tarballs) -> None:
    """What ``WANTED`` resolves to, ``TREE``, and what must be passed over for it."""
    npm.publish(
        packed.pack("soil", "3.1.0"),
        packed.pack("soil", "4.0.0"),
        packed.pack("@farm/rain-water", "0.2.0", dependencies={"soil": "^4.0.0"}),
        packed.pack("pear", "1.2.7", dependencies={"soil": "^3.0.0", "@farm/rain-water": "0.2.0"}),
        packed.pack("pear", "1.3.0"),
        packed.pack("@farm/apple", "1.5.0", dependencies={"soil": ">=3 <4"}, bin=["core"]),
        packed.pack("@farm/apple", "2.0.0"),
        packed.pack("orchard", "1.0.0"),
        packed.pack("orchard", "2.1.0", dependencies={"@farm/apple": "^1.0.0", "pear": "~1.2.0"}),
    )


@pytest.fixture
def npm_project(mirror: Edge, scratch: Path) -> Iterator[Project]:
    with tempfile.TemporaryDirectory(prefix="npm-", dir=scratch) as directory:
        yield NPM.project(Path(directory), mirror.index_url)


# ---- trees and locks -------------------------------------------------------------------------------------------------


@each_client
def test_a_tree_installs_without_a_lock_from_its_lock_and_with_nothing_fetched_twice(
    mirror: Edge, npm: FakeNpm, client_project: Project, client: Client
) -> None:
    npm.forget()
    first = client_project.install(WANTED)
    assert first.succeeded, first.output
    assert first.installed == TREE
    for kind in ("packument", "tarball"):
        fetched = [seen.path for seen in npm.seen(kind=kind)]
        assert len(fetched) == len(set(fetched)), fetched
    npm.forget()
    client_project.empty_cache()
    locked = client_project.ci()
    assert locked.succeeded, locked.output
    assert locked.installed == TREE
    assert locked.lock == first.lock
    if client.name in {"pnpm", "yarn4"}:
        assert not re.search(r"https?://", first.lock), first.lock
    elif client is BUN:
        # It leaves an address out for its own default registry and no other; what it writes is the conventional place.
        assert set(re.findall(r"http://[^/\"]+/", first.lock)) == {f"{mirror.url}/"}
    assert npm.count(kind="tarball") == 0


@pytest.mark.parametrize("client", [PNPM, YARN4], ids=["pnpm", "yarn4"])
def test_a_lock_made_at_the_registry_itself_installs_behind_an_edge(
    mirror: Edge, npm: FakeNpm, client_project: Project, client: Client
) -> None:
    elsewhere = client.project(client_project.directory / "elsewhere", npm.registry_url)
    assert elsewhere.install(WANTED).installed == TREE
    client_project.write_manifest(WANTED)
    client_project.lock_path.write_text(elsewhere.lock)
    before = mirror.metric("leeward_requests_total", kind="file")
    locked = client_project.ci()
    assert locked.installed == TREE, locked.output
    assert locked.lock == elsewhere.lock
    assert mirror.metric("leeward_requests_total", kind="file") == before + len(TREE)


@pytest.mark.parametrize("prefix", ["", "npm/"])
def test_npm_replays_another_mirror_s_lock(npm_project: Project, mirror: Edge, prefix: str) -> None:
    """With ``replace-registry-host=always`` npm puts the lock's path behind the registry's own: a mirror's prefix comes twice."""
    assert npm_project.install(WANTED).installed == TREE
    lock = npm_project.lock.replace(mirror.index_url, f"http://another-mirror.test/{prefix}")
    replaying = NPM.project(npm_project.directory / "replay", mirror.index_url, settings={"replace-registry-host": "always"})
    replaying.write_manifest(WANTED)
    replaying.lock_path.write_text(lock)
    locked = replaying.ci()
    assert locked.installed == TREE, locked.output


@pytest.mark.parametrize("client", [YARN1, BUN], ids=["yarn1", "bun"])
def test_a_lock_that_lost_the_prefix_installs(mirror: Edge, client_project: Project, client: Client) -> None:
    """What another host's lock becomes when only its host is replaced, as people do with ``sed``."""
    assert client_project.install(WANTED).installed == TREE
    lock = client_project.lock
    assert mirror.index_url in lock
    client_project.lock_path.write_text(lock.replace(mirror.index_url, f"{mirror.url}/"))
    client_project.empty_cache()
    locked = client_project.ci()
    assert locked.installed == TREE, locked.output


@pytest.mark.parametrize("client", [YARN1, BUN, NPM], ids=["yarn1", "bun", "npm"])
def test_a_lock_that_doubled_the_prefix_installs(mirror: Edge, client_project: Project, client: Client) -> None:
    assert client_project.install(WANTED).installed == TREE
    client_project.lock_path.write_text(client_project.lock.replace(mirror.index_url, f"{mirror.index_url}npm/"))
    client_project.empty_cache()
    locked = client_project.ci()
    assert locked.installed == TREE, locked.output


@each_client
def test_old_names_tags_and_versions_without_integrity_install(npm: FakeNpm, packed: Tarballs, client_project: Project) -> None:
    npm.publish(packed.pack("JSONStream", "1.3.5"))
    npm.publish(packed.pack("jsonstream", "0.0.1"))
    npm.publish(packed.pack("@farm/tool", "2.0.0"))
    npm.publish(packed.pack("@farm/tool", "3.0.0-beta.1"), tags=["next"])
    npm.publish(packed.pack("oldest", "0.1.0"), integrity=False, signature="none")
    done = client_project.install({"JSONStream": "^1.0.0", "@farm/tool": "next", "oldest": "*"})
    assert done.installed == {"JSONStream@1.3.5", "@farm/tool@3.0.0-beta.1", "oldest@0.1.0"}, done.output


@each_client
def test_a_lock_that_names_a_new_version_installs_although_the_page_is_fresh(
    mirror: Edge, npm: FakeNpm, packed: Tarballs, client_project: Project, client: Client, project: str
) -> None:
    npm.publish(packed.pack(project, "1.0.0"))
    assert list(page(mirror, project).json()["versions"]) == ["1.0.0"]
    npm.publish(packed.pack(project, "1.1.0"))
    elsewhere = client.project(client_project.directory / "elsewhere", npm.registry_url)
    assert elsewhere.install({project: "1.1.0"}).succeeded
    client_project.write_manifest({project: "1.1.0"})
    client_project.lock_path.write_text(elsewhere.lock.replace(npm.registry_url, mirror.index_url))
    mirror.age(60)
    npm.forget()
    try:
        done = client_project.ci()
        assert done.installed == {f"{project}@1.1.0"}, done.output
        assert npm.count(kind="packument") == 1
        # And from now on the page has it for everybody.
        assert list(page(mirror, project).json()["versions"]) == ["1.0.0", "1.1.0"]
        assert npm.count(kind="packument") == 1
    finally:
        mirror.age(0)


def test_a_new_version_asked_for_by_its_manifest_or_insistently_is_looked_for_once(
    mirror: Edge, npm: FakeNpm, packed: Tarballs, project: str, npm_project: Project
) -> None:
    """What corepack asks is a manifest; npm before a write, ``write=true``. What it asks to install says nothing of the version."""
    npm.publish(packed.pack(project, "1.0.0"))
    assert page(mirror, project).status == 200
    asked = [f"/npm/{project}/1.1.0", f"/npm/{project}?write=true", f"/npm/{project}"]
    for number, path in enumerate(asked, start=1):
        npm.publish(packed.pack(project, f"1.{number}.0"))
        mirror.age(60 * number)
        npm.forget()
        assert mirror.ask(path, {"Cache-Control": "no-cache"} if number == 3 else {}).status == 200, path
        assert npm.count(kind="packument") == 1
        added = npm_project.add(f"{project}@1.{number}.0")
        assert added.installed == {f"{project}@1.{number}.0"}, added.output
        assert npm.count(kind="packument") == 1
    # Versions that exist nowhere cost upstream one request in a while, not one each.
    mirror.age(300)
    npm.forget()
    for _ in range(3):
        assert mirror.ask(f"/npm/{project}/9.9.9").status == 404
    assert npm.count(kind="packument") == 1
    mirror.age(0)


# ---- what else people do ---------------------------------------------------------------------------------------------


def test_npm_looks_around(mirror: Edge, npm: FakeNpm, npm_project: Project) -> None:
    ping = npm_project.run("ping", "--json")
    assert ping.succeeded, ping.output
    assert json.loads(ping.stdout)["details"] == {}
    seen = npm_project.run("view", "orchard", "versions", "dist-tags", "--json")
    assert json.loads(seen.stdout) == {"versions": ["1.0.0", "2.1.0"], "dist-tags": {"latest": "2.1.0"}}, seen.output
    assert json.loads(npm_project.run("view", "@farm/apple@1", "bin.core", "--json").stdout) == "bin/core.js"
    found = npm_project.run("search", "farm", "--json")
    assert {one["name"] for one in json.loads(found.stdout)} >= {"@farm/apple", "@farm/rain-water"}, found.output
    tags = npm_project.run("dist-tag", "ls", "orchard")
    assert "latest: 2.1.0" in tags.stdout, tags.output
    missing = npm_project.run("view", "no-such-package")
    assert "E404" in missing.output


def test_npm_with_a_token_is_nobody_in_particular(mirror: Edge, npm: FakeNpm, tmp_path: Path) -> None:
    npm.forget()
    asked = with_token(NPM, tmp_path, mirror).run("whoami")
    assert asked.stdout.strip() == "anonymous", asked.output
    assert npm.count() == 0


# yarn 1 sends its audits to the registry it was made for, whatever it is told.
AUDITS: Sequence[tuple[Client, Sequence[str]]] = [
    (NPM, ["audit"]),
    (PNPM, ["audit"]),
    (YARN4, ["npm", "audit", "--recursive"]),
    (BUN, ["audit"]),
]


@pytest.mark.parametrize(("client", "words"), AUDITS, ids=[client.name for client, _ in AUDITS])
def test_audits_find_what_the_registry_advises(mirror: Edge, npm: FakeNpm, client_project: Project, words: Sequence[str]) -> None:
    npm.advise("pear", "1.2.7", title="Rots from within")
    installed = client_project.install(WANTED)
    assert installed.succeeded, installed.output
    npm.forget()
    audited = client_project.run(*words)
    assert not audited.succeeded, audited.output
    assert "Rots from within" in audited.flat, audited.output
    assert npm.count(kind="audit") == 1


@pytest.mark.parametrize(("signature", "verdict"), [("good", "verified"), ("tampered", "invalid"), ("none", "missing")])
def test_npm_checks_signatures_with_the_keys_relayed(
    mirror: Edge, npm: FakeNpm, packed: Tarballs, npm_project: Project, signature: str, verdict: str
) -> None:
    name = f"signed-{signature}"
    npm.publish(packed.pack(name, "1.0.0"), signature=signature)
    assert npm_project.install({name: "1.0.0"}).succeeded
    audited = audit_signatures(npm_project)
    assert audited.succeeded == (signature == "good"), audited.output
    assert verdict in audited.flat


def test_corepack_prepares_a_package_manager_whose_signature_it_checks(
    mirror: Edge, npm: FakeNpm, packed: Tarballs, tmp_path: Path
) -> None:
    files = {"bin/pnpm.cjs": "console.log('a pnpm made for a test')\n"}
    npm.publish(packed.pack("pnpm", "10.99.0", files=files, members={"bin": {"pnpm": "bin/pnpm.cjs"}}))
    prepared = corepack(tmp_path, mirror.index_url, "prepare", "pnpm@10.99.0", "--activate", keys=npm.keys_json())
    assert prepared.succeeded, prepared.output
    ran = corepack(tmp_path, mirror.index_url, "pnpm", "--version", keys=npm.keys_json())
    assert "a pnpm made for a test" in ran.output


# ---- what must not pass ----------------------------------------------------------------------------------------------


def with_token(client: Client, directory: Path, mirror: Edge) -> Project:
    place = mirror.index_url.removeprefix("http:")
    if client is YARN4:
        return client.project(directory, mirror.index_url, settings={"npmAuthToken": TOKEN, "npmAlwaysAuth": True})
    if client is BUN:
        project = client.project(directory, mirror.index_url)
        (project.path / "bunfig.toml").write_text(f'[install]\nregistry = {{ url = "{mirror.index_url}", token = "{TOKEN}" }}\n')
        return project
    if client is YARN1:
        project = client.project(directory, mirror.index_url, settings={"always-auth": True})
        (project.path / ".npmrc").write_text(f"registry={mirror.index_url}\n{place}:_authToken={TOKEN}\nalways-auth=true\n")
        return project
    return client.project(directory, mirror.index_url, settings={f"{place}:_authToken": TOKEN})


PUBLISHING: Sequence[tuple[Client, Sequence[str]]] = [
    (NPM, ["publish"]),
    (PNPM, ["publish", "--no-git-checks"]),
    (YARN1, ["publish", "--new-version", "1.0.1"]),
    (YARN4, ["npm", "publish"]),
    (BUN, ["publish"]),
]


@pytest.mark.parametrize(("client", "words"), PUBLISHING, ids=[client.name for client, _ in PUBLISHING])
def test_publishing_is_refused_and_the_token_goes_nowhere(
    mirror: Edge, npm: FakeNpm, client: Client, words: Sequence[str], tmp_path: Path
) -> None:
    project = with_token(client, tmp_path, mirror)
    assert project.run("install").succeeded
    npm.forget()
    manifest = {"name": "consumer", "version": "1.0.0", "publishConfig": {"registry": mirror.index_url}}
    (project.path / "package.json").write_text(json.dumps(manifest))
    published = project.run(*words)
    assert not published.succeeded, published.output
    assert "403" in published.output or "read-only mirror" in published.flat, published.output
    if client is NPM:
        assert "read-only mirror" in published.flat, published.output
    assert npm.count(kind="write") == 0
    assert TOKEN not in mirror.log.read_text()


@each_client
def test_a_client_s_token_is_not_passed_on_when_it_installs(
    mirror: Edge, npm: FakeNpm, packed: Tarballs, client: Client, tmp_path: Path, project: str
) -> None:
    npm.publish(packed.pack(f"@farm/{project}", "1.0.0"))
    npm.forget()
    done = with_token(client, tmp_path, mirror).install({f"@farm/{project}": "1"})
    assert done.succeeded, done.output
    assert (npm.count(kind="packument"), npm.count(kind="tarball")) == (1, 1)
    for seen in npm.seen():
        names = {name for name, _ in seen.headers}
        assert not names & {"authorization", "npm-session", "npm-command", "npm-auth-type", "cookie"}, seen
        assert not {name for name in names if name.startswith("pacote-")}, seen
        assert all(TOKEN not in value for _, value in seen.headers), seen
    assert TOKEN not in mirror.log.read_text()


# ---- pinned keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signatures", ["check", "require"])
def test_what_the_pinned_keys_do_not_vouch_for_is_not_delivered(
    npm: FakeNpm, packed: Tarballs, scratch: Path, project: str, tmp_path: Path, signatures: str
) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(npm.keys_json())
    ways = {"good": True, "tampered": False, "unknown": False, "expired": False, "none": signatures == "check"}
    for how in ways:
        npm.publish(packed.pack(f"{project}-{how}", "1.0.0"), signature=how)
    swapped = packed.pack(f"{project}-good", "1.0.0", seed="evil")
    with start_mirror(npm, scratch, registry={"keys": str(keys), "signatures": signatures}) as edge:
        for how, delivered in ways.items():
            one = packed.pack(f"{project}-{how}", "1.0.0")
            reply = edge.ask(f"/npm/{one.target}")
            assert (reply.status == 200) == delivered, (how, reply.status, reply.reason)
            assert delivered or reply.status in {403, 502}, how
            if delivered:
                wait_until(lambda one=one: holds(edge, one))  # type: ignore[misc]
            assert holds(edge, one) == delivered
        refused = NPM.project(tmp_path / "refused", edge.index_url, retries=0).install({f"{project}-tampered": "1.0.0"})
        assert not refused.succeeded
        assert "signature" in refused.flat, refused.output
    # Tarball and integrity exchanged together, as whoever controls the registry's front could, but not its key.
    npm.replace(swapped, listed=True, signed=False)
    with start_mirror(npm, scratch, registry={"keys": str(keys)}) as edge:
        reply = edge.ask(f"/npm/{swapped.target}")
        assert reply.status in {403, 502}
        assert "signature" in reply.json()["error"]
        assert not edge.blobs()
