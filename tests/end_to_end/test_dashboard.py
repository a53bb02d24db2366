"""The dashboard and the alerts in deploy/, asked of a real Prometheus that scrapes a real origin and its edges."""

from __future__ import annotations

import contextlib
import json
import math
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from origin.metrics import Metrics
from tests import regions_stage
from tests.harness import PIP, ROOT, Workspace, ask, wait_until
from tests.prometheus import Prometheus, running
from tests.regions_stage import Regions, Registries, install
from tests.wheels import Shelf

pytestmark = pytest.mark.slow

registries = regions_stage.registries

DEPLOY = ROOT / "deploy"

VARIABLES = {"$__rate_interval": "10m", "$edge": ".*", "$origin": ".*"}
"""What Grafana puts in their place."""

SCRAPES_S = 30.0
"""Within which everything that happened has been scraped at least twice."""

PANELS: list[dict[str, Any]] = json.loads((DEPLOY / "grafana.json").read_text())["panels"]

QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel.get("targets", ())]

NEVER = {"Connections and tunnels", "Brought and repaired"}
"""Panels of which a part shows a zero: nothing is tunnelled here, and comparisons find nothing to repair."""

ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]


@pytest.fixture(scope="module")
def prometheus(registries: Registries, shelf: Shelf, scratch: Path) -> Iterator[Prometheus]:
    """One that has scraped three regions in which all sorts of things happened."""
    with tempfile.TemporaryDirectory(prefix="watched-", dir=scratch) as name:
        directory = Path(name)
        with Regions(directory / "data", registries) as regions:
            regions.start()
            with running(configured(directory, regions), directory) as found:
                wait_until(lambda: found.healthy() == {"leeward-edge": 3, "leeward-origin": 1}, SCRAPES_S, 0.2)
                happen(regions, registries, shelf, directory)
                with contextlib.suppress(TimeoutError):
                    wait_until(lambda: nothing_missing(found), SCRAPES_S, 0.5)
                yield found


def configured(directory: Path, regions: Regions) -> Path:
    """The scrape file with the addresses of here, and a second in place of a quarter of a minute."""
    document = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    document["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    document["rule_files"] = [str(DEPLOY / "alerts.yml")]
    edge, origin = document["scrape_configs"]
    edge["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in regions.ports[1:]]}]
    origin["static_configs"] = [{"targets": [f"127.0.0.1:{regions.ports[0]}"]}]
    # As the scrape file says: the origin's own certificate, checked as any other.
    origin["tls_config"]["ca_file"] = str(regions.directory / "origin" / "tls" / "cert.pem")
    path = directory / "prometheus.yml"
    path.write_text(yaml.safe_dump(document))
    return path


def happen(regions: Regions, registries: Registries, shelf: Shelf, directory: Path) -> None:
    """Installs, hits and misses, an absence, wrong bytes, an upstream that fails."""
    for region in "ab":
        install(regions.url(region), directory / region)
    ask(f"{regions.url('a')}/pypi/simple/there-is-no-such-project/")
    bent = shelf.wheel("bent", "1.0", size=50_000)
    registries.pypi.publish(bent)
    registries.pypi.misbehave("*/bent-1.0*", flip=-1)
    try:
        failed = PIP.install(Workspace(directory / "bent"), f"{regions.url('a')}/pypi/simple/", ["bent"], options=["--retries=0"])
    finally:
        registries.pypi.behave()
    assert not failed.succeeded
    registries.pypi.refuse()
    try:
        assert ask(f"{regions.url('a')}/pypi/simple/never-asked-for/").status == 503
    finally:
        registries.pypi.listen_again()


def nothing_missing(prometheus: Prometheus) -> bool:
    """Whether all that happened has been scraped twice, so that there are rates."""
    return not missing(prometheus) - NEVER


def missing(prometheus: Prometheus) -> set[str]:
    """The panels with a query that gives nothing, or nothing but the zero that stands in for it."""
    return {title for title, expression in QUERIES if not numbers(prometheus, expression.removesuffix(" or vector(0)"))}


def numbers(prometheus: Prometheus, expression: str) -> list[float]:
    """What an expression gives, without what is not a number (a ratio of nothing to nothing)."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    found = [float(sample["value"][1]) for sample in prometheus.query(expression)]
    return [number for number in found if not math.isnan(number)]


def test_every_query_of_the_dashboard_shows_something(prometheus: Prometheus) -> None:
    assert missing(prometheus) <= NEVER
    assert [(title, expression) for title, expression in QUERIES if not numbers(prometheus, expression)] == []


def test_every_metric_that_is_asked_for_is_one_that_nodes_have(prometheus: Prometheus) -> None:
    asked = " ".join([expression for _, expression in QUERIES] + [alert["expr"] for alert in ALERTS])
    declared = set(re.findall(r"^# TYPE (\S+)", Metrics().text().decode(), re.MULTILINE))
    assert {name.removesuffix("_bucket") for name in re.findall(r"\bleeward_\w+", asked)} <= declared
    # And what is scraped are those: the nodes that run are of this tree.
    assert {re.sub(r"_(created|bucket|sum|count)$", "", name) for name in prometheus.names() if name.startswith("leeward_")} <= {
        name.removesuffix("_total") for name in declared
    } | declared


def test_every_alert_is_about_series_that_there_are(prometheus: Prometheus) -> None:
    absent = []
    for alert in ALERTS:
        selectors = re.findall(r'\b((?:leeward_\w+|up)(?:\{(?:[^{}"]|"[^"]*")*\})?)', alert["expr"])
        assert selectors
        absent += [(alert["alert"], selector) for selector in selectors if not prometheus.query(selector)]
        # And the whole of it can be asked.
        prometheus.query(alert["expr"])
    assert absent == []


def test_the_panels_count_what_happened(prometheus: Prometheus) -> None:
    assert prometheus.value('sum(up{job=~"leeward-edge|leeward-origin"})') == 4
    assert prometheus.value('sum(leeward_fleet_edges{state="live"})') == 3
    # Only the origin asks registries.
    assert prometheus.value('sum(leeward_upstream_requests_total{job="leeward-edge",source="registry"}) or vector(0)') == 0
    assert prometheus.value('sum(leeward_upstream_requests_total{job="leeward-origin",source="registry"})') > 0
    assert prometheus.value("max(leeward_feed_serial) - min(leeward_feed_serial)") == 0


def test_a_metric_that_neither_dashboard_nor_alert_shows_is_not_forgotten(prometheus: Prometheus) -> None:
    shown = " ".join([expression for _, expression in QUERIES] + [alert["expr"] for alert in ALERTS])
    ours = {name for name in prometheus.names() if name.startswith("leeward_") and not name.endswith("_created")}
    silent = {name for name in ours if not re.search(rf"\b{name}\b", shown)}
    assert silent <= NOT_SHOWN


NOT_SHOWN = {
    "leeward_upstream_received_bytes_total",  # leeward_bytes_total{direction="in"} is the same
    "leeward_store_held_blobs",
    "leeward_authority_intermediate_ends_seconds",  # renewed by itself; leeward_authority_troubled says if not
    "leeward_tls_handshakes_total",
    "leeward_tunnels_total",
    "leeward_tunnel_bytes_total",
    "leeward_request_seconds_sum",
    "leeward_request_seconds_count",
}
"""What is there for whoever looks closer."""
