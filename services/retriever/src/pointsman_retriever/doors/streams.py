"""The steps of the calls that take a stream, in the order in which they must come."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from pointsman.v1 import retriever_pb2 as pb
from pointsman_servicekit.errors import InvalidArgument

from pointsman_retriever.domain import IngestEnd, RawDocument
from pointsman_retriever.doors.messages import to_raw_document

DISCARD_SECONDS = 10.0


async def discard_requests(requests: AsyncIterator[Any]) -> None:
    """Reads on for a while what a client sends that is refused: cut off while it writes, it is not told why."""
    with suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            async for _ in requests:
                pass


async def read_ingest_begin(requests: AsyncIterator[pb.IngestRequest]) -> pb.IngestBegin:
    """Raises InvalidArgument."""
    async for request in requests:
        if request.HasField("begin"):
            return request.begin
        break
    raise _out_of_order("an ingest begins with `begin`")


async def read_ingest_steps(requests: AsyncIterator[pb.IngestRequest]) -> AsyncIterator[RawDocument | IngestEnd]:
    """What follows the beginning; raises InvalidArgument."""
    async for request in requests:
        if request.HasField("document"):
            yield to_raw_document(request.document)
        elif request.HasField("documents"):
            for document in request.documents.documents:
                yield to_raw_document(document)
        elif request.HasField("end"):
            yield IngestEnd(request.end.remove_missing)
            return
        else:
            raise _out_of_order("after `begin`, an ingest has `document`s, then `end`")


async def read_restore_begin(requests: AsyncIterator[pb.RestoreRequest]) -> pb.RestoreBegin:
    """Raises InvalidArgument."""
    async for request in requests:
        if request.HasField("begin"):
            return request.begin
        break
    raise _out_of_order("a restore begins with `begin`")


async def read_restore_steps(requests: AsyncIterator[pb.RestoreRequest]) -> AsyncIterator[bytes | str]:
    """The data, then their SHA-256; raises InvalidArgument."""
    async for request in requests:
        if request.HasField("data"):
            yield request.data
        elif request.HasField("sha256"):
            yield request.sha256
            return
        else:
            raise _out_of_order("after `begin`, a restore has `data`, then `sha256`")


def _out_of_order(what: str) -> InvalidArgument:
    return InvalidArgument(f"the stream's steps are out of order: {what}", code="steps_out_of_order", param="step")
