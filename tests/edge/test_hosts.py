"""Which hosts the proxy face stands in for: what is configured, what is learnt of one page and remembered, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from edge.hosts import LIMIT_FILE_HOSTS, LIMIT_TOLD, RELEARN_S, RETRY_LAST_S, Hosts, normal, places_of
from origin.catalog.memory import MemoryCatalog
from origin.errors import Unavailable
from origin.model import File, Listing, Page
from origin.registries import Registry, kinds
from origin.registries.maven import Maven
from origin.registries.npm import NPM
from origin.registries.pypi import JSON, PyPI
from tests.scripted import Sent, Stall, stall

INDEX = "https://pypi.test/simple/"
HASHED = f"packages/ab/cd/{'e' * 60}"
PYPI = PyPI("pypi", INDEX)
NPM_ = NPM("npm", "https://registry.npm.test/")
CENTRAL = Maven("maven", "https://repo.maven.test/maven2/")


@pytest.fixture
def clock() -> MockClock:
    # Worker threads count as blocked tasks: the threshold keeps the clock from jumping while one works.
    return MockClock(autojump_threshold=0.1)


def table(*registries: Registry, **aliases: Sequence[str]) -> Hosts:
    return Hosts({registry.name: registry for registry in registries}, aliases)


def page(project: str, *urls: str) -> Sent:
    """A project page of PyPI that lists a file at each address."""
    files = [{"filename": url.rpartition("/")[2], "url": url, "hashes": {"sha256": "a" * 64}} for url in urls]
    return Sent(json.dumps({"meta": {"api-version": "1.1"}, "name": project, "files": files}).encode(), media_type=JSON)


def listing(project: str, *urls: str) -> Listing:
    return PYPI.read(Page("pypi", project), page(project, *urls).body, JSON, f"{INDEX}{project}/")


def sample(host: str = "files.pypi.test") -> Sent:
    return page("pip", f"https://{host}/{HASHED}/pip-25.0-py3-none-any.whl", f"https://{host}/{HASHED}/pip-25.0.tar.gz")


@asynccontextmanager
async def learning(s: Stall, registries: Sequence[Registry]) -> AsyncIterator[Hosts]:
    hosts = table(*registries)
    async with trio.open_nursery() as nursery:
        await nursery.start(hosts.run, s.service)
        yield hosts
        nursery.cancel_scope.cancel()


def meant(hosts: Hosts, host: str, target: str) -> tuple[str, str] | None:
    found = hosts.meaning(host, target)
    return (found.registry.name, found.target) if found is not None else None


# ---- the table


def test_the_table_has_every_name_of_each_upstream_and_no_port() -> None:
    odd = PyPI("odd", "http://Index.Bücher.test:3141/root/+simple/")
    address = NPM("own", "http://[::1]:4873/")
    hosts = table(PYPI, odd, address, pypi=["Mirror.PyPI.test:8443", "also.test."])
    assert hosts.names() == {"pypi.test", "mirror.pypi.test", "also.test", "index.xn--bcher-kva.test", "::1"}


@pytest.mark.parametrize(
    "host",
    ["", " ", "a b", "a/b", "a..b", ".", "-a.test", "a.-b", "x" * 64 + ".test", "1.2.3", "0x7f.1", "a@b", "*.test", "é" * 70],
)
def test_what_is_no_host_name_is_none(host: str) -> None:
    with pytest.raises(ValueError, match="not a host name"):
        normal(host)


def test_an_alias_is_added_while_the_node_runs() -> None:
    hosts = table(NPM_)
    grown: list[int] = []
    hosts.changed = lambda: grown.append(1)
    assert hosts.add_alias("npm", "Yarn.Test")
    assert not hosts.add_alias("npm", "yarn.test:443")
    assert hosts.names() == {"registry.npm.test", "yarn.test"} and grown == [1]
    assert meant(hosts, "yarn.test", "/@a%2fb/-/b-1.0.0.tgz") == ("npm", "@a%2fb/-/b-1.0.0.tgz")
    with pytest.raises(ValueError, match="no instance"):
        hosts.add_alias("gems", "gems.test")
    with pytest.raises(ValueError, match="not a host name"):
        hosts.add_alias("npm", "no host")


def test_a_url_means_what_its_path_says_at_that_host() -> None:
    hosts = table(PYPI, NPM_, CENTRAL, maven=["other.maven.test"])
    assert meant(hosts, "PyPI.test:443", "/simple/Foo/?format=json") == ("pypi", "simple/Foo/?format=json")
    assert meant(hosts, "pypi.test", "/pypi/foo/json") == ("pypi", "pypi/foo/json")
    assert meant(hosts, "pypi.test", f"/{HASHED}/foo-1.0.tar.gz") == ("pypi", f"{HASHED}/foo-1.0.tar.gz")
    assert meant(hosts, "registry.npm.test", "/-/v1/search?text=x") == ("npm", "-/v1/search?text=x")
    path = "org/example/a/1.0/a-1.0.jar"
    for host in ("repo.maven.test", "other.maven.test"):
        assert meant(hosts, host, f"/maven2/{path}") == ("maven", path)
        assert meant(hosts, host, f"/elsewhere/{path}") is None
    assert meant(hosts, "unheard.test", "/simple/foo/") is None
    assert meant(hosts, "pypi.test", "/help/") is None
    for target in ("simple/foo/", "/simple/../foo/", "/simple/%2e%2e/", "//simple/", "/%zz"):
        with pytest.raises(ValueError):
            hosts.meaning("pypi.test", target)


def test_of_instances_at_one_host_the_longest_path_answers() -> None:
    releases, snapshots = Maven("releases", "https://repo.test/releases/"), Maven("snapshots", "https://repo.test/snapshots/")
    everything, again = NPM("everything", "https://repo.test/"), Maven("again", "https://repo.test/releases/")
    hosts = table(everything, releases, snapshots, again)
    path = "org/example/a/1.0/a-1.0.jar"
    assert meant(hosts, "repo.test", f"/releases/{path}") == ("releases", path)
    assert meant(hosts, "repo.test", f"/snapshots/{path}") == ("snapshots", path)
    assert meant(hosts, "repo.test", "/foo/-/foo-1.0.0.tgz") == ("everything", "foo/-/foo-1.0.0.tgz")
    both = [found.registry.name for found in hosts.meanings("repo.test", f"/releases/{path}")]
    assert both[:2] == ["releases", "again"]


async def test_instances_that_share_a_file_host_are_told_apart_by_where_their_files_are(tmp_path: Path, clock: MockClock) -> None:
    one, two = (PyPI(name, f"https://devpi.test/{name}/+simple/") for name in ("one", "two"))
    async with stall(tmp_path, [one, two]) as s:
        for name in ("one", "two"):
            urls = [f"https://cdn.test/{name}/+f/{n}/x/pip-{n}.0-py3-none-any.whl" for n in (1, 2)]
            s.web.sent[f"https://devpi.test/{name}/+simple/pip/"] = page("pip", *urls)
        async with learning(s, [one, two]) as hosts:
            await hosts.wait_learnt()
            for name in ("one", "two"):
                assert meant(hosts, "cdn.test", f"/{name}/+f/9/x/foo-1.0.zip") == (name, "packages/-/foo/foo-1.0.zip")
            unsure = hosts.meanings("cdn.test", "/three/foo-1.0.zip")
            assert [found.registry.name for found in unsure] == ["one", "two"]


def test_a_file_host_has_files_alone() -> None:
    assert PYPI.meaning("/simple/foo/", files=True) is None
    assert PYPI.meaning("/devpi/pypi/+f/ab/cdef/foo-1.0-py3-none-any.whl.metadata", files=True) == (
        "packages/-/foo/foo-1.0-py3-none-any.whl.metadata"
    )
    assert PYPI.meaning(f"/pypi/{HASHED}/foo-1.0.tar.gz.asc?x=y", files=True) == f"{HASHED}/foo-1.0.tar.gz.asc"
    name = "foo-1.0-py3-none-any.whl"
    assert PYPI.meaning(f"/x/{name}.provenance", files=True) == f"integrity/foo/1.0/{name}/provenance"
    assert PYPI.meaning("/x/readme", files=True) is None
    for path in ("/n/foo/-/foo-1.0.0.tgz", "/n/foo/foo-1.0.0.tgz"):
        assert NPM_.meaning(path, files=True) == "foo/-/foo-1.0.0.tgz"
    for path in ("/@a/b/-/b-1.0.0.tgz", "/n/@a%2fb/-/b-1.0.0.tgz?x", "/download/@a/b/1.0.0/0123abcd", "/@a/b/b-1.0.0.tgz"):
        assert NPM_.meaning(path, files=True) == "@a/b/-/b-1.0.0.tgz"
    for path in ("/foo", "/foo/1.0.0", "/someone/foo/tar.gz/v1.0.0", "/foo/archive/v1.0.0.tgz", "/-/x.tgz"):
        assert NPM_.meaning(path, files=True) is None


def test_a_file_name_with_several_readings_is_left_to_the_guesses() -> None:
    target = PYPI.meaning("/x/foo-2-1.0.tar.gz", files=True)
    assert target == "packages/-/-/foo-2-1.0.tar.gz"
    found = PYPI.resource("GET", target)
    assert isinstance(found, File) and found.path == ""
    assert {file.project for file in (found, *PYPI.guesses(found))} == {"foo", "foo-2"}
    assert PYPI.resource("GET", "packages/-/-/nothing") is None


# ---- learning


async def test_file_hosts_are_learnt_from_one_page_before_anybody_waits_no_more(tmp_path: Path, clock: MockClock) -> None:
    async with stall(tmp_path, [PYPI, NPM_, CENTRAL]) as s:
        s.web.sent[f"{INDEX}pip/"] = sample()
        tarball = {"dist": {"tarball": "https://cdn.npm.test/wrappy/-/wrappy-1.0.0.tgz", "shasum": "a" * 40}}
        document = {"name": "wrappy", "versions": {"1.0.0": {"name": "wrappy", "version": "1.0.0", **tarball}}}
        s.web.sent["https://registry.npm.test/wrappy"] = Sent(json.dumps(document).encode(), media_type="application/json")
        async with learning(s, [PYPI, NPM_, CENTRAL]) as hosts:
            grown: list[frozenset[str]] = []
            hosts.changed = lambda: grown.append(hosts.names())
            await hosts.wait_learnt()
            assert hosts.names() == {*("pypi.test", "files.pypi.test", "registry.npm.test", "cdn.npm.test", "repo.maven.test")}
            assert grown[-1] == hosts.names()
            assert len(s.web.asked) == 2
            assert meant(hosts, "files.pypi.test", f"/{HASHED}/six-1.0.zip") == ("pypi", f"{HASHED}/six-1.0.zip")
            assert meant(hosts, "files.pypi.test", "/simple/six/") is None


async def test_what_was_learnt_is_known_at_once_after_a_restart_in_an_outage(tmp_path: Path, clock: MockClock) -> None:
    catalog = MemoryCatalog()
    async with stall(tmp_path, [PYPI], catalog=catalog) as s:
        s.web.sent[f"{INDEX}pip/"] = sample()
        async with learning(s, [PYPI]) as hosts:
            await hosts.wait_learnt()
    async with stall(tmp_path, [PYPI], catalog=catalog) as s:
        s.web.down.add("pypi")
        s.web.gates[f"{INDEX}pip/"] = trio.Event()
        async with learning(s, [PYPI]) as hosts:
            assert "files.pypi.test" in hosts.names()
            began = trio.current_time()
            await hosts.wait_learnt()
            assert trio.current_time() == began
    # Of another upstream nothing of that is known.
    moved = PyPI("pypi", "https://other.test/simple/")
    async with stall(tmp_path, [moved], catalog=catalog) as s:
        s.web.down.add("pypi")
        async with learning(s, [moved]) as hosts:
            assert hosts.names() == {"other.test"}


async def test_nonsense_that_was_remembered_is_no_reason_not_to_start(tmp_path: Path, clock: MockClock) -> None:
    catalog = MemoryCatalog()
    await catalog.remember("file hosts pypi", '{"upstream": "https://pypi.test/simple/", "places": {"no host": "x"}}')
    await catalog.remember("file hosts npm", "[")
    async with stall(tmp_path, [PYPI, NPM_], catalog=catalog) as s:
        s.web.sent[f"{INDEX}pip/"] = sample()
        async with learning(s, [PYPI, NPM_]) as hosts:
            await hosts.wait_learnt()
            assert "files.pypi.test" in hosts.names()


async def test_what_could_not_be_learnt_is_tried_again_and_nobody_waits_for_that(tmp_path: Path, clock: MockClock) -> None:
    async with stall(tmp_path, [PYPI]) as s:
        s.web.down.add("pypi")
        s.web.sent[f"{INDEX}pip/"] = sample()
        async with learning(s, [PYPI]) as hosts:
            await hosts.wait_learnt()
            assert hosts.names() == {"pypi.test"}
            await trio.sleep(60)
            tries = len(s.web.asked)
            assert 3 <= tries <= 10
            s.web.down.clear()
            await trio.sleep(RETRY_LAST_S)
            assert "files.pypi.test" in hosts.names()


async def test_files_that_move_are_followed_and_their_old_host_is_kept(tmp_path: Path, clock: MockClock) -> None:
    async with stall(tmp_path, [PYPI]) as s:
        s.web.sent[f"{INDEX}pip/"] = sample()
        async with learning(s, [PYPI]) as hosts:
            await hosts.wait_learnt()
            moved = (f"https://new.pypi.test/{HASHED}/{name}" for name in ("pip-25.0-py3-none-any.whl", "pip-25.0.tar.gz"))
            s.web.sent[f"{INDEX}pip/"] = page("pip", *moved)
            await trio.sleep(RELEARN_S + 60)
            await wait_all_tasks_blocked()
            assert {"files.pypi.test", "new.pypi.test"} < hosts.names()


async def test_an_index_without_the_sample_is_learnt_from_what_is_held_of_it(tmp_path: Path, clock: MockClock) -> None:
    async with stall(tmp_path, [PYPI]) as s:
        urls = [f"https://files.pypi.test/x/foo-{n}.0.zip" for n in (1, 2, 3)]
        s.web.sent[f"{INDEX}foo/"] = page("foo", *urls, "https://code.test/someone/foo/foo-4.0.zip")
        async with learning(s, [PYPI]) as hosts:
            await hosts.wait_learnt()
            assert hosts.names() == {"pypi.test"}
            await s.service.page(Page("pypi", "foo"))
            asked = list(s.web.asked)
            await trio.sleep(RETRY_LAST_S)
            # Half of the files, and not one among many, which anybody could have put there.
            assert hosts.names() == {"pypi.test", "files.pypi.test"}
            assert s.web.asked == asked, "and upstream is asked neither for the sample that it lacks nor for what is held"


async def test_one_long_page_among_those_held_says_nothing_for_the_others(tmp_path: Path, clock: MockClock) -> None:
    """Whoever may publish one project in an index must not have the traffic to a host of their choice read."""
    async with stall(tmp_path, [PYPI]) as s:
        for name in ("foo", "bar", "qux"):
            s.web.sent[f"{INDEX}{name}/"] = page(name, f"https://files.pypi.test/x/{name}-1.0.zip")
        s.web.sent[f"{INDEX}aaa/"] = page("aaa", *(f"https://mail.test/x/aaa-{n}.0.zip" for n in range(100)))
        async with learning(s, [PYPI]) as hosts:
            await hosts.wait_learnt()
            for name in ("foo", "bar", "qux", "aaa"):
                await s.service.page(Page("pypi", name))
            await trio.sleep(RETRY_LAST_S)
            assert hosts.names() == {"pypi.test", "files.pypi.test"}


@pytest.mark.parametrize(
    "host", ["localhost", "a.localhost", "127.0.0.1", "10.0.0.7", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]"]
)
async def test_no_page_makes_us_stand_in_for_this_machine_or_network(tmp_path: Path, clock: MockClock, host: str) -> None:
    async with stall(tmp_path, [PYPI]) as s:
        s.web.sent[f"{INDEX}pip/"] = sample(host)
        async with learning(s, [PYPI]) as hosts:
            await hosts.wait_learnt()
            assert hosts.names() == {"pypi.test"}
    own = PyPI("pypi", f"http://{host}:3141/simple/")
    async with stall(tmp_path, [own]) as s:
        s.web.sent[f"http://{host}:3141/simple/pip/"] = sample(host)
        async with learning(s, [own]) as hosts:
            await hosts.wait_learnt()
            assert hosts.names() == {normal(host)}


async def test_a_page_that_leads_everywhere_teaches_nothing(tmp_path: Path, clock: MockClock) -> None:
    async with stall(tmp_path, [PYPI]) as s:
        s.web.sent[f"{INDEX}pip/"] = page("pip", *(f"https://h{n}.test/pip-{n}.0.zip" for n in range(LIMIT_FILE_HOSTS + 1)))
        async with learning(s, [PYPI]) as hosts:
            await hosts.wait_learnt()
            assert hosts.names() == {"pypi.test"}


async def test_a_catalogue_that_fails_costs_the_memory_and_not_the_hosts(tmp_path: Path, clock: MockClock) -> None:
    class Forgetful(MemoryCatalog):
        gone = True

        async def recall(self, key: str) -> str | None:
            if self.gone and key.startswith("file hosts"):
                raise Unavailable("the disk is gone")
            return await super().recall(key)

        async def remember(self, key: str, value: str) -> None:
            if self.gone and key.startswith("file hosts"):
                raise Unavailable("the disk is gone")
            await super().remember(key, value)

    catalog = Forgetful()
    async with stall(tmp_path, [PYPI], catalog=catalog) as s:
        s.web.sent[f"{INDEX}pip/"] = sample()
        async with learning(s, [PYPI]) as hosts:
            await hosts.wait_learnt()
            assert "files.pypi.test" in hosts.names()
            catalog.gone = False
            await trio.sleep(60)
            assert "files.pypi.test" in str(await catalog.recall("file hosts pypi"))


# ---- hosts that are missing


def test_a_host_that_is_likely_a_missing_alias_is_doubted_once() -> None:
    hosts = table(PYPI, NPM_, CENTRAL)
    assert hosts.doubt("registry.yarn.test") == (
        "registry.yarn.test is called much like registry.npm.test, and is not stood in for: nothing from it is checked or kept; "
        'if it is one of its names, put aliases = ["registry.yarn.test"] under [registries.npm]'
    )
    assert hosts.doubt("Registry.Yarn.test.") == ""
    for host, instance in (("repo1.maven.org.test", "maven"), ("cdn.npmstuff.test", "npm"), ("upload.pypi.test", "pypi")):
        assert f"[registries.{instance}]" in hosts.doubt(host)
    for host in ("pypi.test", "github.test", "www.npm.test", "docs.pypi.test", "127.0.0.1", "git.corp", "localhost", ""):
        assert hosts.doubt(host) == "", host


def test_a_further_name_of_a_public_registry_is_known_by_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "_OTHER_NAMES", {hashlib.sha256(b"other.npm.test").hexdigest()[:20]: "npm"})
    public = NPM("npm", kinds.default_upstream("npm"))
    hosts = table(PYPI, public)
    told: list[frozenset[str]] = []
    hosts.changed = lambda: told.append(hosts.names())
    assert not hosts.recognise("another.npm.test")
    assert hosts.doubt("other.npm.test") != "", "nobody has asked for it yet"
    assert hosts.recognise("Other.NPM.test.") and hosts.recognise("other.npm.test")
    assert [names & {"other.npm.test"} for names in told] == [{"other.npm.test"}], "once"
    meant = hosts.meaning("other.npm.test", "/wrappy/-/wrappy-1.0.0.tgz")
    assert meant is not None
    assert (meant.registry, meant.target) == (public, "wrappy/-/wrappy-1.0.0.tgz")
    # An instance with an upstream of its own is not the public registry, whoever asks for that.
    assert not table(PYPI, NPM_).recognise("other.npm.test")


def test_the_names_known_by_sight_are_of_kinds_that_there_are() -> None:
    assert set(kinds._OTHER_NAMES.values()) <= set(kinds.KINDS)
    assert kinds.other_name(httpx.URL(kinds.default_upstream("npm")).host) is None, "the first name is configured"


def test_a_host_that_pages_lead_to_is_doubted() -> None:
    hosts = table(PYPI)
    assert hosts.doubt("blobs.test") == ""
    urls = [f"https://files{n % 2}.test/a/foo-{n}.0.zip" for n in range(100)]
    hosts.saw("pypi", listing("foo", *urls, "https://blobs.test/foo-200.0.zip"))
    assert hosts.doubt("blobs.test").startswith("blobs.test is where pages of pypi lead, and is not stood in for")
    assert hosts.doubt("files1.test") and not hosts.doubt("files1.test") and not hosts.doubt("files2.test")
    for n in range(2 * LIMIT_TOLD):
        hosts.saw("pypi", listing("foo", f"https://h{n}.test/foo-1.0.zip"))
    assert hosts.doubt(f"h{2 * LIMIT_TOLD - 1}.test") and not hosts.doubt("h0.test"), "only the last ones are remembered"


def test_places_are_what_paths_have_in_common() -> None:
    urls = [f"https://a.test/x/{n}/foo-{n}.0.zip" for n in (1, 2)]
    assert places_of([listing("foo", *urls, "https://b.test/foo-3.0.zip")]) == {"a.test": ("x",), "b.test": ()}
