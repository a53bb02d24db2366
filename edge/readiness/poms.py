"""What a POM or a ``.module`` file says that its clients will ask for besides. Pure.

Of a POM that is little: its parent, what it imports, what is packaged beside it. Properties are put in as far as the POM and its parents
tell them; what stays open names nothing. Essential reading: Maven's "POM Reference", Gradle Module Metadata.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

import msgspec

LIMIT_BYTES = 16 << 20
LIMIT_DEPTH = 64
LIMIT_TEXT = 4096

MARKER = b"do_not_remove: published-with-gradle-metadata"
"""In a POM's comment, says to Gradle that a ``.module`` file stands beside."""

JARS = frozenset("jar ejb bundle maven-plugin eclipse-plugin maven-archetype test-jar javadoc java-source hk2-jar orbit".split())
"""Packagings whose file is a jar. Source: Maven's default artifact handlers, and what Gradle adds."""

_PROPERTY = re.compile(r"\$\{([^${}]{1,256})\}")
_PIECE_BYTES = 1 << 16

type Coordinates = tuple[str, str, str]
"""Group, artifact, version."""


@dataclass(frozen=True, slots=True)
class Dependency:
    """A dependency as it stands there, properties and all."""

    group: str
    artifact: str
    version: str
    classifier: str = ""
    type: str = "jar"
    scope: str = ""
    optional: str = ""


@dataclass(frozen=True, slots=True)
class Pom:
    """One POM, by itself. ``relative_path`` is where its parent is in a project that has it beside, "" for nowhere."""

    own: Coordinates
    parent: Coordinates | None
    packaging: str
    properties: Mapping[str, str]
    managed: tuple[Dependency, ...]
    dependencies: tuple[Dependency, ...]
    has_module: bool
    relative_path: str = "../pom.xml"
    modules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lineage:
    """A POM and those above it, nearest first."""

    poms: tuple[Pom, ...]
    known: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        known: dict[str, str] = {}
        for pom in reversed(self.poms):
            known |= pom.properties
        group, artifact, version = self.poms[0].own
        for above in self.poms[1:]:
            group, version = group or above.own[0], version or above.own[2]
        parent = self.poms[0].parent or ("", "", "")
        for prefix in ("project.", "pom.", ""):
            known |= {f"{prefix}groupId": group, f"{prefix}artifactId": artifact, f"{prefix}version": version}
        known |= {
            "project.parent.groupId": parent[0],
            "project.parent.artifactId": parent[1],
            "project.parent.version": parent[2],
        }
        object.__setattr__(self, "known", known)

    def filled(self, text: str) -> str:
        """``text`` with its properties, "" if one of them stays open."""
        for _ in range(8):
            if (found := _PROPERTY.search(text)) is None:
                return text
            value = self.known.get(found[1])
            if value is None or len(text) > LIMIT_TEXT:
                return ""
            text = text[: found.start()] + value + text[found.end() :]
        return ""

    def imports(self) -> tuple[Coordinates, ...]:
        """The BOMs that these POMs import."""
        found = [each for pom in self.poms for each in pom.managed if each.scope == "import" and each.type == "pom"]
        named = [(self.filled(each.group), self.filled(each.artifact), self.filled(each.version)) for each in found]
        return tuple(dict.fromkeys(each for each in named if all(each)))

    def open(self) -> frozenset[tuple[str, str]]:
        """The modules that are required in a version to be chosen: group and artifact."""
        named = [
            (self.filled(each.group), self.filled(each.artifact), self.filled(each.version)) for each in self.poms[0].dependencies
        ]
        return frozenset((group, artifact) for group, artifact, version in named if is_open(version))

    def classified(self) -> tuple[tuple[str, str, str, str], ...]:
        """What is required besides plain jars: group, artifact, classifier, type."""
        found = [
            tuple(map(self.filled, (each.group, each.artifact, each.classifier, each.type)))
            for each in self.poms[0].dependencies
            if each.scope in ("", "compile", "runtime")
            and each.optional != "true"
            and (each.classifier or each.type not in ("jar", "pom"))
        ]
        return tuple(dict.fromkeys((g, a, c, t) for g, a, c, t in found if g and a and t))


def read(document: bytes) -> Pom:
    """A POM. Raises ``ValueError`` for anything else."""
    if len(document) > LIMIT_BYTES:
        raise ValueError(f"a POM of {len(document)} bytes")
    reader = _Reader()
    try:
        for at in range(0, len(document), _PIECE_BYTES):
            reader.parser.Parse(document[at : at + _PIECE_BYTES], False)
        reader.parser.Parse(b"", True)
    except (expat.ExpatError, LookupError, UnicodeError) as error:
        raise ValueError(f"not well-formed XML: {error}") from None
    finally:
        reader.let_go()
    texts = reader.texts
    parent = tuple(texts.get(f"project/parent/{name}", "") for name in ("groupId", "artifactId", "version"))
    return Pom(
        (texts.get("project/groupId", ""), texts.get("project/artifactId", ""), texts.get("project/version", "")),
        (parent[0], parent[1], parent[2]) if any(parent) else None,
        texts.get("project/packaging", "jar"),
        reader.properties,
        tuple(map(_dependency, reader.managed)),
        tuple(map(_dependency, reader.dependencies)),
        MARKER in document,
        texts.get("project/parent/relativePath", "../pom.xml"),
        tuple(reader.modules),
    )


