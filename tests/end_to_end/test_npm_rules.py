"""One rule before npm's clients: what it refuses reaches none of them, by no path and out of no cache; without the rule it comes back.

What each client prints when the version it must have is refused. The page no longer has the version, which npm alone looks up in
``policyRestrictions``; of an answer with a status most print the reason phrase (protocols/npm.md, section 8):

======  =======================================  ================================  ================================
client  exact version, others left               from a lock: the tarball is 403   whole package: the page is 403
======  =======================================  ================================  ================================
npm     the reason                               the reason                        the reason
pnpm    "No matching version found", and what    the reason                        the reason
        the latest is
yarn 1  "Couldn't find any versions … matches"   "403 Forbidden", by the status's  the reason (``error``)
                                                 number alone
yarn 4  "No candidates found"                    the reason                        the reason
bun     "No version matching … found"            "GET … - 403"                     "GET … - 403"
======  =======================================  ================================  ================================

pnpm, yarn 4 and bun take an exact version that their own caches hold without a request, and every client a locked tarball: what a client
keeps for itself no mirror can take away. Those tests empty the client's cache first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests import npm_stage
from tests.fakes import FakeNpm
from tests.harness import Edge, Reply, Rule, wait_until
from tests.node import PNPM, Client, Project
from tests.npm_stage import FULL, SHORT, each_client, escaped, page, tarball
from tests.tarballs import Tarball, Tarballs
from tests.wheels import MB

npm, mirror, packed, client_project = npm_stage.npm, npm_stage.mirror, npm_stage.packed, npm_stage.client_project

REASON = "steals cookies; ask security about ticket 4711"

AT_ONCE_S = 1.0
"""How long a rule may take to reach every path."""

SOON_S = 5.0
"""The same on a machine that others keep busy."""


@dataclass(frozen=True)
class Release:
    """Three versions of one package, the last of which, the latest and ``next``, the rule refuses."""

    old: Tarball
    good: Tarball
    evil: Tarball

    @property
    def name(self) -> str:
        return self.evil.name

    @property
    def rule(self) -> Rule:
        return Rule(f"pkg:npm/{self.name}@>=2", REASON, "no-evil")

    @property
    def whole(self) -> Rule:
        return Rule(f"pkg:npm/{self.name}", REASON, "nothing-of-it")


def published(npm: FakeNpm, packed: Tarballs, name: str, size: int = 0) -> Release:
    release = Release(packed.pack(name, "1.0.0"), packed.pack(name, "1.1.0"), packed.pack(name, "2.0.0", size=size))
    npm.publish(release.old, time="2024-01-01T00:00:00.000Z")
    npm.publish(release.good, time="2024-02-01T00:00:00.000Z")
    npm.publish(release.evil, time="2024-03-01T00:00:00.000Z", tags=["latest", "next"], provenance=True)
    return release


@pytest.fixture
def release(npm: FakeNpm, packed: Tarballs, project: str) -> Release:
    """In a scope, for its many spellings."""
    return published(npm, packed, f"@farm/{project}", 1 * MB)


@pytest.fixture(autouse=True)
def no_rule_stays(mirror: Edge, npm: FakeNpm) -> Iterator[None]:
    yield
    npm.behave()
    mirror.set_rules()


def impose(mirror: Edge, release: Release, rule: Rule | None = None) -> None:
    mirror.set_rules(rule or release.rule)
    wait_until(lambda: tarball(mirror, release.evil).status == 403, SOON_S)


def lift(mirror: Edge, release: Release) -> None:
    mirror.set_rules()
    wait_until(lambda: tarball(mirror, release.evil).status == 200, SOON_S)


# ---- every path ------------------------------------------------------------------------------------------------------


def at(path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Callable[[Edge, Tarball], Reply]:
    """Ask for a path in which ``{name}``, ``{flat}`` (its scope escaped), ``{file}``, ``{etag}`` and ``{stem}`` stand for the tarball's."""

    def ask(edge: Edge, one: Tarball) -> Reply:
        known = {
            "name": one.name,
            "flat": escaped(one.name),
            "upper": one.name.replace("/", "%2F"),
            "escaped": one.name.replace("@", "%40").replace("/", "%2f"),
            "file": one.filename,
            "version": one.version,
            "etag": f'"sha256-{one.sha256}"',
        }
        fields = {name: value.format(**known) for name, value in (headers or {}).items()}
        return edge.ask(path.format(**known), fields, method)

    return ask


