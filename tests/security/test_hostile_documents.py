"""Splitting hostile documents takes linear time and delays no other request of the retriever."""

import asyncio
import time

import grpc
import pytest
from google.protobuf.text_format import Parse
from pointsman.v1 import retriever_pb2 as pb
from pointsman.v1 import retriever_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_errors import from_rpc_error

from tests.retriever.ingests import steps
from tests.security.target import Addresses

PATIENCE = 60.0


def hostile(size: int) -> str:
    """Returns Markdown that once took time quadratic in its size to split: 15 s of CPU for 192 kB."""
    part = size // 5
    return "#" * part + "`" * part + "|" * (2 * part) + "> " * (part // 2)


def upsert(name: str, text: str) -> pb.UpsertRequest:
    return pb.UpsertRequest(collection="handbook", documents=[pb.Document(id=name, text=text)])


async def test_a_hostile_document_takes_linear_time_and_delays_no_other(target: Addresses) -> None:
    async with open_channel(target.retriever, token=lambda: target.tokens["admin"]) as channel:
        stub = retriever_pb2_grpc.RetrieverStub(channel)
        await stub.Upsert(upsert("warm-up.md", "A dog."), timeout=PATIENCE)
        started = time.monotonic()
        attack = asyncio.create_task(_seconds(stub, upsert("hostile.md", hostile(48_000))))
        innocent = await _seconds(stub, upsert("innocent.md", "A folded bicycle is luggage. " * 1000))
        small = await attack
        large = await _seconds(stub, upsert("hostile.md", hostile(192_000)))
        print(f"hostile {small:.1f} s, four times as large {large:.1f} s, innocent {innocent:.1f} s")
        assert innocent < 10
        assert time.monotonic() - started < PATIENCE
        assert large < 8 * max(small, 1)  # four times the text: 16 times as long if it were quadratic
        await stub.Delete(pb.DeleteRequest(collection="handbook", ids=["hostile.md", "innocent.md", "warm-up.md"]))


async def test_a_file_with_too_many_bad_lines_is_not_read_to_its_end(target: Addresses) -> None:
    document = pb.Document(id="x", content=b"[\n" * 1_000_000, media_type="application/jsonl")
    async with open_channel(target.retriever, token=lambda: target.tokens["admin"]) as channel:
        stub = retriever_pb2_grpc.RetrieverStub(channel)
        answers = stub.Ingest(steps([document], collection="handbook"), timeout=PATIENCE)
        codes = [answer.outcome.code async for answer in answers if answer.HasField("outcome")]
    assert codes[-1] == "too_many_bad_lines"
    assert len(codes) < 10_000


async def test_a_filter_that_is_nested_too_deep_is_an_invalid_argument(target: Addresses) -> None:
    async with open_channel(target.retriever, token=lambda: target.tokens["admin"]) as channel:
        stub = retriever_pb2_grpc.RetrieverStub(channel)
        where = Parse("not { " * 90 + 'exists: "kind"' + " }" * 90, pb.Filter())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Search(pb.SearchRequest(collection="handbook", query="dog", where=where), timeout=PATIENCE)
    error = from_rpc_error(refused.value, "retriever")
    assert (error.grpc_status, error.code) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_filter")


async def _seconds(stub: retriever_pb2_grpc.RetrieverStub, request: pb.UpsertRequest) -> float:
    """Returns the seconds until the document is accepted, or rejected because splitting it exceeds a limit."""
    started = time.monotonic()
    await stub.Upsert(request, timeout=PATIENCE)
    return time.monotonic() - started
