"""What an origin answers its edges besides packages: enrolment, changes, snapshots, policy, and what edges tell."""

from __future__ import annotations

import base64
import gzip
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from origin.api import wire
from origin.api.following import Central, Following
from origin.api.server import Face
from origin.errors import Unavailable
from origin.feed import Ledger, checked
from origin.fleet import Fleet
from origin.holdings import Holdings, held_file
from origin.http import Response
from origin.http.coding import encode
from origin.identity import Identity, keep_fleet_key, open_identity
from origin.intake import Intake, Popularity
from origin.model import Change, File, Page
from origin.recalling import CentralPolicy
from origin.tokens import key_name
from tests.origin.api.stand import DEPLOYMENT, Asked, content, document
from tests.scripted import Upload, bench, now

SIX = Upload("six-1.0.tar.gz", b"six")
PROJECTS = {"six": [SIX]}
RULE = {"name": "no-evil", "match": "pkg:pypi/evil", "action": "refuse", "reason": "it is evil"}


@dataclass
class Origin(Asked):
    """A face with everything behind it, and one edge that is let in."""

    following: Following
    policy: CentralPolicy
    central: Central
    identity: Identity
    kept: trio.Event
    secret: str = ""

    async def get[T](self, what: str, kind: type[T]) -> T:
        """A message that is asked for."""
        response = await self.asked(what)
        assert response.status == 200, response
        assert isinstance(response.body, bytes)
        return msgspec.json.decode(response.body, type=kind)

    async def asked(self, what: str, method: str = "GET", body: bytes = b"", **headers: str) -> Response:
        """An edge's request."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.ask(f"/v1/{what}", {"authorization": f"Bearer {self.secret}", **fields}, method, body)

    async def tell(self, what: str, message: msgspec.Struct) -> int:
        return (await self.asked(what, "POST", msgspec.json.encode(message))).status

    async def changes(self, query: str) -> tuple[wire.Batch, list[bytes]]:
        response = await self.asked(f"changes?{query}")
        assert response.status == 200, response
        assert isinstance(response.body, bytes)
        return wire.read_lines(response.body)


@asynccontextmanager
async def origin(tmp_path: Path, name: str = "tokyo") -> AsyncIterator[Origin]:
    async with bench(tmp_path, PROJECTS) as b, trio.open_nursery() as nursery:
        identity = open_identity(tmp_path, ["localhost"], time.time())
        ledger = await Ledger.open(b.catalog, identity.sign, now)
        keep = partial(keep_fleet_key, tmp_path)
        fleet = Fleet(b.catalog, now, b.metrics, 3600, lambda: ledger.head, key=identity.fleet, keep_key=keep)

        def apply(verdicts: wire.Verdicts) -> None:
            b.service.set_central(verdicts)
            ledger.set_verdicts(verdicts.revision)

        registries = b.service.registries
        policy = CentralPolicy(b.catalog, registries, now, apply)
        await policy.open()
        await fleet.open()
        popularity = Popularity(b.catalog, registries, now, 2)
        kept = trio.Event()

        async def bring(resource: Page | File) -> None:
            await b.service.keep(resource)
            kept.set()

        intake = Intake(b.catalog, registries, bring, popularity, b.metrics, now)
        central = Central(fleet, ledger, policy, intake, Holdings(b.catalog, registries), identity)
        following = Following(central, registries, DEPLOYMENT)
        face = Face(b.service, b.catalog, registries, b.metrics, DEPLOYMENT, fleet.edge, rest=following)
        for task in (ledger.run, popularity.run, intake.run):
            nursery.start_soon(task)
        made = Origin(face, b, following, policy, central, identity, kept)
        if name:
            found = await fleet.enrol(await fleet.invite(name, 60))
            assert found is not None
            made.secret = found[1]
        yield made
        nursery.cancel_scope.cancel()


# ---- enrolment


async def test_an_invitation_buys_an_identity_once(tmp_path: Path) -> None:
    async with origin(tmp_path, "") as o:
        secret = await o.central.fleet.invite("tokyo", 60)
        asked = wire.Enrolment(secret=base64.b64encode(secret).decode(), release="1.0")
        response = await o.post("/v1/enrol", asked)
        assert isinstance(response.body, bytes)
        enrolled = msgspec.json.decode(response.body, type=wire.Enrolled)
        assert (enrolled.edge, enrolled.deployment, enrolled.version) == ("tokyo", DEPLOYMENT, wire.VERSION)
        assert base64.b64decode(enrolled.key) == o.identity.public_key
        assert base64.b64decode(enrolled.fleet) == o.identity.fleet
        o.secret = enrolled.secret
        assert (await o.asked("ping")).status == 204
        again = await o.post("/v1/enrol", asked)
        assert (again.status, document(again)["rule"]) == (403, "enrolment")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{}", 400),
        (b'{"secret": "short"}', 400),
        (b'{"secret": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "version": 2}', 400),
        (b'{"secret": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}', 403),
        (b'{"secret": "' + b"A" * 5000 + b'"}', 413),
    ],
)
async def test_what_is_no_invitation_lets_nobody_in(tmp_path: Path, body: bytes, status: int) -> None:
    async with origin(tmp_path) as o:
        assert (await o.ask("/v1/enrol", method="POST", body=body)).status == status
        assert (await o.ask("/v1/enrol")).status == 405


async def test_an_edge_that_is_dismissed_is_told_nothing_more(tmp_path: Path) -> None:
    async with origin(tmp_path) as o:
        await o.central.fleet.dismiss("tokyo")
        response = await o.asked("verdicts")
        assert (response.status, response.header(wire.VERDICTS)) == (401, None)


async def test_when_an_edge_is_dismissed_those_who_are_left_are_told_another_fleet_key(tmp_path: Path) -> None:
    async with origin(tmp_path) as o:
        fleet, before = o.central.fleet, o.identity.fleet
        await fleet.enrol(await fleet.invite("leaving", 60))
        told = wire.Acknowledgement(cursor=o.central.ledger.cursor, verdicts=0, fleet=key_name(before))
        assert await o.tell("acknowledgements", told) == 204
        await fleet.invite("nobody", 60)
        await fleet.dismiss("nobody")
        assert await o.tell("acknowledgements", told) == 204, "an invitation has no key"

        await fleet.dismiss("leaving")
        response = await o.asked("acknowledgements", "POST", msgspec.json.encode(told))
        assert response.status == 200 and isinstance(response.body, bytes)
        key = base64.b64decode(msgspec.json.decode(response.body, type=wire.Acknowledged).fleet)
        assert key != before and key == open_identity(tmp_path, ["localhost"], time.time()).fleet, "after a restart too"
        assert await o.tell("acknowledgements", msgspec.structs.replace(told, fleet=key_name(key))) == 204
        assert await o.tell("acknowledgements", msgspec.structs.replace(told, fleet="")) == 204, "an older edge has no use for it"
        invited = wire.Enrolment(secret=base64.b64encode(await fleet.invite("new", 60)).decode())
        enrolled = await o.post("/v1/enrol", invited)
        assert isinstance(enrolled.body, bytes)
        assert base64.b64decode(msgspec.json.decode(enrolled.body, type=wire.Enrolled).fleet) == key


async def test_an_edge_whose_dismissal_was_cut_short_is_still_there_to_be_dismissed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with origin(tmp_path) as o:
        fleet, before = o.central.fleet, o.identity.fleet

        async def fail(_: str) -> bool:
            raise Unavailable("the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(o.bench.catalog, "dismiss", fail)
            with pytest.raises(Unavailable):
                await fleet.dismiss("tokyo")
        assert (fleet.key, [state.name for state in fleet.states()]) == (before, ["tokyo"])
        assert await fleet.dismiss("tokyo")
        assert fleet.key == open_identity(tmp_path, ["localhost"], time.time()).fleet != before


async def test_who_had_the_name_of_an_edge_that_enrols_anew_loses_the_fleets_key_too(tmp_path: Path) -> None:
    async with origin(tmp_path) as o:
        fleet, before = o.central.fleet, o.identity.fleet
        found = await fleet.enrol(await fleet.invite("berlin", 60))
        assert found is not None and fleet.key == before, "nobody had that name"
        o.secret = found[1]
        invited = wire.Enrolment(secret=base64.b64encode(await fleet.invite("tokyo", 60)).decode())
        enrolled = await o.post("/v1/enrol", invited)
        assert isinstance(enrolled.body, bytes)
        key = base64.b64decode(msgspec.json.decode(enrolled.body, type=wire.Enrolled).fleet)
        assert key == fleet.key == open_identity(tmp_path, ["localhost"], time.time()).fleet != before
        told = wire.Acknowledgement(cursor=o.central.ledger.cursor, verdicts=0, fleet=key_name(before))
        response = await o.asked("acknowledgements", "POST", msgspec.json.encode(told))
        assert isinstance(response.body, bytes)
        assert base64.b64decode(msgspec.json.decode(response.body, type=wire.Acknowledged).fleet) == key


async def test_who_had_the_name_of_an_edge_is_out_although_whoever_enrols_in_its_place_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with origin(tmp_path) as o:
        fleet, before, enrol = o.central.fleet, o.identity.fleet, o.bench.catalog.enrol
        with trio.CancelScope() as asking:

            async def leave(invitation: str, secret: str, at: float) -> str | None:
                name = await enrol(invitation, secret, at)
                asking.cancel()
                return name

            monkeypatch.setattr(o.bench.catalog, "enrol", leave)
            await fleet.enrol(await fleet.invite("tokyo", 60))
        assert (await o.asked("ping")).status == 401
        assert fleet.key != before


async def test_an_edge_is_dismissed_though_whoever_asked_for_it_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with origin(tmp_path) as o:
        fleet, before, dismiss = o.central.fleet, o.identity.fleet, o.bench.catalog.dismiss

        with trio.CancelScope() as asking:

            async def leave(name: str) -> bool:
                asking.cancel()
                return await dismiss(name)

            monkeypatch.setattr(o.bench.catalog, "dismiss", leave)
            await fleet.dismiss("tokyo")
        assert await o.bench.catalog.edges() == []
        assert (await o.asked("ping")).status == 401
        assert fleet.key == open_identity(tmp_path, ["localhost"], time.time()).fleet != before


async def test_the_new_key_is_not_told_to_who_was_dismissed_while_it_asked_though_another_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with origin(tmp_path) as o:
        fleet, ledger = o.central.fleet, o.central.ledger

        async def meanwhile() -> None:
            await fleet.dismiss("tokyo")
            assert await fleet.enrol(await fleet.invite("tokyo", 60))

        monkeypatch.setattr(ledger, "announce", meanwhile)
        beyond = wire.cursor_text(ledger.epoch, ledger.head + 1)
        told = wire.Acknowledgement(cursor=beyond, verdicts=0, fleet=key_name(o.identity.fleet))
        assert await o.tell("acknowledgements", told) == 401
        assert [(state.name, state.seen_at) for state in fleet.states()] == [("tokyo", 0)]


async def test_an_edge_that_is_dismissed_while_it_waits_is_told_so_at_once(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with origin(tmp_path) as o:
        # Worker threads count as blocked tasks: the clock would jump while the fleet's key is written down.
        o.central.fleet._keep_key = None
        answers: list[int] = []

        async def wait() -> None:
            # Asked in other words than our edges', so that the handler answers it.
            answers.append((await o.asked(f"changes?verdicts=0&wait=50&after={o.central.ledger.cursor}")).status)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
            await o.central.fleet.dismiss("tokyo")
        assert (answers, trio.current_time() - began < 1) == ([401], True)
        assert o.central.fleet.states() == ()


async def test_every_answer_says_which_policy_is_in_force(tmp_path: Path) -> None:
    async with origin(tmp_path) as o:
        for _ in range(2):
            revision = o.policy.current.revision
            for what in ("ping", "verdicts", "pages/pypi/six", "pages/pypi/nothing", "nothing", "files/pypi/%00", "pages/npm/x"):
                response = await o.asked(what)
                assert response.header(wire.VERDICTS) == str(revision), what
            await o.policy.set_rules([RULE])


async def test_an_edge_learns_which_registries_there_are(tmp_path: Path) -> None:
    async with origin(tmp_path) as o:
        assert await o.get("instances", wire.Instances) == wire.Instances({"pypi": "pypi"})


@pytest.mark.parametrize(
    ("what", "method"), [("verdicts", "POST"), ("changes", "PUT"), ("accesses", "GET"), ("offers", "DELETE")]
)
async def test_each_message_has_its_method(tmp_path: Path, what: str, method: str) -> None:
    async with origin(tmp_path) as o:
        assert (await o.asked(what, method)).status == 405


# ---- changes


async def test_changes_come_in_a_batch_that_can_be_checked(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with origin(tmp_path) as o:
        start = (await o.get("snapshot", wire.Snapshot)).cursor
        await o.bench.service.keep(o.bench.file(SIX))
        await trio.sleep(1)
        batch, records = await o.changes(f"after={start}&verdicts=0&wait=0&limit=100")
        checked(batch, records, wire.GENESIS, o.identity.public_key, 0)
        changes = [msgspec.json.decode(record, type=Change) for record in records]
        assert [(change.kind, change.project) for change in changes] == [("page", "six"), ("file", "six")]
        assert batch.head == 2 and wire.read_cursor(batch.cursor)[1] == 2
        (state,) = o.central.fleet.states()
        assert (state.serial, state.behind, state.live) == (0, 2, True)
        await o.changes(f"after={batch.cursor}")
        assert [each.behind for each in o.central.fleet.states()] == [0]


async def test_a_question_for_changes_waits_for_a_line_or_for_policy(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with origin(tmp_path) as o:
        cursor = (await o.get("snapshot", wire.Snapshot)).cursor

        async def after(delay_s: float) -> None:
            await trio.sleep(delay_s)
            await o.policy.set_rules([RULE])

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(after, 5)
            batch, _ = await o.changes(f"after={cursor}&verdicts=0&wait=30")
        assert trio.current_time() - began == pytest.approx(5, abs=1)
        assert batch.verdicts == 1
        await trio.sleep(2)
        batch, records = await o.changes(f"after={cursor}&verdicts=1")
        assert len(records) == 1
        began = trio.current_time()
        _, records = await o.changes(f"after={batch.cursor}&verdicts=1&wait=30")
        assert records == []
        assert trio.current_time() - began == pytest.approx(30, abs=1)
        began = trio.current_time()
        await o.changes(f"after={batch.cursor}&verdicts=1&wait=100000")
        assert trio.current_time() - began == pytest.approx(60, abs=1)


async def test_nobody_waits_for_an_origin_that_drains(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with origin(tmp_path) as o:
        cursor = (await o.get("snapshot", wire.Snapshot)).cursor
        began = trio.current_time()

        async def drain() -> None:
            await trio.sleep(3)
            o.following.drain()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            for _ in range(3):
                nursery.start_soon(o.changes, f"after={cursor}&verdicts=0&wait=30")
        await o.changes(f"after={cursor}&verdicts=0&wait=30")
        assert trio.current_time() - began == pytest.approx(3, abs=0.5)


async def test_a_cursor_of_another_epoch_is_no_place_to_follow_from(tmp_path: Path) -> None:
    async with origin(tmp_path) as o:
        response = await o.asked("changes?after=other.0&verdicts=0&wait=10")
        assert response.status == 410
        for query in ("after=nothing", "", "after=x.y", f"after={o.central.ledger.epoch}.0&wait=soon", "after=a.1&limit=-1"):
            assert (await o.asked(f"changes?{query}")).status in (400, 410), query
        assert (await o.asked(f"changes?after={o.central.ledger.epoch}.0&wait=soon")).status == 400


# ---- what is held


async def test_a_snapshot_and_its_cursor_leave_nothing_out(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with origin(tmp_path) as o:
        await o.bench.service.keep(o.bench.file(SIX))
        await trio.sleep(1)
        snapshot = await o.get("snapshot?limit=10", wire.Snapshot)
        assert snapshot.pages == (Page("pypi", "six"),)
        assert [held.filename for held in snapshot.files] == [SIX.filename]
        assert (snapshot.after, snapshot.total) == ("", 2)
        first = await o.get("snapshot?limit=1", wire.Snapshot)
        second = await o.get(f"snapshot?limit=1&after={first.after}", wire.Snapshot)
        assert (*first.pages, *first.files, *second.pages, *second.files) == (*snapshot.pages, *snapshot.files)
        assert (await o.asked("snapshot?after=zzz")).status == 400
        compared = await o.asked("holdings", "POST", msgspec.json.encode(wire.Comparison()), accept_encoding="gzip")
        body = gzip.decompress(await content(compared))
        told = msgspec.json.decode(body, type=wire.Compared)
        assert told.shards == wire.shard_digests((held.file.key, held.digest) for held in snapshot.files)
        assert (await o.asked("holdings", "POST", b'{"shard": 256}')).status == 400


# ---- policy


async def test_the_verdicts_are_given_whole_and_coded_as_they_are_read(tmp_path: Path) -> None:
    async with origin(tmp_path) as o:
        many = [{**RULE, "name": f"no-{number}", "match": f"pkg:pypi/evil-{number}"} for number in range(2000)]
        for rules in ([RULE], many):
            await o.policy.set_rules(rules)
            for coding in ("identity", "gzip", "gzip"):
                response = await o.asked("verdicts", accept_encoding=coding)
                body = await content(response)
                plain = gzip.decompress(body) if response.header("content-encoding") == "gzip" else body
                assert msgspec.json.decode(plain, type=wire.Verdicts) == o.policy.current
                assert (response.header("content-encoding") or "identity") == coding


async def test_verdicts_that_take_long_to_code_are_coded_once_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coded: list[int] = []

    def counting(body: bytes, coding: str) -> bytes:
        coded.append(len(body))
        return encode(body, coding)

    monkeypatch.setattr("origin.api.following.encode", counting)
    async with origin(tmp_path) as o:
        await o.policy.set_rules([{**RULE, "name": f"no-{number}", "match": f"pkg:pypi/evil-{number}"} for number in range(2000)])
        replies: list[Response] = []

        async def ask() -> None:
            replies.append(await o.asked("verdicts", accept_encoding="gzip"))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
        assert {reply.status for reply in replies} == {200}
        assert len(coded) == 1


async def test_an_edge_cannot_have_in_force_what_is_not_decided(tmp_path: Path) -> None:
    async with origin(tmp_path) as o:
        await o.policy.set_rules([RULE])
        epoch = o.central.ledger.epoch
        for told, verdicts, cursor, serial in (
            (1, 1, f"{epoch}.0", 0),
            (1_000_000, 1, f"{epoch}.0", 0),
            (1, 1, "another.1", 0),
            # It followed lines that are no more, and what it has in force of this number may be something else.
            (1, 0, f"{epoch}.999", 1),
            (1, 1, f"{epoch}.1", 1),
        ):
            assert await o.tell("acknowledgements", wire.Acknowledgement(cursor=cursor, verdicts=told)) == 204
            (state,) = o.central.fleet.states()
            assert (state.verdicts, state.serial) == (verdicts, serial), (told, cursor)
        assert await o.tell("acknowledgements", wire.Acknowledgement(cursor="x", verdicts=1)) == 400
        (edge,) = (await o.get("edges", wire.Edges)).edges
        assert (edge.name, edge.verdicts, edge.address) == ("tokyo", 1, "192.0.2.7")


async def test_an_edge_without_the_present_policy_is_waited_for(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with origin(tmp_path) as o:
        await o.asked("ping")
        await o.policy.recall("pkg:pypi/six@1.0", "bad")

        async def acknowledge() -> None:
            await trio.sleep(4)
            await o.tell("acknowledgements", wire.Acknowledgement(cursor=o.central.ledger.cursor, verdicts=1))

        async def silent(_: int, __: int) -> None:
            await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(acknowledge)
            assert await o.central.fleet.wait_acknowledged(1, 30, silent) == (["tokyo"], [])


# ---- what edges tell


async def test_what_edges_tell_is_taken_in(tmp_path: Path) -> None:
    async with origin(tmp_path) as o:
        file = o.bench.file(SIX)
        access = wire.EdgeAccess(
            number=1, at=1.0, file=file.key, digest=SIX.sha256, client="10.0.0.1", token="", sent=3, complete=True
        )
        assert await o.tell("accesses", wire.Accesses((access, access))) == 204
        assert [each.edge for each in await o.bench.catalog.accesses()] == ["tokyo"]
        await o.bench.service.keep(file)
        binding = await o.bench.service.holds(file)
        assert binding is not None
        await o.bench.catalog.drop(binding.digest)
        await o.bench.blobs.delete(binding.digest)
        assert await o.tell("offers", wire.Offers((held_file(binding),))) == 204
        await o.kept.wait()
        assert await o.bench.service.holds(file) is not None


async def test_a_message_that_is_too_large_is_refused(tmp_path: Path) -> None:
    async with origin(tmp_path) as o:
        assert (await o.asked("acknowledgements", "POST", b" " * 5000)).status == 413
        assert (await o.asked("offers", "POST", b" " * (9 << 20))).status == 413
        access = wire.EdgeAccess(number=1, at=1.0, file="f", digest="d", client="", token="", sent=3, complete=True)
        assert await o.tell("accesses", wire.Accesses((access,) * 10_001)) == 413
        assert (await o.asked("accesses", "POST", b"[]")).status == 400


async def test_what_cannot_be_written_down_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with origin(tmp_path) as o:

        async def fail(*_: object) -> None:
            await trio.lowlevel.checkpoint()
            raise Unavailable("the disk is full", 7)

        monkeypatch.setattr(o.bench.catalog, "record_accesses", fail)
        response = await o.asked("accesses", "POST", msgspec.json.encode(wire.Accesses(())))
        assert (response.status, response.header("retry-after")) == (503, "7")
