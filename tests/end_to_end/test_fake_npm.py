"""The fake npm registry answers as the real one does, and goes wrong as it is told: what the other npm tests stand on."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests import node
from tests.fakes import FakeNpm
from tests.harness import Reply, ask
from tests.tarballs import Tarball, Tarballs
from tests.wheels import KB, MB, flipped

FULL = {"Accept": "application/json"}
SHORT = {"Accept": "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8, */*"}
VENDOR = "application/vnd.npm.install-v1+json"


@pytest.fixture(scope="module")
def running() -> Iterator[FakeNpm]:
    with FakeNpm.start() as fake:
        yield fake


@pytest.fixture
def npm(running: FakeNpm) -> FakeNpm:
    """The module's fake registry, with nothing published."""
    running.reset()
    return running


@pytest.fixture(scope="module")
def tarballs(tmp_path_factory: pytest.TempPathFactory) -> Tarballs:
    return Tarballs(tmp_path_factory.mktemp("tarballs"))


def post(npm: FakeNpm, path: str, document: object, *, packed: bool = True) -> Reply:
    body = json.dumps(document).encode()
    headers = {"Content-Type": "application/json"} | ({"Content-Encoding": "gzip"} if packed else {})
    return ask(npm.index_root + path, headers, "POST", body=gzip.compress(body) if packed else body)


def is_signed(npm: FakeNpm, name: str, version: str, *, at: str | None = None) -> bool:
    """Whether npm would accept the version's signature, by the rules of protocols/npm.md section 6.3."""
    document = npm.packument(name)
    dist = document["versions"][version]["dist"]
    keys = {key["keyid"]: key for key in json.loads(npm.keys_json())["keys"]}
    (signature,) = dist["signatures"]
    key = keys.get(signature["keyid"])
    if key is None or (key["expires"] is not None and (at or document["time"][version]) >= key["expires"]):
        return False
    return verifies(key["key"], signature["sig"], f"{name}@{version}:{dist['integrity']}".encode())


