"""Grafana dashboards as committed: each query uses existing metrics, and each panel describes what it shows."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Set
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from deploy.grafana import generate
from deploy.grafana.generate import VARIABLE, Panel

PROJECT = Path(__file__).parents[2]
GRAFANA = PROJECT / "deploy" / "grafana"

DASHBOARDS = generate.dashboards()
PANELS = generate.panels()
FALLBACKS = [
    (target.legend, target.expr)
    for panel in PANELS
    for target in panel.targets
    if "{{" in target.legend and " or on (" in target.expr
]
"""The legends and expressions that show another series if there are none with the legend's labels."""
EXPRESSIONS = sorted({target.expr for panel in PANELS for target in panel.targets})

VARIABLES = ("datasource", "cluster", "namespace", "path", "task", "adapter")
GRAFANAS = {"__rate_interval": "1m", **dict.fromkeys(VARIABLES, ".*")}
"""Values for Grafana's built-in variables."""

TO_COME: dict[str, set[str]] = {}
"""Metrics or labels that panels use although no service exports them yet."""

_VLLMS = {"model_name", "engine"}

VLLM: dict[str, set[str]] = {
    **{
        f"vllm:{name}": _VLLMS
        for name in (
            "num_requests_running",
            "num_requests_waiting",
            "kv_cache_usage_perc",
            "prefix_cache_hits_total",
            "prefix_cache_queries_total",
            "prompt_tokens_total",
            "generation_tokens_total",
            "num_preemptions_total",
        )
    },
    **{
        f"vllm:{name}_bucket": _VLLMS | {"le"}
        for name in (
            "time_to_first_token_seconds",
            "inter_token_latency_seconds",
            "request_queue_time_seconds",
            "request_prefill_time_seconds",
            "request_decode_time_seconds",
        )
    },
    "vllm:request_success_total": _VLLMS | {"finished_reason"},
    "vllm:lora_requests_info": {"max_lora", "waiting_lora_adapters", "running_lora_adapters"},
}
"""vLLM's metrics that panels use, with the names of vLLM 0.32."""

PROMETHEUS: dict[str, set[str]] = {"up": set(), "scrape_duration_seconds": set(), "scrape_samples_scraped": set()}
"""Metrics that Prometheus adds for each target."""

Samples = Mapping[str, Set[str]]
"""By metric name, the names of its labels."""

GRAFANAS_UNITS = {
    "bytes", "cps", "currencyUSD", "none", "percentunit", "reqps", "s",
    "suffix: cores", "suffix: requests/h", "suffix: tokens/s",
}  # fmt: skip
"""The ids of Grafana's units in use; an unknown id would be shown as a suffix."""


# -- queries


def _recorded() -> set[str]:
    files = (PROJECT / "deploy" / "prometheus" / "rules").glob("*.yml")
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    return {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}


RECORDED = _recorded()


def _parsed(expr: str) -> promql.Expr:
    return promql.parse(generate.substituted(expr, GRAFANAS))


def _unknown(expr: str, samples: Samples) -> list[str]:
    """Returns the unknown metrics in `expr`, and the labels that its metrics do not have. Labels of recording rules are
    not checked.
    """
    unknown: list[str] = []

    def visit(node: promql.Expr) -> bool:
        if isinstance(node, promql.VectorSelector):
            unknown.extend(_strange(node, samples))
        elif isinstance(node, promql.AggregateExpr) and node.modifier:
            names = [name for name in _names(node) if name not in RECORDED]
            known = set[str]().union(*(samples.get(name, set()) for name in names))
            unknown.extend(f"by ({label})" for label in node.modifier.labels if names and label not in known)
        return True

    promql.walk(_parsed(expr), visit)
    return unknown


def _strange(vector: promql.VectorSelector, samples: Samples) -> Iterator[str]:
    if str(vector.name) in RECORDED:
        return
    if vector.name is None or vector.name not in samples:
        yield str(vector.name)
        return
    for matcher in vector.matchers.matchers:
        if matcher.name not in samples[vector.name]:
            yield f"{vector.name}{{{matcher.name}}}"


def _names(expr: promql.Expr) -> list[str]:
    names: list[str] = []

    def visit(node: promql.Expr) -> bool:
        if isinstance(node, promql.VectorSelector):
            names.append(str(node.name))
        return True

    promql.walk(expr, visit)
    return names


@pytest.fixture
def samples(exported: Samples) -> Samples:
    """Returns all metrics, existing and planned, with their labels, including those that Prometheus adds."""
    known = {name: set(labels) for name, labels in (*exported.items(), *VLLM.items(), *PROMETHEUS.items())}
    for name, labels in TO_COME.items():
        known[name] = known.get(name, set()) | labels
    return {name: labels | {"job", "instance", "namespace", "cluster"} for name, labels in known.items()}


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_every_query_parses_and_uses_existing_metrics_and_labels(expr: str, samples: Samples) -> None:
    assert _unknown(expr, samples) == []


