"""A project's shadow, and the settings that Maven is given there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge import mvn
from origin.errors import Unusable

POM = "<project><modelVersion>4.0.0</modelVersion><groupId>g</groupId><artifactId>{name}</artifactId><version>1</version>{more}</project>"


def write(path: Path, name: str, more: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(POM.format(name=name, more=more))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A build of ``app``, whose parent and sibling lie beside it; with sources, and what an earlier build left."""
    root = tmp_path / "work"
    write(root / "parent" / "pom.xml", "parent")
    above = "<parent><groupId>g</groupId><artifactId>parent</artifactId><version>1</version><relativePath>../parent</relativePath></parent>"
    write(root / "app" / "pom.xml", "app", above + "<modules><module>core</module><module>missing</module></modules>")
    write(root / "app" / "core" / "pom.xml", "core")
    (root / "app" / "core" / "src" / "main").mkdir(parents=True)
    (root / "app" / "core" / "src" / "main" / "A.java").write_text("class A {}")
    (root / "app" / "core" / "target").mkdir()
    (root / "app" / "core" / "target" / "old.jar").write_text("")
    (root / "app" / ".mvn").mkdir()
    (root / "app" / ".mvn" / "maven.config").write_text("-T1")
    return root


def test_a_project_is_its_pom_its_modules_and_the_parents_beside_it(project: Path) -> None:
    found = mvn.project_of(project / "app" / "pom.xml")
    assert found.top == project
    assert [str(path.relative_to(project)) for path in found.poms] == ["app/core/pom.xml", "app/pom.xml", "parent/pom.xml"]


def test_a_shadow_has_copies_of_poms_links_to_sources_and_nothing_that_was_built(project: Path) -> None:
    found = mvn.project_of(project / "app" / "pom.xml")
    with mvn.shadow(found) as pom:
        assert pom.read_text() == (project / "app" / "pom.xml").read_text()
        assert not pom.is_symlink()
        core = pom.parent / "core"
        assert (core / "src").is_symlink()
        assert (core / "src" / "main" / "A.java").read_text() == "class A {}"
        assert not (core / "target").exists()
        assert (pom.parents[1] / "parent" / "pom.xml").is_file()
        assert (pom.parent / ".mvn" / "maven.config").read_text() == "-T1"
        (core / "target").mkdir()
        (core / "target" / "new.jar").write_text("")
        scratch = pom.parents[2]
    assert not scratch.exists()
    assert [path.name for path in (project / "app" / "core" / "target").iterdir()] == ["old.jar"]


def test_what_is_remembered_of_a_project_goes_by_its_poms_and_settings(project: Path) -> None:
    pom = project / "app" / "pom.xml"
    key = mvn.project_of(pom).key
    assert mvn.project_of(pom).key == key
    (project / "app" / "core" / "src" / "main" / "B.java").write_text("class B {}")
    assert mvn.project_of(pom).key == key
    write(project / "app" / "core" / "pom.xml", "core", "<packaging>pom</packaging>")
    assert mvn.project_of(pom).key != key


def test_what_is_no_pom_is_told(tmp_path: Path) -> None:
    (tmp_path / "pom.xml").write_text("<project>")
    with pytest.raises(Unusable, match="is no POM"):
        mvn.project_of(tmp_path / "pom.xml")
    with pytest.raises(FileNotFoundError):
        mvn.project_of(tmp_path / "nowhere" / "pom.xml")


THEIRS = (
    b"<?xml version='1.0'?>\n<settings xmlns='x'>\n<offline>true</offline><mirrors><mirror><id>a</id></mirror></mirrors>"
    b"<proxies><proxy/></proxies><servers><server><id>s</id></server></servers></settings>"
)
MIRROR = b"<mirrors><mirror><id>leeward</id><mirrorOf>*</mirrorOf><url>http://edge.test/maven/?a&amp;b</url></mirror></mirrors>"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (b"", b"<settings>" + MIRROR + b"</settings>\n"),
        (b"no xml", b"<settings>" + MIRROR + b"</settings>\n"),
        (b"<settings/>", b"<settings>" + MIRROR + b"</settings>\n"),
        (
            THEIRS,
            b"<?xml version='1.0'?>\n<settings xmlns='x'>"
            + MIRROR
            + b"\n<servers><server><id>s</id></server></servers></settings>",
        ),
    ],
)
def test_the_persons_settings_are_kept_but_for_where_packages_come_from(theirs: bytes, ours: bytes) -> None:
    assert mvn.settings_for("http://edge.test/maven/?a&b", theirs) == ours


def test_maven_is_run_in_the_shadow_with_an_empty_repository(project: Path, tmp_path: Path) -> None:
    program = tmp_path / "mvn"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path / "words"}\necho "[ERROR] it is no Maven"\nexit 3\n')
    program.chmod(0o755)
    (tmp_path / "home" / ".m2").mkdir(parents=True)
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home")}
    ran = mvn.run(
        mvn.project_of(project / "app" / "pom.xml"), "http://edge.test/maven/", ["verify"], environ, program=str(program)
    )
    assert (ran.status, ran.output) == (3, "[ERROR] it is no Maven")
    assert not (project / "app" / "target").exists()
    # Modules that need nothing of one that cannot be built are built all the same, and ask for what they need.
    assert (tmp_path / "words").read_text().endswith("\n--fail-at-end\nverify\n")
    with pytest.raises(Unusable, match="mvn is not on the PATH"):
        mvn.run(
            mvn.project_of(project / "app" / "pom.xml"), "http://edge.test/maven/", ["verify"], {"PATH": str(tmp_path / "home")}
        )
