"""Options of the commands that run the gateway's workbench."""

from pathlib import Path
from typing import Annotated

import typer

FolderArgument = Annotated[
    Path, typer.Argument(metavar="EXAMPLE_OR_CONFIG_FOLDER", help="A configuration, or an example that has one.")
]
SinceOption = Annotated[str, typer.Option(metavar="AGE", help='How far back the journal is read: "30m", "24h", "7d".')]
RedisOption = Annotated[
    str, typer.Option(metavar="URL", help="Where the journal is; else that of the running `pointsman up`.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")]
