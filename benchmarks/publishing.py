"""``origin serve``, and in its process somebody who binds one new file after the other.

``python -m benchmarks.publishing RATE [ARGUMENTS OF origin serve]``.

The origin is the real one, with everything that it does when a file is bound: the row, the chained line, the commit, the news. Only what
comes before, fetching and checking the bytes, is left out, since it would take the core whose time is measured. Each line's ``at`` is when
``bind`` was called, so that what readers of the feed measure has the commit in it.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

import trio

from origin import __main__, serve
from origin.app import Node, open_node
from origin.catalog import Binding, Catalog
from origin.model import Digest, File

PROJECTS = 500


async def publish(catalog: Catalog, rate: float) -> None:
    """Bind ``rate`` files a second, whatever each takes, until cancelled."""
    began = trio.current_time()
    number = 0
    async with trio.open_nursery() as nursery:
        while True:
            number += 1
            await trio.sleep_until(began + number / rate)
            nursery.start_soon(_bind, catalog, number)


async def _bind(catalog: Catalog, number: int) -> None:
    project, version = f"project-{number % PROJECTS}", f"1.{number}"
    digest = hashlib.sha256(version.encode()).hexdigest()
    filename = f"{project.replace('-', '_')}-{version}-py3-none-any.whl"
    file = File("pypi", project, version, filename, f"packages/{digest[:2]}/{digest[2:4]}/{digest[4:]}/{filename}")
    now = time.time()
    await catalog.bind(
        Binding(
            file,
            Digest("sha256", digest),
            100_000 + number,
            now,
            media_type="application/octet-stream",
            purl=f"pkg:pypi/{project}@{version}",
            published=now - 86400,
            source="registry",
        )
    )


def main() -> int:
    rate = float(sys.argv[1])

    @asynccontextmanager
    async def opened(*arguments: Any, **options: Any) -> AsyncIterator[Node]:
        async with open_node(*arguments, **options) as node, trio.open_nursery() as nursery:
            nursery.start_soon(publish, node.catalog, rate)
            yield node
            nursery.cancel_scope.cancel()

    with mock.patch.object(serve, "open_node", opened):
        return __main__.main(["serve", *sys.argv[2:]])


if __name__ == "__main__":
    sys.exit(main())
