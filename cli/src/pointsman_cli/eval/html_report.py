"""Renders the report of an evaluation as one self-contained HTML page; computes the positions in its plots."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from pointsman_cli.eval.report import Confusion, EvaluatedPath, Report, TaskReport
from pointsman_cli.eval.report_tables import probability

WIDTH, HEIGHT = 380, 260
"""Size of the quality plot in SVG units; the width is about that of a phone, so that text stays readable there."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 14, 12, 38
_DOT_RADIUS = 8
_LOG_SCALE_RATIO = 8.0  # costs use a logarithmic scale from this ratio of highest to lowest
_ROW_HEIGHT = 30
_NAMES_WIDTH = 30  # space for the paths' numbers


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled position on an axis, in SVG units."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Dot:
    """One path in the plot of quality against cost; positions are in SVG units.

    `low` and `high` are the ends of the error bar, which shows the confidence interval of the quality.
    """

    number: int  # of the path in the report, from 1
    kind: str
    x: float
    y: float
    low: float  # y of the lower end of the score's interval
    high: float  # y of the upper end
    title: str


@dataclass(frozen=True, slots=True)
class QualityPlot:
    """The coordinates of a plot in which each path is a point: its cost is the x value, and its quality the y value."""

    xs: tuple[Tick, ...]
    ys: tuple[Tick, ...]
    dots: tuple[Dot, ...]
    front: str
    """The points of the line of best paths (Pareto front), as "X,Y X,Y"."""
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True, slots=True)
class Bar:
    """One path in the plot of latencies: horizontal positions of its quantiles, in SVG units.

    `first_token` is for the median time to the first token, `p50` and `p95` for quantiles of the whole answer's time.
    `number` is the path's number in the report, from 1.
    """

    number: int  # of the path in the report, from 1
    kind: str
    y: float
    first_token: float  # x of the median time to the first token
    p50: float  # x of the median time of a whole answer
    p95: float
    title: str


@dataclass(frozen=True, slots=True)
class LatencyPlot:
    """The positions in a plot with a bar for the latency of each path."""

    xs: tuple[Tick, ...]
    bars: tuple[Bar, ...]
    left: float
    bottom: float
    height: float
    width: int = WIDTH


def quality_plot(task: TaskReport) -> QualityPlot | None:
    """Returns a task's plot of quality against cost; None if no path has a score and a cost."""
    shown = [(number, path) for number, path in enumerate(task.paths, 1) if path.score and path.usd_per_1000]
    if not shown:
        return None
    scale = _cost_scale([path.cost for _, path in shown])
    dots = tuple(_dot(number, path, scale) for number, path in shown)
    front = sorted((scale.at(path.cost), _height(path.score.mean)) for _, path in shown if path.on_front and path.score)
    ys = tuple(Tick(_height(value / 5), f"{value / 5:.1f}") for value in range(6))
    return QualityPlot(scale.ticks, ys, dots, _steps(front))


def latency_plot(task: TaskReport) -> LatencyPlot | None:
    """Returns a chart of how long each path of a task took to answer; None if no path has answered."""
    shown = [(number, path) for number, path in enumerate(task.paths, 1) if path.total]
    if not shown:
        return None
    longest = max(path.total.p95 for _, path in shown if path.total)
    ticks = _round_steps(longest)
    scale = _Linear(0, max(longest, ticks[-1]), _NAMES_WIDTH, WIDTH - _RIGHT)
    bottom = _TOP + _ROW_HEIGHT * len(shown)
    bars = tuple(
        _bar(number, path, _TOP + _ROW_HEIGHT * (place + 0.5), scale) for place, (number, path) in enumerate(shown)
    )
    xs = tuple(Tick(scale.at(value), f"{value:g}") for value in ticks)
    return LatencyPlot(xs, bars, _NAMES_WIDTH, bottom, bottom + _BOTTOM)


