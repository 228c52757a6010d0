"""`pointsman retriever`: the commands, and functions that call the retriever's administrative gRPC methods."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pointsman.v1 import retriever_pb2 as pb
from pointsman_servicekit.document_sketch import Sketch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pointsman_cli.errors import CommandError, UsageError, run_interruptibly
from pointsman_cli.grpc_clients import open_channel, retriever_stub, service_errors
from pointsman_cli.options import (
    DEFAULT_DATA_DIR,
    DataDirOption,
    RetrieverOption,
    TenantOption,
    retriever_address,
)
from pointsman_cli.retriever.copies import restore_all, restore_snapshot, snapshot_all, write_snapshot
from pointsman_cli.retriever.tune import tune
from pointsman_cli.tables import print_table

STORES = ("local", "shared")
_LIST_SECONDS = 30.0

CollectionArgument = Annotated[str, typer.Argument(help="The collection.")]


async def fetch_collections(address: str, tenant: str) -> Sequence[pb.Collection]:
    async with open_channel(address) as channel:
        with service_errors("retriever"):
            request = pb.ListCollectionsRequest(tenant=tenant)
            answer = await retriever_stub(channel).ListCollections(request, timeout=_LIST_SECONDS)
    return list(answer.collections)


async def fetch_sketch(address: str, tenant: str, collection: str) -> Sketch:
    """Returns a sketch of a collection's documents: a small summary with which later documents can be compared.

    `address` is the retriever's, HOST:PORT. Raises a PointsmanError if a call fails, or CommandError if a token or TLS
    file cannot be used.
    """
    async with open_channel(address) as channel:
        with service_errors("retriever"):
            request = pb.SketchRequest(tenant=tenant, collection=collection)
            sketch = await retriever_stub(channel).Sketch(request, timeout=_LIST_SECONDS)
    return Sketch(sketch.documents, tuple(sketch.smallest))


async def verify_collection(address: str, request: pb.VerifyRequest) -> pb.VerifyResponse:
    async with open_channel(address) as channel:
        with service_errors("retriever"):
            found: pb.VerifyResponse = await retriever_stub(channel).Verify(request)
    return found


async def follow(
    address: str, method: str, request: pb.ReembedRequest | pb.MoveRequest, progress: Callable[[Any], None]
) -> pb.Collection:
    """Calls the retriever's streaming method "Reembed" or "Move"; returns the collection as it is in the end.

    `progress` is called with each message of the retriever. Raises a PointsmanError if the call fails, CommandError if
    a token or TLS file cannot be used.
    """
    last: Any = pb.MoveProgress()
    async with open_channel(address) as channel:
        with service_errors("retriever"):
            async for last in getattr(retriever_stub(channel), method)(request):
                progress(last)
    collection: pb.Collection = last.collection
    return collection


def build_app() -> typer.Typer:
    app = typer.Typer(
        help="Inspect, verify, copy and tune the retriever's collections.", no_args_is_help=True, rich_markup_mode=None
    )
    app.command("list")(list_collections)
    for command in (verify, snapshot, snapshot_all, restore, restore_all, reembed, move, tune):
        app.command()(command)
    return app


def list_collections(
    retriever: RetrieverOption = "", tenant: TenantOption = "default", data_dir: DataDirOption = DEFAULT_DATA_DIR
) -> None:
    """List a tenant's collections, with the problems that the retriever reports of each."""
    found = run_interruptibly(fetch_collections(retriever_address(retriever, data_dir), tenant))
    rows = [
        (
            one.name,
            f"{one.documents:,}",
            f"{one.chunks:,}",
            f"{one.bytes / 2**20:.1f}",
            one.problem or "consistent",
            _quota(one.quota),
            one.store,
            str(one.version),
            one.fingerprint,
        )
        for one in found
    ]
    columns = ("collection", "documents", "chunks", "MiB", "state", "quota", "store", "version", "model")
    print_table(columns, rows, right=("documents", "chunks", "MiB", "version"))


