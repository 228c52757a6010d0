"""`pointsman datasets build`: the next version of a task's data set, from stored answers and feedback."""

from pathlib import Path
from typing import Annotated

import typer

from pointsman_cli.data_dir import DataDir, read_run
from pointsman_cli.errors import UsageError, run_interruptibly
from pointsman_cli.lab import LabJob, config_folder, run_lab
from pointsman_cli.options import DEFAULT_DATA_DIR, DataDirOption, JsonOption, RedisOption, redis_url

DATASETS_FOLDER = "datasets"  # in the data directory

TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="A task with a flywheel section in tasks.yaml.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        metavar="CONFIG",
        help="A configuration or example folder; default: the one of the running `pointsman up`.",
        show_default=False,
    ),
]
DatasetsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help=f"Folder of the data sets; default: {DATASETS_FOLDER} in the data directory.",
        show_default=False,
    ),
]


def config_folder_of(named: Path | None, data_dir: DataDir) -> Path:
    """Returns the named configuration, or that of the running `pointsman up`; raises UsageError if there is neither."""
    running = read_run(data_dir.run_file)
    if named is None and running is None:
        raise UsageError("nothing runs here; name the configuration folder with --config")
    return config_folder(named or Path(running.example))  # type: ignore[union-attr]  # one of the two is set


def datasets_folder(named: Path | None, data_dir: DataDir) -> Path:
    return (named or data_dir.folder / DATASETS_FOLDER).absolute()


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
    config: ConfigOption = None,
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
    arguments = ["data", str(config_folder_of(config, at)), task, "--out", str(datasets_folder(out, at))]
    if url := redis_url(redis, at):
        arguments += ["--redis", url]
    run_interruptibly(run_lab(LabJob(arguments, at, as_json)))
