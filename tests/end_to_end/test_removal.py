"""Something is removed upstream: it leaves the page once that is certain, and held bytes are then refused, unless set otherwise."""

from __future__ import annotations

import pytest

from tests.fakes import FakePyPI
from tests.harness import Edge, wait_until
from tests.stage import StartEdge
from tests.wheels import Shelf

CONFIRM_S = 60.0


def versions(edge: Edge, project: str) -> list[str]:
    return list(edge.page(project).json()["versions"])


@pytest.fixture(autouse=True)
def present(fake: FakePyPI) -> None:
    fake.mode(ahead_s=0)


@pytest.mark.parametrize("setting", ["refuse", "serve"])
def test_a_removed_file_leaves_the_page_after_a_second_look(
    fake: FakePyPI, start_edge: StartEdge, shelf: Shelf, project: str, setting: str
) -> None:
    edge = start_edge(registry={"removed": setting})
    kept, gone = shelf.wheel(project, "1.0"), shelf.wheel(project, "2.0")
    fake.publish(kept, gone)
    assert edge.file(gone).status == 200
    fake.withdraw(gone.filename)
    edge.refresh(project)
    assert versions(edge, project) == ["1.0", "2.0"], "one look could have hit a stale node of upstream's"
    assert edge.file(gone).status == 200
    edge.age(CONFIRM_S + 5)
    fake.mode(ahead_s=CONFIRM_S + 5)
    edge.refresh(project)
    assert versions(edge, project) == ["1.0"]
    reply = edge.file(gone)
    assert reply.status == (403 if setting == "refuse" else 200)
    wait_until(lambda: edge.holds(gone), 3)  # the bytes are kept
    assert edge.file(kept).status == 200
    assert edge.metric("leeward_events_total") >= 1


def test_a_file_that_comes_back_in_between_was_never_gone(
    fake: FakePyPI, start_edge: StartEdge, shelf: Shelf, project: str
) -> None:
    edge = start_edge()
    wheel = shelf.wheel(project, "2.0")
    fake.publish(shelf.wheel(project, "1.0"), wheel)
    assert edge.file(wheel).status == 200
    fake.withdraw(wheel.filename)
    edge.refresh(project)
    fake.publish(wheel)
    edge.age(CONFIRM_S + 5)
    fake.mode(ahead_s=CONFIRM_S + 5)
    edge.refresh(project)
    assert versions(edge, project) == ["1.0", "2.0"]
    assert edge.file(wheel).status == 200


def test_a_removed_project_is_404_after_a_second_look(fake: FakePyPI, start_edge: StartEdge, shelf: Shelf, project: str) -> None:
    edge = start_edge()
    wheel = shelf.wheel(project, "1.0")
    fake.publish(wheel)
    assert edge.file(wheel).status == 200
    fake.withdraw_project(project)
    edge.command("refresh", f"pkg:pypi/{project}")
    assert versions(edge, project) == ["1.0"]
    edge.age(CONFIRM_S + 5)
    fake.mode(ahead_s=CONFIRM_S + 5)
    edge.command("refresh", f"pkg:pypi/{project}")
    assert edge.page(project).status == 404
    assert edge.file(wheel).status == 403


def test_a_changed_digest_under_a_bound_name_is_an_alarm_not_an_update(
    fake: FakePyPI, start_edge: StartEdge, shelf: Shelf, project: str
) -> None:
    edge = start_edge()
    first, second = shelf.wheel(project, "1.0"), shelf.wheel(project, "1.0", seed="tampered")
    fake.publish(first)
    assert edge.file(first).body == first.content
    fake.publish(second)
    edge.command("refresh", f"pkg:pypi/{project}")
    (entry,) = edge.page(project).json()["files"]
    assert entry["hashes"]["sha256"] == first.sha256
    assert edge.file(first).body == first.content
    assert edge.file(second).status != 200
    assert edge.metric("leeward_events_total") >= 1
