"""Which retriever, and whose collections."""

from pathlib import Path
from typing import Annotated

import typer

from pointsman_cli import run_file
from pointsman_cli.home import Home

DEFAULT_RETRIEVER = "127.0.0.1:8082"

RetrieverOption = Annotated[
    str, typer.Option(help=f"Its address; else that of the running `pointsman up`, else {DEFAULT_RETRIEVER}.")
]
TenantOption = Annotated[str, typer.Option(help="Whose collection it is.")]


def retriever_address(given: str, home: Path) -> str:
    if given:
        return given
    running = run_file.read(Home.at(home).run_file)
    return running.retriever if running else DEFAULT_RETRIEVER
