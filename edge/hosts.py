"""Which hosts the proxy face stands in for, and what a URL at one of them means.

Every name of each configured upstream, its aliases, and the hosts that its files are at: those are learnt by reading one page of each
registry, and remembered. Nothing else is learnt: a page that anybody could have published must not say whose traffic is read.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import unquote

import httpx
import msgspec
import trio

from origin import targets
from origin.errors import Corrupt, NotFound, Refused, Unavailable
from origin.model import Entry, Listing, Page
from origin.registries import Registry, kinds
from origin.service import Service

log = logging.getLogger("leeward.hosts")

RETRY_FIRST_S = 1.0
RETRY_LAST_S = 300.0
"""How long after a failed try to learn an instance's hosts the next one comes: twice as long each time, up to the last."""

RELEARN_S = 86400.0
"""How often a page is looked at again for whether the files have moved."""

LIMIT_FILE_HOSTS = 16
"""How many file hosts of one instance are stood in for. Beyond them the page is no index of a registry."""

LIMIT_TOLD = 256
"""How many hosts seen on pages, and how many that a warning was given about, are remembered."""

LOOKED_AT = 16
"""How many of a page's first and last files are looked at for hosts that no table has."""

FALLBACK_PAGES = 4
"""How many held pages are read where an upstream lacks the sample."""

type Path = tuple[str, ...]

_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT = re.compile(r":[0-9]{1,5}$")

_PLACES = frozenset(
    "registry repo repo1 repository files packages pkg simple index mirror download downloads dl cdn static artifacts central".split()
)
"""First labels of hosts that packages are had from, whoever's they are."""
_SITES = frozenset("www docs doc blog status forum discuss help support search account accounts login".split())
"""First labels of what is beside a registry, and is none."""


@dataclass(frozen=True, slots=True)
class Meant:
    """What a URL at a registry's host means: ``target`` is relative to the instance, as for ``Registry.resource``."""

    registry: Registry
    target: str


@dataclass(slots=True)
class _Instance:
    """One configured instance. ``own`` are the hosts that mean its upstream; ``places`` where its files are: host, and path above them.

    ``lacks_until`` is until when (trio's clock) upstream need not be asked for a sample that it lacks.
    """

    registry: Registry
    root: Path
    own: set[str]
    places: dict[str, Path] = field(default_factory=dict)
    unsaved: bool = False
    lacks_until: float = 0.0
    known: trio.Event = field(default_factory=trio.Event)


class _Remembered(msgspec.Struct):
    """What is kept over restarts. Of another upstream it counts for nothing."""

    upstream: str
    places: dict[str, str]


