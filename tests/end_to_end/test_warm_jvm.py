"""``edge warm`` and ``edge ready`` for ``gradle.lockfile`` and ``pom.xml``: right before and after, by real clients."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.readiness import MORE
from edge.readiness.maven import UNREAD
from tests import maven_stage
from tests.fakes.maven import FakeMaven
from tests.gradle_like import GradleLike
from tests.harness import Edge, Rule
from tests.jars import Component, Jars, pom_xml
from tests.jvm import GRADLE, GRADLE_7, MAVEN_39, MAVENS, Gradle, JvmWorkspace, Maven
from tests.maven_stage import get, tree
from tests.stage import StartEdge
from tests.warm_stage import HOURS_S, Said, half, held, lose, ready, warm

pytestmark = pytest.mark.slow

repository, jars, group, jvm = maven_stage.repository, maven_stage.jars, maven_stage.group, maven_stage.jvm

BUILD = """\
repositories {{ maven {{ url '{url}' }} }}
configurations {{ wanted }}
dependencies {{
    file('gradle.lockfile').readLines().findAll {{ !it.startsWith('#') && !it.startsWith('empty=') }}.each {{
        wanted it.split('=')[0]
    }}
}}
task fetch {{ doLast {{
    configurations.wanted.resolvedConfiguration.resolvedArtifacts.each {{
        println 'RESOLVED ' + it.moduleVersion.id + ' ' + it.file }} }} }}
