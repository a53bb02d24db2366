"""A schedule is made from its seed alone, and leaves nothing broken."""

from __future__ import annotations

import pytest

from tests.faults.nemesis import LINK_FAULTS, NODE_FAULTS, REGISTRY_FAULTS, Act, schedule

EDGES = ("a", "b", "c")
REGISTRIES = ("pypi", "npm", "maven")


def made(seed: int, seconds: float = 300) -> list[Act]:
    return schedule(seed, seconds, EDGES, REGISTRIES, 4)


def test_a_seed_gives_the_same_schedule_each_time_and_another_seed_another() -> None:
    assert made(7) == made(7)
    assert made(7) != made(8)


@pytest.mark.parametrize("seed", range(20))
def test_every_kind_of_fault_comes_and_all_end_in_time_and_none_twice_at_once(seed: int) -> None:
    acts = made(seed)
    assert [act.at_s for act in acts] == sorted(act.at_s for act in acts)
    faults = [act for act in acts if act.kind not in {"publish", "recall"}]
    assert {act.kind for act in faults} >= {*NODE_FAULTS, *LINK_FAULTS}
    assert {act.kind for act in faults} & set(REGISTRY_FAULTS)
    assert all(act.at_s + act.lasts_s <= 300 for act in faults)
    for number, act in enumerate(faults):
        again = [other for other in faults[number + 1 :] if set(other.whom) == set(act.whom)]
        assert all(other.at_s > act.at_s + act.lasts_s for other in again)


@pytest.mark.parametrize("seed", range(20))
def test_releases_come_in_order_and_what_is_recalled_was_published_and_only_once(seed: int) -> None:
    acts = made(seed)
    published = [(act.whom[0], act.project) for act in acts if act.kind == "publish"]
    assert len(published) > 200
    for one in set(published):
        numbers = [act.number for act in acts if act.kind == "publish" and (act.whom[0], act.project) == one]
        assert numbers == list(range(1, len(numbers) + 1))
    recalled = [act for act in acts if act.kind == "recall"]
    assert len({act.project for act in recalled}) == len(recalled) > 30
    for act in recalled:
        before = sum(other.kind == "publish" and other.at_s < act.at_s for other in acts)
        assert act.project < len(REGISTRIES) * 4 + before
