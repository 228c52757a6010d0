"""Draws score against cost for one set, and the learning curves of all sets."""

import math
from collections.abc import Iterator, Sequence

from benchmarks.experiment.chart import COLOURS, svg, text
from benchmarks.experiment_public.cells import ALL_ROWS, CURVE_ROWS, SETS
from benchmarks.experiment_public.evidence import CURVE_PATHS, Evidence, PathResult, kind

_COLOURS = COLOURS | {"tuned": "#a8323e", "baseline": "#7a8394"}
_CURVE_COLOURS = dict(zip(CURVE_PATHS, ("#c2571a", "#3566c8", "#7a8394", "#b4b9c4"), strict=True))
_LEFT, _TOP, _WIDTH, _HEIGHT = 50, 40, 480, 300
_NAMES = 570
"""Horizontal position at which the list of names starts."""
_PANEL, _PANEL_WIDTH = 300, 220


def draw_costs(name: str, results: Sequence[PathResult]) -> str:
    """Draws each path as a numbered point; paths without a model are at the left edge, because they cost nothing."""
    paid = [result.usd_per_1000 for result in results if result.usd_per_1000 > 0] or [0.001]
    low, high = min(paid) / 1.3, max(paid) * 1.3
    parts = [
        text(10, 22, f"{name}: score against dollars per 1,000 requests", "bold"),
        *_score_axis(_LEFT, _WIDTH),
        *_cost_axis(low, high),
    ]
    for number, result in enumerate(results, 1):
        share = math.log(result.usd_per_1000 / low) / math.log(high / low) if result.usd_per_1000 else 0.0
        parts += _point(_LEFT + _WIDTH * share, result, _COLOURS[kind(result.path)], str(number))
        line = f"{number}  {result.path.replace('_', ' ')}  {result.score.mean:.3f}"
        parts.append(text(_NAMES, _TOP + 8 + 17 * number, line))
    height = _TOP + max(_HEIGHT + 60, 17 * len(results) + 40)
    return svg(820, height, f"Score and cost of each path on {name}", [*parts, *_legend(height)])


def draw_curves(evidence: Evidence) -> str:
    """Draws a panel for each set: score by number of training rows."""
    parts = [text(10, 22, "Score by number of training rows or examples, with 95 % intervals", "bold")]
    for panel, name in enumerate(SETS):
        left = _LEFT + panel * _PANEL
        parts += [*_score_axis(left, _PANEL_WIDTH), text(left, _TOP + _HEIGHT + 40, name, "bold")]
        for rows in (*CURVE_ROWS, ALL_ROWS):
            parts.append(text(_row_x(left, rows) - 10, _TOP + _HEIGHT + 18, f"{rows:,}", "grey"))
        for path in CURVE_PATHS:
            found = [(rows, result) for rows in (*CURVE_ROWS, ALL_ROWS) if (result := evidence.path(name, path, rows))]
            parts += _curve(left, found, _CURVE_COLOURS[path])
    for place, (path, colour) in enumerate(_CURVE_COLOURS.items()):
        x, y = 10 + 150 * place, _TOP + _HEIGHT + 54
        parts.append(f'<rect x="{x}" y="{y}" width="14" height="14" fill="{colour}"/>')
        parts.append(text(x + 20, y + 12, path.replace("_", " ")))
    return svg(_LEFT + len(SETS) * _PANEL, _TOP + _HEIGHT + 80, "Learning curves on three public sets", parts)


def _curve(left: float, found: Sequence[tuple[int, PathResult]], colour: str) -> Iterator[str]:
    places = [(_row_x(left, rows), result) for rows, result in found]
    if len(places) > 1:
        line = "L".join(f"{x:.1f} {_y(result.score.mean):.1f}" for x, result in places)
        yield f'<path d="M{line}" stroke="{colour}" stroke-width="2" fill="none"/>'
    for x, result in places:
        yield from _point(x, result, colour, "")


def _row_x(left: float, rows: int) -> float:
    low, high = math.log(CURVE_ROWS[0]), math.log(ALL_ROWS)
    return left + 10 + (_PANEL_WIDTH - 30) * (math.log(rows) - low) / (high - low)


def _point(x: float, result: PathResult, colour: str, number: str) -> Iterator[str]:
    score = result.score
    yield f'<path d="M{x:.1f} {_y(score.low):.1f}V{_y(score.high):.1f}" stroke="{colour}" stroke-width="1.5"/>'
    radius = 9 if number else 3.5
    yield f'<circle cx="{x:.1f}" cy="{_y(score.mean):.1f}" r="{radius}" fill="{colour}"/>'
    if number:
        yield (
            f'<text x="{x:.1f}" y="{_y(score.mean) + 4:.1f}" text-anchor="middle" '
            f'style="font-size:10px;fill:#fff">{number}</text>'
        )


def _score_axis(left: float, width: float) -> Iterator[str]:
    for tenth in range(0, 11, 2):
        y = _y(tenth / 10)
        yield f'<path d="M{left} {y:.1f}h{width}" stroke="#e3e6ea"/>'
        yield text(left - 28, y + 4, f"{tenth / 10:.1f}", "grey")


def _cost_axis(low: float, high: float) -> Iterator[str]:
    for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for factor in (1, 2, 5):
            usd = factor * 10.0**exponent
            if low <= usd <= high:
                x = _LEFT + _WIDTH * math.log(usd / low) / math.log(high / low)
                yield f'<path d="M{x:.1f} {_TOP}V{_TOP + _HEIGHT}" stroke="#e3e6ea"/>'
                yield text(x - 16, _TOP + _HEIGHT + 18, f"${usd:g}", "grey")
    yield text(_LEFT - 24, _TOP + _HEIGHT + 18, "none", "grey")


def _legend(height: float) -> Iterator[str]:
    for place, (name, colour) in enumerate(_COLOURS.items()):
        yield f'<rect x="{10 + 100 * place}" y="{height - 26}" width="14" height="14" rx="3" fill="{colour}"/>'
        yield text(30 + 100 * place, height - 14, name)


def _y(score: float) -> float:
    return _TOP + _HEIGHT * (1 - score)
