"""What POMs, module files and sdists say that is needed besides; which instance an address in a lock means."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.hosts import Hosts
from edge.readiness import builds, poms
from edge.readiness.places import Places
from origin.registries import Options, kinds
from origin.registries.kinds import create
from tests.jars import module_json, pom_xml

# ---- POMs ------------------------------------------------------------------------------------------------------------

CHILD = """<?xml version="1.0"?>
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <!-- do_not_remove: published-with-gradle-metadata -->
  <parent><groupId>org.example</groupId><artifactId>parent</artifactId><version>4</version></parent>
  <artifactId>child</artifactId>
  <packaging>bundle</packaging>
  <properties><bom.version>3</bom.version><indirect>${bom.version}</indirect><loop>${loop}</loop></properties>
  <dependencyManagement><dependencies>
    <dependency><groupId>org.example</groupId><artifactId>bom</artifactId><version>${indirect}</version><type>pom</type><scope>import</scope></dependency>
    <dependency><groupId>org.example</groupId><artifactId>looping</artifactId><version>${loop}</version><type>pom</type><scope>import</scope></dependency>
    <dependency><groupId>org.example</groupId><artifactId>managed</artifactId><version>1</version></dependency>
  </dependencies></dependencyManagement>
  <dependencies>
    <dependency><groupId>${project.groupId}</groupId><artifactId>native</artifactId><version>1</version><classifier>linux</classifier></dependency>
    <dependency><groupId>org.example</groupId><artifactId>archive</artifactId><version>1</version><type>aar</type></dependency>
    <dependency><groupId>org.example</groupId><artifactId>plain</artifactId><version>[1,2)</version></dependency>
    <dependency><groupId>org.example</groupId><artifactId>tested</artifactId><version>1</version><classifier>x</classifier><scope>test</scope></dependency>
    <dependency><groupId>org.example</groupId><artifactId>${unknown}</artifactId><version>1</version><classifier>x</classifier></dependency>
  </dependencies>
  <modules><module>one</module></modules>
  <profiles><profile><modules><module>two</module></modules></profile></profiles>
</project>"""

PARENT = """<project><groupId>org.example</groupId><artifactId>parent</artifactId><version>4</version><packaging>pom</packaging>
<properties><bom.version>2</bom.version><other.version>9</other.version></properties>
<dependencyManagement><dependencies>
  <dependency><groupId>org.example</groupId><artifactId>other-bom</artifactId><version>${other.version}</version><type>pom</type><scope>import</scope></dependency>
