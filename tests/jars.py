"""Components of a Maven repository, made on the spot, the same bytes every time: poms, jars, ``.module`` files, archives, signatures.

``Jars`` is a directory that keeps what was built; ``Component`` is what a fake publishes. Coordinates are ``group:artifact:version``,
dependencies likewise, with a range for a version if wanted and ``:scope`` behind. ``SigningKey`` signs with ``gpg``; ``plugin`` compiles
a Maven plugin of our own, so that a real ``mvn`` can resolve a project with nothing else from any repository.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from xml.sax.saxutils import escape

from tests.harness import clean_environment
from tests.wheels import EPOCH, PIECE, filler

GRADLE_MARKER = "do_not_remove: published-with-gradle-metadata"
"""In a POM's comment, says to Gradle that a ``.module`` file stands beside."""

ALGORITHMS = ("md5", "sha1", "sha256", "sha512")

MOJO = """\
package test.probe;

import java.util.Set;
import org.apache.maven.artifact.Artifact;
import org.apache.maven.plugin.AbstractMojo;
import org.apache.maven.project.MavenProject;

public class ResolveMojo extends AbstractMojo {
    private MavenProject project;

    public void execute() {
        Set<Artifact> artifacts = project.getArtifacts();
        for (Artifact artifact : artifacts) {
            System.out.println("RESOLVED " + artifact.getGroupId() + ":" + artifact.getArtifactId() + ":" + artifact.getVersion()
                + " " + artifact.getFile());
        }
        System.out.println("COUNT " + artifacts.size());
    }
}
"""

DESCRIPTOR = """\
<plugin><name>probe</name><description>Says what was resolved.</description>
<groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version><goalPrefix>{prefix}</goalPrefix>
<isolatedRealm>false</isolatedRealm><inheritedByDefault>true</inheritedByDefault>
<mojos>{mojos}</mojos><dependencies/></plugin>
"""

GOAL = """\
<mojo><goal>{goal}</goal>{resolution}<requiresDirectInvocation>false</requiresDirectInvocation>
<requiresProject>{project}</requiresProject><requiresReports>false</requiresReports><aggregator>false</aggregator>
<requiresOnline>false</requiresOnline><inheritedByDefault>true</inheritedByDefault>
<implementation>test.probe.ResolveMojo</implementation><language>java</language>
<instantiationStrategy>per-lookup</instantiationStrategy><executionStrategy>once-per-session</executionStrategy>
<threadSafe>true</threadSafe><parameters><parameter><name>project</name><type>org.apache.maven.project.MavenProject</type>
<required>true</required><editable>false</editable><description>The project.</description></parameter></parameters>
<configuration><project implementation="org.apache.maven.project.MavenProject" default-value="${{project}}"/></configuration></mojo>
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """One file of a repository: ``path`` is where, without a slash before it, ``source`` holds the bytes. Digests are lower-case hex."""

    path: str
    source: Path
    size: int
    md5: str
    sha1: str
    sha256: str
    sha512: str

    @property
    def content(self) -> bytes:
        return self.source.read_bytes()

    @property
    def filename(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Component:
    """All files of one version. ``version`` is that of its directory; ``stamp`` tells a timestamped snapshot's (timestamp, build number).

    ``prefix`` is that of a Maven plugin's goals.
    """

    group: str
    artifact: str
    version: str
    files: tuple[Stored, ...]
    stamp: tuple[str, int] | None = None
    prefix: str = ""

    @property
    def coordinate(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"

    @property
    def directory(self) -> str:
        """Its directory's path in a repository, without slashes at the ends."""
        return f"{self.group.replace('.', '/')}/{self.artifact}/{self.version}"

    @property
    def file_version(self) -> str:
        """The version as its files' names spell it."""
        if self.stamp is None:
            return self.version
        return f"{self.version.removesuffix('SNAPSHOT')}{self.stamp[0]}-{self.stamp[1]}"

    def file(self, extension: str = "jar", classifier: str = "") -> Stored:
        """Raises ``LookupError`` if there is none."""
        wanted = "-".join(filter(None, (self.artifact, self.file_version, classifier))) + f".{extension}"
        for one in self.files:
            if one.filename == wanted:
                return one
        raise LookupError(f"{self.coordinate} has no {wanted}")

    @property
    def pom(self) -> Stored:
        return self.file("pom")

    @property
    def jar(self) -> Stored:
        return self.file("jar")

    @property
    def module(self) -> Stored:
        return self.file("module")

    def with_files(self, *files: Stored) -> Component:
        """The same with these files too; one of the same path is replaced."""
        kept = {one.path: one for one in (*self.files, *files)}
        return dataclasses.replace(self, files=tuple(kept.values()))


