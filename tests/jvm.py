"""JVM clients pointed at an edge: Maven 3.8, 3.9 and 4, Gradle 4 and 7, coursier, each in a home and local repository of its own.

As ``CLIENTS`` in ``harness.py``: nothing of this machine's configuration reaches them, and nothing but loopback is talked to. A client
resolves what ``requires`` says from the one repository it is told of, and a ``Resolution`` tells what it got. ``java`` takes a second
or two to start, so keep runs few. Missing tools raise ``RuntimeError`` with the command that installs them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.harness import ROOT, STRAIGHT, Through, clean_environment
from tests.jars import pom_xml

JVM_TOOLS = Path(os.environ.get("LEEWARD_JVM_TOOLS", ROOT / ".tools" / "jvm"))
"""Where ``make`` unpacks Maven 3.9 and 4 and puts coursier and Gradle 7."""

PROBE = "org.example.build:probe-maven-plugin:1.0"
"""The plugin of ``tests.jars`` that resolves, as ``Jars.plugin`` names it."""

QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto"

SETTINGS = """\
<settings><mirrors><mirror><id>edge</id><mirrorOf>{mirror_of}</mirrorOf><url>{url}</url></mirror></mirrors>
<pluginGroups><pluginGroup>org.example.build</pluginGroup></pluginGroups></settings>
"""

GRADLE_BUILD = """\
repositories {{ maven {{ url '{url}' }} }}
configurations {{ wanted }}
configurations.all {{ resolutionStrategy {{
    cacheDynamicVersionsFor {dynamic_s}, 'seconds'
    cacheChangingModulesFor {dynamic_s}, 'seconds' }} }}
dependencies {{ {wanted} }}
task fetch {{ doLast {{
    configurations.wanted.resolvedConfiguration.resolvedArtifacts.each {{
        println 'RESOLVED ' + it.moduleVersion.id + ' ' + it.file }} }} }}
"""

COURSIER_MAIN = """\
import coursierapi.*;
import java.io.File;
import java.util.*;

public class Main {
    public static void main(String[] arguments) {
        Fetch fetch = Fetch.create()
            .withRepositories(MavenRepository.of(arguments[0]))
            .withCache(Cache.create().withLocation(new File(arguments[1])));
        for (String one : Arrays.asList(arguments).subList(2, arguments.length)) {
            String[] words = one.split(":");
            fetch.addDependencies(Dependency.of(words[0], words[1], words[2]));
        }
        FetchResult result;
        try {
            result = fetch.fetchResult();
        } catch (coursierapi.error.CoursierError error) {
            System.out.println(error.getMessage());
            System.exit(1);
            return;
        }
        for (File file : result.getFiles())
            System.out.println("FILE " + file);
    }
}
"""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What came of a run: the exit status, what was printed, and the resolved files by ``group:artifact:version``."""

    code: int
    output: str
    files: Mapping[str, Path]
    seconds: float

    @property
    def succeeded(self) -> bool:
        return self.code == 0

    @property
    def told(self) -> str:
        """What was printed without the stack traces: for a failing test's message."""
        return "\n".join(line for line in self.output.splitlines() if not line.lstrip().startswith("at "))[-4000:]

    @property
    def resolved(self) -> list[str]:
        """The coordinates, sorted."""
        return sorted(self.files)


@dataclass
class JvmWorkspace:
    """One client's own world in ``directory``: home, local repository or cache, and project."""

    directory: Path
    through: Through = STRAIGHT
    home: Path = field(init=False)
    cache: Path = field(init=False)
    project: Path = field(init=False)

    def __post_init__(self) -> None:
        self.home = self.directory / "home"
        self.cache = self.directory / "cache"
        self.project = self.directory / "project"
        for path in (self.home, self.cache, self.project):
            path.mkdir(parents=True, exist_ok=True)

    def empty_cache(self) -> None:
        """Be a new client."""
        shutil.rmtree(self.cache, ignore_errors=True)
        self.cache.mkdir()

    def run(self, command: Sequence[str | Path], variables: Mapping[str, str], timeout_s: float) -> tuple[int, str, float]:
        """Run in the project's directory; gives status, output and seconds."""
        environment = clean_environment(self.home) | dict(variables)
        code, output, seconds = self.through.run(command, environment, self.project, timeout_s)
        return code, re.sub(r"\x1b\[[0-9;]*m", "", output), seconds


class JvmClient(Protocol):
    """One resolver. ``resolve`` gets ``requires`` and what they require from the Maven repository at ``url`` alone.

    The cache is the workspace's, kept between calls. ``options`` are further words for its command line.
    """

    @property
    def name(self) -> str: ...

    def resolve(
        self, workspace: JvmWorkspace, url: str, requires: Sequence[str], *, options: Sequence[str] = (), timeout_s: float = 120
    ) -> Resolution: ...


