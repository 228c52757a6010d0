"""Dashboards, rows and panels as value objects, their conversion to Grafana's JSON, and common PromQL expressions."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from grafana_foundation_sdk.builders import bargauge, heatmap, stat, timeseries
from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models import common, prometheus
from grafana_foundation_sdk.models import dashboard as models

PATH = 'path=~"$path"'
TASK = 'task=~"$task"'
PATH_TASK = f"{PATH},{TASK}"
ADAPTER_KINDS = 'kind=~"lora|hybrid"'

EVERY = "[$__rate_interval]"
"""The rate window: long enough for four scrapes at any zoom level."""

OUR_FAULT = 'fault=~"gateway|engine|retriever|state|adapter"'
NOT_THEIRS = 'fault!~"caller|limits"'


def rate(series: str, by: str = "") -> str:
    return f"sum{_by(by)} (rate({series}{EVERY}))"


def quantile(share: float, histogram: str, by: str = "") -> str:
    """Return the quantile of `histogram`, a metric name with optional labels such as `seconds{path="a"}`. It is empty
    without requests."""
    name, brace, labels = histogram.partition("{")
    buckets = f"sum{_by(', '.join(filter(None, [by, 'le'])))} (rate({name}_bucket{brace}{labels}{EVERY}))"
    return f"histogram_quantile({share}, {buckets}) >= 0"


def mean(histogram: str, by: str = "") -> str:
    name, brace, labels = histogram.partition("{")
    labels = brace + labels
    return f"{rate(f'{name}_sum{labels}', by)} / ({rate(f'{name}_count{labels}', by)} > 0)"


def share(part: str, whole: str) -> str:
    """Return `part / whole` for equal label sets: 0 if only the part is missing, empty if the whole is missing."""
    return f"({part} or 0 * {whole}) / ({whole} > 0)"


def adapter_hits(window: str) -> str:
    """Share of requests on paths with an adapter that did not wait for the adapter to load."""
    lent = f"sum by (path) (rate(pointsman_requests_total{{{ADAPTER_KINDS},{PATH}}}{window}))"
    waited = f'sum by (path) (rate(pointsman_phase_duration_seconds_count{{phase="adapter",{PATH}}}{window}))'
    return f"1 - (sum({waited} and on (path) {lent}) or 0 * sum({lent})) / (sum({lent}) > 0)"


def or_none(part: str, whole: str, on: str = "") -> str:
    """Return `part`, or 0 if only `whole` exists: a labelled counter has no series before its first increment. `on`
    lists the labels of `whole`."""
    return f"{part} or on ({on}) 0 * {whole}"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""


ACROSS = 24
"""Number of columns of Grafana's grid."""

HEIGHTS = {"number": 4, "bars": 4, "lines": 8, "stack": 8, "heat": 8}

TAG = "pointsman"

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")

Look = Literal["number", "bars", "lines", "stack", "heat"]