def _dependency(told: Mapping[str, str]) -> Dependency:
    group, artifact, version, classifier = (told.get(name, "") for name in ("groupId", "artifactId", "version", "classifier"))
    return Dependency(
        group, artifact, version, classifier, told.get("type") or "jar", told.get("scope", ""), told.get("optional", "")
    )


class _Reader:
    """Handlers of one parse. The first of several elements of a place counts; of dependencies each."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.properties: dict[str, str] = {}
        self.managed: list[dict[str, str]] = []
        self.dependencies: list[dict[str, str]] = []
        self.modules: list[str] = []
        self._path: list[str] = []
        self._text: list[str] = []
        self.parser = parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text.append

    def let_go(self) -> None:
        """The parser and its handlers hold each other."""
        self.parser.StartElementHandler = self.parser.EndElementHandler = self.parser.CharacterDataHandler = None
        self.parser.StartDoctypeDeclHandler = None

    def _doctype(self, *_: object) -> None:
        raise ValueError("XML with a DOCTYPE")

    def _start(self, name: str, _: object) -> None:
        # Namespaces do not matter to Maven, prefixes are never written.
        if not self._path and name != "project":
            raise ValueError(f"the root element is {name[:32]!r}, not 'project'")
        if len(self._path) >= LIMIT_DEPTH:
            raise ValueError(f"XML nested deeper than {LIMIT_DEPTH}")
        self._path.append(name)
        self._text.clear()
        if self._path == ["project", "dependencies", "dependency"]:
            self.dependencies.append({})
        elif self._path == ["project", "dependencyManagement", "dependencies", "dependency"]:
            self.managed.append({})

    def _end(self, name: str) -> None:
        text = "".join(self._text).strip()[:LIMIT_TEXT]
        self._text.clear()
        match self._path:
            case ["project", "properties", _]:
                self.properties.setdefault(name, text)
            case ["project", "dependencies", "dependency", _]:
                self.dependencies[-1].setdefault(name, text)
            case ["project", "dependencyManagement", "dependencies", "dependency", _]:
                self.managed[-1].setdefault(name, text)
            case ["project", "modules", "module"] | ["project", "profiles", "profile", "modules", "module"]:
                self.modules.append(text)
            case ["project", _] | ["project", "parent", _]:
                self.texts.setdefault("/".join(self._path), text)
        self._path.pop()


# ---- Gradle's own metadata -------------------------------------------------------------------------------------------


class _File(msgspec.Struct):
    name: str
    url: str


class _Dependency(msgspec.Struct):
    group: str
    module: str
    version: dict[str, object] = {}


class _Variant(msgspec.Struct):
    attributes: dict[str, object] = {}
    files: list[_File] = []
    dependencies: list[_Dependency] = []


class _Module(msgspec.Struct):
    variants: list[_Variant] = []


@dataclass(frozen=True, slots=True)
class Module:
    """What of a ``.module`` file concerns who compiles against it or runs it.

    ``files`` are relative to it. ``open`` are the modules that it requires in a version to be chosen.
    """

    files: tuple[str, ...]
    open: frozenset[tuple[str, str]]


def is_open(version: str) -> bool:
    """Whether a version is a range, or otherwise chosen from those that there are."""
    return (
        version[:1] in ("[", "(", "]")
        or version.endswith("+")
        or version.startswith("latest.")
        or version in ("LATEST", "RELEASE")
    )


def read_module(document: bytes) -> Module:
    """A ``.module`` file. Raises ``ValueError`` for anything else."""
    try:
        module = msgspec.json.decode(document, type=_Module)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"no module metadata: {error}") from None
    found: dict[str, None] = {}
    chosen: set[tuple[str, str]] = set()
    for variant in module.variants:
        usage = str(variant.attributes.get("org.gradle.usage", "java-runtime"))
        category = str(variant.attributes.get("org.gradle.category", "library"))
        if category == "library" and (usage.startswith(("java-", "kotlin-")) or not usage):
            found |= dict.fromkeys(file.url for file in variant.files)
            chosen |= {
                (each.group, each.module)
                for each in variant.dependencies
                if any(is_open(str(version)) for version in each.version.values())
            }
    return Module(tuple(found), frozenset(chosen))
