"""What the tests of the proxy face share: registries that speak TLS under names of their own, an edge before all three, and ways past it.

A module takes the fixtures over by name: ``authority, pypi = proxy_stage.authority, proxy_stage.pypi``. An edge of ``start_proxy`` knows
the registries as the public ones are known: by name, over TLS, with certificates of an authority that it trusts. Clients reach it as
their users' do (``edge.running``), or go ``straight``: through a proxy that only relays, which stands for a network without an edge.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import shutil
import ssl
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12Certificate, serialize_java_truststore

from tests import node
from tests.fakes import Authority, Fake, FakeMaven, FakeNpm, FakePyPI
from tests.harness import Edge, Pdm, Poetry, Reply, Through, Uv, Workspace
from tests.jars import Jars
from tests.live.dying import Tether
from tests.maven_stage import publish_tools, tree
from tests.tarballs import Tarballs
from tests.wheels import KB, Shelf

ALIAS = "yarn-alias.test"
"""Another name of the npm registry, which lock files of yarn 1 spell and no setting does."""

PASSWORD = "changeit"
"""What every JDK's own store has."""


PYTHON_TREE = {"orchard": "2.0", "apple-tree": "1.5", "pear-tree": "1.0", "soil": "3.1"}
NODE_TREE = {"orchard@2.1.0", "pear@1.2.7", "soil@3.1.0", "@farm/rain-water@0.2.0"}
JAVA_TREE = ["org.example.orchard:app:1.0", "org.example.orchard:core:1.5", "org.example.orchard:lib:1.0"]
"""What ``orchard``, ``orchard`` and ``org.example.orchard:app:1.0`` need, with themselves."""


# ---- registries ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(scratch: Path) -> Authority:
    return Authority(Path(tempfile.mkdtemp(dir=scratch)))


@pytest.fixture(scope="module")
def packed(scratch: Path) -> Tarballs:
    """The module's shelf of tarballs."""
    return Tarballs(scratch / "tarballs")


@pytest.fixture(scope="module")
def pypi(authority: Authority, shelf: Shelf) -> Iterator[FakePyPI]:
    """``https://pypi.test``, its files at ``files.pypi.test``, with a small world under ``orchard``. What is published stays."""
    with FakePyPI.start(authority) as fake:
        fake.publish(
            shelf.wheel("pip", "1.0"),
            shelf.wheel("orchard", "2.0", requires=["apple-tree>=1,<2", "pear-tree"]),
            shelf.wheel("apple-tree", "1.5", requires=["soil>=3"], size=300 * KB),
            shelf.wheel("apple-tree", "2.0"),
            shelf.sdist("pear-tree", "1.0", requires=["soil"]),
            shelf.wheel("soil", "3.1"),
        )
        yield fake


@pytest.fixture(scope="module")
def npm(authority: Authority, packed: Tarballs) -> Iterator[FakeNpm]:
    """``https://npm.test``, with a small world under ``orchard``. What is published stays."""
    with FakeNpm.start(authority, also=[ALIAS]) as fake:
        fake.publish(
            packed.pack("wrappy", "1.0.2"),
            packed.pack("soil", "3.1.0"),
            packed.pack("@farm/rain-water", "0.2.0", dependencies={"soil": "^3.0.0"}),
            packed.pack("pear", "1.2.7", dependencies={"soil": "^3.0.0", "@farm/rain-water": "0.2.0"}, size=300 * KB),
            packed.pack("orchard", "2.1.0", dependencies={"pear": "~1.2.0"}),
        )
        yield fake


@pytest.fixture(scope="module")
def maven(authority: Authority, jars: Jars) -> Iterator[FakeMaven]:
    """``https://maven.test``, with what every Maven needs and a small world under ``org.example.orchard``. What is published stays."""
    with FakeMaven.start(authority) as fake:
        publish_tools(fake, jars)
        fake.publish(*tree(jars, "org.example.orchard"))
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


# ---- projects with lock files ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Replayed:
    """How an installation from a lock fared. ``files`` are digests of what was installed, by path."""

    succeeded: bool
    output: str
    files: Mapping[str, str]


