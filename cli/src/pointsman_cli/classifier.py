"""`pointsman classifier fit` and `lint`: fit the task classifier, and check its training examples."""

from pathlib import Path
from typing import Annotated

import typer

from pointsman_cli.data_dir import DataDir
from pointsman_cli.errors import run_interruptibly
from pointsman_cli.lab import FolderArgument, LabJob, SinceOption, config_folder, run_lab
from pointsman_cli.options import DEFAULT_DATA_DIR, DataDirOption, JsonOption, RedisOption, redis_url


def classifier_app() -> typer.Typer:
    app = typer.Typer(help="Fit the task classifier and check its training examples.", no_args_is_help=True)
    app.command()(fit)
    app.command()(lint)
    return app


def fit(
    folder: FolderArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The file to write; default: classifier.artefact in the configuration folder.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Fit the classifier to the tasks' examples and write it to a file, so that the gateway need not fit it at start.

    Takes seconds on a CPU and is deterministic. Set POINTSMAN_GATEWAY_CLASSIFIER to the file; the gateway refuses it if
    the examples have changed since.
    """
    arguments = ["fit", str(config_folder(folder))]
    if out is not None:
        arguments += ["--out", str(out.absolute())]
    run_interruptibly(run_lab(LabJob(arguments, DataDir.at(data_dir), as_json)))


def lint(
    folder: FolderArgument,
    since: SinceOption = "24h",
    redis: RedisOption = "",
    write: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the proposed examples to this JSON Lines file for review."),
    ] = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """List problems of the training examples, and propose new ones; changes nothing.

    Checks the examples for tasks that are confused with each other and for near-duplicates across tasks. With a request
    log, it also reports groups of abstained requests that look like a new task, and requests whose task was corrected.
    """
    at = DataDir.at(data_dir)
    arguments = ["suggest", str(config_folder(folder)), "--since", since]
    if url := redis_url(redis, at):
        arguments += ["--redis", url]
    if write is not None:
        arguments += ["--write", str(write.absolute())]
    run_interruptibly(run_lab(LabJob(arguments, at, as_json)))