class Jars:
    """Builds components into ``directory``, once each. The same arguments give the same bytes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._built: dict[str, Component] = {}

    def component(
        self,
        coordinate: str,
        *,
        packaging: str = "jar",
        requires: Sequence[str] = (),
        parent: str | None = None,
        imports: Sequence[str] = (),
        managed: Sequence[str] = (),
        size: int = 0,
        classifiers: Sequence[str] = (),
        archives: Sequence[str] = (),
        module: bool = False,
        stamp: tuple[str, int] | None = None,
        seed: str = "",
    ) -> Component:
        """A version with its POM, and unless ``packaging`` is ``pom``, its jar of at least ``size`` bytes.

        ``imports`` are BOMs, ``managed`` are dependencies that it manages itself; ``classifiers`` (``sources``, ``linux-x86.64``) make
        further jars, ``archives`` (``tar.gz``, ``zip``) further packages. ``module`` adds Gradle's metadata and its marker in the POM.
        With ``stamp`` ("20240101.120000", 3) a snapshot's files are timestamped. ``seed`` makes other bytes of the same name.
        """
        given = dict(locals())
        del given["self"]
        key = repr(sorted(given.items()))
        if key not in self._built:
            group, artifact, version = coordinate.split(":")
            bare = Component(group, artifact, version, (), stamp)
            place = self._place(key)

            def store(extension: str, pieces: Iterator[bytes], classifier: str = "") -> Stored:
                name = "-".join(filter(None, (artifact, bare.file_version, classifier))) + f".{extension}"
                return self._store(place, f"{bare.directory}/{name}", pieces)

            text = pom_xml(
                coordinate,
                packaging=packaging,
                requires=requires,
                parent=parent,
                imports=imports,
                managed=managed,
                comment=GRADLE_MARKER if module else "",
                description=seed,
            )
            files = [store("pom", iter([text.encode()]))]
            if packaging != "pom":
                files.append(store("jar", _jar(coordinate, seed, size)))
            files += [store("jar", _jar(f"{coordinate}:{name}", seed, 0), name) for name in classifiers]
            files += [store(kind, _ARCHIVES[kind](coordinate, seed)) for kind in archives]
            if module:
                document = module_json(coordinate, [one for one in files if one.path.endswith(".jar")], requires)
                files.append(store("module", iter([document.encode()])))
            self._built[key] = dataclasses.replace(bare, files=tuple(files))
        return self._built[key]

    def plugin(
        self, libraries: Path, coordinate: str = "org.example.build:probe-maven-plugin:1.0", prefix: str = "probe"
    ) -> Component:
        """A Maven plugin: goal ``resolve`` resolves the project's dependencies and prints a line ``RESOLVED g:a:v path`` for each.

        Goal ``hello`` resolves nothing. Compiled by ``javac`` against ``libraries``, the ``lib`` directory of a Maven installation.
        """
        key = repr(("plugin", coordinate, prefix))
        if key not in self._built:
            group, artifact, version = coordinate.split(":")
            bare = Component(group, artifact, version, (), prefix=prefix)
            place = self._place(key)
            resolution = "<requiresDependencyResolution>test</requiresDependencyResolution>"
            mojos = GOAL.format(goal="resolve", resolution=resolution, project="true")
            mojos += GOAL.format(goal="hello", resolution="", project="false")
            descriptor = DESCRIPTOR.format(group=group, artifact=artifact, version=version, prefix=prefix, mojos=mojos)
            members = {"META-INF/maven/plugin.xml": descriptor.encode(), **_compiled(libraries)}
            pom = pom_xml(coordinate, packaging="maven-plugin")
            stem = f"{bare.directory}/{artifact}-{version}"
            self._built[key] = bare.with_files(
                self._store(place, f"{stem}.pom", iter([pom.encode()])),
                self._store(place, f"{stem}.jar", iter([_zip(members)])),
            )
        return self._built[key]

    def signed(self, component: Component, key: SigningKey, digest: str = "SHA512") -> Component:
        """The same with an ``.asc`` beside each file."""
        place = self._place(
            repr((component.coordinate, component.stamp, key.fingerprint, digest, [one.sha1 for one in component.files]))
        )
        signatures = [
            self._store(place, f"{one.path}.asc", iter([key.sign(one.source, digest)]))
            for one in component.files
            if not one.path.endswith(".asc")
        ]
        return component.with_files(*signatures)

    def file(self, path: str, content: bytes) -> Stored:
        """Any file under any path."""
        return self._store(self._place(path + hashlib.sha256(content).hexdigest()), path, iter([content]))

    def _place(self, key: str) -> Path:
        """A directory per recipe, so that two recipes for one name do not overwrite each other."""
        directory = self.directory / hashlib.sha256(key.encode()).hexdigest()[:16]
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def _store(self, place: Path, path: str, pieces: Iterator[bytes]) -> Stored:
        source = place / path.rpartition("/")[2]
        digests = {name: hashlib.new(name, usedforsecurity=False) for name in ALGORITHMS}
        size = 0
        partial = source.with_name(source.name + ".partial")
        with partial.open("wb") as sink:
            for piece in pieces:
                size += sink.write(piece)
                for digest in digests.values():
                    digest.update(piece)
        partial.rename(source)
        return Stored(path, source, size, **{name: digest.hexdigest() for name, digest in digests.items()})


# ---- documents -------------------------------------------------------------------------------------------------------


def pom_xml(
    coordinate: str,
    *,
    packaging: str = "jar",
    requires: Sequence[str] = (),
    parent: str | None = None,
    imports: Sequence[str] = (),
    managed: Sequence[str] = (),
    repositories: Mapping[str, str] | None = None,
    comment: str = "",
    description: str = "",
) -> str:
    """A POM. A dependency without a version (``g:a:``) takes its parent's or BOM's; ``repositories`` are URLs by id, with snapshots."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', '<project xmlns="http://maven.apache.org/POM/4.0.0">']
    if comment:
        lines.append(f"  <!-- {comment} -->")
    lines.append("  <modelVersion>4.0.0</modelVersion>")
    if parent is not None:
        lines.append(f"  <parent>{_coordinates(parent)}<relativePath/></parent>")
    lines.append(f"  {_coordinates(coordinate)}<packaging>{packaging}</packaging>")
    if description:
        lines.append(f"  <description>{escape(description)}</description>")
    if imports or managed:
        lines.append("  <dependencyManagement><dependencies>")
        lines += [f"    <dependency>{_coordinates(one)}<type>pom</type><scope>import</scope></dependency>" for one in imports]
        lines += [f"    {_dependency(one)}" for one in managed]
        lines.append("  </dependencies></dependencyManagement>")
    if requires:
        lines += ["  <dependencies>", *(f"    {_dependency(one)}" for one in requires), "  </dependencies>"]
    if repositories:
        lines.append("  <repositories>")
        for name, url in repositories.items():
            lines.append(
                f"    <repository><id>{name}</id><url>{escape(url)}</url><snapshots><enabled>true</enabled></snapshots></repository>"
            )
        lines.append("  </repositories>")
    return "\n".join([*lines, "</project>", ""])