</dependencies></dependencyManagement></project>"""


def test_a_pom_leads_to_its_parent_its_boms_and_what_is_classified() -> None:
    child, parent = poms.read(CHILD.encode()), poms.read(PARENT.encode())
    assert child.parent == ("org.example", "parent", "4")
    assert (child.packaging, child.has_module, child.relative_path, child.modules) == (
        "bundle",
        True,
        "../pom.xml",
        ("one", "two"),
    )
    lineage = poms.Lineage((child, parent))
    assert lineage.imports() == (("org.example", "bom", "3"), ("org.example", "other-bom", "9"))
    assert lineage.classified() == (("org.example", "native", "linux", "jar"), ("org.example", "archive", "", "aar"))
    assert lineage.open() == {("org.example", "plain")}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<project>",
        "<html/>",
        "<!DOCTYPE project [<!ENTITY a 'b'>]><project/>",
        "<project>" + "<a>" * 70 + "</a>" * 70 + "</project>",
        "\0",
    ],
)
def test_what_is_no_pom_is_told_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        poms.read(text.encode())


@given(st.integers(0, len(CHILD)), st.integers(0, 30), st.text(max_size=4))
def test_a_mutated_pom_is_read_or_told_to_be_none(at: int, cut: int, put: str) -> None:
    text = CHILD[:at] + put + CHILD[at + cut :]
    try:
        pom = poms.read(text.encode())
    except ValueError:
        return
    lineage = poms.Lineage((pom,))
    lineage.imports()
    lineage.classified()
    lineage.open()


def test_a_pom_without_a_place_for_its_parent_says_so() -> None:
    assert poms.read(pom_xml("a:b:1", parent="a:parent:1").encode()).relative_path == ""


@pytest.mark.parametrize(
    ("version", "is_open"),
    [("1.0", False), ("[1,2)", True), ("(,1]", True), ("1.+", True), ("latest.release", True), ("LATEST", True), ("", False)],
)
def test_a_version_to_be_chosen_is_known(version: str, is_open: bool) -> None:
    assert poms.is_open(version) is is_open


def test_a_module_file_tells_the_files_of_libraries_and_what_is_chosen_from_a_range() -> None:
    document = module_json("org.example:lib:1.0", [], ["org.example:core:[1.0,2.0)", "org.example:soil:1.0"])
    assert poms.read_module(document.encode()) == poms.Module((), frozenset())
    text = (
        '{"variants": [{"name": "a", "attributes": {"org.gradle.usage": "java-runtime"}, "files": [{"name": "a.jar", "url": "../x/a.jar"}],'
        '"dependencies": [{"group": "g", "module": "m", "version": {"requires": "[1,2)"}}]},'
        '{"name": "s", "attributes": {"org.gradle.category": "documentation"}, "files": [{"name": "s.jar", "url": "s.jar"}]}]}'
    )
    assert poms.read_module(text.encode()) == poms.Module(("../x/a.jar",), frozenset({("g", "m")}))
    for bad in (b"[]", b"{", b'{"variants": 1}'):
        with pytest.raises(ValueError, match="no module metadata"):
            poms.read_module(bad)


# ---- sdists ----------------------------------------------------------------------------------------------------------


def packed(members: Mapping[str, str]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as archive:
        for name, text in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return held.getvalue()


def zipped(members: Mapping[str, str]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return held.getvalue()


SYSTEM = '[build-system]\nrequires = ["hatchling>=1", "six; python_version < \'3\'"]\n'


@pytest.mark.parametrize(
    ("members", "requires"),
    [
        ({"a-1/pyproject.toml": SYSTEM, "a-1/sub/pyproject.toml": "not toml"}, ["hatchling>=1", 'six; python_version < "3"']),
        ({"./a-1/pyproject.toml": "[project]\n"}, ["setuptools>=40.8.0"]),
        ({"a-1/setup.py": ""}, ["setuptools>=40.8.0"]),
        ({"a-1/pyproject.toml": "[build-system]\nrequires = []\n"}, []),
    ],
)
def test_what_an_sdist_says_its_build_takes_is_read(members: Mapping[str, str], requires: list[str]) -> None:
    for filename, archive in (("a-1.tar.gz", packed(members)), ("a-1.zip", zipped(members))):
        assert [str(each) for each in builds.build_requirements(filename, archive)] == requires


@pytest.mark.parametrize(
    "archive",
    [
        b"",
        gzip.compress(b"not a tar, but long enough to be looked at as one" * 40),
        packed({"a-1/pyproject.toml": "["}),
        packed({"a-1/pyproject.toml": "[build-system]\nrequires = 1\n"}),
        packed({"a-1/pyproject.toml": '[build-system]\nrequires = ["no requirement at all!"]\n'}),
    ],
    # What is packed holds the time: processes that run the suite side by side would each name these otherwise.
    ids=["nothing", "no archive", "no TOML", "no list", "no requirement"],
)
def test_an_sdist_that_cannot_be_read_is_told_to_be_so(archive: bytes) -> None:
    with pytest.raises(ValueError, match=r"unpacked|pyproject.toml|no requirement"):
        builds.build_requirements("a-1.tar.gz", archive)


def test_what_a_wheel_requires_is_in_its_metadata() -> None:
    metadata = 'Metadata-Version: 2.1\nName: a\nVersion: 1\nRequires-Dist: b>=1\nRequires-Dist: c; extra == "x"\n\n'
    wheel = zipped({"a/METADATA": "no", "a-1.dist-info/METADATA": metadata})
    assert [str(each) for each in builds.requirements_in(builds.metadata_in(wheel))] == ["b>=1", 'c; extra == "x"']
    for bad in (b"PK", zipped({"a.py": ""})):
        with pytest.raises(ValueError, match=r"no wheel|no metadata"):
            builds.metadata_in(bad)


# ---- places ----------------------------------------------------------------------------------------------------------

REGISTRIES = {
    "pypi": create("pypi", "pypi", "https://pypi.test/simple/"),
    "company": create("pypi", "company", "https://pypi.test/company/simple/"),
    "npm": create("npm", "npm", "https://npm.test/"),
    "maven": create("maven", "maven", "https://maven.test/maven2/"),
    "ours": create("maven", "ours", "https://ours.test/releases/", Options(groups=("com.ours.*",))),
}
PATHS = {"pypi": "/pypi/", "company": "/company/", "npm": "/npm/", "maven": "/maven/", "ours": "/maven/"}
HASHED = f"packages/ab/cd/{'e' * 60}/soil-3.1.tar.gz"


def places(**more: tuple[str, ...]) -> Places:
    hosts = Hosts(REGISTRIES, {"npm": ["alias.test"]})
    return Places(REGISTRIES, PATHS, ["http://127.0.0.1:8080", "https://edge.test"], hosts, more)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("", [["pypi"], ["company"]]),
        ("https://pypi.test/simple", [["pypi"]]),
        ("https://pypi.test/company/simple/", [["company"]]),
        ("http://localhost:8080/company/simple/", [["company"]]),
        ("https://edge.test/pypi/simple", [["pypi"]]),
        ("https://other.test/simple", []),
        ("http://127.0.0.1:9999/pypi/simple", []),
        ("not an address", []),
    ],
)
def test_an_index_that_a_lock_names_is_an_instance_or_none(source: str, names: list[list[str]]) -> None:
    found = places().members("pypi", source, "soil")
    assert [[registry.name for registry in each] for each in found] == names


def test_instances_that_share_a_path_are_asked_together_unless_one_claims_the_name() -> None:
    assert [[r.name for r in each] for each in places().members("maven", "", "org.example/a")] == [["maven"]]
    assert [[r.name for r in each] for each in places().members("maven", "", "com.ours.lib/a")] == [["ours"]]


@pytest.mark.parametrize(
    ("kind", "url", "meant"),
    [
        ("pypi", f"http://127.0.0.1:8080/pypi/{HASHED}", "pypi"),
        ("pypi", f"https://edge.test/company/{HASHED}", "company"),
        ("npm", "https://npm.test/@s/a/-/a-1.0.0.tgz", "npm"),
        ("npm", "https://alias.test/a/-/a-1.0.0.tgz", "npm"),
        ("npm", "https://believed.test/a/-/a-1.0.0.tgz", "npm"),
        ("npm", "https://other.test/a/-/a-1.0.0.tgz", None),
        ("npm", "http://127.0.0.1:8080/elsewhere/a/-/a-1.0.0.tgz", None),
        ("npm", "http://127.0.0.1:8080/npm/-/ping", None),
        ("pypi", f"https://files.test/{HASHED}", None),
    ],
)
def test_an_address_that_a_lock_names_is_a_file_of_an_instance_or_nowhere_here(kind: str, url: str, meant: str | None) -> None:
    found = places(npm=("believed.test",)).files(kind, url)
    assert (found[0].registry if found else None) == meant


def test_without_a_proxy_face_only_the_edges_own_addresses_lead_here_and_npms_public_one() -> None:
    alone = Places(REGISTRIES, PATHS, ["http://127.0.0.1:8080"], None, {"npm": ["believed.test"]})
    public = kinds.default_upstream("npm")
    found = alone.files("npm", f"{public}a/-/a-1.0.0.tgz")
    assert found is not None
    assert found[0].registry == "npm"
    assert alone.files("npm", "https://believed.test/a/-/a-1.0.0.tgz") is None
    assert alone.files("npm", "https://npm.test/a/-/a-1.0.0.tgz") is None
    assert alone.files("npm", "http://127.0.0.1:8080/npm/a/-/a-1.0.0.tgz")
    assert alone.members("pypi", "https://pypi.test/simple", "soil") == []
