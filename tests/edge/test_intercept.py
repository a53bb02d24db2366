"""Certificates as the serving process has them: issued at start, for hosts that are added, before they end, and waited for."""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from edge import intercept, signer
from edge.hosts import Hosts
from edge.intercept import Interception
from edge.signer import Files, Issued
from origin.errors import Unavailable
from origin.metrics import Metrics

DAY_S = 86400.0


class Named(Hosts):
    """A table of hosts that a test fills."""

    def __init__(self, *names: str) -> None:
        self.changed: Callable[[], None] = lambda: None
        self.table = set(names)

    def names(self) -> frozenset[str]:
        return frozenset(self.table)

    def add(self, *names: str) -> None:
        self.table |= set(names)
        self.changed()


class Bench:
    """An interception with a clock that can be set and hosts that can be added; counts how often the signer was asked."""

    def __init__(self, data: Path, *names: str) -> None:
        self.files = Files(data)
        self.hosts = Named(*names)
        self.now = time.time()
        self.metrics = Metrics()
        self.interception = Interception(data, self.hosts, lambda: self.now, self.metrics)
        self.asked: list[list[str]] = []
        ask = self.interception._ask_signer

        async def counted(names: frozenset[str]) -> Issued:
            self.asked.append(sorted(names))
            return await ask(names)

        self.interception._ask_signer = counted  # type: ignore[method-assign]

    def value(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for in minutes is waited for in fractions of a second; the signer itself takes its time."""
    monkeypatch.setattr(intercept, "CHECK_S", 0.02)
    monkeypatch.setattr(intercept, "RETRY_S", 0.05)
    monkeypatch.setattr(intercept, "RETRY_LIMIT_S", 0.2)


def shown(context: ssl.SSLContext, files: Files, host: str) -> bytes:
    """The certificate (DER) that a client gets which trusts the root and asks for ``host``."""
    client = ssl.create_default_context(cafile=files.root)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname=host)
    there = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (here, there):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    found = here.getpeercert(binary_form=True)
    assert found is not None
    return found


async def until(true: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not true():  # noqa: ASYNC110 -- what is waited for is a process, files and metrics
            await trio.sleep(0.01)


async def test_a_host_has_a_context_that_clients_accept_and_keeps_it(tmp_path: Path, nursery: trio.Nursery) -> None:
    bench = Bench(tmp_path, "pypi.test", "npm.test")
    await nursery.start(bench.interception.run)
    context = await bench.interception.context("pypi.test")
    assert shown(context, bench.files, "pypi.test")
    assert await bench.interception.context("pypi.test") is context
    assert await bench.interception.context("npm.test") is not context
    assert bench.interception.root_pem() == bench.files.root.read_bytes()
    assert bench.asked == [["npm.test", "pypi.test"]]
    assert bench.value("leeward_authority_intermediate_ends_seconds") == pytest.approx(bench.now + 90 * DAY_S, abs=1)
    assert bench.value("leeward_authority_troubled") == 0


async def test_whoever_comes_before_the_first_certificate_waits_for_it(tmp_path: Path, nursery: trio.Nursery) -> None:
    bench = Bench(tmp_path, "pypi.test")
    with pytest.raises(Unavailable, match="being made"):
        bench.interception.root_pem()
    got: list[ssl.SSLContext] = []

    async def client() -> None:
        got.append(await bench.interception.context("pypi.test"))

    for _ in range(10):
        nursery.start_soon(client)
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(bench.interception.run)
    await until(lambda: len(got) == 10)
    assert len(set(map(id, got))) == 1
    assert len(bench.asked) == 1


async def test_clients_that_come_while_the_signer_runs_cause_no_second_round(tmp_path: Path, nursery: trio.Nursery) -> None:
    bench = Bench(tmp_path, "pypi.test")
    nursery.start_soon(bench.interception.run)
    await until(lambda: bench.asked)
    await bench.interception.context("pypi.test")
    await trio.testing.wait_all_tasks_blocked()
    assert len(bench.asked) == 1


async def test_without_hosts_the_signer_makes_a_root_and_is_left_alone(tmp_path: Path, nursery: trio.Nursery) -> None:
    bench = Bench(tmp_path)
    await nursery.start(bench.interception.run)
    await until(lambda: bench.interception._root and not bench.interception._is_signing)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert bench.asked == [[]]
    assert bench.interception.root_pem() == bench.files.root.read_bytes()
    bench.hosts.add("pypi.test")
    assert shown(await bench.interception.context("pypi.test"), bench.files, "pypi.test")


async def test_hosts_that_are_added_together_are_signed_for_together(tmp_path: Path, nursery: trio.Nursery) -> None:
    bench = Bench(tmp_path, "pypi.test")
    await nursery.start(bench.interception.run)
    before = await bench.interception.context("pypi.test")
    bench.hosts.add("files.pypi.test")
    bench.hosts.add("npm.test")
    added = await bench.interception.context("npm.test")
    assert shown(added, bench.files, "npm.test")
    assert shown(await bench.interception.context("files.pypi.test"), bench.files, "files.pypi.test")
    assert await bench.interception.context("pypi.test") is before, "its certificate has not changed"
    assert bench.asked == [["pypi.test"], ["files.pypi.test", "npm.test", "pypi.test"]]


async def test_a_host_that_is_added_while_the_signer_runs_is_in_the_next_round(tmp_path: Path, nursery: trio.Nursery) -> None:
    bench = Bench(tmp_path, "pypi.test")
    nursery.start_soon(bench.interception.run)
    await until(lambda: bench.asked)
    bench.hosts.add("npm.test")
    assert shown(await bench.interception.context("npm.test"), bench.files, "npm.test")
    assert bench.asked == [["pypi.test"], ["npm.test", "pypi.test"]]


@pytest.mark.usefixtures("quick")
async def test_a_certificate_is_renewed_before_it_ends_and_connections_get_the_new_one(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    bench = Bench(tmp_path, "pypi.test")
    await nursery.start(bench.interception.run)
    before = await bench.interception.context("pypi.test")
    first = shown(before, bench.files, "pypi.test")
    bench.now += 4 * DAY_S
    await until(lambda: bench.interception._held["pypi.test"].context is not before)
    after = await bench.interception.context("pypi.test")
    assert bench.interception._held["pypi.test"].lease.ends == pytest.approx(bench.now + 7 * DAY_S, abs=1)
    assert bench.value("leeward_authority_intermediate_ends_seconds") == pytest.approx(bench.now + 86 * DAY_S, abs=1)
    assert after is not before
    assert first
    bench.now += 60 * DAY_S
    await until(lambda: (bench.value("leeward_authority_intermediate_ends_seconds") or 0) > bench.now + 80 * DAY_S)


async def test_after_a_long_sleep_of_the_machine_the_first_client_gets_a_certificate_that_has_not_ended(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    """The clock has moved, and nobody has looked at it since: ``CHECK_S`` is a minute of the machine's being awake."""
    bench = Bench(tmp_path, "pypi.test")
    await nursery.start(bench.interception.run)
    before = await bench.interception.context("pypi.test")
    bench.now += 30 * DAY_S
    after = await bench.interception.context("pypi.test")
    assert after is not before
    assert bench.interception._held["pypi.test"].lease.ends > bench.now


@pytest.mark.usefixtures("quick")
async def test_without_the_roots_key_old_hosts_go_on_and_new_ones_are_unavailable_with_a_sentence(
    tmp_path: Path, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path, "pypi.test")
    await nursery.start(bench.interception.run)
    before = await bench.interception.context("pypi.test")
    aside = bench.files.root_key.rename(tmp_path / "aside")
    bench.hosts.add("npm.test")
    with caplog.at_level(logging.INFO):
        with pytest.raises(Unavailable, match=r"the intermediate is not for npm\.test.*the root's key .*root\.key is not there"):
            await bench.interception.context("npm.test")
        assert await bench.interception.context("pypi.test") is before
        assert bench.value("leeward_authority_troubled") == 1
        await until(lambda: len(bench.asked) >= 4)
        warned = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warned) == 1, "the same sentence once, however often it is tried"
        aside.rename(bench.files.root_key)
        await until(lambda: bench.value("leeward_authority_troubled") == 0)
    assert shown(await bench.interception.context("npm.test"), bench.files, "npm.test")
    assert "the authority signs again" in caplog.text