CLOSED: dict[str, Callable[[Edge, Tarball], Reply]] = {
    "tarball": at("/npm/{name}/-/{file}"),
    "tarball, head": at("/npm/{name}/-/{file}", method="HEAD"),
    "tarball, range": at("/npm/{name}/-/{file}", {"Range": "bytes=0-99"}),
    "tarball, suffix range": at("/npm/{name}/-/{file}", {"Range": "bytes=-99"}),
    "tarball, if-range": at("/npm/{name}/-/{file}", {"Range": "bytes=5-", "If-Range": "{etag}"}),
    "tarball, not modified": at("/npm/{name}/-/{file}", {"If-None-Match": "{etag}"}),
    "tarball, escaped": at("/npm/{flat}/-/{file}"),
    "tarball, escaped in capitals": at("/npm/{upper}/-/{file}"),
    "tarball, the scope's sign escaped": at("/npm/{escaped}/-/{file}"),
    "tarball, with a query": at("/npm/{name}/-/{file}?x=1"),
    "tarball, prefix lost": at("/{name}/-/{file}"),
    "tarball, prefix lost, escaped": at("/{flat}/-/{file}"),
    "tarball, prefix doubled": at("/npm/npm/{name}/-/{file}"),
    "tarball, prefix doubled, escaped": at("/npm/npm/{flat}/-/{file}"),
    "manifest": at("/npm/{flat}/{version}"),
    "manifest, head": at("/npm/{flat}/{version}", method="HEAD"),
    "attestations": at("/npm/-/npm/v1/attestations/{flat}@{version}"),
    "attestations, literal": at("/npm/-/npm/v1/attestations/{name}@{version}"),
}


@pytest.mark.parametrize("state", ["never fetched", "held by the edge"])
def test_no_path_delivers_a_refused_version(mirror: Edge, npm: FakeNpm, release: Release, state: str) -> None:
    if state == "held by the edge":
        for path, asked in CLOSED.items():
            assert asked(mirror, release.evil).status in {200, 206, 304}, path
    impose(mirror, release)
    npm.forget()
    for path, refused in CLOSED.items():
        wait_until(lambda refused=refused: refused(mirror, release.evil).status == 403, SOON_S)  # type: ignore[misc]
        for _ in range(2):
            reply = refused(mirror, release.evil)
            assert reply.status == 403, path
            assert REASON in reply.reason, path
            if "head" not in path:
                document = reply.json()
                assert REASON in document["error"], path
                assert REASON in document["message"], path
                assert REASON in document["detail"], path
    assert npm.count(path=f"*{release.evil.filename}*") == 0
    assert tarball(mirror, release.good).status == 200
    mirror.set_rules()
    for path, allowed in CLOSED.items():
        wait_until(lambda allowed=allowed: allowed(mirror, release.evil).status in {200, 206, 304}, SOON_S)  # type: ignore[misc]
        assert "head" in path or b"ticket 4711" not in allowed(mirror, release.evil).body


def latest(mirror: Edge, name: str) -> str:
    return str(mirror.ask(f"/npm/-/package/{escaped(name)}/dist-tags").json()["latest"])


