"""Draws panels with matplotlib in Grafana's layout: `python -m tests.monitoring.draw PANELS.json FOLDER`.

It writes one picture of each panel, in a folder for its dashboard, and one picture of each dashboard. With a second
folder and names of pictures in `FIRST_LOOKS`, it writes those there instead.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt  # the backend must be selected before pyplot is imported
from matplotlib.ticker import EngFormatter

ACROSS = 24
"""Number of columns of Grafana's grid."""
COLUMN, LINE = 0.85, 0.42
"""Width of one column and height of one line of the grid, in inches."""
MAX_NAMES = 12
"""Maximum entries of a legend."""
PLOT = 0.72
"""Share of a panel's width for the plot; the rest is for the legend."""
UNITS = {"none": "", "percentunit": "", "currencyUSD": "", "bytes": "", "reqps": "requests/s", "cps": "1/s"}
"""By Grafana's name of a unit, its text in a title; empty if the axis has the symbol or there is none."""

FIRST_LOOKS = {
    "dashboard-hybrid-routing": (
        "Hybrid routing/Routing/Share by path",
        "Hybrid routing/Latency by path/First token by path, p95",
        "Hybrid routing/Cost and break-even/Dollars for 1,000 requests",
        "Hybrid routing/Resilience/Outcomes by fault",
        "Hybrid routing/Resilience/Breakers",
        "Hybrid routing/SLO burn/Burn rate: availability",
    ),
    "dashboard-adapters": (
        "Adapters/Engines/Resident",
        "Adapters/Engines/Loads",
        "Adapters/Engines/Load time",
        "Adapters/Versions/Versions by state",
        "Adapters/Engines/Restarts and probes",
        "Adapters/Use/Requests",
    ),
    "dashboard-canary": (
        "Adapters/Versions/Canaries",
        "Hybrid routing/Routing/Validators",
        "Hybrid routing/Routing/Escalations",
    ),
    "dashboard-engine-and-gateway": (
        "Engine and gateway/Engine/Queue",
        "Engine and gateway/Engine/KV cache",
        "Engine and gateway/Engine/First token, p95",
        "Engine and gateway/Between gateway and engine/Attempts",
        "Engine and gateway/Between gateway and engine/Ready and broken",
        "Engine and gateway/Gateway/Outcomes",
    ),
}
"""By picture: the panels (dashboard/row/title) that show first whether something is wrong, three beside each other."""
BESIDE = 3


def main() -> None:
    panels = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(sys.argv[2])
    monitored_run = _evening(panels)
    if sys.argv[3:]:
        by_place = {f"{panel['dashboard']}/{panel['row']}/{panel['title']}": panel for panel in panels}
        for name in sys.argv[4:]:
            places = FIRST_LOOKS[name]
            _draw_beside([by_place[place] for place in places], monitored_run, Path(sys.argv[3]) / f"{name}.png")
        return
    for title in dict.fromkeys(panel["dashboard"] for panel in panels):
        own = [panel for panel in panels if panel["dashboard"] == title]
        _draw_dashboard(title, own, monitored_run, folder / f"{_slug(title)}.png")
        (folder / _slug(title)).mkdir(exist_ok=True)
        for number, panel in enumerate(own, start=1):
            name = f"{number:02}-{_slug(panel['row'])}-{_slug(panel['title'])}.png"
            _draw_alone(panel, monitored_run, folder / _slug(title) / name)


def _evening(panels: list[dict[str, Any]]) -> tuple[float, float]:
    """Returns the first and the last time of all panels, so that they can have the same time axis."""
    moments = [at for panel in panels for one in panel["series"] for at, _ in one["points"]]
    return min(moments), max(moments)