@dataclass(frozen=True)
class Maven:
    """A Maven by its version: ``system`` is Debian's 3.8, any other is unpacked under ``JVM_TOOLS``.

    ``PROBE`` has to be published where ``url`` leads to; 3.8 also wants ``IMPLIED``.
    """

    version: str

    @property
    def name(self) -> str:
        return f"maven-{self.version}"

    @property
    def home(self) -> Path:
        """The installation. Its ``lib`` holds what a plugin is compiled against."""
        if self.version != "system":
            return _needed(JVM_TOOLS / f"apache-maven-{self.version}")
        program = _program("mvn", "maven")
        return Path(os.path.realpath(program)).parent.parent

    def resolve(
        self,
        workspace: JvmWorkspace,
        url: str,
        requires: Sequence[str],
        *,
        options: Sequence[str] = (),
        timeout_s: float = 120,
        parent: str | None = None,
        imports: Sequence[str] = (),
        repositories: Mapping[str, str] | None = None,
        goal: str = f"{PROBE}:resolve",
        mirror_of: str = "*",
        global_settings: bool = False,
    ) -> Resolution:
        """Run a goal on a project with these dependencies; ``parent``, ``imports`` and ``repositories`` as ``pom_xml`` takes them."""
        text = pom_xml("org.example.project:app:1", requires=requires, parent=parent, imports=imports, repositories=repositories)
        (workspace.project / "pom.xml").write_text(text)
        return self.run(
            workspace, url, [goal], options=options, timeout_s=timeout_s, mirror_of=mirror_of, global_settings=global_settings
        )

    def run(
        self,
        workspace: JvmWorkspace,
        url: str,
        goals: Sequence[str],
        *,
        options: Sequence[str] = (),
        timeout_s: float = 120,
        mirror_of: str = "*",
        global_settings: bool = False,
    ) -> Resolution:
        """Run goals on the project as it is there. ``global_settings`` leaves those of the installation in force."""
        settings, nothing = workspace.directory / "settings.xml", workspace.directory / "nothing.xml"
        settings.write_text(SETTINGS.format(url=url, mirror_of=mirror_of))
        nothing.write_text("<settings/>")
        given: list[str | Path] = [self.home / "bin" / "mvn", "-B", "-e", "-s", settings]
        given += [] if global_settings else ["-gs", nothing]
        given += [f"-Dmaven.repo.local={workspace.cache}", *options, *goals]
        variables = {"MAVEN_OPTS": f"{QUICK} -Duser.home={workspace.home}", "MAVEN_SKIP_RC": "1"}
        code, output, seconds = workspace.run(given, variables, timeout_s)
        return Resolution(code, output, _told(output), seconds)


IMPLIED = "org.codehaus.plexus:plexus-utils:1.1"
"""What Maven before 3.9 adds to every plugin that does not name it: publish any component of this name."""


@dataclass(frozen=True)
class Gradle:
    """Debian's Gradle 4.4. It knows neither ``.module`` files, problem documents nor locks: ``Gradle7`` and ``gradle_like`` do."""

    name: str = "gradle"

    def resolve(
        self,
        workspace: JvmWorkspace,
        url: str,
        requires: Sequence[str],
        *,
        options: Sequence[str] = (),
        timeout_s: float = 120,
        dynamic_s: int = 0,
    ) -> Resolution:
        """Versions that may change are held for ``dynamic_s`` seconds."""
        wanted = "; ".join(f"wanted {json.dumps(one)}" for one in requires)
        build = GRADLE_BUILD.format(url=url, wanted=wanted, dynamic_s=dynamic_s)
        (workspace.project / "build.gradle").write_text(build)
        (workspace.project / "settings.gradle").write_text("rootProject.name = 'app'\n")
        command: list[str | Path] = [_program("gradle", "gradle"), "--no-daemon", "--console=plain", "-q", "-g", workspace.cache]
        variables = {"GRADLE_OPTS": f"{QUICK} -Duser.home={workspace.home}"}
        code, output, seconds = workspace.run([*command, *options, "fetch"], variables, timeout_s)
        return Resolution(code, output, _told(output), seconds)


@dataclass(frozen=True)
class Coursier:
    """coursier, which sbt, mill and scala-cli resolve with, through its API for Java."""

    name: str = "coursier"

    def resolve(
        self, workspace: JvmWorkspace, url: str, requires: Sequence[str], *, options: Sequence[str] = (), timeout_s: float = 120
    ) -> Resolution:
        source = workspace.project / "Main.java"
        source.write_text(COURSIER_MAIN)
        path = _classpath("interface", "slf4j-api")
        command: list[str | Path] = [
            _program("java", "default-jdk-headless"),
            *QUICK.split(),
            f"-Duser.home={workspace.home}",
            *options,
        ]
        given = [*command, "-cp", path, source, url.rstrip("/"), workspace.cache, *requires]
        code, output, seconds = workspace.run(given, {}, timeout_s)
        found = {}
        root = urllib.parse.urlsplit(url).path
        for one in re.findall(r"^FILE (.+)$", output, re.MULTILINE):
            *group, artifact, version, _ = one.partition(root)[2].strip("/").split("/")
            found[f"{'.'.join(group)}:{artifact}:{version}"] = Path(one)
        return Resolution(code, output, found, seconds)


