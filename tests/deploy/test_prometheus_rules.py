"""Prometheus's rules use existing metrics, and each alert has a test and a runbook entry."""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import promql_parser as promql
import pytest
import yaml
from pointsman_gateway.metering.prometheus import FIRST_TOKEN

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "deploy" / "prometheus"
RULE_FILES = sorted((FOLDER / "rules").glob("*.yml"))
TEST_FILES = sorted((FOLDER / "tests").glob("*.yml"))
RUNBOOK = PROJECT / "docs" / "alerts"

Say = Callable[..., str]

TO_COME: dict[str, set[str]] = {}
"""Metrics or labels that rules use although no service exports them yet."""

VLLM = {
    "vllm:num_requests_waiting": {"model_name", "engine"},
    "vllm:kv_cache_usage_perc": {"model_name", "engine"},
    "vllm:num_requests_running": {"model_name", "engine"},
    "vllm:num_preemptions_total": {"model_name", "engine"},
    "vllm:prompt_tokens_total": {"model_name", "engine"},
}
"""vLLM's metrics that rules and runbook use, with the names of vLLM 0.32."""

FROM_PROMETHEUS = {"job", "instance"}

Samples = Mapping[str, Set[str]]
"""By metric name, the names of its labels."""

Node = TypeVar("Node", bound=promql.Expr)


@dataclass(frozen=True)
class Rule:
    expr: str
    record: str
    alert: str
    labels: dict[str, str]
    annotations: dict[str, str]
    file: str

    @property
    def name(self) -> str:
        return self.record or self.alert


def _rules(text: str, file: str) -> Iterator[Rule]:
    for group in yaml.safe_load(text)["groups"]:
        for rule in group["rules"]:
            yield Rule(
                rule["expr"],
                rule.get("record", ""),
                rule.get("alert", ""),
                rule.get("labels", {}),
                rule.get("annotations", {}),
                file,
            )


RULES = [rule for path in RULE_FILES for rule in _rules(path.read_text(), path.name)]
ALERTS = [rule for rule in RULES if rule.alert]
RECORDED = {rule.record for rule in RULES if rule.record}
CASES: list[dict[str, Any]] = [case for path in TEST_FILES for case in yaml.safe_load(path.read_text())["tests"]]


# -- what they ask for


def _found(kind: type[Node], expr: promql.Expr) -> list[Node]:
    """Returns all parts of `expr` of this kind."""
    found: list[Node] = []

    def visit(node: promql.Expr) -> bool:
        if isinstance(node, kind):
            found.append(node)
        return True

    promql.walk(expr, visit)
    return found


def _unknown(expr: str, samples: Samples) -> list[str]:
    """Returns the unknown metrics in `expr`, and the labels that its metrics do not have. Labels of recording rules are
    not checked.
    """
    parsed, unknown = promql.parse(expr), []
    for vector in _found(promql.VectorSelector, parsed):
        name = str(vector.name)
        if name in RECORDED:
            continue
        if name not in samples:
            unknown.append(name)
            continue
        asked = [matcher.name for matcher in vector.matchers.matchers]
        unknown += [f"{name}{{{label}}}" for label in asked if label not in samples[name]]
    for aggregate in _found(promql.AggregateExpr, parsed):
        names = [str(vector.name) for vector in _found(promql.VectorSelector, aggregate)]
        if aggregate.modifier and RECORDED.isdisjoint(names):
            known = set[str]().union(*(samples.get(name, ()) for name in names))
            by = aggregate.modifier.labels
            unknown += [f"by ({label}) of {', '.join(names)}" for label in by if label not in known]
    return unknown


@pytest.fixture
def samples(exported: Samples) -> Samples:
    """Returns all metrics, existing and planned, with their labels, including those that Prometheus adds."""
    known = {name: set(labels) for name, labels in exported.items()} | {"up": set()} | VLLM
    for name, labels in TO_COME.items():
        known[name] = known.get(name, set()) | labels
    return {name: labels | FROM_PROMETHEUS for name, labels in known.items()}


def test_every_rule_uses_existing_metrics_and_labels(samples: Samples) -> None:
    unknown = {f"{rule.file}: {rule.name}": found for rule in RULES if (found := _unknown(rule.expr, samples))}
    assert not unknown


def test_the_series_in_rule_tests_are_exported_by_the_services(samples: Samples) -> None:
    unknown = {
        series["series"]: found
        for case in CASES
        for series in case["input_series"]
        if (found := _unknown(series["series"], samples))
    }
    assert not unknown


@pytest.mark.parametrize(
    ("expr", "found"),
    [
        ("rate(pointsman_request_total[5m])", ["pointsman_request_total"]),
        ("pointsman_requests_total", []),
        (
            "rate(pointsman_lora_adapter_loads_total{outcome='failed'}[5m])",
            ["pointsman_lora_adapter_loads_total{outcome}"],
        ),
        ("sum by (model) (pointsman_redis_up)", ["by (model) of pointsman_redis_up"]),
        ("pointsman:fallbacks:share6m", ["pointsman:fallbacks:share6m"]),
        ("vllm:gpu_cache_usage_perc > 0.9", ["vllm:gpu_cache_usage_perc"]),
    ],
)
def test_an_unknown_metric_is_found(expr: str, found: list[str], samples: Samples) -> None:
    assert _unknown(expr, samples) == found


def test_planned_metrics_are_not_exported_yet(exported: Samples) -> None:
    come = [name for name, labels in TO_COME.items() if labels <= exported.get(name, frozenset())]
    assert not come, "these are exported by now: take them out of TO_COME"


