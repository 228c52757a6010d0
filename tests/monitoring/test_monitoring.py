"""Monitoring: no dashboard panel and no rule is empty, and a fault notifies the right receivers."""

import json
import math
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.monitoring.expected_empty import EMPTY, reason
from tests.monitoring.load import KINDS
from tests.monitoring.monitored_run import MonitoredRun, Series, Shown
from tests.monitoring.watch import PROMTOOL, program

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".venv-dashboards" / "bin" / "python"
PICTURES = ROOT / "build" / "monitoring"
FIRST_LOOKS = ("dashboard-adapters", "dashboard-canary", "dashboard-engine-and-gateway", "dashboard-hybrid-routing")
"""The pictures of docs/howto/grafana.md."""


def _is_empty(series: Series) -> bool:
    return not any(not math.isnan(value) for one in series for _, value in one["points"])


def _empty(monitored_run: MonitoredRun) -> dict[str, str]:
    """Returns the queries of panels and rules that have no result: the PromQL, by name."""
    queries = {
        f"{shown.panel.name} [{target.letter}]": target.expr
        for shown in monitored_run.panels
        for target in shown.panel.targets
        if _is_empty(shown.series[target.letter])
    }
    rules = {selector: selector for selector, series in monitored_run.recorded.items() if _is_empty(series)}
    return queries | rules


def test_all_four_kinds_of_path_answered_and_a_limit_was_reached(monitored_run: MonitoredRun) -> None:
    assert set(monitored_run.kinds) == KINDS
    assert min(monitored_run.kinds.values()) >= 2
    assert monitored_run.statuses[429] >= 1


def test_no_panel_and_no_rule_is_empty_without_a_reason(monitored_run: MonitoredRun) -> None:
    assert {name: expr for name, expr in _empty(monitored_run).items() if not reason(expr)} == {}


def test_every_listed_reason_is_needed(monitored_run: MonitoredRun) -> None:
    needed = {reason(expr) for expr in _empty(monitored_run).values()}
    assert sorted(EMPTY.keys() - needed) == []


def test_every_rule_is_evaluated_without_an_error(monitored_run: MonitoredRun) -> None:
    assert {rule["name"]: rule["lastError"] for rule in monitored_run.rules if rule["health"] != "ok"} == {}
    assert {rule["type"] for rule in monitored_run.rules} == {"recording", "alerting"}


@pytest.mark.parametrize("service", ["gateway", "retriever", "lora-server"])
def test_promtool_accepts_the_metrics_of_busy_services(monitored_run: MonitoredRun, service: str) -> None:
    promtool = program(PROMTOOL)
    assert promtool, "promtool is not installed: make monitoring-tools"
    metrics = monitored_run.exported[service]
    assert metrics.count("# TYPE pointsman_") >= 5
    assert metrics.count("# TYPE gen_ai_") >= 1
    checked = subprocess.run([promtool, "check", "metrics"], input=metrics, capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "alert",
    [
        {"alertname": "PointsmanTargetDown", "job": "pointsman-engine"},
        {"alertname": "PointsmanBreakerOpen", "engine": "local"},
    ],
    ids=lambda alert: alert["alertname"],
)
def test_the_ticket_receiver_is_notified_after_the_engines_death_only(
    monitored_run: MonitoredRun, alert: dict[str, str]
) -> None:
    expected = (alert | {"receiver": "ticket"}).items()
    assert not any(expected <= notification.items() for notification in monitored_run.notified_before)
    assert any(expected <= notification.items() for notification in monitored_run.notifications)


def test_an_open_breaker_is_visible_on_its_panel(monitored_run: MonitoredRun) -> None:
    (shown,) = [shown for shown in monitored_run.panels if shown.panel.name == "Hybrid routing / Resilience / Breakers"]
    values = [value for series in shown.series["A"] for _, value in series["points"]]
    assert (values[0], max(values)) == (0.0, 1.0)


def test_every_line_has_a_name(monitored_run: MonitoredRun) -> None:
    unnamed = [
        f"{shown.panel.name}: {target.legend}"
        for shown in monitored_run.panels
        for target in shown.panel.targets
        for series in shown.series[target.letter]
        if not all(series["metric"].get(label) for label in re.findall(r"\{\{(\w+)\}\}", target.legend))
    ]
    assert unnamed == []


def test_every_panel_is_drawn(monitored_run: MonitoredRun) -> None:
    assert TOOLS.exists(), "what draws is not installed: make test-monitoring"
    PICTURES.mkdir(parents=True, exist_ok=True)
    data = PICTURES / "panels.json"
    data.write_text(json.dumps([_drawable(shown) for shown in monitored_run.panels]))
    for old in PICTURES.rglob("*.png"):
        old.unlink()
    command = [str(TOOLS), "-m", "tests.monitoring.draw", str(data), str(PICTURES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    drawn = {picture.relative_to(PICTURES) for picture in PICTURES.rglob("*.png")}
    assert len(drawn) == len(monitored_run.panels) + len({shown.panel.dashboard for shown in monitored_run.panels})


def test_the_pictures_of_the_documentation_are_drawn(monitored_run: MonitoredRun, tmp_path: Path) -> None:
    data = tmp_path / "panels.json"
    data.write_text(json.dumps([_drawable(shown) for shown in monitored_run.panels]))
    command = [str(TOOLS), "-m", "tests.monitoring.draw", str(data), str(tmp_path), str(tmp_path), *FIRST_LOOKS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(picture.stem for picture in tmp_path.glob("*.png")) == sorted(FIRST_LOOKS)


def _drawable(shown: Shown) -> dict[str, Any]:
    panel = shown.panel
    series = [
        {"name": _name(target.legend, one["metric"]), "points": [p for p in one["points"] if math.isfinite(p[1])]}
        for target in panel.targets
        for one in shown.series[target.letter]
    ]
    written = panel.written
    return {
        "dashboard": panel.dashboard,
        "row": panel.row,
        "title": panel.title,
        "sort": panel.sort,
        "unit": written["fieldConfig"]["defaults"]["unit"],
        "at": written["gridPos"],
        "stacked": "stacking" in written["fieldConfig"]["defaults"].get("custom", {}),
        "series": [one for one in series if one["points"]],
    }


def _name(legend: str, labels: dict[str, str]) -> str:
    """Returns the name that Grafana shows for a series."""
    if legend == "__auto":
        return ", ".join(labels.values())
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend)