def verify(
    collection: CollectionArgument,
    repair: Annotated[bool, typer.Option("--repair", help="Rebuild indexes that differ.")] = False,
    retriever: RetrieverOption = "",
    tenant: TenantOption = "default",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Read every row of a collection and compare the indexes with the rows; exit code 1 if an error remains."""
    request = pb.VerifyRequest(tenant=tenant, collection=collection, repair=repair)
    found = run_interruptibly(verify_collection(retriever_address(retriever, data_dir), request))
    what = f"{found.documents:,} documents, {found.chunks:,} chunks, checksum {found.checksum}; {found.seconds:.1f} s"
    for problem in found.problems:
        typer.echo(f"wrong: {problem}")
    if found.problems and not found.repaired:
        raise CommandError(f"{collection} is not consistent ({what}); restore its last snapshot")
    typer.echo(f"{collection} is {'consistent again' if found.repaired else 'consistent'}: {what}")


def snapshot(
    collection: CollectionArgument,
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")],
    retriever: RetrieverOption = "",
    tenant: TenantOption = "default",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Write a consistent copy of a collection to a file, while the collection stays in use."""
    if file.exists():
        raise UsageError(f"{file} exists already; name another")
    request = pb.SnapshotRequest(tenant=tenant, collection=collection)
    taken = run_interruptibly(write_snapshot(retriever_address(retriever, data_dir), request, file))
    held = taken.collection
    typer.echo(f"{file}: {held.documents:,} documents at version {held.version}; SHA-256 {taken.sha256}")


def restore(
    collection: CollectionArgument,
    file: Annotated[
        Path, typer.Argument(help="A file written by `pointsman retriever snapshot`.", exists=True, dir_okay=False)
    ],
    replace: Annotated[bool, typer.Option("--replace", help="Replace an existing collection.")] = False,
    retriever: RetrieverOption = "",
    tenant: TenantOption = "default",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Restore a collection from a snapshot after checking every row; searches continue meanwhile."""
    begin = pb.RestoreBegin(tenant=tenant, collection=collection, replace=replace)
    restored = run_interruptibly(restore_snapshot(retriever_address(retriever, data_dir), begin, file))
    typer.echo(f"{collection} has {restored.documents:,} documents, {restored.chunks:,} chunks")


def reembed(
    collection: CollectionArgument,
    retriever: RetrieverOption = "",
    tenant: TenantOption = "default",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Compute a collection's vectors again with the retriever's current embedding model.

    Run the command again to continue an interrupted migration.
    """
    request = pb.ReembedRequest(tenant=tenant, collection=collection)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns) as bar:
        task = bar.add_task(collection, total=None)

        def show(progress: pb.ReembedProgress) -> None:
            bar.update(task, completed=progress.documents, total=progress.total)

        migrated = run_interruptibly(follow(retriever_address(retriever, data_dir), "Reembed", request, show))
    typer.echo(
        f"{collection} is of {migrated.fingerprint}: {migrated.documents:,} documents, {migrated.chunks:,} chunks"
    )


def move(
    collection: CollectionArgument,
    to: Annotated[str, typer.Option("--to", help="`shared` (the store that several retrievers share) or `local`.")],
    retriever: RetrieverOption = "",
    tenant: TenantOption = "default",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Move a collection between the retriever's data folder and the shared store while it is in use.

    Vectors are copied, not computed again. Run the command again to continue an interrupted move to the shared store.
    """
    if to not in STORES:
        raise UsageError(f"--to is {to!r}; it is one of {', '.join(STORES)}")
    request = pb.MoveRequest(tenant=tenant, collection=collection, store=to)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns) as bar:
        task = bar.add_task(collection, total=None)

        def show(progress: pb.MoveProgress) -> None:
            bar.update(task, completed=progress.documents, total=progress.total)

        moved = run_interruptibly(follow(retriever_address(retriever, data_dir), "Move", request, show))
    typer.echo(f"{collection} is in the {moved.store} store: {moved.documents:,} documents, {moved.chunks:,} chunks")


def _quota(quota: pb.Quota) -> str:
    limits = (("documents", quota.documents), ("chunks", quota.chunks), ("bytes", quota.bytes))
    return ", ".join(f"{most:,} {what}" for what, most in limits if most) or "none"