GRADLE_7_MAIN = """\
import java.io.File;
import java.util.*;
import org.gradle.api.*;
import org.gradle.api.artifacts.*;
import org.gradle.api.internal.artifacts.dsl.dependencies.DependencyLockingProvider;
import org.gradle.api.internal.project.ProjectInternal;
import org.gradle.testfixtures.ProjectBuilder;

public class Main {
    public static void main(String[] arguments) {
        boolean writes = arguments[2].equals("write");
        Project project = ProjectBuilder.builder()
            .withName("app").withProjectDir(new File(".")).withGradleUserHomeDir(new File(arguments[1])).build();
        project.getGradle().getStartParameter().setWriteDependencyLocks(writes);
        project.getPluginManager().apply("java-library");
        project.getRepositories().maven(repository -> {
            repository.setUrl(arguments[0]);
            repository.setAllowInsecureProtocol(true);
        });
        for (String one : Arrays.asList(arguments).subList(3, arguments.length))
            project.getDependencies().add("implementation", one);
        project.getDependencyLocking().lockAllConfigurations();
        try {
            for (String name : new String[] {"compileClasspath", "runtimeClasspath", "annotationProcessor"})
                for (ResolvedArtifact one : project.getConfigurations().getByName(name).getResolvedConfiguration().getResolvedArtifacts())
                    System.out.println("RESOLVED " + one.getModuleVersion().getId() + " " + one.getFile());
            if (writes)
                // What the end of a build does.
                ((ProjectInternal) project).getServices().get(DependencyLockingProvider.class).buildFinished();
        } catch (Exception error) {
            for (Throwable each = error; each != null; each = each.getCause())
                System.out.println(each.getMessage());
            System.exit(1);
        }
        System.exit(0);
    }
}
"""


@dataclass(frozen=True)
class Gradle7:
    """Gradle 7.6 as far as it resolves and locks: its own classes, which no registry has in a shape that could be started.

    The project is one such as Gradle makes for the tests of plugins, a ``java-library`` without a build script, all of whose
    configurations are locked. It holds to the locks that lie in the workspace's project, a ``gradle.lockfile`` or one file for each
    configuration, and writes the former for the option ``--write-locks``.
    """

    name: str = "gradle-7"

    def resolve(
        self, workspace: JvmWorkspace, url: str, requires: Sequence[str], *, options: Sequence[str] = (), timeout_s: float = 120
    ) -> Resolution:
        source = workspace.directory / "Main.java"
        source.write_text(GRADLE_7_MAIN)
        opened = [
            f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in ("java.lang", "java.lang.invoke", "java.net", "java.util")
        ]
        command: list[str | Path] = [
            _program("java", "default-jdk-headless"),
            *(*QUICK.split(), *opened, f"-Duser.home={workspace.home}"),
            *("-cp", _classpath("gradle-api", "groovy", "groovy-ant", "kotlin-stdlib"), source),
            *(url, workspace.cache, "write" if "--write-locks" in options else "read", *requires),
        ]
        code, output, seconds = workspace.run(command, {}, timeout_s)
        return Resolution(code, output, _told(output), seconds)


def _classpath(*artifacts: str) -> str:
    """The pinned jars of these names."""
    found = [path for name in artifacts for path in _needed(JVM_TOOLS / "downloads").glob(f"{name}-[0-9]*.jar")]
    if len(found) != len(artifacts):
        raise RuntimeError(f"{', '.join(artifacts)}: `make test` installs these into {JVM_TOOLS}")
    return os.pathsep.join(map(str, found))


def _told(output: str) -> dict[str, Path]:
    """The lines ``RESOLVED group:artifact:version path``."""
    return {name: Path(path) for name, path in re.findall(r"^(?:\[\w+\] )*RESOLVED (\S+) (.+)$", output, re.MULTILINE)}


def _needed(path: Path) -> Path:
    if not path.exists():
        raise RuntimeError(f"{path.name} is missing: `make test` installs the JVM clients into {JVM_TOOLS}")
    return path


def _program(name: str, package: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is missing: `make test` installs Debian's package {package}")
    return Path(found)


MAVEN_38, MAVEN_39, MAVEN_4 = Maven("system"), Maven("3.9.11"), Maven("4.0.0-rc-5")
GRADLE, GRADLE_7, COURSIER = Gradle(), Gradle7(), Coursier()

MAVENS: Sequence[Maven] = (MAVEN_38, MAVEN_39, MAVEN_4)

JVM_CLIENTS: Sequence[JvmClient] = (*MAVENS, GRADLE, COURSIER)
