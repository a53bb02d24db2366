"""One rule, everywhere: what it refuses is delivered on no path, to no client, out of no cache; and it comes back when the rule goes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes import FakePyPI
from tests.harness import PDM, PIP, POETRY, UV, Client, Edge, Reply, Rule, Workspace, wait_until
from tests.wheels import KB, MB, Distribution, Shelf

JSON = "application/vnd.pypi.simple.v1+json"

REASON = "steals cookies; ask security about ticket 4711"

AT_ONCE_S = 1.0
"""How long a rule may take to reach every path."""

SOON_S = 5.0
"""The same on a machine that others keep busy."""


@dataclass(frozen=True)
class Release:
    """Two releases of one project, the second of which the rule refuses."""

    good: Distribution
    evil: Distribution

    @property
    def rule(self) -> Rule:
        return Rule(f"pkg:pypi/{self.evil.project}@>=2", REASON, "no-evil")


@pytest.fixture
def release(fake: FakePyPI, shelf: Shelf, project: str) -> Release:
    """Sizes on both sides of what is held back whole."""
    both = Release(shelf.wheel(project, "1.0"), shelf.wheel(project, "2.0", size=2 * MB))
    fake.publish(both.good, both.evil, provenance=True)
    return both


@pytest.fixture(autouse=True)
def no_rule_stays(edge: Edge, fake: FakePyPI) -> Iterator[None]:
    yield
    fake.behave()
    edge.set_rules()


def entry(edge: Edge, one: Distribution) -> dict[str, object]:
    files = edge.page(one.project).json()["files"]
    (found,) = [file for file in files if file["filename"] == one.filename]
    return dict(found)


PATHS: dict[str, Callable[[Edge, Distribution], Reply]] = {
    "get": lambda edge, one: edge.file(one),
    "head": lambda edge, one: edge.ask(edge.file_path(one), method="HEAD"),
    "range": lambda edge, one: edge.file(one, Range="bytes=0-99"),
    "suffix range": lambda edge, one: edge.file(one, Range="bytes=-99"),
    "if-range": lambda edge, one: edge.file(one, Range="bytes=5-", If_Range=f'"sha256-{one.sha256}"'),
    "not modified": lambda edge, one: edge.file(one, If_None_Match=f'"sha256-{one.sha256}"'),
    "metadata": lambda edge, one: edge.file(one, ".metadata"),
    "metadata not modified": lambda edge, one: edge.file(one, ".metadata", If_None_Match=f'"sha256-{one.metadata_sha256}"'),
    "provenance": lambda edge, one: edge.ask(f"/pypi/integrity/{one.project}/{one.version}/{one.filename}/provenance"),
    "encoded": lambda edge, one: edge.ask(edge.file_path(one).replace("-2.0", "%2D2.0")),
    "query": lambda edge, one: edge.ask(edge.file_path(one) + "?x=1"),
}


@pytest.mark.parametrize("state", ["never fetched", "held by the edge"])
@pytest.mark.parametrize("path", PATHS)
def test_no_path_delivers_a_refused_file(edge: Edge, release: Release, path: str, state: str) -> None:
    if state == "held by the edge":
        for one in PATHS.values():
            one(edge, release.evil)
        assert edge.file(release.evil).status == 200
    edge.set_rules(release.rule)
    refused = PATHS[path]
    wait_until(lambda: refused(edge, release.evil).status == 403, SOON_S)
    for _ in range(3):
        reply = refused(edge, release.evil)
        assert reply.status == 403
        assert REASON in reply.reason
        if path != "head":
            document = reply.json()
            assert reply.headers["content-type"] == "application/problem+json"
            assert document["status"] == 403
            assert REASON in document["detail"]
            assert isinstance(document["error"], str)
            assert isinstance(document["message"], str)
    assert edge.file(release.good).status == 200
    edge.set_rules()
    wait_until(lambda: refused(edge, release.evil).status in {200, 206, 304}, SOON_S)


@pytest.mark.alone
def test_the_page_lists_it_yanked_with_the_reason_within_a_second_on_the_hot_path_too(edge: Edge, release: Release) -> None:
    before: dict[tuple[str, str], Reply] = {}
    variants = [(accept, coding) for accept in (JSON, "text/html") for coding in ("identity", "gzip")]
    for _ in range(3):
        for accept, coding in variants:
            before[accept, coding] = edge.page(release.evil.project, accept, Accept_Encoding=coding)

    def unchanged(accept: str, coding: str) -> bool:
        tag = before[accept, coding].headers["etag"]
        return edge.page(release.evil.project, accept, Accept_Encoding=coding, If_None_Match=tag).status == 304

    assert all(unchanged(*variant) for variant in variants)
    edge.set_rules(release.rule)
    began = time.monotonic()
    wait_until(lambda: not any(unchanged(*variant) for variant in variants) and edge.file(release.evil).status == 403, AT_ONCE_S)
    print(f"the rule reached the hot path after {time.monotonic() - began:.3f} s")
    assert entry(edge, release.evil)["yanked"] == REASON
    assert entry(edge, release.good)["yanked"] is False
    assert REASON in edge.page(release.evil.project, "text/html").content.decode()
    edge.set_rules()
    wait_until(lambda: all(unchanged(*variant) for variant in variants), AT_ONCE_S)
    assert entry(edge, release.evil)["yanked"] is False


def test_legacy_json_does_not_offer_it_either(edge: Edge, release: Release) -> None:
    name = release.evil.project
    edge.set_rules(release.rule)
    wait_until(lambda: edge.file(release.evil).status == 403, SOON_S)
    for path in (f"/pypi/pypi/{name}/json", f"/pypi/pypi/{name}/2.0/json"):
        reply = edge.ask(path)
        if reply.status == 403:
            assert REASON in reply.reason
            continue
        assert reply.status == 200
        document = reply.json()
        offered = document["urls"] + [file for files in document.get("releases", {}).values() for file in files]
        for file in offered:
            if file["filename"] == release.evil.filename:
                assert file["yanked"] is True
                assert file["yanked_reason"] == REASON
    edge.set_rules()


def test_an_invalid_edit_keeps_the_last_rules_and_says_so(edge: Edge, release: Release) -> None:
    edge.set_rules(release.rule)
    wait_until(lambda: edge.file(release.evil).status == 403, SOON_S)
    edge.set_rules(Rule("this is no purl", "…"))
    wait_until(lambda: edge.metric("leeward_rules_invalid") == 1, 2)
    assert edge.file(release.evil).status == 403
    edge.set_rules()
    wait_until(lambda: edge.file(release.evil).status == 200, SOON_S)
    assert edge.metric("leeward_rules_invalid") == 0


def test_a_rule_holds_from_the_first_request_after_a_restart(edge: Edge, release: Release) -> None:
    assert edge.file(release.evil).status == 200
    edge.set_rules(release.rule)
    edge.restart()
    assert edge.file(release.evil).status == 403
    edge.set_rules()
    wait_until(lambda: edge.file(release.evil).status == 200, SOON_S)


def test_a_refused_file_is_never_asked_of_upstream(fake: FakePyPI, edge: Edge, release: Release) -> None:
    edge.set_rules(release.rule)
    wait_until(lambda: edge.file(release.evil).status == 403, SOON_S)
    fake.forget()
    for ask in PATHS.values():
        ask(edge, release.evil)
    assert fake.count(path=f"*/{release.evil.filename}*") == 0
    edge.set_rules()


def test_bytes_that_are_still_arriving_are_refused_too(fake: FakePyPI, edge: Edge, release: Release) -> None:
    gate = fake.misbehave(f"*/{release.evil.filename}", gate=1 * MB)
    # A range in the part already released: answered while the rest is still arriving.
    assert edge.file(release.evil, Range="bytes=0-99").status == 206
    edge.set_rules(release.rule)
    wait_until(lambda: edge.file(release.evil, Range="bytes=0-99").status == 403, SOON_S)
    fake.behave(gate)
    edge.set_rules()
    wait_until(lambda: edge.file(release.evil).status == 200, SOON_S)


# ---- clients ---------------------------------------------------------------------------------------------------------

STATES = ["fresh", "edge holds it", "client caches it"]


@pytest.fixture
def refused(edge: Edge, release: Release, workspace: Workspace, request: pytest.FixtureRequest) -> Release:
    """The rule in force, after the state under test was brought about."""
    client: Client
    state, client = request.param
    if state == "edge holds it":
        edge.page(release.evil.project)
        edge.file(release.evil, ".metadata")
        assert edge.file(release.evil).status == 200
    if state == "client caches it":
        result = client.install(workspace, edge.index_url, [release.evil.project])
        assert result.installed == {release.evil.project: "2.0"}, result.output
    edge.set_rules(release.rule)
    wait_until(lambda: edge.file(release.evil).status == 403, SOON_S)
    return release


def states(*clients: Client) -> pytest.MarkDecorator:
    # pdm takes its seconds; its resolver sees the page and nothing else.
    cases = [(state, client) for client in clients for state in STATES if client is not PDM or state == "fresh"]
    ids = [f"{client.name}, {state}" for state, client in cases]
    return pytest.mark.parametrize(("refused", "client"), [(case, case[1]) for case in cases], indirect=["refused"], ids=ids)


@states(PIP, UV, POETRY, PDM)
def test_a_range_resolves_to_the_next_allowed_version(edge: Edge, refused: Release, client: Client, workspace: Workspace) -> None:
    project = refused.evil.project
    result = client.install(workspace, edge.index_url, [f"{project}>=1"])
    assert result.succeeded, result.output
    assert result.installed == {project: "1.0"}
    edge.set_rules()


@states(PIP, UV, POETRY)
def test_an_exact_pin_fails_with_the_reason(edge: Edge, refused: Release, client: Client, workspace: Workspace) -> None:
    workspace.empty_cache()  # what a client keeps for itself no mirror can take away: here it must ask
    options = ["--retries", "0"] if client is PIP else []
    result = client.install(workspace, edge.index_url, [refused.evil.pin], options=options)
    assert not result.succeeded
    assert result.installed == {}
    assert REASON in result.flat, result.output
    edge.set_rules()


@pytest.mark.parametrize(
    ("client", "held"),
    [(PIP, False), (PIP, True), (UV, False), (UV, True), (POETRY, False), (POETRY, True), (PDM, True)],
    ids=lambda value: ("held" if value else "fresh") if isinstance(value, bool) else value.name,
)
def test_a_pin_with_hashes_fails_with_the_reason(
    edge: Edge, release: Release, client: Client, workspace: Workspace, held: bool, scratch: Path
) -> None:
    project = release.evil.project
    if client in {POETRY, PDM}:
        locked = client.lock(workspace, edge.index_url, [release.evil.pin])
        assert locked.succeeded, locked.output
        workspace.empty_cache()
    if held:
        assert edge.file(release.evil).status == 200
    edge.set_rules(release.rule)
    wait_until(lambda: edge.file(release.evil).status == 403, SOON_S)
    result = client.install(workspace, edge.index_url, [release.evil.pin], hashes=[release.evil])
    assert not result.succeeded
    assert result.installed == {}
    assert REASON in result.flat, result.output
    edge.set_rules()
    wait_until(lambda: edge.file(release.evil).status == 200, SOON_S)
    again = Workspace(Path(tempfile.mkdtemp(dir=scratch)))
    assert PIP.install(again, edge.index_url, [], hashes=[release.evil]).installed == {project: "2.0"}


@pytest.mark.parametrize("client", [PIP, UV, POETRY], ids=lambda client: client.name)
def test_a_whole_project_can_be_refused(edge: Edge, release: Release, client: Client, workspace: Workspace) -> None:
    edge.set_rules(Rule(f"pkg:pypi/{release.evil.project}", REASON))
    wait_until(lambda: edge.file(release.good).status == edge.file(release.evil).status == 403, SOON_S)
    result = client.install(
        workspace, edge.index_url, [release.evil.project], options=["--retries", "0"] if client is PIP else []
    )
    assert not result.succeeded
    assert result.installed == {}
    edge.set_rules()


def test_local_versions_and_other_spellings_do_not_slip_through(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str) -> None:
    evil = [shelf.wheel(project, version, size=1 * KB) for version in ("2.0", "2.0.post1", "2.0+local", "2.1rc1", "2.0.0.0")]
    fake.publish(shelf.wheel(project, "1.0"), *evil)
    spelt_oddly = project.upper().replace("-", "_")
    edge.set_rules(Rule(f"pkg:pypi/{spelt_oddly}@>=2.0,<3", REASON))
    wait_until(lambda: edge.file(evil[0]).status == 403, SOON_S)
    assert [edge.file(one).status for one in evil] == [403] * len(evil)
    assert edge.file(shelf.wheel(project, "1.0")).status == 200
    edge.set_rules()
