"""`pointsman prices`: keeps the prices of the configuration's models up to date."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from pointsman_cli.data_dir import DataDir
from pointsman_cli.errors import run_interruptibly
from pointsman_cli.lab_commands import FolderArgument, config_folder
from pointsman_cli.lab_process import LabJob, run_lab
from pointsman_cli.options import DEFAULT_DATA_DIR, JsonOption


def build_app() -> typer.Typer:
    app = typer.Typer(help="Compare and update the prices of models.", no_args_is_help=True)
    app.callback()(lambda: None)  # so that the command keeps its name although there is one
    app.command("import")(import_prices)
    return app


def import_prices(
    folder: FolderArgument,
    source: Annotated[
        str,
        typer.Option(
            "--from", metavar="litellm|FILE", help="The price table of the installed package, or a file of its format."
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A model of the configuration; may be repeated; default: all of them."),
    ] = None,
    starting: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            help="The day (UTC) from which on the new prices hold; default: now.",
            show_default=False,
        ),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Write the new prices into the configuration.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show how LiteLLM's prices differ from the present ones of your models, and write them with --write.

    Reads dollars per token by kind of token, length of the prompt and service tier; downloads nothing. Exits with code
    1 if an entry of one of your models is wrong or incomplete.
    """
    file = source if source == "litellm" else str(Path(source).absolute())
    arguments = ["prices", str(config_folder(folder)), "--from", file]
    arguments += [argument for name in model or () for argument in ("--model", name)]
    if starting is not None:
        arguments += ["--starting", starting.date().isoformat()]
    if write:
        arguments.append("--write")
    run_interruptibly(run_lab(LabJob(arguments, DataDir.at(DEFAULT_DATA_DIR), as_json, needs_model=False)))
