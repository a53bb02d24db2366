"""Real clients at registries they know by name, through the proxy face of an edge that they know nothing of."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import proxy_stage
from tests.fakes import Authority, Fake, FakeMaven, FakeNpm, FakePyPI
from tests.harness import CLIENTS, PDM, PIP, POETRY, TOOLS, UV, Client, Edge, Reply, Rule, Through, Workspace, wait_until
from tests.jars import Jars, pom_xml
from tests.jvm import GRADLE, JVM_CLIENTS, MAVEN_39, MAVENS, PROBE, JvmClient, JvmWorkspace, Maven
from tests.node import BUN, NPM, Project
from tests.proxy_stage import JAVA_TREE, NODE_TREE, PYTHON_TREE, start_proxy, straight_to, through
from tests.tarballs import Tarballs
from tests.wheels import Shelf

pytestmark = pytest.mark.slow

authority, packed = proxy_stage.authority, proxy_stage.packed
pypi, npm, maven = proxy_stage.pypi, proxy_stage.npm, proxy_stage.maven

HOURS_S = 6 * 3600.0

REASON = "steals cookies; ask security about ticket 4711"

SOON_S = 5.0


@pytest.fixture(scope="module")
def proxy(authority: Authority, pypi: FakePyPI, npm: FakeNpm, maven: FakeMaven, scratch: Path) -> Iterator[Edge]:
    """The module's edge, before all three."""
    with start_proxy(authority, scratch, pypi, npm, maven) as edge:
        yield edge


@pytest.fixture
def led(proxy: Edge, workspace: Workspace) -> Workspace:
    """A workspace whose commands are run by ``edge run``."""
    workspace.through = proxy.running
    return workspace


@pytest.fixture
def led_jvm(proxy: Edge, tmp_path: Path) -> JvmWorkspace:
    return JvmWorkspace(tmp_path / "jvm", proxy.running)


@pytest.fixture
def led_npm(proxy: Edge, npm: FakeNpm, tmp_path: Path) -> Project:
    return NPM.project(tmp_path / "npm", npm.registry_url, through=proxy.running)


def files_of(edge: Edge, registry: str) -> float:
    """Requests for files that were sent to one upstream. (Others that refuse are knocked at, which counts.)"""
    return edge.metric("leeward_upstream_requests_total", kind="file", registry=registry)


def asked_by(fake: Fake) -> set[str]:
    """Who asked the registry, by its name for itself, without the version."""
    return {(seen.header("user-agent") or "").partition("/")[0] for seen in fake.seen()}


def thrice(edge: Edge, fake: Fake, install: Callable[[], object]) -> None:
    """``install`` (which checks for itself, and starts from empty caches) once, once without a file, once without the registry."""
    fake.forget()
    install()
    assert asked_by(fake) <= {"leeward"}
    before = files_of(edge, fake.kind)
    install()
    assert files_of(edge, fake.kind) == before
    fake.refuse()
    edge.age(HOURS_S)
    try:
        install()
        assert edge.metric("leeward_tunnels_total") == 0
    finally:
        edge.age(0)
        fake.listen_again()
        # Rather than wait for the breaker's next look.
        edge.restart()


# ---- Python ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_python_clients_resolve_and_install(proxy: Edge, pypi: FakePyPI, led: Workspace, client: Client) -> None:
    def install() -> None:
        led.empty_cache()
        result = client.install(led, pypi.index_url, ["orchard"])
        assert result.succeeded, result.output
        assert result.installed == PYTHON_TREE

    thrice(proxy, pypi, install)


@pytest.mark.parametrize("client", [PIP, UV], ids=lambda client: client.name)
def test_pinned_hashes_install(proxy: Edge, pypi: FakePyPI, led: Workspace, shelf: Shelf, project: str, client: Client) -> None:
    chosen = [shelf.wheel(project, "1.0", requires=[f"{project}-leaf"]), shelf.wheel(f"{project}-leaf", "2.0")]
    pypi.publish(*chosen)

    def install() -> None:
        led.empty_cache()
        result = client.install(led, pypi.index_url, [], hashes=chosen)
        assert result.installed == {project: "1.0", f"{project}-leaf": "2.0"}, result.output

    thrice(proxy, pypi, install)


def test_a_pylock_that_names_files_by_their_urls_installs_as_it_is(
    proxy: Edge, authority: Authority, pypi: FakePyPI, led: Workspace, scratch: Path
) -> None:
    """Installers go straight to each ``url``: nothing but a proxy can catch that."""
    with straight_to(authority, scratch, pypi) as straight:
        led.through = straight.through
        assert PIP.lock(led, pypi.index_url, ["orchard"]).succeeded
    lock = (led.project / "pylock.toml").read_bytes()
    assert pypi.files_root.encode() in lock
    led.through = proxy.running

    def install() -> None:
        led.empty_cache()
        target = led.fresh_environment()
        words = ["pip", "install", "--python", str(target), "-r", "pylock.toml", "--preview-features", "pylock"]
        done = led.run([TOOLS / "bin" / "uv", *words], UV.variables(led), led.project, 120)
        assert done.installed == PYTHON_TREE, done.output
        assert (led.project / "pylock.toml").read_bytes() == lock

    thrice(proxy, pypi, install)


