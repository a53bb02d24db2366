"""An origin and its edges, with real processes: what one of them fetched is moments later on all, and outlives every loss of one."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.fakes import FakePyPI
from tests.fleet import SOON_S, Fleet, FleetEdge, arrivals, fleet, three_regions, told
from tests.harness import PIP, Rule, Workspace, ask, swallowing, wait_until
from tests.wheels import Distribution, Shelf

pytestmark = [pytest.mark.usefixtures("well_behaved"), pytest.mark.slow]

HOUR_S = 3600.0


@pytest.fixture(scope="module")
def regions(fake: FakePyPI, scratch: Path) -> Iterator[Fleet]:
    with three_regions(scratch, {"pypi": fake.index_url}) as made:
        yield made


@pytest.fixture
def made(fake: FakePyPI, scratch: Path) -> Iterator[Fleet]:
    """An origin of the test's own, and no edge yet."""
    with fleet(scratch, {"pypi": fake.index_url}) as made:
        yield made


def install(edge: FleetEdge, project: str) -> Mapping[str, str]:
    """``pip install`` at an edge by a client that has never installed anything."""
    with tempfile.TemporaryDirectory() as directory:
        done = PIP.install(Workspace(Path(directory)), edge.index_url, [project])
    assert done.succeeded, f"{done.output}\n{edge.log_tail()}"
    return done.installed


def tree(fake: FakePyPI, shelf: Shelf, project: str) -> list[Distribution]:
    """A project of two wheels, published."""
    leaf = shelf.wheel(f"{project}-leaf", "2.0", size=100_000)
    root = shelf.wheel(project, "1.0", requires=[f"{project}-leaf"], size=300_000)
    fake.publish(root, leaf)
    return [root, leaf]


def digests(distributions: list[Distribution]) -> set[str]:
    return {each.sha256 for each in distributions}


# ---- everywhere, moments later


def test_what_one_edge_installs_is_on_the_others_at_once_and_installs_there_with_the_registry_dead(
    regions: Fleet, fake: FakePyPI, shelf: Shelf, project: str
) -> None:
    made = tree(fake, shelf, project)
    expected = install(regions["a"], project)
    assert set(expected) == {project, f"{project}-leaf"}
    for name in "bc":
        regions[name].wait_holding(digests(made))
        regions[name].wait_level()
    fake.refuse()
    for name in "bc":
        assert install(regions[name], project) == expected


