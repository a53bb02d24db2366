"""Which of an edge's instances an address in a lock file means.

The lock may name the registry, as clients of the proxy face and most others see it, or the mirror that it was made with, which may be
this very edge; or something else entirely, of which nothing here can tell whether it will be there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from origin.groups import members_for
from origin.model import File
from origin.registries import Registry, kinds

from ..hosts import Hosts, normal

type Members = tuple[Registry, ...]


class Places:
    """The instances of an edge: ``paths`` says where the mirror face offers each, ``own`` are the edge's base URLs.

    ``hosts`` is the table of the registries' hosts that the proxy face stands in for, None where there is no such face: then clients ask
    whatever a lock names past this edge, but for npm, which asks its own registry instead of the public one. ``believed`` are further
    hosts of a kind's registry, by kind.
    """

    def __init__(
        self,
        registries: Mapping[str, Registry],
        paths: Mapping[str, str],
        own: Sequence[str],
        hosts: Hosts | None,
        believed: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._registries = registries
        self._paths = paths
        self._own = [_authority(url) for url in own]
        self._hosts = hosts
        self._believed = believed or {}

    def members(self, kind: str, source: str, project: str) -> Sequence[Members]:
        """The instances that a client asks for ``project``: those that share a path together, in order, one path after the other.

        ``source`` is the index that the lock names, "" for whatever the client is configured with. Empty if it is none of this edge's.
        """
        groups: dict[str, list[Registry]] = {}
        for name, registry in self._registries.items():
            if registry.kind == kind:
                groups.setdefault(self._paths[name], []).append(registry)
        found = [tuple(members_for(group, project)) for group in groups.values()]
        if not source:
            return [each for each in found if each]
        meant = self._sources(kind, source)
        return [each for each in found if any(registry in meant for registry in each)]

    def _sources(self, kind: str, source: str) -> Sequence[Registry]:
        """The instances whose index ``source`` is."""
        mine = [registry for registry in self._registries.values() if registry.kind == kind]
        parts = urlsplit(source)
        if _authority(source) in self._own:
            path = parts.path if parts.path.endswith("/") else parts.path + "/"
            return [registry for registry in mine if path.startswith(self._paths[registry.name])]
        try:
            host = normal(parts.hostname or "")
        except ValueError:
            return ()
        if self._hosts is None:
            return ()
        if host in self._believed.get(kind, ()):
            return mine[:1]
        self._hosts.recognise(host)
        hosts = self._hosts
        shared = [registry for registry in mine if host in hosts.own(registry.name)]
        # Several indexes at one host are told apart by their paths.
        exact = [registry for registry in shared if urlsplit(registry.upstream).path.rstrip("/") == parts.path.rstrip("/")]
        return exact or shared

    def files(self, kind: str, url: str) -> Sequence[File] | None:
        """The file that an address means, as each instance reads it that may have it; None if it is nowhere near this edge."""
        parts = urlsplit(url)
        target = parts.path.lstrip("/")
        if _authority(url) in self._own:
            groups = sorted(self._paths.items(), key=lambda each: -len(each[1]))
            path = next((path for name, path in groups if parts.path.startswith(path)), None)
            if path is None:
                return None
            sharing = [self._registries[name] for name, each in groups if each == path]
            return [file for registry in sharing if (file := _file(registry, parts.path.removeprefix(path))) is not None] or None
        try:
            host = normal(parts.hostname or "")
            if self._hosts is None:
                return self._rewritten(kind, host, target)
            self._hosts.recognise(host)
            meant = [(each.registry, each.target) for each in self._hosts.meanings(host, f"/{target}")]
            if not meant and host in self._believed.get(kind, ()):
                meant = [
                    (registry, found)
                    for registry in self._registries.values()
                    if registry.kind == kind and (found := registry.meaning(f"/{target}", files=True)) is not None
                ][:1]
        except ValueError:
            return None
        return [file for registry, found in meant if (file := _file(registry, found)) is not None] or None

    def _rewritten(self, kind: str, host: str, target: str) -> Sequence[File] | None:
        """What npm makes of an address at the public registry, whatever registry it is told: it puts that one's in its place."""
        if kind != "npm" or host != urlsplit(kinds.default_upstream(kind)).hostname:
            return None
        registry = next((each for each in self._registries.values() if each.kind == kind), None)
        found = _file(registry, target) if registry is not None else None
        return [found] if found is not None else None


def _file(registry: Registry, target: str) -> File | None:
    try:
        found = registry.resource("GET", target)
    except ValueError:
        return None
    return found if isinstance(found, File) else None


def _authority(url: str) -> str:
    """Host and port of a URL, with the port that its scheme implies."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
        host = (parts.hostname or "").lower()
    except ValueError:
        return ""
    return f"{'127.0.0.1' if host in ('localhost', '::1') else host}:{port}"
