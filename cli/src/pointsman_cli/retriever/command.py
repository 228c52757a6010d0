"""`pointsman retriever`: list, verify, snapshot, restore, reembed, tune."""

from pathlib import Path
from typing import Annotated

import typer
from pointsman.v1 import retriever_pb2 as pb
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pointsman_cli.errors import CommandError, Misused
from pointsman_cli.interrupts import run_interruptibly
from pointsman_cli.options import HomeOption
from pointsman_cli.retriever import calls
from pointsman_cli.retriever.options import RetrieverOption, TenantOption, retriever_address
from pointsman_cli.retriever.tune import tune

CollectionArgument = Annotated[str, typer.Argument(help="The collection.")]


def build_app() -> typer.Typer:
    app = typer.Typer(help="Look after the retriever's collections.", no_args_is_help=True, rich_markup_mode=None)
    app.command("list")(list_collections)
    for command in (verify, snapshot, restore, reembed, tune):
        app.command()(command)
    return app


def list_collections(
    retriever: RetrieverOption = "", tenant: TenantOption = "default", home: HomeOption = Path(".pointsman")
) -> None:
    """Show a tenant's collections, with what is wrong with them."""
    found = run_interruptibly(calls.list_collections(retriever_address(retriever, home), tenant))
    table = Table("collection", "documents", "chunks", "MiB", "quota", "version", "model", "state", box=None)
    for one in found:
        table.add_row(
            one.name,
            f"{one.documents:,}",
            f"{one.chunks:,}",
            f"{one.bytes / 2**20:.1f}",
            _quota(one.quota),
            str(one.version),
            one.fingerprint,
            one.problem or "consistent",
        )
    Console(width=200).print(table)


def verify(
    collection: CollectionArgument,
    repair: Annotated[bool, typer.Option("--repair", help="Make the indexes anew where they differ.")] = False,
    retriever: RetrieverOption = "",
    tenant: TenantOption = "default",
    home: HomeOption = Path(".pointsman"),
) -> None:
    """Read every row of a collection, and compare the indexes with them; exits with 1 where anything is wrong."""
    request = pb.VerifyRequest(tenant=tenant, collection=collection, repair=repair)
    found = run_interruptibly(calls.verify(retriever_address(retriever, home), request))
    what = f"{found.documents:,} documents, {found.chunks:,} chunks, checksum {found.checksum}; {found.seconds:.1f} s"
    for problem in found.problems:
        typer.echo(f"wrong: {problem}")
    if found.problems and not found.repaired:
        raise CommandError(f"{collection} is not consistent ({what}); restore its last snapshot")
    typer.echo(f"{collection} is {'consistent again' if found.repaired else 'consistent'}: {what}")


def snapshot(
    collection: CollectionArgument,
    file: Annotated[Path, typer.Argument(help="Where to write it; must not be there.")],
    retriever: RetrieverOption = "",
    tenant: TenantOption = "default",
    home: HomeOption = Path(".pointsman"),
) -> None:
    """Copy a collection as it is at one moment into a file, while it serves."""
    if file.exists():
        raise Misused(f"{file} is there already; name another")
    request = pb.SnapshotRequest(tenant=tenant, collection=collection)
    taken = run_interruptibly(calls.snapshot(retriever_address(retriever, home), request, file))
    held = taken.collection
    typer.echo(f"{file}: {held.documents:,} documents at version {held.version}; SHA-256 {taken.sha256}")


def restore(
    collection: CollectionArgument,
    file: Annotated[
        Path, typer.Argument(help="What `pointsman retriever snapshot` wrote.", exists=True, dir_okay=False)
    ],
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of the collection.")] = False,
    retriever: RetrieverOption = "",
    tenant: TenantOption = "default",
    home: HomeOption = Path(".pointsman"),
) -> None:
    """Put a snapshot in place, after every row of it was checked; searches go on meanwhile."""
    begin = pb.RestoreBegin(tenant=tenant, collection=collection, replace=replace)
    restored = run_interruptibly(calls.restore(retriever_address(retriever, home), begin, file))
    typer.echo(f"{collection} has {restored.documents:,} documents, {restored.chunks:,} chunks")


def reembed(
    collection: CollectionArgument,
    retriever: RetrieverOption = "",
    tenant: TenantOption = "default",
    home: HomeOption = Path(".pointsman"),
) -> None:
    """Migrate a collection to the embedding model that the retriever runs; interrupted, it goes on where it was."""
    request = pb.ReembedRequest(tenant=tenant, collection=collection)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns) as bar:
        task = bar.add_task(collection, total=None)

        def show(progress: pb.ReembedProgress) -> None:
            bar.update(task, completed=progress.documents, total=progress.total)

        migrated = run_interruptibly(calls.reembed(retriever_address(retriever, home), request, show))
    typer.echo(
        f"{collection} is of {migrated.fingerprint}: {migrated.documents:,} documents, {migrated.chunks:,} chunks"
    )


def _quota(quota: pb.Quota) -> str:
    limits = (("documents", quota.documents), ("chunks", quota.chunks), ("bytes", quota.bytes))
    return ", ".join(f"{most:,} {what}" for what, most in limits if most) or "none"
