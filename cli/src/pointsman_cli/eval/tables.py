"""Prints a report to the terminal."""

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pointsman_cli.eval.report import Pair, PathFigures, Quantiles, Report, TaskReport

_NOTHING = "-"
_SIGNIFICANT = 0.05


def print_report(console: Console, report: Report) -> None:
    console.print(Text(f"{report.dataset}, {report.at_once} at once, configuration {report.generation}", style="dim"))
    for task in report.tasks:
        console.print(Group(*_task_lines(task, report.confidence)))


def _task_lines(task: TaskReport, confidence: float) -> Iterator[RenderableType]:
    yield Text()
    yield Text(f"{task.task}: {task.rows} rows, {task.metric}; intervals of {confidence:.0%}", style="bold")
    yield _figures(task)
    for path in task.paths:
        if path.failed:
            codes = ", ".join(f"{code} {count}" for code, count in path.failures.items())
            yield Text(f"{path.path}: {path.failed} of {path.answers} failed and score 0 ({codes})", style="red")
        if path.unscored:
            yield Text(f"{path.path}: the judge could not say of {path.unscored}; they are left out", style="red")
    judged = sum(path.judge_usd for path in task.paths)
    if judged:
        yield Text(f"the judging cost {judged:.6f} dollars, which is in no figure above", style="dim")
    if task.pairs:
        yield Text()
        yield _pairs(task)


def _figures(task: TaskReport) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("path", overflow="fold", vertical="bottom")
    for column in (
        "kind",
        "score",
        "from to",
        "form",
        "TTFT\np50 p95",
        "total\np50 p95",
        "tokens\nin",
        "cached",
        "out",
    ):
        table.add_column(column, justify="right", no_wrap=True, vertical="bottom")
    table.add_column("$ per\n1,000", justify="right", no_wrap=True, vertical="bottom")
    table.add_column("", no_wrap=True, vertical="bottom")
    for path in sorted(task.paths, key=_worse):
        table.add_row(Text(path.path), *_row(path), style="" if path.answers > path.failed else "dim")
    return table


def _worse(path: PathFigures) -> float:
    return -path.score.mean if path.score else 1.0


def _row(path: PathFigures) -> Iterator[str]:
    yield path.kind
    yield f"{path.score.mean:.3f}" if path.score else _NOTHING
    yield f"{path.score.low:.2f} {path.score.high:.2f}" if path.score else _NOTHING
    yield f"{path.well_formed:.0%}"
    yield _seconds(path.first_token)
    yield _seconds(path.total)
    yield f"{path.prompt_tokens:.0f}"
    yield f"{path.cached_tokens:.0f}"
    yield f"{path.completion_tokens:.0f}"
    yield f"{path.cost:.4f}" if path.usd_per_1000 else _NOTHING
    yield "front" if path.on_front else ""


def _seconds(quantiles: Quantiles | None) -> str:
    return f"{quantiles.p50:.2f} {quantiles.p95:.2f}" if quantiles else _NOTHING


def _pairs(task: TaskReport) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for column in ("better", "by", "from to", "than", "p", "(Holm)", ""):
        table.add_column(column, no_wrap=column not in ("better", "than"), overflow="fold")
    for pair in task.pairs:
        table.add_row(*_pair(pair))
    return table


def _pair(pair: Pair) -> Iterator[Text]:
    sign = -1 if pair.difference.mean < 0 else 1
    better, worse = (pair.first, pair.second) if sign > 0 else (pair.second, pair.first)
    low, high = sorted((sign * pair.difference.low, sign * pair.difference.high))
    yield Text(better)
    yield Text(f"{sign * pair.difference.mean:.3f}")
    yield Text(f"{low:.2f} {high:.2f}")
    yield Text(worse)
    yield Text(probability(pair.p_value))
    yield Text(probability(pair.p_adjusted))
    yield Text("" if pair.p_adjusted < _SIGNIFICANT else "may be chance", style="dim")


def probability(p_value: float) -> str:
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"
