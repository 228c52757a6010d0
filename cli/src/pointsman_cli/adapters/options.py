"""What the commands on adapters share: which lora-server, and who asks."""

import getpass
from pathlib import Path
from typing import Annotated

import typer

from pointsman_cli import run_file
from pointsman_cli.home import Home

DEFAULT_LORA_SERVER = "127.0.0.1:8083"
HERE = Path(".pointsman")

LoraServerOption = Annotated[
    str, typer.Option(help=f"Its address; else that of the running `pointsman up`, else {DEFAULT_LORA_SERVER}.")
]
AuthorOption = Annotated[str, typer.Option(help="For the history; else your user name.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
ExpectedOption = Annotated[
    str, typer.Option(metavar="VERSION", help="Only if the alias points there now; else whatever it points to.")
]
VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="As `list` shows it: triage@3f9a1c0b77de.")]
AliasArgument = Annotated[str, typer.Argument(metavar="ALIAS", help="As in triage@prod.")]
AdapterArgument = Annotated[str, typer.Argument(metavar="NAME", help="Only this adapter's; else all.")]


def lora_server_address(given: str, home: Path) -> str:
    running = run_file.read(Home.at(home).run_file)
    return given or (running.lora_server if running else DEFAULT_LORA_SERVER)


def who_asks(given: str) -> str:
    """Nobody's, where the system has no name for whoever asks."""
    try:
        return given or getpass.getuser()
    except (OSError, KeyError):
        return ""
