"""Prints the report of an evaluation as tables in the terminal."""

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pointsman_cli.eval.report import EvaluatedPath, LatencyQuantiles, Mixed, Pair, Report, TaskReport
from pointsman_cli.options import plain_table

_NOTHING = "-"
_SIGNIFICANT = 0.05


def print_report(console: Console, report: Report) -> None:
    console.print(Text(f"{report.dataset}, {report.at_once} at once, configuration {report.revision}", style="dim"))
    for task in report.tasks:
        console.print(Group(*_task_lines(task, report.confidence)))
    if report.mixed:
        console.print(Group(*_mixed_lines(report.mixed)))


def _task_lines(task: TaskReport, confidence: float) -> Iterator[RenderableType]:
    yield Text()
    yield Text(f"{task.task}: {task.rows} rows, {task.metric}; intervals of {confidence:.0%}", style="bold")
    yield _figures(task)
    yield Text(f"$ per 1,000: mean of the receipts{_training_shares(task)}", style="dim")
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
    columns = ("kind", "score", "from to", "form", "TTFT\np50 p95", "total\np50 p95", "tokens\nin", "cached", "out")
    table = plain_table("path", right=(*columns, "$ per\n1,000"), gap=1)
    table.add_column("", no_wrap=True, vertical="bottom")
    for path in sorted(task.paths, key=_worse):
        table.add_row(Text(path.path), *_row(path), style="" if path.answers > path.failed else "dim")
    return table


def _training_shares(task: TaskReport) -> str:
    shares = {path.path: share for path in task.paths if (share := path.usd_per_1000.get("training"))}
    trainings = ", ".join(f"{path}'s {share:.4f}" for path, share in shares.items())
    return f"; of it for the training of adapters: {trainings}" if trainings else ""


def _mixed_lines(mixed: Mixed) -> Iterator[RenderableType]:
    yield Text()
    yield Text("mixed: " + ", ".join(f"{share:.0%} {task}" for task, share in mixed.shares.items()), style="bold")
    columns = ("score", "from to", "$ per\n1,000", "auto\nis better by", "from to")
    table = plain_table("choice", right=columns, gap=1)
    for choice in mixed.choices:
        score, difference = choice.score, choice.auto_difference
        table.add_row(
            choice.name, f"{score.mean:.3f}", f"{score.low:.2f} {score.high:.2f}", f"{choice.usd_per_1000:.4f}",
            f"{difference.mean:+.3f}", f"{difference.low:+.2f} {difference.high:+.2f}",
        )  # fmt: skip
    yield table
    yield Text(
        f"{mixed.misrouted:.1%} of the rows got a wrong task, {mixed.abstained:.1%} none; this costs "
        f"{mixed.lost_score:.3f} of the score and {mixed.lost_usd_per_1000:.4f} dollars per 1,000"
    )


def _worse(path: EvaluatedPath) -> float:
    return -path.score.mean if path.score else 1.0


def _row(path: EvaluatedPath) -> Iterator[str]:
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


def _seconds(quantiles: LatencyQuantiles | None) -> str:
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
