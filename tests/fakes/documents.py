"""What the fake's pages say: Simple API 1.4 in JSON and HTML, legacy JSON, provenance, as the real index writes them."""

from __future__ import annotations

import base64
import copy
import html
import json
import re
from dataclasses import dataclass, field
from typing import Any

JSON = "application/vnd.pypi.simple.v1+json"
VENDOR_HTML = "application/vnd.pypi.simple.v1+html"
HTML = "text/html"
INTEGRITY = "application/vnd.pypi.integrity.v1+json"


def normalise(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass
class Upload:
    """One published file. ``path`` is None for a file that is only listed."""

    project: str
    version: str
    filename: str
    path: str | None
    size: int
    sha256: str
    blake2b: str
    metadata: str | None = None
    metadata_sha256: str | None = None
    requires_python: str | None = None
    core_metadata: bool = True
    provenance: bool = False
    yanked: str | bool = False
    hashes: bool = True
    upload_time: str = "2024-01-01T00:00:00.000000Z"
    listed: bool = True

    @property
    def hashed_path(self) -> str:
        return f"/packages/{self.blake2b[:2]}/{self.blake2b[2:4]}/{self.blake2b[4:]}/{self.filename}"

    @property
    def relative_path(self) -> str:
        return f"/files/{normalise(self.project)}/{self.filename}"


@dataclass
class Project:
    name: str
    serial: int
    uploads: dict[str, Upload] = field(default_factory=dict)
    status: str = "active"
    reason: str = ""
    first: Project | None = None

    def remember_first(self) -> None:
        """Keep the page as it is for ``old_serial``."""
        if self.first is None and self.uploads:
            self.first = copy.deepcopy(self)

    def listed(self) -> list[Upload]:
        return [] if self.status == "quarantined" else [upload for upload in self.uploads.values() if upload.listed]


@dataclass(frozen=True)
class Dialect:
    """How pages are written: where the links point, and how much the index knows. ``plain`` is protocols/pypi.md section 3.4."""

    index_root: str
    files_root: str
    plain: bool = False
    layout: str = "hashed"

    def link(self, upload: Upload) -> str:
        if self.layout == "relative":
            return f"../../files/{normalise(upload.project)}/{upload.filename}"
        return self.files_root + upload.hashed_path

    def provenance_url(self, upload: Upload) -> str:
        return f"{self.index_root}/integrity/{upload.project}/{upload.version}/{upload.filename}/provenance"


def detail_json(project: Project, dialect: Dialect) -> dict[str, Any]:
    files = []
    versions = dict.fromkeys(upload.version for upload in project.listed())
    for upload in project.listed():
        digests = {"sha256": upload.sha256} if upload.hashes else {}
        sidecar: bool | dict[str, str | None] = {"sha256": upload.metadata_sha256} if upload.core_metadata else False
        entry: dict[str, Any] = {}
        if not dialect.plain:
            entry |= {"core-metadata": sidecar, "data-dist-info-metadata": sidecar}
        entry |= {"filename": upload.filename, "hashes": digests}
        if not dialect.plain:
            entry["provenance"] = dialect.provenance_url(upload) if upload.provenance else None
        entry |= {
            "requires-python": upload.requires_python,
            "size": upload.size,
            "upload-time": upload.upload_time,
            "url": dialect.link(upload),
            "yanked": upload.yanked,
        }
        files.append(entry)
    if dialect.plain:
        meta: dict[str, Any] = {"_last-serial": str(project.serial), "api-version": "1.1"}
    else:
        meta = {"_last-serial": project.serial, "api-version": "1.4"}
    document: dict[str, Any] = {"alternate-locations": [], "files": files, "meta": meta, "name": project.name}
    if not dialect.plain:
        document["project-status"] = {"status": project.status} | ({"reason": project.reason} if project.reason else {})
    document["versions"] = list(versions)
    return document


def detail_html(project: Project, dialect: Dialect) -> str:
    version = "1.1" if dialect.plain else "1.4"
    lines = ["<!DOCTYPE html>", "<html>", "  <head>", f'    <meta name="pypi:repository-version" content="{version}">']
    if not dialect.plain:
        lines.append(f'    <meta name="pypi:project-status" content="{project.status}">')
        if project.reason:
            lines.append(f'    <meta name="pypi:project-status-reason" content="{html.escape(project.reason)}">')
    title = f"Links for {project.name}"
    lines += [f"    <title>{title}</title>", "  </head>", "  <body>", f"    <h1>{title}</h1>"]
    for upload in project.listed():
        href = dialect.link(upload) + (f"#sha256={upload.sha256}" if upload.hashes else "")
        attributes = f'href="{html.escape(href)}"'
        if upload.requires_python is not None:
            attributes += f' data-requires-python="{html.escape(upload.requires_python)}"'
        if upload.core_metadata and not dialect.plain:
            sidecar = f"sha256={upload.metadata_sha256}"
            attributes += f' data-dist-info-metadata="{sidecar}" data-core-metadata="{sidecar}"'
        if upload.yanked is not False:
            attributes += f' data-yanked="{html.escape(upload.yanked if isinstance(upload.yanked, str) else "")}"'
        if upload.provenance and not dialect.plain:
            attributes += f' data-provenance="{html.escape(dialect.provenance_url(upload))}"'
        lines.append(f"    <a {attributes}>{html.escape(upload.filename)}</a><br />")
    lines += ["  </body>", "</html>", f"<!--SERIAL {project.serial}-->"]
    return "\n".join(lines)


def legacy_json(project: Project, dialect: Dialect, version: str | None) -> dict[str, Any] | None:
    """The old JSON API: the whole project, or one version of it; None if there is no such version."""

    def entry(upload: Upload) -> dict[str, Any]:
        return {
            "comment_text": None,
            "digests": {"blake2b_256": upload.blake2b, "sha256": upload.sha256},
            "filename": upload.filename,
            "packagetype": "bdist_wheel" if upload.filename.endswith(".whl") else "sdist",
            "python_version": "py3" if upload.filename.endswith(".whl") else "source",
            "requires_python": upload.requires_python,
            "size": upload.size,
            "upload_time_iso_8601": upload.upload_time,
            "url": dialect.files_root + upload.hashed_path,
            "yanked": upload.yanked is not False,
            "yanked_reason": upload.yanked if isinstance(upload.yanked, str) else None,
        }

    releases: dict[str, list[dict[str, Any]]] = {}
    for upload in project.listed():
        releases.setdefault(upload.version, []).append(entry(upload))
    if not releases or (version is not None and version not in releases):
        return None
    latest = version or list(releases)[-1]
    some = next(upload for upload in project.listed() if upload.version == latest)
    document: dict[str, Any] = {
        "info": {
            "name": project.name,
            "version": latest,
            "summary": "made for a test",
            "requires_python": some.requires_python,
            "requires_dist": re.findall(r"^Requires-Dist: (.*)$", some.metadata or "", re.MULTILINE) or None,
            "package_url": f"{dialect.index_root}/project/{project.name}/",
            "yanked": some.yanked is not False,
            "yanked_reason": some.yanked if isinstance(some.yanked, str) else None,
        },
        "last_serial": project.serial,
        "urls": releases[latest],
        "vulnerabilities": [],
    }
    if version is None:
        document["releases"] = releases
    return document


def provenance(upload: Upload) -> str:
    """A PEP 740 provenance object in the real shape; its signature is not one."""
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": upload.filename, "digest": {"sha256": upload.sha256}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": None,
    }
    attestation = {
        "version": 1,
        "verification_material": {"certificate": base64.b64encode(b"certificate").decode(), "transparency_entries": [{}]},
        "envelope": {
            "statement": base64.b64encode(json.dumps(statement).encode()).decode(),
            "signature": base64.b64encode(b"signature").decode(),
        },
    }
    publisher = {"kind": "GitHub", "repository": "someone/something", "workflow": "release.yml", "environment": None}
    bundle = {"publisher": publisher, "attestations": [attestation]}
    return json.dumps({"version": 1, "attestation_bundles": [bundle]}, separators=(",", ":"))


def choose(accept: str | None) -> str:
    """The media type the real index answers with: best q first, then JSON, then the versioned HTML; text/html for anything else."""
    if accept is None:
        return HTML
    best, chosen = 0.0, HTML
    for offered in (JSON, VENDOR_HTML, HTML):
        for part in accept.split(","):
            media_type, *parameters = [piece.strip() for piece in part.split(";")]
            weight = 1.0
            for parameter in parameters:
                if parameter.startswith("q="):
                    weight = float(parameter[2:])
            wanted = media_type.replace("simple.latest", "simple.v1")
            if wanted == offered and weight > best:
                best, chosen = weight, offered
    return chosen
