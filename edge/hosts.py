"""Which hosts the proxy face stands in for, and what a URL at one of them means.

Every name of each configured upstream, its aliases, and the hosts that its files are at: those are learnt by reading one page of each
registry, and remembered. Nothing else is learnt: a page that anybody could have published must not say whose traffic is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import trio

from origin.registries import Registry
from origin.service import Service


@dataclass(frozen=True, slots=True)
class Meant:
    """What a URL at a registry's host means: ``target`` is relative to the instance, as for ``Registry.resource``."""

    registry: Registry
    target: str


class Hosts:
    """The table of hosts (lower case, without port). ``changed`` is called, from the event loop, when it has grown."""

    def __init__(self, registries: Mapping[str, Registry], aliases: Mapping[str, Sequence[str]]) -> None:
        self.changed: Callable[[], None] = lambda: None
        raise NotImplementedError

    def names(self) -> frozenset[str]:
        """All hosts that are stood in for."""
        raise NotImplementedError

    def meaning(self, host: str, target: str) -> Meant | None:
        """What a request for ``target`` (raw, origin form) at one of ``names()`` means; None if no registry has anything there.

        Raises ``ValueError`` for a malformed target.
        """
        raise NotImplementedError

    def add_alias(self, instance: str, host: str) -> None:
        """Stand in for ``host`` too, until the node stops. Raises ``ValueError`` for what is no host name or no instance."""
        raise NotImplementedError

    def doubt(self, host: str) -> str:
        """A warning, ``""`` if there is no cause, about a host that is not stood in for and looks as if it should be. Each only once."""
        raise NotImplementedError

    async def wait_learnt(self) -> None:
        """Wait until every registry's file hosts are known, or its page could not be had this time."""
        raise NotImplementedError

    async def run(self, service: Service, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Recall what was learnt before, learn it (again), go on trying where it failed, and remember it. Runs until cancelled."""
        raise NotImplementedError