@pytest.mark.parametrize("state", ["never fetched", "held by the edge"])
def test_pages_lack_a_refused_version_and_their_tags_are_repaired(mirror: Edge, release: Release, state: str) -> None:
    name = release.name
    if state == "held by the edge":
        assert "2.0.0" in page(mirror, name).json()["versions"]
        assert tarball(mirror, release.evil).status == 200
    impose(mirror, release)
    for headers in (FULL, SHORT):
        reply = page(mirror, name, headers)
        assert reply.status == 200
        document = reply.json()
        assert list(document["versions"]) == ["1.0.0", "1.1.0"]
        assert document["dist-tags"] == {"latest": "1.1.0"}
        assert "2.0.0" not in document.get("time", {})
        restrictions = document["policyRestrictions"]
        assert REASON in restrictions["message"]
        assert list(restrictions["versions"]) == ["2.0.0"]
        assert "dist" not in restrictions["versions"]["2.0.0"]
        assert REASON in reply.headers["npm-notice"]
        assert mirror.ask(f"/npm/{escaped(name)}", headers, "HEAD").headers["etag"] == reply.headers["etag"]
    assert mirror.ask(f"/npm/-/package/{name}/dist-tags").json() == {"latest": "1.1.0"}
    assert mirror.ask(f"/npm/{escaped(name)}/latest").json()["version"] == "1.1.0"
    assert mirror.ask(f"/npm/{escaped(name)}/next").status in {403, 404}
    found = mirror.ask(f"/npm/-/v1/search?text={name.rpartition('/')[2]}").json()
    assert (name, "2.0.0") not in {(one["package"]["name"], one["package"]["version"]) for one in found["objects"]}
    lift(mirror, release)
    wait_until(lambda: latest(mirror, name) == "2.0.0", SOON_S)
    assert mirror.ask(f"/npm/{escaped(name)}/next").json()["version"] == "2.0.0"
    assert "policyRestrictions" not in page(mirror, name, FULL).json()


def test_a_package_of_which_all_is_refused_is_403_on_every_path(mirror: Edge, release: Release) -> None:
    impose(mirror, release, release.whole)
    paths = [f"/npm/{escaped(release.name)}", f"/npm/{release.name}/1.0.0", f"/npm/-/package/{release.name}/dist-tags"]
    for path in [*paths, f"/npm/{escaped(release.name)}/latest", f"/npm/{release.old.target}"]:
        wait_until(lambda path=path: mirror.ask(path, SHORT).status == 403, SOON_S)  # type: ignore[misc]
        assert REASON in mirror.ask(path, SHORT).json()["error"]
    lift(mirror, release)
    assert page(mirror, release.name).status == 200


@pytest.mark.alone
def test_a_rule_reaches_the_hot_path_within_a_second_and_leaves_it_as_fast(mirror: Edge, release: Release) -> None:
    name = release.name
    variants = [(form["Accept"], coding) for form in (FULL, SHORT) for coding in ("identity", "gzip")]
    before: dict[tuple[str, str], Reply] = {}
    for _ in range(3):
        for accept, coding in variants:
            before[accept, coding] = page(mirror, name, {"Accept": accept}, Accept_Encoding=coding)
    assert tarball(mirror, release.evil).status == 200

    def unchanged(accept: str, coding: str) -> bool:
        tag = before[accept, coding].headers["etag"]
        return page(mirror, name, {"Accept": accept}, Accept_Encoding=coding, If_None_Match=tag).status == 304

    assert all(unchanged(*variant) for variant in variants)
    mirror.set_rules(release.rule)
    began = time.monotonic()
    wait_until(
        lambda: not any(unchanged(*variant) for variant in variants) and tarball(mirror, release.evil).status == 403, AT_ONCE_S
    )
    print(f"the rule reached the hot path after {time.monotonic() - began:.3f} s")
    restricted = {variant: page(mirror, name, {"Accept": variant[0]}, Accept_Encoding=variant[1]) for variant in variants}
    assert all("2.0.0" not in reply.json()["versions"] for reply in restricted.values())
    mirror.set_rules()
    wait_until(
        lambda: (
            tarball(mirror, release.evil).status == 200
            and all("2.0.0" in page(mirror, name, {"Accept": accept}).json()["versions"] for accept, _ in variants)
        ),
        AT_ONCE_S,
    )


