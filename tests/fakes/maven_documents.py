"""What the fake Maven repository writes itself: ``maven-metadata.xml`` at its three levels, prefixes, catalogue, checksum files."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

EPOCH_S = 1_704_067_200
"""When the fake's clock of changes begins; each change is a second later."""

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'


@dataclass
class Version:
    """One version of a project. ``stamps`` are a snapshot's deployments, oldest first: (timestamp, build number, names of files)."""

    name: str
    stamps: list[tuple[str, int, list[str]]] = field(default_factory=list)


@dataclass
class Project:
    """One ``group:artifact``. ``serial`` counts its changes; ``latest`` and ``release`` overrule what its versions would give, if set.

    ``latest`` or ``release`` of "" leaves the element out.
    """

    group: str
    artifact: str
    serial: int
    versions: dict[str, Version] = field(default_factory=dict)
    prefix: str = ""
    latest: str | None = None
    release: str | None = None


def instant(serial: int) -> str:
    """``lastUpdated`` of a change, ``yyyyMMddHHmmss``."""
    return time.strftime("%Y%m%d%H%M%S", time.gmtime(EPOCH_S + serial))


def project_xml(project: Project) -> str:
    """The G:A level, versions in the order in which they were published."""
    names = list(project.versions)
    releases = [name for name in names if not name.endswith("-SNAPSHOT")]
    latest = project.latest if project.latest is not None else (names or [""])[-1]
    release = project.release if project.release is not None else (releases or [""])[-1]
    lines = [
        "<metadata>",
        f"  <groupId>{project.group}</groupId>",
        f"  <artifactId>{project.artifact}</artifactId>",
        "  <versioning>",
    ]
    lines += [f"    <latest>{escape(latest)}</latest>"] if latest else []
    lines += [f"    <release>{escape(release)}</release>"] if release else []
    lines += ["    <versions>", *(f"      <version>{escape(name)}</version>" for name in names), "    </versions>"]
    lines += [f"    <lastUpdated>{instant(project.serial)}</lastUpdated>", "  </versioning>", "</metadata>", ""]
    return HEAD + "\n".join(lines)


def group_xml(plugins: Iterable[Project]) -> str:
    """The G level: the prefixes of the group's plugins."""
    lines = ["<metadata>", "  <plugins>"]
    for one in plugins:
        lines += ["    <plugin>", f"      <name>{escape(one.artifact)}</name>", f"      <prefix>{escape(one.prefix)}</prefix>"]
        lines += [f"      <artifactId>{one.artifact}</artifactId>", "    </plugin>"]
    return HEAD + "\n".join([*lines, "  </plugins>", "</metadata>", ""])


def snapshot_xml(project: Project, version: Version) -> str:
    """The G:A:V level of a snapshot: the newest deployment's files. One that was never timestamped has no ``snapshotVersions``."""
    lines = [
        '<metadata modelVersion="1.1.0">',
        f"  <groupId>{project.group}</groupId>",
        f"  <artifactId>{project.artifact}</artifactId>",
    ]
    lines += [f"  <version>{escape(version.name)}</version>", "  <versioning>"]
    updated = instant(project.serial)
    if version.stamps:
        timestamp, build, names = version.stamps[-1]
        value = f"{version.name.removesuffix('SNAPSHOT')}{timestamp}-{build}"
        lines.append(f"    <snapshot><timestamp>{timestamp}</timestamp><buildNumber>{build}</buildNumber></snapshot>")
        lines += [f"    <lastUpdated>{updated}</lastUpdated>", "    <snapshotVersions>"]
        for name in names:
            classifier, extension = _split(name.removeprefix(f"{project.artifact}-{value}"))
            inner = f"<classifier>{classifier}</classifier>" if classifier else ""
            inner += f"<extension>{extension}</extension><value>{value}</value><updated>{timestamp.replace('.', '')}</updated>"
            lines.append(f"      <snapshotVersion>{inner}</snapshotVersion>")
        lines.append("    </snapshotVersions>")
    else:
        lines.append(f"    <lastUpdated>{updated}</lastUpdated>")
    return HEAD + "\n".join([*lines, "  </versioning>", "</metadata>", ""])


def _split(rest: str) -> tuple[str, str]:
    """``-sources.jar`` is ("sources", "jar"), ``.tar.gz`` is ("", "tar.gz")."""
    for extension in ("tar.gz", "tar.bz2", "tar.xz", "jar.asc", "pom.asc"):
        if rest.endswith(f".{extension}"):
            return rest.removesuffix(f".{extension}").strip("-"), extension
    stem, _, extension = rest.rpartition(".")
    return stem.strip("-"), extension


def prefixes_text(groups: Iterable[str]) -> str:
    """The prefix file: the first two segments of every group, as a path."""
    paths = sorted({"/" + "/".join(group.split(".")[:2]) for group in groups})
    return "\n".join(["## repository-prefixes/2.0", "#", "# Written by the repository", *paths, ""])


def catalog_xml(projects: Sequence[Project]) -> str:
    """The archetype catalogue: every project whose name says that it is one."""
    lines = ["<archetype-catalog>", "  <archetypes>"]
    for one in projects:
        if one.artifact.endswith("-archetype") and one.versions:
            version = list(one.versions)[-1]
            lines += [
                "    <archetype>",
                f"      <groupId>{one.group}</groupId>",
                f"      <artifactId>{one.artifact}</artifactId>",
            ]
            lines += [f"      <version>{escape(version)}</version>", "    </archetype>"]
    return HEAD + "\n".join([*lines, "  </archetypes>", "</archetype-catalog>", ""])


def checksum_text(digest: str, algorithm: str, path: str, style: str) -> str:
    """A checksum file as ``style`` writes it: ``bare``, ``newline``, ``upper``, ``named``, ``label`` or ``openssl``."""
    name = path.rpartition("/")[2]
    styles: Mapping[str, str] = {
        "bare": digest,
        "newline": f"{digest}\n",
        "upper": digest.upper(),
        "named": f"{digest}  {name}\n",
        "label": f"{name}: {digest}\n",
        "openssl": f"{algorithm.upper()}({name})= {digest}\n",
    }
    if style not in styles:
        raise ValueError(f"no such style of checksum: {style!r}")
    return styles[style]
