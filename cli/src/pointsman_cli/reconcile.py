"""`pointsman reconcile`: compares a provider's charges with the costs in the gateway's receipts (cost records)."""

from pathlib import Path
from typing import Annotated

import typer

from pointsman_cli.data_dir import DataDir
from pointsman_cli.errors import UsageError, run_interruptibly
from pointsman_cli.lab_commands import ConfigOption, config_folder_of
from pointsman_cli.lab_process import LabJob, run_lab
from pointsman_cli.options import DEFAULT_DATA_DIR, DataDirOption, JsonOption, RecordsOption, RedisOption, log_arguments


def reconcile(
    exports: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="EXPORT",
            help="Files: answers (JSON) of OpenAI's usage and costs APIs or of Anthropic's usage and cost reports, or "
            "CSV of OpenAI's usage page, AWS's cost and usage report or Azure's cost export.",
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
    tolerance: Annotated[
        float,
        typer.Option(min=0, max=100, metavar="PERCENT", help="Up to which share of differences the exit code is 0."),
    ] = 1.0,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=MODEL",
            help="The export's name of a model of yours; MODEL may be empty: left out; repeatable.",
        ),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID=ENGINE",
            help="The engine that uses a key, project or resource of the export; may be empty: left out; repeatable.",
        ),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="An engine whose receipts are compared; repeatable; default: all of the export's provider.",
        ),
    ] = None,
    paid: Annotated[
        list[str] | None,
        typer.Option(metavar="ENGINE=USD", help="What was paid for an engine of your own in this time; repeatable."),
    ] = None,
    time_zone: Annotated[
        str, typer.Option(metavar="NAME", help="Of days in a CSV file that name none, such as America/Los_Angeles.")
    ] = "UTC",
    since: Annotated[
        str, typer.Option(metavar="AGE", help="Without an export: the time for engines of your own.")
    ] = "7d",
    redis: RedisOption = "",
    records: RecordsOption = "",
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Compare a provider's export of usage or costs with the receipts in the request log.

    Joins both by model, day, key, service tier and kind of token, prints a table of the differences and names for each
    the first cause that explains it. Also shows the cost per million tokens of engines with usd_per_hour. Exits with
    code 1 if more than --tolerance differs.
    """
    at = DataDir.at(data_dir)
    arguments = ["reconcile", str(config_folder_of(config, at)), "--tolerance", str(tolerance), "--since", since]
    for file in exports or ():
        if not file.is_file():
            raise UsageError(f"there is no file {file}; it should be an export of a provider")
        arguments += ["--export", str(file.absolute())]
    repeated = {"--model": model, "--key": key, "--engine": engine, "--paid": paid}
    arguments += [part for name, values in repeated.items() for value in values or () for part in (name, value)]
    arguments += ["--time-zone", time_zone]
    arguments += log_arguments(redis, records, at)
    run_interruptibly(run_lab(LabJob(arguments, at, as_json, needs_model=False)))
