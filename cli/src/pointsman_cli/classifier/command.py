"""`pointsman classifier fit` and `pointsman classifier suggest`."""

from pathlib import Path
from typing import Annotated

import typer

from pointsman_cli.classifier import workbench
from pointsman_cli.classifier.options import FolderArgument, JsonOption, RedisOption, SinceOption
from pointsman_cli.classifier.workbench import Job
from pointsman_cli.home import Home
from pointsman_cli.interrupts import run_interruptibly
from pointsman_cli.options import HomeOption


def classifier_app() -> typer.Typer:
    app = typer.Typer(help="Fit the classifier, and find out what its examples lack.", no_args_is_help=True)
    app.command()(fit)
    app.command()(suggest)
    return app


def fit(
    folder: FolderArgument,
    out: Annotated[
        Path | None, typer.Option(help="The artefact's file; else classifier.artefact in the configuration's folder.")
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = Path(".pointsman"),
) -> None:
    """Learn the tasks from their examples and write what was learned, so that a gateway starts without learning.

    Seconds on a CPU. The same examples give the same file, byte for byte. POINTSMAN_GATEWAY_CLASSIFIER names it to the
    gateway, which refuses it by name once the examples are others.
    """
    arguments = ["fit", str(workbench.config_folder(folder))]
    if out is not None:
        arguments += ["--out", str(out.absolute())]
    run_interruptibly(workbench.run(Job(arguments, Home.at(home), as_json)))


def suggest(
    folder: FolderArgument,
    since: SinceOption = "24h",
    redis: RedisOption = "",
    write: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", help="Write the proposed examples there, to be read before they are used."),
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = Path(".pointsman"),
) -> None:
    """List what would make the classifier better; changes nothing.

    From the examples: tasks that are taken for each other, and near-duplicates across tasks. From the journal, where
    there is one: groups of abstained requests that look like a new task, and requests that feedback gives another task.
    """
    at = Home.at(home)
    arguments = ["suggest", str(workbench.config_folder(folder)), "--since", since]
    if url := workbench.redis_of(redis, at):
        arguments += ["--redis", url]
    if write is not None:
        arguments += ["--write", str(write.absolute())]
    run_interruptibly(workbench.run(Job(arguments, at, as_json)))
