"""The checker finds what it is for: each promise broken in a history of a few records, and nothing in one that keeps them all."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.faults import checker
from tests.faults.checker import check, percentile
from tests.faults.history import (
    Asked,
    Bound,
    Call,
    Fault,
    Healed,
    History,
    Holding,
    InForce,
    Life,
    Line,
    Place,
    Published,
    Recalled,
    Verified,
    Written,
)

SIX, SIX_2 = "pypi/packages/six-1.0-py3-none-any.whl", "pypi/packages/six-2.0-py3-none-any.whl"
PROJECT = "pypi/six"

PUBLISHED = (
    Published(at=0, key=SIX, project=PROJECT, version="1.0", number=0, sha256="aa", size=1000),
    Published(at=10, key=SIX_2, project=PROJECT, version="2.0", number=1, sha256="bb", size=2000),
)


def got(at: float, key: str = SIX, edge: str = "a", **how: object) -> Call:
    """A file that came whole, in a tenth of a second."""
    published = next(each for each in PUBLISHED if each.key == key)
    good = Call(
        worker="w",
        edge=edge,
        life=1,
        method="GET",
        invoked=at,
        completed=at + 0.1,
        key=key,
        status=200,
        clean=True,
        length=published.size,
        size=published.size,
        body=published.sha256,
        expected=published.sha256,
    )
    return msgspec.structs.replace(good, **how)


def page(at: float, *releases: str, edge: str = "a", serial: int | None = None, **how: object) -> Call:
    """A page that offers these releases."""
    listed = {each.key: each.sha256 for each in PUBLISHED if each.version in releases}
    good = Call(
        worker="w",
        edge=edge,
        life=1,
        method="GET",
        invoked=at,
        completed=at + 0.1,
        project=PROJECT,
        status=200,
        clean=True,
        serial=serial,
        listed=listed,
        releases=releases,
    )
    return msgspec.structs.replace(good, **how)


def recalled(at: float, *acknowledged: str, undo: bool = False, key: str = SIX) -> Recalled:
    version = next(each.version for each in PUBLISHED if each.key == key)
    return Recalled(
        invoked=at,
        completed=at + 1,
        target=f"pkg:pypi/six@{version}",
        undo=undo,
        keys=(key,),
        releases=((PROJECT, version),),
        acknowledged=acknowledged,
    )


def in_force(at: float, *targets: str, edge: str = "a") -> InForce:
    return InForce(at=at, edge=edge, revision=len(targets), targets=targets)


def line(serial: int, at: float | None = None, *, hash: str = "", resource: str = "", digest: str = "") -> Line:  # noqa: A002
    at = float(serial) if at is None else at
    return Line(at=at, serial=serial, hash=hash or f"h{serial}", kind="file", resource=resource or f"r{serial}", digest=digest)


def place(at: float, serial: int, edge: str = "a", *, hash: str = "") -> Place:  # noqa: A002
    return Place(at=at, edge=edge, epoch="e", serial=serial, hash=hash or f"h{serial}")


def found(*records: Written) -> list[str]:
    """Which promises the checker finds broken."""
    return [violation.promise for violation in check(History([*PUBLISHED, *records])).violations]


GOOD: tuple[Written, ...] = (
    Life(node="a", number=1, began=0, ended=30, how="killed"),
    Life(node="a", number=2, began=31),
    Fault(kind="kill", began=30, ended=31, whom=("a",)),
    Asked(at=1, by="origin", key=SIX, status=200, complete=True),
    line(1, 1, resource="six", digest="aa"),
    place(1.5, 1),
    got(2, status=206, start=10, stop=20, length=10, size=10, body="slice", expected="slice"),
    got(2, method="HEAD", size=0, body=""),
    got(2.5, held=True),
    got(3, clean=False, size=500, body="half"),
    page(3, "1.0", serial=7),
    page(3.05, "1.0", serial=6),
    line(2, 12, resource="six-2", digest="bb"),
    place(12.25, 2),
    page(13, "1.0", "2.0", serial=8),
    Holding(at=14, node="a", new=("aa", "bb")),
    recalled(20, "a"),
    in_force(20.5, "pkg:pypi/six@1.0"),
    got(20.4, completed=20.7, clean=False, size=400, body="half"),
    got(22, status=403, size=10),
    page(22, "2.0", serial=8),
    got(30.5, key=SIX_2, status=0, clean=False, error="refused"),
    recalled(40, "a", undo=True),
    in_force(40.5),
    page(40.6, "1.0", "2.0", serial=8),
    got(41, held=True),
    Healed(at=50),
    page(51, "1.0", "2.0", serial=8),
    Bound(at=52, node="origin", names={"six": "aa", "six-2": "bb"}, whole=("aa", "bb")),
    Bound(at=52, node="a", names={"six": "aa", "six-2": "bb"}, whole=("aa", "bb")),
    Verified(at=53, node="origin", succeeded=True),
)


def test_a_history_that_keeps_every_promise_breaks_none() -> None:
    report = check(History([*PUBLISHED, *GOOD]))
    assert report.violations == []
    assert set(checker.WHAT) <= set(report.looked_at), "every promise was looked for"
    assert report.last_served == pytest.approx(0.2)
    assert report.acknowledging == pytest.approx([0.5])
    assert report.propagation == pytest.approx([0.25])
    assert "1 kill" in report.table()


def test_a_written_history_is_judged_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "history.jsonl"
    History([*PUBLISHED, *GOOD]).write(path)
    assert list(History.read(path)) == [*PUBLISHED, *GOOD]
    assert checker.main([str(path)]) == 0
    History([*PUBLISHED, *GOOD, got(60, status=404)]).write(path)
    assert checker.main([str(path)]) == 1
    assert "a said 404 of pypi/packages/six-1.0" in capsys.readouterr().out


# ---- I1


def test_other_bytes_than_published_are_found() -> None:
    assert found(got(1, body="xx")) == ["I1"]
    assert found(got(1, status=206, start=10, stop=20, length=10, size=10, body="xx", expected="slice")) == ["I1"]


def test_a_page_that_tells_another_digest_or_a_file_that_nobody_published_is_found() -> None:
    assert found(page(1, "1.0", listed={SIX: "xx"})) == ["I1"]
    assert found(page(1, "1.0", listed={"pypi/packages/evil-1.0.whl": "aa"})) == ["I1"]
    assert found(page(1, "1.0", listed={SIX: ""})) == []


# ---- I2


def test_what_is_served_after_its_recall_is_in_force_is_found() -> None:
    assert found(recalled(20, "a"), got(22)) == ["I2"]
    assert found(recalled(20, "a"), got(22, method="HEAD", size=0, body="")) == ["I2"]
    assert found(recalled(20, "a"), got(22, status=304, conditional=True, length=None, size=0)) == ["I2"]
    assert found(recalled(20, "a"), page(22, "1.0")) == ["I2"]


def test_an_edge_is_held_to_what_it_put_in_force_even_before_the_command_returned() -> None:
    assert found(recalled(20), in_force(20.2, "pkg:pypi/six@1.0"), got(20.3)) == ["I2"]
    assert found(recalled(20), in_force(20.2, "pkg:pypi/six@1.0", edge="b"), got(20.3)) == []


def test_what_was_under_way_may_end_soon_after_and_no_later() -> None:
    report = check(History([*PUBLISHED, recalled(20, "a"), got(20, completed=21.5)]))
    assert report.violations == []
    assert report.last_served == pytest.approx(0.5)
    assert found(recalled(20, "a"), got(20, completed=24)) == ["I2"]


def test_what_is_served_once_the_recall_was_taken_back_is_fine() -> None:
    assert found(recalled(20, "a"), recalled(30, "a", undo=True), got(32)) == []
    assert found(recalled(20), got(22)) == [], "an edge that has not heard of it"


# ---- I3


def test_a_ledger_that_was_rewritten_or_has_gaps_or_says_a_file_twice_is_found() -> None:
    assert found(line(1), line(2), line(2, hash="other")) == ["I3"]
    assert found(line(1), line(3)) == ["I3"]
    assert found(line(1, resource="six", digest="aa"), line(2, resource="six", digest="aa")) == ["I3"]


def test_an_edge_that_applied_something_else_or_went_back_is_found() -> None:
    assert found(line(1), line(2), place(3, 2, hash="other")) == ["I3"]
    assert found(line(1), line(2), place(3, 2), place(4, 1)) == ["I3"]
    assert found(line(1), place(3, 2)) == ["I3"]


def test_an_edge_that_is_not_level_once_all_is_healed_is_found() -> None:
    assert found(line(1), line(2), place(3, 1)) == []
    assert found(line(1), line(2), place(3, 1), Healed(at=9)) == ["I3"]


def test_an_edge_that_holds_other_names_than_the_origin_is_found() -> None:
    origin = Bound(at=9, node="origin", names={"six": "aa"}, whole=("aa",))
    assert found(origin, Bound(at=9, node="a", names={})) == ["I3"]
    assert found(origin, Bound(at=9, node="a", names={"six": "bb"})) == ["I3"]
    assert found(origin, Bound(at=9, node="a", names={"six": "aa", "more": "cc"})) == ["I3"]
    assert found(Verified(at=9, node="origin", succeeded=False, told="line 3 is not signed")) == ["I3"]


def test_what_is_recalled_need_not_be_everywhere() -> None:
    origin = Bound(at=9, node="origin", names={}, whole=())
    mine = Bound(at=9, node="a", names={"six": "aa"}, whole=("aa",))
    assert found(origin, mine) == ["I3"]
    assert found(recalled(5), origin, mine) == []


def test_bytes_that_nobody_had_are_refused_once_they_are_known() -> None:
    bytes_only = msgspec.structs.replace(recalled(20, "a"), releases=())
    assert found(bytes_only, got(22, clean=False, size=400, body="half")) == []
    assert found(bytes_only, got(22)) == ["I2"]
    assert found(recalled(20, "a"), got(22, clean=False, size=400, body="half")) == ["I2"]


def test_a_release_that_is_lost_once_all_is_healed_is_found() -> None:
    assert found(Healed(at=50), page(51, "1.0")) == ["I3"]
    assert found(Healed(at=50), page(51, status=503)) == ["I3"]
    assert found(recalled(20, key=SIX_2), Healed(at=50), page(51, "1.0")) == [], "one that is recalled is not missed"


# ---- I4


def test_a_page_that_goes_back_is_found() -> None:
    assert found(page(1, "1.0", serial=8), page(2, "1.0", serial=7)) == ["I4"]
    assert found(page(11, "1.0", "2.0"), page(12, "1.0")) == ["I4"]


def test_answers_that_overlap_and_other_edges_have_no_order() -> None:
    assert found(page(1, "1.0", serial=8), page(1.05, "1.0", serial=7)) == []
    assert found(page(1, "1.0", serial=8), page(2, "1.0", serial=7, edge="b")) == []


# ---- I5


def test_a_blob_that_is_gone_after_a_kill_is_found() -> None:
    assert found(Holding(at=1, node="a", new=("aa",)), Holding(at=9, node="a", gone=("aa",))) == ["I5"]
    held = Holding(at=1, node="a", new=("aa",))
    assert found(held, Bound(at=9, node="a", names={"six": "aa"}, whole=())) == ["I5"]


def test_what_was_held_and_is_not_served_is_found() -> None:
    assert found(got(1, held=True), got(2, status=503, retry_after="1", size=0)) == ["I5"]
    assert found(got(1), got(2, status=503, retry_after="1", size=0)) == []
    assert found(got(1, held=True), got(2, status=0, clean=False)) == [], "a node that is down answers nobody"


# ---- I6


def test_a_file_that_is_taken_from_its_registry_twice_is_found() -> None:
    once, twice = (Asked(at=at, by="origin", key=SIX, status=200, complete=True) for at in (1, 20))
    assert found(once, twice) == ["I6"]
    assert found(once, msgspec.structs.replace(twice, by="a")) == []


def test_a_file_may_be_asked_for_again_after_a_fault_and_not_for_ever() -> None:
    once, twice = (Asked(at=at, by="origin", key=SIX, status=200, complete=True) for at in (1, 20))
    killed = Fault(kind="kill", began=1.5, ended=2.5, whom=("origin",))
    assert found(killed, once, twice) == []
    assert found(msgspec.structs.replace(killed, whom=("b",)), once, twice) == ["I6"]
    broken = [Asked(at=1 + n / 100, by="origin", key=SIX, status=200, complete=False) for n in range(20)]
    assert found(Life(node="origin", number=1, began=0), *broken) == ["I6"]


# ---- I7


def test_what_ends_cleanly_short_or_does_not_tell_its_length_is_found() -> None:
    assert found(got(1, length=900, size=900, body="aa")) == ["I7"]
    assert found(got(1, size=900, body="aa")) == ["I7"]
    assert found(got(1, length=None)) == ["I7"]
    assert found(got(1, status=206, start=990, stop=2000, length=20, size=20)) == ["I7"]
    assert found(page(1, readable=False, listed={})) == ["I7"]


# ---- what clients must never be told


def test_an_absence_of_what_is_published_is_found() -> None:
    assert found(got(1, status=404)) == ["absent"]
    assert found(got(1, key=SIX_2, status=404)) == [], "it was not published yet"


def test_a_refusal_of_what_nobody_recalled_is_found() -> None:
    listed = page(0, "1.0")
    assert found(listed, got(1, status=403)) == ["refused"]
    assert found(got(1, status=403)) == [], "it has not been on a page yet"
    assert found(page(1, status=403)) == ["refused"]
    assert found(listed, recalled(5, "a"), got(7, status=403)) == []
    undone = (listed, recalled(5, "a"), recalled(8, "a", undo=True), in_force(9))
    assert found(*undone, got(9.5, status=403)) == [], "its page was not asked for again yet"
    assert found(*undone, page(9.2, "1.0"), got(9.5, status=403)) == ["refused"]
    assert found(listed, recalled(5, "a"), recalled(8, undo=True), got(9.5, status=403)) == [], "it may not have heard of its end"


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile([3.0, 1.0, 2.0], 99) == 3.0
    assert percentile([float(n) for n in range(1, 101)], 50) == 50.0