def verifies(public: str, signature: str, content: bytes) -> bool:
    key = serialization.load_der_public_key(base64.b64decode(public))
    assert isinstance(key, ec.EllipticCurvePublicKey)
    try:
        key.verify(base64.b64decode(signature), content, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


# ---- packuments ------------------------------------------------------------------------------------------------------


def test_a_packument_has_two_forms_with_types_and_tags_of_their_own(npm: FakeNpm, tarballs: Tarballs) -> None:
    one = tarballs.pack("left", "1.0.0", dependencies={"right": "^1.0.0"}, scripts={"postinstall": "true"}, libc=("glibc",))
    npm.publish(one, deprecated="use another", provenance=True)
    full, short = (ask(f"{npm.registry_url}left", accept) for accept in (FULL, SHORT))
    assert (full.headers["content-type"], short.headers["content-type"]) == ("application/json", VENDOR)
    assert full.headers["etag"] != short.headers["etag"]
    for reply in (full, short):
        assert reply.headers["cache-control"] == "public, max-age=300"
        assert reply.headers["vary"] == "accept-encoding, accept"
        assert reply.headers["last-modified"] == "Mon, 01 Jan 2024 00:00:00 GMT"
        dist = reply.json()["versions"]["1.0.0"]["dist"]
        assert dist["tarball"] == npm.tarball_url(one)
        assert (dist["integrity"], dist["shasum"]) == (one.integrity, one.shasum)
        assert dist["attestations"]["url"] == f"{npm.registry_url}-/npm/v1/attestations/left@1.0.0"
    assert set(short.json()) == {"name", "dist-tags", "versions", "modified"}
    assert {"_id", "_rev", "name", "dist-tags", "versions", "time", "readme"} <= set(full.json())
    version = short.json()["versions"]["1.0.0"]
    assert version["hasInstallScript"] is True
    assert version["dependencies"] == {"right": "^1.0.0"}
    assert version["deprecated"] == "use another"
    assert not {"scripts", "libc", "_id", "_npmUser"} & set(version)
    assert full.json()["versions"]["1.0.0"]["libc"] == ["glibc"]


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/json; q=1.0, */*", "application/json"),
        (VENDOR, VENDOR),
        (f"{VENDOR}; q=0.1, application/json; q=0.8", "application/json"),
    ],
)
def test_the_abbreviated_form_is_for_who_prefers_it(
    npm: FakeNpm, tarballs: Tarballs, accept: str | None, media_type: str
) -> None:
    npm.publish(tarballs.pack("left", "1.0.0"))
    reply = ask(f"{npm.registry_url}left", {"Accept": accept} if accept else {})
    assert reply.headers["content-type"] == media_type


def test_conditions_and_gzip(npm: FakeNpm, tarballs: Tarballs) -> None:
    npm.publish(tarballs.pack("left", "1.0.0"))
    url = f"{npm.registry_url}left"
    first = ask(url, SHORT)
    assert ask(url, SHORT | {"If-None-Match": first.headers["etag"]}).status == 304
    assert ask(url, FULL | {"If-None-Match": first.headers["etag"]}).status == 200
    assert ask(url, FULL | {"If-Modified-Since": first.headers["last-modified"]}).status == 304
    packed = ask(url, SHORT | {"Accept-Encoding": "gzip, br"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == first.body
    npm.publish(tarballs.pack("left", "1.1.0"))
    changed = ask(url, SHORT | {"If-None-Match": first.headers["etag"], "If-Modified-Since": first.headers["last-modified"]})
    assert changed.status == 200
    assert ask(url, FULL | {"If-Modified-Since": first.headers["last-modified"]}).status == 200
    assert (ask(url, FULL, "HEAD").body, ask(url, FULL, "HEAD").headers["etag"]) == (b"", ask(url, FULL).headers["etag"])


def test_it_can_ignore_accept_and_conditions_and_have_no_validators(npm: FakeNpm, tarballs: Tarballs) -> None:
    npm.publish(tarballs.pack("left", "1.0.0"))
    url = f"{npm.registry_url}left"
    npm.mode(conditional=False, max_age=7)
    reply = ask(url, SHORT)
    assert reply.headers["cache-control"] == "public, max-age=7"
    again = ask(url, SHORT | {"If-None-Match": reply.headers["etag"], "If-Modified-Since": reply.headers["last-modified"]})
    assert (again.status, again.headers["etag"]) == (200, reply.headers["etag"])
    npm.mode(abbreviates=False)
    assert ask(url, SHORT).headers["content-type"] == "application/json"
    npm.mode(validators=False)
    assert not {"etag", "last-modified"} & set(ask(url, SHORT).headers)
    npm.mode(signatures=False)
    assert "signatures" not in ask(url, FULL).json()["versions"]["1.0.0"]["dist"]


def test_an_intermediary_tells_less(npm: FakeNpm, tarballs: Tarballs) -> None:
    one = tarballs.pack("left", "1.0.0")
    npm.publish(one, provenance=True)
    npm.mode(intermediary=True)
    reply = ask(f"{npm.registry_url}left", SHORT)
    assert reply.headers["content-type"] == "application/json"
    assert not {"etag", "last-modified", "cache-control", "vary"} & set(reply.headers)
    assert set(reply.json()) == {"_id", "name", "dist-tags", "versions", "time"}
    assert set(reply.json()["versions"]["1.0.0"]["dist"]) == {"integrity", "shasum", "tarball"}
    for path in ("-/npm/v1/keys", "-/npm/v1/attestations/left@1.0.0"):
        assert (ask(npm.registry_url + path).status, ask(npm.registry_url + path).body) == (404, b"")
    head = ask(npm.tarball_url(one), method="HEAD")
    assert (head.headers["accept-ranges"], head.headers["content-type"]) == ("bytes", "application/octet-stream")


def test_names_are_as_published_and_scopes_are_spelt_in_two_ways(npm: FakeNpm, tarballs: Tarballs) -> None:
    scoped = tarballs.pack("@some/thing", "1.0.0")
    npm.publish(scoped, tarballs.pack("JSONStream", "1.0.0"), tarballs.pack("jsonstream", "2.0.0"))
    assert ask(f"{npm.registry_url}@some%2fthing").json() == ask(f"{npm.registry_url}@some/thing").json()
    assert ask(f"{npm.registry_url}@some%2Fthing/1.0.0").json()["_id"] == "@some/thing@1.0.0"
    assert ask(f"{npm.registry_url}%40some%2fthing").status == 404
    assert list(ask(f"{npm.registry_url}JSONStream").json()["versions"]) == ["1.0.0"]
    assert list(ask(f"{npm.registry_url}jsonstream").json()["versions"]) == ["2.0.0"]
    assert ask(npm.tarball_url(scoped)).body == scoped.content
    missing = ask(f"{npm.registry_url}jsonStream")
    assert (missing.status, missing.json()) == (404, {"error": "Not found"})


def test_tags_manifests_and_what_is_taken_away(npm: FakeNpm, tarballs: Tarballs) -> None:
    one, two, beta = (tarballs.pack("left", version) for version in ("1.0.0", "2.0.0", "3.0.0-beta.1"))
    npm.publish(one, two)
    npm.publish(beta, tags=("next",), time="2024-02-01T00:00:00.000Z")
    url = npm.registry_url
    assert ask(f"{url}-/package/left/dist-tags").json() == {"latest": "2.0.0", "next": "3.0.0-beta.1"}
    assert ask(f"{url}left/next").json()["version"] == "3.0.0-beta.1"
    assert ask(f"{url}left/1.0.0").json()["dist"]["integrity"] == one.integrity
    assert ask(f"{url}left/9.9.9").status == 404
    npm.unpublish("left", "2.0.0")
    npm.set_tag("left", "next", None)
    npm.deprecate("left", "1.0.0", "old")
    document = ask(f"{url}left").json()
    assert list(document["versions"]) == ["1.0.0", "3.0.0-beta.1"]
    assert document["versions"]["1.0.0"]["deprecated"] == "old"
    assert document["dist-tags"] == {"latest": "3.0.0-beta.1"}
    assert document["time"]["2.0.0"] == "2024-01-01T00:00:00.000Z", "the real registry remembers when"
    assert document["time"]["modified"] == "2024-02-01T00:03:00.000Z", "each change a minute after the last"
    assert ask(npm.tarball_url(two)).status == 404
    npm.misbehave("/left", old_serial=True)
    assert list(ask(f"{url}left").json()["versions"]) == ["1.0.0"]
    npm.behave()
    npm.unpublish("left")
    assert (ask(f"{url}left").status, ask(npm.tarball_url(one)).status) == (404, 404)


def test_a_packument_of_fifty_megabytes_is_made_without_tarballs(npm: FakeNpm) -> None:
    npm.publish_many("@some/large", 5000, 10 * KB)
    reply = ask(f"{npm.registry_url}@some%2flarge", FULL | {"Accept-Encoding": "gzip"})
    assert 49 * MB < len(reply.content) < 53 * MB
    assert len(reply.json()["versions"]) == 5000
    assert reply.headers["content-type"] == "application/json"
    assert is_signed(npm, "@some/large", "1.4999.0")
    assert ask(npm.index_root + "/@some/large/-/large-1.0.0.tgz").status == 404


# ---- tarballs --------------------------------------------------------------------------------------------------------


def test_tarballs_honour_ranges_and_conditions(npm: FakeNpm, tarballs: Tarballs) -> None:
    one = tarballs.pack("left", "1.0.0", size=100 * KB)
    npm.publish(one)
    url = npm.tarball_url(one)
    whole = ask(url, {"Accept-Encoding": "gzip"})
    assert whole.body == one.content
    assert whole.headers["cache-control"] == "public, immutable, max-age=31557600"
    assert hashlib.sha512(whole.body).hexdigest() == one.sha512
    part = ask(url, {"Range": "bytes=10-19", "If-Range": whole.headers["etag"]})
    assert (part.status, part.body, part.headers["content-range"]) == (206, one.content[10:20], f"bytes 10-19/{one.size}")
    assert ask(url, {"If-None-Match": whole.headers["etag"]}).status == 304
    assert npm.count(kind="tarball") == 3


@pytest.mark.parametrize("host", ["files", "elsewhere"])
def test_tarballs_may_be_on_another_host(npm: FakeNpm, tarballs: Tarballs, host: str) -> None:
    one = tarballs.pack("left", "1.0.0")
    npm.publish(one)
    npm.mode(tarballs=host)
    url = ask(f"{npm.registry_url}left").json()["versions"]["1.0.0"]["dist"]["tarball"]
    assert url == npm.tarball_url(one, host)
    assert ask(url).body == one.content
    assert ask(npm.tarball_url(one)).status == 404


def test_old_versions_have_a_shasum_only_or_a_path_of_their_own(npm: FakeNpm, tarballs: Tarballs) -> None:
    old, odd = tarballs.pack("left", "0.1.0"), tarballs.pack("left", "0.2.0")
    npm.publish(old, integrity=False, time="2011-01-01T00:00:00.000Z")
    npm.publish(odd, target="left/-/left-0.2.0-final.tgz")
    dists = {version: manifest["dist"] for version, manifest in ask(f"{npm.registry_url}left").json()["versions"].items()}
    assert dists["0.1.0"]["shasum"] == hashlib.sha1(old.content, usedforsecurity=False).hexdigest()
    assert not {"integrity", "signatures"} & set(dists["0.1.0"])
    assert dists["0.2.0"]["tarball"] == f"{npm.registry_url}left/-/left-0.2.0-final.tgz"
    assert ask(dists["0.2.0"]["tarball"]).body == odd.content
    assert ask(npm.tarball_url(odd)).status == 404


def test_misbehaviour_spoils_tarballs_too(npm: FakeNpm, tarballs: Tarballs) -> None:
    one = tarballs.pack("left", "1.0.0", size=100 * KB)
    npm.publish(one)
    npm.misbehave("*.tgz", flip=-1)
    assert ask(npm.tarball_url(one)).body == flipped(one.content, -1)
    npm.behave()
    npm.misbehave("*.tgz", truncate=1000)
    assert ask(npm.tarball_url(one)).short


def test_the_same_arguments_pack_the_same_bytes(tmp_path: Path) -> None:
    def pack(shelf: str, seed: str) -> Tarball:
        return Tarballs(tmp_path / shelf).pack("@some/thing", "1.0.0", size=50 * KB, bin=("thing",), seed=seed)

    assert pack("one", "").content == pack("two", "").content
    assert pack("one", "").sha512 != pack("one", "other").sha512
    assert pack("one", "").size > 50 * KB


# ---- signatures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signature", "published", "accepted"),
    [
        ("good", "2024-01-01T00:00:00.000Z", True),
        ("good", "2016-01-01T00:00:00.000Z", True),
        ("expired", "2024-01-01T00:00:00.000Z", False),
        ("tampered", "2024-01-01T00:00:00.000Z", False),
        ("unknown", "2024-01-01T00:00:00.000Z", False),
    ],
)
def test_signatures_verify_where_they_should(
    npm: FakeNpm, tarballs: Tarballs, signature: str, published: str, accepted: bool
) -> None:
    npm.publish(tarballs.pack("@some/thing", "1.0.0"), signature=signature, time=published)
    assert is_signed(npm, "@some/thing", "1.0.0") is accepted


def test_the_old_key_is_no_good_for_what_came_after_it(npm: FakeNpm, tarballs: Tarballs) -> None:
    npm.publish(tarballs.pack("left", "1.0.0"), time="2016-01-01T00:00:00.000Z")
    assert not is_signed(npm, "left", "1.0.0", at="2024-01-01T00:00:00.000Z")
    npm.publish(tarballs.pack("right", "1.0.0"), signature="none")
    assert "signatures" not in npm.packument("right")["versions"]["1.0.0"]["dist"]


def test_the_keys_are_served_and_stay(npm: FakeNpm) -> None:
    pinned = npm.keys_json()
    served = ask(f"{npm.registry_url}-/npm/v1/keys")
    assert served.json() == json.loads(pinned)
    npm.reset()
    assert npm.keys_json() == pinned
    for key in served.json()["keys"]:
        public = hashlib.sha256(base64.b64decode(key["key"])).digest()
        assert key["keyid"] == f"SHA256:{base64.b64encode(public).decode().rstrip('=')}"
        assert key["keytype"] == key["scheme"] == "ecdsa-sha2-nistp256"
    assert [key["expires"] is None for key in served.json()["keys"]] == [False, True]


def test_replaced_bytes_keep_their_old_signature_unless_signed_anew(npm: FakeNpm, tarballs: Tarballs) -> None:
    one, other = tarballs.pack("left", "1.0.0"), tarballs.pack("left", "1.0.0", seed="other")
    npm.publish(one)
    npm.replace(other, listed=False)
    assert npm.packument("left")["versions"]["1.0.0"]["dist"]["integrity"] == one.integrity
    assert ask(npm.tarball_url(one)).body == other.content
    npm.replace(other)
    assert npm.packument("left")["versions"]["1.0.0"]["dist"]["integrity"] == other.integrity
    assert not is_signed(npm, "left", "1.0.0")
    npm.replace(other, signed=True)
    assert is_signed(npm, "left", "1.0.0")


def test_attestations_are_signed_envelopes_about_the_version(npm: FakeNpm, tarballs: Tarballs) -> None:
    one = tarballs.pack("@some/thing", "1.0.0")
    npm.publish(one, tarballs.pack("@some/thing", "1.1.0"), provenance=True)
    npm.publish(tarballs.pack("left", "1.0.0"))
    url = npm.packument("@some/thing")["versions"]["1.0.0"]["dist"]["attestations"]["url"]
    assert url == f"{npm.registry_url}-/npm/v1/attestations/@some%2fthing@1.0.0"
    reply = ask(url)
    assert [seen.kind for seen in npm.seen()] == ["attestations"]
    keys = {key["keyid"]: key["key"] for key in json.loads(npm.keys_json())["keys"]}
    published, built = reply.json()["attestations"]
    assert (published["predicateType"], built["predicateType"]) == (
        "https://attestation.test/specs/publish/v0.1",
        "https://slsa.dev/provenance/v1",
    )
    for one_of_them in (published, built):
        bundle = one_of_them["bundle"]
        envelope = bundle["dsseEnvelope"]
        statement = json.loads(base64.b64decode(envelope["payload"]))
        assert statement["subject"] == [{"name": "pkg:npm/%40some/thing@1.0.0", "digest": {"sha512": one.sha512}}]
        assert statement["predicateType"] == one_of_them["predicateType"]
        (signature,) = envelope["signatures"]
        payload = base64.b64decode(envelope["payload"])
        signed = f"DSSEv1 {len(envelope['payloadType'])} {envelope['payloadType']} {len(payload)} ".encode() + payload
        assert verifies(keys.get(signature["keyid"]) or certified(bundle), signature["sig"], signed)
    assert published["bundle"]["verificationMaterial"]["publicKey"]["hint"] in keys
    missing = ask(f"{npm.registry_url}-/npm/v1/attestations/left@1.0.0")
    assert (missing.status, missing.json()) == (404, {"error": "Not found"})


def certified(bundle: dict[str, Any]) -> str:
    """The public key of a bundle's certificate, base64 of its DER."""
    (certificate,) = bundle["verificationMaterial"]["x509CertificateChain"]["certificates"]
    key = x509.load_der_x509_certificate(base64.b64decode(certificate["rawBytes"])).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return base64.b64encode(key.public_bytes(serialization.Encoding.DER, form)).decode()


# ---- search, audit, writes -------------------------------------------------------------------------------------------


def test_search_finds_by_name_in_pages(npm: FakeNpm, tarballs: Tarballs) -> None:
    npm.publish(*(tarballs.pack(name, "1.0.0") for name in ("left-pad", "left-trim", "right")))
    reply = ask(f"{npm.registry_url}-/v1/search?text=left&size=1&from=1")
    assert reply.json()["total"] == 2
    (found,) = reply.json()["objects"]
    assert (found["package"]["name"], found["package"]["version"]) == ("left-trim", "1.0.0")
    assert npm.count(kind="search") == 1


def test_a_bulk_audit_finds_what_is_advised_and_is_logged_decoded(npm: FakeNpm) -> None:
    number = npm.advise("left", "1.0.0", "1.1.0", vulnerable_versions="<2.0.0", severity="critical")
    path = "/-/npm/v1/security/advisories/bulk"
    wanted = {"left": ["1.0.0"], "right": ["1.0.0"]}
    for packed in (True, False):
        reply = post(npm, path, wanted, packed=packed)
        assert [(one["id"], one["severity"], one["vulnerable_versions"]) for one in reply.json()["left"]] == [
            (number, "critical", "<2.0.0")
        ]
        assert set(reply.json()) == {"left"}
    assert [json.loads(seen.body) for seen in npm.seen(kind="audit")] == [wanted, wanted]
    assert post(npm, path, {"left": ["2.0.0"]}).json() == {}
    assert post(npm, path, {"left": "1.0.0"}).status == 400
    assert ask(npm.index_root + path, {"Content-Encoding": "gzip"}, "POST", body=b"{}").status == 400


def test_an_old_audit_finds_in_the_tree(npm: FakeNpm) -> None:
    number = npm.advise("left", "1.0.0")
    tree = {"name": "app", "dependencies": {"right": {"version": "3.0.0", "dependencies": {"left": {"version": "1.0.0"}}}}}
    for path in ("/-/npm/v1/security/audits/quick", "/-/npm/v1/security/audits"):
        reply = post(npm, path, tree).json()
        assert reply["advisories"][str(number)]["findings"] == [{"version": "1.0.0", "paths": ["right>left"]}]
        assert reply["metadata"]["vulnerabilities"]["high"] == 1
        assert reply["metadata"]["dependencies"] == 2
    npm.mode(audit="off")
    assert post(npm, "/-/npm/v1/security/audits/quick", tree).status == 404


def test_requests_are_told_apart_and_writes_change_nothing(npm: FakeNpm, tarballs: Tarballs) -> None:
    one = tarballs.pack("@some/thing", "1.0.0")
    npm.publish(one)
    before = npm.packument("@some/thing")
    asked = [
        ("GET", "/@some%2fthing", "packument"),
        ("GET", "/@some/thing/latest", "manifest"),
        ("HEAD", f"/{one.target}", "tarball"),
        ("GET", "/-/npm/v1/keys", "keys"),
        ("GET", "/-/v1/search?text=x", "search"),
        ("GET", "/-/ping?write=true", "ping"),
        ("GET", "/", "other"),
        ("GET", "/-/whoami", "other"),
        ("GET", "/-/package/@some%2fthing/dist-tags", "other"),
        ("PUT", "/@some%2fthing", "write"),
        ("DELETE", "/-/package/@some%2fthing/dist-tags/latest", "write"),
        ("POST", "/-/v1/login", "write"),
        ("PUT", "/-/user/org.couchdb.user:me", "write"),
    ]
    statuses = [ask(npm.index_root + path, method=method).status for method, path, _ in asked]
    assert statuses == [200, 200, 200, 200, 200, 200, 200, 401, 200, 201, 201, 404, 201]
    assert [seen.kind for seen in npm.seen()] == [kind for _, _, kind in asked]
    assert ask(f"{npm.registry_url}-/ping").json() == {}
    assert npm.packument("@some/thing") == before


# ---- the real client -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Client:
    """The pinned npm in a project of its own, as it is by default: it audits what it installs."""

    directory: Path
    registry: str

    def run(self, *arguments: str, cold: bool = False) -> subprocess.CompletedProcess[str]:
        """Run npm; ``cold`` without what it has cached."""
        if cold:
            shutil.rmtree(self.directory / "cache", ignore_errors=True)
        settings = {
            "NODE_OPTIONS": f"--require={node.NO_TUF}",
            "npm_config_registry": self.registry,
            "npm_config_cache": str(self.directory / "cache"),
            "npm_config_update_notifier": "false",
        }
        return subprocess.run(
            [*node.program("npm"), *arguments],
            cwd=self.directory / "project",
            env=node.environment(self.directory) | settings,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def client(npm: FakeNpm, tmp_path: Path) -> Client:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "package.json").write_text('{"name": "project", "version": "1.0.0"}')
    return Client(tmp_path, npm.registry_url)


def test_npm_installs_from_it(npm: FakeNpm, tarballs: Tarballs, client: Client) -> None:
    app, scoped, right = (
        tarballs.pack("app", "1.0.0", dependencies={"@some/thing": "^1.0.0"}, bin=("app",)),
        tarballs.pack("@some/thing", "1.2.0", dependencies={"Right": "*"}),
        tarballs.pack("Right", "0.1.0"),
    )
    npm.publish(app, scoped, right)
    npm.advise("Right", "0.1.0", vulnerable_versions="<0.2.0")
    installed = client.run("install", "app@latest")
    assert installed.returncode == 0, installed.stderr
    assert client.run("exec", "app").stdout == "app 1.0.0\n"
    lock = json.loads((client.directory / "project" / "package-lock.json").read_text())["packages"]
    for one in (app, scoped, right):
        assert lock[f"node_modules/{one.name}"]["integrity"] == one.integrity
    assert {seen.path for seen in npm.seen(kind="packument")} == {"/app", "/@some%2fthing", "/Right"}
    assert npm.count(kind="tarball") == 3
    assert "3 high severity" in installed.stdout, "npm counts those that depend on it"
    (audit,) = npm.seen(kind="audit")
    assert audit.header("content-encoding") == "gzip"
    assert json.loads(audit.body)["Right"] == ["0.1.0"]


def test_npm_judges_its_signatures_as_meant(npm: FakeNpm, tarballs: Tarballs, client: Client) -> None:
    one = tarballs.pack("left", "1.0.0")
    npm.publish(one)
    assert client.run("install", "left").returncode == 0
    good = client.run("audit", "signatures", cold=True)
    assert (good.returncode, "1 package has a verified registry signature" in good.stdout) == (0, True), good.stderr
    for signature, complaint in {
        "tampered": "1 package has an invalid registry signature",
        "unknown": "EMISSINGSIGNATUREKEY",
        "expired": "EEXPIREDSIGNATUREKEY",
        "none": "1 package has a missing registry signature",
    }.items():
        npm.publish(one, signature=signature)
        judged = client.run("audit", "signatures", cold=True)
        assert judged.returncode == 1, signature
        assert complaint in judged.stdout + judged.stderr
    assert npm.count(kind="keys") == 5