@dataclass(frozen=True, slots=True)
class Query:
    expr: str
    legend: str = "__auto"
    exemplars: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    description: str
    unit: str
    """A Grafana unit id."""
    queries: tuple[Query, ...]
    look: Look = "lines"
    width: int = 8
    """Width in grid columns."""

    def across(self, width: int) -> "Panel":
        return replace(self, width=width)


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A dashboard variable that selects all or some values of a label."""

    name: str
    query: str


@dataclass(frozen=True, slots=True)
class Dashboard:
    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]


VARIABLES = (
    Variable("path", "label_values(pointsman_requests_total, path)"),
    Variable("task", "label_values(pointsman_requests_total, task)"),
    Variable("adapter", "label_values(pointsman_training_usd, adapter)"),
)


def number(title: str, description: str, unit: str, expr: str, width: int = 3) -> Panel:
    """Return a panel that shows only the latest value."""
    return Panel(title, description, unit, (Query(expr),), "number", width)


def lines(title: str, description: str, unit: str, *queries: Query) -> Panel:
    return Panel(title, description, unit, queries)


def stack(title: str, description: str, unit: str, *queries: Query) -> Panel:
    """Return a stacked time series."""
    return Panel(title, description, unit, queries, "stack")


def heat(title: str, description: str, unit: str, expr: str) -> Panel:
    """Return a heat map of a histogram; `expr` must be grouped by `le`."""
    return Panel(title, description, unit, (Query(expr, "{{le}}"),), "heat")


def written(dashboard: Dashboard) -> models.Dashboard:
    """Convert the dashboard to the objects of Grafana's Foundation SDK."""
    builder = (
        dashboards.Dashboard(dashboard.title)
        .uid(dashboard.uid)
        .description(dashboard.description)
        .tags([TAG])
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("30s")
        .link(
            dashboards.DashboardLink("Pointsman").type(models.DashboardLinkType.DASHBOARDS).tags([TAG]).keep_time(True)
        )
        .with_variable(dashboards.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for variable in VARIABLES:
        builder.with_variable(_variable(variable))
    for row in dashboard.rows:
        builder.with_row(dashboards.Row(row.title))
        for panel in row.panels:
            builder.with_panel(_panel(panel))
    made = builder.build()
    for number, made_panel in enumerate(made.panels or (), start=1):
        made_panel.id_val = number
    return made


def _variable(variable: Variable) -> dashboards.QueryVariable:
    return (
        dashboards.QueryVariable(variable.name)
        .label(variable.name.capitalize())
        .datasource(SOURCE)
        .query({"query": variable.query, "refId": "PrometheusVariableQueryEditor-VariableQuery", "qryType": 1})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(models.VariableOption(text=["All"], value=["$__all"]))
    )


def _panel(panel: Panel) -> Any:
    builder = _LOOKS[panel.look]()
    builder.title(panel.title).description(panel.description).datasource(SOURCE)
    if panel.look == "heat":  # counts have no unit, bucket boundaries do
        builder.unit("none").y_axis(heatmap.YAxisConfig().unit(panel.unit))
    else:
        builder.unit(panel.unit)
    builder.span(panel.width).height(HEIGHTS[panel.look])
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        builder.with_target(_query(letter, query, panel.look))
    return builder


def _query(letter: str, query: Query, look: Look) -> Dataquery:
    made = Dataquery().ref_id(letter).datasource(SOURCE).expr(query.expr).legend_format(query.legend)
    made.editor_mode(prometheus.QueryEditorMode.CODE)
    if look in ("number", "bars"):
        return made.instant()
    made.range()
    if look == "heat":
        made.format(prometheus.PromQueryFormat.HEATMAP)
    return made.exemplar(True) if query.exemplars else made


def _lines() -> timeseries.Panel:
    legend = common_builders.VizLegendOptions().show_legend(True).placement(common.LegendPlacement.BOTTOM)
    tooltip = (
        common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
    )
    return timeseries.Panel().axis_soft_min(0).fill_opacity(8).legend(legend).tooltip(tooltip)


def _stack() -> timeseries.Panel:
    stacking = common_builders.StackingConfig().mode(common.StackingMode.NORMAL).group("all")
    return _lines().fill_opacity(60).line_width(0).stacking(stacking)


def _number() -> stat.Panel:
    newest = common_builders.ReduceDataOptions().calcs(["lastNotNull"])
    plain = stat.Panel().color_scheme(_colour()).graph_mode(common.BigValueGraphMode.NONE)
    return plain.reduce_options(newest).no_value("-")


def _bars() -> bargauge.Panel:
    newest = common_builders.ReduceDataOptions().calcs(["lastNotNull"])
    flat = bargauge.Panel().color_scheme(_colour()).orientation(common.VizOrientation.HORIZONTAL)
    return flat.reduce_options(newest).min(0).no_value("-")


def _colour() -> dashboards.FieldColor:
    """Use one fixed color: Grafana's default turns red above 80, whatever the unit."""
    return dashboards.FieldColor().mode(models.FieldColorModeId.FIXED).fixed_color("blue")


def _heat() -> heatmap.Panel:
    return heatmap.Panel().calculate(False)


_LOOKS: dict[Look, Callable[[], Any]] = {
    "number": _number,
    "bars": _bars,
    "lines": _lines,
    "stack": _stack,
    "heat": _heat,
}
