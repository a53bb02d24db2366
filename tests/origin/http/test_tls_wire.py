"""The wire over TLS: what it counts as sent, what it keeps, how it ends; and certificates read again when their files change."""

from __future__ import annotations

import logging
import os
import random
import shutil
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from cryptography import x509

from origin.http.certificate import LOOK_S, FileCertificate
from origin.http.limits import Limits
from origin.http.sending import Transfer
from origin.http.tls import RECORD_BYTES, handshake, server_context
from origin.metrics import Metrics
from tests.fakes.tls import Authority
from tests.origin.http.loopback import settled
from tests.origin.http.tls_client import Shown, joined


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    return Shown(tmp_path_factory.mktemp("tls"))


def full(send: Callable[[], int]) -> int:
    """Send until nothing fits; how much was sent."""
    sent = 0
    try:
        while True:
            sent += send()
    except BlockingIOError:
        return sent


# ---- sending ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
async def test_what_counts_as_sent_arrives_once_and_in_order_however_it_is_split(shown: Shown, seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    stream = chance.randbytes(600_000)
    path = tmp_path / "file"
    path.write_bytes(stream)
    async with joined(shown) as (wire, talker):
        sent = blocked = 0
        with path.open("rb") as file:
            while sent < len(stream):
                size = chance.choice((1, 100, 5_000, RECORD_BYTES, RECORD_BYTES + 1, 40_000, 300_000))
                piece = stream[sent : sent + size]
                cut = chance.randrange(len(piece) + 1)
                try:
                    match chance.randrange(4):
                        case 0:
                            sent += wire.send_nowait(piece)
                        case 1:
                            sent += wire.send_nowait(memoryview(piece))
                        case 2:
                            sent += wire.send_parts_nowait((piece[:cut], piece[cut:]))
                        case _:
                            sent += wire.sendfile_nowait(file.fileno(), sent, len(piece))
                except BlockingIOError:
                    blocked += 1
                    await trio.lowlevel.wait_readable(talker.sock)
                    talker.take(chance.choice((1, 1000, 20_000)))
        # The wire is not asked to do anything more: what it called sent is with the kernel.
        assert blocked > 5
        with trio.fail_after(10):
            assert await talker.read(len(stream)) == stream
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert talker.take() == 0


async def test_nothing_counts_as_sent_before_the_kernel_has_it(shown: Shown) -> None:
    async with joined(shown) as (wire, talker):
        data = bytes(range(256)) * 4000
        sent = 0

        def send() -> int:
            nonlocal sent
            count = wire.send_nowait(data[sent:])
            sent += count
            return count

        full(send)
        assert 0 < sent < len(data)
        with trio.fail_after(10):
            assert await talker.read(sent) == data[:sent]


async def test_other_bytes_than_those_that_were_begun_are_a_mistake_of_the_caller(shown: Shown) -> None:
    async with joined(shown) as (wire, talker):
        data = bytes(1_000_000)
        full(lambda: wire.send_nowait(data[:10_000]))

        def send_other() -> int:
            return wire.send_nowait(b"other bytes")

        talker.take()
        with pytest.raises(AssertionError):
            full(send_other)


async def test_a_peer_that_does_not_read_costs_a_record_and_no_more(shown: Shown) -> None:
    async with joined(shown) as (wire, _):
        data = bytes(5_000_000)
        full(lambda: wire.send_nowait(data))
        full(lambda: wire.send_parts_nowait((data[:100], data)))
        assert len(wire._kept) <= RECORD_BYTES


async def test_a_file_that_ends_early_is_told_by_zero(shown: Shown, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    async with joined(shown) as (wire, talker):
        with path.open("rb") as file:
            assert wire.sendfile_nowait(file.fileno(), 1, 100) == 2
            assert wire.sendfile_nowait(file.fileno(), 3, 100) == 0
        assert await talker.read(2) == b"bc"


# ---- receiving --------------------------------------------------------------------------------------------------------


async def test_a_record_is_taken_whole_so_that_none_is_left_where_no_selector_sees_it(shown: Shown) -> None:
    async with joined(shown) as (wire, talker):
        await talker.send(b"a" * 10_000)
        await trio.lowlevel.wait_readable(wire.fileno())
        assert wire.recv_nowait(10) == b"a" * 10_000
        with pytest.raises(BlockingIOError):
            wire.recv_nowait(10)


async def test_half_a_record_is_nothing_yet(shown: Shown) -> None:
    async with joined(shown) as (wire, talker):
        talker.tls.write(b"hello")
        record = talker._outgoing.read()
        for half in (record[:7], record[7:]):
            with pytest.raises(BlockingIOError):
                wire.recv_nowait(100)
            talker.sock.send(half)
            await trio.lowlevel.wait_readable(wire.fileno())
        assert wire.recv_nowait(100) == b"hello"


async def test_what_is_no_tls_breaks_the_wire(shown: Shown) -> None:
    async with joined(shown) as (wire, talker):
        talker.sock.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await trio.lowlevel.wait_readable(wire.fileno())
        with pytest.raises(ssl.SSLError):
            wire.recv_nowait(100)


async def test_both_ways_to_end_are_the_end(shown: Shown) -> None:
    for is_said in (True, False):
        async with joined(shown) as (wire, talker):
            if is_said:
                await talker.say_end()
            else:
                talker.sock.close()
            await trio.lowlevel.wait_readable(wire.fileno())
            assert wire.recv_nowait(100) == b""


# ---- ending -----------------------------------------------------------------------------------------------------------


async def test_a_finished_wire_has_said_so_and_goes_on_reading(shown: Shown) -> None:
    async with joined(shown) as (wire, talker):
        wire.send_nowait(b"bye")
        wire.finish()
        assert await talker.read(100) == b"bye"
        assert (talker.is_ended, talker.is_cut) == (True, False)
        await talker.send(b"still here")
        await trio.lowlevel.wait_readable(wire.fileno())
        assert wire.recv_nowait(100) == b"still here"
        await talker.say_end()
        await trio.lowlevel.wait_readable(wire.fileno())
        assert wire.recv_nowait(100) == b""
        # From here on nothing protects what the peer might send.
        talker.sock.send(b"GET /plain HTTP/1.1\r\n\r\n")
        assert wire.recv_nowait(100) == b""


async def test_what_came_before_the_end_was_said_can_be_read_after_it_and_nothing_be_sent(shown: Shown) -> None:
    async with joined(shown) as (wire, talker):
        await talker.send(b"one")
        await talker.send(b"two")
        await trio.lowlevel.wait_readable(wire.fileno())
        wire.finish()
        wire.finish()
        assert wire.recv_nowait(100) == b"one"
        talker.take()
        ended = [talker.is_ended]
        assert wire.recv_nowait(100) == b"two"
        assert await talker.read(1) == b""
        assert [*ended, talker.is_ended] == [False, True]
        await talker.send(b"three")
        await trio.lowlevel.wait_readable(wire.fileno())
        wire.finish()
        assert wire.recv_nowait(100) == b"three"
        with pytest.raises(BrokenPipeError):
            wire.send_nowait(b"more")
        with pytest.raises(BrokenPipeError):
            wire.send_parts_nowait((b"more", bytes(20_000)))


async def test_a_wire_closed_without_a_word_looks_cut_off(shown: Shown) -> None:
    async with joined(shown) as (wire, talker):
        wire.send_nowait(b"the beginning")
        wire.close()
        wire.close()
        assert await talker.read(100) == b"the beginning"
        assert (talker.is_ended, talker.is_cut) == (False, True)


async def test_what_is_still_on_its_way_cannot_be_finished(shown: Shown) -> None:
    async with joined(shown) as (wire, talker):
        data = bytes(1_000_000)
        full(lambda: wire.send_nowait(data))
        wire.finish()
        wire.close()
        await talker.read(len(data))
        assert talker.is_cut


async def test_an_aborted_wire_is_reset(shown: Shown) -> None:
    async with joined(shown) as (wire, talker):
        wire.abort()
        wire.abort()
        with pytest.raises(ConnectionResetError):
            await talker.read(1)


async def test_a_wire_knows_when_both_sides_are_gone_and_what_has_arrived(shown: Shown) -> None:
    async with joined(shown) as (wire, talker):
        transfer = Transfer(wire, Limits(), trio.CapacityLimiter(1))
        await settled(transfer.is_at_rest)
        before = wire.acknowledged()
        wire.send_nowait(bytes(1000))
        await talker.read(1000)
        await settled(transfer.is_at_rest)
        assert 1000 <= wire.acknowledged() - before < 1100
        assert not wire.is_broken()
        wire.finish()
        talker.sock.close()
        await trio.lowlevel.wait_readable(wire.fileno())
        assert wire.is_broken()


# ---- the handshake and the context ------------------------------------------------------------------------------------


async def test_a_connection_that_broke_before_the_handshake_is_an_error_and_closed(shown: Shown) -> None:
    near, far = socket.socketpair()
    near.close()
    far.setblocking(False)
    descriptor = far.fileno()
    with pytest.raises(OSError):
        await handshake(far, shown.server, 5)
    with pytest.raises(OSError):
        os.fstat(descriptor)


def test_a_context_that_cannot_be_had_is_told_in_a_sentence(tmp_path: Path, shown: Shown) -> None:
    absent = tmp_path / "absent.pem"
    with pytest.raises(ValueError, match=r"absent\.pem cannot be read: No such file"):
        server_context(str(absent))
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    with pytest.raises(ValueError, match=r"nonsense\.pem cannot be used for TLS: they are not a certificate"):
        server_context(str(nonsense))
    other = Authority(tmp_path / "other").certificate("localhost")
    with pytest.raises(ValueError, match="the key does not belong to the certificate"):
        server_context(str(shown.path), str(other))


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(tmp_path: Path, shown: Shown) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key(shown.path.read_bytes(), None)
    path = tmp_path / "key.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    with pytest.raises(ValueError, match="the key is protected by a password"):
        server_context(str(shown.path), str(path))


# ---- certificates in files --------------------------------------------------------------------------------------------


def serial(wire_certificate: bytes | None) -> int:
    assert wire_certificate is not None
    return x509.load_der_x509_certificate(wire_certificate).serial_number


async def test_changed_files_are_read_again_and_a_bad_pair_leaves_the_one_before(
    tmp_path: Path, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path / "authority")
    first, second = authority.certificate("localhost"), authority.certificate("localhost")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copy(first, cert)
    shutil.copy(first, key)
    metrics = Metrics()
    certificate = FileCertificate(cert, key, clock=lambda: 1_800_000_000.0, metrics=metrics)
    leaf = x509.load_pem_x509_certificate(first.read_bytes())
    assert certificate.expires_at == leaf.not_valid_after_utc.timestamp() == metrics.certificate_expires._value.get()
    before = certificate.context()

    async def idle() -> None:
        threads = trio.to_thread.current_default_thread_limiter()
        await trio.testing.wait_all_tasks_blocked(0.01)
        while threads.borrowed_tokens:
            await trio.testing.wait_all_tasks_blocked(0.01)

    async def looked() -> None:
        await idle()
        mock_clock.jump(LOOK_S + 0.1)
        await idle()

    async with trio.open_nursery() as nursery:
        await nursery.start(certificate.run)
        await looked()
        assert certificate.context() is before
        shutil.copy(second, cert)  # whose key is yet to come
        await looked()
        assert certificate.context() is before
        assert caplog.text.count("the certificate before stays in use") == 1
        assert "the key does not belong to the certificate" in caplog.text
        await looked()
        assert caplog.text.count("the certificate before stays in use") == 1
        cert.unlink()
        await looked()
        assert certificate.context() is before
        shutil.copy(second, cert)
        shutil.copy(second, key)
        await looked()
        assert certificate.context() is not before
        leaf = x509.load_pem_x509_certificate(second.read_bytes())
        assert certificate.expires_at == leaf.not_valid_after_utc.timestamp()
        nursery.cancel_scope.cancel()


def test_a_certificate_that_has_ended_is_told_to_the_operator(shown: Shown, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        FileCertificate(shown.path, clock=lambda: 1e11)
    assert "has ended: clients will refuse it" in caplog.text


async def test_a_certificate_that_ends_while_it_is_in_use_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = 1_800_000_000.0
    certificate = FileCertificate(Shown(tmp_path).path, clock=lambda: now)
    await certificate._look()
    assert "has ended" not in caplog.text
    now = certificate.expires_at
    for _ in range(3):
        await certificate._look()
    assert caplog.text.count("has ended: clients will refuse it") == 1