def module_json(coordinate: str, jars: Sequence[Stored], requires: Sequence[str]) -> str:
    """Gradle Module Metadata 1.1 with an API and a runtime variant; sources are a variant of their own."""
    group, artifact, version = coordinate.split(":")
    dependencies = [
        {"group": words[0], "module": words[1], "version": {"requires": words[2]}}
        for words in (one.split(":") for one in requires)
        if len(words) == 3
    ]
    variants = []
    for one in jars:
        listed = {
            "name": one.filename,
            "url": one.filename,
            "size": one.size,
            "sha512": one.sha512,
            "sha256": one.sha256,
            "sha1": one.sha1,
            "md5": one.md5,
        }
        classifier = one.filename.removeprefix(f"{artifact}-{version}").removesuffix(".jar").strip("-")
        for name, usage in [("apiElements", "java-api"), ("runtimeElements", "java-runtime")]:
            attributes = {
                "org.gradle.category": "documentation" if classifier else "library",
                "org.gradle.dependency.bundling": "external",
                "org.gradle.libraryelements": "jar",
                "org.gradle.usage": usage,
            }
            whole = {"name": f"{classifier}{name}", "attributes": attributes, "files": [listed]}
            variants.append(whole if classifier else whole | {"dependencies": dependencies})
    document = {
        "formatVersion": "1.1",
        "component": {"group": group, "module": artifact, "version": version},
        "createdBy": {"gradle": {"version": "8.10"}},
        "variants": variants,
    }
    return json.dumps(document, indent=2)


def _coordinates(coordinate: str) -> str:
    group, artifact, version = coordinate.split(":")
    written = f"<groupId>{group}</groupId><artifactId>{artifact}</artifactId>"
    return written + (f"<version>{escape(version)}</version>" if version else "")


