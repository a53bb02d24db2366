"""An origin's keys: made once, kept for their owner alone, never replaced by others without a word."""

from __future__ import annotations

import base64
import ssl
import stat
import time
from pathlib import Path

import pytest
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from origin import identity
from origin.errors import Unusable
from origin.identity import FILES, open_identity, pin_of

HOSTS = ("localhost", "127.0.0.1", "::1", "origin.test")


def opened(data: Path, *hosts: str, signed_by: str = "", now: float | None = None) -> identity.Identity:
    return open_identity(data, hosts or HOSTS, time.time() if now is None else now, signed_by=signed_by)


def certificate(data: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((data / "tls/cert.pem").read_bytes())


def test_keys_are_made_once_and_are_the_same_ever_after(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    assert first.public_key == second.public_key
    assert first.fleet == second.fleet and len(first.fleet) == 32
    assert first.pin() == second.pin() == pin_of(certificate(tmp_path))


def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    opened(tmp_path)
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in FILES}
    assert modes == {"ledger.key": 0o600, "fleet.key": 0o600, "tls/cert.pem": 0o644, "tls/key.pem": 0o600}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fleet.key", "ledger.key", "tls"]


def test_no_secret_is_shown(tmp_path: Path) -> None:
    ours = opened(tmp_path)
    assert ours.fleet.hex() not in repr(ours) and repr(ours.fleet) not in repr(ours)


def test_the_ledgers_signature_can_be_checked_by_whoever_has_the_public_key(tmp_path: Path) -> None:
    ours = opened(tmp_path)
    Ed25519PublicKey.from_public_bytes(base64.b64decode(ours.key_text)).verify(ours.sign(b"a checkpoint"), b"a checkpoint")


async def test_the_strictest_verifier_accepts_the_certificate_for_every_host(tmp_path: Path) -> None:
    ours = opened(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(ours.certificate, ours.key)
    client = ssl.create_default_context(cafile=str(ours.certificate))
    assert client.verify_flags & ssl.VerifyFlags.VERIFY_X509_STRICT
    for host in HOSTS:
        ends = trio.testing.memory_stream_pair()
        theirs = trio.SSLStream(ends[0], client, server_hostname=host)
        mine = trio.SSLStream(ends[1], server, server_side=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.do_handshake)
            nursery.start_soon(mine.do_handshake)


def test_a_certificate_near_its_end_is_made_anew_under_the_same_pin(tmp_path: Path) -> None:
    before = opened(tmp_path)
    pin, old = before.pin(), certificate(tmp_path)
    assert opened(tmp_path, now=time.time() + 8 * 365 * 86400.0).pin() == pin
    assert certificate(tmp_path) == old
    assert opened(tmp_path, now=time.time() + 9.5 * 365 * 86400.0).pin() == pin
    assert certificate(tmp_path).not_valid_after_utc > old.not_valid_after_utc


def test_a_host_that_the_certificate_does_not_name_is_added_under_the_same_pin(tmp_path: Path) -> None:
    pin = opened(tmp_path).pin()
    assert opened(tmp_path, "other.test", "no host", "*").pin() == pin
    named = certificate(tmp_path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert named.get_values_for_type(x509.DNSName) == ["other.test", "localhost", "origin.test"]
    assert [str(address) for address in named.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


def test_an_operators_own_certificate_is_shown_instead(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "data").mkdir()
    theirs = opened(tmp_path / "ours")
    given = open_identity(tmp_path / "data", HOSTS, time.time(), given=(theirs.certificate, theirs.key))
    assert given.pin() == theirs.pin()
    assert not (tmp_path / "data" / "tls").exists()


def test_a_ledgers_key_is_not_made_twice(tmp_path: Path) -> None:
    signed_by = opened(tmp_path).key_text
    assert opened(tmp_path, signed_by=signed_by).key_text == signed_by
    (tmp_path / "ledger.key").unlink()
    with pytest.raises(Unusable, match=r"which signed this ledger, is missing: restore it from a backup"):
        opened(tmp_path, signed_by=signed_by)
    assert not (tmp_path / "ledger.key").exists()
    opened(tmp_path)
    with pytest.raises(Unusable, match="is not the one that signed this ledger"):
        opened(tmp_path, signed_by=signed_by)


@pytest.mark.parametrize("name", FILES)
def test_what_is_damaged_is_told_and_left_alone(tmp_path: Path, name: str) -> None:
    opened(tmp_path)
    (tmp_path / name).write_bytes(b"\xff nothing of use")
    with pytest.raises(Unusable, match=name):
        opened(tmp_path)
    assert (tmp_path / name).read_bytes() == b"\xff nothing of use"


def test_a_certificate_whose_key_is_gone_is_not_replaced(tmp_path: Path) -> None:
    opened(tmp_path)
    (tmp_path / "tls/key.pem").unlink()
    with pytest.raises(Unusable, match=r"The key .* is missing"):
        opened(tmp_path)


def test_a_key_that_was_made_before_a_crash_is_used(tmp_path: Path) -> None:
    pin = opened(tmp_path).pin()
    (tmp_path / "tls/cert.pem").unlink()
    assert opened(tmp_path).pin() == pin


def test_a_directory_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "ledger.key").mkdir()
    with pytest.raises(Unusable, match="cannot be used"):
        opened(tmp_path)
