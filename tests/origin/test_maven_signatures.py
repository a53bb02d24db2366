"""Detached OpenPGP signatures: what each finding means for a file. Certificates are made here; those of old times are kept below."""

from __future__ import annotations

from pathlib import Path

import pysequoia
import pytest
from pysequoia import SignatureMode, Tsk

from origin.model import File
from origin.registries import Options, Registry
from origin.registries.maven import Maven
from origin.registries.maven_signatures import Keyring

CONTENT = b"content of the jar\n"
"""What every kept signature below is of."""

SHA1_KEY = b"""\
-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEXtRFABYJKwYBBAHaRw8BAQdA9Gz5e+PrhMYCeFMOOOXuWz+vRijyxm+wAiEZ
OBt62CK0GU9sZCBoYXNoIDxvbGRAbWF2ZW4udGVzdD6IkAQTFggAOBYhBMEhwmhU
I8fj5yABtJKVL2UVHG+6BQJe1EUAAhsDBQsJCAcCBhUKCQgLAgQWAgMBAh4BAheA
AAoJEJKVL2UVHG+6CLEBAIMe/FMOoR6JnEst3yQWnF5R0HI+8O9vfoQO9xA2Hwde
AP4p0NYyihZG6ktoF9lUYKRdTmStYP6MxccoMshaxCyhDw==
=uibR
-----END PGP PUBLIC KEY BLOCK-----
"""
SHA1_SIGNATURE = b"""\
-----BEGIN PGP SIGNATURE-----

iIUEABYCAC0WIQTBIcJoVCPH4+cgAbSSlS9lFRxvugUCXtWWgA8cb2xkQG1hdmVu
LnRlc3QACgkQkpUvZRUcb7r/BAEAocrFrNIQEOP/DX3PEuvqPR2piaoxDI3AqpLH
5W/el/wA/39F0t6dqYTY9PHo1xsKSmwKAEwYM6mW9eKMjBgp7rkN
=xKuF
-----END PGP SIGNATURE-----
"""
"""An Ed25519 key, and a signature by it over SHA-1."""

BINDING_KEY = b"""\
-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEXtRFABYJKwYBBAHaRw8BAQdAINlaSuxGDheUIPtuVDMwZznBAI/rOJ/ZK66A
R9LyAKy0IE9sZCBiaW5kaW5nIDxiaW5kaW5nQG1hdmVuLnRlc3Q+iJAEExYCADgW
IQQnXTE0rscl7tRXJ/2MOD86xbssMQUCXtRFAAIbAwULCQgHAgYVCgkICwIEFgID
AQIeAQIXgAAKCRCMOD86xbssMf6xAQCfj2G0OxIpbbFWAZC6I4oAzzZ7PDSCIZDq
Y3IXlDvYxwEA2XGiwSMXkQIY/OVAfHSzpXHxOTXS36UNaFL6r1vIxAQ=
=QKpG
-----END PGP PUBLIC KEY BLOCK-----
"""
BINDING_SIGNATURE = b"""\
-----BEGIN PGP SIGNATURE-----

iIkEABYIADEWIQQnXTE0rscl7tRXJ/2MOD86xbssMQUCXtWWgBMcYmluZGluZ0Bt
YXZlbi50ZXN0AAoJEIw4PzrFuywx0nYA/RWK+edO445Dm9+J/d4QwQ3Y5o1TtWi3
b00M3u5PUTJRAQCNWBFN6RIUqNVRCju47Q95nOIwVZdEg6vY1Otvzj6MCw==
=Iukv
-----END PGP SIGNATURE-----
"""
"""An Ed25519 key that only SHA-1 binds to its user, and a signature by it over SHA-512."""

EXPIRED_KEY = b"""\
-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEXgvhABYJKwYBBAHaRw8BAQdAauV9ksNr7Ktsg4iPEtVtfRAx/40vP8KU/mlv
gXsHApu0HEV4cGlyZWQgPGV4cGlyZWRAbWF2ZW4udGVzdD6IlgQTFggAPhYhBPFH
JcLjOSx0h3P5Wi4MHyhAizghBQJeC+EAAhsDBQkB4TOABQsJCAcCBhUKCQgLAgQW
AgMBAh4BAheAAAoJEC4MHyhAizghi/8BAN2iP6OcvSFhyy0eTC+iihcNXOFCah8d
8YlC9e77+ZuZAQCk9IHYJKfWZxcHsi85dOfrujSOYB7OjdYyVTpRyAx1Cg==
=WiRY
-----END PGP PUBLIC KEY BLOCK-----
"""
EXPIRED_SIGNATURE = b"""\
-----BEGIN PGP SIGNATURE-----

iIkEABYIADEWIQTxRyXC4zksdIdz+VouDB8oQIs4IQUCXtWWgBMcZXhwaXJlZEBt
YXZlbi50ZXN0AAoJEC4MHyhAizghBCYA/j9gMMq+R90jTH4rcQduPPEpj/0ido2x
VduSoKcK37l6AQDncbrinvG8ICd+Q45i9Vd6O8/F4h6mv2u5keJEXSPgAg==
=qgPe
-----END PGP SIGNATURE-----
"""
"""An Ed25519 key of 2020 that expired in 2021, and a signature made meanwhile."""

