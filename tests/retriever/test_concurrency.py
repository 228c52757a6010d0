"""Concurrent searches and changes."""

import asyncio
import threading
from collections.abc import Iterator, Sequence

import grpc
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_embedding import MiniLM
from pointsman_retriever.concurrency import RWLock, ThreadPool
from pointsman_retriever.domain import Vectors

from tests.retriever.client import Client, Refusal, Start


class PausingModel:
    """The real embedding model; `embed` waits until `go_on` is set if a text contains PAUSE."""

    def __init__(self, model: MiniLM) -> None:
        self.fingerprint, self.dimensions, self.tokenizer = model.fingerprint, model.dimensions, model.tokenizer
        self.max_tokens, self.query_prefix, self.passage_prefix = model.max_tokens, "", ""
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self._model = model

    def embed(self, texts: Sequence[str]) -> Vectors:
        if any("PAUSE" in text for text in texts):
            self.reached.set()
            assert self.go_on.wait(30)
        return self._model.embed(texts)


@pytest.fixture
def pausing(minilm: MiniLM) -> Iterator[PausingModel]:
    model = PausingModel(minilm)
    yield model
    model.go_on.set()


async def test_a_search_sees_a_document_before_or_after_its_replacement_never_a_mixture(client: Client) -> None:
    await client.upsert(pb.Document(id="one", text="Edition 1 of the ladder."))
    done = asyncio.Event()

    async def look() -> int:
        looked = 0
        while not done.is_set():
            answer = await client.search("edition of the ladder", top_k=10)
            assert [passage.text for passage in answer.passages] == [f"Edition {answer.version} of the ladder."]
            looked += 1
        return looked

    looking = [asyncio.create_task(look()) for _ in range(4)]
    for edition in range(2, 60):
        written = await client.upsert(pb.Document(id="one", text=f"Edition {edition} of the ladder."))
        assert written.version == edition
    done.set()
    assert sum(await asyncio.gather(*looking)) > 4


async def test_concurrent_changes_are_all_applied(client: Client) -> None:
    await asyncio.gather(
        *(client.upsert(pb.Document(id=f"caller-{n}", text=f"Left by caller {n}.")) for n in range(16))
    )
    collection = await client.collection()
    assert (collection.documents, collection.version) == (16, 16)


async def test_a_slow_upsert_does_not_delay_searches(start: Start, pausing: PausingModel) -> None:
    async with start(pausing) as client:
        await client.create()
        await client.upsert(pb.Document(id="quick", text="Quick."))
        slow = asyncio.create_task(client.upsert(pb.Document(id="slow", text="PAUSE")))
        await asyncio.to_thread(pausing.reached.wait, 30)
        assert await client.found("quick") == ["quick"]
        assert not slow.done()
        pausing.go_on.set()
        assert (await slow).version == 2


async def test_a_cancelled_search_is_abandoned(start: Start, pausing: PausingModel) -> None:
    async with start(pausing) as client:
        await client.create()
        call = client.stub.Search(pb.SearchRequest(collection="notes", query="PAUSE"))
        await asyncio.to_thread(pausing.reached.wait, 30)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await client.collection()  # sent after the cancellation on the same connection, which has therefore arrived
        pausing.go_on.set()
        await client.search("another")
        assert await client.metric('pointsman_retriever_search_duration_seconds_count{collection="notes"}') == 1.0


async def test_a_cancelled_upsert_writes_nothing(start: Start, pausing: PausingModel) -> None:
    async with start(pausing) as client:
        await client.create()
        call = client.stub.Upsert(
            pb.UpsertRequest(collection="notes", documents=[pb.Document(id="x", text="PAUSE here.")])
        )
        await asyncio.to_thread(pausing.reached.wait, 30)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await client.collection()  # sent after the cancellation on the same connection, which has therefore arrived
        pausing.go_on.set()
        assert (await client.upsert(pb.Document(id="y", text="After."))).version == 1


async def test_a_search_above_the_limit_is_refused_with_a_retry_time(
    start: Start, pausing: PausingModel, refusal: Refusal
) -> None:
    async with start(pausing, search_threads=1) as client:
        await client.create()
        calls = [asyncio.create_task(client.search("PAUSE")) for _ in range(257)]
        done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        (one,) = done
        error = await refusal(one)
        assert (error.grpc_status, error.code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded")
        assert error.retry_after == 1.0
        pausing.go_on.set()
        assert all(answer.version == 0 for answer in await asyncio.gather(*waiting))


async def test_an_upsert_fails_if_its_collection_is_deleted_while_it_is_encoded(
    start: Start, pausing: PausingModel, refusal: Refusal
) -> None:
    async with start(pausing) as client:
        await client.create()
        upsert = asyncio.create_task(client.upsert(pb.Document(id="x", text="PAUSE")))
        await asyncio.to_thread(pausing.reached.wait, 30)
        await client.stub.DeleteCollection(pb.DeleteCollectionRequest(name="notes"))
        await client.create()  # another collection of the same name
        pausing.go_on.set()
        assert (await refusal(upsert)).code == "unknown_collection"
        assert (await client.collection()).documents == 0


async def test_work_that_is_cancelled_before_it_starts_never_runs() -> None:
    workers, hold = ThreadPool("test", 1), threading.Event()
    done: list[str] = []
    first = asyncio.create_task(workers.run(hold.wait, 30))
    second = asyncio.create_task(workers.run(done.append, "second"))
    await asyncio.sleep(0)  # lets both be queued
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    hold.set()
    await first
    workers.close()
    assert done == []


def test_a_writer_waits_for_readers_and_goes_before_later_readers() -> None:
    lock, order = RWLock(), []
    writer_started = threading.Event()

    def write() -> None:
        writer_started.set()
        with lock.write():
            order.append("writer")

    def read_later() -> None:
        with lock.read():
            order.append("later reader")

    with lock.read():
        writer = threading.Thread(target=write)
        writer.start()
        writer_started.wait(30)
        while not lock._waiting_writers:
            pass
        later = threading.Thread(target=read_later)
        later.start()
        order.append("first reader")
    writer.join(30)
    later.join(30)
    assert order == ["first reader", "writer", "later reader"]