class Locked(Protocol):
    """A client's project that has a lock file."""

    name: str

    @property
    def lock(self) -> bytes: ...

    @lock.setter
    def lock(self, lock: bytes) -> None: ...

    @property
    def through(self) -> Through: ...

    @through.setter
    def through(self, through: Through) -> None: ...

    def make(self) -> None:
        """Resolve ``orchard`` and write the lock."""

    def replay(self) -> Replayed:
        """Install what the lock says, from empty caches, without changing it."""


class LockedPython:
    """``uv sync --frozen``, ``poetry install`` or ``pdm sync``."""

    def __init__(self, client: Uv | Poetry | Pdm, directory: Path, index_url: str) -> None:
        self.name = client.name
        self.workspace = Workspace(directory)
        self._client = client
        self._index_url = index_url

    @property
    def through(self) -> Through:
        return self.workspace.through

    @through.setter
    def through(self, through: Through) -> None:
        self.workspace.through = through

    @property
    def lock(self) -> bytes:
        return (self.workspace.project / f"{self.name}.lock").read_bytes()

    @lock.setter
    def lock(self, lock: bytes) -> None:
        (self.workspace.project / f"{self.name}.lock").write_bytes(lock)

    def make(self) -> None:
        made = self._client.lock(self.workspace, self._index_url, ["orchard"])
        assert made.succeeded, made.output

    def replay(self) -> Replayed:
        self.workspace.empty_cache()
        done = self._client.sync(self.workspace, *(["--frozen"] if isinstance(self._client, Uv) else []))
        assert not done.succeeded or done.installed == PYTHON_TREE, done.output
        (packages,) = self.workspace.environment.glob("lib/python*/site-packages")
        return Replayed(done.succeeded, done.output, digests(packages))


class LockedNode:
    """``npm ci``, ``yarn install --immutable`` and the like."""

    def __init__(self, client: node.Client, directory: Path, registry: str) -> None:
        self.name = client.name
        self.project = client.project(directory, registry)

    @property
    def through(self) -> Through:
        return self.project.through

    @through.setter
    def through(self, through: Through) -> None:
        self.project.through = through

    @property
    def lock(self) -> bytes:
        return self.project.lock_path.read_bytes()

    @lock.setter
    def lock(self, lock: bytes) -> None:
        self.project.lock_path.write_bytes(lock)

    def make(self) -> None:
        made = self.project.install({"orchard": "^2.0.0"})
        assert made.installed == NODE_TREE, made.output

    def replay(self) -> Replayed:
        self.project.empty_cache()
        done = self.project.ci()
        assert not done.succeeded or done.installed == NODE_TREE, done.output
        return Replayed(done.succeeded, done.output, digests(self.project.path / "node_modules"))


_NOTES = frozenset(
    ".lock .modules.yaml .package-lock.json .pnpm-workspace-state.json .pnpm-workspace-state-v1.json .yarn-integrity .yarn-state.yml "
    "INSTALLER RECORD REQUESTED uv_build.json uv_cache.json _virtualenv.py _virtualenv.pth".split()
)
"""What clients write beside what they install, with times and places in it."""


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every installed file below ``directory``, by its path there."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.name not in _NOTES and "__pycache__" not in path.parts:
            found[str(path.relative_to(directory))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


# ---- raw requests ----------------------------------------------------------------------------------------------------


def through(edge: Edge, url: str, method: str = "GET", timeout_s: float = 30, **headers: str) -> Reply:
    """One request through the edge's proxy face on a connection of its own, trusting its root alone.

    Header names are spelt with underscores. Raises ``OSError`` with the status if the edge does not let the client in there.
    """
    began = time.monotonic()
    parts = urllib.parse.urlsplit(url)
    context = ssl.create_default_context(cafile=edge.root_certificate())
    connection = http.client.HTTPSConnection("127.0.0.1", edge.port, timeout=timeout_s, context=context)
    assert parts.hostname is not None
    connection.set_tunnel(parts.hostname, parts.port)
    with contextlib.closing(connection):
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        with connection.getresponse() as response:
            short = False
            try:
                content = response.read()
            except http.client.IncompleteRead as error:
                content, short = error.partial, True
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, response.reason, fields, content, short, time.monotonic() - began)
