"""Paths of a Maven repository and the coordinates they mean, both ways.

A project is ``<group, dotted>/<artifact>``. Only what follows the layout is a file; everything the repository publishes beside that is a
document, in the table ``DOCUMENTS`` or a ``maven-metadata.xml``. Paths are decoded, relative to the repository's root, with ``/`` between
segments. Essential reading: Maven's "Repository Layout - Default", and the protocol's section 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .maven_versions import is_version

METADATA = "maven-metadata.xml"

DOCUMENTS = {
    ".meta/prefixes.txt": "prefixes",
    ".meta/repository-metadata.xml": "repository",
    "archetype-catalog.xml": "catalog",
}
"""The documents about a whole repository: their paths, and the views they are."""

CHECKSUMS = ("md5", "sha1", "sha256", "sha512")
"""The endings, without the dot, of checksum sidecars; each is the name of its algorithm."""

_PATHS = {view: path for path, view in DOCUMENTS.items()}
_GROUP = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_GROUP_SEGMENT = re.compile(r"[A-Za-z0-9_-]+")
_ARTIFACT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_CHECKSUM = re.compile(r"(.+)\.(md5|sha1|sha256|sha512)", re.DOTALL)
_SIGNED = re.compile(r"((?:\.asc|\.sigstore\.json){0,2})$")
_RESOLVED = re.compile(r"[0-9]{8}\.[0-9]{6}-[0-9]+")
# Without a classifier an extension may have dots ("tar.gz", "spdx.json"); only its last piece begins with a digit ("7z"): anything else
# would rather be the rest of a version.
_EXTENSION = re.compile(r"\.((?:[A-Za-z][A-Za-z0-9_]*\.){0,2}[A-Za-z0-9][A-Za-z0-9_]*)")
_CLASSIFIED = re.compile(r"-([A-Za-z0-9_.+~!,-]+?)\.(tar\.(?:gz|bz2|xz|zst)|[A-Za-z0-9][A-Za-z0-9_]*)")
_OF_CONTENT = re.compile(r"@[0-9a-f]{40}$")


@dataclass(frozen=True, slots=True)
class Coordinates:
    """What a file's path says. ``version`` is the directory's (``1.0-SNAPSHOT``), ``spelled`` the one in the file name (``1.0-2024…-3``).

    ``ending`` is what follows the extension: ``""``, or ``.asc``, ``.sha1``, ``.asc.md5`` and the like.
    """

    project: str
    version: str
    spelled: str
    classifier: str
    extension: str
    ending: str

    @property
    def is_mutable(self) -> bool:
        """Whether other bytes may stand there tomorrow."""
        return self.spelled == self.version and is_snapshot_directory(self.version)


def read_file(segments: tuple[str, ...]) -> Coordinates | None:
    """The coordinates of a file; None for what does not follow the layout."""
    if len(segments) < 4:
        return None
    *group, artifact, version, filename = segments
    project = _project(group, artifact)
    if project is None or not is_version(version):
        return None
    checksum = _CHECKSUM.fullmatch(filename)
    plain = checksum[1] if checksum else filename
    beside = _SIGNED.search(plain)
    ending = (beside[1] if beside else "") + (f".{checksum[2]}" if checksum else "")
    plain = filename.removesuffix(ending)
    if not plain.startswith(artifact + "-"):
        return None
    rest = plain[len(artifact) + 1 :]
    spelled = _spelled(version, rest)
    if spelled is None:
        return None
    rest = rest[len(spelled) :]
    if found := _EXTENSION.fullmatch(rest):
        classifier, extension = "", found[1]
    elif found := _CLASSIFIED.fullmatch(rest):
        classifier, extension = found[1], found[2]
    else:
        return None
    # What is left of an ending on an ending: nobody signs a signature's signature, or sums up a sum.
    if extension.rpartition(".")[2] in ("asc", *CHECKSUMS):
        return None
    return Coordinates(project, version, spelled, classifier, extension, ending)


def _spelled(version: str, rest: str) -> str | None:
    """The version as a file name that goes on with ``rest`` has it: "either ``X-SNAPSHOT`` or ``X-\\d{8}\\.\\d{6}-\\d+``"."""
    if rest.startswith(version):
        return version
    if is_snapshot_directory(version):
        base = version.removesuffix("SNAPSHOT")
        found = _RESOLVED.match(rest, len(base)) if rest.startswith(base) else None
        if found is not None:
            return base + found[0]
    return None


def read_metadata(directory: tuple[str, ...]) -> tuple[str, str] | None:
    """(project, view) of the ``maven-metadata.xml`` in ``directory``; None where there can be none.

    Whether one of a group or of an artifact is meant only its content can tell, except beside the root, where no artifact is.
    """
    if not directory:
        return None
    if is_snapshot_directory(directory[-1]):
        if len(directory) < 3 or not is_version(directory[-1]):
            return None
        project = _project(list(directory[:-2]), directory[-2])
        return (project, f"snapshot/{directory[-1]}") if project else None
    if len(directory) == 1:
        return ("", f"group/{directory[0]}") if _GROUP_SEGMENT.fullmatch(directory[0]) else None
    project = _project(list(directory[:-1]), directory[-1])
    return (project, "") if project else None


def document_path(project: str, view: str) -> str:
    """Where the document stands that ``view`` is, checksums of it included."""
    plain, checksum = split_view(view)
    kind, _, rest = plain.partition("/")
    match kind:
        case "":
            path = f"{directory_of(project)}/{METADATA}"
        case "snapshot":
            path = f"{directory_of(project)}/{rest}/{METADATA}"
        case "group":
            path = f"{rest}/{METADATA}"
        case "file":
            path = f"{rest}.sha1"
        case _:
            path = _PATHS[kind]
    return f"{path}.{checksum}" if checksum else path


def split_view(view: str) -> tuple[str, str]:
    """(the document's view, the checksum's algorithm or ``""``) of a view such as ``snapshot/1-SNAPSHOT/checksum/sha1``."""
    document, _, last = view.rpartition("/")
    before, _, word = document.rpartition("/")
    return (before, last) if word == "checksum" and last in CHECKSUMS else (view, "")


def split_checksum(path: str) -> tuple[str, str]:
    """(what the checksum is of, its algorithm) of a path or file name; the algorithm is ``""`` for one that is none."""
    found = _CHECKSUM.fullmatch(path)
    return (found[1], found[2]) if found else (path, "")


def directory_of(project: str) -> str:
    """The directory of an artifact's versions."""
    group, _, artifact = project.partition("/")
    return f"{group.replace('.', '/')}/{artifact}"