async def test_clients_do_not_start_signers(tmp_path: Path, nursery: trio.Nursery) -> None:
    """What cannot be signed for is not tried as often as somebody asks."""
    bench = Bench(tmp_path, "pypi.test")
    bench.files.directory.mkdir()
    bench.files.root.write_text("garbage")
    await nursery.start(bench.interception.run)
    for _ in range(50):
        with pytest.raises(Unavailable, match=r"root\.pem cannot be used"):
            await bench.interception.context("pypi.test")
    with pytest.raises(Unavailable, match=r"root\.pem cannot be used"):
        bench.interception.root_pem()
    assert len(bench.asked) == 1


async def test_a_host_that_is_none_harms_no_other(tmp_path: Path, nursery: trio.Nursery) -> None:
    bench = Bench(tmp_path, "pypi.test", "../evil")
    await nursery.start(bench.interception.run)
    assert shown(await bench.interception.context("pypi.test"), bench.files, "pypi.test")
    with pytest.raises(Unavailable, match="no host name"):
        await bench.interception.context("../evil")


async def test_a_host_that_is_not_stood_in_for_is_never_signed_for(tmp_path: Path, nursery: trio.Nursery) -> None:
    bench = Bench(tmp_path, "pypi.test")
    await nursery.start(bench.interception.run)
    await bench.interception.context("pypi.test")
    with pytest.raises(Unavailable, match="not stood in for"):
        await bench.interception.context("evil.test")
    assert not bench.files.leaf("evil.test").exists()
    assert bench.asked == [["pypi.test"]]