@pytest.mark.parametrize(
    ("expr", "found"),
    [
        ("rate(pointsman_request_total[$__rate_interval])", ["pointsman_request_total"]),
        ('pointsman_requests_total{path=~"$path"}', []),
        ('pointsman_requests_total{adapter=~"$adapter"}', ["pointsman_requests_total{adapter}"]),
        ("sum by (colour) (pointsman_requests_total)", ["by (colour)"]),
        ("path:pointsman_requests:rate6m", ["path:pointsman_requests:rate6m"]),
        ("vllm:gpu_cache_usage_perc", ["vllm:gpu_cache_usage_perc"]),
    ],
)
def test_an_unknown_metric_is_found(expr: str, found: list[str], samples: Samples) -> None:
    assert _unknown(expr, samples) == found


@pytest.mark.parametrize("expr", ["sum(rate(up[$__rate_interval])", "sum by path (up)"])
def test_an_invalid_query_is_found(expr: str) -> None:
    with pytest.raises(ValueError, match=r"unclosed|invalid"):
        _parsed(expr)


def test_an_unknown_variable_is_found() -> None:
    with pytest.raises(KeyError, match="tenant"):
        _parsed('up{tenant="$tenant"}')


def test_planned_metrics_are_not_exported_yet_and_are_used(exported: Samples) -> None:
    come = [name for name, labels in TO_COME.items() if labels <= exported.get(name, frozenset())]
    assert not come, "these are exported by now: take them out of TO_COME"
    asked = {name for expr in EXPRESSIONS for name in _names(_parsed(expr))}
    assert (TO_COME.keys() | VLLM.keys() | PROMETHEUS.keys()) <= asked


def test_vllm_exports_the_metrics_that_panels_use() -> None:
    found = list(PROJECT.glob(".venv-engine/lib/python*/site-packages/vllm/v1/metrics/loggers.py"))
    if not found:
        pytest.skip("no engine's environment here: make env")
    source = found[0].read_text()
    names = [re.sub("_(total|bucket)$", "", name) for name in VLLM]
    assert [name for name in names if f'"{name}"' not in source] == []


def test_the_dashboards_variables_use_existing_labels(samples: Samples) -> None:
    for dashboard in DASHBOARDS.values():
        for variable in dashboard["templating"]["list"][1:]:
            asked = re.fullmatch(r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", variable["query"]["query"])
            assert asked
            assert asked[2] == variable["name"]
            assert asked[2] in samples[asked[1]]


# -- appearance


def _id(panel: Panel) -> str:
    return panel.name


def test_the_three_dashboards_have_their_variables() -> None:
    assert {dashboard["title"] for dashboard in DASHBOARDS.values()} == {
        "Hybrid routing",
        "Adapters",
        "Engine and gateway",
    }
    for dashboard in DASHBOARDS.values():
        names = [variable["name"] for variable in dashboard["templating"]["list"]]
        assert names == [name for name in VARIABLES if name in names]
        used = {name for found in VARIABLE.findall(json.dumps(dashboard["panels"])) for name in found if name}
        assert used & {*VARIABLES} == {*names}
        assert all(link["includeVars"] for link in dashboard["links"])
    assert "adapter" not in {v["name"] for v in DASHBOARDS["engine-and-gateway.json"]["templating"]["list"]}
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)


def test_hybrid_routing_has_its_rows() -> None:
    titles = [panel["title"] for panel in DASHBOARDS["hybrid-routing.json"]["panels"] if panel["type"] == "row"]
    assert titles == [
        "Now", "Routing", "Latency by path", "Cost and break-even", "Adapters", "Retrieval", "Resilience", "Saturation",
        "SLO burn",
    ]  # fmt: skip


def test_the_first_dashboard_begins_with_a_table_of_the_paths() -> None:
    first = next(panel for panel in PANELS if panel.dashboard == "Hybrid routing")
    assert (first.sort, first.written["gridPos"]["y"], first.written["gridPos"]["w"]) == ("table", 1, 24)
    columns = ["Share", "Success", "p95", "First token", "$ for 1,000", "Saved an hour"]
    assert [target.legend for target in first.targets] == columns
    _, organized = first.written["transformations"]
    order, names = organized["options"]["indexByName"], organized["options"]["renameByName"]
    assert [names[column] for column in sorted(order, key=order.__getitem__)] == ["Path", *columns]
    units = {o["matcher"]["options"]: o["properties"][0]["value"] for o in first.written["fieldConfig"]["overrides"]}
    assert list(units) == columns  # all columns but the path
    assert set(units.values()) <= GRAFANAS_UNITS
    assert all(target["format"] == "table" for target in first.written["targets"])


