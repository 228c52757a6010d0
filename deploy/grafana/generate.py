"""Writes Grafana's dashboards from the YAML files in this folder: `python -m deploy.grafana.generate [--check]`.

`grafana.yaml` has the settings that all dashboards share; each other file is one dashboard. A panel names its `title`,
`description`, `unit` (a Grafana unit id) and either one `query` or `queries`, a mapping of legends to PromQL; `look` is
`lines` if it is absent, `width` counts columns of Grafana's grid, `exemplars: true` links the graph to traces. A table
names the label of its `rows`, and `units` of its columns.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy.grafana.scope import scoped

FOLDER = Path(__file__).parent / "dashboards"
GRID_COLUMNS = 24


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the dashboards that Grafana reads.")
    parser.add_argument("--check", action="store_true", help="write nothing; say which would be")
    check = parser.parse_args().check
    texts = _texts()
    there = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    differ = sorted(name for name in texts.keys() | there.keys() if texts.get(name) != there.get(name))
    for name in differ:
        print(f"{FOLDER.name}/{name} {'is not as it would be written' if check else 'written'}")
        if not check and name in texts:
            (FOLDER / name).write_text(texts[name])
        elif not check:
            (FOLDER / name).unlink()
    return 1 if check and differ else 0


def _texts() -> dict[str, str]:
    """Returns the JSON of each dashboard by file name."""
    sources = {path.stem: yaml.safe_load(path.read_text()) for path in Path(__file__).parent.glob("*.yaml")}
    shared = sources.pop("grafana")
    made = {name: _dashboard(name, source, shared) for name, source in sources.items()}
    return {
        f"{name}.json": json.dumps(dashboard, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
        for name, dashboard in made.items()
    }


def _dashboard(name: str, source: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    panels = [panel | {"id": number} for number, panel in enumerate(_placed(source["rows"], shared), start=1)]
    named = {"uid": f"pointsman-{name}", "title": source["title"], "description": source["description"]}
    marks = [mark | {"expr": scoped(mark["expr"])} for mark in shared["dashboard"]["annotations"]["list"]]
    variables = _used(shared["dashboard"]["templating"]["list"], panels)
    return {
        **shared["dashboard"], **named, "annotations": {"list": marks}, "panels": panels,
        "templating": {"list": variables},
    }  # fmt: skip


def _used(variables: list[dict[str, Any]], panels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the variables that panels of the dashboard use."""
    named = {name for found in VARIABLE.findall(json.dumps(panels)) for name in found}
    return [variable for variable in variables if variable["name"] in named]


def _placed(rows: Mapping[str, list[dict[str, Any]]], shared: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields headings and panels with their positions in the grid, from left to right and from top to bottom."""
    top = 0
    for title, panels in rows.items():
        yield shared["row"] | {"title": title, "gridPos": {"x": 0, "y": top, "w": GRID_COLUMNS, "h": 1}}
        top, left, height = top + 1, 0, 0
        for panel in panels:
            look = shared["looks"][panel.get("look", "lines")]
            width = panel.get("width", look["width"])
            if left + width > GRID_COLUMNS:
                top, left, height = top + height, 0, 0
            yield _panel(panel, look, shared) | {"gridPos": {"x": left, "y": top, "w": width, "h": look["height"]}}
            left, height = left + width, max(height, look["height"])
        top += height


def _panel(panel: Mapping[str, Any], look: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    made = {**shared["panel"], **deepcopy(look["panel"])}
    made |= {"title": panel["title"], "description": panel["description"]}
    heat = "yAxis" in made["options"]  # counts have no unit, bucket boundaries do
    made["fieldConfig"]["defaults"]["unit"] = "none" if heat else panel["unit"]
    if heat:
        made["options"]["yAxis"]["unit"] = panel["unit"]
    target = shared["target"] | look["target"] | ({"exemplar": True} if panel.get("exemplars") else {})
    queries = panel.get("queries") or {look.get("legend", "__auto"): panel["query"]}
    made["targets"] = [
        target | {"refId": letter, "expr": scoped(expr), "legendFormat": legend}
        for letter, (legend, expr) in zip("ABCDEFGH", queries.items(), strict=False)
    ]
    if made["type"] == "table":
        made["transformations"] = _joined(panel["rows"], list(queries))
        made["fieldConfig"]["overrides"] = [
            {"matcher": {"id": "byName", "options": column}, "properties": [{"id": "unit", "value": unit}]}
            for column, unit in panel["units"].items()
        ]
    return made


def _joined(label: str, columns: list[str]) -> list[dict[str, Any]]:
    """Returns transformations that join the queries' results by a label, and name the columns after the legends."""
    values = {f"Value #{letter}": column for letter, column in zip("ABCDEFGH", columns, strict=False)}
    names = {label: label.capitalize(), **values}
    order = {name: number for number, name in enumerate(names)}
    return [
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": {"Time": True}, "indexByName": order, "renameByName": names}},
    ]


# -- reading what is committed, for the tests that run its queries

VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True, slots=True)
class Target:
    """One PromQL query of a panel; Grafana calls it a target."""

    letter: str
    expr: str
    legend: str
    instant: bool


@dataclass(frozen=True, slots=True)
class Panel:
    dashboard: str
    row: str
    sort: str
    """Grafana's type of the panel: "stat", "timeseries", ..."""
    title: str
    targets: tuple[Target, ...]
    written: Mapping[str, Any]
    """The panel's complete JSON."""

    @property
    def name(self) -> str:
        return f"{self.dashboard} / {self.row} / {self.title}"


def dashboards() -> dict[str, Any]:
    """Returns the parsed dashboards by file name."""
    return {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def panels() -> list[Panel]:
    """Yields the panels of all dashboards in order, without row headings."""
    return [panel for dashboard in dashboards().values() for panel in _panels(dashboard)]


def substituted(expr: str, values: Mapping[str, str]) -> str:
    """Replaces Grafana variables in a query by values; raises KeyError if a variable has no value."""
    return VARIABLE.sub(lambda found: values[found[1] or found[2]], expr)


def _panels(dashboard: Mapping[str, Any]) -> Iterator[Panel]:
    row = ""
    for written in dashboard["panels"]:
        if written["type"] == "row":
            row = written["title"]
            continue
        targets = tuple(
            Target(target["refId"], target["expr"], target.get("legendFormat", ""), target.get("instant", False))
            for target in written["targets"]
        )
        yield Panel(dashboard["title"], row, written["type"], written["title"], targets, written)


if __name__ == "__main__":
    sys.exit(main())
