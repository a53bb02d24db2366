"""The npm clients and the fake npm registry understand each other, with nothing between them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import verdaccio_door, verdaccio_e2e
from tests.fakes.npm import FakeNpm
from tests.node import CLIENTS, NPM, PNPM, YARN4, Client, Project, audit_signatures, corepack
from tests.tarballs import Tarballs

WANTED = {"orchard": "^2.0.0", "@farm/apple": "1"}
TREE = {"orchard@2.1.0", "@farm/apple@1.5.0", "pear@1.2.7", "soil@3.1.0", "soil@4.0.0", "@farm/rain-water@0.2.0"}

each_client = pytest.mark.parametrize("client", CLIENTS, ids=[client.name for client in CLIENTS])


@pytest.fixture(scope="module")
def shelf(scratch: Path) -> Tarballs:
    return Tarballs(scratch / "tarballs")


@pytest.fixture(scope="module")
def registry(shelf: Tarballs) -> Iterator[FakeNpm]:
    """Holds what ``WANTED`` resolves to, ``TREE``, and what must be passed over for it."""
    with FakeNpm.start() as fake:
        fake.publish(
            shelf.pack("soil", "3.1.0"),
            shelf.pack("soil", "4.0.0"),
            shelf.pack("@farm/rain-water", "0.2.0", dependencies={"soil": "^4.0.0"}),
            shelf.pack("pear", "1.2.7", dependencies={"soil": "^3.0.0", "@farm/rain-water": "0.2.0"}),
            shelf.pack("pear", "1.3.0"),
            shelf.pack("@farm/apple", "1.5.0", dependencies={"soil": ">=3 <4"}, bin=["core"]),
            shelf.pack("@farm/apple", "2.0.0"),
            shelf.pack("orchard", "1.0.0"),
            shelf.pack("orchard", "2.1.0", dependencies={"@farm/apple": "^1.0.0", "pear": "~1.2.0"}),
        )
        fake.publish(shelf.pack("orchard", "3.0.0-beta.1"), tags=["next"])
        yield fake


@pytest.fixture
def project(client: Client, registry: FakeNpm, tmp_path: Path) -> Project:
    registry.forget()
    return client.project(tmp_path, registry.registry_url)


@each_client
def test_a_tree_installs_and_installs_again_from_its_lock(project: Project, registry: FakeNpm) -> None:
    first = project.install(WANTED)
    assert first.succeeded, first.output
    assert first.installed == TREE
    fetched = [seen.path.replace("%2f", "/") for seen in registry.seen(kind="tarball") if seen.status == 200]
    assert len(fetched) == len(set(fetched)) == len(TREE)

    registry.forget()
    project.empty_cache()
    again = project.ci()
    assert again.succeeded, again.output
    assert again.installed == TREE
    assert again.lock == first.lock
    assert len([seen for seen in registry.seen(kind="tarball") if seen.status == 200]) == len(TREE)


@each_client
def test_a_lock_that_no_longer_fits_is_refused(project: Project) -> None:
    assert project.install(WANTED).succeeded
    project.write_manifest(WANTED | {"pear": "1.3.0"})
    refused = project.ci()
    assert not refused.succeeded, refused.output
    assert "lock" in refused.output.lower()


@each_client
def test_packages_are_added_by_range_and_by_tag(project: Project) -> None:
    added = project.add("orchard@next", "@farm/apple@^1")
    assert added.succeeded, added.output
    assert added.installed == {"orchard@3.0.0-beta.1", "@farm/apple@1.5.0", "soil@3.1.0"}


@each_client
def test_nothing_but_the_registry_given_is_asked(project: Project, registry: FakeNpm) -> None:
    """Update checks and audits would show here, as telemetry would in a namespace without a network."""
    assert project.install(WANTED).succeeded
    assert {seen.kind for seen in registry.seen()} == {"packument", "tarball"}


@pytest.mark.parametrize("client", [NPM, PNPM, YARN4], ids=["npm", "pnpm", "yarn4"])
def test_a_registry_that_fails_is_asked_as_often_as_was_said(client: Client, registry: FakeNpm, tmp_path: Path) -> None:
    registry.forget()
    registry.misbehave("/soil", status=503)
    try:
        failed = client.project(tmp_path, registry.registry_url, retries=2).install({"soil": "*"})
    finally:
        registry.behave()
    assert not failed.succeeded
    assert registry.count(kind="packument") == 3


@pytest.mark.parametrize(("signature", "verdict"), [("good", "verified"), ("tampered", "invalid"), ("none", "missing")])
def test_npm_checks_signatures_with_the_registry_s_keys(
    registry: FakeNpm, shelf: Tarballs, tmp_path: Path, signature: str, verdict: str
) -> None:
    name = f"signed-{signature}"
    registry.publish(shelf.pack(name, "1.0.0"), signature=signature)
    project = NPM.project(tmp_path, registry.registry_url)
    assert project.install({name: "1.0.0"}).succeeded
    audited = audit_signatures(project)
    assert audited.succeeded == (signature == "good"), audited.output
    assert verdict in audited.flat


@pytest.mark.parametrize("trusted", ["the registry's key", "another key"])
def test_corepack_runs_what_the_registry_signed(registry: FakeNpm, shelf: Tarballs, tmp_path: Path, trusted: str) -> None:
    files = {"bin/pnpm.cjs": "console.log('a pnpm made for a test')\n"}
    registry.publish(shelf.pack("pnpm", "10.99.0", files=files, members={"bin": {"pnpm": "bin/pnpm.cjs"}}))
    keys = registry.keys_json()
    if trusted == "another key":
        keys = json.dumps({"keys": [key | {"keyid": "SHA256:another"} for key in json.loads(keys)["keys"]]})
    ran = corepack(tmp_path, registry.registry_url, "pnpm@10.99.0", "--version", keys=keys)
    assert ran.succeeded == (trusted == "the registry's key"), ran.output
    assert ("a pnpm made for a test" in ran.output) == ran.succeeded


def test_verdaccio_s_battery_publishes_and_reads_through_its_front(registry: FakeNpm, tmp_path: Path) -> None:
    (tmp_path / "published").mkdir()
    with verdaccio_door.opened(registry.registry_url, registry, tmp_path / "published") as url:
        report = verdaccio_e2e.run(url, tmp_path, tests=("ping", "install"), managers=("npm", "bun"))
    assert report.verdicts() == {
        "npm > install": "passed",
        "npm > ping": "passed",
        "bun > install": "passed",
        "bun > ping": "skipped",
    }, report.output
