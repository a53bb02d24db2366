"""Verdaccio's own battery before an edge: what it publishes beside the edge and reads through it, and an upstream of its own.

The yarn plug-ins that ``ping`` and ``audit`` load for yarn 4 come from the public registry, so those two are not asked of it here. pnpm has
no ``ping``.
"""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import npm_stage, verdaccio_door, verdaccio_e2e
from tests.fakes import FakeNpm
from tests.harness import free_port
from tests.npm_stage import start_mirror

npm = npm_stage.npm

READ = {
    "npm": ["ping", "publish", "install", "ci", "info", "dist-tags", "audit", "search", "scenario:tarballs"],
    "pnpm": ["publish", "install", "info"],
    "yarn-modern": ["publish", "install", "ci", "info"],
}
"""By manager, which of its tests are run: those that install, and those that read what there is to install."""


@pytest.mark.slow
@pytest.mark.parametrize("manager", READ)
def test_what_is_published_upstream_is_read_through_the_edge(npm: FakeNpm, scratch: Path, tmp_path: Path, manager: str) -> None:
    with start_mirror(npm, scratch) as edge:
        published = tmp_path / "published"
        published.mkdir()

        def written(name: str) -> None:
            edge.command("refresh", f"pkg:npm/{name}")

        with verdaccio_door.opened(edge.index_url, npm, published, written) as url:
            report = verdaccio_e2e.run(url, tmp_path / "run", tests=READ[manager], managers=[manager], timeout_s=240)
    assert report.verdicts() == {f"{manager} > {test}": "passed" for test in READ[manager]}, report.failed


class _Absent(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    do_HEAD = do_GET  # noqa: N815 -- the names http.server looks for

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- as http.server has it
        pass


@contextlib.contextmanager
def standing_in(port: int) -> Iterator[None]:
    """Something that answers at the port until the battery's own upstream does: an edge would take silence for an outage."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), _Absent)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["scenario:reserved-names", "scenario:uplink-failure"])
def test_the_battery_s_own_upstream_is_read_and_missed(npm: FakeNpm, scratch: Path, tmp_path: Path, scenario: str) -> None:
    port = free_port()
    with contextlib.ExitStack() as stack:
        with standing_in(port):
            # The battery's own limit for a registry that is slow.
            top = '[upstream]\nanswer_timeout = "3s"\n'
            edge = stack.enter_context(start_mirror(npm, scratch, upstream=f"http://localhost:{port}/", top=top))
            edge.wait_learnt()
        url = edge.index_url.replace("127.0.0.1", "localhost")
        report = verdaccio_e2e.run(url, tmp_path, tests=[scenario], managers=["npm"], uplink_port=port, timeout_s=100)
    assert report.verdicts() == {f"npm > {scenario}": "passed"}, report.output