UPSTREAM = "https://maven.test/maven2/"
LIB = "org/example/lib/1.0/lib-1.0"


@pytest.fixture(scope="module")
def alice() -> Tsk:
    return Tsk.generate("Alice <alice@maven.test>")


@pytest.fixture(scope="module")
def bob() -> Tsk:
    return Tsk.generate("Bob <bob@maven.test>")


@pytest.fixture
def content(tmp_path: Path) -> str:
    path = tmp_path / "spool"
    path.write_bytes(CONTENT)
    return str(path)


def certificate(key: Tsk) -> bytes:
    return str(key.extract_certificate()).encode()


def signed(key: Tsk, content: bytes = CONTENT) -> bytes:
    return pysequoia.sign(key.signer(), content, mode=SignatureMode.DETACHED)


def maven(keys: bytes | None, *, require: bool = False) -> Registry:
    return Maven("maven", UPSTREAM, Options(keys=keys, signatures="require" if require else "check"))


def file(registry: Registry, target: str = f"{LIB}.jar") -> File:
    meant = registry.resource("GET", target)
    assert isinstance(meant, File)
    return meant


# ---- what a signature is


def test_a_signature_by_a_known_key_is_valid(alice: Tsk, bob: Tsk, content: str) -> None:
    ring = Keyring(certificate(bob) + b"\n" + certificate(alice))
    assert len(ring.certificates) == 2
    assert ring.check(content, signed(alice)).status == "valid"
    assert ring.check(content, signed(bob)).status == "valid"
    binary = Keyring(bytes(alice.extract_certificate()) + bytes(bob.extract_certificate()))
    assert binary.check(content, signed(alice)).status == "valid"


def test_a_signature_of_other_bytes_is_bad(alice: Tsk, content: str) -> None:
    finding = Keyring(certificate(alice)).check(content, signed(alice, CONTENT + b"!"))
    assert finding.status == "bad"
    assert "not one of these bytes" in finding.sentence


def test_a_signature_by_a_strangers_key_is_unknown_and_names_it(alice: Tsk, bob: Tsk, content: str) -> None:
    finding = Keyring(certificate(alice)).check(content, signed(bob))
    assert finding.status == "unknown-key"
    (fingerprint,) = {packet.fingerprint for packet in signing_keys(bob)} & set(finding.sentence.split())
    assert fingerprint


def signing_keys(key: Tsk) -> list[pysequoia.packet.Packet]:
    pile = pysequoia.packet.PacketPile.from_bytes(certificate(key))
    return [packet for packet in pile if packet.fingerprint is not None]


@pytest.mark.parametrize(
    ("key", "signature", "status"),
    [
        (SHA1_KEY, SHA1_SIGNATURE, "weak-algorithm"),
        (BINDING_KEY, BINDING_SIGNATURE, "weak-algorithm"),
        (EXPIRED_KEY, EXPIRED_SIGNATURE, "valid"),
        (EXPIRED_KEY, SHA1_SIGNATURE, "unknown-key"),
    ],
)
def test_old_signatures_are_what_they_were_worth(key: bytes, signature: bytes, status: str, content: str) -> None:
    assert Keyring(key).check(content, signature).status == status


@pytest.mark.parametrize(
    "signature", [b"", b"\n", b"<html>please log in</html>", SHA1_SIGNATURE[:90], EXPIRED_KEY, b"x" * 300_000, b"\xc2\x00"]
)
def test_what_is_no_signature_is_unparseable(signature: bytes, content: str) -> None:
    finding = Keyring(SHA1_KEY).check(content, signature)
    assert finding.status == "unparseable"
    assert "\n" not in finding.sentence


