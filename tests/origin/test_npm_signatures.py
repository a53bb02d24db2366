"""The registry's signatures: what a swapped integrity, an unknown or expired key, or none at all is told."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from origin.model import Entry, Listing, Page
from origin.registries import Options, Registry
from origin.registries.npm import NPM

KIND = "ecdsa-sha2-nistp256"
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
INTEGRITY = f"sha512-{base64.b64encode(bytes(64)).decode()}"
PAGE = Page("npm", "@scope/name")


def public(key: ec.EllipticCurvePrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def described(keyid: str, key: str, **changes: object) -> dict[str, object]:
    return {"expires": None, "keyid": keyid, "keytype": KIND, "scheme": KIND, "key": key, **changes}


def keys(*described_keys: dict[str, object]) -> bytes:
    return json.dumps({"keys": described_keys}).encode()


def signature(integrity: str = INTEGRITY, keyid: str = "SHA256:one", version: str = "1.0.0", key: Any = KEY) -> dict[str, str]:
    payload = f"@scope/name@{version}:{integrity}".encode()
    return {"keyid": keyid, "sig": base64.b64encode(key.sign(payload, ec.ECDSA(SHA256()))).decode()}


def registry(*described_keys: dict[str, object], **options: Any) -> Registry:
    return NPM(
        "npm", "https://npm.test/", Options(keys=keys(*(described_keys or (described("SHA256:one", public(KEY)),))), **options)
    )


def listing(of: Registry, time: str | None = "2024-01-01T00:00:00.000Z", **dist: object) -> Listing:
    tarball = "https://npm.test/@scope/name/-/name-1.0.0.tgz"
    manifest = {"name": "@scope/name", "version": "1.0.0", "dist": {"integrity": INTEGRITY, "tarball": tarball, **dist}}
    document = {"name": "@scope/name", "versions": {"1.0.0": manifest}, "time": {} if time is None else {"1.0.0": time}}
    return of.read(PAGE, json.dumps(document).encode(), "application/json", "https://npm.test/@scope%2fname")


def fault(of: Registry, time: str | None = "2024-01-01T00:00:00.000Z", **dist: object) -> str:
    entry: Entry = listing(of, time, **dist).entries["name-1.0.0.tgz"]
    return of.check(entry.file, entry, "", None)


def test_a_good_signature_is_nothing_to_speak_of() -> None:
    assert fault(registry(), signatures=[signature()]) == ""
    assert fault(registry(signatures="require"), signatures=[signature()]) == ""


def test_an_integrity_exchanged_together_with_its_tarball_is_found_out() -> None:
    other = f"sha512-{base64.b64encode(bytes(63) + b'x').decode()}"
    assert "does not hold" in fault(registry(), integrity=other, signatures=[signature()])
    assert "does not hold" in fault(registry(), integrity=f"{INTEGRITY} ", signatures=[signature()])
    assert "does not hold" in fault(registry(), signatures=[signature(version="1.0.1")])
    assert "does not hold" in fault(registry(), signatures=[signature(key=OTHER)])
    assert "does not hold" in fault(registry(), signatures=[{"keyid": "SHA256:one", "sig": "not base64!"}])
    # The first may be good: each must hold.
    assert "does not hold" in fault(registry(), signatures=[signature(), signature(key=OTHER)])


def test_an_integrity_that_is_not_there_cannot_have_been_signed() -> None:
    assert "no integrity" in fault(registry(), integrity=None, signatures=[signature()])


def test_what_is_signed_with_a_key_nobody_configured_is_refused() -> None:
    assert "none of those configured" in fault(registry(), signatures=[signature(keyid="SHA256:two")])
    both = registry(described("SHA256:one", public(KEY)), described("SHA256:two", public(OTHER)))
    assert fault(both, signatures=[signature(keyid="SHA256:two", key=OTHER), signature()]) == ""


@pytest.mark.parametrize(
    ("published", "good"),
    [
        ("2024-01-01T00:00:00.000Z", True),
        ("2025-01-28T23:59:59.999Z", True),
        ("2025-01-29T00:00:00.000Z", False),
        ("2026-01-01T00:00:00.000Z", False),
        # "missing time counts as 2015-01-01"
        (None, True),
    ],
)
def test_a_key_vouches_for_what_was_published_before_it_expired(published: str | None, good: bool) -> None:
    expiring = registry(described("SHA256:one", public(KEY), expires="2025-01-29T00:00:00.000Z"))
    assert ("expired" not in fault(expiring, published, signatures=[signature()])) == good


def test_having_no_signature_is_a_fault_only_where_one_is_required() -> None:
    nothing: tuple[dict[str, Any], ...] = ({}, {"signatures": []}, {"signatures": None})
    for dist in nothing:
        assert fault(registry(), **dist) == ""
        assert "required" in fault(registry(signatures="require"), **dist)
    assert "cannot be read" in fault(registry(), signatures="none")
    file = listing(registry()).entries["name-1.0.0.tgz"].file
    assert registry().check(file, None, "", None) == ""
    assert registry(signatures="require").check(file, None, "", None)


def test_who_has_no_keys_checks_nothing() -> None:
    unchecking: Registry = NPM("npm", "https://npm.test/", Options(signatures="require"))
    assert fault(unchecking, signatures=[signature(key=OTHER)]) == ""


def test_keys_of_other_kinds_are_passed_over() -> None:
    kept = registry(described("SHA256:rsa", "AAAA", keytype="rsa"), described("SHA256:one", public(KEY)))
    assert fault(kept, signatures=[signature()]) == ""
    assert "none of those configured" in fault(kept, signatures=[signature(keyid="SHA256:rsa")])


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b"", "no key document"),
        (b"<html>", "no key document"),
        (b"[]", "no key document"),
        (b'{"keys": 1}', "no key document"),
        (b'{"keys": []}', "no signing key"),
        (keys(described("SHA256:one", public(KEY), scheme="other")), "no signing key"),
        (keys(described("SHA256:one", "not base64")), "SHA256:one"),
        (keys(described("SHA256:one", "AAAA")), "SHA256:one"),
        (keys(described("SHA256:one", public(KEY), expires="soon")), "SHA256:one"),
        (keys(described("SHA256:one", public(ec.generate_private_key(ec.SECP384R1())))), "P-256"),
    ],
)
def test_keys_that_cannot_be_used_stop_the_start(document: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        NPM("npm", "https://npm.test/", Options(keys=document))


def test_what_was_put_back_from_a_binding_claims_no_signature() -> None:
    checking = registry()
    listed = listing(checking, signatures=[signature()])
    entry = listed.entries["name-1.0.0.tgz"]
    held = Entry(entry.file, entry.url, entry.digests[:1], 10, entry.published)
    amended = checking.amend(listed, {"name-1.0.0.tgz": held})
    again = checking.reread(PAGE, amended.document).entries["name-1.0.0.tgz"]
    assert again.digests == entry.digests
    assert checking.check(again.file, again, "", None) == ""
    assert b"signatures" not in amended.document


def test_the_key_page_is_relayed_as_it_is() -> None:
    page = Page("npm", "", "keys")
    body = b'{ "keys": [ {"keyid": "SHA256:whatever", "more": 1.0} ] }'
    read = registry().read(page, body, "application/json; charset=utf-8", "https://npm.test/-/npm/v1/keys")
    assert registry().write(read, "application/json", "http://edge.test/npm/") == body
    for bad in (b"{}", b'{"keys": {}}', b"[]", b'{"keys": [1}', b'{"keys": []}x'):
        with pytest.raises(ValueError):
            registry().read(page, bad, "application/json", "")
