"""`pointsman ingest`: files into a collection, kept in step with their folder."""

import asyncio
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pointsman_cli.errors import CommandError
from pointsman_cli.ingesting import Tally, Target
from pointsman_cli.ingesting import ingest as send
from pointsman_cli.interrupts import run_interruptibly
from pointsman_cli.options import HomeOption
from pointsman_cli.retriever.options import RetrieverOption, TenantOption, retriever_address
from pointsman_cli.sources import Source, find

MOST_PROBLEMS_SHOWN = 20


def ingest(
    collection: Annotated[str, typer.Argument(help="The collection; made where it is missing.")],
    sources: Annotated[list[Path], typer.Argument(metavar="FOLDER_OR_FILE...", help="Folders are read at any depth.")],
    retriever: RetrieverOption = "",
    tenant: TenantOption = "default",
    keep_missing: Annotated[
        bool, typer.Option("--keep-missing", help="Keep documents whose file is gone from the folder.")
    ] = False,
    home: HomeOption = Path(".pointsman"),
) -> None:
    """Bring a collection in step with a folder: text, Markdown, HTML, PDF, JSON lines and source files.

    What has not changed costs nothing, what is gone from the folder is removed, and a file that cannot be read is named
    while the rest goes on. After an interrupt, the same command goes on where it was. A document's id is its path
    inside the folder, of .md and .txt files without the ending.
    """
    found = find(sources)
    target = Target(retriever_address(retriever, home), tenant, collection)
    console = Console()
    began = time.monotonic()
    tally = _send(target, found, not keep_missing, console)
    for problem in tally.problems[:MOST_PROBLEMS_SHOWN]:
        console.print(f"failed: {problem}", markup=False, highlight=False, soft_wrap=True)
    documents = tally.written + tally.unchanged
    console.print(
        f"{documents} documents, {tally.chunks} chunks in {collection}: {tally.written} written, "
        f"{tally.unchanged} unchanged, {tally.removed} removed; {time.monotonic() - began:.1f} s",
        soft_wrap=True,
    )
    if tally.problems:
        raise CommandError(f"{len(tally.problems)} documents were not ingested; the first: {tally.problems[0]}")


def _send(target: Target, sources: list[Source], remove_missing: bool, console: Console) -> Tally:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(target.collection, total=sum(len(source.files) for source in sources))

        def show(tally: Tally) -> None:
            bar.update(task, completed=tally.answered)

        async def work() -> Tally:
            last = Tally()

            def keep(tally: Tally) -> None:
                nonlocal last
                last = tally
                show(tally)

            try:
                return await send(target, sources, remove_missing, keep)
            except asyncio.CancelledError:
                kept = last.written + last.unchanged
                console.print(f"{kept} documents are kept; the same command goes on from there")
                raise

        return run_interruptibly(work())