@pytest.mark.parametrize("panel", PANELS, ids=_id)
def test_a_panel_has_a_description_a_unit_and_the_selected_data_source(panel: Panel) -> None:
    assert panel.title
    assert panel.written["description"].endswith(".")
    assert panel.written["fieldConfig"]["defaults"]["unit"] in GRAFANAS_UNITS
    if panel.sort == "heatmap":
        assert panel.written["options"]["yAxis"]["unit"] in GRAFANAS_UNITS
    assert panel.targets
    sources = [panel.written["datasource"], *(target["datasource"] for target in panel.written["targets"])]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


@pytest.mark.parametrize(("legend", "expr"), FALLBACKS)
def test_a_line_that_stands_for_missing_series_has_a_name(legend: str, expr: str) -> None:
    """A legend without the series' labels would be empty: " -> "."""
    fallback = expr.partition(" or ")[2]
    by, named = re.findall(r"^on \((\w*)\)", fallback), re.findall(r', "(\w+)", "none", "", ""\)', fallback)
    assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= {*by, *named}


def test_panel_titles_are_unique_within_a_dashboard() -> None:
    assert len({panel.name for panel in PANELS}) == len(PANELS)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_do_not_overlap_and_stay_within_the_grid(name: str) -> None:
    places = {panel["title"]: panel["gridPos"] for panel in DASHBOARDS[name]["panels"]}
    assert [title for title, at in places.items() if at["x"] + at["w"] > 24 or at["h"] < 1] == []
    at = [panel["gridPos"] for panel in DASHBOARDS[name]["panels"]]
    assert [(one, other) for one, other in combinations(at, 2) if _overlap(one, other)] == []


def _overlap(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    across = one["x"] < other["x"] + other["w"] and other["x"] < one["x"] + one["w"]
    return across and one["y"] < other["y"] + other["h"] and other["y"] < one["y"] + one["h"]


def test_overlapping_panels_are_found() -> None:
    here = {"x": 0, "y": 0, "w": 8, "h": 8}
    assert _overlap(here, here | {"x": 7, "y": 7})
    assert not _overlap(here, here | {"x": 8})
    assert not _overlap(here, here | {"y": 8})


# -- annotations


def _annotation() -> str:
    """Returns the query of the annotations that mark changes of adapters; it is the same in all dashboards."""
    (expr,) = {mark["expr"] for dashboard in DASHBOARDS.values() for mark in dashboard["annotations"]["list"]}
    return str(expr)


def test_each_dashboard_marks_the_moves_of_adapters(samples: Samples) -> None:
    assert all(len(dashboard["annotations"]["list"]) == 1 for dashboard in DASHBOARDS.values())
    assert _unknown(_annotation(), samples) == []


def test_a_path_is_marked_when_it_uses_another_adapter_version(tmp_path: Path, say: Callable[..., str]) -> None:
    def series(path: str, adapter: str, instance: str, values: str) -> dict[str, str]:
        labels = f'path="{path}",adapter="{adapter}",instance="{instance}",namespace="one"'
        return {"series": f"pointsman_path_adapter_info{{{labels}}}", "values": values}

    given = [
        *(series("triage", "triage@1", gateway, "1x9 stale") for gateway in "ab"),
        *(series("triage", "triage@2", gateway, "_x10 1x9") for gateway in "ab"),
        series("voice", "voice@1", "a", "1x20"),
        series("new", "new@1", "a", "_x12 1x9"),  # a path that was not there before has not moved
    ]
    expr = generate.substituted(_annotation(), {"cluster": "", "namespace": "one"})
    marked = [{"labels": '{path="triage",adapter="triage@2"}', "value": 2}]
    expected = [(9, []), (10, marked), (12, [])]
    queries = [{"expr": expr, "eval_time": f"{at}m30s", "exp_samples": found} for at, found in expected]
    case = {"interval": "1m", "input_series": given, "promql_expr_test": queries}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": [case]}))
    say("promtool", "test", "rules", str(tmp_path / "tests.yml"))


# -- generation and provisioning


def test_committed_dashboards_equal_the_generated_ones() -> None:
    command = [sys.executable, "-m", "deploy.grafana.generate", "--check"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _provisioned(name: str) -> Any:
    return yaml.safe_load((GRAFANA / "provisioning" / name).read_text())


def test_provisioning_gives_grafana_the_data_source_and_the_dashboards() -> None:
    (source,) = _provisioned("datasources/prometheus.yml")["datasources"]
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "${PROMETHEUS_URL}", True)
    scrapes = yaml.safe_load((PROJECT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == scrapes["global"]["scrape_interval"]
    (provider,) = _provisioned("dashboards/pointsman.yml")["providers"]
    assert (provider["type"], provider["options"]["path"]) == ("file", "${POINTSMAN_DASHBOARDS}")