def test_a_rule_change_defeats_conditions_by_date(mirror: Edge, release: Release) -> None:
    """pnpm sends the date out of the page it holds: what changed by a rule must not be 304 because upstream's page is old."""
    before = page(mirror, release.name)
    modified, tag = before.headers["last-modified"], before.headers["etag"]
    assert page(mirror, release.name, If_Modified_Since=modified).status == 304
    impose(mirror, release)
    after = page(mirror, release.name, If_Modified_Since=modified)
    assert after.status == 200
    assert after.headers["last-modified"] != modified
    assert after.json()["modified"] > before.json()["modified"]
    assert page(mirror, release.name, If_None_Match=tag, If_Modified_Since=after.headers["last-modified"]).status == 200
    assert page(mirror, release.name, If_Modified_Since=after.headers["last-modified"]).status == 304
    again = page(mirror, release.name, FULL)
    assert again.json()["time"]["modified"] == after.json()["modified"]
    lift(mirror, release)
    wait_until(lambda: page(mirror, release.name, If_Modified_Since=after.headers["last-modified"]).status == 200, SOON_S)


def test_a_rule_holds_from_the_first_request_after_a_restart(mirror: Edge, release: Release) -> None:
    assert tarball(mirror, release.evil).status == 200
    mirror.set_rules(release.rule)
    mirror.restart()
    assert tarball(mirror, release.evil).status == 403
    assert "2.0.0" not in page(mirror, release.name).json()["versions"]
    lift(mirror, release)


def test_other_spellings_of_a_rule_and_of_versions_do_not_slip_through(
    mirror: Edge, npm: FakeNpm, packed: Tarballs, project: str
) -> None:
    name = f"@farm/{project}"
    evil = [packed.pack(name, version) for version in ("2.0.0", "2.0.1-beta.1", "2.1.0+build.5", "3.0.0")]
    npm.publish(packed.pack(name, "1.0.0"), *evil)
    mirror.set_rules(Rule(f"pkg:npm/%40farm/{project}@>=2.0.0-0", REASON))
    wait_until(lambda: tarball(mirror, evil[0]).status == 403, SOON_S)
    assert [tarball(mirror, one).status for one in evil] == [403] * len(evil)
    assert list(page(mirror, name).json()["versions"]) == ["1.0.0"]


# ---- clients ---------------------------------------------------------------------------------------------------------

STATES = ["never fetched", "held by the edge", "kept by the client"]

PINNED: Mapping[str, str] = {
    "npm": REASON,
    "pnpm": 'The latest release of {name} is "1.1.0"',
    "yarn1": 'Couldn\'t find any versions for "{name}" that matches "2.0.0"',
    "yarn4": "{name}@npm:2.0.0: No candidates found",
    "bun": 'No version matching "2.0.0" found for specifier "{name}"',
}
LOCKED: Mapping[str, str] = {
    "npm": REASON,
    "pnpm": REASON,
    "yarn1": 'Request failed "403 Forbidden"',
    "yarn4": REASON,
    "bun": "{file} - 403",
}
WHOLE: Mapping[str, str] = {"npm": REASON, "pnpm": REASON, "yarn1": REASON, "yarn4": REASON, "bun": "{name} - 403"}


def told(by: Mapping[str, str], client: Client, release: Release) -> str:
    return by[client.name].format(name=release.name, file=release.evil.filename)