def _draw_dashboard(title: str, panels: list[dict[str, Any]], monitored_run: tuple[float, float], path: Path) -> None:
    bottom = max(panel["at"]["y"] + panel["at"]["h"] for panel in panels)
    figure = plt.figure(figsize=(ACROSS * COLUMN, (bottom + 2) * LINE))
    figure.text(0.01, 1 - 0.7 / (bottom + 2), title, fontsize=16, weight="bold")
    rows = {panel["row"]: panel["at"]["y"] for panel in reversed(panels)}
    for row, y in rows.items():
        figure.text(0.01, 1 - (y + 1.2) / (bottom + 2), row, fontsize=11, weight="bold")
    for panel in panels:
        at = panel["at"]
        # Margins inside the panel: names on the left, time below, title above.
        left, width = (at["x"] + 0.7) / ACROSS, (at["w"] - 1.0) / ACROSS
        low, height = 1 - (at["y"] + 2 + at["h"] - 1.1) / (bottom + 2), (at["h"] - 2.0) / (bottom + 2)
        _draw(figure.add_axes((left, low, width * PLOT, height)), panel, monitored_run)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _draw_beside(panels: list[dict[str, Any]], monitored_run: tuple[float, float], path: Path) -> None:
    lines = -(-len(panels) // BESIDE)
    figure = plt.figure(figsize=(4.2 * BESIDE, 2.2 * lines))
    for number, panel in enumerate(panels):
        left, low = (number % BESIDE + 0.1) / BESIDE, 1 - (number // BESIDE + 0.86) / lines
        _draw(figure.add_axes((left, low, 0.57 / BESIDE, 0.7 / lines)), panel, monitored_run)
    figure.savefig(path, dpi=100, bbox_inches="tight")  # also the whole of long names
    plt.close(figure)


def _draw_alone(panel: dict[str, Any], monitored_run: tuple[float, float], path: Path) -> None:
    figure = plt.figure(figsize=(8, 3.2))
    _draw(figure.add_axes((0.09, 0.14, PLOT - 0.1, 0.74)), panel, monitored_run)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _draw(axes: Any, panel: dict[str, Any], monitored_run: tuple[float, float]) -> None:
    unit = panel["unit"].removeprefix("suffix: ")
    named = UNITS.get(unit, unit)
    axes.set_title(f"{panel['title']}  [{named}]" if named else panel["title"], fontsize=8, loc="left")
    axes.tick_params(labelsize=6)
    if not panel["series"]:
        axes.text(0.5, 0.5, "nothing", ha="center", va="center", color="firebrick", transform=axes.transAxes)
        axes.set_axis_off()
    elif panel["sort"] == "stat":
        value = _told(unit, panel["series"][0]["points"][-1][1])
        axes.text(0.5, 0.4, value, ha="center", va="center", fontsize=18, transform=axes.transAxes)
        axes.set_axis_off()
    elif panel["sort"] == "bargauge":
        axes.barh([one["name"] for one in panel["series"]], [one["points"][-1][1] for one in panel["series"]])
        axes.xaxis.set_major_formatter(lambda value, _: _told(unit, value))
    elif panel["sort"] == "heatmap":
        _draw_heat(axes, panel["series"], monitored_run)
    else:
        _draw_lines(axes, panel["series"], panel["stacked"], monitored_run)
        axes.yaxis.set_major_formatter(lambda value, _: _told(unit, value))


def _told(unit: str, value: float) -> str:
    """Formats a value; its unit is added if it is a symbol, otherwise it is in the title."""
    if unit == "percentunit":
        return f"{100 * value:.3g}%"
    if unit == "currencyUSD":
        return f"{'-' if value < 0 else ''}${abs(value):.3g}"
    if unit == "bytes":
        return f"{EngFormatter(places=0)(value)}B"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _draw_lines(axes: Any, series: list[dict[str, Any]], stacked: bool, monitored_run: tuple[float, float]) -> None:
    moments = sorted({at for one in series for at, _ in one["points"]})
    seconds = [at - monitored_run[0] for at in moments]
    lines = [(one["name"], dict(map(tuple, one["points"]))) for one in series]
    colours = plt.get_cmap("tab10" if len(lines) <= 10 else "tab20").colors
    axes.set_prop_cycle(color=colours)
    if stacked:
        values = [[points.get(at, 0.0) for at in moments] for _, points in lines]
        axes.stackplot(seconds, values, labels=[name for name, _ in lines], colors=colours, alpha=0.8)
    else:
        for name, points in lines:
            values = [points.get(at, float("nan")) for at in moments]
            axes.plot(seconds, values, label=name, linewidth=1, marker=".", markersize=2)  # also for a single value
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.set_xlim(0, monitored_run[1] - monitored_run[0])
    axes.set_xlabel("seconds", fontsize=6, labelpad=1)
    _name_lines(axes)


def _name_lines(axes: Any) -> None:
    """Writes the names next to the lines, where they do not overlap."""
    drawn, names = axes.get_legend_handles_labels()
    more = len(names) - MAX_NAMES
    title = f"and {more} more" if more > 0 else None
    beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.03), "frameon": False}
    axes.legend(drawn[:MAX_NAMES], names[:MAX_NAMES], title=title, title_fontsize=6, fontsize=6, **beside)


def _draw_heat(axes: Any, series: list[dict[str, Any]], monitored_run: tuple[float, float]) -> None:
    """Draws a heat map from the cumulative buckets of a histogram."""
    edges = sorted(series, key=lambda one: float(one["name"].replace("+Inf", "inf")))
    moments = sorted({at for one in series for at, _ in one["points"]})
    counts = [[dict(map(tuple, one["points"])).get(at, 0.0) for at in moments] for one in edges]
    below = [[0.0] * len(moments), *counts[:-1]]
    own = [
        [max(0.0, a - b) for a, b in zip(upper, lower, strict=True)] for upper, lower in zip(counts, below, strict=True)
    ]
    sides = (moments[0] - monitored_run[0], moments[-1] - monitored_run[0], -0.5, len(edges) - 0.5)
    axes.imshow(own, origin="lower", aspect="auto", cmap="YlOrRd", interpolation="nearest", extent=sides)
    axes.set_xlim(0, monitored_run[1] - monitored_run[0])
    axes.set_yticks(range(len(edges)), [one["name"] for one in edges])


def _slug(title: str) -> str:
    return re.sub("[^a-z0-9]+", "-", title.lower()).strip("-")


if __name__ == "__main__":
    main()