def _dependency(requirement: str) -> str:
    words = requirement.split(":")
    scope = f"<scope>{words[3]}</scope>" if len(words) == 4 else ""
    return f"<dependency>{_coordinates(':'.join(words[:3]))}{scope}</dependency>"


# ---- archives --------------------------------------------------------------------------------------------------------


def _jar(coordinate: str, seed: str, size: int) -> Iterator[bytes]:
    members = {
        "META-INF/MANIFEST.MF": b"Manifest-Version: 1.0\r\nCreated-By: test\r\n\r\n",
        "META-INF/origin.properties": f"coordinate={coordinate}\nseed={seed}\n".encode(),
    }
    if size:
        members["filler.bin"] = b"".join(filler(size, f"{coordinate} {seed}"))
    packed = _zip(members)
    for start in range(0, len(packed), PIECE):
        yield packed[start : start + PIECE]


def _zip(members: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), content)
    return packed.getvalue()


def _tar_gz(coordinate: str, seed: str) -> Iterator[bytes]:
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=1, mtime=0) as squeezed,
        tarfile.open(fileobj=squeezed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        content = f"{coordinate} {seed}\n".encode()
        entry = tarfile.TarInfo("README")
        entry.size, entry.mtime, entry.mode = len(content), 1_700_000_000, 0o644
        archive.addfile(entry, io.BytesIO(content))
    yield packed.getvalue()


def _zip_archive(coordinate: str, seed: str) -> Iterator[bytes]:
    yield _zip({"README": f"{coordinate} {seed}\n".encode()})


_ARCHIVES = {"tar.gz": _tar_gz, "zip": _zip_archive}


def _compiled(libraries: Path) -> dict[str, bytes]:
    """The plugin's classes, for Java 8 and newer."""
    javac = shutil.which("javac")
    jars = sorted(libraries.glob("maven-*.jar"))
    if javac is None or not jars:
        missing = "javac" if javac is None else str(libraries)
        raise RuntimeError(f"{missing} is missing: `make test` installs the JVM tools")
    with tempfile.TemporaryDirectory(prefix="plugin-") as directory:
        source = Path(directory, "ResolveMojo.java")
        source.write_text(MOJO)
        path = ":".join(str(jar) for jar in jars)
        done = subprocess.run(
            [javac, "--release", "8", "-Xlint:none", "-cp", path, "-d", directory, str(source)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"javac could not compile the plugin:\n{done.stderr}")
        classes = Path(directory).rglob("*.class")
        return {str(one.relative_to(directory)): one.read_bytes() for one in classes}


# ---- signatures ------------------------------------------------------------------------------------------------------


class SigningKey:
    """An OpenPGP key without a passphrase in a GnuPG home of its own. ``fingerprint`` is upper-case hex."""

    def __init__(self, home: Path, fingerprint: str) -> None:
        self._home = home
        self.fingerprint = fingerprint

    @classmethod
    @contextlib.contextmanager
    def made(cls, user: str = "Release <release@example.test>", algorithm: str = "ed25519") -> Iterator[Self]:
        """A new key until the block ends. The home is directly under the temporary directory, as the agent's socket wants a short path."""
        home = Path(tempfile.mkdtemp(prefix="gpg-"))
        try:
            _gpg(home, "--quick-generate-key", user, algorithm, "sign", "never")
            listing = _gpg(home, "--with-colons", "--list-secret-keys").decode()
            fingerprint = next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))
            yield cls(home, fingerprint)
        finally:
            subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], capture_output=True, check=False)
            shutil.rmtree(home, ignore_errors=True)

    def sign(self, path: Path, digest: str = "SHA512") -> bytes:
        """An ASCII-armoured detached signature over the file's bytes."""
        return _gpg(self._home, "--digest-algo", digest, "--armor", "--output", "-", "--detach-sign", str(path))

    @property
    def public(self) -> bytes:
        """The public key, ASCII-armoured: what a ``keys`` file holds."""
        return _gpg(self._home, "--armor", "--export", self.fingerprint)


def _gpg(home: Path, *arguments: str) -> bytes:
    if shutil.which("gpg") is None:
        raise RuntimeError("gpg is missing: `make test` installs Debian's package gnupg")
    done = subprocess.run(
        [
            "gpg",
            "--homedir",
            str(home),
            "--batch",
            "--quiet",
            "--no-tty",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
            *arguments,
        ],
        env=clean_environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"gpg {arguments[0]}: {done.stderr.decode(errors='replace')}")
    return done.stdout
