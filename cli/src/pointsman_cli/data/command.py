"""`pointsman data build`: the next version of a task's data set."""

import typer

from pointsman_cli.classifier import workbench
from pointsman_cli.classifier.workbench import Job
from pointsman_cli.data.options import DatasetsOption, FolderOption, TaskArgument, configuration, datasets_folder
from pointsman_cli.data_dir import DataDir
from pointsman_cli.interrupts import run_interruptibly
from pointsman_cli.options import DEFAULT_DATA_DIR, DataDirOption, JsonOption, RedisOption, redis_url


def datasets_app() -> typer.Typer:
    app = typer.Typer(
        help="Build training data from stored answers and feedback.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.command()(build)
    return app


def build(
    task: TaskArgument,
    config: FolderOption = None,
    out: DatasetsOption = None,
    redis: RedisOption = "",
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Write the next version of a task's data set: training rows, held-out rows, preference pairs and a manifest.

    For each prompt, a correction by an expert wins over a high rating, and that over an accepted answer of the teacher
    path. Only answers of tenants that consent now are used; stored answers of others are removed.
    """
    at = DataDir.at(data_dir)
    arguments = ["data", str(configuration(config, at)), task, "--out", str(datasets_folder(out, at))]
    if url := redis_url(redis, at):
        arguments += ["--redis", url]
    run_interruptibly(workbench.run(Job(arguments, at, as_json)))
