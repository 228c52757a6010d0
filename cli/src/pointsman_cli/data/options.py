"""What the commands on data sets share: which configuration, and where the versions are."""

from pathlib import Path
from typing import Annotated

import typer

from pointsman_cli import run_file
from pointsman_cli.classifier.workbench import config_folder
from pointsman_cli.errors import Misused
from pointsman_cli.home import Home

DATA = "data"
"""In the home's folder, unless another is named."""

TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="Of tasks.yaml, where it has a flywheel.")]
FolderOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="A configuration, or an example that has one; else that of the running `pointsman up`."
    ),
]
DataOption = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help=f"Where the versions are; else {DATA} in --home.")
]


def configuration(named: Path | None, home: Home) -> Path:
    """Raises Misused."""
    running = run_file.read(home.run_file)
    if named is None and running is None:
        raise Misused("nothing runs here; name the configuration's folder with --config")
    return config_folder(named or Path(running.example))  # type: ignore[union-attr]  # one of the two is there


def data_root(named: Path | None, home: Home) -> Path:
    return (named or home.folder / DATA).absolute()
