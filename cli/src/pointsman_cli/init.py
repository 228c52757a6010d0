"""`pointsman init`: copies an example folder to start from, and finds the files that are installed with the command."""

import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from pointsman_cli.errors import CommandError, UsageError

_INSTALLED = Path(__file__).parent / "files"
_CHECKOUT = Path(__file__).parents[3]
_IGNORED = shutil.ignore_patterns("__pycache__", ".pointsman")


def installed_path(name: str) -> Path:
    """Returns a folder of the repository, such as "examples/minimal": in a wheel its copy, in a checkout itself."""
    return next((path for root in (_INSTALLED, _CHECKOUT) if (path := root / name).exists()), _INSTALLED / name)


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to create.")],
    example: Annotated[
        Literal["minimal", "helpdesk"],
        typer.Option(help="minimal: one file for your own engine; helpdesk: the complete example with adapters."),
    ] = "minimal",
) -> None:
    """Copy an example's configuration to a new folder, to edit it and start it with `pointsman up FOLDER`."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not an empty folder; name another one")
    try:
        shutil.copytree(installed_path(f"examples/{example}"), folder, ignore=_IGNORED, dirs_exist_ok=True)
        shutil.copytree(installed_path("examples/schema"), folder / "schema")
        for file in folder.rglob("*.yaml"):  # each names its schema for editors, which was one folder further up
            file.write_text(file.read_text("utf-8").replace("../schema/", "schema/", 1), "utf-8")
    except OSError as error:
        raise CommandError(f"{folder} could not be written: {error}") from error
    typer.echo(f"{folder / 'pointsman.yaml'} is ready; edit it, then run: pointsman up {folder}")
