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

_DAYS_A_MONTH = 365.25 / 12


def advise_on(
    evaluation: Annotated[Path, typer.Argument(metavar="REPORT", help="What `pointsman eval --json` wrote.")],
    training_files: Annotated[
        list[Path] | None, typer.Option("--training", help="An adapter's training.json; may be given again.")
    ] = None,
    hourly: Annotated[
        float | None, typer.Option(min=0, help="Dollars an hour of the machine that trained.", show_default=False)
    ] = None,
    training_costs: Annotated[
        list[str] | None, typer.Option("--training-cost", metavar="NAME=USD", help="Instead; may be given again.")
    ] = None,
    monthly: Annotated[
        float | None, typer.Option(min=0, help="Requests a month of this task.", show_default=False)
    ] = None,
    months: Annotated[float, typer.Option(min=0.1, help="Over which a training is written off.")] = 12.0,
    retrain_days: Annotated[
        float | None,
        typer.Option(
            min=0.1, help="How often what the adapter knows goes out of date; else never.", show_default=False
        ),
    ] = None,
    adapter_month: Annotated[float, typer.Option(min=0, help="Dollars a month for serving the adapter.")] = 0.0,
    wrong_answer: Annotated[float, typer.Option(min=0, help="Dollars that a wrong answer costs you.")] = 0.0,
    floor: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="The score that is needed, by the lower end of its interval.", show_default=False
        ),
    ] = None,
    form: Annotated[
        float | None, typer.Option(min=0, max=1, help="The share of well-formed answers needed.", show_default=False)
    ] = None,
    p95: Annotated[float | None, typer.Option(min=0, help="Seconds allowed at p95.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say from which volume an adapter pays against each prompting path, and what to do about each task.

    From what an evaluation measured and what the training cost. Nothing is asked.
    """
    terms = Terms(
        training=training.costs(training_files or (), hourly, training_costs or ()),
        monthly=monthly,
        months=months,
        trainings_a_month=_DAYS_A_MONTH / retrain_days if retrain_days else 0.0,
        adapter_month=adapter_month,
        wrong_answer=wrong_answer,
    )
    advice = advise(report.read(evaluation), Needs(floor, form, p95), terms)
    if as_json:
        print(json.dumps([asdict(task) for task in advice], indent=2, ensure_ascii=False))
    else:
        show(Console(highlight=False), advice)