class Hosts:
    """The table of hosts (lower case, without port). ``changed`` is called, from the event loop, when it has grown."""

    def __init__(self, registries: Mapping[str, Registry], aliases: Mapping[str, Sequence[str]]) -> None:
        """Raises ``ValueError`` for an upstream or alias whose host is no host name."""
        self.changed: Callable[[], None] = lambda: None
        self._instances: dict[str, _Instance] = {}
        for name, registry in registries.items():
            url = httpx.URL(registry.upstream)
            own = {normal(url.host), *map(normal, aliases.get(name, ()))}
            self._instances[name] = _Instance(registry, _segments(url.path), own)
        self._seen: OrderedDict[str, str] = OrderedDict()
        self._doubted: OrderedDict[str, None] = OrderedDict()
        self._names = self._collected()

    def names(self) -> frozenset[str]:
        """All hosts that are stood in for."""
        return self._names

    def own(self, instance: str) -> frozenset[str]:
        """The hosts that mean an instance's upstream: its own, and those that are other names of it."""
        return frozenset(self._instances[instance].own)

    def _collected(self) -> frozenset[str]:
        return frozenset(host for instance in self._instances.values() for host in (*instance.own, *instance.places))

    def meaning(self, host: str, target: str) -> Meant | None:
        """What a request for ``target`` (raw, origin form) at one of ``names()`` means; None if no registry has anything there.

        Raises ``ValueError`` for a malformed target.
        """
        return next(iter(self.meanings(host, target)), None)

    def meanings(self, host: str, target: str) -> Sequence[Meant]:
        """As ``meaning``, but all that it could mean where several instances share a host: what one of them lacks, the next may have.

        The instance whose upstream, or whose files, are beneath the longest path that the target is beneath too comes first; of equals
        the one that was configured first.
        """
        host = _spelled(host)
        sharing = [each for each in self._instances.values() if host in each.own or host in each.places]
        if not sharing:
            return ()
        path = targets.parse(target, encoded_slash=True).segments
        sharing.sort(key=lambda instance: _nearness(instance, host, path), reverse=True)
        found: list[Meant] = []
        for instance in sharing:
            meant = instance.registry.meaning(target, files=host not in instance.own)
            if meant is not None:
                found.append(Meant(instance.registry, meant))
        if len(found) > 1:
            found.sort(key=lambda meant: not _is_something(meant))
        return found

    def add_alias(self, instance: str, host: str) -> bool:
        """Stand in for ``host`` too, until the node stops; False if that is done anyway.

        Raises ``ValueError`` for what is no host name or no instance.
        """
        known = self._instances.get(instance)
        if known is None:
            raise ValueError(f"there is no instance {instance[:64]!r}; there are {', '.join(self._instances)}")
        host = normal(host)
        if host in self._names:
            return False
        known.own.add(host)
        self._settle()
        return True

    def recognise(self, host: str) -> bool:
        """Stand in for ``host`` if it is a further name of a public registry that an instance here has for its upstream; True if so.

        Which hosts those are is known only by sight: they join the table when somebody asks for them.
        """
        host = _spelled(host)
        if host in self._names:
            return True
        kind = kinds.other_name(host)
        if kind is None:
            return False
        public = httpx.URL(kinds.default_upstream(kind))
        for name, instance in self._instances.items():
            if instance.registry.kind == kind and httpx.URL(instance.registry.upstream) == public:
                return self.add_alias(name, host)
        return False

    def _settle(self) -> None:
        names = self._collected()
        grown = names - self._names
        self._names = names
        if grown:
            self.changed()

    # -- hosts that are missing

    def saw(self, instance: str, listing: Listing) -> None:
        """Note which hosts a page that is shown leads to, for ``doubt``. Cheap however long the page is."""
        for entry in _ends(listing):
            host = _host_of(entry.url)
            if host and host not in self._names and host not in self._seen:
                self._seen[host] = instance
                _trim(self._seen)

    def doubt(self, host: str) -> str:
        """A warning, ``""`` if there is no cause, about a host that is not stood in for and looks as if it should be. Each only once."""
        host = _spelled(host)
        if host in self._names or host in self._doubted:
            return ""
        instance, why = self._suspected(host)
        if not instance:
            return ""
        self._doubted[host] = None
        _trim(self._doubted)
        return (
            f"{host} {why}, and is not stood in for: nothing from it is checked or kept; "
            f'if it is one of its names, put aliases = ["{host}"] under [registries.{instance}]'
        )

    def _suspected(self, host: str) -> tuple[str, str]:
        """(the instance that ``host`` may belong to, why it looks so); empty if it looks like nobody's."""
        if host in self._seen:
            return self._seen[host], f"is where pages of {self._seen[host]} lead"
        labels = host.split(".")
        if _is_address(host) or len(labels) < 2 or labels[0] in _SITES:
            return "", ""
        for name, instance in self._instances.items():
            if any(instance.registry.kind in label for label in labels):
                return name, f"looks like a host of {instance.registry.kind}"
        if labels[0] not in _PLACES:
            return "", ""
        for name, instance in self._instances.items():
            for known in (*instance.own, *instance.places):
                theirs = known.split(".")
                if labels[-2:] == theirs[-2:] or (labels[0] == theirs[0] and not _is_address(known)):
                    return name, f"is called much like {known}"
        return "", ""

    # -- learning

    async def wait_learnt(self) -> None:
        """Wait until every registry's file hosts are known, or its page could not be had this time."""
        for instance in self._instances.values():
            await instance.known.wait()

    async def run(self, service: Service, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Recall what was learnt before, learn it (again), go on trying where it failed, and remember it. Runs until cancelled."""
        await self.restore(service)
        task_status.started()
        async with trio.open_nursery() as nursery:
            for instance in self._instances.values():
                nursery.start_soon(self._keep_learning, service, instance)
            await trio.sleep_forever()

    async def restore(self, service: Service) -> None:
        """Recall what was learnt before, and learn nothing."""
        for instance in self._instances.values():
            await self._recall(service, instance)

    async def _recall(self, service: Service, instance: _Instance) -> None:
        try:
            text = await service.recall(_key(instance))
        except Unavailable as error:
            log.warning("what was learnt of %s is not at hand: %s", instance.registry.name, error)
            return
        if text is None:
            return
        try:
            remembered = msgspec.json.decode(text, type=_Remembered)
            if remembered.upstream == instance.registry.upstream:
                places = {normal(host): _segments(path) for host, path in remembered.places.items()}
                self._add(instance, places)
                instance.unsaved = False
                instance.known.set()
        except ValueError as error:
            log.warning("what was learnt of %s makes no sense: %s", instance.registry.name, error)

    async def _keep_learning(self, service: Service, instance: _Instance) -> None:
        if instance.registry.sample is None:
            instance.known.set()
            return
        wait_s = RETRY_FIRST_S
        while True:
            learnt = False
            try:
                learnt = await self._learn(service, instance, instance.registry.sample)
            except (Unavailable, Corrupt, Refused) as error:
                log.info("the file hosts of %s could not be learnt: %s", instance.registry.name, error)
            except Exception:
                log.exception("learning the file hosts of %s failed", instance.registry.name)
            instance.known.set()
            if learnt:
                wait_s = RETRY_FIRST_S
                await trio.sleep(RELEARN_S)
            else:
                await trio.sleep(wait_s)
                wait_s = min(2 * wait_s, RETRY_LAST_S)

    async def _learn(self, service: Service, instance: _Instance, sample: Page) -> bool:
        """Learn from the sample, or where there is none from what is held. False if that is to be tried again before long."""
        places: dict[str, Path] = {}
        fresh = True
        if trio.current_time() >= instance.lacks_until:
            try:
                view = await service.page(sample)
                places, fresh = places_of([view.listing]), view.fresh
            except NotFound:
                instance.lacks_until = trio.current_time() + RELEARN_S
        if not places:
            places = await self._from_held(service, instance)
            fresh = bool(places)
        places = {host: path for host, path in places.items() if host in instance.own or _is_public(host)}
        if len(places) > LIMIT_FILE_HOSTS:
            log.warning("%s has files at %d hosts; none is stood in for", instance.registry.name, len(places))
        else:
            self._add(instance, places)
        if instance.unsaved:
            kept = _Remembered(instance.registry.upstream, {host: "/".join(path) for host, path in instance.places.items()})
            await service.remember(_key(instance), msgspec.json.encode(kept).decode())
            instance.unsaved = False
        return fresh

    async def _from_held(self, service: Service, instance: _Instance) -> dict[str, Path]:
        """Where an upstream without the sample has its files, by pages that are used here.

        A host counts if half of the pages have half of their files there: however long one page is, it has one voice.
        """
        listings: list[Listing] = []
        for project in (await service.projects(instance.registry.name))[:FALLBACK_PAGES]:
            listing = await service.held(Page(instance.registry.name, project))
            if listing is not None:
                listings.append(listing)
        voices = [_most_used(listing) for listing in listings if listing.entries]
        counts = Counter(host for hosts in voices for host in hosts)
        return {host: path for host, path in places_of(listings).items() if 2 * counts[host] >= len(voices)}

    def _add(self, instance: _Instance, places: Mapping[str, Path]) -> None:
        for host, path in places.items():
            known = instance.places.get(host)
            path = path if known is None else _common(known, path)
            if path != known and (known is not None or len(instance.places) < LIMIT_FILE_HOSTS):
                instance.places[host] = path
                instance.unsaved = True
        self._settle()


def normal(host: str) -> str:
    """A host as the table has it: lower case, IDNA's ASCII, no port, no brackets, no dot at the end. Raises ``ValueError`` for none."""
    plain = _spelled(host)
    if _is_address(plain):
        return str(ipaddress.ip_address(plain))
    try:
        plain = httpx.URL(scheme="https", host=plain).raw_host.decode("ascii")
    except (httpx.InvalidURL, UnicodeError, TypeError) as error:
        raise ValueError(f"not a host name: {host[:64]!a} ({error})") from None
    # What ends in a number is an address to some clients, and another one to others.
    if len(plain) > 253 or not _NAME.fullmatch(plain) or _NUMBER.fullmatch(plain.rpartition(".")[2]):
        raise ValueError(f"not a host name: {host[:64]!a}")
    return plain


def places_of(listings: Iterable[Listing]) -> dict[str, Path]:
    """The hosts that listed files are at, and for each the path that they have in common there, without the file names."""
    places: dict[str, Path] = {}
    for listing in listings:
        for entry in listing.entries.values():
            host = _host_of(entry.url)
            if not host:
                continue
            above = _segments(entry.url.split("/", 3)[3].partition("?")[0])[:-1]
            known = places.get(host)
            places[host] = above if known is None else _common(known, above)
    return places


def _most_used(listing: Listing) -> list[str]:
    """The hosts that half of a page's files are at: one, or two, or none."""
    counts = Counter(_host_of(entry.url) for entry in listing.entries.values())
    return [host for host, count in counts.items() if 2 * count >= counts.total()]


def _spelled(host: str) -> str:
    """A host, perhaps with a port and brackets, in lower case without either."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return (_PORT.sub("", host) if host.count(":") == 1 else host).removesuffix(".")


def _host_of(url: str) -> str:
    """The host of an entry's URL, empty if it is none to be stood in for, or if the entry does not say where it is (Maven)."""
    parts = url.split("/", 3)
    return _host_in(parts[2]) if len(parts) > 2 else ""


@lru_cache(1024)
def _host_in(authority: str) -> str:
    try:
        return normal(authority.rpartition("@")[2])
    except ValueError:
        return ""


def _segments(path: str) -> Path:
    return tuple(unquote(segment) for segment in path.split("/") if segment)


def _common(one: Path, other: Path) -> Path:
    size = 0
    while size < min(len(one), len(other)) and one[size] == other[size]:
        size += 1
    return one[:size]


def _nearness(instance: _Instance, host: str, path: Path) -> tuple[int, int]:
    """How far ``path`` is beneath what the instance has at ``host``; next, how far it goes along with it."""
    roots = [*([instance.root] if host in instance.own else []), *([instance.places[host]] if host in instance.places else [])]
    along = [len(_common(root, path)) for root in roots]
    whole = max((size for size, root in zip(along, roots, strict=True) if size == len(root)), default=-1)
    return whole, max(along)


def _is_something(meant: Meant) -> bool:
    try:
        return meant.registry.resource("GET", meant.target) is not None
    except ValueError:
        return False


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_public(host: str) -> bool:
    """Whether a host that a page names may be stood in for: no name of this machine, and no address in a network of one's own."""
    if _is_address(host):
        return ipaddress.ip_address(host).is_global
    return host != "localhost" and not host.endswith(".localhost")


def _key(instance: _Instance) -> str:
    return f"file hosts {instance.registry.name}"


def _ends(listing: Listing) -> list[Entry]:
    names = list(listing.entries)
    return [listing.entries[name] for name in (*names[:LOOKED_AT], *names[-LOOKED_AT:])]


def _trim[T](told: OrderedDict[str, T]) -> None:
    if len(told) > LIMIT_TOLD:
        told.popitem(last=False)
