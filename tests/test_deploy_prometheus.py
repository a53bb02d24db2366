"""The scrape file, the alerts and the dashboard in deploy/: by promtool, and against what a real origin and a real edge expose."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.prometheus import promtool

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"

INTERVAL_S = 15

EDGE = 'job="leeward-edge", instance="edge-a:8080"'
ORIGIN = 'job="leeward-origin", instance="origin:9090"'

WELL = {
    f"up{{{EDGE}}}": "1",
    f"up{{{ORIGIN}}}": "1",
    f"leeward_verdicts_revision{{{EDGE}}}": "7",
    f"leeward_verdicts_revision{{{ORIGIN}}}": "7",
    f"leeward_fleet_unacknowledged_edges{{{ORIGIN}}}": "0",
    f'leeward_fleet_edges{{state="live", {ORIGIN}}}': "1",
    f'leeward_fleet_edges{{state="gone", {ORIGIN}}}': "0",
    f"leeward_feed_diverged{{{EDGE}}}": "0",
    f"leeward_origin_connected{{{EDGE}}}": "1",
    f"leeward_origin_connected{{{ORIGIN}}}": "0",
    f"leeward_lease_lapsed{{{EDGE}}}": "0",
    f"leeward_feed_lag_seconds{{{EDGE}}}": "0.2",
    f"leeward_feed_lag_seconds{{{ORIGIN}}}": "0",
    f"leeward_replication_oldest_unresolved_seconds{{{EDGE}}}": "3",
    f"leeward_replication_dead_letters{{{EDGE}}}": "0",
    f'leeward_breaker_open{{registry="npm", kind="page", {ORIGIN}}}': "0",
    f'leeward_store_state{{state="normal", {EDGE}}}': "1",
    f'leeward_store_state{{state="no-admit", {EDGE}}}': "0",
    f"leeward_certificate_expires_seconds{{{EDGE}}}": "0",
    f"leeward_certificate_expires_seconds{{{ORIGIN}}}": str(90 * 86400),
    f"leeward_authority_troubled{{{EDGE}}}": "0",
    f"leeward_rules_invalid{{{EDGE}}}": "0",
    f'leeward_events_total{{kind="digest-mismatch", {ORIGIN}}}': "4",
    f"leeward_access_records_lost_total{{{EDGE}}}": "0",
    f"leeward_loop_stall_seconds_max{{{EDGE}}}": "0.02",
}
"""A fleet in which nothing is wrong: series to value, which stays. Time begins at 0 there."""

TROUBLES: Mapping[str, Mapping[str, str]] = {
    "LeewardDown": {f"up{{{EDGE}}}": "0"},
    "LeewardRecallNotApplied": {f"leeward_verdicts_revision{{{ORIGIN}}}": "8"},
    "LeewardRecallNotAcknowledged": {f"leeward_fleet_unacknowledged_edges{{{ORIGIN}}}": "1"},
    "LeewardFeedDiverged": {f"leeward_feed_diverged{{{EDGE}}}": "1"},
    "LeewardEdgesGone": {f'leeward_fleet_edges{{state="gone", {ORIGIN}}}': "1"},
    "LeewardOriginOutOfReach": {f"leeward_origin_connected{{{EDGE}}}": "0", f"leeward_feed_lag_seconds{{{EDGE}}}": "30"},
    "LeewardLeaseLapsed": {f"leeward_lease_lapsed{{{EDGE}}}": "1"},
    "LeewardEdgeBehind": {f"leeward_feed_lag_seconds{{{EDGE}}}": "61"},
    "LeewardUnresolved": {f"leeward_replication_oldest_unresolved_seconds{{{EDGE}}}": "901"},
    "LeewardDeadLetters": {f"leeward_replication_dead_letters{{{EDGE}}}": "1"},
    "LeewardBreakerOpen": {f'leeward_breaker_open{{registry="npm", kind="page", {ORIGIN}}}': "1"},
    "LeewardStoreTakesNothing": {f'leeward_store_state{{state="no-admit", {EDGE}}}': "1"},
    "LeewardCertificateEnds": {f"leeward_certificate_expires_seconds{{{ORIGIN}}}": str(13 * 86400)},
    "LeewardAuthorityTroubled": {f"leeward_authority_troubled{{{EDGE}}}": "1"},
    "LeewardRulesInvalid": {f"leeward_rules_invalid{{{EDGE}}}": "1"},
    "LeewardWrongBytes": {f'leeward_events_total{{kind="digest-mismatch", {ORIGIN}}}': "4+1"},
    "LeewardAccessesLost": {f"leeward_access_records_lost_total{{{EDGE}}}": "0+1"},
    "LeewardLoopStalled": {f"leeward_loop_stall_seconds_max{{{EDGE}}}": "1.5"},
}
"""What each alert is about: the series that are other than they should be. ``a+b`` grows by ``b`` with each scrape."""


def alerts() -> list[dict[str, Any]]:
    document = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    return found


def queries() -> Iterator[tuple[str, str]]:
    """Each panel's title with each of its queries."""
    for panel in panels():
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


