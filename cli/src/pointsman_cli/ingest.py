"""`pointsman ingest`: synchronizes a collection of the retriever with files and folders, over one gRPC stream each."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from pointsman.v1 import retriever_pb2 as pb
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pointsman_cli.errors import CommandError, UsageError, run_interruptibly
from pointsman_cli.grpc_clients import open_channel, retriever_stub, service_errors
from pointsman_cli.options import DEFAULT_DATA_DIR, DataDirOption, RetrieverOption, TenantOption, retriever_address
from pointsman_cli.sources import MEDIA_TYPES, Source, SourceFile, find_sources

DEFAULT_TENANT = "default"
MAX_PROBLEMS_SHOWN = 20
MAX_SKIPPED_SHOWN = 5
_CREATE_SECONDS = 30.0


@dataclass
class IngestCounts:
    """How many documents and chunks (passages of them) an ingestion has processed so far, and what failed."""

    answered: int = 0  # documents for which the retriever has reported an outcome
    written: int = 0
    unchanged: int = 0
    removed: int = 0
    chunks: int = 0  # newly written
    problems: list[str] = field(default_factory=list)
    """A message for each document that failed, and for each file or folder that could not be read."""


@dataclass(frozen=True, slots=True)
class IngestTarget:
    """The collection to which documents are sent: the retriever's address ("HOST:PORT"), the tenant, and its name."""

    address: str
    tenant: str
    collection: str


def ingest(
    collection: Annotated[str, typer.Argument(help="The collection; created if missing.")],
    sources: Annotated[list[Path], typer.Argument(metavar="FOLDER_OR_FILE...", help="Folders are read recursively.")],
    retriever: RetrieverOption = "",
    tenant: TenantOption = DEFAULT_TENANT,
    prune: Annotated[
        bool,
        typer.Option("--prune/--no-prune", help="Remove documents whose file is gone from the folder, or keep them."),
    ] = True,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Synchronize a collection with a folder of text, Markdown, HTML, PDF, JSON Lines and source files.

    Unchanged files are skipped, documents of deleted files are removed, and unreadable files are reported while the
    rest is ingested. After an interruption, run the same command again to continue. A document's id is its path inside
    the folder, for .md and .txt files without the extension.
    """
    found = find_sources(sources)
    target = IngestTarget(retriever_address(retriever, data_dir), tenant, collection)
    console = Console()
    began = time.monotonic()
    counts = _send_with_progress_bar(target, found, prune, console)
    for problem in counts.problems[:MAX_PROBLEMS_SHOWN]:
        console.print(f"failed: {problem}", markup=False, highlight=False, soft_wrap=True)
    if skipped := skipped_text(found):
        console.print(skipped, markup=False, highlight=False, soft_wrap=True)
    documents = counts.written + counts.unchanged
    console.print(
        f"{documents} documents, {counts.chunks} chunks in {collection}: {counts.written} written, "
        f"{counts.unchanged} unchanged, {counts.removed} removed; {time.monotonic() - began:.1f} s",
        soft_wrap=True,
    )
    if counts.problems:
        raise CommandError(f"{len(counts.problems)} documents were not ingested; the first: {counts.problems[0]}")


def skipped_text(sources: Sequence[Source]) -> str:
    """Returns a line that names the files not ingested because their ending is unknown; empty if there are none.

    Names at most MAX_SKIPPED_SHOWN files and counts the others.
    """
    skipped = [name for source in sources for name in source.skipped]
    if not skipped:
        return ""
    more = f" and {len(skipped) - MAX_SKIPPED_SHOWN} more" if len(skipped) > MAX_SKIPPED_SHOWN else ""
    named = ", ".join(skipped[:MAX_SKIPPED_SHOWN])
    return f"skipped: {named}{more}; no document has such an ending (known: {', '.join(MEDIA_TYPES)})"


def _send_with_progress_bar(target: IngestTarget, sources: list[Source], prune: bool, console: Console) -> IngestCounts:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(target.collection, total=sum(len(source.files) for source in sources))

        async def work() -> IngestCounts:
            last = IngestCounts()

            def show(counts: IngestCounts) -> None:
                nonlocal last
                last = counts
                bar.update(task, completed=counts.answered)

            try:
                return await send_sources(target, sources, prune, show)
            except asyncio.CancelledError:
                ingested = last.written + last.unchanged
                console.print(f"{ingested} documents are ingested; run the same command to continue")
                raise

        return run_interruptibly(work())


async def send_sources(
    target: IngestTarget, sources: list[Source], prune: bool, on_progress: Callable[[IngestCounts], None]
) -> IngestCounts:
    """Creates the target collection if it is missing, sends the documents of all sources, and returns the counts.

    With `prune`, documents of a folder whose file is gone are removed, unless a file or folder in it cannot be read.
    `on_progress` is called after each document and each source, always with the object that is returned in the end.

    Every document that `IngestCounts.answered` counts is durable on the retriever's disk, also if the call is
    interrupted; a repeated call skips unchanged documents. Failures of single documents are in the result's `problems`.
    Raises a PointsmanError if a call of the retriever fails (see `service_errors`), or CommandError as `open_channel`
    does.
    """
    counts = IngestCounts()
    async with open_channel(target.address) as channel:
        retriever = retriever_stub(channel)
        with service_errors("retriever"):
            await retriever.CreateCollection(
                pb.CreateCollectionRequest(name=target.collection, tenant=target.tenant, if_missing=True),
                timeout=_CREATE_SECONDS,
            )
            for source in sources:
                async for event in retriever.Ingest(_ingest_requests(target, source, prune, counts)):
                    _count(counts, event)
                    on_progress(counts)
    return counts


async def _ingest_requests(
    target: IngestTarget, source: Source, prune: bool, counts: IngestCounts
) -> AsyncIterator[pb.IngestRequest]:
    yield pb.IngestRequest(begin=pb.IngestBegin(tenant=target.tenant, collection=target.collection, source=source.name))
    counts.problems.extend(source.problems)
    complete = not source.problems
    for file in source.files:
        try:
            content = await asyncio.to_thread(file.read)
        except UsageError as error:
            counts.problems.append(str(error))
            complete = False  # the retriever must not take an unreadable file for a deleted one
        else:
            yield pb.IngestRequest(document=_document(file, content))
    remove = prune and complete and bool(source.name)
    yield pb.IngestRequest(end=pb.IngestEnd(remove_missing=remove))


def _document(file: SourceFile, content: bytes) -> pb.Document:
    return pb.Document(
        id=file.id,
        title=file.title(content),
        content=content,
        media_type=file.media_type,
        metadata={"file": file.relative},
    )


def _count(counts: IngestCounts, event: pb.IngestResponse) -> None:
    if event.HasField("summary"):
        counts.removed += event.summary.removed
        return
    outcome = event.outcome
    counts.answered += 1
    counts.chunks += outcome.chunks
    if outcome.state == pb.DocumentOutcome.WRITTEN:
        counts.written += 1
    elif outcome.state == pb.DocumentOutcome.UNCHANGED:
        counts.unchanged += 1
    else:
        counts.problems.append(outcome.message)