def test_files_under_a_megabyte_are_on_the_other_edges_within_a_second_and_all_within_five(
    regions: Fleet, fake: FakePyPI, shelf: Shelf, project: str
) -> None:
    wheels = [shelf.wheel(f"{project}-{n}", "1.0", size=20_000 + 45_000 * n) for n in range(20)]
    fake.publish(*wheels)
    for wheel in wheels:
        regions["a"].page(wheel.project)
    regions["a"].wait_level()
    times: list[float] = []
    for wheel in wheels:
        found = arrivals(regions, [wheel.sha256], "bc", lambda wheel=wheel: regions["a"].file(wheel))  # type: ignore[misc]
        times += [seconds for each in found.values() for seconds in each]
    print(f"from the request at A to the blob at B and C, {told(times)}")
    assert max(times) < SOON_S
    assert sorted(times)[len(times) // 2] < 1


def test_an_edge_that_joins_late_takes_in_what_the_origin_holds_and_serves_it_with_everything_else_dead(
    made: Fleet, fake: FakePyPI, shelf: Shelf, project: str
) -> None:
    a = made.edge("a")
    wanted = tree(fake, shelf, project)
    expected = install(a, project)
    late = made.edge("late")
    late.wait_holding(digests(wanted))
    late.wait_level()
    made.origin.kill()
    a.kill()
    fake.refuse()
    assert install(late, project) == expected
    late.restart()
    assert install(late, project) == expected


def test_what_several_edges_fetch_is_brought_to_those_that_want_what_is_popular(
    made: Fleet, fake: FakePyPI, shelf: Shelf, project: str
) -> None:
    a, b = made.edge("a", replicate={"mode": "none"}), made.edge("b", replicate={"mode": "none"})
    c = made.edge("c", replicate={"mode": "popular"})
    wanted = tree(fake, shelf, project)
    expected = install(a, project)
    time.sleep(SOON_S)
    assert not digests(wanted) & c.digests()
    install(b, project)
    c.wait_holding(digests(wanted), 15)
    c.wait_level()
    late = made.edge("late", replicate={"mode": "popular"})
    late.wait_holding(digests(wanted), 15)
    late.wait_level()
    made.origin.kill()
    fake.refuse()
    for edge in (c, late):
        assert install(edge, project) == expected


def test_an_edge_brings_only_what_it_is_told_to(made: Fleet, fake: FakePyPI, shelf: Shelf, project: str) -> None:
    a = made.edge("a")
    b = made.edge("b", replicate={"mode": "matching", "match": [f"pkg:pypi/{project}-l*"]})
    root, leaf = tree(fake, shelf, project)
    install(a, project)
    b.wait_holding({leaf.sha256})
    b.wait_level()
    assert root.sha256 not in b.digests()


# ---- recalls and rules


def paths(edge: FleetEdge, wheel: Distribution) -> dict[str, int]:
    """The statuses of a file on every path that leads to it."""
    etag = f'"sha256-{wheel.sha256}"'
    return {
        "GET": edge.file(wheel).status,
        "HEAD": edge.ask(edge.file_path(wheel), method="HEAD").status,
        "range": edge.file(wheel, Range="bytes=10-99").status,
        "304": edge.file(wheel, If_None_Match=etag).status,
        "sidecar": edge.file(wheel, ".metadata").status,
    }


def yanked(edge: FleetEdge, wheel: Distribution) -> object:
    """Why a page says that a file is not to be used; False if it may be."""
    files = {each["filename"]: each for each in edge.page(wheel.project).json()["files"]}
    return files[wheel.filename].get("yanked", False)


@pytest.mark.parametrize("by", ["purl", "digest"])
def test_a_recall_is_on_every_edge_and_every_path_when_it_returns_and_can_be_undone(
    regions: Fleet, fake: FakePyPI, shelf: Shelf, project: str, by: str
) -> None:
    bad, good = shelf.wheel(project, "1.0", size=50_000), shelf.wheel(project, "1.1", size=50_000)
    fake.publish(bad, good)
    allowed = {"GET": 200, "HEAD": 200, "range": 206, "304": 304, "sidecar": 200}
    for edge in regions.edges.values():
        for wheel in (bad, good):
            assert paths(edge, wheel) == allowed
        hot = [edge.page(project).headers["cache-status"] for _ in range(3)][-1]
        assert hot == "leeward; hit"
        assert yanked(edge, bad) is False
    target = f"pkg:pypi/{project}@1.0" if by == "purl" else f"sha256:{bad.sha256}"
    began = time.monotonic()
    done = regions.origin.recall(target, "steals credentials")
    print(f"recall by {by}: {time.monotonic() - began:.2f} s")
    assert done.returncode == 0, done.stdout + done.stderr
    for edge in regions.edges.values():
        assert paths(edge, bad) == dict.fromkeys(allowed, 403)
        assert paths(edge, good) == allowed
        assert "steals credentials" in str(yanked(edge, bad))
        assert "steals credentials" in edge.file(bad).json()["detail"]
        why = edge.command("why", f"pkg:pypi/{project}@1.0")
        assert "refused by rule recall-" in why.stdout or by == "digest", why.stdout
    undone = regions.origin.command("recall", target, "--undo")
    assert undone.returncode == 0, undone.stdout + undone.stderr
    for edge in regions.edges.values():
        assert paths(edge, bad) == allowed
        wait_until(lambda edge=edge: yanked(edge, bad) is False)  # type: ignore[misc]


def test_a_recall_names_the_edges_that_do_not_answer_and_reaches_them_before_they_serve_again(
    made: Fleet, fake: FakePyPI, shelf: Shelf, project: str
) -> None:
    a, b = made.edge("a"), made.edge("b")
    wheel = shelf.wheel(project, "1.0")
    fake.publish(wheel)
    assert a.file(wheel).status == 200
    b.wait_holding({wheel.sha256})
    b.stop()
    done = made.origin.recall(f"pkg:pypi/{project}", "bad", "--wait", "2s")
    assert done.returncode == 1
    assert "b" in done.stdout
    assert a.file(wheel).status == 403
    b.start()
    assert b.file(wheel).status == 403

    # What is known stays in force whatever becomes of the origin, from the first request on.
    made.origin.kill()
    for edge in (a, b):
        edge.kill()
        edge.start()
        assert edge.file(wheel).status == 403


def test_the_origins_rules_hold_at_every_edge_and_an_edges_own_are_added_to_them(
    made: Fleet, fake: FakePyPI, shelf: Shelf, project: str
) -> None:
    a, b = made.edge("a"), made.edge("b")
    old, new = shelf.wheel(project, "1.0"), shelf.wheel(project, "2.0")
    fake.publish(old, new)
    assert a.file(old).status == a.file(new).status == 200
    b.wait_holding({old.sha256, new.sha256})
    made.origin.set_rules(Rule(f"pkg:pypi/{project}@<2", "too old"))
    b.set_rules(Rule(f"pkg:pypi/{project}@>=2", "not here"))
    wait_until(lambda: a.file(old).status == b.file(old).status == 403)
    wait_until(lambda: b.file(new).status == 403)
    assert a.file(new).status == 200
    assert (yanked(a, old), yanked(a, new)) == ("too old", False)
    assert {status["name"] for status in _rules(b)} == {"test-rule"}

    made.origin.set_rules()
    wait_until(lambda: a.file(old).status == b.file(old).status == 200)
    wait_until(lambda: yanked(a, old) is False)
    assert b.file(new).status == 403


def _rules(edge: FleetEdge) -> list[dict[str, str]]:
    done = edge.command("status", "--json")
    found: list[dict[str, str]] = json.loads(done.stdout)["rules"]
    return found


# ---- outages


@contextlib.contextmanager
def origin_away(made: Fleet, how: str) -> Iterator[None]:
    """The origin is dead, hangs, or its machine is cut off."""
    origin = made.origin
    if how == "hanging":
        origin.pause()
        yield
        origin.resume()
        return
    origin.kill()
    with swallowing("127.0.0.1", origin.port) if how == "cut-off" else contextlib.nullcontext():
        yield
    origin.start()


@pytest.mark.parametrize("how", ["dead", "hanging", "cut-off"])
def test_without_the_origin_what_was_synchronized_installs_and_what_was_not_fails_soon_until_it_is_back(
    regions: Fleet, fake: FakePyPI, shelf: Shelf, project: str, how: str
) -> None:
    a, b = regions["a"], regions["b"]
    wanted = tree(fake, shelf, project)
    expected = install(a, project)
    b.wait_holding(digests(wanted))
    b.wait_level()
    cold = shelf.wheel(f"{project}-cold", "1.0")
    fake.publish(cold)
    with origin_away(regions, how):
        assert b.ask("/-/ready").status == 200
        assert install(b, project) == expected
        b.stop()
        b.age(HOUR_S)
        b.start()
        assert install(b, project) == expected
        first, second = b.page(cold.project), b.page(cold.project)
        print(f"{how}: {first.seconds:.2f} s, then {second.seconds:.2f} s")
        assert (first.status, second.status) == (503, 503)
        assert "retry-after" in first.headers
        assert first.seconds < (10.5 if how == "hanging" else 2.5)
        assert second.seconds < 2.5
        assert b.status()["connected"] is False
    b.age(0)
    b.restart()
    wait_until(lambda: b.page(cold.project).status == 200, 20)
    regions["c"].wait_level()


def test_edges_find_a_restarted_origin_by_themselves(regions: Fleet, fake: FakePyPI, shelf: Shelf, project: str) -> None:
    wheel = shelf.wheel(project, "1.0")
    fake.publish(wheel)
    regions.origin.restart()
    wait_until(lambda: regions["a"].file(wheel).status == 200, 10)
    for name in "bc":
        regions[name].wait_holding({wheel.sha256}, 10)


def test_with_the_origin_dead_a_sibling_is_asked_for_what_it_holds(
    made: Fleet, fake: FakePyPI, shelf: Shelf, project: str
) -> None:
    a, b = made.edge("a"), made.edge("b", start=False, replicate={"mode": "none"})
    b.siblings = [a.url]
    b._write_config()
    b.start()
    tree(fake, shelf, project)
    expected = install(a, project)
    made.origin.kill()
    fake.refuse()
    assert install(b, project) == expected
    assert b.metric("leeward_upstream_requests_total", source="sibling") > 0
    # Nobody else is told anything there.
    assert ask(f"{a.url}/v1/ping").status == 401


def test_when_an_edge_is_dismissed_the_others_take_another_key_and_still_help_each_other(
    made: Fleet, fake: FakePyPI, shelf: Shelf, project: str
) -> None:
    a, b, leaving = made.edge("a"), made.edge("b", start=False, replicate={"mode": "none"}), made.edge("leaving")
    b.siblings = [a.url]
    b._write_config()
    b.start()
    tree(fake, shelf, project)
    expected = install(a, project)

    def key(edge: FleetEdge) -> str:
        return str(json.loads((edge.data / "origin.json").read_bytes())["fleet"])

    before = key(a)
    done = made.origin.command("dismiss", "leaving")
    assert done.returncode == 0, done.stdout + done.stderr
    # What is acknowledged at once.
    made.origin.set_rules(Rule(f"pkg:pypi/{project}-other", "for no reason"))
    wait_until(lambda: key(a) == key(b) != before, 40)
    assert key(leaving) == before

    made.origin.kill()
    fake.refuse()
    assert install(b, project) == expected
    assert b.metric("leeward_upstream_requests_total", source="sibling") > 0


def test_an_edge_that_may_ask_the_registry_itself_does_so_without_its_origin_and_offers_what_it_took(
    made: Fleet, fake: FakePyPI, shelf: Shelf, project: str
) -> None:
    a, b = made.edge("a", direct=True), made.edge("b")
    wheel = shelf.wheel(project, "1.0")
    fake.publish(wheel)
    made.origin.kill()
    assert a.file(wheel).status == 200
    assert b.file(wheel).status == 503
    assert a.metric("leeward_upstream_requests_total", source="registry", registry="pypi") > 0
    made.origin.start()
    wait_until(lambda: wheel.sha256 in made.origin.blobs(), 30)
    b.wait_holding({wheel.sha256}, 10)


def test_an_edge_that_was_cut_off_for_longer_than_its_lease_serves_nothing_until_it_is_heard_again(
    made: Fleet, fake: FakePyPI, shelf: Shelf, project: str
) -> None:
    a = made.edge("a", replicate={"lease": "10s", "lapsed": "refuse"})
    wheel = shelf.wheel(project, "1.0")
    fake.publish(wheel)
    assert a.file(wheel).status == a.page(project).status == 200
    time.sleep(15)
    assert a.file(wheel).status == 200
    made.origin.kill()
    wait_until(lambda: a.file(wheel).status == 503, 15)
    assert a.page(project).status == 503
    assert a.ask("/-/ready").status == 200
    a.restart()
    assert a.file(wheel).status == 503
    made.origin.start()
    wait_until(lambda: a.file(wheel).status == 200, 15)


# ---- after a restore


def test_after_the_origin_is_restored_from_a_backup_edges_follow_it_again_and_give_back_what_it_lost(
    made: Fleet, fake: FakePyPI, shelf: Shelf, project: str, tmp_path: Path
) -> None:
    a, b = made.edge("a"), made.edge("b")
    before, after = shelf.wheel(project, "1.0"), shelf.wheel(project, "2.0")
    fake.publish(before)
    assert a.file(before).status == 200
    b.wait_holding({before.sha256})
    done = made.origin.command("backup", str(tmp_path / "backup"))
    assert done.returncode == 0, done.stdout + done.stderr
    fake.publish(after)
    assert made.origin.command("refresh", f"pkg:pypi/{project}").returncode == 0
    wait_until(lambda: a.file(after).status == 200)
    b.wait_holding({after.sha256})

    made.origin.stop()
    restored = tmp_path / "restored"
    done = made.origin.command("restore", str(tmp_path / "backup"), "--data", str(restored))
    assert done.returncode == 0, done.stdout + done.stderr
    made.origin.data = restored
    made.origin.start()
    wait_until(lambda: after.sha256 in made.origin.blobs(), 40)
    for edge in (a, b):
        edge.wait_level()
        assert {before.sha256, after.sha256} <= edge.digests()
        assert "diverged" not in edge.status()
    third = shelf.wheel(f"{project}-third", "1.0")
    fake.publish(third)
    assert a.file(third).status == 200
    b.wait_holding({third.sha256})


# ---- who had it


def test_who_fetched_something_is_told_by_the_origin(made: Fleet, fake: FakePyPI, shelf: Shelf, project: str) -> None:
    a = made.edge("a")
    wheel = shelf.wheel(project, "1.0")
    fake.publish(wheel)
    assert a.file(wheel).status == 200

    def known() -> bool:
        return "a" in made.origin.command("who", f"pkg:pypi/{project}@1.0").stdout.split()

    wait_until(known, 15, 0.5)
    found = made.origin.told("who", f"sha256:{wheel.sha256}")
    assert "127.0.0.1" in str(found)
