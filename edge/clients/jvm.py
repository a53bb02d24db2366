"""The clients of a Maven repository: Maven, Gradle and sbt."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..configfiles import Block, KeyAt, MavenSettings, Member, Repositories, Values, find
from .records import Client, ConfigFile, Surroundings, needs_trust

_ID = "leeward"


def _home_notes(here: Surroundings) -> list[str]:
    """Java asks the user database, not HOME, where the home directory is."""
    try:
        home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return []
    if home.resolve() == here.home().resolve() or here.home().resolve() == Path("/"):
        return []
    return [f"Java takes {home} for the home directory, whatever HOME says: start it with -Duser.home={here.home()}"]


def maven_path(here: Surroundings) -> Path:
    return here.home() / ".m2" / "settings.xml"


def _maven_point(values: Values, url: str) -> list[tuple[KeyAt, Any]]:
    mine: KeyAt = ("mirrors", Member("id", _ID))
    if find(values, mine) is not None:
        return [((*mine, "mirrorOf"), "central"), ((*mine, "url"), url)]
    return [(mine, {"id": _ID, "mirrorOf": "central", "url": url})]


def _maven_notes(here: Surroundings, said: Sequence[Values], url: str) -> list[str]:
    (values,) = said
    notes = _home_notes(here)
    if needs_trust(url):
        # Its own settings block plain HTTP to other machines, and it looks for a mirror's mirror too.
        notes.append("Maven 4 refuses mirrors over plain HTTP on another machine: offer https there; Maven 3 takes this one")
    notes += [
        f"the mirror {mirror.get('id') or 'without an id'} was Central's until now; ours comes first, the other stays"
        for mirror in values.get("mirrors", [])
        if mirror.get("id") != _ID and _covers_central(mirror.get("mirrorOf", ""))
    ]
    notes.append("repositories a project names besides Central are asked directly: they go past this edge")
    if re.search(r"(?:^|\s)(?:-s|--settings)", f"{here.environ.get('MAVEN_ARGS', '')}"):
        notes.append("MAVEN_ARGS names a settings file, and wins over this one")
    for directory in (here.directory, *here.directory.parents):
        config = directory / ".mvn" / "maven.config"
        if config.is_file():
            if re.search(r"(?m)(?:^|\s)(?:-s|--settings)", config.read_text("utf-8", "replace")):
                notes.append(f"{config} names a settings file, and wins over this one here")
            break
    return notes


def _covers_central(mirror_of: str) -> bool:
    """Whether a ``mirrorOf`` takes Central: a list of ids and patterns, of which ``!id`` leaves one out. Source: Maven's settings."""
    patterns = {pattern.strip() for pattern in mirror_of.split(",")}
    return "!central" not in patterns and bool(patterns & {"central", "*", "external:*"})


def _gradle_path(here: Surroundings) -> Path:
    home = here.environ.get("GRADLE_USER_HOME")
    return (Path(home) if home else here.home() / ".gradle") / "init.d" / "leeward.init.gradle"


def _gradle_notes(here: Surroundings, _said: Sequence[Values], _url: str) -> list[str]:
    notes = [] if here.environ.get("GRADLE_USER_HOME") else _home_notes(here)
    return [*notes, "plugins from the plugin portal and repositories besides Central are asked directly: they go past this edge"]


def _groovy(url: str) -> str:
    return url.replace("\\", "\\\\").replace("'", "\\'")


_GRADLE = r"""def leeward = new URI('{url}')

// Central is what mavenCentral() adds, and whatever has its path on a host that is called maven.
def isCentral = { repository ->
    def url = repository.url
    def path = url?.path ?: ''
    url != leeward && (repository.name == 'MavenRepo'
        || (path == '/maven2' || path == '/maven2/') && (url.host ?: '').tokenize('.').contains('maven'))
}
def replace = { repositories ->
    repositories.withType(MavenArtifactRepository) { repository ->
        if (isCentral(repository)) {
            repository.url = leeward
            if (leeward.scheme == 'http' && repository.respondsTo('setAllowInsecureProtocol')) {
                repository.allowInsecureProtocol = true
            }
        }
    }
}
// Old versions of Gradle have not all of these.
def replaceIn = { settings ->
    ['buildscript', 'pluginManagement', 'dependencyResolutionManagement'].each { name ->
        if (settings.hasProperty(name)) { replace(settings."$name".repositories) }
    }
}
if (gradle.respondsTo('beforeSettings')) {
    gradle.beforeSettings { settings -> replaceIn(settings) }
} else {
    gradle.settingsEvaluated { settings -> replaceIn(settings) }
}
gradle.allprojects { project ->
    replace(project.buildscript.repositories)
    replace(project.repositories)
}
"""

_GRADLE_BLOCK = Block("// leeward: begin, edge use gradle --undo takes it out", _GRADLE, "// leeward: end", _groovy)


def _sbt_path(here: Surroundings) -> Path:
    return here.home() / ".sbt" / "repositories"


def _sbt_point(values: Values, url: str) -> list[tuple[KeyAt, Any]]:
    address = url if url.startswith("https:") else f"{url}, allowInsecureProtocol"
    listed = values.get("repositories")
    if listed is None:
        return [(("repositories", "local"), ""), (("repositories", _ID), address)]
    # sbt asks the next repository for what one refuses, so Central must not stay behind ours.
    return [(("repositories", "maven-central" if "maven-central" in listed else _ID), address)]


def _sbt_notes(here: Surroundings, said: Sequence[Values], _url: str) -> list[str]:
    (values,) = said
    notes = _home_notes(here)
    if "sbt.override.build.repos=true" not in " ".join(here.environ.get(name, "") for name in ("SBT_OPTS", "JAVA_OPTS")):
        notes.append("sbt goes by this file only with -Dsbt.override.build.repos=true, best kept in SBT_OPTS")
    others = sorted(
        name
        for name, address in values.get("repositories", {}).items()
        if name not in {"local", "maven-local", "maven-central", _ID} and not address.startswith("file:")
    )
    if others:
        notes.append(f"{', '.join(others)} stay: what is found there goes past this edge")
    return notes


JVM = (
    Client(
        name="maven",
        kind="maven",
        files=(ConfigFile(MavenSettings(_ID), maven_path, _maven_point),),
        once="edge use maven --print --url {url} >edge.xml; mvn -s edge.xml verify",
        notes=_maven_notes,
    ),
    Client(
        name="gradle",
        kind="maven",
        files=(ConfigFile(_GRADLE_BLOCK, _gradle_path, lambda _, url: [(("url",), url)]),),
        once="edge use gradle --print --url {url} >edge.gradle; gradle -I edge.gradle build",
        notes=_gradle_notes,
    ),
    Client(
        name="sbt",
        kind="maven",
        files=(ConfigFile(Repositories(), _sbt_path, _sbt_point),),
        once="edge use sbt --print --url {url} >repos; sbt -Dsbt.override.build.repos=true -Dsbt.repository.config=repos test",
        notes=_sbt_notes,
    ),
)
"""The rows of Maven repositories' clients."""
