"""`pointsman data build`: the next version of a task's data set."""

from pathlib import Path

import typer

from pointsman_cli.classifier import workbench
from pointsman_cli.classifier.options import JsonOption, RedisOption
from pointsman_cli.classifier.workbench import Job
from pointsman_cli.data.options import DataOption, FolderOption, TaskArgument, configuration, data_root
from pointsman_cli.home import Home
from pointsman_cli.interrupts import run_interruptibly
from pointsman_cli.options import HomeOption


def data_app() -> typer.Typer:
    app = typer.Typer(
        help="Make data sets from what was kept of answers, and from feedback.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.command()(build)
    return app


def build(
    task: TaskArgument,
    config: FolderOption = None,
    out: DataOption = None,
    redis: RedisOption = "",
    as_json: JsonOption = False,
    home: HomeOption = Path(".pointsman"),
) -> None:
    """Write the next version: rows to learn from, rows held out, pairs of answers, and a manifest of their origin.

    An expert's right answer comes first, then what was rated high, then what the teacher path answered and the
    validators accepted. Only of tenants that consent now: what others' answers were kept is removed.
    """
    at = Home.at(home)
    arguments = ["data", str(configuration(config, at)), task, "--out", str(data_root(out, at))]
    if url := workbench.redis_of(redis, at):
        arguments += ["--redis", url]
    run_interruptibly(workbench.run(Job(arguments, at, as_json)))