async def test_a_signer_that_hangs_keeps_a_client_ten_seconds(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    bench = Bench(tmp_path, "pypi.test")

    async def hang(names: frozenset[str]) -> Issued:
        await trio.sleep_forever()
        raise AssertionError

    bench.interception._ask_signer = hang  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.interception.run)
        began = trio.current_time()
        with pytest.raises(Unavailable, match=r"pypi\.test is not made yet"):
            await bench.interception.context("pypi.test")
        assert trio.current_time() - began == pytest.approx(10)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        (["/nonexistent/python"], "could not be started"),
        (["sleep", "60"], "was not done within"),
        (["sh", "-c", "echo The disk is full. >&2; exit 1"], "The disk is full."),
    ],
)
async def test_a_signer_that_cannot_work_is_a_sentence(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, program: list[str], sentence: str
) -> None:
    monkeypatch.setattr(intercept, "signer_command", lambda directory, now: program)
    monkeypatch.setattr(intercept, "SIGNER_LIMIT_S", 0.3)
    bench = Bench(tmp_path, "pypi.test")
    await nursery.start(bench.interception.run)
    with pytest.raises(Unavailable, match=sentence):
        await bench.interception.context("pypi.test")


@pytest.mark.usefixtures("quick")
async def test_a_damaged_leaf_file_does_not_take_away_the_certificate_in_memory(tmp_path: Path, nursery: trio.Nursery) -> None:
    bench = Bench(tmp_path, "pypi.test")
    await nursery.start(bench.interception.run)
    before = await bench.interception.context("pypi.test")

    async def nothing(names: frozenset[str]) -> Issued:
        return Issued({}, told=("The disk is full.",))

    bench.interception._ask_signer = nothing  # type: ignore[method-assign]
    bench.hosts.changed()
    await until(lambda: bench.value("leeward_authority_troubled") == 1)
    assert await bench.interception.context("pypi.test") is before


async def test_a_stopping_edge_ends_its_signer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "pid"
    monkeypatch.setattr(intercept, "signer_command", lambda directory, now: ["sh", "-c", f"echo $$ > {mark}; exec sleep 60"])
    bench = Bench(tmp_path, "pypi.test")
    async with trio.open_nursery() as nursery:
        await nursery.start(bench.interception.run)
        await until(lambda: mark.exists() and mark.read_text().strip())
        nursery.cancel_scope.cancel()
    pid = int(mark.read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_signer_sees_the_modules_that_its_starter_sees(tmp_path: Path) -> None:
    command = signer.signer_command(tmp_path, 1.5)
    assert command[1:] == ["-P", "-m", "edge.authority", str(tmp_path), "1.5"]
    assert str(Path(signer.__file__).parents[1]) in signer.signer_environment()["PYTHONPATH"].split(":")