"""


@pytest.fixture
def mirror(repository: FakeMaven, tmp_path: Path) -> Iterator[Edge]:
    """An edge of the test's own before the module's repository."""
    with Edge(tmp_path / "edge", repository.url, kind="maven") as edge:
        yield edge
    maven_stage.restore(repository)


def world(jars: Jars, group: str) -> list[Component]:
    """``tree``, and ``suite`` beside it: a module whose versions a BOM manages, with a jar for one platform, that has no jar for itself."""
    return [
        *tree(jars, group),
        jars.component(f"{group}:bom:3", packaging="pom", managed=[f"{group}:core:1.5"]),
        jars.component(f"{group}:native:1.0", classifiers=["linux-x86_64"]),
        jars.component(f"{group}:suite:1.0", imports=[f"{group}:bom:3"], requires=[f"{group}:core:", f"{group}:native:1.0"]),
        jars.component(f"{group}:platform:1.0", packaging="pom"),
    ]


@pytest.fixture
def lock(repository: FakeMaven, jars: Jars, group: str, jvm: JvmWorkspace) -> Path:
    """A Gradle lock of ``world``."""
    repository.publish(*world(jars, group))
    path = jvm.project / "gradle.lockfile"
    locked = ["app:1.0", "core:1.5", "lib:1.0", "native:1.0", "platform:1.0", "suite:1.0"]
    path.write_text(
        "# This is a Gradle generated file for dependency locking.\n"
        + "".join(f"{group}:{each}=compileClasspath,runtimeClasspath\n" for each in locked)
        + "empty=annotationProcessor\n"
    )
    return path


FILES = [
    *("app-1.0.jar", "app-1.0.pom", "bom-3.pom", "core-1.5.jar", "core-1.5.pom", "lib-1.0.jar", "lib-1.0.module", "lib-1.0.pom"),
    *("native-1.0.jar", "native-1.0.pom", "parent-4.pom", "platform-1.0.pom", "suite-1.0.jar", "suite-1.0.pom"),
]


def resolved(client: Gradle | GradleLike, jvm: JvmWorkspace, url: str, lock: Path) -> list[str]:
    """What a client gets of a lock, from an empty cache."""
    jvm.empty_cache()
    words = [line.partition("=")[0] for line in lock.read_text().splitlines() if line[:1] not in ("#", "e")]
    if isinstance(client, GradleLike):
        got = client.resolve(jvm, url, words)
    else:
        (jvm.project / "build.gradle").write_text(BUILD.format(url=url))
        (jvm.project / "settings.gradle").write_text("rootProject.name = 'app'\n")
        code, output, _ = jvm.run(
            ["gradle", "--no-daemon", "--console=plain", "-q", "-g", jvm.cache, "fetch"],
            {"GRADLE_OPTS": f"-XX:TieredStopAtLevel=1 -Duser.home={jvm.home}"},
            240,
        )
        assert code == 0, output
        return sorted({line.split()[1] for line in output.splitlines() if line.startswith("RESOLVED ")})
    assert got.succeeded, got.told
    return got.resolved


def test_a_gradle_lock_that_was_warmed_resolves_without_the_repository(
    mirror: Edge, repository: FakeMaven, group: str, jvm: JvmWorkspace, lock: Path
) -> None:
    """Gradle 4.4 knows no locks, so its build reads the file itself; what the latest ask for is asked as they do."""
    before = ready(mirror, lock)
    assert not before.ready
    # Of what a POM leads to nothing is known yet.
    assert before.missing == sorted(name for name in FILES if name.endswith(".pom") and name not in ("bom-3.pom", "parent-4.pom"))

    done = warm(mirror, lock)
    assert done.status == 0, done.output
    repository.refuse()
    mirror.age(HOURS_S)
    after = ready(mirror, lock)
    assert after.ready, after.output
    jarred = [f"{group}:{name}" for name in ("app:1.0", "core:1.5", "lib:1.0", "native:1.0", "suite:1.0")]
    for client in (GRADLE, GradleLike(), GradleLike(module_first=True)):
        assert [one for one in resolved(client, jvm, mirror.index_url, lock) if ":platform:" not in one] == jarred

    # A POM that is gone cannot tell what it led to, but that was remembered.
    lost = half(FILES)
    lose(mirror, lost)
    assert ready(mirror, lock).missing == lost


def by_configuration(lock: Path) -> list[Path]:
    """The same lock as Gradle 4.8 to 6.7 wrote it: one file for each configuration, also for one that requires nothing."""
    header: list[str] = []
    locked: dict[str, list[str]] = {}
    for line in lock.read_text().splitlines():
        coordinates, equals, configurations = line.partition("=")
        if not equals:
            header.append(line)
        for name in filter(None, configurations.split(",")):
            locked.setdefault(name, []).extend([coordinates] if coordinates != "empty" else [])
    lock.unlink()
    directory = lock.parent / "gradle" / "dependency-locks"
    directory.mkdir(parents=True)
    for name, lines in locked.items():
        (directory / f"{name}.lockfile").write_text("".join(f"{line}\n" for line in [*header, *lines]))
    return sorted(directory.iterdir())


@pytest.mark.parametrize("split", [lambda lock: [lock], by_configuration], ids=["one for all", "one for each configuration"])
def test_a_lock_that_gradle_wrote_and_holds_to_resolves_without_the_repository_once_it_is_warm(
    mirror: Edge, repository: FakeMaven, jars: Jars, group: str, jvm: JvmWorkspace, split: Callable[[Path], list[Path]]
) -> None:
    repository.publish(*world(jars, group))
    wanted = [f"{group}:{each}" for each in ("app:1.+", "platform:1.0", "suite:1.0")]
    written = GRADLE_7.resolve(jvm, repository.url, wanted, options=["--write-locks"])
    assert written.succeeded, written.told
    # Without the lock it would be this.
    repository.publish(jars.component(f"{group}:app:1.1"))
    locks = split(jvm.project / "gradle.lockfile")
    assert {path.name for path in locks} in (
        {"gradle.lockfile"},
        {"annotationProcessor.lockfile", "compileClasspath.lockfile", "runtimeClasspath.lockfile"},
    )
    telling = [path for path in locks if path.name != "annotationProcessor.lockfile"]
    poms = sorted(name for name in FILES if name.endswith(".pom") and name not in ("bom-3.pom", "parent-4.pom"))
    for path in telling:
        before = ready(mirror, path)
        assert not before.ready
        assert before.missing == poms
        assert before.lock["notes"] == [UNREAD]

    for path in locks:
        done = warm(mirror, path)
        assert done.ready, done.output
    repository.refuse()
    mirror.age(HOURS_S)
    for path in locks:
        after = ready(mirror, path)
        assert after.ready, after.output
    jvm.empty_cache()
    got = GRADLE_7.resolve(jvm, mirror.index_url, wanted)
    assert got.succeeded, got.told
    assert got.resolved == written.resolved
    assert got.resolved == [f"{group}:{name}" for name in ("app:1.0", "core:1.5", "lib:1.0", "native:1.0", "suite:1.0")]

    lost = half(FILES)
    lose(mirror, lost)
    for path in telling:
        gone = ready(mirror, path)
        assert (gone.missing, gone.lock["notes"]) == (lost, [])
    lose(mirror, FILES)
    assert ready(mirror, telling[0]).missing == FILES


def test_signatures_are_fetched_if_the_build_verifies_them(
    mirror: Edge, repository: FakeMaven, jars: Jars, group: str, jvm: JvmWorkspace, lock: Path
) -> None:
    app = jars.component(f"{group}:app:1.0", parent=f"{group}:parent:4", requires=[f"{group}:lib:1.0"])
    repository.publish(app.with_files(*(jars.file(f"{one.path}.asc", one.path.encode()) for one in (app.jar, app.pom))))
    (jvm.project / "gradle").mkdir()
    text = "<verification-metadata><configuration><verify-signatures>true</verify-signatures></configuration></verification-metadata>"
    (jvm.project / "gradle" / "verification-metadata.xml").write_text(text)
    assert warm(mirror, lock).ready
    repository.refuse()
    mirror.age(HOURS_S)
    assert ready(mirror, lock).ready
    assert resolved(GradleLike(signatures=True), jvm, mirror.index_url, lock)

    lost = ["app-1.0.jar", "app-1.0.jar.asc", "app-1.0.pom.asc", "core-1.5.pom"]
    lose(mirror, lost)
    assert ready(mirror, lock).missing == lost


def test_what_was_never_fetched_of_a_gradle_lock_is_named(mirror: Edge, repository: FakeMaven, group: str, lock: Path) -> None:
    path = group.replace(".", "/")
    for name in ("app/1.0/app-1.0.pom", "app/1.0/app-1.0.jar", "parent/4/parent-4.pom"):
        assert get(mirror, f"{path}/{name}").status == 200
    repository.refuse()
    said = ready(mirror, lock)
    assert {"core-1.5.pom", "lib-1.0.pom", "suite-1.0.pom"} <= set(said.missing)
    assert not {"app-1.0.pom", "app-1.0.jar", "parent-4.pom"} & set(said.missing)


# ---- pom.xml ------------------------------------------------------------------------------------------------------------

BOUND = """\
<build><plugins><plugin>
<groupId>org.example.build</groupId><artifactId>probe-maven-plugin</artifactId><version>1.0</version>
<executions><execution><phase>verify</phase><goals><goal>resolve</goal></goals></execution></executions>
</plugin></plugins></build>
</project>"""


@pytest.fixture
def pom(repository: FakeMaven, jars: Jars, group: str, jvm: JvmWorkspace) -> Path:
    """A project of two modules, whose build resolves what ``app`` requires when it is verified."""
    repository.publish(*world(jars, group))
    root = jvm.project / "pom.xml"
    text = pom_xml("org.example.project:root:1", packaging="pom")
    root.write_text(text.replace("</project>", "<modules><module>one</module></modules>\n</project>"))
    (jvm.project / "one").mkdir()
    module = pom_xml("org.example.project:one:1", packaging="pom", requires=[f"{group}:app:1.0", f"{group}:suite:1.0"])
    module = module.replace("<parent>", "<parent>").replace("</project>", BOUND)
    (jvm.project / "one" / "pom.xml").write_text(module)
    return root


def with_mvn(maven: Maven) -> tuple[str, str]:
    return "--mvn", str(maven.home / "bin" / "mvn")


def of_project(said: Said) -> list[str]:
    """What is missing, but for the plugin and what Maven 3.8 wants with it."""
    return [name for name in said.missing if not name.startswith(("probe-maven-plugin", "plexus-utils"))]


@pytest.mark.parametrize("maven", MAVENS, ids=lambda maven: maven.name)
def test_a_pom_that_was_warmed_is_built_without_the_repository(
    mirror: Edge, repository: FakeMaven, group: str, jvm: JvmWorkspace, pom: Path, maven: Maven
) -> None:
    before = ready(mirror, pom, *with_mvn(maven), here=False)
    assert not before.ready
    assert before.missing == ["probe-maven-plugin-1.0.pom"]
    assert before.lock["notes"][0].endswith(MORE)

    done = warm(mirror, pom, *with_mvn(maven), here=False)
    assert done.status == 0, done.output
    assert sorted(path.name for path in jvm.project.rglob("*") if path.name in ("target", "repository")) == []
    repository.refuse()
    mirror.age(HOURS_S)
    after = ready(mirror, pom, *with_mvn(maven), here=False)
    assert after.ready, after.output

    built = maven.run(jvm, mirror.index_url, ["verify"], timeout_s=240)
    assert built.succeeded, built.told
    assert f"{group}:core:1.5" in built.resolved

    # Which were asked for: what Maven does not want of the world is not there.
    names = {
        name
        for files in held(mirror).values()
        for name in files
        if name.startswith(("app", "lib", "core", "parent", "bom", "suite"))
    }
    lost = half(names)
    lose(mirror, lost)
    gone = ready(mirror, pom, *with_mvn(maven), here=False)
    assert not gone.ready
    assert of_project(gone) == lost
    assert not any(MORE in note for note in gone.lock["notes"])


def test_of_a_pom_that_was_never_warmed_what_maven_asks_for_is_named(
    mirror: Edge, repository: FakeMaven, group: str, jvm: JvmWorkspace, pom: Path
) -> None:
    built = MAVEN_39.run(jvm, mirror.index_url, ["verify"], timeout_s=240)
    assert built.succeeded, built.told
    repository.refuse()
    assert ready(mirror, pom, *with_mvn(MAVEN_39), here=False).ready
    lose(mirror, ["lib-1.0.jar", "core-1.5.jar"])
    said = ready(mirror, pom, *with_mvn(MAVEN_39), here=False)
    assert said.missing == ["core-1.5.jar", "lib-1.0.jar"]
    assert any("mvn verify ended with 1" in note for note in said.lock["notes"])


def test_what_the_other_modules_miss_is_named_though_one_cannot_be_built(
    mirror: Edge, repository: FakeMaven, jars: Jars, group: str, jvm: JvmWorkspace, pom: Path
) -> None:
    repository.publish(jars.component(f"{group}:other:1.0"))
    pom.write_text(pom.read_text().replace("</module>", "</module><module>two</module>"))
    (jvm.project / "two").mkdir()
    module = pom_xml("org.example.project:two:1", packaging="pom", requires=[f"{group}:other:1.0"]).replace("</project>", BOUND)
    (jvm.project / "two" / "pom.xml").write_text(module)
    built = MAVEN_39.run(jvm, mirror.index_url, ["verify"], timeout_s=240)
    assert built.succeeded, built.told
    repository.refuse()
    lose(mirror, ["app-1.0.pom", "lib-1.0.jar", "other-1.0.pom"])
    said = ready(mirror, pom, *with_mvn(MAVEN_39), here=False)
    # What the first leads to nobody can tell, as this was never warmed, and that is said.
    assert said.missing == ["app-1.0.pom", "other-1.0.pom"]
    assert said.lock["notes"][0].endswith(MORE)


def test_a_rule_is_in_force_while_an_outage_is_rehearsed(
    mirror: Edge, repository: FakeMaven, group: str, jvm: JvmWorkspace, pom: Path
) -> None:
    assert warm(mirror, pom, *with_mvn(MAVEN_39), here=False).ready
    mirror.set_rules(Rule(f"pkg:maven/{group}/lib@1.0", "it leaks", "no-lib"))
    said = ready(mirror, pom, *with_mvn(MAVEN_39), here=False)
    while said.ready:
        said = ready(mirror, pom, *with_mvn(MAVEN_39), here=False)
    assert said.refused["lib-1.0.pom"] == "no-lib"
    assert "it leaks" in json.dumps(said.lock["refused"])


def test_without_maven_a_pom_cannot_be_asked_about(mirror: Edge, pom: Path) -> None:
    told = mirror.command("ready", "--mvn", "/nowhere/mvn", str(pom))
    assert told.returncode == 1
    assert "/nowhere/mvn cannot be run" in told.stderr


def test_a_place_that_nobody_began_is_no_place(mirror: Edge) -> None:
    assert mirror.ask("/-/rehearsal/abc/maven/org/example/a/1/a-1.pom").status == 404
    assert shutil.which("gradle") is not None


def test_an_edge_of_another_kind_of_registry_knows_no_such_lock(start_edge: StartEdge, tmp_path: Path) -> None:
    edge = start_edge()
    path = tmp_path / "gradle.lockfile"
    path.write_text("org.example:nothing:1.0=x\n")
    said = ready(edge, path)
    assert said.missing == ["nothing-1.0.pom"]
