"""Draws the score of each path with its interval, next to its tokens and cost."""

from collections.abc import Iterable, Iterator, Mapping
from html import escape

from pointsman_cli.eval.report import EvaluatedPath, Report

from benchmarks.experiment.tasks import short

COLOURS = {"prompt": "#3566c8", "rag": "#1f8a70", "lora": "#c2571a", "hybrid": "#8b3fb0"}
_WIDTH, _ROW, _HEAD, _LEGEND = 860, 24, 44, 34
_LEFT, _BAR, _RIGHT = 190, 420, 640
"""Horizontal positions: the end of the names, the width of a bar of score 1, and the start of the figures."""


def draw_chart(reports: Mapping[str, Report]) -> str:
    parts, y = list(_legend()), _LEGEND
    for task, report in reports.items():
        (found,) = report.tasks
        parts.append(text(10, y + 28, f"{task}: {found.rows} rows, {found.metric}", "bold"))
        parts.append(text(_RIGHT, y + 28, "score · prompt tokens · $ per 1,000", "grey"))
        y += _HEAD
        for path in found.paths:
            parts += _row(path, short(path.path, task), y)
            y += _ROW
    return svg(_WIDTH, y + 16, "Scores of all paths on four tasks", parts)


def svg(width: int, height: int, label: str, parts: Iterable[str]) -> str:
    """Returns an SVG with a white background, readable on light and dark pages."""
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    style = (
        "<style>text{font:13px system-ui,sans-serif;fill:#1d2433}.bold{font-weight:600;font-size:15px}"
        ".grey{fill:#5b6475;font-size:12px}</style>"
    )
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(label)}">'
        f'{style}\n<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )


def _legend() -> Iterator[str]:
    x = 10
    for kind, colour in COLOURS.items():
        yield f'<rect x="{x}" y="12" width="14" height="14" rx="3" fill="{colour}"/>'
        yield text(x + 20, 24, kind)
        x += 100
    yield text(x, 24, "line: 95 % interval", "grey")


def _row(path: EvaluatedPath, name: str, y: int) -> Iterator[str]:
    assert path.score is not None
    middle, colour = y + _ROW / 2, COLOURS[path.kind]
    yield f'<text x="{_LEFT - 8}" y="{middle + 4}" text-anchor="end">{escape(name)}</text>'
    yield f'<rect x="{_LEFT}" y="{y + 4}" width="{_BAR}" height="{_ROW - 8}" fill="#f0f2f5"/>'
    yield f'<rect x="{_LEFT}" y="{y + 4}" width="{_BAR * path.score.mean:.1f}" height="{_ROW - 8}" fill="{colour}"/>'
    low, high = (_LEFT + _BAR * end for end in (path.score.low, path.score.high))
    yield f'<path d="M{low:.1f} {middle}H{high:.1f}" stroke="#1d2433" stroke-width="2"/>'
    figures = f"{path.score.mean:.2f} · {path.prompt_tokens:.0f} · {path.cost:.4f}"
    yield text(_RIGHT, middle + 4, figures)


def text(x: float, y: float, content: str, kind: str = "") -> str:
    return f'<text x="{x}" y="{y}"{f" class={kind!r}" if kind else ""}>{escape(content)}</text>'
