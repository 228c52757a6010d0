"""Draws panels as Grafana would lay them out: `python -m tests.monitoring.draw PANELS.json FOLDER`, with matplotlib.

One picture of each panel, in a folder for each dashboard, and one of each dashboard.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt  # what draws without a screen is chosen first

ACROSS = 24
"""Columns of Grafana's grid."""
COLUMN, LINE = 0.85, 0.42
"""Inches of one column, and of one line, of the grid."""
MOST_NAMES = 10
"""In a legend."""


def main() -> None:
    panels = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(sys.argv[2])
    for title in dict.fromkeys(panel["dashboard"] for panel in panels):
        own = [panel for panel in panels if panel["dashboard"] == title]
        _draw_dashboard(title, own, folder / f"{_slug(title)}.png")
        (folder / _slug(title)).mkdir(exist_ok=True)
        for number, panel in enumerate(own, start=1):
            name = f"{number:02}-{_slug(panel['row'])}-{_slug(panel['title'])}.png"
            _draw_alone(panel, folder / _slug(title) / name)


def _draw_dashboard(title: str, panels: list[dict[str, Any]], path: Path) -> None:
    bottom = max(panel["at"]["y"] + panel["at"]["h"] for panel in panels)
    figure = plt.figure(figsize=(ACROSS * COLUMN, (bottom + 2) * LINE))
    figure.text(0.01, 1 - 0.7 / (bottom + 2), title, fontsize=16, weight="bold")
    rows = {panel["row"]: panel["at"]["y"] for panel in reversed(panels)}
    for row, y in rows.items():
        figure.text(0.01, 1 - (y + 1.2) / (bottom + 2), row, fontsize=11, weight="bold")
    for panel in panels:
        at = panel["at"]
        # A margin within the panel's place: names to the left, time below, the title above.
        left, width = (at["x"] + 0.7) / ACROSS, (at["w"] - 1.0) / ACROSS
        low, height = 1 - (at["y"] + 2 + at["h"] - 1.1) / (bottom + 2), (at["h"] - 2.0) / (bottom + 2)
        _draw(figure.add_axes((left, low, width, height)), panel)
    figure.savefig(path, dpi=70)
    plt.close(figure)


def _draw_alone(panel: dict[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    _draw(axes, panel)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _draw(axes: Any, panel: dict[str, Any]) -> None:
    axes.set_title(f"{panel['title']}  [{panel['unit'].removeprefix('suffix: ')}]", fontsize=8, loc="left")
    axes.tick_params(labelsize=6)
    if not panel["series"]:
        axes.text(0.5, 0.5, "nothing", ha="center", va="center", color="firebrick", transform=axes.transAxes)
        axes.set_axis_off()
    elif panel["sort"] == "stat":
        value = panel["series"][0]["points"][-1][1]
        axes.text(0.5, 0.4, f"{value:.4g}", ha="center", va="center", fontsize=18, transform=axes.transAxes)
        axes.set_axis_off()
    elif panel["sort"] == "bargauge":
        axes.barh([one["name"] for one in panel["series"]], [one["points"][-1][1] for one in panel["series"]])
    elif panel["sort"] == "heatmap":
        _draw_heat(axes, panel["series"])
    else:
        _draw_lines(axes, panel["series"], panel["stacked"])


def _draw_lines(axes: Any, series: list[dict[str, Any]], stacked: bool) -> None:
    moments = sorted({at for one in series for at, _ in one["points"]})
    seconds = [at - moments[0] for at in moments]
    lines = [(one["name"], dict(map(tuple, one["points"]))) for one in series]
    if stacked:
        values = [[points.get(at, 0.0) for at in moments] for _, points in lines]
        axes.stackplot(seconds, values, labels=[name for name, _ in lines], alpha=0.8)
    else:
        for name, points in lines:
            axes.plot(seconds, [points.get(at, float("nan")) for at in moments], label=name, linewidth=1)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    if names := axes.get_legend_handles_labels()[1][:MOST_NAMES]:
        axes.legend(names, fontsize=5, loc="upper left", framealpha=0.5)


def _draw_heat(axes: Any, series: list[dict[str, Any]]) -> None:
    """The series are cumulative: a bucket has in it what the one below does not."""
    edges = sorted(series, key=lambda one: float(one["name"].replace("+Inf", "inf")))
    moments = sorted({at for one in series for at, _ in one["points"]})
    counts = [[dict(map(tuple, one["points"])).get(at, 0.0) for at in moments] for one in edges]
    below = [[0.0] * len(moments), *counts[:-1]]
    own = [
        [max(0.0, a - b) for a, b in zip(upper, lower, strict=True)] for upper, lower in zip(counts, below, strict=True)
    ]
    axes.imshow(own, origin="lower", aspect="auto", cmap="YlOrRd", interpolation="nearest")
    axes.set_yticks(range(len(edges)), [one["name"] for one in edges])


def _slug(title: str) -> str:
    return re.sub("[^a-z0-9]+", "-", title.lower()).strip("-")


if __name__ == "__main__":
    main()
