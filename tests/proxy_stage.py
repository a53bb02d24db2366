"""What the tests of the proxy face share: registries that speak TLS under names of their own, an edge before all three, and ways past it.

A module takes the fixtures over by name: ``authority, pypi = proxy_stage.authority, proxy_stage.pypi``. An edge of ``start_proxy`` knows
the registries as the public ones are known: by name, over TLS, with certificates of an authority that it trusts. Clients reach it as
their users' do (``edge.running``), or go ``straight``: through a proxy that only relays, which stands for a network without an edge.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12Certificate, serialize_java_truststore

from tests.fakes import Authority, Fake, FakeMaven, FakeNpm, FakePyPI
from tests.harness import Edge, Through
from tests.live.dying import Tether

ALIAS = "yarn-alias.test"
"""Another name of the npm registry, which lock files of yarn 1 spell and no setting does."""

PASSWORD = "changeit"
"""What every JDK's own store has."""


# ---- registries ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(scratch: Path) -> Authority:
    return Authority(Path(tempfile.mkdtemp(dir=scratch)))


@pytest.fixture(scope="module")
def pypi(authority: Authority) -> Iterator[FakePyPI]:
    """``https://pypi.test``, its files at ``files.pypi.test``. What is published stays."""
    with FakePyPI.start(authority) as fake:
        yield fake


@pytest.fixture(scope="module")
def npm(authority: Authority) -> Iterator[FakeNpm]:
    """``https://npm.test``. What is published stays."""
    with FakeNpm.start(authority, also=[ALIAS]) as fake:
        yield fake


@pytest.fixture(scope="module")
def maven(authority: Authority) -> Iterator[FakeMaven]:
    """``https://maven.test``. What is published stays."""
    with FakeMaven.start(authority) as fake:
        yield fake


def upstream_of(fake: Fake) -> str:
    """What an edge's ``upstream`` is set to."""
    if isinstance(fake, FakePyPI):
        return fake.index_url
    if isinstance(fake, FakeNpm):
        return fake.registry_url
    assert isinstance(fake, FakeMaven)
    return fake.url


def addresses_of(*fakes: Fake) -> dict[str, list[str]]:
    """Where the names of these lead, and where the npm registry's other name does."""
    found: dict[str, list[str]] = {}
    for fake in fakes:
        found |= fake.addresses
        if isinstance(fake, FakeNpm):
            found[ALIAS] = [fake.hosts["index"]]
    return found


# ---- edges -----------------------------------------------------------------------------------------------------------


def new_edge(authority: Authority, scratch: Path, *fakes: Fake, **arguments: Any) -> Edge:
    """An edge before these registries, not yet started; the first is the one under test. Further arguments as ``Edge`` takes them."""
    first, *rest = fakes
    others: dict[str, dict[str, object]] = {fake.kind: {"upstream": upstream_of(fake)} for fake in rest}
    for name, settings in arguments.pop("others", {}).items():
        others[name] = others.get(name, {}) | settings
    return Edge(
        Path(tempfile.mkdtemp(dir=scratch)),
        arguments.pop("upstream", upstream_of(first)),
        kind=first.kind,
        others=others,
        authority=authority.path,
        names=addresses_of(*fakes) | arguments.pop("names", {}),
        **arguments,
    )


@contextlib.contextmanager
def start_proxy(authority: Authority, scratch: Path, *fakes: Fake, **arguments: Any) -> Iterator[Edge]:
    """``new_edge``, running until the block ends."""
    edge = new_edge(authority, scratch, *fakes, **arguments)
    with edge:
        yield edge
    shutil.rmtree(edge.directory, ignore_errors=True)


# ---- past the edge ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Straight:
    """A network without an edge: ``tether`` relays to the registries, and ``through`` leads a client there with all it has to trust."""

    tether: Tether
    through: Through


@contextlib.contextmanager
def straight_to(authority: Authority, scratch: Path, *fakes: Fake) -> Iterator[Straight]:
    """Clients in the block get to the registries themselves, untouched."""
    with Tether(addresses_of(*fakes)) as tether:
        store = Path(tempfile.mkdtemp(dir=scratch)) / "trust.p12"
        certificates = [PKCS12Certificate(x509.load_pem_x509_certificate(authority.path.read_bytes()), b"authority")]
        store.write_bytes(serialize_java_truststore(certificates, BestAvailableEncryption(PASSWORD.encode())))
        yield Straight(tether, Through(variables=proxy_variables(tether.port, authority.path, store)))


def proxy_variables(port: int, bundle: Path, store: Path) -> Mapping[str, str]:
    """The variables with which every client goes through a proxy on this machine, and trusts these certificates alone."""
    proxy = f"http://127.0.0.1:{port}"
    java = {
        "https.proxyHost": "127.0.0.1",
        "https.proxyPort": port,
        "javax.net.ssl.trustStore": store,
        "javax.net.ssl.trustStoreType": "PKCS12",
        "javax.net.ssl.trustStorePassword": PASSWORD,
    }
    return {
        **dict.fromkeys(("HTTPS_PROXY", "https_proxy", "YARN_HTTPS_PROXY"), proxy),
        **dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT"), str(bundle)),
        **dict.fromkeys(("NODE_EXTRA_CA_CERTS", "YARN_HTTPS_CA_FILE_PATH"), str(bundle)),
        "JAVA_TOOL_OPTIONS": " ".join(f"-D{name}={value}" for name, value in java.items()),
    }
