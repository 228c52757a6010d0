"""The gateway recognizes questions by the documents that a real retriever holds."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman.v1 import retriever_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.engine import ScriptedEngine, answer
from tests.gateway.doubles.gateway import Neighbours, open_http_client
from tests.gateway.doubles.library import COLLECTION, DOCUMENTS, OF_NO_TASK, ON_VOLCANOES, VOLCANOES, write_library
from tests.gateway.doubles.process_retriever import ProcessRetriever
from tests.gateway.doubles.waiting import found


@pytest.fixture
async def library(tmp_path: Path, model_folder: Path, neighbours: Neighbours) -> AsyncIterator[ProcessRetriever]:
    """Runs a retriever with documents on four subjects, and configures a task that answers from them."""
    write_library(neighbours.config)
    neighbours.settings["freshness_seconds"] = 0.05
    retriever = ProcessRetriever(tmp_path, model_folder)
    neighbours.retriever.address = retriever.address
    await neighbours.ready()
    try:
        await retriever.start()
        async with open_channel(retriever.address) as channel:
            stub = retriever_pb2_grpc.RetrieverStub(channel)
            await stub.CreateCollection(pb.CreateCollectionRequest(name=COLLECTION))
        await add(retriever, DOCUMENTS)
        yield retriever
    finally:
        await retriever.kill()


async def add(retriever: ProcessRetriever, texts: dict[str, str]) -> None:
    documents = [pb.Document(id=name, text=text) for name, text in texts.items()]
    async with open_channel(retriever.address) as channel:
        await retriever_pb2_grpc.RetrieverStub(channel).Upsert(
            pb.UpsertRequest(collection=COLLECTION, documents=documents)
        )


async def delete(retriever: ProcessRetriever, name: str) -> None:
    async with open_channel(retriever.address) as channel:
        await retriever_pb2_grpc.RetrieverStub(channel).Delete(pb.DeleteRequest(collection=COLLECTION, ids=[name]))


async def decided(http: httpx.AsyncClient, text: str = ON_VOLCANOES) -> dict[str, Any]:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    decision: dict[str, Any] = (await http.post("/v1/route", json=body)).json()
    return decision


async def compared(http: httpx.AsyncClient, task: str) -> dict[str, Any] | None:
    """Returns the decision on a question if it was compared with documents and has this task."""
    decision = await decided(http)
    return decision if decision["task"] == task and notes_of(decision) else None


def notes_of(decision: dict[str, Any]) -> list[str]:
    return [note for note in decision["notes"] if note.startswith("documents: ")]


async def test_a_question_is_recognized_once_the_collection_has_a_document_on_its_subject(
    library: ProcessRetriever, neighbours: Neighbours, engine: ScriptedEngine
) -> None:
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        before = await found(partial(compared, http, "unknown"))
        assert before["reason"] == "abstained"
        assert notes_of(before)[0].startswith(f"documents: is not like {COLLECTION}@")

        await add(library, {"volcanoes": VOLCANOES})
        after = await found(partial(compared, http, "library"))
        assert (after["path"], after["stage"]) == ("handbook", "encoder")
        assert notes_of(after)[0].startswith(f"documents: is like {COLLECTION}@")
        other = await decided(http, OF_NO_TASK)
        assert (other["task"], notes_of(other)[0][:25]) == ("unknown", "documents: is not like ha")

        engine.says(*answer("4,800 kilometres"))
        chat = {"model": "auto", "messages": [{"role": "user", "content": ON_VOLCANOES}]}
        answered = await http.post("/v1/chat/completions", json=chat)
        assert answered.headers["x-pointsman-path"] == "handbook"
        assert "Krakatoa" in str(engine.bodies[-1]["messages"][0]["content"])  # the passage

        await delete(library, "volcanoes")
        assert notes_of(await found(partial(compared, http, "unknown"))) == notes_of(before)


async def test_no_request_waits_for_the_retriever_and_the_last_sketch_stays_while_it_is_away(
    library: ProcessRetriever, neighbours: Neighbours
) -> None:
    await add(library, {"volcanoes": VOLCANOES})
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        known = await found(partial(compared, http, "library"))
        library.hang()
        async with asyncio.timeout(20):  # a call of the retriever would take 30 seconds
            decisions = [await decided(http) for _ in range(3)]
        library.go_on()
        await library.kill()
        decisions.append(await decided(http))
        assert [(one["task"], notes_of(one)) for one in decisions] == [("library", notes_of(known))] * 4

    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:  # it starts without the retriever
        decision = await decided(http)
        assert (decision["task"], notes_of(decision)) == ("unknown", [])
        await library.start()
        again = await found(partial(compared, http, "library"), within=60)
        assert notes_of(again) == notes_of(known)
