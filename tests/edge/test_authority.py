"""The authority: what it makes, when it makes it anew, and what it does about files that are missing, damaged or half written."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from edge import certificates, signer
from edge.authority import issue
from edge.certificates import DAY, read_certificates, read_key
from edge.signer import Files, Issued
from origin.errors import Unusable

NOW = 1_800_000_000.0
DAY_S = DAY.total_seconds()
HOSTS = ("npm.test", "pypi.test")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "data")


def first(path: Path) -> x509.Certificate:
    return read_certificates(path.read_bytes())[0]


def contents(files: Files) -> dict[str, bytes]:
    return {str(path.relative_to(files.directory)): path.read_bytes() for path in files.directory.rglob("*") if path.is_file()}


def assert_whole(files: Files, issued: Issued, hosts: Sequence[str], now: float) -> None:
    """Every host has a leaf that OpenSSL accepts at ``now``, strictly; keys fit, and nothing is left over."""
    assert sorted(issued.leaves) == sorted(hosts)
    for host in hosts:
        assert openssl_says(files.root, files.leaf(host), host, now) == "OK"
        certificates.read_signer(files.leaf(host).read_bytes(), files.leaf(host).read_bytes())
    certificates.read_signer(files.intermediate.read_bytes(), files.intermediate_key.read_bytes())
    expected = {"lock", "root.pem", "root.key", "intermediate.pem", "intermediate.key", *(f"leaves/{host}.pem" for host in hosts)}
    assert set(contents(files)) - {"root.key"} == expected - {"root.key"}


def openssl_says(root: Path, chain: Path, host: str, now: float) -> str:
    """``OK``, or why the chain (leaf first, then what is above it) is refused."""
    option = "-verify_ip" if ":" in host or host[0].isdigit() else "-verify_hostname"
    done = subprocess.run(
        [
            *["openssl", "verify", "-x509_strict", "-no-CApath", "-no-CAstore", "-purpose", "sslserver"],
            *["-attime", str(int(now)), "-CAfile", str(root), "-untrusted", str(chain), option, host, str(chain)],
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return "OK" if done.returncode == 0 else done.stderr


# ---- what the certificates say ---------------------------------------------------------------------------------------


def test_first_use_makes_a_root_an_intermediate_and_a_leaf_for_each_host(files: Files) -> None:
    issued = issue(files.data, HOSTS, NOW)
    assert issued.told == ()
    assert_whole(files, issued, HOSTS, NOW)
    root, intermediate, leaf = first(files.root), first(files.intermediate), first(files.leaf("pypi.test"))
    lives = [(one.not_valid_after_utc - one.not_valid_before_utc).days for one in (root, intermediate, leaf)]
    assert lives == [3652, 90, 7]
    assert issued.intermediate_ends == NOW + 90 * DAY_S
    assert issued.leaves["pypi.test"].ends == NOW + 7 * DAY_S
    assert {certificates.begins(one) for one in (root, intermediate, leaf)} == {NOW - 3600}, "clocks may be late"


def test_the_extensions_are_those_that_strict_verifiers_ask_for(files: Files) -> None:
    issue(files.data, HOSTS, NOW)
    root, intermediate, leaf = first(files.root), first(files.intermediate), first(files.leaf("pypi.test"))
    assert basic(root) == (True, True, 1)
    assert basic(intermediate) == (True, True, 0)
    assert basic(leaf) == (True, False, None)
    for certificate, issuer in ((root, root), (intermediate, root), (leaf, intermediate)):
        own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        theirs = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        assert own == x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest
        assert theirs == issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical
        assert (usage.value.key_cert_sign, usage.value.digital_signature) == (certificate is not leaf, certificate is leaf)
    for certificate in (intermediate, leaf):
        assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
            ExtendedKeyUsageOID.SERVER_AUTH
        ]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical, "since the subject is empty"
    assert list(names.value) == [x509.DNSName("pypi.test")]


def basic(certificate: x509.Certificate) -> tuple[bool, bool, int | None]:
    found = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    return found.critical, found.value.ca, found.value.path_length


@pytest.mark.parametrize(
    ("hosts", "permitted", "excluded"),
    [
        (["pypi.test", "npm.test"], ["npm.test", "pypi.test"], ["0.0.0.0/0", "::/0"]),
        (["pypi.test", "10.0.0.7"], ["10.0.0.7/32", "pypi.test"], []),
        (["2001:db8::7", "pypi.test"], ["2001:db8::7/128", "pypi.test"], []),
        (["10.0.0.7"], ["10.0.0.7/32", "invalid"], []),
    ],
)
def test_the_intermediate_is_for_exactly_the_hosts(
    files: Files, hosts: list[str], permitted: list[str], excluded: list[str]
) -> None:
    assert_whole(files, issue(files.data, hosts, NOW), hosts, NOW)
    intermediate = first(files.intermediate)
    constraints = intermediate.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    assert sorted(str(name.value) for name in constraints.value.permitted_subtrees or ()) == permitted
    assert sorted(str(name.value) for name in constraints.value.excluded_subtrees or ()) == excluded
    assert certificates.hosts_of(intermediate) == set(hosts)


@pytest.mark.parametrize("hosts", [["pypi.test"], ["pypi.test", "10.0.0.7"], ["10.0.0.7"]], ids=",".join)
@pytest.mark.parametrize("host", ["evil.test", "xpypi.test", "test", "10.0.0.8", "9.9.9.9", "2001:db8::7"])
def test_what_a_stolen_intermediate_signs_for_another_host_is_refused(files: Files, hosts: list[str], host: str) -> None:
    issue(files.data, hosts, NOW)
    stolen = certificates.read_signer(files.intermediate.read_bytes(), files.intermediate_key.read_bytes())
    chain = files.data / "stolen.pem"
    leaf = certificates.make_leaf(stolen, host, NOW)
    chain.write_bytes(certificates.pem_of(leaf.certificate) + certificates.pem_of(stolen.certificate))
    assert "subtree violation" in openssl_says(files.root, chain, host, NOW)


def test_an_authority_below_a_stolen_intermediate_is_refused(files: Files) -> None:
    issue(files.data, HOSTS, NOW)
    stolen = certificates.read_signer(files.intermediate.read_bytes(), files.intermediate_key.read_bytes())
    below = certificates.make_intermediate(stolen, ["pypi.test"], NOW)
    leaf = certificates.make_leaf(below, "pypi.test", NOW)
    chain = files.data / "stolen.pem"
    chain.write_bytes(b"".join(map(certificates.pem_of, (leaf.certificate, below.certificate, stolen.certificate))))
    assert "path length constraint exceeded" in openssl_says(files.root, chain, "pypi.test", NOW)


def test_no_two_certificates_share_a_key(files: Files) -> None:
    hosts = [f"host-{number}.test" for number in range(20)]
    issue(files.data, hosts, NOW)
    issue(files.data, hosts, NOW + 4 * DAY_S)
    issue(files.data, [*hosts, "more.test"], NOW + 5 * DAY_S)
    found = [first(path) for path in (files.root, files.intermediate, *files.leaves.iterdir())]
    keys = {one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for one in found}
    assert len(keys) == len(found) == 23


def test_a_leafs_file_holds_no_authoritys_key(files: Files) -> None:
    issue(files.data, HOSTS, NOW)
    authorities = [read_key(path.read_bytes()).public_key() for path in (files.root_key, files.intermediate_key)]
    for path in files.leaves.iterdir():
        text = path.read_bytes()
        assert text.count(b"PRIVATE KEY-----") == 2
        assert read_key(text).public_key() not in authorities


def test_keys_are_for_their_owner_alone(files: Files) -> None:
    before = os.umask(0)
    try:
        issue(files.data, HOSTS, NOW)
    finally:
        os.umask(before)
    modes = {str(path.relative_to(files.data)): path.stat().st_mode & 0o777 for path in files.data.rglob("*")}
    private = {"ca": 0o700, "ca/leaves": 0o700, "ca/lock": 0o600, "ca/root.key": 0o600, "ca/intermediate.key": 0o600}
    assert modes == private | {"ca/root.pem": 0o644, "ca/intermediate.pem": 0o644} | {
        f"ca/leaves/{host}.pem": 0o600 for host in HOSTS
    }


def test_a_directory_that_others_could_read_is_closed(files: Files) -> None:
    files.directory.mkdir(parents=True)
    files.directory.chmod(0o755)
    issue(files.data, HOSTS, NOW)
    assert files.directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "host",
    [
        *[
            "",
            ".",
            "pypi.test.",
            "*.pypi.test",
            "PyPI.test",
            "pypi test",
            "pypi.test/x",
            "../../evil",
            "a\0b",
            "-a.test",
            "a-.test",
        ],
        *[
            "[::1]",
            "::1%lo",
            "0:0:0:0:0:0:0:1",
            "127.1",
            "0x7f.0x1",
            "1.2.3.256",
            "010.0.0.1",
            "pypi.test:443",
            "é.test",
            "x" * 64,
        ],
        ".".join(["x" * 60] * 5),
    ],
)
def test_no_certificate_is_made_for_what_is_no_host(files: Files, host: str) -> None:
    issued = issue(files.data, [host, "pypi.test"], NOW)
    assert len(issued.told) == 1
    assert repr(host[:100]) in issued.told[0]
    assert_whole(files, msgspec.structs.replace(issued, told=()), ["pypi.test"], NOW)
    assert certificates.hosts_of(first(files.intermediate)) == {"pypi.test"}


# ---- when something is made anew -------------------------------------------------------------------------------------


def test_what_is_good_is_left_as_it_is(files: Files) -> None:
    issue(files.data, HOSTS, NOW)
    before = contents(files)
    issued = issue(files.data, HOSTS, NOW + 3 * DAY_S)
    assert contents(files) == before
    assert issued.leaves["pypi.test"].due > NOW + 3 * DAY_S
    assert issued.due > NOW + 3 * DAY_S


def test_a_leaf_is_made_anew_when_half_its_life_is_over(files: Files) -> None:
    before = issue(files.data, HOSTS, NOW)
    intermediate = files.intermediate.read_bytes()
    due = before.leaves["pypi.test"].due
    assert NOW + 3 * DAY_S < due < NOW + 4 * DAY_S
    after = issue(files.data, HOSTS, due)
    assert_whole(files, after, HOSTS, due)
    assert after.leaves["pypi.test"].ends == due // 1 + 7 * DAY_S
    assert after.leaves["pypi.test"].fingerprint != before.leaves["pypi.test"].fingerprint
    assert files.intermediate.read_bytes() == intermediate


def test_the_intermediate_is_made_anew_when_a_third_of_its_life_is_left_and_the_root_stays(files: Files) -> None:
    before = issue(files.data, HOSTS, NOW)
    root = files.root.read_bytes()
    assert NOW + 59 * DAY_S < before.due < NOW + 61 * DAY_S
    assert issue(files.data, HOSTS, before.due - 1).intermediate_ends == before.intermediate_ends
    after = issue(files.data, HOSTS, before.due)
    assert after.intermediate_ends >= NOW + 149 * DAY_S
    assert files.root.read_bytes() == root
    assert_whole(files, after, HOSTS, before.due)


def test_a_year_of_looking_once_a_day_never_leaves_a_host_without_a_good_leaf(files: Files) -> None:
    intermediates = set()
    for day in range(365):
        issued = issue(files.data, ["pypi.test"], NOW + day * DAY_S)
        lease = issued.leaves["pypi.test"]
        assert lease.begins <= NOW + day * DAY_S < lease.ends <= issued.intermediate_ends
        intermediates.add(issued.intermediate_ends)
    assert len(intermediates) == 7
    assert openssl_says(files.root, files.leaf("pypi.test"), "pypi.test", NOW + 364 * DAY_S) == "OK"


def test_a_new_host_makes_a_new_intermediate_and_other_hosts_keep_their_leaves(files: Files) -> None:
    issue(files.data, ["pypi.test"], NOW)
    before = contents(files)
    after = issue(files.data, ["npm.test", "pypi.test"], NOW + DAY_S)
    assert files.root.read_bytes() == before["root.pem"]
    assert files.intermediate.read_bytes() != before["intermediate.pem"]
    assert files.leaf("pypi.test").read_bytes() == before["leaves/pypi.test.pem"]
    assert_whole(files, after, ["npm.test", "pypi.test"], NOW + DAY_S)


def test_fewer_hosts_leave_the_intermediate_until_it_is_made_anew_anyway(files: Files) -> None:
    issue(files.data, HOSTS, NOW)
    intermediate = files.intermediate.read_bytes()
    issue(files.data, ["pypi.test"], NOW + DAY_S)
    assert files.intermediate.read_bytes() == intermediate
    assert files.leaf("npm.test").exists()
    issue(files.data, ["pypi.test"], NOW + 61 * DAY_S)
    assert certificates.hosts_of(first(files.intermediate)) == {"pypi.test"}
    assert not files.leaf("npm.test").exists(), "it has ended, and nobody asks for it"


def test_what_was_made_while_the_clock_was_wrong_is_made_anew(files: Files) -> None:
    issue(files.data, HOSTS, NOW)
    issue(files.data, HOSTS, NOW + 1000 * DAY_S)
    after = issue(files.data, HOSTS, NOW)
    assert_whole(files, after, HOSTS, NOW)


def test_a_root_that_begins_later_than_now_is_told(files: Files) -> None:
    issue(files.data, HOSTS, NOW)
    [told] = issue(files.data, HOSTS, NOW - 10 * DAY_S).told
    assert told.startswith("The authority's root begins on 2027-01-15 07:00 UTC, and clients refuse it until then")


def test_without_hosts_only_the_root_is_made(files: Files) -> None:
    assert issue(files.data, [], NOW) == Issued({})
    assert set(contents(files)) == {"lock", "root.pem", "root.key"}


# ---- without the root's key ------------------------------------------------------------------------------------------


def test_without_the_roots_key_the_intermediate_goes_on_for_its_hosts(files: Files) -> None:
    issue(files.data, HOSTS, NOW)
    files.root_key.unlink()
    after = issue(files.data, HOSTS, NOW + 5 * DAY_S)
    assert after.told == ()
    assert_whole(files, after, HOSTS, NOW + 5 * DAY_S)
    assert after.leaves["pypi.test"].begins > NOW + 4 * DAY_S


def test_without_the_roots_key_a_new_host_has_no_certificate_and_a_sentence_says_why(files: Files) -> None:
    issue(files.data, HOSTS, NOW)
    files.root_key.unlink()
    after = issue(files.data, [*HOSTS, "new.test"], NOW)
    assert_whole(files, after, HOSTS, NOW)
    (told,) = after.told
    assert "new.test" in told
    assert str(files.root_key) in told


def test_without_the_roots_key_leaves_last_until_the_intermediates_end_and_are_not_made_over_and_over(files: Files) -> None:
    first_issued = issue(files.data, ["pypi.test"], NOW)
    files.root_key.unlink()
    made = set()
    for hour in range(60 * 24, 90 * 24):
        after = issue(files.data, ["pypi.test"], NOW + hour * 3600)
        assert "a new intermediate is due" in after.told[0].lower()
        assert after.leaves["pypi.test"].ends <= first_issued.intermediate_ends
        made.add(after.leaves["pypi.test"].fingerprint)
    assert len(made) <= 11
    ended = issue(files.data, ["pypi.test"], NOW + 90 * DAY_S)
    assert ended.leaves == {}
    assert str(files.root_key) in ended.told[0]


def test_the_roots_key_put_back_is_used(files: Files) -> None:
    issue(files.data, HOSTS, NOW)
    aside = files.root_key.rename(files.data / "aside")
    assert issue(files.data, [*HOSTS, "new.test"], NOW).told
    aside.rename(files.root_key)
    assert_whole(files, issue(files.data, [*HOSTS, "new.test"], NOW), [*HOSTS, "new.test"], NOW)


def test_the_roots_key_is_not_read_while_the_intermediate_is_good(files: Files) -> None:
    issue(files.data, HOSTS, NOW)
    files.root_key.write_bytes(b"whoever reads this has opened it")
    after = issue(files.data, HOSTS, NOW + 5 * DAY_S)
    assert after.told == ()
    assert_whole(files, after, HOSTS, NOW + 5 * DAY_S)


# ---- damage ----------------------------------------------------------------------------------------------------------

GARBAGE = [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\0" * 5000]


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize(
    "name", ["intermediate.pem", "intermediate.key", "leaves/pypi.test.pem", "root.key.new", "intermediate.key.new"]
)
def test_what_the_authority_can_make_anew_is_made_anew(files: Files, name: str, garbage: bytes) -> None:
    issue(files.data, HOSTS, NOW)
    root = files.root.read_bytes()
    (files.directory / name).write_bytes(garbage)
    after = issue(files.data, HOSTS, NOW)
    assert after.told == ()
    assert_whole(files, after, HOSTS, NOW)
    assert files.root.read_bytes() == root


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_damaged_root_is_a_sentence_and_never_replaced(files: Files, garbage: bytes) -> None:
    issue(files.data, HOSTS, NOW)
    files.root.write_bytes(garbage)
    before = contents(files)
    with pytest.raises(Unusable, match=r"root\.pem cannot be used"):
        issue(files.data, HOSTS, NOW)
    assert contents(files) == before


def test_a_leafs_certificate_is_no_root(files: Files) -> None:
    issue(files.data, HOSTS, NOW)
    shutil.copy(files.leaf("pypi.test"), files.root)
    with pytest.raises(Unusable, match="no authority"):
        issue(files.data, HOSTS, NOW)


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_damaged_roots_key_is_told_when_it_is_needed(files: Files, garbage: bytes) -> None:
    issue(files.data, HOSTS, NOW)
    files.root_key.write_bytes(garbage)
    after = issue(files.data, [*HOSTS, "new.test"], NOW)
    assert_whole(files, after, HOSTS, NOW)
    assert f"{files.root_key} cannot be used" in after.told[0]


def test_another_roots_key_is_not_taken(files: Files) -> None:
    issue(files.data, HOSTS, NOW)
    files.root_key.write_bytes(certificates.key_pem_of(certificates.make_root(NOW).key))
    assert "not that of the certificate" in issue(files.data, [*HOSTS, "new.test"], NOW).told[0]


def test_a_lost_root_certificate_is_made_again_for_its_key_so_that_clients_still_trust_it(files: Files) -> None:
    issue(files.data, HOSTS, NOW)
    known = files.root.rename(files.data / "known.pem")
    after = issue(files.data, HOSTS, NOW + DAY_S)
    assert_whole(files, after, HOSTS, NOW + DAY_S)
    assert first(files.root).subject == first(known).subject
    assert openssl_says(known, files.leaf("pypi.test"), "pypi.test", NOW + DAY_S) == "OK"


def test_a_lost_root_without_its_key_is_a_sentence(files: Files) -> None:
    issue(files.data, HOSTS, NOW)
    files.root.unlink()
    files.root_key.unlink()
    with pytest.raises(Unusable, match=r"root\.pem is missing"):
        issue(files.data, HOSTS, NOW)
    assert not files.root.exists()


def test_a_root_that_has_ended_is_a_sentence(files: Files) -> None:
    issue(files.data, HOSTS, NOW)
    with pytest.raises(Unusable, match=r"ended on 2037-01-1.*move .* away"):
        issue(files.data, HOSTS, NOW + 3652 * DAY_S)


def test_nothing_outlives_the_root(files: Files) -> None:
    issue(files.data, HOSTS, NOW)
    late = NOW + 3650 * DAY_S
    after = issue(files.data, HOSTS, late)
    assert_whole(files, after, HOSTS, late)
    assert after.intermediate_ends == certificates.ends(first(files.root))
    assert after.leaves["pypi.test"].ends == after.intermediate_ends


def test_a_root_of_the_operators_own_is_used_and_all_below_it_made_anew(files: Files) -> None:
    issue(files.data, HOSTS, NOW)
    own = certificates.make_root(NOW)
    files.root.write_bytes(certificates.pem_of(own.certificate))
    files.root_key.write_bytes(certificates.key_pem_of(own.key))
    after = issue(files.data, HOSTS, NOW)
    assert_whole(files, after, HOSTS, NOW)


def test_another_hosts_leaf_in_a_hosts_place_is_replaced(files: Files) -> None:
    issue(files.data, HOSTS, NOW)
    shutil.copy(files.leaf("npm.test"), files.leaf("pypi.test"))
    assert_whole(files, issue(files.data, HOSTS, NOW), HOSTS, NOW)


@pytest.mark.parametrize("name", ["root.pem", "root.key", "intermediate.pem", "leaves/pypi.test.pem"])
def test_a_directory_where_a_file_should_be_is_told_or_lived_with(files: Files, name: str) -> None:
    issue(files.data, HOSTS, NOW)
    (files.directory / name).unlink()
    (files.directory / name).mkdir()
    if name == "root.pem":
        with pytest.raises(Unusable, match="Is a directory"):
            issue(files.data, HOSTS, NOW)
        return
    after = issue(files.data, [*HOSTS, "new.test"], NOW)
    assert "npm.test" in after.leaves
    assert "Is a directory" in after.told[0]


def test_a_data_directory_that_is_a_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(Unusable, match="cannot be used"):
        issue(tmp_path / "data", HOSTS, NOW)


# ---- the process -----------------------------------------------------------------------------------------------------


def start_signer(data: Path, hosts: Sequence[str], now: float = NOW, before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [*before, *signer.signer_command(data, now)],
        env=signer.signer_environment() | {"PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(hosts))
    process.stdin.close()
    process.stdin = None
    return process


def answer(process: subprocess.Popen[bytes]) -> Issued:
    out, err = process.communicate(timeout=60)
    return signer.read_issued(process.returncode, out, err)


def test_signers_at_the_same_moment_make_one_root(files: Files) -> None:
    running = [start_signer(files.data, [*HOSTS, f"own-{number}.test"]) for number in range(4)]
    answers = [answer(process) for process in running]
    assert all(issued.told == () for issued in answers)
    root = files.root.read_bytes()
    hosts = [*HOSTS, *(f"own-{number}.test" for number in range(4))]
    assert_whole(files, issue(files.data, hosts, NOW), hosts, NOW)
    assert files.root.read_bytes() == root


def test_the_signer_is_found_from_any_directory_and_says_what_is_wrong_in_one_sentence(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "msgspec.py").write_text("raise SystemExit('imported from where the caller stands')")
    assert sorted(answer(start_signer(files.data, HOSTS)).leaves) == sorted(HOSTS)
    files.root.write_bytes(b"garbage")
    with pytest.raises(Unusable, match=r"^The authority's root .*root\.pem cannot be used.*\.$"):
        answer(start_signer(files.data, HOSTS))


@pytest.mark.parametrize(
    ("returncode", "out", "err", "sentence"),
    [
        (1, b"", b"noise\nThe disk is full.\n", "The disk is full."),
        (-9, b"", b"", "The authority's signer failed: it ended with -9 and said nothing"),
        (2, b"", b"Traceback\nZeroDivisionError: oh\n", "The authority's signer failed: ZeroDivisionError: oh"),
        (0, b"nonsense", b"", "The authority's signer failed: it ended with 0 and said nothing"),
    ],
)
def test_a_signer_that_fails_is_a_sentence(returncode: int, out: bytes, err: bytes, sentence: str) -> None:
    with pytest.raises(Unusable) as caught:
        signer.read_issued(returncode, out, err)
    assert str(caught.value) == sentence


@pytest.fixture(scope="module")
def strace() -> str:
    program = shutil.which("strace")
    if program is None:
        pytest.fail("strace is not installed: these tests kill the signer at each of its steps with it (apt install strace)")
    return program


@dataclass(frozen=True)
class Killer:
    """Runs the signer under strace and kills it before its N-th call of one kind."""

    strace: str

    def kills(self, data: Path, hosts: Sequence[str], call: str, when: int, now: float) -> bool:
        """False if it never came so far."""
        before = [self.strace, "-f", "-qq", "-o", os.devnull, "-e", f"trace={call}"]
        before += ["-e", f"inject={call}:signal=SIGKILL:when={when}"]
        process = start_signer(data, hosts, now, before)
        process.communicate(timeout=60)
        assert process.returncode in {0, -signal.SIGKILL, 128 + signal.SIGKILL}
        return process.returncode != 0


@pytest.mark.slow
@pytest.mark.parametrize("call", ["rename", "fsync"])
def test_killed_at_any_step_of_first_use_the_next_run_repairs(strace: str, tmp_path: Path, call: str) -> None:
    killer, when = Killer(strace), 0
    killed = True
    while killed:
        when += 1
        files = Files(tmp_path / f"data-{when}")
        killed = killer.kills(files.data, HOSTS, call, when, NOW)
        root = files.root.read_bytes() if files.root.exists() else None
        assert_whole(files, issue(files.data, HOSTS, NOW), HOSTS, NOW)
        assert root in {None, files.root.read_bytes()}, "a root that was seen stays"
        certificates.read_signer(files.root.read_bytes(), files.root_key.read_bytes())
    assert when - 1 == {"rename": 8, "fsync": 14}[call]


@pytest.mark.slow
@pytest.mark.parametrize("call", ["rename", "fsync"])
def test_killed_at_any_step_of_a_renewal_the_pair_fits_even_without_the_roots_key(strace: str, tmp_path: Path, call: str) -> None:
    killer, when = Killer(strace), 0
    whole = Files(tmp_path / "whole")
    issue(whole.data, HOSTS, NOW)
    killed = True
    while killed:
        when += 1
        files = Files(tmp_path / f"data-{when}")
        shutil.copytree(whole.data, files.data)
        killed = killer.kills(files.data, [*HOSTS, "new.test"], call, when, NOW)
        files.root_key.unlink()
        after = issue(files.data, HOSTS, NOW + DAY_S)
        assert after.told == ()
        assert after.intermediate_ends > 0
        certificates.read_signer(files.intermediate.read_bytes(), files.intermediate_key.read_bytes())
        assert set(HOSTS) <= set(after.leaves)
    assert when > 4


def test_serving_does_not_import_what_signs() -> None:
    """The serving process has no code at hand that reads an authority's key."""
    code = "import edge.app, sys; print(*{'edge.authority', 'edge.certificates', 'edge.trust'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []
