"""`pointsman advise`: the command and its tables."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from pointsman_servicekit.errors import NotFound
from pointsman_servicekit.prices import PricedModel, named_price, prices_as_of
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pointsman_cli.advise.costs import (
    FACTORS,
    BreakEven,
    CostTerms,
    check_selection,
    read_training_costs,
    unfinished_trainings,
)
from pointsman_cli.advise.live import fetch_tasks, hardware_cost, hardware_lines, live_advice, live_lines
from pointsman_cli.advise.recommendation import Requirements, TaskAdvice, advise
from pointsman_cli.advise.regret import fetch_metrics, fetch_regrets, regret_table
from pointsman_cli.errors import UsageError
from pointsman_cli.eval.report import read_report
from pointsman_cli.options import (
    DEFAULT_DATA_DIR,
    KEY_VARIABLE,
    DataDirOption,
    JsonOption,
    KeyEnvOption,
    UrlOption,
    api_key,
    gateway_url,
    plain_table,
    print_json,
    table_console,
)
from pointsman_cli.top.command import find_services

_DAYS_A_MONTH = 365.25 / 12
_REPORT = "a REPORT"
_OPTIONS = {
    "--live": ("gateway", "data_dir", "key_env"),
    "--against": ("gateway", "data_dir"),
    "--regret": ("gateway", "data_dir"),
}
"""The parameters of `advise_on` that each source of figures uses; those in no entry are for a report."""
_ALWAYS = ("evaluation", "live", "against", "regret", "as_json")


def advise_on(
    context: typer.Context,
    evaluation: Annotated[
        Path | None,
        typer.Argument(
            metavar="[REPORT]",
            help="A report written by `pointsman eval --json`; or --live, --against or --regret.",
            show_default=False,
        ),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Advise by the ratings of a running gateway: feedback and shadow requests.")
    ] = False,
    against: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="Compare the engines' hourly price with this model's list price, as in gpt-4o-mini.",
            show_default=False,
        ),
    ] = "",
    regret: Annotated[
        bool,
        typer.Option("--regret", help="Compare a running gateway's shadow requests with the paths that were chosen."),
    ] = False,
    gateway: UrlOption = "",
    key_env: KeyEnvOption = KEY_VARIABLE,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
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
    """Compute from which volume an adapter pays off against each path without one, and recommend a path for each task.

    Uses the figures of an evaluation and the cost of training; sends no requests. With --live it uses the ratings that
    a gateway has, and says how many more would settle what is open; with --against it compares what tokens cost on your
    hardware with a provider.

    With --regret it compares the cost, latency and quality of shadow requests with the paths that were chosen, in one
    gateway since its start, shown as chosen : shadow. Regret is what the shadow path would have saved (total dollars)
    and by how much its answers were better (mean quality of the scored pairs). A judge's line says how many of its
    scores agree with people's ratings of the same answers.
    """
    _check_options(context, _source(evaluation, live, against, regret))
    if regret:
        _show_regrets(find_services(gateway, "", "", data_dir).gateway, as_json)
        return
    if against:
        price = _named_price(against)
        _compare_hardware(find_services(gateway, "", "", data_dir).gateway, against, price, as_json)
        return
    if evaluation is None:
        _advise_live(gateway_url(gateway, data_dir), api_key(key_env), as_json)
        return
    report = read_report(evaluation)
    check_selection(training_files or (), report.sha256)
    terms = CostTerms(
        training=read_training_costs(training_files or (), trainer_usd_per_hour, training_costs or ()),
        monthly=requests_per_month,
        months=amortization_months,
        trainings_a_month=_DAYS_A_MONTH / retrain_days if retrain_days else 0.0,
        adapter_month=adapter_usd_per_month,
        wrong_answer=wrong_answer_usd,
        unfinished=unfinished_trainings(training_files or ()),
    )
    advice = advise(report, Requirements(min_score, min_valid, max_p95_seconds), terms)
    if as_json:
        print_json([asdict(task) for task in advice])
    else:
        print_advice(table_console(), advice)


def _source(evaluation: Path | None, live: bool, against: str, regret: bool) -> str:
    """Returns where the figures are from: _REPORT, "--live", "--against" or "--regret".

    Raises UsageError unless exactly one source is given.
    """
    given = {_REPORT: evaluation is not None, "--live": live, "--against": bool(against), "--regret": regret}
    chosen = [source for source, is_given in given.items() if is_given]
    if len(chosen) != 1:
        raise UsageError("give either a REPORT of `pointsman eval --json`, or --live, or --against MODEL, or --regret")
    return chosen[0]


def _check_options(context: typer.Context, source: str) -> None:
    """Raises UsageError if the command line has an option that `source` does not use."""
    for parameter in context.command.params:
        name = str(parameter.name)
        origin = context.get_parameter_source(name)
        if name in _ALWAYS or origin is None or origin.name != "COMMANDLINE":
            continue
        users = [each for each, names in _OPTIONS.items() if name in names] or [_REPORT]
        if source not in users:
            raise UsageError(f"{parameter.opts[0]} is for {' or '.join(users)}, not for {source}")


def _show_regrets(url: str, as_json: bool) -> None:
    regrets = fetch_regrets(url)
    if as_json:
        typer.echo(json.dumps(asdict(regrets)))
    else:
        table_console().print(regret_table(regrets))


def _compare_hardware(url: str, against: str, price: PricedModel, as_json: bool) -> None:
    cost = hardware_cost(fetch_metrics(url), against, price)
    if as_json:
        print_json(asdict(cost))
    else:
        table_console().print(Group(*map(Text, hardware_lines(cost, str(prices_as_of())))))


def _advise_live(url: str, key: str, as_json: bool) -> None:
    found = [live_advice(task) for task in fetch_tasks(url, key)]
    if as_json:
        print_json([asdict(task) for task in found])
    else:
        table_console().print(Group(*map(live_lines, found)))


def _named_price(model: str) -> PricedModel:
    """Returns the list price of a provider's model; raises UsageError if the model is unknown."""
    try:
        return named_price(model)
    except NotFound as error:
        raise UsageError(f"--against: {error.message}") from error


def print_advice(console: Console, advice: Iterable[TaskAdvice]) -> None:
    for task in advice:
        console.print(Group(*_task_lines(task)))


def _task_lines(advice: TaskAdvice) -> Iterator[RenderableType]:
    best = advice.recommendation
    yield Text()
    yield Text(f"{advice.task}: {best.verdict}" + (f" ({best.path})" if best.path else ""), style="bold")
    for reason in best.reasons:
        yield Text(f"  {reason}")
    for trained in dict.fromkeys(each.trained for each in advice.break_evens):
        yield Text()
        yield _break_evens(trained, [each for each in advice.break_evens if each.trained == trained])
    if advice.compared_pair:
        trained, untrained = advice.compared_pair
        yield Text()
        yield Text(f"requests until {trained} pays off against {untrained}, if one price changes", style="dim")
        yield _sensitivities(advice)


def _break_evens(trained: str, found: Iterable[BreakEven]) -> Table:
    columns = ("score\ndifference", "saves $\nper 1,000", "from\nrequests", "from right\nanswers", "from\na month")
    table = plain_table(f"{trained} pays against", right=columns)
    for each in found:
        table.add_row(
            Text(each.untrained),
            f"{each.score_difference:+.3f}",
            f"{each.saving_per_1000:.4f}",
            volume_text(each.requests),
            volume_text(each.right_answers),
            volume_text(each.requests_a_month),
        )
    return table


def _sensitivities(advice: TaskAdvice) -> Table:
    table = plain_table("price", right=[f"× {factor:g}" for factor in FACTORS])
    for each in advice.sensitivities:
        table.add_row(each.price, *map(volume_text, each.requests))
    return table


def volume_text(requests: float | None) -> str:
    if requests is None:
        return "never"
    return f"{requests:,.0f}" if requests else "at once"
