"""Read the committed dashboards from their JSON files, for the tests that run their queries."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"

VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True, slots=True)
class Target:
    """One query of a panel."""

    letter: str
    expr: str
    legend: str
    instant: bool


@dataclass(frozen=True, slots=True)
class Panel:
    dashboard: str
    row: str
    sort: str
    """Grafana's panel type: "stat", "timeseries", ..."""
    title: str
    targets: tuple[Target, ...]
    written: Mapping[str, Any]
    """The panel's complete JSON."""

    @property
    def name(self) -> str:
        return f"{self.dashboard} / {self.row} / {self.title}"


def dashboards() -> dict[str, Any]:
    """Return the parsed dashboards by file name."""
    return {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def panels() -> list[Panel]:
    """Yield the panels of all dashboards in order, without row headings."""
    return [panel for dashboard in dashboards().values() for panel in _panels(dashboard)]


def substituted(expr: str, values: Mapping[str, str]) -> str:
    """Replace Grafana variables by values. Raises KeyError if a variable has no value."""
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
