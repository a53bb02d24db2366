"""A real Prometheus on loopback, with a configuration of a test's own, and what promtool says of files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.harness import ROOT, ask, clean_environment, free_port, wait_until

UNPACKED = ROOT / ".tools" / "prometheus" / "usr" / "bin"
"""Where ``make test`` unpacks Debian's package if the machine has none."""

READY_S = 30.0


def program(name: str) -> Path:
    """``prometheus`` or ``promtool``. Raises ``RuntimeError`` with the command that brings them."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), str(UNPACKED)]))
    if found is None:
        raise RuntimeError(f"{name} is missing: `make test` unpacks it into {UNPACKED}")
    return Path(found)


def promtool(*words: str | Path, cwd: Path) -> str:
    """What promtool prints; a complaint of its fails the test."""
    done = subprocess.run([program("promtool"), *words], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Prometheus:
    """One that runs. Its time is the machine's."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector (a scalar too) that an expression gives now, each sample as the API has it. Fails on an error."""
        answer = self._get("/api/v1/query", {"query": expression})
        assert answer["status"] == "success", (expression, answer)
        data = answer["data"]
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        result: list[dict[str, Any]] = data["result"]
        return result

    def value(self, expression: str) -> float:
        """The one number that an expression gives."""
        [sample] = self.query(expression)
        return float(sample["value"][1])

    def names(self) -> frozenset[str]:
        """Every metric that was scraped."""
        return frozenset(self._get("/api/v1/label/__name__/values", {})["data"])

    def healthy(self) -> dict[str, int]:
        """How many targets of each job were scraped well the last time."""
        found: dict[str, int] = {}
        for target in self._get("/api/v1/targets", {"state": "active"})["data"]["activeTargets"]:
            found.setdefault(target["labels"]["job"], 0)
            found[target["labels"]["job"]] += target["health"] == "up"
        return found

    def _get(self, path: str, parameters: Mapping[str, str]) -> Any:
        asked = f"{self.url}{path}?{urllib.parse.urlencode(parameters)}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(asked, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode(errors='replace')}") from None


@contextmanager
def running(config: Path, directory: Path) -> Iterator[Prometheus]:
    """Prometheus with this configuration, its data in ``directory``."""
    port = free_port()
    log = directory / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={directory / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            cwd=directory,
            env=clean_environment(directory / "home"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    prometheus = Prometheus(f"http://127.0.0.1:{port}")

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        try:
            return ask(f"{prometheus.url}/-/ready", timeout_s=2).status == 200
        except OSError:
            return False

    try:
        wait_until(is_ready, READY_S)
        yield prometheus
    finally:
        process.kill()
        process.wait()