@pytest.mark.parametrize("client", [UV, POETRY, PDM], ids=lambda client: client.name)
def test_the_lines_that_use_prints_are_enough_for_a_client_without_settings(
    proxy: Edge, pypi: FakePyPI, workspace: Workspace, client: Client
) -> None:
    workspace.through = Through(variables=printed(proxy, client.name))
    pypi.forget()
    result = client.install(workspace, pypi.index_url, ["orchard"])
    assert result.installed == PYTHON_TREE, result.output
    assert asked_by(pypi) <= {"leeward"}


def test_the_lines_that_use_prints_are_enough_for_bun(proxy: Edge, npm: FakeNpm, tmp_path: Path) -> None:
    project = BUN.project(tmp_path, npm.registry_url, through=Through(variables=printed(proxy, "bun")))
    npm.forget()
    result = project.install({"orchard": "^2.0.0"})
    assert result.installed == NODE_TREE, result.output
    assert asked_by(npm) <= {"leeward"}


def printed(edge: Edge, client: str) -> dict[str, str]:
    """The variables of the lines for a shell that ``edge use --proxy`` prints for a client that has no settings of its own."""
    done = edge.command("use", "--proxy", "--url", edge.url, client)
    assert done.returncode == 2
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert {words[0] for words in lines} == {"export"}
    return dict(word.split("=", 1) for _, word in lines)


# ---- JVM -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", JVM_CLIENTS, ids=lambda client: client.name)
def test_jvm_clients_resolve(proxy: Edge, maven: FakeMaven, led_jvm: JvmWorkspace, client: JvmClient) -> None:
    def resolve() -> None:
        led_jvm.empty_cache()
        result = client.resolve(led_jvm, maven.url, ["org.example.orchard:app:1.0"])
        assert result.resolved == JAVA_TREE, result.told

    thrice(proxy, maven, resolve)


@pytest.mark.parametrize("client", MAVENS, ids=lambda client: client.name)
def test_maven_verifies_a_project(proxy: Edge, maven: FakeMaven, led_jvm: JvmWorkspace, client: Maven) -> None:
    group, artifact, version = PROBE.split(":")
    plugin = (
        f"<plugin><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>"
        "<executions><execution><phase>verify</phase><goals><goal>resolve</goal></goals></execution></executions></plugin>"
    )
    pom = pom_xml("org.example.project:app:1", packaging="pom", requires=["org.example.orchard:app:1.0"])
    (led_jvm.project / "pom.xml").write_text(pom.replace("</project>", f"<build><plugins>{plugin}</plugins></build></project>"))

    def verify() -> None:
        led_jvm.empty_cache()
        result = client.run(led_jvm, maven.url, ["verify"], options=["-C"])
        assert result.resolved == JAVA_TREE, result.told

    thrice(proxy, maven, verify)


# ---- one store behind both faces -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Offer:
    """A file as each face has it. ``content`` is what is published."""

    fake: Fake
    path: str
    url: str
    sha256: str
    content: bytes


@pytest.fixture(params=["pypi", "npm", "maven"])
def offer(
    request: pytest.FixtureRequest,
    proxy: Edge,
    pypi: FakePyPI,
    npm: FakeNpm,
    maven: FakeMaven,
    shelf: Shelf,
    packed: Tarballs,
    jars: Jars,
    project: str,
) -> Offer:
    match request.param:
        case "pypi":
            wheel = shelf.wheel(project, "1.0", size=400_000)
            pypi.publish(wheel)
            return Offer(pypi, proxy.file_path(wheel), pypi.files_root + pypi.path_of(wheel), wheel.sha256, wheel.content)
        case "npm":
            tarball = packed.pack(project, "1.0.0", size=400_000)
            npm.publish(tarball)
            return Offer(npm, f"/npm/{tarball.target}", npm.tarball_url(tarball), tarball.sha256, tarball.content)
        case _:
            jar = jars.component(f"org.example.{project.replace('-', '')}:lib:1.0", size=400_000)
            maven.publish(jar)
            return Offer(maven, f"/maven/{jar.jar.path}", maven.url + jar.jar.path, jar.jar.sha256, jar.jar.content)


@pytest.mark.parametrize("first", ["mirror", "proxy"])
def test_a_file_by_mirror_and_by_proxy_is_one_blob_and_one_request(proxy: Edge, offer: Offer, first: str) -> None:
    offer.fake.forget()
    ways: Mapping[str, Callable[[], Reply]] = {
        "mirror": lambda: proxy.ask(offer.path),
        "proxy": lambda: through(proxy, offer.url),
    }
    replies = {way: ways[way]() for way in sorted(ways, key=lambda way: way != first)}
    bodies = {way: reply.body for way, reply in replies.items()}
    assert bodies == {"mirror": offer.content, "proxy": offer.content}
    tags = {reply.headers["etag"] for reply in replies.values()}
    assert len(tags) == 1
    # What is released need not be bound yet.
    wait_until(lambda: [path.name for path in proxy.blobs()].count(offer.sha256) == 1, SOON_S)
    name = offer.url.rpartition("/")[2]
    assert [seen.method for seen in offer.fake.seen(path=f"*/{name}")] == ["GET"]