def _dot(number: int, path: EvaluatedPath, scale: "_Scale") -> Dot:
    score = path.score
    assert score is not None
    title = f"{path.path}: {score.mean:.3f} ({score.low:.2f} to {score.high:.2f}), ${path.cost:.4f} per 1,000"
    x = scale.at(path.cost)
    return Dot(number, path.kind, x, _height(score.mean), _height(score.low), _height(score.high), title)


def _bar(number: int, path: EvaluatedPath, y: float, scale: "_Linear") -> Bar:
    total = path.total
    assert total is not None
    first = path.first_token.p50 if path.first_token else total.p50
    title = (
        f"{path.path}: first token {first:.2f} s, half of all within {total.p50:.2f} s, 95 % within {total.p95:.2f} s"
    )
    return Bar(number, path.kind, y, scale.at(first), scale.at(total.p50), scale.at(total.p95), title)


def _height(score: float) -> float:
    return _Linear(0, 1, HEIGHT - _BOTTOM - _DOT_RADIUS, _TOP + _DOT_RADIUS).at(score)


def _steps(front: Sequence[tuple[float, float]]) -> str:
    """Returns the points of a step line through the best paths, as "X,Y X,Y".

    `front` has the positions of these paths, by rising cost. Each quality extends to the cost of the next path.
    """
    points: list[tuple[float, float]] = []
    for x, y in front:
        points += [(x, points[-1][1] if points else HEIGHT - _BOTTOM), (x, y)]
    if points:
        points.append((WIDTH - _RIGHT, points[-1][1]))
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


class _Linear:
    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._span = low, (high - low) or 1.0
        self._start, self._length = start, end - start

    def at(self, value: float) -> float:
        return round(self._start + self._length * (value - self._low) / self._span, 1)


@dataclass(frozen=True, slots=True)
class _Scale:
    line: _Linear
    ticks: tuple[Tick, ...]
    logarithmic: bool

    def at(self, cost: float) -> float:
        return self.line.at(math.log10(cost) if self.logarithmic else cost)


def _cost_scale(costs: Sequence[float]) -> _Scale:
    start, end = _LEFT, WIDTH - _RIGHT
    low, high = min(costs), max(costs)
    if low > 0 and high / low > _LOG_SCALE_RATIO:
        values = _decades(low, high)
        line = _Linear(math.log10(values[0]), math.log10(values[-1]), start, end)
        return _Scale(line, tuple(Tick(line.at(math.log10(value)), f"{value:g}") for value in values), True)
    values = _round_steps(high)
    line = _Linear(0, values[-1], start, end)
    return _Scale(line, tuple(Tick(line.at(value), f"{value:g}") for value in values), False)


def _decades(low: float, high: float) -> list[float]:
    """Returns 1, 2 and 5 times powers of ten that enclose the range; only powers of ten if the range is wide."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 2 else (1,)
    values = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    below = max((value for value in values if value <= low), default=values[0])
    above = min((value for value in values if value >= high), default=values[-1])
    return [value for value in values if below <= value <= above]


def _round_steps(high: float) -> list[float]:
    """Returns about four equal steps from 0 to `high` or slightly above."""
    if high <= 0:
        return [0.0, 1.0]
    rough = high / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    return [round(step * count, 12) for count in range(math.ceil(high / step - 1e-9) + 1)]


def render_html(report: Report) -> str:
    """Renders the report as one page; escapes all text that comes from rows, models and configurations."""
    environment = Environment(
        loader=PackageLoader("pointsman_cli.eval", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["probability"] = probability
    environment.filters["shade"] = shade
    plots = [(task, quality_plot(task), latency_plot(task)) for task in report.tasks]
    return environment.get_template("page.html.j2").render(report=report, plots=plots)


def write_html(report: Report, file: Path) -> None:
    file.write_text(render_html(report), encoding="utf-8")


def shade(count: int, confusion: Confusion, row: int) -> int:
    """Returns the darkness (0 to 100) of a cell in a confusion matrix: `count` in percent of the sum of row `row`."""
    return round(100 * count / (sum(confusion.counts[row]) or 1))
