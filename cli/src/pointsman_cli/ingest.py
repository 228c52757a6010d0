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
from pointsman_cli.options import DEFAULT_DATA_DIR, DataDirOption, RetrieverOption, TenantOption, retriever_address
from pointsman_cli.sources import Source, find

MOST_PROBLEMS_SHOWN = 20


def ingest(
    collection: Annotated[str, typer.Argument(help="The collection; created if missing.")],
    sources: Annotated[list[Path], typer.Argument(metavar="FOLDER_OR_FILE...", help="Folders are read recursively.")],
    retriever: RetrieverOption = "",
    tenant: TenantOption = "default",
    prune: Annotated[
        bool,
        typer.Option("--prune/--no-prune", help="Remove documents whose file is gone from the folder, or keep them."),
    ] = True,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Synchronize a collection with a folder of text, Markdown, HTML, PDF, JSON Lines and source files.

    Unchanged files are skipped, documents of deleted files are removed, and unreadable files are reported while the
    rest is ingested. After an interruption the same command continues. A document's id is its path inside the folder,
    for .md and .txt files without the extension.
    """
    found = find(sources)
    target = Target(retriever_address(retriever, data_dir), tenant, collection)
    console = Console()
    began = time.monotonic()
    tally = _send(target, found, prune, console)
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
