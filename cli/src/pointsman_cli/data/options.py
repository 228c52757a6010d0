"""What the commands on data sets share: which configuration, and where the versions are."""

from pathlib import Path
from typing import Annotated

import typer

from pointsman_cli import run_file
from pointsman_cli.classifier.workbench import config_folder
from pointsman_cli.data_dir import DataDir
from pointsman_cli.errors import Misused

DATASETS = "datasets"
"""The default folder, inside the data directory."""

TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="A task with a flywheel section in tasks.yaml.")]
FolderOption = Annotated[
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
        metavar="DIR", help=f"Folder of the data sets; default: {DATASETS} in the data directory.", show_default=False
    ),
]


def configuration(named: Path | None, data_dir: DataDir) -> Path:
    """Raises Misused."""
    running = run_file.read(data_dir.run_file)
    if named is None and running is None:
        raise Misused("nothing runs here; name the configuration folder with --config")
    return config_folder(named or Path(running.example))  # type: ignore[union-attr]  # one of the two is there


def datasets_folder(named: Path | None, data_dir: DataDir) -> Path:
    return (named or data_dir.folder / DATASETS).absolute()