# ---- promtool --------------------------------------------------------------------------------------------------------


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The files as an operator lays them out."""
    for name in ("prometheus.yml", "alerts.yml"):
        shutil.copy(DEPLOY / name, tmp_path)
    (tmp_path / "leeward-origin.pem").touch()
    return tmp_path


def test_prometheus_understands_the_scrape_file_and_the_alerts(there: Path) -> None:
    promtool("check", "config", "prometheus.yml", cwd=there)
    promtool("check", "rules", "--lint-fatal", "alerts.yml", cwd=there)


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for alert in alerts():
        assert alert["labels"]["severity"] in {"critical", "warning"}, alert["alert"]
        assert alert["annotations"].keys() == {"summary", "description"}, alert["alert"]
        assert "$labels.instance" in alert["annotations"]["summary"], alert["alert"]


def test_nothing_is_told_of_a_fleet_that_is_well(there: Path) -> None:
    assert_firing(there, {}, set())


@pytest.mark.parametrize("name", TROUBLES)
def test_an_alert_is_raised_by_what_it_is_about_and_by_nothing_else(name: str, there: Path) -> None:
    assert_firing(there, TROUBLES[name], {name})


def test_every_alert_is_tried() -> None:
    assert [alert["alert"] for alert in alerts()] == list(TROUBLES)


def assert_firing(there: Path, troubles: Mapping[str, str], names: set[str]) -> None:
    """After half an hour of this these alerts fire, and no others."""
    count = 1800 // INTERVAL_S
    series = [
        {"series": name, "values": f"{value}x{count}" if "+" in value else f"{value}+0x{count}"}
        for name, value in {**WELL, **troubles}.items()
    ]
    firing = 'count by (alertname) (ALERTS{alertstate="firing"})'
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(names)]
    tests = {
        "rule_files": ["alerts.yml"],
        "evaluation_interval": f"{INTERVAL_S}s",
        "tests": [
            {
                "interval": f"{INTERVAL_S}s",
                "input_series": series,
                "promql_expr_test": [{"expr": firing, "eval_time": "30m", "exp_samples": expected}],
            }
        ],
    }
    (there / "tests.yml").write_text(yaml.safe_dump(tests))
    promtool("test", "rules", "tests.yml", cwd=there)


# ---- the dashboard ---------------------------------------------------------------------------------------------------


def test_no_two_panels_lie_on_each_other_or_share_a_number() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in panels():
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    numbers = [panel["id"] for panel in panels()]
    assert len(set(numbers)) == len(numbers)


def test_dashboard_and_alerts_name_only_jobs_that_the_scrape_file_has() -> None:
    jobs = {job["job_name"] for job in yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]}
    named = [expression for _, expression in queries()] + [alert["expr"] for alert in alerts()]
    for selector in re.findall(r'job=~?"([^"]*)"', "\n".join(named)):
        assert set(selector.split("|")) <= jobs, selector
