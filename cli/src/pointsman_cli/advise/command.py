"""`pointsman advise`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pointsman_cli.advise import training
from pointsman_cli.advise.advice import advise
from pointsman_cli.advise.money import Terms
from pointsman_cli.advise.pages import show
from pointsman_cli.advise.recommendation import Needs
from pointsman_cli.eval import report
from pointsman_cli.options import JsonOption

_DAYS_A_MONTH = 365.25 / 12


def advise_on(
    evaluation: Annotated[Path, typer.Argument(metavar="REPORT", help="A report written by `pointsman eval --json`.")],
    training_files: Annotated[
        list[Path] | None, typer.Option("--training", metavar="FILE", help="training.json of an adapter; repeatable.")
    ] = None,
    trainer_usd_per_hour: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="USD", help="Price of the training machine; needed with --training.", show_default=False
        ),
    ] = None,
    training_costs: Annotated[
        list[str] | None,
        typer.Option(
            "--training-cost", metavar="NAME=USD", help="What training an adapter cost; instead of --training."
        ),
    ] = None,
    requests_per_month: Annotated[
        float | None, typer.Option(min=0, metavar="N", help="Volume of the task.", show_default=False)
    ] = None,
    amortization_months: Annotated[
        float, typer.Option(min=0.1, metavar="N", help="Months over which one training is paid off.")
    ] = 12.0,
    retrain_days: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            metavar="DAYS",
            help="Days after which the adapter is retrained; default: never.",
            show_default=False,
        ),
    ] = None,
    adapter_usd_per_month: Annotated[
        float, typer.Option(min=0, metavar="USD", help="Fixed cost of serving the adapter.")
    ] = 0.0,
    wrong_answer_usd: Annotated[float, typer.Option(min=0, metavar="USD", help="What a wrong answer costs you.")] = 0.0,
    min_score: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, metavar="SCORE", help="Required score (lower end of its interval).", show_default=False
        ),
    ] = None,
    min_valid: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="SHARE", help="Required share of well-formed answers.", show_default=False),
    ] = None,
    max_p95_seconds: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="Allowed 95th percentile of latency.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compute from which volume an adapter pays off against each prompting path, and recommend a path for each task.

    Uses the figures of an evaluation and the cost of training; sends no requests.
    """
    terms = Terms(
        training=training.costs(training_files or (), trainer_usd_per_hour, training_costs or ()),
        monthly=requests_per_month,
        months=amortization_months,
        trainings_a_month=_DAYS_A_MONTH / retrain_days if retrain_days else 0.0,
        adapter_month=adapter_usd_per_month,
        wrong_answer=wrong_answer_usd,
    )
    advice = advise(report.read(evaluation), Needs(min_score, min_valid, max_p95_seconds), terms)
    if as_json:
        print(json.dumps([asdict(task) for task in advice], indent=2, ensure_ascii=False))
    else:
        show(Console(highlight=False), advice)
