"""What clients are given so that they trust the root, and ``edge ca``, which shows the authority and writes such files."""

from __future__ import annotations

import os
import ssl
import subprocess
import time
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from edge import __main__ as command_line
from edge import authority, certificates, trust
from edge.authority import issue
from edge.certificates import read_certificates
from edge.signer import Files
from origin.errors import Unusable

NOW = 1_800_000_000.0
HOSTS = ("npm.test", "pypi.test")


# ---- what clients are given ------------------------------------------------------------------------------------------


def test_root_of_makes_a_root_and_then_gives_the_same(tmp_path: Path) -> None:
    root = authority.root_of(tmp_path / "data")
    assert certificates.is_authority(read_certificates(root)[0])
    assert authority.root_of(tmp_path / "data") == root


def test_root_of_says_what_is_wrong(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.directory.mkdir()
    files.root.write_text("garbage")
    with pytest.raises(Unusable, match="holds no certificate"):
        authority.root_of(tmp_path)
    files.root.unlink()
    files.root.mkdir()
    with pytest.raises(Unusable, match=r"cannot be read \(Is a directory\)"):
        authority.root_of(tmp_path)


def pem(*signers: certificates.Signer) -> bytes:
    return b"".join(certificates.pem_of(one.certificate) for one in signers)


def test_the_bundle_and_the_truststore_follow_the_machines_roots(tmp_path: Path) -> None:
    one, other = certificates.make_root(NOW), certificates.make_root(NOW)
    roots = tmp_path / "roots.pem"
    roots.write_bytes(pem(one))
    environ = {"SSL_CERT_FILE": str(roots)}
    made = trust.ensure_trust(tmp_path / "data", environ)
    ours = read_certificates(made.root.read_bytes())
    assert read_certificates(made.bundle.read_bytes()) == [*ours, one.certificate]
    assert keytool(made) == 2
    before = stamps(made)
    assert trust.ensure_trust(tmp_path / "data", environ) == made
    assert stamps(made) == before, "nothing is written while nothing has changed"
    roots.write_bytes(pem(one, other))
    trust.ensure_trust(tmp_path / "data", environ)
    assert read_certificates(made.bundle.read_bytes()) == [*ours, one.certificate, other.certificate]
    assert keytool(made) == 3


def stamps(made: trust.Trust) -> list[int]:
    return [path.stat().st_ino for path in (made.bundle, made.truststore)]


def keytool(made: trust.Trust) -> int:
    """How many certificates a JDK finds to trust in the truststore."""
    done = subprocess.run(
        ["keytool", "-list", "-keystore", str(made.truststore), "-storepass", made.password],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.count("trustedCertEntry")


@pytest.mark.parametrize(
    "text",
    [
        b"# a comment\n%s\n",
        b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n%s",
        b"-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----\n%s",
        b"-----BEGIN TRUSTED CERTIFICATE-----\nAAAA\n-----END TRUSTED CERTIFICATE-----\n%s%s",
    ],
)
def test_what_is_odd_in_the_machines_store_is_passed_over(tmp_path: Path, text: bytes) -> None:
    one = certificates.make_root(NOW)
    roots = tmp_path / "roots.pem"
    roots.write_bytes(text.replace(b"%s", pem(one)))
    assert trust.public_roots({"SSL_CERT_FILE": str(roots)}) == (one.certificate.public_bytes(Encoding.DER),)


def test_a_certificate_that_is_none_goes_into_no_truststore(tmp_path: Path) -> None:
    one = certificates.make_root(NOW)
    roots = tmp_path / "roots.pem"
    roots.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + pem(one))
    ours = pem(certificates.make_root(NOW))
    assert trust.write_truststore(tmp_path / "roots.p12", ours, "sesame", {"SSL_CERT_FILE": str(roots)}) == 2


def test_a_bundle_of_ours_in_the_environment_is_no_source_for_itself(tmp_path: Path) -> None:
    """As inside ``edge run``: what left the machine's store must not stay in ours for ever."""
    one = certificates.make_root(NOW)
    bundle, ours = tmp_path / "bundle.pem", pem(certificates.make_root(NOW))
    trust.write_bundle(bundle, ours, {"SSL_CERT_FILE": str(tmp_path / "nothing"), "NIX_SSL_CERT_FILE": str(bundle)})
    bundle.write_bytes(bundle.read_bytes() + pem(one))
    trust.write_bundle(bundle, ours, {"SSL_CERT_FILE": str(bundle)})
    assert pem(one) not in bundle.read_bytes()


def test_a_directory_of_certificates_is_a_store_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = certificates.make_root(NOW), certificates.make_root(NOW)
    folder = tmp_path / "certs"
    folder.mkdir()
    (folder / "a.pem").write_bytes(pem(one))
    (folder / "b.crt").write_bytes(pem(other, one))
    (folder / "README").write_text("no certificate")
    monkeypatch.setattr(trust, "BUNDLES", ())
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: ssl.DefaultVerifyPaths("", "", "", "", "", ""))
    assert len(trust.public_roots({"SSL_CERT_DIR": f"{tmp_path / 'none'}{os.pathsep}{folder}"})) == 2
    assert len(trust.public_roots({})) > 50, "those of certifi"