def test_links_are_as_published_and_validators_differ_where_bytes_do(
    proxy: Edge, pypi: FakePyPI, npm: FakeNpm, maven: FakeMaven
) -> None:
    json = "application/vnd.pypi.simple.v1+json"
    published = through(proxy, f"{pypi.index_url}orchard/", Accept=json)
    mirrored = proxy.page("orchard", json)
    urls = [file["url"] for file in pypi.page_json("orchard")["files"]]
    assert [file["url"] for file in published.json()["files"]] == urls
    assert all(url.startswith(pypi.files_root) for url in urls)
    assert mirrored.content != published.content
    assert mirrored.headers["etag"] != published.headers["etag"]
    for tag, status in ((published.headers["etag"], 304), (mirrored.headers["etag"], 200)):
        assert through(proxy, f"{pypi.index_url}orchard/", Accept=json, If_None_Match=tag).status == status
    packument = through(proxy, f"{npm.registry_url}orchard")
    assert packument.json()["versions"]["2.1.0"]["dist"]["tarball"].startswith(f"{npm.registry_url}orchard/-/")
    metadata = "org/example/orchard/lib/maven-metadata.xml"
    ours, theirs = proxy.ask(f"/maven/{metadata}"), through(proxy, f"{maven.url}{metadata}")
    assert (ours.body, ours.headers["etag"]) == (theirs.body, theirs.headers["etag"])


# ---- rules -----------------------------------------------------------------------------------------------------------


def impose(edge: Edge, match: str, url: str) -> None:
    """Refuse what ``match`` says, and wait until the proxy face does."""
    edge.set_rules(Rule(match, REASON))
    wait_until(lambda: through(edge, url).status == 403, SOON_S)
    assert REASON in through(edge, url).reason


def lift(edge: Edge, url: str) -> None:
    edge.set_rules()
    wait_until(lambda: through(edge, url).status == 200, SOON_S)


@pytest.mark.parametrize("client", [PIP, UV], ids=lambda client: client.name)
def test_a_rule_refuses_a_python_client_and_lets_it_when_lifted(
    proxy: Edge, pypi: FakePyPI, led: Workspace, shelf: Shelf, project: str, client: Client
) -> None:
    wheel = shelf.wheel(project, "1.0")
    pypi.publish(wheel)
    impose(proxy, f"pkg:pypi/{project}", pypi.files_root + pypi.path_of(wheel))
    refused = client.install(led, pypi.index_url, [f"{project}==1.0"])
    assert not refused.succeeded
    assert REASON in refused.flat, refused.output
    assert proxy.file(wheel).status == 403
    lift(proxy, pypi.files_root + pypi.path_of(wheel))
    assert client.install(led, pypi.index_url, [f"{project}==1.0"]).installed == {project: "1.0"}


def test_a_rule_refuses_npm_and_lets_it_when_lifted(
    proxy: Edge, npm: FakeNpm, led_npm: Project, packed: Tarballs, project: str
) -> None:
    good, evil = packed.pack(project, "1.0.0"), packed.pack(project, "2.0.0")
    npm.publish(good, evil)
    impose(proxy, f"pkg:npm/{project}@>=2", npm.tarball_url(evil))
    refused = led_npm.install({project: "2.0.0"})
    assert not refused.succeeded
    assert "2.0.0" in refused.flat, refused.output
    assert led_npm.install({project: ">=1"}).installed == {f"{project}@1.0.0"}
    assert proxy.ask(f"/npm/{evil.target}").status == 403
    lift(proxy, npm.tarball_url(evil))
    led_npm.empty_cache()
    assert led_npm.install({project: "2.0.0"}).installed == {f"{project}@2.0.0"}
    # A lock that names it goes straight to the file, and hears the reason.
    impose(proxy, f"pkg:npm/{project}@>=2", npm.tarball_url(evil))
    led_npm.empty_cache()
    locked = led_npm.ci()
    assert not locked.succeeded
    assert REASON in locked.flat, locked.output
    lift(proxy, npm.tarball_url(evil))
    assert led_npm.ci().installed == {f"{project}@2.0.0"}


@pytest.mark.parametrize("client", [MAVEN_39, GRADLE], ids=lambda client: client.name)
def test_a_rule_refuses_a_jvm_client_and_lets_it_when_lifted(
    proxy: Edge, maven: FakeMaven, led_jvm: JvmWorkspace, jars: Jars, group: str, client: JvmClient
) -> None:
    lib = jars.component(f"{group}:lib:1.0")
    maven.publish(lib)
    impose(proxy, f"pkg:maven/{group}/lib", maven.url + lib.jar.path)
    refused = client.resolve(led_jvm, maven.url, [lib.coordinate])
    assert not refused.succeeded
    told = REASON if isinstance(client, Maven) else "403"
    assert told in " ".join(refused.output.split()), refused.told
    lift(proxy, maven.url + lib.jar.path)
    assert client.resolve(led_jvm, maven.url, [lib.coordinate]).resolved == [lib.coordinate]
