"""Writes and restores snapshots: one collection in a file, or all collections of all tenants in a folder."""

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from pointsman.v1 import retriever_pb2 as pb
from pointsman_servicekit.errors import PointsmanError

from pointsman_cli.errors import CommandError, UsageError, run_interruptibly
from pointsman_cli.grpc_clients import open_channel, retriever_stub, service_errors
from pointsman_cli.options import DEFAULT_DATA_DIR, DataDirOption, RetrieverOption, retriever_address

PART_BYTES = 1024 * 1024
SUFFIX = ".snapshot"
_LIST_SECONDS = 30.0
_ELSEWHERE = ("read_only_collection", "shared_collection")  # collections that other stores have copies of


async def write_snapshot(address: str, request: pb.SnapshotRequest, file: Path) -> pb.SnapshotPart:
    """Fetches a snapshot of a collection from the retriever at `address`, and writes it to `file`.

    The file appears only when it is complete; an existing file is replaced then. Returns the last message of the
    retriever, which describes the snapshot. Raises a PointsmanError if the call fails, CommandError if the data is
    damaged or the file cannot be written.
    """
    unfinished = file.with_name(f".{file.name}.unfinished")
    digest, last = hashlib.sha256(), pb.SnapshotPart()
    try:
        async with open_channel(address) as channel:
            with unfinished.open("wb") as target, service_errors("retriever"):
                async for last in retriever_stub(channel).Snapshot(request):
                    digest.update(last.data)
                    target.write(last.data)
        if last.sha256 != digest.hexdigest():
            raise CommandError("the snapshot did not arrive whole; take it again")
        unfinished.replace(file)
    except OSError as error:
        problem = error.strerror or error
        raise CommandError(
            f"{file} cannot be written: {problem}; name one in a folder of yours that has room"
        ) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return last


async def restore_snapshot(address: str, begin: pb.RestoreBegin, file: Path) -> pb.Collection:
    async with open_channel(address) as channel:
        with service_errors("retriever"):
            restored: pb.Collection = await retriever_stub(channel).Restore(_restore_requests(begin, file))
    return restored


async def _restore_requests(begin: pb.RestoreBegin, file: Path) -> AsyncIterator[pb.RestoreRequest]:
    yield pb.RestoreRequest(begin=begin)
    digest = hashlib.sha256()
    with file.open("rb") as source:
        while part := source.read(PART_BYTES):
            digest.update(part)
            yield pb.RestoreRequest(data=part)
    yield pb.RestoreRequest(sha256=digest.hexdigest())


def snapshot_all(
    folder: Annotated[Path, typer.Argument(help="The folder to write, as TENANT/COLLECTION.snapshot; must be empty.")],
    retriever: RetrieverOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Write a consistent copy of every collection of every tenant, while the collections stay in use.

    Collections in the shared store and in stores of your own are left out. If a collection cannot be copied, the
    command still copies the others, and ends with exit code 1.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; name another folder")
    folder.mkdir(parents=True, exist_ok=True)  # even without collections
    failed = run_interruptibly(_write_all(retriever_address(retriever, data_dir), folder))
    if failed:
        raise CommandError(f"no copy was made of {', '.join(failed)}: see `pointsman retriever list`")


def restore_all(
    folder: Annotated[Path, typer.Argument(help="A folder of `snapshot-all`.", exists=True, file_okay=False)],
    replace: Annotated[bool, typer.Option("--replace", help="Replace existing collections.")] = False,
    retriever: RetrieverOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Restore every collection of a folder that `snapshot-all` has written; searches continue meanwhile.

    Stops at the first collection that cannot be restored.
    """
    address = retriever_address(retriever, data_dir)
    for begin, file in _copies_in(folder, replace):
        restored = run_interruptibly(restore_snapshot(address, begin, file))
        typer.echo(f"{begin.tenant}/{begin.collection} has {restored.documents:,} documents")


async def _write_all(address: str, folder: Path) -> list[str]:
    """Copies all collections into the folder; returns those that could not be copied, as TENANT/NAME.

    Skips collections in the shared store and in external stores. Raises CommandError if a file cannot be written or
    does not arrive whole, PointsmanError if the collections cannot be listed.
    """
    failed = []
    for one in await _collections_of_all_tenants(address):
        file = folder / one.tenant / f"{one.name}{SUFFIX}"
        file.parent.mkdir(exist_ok=True)
        try:
            taken = await write_snapshot(address, pb.SnapshotRequest(tenant=one.tenant, collection=one.name), file)
        except PointsmanError as error:
            if error.code not in _ELSEWHERE:
                typer.echo(f"{one.tenant}/{one.name}: {error.message} ({error.code})", err=True)
                failed.append(f"{one.tenant}/{one.name}")
            continue
        typer.echo(f"{file}: {taken.collection.documents:,} documents at version {taken.collection.version}")
    return failed


async def _collections_of_all_tenants(address: str) -> list[pb.Collection]:
    async with open_channel(address) as channel:
        with service_errors("retriever"):
            request = pb.ListCollectionsRequest(all_tenants=True)
            answer = await retriever_stub(channel).ListCollections(request, timeout=_LIST_SECONDS)
    return list(answer.collections)


def _copies_in(folder: Path, replace: bool) -> Iterator[tuple[pb.RestoreBegin, Path]]:
    """Yields the first request of a restoration and the file to restore, for each copy in the folder.

    Raises UsageError if there is no copy.
    """
    files = sorted(folder.glob(f"*/*{SUFFIX}"))
    if not files:
        raise UsageError(f"{folder} has no TENANT/COLLECTION{SUFFIX}")
    for file in files:
        yield (
            pb.RestoreBegin(tenant=file.parent.name, collection=file.name.removesuffix(SUFFIX), replace=replace),
            file,
        )
