"""Several installations with one Prometheus: the rules and dashboards of each use only its own series."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from deploy.grafana import generate
from deploy.grafana.scope import INSTALLATION, scoped
from deploy.helm.render import template
from tests.deploy.rendering import needs_helm, unscoped

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
NAMESPACES = ("one", "two")

Object = dict[str, Any]


def _rules(namespace: str, cluster: str = "") -> list[Object]:
    """Returns the groups of rules of an installation."""
    needs_helm()
    values = ("--set", "monitoring.rules=true", "--set", f"monitoring.cluster={cluster}")
    text = template("--show-only", "templates/rules.yaml", *values, namespace=namespace)
    groups: list[Object] = yaml.safe_load(text)["spec"]["groups"]
    return groups


def _selectors(expr: str) -> list[dict[str, str]]:
    """Returns the matchers of each selector: an operator and a value by label."""
    found: list[dict[str, str]] = []

    def visit(node: promql.Expr) -> bool:
        if isinstance(node, promql.VectorSelector):
            found.append({m.name: f"{_OPERATORS[str(m.op)]}{m.value}" for m in node.matchers.matchers})
        return True

    promql.walk(promql.parse(expr), visit)
    return found


_OPERATORS = {"MatchOp.Equal": "=", "MatchOp.NotEqual": "!=", "MatchOp.Re": "=~", "MatchOp.NotRe": "!~"}


# -- rules


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_each_rule_selects_and_labels_the_series_of_its_own_installation(namespace: str) -> None:
    rules = [rule for group in _rules(namespace, "eu-1") for rule in group["rules"]]
    own = {"namespace": namespace, "cluster": "eu-1"}
    for rule in rules:
        selectors = _selectors(rule["expr"])
        assert selectors or rule["expr"].startswith("vector("), rule
        assert all({f"={value}" == matchers[label] for label, value in own.items()} == {True} for matchers in selectors)
        assert own.items() <= rule["labels"].items()
    assert len(rules) > 70


def test_without_a_cluster_rules_differ_from_their_files_in_the_namespace_only() -> None:
    written = [group for file in sorted((PROMETHEUS / "rules").glob("*.yml")) for group in _read(file)["groups"]]
    assert unscoped(_rules("one"), "one") == written


@pytest.mark.parametrize("name", ["alerts", "money", "objectives", "requests"])
def test_the_rules_pass_their_unit_tests_beside_another_installations_series(
    name: str, tmp_path: Path, tool: Callable[..., str]
) -> None:
    document = _read(PROMETHEUS / "tests" / f"{name}.yml", yaml.BaseLoader)
    document["rule_files"] = _write_rules(tmp_path)
    document["tests"] = [_doubled(case) for case in document["tests"]]
    _passes(document, tmp_path, tool)


def test_one_installations_gateways_do_not_hide_that_the_others_are_down(
    tmp_path: Path, tool: Callable[..., str]
) -> None:
    up = 'up{{job="pointsman-gateway",namespace="{}",instance="a"}}'
    series = [{"series": up.format("one"), "values": "0x9"}, {"series": up.format("two"), "values": "1x9"}]
    foreign = {"series": 'up{job="pointsman-gateway",instance="b"}', "values": "1x9"}
    (down,) = (
        rule for group in _rules("one") for rule in group["rules"] if rule.get("alert") == "PointsmanGatewayDown"
    )
    labels = {"severity": "page", "job": "pointsman-gateway", "namespace": "one"}
    alert = {"exp_labels": labels, "exp_annotations": down["annotations"]}
    expected = {"alertname": "PointsmanGatewayDown", "eval_time": "5m", "exp_alerts": [alert]}
    case = {"interval": "1m", "input_series": [*series, foreign], "alert_rule_test": [expected]}
    _passes({"rule_files": _write_rules(tmp_path), "evaluation_interval": "1m", "tests": [case]}, tmp_path, tool)


def _read(file: Path, loader: type[yaml.SafeLoader | yaml.BaseLoader] = yaml.SafeLoader) -> Any:
    return yaml.load(file.read_text(), Loader=loader)


def _write_rules(folder: Path) -> list[str]:
    for namespace in NAMESPACES:
        (folder / f"{namespace}.yml").write_text(yaml.safe_dump({"groups": _rules(namespace)}))
    return [f"{namespace}.yml" for namespace in NAMESPACES]


def _passes(document: Object, folder: Path, tool: Callable[..., str]) -> None:
    (folder / "tests.yml").write_text(yaml.safe_dump(document, sort_keys=False))
    command = [tool("promtool"), "test", "rules", "tests.yml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _doubled(case: Object) -> Object:
    """Returns a unit test of rules with its series in both namespaces, and the expected results for both."""
    series = [
        each | {"series": scoped(each["series"], f'namespace="{namespace}"')}
        for each in case["input_series"]
        for namespace in NAMESPACES
    ]
    alerts = [each | {"exp_alerts": list(_alerts(each["exp_alerts"]))} for each in case.get("alert_rule_test", ())]
    values = [_scoped_value(each, namespace) for each in case.get("promql_expr_test", ()) for namespace in NAMESPACES]
    return case | {"input_series": series, "alert_rule_test": alerts, "promql_expr_test": values}


def _alerts(expected: list[Object]) -> Iterator[Object]:
    for alert in expected:
        for namespace in NAMESPACES:
            yield alert | {"exp_labels": alert.get("exp_labels", {}) | {"namespace": namespace}}


def _scoped_value(asked: Object, namespace: str) -> Object:
    own = f'namespace="{namespace}"'
    samples = [
        {"labels": _labelled(sample.get("labels", "{}"), own), "value": float(yaml.safe_load(sample["value"]))}
        for sample in asked["exp_samples"]
    ]
    return asked | {"expr": scoped(asked["expr"], own), "exp_samples": samples}


def _labelled(labels: str, own: str) -> str:
    name, _, rest = labels.partition("{")
    others = rest.rstrip("} ")
    return f"{name}{{{own}{',' if others else ''}{others}}}"


# -- dashboards


def test_each_query_of_a_dashboard_selects_one_installation() -> None:
    chosen = {"__rate_interval": "1m", "datasource": "", "path": ".*", "task": ".*", "adapter": ".*"}
    for panel in generate.panels():
        for target in panel.targets:
            for namespace in NAMESPACES:
                expr = generate.substituted(target.expr, chosen | {"cluster": "eu-1", "namespace": namespace})
                selectors = _selectors(expr)
                assert selectors, panel.name
                assert all(each["namespace"] == f"=~{namespace}" for each in selectors), panel.name
                assert all(each["cluster"] == "=~eu-1" for each in selectors), panel.name


def test_a_dashboard_shows_one_installation_at_a_time() -> None:
    for dashboard in generate.dashboards().values():
        variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
        for name in ("cluster", "namespace"):
            assert (variables[name]["multi"], variables[name]["includeAll"]) == (False, False)
        for name in variables.keys() & {"path", "task", "adapter"}:
            assert INSTALLATION in variables[name]["query"]["query"]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("sum(up)", 'sum(up{a="b"})'),
        ('up{job="up"} and supper', 'up{a="b",job="up"} and supper{a="b"}'),
        ("rate(x:up:y{ }[$__rate_interval])", 'rate(x:up:y{a="b"}[$__rate_interval])'),
        ('x{path=~"$path"} / on (z) y offset 1d', 'x{a="b",path=~"$path"} / on (z) y{a="b"} offset 1d'),
    ],
)
def test_matchers_are_inserted_into_each_selector(query: str, wanted: str) -> None:
    assert scoped(query, 'a="b"') == wanted


# -- scraping


def test_monitors_name_the_jobs_that_the_rules_use_and_the_cluster() -> None:
    needs_helm()
    values = ("--set", "monitoring.podMonitors=true", "--set", "monitoring.cluster=eu-1")
    monitors = list(yaml.safe_load_all(template("--show-only", "templates/monitoring.yaml", *values)))
    labels = [
        {relabeling["targetLabel"]: relabeling["replacement"] for relabeling in endpoint["relabelings"]}
        for monitor in monitors
        for endpoint in monitor["spec"]["podMetricsEndpoints"]
    ]
    services = ("engine", "gateway", "lora-server", "retriever")
    assert labels == [{"job": f"pointsman-{service}", "cluster": "eu-1"} for service in services]


def test_an_autoscaler_asks_for_the_series_of_its_own_installation() -> None:
    needs_helm()
    chosen = "engines[0].name=local,engines[0].keda.enabled=true,adapters.store.accessMode=ReadWriteMany"
    values = ("--set", f"{chosen},monitoring.podMonitors=true,monitoring.cluster=eu-1")
    text = template("--show-only", "templates/lora-server.yaml", *values, namespace="one")
    (scaled,) = (each for each in yaml.safe_load_all(text) if each["kind"] == "ScaledObject")
    selectors = [found for trigger in scaled["spec"]["triggers"] for found in _selectors(trigger["metadata"]["query"])]
    assert len(selectors) == 3
    assert {(each["namespace"], each["cluster"]) for each in selectors} == {("=one", "=eu-1")}