def test_a_truststore_needs_a_password(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="needs a password"):
        trust.write_truststore(tmp_path / "roots.p12", pem(certificates.make_root(NOW)), "")


# ---- edge ca ---------------------------------------------------------------------------------------------------------


def ca(tmp_path: Path, *options: str) -> int:
    return command_line.main(["ca", "--data", str(tmp_path / "data"), *options])


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of whoever runs the test are found."""
    for name in list(os.environ):
        if name.startswith(("EDGE_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("alone")
def test_edge_ca_makes_a_root_and_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ca(tmp_path) == 0
    shown = capsys.readouterr().out
    files = Files(tmp_path / "data")
    assert certificates.fingerprint(read_certificates(files.root.read_bytes())[0]) in shown
    assert str(files.root) in shown
    assert "intermediate   none yet" in shown
    assert ca(tmp_path, "--pem") == 0
    assert capsys.readouterr().out == files.root.read_text()


@pytest.mark.usefixtures("alone")
def test_edge_ca_shows_hosts_and_leaves_and_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = Files(tmp_path / "data")
    issue(files.data, HOSTS, time.time())
    assert ca(tmp_path, "--json") == 0
    shown = msgspec.json.decode(capsys.readouterr().out)
    assert shown["intermediate"]["hosts"] == sorted(HOSTS)
    assert set(shown["leaves"]) == set(HOSTS)
    assert shown["root"]["key_is_here"] is True
    assert shown["trouble"] == []
    files.root_key.unlink()
    files.leaf("npm.test").write_text("garbage")
    assert ca(tmp_path) == 0
    told = capsys.readouterr().out
    assert "only for     npm.test, pypi.test" in told
    assert f"note: the root's key is not at {files.root_key}" in told
    assert f"note: {files.leaf('npm.test')} cannot be read" in told


@pytest.mark.usefixtures("alone")
def test_edge_ca_writes_a_bundle_and_a_truststore(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = tmp_path / "roots.pem"
    roots.write_bytes(pem(certificates.make_root(NOW)))
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    assert ca(tmp_path, "--bundle", "all.pem", "--truststore", "all.p12", "--password", "sesame") == 0
    assert "all.pem holds 2 certificates" in capsys.readouterr().out
    assert len(read_certificates(Path("all.pem").read_bytes())) == 2
    assert keytool(trust.Trust(Path(), Path(), Path("all.p12"), "sesame")) == 2
    assert ca(tmp_path, "--bundle", "missing/all.pem") == 1
    assert "missing/all.pem cannot be written (No such file or directory)" in capsys.readouterr().err


@pytest.mark.usefixtures("alone")
def test_edge_ca_says_that_a_root_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = Files(tmp_path / "data")
    issue(files.data, HOSTS, time.time())
    files.root.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert ca(tmp_path) == 1
    assert capsys.readouterr().err.startswith("edge: The authority's root")
