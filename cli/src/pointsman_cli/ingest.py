"""`pointsman ingest`: text files into a collection."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pointsman_cli import run_file
from pointsman_cli.documents import read_documents
from pointsman_cli.home import Home
from pointsman_cli.interrupts import run_interruptibly
from pointsman_cli.options import HomeOption
from pointsman_cli.upserting import upsert

DEFAULT_RETRIEVER = "127.0.0.1:8082"


def ingest(
    collection: Annotated[str, typer.Argument(help="The collection; made where it is missing.")],
    sources: Annotated[list[Path], typer.Argument(metavar="FOLDER_OR_FILE...", help="Folders are read at any depth.")],
    retriever: Annotated[
        str, typer.Option(help=f"Its address; else that of the running `pointsman up`, else {DEFAULT_RETRIEVER}.")
    ] = "",
    home: HomeOption = Path(".pointsman"),
) -> None:
    """Add or replace .md and .txt files in a collection.

    A document's id is its path inside the folder without the ending, so that ingesting again replaces it. Its title is
    the first # heading. Nothing is ingested where a file is empty, binary or over 4 MiB; the message names it.
    """
    running = run_file.read(Home.at(home).run_file)
    address = retriever or (running.retriever if running else DEFAULT_RETRIEVER)
    documents = read_documents(sources)
    console = Console()
    began = time.monotonic()
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )
    with bar:
        task = bar.add_task(collection, total=len(documents))
        written = run_interruptibly(
            upsert(address, collection, documents, lambda documents: bar.update(task, completed=documents))
        )
    seconds = time.monotonic() - began
    console.print(f"{written.documents} documents, {written.chunks} chunks in {collection}; {seconds:.1f} s")