def test_vllm_exports_the_metrics_that_rules_use() -> None:
    found = list(PROJECT.glob(".venv-engine/lib/python*/site-packages/vllm/v1/metrics/loggers.py"))
    if not found:
        pytest.skip("no engine's environment here: make env")
    source = found[0].read_text()
    assert [name for name in VLLM if f'"{name.removesuffix("_total")}"' not in source] == []


def test_the_objective_for_first_tokens_is_a_bucket_bound() -> None:
    asked = {edge for rule in RULES for edge in re.findall(r'le="([^"]+)"', rule.expr)}
    assert asked
    assert asked <= {str(float(edge)) for edge in FIRST_TOKEN}


@pytest.mark.parametrize("severity", ["page", "ticket"])
@pytest.mark.parametrize("slo", ["availability", "latency"])
def test_burn_rates_and_windows_are_those_in_the_runbook(slo: str, severity: str) -> None:
    alert = next(alert for alert in ALERTS if alert.alert == f"Pointsman{slo.title()}{severity.title()}")
    budget = re.escape(f'slo:pointsman_budget:ratio{{slo="{slo}"}}')
    burns = re.findall(rf'slo:pointsman_errors:ratio(\w+){{slo="{slo}"}} > ([\d.]+) \* {budget}', alert.expr)
    page = (RUNBOOK / "index.md").read_text()
    rows = re.findall(rf"(?m)^\| {severity} \| ([\d.]+) \| (\w+) (\w+) and (\w+) (\w+) \|", page)
    seen = [(number + unit[0], rate) for rate, *windows in rows for number, unit in (windows[:2], windows[2:])]
    assert len(seen) == 4
    assert burns == seen


def test_rates_are_not_clamped_to_a_minimum() -> None:
    assert [rule.name for rule in RULES if "clamp" in rule.expr] == []


# -- what is tested and told


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.alert)
def test_each_alert_has_a_firing_and_a_silent_test_case(alert: Rule) -> None:
    tried = [t for case in CASES for t in case.get("alert_rule_test", ()) if t["alertname"] == alert.alert]
    assert {bool(t["exp_alerts"]) for t in tried} == {True, False}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.alert)
def test_each_alert_has_a_summary_a_receiver_and_a_runbook_link(alert: Rule) -> None:
    assert alert.labels["severity"] in ("page", "ticket")
    assert {"summary", "description", "runbook_url"} == set(alert.annotations)
    assert all(alert.annotations.values())
    assert alert.annotations["runbook_url"] == f"docs/alerts/{alert.alert}.md"


def test_the_runbook_has_a_page_for_each_alert_and_no_others() -> None:
    names = sorted({alert.alert for alert in ALERTS})
    assert sorted(page.stem for page in RUNBOOK.glob("*.md")) == [*names, "index"]
    assert all((RUNBOOK / f"{name}.md").read_text().startswith(f"# {name}\n") for name in names)
    linked = re.findall(r"\]\((Pointsman\w+)\.md\)", (RUNBOOK / "index.md").read_text())
    assert sorted(set(linked)) == names


def test_the_runbook_names_existing_metrics(samples: Samples) -> None:
    text = re.sub(r"(?s)```.*?```", "", "\n".join(page.read_text() for page in RUNBOOK.glob("*.md")))
    code = " ".join(re.findall(r"`([^`]+)`", text))
    named = set(re.findall(r"\b(?:\w+:)*pointsman_\w+(?::\w+)?|\bvllm:\w+|\bpointsman:\w+:\w+", code))
    known = samples.keys() | RECORDED | {name.removesuffix("_bucket") for name in samples}
    assert named
    assert sorted(named - known) == []


def test_every_recorded_value_is_tested() -> None:
    tried = [t["expr"] for case in CASES for t in case.get("promql_expr_test", ()) if t["exp_samples"]]
    assert [name for name in sorted(RECORDED) if not any(re.search(rf"{name}\b", expr) for expr in tried)] == []


# -- what Prometheus itself says of them


def test_promtool_accepts_the_rules_and_the_configuration(say: Say) -> None:
    say("promtool", "check", "rules", "--lint=all", "--lint-fatal", *map(str, RULE_FILES))
    say("promtool", "check", "config", "--lint=all", "--lint-fatal", str(FOLDER / "prometheus.yml"))


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.stem)
def test_the_rules_pass_their_unit_tests(path: Path, say: Say) -> None:
    say("promtool", "test", "rules", str(path))


@pytest.mark.parametrize("expr", ["vector(1) > 1", "vector(1)"], ids=["silent", "never ceasing"])
def test_an_alert_that_never_fires_or_never_resolves_fails_its_tests(expr: str, tmp_path: Path, say: Say) -> None:
    rules = yaml.safe_load((FOLDER / "rules" / "alerts.yml").read_text())
    spoilt = [rule for group in rules["groups"] for rule in group["rules"]]
    for rule in spoilt:
        rule["expr"] = expr
    shutil.copytree(FOLDER, tmp_path / "prometheus")
    (tmp_path / "prometheus" / "rules" / "alerts.yml").write_text(yaml.safe_dump(rules))
    tests = [str(tmp_path / "prometheus" / "tests" / f"{name}.yml") for name in ("alerts", "alerts_days")]
    output = say("promtool", "test", "rules", *tests, status=1)
    assert {rule["alert"] for rule in spoilt} == set(re.findall(r"alertname: (\w+)", output))
