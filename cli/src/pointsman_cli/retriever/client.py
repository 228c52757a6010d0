"""Calls of the retriever's administrative methods."""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from pointsman.v1 import retriever_pb2 as pb
from pointsman_servicekit.document_sketches import Sketch

from pointsman_cli.errors import CommandError
from pointsman_cli.grpc_clients import open_channel, retriever_stub, service_errors

PART_BYTES = 1024 * 1024
_LIST_SECONDS = 30.0


async def fetch_collections(address: str, tenant: str) -> Sequence[pb.Collection]:
    async with open_channel(address) as channel:
        with service_errors("retriever"):
            request = pb.ListCollectionsRequest(tenant=tenant)
            answer = await retriever_stub(channel).ListCollections(request, timeout=_LIST_SECONDS)
    return list(answer.collections)


async def fetch_sketch(address: str, tenant: str, collection: str) -> Sketch:
    """Returns a sketch of the documents that the collection has now."""
    async with open_channel(address) as channel:
        with service_errors("retriever"):
            request = pb.SketchRequest(tenant=tenant, collection=collection)
            told = await retriever_stub(channel).Sketch(request, timeout=_LIST_SECONDS)
    return Sketch(told.documents, tuple(told.smallest))


async def verify_collection(address: str, request: pb.VerifyRequest) -> pb.VerifyResponse:
    async with open_channel(address) as channel:
        with service_errors("retriever"):
            found: pb.VerifyResponse = await retriever_stub(channel).Verify(request)
    return found


async def write_snapshot(address: str, request: pb.SnapshotRequest, file: Path) -> pb.SnapshotPart:
    """Writes a snapshot to a file that appears only when it is complete; returns the last message, which describes it.

    Raises CommandError if the data is damaged or the file cannot be written.
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


async def reembed_collection(
    address: str, request: pb.ReembedRequest, progress: Callable[[pb.ReembedProgress], None]
) -> pb.Collection:
    last = pb.ReembedProgress()
    async with open_channel(address) as channel:
        with service_errors("retriever"):
            async for last in retriever_stub(channel).Reembed(request):
                progress(last)
    return last.collection


async def _restore_requests(begin: pb.RestoreBegin, file: Path) -> AsyncIterator[pb.RestoreRequest]:
    yield pb.RestoreRequest(begin=begin)
    digest = hashlib.sha256()
    with file.open("rb") as source:
        while part := source.read(PART_BYTES):
            digest.update(part)
            yield pb.RestoreRequest(data=part)
    yield pb.RestoreRequest(sha256=digest.hexdigest())