def normalise(project: str) -> str:
    """``group/artifact`` of itself or ``group:artifact``. Raises ``ValueError`` for anything else."""
    group, separator, artifact = project.partition("/" if "/" in project else ":")
    if not separator or not _is_group(group) or not _is_artifact(artifact):
        raise ValueError(f"not a group and an artifact, such as org.example/lib: {project[:64]!r}")
    return f"{group}/{artifact}"


def pattern(name: str) -> str:
    """A rule's name as projects are spelled, from ``group/artifact`` or what build files write, ``group:artifact``; stars are welcome.

    Raises ``ValueError`` for a group or an artifact alone, which would match nothing.
    """
    name = name.replace(":", "/")
    if "/" not in name and "*" not in name:
        raise ValueError(
            f"{name[:64]!r} is a group or an artifact, not both; write group/artifact, or group/* for all of a group"
        )
    return name


def is_snapshot_directory(version: str) -> bool:
    """Whether files in this version's directory may be resolved to timestamps."""
    # The resolver asks for no hyphen before it: OSGi's people write "1.0.0.SNAPSHOT".
    return version.endswith("SNAPSHOT")


def of_content(filename: str, sha1: str) -> str:
    """The name under which one content of a mutable file is bound for ever."""
    return f"{filename}@{sha1}"


def without_content(filename: str) -> str:
    """The name of the file, of a name that may be one of its contents'."""
    return _OF_CONTENT.sub("", filename)


def _is_group(text: str) -> bool:
    return _GROUP.fullmatch(text) is not None and len(text) <= 255


def _is_artifact(text: str) -> bool:
    return _ARTIFACT.fullmatch(text) is not None and len(text) <= 255


def _project(group: list[str], artifact: str) -> str | None:
    if not group or not all(_GROUP_SEGMENT.fullmatch(segment) for segment in group):
        return None
    dotted = ".".join(group)
    return f"{dotted}/{artifact}" if _is_group(dotted) and _is_artifact(artifact) else None