def test_of_several_signatures_one_valid_one_is_enough_and_a_bad_one_is_the_gravest(alice: Tsk, bob: Tsk, content: str) -> None:
    ring = Keyring(certificate(alice) + SHA1_KEY)
    stranger, bad, good = signed(bob), signed(alice, b"else"), signed(alice)
    assert ring.check(content, stranger + bad + good).status == "valid"
    assert ring.check(content, stranger + SHA1_SIGNATURE + bad).status == "bad"
    assert ring.check(content, stranger + SHA1_SIGNATURE).status == "weak-algorithm"
    several = b"".join(bytes(pysequoia.Sig.from_bytes(each)) for each in (stranger, good))
    assert ring.check(content, several).status == "valid"


# ---- keys


@pytest.mark.parametrize("keys", [b"", b" \n", b"garbage", SHA1_SIGNATURE, SHA1_KEY[:200], b"<html></html>"])
def test_keys_that_are_none_stop_the_start_with_a_sentence(keys: bytes) -> None:
    with pytest.raises(ValueError, match="OpenPGP certificate") as raised:
        maven(keys)
    assert "\n" not in str(raised.value)


def test_a_private_key_is_not_taken(alice: Tsk, bob: Tsk) -> None:
    for keys in (
        str(alice).encode(),
        bytes(alice),
        certificate(bob) + str(alice).encode(),
        bytes(bob.extract_certificate()) + bytes(alice),
    ):
        with pytest.raises(ValueError, match="private key"):
            maven(keys)


def test_a_projects_keys_file_may_have_words_between_the_certificates(alice: Tsk, bob: Tsk) -> None:
    ring = Keyring(
        b"The keys of our release managers:\n\n"
        + certificate(alice)
        + b"\npub ed25519 Bob\n"
        + certificate(bob)
        + b"\nThe end.\n"
    )
    assert len(ring.certificates) == 2


# ---- what becomes of a file


def test_what_is_signed_has_its_signature_beside_it(alice: Tsk) -> None:
    registry = maven(certificate(alice))
    for name in (f"{LIB}.jar", f"{LIB}.pom", f"{LIB}.module", f"{LIB}-sources.tar.gz"):
        signature = registry.signature(file(registry, name))
        assert signature == file(registry, name + ".asc")
    for name in (f"{LIB}.jar.asc", f"{LIB}.jar.sha1", f"{LIB}.jar.asc.md5", f"{LIB}.jar.sigstore.json"):
        assert registry.signature(file(registry, name)) is None
    unchecked = maven(None)
    assert unchecked.signature(file(unchecked)) is None


def test_a_snapshots_content_has_the_signature_of_its_file(alice: Tsk) -> None:
    registry = maven(certificate(alice))
    path = "org/example/lib/1-SNAPSHOT/lib-1-SNAPSHOT.jar"
    jar = file(registry, path)
    page = registry.listing_page(jar)
    assert page is not None
    entry = registry.expected(jar, registry.read(page, b"a" * 40, "text/plain", ""))
    assert entry is not None
    assert registry.signature(entry.file) == file(registry, path + ".asc")


def test_who_has_no_keys_checks_nothing(content: str) -> None:
    registry = maven(None, require=True)
    assert registry.check(file(registry), None, content, b"garbage") == ""


def test_nothing_is_checked_before_the_bytes_are_there_nor_of_what_is_not_signed(alice: Tsk, content: str) -> None:
    registry = maven(certificate(alice), require=True)
    assert registry.check(file(registry), None, "", None) == ""
    assert registry.check(file(registry, f"{LIB}.jar.sha1"), None, content, None) == ""
    assert registry.check(file(registry, f"{LIB}.jar.asc"), None, content, None) == ""


@pytest.mark.parametrize("require", [False, True])
def test_a_bad_signature_is_never_passed_and_a_good_one_always(require: bool, alice: Tsk, content: str) -> None:
    registry = maven(certificate(alice), require=require)
    assert registry.check(file(registry), None, content, signed(alice)) == ""
    assert "not one of these bytes" in registry.check(file(registry), None, content, signed(alice, b"swapped"))
    assert "cannot be read" in registry.check(file(registry), None, content, b"<html>")


def test_what_proves_nothing_passes_unless_a_signature_is_required(alice: Tsk, bob: Tsk, content: str) -> None:
    keys = certificate(alice) + SHA1_KEY
    relaxed, strict = maven(keys), maven(keys, require=True)
    for signature, sentence in ((None, "no signature"), (signed(bob), "unknown key"), (SHA1_SIGNATURE, "proves nothing")):
        assert relaxed.check(file(relaxed), None, content, signature) == ""
        assert sentence in strict.check(file(strict), None, content, signature)
