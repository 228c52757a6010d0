"""A report as one page that needs no network: tables, plots, and the examples on which paths disagree."""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from pointsman_cli.eval.plots import latency_plot, quality_plot
from pointsman_cli.eval.report import Confusion, Report
from pointsman_cli.eval.tables import probability


def render(report: Report) -> str:
    """Everything that came from rows, models and configurations is escaped."""
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


def write(report: Report, file: Path) -> None:
    file.write_text(render(report), encoding="utf-8")


def shade(count: int, confusion: Confusion, row: int) -> int:
    """How dark a cell is, in percent: the share of its row."""
    return round(100 * count / (sum(confusion.counts[row]) or 1))