@pytest.mark.parametrize("state", STATES)
@each_client
def test_a_range_resolves_lower_and_an_exact_version_is_refused(
    mirror: Edge, npm: FakeNpm, packed: Tarballs, client_project: Project, client: Client, project: str, state: str
) -> None:
    release = published(npm, packed, project if state == "never fetched" else f"@farm/{project}")
    name = release.name
    if state == "held by the edge":
        assert tarball(mirror, release.evil).status == 200
        assert page(mirror, name).status == page(mirror, name, FULL).status == 200
    if state == "kept by the client":
        assert client_project.install({name: ">=1"}).installed == {f"{name}@2.0.0"}
    impose(mirror, release)

    ranged = client_project.install({name: ">=1"})
    assert ranged.installed == {f"{name}@1.1.0"}, ranged.output

    if state == "kept by the client" and client.name in {"pnpm", "yarn4", "bun"}:
        client_project.empty_cache()
    pinned = client_project.install({name: "2.0.0"})
    assert not pinned.succeeded
    assert not pinned.installed & {f"{name}@2.0.0"}
    assert told(PINNED, client, release) in pinned.flat, pinned.output

    lift(mirror, release)
    wait_until(lambda: "2.0.0" in page(mirror, name).json()["versions"], SOON_S)
    again = client_project.install({name: "2.0.0"})
    assert again.installed == {f"{name}@2.0.0"}, again.output


@pytest.mark.parametrize("state", ["never fetched", "held by the edge"])
@each_client
def test_a_lock_that_names_a_refused_version_installs_nothing(
    mirror: Edge, npm: FakeNpm, packed: Tarballs, client_project: Project, client: Client, project: str, state: str
) -> None:
    release = published(npm, packed, project if state == "never fetched" else f"@farm/{project}")
    elsewhere = client.project(client_project.directory / "elsewhere", npm.registry_url)
    assert elsewhere.install({release.name: "2.0.0"}).succeeded
    client_project.write_manifest({release.name: "2.0.0"})
    client_project.lock_path.write_text(elsewhere.lock.replace(npm.registry_url, mirror.index_url))
    if state == "held by the edge":
        assert tarball(mirror, release.evil).status == 200
    impose(mirror, release)

    refused = client_project.ci()
    assert not refused.succeeded
    assert refused.installed == set()
    assert told(LOCKED, client, release) in refused.flat, refused.output

    lift(mirror, release)
    again = client_project.ci()
    assert again.installed == {f"{release.name}@2.0.0"}, again.output


@each_client
def test_a_whole_package_can_be_refused(
    mirror: Edge, npm: FakeNpm, packed: Tarballs, client_project: Project, client: Client, project: str
) -> None:
    release = published(npm, packed, project)
    impose(mirror, release, release.whole)
    wait_until(lambda: page(mirror, release.name).status == 403, SOON_S)
    refused = client_project.install({release.name: ">=1"})
    assert not refused.succeeded
    assert refused.installed == set()
    assert told(WHOLE, client, release) in refused.flat, refused.output
    lift(mirror, release)
    again = client_project.install({release.name: ">=1"})
    assert again.installed == {f"{release.name}@2.0.0"}, again.output


def test_pnpm_is_not_told_that_nothing_changed_after_a_rule(
    mirror: Edge, npm: FakeNpm, packed: Tarballs, project: str, scratch: Any
) -> None:
    """A page once in pnpm's store must not stay there behind answers that say 304 to its date."""
    release = published(npm, packed, project)
    at_mirror = PNPM.project(scratch / project, mirror.index_url)
    assert at_mirror.install({project: ">=1"}).installed == {f"{project}@2.0.0"}
    for rule, version in ((release.rule, "1.1.0"), (Rule(f"pkg:npm/{project}@>=1.1", REASON), "1.0.0")):
        mirror.set_rules(rule)
        wait_until(lambda version=version: latest(mirror, project) == version, SOON_S)  # type: ignore[misc]
        assert at_mirror.install({project: ">=1"}).installed == {f"{project}@{version}"}
    lift(mirror, release)
    wait_until(lambda: latest(mirror, project) == "2.0.0", SOON_S)
    assert at_mirror.install({project: ">=1"}).installed == {f"{project}@2.0.0"}
